// What can be asked of the running server over its control socket, and what it answers: one type for each verb, which
// the server and the command line share.
// A request is one line of JSON, `{"verb": …}` with the fields of that verb. The answer is a line for each item,
// `{"item": …}`, and at last `{"isEnd": true}` or `{"error": "why"}`.
// A new verb: a member of `Request`, a line in `Answers`, a case in `parseRequest` and in `carryOut` (server.ts).
import { toDomain } from '../mail/address.ts';
import type { RootTrouble } from '../system/mail-roots.ts';
import {
  type ListedKey,
  type QueueAction,
  type QueuedMessage,
  type Selector,
  type WantedRecord,
  queueActions,
} from '../mail/admin.ts';

export type Request =
  | { readonly verb: 'health' }
  | { readonly verb: 'resolve'; readonly address: string }
  | { readonly verb: 'auth'; readonly name: string; readonly password: string }
  | { readonly verb: 'dns'; readonly domain?: string | undefined }
  | { readonly verb: 'dkim'; readonly action: 'list' | 'rotate'; readonly domain?: string | undefined }
  | { readonly verb: 'list'; readonly selector: Selector }
  | { readonly verb: 'act'; readonly action: QueueAction; readonly selector: Selector };

export type Health = {
  readonly listening: boolean;
  readonly sessions: number;
  readonly database: 'off' | 'up' | 'down';
  readonly queued: number;
  /** Whether SLIM_DATA can be written. */
  readonly writable: boolean;
  /** The roots of mail that cannot be written, with the reason. */
  readonly unwritable: readonly RootTrouble[];
};

/** What an item of the answer is. `list`, `dkim` and `dns` have many, every other verb one. */
export type Answers = {
  readonly health: Health;
  /** `code` is that of the reply to RCPT. */
  readonly resolve: { readonly code: number; readonly steps: readonly string[] };
  /** `source` is what knew the name. */
  readonly auth: { readonly ok: boolean; readonly source: string };
  readonly dns: WantedRecord;
  readonly dkim: ListedKey;
  readonly list: QueuedMessage;
  /** How many messages that concerned. */
  readonly act: number;
};

/** A request out of a line. Throws what is wrong with it. */
export function parseRequest(line: string): Request {
  const fields = (JSON.parse(line) ?? {}) as Readonly<Record<string, unknown>>;
  const text = (name: string): string => {
    const value = fields[name];
    if (typeof value !== 'string') throw new Error(`${name} must be text`);
    return value;
  };
  const domain = (): string | undefined => (fields['domain'] === undefined ? undefined : domainOf(text('domain')));
  const verb = text('verb') as Request['verb'];
  switch (verb) {
    case 'health':
      return { verb };
    case 'resolve':
      return { verb, address: text('address') };
    case 'auth':
      return { verb, name: text('name'), password: text('password') };
    case 'dns':
      return { verb, domain: domain() };
    case 'dkim': {
      const action = (['list', 'rotate'] as const).find(each => each === fields['action']);
      if (!action) throw new Error('action must be list or rotate');
      return { verb, action, domain: domain() };
    }
    case 'list':
      return { verb, selector: parseSelector(fields['selector']) };
    case 'act': {
      const action = queueActions.find(each => each === fields['action']);
      if (!action) throw new Error(`action must be one of ${queueActions.join(', ')}`);
      return { verb, action, selector: parseSelector(fields['selector']) };
    }
    default:
      throw new Error(`unknown verb ${verb satisfies never}`);
  }
}

function domainOf(text: string): string {
  const domain = toDomain(text);
  if (domain === undefined) throw new Error(`${JSON.stringify(text)} is not a domain name`);
  return domain;
}

/**
 * Only the fields that a selector has. A field of another kind is an error: an action must never mean more than was
 * said.
 */
function parseSelector(value: unknown): Selector {
  if (typeof value !== 'object' || value === null) throw new Error('a selector must be given; {} means all messages');
  const given: readonly (readonly [string, unknown])[] = Object.entries(value);
  const fields = given.map(([name, text]) => {
    if (!['id', 'domain', 'sender'].includes(name) || typeof text !== 'string')
      throw new Error('a selector has id, domain, sender, each of them text');
    return [name, text] as const;
  });
  return Object.fromEntries(fields);
}
