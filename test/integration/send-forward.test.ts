// Forwards with a real Postfix on the other side: what arrives there, how its bounces come back to the original sender,
// and that two of our servers which forward to each other end it.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { type Client, dial, eventually } from './client.ts';
import { openStage, together } from './compose-lib.ts';
import { type World, letter, marker, openWorld, operate, statusOf, submit, transact } from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good'>;
/** A network of their own for two servers: a peer finds the server under test by its name in the network. */
let pair: World<never>;
let server: StartedTestContainer;
let one: StartedTestContainer;
let other: StartedTestContainer;

/** A server that gives all mail for others to the server of that name. */
const relaying = (name: string, to: string, domain: string, storages: string): Promise<StartedTestContainer> =>
  pair.server({
    environment: {
      SLIM_DOMAINS: domain,
      SLIM_HOSTNAME: `mail.${domain}`,
      SLIM_STORAGES: storages,
      SLIM_RELAY_HOST: to,
      SLIM_RELAY_TLS: 'none',
      SLIM_RELAY_PORT: '25',
    },
    prepare: container => container.withNetworkAliases(name),
  });

before(async () => {
  [world, pair] = await together([openWorld(stage, 'good'), openWorld(stage)]);
  [server, one, other] = await together([
    world.server({
      environment: {
        SLIM_DKIM: 'on',
        SLIM_STORAGES:
          'anna@example.com=anna@peer.example both@example.com=/var/mail/default both@example.com=both@peer.example lost@example.com=unknown@peer.example berta@example.com=/var/mail/berta',
      },
    }),
    relaying('one', 'other', 'one.example', 'anna@one.example=anna@other.example default=/var/mail/default'),
    relaying('other', 'one', 'other.example', 'anna@other.example=anna@one.example default=/var/mail/default'),
  ]);
});

/** As a stranger, from another server. */
async function bring(from: string, to: string, message: string, at = server): Promise<string> {
  const client: Client = await dial(at.getMappedPort(25));
  const reply = await transact(client, [to], message, { from });
  client.socket.destroy();
  return reply;
}

/** The messages at the peer with this text, with all that stands in front of them. */
const files = async (text: string): Promise<string[]> => {
  const script =
    'exec 2>/dev/null; for file in $(grep -lrFe "$1" /var/mail/all/new); do base64 -w0 "$file"; echo; done';
  const lines = (await world.peers.good.shell(script, text)).split('\n').filter(Boolean);
  return lines.map(line => Buffer.from(line, 'base64').toString('latin1'));
};
const arrived = async (text: string, count = 1): Promise<string> => {
  let found: string[] = [];
  await eventually(`${count} of ${text}`, async () => (found = await files(text)).length === count, 30_000);
  return found[0] ?? '';
};
const returnPath = (file: string): string => /^Return-Path: <(.*)>$/m.exec(file)?.[1] ?? assert.fail(file);

test('a forward arrives as it was written, under a reverse-path of ours, and a bounce of Postfix comes back to the sender', async () => {
  const text = marker();
  const message = letter(text, 'one\r\n..two\r\n', 'otto@peer.example');
  assert.match(await bring('Otto@peer.example', 'anna@example.com', message), /^250 2\.0\.0 Queued/);
  const file = await arrived(text);
  const rewritten = returnPath(file);
  assert.match(rewritten, /^SRS0=[\w-]{8}=[A-Z2-7]{2}=peer\.example=Otto@example\.com$/);
  assert.match(file, /^Delivered-To: anna@example\.com$/m);
  assert.match(file, /^ARC-Seal: i=1; cv=none;/m);
  assert.doesNotMatch(file, /^DKIM-Signature:/m, 'what came from outside is not signed');
  assert.ok(file.endsWith(message.replaceAll('\r\n', '\n')), file);

  // Postfix cannot deliver a mail from that address, and says so to it.
  const bounced = marker();
  const script = 'printf "Subject: %s\\n\\nx\\n" "$1" | sendmail -f "$2" unknown@peer.example';
  await world.peers.good.shell(script, bounced, rewritten);
  const bounce = await arrived(bounced);
  assert.match(bounce, /^From: Mail Delivery System/m);
  assert.equal(returnPath(bounce), '');
  assert.match(bounce, /^(?:X-Original-To|Delivered-To): Otto@peer\.example$/im);
});

test('mail of a login of ours is signed when it is forwarded, and not sealed', async () => {
  const text = marker();
  assert.match(await submit(server.getMappedPort(465), ['anna@example.com'], letter(text)), /^250/);
  const file = await arrived(text);
  assert.match(file, /^DKIM-Signature: [^]*?d=example\.com;/m);
  assert.doesNotMatch(file, /^ARC-/m);
  assert.equal(returnPath(file), 'anton@example.com');
});

test('an address for bounces takes nothing but bounces, and none that was changed', async () => {
  const text = marker();
  await bring('otto@peer.example', 'anna@example.com', letter(text));
  const rewritten = returnPath(await arrived(text));
  const mail = letter(marker());
  for (const from of ['otto@peer.example', 'x@example.net', 'berta@example.com'])
    assert.match(await bring(from, rewritten, mail), /^550 5\.1\.1/);
  for (const forged of [
    rewritten.replace('=otto@', '=emil@'),
    rewritten.replace('=peer.example', '=plain.example'),
    rewritten.replace(/=[\w-]{8}=/, '=aaaaaaaa='),
    'SRS0=@example.com',
    'SRS1=aaaaaaaa=peer.example==x=yy=z.example=a@example.com',
  ])
    assert.match(await bring('', forged, mail), /^550 5\.1\.1/, forged);
  assert.match(await bring('', rewritten.toLowerCase(), letter(marker())), /^250/);
});

test('what is kept as well is kept and forwarded; a sender of ours and the null one stay', async () => {
  for (const from of ['', 'berta@example.com']) {
    const text = marker();
    assert.match(await bring(from, 'both@example.com', letter(text)), /^250/);
    assert.equal(returnPath(await arrived(text)), from);
    await eventually('a copy here', async () => (await operate(server).mails(text)).length === 1, 10_000);
  }
});

test('a forward that the other side refuses goes back to the original sender', async () => {
  const text = marker();
  assert.match(await bring('otto@peer.example', 'lost@example.com', letter(text)), /^250/);
  const notice = statusOf(Buffer.from(await arrived(text)));
  assert.match(notice.text, /^(?:X-Original-To|Delivered-To): otto@peer\.example$/im);
  assert.deepEqual(
    notice.recipients.map(fields => [fields['Original-Recipient'], fields['Final-Recipient'], fields['Status']]),
    [['rfc822; lost@example.com', 'rfc822; unknown@peer.example', '5.1.1']],
  );
});

test('two of our servers that forward to each other end it, and the original sender hears of it', async () => {
  const text = marker();
  assert.match(await bring('otto@other.example', 'anna@one.example', letter(text), one), /^250/);
  let notices: Buffer[] = [];
  const came = async (): Promise<boolean> => (notices = await operate(other).mails(text)).length > 0;
  await eventually('a notice', came, 30_000);
  assert.equal(notices.length, 1);
  const { text: notice, recipients } = statusOf(notices[0] ?? Buffer.alloc(0));
  assert.match(notice, /Forwarded from here before, the message loops/);
  assert.deepEqual(
    recipients.map(fields => fields['Status']),
    ['5.4.6'],
  );
  for (const each of [one, other])
    await eventually('nothing waits', async () => (await operate(each).queue()).length === 0, 20_000);
});
