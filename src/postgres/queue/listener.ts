// Wake-ups between replicas, by LISTEN and NOTIFY on a connection of its own. They only save time: whoever hears
// nothing looks every second.
// A commit with a NOTIFY waits for all others that have one. So it is never part of a statement that keeps mail, comes
// ten times a second at most, and does not wait for the disk or for a standby.
import type { PoolClient } from 'pg';
import type { Database } from '../pool.ts';

const channel = 'slimsmtp_queue';
const notifyMs = 100;
const retryMs = 2_000;

export class Listener {
  readonly #database: Database;
  readonly #onWork: () => void;
  #client: PoolClient | undefined;
  #notifying: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(database: Database, onWork: () => void) {
    this.#database = database;
    this.#onWork = onWork;
  }

  /** Never rejects: it goes on trying in the background. */
  async start(): Promise<void> {
    try {
      const client = await this.#database.connect();
      const isOver = (): void => {
        if (this.#client === client) this.#client = undefined;
        client.release(true);
        this.#again();
      };
      client.once('error', isOver).on('notification', this.#onWork);
      if (this.#isStopped) return client.release(true);
      this.#client = client;
      await client.query('SET synchronous_commit = off').then(
        () => client.query(`LISTEN ${channel}`),
        () => client.emit('error', new Error('it cannot listen')),
      );
    } catch {
      this.#again();
    }
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#notifying);
    clearTimeout(this.#retry);
    this.#client?.removeAllListeners('error').on('error', () => undefined);
    this.#client?.release(true);
    this.#client = undefined;
  }

  /** Tells the other replicas that something may be due. */
  notify(): void {
    this.#notifying ??= setTimeout(() => {
      this.#notifying = undefined;
      this.#client?.query(`NOTIFY ${channel}`).catch(() => undefined);
    }, notifyMs).unref();
  }

  #again(): void {
    if (!this.#isStopped) this.#retry = setTimeout(() => void this.start(), retryMs).unref();
  }
}
