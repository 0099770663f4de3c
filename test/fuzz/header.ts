// The header of a submitted message, against a reading line by line: no Bcc passes, however it is written or folded; what was there
// stays as it was, octet for octet; Date and Message-ID are there once the header has been passed.
// An input: a message with LF line ends. RFC 5322 §3.6.3 and §4.5.3, RFC 6409 §8.
import assert from 'node:assert/strict';
import { SubmittedHeader } from '../../src/inbound/submission.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

function pass(pieces: readonly Buffer[]): string | undefined {
  const header = new SubmittedHeader('now', '<made@here>');
  const parts = [...pieces.map(piece => header.pass(piece)), header.pass(Buffer.alloc(0), true)];
  return parts.includes(undefined) ? undefined : parts.map(part => part?.toString('latin1')).join('');
}

/** The lines of a header without Bcc and what is folded below it. */
function withoutBcc(lines: readonly string[]): string {
  let isBcc = false;
  const left = lines.filter(line => {
    isBcc = /^(?:resent-)?bcc[ \t]*:/i.test(line) || (isBcc && /^[ \t]/.test(line));
    return !isBcc;
  });
  return left.join('');
}

export const header: Target = {
  name: 'header',
  maxOctets: 160,
  seeds: [
    ...kept('header'),
    ...[
      'To: b\nBcc: c,\n d\nSubject: x\n\nhello\nBcc: x\n',
      'date: x\nMessage-ID:<1>\nresent-bcc : e\n\n',
      '\nBcc: x\n',
      'hello\n\nBcc: x',
    ].map(text => Buffer.from(text)),
  ],
  words: [
    'Bcc:',
    'Bcc :',
    'Resent-Bcc: x\n',
    'To: b\n',
    'Date: x\n',
    'Message-ID: <1>\n',
    '\n',
    '\n\n',
    '\n ',
    '\n\t',
    ':',
    ' ',
    'From x\n',
    '\0',
    '\xff',
  ],
  run(input, random, note) {
    const text = input.toString('latin1').replaceAll('\r', ''); // none comes out of the body decoder
    const octets = Buffer.from(text, 'latin1');
    const out = pass([octets]);
    assert.equal(pass(cut(octets, random)), out, 'it depends on how it was cut');
    assert.ok(out !== undefined, 'it is too long');
    const end = text.startsWith('\n') ? 0 : text.indexOf('\n\n') + 1 || text.length;
    const lines = text.slice(0, end).match(/.*\n|.+$/g) ?? [];
    // What begins with a line that is no field has no header: all of it is body, behind an empty line.
    const isBody = lines[0] !== undefined && !/^[!-9;-~]+[ \t]*:/.test(lines[0]);
    const rest = (isBody ? `\n${lines.join('')}` : withoutBcc(lines)) + text.slice(end);
    assert.ok(out.endsWith(rest), `a field has changed, or a Bcc passes: ${JSON.stringify(out)}`);
    const added = out.slice(0, out.length - rest.length);
    assert.ok(/^(?:Date: now\n)?(?:Message-ID: <made@here>\n)?$/.test(added), added);
    for (const name of [/^date[ \t]*:/im, /^message-id[ \t]*:/im])
      assert.ok(name.test(added + lines.join('')), String(name));
    note(`${added.length} ${isBody} ${rest.length < text.length} ${Math.min(3, lines.length)}`);
  },
};
