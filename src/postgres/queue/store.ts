// The store of the queue that several replicas share, in PostgreSQL.
//
// Theory of operation
//
// A message is a row, and each of its jobs is a row: its recipients that have one next hop. A job that waits has no
// owner; one that is leased names the life of the replica that has it (replica.ts). A seat is the right to one attempt
// at a destination; the key of its table makes one too many impossible. A destination has a row only where something
// waits or backs off; it says when there is something to claim.
//
// New mail is leased at once by the replica that took it, in the statement that makes it stable, which also asks for a
// seat (intake.ts). With a seat it is sent from memory. Without one it waits in memory until an attempt of this replica
// ends (seats.ts), or its lease is given back and the replica that claims it sends it. So most messages cost two
// commits: `accept` and `settle`. A large message is uploaded first, without jobs (bodies.ts).
//
// An answer may be lost, and then it is not known whether the statement was carried out. Each statement may be sent
// again. Of new mail it is asked first whether it is there: it cannot have been sent meanwhile, because its lease was
// this replica's. What a lost answer has left to this replica without its knowledge is given back after a while
// (`orphans`).
// Promises: commit() resolves after COMMIT, or rejects. A job is written by its owner alone. Memory has only what is
// leased.
import { setTimeout as pause } from 'node:timers/promises';
import type { Selector } from '../../mail/admin.ts';
import { type Message, inMemory } from '../../mail/message.ts';
import { CannotTell } from '../../mail/ports.ts';
import type {
  ClaimLimits,
  JobPlan,
  LeasedJob,
  SharedMessage,
  SharedCounts,
  SharedStore,
  StoredEntry,
} from '../../mail/queue-store.ts';
import type { Log } from '../../system/log.ts';
import { monotonicMs } from '../../system/world.ts';
import type { Database, Statement } from '../pool.ts';
import { Spool, limited } from './bodies.ts';
import { Group } from './group.ts';
import { Intake } from './intake.ts';
import { Listener } from './listener.ts';
import { counts, pages } from './looking.ts';
import { Orphans } from './orphans.ts';
import { Replica } from './replica.ts';
import { Seats, columnsOfSeats, without } from './seats.ts';
import { type Lease, type LeasedRow, columnsOf, toLeased } from './rows.ts';
import { schemaMaker } from './schema.ts';
import * as sql from './statements.ts';
import { type Writing, checkJobs, writeJobs } from './jobs.ts';
import { Leases } from './leases.ts';
import { LookBack } from './look-back.ts';

const retryMs = 500;
/** Destinations that one claim looks at, and jobs that it takes of one of them. */
const [maxDestinations, maxOfDestination] = [50, 10];
/** Every `lateMs` a claim also leases up to `maxLate` jobs whose senders are to be told that their mail is late. */
const [lateMs, maxLate] = [1000, 20];
/** Under load the beginnings of two `settle` statements are so far apart: nobody waits for them. */
const settleGapMs = 10;
/** Under load the beginnings of two `check` statements are so far apart: the attempts that ask meanwhile share one. */
const checkGapMs = 2;

type StoreOptions = Readonly<{
  database: Database;
  spoolFolder: string;
  /** SLIM_MAX_SESSIONS_OUT. */
  maxSessions: number;
  /** The first wait of SLIM_RETRY. */
  firstRetryMs: number;
  log: Log;
}>;
type On = { onWork(): void; onLost(job: LeasedJob): void };

export class PostgresStore implements SharedStore {
  readonly #options: StoreOptions;
  readonly #replica: Replica;
  readonly #listener: Listener;
  readonly #intake: Intake;
  readonly #bodies: Database['query'];
  readonly #spool: Spool;
  readonly #settles = new Group<Writing, boolean>(200, settleGapMs, items => this.#write(items, true));
  readonly #puts = new Group<Writing, boolean>(100, 0, items => this.#write(items, false));
  readonly #checks = new Group<LeasedJob, boolean>(500, checkGapMs, items =>
    checkJobs(this.#options.database.query, this.#replica.id, items),
  );
  readonly #seats = new Seats(async seats => {
    if (await this.#orphans.unseat(this.#replica.id, seats)) this.#announce();
  });
  readonly #leases = new Leases();
  #on: On = { onWork: () => undefined, onLost: () => undefined };
  readonly #orphans: Orphans;
  #wokenAt = -lateMs;
  readonly #lookBack = new LookBack();

  constructor(options: StoreOptions) {
    const { database, log, maxSessions, spoolFolder } = options;
    const { query } = database;
    this.#options = options;
    const onWork = (): void => this.#on.onWork();
    const onLost = (): void => this.#loseAll();
    this.#replica = new Replica({ query, makeSchema: schemaMaker(database, log), onWork, onLost, log });
    this.#listener = new Listener(database, onWork);
    const bodies = (this.#bodies = limited(query));
    this.#spool = new Spool(bodies, spoolFolder);
    const life = (): string | undefined => this.#replica.id;
    this.#orphans = new Orphans(query, () => this.#known());
    this.#intake = new Intake({ query, bodies, maxSessions, seats: this.#seats, life, orphans: this.#orphans });
  }

  async start(on: On): Promise<void> {
    this.#on = on;
    await this.#replica.start();
    void this.#listener.start();
  }

  async stop(): Promise<void> {
    this.#listener.stop();
    await this.#replica.stop();
    this.#loseAll();
    await this.#options.database.close().catch(() => undefined);
  }

  async prepare(record: StoredEntry, plans: readonly JobPlan[], message: Message, mayRun: () => boolean) {
    if (this.#replica.id === undefined || !this.#replica.isSure)
      throw new CannotTell('the queue in PostgreSQL cannot be reached');
    const jobs = plans.map(({ destination, record: own }): LeasedJob => {
      return { destination, record: own, seat: undefined, failures: 0, deaths: 0 };
    });
    const mail = { record, jobs, plans };
    const octets = message.kind === 'memory' ? Buffer.concat(message.octets.pieces) : undefined;
    if (message.kind === 'file') await this.#intake.upload(mail, message.path);
    const body = message.kind === 'memory' && { body: message };
    const lease = { revision: 0, isSingle: plans.length === 1, isChunked: message.kind === 'file', ...body };
    const commit = async (): Promise<readonly LeasedJob[]> => {
      for (const job of jobs) this.#leases.hold(job, { ...lease });
      try {
        const open = octets && (await this.#intake.add({ ...mail, octets, wantsSeats: mayRun() }));
        if (open === undefined) await this.#intake.commitUpload(mail);
        return this.#share(jobs, plans, open ?? []);
      } catch (error) {
        for (const job of jobs) this.#leases.release(job);
        throw error;
      }
    };
    const abort = async (): Promise<void> => {
      if (message.kind === 'memory') return;
      this.#intake.forget(record.id);
      await this.#intake.tidy().catch(() => undefined);
    };
    return { commit, abort };
  }

  /** Returns the jobs of a new message that are leased. Those without a seat wait for one, or are given back. */
  #share(jobs: readonly LeasedJob[], plans: readonly JobPlan[], open: readonly LeasedJob[]): readonly LeasedJob[] {
    for (const [at, job] of jobs.entries()) {
      const plan = plans[at];
      if (plan === undefined || job.seat !== undefined) continue;
      const giveBack = (): Promise<void> => this.write(job, plan, record => ({ ...plan, record }));
      const isAhead = this.#seats.has(job.destination) || this.#leases.isSeatedAt(job.destination);
      // Notices have a limit of places of their own, and a seat does not say whether one of these is free.
      const mayWait = open.includes(job) && isAhead && job.record.from !== '';
      job.isSeated = this.#seat(job, mayWait, giveBack);
    }
    return jobs.filter(job => this.#leases.get(job));
  }

  /** If the job may wait, waits for a seat of this replica. Resolves with false if the job is given back instead. */
  async #seat(job: LeasedJob, mayWait: boolean, giveBack: () => Promise<void>): Promise<boolean> {
    const isSeated = mayWait && (await this.#seats.wait(job));
    if (!isSeated) void giveBack().then(() => this.#announce());
    return isSeated;
  }

  async claim(limits: ClaimLimits) {
    await this.#intake.tidy();
    return this.#orphans.taking(() => this.#claim(limits));
  }

  async #claim({ jobs, notices, sessions }: ClaimLimits) {
    const me = this.#replica.id;
    if (me === undefined) return { jobs: [], isMore: false };
    const now = monotonicMs();
    const isLateTime = now - this.#wokenAt >= lateMs;
    if (isLateTime) this.#wokenAt = now;
    // No more destinations are looked at than jobs may be taken: one that is looked at in vain waits a second.
    const destinations = Math.min(maxDestinations, jobs);
    const kept = this.#seats.takeAll();
    const fewer = [[...sessions.keys()], [...sessions.values()]];
    const limits = [destinations, jobs, maxOfDestination, this.#options.maxSessions, notices, ...fewer];
    const known = [this.#lookBack.seconds(now), ...columnsOfSeats(kept)];
    type Row = LeasedRow & { readonly looked: number; readonly age: number | null };
    let due: readonly Row[] = [];
    try {
      const rows = await this.#ask<Row>(sql.claim, [me, ...limits, ...known]);
      const late = isLateTime ? await this.#ask<LeasedRow>(sql.wake, [me, maxLate]) : [];
      if (me !== this.#replica.id) return { jobs: [], isMore: true };
      this.#lookBack.hasLooked(now, rows[0]?.age ?? 0);
      due = rows.filter(({ id }) => id !== null);
      const isMore = due.length > 0 || (rows[0]?.looked ?? 0) >= destinations;
      return { jobs: [...due, ...late].map(row => this.#take(row)), isMore };
    } catch (error) {
      this.#orphans.doubt();
      throw error;
    } finally {
      if (me === this.#replica.id) this.#seats.restore(without(kept, due));
    }
  }

  #take(row: LeasedRow): LeasedJob {
    const { job, lease } = toLeased(row);
    // A job that we had was written although the answer was lost: else it could not be claimed again.
    const before = this.#leases.same(job);
    if (before) this.#leases.release(before);
    this.#leases.hold(job, lease);
    return job;
  }

  async content(job: LeasedJob): Promise<{ readonly message: Message; release(): void }> {
    const { id, sizeBytes } = job.record;
    const { body, isChunked } = this.#leases.get(job) ?? {};
    if (body) return { message: body, release: () => undefined };
    if (isChunked) return this.#spool.fetch(id, job.seat, sizeBytes);
    const [row] = await this.#ask<{ readonly data: Buffer }>(sql.body, [id], this.#bodies);
    if (row === undefined) throw new CannotTell('its content is gone: another replica has sent it');
    return { message: inMemory(row.data), release: () => undefined };
  }

  async confirm(job: LeasedJob): Promise<boolean> {
    const isMine = await this.#checks.add(job).catch(() => false);
    return isMine && this.#replica.isSure && this.#leases.get(job) !== undefined;
  }

  async write(job: LeasedJob, plan: JobPlan, merge: (changed: StoredEntry) => JobPlan): Promise<void> {
    let next = plan;
    const isSent = plan.state === 'done' && this.#leases.get(job)?.isSingle;
    if (isSent && this.#seats.keep(job)) job.seat = undefined;
    for (let lease; (lease = this.#leases.get(job));)
      try {
        const isOver = next.state === 'done';
        if (await (isOver && lease.isSingle ? this.#settles : this.#puts).add({ job, lease, plan: next })) {
          this.#leases.release(job);
          if (isOver && !lease.isSingle) await this.#ask(sql.reap, [[job.record.id]]);
        } else if (this.#leases.get(job) === lease) {
          const changed = await this.#reread(job, lease);
          if (changed) next = merge(changed);
          else this.#giveUp(job);
        }
      } catch {
        await pause(retryMs, undefined, { ref: false });
      }
  }

  /** The record as an operator has changed it; undefined where the job is not leased any more. */
  async #reread(job: LeasedJob, lease: Lease): Promise<StoredEntry | undefined> {
    type Row = { readonly revision: number; readonly record: Pick<StoredEntry, 'recipients'> };
    const [row] = await this.#ask<Row>(sql.reread, [this.#replica.id, job.record.id, job.destination]);
    if (row) lease.revision = row.revision;
    return row && { ...job.record, ...row.record };
  }

  async block(
    { destination, failures: before }: LeasedJob,
    failures: number,
    waitMs: number,
    reason: LeasedJob['reason'],
  ) {
    await this.#ask(sql.block, [destination, before, failures, waitMs / 1000, reason ? JSON.stringify(reason) : null]);
  }

  async unblock(destinations: readonly string[]): Promise<void> {
    await this.#ask(sql.unblock, [destinations]);
    this.#announce();
  }

  list(selector: Selector): AsyncGenerator<SharedMessage> {
    return pages(this.#options.database.query, selector);
  }

  async order({ record, revision }: SharedMessage['jobs'][number], plan: JobPlan): Promise<boolean> {
    const { destination, state, wait, wake, record: own } = columnsOf(plan);
    const lists = [record.id, destination, revision, state, wait, wake, own].map(value => [value]);
    const [row] = await this.#ask<{ readonly is_leased: boolean }>(sql.order, lists);
    if (row && state === 'done') await this.#ask(sql.reap, [[record.id]]);
    if (row) this.#announce();
    return row !== undefined;
  }

  count(): Promise<SharedCounts> {
    return counts(this.#options.database.query);
  }

  async has(id: string): Promise<boolean> {
    return (await this.#ask(sql.has, [id])).length > 0;
  }

  async #write(items: readonly Writing[], isOver: boolean): Promise<readonly boolean[]> {
    const { database, firstRetryMs } = this.#options;
    const { written, isWoken } = await writeJobs(database.query, this.#replica.id, items, isOver, firstRetryMs / 1000);
    if (isWoken) this.#announce();
    return written;
  }

  /** Drops a job that cannot be written: it was written before, or an operator has removed it, or its lease is lost. */
  #giveUp(job: LeasedJob): void {
    if (job.seat !== undefined) this.#orphans.doubt();
    this.#leases.release(job);
  }

  /** The parameters of `orphans`: all jobs that are leased, and all seats that these jobs use or that are kept. */
  #known(): readonly unknown[] {
    const { jobs } = this.#leases;
    const names = [jobs.map(({ record }) => record.id), jobs.map(({ destination }) => destination)];
    return [this.#replica.id, ...names, ...columnsOfSeats([...jobs, ...this.#seats.all()])];
  }

  #ask<T = unknown>(statement: Statement, values: readonly unknown[] = [], query = this.#options.database.query) {
    return query(statement, values) as unknown as Promise<readonly T[]>;
  }

  #announce(): void {
    this.#on.onWork();
    this.#listener.notify();
  }

  #loseAll(): void {
    const lost = this.#leases.lose();
    this.#seats.clear();
    this.#lookBack.reset();
    for (const job of lost) this.#on.onLost(job);
  }
}
