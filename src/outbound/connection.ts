// One socket to another server: a loop that carries out what a dialogue wants, with a deadline for every wait.
// Promises: a server that is silent, drips, floods, drops or talks nonsense costs bounded time and memory, and is a deferral;
// what comes in clear behind STARTTLS is never read; never an unhandled 'error' event.
// RFC 5321 §4.5.3.2 (timeouts) and §4.1.1.10 (QUIT), RFC 3207.
import type { Socket } from 'node:net';
import { isIP } from 'node:net';
import { type SecureContext, connect as connectTls } from 'node:tls';
import { clientFinal } from '../scram.ts';
import type { Content } from './content.ts';
import { type Mail, type Offers, type Refusal, ReplyReader, type Sent, type ServerReply } from './dialogue.ts';
import { type Terms, type Want, open, transact } from './dialogue.ts';

export type Timeouts = Readonly<
  Record<'connect' | 'handshake' | 'command' | 'data' | 'block' | 'end' | 'attempt' | 'quit', number>
>;
export const standardTimeouts: Timeouts = {
  connect: 30_000,
  handshake: 60_000,
  command: 5 * 60_000,
  data: 2 * 60_000,
  block: 3 * 60_000,
  end: 10 * 60_000,
  attempt: 60 * 60_000, // opening a session, or one message, however much the server drips
  quit: 2000,
};

export type ConnectionOptions = {
  readonly host: string; // its name, which TLS looks for
  readonly terms: Terms;
  /** Of an MX host nothing is verified: its name came from DNS, where whoever can forge the one can forge the other. */
  readonly isVerified: boolean;
  readonly secureContext: SecureContext;
  readonly timeouts: Timeouts;
};

const done: ServerReply = { code: 1, lines: [] };

export class Connection {
  readonly options: ConnectionOptions;
  readonly #reader = new ReplyReader();
  #socket: Socket;
  #output = '';
  #wake = (): void => undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #reason = 'the server closed the connection';
  offers: Offers = new Map();
  /** TLS version and cipher. */
  tls: string | undefined;
  messages = 0;

  private constructor(socket: Socket, options: ConnectionOptions) {
    this.options = options;
    this.#socket = this.#watch(socket);
  }

  /** Opens a session on a socket that is connecting. */
  static async open(socket: Socket, options: ConnectionOptions): Promise<Connection | Refusal> {
    const connection = new Connection(socket, options);
    const result = await connection.#open();
    if (result instanceof Map) connection.offers = result;
    else connection.quit();
    return result instanceof Map ? connection : (result as Refusal);
  }

  async send(mail: Mail, content: Content): Promise<Sent> {
    this.messages += 1;
    return this.#run(transact(this.offers, mail), content);
  }

  /** Waits for its next message, so long. Whatever comes meanwhile (a 421, the end) makes it unfit: `onGone`, and it is closed. */
  idle(forMs: number, onGone: () => void): void {
    const end = (): void => {
      onGone();
      this.quit();
    };
    this.#idleTimer = setTimeout(end, forMs).unref();
    this.#wake = () => {
      const isFit = this.#reader.isEmpty && this.#socket.read() === null && !this.#socket.readableEnded;
      if (!isFit || this.#socket.destroyed) end();
    };
    this.#wake();
  }

  /** Waits no more. */
  take(): void {
    clearTimeout(this.#idleTimer);
    this.#wake = () => undefined;
  }

  /** Says good-bye without waiting for an answer. */
  quit(): void {
    this.take();
    this.#wake = () => void this.#socket.read(); // else its end would not be seen
    if (this.#socket.destroyed) return;
    setTimeout(() => this.destroy(), this.options.timeouts.quit).unref();
    this.#socket.end('QUIT\r\n');
    this.#wake();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #watch(socket: Socket): Socket {
    const wake = (): void => this.#wake();
    for (const event of ['connect', 'secureConnect', 'readable', 'end', 'drain', 'close']) socket.on(event, wake);
    return socket.on('error', ({ message, code, reason }: NodeJS.ErrnoException & { reason?: string }) => {
      this.#reason = (reason || message || code || 'failed').replaceAll(/\p{Cc}+/gu, ' '); // OpenSSL's have line ends
    });
  }

  async #open(): Promise<Offers | Refusal> {
    const { timeouts, terms } = this.options;
    const lost = (because: Refusal['because'], status: string): Refusal => {
      return { because, delivery: { kind: 'deferred', status, text: this.#reason } };
    };
    await this.#until(() => !this.#socket.connecting, timeouts.connect, 'connecting took too long');
    if (this.#socket.destroyed) return lost('host', '4.4.1');
    this.#socket.setNoDelay(true);
    if (terms.isSecure && !(await this.#handshake())) return lost('tls', '4.7.4');
    return this.#run(open(terms), undefined);
  }

  async #run<T>(dialogue: Generator<Want, T, ServerReply>, content: Content | undefined): Promise<T> {
    const cap = setTimeout(() => this.#fail('it took too long in all'), this.options.timeouts.attempt);
    try {
      let step = dialogue.next();
      while (!step.done) step = dialogue.next(await this.#carryOut(step.value, content));
      return step.value;
    } catch (error) {
      this.destroy();
      throw error;
    } finally {
      clearTimeout(cap);
    }
  }

  async #carryOut(want: Want, content: Content | undefined): Promise<ServerReply> {
    const { timeouts, terms } = this.options;
    switch (want.kind) {
      case 'send':
        this.#output += want.text;
        return done;
      case 'reply': {
        const output = this.#output;
        this.#output = '';
        if (output !== '') this.#socket.write(output);
        let reply: ServerReply | undefined;
        const isThere = (): boolean => {
          while ((reply = this.#reader.next()) === undefined) {
            const octets = this.#socket.read() as Buffer | null;
            if (octets === null) return this.#socket.readableEnded;
            this.#reader.receive(octets);
          }
          return true;
        };
        await this.#until(isThere, timeouts[want.wait], 'the server did not answer in time');
        if (reply?.code === 0) this.#fail(reply.lines.join());
        return reply ?? this.#lost();
      }
      case 'content': {
        if (!this.#reader.isEmpty)
          return { code: 0, status: '4.5.0', lines: ['a reply came to what was not sent yet'] };
        for await (const piece of content?.pieces ?? []) {
          this.#socket.write(piece);
          await this.#until(
            () => !this.#socket.writableNeedDrain,
            timeouts.block,
            'the server does not take the message',
          );
          if (this.#socket.destroyed) return this.#lost();
        }
        return done;
      }
      case 'prove': {
        const proof = await clientFinal(terms.credentials?.password ?? '', want.first, want.challenge);
        return proof ? { ...done, lines: [proof.response, proof.expected] } : { code: 0, lines: [] };
      }
      case 'secure': {
        const isInjected = !this.#reader.isEmpty || this.#socket.read() !== null;
        if (isInjected)
          return { code: 0, status: '4.7.0', lines: ['octets in clear came behind STARTTLS: an injection'] };
        return (await this.#handshake()) ? done : { code: 0, lines: [this.#reason] };
      }
      default:
        return want satisfies never;
    }
  }

  async #handshake(): Promise<boolean> {
    const { host, isVerified, secureContext, timeouts } = this.options;
    const name = isIP(host) ? {} : { servername: host };
    const secure = connectTls({ socket: this.#socket, host, ...name, secureContext, rejectUnauthorized: isVerified });
    this.#socket = this.#watch(secure);
    secure.once('secureConnect', () => (this.tls = `${secure.getProtocol() ?? 'TLS'}:${secure.getCipher().name}`));
    await this.#until(() => this.tls !== undefined, timeouts.handshake, 'the TLS handshake took too long');
    return this.tls !== undefined;
  }

  /** Waits, but no longer than that, and not for a socket that is gone. */
  async #until(isDone: () => boolean, timeoutMs: number, late: string): Promise<void> {
    if (isDone() || this.#socket.destroyed) return;
    const timer = setTimeout(() => this.#fail(late), timeoutMs);
    do await new Promise<void>(resolve => (this.#wake = resolve));
    while (!isDone() && !this.#socket.destroyed);
    clearTimeout(timer);
  }

  #fail(reason: string): void {
    this.#socket.destroy(new Error(reason));
  }

  #lost(): ServerReply {
    return { code: 0, lines: [this.#reason] };
  }
}
