// Destinations: those that are down back off and hold up no other, those that allow fewer sessions get fewer, and those
// that hang take no more than their share of the places. The clock is the test's, but where speed is what is shown.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import type { Delivery, QueueRecipient } from '../../src/mail/message.ts';
import type { Place } from '../../src/mail/ports.ts';
import { systemClock } from '../../src/system/world.ts';
import { NullStore } from '../contract/null-store.ts';
import { until } from '../contract/queue.ts';
import { delivered, greylisted, unreachable } from '../contract/deliveries.ts';
import { hour, minute, open } from './queue.harness.ts';

const busy: Delivery = { kind: 'deferred', status: '4.7.0', text: '421 too many', isUnreachable: true, isBusy: true };

describe('destinations', () => {
  it('that are down back off, probed by one at a time, and hold up no other', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = ({ domain }) => (domain === 'dead' ? unreachable : delivered);
    for (let index = 0; index < 30; index += 1) await q.add(`d${index}`, [`${index}@dead`]);
    await q.settled();
    const first = q.tried().length;
    assert.ok(first >= 1 && first <= 20, String(first));
    await q.add('e', ['x@alive', 'y@dead']);
    await q.settled();
    assert.deepEqual(q.tried(), ['alive: x@alive']);
    await q.pass(59_000);
    assert.deepEqual(q.tried(), []);
    await q.pass(2000);
    assert.equal(q.tried().length, 1);
    // Only what was tried has an attempt counted.
    const counts = (await q.list()).flatMap(({ recipients }) => recipients.map(({ attempts }) => attempts));
    assert.equal(
      counts.reduce((sum, count) => sum + count, 0),
      first + 1,
    );
    q.state.answer = () => delivered;
    await q.pass(6 * minute);
    await until('all are gone', () => q.queue.size === 0);
    await q.queue.stop(0);
  });

  it('hold nobody up for longer than its own wait', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => unreachable;
    await q.add('old', ['old@dead']);
    for (let step = 0; step < 12; step += 1) await q.pass(hour);
    assert.ok(q.tried().length >= 7);
    await q.add('new', ['new@dead']);
    await q.pass(minute + 1000);
    assert.deepEqual(q.tried(), ['dead: new@dead']);
    await q.pass(minute + 1000); // the wait after its first attempt
    assert.deepEqual(q.tried(), ['dead: new@dead']);
    await q.pass(4 * minute);
    assert.deepEqual(q.tried(), []);
    await q.queue.stop(0);
  });

  it('that are down let nobody miss a delay notice or the end', async () => {
    const q = open({ lifetimeMs: 6 * hour, retryMs: [5 * hour] });
    await q.queue.start();
    q.state.answer = () => unreachable;
    await q.add('a', ['a@dead']);
    await q.settled();
    q.tried();
    await q.add('b', ['b@dead']);
    await q.pass(4 * hour + 1000);
    assert.deepEqual(q.notices.toSorted(), ['delayed a@dead 4.4.1', 'delayed b@dead 4.4.1']);
    assert.deepEqual(q.tried(), []);
    await q.pass(hour); // a probe, and everything is blocked beyond the end
    assert.equal(q.tried().length, 1);
    await q.pass(hour);
    await q.pass(2000);
    assert.deepEqual(q.notices.slice(2).toSorted(), ['failed a@dead 5.4.1', 'failed b@dead 5.4.1']);
    assert.deepEqual(q.tried(), []);
    await until('nothing is left', () => q.files().length === 0);
    await q.queue.stop(0);
  });

  it('get 20 attempts at once, all of them 500, and each its share', async () => {
    const q = open();
    await q.queue.start();
    const gate = Promise.withResolvers<Delivery>();
    q.state.answer = () => gate.promise;
    for (let index = 0; index < 60; index += 1) await q.add(`a${index}`, [`${index}@busy`, `${index}@here.example`]);
    await setImmediate();
    assert.equal(q.attempts.filter(({ destination }) => destination === 'busy').length, 20);
    assert.equal(q.attempts.length, 40);
    await q.add(
      'wide',
      Array.from({ length: 500 }, (_, index) => `x@d${index}`),
    );
    await setImmediate();
    assert.equal(q.attempts.length, 500);
    gate.resolve(delivered);
    await until('all are gone', () => q.queue.size === 0);
    assert.equal(q.attempts.length, 60 * 2 + 500);
    await q.queue.stop(0);
  });

  it('that fail side by side have failed once', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => greylisted;
    for (const id of ['a', 'b', 'c']) await q.add(id, [`${id}@dead`]);
    await q.settled();
    for (let step = 0; step < 7; step += 1) await q.pass(minute);
    await q.add('later', ['later@dead']);
    await q.settled();
    for (let step = 0; step < 30; step += 1) await q.pass(minute); // four attempts each, the next after an hour
    q.state.answer = () => unreachable;
    q.tried();
    await q.pass(44 * minute); // the fifth of the three, side by side
    assert.deepEqual(q.tried().toSorted(), ['dead: a@dead', 'dead: b@dead', 'dead: c@dead']);
    for (let step = 0; step < 7; step += 1) await q.pass(minute);
    assert.deepEqual(q.tried(), ['dead: later@dead']);
    await q.queue.stop(0);
  });

  it('are one behind a relay, and local mail is another', async () => {
    const q = open({ isRelayed: true });
    await q.queue.start();
    await q.add('a', ['x@one', 'y@two', 'z@here.example']);
    await q.settled();
    assert.deepEqual(q.tried(), ['@relay: x@one y@two', '@local: z@here.example']);
    await q.queue.stop(0);
  });
});

describe('a hop that allows fewer sessions than we open', () => {
  /** A hop that takes a few sessions at once and says 421 to others; what it saw. */
  const hop = (allowed: number) => {
    const seen = { open: 0, most: 0, refused: 0 };
    const gate = Promise.withResolvers<void>();
    const answer = async (): Promise<Delivery> => {
      const isRefused = seen.open >= allowed;
      if (isRefused) seen.refused += 1;
      if (isRefused) return busy;
      seen.open += 1;
      seen.most = Math.max(seen.most, seen.open);
      await gate.promise;
      await setTimeout(3);
      seen.open -= 1;
      return delivered;
    };
    return { seen, answer, letGo: gate.resolve };
  };

  it('gets 60 mails within seconds, after few refusals, and nothing is deferred', async () => {
    const q = open({ clock: systemClock, store: new NullStore() });
    const { seen, answer, letGo } = hop(3);
    q.state.answer = answer;
    letGo();
    for (let index = 0; index < 60; index += 1) await q.add(`a${index}`, [`${index}@busy`], { receivedAt: Date.now() });
    await q.queue.start();
    await until('all are gone', () => q.queue.size === 0);
    assert.equal(seen.most, 3);
    assert.ok(seen.refused >= 17 && seen.refused <= 25, `${seen.refused} refusals`);
    assert.deepEqual(
      q.lines.filter(({ msg }) => msg === 'mail is deferred'),
      [],
    );
    await q.queue.stop(0);
  });

  it('gets more sessions again while it goes well', async () => {
    const q = open({ clock: systemClock, store: new NullStore() });
    const [few, many] = [hop(2), hop(20)];
    q.state.answer = few.answer;
    for (let index = 0; index < 400; index += 1)
      await q.add(`a${index}`, [`${index}@busy`], { receivedAt: Date.now() });
    await q.queue.start();
    await until('it is known to be busy', () => few.seen.refused === 18);
    q.state.answer = many.answer;
    few.letGo();
    many.letGo();
    await until('all are gone', () => q.queue.size === 0);
    assert.ok(many.seen.most >= 8, `${many.seen.most} sessions`);
    await q.queue.stop(0);
  });

  it('and refuses the only one is tried again soon; then it counts as not reached', async () => {
    const q = open();
    await q.queue.start();
    q.state.answer = () => busy;
    await q.add('a', ['x@busy']);
    await q.settled();
    const attempts: number[] = [];
    for (let second = 1; second <= 40; second += 1) {
      await q.pass(1000);
      if (q.tried().length > 0) attempts.push(second);
    }
    assert.deepEqual(attempts, [1, 3, 7, 15, 31]);
    const [to] = (await q.list())[0]?.recipients ?? [];
    assert.deepEqual([to?.attempts, to?.status], [1, '4.7.0']);
    q.state.answer = () => delivered;
    await q.pass(minute);
    assert.equal(q.queue.size, 0);
    await q.queue.stop(0);
  });

  it('for ever: the sender hears that mail is late, and that it is given up', async () => {
    const q = open({ lifetimeMs: 6 * hour });
    await q.queue.start();
    q.state.answer = () => busy;
    await q.add('a', ['x@busy']);
    for (let step = 0; step < 80; step += 1) await q.pass(5 * minute);
    assert.deepEqual(q.notices, ['delayed x@busy 4.7.0', 'failed x@busy 5.7.0']);
    await q.queue.stop(0);
  });
});

describe('hops that hang', () => {
  /**
   * All domains but one lead to these addresses, which accept and say nothing. An attempt there ends when its place is
   * taken back.
   */
  const hang = (addresses: (domain: string) => string) => {
    const seen = { asked: 0, inside: 0, most: 0 };
    const answer = async (to: QueueRecipient, place: Place): Promise<Delivery> => {
      if (to.domain === 'healthy') return delivered;
      seen.asked += 1;
      if (!place.enter(addresses(to.domain)))
        return { kind: 'deferred', status: '4.4.5', text: 'too many sessions with it', isCrowded: true };
      seen.inside += 1;
      seen.most = Math.max(seen.most, seen.inside);
      await new Promise<void>(resolve => (place.onEnd = resolve));
      seen.inside -= 1;
      return unreachable;
    };
    return { seen, answer };
  };
  const flood = async (q: ReturnType<typeof open>, from: string): Promise<void> => {
    for (let index = 0; index < 2100; index += 1) await q.add(`a${index}`, [`x@d${index}.evil`], { from });
    await setImmediate();
  };
  const healthyLeaves = async (q: ReturnType<typeof open>, withinSeconds: number): Promise<void> => {
    await q.add('good', ['x@healthy']);
    for (let second = 0; second < withinSeconds && !(await isGone(q)); second += 1) await tick(q);
    assert.ok(await isGone(q));
  };
  const isGone = async (q: ReturnType<typeof open>): Promise<boolean> => {
    for (let turn = 0; turn < 5; turn += 1) await setImmediate();
    return (await q.list({ id: 'good' })).length === 0;
  };
  const tick = async (q: ReturnType<typeof open>): Promise<void> => {
    q.state.now += 1000;
    q.queue.tick();
    for (let turn = 0; turn < 5; turn += 1) await setImmediate();
  };

  it('at one address: 20 attempts, whatever the domains; each of the others waits for its turn without asking again', async () => {
    const { seen, answer } = hang(() => '192.0.2.1');
    const q = open({ store: new NullStore() });
    q.state.answer = answer;
    await q.queue.start();
    await flood(q, 'login@example.com');
    for (let second = 0; second < 20; second += 1) await tick(q);
    assert.deepEqual([seen.most, seen.asked], [20, 2100]);
    assert.equal((await q.list()).filter(({ recipients }) => recipients[0]?.attempts !== 0).length, 0);
    await healthyLeaves(q, 1);
    await q.queue.stop(0);
  });

  it('that strangers name as senders: notices fill 50 places, and no mail waits for them', async () => {
    const { seen, answer } = hang(domain => domain);
    const q = open({ store: new NullStore() });
    q.state.answer = answer;
    await q.queue.start();
    await flood(q, '');
    assert.equal(seen.most, 50);
    await healthyLeaves(q, 0);
    // And where other notices wait, the one that has gone longest without progress makes room.
    for (let second = 0; second < 10; second += 1) await tick(q);
    assert.ok(seen.asked > 50 && seen.most === 50, `${seen.asked} asked`);
    await q.queue.stop(0);
  });

  it('does not keep mail for a domain waiting behind notices for it', async () => {
    const { answer } = hang(domain => domain);
    const q = open({ store: new NullStore() });
    q.state.answer = answer;
    await q.queue.start();
    for (let index = 0; index < 50; index += 1) await q.add(`a${index}`, [`x@d${index}.evil`], { from: '' });
    await setImmediate();
    await q.add('notice', ['x@healthy'], { from: '' });
    await healthyLeaves(q, 0);
    assert.equal((await q.list({ id: 'notice' })).length, 1, 'the notice waits');
    for (let second = 0; second < 7; second += 1) await tick(q);
    assert.equal((await q.list({ id: 'notice' })).length, 0);
    await q.queue.stop(0);
  });

  it('at 2,100 addresses: when all places are taken one is taken back for mail that waits', async () => {
    const { seen, answer } = hang(domain => domain);
    const q = open({ store: new NullStore() });
    q.state.answer = answer;
    await q.queue.start();
    await flood(q, 'login@example.com');
    for (let second = 0; second < 30; second += 1) await tick(q);
    assert.equal(seen.most, 2000);
    await healthyLeaves(q, 5);
    await q.queue.stop(0);
  });
});
