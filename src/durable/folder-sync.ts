// Fsyncs of folders, shared by all who wait for one.
//
// A delivery that has renamed its file into a folder is stable after an fsync of that folder that began after the
// rename. Fsyncs go by rounds, one round at a time on each file system. A round is a set of folders that are synced
// side by side. A call during a round waits for the next one, also where this round has the same folder: its
// fsync may have looked at the folder before the rename. When every fsync of a round has ended, the next round begins
// with all folders that were asked for meanwhile, each once. A file system without a round begins one at once. So a
// delivery waits for at most two rounds. (With rounds for each folder, ten folders that 20 sessions delivered to at
// once cost 9 fsyncs a message: nobody shared.)
//
// When the fsync of a folder fails, those who wait for the same folder in the next round fail with it, without an
// fsync: what they have renamed may have been on the pages that are lost, and their own fsync would succeed without
// these pages. The round after that begins afresh, because all of its deliveries have written after the failure.
import { sync } from './sync.ts';

type Folders = Map<string, Promise<void>>;
type Round = Readonly<{
  folders: Folders;
  /** Folders of this round that have failed because of the round before. Their failure goes no further. */
  spoiled: ReadonlySet<string>;
  ended: Promise<PromiseSettledResult<void>[]>;
  next: Folders;
}>;

export class FolderSync {
  readonly #rounds = new Map<number, Round>();

  /**
   * Resolves after an fsync of the folder that began after this call. `fileSystem`: any number, the same for its
   * neighbours.
   */
  sync(folder: string, fileSystem = 0): Promise<void> {
    const round = this.#rounds.get(fileSystem) ?? this.#begin(fileSystem, new Map(), new Set());
    const waiting = round.next.get(folder);
    if (waiting) return waiting;
    const before = round.spoiled.has(folder) ? undefined : round.folders.get(folder);
    const synced = round.ended.then(() => before).then(() => sync(folder));
    round.next.set(folder, synced);
    return synced;
  }

  #begin(fileSystem: number, folders: Folders, spoiled: ReadonlySet<string>): Round {
    const ended = Promise.allSettled(folders.values());
    const round: Round = { folders, spoiled, ended, next: new Map() };
    this.#rounds.set(fileSystem, round);
    void this.#follow(fileSystem, round);
    return round;
  }

  async #follow(fileSystem: number, { folders, spoiled, ended, next }: Round): Promise<void> {
    const results = await ended;
    if (next.size === 0) return void this.#rounds.delete(fileSystem);
    const failed = [...folders.keys()].filter((name, at) => results[at]?.status === 'rejected' && !spoiled.has(name));
    this.#begin(fileSystem, next, new Set(failed));
  }
}
