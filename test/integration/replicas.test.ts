// docker/replicas.yaml as a user starts it: three replicas behind HAProxy, a primary and a synchronous standby. Who the
// client is, wherever that counts; and what becomes of mail when a replica, the database or its primary dies.
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, test } from 'node:test';
import { formatVerifier, makeVerifier } from '../../src/sasl/scram.ts';
import { systemRandom } from '../../src/system/world.ts';
import { eventually } from './client.ts';
import { type Compose, docker, openStage } from './compose-lib.ts';

const stage = openStage(after);
const subnet = `172.${randomInt(24, 31)}.${randomInt(256)}`;
let compose: Compose;
let network = '';
const replicas: { id: string; address: string }[] = [];

/** A client as a container: it says each line when the one before it was answered, and prints what it hears. */
const script = `
const [, host, port, kind, ...lines] = process.argv;
const socket = kind === 'tls' ? require('tls').connect({ host, port, rejectUnauthorized: false }) : require('net').connect(port, host);
let heard = '';
socket.setEncoding('latin1').on('error', ({ code }) => console.log(code)).on('data', text => {
  heard += text;
  for (let end = heard.indexOf('\\r\\n'); end >= 0; end = heard.indexOf('\\r\\n')) {
    const line = heard.slice(0, end);
    heard = heard.slice(end + 2);
    console.log(line);
    if (/^\\d{3}-/.test(line)) continue;
    if (lines.length === 0) return socket.end();
    socket.write(lines.shift() + '\\r\\n');
  }
});
setTimeout(() => process.exit(), 30000).unref();`;

async function openClient() {
  const id = (await docker('run', '--detach', '--network', network, 'node:24-trixie-slim', 'sleep', 'infinity')).trim();
  stage.own(() => docker('rm', '--force', id));
  const address = await addressOf(id);
  /** All that it hears, a line each. */
  const talk = async (place: string, ...lines: string[]): Promise<string[]> => {
    const [host = '', port = '', kind = ''] = place.split(' ');
    return (await docker('exec', id, 'node', '-e', script, host, port, kind, ...lines)).trimEnd().split('\n');
  };
  /** A message by HAProxy; the first refusal, or the reply to its end. */
  const send = async (to: string, subject: string): Promise<string> => {
    const envelope = ['EHLO client.example.net', 'MAIL FROM:<sender@example.net>', `RCPT TO:<${to}>`, 'DATA'];
    const message = `Subject: ${subject}\r\n\r\nhello\r\n.`;
    const replies = await talk('haproxy 25', ...envelope, message, 'QUIT');
    return replies.find(line => /^[45]/.test(line)) ?? replies.findLast(line => !line.startsWith('221')) ?? '';
  };
  return { address, talk, send };
}

const addressOf = async (id: string): Promise<string> =>
  (await docker('inspect', '--format', `{{(index .NetworkSettings.Networks "${network}").IPAddress}}`, id)).trim();
/** In the Maildir of anton, on the volume that all replicas share; by the replica that lives longest. */
const mail = (): Promise<string> =>
  docker('exec', replicas.at(-1)?.id ?? '', 'sh', '-c', 'cat /var/mail/example.com/anton/new/*');
const psql = (service: string, ...statements: string[]): Promise<string> =>
  compose(
    'exec',
    '-T',
    service,
    'psql',
    '-qAt',
    '-U',
    'postgres',
    'slimsmtp',
    ...statements.flatMap(each => ['-c', each]),
  );
const login = (name: string, password: string): string =>
  `AUTH PLAIN ${Buffer.from(`\0${name}\0${password}`).toString('base64')}`;

let client: Awaited<ReturnType<typeof openClient>>;
before(async () => {
  const settings = {
    COMPOSE_FILE: 'compose.yaml:docker/replicas.yaml',
    REPLICAS_SUBNET: subnet,
    SLIM_SRS_SECRET: 'a secret of all replicas',
    SLIM_TRUSTED_NETWORKS: `${subnet}.128/25`,
  };
  compose = stage.project({
    '.env': Object.entries(settings)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  });
  await compose('up', '--detach', '--build', '--wait', '--scale', 'slimsmtp=3').catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await compose('logs')}`);
  });
  const ids = (await compose('ps', '--quiet', 'slimsmtp')).trim().split('\n');
  const project = await docker(
    'inspect',
    '--format',
    '{{index .Config.Labels "com.docker.compose.project"}}',
    ids[0] ?? '',
  );
  network = `${project.trim()}_outside`;
  for (const id of ids) replicas.push({ id, address: await addressOf(id) });
  assert.equal(replicas.length, 3);
  client = await openClient();
});

test('the client behind HAProxy is the client, in Received, in the log and for trust', async () => {
  for (let count = 0; count < 6; count += 1)
    assert.match(await client.send('anton@example.com', `one ${count}`), /^250 2\.0\.0/);
  const received = [...(await mail()).matchAll(/^Received: from client\.example\.net \(\[(.*?)\]\)/gm)].map(
    ([, from]) => from,
  );
  assert.deepEqual(received, Array(6).fill(client.address));
  // A line of the log may be a quarter of a second late.
  let log = '';
  const delivered = (): string[] => log.split('\n').filter(line => line.includes('"message delivered"'));
  await eventually(
    'the log has all six',
    async () => {
      log = await compose('logs', '--no-log-prefix', 'slimsmtp');
      return delivered().length >= 6;
    },
    5000,
  );
  const lines = delivered();
  assert.equal(lines.length, 6);
  assert.ok(
    lines.every(line => line.includes(`"client":"${client.address}"`)),
    lines.join('\n'),
  );
  // It is in a trusted network, so its mail may go anywhere.
  assert.match(await client.send('anyone@elsewhere.test', 'to others'), /^250 2\.0\.0 Queued as \w+/);
  // Health checks of HAProxy are no sessions that anybody reads about.
  assert.ok(!log.includes(`"client":"${subnet}.2"`), 'a line of a health check');
});

test('a forged PROXY header is refused, to a replica and to HAProxy', async () => {
  const forged = 'PROXY TCP4 192.0.2.7 198.51.100.1 40000 25';
  const [replica] = replicas;
  for (const place of [`${replica?.address} 25`, 'haproxy 25']) {
    const [greeting, reply] = await client.talk(place, forged, 'QUIT');
    assert.match(greeting ?? '', /^220 /);
    assert.match(reply ?? '', /^500 5\.5\.1/, place);
  }
});

test('a guesser is shut out by all replicas together, and nobody else is', async () => {
  const verifier = formatVerifier(await makeVerifier('right', systemRandom));
  await psql('postgres', `INSERT INTO users VALUES ('anton', '${verifier}')`);
  const guesses = ['EHLO x', ...Array.from({ length: 3 }, (_, count) => login('anton', `wrong ${count}`))];
  const all = await Promise.all(Array.from({ length: 6 }, () => client.talk('haproxy 465 tls', ...guesses)));
  const replies = all.flat().filter(line => /^(?:535|454)/.test(line));
  const wrong = replies.filter(line => line.startsWith('535')).length;
  assert.ok(wrong >= 10 && wrong <= 13 && wrong < replies.length, replies.join('\n'));
  for (const { address } of replicas)
    assert.match(
      (await client.talk(`${address} 465 tls`, 'EHLO x', login('anton', 'right'), 'QUIT')).join('\n'),
      /^454 4\.7\.0/m,
    );
  const other = await openClient();
  assert.match((await other.talk('haproxy 465 tls', 'EHLO x', login('anton', 'right'), 'QUIT')).join('\n'), /^235 /m);
});

test('mail goes on when a replica is killed', async () => {
  await docker('kill', replicas[0]?.id ?? '');
  await eventually(
    'HAProxy knows',
    async () => (await client.send('anton@example.com', 'two')).startsWith('250'),
    20_000,
  );
  for (let count = 0; count < 4; count += 1) assert.match(await client.send('anton@example.com', 'three'), /^250/);
});

test('mail goes on when the database was restarted, and after the promotion of its standby', async () => {
  await compose('restart', '--timeout', '5', 'postgres');
  const both = async (): Promise<boolean> =>
    (await client.send('anton@example.com', 'four')).startsWith('250') &&
    (await client.send('anyone@elsewhere.test', 'four')).startsWith('250');
  await eventually('the database is back', both, 60_000);

  const kept = (await psql('postgres', 'SELECT count(*) FROM slimsmtp_message')).trim();
  await compose('kill', 'postgres');
  assert.match(await client.send('anton@example.com', 'five'), /^451 4\.3\.0/);
  await psql(
    'standby',
    'SELECT pg_promote()',
    'ALTER SYSTEM RESET synchronous_standby_names',
    'SELECT pg_reload_conf()',
  );
  assert.equal((await psql('standby', 'SELECT count(*) FROM slimsmtp_message')).trim(), kept, 'nothing is lost');
  await eventually('the replicas have found it', both, 60_000);
});
