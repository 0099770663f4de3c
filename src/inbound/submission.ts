// What a submission server does to the header of a message that its author hands in (RFC 6409 §8): a missing Date and a
// missing Message-ID are added, Bcc is taken out, and everything else stays as it is, octet for octet.
// Promises:
// - No Bcc reaches a recipient. A header that is too long to be looked through is refused for that reason.
// - A header behind something else (the `From ` line of an mbox, empty lines, a byte order mark, a line of garbage) is
//   still a header, and leaves as one that every reader understands. A text without any header stays a text.
// - Time is linear in the length of the header, however small the pieces in which it comes. Memory is bounded for one
//   header and for all together.
// RFC 5322 §3.6, RFC 6409 §8.1 to 8.3.

/** The header is held until its end has come. */
export const maxHeaderOctets = 256 * 1024;
/** All headers that are held, together. */
export const maxTotalBytes = 32 * 1024 * 1024;
let totalBytes = 0;

/** Why a message cannot be taken: for good, or for now. */
type HeaderRefusal = 'too long' | 'no room';

const LF = 10;
const nothing = Buffer.alloc(0);
const field = /^[!-9;-~]+[ \t]*:/;
const blindCopy = /^(?:resent-)?bcc[ \t]*:/i;
/** Where the first line is no field, one of these names tells a header from a text that has none. */
const knownField =
  /^(?:from|to|cc|bcc|reply-to|sender|subject|date|message-id|mime-version|content-[a-z-]+|received|resent-[a-z-]+)[ \t]*:/im;
/** Such lines alone, with an empty line behind them, are no header yet: an mbox separator, blanks. */
const onlyPreface = /^(?:>?From (?![ \t]*:).*\n|[ \t]*\n)*$/;
const byteOrderMark = Buffer.from('\ufeff');

export class SubmittedHeader {
  readonly #missing: Readonly<Record<'date' | 'message-id', string>>;
  /**
   * The octets that came and wait for the end of the header: the first `#length` of this buffer, which doubles when it
   * is full.
   */
  #held = nothing;
  #length = 0;
  /**
   * Where the block of lines begins that may be the header: behind lines that are only preface, and their empty lines.
   */
  #start = 0;
  #isPassed = false;

  /** `date` and `messageId` are for a message that lacks them. */
  constructor(date: string, messageId: string) {
    this.#missing = { date: `Date: ${date}\n`, 'message-id': `Message-ID: ${messageId}\n` };
  }

  /**
   * Takes content (LF line ends) and gives what is ready of it. `isEnd`: nothing more will come. A refusal is the last
   * word.
   */
  pass(data: Buffer, isEnd = false): Buffer | HeaderRefusal {
    if (this.#isPassed) return data;
    const searched = this.#length;
    const held = searched === 0 ? data : this.#hold(data);
    if (held === undefined) return 'no room';
    const end = this.#endOf(held, searched) ?? (isEnd ? held.length : undefined);
    if (end === undefined && held.length <= maxHeaderOctets) {
      return searched === 0 && this.#hold(data) === undefined ? 'no room' : nothing;
    }
    const header = held.toString('latin1', 0, end);
    const begin = firstField(header, this.#start);
    if (end === undefined && begin !== undefined) return 'too long';
    this.#isPassed = true;
    this.release();
    const text = begin === undefined ? this.#introduce(header) : this.#complete(header, begin);
    if (text === header) return held; // most programs write whole headers
    return Buffer.concat([Buffer.from(text, 'latin1'), held.subarray(header.length)]);
  }

  /** Forgets what is held. Call it when the message ends in another way, too. */
  release(): void {
    totalBytes -= this.#held.length;
    this.#held = nothing;
    this.#length = 0;
  }

  /**
   * Adds to what is held, and gives all of it. undefined: other headers have taken all the memory that there is for
   * them.
   */
  #hold(data: Buffer): Buffer | undefined {
    const length = this.#length + data.length;
    if (length > this.#held.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(length, 2 * this.#held.length));
      if (totalBytes + larger.length - this.#held.length > maxTotalBytes) return undefined;
      totalBytes += larger.length - this.#held.length;
      this.#held.copy(larger, 0, 0, this.#length);
      this.#held = larger;
    }
    data.copy(this.#held, this.#length);
    this.#length = length;
    return this.#held.subarray(0, length);
  }

  /**
   * Where the header ends: behind its last line. undefined: that has not come. So many octets were `searched` before.
   */
  #endOf(held: Buffer, searched: number): number | undefined {
    if (this.#start === 0 && held.lastIndexOf(byteOrderMark, 0) === 0) this.#start = byteOrderMark.length;
    while (this.#start < held.length) {
      if (held[this.#start] === LF) {
        this.#start += 1;
        continue;
      }
      const found = held.indexOf('\n\n', Math.max(this.#start, searched - 1));
      if (found < 0) return undefined;
      if (!onlyPreface.test(held.toString('latin1', this.#start, found + 1))) return found + 1;
      this.#start = found + 2;
    }
    return undefined;
  }

  /** A header, whose first field begins there. */
  #complete(header: string, begin: number): string {
    const fields = header.slice(begin).split(/(?<=\n)(?![ \t])/);
    // For many readers the body begins at a line that is no field.
    const body = fields.findIndex(each => !field.test(each));
    const named = body < 0 ? fields : fields.slice(0, body);
    const names = new Set(named.map(each => each.split(':', 1).join().trim().toLowerCase()));
    const added = Object.entries(this.#missing).map(([name, line]) => (names.has(name) ? '' : line));
    // Lines that the author's program put in front of the header become fields, so that nothing is lost.
    const preface = header.slice(0, begin).replace(/^\xef\xbb\xbf/, '');
    const labelled = preface.split('\n').map(line => (/[^ \t]/.test(line) ? `X-Line-Before-Header: ${line}\n` : ''));
    // Bcc is removed also behind a line that is no field, because other readers skip such a line.
    return [...added, ...labelled, ...fields.filter(each => !blindCopy.test(each))].join('');
  }

  /** A message without a header gets one, and an empty line where it does not begin with one. */
  #introduce(text: string): string {
    const separator = text === '' || text.startsWith('\n') ? '' : '\n';
    return Object.values(this.#missing).join('') + separator + text;
  }
}

/** Where the first field is, in the block of lines from `start` on. undefined: this is a text, and no header. */
function firstField(header: string, start: number): number | undefined {
  if (field.test(header)) return 0;
  const block = header.slice(start);
  return knownField.test(block) ? start + block.search(new RegExp(field, 'm')) : undefined;
}
