// The seats that this replica keeps. A seat is the right to one attempt at a destination, and a row in the database.
//
// Theory of operation
//
// After an attempt a seat is kept for a second, because under load the next message for the same destination comes
// within milliseconds. So most messages need no row of a seat. An open snapshot keeps the dead entries of all seats that
// came and went, and this way there are few of them.
// New mail that finds all seats of its destination in use waits in memory for one of this replica's, for half a second.
// To write it as waiting, and to claim it later, would be two statements more.
// A kept seat takes nothing from other replicas: what they could not send waits in the database, and the replica that
// keeps the seat claims it.
// Promises: one attempt at a time uses a seat. A seat that was not used for a second goes back.
import type { LeasedJob } from '../../mail/queue-store.ts';
import { monotonicMs } from '../../system/world.ts';

const idleMs = 1000;
/** So many are kept, of all destinations. */
const maxKept = 1000;
/** So many jobs wait in memory for a seat, of all destinations. */
const maxWaiting = 500;
/** A job waits for so long, and up to `tickMs` longer. */
const waitMs = 500;
const tickMs = 250;

/** A seat of a destination, as a job has it. */
export type SeatName = Readonly<{ destination: string; seat?: number | null | undefined }>;
/** A seat of this replica that no attempt uses. */
export type Seat = Readonly<{ destination: string; seat: number; usedAt: number }>;

type Waiting = Readonly<{ job: LeasedJob; since: number; resolve: (isSeated: boolean) => void }>;

export class Seats {
  readonly #giveBack: (seats: readonly Seat[]) => void;
  readonly #kept = new Map<string, Seat[]>();
  readonly #waiting = new Map<string, Waiting[]>();
  #count = 0;
  #waits = 0;
  #timer: NodeJS.Timeout | undefined;

  /** `giveBack` is called with seats that are not kept any longer. */
  constructor(giveBack: (seats: readonly Seat[]) => void) {
    this.#giveBack = giveBack;
  }

  /**
   * Keeps a seat after its use, or hands it to who waits for it. Returns whether it does: else it is to be given back.
   */
  keep({ destination, seat }: SeatName): boolean {
    if (typeof seat !== 'number' || this.#count >= maxKept) return false;
    this.#add({ destination, seat, usedAt: monotonicMs() });
    return true;
  }

  has(destination: string): boolean {
    return this.#kept.has(destination);
  }

  /** Gives a job the next seat that is kept. Resolves with false where none is for a while. */
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

  /** Keeps on what was handed out and not used. */
  restore(seats: readonly Seat[]): void {
    for (const seat of seats) this.#add(seat);
  }

  /** Hands out kept seats of a destination, `count` at most. */
  take(destination: string, count: number): readonly Seat[] {
    const kept = this.#kept.get(destination) ?? [];
    const taken = kept.splice(Math.max(0, kept.length - count));
    if (kept.length === 0) this.#kept.delete(destination);
    this.#count -= taken.length;
    return taken;
  }

  /** Hands out all of them. */
  takeAll(): readonly Seat[] {
    const all = this.all();
    this.#kept.clear();
    this.#count = 0;
    return all;
  }

  all(): readonly Seat[] {
    return [...this.#kept.values()].flat();
  }

  /** Forgets them, because they are not this replica's any more. Nobody waits any longer. */
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

  /** Ends the waiting of the first one who waits at a destination. */
  #answer({ job, resolve }: Waiting, seat: number | undefined): void {
    const others = this.#waiting.get(job.destination)?.slice(1) ?? [];
    if (others.length > 0) this.#waiting.set(job.destination, others);
    else this.#waiting.delete(job.destination);
    this.#waits -= 1;
    job.seat = seat;
    resolve(seat !== undefined);
  }

  /** Ends the waiting of all who began before that time. */
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

/** The seats of these that none of the others is. */
export const without = (seats: readonly Seat[], others: readonly SeatName[]): readonly Seat[] =>
  seats.filter(({ destination, seat }) => !others.some(each => each.destination === destination && each.seat === seat));

/** Seats as the parameters of a statement: destinations, and numbers. What has none is left out. */
export function columnsOfSeats(seats: readonly SeatName[]): readonly [readonly string[], readonly number[]] {
  const there = seats.filter(({ seat }) => typeof seat === 'number');
  return [there.map(({ destination }) => destination), there.map(({ seat }) => Number(seat))];
}
