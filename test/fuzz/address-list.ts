// The addresses of a field such as From, by which a login's mail is checked and a signature's domain is found. Of lists
// that are built here the very addresses come out, whatever comments, folds, names and groups stand between; of any
// text, no author is overlooked: a list that is read has as many addresses as there are `@` outside of comments, quotes
// and literals.
// An input: an octet (built or any), then octets from which the list is made. RFC 5322 §3.4 and §4.4.
import assert from 'node:assert/strict';
import { parseAddressList } from '../../src/mail/address-list.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const between = ['', '', ' ', '\t', '\n ', '(c)', ' (a (b) \\) ,<x@y>) ', '\r\n\t'];
const names = ['Anna ', 'J. R. Doe ', '"Doe, J." ', '"a\\"b" x ', ''];
const addresses = ['a@b.example', '"a b"@b.example', 'x.y@[192.0.2.1]', '"@"@b.example', '\xe4@b.example', 'a+b@b'];

/** A list, and what it holds. */
function build(octets: Buffer): { text: string; wanted: string[] } {
  const wanted: string[] = [];
  let at = 0;
  const pick = (list: readonly string[]): string => list[(octets[at++] ?? 0) % list.length] ?? '';
  const mailbox = (): string => {
    const [name, address] = [pick(names), pick(addresses)];
    wanted.push(address);
    const gap = pick(between);
    if (name === '' && (octets[at++] ?? 0) % 2 === 0) return `${gap}${address}${pick(between)}`;
    return `${pick(between)}${name}${gap}<${pick(between)}${address}${pick(between)}>${pick(between)}`;
  };
  const entries: string[] = [];
  do {
    if ((octets[at++] ?? 0) % 5 !== 4) entries.push(mailbox());
    else {
      const length = (octets[at++] ?? 0) % 3;
      entries.push(`${pick(between)}Group${pick(between)}:${Array.from({ length }, mailbox).join(',')};`);
    }
  } while (at < octets.length && entries.length < 50);
  return { text: entries.join(','), wanted };
}

/** How many `@` stand outside of comments, quotes and literals; undefined: one of these has no end. */
function count(text: string): number | undefined {
  let [found, depth, until] = [0, 0, ''];
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at] ?? '';
    if (character === '\\' && (depth > 0 || until === '"')) at += 1;
    else if (until !== '') until = character === until ? '' : until;
    else if (character === '(') depth += 1;
    else if (character === ')') depth -= 1;
    else if (depth > 0) continue;
    else if (character === '"') until = '"';
    else if (character === '[') until = ']';
    else if (character === '@') found += 1;
  }
  return depth === 0 && until === '' ? found : undefined;
}

const textsOf = (text: string): readonly string[] | undefined => parseAddressList(text)?.map(each => each.text);

export const addressList: Target = {
  name: 'address-list',
  maxOctets: 160,
  seeds: [
    ...kept('address-list'),
    Buffer.from('\x00\x00\x01\x02\x03\x04\x05\x06\x07\x09\x04\x02'),
    ...[
      'a@b',
      'Anna <a@b.example>, g: x@y, "z z" <z@z>;',
      '(a(b)c)a@b(d)',
      '"a\\"@b',
      'a@[x@y]',
      'x <a@b> <c@d>',
      'a b@c',
      'a@b;',
      ':;',
    ].map(text => Buffer.from(`\x01${text}`)),
  ],
  words: ['<', '>', '@', ',', ';', ':', '.', '"', '\\', '(', ')', '[', ']', ' ', '\n ', 'a@b', '"a"', '\xc3\xa4', '\0'],
  run(input, _random, note) {
    const [how = 0] = input;
    const octets = input.subarray(1);
    if (how % 2 === 0) {
      const { text, wanted } = build(octets);
      assert.deepEqual(textsOf(text), wanted, `other addresses than those of ${JSON.stringify(text)}`);
      note(`built ${Math.min(5, wanted.length)}`);
      return;
    }
    const text = octets.toString();
    const found = textsOf(text);
    note(`${found?.length} ${count(text)}`);
    if (found === undefined) return;
    assert.equal(found.length, count(text), 'an author is overlooked');
    // It is the same within other words, so that no reader of a part sees another author.
    assert.deepEqual(textsOf(`(c)${text}\n (d)`), found);
    assert.deepEqual(textsOf(`${text},z@z.example`), [...found, 'z@z.example']);
    if (!text.includes(':')) assert.deepEqual(textsOf(`g:${text};`), found);
  },
};
