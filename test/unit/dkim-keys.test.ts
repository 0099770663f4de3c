// The keys that sign: made once, kept, moved on only by what DNS shows, and never passed over in silence when one
// cannot be read.
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Keys, movedOn } from '../../src/dkim/keys.ts';
import { isRecordOf } from '../../src/dkim/record.ts';
import type { Log } from '../../src/system/log.ts';

let folder = '';
let zone: Record<string, readonly string[] | Error> = {};
let lines: string[] = [];
const note = (fields: Record<string, unknown>, text: string): void =>
  void lines.push(`${text} ${JSON.stringify(fields)}`);
const log: Log = { debug: note, info: note, warn: note, error: note };
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keys-'));
  [zone, lines] = [{}, []];
});
afterEach(() => rmSync(folder, { recursive: true }));

const open = (more: Partial<ConstructorParameters<typeof Keys>[0]> = {}): Keys =>
  new Keys({
    folder,
    algorithms: ['rsa', 'ed25519'],
    txt: async name => {
      const found = zone[name] ?? Object.assign(new Error('ENOTFOUND'), { code: 'ENOTFOUND' });
      return found instanceof Error ? Promise.reject(found) : found;
    },
    clock: { now: () => Date.UTC(2026, 10, 29) },
    log,
    ...more,
  });
const domain = 'example.com';
const states = async (keys: Keys): Promise<string> =>
  (await keys.list(domain)).map(({ selector, state, signs }) => `${selector} ${state}${signs ? '*' : ''}`).join(', ');
const signers = async (keys: Keys): Promise<string> =>
  (await keys.signing(domain)).map(({ selector, algorithm }) => `${selector} ${algorithm}`).join(', ');
async function publish(keys: Keys): Promise<void> {
  for (const { name, record } of await keys.list(domain)) if (record !== undefined) zone[name] = [record];
}

describe('the keys of a domain', () => {
  it('are made at first use, for us alone, and the first of each algorithm signs at once', async () => {
    const keys = open();
    assert.equal(await signers(keys), 'r20261129 rsa, e20261129 ed25519');
    assert.equal(await states(keys), 'r20261129 new*, e20261129 new*');
    assert.equal(statSync(join(folder, domain)).mode & 0o777, 0o700);
    const files = readdirSync(join(folder, domain)).toSorted();
    assert.deepEqual(files, ['e20261129.pem', 'keys.json', 'r20261129.pem']);
    assert.deepEqual(keys.domains(), [domain]);
  });

  it('in a folder that is only read are the operator’s: one algorithm is enough, and nothing is made or moved on', async () => {
    const keys = open({ isOnlyRead: true });
    const absent = /4\.7\.5|has no key|ENOENT/;
    await assert.rejects(keys.signing(domain), absent);
    assert.deepEqual(readdirSync(folder), [], 'nothing is made');
    mkdirSync(join(folder, domain));
    await assert.rejects(keys.signing(domain), /has no key: put a key there as <domain>\/<selector>\.pem/);
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    writeFileSync(join(folder, domain, 'mine.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    assert.equal(await signers(keys), 'mine rsa');
    assert.equal(await states(keys), 'mine new*');
    await assert.rejects(keys.rotate(domain), /is only read/);
    assert.deepEqual(readdirSync(join(folder, domain)), ['mine.pem']);
  });

  it('are made once, however many ask, and are the same after a start', async () => {
    const keys = open();
    const all = await Promise.all(Array.from({ length: 5 }, () => keys.signing(domain)));
    const pem = readFileSync(join(folder, domain, 'r20261129.pem'), 'utf8');
    assert.equal(new Set(all.map(([rsa]) => rsa?.key.export({ type: 'pkcs8', format: 'pem' }))).size, 1);
    const [again] = await open().signing(domain);
    assert.equal(again?.key.export({ type: 'pkcs8', format: 'pem' }), pem);
    assert.equal((again?.key.asymmetricKeyDetails?.modulusLength ?? 0) >= 2048, true);
  });

  it('through a relay are RSA alone; the others come when they are wanted', async () => {
    assert.equal(await signers(open({ algorithms: ['rsa'] })), 'r20261129 rsa');
    assert.equal(await signers(open()), 'r20261129 rsa, e20261129 ed25519');
    assert.match(await states(open({ algorithms: ['rsa'] })), /e20261129 new$/);
  });

  it('an operator has put there before are used', async () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
    mkdirSync(join(folder, domain));
    writeFileSync(join(folder, domain, 'mail2020.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    assert.equal(await signers(open()), 'mail2020 rsa, e20261129 ed25519');
  });
});

describe('a rotation', () => {
  it('signs with the new key once its record was seen twice, and not before', async () => {
    const keys = open();
    await publish(keys);
    await keys.look();
    await keys.look();
    assert.equal(await states(keys), 'r20261129 active*, e20261129 active*');
    await keys.rotate(domain);
    assert.equal(await signers(keys), 'r20261129 rsa, e20261129 ed25519');
    await keys.look();
    assert.equal(await states(keys), 'r20261129 active*, e20261129 active*, r20261129-2 new, e20261129-2 new');
    await publish(keys);
    await keys.look();
    assert.match(await states(keys), /r20261129 active\*, .*r20261129-2 published,/);
    // DNS that cannot tell changes nothing.
    for (const name of Object.keys(zone)) zone[name] = new Error('ETIMEOUT');
    await keys.look();
    assert.match(await states(keys), /r20261129 active\*, .*r20261129-2 published,/);
    await publish(keys);
    await keys.look();
    const after = 'r20261129 retired, e20261129 retired, r20261129-2 active*, e20261129-2 active*';
    assert.equal(await states(keys), after);
    assert.equal(await states(open()), after);
    assert.equal(await signers(open()), 'r20261129-2 rsa, e20261129-2 ed25519');
  });

  it('is refused while an earlier one waits for its record', async () => {
    const keys = open();
    await keys.rotate(domain);
    await assert.rejects(keys.rotate(domain), /has a key already that waits/);
  });

  it('does not go by a record of another key, or by two records', async () => {
    const keys = open();
    const [first, second] = await keys.list(domain);
    const [name, record, other] = [first?.name ?? '', first?.record ?? '', second?.record ?? ''];
    for (const found of [[other], [record, record], [], [record.replace('p=', 'p=A')], ['v=DKIM1; p=']]) {
      zone[name] = found;
      await keys.look();
      assert.match(await states(keys), /^r20261129 new\*/);
    }
    zone[name] = [record];
    await keys.look();
    assert.match(await states(keys), /^r20261129 published\*/);
  });

  it('that a crash cut short is taken up', async () => {
    const keys = open();
    await publish(keys);
    await keys.look();
    await keys.look();
    const kept = readFileSync(join(folder, domain, 'keys.json'));
    await keys.rotate(domain);
    writeFileSync(join(folder, domain, 'keys.json'), kept); // the key is there, and its state is not
    assert.equal(await states(open()), 'r20261129 active*, e20261129 active*, e20261129-2 new, r20261129-2 new');
  });

  it('moves a key on by one state, and never back', () => {
    const key = (selector: string, state: 'new' | 'published' | 'active' | 'retired') =>
      ({ selector, algorithm: 'rsa', state }) as const;
    assert.deepEqual(movedOn([key('a', 'retired'), key('b', 'active')], 'a'), [
      key('a', 'retired'),
      key('b', 'active'),
    ]);
    assert.deepEqual(movedOn([key('a', 'new'), key('b', 'published')], 'b'), [key('a', 'retired'), key('b', 'active')]);
    assert.deepEqual(movedOn([key('a', 'active')], 'none'), [key('a', 'active')]);
  });
});

describe('a key that cannot be read', () => {
  const cases: Readonly<Record<string, (path: string) => void>> = {
    'is gone': path => rmSync(join(path, 'r20261129.pem')),
    'is no key': path => writeFileSync(join(path, 'r20261129.pem'), 'nonsense'),
    'has states that are no list': path => writeFileSync(join(path, 'keys.json'), '{}'),
    'has states that are no JSON': path => writeFileSync(join(path, 'keys.json'), '['),
  };
  for (const [what, breakIt] of Object.entries(cases))
    it(`because it ${what} is told as 'cannot tell', and is used again once it can be read`, async () => {
      const path = join(folder, domain);
      await open().signing(domain);
      const before = readdirSync(path).map(name => [name, readFileSync(join(path, name))] as const);
      breakIt(path);
      const keys = open();
      await assert.rejects(keys.signing(domain), { name: 'CannotTell', status: '4.7.5' });
      await keys.look();
      assert.match(lines.join(), /the DKIM keys of a domain cannot be looked after/);
      for (const [name, content] of before) writeFileSync(join(path, name), content);
      assert.equal(await signers(keys), 'r20261129 rsa, e20261129 ed25519');
    });
});

it('a record is recognised in other words', () => {
  const own = 'v=DKIM1; k=rsa; p=AAAA';
  for (const text of ['p=AAAA', 'v=DKIM1;p=AA AA', 'k=rsa; t=s; p=AAAA;', 'v=DKIM1; h=sha256; p=AAAA; n=x=y'])
    assert.ok(isRecordOf(text, own), text);
  for (const text of ['', 'p=', 'v=DKIM2; p=AAAA', 'k=ed25519; p=AAAA', 'p=AAAB'])
    assert.ok(!isRecordOf(text, own), text);
});
