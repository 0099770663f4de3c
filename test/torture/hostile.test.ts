// Hostile clients against the bundle: whatever they do, a good client that comes from another address has its 250
// within a second, the server's memory stays below a bound, and when they are gone nothing of them is left. From one
// address, where 50 sessions are the limit (those beyond it hear 421), and from many, with limits so high that they
// mean nothing.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { lazily, withstands } from './hostile-lib.ts';

/** Idle it has about 70 MB. */
const [boundMegabytes, boundOfManyMegabytes] = [200, 400];
const kinds = [
  'slow commands',
  'slow content',
  'slow handshakes',
  'no handshakes',
  'connections',
  'endless NOOP',
  'pipelines',
  'pipelines that nobody reads',
  'EHLO that nobody reads',
  'endless BDAT 0',
  'a flood of LF',
  'a flood of CRLF',
  'a flood of dots',
  'a flood of RSET',
  'a flood of EHLO',
  'a flood of errors',
  'a flood of RCPT',
  'a flood of refused RCPT',
  'a line without end',
  'RST anywhere',
];

describe('hostile clients from one address', () => {
  const target = lazily();
  for (const kind of kinds)
    it(`are withstood: ${kind}`, async t => void (await withstands(t, await target(), kind, 'one', boundMegabytes)));

  it('are withstood: renegotiation of TLS 1.2, which they do not get', async t => {
    const { told } = await withstands(t, await target(), 'renegotiation', 'one', boundMegabytes);
    assert.ok((told.connected ?? 0) >= 50, JSON.stringify(told));
    assert.equal(told.renegotiated ?? 0, 0);
  });
});

describe('hostile clients from many addresses, without limits', () => {
  const target = lazily({ SLIM_MAX_SESSIONS: '0', SLIM_MAX_SESSIONS_PER_CLIENT: '0' });
  for (const kind of [
    'connections',
    'slow content',
    'slow handshakes',
    'pipelines that nobody reads',
    'EHLO that nobody reads',
    'a flood of CRLF',
  ])
    it(`are withstood: ${kind}`, async t => {
      const { told } = await withstands(t, await target(), kind, 'many', boundOfManyMegabytes);
      if (kind === 'connections') assert.equal(told.open, 10_000);
    });
});
