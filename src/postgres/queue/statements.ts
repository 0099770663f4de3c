// The statements of the queue that several replicas share.
// Each is alone in its transaction, so that a replica that is stopped in the middle holds no lock, and each may be sent
// again after an answer was lost. `$1` is the life of the replica that asks, where one asks. The comment on a statement
// says what its other parameters are, and behind `->` what its rows are.
//
// Why some of it looks odd, each met by failing:
// - `IS NOT DISTINCT FROM` in place of `=`: a plan that was made on an empty queue would use the partial index on
//   `owner`, which is full of dead entries while a snapshot is open (25 ms in place of 0.6 ms).
// - `claim` updates destinations by `ctid`, which is the place of one version of a row. `claim` locks the newest
//   version, while its subqueries see the snapshot with which the statement began. If another replica has changed the
//   row since then, the newest version is not in that snapshot, so the update does not find it and the row stays as it
//   is. An update by name would write a `first_at` that passes over the newest jobs, and these would wait for ever. It
//   would also visit every dead version of the row while somebody has a snapshot open. (Replicas of version 1 or 2 of
//   the tables compare `changes` for the same purpose, so this version still counts it up.)
// - A replica claims no more than its share of the seats of a destination: the limit, divided by the replicas that have
//   renewed their lease in the last ten seconds. It claims again whenever one of its own attempts ends, so without a
//   share it would come to have all seats of a full destination. If it was killed then, nobody could send anything
//   there until its lease ended. A destination where only the other replicas may claim stays due.
// - All seats of a destination are looked at: 'the first n are taken' is wrong as soon as two replicas conflict.
// - While more jobs are due at a destination, claims update its row at most five times a second. Each update leaves a
//   dead version, and other statements visit all of these while a snapshot is open.
// - Of two settles of one message each would see the other's job. So a message of one job goes with its job, and others
//   go by `reap`, after the commit.
// - `first_at` keeps a claim from walking over the dead entries of all that was sent before, and so does the look back.
import { nextHopKey } from '../../mail/message.ts';

const here = nextHopKey({ kind: 'here' });
/** Attempts at once for mail that stays here: SLIM_MAX_SESSIONS_OUT is for other servers. */
const maxHere = 20;
/** The number of the last seat of a destination. */
const lastSeat = (name: string, max: string): string =>
  `CASE WHEN ${name} = '${here}' THEN ${maxHere} ELSE ${max} END - 1`;
export const seconds = (value: string): string => `${value} * interval '1 s'`;
export const isWaiting = `owner IS NULL AND state = 'waiting'`;
const isMine = 'owner IS NOT DISTINCT FROM $1::bigint';
/** A job is due at the destination, and the destination does not back off. */
const isWanted = 'first_at <= now() AND failures = 0 AND blocked_until <= now()';

export const statement = (name: string, text: string, expected: readonly string[] = []) => ({
  name: `slimsmtp_queue_${name}`,
  text,
  expected,
});
const isInTime = (asked: string): string => `now() < to_timestamp(${asked}::float8) + interval '8 s'`;
/** The clock of the database, in seconds since 1970. */
export const clock = statement('clock', 'SELECT extract(epoch FROM now())::float8 AS now');

/**
 * Tells the destinations of jobs that wait. A destination that backs off is tried when the job could be, had it failed
 * itself: nobody waits longer for a destination than for a failure of its own. `retry`: the first wait, in seconds.
 */
export const wakeDestinations = (jobs: string, retry: string): string => {
  const until = `least(d.blocked_until, greatest(excluded.first_at, now() + ${seconds(retry)}))`;
  return `INSERT INTO slimsmtp_destination AS d (name, next_due, first_at)
    SELECT destination, min(next_at), min(next_at) FROM ${jobs} GROUP BY 1 ORDER BY 1
    ON CONFLICT (name) DO UPDATE SET first_at = least(d.first_at, excluded.first_at), changes = d.changes + 1,
      blocked_until = ${until}, next_due = greatest(least(d.next_due, excluded.next_due), ${until})`;
};

/** The columns of a job that the replica gets which leases it. */
const leased = (job: string, seat: string): string => `${job}.message AS id, ${job}.destination, ${job}.revision,
  ${job}.deaths, ${job}.record, ${seat} AS seat, m.envelope, m.size::float8 AS size, m.is_single, m.body IS NULL AS is_chunked,
  CASE WHEN m.size <= 65536 THEN m.body END AS body`;

/**
 * Inserts new messages and their jobs, leases the jobs, and takes seats for them.
 * Messages: $2 ids, $3 senders, $4 times of arrival in ms, $5 sizes, $6 whether it has one job, $7 envelopes, $8
 * bodies. Jobs: $9 messages, $10 destinations, $11 whether a notice, $12 seconds to the wake, $13 records. Seats that
 * are wanted: $14 destinations, $15 how many at each, $16 the limit of sessions. Seats that the replica keeps and wants
 * to use: $17 destinations, $18 numbers. A destination is open if no job is due there and it does not back off. Seats
 * are given only at open destinations.
 * -> Pairs (name, seat). A row with an id and NULL is a message that was inserted. A row with a destination and a
 * number is a seat that was given. A row with a destination and -1 says that the destination is open. A row of two
 * NULLs says that the life goes on; without any row it is over.
 */
export const accept = statement(
  'accept',
  `WITH r AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE id = $1 FOR KEY SHARE),
    m AS (INSERT INTO slimsmtp_message (id, sender, received_at, size, is_single, envelope, body)
      SELECT v.id, v.sender, to_timestamp(v.at / 1000), v.size, v.single, v.envelope::json, v.body FROM r,
        unnest($2::text[], $3::text[], $4::float8[], $5::bigint[], $6::boolean[], $7::text[], $8::bytea[]) AS v(id, sender, at, size, single, envelope, body)
      ON CONFLICT (id) DO NOTHING RETURNING id),
    j AS (INSERT INTO slimsmtp_job (message, destination, owner, is_notice, next_at, wake_at, record)
      SELECT m.id, v.d, $1::bigint, v.notice, now(), now() + ${seconds('v.wake')}, v.record::json FROM m JOIN
        unnest($9::text[], $10::text[], $11::boolean[], $12::float8[], $13::text[]) AS v(id, d, notice, wake, record) ON v.id = m.id),
    o AS MATERIALIZED (SELECT w.d FROM (SELECT unnest($14::text[]) UNION SELECT unnest($17::text[])) AS w(d)
      WHERE NOT EXISTS (SELECT FROM slimsmtp_destination x WHERE x.name = w.d
        AND (x.failures > 0 OR x.blocked_until > now() OR x.first_at <= now()))),
    s AS (INSERT INTO slimsmtp_seat (destination, n, owner) SELECT w.d, f.n, r.id FROM r, unnest($14::text[], $15::int[]) AS w(d, k)
      CROSS JOIN LATERAL (SELECT ARRAY(SELECT n FROM slimsmtp_seat WHERE destination = w.d AND w.d IN (SELECT d FROM o)) AS taken) t
      CROSS JOIN LATERAL (SELECT n FROM generate_series(0, ${lastSeat('w.d', '$16::int')}) n WHERE n <> ALL (t.taken) ORDER BY n LIMIT w.k) f
      WHERE w.d IN (SELECT d FROM o) ORDER BY 1, 2 ON CONFLICT DO NOTHING RETURNING destination, n),
    k AS (SELECT s.destination, s.n FROM r, unnest($17::text[], $18::int[]) AS k(d, n) JOIN slimsmtp_seat s ON s.destination = k.d AND s.n = k.n
      WHERE ${isMine} AND k.d IN (SELECT d FROM o))
    SELECT id AS name, NULL::int AS seat FROM m UNION ALL SELECT destination, n FROM s UNION ALL SELECT destination, n FROM k UNION ALL SELECT d, -1 FROM r, o UNION ALL SELECT NULL, NULL FROM r`,
);
/** $1 ids that may be there already, because an answer was lost: those that are, as durable as new ones. */
export const touch = statement(
  'touch',
  'UPDATE slimsmtp_message SET size = size WHERE id = ANY ($1::text[]) RETURNING id AS name',
);
export const has = statement('has', 'SELECT 1 FROM slimsmtp_message WHERE id = $1 AND uploader IS NULL');
/** $1 ids that nobody was told of */
export const forget = statement(
  'forget',
  `WITH g AS (DELETE FROM slimsmtp_message WHERE id = ANY ($1::text[]) RETURNING id),
    k AS (DELETE FROM slimsmtp_chunk WHERE message = ANY ($1::text[]))
    DELETE FROM slimsmtp_job WHERE message = ANY ($1::text[])`,
);
/** $2 id, $3 sender, $4 time of arrival, $5 size, $6 whether it has one job, $7 envelope */
export const beginUpload = statement(
  'begin_upload',
  `INSERT INTO slimsmtp_message (id, sender, received_at, size, is_single, envelope, uploader)
    SELECT $2, $3, to_timestamp($4::float8 / 1000), $5, $6, $7::json, r.id FROM slimsmtp_replica r WHERE r.id = $1 FOR KEY SHARE OF r
    ON CONFLICT (id) DO NOTHING RETURNING id`,
);
/** $1 message, $2 number, $3 octets */
export const upload = statement('upload', 'INSERT INTO slimsmtp_chunk (message, seq, data) VALUES ($1, $2, $3)');
/** $2 id; jobs: $3 destinations, $4 whether a notice, $5 seconds to the wake, $6 records */
export const endUpload = statement(
  'end_upload',
  `WITH r AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE id = $1 FOR KEY SHARE),
    m AS (UPDATE slimsmtp_message SET uploader = NULL FROM r WHERE slimsmtp_message.id = $2 AND uploader = r.id RETURNING slimsmtp_message.id)
    INSERT INTO slimsmtp_job (message, destination, owner, is_notice, next_at, wake_at, record)
      SELECT m.id, v.d, $1::bigint, v.notice, now(), now() + ${seconds('v.wake')}, v.record::json
      FROM m, unnest($3::text[], $4::boolean[], $5::float8[], $6::text[]) AS v(d, notice, wake, record) RETURNING message`,
);
/** $1 message, $2 number */
export const download = statement('download', 'SELECT data FROM slimsmtp_chunk WHERE message = $1 AND seq = $2');
export const body = statement('body', 'SELECT body AS data FROM slimsmtp_message WHERE id = $1');

/**
 * Leases jobs that are due, and takes a seat for each of them. $2 limit of destinations, $3 limit of jobs, $4 limit of
 * jobs for one destination, $5 limit of sessions with one destination, $6 whether notices may run, $7 destinations that
 * accept fewer sessions, $8 how many each of them accepts, $9 seconds to look back, $10 destinations and $11 numbers of
 * the seats that the replica keeps.
 * Replicas that find no free seat at a destination postpone it by 0.2 s. The replica that keeps a seat there may use it
 * before that time is over, so destinations of $10 are read 0.2 s early.
 * -> A row for each job; if there is none, one row without a job. Each row has `looked`, the number of destinations
 * that were locked, without those where this replica has its share already; and `age`, for how many seconds the oldest
 * due destination has been due, even if another replica had locked it.
 */
export const claim = statement(
  'claim',
  `WITH r AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE id = $1 FOR KEY SHARE),
    few AS MATERIALIZED (SELECT * FROM unnest($7::text[], $8::int[]) AS few(name, max)),
    kept AS MATERIALIZED (SELECT * FROM unnest($10::text[], $11::int[]) AS kept(name, n)),
    share AS MATERIALIZED (SELECT greatest(count(*), 1) AS replicas FROM slimsmtp_replica WHERE lease_until > now() + interval '50 s'),
    d AS MATERIALIZED (SELECT d.*, t.own, f.free, least(cardinality(f.free),
        greatest(0, ceil((${lastSeat('d.name', '$5::int')} + 1)::float8 / share.replicas) - t.used))::int AS room FROM share CROSS JOIN
      (SELECT ctid AS at, name, failures, reason, next_due, first_at FROM slimsmtp_destination
        WHERE next_due <= now() + interval '0.2 s' AND next_due > now() - ${seconds('$9::float8')} AND EXISTS (SELECT FROM r)
          AND (next_due <= now() OR name = ANY ($10::text[]) AND ${isWanted})
        ORDER BY next_due LIMIT $2 FOR UPDATE SKIP LOCKED) d
      CROSS JOIN LATERAL (SELECT coalesce(array_agg(s.n), '{}') AS taken,
          count(*) FILTER (WHERE ${isMine} AND NOT EXISTS (SELECT FROM kept WHERE kept.name = d.name AND kept.n = s.n)) AS used,
          coalesce(array_agg(s.n) FILTER (WHERE ${isMine} AND EXISTS (SELECT FROM kept WHERE kept.name = d.name AND kept.n = s.n)), '{}') AS own
        FROM slimsmtp_seat s WHERE s.destination = d.name) t
      CROSS JOIN LATERAL (SELECT coalesce(array_agg(g.n ORDER BY g.n <> ALL (t.own), g.n), '{}') AS free
        FROM generate_series(0, CASE WHEN d.failures > 0 THEN 0 ELSE coalesce((SELECT max FROM few WHERE few.name = d.name), ${lastSeat('d.name', '$5::int')} + 1) - 1 END) AS g(n)
        WHERE (g.n <> ALL (t.taken) OR g.n = ANY (t.own)) AND (d.failures = 0 OR t.taken <@ t.own)) f),
    w AS MATERIALIZED (SELECT q.name, q.message, q.free[q.k] AS n, q.free[q.k] = ANY (q.own) AS is_kept FROM (
        SELECT d.name, d.own, d.free, d.room, j.message, row_number() OVER (PARTITION BY d.name ORDER BY j.rank, lane.is_notice) AS k
        FROM d CROSS JOIN (VALUES (false), (true)) AS lane(is_notice)
        CROSS JOIN LATERAL (SELECT message, row_number() OVER (ORDER BY next_at) AS rank FROM (
          SELECT message, next_at FROM slimsmtp_job WHERE destination = d.name AND is_notice = lane.is_notice AND ${isWaiting}
            AND next_at >= d.first_at AND next_at <= now() AND ($6 OR NOT lane.is_notice)
          ORDER BY next_at LIMIT least($4, d.room) FOR UPDATE SKIP LOCKED) l) j) q
      WHERE q.k <= least($4, q.room) ORDER BY q.k LIMIT $3),
    s AS (INSERT INTO slimsmtp_seat (destination, n, owner) SELECT name, n, $1::bigint FROM w WHERE NOT is_kept ORDER BY 1, 2
      ON CONFLICT DO NOTHING RETURNING destination, n),
    t AS MATERIALIZED (SELECT destination, n FROM s UNION ALL SELECT name, n FROM w WHERE is_kept),
    u AS (UPDATE slimsmtp_job j SET owner = $1::bigint FROM w JOIN t ON t.destination = w.name AND t.n = w.n
      WHERE j.message = w.message AND j.destination = w.name
      RETURNING j.message, j.destination, j.revision, j.deaths, j.record, t.n),
    x AS MATERIALIZED (SELECT d.at, cardinality(d.free) AS free, d.room, d.failures, (SELECT count(*) FROM u WHERE u.destination = d.name) AS n,
        (SELECT min(o.next_at) FROM (VALUES (false), (true)) AS lane(is_notice) CROSS JOIN LATERAL (SELECT next_at FROM slimsmtp_job o
          WHERE o.destination = d.name AND o.is_notice = lane.is_notice AND ${isWaiting} AND next_at >= d.first_at
            AND NOT EXISTS (SELECT FROM u WHERE u.message = o.message AND u.destination = o.destination)
          ORDER BY next_at LIMIT 1) o) AS first_at FROM d),
    z AS MATERIALIZED (SELECT at, coalesce(first_at, 'infinity') AS first_at, CASE WHEN first_at IS NULL THEN 'infinity'
          WHEN failures > 0 THEN greatest(first_at, now() + interval '5 s')
          WHEN n >= free THEN greatest(first_at, now() + interval '0.2 s')
          WHEN n = 0 AND room > 0 THEN greatest(first_at, now() + interval '1 s') ELSE greatest(first_at, now()) END AS next_due FROM x),
    y AS (UPDATE slimsmtp_destination d SET first_at = z.first_at, next_due = z.next_due FROM z
      WHERE d.ctid = z.at AND (z.next_due > now() OR d.next_due < now() - interval '0.2 s'))
    SELECT v.looked, v.age, d.failures, d.reason, ${leased('u', 'u.n')}
    FROM (SELECT (SELECT count(*)::int FROM d WHERE room > 0 OR free = '{}') AS looked, extract(epoch FROM now() - (SELECT next_due FROM slimsmtp_destination
        WHERE next_due <= now() AND next_due > now() - ${seconds('$9::float8')} ORDER BY next_due LIMIT 1))::float8 AS age) v
      LEFT JOIN u ON true LEFT JOIN d ON d.name = u.destination LEFT JOIN slimsmtp_message m ON m.id = u.message`,
);
/**
 * Leases jobs whose senders are to hear something while they wait: $2 at most. For a moment an attempt may tell
 * something better.
 */
export const wake = statement(
  'wake',
  `WITH r AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE id = $1 FOR KEY SHARE),
    l AS MATERIALIZED (SELECT message, destination FROM slimsmtp_job WHERE ${isWaiting} AND wake_at < now() - interval '5 s'
      AND EXISTS (SELECT FROM r) ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED),
    u AS (UPDATE slimsmtp_job j SET owner = $1::bigint FROM l WHERE j.message = l.message AND j.destination = l.destination
      RETURNING j.message, j.destination, j.revision, j.deaths, j.record)
    SELECT coalesce(d.failures, 0) AS failures, d.reason, ${leased('u', 'NULL::int')}
    FROM u JOIN slimsmtp_message m ON m.id = u.message LEFT JOIN slimsmtp_destination d ON d.name = u.destination`,
);
/** $2 messages, $3 destinations, $4 seconds that must be left -> those that are still leased */
export const check = statement(
  'check',
  `SELECT message, destination FROM slimsmtp_job JOIN unnest($2::text[], $3::text[]) AS v(m, d) ON message = m AND destination = d
    WHERE ${isMine} AND EXISTS (SELECT FROM slimsmtp_replica WHERE id = $1 AND lease_until > now() + ${seconds('$4::float8')})`,
);
/**
 * Two parts of a statement. `due` has a row for each destination of `rows` where a job is due, and `woken` ends the
 * time for which claims have postponed these destinations.
 */
const wakeNextOf = (rows: string): string => `due AS MATERIALIZED (SELECT ctid AS at FROM slimsmtp_destination
      WHERE name IN (SELECT destination FROM ${rows}) AND ${isWanted} ORDER BY name),
    woken AS (UPDATE slimsmtp_destination SET next_due = now() FROM due WHERE slimsmtp_destination.ctid = due.at
      AND next_due > now() AND ${isWanted})`;
/**
 * Deletes messages that have only one job, because that job is done: $2 messages, $3 destinations, $4 revisions, $5
 * numbers of the seats to delete, or NULL where the replica keeps the seat -> the jobs that were deleted, and whether
 * other jobs are due at their destinations
 */
export const settle = statement(
  'settle',
  `WITH v AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::int[], $5::int[]) AS v(m, d, rev, n)),
    j AS (DELETE FROM slimsmtp_job USING v WHERE message = v.m AND destination = v.d AND revision = v.rev AND ${isMine}
      RETURNING message, destination, v.n),
    s AS (DELETE FROM slimsmtp_seat USING j WHERE slimsmtp_seat.destination = j.destination AND slimsmtp_seat.n = j.n AND ${isMine}),
    ${wakeNextOf('j')},
    g AS (DELETE FROM slimsmtp_message USING j WHERE id = j.message RETURNING id, body IS NULL AS is_chunked),
    k AS (DELETE FROM slimsmtp_chunk USING g WHERE message = g.id AND g.is_chunked)
    SELECT message, destination, EXISTS (SELECT FROM due) AS is_woken FROM j`,
);
/**
 * Writes jobs and gives them and their seats back: $2 messages, $3 destinations, $4 revisions, $5 seats, $6 states, $7
 * seconds to the next attempt, $8 to the wake, $9 records, $10 first wait -> those that were written
 */
export const put = statement(
  'put',
  `WITH v AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::text[], $7::float8[], $8::float8[], $9::text[])
      AS v(m, d, rev, n, state, wait, wake, record)),
    j AS (UPDATE slimsmtp_job SET owner = NULL, revision = revision + 1, deaths = 0, state = v.state, next_at = now() + ${seconds('v.wait')},
        wake_at = now() + ${seconds('v.wake')}, record = v.record::json
      FROM v WHERE message = v.m AND destination = v.d AND revision = v.rev AND ${isMine}
      RETURNING message, destination, slimsmtp_job.state, next_at, v.n),
    s AS (DELETE FROM slimsmtp_seat USING j WHERE slimsmtp_seat.destination = j.destination AND slimsmtp_seat.n = j.n AND ${isMine}),
    w AS (SELECT destination, next_at FROM j WHERE state = 'waiting'),
    woken AS (${wakeDestinations('w', '$10::float8')})
    SELECT message, destination, false AS is_woken FROM j`,
);
/** $1 messages of several jobs, after a job of theirs is done */
export const reap = statement(
  'reap',
  `WITH g AS (DELETE FROM slimsmtp_message WHERE id = ANY ($1::text[]) AND uploader IS NULL
      AND NOT EXISTS (SELECT FROM slimsmtp_job WHERE message = id AND state <> 'done') RETURNING id),
    j AS (DELETE FROM slimsmtp_job USING g WHERE message = g.id) DELETE FROM slimsmtp_chunk USING g WHERE message = g.id`,
);
/** $2 message, $3 destination: what an operator has changed meanwhile */
export const reread = statement(
  'reread',
  `SELECT revision, record FROM slimsmtp_job WHERE message = $2 AND destination = $3 AND ${isMine}`,
);
/** $1 destination, $2 rounds before, $3 rounds now, $4 seconds until something is tried, $5 why */
export const block = statement(
  'block',
  `INSERT INTO slimsmtp_destination AS d (name, next_due, first_at, failures, blocked_until, reason)
    VALUES ($1, 'infinity', 'infinity', $3, now() + ${seconds('$4::float8')}, $5::json)
    ON CONFLICT (name) DO UPDATE SET failures = excluded.failures, blocked_until = excluded.blocked_until, reason = excluded.reason,
      next_due = greatest(d.first_at, excluded.blocked_until), changes = d.changes + 1 WHERE d.failures = $2`,
);
/** $1 destinations */
export const unblock = statement(
  'unblock',
  `UPDATE slimsmtp_destination SET failures = 0, blocked_until = '-infinity', reason = NULL, next_due = greatest(first_at, now()), changes = changes + 1
    WHERE name = ANY ($1::text[])`,
);
/**
 * Frees orphans: jobs and seats of this life of which the replica does not know. $2 messages and $3 destinations of the
 * jobs that it knows, $4 destinations and $5 numbers of the seats that it knows, $6 the time of the database shortly
 * before. If the statement is carried out more than eight seconds after $6 it changes nothing, because the replica may
 * have taken the same jobs and seats again.
 */
export const orphans = statement(
  'orphans',
  `WITH j AS (UPDATE slimsmtp_job SET owner = NULL, next_at = now() WHERE owner = $1::bigint AND ${isInTime('$6')}
      AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS v(m, d) WHERE v.m = message AND v.d = destination)
      RETURNING destination, next_at),
    s AS (DELETE FROM slimsmtp_seat WHERE owner = $1::bigint AND ${isInTime('$6')}
      AND NOT EXISTS (SELECT FROM unnest($4::text[], $5::int[]) AS v(d, k) WHERE v.d = destination AND v.k = n)),
    woken AS (${wakeDestinations('j', '0')}) SELECT count(*)::int AS jobs FROM j`,
);
/**
 * Deletes seats that no attempt uses: $2 destinations, $3 numbers, $4 as $6 of `orphans` -> a row for each of their
 * destinations where a job is due
 */
export const unseat = statement(
  'unseat',
  `WITH s AS (DELETE FROM slimsmtp_seat USING unnest($2::text[], $3::int[]) AS v(d, k) WHERE destination = v.d AND n = v.k AND ${isMine} AND ${isInTime('$4')}
      RETURNING destination),
    ${wakeNextOf('s')} SELECT 1 FROM due`,
);
/**
 * An operator's order: $1 messages, $2 destinations, $3 revisions, $4 states, $5 seconds to the next attempt, $6 to the
 * wake, $7 records -> those that had this revision still
 */
export const order = statement(
  'order',
  `WITH v AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::float8[], $6::float8[], $7::text[])
      AS v(m, d, rev, state, wait, wake, record)),
    j AS (UPDATE slimsmtp_job SET revision = revision + 1, state = v.state, next_at = now() + ${seconds('v.wait')},
        wake_at = now() + ${seconds('v.wake')}, record = v.record::json
      FROM v WHERE message = v.m AND destination = v.d AND revision = v.rev
      RETURNING message, destination, slimsmtp_job.state, next_at, owner),
    w AS (SELECT destination, next_at FROM j WHERE state = 'waiting' AND owner IS NULL),
    woken AS (${wakeDestinations('w', '0')}) SELECT message, destination, owner IS NOT NULL AS is_leased FROM j`,
);
