// Starts the very bundle that the image runs, as an ordinary user without a steward, so that faults can be injected
// into one process.
// Promises: a folder of its own that the user can reach wherever the clone lies; every process started here is ended
// with the test.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { dial } from '../integration/client.ts';
import { freePort } from '../ports.ts';

const root = new URL('../../', import.meta.url).pathname;
const run = promisify(execFile);
/** Nobody's account; where we are no root ourselves, it is us. */
export const user = process.getuid?.() === 0 ? { uid: 6252, gid: 6252 } : {};

export type Server = {
  readonly port: number;
  readonly submissionPort: number;
  /** TLS from the first octet on. */
  readonly submissionsPort: number;
  readonly process: ChildProcess;
  /** All that it has said so far. */
  log(): string;
  hasEnded(): boolean;
  /** Resolves with the exit status or the signal. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
  /** SIGTERM; resolves at its end. */
  stop(): Promise<void>;
  /** SIGKILL; resolves at its end. */
  kill(): Promise<void>;
};

export type Place = {
  /** Below it everything of this server: data/, mail/. Handed to the user. */
  readonly folder: string;
  /** Resolves when it is ready, or has ended, or says nothing for 10 s (`isPatient`: a minute). */
  start(
    settings?: Record<string, string>,
    how?: { prefix?: readonly string[]; ports?: [number, number]; isPatient?: boolean },
  ): Promise<Server>;
  /** What a verb of the command line prints. */
  slimsmtp(...words: string[]): Promise<string>;
  /** Another folder for the same programs. */
  another(folder?: string): Place;
};

/**
 * `folder`: where mail and data go, a new one unless given. `after`: registers what is to be undone, at once.
 * `version`: a commit of this repository, in place of what stands here.
 */
export async function openPlace(
  after: (undo: () => Promise<void>) => void,
  folder?: string,
  version?: string,
): Promise<Place> {
  const programs = mkdtempSync(join(tmpdir(), 'slimsmtp-torture-'));
  chmodSync(programs, 0o755);
  const running = new Set<Server>();
  after(async () => {
    await Promise.all([...running].map(server => server.kill()));
    rmSync(programs, { recursive: true, force: true });
  });
  const node = join(programs, 'node');
  try {
    linkSync(process.execPath, node); // 120 MB
  } catch {
    copyFileSync(process.execPath, node);
  }
  const bundle = join(programs, 'slimsmtp.mjs');
  const sources = version === undefined ? root : await sourcesOf(version, join(programs, 'sources'));
  await run('npm', ['run', '--silent', 'build', '--', `--outdir=${programs}`], { cwd: sources });
  const flags = ['--disallow-code-generation-from-strings', '--disable-proto=delete', '--max-semi-space-size=4'];
  const cache = join(programs, 'compiled');
  mkdirSync(cache);
  if (user.uid !== undefined) chownSync(cache, user.uid, user.gid);

  let folders = 0;
  const placeAt = (own: string): Place => {
    mkdirSync(own, { recursive: true });
    if (user.uid !== undefined) chownSync(own, user.uid, user.gid);
    const environment = (settings: Record<string, string>): NodeJS.ProcessEnv => ({
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: cache,
      UV_THREADPOOL_SIZE: '16',
      SLIM_DOMAINS: 'example.com',
      SLIM_HOSTNAME: 'mx.example.com',
      SLIM_DATA: join(own, 'data'),
      SLIM_MAIL_ROOT: join(own, 'mail'),
      SLIM_STORAGES: `default=${join(own, 'mail', 'default')}`,
      ...settings,
    });
    return {
      folder: own,
      another: other => placeAt(other ?? join(programs, `own${(folders += 1)}`)),
      async slimsmtp(...words) {
        const options = { cwd: own, env: environment({}), ...user, maxBuffer: 1 << 28 };
        return (await run(node, [...flags, bundle, ...words], options)).stdout;
      },
      async start(settings = {}, { prefix = [], ports, isPatient = false } = {}) {
        const [port, submissionPort] = ports ?? [await freePort(), await freePort()];
        const submissionsPort = await freePort();
        const at = (kind: string, itsPort: number): string => `${kind}://127.0.0.1:${itsPort}`;
        const SLIM_LISTEN = `${at('smtp', port)} ${at('submission', submissionPort)} ${at('submissions', submissionsPort)}`;
        const [program = '', ...parameters] = [...prefix, node, ...flags, bundle, 'serve'];
        const child = spawn(program, parameters, {
          cwd: own,
          env: environment({ SLIM_LISTEN, ...settings }),
          stdio: ['ignore', 'pipe', 'pipe'],
          ...user,
        });
        const ready = Promise.withResolvers<void>();
        const said: string[] = [];
        for (const stream of [child.stdout, child.stderr])
          stream.setEncoding('utf8').on('data', (text: string) => {
            said.push(text);
            if (text.includes('"ready"')) ready.resolve();
          });
        const ended = new Promise<number | NodeJS.Signals | null>(resolve =>
          child
            .on('exit', (code, signal) => (running.delete(server), resolve(signal ?? code)))
            .on('error', error => {
              said.push(String(error));
              resolve(null);
            }),
        );
        const end = async (signal: NodeJS.Signals): Promise<void> => {
          // Behind a prefix it is the child of a child, and outlives a strace that is killed.
          const below = `/proc/${child.pid}/task/${child.pid}/children`;
          const [pid] = prefix.length > 0 && existsSync(below) ? readFileSync(below, 'utf8').split(' ') : [];
          if (pid) process.kill(Number(pid), signal);
          else child.kill(signal);
          await ended;
        };
        const log = (): string => said.join('');
        const server: Server = {
          port,
          submissionPort,
          submissionsPort,
          process: child,
          log,
          hasEnded: () => child.exitCode !== null || child.signalCode !== null,
          ended,
          stop: () => end('SIGTERM'),
          kill: () => end('SIGKILL'),
        };
        running.add(server);
        const patience = setTimeout(() => ready.resolve(), isPatient ? 60_000 : 10_000);
        await Promise.race([ready.promise, ended]);
        clearTimeout(patience);
        return server;
      },
    };
  };
  return placeAt(folder ?? join(programs, 'own'));
}

/** The sources of an old version, with the packages of today. */
async function sourcesOf(version: string, folder: string): Promise<string> {
  mkdirSync(folder);
  const unpack = 'set -e; git cat-file -e "$1"; git archive "$1" | tar -x -C "$2"';
  await run('sh', ['-c', unpack, 'sh', version, folder], { cwd: root });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

/**
 * Undoes in reverse order, at the end of the tests, also when they are ended by a signal. Call it at the top of a file.
 */
export function undoing(after: (undo: () => Promise<void>) => void): (undo: () => Promise<void>) => void {
  const undos: (() => Promise<void>)[] = [];
  const all = async (): Promise<void> => {
    for (const undo of undos.splice(0).toReversed()) await undo();
  };
  after(all);
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => void all().finally(() => process.exit(1)));
  return undo => void undos.push(undo);
}

export { dial };
