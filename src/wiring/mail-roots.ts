// The roots of mail that the network process writes itself. Those in the home of a Unix account are the steward's
// matter.
import { type MailRoot, MailRoots } from '../system/mail-roots.ts';
import type { Context } from './context.ts';

/** Makes those that are missing, and looks at all of them from then on. */
export async function openMailRoots({ settings, steward, log }: Context, isFirstStart: boolean): Promise<MailRoots> {
  const own: MailRoot[] = [];
  for (const root of settings.mailRoots)
    if (!(await steward?.accounts.owner(root.path).catch(() => undefined))) own.push(root);
  const roots = new MailRoots(own, isFirstStart, log);
  roots.watch();
  return roots;
}
