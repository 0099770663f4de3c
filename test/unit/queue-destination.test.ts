// Back-off and concurrency of a destination, as tables: what an attempt found there, and the state that follows.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Delivery } from '../../src/mail/message.ts';
import {
  type Attempt,
  type DestinationState,
  afterAttempt,
  foundBy,
  mayBegin,
  notBeyond,
  unknownDestination,
  waitAfter,
} from '../../src/queue/destination.ts';

const limits = { retryMs: [60, 300, 900], maxSessions: 20 };
const unknown = unknownDestination(limits);
const now = 10_000;
const reason: Delivery = { kind: 'deferred', status: '4.4.1', text: 'refused' };
const attempt: Attempt = { found: 'reached', now, round: 0, others: 0, attempts: 1, isProgress: false, reason };
const state = (more: Partial<DestinationState>): DestinationState => ({ ...unknown, ...more });

it('the wait is that of SLIM_RETRY, the first at least and the last repeated', () => {
  const waits = [0, 1, 2, 3, 4, 100].map(attempts => waitAfter(attempts, limits.retryMs));
  assert.deepEqual(waits, [60, 60, 300, 900, 900, 900]);
  assert.equal(waitAfter(1, []), 0);
});

it('what deliveries say of the destination', () => {
  const deferred = { kind: 'deferred', status: '4.0.0', text: '' } as const;
  const table: readonly (readonly [Partial<Delivery>[], string])[] = [
    [[], 'reached'],
    [[{}], 'reached'],
    [[{ isUnreachable: true }], 'unreachable'],
    [[{ isUnreachable: true }, {}], 'reached'],
    [[{ isBusy: true, isUnreachable: true }], 'busy'],
    [[{}, { isBusy: true }], 'busy'],
    [[{ isCrowded: true }], 'crowded'],
  ];
  for (const [deliveries, found] of table)
    assert.equal(foundBy(deliveries.map(each => ({ ...deferred, ...each }))), found, JSON.stringify(deliveries));
});

describe('back-off', () => {
  it('grows with the rounds in which nobody was reached, but not beyond what the message would have waited', () => {
    const table: readonly (readonly [failures: number, attempts: number, waitMs: number])[] = [
      [0, 1, 60],
      [1, 2, 300],
      [2, 3, 900],
      [7, 9, 900],
      [7, 1, 60],
      [0, 5, 60],
    ];
    for (const [failures, attempts, waitMs] of table) {
      const before = state({ failures });
      const after = afterAttempt(before, { ...attempt, found: 'unreachable', round: failures, attempts }, limits);
      assert.deepEqual(after, {
        state: { ...before, failures: failures + 1, blockedUntil: now + waitMs, reason },
        isCounted: true,
      });
    }
  });

  it('takes attempts that ran in parallel for one round', () => {
    const blocked = state({ failures: 1, blockedUntil: now + 60 });
    const after = afterAttempt(blocked, { ...attempt, found: 'unreachable', round: 0 }, limits);
    assert.deepEqual(after, { state: blocked, isCounted: true });
  });

  it('ends when anybody answers', () => {
    const down = state({ failures: 3, blockedUntil: now + 900, reason, sessions: 4 });
    assert.deepEqual(afterAttempt(down, { ...attempt, round: 3 }, limits), {
      state: state({ sessions: 4.05 }),
      isCounted: true,
    });
  });

  it('lets one attempt probe, and only when its time is over', () => {
    const table: readonly (readonly [Partial<DestinationState>, running: number, may: boolean])[] = [
      [{}, 19, true],
      [{}, 20, false],
      [{ sessions: 3.9 }, 2, true],
      [{ sessions: 3.9 }, 3, false],
      [{ failures: 1 }, 0, true],
      [{ failures: 1 }, 1, false],
      [{ failures: 1, blockedUntil: now + 1 }, 0, false],
      [{ failures: 1, blockedUntil: now }, 0, true],
    ];
    for (const [more, running, may] of table)
      assert.equal(mayBegin(state(more), running, now), may, JSON.stringify([more, running]));
  });

  it('never holds anybody up for longer than a failure of its own would', () => {
    assert.equal(notBeyond(state({ blockedUntil: now + 900 }), now, 1, limits).blockedUntil, now + 60);
    assert.equal(notBeyond(state({ blockedUntil: now + 30 }), now, 1, limits).blockedUntil, now + 30);
  });
});

describe('concurrency', () => {
  const busy = (before: DestinationState, more: Partial<Attempt> = {}) =>
    afterAttempt(before, { ...attempt, found: 'busy', ...more }, limits);

  it('falls by one for each session that is refused, so that it is right after one round', () => {
    let current = unknown;
    for (let open = 20; open > 3; open -= 1) {
      const after = busy(current, { others: open - 1 });
      assert.equal(after.isCounted, false);
      current = after.state;
    }
    assert.equal(current.sessions, 3);
    assert.equal(current.blockedUntil, 0, 'the others go on');
  });

  it('is at least one session, and at once what is open where that is less', () => {
    assert.equal(busy(state({ sessions: 1.5 }), { others: 1 }).state.sessions, 1);
    assert.equal(busy(unknown, { others: 2 }).state.sessions, 2);
  });

  it('grows by one with each twentieth success, up to SLIM_MAX_SESSIONS_OUT', () => {
    let current = state({ sessions: 3 });
    const grown: number[] = [];
    for (let success = 1; success <= 400; success += 1) {
      const before = Math.floor(current.sessions + 1e-9);
      current = afterAttempt(current, attempt, limits).state;
      if (Math.floor(current.sessions + 1e-9) > before) grown.push(success);
    }
    assert.deepEqual(
      grown,
      Array.from({ length: 17 }, (_, at) => 20 * (at + 1)),
    );
    assert.equal(current.sessions, 20);
  });

  it('where the only session is refused it is tried again soon, then the destination backs off', () => {
    let current = unknown;
    const pauses: number[] = [];
    for (let time = 1; time <= 5; time += 1) {
      const after = busy(current);
      assert.equal(after.isCounted, false);
      current = after.state;
      pauses.push(current.blockedUntil - now);
    }
    assert.deepEqual(pauses, [1000, 2000, 4000, 8000, 16_000]);
    const last = busy(current);
    assert.deepEqual([last.isCounted, last.state.failures, last.state.blockedUntil - now], [true, 1, 60]);
    assert.equal(busy(current, { isProgress: true }).state.blockedUntil - now, 1000, 'it takes some each time');
    assert.equal(afterAttempt(current, attempt, limits).state.busyPauses, 0);
  });

  it('is untouched by an attempt that found its address crowded', () => {
    assert.deepEqual(afterAttempt(unknown, { ...attempt, found: 'crowded' }, limits), {
      state: { ...unknown, reason },
      isCounted: false,
    });
  });
});
