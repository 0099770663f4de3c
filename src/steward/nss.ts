// Unix accounts as the system's name service knows them, by getent(1): /etc/passwd, libnss-extrausers, LDAP alike.
// Promises: an account here is one that may receive mail: uid 1000 to 59999, an existing home, and not the server's own
// user. A change is seen within five seconds. A getent that fails or hangs is an error, never 'no such account'.
// Known gap: while a network name service (LDAP) is down, getent itself says 'no such account'. The cache of sssd
// helps.
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Account, Accounts } from '../mail/ports.ts';
import { Turns } from '../system/turns.ts';

const keptMs = 4_000;

/**
 * The fields of one entry of a name service database, by its name, or by its number where `key` is digits; undefined:
 * there is none.
 */
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

/**
 * Remembers each answer for a while, also the answer that there is no such thing. A question that is under way is not
 * asked twice.
 */
function remember<T>(ask: (key: string) => Promise<T>): (key: string) => Promise<T> {
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
  // Strangers choose the names, so at most eight processes run at once.
  const turns = new Turns(8);
  const look = remember(key => turns.take(() => lookUp(key, ownUid)));

  return {
    async find(name) {
      const account = await look(name);
      // getent takes '1000' for a uid, and finds an account that has another name.
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

/** The uid of a directory's owner; undefined: there is no such directory. */
async function ownerOf(folder: string): Promise<number | undefined> {
  const found = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error;
  });
  return found?.isDirectory() ? found.uid : undefined;
}
