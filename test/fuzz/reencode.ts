// 8-bit mail for a server without 8BITMIME: refused, or ASCII that decodes to what was there. Two judges: for whole messages of any
// kind (ASCII, bounded lines, no hang), and for messages that are built here, part by part: every part's content decodes to what it was.
// An input: an octet (built or raw), then octets from which the message is made. RFC 2045 §6.7, RFC 6152 §3.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toSevenBit } from '../../src/outbound/reencode.ts';
import { octetsOf } from '../contract/storage.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'reencode-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const [original, converted] = [join(folder, 'a'), join(folder, 'b')];

/** A tree of parts from octets: each says what comes next. `leaves`: the contents. */
function build(octets: Buffer): { text: string; leaves: string[] } {
  const leaves: string[] = [];
  let at = 0;
  const part = (depth: number): string => {
    const how = octets[at++] ?? 0;
    if (how % 4 === 0 && depth < 3) {
      const boundary = `b${depth}${leaves.length}`;
      const parts = Array.from({ length: 1 + (how >> 6) }, () => `--${boundary}\n${part(depth + 1)}\n`);
      return `Content-Type: multipart/mixed; boundary="${boundary}"\n\n${parts.join('')}--${boundary}--\n`;
    }
    const length = (octets[at++] ?? 0) % 64;
    const content = octets
      .subarray(at, at + length)
      .toString('latin1')
      .replaceAll('\r', '')
      .replace(/^--/gm, '- ');
    at += length;
    leaves.push(content);
    const encoding =
      [
        '',
        'Content-Transfer-Encoding: 8bit\n',
        'content-transfer-encoding:\n\tBinary\n',
        'Content-Transfer-Encoding: 7bit\n',
      ][how >> 6] ?? '';
    return `Content-Type: text/plain; charset=${how % 3 ? 'utf-8' : 'iso-8859-1'}\n${encoding}\n${content}`;
  };
  return { text: `Subject: x\nMIME-Version: 1.0\n${part(0)}`, leaves };
}

/** The leaves of such a message, decoded. */
function read(text: string): string[] {
  const end = text.indexOf('\n\n');
  const [head, body] = [text.slice(0, end + 1), text.slice(end + 2)];
  const [, boundary] = /boundary="?([^"\n]+)/i.exec(head) ?? [];
  if (boundary !== undefined) {
    const inner = `\n${body}`.split(`\n--${boundary}--`, 1)[0] ?? '';
    return inner.split(`\n--${boundary}\n`).slice(1).flatMap(read);
  }
  if (!/^content-transfer-encoding:\s*quoted-printable/im.test(head)) return [body];
  const lines = body.replaceAll(/[ \t]+$/gm, '').replaceAll('=\n', '');
  return [lines.replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))];
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
    'Content-Transfer-Encoding: base64\n',
    'quoted-printable',
    '\0',
    '.',
    'From ',
  ],
  async run(input, _cuts, note) {
    const isBuilt = (input[0] ?? 0) % 2 === 0;
    const { text, leaves } = isBuilt
      ? build(input.subarray(1))
      : { text: input.toString('latin1', 1).replaceAll('\r', ''), leaves: [] };
    writeFileSync(original, text, 'latin1');
    rmSync(converted, { force: true });
    const result = await toSevenBit({ kind: 'file', path: original, skipBytes: 0, sizeBytes: text.length }, converted);
    note(typeof result === 'string' ? result : 'converted');
    if (isBuilt) assert.ok(typeof result !== 'string', `refused: ${result as string}`);
    if (typeof result === 'string') return;
    const out = octetsOf(result).toString('latin1');
    assert.equal(result.sizeBytes, out.length);
    assert.ok(!/[\x80-\xff]/.test(out), 'not ASCII');
    // Its soft line breaks are CRLF, as all line ends are on the way out.
    if (isBuilt) assert.deepEqual(read(out.replaceAll('\r\n', '\n')), leaves, 'another content');
  },
};
