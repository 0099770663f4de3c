// What a source of logins is, the forms in which a name is looked for, and the two sources outside SLIM_USERS: the Unix
// accounts (@PAM) and the table `users` (@POSTGRESQL).
// Promises: names compare as addresses do, and a name without a domain is the one at the first domain, and at no other.
// A database that is down, and a row without a verifier, are 'cannot tell', never 'no such login'.
import { type Accounts, CannotTell } from '../mail/ports.ts';
import { type Mailbox, toMailbox } from '../mail/address.ts';
import { type Verifier, parseVerifier } from '../sasl/scram.ts';
import type { World } from '../system/world.ts';

/** `id` is the whole address, however the login was written; `keys` are the forms to look for, best first. */
export type Name = Readonly<{ address: Mailbox; id: string; keys: readonly string[] }>;
/** How a login is checked: by a verifier, or by PAM as that Unix account. */
export type Found = Readonly<{ source: string; verifier?: Verifier; account?: string }>;
/** Undefined: this source does not know the name. Rejects with CannotTell. */
export type Source = (name: Name) => Promise<Found | undefined>;

/** The password column of the first of these names that the table `users` has. Rejects with CannotTell. */
export type TablePasswords = (names: readonly string[]) => Promise<string | undefined>;

/** The name that a client gives for itself; undefined where nobody can have that name. */
export function parseName(text: string, mainDomain: string): Name | undefined {
  const at = text.lastIndexOf('@');
  const [local, domain] = at < 0 ? [text, mainDomain] : [text.slice(0, at), text.slice(at + 1)];
  const address = toMailbox({ local, domain });
  // Of `a@b.example@example.com` the part `a@b.example` would be looked for as a name without a domain.
  if (!address || local.includes('@')) return undefined;
  const id = `${address.local}@${address.domain}`;
  const bare = address.domain === mainDomain ? [local, address.local] : [];
  return { address, id, keys: at < 0 ? bare : [text, id, ...bare] };
}

export function accountSource(accounts: Accounts | undefined, mainDomain: string): Source {
  return async ({ address }) => {
    if (accounts === undefined) throw new CannotTell('only a server started as root can ask PAM');
    const account = address.domain === mainDomain ? await accounts.find(address.local) : undefined;
    return account && { source: '@PAM', account: account.name };
  };
}

export function tableSource(
  passwords: TablePasswords | undefined,
  { clock, log }: Pick<World, 'clock' | 'log'>,
): Source {
  let complainedAt = -Infinity;
  return async ({ keys }) => {
    if (passwords === undefined) throw new CannotTell('there is no database to ask');
    const password = await passwords(keys);
    if (password === undefined) return undefined;
    const verifier = parseVerifier(password);
    if (verifier) return { source: '@POSTGRESQL', verifier };
    const mistake = 'a password in table users is no SCRAM-SHA-256 verifier: `slimsmtp password` makes one';
    if (clock.now() - complainedAt >= 60_000) {
      complainedAt = clock.now();
      log.error({ user: keys.at(-1) }, mistake);
    }
    throw new CannotTell(mistake);
  };
}
