// `slimsmtp dkim …`: the keys that sign outgoing mail. The running server has them, and makes new ones.
import type { Settings } from '../config/settings.ts';
import { askAll } from '../control/client.ts';
import type { ListedKey } from '../mail/admin.ts';
import { controlPath } from '../main.ts';
import { type Flags, UsageError, one, print } from './terminal.ts';

export async function dkim(words: readonly string[], flags: Flags, settings: Settings): Promise<number> {
  const [action = '', ...names] = words;
  if (action !== 'list' && action !== 'rotate') throw new UsageError('dkim wants one of list, rotate');
  const domain = action === 'rotate' || names.length > 0 ? one(names) : undefined;
  let count = 0;
  for await (const key of askAll(controlPath(settings), { verb: 'dkim', action, domain })) {
    count += 1;
    print(flags, key, describe);
  }
  if (flags.json) return 0;
  if (count === 0) console.log('there are no keys yet');
  if (action === 'rotate') console.log(`publish what is new: slimsmtp dns ${domain} prints it`);
  return 0;
}

const describe = ({ domain, selector, algorithm, state, signs }: ListedKey): string =>
  `${domain}\t${selector}\t${algorithm}\t${state}${signs ? ', signs' : ''}`;
