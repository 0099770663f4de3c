// One order at the authority: a certificate for these names and that key. By acme-client, which is loaded here.
// Promises: it ends in five minutes, one way or the other, and then asks nothing more. An authority that wants to be
// asked later (429, or 503 with a time) is not asked again: the order ends with AskLater.
import { request } from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';
import type { Challenges } from './challenges.ts';
import { AskLater } from './trouble.ts';

export type Order = Readonly<{
  directoryUrl: string;
  email: string;
  names: readonly string[];
  /** PEM: of the account, and of the certificate. */
  accountKey: string;
  key: string;
}>;

const [orderMs, requestMs, probeMs] = [5 * 60_000, 30_000, 10_000];

/** The chain, PEM. Rejects with the authority's words. */
export async function order(asked: Order, challenges: Challenges): Promise<string> {
  const { default: acme } = await import('acme-client');
  acme.axios.defaults.timeout = requestMs;
  const end = Promise.withResolvers<never>();
  let isEnded = false;
  // These take the place of acme-client's own, which would sleep for as long as the authority says, and knock six times
  // where nobody answers.
  const { request: before, response: after } = acme.axios.interceptors;
  before.clear();
  before.use(config => {
    if (isEnded) throw new Error('the order has ended');
    return config;
  });
  after.clear();
  after.use(response => {
    const afterMs = waitingTime(response.status, response.headers);
    if (afterMs !== undefined) end.reject(new AskLater(detailOf(response.data) ?? `${response.status}`, afterMs));
    return response;
  });
  const { directoryUrl, accountKey, email, key } = asked;
  const [commonName = ''] = asked.names;
  const [, csr] = await acme.crypto.createCsr({ commonName, altNames: [...asked.names] }, key);
  const client = new acme.Client({
    directoryUrl,
    accountKey,
    backoffAttempts: 10,
    backoffMin: 2000,
    backoffMax: 15_000,
  });
  const answers = new Map<string, string>();
  const done = client.auto({
    csr,
    email,
    termsOfServiceAgreed: true,
    challengePriority: ['http-01'],
    // Whether the names lead here was found out before, by a probe.
    skipChallengeVerification: true,
    challengeCreateFn: async (_authorization, { token }, answer) => {
      answers.set(token, answer);
      challenges.answers.set(token, answer);
    },
    challengeRemoveFn: async (_authorization, { token }) => {
      challenges.answers.delete(token);
    },
  });
  const late = wait(orderMs, undefined, { ref: false }).then(() => {
    throw new Error(`the authority did not answer in ${orderMs / 60_000} minutes`);
  });
  return Promise.race([end.promise, done, late]).finally(() => {
    isEnded = true;
    answers.forEach((_, token) => challenges.answers.delete(token));
  });
}

/**
 * How long the authority wants to be left alone, in ms; undefined: it has not said so. A date counts by the authority's
 * own clock.
 */
export function waitingTime(status: number, headers: Readonly<Record<string, unknown>>): number | undefined {
  const { 'retry-after': retryAfter, date } = headers;
  if ((status !== 429 && status !== 503) || typeof retryAfter !== 'string') return undefined;
  const ms = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1000 : Date.parse(retryAfter) - Date.parse(String(date));
  return ms > 0 ? ms : undefined;
}

/** The authority's words in a problem document (RFC 7807). */
function detailOf(data: unknown): string | undefined {
  const detail = typeof data === 'object' && data !== null && 'detail' in data ? data.detail : undefined;
  return typeof detail === 'string' ? detail : undefined;
}

/** Why that name does not lead to us by HTTP; undefined: it does. */
export async function probe(name: string, token: string, challenges: Challenges): Promise<string | undefined> {
  challenges.answers.set(token, token);
  try {
    const text = await fetchText(name, token);
    return text === token ? undefined : `somebody else answers there: ${JSON.stringify(text.slice(0, 60))}`;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code ?? message;
  } finally {
    challenges.answers.delete(token);
  }
}

function fetchText(host: string, token: string): Promise<string> {
  const path = `/.well-known/acme-challenge/${token}`;
  const signal = AbortSignal.timeout(probeMs);
  return new Promise((resolve, reject) => {
    const asked = request({ host, path, agent: false, signal, maxHeaderSize: 8192 }, response => {
      let text = '';
      response.setEncoding('latin1').on('data', (part: string) => {
        text += part;
        if (text.length > 4096) asked.destroy(new Error('it answers with too much'));
      });
      response.on('end', () => resolve(text)).on('error', reject);
    });
    asked.on('error', reject).end();
  });
}
