// Taking responsibility for a message: it is spooled while it comes, checked when it is whole, then every copy and the
// queue's entries are prepared, then all are committed, and then 250 is said.
// Promises: 250 is said only when all of it is stable. A copy that cannot be made now waits in the queue; when nothing
// at all could be kept the answer is 4xx, and nothing was.
// RFC 5321 §6.1 and §6.3, RFC 6409 §8.
import { isAscii } from 'node:buffer';
import { existsSync } from 'node:fs';
import { statusOf } from '../durable/sync.ts';
import type { Arrival, Event, Listen, Verdict } from '../mail/event.ts';
import { type Message, type QueueEntry, type Route, routeKey } from '../mail/message.ts';
import { spamLine } from '../mail/header.ts';
import { CannotTell, type Prepared, type Queue, type Report, type Storage } from '../mail/ports.ts';
import type { Envelope } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { formatReply } from '../mail/reply.ts';
import type { Gatherer } from '../system/gather.ts';
import type { Level } from '../system/log.ts';
import { mailDate, messageId, newId } from '../system/names.ts';
import type { World } from '../system/world.ts';
import { type Check, runChecks } from './checks.ts';
import { type Found, findFields } from './fields.ts';
import { HeaderLines } from './header-lines.ts';
import { type Peer, clientKey } from './peer.ts';
import {
  type Plan,
  behindHead,
  entryFor,
  isForwardedOnly,
  isHandedOver,
  plan,
  sharedHead,
  successes,
  toJunk,
} from './plan.ts';
import { type Destination, isOurs } from './policy.ts';
import { Spool } from './spool.ts';
import { SubmittedHeader } from './submission.ts';
import { receivedLine, returnPathLine } from './trace.ts';

export type AcceptOptions = World &
  Readonly<{
    hostname: string;
    spoolFolder: string;
    storages: Readonly<Record<Route['kind'], Storage>>;
    queue: Queue;
    report: Report;
    checks: readonly Check[];
    gatherer: Gatherer;
    listen?: Listen | undefined;
  }>;

/** The fields of an entry that only the arrived message can tell. */
type Common = Pick<QueueEntry, 'receivedAt' | 'is8Bit' | 'returnPathBytes' | 'isOurs'>;
/** So much of a header a check gets to see. */
const maxHeaderOctets = 64 * 1024;

/**
 * One message: made when its content begins, then write() for each piece, then commit() and release(), or discard().
 */
export class Incoming {
  readonly startedAt: number;
  readonly #options: AcceptOptions;
  #envelope: Envelope<Destination>;
  readonly #peer: Peer;
  readonly #id: string;
  /**
   * Delivered-To lines that all copies share. They stand in the message, behind its Return-Path, and not in each copy.
   */
  readonly #head: string;
  #plan: Plan;
  #arrival: Arrival; // for the log and for whoever listens
  #why: string | undefined; // a check's reason
  readonly #verdicts: Verdict[] = []; // while somebody listens
  readonly #spool: Spool;
  readonly #header: SubmittedHeader | undefined; // of a message that its author hands in
  readonly #headerLines = new HeaderLines();
  #sizeBytes = 0;
  #isAscii = true;
  #failure: unknown; // of the spool: told when the message is whole
  #refusal: Reply | undefined; // known before the message is whole

  /** `session` is its name in the log. */
  constructor(
    options: AcceptOptions,
    envelope: Envelope<Destination>,
    peer: Peer,
    session: string,
    isSubmission: boolean,
  ) {
    const { hostname, clock, random, spoolFolder, checks } = options;
    const { reversePath, recipients, helo, protocol } = envelope;
    const { client, tls, login } = peer;
    this.#options = options;
    this.#envelope = envelope;
    this.#peer = peer;
    this.startedAt = clock.now();
    this.#id = newId(this.startedAt, random);
    const planned = plan(envelope);
    this.#head = sharedHead(planned);
    this.#plan = behindHead(planned, this.#head);
    const from = reversePath === '' ? '' : reversePath.text;
    const to = recipients.slice(0, 20).map(({ address }) => address.text);
    const routes = this.#plan.copies.slice(0, 20).map(routeKey);
    const who = { session, client, tls, login: login?.name, message: this.#id };
    this.#arrival = { ...who, helo, protocol, from, to, recipients: recipients.length, routes };

    const id = this.#id;
    // Its author's own server completes the header of a message (RFC 6409 §8).
    if (isSubmission) this.#header = new SubmittedHeader(mailDate(this.startedAt), messageId(id, hostname));
    // Only a single recipient is named, so that no Bcc is given away.
    const domain = recipients.length === 1 ? recipients[0]?.ticket?.domain : undefined;
    const trace = receivedLine(envelope, peer, { id, hostname, receivedAt: this.startedAt }, domain);
    const linesBytes = checks.reduce((sum, check) => sum + (check.linesBytes?.(peer) ?? 0), 0);
    this.#spool = new Spool(
      () => this.#spoolPath(spoolFolder),
      { returnPath: returnPathLine(envelope) + this.#head, trace },
      linesBytes,
    );
  }

  /**
   * Where a large message is written: in the Maildir of a copy, which can then be a link. One without mail so far has
   * no tmp/.
   */
  #spoolPath(spoolFolder: string): string {
    const maildir = this.#plan.copies.find(({ kind, head }) => kind === 'maildir' && head === undefined);
    const hasFolder = maildir?.kind === 'maildir' && existsSync(`${maildir.path}/tmp`);
    return `${hasFolder ? `${maildir.path}/tmp` : spoolFolder}/${this.#id}`;
  }

  /** Takes content. A promise is to be waited for before the next call. A failure is kept for commit(). */
  write(data: Buffer, isEnd = false): Promise<void> | undefined {
    this.#sizeBytes += data.length;
    if (this.#failure !== undefined || this.#refusal !== undefined) return undefined;
    this.#isAscii &&= isAscii(data);
    const content = this.#header === undefined ? data : this.#header.pass(data, isEnd);
    if (content === 'too long') this.#refusal = replies.headerTooLong;
    else if (content === 'no room') this.#refusal = replies.notStored('4.3.1');
    else if (content.length > 0) {
      this.#headerLines.pass(content);
      return this.#spool.write(content)?.catch(error => void (this.#failure = error));
    }
    return undefined;
  }

  /** Stores the message, durably, and says what became of it. */
  async commit(): Promise<Reply> {
    const kept = await this.#keep().catch((error: unknown) => {
      const fields = { message: this.#id, error: String(error) };
      this.#gather('error', fields, 'a message could not be stored; its sender will try again');
      return replies.notStored(error instanceof CannotTell ? error.status : statusOf(error));
    });
    if (typeof kept === 'object') {
      this.#log('message refused', formatReply(kept));
      this.#tell('refused', formatReply(kept));
      return kept;
    }
    const reply = replies.kept(kept, this.#id);
    // A message that was kept has cost its sender time, and has its line in any case.
    const told = kept === 'Delivered' ? 'delivered' : 'queued';
    const said = `${reply.code} ${reply.status}`;
    this.#options.log.info(this.#fields(said), `message ${told}`);
    this.#tell(told, said);
    return reply;
  }

  /** After commit(): leaves nothing in memory and spool. The reply need not wait for that. Never rejects. */
  release(): Promise<void> {
    this.#header?.release();
    return this.#spool.release();
  }

  /** Forgets a message that was refused on the way, with that reply, or whose end never came. */
  async discard(reply?: Reply): Promise<void> {
    this.#log(reply ? 'message refused' : 'message not taken', reply && formatReply(reply));
    this.#tell(reply ? 'refused' : 'abandoned', reply && formatReply(reply));
    await this.release();
  }

  /** A refusal, or how it was kept. */
  async #keep(): Promise<Reply | 'Delivered' | 'Queued'> {
    await this.write(Buffer.alloc(0), true);
    if (this.#refusal !== undefined) return this.#refusal;
    if (this.#failure !== undefined) throw this.#failure;
    let found: Promise<Found> | undefined;
    const arrived = {
      id: this.#id,
      envelope: this.#envelope,
      peer: this.#peer,
      receivedAt: this.startedAt,
      receivedLines: this.#headerLines.receivedCount,
      header: () => this.#spool.header(maxHeaderOctets),
      fields: () => (found ??= this.#spool.content().then(findFields)),
      content: () => this.#spool.content(),
      overwrite: (at: number, octets: string) => this.#spool.overwrite(at, octets),
    };
    const { checks, listen } = this.#options;
    const verdict = await runChecks(checks, arrived, listen && (each => this.#verdicts.push(each)));
    this.#why = verdict.why;
    if ('code' in verdict) return verdict;
    const { lines, junk } = verdict;
    if (junk && isForwardedOnly(this.#envelope)) return junk;
    if (junk) this.#toJunk();
    const isUntold = junk !== undefined && isHandedOver(this.#envelope) && !lines.includes(spamLine);
    const { message, returnPathBytes } = await this.#spool.finish(isUntold ? lines + spamLine : lines);
    const ours = isOurs(this.#peer) && { isOurs: true as const };
    const common = { receivedAt: this.startedAt, is8Bit: !this.#isAscii, returnPathBytes, ...ours };
    return this.#store(message, common);
  }

  /** From now on each copy goes to the folder for junk of its mailbox. */
  #toJunk(): void {
    this.#envelope = toJunk(this.#envelope);
    this.#plan = behindHead(plan(this.#envelope), this.#head);
    this.#arrival = { ...this.#arrival, routes: this.#plan.copies.slice(0, 20).map(routeKey) };
  }

  /** Prepares every copy and the queue's entries, and then commits all. Rejects when nothing was kept. */
  async #store(message: Message, common: Common): Promise<'Delivered' | 'Queued'> {
    const { storages, queue } = this.#options;
    const prepared: Prepared[] = [];
    const unmade = new Set<string>();
    let failure: unknown;
    for (const [kind, copies] of Map.groupBy(this.#plan.copies, copy => copy.kind))
      try {
        prepared.push(await storages[kind].prepare(copies, message));
      } catch (error) {
        failure = error;
        for (const copy of copies) unmade.add(routeKey(copy));
      }
    const { entries } = unmade.size > 0 ? behindHead(plan(this.#envelope, unmade), this.#head) : this.#plan;
    try {
      const isForHereOnly = entries.every(({ recipients }) => recipients.every(({ routes }) => routes));
      if (failure !== undefined && prepared.length === 0 && isForHereOnly) throw failure;
      if (failure !== undefined) {
        const fields = { message: this.#id, error: String(failure) };
        this.#gather('warn', fields, 'a copy cannot be made now and waits in the queue');
      }
      for (const [at, entry] of entries.entries())
        prepared.push(await queue.prepare({ id: this.#entryId(at), ...common, ...entry }, message));
    } catch (error) {
      await Promise.all(prepared.map(copies => copies.abort()));
      throw failure ?? error;
    }
    await Promise.all(prepared.map(copies => copies.commit()));
    this.#tellForwards(entries);
    await this.#report(message, common, unmade);
    return entries.length > 0 ? 'Queued' : 'Delivered';
  }

  /** Further entries have ids that follow from the one of the message. */
  #entryId(at: number): string {
    return `${this.#id}${at || ''}`;
  }

  /** Tells the sender of success, where that was asked for. */
  async #report(message: Message, common: Common, unmade: ReadonlySet<string>): Promise<void> {
    const { report, log } = this.#options;
    const outcomes = successes(this.#envelope, unmade);
    if (outcomes.length === 0) return;
    const entry = { id: this.#id, ...common, ...entryFor(this.#envelope, []) };
    await report(entry, message, outcomes).catch((error: unknown) =>
      log.error({ message: this.#id, error: String(error) }, 'a notice of success could not be kept'),
    );
  }

  /** How long ago its content began. */
  get #ms(): number {
    return this.#options.clock.now() - this.startedAt;
  }

  #log(sentence: string, reply?: string): void {
    this.#gather('info', this.#fields(reply), sentence);
  }

  #fields(reply: string | undefined): Record<string, unknown> {
    return { ...this.#arrival, why: this.#why, size: this.#sizeBytes, reply, ms: this.#ms };
  }

  #tell(result: Extract<Event, { kind: 'message' }>['result'], reply?: string): void {
    this.#options.listen?.({
      ...this.#arrival,
      kind: 'message',
      result,
      reply,
      sizeBytes: this.#sizeBytes,
      ms: this.#ms,
      messageId: this.#headerLines.messageId,
      verdicts: this.#verdicts,
    });
  }

  #tellForwards(entries: Plan['entries']): void {
    const { listen } = this.#options;
    if (listen === undefined) return;
    for (const [at, { head, from, sentAs = from, recipients }] of entries.entries()) {
      const to = recipients.slice(0, 20).map(({ address }) => address);
      // The line in front of what leaves is that of a forward.
      if (head !== undefined) listen({ kind: 'forward', message: this.#id, as: this.#entryId(at), from: sentAs, to });
    }
  }

  #gather(level: Level, fields: Record<string, unknown>, sentence: string): void {
    this.#options.gatherer.line(level, clientKey(this.#peer.client), fields, sentence);
  }
}
