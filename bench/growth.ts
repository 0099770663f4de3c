// What a message costs SlimSMTP as one thing grows: its recipients, its size, the queue, the sessions, the table
// `smtp`. The first two are the message's own work and may cost in proportion; the others are the work of others and
// must not slow it.
// Promises: each round goes over all points, so that a disk that slows down does not look like growth; PostgreSQL is a
// real one, in a root of its own.
import { readdirSync, rmSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { join } from 'node:path';
import { type Load, openIdle, source } from './load.ts';
import type { Peer, Wish } from './peers.ts';
import { Tree, run } from './processes.ts';
import type { Place } from './setup.ts';
import { type Figures, deliver, waitFor, withServer } from './workloads.ts';

export type Series = {
  readonly title: string;
  /** What grows, with its unit. */
  readonly grows: string;
  readonly points: readonly number[];
  /** Columns of the table, lines of the plot. */
  readonly columns: Readonly<Record<string, string>>;
  readonly lines: readonly string[];
  /** In proportion is a straight line where both axes are logarithmic. */
  readonly isOwnWork: boolean;
  round(place: Place, peer: Peer, points: readonly number[], found: Found): Promise<void>;
};
type Found = (point: number, figures: Figures) => void;

const unrelated: Load = { messages: 3000, sessions: 20, sizeBytes: 4096, recipients: 1, reuse: true };
const cost = { ms: 'ms a message', processorMs: 'processor ms a message' };

export const growth: Readonly<Record<string, Series>> = {
  recipients: {
    title: 'Recipients of a message, each with a Maildir',
    grows: 'recipients',
    points: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    columns: { ...cost, msEach: 'ms a recipient' },
    lines: ['ms', 'processorMs'],
    isOwnWork: true,
    round: eachAlone(async (place, peer, recipients, found) => {
      const messages = Math.max(20, Math.min(2000, Math.round(4000 / recipients)));
      const load = { ...unrelated, recipients, messages };
      const figures = await warm(place, peer, {}, server => deliver(place, peer, server, load));
      found(recipients, { ...figures, msEach: (figures.ms ?? 0) / recipients });
    }),
  },
  size: {
    title: 'Size of a message',
    grows: 'octets',
    points: [1e3, 1e4, 1e5, 1e6, 5e6, 1e7, 2e7, 5e7],
    columns: { ...cost, megabytes: 'MB/s', peakMegabytes: 'peak memory, MB' },
    lines: ['ms', 'processorMs'],
    isOwnWork: true,
    round: eachAlone(async (place, peer, sizeBytes, found) => {
      const messages = Math.max(8, Math.min(2000, Math.round(2e8 / sizeBytes)));
      const load = { ...unrelated, sessions: 4, sizeBytes, messages };
      const figures = await warm(place, peer, {}, server => deliver(place, peer, server, load));
      const { perSecond = 0, peakBytes = 0 } = figures;
      found(sizeBytes, { ...figures, megabytes: (perSecond * sizeBytes) / 1e6, peakMegabytes: peakBytes / 1e6 });
    }),
  },
  queue: {
    title: 'Mail that waits in the queue, while other mail is delivered',
    grows: 'messages in the queue',
    points: [0, 1000, 10_000, 100_000, 1_000_000],
    columns: {
      ...cost,
      queueMs: 'ms to queue one more',
      startMs: 'ms to start',
      waitingBytes: 'octets of memory for each',
    },
    lines: ['ms', 'processorMs', 'queueMs'],
    isOwnWork: false,
    async round(place, peer, points, found) {
      let [queued, emptyBytes] = [0, 0];
      for (const point of points) {
        const wish = { keepsQueue: point > 0 };
        const queueMs = await warm(place, peer, wish, () => fill(place, peer, point - queued));
        queued = point;
        await warm(place, peer, wish, async (server, startMs) => {
          emptyBytes ||= server.proportionalBytes();
          // For fewer it would be the noise of two processes.
          const waitingBytes = point < 10_000 ? Number.NaN : (server.proportionalBytes() - emptyBytes) / point;
          const figures = await deliver(place, peer, server, unrelated);
          found(point, { ...figures, queueMs, startMs, waitingBytes });
        });
        const kept = readdirSync(peer.queue[0]!).filter(name => name.endsWith('.json')).length;
        if (kept !== point) throw new Error(`the queue holds ${kept}, not ${point}`);
      }
    },
  },
  sessions: {
    title: 'Sessions that idle, while others deliver',
    grows: 'idle sessions',
    points: [1, 10, 100, 1000, 10_000],
    columns: cost,
    lines: ['ms', 'processorMs'],
    isOwnWork: false,
    round: eachAlone((place, peer, sessions, found) =>
      warm(place, peer, {}, async server => {
        const held = await openIdle(peer.port, sessions);
        try {
          found(sessions, await deliver(place, peer, server, unrelated));
        } finally {
          held.close();
        }
      }),
    ),
  },
  rows: {
    title: 'Rows in the table `smtp`',
    grows: 'rows',
    points: [10, 100, 1000, 10_000, 100_000, 1_000_000],
    columns: { ...cost, newMs: 'ms, each to an address never seen', newProcessorMs: 'processor ms, likewise' },
    lines: ['ms', 'newMs'],
    isOwnWork: false,
    async round(place, peer, points, found) {
      const database = await openDatabase(place);
      try {
        const settings = {
          DATABASE_URL: `postgresql://slim@127.0.0.1:${databasePort}/slim`,
          SLIM_STORAGES: `@POSTGRESQL default=${join(peer.mail, 'default')}`,
          SLIM_STORAGES_FILE: '',
        };
        for (const rows of points) {
          await database.grow(rows);
          await warm(place, peer, { settings }, async server => {
            const known = await deliver(place, peer, server, unrelated);
            // The server asks the database for each: nothing is remembered, and the table must answer that it is not
            // there.
            const other = await deliver(place, peer, server, { ...unrelated, numbered: true, to: 'new@bench.test' });
            found(rows, { ...known, newMs: other.ms ?? 0, newProcessorMs: other.processorMs ?? 0 });
          });
        }
      } finally {
        await database.close();
      }
    },
  },
};

/** A round of points that do not build on each other. */
function eachAlone(measure: (place: Place, peer: Peer, point: number, found: Found) => Promise<void>): Series['round'] {
  return async (place, peer, points, found) => {
    for (const point of points) await measure(place, peer, point, found);
  };
}

function warm<T>(place: Place, peer: Peer, wish: Wish, use: (server: Tree, startMs: number) => Promise<T>): Promise<T> {
  return withServer(place, peer, wish, async (server, startMs) => {
    await deliver(place, peer, server, { ...unrelated, messages: 200 });
    return use(server, startMs);
  });
}

/** Mail for the relay, where nobody listens. ms for each. */
async function fill(place: Place, peer: Peer, messages: number): Promise<number> {
  if (messages === 0) return Number.NaN;
  const from = performance.now();
  await source(place, peer.port, { ...unrelated, messages, sizeBytes: 1000, to: 'x@ext.test' });
  return (performance.now() - from) / messages;
}

const databasePort = 2698;

async function openDatabase(place: Place) {
  const root = await place.root('postgresql', 'postgresql');
  const [bin = ''] = readdirSync(join(root, 'usr/lib/postgresql')).map(version => `/usr/lib/postgresql/${version}/bin`);
  const inside = ['chroot', '--userspec=postgres:postgres', root];
  const data = '/srv/bench';
  rmSync(join(root, data), { recursive: true, force: true });
  await run(['chroot', root, 'install', '-d', '-o', 'postgres', '-m', '700', data]);
  await run([...inside, `${bin}/initdb`, '-D', data, '-U', 'slim', '--auth=trust', '--no-locale', '-E', 'UTF8']);
  const options = ['-D', data, '-h', '127.0.0.1', '-p', `${databasePort}`, '-k', ''];
  const server = new Tree({ argv: [...inside, `${bin}/postgres`, ...options] }, place.log('postgresql'));
  const psql = (sql: string, database = 'slim'): Promise<string> => {
    const connection = ['-h', '127.0.0.1', '-p', `${databasePort}`, '-U', 'slim', '-d', database];
    return run(['chroot', root, 'psql', '-q', '-v', 'ON_ERROR_STOP=1', ...connection], { input: sql });
  };
  const answers = (): Promise<boolean> =>
    psql('', 'postgres')
      .then(() => true)
      .catch(() => false);
  await waitFor(answers, server);
  await psql('CREATE DATABASE slim', 'postgres');
  await psql(`CREATE TABLE smtp (id bigserial PRIMARY KEY, mailbox varchar(255), domain varchar(255),
      account_backend varchar(20), UNIQUE (mailbox, domain));
    INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('u', 'bench.test', 'MAILDIR');`);
  return {
    /** A hundred mailboxes to a domain. */
    grow: (rows: number) =>
      psql(`INSERT INTO smtp (mailbox, domain, account_backend)
        SELECT 'user' || i, 'domain' || i / 100 || '.test', 'MAILDIR'
        FROM generate_series((SELECT count(*) FROM smtp), ${rows} - 1) AS i;
        ANALYZE smtp;`),
    close: () => server.stop(),
  };
}
