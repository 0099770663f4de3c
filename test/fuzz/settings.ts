// Settings: whatever the variables hold, there are settings or a SettingsError that says what is wrong; never another
// error, never a secret in what is shown, never a value that JSON would not carry to the other process.
// An input: NAME=value, octet 0x1e between them. No file is read: names that end in _FILE do not count.
import assert from 'node:assert/strict';
import { SettingsError, describeSettings, loadSettings } from '../../src/config/settings.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const secret = 'Zq!7Kx';
const secretNames = new Set(['SLIM_RELAY_PASSWORD', 'PGPASSWORD', 'SLIM_TLS_KEY', 'SLIM_USERS', 'SLIM_ACCOUNTS']);
const verifier = `SCRAM-SHA-256$4096:c2FsdA==$${'A'.repeat(43)}=:${'A'.repeat(43)}=`;
const seeds: readonly string[][] = [
  ['SLIM_DOMAINS=example.com, example.org'],
  [
    'SLIM_DOMAINS=exämple.com',
    'SLIM_STORAGES=a@exämple.com=/var/mail/a "b c"@exämple.com=/x *@exämple.com=/y default=/z',
  ],
  [
    'SLIM_DOMAINS=example.com',
    `SLIM_USERS=anton:${secret} berta@example.com:@GENERATE cesar:${verifier} @POSTGRESQL`,
    'PGHOST=db',
    `PGPASSWORD=${secret}`,
  ],
  [
    'SLIM_DOMAINS=example.com',
    'SLIM_LISTEN=smtp://:25 submission://127.0.0.1:587 submissions://[::1]:465',
    'SLIM_TLS_REQUIRE=all',
    'SLIM_SUPPORTS=default,-HELP,SIZE 1000,AUTH PLAIN LOGIN',
  ],
  [
    'SLIM_DOMAINS=example.com',
    'SLIM_RELAY_HOST=[2001:db8::1]',
    'SLIM_RELAY_PORT=25',
    'SLIM_RELAY_TLS=implicit',
    'SLIM_RELAY_USER=u',
    `SLIM_RELAY_PASSWORD=${secret}`,
  ],
  [
    'SLIM_DOMAINS=example.com',
    `DATABASE_URL=postgres://user:${secret}@db:5432/mail?sslmode=require`,
    'PGSSLMODE=verify-full',
    'SLIM_STORAGES=@POSTGRESQL @PAM default=/x',
  ],
  [
    'SLIM_DOMAINS=example.com',
    'SLIM_TRUSTED_NETWORKS=10.0.0.0/8 ::1 2001:db8::/32',
    'SLIM_RETRY=1m 5m',
    'SLIM_QUEUE_LIFETIME=5d',
    'SLIM_MAX_SIZE=50M',
    'SLIM_MAX_SESSIONS=0',
  ],
  [
    'SLIM_DOMAINS=example.com',
    `SLIM_ACCOUNTS=anton:${secret} berta`,
    'SLIM_RUN_AS=slim',
    'SLIM_SUBADDRESS=',
    'SLIM_HOSTNAME=mx.example.com',
    'SLIM_WRONG=x',
  ],
];

/** Whether secrets stand only where they are secrets. */
function isFit(variables: Readonly<Record<string, string>>): boolean {
  return Object.entries(variables).every(([name, value]) => {
    if (!value.includes(secret)) return !name.includes(secret);
    if (name === 'DATABASE_URL')
      return (
        URL.canParse(value) &&
        decodeURIComponent(new URL(value).password).includes(secret) &&
        value.split(secret).length === 2
      );
    if (!secretNames.has(name)) return false;
    return (
      !/USERS|ACCOUNTS/.test(name) ||
      value.split(/[\s,]+/).every(item => !item.includes(secret) || item.split(':')[0]?.includes(secret) === false)
    );
  });
}

export const settings: Target = {
  name: 'settings',
  maxOctets: 400,
  isSlow: true,
  seeds: [...kept('settings'), ...seeds.map(lines => Buffer.from(lines.join('\x1e')))],
  words:
    '\x1e|=|:|@|/|,| |\n|[|]|::|%|%20|\\|"|*@|default=|-|+|SLIM_DOMAINS=example.com|SLIM_DATA=/|SLIM_LISTEN=|SLIM_LOG_LEVEL=debug|DATABASE_URL=postgres://|PGPORT=|SLIM_DRAIN=8s|xn--|\xc3\xa4|\xef\xbc\x8e|\0|0|99999|@PAM|@GENERATE|SLIM_DELAY_NOTICE=4h|SLIM_TLS_CERT=x|SLIM_TLS_KEY=x|SLIM_SENDER_CHECK=off|SLIM_EXTERNAL_TLS=opportunistic'.split(
      '|',
    ),
  run(input, _random, note) {
    const variables: Record<string, string> = {};
    for (const line of input.toString().split('\x1e')) {
      const [, name = '', value = ''] = /^([A-Z_]+)=(.*)$/s.exec(line) ?? [];
      if (name !== '' && !name.endsWith('_FILE')) variables[name] = value;
    }
    for (const isRoot of [false, true]) {
      const environment = {
        variables,
        dotenvFile: undefined,
        isRoot,
        hostname: isRoot ? 'a.example' : 'a',
        isTerminal: isRoot,
      };
      let shown: string;
      try {
        const found = loadSettings(environment);
        const json = JSON.stringify(found);
        assert.ok(!/:null[,}]|[[,]null/.test(json), 'a value that JSON does not carry');
        assert.ok(Object.isFrozen(found) && Object.isFrozen(found.tls) && Object.isFrozen(found.domains));
        assert.ok(found.domains.length > 0 && found.listen.length > 0);
        shown = describeSettings(environment)
          .map(({ name, value, origin }) => `${name}=${value} ${origin}`)
          .join('\n');
        note('good');
      } catch (error) {
        if (!(error instanceof SettingsError)) throw error;
        assert.ok(error.problems.length > 0 && error.problems.every(problem => problem !== ''), 'an empty problem');
        shown = error.message;
        for (const problem of error.problems) note(problem.split(/[=:]/, 1).join());
      }
      assert.ok(!shown.includes(secret) || !isFit(variables), `a secret is shown: ${shown}`);
    }
  },
};
