// Who listens to the life events: the history, and what counts for metrics and status. Where neither is on, nobody
// does, and nothing of it is loaded.
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import type { History } from '../history/history.ts';
import { clientKey } from '../inbound/peer.ts';
import type { Event, Listen } from '../mail/event.ts';
import type { Counters } from '../metrics/counters.ts';
import type { Trend } from '../metrics/trend.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import { system } from './context.ts';

const maxHistoryBytes = 256 * 1024 * 1024;

export type Watching = Readonly<{
  /** undefined: nobody listens, and no event is built. */
  listen: Listen | undefined;
  counters?: Counters;
  trend?: Trend;
  history?: History | undefined;
  /** Writes what is still to be kept, and ends. */
  close(): Promise<void>;
}>;

export async function openWatching(settings: Settings, log: Log): Promise<Watching> {
  const history = await openHistory(settings, log);
  if (history === undefined && settings.http === undefined) return { listen: undefined, close: async () => {} };
  const { Counters } = await import('../metrics/counters.ts');
  const { Trend } = await import('../metrics/trend.ts');
  const counters = new Counters();
  const trend = new Trend(counters, system.clock);
  const gatherer = new Gatherer(log);
  const listen = (event: Event): void => {
    try {
      counters.hear(event);
      history?.hear(event);
    } catch (error) {
      // A listener that fails must not hold up the mail that it watches.
      gatherer.line('error', 'events', { event: event.kind, error: String(error) }, 'an event could not be kept', 1);
    }
  };
  return {
    listen,
    counters,
    trend,
    history,
    async close() {
      trend.close();
      await history?.close();
    },
  };
}

/** Opens the history, where there is to be one. Captured mail has a list of its own. */
async function openHistory(settings: Settings, log: Log) {
  const { historyMs: lifetimeMs, capture, dataFolder, sharesQueue } = settings;
  if (lifetimeMs === 0 || capture !== undefined) return undefined;
  const table = sharesQueue ? await openHistoryTable(settings, log) : undefined;
  const { History } = await import('../history/history.ts');
  const folder = join(dataFolder, 'history');
  return new History({ folder, table, lifetimeMs, maxBytes: maxHistoryBytes, clientKey, clock: system.clock, log });
}

/** Opens the history that all replicas keep together; undefined without a database. */
export async function openHistoryTable({ database: at }: Pick<Settings, 'database'>, log: Log) {
  if (at === undefined) return undefined;
  const { openDatabase } = await import('../postgres/pool.ts');
  const { historyTable } = await import('../postgres/history.ts');
  return historyTable((await openDatabase({ settings: at, maxConnections: 1, log })).query);
}
