// @PAM: a mailbox is the Unix account of that name. Also the one place that says which names can be accounts at all.
// Promises: what cannot be the name of an account is answered here, so that no stranger's text reaches the steward.
// Never decides who is an account (uid range, home): the steward does.
import type { Account, Accounts, Directory } from '../mail.ts';

/** The Maildir of a Unix account, relative to its home. */
export const ACCOUNT_FOLDER = 'Maildir';

/** The account of that name, if it is one that may receive mail. Throws CannotTell. */
export async function findAccount(accounts: Accounts, name: string): Promise<Account | undefined> {
  return /^[a-z0-9_][a-z0-9_.-]{0,31}$/.test(name) ? accounts.find(name) : undefined;
}

export function accountDirectory(accounts: Accounts): Directory {
  return {
    name: '@PAM',
    async lookup(mailbox, explain) {
      const account = await findAccount(accounts, mailbox.local);
      if (account === undefined) return undefined;
      explain(`@PAM: Unix account ${account.name} (uid ${account.uid}): ${account.home}/${ACCOUNT_FOLDER}`);
      return [{ kind: 'account', account: account.name, folder: ACCOUNT_FOLDER }];
    },
  };
}
