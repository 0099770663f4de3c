// The network process's side of the judging child: starts it with the first message, hands over messages, and ends it.
//
// How it goes: up to a hundred messages are with the child, the others wait here. A message that is not judged after 15
// seconds gets `temperror`, and the child is killed. The other messages that were with it are handed to a new child,
// once: a message that makes the child slow must not spare a forged one its judgement. A child that ends by itself is
// replaced likewise. After a child that has judged nothing at all, none is started for five seconds, and messages that
// come meanwhile get `temperror` at once. Ten minutes after the last message the child is ended.
//
// Promises: no message waits for longer than two deadlines; memory is bounded (a piece for each message that is with
// the child).
import type { ChildProcess } from 'node:child_process';
import type { Listen } from '../mail/event.ts';
import type { Content, Judge, Judgement, MailFacts } from '../mail/judgement.ts';
import { readMessage } from '../mail/message.ts';
import type { NamedServer } from '../dns/servers.ts';
import { forkConfined } from '../system/confined.ts';
import type { World } from '../system/world.ts';
import * as limits from './limits.ts';
import type { FromChild, Piece, Start, ToChild } from './protocol.ts';
import { temperror } from './unknown.ts';

export type JudgesOptions = Pick<World, 'clock' | 'log'> &
  Readonly<{
    /** The script of the child, and the words after it. */
    argv: readonly [string, ...string[]];
    hostname: string;
    /** SLIM_RESOLVER. */
    servers?: readonly NamedServer[] | undefined;
    listen?: Listen | undefined;
    /** What the child may read: code. A path that ends in `/` is a folder with all below it. */
    mayRead: readonly string[];
    messageMs?: number;
    idleMs?: number;
  }>;

/** A message on its way through the child. `readAt`: where its next piece begins. */
type Case = {
  readonly facts: MailFacts;
  readonly content: Content;
  readonly onlyFrom: string | undefined;
  readonly resolve: (judgement: Judgement) => void;
  readAt: number;
  tries: number;
  timer?: NodeJS.Timeout;
};

export class Judges implements Judge {
  readonly #options: JudgesOptions;
  readonly #waiting: Case[] = [];
  readonly #cases = new Map<number, Case>();
  #child: ChildProcess | undefined;
  #lastId = 0;
  #judged = 0; // how many messages this child has judged
  #pausedUntil = 0;
  #idle: NodeJS.Timeout | undefined;

  constructor(options: JudgesOptions) {
    this.#options = options;
  }

  async judge(facts: MailFacts, content: Content, onlyFrom?: string): Promise<Judgement | undefined> {
    if (this.#waiting.length >= limits.maxWaiting) return undefined;
    const { promise, resolve } = Promise.withResolvers<Judgement>();
    this.#waiting.push({ facts, content, onlyFrom, resolve, readAt: content.start, tries: 0 });
    this.#handOver();
    return promise;
  }

  /** Ends the child. Messages that wait get `temperror`. */
  close(): void {
    this.#pausedUntil = Infinity;
    this.#child?.kill('SIGKILL');
    clearTimeout(this.#idle);
  }

  /** Hands messages to the child, as many as it may have. */
  #handOver(): void {
    clearTimeout(this.#idle);
    while (this.#waiting.length > 0 && this.#cases.size < limits.maxAtOnce) {
      const next = this.#waiting.shift() as Case;
      if (this.#child === undefined && this.#options.clock.now() < this.#pausedUntil) {
        next.resolve(temperror('mail cannot be judged now'));
        continue;
      }
      const child = (this.#child ??= this.#start());
      const id = (this.#lastId += 1);
      next.tries += 1;
      next.readAt = next.content.start;
      next.timer = setTimeout(() => this.#late(id), this.#options.messageMs ?? limits.messageMs);
      this.#cases.set(id, next);
      this.#send(child, id, next);
    }
    if (this.#cases.size === 0 && this.#child) {
      this.#idle = setTimeout(() => this.#child?.kill('SIGKILL'), this.#options.idleMs ?? limits.idleMs);
      this.#idle.unref();
    }
  }

  #start(): ChildProcess {
    const { argv, hostname, servers, mayRead, listen } = this.#options;
    const [script, ...words] = argv;
    const files = ['/etc/resolv.conf', ...mayRead];
    const child = forkConfined<FromChild>({
      name: 'judge',
      script,
      words,
      mayRead: files,
      heapMb: limits.childHeapMb,
      listen,
      hear: message => this.#hear(child, message),
      ended: how => this.#ended(child, how),
    });
    this.#judged = 0;
    // The child does not keep this process alive, and ends with it.
    child.unref();
    child.channel?.unref();
    child.send({ kind: 'start', hostname, ...(servers && { servers }) } satisfies Start, () => {});
    return child;
  }

  /** Sends the next piece of a message. What goes wrong with the channel is the child's end, which 'exit' reports. */
  #send(child: ChildProcess, id: number, current: Case): void {
    const { facts, content, onlyFrom } = current;
    const isFirst = current.readAt === content.start;
    const first = isFirst ? { facts, ...(onlyFrom !== undefined && { isCut: true }) } : {};
    let octets: Buffer;
    try {
      octets =
        onlyFrom === undefined
          ? readMessage(content.message, current.readAt, limits.pieceOctets)
          : Buffer.from(onlyFrom, 'latin1');
    } catch (error) {
      return this.#resolve(id, temperror(String(error)));
    }
    current.readAt += octets.length;
    const isLast = onlyFrom !== undefined || octets.length === 0 || current.readAt >= content.message.sizeBytes;
    child.send({ kind: 'piece', id, octets, isLast, ...first } satisfies ToChild & Piece, () => {});
  }

  #hear(child: ChildProcess, message: FromChild): void {
    const found = this.#cases.get(message.id);
    if (child !== this.#child || found === undefined) return;
    if (message.kind === 'more') return this.#send(child, message.id, found);
    this.#judged += 1;
    this.#resolve(message.id, message.judgement);
  }

  #resolve(id: number, judgement: Judgement): void {
    const found = this.#cases.get(id);
    clearTimeout(found?.timer);
    this.#cases.delete(id);
    found?.resolve(judgement);
    this.#handOver();
  }

  #late(id: number): void {
    const fields = { seconds: limits.messageMs / 1000 };
    this.#options.log.warn(fields, 'a message took too long to judge; the child is killed');
    const child = this.#child;
    this.#child = undefined; // it gets no further message
    child?.kill('SIGKILL');
    this.#again(id);
  }

  #ended(child: ChildProcess, how: string): void {
    if (child !== this.#child) return;
    this.#child = undefined;
    const isIdle = this.#cases.size === 0;
    if (!isIdle) this.#options.log.warn({ how }, 'the judging child has ended by itself');
    if (!isIdle && this.#judged === 0) this.#pausedUntil = this.#options.clock.now() + limits.pauseMs;
    this.#again();
  }

  /** Hands the messages of a child that has ended to another one, once, but for the message that took too long. */
  #again(late?: number): void {
    const cases = [...this.#cases];
    this.#cases.clear();
    for (const [id, each] of cases) {
      clearTimeout(each.timer);
      if (id === late) each.resolve(temperror('judging took too long'));
      else if (each.tries > 1) each.resolve(temperror('the judging child has ended'));
      else this.#waiting.unshift(each);
    }
    this.#handOver();
  }
}
