// The route to a Unix account, for every directory that may name one (@PAM, the table `smtp`).
// Promises: what cannot be the name of an account is answered here, so that no stranger's text reaches the steward.
// Never decides who is an account (uid range, home): the steward does.
import type { Route } from './message.ts';
import type { Accounts, Explain } from './ports.ts';

/** The route to the account of that name, if it is one that may receive mail. Throws CannotTell. */
export async function accountRoute(accounts: Accounts, name: string, explain?: Explain): Promise<Route | undefined> {
  const account = /^[a-z0-9_][a-z0-9_.-]{0,31}$/.test(name) ? await accounts.find(name) : undefined;
  if (account === undefined) return undefined;
  explain?.(`Unix account ${account.name} (uid ${account.uid}): ${account.home}/Maildir`);
  return { kind: 'account', account: account.name, folder: 'Maildir' };
}
