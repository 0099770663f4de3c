// The life events of messages and sessions, for whoever watches: metrics, history, status.
// Promises: where nobody listens no event is built (`listen?.({ … })` does not look at its argument then), and nothing
// is counted for anybody. An event is plain data, which JSON carries; it holds no content of a message and no secret.
// It has no time: it happens when it is told. Whoever listens returns at once and never throws.
// A message is known by its id, as our 250 and the log have it; `as` is the id of mail that follows from it.
import type { QueueAction } from './admin.ts';
import type { Delivery, NextHop, Outcome } from './message.ts';

/** Who handed a message in, and where it goes: what is known when its content begins. */
export type Arrival = Readonly<{
  message: string;
  session: string;
  client: string;
  helo: string;
  /** ESMTPS and so on. */
  protocol: string;
  tls?: string | undefined;
  /** The name of the login. */
  login?: string | undefined;
  /** Reverse-path; '' is the null one. */
  from: string;
  /** The first twenty of `recipients`. */
  to: readonly string[];
  recipients: number;
  /** The first twenty copies that stay here, as `routeKey`. */
  routes: readonly string[];
}>;

/** What a check has said of a whole message. One that has nothing to say is not told. */
export type Verdict = Readonly<{
  check: string;
  /** `unjudged`: it could not be asked, and the message went on without it. */
  result: 'passed' | 'junk' | 'refused' | 'unjudged';
  why?: string | undefined;
  /** As in Authentication-Results, such as `spf=pass smtp.mailfrom=example.net`. */
  results?: readonly string[] | undefined;
}>;

export type Event =
  /** A client was not let in: too many sessions in all, or of that client. */
  | Readonly<{ kind: 'turned away'; client: string; because: 'sessions' | 'sessions of a client' }>
  /** A session is over. In a probe the client has said nothing but QUIT. */
  | Readonly<{ kind: 'session'; listener: 'smtp' | 'submission' | 'submissions'; isProbe: boolean; ms: number }>
  /** How a login went; `later`: it could not be checked, or its client or account is shut out for now. */
  | Readonly<{ kind: 'login'; client: string; name: string | undefined; result: 'ok' | 'failed' | 'later' }>
  /** MAIL or RCPT was refused; `to` is unset for MAIL. */
  | Readonly<{
      kind: 'refused';
      session: string;
      client: string;
      helo: string | undefined;
      from: string;
      to?: string;
      reply: string;
    }>
  /** The end of receiving a message: kept, refused with that reply, or its end never came. */
  | (Arrival &
      Readonly<{
        kind: 'message';
        result: 'delivered' | 'queued' | 'refused' | 'abandoned';
        reply?: string | undefined;
        sizeBytes: number;
        /** From the start of its content. */
        ms: number;
        /** The field Message-ID, with its brackets, of one that came whole. */
        messageId?: string | undefined;
        /** In the order of the checks. */
        verdicts: readonly Verdict[];
      }>)
  /** What one attempt brought for recipients with the same fate. `to` has the first twenty of `recipients`. */
  | Readonly<{
      kind: 'attempt';
      message: string;
      hop: NextHop['kind'];
      /** `nextHopKey`. */
      destination: string;
      from: string;
      to: readonly string[];
      recipients: number;
      result: Delivery['kind'];
      status: string;
      /** The other server's words, or what went wrong here. */
      text: string;
      remote?: string | undefined;
      tls?: string | undefined;
      /** How many attempts there were by now. */
      attempts: number;
      /** When it is tried again, in ms since 1970. Of a recipient that is deferred. */
      nextAt?: number | undefined;
      /** How long the attempt took, and how old the message is. */
      ms: number;
      ageMs: number;
    }>
  /** A sender was told what became of the mail; without `as` it could not be: the sender does not exist here. */
  | Readonly<{ kind: 'notice'; message: string; as?: string; to: string; outcomes: readonly ToldOutcome[] }>
  /**
   * An address that gets the mail besides, or instead, at another server: an entry of its own. `from`: as it is sent.
   */
  | Readonly<{ kind: 'forward'; message: string; as: string; from: string; to: readonly string[] }>
  /** What an operator has ordered for mail that waits; or the server itself, which holds what kills it. */
  | Readonly<{ kind: 'order'; message: string; action: QueueAction; by: 'operator' | 'server'; to: readonly string[] }>
  /** A process that works for us has begun, or has ended. */
  | Readonly<{ kind: 'child'; name: 'judge' | 'http'; state: 'started' | 'ended' }>;

/** Of a notice: what it says of a recipient. */
type ToldOutcome = Readonly<{ action: Outcome['action']; to: string }>;
export type Listen = (event: Event) => void;
