// What becomes of mail for other servers, and what its sender hears: real Postfix peers, a real DNS, short waits.
// Most tests run side by side, each with a sender of its own, whose Maildir shows which notices came.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { eventually } from './client.ts';
import { openStage, together } from './compose-lib.ts';
import {
  type Operator,
  type Sending,
  type World,
  letter,
  marker,
  openWorld,
  operate,
  statusOf,
  submit,
} from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good' | 'plain' | 'stripped' | 'broken' | 'old' | 'down'>;

/** A server to send through, and what the tests ask of it. */
function sender(environment: () => Record<string, string>) {
  let operator: Operator;
  let port: number;
  let address: string;
  const open = async (): Promise<void> => {
    const server = await world.server({ environment: environment() });
    operator = operate(server);
    port = server.getMappedPort(465);
    address = server.getIpAddress(world.network.getName());
  };
  return {
    open,
    operator: () => operator,
    address: () => address,
    /** Submits, from an address of its own; where it came from. */
    send: async (to: readonly string[], text: string, how: Sending = {}, body?: string): Promise<string> => {
      const from = how.from ?? `${marker()}@example.com`;
      assert.match(await submit(port, to, letter(text, body, from), { ...how, from }), /^250 2\.0\.0 /);
      return from;
    },
    /** Waits until nothing from this sender is left, so that its notices are all there. */
    settled: (from: string, withinMs = 60_000): Promise<void> =>
      eventually(
        `nothing waits from ${from}`,
        async () => !(await operator.queue()).some(entry => entry.from === from),
        withinMs,
      ),
    notices: (from: string): Promise<Buffer[]> => operator.mails(`\nTo: <${from}>`.trim()),
  };
}

/** The only notice, and its only recipient. */
function only(notices: readonly Buffer[]): { text: string; message: string; fields: Record<string, string> } {
  assert.equal(notices.length, 1, notices.join('\n----\n'));
  const { text, message, recipients } = statusOf(notices[0] ?? Buffer.alloc(0));
  assert.equal(recipients.length, 1, text);
  return { text, message, fields: recipients[0] ?? {} };
}

before(async () => {
  world = await openWorld(stage, 'good', 'plain', 'stripped', 'broken', 'old', 'down');
  await together([standard, opportunistic, brief, telling].map(({ open }) => open()));
});

/** Nothing here gives up or tells of a delay within a test. */
const standard = sender(() => ({}));
const opportunistic = sender(() => ({ SLIM_EXTERNAL_TLS: 'opportunistic' }));
/** Gives up soon. */
const brief = sender(() => ({ SLIM_QUEUE_LIFETIME: '6s' }));
/** Tells soon that a mail is late. */
const telling = sender(() => ({ SLIM_DELAY_NOTICE: '2s', SLIM_RETRY: '1s' }));

describe('side by side', { concurrency: 8 }, () => {
  test('mail goes to the MX, over TLS, octet for octet', async () => {
    const text = marker();
    const body = `.\r\n..\r\n.x\r\nFrom here\r\n\r\n${'y'.repeat(998)}\r\n\x80\xff caf\xe9\r\n \t\r\n`;
    const from = await standard.send(['x@peer.example'], text, {}, body);
    await standard.settled(from);
    const [mail, ...more] = await world.peers.good.mails(text);
    assert.deepEqual(more, []);
    const whole = mail?.toString('latin1') ?? '';
    assert.ok(whole.endsWith(`\nSubject: ${text}\n\n${body.replaceAll('\r\n', '\n')}`), whole);
    assert.match(await world.peers.good.log(), /TLS connection established from .*TLSv1\.3/);
    assert.deepEqual(await standard.notices(from), []);
  });

  test('a preferred MX that is down is passed over, and one that is up is taken', async () => {
    const [several, preferred, implicit] = [marker(), marker(), marker()];
    const from = await standard.send(['x@several.example'], several);
    await standard.settled(from);
    await standard.settled(await standard.send(['x@preferred.example'], preferred));
    await standard.settled(await standard.send(['x@good.peer.example'], implicit));
    for (const text of [several, preferred, implicit])
      assert.equal((await world.peers.good.mails(text)).length, 1, text);
    assert.deepEqual(await standard.notices(from), []);
  });

  const final: [what: string, to: string, status: string][] = [
    ['a null MX', 'x@null.example', '5.1.10'],
    ['a domain that does not exist', 'x@no-such-name.example', '5.1.2'],
    ['a mailbox that the peer does not know', 'unknown@peer.example', '5.1.1'],
    ['a domain whose best MX we are', 'x@self.example', '5.4.6'],
  ];
  for (const [what, to, status] of final)
    test(`${what} is said at once, with ${status}`, async () => {
      const from = await telling.send([to], marker());
      await telling.settled(from);
      const { message, fields } = only(await telling.notices(from));
      assert.deepEqual([fields['Action'], fields['Status']], ['failed', status]);
      assert.match(fields['Final-Recipient'] ?? '', new RegExp(`^rfc822; ?${to}$`));
      assert.match(message, /^Reporting-MTA: dns; ?mail\.example\.com$/m);
    });

  test("the remote's own words are in the bounce", async () => {
    const from = await standard.send(['unknown1@peer.example'], marker());
    await standard.settled(from);
    const { text, fields } = only(await standard.notices(from));
    assert.match(fields['Diagnostic-Code'] ?? '', /^smtp; ?550 5\.1\.1 .*User unknown in virtual mailbox table/);
    assert.match(fields['Remote-MTA'] ?? '', /^dns; ?good\.peer\.example$/);
    assert.match(text, /^Return-Path: <>$|^From: .*MAILER-DAEMON@mail\.example\.com/m);
  });

  test('addresses of this machine that come from the DNS are never dialled', async () => {
    const from = await standard.send(['x@loopback.example'], marker());
    await standard.settled(from);
    const { fields } = only(await standard.notices(from));
    assert.match(`${fields['Action']} ${fields['Status']}`, /^failed 5\.4\.\d+$/);
    const sessions = (await standard.operator().log()).filter(({ client }) => /^(127\.|::1)/.test(String(client)));
    assert.deepEqual(sessions, []);
  });

  test('SERVFAIL is no answer: the mail waits, and its sender is told so', async () => {
    const from = await telling.send(['x@servfail.example'], marker());
    await eventually('a notice', async () => (await telling.notices(from)).length > 0, 30_000);
    const { fields } = only(await telling.notices(from));
    assert.deepEqual([fields['Action'], fields['Status']?.slice(0, 2)], ['delayed', '4.']);
    const [entry] = await telling.operator().queue('--sender', from);
    assert.match(String(entry?.recipients[0]?.['status']), /^4\.4\.3$/);
    await telling.operator().slimsmtp('queue', 'remove', '--sender', from);
  });

  test('a peer that is down for two retries gets the mail when it is up again, and nobody is told', async () => {
    const text = marker();
    await world.peers.down.shell('postfix stop');
    const from = await standard.send(['x@down.example'], text);
    await eventually(
      'two attempts',
      async () => Number((await standard.operator().queue('--sender', from))[0]?.recipients[0]?.['attempts']) >= 2,
      6000,
    );
    await world.peers.down.shell('postfix start');
    await standard.settled(from);
    assert.equal((await world.peers.down.mails(text)).length, 1);
    assert.deepEqual(await standard.notices(from), []);
  });

  test('a peer that is down for the lifetime: one bounce, with the reason', async () => {
    const from = await brief.send(['x@dead.example'], marker());
    await brief.settled(from);
    const { text, fields } = only(await brief.notices(from));
    assert.match(`${fields['Action']} ${fields['Status']}`, /^failed 5\.4\./);
    assert.match(text, /refused|connect|reach/i);
  });

  test('good, unknown and greylisted in one message: each has its own outcome, and one notice is due', async () => {
    const text = marker();
    const to = ['good@peer.example', 'unknown2@peer.example', `grey2-${text}@peer.example`];
    const from = await standard.send(to, text);
    await standard.settled(from);
    const mails = await world.peers.good.mails(text);
    assert.equal(mails.length, 2);
    const { fields } = only(await standard.notices(from));
    assert.match(fields['Final-Recipient'] ?? '', /unknown2@peer\.example$/);
    assert.deepEqual([fields['Action'], fields['Status']], ['failed', '5.1.1']);
  });

  test('a mail that waits longer than SLIM_DELAY_NOTICE is announced once, and then delivered', async () => {
    const text = marker();
    const from = await telling.send([`grey4-${text}@peer.example`], text);
    await telling.settled(from);
    assert.equal((await world.peers.good.mails(text)).length, 1);
    const { text: notice, fields } = only(await telling.notices(from));
    assert.deepEqual([fields['Action'], fields['Status']], ['delayed', '4.7.1']);
    assert.match(notice, /Greylisted, come back later/);
  });

  for (const name of ['plain', 'stripped', 'broken'] as const) {
    test(`required: nothing goes in clear to the peer ${name}; its sender hears why, at once and at the end`, async () => {
      const from = await brief.send([`x@${name}.example`], marker());
      await brief.settled(from);
      const notices = (await brief.notices(from)).map(statusOf);
      const told = notices.map(({ recipients: [fields] }) => `${fields?.['Action']} ${fields?.['Status']}`);
      // Of a delay it would not tell before four hours, were it not for TLS.
      assert.deepEqual(told.toSorted(), ['delayed 4.7.4', 'failed 5.7.4']);
      for (const { text } of notices) assert.match(text, /TLS/);
    });

    test(`opportunistic: the peer ${name} gets the mail in clear, and nobody is told`, async () => {
      const text = marker();
      const from = await opportunistic.send([`x@${name}.example`], text);
      await opportunistic.settled(from);
      assert.equal((await world.peers[name].mails(text)).length, 1);
      assert.deepEqual(await opportunistic.notices(from), []);
    });
  }

  test('a peer without 8BITMIME gets 8-bit text re-encoded, and signed mail as it is', async () => {
    const [text, signed] = [marker(), marker()];
    const mime = 'caf\xc3\xa9\r\n';
    const from = `${marker()}@example.com`;
    const type = 'MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit';
    await standard.send(['x@old.example'], `${text}\r\n${type}`, { from }, mime);
    const signature = `${type}\r\nDKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=from; bh=x; b=x`;
    await standard.send(['x@old.example'], `${signed}\r\n${signature}`, { from }, mime);
    await standard.settled(from);
    const mail = (await world.peers.old.mails(text)).join('');
    assert.match(mail, /caf=C3=A9/);
    assert.match(mail, /^Content-Transfer-Encoding: quoted-printable$/im);
    const kept = (await world.peers.old.mails(signed)).join('');
    assert.match(kept, /caf(?:\xc3\xa9|\xe9|é)/);
    assert.match(kept, /^Content-Transfer-Encoding: 8bit$/im);
    assert.deepEqual(await standard.notices(from), []);
  });

  test('NOTIFY=SUCCESS: a peer without DSN is reported as relayed, with ENVID and ORCPT', async () => {
    const how = { mail: ' RET=HDRS ENVID=QQ+2B1', rcpt: ' NOTIFY=SUCCESS ORCPT=rfc822;first@old.example' };
    const from = await standard.send(['x@old.example'], marker(), how, 'the secret body\r\n');
    await standard.settled(from);
    const { text, message, fields } = only(await standard.notices(from));
    assert.deepEqual([fields['Action'], fields['Status']?.[0]], ['relayed', '2']);
    assert.match(fields['Original-Recipient'] ?? '', /^rfc822; ?first@old\.example$/);
    assert.match(message, /^Original-Envelope-Id: QQ\+1$/m);
    assert.doesNotMatch(text, /the secret body/);
  });

  test('NOTIFY=SUCCESS: a peer with DSN gets NOTIFY, RET, ENVID and ORCPT, and says itself what it delivered', async () => {
    const how = { mail: ' RET=HDRS ENVID=QQ314', rcpt: ' NOTIFY=SUCCESS ORCPT=rfc822;first@peer.example' };
    const from = `${marker()}@example.com`;
    await standard.send(['x@peer.example'], marker(), { ...how, from });
    // Postfix sends its notice to whichever server is called slimsmtp here: one of four.
    const everywhere = async (): Promise<Buffer[]> =>
      (
        await Promise.all(
          [standard, opportunistic, brief, telling].map(({ operator }) => operator().mails(`To: ${from}`)),
        )
      ).flat();
    await eventually("Postfix's notice", async () => (await everywhere()).length > 0, 60_000);
    const { message, fields } = only(await everywhere());
    assert.match(message, /^Reporting-MTA: dns; good\.peer\.example$/m);
    assert.match(message, /^Original-Envelope-Id: QQ314$/m);
    assert.match(fields['Original-Recipient'] ?? '', /^rfc822; ?first@peer\.example$/);
    assert.equal(fields['Action'], 'delivered');
    assert.deepEqual(await standard.notices(from), []);
  });

  test('NOTIFY=SUCCESS: mail that stays here is reported as delivered', async () => {
    const from = await standard.send(['someone@example.com'], marker(), { rcpt: ' NOTIFY=SUCCESS' });
    await eventually('a notice', async () => (await standard.notices(from)).length > 0, 20_000);
    assert.equal(only(await standard.notices(from)).fields['Action'], 'delivered');
  });

  test('NOTIFY=NEVER: silence, whatever happens', async () => {
    const from = await telling.send(['unknown3@peer.example', 'x@null.example'], marker(), { rcpt: ' NOTIFY=NEVER' });
    const late = await brief.send(['x@plain.example'], marker(), { rcpt: ' NOTIFY=NEVER' });
    await telling.settled(from);
    await brief.settled(late);
    assert.deepEqual([...(await telling.notices(from)), ...(await brief.notices(late))], []);
  });

  test('RET=FULL gives back the message, and the null sender hears nothing', async () => {
    const text = marker();
    const from = await standard.send(['unknown4@peer.example'], text, { mail: ' RET=FULL' }, 'the whole body\r\n');
    await standard.settled(from);
    assert.match(only(await standard.notices(from)).text, /^the whole body$/m);
    const nobody = marker();
    assert.equal(await standard.send(['unknown5@peer.example'], nobody, { from: '' }), '');
    await eventually('tried', async () => (await world.peers.good.log()).includes('<unknown5@peer.example>'), 20_000);
    await standard.settled('');
    assert.deepEqual((await standard.operator().mails(nobody)).length, 0);
  });

  test('every attempt leaves a line: id, destination, the words of the remote', async () => {
    const text = marker();
    const from = await standard.send([`grey-${text}@peer.example`], text);
    await standard.settled(from);
    const found = async (): Promise<string[]> =>
      (await standard.operator().log())
        .map(line => JSON.stringify(line))
        .filter(line => line.includes(`grey-${text}`) && line.includes('good.peer.example'));
    // The server gathers its log lines for a moment.
    await eventually('both attempts are in the log', async () => (await found()).length >= 2, 5000);
    const attempts = await found();
    assert.match(attempts[0] ?? '', /Greylisted, come back later/);
    const id =
      /"queue":"(\w+)"|"message":"(\w+)"|"id":"(\w+)"/
        .exec(attempts[0] ?? '')
        ?.slice(1)
        .find(Boolean) ?? 'none';
    const mail = await world.peers.good.shell(`cat $(grep -lr ${text} /var/mail/all/new)`);
    assert.match(mail, new RegExp(`by mail\\.example\\.com .*${id}|id ${id}\\b`, 's'));
  });
});

test('in clear, peers were told nothing but EHLO when TLS is required', async () => {
  for (const name of ['plain', 'stripped', 'broken'] as const) {
    const log = await world.peers[name].log();
    const sessions = log
      .split('\n')
      .filter(line => line.includes('disconnect from') && line.includes(`[${brief.address()}]`));
    assert.ok(sessions.length > 0, log);
    for (const line of sessions) assert.doesNotMatch(line, / (mail|rcpt|data)=/);
  }
});
