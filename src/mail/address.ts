// Addresses in the form in which they are compared. Only `toMailbox` makes one.
// Promises: two spellings of one address have an equal Mailbox; a domain that is not a valid name has none, and neither
// has an address with a control character or a line separator anywhere in it.
import { domainToASCII } from 'node:url';
import type { Address } from '../smtp/address.ts';

declare const canonical: unique symbol;

/**
 * An address in the form in which addresses are compared: the local part NFC and lower case, unquoted; the domain
 * as A-labels in lower case ('' only for the bare `<postmaster>` of RFC 5321 §4.5.1). Only `toMailbox` makes one.
 */
export type Mailbox = { readonly local: string; readonly domain: string; readonly [canonical]: true };

const printable = /^[\x20-\x7e]*$/;
/**
 * What may stand in a domain before IDNA maps it. Node asks its URL parser, which would drop tabs and line ends, decode
 * percent signs, and end the host at `/`, `?`, `#` and `\`: two different names would then be one.
 */
const unmapped = /^[\w.\-\u{a0}-\u{10ffff}]*$/u;

/**
 * Whether a name holds a control character or a line separator, which no name may (in a log or a header it would begin
 * a line).
 */
export const hasControls = (name: string): boolean => /[\p{Cc}\p{Zl}\p{Zp}]/u.test(name);

/**
 * The canonical form of an address; undefined when its domain is not a valid (internationalised) name, or for a control
 * character.
 */
export function toMailbox(address: Pick<Address, 'local' | 'domain'>): Mailbox | undefined {
  const domain = address.domain === '' ? '' : toDomain(address.domain);
  if (domain === undefined) return undefined;
  const { local } = address; // normalize costs more than all the rest of a recipient
  if (printable.test(local)) return { local: local.toLowerCase(), domain } as Mailbox;
  if (hasControls(local)) return undefined;
  return { local: local.normalize('NFC').toLowerCase().normalize('NFC'), domain } as Mailbox;
}

/** The A-label form of a domain in lower case, without a final dot; undefined when it is not a valid name. */
export function toDomain(name: string): string | undefined {
  const isAscii = printable.test(name);
  if (!isAscii && !unmapped.test(name)) return undefined;
  const ascii = isAscii ? name.toLowerCase() : domainToASCII(name);
  const plain = ascii.endsWith('.') ? ascii.slice(0, -1) : ascii;
  return plain.length <= 253 &&
    /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/.test(plain)
    ? plain
    : undefined;
}

/** A mailbox for people and logs: `local@domain`. */
export const formatMailbox = ({ local, domain }: Mailbox): string => `${local}@${domain}`;
