// Block lists (SLIM_DNSBL) with a DNS that says what a test wants: which answers count, what a list that is silent or
// talks nonsense costs, and who is asked about.
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { openBlockLists } from '../../src/filters/dnsbl.ts';
import { stranger } from '../../src/inbound/peer.ts';
import { type Policy, answerRecipient, meet } from '../../src/inbound/policy.ts';
import { parseAddress } from '../../src/smtp/address.ts';
import { replies } from '../../src/smtp/reply.ts';
import { Gatherer } from '../../src/system/gather.ts';
import { answerOf, noSuch } from '../contract/null-dns.ts';

let asked: string[] = [];
let lines: string[] = [];
const time = { now: 1_700_000_000_000 };
beforeEach(() => {
  asked = [];
  lines = [];
});

type Zone = Readonly<Record<string, string | Error | 'silent'>>;
/** What the DNS has: addresses by name, texts by `TXT name`. */
function open(zone: Zone, zones: readonly string[] = ['bl.example'], patienceMs = 50) {
  const note = (fields: Record<string, unknown>, text: string) => void lines.push(`${text} ${JSON.stringify(fields)}`);
  const look = async (key: string) => {
    asked.push(key);
    const found = zone[key];
    if (found === 'silent') return new Promise<never>(() => {});
    if (found === undefined) throw noSuch('ENOTFOUND');
    if (typeof found !== 'string') throw found;
    return answerOf(found.split(' | '));
  };
  return openBlockLists({
    zones,
    dns: { addresses: look, txt: name => look(`TXT ${name}`) },
    clock: { now: () => time.now },
    gatherer: new Gatherer({ debug: note, info: note, warn: note, error: note }),
    patienceMs,
  });
}

describe('a client is listed', () => {
  it('by an answer within 127.0.0.0/24, with what the list says', async () => {
    const find = open({
      '9.2.0.192.bl.example': '127.0.0.4',
      'TXT 9.2.0.192.bl.example': 'see https://bl.example\n\u00fc',
    });
    assert.equal(await find('192.0.2.9'), 'see https://bl.example??');
    assert.equal(await find('192.0.2.8'), undefined);
  });

  it('by its whole IPv6 address', async () => {
    const name = `${'1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2'}.bl.example`;
    assert.equal(await open({ [name]: '127.0.0.2' })('2001:db8::1'), '');
  });

  it('where one of several lists has it, and the others fail', async () => {
    const zone = { '9.2.0.192.a.example': noSuch('ESERVFAIL'), '9.2.0.192.b.example': '127.0.0.2' };
    assert.equal(await open(zone, ['a.example', 'b.example', 'c.example'])('192.0.2.9'), '');
  });

  it('and asked for once a minute', async () => {
    const find = open({ '9.2.0.192.bl.example': '127.0.0.2' });
    await Promise.all([find('192.0.2.9'), find('192.0.2.9')]);
    assert.equal(asked.length, 2, 'an address, and a text');
    time.now += 61_000;
    await find('192.0.2.9');
    assert.equal(asked.length, 4);
  });
});

describe('a list', () => {
  it('that answers anything else is not asked for an hour, and that is reported', async () => {
    for (const answer of ['127.255.255.254', '127.0.1.2', '203.0.113.1', '127.0.0.2 | 10.0.0.1']) {
      lines = [];
      const find = open({ '9.2.0.192.bl.example': answer, '8.2.0.192.bl.example': '127.0.0.2' });
      assert.equal(await find('192.0.2.9'), undefined);
      assert.equal(await find('192.0.2.8'), undefined, 'it is off');
      assert.match(
        lines.join('\n'),
        /^a block list refuses to answer: it is not asked for an hour \{"list":"bl\.example"/,
      );
      time.now += 3_600_000;
      assert.equal(await find('192.0.2.8'), '');
    }
  });

  it('that is silent delays nobody for long, and for a minute nobody at all', async () => {
    const find = open({ '9.2.0.192.bl.example': 'silent', '8.2.0.192.bl.example': 'silent' });
    assert.equal(await find('192.0.2.9'), undefined);
    assert.equal(await find('192.0.2.8'), undefined);
    assert.deepEqual(asked, ['9.2.0.192.bl.example']);
    assert.match(lines.join('\n'), /a block list does not answer/);
    time.now += 60_000;
    await find('192.0.2.7');
    assert.equal(asked.length, 2);
  });

  it('that the DNS cannot tell of has nobody on it', async () => {
    for (const code of ['ESERVFAIL', 'EREFUSED', 'ECONNREFUSED'])
      assert.equal(await open({ '9.2.0.192.bl.example': noSuch(code) })('192.0.2.9'), undefined);
  });

  it('whose text is missing, silent or long has its say all the same', async () => {
    const name = '9.2.0.192.bl.example';
    assert.equal(await open({ [name]: '127.0.0.2', [`TXT ${name}`]: 'silent' })('192.0.2.9'), '');
    assert.equal((await open({ [name]: '127.0.0.2', [`TXT ${name}`]: 'x'.repeat(9000) })('192.0.2.9'))?.length, 300);
  });
});

describe('who is asked about', () => {
  const policyWith = (find: (client: string) => Promise<string | undefined>): Policy => ({
    resolve: async () => ({ kind: 'unknown' }),
    returnPaths: { forForward: async from => from },
    senderCheck: 'off',
    gatherer: { line: () => {} } as never,
    filters: {
      findListing: async client => {
        const text = await find(client);
        return text === undefined ? undefined : replies.listed(text);
      },
    },
  });
  const [anton, postmaster] = [parseAddress('anton@example.com'), parseAddress('PostMaster@example.com')];
  assert.ok(anton && postmaster);
  const listed = { ...stranger, client: '192.0.2.9' };

  it('is a client from outside: from its first moment, then at RCPT, but for postmaster', async () => {
    const policy = policyWith(open({ '9.2.0.192.bl.example': '127.0.0.2', 'TXT 9.2.0.192.bl.example': 'go away' }));
    meet(listed, policy);
    await new Promise(setImmediate);
    assert.equal(asked.length, 2);
    const { reply } = await answerRecipient(anton, listed, '', policy);
    assert.deepEqual([reply.code, reply.status, reply.text], [554, '5.7.1', 'go away']);
    assert.equal(asked.length, 2, 'known by then');
    assert.equal((await answerRecipient(postmaster, listed, '', policy)).reply.status, '5.1.1');
    assert.equal((await answerRecipient(anton, { ...listed, client: '192.0.2.1' }, '', policy)).reply.status, '5.1.1');
  });

  it('is nobody else', async () => {
    const policy = policyWith(open({}));
    for (const peer of [
      { ...listed, isTrusted: true },
      { ...listed, login: { name: 'anton', address: { local: 'anton', domain: 'example.com' } as never } },
      { ...listed, isShared: true },
      { ...listed, client: '127.0.0.2' },
      { ...listed, client: '::1' },
    ]) {
      meet(peer, policy);
      await answerRecipient(anton, peer, '', policy);
    }
    assert.deepEqual(asked, []);
  });
});
