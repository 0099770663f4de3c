// The connections to PostgreSQL: a small pool that answers or rejects with CannotTell within seconds, also when the
// database hangs or the network drops packets, and that is back by itself as soon as the database is.
// Promises: never an unhandled 'error' event, never a password in a message; each outage is logged once, and its end.
// Never retries a query that the database has refused: the sender of the mail does.
//
// Two kinds of trouble are told apart. An outage means that no server answers: then one query at a time tries it, and
// all others share its fate. A fault means that the server answers and refuses one statement (a missing table or
// column, a missing right): then only that statement cannot be answered, until it succeeds. `isUp` is false in both
// cases.
import type { ClientConfig, Pool, PoolClient, PoolConfig } from 'pg';
import { CannotTell } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import { type DatabaseSettings, Hosts, clientMaker, describe, hostOf, toPlain } from './hosts.ts';

type Row = Readonly<Record<string, string | null>>;
export type Statement = Readonly<{
  name: string;
  text: string;
  /** Error codes (SQLSTATE) of this statement that its caller understands: they are thrown and count as no fault. */
  expected?: readonly string[];
}>;
/** Runs a prepared statement. Rejects with CannotTell only; its cause is PostgreSQL's own error. */
export type Query = (statement: Statement, values?: readonly unknown[]) => Promise<readonly Row[]>;

type DatabaseOptions = Readonly<{
  settings: DatabaseSettings;
  /** Called, and not waited for, each time the database answers again. */
  onUp?: (database: Database) => void;
  /** How many connections there are at most: four, unless this says otherwise. */
  maxConnections?: number;
  /** Called for each new connection. */
  onConnect?: (client: PoolClient) => void;
  log: Log;
}>;

const timeoutMs = 4_000;
/** A plan that was made for a table of four rows may live to see a million: no sequential scan where an index is. */
const sessionOptions = `-c enable_seqscan=off -c jit=off -c statement_timeout=${timeoutMs}`;
const limits = { max: 4, connectionTimeoutMillis: 3_000, query_timeout: timeoutMs, application_name: 'slimsmtp' };

/** A database that is down never stops the server from starting. */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const make = await clientMaker(options.settings);
  const { default: pg } = await import('pg');
  const hosts = new Hosts(options.settings.connectionStrings, make);
  const Client = function (config: ClientConfig) {
    return make(config);
  } as unknown as NonNullable<PoolConfig['Client']>;
  // Each new connection is checked, because a host that was restarted as a standby still answers queries that only
  // read.
  const onConnect: PoolConfig['onConnect'] = client => hosts.check(client);
  const { maxConnections: max = limits.max } = options;
  return new Database(config => new pg.Pool({ ...limits, max, ...config, Client, onConnect }), hosts, options);
}

export class Database {
  readonly #open: (config: PoolConfig) => Pool;
  readonly #options: DatabaseOptions;
  /** Whether the last attempt reached a server; undefined before the first. */
  #isReached: boolean | undefined;
  /** Why the server refuses a statement, by the name of the statement. */
  readonly #faults = new Map<string, string>();
  #attempt: Promise<unknown> | undefined;
  readonly #hosts: Hosts;
  /** The host that takes writes, as `#hosts` has found it last, and the connections to it. */
  #url: string | undefined;
  #pool: Pool | undefined;
  #config: PoolConfig = {};
  #usesNames = true;

  constructor(open: (config: PoolConfig) => Pool, hosts: Hosts, options: DatabaseOptions) {
    this.#open = open;
    this.#hosts = hosts;
    this.#options = options;
  }

  /** Whether everything that was asked last was answered; undefined before the first query. */
  get isUp(): boolean | undefined {
    return this.#isReached && this.#faults.size === 0;
  }

  /** Runs a prepared statement; rejects only with CannotTell. */
  readonly query: Query = async (statement, values = []) => {
    // Each attempt at a database that is away can hold a thread for long in a look-up of the host's name, which a
    // stopped container no longer has.
    const isBack = { name: 'slimsmtp_is_back', text: 'SELECT' };
    if (this.#isReached === false)
      await (this.#attempt ??= this.#ask(isBack, []).finally(() => (this.#attempt = undefined)));
    return this.#ask(statement, values);
  };

  /**
   * Runs statements outside the limits of time, without a transaction of the caller. Rejects with PostgreSQL's error.
   */
  async administer(text: string, timeout: number): Promise<void> {
    await (await this.#current()).query({ text, query_timeout: timeout } as { text: string });
  }

  /** A connection of its own; its owner releases it. Rejects with PostgreSQL's error. */
  async connect(): Promise<PoolClient> {
    return (await this.#current()).connect();
  }

  async close(): Promise<void> {
    await this.#pool?.end();
  }

  async #ask(statement: Statement, values: readonly unknown[]): Promise<readonly Row[]> {
    const { log, onUp } = this.#options;
    try {
      const { rows } = await this.#run(statement, values);
      const wasUp = this.isUp;
      this.#isReached = true;
      this.#faults.delete(statement.name);
      if (wasUp || !this.isUp) return rows;
      log.info({}, 'PostgreSQL answers');
      onUp?.(this);
      return rows;
    } catch (error) {
      const text = describe(error);
      const state = sqlState(error);
      // Class 22, 'data exception': what the encoding of the database cannot hold is in none of its rows.
      if (state?.startsWith('22')) return [];
      if (state === undefined || !state.startsWith('42')) {
        this.#hosts.lose();
        if (this.#isReached !== false) log.warn({ error: text }, 'PostgreSQL cannot answer: 451 until it can');
        this.#isReached = false;
      } else {
        this.#isReached = true;
        if (!statement.expected?.includes(state)) this.#note(statement, state, text);
      }
      throw new CannotTell(`PostgreSQL cannot answer: ${text}`, { cause: error });
    }
  }

  /** Logs a fault once, however many statements meet it. */
  #note({ name }: Statement, state: string, text: string): void {
    const isKnown = [...this.#faults.values()].includes(text);
    this.#faults.set(name, text);
    const fields = { error: text, advice: advice[state] };
    if (!isKnown) this.#options.log.error(fields, 'PostgreSQL refuses a query: 451 until this is mended');
  }

  /**
   * One query. Where a server or pooler does not know a feature, the feature is given up and the query asked once more.
   */
  async #run({ name, text }: Statement, values: readonly unknown[]): Promise<{ rows: readonly Row[] }> {
    for (let left = 3; ; left -= 1) {
      const pool = await this.#current();
      const usesNames = this.#usesNames;
      try {
        return await pool.query<Row>({ ...(usesNames && { name }), text, values: [...values] });
      } catch (error) {
        const isChanged = pool !== this.#pool || usesNames !== this.#usesNames;
        if (left === 0 || !(isChanged || this.#giveUp(error))) throw error;
      }
    }
  }

  /** Gives up the feature that, as this error says, is not to be had. Returns whether there was one to give up. */
  #giveUp(error: unknown): boolean {
    const { log } = this.#options;
    const state = sqlState(error);
    // A pooler hands each transaction to another session, which has no such prepared statement (26000), or has one
    // already (42P05).
    if (this.#usesNames && (state === '26000' || state === '42P05')) {
      this.#usesNames = false;
      log.info({}, 'PostgreSQL is asked without prepared statements: a pooler in front of it forgets them');
      return true;
    }
    const isOptions = this.#config.options !== '' && state === '08P01' && /startup parameter/.test(String(error));
    const { connectionString = '' } = this.#config;
    const plain = toPlain(connectionString);
    if (!isOptions && !(plain !== connectionString && /does not support SSL/.test(String(error)))) return false;
    this.#use({ ...this.#config, ...(isOptions ? { options: '' } : { connectionString: plain }) });
    log.info(
      {},
      isOptions ? 'PostgreSQL is asked through a pooler, without options' : 'PostgreSQL is asked without TLS',
    );
    return true;
  }

  /** The connections to the host that takes writes. */
  async #current(): Promise<Pool> {
    const url = await this.#hosts.find();
    if (this.#pool && this.#url === url) return this.#pool;
    if (this.#url !== undefined)
      this.#options.log.info({ host: hostOf(url) }, 'PostgreSQL: another host takes the writes');
    this.#url = url;
    return this.#use({ connectionString: url, options: sessionOptions });
  }

  /** Opens a pool with this configuration, in place of the present one. */
  #use(config: PoolConfig): Pool {
    const old = this.#pool;
    this.#config = config;
    this.#pool = this.#open(config);
    if (this.#options.onConnect) this.#pool.on('connect', this.#options.onConnect);
    // An idle connection has broken; the next query gets a new one.
    this.#pool.on('error', error =>
      this.#options.log.debug({ error: describe(error) }, 'a connection to PostgreSQL broke'),
    );
    void old?.end();
    return this.#pool;
  }
}

/** What the operator can do about a fault. */
const advice: Readonly<Record<string, string>> = {
  '42P01': 'make the table or view, or put its schema into the search_path of this user',
  '42703': 'the table or view must have the columns that the documentation lists, by these names',
  '42501': 'grant this user the right to read the table, and its schema',
};

/** PostgreSQL's own code for an error; Node's codes, such as EPIPE, begin with E and are none. */
function sqlState(error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return /^(?!E)[0-9A-Z]{5}$/.test(code) ? code : undefined;
}
