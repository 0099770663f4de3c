// The soak: the image for an hour at half of what this machine can take, with everything on: TLS, PostgreSQL, Unix
// accounts (steward and PAM), a relay with a login, deferrals, bounces, certificates renewed and the table changed all
// the time.
// Promises: exit status 0 only where memory, descriptors and latency stayed flat (the last third against the first) and
// every message is accounted for, once. It measures full load itself, writes a plot, and ends what it started, also on
// Ctrl-C. Usage: node --import=./test/setup/no-grpc.mjs test/torture/soak.ts [--minutes 60] [--rate N, a second; half
// of full load] [--plot FILE.svg]
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import { createCertificate } from '../../src/tls/certificates.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { eventually } from '../integration/client.ts';
import { docker, openStage } from '../integration/compose-lib.ts';
import { openWorld } from '../integration/peer-lib.ts';
import { openDatabase } from './soak-database.ts';
import { Load } from './soak-load.ts';
import { plot } from './soak-plot.ts';

const option = { type: 'string' } as const;
const { values } = parseArgs({ options: { minutes: option, rate: option, plot: option } });
const minutes = Number(values.minutes ?? 60);
const seconds = { calibration: 20, sample: minutes < 10 ? 2 : 5, renewal: 20, change: 3, settling: 60 };
const atOnce = 20;
/**
 * What the last third may have more than the first: a share, and so much in all. Medians; of latency also the 99th
 * percentile.
 */
const tolerances = {
  'network process, MB': [0.1, 8],
  'steward, MB': [0.1, 8],
  'PAM child, MB': [0.1, 8],
  'descriptors, network process': [0, 8],
  'descriptors, steward': [0, 8],
  'latency, median, ms': [0.25, 2],
  'latency, 99 %, ms': [0.5, 20],
} as const satisfies Record<string, readonly [share: number, more: number]>;
type Measure = keyof typeof tolerances;
type Sample = Record<Measure | 'queued' | 'messages a second', number> & { readonly minute: number };

const undos: (() => Promise<void>)[] = [];
let ending: Promise<unknown> | undefined;
const stage = openStage(undo => void undos.push(undo));
process.on('SIGINT', () => void end(130)).on('SIGTERM', () => void end(143));
void end(await soak().catch((error: unknown) => (console.error(error), 1)));

async function end(status: number): Promise<never> {
  ending ??= Promise.all(undos.map(undo => undo().catch((error: unknown) => console.error(error))));
  await ending;
  process.exit(status);
}

async function soak(): Promise<number> {
  const server = await openServer();
  const load = new Load({ ...server.ports, password: 'secret' });
  read(server.id, server.maildirs, load);
  read(server.peer, { peer: '/var/mail/all/new' }, load);
  const full = values.rate === undefined ? await load.run(Infinity, seconds.calibration * 1000, atOnce) : undefined;
  if (full === undefined) await load.run(Infinity, 3000, atOnce); // so that every process is there
  const rate = Number(values.rate ?? (full ?? 0) / 2);
  const caption = `${rate.toFixed(0)} messages a second for ${minutes} minutes${full ? `, full load is ${full.toFixed(0)}` : ''}`;
  console.log(`${caption}; ${cpus().length} cores, Node ${process.version}`);

  const renewed = { certificates: 1, changes: 0 };
  every(seconds.renewal, async () => (await server.renew(), (renewed.certificates += 1)));
  every(seconds.change, async () => (await server.change((renewed.changes += 1)), undefined));
  load.latencies = [];
  const samples: Sample[] = [];
  const latencies: number[][] = [];
  const startedAt = performance.now();
  await server.watch(seconds.sample, figures => {
    const [count, sorted] = [load.latencies.length, load.latencies.toSorted((a, b) => a - b)];
    load.latencies = [];
    if (count === 0) return;
    latencies.push(sorted);
    samples.push({
      ...figures,
      'latency, median, ms': quantile(sorted, 0.5),
      'latency, 99 %, ms': quantile(sorted, 0.99),
      'messages a second': count / seconds.sample,
      minute: (performance.now() - startedAt) / 60_000,
    });
  });
  await load.run(rate, minutes * 60_000, 5 * atOnce);
  const [measured, { certificates, changes }] = [samples.slice(), renewed];
  console.log(
    `${certificates} certificates, ${changes} changes of the table, ${load.postponed} waits for a free session`,
  );
  const failures = [...flat(measured, latencies), ...(await account(load))];
  // The last may have come too late for a handshake.
  if (load.certificates.size < certificates - 1)
    failures.push(`${certificates} certificates were made, and handshakes have shown ${load.certificates.size}`);
  const errors = spawnSync('sh', [
    '-c',
    `docker logs ${server.id} 2>&1 | grep -m 20 -E '"level":"error"'`,
  ]).stdout.toString();
  failures.push(...errors.split('\n').filter(Boolean));
  if (values.plot !== undefined) writeFileSync(values.plot, draw(caption, measured));
  for (const failure of failures) console.error(`FAILED: ${failure}`);
  console.log(failures.length === 0 ? 'flat, and all mail accounted for' : `${failures.length} failures`);
  return failures.length === 0 ? 0 : 1;
}

/** The image with all that it works with. */
async function openServer() {
  const world = await openWorld(stage, 'good');
  const database = await openDatabase(stage, world.network.getName());
  const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-soak-'));
  stage.own(async () => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755); // the key is root's, and the network process reads the authority itself
  const renew = async (): Promise<void> => {
    const pair = await createCertificate({ hostname: 'mail.example.com', clock, random });
    writeFileSync(join(folder, 'cert.pem'), pair.cert);
    writeFileSync(join(folder, 'key.pem'), pair.key, { mode: 0o600 });
  };
  await renew();
  writeFileSync(join(folder, 'ca.pem'), await world.peers.good.shell('cat /etc/postfix/cert.pem'));
  const client = new Client({ connectionString: database.url });
  client.on('error', () => {});
  await client.connect();
  stage.own(() => client.end());
  await client.query(`INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('berta', '@SOCIAL', 'ALIAS'), ('berta', '@SOLO', 'ALIAS'),
    ('box', 'example.com', 'MAILDIR'), ('moving', 'example.com', 'MAILDIR')`);
  const container = await world.server({
    environment: {
      ...database.environment,
      SLIM_STORAGES: '@POSTGRESQL default=/var/mail/default',
      SLIM_ACCOUNTS: 'anton:secret berta:secret',
      SLIM_USERS: '@PAM',
      SLIM_SENDER_CHECK: 'strict',
      SLIM_TLS_CERT_FILE: '/certs/cert.pem',
      SLIM_TLS_KEY_FILE: '/certs/key.pem',
      SLIM_RELAY_HOST: 'good.peer.example',
      SLIM_RELAY_USER: 'relay@peer.example',
      SLIM_RELAY_PASSWORD: 'relay secret',
      NODE_EXTRA_CA_CERTS: '/certs/ca.pem',
    },
    prepare: it => it.withBindMounts([{ source: folder, target: '/certs', mode: 'ro' }]),
  });
  const id = container.getId();
  return {
    id,
    peer: world.peers.good.id,
    ports: { smtp: container.getMappedPort(25), submissions: container.getMappedPort(465) },
    maildirs: {
      anton: '/home/anton/Maildir/new',
      berta: '/home/berta/Maildir/new',
      box: '/var/mail/example.com/box/new',
      moving: '/var/mail/example.com/moving/new',
      default: '/var/mail/default/new',
    },
    /** A new certificate, and the word that it is there. */
    renew: async () => (await renew(), void (await docker('kill', '--signal', 'HUP', id))),
    /** Where `moving` leads, and a domain that comes and goes. */
    change: async (count: number): Promise<void> => {
      const backend = count % 2 ? '@SOLO' : 'MAILDIR';
      await client.query(`UPDATE smtp SET account_backend = $1 WHERE mailbox = 'moving'`, [backend]);
      await client.query(`DELETE FROM smtp WHERE domain LIKE 'd%.example'`);
      await client.query(`INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('x', $1, 'MAILDIR')`, [
        `d${count}.example`,
      ]);
    },
    watch: (everySeconds: number, take: (figures: Figures) => void) => watch(id, everySeconds, take),
  };
}

type Figures = Omit<Sample, 'latency, median, ms' | 'latency, 99 %, ms' | 'messages a second' | 'minute'>;
/**
 * What the kernel says of the three processes, and how many files are in the queue. One shell for the whole time;
 * resolves with its first line.
 */
async function watch(id: string, everySeconds: number, take: (figures: Figures) => void): Promise<void> {
  const script = `
    find() { for p in /proc/[0-9]*; do { tr '\\0' ' ' <$p/cmdline | grep -q " $1 *$"; } 2>/dev/null && echo $p; done; }
    rss() { sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' $1/status; }
    # Only who is slim may look into a process of slim.
    slim() { setpriv --reuid 525 --regid 525 --clear-groups ls -f "$1" | wc -l; }
    while sleep ${everySeconds}; do
      network=$(find network) pam=$(find pam)
      echo "$(rss $network) $(rss /proc/1) $(rss $pam) $(slim $network/fd) $(ls -f /proc/1/fd | wc -l) $(slim /var/lib/slimsmtp/queue)"
    done`;
  let isFirst = (): void => {};
  const first = new Promise<void>(resolve => (isFirst = resolve));
  lines(['exec', id, 'sh', '-c', script], line => {
    const [network = 0, steward = 0, pam = 0, descriptors = 0, stewards = 0, files = 0] = line.split(' ').map(Number);
    isFirst();
    take({
      'network process, MB': network / 1024,
      'steward, MB': steward / 1024,
      'PAM child, MB': pam / 1024,
      'descriptors, network process': descriptors - 2,
      'descriptors, steward': stewards - 2,
      queued: Math.max(0, files - 2) / 2,
    });
  });
  await first;
}

/** Someone who reads mail, and takes it away. */
function read(id: string, maildirs: Readonly<Record<string, string>>, load: Load): void {
  // In Perl, which every Debian has.
  const script = String.raw`$| = 1; while (1) { for my $dir (@ARGV) { opendir(my $d, $dir) or next; while (my $name = readdir $d) {
    -f "$dir/$name" && open(my $f, '<:raw', "$dir/$name") or next; local $/; my $mail = <$f>;
    my $kind = $mail =~ /^Auto-Submitted: auto-replied/m ? 'bounce' : 'mail';
    my ($mark) = $mail =~ /^Subject: (soak-\S+)/m; my (undef, $body) = split /\n\n/, $mail, 2;
    printf "%s\t%s\t%s\t%s\n", $dir, $kind, $mark // 'nothing of ours', unpack('%32C*', $body // ''); unlink "$dir/$name";
  } } select undef, undef, undef, 0.5 }`;
  const places = new Map(Object.entries(maildirs).map(([place, path]) => [path, place]));
  lines(['exec', id, 'perl', '-e', script, ...places.keys()], line => {
    const [path = '', kind, mark = '', sum] = line.split('\t');
    load.arrived(`${places.get(path)}${kind === 'bounce' ? ', a bounce' : ''}`, mark, Number(sum));
  });
}

/** A docker command that goes on until the end. */
function lines(command: readonly string[], take: (line: string) => void): ChildProcess {
  const child = spawn('docker', command, { stdio: ['ignore', 'pipe', 'inherit'] });
  createInterface({ input: child.stdout }).on('line', take);
  stage.own(async () => void child.kill());
  return child;
}

function every(periodSeconds: number, work: () => Promise<unknown>): void {
  let last: Promise<unknown> = Promise.resolve();
  const timer = setInterval(
    () => (last = last.then(work).catch((error: unknown) => console.error(error))),
    periodSeconds * 1000,
  );
  stage.own(async () => (clearInterval(timer), await last));
}

/** What has grown from the first third to the last, of all but the first tenth (Node warms up, two minutes at most). */
function flat(samples: readonly Sample[], latencies: readonly (readonly number[])[]): string[] {
  const from = samples.findIndex(({ minute }) => minute >= Math.min(2, minutes / 10));
  const third = Math.floor((samples.length - from) / 3);
  if (from < 0 || third < 5) return ['too few samples to compare'];
  const [early, late] = [samples.slice(from, from + third), samples.slice(-third)];
  const all = (part: readonly (readonly number[])[]): number[] => part.flat().toSorted((a, b) => a - b);
  const [soon, at] = [all(latencies.slice(from, from + third)), all(latencies.slice(-third))];
  const of = (measure: Measure, part: readonly Sample[], each: readonly number[]): number => {
    if (measure.startsWith('latency')) return quantile(each, measure.includes('99') ? 0.99 : 0.5);
    return quantile(
      part.map(sample => sample[measure]).toSorted((a, b) => a - b),
      0.5,
    );
  };
  return (Object.keys(tolerances) as Measure[]).flatMap(measure => {
    const [before, after, [share, more]] = [of(measure, early, soon), of(measure, late, at), tolerances[measure]];
    const most = before + Math.max(before * share, more);
    console.log(
      `${measure.padEnd(30)} first third ${before.toFixed(1).padStart(7)}   last third ${after.toFixed(1).padStart(7)}   at most ${most.toFixed(1)}`,
    );
    return after <= most
      ? []
      : [`${measure}: ${before.toFixed(1)} became ${after.toFixed(1)}, at most ${most.toFixed(1)} may be`];
  });
}

/** Waits for what is on its way; then there may be nothing left. */
async function account(load: Load): Promise<string[]> {
  await eventually('all mail has arrived', async () => load.unaccounted.length === 0, seconds.settling * 1000).catch(
    () => {},
  );
  await wait(2000); // for what arrives once too often
  load.close();
  const total = [...load.counts.values()].reduce((sum, count) => sum + count, 0);
  console.log(`${total} messages: ${[...load.counts].map(([name, count]) => `${count} ${name}`).join(', ')}`);
  const left = load.unaccounted;
  const missing = left.length > 0 ? [`${left.length} messages have not arrived: ${left.slice(0, 20).join(' ')}`] : [];
  return [...missing, ...load.faults];
}

function draw(caption: string, samples: readonly Sample[]): string {
  const line = (name: string, measure: keyof Sample) => ({ name, values: samples.map(sample => sample[measure]) });
  const panels = [
    {
      title: 'Resident memory',
      unit: 'MB',
      lines: [
        line('network process', 'network process, MB'),
        line('steward', 'steward, MB'),
        line('PAM child', 'PAM child, MB'),
      ],
    },
    {
      title: 'Open descriptors',
      unit: 'number',
      lines: [line('network process', 'descriptors, network process'), line('steward', 'descriptors, steward')],
    },
    {
      title: 'A message, from MAIL to the last reply',
      unit: 'ms',
      lines: [line('median', 'latency, median, ms'), line('99 %', 'latency, 99 %, ms')],
    },
    {
      title: 'Traffic',
      unit: 'messages',
      lines: [line('sent a second', 'messages a second'), line('in the queue', 'queued')],
    },
  ];
  return plot(
    caption,
    samples.map(({ minute }) => minute),
    panels,
  );
}

function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
