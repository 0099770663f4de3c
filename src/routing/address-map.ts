// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there.
// Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Forward, Route } from '../mail/message.ts';
import type { Accounts, Directory, Explain, Found } from '../mail/ports.ts';
import { type Mailbox, formatMailbox } from '../mail/address.ts';

/** SLIM_STORAGES. Paths are absolute. */
type AddressMap = Readonly<{
  addresses: readonly { readonly mailbox: Mailbox; readonly path: string }[];
  domains: readonly { readonly domain: string; readonly path: string }[];
  forwards?: readonly { readonly mailbox: Mailbox; readonly forward: Forward }[];
  domainForwards?: readonly { readonly domain: string; readonly forward: Forward }[];
  default?: string | undefined;
}>;

export function addressDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const keyOf = ({ mailbox }: { readonly mailbox: Mailbox }): string => formatMailbox(mailbox);
  const [paths, forwards] = [Map.groupBy(map.addresses, keyOf), Map.groupBy(map.forwards ?? [], keyOf)];
  const perPath = Map.groupBy(map.addresses, ({ path }) => path);
  // Of several addresses with one path, none is the mailbox's own.
  const isShared = (path: string): boolean => (perPath.get(path)?.length ?? 0) > 1;
  const places = new Map<string, Places>();
  for (const key of [...paths.keys(), ...forwards.keys()]) {
    const own = pathsOf(paths.get(key));
    const via = own.some(isShared) ? 'alias' : undefined;
    places.set(key, { paths: own, forwards: forwardsOf(forwards.get(key)), via });
  }
  return placeDirectory('SLIM_STORAGES', accounts, mailbox => places.get(formatMailbox(mailbox)) ?? nowhere);
}

export function domainDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const keyOf = ({ domain }: { readonly domain: string }): string => domain;
  const [paths, forwards] = [Map.groupBy(map.domains, keyOf), Map.groupBy(map.domainForwards ?? [], keyOf)];
  return placeDirectory('*@domain', accounts, ({ domain }) => ({
    paths: pathsOf(paths.get(domain)),
    forwards: forwardsOf(forwards.get(domain)),
    via: 'catch-all',
  }));
}

const pathsOf = (entries: readonly { readonly path: string }[] = []): string[] => entries.map(({ path }) => path);
const forwardsOf = (entries: readonly { readonly forward: Forward }[] = []): Forward[] =>
  entries.map(({ forward }) => forward);

export function defaultDirectory(map: AddressMap, accounts: Accounts | undefined): Directory {
  const paths = map.default === undefined ? [] : [map.default];
  return placeDirectory('default', accounts, () => ({ paths, forwards: [], via: 'catch-all' }));
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(root: string): Directory {
  const path = join(root, 'postmaster');
  const find = ({ local }: Mailbox) => ({ paths: local === 'postmaster' ? [path] : [], forwards: [], via: undefined });
  return placeDirectory('postmaster', undefined, find, root);
}

/** What an entry of the settings says of a mailbox; nothing at all: it is not there. */
type Places = Readonly<{ paths: readonly string[]; forwards: readonly Forward[]; via: Found['via'] }>;
const nowhere: Places = { paths: [], forwards: [], via: undefined };
/** `accounts` is undefined where there is no steward; `top` is what must be there already, the path itself if unset. */
function placeDirectory(
  name: string,
  accounts: Accounts | undefined,
  find: (mailbox: Mailbox) => Places,
  top?: string,
): Directory {
  const toRoute = async (path: string, explain?: Explain): Promise<Route> => {
    const owner = accounts && (await accounts.owner(path));
    if (owner === undefined) return { kind: 'maildir', path, root: top ?? path };
    explain?.(`${path} lies in the home of ${owner.name}: delivered as that account`);
    return { kind: 'account', account: owner.name, folder: relative(owner.home, path) };
  };
  return {
    name,
    async lookup(mailbox, explain) {
      const { paths, forwards, via } = find(mailbox);
      if (paths.length === 0 && forwards.length === 0) return undefined;
      const routes: Route[] = [];
      for (const path of paths) {
        explain?.(`${name}: ${formatMailbox(mailbox)} is kept in ${path}`);
        routes.push(await toRoute(path, explain));
      }
      for (const { address } of forwards) explain?.(`${name}: ${formatMailbox(mailbox)} is forwarded to ${address}`);
      return { routes, ...(via && { via }), ...(forwards.length > 0 && { forwards }) };
    },
  };
}
