// One client's connection: a loop that carries out what the session asks for, and the one deadline that holds then.
// Promises: one action at a time, replies leave in the order of the commands and together where they were pipelined; a
// client that does not read, sends too slowly or vanishes costs a bounded time and memory; a surprise is a 421 and a log line.
// RFC 5321 §4.5.3.2 (timeouts) and §3.8; RFC 3207, 4954.
import { hash } from 'node:crypto';
import type { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { type SecureContext, TLSSocket } from 'node:tls';
import type { Authenticator, Exchange, Login } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import type { Recipient } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { type Action, Session, type SessionOptions } from '../smtp/session.ts';
import { type AcceptOptions, Incoming } from './accept.ts';
import { type Destination, type Policy, answerRecipient, answerSender } from './policy.ts';

/** For a command or more content (RFC 5321 §4.5.3.2.7), a handshake, a whole message, and for hearing the last word. */
const idleTimeoutMs = 5 * 60_000;
const handshakeTimeoutMs = 60_000;
const messageTimeoutMs = 60 * 60_000;
const closingTimeoutMs = 5000;
const maxFailedLogins = 3;
/** What the kernel gives at once. */
const fullReadOctets = 65_536;

/** What the sessions' accepted recipients lead to; kept here so that an idle session has no map of its own. */
const destinationOf = new WeakMap<Recipient, Destination>();

/** Those that hold replies until all that came in this turn of the event loop is worked off: who waits for them is woken less often. */
const unsent: Connection[] = [];

export type ConnectionOptions = Readonly<{
  session: SessionOptions;
  accept: AcceptOptions;
  policy: Policy;
  authenticator: Authenticator | undefined;
  isTrusted: boolean; // may relay without login (SLIM_TRUSTED_NETWORKS)
  isSubmission: boolean;
  secureContext: () => SecureContext;
  id: string; // this and the next two for the log: which socket was used, the client's address without `::ffff:`
  listener: string;
  client: string;
  log: Log;
}>;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #session: Session;
  #socket: Socket;
  #state: 'serving' | 'draining' | 'closing' = 'serving';
  #wake = (): void => undefined;
  #timer: NodeJS.Timeout | undefined;
  #tls: string | undefined;
  #exchange: Exchange | undefined;
  #login: Login | undefined;
  #incoming: Incoming | undefined;
  #released: Promise<void> | undefined;
  readonly #counts = { messages: 0, refused: 0, failedLogins: 0 };
  #fullReads = 0;
  #output = '';
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
    const output = this.#output + this.#session.output();
    this.#output = '';
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
        else {
          const done = this.#carryOut(this.#session.next());
          if (done) await done;
        }
      }
    } catch (error) {
      log.error({ session: id, err: error }, 'a session failed');
      this.end(replies.internalError);
    }
    await this.#incoming?.discard();
    await this.#released;
    while (!this.#socket.closed) {
      this.#socket.read(); // octets left unread would make the kernel drop the last words
      await this.#event();
    }
    clearTimeout(this.#timer);
    const who = { session: id, listener, client, helo: this.#session.helo, tls: this.#tls, login: this.#login?.name };
    log.info({ ...who, ...this.#counts, end: this.#end, ms: accept.clock.now() - startedAt }, 'session ended');
  }

  /** What is done at once gives no promise: a third of what a dialogue left to the garbage collector came from that. */
  #carryOut(action: Action): Promise<void> | void {
    switch (action.kind) {
      case 'read':
        return this.#read();
      case 'flush':
        return this.#flush()?.then(() => turn()) ?? turn();
      case 'authenticate':
        return this.#authenticate(action.mechanism, action.response);
      case 'sender': {
        if (this.#login === undefined) return this.#session.answer(replies.senderOk);
        const answered = answerSender(this.#login, action.sender.reversePath, this.#options.policy);
        return answered.then(reply => this.#session.answer(reply));
      }
      case 'recipient':
        return this.#answerRecipient(action.recipient);
      case 'begin': {
        const { accept, id, client, isSubmission, isTrusted } = this.#options;
        const destinations = action.envelope.recipients.map(recipient => destinationOf.get(recipient));
        const [tls, login] = [this.#tls, this.#login?.name];
        // Printers and programs of a trusted network rarely complete a header, and have no server before this one.
        const isAuthors = isSubmission || isTrusted || login !== undefined;
        const origin = { session: id, client, tls, login, isSubmission: isAuthors };
        this.#incoming = new Incoming(accept, action.envelope, destinations, origin);
        return this.#session.answer(replies.sendMessage);
      }
      case 'chunk':
        return this.#incoming?.write(action.data);
      case 'commit':
        return this.#commit();
      case 'discard':
        return this.#discard();
      case 'secure':
        return this.#secure();
      case 'close':
        return this.end(replies.bye);
      default:
        return action satisfies never;
    }
  }

  #read(): Promise<void> | void {
    if (this.#collect() && unsent.push(this) === 1)
      setImmediate(() => unsent.splice(0).forEach(connection => connection.#send()));
    if (this.#socket.writableNeedDrain) return this.#drained(); // and then again
    const octets = this.#socket.read() as Buffer | null;
    if (octets !== null) {
      this.#session.receive(octets);
      // libuv reads up to 32 full buffers of one socket before it looks at another: 2 MB, which may be a million lines.
      // Content is worked off fast: of that four.
      const isFull = octets.length >= fullReadOctets && (!this.#incoming || ++this.#fullReads % 4 === 0);
      return isFull ? turn() : undefined;
    }
    if (this.#socket.readableEnded) {
      this.#send();
      this.#socket.end(); // it has its replies, or the deadline ends it
    }
    return this.#isOpen ? this.#event() : undefined;
  }

  async #answerRecipient(recipient: Recipient): Promise<void> {
    const { policy, isTrusted } = this.#options;
    const mayRelay = isTrusted || this.#login !== undefined;
    const { reply, destination } = await answerRecipient(recipient.address, mayRelay, policy);
    if (destination) destinationOf.set(recipient, destination);
    if (reply.code >= 400) this.#counts.refused += 1;
    this.#session.answer(reply);
  }

  async #commit(): Promise<void> {
    await this.#released; // of the message before
    const reply = await this.#incoming?.commit();
    this.#released = this.#incoming?.release();
    this.#incoming = undefined;
    this.#counts.messages += 1;
    this.#session.answer(reply ?? replies.internalError);
  }

  async #discard(): Promise<void> {
    await this.#incoming?.discard();
    this.#incoming = undefined;
  }

  async #secure(): Promise<void> {
    await this.#flush();
    if (this.#isOpen) await this.#handshake();
    this.#session.secured();
  }

  async #authenticate(mechanism: string | undefined, response: Buffer | undefined): Promise<void> {
    const { authenticator, client, id, log } = this.#options;
    if (mechanism !== undefined) {
      if (!authenticator?.mechanisms.includes(mechanism)) return this.#session.answer(replies.unknownMechanism);
      this.#exchange = authenticator.begin(mechanism, client, type => this.#binding(type));
    }
    const reply = (await this.#exchange?.step(response)) ?? replies.internalError;
    this.#login = this.#exchange?.login;
    if (reply.code === replies.loginFailed.code) this.#counts.failedLogins += 1;
    if (reply.code >= 400) log.warn({ session: id, client, reply: `${reply.code} ${reply.status}` }, 'a login failed');
    this.#session.answer(reply);
    if (this.#counts.failedLogins >= maxFailedLogins) this.#session.end(replies.tooMany('failed logins'));
  }

  /** Channel bindings (RFC 9266 and RFC 5929 §4.1): what only the two ends of this very TLS connection know. */
  #binding(type: string): Buffer | undefined {
    if (!(this.#socket instanceof TLSSocket)) return undefined;
    if (type === 'tls-exporter' && this.#socket.getProtocol() === 'TLSv1.3')
      return this.#socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0));
    const certificate = this.#socket.getX509Certificate();
    if (type !== 'tls-server-end-point' || !certificate) return undefined;
    const [, bits = '256'] = /sha(384|512)/i.exec(certificate.signatureAlgorithm ?? '') ?? [];
    return hash(`sha${bits}`, certificate.raw, 'buffer');
  }

  /** A promise: the client has yet to take its replies, and until then what it sends waits in the kernel. */
  #flush(): Promise<void> | undefined {
    this.#collect();
    this.#send();
    return this.#socket.writableNeedDrain ? this.#drained() : undefined;
  }

  /** Takes over what the session has to say. Whether there is anything to send. */
  #collect(): boolean {
    const age = this.#incoming ? this.#options.accept.clock.now() - this.#incoming.startedAt : 0;
    if (age > messageTimeoutMs) this.end(replies.timeout);
    this.#output += this.#session.output();
    // Only progress buys time: a command that was answered, or content; not a command that comes octet by octet.
    if (this.#output !== '' || this.#incoming !== undefined) this.#timer?.refresh();
    return this.#output !== '';
  }

  #send(): void {
    const output = this.#output;
    this.#output = '';
    if (output !== '' && this.#isOpen) this.#socket.write(output, 'latin1');
  }

  async #drained(): Promise<void> {
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
