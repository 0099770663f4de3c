// New mail on its way into the database, as groups: 250 is said after COMMIT.
// Promises: where an answer was lost it is found out whether the mail is there, for some seconds. What its client is
// refused although it may be there is removed as soon as that can be done.
import { setTimeout as pause } from 'node:timers/promises';
import { CannotTell } from '../../mail/ports.ts';
import type { JobPlan, LeasedJob, StoredEntry } from '../../mail/queue-store.ts';
import { monotonicMs } from '../../system/world.ts';
import type { Query } from '../pool.ts';
import { uploadFile } from './bodies.ts';
import { Group } from './group.ts';
import type { Orphans } from './orphans.ts';
import { bytesArray, columnsOf, envelopeOf } from './rows.ts';
import { type Seat, type SeatName, type Seats, columnsOfSeats, without } from './seats.ts';
import * as sql from './statements.ts';

/** How long the fate of new mail may be unknown before its client hears 451. */
const doubtMs = 8_000;
const retryMs = 500;
/**
 * So many messages that were refused in doubt are remembered, to be removed. One beyond that may be sent although its
 * client sends it again.
 */
const maxForgotten = 10_000;
const maxGroup = 200;

/** A message, its jobs, and the plan of each. */
type Newcomer = Readonly<{ record: StoredEntry; jobs: readonly LeasedJob[]; plans: readonly JobPlan[] }>;
type Small = Newcomer & Readonly<{ octets: Buffer; wantsSeats: boolean }>;

type IntakeOptions = Readonly<{
  query: Query;
  /** Runs the statements about large messages. */
  bodies: Query;
  maxSessions: number;
  seats: Seats;
  /** The life of this replica; undefined while it has none. */
  life: () => string | undefined;
  orphans: Orphans;
}>;

export class Intake {
  readonly #options: IntakeOptions;
  readonly #group = new Group<Small, readonly LeasedJob[]>(maxGroup, 0, items =>
    this.#options.orphans.taking(() => this.#accept(items)),
  );
  readonly #forgotten = new Set<string>();
  /** Whether the fate of the last mail stayed unknown: then that of the next mail is not waited for. */
  #isInDoubt = false;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /**
   * Stores a small message, leases its jobs, and gives them free seats. Resolves with the jobs that got no seat
   * although their destination is open: no other job is due there. Rejects if the queue has a message with that id
   * already.
   */
  add(mail: Small): Promise<readonly LeasedJob[]> {
    return this.#group.add(mail);
  }

  /**
   * Puts a large message into the database, without jobs. Where it rejects, what it has left there is removed before
   * long.
   */
  async upload({ record, plans }: Newcomer, path: string): Promise<void> {
    const { query, bodies, life } = this.#options;
    const { id, from, receivedAt, sizeBytes } = record;
    const fields = [id, from, receivedAt, sizeBytes, plans.length === 1, envelopeOf(record)];
    const begun = await query(sql.beginUpload, [life(), ...fields]);
    if (begun.length === 0) throw new CannotTell(`the queue has a message ${id} already`);
    await uploadFile(bodies, id, path).catch(async (error: unknown) => {
      this.forget(id);
      await this.tidy().catch(() => undefined);
      throw error;
    });
  }

  /** Gives an uploaded message its jobs, leased. */
  async commitUpload({ record, plans }: Newcomer): Promise<void> {
    const { id } = record;
    const { query, life } = this.#options;
    const me = life();
    const columns = plans.map(columnsOf);
    const lists = (['destination', 'isNotice', 'wake', 'record'] as const).map(name => columns.map(each => each[name]));
    const isMade = await this.#insist([id], me, async isAgain => {
      const rows = await query(sql.endUpload, [me, id, ...lists]);
      return rows.length > 0 || (isAgain && (await query(sql.touch, [[id]])).length > 0);
    });
    if (isMade) return;
    this.forget(id);
    throw new CannotTell(`the upload of message ${id} was lost`);
  }

  /** Has a message removed, because nobody was told that it is kept. */
  forget(id: string): void {
    if (this.#forgotten.size < maxForgotten) this.#forgotten.add(id);
  }

  /** Removes the messages that are to be forgotten. Rejects where that cannot be done now. */
  async tidy(): Promise<void> {
    const ids = [...this.#forgotten];
    if (ids.length === 0) return;
    await this.#options.query(sql.forget, [ids]);
    for (const id of ids) this.#forgotten.delete(id);
  }

  async #accept(items: readonly Small[]): Promise<readonly (readonly LeasedJob[] | Error)[]> {
    const me = this.#options.life();
    const ids = items.map(({ record }) => record.id);
    return this.#insist(ids, me, async isAgain => {
      const there = new Set(isAgain ? await this.#touch(ids) : []);
      const left = items.filter(({ record }) => !there.has(record.id));
      const made = left.length > 0 ? await this.#insert(me, left) : new Map<string, readonly LeasedJob[]>();
      // A message whose first statement was only now committed was not there for the first look, and could not be
      // made.
      if (isAgain && made.size < left.length) for (const id of await this.#touch(ids)) there.add(id);
      return ids.map(id => {
        const isThere = there.has(id) || made.has(id);
        return isThere ? (made.get(id) ?? []) : new CannotTell(`the queue has a message ${id} already`);
      });
    });
  }

  async #touch(ids: readonly string[]): Promise<readonly string[]> {
    return (await this.#options.query(sql.touch, [ids])).flatMap(({ name }) => name ?? []);
  }

  /**
   * Sends one `accept`, and sets the seats of the jobs. Resolves with the ids of the messages that were inserted; each
   * with its jobs that got no seat although their destination is open.
   */
  async #insert(me: string | undefined, items: readonly Small[]): Promise<ReadonlyMap<string, readonly LeasedJob[]>> {
    const { query, maxSessions, seats, life, orphans } = this.#options;
    const giveBack = (unused: readonly Seat[]): void => {
      if (me === life()) seats.restore(unused);
    };
    const jobs = items.flatMap(({ record: { id }, plans }) => plans.map(plan => ({ id, ...columnsOf(plan) })));
    const wanted = new Map<string, number>();
    for (const { wantsSeats, plans } of items)
      if (wantsSeats) for (const { destination } of plans) wanted.set(destination, (wanted.get(destination) ?? 0) + 1);
    const kept = [...wanted].flatMap(([destination, count]) => seats.take(destination, count));
    for (const { destination } of kept) wanted.set(destination, (wanted.get(destination) ?? 0) - 1);
    const missing = [...wanted].filter(([, count]) => count > 0);
    const rows = (await query(sql.accept, [
      me,
      items.map(({ record }) => record.id),
      items.map(({ record }) => record.from),
      items.map(({ record }) => record.receivedAt),
      items.map(({ record }) => record.sizeBytes),
      items.map(({ plans }) => plans.length === 1),
      items.map(({ record }) => envelopeOf(record)),
      bytesArray(items.map(({ octets }) => octets)),
      jobs.map(({ id }) => id),
      jobs.map(({ destination }) => destination),
      jobs.map(({ isNotice }) => isNotice),
      jobs.map(({ wake }) => wake),
      jobs.map(({ record }) => record),
      missing.map(([destination]) => destination),
      missing.map(([, count]) => count),
      maxSessions,
      ...columnsOfSeats(kept),
    ]).catch((error: unknown) => {
      giveBack(kept);
      throw error;
    })) as unknown as readonly { readonly name: string | null; readonly seat: number | null }[];
    if (rows.length === 0 || me !== life()) throw new CannotTell('the lease of this replica has ended');
    const ids = new Set(rows.flatMap(({ name, seat }) => (seat === null && name !== null ? name : [])));
    const all = rows.flatMap(({ name, seat }) => (name === null || seat === null ? [] : [{ destination: name, seat }]));
    const open = new Set(all.flatMap(({ destination, seat }) => (seat < 0 ? destination : [])));
    const given = Map.groupBy(
      all.filter(({ seat }) => seat >= 0),
      ({ destination }) => destination,
    );
    // A kept seat of an open destination that the database did not confirm has no row of ours any more: it is
    // forgotten.
    giveBack(without(kept, all).filter(({ destination }) => !open.has(destination)));
    const made = new Map<string, readonly LeasedJob[]>();
    for (const { record, wantsSeats, jobs: own } of items) {
      if (!ids.has(record.id)) continue;
      if (wantsSeats) for (const job of own) job.seat = given.get(job.destination)?.pop()?.seat;
      made.set(record.id, wantsSeats ? own.filter(job => job.seat === undefined && open.has(job.destination)) : []);
    }
    const unused: SeatName[] = [];
    for (const left of [...given.values()].flat()) if (!seats.keep(left)) unused.push(left);
    if (unused.length > 0) await orphans.unseat(me, unused);
    return made;
  }

  /**
   * Sends something again while its answer is lost. Rejects where its fate stays unknown: then it is to be forgotten.
   */
  async #insist<T>(ids: readonly string[], me: string | undefined, send: (isAgain: boolean) => Promise<T>): Promise<T> {
    const until = monotonicMs() + doubtMs;
    for (let isAgain = false; ; isAgain = true)
      try {
        const result = await send(isAgain);
        this.#isInDoubt = false;
        return result;
      } catch (error) {
        this.#options.orphans.doubt();
        if (this.#isInDoubt || monotonicMs() > until || me !== this.#options.life()) {
          this.#isInDoubt = true;
          for (const id of ids) this.forget(id);
          throw error;
        }
        await pause(retryMs, undefined, { ref: false });
      }
  }
}
