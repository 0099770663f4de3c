// A whole server that captures, started from the sources as people start it, with everything in a folder of its own.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { freePort } from '../ports.ts';
import { dial } from './client.ts';

const root = new URL('../../', import.meta.url).pathname;

export type Catcher = Awaited<ReturnType<typeof startCatcher>>;

type How = {
  readonly settings?: Readonly<Record<string, string>>;
  readonly folder?: string;
  /** A program in front of the server, such as strace. */
  readonly prefix?: readonly string[];
};

/** Resolves when it is ready; rejects with its log when it ends before that. */
export async function startCatcher(t: Pick<TestContext, 'after'>, { settings = {}, folder, prefix = [] }: How = {}) {
  const place = folder ?? mkdtempSync(join(tmpdir(), 'capture-'));
  const smtp = await freePort();
  const submission = await freePort();
  const http = await freePort();
  const [program = '', ...words] = [
    ...prefix,
    process.execPath,
    '--disallow-code-generation-from-strings',
    '--disable-proto=delete',
    join(root, 'src/cli.ts'),
    'serve',
  ];
  const server: ChildProcess = spawn(program, words, {
    cwd: place,
    env: {
      PATH: process.env['PATH'],
      SLIM_CAPTURE: 'on',
      SLIM_LISTEN: `smtp://127.0.0.1:${smtp} submission://127.0.0.1:${submission}`,
      SLIM_HTTP: `127.0.0.1:${http}`,
      SLIM_DATA: join(place, 'data'),
      SLIM_MAIL_ROOT: join(place, 'mail'),
      SLIM_LOG_FORMAT: 'json',
      SLIM_DRAIN: '1s',
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  let hasEnded = false;
  const ended = new Promise<number | null>(resolve =>
    server.once('exit', status => {
      hasEnded = true;
      resolve(status);
    }),
  );
  const stop = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<void> => {
    server.kill(signal);
    await ended;
  };
  t.after(async () => {
    if (!hasEnded) await stop();
    if (folder === undefined) rmSync(place, { recursive: true, force: true });
  });
  await new Promise<void>((resolve, reject) => {
    const hear = (piece: Buffer): void => {
      log += piece.toString();
      if (log.includes('"msg":"ready"')) resolve();
    };
    server.stdout?.on('data', hear);
    server.stderr?.on('data', hear);
    void ended.then(status => reject(new Error(`the server has ended with ${status}:\n${log}`)));
  });
  const captured = join(place, 'mail/captured');
  const url = `http://127.0.0.1:${http}`;
  return {
    folder: place,
    captured,
    smtp,
    submission,
    url,
    ended,
    stop,
    pid: server.pid ?? 0,
    log: () => log,
    files: (name: string): readonly string[] =>
      existsSync(join(captured, name)) ? readdirSync(join(captured, name)).toSorted() : [],
    get: async (path: string) => (await fetch(url + path)).json(),
    /** Sends a message; the last reply. */
    async send(to: string, message = 'Subject: hello\r\n\r\nhello\r\n', from = 'app@example.com'): Promise<string> {
      const client = await dial(smtp);
      try {
        for (const line of [`MAIL FROM:<${from}>`, `RCPT TO:<${to}>`, 'DATA']) {
          const reply = await client.say(line);
          if (!/^[23]/.test(reply)) return reply;
        }
        client.send(`${message}.\r\n`);
        return await client.say();
      } finally {
        client.socket.destroy();
      }
    },
  };
}

/** The ids of all processes below one, itself not among them. */
export function processesBelow(pid: number): readonly { readonly pid: number; readonly command: string }[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  const children = existsSync(path) ? readFileSync(path, 'utf8').trim().split(' ').filter(Boolean).map(Number) : [];
  return children.flatMap(child => {
    const command = readFileSync(`/proc/${child}/cmdline`, 'utf8').replaceAll('\0', ' ');
    return [{ pid: child, command }, ...processesBelow(child)];
  });
}
