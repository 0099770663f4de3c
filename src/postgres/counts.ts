// The table in which replicas count together: failed logins, and mail for SLIM_RATE_CLIENT and SLIM_RATE_LOGIN. Its
// statements are those of rate-limiter-flexible; the table is made with those of the queue. What is here is what
// happens while the database is down.
// Promises: nobody waits for a database that has just not answered: for some seconds each replica counts alone, at
// once. A key that has consumed more than it may is refused from memory until its period is over, so a flood of it does
// not reach the database.
import type { RateLimiterPostgres } from 'rate-limiter-flexible';
import { CannotTell, type CountStore } from '../mail/ports.ts';
import type { Clock } from '../system/world.ts';
import type { Query } from './pool.ts';

/** No fault: the tables are not made yet. */
const undefinedTable = '42P01';
const pauseMs = 5000;

export function openCountTable(query: Query, clock: Clock): CountStore {
  let pausedUntil = 0;
  const storeClient = {
    async query({ name, text, values }: { name: string; text: string; values: readonly unknown[] }) {
      if (clock.now() < pausedUntil) throw new CannotTell('PostgreSQL has just not answered');
      try {
        const rows = await query({ name, text, expected: [undefinedTable] }, values);
        return { rows, rowCount: rows.length };
      } catch (error) {
        pausedUntil = clock.now() + pauseMs;
        throw error;
      }
    },
  };
  const place = { storeClient, storeType: 'pool', tableName: 'slimsmtp_failures', tableCreated: true };
  return {
    async open(keyPrefix, limits, insuranceLimiter) {
      // @ts-expect-error Its types are those of the whole package, which loads the clients of twenty databases.
      const { default: Postgres } = (await import('rate-limiter-flexible/lib/RateLimiterPostgres.js')) as {
        default: typeof RateLimiterPostgres;
      };
      const inMemoryBlockOnConsumed = limits.points + 1;
      return new Postgres({ ...limits, ...place, keyPrefix, insuranceLimiter, inMemoryBlockOnConsumed });
    },
  };
}
