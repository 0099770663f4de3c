// Seals what we forward for others (ARC), with the RSA key of the first of SLIM_DOMAINS, at whose addresses its bounces
// come.
// Promises: mail of ours is not sealed, since it is signed; a message is sealed once for each form in which it leaves.
// A forward that cannot be sealed leaves all the same, with a line in the log: a seal helps it on, and nobody demands
// one.
// RFC 8617.
import type { Signer } from '../mail/ports.ts';
import { Gatherer } from '../system/gather.ts';
import type { World } from '../system/world.ts';
import type { Keys } from './keys.ts';
import { oncePerForm, readOutgoing } from './outgoing.ts';
import { arcSet } from './seal.ts';
import { fieldsToSign, maxSignedFields } from './signature.ts';

type SealerOptions = Pick<World, 'clock' | 'log'> &
  Readonly<{
    keys: Pick<Keys, 'signing'>;
    domain: string;
    /** Our name in Authentication-Results. */
    hostname: string;
  }>;

export function createSealer({ keys, domain, hostname, clock, log }: SealerOptions): Signer {
  const gatherer = new Gatherer(log);
  const seal = oncePerForm(async (message, { id }) => {
    try {
      const read = readOutgoing(message);
      if ('reason' in read || fieldsToSign(read.fields).length > maxSignedFields) return '';
      const key = (await keys.signing(domain)).find(({ algorithm }) => algorithm === 'rsa');
      if (key === undefined) return '';
      const { fields, digest } = read;
      return await arcSet({ fields, bodyDigest: await digest(), now: clock.now(), authservId: hostname }, key);
    } catch (error) {
      gatherer.line('warn', 'arc', { message: id, error: String(error) }, 'a forward leaves without a seal (ARC)');
      return '';
    }
  });
  return {
    // A forward of what came from outside, and nothing else.
    sign: async (message, entry, form) => (entry.isOurs || entry.head === undefined ? '' : seal(message, entry, form)),
  };
}
