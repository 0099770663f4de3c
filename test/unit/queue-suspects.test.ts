// Messages that were in flight when the process died: they are tried one at a time, one that kills the process is found
// and held, and neither it nor innocent ones hold up other mail for long. Deaths are copies of what is kept at that
// moment, and one is real.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Delivery } from '../../src/mail/message.ts';
import { Suspects } from '../../src/queue/suspects.ts';
import { Trial } from '../../src/queue/trial.ts';
import { NullStore } from '../contract/null-store.ts';
import { until } from '../contract/queue.ts';
import { delivered, greylisted } from '../contract/deliveries.ts';
import { base, open } from './queue.harness.ts';

const never = new Promise<Delivery>(() => {});
const silent = { debug() {}, info() {}, warn() {}, error() {} };
const newFile = (): string => join(mkdtempSync(join(base, 'in-flight-')), 'in-flight');

/** A queue with a store and a list of what is in flight, as a death of the process has left them. */
async function begin(before?: Begun): Promise<Begun> {
  const [inFlight, store] = [newFile(), new NullStore(before?.store.rows)];
  if (before) copyFileSync(before.inFlight, inFlight);
  const q = open({ store, inFlight });
  if (before) q.state.now = before.q.state.now;
  return { q, inFlight, store };
}
type Begun = { readonly q: ReturnType<typeof open>; readonly inFlight: string; readonly store: NullStore };

/** Seconds go by. */
async function pass({ q }: Begun, seconds: number): Promise<void> {
  for (let second = 0; second < seconds; second += 1) {
    for (let turn = 0; turn < 8; turn += 1) await setImmediate();
    q.state.now += 1000;
    q.queue.tick();
  }
  for (let turn = 0; turn < 8; turn += 1) await setImmediate();
}
const inFlightIn = ({ inFlight }: Begun): string[] =>
  readFileSync(inFlight, 'latin1').match(/(?<=^in-flight \d \d )\w+/gm) ?? [];

describe('after a death', () => {
  it('what was in flight is tried one at a time, and then everything is as before', async () => {
    const first = await begin();
    first.q.state.answer = () => never;
    await first.q.queue.start();
    for (const id of ['a', 'b', 'c']) await first.q.add(id, [`${id}@${id}`]);
    await pass(first, 0);
    assert.deepEqual(inFlightIn(first), ['a', 'b', 'c']);

    const next = await begin(first);
    const gates = new Map(['a', 'b', 'c', 'new'].map(id => [id, Promise.withResolvers<Delivery>()]));
    next.q.state.answer = ({ domain }) => gates.get(domain)?.promise ?? delivered;
    await next.q.queue.start();
    await next.q.add('new', ['new@new']);
    const order: string[] = [];
    while (order.length < 4) {
      await pass(next, 1);
      const tried = next.q.tried();
      assert.equal(tried.length, 1, `one at a time, and not ${tried}`);
      const id = tried[0]?.split(':')[0] ?? '';
      if (id !== 'new') assert.match((await next.q.list({ id: 'new' }))[0]?.recipients[0]?.reason ?? '', /turn/);
      order.push(id);
      gates.get(id)?.resolve(delivered);
    }
    assert.deepEqual([order.slice(0, 3).toSorted(), order[3]], [['a', 'b', 'c'], 'new']);
    await pass(next, 1);
    assert.equal(next.q.queue.size, 0);
    assert.equal(readFileSync(next.inFlight, 'latin1').trim(), '');
    await Promise.all([first, next].map(({ q }) => q.queue.stop(0)));
  });

  it('others wait no longer than 30 s for suspects that hang, and each hangs for 5 s at most', async () => {
    const first = await begin();
    first.q.state.answer = () => never;
    await first.q.queue.start();
    for (let at = 0; at < 10; at += 1) await first.q.add(`h${at}`, [`x@hung${at}`]);
    await pass(first, 0);

    const next = await begin(first);
    let alone = 0;
    next.q.state.answer = ({ domain }, place) =>
      domain === 'good'
        ? delivered
        : new Promise(resolve => {
            alone += 1;
            place.onEnd = () => {
              alone -= 1;
              resolve(greylisted);
            };
          });
    await next.q.queue.start();
    await next.q.add('new', ['x@good']);
    let seconds = 0;
    for (; (await next.q.list({ id: 'new' })).length > 0; seconds += 1) {
      await pass(next, 1);
      assert.ok(alone <= 1, 'one at a time');
    }
    assert.ok(seconds >= 29 && seconds <= 31, `${seconds} s`);
    await pass(next, 25);
    // All were tried, and wait for the next attempt as other mail does.
    assert.equal(next.q.attempts.filter(({ destination }) => destination.startsWith('hung')).length, 10);
    await Promise.all([first, next].map(({ q }) => q.queue.stop(0)));
  });

  it('that was planned there are no suspects', async () => {
    const first = await begin();
    first.q.state.answer = () => never;
    await first.q.queue.start();
    for (const id of ['a', 'b']) await first.q.add(id, [`${id}@${id}`]);
    await pass(first, 0);
    await first.q.queue.stop(0);
    const next = await begin(first);
    next.q.state.answer = () => never;
    await next.q.queue.start();
    await pass(next, 0);
    assert.equal(next.q.attempts.length, 2);
    await next.q.queue.stop(0);
  });
});

describe('a message that kills the process', () => {
  /** Runs until the killer is in flight. */
  const runToDeath = async (at: Begun): Promise<void> => {
    at.q.state.answer = ({ domain }) => (domain === 'killer' ? never : delivered);
    await at.q.queue.start();
    for (let second = 0; second < 60 && !inFlightIn(at).includes('k'); second += 1) await pass(at, 1);
    await pass(at, 1);
  };

  it('is held after three deaths at which it was alone, with a line in the log and a notice; all others leave', async () => {
    let at = await begin();
    for (let index = 0; index < 5; index += 1) await at.q.add(`a${index}`, [`x@d${index}`]);
    await at.q.add('k', ['x@killer']);
    at.q.state.answer = () => never;
    await at.q.queue.start();
    await pass(at, 0);
    assert.equal(inFlightIn(at).length, 6);
    for (let death = 1; death <= 3; death += 1) {
      const before = at;
      at = await begin(before);
      await runToDeath(at);
      assert.deepEqual(inFlightIn(at), ['k'], `alone at death ${death + 1}`);
      assert.deepEqual(at.q.killers, []);
      await before.q.queue.stop(0);
    }
    assert.deepEqual([...at.store.rows.keys()], ['k']);
    const before = at;
    at = await begin(before);
    await at.q.queue.start();
    await pass(at, 2);
    assert.deepEqual([at.q.killers, at.q.tried()], [['k'], []]);
    assert.equal((await at.q.list())[0]?.isHeld, true);
    assert.equal(at.q.lines.filter(({ msg }) => String(msg).startsWith('a message is held')).length, 1);
    // Released by an operator, it begins anew.
    at.q.state.answer = () => delivered;
    await at.q.queue.act('release', { id: 'k' });
    await until('it has left', () => at.q.queue.size === 0);
    await Promise.all([before, at].map(({ q }) => q.queue.stop(0)));
  });

  it('does not count what others have done: two in flight together are never counted against each other', async () => {
    const file = newFile();
    for (let death = 0; death < 5; death += 1) {
      const suspects = new Suspects(file, silent);
      suspects.open();
      assert.deepEqual([suspects.deaths('a'), suspects.isKiller('a')], [death, false]);
      await Promise.all(['a', 'b'].map(id => suspects.begin(id)));
    }
  });
});

describe('the list of what is in flight', () => {
  it('counts deaths, and those of a message alone', async () => {
    const file = newFile();
    const open1 = new Suspects(file, silent);
    open1.open();
    await Promise.all(['a', 'a', 'b'].map(id => open1.begin(id)));
    open1.end('a');
    open1.end('b');
    for (let death = 1; death <= 3; death += 1) {
      const suspects = new Suspects(file, silent);
      suspects.open();
      assert.deepEqual([suspects.deaths('a'), suspects.deaths('b')], [death, 0]);
      assert.equal(suspects.isKiller('a'), death === 3);
      await suspects.begin('a');
    }
    const last = new Suspects(file, silent);
    last.open();
    last.clear('a');
    assert.deepEqual([last.deaths('a'), last.isKiller('a'), readFileSync(file, 'latin1').trim()], [0, false, '']);
    last.close();
  });

  it('does not grow with the mail, and takes neither nonsense nor a missing folder for a reason to fail', async () => {
    const file = newFile();
    writeFileSync(file, 'in-flight 1 1 ../evil\nin-flight x\0\nin-flight 1 0 good\n\n\n');
    const suspects = new Suspects(file, silent);
    suspects.open();
    assert.deepEqual([suspects.deaths('good'), suspects.deaths('../evil')], [2, 0]);
    for (let at = 0; at < 1000; at += 1) {
      await suspects.begin(`m${at}`);
      suspects.end(`m${at}`);
    }
    assert.equal(readFileSync(file).length, 160);
    const nowhere = new Suspects('/nowhere/in-flight', silent);
    nowhere.open();
    assert.equal(nowhere.begin('a'), undefined);
    nowhere.end('a');
    nowhere.close();
  });
});

it('the most suspicious is tried first, a slow one gets more time with each death', () => {
  const trial = new Trial<string>({ hex: () => '', below: () => 5 });
  const ended: string[] = [];
  const every = (): boolean => true;
  trial.add('a', 1);
  trial.add('b', 3);
  trial.add('c', 1);
  assert.equal(trial.next(every, false), undefined, 'something else is in flight');
  assert.equal(
    trial.next(job => job !== 'b', true),
    'a',
  );
  assert.equal(trial.next(every, true), 'b');
  trial.delete('b');
  trial.begin('b', 3, () => ended.push('b'));
  assert.equal(trial.isExclusive(every), true);
  for (let second = 1; second <= 15; second += 1) {
    assert.deepEqual(ended, []);
    trial.tick();
  }
  assert.deepEqual(ended, ['b']);
  trial.ended('b');
  assert.equal(trial.next(every, true), 'a');
});

it('a real process that dies of a message holds it at last, and all other mail has left', () => {
  const folder = mkdtempSync(join(base, 'real-'));
  const child = join(import.meta.dirname, 'queue-killer.child.ts');
  let deaths = 0;
  for (; deaths < 10; deaths += 1) {
    const { signal, stdout, stderr } = spawnSync(process.execPath, [child, folder], { encoding: 'utf8' });
    if (signal === 'SIGKILL') continue;
    assert.deepEqual(JSON.parse(stdout), { held: ['killer'], killers: ['killer'] }, stderr);
    break;
  }
  assert.ok(deaths >= 3 && deaths <= 4, `${deaths} deaths`);
  const log = readFileSync(`${folder}/delivered`, 'latin1').trim().split('\n');
  for (let at = 0; at < 20; at += 1) assert.ok(log.includes(`good${at}`), `good${at}`);
  assert.deepEqual(readdirSync(`${folder}/queue`).toSorted(), ['killer', 'killer.json']);
});
