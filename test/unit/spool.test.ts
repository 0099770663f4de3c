// A message on its way in: in memory or in a file, and lines of ours in front of content that has come already.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { after, describe, it } from 'node:test';
import { type Finished, Spool } from '../../src/inbound/spool.ts';
import { readMessage } from '../../src/mail/message.ts';

const folder = fs.mkdtempSync(`${tmpdir()}/spool-`);
after(() => fs.rmSync(folder, { recursive: true }));

const returnPath = 'Return-Path: <a@example.net>\n';
const trace = 'Received: from x\n\tby y; now\n';
const head = { returnPath, trace };
const found = 'Authentication-Results: y; spf=pass\n';
const small = `Subject: 1\n\n${'text\n'.repeat(50)}`;
const large = `Subject: 2\n\n${'0123456789abcde\n'.repeat(100_000)}`;

const whole = ({ message }: Finished): string => readMessage(message, 0, message.sizeBytes).toString();

let names = 0;
async function fill(content: string, reservedBytes?: number): Promise<Spool> {
  names += 1;
  const name = `m${names}`;
  const spool = new Spool(() => `${folder}/${name}`, head, reservedBytes);
  for (let at = 0; at < content.length; at += 65_000) await spool.write(Buffer.from(content.slice(at, at + 65_000)));
  return spool;
}

describe('a message without lines of ours', () => {
  for (const [size, content] of [
    ['small', small],
    ['large', large],
  ] as const)
    it(`that is ${size} is its head and its content, octet for octet`, async () => {
      const spool = await fill(content);
      assert.match(await spool.header(1000), /^Subject: \d$/);
      const finished = await spool.finish();
      assert.equal(finished.message.kind, size === 'small' ? 'memory' : 'file');
      assert.equal(finished.returnPathBytes, returnPath.length);
      assert.ok(whole(finished) === returnPath + trace + content);
      await spool.release();
      assert.deepEqual(fs.readdirSync(folder), []);
    });
});

describe('lines in front of content that has come already', () => {
  it('cost nothing in memory', async () => {
    const spool = await fill(small, 500);
    const finished = await spool.finish(found);
    assert.equal(whole(finished), returnPath + found + trace + small);
    assert.equal(finished.returnPathBytes, returnPath.length);
    await spool.release();
  });

  for (const left of [0, 1, 12, 962, 963, 964, 1500, 2900])
    it(`go into the room of a file, of which ${left} octets are left: the same file, without a second write`, async () => {
      const spool = await fill(large, found.length + left);
      const [name = ''] = fs.readdirSync(folder);
      const { ino } = fs.statSync(`${folder}/${name}`);
      const finished = await spool.finish(found);
      const text = whole(finished);
      const { returnPathBytes, message } = finished;
      assert.equal(text.slice(0, returnPathBytes), returnPath);
      assert.equal(text.length, returnPath.length + left + found.length + trace.length + large.length);
      assert.ok(text.replaceAll(/ +\n/g, '\n') === returnPath + found + trace + large, 'blanks and nothing else');
      assert.ok(text.split('\n').every(line => line.length <= 998));
      assert.equal(message.kind === 'file' && fs.statSync(message.path).ino, ino);
      assert.equal(message.sizeBytes, text.length);
      await spool.release();
    });

  for (const reserved of [0, 10, 4000])
    it(`are kept also where ${reserved} octets of room do not fit them: then the content is written once more`, async () => {
      const spool = await fill(large, reserved);
      const finished = await spool.finish(found);
      assert.ok(whole(finished) === returnPath + found + trace + large);
      assert.equal(finished.returnPathBytes, returnPath.length);
      assert.equal(fs.readdirSync(folder).length, 1);
      await spool.release();
      assert.deepEqual(fs.readdirSync(folder), []);
    });

  it('are found by hard links that are made afterwards', async () => {
    const spool = await fill(large, 1000);
    const { message } = await spool.finish(found);
    assert.ok(message.kind === 'file');
    fs.linkSync(message.path, `${folder}/link`);
    await spool.release();
    assert.equal(fs.readFileSync(`${folder}/link`, 'utf8').length, message.sizeBytes);
    fs.unlinkSync(`${folder}/link`);
  });
});
