// Fields of a header, and the addresses of a field: what is read, and what is refused because others might read it
// otherwise.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseAddressList } from '../../src/mail/address-list.ts';
import { bodyOf, fieldsOf } from '../../src/mail/header.ts';
import { processorMs } from './processor.harness.ts';

const read = (text: string): string | undefined =>
  parseAddressList(text)
    ?.map(({ local, domain }) => `${local}@${domain}`)
    .join(' ');

describe('a list of addresses', () => {
  const good: Readonly<Record<string, string>> = {
    ' a@b.example': 'a@b.example',
    'Anton <a@b.example>': 'a@b.example',
    '"Anton, at <x@y>" <a@b.example>': 'a@b.example',
    '=?utf-8?q?Anton?= <a@b.example>': 'a@b.example',
    'J. R. Doe <a@b.example>, c@d.example': 'a@b.example c@d.example',
    'a (x@y, (nested \\) z)) @ b.example\n\t(end)': 'a@b.example',
    '"quoted local"@b.example': 'quoted local@b.example',
    'Team: a@b.example, C <c@d.example>;': 'a@b.example c@d.example',
    'Team: ;': '',
    'A: a@b.example;, c@d.example': 'a@b.example c@d.example',
    'Jürgen <jürgen@grüße.example>': 'jürgen@grüße.example',
    'a@[192.0.2.1]': 'a@[192.0.2.1]',
  };
  for (const [text, addresses] of Object.entries(good))
    it(`is read: ${JSON.stringify(text)}`, () => assert.equal(read(text), addresses));

  const bad = [
    '',
    ' ',
    'Anton',
    'a@b.example c@d.example',
    'a@b.example <c@d.example>',
    '<a@b.example> <c@d.example>',
    '<a@b.example> Anton',
    '<a@b.example',
    'a@b.example,',
    ',a@b.example',
    'a@b.example,, c@d.example',
    'a@b@c.example',
    'two words@b.example',
    '(a@b.example',
    '"a <a@b.example>',
    'A: B: a@b.example;;',
    'A: a@b.example',
    'A: a@b.example; c@d.example',
    'a@b.example;',
    'a\0@b.example',
    'a\\b@b.example',
    '<@x.example:a@b.example>',
    '<>',
    'a@',
    '@b.example',
  ];
  for (const text of bad) it(`is refused: ${JSON.stringify(text)}`, () => assert.equal(read(text), undefined));

  it('is read in linear time', () => {
    const start = processorMs();
    for (const text of ['(', '((', '"', '"\\', 'a,', 'a@b,', '<', '[', '(\\', ' \n', 'a.', 'a:', '\\'])
      read(text.repeat(100_000));
    assert.ok(processorMs() - start < 3000);
  });
});

describe('the fields of a header', () => {
  it('are split at lines that are not folded; a line that is no field is left out', () => {
    const fields = fieldsOf('From : a\n\tb\nno field\n with its fold\nX:\nsubject: c:d');
    assert.deepEqual(
      fields.map(field => [field.name, bodyOf(field)]),
      [
        ['from', ' a\n\tb'],
        ['x', ''],
        ['subject', ' c:d'],
      ],
    );
    assert.deepEqual(fieldsOf(''), []);
  });
});
