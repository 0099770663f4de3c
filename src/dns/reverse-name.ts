// The name under which the DNS keeps what an address is called (PTR records): RFC 1035 §3.5, RFC 3596 §2.5.
import { isIPv4 } from 'node:net';

/** The name for an IPv4 or IPv6 address, without a final dot. */
export function reverseName(address: string): string {
  if (isIPv4(address)) return `${address.split('.').toReversed().join('.')}.in-addr.arpa`;
  // The URL parser writes an IPv6 address in its canonical form, without dots.
  const [head = '', tail = ''] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const groups = (text: string): string[] => (text === '' ? [] : text.split(':').map(each => each.padStart(4, '0')));
  const left = groups(head);
  const right = groups(tail);
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0000');
  return `${[...left, ...zeros, ...right].join('').split('').toReversed().join('.')}.ip6.arpa`;
}
