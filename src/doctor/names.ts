// What `slimsmtp doctor` hears from DNS: whether the resolver answers, whether it tells the truth about names that
// nobody has, and whether its word on DNSSEC is worth anything.
import type { Finding } from '../mail/admin.ts';
import type { Dns } from '../system/dns.ts';

const about = 'resolver';
const other = 'SLIM_RESOLVER=unbound, and docker compose --profile dns up -d';
/** It is signed, and will always be there (RFC 6761 §6.5). */
const signedName = 'example.com';

/** `nobody`: a name below `invalid`. `isTrusted`: whether the AD bit of any of the servers counts. */
export async function checkResolver(dns: Dns, nobody: string, isTrusted: boolean): Promise<readonly Finding[]> {
  const code = await dns.addresses(nobody).then(
    ({ records }) => records.join(', '),
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );
  if (!/^E[A-Z]+$/.test(code)) {
    const text = `it invents addresses (${code}) for names that nobody has: mail to misspelt domains does not bounce`;
    return [{ about, status: 'mend', text, mend: other }];
  }
  if (code !== 'ENOTFOUND' && code !== 'ENODATA')
    return [
      { about, status: 'mend', text: `it does not answer (${code}): mail waits, and is not judged`, mend: other },
    ];
  const answers: Finding = { about, status: 'ok', text: 'it answers' };
  if (!isTrusted)
    return [
      answers,
      { about, status: 'note', text: 'DANE is off: no resolver is named whose DNSSEC is believed', mend: other },
    ];
  const isValidating = await dns.addresses(signedName).then(
    ({ isAuthentic }) => isAuthentic,
    () => undefined,
  );
  if (isValidating === undefined) return [answers];
  const text = isValidating
    ? 'it validates DNSSEC'
    : 'its word on DNSSEC is believed, and it does not validate: DANE does nothing';
  return [answers, { about, status: isValidating ? 'ok' : 'mend', text, ...(!isValidating && { mend: other }) }];
}
