// Signed mail, as it arrives at other servers by MX, is verified by two implementations that are not ours: dkimpy and
// OpenDKIM. And what an operator sees of keys and records.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { eventually } from './client.ts';
import { openStage } from './compose-lib.ts';
import {
  type Operator,
  type Sending,
  type World,
  letter,
  login,
  marker,
  openWorld,
  operate,
  submit,
} from './peer-lib.ts';

const stage = openStage(after);
let world: World<'good' | 'old'>;
let server: StartedTestContainer;
let operator: Operator;
/** Names and TXT records of the keys, as `slimsmtp dns` prints them. */
let keys: readonly string[];

before(async () => {
  world = await openWorld(stage, 'good', 'old');
  server = await world.server({ environment: { SLIM_DKIM: 'on' } });
  operator = operate(server);
  keys = (await records())
    .filter(({ name }) => name.includes('._domainkey.'))
    .flatMap(each => [each.name.slice(0, -1), each.value]);
});

type Published = { readonly name: string; readonly value: string; readonly status: string };
async function records(): Promise<readonly Published[]> {
  const { out } = await fails('dns', '--json');
  return out
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line) as Published);
}
/** A command that is to exit with 1, since nothing is published. */
async function fails(...words: string[]): Promise<{ readonly out: string }> {
  const out = await operator.shell('slimsmtp "$@"; echo "exit $?"', ...words);
  assert.match(out, /\nexit 1\n$/);
  return { out: out.replace(/exit 1\n$/, '') };
}

/** Sends it, and gives what the two say of it where it arrives: `NAME pass` for each signature. */
async function judged(
  message: string,
  text: string,
  peer: 'good' | 'old',
  by: typeof submit = submit,
): Promise<string> {
  assert.match(await by(server.getMappedPort(465), [`${text}@${peer}.peer.example`], message), /^250/);
  const { mails, shell } = world.peers[peer];
  await eventually(`${text} at ${peer}`, async () => (await mails(text)).length === 1, 20_000);
  const said = JSON.parse(await shell('verify.py "$@"', text, ...keys)) as { dkimpy: string[]; opendkim: string };
  const opendkim = [...said.opendkim.replaceAll('\\n', ' ').matchAll(/dkim=(\w+)[^;']*?header\.s=([\w-]+)/g)].map(
    ([, verdict, selector]) => `${selector} ${verdict}`,
  );
  assert.deepEqual(opendkim, said.dkimpy, said.opendkim);
  return said.dkimpy.map(each => each.replace(/\d{8}/, '')).join(', ');
}
const both = 'r pass, e pass';

/** The same by BDAT, in two chunks. */
async function submitByBdat(port: number, to: readonly string[], message: string, how: Sending = {}): Promise<string> {
  const client = await login(port, how);
  try {
    await client.say(`MAIL FROM:<${how.from ?? 'anton@example.com'}> BODY=8BITMIME`);
    for (const recipient of to) await client.say(`RCPT TO:<${recipient}>`);
    const octets = Buffer.from(message, 'latin1');
    const half = octets.length >> 1;
    client.send(Buffer.concat([Buffer.from(`BDAT ${half}\r\n`), octets.subarray(0, half)]));
    await client.say();
    client.send(Buffer.concat([Buffer.from(`BDAT ${octets.length - half} LAST\r\n`), octets.subarray(half)]));
    return await client.say();
  } finally {
    client.socket.destroy();
  }
}

const bodies: Readonly<Record<string, string>> = {
  plain: 'hello\r\n.\r\n..dots\r\n',
  empty: '',
  'of empty lines': '\r\n\r\n \r\n\t\r\n',
  'with blanks everywhere': '\r\n  a  b \t\r\n\r\n\r\n c\t\r\n\r\n\r\n',
  '8-bit': 'gr\xfc\xdfe \xa0 \x85\r\n',
  'of long lines': `${'x '.repeat(400)}\r\n`.repeat(10),
};
for (const [what, body] of Object.entries(bodies))
  test(`a body that is ${what} is verified, by DATA, by BDAT, and after conversion to 7 bit`, async () => {
    const text = marker();
    assert.equal(await judged(letter(text, body), text, 'good'), both);
    const again = marker();
    assert.equal(await judged(letter(again, body), again, 'good', submitByBdat), both);
    const converted = marker();
    assert.equal(await judged(letter(converted, body), converted, 'old'), both);
  });

test('what arrived at the server without 8BITMIME was converted before it was signed', async () => {
  const text = marker();
  assert.equal(await judged(letter(text, 'gr\xfc\xdfe\r\n'), text, 'old'), both);
  const [mail = ''] = await world.peers.old.mails(text);
  assert.match(mail.toString('latin1'), /\ngr=FC=DFe\n$/);
});

test('10 MB are verified', async () => {
  const text = marker();
  assert.equal(await judged(letter(text, `${'0123456789 '.repeat(7)}\r\n`.repeat(127_000)), text, 'good'), both);
});

test('a rotation makes keys that do not sign before their records are there', async () => {
  assert.match(
    await operator.slimsmtp('dkim', 'list'),
    /^example\.com\tr\d+\trsa\tnew, signs\nexample\.com\te\d+\ted25519\tnew, signs\n$/,
  );
  const out = await operator.slimsmtp('dkim', 'rotate', 'example.com');
  assert.match(out, /\tr\d+-2\trsa\tnew\nexample\.com\te\d+-2\ted25519\tnew\npublish what is new/);
  assert.equal((await records()).filter(({ name }) => name.includes('._domainkey.')).length, 4);
  const text = marker();
  assert.equal(await judged(letter(text), text, 'good'), both); // with the keys that were known before
});

test('dns prints a zone file, and says what is missing', async () => {
  const { out } = await fails('dns', 'example.com');
  assert.match(out, /^; missing\nexample\.com\. IN MX 10 mail\.example\.com\.\n/);
  assert.match(out, /^_dmarc\.example\.com\. IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@example\.com"$/m);
});

test('a key that cannot be read keeps mail waiting; it leaves once it can', async () => {
  const folder = '/var/lib/slimsmtp/dkim/example.com';
  const pem = `${folder}/$(ls ${folder} | grep '^r[0-9]*\\.pem$')`;
  await operator.shell(`mv ${pem} ${folder}/r.kept && kill -HUP 1`);
  const text = marker();
  assert.match(await submit(server.getMappedPort(465), [`${text}@good.peer.example`], letter(text)), /^250/);
  const waits = async (): Promise<boolean> =>
    JSON.stringify(await operator.queue()).includes('the DKIM keys of example.com cannot be read');
  await eventually('it waits', waits, 20_000);
  assert.equal((await world.peers.good.mails(text)).length, 0);
  await operator.shell(
    `cd ${folder} && mv r.kept $(sed -n 's/.*"selector": "\\(r[0-9]*\\)",/\\1/p' keys.json).pem && kill -HUP 1`,
  );
  await eventually('it arrives', async () => (await world.peers.good.mails(text)).length === 1, 20_000);
});
