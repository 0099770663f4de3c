// The header lines that this server writes in front of a message: Return-Path and Received. Pure.
// Promises: every line is one header field, whatever a client has called itself; it is ASCII wherever the message goes
// on to other servers, so that mail with an ASCII header stays such mail; nobody is named who might be a secret (Bcc).
// RFC 5321 §4.4, RFC 3848 and 6531 §4.3 (the `with` clause), RFC 5322 §3.3 (dates).
import type { Envelope } from '../smtp/envelope.ts';
import { mailDate } from '../system/names.ts';
import type { Peer } from './peer.ts';

/** In front of the copies in Maildirs alone. */
export const returnPathLine = ({ reversePath }: Envelope): string =>
  `Return-Path: <${reversePath === '' ? '' : reversePath.text}>\n`;

type Facts = Readonly<{ id: string; hostname: string; receivedAt: number }>;
/** `domain`: of the only recipient, in A-labels; undefined where there are several. */
export function receivedLine(
  envelope: Envelope,
  { client, tls }: Peer,
  facts: Facts,
  domain: string | undefined,
): string {
  const { id, hostname, receivedAt } = facts;
  const [only] = envelope.recipients;
  const name = domain === undefined || only === undefined ? undefined : asciiAddress(only.address.text, domain);
  return [
    `Received: from ${harmlessName(envelope.helo)} ([${client.includes(':') ? 'IPv6:' : ''}${client}])`,
    `\tby ${hostname} with ${envelope.protocol}${tls === undefined ? '' : ` (${tls})`}`,
    `\tid ${id}${name === undefined ? '' : `\n\tfor <${name}>`}; ${mailDate(receivedAt)}\n`,
  ].join('\n');
}

/**
 * What a client calls itself may hold anything but control characters; whatever could mean something here becomes `?`.
 */
function harmlessName(helo: string): string {
  return helo.slice(0, 255).replace(/[^\w.:[\]-]/gu, '?');
}

/**
 * The address in ASCII, or undefined where it has no such form. A message with an ASCII header for an internationalised
 * domain needs no SMTPUTF8 at the next hop; with a `for` clause in UTF-8 it would, and bounce.
 */
function asciiAddress(text: string, domain: string): string | undefined {
  if (/^[ -~]*$/.test(text)) return text;
  const local = text.slice(0, text.lastIndexOf('@'));
  return /^[ -~]*$/.test(local) ? `${local}@${domain}` : undefined;
}
