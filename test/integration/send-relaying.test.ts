// No open relay: whatever a stranger writes, nothing leaves; who may send through us without a login, and who may not;
// and what a login writes cannot become two messages at the next hop.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { dial, eventually } from './client.ts';
import { docker, openStage, together } from './compose-lib.ts';
import { type Container, type World, letter, login, marker, openWorld, operate, submit, transact } from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good'>;
let server: StartedTestContainer;
let trusting: StartedTestContainer;
let client: Container;
let networks: { Subnet: string; Gateway?: string }[];

before(async () => {
  world = await openWorld(stage, 'good');
  // Docker connects a container with published ports to the network bridge as well.
  networks = JSON.parse(await docker('network', 'inspect', world.network.getId(), 'bridge')).map(
    (network: { IPAM: { Config: { Subnet: string; Gateway?: string }[] } }) => network.IPAM.Config[0],
  );
  [server, trusting, client] = await together([
    // No default mailbox: what is not ours must be refused, not kept.
    world.server({ environment: { SLIM_STORAGES: 'anton@example.com=/var/mail/default' } }),
    world.server({ environment: { SLIM_TRUSTED_NETWORKS: networks.map(({ Subnet }) => Subnet).join(' ') } }),
    world.client(),
  ]);
});

/**
 * Every client command that has gone to the peer for this text or address: nothing means that it was never dialled for
 * it.
 */
const isQuiet = async (): Promise<void> => {
  assert.deepEqual(await operate(server).queue(), []);
  assert.doesNotMatch(await world.peers.good.log(), /smtpd\[\d+\]: connect from/);
};

const recipients = [
  'x@peer.example',
  'x%peer.example@example.com',
  'x%peer.example@mail.example.com',
  'x%peer.example@localhost',
  'peer.example!x@example.com',
  'peer.example!x',
  'x@peer.example@example.com',
  'x@example.com@peer.example',
  '"x@peer.example"@example.com',
  '"x@peer.example"',
  '"x%peer.example"@example.com',
  '@example.com:x@peer.example',
  '@example.com,@mail.example.com:x@peer.example',
  'x@[127.0.0.1]',
  'x@[IPv6:::1]',
  'x@[good.peer.example]',
  'x%peer.example@[127.0.0.1]',
  'x@localhost',
  'x@mail.example.com',
  'x@example.com.peer.example',
  'x@notexample.com',
  'x@sub.example.com',
  'x@peer.example.',
  'x@peer.example..',
  'x@',
  'x',
  'x@peer.example\0@example.com',
  'x@peer.example example.com',
  'x@peer.example>,<anton@example.com',
  'anton@example.com> NOTIFY=NEVER <x@peer.example',
  'x(@example.com)@peer.example',
  'postmaster@peer.example',
  'x=peer.example@example.com',
  'smtp:x@peer.example',
  '|x@peer.example',
];

test('every classic way to relay without a login is refused for good, on every port, and nothing leaves', async () => {
  for (const inside of [25, 587, 465])
    for (const from of ['', 'stranger@example.net', 'anton@example.com', 'anton@mail.example.com', 'x@peer.example'])
      for (const recipient of recipients) {
        const stranger = await dial(server.getMappedPort(inside), '127.0.0.1', inside === 465);
        const sender = await stranger.say(`MAIL FROM:<${from}>`);
        // Submission wants a login before anything else.
        assert.match(sender, inside === 25 ? /^250/ : /^530 5\.7\.0/);
        assert.match(
          await stranger.say(`RCPT TO:<${recipient}>`),
          /^5\d\d 5\.\d/,
          `${inside}: ${from} to ${recipient}`,
        );
        stranger.socket.destroy();
      }
  await isQuiet();
});

test('the wrong password, AUTH= in MAIL and a login that was given up open nothing', async () => {
  const port = server.getMappedPort(465);
  const stranger = await dial(port, '127.0.0.1', true);
  assert.match(await stranger.say(`AUTH PLAIN ${Buffer.from('\0anton\0wrong').toString('base64')}`), /^535 5\.7\.8/);
  assert.match(await stranger.say('MAIL FROM:<anton@example.com>'), /^530 5\.7\.0/);
  assert.match(await stranger.say('AUTH LOGIN'), /^334 /);
  assert.match(await stranger.say('*'), /^501 5\./);
  assert.match(await stranger.say('MAIL FROM:<anton@example.com> AUTH=anton@example.com'), /^5\d\d 5\./);
  assert.match(await stranger.say('RCPT TO:<x@peer.example>'), /^5\d\d 5\./);
  stranger.socket.destroy();
  await isQuiet();
});

test('in the trusted network a client sends outward without a login', async () => {
  const text = marker();
  const address = trusting.getIpAddress(world.network.getName());
  const envelope = `--from a@example.com --to x@peer.example --header "Subject: ${text}"`;
  await client.shell(`swaks --server ${address} ${envelope}`);
  await eventually('arrived', async () => (await world.peers.good.mails(text)).length === 1, 10_000);
});

test('a stranger behind a published port looks like the gateway, which is in the trusted network, and is not trusted', async () => {
  for (const inside of [25, 587]) {
    const stranger = await dial(trusting.getMappedPort(inside));
    const sender = await stranger.say('MAIL FROM:<a@example.com>');
    const reply = sender.startsWith('250') ? await stranger.say('RCPT TO:<x@peer.example>') : sender;
    assert.match(reply, inside === 25 ? /^550 5\.7\.1/ : /^530 5\.7\.0/);
    stranger.socket.destroy();
  }
  // Of its own bridge an engine may tell the subnet alone: the gateway is its first address then.
  const gateways = new Set(networks.map(({ Gateway, Subnet }) => Gateway ?? Subnet.replace(/\.0\/\d+$/, '.1')));
  const came = async (): Promise<boolean> => {
    // A session that ends well: Docker's proxy may keep the end of one that was cut off to itself.
    const stranger = await dial(trusting.getMappedPort(25));
    await stranger.say('QUIT');
    stranger.socket.destroy();
    return (await operate(trusting).log()).some(line => gateways.has(String(line['client'])));
  };
  await eventually('the stranger came as a gateway', came, 30_000).catch(async error => {
    throw new Error(`${[...gateways].join(' ')}\n${await docker('logs', trusting.getId())}`, { cause: error });
  });
});

test('smuggling: what is no proper end of a message never leaves, and what looks like commands arrives as text', async () => {
  const port = server.getMappedPort(465);
  const evil =
    'MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@peer.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n';
  const ends = ['\n.\n', '\n.\r\n', '\r.\r', '\r\n.\r', '\r\n.\n', '\r.\r\n', '\n\n.\r\n', '\r\n\0.\r\n'];
  const sent: { text: string; reply: string }[] = [];
  for (const end of ends) {
    const text = marker();
    const session = await login(port);
    for (const line of ['MAIL FROM:<anton@example.com>', 'RCPT TO:<x@peer.example>', 'DATA']) await session.say(line);
    session.send(`${letter(text, `first${end}${evil}`)}.\r\n`);
    sent.push({ text, reply: await session.say() });
    session.socket.destroy();
  }
  // All but the last contain a bare CR or LF; that one is only text.
  for (const [index, { reply }] of sent.entries())
    assert.match(reply, index === ends.length - 1 ? /^[25]/ : /^550 5\.6\.11/, JSON.stringify(ends[index]));

  const [dotted, chunked] = [marker(), marker()];
  const body = `first\r\n.\r\n${evil}.\r\n..\r\nlast\r\n`;
  assert.match(await submit(port, ['x@peer.example'], letter(dotted, body)), /^250/);
  const session = await login(port);
  for (const line of ['MAIL FROM:<anton@example.com>', 'RCPT TO:<x@peer.example>']) await session.say(line);
  const message = letter(chunked, body);
  session.send(`BDAT ${message.length} LAST\r\n${message}`);
  assert.match(await session.say(), /^250/);
  session.socket.destroy();
  for (const text of [dotted, chunked]) {
    await eventually('arrived', async () => (await world.peers.good.mails(text)).length > 0, 10_000);
    const mails = await world.peers.good.mails(text);
    assert.equal(mails.length, 1);
    assert.ok(mails[0]?.toString().endsWith(`\n\n${body.replaceAll('\r\n', '\n')}`), String(mails[0]));
  }
  assert.doesNotMatch(await world.peers.good.log(), /victim@peer\.example|evil@example\.com/);
  for (const { text } of sent.filter(({ reply }) => reply.startsWith('5')))
    assert.deepEqual(await world.peers.good.mails(text), []);
});

test('a message that loops is refused', async () => {
  const received = 'Received: from a by b; Tue, 24 Nov 2026 06:00:00 +0000\r\n'.repeat(101);
  const session = await login(server.getMappedPort(465));
  assert.match(await transact(session, ['x@peer.example'], received + letter(marker())), /^554 5\.4\.6/);
  session.socket.destroy();
});
