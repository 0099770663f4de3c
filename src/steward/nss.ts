// Unix accounts as the system's name service knows them, by getent(1): /etc/passwd, libnss-extrausers, LDAP alike.
// Promises: an account is only what may receive mail (uid 1000-59999, an existing home, not our own user); a change is
// seen within five seconds; a getent that fails or hangs is an error, never 'no such account'.
// Known gap: of a network name service (LDAP) that is down, getent itself says 'no such account'; sssd's cache helps.
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Account, Accounts } from '../mail/ports.ts';

const keptMs = 4_000;

/** One entry of a name service database, split into its fields; undefined: there is none. Digits are an id. */
export function getent(database: 'passwd' | 'group', key: string): Promise<readonly string[] | undefined> {
  return new Promise((answered, failed) => {
    execFile('getent', [database, '--', key], { timeout: 8_000 }, (error, stdout) => {
      if (error === null) answered(stdout.split('\n', 1)[0]?.split(':'));
      else if (error.code === 2) answered(undefined);
      else failed(new Error(`getent ${database} ${key} failed: look at the name service`, { cause: error }));
    });
  });
}

/** The user and group of a name such as SLIM_RUN_AS, of any uid; undefined: no such user. */
export async function findUser(name: string): Promise<{ readonly uid: number; readonly gid: number } | undefined> {
  const [found, , uid, gid] = (await getent('passwd', name)) ?? [];
  return found === name ? { uid: Number(uid), gid: Number(gid) } : undefined;
}

/** Remembers an answer, also that there is none, for a while; what is on its way is not asked again. */
export function remember<T>(ask: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const known = new Map<string, Promise<T>>();
  return key => {
    const kept = known.get(key);
    if (kept) return kept;
    const answer = ask(key);
    const forget = (): unknown => known.delete(key);
    known.set(key, answer);
    answer.then(() => setTimeout(forget, keptMs).unref(), forget);
    return answer;
  };
}

/** The accounts that may receive mail. */
export function createAccounts(ownUid: number): Accounts {
  // Strangers choose the names: eight processes at once and no more, each waiting for the last one in its lane.
  const lanes = Array<Promise<unknown>>(8).fill(Promise.resolve());

  const look = remember(key => {
    const account = (lanes.shift() ?? Promise.resolve()).then(() => lookUp(key, ownUid));
    lanes.push(account.catch(() => {}));
    return account;
  });

  return {
    async find(name) {
      const account = await look(name);
      // '1000' is not the name of the account with that uid.
      return account?.name === name ? account : undefined;
    },
    async owner(path) {
      // By the owner of each folder on the way up, since not every name service can list its accounts.
      for (let folder = resolve(path); folder !== '/'; folder = dirname(folder)) {
        const uid = await ownerOf(folder);
        const account = uid === undefined ? undefined : await look(`${uid}`);
        if (account?.home === folder) return account;
      }
      return undefined;
    },
  };
}

async function lookUp(key: string, ownUid: number): Promise<Account | undefined> {
  const [name = '', , uidText, gid, , home = ''] = (await getent('passwd', key)) ?? [];
  const uid = Number(uidText);
  if (!(uid >= 1000 && uid <= 59_999) || uid === ownUid || !home.startsWith('/')) return undefined;
  return (await ownerOf(home)) === undefined ? undefined : { name, uid, gid: Number(gid), home: resolve(home) };
}

/** Whose directory that is; undefined: no such directory. */
async function ownerOf(folder: string): Promise<number | undefined> {
  const found = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error;
  });
  return found?.isDirectory() ? found.uid : undefined;
}
