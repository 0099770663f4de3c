// The content of a message on its way out, as DATA wants it: lines end in CRLF, a dot that begins a line is doubled,
// and a line of one dot ends it all.
// Promises:
// - Whatever is stored, exactly one CRLF.CRLF goes out, and it is the last thing.
// - No bare CR goes out. A stored one is taken for a line end.
// - Memory is bounded: a small message is read at once, a large one piece by piece.
// RFC 5321 §4.5.2 (dots) and §2.3.8 (lines).
import { createReadStream } from 'node:fs';
import { type Message, readMessage } from '../mail/message.ts';
import { free } from '../mail/octets.ts';

/** A message of at most so many octets is read at once, a larger one in pieces of that size. */
const pieceBytes = 256 * 1024;
const LF = 10;
const CR = 13;
const DOT = 46;

/** A stored message without what is for Maildirs alone. */
export type Stored = Message & { readonly returnPathBytes: number };
/**
 * `sizeBytes` is for the parameter SIZE. Of a large message it leaves out the CRs, which are counted only when it is
 * read.
 */
export type Content = { readonly sizeBytes: number; readonly pieces: Iterable<Buffer> | AsyncIterable<Buffer> };

/** Opens a message for sending. `front` has fields that go out in front of it, each with its line end, LF. */
export function openContent(message: Stored, front = ''): Content {
  const octets = message.sizeBytes - message.returnPathBytes;
  if (message.kind === 'file' && octets > pieceBytes)
    return { sizeBytes: octets + front.length, pieces: pieces(message.path, message.returnPathBytes, front) };
  const encoder = new Encoder();
  const text = read(message, octets);
  // It goes out in one piece, because a second write to the socket costs more than the copy.
  const piece = encoder.encode(front === '' ? text : Buffer.concat([Buffer.from(front), text]), true);
  return { sizeBytes: encoder.sizeBytes, pieces: [piece] };
}

async function* pieces(path: string, start: number, front: string): AsyncGenerator<Buffer> {
  const encoder = new Encoder();
  if (front !== '') yield encoder.encode(Buffer.from(front));
  const file: AsyncIterable<Buffer> = createReadStream(path, { start, highWaterMark: pieceBytes });
  for await (const octets of file) {
    const piece = encoder.encode(octets);
    free(octets);
    yield piece;
  }
  yield encoder.encode(Buffer.alloc(0), true);
}

/** Reads the first octets of what goes out. */
export const read = (message: Stored, octets: number): Buffer => readMessage(message, message.returnPathBytes, octets);

export class Encoder {
  #isLineStart = true;
  /** The last octet was a CR, which has become a line end: an LF that follows belongs to it. */
  #isAfterCr = false;
  /** Octets of the message as RFC 1870 counts them: without doubled dots and the final one. */
  sizeBytes = 0;

  /**
   * Gives the next octets as they go out; `isEnd`: they are the last. Going from LF to LF makes 490 MB/s, replacing in
   * strings 150.
   */
  encode(octets: Buffer, isEnd = false): Buffer {
    const text = this.#isAfterCr || octets.includes(CR) ? this.#withoutCr(octets) : octets;
    const out = Buffer.allocUnsafe(text.length * 2 + 5);
    let length = 0;
    let dots = 0;
    for (let at = 0; at < text.length;) {
      if (this.#isLineStart && text[at] === DOT) dots += out.write('.', length++);
      const lf = text.indexOf(LF, at);
      const end = lf < 0 ? text.length : lf;
      length += text.copy(out, length, at, end);
      at = end + 1;
      this.#isLineStart = lf >= 0;
      if (lf >= 0) length = out.writeUInt16BE(0x0d0a, length);
    }
    if (isEnd && !this.#isLineStart) length += out.write('\r\n', length);
    this.sizeBytes += length - dots;
    if (isEnd) length += out.write('.\r\n', length);
    return out.subarray(0, length);
  }

  #withoutCr(octets: Buffer): Buffer {
    const text = octets.toString('latin1', this.#isAfterCr && octets[0] === LF ? 1 : 0);
    this.#isAfterCr = octets.at(-1) === CR;
    return Buffer.from(text.replaceAll(/\r\n?/g, '\n'), 'latin1');
  }
}
