// Writes mail into the homes of Unix accounts, as root, from a spool file of the network process. See maildir(5).
// How it goes: an account may arrange its home as it likes, also while mail is put there, so no path in it is trusted.
// Every folder on the way is opened without following links, must belong to the account, and stays open; what is in it
// is named through its descriptor, /proc/self/fd/N/name, which is Node's way to openat(2). Then the copies are written
// into tmp/ and synced (prepare), and renamed into new/ or removed (commit, abort), all by those descriptors.
// Promises: a folder that is swapped for a link at any moment changes nothing. A deposit that fails leaves no copy.
// Never changes its own uid, which is the whole process's and would hit other calls; never links a file of one owner to
// another.
import fs, { constants } from 'node:fs';
import { basename } from 'node:path';
import { promisify } from 'node:util';
import type { Account, Prepared } from '../mail/ports.ts';
import { uniqueName } from '../system/names.ts';
import type { Clock, Random } from '../system/world.ts';

/** A Maildir of an account; `folder` is below its home. */
export type AccountFolder = { readonly account: Account; readonly folder: string };
/** `spoolUid`: whose the spool files must be, the network process's uid. */
type DepositOptions = Readonly<{ spoolFolder: string; spoolUid: number; clock: Clock; random: Random }>;
type Copy = Readonly<{ tmp: number; fresh: number; file: number; name: string }>;

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_WRONLY } = constants;
const fsync = promisify(fs.fsync);
const writeFile = promisify(fs.writeFile);
const chunkBytes = 262_144;
const staleMs = 36 * 3_600_000;

/** A copy for each folder, written and synced in its tmp/; rejects having left none. `spool` is a checked name. */
export async function deposit(
  options: DepositOptions,
  spool: string,
  folders: readonly AccountFolder[],
): Promise<Prepared> {
  const opened: number[] = [];
  const copies: Copy[] = [];
  const changed = new Set<number>();

  function open(path: string, flags: number): number {
    const fd = fs.openSync(path, flags | O_NOFOLLOW, 0o600);
    opened.push(fd);
    return fd;
  }

  /** Opens a folder of the account's; below the home (in `parent`) it is made where missing. */
  function enter({ name, uid, gid }: Account, path: string, parent?: number): number {
    if (parent !== undefined && !fs.lstatSync(path, { throwIfNoEntry: false })) fs.mkdirSync(path, 0o700);
    const folder = open(path, O_DIRECTORY);
    const owner = fs.fstatSync(folder).uid;
    if (owner === uid) return folder;
    // An empty folder of root's was made just now, or before a crash. If the account has put another empty folder of
    // root's in its place, it gains nothing: it could as well have removed that folder.
    if (parent === undefined || owner !== process.geteuid?.() || fs.readdirSync(within(folder)).length > 0)
      throw new Error(`a folder on the way to the mail of ${name} belongs to uid ${owner}: chown it to ${uid}`);
    fs.fchownSync(folder, uid, gid);
    changed.add(folder).add(parent);
    return folder;
  }

  /** A subfolder by Maildir++ has an empty file that says so. */
  function mark({ uid, gid }: Account, maildir: number): void {
    const path = within(maildir, 'maildirfolder');
    if (fs.lstatSync(path, { throwIfNoEntry: false })) return;
    fs.fchownSync(open(path, O_WRONLY | O_CREAT | O_EXCL), uid, gid);
    changed.add(maildir);
  }

  const close = (): void => opened.splice(0).forEach(fd => fs.closeSync(fd));
  function discard(): void {
    for (const { tmp, fresh, name } of copies) for (const folder of [tmp, fresh]) remove(within(folder, name));
    close();
  }

  try {
    const source = open(`${options.spoolFolder}/${spool}`, O_NONBLOCK);
    const found = fs.fstatSync(source);
    if (!found.isFile() || found.uid !== options.spoolUid || found.nlink !== 1)
      throw new Error(`spool file ${spool} is refused: it must be a plain file of the server's user with one name`);
    for (const { account, folder } of folders) {
      let maildir = enter(account, account.home);
      for (const part of folder.split('/').filter(Boolean)) maildir = enter(account, within(maildir, part), maildir);
      if (basename(folder).startsWith('.')) mark(account, maildir);
      const [tmp = 0, fresh = 0] = ['tmp', 'new', 'cur'].map(part => enter(account, within(maildir, part), maildir));
      sweep(tmp, options.clock.now() - staleMs);
      const name = uniqueName(options.clock, options.random);
      const file = open(within(tmp, name), O_WRONLY | O_CREAT | O_EXCL);
      copies.push({ tmp, fresh, file, name });
      // Before the content is written, so that it counts for the account's quota from the first octet.
      fs.fchownSync(file, account.uid, account.gid);
    }
    await fill(copies, source, found.size);
    await all([...copies.map(({ file }) => file), ...changed], fd => fsync(fd));
  } catch (error) {
    discard();
    throw error;
  }

  return {
    async commit() {
      try {
        for (const { tmp, fresh, name } of copies) fs.renameSync(within(tmp, name), within(fresh, name));
        await all(copies, ({ fresh }) => fsync(fresh));
        close();
      } catch (error) {
        discard();
        throw error;
      }
    },
    abort: async () => discard(),
  };
}

const within = (folder: number, name = ''): string => `/proc/self/fd/${folder}/${name}`;

/** Copies by bounded pieces, each read once for all files. */
async function fill(copies: readonly Copy[], source: number, size: number): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(size, chunkBytes));
  for (let position = 0; position < size;) {
    const length = fs.readSync(source, buffer, 0, Math.min(buffer.length, size - position), position);
    if (length === 0) throw new Error('the spool file became shorter while it was read');
    await all(copies, ({ file }) => writeFile(file, buffer.subarray(0, length)));
    position += length;
  }
}

/**
 * Waits for all calls, also when one has failed: a descriptor must not be closed, and its number used again, under a
 * running call.
 */
async function all<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const failed = (await Promise.allSettled(items.map(work))).find(result => result.status === 'rejected');
  if (failed) throw failed.reason;
}

function remove(path: string): void {
  try {
    fs.unlinkSync(path);
  } catch {} // it is not there, or the account has moved it: then it is not ours to remove
}

/** Removes what a crash of ours left in tmp/ (maildir(5)), by its name: nothing else in a home is ours to remove. */
function sweep(tmp: number, before: number): void {
  const folder = fs.opendirSync(within(tmp));
  // Only a hundred at a time: the account may have put millions there.
  for (let left = 100, entry = folder.readSync(); left > 0 && entry; left -= 1, entry = folder.readSync()) {
    const [, seconds] = /^(\d+)\.M\d+P\d+Q\d+R[0-9a-f]{8}\./.exec(entry.name) ?? [];
    if (Number(seconds) * 1000 < before) remove(within(tmp, entry.name));
  }
  folder.closeSync();
}
