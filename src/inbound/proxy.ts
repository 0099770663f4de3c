// Connections that come through a proxy (SLIM_PROXY_NETWORKS): the header that names the client is read before anything
// else, also before TLS. Loaded only where such networks are set.
// Promises: no octet behind the header is lost, or read as part of it. A proxy that names nobody has its own address,
// with `isProxys`; what is no header, or does not come in time, ends the connection. A shared address is never a proxy.
import type { Socket } from 'node:net';
import type { Gatherer } from '../system/gather.ts';
import { type Verdict, parseProxyHeader } from './proxy-header.ts';
import { matcher } from './shared-addresses.ts';

/** Who is there. `isProxys`: the address is that of a proxy which has named nobody, such as for a health check. */
export type Introduced = Readonly<{ client: string; isProxys: boolean }>;
/** undefined at once: no proxy has that address. undefined later: the connection is to be closed. Never rejects. */
export type Introduce = (socket: Socket, address: string) => Promise<Introduced | undefined> | undefined;

type Options = Readonly<{
  /** address/bits */
  networks: readonly string[];
  isShared: (address: string) => boolean;
  gatherer: Gatherer;
}>;

/** A proxy sends it at once; a packet that was lost comes again after one second, and after three. */
const headerTimeoutMs = 5000;

export function openProxies({ networks, isShared, gatherer }: Options): Introduce {
  const include = matcher(networks);
  const refuse = (client: string, why: string): undefined => {
    const reason = `SLIM_PROXY_NETWORKS: ${why}`;
    gatherer.line('warn', reason, { client, reason }, 'clients were turned away', 1);
  };

  async function introduce(socket: Socket, proxy: string): Promise<Introduced | undefined> {
    // Whoever comes through Docker's own proxy could name any client.
    if (isShared(proxy)) return refuse(proxy, 'anyone may come from this address, so it is never a proxy');
    const verdict = await readHeader(socket);
    switch (verdict.kind) {
      case 'client':
        return { client: verdict.client, isProxys: false };
      case 'nobody':
        return { client: proxy, isProxys: true };
      case 'malformed':
        return refuse(proxy, 'a proxy has sent something else than a PROXY header');
      case 'incomplete':
        // A probe that connects and leaves says nothing, and is not worth a line.
        return verdict.isSilent ? undefined : refuse(proxy, 'the PROXY header of a proxy did not come in time');
      default:
        return verdict satisfies never;
    }
  }
  return (socket, address) => (include(address) ? introduce(socket, address) : undefined);
}

type Read = Exclude<Verdict, { kind: 'incomplete' }> | { readonly kind: 'incomplete'; readonly isSilent: boolean };

/** Reads the header, and leaves what comes behind it on the socket. */
function readHeader(socket: Socket): Promise<Read> {
  return new Promise(resolve => {
    let held: Buffer = Buffer.alloc(0);
    const end = (read: Read): void => {
      clearTimeout(timer);
      for (const event of events) socket.off(event, look);
      resolve(read);
    };
    const look = (): void => {
      for (let octets = socket.read(); octets !== null; octets = socket.read())
        held = Buffer.concat([held, octets as Buffer]);
      const verdict = parseProxyHeader(held);
      if (verdict.kind === 'incomplete') {
        const isOver = socket.readableEnded || socket.destroyed;
        if (isOver) end({ kind: 'incomplete', isSilent: held.length === 0 });
        return;
      }
      if (verdict.kind !== 'malformed' && held.length > verdict.octets) socket.unshift(held.subarray(verdict.octets));
      end(verdict);
    };
    const timer = setTimeout(() => end({ kind: 'incomplete', isSilent: false }), headerTimeoutMs);
    for (const event of events) socket.on(event, look);
  });
}

const events = ['readable', 'end', 'error', 'close'] as const;
