// What goes out after DATA: line ends, dots and the one end, wherever the content is cut.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { Encoder, openContent } from '../../src/outbound/content.ts';
import { inMemory } from '../../src/mail/message.ts';
import { Body } from '../../src/smtp/body.ts';
import { systemRandom } from '../../src/system/world.ts';

const folder = mkdtempSync(join(tmpdir(), 'content-'));
after(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'message');

function encode(pieces: readonly string[]): string {
  const encoder = new Encoder();
  const ready = pieces.map((piece, at) => encoder.encode(Buffer.from(piece, 'latin1'), at === pieces.length - 1));
  return Buffer.concat(ready).toString('latin1');
}

async function wire(octets: Buffer, returnPathBytes = 0): Promise<{ text: string; sizeBytes: number }> {
  writeFileSync(file, octets);
  const texts: string[] = [];
  const sizes: number[] = [];
  const parts = [octets.subarray(0, 3), octets.subarray(3)];
  for (const message of [{ kind: 'file', path: file }, inMemory(...parts)] as const) {
    const content = openContent({ ...message, returnPathBytes, sizeBytes: octets.length });
    const pieces: Buffer[] = [];
    for await (const piece of content.pieces) pieces.push(piece);
    texts.push(Buffer.concat(pieces).toString('latin1'));
    sizes.push(content.sizeBytes);
  }
  assert.equal(texts[0], texts[1], 'from memory as from a file');
  return { text: texts[0] ?? '', sizeBytes: sizes[0] ?? 0 };
}

describe('content', () => {
  const samples = [
    '',
    '.',
    '..',
    '.\n',
    '\n.\n',
    'a\n.\nb\n',
    '\n.\n.\n\n',
    'a',
    'a\n',
    '\r',
    'a\r.\rb',
    '\r\n.\r\n',
    'x\r.\n',
    '\r\r\n\n.',
    'a\n.\r\nMAIL\n',
    '.\r.\r',
  ];
  it('has one end, and no bare CR or LF, cut anywhere', () => {
    for (const sample of samples) {
      const expected = encode([sample]);
      assert.equal(
        expected.search(/(?:^|\r\n)\.\r\n/),
        expected.length - (expected === '.\r\n' ? 3 : 5),
        JSON.stringify(sample),
      );
      assert.doesNotMatch(expected, /\r(?!\n)|(?<!\r)\n/);
      assert.equal(encode([...sample, '']), expected, JSON.stringify(sample));
      for (let at = 0; at <= sample.length; at += 1)
        assert.equal(encode([sample.slice(0, at), sample.slice(at)]), expected);
    }
  });

  it('is, for a server, what was in the file', async () => {
    const octets = Buffer.from(
      Array.from({ length: 3000 }, () => ['.', '\n', 'a', '\0', '\xe4', '\n.'][systemRandom.below(6)]).join(''),
      'latin1',
    );
    for (const message of [
      octets,
      Buffer.concat(Array<Buffer>(200).fill(Buffer.concat([octets, Buffer.from('\n')]))),
    ]) {
      const { text, sizeBytes } = await wire(message, 2);
      const { content, rest } = new Body(true, Infinity).receive(Buffer.from(text, 'latin1'));
      const kept = message.subarray(2);
      assert.deepEqual(rest, Buffer.alloc(0));
      assert.deepEqual(content, kept.at(-1) === 10 ? kept : Buffer.concat([kept, Buffer.from('\n')]));
      const lines = kept.filter(octet => octet === 10).length + (kept.at(-1) === 10 ? 0 : 1);
      if (kept.length < 256 * 1024) assert.equal(sizeBytes, content.length + lines);
      else assert.ok(sizeBytes <= content.length + lines);
    }
  });
});
