// That docs/security.md is complete: the order of the audit holds every source file once, every package that runs is
// explained, every test that it names exists.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..', '..');
const page = readFileSync(join(root, 'docs/security.md'), 'utf8');
const section = (title: string): string => page.split(`\n## ${title}\n`)[1]?.split('\n## ')[0] ?? assert.fail(title);
const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  .map(file => `src/${file}`);

/** The files of a cell: a name without a folder lies beside the one before it. */
function filesOf(cell: string): string[] {
  let folder = '';
  return [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, name = '']) => {
    const path = name.startsWith('src/') ? name : `${folder}${name}`;
    if (statSync(join(root, path)).isDirectory()) return sources.filter(file => file.startsWith(path));
    folder = path.slice(0, path.lastIndexOf('/') + 1);
    return [path];
  });
}

test('the order of the audit holds every source file once', () => {
  const rows = [...section('The order in which to audit').matchAll(/^\| \d+ \| (.*?) \|/gm)];
  const listed = rows.flatMap(([, cell = '']) => filesOf(cell));
  assert.deepEqual(listed.toSorted(), sources.toSorted());
});

test('every package that the server loads is explained', () => {
  const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const named = new Set([...section('Dependencies').matchAll(/`([^`]+)`/g)].map(([, name]) => name));
  // It brings Node itself, where there is none.
  const loaded = Object.keys({ ...dependencies, ...optionalDependencies }).filter(name => name !== 'slimsmtp-node24');
  assert.deepEqual(
    loaded.filter(name => !named.has(name)),
    [],
  );
});

test('every test that is named exists', () => {
  const named = [...page.matchAll(/`(test\/[^`]+\.\w+)`/g)].map(([, name = '']) => name);
  assert.ok(named.length > 20);
  assert.deepEqual(
    named.filter(name => !existsSync(join(root, name))),
    [],
  );
});
