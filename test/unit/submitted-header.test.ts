// What a submission server does to a header (RFC 6409 §8), as a table; each case whole and split at every index.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SubmittedHeader, maxHeaderOctets, maxTotalBytes } from '../../src/inbound/submission.ts';

const both = 'Date: now\nMessage-ID: <made@here>\n';

/** The message that comes out, or why it is refused. `pieces`: a string comes octet by octet. */
function passAll(pieces: Iterable<string>): string {
  const header = new SubmittedHeader('now', '<made@here>');
  const parts: Buffer[] = [];
  for (const piece of [...pieces, undefined]) {
    const passed = header.pass(Buffer.from(piece ?? '', 'latin1'), piece === undefined);
    if (typeof passed === 'string') {
      header.release();
      return passed;
    }
    parts.push(passed);
  }
  return Buffer.concat(parts).toString('latin1');
}

const pass = (...pieces: readonly string[]): string => passAll(pieces);

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
  [
    'takes no sentence with a colon for a header',
    'Dear Anton,\nNote: it is at ten.\n\nBye\n',
    `${both}\nDear Anton,\nNote: it is at ten.\n\nBye\n`,
  ],
  ['reads on behind a line that is no field', 'To: b\nhello\nBcc: c,\n d\n\nx\n', `${both}To: b\nhello\n\nx\n`],
  ...(
    [
      ['an mbox separator', 'From a@b Sat Jan  3 01:05:34 1996\n', 'From a@b Sat Jan  3 01:05:34 1996'],
      ['a quoted mbox separator', '>From a@b\n', '>From a@b'],
      ['an mbox separator and an empty line', 'From a@b\n\n', 'From a@b'],
      ['an empty line', '\n'],
      ['empty and blank lines', '\n \t\n\n\n'],
      ['a line of garbage', 'hello?\n', 'hello?'],
      ['two lines of garbage', '\xff\0\n<html>\n', '\xff\0', '<html>'],
      ['a byte order mark', '\xef\xbb\xbf'],
      ['a byte order mark and an empty line', '\xef\xbb\xbf\n\n'],
      ['a folded line', ' and so on\n', ' and so on'],
    ] as const
  ).map(([what, preface, ...lines]): (typeof cases)[number] => [
    `removes Bcc behind ${what}, and the subject stays a subject`,
    `${preface}Subject: x\nbcc\t: c,\n d\nResent-Bcc: e\nDate: y\n\nBcc: body\n`,
    `Message-ID: <made@here>\n${lines.map(line => `X-Line-Before-Header: ${line}\n`).join('')}Subject: x\nDate: y\n\nBcc: body\n`,
  ]),
];

for (const [title, given, expected] of cases)
  test(`a submitted header: ${title}`, () => {
    for (let at = 0; at <= given.length; at += 1)
      assert.equal(pass(given.slice(0, at), given.slice(at)), expected, `split at ${at}`);
    assert.equal(passAll(given), expected, 'octet by octet');
  });

test('a submitted header that is too long to be looked through is refused, one that is not is taken', () => {
  const line = `X-Long: ${'x'.repeat(91)}\n`;
  const fits = line.repeat(Math.floor(maxHeaderOctets / line.length));
  assert.ok(pass(fits, 'To: b\n\nhello\n'));
  assert.equal(pass(fits, line.repeat(2), 'Bcc: c\n\nhello\n'), 'too long');
});

test('a text without a header may be long; one that may be a header is refused behind an empty line too', () => {
  const text = `\n${'no field at all\n'.repeat(20_000)}`;
  assert.equal(pass(text, text), both + text + text);
  assert.equal(pass(`\nSubject: x\n${' y\n'.repeat(100_000)}`), 'too long');
});

test('a submitted header that comes octet by octet costs time in proportion to its length', () => {
  const line = `X-Long: ${'x'.repeat(91)}\n`;
  for (const preface of ['', '\n'.repeat(10_000), ' \n\n'.repeat(3000), 'From a\n\n'.repeat(1200), 'garbage\n']) {
    const given = `${preface}${line.repeat(2000)}To: b\n\nhello\n`;
    // Processor time of this thread, so that it does not matter how busy the machine is.
    const before = process.threadCpuUsage();
    assert.match(passAll(given), /To: b\n\nhello\n$/);
    const { user, system } = process.threadCpuUsage(before);
    assert.ok(user + system < 1_500_000, `${user + system} µs`); // was 6.3 s
  }
});

test('all submitted headers together have a bound; what is held is given back', () => {
  const half = Buffer.alloc(maxHeaderOctets / 2, 'X-Long: x\n');
  const open = (): SubmittedHeader => {
    const header = new SubmittedHeader('now', '<made@here>');
    assert.deepEqual(header.pass(half), Buffer.alloc(0));
    return header;
  };
  for (let round = 0; round < 3; round += 1) {
    const headers = Array.from({ length: maxTotalBytes / half.length }, open);
    assert.equal(new SubmittedHeader('now', '<made@here>').pass(half), 'no room');
    // One that comes at once needs no room.
    assert.match(pass('To: b\n\nhello\n'), /^Date: now\n/);
    for (const header of headers.splice(2)) header.release();
    for (const header of headers) assert.ok(header.pass(Buffer.from('\n\n')).length > half.length);
  }
});
