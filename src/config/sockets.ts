// The sockets to listen on (SLIM_LISTEN).
import { isIPv6 } from 'node:net';
import { toDomain } from '../mail/address.ts';
import { listOf, parser } from './parser.ts';
import { port } from './values.ts';

export const standardSockets = 'smtp://:25\nsubmission://:587\nsubmissions://:465';

/** `host` undefined: IPv4 and IPv6. */
const socket = parser(
  'a socket is wanted, such as smtp://:25, submission://127.0.0.1:587 or submissions://[::1]:465',
  /^(smtp|submission|submissions):\/\/(?:\[(.*)\]|([^[\]:/]*)):(\d{1,5})$/,
  (kind, v6, name, digits) => {
    const isHost = v6 ? isIPv6(v6) : name === '' || toDomain(name) !== undefined;
    const socketKind = kind as 'smtp' | 'submission' | 'submissions';
    return isHost && { kind: socketKind, host: v6 || name || undefined, port: port(digits) };
  },
);
export const sockets = listOf(socket, each => `${each.host ?? ''}:${each.port}`);
