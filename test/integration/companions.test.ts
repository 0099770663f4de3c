// What the server asks while mail comes in: a block list on a real DNS server; and a resolver, Rspamd, an LMTP server
// and PostgreSQL that hang: mail that needs none of them is as fast as ever, and what they are asked about is answered
// as docs/spam.md has it.
import assert from 'node:assert/strict';
import { type TestContext, after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { type Client, eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';
import { type Host, type Internet, openInternet } from './internet.ts';
import { letter, login, marker, operate, peerImage, transact } from './peer-lib.ts';

const stage = openStage(after);
let internet: Internet;
before(async () => {
  internet = await openInternet(stage);
});

const said = async (server: StartedTestContainer, sentence: string): Promise<number> =>
  (await operate(server).log()).filter(({ msg }) => String(msg).startsWith(sentence)).length;

/**
 * Whole transactions from a container, all at once, each on a connection of its own: the last reply of each, and its
 * milliseconds.
 */
const load = `
import smtplib, sys, threading, time
server, recipient, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
def send():
    began = time.time()
    try:
        session = smtplib.SMTP(server, 25, 'client.example', 30)
        session.ehlo()
        said = session.mail('sender@example.net')
        if said[0] == 250: said = session.rcpt(recipient)
        if said[0] == 250: said = session.data(b'Subject: x\\r\\n\\r\\nx\\r\\n')
        said = (said[0], said[1].decode())
    except Exception as error:
        said = (0, repr(error))
    print(said[0], round((time.time() - began) * 1000), said[1], flush=True)
threads = [threading.Thread(target=send) for _ in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
`;
type Sent = Readonly<{ code: number; ms: number; text: string }>;
async function send(from: Host, to: StartedTestContainer, recipient: string, count = 1): Promise<readonly Sent[]> {
  const address = to.getIpAddress(internet.network.getName());
  const out = await docker('exec', from.id, 'python3', '-c', load, address, recipient, String(count));
  return out
    .trim()
    .split('\n')
    .map(line => {
      const [code, ms, ...text] = line.split(' ');
      return { code: Number(code), ms: Number(ms), text: text.join(' ') };
    });
}
const stranger = (): Promise<Host> => internet.run(peerImage, 'exec sleep infinity');
const reversed = ({ address }: Host): string => address.split('.').toReversed().join('.');

test('a block list on NSD: who is on it is refused, with its text; a list that refuses us is left alone', async () => {
  const [listed, free, other] = [await stranger(), await stranger(), await stranger()];
  await internet.publish('lists', [
    `${reversed(listed)}.bl.example. A 127.0.0.2`,
    `${reversed(listed)}.bl.example. TXT "see https://bl.example/why"`,
    `${reversed(other)}.closed.example. A 127.255.255.254`,
  ]);
  const server = await internet.server('example.com', {
    environment: { SLIM_DNSBL: 'bl.example', SLIM_STORAGES: 'default=/var/mail/default', SLIM_VERIFY: 'off' },
  });
  const [refused] = await send(listed, server, 'a@example.com');
  assert.equal(refused?.code, 554);
  assert.match(refused?.text ?? '', /^5\.7\.1 .*see https:\/\/bl\.example\/why/);
  assert.equal((await send(listed, server, 'postmaster@example.com'))[0]?.code, 250, 'a mistake can be told');
  assert.equal((await send(free, server, 'a@example.com'))[0]?.code, 250);

  const refusing = await internet.server('example.org', {
    environment: { SLIM_DNSBL: 'closed.example', SLIM_STORAGES: 'default=/var/mail/default', SLIM_VERIFY: 'off' },
  });
  assert.equal((await send(other, refusing, 'a@example.org'))[0]?.code, 250);
  const isTold = async (): Promise<boolean> => (await said(refusing, 'a block list refuses to answer')) === 1;
  await eventually('it is told', isTold, 5000);
});

/** Mail of a login to a Maildir that SLIM_STORAGES names: the slowest of a hundred but one, in milliseconds. */
async function p99(client: Client): Promise<number> {
  const took: number[] = [];
  for (let at = 0; at < 100; at += 1) {
    const startedAt = performance.now();
    assert.match(await transact(client, ['here@example.com'], letter(marker())), /^250 2\.0\.0 Delivered/);
    took.push(performance.now() - startedAt);
  }
  return took.toSorted((a, b) => a - b)[98] ?? 0;
}

test('companions that hang delay nobody who needs none of them', async (t: TestContext) => {
  const { database, environment } = await stage.postgres(internet.network);
  // It takes connections, and says nothing: neither as Rspamd nor as an LMTP server.
  const mute = await internet.run(
    peerImage,
    `exec python3 -c 'import socket, time
sockets = [socket.create_server(("", port), backlog=1000) for port in (11333, 24)]
time.sleep(3600)'`,
  );
  const server = await internet.server('example.com', {
    environment: {
      ...environment,
      SLIM_STORAGES: `here@example.com=/var/mail/here far@example.com=lmtp://${mute.address}:24 @POSTGRESQL`,
      SLIM_USERS: 'anton:secret',
      SLIM_SENDER_CHECK: 'off',
      SLIM_DNSBL: 'bl.example',
      SLIM_RSPAMD: `http://${mute.address}:11333`,
      SLIM_VERIFY: 'off',
      SLIM_MAX_SESSIONS_PER_CLIENT: '0',
    },
  });
  const [client, outside, late] = [await login(server.getMappedPort(465)), await stranger(), await stranger()];
  const check = async (what: string): Promise<void> => {
    const ms = await p99(client);
    t.diagnostic(`p99 of mail that needs nobody, ${what}: ${ms.toFixed(1)} ms`);
    // Whoever waits for one of them waits for three seconds and more; a busy machine costs less than this.
    assert.ok(ms < 1000, `${what}: ${ms} ms`);
  };
  await p99(client);
  await check('while all is quiet');

  const judged = send(outside, server, 'here@example.com', 20);
  await check('beside twenty messages with a Rspamd that hangs');
  const asked = send(outside, server, 'far@example.com', 20);
  await check('beside an LMTP server that hangs, too');
  await docker('pause', database.getId());
  const looked = send(outside, server, 'nobody@example.com', 20);
  await check('beside a PostgreSQL that hangs, too');
  await docker('pause', internet.unbound.id);
  const listed = send(late, server, 'nobody@example.com', 20);
  await check('beside a block list that hangs, too');

  // Each of these clients waits thirty seconds at most.
  const ended = async (what: string, all: Promise<readonly Sent[]>, code: number, afterMs: number): Promise<void> => {
    for (const { code: found, ms, text } of await all) {
      assert.equal(found, code, `${what}: ${found} ${text}`);
      assert.ok(ms >= afterMs, `${what}: ${ms} ms`);
    }
  };
  await ended('Rspamd hangs', judged, 250, 9900);
  await ended('the LMTP server hangs', asked, 451, 5000);
  await ended('PostgreSQL hangs', looked, 451, 0);
  await ended('PostgreSQL and the block list hang', listed, 451, 0);
  await docker('unpause', internet.unbound.id);
  await docker('unpause', database.getId());
  assert.equal(await said(server, 'a block list does not answer'), 1);
  client.socket.destroy();
});
