// After a death of the process: the messages that were in flight then are tried one at a time, so that one that kills
// the process is found (suspects.ts counts). Two bounds keep one suspect from holding up all mail:
// - For the first 30 seconds nothing else is tried beside the one suspect: only then is it alone, so that a death
//   counts against it. After that the suspects that are left are still tried one at a time, but other mail goes on
//   beside them.
// - A suspect gets five seconds for each death at which it was in flight. If it takes longer and others wait, it is
//   ended, as an attempt would whose next hop hangs; it waits for its next attempt then, as any other mail.
// The most suspicious message goes first, and among equals chance decides. Every death adds to its time. So a killer is
// alone at last, also where its next hop is slow, or where other suspects hang.
import type { Random } from '../system/world.ts';

const maxAloneSeconds = 30;
const secondsForEachDeath = 5;

type Suspect<Job> = { readonly job: Job; readonly deaths: number; readonly lot: number };
type Running<Job> = { readonly job: Job; readonly end: () => void; secondsLeft: number };

export class Trial<Job> {
  readonly #random: Random;
  readonly #waiting = new Map<Job, Suspect<Job>>();
  #running: Running<Job> | undefined;
  #aloneSecondsLeft = maxAloneSeconds;

  constructor(random: Random) {
    this.#random = random;
  }

  /** Adds a job that is due and whose message is a suspect of that many deaths. */
  add(job: Job, deaths: number): void {
    this.#waiting.set(job, { job, deaths, lot: this.#random.below(1_000_000) });
  }

  delete(job: Job): void {
    this.#waiting.delete(job);
  }

  has(job: Job): boolean {
    return this.#waiting.has(job);
  }

  /** Whether nothing but a suspect may begin now. */
  isExclusive(mayBegin: (job: Job) => boolean): boolean {
    if (this.#aloneSecondsLeft === 0) return false;
    return this.#running !== undefined || this.#next(mayBegin) !== undefined;
  }

  /** The suspect whose turn it is; `isAlone`: nothing else is in flight. */
  next(mayBegin: (job: Job) => boolean, isAlone: boolean): Job | undefined {
    if (this.#running !== undefined || (this.#aloneSecondsLeft > 0 && !isAlone)) return undefined;
    return this.#next(mayBegin)?.job;
  }

  /** Notes that the attempt of a suspect has begun; `end` ends it. */
  begin(job: Job, deaths: number, end: () => void): void {
    this.#running = { job, end, secondsLeft: secondsForEachDeath * deaths };
  }

  ended(job: Job): void {
    if (this.#running?.job === job) this.#running = undefined;
  }

  /** To be called once a second: ends a suspect that takes too long while others wait. */
  tick(): void {
    if (this.#running === undefined) return;
    this.#aloneSecondsLeft = Math.max(0, this.#aloneSecondsLeft - 1);
    this.#running.secondsLeft -= 1;
    if (this.#running.secondsLeft > 0) return;
    if (this.#waiting.size > 0) this.#running.end();
    else this.#aloneSecondsLeft = 0; // it is the last one: other mail need not wait for it
  }

  #next(mayBegin: (job: Job) => boolean): Suspect<Job> | undefined {
    let next: Suspect<Job> | undefined;
    for (const suspect of this.#waiting.values()) {
      const order = next === undefined ? 1 : suspect.deaths - next.deaths || suspect.lot - next.lot;
      if (order > 0 && mayBegin(suspect.job)) next = suspect;
    }
    return next;
  }
}
