// What strangers and guessers try, against the bundle as it ships: relay forms of every alphabet, injections into
// headers and the log, names found out by words or by time, secrets in the log and the process list, modes of files.
// What needs root or other servers: security-image.test.ts.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { eventually } from '../integration/client.ts';
import { type Server, dial, openPlace } from './server.ts';
import { distance, middle } from './security-statistics.ts';
import { TlsClient } from './soak-client.ts';

let server: Server;
const place = await openPlace(after);
/** Where mail would go if we relayed: the relay of this server, and every MX that it is told of. */
let dialled = 0;
const sink = createServer(socket => void ((dialled += 1), socket.destroy()));
after(() => sink.close());
const secrets = { user: 'Usersecret7', relay: 'Relaysecret7', database: 'Databasesecret7', guess: 'Guessedsecret7' };

before(async () => {
  sink.listen(0, '127.0.0.1');
  await once(sink, 'listening');
  server = await place.start(
    {
      SLIM_USERS: `anton:${secrets.user} ${names.map(name => `${name}:${secrets.user}`).join(' ')}`,
      SLIM_RELAY_HOST: 'localhost',
      SLIM_RELAY_PORT: `${(sink.address() as AddressInfo).port}`,
      SLIM_RELAY_USER: 'relay',
      SLIM_RELAY_PASSWORD: secrets.relay,
      // Nobody answers there, and that is logged.
      DATABASE_URL: `postgresql://slim:${secrets.database}@127.0.0.1:1/slim`,
      SLIM_STORAGES: `anton@example.com=${join(place.folder, 'mail/anton')} *@example.com=${join(place.folder, 'mail/all')}`,
      SLIM_LOG_LEVEL: 'debug',
      SLIM_MAX_SESSIONS_PER_CLIENT: '0',
    },
    { prefix: ['sh', '-c', 'umask 0; exec "$@"', 'sh'] },
  );
  assert.match(server.log(), /"ready"/);
});

const names = Array.from({ length: 60 }, (_, at) => `user${at}`);
const lines = (): Record<string, unknown>[] =>
  server
    .log()
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line));
const files = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' }).map(name => join(folder, name));

// The ASCII forms are in test/integration/send-relaying.test.ts.
const foreign = [
  'x@PEER.EXAMPLE',
  'X%PEER.EXAMPLE@Example.COM.evil.example',
  'x@\u{43f}eer.example', // Cyrillic п
  'x@ex\u{430}mple.com', // Cyrillic а: not our domain, however it looks
  'x@example.\u{441}om',
  'x@xn--exmple-4nf.com',
  'x@example\u{2024}com', // one dot leader
  'x@example.com\u{3002}evil.example', // a full stop that IDNA takes for a dot
  'x@example.com\u{200b}.evil.example',
  'x@evil.example\u{3002}',
  'x@\u{ff11}\u{ff12}\u{ff17}.0.0.1', // full-width digits are an address to URLs
  'x@127.0.0.1',
  'x@2130706433',
  'x@0x7f.1',
  '@EXAMPLE.COM:x@peer.example',
  '@example.com,@example.com:x@peer.example',
  '"@example.com:x"@peer.example',
  '"x@example.com"@peer.example',
  'example.com!x@peer.example',
  'anton@example.com@peer.example',
  'x@peer.example(@example.com)',
  'x@[example.com]',
  'x@[IPv6:::ffff:127.0.0.1]',
];
/** Ours, although they do not look so: taken, and never sent on. */
const ours = [
  'x%peer.example@example.com',
  'x%peer.example%example.com@EXAMPLE.COM',
  'peer.example!x@example.com',
  '"x@peer.example"@example.com',
  '"<x@peer.example>"@example.com',
  'x@\u{ff45}xample.com', // full-width e
  'x@example\u{3002}com',
  '@peer.example:x@example.com',
];

test('no form of an address, in any alphabet, makes a stranger’s mail leave', async () => {
  for (const [forms, wanted] of [
    [foreign, /^5\d\d 5\./],
    [ours, /^250 /],
  ] as const)
    for (const form of forms)
      for (const from of ['', 'anton@example.com', 'x@peer.example']) {
        const client = await dial(server.port);
        assert.match(await client.say(`MAIL FROM:<${from}> SMTPUTF8 BODY=8BITMIME`), /^250/);
        assert.match(await client.say(`RCPT TO:<${form}>`), wanted, `${form} from <${from}>`);
        if (wanted.test('250 ')) {
          await client.say('DATA');
          assert.match(await client.say('Subject: ours\r\n\r\n.'), /^250 2\.0\.0 Delivered/, form);
        }
        client.socket.destroy();
      }
  assert.deepEqual(readdirSync(join(place.folder, 'data/queue')), []);
  assert.equal(dialled, 0);
});

/** Each ends something somewhere: lines, fields, JSON, terminals' patience, SQL, format strings, HTML. */
const evil = [
  '\r',
  '\n',
  '\0',
  '\x1b[2J',
  '\x7f',
  '\u{85}',
  '\u{9b}2J',
  '\u{2028}',
  '\u{202e}',
  '"',
  '\\"',
  '\\',
  "'",
  '%n%s',
  '${x}',
  '</a>',
  '{"msg":"x"}',
  "';DROP TABLE smtp;--",
];
/** As they are tried, in every argument that a client gives. */
const lures = (it: string): string[] => [
  `EHLO a${it}b`,
  `HELO ${it}`,
  `MAIL FROM:<a${it}b@example.net> SMTPUTF8`,
  `MAIL FROM:<"a${it}b"@example.net> SMTPUTF8`,
  `MAIL FROM:<a@b${it}c.example> SMTPUTF8`,
  `MAIL FROM:<a@example.net> ENVID=a${it}b`,
  `MAIL FROM:<a@example.net> X${it}=1`,
  `RCPT TO:<"a${it}b"@example.com> NOTIFY=NEVER`,
  `RCPT TO:<a${it}b@example.com> ORCPT=rfc822;a${it}b`,
  `RCPT TO:<a@example.com> NOTIFY=${it}`,
  `VRFY a${it}b`,
  `AUTH PLAIN ${it}`,
  `${it}`,
];

test('nothing that a client says makes a line in a header or in the log, or anything but a reply', async () => {
  const marks: string[] = [];
  for (const [index, it] of evil.entries())
    for (const [at, lure] of lures(it).entries()) {
      const client = await dial(server.port);
      const mark = `lure-${index}-${at}`;
      marks.push(mark);
      const isEnvelope = /^(?:MAIL|RCPT)/.test(lure);
      if (lure.startsWith('RCPT')) await client.say('MAIL FROM:<a@example.net> SMTPUTF8 BODY=8BITMIME');
      assert.match(await client.say(lure), /^[2-5]\d\d |^closed$/, JSON.stringify(lure));
      if (isEnvelope) {
        // Whatever was taken of it now goes into a header.
        await client.say('RCPT TO:<anton@example.com>');
        if ((await client.say('DATA')).startsWith('354')) await client.say(`Subject: ${mark}\r\n\r\nx\r\n.`);
      }
      client.socket.destroy();
    }
  const mails = files(join(place.folder, 'mail')).filter(path => /\/new\/./.test(path));
  const kept = mails.map(path => readFileSync(path, 'utf8')).filter(mail => mail.includes('Subject: lure-'));
  assert.ok(kept.length > 50, `only ${kept.length} went through`);
  for (const mail of kept) {
    // U+2028 and U+2029 are line ends to much software.
    assert.doesNotMatch(mail, /[^\P{Cc}\n\t]|[\p{Zl}\p{Zp}]/u);
    // Lines of ours, folded, and then what was sent.
    assert.match(
      mail,
      /^Return-Path: <.*>\n(?:Delivered-To: .*\n)*(?:Authentication-Results: mx\.example\.com;\n(?:\t.*\n)+)?Received: from [\w.?:[\]-]+ \(\[127\.0\.0\.1\]\)\n\tby mx\.example\.com with \w+\n\tid \w+(?:\n\tfor <.*>)?; .*\+0000\nSubject: lure-\d+-\d+\n\nx\n$/,
    );
  }
  const ended = (): number => lines().filter(({ msg }) => msg === 'session ended').length;
  await eventually('all sessions are logged', async () => ended() >= marks.length, 5000);
  // One JSON object a line, no octet that a terminal would obey, and only sentences of ours.
  assert.doesNotMatch(server.log(), /[^\P{Cc}\n]/u);
  const sentences = new Set(lines().map(({ msg }) => String(msg)));
  for (const sentence of sentences) assert.match(sentence, /^[\w '’`:,;()@*.?%/-]+$/u);
  assert.ok(!sentences.has('x'));
});

let clients = 0;
/** A failed login, from an address that has not failed before; what was said, and after how many milliseconds. */
async function guess(name: string, mechanism: 'PLAIN' | 'LOGIN'): Promise<{ words: string; ms: number }> {
  clients += 1;
  const client = await TlsClient.open(server.submissionPort, { from: `127.1.${clients >> 8}.${clients & 255}` });
  const base64 = (text: string): string => Buffer.from(text).toString('base64');
  const said: string[] = [];
  if (mechanism === 'LOGIN') for (const line of ['AUTH LOGIN', base64(name)]) said.push(await client.say(line));
  const last = mechanism === 'LOGIN' ? base64(secrets.guess) : `AUTH PLAIN ${base64(`\0${name}\0${secrets.guess}`)}`;
  const startedAt = performance.now();
  said.push(await client.say(last));
  const ms = performance.now() - startedAt;
  client.close();
  return { words: said.join('\n'), ms };
}

test('a login that exists cannot be told from one that does not, by words or by time', async t => {
  const jobs = names.flatMap(name => [name, `nobody-${name}`]);
  const outcomes = new Map<string, { words: string; ms: number }>();
  // Twelve side by side, each pair of names next to each other: what else the machine does meets both alike.
  const queue = jobs.entries();
  const lane = async (): Promise<void> => {
    for (const [at, name] of queue) outcomes.set(name, await guess(name, at % 4 < 2 ? 'PLAIN' : 'LOGIN'));
  };
  await Promise.all(Array.from({ length: 12 }, lane));
  const of = (list: readonly string[]) => list.map(name => outcomes.get(name) ?? assert.fail(name));
  const [known, unknown] = [of(names), of(names.map(name => `nobody-${name}`))];
  assert.equal(new Set([...known, ...unknown].map(({ words }) => words.split('\n').at(-1))).size, 1);
  assert.deepEqual([...new Set(known.map(({ words }) => words))], [...new Set(unknown.map(({ words }) => words))]);
  const [a, b] = [known.map(({ ms }) => ms), unknown.map(({ ms }) => ms)];
  const z = distance(a, b);
  t.diagnostic(
    `known ${middle(a).toFixed(1)} ms, unknown ${middle(b).toFixed(1)} ms, ${z.toFixed(2)} standard deviations apart`,
  );
  // Chance alone gets there once in 15,000 runs.
  assert.ok(Math.abs(z) < 4, `${z} standard deviations apart: ${a.join()} and ${b.join()}`);
});

test('SCRAM asks everyone alike, and VRFY and EXPN know nobody', async () => {
  const client = await TlsClient.open(server.submissionPort, { from: '127.2.0.1' });
  const shapes = new Set<string>();
  for (const name of ['anton', 'nobody', 'anton', 'nobody2']) {
    const reply = await client.say(`AUTH SCRAM-SHA-256 ${Buffer.from(`n,,n=${name},r=abcdef`).toString('base64')}`);
    const challenge = Buffer.from(reply.slice(4), 'base64').toString();
    shapes.add(challenge.replace(/^r=abcdef[0-9a-f]{24},s=[\w+/]{22}==,/, ''));
    await client.say('*');
  }
  assert.deepEqual([...shapes], ['i=4096']);
  for (const verb of ['VRFY', 'EXPN']) {
    const replies = [
      await client.say(`${verb} anton@example.com`),
      await client.say(`${verb} nobody@elsewhere.example`),
    ];
    assert.equal(new Set(replies).size, 1);
  }
  client.close();
});

test('secrets are in no line of the log at level debug, in no argument, and in no file that others may read', async () => {
  const client = await TlsClient.open(server.submissionPort, { from: '127.3.0.1' });
  const token = (password: string): string => Buffer.from(`\0anton\0${password}`).toString('base64');
  for (const line of [
    `AUTH PLAIN ${token(secrets.guess)}`,
    `AUTH PLAIN ${token(secrets.guess)}x`,
    `AUTH NONE ${token(secrets.guess)}`,
    `AUTH PLAIN ${token(secrets.user)}`,
  ])
    await client.say(line);
  assert.match(await client.say('MAIL FROM:<anton@example.com>'), /^250/);
  // To the relay, which wants no TLS of us: that is logged, too.
  assert.match(await client.say('RCPT TO:<x@peer.example>'), /^250/);
  await client.say('DATA');
  assert.match(await client.say('Subject: out\r\n\r\nBodysecret7\r\n.'), /^250 2\.0\.0 Queued/);
  client.close();
  await eventually('the relay was tried', async () => dialled > 0, 5000);
  await eventually(
    'the end of the session',
    async () => lines().some(({ login, msg }) => login === 'anton' && msg === 'session ended'),
    5000,
  );
  const hidden = [...Object.values(secrets), 'Bodysecret7', 'StoredKey', 'SCRAM-SHA-256$'];
  const shown = [server.log(), readFileSync(`/proc/${server.process.pid}/cmdline`, 'latin1')].join('\n');
  for (const secret of [...hidden, ...hidden.map(each => Buffer.from(each).toString('base64').slice(0, -3))])
    assert.ok(!shown.includes(secret), secret);
  assert.equal(statSync(`/proc/${server.process.pid}/environ`).mode & 0o077, 0);
});

test('every file and folder is its owner’s alone, whatever the umask was', () => {
  const all = ['data', 'mail'].flatMap(name => [join(place.folder, name), ...files(join(place.folder, name))]);
  assert.ok(all.length > 50);
  for (const path of all) assert.equal(statSync(path).mode & 0o077, 0, path);
});
