// The table in which replicas count failed logins together. Its statements are those of rate-limiter-flexible; the table is
// made with those of the queue. What is here is what happens while the database is down.
// Promise: a login never waits for a database that has just not answered: for some seconds this rejects at once, and each
// replica counts alone.
import { CannotTell, type FailureStore } from '../mail/ports.ts';
import type { Clock } from '../system/world.ts';
import type { Query } from './pool.ts';

/** No fault: the tables are not made yet. */
const undefinedTable = '42P01';
const pauseMs = 5000;

export function openFailureTable(query: Query, clock: Clock): FailureStore {
  let pausedUntil = 0;
  return {
    table: 'slimsmtp_failures',
    async query({ name, text, values }) {
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
}
