// One socket to another server: a loop that carries out what a dialogue wants, with a deadline for every wait.
// Promises: a server that is silent, drips, floods, drops or talks nonsense costs bounded time and memory, and is a
// deferral; what comes in clear behind STARTTLS is never read; never an unhandled 'error' event.
// RFC 5321 §4.5.3.2 (timeouts) and §4.1.1.10 (QUIT), RFC 3207.
//
// A connection is made for a socket that is connecting. `open` waits until it is connected, makes TLS where that comes
// first, and runs the dialogue that opens the session; from then on `send` runs one dialogue for each message. Only one
// of the two runs at a time, and between them the connection is idle: nobody reads from it, and what the server says
// unasked waits in the socket, where `isQuiet` finds it. At last comes `quit` or `destroy`.
//
// While a dialogue runs, exactly one `Want` of it is being carried out. All waiting is done in one place, `#until`:
// each event of the socket wakes it, and it looks again whether what it waits for is there. It also ends when the
// socket is gone. Whatever goes wrong (an error of the socket, a deadline, the end of the attempt's place) destroys the
// socket and leaves its reason, which becomes code 0 for the dialogue. So a dialogue is always resumed, and each of its
// ends is one that it chose itself.
import { type Socket, isIP } from 'node:net';
import { type SecureContext, type TLSSocket, connect as connectTls } from 'node:tls';
import { free } from '../mail/octets.ts';
import { CannotTell, type Place } from '../mail/ports.ts';
import { clientFinal } from '../sasl/scram.ts';
import type { Clock } from '../system/world.ts';
import type { Content } from './content.ts';
import { verifyChain } from './dane.ts';
import { type Dialogue, type Refusal, type Terms, type Want, open } from './dialogue.ts';
import type { Server } from './hops.ts';
import { type Offers, ReplyReader, type ServerReply, deferred, none } from './replies.ts';
import { type Mail, type Sent, inquire, limitOf, transact } from './transaction.ts';

export const standardTimeouts = {
  connect: 30_000, // of each address; the five minutes of RFC 5321 §4.5.3.2.1 are for the greeting
  handshake: 60_000,
  command: 5 * 60_000,
  data: 2 * 60_000,
  block: 3 * 60_000,
  end: 10 * 60_000,
  attempt: 60 * 60_000, // opening a session, or sending one message, even if each single wait is short
  quit: 2000,
};
export type Timeouts = Readonly<typeof standardTimeouts>;

type ConnectionOptions = {
  readonly server: Server;
  readonly terms: Terms;
  readonly secureContext: SecureContext;
  readonly timeouts: Timeouts;
  /** Says whether a certificate is in its dates. */
  readonly clock: Clock;
};

/** How many transactions a session has at most, whatever the server allows. */
const maxTransactions = 100;
const done: ServerReply = { code: 1, lines: [] };

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #reader = new ReplyReader();
  #socket: Socket;
  #output = '';
  #wake = (): void => undefined;
  #place: Place | undefined;
  #reason = 'the server closed the connection';
  /** How many transactions the session may still have. */
  transactionsLeft = 0;
  readonly server: Server;
  offers: Offers = new Map();
  /** TLS version and cipher, and by what the server was verified, if its domain demands that. */
  tls: string | undefined;

  /** Makes a connection of a socket that is connecting. */
  constructor(socket: Socket, options: ConnectionOptions) {
    this.#options = options;
    this.server = options.server;
    this.#socket = this.#watch(socket.setNoDelay());
  }

  /** Opens a session; a refusal closes it. */
  async open(place: Place): Promise<this | Refusal> {
    const leave = this.#enter(place);
    try {
      const { timeouts, terms } = this.#options;
      await this.#until(() => !this.#socket.connecting, timeouts.connect, 'connecting took too long');
      if (this.#socket.destroyed) return { because: 'host', delivery: deferred('4.4.1', this.#reason) };
      this.#place?.progressed();
      if (terms.isSecure && !(await this.#handshake()))
        return { because: 'tls', delivery: deferred('4.7.4', this.#reason) };
      const result = await this.#run(open(terms));
      if (!(result instanceof Map)) {
        this.quit();
        return result;
      }
      this.offers = result;
      this.transactionsLeft = Math.min(maxTransactions, limitOf(result, 'MAILMAX'));
      return this;
    } finally {
      leave();
    }
  }

  /** Sends one message. `content` opens its content, once for each transaction. */
  async send(mail: Mail, content: () => Content, maxRecipients: number, place: Place): Promise<Sent> {
    const leave = this.#enter(place);
    try {
      const { isLmtp = false } = this.#options.terms;
      const limits = { recipients: maxRecipients, transactions: this.transactionsLeft, isLmtp };
      const sent = await this.#run(transact(this.offers, mail, limits), content);
      this.transactionsLeft -= sent.transactions;
      return sent;
    } finally {
      leave();
    }
  }

  /** Whether the server takes mail for an address. Costs a transaction. */
  async inquire(address: string, place: Place) {
    const leave = this.#enter(place);
    try {
      this.transactionsLeft -= 1;
      return await this.#run(inquire(this.offers, address));
    } finally {
      leave();
    }
  }

  /**
   * Whether the server has said nothing unasked, such as a 421: after that, replies and commands would be out of step.
   */
  isQuiet(): boolean {
    return this.#reader.isEmpty && this.#socket.read() === null;
  }

  /** Says good-bye without waiting for an answer. */
  quit(): void {
    this.#wake = () => void this.#socket.read(); // else its end would not be seen
    setTimeout(() => this.destroy(), this.#options.timeouts.quit).unref();
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

  /** Begins to work for the attempt that has this place, for as long as it may have it; gives what ends that. */
  #enter(place: Place): () => void {
    const end = (): void => this.destroy('it made no progress, and other mail needed its place');
    // This deadline also closes a session that a surprise leaves open.
    const cap = setTimeout(() => this.destroy('it took too long in all'), this.#options.timeouts.attempt).unref();
    place.onEnd = end;
    this.#place = place;
    if (place.isEnded) end();
    return () => {
      place.onEnd = undefined;
      clearTimeout(cap);
    };
  }

  async #run<T>(dialogue: Dialogue<T>, content?: () => Content): Promise<T> {
    let step = dialogue.next();
    while (!step.done) step = dialogue.next(await this.#carryOut(step.value, content));
    return step.value;
  }

  async #carryOut(want: Want, content?: () => Content): Promise<ServerReply> {
    const { timeouts, terms } = this.#options;
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
          while ((reply = this.#reader.next()) === undefined) {
            const octets = this.#socket.read() as Buffer | null;
            if (octets === null) return this.#socket.readableEnded;
            this.#reader.receive(octets);
            this.#place?.progressed();
          }
          return true;
        };
        await this.#until(isThere, timeouts[want.wait], 'the server did not answer in time');
        if (reply?.code === 0) this.destroy(reply.lines.join());
        return reply ?? lost();
      }
      case 'content': {
        if (!this.#reader.isEmpty) return none('4.5.0', 'a reply came to what was not sent yet');
        const isTaken = (): boolean => !this.#socket.writableNeedDrain;
        try {
          const { pieces = [] } = content?.() ?? {};
          const confirm = this.#place?.confirm;
          for await (const piece of confirm ? confirmed(pieces, confirm) : pieces) {
            const isLarge = !this.#socket.write(piece);
            await this.#until(isTaken, timeouts.block, 'the server does not take the message');
            if (this.#socket.destroyed) return lost();
            // What had to wait for the other side is with the kernel now.
            if (isLarge) free(piece);
            this.#place?.progressed();
          }
        } catch (error) {
          // This is not thrown, because what became of the recipients of earlier transactions must not be forgotten.
          this.destroy();
          return none(
            '4.3.0',
            error instanceof CannotTell ? error.message : `the message cannot be read: ${String(error)}`,
          );
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
    const { secureContext, timeouts, clock } = this.#options;
    const { host, tls } = this.server;
    const { dane, isVerified: rejectUnauthorized, demand } = tls;
    const isProved = demand !== undefined && (dane !== undefined || rejectUnauthorized);
    // The name at which the TLSA records are (RFC 7672 §8.1).
    const name = isIP(host) ? {} : { servername: dane?.names[0] ?? host };
    const secure = connectTls({ socket: this.#socket, host, ...name, secureContext, rejectUnauthorized });
    this.#socket = this.#watch(secure);
    secure.once('secureConnect', () => {
      const verdict = dane && verifyChain(chainOf(secure), dane, clock.now());
      if (verdict?.isVerified === false) this.destroy(verdict.reason);
      else
        this.tls = `${secure.getProtocol() ?? 'TLS'}:${secure.getCipher().name}${isProved ? ` verified by ${demand}` : ''}`;
    });
    await this.#until(() => this.tls !== undefined, timeouts.handshake, 'the TLS handshake took too long');
    if (this.tls !== undefined) this.#place?.progressed();
    return this.tls !== undefined;
  }

  /**
   * Waits until `isDone` holds, but no longer than that, and not for a socket that is gone. `late` is the reason that a
   * deadline leaves.
   */
  async #until(isDone: () => boolean, timeoutMs: number, late: string): Promise<void> {
    const timer = setTimeout(() => this.destroy(late), timeoutMs);
    while (!isDone() && !this.#socket.destroyed) await new Promise<void>(resolve => (this.#wake = resolve));
    clearTimeout(timer);
  }
}

/** Holds the last piece back, which has the final dot, until it is sure that the message is still ours. */
async function* confirmed(pieces: Iterable<Buffer> | AsyncIterable<Buffer>, confirm: () => Promise<boolean>) {
  let last: Buffer | undefined;
  for await (const piece of pieces) {
    if (last) yield last;
    last = piece;
  }
  if (!(await confirm())) throw new CannotTell('it is not sure that no other replica sends it');
  if (last) yield last;
}

/** The certificates that the server has shown, its own first, each followed by its issuer. */
function chainOf(socket: TLSSocket): readonly Buffer[] {
  const chain: Buffer[] = [];
  for (let each = socket.getPeerCertificate(true); each?.raw && !chain.some(one => one.equals(each.raw));) {
    chain.push(each.raw);
    each = each.issuerCertificate;
  }
  return chain;
}
