// The next hop: an SMTP server of the test's own that remembers every message it has taken.
// Promises: what it answered 250 is in `taken` before that reply leaves. It refuses recipients that begin with
// `refused` (550). It can be down: then its port takes no connections, and those that were open are cut.
import { type Server, type Socket, createServer } from 'node:net';
import { freePort } from '../ports.ts';

type Taken = { readonly to: string; readonly content: Buffer };

export class Sink {
  /** A copy for each recipient, in the order in which they were taken. */
  readonly taken: Taken[] = [];
  readonly port: number;
  #server: Server | undefined;
  readonly #sockets = new Set<Socket>();

  private constructor(port: number) {
    this.port = port;
  }

  /** It is down at first. */
  static async make(): Promise<Sink> {
    return new Sink(await freePort());
  }

  async up(): Promise<void> {
    if (this.#server) return;
    this.#server = createServer(socket => this.#serve(socket.unref()))
      .listen(this.port, '127.0.0.1')
      .unref(); // a test that fails does not wait for it
    await new Promise(resolve => this.#server?.on('listening', resolve));
  }

  down(): void {
    this.#server?.close();
    this.#server = undefined;
    for (const socket of this.#sockets) socket.destroy();
  }

  /** For SLIM_RELAY_*. */
  get settings(): Record<string, string> {
    return { SLIM_RELAY_HOST: '127.0.0.1', SLIM_RELAY_PORT: `${this.port}`, SLIM_RELAY_TLS: 'none' };
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket));
    const say = (line: string): void => void socket.write(`${line}\r\n`);
    let input = Buffer.alloc(0);
    let isData = false;
    let to: string[] = [];
    const command = (line: string): void => {
      const verb = line.slice(0, 4).toUpperCase();
      const recipient = /^RCPT TO:<([^>]*)>/i.exec(line)?.[1];
      if (verb === 'EHLO') say('250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE');
      else if (verb === 'DATA') {
        isData = to.length > 0;
        say(isData ? '354 go on' : '554 5.5.1 nobody to send it to');
      } else if (recipient === undefined) {
        if (verb === 'MAIL' || verb === 'RSET') to = [];
        say(verb === 'QUIT' ? '221 2.0.0 bye' : '250 2.0.0 ok');
      } else if (recipient.startsWith('refused')) say('550 5.1.1 nobody here');
      else {
        to.push(recipient);
        say('250 2.1.5 ok');
      }
    };
    const message = (content: Buffer): void => {
      const plain = Buffer.from(content.toString('latin1').replaceAll('\r\n..', '\r\n.'), 'latin1');
      for (const recipient of to) this.taken.push({ to: recipient, content: plain });
      to = [];
      isData = false;
      say('250 2.0.0 taken');
    };
    say('220 sink.example ESMTP');
    socket.on('data', (octets: Buffer) => {
      input = Buffer.concat([input, octets]);
      for (;;) {
        const end = input.indexOf(isData ? '\r\n.\r\n' : '\r\n');
        if (end < 0) return;
        if (isData) {
          message(input.subarray(0, end + 2));
          input = input.subarray(end + 5);
        } else {
          command(input.toString('latin1', 0, end));
          input = input.subarray(end + 2);
        }
      }
    });
  }
}
