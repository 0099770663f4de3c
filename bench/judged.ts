// Mail as it comes from a well-kept domain, for W10: signed beforehand, so that signing costs nothing while it is
// measured, and a DNS server on loopback that has the domain's key, its SPF and its DMARC. All else is unknown there.
import { createHash, generateKeyPairSync } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import packet from 'dns-packet';
import { signatureFields } from '../src/dkim/signature.ts';
import { fieldsOf } from '../src/mail/header.ts';
import { message } from './load.ts';

/** Port 53 of an address of its own, so that no resolver of the machine is in the way. */
export const dnsAddress = '127.0.0.154';

const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
export const signer = { domain: 'signed.test', selector: 'r1', record: `v=DKIM1; k=rsa; p=${key}` };
const { domain, selector } = signer;

const texts: Readonly<Record<string, string>> = {
  [domain]: 'v=spf1 ip4:127.0.0.0/8 -all',
  [`_dmarc.${domain}`]: 'v=DMARC1; p=reject',
  [`${selector}._domainkey.${domain}`]: signer.record,
};

/** Messages of about that size from `u@signed.test`, each with another Message-ID, as DATA has them. */
export async function signedMessages(count: number, sizeBytes: number): Promise<string[]> {
  const [, body = ''] = message(sizeBytes).split('\r\n\r\n');
  const bodyDigest = createHash('sha256').update(`${body}\r\n`).digest('base64');
  const by = { domain, selector, algorithm: 'rsa' as const, key: privateKey };
  const now = Date.now();
  const date = new Date(now).toUTCString().replace('GMT', '+0000');
  return Promise.all(
    Array.from({ length: count }, async (_, at) => {
      const header = `From: u@${domain}\nTo: u@bench.test\nSubject: signed ${at}\nDate: ${date}\nMessage-ID: <${at}.${now}@${domain}>`;
      const signature = await signatureFields({ fields: fieldsOf(header), bodyDigest, now }, [by]);
      return `${signature}${header}\n`.replaceAll('\n', '\r\n') + `\r\n${body}`;
    }),
  );
}

/** Answers until it is closed. */
export async function openZone(): Promise<{ close(): void }> {
  const socket = createSocket('udp4');
  socket.on('message', (octets, { port, address }) => {
    const { id, questions = [] } = packet.decode(octets);
    const [question] = questions;
    const name = question?.name.toLowerCase() ?? '';
    const isKnown = name === domain || name.endsWith(`.${domain}`);
    const data = question?.type === 'TXT' ? texts[name] : undefined;
    const answers =
      data === undefined ? [] : [{ type: 'TXT' as const, name, ttl: 300, data: data.match(/.{1,255}/g) ?? [] }];
    const flags = packet.RECURSION_DESIRED | packet.RECURSION_AVAILABLE | (isKnown ? 0 : 3);
    socket.send(packet.encode({ type: 'response', id: id ?? 0, flags, questions, answers }), port, address);
  });
  socket.bind(53, dnsAddress);
  await once(socket, 'listening');
  return socket;
}
