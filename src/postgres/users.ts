// The table `users`: login names and their verifiers, for @POSTGRESQL in SLIM_USERS.
// Promise: where the table is missing it is made, if that is permitted; an outage is 'cannot tell'.
import type { Log } from '../system/log.ts';
import type { Query } from './pool.ts';

const undefinedTable = '42P01';
const select = {
  name: 'slimsmtp_user',
  text: `SELECT password FROM users WHERE username = ANY($1::text[])
    ORDER BY array_position($1::text[], username::text) LIMIT 1`,
  expected: [undefinedTable],
};
const createTable = {
  name: 'slimsmtp_users',
  text: 'CREATE TABLE IF NOT EXISTS users (username varchar(255) PRIMARY KEY, password text NOT NULL)',
};

/** Looks up the password column of the first of `names` that has a row. Rejects with CannotTell. */
export function openTablePasswords(query: Query, log: Log): (names: readonly string[]) => Promise<string | undefined> {
  return async names => {
    const [row] = await query(select, [names]).catch(async (error: Error) => {
      if ((error.cause as { code?: unknown } | undefined)?.code !== undefinedTable) throw error;
      await query(createTable);
      log.info({}, 'made the table users');
      return query(select, [names]);
    });
    return row && (row['password'] ?? '');
  };
}
