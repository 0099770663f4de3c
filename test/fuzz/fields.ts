// The fields of a header, read line by line here, in one go and in windows there: for signing (all fields), and for
// what says how a message from outside is to be judged, wherever in a long header it stands.
// An input: an octet (how much stands before it, so that it lies across the edge of a window, or none), then a message.
import assert from 'node:assert/strict';
import { findFields } from '../../src/inbound/fields.ts';
import { fieldsOf } from '../../src/mail/header.ts';
import { inMemory } from '../../src/mail/message.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

const wanted = new Set([
  'from',
  'list-id',
  'dkim-signature',
  'arc-seal',
  'arc-message-signature',
  'arc-authentication-results',
  'authentication-results',
]);
const keptOctets: Readonly<Record<string, number>> = { from: 8192, 'authentication-results': 512 };
/** Where the second window of a header begins. */
const edge = 56 * 1024;

type Read = { name: string; at: number; text: string };
/** Each field with its place, by going from line to line. */
function plainly(header: string): Read[] {
  const fields: (Read | undefined)[] = [];
  let at = 0;
  for (const line of header.split('\n')) {
    const last = fields.at(-1);
    if (/^[ \t]/.test(line) && at > 0) {
      if (last) last.text += `\n${line}`;
    } else {
      const name = /^([!-9;-~]+)[ \t]*:/.exec(line)?.[1];
      fields.push(name === undefined ? undefined : { name: name.toLowerCase(), at, text: line });
    }
    at += line.length + 1;
  }
  return fields.filter(each => each !== undefined);
}

export const fields: Target = {
  name: 'fields',
  maxOctets: 300,
  isSlow: true,
  seeds: [
    ...kept('fields'),
    ...[
      '\x00From: a@b\nTo: c\n\tFrom: x\nDKIM-Signature : v\n\nFrom: y',
      '\x00\nFrom: a@b\n',
      '\x00 From: a@b\nlist-ID: <x>\nAuthentication-Results: mx;\n spf=pass\n',
      '\x80From: a@b\n c\nARC-Seal: i=1\n\nx',
      '\x81\nFrom: a@b\n\n',
    ].map(text => Buffer.from(text, 'latin1')),
  ],
  words: (
    '\n|\n\n|\n |\n\t|:| :| |From:|from: a@b\n|List-Id:|DKIM-Signature:|ARC-Seal:|X: y\n|\0|\xff|' +
    'ARC-Authentication-Results: i=1;|Authentication-Results: mx;\n\tspf=pass\n'
  ).split('|'),
  async run(input, random, note) {
    const [how = 0] = input;
    const own = input.toString('latin1', 1).replaceAll('\r', ''); // none comes out of the body decoder
    const before = how < 128 ? '' : `X: ${'y'.repeat(edge - how + 60)}\n`;
    const octets = Buffer.from(before + own, 'latin1');
    const text = octets.toString('latin1');
    const end = text.startsWith('\n') ? 0 : text.indexOf('\n\n');
    const header = end < 0 ? text : text.slice(0, end);
    const read = plainly(header);
    assert.deepEqual(
      fieldsOf(header).map(each => [each.name, each.text]),
      read.map(each => [each.name, each.text]),
      'other fields',
    );
    const cuts = cut(octets, random);
    const pieces = cuts.length > 1000 ? [octets] : cuts;
    const found = await findFields({ message: inMemory(...pieces), start: 0 });
    assert.equal(found.headerOctets, header.length, 'another header');
    const due = read.filter(({ name }) => wanted.has(name)).slice(0, 5000);
    assert.deepEqual(
      found.fields.map(({ name, at }) => [name, at]),
      due.map(({ name, at }) => [name, at]),
      'other fields are found',
    );
    for (const [index, field] of found.fields.entries()) {
      const { name, text: whole } = due[index] ?? assert.fail();
      const most = keptOctets[name] ?? 0;
      assert.ok(field.isCut || field.text === whole, 'a field is cut, and does not say so');
      assert.ok(whole.startsWith(field.text) && field.text.length <= most, 'another text');
      assert.ok(!field.isCut || whole.length > most || whole.length > 8000, 'a short field is cut');
    }
    note(
      `${how < 128} ${Math.min(4, read.length)} ${due
        .map(({ name }) => name.length)
        .join(',')
        .slice(0, 30)}`,
    );
  },
};
