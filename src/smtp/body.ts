// The message content on its way in: finds the end, undoes dot-stuffing, turns CRLF into LF, counts.
// Promise: only CRLF.CRLF ends DATA; a bare CR or LF never ends or starts a line, it marks the message as malformed and
// reading goes on to the true end. Linear time on any input; works within the octets it was given, without a copy.
// RFC 5321 §4.1.1.4 and §4.5.2, RFC 3030 (BDAT), RFC 1870 §5 (what SIZE counts).

export const [LF, CR, DOT] = [10, 13, 46] as const;
export const nothing: Buffer = Buffer.alloc(0);

export class Body {
  readonly #isDotted: boolean;
  readonly #maxSizeBytes: number;
  #isLineStart = true;
  #held = nothing; // the last octets, when they cannot be judged yet: CR, or dot or dot CR at the start of a line
  #sizeBytes = 0;
  defect: 'malformed' | 'too big' | undefined; // why it will be refused, as far as is known; then no content comes

  /** `isDotted`: DATA, with stuffed dots and an end mark; else BDAT, whose end is known by count. */
  constructor(isDotted: boolean, maxSizeBytes: number) {
    this.#isDotted = isDotted;
    this.#maxSizeBytes = maxSizeBytes;
  }

  /** Takes octets, and owns them. `content` has LF line ends; `rest` is what follows the end, undefined before it. */
  receive(octets: Buffer): { content: Buffer; rest: Buffer | undefined } {
    const b = this.#held.length > 0 ? Buffer.concat([this.#held, octets]) : octets;
    this.#held = nothing;
    if (this.defect === 'malformed') return { content: nothing, rest: this.#isDotted ? this.#afterEnd(b) : undefined };
    const view = new DataView(b.buffer, b.byteOffset, b.length);
    let out = 0; // content is b[0..out)
    for (let i = 0; i < b.length; i += 1) {
      if (this.#isDotted && this.#isLineStart && b[i] === DOT) {
        if (b[i + 1] === CR && b[i + 2] === LF) return { content: this.#content(b, out), rest: b.subarray(i + 3) };
        if (i + 1 === b.length || (b[i + 1] === CR && i + 2 === b.length)) {
          this.#held = Buffer.from(b.subarray(i));
          break;
        }
        i += 1;
      }
      // Four octets at once, while none is a control character (below 14): faster than a search for the end of each line.
      for (; i + 4 <= b.length; i += 4, out += 4) {
        const four = view.getInt32(i);
        if ((four - 0x0e0e0e0e) & ~four & 0x80808080) break;
        view.setInt32(out, four);
      }
      for (; i < b.length && b[i] !== CR && b[i] !== LF; i += 1) b[out++] = view.getUint8(i);
      this.#isLineStart = b[i] === CR && b[i + 1] === LF;
      if (this.#isLineStart) {
        this.#sizeBytes += 1; // the CR
        b[out++] = LF;
        i += 1;
      } else if (b[i] === CR && i + 1 === b.length) this.#held = Buffer.from('\r');
      else if (i < b.length) this.defect = 'malformed';
    }
    return { content: this.#content(b, out), rest: undefined };
  }

  /** Of a message that is refused already only the end matters: looking at each line would let floods of LF hold up everyone. */
  #afterEnd(octets: Buffer): Buffer | undefined {
    const b = this.#isLineStart ? Buffer.concat([Buffer.from('\r\n'), octets]) : octets;
    const at = b.indexOf('\r\n.\r\n');
    this.#isLineStart = false;
    this.#held = Buffer.from(b.subarray(-4)); // perhaps its beginning
    return at < 0 ? undefined : b.subarray(at + 5);
  }

  /** No more will come (BDAT): gives the line end that is missing, once, if it is. It is ours: SIZE does not count it. */
  finish(): Buffer {
    if (this.#held.length > 0) this.defect = 'malformed';
    if (this.#isLineStart) return nothing;
    this.#isLineStart = true;
    return this.defect === undefined ? Buffer.from('\n') : nothing;
  }

  #content(b: Buffer, end: number): Buffer {
    this.#sizeBytes += end;
    if (this.#sizeBytes > this.#maxSizeBytes) this.defect ??= 'too big';
    return this.defect === undefined ? b.subarray(0, end) : nothing;
  }
}
