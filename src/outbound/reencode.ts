// A message of 8-bit content for a server without 8BITMIME: parts that have such octets become quoted-printable, nothing else changes.
// Promises: what is decoded at the other end is what was sent (8-bit content is lines, and quoted-printable keeps lines); never
// signed or encrypted mail, whose octets would no longer be those that were signed. RFC 6152 §3, RFC 2045 §6, RFC 1428.
import { isAscii } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { Readable, type Transform, pipeline } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import type { MimeNode, Part } from 'mailsplit';
import { inMemory } from '../mail/message.ts';
import { type Stored, read } from './content.ts';

const misplaced = 'it has octets above 127 where none may be encoded';
const untouchable = /^(?:multipart\/(?:signed|encrypted)|application\/(?:x-)?pkcs7-mime)$/;

/** The converted message, in memory or in a new file that the caller removes; a string says why that may not or cannot be done. */
export async function toSevenBit(message: Stored, path: string | undefined): Promise<Stored | string> {
  try {
    const dirty = await survey(message);
    if (typeof dirty === 'string') return dirty;
    const content = ascii(convert(message, dirty));
    if (path === undefined) {
      const octets = await buffer(content);
      return { ...inMemory(octets), skipBytes: 0 };
    }
    await writeFile(path, content, { flag: 'wx', mode: 0o600 });
    return { kind: 'file', path, skipBytes: 0, sizeBytes: (await stat(path)).size };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EILSEQ') return misplaced;
    if (code === 'EMAXLEN') return 'its MIME structure is too large';
    throw error;
  }
}

/** The last judge, whatever MIME structure mailsplit has seen in a malformed message. */
async function* ascii(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const octets of pieces) {
    if (!isAscii(octets)) throw Object.assign(new Error(misplaced), { code: 'EILSEQ' });
    yield octets;
  }
}

/** The parts, each with the number of its node, from 1. */
async function* split(message: Stored): AsyncGenerator<readonly [number, Part]> {
  const { Splitter } = await import('mailsplit');
  const splitter = new Splitter({ defaultInlineEmbedded: true });
  const isFile = message.kind === 'file';
  const source = isFile
    ? createReadStream(message.path, { start: message.skipBytes })
    : Readable.from([read(message, message.sizeBytes)]);
  pipeline(source, splitter, () => undefined); // the loop below hears of errors
  let place = 0;
  for await (const part of splitter as AsyncIterable<Part>) yield [(place += part.type === 'node' ? 1 : 0), part];
}

/** The numbers of the nodes that have octets above 127; or why it cannot be converted. */
async function survey(message: Stored): Promise<ReadonlySet<number> | string> {
  const dirty = new Set<number>();
  for await (const [place, part] of split(message)) {
    const { contentType, encoding, headers, _boundary: boundary } = part.type === 'node' ? part : part.node;
    if (part.type === 'node') {
      if (!isAscii(headers.build())) return 'its header has octets above 127';
      const isTouchable = !untouchable.test(contentType || '') && !headers.hasHeader('dkim-signature');
      if (!isTouchable) return 'it is signed or encrypted';
    } else if (part.value !== undefined && !isAscii(part.value)) {
      const isPlain = ['', '7bit', '8bit', 'binary'].includes(encoding || '');
      // mailsplit splits at a boundary whatever the type says: such a 'text' is not one run of lines.
      if (part.type !== 'body' || !isPlain || boundary !== false || /^(?:message|multipart)\//.test(contentType || ''))
        return misplaced;
      dirty.add(place);
    }
  }
  return dirty;
}

async function* convert(message: Stored, dirty: ReadonlySet<number>): AsyncGenerator<Buffer> {
  let encoder: Transform | undefined;
  for await (const [place, part] of split(message)) {
    if (part.type !== 'body') {
      yield* (encoder?.end() ?? []) as AsyncIterable<Buffer>;
      encoder = undefined;
    }
    if (part.type === 'node') {
      yield relabel(part, dirty.has(place), place === 1);
      if (dirty.has(place)) encoder = part.getEncoder('quoted-printable');
    } else if (part.value !== undefined && encoder === undefined) yield part.value;
    else {
      encoder?.write(part.value);
      for (let octets; (octets = encoder?.read() as Buffer | null | undefined);) yield octets;
    }
  }
  yield* (encoder?.end() ?? []) as AsyncIterable<Buffer>;
}

/** The header of a part, which names its new encoding. */
function relabel({ headers, encoding }: MimeNode, isDirty: boolean, isRoot: boolean): Buffer {
  const complete = (field: string, value: string): void => {
    if (!headers.hasHeader(field)) headers.add(field, value, Infinity);
  };
  if (isDirty && isRoot) {
    complete('MIME-Version', '1.0');
    complete('Content-Type', 'text/plain; charset=unknown-8bit'); // RFC 1428 §3
  }
  const name = 'Content-Transfer-Encoding';
  if (isDirty) complete(name, '8bit');
  if (isDirty || encoding === '8bit' || encoding === 'binary')
    headers.update(name, isDirty ? 'quoted-printable' : '7bit');
  return headers.build(headers.changed ? '\n' : '');
}
