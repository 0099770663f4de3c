// What people test with: the packed module in an empty project (install, type check, start, a mail with a login, the
// wait for it), and the examples of docs/testing.md.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { eventually } from './client.ts';
import { docker, image, openStage, root } from './compose-lib.ts';

const stage = openStage(after);
const own = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
/** npm and what it starts run under Node 24, which testcontainers needs, and find no program of ours. */
const others = (process.env['PATH'] ?? '').split(delimiter).filter(folder => !folder.includes('node_modules'));
const environment: NodeJS.ProcessEnv = { ...process.env, PATH: [dirname(process.execPath), ...others].join(delimiter) };
// Else the tests of an example would report to this run, and say nothing.
delete environment['NODE_TEST_CONTEXT'];

function folderOf(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `slimsmtp-${name}-`));
  stage.own(async () => rmSync(folder, { recursive: true }));
  return folder;
}

async function run(folder: string, command: string, ...words: string[]): Promise<string> {
  const options = { cwd: folder, env: environment, maxBuffer: 2 ** 26 };
  return promisify(execFile)(command, words, options).then(
    ({ stdout }) => stdout,
    (error: Error & { stdout: string; stderr: string }) =>
      assert.fail(`${error.message}\n${error.stdout}${error.stderr}`),
  );
}

/** The version of a package that our own tests have. */
const as = (name: string): string =>
  `${name}@${(JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')) as { version: string }).version}`;

/** Somebody's project with the packed module. */
let project: string;
/** The files of the package. */
let packed: string[];
before(async () => {
  // npm pack replaces package.json for a moment: not in a folder in which other tests run.
  const sources = folderOf('pack');
  for (const name of ['module', 'package.json', 'tsconfig.json', 'LICENSE', 'README.md'])
    cpSync(join(root, name), join(sources, name), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(sources, 'node_modules'));
  const [made] = JSON.parse(await run(sources, 'npm', 'pack', '--json', '--loglevel=error')) as {
    filename: string;
    files: { path: string }[];
  }[];
  assert.ok(made);
  packed = made.files.map(({ path }) => path).toSorted();
  assert.equal(readFileSync(join(sources, 'package.json'), 'utf8'), readFileSync(join(root, 'package.json'), 'utf8'));

  project = folderOf('project');
  writeFileSync(join(project, 'package.json'), '{ "name": "project", "private": true, "type": "module" }\n');
  const further = ['testcontainers', 'nodemailer', 'typescript', '@types/node'].map(as);
  const quietly = ['--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline', '--ignore-scripts'];
  await run(project, 'npm', 'install', ...quietly, join(sources, made.filename), ...further);
});

test('what is packed is the module alone, of our version and without dependencies', () => {
  assert.deepEqual(packed, [
    'LICENSE',
    'README.md',
    'dist/testcontainers.d.ts',
    'dist/testcontainers.js',
    'package.json',
  ]);
  const installed = JSON.parse(readFileSync(join(project, 'node_modules/slimsmtp/package.json'), 'utf8'));
  assert.equal(installed.version, own.version);
  assert.deepEqual([installed.dependencies, installed.scripts], [undefined, undefined]);
});

const program = `
import { SlimSmtpContainer, type Message, type StartedSlimSmtpContainer } from 'slimsmtp/testcontainers';
const container: SlimSmtpContainer = new SlimSmtpContainer('image').withUsers('a:b').withDomains('example.com').withEnvironment({ X: 'y' });
const started: StartedSlimSmtpContainer = await container.start();
const message: Message = await started.waitForMessage({ to: 'a@b.test', subject: 'x', within: '10s' });
const strings: string[] = [message.Text, message.From.Address, started.getSmtpUrl(), started.getSubmissionUrl(), started.getHttpUrl()];
await started.clear();
const count: number = (await started.messages()).length + strings.length;
console.log(count);
// @ts-expect-error: a duration has its unit
await started.waitForMessage({ within: '10' });
`;

test('its types hold in a strict project', async () => {
  writeFileSync(join(project, 'use.ts'), program);
  const strict = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--module',
    'nodenext',
    '--target',
    'es2022',
    '--types',
    'node',
    '--skipLibCheck',
  ];
  await run(project, join(project, 'node_modules/.bin/tsc'), ...strict, 'use.ts');
});

const session = `
import { createTransport } from 'nodemailer';
import { SlimSmtpContainer } from 'slimsmtp/testcontainers';
const server = await new SlimSmtpContainer(process.env.SLIMSMTP_IMAGE).start();
try {
  const tls = { rejectUnauthorized: false };
  const client = createTransport({ url: server.getSubmissionUrl(), requireTLS: true, tls, auth: { user: 'anyone', pass: 'anything' } });
  const after = [];
  for (const subject of ['first', 'second', 'third', 'fourth', 'fifth']) {
    const waiting = server.waitForMessage({ to: 'anton@example.com', subject, within: '20s' });
    await client.sendMail({ from: 'me@example.com', to: 'anton@example.com', subject, text: 'hello' });
    const at = performance.now();
    const { Subject, Username } = await waiting;
    after.push({ Subject, Username, ms: performance.now() - at });
  }
  const count = (await server.messages()).length;
  const late = await server.waitForMessage({ subject: 'none such', within: '500ms' }).catch(error => error.message);
  await server.clear();
  console.log(JSON.stringify({ after, count, late, left: (await server.messages()).length }));
} finally {
  await server.stop();
}
`;

test('a mail with a login over STARTTLS is there within 50 ms of its 250', async () => {
  writeFileSync(join(project, 'session.mjs'), session);
  const {
    after: waits,
    count,
    late,
    left,
  } = JSON.parse(await run(project, 'env', `SLIMSMTP_IMAGE=${image}`, 'node', 'session.mjs'));
  const slowest = waits.map((wait: { ms: number }) => wait.ms).toSorted((a: number, b: number) => a - b);
  assert.ok(slowest[2] < 50, `median of ${JSON.stringify(slowest)} ms`);
  assert.deepEqual([waits[0].Subject, waits[0].Username, waits[4].Subject], ['first', 'anyone', 'fifth']);
  assert.deepEqual([count, left], [5, 0]);
  assert.equal(late, "No message with 'none such' in its subject came within 500ms.");
});

const real = `
import { createTransport } from 'nodemailer';
import { SlimSmtpContainer } from 'slimsmtp/testcontainers';
const server = await new SlimSmtpContainer(process.env.SLIMSMTP_IMAGE).withDomains('example.com').withUsers('anton:secret').start();
try {
  const tls = { rejectUnauthorized: false };
  const mail = { from: 'anton@example.com', to: 'berta@example.com', subject: 'real', text: 'hello' };
  const as = pass => createTransport({ url: server.getSubmissionUrl(), requireTLS: true, tls, auth: { user: 'anton', pass } });
  const { response } = await as('secret').sendMail(mail);
  const wrong = await as('wrong').sendMail(mail).catch(error => error.responseCode);
  const stranger = await createTransport({ url: server.getSmtpUrl(), tls }).sendMail({ ...mail, to: 'x@example.net' }).catch(error => error.responseCode);
  const { output } = await server.exec(['sh', '-c', 'cat /var/mail/default/new/*']);
  let http;
  try { server.getHttpUrl(); } catch (error) { http = error.message; }
  console.log(JSON.stringify({ response, wrong, stranger, kept: output.includes('Subject: real'), http }));
} finally {
  await server.stop();
}
`;

test('with domains it is the server of production: its logins, its refusals, its Maildir', async () => {
  writeFileSync(join(project, 'real.mjs'), real);
  const said = JSON.parse(await run(project, 'env', `SLIMSMTP_IMAGE=${image}`, 'node', 'real.mjs'));
  assert.match(said.response, /^250 /);
  assert.deepEqual([said.wrong, said.stranger, said.kept], [535, 550, true]);
  assert.match(said.http, /^Without capture there is no HTTP server/);
});

test('examples/testing-node passes', async () => {
  cpSync(join(root, 'examples/testing-node/signup.test.mjs'), join(project, 'signup.test.mjs'));
  const said = await run(
    project,
    'env',
    `SLIMSMTP_IMAGE=${image}`,
    'node',
    '--test',
    '--test-reporter=tap',
    'signup.test.mjs',
  );
  assert.match(said, /^# pass 3$/m);
});

test('examples/testing-workflow: its service becomes healthy, and its step, which is examples/testing-python, passes', async () => {
  const workflow = readFileSync(join(root, 'examples/testing-workflow/mail.yaml'), 'utf8');
  const part = (pattern: RegExp): string => pattern.exec(workflow)?.[1] ?? assert.fail(`${pattern}`);
  assert.equal(part(/^ {8}image: (\S+)$/m), 'slimsmtp');
  const settings = part(/^ {8}env: \{ (.*) \}$/m)
    .replaceAll("'", '')
    .split(', ');
  const ports = [...part(/^ {8}ports: \[(.*)\]$/m).matchAll(/'(\d+):(\d+)'/g)].map(([, , inside = '']) => inside);
  const options = part(/^ {8}options: (.*)$/m).split(' ');
  const publish = ports.flatMap(port => ['-p', `127.0.0.1::${port}`]);
  const variables = settings.flatMap(setting => ['-e', setting.replace(': ', '=')]);
  const service = (await docker('run', '--detach', ...options, ...publish, ...variables, image)).trim();
  stage.own(() => docker('rm', '--force', '--volumes', service));
  const isHealthy = async () =>
    (await docker('inspect', '-f', '{{.State.Health.Status}}', service)).trim() === 'healthy';
  await eventually('the service is healthy', isHealthy, 30_000);

  // Other ports than the workflow's: those may be taken here.
  const portOf = async (port: string) => (await docker('port', service, port)).trim().split(':').at(-1) ?? '';
  const [smtp = '', http = ''] = await Promise.all(ports.map(portOf));
  const step = part(/^ {8}env: \{ (SMTP_HOST.*) \}$/m);
  assert.match(step, /SMTP_HOST: 127\.0\.0\.1, SMTP_PORT: '1025', MAIL_API: 'http:\/\/127\.0\.0\.1:8025'/);
  const [command = '', ...words] = part(/^ {6}- run: (.*)$/m).split(' ');
  await run(
    root,
    'env',
    'PYTHONDONTWRITEBYTECODE=1',
    'SMTP_HOST=127.0.0.1',
    `SMTP_PORT=${smtp}`,
    `MAIL_API=http://127.0.0.1:${http}`,
    command,
    ...words,
  );
});
