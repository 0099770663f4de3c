// What can be asked of the running server over its control socket, and what it answers: one type for each verb, which
// the server and the command line share.
// A request is one line of JSON, `{"verb": …}` with the fields of that verb. The answer is a line for each item,
// `{"item": …}`, and at last `{"isEnd": true}` or `{"error": "why"}`.
// A new verb: a member of `Request`, a line in `Answers` and in `shapes`, and a handler in src/main.ts.
import { toDomain } from '../mail/address.ts';
import type { Figures } from '../mail/figures.ts';
import type { RootTrouble } from '../system/mail-roots.ts';
import type { ListedKey, QueueAction, QueuedMessage, Selector, WantedRecord } from '../mail/admin.ts';
import { queueActions } from '../mail/admin.ts';

export type Request =
  | { readonly verb: 'health' }
  | { readonly verb: 'figures' }
  | { readonly verb: 'resolve'; readonly address: string }
  | { readonly verb: 'auth'; readonly name: string; readonly password: string }
  | { readonly verb: 'dns'; readonly domain?: string | undefined }
  | { readonly verb: 'dkim'; readonly action: 'list' | 'rotate'; readonly domain?: string | undefined }
  | { readonly verb: 'list'; readonly selector: Selector }
  | { readonly verb: 'act'; readonly action: QueueAction; readonly selector: Selector };

export type Verb = Request['verb'];
export type RequestOf<V extends Verb> = Extract<Request, { readonly verb: V }>;

export type Health = {
  readonly listening: boolean;
  readonly sessions: number;
  readonly database: 'off' | 'up' | 'down';
  /** Unset where the database of a shared queue cannot tell. */
  readonly queued: number | undefined;
  /** Whether SLIM_DATA can be written. */
  readonly writable: boolean;
  /** The roots of mail that cannot be written, with the reason. */
  readonly unwritable: readonly RootTrouble[];
};

/** What an item of the answer is. `list`, `dkim` and `dns` have many, every other verb one. */
export type Answers = {
  readonly health: Health;
  readonly figures: Figures;
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

/** Reads the value of a field. Throws what is wrong with it. */
type Read<T> = (value: unknown, name: string) => T;

const text: Read<string> = (value, name) => {
  if (typeof value !== 'string') throw new Error(`${name} must be text`);
  return value;
};

const oneOf =
  <T extends string>(choices: readonly T[]): Read<T> =>
  (value, name) => {
    const found = choices.find(each => each === value);
    if (found === undefined) throw new Error(`${name} must be one of ${choices.join(', ')}`);
    return found;
  };

const domain: Read<string | undefined> = (value, name) => {
  const found = value === undefined ? undefined : toDomain(text(value, name));
  if (value !== undefined && found === undefined) throw new Error(`${JSON.stringify(value)} is not a domain name`);
  return found;
};

/** A field of another kind is an error: an action must never mean more than was said. */
const selector: Read<Selector> = value => {
  if (typeof value !== 'object' || value === null) throw new Error('a selector must be given; {} means all messages');
  for (const [name, words] of Object.entries(value))
    if (!['id', 'domain', 'sender'].includes(name) || typeof words !== 'string')
      throw new Error('a selector has id, domain, sender, each of them text');
  return value;
};

/** The fields of each request. Others are dropped. */
const shapes: { readonly [V in Verb]: { readonly [F in keyof Omit<RequestOf<V>, 'verb'>]-?: Read<RequestOf<V>[F]> } } =
  {
    health: {},
    figures: {},
    resolve: { address: text },
    auth: { name: text, password: text },
    dns: { domain },
    dkim: { action: oneOf(['list', 'rotate']), domain },
    list: { selector },
    act: { action: oneOf(queueActions), selector },
  };

/** A request out of a line. Throws what is wrong with it. */
export function parseRequest(line: string): Request {
  const given = (JSON.parse(line) ?? {}) as Readonly<Record<string, unknown>>;
  const verb = text(given['verb'], 'verb');
  if (!Object.hasOwn(shapes, verb)) throw new Error(`unknown verb ${verb}`);
  const shape: Readonly<Record<string, Read<unknown>>> = shapes[verb as Verb];
  const fields = Object.entries(shape).map(([name, read]) => [name, read(given[name], name)] as const);
  return { verb, ...Object.fromEntries(fields) } as Request;
}
