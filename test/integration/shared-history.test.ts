// The history of replicas that share a queue, on a real PostgreSQL: each adds what happens there, and one of them tells
// the whole life of a message.
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, it } from 'node:test';
import { History } from '../../src/history/history.ts';
import { Search, bare } from '../../src/history/search.ts';
import type { Event } from '../../src/mail/event.ts';
import { historyTable } from '../../src/postgres/history.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { schemaScript } from '../../src/postgres/queue/schema.ts';
import { base, clean, usePostgres } from './shared-queue.harness.ts';

const postgres = usePostgres();
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const day = 86_400_000;

async function replica(at = Date.now()) {
  const folder = mkdtempSync(join(base, 'history-'));
  const settings = { connectionStrings: [postgres.url] };
  const table = historyTable((await openDatabase({ settings, maxConnections: 1, log })).query);
  const options = { lifetimeMs: 7 * day, maxBytes: 1_000_000, clientKey: String, clock: { now: () => at }, log };
  return { folder, table, history: new History({ ...options, folder, table }) };
}
const attempt = (message: string, to: string, text: string): Event => ({
  kind: 'attempt',
  message,
  hop: 'domain',
  destination: 'example.org',
  from: 'Me@example.com',
  to: [to],
  recipients: 1,
  result: 'deferred',
  status: '4.7.1',
  text,
  attempts: 1,
  ms: 1,
  ageMs: 1,
});

describe('the history of replicas', () => {
  beforeEach(async () => {
    await clean(postgres.admin);
    await postgres.admin.query(schemaScript);
  });

  it('is told by each of them: what happened elsewhere, once, in the order of time', async () => {
    const one = await replica();
    const two = await replica(Date.now() + 1000);
    one.history.hear(attempt('a', 'x@example.org', 'it\'s \u0000 \\ "busy" \ud800'));
    one.history.hear(attempt('b', 'other@example.org', 'no'));
    two.history.hear(attempt('a', 'x@example.org', 'still'));
    for (const { history } of [one, two]) await history.close();
    for (const { folder, table } of [one, two])
      for (const wanted of ['X@example.org', 'a']) {
        const lines = [...new Set([...(await table.named(bare(wanted))), ...(await table.lives(['a']))])];
        const { messages } = new Search(folder, wanted).find(20, lines);
        assert.deepEqual([...messages.keys()], ['a']);
        const texts = messages.get('a')?.map(event => event.kind === 'attempt' && event.text);
        assert.deepEqual(texts, ['it\'s \u0000 \\ "busy" \ud800', 'still'], wanted);
      }
  });

  it('keeps its time, and is no more than its bound', async () => {
    const old = await replica(Date.now() - 8 * day);
    old.history.hear(attempt('old', 'x@example.org', ''));
    await old.history.close();
    const { table, history } = await replica();
    history.hear(attempt('new', 'x@example.org', ''));
    await history.close();
    assert.equal((await table.named('x@example.org')).length, 2);
    await table.prune(Date.now() - 7 * day);
    assert.deepEqual(
      (await table.named('me@example.com')).map(line => JSON.parse(line).message),
      ['new'],
    );
  });

  it('holds up nobody where the database does not answer, and keeps its files', async () => {
    const one = await replica();
    await postgres.admin.query('DROP TABLE slimsmtp_event');
    one.history.hear(attempt('a', 'x@example.org', 'no'));
    await one.history.close();
    assert.equal(one.history.lost, 1);
    assert.equal(new Search(one.folder, 'a').find(20).messages.get('a')?.length, 1);
  });
});
