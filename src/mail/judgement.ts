// What is found out about the author of mail from outside, and the port by which it is asked for. Plain data, which IPC
// carries.
import type { Message } from './message.ts';

/** The words of RFC 8601 §2.7. */
export type AuthResult = 'none' | 'pass' | 'fail' | 'softfail' | 'neutral' | 'policy' | 'temperror' | 'permerror';

/** What is known of a message besides its content. */
export type MailFacts = Readonly<{
  /** Undefined: that address may stand for anyone, so SPF is not judged. */
  client: string | undefined;
  helo: string;
  /** Reverse-path; '' is the null one. */
  from: string;
  /** When it came, in milliseconds: signatures have a time. */
  receivedAt: number;
}>;

/** The content of a message, LF line ends, from an octet of it on: what stands before is ours. */
export type Content = Readonly<{ message: Message; start: number }>;

export type Judgement = Readonly<{
  /** Undefined: not judged. `domain`: of MAIL FROM, or the name in HELO. `explanation`: of the domain, why it fails. */
  spf?: Readonly<{ result: AuthResult; domain: string; explanation?: string }>;
  /** One for each signature; empty: there is none. */
  dkim: readonly Readonly<{ result: AuthResult; domain: string; reason?: string }>[];
  /** `domain`: of the last one that has sealed. */
  arc: Readonly<{ result: AuthResult; domain?: string; reason?: string }>;
  dmarc: Readonly<{
    result: AuthResult;
    /** What the domain of the author asks for where the result is `fail`, as far as it is known. */
    policy: 'none' | 'quarantine' | 'reject';
    /** The domain of the author. */
    domain?: string;
    reason?: string;
    /** Several From fields, or authors of several domains: `policy` is the strictest of them. */
    hasSeveralAuthors?: true;
  }>;
  /**
   * The same as results of an Authentication-Results field, such as `spf=pass smtp.mailfrom=example.net`. ASCII, one
   * line each.
   */
  results: readonly string[];
}>;

/** Judges mail from outside. */
export interface Judge {
  /**
   * Never rejects: what cannot be found out now is `temperror`. undefined: too much mail waits to be judged.
   * `onlyFrom`: the header is too long to be parsed. These are its From fields: the author's domain alone is judged,
   * and no signature.
   */
  judge(facts: MailFacts, content: Content, onlyFrom?: string): Promise<Judgement | undefined>;
}
