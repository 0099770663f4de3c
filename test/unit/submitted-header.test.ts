// What a submission server does to a header (RFC 6409 §8), as a table; each case whole and split at every index.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SubmittedHeader, maxHeaderOctets } from '../../src/inbound/submission.ts';

const both = 'Date: now\nMessage-ID: <made@here>\n';

function pass(...pieces: readonly string[]): string | undefined {
  const header = new SubmittedHeader('now', '<made@here>');
  const parts = [...pieces.map(piece => header.pass(Buffer.from(piece, 'latin1'))), header.pass(Buffer.alloc(0), true)];
  return parts.includes(undefined) ? undefined : parts.map(part => part?.toString('latin1')).join('');
}

const cases: readonly (readonly [title: string, given: string, expected: string])[] = [
  ['adds both where both are missing', 'To: b\n\nhello\n', `${both}To: b\n\nhello\n`],
  [
    'leaves both alone, however they are spelt',
    'date: x\nMESSAGE-ID : <1>\n\nhello\n',
    'date: x\nMESSAGE-ID : <1>\n\nhello\n',
  ],
  ['adds only what is missing', 'Date: x\n\nhello\n', 'Message-ID: <made@here>\nDate: x\n\nhello\n'],
  [
    'takes Bcc out, with its folded lines',
    'To: b\nBcc: c,\n d,\n\te\nCc: f\n\nhello\n',
    `${both}To: b\nCc: f\n\nhello\n`,
  ],
  ['takes Resent-Bcc and a second Bcc out', 'BCC: c\nResent-Bcc: d\nbcc : e\n\nhello\n', `${both}\nhello\n`],
  [
    'knows Bcc only as the name of a field',
    'Subject: x\n Bcc: y\nX-Bcc: z\n\nBcc: body\n',
    `${both}Subject: x\n Bcc: y\nX-Bcc: z\n\nBcc: body\n`,
  ],
  [
    'keeps 8-bit octets and NUL as they are',
    'Subject: \xff\0\xe4\n\n\xff\0\n',
    `${both}Subject: \xff\0\xe4\n\n\xff\0\n`,
  ],
  ['completes a header without a body', 'To: b\n', `${both}To: b\n`],
  ['completes an empty message', '', both],
  ['completes an empty header', '\nhello\n', `${both}\nhello\n`],
  ['sets apart a body that came without a header', 'hello\n\nBcc: x\n', `${both}\nhello\n\nBcc: x\n`],
];

for (const [title, given, expected] of cases)
  test(`a submitted header: ${title}`, () => {
    for (let at = 0; at <= given.length; at += 1)
      assert.equal(pass(given.slice(0, at), given.slice(at)), expected, `split at ${at}`);
    assert.equal(pass(...given), expected, 'octet by octet');
  });

test('a submitted header that is too long to be looked through is refused, one that is not is taken', () => {
  const line = `X-Long: ${'x'.repeat(91)}\n`;
  const fits = line.repeat(Math.floor(maxHeaderOctets / line.length));
  assert.ok(pass(fits, 'To: b\n\nhello\n'));
  assert.equal(pass(fits, line.repeat(2), 'Bcc: c\n\nhello\n'), undefined);
});
