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
// seat (intake.ts). With a seat it is sent from memory; without one the lease is given back, and whoever claims it
// sends it. So two commits keep most mail: that of `accept` and that of `settle`. A large message is uploaded first,
// without jobs (bodies.ts).
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
import { Replica } from './replica.ts';
import { type Lease, type LeasedRow, columnsOf, toLeased } from './rows.ts';
import { schemaMaker } from './schema.ts';
import * as sql from './statements.ts';
import { type Writing, checkJobs, nameOf, writeJobs } from './jobs.ts';

const retryMs = 500;
/** After a lost answer the database may work on for so long, before what it has left is looked for. */
const orphanMs = 10_000;
/** Destinations that one claim looks at, and jobs that it takes of one of them. */
const [maxDestinations, maxOfDestination] = [50, 10];
/**
 * Once in so long a claim takes so many jobs whose senders are to hear something, and looks at all destinations that
 * are due. In between it looks at those that became due since, and not at the dead entries of all before.
 */
const [lateMs, maxLate, farBack] = [1000, 20, 1e9];

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
  readonly #settles = new Group<Writing, boolean>(200, items => this.#write(items, true));
  readonly #puts = new Group<Writing, boolean>(100, items => this.#write(items, false));
  readonly #checks = new Group<LeasedJob, boolean>(500, items =>
    checkJobs(this.#options.database.query, this.#replica.id, items),
  );
  /** All jobs that are leased; then the same by their names. */
  readonly #leases = new Map<LeasedJob, Lease>();
  readonly #byName = new Map<string, LeasedJob>();
  #on: On = { onWork: () => undefined, onLost: () => undefined };
  /** When an answer of the database was lost; undefined once the leases that it may have given are given back. */
  #doubtAt: number | undefined;
  #orphaning: Promise<void> | undefined;
  #wokenAt = -lateMs;

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
    const [mayTakeSeats, onDoubt] = [() => this.#orphaning, () => this.#doubt()];
    this.#intake = new Intake({ query, bodies, maxSessions, life, mayTakeSeats, onDoubt });
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
      for (const job of jobs) this.#hold(job, { ...lease });
      try {
        if (octets === undefined) await this.#intake.commitUpload(mail);
        else if (!(await this.#intake.add({ ...mail, octets, wantsSeats: mayRun() })))
          throw new CannotTell(`the queue has a message ${record.id} already`);
      } catch (error) {
        for (const job of jobs) this.#release(job);
        throw error;
      }
      return this.#share(jobs, plans);
    };
    const abort = async (): Promise<void> => {
      if (message.kind === 'memory') return;
      this.#intake.forget(record.id);
      await this.#intake.tidy().catch(() => undefined);
    };
    return { commit, abort };
  }

  /** The jobs that have a seat; all others are given back. A job that is lost already is somebody else's. */
  #share(jobs: readonly LeasedJob[], plans: readonly JobPlan[]): readonly LeasedJob[] {
    const left = jobs.map((job, at) => ({ job, plan: plans[at] })).filter(({ job }) => job.seat === undefined);
    for (const { job, plan } of left)
      if (plan) void this.write(job, plan, record => ({ ...plan, record })).then(() => this.#announce());
    return jobs.filter(job => job.seat !== undefined && this.#leases.has(job));
  }

  async claim({ jobs, notices, sessions }: ClaimLimits) {
    await this.#tidy();
    const me = this.#replica.id;
    if (me === undefined) return { jobs: [], isMore: false };
    const fewer = [[...sessions.keys()], [...sessions.values()]];
    const isLateTime = monotonicMs() - this.#wokenAt >= lateMs;
    if (isLateTime) this.#wokenAt = monotonicMs();
    const lookBack = isLateTime ? farBack : lateMs / 1000;
    // No more destinations are looked at than jobs may be taken: one that is looked at in vain waits a second.
    const destinations = Math.min(maxDestinations, jobs);
    const values = [me, destinations, jobs, maxOfDestination, this.#options.maxSessions, notices, ...fewer, lookBack];
    try {
      const rows = await this.#ask<LeasedRow & { readonly looked: number }>(sql.claim, values);
      const due: readonly LeasedRow[] = rows.filter(({ id }) => id !== null);
      const late = isLateTime ? await this.#ask<LeasedRow>(sql.wake, [me, maxLate]) : [];
      const isMore = due.length > 0 || (rows[0]?.looked ?? 0) >= destinations;
      return { jobs: me === this.#replica.id ? [...due, ...late].map(row => this.#take(row)) : [], isMore };
    } catch (error) {
      this.#doubt();
      throw error;
    }
  }

  #take(row: LeasedRow): LeasedJob {
    const { job, lease } = toLeased(row);
    // A job that we had was written although the answer was lost: else it could not be claimed again.
    const before = this.#byName.get(nameOf(job));
    if (before) this.#release(before);
    this.#hold(job, lease);
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
    return isMine && this.#replica.isSure && this.#leases.has(job);
  }

  async write(job: LeasedJob, plan: JobPlan, merge: (changed: StoredEntry) => JobPlan): Promise<void> {
    let next = plan;
    for (let lease; (lease = this.#leases.get(job));)
      try {
        const isOver = next.state === 'done';
        if (await (isOver && lease.isSingle ? this.#settles : this.#puts).add({ job, lease, plan: next })) {
          this.#release(job);
          if (isOver && !lease.isSingle) await this.#ask(sql.reap, [[job.record.id]]);
        } else if (this.#leases.get(job) === lease) {
          const changed = await this.#reread(job, lease);
          if (changed) next = merge(changed);
          else await this.#giveUp(job);
        }
      } catch {
        await pause(retryMs, undefined, { ref: false });
      }
  }

  /** Drops a job that cannot be written: it was written before, or an operator has removed it, or its lease is lost. */
  async #giveUp(job: LeasedJob): Promise<void> {
    const { seat, destination } = job;
    const isUsed = [...this.#leases.keys()].some(
      other => other !== job && other.seat === seat && other.destination === destination,
    );
    if (seat !== undefined && !isUsed) await this.#ask(sql.unseat, [this.#replica.id, [destination], [seat]]);
    this.#release(job);
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

  /** Removes what lost answers have left, as soon as the database cannot be working on it any more. */
  async #tidy(): Promise<void> {
    await this.#intake.tidy();
    const isTime = this.#doubtAt !== undefined && monotonicMs() - this.#doubtAt >= orphanMs;
    if (!isTime || this.#intake.isTakingSeats) return;
    const known = [...this.#leases.keys()];
    const seated = known.filter(({ seat }) => seat !== undefined);
    const names = [known.map(({ record }) => record.id), known.map(({ destination }) => destination)];
    const seats = [seated.map(({ destination }) => destination), seated.map(({ seat }) => seat)];
    this.#orphaning = this.#ask(sql.orphans, [this.#replica.id, ...names, ...seats]).then(() => undefined);
    try {
      await this.#orphaning;
      this.#doubtAt = undefined;
    } finally {
      this.#orphaning = undefined;
    }
  }

  #doubt(): void {
    this.#doubtAt = monotonicMs();
  }

  #ask<T = unknown>(statement: Statement, values: readonly unknown[] = [], query = this.#options.database.query) {
    return query(statement, values) as unknown as Promise<readonly T[]>;
  }

  #announce(): void {
    this.#on.onWork();
    this.#listener.notify();
  }

  #hold(job: LeasedJob, lease: Lease): void {
    this.#leases.set(job, lease);
    this.#byName.set(nameOf(job), job);
  }

  #release(job: LeasedJob): void {
    this.#leases.delete(job);
    if (this.#byName.get(nameOf(job)) === job) this.#byName.delete(nameOf(job));
  }

  #loseAll(): void {
    const lost = [...this.#leases.keys()];
    this.#leases.clear();
    this.#byName.clear();
    for (const job of lost) this.#on.onLost(job);
  }
}
