// What replicas count together, over a real PostgreSQL: failed logins, and mail for SLIM_RATE_CLIENT and
// SLIM_RATE_LOGIN. What one of them has counted shuts out at the others; while the database is down, or has no such
// table yet, each counts alone.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openThrottle } from '../../src/auth/throttle.ts';
import { openRates } from '../../src/filters/rates.ts';
import { openCountTable } from '../../src/postgres/counts.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { schemaScript } from '../../src/postgres/queue/schema.ts';
import { Gatherer } from '../../src/system/gather.ts';
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

const clientKey = (client: string): string => client;
let asked = 0;
async function openCounts() {
  const database = await openDatabase({ settings: { connectionStrings: [url] }, log });
  const query: typeof database.query = (...what) => {
    asked += 1;
    return database.query(...what);
  };
  return openCountTable(query, { now: () => now });
}
const replica = async () => openThrottle({ clientKey, isShared: () => false, counts: await openCounts() });
const shell = (script: string): Promise<string> => docker('exec', id, 'sh', '-c', script);
const sql = (statement: string): Promise<string> =>
  shell(`psql -qAt -U "$POSTGRES_USER" "$POSTGRES_DB" <<'END'\n${statement};\nEND`);

test('replicas count failed logins together, and alone while the database is down or has no table for it', async () => {
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

test('replicas count mail together, and alone while the database is down', async () => {
  const rate = { count: 4, periodMs: 3_600_000 };
  const open = async () =>
    openRates({ client: rate, login: rate, clientKey, gatherer: new Gatherer(log), counts: await openCounts() });
  const [one, other] = [await open(), await open()];
  /** How many of so many are taken. */
  const takes = async (each: typeof one, client: string, count: number): Promise<number> => {
    let taken = 0;
    for (let at = 0; at < count; at += 1) if (!(await each.countMessage?.(client))) taken += 1;
    return taken;
  };
  assert.deepEqual([await takes(one, '192.0.2.7', 3), await takes(other, '192.0.2.7', 3)], [3, 1]);
  assert.equal(await takes(one, '192.0.2.7', 1), 0);
  assert.equal(await takes(one, '192.0.2.8', 1), 1, 'another client has a count of its own');
  for (const each of [one, other, one, other])
    assert.equal(await each.countRecipient?.('anton@example.com'), undefined);
  assert.equal((await other.countRecipient?.('anton@example.com'))?.code, 450);
  assert.equal(await one.countRecipient?.('berta@example.com'), undefined);
  const askedBefore = asked;
  assert.equal(await takes(one, '192.0.2.7', 20), 0);
  assert.equal(asked, askedBefore, 'who is over the rate does not reach the database');

  await docker('pause', id);
  try {
    const begun = Date.now();
    assert.deepEqual([await takes(one, '192.0.2.9', 6), await takes(other, '192.0.2.9', 6)], [4, 4]);
    assert.ok(Date.now() - begun < 20_000, 'no message waits for the database each time');
  } finally {
    await docker('unpause', id);
  }
  now += 5001;
  // Another client: of that one the database may have counted what it was asked right before.
  assert.deepEqual([await takes(one, '192.0.2.10', 3), await takes(other, '192.0.2.10', 3)], [3, 1]);
});
