// What a signature sees of a message (DKIM's canonicalisation 'relaxed'), against a reading of RFC 6376 §3.4 line by
// line: the digest of a body does not depend on how it was cut, nor each field on how it was folded.
// An input: a message; its header is read as fields, its body is digested whole and in pieces.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { RelaxedBody, relaxedField } from '../../src/dkim/canonical.ts';
import { fieldsOf } from '../../src/mail/header.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

/** RFC 6376 §3.4.4; what stands alone as CR or LF goes out as a line end. */
function plainly(body: string): string {
  const lines = body.split(/\r\n|\r|\n/).map(line => line.replaceAll(/[ \t]+/g, ' ').replace(/ $/, ''));
  while (lines.at(-1) === '') lines.pop();
  const text = lines.map(line => `${line}\r\n`).join('');
  return createHash('sha256').update(text, 'latin1').digest('base64');
}

const digest = (pieces: readonly Buffer[]): string => {
  const body = new RelaxedBody();
  for (const piece of pieces) body.update(piece);
  return body.digest();
};

export const canonical: Target = {
  name: 'canonical',
  maxOctets: 200,
  seeds: [
    ...kept('canonical'),
    ...[
      '',
      'A: x\n\nhello\n\n\n',
      'Subject : a\n\tb \n c\nTo: \n\n a  b\t\n\r\n\r',
      'x\n\n \t\n',
      `A: ${'x '.repeat(40)}\n\n${'\n'.repeat(60)}x`,
    ].map(text => Buffer.from(text, 'latin1')),
  ],
  words: ['\n', '\r\n', '\r', '\n\n', ' ', '\t', ' \n', '\n ', ':', 'A: ', '\xa0', '\0', '\v', '\f'],
  run(input, random, note) {
    const text = input.toString('latin1');
    const end = text.indexOf('\n\n');
    const body = input.subarray(end < 0 ? 0 : end + 2);
    const wanted = plainly(body.toString('latin1'));
    assert.equal(digest([body]), wanted, 'another digest');
    assert.equal(digest(cut(body, random)), wanted, 'it depends on how it was cut');
    const fields = fieldsOf(text.slice(0, Math.max(0, end)));
    for (const { name, text: field } of fields) {
      const value = field.slice(field.indexOf(':') + 1).replaceAll('\n', '');
      const plain = value
        .replaceAll(/[ \t]+/g, ' ')
        .replace(/^ /, '')
        .replace(/ $/, '');
      assert.equal(relaxedField(field), `${name}:${plain}`, 'another field');
    }
    note(`${fields.length} ${wanted === plainly('')} ${body.includes('\r')}`);
  },
};
