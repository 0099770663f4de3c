// The header by which a proxy names the client whose connection it passes on (the PROXY protocol of HAProxy, versions 1
// and 2). Pure: octets in, a verdict out.
// Promises: the verdict never depends on how the octets were cut; what begins like no header is malformed at once; no
// header is longer than `maxHeaderOctets`. Whatever else a header says (ports, the server's address, TLS) means nothing
// here.
import { SocketAddress, isIPv4, isIPv6 } from 'node:net';

/** Who the client is; `octets` is the length of the header, behind which the client's own octets begin. */
type ProxyHeader =
  | { readonly kind: 'client'; readonly client: string; readonly octets: number }
  /** The proxy speaks for itself (a health check), or does not know its client. */
  | { readonly kind: 'nobody'; readonly octets: number };
export type Verdict = ProxyHeader | { readonly kind: 'incomplete' } | { readonly kind: 'malformed' };

const textStart = Buffer.from('PROXY ');
const maxTextOctets = 107;
const binaryStart = Buffer.from('\r\n\r\n\0\r\nQUIT\n');
/** Signature, version and command, family, length. */
const fixedOctets = 16;
/** Version 2 could have 64 KiB. What proxies send is below 1 KiB, also with details of TLS. */
export const maxHeaderOctets = 4096;

const incomplete = { kind: 'incomplete' } as const;
const malformed = { kind: 'malformed' } as const;

/** What the octets that have come so far mean. */
export function parseProxyHeader(octets: Buffer): Verdict {
  if (startsLike(octets, textStart)) return parseText(octets);
  return startsLike(octets, binaryStart) ? parseBinary(octets) : malformed;
}

/** Whether the octets begin like that, as far as both go. */
const startsLike = (octets: Buffer, start: Buffer): boolean => {
  const length = Math.min(octets.length, start.length);
  return octets.compare(start, 0, length, 0, length) === 0;
};

/** Version 1: one line, such as `PROXY TCP4 192.0.2.7 198.51.100.1 40000 25`. */
function parseText(octets: Buffer): Verdict {
  const line = octets.toString('latin1', 0, maxTextOctets);
  const end = line.indexOf('\r\n');
  if (end < 0) return octets.length < maxTextOctets ? incomplete : malformed;
  const [, family = '', ...words] = line.slice(0, end).split(' ');
  if (family === 'UNKNOWN') return { kind: 'nobody', octets: end + 2 };
  const isAddress = family === 'TCP4' ? isIPv4 : isPlainIPv6;
  const [client = '', server = '', ...ports] = words;
  const isGood = (family === 'TCP4' || family === 'TCP6') && isAddress(client) && isAddress(server);
  if (!isGood || ports.length !== 2 || !ports.every(isPort)) return malformed;
  return { kind: 'client', client: canonical(client), octets: end + 2 };
}

/** Without a zone, which means something on the proxy's own links alone. */
const isPlainIPv6 = (text: string): boolean => isIPv6(text) && !text.includes('%');
const isPort = (text: string): boolean => /^\d{1,5}$/.test(text) && Number(text) <= 65_535;

/** Version 2, which is binary. */
function parseBinary(octets: Buffer): Verdict {
  if (octets.length < fixedOctets) return incomplete;
  const length = fixedOctets + octets.readUInt16BE(14);
  const command = octets[12];
  const family = octets[13] ?? 0;
  if ((command !== 0x20 && command !== 0x21) || length > maxHeaderOctets) return malformed;
  const isLocal = command === 0x20;
  const addressOctets = addressLengths.get(family);
  if (!isLocal && (addressOctets === undefined || length < fixedOctets + addressOctets)) return malformed;
  if (octets.length < length) return incomplete;
  const address = octets.subarray(fixedOctets);
  if (isLocal || (family !== 0x11 && family !== 0x21)) return { kind: 'nobody', octets: length };
  if (family === 0x11) return { kind: 'client', client: address.subarray(0, 4).join('.'), octets: length };
  const groups = address.toString('hex', 0, 16).match(/.{4}/g) ?? [];
  return { kind: 'client', client: canonical(groups.join(':')), octets: length };
}

/** Octets of the addresses and ports of each family over a stream: none that is known, IPv4, IPv6, a Unix socket. */
const addressLengths: ReadonlyMap<number, number> = new Map([
  [0x00, 0],
  [0x11, 12],
  [0x21, 36],
  [0x31, 216],
]);

/** As the kernel would have named that client; an IPv4 one without `::ffff:`. */
function canonical(address: string): string {
  if (isIPv4(address)) return address;
  return new SocketAddress({ address, family: 'ipv6' }).address.replace(/^::ffff:(?=\d+\.)/, '');
}
