// The canonicalisation 'relaxed' of header fields and bodies: the form in which a signature sees a message, so that
// servers on its way may fold lines and drop blanks without breaking it.
// Promises: pure; linear time; memory for one piece, whatever the body; the digest is that of the octets that go out,
// where a line ends in CRLF, whether it is stored with LF or came with a bare CR (src/outbound/content.ts sends that as
// a line end).
// RFC 6376 §3.4.2 and §3.4.4.
import { type Hash, createHash } from 'node:crypto';

/** A field without its line end. */
export function relaxedField(text: string): string {
  const colon = text.indexOf(':');
  const name = text.slice(0, colon).replaceAll(/[ \t]+/g, '');
  const value = text.slice(colon + 1).replaceAll(/[ \t\n]+/g, ' ');
  // Not trim(), which would also take octets such as 0xA0.
  const start = value.startsWith(' ') ? 1 : 0;
  const end = value.length > start && value.endsWith(' ') ? value.length - 1 : value.length;
  return `${name.toLowerCase()}:${value.slice(start, end)}`;
}

const TAB = 9;
const LF = 10;
const CR = 13;
const SPACE = 32;
/**
 * So many octets are canonicalised at once, into a buffer that all share: one of its own for each message cost 60 µs of
 * collection.
 */
const stepBytes = 32 * 1024;
/** Each octet becomes two at most: a line end. */
const out = Buffer.allocUnsafeSlow(stepBytes * 2 + 1);
const lineEnds = Buffer.from('\r\n'.repeat(4096));

/** SHA-256 of a body that comes piece by piece. */
export class RelaxedBody {
  readonly #hash: Hash = createHash('sha256');
  /** Line ends that came since the last octet of text. Those at the end of the body do not count. */
  #ends = 0;
  /** A blank came, which counts if text follows in its line. */
  #isBlank = false;
  #isAfterCr = false;
  #hasText = false;

  update(octets: Buffer): void {
    for (let at = 0; at < octets.length; at += stepBytes) this.#step(octets.subarray(at, at + stepBytes));
  }

  #step(octets: Buffer): void {
    let length = 0;
    let isCarried = true; // the line ends that wait came in earlier pieces
    let ends = this.#ends;
    let isBlank = this.#isBlank;
    let isAfterCr = this.#isAfterCr;
    for (let at = 0; at < octets.length; at += 1) {
      const octet = octets[at] as number;
      if (octet === LF || octet === CR) {
        if (octet !== LF || !isAfterCr) ends += 1;
        isAfterCr = octet === CR;
        isBlank = false;
        continue;
      }
      isAfterCr = false;
      if (octet === SPACE || octet === TAB) {
        isBlank = true;
        continue;
      }
      if (ends > 0) {
        const inEarlier = isCarried ? this.#ends : 0;
        this.#emptyLines(inEarlier);
        for (let left = ends - inEarlier; left > 0; left -= 1) {
          out[length++] = CR;
          out[length++] = LF;
        }
        ends = 0;
      }
      isCarried = false;
      if (isBlank) out[length++] = SPACE;
      isBlank = false;
      out[length++] = octet;
    }
    this.#hash.update(out.subarray(0, length));
    this.#hasText ||= length > 0;
    this.#ends = ends;
    this.#isBlank = isBlank;
    this.#isAfterCr = isAfterCr;
  }

  /** After the last piece, as base64. A body without text is empty, and one with text ends in one line end. */
  digest(): string {
    if (this.#hasText) this.#emptyLines(1);
    return this.#hash.digest('base64');
  }

  #emptyLines(count: number): void {
    for (let left = count * 2; left > 0; left -= lineEnds.length) this.#hash.update(lineEnds.subarray(0, left));
  }
}
