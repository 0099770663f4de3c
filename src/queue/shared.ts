// The queue that several replicas share: the store decides what is due and who may try it, and this replica carries out
// what it has leased. What is the same as in the queue on the disk is the same code: the turn (attempt.ts), what it
// means (outcome.ts, destination.ts), who may occupy a place (places.ts), what an operator sees and orders (admin.ts).
//
// Theory of operation
//
// A job is all recipients of a message that have one next hop. It is leased, it runs, and what became of it is written;
// then it is not this replica's any more, and nothing of it is left in memory. So memory does not grow with the queue.
// New mail for which the store has a free seat begins at once; all else is claimed: when the store says that something
// may be due, when a turn ends while other mail waits, and every second.
// A lease may be lost at any time. Then its attempt is ended, and what it brings is not written: another replica has the
// job. Right before the next hop is told to take the message the store is asked whether the lease still holds, so that
// only a death in that very moment sends a message twice.
// An operator may change a record that is leased. Whoever has the lease finds that when it writes, and joins both.
import { setTimeout as pause } from 'node:timers/promises';
import type { QueueAction, QueueCounts, QueuedMessage, Selector } from '../mail/admin.ts';
import { type Message, type QueueEntry, laneOf, nextHopAt, nextHopKey, nextHopOf } from '../mail/message.ts';
import type { Prepared, Queue } from '../mail/ports.ts';
import type { JobPlan, LeasedJob, SharedStore, StoredEntry } from '../mail/queue-store.ts';
import { type AttemptOptions, type Turn, carryOut } from './attempt.ts';
import { type DestinationState, type Limits, attemptsAt, waitAfter } from './destination.ts';
import { type Occupied, Places } from './places.ts';
import { join, planOf } from './plan.ts';
import { newRecord, pending } from './records.ts';
import type { ScheduleOptions } from './schedule.ts';
import { actShared, listShared } from './shared-admin.ts';

/** Jobs of one claim. */
const maxClaim = 50;
/** Octets of new mail that is sent from memory. */
const maxFreshBytes = 16 * 1024 * 1024;
/** Where a next hop is busy or crowded, its mail waits so long at least. */
const busyMs = 1000;
/** A message that was in flight at so many deaths of replicas is held. */
const maxDeaths = 5;
/** Destinations that take fewer sessions are remembered, so many. */
const maxLearnt = 1000;

export type SharedQueueOptions = Omit<AttemptOptions, 'store'> &
  ScheduleOptions &
  Readonly<{
    store: SharedStore;
    /** Called for each message that is held because it kills servers. */
    onKiller: (record: StoredEntry) => Promise<void>;
  }>;

/** What this replica has learnt of a destination by itself. */
type Learnt = { running: number; sessions: number; busyPauses: number };

export class SharedQueue implements Queue {
  readonly #options: SharedQueueOptions;
  readonly #places: Places<never>;
  readonly #running = new Map<LeasedJob, Occupied>();
  readonly #turns = new Set<Promise<void>>();
  readonly #learnt = new Map<string, Learnt>();
  #freshBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #isClaiming = false;
  #mayBeMore = false;

  constructor(options: SharedQueueOptions) {
    this.#options = options;
    this.#places = new Places(options.clock, options.maxSessions, () => undefined);
  }

  /** Messages that wait, of all replicas; beyond some thousands about so many. */
  get size(): Promise<number> {
    return this.#options.store.count().then(({ messages }) => messages);
  }

  /** The same for all replicas, but for what is being sent: that is what this one sends. */
  async count(): Promise<QueueCounts> {
    const { store } = this.#options;
    const { messages, held, oldestAt, destinations: all, blocked } = await store.count();
    const sending = this.#running.size;
    const waiting = Math.max(0, messages - sending - held);
    return { waiting, sending, held, oldestAt: oldestAt ?? undefined, destinations: { all, blocked } };
  }

  async start(): Promise<void> {
    const onLost = (job: LeasedJob): void => this.#running.get(job)?.end();
    this.#timer = setInterval(() => this.tick(), 1000).unref();
    await this.#options.store.start({ onWork: () => void this.#claim(), onLost });
  }

  /** Begins nothing more, and waits for what is under way. */
  async stop(withinMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const ended = (async () => {
      while (this.#turns.size > 0) await Promise.all(this.#turns);
    })();
    await Promise.race([ended, pause(withinMs, undefined, { ref: false })]);
  }

  /** Gives to others what is not done. The last thing. */
  async close(): Promise<void> {
    await this.#options.store.stop();
  }

  prepare(entry: QueueEntry, message: Message): Promise<Prepared> {
    return this.#prepare(newRecord(entry, message.sizeBytes, this.#options.clock.now()), message, true);
  }

  /** Takes a message over from a queue on the disk, unless it has it already. */
  async adopt(record: StoredEntry, message: Message): Promise<void> {
    try {
      await (await this.#prepare(record, message, false)).commit();
    } catch (error) {
      if (!(await this.#options.store.has(record.id))) throw error;
    }
  }

  async #prepare(record: StoredEntry, message: Message, mayRunAtOnce: boolean): Promise<Prepared> {
    const { store, isRelayed } = this.#options;
    const heldBytes = message.kind === 'memory' ? message.octets.heldBytes : 0;
    const groups = Map.groupBy(record.recipients, to => nextHopKey(nextHopOf(to, isRelayed)));
    const plans = [...groups].map(([key, recipients]) => this.#plan(key, { ...record, recipients }));
    const mayRun = (): boolean => mayRunAtOnce && this.#mayTake(record.from === '', heldBytes);
    const { commit, abort } = await store.prepare(record, plans, message, mayRun);
    return {
      commit: async () => {
        for (const job of await commit()) this.#run(job, heldBytes);
      },
      abort,
    };
  }

  #mayTake(isNotice: boolean, heldBytes: number): boolean {
    const hasPlace = !this.#places.isFull && !(isNotice && this.#places.isNoticeLaneFull);
    return this.#timer !== undefined && hasPlace && this.#freshBytes + heldBytes <= maxFreshBytes;
  }

  /** Every second. */
  tick(): void {
    this.#places.tick();
    void this.#claim();
  }

  /** Leases what is due, for as long as there is some, and there are places. Never rejects. */
  async #claim(): Promise<void> {
    this.#mayBeMore = true;
    if (this.#isClaiming) return;
    this.#isClaiming = true;
    try {
      while (this.#mayBeMore && this.#timer !== undefined) {
        if (this.#places.isFull) return this.#places.makeRoom();
        this.#mayBeMore = false;
        const limits = { jobs: Math.min(this.#places.room, maxClaim), notices: !this.#places.isNoticeLaneFull };
        const { jobs, isMore } = await this.#options.store.claim({ ...limits, sessions: this.#fewerSessions() });
        for (const job of jobs) this.#run(job, 0);
        this.#mayBeMore ||= isMore;
      }
    } catch {
      // The database has logged why it cannot answer; it is asked again in a second.
    } finally {
      this.#isClaiming = false;
    }
  }

  #fewerSessions(): ReadonlyMap<string, number> {
    const fewer = new Map<string, number>();
    for (const [key, { sessions }] of this.#learnt)
      if (sessions < this.#limitsOf(key).maxSessions) fewer.set(key, Math.floor(sessions));
    return fewer;
  }

  #run(job: LeasedJob, heldBytes: number): void {
    this.#freshBytes += heldBytes;
    const done = this.#takeTurn(job).finally(() => {
      this.#freshBytes -= heldBytes;
      this.#turns.delete(done);
    });
    this.#turns.add(done);
  }

  /** Never rejects. */
  async #takeTurn(job: LeasedJob): Promise<void> {
    if (job.isSeated && !(await job.isSeated)) return;
    // The job was leased, or got its seat, after the order to stop, and `stop` may not wait for its attempt.
    if (this.#timer === undefined) return this.#giveBack(job);
    const { destination: key, record, seat, failures, reason } = job;
    const { store, clock, log } = this.#options;
    const hop = nextHopAt(key);
    const learnt = this.#enter(key);
    const place = this.#places.take(laneOf(record.from === '', hop));
    place.confirm = () => store.confirm(job);
    this.#running.set(job, place);
    let content: ReturnType<SharedStore['content']> | undefined;
    const message = async (): Promise<Message> => (await (content ??= store.content(job))).message;
    let found: Pick<DestinationState, 'failures' | 'blockedUntil' | 'reason'> = { failures, blockedUntil: 0, reason };
    const destination = {
      hop,
      key,
      limits: this.#limitsOf(key),
      get running() {
        return learnt.running;
      },
      get state(): DestinationState {
        return { ...found, sessions: learnt.sessions, busyPauses: learnt.busyPauses };
      },
      set state({ sessions, busyPauses, ...rest }: DestinationState) {
        found = rest;
        learnt.sessions = sessions;
        learnt.busyPauses = busyPauses;
      },
    };
    const turn: Turn = { isAttempt: seat !== undefined, place, job: { destination, quietUntil: 0 } };
    let waitMs = 0;
    try {
      if (job.deaths >= maxDeaths) await this.#holdKiller(job);
      else {
        const recipients = pending(record).filter(({ isHeld }) => !isHeld);
        const turned = await carryOut(turn, record, recipients, { ...this.#options, store: { message } });
        if (turned.found === 'busy' || turned.found === 'crowded') waitMs = busyMs;
        waitMs = Math.max(waitMs, found.blockedUntil - clock.now());
        await this.#tell(job, destination.state);
      }
    } catch (error) {
      log.error({ message: record.id, destination: key, error: String(error) }, 'a turn of a message has failed');
      waitMs = waitAfter(1, this.#options.retryMs);
    }
    const planAfter = (now: StoredEntry): JobPlan => {
      const plan = this.#plan(key, now, turn.job.quietUntil);
      return { ...plan, waitMs: Math.max(plan.waitMs, waitMs) };
    };
    // Before it is written: with the write the seat is free, and whoever takes it would find the address full.
    this.#running.delete(job);
    place.leave();
    learnt.running -= 1;
    await store.write(job, planAfter(record), changed => planAfter(join(record, changed)));
    await content?.then(({ release }) => release()).catch(() => undefined);
  }

  /** Writes a leased job as waiting, unchanged, so that another replica can claim it. */
  async #giveBack(job: LeasedJob): Promise<void> {
    const planAs = (record: StoredEntry): JobPlan => this.#plan(job.destination, record);
    await this.#options.store.write(job, planAs(job.record), planAs);
  }

  #enter(key: string): Learnt {
    const known = this.#learnt.get(key) ?? { running: 0, sessions: this.#limitsOf(key).maxSessions, busyPauses: 0 };
    this.#learnt.set(key, known);
    known.running += 1;
    if (this.#learnt.size > maxLearnt)
      for (const [other, { running }] of this.#learnt) if (running === 0) this.#learnt.delete(other);
    return known;
  }

  #limitsOf(key: string): Limits {
    const { retryMs, maxSessions } = this.#options;
    return { retryMs, maxSessions: attemptsAt(nextHopAt(key), maxSessions) };
  }

  /** Tells the other replicas what an attempt has shown of the back-off of a destination. */
  async #tell(job: LeasedJob, { failures, blockedUntil, reason }: DestinationState): Promise<void> {
    const waitMs = blockedUntil - this.#options.clock.now();
    if (waitMs > 0) await this.#options.store.block(job, failures, waitMs, reason);
    else if (failures < job.failures) await this.#options.store.unblock([job.destination]);
  }

  async #holdKiller({ record }: LeasedJob): Promise<void> {
    const { log, listen, onKiller } = this.#options;
    const { id, from } = record;
    listen?.({ kind: 'order', message: id, action: 'hold', by: 'server', to: [] });
    log.error({ message: id, from }, `a message is held: ${maxDeaths} replicas have died while it was in flight`);
    for (const recipient of pending(record)) recipient.isHeld = true;
    await onKiller(record);
  }

  #plan(destination: string, record: StoredEntry, quietUntil = 0): JobPlan {
    return planOf(destination, record, this.#options.clock.now(), this.#options, quietUntil);
  }

  /** What waits, in all replicas; with an id also the recipients of that message that do not wait any more. */
  list(selector: Selector): AsyncGenerator<QueuedMessage> {
    return listShared(this.#options.store, selector, this.#options.clock);
  }

  /** Carries out an operator's order, and says how many messages it concerned. */
  act(action: QueueAction, selector: Selector): Promise<number> {
    return actShared(this.#options.store, action, selector, this.#options);
  }
}
