// Taking responsibility for a message: trace lines, spool, every copy and the queue entry prepared, then all committed, then 250.
// Promise: 250 is said only when all of it is stable. A copy that cannot be made now waits in the queue; when nothing at all
// could be kept the answer is 4xx, and nothing was.
// RFC 5321 §4.4 (trace) and §6.3 (loops), RFC 3848 and 6531 §4.3 (the `with` clause), RFC 5322 §3.3 (dates), RFC 6409 §8.
import { isAscii } from 'node:buffer';
import { existsSync } from 'node:fs';
import { CannotTell } from '../mail/ports.ts';
import { routeKey } from '../mail/message.ts';
import type { Gatherer, Level } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import type { Outcome, QueueEntry, QueueRecipient, Route } from '../mail/message.ts';
import type { Prepared, Queue, Report, Storage } from '../mail/ports.ts';
import type { Envelope } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { statusOf } from '../durable/sync.ts';
import { mailDate } from '../system/names.ts';
import type { Clock, Random } from '../system/world.ts';
import type { Destination } from './policy.ts';
import { type Peer, clientKey } from './peer.ts';
import { Spool } from './spool.ts';
import { SubmittedHeader } from './submission.ts';
import { receivedLine, returnPathLine } from './trace.ts';

const maxReceivedLines = 100; // no way through honest servers makes more
/** How much of a message is searched for Received lines: 100 of 650 octets fit. */
const maxHeadOctets = 64 * 1024;

export type AcceptOptions = Readonly<{
  hostname: string;
  spoolFolder: string;
  storages: Readonly<Record<Route['kind'], Storage>>;
  queue: Queue;
  report: Report;
  clock: Clock;
  random: Random;
  gatherer: Gatherer;
  log: Log;
}>;

type Destinations = readonly (Destination | undefined)[];

export class Incoming {
  readonly startedAt: number;
  readonly #options: AcceptOptions;
  readonly #entry: Omit<QueueEntry, 'is8Bit' | 'recipients' | 'skipBytes'>;
  readonly #recipients: readonly QueueRecipient[];
  readonly #destinations: Destinations;
  readonly #routes: ReadonlyMap<string, Route>; // where the copies go that stay here, each once, by its key
  readonly #who: string;
  readonly #facts: Readonly<Record<string, unknown>>;
  readonly #spool: Spool;
  readonly #header: SubmittedHeader | undefined;
  #sizeBytes = 0;
  #isAscii = true;
  #outcome: 'queued' | 'delivered' = 'delivered';
  #failure: unknown;
  #refusal: Reply | undefined;

  /** `destinations`: of each recipient of the envelope. `isAuthors`: this is its author's own server, which completes the header. */
  constructor(
    options: AcceptOptions,
    envelope: Envelope,
    destinations: Destinations,
    peer: Peer,
    session: string,
    isSubmission: boolean,
  ) {
    const { hostname, clock, random, spoolFolder } = options;
    const { reversePath, recipients, helo, protocol, isUtf8, ret, envelopeId } = envelope;
    const { client, tls, login } = peer;
    this.#who = clientKey(client);
    this.#options = options;
    this.#destinations = destinations;
    this.startedAt = clock.now();
    const id = this.startedAt.toString(36) + random.hex(5);
    const from = reversePath === '' ? '' : reversePath.text;
    this.#recipients = recipients.map(({ address, notify, originalRecipient }, at) => {
      const { domain = '', found } = destinations[at] ?? {};
      const wish = { ...(notify && { notify }), ...(originalRecipient && { originalRecipient }) };
      const isShared = found?.via === 'shared';
      return {
        address: address.text,
        domain,
        ...(found && { routes: found.routes }),
        ...(isShared && { isShared }),
        ...wish,
      };
    });
    const routes = this.#recipients.flatMap(recipient => recipient.routes ?? []);
    this.#routes = new Map(routes.map(route => [routeKey(route), route]));
    const to = recipients.slice(0, 20).map(({ address }) => address.text);
    const envelopeFacts = { helo, protocol, from, to, recipients: recipients.length };
    this.#facts = {
      session,
      client,
      tls,
      login: login?.name,
      message: id,
      ...envelopeFacts,
      routes: [...this.#routes.keys()].slice(0, 20),
    };

    if (isSubmission) this.#header = new SubmittedHeader(mailDate(this.startedAt), `<${id}@${hostname}>`);
    const returnPath = returnPathLine(envelope);
    // Only a single recipient is named, so that no Bcc is given away.
    const domain = recipients.length === 1 ? this.#recipients[0]?.domain : undefined;
    const trace = receivedLine(envelope, peer, { id, hostname, receivedAt: this.startedAt }, domain);
    const kept = { id, from, isUtf8, receivedAt: this.startedAt };
    this.#entry = { ...kept, ...(ret && { ret }), ...(envelopeId && { envelopeId }) };
    const maildir = routes.find(route => route.kind === 'maildir');
    // A Maildir that has never had mail has no tmp/ yet.
    const hasFolder = (): boolean => maildir !== undefined && existsSync(`${maildir.path}/tmp`);
    const place = (): string => `${hasFolder() ? `${maildir?.path}/tmp` : spoolFolder}/${id}`;
    this.#spool = new Spool(place, { returnPath, trace });
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
    const reply = await this.#store().catch((error: unknown) => {
      const fields = { message: this.#entry.id, error: String(error) };
      this.#gather('error', fields, 'a message could not be stored; its sender will try again');
      return replies.notStored(error instanceof CannotTell ? error.status : statusOf(error));
    });
    if (reply.code < 300) this.#log(`message ${this.#outcome}`, `${reply.code} ${reply.status}`, true);
    else this.#log('message refused', toText(reply));
    return reply;
  }

  /** After commit(): leaves nothing in memory and spool. Who waits for the reply need not wait for that. Never rejects. */
  release(): Promise<void> {
    return this.#spool.release();
  }

  /** Forgets a message that was refused on the way, with that reply, or whose end never came. */
  async discard(reply?: Reply): Promise<void> {
    this.#log(reply ? 'message refused' : 'message not taken', reply && toText(reply));
    await this.release();
  }

  async #store(): Promise<Reply> {
    await this.write(Buffer.alloc(0), true);
    if (this.#refusal !== undefined) return this.#refusal;
    if (this.#failure !== undefined) throw this.#failure;
    const { storages, queue, report, log } = this.#options;
    const { id } = this.#entry;
    const header = await this.#spool.header(maxHeadOctets);
    if ((header.match(/^received:/gim)?.length ?? 0) > maxReceivedLines) return replies.loop;
    const { message, returnPathBytes: skipBytes } = await this.#spool.finish();

    const prepared: Prepared[] = [];
    const later = new Set<string>();
    let failure: unknown;
    for (const [kind, routes] of Map.groupBy(this.#routes.values(), route => route.kind))
      try {
        prepared.push(await storages[kind].prepare(routes, message));
      } catch (error) {
        failure = error;
        for (const route of routes) later.add(routeKey(route));
      }
    const waiting = this.#recipients.flatMap(recipient => {
      // A copy that waits belongs to each recipient whose mail it carries. The queue still makes it once.
      const routes = recipient.routes?.filter(route => later.has(routeKey(route)));
      return routes?.length === 0 ? [] : [{ ...recipient, ...(routes && { routes }) }];
    });
    const entry = { ...this.#entry, skipBytes, is8Bit: !this.#isAscii, recipients: waiting };
    try {
      if (failure !== undefined && prepared.length === 0 && waiting.every(({ routes }) => routes)) throw failure;
      if (failure !== undefined)
        this.#gather(
          'warn',
          { message: id, error: String(failure) },
          'a copy cannot be made now and waits in the queue',
        );
      if (waiting.length > 0) prepared.push(await queue.prepare(entry, message));
    } catch (error) {
      await Promise.all(prepared.map(copies => copies.abort()));
      throw failure ?? error;
    }
    await Promise.all(prepared.map(copies => copies.commit()));

    const delivery = { kind: 'delivered', status: '2.0.0', text: 'delivered to its mailbox' } as const;
    const outcomes = this.#recipients.flatMap((recipient, at): Outcome[] => {
      const isDone = recipient.routes && !waiting.some(({ address }) => address === recipient.address);
      const action = this.#destinations[at]?.found?.via === 'shared' ? 'expanded' : 'delivered';
      return isDone && recipient.notify?.includes('SUCCESS') ? [{ recipient, action, delivery }] : [];
    });
    if (outcomes.length > 0)
      await report(entry, message, outcomes).catch((error: unknown) =>
        log.error({ message: id, error: String(error) }, 'a notice of success could not be kept'),
      );
    this.#outcome = waiting.length > 0 ? 'queued' : 'delivered';
    return replies.kept(waiting.length > 0 ? 'Queued' : 'Delivered', id);
  }

  #log(outcome: string, reply?: string, isKept = false): void {
    const { clock, log } = this.#options;
    const fields = { ...this.#facts, size: this.#sizeBytes, reply, ms: clock.now() - this.startedAt };
    // A message that was kept has cost its sender time, and has its line in any case.
    if (isKept) log.info(fields, outcome);
    else this.#gather('info', fields, outcome);
  }

  #gather(level: Level, fields: Record<string, unknown>, sentence: string): void {
    this.#options.gatherer.line(level, this.#who, fields, sentence);
  }
}

const toText = ({ code, status, text }: Reply): string => `${code} ${status ?? ''} ${text}`;
