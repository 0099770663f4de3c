// What the test of hostile mail runs beside the server, each in a process of its own:
//   node hostile-judging-load.ts dns PORT          a DNS whose answers depend on the name (below)
//   node hostile-judging-load.ts KIND SMTP-PORT    clients that send such mail, from 127.0.0.1, until it is ended
// Throttled, so that the server is what is tested and not the generator: so many messages a second stand beside each
// kind.
import { createSocket } from 'node:dgram';
import packet, { type Answer } from 'dns-packet';
import { dial } from '../integration/client.ts';
import { fresh, publicPart, signedBy } from './hostile-judging-mail.ts';

const [role = '', port = '0'] = process.argv.slice(2);

/**
 * Names below good.example are right, below late.example after 3 s; below silent.example nothing comes, and below
 * lies.example nonsense.
 */
function serveDns(): void {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4_000_000 });
  let lies = 0;
  socket.on('message', (octets, { port: from, address }) => {
    const { id = 0, questions = [] } = packet.decode(octets);
    const [{ name, type } = { name: '', type: 'A' }] = questions;
    const say = (answers: Answer[], rcode = 0, more = {}): void => {
      const flags = packet.RECURSION_AVAILABLE | rcode;
      socket.send(packet.encode({ type: 'response', id, flags, questions, answers, ...more }), from, address);
    };
    const text = (data: string | string[]): Answer[] => [{ type: 'TXT', name, ttl: 60, data }];
    const right = (): void => {
      if (type !== 'TXT') say([], 3);
      else if (name.includes('._domainkey.')) say(text(`v=DKIM1; k=ed25519; p=${publicPart}`));
      else if (name.startsWith('_dmarc.')) say(text('v=DMARC1; p=reject'));
      else say([], 3);
    };
    if (name.endsWith('.silent.example')) return;
    if (name.endsWith('.late.example')) return void setTimeout(right, 3000);
    if (!name.endsWith('.lies.example')) return right();
    lies += 1;
    const wrong = [
      () => say(text('x'.repeat(200)), 0, { id: id ^ 1 }),
      () => say([{ type: 'CNAME', name, ttl: 60, data: name }]),
      () => say(text(Array.from({ length: 5 }, () => `v=DMARC1; p=${'x'.repeat(200)}`))),
      () => say(Array.from({ length: 20 }, () => text('v=DKIM1; p=AAAA')[0] as Answer)),
      () => say([], 2),
      () => socket.send(Buffer.concat([octets.subarray(0, 2), Buffer.alloc(300, 0xff)]), from, address),
      () => say([{ type: 'CNAME', name, ttl: 0, data: `n${lies}.${name.slice(-150)}` }]),
    ];
    wrong[lies % wrong.length]?.();
  });
  socket.bind(Number(port), '127.0.0.1', () => console.log('ready'));
}

/** Looks like a signature. `length`: of what it says that it has signed. */
const signature = (domain: string, length = 170): string =>
  `DKIM-Signature: v=1; a=rsa-sha256; d=${domain}; s=s; h=from; bh=${'A'.repeat(43)}=; b=${'A'.repeat(length)}==\r\n`;
const from = (domain: string): string => `From: a@${domain}\r\n`;
const body = '\r\nx\r\n';
const many = (count: number, zone: string, length?: number): string =>
  Array.from({ length: count }, () => signature(fresh(zone), length)).join('');
/** With a signature, so that it is judged though it comes from loopback. */
const withField = (field: string): string =>
  `${signature(fresh('good.example'))}${from(fresh('good.example'))}X: y${field}\r\n${body}`;

/** Messages, and how many a second. */
const kinds: Readonly<Record<string, readonly [perSecond: number, message: () => string]>> = {
  'ordinary mail': [20, () => signedBy(fresh('good.example'))],
  'ordinary mail of 1 MiB': [4, () => signedBy(fresh('good.example'), `${'x'.repeat(70)}\r\n`.repeat(14_500))],
  'a header of 1 MiB': [4, () => withField('\r\n y'.repeat(260_000))],
  'a header of 60 KiB in 2,400 folds': [4, () => withField(`\r\n ${'y'.repeat(22)}`.repeat(2400))],
  'a thousand signatures': [4, () => `${many(1000, 'good.example')}${from(fresh('good.example'))}${body}`],
  '400 signatures in 60 KiB': [4, () => `${many(400, 'good.example', 4)}${from(fresh('good.example'))}${body}`],
  'ten keys that never come': [20, () => `${many(10, 'silent.example')}${from(fresh('good.example'))}${body}`],
  'a DNS that answers nothing': [20, () => `${many(1, 'silent.example')}${from(fresh('silent.example'))}${body}`],
  'a DNS that answers late': [20, () => `${many(1, 'late.example')}${from(fresh('late.example'))}${body}`],
  'a DNS that lies': [20, () => `${many(3, 'lies.example')}${from(fresh('lies.example'))}${body}`],
};

/** Forty sessions, each with a message under way at most. */
async function attack(perSecond: number, message: () => string): Promise<void> {
  const sessions = 40;
  let turn = 0;
  const one = async (): Promise<never> => {
    for (;;) {
      const client = await dial(Number(port));
      for (let count = 0; count < 15 && !client.socket.destroyed; count += 1) {
        // Each waits for its turn, so that all together send so many a second.
        const at = Math.max(turn, performance.now());
        turn = at + 1000 / perSecond;
        await new Promise(resolve => setTimeout(resolve, at - performance.now()));
        for (const command of ['MAIL FROM:<a@example.net>', 'RCPT TO:<b@example.com>', 'DATA'])
          await client.say(command);
        client.send(message());
        const reply = await client.say('.');
        counts[reply.slice(0, 9)] = (counts[reply.slice(0, 9)] ?? 0) + 1;
      }
      client.socket.destroy();
    }
  };
  await Promise.all(Array.from({ length: sessions }, one));
}
const counts: Record<string, number> = {};

process.on('SIGTERM', () => {
  console.log(JSON.stringify(counts));
  process.exit(0);
});
if (role === 'dns') serveDns();
else {
  const [perSecond, message] = kinds[role] ?? [];
  if (perSecond === undefined || message === undefined) throw new Error(`there is no '${role}'`);
  await attack(perSecond, message);
}
