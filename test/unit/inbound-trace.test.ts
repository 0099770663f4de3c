// The header lines that this server writes in front of a message: whatever a client says, they are well-formed and
// ASCII.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stranger } from '../../src/inbound/peer.ts';
import { receivedLine, returnPathLine } from '../../src/inbound/trace.ts';
import { parseAddress } from '../../src/smtp/address.ts';
import type { Envelope } from '../../src/smtp/envelope.ts';

const address = (text: string) => parseAddress(text) ?? assert.fail(text);
function envelope(helo: string, ...recipients: string[]): Envelope {
  const to = recipients.map(text => ({ address: address(text), wishes: {}, ticket: undefined }));
  const rest = { declaredSizeBytes: 0, wishes: { isUtf8: false } };
  return { helo, protocol: 'ESMTPS', reversePath: address('me@example.net'), recipients: to, ...rest };
}
const peer = { ...stranger, client: '192.0.2.1', tls: 'TLSv1.3:TLS_AES_256_GCM_SHA384' };
const facts = { id: 'id1', hostname: 'mx.example.com', receivedAt: Date.UTC(2026, 10, 29, 10, 0, 0) };

describe('Received', () => {
  it('says who, how, when, and for whom where there is one recipient', () => {
    assert.equal(
      receivedLine(envelope('c.example', 'anton@example.com'), peer, facts, 'example.com'),
      'Received: from c.example ([192.0.2.1])\n\tby mx.example.com with ESMTPS (TLSv1.3:TLS_AES_256_GCM_SHA384)\n\tid id1\n\tfor <anton@example.com>; Sun, 29 Nov 2026 10:00:00 +0000\n',
    );
    const several = receivedLine(envelope('c', 'anton@example.com', 'b@example.com'), peer, facts, undefined);
    assert.doesNotMatch(several, /for </);
  });

  it('writes the name of a client harmlessly', () => {
    for (const [helo, written] of [
      ['MY_PC-1.local', 'MY_PC-1.local'],
      ['[IPv6:2001:db8::1]', '[IPv6:2001:db8::1]'],
      ['[IPv6:fe80::1%eth0]', '[IPv6:fe80::1?eth0]'],
      ['Müller-PC', 'M?ller-PC'],
      ['M\ufffdller', 'M?ller'],
      ['a b (c); by <d>', 'a?b??c???by??d?'],
      ['x\u2028Y: z', 'x?Y:?z'],
      ['𝒳', '?'],
      ['y'.repeat(500), 'y'.repeat(255)],
    ] as const) {
      const line = receivedLine(envelope(helo, 'anton@example.com'), { ...stranger, client: '::1' }, facts, undefined);
      assert.ok(line.startsWith(`Received: from ${written} ([IPv6:::1])\n`), line);
    }
  });

  it('stays ASCII: a domain has its A-labels, and a local part that has no ASCII form is left out', () => {
    const domain = 'xn--bcher-kva.example';
    const line = receivedLine(envelope('c', 'anton@bücher.example'), peer, facts, domain);
    assert.match(line, /\n\tfor <anton@xn--bcher-kva\.example>; /);
    const other = receivedLine(envelope('c', 'jürgen@bücher.example'), peer, facts, domain);
    assert.doesNotMatch(other, /for <|[^\0-\x7f]/);
  });
});

it('Return-Path has the sender, and nothing for the null reverse-path', () => {
  assert.equal(returnPathLine(envelope('c', 'a@example.com')), 'Return-Path: <me@example.net>\n');
  assert.equal(returnPathLine({ ...envelope('c'), reversePath: '' }), 'Return-Path: <>\n');
});
