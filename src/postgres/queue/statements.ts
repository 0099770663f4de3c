// The statements of the queue that several replicas share.
// Each is alone in its transaction, so that a replica that is stopped in the middle holds no lock, and each may be sent
// again after an answer was lost. `$1` is the life of the replica that asks, where one asks. The comment on a statement
// says what its other parameters are, and behind `->` what its rows are.
//
// Why some of it looks odd, each met by failing:
// - `IS NOT DISTINCT FROM` in place of `=`: a plan that was made on an empty queue would use the partial index on
//   `owner`, which is full of dead entries while a snapshot is open (25 ms in place of 0.6 ms).
// - `changes`: `claim` locks the newest row of a destination while its subqueries see an older snapshot. Where the row
//   has changed in between, `first_at` must stay, or jobs would wait for ever.
// - Seats are looked for by NOT EXISTS: 'the first n are taken' is wrong as soon as two replicas conflict.
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
const seconds = (value: string): string => `${value} * interval '1 s'`;
const isWaiting = `owner IS NULL AND state = 'waiting'`;
const isMine = 'owner IS NOT DISTINCT FROM $1::bigint';

/**
 * Tells the destinations of jobs that wait. A destination that backs off is tried when the job could be, had it failed
 * itself: nobody waits longer for a destination than for a failure of its own. `retry`: the first wait, in seconds.
 */
const wakeDestinations = (jobs: string, retry: string): string => {
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

export const statement = (name: string, text: string, expected: readonly string[] = []) => ({
  name: `slimsmtp_queue_${name}`,
  text,
  expected,
});

/** name, seconds of the lease */
export const register = statement(
  'register',
  `INSERT INTO slimsmtp_replica (name, lease_until) VALUES ($1, now() + ${seconds('$2::float8')}) RETURNING id::text`,
  ['42P01'],
);
/** seconds of the lease. No row: this life is over */
export const renew = statement(
  'renew',
  `UPDATE slimsmtp_replica SET lease_until = now() + ${seconds('$2::float8')} WHERE id = $1 RETURNING 1`,
);
/**
 * Frees what dead replicas had. For a while after a start of the database none is dead, since none could renew its
 * lease.
 */
export const expire = statement(
  'expire',
  `WITH dead AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE lease_until < now()
      AND (lease_until = '-infinity' OR pg_postmaster_start_time() < now() - interval '20 s') ORDER BY id FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM slimsmtp_replica r USING dead WHERE r.id = dead.id RETURNING r.id, r.lease_until),
    seats AS (DELETE FROM slimsmtp_seat USING gone WHERE owner = gone.id),
    uploads AS (DELETE FROM slimsmtp_message USING gone WHERE uploader = gone.id RETURNING slimsmtp_message.id),
    chunks AS (DELETE FROM slimsmtp_chunk USING uploads WHERE message = uploads.id),
    jobs AS (UPDATE slimsmtp_job SET owner = NULL, next_at = now(),
        deaths = deaths + CASE WHEN gone.lease_until = '-infinity' THEN 0 ELSE 1 END
      FROM gone WHERE owner = gone.id RETURNING destination, next_at),
    woken AS (${wakeDestinations('jobs', '0')})
    SELECT (SELECT count(*)::int FROM dead) AS replicas, (SELECT count(*)::int FROM jobs) AS jobs`,
);
/** Ends a life as planned: others may have at once what it still leases. */
export const leave = statement('leave', `UPDATE slimsmtp_replica SET lease_until = '-infinity' WHERE id = $1`);

/**
 * messages: $2 ids, $3 senders, $4 times of arrival in ms, $5 sizes, $6 whether it has one job, $7 envelopes, $8
 * bodies; their jobs, leased at once: $9 messages, $10 destinations, $11 whether a notice, $12 seconds to the wake, $13
 * records; seats: $14 destinations, $15 numbers wanted, $16 sessions at most -> no row: this life is over. A seat is
 * refused where others wait for one, or nobody may try.
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
    s AS (INSERT INTO slimsmtp_seat (destination, n, owner) SELECT w.d, f.n, r.id FROM r, unnest($14::text[], $15::int[]) AS w(d, k)
      CROSS JOIN LATERAL (SELECT n FROM generate_series(0, ${lastSeat('w.d', '$16::int')}) n
        WHERE NOT EXISTS (SELECT FROM slimsmtp_seat s WHERE s.destination = w.d AND s.n = n.n)
          AND NOT EXISTS (SELECT FROM slimsmtp_destination x WHERE x.name = w.d
            AND (x.failures > 0 OR x.blocked_until > now() OR x.first_at <= now()))
        ORDER BY n LIMIT w.k) f ORDER BY 1, 2 ON CONFLICT DO NOTHING RETURNING destination, n)
    SELECT id AS name, NULL::int AS seat FROM m UNION ALL SELECT destination, n FROM s UNION ALL SELECT NULL, NULL FROM r`,
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
 * $2 destinations at most, $3 jobs at most, $4 jobs of a destination at most, $5 its sessions at most, $6 whether
 * notices may run, $7 destinations that take fewer sessions, $8 how many, $9 seconds to look back. Always a row, which
 * says how many destinations were looked at.
 */
export const claim = statement(
  'claim',
  `WITH r AS MATERIALIZED (SELECT id FROM slimsmtp_replica WHERE id = $1 FOR KEY SHARE),
    few AS MATERIALIZED (SELECT * FROM unnest($7::text[], $8::int[]) AS few(name, max)),
    d AS MATERIALIZED (SELECT d.*, f.free, coalesce(cardinality(f.free), 0) AS room FROM
      (SELECT name, failures, reason, first_at, changes FROM slimsmtp_destination WHERE next_due <= now() AND next_due > now() - ${seconds('$9::float8')} AND EXISTS (SELECT FROM r)
        ORDER BY next_due LIMIT $2 FOR UPDATE SKIP LOCKED) d
      CROSS JOIN LATERAL (SELECT array_agg(g.n ORDER BY g.n) AS free
        FROM generate_series(0, CASE WHEN d.failures > 0 THEN 0 ELSE coalesce((SELECT max FROM few WHERE few.name = d.name), ${lastSeat('d.name', '$5::int')} + 1) - 1 END) AS g(n)
        WHERE NOT EXISTS (SELECT FROM slimsmtp_seat s WHERE s.destination = d.name AND (s.n = g.n OR d.failures > 0))) f),
    w AS MATERIALIZED (SELECT q.name, q.message, q.free[q.k] AS n FROM (
        SELECT d.name, d.free, d.room, j.message, row_number() OVER (PARTITION BY d.name ORDER BY j.rank, lane.is_notice) AS k
        FROM d CROSS JOIN (VALUES (false), (true)) AS lane(is_notice)
        CROSS JOIN LATERAL (SELECT message, row_number() OVER (ORDER BY next_at) AS rank FROM (
          SELECT message, next_at FROM slimsmtp_job WHERE destination = d.name AND is_notice = lane.is_notice AND ${isWaiting}
            AND next_at >= d.first_at AND next_at <= now() AND ($6 OR NOT lane.is_notice)
          ORDER BY next_at LIMIT least($4, d.room) FOR UPDATE SKIP LOCKED) l) j) q
      WHERE q.k <= least($4, q.room) ORDER BY q.k LIMIT $3),
    s AS (INSERT INTO slimsmtp_seat (destination, n, owner) SELECT name, n, $1::bigint FROM w ORDER BY 1, 2
      ON CONFLICT DO NOTHING RETURNING destination, n),
    u AS (UPDATE slimsmtp_job j SET owner = $1::bigint FROM w JOIN s ON s.destination = w.name AND s.n = w.n
      WHERE j.message = w.message AND j.destination = w.name
      RETURNING j.message, j.destination, j.revision, j.deaths, j.record, s.n),
    x AS (SELECT d.name, d.room, d.failures, (SELECT count(*) FROM u WHERE u.destination = d.name) AS n,
        d.changes IS DISTINCT FROM (SELECT z.changes FROM slimsmtp_destination z WHERE z.name = d.name) AS is_stale,
        (SELECT min(o.next_at) FROM (VALUES (false), (true)) AS lane(is_notice) CROSS JOIN LATERAL (SELECT next_at FROM slimsmtp_job o
          WHERE o.destination = d.name AND o.is_notice = lane.is_notice AND ${isWaiting} AND next_at >= d.first_at
            AND NOT EXISTS (SELECT FROM u WHERE u.message = o.message AND u.destination = o.destination)
          ORDER BY next_at LIMIT 1) o) AS first_at FROM d),
    y AS (UPDATE slimsmtp_destination d SET
        first_at = CASE WHEN x.is_stale THEN d.first_at ELSE coalesce(x.first_at, 'infinity') END,
        next_due = CASE WHEN x.is_stale THEN now() WHEN x.first_at IS NULL THEN 'infinity'
          WHEN x.failures > 0 THEN greatest(x.first_at, now() + interval '30 s')
          WHEN x.n >= x.room THEN greatest(x.first_at, now() + interval '0.2 s')
          WHEN x.n = 0 THEN greatest(x.first_at, now() + interval '1 s') ELSE greatest(x.first_at, now()) END
      FROM x WHERE d.name = x.name)
    SELECT v.looked, d.failures, d.reason, ${leased('u', 'u.n')}
    FROM (SELECT count(*)::int AS looked FROM d) v
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
 * Removes messages of one job for which nothing is left to do: $2 messages, $3 destinations, $4 revisions, $5 seats ->
 * those that are gone
 */
export const settle = statement(
  'settle',
  `WITH v AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::int[], $5::int[]) AS v(m, d, rev, n)),
    j AS (DELETE FROM slimsmtp_job USING v WHERE message = v.m AND destination = v.d AND revision = v.rev AND ${isMine}
      RETURNING message, destination, v.n),
    s AS (DELETE FROM slimsmtp_seat USING j WHERE slimsmtp_seat.destination = j.destination AND slimsmtp_seat.n = j.n AND ${isMine}
      RETURNING slimsmtp_seat.destination),
    e AS (UPDATE slimsmtp_destination SET next_due = now() WHERE name IN (SELECT destination FROM s)
      AND first_at <= now() AND failures = 0 AND blocked_until <= now() RETURNING 1),
    g AS (DELETE FROM slimsmtp_message USING j WHERE id = j.message RETURNING id, body IS NULL AS is_chunked),
    k AS (DELETE FROM slimsmtp_chunk USING g WHERE message = g.id AND g.is_chunked)
    SELECT message, destination, EXISTS (SELECT FROM e) AS is_woken FROM j`,
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
  `UPDATE slimsmtp_destination SET failures = 0, blocked_until = '-infinity', reason = NULL, next_due = first_at, changes = changes + 1
    WHERE name = ANY ($1::text[])`,
);
/**
 * Frees what a lost answer has left: $2 messages and $3 destinations that are known, $4 destinations and $5 numbers of
 * seats
 */
export const orphans = statement(
  'orphans',
  `WITH j AS (UPDATE slimsmtp_job SET owner = NULL, next_at = now() WHERE owner = $1::bigint
      AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS v(m, d) WHERE v.m = message AND v.d = destination)
      RETURNING destination, next_at),
    s AS (DELETE FROM slimsmtp_seat WHERE owner = $1::bigint
      AND NOT EXISTS (SELECT FROM unnest($4::text[], $5::int[]) AS v(d, k) WHERE v.d = destination AND v.k = n)),
    woken AS (${wakeDestinations('j', '0')}) SELECT count(*)::int AS jobs FROM j`,
);
/** Gives back seats that nobody used: $2 destinations, $3 numbers */
export const unseat = statement(
  'unseat',
  `DELETE FROM slimsmtp_seat USING unnest($2::text[], $3::int[]) AS v(d, k) WHERE destination = v.d AND n = v.k AND ${isMine}`,
);
/** Messages whose jobs are all done, as a crash before \`reap\` leaves them: those after $1, in pages */
export const sweepDone = statement(
  'sweep_done',
  `SELECT DISTINCT message AS name FROM slimsmtp_job WHERE state = 'done' AND message > $1 ORDER BY 1 LIMIT 500`,
);
/** Removes destinations where nothing waits */
export const sweepIdle = statement(
  'sweep_idle',
  `DELETE FROM slimsmtp_destination WHERE name IN (SELECT name FROM slimsmtp_destination WHERE first_at = 'infinity'
    ORDER BY name LIMIT 500 FOR UPDATE SKIP LOCKED) AND first_at = 'infinity' AND blocked_until < now()`,
);
/** Wakes the destinations of jobs that wait, 500 after $1, in case a wake-up was lost */
export const sweepWaiting = statement(
  'sweep_waiting',
  `WITH RECURSIVE walk(destination, n) AS (
      SELECT (SELECT destination FROM slimsmtp_job WHERE ${isWaiting} AND destination > $1 ORDER BY destination LIMIT 1), 1
    UNION ALL
      SELECT (SELECT destination FROM slimsmtp_job WHERE ${isWaiting} AND destination > walk.destination ORDER BY destination LIMIT 1), n + 1
      FROM walk WHERE walk.destination IS NOT NULL AND n < 500),
    j AS MATERIALIZED (SELECT destination, next_at FROM walk CROSS JOIN (VALUES (false), (true)) AS lane(is_notice)
      CROSS JOIN LATERAL (SELECT next_at FROM slimsmtp_job o WHERE o.destination = walk.destination AND o.is_notice = lane.is_notice
        AND ${isWaiting} ORDER BY next_at LIMIT 1) o),
    m AS (SELECT destination, min(next_at) AS first_at FROM j GROUP BY 1),
    woken AS (INSERT INTO slimsmtp_destination AS d (name, next_due, first_at) SELECT destination, first_at, first_at FROM m
      WHERE NOT EXISTS (SELECT FROM slimsmtp_destination k WHERE k.name = m.destination AND k.first_at <= m.first_at) ORDER BY 1
      ON CONFLICT (name) DO UPDATE SET first_at = excluded.first_at, changes = d.changes + 1,
        next_due = greatest(least(d.next_due, excluded.next_due), d.blocked_until) WHERE d.first_at > excluded.first_at)
    SELECT max(destination) AS name, count(*)::int AS looked FROM walk`,
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
