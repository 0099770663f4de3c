// The first process when the server is started as root. It opens the sockets below port 1024, runs the network process
// as an ordinary user, and does for it the few things that need root (answers.ts).
//
// How it goes: the sockets are opened, the network process is started with them as inherited descriptors, and our own
// copies are closed in the same turn of the event loop, so that no connection is ever accepted here. Then the network
// process gets one message with its settings, and asks; each request is answered or refused. When it ends by itself,
// all of this happens again after two seconds, unless its exit status says that starting again would change nothing.
// SIGTERM and SIGINT become the order to stop, SIGHUP the order to reload: orders go over IPC, because without CAP_KILL
// root may not signal another user. Whoever does not obey in time is left behind, and ends when it notices that we are
// gone.
//
// Promises: a request is answered or refused, whatever it holds. No handle is taken over IPC: a socket could be a
// connection to anything. Never parses mail or speaks to the network, never hands its own environment (secrets) on, and
// shares neither session nor terminal with the network process (output.ts). Whoever breaks into the network process can
// end this one (by leaving with 69, by garbage on the channel): that stops mail, and gains nothing.
import { fork, type ChildProcess, type StdioOptions } from 'node:child_process';
import { type EventEmitter, once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { statusOf } from '../durable/sync.ts';
import type { Log } from '../system/log.ts';
import { type AnswersOptions, openAnswers } from './answers.ts';
import { copyLines } from './output.ts';
import { parseRequest } from './protocol.ts';
import type { Order, Reply, Request, Socket } from './protocol.ts';

export type StewardOptions = Omit<AnswersOptions, 'ownUid'> & {
  /** Whom the network process runs as (`findUser`); undefined: as we are. */
  readonly runAs: { readonly uid: number; readonly gid: number } | undefined;
  /** The sockets that need root: those below port 1024. */
  readonly sockets: readonly Omit<Socket, 'fd'>[];
  /** Handed over in the first message: anything that JSON can hold. */
  readonly settings: unknown;
  /** How long after SIGTERM the network process may take: SLIM_DRAIN and a little. */
  readonly stopWithinMs: number;
};

/** A crash that repeats at every start must not take a whole core. */
const restartMs = 2000;
/**
 * So long we wait for the last words of the network process. A process of its own that it left behind may keep the pipe
 * open.
 */
const outputMs = 2000;

/** What of our environment the network process may see: no secrets (SLIM_, PG, NODE_AUTH_TOKEN …). */
export function cleanEnvironment(all: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const passed = /^(PATH|TZ|LANG|LC_ALL|UV_THREADPOOL_SIZE|NODE_(ENV|OPTIONS|EXTRA_CA_CERTS))$/;
  return Object.fromEntries(Object.entries(all).filter((e): e is [string, string] => !!e[1] && passed.test(e[0])));
}

/** A network process, and what it prints: resolved when all of that is copied. */
type Running = { readonly child: ChildProcess; readonly copied: Promise<unknown> };

/** Runs until told to stop by SIGTERM or SIGINT; the exit status. Throws when the network process cannot be started. */
export async function runSteward(options: StewardOptions): Promise<number> {
  const { log, stopWithinMs } = options;
  let isStopping = false;
  let running: Running | undefined;
  const stop = (): void => {
    if (isStopping) return;
    isStopping = true;
    tell(running?.child, { kind: 'stop' });
    setTimeout(() => void giveUp(running, log), stopWithinMs).unref();
  };
  process.on('SIGTERM', stop).on('SIGINT', stop);
  process.on('SIGHUP', () => tell(running?.child, { kind: 'reload' }));

  for (;;) {
    const servers = await listen(options.sockets);
    running = start(options, servers);
    // In the same turn of the event loop as listen: a connection is never accepted here.
    for (const server of servers) server.close();
    const status = await serve(running, options);
    // 69 EX_UNAVAILABLE (a second server, a port in use) and 78 EX_CONFIG: starting again would change nothing.
    if (isStopping || status === 69 || status === 78) return status;
    log.error({ status }, 'the network process ended by itself and is started again');
    await wait(restartMs);
    if (isStopping) return 0;
  }
}

async function giveUp(running: Running | undefined, log: Log): Promise<void> {
  log.error({}, 'the network process did not stop in time and is left to end without us');
  // Under cap_drop root may not signal another uid: losing us is what ends it for certain.
  running?.child.kill('SIGKILL');
  await Promise.race([running?.copied, wait(200)]);
  process.exit(1);
}

/** Opens the sockets. With addresses (not names) it waits for nothing but Node's own next ticks. */
async function listen(sockets: StewardOptions['sockets']): Promise<Server[]> {
  // As in inbound/listener.ts: [::] leaves IPv4 to a socket of its own, no host is both.
  const servers = sockets.map(({ host, port }) =>
    createServer().listen({ host, port, backlog: 1024, ipv6Only: host !== undefined }),
  );
  await Promise.all(servers.map(server => once(server, 'listening')));
  return servers;
}

/** Forks the network process with the sockets as its descriptors 4 and up. libuv empties its supplementary groups. */
function start(options: StewardOptions, servers: readonly Server[]): Running {
  const [script, ...args] = options.argv;
  // No public name for it: `send(server)` would keep the socket open here, and accepting, until the child confirms.
  const fds = (servers as unknown as { _handle: { fd: number } }[]).map(({ _handle }) => _handle.fd);
  const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', 'ipc', ...fds];
  try {
    // `detached` is setsid(2): a session of its own, without our terminal.
    const child = fork(script, args, { ...options.runAs, env: options.environment, stdio, detached: true });
    const { stdout, stderr } = child;
    const copied = Promise.all([stdout && copyLines(stdout, 1), stderr && copyLines(stderr, 2)]);
    refuseHandles(child, options.log);
    const sockets = options.sockets.map((socket, index) => ({ ...socket, fd: 4 + index }));
    tell(child, { kind: 'start', settings: options.settings, sockets });
    return { child, copied };
  } catch (cause) {
    const why = 'cannot start the network process: to run it as SLIM_RUN_AS, root needs CAP_SETUID and CAP_SETGID';
    throw new Error(why, { cause });
  }
}

/**
 * Takes the place of what Node itself does with a message that has a handle: it would make a socket or a server of it,
 * which then lives in this process. The sender hears that it arrived, because it sends nothing else before.
 */
function refuseHandles(child: ChildProcess, log: Log): void {
  (child as EventEmitter)
    .removeAllListeners('internalMessage')
    .on('internalMessage', (_message: unknown, handle?: { close(): void }) => {
      if (!handle) return;
      handle.close();
      if (child.connected) child.send({ cmd: 'NODE_HANDLE_ACK' }, () => {});
      log.warn({}, 'the network process sent a handle over IPC, which is refused');
    });
}

function tell(child: ChildProcess | undefined, message: Order | Reply): void {
  // An error here is the child's end, which 'exit' reports.
  if (child?.connected) child.send(message, () => {});
}

/** Answers the network process until it has ended, and all that it printed is copied; its exit status. */
async function serve({ child, copied }: Running, options: StewardOptions): Promise<number> {
  const { log, runAs } = options;
  const answers = openAnswers({ ...options, ownUid: runAs?.uid ?? process.getuid?.() ?? 0 });
  child.on('message', async message => {
    const request = parseRequest(message);
    try {
      if (!request) throw new Error('the steward does not understand the request');
      tell(child, { id: request.id, result: await answers.carryOut(request) });
    } catch (error) {
      const shown = request && { ...request, password: undefined };
      log.warn({ request: shown, err: error }, 'the steward could not do what it was asked');
      const { id } = (message ?? {}) as Request;
      tell(child, { id: Number.isInteger(id) ? id : 0, error: (error as Error).message, status: statusOf(error) });
    }
  });
  try {
    const [status] = (await once(child, 'exit')) as [number | null];
    await Promise.race([copied, wait(outputMs, undefined, { ref: false })]);
    return status ?? 1;
  } catch (error) {
    log.error({ err: error }, 'the network process cannot be started');
    return 1;
  } finally {
    answers.close();
  }
}
