// Who gets the mail (SLIM_STORAGES): `addr@domain=PATH`, `*@domain=PATH`, `@POSTGRESQL`, `@PAM`, `default=PATH`. Local
// part and path may both hold `=`. `default=…` is always the catch-all; an address that begins so is `"default=x"@…`.
// In place of a PATH an address (a value with an `@` and no `/`) is a forward, and `lmtp://host:port` or
// `lmtp:///path/socket` an LMTP server. An address may stand several times: all count.
import { formatMailbox, toMailbox } from '../mail/address.ts';
import type { Forward } from '../mail/message.ts';
import { parseAddress } from '../smtp/address.ts';
import type { MailRoot } from '../system/mail-roots.ts';
import { listOf, parser } from './parser.ts';
import { domain, host, path, port } from './values.ts';

const entry = parser(
  'wanted is addr@domain=PATH, addr@domain=ADDRESS, *@domain=PATH, default=PATH, @POSTGRESQL or @PAM; a PATH may be lmtp://host:port',
  /^(?:(@POSTGRESQL|@PAM)|default=(.+)|("(?:[^"\\]|\\.)+"|[^\s"@]+)@([^@=]+)=(.+))$/,
  (source, fallback, local, name, folder) => {
    if (source) return { kind: 'source', key: source } as const;
    if (isForward(fallback))
      throw new Error(`"default=${fallback}": a path is wanted; whatever is unknown is not forwarded`);
    if (fallback) return { kind: 'default', key: 'default', ...toPlace(fallback) } as const;
    const to = isForward(folder) ? toForward(folder) : toPlace(folder);
    if (to === undefined) return undefined;
    const place = { domain: domain(name), ...to };
    if (local === '*') return { kind: 'domain', key: `*@${place.domain}`, ...place } as const;
    const unquoted = local.replace(/^"(.*)"$/, '$1').replaceAll(/\\(.)/g, '$1');
    const mailbox = toMailbox({ local: unquoted, domain: place.domain });
    return mailbox && ({ kind: 'address', key: `${mailbox.local}@${mailbox.domain}`, mailbox, ...place } as const);
  },
);
/** An address may stand with several places, but not twice with the same one. */
export const storages = listOf(entry, each => {
  if (each.kind !== 'address') return each.key;
  if ('forward' in each) return `${each.key}=${formatMailbox(each.forward.mailbox)}`;
  return `${each.key}=${'path' in each ? each.path : each.server}`;
});

/** host:port, or the path of a Unix socket. */
const lmtp = parser(
  'an LMTP server is wanted, such as lmtp://dovecot:24 or lmtp:///run/dovecot/lmtp',
  /^lmtp:\/\/(?:(\[.*\]|[^[\]:/]+):(\d{1,5})|(\/.+))$/,
  (name, digits, socket) => {
    if (socket) return `lmtp://${path(socket)}`;
    const found = host(name);
    return `lmtp://${found.includes(':') ? `[${found}]` : found}:${port(digits)}`;
  },
);
const toPlace = (value: string): { readonly server: string } | { readonly path: string } =>
  value.startsWith('lmtp:') ? { server: lmtp(value) } : { path: path(value) };

const isForward = (value: string): boolean => value.includes('@') && !value.includes('/');

function toForward(text: string): { readonly forward: Forward } | undefined {
  const address = parseAddress(text);
  // An address literal is nobody's domain.
  const mailbox = address && !address.domain.startsWith('[') ? toMailbox(address) : undefined;
  return mailbox && { forward: { address: text, mailbox } };
}

/** The sources, and the entries that name a place: a folder, another address, an LMTP server. */
export function sortStorages(entries: ReturnType<typeof storages>) {
  return {
    places: entries.filter(each => each.kind !== 'source'),
    postgresql: entries.some(each => each.key === '@POSTGRESQL'),
    pam: entries.some(each => each.key === '@PAM'),
  };
}

/** Every folder below which mail is kept. */
export function mailRoots({ places }: ReturnType<typeof sortStorages>, mailRoot: string): readonly MailRoot[] {
  const paths = new Set(places.flatMap(each => ('path' in each ? each.path : [])));
  paths.delete(mailRoot);
  return [
    { setting: 'SLIM_MAIL_ROOT', path: mailRoot },
    ...[...paths].map(each => ({ setting: 'SLIM_STORAGES', path: each })),
  ];
}
