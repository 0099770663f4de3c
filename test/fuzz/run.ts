// The fuzzer for longer runs: node test/fuzz/run.ts [--seconds N] [--seed N] [--keep] [--blind] [target …]. A line of
// JSON for each target; a find ends with status 1. --keep adds what ran new code to corpus/<target>.txt. --blind:
// without coverage, which is faster.
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fuzz, start } from './fuzzer.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean' },
    blind: { type: 'boolean' },
  },
});
if (!values.blind) start();
const { targets } = await import('./targets.ts');
for (const target of targets) {
  if (positionals.length > 0 && !positionals.includes(target.name)) continue;
  try {
    const { lasting, ...report } = await fuzz(target, { seed: Number(values.seed), seconds: Number(values.seconds) });
    console.log(JSON.stringify({ seed: Number(values.seed), ...report, lasting: lasting.length }));
    if (values.keep) {
      const lines = lasting.map(octets => `${JSON.stringify(octets.toString('latin1'))}\n`);
      appendFileSync(join(import.meta.dirname, 'corpus', `${target.name}.txt`), lines.join(''));
    }
  } catch (error) {
    console.error(error instanceof Error ? (error.stack ?? error.message) : String(error));
    process.exitCode = 1;
  }
}
