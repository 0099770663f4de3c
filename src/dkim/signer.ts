// Signs what leaves: finds the domain that answers for a message, reads the message as it goes out, and gives the
// DKIM-Signature fields to put in front of it.
// Promises:
// - Signed is what is ours to sign (`QueueEntry.isOurs`) and has one From field with an address in a hosted domain. Whatever
//   of ours leaves unsigned has a line in the log that says why.
// - Where it cannot be told now whether or how it is to be signed, the mail waits (CannotTell).
// - A message is read and signed once for each form in which it leaves, however many servers it goes to.
// - Memory is bounded: a large message is read piece by piece.
import { createReadStream } from 'node:fs';
import { parseAddressList } from '../mail/address-list.ts';
import { toDomain } from '../mail/address.ts';
import { type Field, bodyOf, fieldsOf } from '../mail/header.ts';
import { type Message, type QueueEntry, readMessage } from '../mail/message.ts';
import { CannotTell, type Domains, type Signer } from '../mail/ports.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import type { Clock } from '../system/world.ts';
import { RelaxedBody } from './canonical.ts';
import type { Keys } from './keys.ts';
import { fieldsToSign, maxSignedFields, signatureField } from './signature.ts';

type SignerOptions = Readonly<{ keys: Pick<Keys, 'signing'>; domains: Domains; clock: Clock; log: Log }>;
type Stored = Parameters<Signer['sign']>[0];

/** A header has to end within so many octets: that of a login has 256 KiB at most, with trace lines in front of it. */
const maxHeaderBytes = 512 * 1024;
/** Of a file so much is read at once. */
const pieceBytes = 256 * 1024;
/** The signatures that are remembered, for mail that goes to several servers. */
const maxRemembered = 256;

export function createSigner({ keys, domains, clock, log }: SignerOptions): Signer {
  const gatherer = new Gatherer(log);
  const remembered = new Map<string, Promise<string>>();

  async function sign(message: Stored, { id }: QueueEntry): Promise<string> {
    const unsigned = (reason: string): string => {
      log.info({ message: id, reason }, 'a message of ours leaves unsigned');
      return '';
    };
    const head = readMessage(message, message.returnPathBytes, maxHeaderBytes);
    const end = head[0] === 0x0a ? 0 : head.indexOf('\n\n') + 1 || head.length;
    if (end === maxHeaderBytes) return unsigned('its header has no end');
    const header = head.toString('latin1', 0, end);
    if (header.includes('\r')) return unsigned('its header has a bare CR');
    const fields = fieldsOf(header.replace(/\n$/, ''));
    const domain = await domainOf(fields, domains);
    if (typeof domain !== 'string') return unsigned(domain.reason);
    if (fieldsToSign(fields).length > maxSignedFields) return unsigned('its header has too many fields');
    const signers = await keys.signing(domain);
    const signed = { fields, bodyDigest: await digestOf(message, head, end), now: clock.now() };
    return (await Promise.all(signers.map(key => signatureField(signed, key)))).join('');
  }

  return {
    sign(message, entry, form) {
      if (!entry.isOurs) return Promise.resolve('');
      const name = `${entry.id} ${form}`;
      const known = remembered.get(name);
      if (known) return known;
      const signed = sign(message, entry).catch((error: unknown) => {
        remembered.delete(name);
        const fields = { message: entry.id, error: String(error) };
        gatherer.line('error', 'dkim', fields, 'mail waits because it cannot be signed now');
        throw error instanceof CannotTell ? error : new CannotTell(String(error), { status: '4.7.5', cause: error });
      });
      const [oldest] = remembered.keys();
      if (remembered.size >= maxRemembered && oldest !== undefined) remembered.delete(oldest);
      remembered.set(name, signed);
      return signed;
    },
  };
}

/** The domain that signs: that of From, or the nearest above it that is hosted. */
async function domainOf(fields: readonly Field[], domains: Domains): Promise<string | { readonly reason: string }> {
  const [from, ...others] = fields.filter(({ name }) => name === 'from');
  if (from === undefined) return { reason: 'it has no From' };
  if (others.length > 0) return { reason: 'it has several From fields' };
  const [author] = parseAddressList(Buffer.from(bodyOf(from), 'latin1').toString()) ?? [];
  const domain = author && toDomain(author.domain);
  if (domain === undefined) return { reason: 'its From cannot be read' };
  for (let labels = domain.split('.'); labels.length > 0; labels = labels.slice(1))
    if (await domains.hosts(labels.join('.'))) return labels.join('.');
  return { reason: `${domain} is not hosted here` };
}

/** Of the body, which begins behind the empty line at `end`. */
async function digestOf(message: Stored, head: Buffer, end: number): Promise<string> {
  const body = new RelaxedBody();
  body.update(head.subarray(end + 1));
  const rest = message.returnPathBytes + head.length;
  if (rest < message.sizeBytes) for await (const octets of piecesOf(message, rest)) body.update(octets);
  return body.digest();
}

async function* piecesOf(message: Message, start: number): AsyncGenerator<Buffer> {
  if (message.kind === 'file') return yield* createReadStream(message.path, { start, highWaterMark: pieceBytes });
  for (let at = start; at < message.sizeBytes; at += pieceBytes) yield readMessage(message, at, pieceBytes);
}
