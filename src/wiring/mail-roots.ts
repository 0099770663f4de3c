// The roots of mail that the network process writes itself. Those in the home of a Unix account are the steward's
// matter.
import { MailRoots } from '../system/mail-roots.ts';
import type { Context } from './context.ts';

/** Makes the roots that are missing, and looks from then on at all that mail can come to. */
export async function openMailRoots(context: Context, isFirstStart: boolean): Promise<MailRoots> {
  const { settings, steward, log } = context;
  const owners = settings.mailRoots.map(({ path }) => steward?.accounts.owner(path).catch(() => undefined));
  const owned = await Promise.all(owners);
  const own = settings.mailRoots.filter((_, index) => owned[index] === undefined);
  const unused = own.filter(({ path }) => path === settings.mailRoot && !isMailRootUsed(context));
  new MailRoots(unused, isFirstStart, log).check();
  const used = own.filter(root => !unused.includes(root));
  const roots = new MailRoots(used, isFirstStart, log);
  roots.watch();
  return roots;
}

/**
 * SLIM_MAIL_ROOT keeps the mail of MAILDIR rows, of the postmaster where there is no catch-all, and of entries that
 * name it.
 */
function isMailRootUsed({ settings: { mailRoot, storages } }: Context): boolean {
  const hasFolder = storages.places.some(each => each.kind === 'default' && 'path' in each);
  const isNamed = storages.places.some(each => 'path' in each && each.path === mailRoot);
  return storages.postgresql || !hasFolder || isNamed;
}
