// What `slimsmtp dns` is answered: the records of one domain, or of each of SLIM_DOMAINS; each record once.
import type { Answers, RequestOf } from '../control/requests.ts';
import type { Domains } from '../mail/ports.ts';
import type { Context } from './context.ts';
import type { Signing } from './signing.ts';

type Parts = { readonly signing: Signing | undefined; readonly domains: Domains };

export async function* answerDns(
  { domain }: RequestOf<'dns'>,
  { settings, dns }: Context,
  { signing, domains }: Parts,
): AsyncGenerator<Answers['dns']> {
  if (domain !== undefined && !(await domains.hosts(domain))) throw new Error(`${domain} is not hosted here`);
  const { checkRecords } = await import('../publish/records.ts');
  const { hostname, relay } = settings;
  const told = new Set<string>();
  for (const each of domain === undefined ? settings.domains : [domain]) {
    const keys = (await signing?.keys.list(each)) ?? [];
    for (const record of await checkRecords({ domain: each, hostname, isRelayed: relay !== undefined, keys }, dns)) {
      if (!told.has(record.zone)) yield record;
      told.add(record.zone);
    }
  }
}
