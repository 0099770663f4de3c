// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there. An LMTP
// server is asked whether it has the mailbox: one that it does not know is not ours, so that the next directory is asked.
// Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Forward, LmtpMailbox, Route } from '../mail/message.ts';
import { type Accounts, type AskMailbox, CannotTell, type Directory, type Explain, type Found } from '../mail/ports.ts';
import { type Mailbox, formatMailbox } from '../mail/address.ts';

/** SLIM_STORAGES. Paths are absolute. */
type AddressMap = Readonly<{
  addresses: readonly { readonly mailbox: Mailbox; readonly path: string }[];
  domains: readonly { readonly domain: string; readonly path: string }[];
  forwards?: readonly { readonly mailbox: Mailbox; readonly forward: Forward }[];
  domainForwards?: readonly { readonly domain: string; readonly forward: Forward }[];
  servers?: readonly { readonly mailbox: Mailbox; readonly server: string }[];
  domainServers?: readonly { readonly domain: string; readonly server: string }[];
  default?: string | undefined;
  defaultServer?: string | undefined;
}>;

export function addressDirectory(map: AddressMap, accounts: Accounts | undefined, ask?: AskMailbox): Directory {
  const keyOf = ({ mailbox }: { readonly mailbox: Mailbox }): string => formatMailbox(mailbox);
  const [paths, forwards] = [Map.groupBy(map.addresses, keyOf), Map.groupBy(map.forwards ?? [], keyOf)];
  const servers = Map.groupBy(map.servers ?? [], keyOf);
  const perPath = Map.groupBy(map.addresses, ({ path }) => path);
  // Of several addresses with one path, none is the mailbox's own.
  const isShared = (path: string): boolean => (perPath.get(path)?.length ?? 0) > 1;
  const places = new Map<string, Places>();
  for (const key of [...paths.keys(), ...forwards.keys(), ...servers.keys()]) {
    const own = pathsOf(paths.get(key));
    const via = own.some(isShared) ? 'alias' : undefined;
    places.set(key, { paths: own, forwards: forwardsOf(forwards.get(key)), servers: serversOf(servers.get(key)), via });
  }
  const find = (mailbox: Mailbox): Places => places.get(formatMailbox(mailbox)) ?? nowhere;
  return placeDirectory('SLIM_STORAGES', find, { accounts, ask });
}

export function domainDirectory(map: AddressMap, accounts: Accounts | undefined, ask?: AskMailbox): Directory {
  const keyOf = ({ domain }: { readonly domain: string }): string => domain;
  const [paths, forwards] = [Map.groupBy(map.domains, keyOf), Map.groupBy(map.domainForwards ?? [], keyOf)];
  const servers = Map.groupBy(map.domainServers ?? [], keyOf);
  const find = ({ domain }: Mailbox): Places => ({
    paths: pathsOf(paths.get(domain)),
    forwards: forwardsOf(forwards.get(domain)),
    servers: serversOf(servers.get(domain)),
    via: 'catch-all',
  });
  return placeDirectory('*@domain', find, { accounts, ask });
}

const pathsOf = (entries: readonly { readonly path: string }[] = []): string[] => entries.map(({ path }) => path);
const forwardsOf = (entries: readonly { readonly forward: Forward }[] = []): Forward[] =>
  entries.map(({ forward }) => forward);
const serversOf = (entries: readonly { readonly server: string }[] = []): string[] =>
  entries.map(({ server }) => server);

export function defaultDirectory(map: AddressMap, accounts: Accounts | undefined, ask?: AskMailbox): Directory {
  const paths = map.default === undefined ? [] : [map.default];
  const servers = map.defaultServer === undefined ? [] : [map.defaultServer];
  return placeDirectory('default', () => ({ paths, forwards: [], servers, via: 'catch-all' }), { accounts, ask });
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(root: string): Directory {
  const path = join(root, 'postmaster');
  const find = ({ local }: Mailbox): Places => {
    return { paths: local === 'postmaster' ? [path] : [], forwards: [], servers: [], via: undefined };
  };
  return placeDirectory('postmaster', find, { top: root });
}

/** What an entry of the settings says of a mailbox; nothing at all: it is not there. */
type Places = Readonly<{
  paths: readonly string[];
  forwards: readonly Forward[];
  servers: readonly string[];
  via: Found['via'];
}>;
const nowhere: Places = { paths: [], forwards: [], servers: [], via: undefined };
type Helpers = Readonly<{
  /** undefined where there is no steward. */
  accounts?: Accounts | undefined;
  /** undefined where no entry names an LMTP server. */
  ask?: AskMailbox | undefined;
  /** What must be there already; unset: the path itself. */
  top?: string;
}>;

function placeDirectory(
  name: string,
  find: (mailbox: Mailbox) => Places,
  { accounts, ask = cannotAsk, top }: Helpers,
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
      const { paths, forwards, servers, via } = find(mailbox);
      const address = formatMailbox(mailbox);
      const routes: Route[] = [];
      for (const path of paths) {
        explain?.(`${name}: ${address} is kept in ${path}`);
        routes.push(await toRoute(path, explain));
      }
      for (const { address: to } of forwards) explain?.(`${name}: ${address} is forwarded to ${to}`);
      const lmtp: LmtpMailbox[] = [];
      for (const server of servers) {
        const said = await ask({ server, address });
        const words = typeof said === 'string' ? said : `refused (${said.refusal})`;
        explain?.(`${name}: ${address} is kept by ${server}, which was asked: ${words}`);
        if (said === 'taken') lmtp.push({ server, address });
        // Mail for the postmaster is refused by nobody: RFC 5321 §4.5.1.
        else if (said !== 'unknown' && mailbox.local !== 'postmaster') return { routes: [], refusal: said.refusal };
      }
      if (routes.length === 0 && forwards.length === 0 && lmtp.length === 0) return undefined;
      const more = { ...(via && { via }), ...(forwards.length > 0 && { forwards }), ...(lmtp.length > 0 && { lmtp }) };
      return { routes, ...more };
    },
  };
}

const cannotAsk: AskMailbox = ({ server }) => Promise.reject(new CannotTell(`nobody can ask ${server}`));
