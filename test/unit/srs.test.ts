// SRS: what is rewritten comes back, and nothing else does; whose address is rewritten, and where the secret is kept.
// With VECTORS=FOLDER in the environment the public vectors (postsrsd) are tried as well.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { openReturnPaths } from '../../src/forward/return-path.ts';
import { type Plain, restore, rewrite } from '../../src/forward/srs.ts';
import { CannotTell } from '../../src/mail/ports.ts';
import { parseAddress } from '../../src/smtp/address.ts';
import { systemRandom as random } from '../../src/system/world.ts';
import { type SrsCase, srsRunner } from '../vectors/srs.ts';

const day = 24 * 3600_000;
const now = Date.UTC(2026, 10, 29, 12);
const srs = { secret: 'a secret of ours' };

describe('an address of SRS', () => {
  const senders: readonly (readonly [sender: Plain, rewritten: RegExp])[] = [
    [{ local: 'Anna', domain: 'example.net' }, /^SRS0=[\w-]{8}=[A-Z2-7]{2}=example\.net=Anna$/],
    [{ local: 'a=b=c', domain: 'example.net' }, /=example\.net=a=b=c$/],
    [
      { local: 'SRS0=x=yy=third.example=anna', domain: 'hop.example' },
      /^SRS1=[\w-]{8}=hop\.example==x=yy=third\.example=anna$/,
    ],
    [{ local: 'srs0+x=yy=third.example=anna', domain: 'hop.example' }, /^SRS1=[\w-]{8}=hop\.example=\+x=yy=third/],
  ];
  for (const [sender, pattern] of senders)
    it(`of ${sender.local}@${sender.domain} has its form, and leads back`, () => {
      const local = rewrite(sender, now, srs);
      assert.match(local, pattern);
      for (const text of [local, local.toUpperCase(), local.toLowerCase()]) {
        const { local: name = '', domain = '' } = restore(text, now, srs) ?? {};
        assert.equal(`${name}@${domain}`.toLowerCase(), `${sender.local}@${sender.domain}`.toLowerCase());
      }
      const { local: name = '' } = restore(local, now, srs) ?? {};
      assert.equal(name.slice(4), sender.local.slice(4), 'upper and lower case stay as they were');
    });

  it('of somebody else who has rewritten it twice leads to the first of them', () => {
    const local = rewrite(
      { local: 'SRS1=HASH=hop.example==x=yy=third.example=anna', domain: 'second.example' },
      now,
      srs,
    );
    assert.match(local, /^SRS1=[\w-]{8}=hop\.example==x=yy=third\.example=anna$/);
    assert.deepEqual(restore(local, now, srs), { local: 'SRS0=x=yy=third.example=anna', domain: 'hop.example' });
  });

  it('is good for 21 days, also where two letters of days have begun anew', () => {
    for (const made of [now, 1024 * 20 * day - day]) {
      const local = rewrite({ local: 'a', domain: 'x.example' }, made, srs);
      const isGood = (days: number): boolean => restore(local, made + days * day, srs) !== undefined;
      assert.deepEqual([-2, -1, 0, 21, 22, 500, 1000].map(isGood), [false, true, true, true, false, false, false]);
    }
  });

  it('that was forged, changed or cut is none', () => {
    const local = rewrite({ local: 'anna', domain: 'example.net' }, now, srs);
    const wrong = [
      local.replace('anna', 'otto'),
      local.replace('example.net', 'example.org'),
      local.replace(/=([\w-])/, (_, letter: string) => `=${letter === 'x' ? 'y' : 'x'}`),
      local.replace(/=[\w-]{8}=/, '=='),
      local.replace(/=[\w-]{8}=/, found => `=${found.slice(1, 5)}=`),
      local.replace('SRS0', 'SRS1'),
      'SRS0=',
      'SRS0=a',
      'SRS0=a=b',
      'SRS0=a=b=c',
      'SRS0=a=b=c=d',
      'SRS1=a=b',
      'SRS1=a=b=c',
      'SRS2=a=b=c=d',
      'anna',
    ];
    for (const each of wrong) assert.equal(restore(each, now, srs), undefined, each);
    assert.equal(restore(local, now, { secret: 'another secret' }), undefined);
  });

  it('with its four letters of hash is understood as postsrsd makes it, where that is asked for', async () => {
    const folder = process.env['VECTORS'];
    const file = join(folder ?? '', 'srs', 'cases.json');
    const own: readonly SrsCase[] = [
      { id: 'own', query: 'forward anna@example.com', reply: 'NOTFOUND' },
      { id: 'foreign', query: 'reverse anna@example.com', reply: 'NOTFOUND' },
    ];
    const cases = folder && existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as readonly SrsCase[]) : own;
    for await (const { id, isRight, found } of srsRunner('', cases)) assert.ok(isRight, `${id}: ${found}`);
  });
});

describe('the reverse-path of a forward', () => {
  const folder = mkdtempSync(join(tmpdir(), 'srs-'));
  after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'srs-secret');
  const domains = {
    hosts: async (domain: string) => {
      if (domain === 'later.example') throw new CannotTell('the database is down');
      return ['example.com', 'example.org'].includes(domain);
    },
  };
  const open = (secret?: string, at = folder, mayForward = true, sharesQueue = false) =>
    openReturnPaths({
      secret,
      mayForward,
      sharesQueue,
      folder: at,
      mainDomain: 'example.com',
      domains,
      clock: { now: () => now },
      random,
    });
  const parse = (text: string) => parseAddress(text) ?? assert.fail(text);

  it('of replicas needs a secret that is given: none is made, and none that lies there counts', async () => {
    const at = mkdtempSync(join(tmpdir(), 'srs-'));
    after(() => rmSync(at, { recursive: true }));
    const paths = open(undefined, at, true, true);
    await assert.rejects(paths.forForward('anna@example.net'), { name: 'CannotTell', status: '4.3.5' });
    assert.equal(await paths.forForward('berta@example.org'), 'berta@example.org', 'one of ours is not rewritten');
    assert.ok(!existsSync(join(at, 'srs-secret')));
    writeFileSync(join(at, 'srs-secret'), 'of one replica alone\n');
    await assert.rejects(open(undefined, at, true, true).forForward('anna@example.net'), { status: '4.3.5' });
    const sentAs = await open('a common secret', at, true, true).forForward('anna@example.net');
    assert.ok(typeof open('a common secret', at, true, true).wayBack(parse(sentAs)) === 'object');
  });

  it('is rewritten of a foreign sender alone, and only then a secret is made, which stays', async () => {
    const paths = open();
    assert.equal(await paths.forForward(''), '');
    assert.equal(await paths.forForward('Berta@Example.ORG'), 'Berta@Example.ORG');
    await assert.rejects(paths.forForward('a@later.example'), CannotTell);
    const forged = parse('SRS0=x=yy=example.net=anna@example.com');
    assert.equal(paths.wayBack(forged), 'forged or old');
    assert.equal(open(undefined, folder, false).wayBack(forged), undefined, 'an address as any other');
    assert.ok(!existsSync(path));
    const sentAs = await paths.forForward('Anna@Example.NET');
    assert.match(sentAs, /^SRS0=[\w-]{8}=[A-Z2-7]{2}=example\.net=Anna@example\.com$/);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    for (const each of [paths, open()]) {
      const back = each.wayBack(parse(sentAs));
      assert.deepEqual(back, { address: 'Anna@example.net', mailbox: { local: 'anna', domain: 'example.net' } });
    }
    assert.equal(open().wayBack(parse(sentAs.replace('Anna', 'otto'))), 'forged or old');
    assert.equal(open().wayBack(parse(sentAs.replace('@example.com', '@example.org'))), undefined);
    assert.equal(open().wayBack(parse('srs@example.com')), undefined);
  });

  it('has the secret of the settings where there is one, the same on every replica', async () => {
    const [one, other] = [mkdtempSync(join(folder, 'x')), mkdtempSync(join(folder, 'x'))];
    const sentAs = await open('the same for all', one).forForward('anna@example.net');
    assert.ok(!existsSync(join(one, 'srs-secret')));
    assert.equal(typeof open('the same for all', other).wayBack(parse(sentAs)), 'object');
    assert.equal(open('another one, too', other).wayBack(parse(sentAs)), 'forged or old');
  });

  it('of an odd sender leads back, too', async () => {
    const paths = open();
    for (const sender of [
      '"a b"@example.net',
      '"a@b"@example.net',
      'ä@bücher.example',
      'a@[192.0.2.1]',
      'a..b@example.net',
    ]) {
      const sentAs = await paths.forForward(sender);
      if (sentAs === sender) continue; // an address literal has no such form
      const back = paths.wayBack(parse(sentAs));
      const { local } = parse(sender);
      assert.equal(typeof back === 'object' && parse(back.address).local, local, sentAs);
    }
  });

  it('stays as it is where it would be too long', async () => {
    const sender = `${'a'.repeat(230)}@example.net`;
    assert.equal(await open().forForward(sender), sender);
  });

  it('cannot be told where the secret cannot be kept', async () => {
    await assert.rejects(open(undefined, join(folder, 'missing')).forForward('a@example.net'), CannotTell);
  });
});
