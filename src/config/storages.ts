// Who gets the mail (SLIM_STORAGES): `addr@domain=PATH`, `*@domain=PATH`, `@POSTGRESQL`, `@PAM`, `default=PATH`. Local
// part and path may both hold `=`. `default=…` is always the catch-all; an address that begins so is `"default=x"@…`.
import { toMailbox } from '../mail/address.ts';
import type { MailRoot } from '../system/mail-roots.ts';
import { listOf, parser } from './parser.ts';
import { domain, path } from './values.ts';

const entry = parser(
  'wanted is addr@domain=PATH, *@domain=PATH, default=PATH, @POSTGRESQL or @PAM',
  /^(?:(@POSTGRESQL|@PAM)|default=(.+)|("(?:[^"\\]|\\.)+"|[^\s"@]+)@([^@=]+)=(.+))$/,
  (source, fallback, local, name, folder) => {
    if (source) return { kind: 'source', key: source } as const;
    if (fallback) return { kind: 'default', key: 'default', path: path(fallback) } as const;
    const place = { domain: domain(name), path: path(folder) };
    if (local === '*') return { kind: 'domain', key: `*@${place.domain}`, ...place } as const;
    const unquoted = local.replace(/^"(.*)"$/, '$1').replaceAll(/\\(.)/g, '$1');
    const mailbox = toMailbox({ local: unquoted, domain: place.domain });
    return mailbox && ({ kind: 'address', key: `${mailbox.local}@${mailbox.domain}`, mailbox, ...place } as const);
  },
);
export const storages = listOf(entry, ({ key }) => key);

/** The list by the kinds of its entries. */
export function sortStorages(entries: ReturnType<typeof storages>) {
  return {
    addresses: entries.filter(each => each.kind === 'address'),
    domains: entries.filter(each => each.kind === 'domain'),
    postgresql: entries.some(each => each.key === '@POSTGRESQL'),
    pam: entries.some(each => each.key === '@PAM'),
    default: entries.find(each => each.kind === 'default')?.path,
  };
}

/** Every folder below which mail is kept. */
export function mailRoots(sorted: ReturnType<typeof sortStorages>, mailRoot: string): readonly MailRoot[] {
  const own = [...sorted.addresses, ...sorted.domains].map(each => each.path);
  const paths = sorted.default === undefined ? own : [...own, sorted.default];
  const others = [...new Set(paths)].filter(each => each !== mailRoot);
  return [
    { setting: 'SLIM_MAIL_ROOT', path: mailRoot },
    ...others.map(each => ({ setting: 'SLIM_STORAGES', path: each })),
  ];
}
