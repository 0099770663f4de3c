// The body decoder: what ends a message and what does not, against a table and against a naive decoder that looks at
// one octet after another (RFC 5321 §4.1.1.4, §4.5.2; RFC 3030).
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Body } from '../../src/smtp/body.ts';
import { numbers } from '../numbers.ts';

type Outcome = { readonly content: string; readonly rest: string | undefined; readonly defect: string | undefined };

/**
 * Runs pieces through a decoder, as a session does. `content` is what a driver would have kept: nothing of a refused
 * message.
 */
function decode(pieces: readonly string[], isDotted: boolean, maxSizeBytes: number): Outcome {
  const body = new Body(isDotted, maxSizeBytes);
  let content = '';
  for (const [i, piece] of pieces.entries()) {
    const got = body.receive(Buffer.from(piece, 'latin1'));
    content += got.content.toString('latin1');
    if (got.rest === undefined) continue;
    const rest = got.rest.toString('latin1') + pieces.slice(i + 1).join('');
    return { content: body.defect === undefined ? content : '', rest, defect: body.defect };
  }
  if (!isDotted) content += body.finish().toString('latin1');
  return { content: body.defect === undefined ? content : '', rest: undefined, defect: body.defect };
}

/** The same, plainly: the whole is here, and quadratic time is no matter. */
function naive(whole: string, isDotted: boolean, maxSizeBytes: number): Outcome {
  const end = isDotted ? `\r\n${whole}`.indexOf('\r\n.\r\n') : -1;
  const text = end < 0 ? whole : whole.slice(0, end);
  const lines = text.split('\r\n').map(line => (isDotted && line.startsWith('.') ? line.slice(1) : line));
  let content = lines.join('\r\n');
  const isMalformed = lines.some(line => /[\r\n]/.test(line));
  const defect = isMalformed ? 'malformed' : content.length > maxSizeBytes ? 'too big' : undefined;
  if (!isDotted && content !== '' && !content.endsWith('\r\n')) content += '\r\n';
  content = content.replaceAll('\r\n', '\n');
  return { content: defect === undefined ? content : '', rest: end < 0 ? undefined : whole.slice(end + 3), defect };
}

describe('the body decoder', () => {
  const kept: readonly (readonly [sent: string, content: string])[] = [
    ['.\r\n', ''],
    ['\r\n.\r\n', '\n'],
    ['a\r\n.\r\n', 'a\n'],
    ['..\r\n...\r\n.a\r\n.\r\n', '.\n..\na\n'],
    ['a.\r\n .\r\n. \r\n.\r\n', 'a.\n .\n \n'],
    ['\0.\r\n.\0\r\n\xff\r\n.\r\n', '\0.\n\0\n\xff\n'],
  ];
  for (const [sent, content] of kept) {
    it(`takes ${JSON.stringify(sent)} for one whole message`, () => {
      assert.deepEqual(decode([`${sent}NOOP`], true, 100), { content, rest: 'NOOP', defect: undefined });
      assert.deepEqual(decode([...sent, 'NOOP'], true, 100), { content, rest: 'NOOP', defect: undefined });
    });
  }

  const ends = [
    '\n.\n',
    '\n.\r\n',
    '\r\n.\n',
    '\r.\r',
    '\r.\r\n',
    '\r\n.\r',
    '\r\n.\r\r\n',
    '\n\r.\r\n',
    '\r\n\0.\r\n',
  ];
  for (const end of [...ends, '\r\n.\0\r\n', '\r\n.\r\0\n', '\r\r\n.\n', '\r\n.\n\r\n', '.\r\n']) {
    it(`does not end a message at ${JSON.stringify(end)}`, () => {
      const sent = `a${end}b\r\n.\r\nNOOP`;
      assert.equal(decode([sent], true, 100).rest, 'NOOP');
      assert.equal(decode([...sent], true, 100).rest, 'NOOP');
      const isClean = !/\r(?!\n)|(?<!\r)\n/.test(end);
      assert.equal(decode([sent], true, 100).defect, isClean ? undefined : 'malformed');
    });
  }

  it('counts what SIZE counts: CRLF as two, stuffed dots and the end mark not at all', () => {
    const sent = '..23\r\n7890\r\n.\r\n';
    assert.equal(decode([sent], true, 11).defect, undefined);
    assert.equal(decode([sent], true, 10).defect, 'too big');
  });

  it('gives a BDAT body the line end that it lacks, and does not count it', () => {
    assert.deepEqual(decode(['.\r\nab'], false, 5), { content: '.\nab\n', rest: undefined, defect: undefined });
    assert.deepEqual(decode([''], false, 5), { content: '', rest: undefined, defect: undefined });
    assert.equal(decode(['ab\r'], false, 5).defect, 'malformed');
  });

  it('gives no content any more once the message is refused', () => {
    const body = new Body(true, 10);
    assert.equal(body.receive(Buffer.from('a\nb\r\n')).content.length, 0);
    assert.equal(body.receive(Buffer.from('clean\r\n')).content.length, 0);
    const big = new Body(true, 10);
    assert.equal(big.receive(Buffer.from('12345678\r\n')).content.length, 9);
    assert.equal(big.receive(Buffer.from('1')).content.length, 0);
  });

  it('agrees with a naive decoder on 20,000 random bodies, however they are cut', () => {
    const below = numbers(20_251_122);
    const pieces = ['\r\n', '\r\n', '\r\n.\r\n', '\r', '\n', '.', '.', 'a', 'bc', '\0', '\r\n.', '\r\n..'];
    for (let n = 0; n < 20_000; n++) {
      const tame = below(2) === 0; // half of them without bare CR and LF, else most would be refused
      const sent = Array.from({ length: below(12) }, () => pieces[below(pieces.length)] ?? '')
        .filter(piece => !tame || (piece !== '\r' && piece !== '\n'))
        .join('');
      const isDotted = below(3) > 0;
      const limit = below(4) === 0 ? below(12) : 100;
      const [one, two] = [below(sent.length + 1), below(sent.length + 1)].toSorted((a, b) => a - b);
      const expected = naive(sent, isDotted, limit);
      for (const cut of [[sent], [sent.slice(0, one), sent.slice(one, two), sent.slice(two)]]) {
        const { content, rest, defect } = decode(cut, isDotted, limit);
        const shown = JSON.stringify({ cut, isDotted, limit });
        assert.equal(rest, expected.rest, shown);
        // Before its end, a dotted body may hold back octets that it cannot judge yet.
        if (isDotted && rest === undefined)
          assert.ok(defect || expected.defect || expected.content.startsWith(content.slice(0, -1)));
        else assert.deepEqual({ content, defect }, { content: expected.content, defect: expected.defect }, shown);
      }
    }
  });

  it('searches each octet a few times at most, whatever floods in', () => {
    for (const flood of ['\n', '\r', '.', '\r\n', '\r\n.', '\r\n..', '.\r', '\n\r', 'x']) {
      const octets = Buffer.from(flood.repeat(16_384));
      let passed = 0; // what a search passes over lies between where it began and what it found
      const indexOf = (octet: number, from: number): number => {
        const found = Buffer.prototype.indexOf.call(octets, octet, from);
        passed += (found < 0 ? octets.length : found) - from + 1;
        return found;
      };
      new Body(true, 1e9).receive(Object.defineProperty(octets, 'indexOf', { value: indexOf }));
      assert.ok(passed < 8 * octets.length, `${JSON.stringify(flood)}: ${passed} octets searched of ${octets.length}`);
    }
  });

  it('copies nothing but what it holds back, also when octets come one by one', t => {
    const concat = t.mock.method(Buffer, 'concat');
    const body = new Body(true, 1e9);
    for (const octet of '..a\r\n.\r'.repeat(100)) body.receive(Buffer.from(octet));
    for (const call of concat.mock.calls) assert.ok((call.result?.length ?? 0) <= 5);
  });
});
