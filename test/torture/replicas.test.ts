// Three replicas on one queue in PostgreSQL, behind HAProxy with the configuration of docker/replicas, under load, while
// replicas are killed, paused for longer than their lease, and cut off from the database, and while the database is
// restarted and replaced by its standby. The next hop is so slow that it is full most of the time.
// Promises shown: nothing that got 250 is lost; the next hop has SLIM_MAX_SESSIONS_OUT sessions and never more (what a
// paused replica has left open is not counted once its lease has ended); what it gets twice was under way when its
// replica died, hung, or had lost its database, or when its client had no answer.
// REPLICAS_PLOT: a file for the course of it, as SVG.
// The sizes: REPLICAS_MESSAGES, _KILLS, _PAUSES, _PAUSE_MS, _RESTARTS, _CUTS, _PROMOTIONS (0 or 1), _SECONDS; without
// TORTURE=all a sample.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import { GenericContainer, Network, type StartedNetwork, type StartedTestContainer, Wait } from 'testcontainers';
import { docker } from '../integration/compose-lib.ts';
import { Wire } from '../integration/wire.ts';
import { CountingHop, Load } from './replicas-lib.ts';
import { freePort } from '../ports.ts';
import { plot } from './soak-plot.ts';
import { type Server, openPlace, undoing } from './server.ts';

const isAll = process.env['TORTURE'] === 'all';
const size = (name: string, all: number, sample: number): number =>
  Number(process.env[`REPLICAS_${name}`] ?? (isAll ? all : sample));
const [messages, kills, pauses] = [size('MESSAGES', 20_000, 400), size('KILLS', 60, 3), size('PAUSES', 20, 0)];
const [pauseMs, restarts, cuts] = [size('PAUSE_MS', 90_000, 65_000), size('RESTARTS', 5, 1), size('CUTS', 3, 0)];
const [promotions, seconds] = [size('PROMOTIONS', 1, 0), size('SECONDS', 2400, 20)];
const plotFile = process.env['REPLICAS_PLOT'];
const names = ['one', 'two', 'three'];
const maxSessions = 20;
const sampleMs = 5000;
/** For so long after a renewal nobody else takes what a replica has leased, and a little less. */
const leaseMs = 54_000;
/** What happens to a replica explains what was under way with it then, and for so long afterwards. */
const explainMs = 75_000;

/** How long the next hop takes for a message, so that the load fills five sixths of its sessions. */
const meanMs = ((5 / 6) * maxSessions * seconds * 1000) / messages;

const undo = undoing(after);

/** PostgreSQL; with a standby it commits on both. */
async function startPostgres(network: StartedNetwork, alias: string, primary?: string): Promise<StartedTestContainer> {
  const container = new GenericContainer('postgres:17-trixie')
    .withNetwork(network)
    .withNetworkAliases(alias)
    .withEnvironment({ POSTGRES_PASSWORD: 'secret', PGPASSWORD: 'secret' })
    .withExposedPorts(5432)
    .withWaitStrategy(Wait.forLogMessage(/ready to accept (?:read-only )?connections/, primary === undefined ? 2 : 1))
    .withStartupTimeout(60_000);
  if (primary !== undefined) {
    const copy = `pg_basebackup -h ${primary} -U postgres -D /var/lib/postgresql/data/copy -R -X stream -C -S standby`;
    container
      .withUser('postgres')
      .withEntrypoint(['bash', '-c'])
      .withCommand([
        `test -s /var/lib/postgresql/data/copy/PG_VERSION || ${copy}; exec postgres -D /var/lib/postgresql/data/copy -c synchronous_standby_names=`,
      ]);
  }
  const started = await container.start();
  undo(async () => void (await started.stop({ timeout: 0 })));
  return started;
}

/** HAProxy in front of these ports, as docker/replicas has it. Resolves with its own port. */
async function startHaproxy(ports: readonly number[]): Promise<number> {
  const file = new URL('../../docker/replicas/haproxy.cfg', import.meta.url);
  const [shared = ''] = readFileSync(file, 'utf8').split(/^resolvers /m);
  const defaults = shared.replace(/ resolvers docker .*/, '');
  const port = await freePort();
  const servers = ports.map((each, at) => `  server ${names[at]} 127.0.0.1:${each}\n`).join('');
  const container = await new GenericContainer('haproxy:3.0')
    .withNetworkMode('host')
    .withCopyContentToContainer([
      {
        content: `${defaults}\nlisten smtp\n  bind 127.0.0.1:${port}\n${servers}`,
        target: '/usr/local/etc/haproxy/haproxy.cfg',
      },
    ])
    .withWaitStrategy(Wait.forLogMessage(/Loading success/))
    .start();
  undo(async () => void (await container.stop({ timeout: 0 })));
  return port;
}

test(`${names.length} replicas, ${messages} messages: ${kills} kills, ${pauses} pauses, ${restarts} restarts and ${promotions} promotions of the database, ${cuts} cuts`, async t => {
  const network = await new Network().start();
  undo(async () => void (await network.stop()));
  const primary = await startPostgres(network, 'primary');
  /** By its own address: a published port is another one after a restart, and so the address may be. */
  const addresses = new Map<StartedTestContainer, string>();
  const locate = async (at: StartedTestContainer): Promise<void> => {
    const format = `{{(index .NetworkSettings.Networks "${network.getName()}").IPAddress}}`;
    addresses.set(at, (await docker('inspect', '-f', format, at.getId())).trim());
  };
  const addressOf = (at: StartedTestContainer) => ({ host: addresses.get(at) ?? '', port: 5432 });
  await locate(primary);
  const sql = async (text: string, at = primary): Promise<Record<string, unknown>[]> => {
    const client = new Client({
      ...addressOf(at),
      user: 'postgres',
      password: 'secret',
    });
    client.on('error', () => undefined);
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(text)).rows;
    } finally {
      await client.end();
    }
  };
  let standby: StartedTestContainer | undefined;
  if (promotions > 0) {
    await docker(
      'exec',
      primary.getId(),
      'bash',
      '-c',
      'echo host replication all all scram-sha-256 >> $PGDATA/pg_hba.conf',
    );
    await sql('SELECT pg_reload_conf()');
    standby = await startPostgres(network, 'standby', 'primary');
    await locate(standby);
    await sql(`ALTER SYSTEM SET synchronous_standby_names = '*'`);
    await sql('SELECT pg_reload_conf()');
  }
  let current = primary;
  let isLoadOver = false;
  const hop = new CountingHop(() => (isLoadOver ? 10 : meanMs * (0.25 + 1.5 * Math.random())));
  await hop.listen();
  undo(async () => hop.close());

  const place = await openPlace(undo);
  const wires = await Promise.all(
    names.map(async () => {
      const to = (at: StartedTestContainer) => new Wire(() => addressOf(at)).listen();
      return Promise.all([to(primary), ...(standby ? [to(standby)] : [])]);
    }),
  );
  undo(async () => wires.flat().forEach(wire => wire.close()));
  const ports = await Promise.all(
    names.map(async (): Promise<[number, number]> => [await freePort(), await freePort()]),
  );
  const places = names.map(() => place.another());
  const start = (at: number): Promise<Server> => {
    const hosts = (wires[at] ?? []).map(({ port }) => `127.0.0.1:${port}`).join(',');
    const settings = {
      SLIM_HOSTNAME: `${names[at]}.example.com`,
      SLIM_QUEUE: '@POSTGRESQL',
      SLIM_STORAGES: `default=${places[at]?.folder}/mail`,
      SLIM_SRS_SECRET: 'a secret that all replicas share',
      SLIM_DKIM: 'off',
      SLIM_VERIFY: 'off',
      DATABASE_URL: `postgres://postgres:secret@${hosts}/postgres`,
      SLIM_RELAY_HOST: '127.0.0.1',
      SLIM_RELAY_PORT: String(hop.port),
      SLIM_RELAY_TLS: 'none',
      SLIM_TRUSTED_NETWORKS: '127.0.0.0/8',
      SLIM_PROXY_NETWORKS: '127.0.0.1',
      SLIM_RETRY: '2s,5s',
      SLIM_MAX_SESSIONS_OUT: String(maxSessions),
    };
    return (places[at] as (typeof places)[number]).start(settings, {
      ports: ports[at] as [number, number],
      isPatient: true,
    });
  };
  const servers = await Promise.all(names.map((_, at) => start(at)));

  for (const server of servers) assert.ok(!server.hasEnded(), server.log());

  const begunAt = performance.now();
  /** What happened when, to a replica or to all. */
  const faults: { at: number; until: number; replica: string; kind: string }[] = [];
  const happened = (replica: string, kind: string, ms = 0): void => {
    faults.push({ at: Date.now() - 1000, until: Date.now() + ms + explainMs, replica, kind });
  };
  const load = new Load([await startHaproxy(ports.map(([port]) => port))], messages);
  const lanes = 12;
  const spread = (): number => Math.max(0, ((seconds * 1000 * lanes) / messages) * (0.5 + Math.random()) - 20);
  const clients = Promise.all(Array.from({ length: lanes }, (_, lane) => load.run(lane, spread)));

  /** Does something so many times, spread over the load. */
  const often = async (times: number, act: (round: number) => Promise<void>): Promise<void> => {
    for (let round = 0; round < times; round += 1) {
      const next = begunAt + ((round + 0.3 + Math.random() * 0.5) / times) * seconds * 1000;
      await wait(Math.max(0, next - performance.now()));
      await act(round);
    }
  };
  const busy = new Set<number>();
  const anyone = (): number => {
    const free = [...names.keys()].filter(at => !busy.has(at));
    return free[Math.floor(Math.random() * free.length)] ?? 0;
  };
  const withReplica = async (act: (at: number, server: Server) => Promise<void>): Promise<void> => {
    while (busy.size === names.length) await wait(100);
    const at = anyone();
    busy.add(at);
    await act(at, servers[at] as Server).finally(() => busy.delete(at));
  };
  const killing = often(kills, () =>
    withReplica(async (at, server) => {
      happened(`${names[at]}.example.com`, 'kill');
      await server.kill();
      servers[at] = await start(at);
    }),
  );
  // Beside each other where there are more of them than fit one after the other.
  const pausing = Promise.all(
    [0, 1].map(half =>
      often(Math.ceil((pauses - half) / 2), () =>
        withReplica(async (at, server) => {
          happened(`${names[at]}.example.com`, 'pause', pauseMs);
          const replica = `${names[at]}.example.com`;
          server.process.kill('SIGSTOP');
          await wait(leaseMs);
          hop.away.add(replica);
          await wait(pauseMs - leaseMs);
          server.process.kill('SIGCONT');
          void wait(10_000).then(() => hop.away.delete(replica));
        }),
      ),
    ),
  );
  const cutting = often(cuts, () =>
    withReplica(async at => {
      happened(`${names[at]}.example.com`, 'cut', 70_000);
      for (const wire of wires[at] ?? []) wire.cut();
      await wait(70_000);
      for (const wire of wires[at] ?? []) wire.mend();
    }),
  );
  const restarting = often(restarts, async () => {
    happened('', 'restart');
    const at = current;
    await docker('restart', '--time', '0', at.getId());
    await locate(at);
  });
  const promoting = often(promotions, async () => {
    if (standby === undefined) return;
    happened('', 'promotion', 10_000);
    await docker('kill', primary.getId());
    await wait(1000);
    await docker('exec', standby.getId(), 'pg_ctl', 'promote', '-D', '/var/lib/postgresql/data/copy');
    current = standby;
  });

  const waiting = async (): Promise<number> =>
    Number((await sql('SELECT count(*) AS n FROM slimsmtp_message', current))[0]?.['n']);
  const samples: {
    minutes: number;
    waiting: number;
    isAway: boolean;
    kept: number;
    taken: number;
    sessions: number;
    gone: number;
  }[] = [];
  const look = setInterval(async () => {
    const minutes = (performance.now() - begunAt) / 60_000;
    const counts = { kept: load.kept.size, taken: hop.taken.size, sessions: hop.running, gone: busy.size };
    const found = await waiting().catch(() => undefined);
    samples.push({ minutes, ...counts, waiting: found ?? samples.at(-1)?.waiting ?? 0, isAway: found === undefined });
  }, sampleMs);
  undo(async () => clearInterval(look));
  await Promise.all([killing, pausing, cutting, restarting, promoting]);
  await clients;
  assert.equal(load.kept.size, messages);
  isLoadOver = true;
  const loadSeconds = Math.round((performance.now() - begunAt) / 1000);
  for (let left = 240; left > 0 && (await waiting().catch(() => 1)) > 0; left -= 1) await wait(1000);
  clearInterval(look);

  const lost = [...load.kept].filter(subject => !hop.taken.has(subject));
  const twice = [...hop.taken].filter(([, all]) => all.length > 1);
  const reasons = new Map<string, number>();
  const unexplained: string[] = [];
  for (const [subject, all] of twice) {
    const [first] = all;
    const fault = faults.find(
      ({ at, until, replica }) =>
        first &&
        (replica === '' || all.some(one => one.replica === replica)) &&
        first.at >= at - 2000 &&
        first.at <= until,
    );
    const why = load.again.has(subject) ? 'handed in again' : fault?.kind;
    if (why === undefined) unexplained.push(`${subject}: ${JSON.stringify(all)}`);
    else reasons.set(why, (reasons.get(why) ?? 0) + all.length - 1);
  }
  t.diagnostic(
    `${load.kept.size} messages in ${loadSeconds} s, ${load.refused} refusals: ${lost.length} lost, twice: ${JSON.stringify([...reasons])}; ` +
      `at most ${hop.most} sessions; faults: ${JSON.stringify([...Map.groupBy(faults, ({ kind }) => kind)].map(([kind, all]) => [kind, all.length]))}`,
  );
  if (plotFile !== undefined) {
    const sorted = samples.toSorted((a, b) => a.minutes - b.minutes);
    const minutes = sorted.map(each => each.minutes);
    const values = (of: (sample: (typeof samples)[number]) => number): number[] => sorted.map(of);
    /** Growth a second. */
    const rate = (of: (sample: (typeof samples)[number]) => number): number[] =>
      sorted.map((each, at) => Math.max(0, of(each) - of(sorted[at - 1] ?? each)) / (sampleMs / 1000));
    const panels = [
      {
        title: 'messages',
        unit: 'a second',
        lines: [
          { name: '250 said', values: rate(each => each.kept) },
          { name: 'next hop', values: rate(each => each.taken) },
        ],
      },
      { title: 'in the queue', unit: 'messages', lines: [{ name: 'all', values: values(each => each.waiting) }] },
      { title: 'at the next hop', unit: 'sessions', lines: [{ name: 'of 20', values: values(each => each.sessions) }] },
      {
        title: 'away',
        unit: '',
        lines: [
          { name: 'replicas', values: values(each => each.gone) },
          { name: 'the database', values: values(each => Number(each.isAway)) },
        ],
      },
    ];
    writeFileSync(plotFile, plot(`${names.length} replicas, ${messages} messages, ${kills} kills`, minutes, panels));
  }
  assert.equal(await waiting(), 0, 'nothing waits');
  assert.deepEqual(lost, []);
  assert.deepEqual(unexplained, []);
  assert.equal(hop.most, maxSessions);
});
