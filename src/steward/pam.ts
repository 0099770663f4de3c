// Passwords of Unix accounts: a child of the steward that asks PAM, and the steward's side of it. PAM's modules block
// threads, hang and crash; here they take nobody along.
// Promises: yes, no, or CannotTell within forty-five seconds; a child that has died or hangs is replaced at the next question.
// Only PAM's plain words for 'no' are a no. Never asks for an account that the steward does not know, never any service
// but `slimsmtp`: PAM itself would fall back on `other`, whose rules are somebody else's.
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

const serviceFile = '/etc/pam.d/slimsmtp';
const mostWaiting = 200;
/** Fifty logins at once take six seconds of two idle cores and twenty of busy ones, most of it yescrypt and two processes each. */
const deadlineMs = 45_000;
/** As pam_strerror has them: wrong password, unknown, account expired, password expired, denied, too many tries. */
const refusals =
  /^(Authentication failure|User not known to|User account has expired|Authentication token (expired|is no longer valid)|Permission denied|Have exhausted)/;
type Pam = {
  authenticate(name: string, password: string, end: (error?: string) => void, how: { serviceName: string }): void;
};
type Question = { readonly id: number; readonly name: string; readonly password: string };
type Answer = { readonly id: number; readonly isRight?: boolean; readonly error?: string };

/** The steward's side. */
export class PamChild {
  readonly #argv: readonly [string, ...string[]];
  readonly #environment: Readonly<Record<string, string>>;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #child: ChildProcess | undefined;
  #asked = 0;
  #answered = 0;

  /** As the network process is started; `pam` takes the place of its verb. */
  constructor(argv: readonly [string, ...string[]], environment: Readonly<Record<string, string>>) {
    this.#argv = argv;
    this.#environment = environment;
  }

  /** Rejects when PAM has given no clear answer. */
  async authenticate(name: string, password: string): Promise<boolean> {
    if (this.#waiting.size >= mostWaiting) throw new Error('too many logins wait for PAM');
    const child = (this.#child ??= this.#start());
    const [id, answered] = [(this.#asked += 1), this.#answered];
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.#waiting.set(id, resolve);
    child.send({ id, name, password } satisfies Question, () => {}); // an error is the child's end
    const timer = setTimeout(() => {
      resolve({ id, error: 'PAM did not answer in time' });
      if (answered === this.#answered) this.#end(child); // all its threads hang
    }, deadlineMs);
    const { isRight, error } = await promise;
    clearTimeout(timer);
    if (isRight === undefined) throw new Error(error);
    return isRight;
  }

  close(): void {
    if (this.#child) this.#end(this.#child);
  }

  #start(): ChildProcess {
    const [script, , ...rest] = this.#argv;
    const child = fork(script, ['pam', ...rest], {
      env: { ...this.#environment, UV_THREADPOOL_SIZE: '16', LC_ALL: 'C' },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    child.on('message', (answer: Answer) => {
      this.#answered += 1;
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    const end = (): void => this.#end(child);
    return child.on('exit', end).on('error', end);
  }

  /** Whatever waits for it has no answer, and the next question starts another. */
  #end(child: ChildProcess): void {
    child.kill('SIGKILL');
    if (this.#child !== child) return;
    this.#child = undefined;
    for (const [id, resolve] of this.#waiting) resolve({ id, error: 'the PAM child has ended' });
    this.#waiting.clear();
  }
}

/** The child, the hidden verb `pam`. Leaves with the steward. */
export function runPam(file = serviceFile): Promise<never> {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL')); // exit would wait for threads that hang
  process.on('message', ({ id, name, password }: Question) => {
    const answer = (rest: Omit<Answer, 'id'>): void => void process.send?.({ id, ...rest } satisfies Answer, () => {});
    try {
      if (!existsSync(file)) throw new Error(`${file} is missing: copy docker/pam.conf there`);
      // A .node file beside the bundle, which no bundler can take in.
      const pam = createRequire(import.meta.url)('authenticate-pam') as Pam;
      pam.authenticate(
        name,
        password,
        error => {
          if (error === undefined || refusals.test(error)) answer({ isRight: error === undefined });
          else answer({ error: `PAM: ${error}` });
        },
        { serviceName: 'slimsmtp' },
      );
    } catch (error) {
      answer({ error: (error as Error).message });
    }
  });
  return new Promise(() => {});
}
