// One message on an open session: as many transactions as the server's limits make of it. Pure and synchronous, as
// dialogue.ts is.
// Promises: a result for each recipient, whatever happens; a recipient is 'delivered' only when the server took the
// content after all of it was sent; nobody bounces because there were many recipients; whatever is not understood is a
// deferral.
// RFC 5321 §3.3 and §4.5.3.1.10, 2033 §4.2 (LMTP), 2920 (PIPELINING), 1870 (SIZE), 9422 (LIMITS), 3461 §5.2 (DSN), 6531
// (SMTPUTF8).
//
// The recipients that have no result yet wait in a line. A transaction takes the first of them, as many as may go
// together. What a server says to one of them after it has accepted others may be about their number: then this
// recipient waits for the next transaction, which begins at once. There it comes first, and what is said to the first
// recipient of a transaction is about itself. So each transaction gives a result to one recipient at least, or was
// refused as a whole because of its number of recipients; then the following ones are half as large. The smallest has
// one recipient, so the line comes to its end. A session that ends between two transactions leaves recipients that the
// server was not asked about: `untried`. If a session is lost within a transaction, every recipient without a result
// waits.
import { domainToASCII } from 'node:url';
import { type Delivery, type QueueEntry, type QueueRecipient, asOriginal } from '../mail/message.ts';
import { type Dialogue, ask, hear, send } from './dialogue.ts';
import { type Offers, type ServerReply, deferred, failed, isLast, toDelivery } from './replies.ts';

/** One message. `sizeBytes`: as in RFC 1870, and rather too little than too much. */
export type Mail = Omit<QueueEntry, 'id' | 'receivedAt' | 'returnPathBytes'> & { readonly sizeBytes: number };
/**
 * Our own limits, whatever the server offers: recipients of a transaction, and the transactions that this session has
 * left.
 */
type Limits = {
  readonly recipients: number;
  readonly transactions: number;
  /** Whether after the final dot each recipient that was accepted has a reply of its own. */
  readonly isLmtp?: boolean;
};
export type Sent = {
  readonly deliveries: readonly Delivery[];
  /**
   * The indexes in `deliveries` of recipients that the server was not asked about: another session may be opened for
   * them.
   */
  readonly untried: readonly number[];
  /** Whether the session is in step, so that another message may follow if it has transactions left. */
  readonly isReusable: boolean;
  readonly transactions: number;
};

/** So many commands go out before their replies are read: neither side's window fills up (RFC 2920 §3.1). */
const maxPipelined = 100;
const isAscii = (text: string): boolean => /^[\0-\x7f]*$/.test(text);
const unfit = failed('5.6.7', 'the server does not take non-ASCII addresses');

type Addressee = { readonly command: string; result?: Delivery };
/** How a transaction ended. A recipient that has no result then waits for the next transaction. */
type End =
  /**
   * The session is ready for another one. `size`: how many recipients that should have at most, if this one has taught
   * us so.
   */
  | { readonly kind: 'ready'; readonly isAccepted: boolean; readonly size?: number | undefined }
  /** MAIL was refused, so nobody can be sent to. */
  | { readonly kind: 'refused'; readonly delivery: Delivery; readonly isReusable: boolean }
  /** The session is over, or is no good any more. */
  | Over;
type Over = { readonly kind: 'over'; readonly delivery: Delivery; readonly isUntried: boolean };

export function* transact(offers: Offers, mail: Mail, limits: Limits): Dialogue<Sent> {
  const asUtf8 = mail.isUtf8 && offers.has('SMTPUTF8');
  const mailCommand = toCommand('MAIL FROM', mail.sentAs ?? mail.from, asUtf8, mailParameters(offers, mail, asUtf8));
  const addressees = mail.recipients.map((each): Addressee => {
    const command = toCommand('RCPT TO', each.address, asUtf8, offers.has('DSN') ? dsnParameters(each, asUtf8) : []);
    return command === undefined ? { command: '', result: unfit } : { command };
  });
  let transactions = 0;
  const finish = (others: Delivery, isReusable: boolean, isUntried = false): Sent => {
    const deliveries = addressees.map(({ result }) => result ?? others);
    const untried = isUntried ? [...addressees.keys()].filter(at => addressees[at]?.result === undefined) : [];
    return { deliveries, untried, isReusable, transactions };
  };
  const maxSizeBytes = Number(/^\d+$/.exec(offers.get('SIZE') ?? '')?.[0] ?? 0);
  if (maxSizeBytes > 0 && mail.sizeBytes > maxSizeBytes)
    return finish(failed('5.3.4', `the server takes no more than ${maxSizeBytes} octets`), true);
  if (mailCommand === undefined) return finish(unfit, true);

  const maxSize = Math.min(limits.recipients, limitOf(offers, 'RCPTMAX'));
  let size = maxSize;
  for (;;) {
    const waiting = addressees.filter(({ result }) => result === undefined);
    if (waiting.length === 0) return finish(unfit, true);
    if (transactions >= limits.transactions) return finish(spent, true, true);
    transactions += 1;
    const hasTaken = addressees.some(({ result }) => result?.kind === 'delivered');
    const before = hasTaken ? 'taken' : transactions > 1 ? 'refused' : 'none';
    const end = yield* transaction(offers, mailCommand, waiting.slice(0, size), before, limits.isLmtp === true);
    if (end.kind === 'over') return finish(end.delivery, false, end.isUntried);
    if (end.kind === 'refused') return finish(end.delivery, end.isReusable);
    // Where nobody was accepted their number was not the reason. So the size stays, or a full disk would make it one at
    // a time.
    size = end.isAccepted ? Math.min(size, end.size ?? size) : maxSize;
  }
}

/** A limit that the server has announced for a session (MAILMAX) or a transaction (RCPTMAX). RFC 9422. */
export function limitOf(offers: Offers, name: 'MAILMAX' | 'RCPTMAX'): number {
  const limits = offers.get('LIMITS');
  const [, value] = (limits && new RegExp(`(?:^| )${name}=([1-9]\\d*)(?: |$)`, 'i').exec(limits)) || [];
  return value === undefined ? Infinity : Number(value);
}

const spent = deferred('4.5.3', 'the session has had as many transactions as it may');

/** Carries out one transaction. `before`: what became of the others for the same message in this session. */
function* transaction(
  offers: Offers,
  mailCommand: string,
  batch: readonly Addressee[],
  before: 'none' | 'refused' | 'taken',
  isLmtp: boolean,
): Dialogue<End> {
  const isFollowing = before !== 'none';
  const envelope = yield* sendEnvelope(mailCommand, batch, isFollowing, offers.has('PIPELINING') ? maxPipelined : 1);
  if ('kind' in envelope) return envelope;
  const { accepted, refusal, data, tooMany } = envelope;
  const mayCome = data?.code === 354;
  if (mayCome && refusal !== undefined) return over(refusal, isFollowing); // for whom would it take a lone dot?
  if (mayCome && isLmtp && accepted.length === 0) return over(toDelivery(data, false)); // no reply would come to a dot
  if (!mayCome || accepted.length === 0) {
    // RFC 2920 §3.1: a server that wants content although it took no recipient gets none.
    const parting = yield* ask(mayCome ? '.' : 'RSET');
    const isReady = parting.code === 250;
    if (refusal !== undefined) {
      // After MAIL was taken once, a refusal is about the session rather than about the sender or the message.
      if (isFollowing) return over(refusal);
      return { kind: 'refused', delivery: refusal, isReusable: isReady };
    }
    if (accepted.length === 0 && tooMany !== undefined) {
      if (before === 'taken') return over(tooMany); // so it is about their number in the session
      for (const each of batch) each.result ??= asDeferral(tooMany);
    }
    // Several mailboxes are hardly full all at once: the server means the number of recipients, and says so as old
    // servers do.
    const isFullOnly = batch.length > 1 && batch.every(({ result }) => result && isBare552(result));
    if (before === 'taken' && isFullOnly) for (const each of batch) each.result &&= asDeferral(each.result);
    const size = data && giveResult(accepted, toDelivery(data, false));
    if (!isReady) return over(toDelivery(parting, false));
    return { kind: 'ready', isAccepted: accepted.length > 0, size };
  }
  const sent = yield { kind: 'content' };
  if (isLmtp) return yield* hearEach(accepted, sent);
  const end = yield hear('end');
  // A reply that came before all was sent can refuse, and never accept.
  const reply = sent.code === 0 && end.code < 400 ? sent : end;
  const last = toDelivery(reply);
  const isDsnPassedOn = last.kind === 'delivered' && offers.has('DSN');
  const half = giveResult(accepted, { ...last, ...(isDsnPassedOn && { isDsnPassedOn }) });
  const isReady = sent.code !== 0 && !isLast(reply) && last.status !== '4.5.0';
  // Where the server has refused before all was sent, another session may ask about the others. Where it is gone they
  // wait too.
  if (!isReady) return over(last, last.kind === 'failed');
  return { kind: 'ready', isAccepted: true, size: half ?? (tooMany && accepted.length) };
}

/** Hears what an LMTP server says of each recipient after the final dot, in the order in which it has accepted them. */
function* hearEach(accepted: readonly Addressee[], sent: ServerReply): Dialogue<End> {
  for (const each of accepted) {
    const end = yield hear('end');
    const reply = sent.code === 0 && end.code < 400 ? sent : end;
    each.result = toDelivery(reply);
    // Those that are left may have it or not, so they wait.
    if (sent.code === 0 || isLast(reply)) return { kind: 'over', delivery: asDeferral(each.result), isUntried: false };
  }
  return { kind: 'ready', isAccepted: true };
}

/** Asks whether the server takes mail for an address, without sending any. */
export function* inquire(offers: Offers, address: string): Dialogue<{ delivery: Delivery; isReusable: boolean }> {
  const asUtf8 = !isAscii(address) && offers.has('SMTPUTF8');
  const command = toCommand('RCPT TO', address, asUtf8, []);
  if (command === undefined) return { delivery: unfit, isReusable: true };
  const mail = toDelivery(yield* ask(`MAIL FROM:<>${asUtf8 ? ' SMTPUTF8' : ''}`));
  // A refusal of MAIL says nothing of the mailbox.
  const delivery = mail.kind === 'delivered' ? toDelivery(yield* ask(command)) : asDeferral(mail);
  const { code } = yield* ask('RSET');
  return { delivery, isReusable: code === 250 };
}

type Envelope = {
  readonly accepted: readonly Addressee[];
  /** The refusal of MAIL, where it was refused. */
  readonly refusal?: Delivery | undefined;
  /** The reply to DATA, if it was sent. */
  readonly data?: ServerReply | undefined;
  /** A refusal of recipients that may be about their number; unset if another recipient was accepted after it. */
  readonly tooMany?: Delivery | undefined;
};

/** Sends MAIL, RCPT and DATA, in groups of commands. */
function* sendEnvelope(
  mailCommand: string,
  batch: readonly Addressee[],
  isFollowing: boolean,
  groupSize: number,
): Dialogue<Envelope | Over> {
  const accepted: Addressee[] = [];
  let refusal: Delivery | undefined;
  let data: ServerReply | undefined;
  let tooMany: Delivery | undefined;
  let isFull = false;
  let rest: readonly ('MAIL' | 'DATA' | Addressee)[] = ['MAIL', ...batch, 'DATA'];
  while (rest.length > 0 && refusal === undefined) {
    if (isFull) rest = ['DATA']; // the recipients that are left would be refused
    const group = rest.slice(0, groupSize);
    rest = rest.slice(groupSize);
    if (group[0] === 'DATA' && accepted.length === 0) break;
    for (const step of group) yield send(step === 'MAIL' ? mailCommand : step === 'DATA' ? step : step.command);
    for (const step of group) {
      const reply = yield hear(step === 'DATA' ? 'data' : 'command');
      const said = toDelivery(reply, step !== 'DATA');
      if (isLast(reply)) return over(refusal ?? said, step === 'MAIL' || (isFollowing && refusal !== undefined));
      if (step === 'DATA') data = reply;
      else if (step === 'MAIL') refusal = said.kind === 'delivered' ? undefined : said;
      else if (refusal !== undefined) continue;
      else if (said.kind === 'delivered') {
        accepted.push(step);
        tooMany = undefined;
      } else if (isAboutNumber(said) || (accepted.length > 0 && mayBeAboutNumber(reply, said))) {
        tooMany ??= said;
        isFull ||= accepted.length > 0 && isAboutNumber(said);
      } else step.result = said;
    }
  }
  return { accepted, refusal, data, tooMany };
}

/**
 * Gives recipients their result. A refusal because of their number is no result: they come again, in transactions of
 * the size that is returned. A single recipient cannot be too many: it is deferred, not bounced.
 */
function giveResult(accepted: readonly Addressee[], delivery: Delivery): number | undefined {
  const isNumber = delivery.kind !== 'delivered' && isAboutNumber(delivery);
  if (isNumber && accepted.length > 1) return Math.floor(accepted.length / 2);
  for (const each of accepted) each.result ??= isNumber ? asDeferral(delivery) : delivery;
  return undefined;
}

/** Whether a refusal says that there are too many recipients. */
function isAboutNumber({ status, text }: Delivery): boolean {
  return status.endsWith('.5.3') || /\btoo many (?:recipients|rcpt)/i.test(text);
}

/**
 * Whether a refusal of one more recipient may say that there are too many: RFC 5321 §4.5.3.1.10 has 452 for it, and 552
 * where old servers are meant. Both also say that a mailbox is full, or a disk; an enhanced status code of a mailbox
 * (x.1.x, x.2.x) tells.
 */
function mayBeAboutNumber({ code }: ServerReply, { status }: Delivery): boolean {
  return (code === 452 || code === 552) && !/^[45]\.[12]\./.test(status);
}

const isBare552 = ({ text, status }: Delivery): boolean => /^552\b/.test(text) && !/^5\.[12]\./.test(status);

/**
 * Ends the session. `isUntried`: the server was not asked about the recipients that have no result yet, so a refusal
 * of the session is a deferral for them, and no bounce.
 */
const over = (why: Delivery, isUntried = true): Over => {
  return { kind: 'over', delivery: isUntried ? asDeferral(why) : why, isUntried };
};
const asDeferral = (delivery: Delivery): Delivery =>
  delivery.kind === 'failed' ? { ...delivery, kind: 'deferred', status: `4${delivery.status.slice(1)}` } : delivery;

/** Makes a command; undefined for an address that this server cannot take. */
function toCommand(verb: string, address: string, asUtf8: boolean, parameters: readonly unknown[]): string | undefined {
  const at = address.lastIndexOf('@');
  const domain = asUtf8 || isAscii(address) ? address.slice(at + 1) : domainToASCII(address.slice(at + 1));
  const path = `${address.slice(0, at + 1)}${domain}`;
  const isFit = asUtf8 || (isAscii(path) && (domain !== '' || address === ''));
  return isFit ? [`${verb}:<${path}>`, ...parameters.filter(Boolean)].join(' ') : undefined;
}

function mailParameters(offers: Offers, { sizeBytes, is8Bit, ret, envelopeId }: Mail, asUtf8: boolean) {
  return [
    offers.has('SIZE') && `SIZE=${sizeBytes}`,
    offers.has('8BITMIME') && (is8Bit || asUtf8) && 'BODY=8BITMIME',
    asUtf8 && 'SMTPUTF8',
    offers.has('DSN') && ret && `RET=${ret}`,
    offers.has('DSN') && envelopeId && `ENVID=${envelopeId}`,
  ];
}

function dsnParameters({ address, notify, originalRecipient }: QueueRecipient, asUtf8: boolean) {
  const original = originalRecipient ?? (notify && asOriginal(address));
  const mayGo = original !== undefined && (asUtf8 || isAscii(original));
  return [notify && `NOTIFY=${notify.join(',')}`, mayGo && `ORCPT=${original}`];
}
