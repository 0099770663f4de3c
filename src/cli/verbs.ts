// The verbs of the command line, and what each of them prints. `slimsmtp --help` prints the list below.
import { join } from 'node:path';
import { readGenerated } from '../auth/inline.ts';
import { type Settings, SettingsError, describeSettings, loadSettings } from '../config/settings.ts';
import type { Environment } from '../config/sources.ts';
import { ask } from '../control/client.ts';
import { judge } from '../control/health.ts';
import { controlPath, serve, serveForSteward } from '../main.ts';
import { formatVerifier, makeVerifier } from '../sasl/scram.ts';
import { runPam } from '../steward/pam.ts';
import { openLog } from '../system/log.ts';
import { version } from '../system/version.ts';
import { systemRandom as random } from '../system/world.ts';
import { account } from './account.ts';
import { introduce, makeDotenv } from './demo.ts';
import { dkim } from './dkim.ts';
import { dns } from './dns.ts';
import { doctor } from './doctor.ts';
import { queue } from './queue.ts';
import { status } from './status.ts';
import { type Flags, UsageError, one, print, readPassword } from './terminal.ts';
import { trace } from './trace.ts';
import { verify } from './verify.ts';

const help = `SlimSMTP: a small SMTP server. Usage: slimsmtp [VERB] [--json] [--help] [--version]

  serve                       run the server (the default)
  config                      print every setting with its value and where it came from
  resolve ADDRESS             explain who would get mail for an address, without sending any
  account list                the Unix accounts kept in SLIM_DATA/accounts (root only, as all of these)
  account add NAME            make one; locked, or with --password read from standard input
  account passwd NAME         set its password, read from standard input
  account remove NAME         remove it; its home stays, unless --with-home
  password [NAME]             make a verifier for SLIM_USERS or the table users, of a password from standard input
  password --show NAME        print the password that @GENERATE has made
  auth NAME                   test a login; its password is read from standard input
  verify FILE --client ADDRESS --from ADDRESS --helo NAME
                              judge a message as if it came from outside: SPF, DKIM, ARC, DMARC, and what follows
  queue list                  the messages that wait; also of --domain DOMAIN or --sender ADDRESS
  queue show ID               one of them, with what became of each recipient
  queue retry|hold|release|remove ID     or --domain DOMAIN, --sender ADDRESS, --all; all but retry without a server too
  trace ID|ADDRESS|MESSAGE-ID  the life of messages: where they came from, what was judged, each attempt; --all, --follow
  status                      what the server does now, and what it has done; live on a terminal
  dns [DOMAIN]                the DNS records that the domain needs, and whether they are there
  doctor                      what is wrong, and the line that mends it; 0 where there is nothing to do
  dkim list [DOMAIN]          the keys that sign outgoing mail, and their states
  dkim rotate DOMAIN          make new ones; they sign once their records are in DNS
  schema                      the statements that make the tables of SLIM_QUEUE=@POSTGRESQL, for a database owner
  health                      0 while the running server listens and can write

Settings are environment variables, SLIM_DOMAINS first of all: see docs/settings.md.`;

/** Carries out a verb, and resolves with its exit status. */
export async function run(words: readonly string[], flags: Flags, environment: Environment): Promise<number> {
  const [verb = 'serve', ...rest] = words;
  if (flags.help) return print(flags, help);
  if (flags.version) return print(flags, version);
  const settings = (): Settings => loadSettings(environment);
  // By these the server starts its own processes.
  if ((verb === 'network' || verb === 'pam') && !process.send) throw new UsageError(`${verb} is not for people`);
  switch (verb) {
    case 'serve':
      if (flags.demo) makeDotenv();
      return start(flags, environment);
    case 'network':
      return serveForSteward(loaded => flags.demo && introduce(loaded));
    case 'pam':
      return runPam();
    case 'config':
      return print(flags, describeSettings(environment), rows =>
        rows.map(({ name, value, origin }) => `${name}=${value}  # ${origin}`).join('\n'),
      );
    case 'resolve':
      return resolve(one(rest), flags, settings());
    case 'health':
      return health(flags, settings());
    case 'account':
      return account(rest, flags, settings());
    case 'password':
      return flags.show ? showPassword(one(rest), flags, settings()) : makePassword(rest[0], flags);
    case 'auth':
      return auth(one(rest), flags, settings());
    case 'verify':
      return verify(one(rest), flags, settings());
    case 'trace':
      return trace(one(rest), flags, settings());
    case 'status':
      return status(flags, settings());
    case 'dns':
      return dns(rest, flags, settings());
    case 'doctor':
      return doctor(flags, settings);
    case 'dkim':
      return dkim(rest, flags, settings());
    case 'schema':
      return print(flags, (await import('../postgres/queue/schema.ts')).schemaScript);
    case 'queue':
      return queue(rest, flags, settings());
    default:
      throw new UsageError(`there is no verb ${verb}`);
  }
}

/** Runs the server. What is wrong with its settings stands in its log, where people look when it does not start. */
async function start(flags: Flags, environment: Environment): Promise<number> {
  try {
    const settings = loadSettings(environment);
    return await serve(settings, environment.variables, () => flags.demo && introduce(settings));
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    const log = await openLog('error', error.logFormat, false);
    for (const problem of error.problems) log.error({}, problem);
    log.flush();
    return 78;
  }
}

async function resolve(address: string, flags: Flags, settings: Settings): Promise<number> {
  const answer = await ask(controlPath(settings), { verb: 'resolve', address });
  return print(flags, answer, ({ steps }) => steps.join('\n'), answer.code === 250);
}

async function health(flags: Flags, settings: Settings): Promise<number> {
  const answer = await ask(controlPath(settings), { verb: 'health' });
  const { health: word, troubles } = judge(answer);
  const toText = (): string => [`${word}: ${JSON.stringify(answer)}`, ...troubles].join('\n');
  return print(flags, { health: word, ...answer }, toText, word !== 'unhealthy');
}

async function auth(name: string, flags: Flags, settings: Settings): Promise<number> {
  const password = await readPassword(`Password for ${name}: `);
  const answer = await ask(controlPath(settings), { verb: 'auth', name, password });
  const toText = ({ ok, source }: typeof answer): string => `this login ${ok ? 'works' : 'is refused'} (${source})`;
  return print(flags, answer, toText, answer.ok);
}

function showPassword(name: string, flags: Flags, settings: Settings): number {
  const password = readGenerated(join(settings.dataFolder, 'state')).get(name);
  if (password === undefined)
    throw new Error(`no password was made for ${name}: @GENERATE makes it when the server starts`);
  return print(flags, { password }, () => password);
}

async function makePassword(name: string | undefined, flags: Flags): Promise<number> {
  const verifier = formatVerifier(await makeVerifier(await readPassword('Password: '), random));
  // In single quotes: in .env a `$` would begin a variable.
  return print(flags, { verifier }, () => (name === undefined ? `'${verifier}'` : `SLIM_USERS='${name}:${verifier}'`));
}
