// PEM as people hand it over: with line ends written out as `\n` in a variable, and the certificates of a chain in any
// order.
// Promise: whatever this cannot make sense of is left as it is, for OpenSSL to refuse with its own words.
import { type KeyObject, X509Certificate } from 'node:crypto';

/** Neither PEM nor its base64 has a backslash, so that `\n` can only mean a line end. */
export const withLineEnds = (pem: string): string => pem.replaceAll(/(?:\\r)?\\n/g, '\n');

/** The certificates in a text; null: there is none. */
export const certificatesIn = (pem: string): readonly string[] | null =>
  pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);

type Chain = {
  /** The certificate of the key. */
  readonly leaf: X509Certificate;
  readonly pem: string;
  /** Whether it was another one that stood first. */
  readonly isReordered: boolean;
};

/**
 * The certificates with that of the key in front, each followed by its issuer, as a TLS handshake wants them (RFC 5246
 * §7.4.2); certificates that do not belong to the chain stand behind it. Throws when none is of this key.
 */
export function inOrder(pem: string, key: KeyObject): Chain {
  const texts = certificatesIn(pem) ?? [pem];
  const certificates = texts.map(text => ({ text, certificate: new X509Certificate(text) }));
  const leaf = certificates.find(({ certificate }) => certificate.checkPrivateKey(key));
  if (leaf === undefined) throw new Error('the key is of another certificate');
  const chain = [leaf];
  const others = certificates.filter(each => each !== leaf);
  for (let last = leaf; ;) {
    const at = others.findIndex(({ certificate }) => last.certificate.checkIssued(certificate));
    const [issuer] = at < 0 ? [] : others.splice(at, 1);
    if (issuer === undefined) break;
    chain.push(issuer);
    last = issuer;
  }
  const sorted = [...chain, ...others];
  const isReordered = sorted.some((each, at) => each !== certificates[at]);
  const ordered = sorted.map(({ text }) => text).join('\n');
  return { leaf: leaf.certificate, pem: isReordered ? ordered : pem, isReordered };
}
