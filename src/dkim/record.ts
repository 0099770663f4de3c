// The DNS record of a key: what is to be published, and whether a record that was found is that. RFC 6376 §3.6.1, RFC
// 8463 §4.
import { type KeyObject, createPublicKey } from 'node:crypto';
import type { Algorithm } from './signature.ts';

/** The TXT record of a private key. */
export function recordOf(algorithm: Algorithm, key: KeyObject): string {
  return `v=DKIM1; k=${algorithm}; p=${publicPart(algorithm, key)}`;
}

/** Of Ed25519 the 32 octets alone; of RSA the whole SubjectPublicKeyInfo. */
function publicPart(algorithm: Algorithm, key: KeyObject): string {
  const der = createPublicKey(key).export({ type: 'spki', format: 'der' });
  return (algorithm === 'rsa' ? der : der.subarray(-32)).toString('base64');
}

/** Whether a record says the same key, whatever else it says and in which order. */
export function isRecordOf(text: string, wanted: string): boolean {
  const found = tagsOf(text);
  const own = tagsOf(wanted);
  const isVersion = (found.get('v') ?? 'DKIM1') === 'DKIM1';
  return isVersion && (found.get('k') ?? 'rsa') === own.get('k') && found.get('p') === own.get('p');
}

function tagsOf(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split(';').map(tag => {
      const [name = '', ...value] = tag.split('=');
      return [name.trim(), value.join('=').replaceAll(/\s+/g, '')] as const;
    }),
  );
}
