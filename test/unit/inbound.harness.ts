// A real server in this process: the real listeners, sessions, spool and Maildir storage on a loopback port and a
// folder of its own, and a client that is a bare socket. Doubles only for the resolver and, where a test says so,
// storages.
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { type AddressInfo, type Socket, Server, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type SecureContext, connect as connectTls, createSecureContext } from 'node:tls';
import { Certificates } from '../../src/tls/certificates.ts';
import { type Check, loopCheck } from '../../src/inbound/checks.ts';
import { forwardCheck } from '../../src/inbound/forward-check.ts';
import { Connection } from '../../src/inbound/connection.ts';
import { EnvelopeBudget } from '../../src/inbound/envelopes.ts';
import { type ListenSocket, Listeners } from '../../src/inbound/listener.ts';
import { stranger } from '../../src/inbound/peer.ts';
import { answersBy } from '../../src/inbound/policy.ts';
import type { Listen } from '../../src/mail/event.ts';
import type { Introduce } from '../../src/inbound/proxy.ts';
import type { Authenticator, Filters, Queue, Report, Resolution, ReturnPaths, Storage } from '../../src/mail/ports.ts';
import { Gatherer } from '../../src/system/gather.ts';
import type { Log } from '../../src/system/log.ts';
import type { Mailbox } from '../../src/mail/address.ts';
import type { Route } from '../../src/mail/message.ts';
import { extensionNames } from '../../src/smtp/extensions.ts';
import { MaildirStorage } from '../../src/storage/maildir.ts';
import { type Clock, systemClock, systemRandom as random } from '../../src/system/world.ts';

export type Line = Record<string, unknown> & { readonly level: string; readonly text: string };

type Options = {
  readonly kind?: ListenSocket['kind'];
  /** undefined, said so: both families. Without it IPv4 loopback. */
  readonly host?: string | undefined;
  readonly resolve?: (mailbox: Mailbox) => Promise<Resolution>;
  readonly account?: Storage;
  readonly maxSizeBytes?: number;
  readonly maxSessions?: number;
  readonly maxSessionsPerClient?: number;
  readonly isShared?: (client: string) => boolean;
  readonly introduce?: Introduce;
  readonly secureContext?: SecureContext;
  readonly authenticator?: Authenticator;
  readonly isTrusted?: boolean;
  readonly needsLogin?: boolean;
  readonly needsTls?: boolean;
  readonly checks?: readonly Check[];
  readonly envelopes?: EnvelopeBudget;
  readonly senderCheck?: 'strict' | 'domain' | 'off';
  readonly returnPaths?: Pick<ReturnPaths, 'forForward'>;
  readonly filters?: Filters;
  readonly queue?: Queue;
  readonly report?: Report;
  readonly clock?: Clock;
  readonly listen?: Listen;
};

export type Running = Awaited<ReturnType<typeof startServer>>;

const extensions = extensionNames.filter(name => name !== 'AUTH' && name !== 'LIMITS');
const ok: Resolution['kind'] = 'local';

/** Every local part has the Maildir of its name, at example.com. */
export async function startServer(options: Options = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'inbound-'));
  const [root, spoolFolder] = [join(folder, 'mail'), join(folder, 'spool')];
  mkdirSync(root);
  mkdirSync(spoolFolder);
  const lines: Line[] = [];
  const note = (level: string) => (fields: Record<string, unknown>, text: string) => {
    // As pino does it, so that what cannot be told from JSON shows here too.
    lines.push(JSON.parse(JSON.stringify({ ...fields, level, text })) as Line);
  };
  const log: Log = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
  const clock = options.clock ?? systemClock;
  const gatherer = new Gatherer(log);
  const envelopes = options.envelopes ?? new EnvelopeBudget();
  const route = (name: string): Route => ({ kind: 'maildir', root, path: join(root, name) });
  const nothing: Storage = { prepare: () => Promise.reject(new Error('there are no accounts here')) };
  const accept = {
    hostname: 'mx.example.com',
    spoolFolder,
    storages: { maildir: new MaildirStorage({ clock, random, log }), account: options.account ?? nothing },
    queue: options.queue ?? { prepare: () => Promise.reject(new Error('there is no queue here')) },
    report: options.report ?? (async () => {}),
    clock,
    random,
    checks: options.checks ?? [loopCheck, forwardCheck],
    gatherer,
    listen: options.listen,
    log,
  };
  const kind = options.kind ?? 'smtp';
  let sessions = 0;
  const listeners = new Listeners({
    sockets: [{ kind, host: 'host' in options ? options.host : '127.0.0.1', port: 0 }],
    maxSessions: options.maxSessions ?? 0,
    maxSessionsPerClient: options.maxSessionsPerClient ?? 0,
    isShared: options.isShared ?? (() => false),
    gatherer,
    listen: options.listen,
    introduce: options.introduce,
    open: (socket, listener, { client, isProxys }, onClose) =>
      new Connection(
        socket,
        {
          accept,
          answers: answersBy({
            resolve: options.resolve ?? (async ({ local }) => ({ kind: ok, routes: [route(local)] })),
            senderCheck: options.senderCheck ?? 'strict',
            returnPaths: options.returnPaths ?? { forForward: async from => from },
            gatherer,
            filters: options.filters,
          }),
          authenticator: options.authenticator,
          secureContext: () => options.secureContext ?? createSecureContext(),
          envelopes,
          gatherer,
          log,
        },
        {
          id: `s${(sessions += 1)}`,
          peer: { ...stranger, client, isTrusted: (options.isTrusted ?? false) && !isProxys },
          listener,
          session: {
            hostname: 'mx.example.com',
            extensions: [
              ...extensions.map(name => ({ name })),
              ...(options.authenticator
                ? [{ name: 'AUTH', parameter: options.authenticator.mechanisms.join(' ') }]
                : []),
            ],
            maxSizeBytes: options.maxSizeBytes ?? 64 * 1024 * 1024,
            needsTls: options.needsTls ?? false,
            needsLogin: options.needsLogin ?? false,
            isSecure: kind === 'submissions',
          },
        },
        onClose,
      ),
  });
  // The port that the kernel chose is asked of the server itself: no port is guessed.
  const listening: Server[] = [];
  const listen = Server.prototype.listen;
  Server.prototype.listen = function (this: Server, ...parameters: unknown[]) {
    listening.push(this);
    return Reflect.apply(listen, this, parameters) as Server;
  };
  await listeners.open().finally(() => (Server.prototype.listen = listen));
  const server = listening[0] as Server;
  const { port } = server.address() as AddressInfo;
  const peers = new Set<Socket>();
  server.on('connection', peer => peers.add(peer));
  const list = (path: string): string[] => {
    try {
      return readdirSync(path).filter(name => !name.startsWith('.'));
    } catch {
      return [];
    }
  };
  return {
    port,
    server,
    listeners,
    lines,
    gatherer,
    turnedAway: () =>
      lines
        .filter(({ text }) => text === 'clients were turned away')
        .map(({ client, reason, who, more }) => (who === undefined ? { client, reason } : { who, more })),
    folder,
    route,
    spooled: () => list(spoolFolder),
    in: (name: string, part: 'new' | 'tmp') => list(join(root, name, part)),
    /** The messages of a Maildir, without the trace lines. */
    mail: (name: string): string[] =>
      list(join(root, name, 'new'))
        .map(file => readFileSync(join(root, name, 'new', file), 'latin1'))
        .map(text => text.replace(/^Return-Path: .*\nReceived: .*\n(?:\t.*\n)*/, '')),
    /** The whole files of a Maildir. */
    files: (name: string): string[] =>
      list(join(root, name, 'new')).map(file => readFileSync(join(root, name, 'new', file), 'latin1')),
    sessionLines: () => lines.filter(({ text }) => text === 'session ended'),
    messageLines: () => lines.filter(({ text }) => text.startsWith('message ')),
    async stop(): Promise<void> {
      for (const peer of peers) peer.destroy();
      await until(() => listeners.sessions === 0, 'the end of all sessions');
      await listeners.drain(0);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A client that says exactly what it is told to. */
export class Client {
  readonly socket: Socket;
  #heard = '';
  #isClosed = false;
  #wake = (): void => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (octets: Buffer) => {
      this.#heard += octets.toString('latin1');
      this.#wake();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#isClosed = true;
      this.#wake();
    });
  }

  static async to({ port }: { readonly port: number }, host = '127.0.0.1'): Promise<Client> {
    const client = new Client(connect(port, host));
    await client.hear(/^220 .*\r\n/);
    return client;
  }

  /** Over TLS from the start. */
  static async toTls({ port }: { readonly port: number }): Promise<Client> {
    const client = new Client(connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }));
    await client.hear(/^220 .*\r\n/);
    return client;
  }

  /** What was said until a pattern is met; it is then forgotten. */
  async hear(pattern: RegExp): Promise<string> {
    await until(
      () => pattern.test(this.#heard) || this.#isClosed,
      `${pattern} in ${JSON.stringify(this.#heard)}`,
      this,
    );
    const found = pattern.exec(this.#heard);
    if (!found) throw new Error(`closed before ${pattern}; said: ${JSON.stringify(this.#heard)}`);
    const end = found.index + found[0].length;
    const said = this.#heard.slice(0, end);
    this.#heard = this.#heard.slice(end);
    return said;
  }

  say(text: string | Buffer): this {
    this.socket.write(text);
    return this;
  }

  /** A command and the code of its (last) reply line. */
  async ask(command: string): Promise<string> {
    const said = await this.say(`${command}\r\n`).hear(/^\d{3} .*\r\n/m);
    return said.trimEnd().split('\r\n').at(-1) ?? '';
  }

  /** All that comes until the server closes. */
  async rest(): Promise<string> {
    await until(() => this.#isClosed, `the end after ${JSON.stringify(this.#heard)}`, this);
    const said = this.#heard;
    this.#heard = '';
    return said;
  }

  /** EHLO, MAIL and RCPT, and DATA's 354. */
  async begin(...recipients: string[]): Promise<void> {
    const rcpt = recipients.map(name => `RCPT TO:<${name}@example.com>\r\n`).join('');
    this.say(`EHLO client.example.net\r\nMAIL FROM:<me@example.net>\r\n${rcpt}DATA\r\n`);
    await this.hear(/^354 .*\r\n/m);
  }

  onChange(wake: () => void): void {
    this.#wake = wake;
  }
}

/**
 * Waits for a state of the world; fails after twenty seconds. Looks by immediates, so that mocked timers do not matter.
 */
export async function until(isSo: () => boolean, what: string, client?: Client): Promise<void> {
  const deadline = process.hrtime.bigint() + 20_000_000_000n;
  while (!isSo()) {
    if (process.hrtime.bigint() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise<void>(resolve => {
      setImmediate(resolve);
      client?.onChange(resolve);
    });
  }
}

/** A self-signed pair as the server makes one. */
export async function makeContext(): Promise<SecureContext> {
  const folder = mkdtempSync(join(tmpdir(), 'inbound-'));
  const log: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const options = { readPair: undefined, hostname: 'mx.example.com', folder, minVersion: 'TLSv1.2' as const };
  try {
    return (await Certificates.open({ ...options, clock: systemClock, random, log })).contextFor('submission');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

type Timer = { at: number; readonly ms: number; readonly late: () => void };

/** Time that passes when told to. (The timers of node:test do not know `refresh()`: it does nothing there.) */
export class Time {
  #now = 1_700_000_000_000;
  readonly #timers = new Set<Timer>();
  readonly #real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout };
  readonly clock: Clock = { now: () => this.#now };

  constructor() {
    const fake = (late: () => void, ms: number): object => {
      const timer: Timer = { at: this.#now + ms, ms, late };
      this.#timers.add(timer);
      const handle = {
        refresh: () => void (timer.at = this.#now + ms),
        unref: () => handle,
        clear: () => this.#timers.delete(timer),
      };
      return handle;
    };
    const clear = (handle: { clear?: () => void } | undefined): void => handle?.clear?.();
    Object.assign(globalThis, { setTimeout: fake, clearTimeout: clear });
  }

  pass(ms: number): void {
    this.#now += ms;
    for (const timer of this.#timers) {
      if (timer.at > this.#now) continue;
      this.#timers.delete(timer);
      timer.late();
    }
  }

  restore(): void {
    Object.assign(globalThis, this.#real);
  }
}
