// Fields that claim to be our own word on a message (Authentication-Results with our name): every form of our name is
// known as one, no other server's is, and nothing that is not known as a claim is ever sealed by us as our word.
// An input: an octet (built or any), then octets from which the field is made. RFC 8601 §2.2, RFC 8617 §4.1.1.
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { arcSet } from '../../src/dkim/seal.ts';
import { isClaim } from '../../src/inbound/claims.ts';
import { fieldsOf } from '../../src/mail/header.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const hostname = 'mx.example.com';
const by = {
  domain: 'example.com',
  selector: 's',
  algorithm: 'ed25519',
  key: generateKeyPairSync('ed25519').privateKey,
} as const;

const between = ['', ' ', '\n\t', '(c)', '(a(b)\\)c) ', '\n (x; mx.other.example)'];
const ours = ['mx.example.com', 'MX.Example.COM', '"mx.example.com"', '"mx.example\\.com"'];
const others = ['mx.example.com.other.example', 'mx.example.co', 'xmx.example.com', 'example.com', '(mx.example.com)y'];
const versions = ['', '', ' 1', '\n 1', '(c)1'];

function build(octets: Buffer): { text: string; isOurs: boolean } {
  let at = 0;
  const pick = (list: readonly string[]): string => list[(octets[at++] ?? 0) % list.length] ?? '';
  const isOurs = (octets[at++] ?? 0) % 2 === 0;
  const name = pick(['Authentication-Results', 'authentication-results', 'Authentication-Results ']);
  const id = `${pick(between)}${pick(isOurs ? ours : others)}${pick(between)}`;
  const text = `${name}:${id}${pick(versions)}${pick(between)}${pick(['; spf=pass', ';none', '; dkim=pass header.d=x'])}`;
  return { text, isOurs };
}

export const claims: Target = {
  name: 'claims',
  maxOctets: 120,
  isSlow: true, // the thread pool signs
  seeds: [
    ...kept('claims'),
    Buffer.from('\x00\x00\x00\x02\x01\x03\x02\x00'),
    Buffer.from('\x00\x01\x01\x02\x01\x03\x02\x00'),
    ...[
      'mx.example.com; spf=pass',
      ' "mx.example.com" 1; none',
      '(x(y) mx.example.com; spf=pass',
      ' mx.example.com 1 ; arc=pass',
      'mx.example.com',
    ].map(text => Buffer.from(`\x01${text}`)),
  ],
  words: [
    'mx.example.com',
    'MX.',
    '"',
    '\\',
    '(',
    ')',
    ';',
    ' ',
    '\n ',
    '\n\t',
    '1',
    '.',
    '/',
    'spf=pass',
    '\0',
    '\xa0',
    '\v',
    '\x85',
  ],
  async run(input, _random, note) {
    const [how = 0] = input;
    const isBuilt = how % 2 === 0;
    const { text, isOurs } = isBuilt
      ? build(input.subarray(1))
      : {
          text: `Authentication-Results:${input.toString('latin1', 1).replaceAll(/\r|\n(?![ \t])/g, '')}`,
          isOurs: false,
        };
    const [field] = fieldsOf(text);
    if (field === undefined) return;
    const isKnown = isClaim({ ...field, at: 0, isCut: false }, hostname);
    if (isBuilt) assert.equal(isKnown, isOurs, `of ${JSON.stringify(text)}`);
    const message = { fields: fieldsOf(`From: a@b\n${text}`), bodyDigest: 'x', now: 0, authservId: hostname };
    const isSealed = !isKnown && (await arcSet(message, by)) !== '';
    assert.ok(!isSealed, `what somebody else has written would be sealed as ours: ${JSON.stringify(text)}`);
    note(`${isBuilt} ${isKnown} ${isSealed}`);
  },
};
