// What a receiver would hold against a message: for tests that look whether mail will arrive well. Pure.
// RFC 5322 §3.6 and §2.1.1, RFC 2045, RFC 2046 §5.1.1, RFC 2369, RFC 8058.
import { isAscii } from 'node:buffer';
import type { Captured } from '../../mail/captured.ts';
import type { Opened } from './mailbox.ts';
import { type Parsed, valuesOf } from './parse.ts';

/** `Name` does not change from version to version; `Text` is for people. */
type Finding = { readonly Name: string; readonly Text: string };

const maxLineOctets = 998;
const maxHeaderOctets = 256 * 1024;

export function findings({ octets, parsed }: Opened, mail: Captured): readonly Finding[] {
  const found: readonly (readonly [name: string, text: string | false])[] = [
    ['date', dateTrouble(parsed)],
    ['message-id', valuesOf(parsed, 'message-id').length === 0 && 'There is no Message-ID.'],
    ['from', fromTrouble(parsed)],
    ['from-login', loginTrouble(parsed, mail)],
    ['long-line', longLine(octets)],
    ['8-bit', eightBitTrouble(octets, mail)],
    ['mime', mimeTrouble(octets, parsed)],
    ['html-only', parsed.html !== '' && parsed.text.trim() === '' && 'There is HTML without a part in plain text.'],
    ['list-unsubscribe', unsubscribeTrouble(parsed)],
  ];
  return found.flatMap(([Name, Text]) => (Text === false ? [] : [{ Name, Text }]));
}

function dateTrouble(parsed: Parsed): string | false {
  const dates = valuesOf(parsed, 'date').length;
  if (dates === 0) return 'There is no Date.';
  if (dates > 1) return `There are ${dates} Date fields; one is wanted.`;
  return parsed.date === undefined && 'Date is no date of RFC 5322.';
}

function fromTrouble(parsed: Parsed): string | false {
  const fields = valuesOf(parsed, 'from').length;
  if (fields === 0) return 'There is no From.';
  if (fields > 1) return `There are ${fields} From fields; one is wanted.`;
  return !parsed.from.some(({ Address }) => Address.includes('@')) && 'From has no address.';
}

/** What SLIM_SENDER_CHECK=strict would find, though that knows of more addresses of a login. */
function loginTrouble(parsed: Parsed, { login, loginAddress }: Captured): string | false {
  const [from] = parsed.from;
  if (login === undefined || loginAddress === undefined || from === undefined) return false;
  return (
    from.Address.toLowerCase() !== loginAddress.toLowerCase() &&
    `From is ${from.Address}; the login ${login} owns ${loginAddress}.`
  );
}

function longLine(octets: Buffer): string | false {
  let lines = 1;
  for (let at = 0; at < octets.length; lines += 1) {
    const lf = octets.indexOf(10, at);
    const end = lf < 0 ? octets.length : lf;
    if (end - at > maxLineOctets) return `Line ${lines} has ${end - at} octets; ${maxLineOctets} are allowed.`;
    at = end + 1;
  }
  return false;
}

function eightBitTrouble(octets: Buffer, { isUtf8 }: Captured): string | false {
  if (isAscii(octets)) return false;
  const { header, rest } = split(octets);
  if (!isUtf8 && !isAscii(header)) return 'The header has octets above 127, and the sender did not ask for SMTPUTF8.';
  if (isAscii(rest)) return false;
  const isDeclared = /^content-transfer-encoding:[ \t]*(?:8bit|binary)/im.test(octets.toString('latin1'));
  return !isDeclared && 'The body has octets above 127, and no Content-Transfer-Encoding says 8bit.';
}

function mimeTrouble(octets: Buffer, parsed: Parsed): string | false {
  const [type = ''] = valuesOf(parsed, 'content-type');
  if (type !== '' && valuesOf(parsed, 'mime-version').length === 0)
    return 'There is a Content-Type, and no MIME-Version.';
  if (!/^\s*multipart\//i.test(type)) return false;
  const [, quoted, plain] = /;\s*boundary=(?:"([^"]+)"|([^\s;"]+))/i.exec(type) ?? [];
  const boundary = quoted ?? plain;
  if (boundary === undefined) return 'The multipart message names no boundary.';
  const { rest } = split(octets);
  if (!rest.includes(`\n--${boundary}\n`)) return 'The boundary of the multipart message never comes.';
  return !rest.includes(`\n--${boundary}--`) && 'The last boundary of the multipart message is missing.';
}

function unsubscribeTrouble(parsed: Parsed): string | false {
  const [header] = valuesOf(parsed, 'list-unsubscribe');
  if (header === undefined) return false;
  const isOneClick = valuesOf(parsed, 'list-unsubscribe-post').some(value => /one-click/i.test(value));
  return (
    !(isOneClick && /<https:/i.test(header)) &&
    'List-Unsubscribe without one click (RFC 8058): large receivers want it.'
  );
}

/** The header, as far as it is looked at, and the body with the line end before it. */
function split(octets: Buffer): { readonly header: Buffer; readonly rest: Buffer } {
  const end = octets.indexOf('\n\n');
  const length = end < 0 ? octets.length : end + 1;
  return { header: octets.subarray(0, Math.min(length, maxHeaderOctets)), rest: octets.subarray(length) };
}
