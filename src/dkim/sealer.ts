// Seals what we forward for others (ARC), with the RSA key of the first of SLIM_DOMAINS, at whose addresses its bounces come.
// Promises: mail of ours is not sealed, since it is signed; a message is sealed once for each form in which it leaves. A
// forward that cannot be sealed leaves all the same, with a line in the log: a seal helps it on, and nobody demands one.
// RFC 8617.
import type { Signer } from '../mail/ports.ts';
import { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import type { Clock } from '../system/world.ts';
import type { Keys } from './keys.ts';
import { readOutgoing } from './outgoing.ts';
import { arcSet } from './seal.ts';
import { fieldsToSign, maxSignedFields } from './signature.ts';

type SealerOptions = Readonly<{
  keys: Pick<Keys, 'signing'>;
  domain: string;
  /** Our name in Authentication-Results. */
  hostname: string;
  clock: Clock;
  log: Log;
}>;

/** The seals that are remembered, for mail that goes to several servers. */
const maxRemembered = 256;

export function createSealer({ keys, domain, hostname, clock, log }: SealerOptions): Signer {
  const gatherer = new Gatherer(log);
  const remembered = new Map<string, Promise<string>>();
  const seal: Signer['sign'] = async (message, { id }) => {
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
  };
  return {
    sign(message, entry, form) {
      // A forward of what came from outside, and nothing else.
      if (entry.isOurs || entry.head === undefined) return Promise.resolve('');
      const name = `${entry.id} ${form}`;
      const sealed = remembered.get(name) ?? seal(message, entry, form);
      const [oldest] = remembered.keys();
      if (remembered.size >= maxRemembered && oldest !== undefined) remembered.delete(oldest);
      remembered.set(name, sealed);
      return sealed;
    },
  };
}
