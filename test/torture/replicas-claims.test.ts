// What a claim costs in the queue in PostgreSQL: with a thousand and with a million waiting messages, after as many
// claims, and beside an open snapshot, which keeps the dead rows of all that was sent.
// Promise shown: it costs the same, within twice, and what it gives does not depend on the length of the queue.
// The size: REPLICAS_WAITING; without TORTURE=all a sample. REPLICAS_PLOT: a file for the course beside the snapshot, as
// SVG.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import { clean, replica, usePostgres } from '../integration/shared-queue.harness.ts';
import { plot } from './soak-plot.ts';

const many = Number(process.env['REPLICAS_WAITING'] ?? (process.env['TORTURE'] === 'all' ? 1_000_000 : 30_000));
const few = 1000;
const destinations = 100;
const limits = { jobs: 20, notices: true, sessions: new Map<string, number>() };
const postgres = usePostgres();

/** So many messages that are due, spread over some destinations. */
async function fill(count: number): Promise<void> {
  const envelope = JSON.stringify({
    id: 'x',
    from: 'a@example.com',
    isUtf8: false,
    is8Bit: false,
    receivedAt: Date.now(),
    returnPathBytes: 0,
  });
  const record = JSON.stringify({ recipients: [{ address: 'b@x', domain: 'x', attempts: 0, nextAt: 0 }] });
  await postgres.admin.query(
    `INSERT INTO slimsmtp_message (id, sender, received_at, size, is_single, envelope, body)
      SELECT 'm' || n, 'a@example.com', now(), 64, true, jsonb_set($2::jsonb, '{id}', to_jsonb('m' || n))::json, decode(repeat('78', 64), 'hex') FROM generate_series(1, $1::int) n`,
    [count, envelope],
  );
  await postgres.admin.query(
    `INSERT INTO slimsmtp_job (message, destination, is_notice, next_at, wake_at, record)
      SELECT 'm' || n, 'd' || n % ${destinations} || '.example', false, now() - interval '1 h' + n * interval '1 us', now() + interval '4 h', $2::json FROM generate_series(1, $1::int) n`,
    [count, record],
  );
  await postgres.admin.query(
    `INSERT INTO slimsmtp_destination (name, next_due, first_at) SELECT destination, now(), min(next_at) FROM slimsmtp_job GROUP BY 1
      ON CONFLICT (name) DO UPDATE SET next_due = excluded.next_due, first_at = excluded.first_at`,
  );
  await postgres.admin.query('ANALYZE');
}

/** The lower quartile: what other programs do on this machine is not the claim's. */
const quartile = (times: readonly number[]): number =>
  times.toSorted((a, b) => a - b)[Math.floor(times.length / 4)] ?? 0;

/** Claims and settles that many jobs; how long a claim took in ms, at the beginning and at the end. */
async function drain(store: Awaited<ReturnType<typeof replica>>['store'], jobs: number) {
  const times: number[] = [];
  /** The course: how long claims took, and how many messages were gone. */
  const samples: { minutes: number; ms: number; sent: number }[] = [];
  const begunAt = performance.now();
  let empty = 0;
  for (let done = 0; done < jobs;) {
    const startedAt = performance.now();
    const claimed = await store.claim(limits);
    times.push(performance.now() - startedAt);
    // Others may hold the rows of destinations for a moment.
    empty = claimed.jobs.length > 0 ? 0 : empty + 1;
    assert.ok(empty < 20, `nothing is claimed after ${done} of ${jobs}`);
    if (empty > 0) await wait(100);
    done += claimed.jobs.length;
    const minutes = (performance.now() - begunAt) / 60_000;
    if (times.length % 50 === 0) samples.push({ minutes, ms: quartile(times.slice(-50)), sent: done });
    const plan = { state: 'done', waitMs: 0, wakeMs: 0 } as const;
    await Promise.all(
      claimed.jobs.map(job => {
        const own = { ...plan, destination: job.destination, record: job.record };
        return store.write(job, own, () => own);
      }),
    );
  }
  return { first: quartile(times.slice(5, 45)), last: quartile(times.slice(-40)), samples };
}

test(`a claim costs the same with ${few} and ${many} waiting messages`, async t => {
  await clean(postgres.admin);
  const { store, lines } = await replica(postgres.url);
  after(() => store.stop());
  const on = { onWork: () => undefined, onLost: () => undefined };
  await store.start(on);
  await fill(few);
  const short = await drain(store, few);
  await fill(many);
  const startedAt = performance.now();
  const { jobs } = await store.claim(limits);
  assert.equal(jobs.length, limits.jobs);
  const firstMs = performance.now() - startedAt;
  for (const job of jobs) {
    const own = { state: 'done', waitMs: 0, wakeMs: 0, destination: job.destination, record: job.record } as const;
    await store.write(job, own, () => own);
  }
  const long = await drain(store, Math.min(many / 2, 100_000));
  // An open snapshot, such as that of pg_dump.
  const dump = new Client({ connectionString: postgres.url });
  await dump.connect();
  after(() => dump.end());
  await dump.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  await dump.query('SELECT count(*) FROM slimsmtp_replica');
  const beside = await drain(store, Math.min(many / 4, 100_000));
  await dump.query('COMMIT');
  const rest = Number((await postgres.admin.query<{ n: string }>('SELECT count(*) AS n FROM slimsmtp_job')).rows[0]?.n);
  const late = await drain(store, rest);
  const ms = (value: number): string => value.toFixed(2);
  t.diagnostic(
    `a claim of 20, ms: ${ms(short.first)} with ${few}; ${ms(firstMs)} (the first) and ${ms(long.first)} with ${many}, ${ms(long.last)} later; ` +
      `beside a snapshot ${ms(beside.first)}, then ${ms(beside.last)}; after ${many} claims ${ms(late.last)}`,
  );
  const plotFile = process.env['REPLICAS_PLOT'];
  if (plotFile !== undefined) {
    const minutes = beside.samples.map(each => each.minutes);
    const claims = { name: 'lower quartile', values: beside.samples.map(({ ms: each }) => each) };
    const sent = { name: 'sent', values: beside.samples.map(each => each.sent / 1000) };
    const panels = [
      { title: 'a claim of 20', unit: 'ms', lines: [claims] },
      { title: 'since the snapshot', unit: 'thousand messages', lines: [sent] },
    ];
    writeFileSync(plotFile, plot(`Claims beside an open snapshot, to ${destinations} next hops`, minutes, panels));
  }
  const troubles = lines.filter(({ msg }) => /cannot answer/.test(msg));
  assert.deepEqual(troubles, []);
  for (const [what, value] of Object.entries({
    many: long.first,
    later: long.last,
    snapshot: beside.first,
    'snapshot, later': beside.last,
    after: late.last,
  }))
    assert.ok(value < 2 * Math.max(short.first, 2), `${what}: ${ms(value)} ms, with few ${ms(short.first)}`);
});
