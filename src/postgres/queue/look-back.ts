// How far back in time a claim looks for destinations that are due. What was due earlier, the last claim has seen. The
// index still has the dead entries of all times at which a destination was due since the table was vacuumed, and under an
// open snapshot these are many.

/** A commit may be late by so much. */
const lateMs = 1000;
/** Once in so long a claim looks at all of them: a claim that fails leaves rows behind that others have passed over. */
const farEveryMs = 30_000;
const everything = 1e9;

export class LookBack {
  #farAt = -Infinity;
  #leftAt = 0;

  /** For how many seconds before the claim that is made `now` (ms of a clock that nobody sets). */
  seconds(now: number): number {
    return this.#isFar(now) ? everything : (now - this.#leftAt + lateMs) / 1000;
  }

  /** The claim of `now` was made, and of the destinations that it could see the first one was due for `age` seconds. */
  hasLooked(now: number, age: number): void {
    if (this.#isFar(now)) this.#farAt = now;
    this.#leftAt = now - age * 1000;
  }

  /** Others may have looked meanwhile, or nobody: this replica has begun a new life. */
  reset(): void {
    this.#farAt = -Infinity;
  }

  #isFar(now: number): boolean {
    return now - this.#farAt >= farEveryMs;
  }
}
