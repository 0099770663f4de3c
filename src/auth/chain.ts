// Logins: the sources of SLIM_USERS in their order, and what holds for every exchange: the throttle and the delay.
// Promises: the first source that knows a name decides, and one that cannot answer is 454, never 535. Failures come with the
// same words at a multiple of two seconds, after the same work, for names that exist and names that do not; success comes at
// once. PBKDF2 runs in the thread pool, a few at a time, PAM in a process of its own. Never logs a password; what is
// logged of a name is cut, and without control characters.
// Known gap: where SLIM_USERS also has @POSTGRESQL, SCRAM's challenge comes sooner for a name that stands before it.
import { isUtf8 } from 'node:buffer';
import { createHmac } from 'node:crypto';
import { type Accounts, type Authenticator, CannotTell, type Exchange, type Login } from '../mail/ports.ts';
import type { Log } from '../system/log.ts';
import { type Verifier, checkPassword, parseVerifier } from '../sasl/scram.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { Clock, Random } from '../system/world.ts';
import { generate, inlineSource } from './inline.ts';
import { type Desk, type Dialogue, mechanisms, open } from '../sasl/mechanisms.ts';
import { type Found, type Name, type TablePasswords, accountSource, parseName, tableSource } from './sources.ts';
import { type ThrottleOptions, openThrottle } from './throttle.ts';

/** An entry of SLIM_USERS. */
export type User =
  | { readonly kind: 'inline'; readonly name: string; readonly secret: string }
  | { readonly kind: 'generate'; readonly name: string }
  | { readonly kind: 'pam' }
  | { readonly kind: 'postgresql' };

export type AuthOptions = ThrottleOptions & {
  readonly users: readonly User[];
  /** The first of SLIM_DOMAINS, where bare names stand. */
  readonly mainDomain: string;
  /** Mechanisms as SLIM_SUPPORTS lists them; unset: all that work. */
  readonly offered?: readonly string[] | undefined;
  /** SLIM_DATA/state. */
  readonly folder: string;
  /** For @PAM. */
  readonly steward:
    | { readonly accounts: Accounts; authenticate(name: string, password: string): Promise<boolean> }
    | undefined;
  /** For @POSTGRESQL. */
  readonly tablePasswords: TablePasswords | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

/** Who may log in. */
export type Chain = Authenticator & {
  /** Whether a password is right, and which source says so. No throttle, no delay. Throws CannotTell. */
  check(text: string, password: string): Promise<{ readonly ok: boolean; readonly source: string }>;
};

const failureStepMs = 2000;
/** So that a flood of logins leaves threads for mail that is being written. */
const checksAtOnce = 4;

export async function createAuthenticator(options: AuthOptions): Promise<Chain> {
  const { users, mainDomain, offered, clock, random, log } = options;
  const { find, isRight, invent } = await openSources(options);
  const throttle = await openThrottle(options);
  const hasPam = users.some(user => user.kind === 'pam'); // it has nothing to verify a proof by
  const working = users.length === 0 ? [] : mechanisms.filter(name => !hasPam || !name.startsWith('SCRAM'));
  const announced = working.filter(name => offered?.includes(name) ?? true);
  const offersPlus = announced.includes('SCRAM-SHA-256-PLUS');

  /** Counted at once, answered late: whoever opens many connections gains nothing by not waiting. */
  async function fail(client: string, id: string, startedAt: number): Promise<void> {
    await throttle.countFailure(client, id);
    const tookMs = Math.max(0, clock.now() - startedAt);
    await new Promise(resolve => setTimeout(resolve, failureStepMs - (tookMs % failureStepMs)));
  }

  function begin(mechanism: string, client: string, binding: Desk['binding']): Exchange {
    let id = ''; // whom a failure counts for
    const identify: Desk['identify'] = async text => {
      const name = parseName(text, mainDomain);
      id = name?.id ?? text;
      exchange.name = text.replace(/\p{Cc}/gu, '?').slice(0, 64);
      if (await throttle.isShut(client, id)) return replies.tooManyLogins;
      const found = await find(name);
      const account = found?.account === undefined ? {} : { account: found.account };
      return {
        login: found && name && { name: text, address: name.address, ...account },
        verifier: found?.verifier ?? invent(id),
        isRight: password => isRight(found, id, password),
      };
    };
    const desk: Desk = { binding, offersPlus, nonce: () => random.hex(12), identify };
    let dialogue: Dialogue | undefined;
    const exchange = {
      login: undefined as Login | undefined,
      name: undefined as string | undefined,
      async step(response: Buffer | undefined): Promise<Reply> {
        const startedAt = clock.now();
        try {
          dialogue ??= open(mechanism, response, desk);
          const { done, value } = await dialogue.next(response ?? Buffer.alloc(0));
          if (!done) return replies.challenge(Buffer.from(value).toString('base64'));
          if (value === replies.loginFailed) await fail(client, id, startedAt);
          if ('code' in value) return value;
          exchange.login = value;
          return replies.loggedIn;
        } catch (error) {
          log[error instanceof CannotTell ? 'warn' : 'error']({ client, err: error }, 'a login could not be checked');
          return replies.cannotLogin;
        }
      },
    };
    return exchange;
  }

  return {
    mechanisms: announced,
    begin,
    async check(text, password) {
      const found = await find(parseName(text, mainDomain));
      const ok = await isRight(found, text, Buffer.from(password));
      return { ok, source: found?.source ?? 'no source knows the name' };
    },
  };
}

/** The sources in their order, and how a password is held against what they know. */
async function openSources({ users, mainDomain, folder, steward, tablePasswords, clock, random, log }: AuthOptions) {
  const plain = users.flatMap(user => (user.kind === 'inline' && !parseVerifier(user.secret) ? [user.name] : []));
  const advice = 'SLIM_USERS holds passwords in plain text: `slimsmtp password` makes verifiers of them';
  if (plain.length > 0) log.warn({ accounts: plain }, advice);
  // Nobody's password is the key of made-up salts: kept as well, since known salts do not change at a restart either.
  const named = users.flatMap(user => (user.kind === 'generate' ? [user.name] : []));
  const passwords = users.length > 0 ? generate(folder, ['', ...named], random) : new Map<string, string>();
  const sources = await Promise.all(
    users.map(user => {
      if (user.kind === 'pam') return accountSource(steward?.accounts, mainDomain);
      if (user.kind === 'postgresql') return tableSource(tablePasswords, clock, log);
      const secret = user.kind === 'inline' ? user.secret : (passwords.get(user.name) ?? '');
      return inlineSource(user.name, secret, mainDomain, random);
    }),
  );
  const hasPam = users.some(user => user.kind === 'pam');
  const lanes = Array<Promise<unknown>>(checksAtOnce).fill(Promise.resolve());
  let iterations = 4096; // of made-up verifiers: as many as real ones were seen to have

  async function find(name: Name | undefined): Promise<Found | undefined> {
    if (!name) return undefined;
    for (const source of sources) {
      const found = await source(name);
      iterations = Math.max(iterations, found?.verifier?.iterations ?? 0);
      if (found) return found;
    }
    return undefined;
  }

  /** For every wrong password the same work is done in the same lines, or time would tell whose it is not. `nobody` is no account. */
  async function isRight(found: Found | undefined, id: string, password: Buffer): Promise<boolean> {
    const verifier = found?.verifier ?? invent(id);
    const checked = (lanes.shift() ?? Promise.resolve()).then(() => checkPassword(verifier, password));
    lanes.push(checked.catch(() => {}));
    if ((await checked) && found?.verifier !== undefined && password.length > 0) return true;
    if (!hasPam || !isUtf8(password)) return false;
    const isPamRight = await steward?.authenticate(found?.account ?? 'nobody', password.toString());
    return isPamRight === true && found?.account !== undefined;
  }

  /** What nobody can log in by. A name always gets the same salt, as from a real one. */
  function invent(id: string): Verifier {
    const hmac = createHmac('sha512', passwords.get('') ?? '').update(id);
    const octets = hmac.digest();
    const key = octets.subarray(32);
    return { iterations, salt: octets.subarray(0, 16), storedKey: key, serverKey: key };
  }

  return { find, isRight, invent };
}
