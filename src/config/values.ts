// Values that stand for themselves: numbers, sizes, durations, names, paths. RFC 5321 §4.1.2, RFC 6531.
import { isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { hasControls, toDomain } from '../mail/address.ts';
import { listOf, parser } from './parser.ts';

export const limit = parser('a whole number is wanted, such as 100; 0 is no limit', /^(\d{1,9})$/, Number);
export const count = parser('a whole number from 1 is wanted, such as 100', /^([1-9]\d{0,8})$/, Number);
/** How many captured messages are kept. An entry for each is in memory, hence the limit. */
export const kept = parser(
  'a whole number from 1 to 100000 is wanted',
  /^([1-9]\d{0,5})$/,
  text => Number(text) <= 100_000 && Number(text),
);
export const port = parser('a port is wanted', /^(\d{1,5})$/, text => Number(text) <= 65_535 && Number(text));

export const size = parser('a size is wanted, such as 50M (K, M, G)', /^(\d{1,12})([KMG]?)$/, (digits, unit) => {
  const bytes = Number(digits) * 1024 ** ['', 'K', 'M', 'G'].indexOf(unit);
  return bytes > 0 && Number.isSafeInteger(bytes) && bytes;
});

const unitMs: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration in ms. Node's timers fire at once when asked to wait 25 days, hence the limit. */
export const wait = parser('a duration up to 20d is wanted, such as 90s', /^(\d{1,7})([smhd])$/, (digits, unit) => {
  const ms = Number(digits) * (unitMs[unit] ?? 0);
  return ms <= 20 * 86_400_000 && ms;
});
/** A duration in ms, where `off` is 0. */
export const lifetime = parser(
  'a duration is wanted, such as 7d, or off',
  /^(?:off|([1-9]\d{0,3})([smhd]))$/,
  (digits, unit) => Number(digits) * (unitMs[unit] ?? 0),
);
/** A rate: so many in a period. */
export const rate = parser('a number and a period are wanted, such as 200/1h', /^(\d+)\/(\w+)$/, (number, period) => {
  return wait(period) > 0 && { count: count(number), periodMs: wait(period) };
});
export const waits = listOf(wait, String, true);

export const domain = parser('a domain name is wanted, such as example.com', /^(?![\d.]+$)(.*)$/s, toDomain);
export const domains = listOf(domain, name => name);
export const host = parser('a host name or an address is wanted', /^\[?([^[\]]*)\]?$/s, text =>
  isIPv6(text) ? text : toDomain(text),
);

export const rspamd = parser(
  'the address of Rspamd is wanted, such as http://rspamd:11333',
  /^http:\/\/(\[.*\]|[^[\]:/]+)(?::(\d{1,5}))?\/?$/,
  (name, digits) => ({ host: host(name), port: digits ? port(digits) : 11_333 }),
);

/** The name by which we log in elsewhere: anything, on one line. */
export const loginName = parser(
  'a name without control characters is wanted',
  /^(.*)$/s,
  text => !hasControls(text) && text,
);

/** A secret that is long enough not to be guessed by somebody who has seen what was made with it. */
export const secret = parser('a secret of 8 characters or more is wanted', /^(.{8,})$/s, String, true);

/** A path, which is made absolute. The shell is not there to expand a ~. */
export const path = parser('a path is wanted, and ~ is none', /^((?!~).*)$/s, text => resolve(text));
export const subaddress = parser('one separator, such as + or -, is wanted', /^([!#$%&'*+\-/=?^_`{|}~]?)$/, String);

/** The name of a Unix account other than root, and never a number, which tools would take for a uid. */
export const accountName = '([a-z_][a-z0-9_-]{0,31})(?<!^root)';
export const account = parser('a Unix account other than root is wanted', new RegExp(`^${accountName}$`), String);
