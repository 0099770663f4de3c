// A claim reads the destinations that are due from an index on the time at which they became due. This file decides at
// which time it begins to read. Before that time the index has only dead entries: the times at which destinations were
// due until their rows were changed. PostgreSQL visits each of these entries, and while a snapshot is open it cannot
// remove them.

/** A row may become visible this long after the time that it names, because its statement took as long to commit. */
const lateMs = 1000;
/** Every 30 seconds a claim reads the whole index, in case a row became visible even later. */
const farEveryMs = 30_000;
/** More seconds than any row is old. */
const everything = 1e9;

export class LookBack {
  #farAt = -Infinity;
  #leftAt = 0;

  /** How many seconds before now a claim begins to read. `now` is in ms of the monotonic clock. */
  seconds(now: number): number {
    return this.#isFar(now) ? everything : (now - this.#leftAt + lateMs) / 1000;
  }

  /** Records that the claim of `now` has succeeded. Its oldest due destination had been due for `age` seconds. */
  hasLooked(now: number, age: number): void {
    if (this.#isFar(now)) this.#farAt = now;
    this.#leftAt = now - age * 1000;
  }

  /** Makes the next claim read the whole index, because this replica has made no claims between two of its lives. */
  reset(): void {
    this.#farAt = -Infinity;
  }

  #isFar(now: number): boolean {
    return now - this.#farAt >= farEveryMs;
  }
}
