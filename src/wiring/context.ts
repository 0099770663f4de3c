// What each part of the wiring is made from. Only `src/wiring/` and `main.ts` know settings and parts both.
import { networkInterfaces } from 'node:os';
import type { Settings } from '../config/settings.ts';
import type { Steward } from '../steward/client.ts';
import type { Listen } from '../mail/event.ts';
import type { Dns, Records } from '../system/dns.ts';
import type { Log } from '../system/log.ts';
import type { Watching } from './events.ts';
import { systemClock as clock, systemRandom as random } from '../system/world.ts';

export const system = { clock, random };

/** Whether a host name or an address is ours: no mail is sent there. */
export function selfOf(hostname: string): (nameOrAddress: string) => boolean {
  const own = Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(({ address }) => address));
  const names = new Set([hostname, ...own]);
  return nameOrAddress => names.has(nameOrAddress);
}

export type Context = {
  readonly settings: Settings;
  /** The process that does for us what only root may; undefined where the server was not started as root. */
  readonly steward: Steward | undefined;
  readonly log: Log;
  /** Hears the life events of messages and sessions; undefined: nobody listens, and none is built. */
  readonly listen: Listen | undefined;
  /** The listeners to life events. */
  readonly watching: Watching;
  /** Looks up names that come from mail, and hosts that settings name. */
  readonly dns: Dns & Records;
  /** Registers what is to be done at SIGHUP. */
  readonly onReload: (act: () => void) => void;
};
