// Work without a bound: attacks that make the server hold, read, log or judge more than their sender pays for. While
// each of them runs from one address, a good client's mail is answered within a second, memory stays below the bound
// that docs/security.md states, and the log does not grow without an end.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { open, withstands } from './hostile-lib.ts';

const boundMegabytes = 200;
/** Of a run of some seconds; the attacks that this is for wrote 20 MB a second. */
const boundOfLogOctets = 2_000_000;

describe('work without a bound, from one address', () => {
  // A server for each: what one attack has made it hold would hide what the next one does.
  const author = { SLIM_TRUSTED_NETWORKS: '127.0.0.1/32' };
  for (const [kind, settings] of [
    ['BDAT of one octet', {}],
    ['envelopes of full length', {}],
    ['discarded transactions', {}],
    ['guesses of passwords', {}],
    ['a submitted header in pieces of one octet', author],
  ] as const)
    it(`is withstood: ${kind}`, async t => {
      const target = await open(settings);
      const { server } = target;
      const before = server.log().length;
      await withstands(t, target, kind, 'one', boundMegabytes);
      const logged = server.log().length - before;
      t.diagnostic(`${logged} octets of log`);
      assert.ok(logged < boundOfLogOctets, `${logged} octets of log`);
    });
});
