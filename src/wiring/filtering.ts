// What has a say about mail from outside, and about how much may be sent. Each is loaded only where its setting is
// there.
import type { Check } from '../inbound/checks.ts';
import { clientKey } from '../inbound/peer.ts';
import { isFromOutside, saysNothing } from '../inbound/policy.ts';
import { spamLine } from '../mail/header.ts';
import type { CountStore, Filters } from '../mail/ports.ts';
import { replies } from '../smtp/reply.ts';
import type { Gatherer } from '../system/gather.ts';
import { type Context, system } from './context.ts';

/** Opens the filters that the settings ask for; undefined where there are none. */
export async function openFilters(
  { settings, dns }: Context,
  gatherer: Gatherer,
  counts?: CountStore,
): Promise<Filters | undefined> {
  const { rateOfClient: client, rateOfLogin: login, blockLists: zones } = settings;
  if (client === undefined && login === undefined && zones.length === 0) return undefined;
  let filters: Filters = {};
  if (client || login)
    filters = await (await import('../filters/rates.ts')).openRates({ client, login, counts, clientKey, gatherer });
  if (zones.length === 0) return filters;
  const { openBlockLists } = await import('../filters/dnsbl.ts');
  const find = openBlockLists({ zones, dns, ...system, gatherer });
  const findListing = async (address: string) => {
    const text = await find(address);
    return text === undefined ? undefined : replies.listed(text);
  };
  return { ...filters, findListing };
}

/** The checks of whole messages from outside, in the order in which they are asked. */
export async function openSpamChecks({ settings, dns }: Context, gatherer: Gatherer): Promise<readonly Check[]> {
  const { rspamd: server, hostname } = settings;
  if (server === undefined) return [];
  const { openRspamd } = await import('../filters/rspamd.ts');
  const ask = openRspamd({ server, hostname, dns, gatherer });
  return [
    {
      name: 'rspamd',
      deadlineMs: 20_000,
      linesBytes: peer => (isFromOutside(peer) ? spamLine.length : 0),
      judge: async ({ envelope, peer, content }) => {
        if (!isFromOutside(peer)) return undefined;
        const { reversePath, helo, recipients } = envelope;
        const facts = { client: saysNothing(peer) ? undefined : peer.client, helo };
        const from = reversePath === '' ? '' : reversePath.text;
        return ask({ ...facts, from, recipients: recipients.map(({ address }) => address.text) }, await content());
      },
    },
  ];
}
