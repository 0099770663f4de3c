// A DNS server of the test on loopback, over UDP and TCP: it says what the test tells it to, true or not.
import dgram from 'node:dgram';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import type { TestContext } from 'node:test';
import packet, { type Answer, type Question } from 'dns-packet';

type Query = Question & { readonly id: number; readonly isTcp: boolean; readonly octets: Buffer };
type Words = {
  readonly answers?: readonly Answer[];
  readonly authorities?: readonly Answer[];
  /** NXDOMAIN is 3, SERVFAIL 2. */
  readonly rcode?: number;
  readonly flags?: number;
  readonly id?: number;
  readonly questions?: readonly Question[];
};
/** What is said to a question: one answer after the other, whole messages or their parts; none is silence. */
export type Answering = (query: Query) => readonly (Words | Buffer)[];
type NameServer = {
  readonly host: string;
  readonly port: number;
  /** As `TYPE name`, with `over TCP` where it was. */
  readonly asked: string[];
  readonly ports: Set<number>;
};

/** `t.after` undoes it. */
export async function serveDns(t: Pick<TestContext, 'after'>, answering: Answering): Promise<NameServer> {
  const asked: string[] = [];
  const ports = new Set<number>();
  const hear = (octets: Buffer, isTcp: boolean): Buffer[] => {
    const { id = 0, questions = [] } = packet.decode(octets);
    const [question] = questions;
    if (question === undefined) return [];
    asked.push(`${question.type} ${question.name}${isTcp ? ' over TCP' : ''}`);
    return answering({ ...question, id, isTcp, octets }).map(words => {
      if (Buffer.isBuffer(words)) return words;
      const { flags = 0, rcode = 0, answers = [], authorities = [], ...rest } = words;
      const lists = {
        questions: [...(rest.questions ?? questions)],
        answers: [...answers],
        authorities: [...authorities],
      };
      const whole = { type: 'response', id: rest.id ?? id, flags: packet.RECURSION_AVAILABLE | flags | rcode } as const;
      return packet.encode({ ...whole, ...lists });
    });
  };
  const udp = dgram.createSocket({ type: 'udp4', recvBufferSize: 4_000_000 });
  udp.on('message', (octets, { port, address }) => {
    ports.add(port);
    for (const answer of hear(octets, false)) udp.send(answer, port, address);
  });
  const tcp = createServer(socket => {
    socket.on('error', () => undefined);
    socket.on('data', octets => {
      for (const answer of hear(octets.subarray(2), true)) {
        const length = Buffer.alloc(2);
        length.writeUInt16BE(answer.length);
        socket.write(Buffer.concat([length, answer]));
      }
    });
  });
  tcp.listen(0, '127.0.0.1');
  await once(tcp, 'listening');
  const { port } = tcp.address() as AddressInfo;
  t.after(() => {
    udp.close();
    tcp.close();
  });
  // A port that is free for TCP is nearly always free for UDP, of which there are fewer here.
  udp.bind(port, '127.0.0.1');
  await once(udp, 'listening');
  return { host: '127.0.0.1', port, asked, ports };
}

export const a = (name: string, data = '192.0.2.1', ttl = 60): Answer => ({ type: 'A', name, ttl, data });
export const cname = (name: string, data: string): Answer => ({ type: 'CNAME', name, ttl: 60, data });
export const soa = (minimum = 60): Answer => {
  const data = { mname: 'ns.example', rname: 'x.example', serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
  return { type: 'SOA', name: 'example', ttl: 3600, data };
};
