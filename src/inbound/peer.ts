// Who is talking to us: one value that goes to whatever decides about a client or writes about it.
// What it means for a client to be trusted, shared or logged in is decided in policy.ts alone.
import type { Login } from '../mail/ports.ts';

export type Peer = {
  /** The client's IP address, an IPv4 one without `::ffff:`. */
  readonly client: string;
  /** Whether every client may hide behind that address: a container's gateway. */
  readonly isShared: boolean;
  /** Whether it is in SLIM_TRUSTED_NETWORKS, which hold no shared address. */
  readonly isTrusted: boolean;
  /** What the client calls itself in HELO or EHLO, as it came: anything but control characters may be in it. */
  readonly helo: string | undefined;
  /** TLS version and cipher. */
  readonly tls: string | undefined;
  readonly login: Login | undefined;
};

/** Somebody of whom nothing is known. */
export const stranger: Peer = {
  client: '',
  isShared: false,
  isTrusted: false,
  helo: undefined,
  tls: undefined,
  login: undefined,
};

/**
 * The one that limits and gathered log lines count: the client's IPv4 address, or the /64 of its IPv6 address, whose
 * '::' stands for the groups that are missing.
 */
export function clientKey(client: string): string {
  if (!client.includes(':')) return client;
  const [head = [], tail = []] = client.split('::').map(part => part.split(':').filter(Boolean));
  const zeros = Array<string>(8 - head.length - tail.length).fill('0');
  return [...head, ...zeros, ...tail].slice(0, 4).join(':');
}
