// The domains that are ours where there is a database: those of SLIM_DOMAINS and those of the table `smtp`.
// Read again every two seconds, which also notices that the database is back. Kept on disk as last known, so that an
// outage is 'cannot tell' for their mailboxes and never 'not ours'; never loaded at all: 'cannot tell' for every
// domain outside SLIM_DOMAINS. Never fails a start.
import { open, readFile, rename } from 'node:fs/promises';
import { CannotTell, toDomain } from '../mail.ts';
import type { Domains, Log } from '../mail.ts';
import type { Database } from './pool.ts';
import { listDomains, scanDomains } from './schema.ts';

const refreshMs = 2_000;

export class TableDomains implements Domains {
  readonly #options: { database: Database; settings: readonly string[]; file: string; log: Log };
  #kept = '';
  #known: ReadonlySet<string> | undefined;
  #refreshed = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** `settings`: SLIM_DOMAINS, canonical. `file`: where the last known domains are kept; its folder exists. */
  constructor(options: { database: Database; settings: readonly string[]; file: string; log: Log }) {
    this.#options = options;
  }

  /** Reads the last known domains; then goes on in the background until `close`. */
  async start(): Promise<void> {
    try {
      this.#kept = await readFile(this.#options.file, 'utf8');
      this.#known = new Set(this.#kept.split('\n'));
    } catch {
      // The first start, or the file was lost: unknown until the database has answered.
    }
    this.#refreshed = this.#run();
  }

  async hosts(domain: string): Promise<boolean> {
    if (this.#options.settings.includes(domain)) return true;
    if (this.#known === undefined) await this.#refreshed;
    if (this.#known === undefined) throw new CannotTell(`PostgreSQL has not said yet whether ${domain} is hosted here`);
    return this.#known.has(domain);
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  async #run(): Promise<void> {
    await this.#refresh();
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => (this.#refreshed = this.#run()), refreshMs).unref();
  }

  /** Never rejects: the database has logged why it cannot answer, and the last known domains stay. */
  async #refresh(): Promise<void> {
    const { database, file, log } = this.#options;
    try {
      await database.prepare();
      const name = database.isIndexed ? 'slimsmtp_domains' : 'slimsmtp_domains_scan';
      const rows = await database.query({ name, text: database.isIndexed ? listDomains : scanDomains });
      const domains = rows.map(row => toDomain(row['domain'] ?? '')).filter(domain => domain !== undefined);
      this.#known = new Set(domains);
      const text = domains.toSorted().join('\n');
      if (text === this.#kept) return;
      this.#kept = text;
      await write(file, text);
    } catch (error) {
      if (!(error instanceof CannotTell))
        log.warn({ error, file }, 'the domains of table smtp could not be kept on disk');
    }
  }
}

async function write(path: string, text: string): Promise<void> {
  const handle = await open(`${path}.new`, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${path}.new`, path);
}
