// Signs what leaves: finds the domain that answers for a message, reads the message as it goes out, and gives the
// DKIM-Signature fields to put in front of it.
// Promises:
// - Signed is what is ours to sign (`QueueEntry.isOurs`) and has one From field with an address in a hosted domain.
//   Whatever of ours leaves unsigned has a line in the log that says why.
// - Where it cannot be told now whether or how it is to be signed, the mail waits (CannotTell).
// - A message is read and signed once for each form in which it leaves, however many servers it goes to.
import { parseAddressList } from '../mail/address-list.ts';
import { toDomain } from '../mail/address.ts';
import { type Field, bodyOf } from '../mail/header.ts';
import type { QueueEntry } from '../mail/message.ts';
import { CannotTell, type Domains, type Signer } from '../mail/ports.ts';
import { Gatherer } from '../system/gather.ts';
import type { World } from '../system/world.ts';
import type { Keys } from './keys.ts';
import { type Stored, oncePerForm, readOutgoing } from './outgoing.ts';
import { signatureFields } from './signature.ts';

type SignerOptions = Readonly<{ keys: Pick<Keys, 'signing'>; domains: Domains }> & Pick<World, 'clock' | 'log'>;

export function createSigner({ keys, domains, clock, log }: SignerOptions): Signer {
  const gatherer = new Gatherer(log);

  async function sign(message: Stored, { id }: QueueEntry): Promise<string> {
    const unsigned = (reason: string): string => {
      log.info({ message: id, reason }, 'a message of ours leaves unsigned');
      return '';
    };
    const read = readOutgoing(message);
    if ('reason' in read) return unsigned(read.reason);
    const { fields, digest } = read;
    const domain = await domainOf(fields, domains);
    if (typeof domain !== 'string') return unsigned(domain.reason);
    const signers = await keys.signing(domain);
    const signed = { fields, bodyDigest: await digest(), now: clock.now() };
    return (await signatureFields(signed, signers)) ?? unsigned('its header has too many fields');
  }

  const signOnce = oncePerForm((message, entry) =>
    sign(message, entry).catch((error: unknown) => {
      const fields = { message: entry.id, error: String(error) };
      gatherer.line('error', 'dkim', fields, 'mail waits because it cannot be signed now');
      throw error instanceof CannotTell ? error : new CannotTell(String(error), { status: '4.7.5', cause: error });
    }),
  );
  return { sign: async (message, entry, form) => (entry.isOurs ? signOnce(message, entry, form) : '') };
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
