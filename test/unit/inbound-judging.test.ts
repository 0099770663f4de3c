// Judged mail on its way in: what is written in front of it, what is refused, what goes to .Junk, and whose words are
// made harmless. The judge is a double; everything else is the real server.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { loopCheck } from '../../src/inbound/checks.ts';
import { type JudgingOptions, claimsCheck, judgingCheck, resultsField } from '../../src/inbound/judging.ts';
import type { Content, Judgement, MailFacts } from '../../src/mail/judgement.ts';
import { readMessage } from '../../src/mail/message.ts';
import { Client, type Running, startServer } from './inbound.harness.ts';

const fails: Judgement = {
  dkim: [],
  arc: { result: 'none' },
  dmarc: { result: 'fail', policy: 'quarantine', domain: 'example.net' },
  results: ['spf=fail smtp.mailfrom=example.net', 'dmarc=fail policy.dmarc=quarantine header.from=example.net'],
};
const field =
  'Authentication-Results: mx.example.com;\n\tspf=fail smtp.mailfrom=example.net;\n\tdmarc=fail policy.dmarc=quarantine header.from=example.net\n';

type Asked = { facts: MailFacts; text: string; onlyFrom: string | undefined };
let server: Running;
let asked: Asked[] = [];
afterEach(() => server.stop());

/** A server whose clients come from an address of the Internet, or so it believes. */
async function start(judgement: Judgement | undefined, more: Partial<JudgingOptions> & { isTrusted?: boolean } = {}) {
  asked = [];
  const judge = {
    judge: async (facts: MailFacts, { message, start: at }: Content, onlyFrom?: string) => {
      asked.push({ facts, text: readMessage(message, at, 1_000_000).toString('latin1'), onlyFrom });
      return judgement;
    },
  };
  const hostname = 'mx.example.com';
  const options = { judge, mode: 'on' as const, hostname, gatherer: { line: () => {} } as never, ...more };
  const inner = judgingCheck(options);
  // The test's own address is loopback, which says nothing.
  const outside: typeof inner = {
    ...inner,
    judge: arrived => inner.judge({ ...arrived, peer: { ...arrived.peer, client: '192.0.2.1' } }),
  };
  const { isTrusted = false } = more;
  server = await startServer({ isTrusted, checks: [loopCheck, outside, claimsCheck(hostname)] });
  return Client.to(server);
}

const send = async (client: Client, content: string): Promise<string> => {
  await client.begin('anton');
  return client.ask(`${content.replaceAll('\n', '\r\n')}\r\n.`);
};
const junk = (): string[] => {
  const folder = join(server.folder, 'mail', 'anton', '.Junk', 'new');
  return existsSync(folder) ? readdirSync(folder).map(name => readFileSync(join(folder, name), 'latin1')) : [];
};

for (const size of [20, 400_000])
  describe(`a message of ${size} octets`, () => {
    const body = 'x'.repeat(size);

    it('that passes has the field below Return-Path and above Received', async () => {
      const client = await start({ ...fails, dmarc: { result: 'pass', policy: 'none' } });
      assert.match(await send(client, `From: a@example.net\n\n${body}`), /^250 /);
      const [file = ''] = server.files('anton');
      const [head = ''] = file.split('Received: ', 1);
      assert.match(head, /^Return-Path: <me@example\.net>\n/);
      assert.ok(head.replaceAll(/ +\n/g, '\n').endsWith(field));
      assert.equal(asked[0]?.facts.client, '192.0.2.1');
      assert.equal(asked[0]?.text, `From: a@example.net\n\n${body}\n`);
    });

    it('that DMARC wants set apart goes to .Junk of that mailbox, a folder by Maildir++', async () => {
      const client = await start(fails);
      assert.match(await send(client, `From: a@example.net\n\n${body}`), /^250 /);
      assert.deepEqual(server.in('anton', 'new'), []);
      assert.equal(junk().length, 1);
      assert.ok(junk()[0]?.replaceAll(/ +\n/g, '\n').includes(`${field}Received: `));
      assert.equal(statSync(join(server.folder, 'mail/anton/.Junk/maildirfolder')).size, 0);
      const [line] = server.messageLines();
      assert.match(JSON.stringify(line), /anton\/\.Junk.*p=quarantine/);
    });

    it('loses no word of others, and ours only behind the judge', async () => {
      const client = await start({ ...fails, dmarc: { result: 'none', policy: 'none' } });
      const header =
        'A: 1\nAuthentication-Results: other.example; spf=pass\nauthentication-results: MX.example.com; dkim=pass\n';
      assert.match(await send(client, `${header}\n${body}`), /^250 /);
      assert.match(asked[0]?.text ?? '', /^authentication-results: MX/m);
      const [mail = ''] = server.files('anton');
      assert.ok(
        mail.includes(
          '\nAuthentication-Results: other.example; spf=pass\nX-Authentication-Claim: MX.example.com; dkim=pass\n\nxx',
        ),
      );
    });
  });

describe('mail from outside', () => {
  it('is refused with 550 5.7.26 where nothing vouches for it, and nothing of it is left', async () => {
    const client = await start({ ...fails, dmarc: { result: 'fail', policy: 'reject', domain: 'example.net' } });
    assert.match(await send(client, 'From: a@example.net\n\nx'), /^550 5\.7\.26 /);
    assert.deepEqual([server.in('anton', 'new'), junk(), server.spooled()], [[], [], []]);
    assert.match(await send(client, 'From: a@example.net\nList-Id: <x>\n\nx'), /^250 /);
    assert.equal(junk().length, 1);
  });

  it('hears 451 while too much waits to be judged', async () => {
    assert.match(await send(await start(undefined), 'From: a@example.net\n\nx'), /^451 4\.7\.0 /);
  });

  it('with a header that is too long is judged by its From fields alone, wherever they stand', async () => {
    const client = await start({ ...fails, dmarc: { result: 'pass', policy: 'none' } });
    assert.match(await send(client, `${'X: y\n'.repeat(20_000)}From: a@example.net\nTo: b\n\nx`), /^250 /);
    assert.equal(asked[0]?.onlyFrom, 'From: a@example.net');
  });

  it('with thousands of fields that matter is refused', async () => {
    const client = await start({ ...fails, dmarc: { result: 'pass', policy: 'none' } });
    assert.match(await send(client, `${'List-Id: x\n'.repeat(5001)}\nx`), /^552 5\.3\.4 /);
  });

  it('that bears no signature costs nothing where the address of the client says nothing', async () => {
    const judge = { judge: () => assert.fail('it was judged') };
    const options = { judge, mode: 'strict' as const, hostname: 'mx.example.com', gatherer: {} as never };
    server = await startServer({ checks: [judgingCheck(options)] });
    assert.match(await send(await Client.to(server), 'From: a@example.net\n\nx'), /^250 /);
    assert.match(
      server.files('anton')[0] ?? '',
      /Authentication-Results: mx\.example\.com;\n\tdkim=none .*;\n\tdmarc=none /,
    );
  });
});

describe('mail of a trusted network', () => {
  it('is not judged, and may not claim to be', async () => {
    const client = await start(fails, { isTrusted: true });
    assert.match(
      await send(client, 'From: a@example.net\nAuthentication-Results: mx.example.com; dkim=pass\n\nx'),
      /^250 /,
    );
    assert.deepEqual(asked, []);
    assert.match(server.files('anton')[0] ?? '', /^X-Authentication-Claim: mx\.example\.com; dkim=pass$/m);
  });
});

it('a field is folded where a result is long', () => {
  const results = [`spf=pass (${'word '.repeat(40)}end) smtp.mailfrom=example.net`];
  const lines = resultsField('mx.example.com', { results }).split('\n');
  assert.ok(lines.length > 4 && lines.every(line => line.length < 80));
});
