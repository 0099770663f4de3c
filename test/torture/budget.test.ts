// Work without a bound: attacks that make the server hold, read, log or judge more than their sender pays for. While each of
// them runs from one address, a good client's mail is answered within a second, memory stays below the bound that
// docs/security.md states, and the log does not grow without an end.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { lazily, withstands } from './hostile-lib.ts';

const boundMegabytes = 200;
/** Of a run of some seconds; the attacks that this is for wrote 20 MB a second. */
const boundOfLogOctets = 2_000_000;

describe('work without a bound, from one address', () => {
  const stranger = lazily();
  const author = lazily({ SLIM_TRUSTED_NETWORKS: '127.0.0.1/32' });
  for (const [kind, target] of [
    ['BDAT of one octet', stranger],
    ['envelopes of full length', stranger],
    ['discarded transactions', stranger],
    ['guesses of passwords', stranger],
    ['a submitted header in pieces of one octet', author],
  ] as const)
    it(`is withstood: ${kind}`, async t => {
      const { server } = await target();
      const before = server.log().length;
      await withstands(t, await target(), kind, 'one', boundMegabytes);
      const logged = server.log().length - before;
      t.diagnostic(`${logged} octets of log`);
      assert.ok(logged < boundOfLogOctets, `${logged} octets of log`);
    });
});
