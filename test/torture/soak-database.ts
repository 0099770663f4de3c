// PostgreSQL with the demo's table, for tests that last or that load the machine. Not that of testcontainers: its
// health check runs psql four times a second, and one that is cut off on a busy machine ends by SIGPIPE, which the
// postmaster takes for a crash of its own.
import { eventually } from '../integration/client.ts';
import { type Stage, docker, root } from '../integration/compose-lib.ts';

export async function openDatabase(stage: Stage, network: string) {
  const [seed, password] = [`${root}docker/smtp.sql:/docker-entrypoint-initdb.d/smtp.sql:ro`, 'Databasesecret7'];
  const where = ['--network', network, '--network-alias', 'postgres', '--publish', '127.0.0.1::5432', '--volume', seed];
  const run = ['run', '--detach', ...where, '--env', `POSTGRES_PASSWORD=${password}`, 'postgres:17-trixie'];
  const id = (await docker(...run)).trim();
  stage.own(() => docker('rm', '--force', '--volumes', id));
  // Over TCP: while the volume is being made, only the Unix socket answers.
  const isUp = (): Promise<boolean> =>
    docker('exec', id, 'pg_isready', '-q', '-h', '127.0.0.1').then(
      () => true,
      () => false,
    );
  await eventually('PostgreSQL is up', isUp, 60_000);
  const port = /:(\d+)\s*$/m.exec(await docker('port', id, '5432/tcp'))?.[1];
  const environment = { PGHOST: 'postgres', PGUSER: 'postgres', PGDATABASE: 'postgres', PGPASSWORD: password };
  return { id, environment, url: `postgresql://postgres:${password}@127.0.0.1:${port}/postgres` };
}
