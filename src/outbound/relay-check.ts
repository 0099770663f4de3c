// Whether the relay takes us: connects, does TLS and logs in, as for mail, and sends none. For `slimsmtp doctor`.
import { connect } from 'node:net';
import { createSecureContext } from 'node:tls';
import type { Finding } from '../mail/admin.ts';
import type { Place } from '../mail/ports.ts';
import { Connection, standardTimeouts } from './connection.ts';
import { type HopOptions, type Relay, findServers } from './hops.ts';

type Options = Pick<HopOptions, 'dns' | 'isSelf' | 'random'> & {
  readonly hostname: string;
  readonly clock: { now(): number };
};
const about = 'relay';
const place: Place = { isEnded: false, onEnd: undefined, enter: () => true, progressed: () => undefined };
const timeouts = { ...standardTimeouts, connect: 10_000, command: 20_000, handshake: 10_000 };

export async function checkRelay(relay: Relay, { hostname, clock, random, ...names }: Options): Promise<Finding> {
  const options = { ...names, random, relay, port: 25, externalTls: 'required' } as const;
  const credentials =
    relay.user === undefined || relay.password === undefined
      ? undefined
      : { user: relay.user, password: relay.password, nonce: random.hex(18) };
  let last: Finding | undefined;
  for await (const server of findServers({ kind: 'relay' }, options, () => false)) {
    if ('refusal' in server) continue;
    const { use } = server.tls;
    const isSecure = use === 'implicit';
    const terms = { hostname, isSecure, startTls: isSecure ? 'never' : use, credentials } as const;
    const secureContext = createSecureContext({ minVersion: 'TLSv1.2' });
    const socket = connect({ host: server.address, port: server.port });
    const opened = await new Connection(socket, { server, terms, secureContext, timeouts, clock }).open(place);
    const where = `${relay.host}:${relay.port}`;
    if (opened instanceof Connection) {
      opened.quit();
      return { about, status: 'ok', text: `${where} takes us${credentials ? ', with the login' : ''}` };
    }
    const mend = {
      login: "SLIM_RELAY_USER='…' and SLIM_RELAY_PASSWORD='…', as the relay gave them",
      tls: 'NODE_EXTRA_CA_CERTS=/path/authority.pem, or another SLIM_RELAY_TLS',
    };
    const line =
      opened.because === 'login' || opened.because === 'tls'
        ? mend[opened.because]
        : 'SLIM_RELAY_HOST and SLIM_RELAY_PORT';
    last = { about, status: 'mend', text: `${where}: ${opened.delivery.text}`, mend: line };
  }
  return last ?? { about, status: 'mend', text: `${relay.host} has no address`, mend: 'SLIM_RELAY_HOST' };
}
