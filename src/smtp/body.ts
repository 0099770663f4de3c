// The message content on its way in: finds the end, undoes dot-stuffing, turns CRLF into LF, counts.
// Promise: only CRLF.CRLF ends DATA; a bare CR or LF never ends or starts a line, it marks the message as malformed and
// reading goes on to the true end. Linear time on any input; works within the octets it was given, without a copy.
// RFC 5321 §4.1.1.4 and §4.5.2, RFC 3030 (BDAT), RFC 1870 §5 (what SIZE counts).

export const [LF, CR, DOT] = [10, 13, 46] as const;
export const nothing: Buffer = Buffer.alloc(0);
type Part = { readonly view: DataView; at: number; to: number }; // what was read, next octet to look at, end of content

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
    if (this.defect === 'malformed') {
      // Only the end matters: looking at each line would let floods of LF hold up everyone.
      const end = this.#isDotted ? b.indexOf('\r\n.\r\n') : -1;
      this.#held = Buffer.from(b.subarray(-4)); // perhaps its beginning
      return { content: nothing, rest: end < 0 ? undefined : b.subarray(end + 5) };
    }
    this.#held = nothing;
    const part = { view: new DataView(b.buffer, b.byteOffset, b.length), at: 0, to: 0 };
    while (part.at < b.length) {
      if (this.#isDotted && this.#isLineStart && b[part.at] === DOT) {
        if ((b[part.at + 1] ?? CR) === CR && (b[part.at + 2] ?? LF) === LF) break; // the end, or what may become it
        part.at += 1;
        this.#sizeBytes -= 1;
      }
      this.#isLineStart = moveLines(part);
      if (this.#isLineStart || part.at === b.length) continue;
      if (b[part.at] === CR && part.at + 1 === b.length) break;
      this.defect = 'malformed';
      return this.receive(b.subarray(part.at));
    }
    this.#sizeBytes += part.at;
    if (this.#sizeBytes > this.#maxSizeBytes) this.defect ??= 'too big';
    const left = b.subarray(part.at);
    const content = this.defect === undefined ? b.subarray(0, part.to) : nothing;
    if (left.length > 2) return { content, rest: left.subarray(3) }; // the whole mark
    this.#held = Buffer.from(left);
    return { content, rest: undefined };
  }

  /** No more will come (BDAT): gives the line end that is missing, once, if it is. It is ours: not counted. */
  finish(): Buffer {
    if (this.#held.length > 0) this.defect = 'malformed';
    if (this.#isLineStart) return nothing;
    this.#isLineStart = true;
    return this.defect === undefined ? Buffer.from('\n') : nothing;
  }
}

const low = (four: number): number => (four - 0x0e0e0e0e) & ~four & 0x80808080; // 0: none of four octets is below 14
/** Moves lines from `at` to `to`, LF for CRLF, until one starts with a dot (then true) or a CR or LF is not of CRLF. */
// The loop over all octets stands alone: with what is rare in it, V8 would compile it anew for each of that.
function moveLines(part: Part): boolean {
  const { view } = part;
  const end = view.byteLength;
  let [at, to, isLineStart] = [part.at, part.to, false];
  while (at < end && !(isLineStart && view.getUint8(at) === DOT)) {
    // Sixteen octets at once, or four, while none is a control character: faster than to search for each end.
    for (; at + 16 <= end; at += 16, to += 16) {
      const p = view.getInt32(at, true);
      const q = view.getInt32(at + 4, true);
      const r = view.getInt32(at + 8, true);
      const s = view.getInt32(at + 12, true);
      if (low(p) | low(q) | low(r) | low(s)) break;
      view.setInt32(to, p, true);
      view.setInt32(to + 4, q, true);
      view.setInt32(to + 8, r, true);
      view.setInt32(to + 12, s, true);
    }
    for (let four; at + 4 <= end && !low((four = view.getInt32(at, true))); at += 4, to += 4)
      view.setInt32(to, four, true);
    for (; at < end && view.getUint8(at) !== CR && view.getUint8(at) !== LF; at += 1, to += 1)
      view.setUint8(to, view.getUint8(at));
    isLineStart = at + 2 <= end && view.getUint8(at) === CR && view.getUint8(at + 1) === LF;
    if (!isLineStart) break;
    view.setUint8(to++, LF);
    at += 2;
  }
  [part.at, part.to] = [at, to];
  return isLineStart;
}
