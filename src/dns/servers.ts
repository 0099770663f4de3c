// Which DNS servers are asked: those of SLIM_RESOLVER, else those of resolv.conf, which is read again when it has
// changed.
// Promise: the AD bit is believed only of servers that our operator has named, or where resolv.conf says `options
// trust-ad`; and of Docker's forwarder never by itself, because Docker copies that option from the host, whose resolver
// it may not ask at all. resolv.conf(5). Its `search` and `ndots` do not apply: a name from mail is whole as it stands.
import { readFileSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Clock } from '../system/world.ts';
import { failure } from '../system/dns.ts';

export type NameServer = {
  readonly address: string;
  readonly port: number;
  /** Whether its AD bit counts. */
  readonly isTrusted: boolean;
};
/** As SLIM_RESOLVER names it. */
export type NamedServer = { readonly host: string; readonly port: number };
type Lookup = (host: string) => Promise<readonly string[]>;

const dockersForwarder = '127.0.0.11';
const standardPort = 53;
/** A container that was started anew has another address. */
const namesLastMs = 30_000;

/** Gives the servers as they are now. The list is the same one as before where nothing has changed. */
export type FindServers = () => Promise<readonly NameServer[]>;

/** Those of resolv.conf(5); without any, the one of this machine. */
export function parseResolvConf(text: string): readonly NameServer[] {
  const lines = text.split('\n').map(line => line.trim().split(/\s+/));
  const trustsAd = lines.some(([keyword, ...words]) => keyword === 'options' && words.includes('trust-ad'));
  const named = lines.flatMap(([keyword, address = '']) =>
    keyword === 'nameserver' && isIP(address.replace(/%.*/, '')) ? address : [],
  );
  return (named.length > 0 ? named : ['127.0.0.1']).map(address => {
    return { address, port: standardPort, isTrusted: trustsAd && address !== dockersForwarder };
  });
}

/** Whether any server could tell us of DNSSEC in a way that we believe. */
export function mayBeAuthentic(named: readonly NamedServer[] | undefined, file = '/etc/resolv.conf'): boolean {
  if (named !== undefined) return true;
  const text = statSync(file, { throwIfNoEntry: false }) ? readFileSync(file, 'utf8') : '';
  return parseResolvConf(text).some(({ isTrusted }) => isTrusted);
}

export function systemServers(file: string): FindServers {
  let version = '';
  let servers: readonly NameServer[] = [];
  return async () => {
    const found = statSync(file, { throwIfNoEntry: false });
    const newVersion = `${found?.ino} ${found?.mtimeMs} ${found?.size}`;
    if (newVersion !== version) servers = parseResolvConf(found ? readFileSync(file, 'utf8') : '');
    version = newVersion;
    return servers;
  };
}

/** Host names are looked up as the operating system does it: among them are names of containers. */
export function namedServers(named: readonly NamedServer[], lookup: Lookup, clock: Clock): FindServers {
  let servers: readonly NameServer[] = [];
  let until = 0;
  return async () => {
    if (clock.now() < until) return servers;
    const errors: unknown[] = [];
    const found = await Promise.all(
      named.map(async ({ host, port }) => {
        const addresses = isIP(host) ? [host] : await lookup(host).catch(error => void errors.push(error));
        return (addresses ?? []).map(address => ({ address, port, isTrusted: true }));
      }),
    );
    if (found.flat().length === 0) throw errors[0] ?? failure('ENOTFOUND');
    // A name that cannot be looked up now is looked up again with the next question.
    until = errors.length > 0 ? 0 : clock.now() + namesLastMs;
    if (JSON.stringify(found.flat()) !== JSON.stringify(servers)) servers = found.flat();
    return servers;
  };
}
