// The compose profile `imap`: what the demo delivers is read by IMAP, with the login's own password; and the same
// Dovecot takes mail by LMTP, knows at RCPT who has a mailbox, and holds up nobody when it is stopped or paused.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:tls';
import { after, test } from 'node:test';
import { deliver, dial, eventually } from './client.ts';
import { type Compose, docker, openStage } from './compose-lib.ts';

const stage = openStage(after);
const profile = 'COMPOSE_PROFILES=imap\nPORT_IMAPS=127.0.0.1:\n';
const yesOrNo = [() => true, () => false] as const;
const portOf = async (compose: Compose, service: string, port: string): Promise<number> =>
  Number((await compose('port', service, port)).trim().split('\n')[0]?.split(':').at(-1));

/** All that an IMAP server says to these commands, one after the other, each once the one before it is answered. */
async function imap(port: number, ...commands: readonly string[]): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false }).setEncoding('latin1');
  socket.setTimeout(10_000, () => socket.destroy()).on('error', () => {});
  const left = [...commands, 'z LOGOUT'];
  let said = '';
  let answered = 0; // commands, and the greeting
  for await (const text of socket) {
    said += text;
    const lines = said.split('\r\n').filter(line => /^(\* OK |[a-z] )/.test(line)).length;
    if (lines <= answered) continue;
    answered = lines;
    const next = left.shift();
    if (next !== undefined) socket.write(`${next}\r\n`);
  }
  return said;
}
const read = (port: number, user: string, password: string): Promise<string> =>
  imap(port, `a LOGIN ${user} ${password}`, 'b SELECT INBOX', 'c FETCH 1:* BODY.PEEK[HEADER]');

test('the profile imap: what the demo delivers is read by IMAP, by the login and by the account', async () => {
  const compose = await stage.compose({ '.env': profile });
  const smtp = await portOf(compose, 'slimsmtp', '25');
  const imaps = await portOf(compose, 'dovecot', '993');
  assert.match(await deliver(smtp, ['anton@example.com'], 'Subject: to be read\r\n\r\nhello\r\n'), /^250/);
  const password = (await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'password', '--show', 'anton')).trim();
  for (const user of ['anton', 'anton@example.com'])
    await eventually(
      `${user} reads it`,
      async () => (await read(imaps, user, password)).includes('to be read'),
      20_000,
    );
  assert.match(await read(imaps, 'anton', 'another'), /^a NO /m);
  await compose(
    'exec',
    '-T',
    'slimsmtp',
    'sh',
    '-c',
    'echo the-password-of-the-account | slimsmtp account passwd anton',
  );
  await eventually(
    'the password of the account will do, too',
    async () => (await read(imaps, 'anton', 'the-password-of-the-account')).includes('to be read'),
    20_000,
  );
});

test('LMTP: Dovecot says at RCPT who has a mailbox, keeps the mail, and may stop or hang', async t => {
  const compose = stage.project({ '.env': `${profile}SLIM_RETRY=1s,1s,2s\nSLIM_VERIFY=off\n` });
  const storages = '*@example.com=lmtp://dovecot:24 here@example.com=/var/mail/here';
  const override = { services: { slimsmtp: { environment: { SLIM_STORAGES: storages } } } };
  writeFileSync(`${compose.folder}/compose.override.yaml`, JSON.stringify(override));
  writeFileSync(`${compose.folder}/docker/dovecot/users`, 'carla@example.com:{PLAIN}secret\n');
  await compose('up', '--detach', '--build', '--wait');
  const [smtp, imaps] = [await portOf(compose, 'slimsmtp', '25'), await portOf(compose, 'dovecot', '993')];
  const dovecot = (await compose('ps', '-q', 'dovecot')).trim();
  const rcpt = async (address: string): Promise<string> => {
    const client = await dial(smtp);
    await client.say('MAIL FROM:<sender@example.net>');
    const reply = await client.say(`RCPT TO:<${address}>`);
    client.socket.destroy();
    return reply;
  };
  /** How long mail for a Maildir takes, with a connection of its own: the slowest of fifty but one. */
  const p98 = async (): Promise<number> => {
    const took: number[] = [];
    for (let at = 0; at < 50; at += 1) {
      const startedAt = performance.now();
      assert.match(await deliver(smtp, ['here@example.com'], 'Subject: x\r\n\r\n'), /^250/);
      took.push(performance.now() - startedAt);
    }
    return took.toSorted((a, b) => a - b)[48] ?? 0;
  };

  await eventually('Dovecot answers', async () => (await rcpt('carla@example.com')).startsWith('250'), 20_000);
  assert.match(await rcpt('anton@example.com'), /^250/, 'an account');
  assert.match(await rcpt('nobody@example.com'), /^550 5\.1\.1/);
  const both = ['carla@example.com', 'anton@example.com'];
  assert.match(await deliver(smtp, both, 'Subject: by LMTP\r\n\r\nhello\r\n'), /^250 2\.0\.0 Queued/);
  await eventually(
    'carla has it',
    async () => (await read(imaps, 'carla@example.com', 'secret')).includes('Subject: by LMTP'),
    20_000,
  );
  const copy = await read(imaps, 'carla@example.com', 'secret');
  assert.match(copy, /^Return-Path: <sender@example\.net>\r\n/m);
  assert.equal(copy.match(/^Return-Path:/gm)?.length, 1);
  await eventually(
    'anton has it',
    async () =>
      (await compose('exec', '-T', 'dovecot', 'sh', '-c', 'cat /home/anton/Maildir/new/*')).includes('by LMTP'),
    20_000,
  );
  assert.match(await deliver(smtp, ['postmaster@example.com'], 'Subject: for postmaster\r\n\r\n'), /^250/);
  await compose('exec', '-T', 'slimsmtp', 'sh', '-c', 'grep -q "for postmaster" /var/mail/postmaster/new/*');

  // Nobody asks again within the minute: the mail is taken, and waits.
  const usual = await p98();
  const check = async (what: string): Promise<void> => {
    const now = await p98();
    t.diagnostic(
      `p98 of mail for a Maildir: ${usual.toFixed(1)} ms before, ${now.toFixed(1)} ms while Dovecot is ${what}`,
    );
    // Whoever waits for Dovecot waits for seconds; a busy machine costs less than this.
    assert.ok(now < Math.max(2 * usual, 1000), `${now} ms`);
  };
  await docker('stop', '--time', '1', dovecot);
  assert.match(
    await deliver(smtp, ['carla@example.com'], 'Subject: while it was stopped\r\n\r\n'),
    /^250 2\.0\.0 Queued/,
  );
  assert.match(await rcpt('dora@example.com'), /^451 4\.3\.0/);
  await check('stopped');
  await docker('start', dovecot);
  const again = await portOf(compose, 'dovecot', '993');
  await eventually(
    'it comes as soon as Dovecot is back',
    async () => (await read(again, 'carla@example.com', 'secret')).includes('while it was stopped'),
    30_000,
  );

  // The engine cannot always freeze a container that is busy just then.
  const pause = (): Promise<boolean> => docker('pause', dovecot).then(...yesOrNo);
  await eventually('Dovecot is paused', pause, 10_000);
  const startedAt = performance.now();
  const asked = rcpt('erna@example.com');
  await check('paused');
  assert.match(await asked, /^451 4\.3\.0/);
  const ms = performance.now() - startedAt;
  assert.ok(ms > 9000 && ms < 13_000, `${ms} ms`);
  assert.match(
    await deliver(smtp, ['carla@example.com'], 'Subject: while it was paused\r\n\r\n'),
    /^250 2\.0\.0 Queued/,
  );
  await docker('unpause', dovecot);
  await eventually(
    'it comes once Dovecot goes on',
    async () => (await read(again, 'carla@example.com', 'secret')).includes('while it was paused'),
    60_000,
  );
  const queued = async (): Promise<string> => compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'queue', 'list', '--json');
  await eventually('nothing waits any more', async () => (await queued()).trim() === '', 20_000);
});
