// The log as its readers get it: levels by name, ISO time, readable lines with date and level, Node's own warnings
// among them.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, it } from 'node:test';

const log = join(import.meta.dirname, '../../src/system/log.ts');

/** What a process prints that opens the log and does this. */
function printed(format: 'json' | 'pretty', script: string): { out: string; complaint: string } {
  const program = `import { openLog, takeWarnings } from ${JSON.stringify(log)};
    const log = await openLog('debug', '${format}', true);
    ${script};
    await new Promise(resolve => setTimeout(resolve, 20));
    log.flush();`;
  const done = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    timeout: 15_000,
  });
  return { out: done.stdout, complaint: done.stderr };
}

describe('the log', () => {
  it('has levels by name and the time in ISO 8601', () => {
    const { out } = printed(
      'json',
      `for (const level of ['debug', 'info', 'warn', 'error']) log[level]({ a: 1 }, 'said')`,
    );
    const lines = out
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Record<string, unknown>);
    assert.deepEqual(
      lines.map(({ level }) => level),
      ['debug', 'info', 'warn', 'error'],
    );
    for (const line of lines) {
      assert.deepEqual(Object.keys(line), ['level', 'time', 'a', 'msg']);
      assert.match(String(line['time']), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    }
  });

  it('is readable on a terminal: date, level, sentence, fields', () => {
    const { out } = printed('pretty', `log.warn({ client: '192.0.2.1' }, 'said')`);
    assert.match(out, /^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] WARN: said \{"client":"192\.0\.2\.1"\}\n$/);
  });

  it('has what Node warns of, in place of standard error', () => {
    const { out, complaint } = printed('json', `takeWarnings(log); process.emitWarning('old', 'DeprecationWarning')`);
    assert.equal(complaint, '');
    const { level, warning, type, msg } = JSON.parse(out);
    assert.deepEqual([level, warning, type, msg], ['warn', 'old', 'DeprecationWarning', 'Node warns']);
  });

  it('is written whole when the process ends, without a word, by an error or by exit', () => {
    for (const end of ['', 'process.exit()', 'throw new Error("x")']) {
      const program = `import { openLog } from ${JSON.stringify(log)};
        const log = await openLog('info', 'json', true);
        for (let n = 0; n < 5000; n += 1) log.info({ n }, 'said');
        ${end}`;
      const done = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
        encoding: 'utf8',
        timeout: 15_000,
      });
      assert.equal(done.stdout.trim().split('\n').length, 5000, end);
    }
  });

  /** A process that opens the log, and does this when it is told to. */
  async function start(act: string) {
    const program = `import { openLog } from ${JSON.stringify(log)};
      const log = await openLog('info', 'json', true);
      process.on('message', () => { ${act} });
      process.send('ready');`;
    const stdio = ['ignore', 'pipe', 'inherit', 'ipc'] as const;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: [...stdio] });
    const overdue = setTimeout(() => child.kill('SIGKILL'), 12_000);
    child.once('exit', () => clearTimeout(overdue));
    await once(child, 'message');
    return child;
  }

  it('does not hold up the end where nobody reads any more', async () => {
    const child = await start(`log.info({}, 'last'); process.exit(7)`);
    child.stdout?.destroy();
    await once(child.stdout ?? child, 'close');
    child.send('go');
    assert.deepEqual(await once(child, 'exit'), [7, null]);
  });

  it('costs no more memory than the bound while its reader stalls, and holds up the end by a second', async () => {
    const child = await start(`
      for (let n = 0; n < 300; n += 1) log.info({ text: 'x'.repeat(100_000) }, 'said');
      setTimeout(() => { log.info({}, 'last'); process.send(process.memoryUsage.rss(), () => process.exit(7)); }, 600);`);
    child.send('go');
    const [rss] = (await once(child, 'message')) as [number];
    assert.ok(rss < 200 * 2 ** 20, `${rss} octets`);
    assert.deepEqual(await once(child, 'exit'), [7, null]);
  });
});
