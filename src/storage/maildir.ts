// Delivery into Maildirs of the server's user (maildir(5)): tmp/ → write → stable → rename to new/. The journal makes small
// messages stable; the files of large ones, and of all where it has trouble, are synced, and new/ after the rename.
// Promises: nothing shows before it is stable, a resolved commit is stable, a failed one leaves no file. Never makes a
// folder outside the route's root, nor the root. The hot path: small calls are synchronous, only fsyncs go to the pool
// (all asynchronous: 20-35 % slower); no stat of a known Maildir; one file for each file system and head, and hard links into
// new/ for the other copies.
import { closeSync, constants, existsSync, mkdirSync, openSync, renameSync, statSync } from 'node:fs';
import { copyFile, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { CannotTell, type Journal, type JournalRecord, type Prepared, type Storage } from '../mail/ports.ts';
import { type Copy, type Message, withHead } from '../mail/message.ts';
import type { Octets } from '../mail/octets.ts';
import { uniqueName } from '../system/names.ts';
import { copyBehind } from '../durable/copy.ts';
import { FolderSync } from '../durable/folder-sync.ts';
import { create, sync } from '../durable/sync.ts';
import type { System } from '../durable/journal.ts';
import { isLinked, linkOrCopy } from '../durable/link.ts';

/** `original`: what it is to be a link to, a file with the same head. */
type File = Record<'maildir' | 'temporary' | 'final' | 'head', string> & {
  fileSystem: number;
  original?: File | undefined;
};
type Unsynced = { readonly fd: number; readonly path: string; readonly head: string };

/** Rejects with CannotTell, or with the error of the system call that failed. */
export class MaildirStorage implements Storage {
  readonly #system: System;
  readonly #folders = new FolderSync();
  /** Maildirs whose folders are made and synced, or about to be, and their file system: a delivery waits for that, whoever made them. */
  readonly #known = new Map<string, Promise<number>>();
  /** File systems where a link could not be made: there copies are made ready in tmp/, so that trouble shows before anything is delivered. */
  readonly #linkless = new Set<number>();
  #journal: Journal | undefined;

  constructor(system: System) {
    this.#system = system;
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
        const name = uniqueName(this.#system.clock, this.#system.random);
        const path = `${maildir}/tmp/${name}`;
        const file: File = { maildir, temporary: path, final: `${maildir}/new/${name}`, head, fileSystem: 0 };
        files.push(file);
        file.fileSystem = await this.#made(maildir, root);
        const original = files.find(other => other.fileSystem === file.fileSystem && other.head === head);
        if (original !== file && !this.#linkless.has(file.fileSystem)) file.original = original;
        // Where links cannot be made at all, no thousand attempts a recipient.
        else if (!unsynced.slice(-4).some(other => other.head === head && isLinked(other.path, path)))
          unsynced.push({ fd: await write(message, head, path), path, head });
      }
      // Where the journal does not take it, it is synced as a large message is.
      if (message.kind === 'memory')
        release = await this.#journal?.append(recordsOf(files, message.octets)).catch(() => undefined);
      const written = unsynced.splice(0);
      if (release) for (const { fd } of written) closeSync(fd);
      else await Promise.all(written.map(({ fd, path }) => sync(path, fd)));
    } catch (error) {
      for (const { fd } of unsynced) closeSync(fd);
      await this.#remove(files);
      throw error;
    }
    return {
      commit: () => this.#commit(files, release !== undefined).finally(release),
      abort: () => this.#remove(files).finally(release),
    };
  }

  async #commit(files: readonly File[], isStable: boolean): Promise<void> {
    try {
      // The originals last: a reader may take away at once what is in new/.
      for (const { original, ...file } of files)
        if (original && !isLinked(original.temporary, file.final)) await this.#copy(original, file);
      for (const { original, temporary, final } of files) if (!original) renameSync(temporary, final);
      if (!isStable)
        await Promise.all(files.map(({ maildir, fileSystem }) => this.#folders.sync(`${maildir}/new`, fileSystem)));
    } catch (error) {
      await this.#remove(files);
      throw error;
    }
  }

  async #copy(original: File, { temporary, final, fileSystem }: Omit<File, 'original'>): Promise<void> {
    this.#linkless.add(fileSystem);
    await copyFile(original.temporary, temporary, constants.COPYFILE_EXCL);
    await sync(temporary);
    renameSync(temporary, final);
  }

  /** Never rejects: what cannot be removed goes with the sweep. The folders are made anew next time, if it was them. */
  async #remove(files: readonly File[]): Promise<void> {
    for (const { maildir } of files) this.#known.delete(maildir);
    await Promise.allSettled(files.flatMap(({ temporary, final }) => [unlink(temporary), unlink(final)]));
  }

  #made(maildir: string, root: string): Promise<number> {
    if (this.#known.size > 10_000) this.#known.clear(); // about 2 MB: all are looked at once more
    const made = this.#known.get(maildir) ?? this.#make(maildir, root);
    this.#known.set(maildir, made);
    return made;
  }

  /** Makes what is missing, and syncs every parent up to the root: who made one may have died before syncing it. */
  async #make(maildir: string, root: string): Promise<number> {
    if (resolve(maildir) !== maildir || !`${maildir}/`.startsWith(`${root}/`))
      throw new CannotTell(`the Maildir ${maildir} is not below ${root}: nothing is delivered there`);
    if (!existsSync(root)) {
      this.#system.log.error({ root, maildir }, 'mail folder is gone; it is only made at start');
      throw new CannotTell(`the mail folder ${root} is gone: mount it, or restart to have it made`);
    }
    for (const name of ['new', 'cur', 'tmp']) mkdirSync(`${maildir}/${name}`, { recursive: true, mode: 0o700 });
    for (let folder = maildir; folder.length >= root.length; folder = dirname(folder)) await this.#folders.sync(folder);
    return statSync(maildir).dev;
  }
}

/** A record for each head: the files that hold it are alike. */
function recordsOf(files: readonly File[], octets: Octets): readonly JournalRecord[] {
  const groups = Map.groupBy(files, ({ head }) => head);
  return [...groups].map(([head, group]) => ({ files: group, parts: withHead(octets, head).pieces }));
}

/** Writes a copy, and gives its descriptor. */
async function write(message: Message, head: string, path: string): Promise<number> {
  if (message.kind === 'memory') return create(path, withHead(message.octets, head).pieces);
  if (head !== '') await copyBehind(head, message.path, path);
  else await linkOrCopy(message.path, path);
  return openSync(path, 'r');
}
