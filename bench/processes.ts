// Runs programs, and servers in a PID namespace of their own, where nothing escapes: daemons that fork away stay
// countable, and all end together.
// Promises: a server's processor time and memory are those of all its processes, ended ones included; when this process
// dies, however, they die too. Linux only; needs root for the namespace.
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readdirSync } from 'node:fs';

const ticksPerSecond = 100;
const pageBytes = 4096;

export type Command = { readonly argv: readonly string[]; readonly env?: Record<string, string> };

const running = new Set<{ end(): Promise<unknown> }>();
let isOver = false;

/** Ends all that runs, and whatever is about to be started fails. */
export async function endAll(): Promise<void> {
  isOver = true;
  await Promise.all([...running].map(one => one.end()));
}

function begin(one: { end(): Promise<unknown> }, over: Promise<unknown>): void {
  running.add(one);
  void over.catch(() => {}).finally(() => running.delete(one));
}

/** Runs it to its end; resolves with what it printed, rejects with what it complained of. */
export async function run(
  argv: readonly string[],
  { input = '', cwd = '/', env = {} }: { input?: string; cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  if (isOver) throw new Error('the benchmark is over');
  const [program = '', ...parameters] = argv;
  const child = spawn(program, parameters, { cwd, env: { ...process.env, ...env }, stdio: 'pipe', detached: true });
  let printed = '';
  let complained = '';
  child.stdout.setEncoding('utf8').on('data', text => (printed += text));
  child.stderr.setEncoding('utf8').on('data', text => (complained += text));
  child.stdin.on('error', () => {}).end(input);
  const over = ended(child);
  begin({ end: () => endWithin(over, signal => process.kill(-child.pid!, signal)) }, over);
  const code = await over;
  if (code === 0) return printed;
  throw new Error(`${argv.join(' ').slice(0, 200)}: status ${code}\n${(complained || printed).slice(-1000)}`);
}

/** SIGTERM, and SIGKILL five seconds later. */
async function endWithin(over: Promise<unknown>, kill: (signal: NodeJS.Signals) => void): Promise<void> {
  const tell = (signal: NodeJS.Signals): void => {
    try {
      kill(signal);
    } catch {} // It has just ended.
  };
  tell('SIGTERM');
  const timer = setTimeout(tell, 5000, 'SIGKILL');
  await over.catch(() => {});
  clearTimeout(timer);
}

function ended(child: ChildProcess): Promise<number | NodeJS.Signals | null> {
  return new Promise((resolve, reject) => {
    child.on('close', (code, signal) => resolve(signal ?? code)).on('error', reject);
  });
}

// The first process of the namespace: adopts orphans, so that their processor time is counted, and passes SIGTERM on to
// all. The limit is the one of a shell: Node has raised its own, and a server that closes each descriptor it might have
// (Exim) would do little else.
const init = `ulimit -Sn 1024; trap 'kill -TERM -1' TERM
"$@" & server=$!; while kill -0 $server 2>/dev/null; do wait $server; done`;

/** A program with all that it starts. `log`: a file for what it says, or a stream's consumer. */
export class Tree {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  isRunning = true;

  constructor({ argv, env = {} }: Command, log: string | ((text: string) => void)) {
    if (isOver) throw new Error('the benchmark is over');
    const file = typeof log === 'string' ? openSync(log, 'a') : undefined;
    const stdio: StdioOptions = ['ignore', file ?? 'pipe', file ?? 'pipe'];
    const inside = ['unshare', '--pid', '--fork', '--kill-child', 'sh', '-c', init, 'sh', ...argv];
    // A session of its own: Ctrl-C is for us, and we end it.
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', ...inside], {
      cwd: '/',
      detached: true,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', ...env },
      stdio,
    });
    if (file !== undefined) closeSync(file);
    if (typeof log === 'function')
      for (const stream of [this.#child.stdout, this.#child.stderr]) stream?.on('data', log);
    this.#ended = ended(this.#child).finally(() => (this.isRunning = false));
    begin({ end: () => this.stop() }, this.#ended);
  }

  /** SIGTERM to each of its processes, and SIGKILL five seconds later. */
  async stop(): Promise<void> {
    const first = processes().find(({ parent }) => parent === this.#child.pid)?.pid;
    // unshare ignores SIGTERM, and at its own end the namespace ends.
    await endWithin(
      this.#ended,
      signal => this.isRunning && process.kill((signal === 'SIGTERM' && first) || this.#child.pid!, signal),
    );
  }

  /** Of all its processes, and of those that have ended. */
  processorSeconds(): number {
    return sum(this.#all().map(({ ticks }) => ticks)) / ticksPerSecond;
  }

  residentBytes(): number {
    return sum(this.#all().map(({ resident }) => resident));
  }

  /** Shared pages divided among those who share them: what one process more really costs. */
  proportionalBytes(): number {
    return sum(
      this.#all().map(({ pid }) => Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) * 1024),
    );
  }

  #all(): Known[] {
    const known = processes();
    const found = known.filter(({ pid }) => pid === this.#child.pid);
    for (const { pid } of found) found.push(...known.filter(({ parent }) => parent === pid));
    // Without unshare itself, whose few pages are ours.
    return found.slice(1);
  }
}

type Known = { pid: number; parent: number; ticks: number; resident: number };

function processes(): Known[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(name => {
      const stat = read(`/proc/${name}/stat`);
      // The name of the program, in brackets, may hold spaces and brackets.
      const field = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const ticks = sum(field.slice(11, 15).map(Number));
      return { pid: Number(name), parent: Number(field[1]), ticks, resident: Number(field[21]) * pageBytes };
    })
    .filter(({ parent }) => !Number.isNaN(parent));
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return ''; // It has just ended.
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
