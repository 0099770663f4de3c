// How people and figures look at the queue: the list of all messages, and how many there are. It changes nothing.
import type { Selector } from '../../mail/admin.ts';
import type { SharedCounts, SharedMessage, StoredEntry } from '../../mail/queue-store.ts';
import type { Query } from '../pool.ts';
import { recordOf } from './rows.ts';
import { statement } from './statements.ts';

/** Gives all messages, or the one with that id, page by page. */
export async function* pages(query: Query, { id }: Selector): AsyncGenerator<SharedMessage> {
  type Job = SharedMessage['jobs'][number] & { readonly isLeased: boolean; readonly replica: string | null };
  type Row = Readonly<{ id: string; envelope: StoredEntry; size: number; jobs: readonly Job[] | null }>;
  for (let after: string | undefined = ''; after !== undefined;) {
    const rows = (await query(page, [after, id ?? null])) as unknown as readonly Row[];
    for (const { id: own, envelope, size, jobs } of rows) {
      const described = (jobs ?? []).map(({ record, isLeased, replica, ...job }) => {
        const by = isLeased && { sender: replica ?? 'a replica that is gone' };
        return { ...job, ...by, record: recordOf(envelope, size, record) };
      });
      yield { id: own, jobs: described };
    }
    after = id === undefined ? rows.at(-1)?.id : undefined;
  }
}

export async function counts(query: Query): Promise<SharedCounts> {
  const [row] = (await query(count)) as unknown as readonly SharedCounts[];
  return row ?? { messages: 0, held: 0, oldestAt: null, destinations: 0, blocked: 0 };
}

/** A page of the list: $1 after this id, $2 this id alone */
const page = statement(
  'page',
  `SELECT m.id, m.envelope, m.size::float8 AS size, (SELECT json_agg(json_build_object('destination', j.destination, 'state', j.state,
      'replica', r.name, 'isLeased', j.owner IS NOT NULL, 'revision', j.revision, 'record', j.record, 'failures', d.failures,
      'isBlocked', d.blocked_until > now(), 'reason', d.reason) ORDER BY j.destination)
      FROM slimsmtp_job j LEFT JOIN slimsmtp_replica r ON r.id = j.owner LEFT JOIN slimsmtp_destination d ON d.name = j.destination
      WHERE j.message = m.id) AS jobs
    FROM slimsmtp_message m WHERE m.id > $1 AND m.uploader IS NULL AND ($2::text IS NULL OR m.id = $2) ORDER BY m.id LIMIT 200`,
);
/**
 * How many messages wait (exactly while they are few, else as the planner believes), how many of them are held (10,000
 * at most), since when, and for how many next hops.
 */
const count = statement(
  'count',
  `SELECT h.held, CASE WHEN n <= 10000 THEN n ELSE greatest(n, (SELECT reltuples::int FROM pg_class WHERE oid = 'slimsmtp_message'::regclass)) END AS messages,
      (SELECT extract(epoch FROM received_at)::float8 * 1000 FROM slimsmtp_message WHERE uploader IS NULL ORDER BY id LIMIT 1) AS "oldestAt",
      d.destinations, d.blocked FROM (SELECT count(*)::int AS destinations, (count(*) FILTER (WHERE blocked_until > now()))::int AS blocked FROM slimsmtp_destination) d,
      (SELECT count(*)::int AS n FROM (SELECT FROM slimsmtp_message WHERE uploader IS NULL LIMIT 10001) few) counted,
      (SELECT count(*)::int AS held FROM (SELECT DISTINCT message FROM slimsmtp_job WHERE state = 'held' AND owner IS NULL LIMIT 10000) k
        CROSS JOIN LATERAL (SELECT bool_or(state = 'waiting') AS waits FROM slimsmtp_job j WHERE j.message = k.message) j WHERE NOT j.waits) h`,
);
