// What makes a file or a folder stable, and what a failure of it becomes: a CannotTell (4xx; RFC 3463 X.3.1 when full),
// so that nothing bounces. An fsync that failed is never tried again as if all were well: the kernel may have dropped
// the pages, and the next one succeeds without them ('fsyncgate').
import { closeSync, constants, fsync, openSync } from 'node:fs';
import { CannotTell } from '../mail.ts';

/** Fsyncs of folders, shared by the deliveries that wait for the same folder. */
export class FolderSync {
  /** The folders under way, each with those who came since: they get the next round. */
  readonly #next = new Map<string, PromiseWithResolvers<void>[]>();

  /** Resolves after an fsync of the folder that began after this call; rejects with CannotTell. */
  sync(folder: string): Promise<void> {
    const waiter = Promise.withResolvers<void>();
    const next = this.#next.get(folder);
    if (next === undefined) void this.#round(folder, [waiter]);
    else next.push(waiter);
    return waiter.promise;
  }

  async #round(folder: string, served: readonly PromiseWithResolvers<void>[]): Promise<void> {
    const next: PromiseWithResolvers<void>[] = [];
    this.#next.set(folder, next);
    try {
      // Opened afresh each time: what the path names now is to be stable, not a folder that was moved away.
      await syncAndClose(openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY), folder);
      for (const { resolve } of served) resolve();
      if (next.length > 0) void this.#round(folder, next);
      else this.#next.delete(folder);
    } catch (error) {
      this.#next.delete(folder);
      // The next round fails with this one: what it renamed may have been on the pages that are lost.
      for (const { reject } of [...served, ...next]) reject(failure(folder, error));
    }
  }
}

/** Fsyncs and closes a file or folder; rejects with CannotTell. */
export function syncAndClose(fd: number, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    fsync(fd, error => {
      closeSync(fd);
      if (error === null) resolve();
      else reject(failure(path, error));
    });
  });
}

/** An error met at `path`, as the temporary failure that it is for the sender. */
export function failure(path: string, error: unknown): CannotTell {
  if (error instanceof CannotTell) return error;
  const isFull = ['ENOSPC', 'EDQUOT'].includes(errorCode(error));
  const advice = isFull ? 'make room on the disk or raise the quota' : "see that the server's user may write there";
  const options = { status: isFull ? '4.3.1' : '4.3.0', cause: error };
  return new CannotTell(`cannot keep mail in ${path} (${String(error)}): ${advice}`, options);
}

/** The code of a failed system call ('ENOENT'), '' for any other error. */
export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}
