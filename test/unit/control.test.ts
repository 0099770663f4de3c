import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type Server, connect, createServer } from 'node:net';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { NoServer, ask, askAll, openControl } from '../../src/control/control.ts';

let folder = '';
let path = '';
let servers: Server[] = [];
const handlers = {
  health: () => ({ listening: true }),
  resolve: async (address: string) => `for ${address}`,
  fail: () => Promise.reject(new Error('the reason')),
};
const open = async (): Promise<Server> => {
  const server = await openControl(path, handlers);
  servers.push(server);
  return server;
};
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
    assert.deepEqual(await ask(path, 'health', ''), { listening: true });
    assert.equal(await ask(path, 'resolve', 'anton@example.com'), 'for anton@example.com');
    await assert.rejects(ask(path, 'fail', ''), { message: 'the reason' });
  });

  it('knows no other verbs, not even those that every object has', async () => {
    await open();
    for (const verb of ['stop', 'toString', 'constructor', '__proto__'])
      await assert.rejects(ask(path, verb, ''), { message: `unknown verb ${verb}` });
  });

  it('survives what is no request', async () => {
    await open();
    for (const text of ['null\n', 'nonsense\n', '{}\n', '']) {
      const socket = connect(path);
      socket.end(text).resume();
      await once(socket, 'close');
    }
    assert.deepEqual(await ask(path, 'health', ''), { listening: true });
  });

  it('gives an answer of many items one by one, and survives who leaves in the middle of it', async () => {
    async function* many(count: string) {
      for (let n = 0; n < Number(count); n += 1) yield { n, text: 'x'.repeat(1000) };
    }
    servers.push(await openControl(path, { many, health: () => ({ listening: true }) }));
    const items: unknown[] = [];
    for await (const item of askAll(path, 'many', '3')) items.push((item as { n: number }).n);
    assert.deepEqual(items, [0, 1, 2]);
    for (let i = 0; i < 20; i += 1) assert.ok(await ask(path, 'many', '1000'));
    await pause(50);
    assert.deepEqual(await ask(path, 'health', ''), { listening: true });
  });

  it("is its owner's alone", async () => {
    const umask = process.umask(0);
    await open().finally(() => process.umask(umask));
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it('keeps a second server off the folder, and does not disturb the first', async () => {
    await open();
    await assert.rejects(open(), /another server runs on .*: stop it, or set SLIM_DATA to another folder/);
    assert.deepEqual(await ask(path, 'health', ''), { listening: true });
  });

  it('takes the place of one that a killed server left, and of a file', async () => {
    const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    assert.ok(statSync(path).isSocket());
    await assert.rejects(ask(path, 'health', ''), NoServer);
    (await open()).close();
    writeFileSync(path, '');
    await open();
    assert.deepEqual(await ask(path, 'health', ''), { listening: true });
  });

  it('says that no server is there', async () => {
    await assert.rejects(ask(path, 'health', ''), NoServer);
    const rude = createServer(socket => socket.resume().end());
    servers.push(rude);
    await new Promise<void>(resolve => void rude.listen(path, resolve));
    await assert.rejects(ask(path, 'health', ''), NoServer);
  });
});
