// Logins: the sources of SLIM_USERS in their order, and what all exchanges have in common, which is the throttle and
// the delay.
// Promises: the first source that knows a name decides, and one that cannot answer is 454, never 535. Failures come
// with the same words at a multiple of two seconds, after the same work, for names that exist and names that do not;
// success comes at once. No guess is judged before a failure is reserved for it (throttle.ts). PBKDF2 runs in the
// thread pool, a few at a time, PAM in a process of its own. Never logs a password; what is logged of a name is cut,
// and without control characters.
// Known gap: where SLIM_USERS also has @POSTGRESQL, SCRAM's challenge comes sooner for a name that stands before it.
import { isUtf8 } from 'node:buffer';
import { type Accounts, CannotTell, type Exchange, type Login } from '../mail/ports.ts';
import { type Verifier, checkPassword, makeVerifier, parseVerifier } from '../sasl/scram.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { Turns } from '../system/turns.ts';
import type { World } from '../system/world.ts';
import { generate, inlineSource } from './inline.ts';
import { openInventions, saltOf } from './invented.ts';
import { type Context, type Dialogue, mechanisms, open } from '../sasl/mechanisms.ts';
import type { Found, Name, Source, TablePasswords } from './sources.ts';
import { accountSource, parseName, tableSource } from './sources.ts';
import { type Reservation, type ThrottleOptions, openThrottle } from './throttle.ts';

/** An entry of SLIM_USERS. */
export type User =
  | { readonly kind: 'inline'; readonly name: string; readonly secret: string }
  | { readonly kind: 'generate'; readonly name: string }
  | { readonly kind: 'pam' }
  | { readonly kind: 'postgresql' };

export type AuthOptions = World &
  ThrottleOptions & {
    readonly users: readonly User[];
    /** The first of SLIM_DOMAINS: a name without a domain means the one at this domain. */
    readonly mainDomain: string;
    /** The mechanisms that SLIM_SUPPORTS lists; unset: all that work with these users. */
    readonly offered?: readonly string[] | undefined;
    /** SLIM_DATA/state. */
    readonly folder: string;
    /**
     * Of replicas: what made-up challenges are drawn from, the same everywhere; unset: it is made, and kept in
     * `folder`.
     */
    readonly commonSecret?: string | undefined;
    /** Asks PAM, for the entry @PAM. */
    readonly steward:
      | { readonly accounts: Accounts; authenticate(name: string, password: string): Promise<boolean> }
      | undefined;
    /** Looks into the table `users`, for the entry @POSTGRESQL. */
    readonly tablePasswords: TablePasswords | undefined;
  };

const failureStepMs = 2000;
/** Few, so that a flood of logins leaves threads of the pool for mail that is being written. */
const checksAtOnce = 4;

/** Who may log in: an Authenticator, and `check` for commands. */
export async function createAuthenticator(options: AuthOptions) {
  const { users, mainDomain, offered, clock, random, log } = options;
  const { find, isRight, invent } = await openSources(options);
  const throttle = await openThrottle(options);
  const hasPam = users.some(user => user.kind === 'pam'); // PAM has no verifier, and SCRAM's proof needs one
  const working = users.length === 0 ? [] : mechanisms.filter(name => !hasPam || !name.startsWith('SCRAM'));
  const announced = working.filter(name => offered?.includes(name) ?? true);
  const offersPlus = announced.includes('SCRAM-SHA-256-PLUS');

  /** A failure is counted at once and answered late: opening many connections gains nothing. */
  async function fail(count: () => Promise<void>, startedAt: number): Promise<void> {
    await count();
    const tookMs = Math.max(0, clock.now() - startedAt);
    await new Promise(resolve => setTimeout(resolve, failureStepMs - (tookMs % failureStepMs)));
  }

  function begin(mechanism: string, client: string, binding: Context['binding']): Exchange {
    let id = ''; // whom a failure counts for
    let reservation: Reservation | undefined; // for the guess that is being judged
    const context: Context = {
      binding,
      offersPlus,
      nonce: () => random.hex(12),
      async identify(text) {
        const name = parseName(text, mainDomain);
        id = name?.id ?? text;
        exchange.name = text.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, '?').slice(0, 64);
        if (await throttle.isShut(client, id)) return replies.tooManyLogins;
        const found = await find(name);
        const account = found?.account === undefined ? {} : { account: found.account };
        const invented = invent(id); // for real names too: they must not take less time
        return {
          login: found && name && { name: text, address: name.address, ...account },
          verifier: found?.verifier ?? invented,
          isRight: password => isRight(found, id, password),
        };
      },
      async admitGuess() {
        reservation = await throttle.reserve(client, id);
        return reservation ? undefined : replies.tooManyLogins;
      },
    };
    let dialogue: Dialogue | undefined;
    const exchange = {
      login: undefined as Login | undefined,
      name: undefined as string | undefined,
      async step(response: Buffer | undefined): Promise<Reply> {
        const startedAt = clock.now();
        try {
          dialogue ??= open(mechanism, response, context);
          const { done, value } = await dialogue.next(response ?? Buffer.alloc(0));
          if (!done) return replies.challenge(Buffer.from(value).toString('base64'));
          // Some exchanges fail before there is a password to judge: by an authorization identity, or the channel
          // binding.
          const count = reservation?.countFailure ?? (() => throttle.countFailure(client, id));
          if (value === replies.loginFailed) await fail(count, startedAt);
          if ('code' in value) return value;
          exchange.login = value;
          return replies.loggedIn;
        } catch (error) {
          log[error instanceof CannotTell ? 'warn' : 'error']({ client, err: error }, 'a login could not be checked');
          return replies.cannotLogin;
        } finally {
          reservation?.giveBack();
        }
      },
    };
    return exchange;
  }

  return {
    mechanisms: announced,
    begin,
    /** Whether a password is right, and which source says so. No throttle, no delay. Throws CannotTell. */
    async check(text: string, password: string) {
      const found = await find(parseName(text, mainDomain));
      const ok = await isRight(found, text, Buffer.from(password));
      return { ok, source: found?.source ?? 'no source knows the name' };
    },
  };
}

/** The sources in their order, and how a password is checked against what they know. */
async function openSources({
  users,
  mainDomain,
  folder,
  steward,
  tablePasswords,
  commonSecret,
  ...world
}: AuthOptions) {
  const { random, log } = world;
  const plain = users.flatMap(user => (user.kind === 'inline' && !parseVerifier(user.secret) ? [user.name] : []));
  const advice = 'SLIM_USERS holds passwords in plain text: `slimsmtp password` makes verifiers of them';
  if (plain.length > 0) log.warn({ accounts: plain }, advice);
  // The password of the name '' is nobody's: it is the key of made-up salts, and kept, so that no challenge changes at
  // a restart.
  const named = users.flatMap(user => (user.kind === 'generate' ? [user.name] : []));
  const names = commonSecret === undefined ? ['', ...named] : named;
  const passwords = users.length > 0 ? generate(folder, names, random) : new Map<string, string>();
  const key = commonSecret ?? passwords.get('') ?? '';
  async function verifierOf(name: string, secret: string): Promise<Verifier> {
    const id = parseName(name, mainDomain)?.id ?? name;
    return parseVerifier(secret) ?? makeVerifier(secret, { hex: octets => saltOf(key, id, octets).toString('hex') });
  }
  const openSource = async (user: User): Promise<{ readonly source: Source; readonly verifier?: Verifier }> => {
    if (user.kind === 'pam') return { source: accountSource(steward?.accounts, mainDomain) };
    if (user.kind === 'postgresql') return { source: tableSource(tablePasswords, world) };
    const secret = user.kind === 'inline' ? user.secret : (passwords.get(user.name) ?? '');
    const verifier = await verifierOf(user.name, secret);
    return { source: inlineSource(user.name, verifier, mainDomain), verifier };
  };
  const sources = await Promise.all(users.map(openSource));
  const known = sources.flatMap(({ verifier }) => verifier ?? []);
  const { note, invent } = openInventions(key, folder, known, log);
  const hasPam = users.some(user => user.kind === 'pam');
  const turns = new Turns(checksAtOnce);

  async function find(name: Name | undefined): Promise<Found | undefined> {
    if (!name) return undefined;
    for (const { source } of sources) {
      const found = await source(name);
      if (found?.verifier) note(found.verifier);
      if (found) return found;
    }
    return undefined;
  }

  /**
   * Whether a password is right. A wrong one costs the same work in the same queues, whoever's it is said to be, or the
   * time would tell which names exist. PAM is asked for `nobody`, which is no account, in place of a name that has
   * none.
   */
  async function isRight(found: Found | undefined, id: string, password: Buffer): Promise<boolean> {
    const verifier = found?.verifier ?? invent(id);
    const isSame = await turns.take(() => checkPassword(verifier, password));
    if (isSame && found?.verifier !== undefined && password.length > 0) return true;
    if (!hasPam || !isUtf8(password)) return false;
    const isPamRight = await steward?.authenticate(found?.account ?? 'nobody', password.toString());
    return isPamRight === true && found?.account !== undefined;
  }

  return { find, isRight, invent };
}
