// The session against two judges that know nothing of its code: one watches each action (is it legal now?), the other
// frames the whole input afresh, by the replies that it got: which octets are commands, which are content, and what
// must have been kept. An input: an octet that chooses the options, then what the client sends; octet 0x1e stands
// between what comes before and after a start of TLS. RFC 5321 §4, RFC 2920, RFC 3030, RFC 3207.
import assert from 'node:assert/strict';
import { extensionNames } from '../../src/smtp/extensions.ts';
import { type Reply, replies } from '../../src/smtp/reply.ts';
import { type Action, Session, type SessionOptions, maxRecipients } from '../../src/smtp/session.ts';
import { dialogues, kept, octetsOf } from './corpus.ts';
import { type Random, type Target, cut } from './fuzzer.ts';

const [boundary, maxSizeBytes] = [0x1e, 1000];
const base = { hostname: 'mx.example.com', maxSizeBytes, needsTls: false, needsLogin: false, isSecure: false };
const extensions = extensionNames.map(name => ({ name }));
const variants: readonly SessionOptions[] = [
  { ...base, extensions },
  { ...base, extensions, isSecure: true },
  { ...base, extensions, needsTls: true },
  { ...base, extensions, needsLogin: true, isSecure: true },
  { ...base, extensions: [] },
  { ...base, extensions, maxSizeBytes: 20 },
  { ...base, extensions: extensions.filter(({ name }) => name !== 'STARTTLS' && name !== 'DSN') },
  { ...base, extensions, needsLogin: true, needsTls: true },
];

/** What happened, in order: replies as the client hears them, and `begin`, `kept …`, `discard`, `TLS`, `close`. */
type Event = { readonly kind: 'reply' | 'begin' | 'kept' | 'discard' | 'TLS' | 'close'; readonly text: string };

class Judge {
  readonly events: Event[] = [];
  readonly #options: SessionOptions;
  readonly #session: Session;
  readonly #note: (feature: string) => void;
  #last = '';
  #isSecure: boolean;
  #login: 'none' | 'begun' | 'done' = 'none';
  #accepted: readonly string[] | undefined; // recipients since the last accepted sender
  #content: Buffer[] | undefined;

  constructor(options: SessionOptions, note: (feature: string) => void) {
    this.#options = options;
    this.#session = new Session(options);
    this.#note = note;
    this.#isSecure = options.isSecure;
    this.#act(0);
  }

  /** False: what follows in this part is not to be given (it was in clear), or nothing is any more. */
  receive(octets: Buffer): boolean {
    this.#session.receive(octets);
    return this.#act(octets.length);
  }

  #happen(kind: Event['kind'], text = ''): void {
    if (kind !== 'reply') this.#hear();
    this.events.push({ kind, text });
    const feature = kind === 'reply' ? text.slice(0, 9) : kind;
    this.#note(`${this.#last}>${feature}`);
    this.#last = feature;
  }

  /** Replies, each well-formed: RFC 5321 §4.2 and §4.5.3.1.5. */
  #hear(): void {
    const said = this.#session.output();
    if (said === '') return;
    assert.ok(/^(?:[2-5]\d\d[- ][ -~]{0,506}\r\n)*$/.test(said), 'malformed replies');
    let lines: string[] = [];
    for (const line of said.split('\r\n').slice(0, -1)) {
      lines.push(line);
      assert.equal(line.slice(0, 3), lines[0]?.slice(0, 3), 'two codes in one reply');
      if (line[3] === '-') continue;
      this.#happen('reply', lines.join('\n'));
      lines = [];
    }
    assert.equal(lines.length, 0, 'half a reply');
  }

  #act(octets: number): boolean {
    for (let steps = 0; ; steps += 1) {
      assert.ok(steps < 50 + 4 * (octets + 4096), 'more actions than octets');
      const action = this.#session.next();
      if (action.kind === 'flush') {
        this.#hear();
        continue;
      }
      if (action.kind !== 'read' && action.kind !== 'close' && action.kind !== 'secure') {
        this.#carryOut(action);
        continue;
      }
      this.#hear();
      if (action.kind === 'read') return true;
      if (action.kind === 'secure') {
        assert.ok(!this.#isSecure, 'TLS within TLS');
        assert.equal(this.#content, undefined, 'TLS within a message');
        this.#isSecure = true;
        this.#accepted = undefined;
        this.#happen('TLS');
        this.#session.secured();
      } else {
        assert.equal(this.#content, undefined, 'a message was not discarded');
        this.#happen('close');
        assert.equal(this.#session.next().kind, 'close', 'no end');
      }
      return false;
    }
  }

  #carryOut(action: Exclude<Action, { kind: 'read' | 'flush' | 'close' | 'secure' }>): void {
    switch (action.kind) {
      case 'authenticate':
        assert.ok(this.#isSecure, 'a login in clear');
        assert.ok(action.mechanism !== undefined || this.#login === 'begun', 'a response out of place');
        return this.#answer(this.#authenticate(action.response));
      case 'sender': {
        assert.ok(this.#isSecure || !this.#options.needsTls, 'MAIL without TLS');
        assert.ok(this.#login === 'done' || !this.#options.needsLogin, 'MAIL without login');
        assert.equal(this.#content, undefined);
        const isForeign = action.sender.reversePath !== '' && action.sender.reversePath.local.startsWith('f');
        this.#accepted = isForeign ? undefined : [];
        return this.#answer(isForeign ? replies.notYourAddress : replies.senderOk);
      }
      case 'recipient': {
        assert.ok(this.#accepted, 'RCPT without MAIL');
        assert.equal(this.#content, undefined);
        const { local, text } = action.recipient.address;
        if (local.startsWith('u')) return this.#answer(replies.noSuchMailbox);
        if (local.startsWith('l')) return this.#answer(replies.cannotTell('4.3.0'));
        this.#accepted = [...this.#accepted, text];
        assert.ok(this.#accepted.length <= maxRecipients, 'too many recipients');
        return this.#answer(replies.recipientOk);
      }
      case 'begin': {
        const { recipients, protocol, helo } = action.envelope;
        const to = recipients.map(({ address }) => address.text);
        assert.ok(to.length > 0, 'a message for nobody');
        assert.equal(to.join(), this.#accepted?.join(), 'other recipients than were accepted');
        assert.ok(helo !== '' && !/\p{Cc}/u.test(helo), helo);
        const tail = `${this.#isSecure ? 'S' : ''}${this.#login === 'done' ? 'A' : ''}`;
        assert.ok(['SMTP', `ESMTP${tail}`, `UTF8SMTP${tail}`].includes(protocol), protocol);
        this.#happen('begin', `${protocol} ${helo} ${to.join(' ')}`);
        const isFull = to[0]?.startsWith('x') === true;
        if (!isFull) this.#content = [];
        return this.#answer(isFull ? replies.notStored('4.3.1') : replies.sendMessage);
      }
      case 'chunk':
        assert.ok(this.#content && action.data.length > 0, 'content out of place');
        return void this.#content.push(Buffer.from(action.data));
      case 'commit':
        assert.ok(this.#content, 'a commit of nothing');
        this.#happen('kept', Buffer.concat(this.#content).toString('latin1'));
        this.#content = this.#accepted = undefined;
        return this.#answer(replies.kept('Delivered', '1'));
      case 'discard':
        assert.ok(this.#content, 'nothing to discard');
        this.#content = this.#accepted = undefined;
        return this.#happen('discard');
      case 'refused':
        return assert.ok(action.reply.code >= 400, 'a refusal that is none');
      default:
        return action satisfies never;
    }
  }

  #answer(reply: Reply): void {
    this.#session.answer(reply);
  }

  #authenticate(response: Buffer | undefined): Reply {
    this.#login = response === undefined ? 'begun' : response.includes('secret') ? 'done' : 'none';
    if (response === undefined) return replies.challenge('');
    return this.#login === 'done' ? replies.loggedIn : replies.loginFailed;
  }
}

function run(parts: readonly (readonly Buffer[])[], options: SessionOptions, note: (feature: string) => void): Event[] {
  const judge = new Judge(options, note);
  for (const pieces of parts)
    for (const piece of pieces)
      if (!judge.receive(Buffer.from(piece))) {
        if (judge.events.at(-1)?.kind === 'close') return judge.events;
        break;
      }
  return judge.events;
}

/**
 * Frames the input by itself, and compares: as many replies as commands and messages, and every message what it should
 * be.
 */
function check(parts: readonly Buffer[], events: readonly Event[], options: SessionOptions): void {
  const text = Buffer.concat(parts).toString('latin1');
  let length = 0;
  const ends = parts.map(part => (length += part.length));
  const said = events.filter(({ kind }) => kind === 'reply' || kind === 'kept');
  let next = 0;
  const reply = (): string => {
    const event = said[next++];
    assert.equal(event?.kind, 'reply', 'a reply is missing');
    return event?.text ?? '';
  };
  const message = (expected: string | undefined): void => {
    const isKept = said[next]?.kind === 'kept';
    if (isKept) assert.equal(said[next++]?.text, expected, 'other content');
    assert.equal(reply().startsWith('250 2.0.0 Delivered') || (isKept && !options.extensions.length), isKept, 'kept?');
  };
  const isOver = (): boolean => said[next]?.text.startsWith('421 ') === true;
  let chunks: string | undefined = ''; // of BDAT; undefined: refused
  let isResponse = false;
  reply();
  for (let at = 0; !isOver();) {
    const end = text.indexOf('\n', at);
    if (end < 0) break;
    const [line, start] = [text.slice(at, end - 1), at];
    at = end + 1;
    if (end === start || text[end - 1] !== '\r') {
      assert.match(reply(), /^500 /);
      break;
    }
    const [, count, last] = /^BDAT +(\d{1,15})( +LAST)? *$/i.exec(line) ?? [];
    // One that is too long, or has control characters, is refused unread.
    const isBdat = !isResponse && count !== undefined && line.length <= 510;
    if (isBdat) {
      if (at + Number(count) > text.length) break;
      chunks = chunks === undefined ? undefined : chunks + text.slice(at, at + Number(count));
      at += Number(count);
      if (last && said[next]?.kind === 'kept') message(withLineEnd(chunks ?? ''));
      else if (!reply().startsWith('250 ') || last) chunks = '';
      if (last) chunks = '';
      continue;
    }
    const answer = reply();
    const isCommand = !isResponse;
    isResponse = answer.startsWith('334 ');
    if (isCommand && answer.startsWith('250') && /^(?:RSET|EHLO|HELO)\b/i.test(line)) chunks = '';
    if (answer.startsWith('354 ')) {
      const dot = `\r\n${text.slice(at)}`.indexOf('\r\n.\r\n');
      if (dot < 0) break;
      const lines = text.slice(at, at + dot).replaceAll(/(?<=^|\r\n)\./g, '');
      at += dot + 3;
      message(lines.replaceAll('\r\n', '\n'));
    } else if (answer.startsWith('221 ') || (isCommand && /^BDAT(?: |$)/i.test(line) && answer.startsWith('501 ')))
      break;
    else if (answer.startsWith('220 ')) at = ends.find(each => each >= at) ?? text.length;
  }
  if (isOver()) next += 1;
  assert.equal(next, said.length, `more was said than asked: ${said[next]?.text}`);
}

const told = (events: readonly Event[]): string => events.map(({ kind, text }) => `${kind} ${text}`).join('\n');

const withLineEnd = (content: string): string =>
  (content === '' || content.endsWith('\r\n') ? content : `${content}\r\n`).replaceAll('\r\n', '\n');

const words = [
  ...'EHLO a.example\r\n|HELO a\r\n|STARTTLS\r\n|\x1e|MAIL FROM:<a@example.net>|RCPT TO:<b@example.com>|\r\n|RCPT TO:<unknown@example.com>\r\n'.split(
    '|',
  ),
  ...'DATA\r\n|.\r\n|\r\n.\r\n|..|\n.\r\n|\r.\r\n|BDAT 5\r\n|BDAT 0 LAST\r\n|BDAT 10 LAST\r\n| LAST|RSET\r\n|NOOP\r\n|QUIT\r\n|VRFY x\r\n|HELP\r\n|EXPN'.split(
    '|',
  ),
  ...'AUTH PLAIN\r\n|AUTH PLAIN c2VjcmV0\r\n|AUTH LOGIN\r\n|c2VjcmV0\r\n|*\r\n|=\r\n| SIZE=100| BODY=8BITMIME| SMTPUTF8| RET=HDRS| ENVID=a+2B'.split(
    '|',
  ),
  ...' NOTIFY=NEVER| NOTIFY=SUCCESS,FAILURE| ORCPT=rfc822;b@example.com|<>|<postmaster>|"a b"@example.com|@a,@b:|[192.0.2.1]|\xc3\xa4|\0|\x7f|\t'.split(
    '|',
  ),
];

function seeds(): Buffer[] {
  return dialogues('dialogues').map(lines => {
    const has = (option: string): boolean =>
      lines.some(({ mark, text }) => mark === 'OPTION' && text.startsWith(option));
    const variant = has('needsLogin')
      ? has('isSecure')
        ? 3
        : 7
      : has('needsTls')
        ? 2
        : has('isSecure')
          ? 1
          : has('maxSize')
            ? 5
            : 0;
    const sent = lines.filter(({ mark }) => /^(?:C>?|TLS)$/.test(mark));
    const octets = sent.map(line => (line.mark === 'TLS' ? Buffer.from([boundary]) : octetsOf(line)));
    return Buffer.concat([Buffer.from([variant]), ...octets]).subarray(0, 8192);
  });
}

export const session: Target = {
  name: 'session',
  maxOctets: 512,
  seeds: [...kept('session'), ...seeds()],
  words,
  run(input, random: Random, note) {
    const options = variants[(input[0] ?? 0) % variants.length] as SessionOptions;
    const parts: Buffer[] = [];
    for (let at = 1, end = 0; end < input.length; at = end + 1) {
      end = input.indexOf(boundary, at);
      if (end < 0) end = input.length;
      parts.push(input.subarray(at, end));
    }
    const events = run(
      parts.map(part => [part]),
      options,
      note,
    );
    const again = run(
      parts.map(part => cut(part, random)),
      options,
      () => {},
    );
    assert.equal(told(again), told(events), 'it depends on how it was cut');
    check(parts, events, options);
  },
};
