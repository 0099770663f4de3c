// Networks whose every host may send outward without a login (SLIM_TRUSTED_NETWORKS), or may name the clients for which
// it speaks (SLIM_PROXY_NETWORKS).
// Promise: none is so wide that the server becomes an open relay: no more than /8 of IPv4, /32 of IPv6, and never IPv4
// written as IPv6 (`::ffff:…`), where a short prefix would be the whole of IPv4.
import { isIPv4, isIPv6 } from 'node:net';
import { listOf, parser } from './parser.ts';

const network = parser(
  'a network is wanted, such as 10.1.0.0/16 or 2001:db8::/48, no wider than /8 or (IPv6) /32, IPv4 as IPv4',
  /^([\d.]+|[\da-f:.]+)(?:\/(\d{1,3}))?$/i,
  (address, digits) => {
    const isV6 = isIPv6(address);
    const canonical = isV6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address;
    const bits = digits ? Number(digits) : isV6 ? 128 : 32;
    const isGood = isV6 ? bits >= 32 && bits <= 128 : isIPv4(address) && bits >= 8 && bits <= 32;
    return isGood && (!canonical.startsWith('::') || (canonical === '::1' && bits === 128)) && `${canonical}/${bits}`;
  },
);
export const networks = listOf(network, String);
