// The parts of the torture of replicas: the next hop that counts, the network between a replica and its database, the
// clients.
import { type Server, type Socket, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { type Client, dial } from '../integration/client.ts';

/** A message that the next hop has taken: when, and from which replica. */
type Taken = { readonly at: number; readonly replica: string };

/**
 * A next hop that takes everything, remembers who sent it, and how many sessions were open at once with a message under
 * way.
 */
export class CountingHop {
  readonly taken = new Map<string, Taken[]>();
  most = 0;
  port = 0;
  /** Says 451 to MAIL. */
  refuses = false;
  /** Replicas that are stopped for longer than their lease: what they have left open here does not count. */
  readonly away = new Set<string>();
  readonly #running = new Map<string, number>();
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  get running(): number {
    let sum = 0;
    for (const [replica, count] of this.#running) if (!this.away.has(replica)) sum += count;
    return sum;
  }

  /** `answerMs`: how long it takes to answer the final dot. */
  constructor(answerMs: () => number) {
    this.#server = createServer(socket => this.#serve(socket, answerMs));
  }

  async listen(): Promise<void> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as AddressInfo).port;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #serve(socket: Socket, answerMs: () => number): void {
    this.#sockets.add(socket);
    let [input, isContent, isRunning, replica] = ['', false, false, ''];
    const run = (now: boolean): void => {
      if (now !== isRunning) this.#running.set(replica, (this.#running.get(replica) ?? 0) + (now ? 1 : -1));
      isRunning = now;
      this.most = Math.max(this.most, this.running);
    };
    socket
      .on('error', () => undefined)
      .on('close', () => {
        this.#sockets.delete(socket);
        run(false);
      })
      .setEncoding('latin1');
    socket.write('220 hop\r\n');
    socket.on('data', (text: string) => {
      input += text;
      for (let end; (end = input.indexOf(isContent ? '\r\n.\r\n' : '\r\n')) >= 0;) {
        const said = input.slice(0, end);
        input = input.slice(end + (isContent ? 5 : 2));
        const wasContent = isContent;
        isContent = !isContent && said === 'DATA';
        if (wasContent) {
          const [, subject = ''] = /^Subject: (.*)$/m.exec(said) ?? [];
          setTimeout(() => {
            // It has taken the message, whether or not anybody hears that.
            const all = this.taken.get(subject.trim()) ?? [];
            this.taken.set(subject.trim(), [...all, { at: Date.now(), replica }]);
            run(false);
            if (!socket.destroyed) socket.write('250 taken\r\n');
          }, answerMs());
          continue;
        }
        if (/^(?:EHLO|HELO) /.test(said)) replica = said.slice(5);
        if (this.refuses && said.startsWith('MAIL')) {
          socket.write('451 later\r\n');
          continue;
        }
        if (said.startsWith('MAIL')) run(true);
        if (said === 'RSET') run(false);
        socket.write(
          isContent ? '354 go\r\n' : said.startsWith('EHLO') ? '250-hop\r\n250 PIPELINING\r\n' : '250 ok\r\n',
        );
      }
    });
  }
}

/** Clients that hand in messages to whichever replica answers, and hand in again what got no 250. */
export class Load {
  readonly kept = new Set<string>();
  /** Messages that were handed in more than once: the client may have missed a 250. */
  readonly again = new Set<string>();
  refused = 0;
  readonly #ports: readonly number[];
  readonly #messages: number;
  readonly #isBrief: boolean;
  #next = 0;

  /** `isBrief`: each message in a session of its own, with any of them. */
  constructor(ports: readonly number[], messages: number, isBrief = false) {
    this.#ports = ports;
    this.#messages = messages;
    this.#isBrief = isBrief;
  }

  get isOver(): boolean {
    return this.kept.size >= this.#messages;
  }

  #anyPort(): number {
    return this.#ports[Math.floor(Math.random() * this.#ports.length)] ?? 0;
  }

  /** One client. `pauseMs`: after each message, so that the load lasts as long as the faults do. */
  async run(lane: number, pauseMs: () => number): Promise<void> {
    let session: Client | undefined;
    let port = this.#ports[lane % this.#ports.length] ?? 0;
    while (this.#next < this.#messages) {
      const subject = `m${(this.#next += 1)}`;
      for (let isAgain = false; !this.kept.has(subject); isAgain = true) {
        if (isAgain) this.again.add(subject);
        try {
          session ??= await inTime(dial(port), 5000);
          for (const line of ['MAIL FROM:<a@example.net>', 'RCPT TO:<b@peer.example>', 'DATA'])
            if (!/^[23]/.test(await inTime(session.say(line), 5000))) throw new Error('not now');
          const reply = await inTime(session.say(`Subject: ${subject}\r\n\r\n${'x'.repeat(2000)}\r\n.`), 30_000);
          if (!reply.startsWith('250')) throw new Error(reply);
          this.kept.add(subject);
        } catch {
          this.refused += 1;
          session?.socket.destroy();
          session = undefined;
          port = this.#anyPort();
          await wait(200);
        }
      }
      if (this.#isBrief) {
        session?.socket.destroy();
        session = undefined;
        port = this.#anyPort();
      }
      await wait(pauseMs());
    }
    session?.socket.destroy();
  }
}

async function inTime<T>(promise: Promise<T>, ms: number): Promise<T> {
  promise.catch(() => undefined);
  return Promise.race([
    promise,
    wait(ms, undefined, { ref: false }).then(() => {
      throw new Error('too late');
    }),
  ]);
}
