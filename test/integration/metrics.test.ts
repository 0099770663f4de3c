// Prometheus and the figures: docs/metrics.md says what /metrics has; promtool accepts it, the alert rules and their
// tests; the compose profile scrapes, and its alert fires when the database is stopped.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { deliver, eventually } from './client.ts';
import { type Compose, openStage, root } from './compose-lib.ts';

const stage = openStage(after);
const prometheus = 'prom/prometheus:v3.5.0';
const rules = join(root, 'examples/monitoring');

/** promtool on a folder or on standard input; its output. Throws with its complaint. */
async function promtool(words: readonly string[], input = ''): Promise<string> {
  const mount = ['-v', `${rules}:/rules:ro`, '-w', '/rules', '--entrypoint', 'promtool'];
  return new Promise((resolve, reject) => {
    const child = execFile('docker', ['run', '--rm', '-i', ...mount, prometheus, ...words], (error, out, complaint) =>
      error ? reject(new Error(`${out}${complaint}`)) : resolve(`${out}${complaint}`),
    );
    child.stdin?.end(input);
  });
}

let compose: Compose;
const portOf = async (service: string, port: number): Promise<number> =>
  Number((await compose('port', service, String(port))).trim().split(':').at(-1));

before(async () => {
  compose = stage.project({
    '.env': 'SLIM_HTTP=:8025\nPORT_PROMETHEUS=127.0.0.1:0\n',
    'compose.override.yaml': "services: { slimsmtp: { ports: ['127.0.0.1:0:8025'] } }\n",
  });
  cpSync(rules, join(compose.folder, 'examples/monitoring'), { recursive: true });
  // Nobody waits for minutes in a test.
  const hurry = (name: string, pattern: RegExp, by: string): void => {
    const path = join(compose.folder, 'examples/monitoring', name);
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(pattern, by));
  };
  hurry('alerts.yml', /for: \S+/g, 'for: 2s');
  hurry('prometheus.yml', /_interval: 15s/g, '_interval: 1s');
  await compose('--profile', 'metrics', 'up', '--detach', '--build', '--wait').catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await compose('logs')}`);
  });
});

const fetchFrom = async (path: string): Promise<Response> =>
  fetch(`http://127.0.0.1:${await portOf('slimsmtp', 8025)}${path}`);

describe('/metrics', () => {
  test('has what docs/metrics.md says, and nothing else', async () => {
    await deliver(await portOf('slimsmtp', 25), ['anton@example.com'], 'Subject: x\r\n\r\nx\r\n');
    // Figures are a moment old.
    let text = '';
    await eventually(
      'the mail is counted',
      async () => {
        text = await (await fetchFrom('/metrics')).text();
        return /^slimsmtp_messages_total\{result="delivered"\} 1$/m.test(text);
      },
      10_000,
    );
    const served = [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    const page = readFileSync(join(root, 'docs/metrics.md'), 'utf8');
    const rows = [...page.matchAll(/^\| (`[^|]*`) \|([^|]*)\|/gm)];
    const named = rows.flatMap(([, cell = '']) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name));
    assert.deepEqual(named.toSorted(), served.toSorted());
    // The labels too.
    for (const [, cell = '', labels = ''] of rows)
      for (const [, name = ''] of cell.matchAll(/`(\w+)`/g)) {
        const told = [...labels.matchAll(/(?:^ |; )`(\w+)`/g)].map(([, label]) => label);
        const sample = new RegExp(`^${name}(?:_count)?(?:\\{(.*)\\})? `, 'm').exec(text);
        if (sample === null) continue; // checks, before one has said something
        const found = [...(sample[1] ?? '').matchAll(/(\w+)="/g)].map(([, label]) => label);
        assert.deepEqual(found.toSorted(), told.toSorted(), name);
      }
    assert.match(text, /^slimsmtp_database_up 1$/m);
    assert.doesNotMatch(text, /example|anton|192\.|172\./);
  });

  test('is accepted by promtool', async () => {
    const text = await (await fetchFrom('/metrics')).text();
    assert.equal((await promtool(['check', 'metrics'], text)).trim(), '');
  });
});

describe('the alert rules', () => {
  test('are accepted by promtool, and pass their tests', async () => {
    assert.match(await promtool(['check', 'config', 'prometheus.yml']), /SUCCESS/);
    assert.match(await promtool(['check', 'rules', 'alerts.yml']), /SUCCESS: \d+ rules found/);
    assert.match(await promtool(['test', 'rules', 'alerts.test.yml']), /SUCCESS/);
  });

  test('and the dashboard name no metric that docs/metrics.md does not have', () => {
    const page = readFileSync(join(root, 'docs/metrics.md'), 'utf8');
    for (const file of ['alerts.yml', 'alerts.test.yml', 'dashboard.json']) {
      const names = new Set(readFileSync(join(rules, file), 'utf8').match(/\b(?:slimsmtp|process)_[a-z_]+\b/g));
      assert.ok(names.size > 8, file);
      for (const name of names) assert.ok(page.includes(`\`${name.replace(/_bucket$/, '')}\``), `${file}: ${name}`);
    }
    const { panels } = JSON.parse(readFileSync(join(rules, 'dashboard.json'), 'utf8'));
    assert.ok(panels.length > 10);
  });

  test('fire when the database is stopped, and are silent again when it is back', async () => {
    const port = await portOf('prometheus', 9090);
    const firing = async (): Promise<string[]> => {
      const { data } = (await (await fetch(`http://127.0.0.1:${port}/api/v1/alerts`)).json()) as {
        data: { alerts: { state: string; labels: { alertname: string } }[] };
      };
      return data.alerts.filter(({ state }) => state === 'firing').map(({ labels }) => labels.alertname);
    };
    const isUp = async (): Promise<boolean> => {
      const answer = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=slimsmtp_database_up`);
      return (await answer.text()).includes('"1"');
    };
    await eventually('Prometheus has scraped', isUp, 30_000);
    assert.deepEqual(await firing(), []);
    await compose('stop', 'postgres');
    await eventually('the alert', async () => (await firing()).includes('SlimsmtpDatabaseDown'), 30_000);
    assert.equal((await fetchFrom('/health')).status, 200, 'degraded');
    await compose('start', 'postgres');
    await eventually('no alert', async () => (await firing()).length === 0, 40_000);
  });
});
