// What a set of journal segments means, run through random histories of mail, crashes, volumes that are away, and
// readers.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Segment, type Standing, type StoredRecord, restore } from '../../src/durable/restore.ts';

type Record = StoredRecord<string>;
const record = (content: string, ...finals: string[]): Record => ({
  files: finals.map(final => ({ final, temporary: `tmp/${final}` })),
  content,
});
const mark = (...finals: string[]): Record => ({
  files: finals.map(final => ({ final, temporary: '' })),
  content: '',
});
const segment = (path: string, records: Record[], isSuspect = false): Segment<string> => ({ path, isSuspect, records });
const names = (found: readonly { final: string }[]): string[] => found.map(({ final }) => final);

describe('a set of segments', () => {
  for (const [standing, written, kept] of [
    ['whole', [], []],
    ['missing', ['f'], []],
    ['torn', ['f'], []],
    ['taken', [], []],
    ['unreachable', [], ['f']],
  ] as const)
    it(`with a file that is ${standing}: written ${written.length}, kept ${kept.length}`, () => {
      const all = [segment('s', [record('x', 'f'), record('y', 'g')])];
      const { write, keep, drop } = restore(all, [], ({ final }) => (final === 'f' ? standing : 'whole'));
      assert.deepEqual(names(write), written);
      assert.deepEqual(
        keep.flatMap(({ files }) => names(files)),
        kept,
      );
      assert.deepEqual(drop, ['s']);
    });

  it('says by a mark, wherever it stands, that a file is not the journal’s business', () => {
    const all = [segment('a', [record('x', 'f', 'g')]), segment('b', [mark('f')])];
    assert.deepEqual(names(restore(all, [], () => 'missing').write), ['g']);
    assert.deepEqual(restore(all, ['g'], () => 'missing').write, []);
    assert.deepEqual(restore(all, ['g'], () => 'unreachable').keep, []);
  });

  it('keeps of a record the files that could not be written, and their content', () => {
    const all = [segment('a', [record('x', 'f', 'g'), record('y', 'h')])];
    const { keep, drop } = restore(all, [], ({ final }) => (final === 'g' ? 'unreachable' : 'missing'));
    assert.deepEqual([keep, drop], [[record('x', 'g')], ['a']]);
  });

  it('leaves a segment alone of which nothing is done', () => {
    const all = [segment('a', [record('x', 'f', 'g'), record('y', 'h')]), segment('b', [record('z', 'i')])];
    const { keep, drop } = restore(all, [], ({ final }) => (final === 'i' ? 'missing' : 'unreachable'));
    assert.deepEqual([keep, drop], [[], ['b']]);
  });

  it('writes a file anew that is whole in a suspect segment, and remembers that what it keeps is suspect', () => {
    const all = [segment('a', [record('x', 'f'), record('y', 'g')], true), segment('b', [record('z', 'h')])];
    const found = restore(all, [], ({ final }) => (final === 'g' ? 'unreachable' : 'whole'));
    assert.deepEqual([names(found.write), found.isSuspect], [['f'], true]);
    assert.equal(restore(all, [], ({ final }) => (final === 'h' ? 'unreachable' : 'whole')).isSuspect, false);
  });

  it('keeps files together that share their temporary name, as content and envelope in the queue', () => {
    const share = (content: string, final: string): Record => ({ files: [{ final, temporary: 'tmp' }], content });
    const all = [segment('a', [share('x', 'f'), share('y', 'f.json'), record('z', 'g')])];
    const found = restore(all, [], ({ final }) => (final === 'f.json' ? 'unreachable' : 'missing'));
    assert.deepEqual(found.keep, [share('x', 'f'), share('y', 'f.json')]);
    assert.deepEqual([names(found.write), found.done], [['g'], ['g']]);
    assert.deepEqual(restore(all, ['f'], ({ final }) => (final === 'g' ? 'missing' : 'unreachable')).keep, [
      share('y', 'f.json'),
    ]);
  });

  it('has no mark for a file that it keeps, wherever else it stands', () => {
    const all = [segment('a', [record('x', 'f')]), segment('b', [record('x', 'f'), record('y', 'g')])];
    assert.deepEqual(restore(all, [], ({ final }) => (final === 'f' ? 'unreachable' : 'whole')).done, ['g']);
  });

  it('writes a file once that stands in two segments, as a crash between keeping and removing leaves it', () => {
    const all = [segment('a', [record('x', 'f')]), segment('b', [record('x', 'f')])];
    assert.deepEqual(names(restore(all, [], () => 'missing').write), ['f']);
    const { keep, drop } = restore(all, [], () => 'unreachable');
    assert.deepEqual([keep, drop], [[], ['b']]);
  });
});

/** Numbers below `limit`, always the same of a seed. */
function chance(seed: number): (limit: number) => number {
  let state = seed * 2654435761;
  return limit => {
    state = (Math.imul(state ^ (state >>> 15), 2246822519) + 3266489917) | 0;
    return ((state ^ (state >>> 13)) >>> 0) % limit;
  };
}

/** A server with its disk, as far as the journal is concerned. */
class Model {
  readonly #draw: (limit: number) => number;
  segments: Segment<string>[] = [];
  /** What lies in its place; a file is on one of three volumes. */
  readonly #disk = new Map<string, string>();
  readonly #away = new Set<number>();
  /** Said to be stable, and nobody has taken it yet. */
  readonly #owed = new Map<string, string>();
  /** Taken away, or marked: it must never be seen again after a start that was completed. */
  readonly #done = new Set<string>();
  /** Written and synced by a start: no power cut takes that. */
  readonly #stable = new Set<string>();
  #names = 0;

  constructor(draw: (limit: number) => number) {
    this.#draw = draw;
  }

  readonly #volume = (final: string): number => Number(final.slice(1)) % 3;
  readonly #isAway = (final: string): boolean => this.#away.has(this.#volume(final));

  /** While it runs: mail comes, is put into its place, leaves. */
  run(): void {
    for (let steps = this.#draw(8); steps > 0; steps -= 1) {
      const records: Record[] = [];
      for (let count = this.#draw(4); count > 0; count -= 1) {
        const finals = Array.from({ length: 1 + this.#draw(3) }, () => `f${(this.#names += 1)}`);
        const made = record(`content of ${finals.join()}`, ...finals);
        records.push(made);
        for (const final of finals) this.#owed.set(final, made.content);
        for (const final of finals) if (this.#draw(3) > 0 && !this.#isAway(final)) this.#disk.set(final, made.content);
      }
      const leaving = [...this.#owed.keys()].filter(() => this.#draw(4) === 0);
      if (leaving.length > 0) records.push(mark(...leaving));
      for (const final of leaving) this.#leave(final);
      this.segments.push(segment(`s${(this.#names += 1)}`, records, this.#draw(5) === 0));
    }
  }

  #leave(final: string): void {
    this.#owed.delete(final);
    this.#disk.delete(final);
    this.#done.add(final);
  }

  /**
   * Volumes go and come, and a power cut takes what was not synced: all that the segments speak of may be torn or gone.
   */
  crash(): void {
    for (const volume of [0, 1, 2]) this.#away[this.#draw(3) === 0 ? 'add' : 'delete'](volume);
    for (const { records } of this.segments)
      for (const { files } of records)
        for (const { final } of files) {
          const luck = this.#draw(8);
          if (this.#stable.has(final)) continue;
          if (this.#owed.has(final) && luck < 2) this.#disk.delete(final);
          else if (this.#disk.has(final) && luck < 4) this.#disk.set(final, 'torn');
        }
    // A folder is read in any order.
    this.segments = this.segments.toSorted(() => this.#draw(3) - 1);
  }

  readonly #look = ({ final }: { final: string }, content: string): Standing => {
    if (this.#isAway(final)) return 'unreachable';
    const found = this.#disk.get(final);
    return found === undefined ? 'missing' : found === content ? 'whole' : 'torn';
  };

  /** `stopAt`: after how many steps the power fails. */
  start(stopAt: number): boolean {
    let steps = 0;
    const goesOn = (): boolean => (steps += 1) <= stopAt;
    const failed = new Set<string>();
    const plan = restore(this.segments, [], this.#look);
    for (const { final, content } of plan.write) {
      assert.ok(!this.#done.has(final), `${final} comes back`);
      if (!goesOn()) return false;
      if (this.#draw(6) === 0) failed.add(final);
      else this.#disk.set(final, content);
    }
    const left = restore(this.segments, [], file =>
      failed.has(file.final) || this.#isAway(file.final) ? 'unreachable' : 'whole',
    );
    const marks = segment(`m${(this.#names += 1)}`, [mark(...left.done)]);
    if (!goesOn()) return false;
    for (const final of left.done) this.#stable.add(final);
    this.segments.push(marks);
    if (!goesOn()) return false;
    if (left.keep.length > 0) this.segments.push(segment(`k${(this.#names += 1)}`, [...left.keep], left.isSuspect));
    for (const path of [...left.drop, marks.path]) {
      if (!goesOn()) return false;
      this.segments = this.segments.filter(each => each.path !== path);
    }
    // All that was owed lies in its place, or is in the journal.
    const inJournal = new Set(this.segments.flatMap(({ records }) => records.flatMap(({ files }) => names(files))));
    for (const [final, content] of this.#owed)
      assert.ok(inJournal.has(final) || this.#disk.get(final) === content, `${final} is lost`);
    // What is neither failed nor away is not in the journal any more.
    for (const final of inJournal) assert.ok(failed.has(final) || this.#isAway(final), `${final} is kept for nothing`);
    // From now on it is the queue's and the readers' business, without a word to the journal.
    for (const final of this.#owed.keys()) if (!inJournal.has(final) && this.#draw(2) === 0) this.#leave(final);
    return true;
  }
}

describe('two thousand random histories', () => {
  it('lose nothing, bring nothing back, and keep nothing for nothing', () => {
    for (let seed = 1; seed <= 2000; seed += 1) {
      const draw = chance(seed);
      const model = new Model(draw);
      for (let life = 0; life < 5; life += 1) {
        model.run();
        model.crash();
        while (!model.start(draw(3) === 0 ? draw(6) : Infinity)) model.crash();
      }
    }
  });
});
