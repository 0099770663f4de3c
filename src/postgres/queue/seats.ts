// Seats that this replica keeps after an attempt, for its next attempt at the same destination: under load that comes
// within milliseconds. So most messages need no row of a seat, and an open snapshot, which keeps the dead entries of all
// seats that came and went, has few of them to keep.
// New mail that finds all seats in use waits for one of this replica's for a moment, in memory: to write it as waiting
// and to claim it would double the price of the message.
// Nobody waits for a seat that is kept: what others have for that destination is claimed by the replica that keeps it.
// Promises: a seat is in one hand at a time. One that is not used for a second or two goes back.
import type { LeasedJob } from '../../mail/queue-store.ts';
import { monotonicMs } from '../../system/world.ts';

const idleMs = 1000;
/** So many are kept, of all destinations. */
const maxKept = 1000;
/** So many jobs wait in memory for a seat, for so long at least. */
const [maxWaiting, waitMs] = [500, 500];
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
    if (typeof seat !== 'number') return false;
    const first = this.#waiting.get(destination)?.[0];
    if (first) this.#answer(first, seat);
    else if (this.#count >= maxKept) return false;
    else this.#add({ destination, seat, usedAt: monotonicMs() });
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

  /** Takes back seats that were handed out and not used. */
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
    const [idle, used] = [[] as Seat[], [] as Seat[]];
    for (const seat of this.takeAll()) (seat.usedAt <= now - idleMs ? idle : used).push(seat);
    this.restore(used);
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
