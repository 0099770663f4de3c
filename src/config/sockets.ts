// The sockets to listen on (SLIM_LISTEN, SLIM_HTTP).
import { isIPv6 } from 'node:net';
import { toDomain } from '../mail/address.ts';
import { listOf, parser } from './parser.ts';
import { port } from './values.ts';

export const standardSockets = 'smtp://:25\nsubmission://:587\nsubmissions://:465';
/**
 * Where clients of mail catchers connect (SLIM_CAPTURE): without TLS, because they would refuse our own certificate.
 */
export const catcherPort = 1025;

/** `host` undefined: IPv4 and IPv6. */
function place(v6: string, name: string, digits: string) {
  const isHost = v6 ? isIPv6(v6) : name === '' || toDomain(name) !== undefined;
  return isHost && { host: v6 || name || undefined, port: port(digits) };
}

const socket = parser(
  'a socket is wanted, such as smtp://:25, submission://127.0.0.1:587 or submissions://[::1]:465',
  /^(smtp|submission|submissions):\/\/(?:\[(.*)\]|([^[\]:/]*)):(\d{1,5})$/,
  (kind, v6, name, digits) => {
    const at = place(v6, name, digits);
    return at && { kind: kind as 'smtp' | 'submission' | 'submissions', ...at };
  },
);
/** Where the HTTP server listens (SLIM_HTTP). */
export const httpSocket = parser(
  'an address with a port is wanted, such as :8025, 127.0.0.1:8025 or [::1]:8025',
  /^(?:\[(.*)\]|([^[\]:/]*)):(\d{1,5})$/,
  place,
);
export const sockets = listOf(socket, each => `${each.host ?? ''}:${each.port}`);
