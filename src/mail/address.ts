// Addresses in the form in which they are compared. Only `toMailbox` makes one.
// Promise: two spellings of one address have an equal Mailbox; a domain that is not a valid name has none.
import { domainToASCII } from 'node:url';
import type { Address } from '../smtp/address.ts';

declare const canonical: unique symbol;

/**
 * An address in the form in which addresses are compared: the local part NFC and lower case, unquoted; the domain
 * as A-labels in lower case ('' only for the bare `<postmaster>` of RFC 5321 §4.5.1). Only `toMailbox` makes one.
 */
export type Mailbox = { readonly local: string; readonly domain: string; readonly [canonical]: true };

const printable = /^[\x20-\x7e]*$/;

/** The canonical form of an address, or undefined when its domain is not a valid (internationalised) name. */
export function toMailbox(address: Pick<Address, 'local' | 'domain'>): Mailbox | undefined {
  const domain = address.domain === '' ? '' : toDomain(address.domain);
  if (domain === undefined) return undefined;
  const { local } = address; // normalize costs more than all the rest of a recipient
  const form = printable.test(local) ? local.toLowerCase() : local.normalize('NFC').toLowerCase().normalize('NFC');
  return { local: form, domain } as Mailbox;
}

/** The A-label form of a domain in lower case, without a final dot; undefined when it is not a valid name. */
export function toDomain(name: string): string | undefined {
  const ascii = printable.test(name) ? name.toLowerCase() : domainToASCII(name);
  const plain = ascii.endsWith('.') ? ascii.slice(0, -1) : ascii;
  return plain.length <= 253 &&
    /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/.test(plain)
    ? plain
    : undefined;
}

/** A mailbox for people and logs: `local@domain`. */
export const formatMailbox = ({ local, domain }: Mailbox): string => `${local}@${domain}`;
