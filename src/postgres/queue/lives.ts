// The SQL statements by which a replica begins its life, renews its lease and ends its life; and those by which each
// replica cleans up for all of them every few seconds.
import { isWaiting, seconds, statement, wakeDestinations } from './statements.ts';

/** Begins a life: $1 name of the replica, $2 seconds of its lease -> the id of the life */
export const register = statement(
  'register',
  `INSERT INTO slimsmtp_replica (name, lease_until) VALUES ($1, now() + ${seconds('$2::float8')}) RETURNING id::text`,
  ['42P01'],
);
/** Renews the lease of a life: $2 seconds from now. It returns no row if the life is over */
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
    woken AS (INSERT INTO slimsmtp_destination AS d (name, next_due, first_at) SELECT destination, greatest(first_at, now()), first_at FROM m
      WHERE NOT EXISTS (SELECT FROM slimsmtp_destination k WHERE k.name = m.destination AND k.first_at <= m.first_at) ORDER BY 1
      ON CONFLICT (name) DO UPDATE SET first_at = excluded.first_at, changes = d.changes + 1,
        next_due = greatest(least(d.next_due, excluded.next_due), d.blocked_until) WHERE d.first_at > excluded.first_at)
    SELECT max(destination) AS name, count(*)::int AS looked FROM walk`,
);
