// Taking responsibility for a message: trace lines, spool, every copy prepared, then all made visible, then 250.
// Promise: 250 is said only when every copy is stable; if one cannot be prepared, none is delivered and the answer is 4xx.
// RFC 5321 §4.4 (trace) and §6.3 (loops), RFC 3848 and 6531 §4.3 (the `with` clause), RFC 5322 §3.3 (dates).
import { existsSync } from 'node:fs';
import { CannotTell, type Log, type Prepared, type Route, type Storage, routeKey } from '../mail.ts';
import type { Envelope } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { Clock, Random } from '../system.ts';
import { Spool } from './spool.ts';

const maxReceivedLines = 100; // no way through honest servers makes more
/** How much of a message is searched for Received lines: 100 of 650 octets fit. */
const maxHeadOctets = 64 * 1024;

export type AcceptOptions = {
  readonly hostname: string;
  readonly spoolFolder: string;
  readonly storages: Readonly<Record<Route['kind'], Storage>>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

/** What the trace and the log say about the session. */
export type Origin = { readonly session: string; readonly client: string; readonly tls: string | undefined };

export class Incoming {
  readonly startedAt: number;
  readonly #id: string;
  readonly #options: AcceptOptions;
  readonly #routes: readonly Route[];
  readonly #facts: Readonly<Record<string, unknown>>;
  readonly #spool: Spool;
  #sizeBytes = 0;
  #failure: unknown;

  /** `routes`: where the accepted recipients' copies go; equal ones are delivered once. */
  constructor(options: AcceptOptions, envelope: Envelope, routes: readonly Route[], origin: Origin) {
    this.startedAt = options.clock.now();
    this.#id = this.startedAt.toString(36) + options.random.hex(5);
    this.#options = options;
    this.#routes = [...new Map(routes.map(route => [routeKey(route), route])).values()];

    const { reversePath, recipients, helo, protocol } = envelope;
    const from = reversePath === '' ? '' : reversePath.text;
    const to = recipients.slice(0, 20).map(recipient => recipient.address.text);
    const keys = this.#routes.slice(0, 20).map(routeKey);
    const mail = { helo, protocol, from, to, recipients: recipients.length, routes: keys };
    this.#facts = { ...origin, message: this.#id, ...mail };

    const { client, tls } = origin;
    const date = new Date(this.startedAt).toUTCString().replace('GMT', '+0000');
    const trace = [
      `Return-Path: <${from}>`,
      `Received: from ${helo} ([${client.includes(':') ? 'IPv6:' : ''}${client}])`,
      `\tby ${options.hostname} with ${protocol}${tls === undefined ? '' : ` (${tls})`}`,
      // Only a single recipient is named, so that no Bcc is given away.
      `\tid ${this.#id}${recipients.length === 1 ? `\n\tfor <${to[0]}>` : ''}; ${date}\n`,
    ].join('\n');
    const maildir = this.#routes.find(route => route.kind === 'maildir');
    // A Maildir that has never had mail has no tmp/ yet.
    const folder = maildir && existsSync(`${maildir.path}/tmp`) ? `${maildir.path}/tmp` : options.spoolFolder;
    this.#spool = new Spool(`${folder}/${this.#id}`, Buffer.from(trace));
  }

  /** Takes content. A promise is to be waited for before the next call. A failure is kept for commit(). */
  write(data: Buffer): Promise<void> | undefined {
    this.#sizeBytes += data.length;
    if (this.#failure !== undefined) return undefined;
    return this.#spool.write(data)?.catch(error => void (this.#failure = error));
  }

  /** Stores the message, durably, and says what became of it. */
  async commit(): Promise<Reply> {
    const reply = await this.#store().catch((error: NodeJS.ErrnoException) => {
      const isFull = error.code === 'ENOSPC' || error.code === 'EDQUOT';
      const fields = { message: this.#id, error: String(error) };
      this.#options.log.error(fields, 'a message could not be stored; its sender will try again');
      return replies.notStored(error instanceof CannotTell ? error.status : isFull ? '4.3.1' : '4.3.0');
    });
    this.#log(reply.code === 250 ? 'message delivered' : 'message refused', `${reply.code} ${reply.status}`);
    await this.#spool.release();
    return reply;
  }

  /** Forgets a message that was refused on the way, or whose end never came. */
  async discard(): Promise<void> {
    this.#log('message not taken');
    await this.#spool.release();
  }

  async #store(): Promise<Reply> {
    if (this.#failure !== undefined) throw this.#failure;
    const message = await this.#spool.finish();
    const [header = ''] = (await this.#spool.head(maxHeadOctets)).toString('latin1').split('\n\n', 1);
    if ((header.match(/^received:/gim)?.length ?? 0) > maxReceivedLines + 1) return replies.loop; // one is ours
    const prepared: Prepared[] = [];
    try {
      for (const [kind, routes] of Map.groupBy(this.#routes, route => route.kind))
        prepared.push(await this.#options.storages[kind].prepare(routes, message));
    } catch (error) {
      await Promise.all(prepared.map(copies => copies.abort()));
      throw error;
    }
    await Promise.all(prepared.map(copies => copies.commit()));
    return replies.delivered(this.#id);
  }

  #log(outcome: string, reply?: string): void {
    const { clock, log } = this.#options;
    log.info({ ...this.#facts, size: this.#sizeBytes, reply, ms: clock.now() - this.startedAt }, outcome);
  }
}
