// What the tests of sending share: servers on loopback that say what a test wants, with and without TLS, and a
// transport that meets them. DNS is a table of addresses for documentation, and dialling one of them leads to a server
// of the test.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, after } from 'node:test';
import { TLSSocket, createSecureContext } from 'node:tls';
import type { Delivery, QueueEntry } from '../../src/mail/message.ts';
import type { Place } from '../../src/mail/ports.ts';
import { standardTimeouts } from '../../src/outbound/connection.ts';
import { OutboundTransport, type OutboundOptions } from '../../src/outbound/transport.ts';
import { freePlace } from '../../src/queue/places.ts';
import type { Log } from '../../src/system/log.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';
import { createCertificate } from '../../src/tls/certificates.ts';
import { answerOf, nullDns } from '../contract/null-dns.ts';

export const folder = mkdtempSync(join(tmpdir(), 'outbound-'));
after(() => rmSync(folder, { recursive: true }));

const newCertificate = (hostname: string) => createCertificate({ hostname, clock: systemClock, random: systemRandom });
/** What the servers show. */
export const certificate = { pair: await newCertificate('mx1.example') };
/** A certificate for another name, until the test ends. */
export async function certifyAs(hostname: string, t: TestContext): Promise<void> {
  const { pair } = certificate;
  certificate.pair = await newCertificate(hostname);
  t.after(() => (certificate.pair = pair));
}

export type Visit = {
  readonly lines: string[];
  readonly messages: string[];
  /** What came in one packet, as far as one can tell. */
  readonly reads: string[];
  isSecure: boolean;
};
export type Say = string | 'hang' | 'drop' | undefined;
export type Server = { readonly port: number; readonly visits: Visit[]; readonly sockets: Set<Socket> };
export type ServerOptions = {
  /** The reply to a command, to CONNECT or to CONTENT; undefined: the usual one. A text is sent as it is, with CRLF. */
  readonly answer?: (line: string, visit: Visit, socket: Socket) => Say | Promise<Say>;
  readonly extensions?: readonly string[];
  readonly tls?: 'starttls' | 'implicit';
};

const usual: Readonly<Record<string, string>> = {
  CONNECT: '220 mx.test',
  MAIL: '250 2.1.0 ok',
  RCPT: '250 2.1.5 ok',
  DATA: '354 go',
  CONTENT: '250 2.0.0 kept',
  RSET: '250 ok',
  QUIT: '221 bye',
};

export async function serve(
  t: TestContext,
  { answer = () => undefined, extensions = ['PIPELINING', '8BITMIME', 'SIZE 1000000'], tls }: ServerOptions = {},
): Promise<Server> {
  const visits: Visit[] = [];
  const sockets = new Set<Socket>();
  const server = createServer(raw => {
    sockets.add(raw);
    raw.setNoDelay();
    raw.on('error', () => undefined);
    const visit: Visit = { lines: [], messages: [], reads: [], isSecure: false };
    visits.push(visit);
    let [socket, input, isContent]: [Socket, string, boolean] = [raw, '', false];
    let turn = Promise.resolve();
    const reply = async (line: string): Promise<void> => {
      const said = await answer(line, visit, socket);
      const verb = line.split(' ')[0]?.toUpperCase() ?? '';
      const offers = [...extensions, ...(tls === 'starttls' && !visit.isSecure ? ['STARTTLS'] : [])];
      const hello = ['mx.test', ...offers]
        .map((each, at, all) => `250${at < all.length - 1 ? '-' : ' '}${each}`)
        .join('\r\n');
      const text =
        said ?? (verb === 'EHLO' ? hello : verb === 'STARTTLS' && tls ? '220 go' : (usual[verb] ?? '500 what?'));
      if (text === 'drop') socket.destroy();
      else if (text !== 'hang') socket.write(`${text}\r\n`);
      if (text.startsWith('354')) isContent = true;
      if (verb === 'STARTTLS' && tls && text.startsWith('220')) secure();
      if (verb === 'QUIT') socket.end();
    };
    const receive = (octets: Buffer): void => {
      visit.reads.push(octets.toString('latin1'));
      input += octets.toString('latin1');
      const read = async (): Promise<void> => {
        for (;;) {
          const end = isContent ? (input.startsWith('.\r\n') ? 0 : input.indexOf('\r\n.\r\n')) : input.indexOf('\r\n');
          if (end < 0) return;
          const line = input.slice(0, end);
          if (isContent) visit.messages.push(end === 0 && input.startsWith('.\r\n') ? '' : `${line}\r\n`);
          else visit.lines.push(line);
          input = input.slice(end + (isContent ? (input.startsWith('.\r\n') ? 3 : 5) : 2));
          const what = isContent ? 'CONTENT' : line;
          isContent = false;
          await reply(what);
        }
      };
      turn = turn.then(read);
    };
    const secure = (): void => {
      raw.off('data', receive);
      const { cert, key } = certificate.pair;
      const wrapped = new TLSSocket(raw, { isServer: true, secureContext: createSecureContext({ cert, key }) });
      visit.isSecure = true;
      socket = wrapped
        .on('error', () => raw.destroy())
        .on('_tlsError', () => raw.destroy())
        .on('data', receive);
    };
    if (tls === 'implicit') secure();
    else socket.on('data', receive);
    void reply('CONNECT');
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (server.address() as AddressInfo).port, visits, sockets };
}

type Sending = {
  readonly transport: OutboundTransport;
  readonly lines: string[];
  readonly send: (
    entry?: Partial<QueueEntry> & { readonly content?: string; readonly to?: string; readonly place?: Place },
  ) => Promise<readonly Delivery[]>;
};

/** MX hosts mx1.example, mx2.example …, in this order, are the given servers; a number is a port. */
export function start(
  t: TestContext,
  servers: readonly (Server | number)[],
  more: Partial<OutboundOptions> = {},
): Sending {
  const lines: string[] = [];
  const note = (level: string) => (fields: Record<string, unknown>, text: string) =>
    void lines.push(`${level} ${text} ${JSON.stringify(fields)}`);
  const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
  const port = (server: Server | number | undefined): number =>
    typeof server === 'number' ? server : (server?.port ?? 1);
  const transport = new OutboundTransport({
    hostname: 'mail.example.com',
    externalTls: 'opportunistic',
    port: 25,
    dns: nullDns({
      mx: async () => answerOf(servers.map((_, at) => ({ exchange: `mx${at + 1}.example`, priority: at }))),
      addresses: async host => answerOf([`192.0.2.${host.slice(2, -8)}`]),
      systemAddresses: async () => ['127.0.0.1'],
    }),
    maxRecipients: 100,
    isSelf: () => false,
    clock: systemClock,
    random: systemRandom,
    log,
    timeouts: standardTimeouts,
    dial: ({ host }) => connect(port(servers[Number(host.split('.')[3]) - 1]), '127.0.0.1'),
    ...more,
  });
  t.after(() => transport.close());
  let count = 0;
  const send: Sending['send'] = async ({
    content = 'Subject: x\n\nhello\n',
    to = 'b@x.example',
    place = freePlace(),
    ...rest
  } = {}) => {
    const path = join(folder, `m${(count += 1)}${systemRandom.hex(4)}`);
    writeFileSync(path, `Return-Path: <>\n${content}`, 'latin1');
    const recipients = to.split(' ').map(address => ({ address, domain: 'x.example' }));
    const entry = {
      id: `m${count}`,
      from: 'a@example.com',
      isUtf8: false,
      is8Bit: false,
      receivedAt: 0,
      returnPathBytes: 16,
      recipients,
      ...rest,
    };
    const sizeBytes = 16 + content.length;
    const hop = more.relay ? ({ kind: 'relay' } as const) : ({ kind: 'domain', domain: 'x.example' } as const);
    return transport.deliver(hop, entry, { kind: 'file', path, sizeBytes }, recipients, place);
  };
  return { transport, lines, send };
}

export const words = (deliveries: readonly Delivery[]): string =>
  deliveries
    .map(({ kind, status, text, remote, isUnreachable }) =>
      [kind, status, remote ?? '-', ...(isUnreachable ? ['unreachable'] : []), text].join(' '),
    )
    .join('\n');
export const plain = { externalTls: 'opportunistic' } as const;
export const quick = {
  timeouts: { connect: 300, handshake: 300, command: 300, data: 300, block: 300, end: 300, attempt: 1000, quit: 200 },
};
export const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));
export const on =
  (verb: string, said: Say, when: (visit: Visit) => boolean = () => true) =>
  (line: string, visit: Visit): Say =>
    line.startsWith(verb) && when(visit) ? said : undefined;
