// Orphans are leases and seats that the database has recorded for this replica, and of which the replica does not know,
// because the answer of the statement that took them was lost. They are freed ten seconds after an answer was lost, and
// once a minute in any case, because PostgreSQL may carry out a statement long after its client has given up.
// Promises: while orphans are freed, no statement that takes leases or seats is under way. A statement that frees
// something, and that PostgreSQL carries out more than eight seconds late, changes nothing.
import { monotonicMs } from '../../system/world.ts';
import type { Query, Statement } from '../pool.ts';
import { type SeatName, columnsOfSeats } from './seats.ts';
import * as sql from './statements.ts';

/** The time from a lost answer until orphans are looked for; by then the database has ended the statement. */
const orphanMs = 10_000;
/** The time between two looks for orphans when no answer was lost. */
const everyMs = 60_000;

export class Orphans {
  readonly #query: Query;
  readonly #known: () => readonly unknown[];
  readonly #now: () => number;
  /** When the first answer was lost since orphans were freed last; undefined if none was. */
  #doubtAt: number | undefined;
  #freedAt: number;
  #freeing: Promise<void> | undefined;
  readonly #taking = new Set<Promise<unknown>>();

  /** `known` gives the leases and seats of which this replica knows, as parameters of the statement `orphans`. */
  constructor(query: Query, known: () => readonly unknown[], now = monotonicMs) {
    this.#query = query;
    this.#known = known;
    this.#now = now;
    this.#freedAt = now();
  }

  /** An answer was lost. */
  doubt(): void {
    this.#doubtAt ??= this.#now();
  }

  /** Runs statements that take leases or seats. If it is time to free orphans, that is done before. */
  async taking<T>(run: () => Promise<T>): Promise<T> {
    while (this.#freeing || this.#isTime) await (this.#freeing ??= this.#free());
    const running = run();
    this.#taking.add(running);
    try {
      return await running;
    } finally {
      this.#taking.delete(running);
    }
  }

  get #isTime(): boolean {
    const now = this.#now();
    return (this.#doubtAt !== undefined && now - this.#doubtAt >= orphanMs) || now - this.#freedAt >= everyMs;
  }

  /**
   * Frees orphans as soon as no statement that takes leases or seats is under way. If the database does not answer, it
   * is tried again ten seconds later.
   */
  async #free(): Promise<void> {
    await Promise.allSettled(this.#taking);
    this.#doubtAt = undefined;
    this.#freedAt = this.#now();
    try {
      await this.#inTime(sql.orphans, this.#known);
    } catch {
      this.doubt();
    } finally {
      this.#freeing = undefined;
    }
  }

  /**
   * Deletes seats that no attempt uses from the database. Resolves with whether mail is due at their destinations.
   * Never rejects.
   */
  async unseat(me: string | undefined, seats: readonly SeatName[]): Promise<boolean> {
    try {
      return (await this.#inTime(sql.unseat, () => [me, ...columnsOfSeats(seats)])).length > 0;
    } catch {
      this.doubt();
      return false;
    }
  }

  /** Runs a statement that changes nothing if PostgreSQL carries it out more than eight seconds from now. */
  async #inTime(statement: Statement, values: () => readonly unknown[]) {
    const [clock] = await this.#query(sql.clock);
    return this.#query(statement, [...values(), clock?.['now']]);
  }
}
