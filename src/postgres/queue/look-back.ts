// How far back a claim looks for destinations that are due. One that was due before the last claim was seen by it; before
// that there are only dead entries, of all that was due since the table was cleaned, and under an open snapshot these
// are many.

/** A commit may be late by so much. */
const lateMs = 1000;
/** Once in so long a claim looks at all: a claim that fails leaves what it had locked, and others have passed over it. */
const farEveryMs = 30_000;
const everything = 1e9;

export class LookBack {
  #farAt = -Infinity;
  #leftAt = 0;

  /** For how many seconds before the claim that is made `now` (ms of a clock that nobody sets). */
  seconds(now: number): number {
    return this.#isFar(now) ? everything : (now - this.#leftAt + lateMs) / 1000;
  }

  /** The claim of `now` was made. The first destination that it has seen was due for `age` seconds. */
  hasLooked(now: number, age: number): void {
    if (this.#isFar(now)) this.#farAt = now;
    this.#leftAt = now - age * 1000;
  }

  #isFar(now: number): boolean {
    return now - this.#farAt >= farEveryMs;
  }
}
