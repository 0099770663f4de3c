// The control socket: every verb gets its answer, whatever else comes gets an end, and the socket keeps a second server
// away.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type Server, connect, createServer } from 'node:net';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { NoServer, ask, askAll } from '../../src/control/client.ts';
import { judge } from '../../src/control/health.ts';
import { type Handlers, openControl } from '../../src/control/server.ts';
import type { QueuedMessage } from '../../src/mail/admin.ts';

let folder = '';
let path = '';
let servers: Server[] = [];
const healthy = { listening: true, sessions: 1, database: 'off', queued: 0, writable: true, unwritable: [] } as const;
const message = (n: number): QueuedMessage => ({
  id: `m${n}`,
  from: 'x'.repeat(1000),
  ageSeconds: 0,
  sizeBytes: 1,
  isHeld: false,
  recipients: [],
});
const handlers: Handlers = {
  health: () => healthy,
  figures: () => assert.fail('not asked for'),
  resolve: async ({ address }) => ({ code: 250, steps: [`for ${address}`] }),
  auth: ({ name, password }) => ({ ok: password === 'right', source: name }),
  async *dns({ domain = 'every' }) {
    yield { name: 'x.', type: 'MX', value: domain, zone: '', status: 'ok', found: [] };
  },
  async *dkim({ action, domain = 'every' }) {
    yield { domain, selector: action, algorithm: 'rsa', state: 'new', signs: true, name: '' };
  },
  async *list({ selector: { id = '3' } }) {
    for (let n = 0; n < Number(id); n += 1) yield message(n);
  },
  act: ({ action, selector }) => Promise.reject(new Error(`${action} ${JSON.stringify(selector)}`)),
};
const open = async (): Promise<Server> => {
  const server = await openControl(path, handlers);
  servers.push(server);
  return server;
};
/** What a line gets that `ask` would not send. */
async function answerTo(line: string): Promise<string> {
  const socket = connect(path);
  socket.write(`${line}\n`);
  let answer = '';
  for await (const text of socket.setEncoding('utf8')) answer += String(text);
  return answer;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'control-'));
  path = join(folder, 'control');
  servers = [];
});
afterEach(() => {
  for (const server of servers) server.close();
  rmSync(folder, { recursive: true });
});

describe('the control socket', () => {
  it('answers verbs, and tells why one failed', async () => {
    await open();
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
    assert.deepEqual(await ask(path, { verb: 'resolve', address: 'a@b' }), { code: 250, steps: ['for a@b'] });
    const keys = await ask(path, { verb: 'dkim', action: 'rotate', domain: 'EXAMPLE.com' });
    assert.deepEqual([keys.domain, keys.selector], ['example.com', 'rotate']);
    assert.equal((await ask(path, { verb: 'dkim', action: 'list' })).domain, 'every');
    assert.equal((await ask(path, { verb: 'dns', domain: 'Example.com.' })).value, 'example.com');
    const login = { verb: 'auth', name: 'anton', password: 'right' } as const;
    assert.deepEqual(await ask(path, login), { ok: true, source: 'anton' });
    const order = { verb: 'act', action: 'hold', selector: { domain: 'd.example' } } as const;
    await assert.rejects(ask(path, order), { message: 'hold {"domain":"d.example"}' });
  });

  it('knows no other verbs, not even those that every object has', async () => {
    await open();
    for (const verb of ['stop', 'toString', 'constructor', '__proto__'])
      assert.equal(await answerTo(JSON.stringify({ verb })), `{"error":"unknown verb ${verb}"}\n`);
  });

  it('takes no request whose fields are of another kind: an order never means more than it says', async () => {
    await open();
    for (const [request, error] of [
      [{ verb: 'resolve' }, 'address must be text'],
      [{ verb: 'resolve', address: ['a'] }, 'address must be text'],
      [{ verb: 'auth', name: 'a' }, 'password must be text'],
      [{ verb: 'act', action: 'burn', selector: {} }, 'action must be one of retry, hold, release, remove'],
      [
        { verb: 'act', action: 'remove', selector: { ids: 'a' } },
        'a selector has id, domain, sender, each of them text',
      ],
      [{ verb: 'act', action: 'remove', selector: { id: 1 } }, 'a selector has id, domain, sender, each of them text'],
      [{ verb: 'dkim', action: 'burn' }, 'action must be one of list, rotate'],
      [{ verb: 'dkim', action: 'rotate', domain: ['a'] }, 'domain must be text'],
      [{ verb: 'list', selector: ['a'] }, 'a selector has id, domain, sender, each of them text'],
    ] as const)
      assert.equal(await answerTo(JSON.stringify(request)), `{"error":"${error}"}\n`);
    assert.match(await answerTo('{"verb":"act","action":"remove"}'), /a selector must be given/);
  });

  it('survives what is no request', async () => {
    await open();
    for (const text of ['null\n', 'nonsense\n', '{}\n', '']) {
      const socket = connect(path);
      socket.end(text).resume();
      await once(socket, 'close');
    }
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
  });

  it('gives an answer of many items one by one, and survives a caller who leaves in the middle of it', async () => {
    await open();
    const ids: string[] = [];
    for await (const { id } of askAll(path, { verb: 'list', selector: {} })) ids.push(id);
    assert.deepEqual(ids, ['m0', 'm1', 'm2']);
    for (let i = 0; i < 20; i += 1) assert.ok(await ask(path, { verb: 'list', selector: { id: '1000' } }));
    await pause(50);
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
  });

  it("is its owner's alone", async () => {
    const umask = process.umask(0);
    await open().finally(() => process.umask(umask));
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('keeps a second server off the folder, and does not disturb the first', async () => {
    await open();
    await assert.rejects(open(), /another server runs on .*: stop it, or set SLIM_DATA to another folder/);
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
  });

  it('lets one of those in that start at the same moment, also where a killed server has left its socket', async () => {
    const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
    for (let round = 0; round < 10; round += 1) {
      path = join(folder, `control${round}`);
      if (round > 2) spawnSync(process.execPath, ['-e', script, path]);
      const starts = await Promise.allSettled([open(), open(), open()]);
      const failed = starts.filter(start => start.status === 'rejected');
      assert.equal(failed.length, 2, `round ${round}`);
      for (const { reason } of failed) assert.match(String(reason), /another server runs on/);
      assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
    }
    assert.deepEqual(
      readdirSync(folder).toSorted(),
      Array.from({ length: 10 }, (_, round) => `control${round}`),
    );
  });

  it('takes the place of one that a killed server left, and of a file', async () => {
    const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    assert.ok(statSync(path).isSocket());
    await assert.rejects(ask(path, { verb: 'health' }), NoServer);
    (await open()).close();
    writeFileSync(path, '');
    await open();
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
  });

  it('works below a folder whose path is longer than the address of a socket may be', async () => {
    const deep = join(folder, 'd'.repeat(100), 'e'.repeat(100));
    mkdirSync(deep, { recursive: true });
    path = join(deep, 'control');
    await assert.rejects(ask(path, { verb: 'health' }), NoServer);
    const server = await open();
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    await assert.rejects(open(), /another server runs on/);
    assert.deepEqual(await ask(path, { verb: 'health' }), healthy);
    const fds = readdirSync('/proc/self/fd').length;
    for (let i = 0; i < 20; i += 1) await ask(path, { verb: 'health' });
    await pause(20);
    assert.ok(readdirSync('/proc/self/fd').length <= fds + 2, 'descriptors are left open');
    server.close();
    await once(server, 'close');
    assert.ok(!existsSync(path));
  });

  it('says that no server is there', async () => {
    await assert.rejects(ask(path, { verb: 'health' }), NoServer);
    const rude = createServer(socket => socket.resume().end());
    servers.push(rude);
    await new Promise<void>(resolve => void rude.listen(path, resolve));
    await assert.rejects(ask(path, { verb: 'health' }), NoServer);
  });
});

describe('health in a word', () => {
  it('is healthy, degraded without the database, unhealthy where mail cannot be taken; with what mends it', () => {
    const well = { listening: true, sessions: 0, database: 'up', queued: 0, writable: true, unwritable: [] } as const;
    assert.deepEqual(judge(well), { health: 'healthy', troubles: [] });
    assert.equal(judge({ ...well, database: 'down' }).health, 'degraded');
    const root = { setting: 'SLIM_MAIL_ROOT', path: '/var/mail', error: 'EACCES', command: 'chown 1 /var/mail' };
    for (const [trouble, sentence] of [
      [{ listening: false }, 'it does not listen'],
      [{ writable: false }, 'SLIM_DATA cannot be written'],
      [{ unwritable: [root] }, 'SLIM_MAIL_ROOT: mail cannot be written to /var/mail: EACCES; run chown 1 /var/mail'],
    ] as const)
      assert.deepEqual(judge({ ...well, database: 'down', ...trouble }), { health: 'unhealthy', troubles: [sentence] });
  });
});
