// Golden dialogues: every file of test/dialogues runs whole, octet by octet, and split in two at every index, with the
// same outcome. How to write one stands in CONTRIBUTING.md; `C*12: NOOP` and `S*12: …` stand for twelve such lines.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type Reply, replies } from '../../src/smtp/reply.ts';
import { Session } from '../../src/smtp/session.ts';

const folder = join(import.meta.dirname, '..', 'dialogues');
const defaults =
  'PIPELINING,SIZE 1000,8BITMIME,SMTPUTF8,CHUNKING,ENHANCEDSTATUSCODES,LIMITS RCPTMAX=1000,STARTTLS,AUTH PLAIN LOGIN,HELP';

type Dialogue = {
  readonly options: ReadonlyMap<string, string>;
  /** What the client sends before and after each start of TLS. */
  readonly sent: readonly Buffer[];
  /** What the server says, and what becomes of messages. */
  readonly expected: string;
};

function unescape(text: string): Buffer {
  const parts = text.split(/(\\(?:r|n|t|0|\\|x[0-9a-f]{2})|\{[^{}]+\*\d+\})/);
  return Buffer.concat(
    parts.map(part => {
      const repeated = /^\{(.+)\*(\d+)\}$/.exec(part);
      if (repeated) return Buffer.concat(Array<Buffer>(Number(repeated[2])).fill(unescape(repeated[1] ?? '')));
      if (part.startsWith('\\x')) return Buffer.from(part.slice(2), 'hex');
      const simple: Record<string, string> = { '\\r': '\r', '\\n': '\n', '\\t': '\t', '\\0': '\0', '\\\\': '\\' };
      return Buffer.from(simple[part] ?? part);
    }),
  );
}

function read(file: string): Dialogue {
  const options = new Map<string, string>();
  const sent: Buffer[][] = [[]];
  const expected: string[] = [];
  for (const line of readFileSync(join(folder, file), 'utf8').split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [, mark = '', times = '1', text = ''] = /^(C>|\w+)(?:\*(\d+))?:? ?(.*)$/.exec(line) ?? [];
    const repeated = <T>(item: T): T[] => Array<T>(Number(times)).fill(item);
    if (mark === 'OPTION') options.set(text.split('=')[0] ?? '', text.slice(text.indexOf('=') + 1));
    else if (mark === 'C') sent.at(-1)?.push(...repeated(unescape(`${text}\\r\\n`)));
    else if (mark === 'C>') sent.at(-1)?.push(...repeated(unescape(text)));
    else if (mark === 'TLS') sent.push([]);
    else if (mark !== 'S' && mark !== 'M' && mark !== 'X') throw new Error(`${file}: ${line}`);
    // {x*100} stands for a hundred times x here too.
    const shown = text.replace(/\{(.)\*(\d+)\}/g, (_, octet: string, many: string) => octet.repeat(Number(many)));
    if (mark === 'TLS') expected.push('TLS');
    else if (mark === 'S' || mark === 'M' || mark === 'X') expected.push(...repeated(`${mark}: ${shown}`));
  }
  return { options, sent: sent.map(parts => Buffer.concat(parts)), expected: expected.join('\n') };
}

/** The policy of all dialogues: what a recipient's name says. */
function answerTo(local: string): Reply {
  if (local.startsWith('unknown')) return replies.noSuchMailbox;
  return local.startsWith('later') ? replies.cannotTell('4.3.0') : replies.recipientOk;
}

/** The logins of all dialogues: the password `secret` is right, `later` cannot be checked, LOGIN asks twice. */
function openLogin(): (mechanism: string | undefined, response: Buffer | undefined) => Reply {
  const asked: string[] = [];
  let mechanism: string | undefined;
  return (begun, response) => {
    if (begun !== undefined && !['PLAIN', 'LOGIN'].includes(begun)) return replies.unknownMechanism;
    if (begun !== undefined) {
      mechanism = begun;
      asked.splice(0, 2, ...(begun === 'LOGIN' ? ['VXNlcm5hbWU6', 'UGFzc3dvcmQ6'] : ['']));
    }
    if (response !== undefined) asked.shift();
    if (response === undefined || (mechanism === 'LOGIN' && asked.length > 0)) return replies.challenge(asked[0] ?? '');
    const password = response.toString().split('\0').at(-1);
    if (password === 'later') return replies.cannotLogin;
    return password === 'secret' ? replies.loggedIn : replies.loginFailed;
  };
}

function run({ options, sent }: Dialogue, split: (octets: Buffer) => readonly Buffer[]): string {
  const session = new Session({
    hostname: 'mx.example.com',
    extensions: (options.get('supports') ?? defaults).split(',').map(item => {
      const [name = '', ...parameter] = item.split(' ');
      return parameter.length > 0 ? { name, parameter: parameter.join(' ') } : { name };
    }),
    maxSizeBytes: Number(options.get('maxSizeBytes') ?? 1000),
    needsTls: options.has('needsTls'),
    needsLogin: options.has('needsLogin'),
    isSecure: options.has('isSecure'),
  });
  const happened: string[] = [];
  const login = openLogin();
  let message = Buffer.alloc(0);
  let said = '';
  const hear = (): void => {
    said += session.output();
    const lines = said.split('\r\n');
    said = lines.pop() ?? '';
    for (const line of lines) {
      assert.ok(line.length <= 510, `a reply of ${line.length + 2} octets`);
      assert.match(line, /^[ -~]*$/);
      happened.push(`S: ${line}`);
    }
  };
  const happen = (line: string): void => {
    hear();
    happened.push(line);
  };
  let isClosed = false;
  const act = (): boolean => {
    for (;;) {
      const action = session.next();
      switch (action.kind) {
        case 'read':
          hear();
          return false;
        case 'flush':
          hear();
          break;
        case 'authenticate':
          session.answer(login(action.mechanism, action.response));
          break;
        case 'sender': {
          const { reversePath } = action.sender;
          const isForeign = reversePath !== '' && reversePath.local.startsWith('foreign');
          session.answer(isForeign ? replies.notYourAddress : replies.senderOk);
          break;
        }
        case 'recipient':
          session.answer(answerTo(action.recipient.address.local));
          break;
        case 'begin': {
          const { reversePath, recipients, protocol, helo, wishes } = action.envelope;
          const to = recipients.map(r =>
            [r.address.text, r.wishes.notify?.join('+'), r.wishes.originalRecipient].filter(Boolean).join('|'),
          );
          const dsn = [wishes.ret, wishes.envelopeId].filter(Boolean).join(' ');
          happen(
            `X: begin ${protocol} ${helo} <${reversePath === '' ? '' : reversePath.text}> ${to.join(' ')}${dsn && ` ${dsn}`}`,
          );
          message = Buffer.alloc(0);
          session.answer(recipients[0]?.address.local === 'full' ? replies.notStored('4.3.1') : replies.sendMessage);
          break;
        }
        case 'chunk':
          message = Buffer.concat([message, action.data]);
          free(action.data);
          break;
        case 'commit':
          happen(`M: ${JSON.stringify(message.toString('latin1')).slice(1, -1)}`);
          session.answer(replies.kept('Delivered', '1'));
          break;
        case 'discard':
          happen('X: discard');
          break;
        case 'refused': // for the log
          break;
        case 'secure':
          happen('TLS');
          session.secured();
          return true;
        case 'close':
          happen('X: close');
          isClosed = true;
          return true;
        default:
          action satisfies never;
      }
    }
  };
  act();
  for (const octets of sent) {
    // After TLS has begun, or the end, nothing of what came in clear is left to read: the rest of a part is not given.
    for (const piece of split(octets)) {
      session.receive(unpooled(piece));
      if (act()) break;
    }
    if (isClosed) break;
  }
  return happened.join('\n');
}

const whole = (octets: Buffer): readonly Buffer[] => [octets];
const single = (octets: Buffer): readonly Buffer[] => Array.from(octets, octet => Buffer.from([octet]));

for (const file of readdirSync(folder)) {
  describe(`dialogue ${file}`, () => {
    const dialogue = read(file);
    it('has the written outcome', () => assert.equal(run(dialogue, whole), dialogue.expected));
    it('has the same outcome octet by octet', () => assert.equal(run(dialogue, single), dialogue.expected));
    it('has the same outcome when split anywhere', () => {
      const longest = Math.max(...dialogue.sent.map(octets => octets.length));
      // Long runs of one octet are split at every index of their first and last 3,000 octets.
      for (let at = 1; at < longest; at += at === 3000 && longest > 9000 ? longest - 6000 : 1) {
        const outcome = run(dialogue, octets => [octets.subarray(0, at), octets.subarray(at)]);
        assert.equal(outcome, dialogue.expected, `split at ${at}`);
      }
    });
  });
}

/** In memory of its own, so that free() takes it away. */
function unpooled(octets: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(octets.length);
  copy.set(octets);
  return copy;
}

/** As the receiver of content may do: what the session has left must lie elsewhere. */
function free({ buffer }: Buffer): void {
  if (buffer.byteLength !== Buffer.poolSize) (buffer as ArrayBuffer).transfer(0);
}
