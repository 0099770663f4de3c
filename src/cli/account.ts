// `slimsmtp account …`: the Unix accounts that are kept in SLIM_DATA/accounts. Works without the server, and for root
// only.
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import { addAccount, listAccounts, removeAccount, setPassword } from '../steward/account-files.ts';
import { systemClock as clock, systemRandom as random } from '../system/world.ts';
import { type Flags, UsageError, one, print, readPassword } from './terminal.ts';

export async function account(words: readonly string[], flags: Flags, settings: Settings): Promise<number> {
  const [action = '', ...names] = words;
  if (process.getuid?.() !== 0) throw new UsageError('accounts are kept by root: run this as root');
  const files = { folder: join(settings.dataFolder, 'accounts'), homes: '/home', clock, random };
  const askPassword = (): Promise<string> => readPassword(`Password for ${one(names)}: `);
  switch (action) {
    case 'list':
      return print(flags, listAccounts(files), list =>
        list.map(({ name, uid, home, locked }) => `${name}\t${uid}\t${home}${locked ? '\tlocked' : ''}`).join('\n'),
      );
    case 'add': {
      const made = await addAccount(files, one(names), flags.password ? await askPassword() : undefined);
      return print(flags, made, ({ name, uid, home }) => `made ${name}, uid ${uid}, home ${home}`);
    }
    case 'passwd':
      await setPassword(files, one(names), await askPassword());
      return print(flags, { changed: one(names) }, ({ changed }) => `changed the password of ${changed}`);
    case 'remove':
      await removeAccount(files, one(names), flags['with-home']);
      return print(flags, { removed: one(names) }, ({ removed }) => `removed ${removed}`);
    default:
      throw new UsageError('account wants one of list, add, passwd, remove');
  }
}
