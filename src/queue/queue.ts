// The queue: what is due is tried, what cannot be delivered now waits, and the sender is told what became of it.
// Promises: a final outcome is on disk, and its notice before it, else the recipient stays; a dead destination holds up no
// other; while it is down one attempt at a time probes it, and the rest waits in memory, told and given up in time.
// Never more than 500 attempts at once, nor a body or an envelope in memory of what has waited for two seconds. RFC 5321 §4.5.4, RFC 3461 §5.
import type { QueueAction, QueuedMessage, QueuedRecipient, Selector } from '../mail/admin.ts';
import { setImmediate, setTimeout as pause } from 'node:timers/promises';
import { toDomain } from '../mail/address.ts';
import { nextHopKey } from '../mail/message.ts';
import type { Delivery, Message, NextHop, Outcome, QueueEntry } from '../mail/message.ts';
import type { Journal, Prepared, Queue, Report, Transport } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import type { Clock, Random } from '../system/world.ts';
import { freePlace } from './places.ts';
import { QueueFolder, type StoredEntry, type StoredRecipient } from './files.ts';

/** At the same time: bounds memory and descriptors. One destination gets no more than its share. */
const maxAttempts = 500;
/** An attempt that goes on for so long most likely hangs. It costs no more than a socket, and leaves its place to another. */
const [slowMs, maxAttemptsInAll] = [5000, 2000];
const maxAttemptsPerDestination = 20;

export type QueueOptions = Readonly<{
  folder: string;
  /** All mail for other servers goes to one: one destination. */
  isRelayed: boolean;
  transports: Readonly<Record<NextHop['kind'], Transport>>;
  report: Report;
  lifetimeMs: number;
  retryMs: readonly number[];
  delayNoticeMs: number;
  clock: Clock;
  random: Random;
  log: Log;
}>;

/** What memory has of a message; the record only while someone uses it, or while it could not be written. */
type Entry = {
  readonly id: string;
  readonly receivedAt: number;
  readonly jobs: Job[];
  users: number;
  record?: StoredEntry | undefined;
  isDirty?: boolean;
  writing?: Promise<void> | undefined;
  nextWrite?: Promise<void> | undefined;
};
/** The recipients of an entry that go to one destination. */
type Job = {
  readonly entry: Entry;
  readonly destination: Destination;
  isRunning: boolean;
  attempts: number;
  nextAt: number;
  /** When the sender is to be told that it is late. */
  noticeAt: number;
  quietUntil: number;
  /** Its place in the calendar. */
  second: number;
};
type Destination = {
  readonly hop: NextHop;
  readonly key: string;
  readonly ready: Set<Job>;
  jobs: number;
  running: number;
  /** Rounds in a row in which nobody could be reached, the last of them, and until when nothing is tried. */
  failures: number;
  failure?: Delivery | undefined;
  blockedUntil: number;
};
type Results = Map<StoredRecipient, Delivery>;

export class DiskQueue implements Queue {
  readonly #options: QueueOptions;
  readonly #disk: QueueFolder;
  readonly #entries = new Map<string, Entry>();
  readonly #destinations = new Map<string, Destination>();
  /** Jobs by the second in which something is to happen to them. */
  readonly #calendar = new Map<number, Set<Job>>();
  /** Destinations with something to do, those that may be tried in their turn, and those that back off. */
  readonly #open = new Set<Destination>();
  readonly #blocked = new Set<Destination>();
  /** Jobs of destinations that back off, which are late or at their end. */
  readonly #overdue = new Set<Job>();
  readonly #active = new Set<Promise<void>>();
  /** Done, and still on the disk, which did not let go of them: tried again each second, some at a time. */
  readonly #unremoved = new Set<string>();
  #slow = 0;
  #ticked = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#disk = new QueueFolder(options.folder, options.log);
  }

  /** Messages that wait. */
  get size(): number {
    return this.#entries.size;
  }

  /** Loads what is on disk, then begins. Small messages are held in the journal, if there is one, until they have files. */
  async start(journal?: Journal): Promise<void> {
    for await (const record of this.#disk.scan()) {
      if (isOver(record)) await this.#disk.remove(record.id);
      else this.#add(record);
    }
    this.#disk.use(journal);
    this.#timer = setInterval(() => this.tick(), 1000).unref();
    this.tick();
  }

  /** Begins nothing more, and waits for what is under way. */
  async stop(withinMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await Promise.race([Promise.all(this.#active), pause(withinMs, undefined, { ref: false })]);
  }

  /** Files for all that has none: when nothing more comes, and before the journal is closed. */
  settle(): Promise<void> {
    return this.#disk.settle();
  }

  async prepare(entry: QueueEntry, message: Message): Promise<Prepared> {
    const state = { attempts: 0, nextAt: this.#options.clock.now() };
    const recipients = entry.recipients.map(recipient => ({ ...recipient, ...state }));
    const record = { ...entry, sizeBytes: message.sizeBytes, recipients };
    const { commit, abort } = await this.#disk.prepare(record, message);
    return { commit: async () => (await commit(), this.#begin(record)), abort };
  }

  /** Most mail leaves at once: what that needs is not read from the disk again. */
  #begin(record: StoredEntry): void {
    const entry = this.#add(record);
    entry.record ??= record;
    this.#dispatch();
    if (entry.users === 0) entry.record = undefined;
  }

  /** What became due is done. Every second. */
  tick(): void {
    const now = this.#options.clock.now();
    if (now < this.#ticked) this.#replan(now);
    this.#ticked = now;
    for (const [second, jobs] of this.#calendar) if (second * 1000 <= now) for (const job of jobs) this.#wake(job, now);
    for (const destination of this.#blocked) this.#offer(destination);
    for (const id of [...this.#unremoved].slice(0, maxAttemptsPerDestination))
      this.#disk.remove(id).then(
        () => this.#unremoved.delete(id),
        () => undefined,
      );
    this.#disk.settleLate();
    this.#dispatch();
  }

  /** The clock was put back: what was planned by the old one would come late by as much. */
  #replan(now: number): void {
    for (const destination of this.#destinations.values())
      destination.blockedUntil = Math.min(destination.blockedUntil, now + this.#step(destination.failures));
    for (const { jobs } of this.#entries.values())
      for (const job of jobs) {
        const isPlanned = this.#calendar.get(job.second)?.has(job); // neither running nor held
        job.nextAt = Math.min(job.nextAt, this.#latest(job));
        if (isPlanned) this.#schedule(job);
      }
  }

  /** What waits, as plain objects; with an id also the recipients that do not wait any more. */
  async *list(selector: Selector): AsyncGenerator<QueuedMessage> {
    const items: QueuedMessage[] = [];
    const view = (entry: Entry, recipient: StoredRecipient): QueuedRecipient => {
      const {
        address,
        domain,
        attempts,
        nextAt,
        last: { kind, status, text, remote } = {},
        isDone,
        isHeld,
      } = recipient;
      const isSending =
        !isDone && entry.jobs.some(job => job.isRunning && job.destination === this.#destination(recipient));
      const state = isSending ? 'sending' : isDone ? (kind ?? 'removed') : isHeld ? 'held' : 'waiting';
      const nextAttemptAt = isDone || isHeld ? undefined : new Date(nextAt).toISOString();
      return { address, domain, state, attempts, nextAttemptAt, status, text, remote };
    };
    for await (const entry of this.#chosen(selector)) {
      const look = async (record: StoredEntry): Promise<void> => {
        const waiting = matching(record, selector);
        const recipients = waiting.length > 0 && selector.id !== undefined ? record.recipients : waiting;
        const { id, from, receivedAt, sizeBytes } = record;
        const ageSeconds = Math.floor((this.#options.clock.now() - receivedAt) / 1000);
        const isHeld = pending(record).every(recipient => recipient.isHeld);
        const shown = recipients.map(recipient => view(entry, recipient));
        if (shown.length > 0) items.push({ id, from, ageSeconds, sizeBytes, isHeld, recipients: shown });
      };
      await this.#use(entry, look).catch(error => this.#complain(entry, error));
      yield* items.splice(0);
    }
  }

  /** How many messages that concerned. Held ones are not tried and do not expire; removed ones are gone without a notice. */
  async act(action: QueueAction, selector: Selector): Promise<number> {
    let touched = 0;
    const change = async (entry: Entry, record: StoredEntry): Promise<void> => {
      const recipients = matching(record, selector).filter(({ isHeld }) => isHeld || action !== 'release');
      if (recipients.length === 0) return;
      touched += 1;
      for (const recipient of recipients) {
        // Whoever says 'now' knows that the destination is back: its other mail may go as well.
        if (action === 'retry') Object.assign(this.#destination(recipient), { blockedUntil: 0, failures: 0 });
        else if (action === 'remove') recipient.isDone = true;
        else recipient.isHeld = action === 'hold';
        if (action === 'retry' || action === 'release') recipient.nextAt = this.#options.clock.now();
      }
      this.#plan(entry, record);
      if (action !== 'retry') await this.#save(entry, record);
    };
    const changes: Promise<void>[] = [];
    for await (const entry of this.#chosen(selector)) {
      changes.push(this.#use(entry, record => change(entry, record)).catch(error => this.#complain(entry, error)));
      if (changes.length === 100) await Promise.all(changes.splice(0));
    }
    await Promise.all(changes);
    this.tick();
    return touched;
  }

  /** Those that a selector may mean, with a turn of the event loop now and then. */
  async *#chosen({ id }: Selector): AsyncGenerator<Entry> {
    const chosen = id === undefined ? [...this.#entries.values()] : [this.#entries.get(id)];
    for (const [index, entry] of chosen.entries()) {
      if (index % 64 === 63) await setImmediate();
      if (entry && this.#entries.has(entry.id)) yield entry;
    }
  }

  #add(record: StoredEntry): Entry {
    const found = this.#entries.get(record.id);
    if (found) return found;
    const entry: Entry = { id: record.id, receivedAt: record.receivedAt, jobs: [], users: 0 };
    this.#entries.set(entry.id, entry);
    this.#plan(entry, record);
    return entry;
  }

  /** Brings the jobs of an entry, or that of one destination, up to what its record says. */
  #plan(entry: Entry, record: StoredEntry, only?: Destination): void {
    const { lifetimeMs, delayNoticeMs } = this.#options;
    const groups = Map.groupBy(pending(record), recipient => this.#destination(recipient));
    const jobs = new Map(entry.jobs.map(job => [job.destination, job]));
    for (const destination of only ? [only] : new Set([...groups.keys(), ...jobs.keys()])) {
      const times = { attempts: 0, nextAt: 0, noticeAt: 0, quietUntil: 0, second: 0 };
      const job = jobs.get(destination) ?? { entry, destination, isRunning: false, ...times };
      const tried = groups.get(destination)?.filter(({ isHeld }) => !isHeld);
      if (job.isRunning) continue; // it is planned at its end
      if (!jobs.has(destination)) {
        entry.jobs.push(job);
        destination.jobs += 1;
      }
      if (tried === undefined) this.#drop(job);
      else {
        job.attempts = Math.min(...tried.map(({ attempts }) => attempts));
        job.nextAt = Math.min(this.#latest(job), ...tried.map(({ nextAt }) => nextAt));
        const isUntold = delayNoticeMs < lifetimeMs && tried.some(({ isDelayTold }) => !isDelayTold);
        job.noticeAt = isUntold ? Math.max(entry.receivedAt + delayNoticeMs, job.quietUntil) : Infinity;
        this.#schedule(job);
      }
    }
  }

  /** Puts a job among those that may run, or waits until something is to happen to it. */
  #schedule(job: Job): void {
    const { entry, destination } = job;
    const now = this.#options.clock.now();
    this.#unschedule(job);
    const isDue = job.nextAt <= now;
    if (isDue) {
      destination.ready.add(job);
      // Nobody waits longer for a destination than its own last failure would have made it wait.
      destination.blockedUntil = Math.min(destination.blockedUntil, now + this.#step(job.attempts + 1));
      this.#offer(destination);
    }
    const wakeAt = Math.min(job.noticeAt, isDue ? entry.receivedAt + this.#options.lifetimeMs : job.nextAt);
    if (wakeAt === Infinity) return;
    job.second = Math.max(Math.ceil(wakeAt / 1000), Math.floor(now / 1000) + 1);
    const bucket = this.#calendar.get(job.second);
    if (bucket) bucket.add(job);
    else this.#calendar.set(job.second, new Set([job]));
  }

  #unschedule(job: Job): void {
    job.destination.ready.delete(job);
    this.#overdue.delete(job);
    const bucket = this.#calendar.get(job.second);
    bucket?.delete(job);
    if (bucket?.size === 0) this.#calendar.delete(job.second);
  }

  #drop(job: Job): void {
    const { entry, destination } = job;
    this.#unschedule(job);
    entry.jobs.splice(entry.jobs.indexOf(job), 1);
    destination.jobs -= 1;
    if (destination.jobs > 0) return;
    this.#destinations.delete(destination.key);
    this.#blocked.delete(destination);
  }

  #wake(job: Job, now: number): void {
    const isDue = job.nextAt <= now;
    const isLate = now >= job.noticeAt || (isDue && now >= job.entry.receivedAt + this.#options.lifetimeMs);
    // An attempt that is only waiting for its turn says more than we could now.
    const isAboutToRun = isDue && (job.destination.failures === 0 || job.destination.blockedUntil <= now);
    this.#schedule(job);
    if (isLate && !isAboutToRun) this.#overdue.add(job);
  }

  #offer(destination: Destination): void {
    const { ready, failures, running, blockedUntil } = destination;
    const isBlocked = blockedUntil > this.#options.clock.now();
    this.#blocked[isBlocked ? 'add' : 'delete'](destination);
    const limit = failures > 0 ? 1 : maxAttemptsPerDestination;
    if (!isBlocked && ready.size > 0 && running < limit) this.#open.add(destination);
    else this.#open.delete(destination);
  }

  get #isFull(): boolean {
    return this.#active.size >= Math.min(maxAttempts + this.#slow, maxAttemptsInAll);
  }

  /** Runs what may run: one job of each destination in turn, so that a long queue takes no more than its share. */
  #dispatch(): void {
    if (this.#timer === undefined) return;
    for (const job of this.#overdue) {
      if (this.#isFull) return;
      this.#run(job, false);
    }
    for (const destination of this.#open) {
      if (this.#isFull) return;
      this.#open.delete(destination);
      const [first] = destination.ready;
      // The probe is who has waited least: the next back-off is as short as anyone here may expect.
      let job = first;
      if (destination.failures > 0)
        for (const other of destination.ready) if (job && other.attempts < job.attempts) job = other;
      if (job) this.#run(job, true);
      this.#offer(destination);
    }
  }

  #run(job: Job, isAttempt: boolean): void {
    const { entry, destination } = job;
    this.#unschedule(job);
    job.isRunning = true;
    if (isAttempt) destination.running += 1;
    let isSlow = false;
    const slow = setTimeout(() => {
      isSlow = true;
      this.#slow += 1;
      this.#dispatch();
    }, slowMs).unref();
    const work = this.#use(entry, async record => {
      const recipients = pending(record).filter(to => !to.isHeld && this.#destination(to) === destination);
      const reasons = recipients.map(to => [to, to.last ?? destination.failure ?? unexplained] as const);
      const results = isAttempt ? await this.#deliver(destination, record, recipients) : new Map(reasons);
      await this.#settle(job, record, results, isAttempt);
      job.isRunning = false;
      this.#plan(entry, record, destination);
    })
      .catch((error: unknown) => {
        this.#complain(entry, error);
        if (!entry.jobs.includes(job)) return;
        job.isRunning = false;
        job.nextAt = this.#options.clock.now() + this.#step(1);
        this.#schedule(job);
      })
      .finally(() => {
        clearTimeout(slow);
        if (isSlow) this.#slow -= 1;
        if (isAttempt) destination.running -= 1;
        this.#active.delete(work);
        this.#offer(destination);
        this.#dispatch();
      });
    this.#active.add(work);
  }

  /** One attempt. Recipients whose outcome is known, and only its notice is owed, are not tried again. */
  async #deliver(
    destination: Destination,
    record: StoredEntry,
    recipients: readonly StoredRecipient[],
  ): Promise<Results> {
    const { transports, clock, log } = this.#options;
    const results: Results = new Map();
    for (const recipient of recipients)
      if (recipient.last && recipient.last.kind !== 'deferred') results.set(recipient, recipient.last);
    const tried = recipients.filter(recipient => !results.has(recipient));
    if (tried.length === 0) return results;
    const round = destination.failures;
    const { hop, key } = destination;
    const message = this.#disk.message(record);
    let deliveries: readonly Delivery[] = [];
    try {
      deliveries = await transports[hop.kind].deliver(hop, record, message, tried, freePlace());
    } catch (error) {
      const fields = { message: record.id, destination: key };
      log.error({ ...fields, error: error instanceof Error ? error.stack : error }, 'an attempt ended in a surprise');
    }
    for (const [index, recipient] of tried.entries()) {
      recipient.attempts += 1;
      results.set(recipient, deliveries[index] ?? unexplained);
    }
    if (deliveries.length === 0 || !deliveries.every(({ isUnreachable }) => isUnreachable)) {
      destination.failures = destination.blockedUntil = 0;
    } else if (destination.failures === round) {
      // Those that ran side by side failed once.
      destination.failures += 1;
      destination.failure = deliveries[0];
      const longest = this.#step(Math.min(...tried.map(({ attempts }) => attempts)));
      destination.blockedUntil = clock.now() + Math.min(this.#step(destination.failures), longest);
    }
    return results;
  }

  /** Judges what came back, tells the sender, and records it, in this order. */
  async #settle(job: Job, record: StoredEntry, results: Results, isAttempt: boolean): Promise<void> {
    const { lifetimeMs, delayNoticeMs, report, clock, random, log } = this.#options;
    const now = clock.now();
    const endsAt = record.receivedAt + lifetimeMs;
    const outcomes = new Map<StoredRecipient, Outcome>();
    for (const [recipient, delivery] of results) {
      if (recipient.isDone) continue; // removed meanwhile
      const { copies = [], ...last } = delivery;
      if (copies.length > 0) record.madeCopies = [...new Set([...(record.madeCopies ?? []), ...copies])];
      const isOver = last.kind === 'deferred' && now >= endsAt && !recipient.isHeld;
      recipient.last = isOver ? givenUp(last) : last;
      const wait = Math.round((this.#step(recipient.attempts) * (900 + random.below(201))) / 1000);
      // The last attempt is made at the very end.
      if (isAttempt) recipient.nextAt = now < endsAt ? Math.min(now + wait, endsAt) : now + wait;
      const isLate = now >= record.receivedAt + delayNoticeMs;
      const action = actionFor(recipient, recipient.last, isLate);
      if (action) outcomes.set(recipient, { recipient, action, delivery: recipient.last });
    }
    this.#log(job, record, [...results.keys()], isAttempt);
    let isTold = true;
    try {
      if (outcomes.size > 0) await report(record, this.#disk.message(record), [...outcomes.values()]);
    } catch (error) {
      log.warn({ message: record.id, error: String(error) }, 'a notice cannot be kept now; it is tried again');
      isTold = false;
      job.quietUntil = now + this.#step(1);
    }
    for (const recipient of results.keys()) {
      const isFinal = recipient.last?.kind !== 'deferred';
      if (isFinal && (isTold || !outcomes.has(recipient))) recipient.isDone = true;
      else if (isTold && outcomes.has(recipient)) recipient.isDelayTold = true;
      else if (isFinal) recipient.nextAt = Math.max(recipient.nextAt, job.quietUntil);
    }
    await this.#save(job.entry, record);
  }

  /** Uses the record of an entry together with whoever does so; the last one takes it off the disk when all is done. */
  async #use(entry: Entry, work: (record: StoredEntry) => Promise<void>): Promise<void> {
    const record = (entry.record ??= this.#disk.read(entry.id));
    entry.users += 1;
    try {
      await work(record);
    } finally {
      entry.users -= 1;
      if (entry.users === 0) entry.writing = undefined;
      if (entry.users === 0 && !entry.isDirty) entry.record = undefined;
      if (entry.users === 0 && isOver(record) && this.#entries.delete(entry.id))
        await this.#disk.remove(entry.id).catch((error: unknown) => {
          this.#unremoved.add(entry.id);
          this.#complain(entry, error);
        });
    }
  }

  /** Writes the record. What the disk does not take is kept in memory, so that nothing goes twice. */
  #save(entry: Entry, record: StoredEntry): Promise<void> {
    if (isOver(record) && entry.users === 1) return Promise.resolve(); // it is removed at once
    // Who comes while one write is under way shares the next: a message to 1,000 domains is not written 1,000 times.
    return (entry.nextWrite ??= (entry.writing ?? Promise.resolve()).then(() => {
      entry.nextWrite = undefined;
      entry.isDirty = true;
      const written = (): void => void (entry.isDirty = false);
      return (entry.writing = this.#disk.update(record).then(written, error => this.#complain(entry, error)));
    }));
  }

  #complain(entry: Entry, error: unknown): void {
    this.#options.log.error({ message: entry.id, error: String(error) }, 'a queue entry cannot be read or written now');
  }

  #log(job: Job, record: StoredEntry, recipients: readonly StoredRecipient[], isAttempt: boolean): void {
    const age = Math.round((this.#options.clock.now() - record.receivedAt) / 1000);
    for (const [, [first, ...others]] of Map.groupBy(recipients, ({ last }) => JSON.stringify(last))) {
      const { kind = 'deferred', status, text, remote, tls } = first?.last ?? unexplained;
      if (!first || (!isAttempt && kind === 'deferred')) continue;
      const to = [first, ...others].slice(0, 20).map(({ address }) => address);
      const mail = { message: record.id, destination: job.destination.key, from: record.from, to };
      const attempt = { remote, tls, reply: text, status, recipients: 1 + others.length, attempt: first.attempts, age };
      this.#options.log.info({ ...mail, ...attempt }, sentences[kind]);
    }
  }

  #destination({ domain, routes }: StoredRecipient): Destination {
    const hop: NextHop = routes
      ? { kind: 'here' }
      : this.#options.isRelayed
        ? { kind: 'relay' }
        : { kind: 'domain', domain };
    const key = nextHopKey(hop);
    const found = this.#destinations.get(key);
    if (found) return found;
    const made = { hop, key, ready: new Set<Job>(), jobs: 0, running: 0, failures: 0, blockedUntil: 0 };
    this.#destinations.set(key, made);
    return made;
  }

  /** No plan goes beyond the wait that its attempts allow, whatever the clock said when it was made. */
  #latest({ attempts }: Job): number {
    return this.#options.clock.now() + 1.1 * this.#step(attempts);
  }

  /** The wait after that many attempts, or failures. */
  #step(attempts: number): number {
    const { retryMs } = this.#options;
    return retryMs[Math.max(0, Math.min(attempts, retryMs.length) - 1)] ?? 0;
  }
}

const sentences = { delivered: 'mail was delivered', deferred: 'mail is deferred', failed: 'mail has failed' } as const;
const unexplained: Delivery = { kind: 'deferred', status: '4.3.0', text: 'an internal error' };

const pending = (record: StoredEntry): readonly StoredRecipient[] => record.recipients.filter(({ isDone }) => !isDone);
const isOver = (record: StoredEntry): boolean => record.recipients.every(({ isDone }) => isDone);

/** The recipients that wait and are meant. */
function matching(record: StoredEntry, { domain, sender }: Selector): readonly StoredRecipient[] {
  if (sender !== undefined && record.from.toLowerCase() !== sender.toLowerCase()) return [];
  const wanted = domain && (toDomain(domain) ?? domain);
  return pending(record).filter(recipient => wanted === undefined || recipient.domain === wanted);
}

/** At the end of its life a deferral fails, for the reason that it had. */
function givenUp(delivery: Delivery): Delivery {
  const text = `${delivery.text} (given up: this is how long mail may wait)`;
  return { ...delivery, kind: 'failed', status: `5${delivery.status.slice(1)}`, text };
}

/** What there is to tell the sender, if anything. That there is no TLS is told at once: waiting rarely helps. */
function actionFor(to: StoredRecipient, delivery: Delivery, isLate: boolean): Outcome['action'] | undefined {
  if (delivery.kind === 'failed') return 'failed';
  if (delivery.kind === 'deferred')
    return !to.isDelayTold && (isLate || delivery.status === '4.7.4') ? 'delayed' : undefined;
  if (!to.notify?.includes('SUCCESS') || delivery.isDsnPassedOn) return undefined;
  if (delivery.remote !== undefined) return 'relayed';
  return to.isShared ? 'expanded' : 'delivered';
}
