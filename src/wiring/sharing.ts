// The queue that several replicas share, in PostgreSQL (SLIM_QUEUE). Loaded only where it is on.
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import type { Delivery, QueueRecipient } from '../mail/message.ts';
import type { Transport } from '../mail/ports.ts';
import { openDatabase } from '../postgres/pool.ts';
import { distrustWarnings } from '../postgres/queue/durability.ts';
import { PostgresStore } from '../postgres/queue/store.ts';
import { FileStore } from '../queue/files.ts';
import { isOver } from '../queue/records.ts';
import { SharedQueue, type SharedQueueOptions } from '../queue/shared.ts';
import type { Log } from '../system/log.ts';
import type { Kept } from './sending.ts';

/** There are so many connections: for the queue's statements side by side, for large messages, and one that listens. */
const maxConnections = 14;
const moveRetryMs = 10_000;

export async function openSharedQueue(
  settings: Settings,
  remote: Transport,
  options: Omit<SharedQueueOptions, 'store'>,
): Promise<Kept> {
  const { dataFolder, database: at, maxSessionsOut: maxSessions } = settings;
  const { log, isRelayed, retryMs } = options;
  if (at === undefined) throw new Error('SLIM_QUEUE="@POSTGRESQL" without a database');
  const database = await openDatabase({ settings: at, maxConnections, onConnect: distrustWarnings, log });
  const spoolFolder = join(dataFolder, 'spool');
  const store = new PostgresStore({ database, spoolFolder, maxSessions, firstRetryMs: retryMs[0] ?? 0, log });
  const transports = { ...options.transports, ...asSetNow(remote, isRelayed) };
  const queue = new SharedQueue({ ...options, transports, store });
  const files = new FileStore(join(dataFolder, 'queue'), log);
  const start = async (): Promise<void> => {
    await queue.start();
    await moveQueue(files, queue, log);
  };
  return { queue, use: () => undefined, start, settle: () => queue.close() };
}

/** Moves what a queue on this disk has: insert, commit, then unlink. What cannot be moved now is tried again later. */
export async function moveQueue(files: FileStore, queue: SharedQueue, log: Log): Promise<void> {
  let moved = 0;
  let left = 0;
  for await (const record of files.claim())
    try {
      if (!isOver(record)) await queue.adopt(record, await files.message(record));
      await files.remove(record.id);
      moved += 1;
    } catch (error) {
      if ((left += 1) === 1) log.warn({ message: record.id, error: String(error) }, notMoved);
    }
  if (moved > 0) log.info({ messages: moved }, 'the queue on this disk was moved into PostgreSQL');
  if (left > 0) setTimeout(() => void moveQueue(files, queue, log).catch(() => undefined), moveRetryMs).unref();
}

const notMoved = 'mail of the queue on this disk cannot be moved into PostgreSQL now: it stays, and is tried again';

/** The next hops of mail that was queued when SLIM_RELAY_HOST was another: it goes where mail goes now. */
function asSetNow(remote: Transport, isRelayed: boolean): Readonly<Record<'relay' | 'domain', Transport>> {
  const toRelay: Transport = { deliver: (_hop, ...what) => remote.deliver({ kind: 'relay' }, ...what) };
  const toDomains: Transport = {
    async deliver(_hop, entry, message, recipients, place) {
      const results = new Map<QueueRecipient, Delivery | undefined>();
      for (const [domain, group] of Map.groupBy(recipients, to => to.domain)) {
        const deliveries = await remote.deliver({ kind: 'domain', domain }, entry, message, group, place);
        for (const [at, to] of group.entries()) results.set(to, deliveries[at]);
      }
      return recipients.flatMap(to => results.get(to) ?? []);
    },
  };
  return isRelayed ? { relay: remote, domain: toRelay } : { relay: toDomains, domain: remote };
}
