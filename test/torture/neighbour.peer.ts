// A neighbour that misbehaves as told, run in a container by neighbour-lib.ts: `dns`, or the name of a next hop.
// Promises: it reads afresh how to behave, from a file of its name, at each step; and it notes there what it was told,
// before it answers: a line for each connection in NAME.met, the subject of each message whose final dot it has seen in
// NAME.took. The zone: mail for anything.LABEL.example goes to LABEL.hop.example; of LABEL `dns-FAULT` the DNS itself
// is at fault.
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { type Socket, createServer } from 'node:net';
import { TLSSocket } from 'node:tls';

const folder = '/shared';
const read = (file: string): string =>
  existsSync(`${folder}/${file}`) ? readFileSync(`${folder}/${file}`, 'utf8') : '';
const [role = ''] = process.argv.slice(2);

/** A server that takes everything, over TLS; told `hang STEP`, `drop STEP` or `nonsense STEP` it does that there. */
function serveMail(): void {
  const pem = readFileSync(`${folder}/pem`);
  const replies: Record<string, string> = { CONNECT: '220 hop', STARTTLS: '220 go', DATA: '354 go', QUIT: '221 bye' };
  const server = createServer(raw => {
    appendFileSync(`${folder}/${role}.met`, '\n');
    let [socket, input, isContent, isSecure]: [Socket, string, boolean, boolean] = [raw, '', false, false];
    raw.on('error', () => {});
    const note = (text: string): void => {
      const subject = /^Subject: (.*)\r$/m.exec(text)?.[1] ?? '';
      appendFileSync(`${folder}/${role}.took`, `${subject}\n`);
      // Without the Received lines that were put on top.
      const own = text.replace(/^(?:Received: .*\r\n(?:[\t ].*\r\n)*)+/, '');
      const digest = createHash('sha256').update(`${own}\r\n`, 'latin1').digest('hex');
      appendFileSync(`${folder}/${role}.digests`, `${JSON.stringify({ subject, digest })}\n`);
    };
    /** Whether it goes on as usual. */
    const isUsual = (step: string): boolean => {
      const [manner, where] = read(role).split(' ');
      if (where !== step) return true;
      if (manner === 'drop') raw.destroy();
      if (manner === 'nonsense') (step === 'TLS' ? raw : socket).write('HTTP/1.1 999 What?\r\n\0\xff\r\n');
      return false;
    };
    const reply = (step: string): void => {
      const extensions = isSecure ? '' : '250-STARTTLS\r\n';
      if (isUsual(step))
        socket.write(`${step === 'EHLO' ? `250-hop\r\n${extensions}250 8BITMIME` : (replies[step] ?? '250 ok')}\r\n`);
    };
    const hear = (octets: Buffer): void => {
      input += octets.toString('latin1');
      for (let end; (end = input.indexOf(isContent ? '\r\n.\r\n' : '\r\n')) >= 0;) {
        const text = input.slice(0, end);
        input = input.slice(end + (isContent ? 5 : 2));
        const step = isContent ? 'CONTENT' : (text.split(' ')[0] ?? '').toUpperCase();
        if (isContent) note(text);
        reply(step);
        isContent = step === 'DATA';
        if (step === 'QUIT') socket.end();
        if (step === 'STARTTLS') raw.off('data', hear).once('data', secure).pause();
        if (step === 'STARTTLS') raw.resume();
      }
    };
    const secure = (first: Buffer): void => {
      raw.pause();
      if (!isUsual('TLS')) return void raw.resume();
      raw.unshift(first);
      const wrapped = new TLSSocket(raw, { isServer: true, cert: pem, key: pem });
      isSecure = true;
      socket = wrapped
        .on('error', () => raw.destroy())
        .on('_tlsError', () => raw.destroy())
        .on('data', hear);
    };
    raw.on('data', hear);
    reply('CONNECT');
  });
  server.listen({ port: 25, backlog: 2000 }, () => appendFileSync(`${folder}/${role}.up`, ''));
}

/** Answers MX and A over UDP and TCP; once the file `healed` is there, rightly. */
function serveDns(): void {
  const udp = createSocket('udp4').on('message', (query, from) => {
    for (const answer of answers(query, false)) udp.send(answer, from.port, from.address);
  });
  const tcp = createServer(socket => {
    socket
      .on('error', () => {})
      .on('data', octets => {
        for (const answer of answers(octets.subarray(2), true)) {
          const length = Buffer.alloc(2);
          length.writeUInt16BE(answer.length);
          socket.write(Buffer.concat([length, answer]));
        }
      });
  });
  tcp.listen(53, () => udp.bind(53, () => appendFileSync(`${folder}/${role}.up`, '')));
}

const [ok, servfail, nxdomain] = [0, 2, 3];
const [A, CNAME, MX] = [1, 5, 15];

function answers(query: Buffer, isTcp: boolean): Buffer[] {
  const labels: string[] = [];
  let at = 12;
  for (let length; (length = query[at] ?? 0) > 0; at += 1 + length)
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
  const [question, type] = [query.subarray(12, at + 5), query.readUInt16BE(at + 1)];
  const label = labels.at(-2)?.toLowerCase() ?? '';
  const hosts = JSON.parse(read('hosts')) as Record<string, string>;
  const [, told = ''] = /^dns-(.*)$/.exec(label) ?? [];
  const fault = existsSync(`${folder}/healed`) || labels.at(-1) !== 'example' ? '' : told;
  const say = (code: number, records: Buffer[] = [], flags = 0): Buffer => {
    const head = Buffer.from(query.subarray(0, 12));
    head.writeUInt16BE(0x8580 | flags | code, 2);
    for (const [index, count] of [1, records.length, 0, 0].entries()) head.writeUInt16BE(count, 4 + 2 * index);
    return Buffer.concat([head, question, ...records]);
  };
  const right = (): Buffer => {
    const isHop = label === 'hop';
    const address = isHop ? hosts[labels[0] ?? ''] : undefined;
    if (type === MX && !isHop)
      return say(ok, [record(MX, Buffer.concat([Buffer.from([0, 10]), name(`${told ? 'good' : label}.hop.example`)]))]);
    if (type === A && address) return say(ok, [record(A, octets(address))]);
    return say(address || !isHop ? ok : nxdomain);
  };
  switch (fault) {
    case 'silent':
      return [];
    case 'hosts': // ten of them, and nobody says where they are
      if (type !== MX) return [];
      return [
        say(
          ok,
          Array.from({ length: 10 }, (_, host) =>
            record(MX, Buffer.concat([Buffer.from([0, 10]), name(`h${host}.${labels[0]}.dns-silent.example`)])),
          ),
        ),
      ];
    case 'servfail':
      return [say(servfail)];
    case 'nxdomain':
      return [say(nxdomain)];
    case 'truncated': // and whole over TCP
      return [isTcp ? right() : say(ok, [], 0x0200)];
    case 'cut': // and nothing over TCP
      return isTcp ? [] : [say(ok, [], 0x0200)];
    case 'garbage':
      return [
        Buffer.concat([
          query.subarray(0, 2),
          Buffer.from([0x85, 0x80, 0, 1, 0, 9, 0, 0, 0, 0]),
          Buffer.alloc(40, 0xff),
        ]),
      ];
    case 'forged': {
      // As someone does who guesses: other ids, and the answer to another question. Then nothing.
      const forged = say(ok, [record(MX, Buffer.concat([Buffer.from([0, 1]), name('evil.hop.example')]))]);
      const other = Buffer.from(forged);
      other.writeUInt8((other.readUInt8(13) % 26) + 97, 13);
      return [
        ...[1, 2, 3].map(
          step => (forged.writeUInt16BE((query.readUInt16BE(0) + step) & 0xffff, 0), Buffer.from(forged)),
        ),
        other,
      ];
    }
    case 'alias': // of a host without MX
      return [say(ok, [record(CNAME, good), ...(type === A ? [record(A, octets(hosts['good']), good)] : [])])];
    case 'loop':
      return [say(ok, [record(CNAME, Buffer.from([0xc0, 12]))])];
    default:
      return [right()];
  }
}

const good = name('good.hop.example');
/** A record, of the name of the question unless another is given. */
function record(type: number, data: Buffer, owner: Buffer = Buffer.from([0xc0, 12])): Buffer {
  const fields = Buffer.from([0, type, 0, 1, 0, 0, 0, 1, 0, 0]);
  fields.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, fields, data]);
}

const octets = (address = ''): Buffer => Buffer.from(address.split('.').map(Number));
function name(text: string): Buffer {
  return Buffer.concat([
    ...text.split('.').flatMap(label => [Buffer.from([label.length]), Buffer.from(label)]),
    Buffer.from([0]),
  ]);
}

if (role === 'dns') serveDns();
else serveMail();
