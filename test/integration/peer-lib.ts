// The world around the server under test: Postfix peers, a DNS that knows them (test/peers), real clients, and the
// server with settings for sending.
// Promises: all of it lives in a network of its own without any name outside, and ends with the stage; a peer tells
// what it was told (its log) and what arrived (octets); nothing is read by sleeping: `eventually` waits for what is
// promised.
// Never: a peer that is reached but by the addresses that the DNS gives (test/peers/root.zone).
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { StartedNetwork, StartedTestContainer } from 'testcontainers';
import { type Client, dial, eventually } from './client.ts';
import { type ServerOptions, type Stage, docker, together } from './compose-lib.ts';

export const peerImage = 'slimsmtp-peer:test';

/** Settings that make a Postfix into what its name says; MX of NAME.example is NAME.peer.example. */
const kinds = {
  good: [],
  down: [],
  plain: ['smtpd_tls_security_level=none'],
  stripped: ['smtpd_discard_ehlo_keywords=starttls'],
  /** Offers STARTTLS, and then has no protocol in common with anyone of today. */
  broken: ['smtpd_tls_protocols=<=TLSv1.1', 'smtpd_tls_ciphers=high'],
  old: ['smtpd_discard_ehlo_keywords=dsn,8bitmime,pipelining,chunking,smtputf8,size'],
} as const satisfies Record<string, readonly string[]>;
type Kind = keyof typeof kinds;

export type Container = {
  readonly id: string;
  readonly address: string;
  /** Runs a script; its output, and what it complained of. Rejects when it fails. */
  shell(script: string, ...parameters: string[]): Promise<string>;
};
type Peer = Container & {
  /** The messages with this text in them, whole, without the lines that Postfix put on top. */
  mails(text: string): Promise<Buffer[]>;
  log(): Promise<string>;
};
export type World<Name extends Kind> = {
  readonly network: StartedNetwork;
  readonly dns: string;
  readonly peers: Readonly<Record<Name, Peer>>;
  /** The server, asking this world's DNS, with short waits and the login anton:secret. */
  server(options?: ServerOptions): Promise<StartedTestContainer>;
  /** A machine with real clients on it. */
  client(): Promise<Container>;
};

export async function openWorld<Name extends Kind>(stage: Stage, ...names: Name[]): Promise<World<Name>> {
  const network = await stage.network();
  const start = async (options: string[], command: string[]): Promise<Container> => {
    const id = (
      await docker('run', '--detach', '--network', network.getName(), ...options, peerImage, ...command)
    ).trim();
    stage.own(() => docker('rm', '--force', '--volumes', id));
    const found = await docker('inspect', '-f', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', id);
    const shell = (script: string, ...parameters: string[]): Promise<string> =>
      docker('exec', id, 'sh', '-c', `exec 2>&1; ${script}`, 'sh', ...parameters).catch(
        (error: Error & { stdout?: string }) => {
          throw new Error(`${script}\n${error.stdout ?? error.message}`);
        },
      );
    return { id, address: found.trim(), shell };
  };
  const peer = async (name: Name): Promise<[Name, Peer]> => {
    const hostname = `${name}.peer.example`;
    const container = await start(['--hostname', hostname], ['postfix.sh', ...kinds[name]]);
    const log = (): Promise<string> => container.shell('cat /var/log/postfix.log');
    const isUp = (): Promise<boolean> => container.shell('postfix status').then(...yesOrNo);
    await eventually(`${name} is up`, isUp, 90_000).catch(async (error: Error) => {
      throw new Error(`${error.message}\n${await docker('logs', container.id)}\n${await log()}`);
    });
    return [name, { ...container, log, mails: text => arrived(container, '/var/mail/all', text) }];
  };
  const peers = Object.fromEntries(await together(names.map(peer))) as Record<Name, Peer>;
  const records = names.map(name => `${name}.peer A ${peers[name].address}`);
  const zone = 'printf "%s\\n" "$@" "dead.peer A $(hostname -i)" >>/etc/nsd/root.zone';
  const dns = await start([], ['sh', '-c', `${zone}; exec nsd -d -c /etc/nsd/nsd.conf`, 'sh', ...records]);
  return {
    network,
    dns: dns.address,
    peers,
    client: () => start([], ['sleep', 'infinity']),
    server: (options = {}) =>
      stage.server({ ...options, network, dns: dns.address, environment: { ...settings, ...options.environment } }),
  };
}

const yesOrNo = [() => true, () => false] as const;

const settings = {
  SLIM_HOSTNAME: 'mail.example.com',
  SLIM_STORAGES: 'default=/var/mail/default',
  SLIM_USERS: 'anton:secret',
  // So that each test has a sender, and so a reader of notices, of its own.
  SLIM_SENDER_CHECK: 'domain',
  // What arrives is compared octet by octet. Signed mail: dkim.test.ts.
  SLIM_DKIM: 'off',
  SLIM_RETRY: '1s,1s,2s',
};

/** Messages in a Maildir with this text in them, without trace lines that whoever delivered them put above ours. */
export async function arrived(container: Pick<Container, 'shell'>, maildir: string, text: string): Promise<Buffer[]> {
  // A Maildir that is not there yet is empty.
  const script = 'exec 2>/dev/null; for file in $(grep -lrFe "$1" "$2/new"); do base64 -w0 "$file"; echo; done';
  const lines = (await container.shell(script, text, maildir)).split('\n').filter(Boolean);
  return lines.map(line => {
    const whole = Buffer.from(line, 'base64').toString('latin1');
    const trace =
      /^(?:(?:Return-Path|X-Original-To|Delivered-To): .*\n|(?:Received|Authentication-Results): .*\n(?:[\t ].*\n)*)*/.exec(
        whole,
      );
    return Buffer.from(whole.slice(trace?.[0].length), 'latin1');
  });
}

/** A text that nothing else has. */
export const marker = (): string => `m${randomBytes(8).toString('hex')}`;

/** A message, CRLF, with the header fields that a submission server would add. */
export function letter(subject: string, body = 'hello\r\n', from = 'anton@example.com'): string {
  const id = `${randomBytes(8).toString('hex')}@client.example`;
  const date = 'Tue, 24 Nov 2026 06:00:00 +0000';
  return `Date: ${date}\r\nFrom: <${from}>\r\nMessage-ID: <${id}>\r\nSubject: ${subject}\r\n\r\n${body}`;
}

export type Sending = {
  readonly from?: string;
  /** What follows the address in MAIL and RCPT: ` RET=HDRS ENVID=x`. */
  readonly mail?: string;
  readonly rcpt?: string;
  readonly name?: string;
  readonly password?: string;
};

/** Logs in on an implicit TLS port. */
export async function login(port: number, { name = 'anton', password = 'secret' }: Sending = {}): Promise<Client> {
  const client = await dial(port, '127.0.0.1', true);
  assert.match(
    await client.say(`AUTH PLAIN ${Buffer.from(`\0${name}\0${password}`).toString('base64')}`),
    /^235 2\.7\.0/,
  );
  return client;
}

/**
 * Submits a message and says QUIT; the last reply of the transaction, which is the first refusal or that to the final
 * dot.
 */
export async function submit(port: number, to: readonly string[], message: string, how: Sending = {}): Promise<string> {
  const client = await login(port, how);
  try {
    return await transact(client, to, message, how);
  } finally {
    client.socket.destroy();
  }
}

/** One transaction on a client that may send. */
export async function transact(
  client: Client,
  to: readonly string[],
  message: string,
  how: Sending = {},
): Promise<string> {
  const is8Bit = /[^\0-\x7f]/.test(message) ? ' BODY=8BITMIME' : '';
  const commands = [`MAIL FROM:<${how.from ?? 'anton@example.com'}>${is8Bit}${how.mail ?? ''}`];
  for (const recipient of to) commands.push(`RCPT TO:<${recipient}>${how.rcpt ?? ''}`);
  for (const command of [...commands, 'DATA']) {
    const reply = await client.say(command);
    if (!/^[23]/.test(reply)) return reply;
  }
  client.send(Buffer.from(message.replace(/^\./gm, '..'), 'latin1'));
  return client.say('.');
}

export type Queued = {
  readonly isHeld: boolean;
  readonly id: string;
  readonly from: string;
  readonly recipients: readonly Record<string, unknown>[];
};

/** The server as seen by its operator. */
export function operate(server: { getId(): string }) {
  const shell = (script: string, ...parameters: string[]): Promise<string> =>
    docker('exec', server.getId(), 'sh', '-c', script, 'sh', ...parameters);
  const slimsmtp = (...words: string[]): Promise<string> => docker('exec', server.getId(), 'slimsmtp', ...words);
  let last: Promise<unknown> = Promise.resolve();
  let next: Promise<Queued[]> | undefined;
  const list = async (...selector: string[]): Promise<Queued[]> =>
    (await slimsmtp('queue', 'list', '--json', ...selector))
      .split('\n')
      .filter(Boolean)
      .map(line => JSON.parse(line));
  return {
    shell,
    slimsmtp,
    /** The port where Docker publishes one of the container's now: another one after each start. */
    port: async (inside: number): Promise<number> =>
      Number(/:(\d+)\s*$/m.exec(await docker('port', server.getId(), `${inside}/tcp`))?.[1]),
    /**
     * What waits. Without a selector, those who ask at the same time share an answer: each costs the start of a
     * process.
     */
    queue: (...selector: string[]): Promise<Queued[]> => {
      if (selector.length > 0) return list(...selector);
      next ??= last
        .catch(() => {})
        .then(() => new Promise(resolve => setTimeout(resolve, 500)))
        .then(() => {
          next = undefined;
          const asked = list();
          last = asked;
          return asked;
        });
      return next;
    },
    /** Mail that came for this address here, notices as well. */
    mails: async (text: string): Promise<Buffer[]> => arrived({ shell }, '/var/mail/default', text),
    log: async (): Promise<Record<string, unknown>[]> =>
      (await docker('logs', server.getId()))
        .split('\n')
        .filter(line => line.startsWith('{'))
        .map(line => JSON.parse(line)),
    healthy: (): Promise<void> =>
      eventually(
        'healthy',
        async () => (await docker('inspect', '-f', '{{.State.Health.Status}}', server.getId())).trim() === 'healthy',
        30_000,
      ),
  };
}
export type Operator = ReturnType<typeof operate>;

/** The fields of the last part but one of a notice, per recipient. */
export function statusOf(notice: Buffer): { text: string; message: string; recipients: Record<string, string>[] } {
  const text = notice.toString('latin1');
  const boundary = /boundary="?([^"\n;]+)/i.exec(text)?.[1] ?? assert.fail(text);
  const parts = text.split(`--${boundary}`).slice(1);
  const blocks = (parts[1] ?? '')
    .trim()
    .split('\n\n')
    .slice(1)
    .map(block => block.replaceAll(/\n[\t ]+/g, ' '));
  const recipients = blocks
    .slice(1)
    .map(block =>
      Object.fromEntries([...block.matchAll(/^([\w-]+): *(.*)$/gm)].map(([, name, value]) => [name, value])),
    );
  return { text, message: blocks[0] ?? '', recipients };
}
