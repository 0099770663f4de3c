// One question to one server: over UDP, and over TCP where the answer does not fit into a datagram.
// Promises: a forged answer has to hit a random id, a random port and the address of the server; descriptors are
// bounded, however many questions stay unanswered; each exchange ends in its time, and each error is one of Node's
// codes.
// RFC 5452 (forged answers), RFC 7766 (TCP).
//
// A question has a socket of its own, and so a port of its own, while there are few. Beyond, it shares one with others;
// a socket that has had its share of questions is given no more, and closes with its last answer. Each socket is
// connected: the kernel drops what comes from elsewhere, and tells when nobody listens there.
import { type Socket, createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import { failure } from '../system/dns.ts';
import { Turns } from '../system/turns.ts';
import type { Random } from '../system/world.ts';
import type { Codec, Question, Response } from './message.ts';
import type { NameServer } from './servers.ts';

/** While there are fewer, each question has a port of its own. */
const maxOwnPorts = 64;
const maxQuestionsOfPort = 200;
const maxTcp = 32;

type Waiting = { readonly question: Question; readonly outcome: PromiseWithResolvers<Response> };
type Port = {
  readonly socket: Socket;
  readonly server: string;
  readonly waiting: Map<number, Waiting>;
  readonly isReady: Promise<void>;
  questions: number;
};

export class Exchange {
  readonly #codec: Codec;
  readonly #random: Random;
  readonly #ports = new Set<Port>();
  readonly #tcp = new Turns(maxTcp);

  constructor(codec: Codec, random: Random) {
    this.#codec = codec;
    this.#random = random;
  }

  async ask(question: Question, server: NameServer, timeoutMs: number): Promise<Response> {
    const response = await this.#overUdp(question, server, timeoutMs);
    return response.isTruncated ? this.#tcp.take(() => this.#overTcp(question, server, timeoutMs)) : response;
  }

  async #overUdp(question: Question, server: NameServer, timeoutMs: number): Promise<Response> {
    const port = this.#choose(server);
    port.questions += 1;
    let id = this.#random.below(65_536);
    while (port.waiting.has(id)) id = (id + 1) % 65_536;
    const outcome = Promise.withResolvers<Response>();
    port.waiting.set(id, { question, outcome });
    const timer = setTimeout(() => outcome.reject(failure('ETIMEOUT')), timeoutMs);
    try {
      const query = this.#codec.encode(question, id);
      void port.isReady.then(() => port.waiting.has(id) && port.socket.send(query));
      return await outcome.promise;
    } finally {
      clearTimeout(timer);
      port.waiting.delete(id);
      if (port.waiting.size === 0) this.#close(port);
    }
  }

  #choose({ address, port }: NameServer): Port {
    const server = `${address} ${port}`;
    if (this.#ports.size >= maxOwnPorts) {
      const shared = [...this.#ports].filter(
        each => each.server === server && each.questions < maxQuestionsOfPort && each.waiting.size > 0,
      );
      const chosen = shared[this.#random.below(Math.max(1, shared.length))];
      if (chosen) return chosen;
    }
    return this.#open(address, port, server);
  }

  #open(address: string, number: number, server: string): Port {
    const socket = createSocket(isIPv6(address.replace(/%.*/, '')) ? 'udp6' : 'udp4');
    const ready = Promise.withResolvers<void>();
    const port: Port = { socket, server, waiting: new Map(), isReady: ready.promise, questions: 0 };
    const fail = (error: NodeJS.ErrnoException): void => {
      for (const { outcome } of port.waiting.values()) outcome.reject(failure(error.code ?? 'ECONNREFUSED'));
    };
    socket.on('error', fail);
    socket.on('message', octets => {
      const id = octets.length < 2 ? -1 : octets.readUInt16BE(0);
      const waiting = port.waiting.get(id);
      if (waiting) this.#receive(octets, id, waiting);
    });
    socket.connect(number, address, (error?: Error) => (error ? fail(error) : ready.resolve()));
    this.#ports.add(port);
    return port;
  }

  /** What answers another question is passed over: the right answer may still come. */
  #receive(octets: Buffer, id: number, { question, outcome }: Waiting): void {
    try {
      const response = this.#codec.decode(octets, question, id);
      if (response) outcome.resolve(response);
    } catch {
      outcome.reject(failure('EBADRESP'));
    }
  }

  #close(port: Port): void {
    this.#ports.delete(port);
    port.socket.close();
  }

  async #overTcp(question: Question, { address, port }: NameServer, timeoutMs: number): Promise<Response> {
    const outcome = Promise.withResolvers<Response>();
    const timer = setTimeout(() => outcome.reject(failure('ETIMEOUT')), timeoutMs);
    const id = this.#random.below(65_536);
    let octets: Buffer = Buffer.alloc(0);
    const socket = connect({ host: address, port });
    socket.on('error', ({ code }: NodeJS.ErrnoException) => outcome.reject(failure(code ?? 'ECONNREFUSED')));
    socket.on('close', () => outcome.reject(failure('EBADRESP')));
    // Together no more than one message, whose length has 16 bits.
    socket.on('data', piece => {
      octets = Buffer.concat([octets, piece]);
      const end = octets.length < 2 ? Infinity : 2 + octets.readUInt16BE(0);
      if (octets.length < end) return;
      socket.pause();
      this.#receive(octets.subarray(2, end), id, { question, outcome });
      outcome.reject(failure('EBADRESP')); // over TCP there comes no other
    });
    const query = this.#codec.encode(question, id);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(query.length);
    socket.write(Buffer.concat([length, query]));
    try {
      return await outcome.promise;
    } finally {
      clearTimeout(timer);
      socket.destroy();
    }
  }
}
