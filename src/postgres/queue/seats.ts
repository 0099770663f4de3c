// The seats that this replica keeps. A seat is the right to one attempt at a destination, and a row in the database.
//
// Theory of operation
//
// When an attempt ends, the replica keeps its seat for another second. Under load the next message for the same
// destination comes within milliseconds and uses it, so most messages neither insert nor delete a seat row. Few dead
// index entries of seats arise that way, which matters while a snapshot is open, because then they cannot be vacuumed.
// If all seats of its destination are in use, a new message waits in memory for about half a second until an attempt of
// this replica ends. To write the message as waiting, and to claim it later, would be two statements more.
// A kept seat does not delay the mail of other replicas. That mail waits in the database, and the replica that keeps
// the seat claims it.
// Promises: a seat is used by one attempt at a time. A seat that no attempt has used for a second is deleted from the
// database.
import type { LeasedJob } from '../../mail/queue-store.ts';
import { monotonicMs } from '../../system/world.ts';

/** A kept seat that no attempt has used for so long is given back. */
const idleMs = 1000;
/** A replica keeps at most this number of seats, for all destinations together. */
const maxKept = 1000;
/** At most this number of jobs wait in memory for a seat, for all destinations together. */
const maxWaiting = 500;
/** A job that has waited in memory for so long is given back to the database, at the next tick. */
const waitMs = 500;
/** The time between two looks at what has waited, or was kept, for too long. */
const tickMs = 250;

/** What names a seat: its destination and its number there. A job without a seat has no number. */
export type SeatName = Readonly<{ destination: string; seat?: number | null | undefined }>;
/** A seat that this replica keeps; `usedAt` is when its last attempt ended, in ms of the monotonic clock. */
export type Seat = Readonly<{ destination: string; seat: number; usedAt: number }>;

/** A job that waits in memory for a seat. */
type Waiting = Readonly<{ job: LeasedJob; since: number; resolve: (isSeated: boolean) => void }>;

export class Seats {
  readonly #giveBack: (seats: readonly Seat[]) => void;
  readonly #kept = new Map<string, Seat[]>();
  readonly #waiting = new Map<string, Waiting[]>();
  #count = 0;
  #waits = 0;
  #timer: NodeJS.Timeout | undefined;

  /** `giveBack` is called with seats that were kept for too long; it deletes them from the database. */
  constructor(giveBack: (seats: readonly Seat[]) => void) {
    this.#giveBack = giveBack;
  }

  /**
   * Keeps the seat of an attempt that has ended, or hands it to a job that waits for one. Returns false if neither is
   * possible; then the caller deletes the seat from the database.
   */
  keep({ destination, seat }: SeatName): boolean {
    if (typeof seat !== 'number' || this.#count >= maxKept) return false;
    this.#add({ destination, seat, usedAt: monotonicMs() });
    return true;
  }

  /** Whether a seat of this destination is kept. */
  has(destination: string): boolean {
    return this.#kept.has(destination);
  }

  /**
   * Gives a job a kept seat, now or as soon as an attempt at its destination ends. Resolves with false if that takes
   * too long, or too many jobs wait.
   */
  async wait(job: LeasedJob): Promise<boolean> {
    const { destination } = job;
    const [kept] = this.take(destination, 1);
    if (kept) job.seat = kept.seat;
    if (kept || this.#waits >= maxWaiting) return kept !== undefined;
    this.#waits += 1;
    this.#begin();
    return new Promise(resolve => {
      const waiting = { job, since: monotonicMs(), resolve };
      const others = this.#waiting.get(destination);
      if (others) others.push(waiting);
      else this.#waiting.set(destination, [waiting]);
    });
  }

  /** Takes back seats that `take` or `takeAll` has handed out and that no attempt has used. */
  restore(seats: readonly Seat[]): void {
    for (const seat of seats) this.#add(seat);
  }

  /** Hands out at most `count` of the kept seats of a destination. */
  take(destination: string, count: number): readonly Seat[] {
    const kept = this.#kept.get(destination) ?? [];
    const taken = kept.splice(Math.max(0, kept.length - count));
    if (kept.length === 0) this.#kept.delete(destination);
    this.#count -= taken.length;
    return taken;
  }

  /** Hands out all kept seats. */
  takeAll(): readonly Seat[] {
    const all = this.all();
    this.#kept.clear();
    this.#count = 0;
    return all;
  }

  /** All kept seats; they stay kept. */
  all(): readonly Seat[] {
    return [...this.#kept.values()].flat();
  }

  /** For the end of a life: forgets all kept seats, and tells all waiting jobs that they get none. */
  clear(): void {
    this.takeAll();
    this.#giveUp(Infinity);
  }

  #add(seat: Seat): void {
    const first = this.#waiting.get(seat.destination)?.[0];
    if (first) return this.#answer(first, seat.seat);
    const kept = this.#kept.get(seat.destination);
    if (kept) kept.push(seat);
    else this.#kept.set(seat.destination, [seat]);
    this.#count += 1;
    this.#begin();
  }

  /** Tells a job that it has this seat, or that it gets none. It has to be the first that waits at its destination. */
  #answer({ job, resolve }: Waiting, seat: number | undefined): void {
    const others = this.#waiting.get(job.destination)?.slice(1) ?? [];
    if (others.length > 0) this.#waiting.set(job.destination, others);
    else this.#waiting.delete(job.destination);
    this.#waits -= 1;
    job.seat = seat;
    resolve(seat !== undefined);
  }

  /** Tells all jobs that have waited since `before`, or longer, that they get no seat. */
  #giveUp(before: number): void {
    for (const waiting of this.#waiting.values())
      for (const each of waiting) if (each.since <= before) this.#answer(each, undefined);
  }

  #begin(): void {
    this.#timer ??= setInterval(() => this.#tick(), tickMs).unref();
  }

  #tick(): void {
    const now = monotonicMs();
    this.#giveUp(now - waitMs);
    const isIdle = ({ usedAt }: Seat): boolean => usedAt <= now - idleMs;
    const kept = this.takeAll();
    const idle = kept.filter(isIdle);
    this.restore(kept.filter(seat => !isIdle(seat)));
    if (this.#count === 0 && this.#waits === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
    if (idle.length > 0) this.#giveBack(idle);
  }
}

/** The seats that are not among the others. */
export const without = (seats: readonly Seat[], others: readonly SeatName[]): readonly Seat[] =>
  seats.filter(({ destination, seat }) => !others.some(each => each.destination === destination && each.seat === seat));

/**
 * Seats as two parameters of a statement: a list of destinations and a list of numbers. Jobs without a seat are left
 * out.
 */
export function columnsOfSeats(seats: readonly SeatName[]): readonly [readonly string[], readonly number[]] {
  const there = seats.filter(({ seat }) => typeof seat === 'number');
  return [there.map(({ destination }) => destination), there.map(({ seat }) => Number(seat))];
}
