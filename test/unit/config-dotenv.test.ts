// The file .env means what it means to Docker Compose (test/integration/compose-env.test.ts asks Compose itself), but
// for `$`.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseDotenv } from '../../src/config/dotenv.ts';

describe('.env', () => {
  const cases: readonly (readonly [what: string, line: string, value: string])[] = [
    ['a # without a blank before it is part of the value', 'A=pa#ss', 'pa#ss'],
    ['a # after a blank begins a comment', 'A=pa # ss', 'pa'],
    ['a tab is no such blank', 'A=pa\t#ss', 'pa\t#ss'],
    ['blanks around name and value do not count', '  A \t=  two words  ', 'two words'],
    ['an escaped quote is a quote', 'A="a\\"b"', 'a"b'],
    ['an escaped single quote too', "A='a\\'b'", "a'b"],
    ['escapes count in double quotes', 'A="a\\nb\\tc\\\\d\\0101"', 'a\nb\tc\\dA'],
    ['what is no escape stays', 'A="a\\qb"', 'a\\qb'],
    ['an octal number that is none loses its zero, as in Compose', 'A="\\09\\0777"', '\\9\\777'],
    ['they do not count in single quotes, nor outside of quotes', "A='a\\nb'", 'a\\nb'],
    ['nor outside of quotes', 'A=a\\nb', 'a\\nb'],
    ['quotes in the middle stay', 'A=a"b"c', 'a"b"c'],
    ['a value in quotes may have several lines', 'A="one\ntwo" # comment', 'one\ntwo'],
    ['export may stand in front', 'export A=x', 'x'],
    ['a colon is as good as =', 'A: x', 'x'],
    ['an empty value', 'A=', ''],
    ['the last one counts', 'A=x\nA=y', 'y'],
    ['a dollar sign is an ordinary character', 'A=SCRAM-SHA-256$4096:x$y', 'SCRAM-SHA-256$4096:x$y'],
    ['an escaped one too', 'A="\\$x"', '$x'],
    ['line ends of Windows and a byte order mark do not count', '\ufeffA=x\r\n', 'x'],
  ];
  for (const [what, line, value] of cases)
    it(what, () => assert.deepEqual({ ...parseDotenv(`# c\n\n${line}\nB=end\n`).values }, { A: value, B: 'end' }));

  it('tells the names whose value Compose would change, because of a $', () => {
    const lines = ['A=$x', 'B=a$${y', 'C="${z}"', "D='$x'", 'E="\\$x"', 'F=5$', 'G=$5', 'H=\\$x', 'I="\\\\$x"'];
    assert.deepEqual(parseDotenv(lines.join('\n')).interpolated, ['A', 'B', 'C', 'H', 'I']);
    assert.deepEqual(parseDotenv("A=$x\nA='$x'").interpolated, []);
  });

  it('names the line of what it cannot read', () => {
    assert.throws(() => parseDotenv('A=1\n\nB="x\n'), { message: 'line 3: B: the closing " is missing' });
    assert.throws(() => parseDotenv('A=1\nB C=x\n'), { message: 'line 2: NAME=value is wanted' });
    assert.throws(() => parseDotenv('=x'), { message: 'line 1: NAME=value is wanted' });
  });

  it('takes a megabyte of anything in a moment', () => {
    for (const piece of ['"', '\\', "A='", 'A="\\', ' #', '#', '\n', 'export ', 'A=', 'A', '\t', '$'])
      try {
        const before = process.threadCpuUsage();
        const text = piece.repeat(1 << 20);
        try {
          parseDotenv(text);
        } finally {
          assert.ok(process.threadCpuUsage(before).user < 2_000_000, JSON.stringify(piece));
        }
      } catch (error) {
        assert.match((error as Error).message, /^line /);
      }
  });
});
