// Delivery into Maildirs of the server's user (maildir(5)): a copy is written to tmp/, made stable, and renamed into
// new/.
// Promises:
// - Nothing shows in new/ before it is stable. What commit() has resolved for is stable; a commit that fails leaves no
//   file.
// - No folder is made outside the root of a route, and never the root itself.
// Small messages are made stable by the journal, before their files are. The files of large messages are synced, and so
// are all files where the journal has trouble; then new/ is synced, too, after the rename.
// This is the hot path. Small calls are synchronous, and only fsyncs go to the thread pool (with all calls asynchronous
// it was 20 to 35 % slower). A Maildir that is known is not looked at again. Copies that are alike, on one file system,
// are one file: the first copy is written, and the others are hard links to it, made in new/ when it is committed.
import { closeSync, constants, existsSync, mkdirSync, openSync, renameSync, statSync } from 'node:fs';
import { copyFile, unlink } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { CannotTell, type Journal, type JournalRecord, type Prepared, type Storage } from '../mail/ports.ts';
import { type Copy, type Message, withHead } from '../mail/message.ts';
import type { Octets } from '../mail/octets.ts';
import { uniqueName } from '../system/names.ts';
import type { World } from '../system/world.ts';
import { copyWithHead } from '../durable/copy.ts';
import { FolderSync } from '../durable/folder-sync.ts';
import { create, sync } from '../durable/sync.ts';
import { isLinked, linkOrCopy } from '../durable/link.ts';

/** A copy on its way. `original`: the file that it becomes a hard link to, which has the same head. */
type File = Record<'maildir' | 'temporary' | 'final' | 'head', string> & {
  fileSystem: number;
  original?: File | undefined;
};
type Unsynced = { readonly fd: number; readonly path: string; readonly head: string };

/** What it rejects with is CannotTell, or the error of the system call that failed. */
export class MaildirStorage implements Storage {
  readonly #world: World;
  readonly #folders = new FolderSync();
  /**
   * Maildirs whose folders are made and synced, or will be soon, and their file systems. Whichever delivery began that,
   * all wait for it.
   */
  readonly #known = new Map<string, Promise<number>>();
  /**
   * File systems where a hard link could not be made. There each copy is written to tmp/, so that trouble shows before
   * anything is delivered.
   */
  readonly #linkless = new Set<number>();
  #journal: Journal | undefined;

  constructor(world: World) {
    this.#world = world;
  }

  /** Small messages are made stable by that journal from now on. */
  use(journal: Journal | undefined): void {
    this.#journal = journal;
  }

  async prepare(copies: readonly Copy[], message: Message): Promise<Prepared> {
    const files: File[] = [];
    const unsynced: Unsynced[] = [];
    let release: (() => void) | undefined;
    try {
      for (const copy of copies) {
        if (copy.kind !== 'maildir') throw new CannotTell(`the Maildir storage has no ${copy.kind} routes`);
        const { path: maildir, root, head = '' } = copy;
        const name = uniqueName(this.#world.clock, this.#world.random);
        const path = `${maildir}/tmp/${name}`;
        const file: File = { maildir, temporary: path, final: `${maildir}/new/${name}`, head, fileSystem: 0 };
        files.push(file);
        file.fileSystem = await this.#made(maildir, root);
        const original = files.find(other => other.fileSystem === file.fileSystem && other.head === head);
        if (original !== file && !this.#linkless.has(file.fileSystem)) file.original = original;
        // Only the last few files are tried: where links cannot be made at all, a thousand recipients must not cost a
        // million attempts.
        else if (!unsynced.slice(-4).some(other => other.head === head && isLinked(other.path, path)))
          unsynced.push({ fd: await write(message, head, path), path, head });
      }
      // What the journal does not take is synced like a large message.
      if (message.kind === 'memory')
        release = await this.#journal?.append(recordsOf(files, message.octets)).catch(() => undefined);
      const written = unsynced.splice(0);
      if (release) for (const { fd } of written) closeSync(fd);
      else await Promise.all(written.map(({ fd, path }) => sync(path, fd)));
    } catch (error) {
      for (const { fd } of unsynced) closeSync(fd);
      await this.#remove(files, false);
      throw error;
    }
    const isInJournal = release !== undefined;
    return {
      commit: () => this.#commit(files, isInJournal).finally(release),
      abort: () => this.#remove(files, isInJournal).finally(release),
    };
  }

  /** Tells the journal that there is no such mail: else it would make these files after a crash. Never rejects. */
  async #forget(files: readonly File[]): Promise<void> {
    const marks = files.map(({ final }) => ({ final, temporary: '' }));
    const release = await this.#journal?.append([{ files: marks, parts: [] }]).catch(() => undefined);
    release?.();
  }

  async #commit(files: readonly File[], isInJournal: boolean): Promise<void> {
    try {
      // The originals come last: as soon as a file is in new/, a reader may take it away, and it could not be linked to
      // any more.
      for (const { original, ...file } of files)
        if (original && !isLinked(original.temporary, file.final)) await this.#copy(original, file);
      for (const { original, temporary, final } of files) if (!original) renameSync(temporary, final);
      if (!isInJournal)
        await Promise.all(files.map(({ maildir, fileSystem }) => this.#folders.sync(`${maildir}/new`, fileSystem)));
    } catch (error) {
      await this.#remove(files, isInJournal);
      throw error;
    }
  }

  async #copy(original: File, { temporary, final, fileSystem }: Omit<File, 'original'>): Promise<void> {
    this.#linkless.add(fileSystem);
    await copyFile(original.temporary, temporary, constants.COPYFILE_EXCL);
    await sync(temporary);
    renameSync(temporary, final);
  }

  /**
   * Never rejects: what cannot be removed now is swept later. The folders may be what was wrong, so the next delivery
   * makes them anew.
   */
  async #remove(files: readonly File[], isInJournal: boolean): Promise<void> {
    for (const { maildir } of files) this.#known.delete(maildir);
    await Promise.allSettled(files.flatMap(({ temporary, final }) => [unlink(temporary), unlink(final)]));
    if (isInJournal) await this.#forget(files);
  }

  #made(maildir: string, root: string): Promise<number> {
    if (this.#known.size > 10_000) this.#known.clear(); // these were about 2 MB; each Maildir is looked at once more
    const made = this.#known.get(maildir) ?? this.#make(maildir, root);
    this.#known.set(maildir, made);
    return made;
  }

  /**
   * Makes the folders that are missing, and syncs all of them up to the root: an earlier server may have made one and
   * died before syncing it.
   */
  async #make(maildir: string, root: string): Promise<number> {
    if (resolve(maildir) !== maildir || !`${maildir}/`.startsWith(`${root}/`))
      throw new CannotTell(`the Maildir ${maildir} is not below ${root}: nothing is delivered there`);
    if (!existsSync(root)) {
      this.#world.log.error({ root, maildir }, 'mail folder is gone; it is only made at start');
      throw new CannotTell(`the mail folder ${root} is gone: mount it, or restart to have it made`);
    }
    for (const name of ['new', 'cur', 'tmp']) mkdirSync(`${maildir}/${name}`, { recursive: true, mode: 0o700 });
    // A subfolder by Maildir++ has an empty file that says so.
    if (basename(maildir).startsWith('.')) closeSync(openSync(`${maildir}/maildirfolder`, 'a', 0o600));
    for (let folder = maildir; folder.length >= root.length; folder = dirname(folder)) await this.#folders.sync(folder);
    return statSync(maildir).dev;
  }
}

/** One record for each head: all files with that head have the same content. */
function recordsOf(files: readonly File[], octets: Octets): readonly JournalRecord[] {
  const [first, ...others] = files;
  if (first && others.length === 0) return [{ files, parts: withHead(octets, first.head).pieces }];
  const groups = Map.groupBy(files, ({ head }) => head);
  return [...groups].map(([head, group]) => ({ files: group, parts: withHead(octets, head).pieces }));
}

/** Writes a copy, and gives its descriptor. */
async function write(message: Message, head: string, path: string): Promise<number> {
  if (message.kind === 'memory') return create(path, withHead(message.octets, head).pieces);
  if (head !== '') await copyWithHead(head, message, path);
  else await linkOrCopy(message.path, path);
  return openSync(path, 'r');
}
