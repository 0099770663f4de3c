// What a signature or a seal needs of a message that leaves: the fields of its header, and the digest of its body.
// Promise: memory is bounded: a large message is read piece by piece.
import { type Field, fieldsOf } from '../mail/header.ts';
import { piecesOf, readMessage } from '../mail/message.ts';
import type { Signer } from '../mail/ports.ts';
import { keepNewest } from '../system/newest.ts';
import { RelaxedBody } from './canonical.ts';

export type Stored = Parameters<Signer['sign']>[0];

/** A header has to end within so many octets: that of a login has 256 KiB at most, with trace lines in front of it. */
const maxHeaderBytes = 512 * 1024;
/** Of a file so much is read at once. */
const pieceBytes = 256 * 1024;

/** The header, and the way to the digest, as base64; or why the header cannot be read. */
export function readOutgoing(
  message: Stored,
): { readonly fields: readonly Field[]; readonly digest: () => Promise<string> } | { readonly reason: string } {
  const head = readMessage(message, message.returnPathBytes, maxHeaderBytes);
  const end = head[0] === 0x0a ? 0 : head.indexOf('\n\n') + 1 || head.length;
  if (end === maxHeaderBytes) return { reason: 'its header has no end' };
  const header = head.toString('latin1', 0, end);
  if (header.includes('\r')) return { reason: 'its header has a bare CR' };
  return { fields: fieldsOf(header.replace(/\n$/, '')), digest: () => digestOf(message, head, end) };
}

/** Of the body, which begins behind the empty line at `end`. */
async function digestOf(message: Stored, head: Buffer, end: number): Promise<string> {
  const body = new RelaxedBody();
  body.update(head.subarray(end + 1));
  const rest = message.returnPathBytes + head.length;
  if (rest < message.sizeBytes) for await (const octets of piecesOf(message, rest, pieceBytes)) body.update(octets);
  return body.digest();
}

/** The messages that are remembered, for mail that goes to several servers. */
const maxRemembered = 256;

/** Reads and signs a message once for each form in which it leaves. What could not be signed is not remembered. */
export function oncePerForm(sign: Signer['sign']): Signer['sign'] {
  const remembered = new Map<string, Promise<string>>();
  return (message, entry, form) => {
    const name = `${entry.id} ${form}`;
    const signed = remembered.get(name) ?? sign(message, entry, form);
    keepNewest(remembered, name, signed, maxRemembered);
    signed.catch(() => remembered.delete(name));
    return signed;
  };
}
