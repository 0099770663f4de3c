// The command line: verbs, exit statuses and what people read. `slimsmtp --help` prints the list below.
// Exit statuses: 0, 1 (no), 64 (usage), 69 (server not there), 78 (settings).
import { copyFileSync, existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { SettingsError, type Settings, describeSettings, loadSettings } from './config/settings.ts';
import { readEnvironment } from './config/sources.ts';
import { readGenerated } from './auth/inline.ts';
import { readPassword } from './cli/terminal.ts';
import { NoServer, ask, askAll } from './control/control.ts';
import { controlPath, serve, serveForSteward } from './main.ts';
import { formatVerifier, makeVerifier } from './sasl/scram.ts';
import { addAccount, listAccounts, removeAccount, setPassword } from './steward/account-files.ts';
import { runPam } from './steward/pam.ts';
import { systemClock as clock, systemRandom as random } from './system/world.ts';

const help = `SlimSMTP: a small SMTP server. Usage: slimsmtp [VERB] [--json] [--help]

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
  queue list                  the messages that wait; also of --domain DOMAIN or --sender ADDRESS
  queue show ID               one of them, with what became of each recipient
  queue retry|hold|release|remove ID     or --domain DOMAIN, --sender ADDRESS, --all
  health                      0 while the running server listens and can write

Settings are environment variables, SLIM_DOMAINS first of all: see README.md.`;

/** A wrong call: the text says how it should be. */
class UsageError extends Error {}

const { values, positionals } = readArguments();
// In the image (one bundled file) only the environment counts.
const environment = readEnvironment({ withDotenv: import.meta.filename.endsWith('.ts') });
const askServer = (verb: string, argument: string): Promise<unknown> =>
  ask(controlPath(loadSettings(environment)), verb, argument);
const passwordOf = (names: readonly string[]): Promise<string> => readPassword(`Password for ${one(names)}: `);

try {
  process.exitCode = await run();
} catch (error) {
  process.exitCode = report(error);
}
// The network process has timers and an open channel: its end is this line.
process.exit();

async function run(): Promise<number> {
  const [verb = 'serve', ...words] = positionals;
  if (values.help) return print(help);
  if (['network', 'pam'].includes(verb) && !process.send) throw new UsageError(`${verb} is not for people`);
  switch (verb) {
    case 'serve': {
      if (values.demo && !existsSync('.env') && existsSync('.env.example')) copyFileSync('.env.example', '.env');
      const settings = loadSettings(environment);
      return serve(settings, environment.variables, () => values.demo && introduce(settings));
    }
    case 'network':
      return serveForSteward(settings => values.demo && introduce(settings));
    case 'pam':
      return runPam();
    case 'config':
      return print(describeSettings(environment), rows =>
        rows.map(({ name, value, origin }) => `${name}=${value}  # ${origin}`).join('\n'),
      );
    case 'resolve': {
      const answer = (await askServer(verb, one(words))) as { code: number; steps: readonly string[] };
      return print(answer, ({ steps }) => steps.join('\n'), answer.code === 250);
    }
    case 'health': {
      const answer = (await askServer(verb, '')) as Record<string, unknown>;
      const isHealthy = answer['listening'] === true && answer['writable'] === true;
      const word = !isHealthy ? 'unhealthy' : answer['database'] === 'down' ? 'degraded' : 'healthy';
      return print({ health: word, ...answer }, () => `${word}: ${JSON.stringify(answer)}`, isHealthy);
    }
    case 'account':
      return account(words);
    case 'password':
      return makePassword(words);
    case 'auth': {
      const login = JSON.stringify([one(words), await passwordOf(words)]);
      const answer = (await askServer(verb, login)) as { ok: boolean; source: string };
      const toText = ({ ok, source }: typeof answer) => `this login ${ok ? 'works' : 'is refused'} (${source})`;
      return print(answer, toText, answer.ok);
    }
    case 'queue':
      return queue(words);
    default:
      throw new UsageError(`there is no verb ${verb}`);
  }
}

function readArguments() {
  const [flag, text] = [{ type: 'boolean' }, { type: 'string' }] as const;
  const flags = { help: flag, json: flag, demo: flag, password: flag, 'with-home': flag, show: flag, all: flag };
  try {
    return parseArgs({ options: { ...flags, domain: text, sender: text }, allowPositionals: true });
  } catch (error) {
    process.exit(report(new UsageError((error as Error).message)));
  }
}

/** What `npm start` prints once it listens. */
function introduce({ domains, listen, storages, mailRoot }: Settings): void {
  const { host = '127.0.0.1', port } = listen.find(({ kind }) => kind === 'smtp') ?? {};
  const { mailbox } = storages.addresses[0] ?? {};
  const to = mailbox ? `${mailbox.local}@${mailbox.domain}` : `anyone@${domains[0]}`;
  const paths = [...storages.addresses, ...storages.domains].map(({ path }) => path);
  const places = [...new Set([...paths, storages.default ?? mailRoot])].map(path => relative('.', path));
  const sockets = listen.map(socket => `${socket.kind}://${socket.host ?? ''}:${socket.port}`);
  const options = `--mail-from me@example.net --mail-rcpt ${to} -T -`;
  print(`
SlimSMTP hosts ${domains.join(', ')} and listens on ${sockets.join(' ')}
Mail will land in ${places.join(', ')}
Try:  swaks --to ${to} --server ${host}:${port}
or:   printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl smtp://${host}:${port} ${options}
`);
}

async function account(words: readonly string[]): Promise<number> {
  const settings = loadSettings(environment);
  const files = { folder: join(settings.dataFolder, 'accounts'), homes: '/home', clock, random };
  const [action = '', ...names] = words;
  if (process.getuid?.() !== 0) throw new UsageError('accounts are kept by root: run this as root');
  switch (action) {
    case 'list':
      return print(listAccounts(files), list =>
        list.map(({ name, uid, home, locked }) => `${name}\t${uid}\t${home}${locked ? '\tlocked' : ''}`).join('\n'),
      );
    case 'add': {
      const made = await addAccount(files, one(names), values.password ? await passwordOf(names) : undefined);
      return print(made, ({ name, uid, home }) => `made ${name}, uid ${uid}, home ${home}`);
    }
    case 'passwd':
      await setPassword(files, one(names), await passwordOf(names));
      return print({ changed: one(names) }, ({ changed }) => `changed the password of ${changed}`);
    case 'remove':
      await removeAccount(files, one(names), values['with-home']);
      return print({ removed: one(names) }, ({ removed }) => `removed ${removed}`);
    default:
      throw new UsageError('account wants one of list, add, passwd, remove');
  }
}

async function makePassword(words: readonly string[]): Promise<number> {
  const [name] = words;
  if (values.show) {
    const found = readGenerated(join(loadSettings(environment).dataFolder, 'state'), one(words));
    if (found === undefined)
      throw new Error(`no password was made for ${name}: @GENERATE makes it when the server starts`);
    return print({ password: found }, () => found);
  }
  const verifier = formatVerifier(await makeVerifier(await readPassword('Password: '), random));
  // In single quotes: in .env a `$` would begin a variable.
  return print({ verifier }, () => (name === undefined ? `'${verifier}'` : `SLIM_USERS='${name}:${verifier}'`));
}

/** As DiskQueue lists it. */
type Waiting = Readonly<Record<'id' | 'from', string> & Record<'ageSeconds' | 'sizeBytes', number>> & {
  readonly isHeld: boolean;
  readonly recipients: readonly Readonly<Record<string, string | number>>[];
};

async function queue(words: readonly string[]): Promise<number> {
  const [action = '', id] = words;
  const { domain, sender, all } = values;
  const selector = { id, domain, sender };
  if (['retry', 'hold', 'release', 'remove'].includes(action)) {
    if (!id && !domain && !sender && !all)
      throw new UsageError(`queue ${action} wants an ID, --domain, --sender or --all`);
    const count = (await askServer('act', JSON.stringify([action, selector]))) as number;
    return print({ messages: count }, () => `${action}: ${count} messages`, count > 0 || all === true);
  }
  if (action !== 'list' && action !== 'show')
    throw new UsageError('queue wants one of list, show, retry, hold, release, remove');
  if (action === 'show') one(words.slice(1));
  let count = 0;
  for await (const item of askAll(controlPath(loadSettings(environment)), 'queue', JSON.stringify(selector))) {
    if (count === 0 && !values.json) console.log('ID                  AGE      SIZE  SENDER, RECIPIENTS');
    count += 1;
    print(item as Waiting, entry => {
      const age = `${entry.ageSeconds}s`.padStart(6);
      const size = String(entry.sizeBytes).padStart(9);
      const first = `${entry.id.padEnd(18)} ${age} ${size}  <${entry.from}>${entry.isHeld ? ' held' : ''}`;
      const rest = entry.recipients.map(({ address, state, attempts, nextAttemptAt = '', status = '', text = '' }) =>
        action === 'show'
          ? `    ${address}: ${state}, ${attempts} attempts, next ${nextAttemptAt}\n      ${status} ${text}`
          : `    ${address} ${status} ${text}`,
      );
      return [first, ...rest].join('\n');
    });
  }
  if (count === 0 && !values.json) console.log('nothing waits');
  return action === 'show' && count === 0 ? 1 : 0;
}

function one(words: readonly string[]): string {
  const [word] = words;
  if (word === undefined || words.length > 1) throw new UsageError('exactly one name or address is wanted');
  return word;
}

/** Prints a result for people, or as JSON with --json; the exit status. */
function print<T>(result: T, toText: (result: T) => string = String, isYes = true): number {
  console.log(values.json ? JSON.stringify(result) : toText(result));
  return isYes ? 0 : 1;
}

function report(error: unknown): number {
  // Of the settings a line each problem.
  for (const line of (error as Error).message.split('\n')) console.error(`slimsmtp: ${line}`);
  if (error instanceof UsageError) console.error('slimsmtp --help says more');
  if (error instanceof SettingsError) return 78;
  if (error instanceof NoServer) return 69;
  return error instanceof UsageError ? 64 : 1;
}
