// The connections to PostgreSQL: a small pool that answers or rejects with CannotTell within seconds, also when the
// database hangs or the network drops packets, and that is back by itself as soon as the database is.
// Promises: never an unhandled 'error' event, never a password in a message; each outage is logged once, and its end.
// Never retries a query that the database has refused: the sender of the mail does. `pg` is loaded here, so only where a
// database is set.
//
// Two kinds of trouble are told apart. An outage means that no server answers: then one query at a time tries it, and
// all others share its fate. A fault means that the server answers and refuses one statement (a missing table or column,
// a missing right): then only that statement cannot be answered, until it succeeds. `isUp` is false in both cases.
import { readFile } from 'node:fs/promises';
import type { ClientConfig, Pool, PoolClient, PoolConfig } from 'pg';
import { CannotTell } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';

type Row = Readonly<Record<string, string | null>>;
export type Statement = Readonly<{
  name: string;
  text: string;
  /** Error codes (SQLSTATE) of this statement that its caller understands: they are thrown and count as no fault. */
  expected?: readonly string[];
}>;
/** Runs a prepared statement. Rejects with CannotTell only; its cause is PostgreSQL's own error. */
export type Query = (statement: Statement, values?: readonly unknown[]) => Promise<readonly Row[]>;

/** `passwordFile` and `urlFile` are read again for each new connection, so that a rotated secret is used at once. */
export type DatabaseSettings = Readonly<{ connectionString: string; passwordFile?: string; urlFile?: string }>;
export type DatabaseOptions = Readonly<{
  settings: DatabaseSettings;
  /** Called, and not waited for, each time the database answers again. */
  onUp?: (database: Database) => void;
  /** Connections at most, where four are not enough. */
  maxConnections?: number;
  /** Called for each new connection. */
  onConnect?: (client: PoolClient) => void;
  log: Log;
}>;

const timeoutMs = 4_000;
/** A plan that was made for a table of four rows may live to see a million: no sequential scan where an index is. */
const sessionOptions = `-c enable_seqscan=off -c statement_timeout=${timeoutMs}`;
const limits = { max: 4, connectionTimeoutMillis: 3_000, query_timeout: timeoutMs, application_name: 'slimsmtp' };

/** A database that is down never stops the server from starting. */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const { default: pg } = await import('pg');
  const secret = passwordReader(options.settings);
  // pg lets a password in the URL, also an empty one, win over a function: so each client gets the function afterwards.
  const Client = function (config: ClientConfig) {
    return Object.assign(new pg.Client(config), secret && { password: secret });
  } as unknown as NonNullable<PoolConfig['Client']>;
  const { maxConnections: max = limits.max } = options;
  return new Database(config => new pg.Pool({ ...limits, max, ...config, Client }), options);
}

/** Gives the password as it stands in its file now; where that cannot be read, as it was at the start. */
function passwordReader({ connectionString, passwordFile, urlFile }: DatabaseSettings) {
  const file = passwordFile ?? urlFile;
  if (file === undefined) return undefined;
  const passwordIn = (url: string): string => decodeURIComponent(new URL(url).password);
  return async (): Promise<string> => {
    const text = await readFile(file, 'utf8').catch(() => undefined);
    if (text === undefined) return passwordIn(connectionString);
    const content = text.replace(/^\ufeff|\r?\n$/g, '');
    return file === passwordFile ? content : passwordIn(content);
  };
}

export class Database {
  readonly #open: (config: PoolConfig) => Pool;
  readonly #options: DatabaseOptions;
  /** Whether the last attempt reached a server; undefined before the first. */
  #isReached: boolean | undefined;
  /** What the server refuses, by the name of the statement. */
  readonly #faults = new Map<string, string>();
  #attempt: Promise<unknown> | undefined;
  #pool: Pool;
  #config: PoolConfig;
  #usesNames = true;

  constructor(open: (config: PoolConfig) => Pool, options: DatabaseOptions) {
    this.#open = open;
    this.#options = options;
    this.#config = { connectionString: options.settings.connectionString, options: sessionOptions };
    this.#pool = this.#make();
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

  /** Runs statements outside the limits of time, without a transaction of the caller. Rejects with PostgreSQL's error. */
  async administer(text: string, timeout: number): Promise<void> {
    await this.#pool.query({ text, query_timeout: timeout } as { text: string });
  }

  /** A connection of its own; its owner releases it. Rejects with PostgreSQL's error. */
  connect(): Promise<PoolClient> {
    return this.#pool.connect();
  }

  async close(): Promise<void> {
    await this.#pool.end();
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

  /** One query. Where a server or pooler does not know a feature, the feature is given up and the query asked once more. */
  async #run({ name, text }: Statement, values: readonly unknown[]): Promise<{ rows: readonly Row[] }> {
    for (let left = 3; ; left -= 1) {
      const [pool, usesNames] = [this.#pool, this.#usesNames];
      try {
        return await pool.query<Row>({ ...(usesNames && { name }), text, values: [...values] });
      } catch (error) {
        const isChanged = pool !== this.#pool || usesNames !== this.#usesNames;
        if (left === 0 || !(isChanged || this.#giveUp(error))) throw error;
      }
    }
  }

  /** Gives up what this error says is not to be had. Whether there was anything to give up. */
  #giveUp(error: unknown): boolean {
    const { log, settings } = this.#options;
    const state = sqlState(error);
    // A pooler of transactions that hands each query to another session (26000: no such prepared statement; 42P05: it is there already).
    if (this.#usesNames && (state === '26000' || state === '42P05')) {
      this.#usesNames = false;
      log.info({}, 'PostgreSQL is asked without prepared statements: a pooler in front of it forgets them');
      return true;
    }
    const isOptions = this.#config.options !== '' && state === '08P01' && /startup parameter/.test(String(error));
    const isPlain = this.#config.ssl === undefined && /does not support SSL/.test(String(error));
    if (!isOptions && !(isPlain && /[?&]sslmode=prefer(?:&|$)/.test(settings.connectionString))) return false;
    this.#config = isOptions ? { ...this.#config, options: '' } : plain(this.#config);
    const old = this.#pool;
    this.#pool = this.#make();
    void old.end();
    log.info(
      {},
      isOptions ? 'PostgreSQL is asked through a pooler, without options' : 'PostgreSQL is asked without TLS',
    );
    return true;
  }

  #make(): Pool {
    const pool = this.#open(this.#config);
    // An idle connection that breaks; whoever asks next gets a new one.
    if (this.#options.onConnect) pool.on('connect', this.#options.onConnect);
    return pool.on('error', error =>
      this.#options.log.debug({ error: describe(error) }, 'a connection to PostgreSQL broke'),
    );
  }
}

/** The same database in plain text. */
function plain(config: PoolConfig): PoolConfig {
  const connectionString = config.connectionString?.replace(/([?&]sslmode=)prefer/, '$1disable');
  return { ...config, ssl: false, ...(connectionString && { connectionString }) };
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

/** Code and words. Where several addresses of one host failed, all that helps is in the code. */
export function describe(error: unknown): string {
  return error instanceof Error && 'code' in error ? `${String(error.code)} ${String(error)}` : String(error);
}
