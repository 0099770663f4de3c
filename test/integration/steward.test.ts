// The steward as root: steward.inside.ts in a container of our image, with the rights of compose.yaml and no more.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

/** What each is for is said in compose.yaml; without any one of them, tests inside fail. */
const capabilities = ['CHOWN', 'DAC_OVERRIDE', 'SETUID', 'SETGID'];

test(
  'the steward, its accounts and its deposits hold in a container with four capabilities',
  { timeout: 120_000 },
  () => {
    const project = new URL('../..', import.meta.url).pathname;
    const node = 'node --disallow-code-generation-from-strings --disable-proto=delete --test --test-reporter spec';
    const command = [
      'run --rm --init --network none --read-only --security-opt no-new-privileges --cap-drop ALL',
      ...capabilities.map(capability => `--cap-add ${capability}`),
      ...['/tmp', '/home', '/var/lib/slimsmtp'].map(path => `--tmpfs ${path}:mode=0755`),
      `--entrypoint ${node.replace(' ', ' slimsmtp:test ')} /project/test/integration/steward.inside.ts`,
    ].join(' ');
    const words = command.split(' ').toSpliced(1, 0, '-v', `${project}:/project:ro`);
    const run = spawnSync('docker', words, { encoding: 'utf8' });
    assert.equal(run.status, 0, `${run.stdout}${run.stderr}${run.error?.message ?? ''}`);
  },
);
