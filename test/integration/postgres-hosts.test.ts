// Several hosts of PostgreSQL, over a real primary and a real standby: the one that takes writes is found, and found
// anew when it dies, is only readable, or comes back beside the standby that was promoted for it.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { openDatabase } from '../../src/postgres/pool.ts';
import { eventually } from './client.ts';
import { docker, openStage, root } from './compose-lib.ts';

const stage = openStage(after);
const password = 'a password, with @:/ in it';
const init = '/docker-entrypoint-initdb.d';

/** A container of PostgreSQL, which may be killed and started again; its port stays. */
async function start(network: string, name: string, parameters: readonly string[], command: readonly string[]) {
  const settings = [
    '-e',
    'POSTGRES_USER=mail',
    '-e',
    'POSTGRES_DB=mail',
    '-e',
    `POSTGRES_PASSWORD=${password}`,
    '-e',
    'PRIMARY=primary',
  ];
  // A port that the kernel chooses would be another one after each start.
  const port = 20_000 + Math.floor(Math.random() * 10_000);
  const place = ['--network', network, '--network-alias', name, '-p', `127.0.0.1:${port}:5432`];
  const id = (
    await docker('run', '--detach', ...place, ...settings, ...parameters, 'postgres:17-trixie', ...command)
  ).trim();
  stage.own(() => docker('rm', '--force', '--volumes', id));
  const url = `postgres://mail:${encodeURIComponent(password)}@127.0.0.1:${port}/mail?uselibpqcompat=true`;
  const psql = (...statements: string[]): Promise<string> =>
    docker('exec', id, 'psql', '-qAt', '-U', 'mail', ...statements.flatMap(each => ['-c', each]));
  const isReady = (): Promise<boolean> =>
    docker('exec', id, 'pg_isready', '-q', '-h', '127.0.0.1').then(
      () => true,
      () => false,
    );
  const ready = (): Promise<void> => eventually(`${name} is ready`, isReady, 60_000);
  await ready();
  return { id, url, psql, ready, port };
}

test('the host that takes writes is found, and found anew', async () => {
  const network = (await stage.network()).getName();
  const mount = (file: string, target: string): string[] => ['-v', `${root}docker/replicas/${file}:${target}:ro`];
  const primary = await start(network, 'primary', mount('primary.sh', `${init}/1-primary.sh`), []);
  const standbyOptions = ['--user', 'postgres', ...mount('standby.sh', '/standby.sh'), '--entrypoint', 'sh'];
  const standby = await start(network, 'standby', standbyOptions, ['/standby.sh']);
  const isSynchronous = async (): Promise<boolean> =>
    (await primary.psql('SELECT sync_state FROM pg_stat_replication')).trim() === 'sync';
  await eventually('the standby follows', isSynchronous, 20_000);
  await primary.psql('CREATE TABLE t (n int)');

  const lines: string[] = [];
  const note = (fields: object, text: string): void => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const log = { debug: () => {}, info: note, warn: note, error: note };
  const open = (...connectionStrings: string[]) => openDatabase({ settings: { connectionStrings }, log });
  const insert = { name: 'insert', text: 'INSERT INTO t VALUES (1)' };
  const isWritten = (): Promise<boolean> =>
    database.query(insert).then(
      () => true,
      () => false,
    );
  // The standby stands first, and is passed over.
  const database = await open(standby.url, primary.url);
  await database.query(insert);
  assert.equal((await primary.psql('SELECT count(*) FROM t')).trim(), '1');

  // It answers, and takes no writes: nobody does, and the reasons are told.
  const readOnly = (value: string): Promise<string> =>
    primary.psql(`ALTER SYSTEM SET default_transaction_read_only = ${value}`, 'SELECT pg_reload_conf()');
  await readOnly('on');
  await eventually('writes are refused', async () => !(await isWritten()), 10_000);
  await assert.rejects(database.query(insert), {
    name: 'CannotTell',
    message: new RegExp(
      `127\\.0\\.0\\.1:${standby.port}: .*takes no writes.*; 127\\.0\\.0\\.1:${primary.port}: .*takes no writes`,
    ),
  });
  assert.equal(database.isUp, false);
  assert.ok(
    lines.every(line => !line.includes('a password')),
    lines.join('\n'),
  );
  await readOnly('off');
  await eventually('writes are taken again', isWritten, 10_000);

  // It dies, and the standby is promoted.
  await docker('kill', primary.id);
  await eventually('the loss is noticed', async () => !(await isWritten()), 20_000);
  await standby.psql('SELECT pg_promote()', 'ALTER SYSTEM RESET synchronous_standby_names', 'SELECT pg_reload_conf()');
  await eventually('the promoted one is found', isWritten, 20_000);
  assert.ok(
    lines.some(line => line.startsWith('PostgreSQL: another host takes the writes')),
    lines.join('\n'),
  );

  // It comes back and would take writes, on its old timeline: also who has never seen another one passes it over.
  await docker('start', primary.id);
  await primary.ready();
  const before = Number(await standby.psql('SELECT count(*) FROM t'));
  const fresh = await open(primary.url, standby.url);
  await fresh.query(insert);
  await database.query(insert);
  assert.equal(Number(await standby.psql('SELECT count(*) FROM t')), before + 2);
});
