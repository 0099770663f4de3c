// How a value is written: one small parser for each kind of value, from text to plain data.
// A parser answers with the value or throws an error that says, a line for each mistake, what was written (no secret)
// and what is wanted. It knows one value only and reads nothing: no variable, no file, no clock.
// RFC 5321 §4.1.2 (local parts), RFC 6531, RFC 5321 §4.1.1.1 (EHLO keywords).
import { isIPv4, isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { hasControls, toDomain, toMailbox } from '../mail/address.ts';
import { parseVerifier } from '../sasl/scram.ts';

/** From the groups of a pattern ('' when absent) to a value; false and undefined say that it is no good. */
type Make<T> = (...groups: readonly string[]) => T | false | undefined;
export type Parser<T> = (text: string) => T;

const parser =
  <T>(wanted: string, pattern: RegExp, make: Make<T>, isSecret = false) =>
  (text: string): T => {
    const found = pattern.exec(text);
    const value = found !== null && make(...found.slice(1).map(group => group ?? ''));
    if (value !== undefined && value !== false) return value;
    throw new Error(`${JSON.stringify(isSecret ? '***' : text)}: ${wanted}`);
  };

/** A list, already split to one item a line (sources.ts); `key` says when two items are the same thing. */
const listOf =
  <T>(item: Parser<T>, key: (value: T) => string, mayRepeat = false) =>
  (text: string): readonly T[] => {
    const values = new Map<string | number, T>();
    const mistakes: string[] = [];
    for (const each of text.split('\n'))
      try {
        const value = item(each);
        if (values.has(key(value))) throw new Error(`"${key(value)}": it is listed twice; keep one`);
        values.set(mayRepeat ? values.size : key(value), value);
      } catch (error) {
        mistakes.push(error instanceof Error ? error.message : String(error));
      }
    if (mistakes.length > 0) throw new Error(mistakes.join('\n'));
    return [...values.values()];
  };

export const oneOf = <const T extends string>(...choices: readonly T[]): Parser<T> =>
  parser(`one of ${choices.join(', ')} is wanted`, /(.*)/s, text => choices.find(each => each === text));
export const limit = parser('a whole number is wanted, such as 100; 0 is no limit', /^(\d{1,9})$/, Number);
export const count = parser('a whole number from 1 is wanted, such as 20', /^([1-9]\d{0,5})$/, Number);
export const port = parser('a port is wanted', /^(\d{1,5})$/, text => Number(text) <= 65_535 && Number(text));

export const size = parser('a size is wanted, such as 50M (K, M, G)', /^(\d{1,12})([KMG]?)$/, (digits, unit) => {
  const bytes = Number(digits) * 1024 ** ['', 'K', 'M', 'G'].indexOf(unit);
  return bytes > 0 && Number.isSafeInteger(bytes) && bytes;
});

/** In ms. Node's timers fire at once when asked to wait 25 days, hence the limit. */
export const wait = parser('a duration up to 20d is wanted, such as 90s', /^(\d{1,7})([smhd])$/, (digits, unit) => {
  const ms = Number(digits) * ({ s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit] ?? 0);
  return ms <= 20 * 86_400_000 && ms;
});

export const waits = listOf(wait, String, true);

export const domain = parser('a domain name is wanted, such as example.com', /^(?![\d.]+$)(.*)$/s, toDomain);
export const domains = listOf(domain, name => name);
/** Made absolute. The shell is not there to expand a ~. */
export const path = parser('a path is wanted, and ~ is none', /^((?!~).*)$/s, text => resolve(text));
export const subaddress = parser('one separator, such as + or -, is wanted', /^([!#$%&'*+\-/=?^_`{|}~]?)$/, String);

/** The name of a Unix account, and never a number, which tools would take for a uid. */
const accountName = '([a-z_][a-z0-9_-]{0,31})(?<!^root)';
export const account = parser('a Unix account other than root is wanted', new RegExp(`^${accountName}$`), String);

/** Longer passwords would be cut off by authenticate-pam. Secret as a whole: a password with a comma is in two items. */
const accountEntry = parser(
  'wanted is name or name:password, not root, the password of 1 to 126 octets',
  new RegExp(`^${accountName}(?::(.+))?$`, 's'),
  (name, password) => Buffer.byteLength(password) <= 126 && { name, ...(password && { password }) },
  true,
);
export const accounts = listOf(accountEntry, ({ name }) => name);

const userWanted = 'wanted is @PAM, @POSTGRESQL, name:@GENERATE or name:secret, the name with or without a domain';
/** A login: a bare name or an address. Secret as a whole, as above. */
const user = parser(
  `${userWanted}, the secret a password or SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`,
  /^(?:(@PAM|@POSTGRESQL)|([^\s:@]+(?:@[^\s:@]+)?):(?:(@GENERATE)|(.+)))$/s,
  (source, given, generate, secret) => {
    if (secret.startsWith('SCRAM-SHA-256$') && !parseVerifier(secret)) return undefined;
    if (source) return { kind: source === '@PAM' ? 'pam' : 'postgresql', name: source } as const;
    const [local = '', host] = given.split('@');
    if (hasControls(local)) return undefined;
    const name = `${local.normalize('NFC').toLowerCase()}${host === undefined ? '' : `@${domain(host)}`}`;
    return generate ? ({ kind: 'generate', name } as const) : ({ kind: 'inline', name, secret } as const);
  },
  true,
);
export const users = listOf(user, ({ name }) => name);

/** A network whose every host may relay: never the whole world, nor IPv4 in the clothes of IPv6 (`::ffff:`), which `::/32` holds too. */
const network = parser(
  'a network is wanted, such as 10.1.0.0/16 or 2001:db8::/48, no wider than /8 or (IPv6) /32, IPv4 as IPv4',
  /^([\d.]+|[\da-f:.]+)(?:\/(\d{1,3}))?$/i,
  (address, digits) => {
    const isV6 = isIPv6(address);
    const canonical = isV6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address;
    const bits = digits ? Number(digits) : isV6 ? 128 : 32;
    const isGood = isV6 ? bits >= 32 && bits <= 128 : isIPv4(address) && bits >= 8 && bits <= 32;
    return isGood && (!canonical.startsWith('::') || (canonical === '::1' && bits === 128)) && `${canonical}/${bits}`;
  },
);
export const networks = listOf(network, String);

/** The name by which we log in elsewhere: anything, on one line. */
export const loginName = parser(
  'a name without control characters is wanted',
  /^(.*)$/s,
  text => !hasControls(text) && text,
);

export const host = parser('a host name or an address is wanted', /^\[?([^[\]]*)\]?$/s, text =>
  isIPv6(text) ? text : toDomain(text),
);

const databaseWanted = 'postgres://user:password@host:port/database is wanted, with special characters as %XX';
const databasePattern = /^(postgres(?:ql)?:\/\/.*)$/s;
/** What libpq calls them; `verify-ca` is not among them, because nothing but a root of one's own makes it safe. */
export const sslModes = ['disable', 'allow', 'prefer', 'require', 'verify-full'] as const;
/** `postgres://user@/db?host=/folder` is good for libpq, but no URL for Node until it names a host. */
export const completeUrl = (url: string, hostname = 'localhost'): string =>
  url.replace(/^([a-z]+:\/\/[^/?@]*@)(?=[/?]|$)/, `$1${hostname}`);
export const databaseUrl = parser(
  databaseWanted,
  databasePattern,
  text => URL.canParse(completeUrl(text)) && text,
  true,
);

/** `host` undefined: IPv4 and IPv6. */
const socket = parser(
  'a socket is wanted, such as smtp://:25, submission://127.0.0.1:587 or submissions://[::1]:465',
  /^(smtp|submission|submissions):\/\/(?:\[(.*)\]|([^[\]:/]*)):(\d{1,5})$/,
  (kind, v6, name, digits) => {
    const isHost = v6 ? isIPv6(v6) : name === '' || toDomain(name) !== undefined;
    const socketKind = kind as 'smtp' | 'submission' | 'submissions';
    return isHost && { kind: socketKind, host: v6 || name || undefined, port: port(digits) };
  },
);
export const sockets = listOf(socket, each => `${each.host ?? ''}:${each.port}`);

// Local part and path may both hold `=`. `default=…` is always the catch-all; such an address is `"default=x"@…`.
const storageEntry = parser(
  'wanted is addr@domain=PATH, *@domain=PATH, default=PATH, @POSTGRESQL or @PAM',
  /^(?:(@POSTGRESQL|@PAM)|default=(.+)|("(?:[^"\\]|\\.)+"|[^\s"@]+)@([^@=]+)=(.+))$/,
  (source, fallback, local, name, folder) => {
    if (source) return { kind: 'source', key: source } as const;
    if (fallback) return { kind: 'default', key: 'default', path: path(fallback) } as const;
    const entry = { domain: domain(name), path: path(folder) };
    if (local === '*') return { kind: 'domain', key: `*@${entry.domain}`, ...entry } as const;
    const unquoted = local.replace(/^"(.*)"$/, '$1').replaceAll(/\\(.)/g, '$1');
    const mailbox = toMailbox({ local: unquoted, domain: entry.domain });
    return mailbox && ({ kind: 'address', key: `${mailbox.local}@${mailbox.domain}`, mailbox, ...entry } as const);
  },
);
export const storages = listOf(storageEntry, ({ key }) => key);

const keywords = 'PIPELINING|SIZE|8BITMIME|SMTPUTF8|CHUNKING|DSN|ENHANCEDSTATUSCODES|STARTTLS|AUTH|LIMITS|HELP';
const mechanism = '(?:PLAIN|LOGIN|SCRAM-SHA-256(?:-PLUS)?)';
const parameters = String.raw`(?<=^SIZE )[1-9]\d{0,14}|(?<=^AUTH )${mechanism}(?: ${mechanism})*`;
const extension = parser(
  `wanted is default, -NAME, or NAME (${keywords}); only SIZE (octets) and AUTH may have a parameter`,
  new RegExp(`^(-?)(DEFAULT|DOMAIN|${keywords})(?: (${parameters}))?$`, 'i'),
  (sign, name, parameter) => ({ sign, name: name.toUpperCase(), parameter: parameter.toUpperCase() }),
);

/** The extensions to announce, in order: a whole list, or `default` with some taken away (`-X`), added or changed. */
export function supports(text: string) {
  const chosen = new Map<string, { readonly name: string; readonly parameter?: string }>();
  for (const { sign, name, parameter } of listOf(extension, entry => entry.name)(text))
    if (sign && !chosen.delete(name)) throw new Error(`"-${name}": only default has names to take away`);
    else if (name === 'DEFAULT')
      for (const each of keywords.split('|')) chosen.set(each, chosen.get(each) ?? { name: each });
    else if (!sign && name !== 'DOMAIN') chosen.set(name, { name, ...(parameter && { parameter }) });
  return [...chosen.values()];
}
