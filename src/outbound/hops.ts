// Which servers may take mail for a next hop: each address in the order in which to try it, with the TLS that it must
// do and the login that it gets. And what it means for the mail when none of them could be used.
// Promises: everything that depends on the kind of next hop is decided here, and handed on as a value; nothing is
// connected to.
// RFC 5321 §5.1, RFC 2033 (LMTP), RFC 8314 (implicit TLS), RFC 3207.
import { isIP } from 'node:net';
import type { Delivery, NextHop } from '../mail/message.ts';
import type { Refusal } from './dialogue.ts';
import { type IsUnreached, type MxOptions, type Target, codeOf, findTargets } from './mx.ts';
import { deferred } from './replies.ts';
import { type PolicyOptions, type TlsPolicy, decidePolicy } from './tls-policy.ts';

/** One address of one server, and how it is spoken to. */
export type Server = Target & {
  readonly port: number;
  readonly tls: TlsPolicy;
  /**
   * Whether our operator has chosen this server: the relay, or an LMTP server. All others were chosen by a stranger's
   * DNS.
   */
  readonly isChosen: boolean;
};

export type Relay = {
  readonly host: string;
  readonly port: number;
  readonly tls: 'none' | 'starttls' | 'implicit';
  readonly user?: string;
  readonly password?: string;
};

export type HopOptions = MxOptions & PolicyOptions & { readonly relay?: Relay | undefined };
/** A host that must not be used for this message, with the reason that counts as its refusal. */
type PassedOver = { readonly server: Server; readonly refusal: Refusal };

const maxAddressesOfChosen = 20;
/** The policy of a host that was passed over: nobody has spoken to it. */
const neverUsed: TlsPolicy = { use: 'required', isVerified: true };
const relayUses = { none: 'never', starttls: 'required', implicit: 'implicit' } as const;
/**
 * The policy of an LMTP server. It is the operator's own, on the operator's own network: SLIM_EXTERNAL_TLS is not about
 * it.
 */
const lmtpPolicy: TlsPolicy = { use: 'offered', isVerified: false };

/** The servers to try, best first. Where there is none, the generator returns why. */
export async function* findServers(
  hop: NextHop,
  options: HopOptions,
  isUnreached: IsUnreached,
): AsyncGenerator<Server | PassedOver, Delivery | undefined, void> {
  const { relay, port } = options;
  switch (hop.kind) {
    case 'here':
      throw new Error('mail that stays here goes to no other server');
    case 'relay':
      if (relay === undefined) throw new Error('there is no relay');
      return yield* findChosen(relay, { use: relayUses[relay.tls], isVerified: true }, options, isUnreached);
    case 'lmtp': {
      // A Unix socket is named by its path alone.
      const { hostname, port: lmtpPort } = new URL(hop.server);
      const host = hostname === '' ? hop.server.slice('lmtp://'.length) : hostname.replace(/^\[(.*)\]$/, '$1');
      return yield* findChosen({ host, port: Number(lmtpPort) }, lmtpPolicy, options, isUnreached);
    }
    case 'domain': {
      const targets = findTargets(hop.domain, options, isUnreached);
      /** What was decided for a host counts for all its addresses. */
      const policies = new Map<string, TlsPolicy | Refusal>();
      for (;;) {
        const { done, value: target } = await targets.next();
        if (done) return target;
        const policy = policies.get(target.host) ?? (await decidePolicy(hop.domain, target, options));
        const isNew = !policies.has(target.host);
        policies.set(target.host, policy);
        if ('use' in policy) yield { ...target, port, tls: policy, isChosen: false };
        else if (isNew) yield { server: { ...target, port, tls: neverUsed, isChosen: false }, refusal: policy };
      }
    }
    default:
      return hop satisfies never;
  }
}

/**
 * Finds the addresses of a server that the operator has chosen. Its name is looked up as the operating system does it,
 * because containers and hosts files have names of their own.
 */
async function* findChosen(
  { host, port }: Pick<Relay, 'host' | 'port'>,
  tls: TlsPolicy,
  { dns }: HopOptions,
  isUnreached: IsUnreached,
): AsyncGenerator<Server, Delivery, void> {
  const unreachable = (text: string): Delivery => ({ ...deferred('4.4.3', text), remote: host, isUnreachable: true });
  const found = isIP(host) || host.startsWith('/') ? [host] : await dns.systemAddresses(host).catch(codeOf);
  if (typeof found === 'string') return unreachable(`the address of ${host} cannot be found (${found})`);
  const ordered = found.toSorted((a, b) => Number(isUnreached(a)) - Number(isUnreached(b)));
  for (const address of ordered.slice(0, maxAddressesOfChosen))
    yield { host, address, name: host, isAuthentic: false, port, tls, isChosen: true };
  return unreachable(`${host} has no address`);
}

/** Says what the refusals of all servers that were tried, at least one, mean together for the message. */
export function summarize(domain: string, refusals: readonly (Refusal & { readonly server: Server })[]): Delivery {
  // The most hopeful word counts. But where TLS was what they lacked, the sender should know at once.
  const last =
    refusals.findLast(({ delivery }) => delivery.isBusy) ??
    refusals.find(({ because }) => because === 'tls') ??
    refusals.findLast(({ delivery }) => delivery.kind === 'deferred') ??
    refusals.at(-1);
  if (last === undefined) throw new Error('no server was tried');
  const { because, delivery, server } = last;
  const { host: remote } = server;
  // What is wrong with such a server is our operator's matter: no sender is told, and no mail comes back for it.
  if (server.isChosen) {
    const status = because === 'tls' ? '4.7.5' : `4${delivery.status.slice(1)}`;
    return { ...delivery, kind: 'deferred', status, remote, isUnreachable: true };
  }
  // These are our own words, so that the delivery has no `remote`.
  if (server.tls === neverUsed) return { ...delivery, isUnreachable: true };
  if (because !== 'tls') return { ...delivery, remote, isUnreachable: delivery.kind === 'deferred' };
  const { demand } = server.tls;
  if (demand !== undefined) {
    const wanted = `${demand} of ${domain} forbids to send without a TLS session that it can verify`;
    return { ...delivery, status: '4.7.5', text: `${wanted} (${remote}: ${delivery.text})` };
  }
  const text = `no server of ${domain} that was reached offers TLS, and SLIM_EXTERNAL_TLS=required forbids plain text`;
  return { ...delivery, status: '4.7.4', text: `${text} (${remote}: ${delivery.text})` };
}
