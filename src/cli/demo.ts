// What `npm start` does besides serving (the hidden flag --demo): it makes a .env where there is none, and says how to
// try it.
import { copyFileSync, existsSync } from 'node:fs';
import { relative } from 'node:path';
import type { Settings } from '../config/settings.ts';

export function makeDotenv(): void {
  if (!existsSync('.env') && existsSync('.env.example')) copyFileSync('.env.example', '.env');
}

/** Printed once the server listens. */
export function introduce({ domains, listen, storages, mailRoot }: Settings): void {
  const { host = '127.0.0.1', port } = listen.find(({ kind }) => kind === 'smtp') ?? {};
  const folders = storages.places.filter(each => 'path' in each);
  const to = folders.find(({ kind }) => kind === 'address')?.key ?? `anyone@${domains[0]}`;
  const fallback = folders.some(({ kind }) => kind === 'default') ? [] : [mailRoot];
  const places = new Set([...folders.map(({ path }) => path), ...fallback].map(path => relative('.', path)));
  const sockets = listen.map(socket => `${socket.kind}://${socket.host ?? ''}:${socket.port}`);
  const options = `--mail-from me@example.net --mail-rcpt ${to} -T -`;
  console.log(`
SlimSMTP hosts ${domains.join(', ')} and listens on ${sockets.join(' ')}
Mail will land in ${[...places].join(', ')}
Try:  swaks --to ${to} --server ${host}:${port}
or:   printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl smtp://${host}:${port} ${options}
`);
}
