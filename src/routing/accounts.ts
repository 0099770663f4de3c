// @PAM: a mailbox is the Unix account of that name, its mail in ~/Maildir.
import { accountRoute } from '../mail/account-route.ts';
import type { Accounts, Directory } from '../mail/ports.ts';

export function accountDirectory(accounts: Accounts): Directory {
  return {
    name: '@PAM',
    async lookup(mailbox, explain) {
      const route = await accountRoute(accounts, mailbox.local, line => explain?.(`@PAM: ${line}`));
      return route && { routes: [route] };
    },
  };
}
