// The certificate from an authority (SLIM_ACME). Nothing of it is loaded where that is not set.
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import type { Finding } from '../mail/admin.ts';
import type { Pair } from '../tls/certificates.ts';
import { type Context, system } from './context.ts';

const folderOf = (dataFolder: string): string => join(dataFolder, 'acme');

/** Gives what reads the pair that the authority has certified; undefined where none is asked for. */
export async function certifiedPair(settings: Settings): Promise<(() => Promise<Pair | undefined>) | undefined> {
  if (settings.acme === undefined) return undefined;
  const { readCertified } = await import('../acme/renewals.ts');
  return async () => readCertified(folderOf(settings.dataFolder));
}

/** Asks for certificates as long as the server runs; `onNew` takes up the new one. */
export async function openRenewals({ settings, steward, log }: Context, onNew: () => void) {
  const { acme, dataFolder } = settings;
  if (acme === undefined) return undefined;
  const { Renewals } = await import('../acme/renewals.ts');
  const inherited = (await steward?.started)?.sockets ?? [];
  const { host, port } = acme.http;
  const socket = { host, port, ...inherited.find(each => each.port === port && each.host === host) };
  const selfSigned = join(dataFolder, 'tls', 'self-signed.pem');
  return new Renewals({ ...acme, socket, folder: folderOf(dataFolder), selfSigned, onNew, ...system, log });
}

/** What has gone wrong when a certificate was asked for last. */
async function findTrouble({ acme, dataFolder }: Settings) {
  if (acme === undefined) return undefined;
  const { describeTrouble, readTrouble } = await import('../acme/trouble.ts');
  const trouble = readTrouble(folderOf(dataFolder), acme, system.clock.now());
  return trouble && { text: describeTrouble(trouble), until: trouble.until };
}

/** The same as sentences, for the figures. */
export async function acmeTroubles(settings: Settings): Promise<readonly string[]> {
  const trouble = await findTrouble(settings);
  return trouble === undefined ? [] : [trouble.text];
}

/** The same for `slimsmtp doctor`. Where the authority only wants to be asked later there is nothing to mend. */
export async function checkAcme(settings: Settings): Promise<readonly Finding[]> {
  const about = 'certificate';
  const trouble = await findTrouble(settings);
  if (trouble === undefined) return [];
  const { text, until } = trouble;
  if (until !== undefined) return [{ about, status: 'note', text }];
  return [{ about, status: 'mend', text, mend: 'lead port 80 of each name to this server, or look at SLIM_ACME_URL' }];
}
