// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there.
// Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Accounts, Directory, Found } from '../mail/ports.ts';
import { type Mailbox, formatMailbox } from '../mail/address.ts';

/** SLIM_STORAGES. Paths are absolute. */
export type AddressMap = Readonly<{
  addresses: readonly { readonly mailbox: Mailbox; readonly path: string }[];
  domains: readonly { readonly domain: string; readonly path: string }[];
  default?: string | undefined;
}>;

export function addressDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.addresses.map(({ mailbox, path }) => [formatMailbox(mailbox), path]));
  const perPath = Map.groupBy(map.addresses, ({ path }) => path);
  // Of several addresses with one path, none is the mailbox's own.
  const viaOf = (path: string): Via => ((perPath.get(path)?.length ?? 0) > 1 ? 'alias' : undefined);
  return pathDirectory('SLIM_STORAGES', accounts, mailbox => paths.get(formatMailbox(mailbox)), viaOf);
}

export function domainDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.domains.map(({ domain, path }) => [domain, path]));
  return pathDirectory(
    '*@domain',
    accounts,
    ({ domain }) => paths.get(domain),
    () => 'catch-all',
  );
}

export function defaultDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  return pathDirectory(
    'default',
    accounts,
    () => map.default,
    () => 'catch-all',
  );
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(root: string): Directory {
  const path = join(root, 'postmaster');
  const find = ({ local }: Mailbox) => (local === 'postmaster' ? path : undefined);
  return pathDirectory('postmaster', undefined, find, undefined, root);
}

type Find = (mailbox: Mailbox) => string | undefined;
type Via = Found['via'];
/** `accounts` is undefined where there is no steward; `top` is what must be there already, the path itself if unset. */
function pathDirectory(
  name: string,
  accounts: Accounts | undefined,
  find: Find,
  viaOf: (path: string) => Via = () => undefined,
  top?: string,
): Directory {
  return {
    name,
    async lookup(mailbox, explain) {
      const path = find(mailbox);
      if (path === undefined) return undefined;
      explain?.(`${name}: ${formatMailbox(mailbox)} is kept in ${path}`);
      const via = viaOf(path);
      const how = via && { via };
      const owner = accounts && (await accounts.owner(path));
      if (owner === undefined) return { routes: [{ kind: 'maildir', path, root: top ?? path }], ...how };
      explain?.(`${path} lies in the home of ${owner.name}: delivered as that account`);
      return { routes: [{ kind: 'account', account: owner.name, folder: relative(owner.home, path) }], ...how };
    },
  };
}
