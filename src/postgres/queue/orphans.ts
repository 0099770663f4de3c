// What lost answers have left to this replica without its knowledge: leases, and seats. They are given back.
import { monotonicMs } from '../../system/world.ts';
import type { Query } from '../pool.ts';
import * as sql from './statements.ts';

/** After a lost answer the database may work on for so long, before what it has left is looked for. */
const orphanMs = 10_000;

export class Orphans {
  readonly #query: Query;
  readonly #known: () => readonly unknown[];
  /** When an answer of the database was lost; undefined once what it may have left is given back. */
  #doubtAt: number | undefined;
  /** Settled when no seats are being freed: until then none may be taken. */
  freeing: Promise<void> | undefined;

  /** `known` gives what this replica knows of, as parameters of the statement. */
  constructor(query: Query, known: () => readonly unknown[]) {
    this.#query = query;
    this.#known = known;
  }

  /** An answer was lost. */
  doubt(): void {
    this.#doubtAt = monotonicMs();
  }

  /** Frees what is not known, as soon as the database cannot be working on it any more. Rejects where it cannot. */
  async free(): Promise<void> {
    if (this.#doubtAt === undefined || monotonicMs() - this.#doubtAt < orphanMs) return;
    this.freeing = this.#query(sql.orphans, this.#known()).then(() => undefined);
    try {
      await this.freeing;
      this.#doubtAt = undefined;
    } finally {
      this.freeing = undefined;
    }
  }
}
