// What operators and their programs get over HTTP: readiness, metrics in Prometheus' text format, and the figures of
// the status page; never more than figures.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Figures } from '../../src/mail/figures.ts';
import { Counters } from '../../src/metrics/counters.ts';
import { operateRoutes } from '../../src/web/operate.ts';
import { toText } from '../../src/web/prometheus.ts';
import type { Ask } from '../../src/web/protocol.ts';

const figures = (more: Partial<Figures> = {}): Figures => ({
  version: '1.2.3',
  hostname: 'mx.example.com',
  now: 1_800_000_060_000,
  startedAt: 1_800_000_000_000,
  health: 'healthy',
  troubles: [],
  minutes: [{ at: 1_800_000_000_000, taken: 3, refused: 1, sent: 2, deferred: 0, failed: 0 }],
  metrics: [
    {
      name: 'slimsmtp_queue_messages',
      help: 'Messages in the queue.',
      type: 'gauge',
      samples: [
        { labels: { state: 'waiting' }, value: 1234 },
        { labels: { state: 'held' }, value: 1 },
      ],
    },
    { name: 'slimsmtp_queue_oldest_seconds', help: 'Age.', type: 'gauge', samples: [{ labels: {}, value: 7300 }] },
    ...new Counters().metrics,
  ],
  ...more,
});

async function get(path: string, told: Figures) {
  const ask = (async () => told) as unknown as Ask;
  const route = operateRoutes(ask).find(each => each.path === path) ?? assert.fail(path);
  const { status, body } = await route.answer({} as never);
  return { status, body: String(body) };
}

describe('over HTTP', () => {
  it('readiness is 200, or 503 with what is wrong', async () => {
    assert.equal((await get('/ready', figures())).status, 200);
    const troubles = ['it does not listen'];
    const { status, body } = await get('/ready', figures({ health: 'unhealthy', troubles }));
    assert.deepEqual([status, JSON.parse(body)], [503, { health: 'unhealthy', troubles }]);
  });

  it('the status has tiles and rows for people', async () => {
    const { body } = await get('/status/figures', figures());
    const { tiles, rows, minutes } = JSON.parse(body);
    assert.deepEqual(tiles.slice(1, 3), [
      ['messages in the queue', '1,235'],
      ['age of the oldest', '2 h'],
    ]);
    assert.deepEqual(rows[0], ['queue', '1,234 waiting', '0 sending', '1 held', 'oldest 2 h']);
    assert.equal(minutes.length, 1);
  });

  it('it leaves out what is not counted', async () => {
    const { body } = await get('/status/figures', figures({ metrics: [], minutes: [] }));
    const { rows } = JSON.parse(body) as { rows: string[][] };
    assert.deepEqual(
      rows.map(([about]) => about),
      ['queue', 'next hops', 'sessions', 'parts', 'disk', 'certificate', 'memory'],
    );
  });
});

describe('the text format', () => {
  it('has help, type and a line for each sample; values of labels are escaped', () => {
    const metric = { name: 'a_total', help: 'A.', type: 'counter' as const };
    const samples = [
      { labels: {}, value: 1 },
      { labels: { x: 'a"b\\c\nd', y: '' }, value: 0.5 },
    ];
    assert.equal(
      toText([{ ...metric, samples }]),
      '# HELP a_total A.\n# TYPE a_total counter\na_total 1\na_total{x="a\\"b\\\\c\\nd",y=""} 0.5\n',
    );
  });

  it('of a histogram has buckets, sum and count', () => {
    const samples = [
      { labels: { le: '1' }, value: 2, part: 'bucket' as const },
      { labels: {}, value: 1.5, part: 'sum' as const },
      { labels: {}, value: 2, part: 'count' as const },
    ];
    const text = toText([{ name: 'a_seconds', help: 'A.', type: 'histogram', samples }]);
    assert.deepEqual(text.split('\n').slice(2, 5), [
      'a_seconds_bucket{le="1"} 2',
      'a_seconds_sum 1.5',
      'a_seconds_count 2',
    ]);
  });
});
