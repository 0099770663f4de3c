// Group commit in the client: whoever comes while a statement is under way goes along with the next one, all in one
// statement and one commit. Measured: 17,500 rows a second on one connection, against 10,000 with a statement for each
// row on twenty.
import { setTimeout as pause } from 'node:timers/promises';
import { monotonicMs } from '../../system/world.ts';

type Waiting<T, R> = {
  readonly item: T;
  readonly resolve: (result: R) => void;
  readonly reject: (error: unknown) => void;
};

export class Group<T, R> {
  readonly #run: (items: readonly T[]) => Promise<readonly (R | Error)[]>;
  readonly #maxItems: number;
  readonly #gapMs: number;
  #waiting: Waiting<T, R>[] = [];
  #isRunning = false;

  /**
   * `run` sends one statement for all its items. It gives a result or an error for each of them, in their order, and is
   * never called again before it has ended. Under load the beginnings of two calls are at least `gapMs` apart, so that
   * more items share a statement. An item that comes after a longer pause does not wait.
   */
  constructor(maxItems: number, gapMs: number, run: (items: readonly T[]) => Promise<readonly (R | Error)[]>) {
    this.#maxItems = maxItems;
    this.#gapMs = gapMs;
    this.#run = run;
  }

  add(item: T): Promise<R> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      if (!this.#isRunning) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#isRunning = true;
    await new Promise(setImmediate); // all who come in this turn of the event loop are in the first group
    for (let group; (group = this.#waiting.splice(0, this.#maxItems)).length > 0;) {
      const begunAt = monotonicMs();
      try {
        const results = await this.#run(group.map(({ item }) => item));
        for (const [at, { resolve, reject }] of group.entries()) {
          const result = results[at];
          if (result instanceof Error) reject(result);
          else resolve(result as R);
        }
      } catch (error) {
        for (const { reject } of group) reject(error);
      }
      const leftMs = this.#gapMs - (monotonicMs() - begunAt);
      if (leftMs >= 1 && this.#waiting.length < this.#maxItems) await pause(leftMs);
    }
    this.#isRunning = false;
  }
}
