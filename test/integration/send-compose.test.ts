// Sending from the shipped compose file, as a user starts it: the generated login, swaks, real PostgreSQL and Unix
// accounts; by MX, and by a relay with a login. Then relays of other kinds.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually } from './client.ts';
import { type Compose, openStage, together } from './compose-lib.ts';
import {
  type Container,
  type World,
  arrived,
  letter,
  marker,
  openWorld,
  operate,
  statusOf,
  submit,
} from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good'>;
let client: Container;
let compose: Compose;
let password: string;
let ca: string;
const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-compose-'));
stage.own(async () => rmSync(folder, { recursive: true }));

const relayHost = 'good.peer.example';
const relay = {
  SLIM_RELAY_HOST: relayHost,
  SLIM_RELAY_USER: 'relay@peer.example',
  SLIM_RELAY_PASSWORD: 'relay secret',
};
const server = {
  shell: (script: string, ...parameters: string[]): Promise<string> =>
    compose('exec', '-T', 'slimsmtp', 'sh', '-c', script, 'sh', ...parameters),
};
const antons = (text: string): Promise<Buffer[]> => arrived(server, '/home/anton/Maildir', text);

/** What the shipped file lacks in a world of its own: our DNS, and the relay's certificate as an authority. */
function override(): string {
  const slimsmtp = { dns: [world.dns], volumes: [`${join(folder, 'ca.pem')}:/ca.pem:ro`] };
  const networks = { outside: { external: true, name: world.network.getName() } };
  return JSON.stringify({ services: { slimsmtp }, networks });
}

before(async () => {
  world = await openWorld(stage, 'good');
  ca = await world.peers.good.shell('cat /etc/postfix/cert.pem');
  writeFileSync(join(folder, 'ca.pem'), ca);
  [compose, client] = await together([
    stage.compose({ 'compose.override.yaml': override(), '.env': 'SLIM_HOSTNAME=mail.example.com\n' }),
    world.client(),
  ]);
  password = (await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'password', '--show', 'anton')).trim();
});

/** swaks with the generated login; `input` is the message as it stands (CRLF). */
function swaks(how: string, to: string, message: string): Promise<string> {
  const options = `--server slimsmtp ${how} --auth-user anton --auth-password "$1" --from anton@example.com --to ${to}`;
  // swaks ends what it is given with a CRLF of its own.
  const octets = Buffer.from(message.replace(/\r\n$/, ''), 'latin1').toString('base64');
  return client.shell(`echo ${octets} | base64 -d >/tmp/message && swaks ${options} --data @/tmp/message`, password);
}
/** What is to arrive of a message: line ends are LF in a Maildir. */
const lines = (message: string): string => message.replaceAll('\r\n', '\n');
const body = `caf\xc3\xa9 \x80\xff\r\n.\r\n..\r\n.dot\r\nFrom here\r\n \t\r\n${'z'.repeat(990)}\r\n\r\n`;
const ports = { 'port 587 with STARTTLS': '--port 587 --tls', 'port 465': '--port 465 --tlsc' };

for (const [name, how] of Object.entries(ports)) {
  test(`${name}: the generated login sends to a shared mailbox here, which is anton's Maildir`, async () => {
    const message = letter(marker(), body);
    assert.match(await swaks(how, 'twitter@example.com', message), /^<~\s+250 2\.0\.0 /m);
    const [mail, ...more] = await antons(/m\w{16}/.exec(message)?.[0] ?? '');
    assert.deepEqual(more, []);
    assert.equal(mail?.toString('latin1'), lines(message));
  });

  test(`${name}: the generated login sends outside, by MX, signed, and else octet for octet`, async () => {
    const text = marker();
    const message = letter(text, body);
    assert.match(await swaks(how, 'someone@peer.example', message), /^<~\s+250 2\.0\.0 Queued as \w+/m);
    await eventually('arrived', async () => (await world.peers.good.mails(text)).length > 0, 10_000);
    const [mail = '', ...others] = (await world.peers.good.mails(text)).map(each => each.toString('latin1'));
    assert.deepEqual(others, []);
    assert.match(mail, /^DKIM-Signature: v=1; a=rsa-sha256; .* d=example\.com;/);
    // Both signatures and our trace line stand in front of what was sent.
    assert.equal(mail.replace(/^(?:(?:DKIM-Signature|Received): .*\n(?:[ \t].*\n)*)+/, ''), lines(message));
  });
}

test('here and outside in one message: both get it, and Bcc is seen by nobody', async () => {
  const text = marker();
  await swaks(
    '--port 587 --tls',
    'anton@example.com,someone@peer.example',
    `Bcc: hidden@peer.example\r\n${letter(text)}`,
  );
  await eventually('arrived', async () => (await world.peers.good.mails(text)).length > 0, 10_000);
  for (const mail of [...(await antons(text)), ...(await world.peers.good.mails(text))])
    assert.doesNotMatch(mail.toString(), /hidden/);
  assert.equal((await antons(text)).length, 1);
});

test('Postfix sends to us over TLS, octet for octet', async () => {
  const text = marker();
  const message = letter(text, body);
  const octets = Buffer.from(lines(message), 'latin1').toString('base64');
  await world.peers.good.shell(`echo ${octets} | base64 -d | sendmail -i -f someone@peer.example facebook@example.com`);
  await eventually('arrived', async () => (await antons(text)).length > 0, 10_000);
  assert.deepEqual(
    (await antons(text)).map(mail => mail.toString('latin1')),
    [lines(message)],
  );
  const whole = await server.shell('cat $(grep -lr "$1" /home/anton/Maildir/new)', text);
  assert.match(whole, /^Received: from good\.peer\.example .*\n\s.*by mail\.example\.com .*with ESMTPS/m);
  assert.match(await world.peers.good.log(), /TLS connection established to slimsmtp\[.*TLSv1\.3/);
});

test('a shared mailbox is reported once, as expanded; a bounce comes straight to the Maildir of its sender', async () => {
  const [shared, unknown] = [marker(), marker()];
  const port = Number((await compose('port', 'slimsmtp', '465')).trim().split(':').at(-1));
  const how = { password, mail: ` ENVID=${shared}`, rcpt: ' NOTIFY=SUCCESS' };
  assert.match(await submit(port, ['facebook@example.com'], letter(marker()), how), /^250/);
  await eventually('a notice', async () => (await antons(`Original-Envelope-Id: ${shared}`)).length > 0, 5000);
  const notices = (await antons(`Original-Envelope-Id: ${shared}`)).map(statusOf);
  assert.deepEqual(
    notices.map(({ recipients }) => recipients.map(each => each['Action'])),
    [['expanded']],
  );
  assert.match(
    await submit(port, ['unknown@peer.example'], letter(unknown), { password, mail: ` ENVID=${unknown}` }),
    /^250/,
  );
  await eventually('a bounce', async () => (await antons(`Original-Envelope-Id: ${unknown}`)).length === 1, 10_000);
});

test('a login sends as itself, and as the mailboxes that it is a member of; as nobody else', async () => {
  const port = Number((await compose('port', 'slimsmtp', '465')).trim().split(':').at(-1));
  const as = (from: string): Promise<string> =>
    submit(port, ['anton@example.com'], letter(marker()), { password, from });
  for (const from of ['anton@example.com', 'Anton+shop@example.com', 'facebook@example.com', 'twitter@example.com', ''])
    assert.match(await as(from), /^250/, from);
  for (const from of ['other@example.com', 'anton@example.net', 'postmaster@example.com', 'anton@sub.example.com'])
    assert.match(await as(from), /^5\d\d 5\.7\.1/, from);
});

test('by a relay with a login: everything goes there, the same password still works', async () => {
  const settings = { ...relay, SLIM_HOSTNAME: 'mail.example.com', NODE_EXTRA_CA_CERTS: '/ca.pem' };
  const dotenv = Object.entries(settings).map(([name, value]) => `${name}='${value}'\n`);
  writeFileSync(join(compose.folder, '.env'), dotenv.join(''));
  await compose('up', '--detach', '--wait');
  const text = marker();
  const message = letter(text, body);
  assert.match(await swaks('--port 587 --tls', 'someone@no-such-name.example', message), /^<~\s+250 2\.0\.0 /m);
  await eventually('arrived', async () => (await world.peers.good.mails(text)).length > 0, 10_000);
  assert.deepEqual(
    (await world.peers.good.mails(text)).map(mail => mail.toString('latin1')),
    [lines(message)],
  );
  assert.match(
    await world.peers.good.log(),
    /postfix\/submission\/smtpd\[\d+\]: \w+: client=.*sasl_username=relay@peer\.example/,
  );
});

describe('relays', { concurrency: true }, () => {
  const start = async (environment: Record<string, string>) => {
    const container = await world.server({
      environment: { SLIM_QUEUE_LIFETIME: '5d', ...environment },
      files: { '/ca.pem': ca },
    });
    const operator = operate(container);
    return {
      operator,
      send: async (text: string): Promise<void> => {
        assert.match(await submit(container.getMappedPort(465), ['x@no-such-name.example'], letter(text)), /^250/);
      },
      /** Nothing came, and nobody was told: it waits. */
      waits: async (text: string, why: RegExp): Promise<void> => {
        const said = async (): Promise<string> => JSON.stringify((await operator.queue())[0]?.recipients ?? []);
        await eventually(`${why}`, async () => why.test(await said()), 10_000).catch(async () =>
          assert.match(await said(), why),
        );
        assert.deepEqual(await world.peers.good.mails(text), []);
        assert.deepEqual(await operator.mails('Auto-Submitted: auto-replied'), []);
      },
    };
  };
  const trust = { NODE_EXTRA_CA_CERTS: '/ca.pem' };

  const good: [what: string, environment: Record<string, string>, log: RegExp][] = [
    ['implicit TLS and a login', { ...relay, SLIM_RELAY_TLS: 'implicit' }, /submissions\/smtpd.*sasl_username=relay/],
    [
      'STARTTLS and no login',
      { SLIM_RELAY_HOST: relayHost, SLIM_RELAY_PORT: '25' },
      / postfix\/smtpd\[\d+\]: \w+: client=/,
    ],
    [
      'no TLS and no login',
      { SLIM_RELAY_HOST: relayHost, SLIM_RELAY_TLS: 'none' },
      / postfix\/smtpd\[\d+\]: \w+: client=/,
    ],
  ];
  for (const [what, environment, log] of good)
    test(`a relay with ${what} gets the mail`, async () => {
      const { send } = await start({ ...environment, ...trust });
      const text = marker();
      await send(text);
      await eventually('arrived', async () => (await world.peers.good.mails(text)).length === 1, 10_000);
      assert.match(await world.peers.good.log(), log);
    });

  test('a relay whose certificate is not verified gets no password and no mail', async () => {
    const { send, waits } = await start(relay);
    const text = marker();
    await send(text);
    await waits(text, /"4\.7\.\d+".*certificate/i);
  });

  test('a relay that refuses our login: the mail waits, and does not bounce', async () => {
    const { send, waits } = await start({ ...relay, ...trust, SLIM_RELAY_PASSWORD: 'wrong' });
    const text = marker();
    await send(text);
    await waits(text, /"4\.7\.\d+"/);
  });
});
