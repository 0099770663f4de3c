// The PROXY header, against a reading of another kind: by one pattern for the text, and octet by octet for the binary
// form. However it comes in pieces, the verdict is the same, falls once, and covers no octet of the client.
// An input: what a proxy sends first, and what its client sends behind it.
import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { type Verdict, maxHeaderOctets, parseProxyHeader } from '../../src/inbound/proxy-header.ts';
import { kept } from './corpus.ts';
import { type Target, cut } from './fuzzer.ts';

const signature = '\r\n\r\n\0\r\nQUIT\n';

/** Octets of the header, and whether it names a client; undefined: it is none, or not whole. */
function scan(text: string): { octets: number; isClient: boolean } | undefined {
  const [line, family, words] = /^PROXY (TCP4|TCP6|UNKNOWN)((?: [^]*?)?)\r\n/.exec(text) ?? [];
  if (line !== undefined && line.length <= 107) {
    if (family === 'UNKNOWN') return { octets: line.length, isClient: false };
    const [, from = '', to = '', ...ports] = /^ (\S+) (\S+) (\d{1,5}) (\d{1,5})$/.exec(words ?? '') ?? [];
    const wanted = family === 'TCP4' ? 4 : 6;
    const isGood = isIP(from) === wanted && isIP(to) === wanted && !`${from}${to}`.includes('%');
    if (isGood && ports.every(port => Number(port) < 65_536)) return { octets: line.length, isClient: true };
  }
  if (!text.startsWith(signature) || text.length < 16) return undefined;
  const [command = 0, family2 = 0, high = 0, low = 0] = [12, 13, 14, 15].map(at => text.charCodeAt(at));
  const length = 256 * high + low;
  if (16 + length > maxHeaderOctets || text.length < 16 + length) return undefined;
  if (command === 0x20) return { octets: 16 + length, isClient: false };
  const needs = new Map([
    [0, 0],
    [0x11, 12],
    [0x21, 36],
    [0x31, 216],
  ]).get(family2);
  if (command !== 0x21 || needs === undefined || length < needs) return undefined;
  return { octets: 16 + length, isClient: family2 === 0x11 || family2 === 0x21 };
}

function inPieces(pieces: readonly Buffer[]): Verdict {
  let held = Buffer.alloc(0);
  for (const piece of pieces) {
    held = Buffer.concat([held, piece]);
    const verdict = parseProxyHeader(held);
    if (verdict.kind !== 'incomplete') return verdict;
  }
  return { kind: 'incomplete' };
}

const hex = (text: string): string => Buffer.from(text, 'hex').toString('latin1');
export const proxy: Target = {
  name: 'proxy',
  maxOctets: 300,
  seeds: [
    ...kept('proxy'),
    ...[
      'PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\nEHLO x\r\n',
      'PROXY TCP6 2001:db8::7 ::1 1 65535\r\n',
      'PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n',
      'PROXY UNKNOWN\r\n',
      `${signature}${hex('20000000')}EHLO x\r\n`,
      `${signature}${hex('2111000cc0000207c63364019c400019')}`,
      `${signature}${hex(`21210024${'20010db8'.padEnd(32, '0')}${'1'.padStart(32, '0')}9c400019`)}`,
      `${signature}${hex(`213100d8${'0'.repeat(432)}`)}`,
    ].map(text => Buffer.from(text, 'latin1')),
  ],
  words: [
    'PROXY ',
    'TCP4 ',
    'TCP6 ',
    'UNKNOWN',
    '192.0.2.7 ',
    '::1 ',
    '::ffff:1.2.3.4 ',
    'fe80::1%a ',
    '25',
    '65536',
    ' ',
    '\r\n',
    '\n',
    '\0',
    signature,
    '\x20',
    '\x21',
    '\x11',
    '\x31',
    '\0\x0c',
    '\0\x24',
    '\x0f\xf0',
    '\xff\xff',
  ],
  run(input, random, note) {
    const whole = parseProxyHeader(input);
    const found = scan(input.toString('latin1'));
    assert.deepEqual(inPieces(cut(input, random)), whole, 'it depends on how it was cut');
    const isRead = whole.kind === 'client' || whole.kind === 'nobody';
    assert.equal(isRead ? whole.octets : undefined, found?.octets, 'the scanner says otherwise');
    if (isRead) assert.equal(whole.kind === 'client', found?.isClient);
    if (whole.kind === 'client')
      assert.ok(isIP(whole.client) > 0 && !/%|^::ffff:\d+\./.test(whole.client), whole.client);
    if (whole.kind === 'incomplete') assert.ok(input.length < maxHeaderOctets, 'it could go on for ever');
    note(`${whole.kind} ${isRead && whole.octets < input.length}`);
  },
};
