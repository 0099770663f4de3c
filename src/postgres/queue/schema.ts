// The tables of the queue that several replicas share, and how they are made and upgraded.
// Promises: one replica at a time makes or upgrades them; each step can be repeated. A role that may not make tables is
// told what to do, and the server runs on without its queue until somebody has done it. Replicas of two neighbouring
// versions run side by side: an upgrade only adds, and says in `oldest` which versions can still work with it.
import type { Log } from '../../system/log.ts';
import { describe } from '../hosts.ts';
import type { Database } from '../pool.ts';

/** Each step leads from the version of its index to the next one. */
const steps: readonly string[] = [
  `
-- One life of a replica. Its row is the fence: when the row is gone, all that it owned is free.
CREATE TABLE slimsmtp_replica (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(), lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE slimsmtp_message (
  id text COLLATE "C" PRIMARY KEY, sender text NOT NULL, received_at timestamptz NOT NULL, size bigint NOT NULL,
  uploader bigint,            -- whose upload is not committed: there are no jobs yet
  is_single boolean NOT NULL, -- it has one job, with which it goes
  envelope json NOT NULL, body bytea -- without body: in slimsmtp_chunk
);
ALTER TABLE slimsmtp_message ALTER body SET STORAGE EXTERNAL;
CREATE INDEX slimsmtp_message_uploader ON slimsmtp_message (uploader) WHERE uploader IS NOT NULL;
CREATE TABLE slimsmtp_chunk (
  message text COLLATE "C" NOT NULL, seq int NOT NULL, data bytea NOT NULL, PRIMARY KEY (message, seq)
);
ALTER TABLE slimsmtp_chunk ALTER data SET STORAGE EXTERNAL;
-- The recipients of a message that have one next hop.
CREATE TABLE slimsmtp_job (
  message text COLLATE "C" NOT NULL, destination text COLLATE "C" NOT NULL, owner bigint,
  state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'held', 'done')),
  is_notice boolean NOT NULL, next_at timestamptz NOT NULL, wake_at timestamptz NOT NULL,
  revision int NOT NULL DEFAULT 0, deaths int NOT NULL DEFAULT 0, record json NOT NULL,
  PRIMARY KEY (message, destination)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX slimsmtp_job_due ON slimsmtp_job (destination, is_notice, next_at) WHERE owner IS NULL AND state = 'waiting';
CREATE INDEX slimsmtp_job_wake ON slimsmtp_job (wake_at) WHERE owner IS NULL AND state = 'waiting';
CREATE INDEX slimsmtp_job_owner ON slimsmtp_job (owner) WHERE owner IS NOT NULL;
CREATE INDEX slimsmtp_job_done ON slimsmtp_job (message) WHERE state = 'done';
-- The right to one attempt at a destination. Its key makes one too many impossible.
CREATE TABLE slimsmtp_seat (
  destination text COLLATE "C" NOT NULL, n int NOT NULL CHECK (n >= 0), owner bigint NOT NULL, PRIMARY KEY (destination, n)
);
CREATE INDEX slimsmtp_seat_owner ON slimsmtp_seat (owner);
-- Only destinations where something waits, or that back off. No job that waits is due before first_at.
CREATE TABLE slimsmtp_destination (
  name text COLLATE "C" PRIMARY KEY, next_due timestamptz NOT NULL, first_at timestamptz NOT NULL,
  changes int NOT NULL DEFAULT 0, failures int NOT NULL DEFAULT 0,
  blocked_until timestamptz NOT NULL DEFAULT '-infinity', reason json
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX slimsmtp_destination_due ON slimsmtp_destination (next_due);
CREATE INDEX slimsmtp_destination_idle ON slimsmtp_destination (name) WHERE first_at = 'infinity';
-- Failed logins, and mail for SLIM_RATE_CLIENT and SLIM_RATE_LOGIN, as rate-limiter-flexible counts them;
-- \`expire\` is in ms since 1970.
CREATE TABLE slimsmtp_failures (key varchar(255) PRIMARY KEY, points int NOT NULL DEFAULT 0, expire bigint);
-- What has happened to messages, for slimsmtp trace.
CREATE TABLE slimsmtp_event (at timestamptz NOT NULL, message text COLLATE "C" NOT NULL, names text[] NOT NULL, event json NOT NULL);
CREATE INDEX slimsmtp_event_at ON slimsmtp_event (at);
CREATE INDEX slimsmtp_event_message ON slimsmtp_event (message);
CREATE INDEX slimsmtp_event_names ON slimsmtp_event USING gin (names);`,
  `
-- Held mail is counted, also where a million others wait.
CREATE INDEX slimsmtp_job_held ON slimsmtp_job (message) WHERE state = 'held';`,
  `
-- A message of up to 8 KB stays in its row: three rows and three index entries elsewhere cost more than the page.
ALTER TABLE slimsmtp_message SET (toast_tuple_target = 8160);`,
];
/** The version of this server's tables. */
const version = steps.length;
/** The oldest version that can work with these tables. */
const oldest = 1;

/**
 * Brings the tables to this server's version, from any version before it or from none. What `slimsmtp schema` prints.
 */
export const schemaScript = [
  'BEGIN;',
  // Of replicas that start together one does it, and the others find it done.
  `SELECT pg_advisory_xact_lock(hashtext('slimsmtp_schema'));`,
  'CREATE TABLE IF NOT EXISTS slimsmtp_schema (version int NOT NULL, oldest int NOT NULL, changed_at timestamptz NOT NULL);',
  'INSERT INTO slimsmtp_schema SELECT 0, 0, now() WHERE NOT EXISTS (SELECT FROM slimsmtp_schema);',
  ...steps.map(
    (step, from) => `DO $slimsmtp$ BEGIN IF (SELECT version FROM slimsmtp_schema) = ${from} THEN ${step}
UPDATE slimsmtp_schema SET version = ${from + 1}, oldest = ${oldest}, changed_at = now();
END IF; END $slimsmtp$;`,
  ),
  'COMMIT;',
].join('\n');

const undefinedTable = '42P01';
const timeoutMs = 60_000;
const find = {
  name: 'slimsmtp_schema',
  text: 'SELECT version::text, oldest::text FROM slimsmtp_schema',
  expected: [undefinedTable],
};

/**
 * Makes or upgrades the tables where that is wanted. Rejects where the queue cannot be used now, having said why once.
 */
export function schemaMaker(database: Database, log: Log): () => Promise<void> {
  let told = '';
  const tell = (error: unknown, words: string): Error => {
    const text = describe(error);
    if (text !== told) log.error({ error: text }, words);
    told = text;
    return new Error(`${words}: ${text}`, { cause: error });
  };
  return async () => {
    const [row] = await database.query(find).catch((error: Error) => {
      if ((error.cause as { code?: unknown } | undefined)?.code !== undefinedTable) throw error;
      return [];
    });
    if (Number(row?.['oldest'] ?? 0) > version)
      throw tell(new Error(`they need version ${row?.['oldest']}, this server knows ${version}`), tooNew);
    if (Number(row?.['version'] ?? 0) >= version) return;
    await database.administer(schemaScript, timeoutMs).catch((error: unknown) => {
      throw tell(error, notMade);
    });
    log.info({ version }, 'the tables of the queue were made or upgraded');
  };
}

const tooNew = 'the tables of the queue are those of a newer SlimSMTP: mail that needs the queue gets 451';
const notMade =
  'the tables of the queue cannot be made: mail that needs the queue gets 451; run what `slimsmtp schema` prints as their owner';
