// The newcomer's way, in a fresh copy of the project: `npm start`, a mail, Ctrl-C; then `docker compose up` in the same
// folder.
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { deliver, eventually } from './client.ts';
import { openStage, root } from './compose-lib.ts';
import { freePort } from '../ports.ts';

const stage = openStage(after);

/** The project without what is made in it. */
function freshCopy(): string {
  const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-fresh-'));
  stage.own(async () => rmSync(folder, { recursive: true }));
  const made = new Set(['.git', 'node_modules', 'dist', 'data', '.env'].map(name => join(root, name)));
  cpSync(root, folder, { recursive: true, filter: path => !made.has(path) });
  return folder;
}

function start(folder: string): { process: ChildProcess; said(): string } {
  let text = '';
  const child = spawn('npm', ['start'], { cwd: folder, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', data => (text += data));
  stage.own(async () => child.exitCode ?? child.kill('SIGKILL'));
  return { process: child, said: () => text };
}

test('npm start brings all it needs, hosts the demo, and docker compose up works in the same folder', async () => {
  const folder = freshCopy();
  const port = await freePort();
  // Ports of our own: somebody may have the demo running.
  const example = join(folder, '.env.example');
  const ports = [`:${port}`, `:${await freePort()}`, `:${await freePort()}`];
  writeFileSync(
    example,
    readFileSync(example, 'utf8').replaceAll(/:(?:2525|2587|2465)\b/g, () => ports.shift() ?? ''),
  );

  const server = start(folder);
  await eventually('listening', async () => server.said().includes('Try:') || server.process.exitCode !== null, 90_000);
  assert.match(server.said(), /hosts example\.com/, server.said());
  assert.match(server.said(), new RegExp(`swaks --to \\S+@example\\.com --server 127\\.0\\.0\\.1:${port}`));
  assert.ok(existsSync(join(folder, '.env')));
  const to = /swaks --to (\S+)/.exec(server.said())?.[1] ?? '';
  assert.match(await deliver(port, [to], 'Subject: fresh\r\n\r\n'), /^250/);
  assert.match(await deliver(port, ['whoever@example.com'], 'Subject: fresh\r\n\r\n'), /^250/);
  const maildirs = readdirSync(join(folder, 'data'), { recursive: true, encoding: 'utf8' }).filter(path =>
    /\/new\/[^/]+$/.test(path),
  );
  assert.equal(maildirs.length, 2, maildirs.join('\n'));
  // As a terminal does it: to npm and everything below.
  process.kill(-(server.process.pid ?? 0), 'SIGINT');
  if (server.process.exitCode === null) await once(server.process, 'exit');
  await eventually('gone', () => deliver(port, [to], '').then(reply => reply === 'closed'), 5000);

  const project = `${basename(folder).toLowerCase()}`;
  const compose = async (...words: string[]): Promise<string> => {
    const env = {
      ...process.env,
      PORT_SMTP: '127.0.0.1:',
      PORT_SUBMISSION: '127.0.0.1:',
      PORT_SUBMISSIONS: '127.0.0.1:',
    };
    return (await promisify(execFile)('docker', ['compose', '-p', project, ...words], { cwd: folder, env })).stdout;
  };
  stage.own(() => compose('down', '--volumes', '--timeout', '1'));
  await compose('up', '--detach', '--build', '--wait');
  const published = Number((await compose('port', 'slimsmtp', '25')).trim().split(':').at(-1));
  assert.match(await deliver(published, ['twitter@example.com'], 'Subject: compose\r\n\r\n'), /^250/);
  assert.match(
    await compose('exec', '-T', 'slimsmtp', 'sh', '-c', 'cat /home/anton/Maildir/new/*'),
    /^Subject: compose$/m,
  );
});
