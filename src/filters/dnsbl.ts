// Block lists in the DNS (SLIM_DNSBL): whether the address of a client is on one of them.
// Promises: each client is asked for once a minute at most; a list that says nothing delays a client by three seconds
// at most, and nobody for the minute after; what the DNS cannot tell is 'not listed'. Only answers within 127.0.0.0/24
// count: any other says that the list will not answer us (127.255.255.x: too many questions, or by a public resolver)
// or is gone, and a list that gave it is not asked for an hour.
// RFC 5782.
import { Cache } from '../dns/cache.ts';
import { reverseName } from '../dns/reverse-name.ts';
import { within } from '../system/deadline.ts';
import type { Dns } from '../system/dns.ts';
import type { Gatherer } from '../system/gather.ts';
import type { Clock } from '../system/world.ts';

const usualPatienceMs = 3000;
const silentMs = 60_000;
const offMs = 3600_000;
/** Clients that are remembered: a minute each, some thousand of them. */
const remembered = { maxBytes: 4 * 2 ** 20, maxSeconds: 60 };
/** What a reply has room for. */
const maxTextLength = 300;

export type BlockListsOptions = Readonly<{
  zones: readonly string[];
  dns: Pick<Dns, 'addresses' | 'txt'>;
  clock: Clock;
  gatherer: Gatherer;
  patienceMs?: number;
}>;
type Zone = { readonly name: string; offUntil: number };

/**
 * Gives a function that finds what a list says of a client that is on it: one line of printable ASCII, perhaps empty.
 * It never rejects.
 */
export function openBlockLists({ zones, dns, clock, gatherer, patienceMs = usualPatienceMs }: BlockListsOptions) {
  const lists = zones.map((name): Zone => ({ name, offUntil: 0 }));
  const recent = new Cache<Promise<string | undefined>>(clock, remembered);

  function rest(zone: Zone, ms: number, fields: Record<string, unknown>, sentence: string): undefined {
    zone.offUntil = clock.now() + ms;
    gatherer.line('warn', zone.name, { list: zone.name, ...fields }, sentence, 1);
  }

  async function ask(zone: Zone, client: string): Promise<string | undefined> {
    const name = reverseName(client).replace(/(?:in-addr|ip6)\.arpa$/, zone.name);
    try {
      const { records } = await within(patienceMs, dns.addresses(name, 4));
      const strange = records.find(address => !address.startsWith('127.0.0.'));
      if (strange !== undefined)
        return rest(zone, offMs, { answer: strange }, 'a block list refuses to answer: it is not asked for an hour');
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ETIMEOUT') rest(zone, silentMs, {}, 'a block list does not answer: it is not asked for a minute');
      else if (code !== 'ENOTFOUND' && code !== 'ENODATA')
        gatherer.line('warn', zone.name, { list: zone.name, code }, 'a block list cannot be asked now', 1);
      return undefined;
    }
    const text = await within(patienceMs, dns.txt(name)).then(
      ({ records }) => records[0],
      () => undefined,
    );
    return (text ?? '').replaceAll(/[^ -~]/g, '?').slice(0, maxTextLength);
  }

  return (client: string): Promise<string | undefined> => {
    const kept = recent.get(client);
    if (kept !== undefined) return kept;
    const asked = lists.filter(({ offUntil }) => offUntil <= clock.now()).map(zone => ask(zone, client));
    const found = Promise.all(asked).then(said => said.find(text => text !== undefined));
    recent.put(client, found, remembered.maxSeconds, client.length);
    return found;
  };
}
