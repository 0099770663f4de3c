// Taking responsibility for a message: trace lines, spool, every copy and the queue entry prepared, then all committed, then 250.
// Promise: 250 is said only when all of it is stable. A copy that cannot be made now waits in the queue; when nothing at all
// could be kept the answer is 4xx, and nothing was.
// RFC 5321 §4.4 (trace) and §6.3 (loops), RFC 3848 and 6531 §4.3 (the `with` clause), RFC 5322 §3.3 (dates), RFC 6409 §8.
import { isAscii } from 'node:buffer';
import { existsSync } from 'node:fs';
import { CannotTell, routeKey } from '../mail.ts';
import type { Log, Prepared, Queue, QueueEntry, QueueRecipient, Report, Route, Storage } from '../mail.ts';
import type { Envelope, Recipient } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { Clock, Random } from '../system.ts';
import type { Destination } from './policy.ts';
import { Spool } from './spool.ts';
import { SubmittedHeader } from './submission.ts';

const maxReceivedLines = 100; // no way through honest servers makes more
/** How much of a message is searched for Received lines: 100 of 650 octets fit. */
const maxHeadOctets = 64 * 1024;

export type AcceptOptions = {
  readonly hostname: string;
  readonly spoolFolder: string;
  readonly storages: Readonly<Record<Route['kind'], Storage>>;
  readonly queue: Queue;
  readonly report: Report;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

/** What the trace and the log say about the session; `isSubmission`: an author's own server, which completes the header. */
export type Origin = Readonly<{
  session: string;
  client: string;
  tls: string | undefined;
  login: string | undefined;
  isSubmission: boolean;
}>;

export class Incoming {
  readonly startedAt: number;
  readonly #id: string;
  readonly #options: AcceptOptions;
  readonly #envelope: Envelope;
  readonly #recipients: readonly QueueRecipient[];
  /** Where the copies go that stay here, each once, by its key. */
  readonly #routes: ReadonlyMap<string, Route>;
  readonly #shared: ReadonlySet<QueueRecipient>;
  readonly #facts: Readonly<Record<string, unknown>>;
  readonly #spool: Spool;
  readonly #header: SubmittedHeader | undefined;
  readonly #skipBytes: number;
  #sizeBytes = 0;
  #isAscii = true;
  #failure: unknown;
  #refusal: Reply | undefined;

  /** `destinations`: of each recipient of the envelope. */
  constructor(options: AcceptOptions, envelope: Envelope, destinations: readonly Destination[], origin: Origin) {
    const { hostname, clock, random, spoolFolder } = options;
    this.startedAt = clock.now();
    this.#id = this.startedAt.toString(36) + random.hex(5);
    this.#options = options;
    this.#envelope = envelope;
    this.#recipients = envelope.recipients.map((recipient, at) => toQueue(recipient, destinations[at]));
    this.#shared = new Set(this.#recipients.filter((_, at) => destinations[at]?.found?.via === 'shared'));
    this.#routes = new Map(
      this.#recipients.flatMap(({ routes = [] }) => routes.map(route => [routeKey(route), route])),
    );

    const { reversePath, recipients, helo, protocol } = envelope;
    const from = reversePath === '' ? '' : reversePath.text;
    const to = recipients.slice(0, 20).map(recipient => recipient.address.text);
    const keys = [...this.#routes.keys()].slice(0, 20);
    const { isSubmission, ...session } = origin;
    const mail = { helo, protocol, from, to, recipients: recipients.length, routes: keys };
    this.#facts = { ...session, message: this.#id, ...mail };

    const { client, tls } = origin;
    const date = new Date(this.startedAt).toUTCString().replace('GMT', '+0000');
    if (isSubmission) this.#header = new SubmittedHeader(date, `<${this.#id}@${hostname}>`);
    const returnPath = `Return-Path: <${from}>\n`;
    this.#skipBytes = Buffer.byteLength(returnPath);
    const trace = [
      `Received: from ${helo} ([${client.includes(':') ? 'IPv6:' : ''}${client}])`,
      `\tby ${hostname} with ${protocol}${tls === undefined ? '' : ` (${tls})`}`,
      // Only a single recipient is named, so that no Bcc is given away.
      `\tid ${this.#id}${recipients.length === 1 ? `\n\tfor <${to[0]}>` : ''}; ${date}\n`,
    ].join('\n');
    const maildir = [...this.#routes.values()].find(route => route.kind === 'maildir');
    // A Maildir that has never had mail has no tmp/ yet.
    const folder = maildir && existsSync(`${maildir.path}/tmp`) ? `${maildir.path}/tmp` : spoolFolder;
    this.#spool = new Spool(`${folder}/${this.#id}`, Buffer.from(returnPath + trace));
  }

  /** Takes content. A promise is to be waited for before the next call. A failure is kept for commit(). */
  write(data: Buffer, isEnd = false): Promise<void> | undefined {
    this.#sizeBytes += data.length;
    if (this.#failure !== undefined || this.#refusal !== undefined) return undefined;
    this.#isAscii &&= isAscii(data);
    const content = this.#header === undefined ? data : this.#header.pass(data, isEnd);
    if (content === undefined) this.#refusal = replies.headerTooLong;
    else if (content.length > 0) return this.#spool.write(content)?.catch(error => void (this.#failure = error));
    return undefined;
  }

  /** Stores the message, durably, and says what became of it. */
  async commit(): Promise<Reply> {
    const reply = await this.#store().catch((error: NodeJS.ErrnoException) => {
      const isFull = error.code === 'ENOSPC' || error.code === 'EDQUOT';
      const fields = { message: this.#id, error: String(error) };
      this.#options.log.error(fields, 'a message could not be stored; its sender will try again');
      return replies.notStored(error instanceof CannotTell ? error.status : isFull ? '4.3.1' : '4.3.0');
    });
    const outcome = reply.text.startsWith('Queued') ? 'message queued' : 'message delivered';
    this.#log(reply.code === 250 ? outcome : 'message refused', `${reply.code} ${reply.status}`);
    await this.#spool.release();
    return reply;
  }

  /** Forgets a message that was refused on the way, or whose end never came. */
  async discard(): Promise<void> {
    this.#log('message not taken');
    await this.#spool.release();
  }

  async #store(): Promise<Reply> {
    await this.write(Buffer.alloc(0), true);
    if (this.#refusal !== undefined) return this.#refusal;
    if (this.#failure !== undefined) throw this.#failure;
    const { storages, queue, report, log } = this.#options;
    const message = await this.#spool.finish();
    const [header = ''] = (await this.#spool.head(maxHeadOctets)).toString('latin1').split('\n\n', 1);
    if ((header.match(/^received:/gim)?.length ?? 0) > maxReceivedLines + 1) return replies.loop; // one is ours

    const prepared: Prepared[] = [];
    const later = new Set<string>();
    let failure: unknown;
    for (const [kind, entries] of Map.groupBy(this.#routes, ([, route]) => route.kind)) {
      try {
        prepared.push(
          await storages[kind].prepare(
            entries.map(([, route]) => route),
            message,
          ),
        );
      } catch (error) {
        failure = error;
        for (const [key] of entries) later.add(key);
      }
    }
    const waiting = this.#recipients.flatMap(recipient => {
      // Each copy once, whoever it was for.
      const routes = recipient.routes?.filter(route => later.delete(routeKey(route)));
      return routes?.length === 0 ? [] : [{ ...recipient, ...(routes && { routes }) }];
    });
    const entry = this.#entry(waiting);
    try {
      if (failure !== undefined && prepared.length === 0 && waiting.every(({ routes }) => routes)) throw failure;
      if (failure !== undefined)
        log.warn({ message: this.#id, error: String(failure) }, 'a copy cannot be made now and waits in the queue');
      if (waiting.length > 0) prepared.push(await queue.prepare(entry, message));
    } catch (error) {
      await Promise.all(prepared.map(copies => copies.abort()));
      throw failure ?? error;
    }
    await Promise.all(prepared.map(copies => copies.commit()));

    const outcomes = this.#recipients.flatMap(recipient => {
      const isDone = recipient.routes && !waiting.some(({ address }) => address === recipient.address);
      if (!isDone || !recipient.notify?.includes('SUCCESS')) return [];
      const action = this.#shared.has(recipient) ? ('expanded' as const) : ('delivered' as const);
      return [
        {
          recipient,
          action,
          delivery: { kind: 'delivered' as const, status: '2.0.0', text: 'delivered to its mailbox' },
        },
      ];
    });
    if (outcomes.length > 0)
      await report(entry, message, outcomes).catch((error: unknown) =>
        log.error({ message: this.#id, error: String(error) }, 'a notice of success could not be kept'),
      );
    return replies.kept(waiting.length > 0 ? 'Queued' : 'Delivered', this.#id);
  }

  #entry(recipients: readonly QueueRecipient[]): QueueEntry {
    const { reversePath, isUtf8, ret, envelopeId } = this.#envelope;
    return {
      id: this.#id,
      from: reversePath === '' ? '' : reversePath.text,
      isUtf8,
      is8Bit: !this.#isAscii,
      ...(ret && { ret }),
      ...(envelopeId && { envelopeId }),
      receivedAt: this.startedAt,
      skipBytes: this.#skipBytes,
      recipients,
    };
  }

  #log(outcome: string, reply?: string): void {
    const { clock, log } = this.#options;
    log.info({ ...this.#facts, size: this.#sizeBytes, reply, ms: clock.now() - this.startedAt }, outcome);
  }
}

function toQueue({ address, notify, originalRecipient }: Recipient, destination?: Destination): QueueRecipient {
  const { domain = '', found } = destination ?? {};
  return {
    address: address.text,
    domain,
    ...(found && { routes: found.routes }),
    ...(notify && { notify }),
    ...(originalRecipient && { originalRecipient }),
  };
}
