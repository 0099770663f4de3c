// The directories that settings alone make up: addresses, whole domains, the catch-all, and postmaster's last home.
// Promises: a PATH inside the home of a Unix account is delivered as that account, whoever owns the folders there. An
// LMTP server is asked whether it has the mailbox: one that it does not know is not ours, so that the next directory is
// asked. Never makes a folder and never looks at one: a PATH that has gone is the storage's trouble, when it delivers.
import { join, relative } from 'node:path';
import type { Forward, LmtpMailbox, Route } from '../mail/message.ts';
import { type Accounts, type AskMailbox, CannotTell, type Directory, type Explain, type Found } from '../mail/ports.ts';
import { type Mailbox, formatMailbox } from '../mail/address.ts';

/**
 * An entry of SLIM_STORAGES. `key` is an address, `*@domain` or `default`. Its mail goes into a folder (`path`,
 * absolute), to another address, or to an LMTP server.
 */
export type Entry = Readonly<{
  kind: 'address' | 'domain' | 'default';
  key: string;
  path?: string;
  forward?: Forward;
  server?: string;
}>;

export function addressDirectory(entries: readonly Entry[], accounts?: Accounts, ask?: AskMailbox): Directory {
  const own = entries.filter(({ kind }) => kind === 'address');
  const perPath = Map.groupBy(own, ({ path }) => path);
  // Of several addresses with one path, none is the mailbox's own.
  const isShared = (path: string): boolean => (perPath.get(path)?.length ?? 0) > 1;
  const places = placesOf(own, paths => (paths.some(isShared) ? 'alias' : undefined));
  return placeDirectory('SLIM_STORAGES', mailbox => places.get(formatMailbox(mailbox)), { accounts, ask });
}

export function domainDirectory(entries: readonly Entry[], accounts?: Accounts, ask?: AskMailbox): Directory {
  const places = placesOf(entries.filter(({ kind }) => kind === 'domain'));
  return placeDirectory('*@domain', ({ domain }) => places.get(`*@${domain}`), { accounts, ask });
}

export function defaultDirectory(entries: readonly Entry[], accounts?: Accounts, ask?: AskMailbox): Directory {
  const places = placesOf(entries.filter(({ kind }) => kind === 'default'));
  return placeDirectory('default', () => places.get('default'), { accounts, ask });
}

/** What these entries say together of each key, worked out once. */
function placesOf(
  entries: readonly Entry[],
  viaOf: (paths: readonly string[]) => Found['via'] = () => 'catch-all',
): ReadonlyMap<string, Places> {
  const places = new Map<string, Places>();
  for (const [key, group] of Map.groupBy(entries, each => each.key)) {
    const paths = group.flatMap(({ path }) => path ?? []);
    const forwards = group.flatMap(({ forward }) => forward ?? []);
    places.set(key, { paths, forwards, servers: group.flatMap(({ server }) => server ?? []), via: viaOf(paths) });
  }
  return places;
}

/** RFC 5321 §4.5.1: mail for postmaster is never refused as unknown. Asked last, after `default`. */
export function postmasterDirectory(root: string): Directory {
  const path = join(root, 'postmaster');
  const home: Places = { paths: [path], forwards: [], servers: [], via: undefined };
  return placeDirectory('postmaster', ({ local }) => (local === 'postmaster' ? home : undefined), { top: root });
}

/** What the settings say of a mailbox. */
type Places = Readonly<{
  paths: readonly string[];
  forwards: readonly Forward[];
  servers: readonly string[];
  via: Found['via'];
}>;
type Askable = Readonly<{
  /** undefined where there is no steward. */
  accounts?: Accounts | undefined;
  /** undefined where no entry names an LMTP server. */
  ask?: AskMailbox | undefined;
  /** What must be there already; unset: the path itself. */
  top?: string;
}>;

function placeDirectory(
  name: string,
  find: (mailbox: Mailbox) => Places | undefined,
  { accounts, ask = cannotAsk, top }: Askable,
): Directory {
  // Where nobody has to be asked, the answer is the same each time.
  const answers = new Map<Places, Found>();
  const toRoute = async (path: string, explain?: Explain): Promise<Route> => {
    const owner = accounts && (await accounts.owner(path));
    if (owner === undefined) return { kind: 'maildir', path, root: top ?? path };
    explain?.(`${path} lies in the home of ${owner.name}: delivered as that account`);
    return { kind: 'account', account: owner.name, folder: relative(owner.home, path) };
  };
  const answer = async (places: Places, mailbox: Mailbox, explain?: Explain): Promise<Found | undefined> => {
    const { paths, forwards, servers, via } = places;
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
    const found = { routes, ...more };
    if (accounts === undefined && servers.length === 0) answers.set(places, found);
    return found;
  };
  return {
    name,
    lookup(mailbox, explain) {
      const places = find(mailbox);
      if (places === undefined) return undefined;
      // Whoever wants the reasons gets them anew.
      const known = explain === undefined ? answers.get(places) : undefined;
      return known ?? answer(places, mailbox, explain);
    },
  };
}

const cannotAsk: AskMailbox = ({ server }) => Promise.reject(new CannotTell(`nobody can ask ${server}`));
