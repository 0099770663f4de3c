// `slimsmtp trace` tells the whole life of: a delivered mail, a greylisted one, a bounce, a forward, one refused at
// RCPT, and one that DMARC has put into .Junk; with a real Postfix and a real DNS on the other side. And `slimsmtp
// status` counts them.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { dial, eventually } from './client.ts';
import { openStage } from './compose-lib.ts';
import { type Operator, type World, letter, marker, openWorld, operate, submit, transact } from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good'>;
let server: StartedTestContainer;
let operator: Operator;
before(async () => {
  world = await openWorld(stage, 'good');
  server = await world.server({
    environment: { SLIM_STORAGES: 'anton@example.com=/var/mail/anton info@example.com=far@peer.example' },
  });
  operator = operate(server);
});

/** What is told of it, once all of these are. */
async function traced(wanted: string, ...patterns: RegExp[]): Promise<string> {
  let text = '';
  const isTold = async (): Promise<boolean> => {
    text = await operator.slimsmtp('trace', wanted).catch((error: Error) => error.message);
    return patterns.every(pattern => pattern.test(text));
  };
  await eventually(`${patterns.join(' ')} of ${wanted}`, isTold, 30_000).catch((error: Error) => {
    throw new Error(`${error.message}\n${text}`);
  });
  return text;
}
const idIn = (reply: string): string => /as (\w+)$/.exec(reply)?.[1] ?? assert.fail(reply);
/** In this order. */
const inOrder = (text: string, ...parts: readonly string[]): void => {
  let at = 0;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    assert.ok(found >= 0, `${part} behind ${at} in:\n${text}`);
    at = found + part.length;
  }
};
const submitTo = (to: string, message = letter(marker())): Promise<string> =>
  submit(server.getMappedPort(465), [to], message);

test('a delivered mail: by id, by sender and by Message-ID', async () => {
  const message = letter(marker());
  const id = idIn(await submitTo('anton@example.com', message));
  const text = await traced(id, /delivered/);
  inOrder(
    text,
    `${id}\n`,
    'delivered: 250 2.0.0',
    'from <anton@example.com> to <anton@example.com>',
    'ESMTPSA',
    'TLSv1.3',
    'login anton',
    'copy in maildir:/var/mail/anton',
  );
  const messageId = /^Message-ID: (<.*>)\r$/m.exec(message)?.[1] ?? assert.fail();
  assert.equal(await operator.slimsmtp('trace', messageId), text);
  const events = (await operator.slimsmtp('trace', '--json', id))
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
  assert.deepEqual([events.length, events[0].message, events[0].messageId], [1, id, messageId]);
});

test('a greylisted one: each attempt, in the words of the other server', async () => {
  const id = idIn(await submitTo('grey1trace@peer.example'));
  const text = await traced(id, /delivered <grey1trace/);
  inOrder(
    text,
    'queued: 250 2.0.0',
    'deferred <grey1trace@peer.example>, attempt 1',
    'good.peer.example said: 451 4.7.1',
    'Greylisted, come back later',
    'tried again at ',
    'delivered <grey1trace@peer.example>, attempt 2',
    'good.peer.example said: 250 2.0.0',
  );
});

test('a bounce: the failure, the notice, and how that was delivered', async () => {
  const id = idIn(await submitTo('unknown@peer.example'));
  const text = await traced(id, /notice (\w+) to/, /this server said: delivered to its mailbox/);
  const notice = /notice (\w+) to <anton@example\.com>/.exec(text)?.[1] ?? assert.fail(text);
  inOrder(
    text,
    'queued: 250',
    'failed <unknown@peer.example>, attempt 1',
    'good.peer.example said: 550 5.1.1',
    `notice ${notice}`,
  );
  inOrder(
    text,
    `${notice}\n`,
    'delivered <anton@example.com>, attempt 1',
    'this server said: delivered to its mailbox',
  );
  assert.match(await operator.slimsmtp('trace', notice), new RegExp(`^${id}$`, 'm'), 'the notice leads back');
});

test('a forward: the address that it has, its new reverse-path, and its delivery', async () => {
  const client = await dial(server.getMappedPort(25));
  const id = idIn(await transact(client, ['info@example.com'], letter(marker()), { from: 'otto@peer.example' }));
  const text = await traced(id, /delivered <far@peer\.example>/);
  inOrder(text, 'to <info@example.com>', 'forwarded as ', ' to <far@peer.example>', 'sent as <SRS0=');
  client.socket.destroy();
});

test('one that was refused at RCPT: by its recipient, and by its sender', async () => {
  const client = await dial(server.getMappedPort(25));
  const from = `${marker()}@example.net`;
  assert.match(await transact(client, ['nobody@example.com'], letter(marker()), { from }), /^550 5\.1\.1/);
  for (const wanted of [from, 'nobody@example.com']) {
    const text = await traced(wanted, /refused/);
    inOrder(text, 'refused at RCPT TO:<nobody@example.com>: 550 5.1.1', `from <${from}>`, 'test.example.net');
  }
  client.socket.destroy();
});

test('one that DMARC has put into .Junk: every result, and why', async () => {
  const client = await world.client();
  const subject = marker();
  const words = `--server slimsmtp --ehlo client.example.net --from otto@forged.example --to anton@example.com`;
  await client.shell(`swaks ${words} --header "Subject: ${subject}"`);
  const text = await traced('otto@forged.example', /junk/);
  inOrder(
    text,
    'delivered: 250 2.0.0',
    'client.example.net',
    'judging: spf=fail',
    'judging: dmarc=fail',
    'judging: junk, DMARC fails, and forged.example publishes p=quarantine',
    'copy in maildir:/var/mail/anton/.Junk',
  );
});

test('what is unknown is told as such, with 1', async () => {
  await assert.rejects(operator.slimsmtp('trace', 'never@example.org'), /nothing is known of never@example\.org/);
});

test('status has counted all of that', async () => {
  const status = await operator.slimsmtp('status');
  for (const line of [
    /^SlimSMTP \S+ on mail\.example\.com: healthy/,
    /^queue +0 waiting/m,
    /^messages +\d+ delivered · \d+ queued/m,
    /^refused +[1-9]/m,
    /^sent +[1-9]\d* delivered · [1-9]/m,
  ])
    assert.match(status, line);
  const { metrics } = JSON.parse(await operator.slimsmtp('status', '--json'));
  assert.ok(metrics.length > 30);
});
