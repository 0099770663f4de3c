// The first process when started as root: opens privileged sockets, runs the network process as an ordinary user, and
// does for it the few things that need root: asks for accounts, checks passwords (pam.ts), deposits mail, reads the two TLS files.
// Promises: a request is answered or refused, whatever it holds; what a dead network process left open is removed.
// Never parses mail or speaks to the network, never hands its own environment (secrets) on. Whoever breaks into the
// network process can end this one (by leaving with 69, by garbage on the channel): that stops mail, and gains nothing.
import { fork, type ChildProcess, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { lstat, readFile, readlink, realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { dirname, resolve } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { Log } from '../system/log.ts';
import type { Prepared } from '../mail/ports.ts';
import type { Clock, Random } from '../system/world.ts';
import { decoy } from './account-files.ts';
import { deposit, type Place } from './deposit.ts';
import { createAccounts } from './nss.ts';
import { openPam } from './pam.ts';
import { statusOf } from '../durable/sync.ts';
import { parseRequest } from './protocol.ts';
import type { Order, Reply, Request, Socket, Target, TlsFiles } from './protocol.ts';

export type StewardOptions = {
  /** Whom the network process runs as (`findUser`); undefined: as we are. */
  readonly runAs: { readonly uid: number; readonly gid: number } | undefined;
  /** Only those that need root: below port 1024. */
  readonly sockets: readonly Omit<Socket, 'fd'>[];
  readonly spoolFolder: string;
  readonly tlsFiles: TlsFiles;
  /** The network process: the script and its arguments (a hidden verb). Node's own flags are inherited. */
  readonly argv: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
  /** Handed over in the first message: anything that JSON can hold. */
  readonly settings: unknown;
  /** How long after SIGTERM the network process may take: SLIM_DRAIN and a little. */
  readonly stopWithinMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

/** A crash that repeats at every start must not take a whole core. */
const restartMs = 2000;

/** What of our environment the network process may see: no secrets (SLIM_, PG, NODE_AUTH_TOKEN …). */
export function cleanEnvironment(all: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const passed = /^(PATH|TZ|LANG|LC_ALL|UV_THREADPOOL_SIZE|NODE_(ENV|OPTIONS|EXTRA_CA_CERTS))$/;
  return Object.fromEntries(Object.entries(all).filter((e): e is [string, string] => !!e[1] && passed.test(e[0])));
}

/** Runs until told to stop by SIGTERM or SIGINT; the exit status. Throws when the network process cannot be started. */
export async function runSteward(options: StewardOptions): Promise<number> {
  const { log, stopWithinMs } = options;
  let isStopping = false;
  let child: ChildProcess | undefined;
  const stop = (): void => {
    if (isStopping) return;
    isStopping = true;
    tell(child, { kind: 'stop' });
    setTimeout(() => {
      log.error({}, 'the network process did not stop in time and is left to end without us');
      // Under cap_drop root may not signal another uid: losing us is what ends it for certain.
      child?.kill('SIGKILL');
      process.exit(1);
    }, stopWithinMs).unref();
  };
  process.on('SIGTERM', stop).on('SIGINT', stop);
  process.on('SIGHUP', () => tell(child, { kind: 'reload' }));

  for (;;) {
    const servers = await listen(options.sockets);
    child = start(options, servers);
    // In the same turn of the event loop as listen: a connection is never accepted here.
    for (const server of servers) server.close();
    const status = await serve(child, options);
    // 69 EX_UNAVAILABLE (a second server, a port in use) and 78 EX_CONFIG: starting again would change nothing.
    if (isStopping || status === 69 || status === 78) return status;
    log.error({ status }, 'the network process ended by itself and is started again');
    await wait(restartMs);
    if (isStopping) return 0;
  }
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
function start(options: StewardOptions, servers: readonly Server[]): ChildProcess {
  const [script, ...args] = options.argv;
  // No public name for it: `send(server)` would keep the socket open here, and accepting, until the child confirms.
  const fds = (servers as unknown as { _handle: { fd: number } }[]).map(({ _handle }) => _handle.fd);
  const stdio: StdioOptions = ['ignore', 'inherit', 'inherit', 'ipc', ...fds];
  try {
    const child = fork(script, args, { ...options.runAs, env: options.environment, stdio });
    const sockets = options.sockets.map((socket, index) => ({ ...socket, fd: 4 + index }));
    tell(child, { kind: 'start', settings: options.settings, sockets });
    return child;
  } catch (cause) {
    const why = 'cannot start the network process: to run it as SLIM_RUN_AS, root needs CAP_SETUID and CAP_SETGID';
    throw new Error(why, { cause });
  }
}

function tell(child: ChildProcess | undefined, message: Order | Reply): void {
  // An error here is the child's end, which 'exit' reports.
  if (child?.connected) child.send(message, () => {});
}

/** Answers the network process until it has ended; its exit status. */
async function serve(child: ChildProcess, options: StewardOptions): Promise<number> {
  const { log } = options;
  const desk = openDesk(options);
  child.on('message', async message => {
    const request = parseRequest(message);
    try {
      if (!request) throw new Error('the steward does not understand the request');
      tell(child, { id: request.id, result: await desk.carryOut(request) });
    } catch (error) {
      const shown = request && { ...request, password: undefined };
      log.warn({ request: shown, err: error }, 'the steward could not do what it was asked');
      const { id } = (message ?? {}) as Request;
      tell(child, { id: Number.isInteger(id) ? id : 0, error: (error as Error).message, status: statusOf(error) });
    }
  });
  try {
    const [status] = (await once(child, 'exit')) as [number | null];
    return status ?? 1;
  } catch (error) {
    log.error({ err: error }, 'the network process cannot be started');
    return 1;
  } finally {
    desk.close();
  }
}

/** What one network process asks for, and the deposits that it has open. */
function openDesk({ clock, random, spoolFolder, tlsFiles, runAs, argv, environment }: StewardOptions) {
  const ownUid = runAs?.uid ?? process.getuid?.() ?? 0;
  const accounts = createAccounts(ownUid);
  const pam = openPam(argv, environment);
  const open = new Map<number, Promise<Prepared>>();

  async function prepare({ id, spool, targets }: Extract<Request, { kind: 'prepare' }>): Promise<void> {
    if (open.has(id) || open.size >= 1000) throw new Error('too many deposits at once');
    const findPlace = async ({ account: name, folder }: Target): Promise<Place> => {
      const account = await accounts.find(name);
      if (!account) throw new Error(`there is no account ${name} for mail (any more)`);
      return { account, folder };
    };
    const prepared = Promise.all(targets.map(findPlace)).then(places =>
      deposit({ spoolFolder, spoolUid: ownUid, clock, random }, spool, places),
    );
    open.set(id, prepared);
    // A failed one has left nothing: it is only taken off the books.
    prepared.catch(() => open.get(id) === prepared && open.delete(id));
    await prepared;
  }

  /** Ends a deposit, once; an `abort` may well come before it is prepared. */
  async function end(token: number, how: 'commit' | 'abort'): Promise<void> {
    const prepared = open.get(token);
    if (!prepared && how === 'commit') throw new Error('there is no such deposit (any more)');
    open.delete(token);
    await (await prepared)?.[how]();
  }

  /** Not by way of anything of the network process's own: a link there could lead root anywhere, and it needs no root. Nor what is no PEM. */
  async function readTls(path: string | undefined): Promise<string | undefined> {
    let next = path;
    while (next !== undefined) {
      const folder = await realpath(dirname(resolve(next)));
      for (const way of [resolve(next), folder])
        for (let at = way; at !== '/'; at = dirname(at)) if ((await lstat(at)).uid === ownUid) return undefined;
      next = (await lstat(next)).isSymbolicLink() ? resolve(folder, await readlink(next)) : undefined;
    }
    const text = path && (await readFile(path, 'utf8'));
    if (text && !text.includes('-----BEGIN ')) throw new Error(`${path} is no PEM file`);
    return text;
  }

  /** What is no account is held against the decoy: the same work in the same line, else time would tell. */
  async function authenticate({ name, password }: Extract<Request, { kind: 'authenticate' }>): Promise<boolean> {
    const isAccount = (await accounts.find(name)) !== undefined;
    return (await pam.authenticate(isAccount ? name : decoy, password)) && isAccount;
  }

  async function carryOut(request: Request): Promise<unknown> {
    switch (request.kind) {
      case 'account':
        return accounts.find(request.name);
      case 'owner':
        return accounts.owner(request.path);
      case 'authenticate':
        return authenticate(request);
      case 'prepare':
        return prepare(request);
      case 'commit':
      case 'abort':
        return end(request.token, request.kind);
      case 'tls':
        return { cert: await readTls(tlsFiles.cert), key: await readTls(tlsFiles.key) };
      default:
        return request satisfies never;
    }
  }

  const close = (): void => {
    pam.close();
    for (const token of open.keys()) end(token, 'abort').catch(() => {});
  };
  return { carryOut, close };
}
