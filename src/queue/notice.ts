// A notice tells a sender what became of a message. It is a multipart/report of three parts: words for people, fields
// for programs, and what was sent. This file decides who is told what and builds it; it reads nothing and sends
// nothing.
// Promises:
// - No notice where none is due: the null reverse-path gets none, and NOTIFY is obeyed.
// - Nothing that came from outside (the remote server's words, ORCPT, ENVID) begins a line or a field.
// - Lines have at most 998 octets; non-ASCII stands only where the envelope had SMTPUTF8, or in what was sent.
// - Time and size grow with the length of what is returned, and no faster with the number of recipients.
// RFC 3461 §6, RFC 3462 (multipart/report), RFC 3464 (delivery status), RFC 6533 (UTF-8), RFC 3834 (Auto-Submitted).
import { isAscii } from 'node:buffer';
import type { Outcome, QueueEntry } from '../mail/message.ts';
import type { Notify } from '../smtp/envelope.ts';
import type { Clock, Random } from '../system/world.ts';
import { mailDate, messageId } from '../system/names.ts';

/** So much of a message is returned at most. */
export const maxReturnedBytes = 64 * 1024;
const maxLineBytes = 998;
/** So much of one text from outside is passed on. */
const maxTextLength = 2000;
/** Characters of all remote servers' words together, so that a notice about a thousand recipients is no megabyte. */
const maxAllWordsLength = 64_000;
/** So many characters each recipient has in any case. */
const minWordsLength = 100;

export type NoticeOptions = Readonly<{
  entry: QueueEntry;
  /** The beginning of what was sent, without what is for Maildirs alone, and whether that is all of it. */
  original: { readonly octets: Buffer; readonly isWhole: boolean };
  /** The outcomes to tell, as `dueOutcomes` gives them; at least one. */
  outcomes: readonly Outcome[];
  hostname: string;
  /** How long mail may wait, where the notice is to say so. */
  lifetimeMs?: number | undefined;
  clock: Clock;
  random: Random;
}>;
/** A notice; its line ends are LF. */
export type Notice = { readonly content: Buffer; readonly isUtf8: boolean; readonly is8Bit: boolean };

/**
 * For each action, in the order in which they are told: what NOTIFY must have, the subject, and words before the
 * recipients.
 */
const kinds: Readonly<Record<Outcome['action'], Readonly<{ notify: Notify; subject: string; words: string }>>> = {
  failed: { notify: 'FAILURE', subject: 'could not be delivered', words: 'could not be delivered to:' },
  delayed: {
    notify: 'DELAY',
    subject: 'is delayed',
    words: 'is late; it is still tried: you need not send it again. It has not yet reached:',
  },
  relayed: {
    notify: 'SUCCESS',
    subject: 'was passed on',
    words: 'was handed to a server that will not tell whether it was delivered to:',
  },
  expanded: { notify: 'SUCCESS', subject: 'was delivered', words: 'was delivered to the members of:' },
  delivered: { notify: 'SUCCESS', subject: 'was delivered', words: 'was delivered to:' },
};
const askPostmaster = 'Show this to your postmaster:';
/** What the sender can do: the words of the first entry whose pattern fits what the other server has said. */
const advice: readonly (readonly [said: RegExp, words: string])[] = [
  [
    /^[45]\.7\.(?:26|515)\b/,
    `The other server found no valid SPF or DKIM for your domain. ${askPostmaster} \`slimsmtp dns\` says which record is amiss.`,
  ],
  [
    /^[45]\.7\.25\b/,
    `The address of this server has no name in DNS that leads back to it. ${askPostmaster} \`slimsmtp dns\` shows the PTR record.`,
  ],
  [/^[45]\.7\.29\b/, `The other server takes mail over TLS alone. ${askPostmaster} see SLIM_EXTERNAL_TLS.`],
  [
    /^[45]\.7\.28\b/,
    'The other server has seen too much unasked mail of this server or domain. Wait; your postmaster should look who sends it.',
  ],
  [
    /\bDuplicate header\b.*\bDKIM-Signature\b/i,
    `The relay signs mail itself, and refuses a second signature. ${askPostmaster} SLIM_DKIM=off leaves signing to the relay.`,
  ],
  [/^5\.1\.(9|10)\b/, 'This domain takes no mail at all. Ask the recipient for another address.'],
  [/^5\.1\./, 'Look for a mistake in the address, or ask the recipient for the present one.'],
  [/^5\.2\./, 'The mailbox is full or closed. Tell the recipient by another way.'],
  [/^5\.3\.4/, 'The mail is too large for the other server. Send a smaller one.'],
  [/^5\.4\.6/, 'The mail goes round in circles. The postmaster of the domain has to mend that.'],
  [/^5\.[34]\./, 'The other server could not be reached, or did not work, all this time. Try again later.'],
  [/^5\.6\./, 'The other server cannot take this kind of content or address. Send plain text from a plain address.'],
  [/^[45]\.7\.4/, 'The other server offers no encryption, and this one sends nothing in clear. Ask your postmaster.'],
  [/^5\.7\./, 'The other server refuses the mail; its words say why. Your postmaster may know what to do.'],
  [/^5/, 'If these words do not help you, show them to your postmaster.'],
];

/**
 * The outcomes that the sender wants to hear of, failures first. Without NOTIFY these are failures and delays (RFC 3461
 * §4.1).
 */
export function dueOutcomes({ from }: QueueEntry, outcomes: readonly Outcome[]): readonly Outcome[] {
  if (from === '') return [];
  const order = Object.keys(kinds);
  return outcomes
    .filter(({ action, recipient }) => (recipient.notify ?? ['FAILURE', 'DELAY']).includes(kinds[action].notify))
    .toSorted((a, b) => order.indexOf(a.action) - order.indexOf(b.action));
}

export function buildNotice(options: NoticeOptions): Notice {
  const { entry, original, outcomes, hostname, clock, random } = options;
  const [first] = outcomes;
  if (first === undefined) throw new Error('a notice of nothing');
  const header = headerOf(original.octets);
  const addresses = outcomes.flatMap(({ recipient }) => [recipient.address, recipient.originalRecipient ?? '']);
  const isUtf8 = entry.isUtf8 && !(isAscii(header) && isAscii(Buffer.from(entry.from + addresses.join(''))));
  const wordsLength = Math.max(minWordsLength, Math.floor(maxAllWordsLength / outcomes.length));
  const told = { ...options, clean: cleaner(isUtf8), wordsLength };
  const types = isUtf8
    ? { charset: 'utf-8', status: 'global-delivery-status', whole: 'message/global', head: 'message/global-headers' }
    : { charset: 'us-ascii', status: 'delivery-status', whole: 'message/rfc822', head: 'text/rfc822-headers' };
  // RET=FULL is about failures alone (RFC 3461 §4.3).
  const isFull = entry.ret === 'FULL' && first.action === 'failed' && isFit(original);
  const parts: readonly (readonly [type: string, octets: Buffer])[] = [
    [`text/plain; charset=${types.charset}`, Buffer.from(wordsFor(told))],
    [`message/${types.status}`, Buffer.from(fieldsFor(told))],
    isFull ? [types.whole, original.octets] : [types.head, header],
  ];
  const is8Bit = parts.some(([, octets]) => !isAscii(octets));
  const boundary = `=_${random.hex(16)}`;
  const top = [
    `From: Mail Delivery System <MAILER-DAEMON@${hostname}>`,
    `To: <${entry.from}>`,
    `Date: ${mailDate(clock.now())}`,
    `Message-ID: ${messageId(random.hex(16), hostname)}`,
    `Subject: Your mail ${kinds[first.action].subject}`,
    'Auto-Submitted: auto-replied',
    'MIME-Version: 1.0',
    `Content-Type: multipart/report; report-type=delivery-status;\n\tboundary="${boundary}"`,
    `Content-Transfer-Encoding: ${is8Bit ? '8bit' : '7bit'}\n`,
  ];
  const body = parts.flatMap(([type, octets]) => {
    const encoding = isAscii(octets) ? '7bit' : '8bit';
    const lines = ['', `--${boundary}`, `Content-Type: ${type}`, `Content-Transfer-Encoding: ${encoding}`, '', ''];
    return [Buffer.from(lines.join('\n')), octets];
  });
  const content = Buffer.concat([Buffer.from(top.join('\n')), ...body, Buffer.from(`\n--${boundary}--\n`)]);
  return { content, isUtf8, is8Bit };
}

type Told = NoticeOptions & { readonly clean: (text: string) => string; readonly wordsLength: number };

/** Builds the first part, which is for people. */
function wordsFor({ entry, outcomes, hostname, lifetimeMs, clean, wordsLength }: Told): string {
  const lines = [`This is the mail server ${hostname}, about your mail of ${mailDate(entry.receivedAt)}.`, ''];
  for (const [action, group] of Map.groupBy(outcomes, outcome => outcome.action)) {
    lines.push(...wrap(`Your mail ${kinds[action].words}`));
    for (const { recipient, delivery } of group) {
      const who = delivery.remote === undefined ? 'The reason' : `${clean(delivery.remote)} said`;
      const said = `${who}: ${clean(delivery.text.slice(0, wordsLength))}`;
      const [, help = ''] = advice.find(([pattern]) => pattern.test(`${delivery.status} ${delivery.text}`)) ?? [];
      lines.push('', `  ${clean(recipient.address)}`, ...wrap(said, '    '), ...wrap(help, '    '));
    }
    if (action === 'delayed' && lifetimeMs !== undefined)
      lines.push('', `It will be tried until ${mailDate(entry.receivedAt + lifetimeMs)}.`);
    lines.push('');
  }
  return [...lines, 'Below are these facts for programs, and what you sent.', ''].join('\n');
}

/** Builds the second part, which is for programs: RFC 3464 §2.2 and §2.3. */
function fieldsFor({ entry, outcomes, hostname, lifetimeMs, clock, clean, wordsLength }: Told): string {
  const fields = (named: Readonly<Record<string, string | false | undefined>>): string =>
    Object.entries(named)
      .filter(([, value]) => value)
      .map(([name, value]) => `${wrap(`${name}: ${value}`, '', 240).join('\n ')}\n`)
      .join('');
  const recipients = outcomes.map(({ recipient: { address, originalRecipient }, action, delivery }) => {
    const { status, text, remote } = delivery;
    const [type, original = ''] = originalRecipient?.split(/;(.*)/s) ?? [];
    const isReply = remote !== undefined && /^[2-5]\d\d(?!\d)/.test(text);
    return fields({
      'Original-Recipient': type && `${type}; ${clean(fromXtext(original))}`,
      'Final-Recipient': `${isAscii(Buffer.from(address)) ? 'rfc822' : 'utf-8'}; ${clean(address)}`,
      Action: action,
      Status: status,
      'Remote-MTA': remote && `dns; ${clean(remote)}`,
      'Diagnostic-Code': `${isReply ? 'smtp' : 'X-SlimSMTP'}; ${clean(text.slice(0, wordsLength))}`,
      'Last-Attempt-Date': mailDate(clock.now()),
      'Will-Retry-Until': action === 'delayed' && lifetimeMs !== undefined && mailDate(entry.receivedAt + lifetimeMs),
    });
  });
  const message = fields({
    'Reporting-MTA': `dns; ${hostname}`,
    'Original-Envelope-Id': entry.envelopeId && clean(fromXtext(entry.envelopeId)),
    'Arrival-Date': mailDate(entry.receivedAt),
  });
  return [message, ...recipients].join('\n');
}

/** Gives the header of what was sent; a line is cut where it is longer than a line may be. */
function headerOf(original: Buffer): Buffer {
  const end = original[0] === 0x0a ? 0 : original.indexOf('\n\n') + 1 || original.length;
  const lines = original.toString('latin1', 0, end).replaceAll('\0', ' ').split('\n');
  return Buffer.from(lines.map(line => line.slice(0, maxLineBytes)).join('\n'), 'latin1');
}

/** Whether all of what was sent may stand in a notice. */
function isFit({ octets, isWhole }: NoticeOptions['original']): boolean {
  if (!isWhole || octets.includes(0)) return false;
  return octets
    .toString('latin1')
    .split('\n')
    .every(({ length }) => length <= maxLineBytes);
}

const fromXtext = (text: string): string =>
  text.replaceAll(/\+([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));

/** Makes text from outside part of a line: no control characters, a bounded length, non-ASCII only where it may be. */
function cleaner(isUtf8: boolean): (text: string) => string {
  return text => {
    const cut = text.slice(0, maxTextLength);
    const line = cut.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
    return isUtf8 ? line.toWellFormed() : line.replaceAll(/[^ -~]/g, '?');
  };
}

/**
 * Breaks a text into lines of about that many characters; a word without end is cut where a line of UTF-8 still fits.
 */
function wrap(text: string, indent = '', width = 76): string[] {
  const lines: string[] = [];
  for (const word of text.match(/\S{1,240}/gu) ?? []) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(indent + word);
  }
  return lines;
}
