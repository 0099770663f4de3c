// What root does when one network process asks: looks up accounts, checks passwords, deposits mail, reads the TLS
// files. A deposit goes in two phases. `prepare` writes a copy for each account into its tmp/; the number of that
// request is the token by which `commit` or `abort` ends the deposit, once. An `abort` may come before its `prepare` is
// done, and waits for it.
// Promises: an account is only what may receive mail (nss.ts), and mail is put only where mail is kept: into an
// account's Maildir, that Maildir's subfolders, and folders that the settings name. What a dead network process left
// open is aborted.
import { dirname, join } from 'node:path';
import type { Prepared } from '../mail/ports.ts';
import type { World } from '../system/world.ts';
import { decoy } from './account-files.ts';
import { type AccountFolder, deposit } from './deposit.ts';
import { createAccounts } from './nss.ts';
import { openPam } from './pam.ts';
import type { Request, Target, TlsFiles } from './protocol.ts';
import { readTlsFile } from './tls-files.ts';

export type AnswersOptions = World & {
  /** The network process's uid: its spool files must be that user's, and it is no account for mail. */
  readonly ownUid: number;
  readonly spoolFolder: string;
  /** The folders that the settings name for mail: absolute paths. */
  readonly mailFolders: readonly string[];
  readonly tlsFiles: TlsFiles;
  /**
   * The network process: the script and its arguments (a hidden verb). Node's own flags are inherited. The PAM child is
   * started in the same way.
   */
  readonly argv: readonly [string, ...string[]];
  readonly environment: Readonly<Record<string, string>>;
};

/** More than that in flight are a mistake, or an attack on our descriptors. */
const mostDeposits = 1000;

export function openAnswers(options: AnswersOptions) {
  const { ownUid, spoolFolder, tlsFiles, argv, environment, clock, random } = options;
  const mailFolders = new Set(options.mailFolders);
  const accounts = createAccounts(ownUid);
  const pam = openPam(argv, environment);
  const deposits = new Map<number, Promise<Prepared>>();

  async function findFolder({ account: name, folder }: Target): Promise<AccountFolder> {
    const account = await accounts.find(name);
    if (!account) throw new Error(`there is no account ${name} for mail (any more)`);
    const isNamed = (each: string): boolean => mailFolders.has(join(account.home, each));
    if (!isInMaildir.test(folder) && !isNamed(folder) && !(isSubfolder.test(folder) && isNamed(dirname(folder))))
      throw new Error(`${folder || 'the home itself'} is no folder for the mail of ${name}`);
    return { account, folder };
  }

  async function prepare({ id, spool, targets }: Extract<Request, { kind: 'prepare' }>): Promise<void> {
    if (deposits.has(id) || deposits.size >= mostDeposits) throw new Error('too many deposits at once');
    const prepared = Promise.all(targets.map(findFolder)).then(folders =>
      deposit({ spoolFolder, spoolUid: ownUid, clock, random }, spool, folders),
    );
    deposits.set(id, prepared);
    // A deposit that failed has left nothing behind: it is only forgotten.
    prepared.catch(() => deposits.get(id) === prepared && deposits.delete(id));
    await prepared;
  }

  async function end(token: number, how: 'commit' | 'abort'): Promise<void> {
    const prepared = deposits.get(token);
    if (!prepared && how === 'commit') throw new Error('there is no such deposit (any more)');
    deposits.delete(token);
    await (await prepared)?.[how]();
  }

  /**
   * A password for no account is checked against the decoy's, so the answer takes as long and nobody learns which names
   * exist.
   */
  async function authenticate({ name, password }: Extract<Request, { kind: 'authenticate' }>): Promise<boolean> {
    const isAccount = (await accounts.find(name)) !== undefined;
    return (await pam.authenticate(isAccount ? name : decoy, password)) && isAccount;
  }

  return {
    /** Carries out a request, and resolves with what was asked for. Rejects with the reason why not. */
    async carryOut(request: Request): Promise<unknown> {
      switch (request.kind) {
        case 'account':
          return accounts.find(request.name);
        case 'owner':
          return accounts.owner(request.path);
        case 'authenticate':
          return authenticate(request);
        case 'prepare':
          return prepare(request);
        case 'commit':
        case 'abort':
          return end(request.token, request.kind);
        case 'tls':
          return { cert: await readTlsFile(tlsFiles.cert, ownUid), key: await readTlsFile(tlsFiles.key, ownUid) };
        default:
          return request satisfies never;
      }
    },
    /** To be called when the network process has ended. */
    close(): void {
      pam.close();
      for (const token of deposits.keys()) end(token, 'abort').catch(() => {});
    },
  };
}

/** A Maildir and its subfolders, which Maildir++ keeps side by side in it, each with a dot before its name. */
const isSubfolder = /(?:^|\/)\.[^/.][^/]*$/;
const isInMaildir = /^Maildir(?:\/\.[^/.][^/]*)?$/;
