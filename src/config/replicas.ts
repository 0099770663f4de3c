// What replicas (SLIM_QUEUE=@POSTGRESQL) cannot have: whatever each of them would make, keep or know by itself, because
// a client or a message may come to any of them.
import type { Known } from './contradictions.ts';
import { sortStorages } from './storages.ts';
import type { Clean } from './table.ts';

const because = 'with SLIM_QUEUE="@POSTGRESQL"';

/** Sentences, and whether they are broken. */
export function replicaRules(clean: Partial<Clean>, { isSet, signs }: Known) {
  const generated = (clean.SLIM_USERS ?? []).flatMap(user => (user.kind === 'generate' ? [user.name] : []));
  const { places, pam } = sortStorages(clean.SLIM_STORAGES ?? []);
  const hasForwards = places.some(each => 'forward' in each);
  const accounts = `${because} there are no Unix accounts: a home is on one machine`;
  return {
    [`SLIM_USERS: ${because} each replica would make its own password for ${generated.join(', ')}: give a verifier ('slimsmtp password'), or use @POSTGRESQL`]:
      generated.length > 0,
    [`SLIM_USERS="@PAM": ${accounts}`]: clean.SLIM_USERS?.some(({ kind }) => kind === 'pam'),
    [`SLIM_STORAGES="@PAM": ${accounts}`]: pam,
    [`SLIM_ACCOUNTS: ${accounts}`]: clean.SLIM_ACCOUNTS,
    [`SLIM_ACME: ${because} each replica would get a certificate of its own: set SLIM_TLS_CERT_FILE and SLIM_TLS_KEY_FILE`]:
      isSet('SLIM_ACME'),
    [`SLIM_DKIM_KEYS is not set: ${because} each replica would sign with keys of its own: set it, or SLIM_DKIM=off`]:
      signs && clean.SLIM_DKIM_KEYS === undefined,
    [`SLIM_SRS_SECRET is not set: ${because} a bounce to mail that SLIM_STORAGES forwards may come to another replica`]:
      hasForwards && clean.SLIM_SRS_SECRET === undefined,
  };
}
