// What the server makes in the database by itself, where it may: the index that serves every look-up in the table
// `smtp`.
// Promise: a role that may only read, a view in place of the table, and a table of millions are no trouble: look-ups
// work without the index, and the log says once what would make them fast.
import type { Log } from '../system/log.ts';
import { createIndex } from './columns.ts';
import { describe } from './hosts.ts';
import type { Database } from './pool.ts';

/** PostgreSQL's code `wrong_object_type`: the table is a view. */
const isView = '42809';
// `smtp_lower` is the index of earlier versions, which did not see through blanks.
const makeIndex = `BEGIN; SET LOCAL statement_timeout = 0;
  DO $$ BEGIN IF (SELECT relkind FROM pg_class WHERE oid = to_regclass('smtp')) = 'v' THEN
    RAISE 'smtp is a view' USING ERRCODE = '${isView}';
  ELSIF to_regclass('smtp_address') IS NULL THEN
    ${createIndex}; DROP INDEX IF EXISTS smtp_lower;
  END IF; END $$; COMMIT`;
const timeoutMs = 600_000;
const advice = 'look-ups are slow without an index that could not be made: please run the statement in PostgreSQL';

/** Makes the index where it is missing and may be made; what stands in the way is logged once. Never rejects. */
export function indexMaker(log: Log): (database: Database) => void {
  let told = '';
  return database =>
    void database.administer(makeIndex, timeoutMs).catch((error: unknown) => {
      const text = describe(error);
      if (text === told) return;
      told = text;
      if (text.startsWith(isView))
        log.info({}, 'smtp is a view: look-ups are as fast as the indexes of the tables below it');
      else log.warn({ statement: createIndex, error: text }, advice);
    });
}
