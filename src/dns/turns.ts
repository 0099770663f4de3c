// Turns: how many questions begin at once, so that names whose name servers are silent do not hold up the others.
// A question first waits for its turn. Its turn lasts until the answer comes, or for a quarter of a second: a question that takes longer
// most likely concerns a domain whose name servers are silent. So at most 800 such questions begin in a second.
const maxTurns = 200;
const turnMs = 250;

/** Lets a number of tasks run. A task that is still running after `turnMs` goes on, and gives its turn to the next one. */
export class Turns {
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  async take<T>(task: () => Promise<T>): Promise<T> {
    if (this.#taken < maxTurns) this.#taken += 1;
    else await new Promise<void>(resolve => this.#waiting.push(resolve));
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#taken -= 1;
    };
    const timer = setTimeout(end, turnMs).unref();
    try {
      return await task();
    } finally {
      clearTimeout(timer);
      end();
    }
  }
}

/** The result of a task, or ETIMEOUT at the deadline; the task can ask whether that has passed. */
export async function inTime<T>(deadlineMs: number, task: (isLate: () => boolean) => Promise<T>): Promise<T> {
  let isLate = false;
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    isLate = true;
    deadline.reject(failure('ETIMEOUT'));
  }, deadlineMs).unref();
  try {
    return await Promise.race([task(() => isLate), deadline.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** An error with one of Node's codes. */
export const failure = (code: string): Error => Object.assign(new Error(code), { code });
