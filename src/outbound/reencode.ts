// Converts the content of a message for a next hop that does not take it as it is: octets above 127 without 8BITMIME,
// or lines that are too long. Only the parts that need it are changed: text becomes quoted-printable, everything else
// base64.
// Promises:
// - What is decoded at the other end is what was sent.
// - What is signed or encrypted, and what is not understood, stays as it is, octet for octet; `left` says why.
// - Time is linear. Memory is bounded by a few blocks, whatever the message. A block takes a few milliseconds, and
//   after each the event loop has its turn.
// The message is read twice: first to find the parts that need a change (`Survey`), then to change them (`convert`).
// RFC 6152 §3, RFC 2045 §6, RFC 1428 §3.
import { isAscii } from 'node:buffer';
import { stat, writeFile } from 'node:fs/promises';
import { inMemory, piecesOf } from '../mail/message.ts';
import type { Stored } from './content.ts';
import { Base64, Base64Lines, type Encoder, QuotedPrintable } from './encodings.ts';
import { type Entity, type Event, Walker, isUnencoded, nameOf, splitFields } from './mime.ts';

/** What the next hop takes. */
type Limits = {
  readonly is8BitOk: boolean;
  /** Octets that a line may have, without its end; Infinity where any line may go. */
  readonly maxLineOctets: number;
};
/**
 * `isAscii`: it is sure that no octets above 127 are left. `left`: why something stays that the next hop does not take.
 */
type Findings = { readonly isAscii: boolean; readonly left: string | undefined };
type Examined = Findings & { readonly plan: Plan };
/** `message` is the one that was given if nothing is to be changed. */
type Reencoded = Findings & { readonly message: Stored };

/** The new encoding of an entity. '7bit' is only a label; 'lines' stays base64, in lines of the usual length. */
type Change = 'quoted-printable' | 'base64' | 'lines' | '7bit';
type Plan = ReadonlyMap<Entity['number'], Change>;

const blockBytes = 32 * 1024;
const LF = 10;

/** `path`: a new file for the result, which the caller removes; undefined: the result stays in memory. */
export async function reencode(message: Stored, limits: Limits, path: string | undefined): Promise<Reencoded> {
  const { plan, ...findings } = await examine(message, limits);
  if (plan.size === 0) return { message, ...findings };
  const converted = convert(message, plan, limits);
  if (path === undefined) {
    const pieces = await Array.fromAsync(converted);
    return { message: { ...inMemory(...pieces), returnPathBytes: 0 }, ...findings };
  }
  await writeFile(path, converted, { flag: 'wx', mode: 0o600 });
  const { size: sizeBytes } = await stat(path);
  return { message: { kind: 'file', path, returnPathBytes: 0, sizeBytes }, ...findings };
}

/** Finds out what can be done so that the next hop takes the message, and what remains then. */
export async function examine(message: Stored, limits: Limits): Promise<Examined> {
  const survey = new Survey(limits);
  const walker = new Walker();
  for await (const events of walk(message, walker)) {
    if (walker.defect !== undefined) return { plan: new Map(), isAscii: false, left: walker.defect };
    for (const event of events) survey.see(event);
  }
  return survey.result();
}

/** Reads the message block by block, and gives what the walker has found in each: headers, bodies, their ends. */
async function* walk(message: Stored, walker: Walker): AsyncGenerator<readonly Event[]> {
  for await (const octets of piecesOf(message, message.returnPathBytes, blockBytes)) yield walker.write(octets);
  yield walker.write(Buffer.alloc(0), true);
}

/** Finds out which entities the next hop does not take, and what can be done with each. */
class Survey {
  readonly #limits: Limits;
  readonly #plan = new Map<number, Change>();
  /** Multiparts and messages that are called 8bit or binary. */
  readonly #labelled: number[] = [];
  /** Entities in which octets above 127 stay. */
  readonly #impure = new Set<number>();
  #left: string | undefined;
  #isAscii = true;
  /** Whether the content that comes now has octets above 127, and a line that is too long. */
  #has8Bit = false;
  #hasLongLine = false;
  /** Octets of the line that comes now. */
  #lineOctets = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  see(event: Event): void {
    const { entity } = event;
    switch (event.kind) {
      case 'header': {
        const isComposite = entity.kind === 'multipart' || entity.kind === 'message';
        if (isComposite && isCalled8Bit(entity)) this.#labelled.push(entity.number);
        this.#lineOctets = 0;
        this.#measure(event.octets);
        this.#leaveWhatIsFound('a header has octets above 127', 'a header has a line that is too long', entity.parent);
        return;
      }
      case 'between':
        this.#measure(event.octets);
        this.#leaveWhatIsFound('octets above 127 stand around parts', 'a line around parts is too long', entity);
        return;
      case 'content':
        this.#measure(event.octets);
        return;
      case 'end':
        this.#decide(entity);
        return;
      default:
        event satisfies never;
    }
  }

  result(): Examined {
    // RFC 2045 §6.4: a multipart or message is 8bit if something in it is, and is never encoded itself.
    if (!this.#limits.is8BitOk)
      for (const number of this.#labelled) if (!this.#impure.has(number)) this.#plan.set(number, '7bit');
    return { plan: this.#plan, isAscii: this.#isAscii && !this.#limits.is8BitOk, left: this.#left };
  }

  #measure(octets: Buffer): void {
    const { is8BitOk, maxLineOctets } = this.#limits;
    if (!is8BitOk && !this.#has8Bit) this.#has8Bit = !isAscii(octets);
    if (maxLineOctets === Infinity) return;
    // From the last line end within the longest line that may be, to the next such one.
    for (let at = 0; at < octets.length && !this.#hasLongLine;) {
      const ahead = octets.subarray(at, at + maxLineOctets + 1 - this.#lineOctets);
      const lf = ahead.lastIndexOf(LF);
      at += lf < 0 ? ahead.length : lf + 1;
      this.#lineOctets = lf < 0 ? this.#lineOctets + ahead.length : 0;
      this.#hasLongLine = this.#lineOctets > maxLineOctets;
    }
  }

  #decide(entity: Entity): void {
    const { kind, encoding, number, reason } = entity;
    if (!this.#has8Bit && !this.#hasLongLine) {
      if (!this.#limits.is8BitOk && isCalled8Bit(entity) && reason === undefined) this.#plan.set(number, '7bit');
    } else if (reason === undefined && isUnencoded(encoding))
      this.#plan.set(number, kind === 'text' ? 'quoted-printable' : 'base64');
    else if (reason === undefined && encoding === 'base64' && !this.#has8Bit) this.#plan.set(number, 'lines');
    else {
      const broken = `content in ${encoding || 'no encoding'}`;
      this.#leaveWhatIsFound(reason ?? `${broken} has octets above 127`, reason ?? `${broken} has a long line`, entity);
    }
    this.#has8Bit = this.#hasLongLine = false;
    this.#lineOctets = 0;
  }

  /** Notes that what was found in this content stays. `inside` is the innermost entity to which the content belongs. */
  #leaveWhatIsFound(why8Bit: string, whyLong: string, inside: Entity | undefined): void {
    if (this.#has8Bit || this.#hasLongLine) this.#left ??= this.#has8Bit ? why8Bit : whyLong;
    if (this.#has8Bit) {
      this.#isAscii = false;
      for (let each = inside; each !== undefined; each = each.parent) this.#impure.add(each.number);
    }
    this.#has8Bit = this.#hasLongLine = false;
  }
}

const isCalled8Bit = ({ encoding }: Entity): boolean => encoding === '8bit' || encoding === 'binary';

/** Gives the message with the changes of the plan, a piece for each block that was read. */
async function* convert(message: Stored, plan: Plan, { is8BitOk }: Limits): AsyncGenerator<Buffer> {
  let encoder: Encoder | undefined;
  const change = (event: Event): Buffer => {
    switch (event.kind) {
      case 'header': {
        const planned = plan.get(event.entity.number);
        encoder = planned && encoders[planned]?.();
        return planned === undefined || planned === 'lines' ? event.octets : relabel(event, planned, !is8BitOk);
      }
      case 'content':
        return encoder?.write(event.octets) ?? event.octets;
      case 'end':
        return encoder?.end() ?? Buffer.alloc(0);
      case 'between':
        return event.octets;
      default:
        return event satisfies never;
    }
  };
  for await (const events of walk(message, new Walker())) {
    const [only = Buffer.alloc(0), ...others] = events.map(change);
    yield others.length === 0 ? only : Buffer.concat([only, ...others]);
  }
}

const encoders: Readonly<Record<Change, (() => Encoder) | undefined>> = {
  'quoted-printable': () => new QuotedPrintable(),
  base64: () => new Base64(),
  lines: () => new Base64Lines(),
  '7bit': undefined,
};

/**
 * Gives the header of an entity, which names its new encoding, and a character set where that is unknown but not ASCII.
 */
function relabel(
  { octets, entity }: Event & { kind: 'header' },
  encoding: Exclude<Change, 'lines'>,
  is8Bit: boolean,
): Buffer {
  const name = 'Content-Transfer-Encoding';
  const fields = splitFields(octets);
  const add = (field: string, value: string): void => {
    if (!fields.some(each => nameOf(each) === field.toLowerCase())) fields.push(`${field}: ${value}\n`);
  };
  const isMessage = entity.parent === undefined || entity.parent.kind === 'message';
  if (isMessage && encoding !== '7bit') {
    add('MIME-Version', '1.0');
    if (is8Bit) add('Content-Type', 'text/plain; charset=unknown-8bit'); // RFC 1428 §3
  }
  add(name, encoding);
  const renamed = fields.map(each => (nameOf(each) === name.toLowerCase() ? `${name}: ${encoding}\n` : each));
  return Buffer.from(renamed.join(''), 'latin1');
}
