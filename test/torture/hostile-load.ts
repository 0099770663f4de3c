// Hostile clients, in a process of their own: node hostile-load.ts KIND SMTP-PORT TLS-PORT one|many. They go on until
// the process is ended; 'enough' is said when all that a kind promises has been done at least once.
// Throttled, so that the server is what is tested and not the generator: what each kind sends in a second stands beside
// it. 'one': all come from 127.0.0.1, as many as a client may have sessions, and some more. 'many': each from an
// address of its own.
import { type Socket, connect } from 'node:net';
import { type TLSSocket, connect as connectTls } from 'node:tls';

const [kind = '', smtpPort = '0', tlsPort = '0', spread = 'one'] = process.argv.slice(2);
const isOne = spread === 'one';
const counts: Record<string, number> = {};
const count = (what: string): void => void (counts[what] = (counts[what] ?? 0) + 1);
const sockets = new Set<Socket>();
let opened = 0;

const hello = 'EHLO a\r\n';
const mail = 'MAIL FROM:<a@example.net>\r\n';
const begun = `${hello}${mail}RCPT TO:<b@example.com>\r\n`;

/** A session that begins with these octets; `isKept`: a new one takes its place when it ends. */
function open(octets: string | Buffer, isKept = true, port = smtpPort): Socket {
  opened += 1;
  const localAddress = isOne
    ? '127.0.0.1'
    : `127.${1 + ((opened >> 14) % 250)}.${(opened >> 7) % 128}.${1 + (opened % 127)}`;
  const socket = connect({ port: Number(port), host: '127.0.0.1', localAddress });
  sockets.add(socket);
  socket
    .on('error', () => {})
    .on('close', () => {
      sockets.delete(socket);
      count('closed');
      if (isKept) setTimeout(() => open(octets, true, port), 100);
    });
  if (octets.length > 0) socket.write(octets);
  return socket.resume();
}

const many = (times: number, octets: string | Buffer, port?: string): void => {
  for (let at = 0; at < times; at += 1) setTimeout(() => open(octets, true, port), (at % 1000) * 2);
};

/** Every socket gets these octets so often, unless much waits already. */
function drip(octets: string | Buffer, everyMs: number): void {
  setInterval(() => {
    for (const socket of sockets) if (socket.writable && socket.writableLength < 100_000) socket.write(octets);
  }, everyMs);
}

/** 1.8 MB a second in all, as long as they are taken. */
function deaf(command: string): void {
  many(sessions, hello);
  setInterval(() => sockets.forEach(socket => socket.pause()), 20);
  drip(command.repeat(360_000 / sessions / command.length), 200);
}

const sessions = isOne ? 60 : 300;
const kinds: Readonly<Record<string, () => void>> = {
  // Octet by octet: 10 a second and session.
  'slow commands': () => (many(sessions, `${hello}NOOP `), drip('x', 100)),
  'slow content': () => (many(sessions, `${begun}DATA\r\n`), drip('x', 100)),
  'slow handshakes': () => (
    many(sessions, `${hello}STARTTLS\r\n`),
    setTimeout(() => drip('\x16\x03\x01\x40', 100), 500)
  ),
  'no handshakes': () => many(sessions, '', tlsPort),
  // 2,500 a second until 10,000 have come, and, from many addresses, are there at once.
  connections() {
    const timer = setInterval(() => {
      for (let at = 0; at < 50 && opened < 10_000; at += 1) open(hello, false);
      if (opened < 10_000) return;
      clearInterval(timer);
      setTimeout(() => console.log('enough'), 500);
    }, 20);
  },
  'endless NOOP': () => (many(sessions, hello), drip('NOOP\r\n', 50)),
  'pipelines that nobody reads': () => deaf('NOOP\r\n'),
  'EHLO that nobody reads': () => deaf(hello),
  pipelines: () => (many(sessions, hello), drip('NOOP\r\n'.repeat(50), 200)),
  'endless BDAT 0': () => (many(sessions, begun), drip('BDAT 0\r\n'.repeat(20), 100)),
  'a flood of LF': () => (many(sessions, `${begun}DATA\r\n`), drip('\n'.repeat(20_000), 100)),
  'a flood of CRLF': () => (many(sessions, `${begun}DATA\r\n`), drip('\r\n'.repeat(2000), 100)),
  'a flood of dots': () => (many(sessions, `${begun}DATA\r\n`), drip('..\r\n'.repeat(1000), 100)),
  'a flood of RSET': () => (many(sessions, hello), drip(`${mail}RSET\r\n`.repeat(10), 100)),
  'a flood of EHLO': () => (many(sessions, ''), drip(hello.repeat(10), 100)),
  'a flood of errors': () => (many(sessions, hello), drip('XYZZY\r\n', 20)),
  'a flood of RCPT': () => (many(sessions, `${hello}${mail}`), drip('RCPT TO:<b@example.com>\r\n'.repeat(10), 100)),
  'a flood of refused RCPT': () => (many(sessions, `${hello}${mail}`), drip('RCPT TO:<b@elsewhere.example>\r\n', 20)),
  // Work without a bound. One octet of content at the end of what is read at once: 39 MB a second in all, if they are
  // taken.
  'BDAT of one octet': () => (
    many(sessions, begun),
    drip(`${`NOOP ${'x'.repeat(480)}\r\n`.repeat(134)}BDAT 1\r\nx`, 100)
  ),
  // Each envelope grows to 1,000 recipients of full length: 24,000 RCPT a second in all.
  'envelopes of full length': () => (
    many(sessions, `${hello}${mail}`),
    drip(`RCPT TO:<${'x'.repeat(64)}@${'d'.repeat(60)}.example.com>\r\n`.repeat(40), 100)
  ),
  // What is begun and thrown away: 6,000 transactions a second are asked for.
  'discarded transactions': () => (
    many(sessions, hello),
    drip(`${mail}RCPT TO:<b@example.com>\r\nBDAT 0\r\nRSET\r\n`.repeat(10), 100)
  ),
  // A header that its author hands in octet by octet: read over and over it costs the square of its length.
  'a submitted header in pieces of one octet'() {
    for (let at = 0; at < 3; at += 1) open(`${begun}BDAT 3\r\nX: ${'BDAT 1\r\nx'.repeat(200_000)}QUIT\r\n`);
  },
  // Passwords are guessed on and on, also after the client is shut out.
  'guesses of passwords': () => {
    for (let at = 0; at < 50; at += 1) guess();
  },
  'a line without end': () => (many(sessions, hello), drip('x'.repeat(20_000), 100)),
  // 1,000 handshakes a second are asked for.
  renegotiation() {
    for (let at = 0; at < 50; at += 1) renegotiate();
  },
  // 200 a second, each after another part of a dialogue.
  'RST anywhere'() {
    const dialogue = `${begun}DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n${mail}RCPT TO:<b@example.com>\r\nBDAT 10\r\n12345`;
    setInterval(() => {
      const socket = open(dialogue.slice(0, Math.random() * dialogue.length), false);
      setTimeout(() => socket.resetAndDestroy(), Math.random() * 50);
    }, 5);
  },
};

function renegotiate(): void {
  const socket: TLSSocket = connectTls({
    port: Number(tlsPort),
    host: '127.0.0.1',
    rejectUnauthorized: false,
    maxVersion: 'TLSv1.2',
  });
  const again = (): void => {
    socket.renegotiate({ rejectUnauthorized: false }, error => {
      count(error ? 'refused' : 'renegotiated');
      if (!error) setTimeout(again, 50);
    });
  };
  socket.on('secureConnect', () => (count('connected'), again()));
  socket.resume().on('error', () => count('failed'));
  socket.on('close', () => (count('closed'), setTimeout(renegotiate, 100)));
}

/** Logs in with wrong passwords, in TLS, as fast as it is answered. */
function guess(): void {
  const socket = connectTls({ port: Number(tlsPort), host: '127.0.0.1', rejectUnauthorized: false });
  const login = `AUTH PLAIN ${Buffer.from('\0anton\0wrong').toString('base64')}\r\n`;
  socket.on('secureConnect', () => socket.write(hello));
  socket.on('data', (octets: Buffer) => {
    const text = octets.toString('latin1');
    if (/^[45]\d\d /m.test(text)) count('refused');
    if (/^(?:250|454|535) /m.test(text) && socket.writable) socket.write(login);
  });
  socket.on('error', () => count('failed'));
  socket.on('close', () => (count('closed'), setTimeout(guess, 100)));
}

const start = kinds[kind];
if (start === undefined) throw new Error(`there is no '${kind}'; there are ${Object.keys(kinds).join(', ')}`);
start();
if (kind !== 'connections') console.log('enough');
process.on('SIGTERM', () => {
  console.log(JSON.stringify({ ...counts, opened, open: sockets.size }));
  process.exit(0);
});
