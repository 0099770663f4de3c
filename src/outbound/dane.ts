// DANE for mail: whether the certificates that a server shows fit the TLSA records of its host. Pure.
// Promises: a record that says what we do not understand never fits; with usage 3 neither name nor date counts, with
// usage 2 both do.
// RFC 6698 §2.1, RFC 7671 §5, RFC 7672 §3.
import { X509Certificate, createPublicKey, hash } from 'node:crypto';
import type { TlsaRecord } from '../system/dns.ts';

/**
 * The records of a host, at least one of them usable, and the names that a certificate may be for (RFC 7672 §3.2.2),
 * the host's first.
 */
export type Dane = { readonly records: readonly TlsaRecord[]; readonly names: readonly string[] };
/** `depth`: which certificate has matched, the server's own being 0; -1 is none. */
type Verdict = { readonly isVerified: boolean; readonly depth: number; readonly reason: string };

const maxDepth = 10;
const digestOctets: Readonly<Record<number, number>> = { 1: 32, 2: 64 };

/** Usage 0 and 1 rest on authorities that a mail server cannot know of (RFC 7672 §3.1.3). */
export function isUsable({ usage, selector, matching, data }: TlsaRecord): boolean {
  const isKnown = (usage === 2 || usage === 3) && (selector === 0 || selector === 1);
  return isKnown && (matching === 0 ? data.length > 0 : digestOctets[matching] === data.length);
}

/**
 * `chain`: the certificates in DER, the server's own first, each followed by its issuer as far as the server has shown
 * it.
 */
export function verifyChain(chain: readonly Buffer[], { records, names }: Dane, now: number): Verdict {
  try {
    const [own, ...issuers] = chain.slice(0, maxDepth).map(octets => new X509Certificate(octets));
    if (own === undefined) return no('the server shows no certificate');
    const usable = records.filter(isUsable);
    if (usable.some(record => record.usage === 3 && fits(own, record))) return yes(0);
    const anchors = usable.filter(({ usage }) => usage === 2);
    const depth = anchors.length === 0 ? -1 : findAnchor(own, issuers, anchors, now);
    if (depth < 0) return no('no certificate that the server shows fits the TLSA records');
    if (!names.some(name => own.checkHost(name, { partialWildcards: false }) !== undefined))
      return { ...no(`the certificate is not for ${names.join(' or ')}`), depth };
    return yes(depth);
  } catch (error) {
    return no(`a certificate cannot be read: ${String(error)}`);
  }
}

const yes = (depth: number): Verdict => ({ isVerified: true, depth, reason: '' });
const no = (reason: string): Verdict => ({ isVerified: false, depth: -1, reason });

function fits(certificate: X509Certificate, { selector, matching, data }: TlsaRecord): boolean {
  const octets = selector === 0 ? certificate.raw : certificate.publicKey.export({ type: 'spki', format: 'der' });
  return (matching === 0 ? octets : hash(matching === 1 ? 'sha256' : 'sha512', octets, 'buffer')).equals(data);
}

/**
 * How far from the server's certificate the chain meets a trust anchor; -1: nowhere. Every certificate on the way must
 * be valid.
 */
function findAnchor(
  own: X509Certificate,
  issuers: readonly X509Certificate[],
  anchors: readonly TlsaRecord[],
  now: number,
): number {
  let current = own;
  for (let depth = 1; depth <= maxDepth; depth += 1) {
    if (!isInDate(current, now)) return -1;
    const issuer = issuers.find(each => hasIssued(each, current));
    if (issuer?.ca && isInDate(issuer, now) && anchors.some(record => fits(issuer, record))) return depth;
    // A record may hold the whole anchor, which the server then need not show (RFC 7671 §5.2.2, §5.2.3).
    const whole = anchors.find(record => record.matching === 0 && isIssuedBy(current, record, now));
    // A bare key is no certificate: the one that it has signed is the last.
    if (whole) return whole.selector === 1 ? depth - 1 : depth;
    if (!issuer?.ca || issuer === current) return -1;
    current = issuer;
  }
  return -1;
}

const hasIssued = (issuer: X509Certificate, certificate: X509Certificate): boolean =>
  certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
const isInDate = ({ validFromDate, validToDate }: X509Certificate, now: number): boolean =>
  validFromDate.getTime() <= now && now <= validToDate.getTime();

function isIssuedBy(certificate: X509Certificate, { selector, data }: TlsaRecord, now: number): boolean {
  try {
    if (selector === 1) return certificate.verify(createPublicKey({ key: data, type: 'spki', format: 'der' }));
    const anchor = new X509Certificate(data);
    return anchor.ca && isInDate(anchor, now) && hasIssued(anchor, certificate);
  } catch {
    return false; // an anchor that cannot be read is none
  }
}
