// A small Internet of its own, in one network of containers: a signed root zone on NSD, Unbound that validates it,
// servers of ours that find each other by MX, and strangers with addresses of their own.
// NSD itself is `names` for who wants a DNS server that does not validate.
// Promises: nothing in it has a name or an address outside; all of it ends with the stage; what was published last
// counts, within two seconds; a stranger sends exactly the octets that it is given.
import type { StartedNetwork, StartedTestContainer } from 'testcontainers';
import { eventually } from './client.ts';
import { type ServerOptions, type Stage, docker, root, together } from './compose-lib.ts';
import { peerImage } from './peer-lib.ts';

const unboundImage = 'slimsmtp-unbound:test';

export type Host = { readonly id: string; readonly address: string };
export type Internet = {
  readonly network: StartedNetwork;
  /** Unbound's address, and its container. */
  readonly resolver: string;
  readonly unbound: Host;
  /**
   * Puts lines of a zone file, with names in full, in the place of those that were published under that title before.
   */
  publish(title: string, lines: readonly string[]): Promise<void>;
  /** A container with that script as its main program. */
  run(image: string, script: string, ...parameters: string[]): Promise<Host>;
  /** `mail.<domain>`, for the first of these domains; asks the resolver that validates. */
  server(domains: string, options?: ServerOptions): Promise<StartedTestContainer>;
  /** The reply to a message; `as`: from the address of that container, else from a new one. */
  send(to: StartedTestContainer, letter: Sent, as?: { readonly id: string }): Promise<string>;
};
type Sent = Readonly<Record<'from' | 'to' | 'message', string>>;

export async function openInternet(stage: Stage): Promise<Internet> {
  const [network] = await together([
    stage.network(),
    docker('build', '-q', '-t', unboundImage, `${root}docker/unbound`),
  ]);
  const runAs = async (name: string[], image: string, script: string, ...parameters: string[]): Promise<Host> => {
    const where = ['--network', network.getName(), ...name, '--entrypoint', 'sh'];
    const id = (await docker('run', '--detach', ...where, image, '-c', script, 'sh', ...parameters)).trim();
    stage.own(() => docker('rm', '--force', '--volumes', id));
    const address = await docker('inspect', '-f', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id);
    return { id, address: address.trim() };
  };
  const run = (image: string, script: string, ...parameters: string[]): Promise<Host> =>
    runAs([], image, script, ...parameters);
  const makeKey = 'cd /tmp && key=$(ldns-keygen -a ECDSAP256SHA256 -k .) && mv $key.key key && mv $key.private private';
  const keyThenWait = `${makeKey} && mv key zone.key && mv private zone.private && exec sleep infinity`;
  const nsd = await runAs(['--network-alias', 'names'], peerImage, keyThenWait);
  const inNsd = (script: string, ...parameters: string[]): Promise<string> =>
    docker('exec', nsd.id, 'sh', '-c', `cd /tmp && ${script}`, 'sh', ...parameters);
  let anchor = '';
  const hasKey = async (): Promise<boolean> =>
    (anchor = await inNsd('test -e zone.private && cat zone.key').catch(() => '')) !== '';
  await eventually('the zone has a key', hasKey, 10_000);
  const configuration = [
    'include: /etc/unbound/unbound.conf',
    'server:',
    `  trust-anchor: "${anchor.trim().replace(/\s*;.*/, '')}"`,
    // Names of private addresses come from our zone, too.
    '  unblock-lan-zones: yes',
    '  cache-max-negative-ttl: 1',
    'forward-zone:',
    '  name: .',
    `  forward-addr: ${nsd.address}`,
  ];
  const listen = 'printf "%s\\n" "$@" >/tmp/test.conf && exec unbound -d -c /tmp/test.conf';
  const unbound = await run(unboundImage, listen, ...configuration);

  const published = new Map<string, readonly string[]>();
  let serial = 0;
  return {
    network,
    resolver: unbound.address,
    unbound,
    run,
    async publish(title, lines) {
      published.set(title, lines);
      serial += 1;
      const zone = ['$TTL 1', `. SOA ns. nobody. ${serial} 60 60 60 1`, '. NS ns.', `ns. A ${nsd.address}`];
      const sign = 'printf "%s\\n" "$@" >zone && ldns-signzone -n zone zone && cp zone.signed /etc/nsd/root.zone';
      const serve = 'nsd -d -c /etc/nsd/nsd.conf >/tmp/nsd.log 2>&1 & echo $! >/tmp/pid';
      await inNsd(
        `${sign} && if [ -e pid ]; then kill -HUP $(cat pid); else ${serve}; fi`,
        ...zone,
        ...[...published.values()].flat(),
      );
    },
    server: (domains, options = {}) =>
      stage.server({
        ...options,
        network,
        environment: {
          SLIM_DOMAINS: domains,
          SLIM_HOSTNAME: `mail.${domains.split(' ', 1).join()}`,
          SLIM_RESOLVER: unbound.address,
          SLIM_RETRY: '1s,1s,2s',
          ...options.environment,
        },
      }),
    async send(to, { from, to: recipient, message }, as) {
      const where = as === undefined ? network.getName() : `container:${as.id}`;
      const address = to.getIpAddress(network.getName());
      const words = [address, from, recipient, Buffer.from(message, 'latin1').toString('base64')];
      const said = await docker('run', '--rm', '--network', where, peerImage, 'python3', '-c', client, ...words);
      return said.trim();
    },
  };
}

/** Python's smtplib sends the octets as they are, dots doubled. */
const client = `
import base64, smtplib, sys
server, sender, to, message = sys.argv[1:]
session = smtplib.SMTP(server, 25, 'client.example')
session.ehlo()
said = [session.mail(sender), session.rcpt(to)]
if said[-1][0] == 250:
    said.append(session.data(base64.b64decode(message)))
print(said[-1][0], said[-1][1].decode())
`;

/** The messages in a Maildir with this text in them, as they lie there. */
export async function filesWith(server: { getId(): string }, maildir: string, text: string): Promise<string[]> {
  const script = 'exec 2>/dev/null; for file in $(grep -lrFe "$1" "$2/new"); do base64 -w0 "$file"; echo; done';
  const found = await docker('exec', server.getId(), 'sh', '-c', script, 'sh', text, maildir);
  return found
    .split('\n')
    .filter(Boolean)
    .map(line => Buffer.from(line, 'base64').toString('latin1'));
}
