// Signed mail of any domain, for the tests of hostile mail: one key for all of them, in the environment of each
// process.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';

process.env['JUDGING_KEY'] ??= generateKeyPairSync('ed25519')
  .privateKey.export({ type: 'pkcs8', format: 'der' })
  .toString('base64');
const key = createPrivateKey({
  key: Buffer.from(process.env['JUDGING_KEY'], 'base64'),
  type: 'pkcs8',
  format: 'der',
});

/** As it stands in a DNS record. */
export const publicPart = createPublicKey(key).export({ type: 'spki', format: 'der' }).subarray(-32).toString('base64');

/** A message, rightly signed (relaxed/simple, From alone); CRLF, and one at its end. */
export function signedBy(domain: string, body = 'hello\r\n'): string {
  const bodyHash = createHash('sha256').update(body).digest('base64');
  const tags = `v=1; a=ed25519-sha256; c=relaxed/simple; d=${domain}; s=s; h=from; bh=${bodyHash}; b=`;
  const digest = createHash('sha256').update(`from:a@${domain}\r\ndkim-signature:${tags}`).digest();
  return `DKIM-Signature: ${tags}${sign(null, digest, key).toString('base64')}\r\nFrom: a@${domain}\r\n\r\n${body}`;
}

let names = 0;
/** A name below a zone that nobody has asked for. */
export const fresh = (zone: string): string => `n${process.pid}-${(names += 1)}.${zone}`;
