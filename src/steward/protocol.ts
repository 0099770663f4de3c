// What the network process and the steward say to each other over IPC, as JSON. Mail itself travels as spool files.
// How it goes: the steward first sends one `start`. Then the network process asks, with a number for each request, and
// each gets one reply with that number, in any order. A deposit is two requests: `prepare`, whose number is the token
// of the deposit, and `commit` or `abort` with that token. The steward may send `stop` and `reload` at any time. The
// steward is root, and the other side may have been broken into, so parseRequest believes nothing: kinds, types,
// lengths and characters are all checked here, once, and no name becomes a path by accident.

/**
 * A socket that the steward has opened; `fd` is its descriptor in the network process. Without a host it is for IPv6
 * and IPv4.
 */
export type Socket = { readonly host?: string | undefined; readonly port: number; readonly fd: number };
/** The two configured TLS files, where they are set: paths in the steward's options, contents in its answer. */
export type TlsFiles = { readonly cert?: string | undefined; readonly key?: string | undefined };
/** One copy of a message: a Maildir below an account's home ('' is the home itself). */
export type Target = { readonly account: string; readonly folder: string };

/** From the steward, without having been asked. `start` comes first, once. */
export type Order = Start | { readonly kind: 'stop' | 'reload' };
export type Start = { readonly kind: 'start'; readonly settings: unknown; readonly sockets: readonly Socket[] };

/** From the network process; `token` is the id of the `prepare` that it ends. */
export type Request = Question & { readonly id: number };
export type Question =
  | { readonly kind: 'account'; readonly name: string }
  | { readonly kind: 'owner'; readonly path: string }
  | { readonly kind: 'authenticate'; readonly name: string; readonly password: string }
  | { readonly kind: 'prepare'; readonly spool: string; readonly targets: readonly Target[] }
  | { readonly kind: 'commit' | 'abort'; readonly token: number }
  | { readonly kind: 'tls' };

/** The answer to one request: a result, or an error with the enhanced status code for the client. */
export type Reply = Readonly<{ id: number; result?: unknown; error?: string; status?: string }>;

/** The request that a message is, or undefined when it is none. Extra members are dropped. */
export function parseRequest(message: unknown): Request | undefined {
  const { id, kind, name, path, password, spool, targets, token } = (message ?? {}) as Record<string, unknown>;
  if (!isId(id)) return undefined;
  if (kind === 'account' && isAccountName(name)) return { id, kind, name };
  if (kind === 'owner' && isText(path) && path.startsWith('/')) return { id, kind, path };
  if (kind === 'authenticate' && isAccountName(name) && isPassword(password)) return { id, kind, name, password };
  if (kind === 'prepare' && isText(spool) && /^[A-Za-z0-9]{1,64}$/.test(spool) && isTargets(targets))
    return { id, kind, spool, targets: targets.map(({ account, folder }) => ({ account, folder })) };
  if ((kind === 'commit' || kind === 'abort') && isId(token)) return { id, kind, token };
  return kind === 'tls' ? { id, kind } : undefined;
}

/**
 * Whether the name service may be asked for it: it is no option of getent, and no path. Whether it is a uid shows in
 * the answer.
 */
export function isAccountName(value: unknown): value is string {
  return typeof value === 'string' && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$/.test(value);
}

/** Whether authenticate-pam takes it whole: it cuts longer passwords without a word. */
export function isPassword(value: unknown): value is string {
  return typeof value === 'string' && /^[^\0]{1,126}$/s.test(value) && Buffer.byteLength(value) <= 126;
}

const isId = (value: unknown): value is number => Number.isSafeInteger(value);
const isText = (value: unknown): value is string =>
  typeof value === 'string' && value.length <= 1024 && !value.includes('\0');
const isFolder = (value: unknown): boolean =>
  value === '' || (isText(value) && value.split('/').every(part => !['', '.', '..'].includes(part)));

/** Copies of one message: at most as many as a message has recipients. */
function isTargets(value: unknown): value is readonly Target[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > 1000) return false;
  return value.every((target: Partial<Target> | null) => isAccountName(target?.account) && isFolder(target?.folder));
}
