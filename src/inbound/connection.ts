// One client's connection: a loop that carries out what the session asks for, and the one deadline that holds then.
// Promises: one action at a time, replies leave in the order of the commands and together where they were pipelined; a
// client that does not read, sends too slowly or vanishes costs a bounded time and memory; a surprise is a 421 and a log line.
// RFC 5321 §4.5.3.2 (timeouts) and §3.8; RFC 3207.
import type { Socket } from 'node:net';
import { type SecureContext, TLSSocket } from 'node:tls';
import type { Log, Resolve, Route } from '../mail.ts';
import type { Recipient } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { type Action, Session, type SessionOptions } from '../smtp/session.ts';
import { type AcceptOptions, Incoming } from './accept.ts';
import { answerRecipient } from './policy.ts';

/** For a command or more content (RFC 5321 §4.5.3.2.7), a handshake, a whole message, and for hearing the last word. */
const idleTimeoutMs = 5 * 60_000;
const handshakeTimeoutMs = 60_000;
const messageTimeoutMs = 60 * 60_000;
const closingTimeoutMs = 5000;

/** What the sessions' accepted recipients lead to; kept here so that an idle session has no map of its own. */
const routesOf = new WeakMap<Recipient, readonly Route[]>();

export type ConnectionOptions = {
  readonly session: SessionOptions;
  readonly accept: AcceptOptions;
  readonly resolve: Resolve;
  readonly secureContext: () => SecureContext;
  /** For the log: which socket was used, and the client's address without `::ffff:`. */
  readonly id: string;
  readonly listener: string;
  readonly client: string;
  readonly log: Log;
};

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #session: Session;
  #socket: Socket;
  #state: 'serving' | 'draining' | 'closing' = 'serving';
  #wake = (): void => undefined;
  #timer: NodeJS.Timeout | undefined;
  #tls: string | undefined;
  #incoming: Incoming | undefined;
  readonly #counts = { messages: 0, refused: 0 };
  #end = 'client closed';

  /** `onClose` is called once, when the connection and all that it held are gone. */
  constructor(socket: Socket, options: ConnectionOptions, onClose: () => void) {
    this.#options = options;
    this.#session = new Session(options.session);
    this.#socket = this.#watch(socket);
    void this.#run().finally(onClose);
  }

  /** Ends as soon as no transaction is open. */
  drain(): void {
    if (this.#state === 'serving') this.#state = 'draining';
    this.#wake();
  }

  /** Ends now, with a last word: this one, or what the session has said itself to end the dialogue. */
  end(reply: Reply): void {
    if (!this.#isOpen) return;
    this.#state = 'closing';
    this.#session.end(reply);
    const output = this.#session.output();
    this.#end = output.trimEnd().split('\n').at(-1) ?? '';
    this.#socket.end(output, 'latin1');
    this.#deadline(closingTimeoutMs, () => this.#socket.destroy());
    this.#wake();
  }

  get #isOpen(): boolean {
    return this.#state !== 'closing' && !this.#socket.destroyed;
  }

  #watch(socket: Socket): Socket {
    const wake = (): void => this.#wake();
    for (const event of ['readable', 'end', 'drain', 'secure', 'close']) socket.on(event, wake);
    return socket.on('error', error => void (this.#end = error.message));
  }

  /** Sleeps until anything happens at all: whoever waits looks for itself whether it was that. */
  #event(): Promise<void> {
    return new Promise(resolve => (this.#wake = resolve));
  }

  #deadline(ms: number, late: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(late, ms);
  }

  /** The whole life of the connection. Whatever is under way when the socket goes (a commit, say) is finished first. */
  async #run(): Promise<void> {
    const { accept, id, listener, client, log, session } = this.#options;
    const startedAt = accept.clock.now();
    try {
      if (session.isSecure) await this.#handshake();
      else this.#deadline(idleTimeoutMs, () => this.end(replies.timeout));
      while (this.#isOpen) {
        if (this.#state === 'draining' && !this.#session.isInTransaction) this.end(replies.shuttingDown);
        else await this.#carryOut(this.#session.next());
      }
    } catch (error) {
      log.error({ session: id, err: error }, 'a session failed');
      this.end(replies.internalError);
    }
    await this.#incoming?.discard();
    while (!this.#socket.closed) {
      this.#socket.read(); // octets left unread would make the kernel drop the last words
      await this.#event();
    }
    clearTimeout(this.#timer);
    const { helo } = this.#session;
    const fields = { session: id, listener, client, helo, tls: this.#tls, ...this.#counts, end: this.#end };
    log.info({ ...fields, ms: accept.clock.now() - startedAt }, 'session ended');
  }

  async #carryOut(action: Action): Promise<void> {
    switch (action.kind) {
      case 'read': {
        await this.#flush();
        const octets = this.#socket.read() as Buffer | null;
        if (octets !== null) return this.#session.receive(octets);
        if (this.#socket.readableEnded) this.#socket.end(); // it has its replies, or the deadline ends it
        return this.#isOpen ? this.#event() : undefined;
      }
      case 'recipient': {
        const { resolve, log } = this.#options;
        const { reply, routes } = await answerRecipient(action.recipient.address, resolve, log);
        routesOf.set(action.recipient, routes);
        if (reply.code >= 400) this.#counts.refused += 1;
        return this.#session.answer(reply);
      }
      case 'begin': {
        const routes = action.envelope.recipients.flatMap(recipient => routesOf.get(recipient) ?? []);
        const origin = { session: this.#options.id, client: this.#options.client, tls: this.#tls };
        this.#incoming = new Incoming(this.#options.accept, action.envelope, routes, origin);
        return this.#session.answer(replies.sendMessage);
      }
      case 'chunk':
        return this.#incoming?.write(action.data);
      case 'commit': {
        const reply = await this.#incoming?.commit();
        this.#incoming = undefined;
        this.#counts.messages += 1;
        return this.#session.answer(reply ?? replies.internalError);
      }
      case 'discard':
        await this.#incoming?.discard();
        this.#incoming = undefined;
        return;
      case 'secure':
        await this.#flush();
        if (this.#isOpen) await this.#handshake();
        return this.#session.secured();
      case 'close':
        return this.end(replies.bye);
      default:
        return action satisfies never;
    }
  }

  /** Returns only when the client has taken its replies, or is gone; until then, what it sends waits in the kernel. */
  async #flush(): Promise<void> {
    const age = this.#incoming ? this.#options.accept.clock.now() - this.#incoming.startedAt : 0;
    if (age > messageTimeoutMs) return this.end(replies.timeout);
    const output = this.#session.output();
    // Only progress buys time: a command that was answered, or content; not a command that comes octet by octet.
    if (output !== '' || this.#incoming !== undefined) this.#timer?.refresh();
    if (output !== '') this.#socket.write(output, 'latin1');
    while (this.#isOpen && this.#socket.writableNeedDrain) await this.#event();
  }

  /** Starts TLS. Nothing more in clear is read as SMTP: what has come already is read as part of the handshake. */
  async #handshake(): Promise<void> {
    const secure = new TLSSocket(this.#socket, { isServer: true, secureContext: this.#options.secureContext() });
    secure.on('_tlsError', (error: Error) => secure.destroy(error));
    secure.on('secure', () => (this.#tls = `${secure.getProtocol() ?? 'TLS'}:${secure.getCipher().name}`));
    secure.on('end', () => this.#tls === undefined && secure.destroy()); // nobody is left to shake hands with
    this.#socket = this.#watch(secure);
    this.#deadline(handshakeTimeoutMs, () => secure.destroy(new Error('TLS handshake timeout')));
    while (this.#isOpen && this.#tls === undefined) await this.#event();
    if (this.#isOpen) this.#deadline(idleTimeoutMs, () => this.end(replies.timeout));
  }
}
