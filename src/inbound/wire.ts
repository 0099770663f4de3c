// The octets of one connection: what comes in, what goes out, TLS between the two, and the one deadline that holds.
// Knows nothing of SMTP. Whoever waits sleeps in event(), which ends when anything at all has happened to the socket,
// and looks for itself whether it was the thing that it waits for: so no event is missed and no listener is left
// behind.
// What comes while nobody waits for it stops the socket: two reads of the kernel's are kept here, and what Node's own
// buffer takes. Why not socket.read(): docs/decisions/speed.md.
// Promises: output leaves in order, and together where it was written within one turn of the event loop; a client that
// does not read costs a bounded amount of memory, because nothing more is read from it.
import { hash } from 'node:crypto';
import type { Socket } from 'node:net';
import { type SecureContext, TLSSocket } from 'node:tls';

const handshakeTimeoutMs = 60_000;
/** For hearing the last word. */
const closingTimeoutMs = 5000;

/**
 * Wires that hold output until all that came in this turn of the event loop is worked off: the client is woken less
 * often.
 */
const unsent: Wire[] = [];

export class Wire {
  #socket: Socket;
  #output = '';
  #isClosing = false;
  /** What has come and was not read, in order. */
  readonly #came: Buffer[] = [];
  /** Ends the sleep of whoever is in event(). */
  #wake: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** TLS version and cipher, when TLS is up. */
  tls: string | undefined;
  /** Why the connection has ended, for the log. */
  end = 'client closed';
  /** Whether a TLS handshake went wrong: then octets were said, though none of SMTP. */
  isTlsBroken = false;

  constructor(socket: Socket) {
    this.#socket = this.#watch(socket);
  }

  /** Until the last word was said, or the socket is gone. */
  get isOpen(): boolean {
    return !this.#isClosing && !this.#socket.destroyed;
  }

  #watch(socket: Socket): Socket {
    const wake = (): void => this.wake();
    for (const event of ['end', 'drain', 'secure', 'close']) socket.on(event, wake);
    socket.on('data', (octets: Buffer) => {
      if (this.#came.push(octets) > 1 || this.#wake === undefined) socket.pause();
      this.wake();
    });
    return socket.on('error', error => void (this.end = error.message));
  }

  /** Sleeps until anything happens at all. */
  event(): Promise<void> {
    return new Promise(resolve => (this.#wake = resolve));
  }

  wake(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Replaces the deadline. */
  deadline(ms: number, late: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(late, ms);
  }

  /** Gives the deadline its whole time again. */
  refresh(): void {
    this.#timer?.refresh();
  }

  /** What has come; null: nothing, or the end. */
  read(): Buffer | null {
    const octets = this.#came.shift() ?? null;
    if (this.#came.length === 0 && this.#socket.isPaused()) this.#socket.resume();
    return octets;
  }

  /** Waits for more octets. When the client has closed its side, it gets its replies, and we close ours. */
  more(): Promise<void> | undefined {
    if (this.#socket.readableEnded) {
      this.send();
      this.#socket.end(); // the deadline ends a client that does not take its replies
    }
    return this.isOpen ? this.event() : undefined;
  }

  /** Adds output. Whether there is anything to send. */
  write(text: string): boolean {
    this.#output += text;
    return this.#output !== '';
  }

  /** Sends the output now. */
  send(): void {
    const output = this.#output;
    this.#output = '';
    if (output !== '' && this.isOpen) this.#socket.write(output, 'latin1');
  }

  /** Sends the output when this turn of the event loop ends. */
  sendSoon(): void {
    if (unsent.push(this) === 1) setImmediate(() => unsent.splice(0).forEach(wire => wire.send()));
  }

  /** A promise: the client has yet to take what was sent, and until then what it sends waits in the kernel. */
  drained(): Promise<void> | undefined {
    return this.#socket.writableNeedDrain ? this.#drain() : undefined;
  }

  async #drain(): Promise<void> {
    while (this.isOpen && this.#socket.writableNeedDrain) await this.event();
  }

  /**
   * Says the last words, and closes when the client has heard them or had its time. A client that has said QUIT sends
   * nothing more, so there the socket goes as soon as the kernel has the words: many clients close without reading
   * them, and what the kernel then said of that cost 3 % of the time of a session.
   */
  close(lastWords: string, hasQuit = false): void {
    this.#isClosing = true;
    const output = this.#output + lastWords;
    this.#output = '';
    this.end = output.trimEnd().split('\n').at(-1) ?? '';
    // Not within the call of a write that ends: Node would make an error with a stack for what it thinks is unwritten.
    if (hasQuit && this.tls === undefined)
      this.#socket.write(output, 'latin1', () => queueMicrotask(() => this.#socket.destroy()));
    else this.#socket.end(output, 'latin1');
    this.deadline(closingTimeoutMs, () => this.#socket.destroy());
    this.wake();
  }

  /** Resolves when the socket is gone. */
  async gone(): Promise<void> {
    while (!this.#socket.closed) {
      while (this.read()); // octets left unread would make the kernel drop the last words
      await this.event();
    }
    clearTimeout(this.#timer);
  }

  /** Starts TLS. Nothing more in clear is read as SMTP: what has come already is read as part of the handshake. */
  async secure(secureContext: SecureContext): Promise<void> {
    const plain = this.#socket.pause().removeAllListeners('data');
    for (const octets of this.#came.splice(0).toReversed()) plain.unshift(octets);
    const secure = new TLSSocket(plain, { isServer: true, secureContext });
    secure.on('_tlsError', (error: Error) => {
      this.isTlsBroken = true;
      secure.destroy(error);
    });
    secure.on('secure', () => (this.tls = `${secure.getProtocol() ?? 'TLS'}:${secure.getCipher().name}`));
    secure.on('end', () => this.tls === undefined && secure.destroy()); // nobody is left to shake hands with
    this.#socket = this.#watch(secure);
    this.deadline(handshakeTimeoutMs, () => secure.destroy(new Error('TLS handshake timeout')));
    while (this.isOpen && this.tls === undefined) await this.event();
  }

  /** Channel bindings (RFC 9266 and RFC 5929 §4.1): what only the two ends of this very TLS connection know. */
  binding(type: string): Buffer | undefined {
    if (!(this.#socket instanceof TLSSocket)) return undefined;
    if (type === 'tls-exporter' && this.#socket.getProtocol() === 'TLSv1.3')
      return this.#socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0));
    const certificate = this.#socket.getX509Certificate();
    if (type !== 'tls-server-end-point' || !certificate) return undefined;
    const [, bits = '256'] = /sha(384|512)/i.exec(certificate.signatureAlgorithm ?? '') ?? [];
    return hash(`sha${bits}`, certificate.raw, 'buffer');
  }
}
