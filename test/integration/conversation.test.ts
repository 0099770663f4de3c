// Two servers of ours that talk to each other over a small Internet with DNSSEC, their records being those that
// `slimsmtp dns` prints: mail that is signed by one, travels over DANE and is judged by the other; forgeries of it;
// forwards with SRS and ARC; a bounce that finds its way back; and a third one to which MTA-STS leads.
import assert from 'node:assert/strict';
import { createHash, createPublicKey } from 'node:crypto';
import { after, before, test } from 'node:test';
import type { StartedTestContainer } from 'testcontainers';
import { eventually } from './client.ts';
import { docker, openStage, together } from './compose-lib.ts';
import { type Host, type Internet, filesWith, openInternet } from './internet.ts';
import { type Operator, letter, marker, operate, peerImage, submit } from './peer-lib.ts';

const stage = openStage(after);
const anton = 'anton@one.example';
let internet: Internet;
let one: StartedTestContainer;
let two: StartedTestContainer;
let atOne: Operator;
/** A client whose address plain.example vouches for. */
let friend: Host;
/** The third server, and what a TLSA record says of its key. */
let sts: StartedTestContainer;
let stsDigest: string;

type Printed = Readonly<Record<'name' | 'type' | 'value' | 'zone' | 'status', string>>;
/** What `slimsmtp dns` prints, and whether it is content. */
async function records(server: StartedTestContainer): Promise<{ all: readonly Printed[]; isOk: boolean }> {
  const said = await operate(server).shell('slimsmtp dns --json; echo $?');
  const lines = said.trim().split('\n');
  return { isOk: lines.pop() === '0', all: lines.map(line => JSON.parse(line) as Printed) };
}

/** Publishes what a server wants published; DMARC with p=reject. */
async function obey(server: StartedTestContainer): Promise<readonly Printed[]> {
  const { all } = await records(server);
  const address = server.getIpAddress(internet.network.getName());
  const lines = all.map(({ zone }) => zone.replace('<address>', address).replace('p=none', 'p=reject'));
  await internet.publish(server.getId(), lines);
  return all;
}

before(async () => {
  internet = await openInternet(stage);
  // The host for policies of MTA-STS, and the authority of its certificate and of its mail server's.
  const hosts = ['sts', 'wrong', 'self'].map(name => `mta-sts.${name}.example`);
  const web = await internet.run(peerImage, policyHost, 'mail.sts.example', ...hosts);
  const read = (name: string): Promise<string> => docker('exec', web.id, 'cat', `/tmp/${name}`);
  await eventually('the policy host is up', () => read('up').then(...yesOrNo), 20_000);
  const [authority, cert, key] = await together([read('ca.pem'), read('mail.sts.example.pem'), read('key.pem')]);
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  stsDigest = createHash('sha256').update(spki).digest('hex');
  const [first, second, third, client] = await together([
    internet.server('one.example three.example', {
      environment: {
        SLIM_USERS: 'anton:secret',
        SLIM_STORAGES: 'lost@three.example=nobody@two.example default=/var/mail/default',
        NODE_EXTRA_CA_CERTS: '/authority.pem',
      },
      files: { '/authority.pem': authority },
    }),
    internet.server('two.example', {
      environment: {
        SLIM_STORAGES:
          'berta@two.example=/var/mail/berta anna@two.example=carla@three.example far@two.example=lost@three.example',
      },
    }),
    internet.server('sts.example late.example', {
      environment: { SLIM_TLS_CERT: cert, SLIM_TLS_KEY: key, SLIM_VERIFY: 'off' },
    }),
    internet.run(peerImage, 'exec sleep infinity'),
  ]);
  [one, two, friend] = [first, second, client];
  atOne = operate(one);
  sts = third;
  const at = third.getIpAddress(internet.network.getName());
  await internet.publish('others', [
    'quarantine.example. A 192.0.2.9',
    '_dmarc.quarantine.example. TXT "v=DMARC1; p=quarantine"',
    `plain.example. TXT "v=spf1 ip4:${friend.address} -all"`,
    '_dmarc.plain.example. TXT "v=DMARC1; p=reject"',
    ...['sts', 'wrong', 'self'].flatMap(name => [
      `_mta-sts.${name}.example. TXT "v=STSv1; id=1"`,
      `mta-sts.${name}.example. A ${web.address}`,
      `${name}.example. MX 10 mail.${name}.example.`,
    ]),
    `mail.sts.example. A ${at}`,
    `mail.wrong.example. A ${at}`,
    `mail.self.example. A ${two.getIpAddress(internet.network.getName())}`,
  ]);
  await together([obey(one), obey(two)]);
});
const yesOrNo = [() => true, () => false] as const;
/** An authority, certificates for these names, and a web server for all but the first. */
const policyHost = `cd /tmp && mkdir -p www/.well-known
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=authority -keyout ca.key -out ca.pem 2>/dev/null
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out key.pem 2>/dev/null
certify() { openssl req -new -key key.pem -subj "/CN=$1" -out request; printf 'subjectAltName=%s' "$2" >names
  openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 30 -extfile names -out $1.pem 2>/dev/null; }
certify $1 DNS:$1; shift
certify web "DNS:$1,DNS:$2,DNS:$3"
printf 'version: STSv1\\r\\nmode: enforce\\r\\nmx: mail.sts.example\\r\\nmx: mail.self.example\\r\\nmax_age: 86400\\r\\n' >www/.well-known/mta-sts.txt
cd www && exec python3 -c '
import http.server, ssl
server = http.server.HTTPServer(("", 443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/web.pem", "/tmp/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
open("/tmp/up", "w")
server.serve_forever()'`;

/** The only message with that text in a Maildir, once it is there. */
async function arrived(text: string, server = two, maildir = '/var/mail/berta'): Promise<string> {
  let files: string[] = [];
  const isThere = async (): Promise<boolean> => (files = await filesWith(server, maildir, text)).length > 0;
  await eventually(`${text} in ${maildir}`, isThere, 30_000).catch(async (error: Error) => {
    throw new Error(`${error.message}\n${await docker('logs', '--tail', '30', server.getId())}`);
  });
  assert.equal(files.length, 1);
  return files[0] ?? '';
}
/** What our field says of each method, in its order, such as `spf=pass dkim=fail`. */
const verdicts = (file: string): string => {
  const field = /^Authentication-Results: (.*\n(?:[ \t].*\n)*)/m.exec(file)?.[1] ?? assert.fail(file);
  return [...field.matchAll(/;\n\t(\w+=\w+)/g)].map(([, verdict]) => verdict).join(' ');
};
const post = async (to: string, text: string): Promise<void> =>
  assert.match(await submit(one.getMappedPort(465), [to], letter(text, 'hello\r\n', anton), { from: anton }), /^250/);
/** What the log says of TLS once a message has been delivered to that domain. */
async function tlsTo(domain: string): Promise<string> {
  let tls: unknown;
  const isTold = async (): Promise<boolean> => {
    const told = (await atOne.log()).findLast(
      ({ msg, destination }) => msg === 'mail was delivered' && destination === domain,
    );
    return (tls = told?.['tls']) !== undefined;
  };
  await eventually(`a delivery to ${domain}`, isTold, 5000);
  return String(tls);
}
const waits = (domain: string, status: string): Promise<void> =>
  eventually(
    `mail for ${domain} waits with ${status}`,
    async () =>
      (await atOne.queue('--domain', domain)).some(({ recipients }) =>
        recipients.some(each => each['status'] === status),
      ),
    20_000,
  );

test('all that `slimsmtp dns` prints is found once it is published, TLSA and PTR included', async () => {
  for (const server of [one, two]) {
    const content = async (): Promise<boolean> => {
      await obey(server);
      return (await records(server)).isOk;
    };
    await eventually('it is content', content, 30_000).catch(async () =>
      assert.deepEqual(
        (await records(server)).all.filter(({ status }) => status !== 'ok'),
        [],
      ),
    );
    const { all } = await records(server);
    for (const type of ['TLSA', 'PTR', 'MX', 'A'])
      assert.ok(
        all.some(each => each.type === type),
        type,
      );
  }
});

let asItLeft = '';
test('a signed mail goes over DANE, and SPF, DKIM and DMARC pass', async () => {
  const text = marker();
  await post('berta@two.example', text);
  const file = await arrived(text);
  assert.equal(verdicts(file), 'spf=pass dkim=pass dkim=pass dmarc=pass');
  assert.match(file, /^Return-Path: <anton@one\.example>\nAuthentication-Results: mail\.two\.example;\n/);
  assert.match(file, /header\.from=one\.example\nReceived: from mail\.one\.example /);
  assert.match(await tlsTo('two.example'), /verified by DANE/);
  asItLeft = file.slice(file.indexOf('DKIM-Signature:')).replaceAll('\n', '\r\n');
});

test('the same from a wrong address is believed for its signature', async () => {
  const text = marker();
  await post('berta@two.example', text);
  const file = await arrived(text);
  const again = file
    .slice(file.indexOf('DKIM-Signature:'))
    .replaceAll('\n', '\r\n')
    .replace('hello\r\n', 'hello  \r\n');
  assert.match(await internet.send(two, { from: anton, to: 'berta@two.example', message: again }), /^250/);
  let files: string[] = [];
  await eventually('both', async () => (files = await filesWith(two, '/var/mail/berta', text)).length === 2, 10_000);
  const found = files.map(verdicts).toSorted();
  assert.deepEqual(found, ['spf=pass dkim=pass dkim=pass dmarc=pass', 'spf=softfail dkim=pass dkim=pass dmarc=pass']);
});

test('with one octet changed it passes by its address alone, and is refused from elsewhere', async () => {
  const text = marker();
  const changed = asItLeft.replace('hello\r\n', `hellO ${text}\r\n`);
  const sent = { from: anton, to: 'berta@two.example', message: changed };
  assert.match(await internet.send(two, sent, { id: one.getId() }), /^250/);
  assert.equal(verdicts(await arrived(text)), 'spf=pass dkim=fail dkim=fail dmarc=pass');
  assert.match(await internet.send(two, sent), /^550 5\.7\.26/);
});

test('a forged From is refused where its domain says so, and goes to .Junk where it says that', async () => {
  const forged = (from: string, text: string) => ({
    from: 'x@nowhere.example',
    to: 'berta@two.example',
    message: letter(text, 'hello\r\n', from),
  });
  assert.match(await internet.send(two, forged(anton, marker())), /^550 5\.7\.26/);
  const text = marker();
  assert.match(await internet.send(two, forged('x@quarantine.example', text)), /^250/);
  assert.match(verdicts(await arrived(text, two, '/var/mail/berta/.Junk')), /dkim=none dmarc=fail$/);
  assert.deepEqual(await filesWith(two, '/var/mail/berta', text), []);
});

test('a forward carries the signature, a seal and an address of ours', async () => {
  const text = marker();
  await post('anna@two.example', text);
  const file = await arrived(text, one, '/var/mail/default');
  assert.match(file, /^Return-Path: <SRS0=[\w-]{8}=[A-Z2-7]{2}=one\.example=anton@two\.example>\n/);
  assert.equal(verdicts(file), 'spf=pass dkim=pass dkim=pass arc=pass dmarc=pass');
  assert.match(file, /^ARC-Authentication-Results: i=1; mail\.two\.example;\n\tspf=pass/m);
});

test('a forward of unsigned mail fails DMARC at the next server, which believes the seal and does not refuse it', async () => {
  const text = marker();
  const message = letter(text, 'hello\r\n', 'otto@plain.example');
  const sent = { from: 'otto@plain.example', to: 'anna@two.example', message };
  assert.match(await internet.send(two, sent, friend), /^250/);
  const file = await arrived(text, one, '/var/mail/default/.Junk');
  assert.equal(verdicts(file), 'spf=pass dkim=none arc=pass dmarc=fail');
  assert.match(await internet.send(two, sent), /^550 5\.7\.26/, 'from elsewhere it is not forwarded');
});

test('a bounce to a forward of a forward finds its way back to the author', async () => {
  const text = marker();
  await post('far@two.example', text);
  const notice = await arrived(text, one, '/var/mail/default');
  assert.match(notice, /^Return-Path: <>\n/);
  assert.match(notice, /^Final-Recipient: rfc822; nobody@two\.example\nAction: failed\nStatus: 5\.1\.1$/m);
  // It came from the second server, to which its address had led it.
  assert.match(notice, /^Received: from mail\.two\.example /m);
  assert.match(notice, /for <SRS0=[\w-]{8}=[A-Z2-7]{2}=one\.example=anton@two\.example>/);
  for (const server of [one, two])
    await eventually('nothing waits', async () => (await operate(server).queue()).length === 0, 20_000);
});

test('MTA-STS: mail goes to a host that the policy names and a known authority vouches for, and to no other', async () => {
  const text = marker();
  await post('x@sts.example', text);
  await arrived(text, sts, '/var/mail/default');
  assert.match(await tlsTo('sts.example'), /verified by MTA-STS/);
  for (const domain of ['wrong.example', 'self.example']) {
    await post(`x@${domain}`, marker());
    await waits(domain, '4.7.5');
  }
  const why = JSON.stringify(await atOne.queue());
  assert.match(why, /mail\.wrong\.example is not among the hosts of the MTA-STS policy/);
  assert.match(why, /MTA-STS of self\.example forbids/);
});

test('DANE: where the certificate does not fit, mail waits until it does', async () => {
  const publish = (digest: string): Promise<void> =>
    internet.publish('late', [
      'late.example. MX 10 mail.late.example.',
      `mail.late.example. A ${sts.getIpAddress(internet.network.getName())}`,
      `_25._tcp.mail.late.example. TLSA 3 1 1 ${digest}`,
    ]);
  await publish('00'.repeat(32));
  const text = marker();
  await post('x@late.example', text);
  await waits('late.example', '4.7.5');
  await publish(stsDigest);
  await arrived(text, sts, '/var/mail/default');
  assert.match(await tlsTo('late.example'), /verified by DANE/);
});
