// The life of a replica in the database: a row with a lease, which is the fence of all that the replica owns. It is
// renewed every five seconds. When the row is gone, because this replica was stopped or cut off for longer than the
// lease, everything that it owned is free, and it begins a new life.
// Also here: what each replica does for all of them now and then.
// Promise: `isSure` is never true after others may have taken what is leased, whatever the clocks of the machines say:
// it counts on the clock that nobody sets, from before the last renewal was sent.
import { hostname } from 'node:os';
import type { Log } from '../../system/log.ts';
import { monotonicMs } from '../../system/world.ts';
import type { Query } from '../pool.ts';
import * as sql from './lives.ts';
import { reap } from './statements.ts';

const leaseMs = 60_000;
/** So much of a lease must be left for a message to be sent. */
const marginMs = 5_000;
const renewMs = 5_000;
const retryMs = 1_000;
/** The leftovers of crashes are looked for at every second renewal. */
const sweepEvery = 2;

type ReplicaOptions = Readonly<{
  query: Query;
  /** Makes the tables where they are missing. */
  makeSchema: () => Promise<void>;
  /** Called when a life has begun, and whenever jobs of other replicas may have become free. */
  onWork: () => void;
  /** Called when a life is over: what it had leased is not ours any more. */
  onLost: () => void;
  log: Log;
}>;

export class Replica {
  readonly #options: ReplicaOptions;
  #id: string | undefined;
  #renewedAt = -Infinity;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;
  #renewals = 0;
  readonly #cursors = { done: '', waiting: '' };

  constructor(options: ReplicaOptions) {
    this.#options = options;
  }

  /** The name of this life in statements; undefined while there is none. */
  get id(): string | undefined {
    return this.#id;
  }

  get isSure(): boolean {
    return monotonicMs() - this.#renewedAt < leaseMs - marginMs;
  }

  /** The same margin in seconds, for statements that look at the lease in the database. */
  static readonly marginSeconds = marginMs / 1000;

  /** Begins a life if it can, and goes on trying in the background. Never rejects. */
  async start(): Promise<void> {
    await this.#tick();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    const id = this.#id;
    this.#id = undefined;
    if (id === undefined) return;
    const { query } = this.#options;
    await query(sql.leave, [id])
      .then(() => query(sql.expire))
      .catch(() => undefined); // its lease ends by itself
  }

  async #tick(): Promise<void> {
    try {
      if (this.#id === undefined) await this.#begin();
      else await this.#renew(this.#id);
      if (this.#id !== undefined) await this.#serveAll();
    } catch {
      // The database has logged why it cannot answer.
    } finally {
      const waitMs = this.#id === undefined ? retryMs : renewMs;
      if (!this.#isStopped) this.#timer = setTimeout(() => void this.#tick(), waitMs).unref();
    }
  }

  async #begin(): Promise<void> {
    const { query, makeSchema, onWork } = this.#options;
    await makeSchema();
    const sentAt = monotonicMs();
    const [row] = await query(sql.register, [`${hostname()} (${process.pid})`, leaseMs / 1000]);
    if (this.#isStopped) return;
    this.#id = row?.['id'] ?? undefined;
    this.#renewedAt = sentAt;
    onWork();
  }

  async #renew(id: string): Promise<void> {
    const { query, onLost, log } = this.#options;
    const sentAt = monotonicMs();
    const rows = await query(sql.renew, [id, leaseMs / 1000]);
    if (rows.length > 0) this.#renewedAt = sentAt;
    else if (this.#id === id) {
      log.warn({ replica: id }, 'the lease of this replica has ended: others send what it had begun');
      this.#id = undefined;
      onLost();
      await this.#begin();
    }
  }

  /** Does what every replica does for all of them: frees what dead replicas had, and removes what crashes have left. */
  async #serveAll(): Promise<void> {
    const { query, onWork, log } = this.#options;
    const [freed] = (await query(sql.expire)) as unknown as readonly { replicas: number; jobs: number }[];
    if (freed && freed.replicas > 0) {
      log.warn(freed, 'a replica is gone: what it had begun is tried again');
      onWork();
    }
    this.#renewals += 1;
    if (this.#renewals % sweepEvery > 0) return;
    const done = (await query(sql.sweepDone, [this.#cursors.done])).flatMap(({ name }) => name ?? []);
    if (done.length > 0) await query(reap, [done]);
    this.#cursors.done = done.length < 500 ? '' : (done.at(-1) ?? '');
    await query(sql.sweepIdle);
    const [walk] = (await query(sql.sweepWaiting, [this.#cursors.waiting])) as unknown as readonly {
      name: string | null;
      looked: number;
    }[];
    this.#cursors.waiting = walk && walk.looked >= 500 ? (walk.name ?? '') : '';
  }
}
