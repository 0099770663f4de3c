// That the pages hold together: every link and anchor leads somewhere, prose fits a terminal, the first screen stays
// one.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { readings } from '../../src/config/table.ts';

const root = new URL('../../', import.meta.url).pathname;
const inFolder = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.md'))
    .map(file => join(root, folder, file));
const top = readdirSync(root).filter(file => file.endsWith('.md'));
const pages = [...top.map(file => join(root, file)), ...['docs', 'examples', '.github'].flatMap(inFolder)];
const nameOf = (path: string): string => relative(root, path);

/** The lines of a page that are prose: no table, no code, and not what `npm run bench` writes between its marks. */
function prose(page: string): string[] {
  const text = readFileSync(page, 'utf8').replaceAll(/^<!-- (measured|growth) -->.*?^<!-- \/\1 -->$/gms, '');
  return text
    .replaceAll(/^```.*?^```$/gms, '')
    .split('\n')
    .filter(line => !/^(\||<|!\[| {4})/.test(line));
}

/** As GitHub makes them of headings. */
function anchorsOf(page: string): Set<string> {
  const headings = prose(page).filter(line => line.startsWith('#'));
  const toAnchor = (heading: string): string =>
    heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/^#+ /, '')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\p{M} _-]/gu, '')
      .replaceAll(' ', '-');
  return new Set(headings.map(toAnchor));
}

test('every link within the project leads to a file, and to a heading of it', () => {
  let links = 0;
  for (const page of pages)
    for (const [, target = ''] of readFileSync(page, 'utf8').matchAll(/\]\(([^()\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      links += 1;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? page : resolve(dirname(page), path);
      assert.ok(existsSync(file), `${nameOf(page)}: ${target}`);
      if (anchor !== undefined) assert.ok(anchorsOf(file).has(anchor), `${nameOf(page)}: ${target}`);
    }
  assert.ok(links > 60);
});

test('prose is wrapped at 120 columns', () => {
  for (const page of pages)
    for (const line of prose(page)) assert.ok([...line].length <= 120, `${nameOf(page)}: ${line}`);
});

test('the first screen stays one', () => {
  assert.ok(readFileSync(join(root, 'README.md')).length < 7000);
});

/** What stands in backquotes in the first cell of each row of a table. */
function firstCells(page: string): string[] {
  const rows = readFileSync(join(root, page), 'utf8').matchAll(/^\| ([^|]*) \|/gm);
  return [...rows].map(([, cell = '']) => cell);
}

test('every setting has a row, and every row is a setting', () => {
  const named = firstCells('docs/settings.md').flatMap(cell =>
    [...cell.matchAll(/`([A-Z_]+)`/g)].map(([, name]) => name),
  );
  assert.deepEqual(named.toSorted(), [...readings.keys()].toSorted());
});

test('every refusal is explained', () => {
  const cells = firstCells('docs/troubleshooting.md');
  const source = readFileSync(join(root, 'src/smtp/reply.ts'), 'utf8');
  const refusals = [...source.matchAll(/reply\(([45]\d\d), '([\d.]+)'/g)];
  assert.ok(refusals.length > 30);
  for (const [, code = '', status = ''] of refusals) {
    // '451 4.3.5', or the code alone in a list of codes.
    const form = new RegExp(`\\b${code} ${status.replaceAll('.', String.raw`\.`)}|\\b${code}(?:,|$)`);
    assert.ok(
      cells.some(cell => form.test(cell)),
      `${code} ${status}`,
    );
  }
});

test('every source and test file that a page names exists', () => {
  const files = pages.flatMap(page =>
    // CHANGELOG may name what has gone.
    page.endsWith('CHANGELOG.md')
      ? []
      : [...readFileSync(page, 'utf8').matchAll(/\b(?:src|test)\/[\w/.-]+\.(?:ts|mjs|txt|sh)\b/g)].map(
          ([name]) => name,
        ),
  );
  assert.ok(files.length > 100);
  assert.deepEqual(
    [...new Set(files)].filter(name => !existsSync(join(root, name))),
    [],
  );
});

test('one version is not released yet at most: the one of package.json, the image and the examples', () => {
  const read = (name: string): string => readFileSync(join(root, name), 'utf8');
  const version = String(JSON.parse(read('package.json')).version);
  const versions = [...read('CHANGELOG.md').matchAll(/^## (\S+), (.+)$/gm)];
  assert.equal(versions[0]?.[1], version);
  assert.ok(versions.slice(1).every(([, , when]) => when !== 'not released yet'));
  const named = (name: string, form: RegExp): readonly unknown[] =>
    [...read(name).matchAll(form)].map(found => found[1]);
  assert.deepEqual(named('Dockerfile', /image\.version="(.*?)"/g), [version]);
  for (const name of ['slimsmtp', 'replicas'])
    assert.deepEqual(new Set(named(`examples/kubernetes/${name}.yaml`, /image: slimsmtp:(.*)$/gm)), new Set([version]));
});
