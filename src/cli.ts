#!/usr/bin/env -S node --disallow-code-generation-from-strings --disable-proto=delete --max-semi-space-size=4 --initial-old-space-size=32 --no-parallel-scavenge --invocation-count-for-turbofan=20000
// The entry: `slimsmtp VERB` in the image, `npx slimsmtp VERB` or `node src/cli.ts VERB` from the sources. The verbs
// are in cli/verbs.ts.
// Promise of the exit status: 0, 1 (no), 64 (usage), 69 (server not there), 78 (settings).
import { complain, readArguments } from './cli/terminal.ts';
import { run } from './cli/verbs.ts';
import { readEnvironment } from './config/sources.ts';

try {
  const { words, flags } = readArguments();
  // In the image, where this is one bundled file, only the environment counts.
  const environment = readEnvironment({ withDotenv: import.meta.filename.endsWith('.ts') });
  process.exitCode = await run(words, flags, environment);
} catch (error) {
  process.exitCode = complain(error);
}
// The network process has timers and an open channel: its end is this line.
process.exit();
