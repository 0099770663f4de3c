// The figures of the running server: what was counted, and what can be seen now. docs/metrics.md explains each name; a
// test compares.
import { statfs } from 'node:fs/promises';
import type { Health } from '../control/requests.ts';
import { judge } from '../control/health.ts';
import type { DiskJournal } from '../durable/journal.ts';
import type { QueueCounts } from '../mail/admin.ts';
import type { Figures, Metric, Sample } from '../mail/figures.ts';
import { version } from '../system/version.ts';
import type { Certificates } from '../tls/certificates.ts';
import { acmeTroubles } from './acme.ts';
import { type Context, system } from './context.ts';
import type { Kept } from './sending.ts';

/** The same figures are told for so long. */
const keptMs = 900;

type Parts = Readonly<{
  sending?: Pick<Kept, 'queue'>;
  certificates: Certificates;
  journal?: () => DiskJournal | undefined;
  health: () => Health | Promise<Health>;
}>;

export function createFigures(
  { settings, steward, watching }: Context,
  { sending, certificates, journal, health: look }: Parts,
): () => Promise<Figures> {
  const startedAt = system.clock.now();
  const { counters, trend, history } = watching;
  const collect = async (): Promise<Figures> => {
    const now = system.clock.now();
    const health = await look();
    const judged = judge(health);
    const troubles = [...judged.troubles, ...(await acmeTroubles(settings))];
    // Where the queue is shared, its database may not answer.
    const queued = await sending?.queue.count().catch(() => undefined);
    const states = journal?.()?.state;
    const cpu = process.cpuUsage();
    const metrics: Metric[] = [
      gauge('slimsmtp_build_info', 'The version, as a label.', [1, { version }]),
      gauge('slimsmtp_healthy', 'Whether it listens and can write.', [judged.health === 'unhealthy' ? 0 : 1]),
      gauge('slimsmtp_sessions', 'Sessions that are open.', [health.sessions]),
      gauge('slimsmtp_certificate_expiry_timestamp_seconds', 'When the certificate expires.', [
        certificates.expiresAt / 1000,
      ]),
      gauge('slimsmtp_free_bytes', 'Free octets of the file systems.', ...(await freeBytes(settings))),
      counter('process_cpu_seconds_total', 'Processor time of the network process.', (cpu.user + cpu.system) / 1e6),
      gauge('process_resident_memory_bytes', 'Memory of the network process.', [process.memoryUsage.rss()]),
      gauge('process_start_time_seconds', 'When the network process started.', [startedAt / 1000]),
    ];
    if (queued) metrics.push(...queueMetrics(queued, now));
    if (health.database !== 'off')
      metrics.push(gauge('slimsmtp_database_up', 'Whether the database answers.', [health.database === 'up' ? 1 : 0]));
    if (states)
      metrics.push(
        gauge('slimsmtp_journal_writable', 'Whether the journal can be written.', [states.isWritable ? 1 : 0]),
        gauge(
          'slimsmtp_journal_segments',
          'Segments of the journal that are kept: full ones wait for sync -f, left ones for a folder.',
          [states.full, { state: 'full' }],
          [states.left, { state: 'left' }],
        ),
      );
    if (steward)
      metrics.push(
        gauge('slimsmtp_steward_questions', 'Questions that the steward has not answered.', [steward.questions]),
      );
    if (history)
      metrics.push(counter('slimsmtp_history_lost_total', 'Events that could not be written.', history.lost));
    if (counters) metrics.push(...counters.metrics);
    const { hostname } = settings;
    return { version, hostname, now, startedAt, ...judged, troubles, minutes: trend?.minutes ?? [], metrics };
  };
  // Figures are collected once in a while, and not for each question: that costs a look at each message in the queue.
  let last: Promise<Figures> | undefined;
  let lastAt = -Infinity;
  return () => {
    const now = system.clock.now();
    if (last === undefined || Math.abs(now - lastAt) >= keptMs) {
      lastAt = now;
      last = collect();
    }
    return last;
  };
}

function queueMetrics({ waiting, sending, held, oldestAt, destinations }: QueueCounts, now: number): readonly Metric[] {
  return [
    gauge(
      'slimsmtp_queue_messages',
      'Messages in the queue.',
      [waiting, { state: 'waiting' }],
      [sending, { state: 'sending' }],
      [held, { state: 'held' }],
    ),
    gauge('slimsmtp_queue_oldest_seconds', 'Age of the oldest message in the queue; 0 where there is none.', [
      oldestAt === undefined ? 0 : Math.max(0, now - oldestAt) / 1000,
    ]),
    gauge(
      'slimsmtp_destinations',
      'Next hops for which mail waits.',
      [destinations.all - destinations.blocked, { state: 'open' }],
      [destinations.blocked, { state: 'blocked' }],
    ),
  ];
}

type Value = readonly [value: number, labels?: Sample['labels']];
function gauge(name: string, help: string, ...values: readonly Value[]): Metric {
  return { name, help, type: 'gauge', samples: values.map(([value, labels = {}]) => ({ labels, value })) };
}
function counter(name: string, help: string, value: number): Metric {
  return { name, help, type: 'counter', samples: [{ labels: {}, value }] };
}

/** The free octets of the file systems of SLIM_DATA and SLIM_MAIL_ROOT, as far as these folders are there. */
async function freeBytes({ dataFolder, mailRoot }: Context['settings']): Promise<readonly Value[]> {
  const values: Value[] = [];
  for (const [folder, path] of Object.entries({ data: dataFolder, mail: mailRoot })) {
    const found = await statfs(path).catch(() => undefined);
    if (found) values.push([found.bavail * found.bsize, { folder }]);
  }
  return values;
}
