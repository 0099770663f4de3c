// The figures of a server: what is told of its health, what is left out where a part is not there, and that they cost
// little.
import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { describe, it } from 'node:test';
import { createFigures } from '../../src/wiring/figures.ts';

const settings = { hostname: 'mx.example.com', dataFolder: tmpdir(), mailRoot: '/nowhere' };
type Context = Parameters<typeof createFigures>[0];
type Parts = Parameters<typeof createFigures>[1];

function open(more: Partial<Parts> = {}, context: object = {}) {
  const counts = { waiting: 2, sending: 1, held: 0, oldestAt: 0, destinations: { all: 3, blocked: 1 } };
  const looks = { health: 0, queue: 0 };
  const health = () => {
    looks.health += 1;
    return { listening: true, sessions: 4, database: 'off', queued: 3, writable: true, unwritable: [] } as const;
  };
  const count = async () => {
    looks.queue += 1;
    return counts;
  };
  const parts = { certificates: { expiresAt: 5000 }, health, sending: { queue: { count } }, ...more };
  const figures = createFigures({ settings, watching: { listen: undefined }, ...context } as Context, parts as Parts);
  return { figures, looks };
}

describe('figures', () => {
  it('tell of the queue, of health, and of free room where the folder is there', async () => {
    const { figures } = open();
    const { health, troubles, minutes, metrics, hostname } = await figures();
    assert.deepEqual([health, troubles, minutes, hostname], ['healthy', [], [], 'mx.example.com']);
    const samples = (name: string) => metrics.find(metric => metric.name === name)?.samples;
    assert.deepEqual(samples('slimsmtp_queue_messages'), [
      { labels: { state: 'waiting' }, value: 2 },
      { labels: { state: 'sending' }, value: 1 },
      { labels: { state: 'held' }, value: 0 },
    ]);
    assert.deepEqual(
      samples('slimsmtp_destinations')?.map(({ value }) => value),
      [2, 1],
    );
    assert.deepEqual(samples('slimsmtp_certificate_expiry_timestamp_seconds'), [{ labels: {}, value: 5 }]);
    assert.deepEqual(
      samples('slimsmtp_free_bytes')?.map(({ labels }) => labels['folder']),
      ['data'],
    );
    for (const name of ['slimsmtp_database_up', 'slimsmtp_steward_questions', 'slimsmtp_history_lost_total'])
      assert.equal(samples(name), undefined, name);
  });

  it('name what is not well', async () => {
    const health = () =>
      ({ listening: true, sessions: 0, database: 'down', queued: 0, writable: true, unwritable: [] }) as const;
    const { metrics, ...told } = await open({ health }).figures();
    assert.equal(told.health, 'degraded');
    assert.equal(told.troubles.length, 1);
    assert.deepEqual(metrics.find(({ name }) => name === 'slimsmtp_database_up')?.samples[0]?.value, 0);
  });

  it('are collected once for all who ask within a second', async () => {
    const { figures, looks } = open();
    const all = await Promise.all(Array.from({ length: 100 }, figures));
    assert.equal(new Set(all).size, 1);
    assert.deepEqual(looks, { health: 1, queue: 1 });
  });
});
