// Logins: the sources of SLIM_USERS in their order, and what holds for every exchange: the throttle and the delay.
// Promises: the first source that knows a name decides, and one that cannot answer is 454, never 535. Failures come with the
// same words at a multiple of two seconds, after the same work, for names that exist and names that do not; success comes at
// once. PBKDF2 runs in the thread pool, a few at a time, PAM in a process of its own. Never logs a password or a name.
// Known gap: where SLIM_USERS also has @POSTGRESQL, SCRAM's challenge comes sooner for a name that stands before it.
import { isUtf8 } from 'node:buffer';
import { createHmac } from 'node:crypto';
import { type Accounts, type Authenticator, CannotTell, type Exchange, type Log, type Login } from '../mail.ts';
import { type Verifier, checkPassword, parseVerifier } from '../scram.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { Clock, Random } from '../system.ts';
import { generate, inlineSource } from './inline.ts';
import { type Desk, type Dialogue, mechanisms, open } from './mechanisms.ts';
import { type Found, type Query, type Source, accountSource, parseName, tableSource } from './sources.ts';
import { type Throttle, type ThrottleOptions, openThrottle } from './throttle.ts';

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
  readonly query: Query | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

const failureStepMs = 2000;
/** So that a flood of logins leaves threads for mail that is being written. */
const checksAtOnce = 4;

export async function createAuthenticator(options: AuthOptions): Promise<Chain> {
  const { users, mainDomain, folder, steward, query, clock, random, log } = options;
  const plain = users.flatMap(user => (user.kind === 'inline' && !parseVerifier(user.secret) ? [user.name] : []));
  const advice = 'SLIM_USERS holds passwords in plain text: `slimsmtp password` makes verifiers of them';
  if (plain.length > 0) log.warn({ accounts: plain }, advice);
  // Nobody's password is the key of made-up salts: kept as well, since known salts do not change at a restart either.
  const named = users.flatMap(user => (user.kind === 'generate' ? [user.name] : []));
  const passwords = users.length > 0 ? generate(folder, ['', ...named], random) : new Map<string, string>();
  const openSource = (user: User): Source | Promise<Source> => {
    if (user.kind === 'pam') return accountSource(steward?.accounts, mainDomain);
    if (user.kind === 'postgresql') return tableSource(query, clock, log);
    const secret = user.kind === 'inline' ? user.secret : (passwords.get(user.name) ?? '');
    return inlineSource(user.name, secret, mainDomain, random);
  };
  const sources = await Promise.all(users.map(openSource));
  return new Chain(options, sources, await openThrottle(options), passwords.get('') ?? '');
}

export class Chain implements Authenticator {
  readonly mechanisms: readonly string[];
  readonly #options: AuthOptions;
  readonly #sources: readonly Source[];
  readonly #throttle: Throttle;
  readonly #saltKey: string;
  readonly #lanes = Array<Promise<unknown>>(checksAtOnce).fill(Promise.resolve());
  /** Of made-up verifiers: as many as real ones were seen to have. */
  #iterations = 4096;

  constructor(options: AuthOptions, sources: readonly Source[], throttle: Throttle, saltKey: string) {
    this.#options = options;
    this.#sources = sources;
    this.#throttle = throttle;
    this.#saltKey = saltKey;
    const { users, offered } = options;
    const hasPam = users.some(user => user.kind === 'pam'); // it has nothing to verify a proof by
    const works = (name: string): boolean => users.length > 0 && !(hasPam && name.startsWith('SCRAM'));
    this.mechanisms = mechanisms.filter(name => works(name) && (offered?.includes(name) ?? true));
  }

  begin(mechanism: string, client: string, binding: Desk['binding']): Exchange {
    const { clock, random, log } = this.#options;
    let id = ''; // whom a failure counts for
    const identify = async (text: string) => {
      const name = parseName(text, this.#options.mainDomain);
      id = name?.id ?? text;
      if (await this.#throttle.isShut(client, id)) return replies.tooManyLogins;
      const found = await this.#find(text);
      const account = found && 'account' in found ? { account: found.account } : {};
      return { found, login: found && name && { name: text, address: name.address, ...account } };
    };
    const desk: Desk = {
      binding,
      nonce: () => random.hex(12),
      verify: async (text, password) => {
        const who = await identify(text);
        if ('code' in who) return who;
        const isRight = await this.#isRight(who.found, id, password);
        return isRight && who.login ? who.login : replies.loginFailed;
      },
      verifier: async text => {
        const who = await identify(text);
        if ('code' in who) return who;
        const { found, login } = who;
        return found && 'verifier' in found
          ? { verifier: found.verifier, login }
          : { verifier: this.#invent(id), login: undefined };
      },
    };

    let dialogue: Dialogue | undefined;
    let login: Login | undefined;
    const step = async (response: Buffer | undefined): Promise<Reply> => {
      const startedAt = clock.now();
      try {
        dialogue ??= open(mechanism, response, desk, this.mechanisms.includes('SCRAM-SHA-256-PLUS'));
        const { done, value } = await dialogue.next(response ?? Buffer.alloc(0));
        if (!done) return replies.challenge(Buffer.from(value).toString('base64'));
        if (value === replies.loginFailed) await this.#fail(client, id, startedAt);
        if ('code' in value) return value;
        login = value;
        return replies.loggedIn;
      } catch (error) {
        log[error instanceof CannotTell ? 'warn' : 'error']({ client, err: error }, 'a login could not be checked');
        return replies.cannotLogin;
      }
    };
    return {
      step,
      get login() {
        return login;
      },
    };
  }

  /** Whether a password is right, and which source says so. No throttle, no delay. Throws CannotTell. */
  async check(text: string, password: string): Promise<{ readonly ok: boolean; readonly source: string }> {
    const found = await this.#find(text);
    const ok = await this.#isRight(found, text, Buffer.from(password));
    return { ok, source: found?.source ?? 'no source knows the name' };
  }

  async #find(text: string): Promise<Found | undefined> {
    const name = parseName(text, this.#options.mainDomain);
    for (const source of this.#sources) {
      const found = name && (await source(name));
      if (found && 'verifier' in found) this.#iterations = Math.max(this.#iterations, found.verifier.iterations);
      if (found) return found;
    }
    return undefined;
  }

  /** For a name that nobody knows, the same work is done. */
  async #isRight(found: Found | undefined, id: string, password: Buffer): Promise<boolean> {
    if (found && 'account' in found)
      return (
        isUtf8(password) && (await this.#options.steward?.authenticate(found.account, password.toString())) === true
      );
    const verifier = found?.verifier ?? this.#invent(id);
    const checked = (this.#lanes.shift() ?? Promise.resolve()).then(() => checkPassword(verifier, password));
    this.#lanes.push(checked.catch(() => {}));
    return (await checked) && found !== undefined && password.length > 0;
  }

  /** What nobody can log in by. A name always gets the same salt, as from a real one. */
  #invent(id: string): Verifier {
    const octets = createHmac('sha512', this.#saltKey).update(id).digest();
    const key = octets.subarray(32);
    return { iterations: this.#iterations, salt: octets.subarray(0, 16), storedKey: key, serverKey: key };
  }

  /** Counted at once, answered late: whoever opens many connections gains nothing by not waiting. */
  async #fail(client: string, id: string, startedAt: number): Promise<void> {
    await this.#throttle.countFailure(client, id);
    const tookMs = Math.max(0, this.#options.clock.now() - startedAt);
    await new Promise(resolve => setTimeout(resolve, failureStepMs - (tookMs % failureStepMs)));
  }
}
