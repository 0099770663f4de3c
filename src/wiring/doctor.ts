// All looks of `slimsmtp doctor`, in the order in which they are told. It runs beside the server, changes nothing and
// sends no mail. What needs the rights of whoever has called comes first: to ask the running server, root becomes the
// owner of its socket.
import type { Settings } from '../config/settings.ts';
import { NoServer, askAll } from '../control/client.ts';
import { checkFiles } from '../doctor/files.ts';
import { checkResolver } from '../doctor/names.ts';
import { checkSockets } from '../doctor/sockets.ts';
import { checkQueue } from '../doctor/waiting.ts';
import { mayBeAuthentic } from '../dns/servers.ts';
import { openDns } from '../dns/stub.ts';
import type { Finding } from '../mail/admin.ts';
import { findUser } from '../steward/nss.ts';
import type { Log } from '../system/log.ts';
import { checkAcme } from './acme.ts';
import { selfOf, system } from './context.ts';

export async function* examine(settings: Settings, controlPath: string, log: Log): AsyncGenerator<Finding> {
  const { hostname, relay, database, storages, users, dataFolder } = settings;
  const now = system.clock.now();
  const user = settings.runAs === undefined ? undefined : await findUser(settings.runAs);
  const isRoot = process.getuid?.() === 0;
  const self = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  yield* checkFiles(dataFolder, settings.mailRoots, isRoot && user ? user : self);
  const dns = openDns({ servers: settings.resolver });
  yield* await checkSockets(settings.listen, hostname, now);
  yield* await checkAcme(settings);
  yield* await checkResolver(dns, `${system.random.hex(8)}.invalid`, mayBeAuthentic(settings.resolver));
  if (database) {
    const [{ openDatabase }, { checkDatabase }] = await Promise.all([
      import('../postgres/pool.ts'),
      import('../postgres/health.ts'),
    ]);
    const wanted = { smtp: storages.postgresql, users: users.some(({ name }) => name === '@POSTGRESQL') };
    const opened = await openDatabase({ settings: database, log });
    yield* await checkDatabase(opened, wanted, now);
  }
  if (relay) {
    const { checkRelay } = await import('../outbound/relay-check.ts');
    yield await checkRelay(relay, { ...system, dns, isSelf: selfOf(hostname), hostname });
  }
  yield* await askServer(settings, controlPath);
}

/** What only the running server knows. */
async function askServer({ domains }: Settings, path: string): Promise<readonly Finding[]> {
  const found: Finding[] = [];
  try {
    found.push(...(await checkQueue(askAll(path, { verb: 'list', selector: {} }))));
    for await (const { type, name, status, found: there, zone } of askAll(path, { verb: 'dns' })) {
      if (status === 'ok') continue;
      const instead = there.length > 0 ? `: found ${there.join(', ')}` : '';
      const text = `${type} ${name} ${status === 'unknown' ? 'cannot be told' : status}${instead}`;
      found.push({ about: 'dns', status: status === 'unknown' ? 'unknown' : 'mend', text, mend: zone });
    }
    if (!found.some(({ about }) => about === 'dns'))
      found.push({ about: 'dns', status: 'ok', text: `all records of ${domains.join(', ')} are there` });
  } catch (error) {
    if (!(error instanceof NoServer)) throw error;
    found.push({ about: 'server', status: 'mend', text: error.message, mend: 'docker compose up -d slimsmtp' });
  }
  return found;
}
