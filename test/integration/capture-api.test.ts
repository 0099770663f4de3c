// The HTTP API for captured mail: by the npm package mailpit-api, unchanged, and what is ours besides.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { MailpitClient } from 'mailpit-api';
import { WebSocket } from 'ws';
import { dial } from './client.ts';
import { type Catcher, processesBelow, startCatcher } from './capture-lib.ts';

const undo: (() => unknown)[] = [];
const suite = { after: (act: () => unknown): void => void undo.push(act) } as Parameters<typeof startCatcher>[0];
let catcher: Catcher;
let mailpit: MailpitClient;
before(async () => {
  catcher = await startCatcher(suite, { settings: { SLIM_MAX_SIZE: '2M' } });
  mailpit = new MailpitClient(catcher.url);
});
after(async () => {
  for (const act of undo.splice(0)) await act();
});
beforeEach(() => mailpit.deleteMessages());

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';
const request = {
  From: { Email: 'sender@example.test', Name: 'Sender Name' },
  To: [{ Email: 'recipient@example.test', Name: 'Recipient Name' }],
  Cc: [{ Email: 'cc@example.test' }],
  Bcc: ['bcc@example.test'],
  ReplyTo: [{ Email: 'reply@example.test' }],
  Subject: 'Über alles 😀',
  Text: 'Hello text',
  HTML: '<p>Hello <img src="cid:logo"></p>',
  Headers: { 'X-Special': 'yes', 'List-Unsubscribe': '<mailto:u@example.test>, <https://example.test/u>' },
  Tags: ['one', 'two!'],
  Attachments: [
    { Content: Buffer.from('attached').toString('base64'), Filename: 'a file.txt', ContentType: 'text/csv' },
    { Content: png, Filename: 'logo.png', ContentType: 'image/png', ContentID: 'logo' },
  ],
};

describe('mailpit-api', () => {
  it('sends a message and reads it', async () => {
    const { ID } = await mailpit.sendMessage(request);
    const message = await mailpit.getMessageSummary(ID);
    assert.equal(message.ID, ID);
    assert.deepEqual(message.From, { Address: 'sender@example.test', Name: 'Sender Name' });
    assert.deepEqual(message.To, [{ Address: 'recipient@example.test', Name: 'Recipient Name' }]);
    assert.deepEqual(message.Cc, [{ Address: 'cc@example.test', Name: '' }]);
    assert.deepEqual(message.Bcc, [{ Address: 'bcc@example.test', Name: '' }], 'known from the envelope alone');
    assert.deepEqual(message.ReplyTo, [{ Address: 'reply@example.test', Name: '' }]);
    assert.equal(message.ReturnPath, 'sender@example.test');
    assert.equal(message.Subject, 'Über alles 😀');
    assert.equal(message.Text.trim(), 'Hello text');
    assert.equal(message.HTML.trim(), '<p>Hello <img src="cid:logo"></p>');
    assert.deepEqual(message.Tags, ['one', 'two']);
    assert.match(message.Date, /^20\d\d-\d\d-\d\dT/);
    assert.match(message.MessageID, /^[^<>]+@[^<>]+$/);
    assert.deepEqual(message.ListUnsubscribe.Links, ['mailto:u@example.test', 'https://example.test/u']);
    const [attachment] = message.Attachments;
    const [inline] = message.Inline;
    assert.deepEqual([attachment?.FileName, attachment?.ContentType, attachment?.Size], ['a file.txt', 'text/csv', 8]);
    assert.deepEqual([inline?.FileName, inline?.ContentID], ['logo.png', 'logo']);
    assert.match(attachment?.Checksums.SHA256 ?? '', /^[0-9a-f]{64}$/);
    const octets = await mailpit.getMessageAttachment(ID, attachment?.PartID ?? '');
    assert.equal(await (octets as Blob).text(), 'attached');
    assert.equal((await mailpit.getMessageHeaders(ID))['X-Special']?.[0], 'yes');
    const source = await mailpit.getMessageSource(ID);
    assert.match(source, /^Return-Path: <sender@example\.test>\r\n/);
    assert.doesNotMatch(source, /[^\r]\n/);
    assert.doesNotMatch(source, /bcc@/i);
  });

  it('renders HTML and text', async () => {
    const { ID } = await mailpit.sendMessage(request);
    const [inline] = (await mailpit.getMessageSummary(ID)).Inline;
    const part = `/api/v1/message/${ID}/part/${inline?.PartID}`;
    assert.equal((await mailpit.renderMessageHTML(ID)).trim(), `<p>Hello <img src="${part}"></p>`);
    assert.match(await mailpit.renderMessageHTML(ID, 1), /<img src="data:image\/png;base64,iVBOR/);
    assert.equal((await mailpit.renderMessageText()).trim(), 'Hello text');
    await mailpit.sendMessage({ ...request, HTML: '' });
    await assert.rejects(mailpit.renderMessageHTML(), /404 .*The message has no HTML/s);
  });

  it('lists the newest first, in pages', async () => {
    for (const Subject of ['first', 'second', 'third']) await mailpit.sendMessage({ ...request, Subject });
    const all = await mailpit.listMessages();
    assert.deepEqual(
      all.messages.map(each => each.Subject),
      ['third', 'second', 'first'],
    );
    assert.deepEqual([all.total, all.unread, all.messages_count, all.start], [3, 3, 3, 0]);
    assert.deepEqual(all.tags, ['one', 'two']);
    const [item] = all.messages;
    assert.deepEqual(
      [item?.Read, item?.Attachments, item?.Snippet, item?.MessageID.includes('@')],
      [false, 1, 'Hello text', true],
    );
    const page = await mailpit.listMessages(1, 1);
    assert.deepEqual([page.messages.map(each => each.Subject), page.messages_count], [['second'], 3]);
  });

  it('keeps the read state', async () => {
    const { ID } = await mailpit.sendMessage({ ...request, Subject: 'to be read' });
    await mailpit.sendMessage(request);
    await mailpit.getMessageSummary(ID);
    const unread = async (): Promise<number> => (await mailpit.listMessages()).unread;
    assert.equal(await unread(), 1);
    await mailpit.setReadStatus({ IDs: [ID], Read: false });
    assert.equal(await unread(), 2);
    await mailpit.setReadStatus({ Read: true });
    assert.equal(await unread(), 0);
    await mailpit.setReadStatus({ Search: 'subject:"to be read"', Read: false });
    assert.equal(await unread(), 1);
    assert.equal((await mailpit.searchMessages({ query: 'is:unread' })).messages[0]?.ID, ID);
  });

  it('searches, and removes what it finds', async () => {
    for (const Subject of ['apple', 'pear', 'apple pie']) await mailpit.sendMessage({ ...request, Subject });
    const { messages_count: found } = await mailpit.searchMessages({ query: 'subject:apple !subject:pie', limit: 10 });
    assert.equal(found, 1);
    await mailpit.deleteMessagesBySearch({ query: 'apple' });
    assert.deepEqual(
      (await mailpit.listMessages()).messages.map(each => each.Subject),
      ['pear'],
    );
    await mailpit.deleteMessages({ IDs: ['nobody'] });
    assert.equal((await mailpit.listMessages()).total, 1);
  });

  it('waits for messages', async () => {
    setTimeout(() => void mailpit.sendMessage({ ...request, Subject: 'late' }), 200);
    const message = await mailpit.waitForMessage({ query: 'subject:late' }, { timeout: 5000, interval: 50 });
    assert.equal(message.Subject, 'late');
    await mailpit.sendMessage({ ...request, Subject: 'later' });
    assert.equal((await mailpit.waitForMessages({ query: 'late', count: 2 })).messages_count, 2);
  });

  it('gives, renames and removes tags', async () => {
    const { ID } = await mailpit.sendMessage({ ...request, Tags: [] });
    await mailpit.setTags({ IDs: [ID], Tags: ['b tag', 'a-tag', '<x>'] });
    assert.deepEqual(await mailpit.getTags(), ['a-tag', 'b tag', 'x']);
    await mailpit.renameTag('b tag', 'c tag');
    await mailpit.deleteTag('x');
    assert.deepEqual(await mailpit.getTags(), ['a-tag', 'c tag']);
    assert.equal((await mailpit.searchMessages({ query: 'tag:"c tag"' })).messages_count, 1);
    assert.deepEqual((await mailpit.getInfo()).Tags, { 'a-tag': 1, 'c tag': 1 });
    await mailpit.setTags({ IDs: [ID] });
    assert.deepEqual(await mailpit.getTags(), []);
    await assert.rejects(mailpit.deleteTag('nobody'), /404/);
  });

  it('makes failures by chance', async () => {
    const off = { ErrorCode: 451, Probability: 0 };
    assert.deepEqual(await mailpit.getChaosTriggers(), { Authentication: off, Recipient: off, Sender: off });
    const Sender = { ErrorCode: 550, Probability: 100 };
    assert.deepEqual((await mailpit.setChaosTriggers({ Sender })).Sender, Sender);
    assert.equal(await catcher.send('x@y.test'), '550 5.0.0 Chaos sender error');
    await mailpit.setChaosTriggers({ Recipient: { ErrorCode: 452, Probability: 100 } });
    assert.equal(await catcher.send('x@y.test'), '452 4.0.0 Chaos recipient error');
    await mailpit.setChaosTriggers();
    assert.match(await catcher.send('x@y.test'), /^250/);
    await assert.rejects(
      mailpit.setChaosTriggers({ Sender: { ErrorCode: 200, Probability: 1 } }),
      /400 .*ErrorCode must be/s,
    );
  });

  it('tells about itself', async () => {
    const info = await mailpit.getInfo();
    assert.match(info.Version, /^\d+\.\d+\.\d+/);
    assert.equal(info.Messages, 0);
    assert.ok(info.RuntimeStats.Memory > 1_000_000);
    const { MessageRelay, ChaosEnabled, SpamAssassin } = await mailpit.getConfiguration();
    assert.deepEqual([MessageRelay.Enabled, ChaosEnabled, SpamAssassin], [false, true, false]);
  });

  it('is told in a sentence what is not there', async () => {
    await mailpit.sendMessage(request);
    for (const call of [
      () => mailpit.htmlCheck(),
      () => mailpit.linkCheck(),
      () => mailpit.spamAssassinCheck(),
      () => mailpit.getAttachmentThumbnail('latest', '1'),
      () => mailpit.releaseMessage('latest', { To: ['x@y.test'] }),
    ])
      await assert.rejects(call(), /501 .*"Error":"[A-Z].*\."/s);
    await assert.rejects(mailpit.getMessageSummary('nobody'), /404 .*There is no such message\./s);
    await assert.rejects(mailpit.getMessageAttachment('latest', '99'), /404/);
  });
});

describe('events', () => {
  it('tell everything that happens, as Mailpit tells it', async () => {
    const socket = new WebSocket(`${catcher.url.replace('http', 'ws')}/api/events`);
    const heard: { readonly Type: string; readonly Data: Record<string, unknown> }[] = [];
    let wake = (): void => {};
    socket.on('message', line => {
      heard.push(JSON.parse(String(line)));
      wake();
    });
    await new Promise(resolve => socket.once('open', resolve));
    const next = async (type: string): Promise<Record<string, unknown>> => {
      for (;;) {
        const event = heard.shift();
        if (event?.Type === type) return event.Data;
        if (event === undefined) await new Promise<void>(resolve => (wake = resolve));
      }
    };
    const { ID } = await mailpit.sendMessage({ ...request, Subject: 'event' });
    const arrived = await next('new');
    assert.deepEqual([arrived['ID'], arrived['Subject'], arrived['Tags']], [ID, 'event', ['one', 'two']]);
    await mailpit.getMessageSummary(ID);
    assert.deepEqual(await next('update'), { ID, Read: true });
    const { Total, Unread } = await next('stats');
    assert.deepEqual([Total, Unread], [1, 0]);
    await mailpit.sendMessage(request);
    await next('new');
    await mailpit.deleteMessages({ IDs: [ID] });
    assert.deepEqual(await next('delete'), { ID });
    await mailpit.deleteMessages();
    assert.equal(await next('truncate'), null);
    socket.terminate();
  });
});

describe('what is ours', () => {
  const status = async (path: string, init?: RequestInit): Promise<string> => {
    const answer = await fetch(catcher.url + path, init);
    return `${answer.status} ${await answer.text()}`;
  };

  it('a message that got its 250 is in the next list, each time', async () => {
    for (let at = 1; at <= 30; at += 1) {
      await catcher.send('x@y.test', `Subject: ${at}\r\n\r\n`);
      const { total } = (await catcher.get('/api/v1/messages?limit=1')) as { total: number };
      assert.equal(total, at);
    }
  });

  it('a list waits for a message, and answers within 50 ms of its 250', async () => {
    const took: number[] = [];
    // A machine that is busy may be slow once; it is not slow five times.
    for (let tries = 1; tries <= 5; tries += 1) {
      const to = `late${tries}@y.test`;
      const waiting = fetch(`${catcher.url}/api/v1/messages?to=${to}&subject=order&wait=10s`);
      await pause(100);
      await catcher.send('other@y.test', 'Subject: order\r\n\r\n');
      await catcher.send(to, 'Subject: none\r\n\r\n');
      const client = await dial(catcher.smtp);
      for (const line of ['MAIL FROM:<a@b.test>', `RCPT TO:<${to}>`, 'DATA']) await client.say(line);
      client.send('Subject: Your Order\r\n\r\n.\r\n');
      assert.match(await client.say(), /^250/);
      const sentAt = performance.now();
      const answer = await waiting;
      took.push(performance.now() - sentAt);
      const { messages } = (await answer.json()) as { messages: { Subject: string }[] };
      assert.deepEqual(
        messages.map(each => each.Subject),
        ['Your Order'],
      );
      client.socket.destroy();
    }
    assert.ok(Math.min(...took) < 50, `${took} ms`);
  });

  it('a list that waits answers at once where such a message is there, and 204 when the time is over', async () => {
    await catcher.send('there@y.test');
    assert.match(await status('/api/v1/messages?to=THERE@y.test&wait=5m'), /^200 /);
    assert.equal(await status('/api/v1/messages?to=nobody@y.test&wait=100ms'), '204 ');
    for (const wait of ['', '10', '6m', '-1s', '1h', '999999s'])
      assert.match(await status(`/api/v1/messages?wait=${wait}`), /^400 \{"Error":"wait must be a duration/, wait);
  });

  it('a message says what a receiver would hold against it, and how it came', async () => {
    await catcher.send('x@y.test', 'From: a@b.test\r\nFrom: c@d.test\r\n\r\nüber\r\n');
    const message = (await catcher.get('/api/v1/message/latest')) as { Checks: { Name: string }[]; Envelope: object };
    assert.deepEqual(
      message.Checks.map(({ Name }) => Name),
      ['date', 'message-id', 'from', '8-bit'],
    );
    const { Received: _, ...envelope } = message.Envelope as Record<string, unknown>;
    const wanted = {
      From: 'app@example.com',
      To: ['x@y.test'],
      Helo: 'test.example.net',
      Client: '127.0.0.1',
      TLS: '',
      Login: '',
    };
    assert.deepEqual(envelope, wanted);
  });

  it('HTML of a message is served so that it runs nothing and loads nothing', async () => {
    const html =
      '<script>1</script><link rel=preconnect href=//evil><meta http-equiv=refresh content="0;url=//evil"><base href=//evil><li<link>nk rel=preconnect>';
    await catcher.send('x@y.test', `Content-Type: text/html\r\n\r\n${html}\r\n`);
    const plain = await fetch(`${catcher.url}/view/latest.html`);
    assert.match(
      plain.headers.get('content-security-policy') ?? '',
      /^sandbox allow-same-origin allow-popups [^;]*; default-src 'none'; img-src data: 'self';/,
    );
    assert.doesNotMatch(plain.headers.get('content-security-policy') ?? '', /allow-scripts|http/);
    const embedded = await fetch(`${catcher.url}/view/latest.html?embed=1`);
    assert.match(
      embedded.headers.get('content-security-policy') ?? '',
      /^sandbox allow-popups [^;]*; default-src 'none'; img-src data:;/,
    );
    assert.doesNotMatch(await embedded.text(), /<(?:link|meta|base h)/i);
    const remote = await fetch(`${catcher.url}/view/latest.html?embed=1&remote=1`);
    assert.match(remote.headers.get('content-security-policy') ?? '', /img-src data: http: https:/);
  });

  it('a part runs nothing, whatever it says it is', async () => {
    const Attachments = [
      { Content: Buffer.from('<script>').toString('base64'), Filename: 'a"\r\nX: y.html', ContentType: 'text/html' },
    ];
    const { ID } = await mailpit.sendMessage({ ...request, Attachments });
    const part = await fetch(`${catcher.url}/api/v1/message/${ID}/part/1`);
    assert.match(part.headers.get('content-security-policy') ?? '', /^sandbox; default-src 'none'/);
    assert.equal(part.headers.get('x'), null);
  });

  it('what is malformed is 400, and what is too large 413', async () => {
    const put = (path: string, body: string, method = 'PUT'): Promise<string> => status(path, { method, body });
    assert.match(await put('/api/v1/messages', '[]'), /^400 .*must be a JSON object/);
    assert.match(await put('/api/v1/messages', '{'), /^400 /);
    assert.match(await put('/api/v1/messages', '{"IDs":"x"}', 'DELETE'), /^400 .*IDs must be/);
    assert.match(await put('/api/v1/tags', '{}'), /^400 .*IDs must be/);
    assert.match(await put('/api/v1/tags/x', '{"Name":"!"}'), /^400 .*Name must be/);
    assert.match(await status('/api/v1/search'), /^400 .*query must say/);
    assert.match(await status('/api/v1/messages?start=x'), /^400 .*start must be a number/);
    for (const wrong of [
      {},
      { From: 'x' },
      { From: { Email: 'x' } },
      { From: { Email: 'a@b' } },
      { From: { Email: 'a@b' }, To: 'x' },
      { ...request, Subject: 1 },
      { ...request, Attachments: [{}] },
      { ...request, Headers: [] },
    ])
      assert.match(
        await put('/api/v1/send', JSON.stringify(wrong), 'POST'),
        /^400 \{"Error":"[A-Z].*\."\}$/,
        JSON.stringify(wrong),
      );
    const large = { ...request, Text: 'x\n'.repeat(1_200_000) };
    assert.match(await put('/api/v1/send', JSON.stringify(large), 'POST'), /^413 .*SLIM_MAX_SIZE/);
    assert.match(await put('/api/v1/messages', `{"x":"${'x'.repeat(1_100_000)}"}`), /^413 /);
    assert.deepEqual(((await catcher.get('/api/v1/messages')) as { total: number }).total, 0);
  });

  it('what a message puts into the index is bounded', async () => {
    const subject = Array.from({ length: 60 }, () => 'x'.repeat(99)).join('\r\n ');
    const to = Array.from({ length: 1500 }, (_, at) => `u${at}@y.test`).join(',\r\n ');
    const text = `first ${`${'x'.repeat(70)}\r\n`.repeat(500)} last\r\n`;
    await catcher.send('x@y.test', `Subject: ${subject}\r\nTo: ${to}\r\n\r\n${text}`);
    const { messages } = await mailpit.searchMessages({ query: 'first' });
    assert.deepEqual(
      [messages[0]?.Subject.length, messages[0]?.To.length, messages[0]?.Snippet.length],
      [1000, 1000, 250],
    );
    assert.equal((await mailpit.searchMessages({ query: 'last' })).messages_count, 0, 'behind 32 KiB');
  });

  it('the document of the API names every route', async () => {
    const { paths, openapi } = (await catcher.get('/api/openapi.json')) as {
      paths: Record<string, object>;
      openapi: string;
    };
    assert.equal(openapi, '3.1.0');
    for (const path of [
      '/health',
      '/api/v1/messages',
      '/api/v1/message/{ID}/part/{PartID}',
      '/view/{ID}.html',
      '/api/v1/send',
    ])
      assert.ok(path in paths, path);
    assert.deepEqual(Object.keys(paths['/api/v1/messages'] ?? {}), ['get', 'put', 'delete']);
  });

  it('events are for at most a hundred listeners, and not for other origins', async () => {
    const url = `${catcher.url.replace('http', 'ws')}/api/events`;
    const foreign = new WebSocket(url, { origin: 'http://evil.example' });
    const [error] = await new Promise<Error[]>(resolve => foreign.once('error', (...what) => resolve(what)));
    assert.match(error?.message ?? '', /403/);
    const open = (): Promise<WebSocket | undefined> =>
      new Promise(resolve => {
        const socket = new WebSocket(url);
        socket.once('open', () => resolve(socket)).once('error', () => resolve(undefined));
      });
    const sockets = await Promise.all(Array.from({ length: 101 }, open));
    assert.equal(sockets.filter(socket => socket !== undefined).length, 100);
    for (const socket of sockets) socket?.terminate();
  });

  it('a killed HTTP process loses nothing: not the mail before, not what comes meanwhile, not what is read', async () => {
    const { ID } = await mailpit.sendMessage({ ...request, Subject: 'before' });
    await mailpit.getMessageSummary(ID);
    const web = processesBelow(catcher.pid).find(({ command }) => command.includes('web/main.ts')) ?? assert.fail();
    process.kill(web.pid, 'SIGKILL');
    assert.match(await catcher.send('x@y.test', 'Subject: meanwhile\r\n\r\n'), /^250/, 'mail is taken without it');
    for (let tries = 0; tries < 100; tries += 1) {
      if (await fetch(`${catcher.url}/health`).catch(() => undefined)) break;
      await pause(100);
    }
    const { messages } = await mailpit.listMessages();
    assert.deepEqual(
      messages.map(each => [each.Subject, each.Read]),
      [
        ['meanwhile', false],
        ['before', true],
      ],
    );
    assert.deepEqual(messages[1]?.Tags, ['one', 'two']);
  });

  it('a session that breaks off leaves nothing', async () => {
    const client = await dial(catcher.smtp);
    await client.say('MAIL FROM:<a@b.test>');
    await client.say('RCPT TO:<c@d.test>');
    await client.say('DATA');
    client.send('Subject: half');
    client.socket.destroy();
    await pause(100);
    assert.deepEqual([catcher.files('new'), catcher.files('tmp'), catcher.files('envelopes')], [[], [], []]);
  });
});
