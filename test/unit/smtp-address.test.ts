// Addresses: what the parser makes of them (what it refuses stands in the dialogues).
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseAddress, splitPath } from '../../src/smtp/address.ts';
import { processorMs } from './processor.harness.ts';

describe('an address', () => {
  const taken: readonly (readonly [path: string, local: string, domain: string, text?: string])[] = [
    ['a.b@example.com', 'a.b', 'example.com'],
    ['"a.b"@example.com', 'a.b', 'example.com'],
    ['"a\\"\\\\\\b@ <>"@example.com', 'a"\\b@ <>', 'example.com'],
    ['@one.example,@two.example:a@example.com', 'a', 'example.com', 'a@example.com'],
    ['PostMaster', 'PostMaster', ''],
    ['a@[IPv6:::1]', 'a', '[IPv6:::1]'],
    ['阿@例え.テスト', '阿', '例え.テスト'],
    [
      'bounces+00-a=example.org@example.com'.padStart(100, 'x'),
      'bounces+00-a=example.org'.padStart(88, 'x'),
      'example.com',
    ],
    ['a..b.@example.com', 'a..b.', 'example.com'],
    ['""@example.com', '', 'example.com'],
  ];
  for (const [path, local, domain, text = path] of taken) {
    it(`${path} has the local part ${local}`, () => assert.deepEqual(parseAddress(path), { local, domain, text }));
  }

  it('ends at the bracket that closes it, not at one in a quoted local part', () => {
    assert.deepEqual(splitPath('TO', 'to:<"a> b\\">"@c> NOTIFY=NEVER'), ['"a> b\\">"@c', 'NOTIFY=NEVER']);
    assert.deepEqual(splitPath('FROM', 'FROM: a@b SIZE=1'), ['a@b', 'SIZE=1']);
    for (const text of [
      'TO:<a@b>',
      'FROM:<a@b',
      'FROM:a@b>',
      'FROM:<a@b>x',
      'FROM:"a b"@c',
      'FROM:',
      'FROM: SIZE=1',
      'FROM:"a"@b',
      'FROM:Name <a@b>',
    ])
      assert.equal(splitPath('FROM', text), undefined, text);
  });

  it('parses any address in a moment, also one made to lead it astray', () => {
    for (const part of ['a', '.', '"', '\\"', '"\\', 'a.', '-', '@', '@a,', '@a:', '<', 'a-', '1.', 'ü']) {
      for (const tail of ['', '@', '@x', '"@x', '@x!', ':']) {
        const started = processorMs();
        for (let n = 0; n < 20; n++) parseAddress(part.repeat(1000) + tail);
        assert.ok(processorMs() - started < 500, JSON.stringify([part, tail]));
      }
    }
  });
});
