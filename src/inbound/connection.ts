// One client's connection: the loop that carries out what the session asks for.
//
// How it works. The session (smtp/session.ts) is pure: it is given octets and says, one action at a time, what it
// wants. This loop carries the action out, answers it where it was a question, and asks for the next; so exactly one
// action is under way at any time, and replies leave in the order of the commands. An action that is done at once gives
// no promise and the loop goes on without a pause; one that waits (a look-up, a disk, a slow client) suspends this
// connection alone.
//
//   serving   the loop runs. A message is in one of three places: none has begun (#incoming is undefined), its content
//             is coming ('begin' made #incoming), or it is being kept ('commit' waits until it is stable).
//   draining  drain() was called: as serving, but the loop ends as soon as no transaction is open.
//   closing   the last reply was written: by end() from outside, or because the session said 'close'. The loop ends
//             with the action that is under way, which is never interrupted: a commit is finished although its client
//             is gone.
//
// What can be true at once: a message was answered, its spool file is still being removed (#released), and the next
// transaction has begun already. What cannot: two messages in memory for one connection, or content after end().
//
// Promises: a client that does not read, sends too slowly or vanishes costs a bounded time and memory; a surprise is a
// 421 and a log line. Decides nothing about the client: policy.ts does.
// RFC 5321 §4.5.3.2 (timeouts) and §3.8; RFC 3207, 4954.
import type { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import type { SecureContext } from 'node:tls';
import { type Authenticator, CannotTell, type Exchange } from '../mail/ports.ts';
import { splitPath } from '../smtp/address.ts';
import type { Envelope, Recipient, Sender } from '../smtp/envelope.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import { formatReply, loginResult } from '../mail/reply.ts';
import { type Action, Session, type SessionOptions } from '../smtp/session.ts';
import type { Gatherer } from '../system/gather.ts';
import type { Log } from '../system/log.ts';
import { type AcceptOptions, Incoming } from './accept.ts';
import { type EnvelopeBudget, recipientBytes, senderBytes } from './envelopes.ts';
import type { ListenSocket } from './listener.ts';
import { type Peer, clientKey } from './peer.ts';
import { type Answer, type Answers, type Destination, isAuthors } from './policy.ts';
import { Wire } from './wire.ts';

/** How long we wait for a command or more content (RFC 5321 §4.5.3.2.7), and for a whole message. */
const idleTimeoutMs = 5 * 60_000;
const messageTimeoutMs = 60 * 60_000;
const maxFailedLogins = 3;
/** So many addresses may get one message as forwards, beyond those of the first recipient that has any. */
const maxForwards = 1000;
/** One read of the kernel's gives so many octets at most. */
const fullReadOctets = 65_536;

/** What all connections have in common. */
export type Service = Readonly<{
  accept: AcceptOptions;
  answers: Answers;
  authenticator: Authenticator | undefined;
  secureContext: (kind: ListenSocket['kind']) => SecureContext;
  envelopes: EnvelopeBudget;
  gatherer: Gatherer;
  log: Log;
}>;

/** One connection: its name in the log, who is there, and the listening socket that was called. */
type Caller = Readonly<{ id: string; peer: Peer; listener: ListenSocket; session: SessionOptions }>;

export class Connection {
  readonly #service: Service;
  readonly #id: string;
  readonly #listener: ListenSocket;
  readonly #session: Session<Destination>;
  readonly #wire: Wire;
  #peer: Peer;
  #state: 'serving' | 'draining' = 'serving';
  #exchange: Exchange | undefined;
  #incoming: Incoming | undefined;
  #released: Promise<void> | undefined;
  #from = ''; // the reverse-path of the transaction
  #envelopeBytes = 0;
  #forwards = 0; // addresses at other servers that get the message besides
  readonly #counts = { messages: 0, refused: 0, failedLogins: 0 };
  #fullReads = 0;

  /** `onClose` is called once, when the connection and all that it held are gone. */
  constructor(socket: Socket, service: Service, { id, peer, listener, session }: Caller, onClose: () => void) {
    this.#service = service;
    this.#id = id;
    this.#listener = listener;
    this.#peer = peer;
    this.#session = new Session(session);
    this.#wire = new Wire(socket);
    void this.#run(session.isSecure).finally(onClose);
  }

  /** Ends as soon as no transaction is open. */
  drain(): void {
    this.#state = 'draining';
    this.#wire.wake();
  }

  /** Ends now, with a last word: this one, or what the session has said itself to end the dialogue. */
  end(reply: Reply, hasQuit = false): void {
    if (!this.#wire.isOpen) return;
    this.#session.end(reply);
    this.#wire.close(this.#session.output(), hasQuit);
  }

  /** The whole life of the connection. What is under way when the socket goes, such as a commit, is finished first. */
  async #run(isSecure: boolean): Promise<void> {
    const { accept, log } = this.#service;
    const startedAt = accept.clock.now();
    try {
      if (isSecure) await this.#handshake();
      else this.#wire.deadline(idleTimeoutMs, () => this.end(replies.timeout));
      while (this.#wire.isOpen) {
        if (this.#state === 'draining' && !this.#session.isInTransaction) this.end(replies.shuttingDown);
        else {
          const done = this.#carryOut(this.#session.next());
          if (done) await done;
        }
      }
    } catch (error) {
      log.error({ session: this.#id, err: error }, 'a session failed');
      this.end(replies.internalError);
    }
    await this.#incoming?.discard();
    await this.#released;
    this.#freeEnvelope();
    await this.#wire.gone();
    this.#logEnd(accept.clock.now() - startedAt);
  }

  /** What is done at once gives no promise: a third of what a dialogue left to the garbage collector came from that. */
  #carryOut(action: Action<Destination>): Promise<void> | void {
    switch (action.kind) {
      case 'read':
        return this.#read();
      case 'flush':
        return this.#flush()?.then(() => turn()) ?? turn();
      case 'authenticate':
        return this.#authenticate(action.mechanism, action.response);
      case 'sender':
        return this.#answerSender(action.sender);
      case 'recipient':
        return this.#answerRecipient(action.recipient);
      case 'begin':
        return this.#session.answer(this.#begin(action.envelope));
      case 'chunk':
        return this.#incoming?.write(action.data);
      case 'refused':
        return this.#logCommand(action);
      case 'commit':
        return this.#commit();
      case 'discard':
        return this.#discard(action.reply);
      case 'secure':
        return this.#secure();
      case 'close':
        return this.end(replies.bye, action.hasQuit);
      default:
        return action satisfies never;
    }
  }

  #read(): Promise<void> | void {
    if (this.#collect()) this.#wire.sendSoon();
    const drained = this.#wire.drained();
    if (drained) return drained; // and then again
    const octets = this.#wire.read();
    if (octets === null) return this.#wire.more();
    this.#session.receive(octets);
    // libuv reads up to 32 full buffers of one socket before it looks at another: 2 MB, which may be a million lines.
    // Content is worked off fast: of that four.
    const isFull = octets.length >= fullReadOctets && (!this.#incoming || ++this.#fullReads % 4 === 0);
    return isFull ? turn() : undefined;
  }

  #answerSender(sender: Sender): Promise<void> | void {
    const { reversePath } = sender;
    this.#freeEnvelope(); // of the transaction before
    this.#from = reversePath === '' ? '' : reversePath.text;
    const answer = (reply: Reply): void => {
      if (reply.code >= 400) this.#logRefusal('sender refused', reply, {});
      this.#session.answer(reply);
    };
    if (!this.#hold(senderBytes(sender))) return answer(replies.envelopesFull);
    const reply = this.#service.answers.sender(this.#peer, reversePath);
    return reply instanceof Promise ? reply.then(answer) : answer(reply);
  }

  async #answerRecipient(recipient: Recipient): Promise<void> {
    let { reply, destination }: Answer = this.#hold(recipientBytes(recipient))
      ? await this.#service.answers.recipient(recipient.address, this.#peer, this.#from)
      : { reply: replies.envelopesFull };
    const forwards = destination?.found?.forwards?.length ?? 0;
    if (this.#forwards > 0 && this.#forwards + forwards > maxForwards)
      [reply, destination] = [replies.tooManyRecipients, undefined];
    else this.#forwards += forwards;
    if (reply.code >= 400) {
      this.#counts.refused += 1;
      this.#logRefusal('recipient refused', reply, { to: recipient.address.text });
    }
    this.#session.answer(reply, destination);
  }

  /** Whether that much more of an envelope may be held in memory. */
  #hold(bytes: number): boolean {
    if (!this.#service.envelopes.take(this.#envelopeBytes, bytes)) return false;
    this.#envelopeBytes += bytes;
    return true;
  }

  #freeEnvelope(): void {
    this.#service.envelopes.giveBack(this.#envelopeBytes);
    this.#envelopeBytes = 0;
    this.#forwards = 0;
    this.#from = ''; // it would keep the whole line of MAIL in memory
  }

  /** 354, or why the message cannot be taken now. */
  #begin(envelope: Envelope<Destination>): Reply {
    if (this.#peer.helo !== this.#session.helo) this.#peer = { ...this.#peer, helo: this.#session.helo };
    const isSubmitted = isAuthors(this.#peer, this.#listener.kind !== 'smtp');
    try {
      this.#incoming = new Incoming(this.#service.accept, envelope, this.#peer, this.#id, isSubmitted);
      return replies.sendMessage;
    } catch (error) {
      const fields = { session: this.#id, err: error };
      this.#service.log.error(fields, 'a message could not be stored; its sender will try again');
      return replies.notStored(error instanceof CannotTell ? error.status : '4.3.0');
    }
  }

  async #commit(): Promise<void> {
    await this.#released; // of the message before
    const reply = await this.#incoming?.commit();
    this.#released = this.#incoming?.release();
    this.#incoming = undefined;
    this.#counts.messages += 1;
    this.#session.answer(reply ?? replies.internalError);
  }

  async #discard(reply?: Reply): Promise<void> {
    await this.#incoming?.discard(reply);
    this.#incoming = undefined;
  }

  async #secure(): Promise<void> {
    await this.#flush();
    if (this.#wire.isOpen) await this.#handshake();
    this.#session.secured();
  }

  async #handshake(): Promise<void> {
    await this.#wire.secure(this.#service.secureContext(this.#listener.kind));
    this.#peer = { ...this.#peer, helo: undefined, tls: this.#wire.tls };
    if (this.#wire.isOpen) this.#wire.deadline(idleTimeoutMs, () => this.end(replies.timeout));
  }

  async #authenticate(mechanism: string | undefined, response: Buffer | undefined): Promise<void> {
    const { authenticator, accept } = this.#service;
    if (mechanism !== undefined) {
      if (!authenticator?.mechanisms.includes(mechanism)) return this.#session.answer(replies.unknownMechanism);
      this.#exchange = authenticator.begin(mechanism, this.#peer.client, type => this.#wire.binding(type));
    }
    const exchange = this.#exchange;
    const reply = (await exchange?.step(response)) ?? replies.internalError;
    this.#peer = { ...this.#peer, login: exchange?.login };
    // 454 counts too: a client that is shut out for guessing must not ask a thousand times a second.
    if (reply.code === replies.loginFailed.code || reply.code === replies.cannotLogin.code)
      this.#counts.failedLogins += 1;
    if (reply.code >= 400) this.#log('warn', { name: exchange?.name, reply: formatReply(reply) }, 'a login failed');
    const result = loginResult(reply);
    if (result) accept.listen?.({ kind: 'login', client: this.#peer.client, name: exchange?.name, result });
    this.#session.answer(reply);
    if (this.#counts.failedLogins >= maxFailedLogins) this.#session.end(replies.tooMany('failed logins'));
  }

  #flush(): Promise<void> | undefined {
    this.#collect();
    this.#wire.send();
    return this.#wire.drained();
  }

  /** Takes over what the session has to say. Returns whether there is anything to send. */
  #collect(): boolean {
    const age = this.#incoming ? this.#service.accept.clock.now() - this.#incoming.startedAt : 0;
    if (age > messageTimeoutMs) this.end(replies.timeout);
    const hasOutput = this.#wire.write(this.#session.output());
    if (this.#envelopeBytes > 0 && !this.#session.isInTransaction) this.#freeEnvelope();
    // Only progress buys time: a command that was answered, or content; not a command that comes octet by octet.
    if (hasOutput || this.#incoming !== undefined) this.#wire.refresh();
    return hasOutput;
  }

  /** Logs a command that was refused before anything was asked about it. */
  #logCommand({ verb, argument: whole, reply }: Extract<Action, { kind: 'refused' }>): void {
    const argument = whole.slice(0, 300);
    const keyword = verb === 'MAIL' ? 'FROM' : 'TO';
    const [path = argument] = splitPath(keyword, argument) ?? [];
    this.#logRefusal(`${verb} refused`, reply, { ...(verb === 'MAIL' ? { from: path } : { to: path }), argument });
  }

  #logRefusal(sentence: string, reply: Reply, fields: Readonly<Record<string, string>>): void {
    const said = { helo: this.#session.helo, from: this.#from, ...fields, reply: formatReply(reply) };
    this.#log('info', said, sentence);
    this.#service.accept.listen?.({ ...said, kind: 'refused', session: this.#id, client: this.#peer.client });
  }

  /** Logs a line that the client can cause as often as it likes: such lines are gathered. */
  #log(level: 'info' | 'warn', fields: Record<string, unknown>, sentence: string): void {
    const { client } = this.#peer;
    this.#service.gatherer.line(level, clientKey(client), { session: this.#id, client, ...fields }, sentence);
  }

  #logEnd(ms: number): void {
    const { log, accept } = this.#service;
    const { client, tls, login } = this.#peer;
    const listener = `${this.#listener.kind}:${this.#listener.port}`;
    const who = { session: this.#id, listener, client, helo: this.#session.helo, tls, login: login?.name };
    // A probe, such as a load balancer's, connects and leaves: it has said nothing but QUIT.
    const isProbe = !this.#session.hasSpoken && !this.#wire.isTlsBroken;
    accept.listen?.({ kind: 'session', listener: this.#listener.kind, isProbe, ms });
    log[isProbe ? 'debug' : 'info']({ ...who, ...this.#counts, end: this.#wire.end, ms }, 'session ended');
  }
}
