// What other servers say, made into replies: the cost of tiny pieces, what is held meanwhile, and what a reply means
// for a recipient.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ReplyReader, toDelivery } from '../../src/outbound/replies.ts';

describe('the reader of replies', () => {
  it('takes a long reply octet by octet in linear time: not in the square of its lines', () => {
    const fastestMs = (lines: number): number => {
      const text = Buffer.from(`${`250-${'x'.repeat(4000)}\r\n`.repeat(lines)}250 end\r\n`);
      let fastest = Infinity;
      for (let round = 0; round < 10; round += 1) {
        const reader = new ReplyReader();
        const startedAt = performance.now();
        let reply;
        for (let at = 0; at < text.length; at += 1) {
          reader.receive(text.subarray(at, at + 1));
          reply = reader.next();
        }
        fastest = Math.min(fastest, performance.now() - startedAt);
        assert.equal(reply?.code, 250);
        assert.equal(reply.lines.length, lines + 1);
      }
      return fastest;
    };
    fastestMs(16); // until the code is compiled
    const [one, sixteen] = [fastestMs(1), fastestMs(16)];
    assert.ok(sixteen < (16 * 16 * one) / 2, `${one} and ${sixteen} ms`);
  });

  it('holds no piece that it was given: each may be one octet of 64 KiB', () => {
    const reader = new ReplyReader();
    const piece = Buffer.from('250 he');
    reader.receive(piece);
    piece.fill('?');
    reader.receive(Buffer.from('llo\r\n250 again\r\n2'));
    assert.deepEqual(reader.next(), { code: 250, lines: ['hello'] });
    assert.equal(reader.isEmpty, false);
    assert.deepEqual(reader.next(), { code: 250, lines: ['again'] });
    assert.equal(reader.next(), undefined);
    reader.receive(Buffer.from('21\r\n'));
    assert.deepEqual(reader.next(), { code: 221, lines: [''] });
    assert.equal(reader.isEmpty, true);
  });

  it('gives a tab as a blank, and other controls as a question mark', () => {
    const reader = new ReplyReader();
    reader.receive(Buffer.from('250-AUTH\tPLAIN\r\n250 a\x00b\r\n'));
    assert.deepEqual(reader.next()?.lines, ['AUTH PLAIN', 'a?b']);
  });
});

describe('a reply means', () => {
  const table: readonly [code: number, text: string, mayAccept: boolean, meaning: string][] = [
    [250, '2.1.5 ok', true, 'delivered 2.1.5'],
    [250, 'ok', true, 'delivered 2.0.0'],
    [250, '5.1.1 ok', true, 'delivered 2.0.0'],
    [250, 'ok', false, 'deferred 4.5.0'],
    [354, 'go', true, 'deferred 4.5.0'],
    [451, '4.7.1 greylisted', true, 'deferred 4.7.1'],
    [550, 'no', true, 'failed 5.0.0'],
    [421, '4.7.0 too many', true, 'deferred 4.7.0 busy'],
    [432, '4.3.2 too many', true, 'deferred 4.3.2 busy'],
    [0, 'closed', true, 'deferred 4.4.2'],
  ];
  for (const [code, text, mayAccept, meaning] of table)
    it(`${code} ${text}${mayAccept ? '' : ', where it may not accept'}: ${meaning}`, () => {
      const { kind, status, isBusy } = toDelivery({ code, lines: [text] }, mayAccept);
      assert.equal(`${kind} ${status}${isBusy ? ' busy' : ''}`, meaning);
    });
});
