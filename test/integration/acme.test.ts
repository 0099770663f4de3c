// A certificate by itself: the image against Pebble, Let's Encrypt's own authority for tests, on a small Internet. The
// first issue, a renewal with the same key, an authority that is not there, one that wants to be asked later, and a
// name that is not ours.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type PeerCertificate, connect } from 'node:tls';
import type { StartedTestContainer } from 'testcontainers';
import { eventually } from './client.ts';
import { docker, openStage } from './compose-lib.ts';
import { type Internet, openInternet } from './internet.ts';
import { operate, peerImage } from './peer-lib.ts';

const stage = openStage(after);
let internet: Internet;
let authority: string;
let directoryUrl: string;

/** Certificates last a minute here. */
const pebble = `cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=pebble \\
  -addext "subjectAltName=IP:$(hostname -i)" -keyout key.pem -out cert.pem 2>/dev/null
printf '%s' '{"pebble":{"listenAddress":"0.0.0.0:14000","managementListenAddress":"0.0.0.0:15000","certificate":"/tmp/cert.pem","privateKey":"/tmp/key.pem","httpPort":80,"tlsPort":443,"certificateValidityPeriod":60,"profiles":{"default":{"description":"x","validityPeriod":60}}}}' >pebble.json
PEBBLE_VA_NOSLEEP=1 exec pebble -config pebble.json -dnsserver "$1:53"`;

before(async () => {
  internet = await openInternet(stage);
  const host = await internet.run(peerImage, pebble, internet.resolver);
  const read = (): Promise<string> => docker('exec', host.id, 'cat', '/tmp/cert.pem');
  await eventually('Pebble has a certificate', () => read().then(...yesOrNo), 20_000);
  authority = await read();
  directoryUrl = `https://${host.address}:14000/dir`;
});
const yesOrNo = [() => true, () => false] as const;

const start = (domain: string, environment: Record<string, string> = {}): Promise<StartedTestContainer> =>
  internet.server(domain, {
    environment: {
      SLIM_ACME: `hostmaster@${domain}`,
      SLIM_ACME_URL: directoryUrl,
      NODE_EXTRA_CA_CERTS: '/authority.pem',
      ...environment,
    },
    files: { '/authority.pem': authority },
    // Its own probe asks as the machine does.
    prepare: container => container.withNetworkAliases(`mail.${domain}`),
  });
const publish = (domain: string, server: StartedTestContainer): Promise<void> =>
  internet.publish(domain, [`mail.${domain}. A ${server.getIpAddress(internet.network.getName())}`]);

/** What the submission port shows now. */
const shown = (server: StartedTestContainer): Promise<PeerCertificate> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port: server.getMappedPort(465), host: '127.0.0.1', rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate());
      socket.destroy();
    });
    socket.on('error', reject);
  });
const keyOf = ({ pubkey }: PeerCertificate): string => pubkey?.toString('hex') ?? '';
const issuerOf = ({ issuer }: PeerCertificate): string => String(issuer.CN);
const said = async (server: StartedTestContainer, sentence: string): Promise<boolean> =>
  (await operate(server).log()).some(({ msg }) => String(msg).startsWith(sentence));

test(
  'the first certificate has the key of the self-signed one, and so has the next',
  { timeout: 170_000 },
  async () => {
    const server = await start('one.example');
    const first = await shown(server);
    assert.equal(issuerOf(first), 'mail.one.example');
    await publish('one.example', server);
    // The first attempt may have come before the name was there: it is made again.
    let second = first;
    const isNew = async (): Promise<boolean> => issuerOf((second = await shown(server))).startsWith('Pebble');
    await eventually('a certificate of Pebble', isNew, 60_000).catch(async (error: Error) =>
      assert.fail(`${error.message}\n${await docker('logs', server.getId())}`),
    );
    assert.equal(keyOf(second), keyOf(first));
    assert.match(String(second.subjectaltname), /DNS:mail\.one\.example/);
    let third = second;
    const isRenewed = async (): Promise<boolean> => (third = await shown(server)).serialNumber !== second.serialNumber;
    await eventually('another certificate', isRenewed, 100_000);
    assert.equal(issuerOf(third), issuerOf(second));
    assert.equal(keyOf(third), keyOf(first));
  },
);

test('a name that is not ours brings no certificate, and the mail goes on', async () => {
  const server = await start('two.example', { SLIM_ACME_NAMES: 'www.elsewhere.example' });
  await publish('two.example', server);
  await internet.publish('elsewhere', [`www.elsewhere.example. A ${internet.resolver}`]);
  await eventually('a warning', () => said(server, 'a name does not lead to port 80 of this server'), 60_000);
  await eventually('an error', () => said(server, 'no certificate came from the authority'), 60_000);
  assert.equal(issuerOf(await shown(server)), 'mail.two.example');
  await operate(server).healthy();
});

test('an authority that is not there costs nothing but a line', async () => {
  const server = await start('three.example', { SLIM_ACME_URL: `https://${internet.resolver}:14000/dir` });
  await eventually('an error', () => said(server, 'no certificate came from the authority'), 60_000);
  assert.equal(issuerOf(await shown(server)), 'mail.three.example');
  await operate(server).healthy();
});

/** An authority that has had enough: 429 to everybody, for an hour. It writes a line for each request. */
const busy = `cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=busy \\
  -addext "subjectAltName=IP:$(hostname -i)" -keyout key.pem -out cert.pem 2>/dev/null
exec python3 -u -c '
import http.server, ssl
class Busy(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        print(self.path)
    def do_GET(self):
        self.send_response(429)
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Type", "application/problem+json")
        self.end_headers()
        self.wfile.write(b"{\\"detail\\": \\"too many new orders\\", \\"status\\": 429}")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server = http.server.HTTPServer(("", 14000), Busy)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
'`;

test('an authority that wants to be asked later is left alone, and doctor and status say so', async () => {
  const host = await internet.run(peerImage, busy);
  const read = (): Promise<string> => docker('exec', host.id, 'cat', '/tmp/cert.pem');
  await eventually('it has a certificate', () => read().then(...yesOrNo), 20_000);
  const server = await internet.server('four.example', {
    environment: {
      SLIM_ACME: 'hostmaster@four.example',
      SLIM_ACME_URL: `https://${host.address}:14000/dir`,
      NODE_EXTRA_CA_CERTS: '/authority.pem',
    },
    files: { '/authority.pem': await read() },
    prepare: container => container.withNetworkAliases('mail.four.example'),
  });
  const told = async (): Promise<Record<string, unknown>[]> =>
    (await operate(server).log()).filter(({ msg }) => String(msg).startsWith('no certificate came'));
  await eventually('an error', async () => (await told()).length > 0, 60_000);
  const [line = {}] = await told();
  assert.equal(line['error'], 'Error: too many new orders');
  const until = Date.parse(String(line['until'])) - Date.now();
  assert.ok(until > 3_400_000 && until <= 3_600_000, `${until} ms`);
  const sentence = /the authority is not asked for a certificate before \S+Z: too many new orders/;
  assert.match(await operate(server).slimsmtp('status'), new RegExp(`^! ${sentence.source}$`, 'm'));
  assert.match(
    await operate(server).shell('slimsmtp doctor; true'),
    new RegExp(`^note +certificate: ${sentence.source}`, 'm'),
  );
  assert.equal(issuerOf(await shown(server)), 'mail.four.example');
  await operate(server).healthy();
  // Neither at its next look nor after a restart is it asked again.
  await server.restart();
  await operate(server).healthy();
  await new Promise(resolve => setTimeout(resolve, 3000)); // it looks when it has started
  assert.equal((await told()).length, 1);
  assert.equal(await docker('logs', host.id), '/dir\n');
});
