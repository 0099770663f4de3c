// Where the mail of a domain goes: its MX hosts with their addresses, in the order in which to try them.
// Promises: 'no such domain' only when DNS said so, an outage of DNS is a deferral; we never come back to ourselves; and no
// record of a stranger leads us to loopback, link-local, multicast or unspecified addresses. Private ranges are allowed: companies have them.
// RFC 5321 §5.1, 7505 (null MX), 5248.
import { BlockList, isIP } from 'node:net';
import type { Delivery } from '../mail.ts';
import type { Dns, Random } from '../system.ts';

export type Target = { readonly host: string; readonly address: string };
export type MxOptions = {
  readonly dns: Dns;
  readonly random: Random;
  /** Whether a host name or an address is our own. */
  readonly isSelf: (nameOrAddress: string) => boolean;
};

const [maxHosts, maxTargets] = [10, 20];
/** Also as `::ffff:…`, which BlockList sees through. */
const forbidden = new BlockList();
for (const [network, bits] of [
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['224.0.0.0', 3],
] as const)
  forbidden.addSubnet(network, bits, 'ipv4');
for (const [network, bits] of [
  ['::', 96],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  forbidden.addSubnet(network, bits, 'ipv6');

const failed = (status: string, text: string): Delivery => ({ kind: 'failed', status, text });
const isNo = (code: string): boolean => code === 'ENOTFOUND' || code === 'ENODATA';
const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

/** Every address to try, best first; at least one. Or why there is none. */
export async function findTargets(domain: string, options: MxOptions): Promise<readonly Target[] | Delivery> {
  const { dns, random, isSelf } = options;
  const cannotTell = (code: string): Delivery => ({
    kind: 'deferred',
    status: '4.4.3',
    text: `DNS cannot tell where mail for ${domain} goes (${code})`,
    isUnreachable: true,
  });
  let records;
  try {
    records = await dns.mx(domain);
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOTFOUND' || code === 'EBADNAME') return failed('5.1.2', `there is no domain ${domain}`);
    if (code !== 'ENODATA') return cannotTell(code);
    records = [{ exchange: domain, priority: 0 }]; // only now: an MX that could not be asked for may exist
  }
  if (records.length > 0 && records.every(({ exchange }) => exchange === '' || exchange === '.'))
    return failed('5.1.10', `${domain} takes no mail (null MX)`);

  const hosts = records
    .map(({ exchange, priority }) => ({ host: exchange.toLowerCase(), priority, lot: random.below(1_000_000) }))
    .toSorted((a, b) => a.priority - b.priority || a.lot - b.lot)
    .slice(0, maxHosts);
  const answers = await Promise.all(
    hosts.map(async ({ host, priority }) => {
      let error: string | undefined;
      const addresses = await dns.addresses(host).catch((reason: unknown) => {
        error = codeOf(reason);
        return [];
      });
      return { host, priority, addresses, error };
    }),
  );
  // Ours, and whatever is not preferred to us, would bring the mail back (RFC 5321 §5.1).
  const own = answers.find(({ host, addresses }) => isSelf(host) || addresses.some(isSelf));
  const left = answers.filter(({ priority }) => own === undefined || priority < own.priority);
  if (left.length === 0) return failed('5.4.6', `mail for ${domain} comes back to this server, which does not host it`);
  const targets = left
    .flatMap(({ host, addresses }) => alternating(addresses).map(address => ({ host, address })))
    .filter(({ address }) => !forbidden.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4'));
  if (targets.length > 0) return targets.slice(0, maxTargets);
  const unknown = left.find(({ error }) => error !== undefined && !isNo(error))?.error;
  if (unknown !== undefined) return cannotTell(unknown);
  if (left.some(({ addresses }) => addresses.length > 0))
    return failed('5.4.4', `${domain} names only addresses that no mail is sent to, such as loopback`);
  return failed('5.4.4', `no mail server of ${domain} has an address`);
}

/** IPv6 and IPv4 in turn: where one of them leads nowhere, it costs one time-out and not all. */
function alternating(addresses: readonly string[]): readonly string[] {
  const [six, four] = [
    addresses.filter(address => isIP(address) === 6),
    addresses.filter(address => isIP(address) === 4),
  ];
  return addresses.flatMap((_, at) => [six[at], four[at]].flatMap(address => address ?? []));
}
