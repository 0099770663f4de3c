// The steward and its network process for real, as whoever runs the tests: no account is needed here. What takes root
// (other uids, homes, account files) is in test/integration/steward.test.ts.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { parseRequest } from '../../src/steward/protocol.ts';
import { cleanEnvironment } from '../../src/steward/steward.ts';
import { hashPassword } from '../../src/steward/account-files.ts';
import { systemRandom } from '../../src/system/world.ts';
import { RunningSteward } from './steward.harness.ts';

const spoolFolder = mkdtempSync(join(tmpdir(), 'slim-steward-'));
after(() => rmSync(spoolFolder, { recursive: true }));

function run(t: TestContext, options: Record<string, unknown> = {}, host?: string, port?: number): RunningSteward {
  const steward = new RunningSteward({ spoolFolder, settings: { spoolFolder }, ...options }, host, port);
  t.after(() => steward.stop('SIGKILL'));
  return steward;
}

describe('a request from the network process', () => {
  const targets = [{ account: 'anton', folder: 'Maildir' }];
  const good: readonly object[] = [
    { id: 1, kind: 'account', name: 'anton' },
    { id: 1, kind: 'owner', path: '/home/anton/Maildir' },
    { id: 1, kind: 'prepare', spool: 'a1B2', targets },
    { id: 1, kind: 'prepare', spool: 'a1B2', targets: [{ account: 'anton', folder: '' }] },
    { id: 2, kind: 'commit', token: 1 },
    { id: 2, kind: 'abort', token: 1 },
    { id: 1, kind: 'authenticate', name: 'anton', password: 'a b\n:é' },
    { id: 1, kind: 'authenticate', name: 'anton', password: 'é'.repeat(63) },
    { id: 1, kind: 'tls' },
  ];
  for (const request of good)
    test(`is understood: ${JSON.stringify(request)}`, () => {
      assert.deepEqual(parseRequest({ ...request, more: 'dropped' }), request);
    });

  const bad: readonly unknown[] = [
    null,
    'account',
    [],
    {},
    { kind: 'tls' },
    { id: '1', kind: 'tls' },
    { id: 1.5, kind: 'tls' },
    { id: { valueOf: 1, toString: 1 }, kind: 'tls' },
    { id: 1, kind: 'shell', name: 'anton' },
    { id: 1, kind: 'account' },
    { id: 1, kind: 'account', name: '' },
    { id: 1, kind: 'account', name: '-s' },
    { id: 1, kind: 'account', name: '../root' },
    { id: 1, kind: 'account', name: 'a:b' },
    { id: 1, kind: 'account', name: 'a\n' },
    { id: 1, kind: 'account', name: 'a'.repeat(33) },
    { id: 1, kind: 'account', name: ['anton'] },
    { id: 1, kind: 'owner', path: 'home/anton' },
    { id: 1, kind: 'owner', path: '/home\0' },
    { id: 1, kind: 'owner', path: `/${'a'.repeat(1024)}` },
    { id: 1, kind: 'prepare', spool: '../../etc/shadow', targets },
    { id: 1, kind: 'prepare', spool: 'a\n', targets },
    { id: 1, kind: 'prepare', spool: '', targets },
    { id: 1, kind: 'prepare', spool: 'a', targets: [] },
    { id: 1, kind: 'prepare', spool: 'a', targets: { length: 1 } },
    { id: 1, kind: 'prepare', spool: 'a', targets: [null] },
    { id: 1, kind: 'prepare', spool: 'a', targets: Array(1001).fill(targets[0]) },
    ...['/etc', '..', 'a/../b', './a', 'a//b', 'a/', '.', 'a\0', 7, undefined].map(folder => ({
      id: 1,
      kind: 'prepare',
      spool: 'a',
      targets: [{ account: 'anton', folder }],
    })),
    ...['', 'a\0b', 'a'.repeat(127), 'é'.repeat(64), 7, undefined, ['a']].map(password => ({
      id: 1,
      kind: 'authenticate',
      name: 'anton',
      password,
    })),
    { id: 1, kind: 'authenticate', name: '-s', password: 'a' },
    { id: 1, kind: 'authenticate', name: '../root', password: 'a' },
    { id: 1, kind: 'authenticate', password: 'a' },
    { id: 1, kind: 'commit', token: '1' },
    { id: 1, kind: 'commit' },
  ];
  for (const request of bad)
    test(`is refused: ${JSON.stringify(request)?.slice(0, 90)}`, () => assert.equal(parseRequest(request), undefined));
});

test('an environment is handed on without settings and secrets', () => {
  const all = {
    PATH: '/bin',
    TZ: 'UTC',
    SLIM_TLS_KEY: 'k',
    PGPASSWORD: 'p',
    NODE_ENV: 'x',
    NODE_AUTH_TOKEN: 't',
    NODE_CHANNEL_FD: '3',
    LANG: '',
  };
  assert.deepEqual(cleanEnvironment(all), { PATH: '/bin', TZ: 'UTC', NODE_ENV: 'x' });
});

describe('a network process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'slim-tls-'));
  const cert = join(folder, 'cert.pem');
  let steward: RunningSteward;
  before(() => {
    writeFileSync(cert, 'a certificate');
    steward = new RunningSteward({ spoolFolder, settings: { spoolFolder }, tlsFiles: { cert } });
  });
  after(() => steward.stop());

  test('the network process is served on the socket that the steward has opened', async () => {
    const { environment } = await steward.ask({ ask: 'self' });
    assert.equal((environment as NodeJS.ProcessEnv)['PATH'], process.env['PATH']);
  });

  test('requests that make no sense are answered with an error, and the next one as ever', async () => {
    for (const message of [{ id: 900, kind: 'shell' }, { id: 901 }, { id: 902, kind: 'prepare', spool: '../x' }]) {
      const { error } = await steward.ask({ ask: 'raw', message });
      assert.match(String(error), /does not understand/);
    }
    for (const message of ['text', null, [1], { id: 'x', cmd: 'NODE' }, { id: { valueOf: 1, toString: 1 } }])
      await steward.ask({ ask: 'raw', message });
    assert.equal(await steward.ask({ ask: 'find', of: 'root' }), null);
  });

  test('a deposit that nobody prepared cannot be committed', async () => {
    const { error } = await steward.ask({ ask: 'raw', message: { id: 900, kind: 'commit', token: 5 } });
    assert.match(String(error), /no such deposit/);
  });

  test('root, numbers and unknown names are no accounts for mail', async () => {
    for (const name of ['root', '0', '1000', 'nobody', 'nosuchaccount', 'two words', '-s'])
      assert.equal(await steward.ask({ ask: 'find', of: name }), null, name);
  });

  test('what is no account for mail waits for PAM too, which cannot tell here, and has no password', async () => {
    assert.equal(await steward.ask({ ask: 'authenticate', name: '-s', password: 'x' }), false);
    for (const name of ['root', 'nosuchaccount'])
      assert.equal((await steward.ask({ ask: 'authenticate', name, password: 'x' }))['name'], 'CannotTell', name);
    assert.equal(await steward.ask({ ask: 'authenticate', name: 'root', password: 'a\0b' }), false);
  });

  test('a request that fails is logged without its password', async () => {
    const message = { id: 903, kind: 'authenticate', name: 'anton', password: 'verysecret\0' };
    const { error } = await steward.ask({ ask: 'raw', message });
    assert.match(String(error), /does not understand/);
    assert.ok(!JSON.stringify(steward.lines).includes('verysecret'));
  });

  test('a TLS file in a folder of its own is left to it to read; one that cannot be read is "cannot tell"', async () => {
    assert.deepEqual(await steward.ask({ ask: 'tls' }), {});
    rmSync(folder, { recursive: true });
    const reply = await steward.ask({ ask: 'tls' });
    assert.equal(reply['name'], 'CannotTell');
    assert.match(String(reply['error']), /slim-tls/);
  });

  test('it has a session and pipes of its own, so that no terminal of ours is within its reach', async () => {
    const { pid } = await steward.ask({ ask: 'self' });
    const session = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[3];
    assert.equal(session, String(pid));
    assert.equal(readlinkSync(`/proc/${pid}/fd/0`), '/dev/null');
    for (const fd of [1, 2])
      assert.notEqual(readlinkSync(`/proc/${pid}/fd/${fd}`), readlinkSync(`/proc/${steward.process.pid}/fd/${fd}`));
  });

  test('a handle that it sends over IPC is refused and closed, and what it asks next is answered', async () => {
    const open = (): number => readdirSync(`/proc/${steward.process.pid}/fd`).length;
    const earlier = open();
    for (let times = 0; times < 3; times += 1) {
      const { port } = await steward.ask({ ask: 'handle' });
      // Nobody listens there any more: the steward does not keep it open.
      const socket = createConnection({ host: '127.0.0.1', port: Number(port) });
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      assert.equal(error.code, 'ECONNREFUSED');
    }
    assert.equal(open(), earlier);
    assert.equal(steward.lines.filter(({ message }) => /sent a handle/.test(String(message))).length, 3);
    assert.equal(await steward.ask({ ask: 'find', of: 'root' }), null);
  });

  test('SIGHUP becomes the order to reload', async () => {
    steward.process.kill('SIGHUP');
    assert.deepEqual(await steward.line('order'), { order: 'reload' });
  });

  test('SIGTERM to every process of the group reaches the network process once, as an order', async () => {
    const { pid } = await steward.ask({ ask: 'self' });
    const printed = steward.lines.length;
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.kill(Number(pid), signal);
    assert.equal(await steward.ask({ ask: 'find', of: 'root' }), null);
    assert.equal(await steward.stop(), 0);
    assert.deepEqual(
      steward.lines.slice(printed).filter(line => 'order' in line),
      [{ order: 'stop' }],
    );
  });
});

/** Those that end in a way of their own, side by side: most of the time they wait for processes to start. */
describe('a network process of its own', { concurrency: true }, () => {
  test('a port that is in use is said, with its number', async t => {
    const port = await taken(t);
    const steward = run(t, {}, '127.0.0.1', port);
    assert.match(String((await steward.line('failed'))['failed']), new RegExp(`EADDRINUSE.*${port}`));
  });

  for (const status of [69, 78])
    test(`leaves with ${status} and is not started again, and its status is passed on; [::] leaves IPv4 to a socket of its own`, async t => {
      const port = await taken(t);
      const steward = run(t, {}, '::', port);
      assert.deepEqual(await steward.line('port|failed'), { port });
      await steward.ask({ ask: 'exit', status });
      if (steward.process.exitCode === null) await once(steward.process, 'exit');
      assert.equal(steward.process.exitCode, status);
    });

  for (const [lines, reader] of [
    [3000, 'that reads at once'],
    [40, 'that stalls until it has ended'],
  ] as const)
    test(`prints ${lines} lines and ends: every line comes, in its order, to a reader ${reader}`, async t => {
      const steward = run(t);
      await steward.line('port');
      // More than a pipe takes, and less than what the pipe and that of the network process take together.
      if (lines === 40) steward.process.stdout?.pause();
      await steward.ask({ ask: 'print', lines });
      await new Promise(resolve => setTimeout(resolve, 300));
      steward.process.stdout?.resume();
      await steward.closed;
      const printed = steward.lines.flatMap(({ line }) => (typeof line === 'number' ? [line] : []));
      assert.deepEqual(
        printed,
        Array.from({ length: lines }, (_, line) => line),
      );
    });

  test('dies, is started again and gets the socket again', async t => {
    const steward = run(t);
    await steward.ask({ ask: 'exit', status: 1 });
    await steward.line('port', steward.lines.length);
    assert.equal(await steward.ask({ ask: 'find', of: 'root' }), null);
  });

  test('does not stop in time and is ended', async t => {
    const steward = run(t, { settings: { spoolFolder, deaf: true }, stopWithinMs: 100 });
    const { pid } = await steward.ask({ ask: 'self' });
    assert.equal(await steward.stop(), 1);
    await gone(Number(pid));
  });

  test('leaves when the steward is killed', async t => {
    const steward = run(t);
    const { pid } = await steward.ask({ ask: 'self' });
    await steward.stop('SIGKILL');
    await gone(Number(pid));
  });
});

test('a password is kept as a hash that crypt knows, salted, and never cut', () => {
  const [one, other] = [hashPassword('sésame', systemRandom), hashPassword('sésame', systemRandom)];
  assert.match(one, /^\$y\$j9T\$/);
  assert.notEqual(one, other);
  for (const unfit of ['', 'a\0b', 'a\nb', 'a'.repeat(127)])
    assert.throws(() => hashPassword(unfit, systemRandom), /1 to 126/);
});

/** A port of IPv4 that is in use until the test ends. */
async function taken(t: TestContext): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

/** Waits until a process has ended (a zombie has: it is for someone else to reap). */
async function gone(pid: number): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    if (!existsSync(`/proc/${pid}/stat`) || /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  throw new Error(`process ${pid} is still there`);
}
