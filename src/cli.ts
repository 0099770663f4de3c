// The command line: verbs, exit statuses and what people read. `slimsmtp --help` prints the list below.
// Exit statuses: 0, 1 (no), 64 (usage), 69 (server not there), 78 (settings).
import { copyFileSync, existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { SettingsError, type Settings, describeSettings, loadSettings } from './config/settings.ts';
import { readEnvironment } from './config/sources.ts';
import { readGenerated } from './auth/inline.ts';
import { NoServer, ask, askAll } from './control.ts';
import { controlPath, serve, serveForSteward } from './main.ts';
import { formatVerifier, makeVerifier } from './scram.ts';
import { addAccount, listAccounts, readPassword, removeAccount, setPassword } from './steward/account-files.ts';
import { runPam } from './steward/pam.ts';
import { systemClock as clock, systemRandom as random } from './system.ts';

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
  switch (verb) {
    case 'serve':
      return start();
    case 'network':
      if (process.send === undefined) throw new UsageError('network is not for people: use serve');
      return serveForSteward(settings => values.demo && introduce(settings));
    case 'pam':
      if (process.send === undefined) throw new UsageError('pam is not for people: use auth');
      return runPam();
    case 'config':
      return print(describeSettings(environment), rows =>
        rows.map(row => `${row.name}=${row.value}  # ${row.origin}`).join('\n'),
      );
    case 'resolve': {
      const answer = (await ask(controlPath(loadSettings(environment)), verb, one(words))) as Explanation;
      print(answer, ({ steps }) => steps.join('\n'));
      return answer.code === 250 ? 0 : 1;
    }
    case 'health': {
      const answer = (await ask(controlPath(loadSettings(environment)), verb, '')) as Health;
      const isHealthy = answer.listening && answer.writable;
      const word = !isHealthy ? 'unhealthy' : answer.database === 'down' ? 'degraded' : 'healthy';
      print({ health: word, ...answer }, () => `${word}: ${JSON.stringify(answer)}`);
      return isHealthy ? 0 : 1;
    }
    case 'account':
      return account(words);
    case 'password':
      return password(words);
    case 'auth': {
      const name = one(words);
      const argument = JSON.stringify([name, await readPassword(`Password for ${name}: `)]);
      const answer = (await ask(controlPath(loadSettings(environment)), verb, argument)) as {
        ok: boolean;
        source: string;
      };
      print(answer, ({ ok, source }) => `${ok ? 'this login works' : 'this login is refused'} (${source})`);
      return answer.ok ? 0 : 1;
    }
    case 'queue':
      return queue(words);
    default:
      throw new UsageError(`there is no verb ${verb}`);
  }
}

type Explanation = { readonly code: number; readonly steps: readonly string[] };
type Health = { readonly listening: boolean; readonly writable: boolean; readonly database: string };

function readArguments() {
  const options = { help: { type: 'boolean' }, json: { type: 'boolean' }, demo: { type: 'boolean' } } as const;
  const more = { password: { type: 'boolean' }, 'with-home': { type: 'boolean' }, show: { type: 'boolean' } } as const;
  const selector = { domain: { type: 'string' }, sender: { type: 'string' }, all: { type: 'boolean' } } as const;
  try {
    return parseArgs({ options: { ...options, ...more, ...selector }, allowPositionals: true });
  } catch (error) {
    console.error(`slimsmtp: ${error instanceof Error ? error.message : error}`);
    process.exit(64);
  }
}

async function start(): Promise<number> {
  if (values.demo && !existsSync('.env') && existsSync('.env.example')) copyFileSync('.env.example', '.env');
  const settings = loadSettings(environment);
  return serve(settings, environment.variables, () => values.demo && introduce(settings));
}

/** What `npm start` prints once it listens. */
function introduce({ domains, listen, storages, mailRoot }: Settings): void {
  const smtp = listen.find(({ kind }) => kind === 'smtp');
  const address = storages.addresses[0];
  const to = address ? `${address.mailbox.local}@${address.mailbox.domain}` : `anyone@${domains[0]}`;
  const paths = [...storages.addresses, ...storages.domains].map(entry => entry.path);
  const from = '--mail-from me@example.net';
  print(`
SlimSMTP hosts ${domains.join(', ')} and listens on ${listen.map(({ kind, host, port }) => `${kind}://${host ?? ''}:${port}`).join(' ')}
Mail will land in ${[...new Set([...paths, storages.default ?? mailRoot])].map(path => relative('.', path)).join(', ')}
Try:  swaks --to ${to} --server ${smtp?.host ?? '127.0.0.1'}:${smtp?.port}
or:   printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl smtp://${smtp?.host ?? '127.0.0.1'}:${smtp?.port} ${from} --mail-rcpt ${to} -T -
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
      const password = values.password ? await readPassword(`Password for ${one(names)}: `) : undefined;
      return print(
        await addAccount(files, one(names), password),
        made => `made ${made.name}, uid ${made.uid}, home ${made.home}`,
      );
    }
    case 'passwd':
      await setPassword(files, one(names), await readPassword(`Password for ${one(names)}: `));
      return print({ changed: one(names) }, () => `changed the password of ${one(names)}`);
    case 'remove':
      await removeAccount(files, one(names), values['with-home']);
      return print({ removed: one(names) }, () => `removed ${one(names)}`);
    default:
      throw new UsageError('account wants one of list, add, passwd, remove');
  }
}

async function password(words: readonly string[]): Promise<number> {
  if (values.show) {
    const { dataFolder } = loadSettings(environment);
    const found = readGenerated(join(dataFolder, 'state'), one(words));
    if (found === undefined)
      throw new Error(`no password was made for ${one(words)}: @GENERATE makes it when the server starts`);
    return print({ password: found }, () => found);
  }
  const [name] = words;
  const verifier = formatVerifier(await makeVerifier(await readPassword('Password: '), random));
  // In single quotes: in .env a `$` would begin a variable.
  return print({ verifier }, () => (name === undefined ? `'${verifier}'` : `SLIM_USERS='${name}:${verifier}'`));
}

type Waiting = Readonly<{
  id: string;
  from: string;
  ageSeconds: number;
  sizeBytes: number;
  isHeld: boolean;
  recipients: readonly WaitingRecipient[];
}>;
type WaitingRecipient = Readonly<{
  address: string;
  state: string;
  attempts: number;
  nextAttemptAt?: string;
  status?: string;
  text?: string;
}>;

async function queue(words: readonly string[]): Promise<number> {
  const [action = '', id] = words;
  const { domain, sender, all } = values;
  const selector = JSON.stringify({ id, domain, sender });
  const path = controlPath(loadSettings(environment));
  if (['retry', 'hold', 'release', 'remove'].includes(action)) {
    if (!id && !domain && !sender && !all)
      throw new UsageError(`queue ${action} wants an ID, --domain, --sender or --all`);
    const count = (await ask(path, action, selector)) as number;
    print({ messages: count }, () => `${action}: ${count} messages`);
    return count > 0 || all ? 0 : 1;
  }
  if (action !== 'list' && action !== 'show')
    throw new UsageError('queue wants one of list, show, retry, hold, release, remove');
  if (action === 'show') one(words.slice(1));
  let count = 0;
  for await (const item of askAll(path, 'queue', selector)) {
    const entry = item as Waiting;
    if (count === 0 && !values.json) console.log('ID                  AGE      SIZE  SENDER, RECIPIENTS');
    count += 1;
    print(entry, ({ from, ageSeconds, sizeBytes, isHeld, recipients }) =>
      [
        `${entry.id.padEnd(18)} ${`${ageSeconds}s`.padStart(6)} ${String(sizeBytes).padStart(9)}  <${from}>${isHeld ? ' held' : ''}`,
        ...recipients.map(({ address, state, attempts, nextAttemptAt = '', status = '', text = '' }) =>
          action === 'show'
            ? `    ${address}: ${state}, ${attempts} attempts, next ${nextAttemptAt}\n      ${status} ${text}`
            : `    ${address} ${status} ${text}`,
        ),
      ].join('\n'),
    );
  }
  if (count === 0 && !values.json) console.log('nothing waits');
  return action === 'show' && count === 0 ? 1 : 0;
}

function one(words: readonly string[]): string {
  const [word] = words;
  if (word === undefined || words.length > 1) throw new UsageError('exactly one name or address is wanted');
  return word;
}

/** Prints a result for people, or as JSON with --json; the exit status 0. */
function print<T>(result: T, toText: (result: T) => string = String): number {
  console.log(values.json ? JSON.stringify(result) : toText(result));
  return 0;
}

function report(error: unknown): number {
  const lines =
    error instanceof SettingsError ? error.problems : [error instanceof Error ? error.message : String(error)];
  for (const line of lines) console.error(`slimsmtp: ${line}`);
  if (error instanceof UsageError) console.error('slimsmtp --help says more');
  if (error instanceof SettingsError) return 78;
  if (error instanceof NoServer) return 69;
  return error instanceof UsageError ? 64 : 1;
}
