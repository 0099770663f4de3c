// The header of the PROXY protocol, as a table: every row is read whole, and cut at every octet.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { maxHeaderOctets, parseProxyHeader } from '../../src/inbound/proxy-header.ts';

const signature = '\r\n\r\n\0\r\nQUIT\n';
/** Version 2, written from its description: version and command, family, length, the rest. */
const binary = (command: number, family: number, rest: Buffer, length = rest.length): Buffer =>
  Buffer.concat([Buffer.from(signature), Buffer.from([command, family, length >> 8, length & 255]), rest]);
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');
const ipv4 = hex('c0000207 c6336401 9c40 0019');
const ipv6 = hex('20010db8000000000000000000000007 20010db8000000000000000000000001 9c40 0019');
const mapped = hex('00000000000000000000ffffc0000207 00000000000000000000ffffc6336401 9c40 0019');
/** A TLV, as proxies add them for TLS. */
const tlv = hex('20 0005 01 00000000');

const clients: readonly (readonly [string, string | Buffer, string])[] = [
  ['IPv4', 'PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n', '192.0.2.7'],
  ['IPv6, which is written as the kernel would', 'PROXY TCP6 2001:DB8:0:0::7 ::1 1 65535\r\n', '2001:db8::7'],
  ['IPv4 as IPv6', 'PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 25\r\n', '192.0.2.7'],
  ['IPv4 as IPv6, in hexadecimal', 'PROXY TCP6 ::ffff:c000:207 ::1 1 25\r\n', '192.0.2.7'],
  [
    'the longest line of addresses',
    'PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n'.replaceAll(
      'ffff:f...f:ffff',
      Array(8).fill('ffff').join(':'),
    ),
    'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
  ],
  ['binary IPv4', binary(0x21, 0x11, ipv4), '192.0.2.7'],
  ['binary IPv4 with details of TLS', binary(0x21, 0x11, Buffer.concat([ipv4, tlv])), '192.0.2.7'],
  ['binary IPv6', binary(0x21, 0x21, ipv6), '2001:db8::7'],
  ['binary IPv4 as IPv6', binary(0x21, 0x21, mapped), '192.0.2.7'],
  [
    'the longest binary one',
    binary(0x21, 0x11, Buffer.concat([ipv4, Buffer.alloc(maxHeaderOctets - 28)])),
    '192.0.2.7',
  ],
];
const nobody: readonly (readonly [string, string | Buffer])[] = [
  ['UNKNOWN', 'PROXY UNKNOWN\r\n'],
  ['UNKNOWN with addresses', 'PROXY UNKNOWN 192.0.2.7 198.51.100.1 1 25\r\n'],
  ['LOCAL', binary(0x20, 0x00, Buffer.alloc(0))],
  ['LOCAL with addresses, which mean nothing', binary(0x20, 0x11, ipv4)],
  ['LOCAL of a family that nobody knows', binary(0x20, 0xff, Buffer.alloc(3))],
  ['a family that the proxy does not know', binary(0x21, 0x00, tlv)],
  ['a Unix socket', binary(0x21, 0x31, Buffer.alloc(216))],
];
const malformed: readonly (readonly [string, string | Buffer])[] = [
  ['SMTP', 'EHLO client.example.net\r\n'],
  ['TLS', hex('16030100')],
  ['small letters', 'proxy TCP4 192.0.2.7 198.51.100.1 1 25\r\n'],
  ['two blanks', 'PROXY  TCP4 192.0.2.7 198.51.100.1 1 25\r\n'],
  ['a blank at the end', 'PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n'],
  ['no family', 'PROXY \r\n'],
  ['UDP', 'PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n'],
  ['an IPv6 address as IPv4', 'PROXY TCP4 ::1 198.51.100.1 1 25\r\n'],
  ['an IPv4 address as IPv6', 'PROXY TCP6 192.0.2.7 ::1 1 25\r\n'],
  ['an address with a zone', 'PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n'],
  ['an address in octal', 'PROXY TCP4 0300.0.2.7 198.51.100.1 1 25\r\n'],
  ['a name', 'PROXY TCP4 localhost 198.51.100.1 1 25\r\n'],
  ['no address of the server', 'PROXY TCP4 192.0.2.7 1 25\r\n'],
  ['a port too many', 'PROXY TCP4 192.0.2.7 198.51.100.1 1 25 26\r\n'],
  ['a port that is none', 'PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n'],
  ['a signed port', 'PROXY TCP4 192.0.2.7 198.51.100.1 +1 25\r\n'],
  ['a bare LF inside', 'PROXY TCP4 192.0.2.7 198.51.100.1 1 25\nQUIT\r\n'],
  ['a line that is too long', `PROXY UNKNOWN ${'x'.repeat(92)}\r\n`],
  ['another version', binary(0x11, 0x11, ipv4)],
  ['another command', binary(0x22, 0x11, ipv4)],
  ['datagrams', binary(0x21, 0x12, ipv4)],
  ['a family that nobody knows', binary(0x21, 0x41, ipv4)],
  ['an IPv4 address that is cut', binary(0x21, 0x11, ipv4.subarray(0, 11))],
  ['an IPv6 address in the length of IPv4', binary(0x21, 0x21, ipv4)],
  ['a length that is too large', binary(0x21, 0x11, ipv4, maxHeaderOctets - 15)],
  ['a length that is too large for LOCAL', binary(0x20, 0x00, ipv4, 0xffff)],
];

describe('a PROXY header', () => {
  for (const [what, header, client] of [...clients, ...nobody.map(([name, octets]) => [name, octets, ''] as const)])
    it(`is read: ${what}`, () => {
      const octets = Buffer.from(header);
      const wanted =
        client === '' ? { kind: 'nobody', octets: octets.length } : { kind: 'client', client, octets: octets.length };
      for (let length = 0; length < octets.length; length += 1)
        assert.deepEqual(parseProxyHeader(octets.subarray(0, length)), { kind: 'incomplete' }, `after ${length}`);
      for (const behind of ['', 'EHLO x\r\n', '\r\n', signature])
        assert.deepEqual(parseProxyHeader(Buffer.concat([octets, Buffer.from(behind)])), wanted);
    });

  for (const [what, header] of malformed)
    it(`is none: ${what}`, () => {
      const octets = Buffer.from(header);
      assert.deepEqual(parseProxyHeader(octets), { kind: 'malformed' });
      for (let length = 0; length < octets.length; length += 1)
        assert.match(parseProxyHeader(octets.subarray(0, length)).kind, /^(?:incomplete|malformed)$/);
    });

  it('that begins like none is malformed at its first octet', () => {
    for (const octet of ['E', '\x16', '\n', 'p', '\0'])
      assert.deepEqual(parseProxyHeader(Buffer.from(octet)), { kind: 'malformed' });
  });
});
