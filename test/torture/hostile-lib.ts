// What tests of hostile clients share: a server, a load in a process of its own, and a good client that comes from
// another address now and then. What counts for the good client: connect, EHLO, MAIL, RCPT, DATA and 250, so with the
// fsyncs. The machine may be busy with something else: an attack is judged anew, twice, before it fails.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { freePort } from '../ports.ts';
import { type Place, type Server, openPlace } from './server.ts';

const undo: (() => Promise<void>)[] = [];
after(async () => {
  for (const each of undo.toReversed()) await each();
});

/** Resident memory (VmRSS) and the time on a core, in ms, so far. */
export function usage(pid: number): { megabytes: number; cpuMs: number } {
  const [, kilobytes = 0] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return { megabytes: Number(kilobytes) / 1024, cpuMs: (Number(fields[11]) + Number(fields[12])) * 10 };
}

/** One message of a good client, from 127.0.0.2: how long it took until its 250, in ms, or what happened instead. */
function good(port: number): Promise<number | string> {
  return new Promise(resolve => {
    const startedAt = performance.now();
    const socket = connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' });
    const turns = [
      'EHLO good.example',
      'MAIL FROM:<a@example.net>',
      'RCPT TO:<b@example.com>',
      'DATA',
      'Subject: x\r\n\r\nx\r\n.',
    ];
    let input = '';
    const end = (outcome: number | string): void => {
      socket.destroy();
      resolve(outcome);
    };
    socket.setTimeout(10_000, () => end(`nothing for 10 s before '${turns[0]}'`));
    socket.on('error', error => end(error.message)).on('close', () => end('closed'));
    socket.setEncoding('latin1').on('data', (text: string) => {
      input += text;
      const reply = /^(?:\d{3}-.*\r\n)*(\d{3}) .*\r\n/.exec(input);
      if (!reply) return;
      input = '';
      const turn = turns.shift();
      if (Number(reply[1]) >= 400) end(reply[0]);
      else if (turn === undefined) end(performance.now() - startedAt);
      else socket.write(`${turn}\r\n`);
    });
  });
}

/** How many sessions the server has, by its control socket. */
async function sessions(place: Place): Promise<number> {
  const socket = connect(join(place.folder, 'data', 'run', 'control'));
  socket.end('{"verb":"health","argument":""}\n');
  let answer = '';
  for await (const text of socket.setEncoding('utf8')) answer += text as string;
  return (JSON.parse(answer.split('\n', 1)[0] ?? '') as { item: { sessions: number } }).item.sessions;
}

export type Target = { readonly place: Place; readonly server: Server; readonly tlsPort: number };

export async function open(settings: Record<string, string> = {}): Promise<Target> {
  const place = await openPlace(each => undo.push(each));
  const [port, tlsPort] = [await freePort(), await freePort()];
  const SLIM_LISTEN = `smtp://127.0.0.1:${port} submissions://127.0.0.1:${tlsPort}`;
  const server = await place.start(
    { SLIM_LISTEN, SLIM_USERS: 'anton:secret', ...settings },
    { ports: [port, tlsPort] },
  );
  assert.ok(server.log().includes('"ready"'), server.log());
  return { place, server, tlsPort };
}

type Seen = {
  slowestMs: number;
  megabytes: number;
  refusal?: string;
  told: Record<string, number>;
  load: string;
};

/** Attacks for some seconds, with a good client now and then. */
async function attack(
  { place, server, tlsPort }: Target,
  kind: string,
  spread: string,
  seconds: number,
): Promise<Seen> {
  const pid = server.process.pid ?? 0;
  const file = join(import.meta.dirname, 'hostile-load.ts');
  const load: ChildProcess = spawn(process.execPath, [file, kind, String(server.port), String(tlsPort), spread], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise(resolve => load.on('exit', resolve));
  undo.push(async () => void load.kill('SIGKILL'));
  let said = '';
  load.stdout?.setEncoding('utf8').on('data', (text: string) => (said += text));
  try {
    await pause(2500); // until they are all there
    const before = [usage(pid).cpuMs, usage(load.pid ?? 0).cpuMs] as const;
    const startedAt = Date.now();
    const seen: { slowestMs: number; megabytes: number; refusal?: string } = { slowestMs: 0, megabytes: 0 };
    while (Date.now() - startedAt < seconds * 1000 || !said.includes('enough')) {
      assert.equal(load.exitCode, null, 'the load has ended');
      const outcome = await good(server.port);
      if (typeof outcome === 'string') seen.refusal = outcome;
      else seen.slowestMs = Math.max(seen.slowestMs, outcome);
      seen.megabytes = Math.max(seen.megabytes, usage(pid).megabytes);
      await pause(100);
    }
    const tookMs = Date.now() - startedAt;
    const share = (cpuMs: number, from: number): string => `${Math.round(((cpuMs - from) / tookMs) * 100)} %`;
    const cores = `server ${share(usage(pid).cpuMs, before[0])} of a core, load ${share(usage(load.pid ?? 0).cpuMs, before[1])}`;
    load.kill('SIGTERM');
    await ended;
    for (let tries = 0; tries < 600 && (await sessions(place)) > 0; tries += 1) await pause(100);
    assert.equal(await sessions(place), 0, 'sessions are left');
    return { ...seen, told: JSON.parse(said.trim().split('\n').at(-1) ?? '') as Seen['told'], load: cores };
  } finally {
    load.kill('SIGKILL');
    await ended;
  }
}

type Context = { diagnostic(text: string): void };
export async function withstands(
  t: Context,
  target: Target,
  kind: string,
  spread: string,
  megabytes: number,
): Promise<Seen> {
  for (let tries = 1; ; tries += 1) {
    const seen = await attack(target, kind, spread, 4);
    const figures = `250 in ${Math.round(seen.slowestMs)} ms at worst, ${Math.round(seen.megabytes)} MB at most; ${seen.load}`;
    t.diagnostic(`${kind} (${spread}): ${figures} ${JSON.stringify(seen.told)}`);
    if (seen.refusal) t.diagnostic(seen.refusal);
    assert.ok(seen.megabytes < megabytes, `${seen.megabytes} MB`);
    if (seen.slowestMs < 1000 && seen.refusal === undefined) return seen;
    assert.ok(tries < 3, `a good client waited ${Math.round(seen.slowestMs)} ms: ${seen.refusal}`);
  }
}

/** Started by the first test that needs it: each can be run alone. */
export function lazily(settings?: Record<string, string>): () => Promise<Target> {
  let target: Promise<Target> | undefined;
  return () => (target ??= open(settings));
}
