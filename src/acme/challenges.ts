// The web server that proves to an authority that a name is ours: it answers for the tokens of the challenges that are
// under way, and for nothing else. RFC 8555 §8.3 (http-01).
// Promises: a request has ten seconds and 4 KiB, and there are fifty at once; nothing of it is kept, logged or
// interpreted but the token in its first line.
import { once } from 'node:events';
import { type Server, type Socket, createServer } from 'node:net';

export type ChallengeSocket = Readonly<{ host: string | undefined; port: number; fd?: number }>;

const [maxConnections, maxOctets, deadlineMs] = [50, 4096, 10_000];
const firstLine = /^GET \/\.well-known\/acme-challenge\/([\w-]{1,256}) HTTP\/1\.[01]\r\n/;

export class Challenges {
  /** Tokens, and what is to be answered. */
  readonly answers = new Map<string, string>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer(socket => this.#serve(socket));
    this.#server.maxConnections = maxConnections;
  }

  /** Rejects where the socket cannot be had. */
  static async open({ host, port, fd }: ChallengeSocket): Promise<Challenges> {
    const challenges = new Challenges();
    const server = challenges.#server;
    server.listen(fd === undefined ? { host, port, ipv6Only: host !== undefined } : { fd });
    await once(server, 'listening');
    server.on('error', () => undefined); // no descriptors: the authority asks again
    return challenges;
  }

  close(): void {
    this.#server.close();
  }

  #serve(socket: Socket): void {
    const timer = setTimeout(() => socket.destroy(), deadlineMs);
    let text = '';
    socket.on('error', () => socket.destroy()).on('close', () => clearTimeout(timer));
    socket.on('data', (octets: Buffer) => {
      text += octets.toString('latin1', 0, maxOctets);
      if (!text.includes('\r\n\r\n') && text.length < maxOctets) return;
      socket.removeAllListeners('data').resume();
      const token = firstLine.exec(text)?.[1] ?? '';
      const answer = this.answers.get(token);
      const head = answer === undefined ? 'HTTP/1.1 404 Not Found' : 'HTTP/1.1 200 OK';
      const fields = `Content-Type: application/octet-stream\r\nContent-Length: ${answer?.length ?? 0}\r\nConnection: close`;
      socket.end(`${head}\r\n${fields}\r\n\r\n${answer ?? ''}`);
    });
  }
}
