// Logins while mail is captured: every name with every password is right. SCRAM is not offered, because it cannot be
// right for every password. RFC 4954, 4616.
import { toMailbox } from '../mail/address.ts';
import type { Authenticator, Login } from '../mail/ports.ts';
import { type Context, open } from '../sasl/mechanisms.ts';
import { type Reply, replies } from '../smtp/reply.ts';

export const captureMechanisms = ['PLAIN', 'LOGIN'];

/** `mainDomain` is the domain of a name that has none. */
export function everyLogin(mainDomain: string): Authenticator {
  /** A name that can be no address logs in all the same, and owns no address. */
  function loginOf(name: string): Login {
    const at = name.lastIndexOf('@');
    const parts =
      at < 0 ? { local: name, domain: mainDomain } : { local: name.slice(0, at), domain: name.slice(at + 1) };
    const nobody = toMailbox({ local: '', domain: '' }) as Login['address'];
    return { name, address: toMailbox(parts) ?? nobody };
  }
  const context: Context = {
    identify: async name => ({ login: loginOf(name), verifier: unused, isRight: async () => true }),
    admitGuess: async () => undefined,
    nonce: () => '',
    binding: () => undefined,
    offersPlus: false,
  };
  return {
    mechanisms: captureMechanisms,
    begin(mechanism) {
      let dialogue: ReturnType<typeof open> | undefined;
      const exchange = {
        login: undefined as Login | undefined,
        async step(response: Buffer | undefined): Promise<Reply> {
          dialogue ??= open(mechanism, response, context);
          const { done, value } = await dialogue.next(response ?? Buffer.alloc(0));
          if (!done) return replies.challenge(Buffer.from(value).toString('base64'));
          if ('code' in value) return value;
          exchange.login = value;
          return replies.loggedIn;
        },
      };
      return exchange;
    },
  };
}

/** A verifier that nobody looks at, because only SCRAM would. */
const unused = { iterations: 0, salt: Buffer.alloc(0), storedKey: Buffer.alloc(0), serverKey: Buffer.alloc(0) };
