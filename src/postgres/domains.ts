// The domains that are ours where there is a database: those of SLIM_DOMAINS and those of the table `smtp`.
// Read again every two seconds, which also notices that the database is back. Kept on disk as last known, so that an
// outage is 'cannot tell' for their mailboxes and never 'not ours'; never loaded at all: 'cannot tell' for every
// domain outside SLIM_DOMAINS. Never fails a start.
import { readFile } from 'node:fs/promises';
import { replaceFile } from '../durable/replace.ts';
import { CannotTell, type Domains } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import { toDomain } from '../mail/address.ts';
import { domainColumn } from './columns.ts';
import type { Database } from './pool.ts';

// Every domain once, by a walk from one to the next through the index: no scan of a table of a million rows. Where the
// index could not be made, one scan: the walk would be one for every domain.
const listDomains = {
  name: 'slimsmtp_domains',
  text: `WITH RECURSIVE walk AS (
      SELECT min(${domainColumn()}) AS domain FROM smtp WHERE to_regclass('smtp_address') IS NOT NULL
    UNION ALL
      SELECT (SELECT min(${domainColumn('s')}) FROM smtp s WHERE ${domainColumn('s')} > walk.domain)
      FROM walk WHERE walk.domain IS NOT NULL)
    SELECT domain FROM walk
    UNION SELECT ${domainColumn()} FROM smtp WHERE to_regclass('smtp_address') IS NULL ORDER BY 1`,
};

/** `settings`: SLIM_DOMAINS, canonical. `file`: where the last known domains are kept; its folder exists. */
type Options = Readonly<{ database: Database; settings: readonly string[]; file: string; log: Log }>;

export class TableDomains implements Domains {
  readonly #options: Options;
  #known: readonly string[] | undefined; // of the table; undefined until the database has answered for the first time

  constructor(options: Options) {
    this.#options = options;
  }

  /** Reads the last known domains, asks for the present ones, and goes on doing so in the background. */
  async start(): Promise<void> {
    this.#known = (await readFile(this.#options.file, 'utf8').catch(() => undefined))?.split('\n');
    await this.#refresh();
  }

  async hosts(domain: string): Promise<boolean> {
    if (this.#options.settings.includes(domain)) return true;
    if (this.#known === undefined) throw new CannotTell(`PostgreSQL has not said yet whether ${domain} is hosted here`);
    return this.#known.includes(domain);
  }

  /** Never rejects: the database has logged why it cannot answer, and the last known domains stay. */
  async #refresh(): Promise<void> {
    const { database, file, log } = this.#options;
    try {
      const rows = await database.query(listDomains);
      // Of shared mailboxes (@NAME) toDomain makes none.
      const known = rows.flatMap(row => toDomain(row['domain'] ?? '') ?? []);
      if (known.join() === this.#known?.join()) return;
      this.#known = known;
      await replaceFile(file, known.join('\n'));
    } catch (error) {
      if (!(error instanceof CannotTell)) log.warn({ error, file }, 'could not keep the domains of the table on disk');
    } finally {
      setTimeout(() => void this.#refresh(), 2_000).unref();
    }
  }
}
