// How a connection to PostgreSQL is made: the password as it stands now, and, of several hosts, the one that takes
// writes (libpq's target_session_attrs=read-write).
// How it goes: all hosts are asked side by side, and the first in their order that takes writes is used from then on.
// It is looked for anew as soon as anybody says that it was lost. Where two hosts take writes, one of them is an old
// primary that has come back beside the standby which was promoted for it: the one with the highest timeline is right.
// Promises: asks nothing where there is one host. Every wait has a deadline. Rejects with the reason of each host.
import { readFile } from 'node:fs/promises';
import type { Client, ClientConfig } from 'pg';

/**
 * A URL for each host. `passwordFile` and `urlFile` are read again for each new connection, so that a rotated secret is
 * used at once.
 */
export type DatabaseSettings = Readonly<{
  connectionStrings: readonly string[];
  passwordFile?: string;
  urlFile?: string;
}>;

/** Makes a connection that is still to be opened. */
type MakeClient = (config: ClientConfig) => Client;

/** How long it may take to connect, and to answer the one question. */
const timeouts = { connectionTimeoutMillis: 3_000, query_timeout: 3_000, application_name: 'slimsmtp' };
const isReadOnly = `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS is_read_only`;
/** The name of the present WAL file begins with the timeline, in eight digits. */
const timeline = 'SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline';

/** `pg` is loaded here, so only where a database is set. */
export async function clientMaker({ connectionStrings: [url = ''], passwordFile, urlFile }: DatabaseSettings) {
  const { default: pg } = await import('pg');
  const file = passwordFile ?? urlFile;
  /** The password as it stands in its file now; where that cannot be read, as it was at the start. */
  const readPassword = async (path: string): Promise<string> => {
    const text = await readFile(path, 'utf8').catch(() => undefined);
    if (text === undefined) return passwordIn(url);
    const content = text.replace(/^\ufeff|\r?\n$/g, '');
    return path === passwordFile ? content : passwordIn(content);
  };
  const secret = file === undefined ? undefined : () => readPassword(file);
  // pg lets a password in the URL, also an empty one, win over a function: so each client gets the function afterwards.
  const make: MakeClient = config => Object.assign(new pg.Client(config), secret && { password: secret });
  return make;
}

/** The password in a URL with one host or several. */
const passwordIn = (url: string): string => decodeURIComponent(/^[a-z]+:\/\/[^:/?@]*:([^/?@]*)@/.exec(url)?.[1] ?? '');

/** The same database in plain text. */
export const toPlain = (url: string): string => url.replace(/([?&]sslmode=)prefer/, '$1disable');

type Answer = Readonly<{ url: string; reason?: string; timeline: string }>;

export class Hosts {
  readonly #urls: readonly string[];
  readonly #make: MakeClient;
  #found: Promise<string> | undefined;

  constructor(urls: readonly string[], make: MakeClient) {
    this.#urls = urls;
    this.#make = make;
  }

  /** The URL of the host that takes writes. */
  find(): Promise<string> {
    const [url = ''] = this.#urls;
    return (this.#found ??= this.#urls.length > 1 ? this.#look() : Promise.resolve(url));
  }

  /** Says that the host may take no writes any more: the next `find` looks for another one. */
  lose(): void {
    this.#found = undefined;
  }

  /**
   * Rejects where the host to which this connection leads takes no writes. Asks nothing where there is no other host.
   */
  async check(client: Pick<Client, 'query'>): Promise<void> {
    if (this.#urls.length === 1) return;
    const { rows } = await client.query<{ is_read_only: boolean }>(isReadOnly);
    if (rows[0]?.is_read_only !== false) throw new Error('it takes no writes: a standby, or read-only');
  }

  async #look(): Promise<string> {
    const answers = await Promise.all(this.#urls.map(url => this.#ask(url)));
    const [best] = answers
      .filter(({ reason }) => reason === undefined)
      .toSorted((one, other) => other.timeline.localeCompare(one.timeline));
    if (best) return best.url;
    this.lose();
    throw new Error(answers.map(({ url, reason }) => `${hostOf(url)}: ${reason}`).join('; '));
  }

  /** Whether that host takes writes, and on which timeline; '' where it cannot tell. */
  async #ask(url: string): Promise<Answer> {
    const client = this.#make({ ...timeouts, connectionString: url });
    client.on('error', () => {}); // it also rejects what waits
    try {
      await client.connect();
      await this.check(client);
      const { rows } = await client.query<{ timeline: string }>(timeline).catch(() => ({ rows: [] }));
      return { url, timeline: rows[0]?.timeline ?? '' };
    } catch (error) {
      if (toPlain(url) !== url && /does not support SSL/.test(String(error))) return this.#ask(toPlain(url));
      return { url, reason: describe(error), timeline: '' };
    } finally {
      void client.end().catch(() => {});
    }
  }
}

/** The host of a URL, for people: without user and password. */
export const hostOf = (url: string): string => {
  const { host, searchParams } = new URL(url);
  return searchParams.get('host') ?? decodeURIComponent(host);
};

/** The code and the words of an error. Where several addresses of one host failed, only the code helps. */
export function describe(error: unknown): string {
  return error instanceof Error && 'code' in error ? `${String(error.code)} ${String(error)}` : String(error);
}
