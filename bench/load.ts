// What sends and what receives in the end: Postfix's smtp-source and smtp-sink, in C, so that they leave the cores to
// the server; and a client of our own for what smtp-source cannot do: STARTTLS, sessions that idle, the time that one
// message takes.
// Promises: a reply other than 2xx and 3xx rejects, and so does a minute of silence; nothing is sent twice.
import { type Socket, connect } from 'node:net';
import { performance } from 'node:perf_hooks';
import { setTimeout as pause } from 'node:timers/promises';
import { connect as secure } from 'node:tls';
import { Tree, run } from './processes.ts';
import { sinkPort } from './peers.ts';
import type { Place } from './setup.ts';

export type Load = {
  readonly messages: number;
  readonly sessions: number;
  readonly sizeBytes: number;
  readonly recipients: number;
  /** Connections are kept for many messages; else each has its own. */
  readonly reuse?: boolean;
  readonly from?: string;
  readonly to?: string;
  /** Each message to another address, 1u@… and so on. */
  readonly numbered?: boolean;
};

/** Resolves when the last message has its 250. */
export async function source(place: Place, port: number, load: Load): Promise<void> {
  const { messages, sessions, sizeBytes, recipients, reuse, numbered, from = 'a@ext.test', to = 'u@bench.test' } = load;
  const flags = [...(reuse ? ['-d'] : []), ...(numbered ? ['-N'] : [])];
  const amounts = { '-m': messages, '-s': Math.min(sessions, messages), '-l': sizeBytes, '-r': recipients };
  const parameters = [...Object.entries(amounts).flat().map(String), '-f', from, '-t', to, `127.0.0.1:${port}`];
  const root = await place.root('postfix', 'postfix');
  await run(['chroot', root, 'smtp-source', ...flags, ...parameters]);
}

export class Sink {
  messages = 0;
  readonly #tree: Tree;

  private constructor(root: string) {
    const sink = ['smtp-sink', '-c', '-u', 'vmail', '-m', '1000', `127.0.0.1:${sinkPort}`, '1000'];
    // It repeats its counters after each message.
    this.#tree = new Tree({ argv: ['chroot', root, ...sink] }, text => {
      this.messages = Number(/.*mesg=(\d+)\s/s.exec(String(text))?.[1] ?? this.messages);
    });
  }

  static async open(place: Place): Promise<Sink> {
    const sink = new Sink(await place.root('postfix', 'postfix'));
    await pause(300);
    return sink;
  }

  stop(): Promise<void> {
    return this.#tree.stop();
  }
}

class Client {
  #socket: Socket;
  #unread = '';
  #waiting: { resolve: (reply: string) => void; reject: (error: Error) => void } | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#listen(socket);
  }

  static async open(port: number, name = 'client.ext.test'): Promise<Client> {
    const client = new Client(connect({ port, host: '127.0.0.1', noDelay: true }));
    await client.#reply();
    await client.say(`EHLO ${name}`);
    return client;
  }

  say(line: string): Promise<string> {
    const reply = this.#reply();
    this.#socket.write(`${line}\r\n`);
    return reply;
  }

  /** MAIL to the 250 after the message. */
  async send(body: string, from = 'a@ext.test'): Promise<void> {
    for (const line of [`MAIL FROM:<${from}>`, 'RCPT TO:<u@bench.test>', 'DATA', `${body}\r\n.`]) await this.say(line);
  }

  /** A full handshake: no session is taken up again. */
  async startTls(): Promise<void> {
    await this.say('STARTTLS');
    this.#socket.removeAllListeners();
    this.#socket = secure({ socket: this.#socket, rejectUnauthorized: false });
    this.#listen(this.#socket);
    await new Promise((resolve, reject) => this.#socket.once('secureConnect', resolve).once('error', reject));
    await this.say('EHLO client.ext.test');
  }

  close(): void {
    this.#socket.destroy();
  }

  #listen(socket: Socket): void {
    const fail = (error: Error): void => this.#waiting?.reject(error);
    socket.setEncoding('latin1').setTimeout(60_000, () => fail(new Error('a minute of silence')));
    socket.on('error', fail).on('close', () => fail(new Error('closed by the server')));
    socket.on('data', text => {
      this.#unread += String(text);
      if (!/^\d{3} [^\n]*\n$/m.test(this.#unread)) return;
      const [reply, waiting] = [this.#unread, this.#waiting];
      this.#unread = '';
      this.#waiting = undefined;
      if (/^[23]/.test(reply)) waiting?.resolve(reply);
      else waiting?.reject(new Error(reply));
    });
  }

  #reply(): Promise<string> {
    return new Promise((resolve, reject) => (this.#waiting = { resolve, reject }));
  }
}

export const message = (sizeBytes: number): string =>
  `Subject: bench\r\n\r\n${`${'X'.repeat(78)}\r\n`.repeat(Math.ceil(sizeBytes / 80)).trimEnd()}`;

/** `messages`, each over a connection of its own with STARTTLS. */
export async function tlsSource(port: number, { messages, sessions, sizeBytes }: Load): Promise<void> {
  let left = messages;
  const body = message(sizeBytes);
  await Promise.all(
    Array.from({ length: sessions }, async () => {
      while ((left -= 1) >= 0) {
        const client = await Client.open(port);
        try {
          await client.startTls();
          await client.send(body);
          await client.say('QUIT');
        } finally {
          client.close();
        }
      }
    }),
  );
}

/** These messages, over a few connections that are kept. */
export async function sendMessages(
  port: number,
  sessions: number,
  messages: readonly string[],
  from: string,
): Promise<void> {
  const left = messages.values();
  const session = async (): Promise<void> => {
    const client = await Client.open(port);
    try {
      for (const each of left) await client.send(each, from);
      await client.say('QUIT');
    } finally {
      client.close();
    }
  };
  await Promise.all(Array.from({ length: sessions }, session));
}

/** Sessions that have said EHLO and now say nothing. */
export async function openIdle(port: number, sessions: number): Promise<{ close(): void }> {
  const open: Client[] = [];
  const close = (): void => open.forEach(client => client.close());
  let left = sessions;
  const opener = async (): Promise<void> => {
    while ((left -= 1) >= 0) open.push(await Client.open(port));
  };
  // Few at once: OpenSMTPD's listen backlog is 5, and a dropped SYN costs seconds.
  await Promise.all(Array.from({ length: 4 }, opener)).catch(error => {
    close();
    throw error;
  });
  return { close };
}

/** How long each message of one session took, in ms, while `load` runs. */
export async function probe(port: number, sizeBytes: number, load: () => Promise<void>): Promise<number[]> {
  const client = await Client.open(port);
  const body = message(sizeBytes);
  const took: number[] = [];
  const state = { isLoaded: true };
  const over = load().finally(() => (state.isLoaded = false));
  over.catch(() => {}); // Told below.
  try {
    while (state.isLoaded) {
      const from = performance.now();
      await client.send(body);
      took.push(performance.now() - from);
    }
  } finally {
    client.close();
    await over;
  }
  return took;
}
