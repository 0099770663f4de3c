// What is wrong between variables that are each right. A rule is a sentence and the condition that breaks it.
import { replicaRules } from './replicas.ts';
import type { Clean } from './table.ts';

export type Known = {
  readonly hasDatabase: boolean;
  readonly isRoot: boolean;
  /** Whether a variable is set, and not by default. */
  readonly isSet: (name: string) => boolean;
  /** Whether outgoing mail is signed. */
  readonly signs: boolean;
};

/** The sentences of the rules that are broken. A variable that is wrong by itself is undefined here. */
export function contradictions(clean: Partial<Clean>, known: Known): readonly string[] {
  const { hasDatabase, isRoot, isSet } = known;
  const { SLIM_DOMAINS: hosted, SLIM_LISTEN: sockets, SLIM_SUPPORTS: supports, SLIM_STORAGES: entries = [] } = clean;
  const sources = new Set(entries.map(({ key }) => key));
  const users = new Set(clean.SLIM_USERS?.map(({ name }) => name));
  const mechanisms = supports?.find(({ name }) => name === 'AUTH')?.parameter?.split(' ') ?? ['PLAIN'];
  const isPlainRelay = clean.SLIM_RELAY_TLS === 'none';
  const relayParts = ['PORT', 'TLS', 'USER', 'PASSWORD'].map(part => `SLIM_RELAY_${part}`).filter(isSet);
  const acmeParts = ['URL', 'NAMES', 'HTTP'].map(part => `SLIM_ACME_${part}`).filter(isSet);
  const needsStartTls = clean.SLIM_TLS_REQUIRE === 'all' && sockets?.some(({ kind }) => kind !== 'submissions');
  const has = (extension: string): boolean => supports?.some(({ name }) => name === extension) === true;
  // A database hosts domains of its own.
  const isStranger = (domain: string): boolean => !hasDatabase && hosted?.includes(domain) === false;
  const strangers = entries.filter(entry => 'domain' in entry && isStranger(entry.domain)).map(({ key }) => key);
  const portCount = clean.PGPORT?.length ?? 1;
  const rules = {
    'PGPORT: one port is wanted, or one for each host of PGHOST':
      portCount > 1 && !isSet('DATABASE_URL') && portCount !== (clean.PGHOST ?? '').split(/[\n,]/).length,
    [`SLIM_STORAGES: not in any of SLIM_DOMAINS: ${strangers.join(', ')}`]: strangers.length > 0,
    'SLIM_TLS_CERT, SLIM_TLS_KEY: only one is set': !clean.SLIM_TLS_CERT !== !clean.SLIM_TLS_KEY,
    'SLIM_ACME, SLIM_TLS_CERT: the certificate comes from one of them; take one away':
      isSet('SLIM_ACME') && isSet('SLIM_TLS_CERT'),
    [`${acmeParts.join(', ')}: SLIM_ACME is not set`]: acmeParts.length > 0 && !isSet('SLIM_ACME'),
    'SLIM_TLS_REQUIRE="all": nobody could send without STARTTLS in SLIM_SUPPORTS':
      needsStartTls && supports && !has('STARTTLS'),
    'SLIM_SUPPORTS: SMTPUTF8 needs 8BITMIME (RFC 6531): take away both, or none': has('SMTPUTF8') && !has('8BITMIME'),
    'SLIM_STORAGES="@POSTGRESQL": DATABASE_URL or PGHOST is not set': sources.has('@POSTGRESQL') && !hasDatabase,
    'SLIM_QUEUE="@POSTGRESQL": DATABASE_URL or PGHOST is not set': clean.SLIM_QUEUE === '@POSTGRESQL' && !hasDatabase,
    'SLIM_USERS="@POSTGRESQL": DATABASE_URL or PGHOST is not set': users.has('@POSTGRESQL') && !hasDatabase,
    'SLIM_USERS="@PAM": only a server started as root has it': users.has('@PAM') && !isRoot,
    'SLIM_SUPPORTS: @PAM in SLIM_USERS cannot verify SCRAM, and AUTH offers nothing else: add PLAIN or LOGIN':
      users.has('@PAM') && mechanisms.every(name => name.startsWith('SCRAM')),
    [`${relayParts.join(', ')}: SLIM_RELAY_HOST is not set`]: relayParts.length > 0 && !isSet('SLIM_RELAY_HOST'),
    'SLIM_RELAY_USER, SLIM_RELAY_PASSWORD: only one is set': isSet('SLIM_RELAY_USER') !== isSet('SLIM_RELAY_PASSWORD'),
    'SLIM_RELAY_TLS="none": SLIM_RELAY_USER would send its password in clear text':
      isPlainRelay && isSet('SLIM_RELAY_USER'),
    'SLIM_RELAY_TLS="none", SLIM_EXTERNAL_TLS="required": they contradict each other; take one away':
      isPlainRelay && isSet('SLIM_EXTERNAL_TLS') && clean.SLIM_EXTERNAL_TLS?.policy === 'required',
    'SLIM_STORAGES="@PAM": only a server started as root has it': sources.has('@PAM') && !isRoot,
    'SLIM_CAPTURE="users": SLIM_USERS names no login; with "on" every login is right':
      clean.SLIM_CAPTURE === 'users' && users.size === 0,
    'SLIM_ACCOUNTS: only a server started as root makes accounts': clean.SLIM_ACCOUNTS && !isRoot,
    ...(clean.SLIM_QUEUE === '@POSTGRESQL' && replicaRules(clean, known)),
  };
  return Object.entries(rules).flatMap(([problem, isBroken]) => (isBroken ? [problem] : []));
}
