// The listening sockets, and the limits on how many sessions there may be.
// Promises: a client beyond a limit hears 421 and costs nothing more. On drain no new session begins, open transactions
// may end, and everything is gone after the time that was given. Greetings are fast, because nothing is looked up or
// waited for before them, and the kernel's queue of new connections is long.
// RFC 5321 §3.1 and §3.8, RFC 8314 (submissions).
import { once } from 'node:events';
import { type Server, type Socket, createServer } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Listen } from '../mail/event.ts';
import { type Reply, encodeReply, replies } from '../smtp/reply.ts';
import type { Gatherer } from '../system/gather.ts';
import { clientKey } from './peer.ts';
import type { Introduce, Introduced } from './proxy.ts';

export type ListenSocket = Readonly<{
  kind: 'smtp' | 'submission' | 'submissions';
  host: string | undefined; // undefined: every address, IPv6 and IPv4
  port: number;
  fd?: number; // a socket that listens already, opened by the steward
}>;

type Session = { drain(): void; end(reply: Reply): void };
type ListenerOptions = Readonly<{
  sockets: readonly ListenSocket[];
  maxSessions: number; // 0: no limit
  maxSessionsPerClient: number;
  /** Addresses behind which every client may hide (a container's gateway): no limit for each of them. */
  isShared: (client: string) => boolean;
  /** Unset: there are no proxies. */
  introduce?: Introduce | undefined;
  open: (socket: Socket, listener: ListenSocket, who: Introduced, onClose: () => void) => Session;
  gatherer: Gatherer;
  listen?: Listen | undefined;
}>;

const advice: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program listens there; stop it or choose another port in SLIM_LISTEN',
  EACCES: 'ports below 1024 need root, CAP_NET_BIND_SERVICE, or another port in SLIM_LISTEN',
  EADDRNOTAVAIL: 'this host has no such address; correct SLIM_LISTEN',
};

export class Listeners {
  readonly #options: ListenerOptions;
  readonly #servers: Server[] = [];
  readonly #sessions = new Set<Session>();
  readonly #perClient = new Map<string, number>();

  constructor(options: ListenerOptions) {
    this.#options = options;
  }

  get sessions(): number {
    return this.#sessions.size;
  }

  get isListening(): boolean {
    return this.#servers.length > 0 && this.#servers.every(server => server.listening);
  }

  /** Rejects with a sentence that names the address when one cannot be had. */
  async open(): Promise<void> {
    for (const socket of this.#options.sockets) {
      // Half-open: a client that closes its side behind QUIT still gets its replies.
      const server = createServer({ noDelay: true, allowHalfOpen: true }, client => this.#take(client, socket));
      this.#servers.push(server);
      const { host, port, fd } = socket;
      // Without a host Node takes both families, or IPv4 where this host has no IPv6; [::] leaves IPv4 to a socket of
      // its own.
      server.listen({ backlog: 1024, ...(fd === undefined ? { host, port, ipv6Only: host !== undefined } : { fd }) });
      await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
        const reason = advice[cause.code ?? ''] ?? cause.message;
        throw new Error(`cannot listen on ${host ?? ''}:${port}: ${reason}`, { cause });
      });
      // For example out of descriptors: without a listener for this event the process would end.
      server.on('error', error => this.#report('', error.message));
    }
  }

  /** Resolves when the last session has ended, at the latest a moment after `graceMs`. */
  async drain(graceMs: number): Promise<void> {
    for (const server of this.#servers) server.close();
    for (const session of this.#sessions) session.drain();
    for (let waited = 0; waited < graceMs && this.#sessions.size > 0; waited += 20) await pause(20);
    for (const session of this.#sessions) session.end(replies.shuttingDown);
    if (this.#sessions.size > 0) await pause(200); // the last words are on their way
    this.#options.gatherer.flush();
  }

  /** A surprise costs that client its connection, and nobody else anything. */
  #take(client: Socket, socket: ListenSocket): void {
    const fail = (error: unknown): void => {
      client.destroy();
      this.#report('', String(error));
    };
    try {
      this.accept(client, socket)?.catch(fail);
    } catch (error) {
      fail(error);
    }
  }

  /** Takes in a client, or turns it away: at once, or when its proxy has said who it is. */
  accept(socket: Socket, listener: ListenSocket): Promise<void> | undefined {
    const address = (socket.remoteAddress ?? '').replace(/^::ffff:|%.*$/g, '');
    if (address === '') return void socket.destroy(); // gone already
    const introduced = this.#isFull ? undefined : this.#options.introduce?.(socket, address);
    if (introduced) return this.#waitFor(introduced, socket, listener);
    return void this.#admit(socket, listener, { client: address, isProxys: false });
  }

  /** A proxy's connection counts as a session while it is not known for whom the proxy speaks. */
  async #waitFor(introduced: Promise<Introduced | undefined>, socket: Socket, listener: ListenSocket): Promise<void> {
    const leave = (): void => void socket.destroy();
    const waiting = { drain: leave, end: leave };
    this.#sessions.add(waiting);
    const who = await introduced.finally(() => this.#sessions.delete(waiting));
    if (who === undefined) leave();
    else this.#admit(socket, listener, who);
  }

  get #isFull(): boolean {
    const { maxSessions } = this.#options;
    return maxSessions > 0 && this.#sessions.size >= maxSessions;
  }

  #admit(socket: Socket, listener: ListenSocket, who: Introduced): void {
    const { maxSessionsPerClient, isShared, open, listen } = this.#options;
    const { client } = who;
    const key = clientKey(client);
    const held = this.#perClient.get(key) ?? 0;
    const isOver = this.#isFull;
    if (isOver || (maxSessionsPerClient > 0 && held >= maxSessionsPerClient && !isShared(client))) {
      this.#report(client, isOver ? 'SLIM_MAX_SESSIONS' : 'SLIM_MAX_SESSIONS_PER_CLIENT');
      listen?.({ kind: 'turned away', client, because: isOver ? 'sessions' : 'sessions of a client' });
      // The socket is read on, so that its end is seen: it is gone as soon as the client is.
      socket.on('error', () => socket.destroy()).resume();
      socket.end(encodeReply(replies.tooMany('sessions, try again later'), true), 'latin1');
      return void setTimeout(() => socket.destroy(), 1000).unref();
    }
    this.#perClient.set(key, held + 1);
    const session = open(socket, listener, who, () => {
      this.#sessions.delete(session);
      const left = (this.#perClient.get(key) ?? 1) - 1;
      if (left === 0) this.#perClient.delete(key);
      else this.#perClient.set(key, left);
    });
    this.#sessions.add(session);
  }

  /** Logs a line a minute for each reason, because a flood of clients must not become a flood of log lines. */
  #report(client: string, reason: string): void {
    this.#options.gatherer.line('warn', reason, { client, reason }, 'clients were turned away', 1);
  }
}
