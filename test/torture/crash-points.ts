// Points at which a server can be ended: one call of the operating system, in one thread, at its N-th time, by strace.
// Promises: threads and calls are found by looking at what the server does, not by knowing how it is made; they are
// counted for each thread alone, from when strace is attached (so a start costs nothing). Wants UV_THREADPOOL_SIZE=1,
// and leave to trace.
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import type { Server } from './server.ts';

/** Everything that changes files, or tells somebody. */
const calls = [
  'write pwrite64 writev pwritev pwritev2 sendmsg sendto copy_file_range sendfile openat ftruncate truncate fallocate',
  'fsync fdatasync sync_file_range syncfs msync rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat rmdir',
].flatMap(names => names.split(' '));

/** A call of one kind of thread, and how often it was made. */
export type Series = { readonly thread: string; readonly call: string; readonly count: number };
export type Point = { readonly thread: string; readonly call: string; readonly at: number };
type Trace = {
  /** Lets the server go on without it; resolves with what was traced. */
  detach(): Promise<string>;
};

/** Traces one kind of thread, or all. Rejects with what to do where nothing can be traced. */
async function attach(server: Server, thread: string | undefined, options: readonly string[]): Promise<Trace> {
  const pid = server.process.pid ?? 0;
  const ids = threadsOf(pid).flatMap(({ id, name }) => (name === thread ? [id] : []));
  const target = thread === undefined ? ['-f', '-p', `${pid}`] : ids.flatMap(id => ['-p', id]);
  const strace = spawn('strace', [...options, ...target], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  strace.stderr.setEncoding('utf8').on('data', (part: string) => (said += part));
  const ended = new Promise<void>(resolve => {
    strace.on('close', () => resolve()).on('error', error => ((said += String(error)), resolve()));
  });
  const wanted = thread === undefined ? 1 : ids.length;
  const isAttached = (): boolean => wanted > 0 && (said.match(/ attached/g)?.length ?? 0) >= wanted;
  while (!isAttached() && strace.exitCode === null && strace.signalCode === null)
    await new Promise(resolve => setTimeout(resolve, 2));
  if (!isAttached())
    throw new Error(`strace is wanted (apt-get install strace), and leave to trace ${thread}: ${said}`);
  return {
    async detach() {
      strace.kill('SIGTERM');
      await ended;
      return said;
    },
  };
}

/** What a server does, from now until `stop`. */
export async function watch(server: Server): Promise<{ stop(): Promise<Series[]> }> {
  const trace = await attach(server, undefined, ['-e', `trace=${calls.map(call => `?${call}`).join(',')}`]);
  const names = new Map<string, string>();
  const look = (): void => {
    if (!server.hasEnded()) for (const { id, name } of threadsOf(server.process.pid ?? 0)) names.set(id, name);
  };
  look();
  const timer = setInterval(look, 50);
  return {
    async stop() {
      clearInterval(timer);
      // Not those of its children; V8's threads only wake others.
      const found = [...(await trace.detach()).matchAll(/^\[pid +(\d+)\] (\w+)\(/gm)]
        .map(([, id = '', call = '']) => ({ thread: names.get(id) ?? '', call }))
        .filter(({ thread }) => thread !== '' && thread !== 'V8Worker');
      return [...Map.groupBy(found, ({ thread, call }) => `${thread} ${call}`).values()].map(group => {
        return { thread: '', call: '', ...group[0], count: group.length };
      });
    },
  };
}

/** Each point; `take`: no more than so many, spread over the series and within each. */
export function pointsOf(series: readonly Series[], take = Infinity): Point[] {
  const all = series.flatMap(({ thread, call, count }) =>
    Array.from({ length: count }, (_, index) => ({ thread, call, at: index + 1 })),
  );
  if (take >= all.length) return all;
  return Array.from({ length: take }, (_, index) => {
    const { thread, call, count } = series[Math.floor((index * series.length) / take)] ?? {
      thread: '',
      call: '',
      count: 0,
    };
    return { thread, call, at: 1 + Math.floor(((index * 0.618) % 1) * count) };
  });
}

/** SIGKILL at that point. */
export const killAt = (server: Server, { thread, call, at }: Point): Promise<Trace> =>
  attach(server, thread, ['-e', `trace=${call}`, '-e', `inject=${call}:signal=KILL:when=${at}`]);

/** An error instead of the call: at that point, without `at` at each of them; without a thread in all. */
export function failAt(server: Server, { thread, call, at }: Fault, error: string): Promise<Trace> {
  const inject = `inject=${call}:error=${error}${at === undefined ? '' : `:when=${at}`}`;
  return attach(server, thread, ['-e', `trace=${call}`, '-e', inject]);
}
export type Fault = { readonly thread?: string | undefined; readonly call: string; readonly at?: number };

function threadsOf(pid: number): { id: string; name: string }[] {
  return readdirSync(`/proc/${pid}/task`).flatMap(id => {
    const comm = `/proc/${pid}/task/${id}/comm`;
    try {
      return { id, name: readFileSync(comm, 'utf8').trim() };
    } catch {
      return []; // it has ended meanwhile
    }
  });
}
