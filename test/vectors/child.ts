// The judging child with the DNS of a test: a file, read anew for each question. Its path is the first word.
import { readFileSync } from 'node:fs';
import { runJudge } from '../../src/judge/child.ts';
import { type Zone, recordsOf } from './zone.ts';

const [file = ''] = process.argv.slice(2);
await runJudge(() => recordsOf(() => JSON.parse(readFileSync(file, 'utf8')) as Zone), 0);
