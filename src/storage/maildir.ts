// Delivery into Maildirs of the server's user: tmp/ → write → fsync → rename to new/ → fsync of new/ (maildir(5)).
// Promises: nothing shows before it is stable, a resolved commit is stable, a failed one leaves no file. Never makes a
// folder outside the route's root, nor the root. The hot path: small calls are synchronous, only fsyncs go to the pool
// (all asynchronous: 20-35 % slower); no stat of a known Maildir; one copy a file system, hard links for the rest.
import { closeSync, constants, existsSync, linkSync, mkdirSync, openSync } from 'node:fs';
import { renameSync, unlinkSync, writevSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { CannotTell, type Log, type Message, type Prepared, type Route, type Storage } from '../mail.ts';
import { type Clock, type Random, uniqueName } from '../system.ts';
import { errorCode, failure, FolderSync, syncAndClose } from './stable.ts';

type MaildirRoute = Extract<Route, { kind: 'maildir' }>;
type Copy = { readonly route: MaildirRoute; readonly temporary: string; readonly final: string };
type Unsynced = { readonly fd: number; readonly path: string };

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
/** Maildirs remembered as made (about 200 octets each); beyond, all are forgotten and looked at once more. */
const MAX_KNOWN = 10_000;

/** The Storage for `maildir` routes. */
export class MaildirStorage implements Storage {
  readonly #system: { readonly clock: Clock; readonly random: Random; readonly log: Log };
  readonly #folders = new FolderSync();
  /** Maildirs whose folders are made and synced, or about to be: a delivery waits for that, whoever made them. */
  readonly #known = new Map<string, Promise<void>>();

  constructor(system: { readonly clock: Clock; readonly random: Random; readonly log: Log }) {
    this.#system = system;
  }

  async prepare(routes: readonly Route[], message: Message): Promise<Prepared> {
    const copies: Copy[] = [];
    const originals: string[] = [];
    const unsynced: Unsynced[] = [];
    try {
      for (const route of routes) {
        if (route.kind !== 'maildir') throw new CannotTell(`the Maildir storage has no ${route.kind} routes`);
        const name = uniqueName(this.#system.clock, this.#system.random);
        const path = `${route.path}/tmp/${name}`;
        copies.push({ route, temporary: path, final: `${route.path}/new/${name}` });
        await this.#inMaildir(route, async () => {
          // Enough for four file systems; where links cannot be made at all, no thousand attempts a recipient.
          if (originals.slice(-4).some(original => isLinked(original, path))) return;
          await write(message, path, unsynced);
          originals.push(path);
        });
      }
      await Promise.all(unsynced.splice(0).map(({ fd, path }) => syncAndClose(fd, path)));
    } catch (error) {
      for (const { fd } of unsynced) closeSync(fd);
      removeAll(copies);
      throw error;
    }
    return { commit: () => this.#commit(copies), abort: async () => removeAll(copies) };
  }

  async #commit(copies: readonly Copy[]): Promise<void> {
    try {
      for (const { route, temporary, final } of copies) {
        await this.#inMaildir(route, () => renameSync(temporary, final));
      }
      await Promise.all(copies.map(({ route }) => this.#folders.sync(`${route.path}/new`)));
    } catch (error) {
      removeAll(copies);
      throw error;
    }
  }

  /** Carries out a step in a Maildir that is made first if need be, and again when someone has removed it since. */
  async #inMaildir(route: MaildirRoute, step: () => void | Promise<void>): Promise<void> {
    for (const isLast of [false, true]) {
      try {
        await this.#made(route);
        return await step();
      } catch (error) {
        if (isLast || errorCode(error) !== 'ENOENT') throw failure(route.path, error);
        this.#known.delete(route.path);
      }
    }
  }

  #made(route: MaildirRoute): Promise<void> {
    const known = this.#known.get(route.path);
    if (known !== undefined) return known;
    if (this.#known.size >= MAX_KNOWN) this.#known.clear();
    const made = this.#make(route);
    this.#known.set(route.path, made);
    made.catch(() => this.#known.delete(route.path));
    return made;
  }

  /** Makes what is missing, and syncs every parent up to the root: who made one may have died before syncing it. */
  async #make({ root, path }: MaildirRoute): Promise<void> {
    if (resolve(path) !== path || resolve(root) !== root || !`${path}/`.startsWith(`${root}/`)) {
      throw new CannotTell(`the Maildir ${path} is not below ${root}: nothing is delivered there`);
    }
    if (!existsSync(root)) {
      this.#system.log.error({ root, maildir: path }, 'mail folder is gone; it is only made at start');
      throw new CannotTell(`the mail folder ${root} is gone: mount it, or restart to have it made`);
    }
    for (const name of ['new', 'cur', 'tmp']) mkdirSync(`${path}/${name}`, { recursive: true, mode: 0o700 });
    const parents = [path];
    for (let folder = path; folder !== root; parents.push(folder)) folder = dirname(folder);
    await Promise.all(parents.map(folder => this.#folders.sync(folder)));
  }
}

/** A link costs a fifth of a copy. Why there can be none does not matter: writing meets the same trouble, or succeeds. */
function isLinked(original: string, path: string): boolean {
  try {
    linkSync(original, path);
    return true;
  } catch {
    return false;
  }
}

async function write(message: Message, path: string, unsynced: Unsynced[]): Promise<void> {
  if (message.kind === 'file') {
    if (!isLinked(message.path, path)) await copyFile(message.path, path, constants.COPYFILE_EXCL);
    unsynced.push({ fd: openSync(path, O_RDONLY | O_NOFOLLOW), path });
    return;
  }
  const fd = openSync(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600);
  unsynced.push({ fd, path });
  const written = writevSync(fd, message.parts);
  // A regular file takes less than it is given only when the disk is full.
  if (written !== message.sizeBytes) throw Object.assign(new Error(`${written} octets written`), { code: 'ENOSPC' });
}

/** Never throws. What cannot be removed from tmp/ goes with the sweep. */
function removeAll(copies: readonly Copy[]): void {
  for (const path of copies.flatMap(({ temporary, final }) => [temporary, final])) {
    try {
      unlinkSync(path);
    } catch {}
  }
}
