// A server that captures, as a program meets it that sends: what is taken, how it fails on demand, what is left alone.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, test } from 'node:test';
import { createTransport } from 'nodemailer';
import { dial, eventually } from './client.ts';
import { catcherPort } from '../../src/config/sockets.ts';
import { type Catcher, startCatcher } from './capture-lib.ts';
import { openStage } from './compose-lib.ts';

const undo: (() => unknown)[] = [];
const suite = { after: (act: () => unknown): void => void undo.push(act) } as Parameters<typeof startCatcher>[0];

describe('SLIM_CAPTURE=on', () => {
  let catcher: Catcher;
  before(async () => (catcher = await startCatcher(suite)));
  after(async () => {
    for (const act of undo.splice(0)) await act();
  });

  it('says so in the greeting and in the log', async () => {
    const client = await dial(catcher.smtp);
    client.socket.destroy();
    const { default: net } = await import('node:net');
    const socket = net.connect(catcher.smtp, '127.0.0.1');
    const greeting = await new Promise<string>(resolve => socket.once('data', piece => resolve(piece.toString())));
    socket.destroy();
    assert.match(greeting, /^220 \S+ ESMTP SlimSMTP \(captures all mail, sends none\)\r\n$/);
    assert.match(catcher.log(), /SLIM_CAPTURE: every message is taken and kept here, nothing is sent/);
  });

  it('takes mail for everybody, and keeps it with its envelope', async () => {
    const reply = await catcher.send('whoever@anywhere.example', 'Subject: for all\r\n\r\nhello\r\n');
    const [, id = ''] = /^250 2\.0\.0 Delivered as (\w+)$/.exec(reply) ?? assert.fail(reply);
    const message = readFileSync(join(catcher.captured, 'new', id), 'utf8');
    assert.match(
      message,
      /^Return-Path: <app@example\.com>\nReceived: from .*\n.*\n.*\n.*\nSubject: for all\n\nhello\n$/,
    );
    const envelope = JSON.parse(readFileSync(join(catcher.captured, 'envelopes', `${id}.json`), 'utf8'));
    const { receivedAt, ...rest } = envelope;
    assert.ok(Math.abs(Date.now() - receivedAt) < 60_000);
    assert.deepEqual(rest, {
      id,
      from: 'app@example.com',
      recipients: ['whoever@anywhere.example'],
      helo: 'test.example.net',
      client: '127.0.0.1',
      isUtf8: false,
      sizeBytes: Buffer.byteLength(message),
    });
  });

  it('takes an address literal, a null sender and a thousand recipients, once', async () => {
    const already = catcher.files('new').length;
    const client = await dial(catcher.smtp);
    await client.say('MAIL FROM:<>');
    for (let at = 0; at < 999; at += 1) assert.match(await client.say(`RCPT TO:<u${at}@x.test>`), /^250/);
    assert.match(await client.say('RCPT TO:<anton@[192.0.2.1]>'), /^250/);
    assert.match(await client.say('DATA'), /^354/);
    client.send('Subject: many\r\n\r\n.\r\n');
    assert.match(await client.say(), /^250/);
    client.socket.destroy();
    assert.equal(catcher.files('new').length, already + 1);
  });

  it('keeps a large message without reading it into memory first', async () => {
    const size = 3_000_000;
    const reply = await catcher.send('big@x.test', `Subject: big\r\n\r\n${`${'x'.repeat(98)}\r\n`.repeat(size / 100)}`);
    const id = reply.split(' ').at(-1) ?? '';
    assert.ok(readFileSync(join(catcher.captured, 'new', id)).length > size * 0.98);
    // The file that it came into goes behind the reply.
    await eventually('tmp/ is empty', async () => catcher.files('tmp').length === 0, 5000);
  });

  it('fails as the address says', async () => {
    assert.equal(await catcher.send('reply-451@any.test'), '451 4.0.0 On demand of the address');
    assert.equal(await catcher.send('reply-550+x@any.test'), '550 5.0.0 On demand of the address');
    const already = catcher.files('new').length;
    assert.equal(await catcher.send('data-552@any.test'), '552 5.0.0 On demand of a recipient');
    assert.equal(catcher.files('new').length, already, 'it is not kept');
    assert.equal(await catcher.send('drop@any.test'), 'closed');
    assert.equal(await catcher.send('greylist+1@any.test'), '451 4.0.0 Greylisted on demand, try again');
    assert.match(await catcher.send('greylist+1@any.test'), /^250/);
    const startedAt = Date.now();
    assert.match(await catcher.send('slow-1s@any.test'), /^250/);
    assert.ok(Date.now() - startedAt >= 1000);
  });

  it('a session that is slow on demand holds up nobody else', async () => {
    const slow = catcher.send('slow-3s@any.test');
    const startedAt = Date.now();
    await catcher.send('quick@any.test');
    assert.ok(Date.now() - startedAt < 2000);
    await slow;
  });

  it('every login is right over TLS, and only PLAIN and LOGIN are offered', async () => {
    const auth = { user: 'nobody@shop.example', pass: 'wrong' };
    const transport = createTransport({
      host: '127.0.0.1',
      port: catcher.submission,
      auth,
      tls: { rejectUnauthorized: false },
    });
    const { response } = await transport.sendMail({
      from: 'app@shop.example',
      to: 'x@y.test',
      subject: 'with a login',
      text: 'x',
    });
    const envelope = JSON.parse(
      readFileSync(join(catcher.captured, 'envelopes', `${response.split(' ').at(-1)}.json`), 'utf8'),
    );
    assert.equal(envelope.login, 'nobody@shop.example');
    assert.equal(envelope.loginAddress, 'nobody@shop.example');
    assert.match(envelope.tls, /^TLSv1\.3:/);
    transport.close();
  });

  it('answers the command line: what it would do with an address, any login, and that there is no queue', async () => {
    const { execFile } = await import('node:child_process');
    const slimsmtp = (...words: string[]): Promise<string> =>
      new Promise(resolve => {
        const env = {
          PATH: process.env['PATH'],
          SLIM_CAPTURE: 'on',
          SLIM_DATA: join(catcher.folder, 'data'),
          SLIM_MAIL_ROOT: join(catcher.folder, 'mail'),
        };
        const script = new URL('../../src/cli.ts', import.meta.url).pathname;
        const child = execFile(process.execPath, [script, ...words], { env, cwd: catcher.folder }, (_, out, err) =>
          resolve(out + err),
        );
        child.stdin?.end('secret\n');
      });
    assert.match(await slimsmtp('resolve', 'x@y.test'), /SLIM_CAPTURE: x@y\.test is kept in .*captured/);
    assert.match(await slimsmtp('auth', 'anybody'), /this login works/);
    assert.match(await slimsmtp('queue', 'list'), /SLIM_CAPTURE is on: mail is captured, and there is no queue/);
    assert.match(await slimsmtp('health'), /healthy/);
  });
});

test('the port of catchers has no STARTTLS, and logins in clear', async t => {
  // In a container no other program has port 1025.
  const server = await openStage(t.after.bind(t)).server({
    environment: { SLIM_CAPTURE: 'on', SLIM_DOMAINS: 'capture.test' },
    prepare: container => container.withExposedPorts(25, catcherPort),
  });
  const port = server.getMappedPort(catcherPort);
  const extensions = async (at: number): Promise<string> => {
    const { default: net } = await import('node:net');
    const socket = net.connect(at, '127.0.0.1');
    socket.write('EHLO x\r\nQUIT\r\n');
    let said = '';
    for await (const piece of socket) said += String(piece);
    return said;
  };
  const clear = await extensions(port);
  assert.match(clear, /250-AUTH PLAIN LOGIN\r\n/);
  assert.doesNotMatch(clear, /STARTTLS/);
  const usual = await extensions(server.getMappedPort(25));
  assert.match(usual, /STARTTLS/);
  assert.doesNotMatch(usual, /AUTH/);
  const transport = createTransport({ host: '127.0.0.1', port, auth: { user: 'app', pass: 'x' } });
  await transport.sendMail({ from: 'a@b.test', to: 'c@d.test', text: 'x' });
  transport.close();
  const captured = async (folder: string): Promise<string> =>
    (await server.exec(['sh', '-c', `cat /var/mail/captured/${folder}/*`])).output;
  const envelope = JSON.parse(await captured('envelopes'));
  assert.deepEqual([envelope.login, envelope.loginAddress, envelope.tls], ['app', 'app@capture.test', undefined]);
  assert.match(await captured('new'), /\tby \S+ with ESMTPA\n/);
});

test('SLIM_CAPTURE=users: only the logins of SLIM_USERS are right', async t => {
  const catcher = await startCatcher(t, { settings: { SLIM_CAPTURE: 'users', SLIM_USERS: 'anton:right' } });
  const send = async (pass: string): Promise<string> => {
    const auth = { user: 'anton', pass };
    const transport = createTransport({
      host: '127.0.0.1',
      port: catcher.submission,
      auth,
      tls: { rejectUnauthorized: false },
    });
    try {
      const { response } = await transport.sendMail({ from: 'a@b.test', to: 'c@d.test', text: 'x' });
      return response;
    } catch (error) {
      return String((error as Error).message);
    } finally {
      transport.close();
    }
  };
  assert.match(await send('right'), /^250/);
  assert.match(await send('wrong'), /535/);
});

test('settings that do not count are named once, and a queue of before is left as it is, and named', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'capture-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'data/queue'), { recursive: true });
  writeFileSync(join(folder, 'data/queue/abc'), 'content');
  writeFileSync(join(folder, 'data/queue/abc.json'), '{"old":true}');
  const catcher = await startCatcher(t, {
    folder,
    settings: {
      SLIM_USERS: 'anton:secret',
      SLIM_RELAY_HOST: 'relay.example',
      SLIM_STORAGES: 'x@y.test=/nowhere',
      PGHOST: 'db.example',
    },
  });
  await catcher.send('x@y.test');
  await catcher.stop();
  const lines = catcher
    .log()
    .split('\n')
    .filter(line => line.includes('these settings do not count'));
  assert.equal(lines.length, 1);
  const { variables } = JSON.parse(lines[0] ?? '') as { variables: string[] };
  assert.deepEqual(variables.toSorted(), ['PGHOST', 'SLIM_RELAY_HOST', 'SLIM_STORAGES', 'SLIM_USERS']);
  assert.match(catcher.log(), /"messages":1,"msg":"mail of an earlier server waits in the queue; it is left as it is"/);
  assert.equal(readFileSync(join(folder, 'data/queue/abc.json'), 'utf8'), '{"old":true}');
  assert.equal(readFileSync(join(folder, 'data/queue/abc'), 'utf8'), 'content');
  assert.ok(!existsSync('/nowhere'));
});

test('captured mail is there again after a restart, and the newest of SLIM_CAPTURE_KEEP stay', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'capture-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const first = await startCatcher(t, { folder });
  for (const name of ['one', 'two', 'three']) await first.send(`${name}@x.test`, `Subject: ${name}\r\n\r\n`);
  await first.stop('SIGKILL');
  const again = await startCatcher(t, { folder, settings: { SLIM_CAPTURE_KEEP: '2' } });
  const subjects = async (): Promise<unknown> =>
    ((await again.get('/api/v1/messages')) as { messages: { Subject: string }[] }).messages.map(each => each.Subject);
  assert.deepEqual(await subjects(), ['three', 'two']);
  await again.send('four@x.test', 'Subject: four\r\n\r\n');
  assert.deepEqual(await subjects(), ['four', 'three']);
  assert.equal(again.files('new').length, 2);
});
