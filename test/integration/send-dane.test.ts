// DANE over real servers: NSD with a signed zone, Unbound as the resolver that validates, Postfix as the other server.
// What fits its TLSA record gets mail in a verified session; what shows another certificate gets none, and never in
// plain text.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from './client.ts';
import { docker, openStage, root, together } from './compose-lib.ts';
import { type Operator, type World, letter, marker, openWorld, operate, peerImage, submit } from './peer-lib.ts';

const stage = openStage(after);
const unboundImage = 'slimsmtp-unbound:test';
let world: World<'good' | 'old'>;
let operator: Operator;
let port: number;

/** A container of this world; its address. */
async function run(image: string, script: string, ...parameters: string[]): Promise<{ id: string; address: string }> {
  const where = ['--network', world.network.getName(), '--entrypoint', 'sh'];
  const id = (await docker('run', '--detach', ...where, image, '-c', script, 'sh', ...parameters)).trim();
  stage.own(() => docker('rm', '--force', '--volumes', id));
  const address = await docker('inspect', '-f', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id);
  return { id, address: address.trim() };
}

before(async () => {
  [world] = await together([
    openWorld(stage, 'good', 'old'),
    docker('build', '-q', '-t', unboundImage, `${root}docker/unbound`),
  ]);
  const { good, old } = world.peers;
  const digest = await good.shell(
    'openssl x509 -in /etc/postfix/cert.pem -pubkey -noout | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r | cut -c1-64',
  );
  const sign = [
    'cd /tmp && cp /etc/nsd/root.zone zone && printf "%s\\n" "$@" >>zone',
    'key=$(ldns-keygen -a ECDSAP256SHA256 -k .) && ldns-signzone -n zone $key',
    'cp zone.signed /etc/nsd/root.zone && cat $key.key >/tmp/anchor && exec nsd -d -c /etc/nsd/nsd.conf',
  ].join(' && ');
  const records = [
    `good.peer A ${good.address}`,
    `old.peer A ${old.address}`,
    `_25._tcp.good.peer TLSA 3 1 1 ${digest.trim()}`,
    `_25._tcp.old.peer TLSA 3 1 1 ${'00'.repeat(32)}`,
  ];
  const nsd = await run(peerImage, sign, ...records);
  let anchor = '';
  const isSigned = async (): Promise<boolean> =>
    (anchor = await docker('exec', nsd.id, 'cat', '/tmp/anchor').catch(() => '')) !== '';
  await eventually('the zone is signed', isSigned, 10_000);
  const configuration = [
    'include: /etc/unbound/unbound.conf',
    'server:',
    `  trust-anchor: "${anchor.trim().replace(/\s*;.*/, '')}"`,
    'forward-zone:',
    '  name: .',
    `  forward-addr: ${nsd.address}`,
  ];
  const unbound = await run(
    unboundImage,
    'printf "%s\\n" "$@" >/tmp/test.conf && exec unbound -d -c /tmp/test.conf',
    ...configuration,
  );
  const environment = { SLIM_RESOLVER: unbound.address, SLIM_EXTERNAL_TLS: 'opportunistic' };
  const server = await world.server({ environment });
  operator = operate(server);
  port = server.getMappedPort(465);
});

test('mail goes where the certificate fits, though nobody has signed it', async () => {
  const text = marker();
  assert.match(await submit(port, ['x@peer.example'], letter(text)), /^250/);
  await eventually('it has arrived', async () => (await world.peers.good.mails(text)).length === 1, 20_000);
  assert.ok(!(await operator.log()).some(({ msg }) => String(msg).startsWith('DANE is off')));
});

test('mail waits where the certificate does not fit, and never goes in plain text', async () => {
  const text = marker();
  assert.match(await submit(port, ['x@old.example'], letter(text)), /^250/);
  const waits = async (): Promise<boolean> =>
    (await operator.queue()).some(({ recipients }) => recipients.some(({ status }) => status === '4.7.5'));
  await eventually('it waits with 4.7.5', waits, 20_000);
  assert.deepEqual(await world.peers.old.mails(text), []);
  assert.ok(!(await world.peers.old.log()).includes('from=<anton@example.com>'));
});
