// Which fields of a header are found, wherever they stand, and which of them claim to be our own word.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { harmlessName, isClaim } from '../../src/inbound/claims.ts';
import { findFields } from '../../src/inbound/fields.ts';
import { inMemory } from '../../src/mail/message.ts';

const find = (header: string) => findFields({ message: inMemory(Buffer.from(`ours\n${header}`)), start: 5 });

describe('the fields that matter', () => {
  it('are found with their places, folded or not, and not in the body', async () => {
    const text = 'X: from: a\nFROM: a@example.com,\n b@example.com\nList-Id : <x>\nSubject: s\n\nFrom: body\n';
    const { fields, headerOctets } = await find(text);
    assert.deepEqual(
      fields.map(({ name, at, text: field }) => [name, at, field]),
      [
        ['from', 11, 'FROM: a@example.com,\n b@example.com'],
        ['list-id', 47, ''],
      ],
    );
    assert.equal(headerOctets, text.indexOf('\n\n'));
  });

  it('are none where there is no header', async () => {
    assert.deepEqual(await find('\nFrom: a\n'), { fields: [], headerOctets: 0 });
    assert.deepEqual(await find(''), { fields: [], headerOctets: 0 });
  });

  it('are found once, and whole, in a header of any length', async () => {
    for (let before = 57_000; before < 66_500; before += 411) {
      const text = `X: ${'x'.repeat(before)}\nAuthentication-Results: mx.example.com; spf=pass\nY: ${'y'.repeat(70_000)}\n\n`;
      const { fields } = await find(text);
      assert.deepEqual(
        fields.map(({ name, at, isCut }) => [name, at, isCut]),
        [['authentication-results', before + 4, false]],
      );
    }
  });
});

describe('a claim to be our word', () => {
  const claims = async (value: string): Promise<boolean> => {
    const [field] = (await find(`Authentication-Results:${value}\n\n`)).fields;
    return field !== undefined && isClaim(field, 'mx.example.com');
  };
  for (const value of [
    ' mx.example.com; spf=pass',
    ' MX.Example.COM;spf=pass',
    '\n\t(a (nested) comment with \\) in it)\n mx.example.com (another) 1; none',
    ' "mx.example.com"; spf=pass',
    ' mx.example.com and more; spf=pass',
    ' mx.example.com(c)x; spf=pass',
    ' "mx.\\example.com" ; spf=pass',
    ' mx.example.com',
    ' mx.example.com.; spf=pass',
    ' mx.example.com/1; spf=pass',
  ])
    it(`is${JSON.stringify(value)}`, async () => assert.equal(await claims(value), true));
  for (const value of [
    ' mx.example.org; spf=pass',
    ' mx.example.com.evil.example; spf=pass',
    ' (mx.example.com) other.example; spf=pass',
    ' amx.example.com;',
  ])
    it(`is not${JSON.stringify(value)}`, async () => assert.equal(await claims(value), false));
  it('gets a name of the same length', () => assert.equal(harmlessName.length, 'Authentication-Results'.length));
});
