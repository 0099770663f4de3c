// What is counted of the life events, and the figures of the last hour.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Event } from '../../src/mail/event.ts';
import { Counters } from '../../src/metrics/counters.ts';
import { Counter, Histogram } from '../../src/metrics/family.ts';
import { Trend } from '../../src/metrics/trend.ts';

const arrival = {
  message: 'a',
  session: 's',
  client: '192.0.2.1',
  helo: 'x',
  protocol: 'ESMTP',
  from: 'me@example.net',
  to: ['you@example.com'],
  recipients: 1,
  routes: [],
};
const message = (
  result: 'delivered' | 'queued' | 'refused',
  more: Partial<Event & { kind: 'message' }> = {},
): Event => ({
  kind: 'message',
  ...arrival,
  result,
  sizeBytes: 100,
  ms: 20,
  verdicts: [],
  ...more,
});
const attempt = (result: 'delivered' | 'deferred' | 'failed', recipients: number, ageMs: number): Event => ({
  kind: 'attempt',
  message: 'a',
  hop: 'domain',
  destination: 'example.org',
  from: '',
  to: [],
  recipients,
  result,
  status: '2.0.0',
  text: '',
  attempts: 1,
  ms: 700,
  ageMs,
});

describe('a family', () => {
  it('has each choice of known labels from the start, and further ones as they come', () => {
    const family = new Counter('x_total', 'X.', { a: ['1', '2'], b: ['3'] });
    family.add(['2', '3']);
    family.add(['2', '3'], 4);
    family.add(['9', '3']);
    assert.deepEqual(family.metric, {
      name: 'x_total',
      help: 'X.',
      type: 'counter',
      samples: [
        { labels: { a: '1', b: '3' }, value: 0 },
        { labels: { a: '2', b: '3' }, value: 5 },
        { labels: { a: '9', b: '3' }, value: 1 },
      ],
    });
    assert.deepEqual(new Counter('y_total', 'Y.').metric.samples, [{ labels: {}, value: 0 }]);
    assert.deepEqual(new Counter('z_total', 'Z.', { a: [] }).metric.samples, []);
  });

  it('of durations counts each bucket with all smaller ones, a bound inclusive', () => {
    const family = new Histogram('x_seconds', 'X.', [1, 10], { a: ['b'] });
    for (const seconds of [0.5, 1, 1.5, 11]) family.observe(seconds, 'b');
    assert.deepEqual(
      family.metric.samples.map(({ labels, value, part }) => [part, labels['le'], value]),
      [
        ['bucket', '1', 2],
        ['bucket', '10', 3],
        ['bucket', '+Inf', 4],
        ['sum', undefined, 14],
        ['count', undefined, 4],
      ],
    );
  });
});

describe('counters', () => {
  const count = (...events: Event[]): Counters => {
    const counters = new Counters();
    for (const event of events) counters.hear(event);
    return counters;
  };

  it('count messages by their result; octets and time of those that were kept', () => {
    const counters = count(message('delivered'), message('queued', { sizeBytes: 50 }), message('refused'));
    assert.deepEqual(
      ['delivered', 'queued', 'refused', 'abandoned'].map(result => counters.messages.get(result)),
      [1, 1, 1, 0],
    );
    assert.equal(counters.bytes.get(), 150);
    const sum = counters.messageSeconds.metric.samples.at(-2);
    assert.deepEqual([sum?.part, sum?.value], ['sum', 0.04]);
  });

  it('count verdicts and the results of SPF, DKIM, ARC and DMARC; no other word becomes a label', () => {
    const results = ['spf=pass smtp.mailfrom=x', 'dkim=fail', 'dkim=pass', 'evil=pass', 'dmarc=nonsense'];
    const { verdicts, authentication } = count(
      message('delivered', { verdicts: [{ check: 'judging', result: 'junk', results }] }),
    );
    assert.deepEqual(verdicts.samples, [{ labels: { check: 'judging', result: 'junk' }, value: 1 }]);
    const told = authentication.samples.filter(({ value }) => value > 0);
    assert.deepEqual(
      told.map(({ labels }) => `${labels['method']}=${labels['result']}`),
      ['spf=pass', 'dkim=pass', 'dkim=fail'],
    );
    assert.equal(authentication.samples.length, 4 * 8);
  });

  it('count recipients of attempts, and the age of mail that is done', () => {
    const counters = count(
      attempt('deferred', 3, 5000),
      attempt('delivered', 2, 90_000),
      attempt('failed', 1, 8_640_000),
    );
    assert.deepEqual(
      ['delivered', 'deferred', 'failed'].map(result => counters.deliveries.get('domain', result)),
      [2, 3, 1],
    );
    const counts = counters.queueSeconds.metric.samples.filter(({ part }) => part === 'count');
    assert.deepEqual(
      counts.map(({ labels, value }) => [labels['result'], value]),
      [
        ['delivered', 1],
        ['failed', 1],
      ],
    );
  });

  it('count refusals by command and class, logins by result, children, and who was turned away', () => {
    const refused = { kind: 'refused', session: 's', client: 'c', helo: 'h', from: 'f' } as const;
    const counters = count(
      { ...refused, reply: '550 5.1.1 No', to: 't' },
      { ...refused, reply: '451 4.3.0 Later', to: 't' },
      { ...refused, reply: '501 5.1.7 No' },
      { kind: 'login', client: 'c', name: 'n', result: 'failed' },
      { kind: 'turned away', client: 'c', because: 'sessions' },
      { kind: 'child', name: 'judge', state: 'started' },
      { kind: 'session', listener: 'smtp', isProbe: true, ms: 3 },
    );
    assert.deepEqual(
      counters.refused.samples.map(({ value }) => value),
      [0, 1, 1, 1],
    );
    assert.equal(counters.logins.get('failed'), 1);
    assert.equal(counters.turnedAway.get('sessions'), 1);
    assert.equal(counters.childrenStarted.get('judge'), 1);
    assert.deepEqual([counters.probes.get('smtp'), counters.sessions.get('smtp')], [1, 0]);
  });

  it('have no label that comes from the network, and names by Prometheus’ conventions', () => {
    const events: Event[] = [message('queued'), attempt('failed', 1, 1)];
    const text = JSON.stringify(count(...events).metrics);
    assert.doesNotMatch(text, /example|192\.0\.2/);
    for (const { name, type } of count().metrics) {
      assert.match(name, /^slimsmtp_[a-z_]+$/);
      assert.equal(name.endsWith('_total'), type === 'counter', name);
      if (type === 'histogram') assert.match(name, /_seconds$/);
    }
  });
});

it('the trend has sixty minutes, each with what happened in it, the running one last', () => {
  const counters = new Counters();
  let now = 1_800_000_000_000;
  const trend = new Trend(counters, { now: () => now });
  counters.hear(message('delivered'));
  counters.hear(attempt('deferred', 2, 1));
  for (let minute = 0; minute < 70; minute += 1) {
    now += 60_000;
    trend.tick();
    for (let n = 0; n <= minute; n += 1) counters.hear(message('queued'));
  }
  counters.hear(message('refused'));
  const { minutes } = trend;
  assert.equal(minutes.length, 60);
  assert.deepEqual(minutes.at(-1), { at: now, taken: 70, refused: 1, sent: 0, deferred: 0, failed: 0 });
  assert.deepEqual(minutes[0], { at: now - 59 * 60_000, taken: 11, refused: 0, sent: 0, deferred: 0, failed: 0 });
  trend.close();
});
