// How a server of a domain must be spoken to: what our settings say, and what the domain itself demands by DANE or
// MTA-STS.
// Promises: what a domain demands beats the settings; DANE beats MTA-STS, host by host; where DNS that DNSSEC protects
// cannot tell, the host is passed over and never used with less.
// RFC 7672 §2 (DANE), RFC 8461 §5 (MTA-STS), RFC 3207.
import type { Answer, Dns, TlsaRecord } from '../system/dns.ts';
import { type Dane, isUsable } from './dane.ts';
import type { Refusal } from './dialogue.ts';
import { type StsPolicy, isNamed } from './mta-sts.ts';
import { type Target, codeOf } from './mx.ts';
import { deferred } from './replies.ts';

/** What TLS is worth at one server. */
export type TlsPolicy = {
  /**
   * `implicit`: from the first octet on. Else STARTTLS: never used; used where it is offered; or nothing goes without
   * it.
   */
  readonly use: 'implicit' | 'never' | 'offered' | 'required';
  /** Whether the certificate must be valid for the host's name, by the authorities that the system trusts. */
  readonly isVerified: boolean;
  /** TLSA records that the certificate must fit instead. */
  readonly dane?: Dane;
  /** Who wants it so, where it is the domain and not our operator. */
  readonly demand?: 'DANE' | 'MTA-STS';
};

type ExternalTls = 'required' | 'opportunistic';
export type PolicyOptions = {
  readonly dns: Dns;
  readonly externalTls: ExternalTls;
  /** Domains for which the settings have another policy. */
  readonly tlsExceptions?: Readonly<Record<string, ExternalTls>> | undefined;
  /** The policy that a domain has published; without it no domain has one. */
  readonly findSts?: ((domain: string) => Promise<StsPolicy | undefined>) | undefined;
  /** The port of MX hosts. */
  readonly port: number;
};

/** The name of an MX host is not verified: it came from DNS, where an attacker on the mail's way can forge it too. */
const unverified: TlsPolicy = { use: 'required', isVerified: false };

/** Decides the policy for one host of a domain, or why the host is not to be used. */
export async function decidePolicy(
  domain: string,
  target: Target,
  options: PolicyOptions,
): Promise<TlsPolicy | Refusal> {
  const { externalTls, tlsExceptions = {}, findSts } = options;
  const found = target.isAuthentic ? await findTlsa(target, options) : undefined;
  if (typeof found === 'string') {
    const text = `DNS cannot tell the TLSA records of ${target.host} (${found}), and without them it is not used`;
    return { because: 'host', delivery: deferred('4.7.5', text) };
  }
  if (found?.records.some(isUsable)) {
    const names = [found.name, target.host, domain];
    return { ...unverified, demand: 'DANE', dane: { records: found.records, names: [...new Set(names)] } };
  }
  const sts = await findSts?.(domain);
  if (sts?.mode === 'enforce') {
    if (isNamed(target.host, sts)) return { ...unverified, demand: 'MTA-STS', isVerified: true };
    const text = `${target.host} is not among the hosts of the MTA-STS policy of ${domain}`;
    return { because: 'host', delivery: deferred('4.7.5', text) };
  }
  // There are records, but none that we can use: TLS is used all the same, without a verified certificate (RFC 7672
  // §2.2).
  if (found !== undefined) return { ...unverified, demand: 'DANE' };
  const wanted = Object.hasOwn(tlsExceptions, domain) ? tlsExceptions[domain] : externalTls;
  return wanted === 'required' ? unverified : { ...unverified, use: 'offered' };
}

type Tlsa = { readonly records: readonly TlsaRecord[]; readonly name: string };

/**
 * Finds the authentic TLSA records of a host, at the name that its aliases lead to, else at its own (RFC 7672 §2.2.2);
 * undefined: it has none; or the code with which DNS could not tell.
 */
async function findTlsa({ host, name }: Target, { dns, port }: PolicyOptions): Promise<Tlsa | string | undefined> {
  for (const base of new Set([name, host])) {
    const found: Answer<TlsaRecord> | string = await dns.tlsa(`_${port}._tcp.${base}`).catch(codeOf);
    if (typeof found !== 'string' && found.isAuthentic) return { records: found.records, name: base };
    if (typeof found === 'string' && !['ENOTFOUND', 'ENODATA', 'EBADNAME'].includes(found)) return found;
  }
  return undefined;
}
