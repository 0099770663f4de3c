// What `slimsmtp dns` is answered: the records of one domain, or of each of SLIM_DOMAINS; each record once.
import { X509Certificate, createHash } from 'node:crypto';
import type { Answers, RequestOf } from '../control/requests.ts';
import type { Domains } from '../mail/ports.ts';
import type { ShownCertificate } from '../publish/records.ts';
import type { InUse } from '../tls/certificates.ts';
import { type Context, system } from './context.ts';
import type { Signing } from './signing.ts';

type Parts = {
  readonly signing: Signing | undefined;
  readonly domains: Domains;
  readonly certificates: { readonly inUse: InUse };
};

export async function* answerDns(
  { domain }: RequestOf<'dns'>,
  { settings, dns }: Context,
  { signing, domains, certificates }: Parts,
): AsyncGenerator<Answers['dns']> {
  if (domain !== undefined && !(await domains.hosts(domain))) throw new Error(`${domain} is not hosted here`);
  const { checkRecords } = await import('../publish/records.ts');
  const { hostname, relay } = settings;
  const common = { hostname, isRelayed: relay !== undefined, certificate: await shown(certificates.inUse, hostname) };
  const told = new Set<string>();
  for (const each of domain === undefined ? settings.domains : [domain]) {
    const keys = (await signing?.keys.list(each)) ?? [];
    for (const record of await checkRecords({ ...common, domain: each, keys }, dns)) {
      if (!told.has(record.zone)) yield record;
      told.add(record.zone);
    }
  }
}

async function shown({ cert, isOurs }: InUse, hostname: string): Promise<ShownCertificate> {
  const { verifyChain } = await import('../outbound/dane.ts');
  const pems = cert.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  const chain = pems.map(pem => new X509Certificate(pem));
  const key = chain[0]?.publicKey.export({ type: 'spki', format: 'der' }) ?? '';
  const octets = chain.map(({ raw }) => raw);
  return {
    digest: createHash('sha256').update(key).digest('hex'),
    keyLasts: isOurs,
    fits: records => verifyChain(octets, { records, names: [hostname] }, system.clock.now()).isVerified,
  };
}
