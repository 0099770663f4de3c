// All that root does when the server starts: it prepares the folders, makes the accounts of SLIM_ACCOUNTS, and then
// becomes the steward. The order matters: a folder is root's before anything in it is looked at, and everything that
// the network process needs is there before that process is started.
// Promise: what cannot work is said in one sentence, with exit status 78 (settings, owners) or 69 (a port is taken).
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareDataAsRoot } from '../system/folders.ts';
import { type MailRoot, prepareRootAsRoot } from '../system/mail-roots.ts';
import type { World } from '../system/world.ts';
import { ensureAccounts, ensureDecoy } from './account-files.ts';
import { findUser } from './nss.ts';
import { cleanEnvironment, runSteward } from './steward.ts';

/** What root needs to know of the settings. */
type RootSettings = Readonly<{
  dataFolder: string;
  runAs: string | undefined;
  accounts: readonly Readonly<{ name: string; password?: string | undefined }>[];
  users: readonly Readonly<{ kind: string }>[];
  listen: readonly Readonly<{ host: string | undefined; port: number }>[];
  acme?: { readonly http: Readonly<{ host: string | undefined; port: number }> } | undefined;
  tls: Readonly<Record<'cert' | 'key', { readonly file?: string } | undefined>>;
  drainMs: number;
  /** Every folder below which mail is kept. */
  mailRoots: readonly MailRoot[];
}>;

type BootOptions = World & {
  readonly settings: RootSettings;
  /** The environment of this process, of which the network process gets a part without secrets. */
  readonly variables: Readonly<Record<string, string | undefined>>;
  /** How the network process is started: the script, its hidden verb, further arguments. */
  readonly argv: readonly [string, ...string[]];
};

/** Runs the server as root until it is told to stop; the exit status. */
export async function boot({ settings, variables, argv, ...world }: BootOptions): Promise<number> {
  const { log } = world;
  const { dataFolder, tls, mailRoots } = settings;
  const runAs = settings.runAs === undefined ? undefined : await findUser(settings.runAs);
  if (settings.runAs !== undefined && runAs === undefined) {
    log.error({}, `SLIM_RUN_AS="${settings.runAs}": there is no such user on this system`);
    return 78;
  }
  if (runAs === undefined)
    log.warn({}, 'running as root: set SLIM_RUN_AS to a user of its own for the network process');
  const owner = runAs ?? { uid: 0, gid: 0 };
  const lacking = await lackingCapabilities();
  if (runAs !== undefined && (lacking.includes('SETUID') || lacking.includes('SETGID'))) {
    log.error({}, `root cannot run the network process as ${settings.runAs}: it lacks ${show(lacking)}; ${howToGive}`);
    return 78;
  }
  let isFirstStart: boolean;
  try {
    isFirstStart = prepareDataAsRoot(dataFolder, owner);
  } catch (error) {
    const { message, cause } = error as Error & { cause?: NodeJS.ErrnoException };
    const isForbidden = cause?.code === 'EPERM' || cause?.code === 'EACCES';
    const advice = isForbidden && lacking.length > 0 ? `: root lacks ${show(lacking)}; ${howToGive}` : '';
    log.error({}, `${message}${advice}`);
    return 78;
  }
  if (lacking.includes('CHOWN') || lacking.includes('DAC_OVERRIDE'))
    log.warn({ lacking }, 'mail for Unix accounts cannot be delivered: root lacks capabilities (cap_add)');
  for (const root of mailRoots) prepareRootAsRoot(root, owner, isFirstStart, log);
  await makeAccounts(settings, world);
  try {
    return await runSteward({
      runAs,
      sockets: [...settings.listen, ...(settings.acme ? [settings.acme.http] : [])]
        .filter(({ port }) => port < 1024)
        .map(({ host, port }) => ({ host, port })),
      spoolFolder: join(dataFolder, 'spool'),
      mailFolders: mailRoots.map(({ path }) => path),
      tlsFiles: { cert: tls.cert?.file, key: tls.key?.file },
      argv,
      environment: cleanEnvironment(variables),
      // The passwords of the accounts are root's matter alone.
      settings: { ...settings, accounts: [] },
      stopWithinMs: settings.drainMs + 5000,
      ...world,
    });
  } catch (error) {
    const isForbidden = (error as NodeJS.ErrnoException).code === 'EACCES';
    const advice = isForbidden ? `: root lacks CAP_NET_BIND_SERVICE for a port below 1024; ${howToGive}` : '';
    log.error({}, `the network process could not be started: ${String(error)}${advice}`);
    return isForbidden ? 78 : 69;
  }
}

const howToGive = 'give it back (cap_add), or start as an ordinary user, without Unix accounts';
const show = (names: readonly string[]): string => names.map(name => `CAP_${name}`).join(', ');

/**
 * The capabilities that the steward needs (compose.yaml explains them) and this root lacks; numbers as in
 * capabilities(7).
 */
async function lackingCapabilities(): Promise<readonly string[]> {
  const [, effective] = /^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8')) ?? [];
  if (effective === undefined) return [];
  const has = (number: number): boolean => (BigInt(`0x${effective}`) >> BigInt(number)) % 2n === 1n;
  const needed = { CHOWN: 0, DAC_OVERRIDE: 1, SETGID: 6, SETUID: 7 };
  return Object.entries(needed).flatMap(([name, number]) => (has(number) ? [] : [name]));
}

/**
 * Makes the accounts of SLIM_ACCOUNTS. The server starts without one that cannot be made: only that account's mail
 * waits.
 */
async function makeAccounts(settings: RootSettings, { log, ...world }: World): Promise<void> {
  const files = { folder: join(settings.dataFolder, 'accounts'), homes: '/home', ...world };
  try {
    const made = await ensureAccounts(files, settings.accounts);
    if (settings.users.some(({ kind }) => kind === 'pam')) await ensureDecoy(files);
    if (made.length > 0) log.info({ accounts: made }, 'made the accounts of SLIM_ACCOUNTS');
  } catch (error) {
    const text = 'an account of SLIM_ACCOUNTS could not be made: its mail waits with the senders';
    log.error({ error: String(error) }, text);
  }
}
