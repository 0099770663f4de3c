// Passwords of Unix accounts: a child of the steward that asks PAM, and the steward's side of it. PAM's modules block
// threads, hang and crash, so they run in a process of their own.
//
// How it goes: the first question starts the child, and all later ones go to the same child, many at once; each has a
// thread of the child's pool. A question that has no answer after 45 seconds is given up. If the child has answered
// nothing at all meanwhile, all of its threads hang, and it is killed. When the child has ended, by itself or by us,
// every question that waits for it is given up, and the next question starts another child.
//
// Promises: an answer is yes, no, or (as an error) 'cannot tell', within 45 seconds. Only PAM's own words for a refusal
// are a no: trouble of its modules never is. The only service that is asked for is `slimsmtp`: where its file is
// missing, PAM would use the rules of `other`, which were made for something else.
import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setPriority } from 'node:os';

const serviceFile = '/etc/pam.d/slimsmtp';
const mostWaiting = 200;
/**
 * Fifty logins at once take six seconds of two idle cores and twenty of busy ones, most of it yescrypt and two
 * processes each.
 */
const deadlineMs = 45_000;
/**
 * In the words of pam_strerror(3): wrong password, unknown user, account expired, password expired, denied, too many
 * tries.
 */
const refusals =
  /^(Authentication failure|User not known to|User account has expired|Authentication token (expired|is no longer valid)|Permission denied|Have exhausted)/;
type Pam = {
  authenticate(name: string, password: string, end: (error?: string) => void, how: { serviceName: string }): void;
};
type Question = { readonly id: number; readonly name: string; readonly password: string };
type Answer = { readonly id: number; readonly isRight?: boolean; readonly error?: string };

/**
 * Opens the steward's side. `argv` is that of the network process; the child has the verb `pam` in place of its verb.
 */
export function openPam([script, , ...rest]: readonly [string, ...string[]], environment: NodeJS.ProcessEnv) {
  const waiting = new Map<number, (answer: Answer) => void>();
  let current: ChildProcess | undefined;
  let asked = 0;
  let answers = 0;

  /** Gives up all questions that wait for this child, and makes sure that it has ended. */
  function end(child: ChildProcess): void {
    child.kill('SIGKILL');
    if (current !== child) return;
    current = undefined;
    for (const [id, resolve] of waiting) resolve({ id, error: 'the PAM child has ended' });
    waiting.clear();
  }

  function start(): ChildProcess {
    const env = { ...environment, UV_THREADPOOL_SIZE: '16', LC_ALL: 'C' };
    const child = fork(script, ['pam', ...rest], { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    child.on('message', (answer: Answer) => {
      answers += 1;
      waiting.get(answer.id)?.(answer);
      waiting.delete(answer.id);
    });
    return child.on('exit', () => end(child)).on('error', () => end(child));
  }

  /** Rejects when PAM has given no clear answer. */
  async function authenticate(name: string, password: string): Promise<boolean> {
    if (waiting.size >= mostWaiting) throw new Error('too many logins wait for PAM');
    const child = (current ??= start());
    const id = (asked += 1);
    const answersBefore = answers;
    const { promise, resolve } = Promise.withResolvers<Answer>();
    waiting.set(id, resolve);
    // An error here is the child's end, which 'exit' reports.
    child.send({ id, name, password } satisfies Question, () => {});
    const timer = setTimeout(() => {
      resolve({ id, error: 'PAM did not answer in time' });
      if (answers === answersBefore) end(child); // all its threads hang
    }, deadlineMs);
    const { isRight, error } = await promise;
    clearTimeout(timer);
    if (isRight === undefined) throw new Error(error);
    return isRight;
  }

  return { authenticate, close: (): void => void (current && end(current)) };
}

/** The child: the hidden verb `pam`. It ends when the steward does. */
export function runPam(file = serviceFile): Promise<never> {
  setPriority(10); // hashing passwords is slow on purpose, and mail comes first
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL')); // process.exit would wait for threads that hang
  process.on('message', ({ id, name, password }: Question) => {
    const answer = (rest: Omit<Answer, 'id'>): void => void process.send?.({ id, ...rest } satisfies Answer, () => {});
    try {
      if (!existsSync(file)) throw new Error(`${file} is missing: copy docker/pam.conf there`);
      // A .node file beside the bundle, which no bundler can take in.
      const pam = createRequire(import.meta.url)('authenticate-pam') as Pam;
      const end = (error?: string): void => {
        if (error === undefined || refusals.test(error)) answer({ isRight: error === undefined });
        else answer({ error: `PAM: ${error}` });
      };
      pam.authenticate(name, password, end, { serviceName: 'slimsmtp' });
    } catch (error) {
      answer({ error: (error as Error).message });
    }
  });
  return new Promise(() => {});
}
