// The server's side of an SMTP dialogue (RFC 5321) as a pure state machine: octets in, actions and replies out. No
// sockets, timers, clock or promises: a dialogue is a function of its input, however that was cut into pieces. How to
// drive it: receive(octets), then next() until 'read' (send output(), wait for more) or 'close'. Actions marked * are
// questions: call answer(reply) before next(). Never throws on remote input and never grows with it.
import { Body, CR, LF, nothing } from './body.ts';
import { type Accepted, type Envelope, type Recipient, type Sender, parseRecipient, parseSender } from './envelope.ts';
import type { ExtensionName } from './extensions.ts';
import { type Reply, encodeReply, replies } from './reply.ts';

export type SessionOptions = {
  readonly hostname: string;
  readonly extensions: readonly { readonly name: string; readonly parameter?: string }[]; // EHLO's order; others: refused
  readonly maxSizeBytes: number;
  readonly needsTls: boolean; // before MAIL
  readonly needsLogin: boolean; // before MAIL
  readonly isSecure: boolean; // from the start: implicit TLS (RFC 8314)
  readonly mayLoginInClear?: boolean; // and then STARTTLS is not announced: for tests alone
  readonly note?: string; // behind our name in the greeting
};

export type Action<Ticket = unknown> =
  | { readonly kind: 'read' } // send output(), then receive() more
  | { readonly kind: 'flush' } // send output(), let others have their turn, and go on
  /** * a response of the client's; with a mechanism it begins a login. 334: another follows; 235: it is logged in */
  | { readonly kind: 'authenticate'; readonly mechanism?: string; readonly response: Buffer | undefined }
  | { readonly kind: 'sender'; readonly sender: Sender } // * may this client send as this one? 2xx: yes
  | { readonly kind: 'recipient'; readonly recipient: Recipient } // * is it served? 2xx: it joins the envelope
  | { readonly kind: 'begin'; readonly envelope: Envelope<Ticket> } // * content is about to come; 354: it may
  | { readonly kind: 'chunk'; readonly data: Buffer } // content, line ends LF; its memory belongs to the receiver
  | { readonly kind: 'commit' } // * the message is whole: keep it
  | { readonly kind: 'discard'; readonly reply: Reply | undefined } // forget the message: it was refused so, or will not come
  | { readonly kind: 'refused'; readonly verb: 'MAIL' | 'RCPT'; readonly argument: string; readonly reply: Reply } // it was
  | { readonly kind: 'secure' } // send output(), start TLS, call secured(), which drops whatever came in clear
  | { readonly kind: 'close'; readonly hasQuit: boolean }; // send output(), then close

export const maxRecipients = 1000;
const [maxFailed, maxRefused, maxDiscarded, maxIdle] = [10, 100, 20, 1000]; // commands, recipients, messages; NOOPs
const maxOutputOctets = 4096; // then 'flush': 64 KiB of EHLO make 3 MB of replies, and 11,000 NOOP hold up everyone
const [maxLineOctets, maxLoginLineOctets] = [512, 4096]; // the second: AUTH, for which RFC 4954 §4 sets none
const maxPathLineOctets = maxLineOctets + 1060; // to MAIL, SIZE, BODY, SMTPUTF8 add 53, AUTH 500, DSN 500; rounded up
const failures: ReadonlySet<number> = new Set([500, 501, 503, 504, 555]);
const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const withoutArgument: ReadonlySet<string> = new Set(['DATA', 'QUIT', 'RSET', 'STARTTLS']);

/** Octets to come: `left` of them (Infinity: to the final dot), into the body or, with a refusal, for nothing. */
type Chunk = { left: number; readonly isLast: boolean; readonly into: Body | Reply };
type Transaction<Ticket> = Sender & { readonly recipients: Accepted<Ticket>[]; content?: Body };
const hidden = (o: SessionOptions, isSecure: boolean) => (isSecure || o.mayLoginInClear ? 'STARTTLS' : 'AUTH');
const isOn = ({ extensions }: SessionOptions, name: ExtensionName): boolean => extensions.some(e => e.name === name);

export class Session<Ticket = unknown> {
  readonly #options: SessionOptions;
  #input: Buffer = nothing;
  #output: string;
  #said: Reply = replies.ok; // last
  #isSecure: boolean;
  helo: string | undefined;
  hasSpoken = false; // any line but QUIT has come
  #isExtended = false;
  #transaction: Transaction<Ticket> | undefined;
  #chunk: Chunk | undefined; // while octets are content; else they are commands
  #login: 'none' | 'begun' | 'done' = 'none';
  #lastReply: Reply | undefined; // the dialogue has ended with it
  readonly #counts = { failed: 0, refused: 0, discarded: 0, idle: 0 };
  answer: (reply: Reply, ticket?: Ticket) => void = () => undefined; // to the question that next() has just asked

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#isSecure = options.isSecure;
    this.#output = encodeReply(replies.greeting(options.hostname, options.note), false);
  }

  /** Takes ownership of the octets: they are changed in place. */
  receive(octets: Buffer): void {
    this.#input = this.#input.length > 0 ? Buffer.concat([this.#input, octets]) : octets;
  }

  next(): Action<Ticket> {
    let action: Action<Ticket> | undefined;
    while (action === undefined) action = this.#step();
    return action;
  }

  /** TLS is up: what was said before counts no more (RFC 3207 §4.2). */
  secured(): void {
    this.#isSecure = true;
    this.helo = undefined;
    this.#input = nothing; // whatever was sent in clear behind STARTTLS is an injection (CVE-2011-0411)
  }

  /** Ends the dialogue from our side. */
  end(reply: Reply): undefined {
    if (this.#lastReply) return;
    this.#lastReply = reply;
    this.#say(reply);
  }

  /** What to send; the caller has it from now on. ASCII. */
  output(): string {
    const output = this.#output;
    this.#output = '';
    return output;
  }

  get isInTransaction(): boolean {
    return this.#transaction !== undefined;
  }

  #step(): Action<Ticket> | undefined {
    if (this.#lastReply) return this.#reset() ?? { kind: 'close', hasQuit: this.#lastReply === replies.bye };
    if (this.#chunk === undefined) return this.#output.length > maxOutputOctets ? { kind: 'flush' } : this.#line();
    if (this.#chunk.left === 0) return this.#contentEnd(this.#chunk);
    return this.#input.length === 0 ? { kind: 'read' } : this.#content(this.#chunk);
  }

  #ask(action: Action<Ticket>, answered: (reply: Reply, ticket?: Ticket) => void): Action<Ticket> {
    this.answer = answered;
    return action;
  }

  #say(reply: Reply): undefined {
    this.#output += encodeReply(reply, isOn(this.#options, 'ENHANCEDSTATUSCODES'));
    if (failures.has(reply.code) && ++this.#counts.failed > maxFailed) this.end(replies.tooMany('failed commands'));
    this.#said = reply;
  }

  /** Whether this client was told of the extension, or will be once TLS is up: what is not announced is refused. */
  #offers(extension: ExtensionName): boolean {
    return this.#isExtended && isOn(this.#options, extension);
  }

  readonly #offersNow = (name: ExtensionName) => name !== hidden(this.#options, this.#isSecure) && this.#offers(name);

  /** Forgets the transaction; its content too, when that had begun. */
  #reset(reply?: Reply): Action<Ticket> | undefined {
    const hasBegun = this.#transaction?.content !== undefined;
    this.#transaction = undefined;
    if (!hasBegun) return undefined;
    if (++this.#counts.discarded > maxDiscarded) this.end(replies.tooMany('discarded messages'));
    return { kind: 'discard', reply };
  }

  /** Carries out the next line, once it is here whole. */
  #line(): Action<Ticket> | undefined {
    const input = this.#input;
    const lf = input.indexOf(LF);
    if (lf < 0) {
      // A copy, so that an idle client does not pin what it sent before; of a line without end, as much as is too long.
      this.#input = input.length === 0 ? nothing : Buffer.from(input.subarray(-maxLoginLineOctets));
      return { kind: 'read' };
    }
    this.#input = input.subarray(lf + 1);
    const line = input.toString('utf8', 0, lf - 1);
    this.hasSpoken ||= line.toUpperCase() !== 'QUIT';
    // Some clients (and smuggling) end lines by LF. Guessing what they mean is how smuggling works: say it and part.
    if (input[lf - 1] !== CR) return this.end(replies.bareLineFeed);
    const isResponse = this.#login === 'begun';
    if (isResponse) this.#login = 'none';
    const isLogin = isResponse || /^AUTH /i.test(line);
    const maxOctets = isLogin ? maxLoginLineOctets : /^(?:MAIL|RCPT) /i.test(line) ? maxPathLineOctets : maxLineOctets;
    if (lf + 1 > maxOctets) return this.#say(replies.lineTooLong);
    // U+2028 and U+2029 end lines for much software. A name in EHLO may be in any charset: trace.ts makes it harmless.
    if (/[\p{Cc}\p{Zl}\p{Zp}\ufffd]/u.test(line) && !/^(?:EHLO|HELO) [^\p{Cc}\p{Zl}\p{Zp}]*$/iu.test(line))
      return this.#say(replies.badCharacter);
    if (!isResponse) return this.#command(line);
    return line === '*' ? this.#say(replies.loginCancelled) : this.#authenticate(line);
  }

  #command(line: string): Action<Ticket> | undefined {
    const [word = ''] = line.split(' ', 1);
    const [verb, argument] = [word.toUpperCase(), line.slice(word.length).trim()];
    if (!/^(?:MAIL|RCPT|DATA|BDAT)$/.test(verb) && ++this.#counts.idle > maxIdle)
      return this.end(replies.tooMany('idle commands'));
    if (argument !== '' && withoutArgument.has(verb)) return this.#say(replies.noParameterHere);
    return (Session.#commands.get(verb) ?? (s => s.#say(replies.unknownCommand)))(this, argument);
  }

  static readonly #commands = new Map<string, <T>(s: Session<T>, argument: string) => Action<T> | undefined>([
    ['EHLO', (s, argument) => s.#hello(argument, true)],
    ['HELO', (s, argument) => s.#hello(argument, false)],
    ['STARTTLS', s => s.#starttls()],
    ['MAIL', (s, argument) => s.#mail(argument) ?? { kind: 'refused', verb: 'MAIL', argument, reply: s.#said }],
    ['RCPT', (s, argument) => s.#recipient(argument) ?? { kind: 'refused', verb: 'RCPT', argument, reply: s.#said }],
    ['DATA', s => s.#data()],
    ['BDAT', (s, argument) => s.#bdat(argument)],
    ['RSET', s => s.#say(replies.ok) ?? s.#reset()],
    ['NOOP', s => s.#say(replies.ok)],
    ['VRFY', (s, argument) => s.#say(argument === '' ? replies.syntax('VRFY address') : replies.cannotVerify)],
    ['EXPN', s => s.#say(replies.notImplemented)],
    ['AUTH', (s, argument) => s.#auth(argument)],
    ['HELP', s => s.#say(isOn(s.#options, 'HELP') ? replies.help : replies.notImplemented)],
    ['QUIT', s => s.end(replies.bye)],
  ]);

  #hello(name: string, isExtended: boolean): Action<Ticket> | undefined {
    if (name === '') return this.#say(replies.syntax('EHLO hostname'));
    this.helo = name;
    this.#isExtended = isExtended;
    const shown = this.#options.extensions.filter(e => isExtended && e.name !== hidden(this.#options, this.#isSecure));
    this.#say(replies.hello([this.#options.hostname, ...shown.map(e => `${e.name} ${e.parameter ?? ''}`.trim())]));
    return this.#reset();
  }

  #starttls(): Action<Ticket> | undefined {
    if (!this.#offers('STARTTLS')) return this.#say(replies.notImplemented);
    if (this.#isSecure) return this.#say(replies.activeAlready('TLS'));
    if (this.#transaction !== undefined) return this.#say(replies.transactionOpen);
    return this.#say(replies.readyForTls) ?? { kind: 'secure' };
  }

  #auth(argument: string): Action<Ticket> | undefined {
    const [name = '', initial, ...more] = argument.split(' ');
    if (!this.#offers('AUTH')) return this.#say(replies.notImplemented);
    if (hidden(this.#options, this.#isSecure) === 'AUTH') return this.#say(replies.needTlsForLogin);
    if (this.#login === 'done') return this.#say(replies.activeAlready('Your login'));
    if (this.#transaction !== undefined) return this.#say(replies.transactionOpen);
    if (name === '' || more.length > 0) return this.#say(replies.syntax('AUTH mechanism [initial-response]'));
    return this.#authenticate(initial === '=' ? '' : initial, name.toUpperCase());
  }

  #authenticate(text: string | undefined, mechanism?: string): Action<Ticket> | undefined {
    if (text !== undefined && !base64.test(text)) return this.#say(replies.badResponse);
    const response = text === undefined ? undefined : Buffer.from(text, 'base64');
    return this.#ask({ kind: 'authenticate', response, ...(mechanism && { mechanism }) }, reply => {
      if (reply.code < 400) this.#login = reply.code === replies.loggedIn.code ? 'done' : 'begun';
      this.#say(reply);
    });
  }

  #mail(argument: string): Action<Ticket> | undefined {
    if (this.helo === undefined) return this.#say(replies.outOfOrder('EHLO'));
    if (this.#transaction !== undefined) return this.#say(replies.transactionOpen);
    if (this.#options.needsTls && !this.#isSecure) return this.#say(replies.needTls);
    if (this.#options.needsLogin && this.#login !== 'done') return this.#say(replies.needLogin);
    const sender = parseSender(argument, this.#offersNow);
    if ('code' in sender) return this.#say(sender);
    if (sender.declaredSizeBytes > this.#options.maxSizeBytes) return this.#say(replies.messageTooBig);
    return this.#ask({ kind: 'sender', sender }, reply => {
      if (reply.code < 300) this.#transaction = { ...sender, recipients: [] };
      this.#say(reply);
    });
  }

  #recipient(argument: string): Action<Ticket> | undefined {
    const transaction = this.#transaction;
    if (transaction === undefined) return this.#say(replies.outOfOrder('MAIL'));
    if (transaction.content !== undefined) return this.#say(replies.transactionOpen);
    const recipient = parseRecipient(argument, this.#offersNow, transaction.wishes.isUtf8);
    if ('code' in recipient) return this.#say(recipient);
    if (transaction.recipients.length >= maxRecipients) return this.#say(replies.tooManyRecipients);
    return this.#ask({ kind: 'recipient', recipient }, (reply, ticket) => {
      if (reply.code < 300) transaction.recipients.push({ ...recipient, ticket });
      this.#say(reply);
      if (reply.code >= 500 && ++this.#counts.refused > maxRefused) this.end(replies.tooMany('refused recipients'));
    });
  }

  #contentRefusal(): Reply | undefined {
    if (this.#transaction === undefined) return replies.outOfOrder('MAIL');
    // Clients that pipeline send DATA before they see that all were refused: no failed command of theirs.
    return this.#transaction.recipients.length > 0 ? undefined : replies.noValidRecipients;
  }

  /** Asks whether content may come, and if so takes that much of it. */
  #begin(isDotted: boolean, chunk: Omit<Chunk, 'into'>): Action<Ticket> {
    const transaction = this.#transaction as Transaction<Ticket>;
    const kind = transaction.wishes.isUtf8 ? 'UTF8SMTP' : this.#isExtended ? 'ESMTP' : 'SMTP';
    const suffix = (this.#isSecure ? 'S' : '') + (this.#login === 'done' ? 'A' : '');
    const protocol = this.#isExtended ? kind + suffix : kind; // RFC 3848, RFC 6531 §4.3: no name for HELO with TLS
    return this.#ask({ kind: 'begin', envelope: { ...transaction, helo: this.helo ?? '', protocol } }, reply => {
      const isWelcome = reply.code === replies.sendMessage.code;
      const content = new Body(isDotted, this.#options.maxSizeBytes);
      if (isWelcome) transaction.content = content;
      else this.#transaction = undefined;
      if (isDotted) this.#say(reply);
      if (isWelcome || !isDotted) this.#chunk = { ...chunk, into: isWelcome ? content : reply };
    });
  }

  #data(): Action<Ticket> | undefined {
    const refusal = this.#transaction?.content ? replies.transactionOpen : this.#contentRefusal();
    return refusal ? this.#say(refusal) : this.#begin(true, { left: Infinity, isLast: true });
  }

  #bdat(argument: string): Action<Ticket> | undefined {
    const [, count, last] = /^(\d{1,15})( +LAST)?$/i.exec(argument) ?? [];
    // The octets come, refused or not, and must never be read as commands (RFC 3030 §4.1): without a number, we part.
    if (count === undefined) return this.end(replies.syntax('BDAT octets [LAST]'));
    const refusal = this.#offers('CHUNKING') ? this.#contentRefusal() : replies.notImplemented;
    const into = refusal ?? this.#transaction?.content;
    const chunk = { left: Number(count), isLast: last !== undefined };
    if (into !== undefined) this.#chunk = { ...chunk, into };
    return into === undefined ? this.#begin(false, chunk) : undefined;
  }

  #content(chunk: Chunk): Action<Ticket> | undefined {
    const octets = this.#input.subarray(0, chunk.left);
    this.#input = this.#input.subarray(octets.length);
    chunk.left -= octets.length;
    if (!(chunk.into instanceof Body)) return undefined;
    const { content: data, rest } = chunk.into.receive(octets);
    if (rest !== undefined) [this.#input, chunk.left] = [rest, 0];
    if (data.length === 0) return undefined;
    // The receiver may free the memory of what it gets: it gets a copy where more lies there.
    if (this.#input.length === 0) this.#input = nothing;
    return { kind: 'chunk', data: this.#input.length > 0 ? Buffer.from(data) : data };
  }

  /** The message, or a BDAT chunk of it, has come in full. */
  #contentEnd({ into, isLast }: Chunk): Action<Ticket> | undefined {
    const data = into instanceof Body && isLast ? into.finish() : nothing;
    if (data.length > 0) return { kind: 'chunk', data };
    this.#chunk = undefined;
    if (!(into instanceof Body)) return this.#say(into);
    const defect = into.defect === 'malformed' ? replies.bareLineEnd : into.defect && replies.messageTooBig;
    if (defect !== undefined) return this.#say(defect) ?? this.#reset(defect);
    if (!isLast) return this.#say(replies.ok);
    return this.#ask({ kind: 'commit' }, reply => {
      this.#transaction = undefined;
      this.#counts.idle = 0;
      this.#say(reply);
    });
  }
}
