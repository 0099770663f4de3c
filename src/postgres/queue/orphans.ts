// What lost answers have left to this replica without its knowledge: leases, and seats. They are given back, also now and
// then without any doubt: a statement may be carried out long after its answer was given up.
// Promises: nothing is freed while a statement that takes leases or seats is under way, and none begins meanwhile. What
// comes to the database late frees nothing.
import { monotonicMs } from '../../system/world.ts';
import type { Query, Statement } from '../pool.ts';
import { type SeatName, columnsOfSeats } from './seats.ts';
import * as sql from './statements.ts';

/** After a lost answer the database may work on for so long, before what it has left is looked for. */
const orphanMs = 10_000;
const everyMs = 60_000;

export class Orphans {
  readonly #query: Query;
  readonly #known: () => readonly unknown[];
  readonly #now: () => number;
  /** When an answer of the database was lost; undefined once what it may have left is given back. */
  #doubtAt: number | undefined;
  #freedAt: number;
  #freeing: Promise<void> | undefined;
  readonly #taking = new Set<Promise<unknown>>();

  /** `known` gives what this replica knows of, as parameters of the statement. */
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

  /** Runs what takes leases or seats, after what is to be freed. */
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

  /** Frees what is not known, once nothing is being taken. Where it cannot, it is tried again after a while. */
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

  /** Gives back seats that nobody uses. Resolves with whether others wait for their destinations. Never rejects. */
  async unseat(me: string | undefined, seats: readonly SeatName[]): Promise<boolean> {
    try {
      return (await this.#inTime(sql.unseat, () => [me, ...columnsOfSeats(seats)])).length > 0;
    } catch {
      this.doubt();
      return false;
    }
  }

  /** Runs a statement that does nothing if it is carried out more than some seconds from now. */
  async #inTime(statement: Statement, values: () => readonly unknown[]) {
    const [clock] = await this.#query(sql.clock);
    return this.#query(statement, [...values(), clock?.['now']]);
  }
}
