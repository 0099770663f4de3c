// What SLIM_CAPTURE makes of the other settings: those that are for mail that leaves, is judged or has a home of its
// own do not count, and some have other defaults.
// Promise: a setting that does not count is as if it were unset, and is named in the log.
import { catcherPort, standardSockets } from './sockets.ts';
import type { Environment, Remark, Source } from './sources.ts';

/** What counts where mail is captured; SLIM_USERS and the database with `users` alone. */
const counting =
  /^(?:SLIM_(?:CAPTURE|CAPTURE_KEEP|HTTP|DOMAINS|HOSTNAME|LISTEN|TLS_\w+|SUPPORTS|MAX_SIZE|MAIL_ROOT|DATA|MAX_SESSIONS|MAX_SESSIONS_PER_CLIENT|RUN_AS|LOG_\w+|DRAIN)|NODE_EXTRA_CA_CERTS)$/;
const countingForUsers = /^(?:SLIM_USERS|DATABASE_URL|PG\w+)$/;

/** Changes the sources; nothing where mail is not captured. */
export function applyCapture(sources: Map<string, Source>, remarks: Remark[], { dotenvFile }: Environment): void {
  const mode = sources.get('SLIM_CAPTURE')?.text;
  if (mode !== 'on' && mode !== 'users') return;
  const ignored = [...sources.keys()].filter(
    name => !counting.test(name) && !(mode === 'users' && countingForUsers.test(name)),
  );
  for (const name of ignored) sources.delete(name);
  if (ignored.length > 0)
    remarks.push({ level: 'warn', fields: { variables: ignored }, text: 'SLIM_CAPTURE: these settings do not count' });
  // Nothing in the image reads a .env, so that there is none. Elsewhere a catcher is for this machine alone.
  const host = dotenvFile === undefined ? '' : '127.0.0.1';
  const root = sources.get('SLIM_MAIL_ROOT')?.text ?? '/var/mail';
  const defaults = {
    SLIM_DOMAINS: 'capture.test',
    SLIM_HTTP: `${host}:8025`,
    SLIM_STORAGES: `default=${root}/captured`,
    SLIM_SENDER_CHECK: 'off',
    SLIM_VERIFY: 'off',
    SLIM_DKIM: 'off',
  };
  for (const [name, text] of Object.entries(defaults))
    if (!sources.has(name)) sources.set(name, { text, origin: 'default' });
  // Clients of catchers know their port; .env has the sockets of the server that it is for.
  const listen = sources.get('SLIM_LISTEN') ?? { text: standardSockets, origin: 'default' };
  const isByHand = listen.origin === 'environment' || 'file' in listen;
  if (!isByHand && !listen.text.includes(`:${catcherPort}`))
    sources.set('SLIM_LISTEN', { ...listen, text: `${listen.text}\nsmtp://${host}:${catcherPort}` });
}
