// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there.
// Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Accounts, Directory, Found, Mailbox } from '../mail.ts';
import { show } from './resolver.ts';

/** SLIM_STORAGES. Paths are absolute. */
export type AddressMap = {
  readonly addresses: readonly { readonly mailbox: Mailbox; readonly path: string }[];
  readonly domains: readonly { readonly domain: string; readonly path: string }[];
  readonly default?: string | undefined;
};

export function addressDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.addresses.map(({ mailbox, path }) => [show(mailbox), path]));
  return pathDirectory('SLIM_STORAGES', accounts, mailbox => paths.get(show(mailbox)));
}

export function domainDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.domains.map(({ domain, path }) => [domain, path]));
  return pathDirectory('*@domain', accounts, mailbox => paths.get(mailbox.domain), { via: 'catch-all' });
}

export function defaultDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  return pathDirectory('default', accounts, () => map.default, { via: 'catch-all' });
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(mailRoot: string): Directory {
  const home = join(mailRoot, 'postmaster');
  const find = ({ local }: Mailbox): string | undefined => (local === 'postmaster' ? home : undefined);
  return pathDirectory('postmaster', undefined, find, {}, mailRoot);
}

/** `accounts` is undefined where there is no steward; `root` is what must be there already, the path itself if unset. */
function pathDirectory(
  name: string,
  accounts: Accounts | undefined,
  find: (mailbox: Mailbox) => string | undefined,
  how: Pick<Found, 'via'> = {},
  root?: string,
): Directory {
  return {
    name,
    async lookup(mailbox, explain) {
      const path = find(mailbox);
      if (path === undefined) return undefined;
      explain(`${name}: ${show(mailbox)} is kept in ${path}`);
      const owner = await accounts?.owner(path);
      if (owner === undefined) return { routes: [{ kind: 'maildir', path, root: root ?? path }], ...how };
      explain(`${path} lies in the home of ${owner.name}: delivered as that account`);
      return { routes: [{ kind: 'account', account: owner.name, folder: relative(owner.home, path) }], ...how };
    },
  };
}
