// What `slimsmtp doctor` sees when it comes to the server as a client: whether each socket of SLIM_LISTEN answers as
// this server, and which certificate it shows. It sends EHLO and STARTTLS, and no mail.
import { type Socket, connect } from 'node:net';
import { type TLSSocket, connect as connectTls } from 'node:tls';
import type { Finding } from '../mail/admin.ts';

export type Spoken = Readonly<{ kind: 'smtp' | 'submission' | 'submissions'; host: string | undefined; port: number }>;
const deadlineMs = 10_000;
const dayMs = 86_400_000;
/** An authority's certificate is renewed long before. */
const soonDays = 14;

/** One finding for each socket, then those of the certificate, which all of them share. */
export async function checkSockets(
  sockets: readonly Spoken[],
  hostname: string,
  now: number,
): Promise<readonly Finding[]> {
  const looks = await Promise.all(sockets.map(socket => look(socket, hostname)));
  const first = looks.find(({ certificate }) => certificate !== undefined)?.certificate;
  return [...looks.map(({ finding }) => finding), ...(first ? checkCertificate(first, hostname, now) : [])];
}

type Look = { readonly finding: Finding; readonly certificate?: Shown };
/** `error`: why a client that verifies turns away. */
type Shown = Readonly<{
  error: string | undefined;
  names: string;
  until: string;
  issuer: string;
  isSelfSigned: boolean;
}>;

async function look({ kind, host, port }: Spoken, hostname: string): Promise<Look> {
  const about = `port ${port}`;
  const at = host === undefined || host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
  const raw = connect({ host: at, port });
  raw.setTimeout(deadlineMs, () => raw.destroy(new Error('no answer')));
  try {
    let socket: Socket = raw;
    await once(raw, 'connect');
    if (kind === 'submissions') socket = await secure(raw, hostname);
    const greeting = await reply(socket);
    const [code, name] = greeting.split(' ', 2);
    if (code !== '220' || name !== hostname) {
      const text = `another program answers on ${at}:${port}: ${JSON.stringify(greeting.slice(0, 80))}`;
      return { finding: { about, status: 'mend', text, mend: `ss -ltnp 'sport = :${port}'` } };
    }
    if (kind !== 'submissions') {
      socket.write(`EHLO ${hostname}\r\n`);
      if (/^250[ -]STARTTLS\r?$/m.test(await reply(socket))) {
        socket.write('STARTTLS\r\n');
        if ((await reply(socket)).startsWith('220')) socket = await secure(raw, hostname);
      }
    }
    const finding = { about, status: 'ok', text: `${kind} answers on ${at}:${port}` } as const;
    return socket === raw ? { finding } : { finding, certificate: shown(socket as TLSSocket) };
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    const text = `nobody answers on ${at}:${port} (${code || message})`;
    return { finding: { about, status: 'mend', text, mend: 'docker compose up -d slimsmtp, or look at SLIM_LISTEN' } };
  } finally {
    raw.destroy();
  }
}

function once(socket: Socket, event: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once(event, () => resolve());
    socket.once('error', reject).once('close', () => reject(new Error('closed')));
  });
}

/** Takes every certificate: what is wrong with it is what we want to know. */
async function secure(socket: Socket, servername: string): Promise<TLSSocket> {
  const tls = connectTls({ socket, servername, rejectUnauthorized: false });
  await once(tls, 'secureConnect');
  return tls;
}

/** A whole reply, of 64 KiB at most. */
async function reply(socket: Socket): Promise<string> {
  let text = '';
  while (!/^\d{3} .*\r\n$/m.test(text) && text.length < 65_536) {
    const octets = socket.read() as Buffer | null;
    if (octets === null) await once(socket, 'readable');
    else text += octets.toString('latin1');
  }
  return text;
}

function shown(socket: TLSSocket): Shown {
  const { subjectaltname = '', valid_to: until, issuer, subject } = socket.getPeerCertificate();
  const error = socket.authorizationError as Error | string | undefined;
  const code = typeof error === 'object' ? ((error as NodeJS.ErrnoException).code ?? error.message) : error;
  const isSelfSigned = JSON.stringify(issuer) === JSON.stringify(subject);
  return { error: code, names: subjectaltname, until, issuer: String(issuer.CN ?? issuer.O), isSelfSigned };
}

const renew = 'renew it, and write the whole chain (fullchain.pem) into the file of SLIM_TLS_CERT_FILE';

function checkCertificate(
  { error, names, until, issuer, isSelfSigned }: Shown,
  hostname: string,
  now: number,
): readonly Finding[] {
  const about = 'certificate';
  const leftDays = Math.floor((Date.parse(until) - now) / dayMs);
  const mend = (text: string, line: string): readonly Finding[] => [{ about, status: 'mend', text, mend: line }];
  if (error === 'CERT_HAS_EXPIRED' || leftDays < 0) return mend(`it has expired: ${until}`, renew);
  if (leftDays < soonDays) return mend(`it expires in ${leftDays} days: ${until}`, renew);
  const isNamed = names.split(', ').some(name => covers(name.replace(/^DNS:/, ''), hostname));
  if (!isNamed)
    return mend(
      `it is not for ${hostname} but for ${names}`,
      `get one for ${hostname}, or set SLIM_HOSTNAME to a name that it has`,
    );
  if (error === undefined) return [{ about, status: 'ok', text: `of ${issuer}, for ${names}, until ${until}` }];
  if (isSelfSigned) {
    const text = 'it is self-signed: mail servers take it, mail programs warn';
    return [
      { about, status: 'note', text, mend: 'SLIM_TLS_CERT_FILE=…/fullchain.pem and SLIM_TLS_KEY_FILE=…/privkey.pem' },
    ];
  }
  return mend(
    `clients do not trust it (${error}): is the chain incomplete?`,
    'SLIM_TLS_CERT_FILE must name the file with the whole chain (fullchain.pem)',
  );
}

const covers = (name: string, hostname: string): boolean =>
  name.toLowerCase() === hostname || (name.startsWith('*.') && hostname.replace(/^[^.]+/, '*') === name.toLowerCase());
