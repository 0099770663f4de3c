// For the tests of the queue that replicas share: a real PostgreSQL, and replicas on it with next hops that the test
// moves.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { PostgreSqlContainer, type StartedPostgreSqlContainer } from '@testcontainers/postgresql';
import { Client } from 'pg';
import type { QueuedMessage, Selector } from '../../src/mail/admin.ts';
import {
  type Delivery,
  type Message,
  type NextHop,
  type Outcome,
  type QueueEntry,
  type QueueRecipient,
  nextHopKey,
} from '../../src/mail/message.ts';
import type { Place, Transport } from '../../src/mail/ports.ts';
import type { Log } from '../../src/system/log.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { PostgresStore } from '../../src/postgres/queue/store.ts';
import { SharedQueue, type SharedQueueOptions } from '../../src/queue/shared.ts';
import { delivered } from '../contract/deliveries.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';

export const minute = 60_000;

export const base = mkdtempSync(join(tmpdir(), 'shared-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));

/** A database of each test file's own. `url` and `admin` are there once the tests run. */
export function usePostgres(): { url: string; admin: Client; container: StartedPostgreSqlContainer | undefined } {
  const use: ReturnType<typeof usePostgres> = { url: '', admin: new Client(), container: undefined };
  before(async () => {
    // POSTGRES_URL: a server that is there already, for the one who works on this.
    const url = process.env['POSTGRES_URL'];
    if (url === undefined) use.container = await new PostgreSqlContainer('postgres:17-trixie').start();
    use.url = url ?? use.container?.getConnectionUri() ?? '';
    use.admin = new Client({ connectionString: use.url });
    await use.admin.connect();
    await clean(use.admin);
  });
  after(async () => {
    await use.admin.end();
    await use.container?.stop();
  });
  return use;
}

const tables = ['chunk', 'job', 'message', 'seat', 'destination', 'replica', 'event', 'failures', 'schema'];
export async function clean(admin: Client): Promise<void> {
  await admin.query(`DROP TABLE IF EXISTS ${tables.map(name => `slimsmtp_${name}`).join(', ')}`);
}

/** How many rows there are of mail, and of what belongs to it. */
export async function leftovers(admin: Client): Promise<number> {
  const counted = ['chunk', 'job', 'message', 'seat'].map(name => `(SELECT count(*) FROM slimsmtp_${name})`);
  const { rows } = await admin.query<{ n: string }>(`SELECT ${counted.join(' + ')} AS n`);
  return Number(rows[0]?.n);
}

/** Everything that was planned comes that much earlier. */
export async function pass(admin: Client, interval: string): Promise<void> {
  await admin.query(`UPDATE slimsmtp_job SET next_at = next_at - $1::interval, wake_at = wake_at - $1::interval`, [
    interval,
  ]);
  await admin.query(
    `UPDATE slimsmtp_destination SET first_at = first_at - $1::interval,
      next_due = CASE WHEN next_due > now() THEN greatest(next_due - $1::interval, now()) ELSE next_due END, blocked_until = blocked_until - $1::interval`,
    [interval],
  );
}

type Attempt = { readonly destination: string; readonly to: readonly string[]; readonly id: string };

/** A replica that is not started yet. `answer`: what becomes of a recipient. */
export async function replica(url: string, options: Partial<SharedQueueOptions> = {}, transport?: Transport) {
  const state = {
    answer: (_to: QueueRecipient, _place: Place): Delivery | Promise<Delivery> => delivered,
    /** What a next hop does with the content, before it answers. */
    read: (_message: Message): void | Promise<void> => undefined,
    running: 0,
    most: 0,
  };
  const attempts: Attempt[] = [];
  const notices: string[] = [];
  const killers: string[] = [];
  const lines: (Record<string, unknown> & { msg: string })[] = [];
  const line = (fields: Record<string, unknown>, msg: string): unknown => lines.push({ ...fields, msg });
  const log: Log = { debug: line, info: line, warn: line, error: line } as unknown as Log;
  const own: Transport = {
    async deliver(hop: NextHop, entry: QueueEntry, message, recipients, place) {
      attempts.push({ destination: nextHopKey(hop), to: recipients.map(({ address }) => address), id: entry.id });
      state.running += 1;
      state.most = Math.max(state.most, state.running);
      try {
        await state.read(message);
        return await Promise.all(recipients.map(to => state.answer(to, place)));
      } finally {
        state.running -= 1;
      }
    },
  };
  const used = transport ?? own;
  const database = await openDatabase({ settings: { connectionStrings: [url] }, maxConnections: 14, log });
  const spoolFolder = mkdtempSync(join(base, 'spool-'));
  const maxSessions = options.maxSessions ?? 20;
  const retryMs = options.retryMs ?? [minute, 5 * minute];
  const store = new PostgresStore({ database, spoolFolder, maxSessions, firstRetryMs: retryMs[0] ?? 0, log });
  const queue = new SharedQueue({
    store,
    onKiller: async ({ id }) => void killers.push(id),
    maxSessions,
    isRelayed: false,
    transports: { here: used, lmtp: used, relay: used, domain: used },
    report: async (_entry: QueueEntry, _message: Message, outcomes: readonly Outcome[]) => {
      notices.push(outcomes.map(o => `${o.action} ${o.recipient.address} ${o.delivery.status}`).join(', '));
    },
    lifetimeMs: 7200 * minute,
    retryMs,
    delayNoticeMs: 240 * minute,
    clock: { now: () => Date.now() },
    random: { hex: octets => '0'.repeat(octets * 2), below: () => 100 },
    log,
    ...options,
  });
  const list = async (selector: Selector = {}): Promise<QueuedMessage[]> => {
    const found: QueuedMessage[] = [];
    for await (const item of queue.list(selector)) found.push(item);
    return found;
  };
  return {
    queue,
    store,
    state,
    attempts,
    notices,
    killers,
    lines,
    list,
    spoolFolder,
    add: async (id: string, to: readonly string[], more: Partial<QueueEntry> = {}, content = 'Subject: x\n\nx\n') => {
      const recipients = to.map(address => {
        const domain = address.split('@')[1] ?? '';
        return { address, domain, ...(domain === 'here.example' && { routes: [] }) };
      });
      await (await queue.prepare(queueEntry(id, { ...more, recipients }), memory(content))).commit();
    },
    close: async (): Promise<void> => {
      await queue.stop(1000);
      await queue.close();
    },
  };
}
export type Replica = Awaited<ReturnType<typeof replica>>;
