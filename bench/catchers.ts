// Mail catchers side by side: how fast they take 10,000 messages, until each can be found; how long a list and a search
// take then; and how much memory they have. `node bench/catchers.ts FOLDER`, where FOLDER/node_modules has the others:
// npm install --ignore-scripts smtp-server mailparser maildev smtp-tester
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { type Socket, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve as absolute } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { nodeFlags } from './flags.ts';

const [others = '.', count = '10000', only] = process.argv.slice(2);
const messages = Number(count);
const [sessions, smtpPort, httpPort, rounds] = [10, 42_025, 42_080, 3];
const total = (answer: { readonly total: number }): number => answer.total;
const root = new URL('../', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'catchers-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

type Catcher = {
  readonly name: string;
  readonly command: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Where the newest 50 are, with `total`, and what finds one message by its subject. */
  readonly list: string;
  readonly search: (subject: string) => string;
};
const rival = (kind: string): readonly string[] => [join(root, 'bench/peers/catcher.cjs'), kind];
const ours = (mode: Readonly<Record<string, string>>) => ({
  command: [...nodeFlags, join(root, 'dist/slimsmtp.mjs'), 'serve'],
  environment: {
    SLIM_CAPTURE: 'on',
    SLIM_CAPTURE_KEEP: `${messages}`,
    SLIM_LISTEN: `smtp://127.0.0.1:${smtpPort}`,
    SLIM_HTTP: `127.0.0.1:${httpPort}`,
    SLIM_DATA: join(folder, 'data'),
    SLIM_MAIL_ROOT: join(folder, 'mail'),
    SLIM_LOG_LEVEL: 'warn',
    ...mode,
  },
});
const catchers: readonly Catcher[] = [
  {
    name: 'SlimSMTP',
    ...ours({}),
    list: '/api/v1/messages?limit=50',
    search: subject => `/api/v1/search?query=${encodeURIComponent(`subject:"${subject}"`)}`,
  },
  {
    name: 'MailDev',
    command: [
      join(absolute(others), 'node_modules/maildev/dist/bin/maildev.js'),
      '--silent',
      '--ip',
      '127.0.0.1',
      '-s',
      `${smtpPort}`,
      '-w',
      `${httpPort}`,
      '--mail-directory',
      join(folder, 'maildev'),
    ],
    list: '/api/email/summary?limit=50',
    search: subject => `/api/email/summary?limit=50&search=${encodeURIComponent(subject)}`,
  },
  {
    name: 'smtp-server with mailparser',
    command: rival('smtp-server'),
    list: '/list?limit=50',
    search: subject => `/list?limit=50&subject=${encodeURIComponent(subject)}`,
  },
  {
    name: 'smtp-tester',
    command: rival('smtp-tester'),
    list: '/list?limit=50',
    search: subject => `/list?limit=50&subject=${encodeURIComponent(subject)}`,
  },
];

const text = Array.from(
  { length: 24 },
  (_, at) => `Line ${at} of a message that a shop sends to a customer of it.`,
).join('\r\n');
const content = (at: number): string =>
  [
    'From: Shop <shop@example.com>',
    `To: Customer <customer${at}@example.net>`,
    `Subject: Your order ${at} is on its way`,
    'Date: Sun, 29 Nov 2026 12:00:00 +0000',
    `Message-ID: <${at}@example.com>`,
    'MIME-Version: 1.0',
    'Content-Type: multipart/alternative; boundary="b"',
    '',
    '--b',
    'Content-Type: text/plain; charset=utf-8',
    '',
    text,
    '--b',
    'Content-Type: text/html; charset=utf-8',
    '',
    `<html><body><p>${text}</p></body></html>`,
    '--b--',
    '.',
    '',
  ].join('\r\n');

/** One session that sends its share, each command behind the reply to the one before. */
async function send(next: () => number | undefined): Promise<void> {
  const socket: Socket = connect(smtpPort, '127.0.0.1');
  let input = '';
  let wake = (): void => {};
  socket.setEncoding('latin1').on('data', (piece: string) => {
    input += piece;
    wake();
  });
  const say = async (line?: string): Promise<void> => {
    if (line !== undefined) socket.write(line);
    for (;;) {
      const found = /^(?:\d{3}-.*\r\n)*([23])\d\d .*\r\n/.exec(input);
      if (found) {
        input = input.slice(found[0].length);
        return;
      }
      if (/^[45]/m.test(input)) throw new Error(input);
      await new Promise<void>(resolve => (wake = resolve));
    }
  };
  await say();
  await say('EHLO bench\r\n');
  for (let at = next(); at !== undefined; at = next()) {
    await say('MAIL FROM:<shop@example.com>\r\n');
    await say(`RCPT TO:<customer${at}@example.net>\r\n`);
    await say('DATA\r\n');
    await say(content(at));
  }
  socket.end('QUIT\r\n');
}

/** A process and all below it. */
const tree = (pid: number): readonly number[] => [
  pid,
  ...readdirSync(`/proc/${pid}/task`)
    .flatMap(task => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim().split(' '))
    .filter(Boolean)
    .flatMap(child => tree(Number(child))),
];
const sum = (pid: number, of: (each: number) => number): number => tree(pid).reduce((all, each) => all + of(each), 0);
/** Of all processes of a catcher together, in MB. */
const memory = (pid: number): number =>
  sum(pid, each => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${each}/status`, 'utf8'))?.[1] ?? 0) / 1024);
/** The processor time that they have used, in seconds. */
const processor = (pid: number): number =>
  sum(pid, each => {
    const fields = readFileSync(`/proc/${each}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return (Number(fields[11]) + Number(fields[12])) / 100;
  });

async function measure({ name, command, environment = {}, list, search }: Catcher): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  const env = {
    PATH: process.env['PATH'],
    NODE_PATH: join(absolute(others), 'node_modules'),
    NODE_ENV: 'production',
    UV_THREADPOOL_SIZE: '16',
    SMTP: `${smtpPort}`,
    HTTP: `${httpPort}`,
    ...environment,
  };
  const child: ChildProcess = spawn(process.execPath, command, { env, stdio: ['ignore', 'ignore', 'inherit'] });
  const get = async (path: string): Promise<never> =>
    (await fetch(`http://127.0.0.1:${httpPort}${path}`)).json() as never;
  const countNow = async (): Promise<number> => total(await get(list));
  const isUp = async (): Promise<boolean> =>
    new Promise(resolve => {
      const socket = connect(smtpPort, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.once('data', () => socket.end('QUIT\r\n'));
    });
  try {
    while (!(await isUp()) || (await countNow().catch(() => -1)) < 0) await pause(100);
    const pid = child.pid ?? 0;
    const [idle, used] = [memory(pid), processor(pid)];
    let at = 0;
    const next = (): number | undefined => (at < messages ? (at += 1) : undefined);
    const startedAt = performance.now();
    await Promise.all(Array.from({ length: sessions }, () => send(next)));
    const taken = performance.now() - startedAt;
    while ((await countNow()) < messages) await pause(20);
    const found = performance.now() - startedAt;
    const cost = ((processor(pid) - used) / messages) * 1000;
    const time = async (path: string): Promise<number> => {
      const times = [];
      for (let round = 0; round < 20; round += 1) {
        const began = performance.now();
        await get(path);
        times.push(performance.now() - began);
      }
      return times.toSorted((one, other) => one - other)[10] ?? 0;
    };
    const listMs = await time(list);
    const searchMs = await time(search(`order ${messages / 2} `));
    const rate = (ms: number): number => Math.round((messages / ms) * 1000);
    const figures = [rate(taken), rate(found), cost.toFixed(2), listMs.toFixed(1), searchMs.toFixed(1)];
    console.log([name, ...figures, Math.round(idle), Math.round(memory(pid))].join('\t'));
  } finally {
    child.kill('SIGKILL');
    await new Promise(resolve => child.once('exit', resolve));
  }
}

console.log(
  ['catcher', 'taken/s', 'found/s', 'processor s/1,000', 'list ms', 'search ms', 'MB idle', 'MB full'].join('\t'),
);
for (let round = 0; round < rounds; round += 1)
  for (const catcher of catchers) if (only === undefined || catcher.name.startsWith(only)) await measure(catcher);
