// The rows of the queue's tables, as they go to PostgreSQL and as they come back. Pure.
import { type Message, inMemory, laneOf, nextHopAt } from '../../mail/message.ts';
import type { JobPlan, LeasedJob, StoredEntry } from '../../mail/queue-store.ts';

/** The part of a record that one job has for itself. */
type Own = Pick<StoredEntry, 'recipients' | 'madeCopies'>;
/** PostgreSQL's number for the type bytea. */
const bytea = 17;

/** What the store knows of a lease. */
export type Lease = {
  revision: number;
  readonly isSingle: boolean;
  readonly isChunked: boolean;
  readonly body?: Message;
};

/** The columns of a job. Its times are in seconds from now. */
export function columnsOf({ destination, record, state, waitMs, wakeMs }: JobPlan) {
  const { recipients, madeCopies } = record;
  const own: Own = { recipients, ...(madeCopies && { madeCopies }) };
  const isNotice = laneOf(record.from === '', nextHopAt(destination)) === 'notice';
  return { destination, state, isNotice, wait: waitMs / 1000, wake: wakeMs / 1000, record: JSON.stringify(own) };
}

/** What all jobs of a message share. */
export function envelopeOf({
  recipients: _own,
  madeCopies: _copies,
  sizeBytes: _size,
  ...envelope
}: StoredEntry): string {
  return JSON.stringify(envelope);
}

export const recordOf = (envelope: StoredEntry, sizeBytes: number, own: Own): StoredEntry => ({
  ...envelope,
  sizeBytes,
  ...own,
});

/** A row of a job that was leased just now. */
export type LeasedRow = Pick<LeasedJob, 'destination' | 'failures' | 'deaths'> &
  Readonly<{
    id: string;
    seat: number | null;
    reason: LeasedJob['reason'] | null;
    revision: number;
    record: Own;
    envelope: StoredEntry;
    size: number;
    is_single: boolean;
    is_chunked: boolean;
    body: Buffer | null;
  }>;

export function toLeased(row: LeasedRow): { readonly job: LeasedJob; readonly lease: Lease } {
  const { destination, failures, deaths, reason, revision, is_single: isSingle, is_chunked: isChunked, body } = row;
  const record = recordOf(row.envelope, row.size, row.record);
  const job = { destination, record, seat: row.seat ?? undefined, failures, deaths, reason: reason ?? undefined };
  return { job, lease: { revision, isSingle, isChunked, ...(body && { body: inMemory(body) }) } };
}

/** An array of octets as PostgreSQL receives it in binary: as text it would be twice as long. */
export function bytesArray(items: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(items.length === 0 ? 12 : 20);
  // An array begins with the number of its dimensions, whether it has NULLs, and the type of its elements; then come
  // its length and its first index.
  head.writeInt32BE(items.length === 0 ? 0 : 1, 0);
  head.writeInt32BE(bytea, 8);
  if (items.length > 0) head.writeInt32BE(items.length, 12);
  if (items.length > 0) head.writeInt32BE(1, 16);
  const parts = items.flatMap(item => {
    const length = Buffer.alloc(4);
    length.writeInt32BE(item.length);
    return [length, item];
  });
  return Buffer.concat([head, ...parts]);
}
