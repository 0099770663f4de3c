// The HTTP process as the network process has it: a real child from the sources. What it may see, that it is replaced
// when it dies, that it ends when it is told to, and what /health says.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { Kept } from '../../src/mail/captured.ts';
import { Gatherer } from '../../src/system/gather.ts';
import type { Log } from '../../src/system/log.ts';
import { systemClock as clock } from '../../src/system/world.ts';
import { WebProcess } from '../../src/web/process.ts';
import type { Health, Start } from '../../src/web/protocol.ts';
import { freePort } from '../ports.ts';

const root = new URL('../../', import.meta.url).pathname;

type More = { readonly capture?: Omit<NonNullable<Start['capture']>, 'unreadable'>; readonly readingMs?: number };

async function open(
  t: TestContext,
  health: () => Health | Promise<Health> = () => ({ health: 'healthy' }),
  { capture, readingMs = 20_000 }: More = {},
) {
  const lines: string[] = [];
  const note = (fields: Record<string, unknown>, text: string): void =>
    void lines.push(`${text} ${JSON.stringify(fields)}`);
  const log: Log = { debug: note, info: note, warn: note, error: note };
  const port = await freePort();
  const web = new WebProcess({
    script: join(root, 'src/web/main.ts'),
    mayRead: [
      ...['src/', 'node_modules/', 'package.json'].map(path => join(root, path)),
      ...(capture ? [`${capture.folder}/`] : []),
    ],
    greet: unreadable => ({
      kind: 'start',
      host: '127.0.0.1',
      port,
      hostname: 'mx.example.com',
      version: '0',
      ...(capture && { capture: { ...capture, unreadable } }),
    }),
    answers: { health, settled: () => undefined },
    readingMs,
    clock,
    gatherer: new Gatherer(log),
    log,
  });
  t.after(() => web.stop());
  return { web, port, lines, get: () => fetch(`http://127.0.0.1:${port}/health`) };
}

/** The id of the one child of this process that runs the HTTP process. */
function childOf(): number {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').map(Number);
  const found = children.filter(pid => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('web/main.ts'));
  assert.equal(found.length, 1);
  return found[0] as number;
}

test('/health says how the mail server is', async t => {
  let health: Health['health'] = 'healthy';
  const { web, get } = await open(t, () => ({ health }));
  await web.start();
  const told = async (): Promise<string> => {
    const answer = await get();
    return `${answer.status} ${await answer.text()}`;
  };
  assert.equal(await told(), '200 {"health":"healthy"}');
  health = 'degraded';
  assert.equal(await told(), '200 {"health":"degraded"}');
  health = 'unhealthy';
  assert.equal(await told(), '503 {"health":"unhealthy"}');
});

test('an error of the mail server is a sentence, not a stack', async t => {
  const { web, get } = await open(t, () => Promise.reject(new Error('the disk is on fire')));
  await web.start();
  const answer = await get();
  assert.deepEqual([answer.status, await answer.json()], [503, { Error: 'the disk is on fire' }]);
});

test('the child sees no environment, and may read code alone', async t => {
  const { web } = await open(t);
  await web.start();
  const pid = childOf();
  const names = readFileSync(`/proc/${pid}/environ`, 'utf8')
    .split('\0')
    .map(each => each.split('=')[0]);
  assert.deepEqual(
    names.filter(name => name !== '' && !/^NODE_(CHANNEL|UNIQUE)/.test(name ?? '')),
    [],
  );
  const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  assert.ok(words.includes('--permission'));
  assert.deepEqual(
    words.filter(word => word.startsWith('--allow')),
    ['src/', 'node_modules/', 'package.json'].map(path => `--allow-fs-read=${join(root, path)}`),
  );
});

test('a child that dies is replaced', async t => {
  const { web, get, lines } = await open(t);
  await web.start();
  process.kill(childOf(), 'SIGKILL');
  for (let tries = 0; tries < 50; tries += 1) {
    await pause(100);
    if ((await get().catch(() => undefined))?.ok) break;
  }
  assert.equal((await get()).status, 200);
  assert.match(lines.join(), /has ended by itself and is started again \{"how":"SIGKILL","againInMs":500\}/);
});

test('it ends when it is told to, and is not replaced', async t => {
  const { web, get } = await open(t);
  await web.start();
  await web.stop();
  await assert.rejects(get());
  await pause(700);
  await assert.rejects(get());
});

test('a port that is taken is told in a sentence, and nothing is left running', async t => {
  const { web, port } = await open(t);
  const taken = createServer().listen(port, '127.0.0.1');
  t.after(() => taken.close());
  await assert.rejects(web.start(), new RegExp(`SLIM_HTTP: cannot listen on 127.0.0.1:${port}: another program`));
  await pause(300);
  assert.throws(childOf);
});

test('a message that keeps the parser busy costs two children, and is then shown as it is', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'web-process-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'new'));
  writeFileSync(join(folder, 'new', 'slow'), `Subject: slow\n\n${'x\n'.repeat(10_000_000)}`);
  writeFileSync(join(folder, 'new', 'quick'), 'Subject: quick\n\nx\n');
  const mail = (id: string): Kept => ({
    mail: {
      id,
      from: 'a@b.test',
      recipients: ['c@d.test'],
      helo: '',
      client: '',
      isUtf8: false,
      receivedAt: 0,
      sizeBytes: 9,
    },
    isRead: false,
    tags: [],
  });
  const capture = { folder, maxSizeBytes: 100_000_000, kept: [mail('slow'), mail('quick')] };
  const { web, port, lines } = await open(t, undefined, { capture, readingMs: 300 });
  await web.start();
  const deadline = Date.now() + 20_000;
  let subjects: readonly string[] = [];
  while (subjects.length < 2 && Date.now() < deadline) {
    await pause(200);
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/messages`).catch(() => undefined);
    const found = (await answer?.json().catch(() => undefined)) as { messages: { Subject: string }[] } | undefined;
    subjects = found?.messages.map(({ Subject }) => Subject) ?? [];
  }
  assert.deepEqual(subjects, ['quick', '(this message cannot be parsed)']);
  assert.equal(lines.filter(line => line.startsWith('a message took too long to parse')).length, 2);
});
