// A notice to a sender: multipart/report with words for people, fields for programs and what was sent.
// Promises: undefined where none is due (null reverse-path, NOTIFY); lines of at most 998 octets; nothing that came from
// outside (the remote's words, ORCPT, ENVID) begins a line or a field; non-ASCII only where the envelope had SMTPUTF8.
// RFC 3461 §6, RFC 3462 (multipart/report), RFC 3464 (delivery status), RFC 6533 (UTF-8), RFC 3834 (Auto-Submitted).
import { isAscii } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { buffer } from 'node:stream/consumers';
import { type Message, type Outcome, type QueueEntry, readMessage } from '../mail/message.ts';
import type { Notify } from '../smtp/envelope.ts';
import type { Clock, Random } from '../system/world.ts';

const maxReturnedBytes = 64 * 1024;
const maxLineBytes = 998;
/** How much of what a remote said is passed on. */
const maxWordsLength = 2000;

export type NoticeOptions = Readonly<{
  entry: QueueEntry;
  message: Message;
  outcomes: readonly Outcome[];
  hostname: string;
  /** How long mail may wait, where the notice is to say so. */
  lifetimeMs?: number | undefined;
  clock: Clock;
  random: Random;
}>;
/** Line ends are LF. */
export type Notice = { readonly content: Buffer; readonly isUtf8: boolean; readonly is8Bit: boolean };

/** In the order in which they are told: what NOTIFY must have, the subject, and words before the recipients. */
const kinds: Readonly<Record<Outcome['action'], readonly [notify: Notify, subject: string, words: string]>> = {
  failed: ['FAILURE', 'could not be delivered', 'could not be delivered to:'],
  delayed: ['DELAY', 'is delayed', 'is late; it is still tried: you need not send it again. It has not yet reached:'],
  relayed: ['SUCCESS', 'was passed on', 'was handed to a server that will not tell whether it was delivered to:'],
  expanded: ['SUCCESS', 'was delivered', 'was delivered to the members of:'],
  delivered: ['SUCCESS', 'was delivered', 'was delivered to:'],
};
/** What the sender can do, by enhanced status code; the first that fits. */
const advice: readonly (readonly [status: RegExp, words: string])[] = [
  [/^5\.1\.(9|10)$/, 'This domain takes no mail at all. Ask the recipient for another address.'],
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

export async function buildNotice(options: NoticeOptions): Promise<Notice | undefined> {
  const { entry, message, hostname, clock, random } = options;
  const order = Object.keys(kinds);
  const outcomes = options.outcomes
    .filter(({ action, recipient }) => (recipient.notify ?? ['FAILURE', 'DELAY']).includes(kinds[action][0]))
    .toSorted((a, b) => order.indexOf(a.action) - order.indexOf(b.action));
  const [first] = outcomes;
  if (entry.from === '' || first === undefined) return undefined;

  // RFC 3461 §4.3: RET is about failures.
  const { header, content, isFull } = await returned(entry, message, entry.ret === 'FULL' && first.action === 'failed');
  const addresses = outcomes.flatMap(({ recipient }) => [recipient.address, recipient.originalRecipient ?? '']);
  const isUtf8 = entry.isUtf8 && !isAscii(Buffer.concat([header, Buffer.from(entry.from + addresses.join(''))]));
  const told = { ...options, outcomes, clean: cleaner(isUtf8) };
  const [charset, status, fullType, headerType] = isUtf8
    ? (['utf-8', 'global-delivery-status', 'message/global', 'message/global-headers'] as const)
    : (['us-ascii', 'delivery-status', 'message/rfc822', 'text/rfc822-headers'] as const);
  const parts: readonly (readonly [string, Buffer])[] = [
    [`text/plain; charset=${charset}`, Buffer.from(wordsFor(told))],
    [`message/${status}`, Buffer.from(fieldsFor(told))],
    isFull ? [fullType, content] : [headerType, header],
  ];
  const is8Bit = parts.some(([, octets]) => !isAscii(octets));
  const boundary = `=_${random.hex(16)}`;
  const top = [
    `From: Mail Delivery System <MAILER-DAEMON@${hostname}>`,
    `To: <${entry.from}>`,
    `Date: ${date(clock.now())}`,
    `Message-ID: <${random.hex(16)}@${hostname}>`,
    `Subject: Your mail ${kinds[first.action][1]}`,
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
  const whole = Buffer.concat([Buffer.from(top.join('\n')), ...body, Buffer.from(`\n--${boundary}--\n`)]);
  return { content: whole, isUtf8, is8Bit };
}

type Told = NoticeOptions & { readonly outcomes: readonly Outcome[]; readonly clean: (text: string) => string };

/** For people. */
function wordsFor({ entry, outcomes, hostname, lifetimeMs, clean }: Told): string {
  const lines = [`This is the mail server ${hostname}, about your mail of ${date(entry.receivedAt)}.`, ''];
  for (const [action, group] of Map.groupBy(outcomes, outcome => outcome.action)) {
    lines.push(...wrap(`Your mail ${kinds[action][2]}`));
    for (const { recipient, delivery } of group) {
      const who = delivery.remote === undefined ? 'The reason' : `${clean(delivery.remote)} said`;
      const said = `${who}: ${clean(delivery.text)}`;
      const [, help = ''] = advice.find(([pattern]) => pattern.test(delivery.status)) ?? [];
      lines.push('', `  ${clean(recipient.address)}`, ...wrap(said, '    '), ...wrap(help, '    '));
    }
    if (action === 'delayed' && lifetimeMs !== undefined)
      lines.push('', `It will be tried until ${date(entry.receivedAt + lifetimeMs)}.`);
    lines.push('');
  }
  return [...lines, 'Below are these facts for programs, and what you sent.', ''].join('\n');
}

/** For programs: RFC 3464 §2.2 and §2.3. */
function fieldsFor({ entry, outcomes, hostname, lifetimeMs, clock, clean }: Told): string {
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
      'Diagnostic-Code': `${isReply ? 'smtp' : 'X-SlimSMTP'}; ${clean(text)}`,
      'Last-Attempt-Date': date(clock.now()),
      'Will-Retry-Until': action === 'delayed' && lifetimeMs !== undefined && date(entry.receivedAt + lifetimeMs),
    });
  });
  const message = fields({
    'Reporting-MTA': `dns; ${hostname}`,
    'Original-Envelope-Id': entry.envelopeId && clean(fromXtext(entry.envelopeId)),
    'Arrival-Date': date(entry.receivedAt),
  });
  return [message, ...recipients].join('\n');
}

/** The message as it was sent, or its header where it is too large or does not fit into a part. */
async function returned({ skipBytes }: QueueEntry, message: Message, isWanted: boolean) {
  const octets = skipBytes + maxReturnedBytes;
  const head =
    message.kind === 'memory'
      ? readMessage(message, 0, octets)
      : // A notice without it is better than none.
        await buffer(createReadStream(message.path, { end: octets - 1 })).catch(() => Buffer.alloc(0));
  const content = head.subarray(skipBytes);
  const text = content.toString('latin1');
  const isFit = message.sizeBytes <= head.length && !new RegExp(`\\0|.{${maxLineBytes + 1}}`).test(text);
  const [lines = ''] = text.startsWith('\n') ? [] : text.split(/(?<=\n)\n/, 1);
  const cut = lines.replaceAll('\0', ' ').replaceAll(new RegExp(`(.{${maxLineBytes}}).+`, 'g'), '$1');
  return { header: Buffer.from(cut, 'latin1'), content, isFull: isWanted && isFit };
}

const date = (time: number): string => new Date(time).toUTCString().replace('GMT', '+0000');
const fromXtext = (text: string): string =>
  text.replaceAll(/\+([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));

/** Makes text from outside part of a line: no control characters, a bounded length, non-ASCII only where it may be. */
function cleaner(isUtf8: boolean) {
  return (text: string): string => {
    const cut = text.slice(0, maxWordsLength);
    const line = cut.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
    return isUtf8 ? line.toWellFormed() : line.replaceAll(/[^ -~]/g, '?');
  };
}

/** Lines of about that many characters; a word without end is cut where a line of UTF-8 still fits. */
function wrap(text: string, indent = '', width = 76): string[] {
  const lines: string[] = [];
  for (const word of text.match(/\S{1,240}/gu) ?? []) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(indent + word);
  }
  return lines;
}
