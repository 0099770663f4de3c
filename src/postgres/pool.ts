// The connections to PostgreSQL: a small pool that answers or rejects with CannotTell within seconds, also when the
// database hangs or the network drops packets, and that is back by itself as soon as the database is.
// Promises: never an unhandled 'error' event, never a password in a message; an outage is logged once, and its end.
// Never retries a query: the sender of the mail does. `pg` is loaded here, so only where a database is set.
import type { Pool, PoolConfig } from 'pg';
import { CannotTell } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';

type Row = Readonly<Record<string, string | null>>;
type Statement = { readonly name: string; readonly text: string };

const timeoutMs = 4_000;
// The domain comes first, so that it also lists members and domains.
const createIndex = 'CREATE INDEX smtp_lower ON smtp (lower(domain) COLLATE "C", lower(mailbox) COLLATE "C")';
const makeIndex = `BEGIN; SET LOCAL statement_timeout = 0;
  DO $$ BEGIN IF to_regclass('smtp_lower') IS NULL THEN ${createIndex}; END IF; END $$; COMMIT`;

/** `routes`: whether the table `smtp` is asked at all. A database that is down never stops the server from starting. */
export async function openDatabase(settings: Readonly<PoolConfig>, routes: boolean, log: Log): Promise<Database> {
  const { default: pg } = await import('pg');
  // No sequential scan where an index is: a plan made for a table of four rows may live to see a million.
  const options = `-c enable_seqscan=off -c statement_timeout=${timeoutMs}`;
  const limits = { max: 4, connectionTimeoutMillis: 3_000, query_timeout: timeoutMs };
  return new Database(new pg.Pool({ ...settings, ...limits, options, application_name: 'slimsmtp' }), routes, log);
}

export class Database {
  /** Whether the last query was answered; undefined before the first. */
  isUp: boolean | undefined;
  readonly #pool: Pool;
  readonly #routes: boolean;
  readonly #log: Log;
  #attempt: Promise<unknown> | undefined;

  constructor(pool: Pool, routes: boolean, log: Log) {
    [this.#pool, this.#routes, this.#log] = [pool, routes, log];
    // An idle connection that breaks; whoever asks next gets a new one.
    pool.on('error', error => log.debug({ error: describe(error) }, 'a connection to PostgreSQL broke'));
  }

  /** Runs a prepared statement; rejects only with CannotTell. */
  async query(statement: Statement, values: readonly unknown[] = []): Promise<readonly Row[]> {
    // While it is away, one query at a time tries it, and all share its fate: each attempt can hold a thread for long
    // in a look-up of the host's name, which a stopped container no longer has.
    const isBack = { name: 'slimsmtp_is_back', text: this.#routes ? 'SELECT FROM smtp LIMIT 1' : 'SELECT' };
    if (this.isUp === false) await (this.#attempt ??= this.#ask(isBack, []).finally(() => (this.#attempt = undefined)));
    return this.#ask(statement, values);
  }

  async #ask(statement: Statement, values: readonly unknown[]): Promise<readonly Row[]> {
    try {
      const { rows } = await this.#pool.query<Row>({ ...statement, values: [...values] });
      if (!this.isUp) this.#log.info({}, 'PostgreSQL answers');
      // Not waited for: in a table of millions it takes a while, and until then look-ups are only slow.
      if (!this.isUp && this.#routes) void this.#makeIndex();
      this.isUp = true;
      return rows;
    } catch (error) {
      const text = describe(error);
      // Class 22, 'data exception': what the encoding of the database cannot hold is in none of its rows.
      if (text.startsWith('22')) return [];
      // 42P01, no such table: of `users` that is an answer, and whoever asked makes it; without `smtp` there are no routes.
      const isTableMissing = text.startsWith('42P01') && !text.includes('"smtp"');
      if (this.isUp !== false && !isTableMissing)
        this.#log.warn({ error: text }, 'PostgreSQL cannot answer: 451 until it can');
      this.isUp = isTableMissing;
      throw new CannotTell(`PostgreSQL cannot answer: ${text}`, { cause: error });
    }
  }

  /** Makes the index that finds rows however they are capitalised, where it is missing and may be made. */
  async #makeIndex(): Promise<void> {
    const query = { text: makeIndex, query_timeout: 600_000 };
    const advice = 'look-ups are slow without an index that could not be made: please run the statement in PostgreSQL';
    const warn = (error: unknown) => this.#log.warn({ statement: createIndex, error: describe(error) }, advice);
    await this.#pool.query(query).catch(warn);
  }
}

/** Code and words. Where several addresses of one host failed, all that helps is in the code. */
function describe(error: unknown): string {
  return error instanceof Error && 'code' in error ? `${String(error.code)} ${String(error)}` : String(error);
}
