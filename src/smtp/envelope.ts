// The envelope of a message, and the arguments of MAIL and RCPT that build it (RFC 5321 §4.1.1.11, RFC 1870, 6152,
// 6531, 4954 §5, 3461 §4). Promise: a parameter that was not announced, is unknown, malformed or doubled never passes
// silently, and nothing but ASCII passes where SMTPUTF8 was not asked for.
import { type Address, parseAddress, splitPath } from './address.ts';
import type { ExtensionName } from './extensions.ts';
import { type Reply, replies } from './reply.ts';

export type Notify = 'NEVER' | 'SUCCESS' | 'FAILURE' | 'DELAY';

/** What MAIL wishes for the message, and RCPT for a recipient. Who keeps mail keeps all; a forward, what it names. */
export type MessageWishes = {
  readonly isUtf8: boolean;
  readonly ret?: 'FULL' | 'HDRS';
  readonly envelopeId?: string; // as sent: xtext
};
export type RecipientWishes = {
  readonly notify?: readonly Notify[];
  readonly originalRecipient?: string; // as sent: type, semicolon, xtext
};

export type Recipient = { readonly address: Address; readonly wishes: RecipientWishes };
/** `ticket`: what whoever accepted the recipient wants to remember of it. */
export type Accepted<Ticket> = Recipient & { readonly ticket: Ticket | undefined };

export type Sender = {
  readonly reversePath: Address | ''; // '' is the null reverse-path
  readonly declaredSizeBytes: number;
  readonly wishes: MessageWishes;
};

export type Envelope<Ticket = unknown> = Sender & {
  readonly helo: string; // what the client called itself in HELO or EHLO; anything but control characters
  readonly protocol: string; // for the `with` clause of Received: SMTP, ESMTPS, UTF8SMTP, … (RFC 3848, RFC 6531 §4.3)
  readonly recipients: readonly Accepted<Ticket>[];
};

type Offers = (extension: ExtensionName) => boolean;
type Shape = readonly [keyword: 'FROM' | 'TO', extension: ExtensionName, value: RegExp];
const xtext = '(?:[!-*,-<>-~]|\\+[0-9A-F]{2})';
const shapes: Readonly<Record<string, Shape>> = {
  SIZE: ['FROM', 'SIZE', /^\d{1,20}$/],
  BODY: ['FROM', '8BITMIME', /^(?:7BIT|8BITMIME)$/i],
  SMTPUTF8: ['FROM', 'SMTPUTF8', /^$/],
  AUTH: ['FROM', 'AUTH', new RegExp(`^(?:<>|${xtext}{1,500})$`)], // who first sent it: not passed on, we vouch for nobody
  RET: ['FROM', 'DSN', /^(?:FULL|HDRS)$/i],
  ENVID: ['FROM', 'DSN', new RegExp(`^${xtext}{1,100}$`)],
  NOTIFY: ['TO', 'DSN', /^(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})$/i],
  ORCPT: ['TO', 'DSN', new RegExp(`^[A-Za-z0-9-]{1,32};(?:${xtext}|[\\u0080-\\u{10ffff}]){1,500}$`, 'u')], // RFC 6533
};

/** The path, under the name '', and the parameters behind it. */
function parse(keyword: 'FROM' | 'TO', argument: string, offers: Offers, isUtf8 = false): Map<string, string> | Reply {
  const [path, parameters = ''] = splitPath(keyword, argument) ?? [];
  if (path === undefined) return replies.syntax(`${keyword === 'TO' ? 'RCPT TO' : 'MAIL FROM'}:<address> [parameters]`);
  const found = new Map([['', path]]);
  for (const item of parameters.split(' ').filter(Boolean)) {
    const equals = `${item}=`.indexOf('=');
    const [name, value] = [item.slice(0, equals).toUpperCase(), item.slice(equals + 1)];
    const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined;
    if (shape?.[0] !== keyword || !offers(shape[1])) return replies.unknownParameter;
    if (found.has(name) || item.endsWith('=') || !shape[2].test(value)) return replies.parameterSyntax;
    found.set(name, value);
  }
  return isUtf8 || found.has('SMTPUTF8') || /^[ -~]*$/.test(argument) ? found : replies.utf8Needed;
}

/** What MAIL says, or why not; `offers` tells whether the client was told of an extension. */
export function parseSender(argument: string, offers: Offers): Sender | Reply {
  const found = parse('FROM', argument, offers);
  if ('code' in found) return found;
  const reversePath = found.get('') && parseAddress(found.get('') ?? '');
  if (reversePath === undefined || (reversePath && !reversePath.domain)) return replies.badSender;
  const ret = found.get('RET')?.toUpperCase() as MessageWishes['ret'];
  const envelopeId = found.get('ENVID');
  const wishes = { isUtf8: found.has('SMTPUTF8'), ...(ret && { ret }), ...(envelopeId && { envelopeId }) };
  return { reversePath, declaredSizeBytes: Number(found.get('SIZE') ?? 0), wishes };
}

/** What RCPT says, likewise, in a transaction with or without SMTPUTF8. */
export function parseRecipient(argument: string, offers: Offers, isUtf8: boolean): Recipient | Reply {
  const found = parse('TO', argument, offers, isUtf8);
  if ('code' in found) return found;
  const address = parseAddress(found.get('') ?? '');
  const notify = found.get('NOTIFY')?.toUpperCase().split(',') as RecipientWishes['notify'];
  const originalRecipient = found.get('ORCPT');
  const wishes = { ...(notify && { notify }), ...(originalRecipient && { originalRecipient }) };
  return address ? { address, wishes } : replies.badRecipient;
}
