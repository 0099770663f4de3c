// One socket to another server: a loop that carries out what a dialogue wants, with a deadline for every wait.
// Promises: a server that is silent, drips, floods, drops or talks nonsense costs bounded time and memory, and is a deferral;
// what comes in clear behind STARTTLS is never read; never an unhandled 'error' event.
// RFC 5321 §4.5.3.2 (timeouts) and §4.1.1.10 (QUIT), RFC 3207.
import { type Socket, isIP } from 'node:net';
import { type SecureContext, connect as connectTls } from 'node:tls';
import { clientFinal } from '../sasl/scram.ts';
import type { Content } from './content.ts';
import type { Mail, Offers, Refusal, Sent, ServerReply, Terms, Want } from './dialogue.ts';
import { ReplyReader, none, open, transact } from './dialogue.ts';

export const standardTimeouts = {
  connect: 30_000,
  handshake: 60_000,
  command: 5 * 60_000,
  data: 2 * 60_000,
  block: 3 * 60_000,
  end: 10 * 60_000,
  attempt: 60 * 60_000, // opening a session, or one message, however much the server drips
  quit: 2000,
};
export type Timeouts = Readonly<typeof standardTimeouts>;

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
  #reason = 'the server closed the connection';
  offers: Offers = new Map();
  /** TLS version and cipher. */
  tls: string | undefined;
  messages = 0;

  /** Of a socket that is connecting. */
  constructor(socket: Socket, options: ConnectionOptions) {
    this.options = options;
    this.#socket = this.#watch(socket.setNoDelay());
  }

  /** Opens a session; a refusal closes it. */
  async open(): Promise<this | Refusal> {
    const { timeouts, terms } = this.options;
    await this.#until(() => !this.#socket.connecting, timeouts.connect, 'connecting took too long');
    const isConnected = !this.#socket.destroyed;
    if (!isConnected || (terms.isSecure && !(await this.#handshake()))) {
      const status = isConnected ? '4.7.4' : '4.4.1';
      return { because: isConnected ? 'tls' : 'host', delivery: { kind: 'deferred', status, text: this.#reason } };
    }
    const result = await this.#run(open(terms));
    if (result instanceof Map) this.offers = result;
    else this.quit();
    return result instanceof Map ? this : result;
  }

  async send(mail: Mail, content: Content): Promise<Sent> {
    this.messages += 1;
    return this.#run(transact(this.offers, mail), content);
  }

  /** Whether nothing came that was not asked for, such as a 421: else replies and commands would be out of step. */
  isQuiet(): boolean {
    return this.#reader.isEmpty && this.#socket.read() === null;
  }

  /** Says good-bye without waiting for an answer. */
  quit(): void {
    this.#wake = () => void this.#socket.read(); // else its end would not be seen
    setTimeout(() => this.destroy(), this.options.timeouts.quit).unref();
    this.#socket.end('QUIT\r\n');
    this.#wake();
  }

  destroy(reason?: string): void {
    this.#socket.destroy(reason === undefined ? undefined : new Error(reason));
  }

  #watch(socket: Socket): Socket {
    const wake = (): void => this.#wake();
    for (const event of ['connect', 'secureConnect', 'readable', 'end', 'drain', 'close']) socket.on(event, wake);
    return socket.on('error', ({ message, code, reason }: NodeJS.ErrnoException & { reason?: string }) => {
      this.#reason = (reason || message || code || 'failed').replaceAll(/\p{Cc}+/gu, ' '); // OpenSSL's have line ends
    });
  }

  async #run<T>(dialogue: Generator<Want, T, ServerReply>, content?: Content): Promise<T> {
    // It also closes what a surprise leaves open.
    const cap = setTimeout(() => this.destroy('it took too long in all'), this.options.timeouts.attempt).unref();
    let step = dialogue.next();
    while (!step.done) step = dialogue.next(await this.#carryOut(step.value, content));
    clearTimeout(cap);
    return step.value;
  }

  async #carryOut(want: Want, content?: Content): Promise<ServerReply> {
    const { timeouts, terms } = this.options;
    const lost = (): ServerReply => ({ code: 0, lines: [this.#reason] });
    switch (want.kind) {
      case 'send':
        this.#output += want.text;
        return done;
      case 'reply': {
        if (this.#output !== '') this.#socket.write(this.#output);
        this.#output = '';
        let reply: ServerReply | undefined;
        const isThere = (): boolean => {
          for (let octets; (reply = this.#reader.next()) === undefined; this.#reader.receive(octets))
            if ((octets = this.#socket.read() as Buffer | null) === null) return this.#socket.readableEnded;
          return true;
        };
        await this.#until(isThere, timeouts[want.wait], 'the server did not answer in time');
        if (reply?.code === 0) this.destroy(reply.lines.join());
        return reply ?? lost();
      }
      case 'content': {
        if (!this.#reader.isEmpty) return none('4.5.0', 'a reply came to what was not sent yet');
        const isTaken = (): boolean => !this.#socket.writableNeedDrain;
        for await (const piece of content?.pieces ?? []) {
          this.#socket.write(piece);
          await this.#until(isTaken, timeouts.block, 'the server does not take the message');
          if (this.#socket.destroyed) return lost();
        }
        return done;
      }
      case 'prove': {
        const proof = await clientFinal(terms.credentials?.password ?? '', want.first, want.challenge);
        return proof ? { ...done, lines: [proof.response, proof.expected] } : lost();
      }
      case 'secure':
        if (this.isQuiet()) return (await this.#handshake()) ? done : lost();
        return none('4.7.0', 'octets in clear came behind STARTTLS: an injection');
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
    const timer = setTimeout(() => this.destroy(late), timeoutMs);
    while (!isDone() && !this.#socket.destroyed) await new Promise<void>(resolve => (this.#wake = resolve));
    clearTimeout(timer);
  }
}
