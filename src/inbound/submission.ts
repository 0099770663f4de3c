// What a submission server does to the header of a message that its author hands in (RFC 6409 §8): a missing Date and
// Message-ID are added, Bcc is taken out, and nothing else is touched, octet for octet.
// Promises: bounded memory; a header too long to be looked through whole is refused, so that no Bcc slips through.
// RFC 5322 §3.6, RFC 6409 §8.1 to 8.3.

/** The header is held until its end has come. */
export const maxHeaderOctets = 256 * 1024;
const field = /^[!-9;-~]+[ \t]*:/;

export class SubmittedHeader {
  readonly #missing: Readonly<Record<'date' | 'message-id', string>>;
  #held: string | undefined = '';

  /** The two values for a message that lacks them. */
  constructor(date: string, messageId: string) {
    this.#missing = { date: `Date: ${date}\n`, 'message-id': `Message-ID: ${messageId}\n` };
  }

  /** Takes content (LF line ends) and gives what is ready of it. `isEnd`: nothing more will come. undefined: the header is too long. */
  pass(data: Buffer, isEnd = false): Buffer | undefined {
    if (this.#held === undefined) return data;
    const from = Math.max(0, this.#held.length - 1);
    this.#held += data.toString('latin1');
    const found = this.#held.startsWith('\n') ? 0 : this.#held.indexOf('\n\n', from) + 1 || -1;
    if (found < 0 && !isEnd) return this.#held.length > maxHeaderOctets ? undefined : Buffer.alloc(0);
    const end = found < 0 ? this.#held.length : found;
    const text = this.#complete(this.#held.slice(0, end)) + this.#held.slice(end);
    this.#held = undefined;
    return Buffer.from(text, 'latin1');
  }

  #complete(header: string): string {
    const fields = header.split(/(?<=\n)(?![ \t])/).filter(Boolean);
    const body = fields.findIndex(each => !field.test(each)); // a line that is no field: the body has begun
    const named = body < 0 ? fields : fields.slice(0, body);
    const names = new Set(named.map(each => each.split(':', 1).join().trim().toLowerCase()));
    const added = Object.entries(this.#missing).map(([name, line]) => (names.has(name) ? '' : line));
    // Also behind what is no field: readers that skip it would take it for a field.
    const kept = body === 0 ? fields : fields.filter(each => !/^(?:resent-)?bcc[ \t]*:/i.test(each));
    return [...added, body === 0 ? '\n' : '', ...kept].join('');
  }
}
