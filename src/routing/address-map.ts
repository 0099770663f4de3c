// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there.
// Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Account, Accounts, Directory, Explain, Mailbox, Route } from '../mail.ts';

export type AddressMap = {
  readonly addresses: readonly { readonly mailbox: Mailbox; readonly path: string }[];
  readonly domains: readonly { readonly domain: string; readonly path: string }[];
  readonly default?: string | undefined;
};

/** The single addresses of SLIM_STORAGES. Paths are absolute; `accounts` is undefined where there is no steward. */
export function addressDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.addresses.map(({ mailbox, path }) => [`${mailbox.local}@${mailbox.domain}`, path]));
  return pathDirectory('SLIM_STORAGES', accounts, mailbox => paths.get(`${mailbox.local}@${mailbox.domain}`));
}

/** The `*@domain` entries of SLIM_STORAGES. */
export function domainDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = new Map(map.domains.map(({ domain, path }) => [domain, path]));
  return pathDirectory('*@domain', accounts, mailbox => paths.get(mailbox.domain));
}

/** `default`: everything, where it is set. */
export function defaultDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  return pathDirectory('default', accounts, () => map.default);
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(mailRoot: string): Directory {
  const route: Route = { kind: 'maildir', path: join(mailRoot, 'postmaster'), root: mailRoot };
  return {
    name: 'postmaster',
    async lookup(mailbox, explain) {
      if (mailbox.local !== 'postmaster') return undefined;
      explain(`postmaster: has no other home than ${route.path}`);
      return [route];
    },
  };
}

function pathDirectory(
  name: string,
  accounts: Accounts | undefined,
  find: (mailbox: Mailbox) => string | undefined,
): Directory {
  return {
    name,
    async lookup(mailbox, explain) {
      const path = find(mailbox);
      if (path === undefined) return undefined;
      explain(`${name}: ${mailbox.local}@${mailbox.domain} is kept in ${path}`);
      return [toRoute(path, await accounts?.owner(path), explain)];
    },
  };
}

function toRoute(path: string, owner: Account | undefined, explain: Explain): Route {
  if (owner === undefined) return { kind: 'maildir', path, root: path };
  explain(`${path} lies in the home of ${owner.name}: delivered as that account`);
  return { kind: 'account', account: owner.name, folder: relative(owner.home, path) };
}
