// The queue: what is due is tried, what cannot be delivered now waits, and the sender is told what became of it.
//
// Theory of operation
//
// What is kept. A message that waits is an entry. Its record (the envelope, and of each recipient what became of it)
// and its content are kept by a store, which the wiring gives: new mail in the journal (fresh.ts) in front of files
// (files.ts). Memory has of an entry only its times, a few hundred octets; the record is read when it is needed, and
// shared by all who use it then (records.ts).
//
// States of a recipient, as the record has them:
// - waiting, which means that it is due now or at `nextAt`;
// - held by an operator, or because its message kills the server: not tried, not given up;
// - decided (`last` is delivered or failed), while the notice to the sender is not stable yet;
// - done. When all recipients are done the store removes the message.
// Only a turn (attempt.ts, which judges by outcome.ts) and an operator's order (admin.ts) move a recipient between
// them.
//
// Who moves the jobs. All recipients of an entry that have one next hop are a job (job.ts). schedule.ts knows which
// jobs are planned, ready or running, and gives turns; destination.ts says when a destination may be tried and by how
// many attempts at once; places.ts says who may occupy a place and for how long; trial.ts makes messages that were in
// flight at a crash go one at a time. This file joins them: it runs each turn, and asks for the next one whenever a
// message came, a turn ended, or a second passed.
//
// What can be true at once:
// - Jobs of one entry run in parallel, and change the one record that they share; each writes it, or shares a write.
// - Of one entry and one destination at most one job exists, and it runs at most once at a time: no recipient is tried
//   twice at once.
// - An attempt may begin before the client has its 250: what is prepared is stable, and the reply waits for nothing but
//   that.
// - An operator may hold or remove recipients while they are being tried. What was delivered by then stays delivered; a
//   held one neither expires nor goes along with the next attempt.
// - The process may die at any point. That a recipient is done is recorded after its notice is stable, so a death may
//   lead to a second notice or a second delivery, and never to a lost one.
// Bounds: see places.ts. No body and no envelope of what has waited for two seconds is in memory. RFC 5321 §4.5.4, RFC
// 3461 §5.
import { setImmediate, setTimeout as pause } from 'node:timers/promises';
import type { QueueAction, QueueCounts, QueuedMessage, Selector } from '../mail/admin.ts';
import type { Message, QueueEntry } from '../mail/message.ts';
import type { Prepared, Queue } from '../mail/ports.ts';
import type { QueueStore, StoredEntry } from '../mail/queue-store.ts';
import { describe, order } from './admin.ts';
import { type AttemptOptions, carryOut } from './attempt.ts';
import type { Found } from './destination.ts';
import { Records, isOver, newRecord, pending } from './records.ts';
import type { Entry, Turn } from './job.ts';
import { Schedule, type ScheduleOptions } from './schedule.ts';
import type { Suspects } from './suspects.ts';

/** An order is carried out for so many messages side by side. */
const maxOrders = 100;
/** Entries that are looked through before other work gets a turn of the event loop. */
const entriesInTurn = 64;

export type QueueOptions = AttemptOptions &
  ScheduleOptions &
  Readonly<{
    store: QueueStore;
    /** Knows which messages were in flight when the process died. */
    suspects: Suspects;
    /** Called for each message that is held because it kills the server. */
    onKiller: (record: StoredEntry) => Promise<void>;
  }>;

export class MailQueue implements Queue {
  readonly #options: QueueOptions;
  readonly #records: Records;
  readonly #schedule: Schedule;
  readonly #entries = new Map<string, Entry>();
  readonly #turns = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#schedule = new Schedule(options);
    this.#records = new Records(options.store, options.log, id => {
      this.#entries.delete(id);
      options.suspects.clear(id);
    });
  }

  /** How many messages wait. */
  get size(): number {
    return this.#entries.size;
  }

  /** Loads what the store has, then begins. */
  async start(): Promise<void> {
    const { store, suspects } = this.#options;
    const killers: StoredEntry[] = [];
    suspects.open();
    for await (const record of store.claim()) {
      if (isOver(record)) await store.remove(record.id);
      else if (suspects.isKiller(record.id)) killers.push(record);
      else this.#add(record);
    }
    for (const record of killers) await this.#holdKiller(record);
    this.#timer = setInterval(() => this.tick(), 1000).unref();
    this.tick();
  }

  /** Begins nothing more, and waits for what is under way. */
  async stop(withinMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await Promise.race([Promise.all(this.#turns), pause(withinMs, undefined, { ref: false })]);
    this.#options.suspects.close();
  }

  async prepare(entry: QueueEntry, message: Message): Promise<Prepared> {
    if (this.#entries.has(entry.id)) throw new Error(`the queue has a message ${entry.id} already`);
    const record = newRecord(entry, message.sizeBytes, this.#options.clock.now());
    const { commit, abort } = await this.#options.store.prepare(record, message);
    return { commit: async () => (await commit(), this.#begin(record)), abort };
  }

  /** Most mail leaves at once: its record is at hand, and is not read again. */
  #begin(record: StoredEntry): void {
    this.#add(record);
    void this.#records.use(record.id, () => this.#dispatch(), record);
  }

  /** To be called every second. */
  tick(): void {
    this.#schedule.tick();
    this.#records.tick();
    this.#dispatch();
  }

  /**
   * Lists what waits; where the selector has an id, with the recipients of that message that do not wait any more, too.
   */
  async *list(selector: Selector): AsyncGenerator<QueuedMessage> {
    for await (const entry of this.#chosen(selector)) {
      const look = (record: StoredEntry): QueuedMessage | undefined => {
        const jobOf = this.#schedule.jobsOf(entry);
        return describe(record, selector, this.#options.clock.now(), recipient => {
          const job = jobOf(recipient);
          return job && this.#schedule.explain(job);
        });
      };
      const found = await this.#records.use(entry.id, look).catch((error: unknown) => {
        this.#records.complain(entry.id, error);
      });
      if (found) yield found;
    }
  }

  /**
   * Carries out an operator's order, and says how many messages it concerned. An operator who says 'now' knows that the
   * destination is back, so its other mail may go as well.
   */
  async act(action: QueueAction, selector: Selector): Promise<number> {
    let touched = 0;
    const change = async (entry: Entry, record: StoredEntry): Promise<void> => {
      const recipients = order(record, action, selector, this.#options.clock.now());
      if (recipients.length === 0) return;
      touched += 1;
      const to = recipients.slice(0, 20).map(({ address }) => address);
      this.#options.listen?.({ kind: 'order', message: record.id, action, by: 'operator', to });
      const jobs = new Set(recipients.map(this.#schedule.jobsOf(entry)));
      if (action === 'retry') for (const job of jobs) if (job) this.#schedule.unblock(job);
      this.#schedule.plan(entry, record);
      if (action !== 'retry') await this.#records.save(record);
    };
    const changes: Promise<void>[] = [];
    for await (const entry of this.#chosen(selector)) {
      const changed = this.#records.use(entry.id, record => change(entry, record));
      changes.push(changed.catch((error: unknown) => this.#records.complain(entry.id, error)));
      if (changes.length === maxOrders) await Promise.all(changes.splice(0));
    }
    await Promise.all(changes);
    this.tick();
    return touched;
  }

  /** Counts what waits, in which state, and since when. */
  async count(): Promise<QueueCounts> {
    const states = { waiting: 0, sending: 0, held: 0 };
    let oldestAt: number | undefined;
    for await (const { jobs, receivedAt } of this.#chosen({})) {
      // A held recipient has no job.
      if (jobs.length === 0) states.held += 1;
      else if (jobs.some(({ isRunning }) => isRunning)) states.sending += 1;
      else states.waiting += 1;
      oldestAt = Math.min(oldestAt ?? receivedAt, receivedAt);
    }
    return { ...states, oldestAt, destinations: this.#schedule.destinations };
  }

  /** The entries that a selector may mean, with a turn of the event loop now and then. */
  async *#chosen({ id }: Selector): AsyncGenerator<Entry> {
    const chosen = id === undefined ? [...this.#entries.values()] : [this.#entries.get(id)];
    for (const [index, entry] of chosen.entries()) {
      if (index % entriesInTurn === entriesInTurn - 1) await setImmediate();
      if (entry && this.#entries.has(entry.id)) yield entry;
    }
  }

  #add(record: StoredEntry): void {
    const { id, receivedAt, from } = record;
    if (this.#entries.has(id)) return;
    const deaths = this.#options.suspects.deaths(id);
    const entry: Entry = { id, receivedAt, isNotice: from === '', jobs: [], deaths };
    this.#entries.set(id, entry);
    this.#schedule.plan(entry, record);
  }

  /** A message that has killed the server three times, alone in flight, is put aside. */
  async #holdKiller(record: StoredEntry): Promise<void> {
    const { store, suspects, onKiller, listen, log } = this.#options;
    const { id, from } = record;
    log.error({ message: id, from }, 'a message is held: the server has died three times while it was in flight alone');
    for (const recipient of pending(record)) recipient.isHeld = true;
    listen?.({ kind: 'order', message: id, action: 'hold', by: 'server', to: [] });
    try {
      await store.update(record);
      suspects.clear(id);
      this.#add(record);
      await onKiller(record);
    } catch (error) {
      this.#records.complain(id, error);
    }
  }

  /** Begins every turn that may begin now. */
  #dispatch(): void {
    if (this.#timer === undefined) return;
    for (let turn; (turn = this.#schedule.next());) this.#run(turn);
  }

  #run(turn: Turn): void {
    const done = this.#takeTurn(turn).finally(() => {
      this.#turns.delete(done);
      this.#dispatch();
    });
    this.#turns.add(done);
  }

  /** Never rejects. */
  async #takeTurn(turn: Turn): Promise<void> {
    const { entry } = turn.job;
    let found: Found | undefined;
    // This is written before the content is read: if reading kills the process, the next start knows the message.
    const written = this.#options.suspects.begin(entry.id);
    try {
      found = await this.#records.use(entry.id, record => this.#work(turn, record, written));
    } catch (error) {
      this.#records.complain(entry.id, error);
      if (entry.jobs.includes(turn.job)) this.#schedule.postpone(turn.job);
    }
    this.#survived(turn);
    this.#schedule.ended(turn, found);
  }

  async #work(turn: Turn, record: StoredEntry, isBegun: Promise<void> | undefined): Promise<Found | undefined> {
    if (isBegun) await isBegun;
    const { job } = turn;
    const recipients = pending(record).filter(to => !to.isHeld && this.#schedule.isOf(job, to));
    const { found, isChanged } = await carryOut(turn, record, recipients, this.#options);
    if (isChanged) await this.#records.save(record);
    job.isRunning = false;
    this.#schedule.plan(job.entry, record, job.destination);
    return found;
  }

  /**
   * The process has survived this turn. But an attempt that was ended early does not prove that its message is
   * harmless.
   */
  #survived({ job, place }: Turn): void {
    const { suspects } = this.#options;
    const { entry } = job;
    suspects.end(entry.id);
    if (entry.deaths === 0 || this.#schedule.isOnTrial(entry)) return;
    entry.deaths = 0;
    if (!place.isEnded) suspects.clear(entry.id);
  }
}
