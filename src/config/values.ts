// How a value is written: one small parser for each kind of value, from text to plain data.
// A parser answers with the value or throws Wrong, which carries what was written and what is wanted, so that every
// mistake of a list is reported by itself. It knows one value only and reads nothing: no variable, no file, no clock.
// RFC 5321 §4.1.2 (local parts), RFC 6531, RFC 5321 §4.1.1.1 (EHLO keywords).
import { isIPv4, isIPv6 } from 'node:net';
import { toDomain, toMailbox } from '../mail.ts';
import type { Mailbox } from '../mail.ts';

type Mistake = { readonly value: string; readonly wanted: string };

/** One or more mistakes in one setting. */
export class Wrong extends Error {
  readonly mistakes: readonly Mistake[];
  constructor(...mistakes: readonly Mistake[]) {
    super('wrong value');
    this.mistakes = mistakes;
  }
}

/** A parser from a pattern; `make` gets the groups ('' when absent) and says undefined when the value is no good. */
const parser =
  <T>(wanted: string, pattern: RegExp, make: (...groups: readonly string[]) => T | undefined) =>
  (text: string): T => {
    const found = pattern.exec(text);
    const value = found ? make(...found.slice(1).map(group => group ?? '')) : undefined;
    if (value === undefined) throw new Wrong({ value: text, wanted });
    return value;
  };

/** A list, already split to one item a line (sources.ts); `key` says when two items are the same thing. */
const listOf =
  <T>(item: (text: string) => T, key: (value: T) => string) =>
  (text: string): readonly T[] => {
    const values = new Map<string, T>();
    const mistakes: Mistake[] = [];
    for (const each of text.split('\n')) {
      try {
        const value = item(each);
        if (values.has(key(value))) mistakes.push({ value: each, wanted: 'it is listed twice; keep one' });
        values.set(key(value), value);
      } catch (error) {
        if (!(error instanceof Wrong)) throw error;
        mistakes.push(...error.mistakes);
      }
    }
    if (mistakes.length > 0) throw new Wrong(...mistakes);
    return [...values.values()];
  };

export const oneOf = <const T extends string>(...choices: readonly T[]): ((text: string) => T) =>
  parser(`one of ${choices.join(', ')} is wanted`, /(.*)/s, text => choices.find(each => each === text));

/** A number of sessions; 0 is no limit. */
export const limit = parser('a whole number is wanted, such as 100; 0 is no limit', /^(\d{1,9})$/, digits =>
  Number(digits) === 0 ? Number.POSITIVE_INFINITY : Number(digits),
);

export const size = parser('a size is wanted, such as 50M (K, M, G)', /^(\d{1,12})([KMG]?)$/, (digits, unit = '') => {
  const bytes = Number(digits) * 2 ** (10 * ' KMG'.indexOf(unit || ' '));
  return bytes >= 1 && Number.isSafeInteger(bytes) ? bytes : undefined;
});

const unitMs: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** In ms. Node's timers fire at once when asked to wait 25 days, hence the limit. */
export const wait = parser(
  'a duration up to 20d is wanted, such as 90s',
  /^(\d{1,7})([smhd])$/,
  (digits, unit = '') => {
    const ms = Number(digits) * (unitMs[unit] ?? Number.NaN);
    return ms <= 20 * 86_400_000 ? ms : undefined;
  },
);

export const domain = parser('a domain name is wanted, such as example.com', /^(?![\d.]+$)(.*)$/s, (name = '') =>
  toDomain(name),
);
export const domains = listOf(domain, name => name);

/** A path as written, absolute only once the working directory is known. The shell is not there to expand a ~. */
export const path = parser('a path is wanted; ~ means nothing here, write it out', /^((?!~).*)$/s, text => text);

export const subaddress = parser(
  'one separator, such as + or -, is wanted',
  /^([!#$%&'*+\-/=?^_`{|}~]?)$/,
  text => text,
);

/** The name of a Unix account, and never a number, which tools would take for a uid. */
const name32 = '[a-z_][a-z0-9_-]{0,31}';
export const account = parser('the name of a Unix account is wanted', new RegExp(`^(${name32})$`), name => name);

/** `name` or `name:password`; longer passwords would be cut off by authenticate-pam, and so never be right. */
const accountEntry = parser(
  'wanted is name or name:password (1 to 126 octets)',
  new RegExp(`^(${name32})(?::(.+))?$`, 's'),
  (name = '', password = '') =>
    password === '' ? { name } : Buffer.byteLength(password) <= 126 ? { name, password } : undefined,
);
export const accounts = listOf(accountEntry, ({ name }) => name);

/** Also hides the rest of a password that was split at its comma. */
export const maskAccounts = (entries: string): string =>
  entries.replace(/^(?:([\w.-]+:).+|.*[^\w.-].*)$/gm, (_, name = '') => `${name}***`);

export const maskUrl = (url: string): string =>
  url.replace(/(:\/\/[^:/?@]*:).*@/s, '$1***@').replace(/(password=)[^&]*/gi, '$1***');

/** A socket to listen on. `host` undefined: IPv4 and IPv6. Port 0 is any free one, for tests. */
export type Socket = {
  readonly kind: 'smtp' | 'submission' | 'submissions';
  readonly host: string | undefined;
  readonly port: number;
};

const socket = parser(
  'a socket is wanted, such as smtp://:25, submission://127.0.0.1:587 or submissions://[::1]:465',
  /^(smtp|submission|submissions):\/\/(?:\[([\da-fA-F:.]+)\]|([^[\]:/]*)):(\d{1,5})$/,
  (kind, v6 = '', name = '', port): Socket | undefined => {
    const isHost = v6 === '' ? name === '' || isIPv4(name) || domain(name) !== '' : isIPv6(v6);
    return isHost && Number(port) <= 65_535
      ? { kind: kind as Socket['kind'], host: v6 || name || undefined, port: Number(port) }
      : undefined;
  },
);

export const sockets = listOf(socket, each => JSON.stringify(each));

/** Whether both sockets would want the same port of the same address. `[::]` is taken as IPv6 alone. */
export function overlap(one: Socket, other: Socket): boolean {
  const [a, b] = [one.host, other.host];
  if (one.port !== other.port || one.port === 0) return false;
  if (a === undefined || b === undefined || a === b) return true;
  return isIPv6(a) === isIPv6(b) && [a, b].some(host => host === '0.0.0.0' || host === '::');
}

/** One entry of SLIM_STORAGES; `key` is equal for two entries about the same mail. */
export type StorageEntry = { readonly key: string } & (
  | { readonly kind: 'address'; readonly mailbox: Mailbox; readonly domain: string; readonly path: string }
  | { readonly kind: 'domain'; readonly domain: string; readonly path: string }
  | { readonly kind: 'default'; readonly path: string }
  | { readonly kind: '@POSTGRESQL' | '@PAM' }
);

const atom = String.raw`[^\s"(),.:;<>@[\\\]\x00-\x1f\x7f]+`;

/**
 * The path begins after the first `=` behind the domain, so a local part and a path may both hold `=`. `default=…` is
 * always the catch-all: an address whose local part begins so is written `"default=x"@example.com=PATH`.
 */
const storageEntry = parser(
  'wanted is addr@domain=PATH, *@domain=PATH, default=PATH, @POSTGRESQL or @PAM',
  new RegExp(
    String.raw`^(?:(@POSTGRESQL|@PAM)|default=(.+)|(?:(${atom}(?:\.${atom})*)|"((?:[^"\\\x00-\x1f\x7f]|\\[ -~])+)")@([^@=]+)=(.+))$`,
  ),
  (source = '', fallback = '', plain = '', quoted = '', host = '', where = ''): StorageEntry | undefined => {
    if (source === '@POSTGRESQL' || source === '@PAM') return { key: source, kind: source };
    if (fallback !== '') return { key: 'default', kind: 'default', path: path(fallback) };
    if (plain === '*')
      return { key: `*@${domain(host)} (all)`, kind: 'domain', domain: domain(host), path: path(where) };
    const mailbox = toMailbox({ local: plain || quoted.replaceAll(/\\(.)/g, '$1'), domain: domain(host) });
    if (mailbox === undefined || Buffer.byteLength(mailbox.local) > 64) return undefined;
    return {
      key: `${mailbox.local}@${mailbox.domain}`,
      kind: 'address',
      mailbox,
      domain: mailbox.domain,
      path: path(where),
    };
  },
);

export const storages = listOf(storageEntry, ({ key }) => key);

/** An extension as announced. Only SIZE (octets) and AUTH (mechanisms) may carry a parameter here. */
export type Extension = { readonly name: string; readonly parameter?: string };

const extensionNames =
  'PIPELINING SIZE 8BITMIME SMTPUTF8 CHUNKING DSN ENHANCEDSTATUSCODES STARTTLS AUTH LIMITS HELP'.split(' ');
const mechanisms = /^(PLAIN|LOGIN|SCRAM-SHA-256(-PLUS)?)( (PLAIN|LOGIN|SCRAM-SHA-256(-PLUS)?))*$/;

/** The extensions to announce, in order: a whole list, or `default` with some taken away (`-X`), added or changed. */
export function supports(text: string): readonly Extension[] {
  const isChange = /^default$/im.test(text);
  const chosen = new Map<string, Extension>(isChange ? extensionNames.map(name => [name, { name }]) : []);
  const item = (each: string): string => {
    const [, sign = '', name = '', parameter = ''] = /^(-?)(\S*)\s*(.*)$/s.exec(each.toUpperCase()) ?? [];
    const mistake = (wanted: string): Wrong => new Wrong({ value: each, wanted });
    if (name === 'DEFAULT' || name === 'DOMAIN') {
      if (sign === '' && parameter === '') return name;
      throw mistake('default and DOMAIN stand alone; DOMAIN is always there');
    }
    if (!extensionNames.includes(name)) throw mistake(`unknown; the nearest is ${nearest(name, extensionNames)}`);
    if (sign !== '' && (!isChange || parameter !== '')) throw mistake('only default has names to take away');
    if (parameter !== '' && name !== 'SIZE' && !(name === 'AUTH' && mechanisms.test(parameter)))
      throw mistake('only SIZE (octets) and AUTH (mechanisms) may have a parameter');
    if (sign !== '') chosen.delete(name);
    else if (parameter === '') chosen.set(name, { name });
    else chosen.set(name, { name, parameter: name === 'SIZE' ? String(size(parameter)) : parameter });
    return name;
  };
  listOf(item, name => name)(text);
  return [...chosen.values()];
}

/** The most similar of some names: the one that shares the largest part of its pairs of letters (Dice). */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const pairs = (of: string): Set<string> => new Set(Array.from(of, (_, at) => of.slice(at, at + 2)));
  const own = [...pairs(name)];
  const likeness = (other: Set<string>) => own.filter(pair => other.has(pair)).length / (own.length + other.size);
  return known.toSorted((one, other) => likeness(pairs(other)) - likeness(pairs(one)))[0];
}
