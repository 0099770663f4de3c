// The compose profile `spam`: what the real Rspamd says of mail from outside becomes what docs/spam.md promises, and
// nothing is lost, nor anybody else delayed, while it is paused or ended.
import assert from 'node:assert/strict';
import { appendFileSync, copyFileSync, writeFileSync } from 'node:fs';
import { before, after, test } from 'node:test';
import { deliver, eventually } from './client.ts';
import type { Figures } from '../../src/mail/figures.ts';
import { type Compose, docker, openStage } from './compose-lib.ts';
import { letter, login, marker, transact } from './peer-lib.ts';

const stage = openStage(after);
/** Rspamd takes these lines for what they say: the public one for `reject`, its two sisters for less. */
const gtube = (first: string): string =>
  `${first}JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n`;
const [reject, addHeader, rewriteSubject] = ['X', 'Y', 'Z'].map(gtube);

let compose: Compose;
let [smtp, submissions, rspamd, server] = [0, 0, '', ''];
/** Subjects of all that got 250, and where it must be. */
const taken = new Map<string, string>();
const [inbox, junk] = ['/var/mail/default/new', '/var/mail/default/.Junk/new'];

before(async () => {
  compose = stage.project({ '.env': 'COMPOSE_PROFILES=spam\nSLIM_RSPAMD=http://rspamd:11333\nSLIM_VERIFY=off\n' });
  const settings = `${compose.folder}/docker/rspamd/local.d`;
  // Compiling its expressions is twenty seconds of a busy machine.
  appendFileSync(`${settings}/options.inc`, 'gtube_patterns = "all";\ndisable_hyperscan = true;\n');
  writeFileSync(`${settings}/later.map`, 'later\n');
  const rule = `type = "header"; header = "X-Later"; map = "/etc/rspamd/local.d/later.map"; action = "soft reject";`;
  writeFileSync(`${settings}/multimap.conf`, `LATER { ${rule} }\n`);
  // Here is no Internet to ask: without this line Rspamd would wait for seconds with each message.
  copyFileSync(`${compose.folder}/docker/unbound/unbound.conf`, `${compose.folder}/unbound.conf`);
  const answers = ['example.net. A 192.0.2.1', 'example.net. MX 10 example.net.'];
  const data = answers.map(record => `  local-data: "${record}"\n`).join('');
  appendFileSync(`${compose.folder}/unbound.conf`, `server:\n  local-zone: "." static\n${data}`);
  const override = { services: { unbound: { volumes: ['./unbound.conf:/etc/unbound/unbound.conf:ro'] } } };
  writeFileSync(`${compose.folder}/compose.override.yaml`, JSON.stringify(override));
  await compose('up', '--detach', '--build', '--wait').catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await compose('logs')}`);
  });
  const port = async (inside: string): Promise<number> =>
    Number((await compose('port', 'slimsmtp', inside)).trim().split(':').at(-1));
  [smtp, submissions] = [await port('25'), await port('465')];
  rspamd = (await compose('ps', '-q', 'rspamd')).trim();
  server = (await compose('ps', '-q', 'slimsmtp')).trim();
});

/** Sends a message from outside; the reply, and how long it took. */
async function send(body: string, header = '', place = inbox): Promise<{ reply: string; ms: number; subject: string }> {
  const subject = marker();
  const startedAt = performance.now();
  const today = letter(subject, body, 'sender@example.net').replace(/^Date: .*/, `Date: ${new Date().toUTCString()}`);
  const text = `To: <default@example.com>\r\n${header}${today}`;
  const reply = await deliver(smtp, ['default@example.com'], text);
  if (reply.startsWith('250')) taken.set(subject, place);
  return { reply, ms: performance.now() - startedAt, subject };
}
const inside = (script: string, ...parameters: string[]): Promise<string> =>
  docker('exec', server, 'sh', '-c', script, 'sh', ...parameters);
/** The copy of the message with that subject. */
const copyOf = (subject: string, place: string): Promise<string> => inside('cat $(grep -lr "$1" "$2")', subject, place);
const log = async (): Promise<Record<string, unknown>[]> =>
  (await docker('logs', server))
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line));
const unjudged = async (): Promise<number> =>
  (await log()).filter(({ msg }) => msg === 'Rspamd has not judged a message: it goes on').length;

test('ordinary mail is delivered as it came, and Rspamd knew its envelope', async () => {
  const { reply, subject } = await send('hello\r\n');
  assert.match(reply, /^250 2\.0\.0 Delivered/);
  const copy = await copyOf(subject, inbox);
  assert.doesNotMatch(copy, /^X-Spam/m);
  assert.match(copy, /\n\nhello\n$/);
  const told = (await compose('logs', 'rspamd'))
    .split('\n')
    .find(line => line.includes('rcpts: <default@example.com>'));
  assert.match(told ?? '', /from: <sender@example\.net>.*\(no action\)/);
});

test('what Rspamd says decides: 550, 451, or .Junk with a line and the subject that it had', async () => {
  const refused = await send(reject ?? '');
  assert.match(refused.reply, /^550 5\.7\.1 /);
  const isTold = async (): Promise<boolean> =>
    (await log()).some(({ why }) => String(why).startsWith('Rspamd says reject ('));
  await eventually('the log tells the reason', isTold, 5000);
  assert.match((await send('hello\r\n', 'X-Later: later\r\n')).reply, /^451 4\.7\.1 /);
  for (const body of [addHeader, rewriteSubject]) {
    const { reply, subject } = await send(body ?? '', '', junk);
    assert.match(reply, /^250 /);
    const copy = await copyOf(subject, junk);
    assert.match(copy, /^X-Spam: Yes$/m);
    assert.match(copy, new RegExp(`^Subject: ${subject}$`, 'm'));
  }
});

/** A login's mail, which Rspamd is not asked about; how long it took. */
async function submit(): Promise<number> {
  const password = (await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'password', '--show', 'anton')).trim();
  const client = await login(submissions, { password });
  const subject = marker();
  const startedAt = performance.now();
  assert.match(await transact(client, ['default@example.com'], letter(subject, reject)), /^250 /);
  taken.set(subject, inbox);
  client.socket.destroy();
  return performance.now() - startedAt;
}

/** The engine cannot always freeze a container that is busy just then. */
const pause = (): Promise<boolean> =>
  docker('pause', rspamd).then(
    () => true,
    () => false,
  );

test('paused: mail from outside is delivered ten seconds later, a login waits for nothing', async t => {
  assert.ok((await submit()) < 1000);
  const early = Promise.all(Array.from({ length: 10 }, () => send('early\r\n')));
  await eventually('Rspamd is paused', pause, 10_000);
  // What Rspamd has just then may be judged or not; it must arrive.
  const late = Array.from({ length: 10 }, () => send(reject ?? ''));
  const ms = await submit();
  assert.ok(ms < 1000, `a login waited for ${ms} ms`);
  for (const { reply } of await early) assert.match(reply, /^250 /);
  for (const { reply, ms: took } of await Promise.all(late)) {
    assert.match(reply, /^250 /);
    assert.ok(took > 9000 && took < 14_000, `${took} ms`);
    t.diagnostic(`${took.toFixed()} ms`);
  }
  const lines = await unjudged();
  assert.ok(lines === 1 || lines === 2, `told ${lines} times for at least ten messages`);
  const figures = JSON.parse(await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'status', '--json')) as Figures;
  const samples = figures.metrics.find(({ name }) => name === 'slimsmtp_verdicts_total')?.samples ?? [];
  const counted = samples.find(({ labels }) => labels['check'] === 'rspamd' && labels['result'] === 'unjudged');
  assert.ok((counted?.value ?? 0) >= 10, JSON.stringify(samples));
  await docker('unpause', rspamd);
  await eventually('it judges again', async () => (await send(reject ?? '')).reply.startsWith('550'), 15_000);
});

test('ended while it has messages, and stopped: they are delivered at once', async () => {
  await eventually('Rspamd is paused', pause, 10_000);
  // It may answer some of them in its last moment.
  const inFlight = Array.from({ length: 10 }, () => send('in flight\r\n'));
  await eventually('they are with Rspamd', async () => (await connections()) >= 10, 5000);
  await docker('kill', rspamd);
  for (const { reply, ms } of await Promise.all(inFlight)) {
    assert.match(reply, /^250 /);
    assert.ok(ms < 8000, `${ms} ms`);
  }
  const { reply, ms } = await send(reject ?? '');
  assert.match(reply, /^250 /);
  assert.ok(ms < 3000, `${ms} ms`);
  await docker('start', rspamd);
  await eventually('it judges again', async () => (await send(reject ?? '')).reply.startsWith('550'), 20_000);
});

/** The server's connections to port 11333. */
const connections = async (): Promise<number> =>
  (await inside('cat /proc/net/tcp')).split('\n').filter(line => /^ *\d+: \S+ \w+:2C45 01 /.test(line)).length;

test('all that got 250 is there, once, and nothing else', async () => {
  assert.ok(taken.size > 30);
  const found = (await inside('grep -rh "^Subject: " "$1" "$2" | sort', inbox, junk)).trim().split('\n');
  assert.deepEqual(found, [...taken.keys()].map(subject => `Subject: ${subject}`).toSorted());
  for (const place of [inbox, junk]) {
    const here = (await inside('grep -rh "^Subject: " "$1"', place)).trim().split('\n').length;
    assert.equal(here, [...taken.values()].filter(wanted => wanted === place).length, place);
  }
});
