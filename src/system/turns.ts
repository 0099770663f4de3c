// How many tasks run at once. The others wait, and the one that has waited longest comes first.

export class Turns {
  readonly #max: number;
  readonly #turnMs: number;
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  /** After `turnMs` a task that is still running goes on, and its turn is the next one's. */
  constructor(max: number, turnMs = Infinity) {
    this.#max = max;
    this.#turnMs = turnMs;
  }

  async take<T>(task: () => Promise<T>): Promise<T> {
    if (this.#taken < this.#max) this.#taken += 1;
    else await new Promise<void>(resolve => this.#waiting.push(resolve));
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#taken -= 1;
    };
    const timer = this.#turnMs < Infinity ? setTimeout(end, this.#turnMs).unref() : undefined;
    try {
      return await task();
    } finally {
      clearTimeout(timer);
      end();
    }
  }
}
