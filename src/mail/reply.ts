// What a reply of ours says to people and to logs.
import { type Reply, replies } from '../smtp/reply.ts';

/** A reply in one line. */
export const formatReply = ({ code, status = '', text }: Reply): string => `${code} ${status} ${text}`;

/** How a login has ended; undefined: it has not, or its octets were no login. */
export function loginResult({ code }: Reply): 'ok' | 'failed' | 'later' | undefined {
  if (code === replies.loggedIn.code) return 'ok';
  if (code === replies.loginFailed.code) return 'failed';
  return code === replies.cannotLogin.code ? 'later' : undefined;
}
