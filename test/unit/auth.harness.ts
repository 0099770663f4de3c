// Logins as a connection has them: an authenticator with its files in a folder of its own, and a client of each
// mechanism.
import { hash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type AuthOptions, createAuthenticator } from '../../src/auth/chain.ts';
import type { Log } from '../../src/system/log.ts';
import type { Login } from '../../src/mail/ports.ts';
import { clientFinal, clientFirst } from '../../src/sasl/scram.ts';
import { type Reply, replies } from '../../src/smtp/reply.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';

export type Chain = Awaited<ReturnType<typeof createAuthenticator>>;

type Line = { readonly level: string; readonly message: string; readonly fields: Record<string, unknown> };
type Outcome = {
  readonly reply: Reply;
  readonly login: Login | undefined;
  readonly challenges: readonly string[];
};

/** What a failure waits for must not take two seconds in a test: `mock.timers` may stand still all the same. */
export function skipDelays(t: TestContext): void {
  const real = globalThis.setTimeout;
  t.mock.method(globalThis, 'setTimeout', ((work: () => void, ms?: number) =>
    real(work, ms !== undefined && ms > 1000 && ms <= 2000 ? 0 : ms)) as typeof setTimeout);
}

export async function openLogins(
  t: TestContext,
  given: Partial<AuthOptions>,
): Promise<{ chain: Chain; lines: Line[]; folder: string }> {
  const lines: Line[] = [];
  const log = (level: string) => (fields: Record<string, unknown>, message: string) =>
    void lines.push({ level, message, fields });
  const folder = given.folder ?? mkdtempSync(join(tmpdir(), 'slim-auth-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const chain = await createAuthenticator({
    users: [{ kind: 'inline', name: 'anton', secret: 'right' }],
    mainDomain: 'example.com',
    folder,
    steward: undefined,
    tablePasswords: undefined,
    isShared: () => false,
    clientKey: client => client,
    clock: systemClock,
    random: systemRandom,
    log: { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') } as Log,
    ...given,
  });
  return { chain, lines, folder };
}

export const bindings = {
  'tls-exporter': Buffer.alloc(32, 7),
  'tls-server-end-point': hash('sha256', 'a certificate', 'buffer'),
};
const binding = (type: string): Buffer | undefined => bindings[type as keyof typeof bindings];

/**
 * Sends responses one after the other, each made of the challenge before it, until the server has no more challenges.
 */
export async function converse(
  chain: Chain,
  mechanism: string,
  responses: readonly (string | Buffer | undefined | ((challenge: string) => Promise<string> | string))[],
  client = '192.0.2.1',
): Promise<Outcome> {
  const exchange = chain.begin(mechanism, client, binding);
  const challenges: string[] = [];
  let reply = replies.internalError as Reply;
  for (const response of responses) {
    const text = typeof response === 'function' ? await response(challenges.at(-1) ?? '') : response;
    reply = await exchange.step(typeof text === 'string' ? Buffer.from(text) : text);
    if (reply.code !== 334) break;
    challenges.push(Buffer.from(reply.text, 'base64').toString());
  }
  return { reply, login: exchange.login, challenges };
}

export const plain = (chain: Chain, name: string, password: string | Buffer, client?: string): Promise<Outcome> =>
  converse(chain, 'PLAIN', [Buffer.concat([Buffer.from(`\0${name}\0`), Buffer.from(password)])], client);

/** A whole SCRAM exchange. `header` is the GS2 header; `change` spoils the final message. */
export async function scram(
  chain: Chain,
  name: string,
  password: string,
  {
    header = 'n,,',
    data = Buffer.alloc(0),
    mechanism = 'SCRAM-SHA-256',
    client = '192.0.2.1',
    change = (text: string): string => text,
  } = {},
): Promise<Outcome & { readonly isServer: boolean }> {
  const first = clientFirst(name, systemRandom.hex(9));
  let expected = '';
  const outcome = await converse(
    chain,
    mechanism,
    [
      `${header}${first}`,
      async challenge => {
        const final = await clientFinal(password, first, challenge, Buffer.concat([Buffer.from(header), data]));
        if (final === undefined) throw new Error(`bad challenge: ${challenge}`);
        expected = final.expected;
        return change(final.response);
      },
      '',
    ],
    client,
  );
  return { ...outcome, isServer: outcome.challenges[1] === expected };
}
