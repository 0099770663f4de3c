// Who may log in (SLIM_USERS) and which Unix accounts are made at start (SLIM_ACCOUNTS).
// Promise: no mistake shows a secret. An entry is secret as a whole, because a password with a comma is split in two
// entries.
import { hasControls } from '../mail/address.ts';
import { parseVerifier } from '../sasl/scram.ts';
import { listOf, parser } from './parser.ts';
import { accountName, domain } from './values.ts';

/** authenticate-pam would cut off longer passwords. */
const accountEntry = parser(
  'wanted is name or name:password, not root, the password of 1 to 126 octets',
  new RegExp(`^${accountName}(?::(.+))?$`, 's'),
  (name, password) => Buffer.byteLength(password) <= 126 && { name, ...(password && { password }) },
  true,
);
export const accounts = listOf(accountEntry, ({ name }) => name);

const userWanted = 'wanted is @PAM, @POSTGRESQL, name:@GENERATE or name:secret, the name with or without a domain';
/** The name is a bare name or an address, in the form in which names are compared. */
const user = parser(
  `${userWanted}, the secret a password or SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`,
  /^(?:(@PAM|@POSTGRESQL)|([^\s:@]+(?:@[^\s:@]+)?):(?:(@GENERATE)|(.+)))$/s,
  (source, given, generate, secret) => {
    if (secret.startsWith('SCRAM-SHA-256$') && !parseVerifier(secret)) return undefined;
    if (source) return { kind: source === '@PAM' ? 'pam' : 'postgresql', name: source } as const;
    const [local = '', host] = given.split('@');
    if (hasControls(local)) return undefined;
    const name = `${local.normalize('NFC').toLowerCase()}${host === undefined ? '' : `@${domain(host)}`}`;
    return generate ? ({ kind: 'generate', name } as const) : ({ kind: 'inline', name, secret } as const);
  },
  true,
);
export const users = listOf(user, ({ name }) => name);
