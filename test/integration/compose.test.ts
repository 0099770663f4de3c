// The shipped compose file, as a user starts it: nothing set, real PostgreSQL, real Unix accounts, mail over TCP.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { deliver, dial, eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';

const stage = openStage(after);
let compose: (...parameters: string[]) => Promise<string>;
let port: number;
const shell = (script: string): Promise<string> => compose('exec', '-T', 'slimsmtp', 'sh', '-c', script);
const sql = (statement: string): Promise<string> =>
  compose('exec', '-T', 'postgres', 'psql', '-U', 'slimsmtp', '-tAc', statement);
const anton = '/home/anton/Maildir/new';
const fallback = '/var/mail/default/new';

before(async () => {
  compose = await stage.compose();
  port = await portOf();
});

async function portOf(): Promise<number> {
  return Number((await compose('port', 'slimsmtp', '25')).trim().split(':').at(-1));
}

/** Takes the only message out of a Maildir: its text below the trace lines. */
async function take(folder: string): Promise<Buffer> {
  const names = (await shell(`ls ${folder}`)).trim().split('\n').filter(Boolean);
  assert.equal(names.length, 1, `${folder}: ${names.join(' ')}`);
  const taken = Buffer.from(await shell(`base64 ${folder}/${names[0]} && rm ${folder}/${names[0]}`), 'base64');
  const trace =
    /^Return-Path: <sender@example\.net>\n(?:Delivered-To: [^\n]*\n)*(?:Authentication-Results: [^\n]*\n(?:\t[^\n]*\n)*)?Received: [^\n]*\n(?:\t[^\n]*\n)*/.exec(
      taken.toString('latin1'),
    );
  assert.ok(trace, taken.toString('latin1', 0, 500));
  return taken.subarray(trace[0].length);
}

const bodies: Record<string, Buffer> = {
  'plain text': Buffer.from('Subject: hello\r\n\r\nhello\r\n'),
  'an empty body': Buffer.alloc(0),
  'dots at the start of lines': Buffer.from('Subject: dots\r\n\r\n.\r\n..\r\n...x\r\n. \r\n'),
  '8-bit and NUL octets': Buffer.concat([
    Buffer.from('Subject: 8bit\r\n\r\n'),
    Buffer.from(Array.from({ length: 256 }, (_, octet) => octet).filter(octet => octet !== 10 && octet !== 13)),
    Buffer.from('\r\n'),
  ]),
  'a line of 100,000 octets': Buffer.from(`Subject: long\r\n\r\n${'x'.repeat(100_000)}\r\n`),
  '30 MB': Buffer.from(`Subject: big\r\n\r\n${`${'0123456789abcdef'.repeat(4)}\r\n`.repeat(30 * 16_384)}`),
};

for (const [name, body] of Object.entries(bodies)) {
  test(`${name} arrives octet for octet, by every kind of route`, async () => {
    for (const to of ['anton', 'facebook', 'twitter', 'nobody']) {
      assert.match(await deliver(port, [`${to}@example.com`], body), /^250 2\.0\.0 /);
      const folder = to === 'nobody' ? fallback : anton;
      const arrived = await take(folder);
      const expected = Buffer.from(body.toString('latin1').replaceAll('\r\n', '\n'), 'latin1');
      assert.ok(arrived.equals(expected), `${to}: ${arrived.length} octets instead of ${expected.length}`);
    }
  });
}

test('mail in a home belongs to its account alone, mail elsewhere to slim', async () => {
  assert.match(await deliver(port, ['anton@example.com', 'nobody@example.com'], 'Subject: whose\r\n\r\n'), /^250 /);
  const owner = (path: string): Promise<string> => shell(`stat -c '%u %a' ${path} ${path}/*`);
  const uid = (await shell('getent passwd anton')).split(':')[2];
  assert.equal(await owner(anton), `${uid} 700\n${uid} 600\n`);
  assert.equal(await owner(fallback), '525 700\n525 600\n');
  await shell(`rm ${anton}/* ${fallback}/*`);
});

test('several recipients that lead to one Maildir get one copy', async () => {
  const to = ['anton@example.com', 'facebook@example.com', 'anton+shop@example.com', 'TWITTER@EXAMPLE.COM'];
  assert.match(await deliver(port, to, 'Subject: once\r\n\r\n'), /^250 /);
  await take(anton);
});

test('a row that is inserted, changed or deleted counts within 5 s', async () => {
  const lands = async (folder: string): Promise<boolean> => {
    assert.match(await deliver(port, ['new@fresh.example'], 'Subject: row\r\n\r\n'), /^(250|550 5\.7\.1|550 5\.1\.1)/);
    const found = (
      await shell(`ls ${folder} 2>/dev/null | wc -l; rm -f ${anton}/* ${fallback}/* /var/mail/fresh.example/new/new/*`)
    ).trim();
    return Number(found) > 0;
  };
  await sql(`INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('New', 'Fresh.Example', 'MAILDIR')`);
  await eventually('inserted', () => lands('/var/mail/fresh.example/new/new'), 5000);
  await sql(`UPDATE smtp SET account_backend = '@SOCIAL' WHERE domain = 'Fresh.Example'`);
  await eventually('changed', () => lands(anton), 5000);
  await sql(`DELETE FROM smtp WHERE domain = 'Fresh.Example'`);
  const refused = async (): Promise<boolean> =>
    (await deliver(port, ['new@fresh.example'], 'Subject: row\r\n\r\n')).startsWith('550 5.7.1');
  await eventually('deleted', refused, 5000);
  await shell(`rm -f ${anton}/* ${fallback}/*`);
});

test('without PostgreSQL known and unknown get 451, and 250 within 5 s once it is back', async () => {
  const health = async (): Promise<string> =>
    (await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'health')).split(':')[0] ?? '';
  assert.equal(await health(), 'healthy');
  await compose('stop', 'postgres');
  for (const to of ['anton', 'facebook', 'nobody', 'postmaster'])
    assert.match(await deliver(port, [`${to}@example.com`], 'Subject: out\r\n\r\n'), /^451 4\./, to);
  assert.match(await deliver(port, ['x@elsewhere.example'], ''), /^550 5\.7\.1/);
  assert.equal(await health(), 'degraded');
  assert.equal(await shell(`ls ${fallback}`), '');
  await compose('up', '--detach', '--wait', '--no-recreate', 'postgres');
  const isBack = async (): Promise<boolean> =>
    (await deliver(port, ['anton@example.com'], 'Subject: back\r\n\r\n')).startsWith('250');
  await eventually('250', isBack, 5000);
  await take(anton);
});

test('hostile recipients get a clear reply and leave nothing outside the roots', async () => {
  const cases: [string, RegExp][] = [
    ['../../x@example.com', /^501 5\.1\.3/],
    ['"../../x"@example.com', /^250/],
    ['"a/b"@example.com', /^250/],
    ['-f@example.com', /^250/],
    [`x';drop table smtp;--@example.com`, /^501 5\.1\.3/],
    [`"x';drop table smtp;--"@example.com`, /^250/],
    [`${'a'.repeat(242)}@example.com`, /^250/],
    [`${'a'.repeat(243)}@example.com`, /^501 5\.1\.3/],
    ['a\0b@example.com', /^500 5\.5\.2/],
    ['grün@example.com', /^553 5\.6\.7/],
    ['root@example.com', /^250/],
    ['anton%elsewhere.example@example.com', /^250/],
    ['elsewhere.example!anton@example.com', /^250/],
    ['anton@elsewhere.example', /^550 5\.7\.1/],
    ['@example.com:anton@elsewhere.example', /^550 5\.7\.1/],
    ['anton@[127.0.0.1]', /^550 5\.7\.1/],
  ];
  await sql(
    `INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('../../evil', 'example.com', 'MAILDIR'), ('root', 'example.com', 'PAM')`,
  );
  await shell('touch -d "-1 second" /var/lib/slimsmtp/accounts/mark');
  let kept = 0;
  for (const [recipient, expected] of cases) {
    const reply = await deliver(port, [recipient], `Subject: ${kept}\r\n\r\n`);
    assert.match(reply, expected, recipient);
    if (reply.startsWith('250')) kept += 1;
  }
  assert.match(await deliver(port, ['"../../evil"@example.com'], 'Subject: evil\r\n\r\n'), /^250/);
  const files = (
    await shell(
      'find /var/mail /home /var/lib/slimsmtp /root /etc /tmp -newer /var/lib/slimsmtp/accounts/mark -type f | sort',
    )
  )
    .trim()
    .split('\n');
  const evil = files.filter(file => file.includes('evil'));
  assert.equal(evil.length, 1);
  assert.match(evil[0] ?? '', /^\/var\/mail\/example\.com\/%2E\.%2F\.\.%2Fevil\/new\/[^/]+$/);
  const own = /^\/var\/lib\/slimsmtp\/(?:state|journal|history)\//;
  const others = files.filter(file => !file.includes('evil') && !own.test(file));
  assert.equal(others.length, kept, others.join('\n'));
  for (const file of others) assert.ok(file.startsWith(`${fallback}/`), file);
  assert.equal((await sql('SELECT count(*) > 4 FROM smtp')).trim(), 't');
  await sql(`DELETE FROM smtp WHERE mailbox IN ('../../evil', 'root')`);
  await shell(`rm -rf ${fallback}/* /var/lib/slimsmtp/accounts/mark`);
});

test('an account made on the command line gets its mail, and resolve says why', async () => {
  const slimsmtp = (...words: string[]): Promise<string> => compose('exec', '-T', 'slimsmtp', 'slimsmtp', ...words);
  await slimsmtp('account', 'add', 'berta');
  assert.match(await slimsmtp('account', 'list'), /^berta\t1\d{3}\t\/home\/berta\tlocked$/m);
  await sql(`INSERT INTO smtp (mailbox, domain, account_backend) VALUES ('berta', '@SOCIAL', 'ALIAS')`);
  const steps = await slimsmtp('resolve', 'facebook+tag@example.com');
  assert.match(steps, /@SOCIAL/);
  assert.match(steps, /anton/);
  assert.match(steps, /berta/);
  assert.match(await deliver(port, ['facebook@example.com'], 'Subject: both\r\n\r\n'), /^250/);
  await take(anton);
  await take('/home/berta/Maildir/new');
  await sql(`DELETE FROM smtp WHERE mailbox = 'berta'`);
  await slimsmtp('account', 'remove', 'berta');
});

test('a health check leaves no trace in the log, a message and a session leave one line each', async () => {
  const id = (await compose('ps', '-q', 'slimsmtp')).trim();
  const log = async (): Promise<string[]> => (await docker('logs', id)).trim().split('\n');
  const earlier = (await log()).length;
  await compose('exec', '-T', 'slimsmtp', 'slimsmtp', 'health');
  assert.match(await deliver(port, ['anton@example.com'], 'Subject: secret body\r\n\r\nnobody logs this\r\n'), /^250/);
  await eventually('two lines', async () => (await log()).length >= earlier + 2, 3000);
  const lines = (await log()).slice(earlier).map(line => JSON.parse(line));
  assert.deepEqual(
    lines.map(line => line.msg),
    ['message delivered', 'session ended'],
  );
  assert.deepEqual(lines[0].to, ['anton@example.com']);
  assert.equal(lines[0].session, lines[1].session);
  assert.ok(!JSON.stringify(lines).includes('nobody logs this'));
  await take(anton);
});

test('the network process is slim without any capability; root and the steward keep only four', async () => {
  const status = await shell(
    'for p in /proc/[0-9]*; do tr "\\0" " " <$p/cmdline; grep -E "^(Name|State|Uid|Groups|CapEff|CapBnd|NoNewPrivs):" $p/status | tr "\\n" " "; echo; done',
  );
  // The engine asks for the health every few seconds: that may be a third, or just have ended.
  const nodes = status
    .split('\n')
    .filter(line => /Uid:\t(?:0|525)\t/.test(line) && /Name:\t(?:node|MainThread)/.test(line))
    .filter(line => !/ health Name:|State:\tZ/.test(line));
  assert.equal(nodes.length, 2, status);
  const network = nodes.find(line => line.includes('Uid:\t525\t525\t525\t525')) ?? '';
  assert.match(network, /CapEff:\t0{16}/);
  assert.match(network, /Groups:\s+(?:Cap|525 Cap|$)/);
  // CHOWN 0, DAC_OVERRIDE 1, SETGID 6, SETUID 7
  assert.match(nodes.find(line => line.includes('Uid:\t0')) ?? '', /CapEff:\t00000000000000c3/);
  const seen = await docker(
    'exec',
    '-u',
    '525:525',
    (await compose('ps', '-q', 'slimsmtp')).trim(),
    'sh',
    '-c',
    'cat /var/lib/slimsmtp/accounts/shadow; ls /home/anton; touch /var/lib/slimsmtp/accounts/x; mv /var/lib/slimsmtp/accounts /var/lib/slimsmtp/b; echo done',
  ).catch(String);
  assert.equal(seen, 'done\n');
});

test('what got 250 is there after an immediate kill -9 of the whole container', async () => {
  const id = (await compose('ps', '-q', 'slimsmtp')).trim();
  assert.match(
    await deliver(port, ['anton@example.com', 'nobody@example.com'], 'Subject: kept\r\n\r\nkept\r\n'),
    /^250/,
  );
  await docker('kill', '--signal', 'KILL', id);
  // One that is cut off in the middle of a message leaves nothing to be seen.
  await compose('start', 'slimsmtp');
  await eventually('healthy again', async () => (await compose('ps', 'slimsmtp')).includes('(healthy)'), 60_000);
  port = await portOf();
  assert.equal((await take(anton)).toString(), 'Subject: kept\n\nkept\n');
  assert.equal((await take(fallback)).toString(), 'Subject: kept\n\nkept\n');
  const client = await dial(port);
  for (const line of [
    'MAIL FROM:<sender@example.net>',
    'RCPT TO:<anton@example.com>',
    'RCPT TO:<nobody@example.com>',
    'DATA',
  ])
    await client.say(line);
  client.send('x'.repeat(1_000_000));
  await new Promise(resolve => setTimeout(resolve, 300));
  client.socket.destroy();
  await eventually(
    'spool and tmp/ empty',
    async () =>
      (await shell(
        `ls /home/anton/Maildir/new /home/anton/Maildir/tmp ${fallback} /var/mail/default/tmp /var/lib/slimsmtp/spool | grep -v : | grep .; true`,
      )) === '',
    5000,
  );
});
