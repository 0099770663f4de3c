// Containers for the integration tests: our image (as test/run.mjs built it), PostgreSQL, networks, and the shipped
// compose file.
// Promises: what is started through a stage ends with it, in reverse order, volumes too, also when a test fails;
// servers run as hardened as in compose.yaml; every start waits until the thing is ready, or fails with its log.
// Never: publishes on anything but loopback's random ports, or reads the user's .env.
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PostgreSqlContainer, type StartedPostgreSqlContainer } from '@testcontainers/postgresql';
import { GenericContainer, Network, Wait, type StartedNetwork, type StartedTestContainer } from 'testcontainers';

export const image = 'slimsmtp:test';
export const root = new URL('../../', import.meta.url).pathname;
/** What of the project the compose file needs. */
const parts = 'compose.yaml Dockerfile .dockerignore .node24 docker src package.json package-lock.json'.split(' ');
/** As in compose.yaml. */
export const capabilities = ['CHOWN', 'DAC_OVERRIDE', 'SETGID', 'SETUID'];

/**
 * The docker client: for what testcontainers has no words (pause, kill, volumes, logs of the dead). Its output; throws
 * with its complaint.
 */
export async function docker(...parameters: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('docker', parameters, { cwd: root, maxBuffer: 2 ** 26 });
  return stdout;
}

export type ServerOptions = {
  readonly environment?: Record<string, string>;
  readonly network?: StartedNetwork;
  /** Address of the name server to ask (Docker's own, which knows the containers, asks it). */
  readonly dns?: string;
  /** Contents of files to be found in the container, by their paths. */
  readonly files?: Readonly<Record<string, string>>;
  /** For what else GenericContainer offers: `server => server.withUser('1000')`. */
  readonly prepare?: (server: GenericContainer) => GenericContainer;
};

class Server extends GenericContainer {
  constructor(dns?: string) {
    super(image);
    this.hostConfig.ReadonlyRootfs = true;
    if (dns) this.hostConfig.Dns = [dns];
    this.withDroppedCapabilities('ALL')
      .withAddedCapabilities(...capabilities)
      .withSecurityOpt('no-new-privileges');
    this.withExposedPorts(25, 587, 465).withNetworkAliases('slimsmtp');
    // The image's own check, rarely: each is a process that others of two cores wait for. The log says sooner that it
    // listens.
    const seldom = {
      test: ['CMD', 'slimsmtp', 'health'] as ['CMD', ...string[]],
      interval: 3000,
      timeout: 30_000,
      retries: 60,
    };
    this.withHealthCheck(seldom).withWaitStrategy(Wait.forLogMessage('"msg":"ready"')).withStartupTimeout(60_000);
  }
}

/** As Promise.all, but waits for all of them also when one fails: what has been started can then be ended. */
export async function together<const T extends readonly Promise<unknown>[]>(promises: T) {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}

/** `docker compose` with these words, in `folder`; its output. */
export type Compose = ((...words: string[]) => Promise<string>) & { readonly folder: string };

export type Stage = {
  server(options?: ServerOptions): Promise<StartedTestContainer>;
  /** With the demo's four rows; `environment` is what a server on the same network needs. */
  postgres(
    network: StartedNetwork,
  ): Promise<{ database: StartedPostgreSqlContainer; environment: Record<string, string> }>;
  network(): Promise<StartedNetwork>;
  /**
   * The shipped compose file in a copy of the project, under a name of its own, on free ports; `files` are others of
   * that folder, such as .env. Not started yet: `compose('up', …)`.
   */
  project(files?: Readonly<Record<string, string>>): Compose;
  /** The same, started by `docker compose up -d --wait`. */
  compose(files?: Readonly<Record<string, string>>): Promise<Compose>;
  /** Anything else to be undone at the end. */
  own(undo: () => Promise<unknown>): void;
};

/** `after` is node:test's, or that of one test (`t.after.bind(t)`). */
export function openStage(after: (undo: () => Promise<void>) => void): Stage {
  const undos: (() => Promise<unknown>)[] = [];
  const own = (undo: () => Promise<unknown>): void => void undos.push(undo);
  after(async () => {
    const failures: unknown[] = [];
    for (const undo of undos.toReversed()) await undo().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, 'not everything that was started has ended');
  });
  const started = <T extends StartedTestContainer>(container: T): T => {
    own(() => container.stop({ remove: true, removeVolumes: true, timeout: 1000 }));
    return container;
  };

  return {
    own,
    async server({ environment = {}, network, dns, files = {}, prepare = it => it }: ServerOptions = {}) {
      const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-files-'));
      own(async () => rmSync(folder, { recursive: true }));
      const mounts = Object.entries(files).map(([target, content], index) => {
        const source = join(folder, String(index));
        writeFileSync(source, content);
        return { source, target, mode: 'ro' as const };
      });
      const server = prepare(new Server(dns).withEnvironment({ SLIM_DOMAINS: 'example.com', ...environment }));
      const log: Buffer[] = [];
      server.withLogConsumer(stream => stream.on('data', (data: Buffer) => log.push(data)));
      if (network) server.withNetwork(network);
      if (mounts.length > 0) server.withBindMounts(mounts);
      return started(
        await server.start().catch((error: Error) => {
          throw new Error(`${error.message}; its log:\n${log.join('')}`);
        }),
      );
    },
    async network() {
      const network = await new Network().start();
      own(() => network.stop());
      return network;
    },
    async postgres(network) {
      const seed = { source: `${root}docker/smtp.sql`, target: '/docker-entrypoint-initdb.d/smtp.sql' };
      // testcontainers' own, every 250 ms, is cut off where the machine is busy; PostgreSQL takes its remains for a
      // crash and restarts.
      const ready = {
        test: ['CMD', 'pg_isready', '-h', '127.0.0.1'] as ['CMD', ...string[]],
        interval: 1000,
        timeout: 30_000,
        retries: 60,
      };
      const container = new PostgreSqlContainer('postgres:17-trixie')
        .withNetwork(network)
        .withNetworkAliases('postgres');
      const database = started(await container.withCopyFilesToContainer([seed]).withHealthCheck(ready).start());
      const environment = { PGHOST: 'postgres', PGDATABASE: database.getDatabase(), PGUSER: database.getUsername() };
      return { database, environment: { ...environment, PGPASSWORD: database.getPassword() } };
    },
    project(files = {}) {
      const project = `slimsmtp-test-${randomBytes(4).toString('hex')}`;
      const folder = mkdtempSync(join(tmpdir(), `${project}-`));
      own(async () => rmSync(folder, { recursive: true }));
      for (const name of parts) cpSync(join(root, name), join(folder, name), { recursive: true });
      for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
      const ports = { PORT_SMTP: '127.0.0.1:', PORT_SUBMISSION: '127.0.0.1:', PORT_SUBMISSIONS: '127.0.0.1:' };
      const options = { cwd: folder, maxBuffer: 2 ** 26, env: { ...process.env, ...ports } };
      const run = async (...words: string[]): Promise<string> =>
        (await promisify(execFile)('docker', ['compose', '-p', project, ...words], options)).stdout;
      const compose = Object.assign(run, { folder });
      own(() => compose('down', '--volumes', '--timeout', '1'));
      return compose;
    },
    async compose(files) {
      const compose = this.project(files);
      await compose('up', '--detach', '--build', '--wait').catch(async (error: Error) => {
        throw new Error(`${error.message}\n${await compose('logs')}`);
      });
      return compose;
    },
  };
}
