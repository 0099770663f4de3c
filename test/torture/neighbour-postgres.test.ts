// A real PostgreSQL that is stopped, paused, restarted, locked for 10 s, out of connections, without its table, without
// our rights. For each: every answer of the table is 451 and a login of it 454, within seconds, for known and unknown
// alike; what the database has no say in is taken meanwhile; the domains stay as last known; and all is well within 5 s
// of its end (10 s where it has to start first), without a restart of ours.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import { dial, eventually } from '../integration/client.ts';
import { docker, openStage } from '../integration/compose-lib.ts';
import { type Operator, operate } from '../integration/peer-lib.ts';
import { takesMail } from './neighbour-lib.ts';

const stage = openStage(after);
let operator: Operator;
let port: number;
let [postgres, user, password, databaseName] = ['', '', '', ''];
/** Asked with and without an answer: a row, no row, a row of a domain that is only in the table, a domain of nobody. */
const addresses = ['known@example.com', 'unknown@example.com', 'known@table.example', 'x@elsewhere.example'];
const usual = ['250 2.1.5', '250 2.1.5', '250 2.1.5', '550 5.7.1'];

before(async () => {
  const network = await stage.network();
  const { database, environment } = await stage.postgres(network);
  postgres = database.getId();
  [user, password, databaseName] = [database.getUsername(), database.getPassword(), database.getDatabase()];
  const rows = "('known', 'example.com', 'MAILDIR'), ('known', 'table.example', 'MAILDIR')";
  await sql(
    `INSERT INTO smtp (mailbox, domain, account_backend) VALUES ${rows}`,
    "CREATE ROLE reader LOGIN PASSWORD 'reader' CONNECTION LIMIT -1",
    'GRANT SELECT ON smtp, users TO reader',
  );
  const server = await stage.server({
    network,
    environment: {
      ...environment,
      PGUSER: 'reader',
      PGPASSWORD: 'reader',
      SLIM_STORAGES: 'fixed@example.com=/var/mail/fixed,@POSTGRESQL,default=/var/mail/default',
      SLIM_USERS: 'anton:secret,@POSTGRESQL',
    },
  });
  operator = operate(server);
  port = server.getMappedPort(25);
});

/** As the owner of the database, on a connection of its own. */
async function sql(...statements: string[]): Promise<void> {
  const client = await admin();
  for (const statement of statements) await client.query(statement);
  await client.end();
}

async function admin(): Promise<Client> {
  // Docker publishes another port after each start.
  const at = await operate({ getId: () => postgres }).port(5432);
  const client = new Client({ host: '127.0.0.1', port: at, user, password, database: databaseName });
  client.on('error', () => {});
  await client.connect();
  return client;
}

/**
 * Code and status of the reply to each address, all asked at once, each in a session of its own; the last is that to a
 * login.
 */
async function ask(): Promise<{ replies: string[]; login: string; ms: number }> {
  const startedAt = performance.now();
  const reply = async (address: string): Promise<string> => {
    const { say, socket } = await dial(port);
    await say('MAIL FROM:<sender@example.net>');
    const said = await say(`RCPT TO:<${address}>`);
    socket.destroy();
    return said.slice(0, 9);
  };
  const logIn = async (): Promise<string> => {
    const { say, socket } = await dial(await operator.port(465), '127.0.0.1', true);
    const said = await say(`AUTH PLAIN ${Buffer.from('\0nobody\0wrong').toString('base64')}`);
    socket.destroy();
    return said.slice(0, 9);
  };
  const [login, ...replies] = await Promise.all([logIn(), ...addresses.map(reply)]);
  return { replies, login, ms: Math.round(performance.now() - startedAt) };
}

const isUsual = async (): Promise<boolean> => {
  const { replies, login } = await ask();
  return String(replies) === String(usual) && login === '535 5.7.8';
};

const theOnes = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slimsmtp'";
let held: Client[] = [];
const release = async (): Promise<void> => void (await Promise.all(held.splice(0).map(client => client.end())));

const faults: Record<string, { begin(): Promise<unknown>; end(): Promise<unknown> }> = {
  stopped: { begin: () => docker('stop', '--time', '5', postgres), end: () => docker('start', postgres) },
  paused: { begin: () => docker('pause', postgres), end: () => docker('unpause', postgres) },
  'killed and started again': { begin: () => docker('kill', postgres), end: () => docker('start', postgres) },
  'slow, as its table is locked': {
    async begin() {
      held = [await admin()];
      await held[0]?.query('BEGIN; LOCK TABLE smtp, users IN ACCESS EXCLUSIVE MODE');
    },
    end: release,
  },
  'out of connections': {
    async begin() {
      // All that there are for those who are no superuser, among them ours.
      await sql('ALTER ROLE reader CONNECTION LIMIT 0', theOnes);
    },
    end: () => sql('ALTER ROLE reader CONNECTION LIMIT -1'),
  },
  'without its tables': {
    begin: () => sql('ALTER TABLE smtp RENAME TO gone; ALTER TABLE users RENAME TO gone_users'),
    end: () => sql('ALTER TABLE gone RENAME TO smtp; ALTER TABLE gone_users RENAME TO users'),
  },
  'without the right to read': {
    begin: () => sql('REVOKE SELECT ON smtp, users FROM reader'),
    end: () => sql('GRANT SELECT ON smtp, users TO reader'),
  },
};

for (const [name, { begin, end }] of Object.entries(faults)) {
  test(`PostgreSQL ${name}: 451 and 454, other mail flows, and back by itself`, async t => {
    await eventually('all is well', isUsual, 10_000);
    await begin();
    try {
      const first = await ask();
      assert.deepEqual(first.replies, ['451 4.3.0', '451 4.3.0', '451 4.3.0', '550 5.7.1']);
      assert.match(first.login, /^454 4\.7\.0/);
      assert.ok(first.ms < 10_000, `the first answers took ${first.ms} ms`);
      const other = await takesMail(port, 'fixed@example.com');
      // 10 s of it, in which nobody gets another answer.
      let slowest = first.ms;
      const until = performance.now() + Math.max(0, 10_000 - first.ms);
      while (performance.now() < until) {
        const { replies, ms } = await ask();
        assert.deepEqual(replies, first.replies);
        slowest = Math.max(slowest, ms);
        await wait(1000);
      }
      assert.match(await operator.slimsmtp('health'), /degraded/);
      t.diagnostic(
        `${name}: ${first.replies.join(', ')}, login ${first.login}, in ${first.ms} ms, at most ${slowest} ms; other mail: ${other}`,
      );
    } finally {
      await end();
    }
    const endedAt = performance.now();
    await eventually('all as it was', isUsual, /stopped|started/.test(name) ? 10_000 : 5000);
    t.diagnostic(`${name}: as it was ${Math.round(performance.now() - endedAt)} ms after its end`);
    assert.deepEqual(await operator.mails('unknown'), [], 'nothing fell into the catch-all');
  });
}
