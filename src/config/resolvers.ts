// The DNS servers that are asked for names from mail (SLIM_RESOLVER).
import { isIPv6 } from 'node:net';
import { listOf, parser } from './parser.ts';
import { host, port } from './values.ts';

/** An IPv6 address stands alone, or in brackets with a port. */
const resolver = parser(
  'a DNS server is wanted, such as 192.0.2.53, 192.0.2.53:5353, [2001:db8::53]:53 or unbound',
  /^(?:\[(.*)\]|([\da-f:]*:[\da-f:]*:[\da-f:.]*)|([^[\]:]+))(?::(\d{1,5}))?$/i,
  (bracketed, v6, name, digits) => {
    const address = bracketed || v6;
    if (address && (!isIPv6(address) || (v6 && digits))) return false;
    return { host: address || host(name), port: digits ? port(digits) : 53 };
  },
);
export const resolvers = listOf(resolver, each => `${each.host}:${each.port}`);
