// The two encodings that make 7-bit lines of any octets, each as it streams by; and one that only breaks lines. Line
// ends are LF on both sides; the content is lines, as all mail is here (a bare CR or LF is refused when it comes in).
// Promises: linear time; memory for the octets that are given; lines of at most 76 characters; no blank ends a line.
// RFC 2045 §6.7 (quoted-printable) and §6.8 (base64).

/** Takes content piece by piece. `end` gives what is left. */
export type Encoder = { write(octets: Buffer): Buffer; end(): Buffer };

const TAB = 9;
const LF = 10;
const SPACE = 32;
const DASH = 45;
const EQUALS = 61;
const hex = Buffer.from('0123456789ABCDEF');
/** With the equals sign of a soft line break a line has 76 characters. */
const maxColumn = 75;

/** Quoted-printable, for text: a line stays a line, whatever a line end is at the other side. */
export class QuotedPrintable implements Encoder {
  #column = 0;
  /** A blank that was the last octet: it is encoded if a line end follows. */
  #blank: number | undefined;

  write(octets: Buffer): Buffer {
    // There is room for three octets for each, for a soft line break of two after each 25, and for the blank.
    const out = Buffer.allocUnsafe(octets.length * 4 + 8);
    let length = 0;
    const put = (octet: number, mayBePlain: boolean): void => {
      let isPlain = mayBePlain;
      if (this.#column + (isPlain ? 1 : 3) > maxColumn) {
        out[length++] = EQUALS;
        out[length++] = LF;
        this.#column = 0;
        isPlain &&= octet !== DASH; // what was within a line must not become a delimiter
      }
      this.#column += isPlain ? 1 : 3;
      if (isPlain) out[length++] = octet;
      else {
        out[length++] = EQUALS;
        out[length++] = hex[octet >> 4] as number;
        out[length++] = hex[octet & 15] as number;
      }
    };
    for (const octet of octets) {
      if (this.#blank !== undefined) put(this.#blank, octet !== LF);
      this.#blank = undefined;
      if (octet === LF) {
        out[length++] = LF;
        this.#column = 0;
      } else if (octet === SPACE || octet === TAB) this.#blank = octet;
      else put(octet, octet > SPACE && octet < 127 && octet !== EQUALS);
    }
    return out.subarray(0, length);
  }

  end(): Buffer {
    const isBlank = this.#blank !== undefined;
    return isBlank ? this.write(Buffer.from([LF])).subarray(0, -1) : Buffer.alloc(0);
  }
}

/** Base64, for what is no text. Line ends become CRLF, as they are in every mail on its way (RFC 2049 §4). */
export class Base64 implements Encoder {
  readonly #lines = new Base64Lines();
  /** Octets that make no whole group of three yet. */
  #rest = '';

  write(octets: Buffer): Buffer {
    const text = this.#rest + octets.toString('latin1').replaceAll('\n', '\r\n');
    const end = text.length - (text.length % 3);
    this.#rest = text.slice(end);
    return this.#lines.add(Buffer.from(text.slice(0, end), 'latin1').toString('base64'));
  }

  end(): Buffer {
    const last = this.#lines.add(Buffer.from(this.#rest, 'latin1').toString('base64'));
    return Buffer.concat([last, this.#lines.end()]);
  }
}

/** Content that is base64 already, in lines of another length. */
export class Base64Lines implements Encoder {
  #line = '';
  #isFirst = true;

  write(octets: Buffer): Buffer {
    return this.add(octets.toString('latin1').replaceAll(/\s+/g, ''));
  }

  /** The whole lines that there are now. */
  add(text: string): Buffer {
    const whole = this.#line + text;
    const end = whole.length - (whole.length % 76);
    this.#line = whole.slice(end);
    return this.#format(whole.slice(0, end));
  }

  end(): Buffer {
    return this.#format(this.#line);
  }

  #format(text: string): Buffer {
    const lines = text.match(/.{1,76}/g) ?? [];
    const isContinued = lines.length > 0 && !this.#isFirst;
    if (lines.length > 0) this.#isFirst = false;
    return Buffer.from((isContinued ? '\n' : '') + lines.join('\n'));
  }
}
