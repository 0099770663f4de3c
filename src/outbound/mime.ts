// The structure of a MIME message, found while the message streams by: its entities, each with its header, and where
// their contents begin and end. Nothing is changed here: the octets of all events together are the message.
// Promises:
// - Time is linear in the length of the message. Memory is bounded: what is held is one header, or one line that may be
//   a delimiter, and an entity for each level of nesting.
// - What is not certain is not interpreted. Such an entity has a `reason`, and is one content as a whole. Where not
//   even its end is certain, the message as a whole is not understood (`defect`).
// RFC 2045 (header fields), RFC 2046 §5.1 (multipart) and §5.2 (message), RFC 6532 (message/global).

/** The message itself, a part of a multipart, or a message within a message. */
export type Entity = {
  /** Entities are numbered in the order of their headers, from 0. */
  readonly number: number;
  readonly parent: Entity | undefined;
  /** How many entities it is in. */
  readonly depth: number;
  /** A `multipart` or `message` consists of entities; a `text` or `other` has content of its own. */
  readonly kind: 'multipart' | 'message' | 'text' | 'other';
  /** Content-Transfer-Encoding in lower case; '' where there is none. */
  readonly encoding: string;
  /** Why its content must stay as it is, where it must. */
  readonly reason?: string;
};

export type Event =
  /** A whole header, without the empty line behind it. */
  | { readonly kind: 'header'; readonly entity: Entity; readonly octets: Buffer }
  /** Some of the content of the entity whose header came last. */
  | { readonly kind: 'content'; readonly entity: Entity; readonly octets: Buffer }
  /** The end of that content. The line end in front of a delimiter is not part of the content (RFC 2046 §5.1.1). */
  | { readonly kind: 'end'; readonly entity: Entity }
  /** Empty lines behind headers, delimiters, and what stands before, between and behind the parts of a multipart. */
  | { readonly kind: 'between'; readonly entity: Entity; readonly octets: Buffer };

const maxHeaderOctets = 128 * 1024;
const maxEntities = 1000;
const maxDepth = 30;
/** Lines of headers, and other lines that begin with two dashes: each costs as much as a hundred octets of content. */
const maxStructureLines = 100_000;
/** A boundary has at most 70 characters (RFC 2046 §5.1.1); somewhat longer ones exist. */
const maxBoundaryLength = 200;
/** A delimiter with the blanks that may stand behind it. A longer line is none. */
const maxDelimiterOctets = 1000;
const LF = 10;
const DASH = 45;
const lineOfDashes = Buffer.from('\n--');
const signed = /^(?:multipart\/(?:signed|encrypted)|application\/(?:x-)?pkcs7-mime)$/;
const signature = /^(?:dkim-signature|arc-message-signature)$/;

/** A multipart whose last delimiter has not come. */
type Level = { readonly entity: Entity; readonly delimiter: string; readonly last: string; readonly isDigest: boolean };

export class Walker {
  /** Why the structure is not certain, if it is not. Then the events mean nothing. */
  defect: string | undefined;
  readonly #levels: Level[] = [];
  /** What comes now: a header, the content of `#entity`, or what is around the parts of `#entity`. */
  #state: 'header' | 'content' | 'between' = 'header';
  /** The entity of the last header. In the state 'header' it is the parent of the one that comes. */
  #entity: Entity | undefined;
  /** Whether the entity that comes is part of a digest, where a message is what text is elsewhere (RFC 2046 §5.1.5). */
  #isInDigest = false;
  #entities = 0;
  /** Lines that count for `maxStructureLines`. */
  #lines = 0;
  /** Octets that cannot be judged before others come. */
  #held: Buffer = Buffer.alloc(0);
  /** In the state 'header': how many octets of the header have been searched for its end. */
  #searched = 0;
  /** In the states 'content' and 'between': whether the next octet begins a line. */
  #isLineStart = true;
  #events: Event[] = [];

  /** Takes the next octets; `isEnd`: they are the last. The events have views of them. */
  write(octets: Buffer, isEnd = false): readonly Event[] {
    const input = this.#held.length > 0 ? Buffer.concat([this.#held, octets]) : octets;
    let at = 0;
    while (at < input.length && this.defect === undefined) {
      const next = this.#state === 'header' ? this.#readHeader(input, at, isEnd) : this.#readContent(input, at, isEnd);
      if (next === at) break;
      at = next;
    }
    this.#held = input.subarray(at);
    if (isEnd) this.#endContent();
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Reads a header if its end is here. Gives where to read on; that is `start` where nothing could be read. */
  #readHeader(input: Buffer, start: number, isEnd: boolean): number {
    for (let at = start + this.#searched; ;) {
      const lf = input.indexOf(LF, at);
      if (lf < 0 && !isEnd) {
        this.#searched = at - start;
        if (this.#searched > maxHeaderOctets || input.length - at > maxHeaderOctets)
          this.defect = 'a header is too long';
        return start;
      }
      this.#countLine();
      const end = lf < 0 ? input.length : lf;
      const isEmptyLine = lf === at;
      const delimiter = this.#findDelimiter(input, at, end);
      if (isEmptyLine || delimiter !== undefined || lf < 0) {
        this.#searched = 0;
        if (at - start > maxHeaderOctets) this.defect = 'a header is too long';
        this.#open(input.subarray(start, lf < 0 && delimiter === undefined ? end : at));
        if (delimiter) this.#endContent();
        if (isEmptyLine || delimiter) this.#emit('between', input.subarray(at, end + 1));
        if (delimiter) this.#cross(delimiter);
        return Math.min(end + 1, input.length);
      }
      at = lf + 1;
    }
  }

  /** Reads up to the next delimiter, or as far as it is certain that none begins. Gives where to read on. */
  #readContent(input: Buffer, start: number, isEnd: boolean): number {
    const kind = this.#state === 'content' ? 'content' : 'between';
    const take = (end: number): number => {
      this.#emit(kind, input.subarray(start, end));
      if (end > start) this.#isLineStart = false;
      return end;
    };
    if (this.#levels.length === 0) return take(input.length);
    if (this.#isLineStart && input.length - start < 2 && !isEnd) return start;
    for (let from = start; ;) {
      const isHere = from === start && this.#isLineStart && input[start] === DASH && input[start + 1] === DASH;
      const line = isHere ? start : input.indexOf(lineOfDashes, from) + 1;
      if (line === 0 && !isHere) return take(isEnd ? input.length : beforeLineEnd(input, start));
      const lf = input.indexOf(LF, line);
      const before = Math.max(start, line - 1);
      if (lf < 0 && !isEnd && input.length - line <= maxDelimiterOctets) return take(before);
      this.#countLine();
      const end = lf < 0 ? input.length : lf;
      const delimiter = this.#findDelimiter(input, line, end);
      if (this.defect !== undefined) return start;
      if (delimiter !== undefined) {
        take(before);
        this.#endContent();
        this.#emit('between', input.subarray(before, end + 1));
        this.#cross(delimiter);
        return Math.min(end + 1, input.length);
      }
      from = end;
    }
  }

  /** The open multipart whose delimiter this line is. `isLast`: the multipart ends with it. */
  #findDelimiter(input: Buffer, start: number, end: number): { level: Level; isLast: boolean } | undefined {
    if (input[start] !== DASH || input[start + 1] !== DASH || end - start > maxDelimiterOctets) return undefined;
    while (input[end - 1] === 32 || input[end - 1] === 9) end -= 1; // blanks of gateways that pad lines
    const line = input.toString('latin1', start, end);
    const level = this.#levels.findLast(({ delimiter, last }) => line === delimiter || line === last);
    if (level !== undefined) return { level, isLast: line !== level.delimiter };
    // Readers differ in whether such a line is a delimiter.
    if (this.#levels.some(({ delimiter }) => line.startsWith(delimiter))) this.defect = 'a line is nearly a delimiter';
    return undefined;
  }

  /** Goes on behind a delimiter: in the next part, or behind the last one. */
  #cross({ level, isLast }: { level: Level; isLast: boolean }): void {
    this.#levels.length = this.#levels.indexOf(level) + (isLast ? 0 : 1);
    this.#entity = level.entity;
    this.#isInDigest = level.isDigest;
    this.#state = isLast ? 'between' : 'header';
    this.#isLineStart = true;
  }

  /** Begins an entity, whose header this is. */
  #open(header: Buffer): void {
    const { isDigest, delimiter, ...found } = describe(header, this.#isInDigest);
    const parent = this.#entity;
    const entity: Entity = { number: this.#entities, parent, depth: parent ? parent.depth + 1 : 0, ...found };
    this.#entities += 1;
    if (this.#entities > maxEntities || entity.depth > maxDepth) this.defect = 'it has too many parts';
    if (this.#levels.some(level => level.delimiter === delimiter)) this.defect = 'two boundaries are the same';
    this.#entity = entity;
    this.#emit('header', header);
    this.#isInDigest = false;
    this.#isLineStart = true;
    if (delimiter !== undefined) this.#levels.push({ entity, delimiter, last: `${delimiter}--`, isDigest });
    if (entity.kind === 'multipart') this.#state = 'between';
    else this.#state = entity.kind === 'message' ? 'header' : 'content';
  }

  #countLine(): void {
    this.#lines += 1;
    if (this.#lines > maxStructureLines) this.defect = 'it has too much structure';
  }

  #endContent(): void {
    if (this.#state === 'content' && this.#entity !== undefined)
      this.#events.push({ kind: 'end', entity: this.#entity });
  }

  #emit(kind: 'header' | 'content' | 'between', octets: Buffer): void {
    const entity = this.#entity;
    if (entity !== undefined && (octets.length > 0 || kind === 'header')) this.#events.push({ kind, entity, octets });
  }
}

/** Where the last octets begin, from `start` on, that may be the beginning of a line end and two dashes. */
function beforeLineEnd(input: Buffer, start: number): number {
  const last = input.length - 1;
  if (input[last] === LF) return last;
  return last > start && input[last] === DASH && input[last - 1] === LF ? last - 1 : input.length;
}

type Description = Pick<Entity, 'kind' | 'encoding' | 'reason'> & { delimiter?: string; isDigest: boolean };

/** What a header says of its entity. */
function describe(header: Buffer, isInDigest: boolean): Description {
  const fields = splitFields(header);
  const names = fields.map(nameOf);
  const values = (name: string): string[] => fields.filter((_, at) => names[at] === name).map(valueOf);
  const types = values('content-type');
  const encodings = values('content-transfer-encoding');
  const [encoding = ''] = /^[\w-]*/.exec(encodings[0]?.toLowerCase() ?? '') ?? [];
  const [stated = isInDigest ? 'message/rfc822' : 'text/plain'] = types;
  // RFC 2045 §5.2: what is no type is text.
  const type = /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+/.exec(stated)?.[0].toLowerCase() ?? 'text/plain';
  const isDigest = type === 'multipart/digest';
  const opaque = (reason: string): Description => ({ kind: 'other', encoding, reason, isDigest });

  if (names.includes('')) return opaque('a header has a line that is no field');
  if (types.length > 1 || encodings.length > 1) return opaque('a header says twice what the content is');
  if (signed.test(type) || names.some(name => signature.test(name))) return opaque('it is signed or encrypted');
  const isMultipart = type.startsWith('multipart/');
  if (isMultipart || type === 'message/rfc822') {
    if (!isUnencoded(encoding)) return opaque('a multipart or message is encoded as a whole');
    if (!isMultipart) return { kind: 'message', encoding, isDigest };
    const boundary = parameterOf(stated.slice(type.length), 'boundary')?.trimEnd() ?? '';
    if (boundary === '' || boundary.length > maxBoundaryLength) return opaque('a multipart has no boundary');
    return { kind: 'multipart', encoding, isDigest, delimiter: `--${boundary}` };
  }
  // RFC 2046 §5.2: no such message may be encoded, but those for UTF-8 (RFC 6532 §3.7, RFC 6533).
  if (type.startsWith('message/') && !type.startsWith('message/global')) return opaque(`a ${type} may not be encoded`);
  return { kind: type.startsWith('text/') ? 'text' : 'other', encoding, isDigest };
}

/** Whether the content is what it seems, and not in base64 or the like. */
export const isUnencoded = (encoding: string): boolean => ['', '7bit', '8bit', 'binary'].includes(encoding);

/** The fields of a header, each with its folded lines and its line end, octet for octet. */
export function splitFields(header: Buffer): string[] {
  const text = header.toString('latin1');
  return text.split(/(?<=\n)(?![ \t])/).filter(Boolean);
}

/** The name of a field in lower case; '' where it is no field. */
export function nameOf(field: string): string {
  return /^([!-9;-~]+)[ \t]*:/.exec(field)?.[1]?.toLowerCase() ?? '';
}

const valueOf = (field: string): string => field.replaceAll(/^[^:]*:|\n/g, '').trim();

/**
 * The value of a parameter; undefined where there is none, or where the parameters are not well-formed up to it. RFC
 * 2045 §5.1.
 */
function parameterOf(parameters: string, wanted: string): string | undefined {
  const parameter = /[ \t]*;[ \t;]*([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/gy;
  for (const [, name = '', quoted, plain = ''] of parameters.matchAll(parameter))
    if (name.toLowerCase() === wanted) return quoted?.replaceAll(/\\(.)/g, '$1') ?? plain;
  return undefined;
}
