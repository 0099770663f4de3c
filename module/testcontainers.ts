// `slimsmtp/testcontainers`: the image as a container of somebody's tests. By default it captures: it takes every
// message, sends nothing, and tells what came. Names of messages are those of the REST API (docs/testing.md), which is
// Mailpit's.
import { AbstractStartedContainer, GenericContainer, type StartedTestContainer, Wait } from 'testcontainers';

const ports = { smtp: 25, submissions: 465, submission: 587, capture: 1025, http: 8025 };
/** Messages that are asked for at once. */
const pageSize = 500;
/** An answer that takes so much longer than it may is given up. */
const graceMs = 10_000;

export type Person = { Name: string; Address: string };
/** A message as lists have it. */
export type MessageSummary = {
  ID: string;
  MessageID: string;
  From: Person;
  To: Person[];
  Cc: Person[];
  Bcc: Person[];
  ReplyTo: Person[];
  Subject: string;
  /** When it came, as ISO 8601 writes it. */
  Created: string;
  /** The login by which it was sent, '' if there was none. */
  Username: string;
  Read: boolean;
  /** In octets. */
  Size: number;
  /** How many it has. */
  Attachments: number;
  /** The first words of its text. */
  Snippet: string;
};
export type Attachment = { PartID: string; FileName: string; ContentType: string; ContentID: string; Size: number };
/** A whole message. */
export type Message = Omit<MessageSummary, 'Created' | 'Read' | 'Attachments' | 'Snippet'> & {
  /** Of the header `Date`, or when it came. */
  Date: string;
  /** The envelope's sender. */
  ReturnPath: string;
  Text: string;
  HTML: string;
  Attachments: Attachment[];
  /** Parts that the HTML shows, such as pictures. */
  Inline: Attachment[];
};
export type Wanted = {
  /** A part of a recipient's address. */
  to?: string;
  /** A part of the subject. */
  subject?: string;
  /** How long to wait: `500ms`, `10s` (the default), `2m`. */
  within?: `${number}${'ms' | 's' | 'm'}`;
};

/** SlimSMTP in a container. Captures, unless `withDomains` makes it the real server. */
export class SlimSmtpContainer extends GenericContainer {
  #domains: readonly string[] = [];
  #users: readonly string[] = [];

  /** @param image its name and tag */
  constructor(image = 'slimsmtp') {
    super(image);
    this.withStartupTimeout(60_000);
  }

  /**
   * The server as it is in production, for these domains, in place of one that captures. Mail for all their addresses
   * is kept in the container.
   */
  withDomains(...domains: string[]): this {
    this.#domains = domains;
    return this;
  }

  /**
   * The logins that are right, as `SLIM_USERS` has them: `anton:secret`. Without them every login is right while it
   * captures, and none otherwise.
   */
  withUsers(...users: string[]): this {
    this.#users = users;
    return this;
  }

  override async start(): Promise<StartedSlimSmtpContainer> {
    const captures = this.#domains.length === 0 && this.environment['SLIM_CAPTURE'] !== 'off';
    const mode = this.#users.length > 0 ? 'users' : 'on';
    const settings: Record<string, string> = captures
      ? { SLIM_CAPTURE: mode }
      : { SLIM_DOMAINS: this.#domains.join(' '), SLIM_STORAGES: 'default=/var/mail/default' };
    if (this.#users.length > 0) settings['SLIM_USERS'] = this.#users.join(' ');
    // What was set by hand stands.
    const unset = Object.entries(settings).filter(([name]) => !Object.hasOwn(this.environment, name));
    this.withEnvironment(Object.fromEntries(unset));
    const { smtp, submission, submissions, capture, http } = ports;
    this.withExposedPorts(smtp, submission, submissions, ...(captures ? [capture, http] : []));
    const isReady = Wait.forLogMessage(/"msg":"ready"/);
    this.withWaitStrategy(captures ? Wait.forAll([isReady, Wait.forHttp('/health', http)]) : isReady);
    return new StartedSlimSmtpContainer(await super.start(), captures);
  }
}

export class StartedSlimSmtpContainer extends AbstractStartedContainer {
  readonly #captures: boolean;

  constructor(container: StartedTestContainer, captures: boolean) {
    super(container);
    this.#captures = captures;
  }

  /**
   * Where programs hand in mail in clear: `smtp://localhost:32768`. Of the real server, where mail from outside comes
   * in.
   */
  getSmtpUrl(): string {
    return this.#url('smtp', this.#captures ? ports.capture : ports.smtp);
  }

  /** Where mail programs log in, with STARTTLS. The certificate is one that the server has signed itself. */
  getSubmissionUrl(): string {
    return this.#url('smtp', ports.submission);
  }

  /** Where the page and the REST API are. Only while it captures. */
  getHttpUrl(): string {
    if (!this.#captures)
      throw new Error('Without capture there is no HTTP server: withDomains() starts the real server.');
    return this.#url('http', ports.http);
  }

  /**
   * The newest message with that recipient and subject: at once if it is there already, else as soon as it comes.
   * @throws {Error} when the time is over
   */
  async waitForMessage({ to, subject, within = '10s' }: Wanted = {}): Promise<Message> {
    const query = new URLSearchParams({ limit: '1', wait: within });
    if (to !== undefined) query.set('to', to);
    if (subject !== undefined) query.set('subject', subject);
    const answer = await this.#ask(`/api/v1/messages?${query}`, 'GET', milliseconds(within));
    if (answer.status === 204) throw new Error(`No message ${described(to, subject)}came within ${within}.`);
    const { messages } = (await answer.json()) as { messages: MessageSummary[] };
    return (await (await this.#ask(`/api/v1/message/${messages[0]?.ID}`)).json()) as Message;
  }

  /** All messages, the newest first. */
  async messages(): Promise<MessageSummary[]> {
    const all: MessageSummary[] = [];
    for (;;) {
      const answer = await this.#ask(`/api/v1/messages?start=${all.length}&limit=${pageSize}`);
      const { messages } = (await answer.json()) as { messages: MessageSummary[] };
      all.push(...messages);
      if (messages.length < pageSize) return all;
    }
  }

  /** Deletes all messages. */
  async clear(): Promise<void> {
    await this.#ask('/api/v1/messages', 'DELETE');
  }

  #url(scheme: string, port: number): string {
    return `${scheme}://${this.getHost()}:${this.getMappedPort(port)}`;
  }

  async #ask(path: string, method = 'GET', waitMs = 0): Promise<Response> {
    const answer = await fetch(this.getHttpUrl() + path, { method, signal: AbortSignal.timeout(waitMs + graceMs) });
    if (answer.ok) return answer;
    throw new Error(`${method} ${path} was answered ${answer.status}: ${await answer.text()}`);
  }
}

/** '500ms', '10s' or '2m'. */
function milliseconds(duration: string): number {
  const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000 };
  return Number.parseFloat(duration) * (units[duration.replace(/^[\d.]+/, '')] ?? Number.NaN);
}

function described(to: string | undefined, subject: string | undefined): string {
  const about = subject === undefined ? '' : `with '${subject}' in its subject `;
  return `${to === undefined ? '' : `to ${to} `}${about}`;
}
