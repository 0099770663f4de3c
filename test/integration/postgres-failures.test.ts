// Failed logins that replicas count together, over a real PostgreSQL: what one of them has counted shuts a guesser out at
// the others; while the database is down, or has no such table yet, each counts alone.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openThrottle } from '../../src/auth/throttle.ts';
import { openFailureTable } from '../../src/postgres/failures.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { schemaScript } from '../../src/postgres/queue/schema.ts';
import { docker, openStage } from './compose-lib.ts';

const stage = openStage(after);
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
let url = '';
let id = '';
let now = Date.now();
before(async () => {
  const { database } = await stage.postgres(await stage.network());
  url = database.getConnectionUri();
  id = database.getId();
});

async function replica() {
  const database = await openDatabase({ settings: { connectionStrings: [url] }, log });
  const failures = openFailureTable(database.query, { now: () => now });
  return openThrottle({ clientKey: client => client, isShared: () => false, failures });
}
const shell = (script: string): Promise<string> => docker('exec', id, 'sh', '-c', script);
const sql = (statement: string): Promise<string> =>
  shell(`psql -qAt -U "$POSTGRES_USER" "$POSTGRES_DB" <<'END'\n${statement};\nEND`);

test('replicas count failures together, and alone while the database is down or has no table for it', async () => {
  const [one, other] = [await replica(), await replica()];
  await one.countFailure('192.0.2.9', 'anton');
  await sql(schemaScript);
  now += 5001;
  for (let count = 0; count < 6; count += 1) {
    await one.countFailure('192.0.2.1', 'anton');
    await other.countFailure('192.0.2.1', 'berta');
  }
  for (const each of [one, other, await replica()]) {
    assert.equal(await each.isShut('192.0.2.1', 'anton'), true);
    assert.equal(await each.reserve('192.0.2.1', 'anyone'), undefined);
    assert.equal(await each.isShut('192.0.2.2', 'anton'), false, 'another client is free');
  }
  const rows = await sql('SELECT key, points FROM slimsmtp_failures ORDER BY 1');
  assert.match(rows, /^account:.{3}\|6\naccount:.{3}\|6\nclient:192\.0\.2\.1\|12\n$/);

  await docker('pause', id);
  try {
    const begun = Date.now();
    assert.equal(await one.isShut('192.0.2.1', 'anton'), false, 'this replica alone has counted nothing yet');
    for (let count = 0; count < 11; count += 1) await one.countFailure('192.0.2.3', 'anton');
    assert.equal(await one.isShut('192.0.2.3', 'anton'), true);
    assert.ok(Date.now() - begun < 10_000, 'no login waits for the database each time');
    assert.equal(await other.isShut('192.0.2.3', 'anton'), false);
  } finally {
    await docker('unpause', id);
  }
  assert.equal(await one.isShut('192.0.2.1', 'anton'), false, 'it is not asked yet');
  now += 5001;
  assert.equal(await one.isShut('192.0.2.1', 'anton'), true, 'and counts together again');
});
