// What an attempt means for a recipient, as tables: what is recorded, when it is tried next, and what its sender hears.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import type { StoredRecipient } from '../../src/mail/queue-store.ts';
import { conclude, judge } from '../../src/queue/outcome.ts';

const terms = { lifetimeMs: 100_000, delayNoticeMs: 50_000, retryMs: [1000, 4000] };
const recipient: StoredRecipient = { address: 'a@b', domain: 'b', attempts: 0, nextAt: 7 };
const [ok, no, later] = (['delivered', 'failed', 'deferred'] as const).map(
  kind => ({ kind, status: { delivered: '2.0.0', failed: '5.1.1', deferred: '4.7.1' }[kind], text: 'said' }) as const,
) as [Delivery, Delivery, Delivery];
const at = (now: number, jitter = 100) => ({ now, receivedAt: 0, jitter });

describe('the next attempt', () => {
  it('comes after the wait of SLIM_RETRY, a tenth less or more', () => {
    const table: readonly (readonly [attempts: number, jitter: number, nextAt: number])[] = [
      [0, 100, 1000],
      [0, 0, 900],
      [0, 200, 1100],
      [1, 100, 4000],
      [5, 200, 4400],
    ];
    for (const [attempts, jitter, nextAt] of table) {
      const { changes } = judge({ ...recipient, attempts }, later, 'counted', at(0, jitter), terms);
      assert.deepEqual(changes, { last: later, attempts: attempts + 1, nextAt });
    }
  });

  it('is made at the very end of its life, if it would come later', () => {
    assert.equal(judge(recipient, later, 'counted', at(99_500), terms).changes.nextAt, 100_000);
  });

  it('is not put off by an attempt that does not count, or by none', () => {
    for (const how of ['uncounted', 'untried'] as const)
      assert.deepEqual(judge(recipient, later, how, at(0), terms).changes, { last: later, attempts: 0, nextAt: 7 });
  });
});

it('at the end of its life a deferral is a failure, for the reason that it had, unless it is held', () => {
  const { changes, action } = judge(recipient, later, 'untried', at(100_000), terms);
  assert.deepEqual(
    [changes.last?.kind, changes.last?.status, changes.last?.text, action],
    ['failed', '5.7.1', 'said (given up: this is how long mail may wait)', 'failed'],
  );
  assert.equal(
    judge({ ...recipient, isHeld: true }, later, 'untried', at(100_000), terms).changes.last?.kind,
    'deferred',
  );
  assert.equal(judge(recipient, ok, 'counted', at(100_000), terms).changes.last?.kind, 'delivered');
});

it('the sender hears of failures, of delays once, and of success where it was asked for', () => {
  const remote = { remote: 'mx.example' };
  const success = { notify: ['SUCCESS'] as const };
  const table: readonly (readonly [Delivery, Partial<StoredRecipient>, now: number, action: string | undefined])[] = [
    [no, {}, 0, 'failed'],
    [later, {}, 49_999, undefined],
    [later, {}, 50_000, 'delayed'],
    [later, { isDelayTold: true }, 50_000, undefined],
    [{ ...later, status: '4.7.4' }, {}, 0, 'delayed'],
    [ok, {}, 0, undefined],
    [ok, success, 0, 'delivered'],
    [ok, { ...success, isShared: true }, 0, 'expanded'],
    [{ ...ok, ...remote }, success, 0, 'relayed'],
    [{ ...ok, ...remote, isDsnPassedOn: true }, success, 0, undefined],
  ];
  for (const [delivery, more, now, action] of table)
    assert.equal(judge({ ...recipient, ...more }, delivery, 'counted', at(now), terms).action, action);
});

it('a final outcome is done when its notice is stable, and else only owes the notice', () => {
  const table: readonly (readonly [Delivery, Parameters<typeof conclude>[1], isTold: boolean, object])[] = [
    [ok, undefined, true, { isDone: true }],
    [ok, undefined, false, { isDone: true }],
    [ok, 'relayed', true, { isDone: true }],
    [ok, 'relayed', false, { nextAt: 500 }],
    [no, 'failed', false, { nextAt: 500 }],
    [later, undefined, true, {}],
    [later, 'delayed', true, { isDelayTold: true }],
    [later, 'delayed', false, {}],
  ];
  for (const [last, action, isTold, changes] of table)
    assert.deepEqual(conclude({ ...recipient, last }, action, isTold, 500), changes);
  assert.deepEqual(conclude({ ...recipient, last: no, nextAt: 900 }, 'failed', false, 500), { nextAt: 900 });
});
