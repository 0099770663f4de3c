// The parts of capture that are functions: failures on demand, chaos, search, what a receiver would hold against a
// message, and where captured mail is kept.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, it } from 'node:test';
import { Chaos, parseTriggers } from '../../src/capture/chaos.ts';
import { Keeper } from '../../src/capture/keeper.ts';
import { everyLogin } from '../../src/capture/logins.ts';
import { Greylist, onDemand } from '../../src/capture/on-demand.ts';
import { parseSend } from '../../src/capture/send.ts';
import type { Captured, Change } from '../../src/mail/captured.ts';
import { inMemory } from '../../src/mail/message.ts';
import type { Log } from '../../src/system/log.ts';
import { findings } from '../../src/web/mail/checks.ts';
import type { Item } from '../../src/web/mail/mailbox.ts';
import { parseMail, readable } from '../../src/web/mail/parse.ts';
import { parseSearch } from '../../src/web/mail/search.ts';
import { headers } from '../../src/web/mail/shapes.ts';

const facts = (more: Partial<Captured> = {}): Captured => ({
  id: 'm1a2b3c4d5e6f7a8b9',
  from: 'app@example.com',
  recipients: ['anton@example.com'],
  helo: 'client.example',
  client: '192.0.2.1',
  isUtf8: false,
  receivedAt: Date.UTC(2026, 10, 29, 12),
  sizeBytes: 100,
  ...more,
});

describe('an address', () => {
  const cases: readonly (readonly [string, ReturnType<typeof onDemand>])[] = [
    ['reply-451', { kind: 'reply', code: 451 }],
    ['Reply-599', { kind: 'reply', code: 599 }],
    ['reply-451+anything', { kind: 'reply', code: 451 }],
    ['data-552', { kind: 'data', code: 552 }],
    ['slow-5s', { kind: 'slow', ms: 5000 }],
    ['slow-60s', { kind: 'slow', ms: 60_000 }],
    ['drop', { kind: 'drop' }],
    ['greylist+x', { kind: 'greylist' }],
    ['reply-250', undefined],
    ['reply-600', undefined],
    ['reply-4511', undefined],
    ['slow-61s', undefined],
    ['slow-5', undefined],
    ['dropped', undefined],
    ['anton', undefined],
    ['', undefined],
  ];
  for (const [local, wanted] of cases)
    it(`${local}@ asks for ${JSON.stringify(wanted)}`, () => assert.deepEqual(onDemand(local), wanted));

  it('greylist@ defers a sender and recipient once, then takes it once, and so on', () => {
    const greylist = new Greylist();
    const tries = [1, 2, 3, 4].map(() => greylist.defers('a@x.test', 'greylist@y.test'));
    assert.deepEqual(tries, [true, false, true, false]);
    assert.equal(greylist.defers('a@x.test', 'greylist@y.test'), true);
    assert.equal(greylist.defers('b@x.test', 'greylist@y.test'), true, 'another sender is another pair');
    assert.equal(greylist.defers('A@x.test', 'Greylist@y.test'), false);
  });

  it('greylist@ forgets the oldest of ten thousand', () => {
    const greylist = new Greylist();
    for (let at = 0; at <= 10_000; at += 1) greylist.defers(`a${at}@x.test`, 'greylist@y.test');
    assert.equal(greylist.defers('a0@x.test', 'greylist@y.test'), true, 'forgotten');
    assert.equal(greylist.defers('a9999@x.test', 'greylist@y.test'), false);
  });
});

describe('chaos', () => {
  const off = { ErrorCode: 451, Probability: 0 };
  it('is off for what is left out', () => {
    const wanted = { Sender: { ErrorCode: 550, Probability: 100 } };
    assert.deepEqual(parseTriggers(wanted), { ...wanted, Recipient: off, Authentication: off });
    assert.deepEqual(parseTriggers(undefined), { Sender: off, Recipient: off, Authentication: off });
  });
  it('says what is wrong', () => {
    assert.throws(
      () => parseTriggers({ Sender: { ErrorCode: 250, Probability: 1 } }),
      /^Error: Sender: ErrorCode must be/,
    );
    assert.throws(
      () => parseTriggers({ Recipient: { ErrorCode: 450, Probability: 101 } }),
      /Recipient: Probability must/,
    );
    assert.throws(
      () => parseTriggers({ Recipient: { ErrorCode: '450', Probability: 1 } }),
      /Recipient: ErrorCode must/,
    );
  });
  it('strikes as often as its probability says', () => {
    let drawn = 0;
    const chaos = new Chaos({ hex: () => '', below: () => drawn });
    chaos.triggers = parseTriggers({ Sender: { ErrorCode: 550, Probability: 30 } });
    const strikes = [0, 29, 30, 99].map(each => {
      drawn = each;
      return chaos.strikes('Sender');
    });
    assert.deepEqual(strikes, [550, 550, undefined, undefined]);
    drawn = 0;
    assert.equal(chaos.strikes('Recipient'), undefined);
  });
});

describe('every login', () => {
  const login = async (mechanism: string, ...responses: (string | undefined)[]) => {
    const exchange = everyLogin('example.com').begin(mechanism, '', () => undefined);
    const replies = [];
    for (const response of responses)
      replies.push(await exchange.step(response === undefined ? undefined : Buffer.from(response)));
    return { codes: replies.map(({ code }) => code), login: exchange.login };
  };
  it('is right by PLAIN', async () => {
    const { codes, login: found } = await login('PLAIN', '\0anton@other.test\0whatever');
    assert.deepEqual(codes, [235]);
    assert.deepEqual(found, { name: 'anton@other.test', address: { local: 'anton', domain: 'other.test' } });
  });
  it('is right by LOGIN, where a bare name stands at the first domain', async () => {
    const { codes, login: found } = await login('LOGIN', undefined, 'Anton', '');
    assert.deepEqual(codes, [334, 334, 235]);
    assert.deepEqual(found, { name: 'Anton', address: { local: 'anton', domain: 'example.com' } });
  });
  it('is right for a name that can be no address', async () =>
    assert.equal((await login('PLAIN', '\0a@b c@\0x')).login?.name, 'a@b c@'));
  it('is 501 where the response is malformed', async () => {
    const { codes, login: found } = await login('PLAIN', 'anton');
    assert.deepEqual([codes, found], [[501], undefined]);
  });
});

describe('a message from the HTTP process', () => {
  const good = { from: '', recipients: ['a@b.test'], client: '::1', tags: [], octets: new Uint8Array([65]) };
  it('is taken as it is', () => assert.equal(parseSend({ ...good, id: '../x', evil: 1 }).octets.toString(), 'A'));
  it('is not believed', () => {
    for (const wrong of [
      { from: 1 },
      { recipients: 'a' },
      { recipients: [1] },
      { tags: [{}] },
      { octets: 'A' },
      { client: 'x'.repeat(2000) },
    ])
      assert.throws(() => parseSend({ ...good, ...wrong }), JSON.stringify(wrong));
    assert.throws(() => parseSend(undefined));
  });
});

describe('where captured mail is kept', () => {
  const lines: string[] = [];
  const note = (_: unknown, text: string): void => void lines.push(text);
  const log: Log = { debug: note, info: note, warn: note, error: note };
  const id = (at: number): string => `m1a2b3c4d5e6f7${String(at).padStart(4, '0')}`;
  function open(t: TestContext, keep = 3, folder = mkdtempSync(join(tmpdir(), 'keeper-'))) {
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    const changes: Change[] = [];
    const keeper = new Keeper({ folder, keep, onChange: change => changes.push(change), log });
    keeper.open();
    const put = async (at: number): Promise<void> => {
      const { sizeBytes: _, ...more } = facts({ id: id(at) });
      const prepared = await keeper.prepare(more, inMemory(Buffer.from(`Subject: ${at}\n\nhello\n`)));
      await prepared.commit();
    };
    const files = (name: string): readonly string[] => readdirSync(join(folder, name)).toSorted();
    return { keeper, folder, changes, put, files };
  }

  it('a message is whole and has its envelope beside it', async t => {
    const { keeper, put, files, folder, changes } = open(t);
    await put(1);
    assert.deepEqual(files('new'), [id(1)]);
    assert.deepEqual(files('tmp'), []);
    assert.equal(readFileSync(keeper.path(id(1)), 'utf8'), 'Subject: 1\n\nhello\n');
    const envelope = JSON.parse(readFileSync(join(folder, 'envelopes', `${id(1)}.json`), 'utf8'));
    assert.equal(envelope.from, 'app@example.com');
    assert.equal(envelope.sizeBytes, 18);
    assert.deepEqual(
      changes.map(({ kind }) => kind),
      ['arrived'],
    );
  });

  it('what is prepared and not committed is not there, and leaves nothing', async t => {
    const { keeper, files, changes } = open(t);
    const { sizeBytes: _, ...more } = facts();
    const prepared = await keeper.prepare(more, inMemory(Buffer.from('x')));
    assert.deepEqual([files('new'), keeper.list(), changes], [[], [], []]);
    await prepared.abort();
    assert.deepEqual([files('new'), files('tmp'), files('envelopes')], [[], [], []]);
  });

  it('the newest stay; what others have put there is never touched', async t => {
    const { keeper, put, files, folder, changes } = open(t, 2);
    writeFileSync(join(folder, 'new', 'foreign'), 'mine');
    writeFileSync(join(folder, 'new', id(0)), 'mine too, though it has such a name');
    for (const at of [1, 2, 3]) await put(at);
    assert.deepEqual(files('new'), ['foreign', id(0), id(2), id(3)].toSorted());
    assert.deepEqual(files('envelopes'), [`${id(2)}.json`, `${id(3)}.json`]);
    assert.deepEqual(changes.at(-1), { kind: 'removed', ids: [id(1)], why: 'pruned' });
    await keeper.remove('all');
    assert.deepEqual(files('new'), ['foreign', id(0)].toSorted());
    await keeper.remove(['foreign', id(0), '../new/foreign']);
    assert.deepEqual(files('new'), ['foreign', id(0)].toSorted(), 'ids that it does not know do not count');
  });

  it('a new start finds what is there, in its order, and forgets what has gone', async t => {
    const first = open(t, 5);
    for (const at of [2, 1, 3]) await first.put(at);
    rmSync(first.keeper.path(id(3)));
    writeFileSync(join(first.folder, 'envelopes', `${id(4)}.json`), 'torn');
    const again = open(t, 5, first.folder);
    assert.deepEqual(
      again.keeper.list().map(({ mail }) => mail.id),
      [id(1), id(2)],
    );
    assert.equal(existsSync(join(first.folder, 'envelopes', `${id(3)}.json`)), false);
    assert.deepEqual(again.files('new'), [id(1), id(2)]);
    assert.ok(lines.includes('the envelope of a captured message cannot be read'));
    const fewer = open(t, 1, first.folder);
    assert.deepEqual(fewer.files('new'), [id(2)]);
  });

  it('a new start removes what a crash has left in tmp/, and nothing else there', async t => {
    const first = open(t);
    await first.put(1);
    const { sizeBytes: _, ...more } = facts({ id: id(2) });
    await first.keeper.prepare(more, inMemory(Buffer.from('prepared and never committed')));
    writeFileSync(join(first.folder, 'tmp', id(3)), 'a large message of which half has come');
    writeFileSync(join(first.folder, 'tmp', '1764374400.1.host'), 'of another program');
    const again = open(t, 3, first.folder);
    assert.deepEqual(again.files('tmp'), ['1764374400.1.host']);
    assert.deepEqual(again.files('envelopes'), [`${id(1)}.json`]);
    assert.deepEqual(again.files('new'), [id(1)]);
  });

  it('marks are for messages that are there', async t => {
    const { keeper, put, changes } = open(t);
    await put(1);
    await put(2);
    keeper.mark([id(1), 'nobody'], { isRead: true });
    keeper.mark('all', { tags: ['a'] });
    assert.deepEqual(
      keeper.list().map(({ isRead, tags }) => [isRead, tags]),
      [
        [true, ['a']],
        [false, ['a']],
      ],
    );
    assert.deepEqual(changes.slice(-2), [
      { kind: 'marked', ids: [id(1)], isRead: true },
      { kind: 'marked', ids: [id(1), id(2)], tags: ['a'] },
    ]);
  });

  it('where the folder is gone, nothing is taken', async t => {
    const { keeper, folder } = open(t);
    rmSync(folder, { recursive: true });
    const { sizeBytes: _, ...more } = facts();
    await assert.rejects(keeper.prepare(more, inMemory(Buffer.from('x'))), { code: 'ENOENT' });
    mkdirSync(folder);
  });
});

describe('a search', () => {
  const person = (Name: string, Address: string) => ({ Name, Address });
  const item: Item = {
    mail: facts(),
    isRead: false,
    tags: ['Order', 'host-1'],
    summary: {
      from: person('Anna Müller', 'anna@shop.example'),
      to: [person('Anton', 'anton@example.com')],
      cc: [person('', 'copy@example.com')],
      bcc: [person('', 'hidden@example.com')],
      replyTo: [person('', 'reply@shop.example')],
      subject: 'Your Order 42 is “on its way”',
      messageId: '1.2@shop.example',
      snippet: '',
      attachments: 1,
      inline: 0,
    },
    searched: 'dear anton, here is the invoice: https://shop.example/42',
  };
  const found = [
    '',
    'invoice',
    'INVOICE dear',
    '"dear anton"',
    'to:anton',
    'to:"anton <anton@"',
    'from:müller',
    'from:shop.example',
    'cc:copy',
    'bcc:hidden',
    'reply-to:reply',
    'addressed:hidden',
    'subject:order',
    'subject:"order 42"',
    'message-id:1.2@shop',
    'tag:order',
    'tag:"host-1"',
    'is:unread',
    '!is:read',
    'is:tagged',
    'has:attachment',
    '!has:inline',
    '!nobody',
    '-nobody',
    'anna',
    'subject:42 !from:bob is:unread',
    'https://shop.example/42',
    'before:2026/11/30',
    'after:2026-11-29',
    'after:"2026-11-29 11:59:59"',
    'before:nonsense',
    '42',
  ];
  for (const query of found) it(`finds it by ${query}`, () => assert.equal(parseSearch(query)(item), true));
  const notFound = [
    'nobody',
    '"anton dear"',
    'to:anna',
    '!invoice',
    '-from:shop',
    'is:read',
    '!is:tagged',
    '!has:attachment',
    'has:inline',
    'tag:ord',
    'before:2026/11/29',
    'after:2026/11/30',
    'invoice nobody',
    'nofield:anton',
  ];
  for (const query of notFound) it(`does not find it by ${query}`, () => assert.equal(parseSearch(query)(item), false));

  it('knows the time zone of its dates', () => {
    const at = (query: string, zone?: string): boolean => parseSearch(query, zone)(item);
    // 12:00 UTC is 21:00 in Tokyo and 07:00 in New York.
    assert.equal(at('after:"2026-11-29 20:59"', 'Asia/Tokyo'), true);
    assert.equal(at('after:"2026-11-29 21:01"', 'Asia/Tokyo'), false);
    assert.equal(at('before:"2026-11-29 06:59"', 'America/New_York'), false);
    assert.equal(at('before:"2026-11-29 07:01"', 'America/New_York'), true);
    assert.equal(at('after:"2026-11-29 12:01"', 'No/Where'), false, 'UTC');
  });

  it('has an end, whatever is asked', () => {
    const before = process.hrtime.bigint();
    parseSearch(`${'"x '.repeat(1_000_000)}`)(item);
    parseSearch('a:'.repeat(1_000_000))(item);
    assert.ok(process.hrtime.bigint() - before < 500_000_000n);
  });
});

describe('a receiver', () => {
  const good = [
    'From: Anna <anna@example.com>',
    'To: anton@example.com',
    'Subject: hello',
    'Date: Sun, 29 Nov 2026 12:00:00 +0000',
    'Message-ID: <1@example.com>',
  ];
  const multipart = [
    ...good,
    'MIME-Version: 1.0',
    'Content-Type: multipart/alternative; boundary="b"',
    '',
    '--b',
    'Content-Type: text/plain',
    '',
    'hello',
    '--b',
    'Content-Type: text/html',
    '',
    '<p>hello</p>',
    '--b--',
    '',
  ];
  const without = (name: string) => good.filter(line => !line.startsWith(name));
  const body = ['', 'hello', ''];
  const cases: readonly (readonly [string, readonly string[], readonly string[], Partial<Captured>?])[] = [
    ['nothing against a good message', [...good, ...body], []],
    ['nothing against a good multipart message', multipart, []],
    ['no Date', [...without('Date'), ...body], ['date']],
    ['a Date that is none', [...without('Date'), 'Date: yesterday', ...body], ['date']],
    ['no Message-ID', [...without('Message-ID'), ...body], ['message-id']],
    ['no From', [...without('From'), ...body], ['from']],
    ['two From', [...good, 'From: bob@example.com', ...body], ['from']],
    ['a line of 999 octets', [...good, '', 'x'.repeat(999), ''], ['long-line']],
    ['no line of 998 octets', [...good, '', 'x'.repeat(998), ''], []],
    ['undeclared 8-bit', [...good, '', 'über', ''], ['8-bit']],
    [
      'no declared 8-bit',
      [
        ...good,
        'MIME-Version: 1.0',
        'Content-Type: text/plain; charset=utf-8',
        'Content-Transfer-Encoding: 8bit',
        '',
        'über',
        '',
      ],
      [],
    ],
    ['8-bit in the header', [...without('Subject'), 'Subject: über', ...body], ['8-bit']],
    ['no 8-bit in the header with SMTPUTF8', [...without('Subject'), 'Subject: über', ...body], [], { isUtf8: true }],
    ['no MIME-Version', [...good, 'Content-Type: text/plain', ...body], ['mime']],
    [
      'a boundary that never comes',
      [...good, 'MIME-Version: 1.0', 'Content-Type: multipart/mixed; boundary=c', ...body],
      ['mime'],
    ],
    ['a boundary that does not end', multipart.slice(0, -2), ['mime']],
    ['multipart without boundary', [...good, 'MIME-Version: 1.0', 'Content-Type: multipart/mixed', ...body], ['mime']],
    [
      'HTML without text',
      [...good, 'MIME-Version: 1.0', 'Content-Type: text/html', '', '<p>hello</p>', ''],
      ['html-only'],
    ],
    [
      'List-Unsubscribe without one click',
      [...good, 'List-Unsubscribe: <mailto:x@example.com>', ...body],
      ['list-unsubscribe'],
    ],
    [
      'nothing against one click',
      [
        ...good,
        'List-Unsubscribe: <https://example.com/u>',
        'List-Unsubscribe-Post: List-Unsubscribe=One-Click',
        ...body,
      ],
      [],
    ],
    [
      'a From that is not the login’s',
      [...good, ...body],
      ['from-login'],
      { login: 'bob', loginAddress: 'bob@example.com' },
    ],
    [
      'nothing against a From of the login',
      [...good, ...body],
      [],
      { login: 'Anna', loginAddress: 'anna@example.com' },
    ],
  ];
  for (const [name, lines, wanted, more] of cases)
    it(`holds ${name}`, async () => {
      const octets = Buffer.from(lines.join('\n'));
      const found = findings({ octets, parsed: await parseMail(octets) }, facts(more));
      assert.deepEqual(
        found.map(({ Name }) => Name),
        wanted,
      );
      for (const { Text } of found) assert.match(Text, /^[A-Z].*[.]$/);
    });
});

describe('a parsed message', () => {
  it('has its fields by name, in the way of Mailpit', async () => {
    const parsed = await parseMail(Buffer.from('Received: 1\nX-A: b\nRECEIVED: 2\nMessage-ID: <x>\n\n'));
    assert.deepEqual(headers(parsed), { 'Message-Id': ['<x>'], Received: ['1', '2'], 'X-A': ['b'] });
  });
  it('is readable, also where it is HTML alone', async () => {
    const html =
      'Content-Type: text/html\n\n<html><head><title>t</title><style>p{}</style></head><p>Tom &amp; <b>Anna</b><script>x</script>';
    assert.match(readable(await parseMail(Buffer.from(html))).replaceAll(/\s+/g, ' '), /^ ?Tom & Anna ?$/);
  });
});
