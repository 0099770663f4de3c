// The rules of the architecture, read off the sources: who imports whom, and what has only one home.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, it } from 'node:test';

const root = join(import.meta.dirname, '..', '..', 'src');
type Source = { readonly file: string; readonly text: string; readonly code: string };
const sources: readonly Source[] = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .map(file => {
    const text = readFileSync(join(root, file), 'utf8');
    // Without comments: those may speak of anything. (A // in a string is kept: it follows a colon.)
    return { file, text, code: text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'`"])\/\/.*$/gm, '$1') };
  });

/** The rooms that every room may use. */
const ground = new Set(['mail', 'smtp', 'sasl', 'system', 'durable', 'dns']);
const isWiring = (file: string): boolean => ['main.ts', 'cli.ts'].includes(file) || /^(?:cli|wiring)\//.test(file);
const folderOf = (file: string): string => (dirname(file) === '.' ? '' : (file.split('/')[0] ?? ''));
/**
 * Imports as [importer, what]: a path below src/ for our own files, else as written. Dynamic ones only when asked for.
 */
const imports = (kind: 'static' | 'all'): (readonly [string, string])[] =>
  sources.flatMap(({ file, code }) => {
    const found = [
      ...code.matchAll(/^(?:(?:import|export)\b[^;'"=]*?\bfrom |import )['"]([^'"]+)['"]/gm),
      ...(kind === 'all' ? code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g) : []),
    ].map(([, name = '']) => name);
    return found.map(
      name => [file, name.startsWith('.') ? relative(root, join(root, dirname(file), name)) : name] as const,
    );
  });
/** The files whose code has the pattern, but for those where it belongs. */
const having = (pattern: RegExp, ...homes: string[]): string[] =>
  sources
    .filter(({ file, code }) => pattern.test(code) && !homes.some(home => file.startsWith(home)))
    .map(({ file }) => file);
const isOurs = (name: string): boolean => name.endsWith('.ts');

describe('imports', () => {
  it('are found at all, so that the rules below can fail', () => {
    assert.ok(imports('all').length > 100 && sources.length > 20);
    assert.ok(
      imports('static').some(([file, name]) => file === 'wiring/receiving.ts' && name === 'inbound/connection.ts'),
    );
    assert.ok(imports('all').some(([, name]) => name === 'pg'));
  });

  it('of our own files end in .ts and stay below src', () => {
    assert.deepEqual(
      imports('all').filter(
        ([, name]) =>
          // The one exception: the version of the build stands in package.json.
          name !== '../package.json' &&
          (name.startsWith('..') ||
            (name.includes('/') &&
              !/\.ts$|^node:|^@|^(?:rate-limiter-flexible|mailauth\/lib|nodemailer\/lib)\//.test(name))),
      ),
      [],
    );
  });

  it('go from a room to itself and to the ground, never to a neighbour', () => {
    const wrong = imports('all').filter(([file, name]) => {
      if (isWiring(file) || !isOurs(name)) return false;
      return folderOf(name) !== folderOf(file) && !ground.has(folderOf(name));
    });
    assert.deepEqual(wrong, []);
  });

  it('of smtp stay within smtp: not even Node', () => {
    assert.deepEqual(
      imports('all').filter(([file, name]) => folderOf(file) === 'smtp' && folderOf(name) !== 'smtp'),
      [],
    );
  });

  it('of the ground stay within the ground', () => {
    const wrong = imports('all').filter(
      ([file, name]) => ground.has(folderOf(file)) && isOurs(name) && !ground.has(folderOf(name)),
    );
    assert.deepEqual(wrong, []);
  });

  it('of main.ts, wiring/ and cli/ come from nowhere but them and cli.ts', () => {
    assert.deepEqual(
      imports('all').filter(([file, name]) => isWiring(name) && !isWiring(file)),
      [],
    );
  });

  it('of what parses mail for people are in the HTTP process alone', () =>
    assert.deepEqual(
      imports('all').filter(
        ([file, name]) => /^(?:ws|postal-mime|nodemailer)\b/.test(name) && folderOf(file) !== 'web',
      ),
      [],
    ));

  it('of capture and of the HTTP process are dynamic: an ordinary server does not load them', () => {
    const optional = (name: string): boolean => /^(?:capture|web)\/|^wiring\/(?:capture|web)\.ts$/.test(name);
    const wrong = imports('static').filter(([file, name]) => optional(name) && !optional(file));
    assert.deepEqual(wrong, []);
  });

  it('of heavy packages are dynamic: who does not use a feature does not pay for it', () => {
    const heavy =
      /^(?:pg|pg-.*|@peculiar\/.*|pino-pretty|dns-packet|authenticate-pam|mailauth(?:\/.*)?|rate-limiter-flexible(?:\/.*)?)$/;
    const wrong = imports('static').filter(([file, name]) => {
      if (!heavy.test(name)) return false;
      // Types cost nothing.
      const { text } = sources.find(source => source.file === file) as Source;
      return !new RegExp(`^import type [^;]*'${name}'`, 'm').test(text);
    });
    assert.deepEqual(wrong, []);
  });
});

describe('one home', () => {
  it('has process.env: config', () =>
    assert.deepEqual(having(/\bprocess\s*\.\s*env\b|\benv\b.*=\s*process\b/, 'config/'), []));
  it('has the clock: system/world.ts', () =>
    assert.deepEqual(
      having(/\bDate\.now\b|\bnew Date\(\s*\)|\bDate\(\s*\)|\bperformance\.now\b/, 'system/world.ts'),
      [],
    ));
  it('has randomness: system/world.ts', () =>
    assert.deepEqual(
      having(/\bMath\.random\b|\brandom(?:Bytes|Int|UUID|FillSync|Fill)\b|\bgetRandomValues\b/, 'system/world.ts'),
      [],
    ));
  it('have fsync and its kin: durable/, and root’s deposits', () =>
    assert.deepEqual(
      having(
        /\bf(?:data)?sync(?:Sync)?\b|\.(?:data)?sync\(\)|\bflush: true\b|\bO_D?SYNC\b|['"]sync['"]/,
        'durable/',
        'steward/deposit.ts',
      ),
      [],
    ));
  it('have hard links, and files that are written anew and then renamed: durable/', () => {
    assert.deepEqual(having(/\blink(?:Sync)?\(/, 'durable/'), []);
    // Mail is renamed when it is committed: that replaces nothing.
    const commits = ['storage/maildir.ts', 'queue/files.ts', 'steward/deposit.ts', 'capture/keeper.ts'];
    assert.deepEqual(having(/\brename(?:Sync)?\(/, 'durable/', ...commits), []);
  });
  it('have ids and dates of mail: system/names.ts', () =>
    assert.deepEqual(having(/\btoUTCString\b|\btoString\(36\)/, 'system/names.ts'), []));
  it('has DNS: dns/', () => assert.deepEqual(having(/['"]node:dns\b|\bfrom 'dns\b/, 'dns/'), []));
  it('have the words of replies: smtp/reply.ts', () =>
    assert.deepEqual(
      having(/['"`][2-5][0-9][0-9][ -]|\breply\(\s*[2-5]\d\d\b|\bcode:\s*[2-5]\d\d\b/, 'smtp/reply.ts'),
      [],
    ));
});

describe('every file', () => {
  it('opens with a comment of what it does', () => {
    assert.deepEqual(
      sources.filter(({ text }) => !text.replace(/^#!.*\n/, '').startsWith('// ')).map(({ file }) => file),
      [],
    );
  });
  it('can be read in one go: no more than 330 lines', () => {
    const isLong = ({ text }: Source): boolean => text.split('\n').length > 331;
    assert.deepEqual(
      sources.filter(isLong).map(({ file }) => file),
      [],
    );
  });
  it('is finished, or says so elsewhere', () => {
    assert.deepEqual(
      sources.filter(({ text }) => /\b(?:TODO|FIXME|XXX)\b/.test(text)).map(({ file }) => file),
      [],
    );
  });
  it('has no enums, no default exports and no any', () => {
    assert.deepEqual(having(/^\s*(?:export )?(?:const )?enum \w|^export default\b|(?::|<|\bas) any\b/m), []);
  });
  it('makes no code from text: the server runs where that is forbidden', () => {
    assert.deepEqual(having(/\beval\(|\bnew Function\(|__proto__/), []);
  });
});
