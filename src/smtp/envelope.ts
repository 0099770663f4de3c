// The envelope of a message, and the arguments of MAIL and RCPT that build it.
// Promise: a parameter that was not announced, is unknown, malformed or doubled never passes silently, and nothing but
// ASCII passes where SMTPUTF8 was not asked for.
// RFC 5321 §4.1.1.11, 1870 (SIZE), 6152 (BODY), 6531 (SMTPUTF8), 3461 §4 (RET, ENVID, NOTIFY, ORCPT).
import { type Address, parseAddress, splitPath } from './address.ts';
import { type Reply, replies } from './reply.ts';

export type Notify = 'NEVER' | 'SUCCESS' | 'FAILURE' | 'DELAY';

export type Recipient = {
  readonly address: Address;
  readonly notify: readonly Notify[] | undefined;
  readonly originalRecipient: string | undefined; // as sent: type, semicolon, xtext
};

export type Sender = {
  readonly reversePath: Address | ''; // '' is the null reverse-path
  readonly isUtf8: boolean;
  readonly is8Bit: boolean;
  readonly declaredSizeBytes: number;
  readonly ret: 'FULL' | 'HDRS' | undefined;
  readonly envelopeId: string | undefined; // as sent: xtext
};

export type Envelope = Sender & {
  /** What the client called itself in HELO or EHLO. */
  readonly helo: string;
  /** For the `with` clause of Received: SMTP, ESMTP, ESMTPS, UTF8SMTP, … (RFC 3848, RFC 6531 §4.3). */
  readonly protocol: string;
  readonly recipients: readonly Recipient[];
};

type Offers = (extension: string) => boolean;
type Shapes = Readonly<Record<string, readonly [extension: string, value: RegExp]>>;
const xtext = '(?:[!-*,-<>-~]|\\+[0-9A-F]{2})';
const senderShapes: Shapes = {
  SIZE: ['SIZE', /^\d{1,20}$/],
  BODY: ['8BITMIME', /^(?:7BIT|8BITMIME)$/i],
  SMTPUTF8: ['SMTPUTF8', /^$/],
  RET: ['DSN', /^(?:FULL|HDRS)$/i],
  ENVID: ['DSN', new RegExp(`^${xtext}{1,100}$`)],
};
const recipientShapes: Shapes = {
  NOTIFY: ['DSN', /^(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})$/i],
  ORCPT: ['DSN', new RegExp(`^[A-Za-z0-9-]{1,32};(?:${xtext}|[\\u0080-\\u{10ffff}]){1,500}$`, 'u')], // UTF-8: RFC 6533 §3
};

function parse(text: string, shapes: Shapes, offers: Offers): ReadonlyMap<string, string> | Reply {
  const found = new Map<string, string>();
  for (const item of text.split(' ').filter(Boolean)) {
    const equals = `${item}=`.indexOf('=');
    const [name, value] = [item.slice(0, equals).toUpperCase(), item.slice(equals + 1)];
    const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined;
    if (shape === undefined || !offers(shape[0])) return replies.unknownParameter;
    if (found.has(name) || item.endsWith('=') || !shape[1].test(value)) return replies.parameterSyntax;
    found.set(name, value);
  }
  return found;
}

/** What MAIL says, or why not; `offers` tells whether the client was told of an extension. */
export function parseSender(argument: string, offers: Offers): Sender | Reply {
  const parts = splitPath('FROM', argument);
  if (parts === undefined) return replies.mailSyntax;
  const reversePath = parts[0] === '' ? '' : parseAddress(parts[0]);
  if (reversePath === undefined || (reversePath && !reversePath.domain)) return replies.badSender;
  const found = parse(parts[1], senderShapes, offers);
  if ('code' in found) return found;
  if (!found.has('SMTPUTF8') && !isAscii(argument)) return replies.utf8Needed;
  return {
    reversePath,
    isUtf8: found.has('SMTPUTF8'),
    is8Bit: found.get('BODY')?.toUpperCase() === '8BITMIME',
    declaredSizeBytes: Number(found.get('SIZE') ?? 0),
    ret: found.get('RET')?.toUpperCase() as Sender['ret'],
    envelopeId: found.get('ENVID'),
  };
}

/** What RCPT says, likewise, in a transaction with or without SMTPUTF8. */
export function parseRecipient(argument: string, offers: Offers, isUtf8: boolean): Recipient | Reply {
  const parts = splitPath('TO', argument);
  if (parts === undefined) return replies.recipientSyntax;
  const address = parseAddress(parts[0]);
  if (address === undefined) return replies.badRecipient;
  const found = parse(parts[1], recipientShapes, offers);
  if ('code' in found) return found;
  if (!isUtf8 && !isAscii(argument)) return replies.utf8Needed;
  const notify = found.get('NOTIFY')?.toUpperCase().split(',') as Recipient['notify'];
  return { address, notify, originalRecipient: found.get('ORCPT') };
}

const isAscii = (text: string): boolean => /^[ -~]*$/.test(text);
