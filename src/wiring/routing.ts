// Who gets the mail: the sources in their fixed order, which is a promise to users.
import { join } from 'node:path';
import type { Answers } from '../control/requests.ts';
import type { AskMailbox, Directory, Domains } from '../mail/ports.ts';
import { TableDomains } from '../postgres/domains.ts';
import { openDatabase } from '../postgres/pool.ts';
import { TableDirectory } from '../postgres/routes.ts';
import { indexMaker } from '../postgres/schema.ts';
import { openCountTable } from '../postgres/counts.ts';
import { openTablePasswords } from '../postgres/users.ts';
import { openReturnPaths } from '../forward/return-path.ts';
import { accountDirectory } from '../routing/accounts.ts';
import { addressDirectory, defaultDirectory, domainDirectory, postmasterDirectory } from '../routing/address-map.ts';
import { createResolver } from '../routing/resolver.ts';
import { type Context, system } from './context.ts';

/** Opens the chain of directories. `ask` finds out whether an LMTP server has a mailbox; without it nobody can tell. */
export async function openRouting({ settings, steward, log }: Context, ask?: AskMailbox) {
  const { storages, mailRoot, dataFolder, subaddress, domains: own, sharesQueue } = settings;
  const { places } = storages;
  // Any replica may get the mail, and a home is on one machine.
  const accounts = sharesQueue ? undefined : steward?.accounts;
  const onUp = storages.postgresql ? { onUp: indexMaker(log) } : {};
  const database = settings.database && (await openDatabase({ settings: settings.database, log, ...onUp }));
  const directories: Directory[] = [addressDirectory(places, accounts, ask)];
  let domains: Domains = { hosts: domain => own.includes(domain) };
  if (database && storages.postgresql) {
    const table = new TableDomains({ database, settings: own, file: join(dataFolder, 'state', 'domains'), log });
    await table.start();
    domains = table;
    const hasDefault = places.some(({ kind }) => kind === 'default');
    const { clock } = system;
    directories.push(new TableDirectory({ query: database.query, accounts, mailRoot, hasDefault, clock, log }));
  }
  if (accounts && storages.pam) directories.push(accountDirectory(accounts));
  directories.push(domainDirectory(places, accounts, ask), defaultDirectory(places, accounts, ask));
  directories.push(postmasterDirectory(mailRoot));
  const mainDomain = own[0] ?? '';
  const mayForward = storages.postgresql || places.some(each => 'forward' in each);
  const srs = { secret: settings.srsSecret, folder: join(dataFolder, 'state'), mayForward };
  const returnPaths = openReturnPaths({ ...system, ...srs, mainDomain, domains });
  return {
    domains,
    returnPaths,
    resolve: createResolver({ directories, domains, subaddress, returnPaths, mainDomain }),
    tablePasswords: database && openTablePasswords(database.query, log),
    counts: database && sharesQueue ? openCountTable(database.query, system.clock) : undefined,
    database: (): Answers['health']['database'] => {
      if (database === undefined) return 'off';
      return database.isUp ? 'up' : 'down';
    },
  };
}
