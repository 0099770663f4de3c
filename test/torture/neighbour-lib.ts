// Next hops and a DNS that misbehave as told (neighbour.peer.ts), each in a container of one network, and a server that
// asks and meets them.
// Promises: all ends with the stage; how a neighbour behaves changes at once, by a file; what it took is read from a
// file it wrote.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StartedTestContainer } from 'testcontainers';
import { createCertificate } from '../../src/tls/certificates.ts';
import { systemClock, systemRandom as random } from '../../src/system/world.ts';
import { deliver, eventually } from '../integration/client.ts';
import { type Stage, docker, image, root, together } from '../integration/compose-lib.ts';

export type Neighbours = {
  /**
   * `hang STEP`, `drop STEP`, `nonsense STEP`; '' is as it should be. STEP: CONNECT EHLO STARTTLS TLS MAIL RCPT DATA
   * CONTENT QUIT.
   */
  tell(hop: string, how: string): void;
  /** The DNS is honest from now on. */
  heal(): void;
  /** Subjects of the messages whose final dot it has seen. */
  took(hop: string): string[];
  /** How many connections it had. */
  met(hop: string): number;
  /** What it took: the octets between DATA and the final dot, as they came. */
  digests(): { subject: string; digest: string }[];
  readonly network: string;
  /** A file for a server to ask this DNS. */
  readonly resolvConf: string;
  server(environment?: Record<string, string>): Promise<StartedTestContainer>;
};

/** Mail for anything.HOP.example goes to that hop. */
export async function openNeighbours(stage: Stage, hops: readonly string[]): Promise<Neighbours> {
  const network = await stage.network();
  const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-neighbours-'));
  stage.own(async () => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755);
  // Expired a year ago: what MX hosts have is used, and not verified.
  const clock = { now: () => systemClock.now() - 11 * 366 * 86_400_000 };
  const { cert, key } = await createCertificate({ hostname: 'hop.example', clock, random });
  writeFileSync(join(folder, 'pem'), `${cert}\n${key}`);
  writeFileSync(join(folder, 'hosts'), '{}');
  const start = async (role: string): Promise<[string, string]> => {
    const mounts = ['-v', `${root}:/project:ro`, '-v', `${folder}:/shared`];
    const command = ['--entrypoint', 'node', image, '/project/test/torture/neighbour.peer.ts', role];
    const id = (await docker('run', '--detach', '--network', network.getName(), ...mounts, ...command)).trim();
    stage.own(() => docker('rm', '--force', '--volumes', id));
    await eventually(`${role} is up`, async () => existsSync(join(folder, `${role}.up`)), 60_000);
    return [
      role,
      (await docker('inspect', '-f', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id)).trim(),
    ];
  };
  const hosts = Object.fromEntries(await together(['dns', ...hops].map(start)));
  writeFileSync(join(folder, 'hosts'), JSON.stringify(hosts));
  const resolvConf = join(folder, 'resolv.conf');
  // Not Docker's own name server, which has opinions on what it passes on.
  const resolv = `nameserver ${hosts['dns']}\n`;
  writeFileSync(resolvConf, resolv);
  const lines = (name: string): string[] =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1) : [];
  return {
    tell: (hop, how) => writeFileSync(join(folder, hop), how),
    heal: () => writeFileSync(join(folder, 'healed'), ''),
    digests: () => hops.flatMap(hop => lines(`${hop}.digests`)).map(line => JSON.parse(line)),
    network: network.getName(),
    resolvConf,
    took: hop => lines(`${hop}.took`),
    met: hop => lines(`${hop}.met`).length,
    server: (environment = {}) =>
      stage.server({
        network,
        files: { '/etc/resolv.conf': resolv },
        environment: { ...settings, ...environment },
      }),
  };
}

const settings = {
  SLIM_HOSTNAME: 'mail.example.com',
  SLIM_STORAGES: 'default=/var/mail/default',
  SLIM_USERS: 'anton:secret',
  SLIM_RETRY: '1s,1s,2s',
  SLIM_DRAIN: '1s',
};

/** Mail for a mailbox here is taken, and sooner than any wait for a neighbour ends; the reply. */
export async function takesMail(port: number, to = 'someone@example.com'): Promise<string> {
  const startedAt = performance.now();
  const reply = await deliver(port, [to], 'Subject: other mail\r\n\r\n');
  const ms = Math.round(performance.now() - startedAt);
  assert.match(reply, /^250 /);
  assert.ok(ms <= 3000, `other mail took ${ms} ms`);
  return `${reply.slice(0, 9)} after ${ms} ms`;
}
