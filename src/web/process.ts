// The network process's side of the HTTP process: starts it, answers what it asks, and starts it again when it has
// ended.
//
// How it goes: start() forks the child and hands over what it may know. The child says that it listens, or why it
// cannot: then start() rejects with that sentence. A child that ends later is replaced after a pause, which is doubled
// with each death up to half a minute, and short again once a child has lived for a minute. A child that parses one
// message for too long is killed; a message at which two have ended is not parsed again.
//
// Promises: the child has no secret: its environment is empty, and it may read code and what `mayRead` names, write no
// file and start no process. Whatever it says, this process goes on: an error in an answer goes back as a sentence.
import type { ChildProcess } from 'node:child_process';
import type { Listen } from '../mail/event.ts';
import { forkConfined } from '../system/confined.ts';
import type { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import { reasonOf } from '../system/reason.ts';
import type { Clock } from '../system/world.ts';
import * as limits from './limits.ts';
import type { Answers, FromWeb, Reply, Start, ToWeb } from './protocol.ts';

type WebOptions = Readonly<{
  /** The script of the child. */
  script: string;
  /** What the child may read. A path that ends in `/` is a folder with all below it. */
  mayRead: readonly string[];
  /** What each new child is told first; `unreadable`: messages that it must not parse. */
  greet: (unreadable: readonly string[]) => Start;
  answers: Partial<Answers>;
  clock: Clock;
  gatherer: Gatherer;
  listen?: Listen | undefined;
  log: Log;
  readingMs?: number;
}>;

export class WebProcess {
  readonly #options: WebOptions;
  #child: ChildProcess | undefined;
  #isStopped = false;
  #pauseMs: number = limits.firstPauseMs;
  #timer: NodeJS.Timeout | undefined;
  /** The message that the child parses, and how many children have ended at which message. */
  #reading: { readonly id: string; readonly late: NodeJS.Timeout } | undefined;
  readonly #ends = new Map<string, number>();

  constructor(options: WebOptions) {
    this.#options = options;
  }

  /** Resolves when it listens. Rejects with a sentence when it cannot, and starts none then. */
  async start(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const late = setTimeout(() => reject(new Error('the HTTP process did not start in time')), limits.startMs);
    try {
      this.#fork(why => (why === undefined ? resolve() : reject(new Error(why))));
      await promise;
    } catch (error) {
      void this.stop();
      throw error;
    } finally {
      clearTimeout(late);
    }
  }

  /** Ends the child. It has a moment to end by itself. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === undefined) return;
    const ended = new Promise<void>(resolve => child.once('exit', () => resolve()));
    this.tell({ kind: 'stop' });
    const late = setTimeout(() => child.kill('SIGKILL'), limits.stopMs);
    await ended;
    clearTimeout(late);
  }

  /** Tells the child something. That is lost while there is none: the next child is told everything by its `start`. */
  tell(message: ToWeb): void {
    // What goes wrong with the channel is the child's end, which 'exit' reports.
    if (this.#child?.connected) this.#child.send(message, () => {});
  }

  /**
   * Starts a child. `begun` is called once: with undefined when the child listens, else with the reason why it does
   * not.
   */
  #fork(begun: (why: string | undefined) => void): void {
    const { script, mayRead, greet, clock, listen } = this.#options;
    const startedAt = clock.now();
    const ended = (how: string): void => {
      this.#child = undefined;
      const { id } = this.#reading ?? {};
      if (id !== undefined) this.#ends.set(id, (this.#ends.get(id) ?? 0) + 1);
      this.#read(undefined);
      begun(`the HTTP process has ended: ${how}`);
      if (!this.#isStopped) this.#again(how, clock.now() - startedAt);
    };
    const hear = (message: FromWeb): void => this.#hear(message, begun);
    this.#child = forkConfined({ name: 'http', script, mayRead, heapMb: limits.childHeapMb, listen, hear, ended });
    this.tell(greet([...this.#ends].flatMap(([id, ends]) => (ends > 1 ? [id] : []))));
  }

  /** The child has begun to parse a message, or has ended that. */
  #read(id: string | undefined): void {
    clearTimeout(this.#reading?.late);
    this.#reading = undefined;
    if (id === undefined) return;
    const late = setTimeout(() => {
      this.#options.log.warn({ message: id }, 'a message took too long to parse; the HTTP process is killed');
      this.#child?.kill('SIGKILL');
    }, this.#options.readingMs ?? limits.readingMs);
    this.#reading = { id, late: late.unref() };
  }

  #again(how: string, livedMs: number): void {
    const { log } = this.#options;
    if (livedMs >= limits.longLifeMs) this.#pauseMs = limits.firstPauseMs;
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(pauseMs * 2, limits.lastPauseMs);
    log.error({ how, againInMs: pauseMs }, 'the HTTP process has ended by itself and is started again');
    this.#timer = setTimeout(() => this.#fork(() => {}), pauseMs).unref();
  }

  #hear(message: FromWeb, begun: (why: string | undefined) => void): void {
    const { log, gatherer } = this.#options;
    switch (message.kind) {
      case 'listening':
        return begun(undefined);
      case 'failed':
        log.error({ why: message.why }, 'the HTTP server cannot listen');
        return begun(message.why);
      case 'reading':
        return this.#read(message.id);
      case 'trouble': {
        const { request, error } = message;
        return gatherer.line('error', 'web', { request, error }, 'an HTTP request failed');
      }
      case 'ask':
        return void this.#answer(message).then(reply => this.tell(reply));
      default:
        return message satisfies never;
    }
  }

  async #answer({ id, name, about }: Extract<FromWeb, { kind: 'ask' }>): Promise<Reply> {
    const { answers } = this.#options;
    try {
      if (!Object.hasOwn(answers, name)) throw new Error(`there is no answer to '${name}'`);
      const answer = answers[name] as unknown as (...words: readonly unknown[]) => unknown;
      return { kind: 'reply', id, result: await answer(...about) };
    } catch (error) {
      return { kind: 'reply', id, error: reasonOf(error) };
    }
  }
}
