// The format of a journal's segment: a record is read whole or not at all, whatever stands in the file.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, describe, it } from 'node:test';
import { encodeRecord, encodeSalt, marksIn, readContent, readSegment, suspectName } from '../../src/durable/record.ts';

const folder = mkdtempSync(`${tmpdir()}/journal-record-`);
after(() => rmSync(folder, { recursive: true }));
const path = `${folder}/segment`;

const salt = 4711;
const records = [
  { files: [{ final: '/m/new/1', temporary: '/m/tmp/1' }], parts: [Buffer.from('one'), Buffer.from('\n')] },
  {
    files: [
      { final: '/m/new/2', temporary: '/m/tmp/2' },
      { final: '/ü/new/2', temporary: '/ü/tmp/2' },
    ],
    parts: [Buffer.from('two\n')],
  },
  { files: [{ final: '/q/3', temporary: '' }], parts: [] },
];
const encoded = records.map(record => Buffer.concat(encodeRecord(record, salt)));
const whole = Buffer.concat([encodeSalt(salt), ...encoded]);

/** What is read of a segment with these octets: of each record its names and its content. */
function read(octets: Buffer): readonly (readonly [readonly string[], string])[] {
  writeFileSync(path, octets);
  return readSegment(path).records.map(({ files, content }) => [
    files.map(({ final }) => final),
    readContent(content).toString(),
  ]);
}
const expected = [
  [['/m/new/1'], 'one\n'],
  [['/m/new/2', '/ü/new/2'], 'two\n'],
  [['/q/3'], ''],
];

describe('a segment', () => {
  it('is read as it was written, also with zeros or an earlier life behind it', () => {
    const other = encodeRecord(records[0] ?? assert.fail(), salt + 1);
    for (const behind of [Buffer.alloc(0), Buffer.alloc(5000), Buffer.concat(other), Buffer.from('x')])
      assert.deepEqual(read(Buffer.concat([whole, behind])), expected);
    assert.deepEqual(marksIn(readSegment(path).records), ['/q/3']);
  });

  it('that was cut anywhere gives the records before the cut', () => {
    let ends = 4;
    const bounds = encoded.map(({ length }) => (ends += length));
    for (let length = 0; length <= whole.length; length += 1)
      assert.deepEqual(read(whole.subarray(0, length)), expected.slice(0, bounds.filter(end => end <= length).length));
  });

  it('in which any octet is another gives the records before that octet', () => {
    for (let at = 0; at < whole.length; at += 1) {
      const spoilt = Buffer.from(whole);
      spoilt[at] = (spoilt[at] ?? 0) ^ 0x81;
      const found = read(spoilt);
      let start = 4;
      const before = encoded.filter(({ length }) => (start += length) <= at).length;
      assert.deepEqual(found, expected.slice(0, before), `octet ${at}`);
    }
  });

  it('with salt 0 is empty, and so is a file of a few octets', () => {
    for (const octets of [Buffer.concat([encodeSalt(0), ...encoded]), Buffer.alloc(0), Buffer.from('abc')])
      assert.deepEqual(read(octets), []);
  });

  it('says by its name that it is suspect', () => {
    assert.equal(suspectName(suspectName('/j/a')), '/j/a.forgotten');
    writeFileSync(suspectName(path), whole);
    assert.deepEqual([readSegment(path).isSuspect, readSegment(suspectName(path)).isSuspect], [false, true]);
  });
});
