// Where the mail of a domain goes: its MX hosts with their addresses, in the order in which to try them.
// Promises: 'no such domain' only when DNS said so, an outage of DNS is a deferral; we never come back to ourselves;
// and no record of a stranger leads us to loopback, link-local, multicast or unspecified addresses. Private ranges are
// allowed, because companies use them. A domain costs one question for its MX hosts and two for each host, one host
// after the other, and only for the hosts that are really tried: at most ten hosts and twenty addresses.
// RFC 5321 §5.1, 7505 (null MX), 5248.
import { BlockList, isIP } from 'node:net';
import type { Delivery } from '../mail/message.ts';
import type { Dns } from '../system/dns.ts';
import type { Random } from '../system/world.ts';
import { deferred, failed } from './replies.ts';

/** One address of one server. */
export type Target = {
  readonly host: string;
  readonly address: string;
  /** The host, or the name that its aliases lead to. */
  readonly name: string;
  /** Whether DNSSEC vouches for the whole way here: from the domain to the host, and from the host to its addresses. */
  readonly isAuthentic: boolean;
};
export type MxOptions = {
  readonly dns: Dns;
  readonly random: Random;
  /** Whether a host name or an address is our own. */
  readonly isSelf: (nameOrAddress: string) => boolean;
};
/** Whether an address could not be connected to a moment ago: of several that are as good, it is tried last. */
export type IsUnreached = (address: string) => boolean;

const maxHosts = 10;
const maxTargets = 20;
const family = (address: string): 'ipv4' | 'ipv6' => (isIP(address) === 6 ? 'ipv6' : 'ipv4');
/** Addresses to which a stranger's DNS may lead no mail, also in the form `::ffff:…`, which BlockList sees through. */
const forbidden = new BlockList();
for (const subnet of ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/96', 'fe80::/10', 'ff00::/8']) {
  const [network = '', bits] = subnet.split('/');
  forbidden.addSubnet(network, Number(bits), family(network));
}

/** Whether no mail is sent to an address that a stranger's DNS has given. */
export const isForbidden = (address: string): boolean => forbidden.check(address, family(address));
export const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

/** The addresses to try, best first. Where there is none, the generator returns why. */
export async function* findTargets(
  domain: string,
  { dns, random, isSelf }: MxOptions,
  isUnreached: IsUnreached = () => false,
): AsyncGenerator<Target, Delivery | undefined, void> {
  const cannotTell = (code: string): Delivery => {
    return { ...deferred('4.4.3', `DNS cannot tell where mail for ${domain} goes (${code})`), isUnreachable: true };
  };
  const answer = await dns.mx(domain).catch(codeOf);
  let records = typeof answer === 'string' ? answer : answer.records;
  // A domain that is its own mail server is as authentic as its addresses.
  const isDomainAuthentic = typeof answer === 'string' || answer.isAuthentic;
  if (records === 'ENOTFOUND' || records === 'EBADNAME') return failed('5.1.2', `there is no domain ${domain}`);
  // The domain is its own mail server only where DNS says that it has no MX record; when DNS cannot tell, it may have
  // one.
  if (records === 'ENODATA') records = [{ exchange: domain, priority: 0 }];
  if (typeof records === 'string') return cannotTell(records);
  if (records.every(({ exchange }) => exchange === '' || exchange === '.'))
    return failed('5.1.10', `${domain} takes no mail (null MX)`);

  const hosts = records
    .map(({ exchange, priority }) => ({ host: exchange.toLowerCase(), priority, lot: random.below(1_000_000) }))
    .toSorted((a, b) => a.priority - b.priority || a.lot - b.lot)
    .slice(0, maxHosts);
  let targets = 0;
  let unknown: string | undefined; // why the addresses of a host could not be told
  let hasAddress = false;
  let isFirstGroup = true;
  for (const group of Map.groupBy(hosts, ({ priority }) => priority).values()) {
    const targetsOfGroup: Target[] = [];
    // If one of a group is ours, the mail would come back to us from the others, and from all that are preferred less
    // (RFC 5321 §5.1).
    let isOurs = group.some(({ host }) => isSelf(host));
    for (const { host } of isOurs ? [] : group) {
      const found = await dns.addresses(host).catch(codeOf);
      if (typeof found !== 'string') {
        hasAddress = true;
        isOurs ||= found.records.some(isSelf);
        const { name, isAuthentic } = found;
        const way = { host, name, isAuthentic: isDomainAuthentic && isAuthentic };
        targetsOfGroup.push(...alternating(found.records.slice(0, maxTargets)).map(address => ({ ...way, address })));
      } else if (!['ENOTFOUND', 'ENODATA', 'EBADNAME'].includes(found)) unknown ??= found;
    }
    if (isOurs && isFirstGroup)
      return failed('5.4.6', `mail for ${domain} comes back to this server, which does not host it`);
    if (isOurs) break;
    isFirstGroup = false;
    const allowed = targetsOfGroup
      .filter(({ address }) => !isForbidden(address))
      .toSorted((a, b) => Number(isUnreached(a.address)) - Number(isUnreached(b.address)));
    yield* allowed.slice(0, maxTargets - targets);
    targets += allowed.length;
    if (targets >= maxTargets) return undefined;
  }
  if (targets > 0) return undefined;
  if (unknown !== undefined) return cannotTell(unknown);
  if (!hasAddress) return failed('5.4.4', `no mail server of ${domain} has an address`);
  return failed('5.4.4', `${domain} names only addresses that no mail is sent to, such as loopback`);
}

/** IPv6 and IPv4 in turn: where one of them leads nowhere, it costs one time-out and not all. */
function alternating(addresses: readonly string[]): readonly string[] {
  const { ipv6 = [], ipv4 = [] } = Object.groupBy(addresses, family);
  return addresses.flatMap((_, at) => [ipv6[at], ipv4[at]].flatMap(address => address ?? []));
}
