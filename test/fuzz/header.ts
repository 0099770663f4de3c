// The header of a submitted message, against a reading line by line: no Bcc passes, however it is written or folded,
// and whatever stands before the header; everything else stays as it was; Date and Message-ID are there once the header
// has been passed. An input: a message with LF line ends. RFC 5322 §3.6.3 and §4.5.3, RFC 6409 §8.
import assert from 'node:assert/strict';
import { SubmittedHeader, maxHeaderOctets } from '../../src/inbound/submission.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

/** undefined: it is refused. */
function pass(pieces: readonly Buffer[]): string | undefined {
  const header = new SubmittedHeader('now', '<made@here>');
  const parts: string[] = [];
  for (const piece of [...pieces, undefined]) {
    const passed = header.pass(piece ?? Buffer.alloc(0), piece === undefined);
    if (typeof passed === 'string') {
      header.release();
      return undefined;
    }
    parts.push(passed.toString('latin1'));
  }
  return parts.join('');
}

const isField = (line: string): boolean => /^[!-9;-~]+[ \t]*:/.test(line);
const known =
  /^(?:(?:resent|content)-[a-z-]+|received|from|to|b?cc|subject|date|message-id|sender|reply-to|mime-version)$/i;
const isKnown = (line: string): boolean => isField(line) && known.test(line.split(':', 1).join().trimEnd());

/** The lines of a header without Bcc and what is folded below it. */
function withoutBcc(lines: readonly string[]): string {
  let isBcc = false;
  const left = lines.filter(line => {
    isBcc = /^(?:resent-)?bcc[ \t]*:/i.test(line) || (isBcc && /^[ \t]/.test(line));
    return !isBcc;
  });
  return left.join('');
}

/** A message as lines: what stands before the header, the header (none: all of it is body), and what follows. */
function read(text: string): Record<'preface' | 'header' | 'rest', string[]> {
  const mark = /^(?:\xef\xbb\xbf)?/.exec(text)?.[0] ?? '';
  const lines: string[] = text.slice(mark.length).match(/.*\n|.+$/g) ?? [];
  const emptyLine = (from: number): number => (lines.indexOf('\n', from) + 1 || lines.length + 1) - 1;
  let start = 0;
  const isPreface = (line: string): boolean => /^(?:>?From .*|[ \t]*)\n$/.test(line) && !isField(line);
  while (start < lines.length) {
    const end = emptyLine(start);
    if (end === lines.length || !lines.slice(start, end).every(isPreface)) break;
    start = end + 1;
  }
  const end = emptyLine(start);
  const block = lines.slice(start, end);
  const isHeader = (start === 0 && mark === '' && isField(lines[0] ?? '')) || block.some(isKnown);
  if (!isHeader) return { preface: [], header: [], rest: [mark, ...lines] };
  const first = start + block.findIndex(isField);
  return { preface: lines.slice(0, first), header: lines.slice(first, end), rest: lines.slice(end) };
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
      'From x\n\n\n \nhello\nSubject: x\nBcc: y\n\n',
      '\xef\xbb\xbfTo: b\nBcc: y\n',
    ].map(text => Buffer.from(text, 'latin1')),
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
    '>From x\n',
    '\xef\xbb\xbf',
    'Subject: ',
    '\0',
    '\xff',
  ],
  run(input, random, note) {
    const text = input.toString('latin1').replaceAll('\r', ''); // none comes out of the body decoder
    const octets = Buffer.from(text, 'latin1');
    const out = pass([octets]);
    assert.equal(pass(cut(octets, random)), out, 'it depends on how it was cut');
    assert.ok(out !== undefined || octets.length > maxHeaderOctets, 'it is refused');
    if (out === undefined) return;
    const { preface, header: lines, rest: body } = read(text);
    const labelled = preface.filter(line => /[^ \t\n]/.test(line)).map(line => `X-Line-Before-Header: ${line}`);
    // What has no header is body, behind an empty line.
    const separator = lines.length > 0 || text === '' || text.startsWith('\n') ? '' : '\n';
    const rest = labelled.join('') + separator + withoutBcc(lines) + body.join('');
    assert.ok(out.endsWith(rest), `a field has changed, or a Bcc passes: ${JSON.stringify(out)}`);
    const added = out.slice(0, out.length - rest.length);
    assert.ok(/^(?:Date: now\n)?(?:Message-ID: <made@here>\n)?$/.test(added), added);
    for (const name of [/^date[ \t]*:/im, /^message-id[ \t]*:/im])
      assert.ok(name.test(added + lines.join('')), String(name));
    note(`${added.length} ${separator} ${labelled.length} ${rest.length < text.length} ${Math.min(3, lines.length)}`);
  },
};
