// The questions to the DNS of one message: budgets, what the parts of a judgement leave to each other, what is kept.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { maxQuestions, partsMs } from '../../src/judge/limits.ts';
import { Questions } from '../../src/judge/questions.ts';

const fail = (code: string) => Object.assign(new Error(code), { code });
const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'an answer',
    (error: NodeJS.ErrnoException) => error.code,
  );

function setUp(answer: (name: string) => readonly unknown[]) {
  const asked: string[] = [];
  let now = 0;
  const records = async (name: string, type: string) => {
    asked.push(`${name} ${type}`);
    return answer(name);
  };
  const questions = new Questions({ records }, { now: () => now });
  return { asked, questions, pass: (ms: number) => void (now += ms) };
}

describe('the questions of a message', () => {
  it('have a budget for each part, and beyond it an answer that harms nobody else', async () => {
    const { asked, questions } = setUp(() => [['x']]);
    const part = questions.forMessage();
    for (const [name, code] of [
      ['spf', 'ETOOMANY'],
      ['keys', 'ENOTFOUND'],
      ['dmarc', 'ETIMEOUT'],
    ] as const) {
      const ask = part(name);
      for (let n = 0; n < maxQuestions[name]; n += 1) await ask(`${n}.${name}.example`, 'TXT');
      assert.equal(await codeOf(ask(`one-more.${name}.example`, 'TXT')), code);
    }
    assert.equal(asked.length, 50);
  });

  it('that SPF has given up are asked again for DMARC', async () => {
    const { asked, questions, pass } = setUp(() => [['v=DMARC1; p=reject']]);
    const part = questions.forMessage();
    const [spf, dmarc] = [part('spf'), part('dmarc')];
    pass(partsMs);
    assert.equal(await codeOf(spf('_dmarc.example.com', 'TXT')), 'ETIMEOUT');
    assert.deepEqual(asked, []);
    assert.equal(await codeOf(dmarc('_dmarc.example.com', 'TXT')), 'an answer');
  });

  it('that have failed are asked again, those that were answered are not', async () => {
    let code: string | undefined = 'ESERVFAIL';
    const { asked, questions, pass } = setUp(() => {
      if (code !== undefined) throw fail(code);
      return [['x']];
    });
    const ask = questions.forMessage()('dmarc');
    assert.equal(await codeOf(ask('a.example', 'TXT')), 'ESERVFAIL');
    code = 'ENOTFOUND';
    assert.equal(await codeOf(ask('a.example', 'TXT')), 'ENOTFOUND');
    code = undefined;
    assert.equal(await codeOf(ask('A.example.', 'TXT')), 'ENOTFOUND');
    // For other messages an answer counts for five seconds.
    assert.equal(await codeOf(questions.forMessage()('keys')('a.example', 'TXT')), 'ENOTFOUND');
    pass(5001);
    assert.equal(await codeOf(questions.forMessage()('keys')('a.example', 'TXT')), 'an answer');
    assert.equal(asked.length, 3);
  });

  it('that were answered in time are known beyond it', async () => {
    const { questions, pass } = setUp(() => [['x']]);
    const ask = questions.forMessage()('keys');
    await ask('s._domainkey.example.com', 'TXT');
    pass(partsMs + 6000);
    assert.equal(await codeOf(ask('s._domainkey.example.com', 'TXT')), 'an answer');
  });

  it('for a name that nobody can have are answered with no', async () => {
    const { questions } = setUp(() => {
      throw fail('EBADNAME');
    });
    assert.equal(await codeOf(questions.forMessage()('keys')('x', 'TXT')), 'ENOTFOUND');
  });
});
