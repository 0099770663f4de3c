// Where the mail of a domain goes: its MX hosts with their addresses, in the order in which to try them.
// Promises: 'no such domain' only when DNS said so, an outage of DNS is a deferral; we never come back to ourselves; and no
// record of a stranger leads us to loopback, link-local, multicast or unspecified addresses. Private ranges are allowed: companies have them.
// RFC 5321 §5.1, 7505 (null MX), 5248.
import { BlockList, isIP } from 'node:net';
import type { Delivery } from '../mail/message.ts';
import type { Dns, Random } from '../system/world.ts';

export type Target = { readonly host: string; readonly address: string };
export type MxOptions = {
  readonly dns: Dns;
  readonly random: Random;
  /** Whether a host name or an address is our own. */
  readonly isSelf: (nameOrAddress: string) => boolean;
};

const [maxHosts, maxTargets] = [10, 20];
const family = (address: string): 'ipv4' | 'ipv6' => (isIP(address) === 6 ? 'ipv6' : 'ipv4');
/** Also as `::ffff:…`, which BlockList sees through. */
const forbidden = new BlockList();
for (const subnet of ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/96', 'fe80::/10', 'ff00::/8']) {
  const [network = '', bits] = subnet.split('/');
  forbidden.addSubnet(network, Number(bits), family(network));
}

const failed = (status: string, text: string): Delivery => ({ kind: 'failed', status, text });
const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

/** Every address to try, best first; at least one. Or why there is none. */
export async function findTargets(domain: string, { dns, random, isSelf }: MxOptions): Promise<Target[] | Delivery> {
  const cannotTell = (code: string): Delivery => {
    const text = `DNS cannot tell where mail for ${domain} goes (${code})`;
    return { kind: 'deferred', status: '4.4.3', text, isUnreachable: true };
  };
  let records = await dns.mx(domain).catch(codeOf);
  if (records === 'ENOTFOUND' || records === 'EBADNAME') return failed('5.1.2', `there is no domain ${domain}`);
  // Only then: else one may exist. Empty: the domain is an alias of a name without MX.
  if (records === 'ENODATA' || records.length === 0) records = [{ exchange: domain, priority: 0 }];
  if (typeof records === 'string') return cannotTell(records);
  if (records.length > 0 && records.every(({ exchange }) => exchange === '' || exchange === '.'))
    return failed('5.1.10', `${domain} takes no mail (null MX)`);

  const hosts = records
    .map(({ exchange, priority }) => ({ host: exchange.toLowerCase(), priority, lot: random.below(1_000_000) }))
    .toSorted((a, b) => a.priority - b.priority || a.lot - b.lot)
    .slice(0, maxHosts);
  const answers = await Promise.all(
    hosts.map(async ({ host, priority }) => {
      const found = await dns.addresses(host).catch(codeOf);
      const isKnown = typeof found !== 'string';
      return { host, priority, addresses: isKnown ? found : [], error: isKnown ? undefined : found };
    }),
  );
  // Ours, and whatever is not preferred to us, would bring the mail back (RFC 5321 §5.1).
  const own = answers.find(({ host, addresses }) => isSelf(host) || addresses.some(isSelf));
  const left = answers.filter(({ priority }) => own === undefined || priority < own.priority);
  if (left.length === 0) return failed('5.4.6', `mail for ${domain} comes back to this server, which does not host it`);
  const targets = left
    .flatMap(({ host, addresses }) => alternating(addresses).map(address => ({ host, address })))
    .filter(({ address }) => !forbidden.check(address, family(address)));
  if (targets.length > 0) return targets.slice(0, maxTargets);
  const unknown = left.map(({ error }) => error).find(code => code && code !== 'ENOTFOUND' && code !== 'ENODATA');
  if (unknown) return cannotTell(unknown);
  const isEmpty = left.every(({ addresses }) => addresses.length === 0);
  if (isEmpty) return failed('5.4.4', `no mail server of ${domain} has an address`);
  return failed('5.4.4', `${domain} names only addresses that no mail is sent to, such as loopback`);
}

/** IPv6 and IPv4 in turn: where one of them leads nowhere, it costs one time-out and not all. */
function alternating(addresses: readonly string[]): readonly string[] {
  const { ipv6 = [], ipv4 = [] } = Object.groupBy(addresses, family);
  return addresses.flatMap((_, at) => [ipv6[at], ipv4[at]].flatMap(address => address ?? []));
}
