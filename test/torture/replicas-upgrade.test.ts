// A rolling upgrade of replicas on one queue, under load: three of the last version that had the first version of the
// tables are replaced one after the other by today's, and one of today's by an old one again, as after an upgrade that
// is taken back. Promises shown: old and new ones send side by side from the same tables; nothing is lost and nothing
// goes twice; what waited or was held before is known to all.
// The old version is built from this repository's own history; without that history the test fails.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { PostgreSqlContainer } from '@testcontainers/postgresql';
import { Client } from 'pg';
import { eventually } from '../integration/client.ts';
import { freePort } from '../ports.ts';
import { CountingHop, Load } from './replicas-lib.ts';
import { type Server, dial, openPlace, undoing } from './server.ts';

const version = '90852a5';
const names = ['one', 'two', 'three'];
const messages = 1500;
/** Between two replacements. */
const pauseMs = 6000;
const undo = undoing(after);

test(`replicas of ${version} and of today side by side`, async t => {
  const postgres = await new PostgreSqlContainer('postgres:17-trixie').start();
  undo(async () => void (await postgres.stop({ timeout: 0 })));
  const admin = new Client({ connectionString: postgres.getConnectionUri() });
  await admin.connect();
  undo(() => admin.end());
  const rows = async (text: string): Promise<Record<string, unknown>[]> => (await admin.query(text)).rows;
  const hop = new CountingHop(() => Math.random() * 30);
  await hop.listen();
  undo(async () => hop.close());
  const places = { old: await openPlace(undo, undefined, version), new: await openPlace(undo) };
  const ports = await Promise.all(
    names.map(async (): Promise<[number, number]> => [await freePort(), await freePort()]),
  );
  const servers: { server: Server; queue: (...words: string[]) => Promise<string> }[] = [];
  const start = async (at: number, kind: keyof typeof places): Promise<void> => {
    const place = places[kind].another();
    const settings = {
      SLIM_HOSTNAME: `${names[at]}.${kind}.example.com`,
      SLIM_QUEUE: '@POSTGRESQL',
      SLIM_STORAGES: `default=${place.folder}/mail`,
      SLIM_SRS_SECRET: 'a secret that all replicas share',
      SLIM_DKIM: 'off',
      SLIM_VERIFY: 'off',
      DATABASE_URL: postgres.getConnectionUri(),
      SLIM_RELAY_HOST: '127.0.0.1',
      SLIM_RELAY_PORT: String(hop.port),
      SLIM_RELAY_TLS: 'none',
      SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
      SLIM_RETRY: '2s,5s',
    };
    const server = await place.start(settings, { ports: ports[at] as [number, number], isPatient: true });
    assert.ok(!server.hasEnded(), server.log());
    servers[at] = { server, queue: (...words) => place.slimsmtp('queue', ...words) };
  };
  const schema = async (): Promise<unknown> => (await rows('SELECT version, oldest FROM slimsmtp_schema'))[0];

  for (const at of names.keys()) await start(at, 'old');
  assert.deepEqual(await schema(), { version: 1, oldest: 1 });
  // Held by an old one: a small message, and a large one, in chunks.
  hop.refuses = true;
  for (const [at, subject] of ['small', 'large'].entries()) {
    const client = await dial(ports[0]?.[0] ?? 0);
    for (const line of ['MAIL FROM:<a@example.net>', 'RCPT TO:<b@peer.example>', 'DATA']) await client.say(line);
    const body = `${'x'.repeat(998)}\r\n`.repeat(at === 0 ? 1 : 1200);
    assert.match(await client.say(`Subject: ${subject}\r\n\r\n${body}.`), /^250/);
    client.socket.destroy();
  }
  await eventually(
    'both wait',
    async () => (await rows('SELECT FROM slimsmtp_job WHERE owner IS NULL')).length === 2,
    20_000,
  );
  assert.ok((await rows('SELECT FROM slimsmtp_chunk')).length > 1);
  await servers[0]?.queue('hold', '--all');
  hop.refuses = false;

  const load = new Load(
    ports.map(([port]) => port),
    messages,
    true,
  );
  const lanes = 6;
  const seconds = 60;
  const clients = Promise.all(
    Array.from({ length: lanes }, (_, lane) =>
      load.run(lane, () => (seconds * 1000 * lanes * Math.random() * 2) / messages),
    ),
  );
  const changes: [number, 'old' | 'new'][] = [
    [0, 'new'],
    [1, 'new'],
    [2, 'new'],
    [1, 'old'],
  ];
  /** Who sent something between one change and the next one. */
  const senders: string[][] = [];
  /** While replicas were being stopped. An old one may leave an attempt alone that has only just begun. */
  const stops: { readonly from: number; readonly to: number }[] = [];
  for (const [at, kind] of changes) {
    await wait(pauseMs);
    const from = Date.now();
    await servers[at]?.server.stop();
    stops.push({ from, to: Date.now() });
    await start(at, kind);
    assert.deepEqual(await schema(), { version: 3, oldest: 1 });
    const begunAt = Date.now();
    await wait(pauseMs / 2);
    const taken = [...hop.taken.values()].flat().filter(one => one.at > begunAt);
    senders.push([...new Set(taken.map(({ replica }) => replica.replace('.example.com', '')))].toSorted());
  }
  await clients;
  await eventually(
    'only what is held waits',
    async () => (await rows(`SELECT FROM slimsmtp_job WHERE state <> 'held'`)).length === 0,
    60_000,
  );
  t.diagnostic(
    `${load.kept.size} messages, ${load.refused} refusals; who sent: ${senders.map(each => each.join(' ')).join('; ')}`,
  );
  assert.deepEqual(senders, [
    ['one.new', 'three.old', 'two.old'],
    ['one.new', 'three.old', 'two.new'],
    ['one.new', 'three.new', 'two.new'],
    ['one.new', 'three.new', 'two.old'],
  ]);
  assert.deepEqual(
    [...load.kept].filter(subject => !hop.taken.has(subject)),
    [],
  );
  const isLeftAlone = ({ replica, at }: { replica: string; at: number }): boolean =>
    replica.includes('.old.') && stops.some(({ from, to }) => at >= from && at <= to);
  const twice = [...hop.taken].filter(
    ([subject, all]) => all.length > 1 && !load.again.has(subject) && !all.some(isLeftAlone),
  );
  assert.deepEqual(twice, []);
  // An old one has held it; a new one knows it and releases it.
  assert.equal((await servers[0]?.queue('list'))?.match(/^\S.* held$/gm)?.length, 2);
  await servers[0]?.queue('release', '--all');
  await eventually('nothing is left', async () => (await rows('SELECT FROM slimsmtp_message')).length === 0, 60_000);
  assert.deepEqual([hop.taken.get('small')?.length, hop.taken.get('large')?.length], [1, 1]);
  for (const { server } of servers) assert.doesNotMatch(server.log(), /cannot answer|newer SlimSMTP/);
});
