// What makes files and folders stable. Never tries a failed fsync again as if all were well: the kernel may have
// dropped the pages, and the next one succeeds without them ('fsyncgate').
import { closeSync, fdatasync, fsync, openSync, unlinkSync, writevSync } from 'node:fs';
import { constants } from 'node:os';
import { promisify } from 'node:util';

type Folders = Map<string, Promise<void>>;
/** `spoiled`: those that have failed with the turn before, without an fsync of their own. */
type Turn = Readonly<{
  folders: Folders;
  spoiled: ReadonlySet<string>;
  ended: Promise<PromiseSettledResult<void>[]>;
  next: Folders;
}>;

/**
 * Fsyncs of folders, by turns on each file system: who comes during one waits for the next, together with all others.
 * With turns of their own, ten folders that 20 sessions delivered to at once cost 9 fsyncs a message: nobody shared.
 */
export class FolderSync {
  readonly #turns = new Map<number, Turn>();

  /** Resolves after an fsync of the folder that began after this call. `fileSystem`: any number, the same for its neighbours. */
  sync(folder: string, fileSystem = 0): Promise<void> {
    const turn = this.#turns.get(fileSystem) ?? this.#begin(fileSystem, new Map(), new Set());
    const waiting = turn.next.get(folder);
    if (waiting) return waiting;
    // It fails with the turn before: what its deliveries renamed may have been on the pages that are lost.
    const before = turn.spoiled.has(folder) ? undefined : turn.folders.get(folder);
    const synced = turn.ended.then(() => before).then(() => sync(folder));
    turn.next.set(folder, synced);
    return synced;
  }

  #begin(fileSystem: number, folders: Folders, spoiled: ReadonlySet<string>): Turn {
    const ended = Promise.allSettled(folders.values());
    const turn: Turn = { folders, spoiled, ended, next: new Map() };
    this.#turns.set(fileSystem, turn);
    void this.#follow(fileSystem, turn);
    return turn;
  }

  async #follow(fileSystem: number, { folders, spoiled, ended, next }: Turn): Promise<void> {
    const results = await ended;
    if (next.size === 0) return void this.#turns.delete(fileSystem);
    const failed = [...folders.keys()].filter((name, at) => results[at]?.status === 'rejected' && !spoiled.has(name));
    this.#begin(fileSystem, next, new Set(failed));
  }
}

/** Fsyncs and closes an open file, or a folder opened afresh: what it names now is to be stable, not one moved away. */
export function sync(path: string, open?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const fd = open ?? openSync(path, 'r');
    fsync(fd, error => {
      closeSync(fd);
      if (error === null) resolve();
      else reject(Object.assign(error, { message: `${error.message} '${path}'` }));
    });
  });
}

/** Syncs what was written to an open file until now; it stays open. */
export const datasync = promisify(fdatasync);

/** In octets. */
export const sizeOf = (parts: readonly Buffer[]): number => parts.reduce((sum, part) => sum + part.length, 0);

/** Makes a file with that content and gives its descriptor, for sync(); where that fails it leaves none. Never replaces one. */
export function create(path: string, parts: readonly Buffer[]): number {
  const fd = openSync(path, 'wx', 0o600);
  try {
    // A regular file takes less than it is given only when the disk is full.
    if (writevSync(fd, parts) !== sizeOf(parts))
      throw Object.assign(new Error(`no space for '${path}'`), { code: 'ENOSPC' });
    return fd;
  } catch (error) {
    closeSync(fd);
    unlinkSync(path);
    throw error;
  }
}

/** The enhanced status code for a file that could not be written: full, or anything else (RFC 3463 §3.4). */
export function statusOf(error: unknown): '4.3.1' | '4.3.0' {
  const { code, errno } = error as NodeJS.ErrnoException;
  // libuv has no name for a quota that is used up, so Node's `code` is none either.
  return code === 'ENOSPC' || errno === -constants.errno.EDQUOT ? '4.3.1' : '4.3.0';
}
