// An SMTP client that speaks under TLS, by STARTTLS or from the start; certificates are not judged, only remembered.
// Waits for whole replies, two minutes at most; never throws on what a server says once it is open.
import { type Socket, connect } from 'node:net';
import { type TLSSocket, connect as connectTls } from 'node:tls';

/** A client under TLS, by STARTTLS or from the start. */
export class TlsClient {
  sent = 0;
  certificate = '';
  #socket: Socket | TLSSocket;
  #input = '';
  #isClosed = false;
  #wake = (): void => {};

  private constructor(socket: Socket) {
    this.#socket = this.#watch(socket);
  }

  /** `from`: the address of loopback to come from. */
  static async open(
    port: number,
    { isImplicit = false, from }: { isImplicit?: boolean; from?: string } = {},
  ): Promise<TlsClient> {
    const session = new TlsClient(connect({ port, host: '127.0.0.1', ...(from && { localAddress: from }) }));
    if (isImplicit) await session.#secure();
    await session.say();
    if (!isImplicit) {
      await session.say('EHLO client.example.net');
      if (!(await session.say('STARTTLS')).startsWith('220')) throw new Error('no STARTTLS');
      await session.#secure();
    }
    const reply = await session.say('EHLO client.example.net');
    if (!reply.startsWith('250')) throw new Error(`EHLO: ${reply}`);
    return session;
  }

  /** One message; the reply to its end, or the first refusal. */
  async send(from: string, to: string, message: string): Promise<string> {
    this.sent += 1;
    this.#socket.write(`MAIL FROM:<${from}>\r\nRCPT TO:<${to}>\r\nDATA\r\n`);
    const replies = [await this.say(), await this.say(), await this.say()];
    const refusal = replies.find(reply => !/^[23]/.test(reply));
    if (refusal === undefined) return this.say(`${message}.`);
    if (refusal !== 'closed') await this.say('RSET');
    return refusal;
  }

  /** Sends a line (none: waits for what is still to come); the last line of the reply. */
  async say(line?: string): Promise<string> {
    if (line !== undefined) this.#socket.write(`${line}\r\n`);
    for (;;) {
      const found = /^(?:\d{3}-.*\r\n)*(\d{3} .*)\r\n/.exec(this.#input);
      if (found) this.#input = this.#input.slice(found[0].length);
      if (found || this.#isClosed) return found?.[1] ?? 'closed';
      await new Promise<void>(resolve => (this.#wake = resolve));
    }
  }

  close(): void {
    this.#socket.end('QUIT\r\n');
  }

  #watch<T extends Socket>(socket: T): T {
    const closed = (): void => ((this.#isClosed = true), this.#wake());
    socket.setTimeout(120_000, () => socket.destroy());
    return socket
      .on('data', data => ((this.#input += data.toString('latin1')), this.#wake()))
      .on('error', () => {})
      .on('close', closed);
  }

  async #secure(): Promise<void> {
    this.#socket.removeAllListeners('data').removeAllListeners('close');
    const secure = this.#watch(connectTls({ socket: this.#socket, rejectUnauthorized: false }));
    this.#socket = secure;
    await new Promise((resolve, reject) => secure.once('secureConnect', resolve).once('error', reject));
    this.certificate = secure.getPeerX509Certificate()?.serialNumber ?? '';
  }
}
