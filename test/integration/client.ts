// A bare SMTP client for tests: sends exactly the octets it is given and waits for whole replies.
import { type Socket, connect } from 'node:net';
import { connect as connectTls } from 'node:tls';

export type Client = {
  /** Sends a command line (none: waits for the greeting); the last line of the reply. */
  say(line?: string): Promise<string>;
  /** Sends octets, and nothing else. */
  send(octets: Buffer | string): void;
  readonly socket: Socket;
};

/**
 * Over TLS from the start where it is `secure`; certificates are not looked at. `from`: the address of its own to use.
 */
export async function dial(port: number, host = '127.0.0.1', isSecure = false, from?: string): Promise<Client> {
  const where = { port, host, ...(from !== undefined && { localAddress: from }) };
  const socket = isSecure ? connectTls({ ...where, rejectUnauthorized: false }) : connect(where);
  let input = '';
  let isClosed = false;
  let wake = (): void => {};
  socket.setEncoding('latin1').on('data', (text: string) => {
    input += text;
    wake();
  });
  socket
    .on('error', () => {})
    .on('close', () => {
      isClosed = true;
      wake();
    });
  const reply = async (): Promise<string> => {
    for (;;) {
      const found = /^(?:\d{3}-.*\r\n)*(\d{3} .*)\r\n/.exec(input);
      if (found) {
        input = input.slice(found[0].length);
        return found[1] ?? '';
      }
      if (isClosed) return 'closed';
      await new Promise<void>(resolve => (wake = resolve));
    }
  };
  const client: Client = {
    socket,
    send: octets => void socket.write(octets),
    say: line => {
      if (line !== undefined) socket.write(`${line}\r\n`);
      return reply();
    },
  };
  await client.say();
  await client.say('EHLO test.example.net');
  return client;
}

/** Sends a message whose lines end in CRLF; the reply to its end, or the first refusal. */
export async function deliver(port: number, to: readonly string[], message: Buffer | string): Promise<string> {
  const client = await dial(port);
  try {
    await client.say('MAIL FROM:<sender@example.net> BODY=8BITMIME');
    for (const recipient of to) {
      const reply = await client.say(`RCPT TO:<${recipient}>`);
      if (!reply.startsWith('250')) return reply;
    }
    await client.say('DATA');
    const text = Buffer.from(message).toString('latin1').replace(/^\./gm, '..');
    client.send(Buffer.from(text, 'latin1'));
    return await client.say(text === '' || text.endsWith('\r\n') ? '.' : '\r\n.');
  } finally {
    client.socket.destroy();
  }
}

/** Tries until it is so; rejects with the last outcome after `withinMs`. */
export async function eventually(what: string, isSo: () => Promise<boolean>, withinMs: number): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 100));
  }
}
