// What is noticed of a header while it passes, in pieces of any size: how many Received lines it has (RFC 5321 §6.3),
// and its Message-ID (RFC 5322 §3.6.4).
// Promises: linear time; of a line no more is kept than its start, and of Message-ID the first 1,024 octets. Beyond the
// first 64 KiB of a message nothing is noticed: 100 Received lines of 650 octets fit.

const maxHeadOctets = 64 * 1024;
const received = 'received:';
const maxMessageIdOctets = 1024;
const LF = 10;

export class HeaderLines {
  receivedCount = 0;
  /** The first field Message-ID, with its name. */
  #idField = '';
  /** The start of the line that has begun. */
  #line = '';
  /** So much of that line is wanted; undefined: its first octet has not come. */
  #wanted: number | undefined;
  #isInId = false;
  #leftOctets = maxHeadOctets;

  /** The Message-ID with its brackets, on one line. */
  get messageId(): string | undefined {
    return /<[!-~]+>/.exec(this.#idField)?.[0];
  }

  pass(data: Buffer): void {
    for (let at = 0; this.#leftOctets > 0 && at < data.length;) {
      const lf = data.indexOf(LF, at);
      const end = lf < 0 ? data.length : lf;
      if (this.#wanted === undefined && lf === at) this.#leftOctets = 0; // an empty line ends the header
      this.#wanted ??= this.#wantedOf(data[at]);
      const missing = this.#wanted - this.#line.length;
      if (missing > 0) this.#line += data.toString('latin1', at, Math.min(end, at + missing));
      this.#leftOctets -= end + 1 - at;
      at = end + 1;
      if (lf >= 0) this.#end();
    }
  }

  /** Most lines are known by their first octet to be of no interest. */
  #wantedOf(first: number | undefined): number {
    const isFolded = first === 0x20 || first === 0x09;
    if (isFolded) return this.#isInId ? maxMessageIdOctets : 0;
    this.#isInId = false;
    if (first === 0x72 || first === 0x52) return received.length; // r, R
    const mayBeId = this.#idField === '' && (first === 0x6d || first === 0x4d); // m, M
    return mayBeId ? maxMessageIdOctets : 0;
  }

  #end(): void {
    const line = this.#line;
    this.#line = '';
    const wanted = this.#wanted;
    this.#wanted = undefined;
    if (wanted === received.length && line.toLowerCase() === received) this.receivedCount += 1;
    if (wanted !== maxMessageIdOctets) return;
    this.#isInId ||= /^message-id[ \t]*:/i.test(line);
    if (this.#isInId) this.#idField = (this.#idField + line).slice(0, maxMessageIdOctets);
  }
}
