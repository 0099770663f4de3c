// The form in which addresses are compared: which spellings are one mailbox, and which texts are none.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { toDomain, toMailbox } from '../../src/mail/address.ts';

describe('a domain', () => {
  const same: readonly (readonly [name: string, domain: string])[] = [
    ['Example.COM', 'example.com'],
    ['example.com.', 'example.com'],
    ['BÜCHER.example', 'xn--bcher-kva.example'],
    ['bücher\u3002example', 'xn--bcher-kva.example'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
    ['_dmarc.example.com', '_dmarc.example.com'],
  ];
  for (const [name, domain] of same) it(`${name} is ${domain}`, () => assert.equal(toDomain(name), domain));

  const controls = ['\0', '\t', '\n', '\r', '\r\n', '\x1b', '\x7f', '\u0085', '\u2028', '\u2029'];
  // What Node's URL parser would decode, or take for the end of a host.
  const marks = ['/', '/x', '?x', '#x', '\\x', '%2E', '%0a', '@', ':25', ' '];
  for (const name of ['example.com', 'bücher.example'])
    for (const mark of [...controls, ...marks]) {
      it(`${JSON.stringify(name + mark)} is none`, () => assert.equal(toDomain(name + mark), undefined));
      const within = name.replace('e', `${mark}e`);
      it(`${JSON.stringify(within)} is none`, () => assert.equal(toDomain(within), undefined));
    }
});

describe('a mailbox', () => {
  for (const local of ['alice\n', '\talice', 'al\0ice', 'alice\x7f', 'älice\u0085', 'älice\u2029'])
    it(`${JSON.stringify(local)} names none`, () =>
      assert.equal(toMailbox({ local, domain: 'example.com' }), undefined));

  it('has any other character in its local part', () =>
    assert.deepEqual(toMailbox({ local: 'A b"@\u00ad', domain: '' }), { local: 'a b"@\u00ad', domain: '' }));
});
