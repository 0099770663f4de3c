// The calendar: an item stands in it once, is taken out when its second has come, and never before.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Calendar } from '../../src/queue/calendar.ts';

it('gives each item once, at the first look after its second has begun', () => {
  const calendar = new Calendar<string>();
  for (const [item, atMs] of Object.entries({ a: 1000, b: 1001, c: 2000, d: 9000 })) calendar.plan(item, atMs);
  const looks: readonly (readonly [nowMs: number, items: string])[] = [
    [999, ''],
    [1000, 'a'],
    [1999, ''],
    [2000, 'b c'],
    [2001, ''],
    [60_000, 'd'],
    [60_001, ''],
  ];
  for (const [now, items] of looks) assert.equal(calendar.take(now).join(' '), items, String(now));
  assert.deepEqual(calendar.items, []);
});

it('forgets what an item was planned for before, and what is cancelled', () => {
  const calendar = new Calendar<string>();
  calendar.plan('a', 1000);
  calendar.plan('a', 5000);
  calendar.plan('b', 1000);
  calendar.cancel('b');
  calendar.cancel('nobody');
  assert.deepEqual(calendar.items, ['a']);
  assert.deepEqual(calendar.take(4000), []);
  assert.deepEqual(calendar.take(5000), ['a']);
});
