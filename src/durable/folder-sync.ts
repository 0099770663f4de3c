// Fsyncs of folders, shared by all who wait for one.
//
// A delivery that has renamed its file into a folder is stable after an fsync of that folder that began after the rename.
// Fsyncs go by turns, one turn at a time on each file system. A turn is a set of folders that are synced side by side.
// Whoever asks during a turn waits for the next one, also where this turn has the same folder: its fsync may have looked at
// the folder before the rename. When every fsync of a turn has ended, the next turn begins with all folders that were asked
// for meanwhile, each once. A file system without a turn begins one at once. So a delivery waits for at most two turns.
// (With turns for each folder, ten folders that 20 sessions delivered to at once cost 9 fsyncs a message: nobody shared.)
//
// When the fsync of a folder fails, those who wait for the same folder in the next turn fail with it, without an fsync:
// what they have renamed may have been on the pages that are lost, and their own fsync would succeed without these pages.
// The turn after that begins afresh, because all of its deliveries have written after the failure.
import { sync } from './sync.ts';

type Folders = Map<string, Promise<void>>;
type Turn = Readonly<{
  folders: Folders;
  /** Folders of this turn that have failed because of the turn before. Their failure goes no further. */
  spoiled: ReadonlySet<string>;
  ended: Promise<PromiseSettledResult<void>[]>;
  next: Folders;
}>;

export class FolderSync {
  readonly #turns = new Map<number, Turn>();

  /** Resolves after an fsync of the folder that began after this call. `fileSystem`: any number, the same for its neighbours. */
  sync(folder: string, fileSystem = 0): Promise<void> {
    const turn = this.#turns.get(fileSystem) ?? this.#begin(fileSystem, new Map(), new Set());
    const waiting = turn.next.get(folder);
    if (waiting) return waiting;
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
