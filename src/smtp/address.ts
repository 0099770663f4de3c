// Addresses as they stand in MAIL and RCPT (RFC 5321 §4.1.2 and §4.5.3.1, RFC 6531 §3.3). Only this parser makes one.
// Promise: linear time, never throws; a local part has no quotes or escapes left, so that "a.b"@x and a.b@x are equal.
// Source routes are parsed and dropped (RFC 5321 appendix C). Domains are checked for shape only. Real mail passes that
// the RFC forbids: local parts over 64 octets (VERP, SRS, lists), two dots in a row or one before the @ (old phones),
// an empty quoted local part, a path without its brackets.

declare const parsed: unique symbol;

export type Address = {
  readonly local: string; // unquoted, perhaps empty; any printable character may be in it: never use it as a path
  readonly domain: string; // or address literal, as sent; '' only for `<postmaster>`
  readonly text: string; // as sent, without source route and brackets; at most 254 octets: a path has 256 (§4.5.3.1.3)
  readonly [parsed]: true;
};

// A quoted local part may hold brackets. Each of these is unambiguous: none tries the same octets over again.
const argument = /^(\w+): *(?:<((?:"(?:[^"\\]|\\.)*"|[^">])*)>|([^\s"<>@]+@[^\s"<>]+|postmaster))(?: (.*))?$/iu;
const route = /^@[^@:,<>\s]+(?:,@[^@:,<>\s]+)*:/;
const atom = "[\\w!#$%&'*+\\-/=?^`{|}~\\u0080-\\u{10ffff}]+";
const letter = '[A-Za-z0-9_\\u0080-\\u{10ffff}]';
const label = `${letter}(?:[A-Za-z0-9_\\-\\u0080-\\u{10ffff}]{0,61}${letter})?`;
const localPart = `"((?:[^"\\\\]|\\\\.)*)"|(${atom}(?:\\.+${atom})*\\.*)`;
const mailbox = new RegExp(`^(?:${localPart})@(${label}(?:\\.${label})*|\\[.{2,64}\\])$`, 'u');
const octet = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const ipv4Literal = new RegExp(`^\\[${octet}(?:\\.${octet}){3}\\]$`);
const ipv6Literal = /^\[IPv6:([0-9A-F:.]+)\]$/i;

/** Splits an argument of MAIL or RCPT: `TO:<a@b> X=1` is ['a@b', 'X=1']. undefined: another keyword, half a bracket. */
export function splitPath(keyword: string, text: string): readonly [path: string, parameters: string] | undefined {
  const [, found = '', bracketed, bare = '', parameters = ''] = argument.exec(text) ?? [];
  const path = bracketed ?? bare;
  return found.toUpperCase() === keyword ? [path, parameters] : undefined;
}

/** The address in a path (without brackets), or undefined when it is malformed. `postmaster` alone is one. */
export function parseAddress(path: string): Address | undefined {
  const text = path.replace(route, '');
  if (text.toLowerCase() === 'postmaster') return { local: text, domain: '', text } as Address;
  const [, quoted, plain = '', domain = ''] = mailbox.exec(text) ?? [];
  const local = quoted?.replace(/\\(.)/gu, '$1') ?? plain;
  if (domain === '' || Buffer.byteLength(text) > 254 || !isFitDomain(domain)) return undefined;
  return { local, domain, text } as Address;
}

/** An address literal must be an IPv4 or an IPv6 address (RFC 5321 §4.1.3); no other kind was ever registered. */
function isFitDomain(domain: string): boolean {
  if (!domain.startsWith('[') || ipv4Literal.test(domain)) return true;
  return URL.canParse(`http://[${ipv6Literal.exec(domain)?.[1] ?? ''}]`);
}
