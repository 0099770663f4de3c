// What another server says: octets become replies, in bounded memory, and replies become results for recipients.
// Promises: never throws, whatever comes; what is no reply, or is out of place, is a deferral; the work grows with the
// octets, however small the pieces in which they come. RFC 5321 §4.2, RFC 2034 (enhanced status codes).
import type { Delivery } from '../mail/message.ts';

/**
 * Code 0: there was none, `lines` says why, and there will be no other. 1: what was wanted is done, and no reply is
 * due.
 */
export type ServerReply = { readonly code: number; readonly lines: readonly string[]; readonly status?: string };

/** What a server told us in reply to EHLO: extensions in upper case, with their parameters. */
export type Offers = Map<string, string>;

const LF = 10;
const maxLineOctets = 4096;
const maxLines = 100;
const maxReplyLength = 64 * 1024;
/** So much text of a reply is kept: more is of no use to anybody. */
const maxTextLength = 1000;

export const deferred = (status: string, text: string): Delivery => ({ kind: 'deferred', status, text });
export const failed = (status: string, text: string): Delivery => ({ kind: 'failed', status, text });
export const none = (status: string, ...lines: string[]): ServerReply => ({ code: 0, status, lines });
/** Whether the server says nothing more after this. */
export const isLast = ({ code }: ServerReply): boolean => code === 0 || code === 421;

const kinds: Readonly<Record<string, Delivery['kind']>> = { 2: 'delivered', 4: 'deferred', 5: 'failed' };

/**
 * What a reply means for a recipient. One that is out of place, such as 354 to MAIL, is a deferral. 421 and 432 say
 * that we have too many sessions with this server, or that it is about to stop: with fewer, or in a moment, it may go
 * on.
 */
export function toDelivery({ code, lines, status }: ServerReply, mayAccept = true): Delivery {
  const said = lines.join(' ').slice(0, maxTextLength);
  if (code === 0) return deferred(status ?? '4.4.2', said);
  const text = `${code} ${said}`.trim();
  const [first = ''] = text;
  const kind = kinds[first];
  if (kind === undefined || (kind === 'delivered' && !mayAccept)) return deferred('4.5.0', `out of place: ${text}`);
  const [own] = /^[245]\.\d{1,3}\.\d{1,3}(?= |$)/.exec(said) ?? [];
  const enhanced = own?.startsWith(first) ? own : `${first}.0.0`;
  const isBusy = code === 421 || code === 432;
  return { kind, status: enhanced, text, ...(isBusy && { isBusy }) };
}

/** Replies out of octets that come in pieces of any size. */
export class ReplyReader {
  /**
   * Holds what came and was not read yet, from `#start` to `#end`. A copy: a piece would keep the 64 KiB that it was
   * received in.
   */
  #buffer = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  /** There is no line end before this position. */
  #searched = 0;
  #lines: string[] = [];
  #length = 0;

  receive(octets: Buffer): void {
    const waiting = this.#end - this.#start;
    if (this.#end + octets.length > this.#buffer.length) {
      const needed = waiting + octets.length;
      // Twice what is needed, so that what is copied is no more than what came.
      const room = needed * 2 > this.#buffer.length ? Buffer.allocUnsafeSlow(needed * 2) : this.#buffer;
      this.#buffer.copy(room, 0, this.#start, this.#end);
      this.#buffer = room;
      this.#searched -= this.#start;
      this.#start = 0;
      this.#end = waiting;
    }
    octets.copy(this.#buffer, this.#end);
    this.#end += octets.length;
  }

  /** Whether nothing has come that was not read as a reply. */
  get isEmpty(): boolean {
    return this.#start === this.#end && this.#lines.length === 0;
  }

  /** The next reply, or undefined while it is not whole. Code 0: what came is none, and the session is to end. */
  next(): ServerReply | undefined {
    for (;;) {
      let end = this.#searched;
      while (end < this.#end && this.#buffer[end] !== LF) end += 1;
      if (end - this.#start > maxLineOctets) return nonsense('a line is too long');
      this.#searched = end;
      if (end === this.#end) return undefined;
      const textEnd = this.#buffer[end - 1] === 0x0d && end > this.#start ? end - 1 : end;
      const line = toPrintable(this.#buffer.toString('utf8', this.#start, textEnd));
      const [first = line] = this.#lines;
      const code = line.slice(0, 3);
      if (!/^[2-5][0-5]\d(?:[ -]|$)/.test(line)) return nonsense(line.slice(0, 100));
      if (!first.startsWith(code)) return nonsense(`${code} within ${first.slice(0, 3)}`);
      this.#start = this.#searched = end + 1;
      this.#lines.push(line);
      this.#length += line.length;
      if (this.#lines.length > maxLines || this.#length > maxReplyLength) return nonsense('it has no end');
      if (line[3] === '-') continue;
      this.#length = 0;
      return { code: Number(code), lines: this.#lines.splice(0).map(each => each.slice(4)) };
    }
  }
}

const nonsense = (what: string): ServerReply => none('4.5.0', `not a reply: ${what}`);

/**
 * Text without tabs and without anything that could forge a line of a log. Nearly every reply is printable ASCII
 * already.
 */
function toPrintable(text: string): string {
  if (/^[ -~]*$/.test(text)) return text;
  return text.replaceAll('\t', ' ').replaceAll(/[\p{Cc}\p{Zl}\p{Zp}\ufffd]/gu, '?');
}
