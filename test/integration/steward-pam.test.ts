// The PAM child, forked for real. Where nothing is installed it must say so; a script that plays a PAM which answers,
// hangs and crashes stands in for the rest. Real accounts log in in test/integration.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test, type TestContext } from 'node:test';
import { openPam } from '../../src/steward/pam.ts';
import { cleanEnvironment } from '../../src/steward/steward.ts';

const folder = mkdtempSync(join(tmpdir(), 'slim-pam-'));
after(() => rmSync(folder, { recursive: true }));
const script = join(folder, 'pam.mjs');
writeFileSync(
  script,
  `process.on('disconnect', () => process.exit());
   process.on('message', ({ id, name, password }) => {
     if (name === 'crash') process.exit(3);
     if (name === 'hang') return;
     if (name === 'odd') return process.send({ id, error: 'PAM: System error' });
     if (name === 'environment') return process.send({ id, error: JSON.stringify([process.argv.slice(2), process.env, process.pid]) });
     process.send({ id, isRight: password === 'right' });
   });`,
);

type Pam = ReturnType<typeof openPam>;

function open(t: TestContext, argv: readonly [string, ...string[]] = [script, 'network', '--demo']): Pam {
  const pam = openPam(argv, { PATH: '/bin' });
  t.after(() => pam.close());
  return pam;
}

/** Its arguments, its environment and its process id. */
async function look(pam: Pam): Promise<[string[], NodeJS.ProcessEnv, number]> {
  const seen = await pam.authenticate('environment', '').catch((reason: Error) => reason.message);
  return JSON.parse(String(seen)) as [string[], NodeJS.ProcessEnv, number];
}

describe('the PAM child', { concurrency: true }, () => {
  const shared = openPam([script, 'network', '--demo'], { PATH: '/bin' });
  after(() => shared.close());

  test('says what to do where the service file is missing', async t => {
    const process = new URL('steward.process.ts', import.meta.url).pathname;
    const pam = openPam([process, 'network'], cleanEnvironment({ PATH: '/bin' }));
    t.after(() => pam.close());
    await assert.rejects(
      pam.authenticate('anton', 'x'),
      /\/nonexistent\/slimsmtp is missing: copy docker\/pam.conf there/,
    );
  });

  test('answers yes and no, many at once, each to its own question', async () => {
    const words = Array.from({ length: 60 }, (_, index) => (index % 3 ? 'right' : 'wrong'));
    const answers = await Promise.all(words.map(word => shared.authenticate('anton', word)));
    assert.deepEqual(
      answers,
      words.map(word => word === 'right'),
    );
  });

  test('is no answer when PAM has a trouble of its own', async () => {
    await assert.rejects(shared.authenticate('odd', 'right'), /System error/);
  });

  test('has a verb and a thread pool of its own, and none of our environment', async () => {
    const [argv, { UV_THREADPOOL_SIZE, LC_ALL, PATH, HOME }] = await look(shared);
    assert.deepEqual(argv, ['pam', '--demo']);
    assert.deepEqual([UV_THREADPOOL_SIZE, LC_ALL, PATH, HOME], ['16', 'C', '/bin', undefined]);
  });

  test('that dies takes only the questions of that moment with it', async t => {
    const pam = open(t);
    const [crash, other] = await Promise.allSettled([pam.authenticate('crash', 'x'), pam.authenticate('hang', 'x')]);
    assert.equal(crash.status, 'rejected');
    assert.equal(other.status, 'rejected');
    assert.equal(await pam.authenticate('anton', 'right'), true);
  });

  test('that cannot be started is no answer either', async t => {
    await assert.rejects(open(t, [join(folder, 'missing.mjs'), 'network']).authenticate('anton', 'right'), /has ended/);
  });

  test('has at most two hundred questions waiting', async t => {
    const pam = open(t);
    const waiting = Array.from({ length: 200 }, () => pam.authenticate('hang', 'x').catch(() => 'ended'));
    await assert.rejects(pam.authenticate('anton', 'right'), /too many/);
    pam.close();
    assert.deepEqual(new Set(await Promise.all(waiting)), new Set(['ended']));
  });
});

// Not beside the others: it holds the timers of the whole process.
test('a PAM child that hangs is given up after forty-five seconds and replaced; a slow question alone is not its end', async t => {
  const pam = open(t);
  const [, , pid] = await look(pam);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const slow = pam.authenticate('hang', 'x');
  assert.equal(await pam.authenticate('anton', 'right'), true);
  t.mock.timers.tick(45_000);
  await assert.rejects(slow, /did not answer in time/);
  assert.equal((await look(pam))[2], pid);
  const lost = pam.authenticate('hang', 'x');
  const others = pam.authenticate('anton', 'wrong');
  assert.equal(await others, false);
  const hung = pam.authenticate('hang', 'x');
  t.mock.timers.tick(45_000);
  await assert.rejects(lost, /did not answer in time|has ended/);
  await assert.rejects(hung, /did not answer in time|has ended/);
  assert.notEqual((await look(pam))[2], pid);
});
