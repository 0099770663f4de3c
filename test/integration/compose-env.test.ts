// What stands in .env: Compose and we read the same out of it; a misspelt setting is an error; a database and a
// password file of one's own take the place of the demo's; and the demo has exactly two services.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { parseDotenv } from '../../src/config/dotenv.ts';
import { deliver, eventually } from './client.ts';
import { type Compose, openStage, root } from './compose-lib.ts';

const stage = openStage(after);

/** The environment that Compose gives to a container whose env_file has this content. */
async function asComposeReads(compose: Compose, content: string): Promise<Record<string, string>> {
  writeFileSync(join(compose.folder, 'asked.env'), content);
  const file = { services: { a: { image: 'x', env_file: ['asked.env'] } } };
  writeFileSync(join(compose.folder, 'asked.json'), JSON.stringify(file));
  const json = await compose('-f', 'asked.json', 'config', '--format', 'json');
  const { environment = {} } = JSON.parse(json).services.a as { environment?: Record<string, string> };
  return environment;
}

/** Pieces of lines, put together at random: the same each time. */
function randomLines(count: number): string {
  const pieces = [
    'a',
    ' ',
    '#',
    ' #',
    '\t',
    '"',
    "'",
    '\\',
    '\\n',
    '\\"',
    "\\'",
    '\\\\',
    '=',
    ':',
    ';',
    '\\0101',
    'ä',
    '5',
  ];
  let seed = 1;
  const next = (limit: number): number => (seed = (seed * 48_271) % 2_147_483_647) % limit;
  const value = (): string => Array.from({ length: next(8) }, () => pieces[next(pieces.length)]).join('');
  const lines = Array.from({ length: count }, (_, at) => {
    const text = value();
    const form = next(3);
    // A quote that is never closed would swallow the rest of the file: each quoted value gets its end.
    if (form === 0) return `V${at}="${text.replaceAll(/(?<!\\)(\\\\)*"/g, '$1')}x"`;
    if (form === 1) return `V${at}='${text.replaceAll(/(?<!\\)(\\\\)*'/g, '$1')}x'`;
    return `V${at}=x${text}`;
  });
  return `${lines.join('\n')}\n`;
}

describe('.env', () => {
  it('means the same to us as to Compose', async () => {
    const compose = stage.project();
    const content = [
      'A=pa#ss',
      'B="a\\"b"',
      'C= # all of it',
      'D=x # comment',
      "E='a\\'b'",
      "F='a\\nb'",
      'G="a\\nb\\tc\\\\d\\0101\\q\\09"',
      'H: yaml',
      'export I=1',
      '  J  =  two words  ',
      'K="x" # comment',
      'L=a\\nb',
      'M="two\nlines"',
      'N=',
      'O=""',
      'P=a"b"c',
      'Q=a\t# tab',
      'R=a=b:c',
      'S="x"T=y',
      'U.v-[1]=x',
      'W=crlf\r',
      '# a comment',
      'X=a#b # c # d',
    ].join('\n');
    assert.deepEqual({ ...parseDotenv(content).values }, await asComposeReads(compose, content));
    const random = randomLines(400);
    assert.deepEqual({ ...parseDotenv(random).values }, await asComposeReads(compose, random));
    const example = readFileSync(join(root, '.env.example'), 'utf8');
    assert.deepEqual({ ...parseDotenv(example).values }, await asComposeReads(compose, example));
    assert.deepEqual(parseDotenv(example).interpolated, []);
    for (const wrong of ['A="x\n', "A='x\n", 'A B=c\n', 'A!=c\n']) {
      assert.throws(() => parseDotenv(wrong), wrong);
      await assert.rejects(asComposeReads(compose, wrong), wrong);
    }
  });

  it('tells of each $ that Compose replaces, and of no other', async () => {
    const compose = stage.project();
    const lines = [
      'A=$x',
      'B=a$$b',
      'C="${z}"',
      "D='$x'",
      'E="\\$x"',
      'F=5$',
      'G=$5',
      'H=\\$x',
      'I="$(x)"',
      'J="\\\\$x"',
    ];
    const read = await asComposeReads(compose, lines.join('\n'));
    const { values, interpolated } = parseDotenv(lines.join('\n'));
    // `config` writes each $ twice.
    const changed = Object.entries(read).filter(([name, value]) => value.replaceAll('$$', '$') !== values[name]);
    assert.deepEqual(
      interpolated,
      changed.map(([name]) => name),
    );
  });
});

describe('the compose file', () => {
  it('has exactly two services, and runs the demo without any .env', async () => {
    const compose = stage.project();
    assert.deepEqual((await compose('config', '--services')).trim().split('\n').toSorted(), ['postgres', 'slimsmtp']);
    const withDns = (await compose('--profile', 'dns', 'config', '--services')).trim().split('\n');
    assert.deepEqual(withDns.toSorted(), ['postgres', 'slimsmtp', 'unbound']);
    const ports = JSON.parse(await compose('config', '--format', 'json')).services.slimsmtp.ports as {
      target: number;
    }[];
    assert.deepEqual(
      ports.map(({ target }) => target),
      [25, 587, 465],
    );
  });

  it('hands the whole .env to the server: a misspelt setting ends it with 78, and is named', async () => {
    const compose = stage.project({ '.env': 'SLIM_TRUSTED_NETWORK=10.0.0.0/8\n' });
    const running = compose('run', '--rm', '--build', '--no-deps', 'slimsmtp');
    await assert.rejects(running, (error: { code?: number; stdout?: string; stderr?: string }) => {
      assert.equal(error.code, 78, error.stderr);
      const said = `${error.stdout}${error.stderr}`;
      assert.match(said, /SLIM_TRUSTED_NETWORK is not a setting; the nearest is SLIM_TRUSTED_NETWORKS/);
      return true;
    });
  });

  it('lets a database and a password file of your own take the place of the demo’s; what belongs to the container stays', async () => {
    const dotenv = `${readFileSync(join(root, '.env.example'), 'utf8')}
SLIM_STORAGES='anton@example.com=/var/mail/anton'
DATABASE_URL='postgres://me:pa%23ss@db.example/mail'
SLIM_USERS=
SLIM_USERS_FILE=/etc/hostname-of-nothing
POSTGRES_PASSWORD=it's
`;
    const compose = stage.project({ '.env': dotenv });
    const config = ['run', '--rm', '--build', '--no-deps', 'slimsmtp', 'config', '--json'] as const;
    await assert.rejects(compose(...config), /SLIM_USERS_FILE=.* cannot be read/);
    const override = { services: { slimsmtp: { environment: { SLIM_USERS_FILE: '/etc/debian_version' } } } };
    writeFileSync(join(compose.folder, 'compose.override.yaml'), JSON.stringify(override));
    // A file that can be read, and that is no list of logins: it is the one that counts.
    await assert.rejects(compose(...config), /SLIM_USERS="\*\*\*": wanted is/);
    writeFileSync(join(compose.folder, 'compose.override.yaml'), '{}');
    writeFileSync(join(compose.folder, '.env'), dotenv.replace('SLIM_USERS_FILE=/etc/hostname-of-nothing\n', ''));
    const rows = JSON.parse(/^\[.*$/m.exec(await compose(...config))?.[0] ?? '') as {
      name: string;
      value: string;
      origin: string;
    }[];
    const row = (name: string) => rows.find(each => each.name === name);
    assert.equal(row('DATABASE_URL')?.value, 'postgres://me:***@db.example/mail');
    assert.deepEqual([row('PGHOST')?.value, row('PGUSER')?.value], ['', '']);
    assert.equal(row('SLIM_LISTEN')?.value, 'smtp://:25,submission://:587,submissions://:465');
    assert.equal(row('SLIM_DATA')?.value, '/var/lib/slimsmtp');
    assert.equal(row('SLIM_STORAGES')?.value, 'anton@example.com=/var/mail/anton');
    assert.equal(row('SLIM_USERS')?.origin, 'DEFAULT_SLIM_USERS');
  });

  it('uses POSTGRES_PASSWORD of .env for both services; a trusted network that holds the gateway is told', async () => {
    const networks = 'SLIM_TRUSTED_NETWORKS=10.0.0.0/8 172.16.0.0/12 192.168.0.0/16\n';
    const compose = await stage.compose({
      '.env': `POSTGRES_PASSWORD="it's #1"\nSLIM_DOMAINS=example.com\n${networks}`,
    });
    const port = Number((await compose('port', 'slimsmtp', '25')).trim().split(':').at(-1));
    const arrives = async (): Promise<boolean> =>
      (await deliver(port, ['twitter@example.com'], 'Subject: own\r\n\r\n')).startsWith('250');
    await eventually('delivered', arrives, 10_000);
    const health = await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'health');
    assert.match(health, /^healthy: .*"database":"up"/);
    const log = await compose('logs', '--no-log-prefix', 'slimsmtp');
    assert.match(
      log,
      /"level":"warn",.*"addresses":\["\S+"\],"msg":"SLIM_TRUSTED_NETWORKS has no effect for these addresses/,
    );
    assert.doesNotMatch(log, /is the volume mounted/, 'it has just made the folders of the demo');
    // Without the server, as its user: the server has its folders as before.
    await compose('stop', 'slimsmtp');
    const words = ['run', '--rm', '--no-deps', '--no-TTY', 'slimsmtp', 'queue', 'hold', '--all'];
    assert.match(await compose(...words), /^hold: 0 messages$/m);
    await compose('up', '--detach', '--wait', '--no-recreate');
  });
});
