// The fuzzer within the other tests: every target from its corpus (in which every find is kept) for a few seconds,
// always with the same seed. FUZZ_SECONDS: for all of them together; FUZZ_SEED: another one. Longer runs:
// test/fuzz/run.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Random, type Target, cut, fuzz, start } from './fuzzer.ts';

start();
const { targets } = await import('./targets.ts');
const { Body } = await import('../../src/smtp/body.ts');
const [seconds, seed] = [Number(process.env.FUZZ_SECONDS ?? 30), Number(process.env.FUZZ_SEED ?? 1)];

describe('the fuzzer', () => {
  const target: Target = {
    name: 'planted',
    maxOctets: 40,
    seeds: [Buffer.from('hello\r\n')],
    words: ['x', '.', '!'],
    run: () => {},
  };

  it('finds what lies behind a branch, and makes it small', async () => {
    const run = (input: Buffer): void => {
      const body = new Body(true, 1e6);
      const { rest } = body.receive(Buffer.from(input));
      if (rest?.includes('!')) throw new Error('found');
    };
    await assert.rejects(fuzz({ ...target, run }, { seed, seconds: 20 }), /planted: Error: found\ninput ".*\.\\r\\n!"/);
  });

  it('finds what takes too long', async () => {
    const run = (input: Buffer): void => {
      const end = performance.now() + (input.includes('x') ? 90 : 0);
      while (performance.now() < end);
    };
    await assert.rejects(fuzz({ ...target, run }, { seed, seconds: 20 }), /planted: Error: it takes \d+ ms/);
  });

  it('finds what costs more with each octet that comes, octet by octet', async () => {
    const run = (input: Buffer, random: Random): void => {
      const pieces = cut(input, random);
      // As long as copying all octets for each new one takes.
      const end = performance.now() + pieces.length ** 2 / 5e7;
      while (performance.now() < end);
    };
    const found = fuzz({ ...target, run }, { seed, seconds: 60 });
    await assert.rejects(found, /planted: Error: its time grows faster than it, octet by octet/);
  });
});

describe('fuzzing finds nothing in', () => {
  for (const each of targets)
    it(each.name, async t => {
      const { executions, perSecond, blocks } = await fuzz(each, { seed, seconds: seconds / targets.length });
      t.diagnostic(`${each.name}: ${executions} executions, ${perSecond} a second, ${blocks} blocks`);
      assert.ok(executions >= each.seeds.length);
    });
});
