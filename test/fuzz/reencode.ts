// Mail for a hop that does not take it as it is, without 8BITMIME or with a limit on lines: what is converted decodes
// to what was there, and what is not is the same, octet for octet. Two judges: for messages of any kind (what is said
// to be ASCII is; the structure does not depend on how the message was cut and loses nothing), and for messages that
// are built here: each part's content decodes to what it was. An input: an octet (built or any, and what the hop
// takes), then octets from which the message is made. RFC 2045 §6, RFC 6152 §3.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inMemory } from '../../src/mail/message.ts';
import { Walker } from '../../src/outbound/mime.ts';
import { reencode as convert } from '../../src/outbound/reencode.ts';
import { octetsOf } from '../contract/storage.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'reencode-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const [original, converted] = [join(folder, 'a'), join(folder, 'b')];
/** Shorter than any hop's, so that short inputs have such lines; and yet every line that we make fits. */
const maxLineOctets = 80;

/** A tree of parts from octets: each says what comes next. `leaves`: the contents. */
function build(octets: Buffer): { text: string; leaves: string[] } {
  const leaves: string[] = [];
  let at = 0;
  const part = (depth: number): string => {
    const how = octets[at++] ?? 0;
    if (how % 8 === 4 && depth < 3) return `Content-Type: message/rfc822\n\nSubject: y\n${part(depth + 1)}`;
    if (how % 4 === 0 && depth < 3) {
      const boundary = `b${depth}${leaves.length}x`;
      const parts = Array.from({ length: 1 + (how >> 6) }, () => `--${boundary}\n${part(depth + 1)}\n`);
      return `Content-Type: multipart/mixed; boundary="${boundary}"\n\n${parts.join('')}--${boundary}--\n`;
    }
    const length = (octets[at++] ?? 0) % 128;
    const content = octets
      .subarray(at, at + length)
      .toString('latin1')
      .replaceAll('\r', '')
      .replace(/^--/gm, '- ');
    at += length;
    leaves.push(content);
    if (how % 5 === 3) {
      const base64 = Buffer.from(content, 'latin1').toString('base64');
      return `Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n${base64}`;
    }
    const encoding =
      [
        '',
        'Content-Transfer-Encoding: 8bit\n',
        'content-transfer-encoding:\n\tBinary\n',
        'Content-Transfer-Encoding: 7bit\n',
      ][how >> 6] ?? '';
    const type = ['text/plain', 'TEXT/html', 'application/json'][how % 3];
    return `Content-Type: ${type}; charset=${how % 3 ? 'utf-8' : 'iso-8859-1'}\n${encoding}\n${content}`;
  };
  return { text: `Subject: x\nMIME-Version: 1.0\n${part(0)}`, leaves };
}

/** The leaves of such a message, decoded. */
function read(text: string): string[] {
  const end = text.indexOf('\n\n');
  const [head, body] = [text.slice(0, end + 1), text.slice(end + 2)];
  if (/^content-type: message/im.test(head)) return read(body);
  const [, boundary] = /boundary="?([^"\n]+)/i.exec(head) ?? [];
  if (boundary !== undefined) {
    const inner = `\n${body}`.split(`\n--${boundary}--`, 1)[0] ?? '';
    return inner.split(`\n--${boundary}\n`).slice(1).flatMap(read);
  }
  const [, encoding] = /^content-transfer-encoding:\s*(quoted-printable|base64)/im.exec(head) ?? [];
  if (encoding === 'base64') return [Buffer.from(body, 'base64').toString('latin1').replaceAll('\r\n', '\n')];
  if (encoding === undefined) return [body];
  const lines = body.replaceAll(/[ \t]+$/gm, '').replaceAll('=\n', '');
  return [lines.replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))];
}

/**
 * What the walker sees: header and content of each entity, and a letter for what is between. All of it must be the
 * message.
 */
function shape(pieces: readonly Buffer[]): string | undefined {
  const walker = new Walker();
  const seen: string[] = [];
  let whole = '';
  for (const [at, piece] of [...pieces, Buffer.alloc(0)].entries()) {
    for (const event of walker.write(piece, at === pieces.length)) {
      const octets = event.kind === 'end' ? '' : event.octets.toString('latin1');
      whole += octets;
      const name = `${event.kind} ${event.entity.number} ${event.entity.parent?.number}`;
      if (seen.at(-2) === name) seen.push(`${seen.pop()}${octets}`);
      else seen.push(name, octets);
    }
    if (walker.defect !== undefined) return undefined;
  }
  assert.equal(whole, Buffer.concat(pieces).toString('latin1'), 'octets are lost');
  return JSON.stringify(seen);
}

export const reencode: Target = {
  name: 'reencode',
  maxOctets: 400,
  isSlow: true,
  seeds: [
    ...kept('reencode'),
    Buffer.from([0, 0x80, 1, 20, ...Buffer.from('hällo wörld = \n.x\n \t\n'), 0x41, 10, ...Buffer.from('=20 ä\n\n- ')]),
    ...[
      'Subject: x\n\nhällo\n',
      'Content-Type: multipart/mixed; boundary=x\n\n--x\n\nä\n--x--\nü',
      'Content-Type: message/rfc822\n\nSubject: y\n\nä',
      'DKIM-Signature: x\n\nä',
    ].map(text => Buffer.from(`\x01${text}`)),
  ],
  words: [
    '\n',
    '\n\n',
    '--x\n',
    '--x--\n',
    '=',
    '=\n',
    ' \n',
    '\t\n',
    '\xe4',
    '\xc3\xa4',
    'Content-Type: ',
    'multipart/mixed; boundary=x',
    'text/plain',
    'message/rfc822',
    'multipart/digest; boundary=x',
    'multipart/signed; boundary=x',
    'application/json',
    'Content-Transfer-Encoding: base64\n',
    'quoted-printable',
    '\0',
    '.',
    'From ',
    '--b00x\n',
    'x'.repeat(75),
  ],
  async run(input, random, note) {
    const [how = 0] = input;
    const isBuilt = how % 2 === 0;
    const limits = { is8BitOk: (how & 2) !== 0, maxLineOctets: (how & 4) === 0 ? Infinity : maxLineOctets };
    const { text, leaves } = isBuilt
      ? build(input.subarray(1))
      : { text: input.toString('latin1', 1).replaceAll('\r', ''), leaves: [] };
    const octets = Buffer.from(text, 'latin1');
    const whole = shape([octets]);
    // What is long comes in blocks, which we cut ourselves.
    const pieces = octets.length > 2000 ? [octets.subarray(0, 999), octets.subarray(999)] : cut(octets, random);
    assert.ok(shape(pieces) === whole, 'it depends on how it was cut');
    writeFileSync(original, octets);
    rmSync(converted, { force: true });
    const stored = { kind: 'file', path: original, returnPathBytes: 0, sizeBytes: text.length } as const;
    const { message, isAscii, left } = await convert(stored, limits, converted);
    const inPlace = await convert({ ...inMemory(octets), returnPathBytes: 0 }, limits, undefined);
    note(`${left} ${isAscii} ${message === stored}`);
    const out = octetsOf(message).toString('latin1');
    assert.equal(octetsOf(inPlace.message).toString('latin1'), out, 'from memory another one than from a file');
    assert.equal(message.sizeBytes, out.length);
    const isClean = !/[\x80-\xff]/.test(out);
    if (!limits.is8BitOk && (isAscii || left === undefined)) assert.ok(isClean, 'not ASCII');
    if (left === undefined && whole !== undefined)
      assert.ok(
        out.split('\n').every(({ length }) => length <= limits.maxLineOctets),
        'a line is too long',
      );
    if (isBuilt) assert.equal(left, undefined, 'something is left');
    if (isBuilt) assert.deepEqual(read(out), leaves, 'another content');
  },
};
