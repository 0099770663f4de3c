// What makes files and folders stable. Never tries a failed fsync again as if all were well: the kernel may have
// dropped the pages, and the next one succeeds without them ('fsyncgate').
import { closeSync, fsync, openSync } from 'node:fs';

type Round = { readonly ended: Promise<void>; next?: Promise<void> };

/** Fsyncs of folders: who comes while one is under way waits for the next, together with all others. */
export class FolderSync {
  readonly #rounds = new Map<string, Round>();

  /** Resolves after an fsync of the folder that began after this call. */
  sync(folder: string): Promise<void> {
    const round = this.#rounds.get(folder);
    if (round === undefined) return this.#begin(folder);
    // It fails with the round before: what its deliveries renamed may have been on the pages that are lost.
    return (round.next ??= round.ended.then(() => this.#begin(folder)));
  }

  #begin(folder: string): Promise<void> {
    const round: Round = { ended: sync(folder).finally(() => this.#rounds.delete(folder)) };
    this.#rounds.set(folder, round);
    return round.ended;
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
