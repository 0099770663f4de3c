// `npm run test:vectors -- FOLDER`: public test vectors of mail authentication against our code, the judging child
// included. Prints a line for each set, `spf 262 of 262`, then `N passed, M failed`. The exit status is 0 when nothing
// has failed but cases that are disputed, at most two of ARC validation, and SPF cases that are not of the suite for
// RFC 7208 (`rfc7208/…`). The sets are not ours to ship: CONTRIBUTING.md says where they come from.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { arcSign } from './arc-sign.ts';
import { judging } from './judging.ts';
import { srsRunner } from './srs.ts';
import { wayOut } from './way-out.ts';

/** Whether each case came out as it should. `folder`: of the set. */
export type Runner = (
  folder: string,
  cases: readonly Case[],
) => AsyncIterable<{ id: string; isRight: boolean; found?: string }>;
export type Case = Readonly<{ id: string; disputed?: string; [name: string]: unknown }>;

/** A set is a folder with cases.json. Whoever builds what a set judges adds its runner here. */
const runners: Readonly<Record<string, Runner>> = {
  ...judging,
  ...wayOut,
  'arc-sign': arcSign,
  srs: (folder, cases) => srsRunner(folder, cases as never),
};
/** Sets of what is not built here. */
const passedOver: ReadonlySet<string> = new Set(['tls-rpt', 'dmarc-reports']);
const mayFail: Readonly<Record<string, number>> = { 'arc-validate': 2 };

const isGrave = (set: string, id: string): boolean => set !== 'spf' || id.startsWith('rfc7208/');

/** The exit status. */
export async function runVectors(folder: string, print: (line: string) => void): Promise<number> {
  let [passed, failed, status] = [0, 0, 0];
  for (const set of readdirSync(folder).toSorted()) {
    const file = join(folder, set, 'cases.json');
    const run = runners[set];
    if (!existsSync(file)) continue;
    if (!run) {
      print(`${set} not run: ${passedOver.has(set) ? 'nothing here judges that' : 'there is no runner for it'}`);
      continue;
    }
    const cases = JSON.parse(readFileSync(file, 'utf8')) as readonly Case[];
    const disputed = new Map(cases.map(each => [each.id, each.disputed]));
    const wrong: string[] = [];
    let [right, grave] = [0, 0];
    for await (const { id, isRight, found = '' } of run(join(folder, set), cases)) {
      if (isRight) {
        right += 1;
        continue;
      }
      const why = disputed.get(id);
      if (why === undefined && isGrave(set, id)) grave += 1;
      wrong.push(
        `  ${why === undefined ? 'failed' : 'disputed'}: ${id}${found && `: ${found}`}${why ? ` (${why})` : ''}`,
      );
    }
    print(`${set} ${right} of ${cases.length}`);
    for (const line of wrong) print(line);
    passed += right;
    failed += cases.length - right;
    if (grave > (mayFail[set] ?? 0)) status = 1;
  }
  print(`${passed} passed, ${failed} failed`);
  return status;
}

if (process.argv[1] === import.meta.filename) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) console.error('a folder is wanted: npm run test:vectors -- FOLDER');
  process.exit(folder === undefined ? 64 : await runVectors(folder, console.log));
}
