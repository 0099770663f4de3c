// The test stages: `node test/run.mjs check|unit|integration|torture …`, in the order given, each with its own set-up;
// `npm test` is all of them.
// Promises: a fresh clone needs nothing but Node and npm (and, for the integration stage, a container engine or root on
// Debian); the first stage that fails ends the run with its status; nothing is skipped silently; tests run under the
// flags of the image. Never: leaves the choice of files to the test runner, which passes where it finds none.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensure } from '../.node24/ensure.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const node = ensure('test');
const environment = {
  ...process.env,
  PATH: join(root, 'node_modules', '.bin') + delimiter + process.env.PATH,
  UV_THREADPOOL_SIZE: '16',
  // Every file is a process, and each would strip the types of all that it imports anew.
  NODE_COMPILE_CACHE: join(root, 'node_modules', '.cache', 'compiled'),
  // Docker's own default since Engine 23; compose and tests then share one build cache.
  DOCKER_BUILDKIT: '1',
};

/** Of the torture, a part that takes minutes: these look at TORTURE, and take a sample without it. */
const sampled = ['crash', 'crash-trust', 'power', 'replicas', 'security-docs'].map(name => `torture/${name}.test.ts`);
const withContainers = '--import=./test/setup/no-grpc.mjs';

const stages = {
  check() {
    run('tsc', ['-p', '.']);
    run('tsc', ['-p', 'src/web/page']);
    run('oxlint', ['--deny-warnings', '.']);
    run('oxfmt', ['--check', '.']);
  },
  unit() {
    tests(['unit'], { atOnce: 4, eachMs: 60_000, allMs: 600_000 });
  },
  integration() {
    prepareContainers();
    tests(['integration', 'fuzz', ...sampled], { atOnce: 2, eachMs: 300_000, allMs: 2_400_000 }, withContainers);
  },
  /** All of it, for hours. */
  torture() {
    environment.TORTURE = 'all';
    environment.FUZZ_SECONDS ??= '3600';
    prepareContainers();
    const hour = 3_600_000;
    tests(['torture', 'fuzz'], { atOnce: 1, eachMs: 8 * hour, allMs: 24 * hour }, withContainers);
    run(node, ['test/torture/soak.ts'], 2 * hour);
  },
};

/** The engine, our image, that of the peers. */
function prepareContainers() {
  run('sh', ['test/setup/engine.sh']);
  run('docker', ['build', '--quiet', '--tag', 'slimsmtp:test', '.']);
  run('docker', ['build', '--quiet', '--tag', 'slimsmtp-peer:test', 'test/peers']);
  // Where the base image is a stand-in there is no registry, and so no image of testcontainers' reaper: the tests stop
  // what they start.
  const label = spawnSync('docker', [
    'image',
    'inspect',
    '-f',
    '{{index .Config.Labels "stand-in"}}',
    'node:24-trixie-slim',
  ]);
  if (label.stdout.toString().trim() === 'yes') environment.TESTCONTAINERS_RYUK_DISABLED = 'true';
}

/**
 * Folders, and files of them. A few at once: the tests are written for two cores, and those of units wait more than
 * they work. The second limit is for files that hang where no timer of theirs runs.
 */
function tests(places, { atOnce, eachMs, allMs }, ...flags) {
  const files = places.flatMap(place => {
    if (place.endsWith('.test.ts')) return join('test', place);
    const found = readdirSync(join(root, 'test', place)).filter(file => file.endsWith('.test.ts'));
    if (found.length === 0) fail(`there are no tests in test/${place}`);
    return found.map(file => join('test', place, file));
  });
  const all = [
    '--disallow-code-generation-from-strings',
    '--disable-proto=delete',
    '--max-semi-space-size=4',
    ...flags,
  ];
  all.push('--test', `--test-concurrency=${atOnce}`, `--test-timeout=${eachMs}`, ...files);
  run(node, all, allMs);
}

function run(command, parameters, timeout) {
  const { status, error, signal } = spawnSync(command, parameters, {
    cwd: root,
    env: environment,
    timeout,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (status === 0) return;
  fail(`${command} ${parameters[0]} ${error?.message ?? signal ?? `ended with status ${status}`}`, status ?? 1);
}

function fail(reason, status = 1) {
  console.error(`\ntest/run.mjs: ${reason}`);
  process.exit(status);
}

const wanted = process.argv.slice(2);
const unknown = wanted.find(stage => !Object.hasOwn(stages, stage));
if (wanted.length === 0 || unknown)
  fail(`${unknown ?? 'nothing'} is no stage; there are ${Object.keys(stages).join(', ')}`, 64);
for (const stage of wanted) stages[stage]();
