// Asks Rspamd about mail from outside (SLIM_RSPAMD): the message goes to `/checkv2` with its envelope in header fields,
// and the action that comes back says what becomes of it.
// Promises: an answer within ten seconds, or the mail goes on without one; that is counted and logged, once a minute.
// Memory is bounded: a message is read in pieces, the messages that are with Rspamd at once have a bound, and so has
// what is read of its answer. It never decides whose mail is asked about. https://docs.rspamd.com/developers/protocol
import { Agent, request } from 'node:http';
import { isIP } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { within } from '../system/deadline.ts';
import { spamLine } from '../mail/header.ts';
import type { Content, MailFacts } from '../mail/judgement.ts';
import { readMessage } from '../mail/message.ts';
import { type Reply, replies } from '../smtp/reply.ts';
import type { Dns } from '../system/dns.ts';
import type { Gatherer } from '../system/gather.ts';

const deadlineMs = 10_000;
const maxAtOnce = 20;
/** Beyond those that are with Rspamd. Further mail goes on at once. */
const maxWaiting = 500;
const pieceBytes = 256 * 1024;
const maxAnswerBytes = 256 * 1024;
/** Of a message with more recipients, Rspamd is told the first ones. */
const maxRecipients = 100;

export type RspamdOptions = Readonly<{
  /** SLIM_RSPAMD. */
  server: Readonly<{ host: string; port: number }>;
  hostname: string;
  dns: Pick<Dns, 'systemAddresses'>;
  gatherer: Gatherer;
  deadlineMs?: number;
}>;
export type Asked = Pick<MailFacts, 'client' | 'helo' | 'from'> & { readonly recipients: readonly string[] };
/**
 * As a check of src/inbound/ has it: a refusal, lines for the header with what is said of junk, or nothing; `why`: for
 * the log.
 */
export type Verdict = ((Reply | Found) & { readonly why: string }) | undefined;
type Found = { readonly lines: string; readonly junk?: Reply; readonly isUnjudged?: true };
type Answer = { readonly action: string; readonly score: number; readonly required: number };

/** Gives a function that asks about one message. It never rejects. */
export function openRspamd(options: RspamdOptions) {
  const { server, gatherer, deadlineMs: patienceMs = deadlineMs } = options;
  // A connection for each message: one that had waited might be closed just when it is used.
  const agent = new Agent({ maxSockets: maxAtOnce });
  let asking = 0;
  const pass = (reason: string): Verdict => {
    gatherer.line('warn', 'SLIM_RSPAMD', { ...server, reason }, 'Rspamd has not judged a message: it goes on', 1);
    return { lines: '', isUnjudged: true, why: `Rspamd has not judged it: ${reason}` };
  };

  return async (facts: Asked, content: Content): Promise<Verdict> => {
    if (asking >= maxAtOnce + maxWaiting) return pass('too much mail waits for it');
    const end = new AbortController();
    asking += 1;
    try {
      const answer = ask(facts, content, options, agent, end.signal);
      const { action, score, required } = await within(patienceMs, answer);
      const why = `Rspamd says ${action} (${score} of ${required})`;
      switch (action) {
        case 'no action':
          return undefined;
        case 'reject':
          return { ...replies.spam, why };
        case 'soft reject':
        case 'greylist':
          return { ...replies.spamLater, why };
        case 'add header':
        case 'rewrite subject': // the subject is the author's: the line says as much
          return { lines: spamLine, junk: replies.spam, why };
        default:
          return pass(`an action that is unknown: ${action}`);
      }
    } catch (error) {
      end.abort();
      return pass(error instanceof Error ? error.message : String(error));
    } finally {
      asking -= 1;
    }
  };
}

async function ask(
  facts: Asked,
  content: Content,
  options: RspamdOptions,
  agent: Agent,
  signal: AbortSignal,
): Promise<Answer> {
  const { server, hostname, dns } = options;
  const [address] = isIP(server.host) ? [server.host] : await dns.systemAddresses(server.host);
  const { client, helo, from, recipients } = facts;
  const headers = {
    'Content-Length': content.message.sizeBytes - content.start,
    'MTA-Name': hostname,
    ...(client !== undefined && { IP: client }),
    Helo: asOctets(helo),
    From: `<${asOctets(from)}>`,
    Rcpt: recipients.slice(0, maxRecipients).map(each => `<${asOctets(each)}>`),
  };
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const sent = request(
    { host: address, port: server.port, agent, signal, method: 'POST', path: '/checkv2', headers },
    async answer => {
      try {
        const said: Buffer[] = [];
        let octets = 0;
        for await (const piece of answer as AsyncIterable<Buffer>) {
          octets += piece.length;
          if (octets > maxAnswerBytes) throw new Error('its answer is too long');
          said.push(piece);
        }
        if (answer.statusCode !== 200) throw new Error(`it says ${answer.statusCode}`);
        resolve(Buffer.concat(said).toString());
      } catch (error) {
        reject(error);
      }
    },
  );
  // What goes wrong while it is sent may be told better by the answer, or by its missing.
  sent.on('error', reject);
  pipeline(Readable.from(pieces(content)), sent).catch(reject);
  return parse(await promise);
}

function* pieces({ message, start }: Content): Generator<Buffer> {
  for (let at = start; at < message.sizeBytes; at += pieceBytes) yield readMessage(message, at, pieceBytes);
}

function parse(text: string): Answer {
  const said = JSON.parse(text) as Record<string, unknown> | null;
  const action = said?.['action'];
  if (typeof action !== 'string') throw new Error('its answer has no action');
  return { action: action.slice(0, 40), score: Number(said?.['score']), required: Number(said?.['required_score']) };
}

/** A header field has octets: those of UTF-8. */
const asOctets = (text: string): string => Buffer.from(text).toString('latin1');
