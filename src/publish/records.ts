// The DNS records that a domain needs so that its mail is taken and believed: what they are, and whether they are
// there.
// Promises: nothing is invented: what only the operator can know (the address of the server, the words of a relay) is
// left to a note. A record that serves the same purpose in other words is ok. DNS that cannot tell is 'unknown', never
// 'missing'.
// RFC 5321 §5.1 (MX), RFC 7208 (SPF), RFC 6376 (DKIM), RFC 9989 (DMARC), RFC 8461 (MTA-STS), RFC 8460 (TLS reports),
// RFC 7672 (DANE).
import { createHash } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { reverseName } from '../dns/reverse-name.ts';
import type { ListedKey, WantedRecord } from '../mail/admin.ts';
import { within } from '../system/deadline.ts';
import { type Dns, type TlsaRecord, isNo } from '../system/dns.ts';

type Facts = Readonly<{
  domain: string;
  hostname: string;
  /** Mail for others goes through a relay: then other servers never see this one. */
  isRelayed: boolean;
  keys: readonly ListedKey[];
  certificate: ShownCertificate;
}>;
/** What the server shows to others. */
export type ShownCertificate = Readonly<{
  /** SHA-256 of its public key, in hexadecimal. */
  digest: string;
  /** Whether the next certificate has the same key. */
  keyLasts: boolean;
  /** Whether a server that looks at these records takes it. */
  fits: (records: readonly TlsaRecord[]) => boolean;
}>;
type Wanted = Pick<WantedRecord, 'name' | 'type' | 'value' | 'note'> & {
  readonly ask: () => Promise<readonly string[]>;
  /** Whether what was found is enough. */
  readonly isEnough: (found: readonly string[]) => boolean;
};

/** Each question to the DNS may take so long. */
const deadlineMs = 10_000;

/** Every record of a domain, compared with what DNS has. */
export async function checkRecords(facts: Facts, dns: Dns): Promise<readonly WantedRecord[]> {
  const ofHost = await within(deadlineMs, dns.addresses(facts.hostname)).catch(() => undefined);
  const tlsa = ofHost?.isAuthentic ? await tlsaRecord(facts, dns) : [];
  return Promise.all([...wantedRecords(facts, ofHost?.records ?? [], dns), ...tlsa].map(check));
}

function wantedRecords(facts: Facts, addresses: readonly string[], dns: Dns): readonly Wanted[] {
  const { domain, hostname, isRelayed, keys } = facts;
  const exchange = `${hostname}.`;
  const mx: Wanted = {
    name: `${domain}.`,
    type: 'MX',
    value: `10 ${exchange}`,
    ask: async () =>
      (await dns.mx(domain)).records.map(each => `${each.priority} ${each.exchange.replace(/\.?$/, '.')}`),
    isEnough: found => found.some(each => each.toLowerCase().endsWith(` ${exchange}`)),
  };
  const [spf, ofHost] = spfRecords(facts, addresses, dns);
  const keyRecords = keys.flatMap(({ name, record, state }) => {
    if (record === undefined) return [];
    const p = /\bp=(.*)$/.exec(record)?.[1] ?? '';
    const note = state === 'active' ? {} : { note: `the key is ${state}` };
    return { ...text(dns, name, record, /^/, each => each.replaceAll(/\s+/g, '').includes(`p=${p}`)), ...note };
  });
  return [
    mx,
    ...hostRecords(facts, addresses, dns),
    spf,
    ...(isRelayed ? [] : [ofHost]),
    ...keyRecords,
    text(dns, `_dmarc.${domain}`, `v=DMARC1; p=none; rua=mailto:postmaster@${domain}`, /^v=DMARC1\b/, each =>
      /;\s*p\s*=\s*(?:none|quarantine|reject)\b/i.test(each),
    ),
    mtaSts(facts, dns),
    text(dns, `_smtp._tls.${domain}`, `v=TLSRPTv1; rua=mailto:postmaster@${domain}`, /^v=TLSRPTv1\b/, each =>
      /;\s*rua\s*=/.test(each),
    ),
  ];
}

/**
 * The addresses of the host, and their names: a server whose address has no name, or another one, is refused by many.
 */
function hostRecords({ hostname, isRelayed }: Facts, addresses: readonly string[], dns: Dns): readonly Wanted[] {
  const name = `${hostname}.`;
  const ask = async () => (await dns.addresses(hostname)).records;
  if (addresses.length === 0) {
    const note = 'the address at which this server is reached from outside; its PTR record must say the name';
    return [{ name, type: 'A', value: '<address>', note, ask, isEnough: () => false }];
  }
  return addresses.flatMap((address): Wanted[] => {
    const forward: Wanted = {
      name,
      type: isIPv6(address) ? 'AAAA' : 'A',
      value: address,
      ask,
      isEnough: found => found.includes(address),
    };
    const back: Wanted = {
      name: `${reverseName(address)}.`,
      type: 'PTR',
      value: name,
      note: `of ${address}; whoever provides the address sets it`,
      ask: async () => (await dns.ptr(address)).records.map(each => each.replace(/\.?$/, '.')),
      isEnough: found => found.some(each => each.toLowerCase() === name),
    };
    return isRelayed ? [forward] : [forward, back];
  });
}

/** A term of an SPF record whose answer stands in another record. */
const leadsElsewhere = /^\+?(?:include:|redirect=|exists:|ip[46]:|a:|mx:|mx\/|a\/)/;

function spfRecords(
  { domain, hostname, isRelayed }: Facts,
  addresses: readonly string[],
  dns: Dns,
): readonly [Wanted, Wanted] {
  const literals = addresses.map(each => `${isIPv6(each) ? 'ip6' : 'ip4'}:${each}`);
  const own = new Set(['mx', 'a', `a:${hostname}`, ...literals]);
  /** It names this server, or leaves the answer to a record elsewhere, which is not looked into. */
  const isFit = (each: string): boolean => {
    const terms = each.toLowerCase().split(/\s+/);
    return terms.some(term => own.has(term.replace(/^\+/, '')) || leadsElsewhere.test(term));
  };
  const ofDomain = text(dns, domain, 'v=spf1 mx ~all', /^v=spf1(?: |$)/i, isFit);
  const note = { note: 'add what the relay asks you to include' };
  return [{ ...ofDomain, ...(isRelayed && note) }, text(dns, hostname, 'v=spf1 a -all', /^v=spf1(?: |$)/i, isFit)];
}

/** The record, and in the note the policy that a web server has to serve. */
function mtaSts({ domain, hostname }: Facts, dns: Dns): Wanted {
  const policy = ['version: STSv1', 'mode: testing', `mx: ${hostname}`, 'max_age: 86400'];
  const id = createHash('sha256').update(policy.join('\n')).digest('hex').slice(0, 20);
  const note = `serve at https://mta-sts.${domain}/.well-known/mta-sts.txt:\n${policy.join('\n')}`;
  return {
    ...text(dns, `_mta-sts.${domain}`, `v=STSv1; id=${id}`, /^v=STSv1\b/, each => /;\s*id\s*=\s*\w/.test(each)),
    note,
  };
}

/**
 * The record that binds others to our certificate (DANE), for a host in a signed zone. One that a new key would make
 * wrong is not asked for; where there are some, one of them has to fit, since no mail comes from servers that look at
 * them otherwise.
 */
async function tlsaRecord({ hostname, certificate }: Facts, dns: Dns): Promise<readonly Wanted[]> {
  const name = `_25._tcp.${hostname}`;
  const look = async (): Promise<readonly TlsaRecord[]> => (await dns.tlsa(name)).records;
  const { digest, keyLasts, fits } = certificate;
  if (!keyLasts && (await within(deadlineMs, look()).catch(() => [])).length === 0) return [];
  const shown = ({ usage, selector, matching, data }: TlsaRecord): string =>
    `${usage} ${selector} ${matching} ${data.toString('hex')}`;
  let found: readonly TlsaRecord[] = [];
  return [
    {
      name: `${name}.`,
      type: 'TLSA',
      value: `3 1 1 ${digest}`,
      ...(!keyLasts && { note: 'only where a new certificate has the same key' }),
      ask: async () => (found = await look()).map(shown),
      isEnough: () => fits(found),
    },
  ];
}

/** A TXT record. `kind`: which of those that stand there are meant; there must be exactly one, and it must fit. */
function text(dns: Dns, name: string, value: string, kind: RegExp, isFit: (text: string) => boolean): Wanted {
  return {
    name: `${name}.`,
    type: 'TXT',
    value,
    ask: async () => (await dns.txt(name)).records.filter(each => kind.test(each)),
    isEnough: ([only, ...others]) => only !== undefined && others.length === 0 && isFit(only),
  };
}

async function check({ ask, isEnough, ...wanted }: Wanted): Promise<WantedRecord> {
  const record = { ...wanted, zone: zoneLine(wanted) };
  try {
    const found = await within(deadlineMs, ask());
    if (isEnough(found)) return { ...record, status: 'ok', found };
    return { ...record, status: found.length === 0 ? 'missing' : 'differs', found };
  } catch (error) {
    if (isNo(error)) return { ...record, status: 'missing', found: [] };
    return { ...record, status: 'unknown', found: [(error as NodeJS.ErrnoException).code ?? String(error)] };
  }
}

/** As it stands in a zone file: the strings of a TXT record have 255 octets at most (RFC 1035 §3.3). */
function zoneLine({ name, type, value }: Pick<WantedRecord, 'name' | 'type' | 'value'>): string {
  const strings = value.match(/.{1,255}/g) ?? [''];
  return `${name} IN ${type} ${type === 'TXT' ? strings.map(each => `"${each}"`).join(' ') : value}`;
}
