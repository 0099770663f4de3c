// The connections to PostgreSQL: a small pool that answers or rejects with CannotTell within seconds, also when the
// database hangs or the network drops packets, and that is back by itself as soon as the database is.
// Promises: never an unhandled 'error' event, never a password in a message; an outage is logged once, and its end.
// Never retries a query: the sender of the mail does. `pg` is loaded here, so only where a database is set.
import type { Pool, PoolConfig, QueryConfig } from 'pg';
import { CannotTell } from '../mail.ts';
import type { Log } from '../mail.ts';
import { createIndex, createTable } from './schema.ts';

type Row = Readonly<Record<string, string | null>>;
type Statement = { readonly name: string; readonly text: string };

const connectTimeoutMs = 3_000;
const queryTimeoutMs = 4_000;
const indexTimeoutMs = 600_000;

/** Connects at the first query, not before: a database that is down never stops the server from starting. */
export async function openDatabase(settings: Readonly<PoolConfig>, log: Log): Promise<Database> {
  const { default: pg } = await import('pg');
  const pool = new pg.Pool({
    ...settings,
    // No sequential scan where an index is: a plan made for a table of four rows may live to see a million.
    options: `-c enable_seqscan=off -c statement_timeout=${queryTimeoutMs}`,
    application_name: 'slimsmtp',
    max: 4,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: queryTimeoutMs,
    keepAlive: true,
  });
  return new Database(pool, log);
}

export class Database {
  readonly #pool: Pool;
  readonly #log: Log;
  readonly #warned = new Set<string>();
  #isUp: boolean | undefined;
  #trial: Promise<boolean> | undefined;
  #index: 'unknown' | 'missing' | 'in the making' | 'there' = 'unknown';

  constructor(pool: Pool, log: Log) {
    this.#pool = pool;
    this.#log = log;
    // An idle connection that breaks; whoever asks next gets a new one.
    pool.on('error', error => log.debug({ error: reason(error) }, 'a connection to PostgreSQL broke'));
  }

  /** Whether the last query was answered. */
  get isUp(): boolean {
    return this.#isUp === true;
  }

  /** Whether look-ups go through the index of lower-cased names. */
  get isIndexed(): boolean {
    return this.#index === 'there';
  }

  /** Runs a prepared statement; rejects only with CannotTell. */
  async query(statement: Statement, values: readonly unknown[] = []): Promise<readonly Row[]> {
    const rows = await this.#ask(statement, values);
    if (this.#isUp !== true) this.#log.info({}, 'PostgreSQL answers');
    this.#isUp = true;
    return rows;
  }

  /** Makes table and index where they are missing and may be made, after every trouble anew; else warns, once. */
  async prepare(): Promise<void> {
    if (this.#index !== 'unknown') return;
    const text = `SELECT to_regclass('smtp')::text AS table, to_regclass('smtp_lower')::text AS index`;
    const [found] = await this.#ask({ name: 'slimsmtp_prepare', text }, []);
    if (!found?.['table'] && !(await this.#make('table smtp', createTable))) return;
    this.#index = found?.['index'] ? 'there' : 'in the making';
    // Not waited for: in a table of millions it takes a while, and until then look-ups are only slow.
    if (this.#index !== 'there') void this.#makeIndex();
  }

  /** Waits for queries under way; nobody has to wait for it. */
  async end(): Promise<void> {
    await this.#pool.end();
  }

  async #ask(statement: Statement, values: readonly unknown[]): Promise<readonly Row[]> {
    // While it is away, one query at a time tries it, and the others share its fate: each attempt can hold a thread
    // for long in a look-up of the host's name, which a stopped container no longer has.
    if (this.#isUp === false && this.#trial && !(await this.#trial))
      throw new CannotTell('PostgreSQL still cannot answer');
    const { promise: trial, resolve: tried } = Promise.withResolvers<boolean>();
    this.#trial = trial;
    let isAnswered = true;
    try {
      return (await this.#pool.query<Row>({ ...statement, values: [...values] })).rows;
    } catch (error) {
      // Class 22, 'data exception': what the encoding of the database cannot hold is in none of its rows.
      if (codeOf(error).startsWith('22')) return [];
      isAnswered = false;
      const text = reason(error);
      if (this.#isUp !== false) this.#log.warn({ error: text }, 'PostgreSQL cannot answer: 451 until it can');
      this.#isUp = false;
      if (this.#index !== 'in the making') this.#index = 'unknown';
      throw new CannotTell(`PostgreSQL cannot answer: ${text}`, { cause: error });
    } finally {
      tried(isAnswered);
      if (this.#trial === trial) this.#trial = undefined;
    }
  }

  async #makeIndex(): Promise<void> {
    const isMade = await this.#make('the index of lower-cased names, without which look-ups are slow', createIndex);
    this.#index = isMade ? 'there' : 'missing';
  }

  async #make(what: string, ddl: string): Promise<boolean> {
    const query: QueryConfig & { query_timeout: number } = {
      text: `BEGIN; SET LOCAL statement_timeout = ${indexTimeoutMs}; ${ddl}; COMMIT`,
      query_timeout: indexTimeoutMs,
    };
    try {
      await this.#pool.query(query);
      this.#log.info({ what }, 'made in PostgreSQL');
      return true;
    } catch (error) {
      const text = 'missing in PostgreSQL, and could not be made: please run the statement there';
      if (!this.#warned.has(ddl)) this.#log.warn({ what, error: reason(error), statement: ddl }, text);
      this.#warned.add(ddl);
      return false;
    }
  }
}

/** What went wrong, in words; several failed addresses of one host come as an error without a message of its own. */
function reason(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(reason).join('; ');
  if (!(error instanceof Error)) return String(error);
  return codeOf(error) === '42P01' ? 'table smtp is missing' : error.message || codeOf(error);
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}
