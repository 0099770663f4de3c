// The gatherer: the first lines of a kind are written whole, the others are counted and told once a minute, and what it
// remembers is bounded.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import { Gatherer } from '../../src/system/gather.ts';

function open() {
  const lines: (Record<string, unknown> & { readonly text: string })[] = [];
  const note = (fields: Record<string, unknown>, text: string): void => void lines.push({ ...fields, text });
  const gatherer = new Gatherer({ debug: note, info: note, warn: note, error: note });
  return { lines, gatherer };
}

describe('lines of one kind', () => {
  it('are written whole up to sixty a minute; how many more there were is said when the minute is over', () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    const { lines, gatherer } = open();
    for (let n = 0; n < 472; n += 1) gatherer.line('info', '192.0.2.1', { n }, 'recipient refused');
    gatherer.line('info', '192.0.2.2', { n: 0 }, 'recipient refused');
    assert.equal(lines.length, 61);
    mock.timers.tick(60_000);
    assert.deepEqual(lines.slice(61), [{ who: '192.0.2.1', more: 412, text: 'recipient refused' }]);
    gatherer.line('info', '192.0.2.1', { n: 0 }, 'recipient refused');
    assert.equal(lines.length, 63);
    mock.timers.reset();
  });

  it('have a limit of their own where one is given', () => {
    const { lines, gatherer } = open();
    for (let n = 0; n < 5; n += 1) gatherer.line('warn', 'reason', {}, 'clients were turned away', 1);
    gatherer.flush();
    assert.deepEqual(lines.slice(1), [{ who: 'reason', more: 4, text: 'clients were turned away' }]);
  });
});

it('a log of its own gathers whatever is written to it', () => {
  const { lines, gatherer } = open();
  const log = gatherer.asLog('logins');
  for (let n = 0; n < 100; n += 1) log.warn({ n }, 'a login could not be checked');
  log.error({}, 'another sentence');
  gatherer.flush();
  assert.equal(lines.length, 62);
  assert.deepEqual(lines.at(-1), { who: 'logins', more: 40, text: 'a login could not be checked' });
});

describe('lines of many kinds', () => {
  it('are bounded together, in lines and in what is remembered', () => {
    const { lines, gatherer } = open();
    const come = (): void => {
      for (let n = 0; n < 20_000; n += 1) gatherer.line('info', `client ${n}`, {}, 'message not taken');
    };
    come();
    assert.equal(lines.length, 1000 + 60, 'a first line of a thousand clients, and sixty of all others');
    for (let round = 0; round < 4; round += 1) come();
    assert.equal(lines.length, 3000);
    gatherer.flush();
    const more = lines.slice(3000).map(line => Number(line['more']));
    assert.ok(more.length <= 1001, String(more.length));
    assert.equal(
      more.reduce((sum, each) => sum + each, 3000),
      100_000,
      'none is lost uncounted',
    );
  });
});
