// `slimsmtp queue …`: what waits in the running server's queue, and orders to it. Without a server messages can still
// be held, released and removed, in its files.
import type { Settings } from '../config/settings.ts';
import { NoServer, ask, askAll } from '../control/client.ts';
import type { QueueAction, QueuedMessage, QueuedRecipient, Selector } from '../mail/admin.ts';
import { queueActions } from '../mail/admin.ts';
import { controlPath } from '../main.ts';
import { actWithoutServer } from '../wiring/without-server.ts';
import { type Flags, UsageError, one, print, standardError } from './terminal.ts';

export async function queue(words: readonly string[], flags: Flags, settings: Settings): Promise<number> {
  const [word = '', id] = words;
  const { domain, sender, all } = flags;
  const selector: Selector = { id, domain, sender };
  if (word === 'list' || word === 'show') {
    if (word === 'show') one(words.slice(1));
    return list(word === 'show', selector, flags, controlPath(settings));
  }
  const action = queueActions.find(each => each === word);
  if (!action) throw new UsageError(`queue wants one of list, show, ${queueActions.join(', ')}`);
  if (!id && !domain && !sender && !all)
    throw new UsageError(`queue ${action} wants an ID, --domain, --sender or --all`);
  const count = await order(action, selector, settings);
  return print(flags, { messages: count }, () => `${action}: ${count} messages`, count > 0 || all === true);
}

async function order(action: QueueAction, selector: Selector, settings: Settings): Promise<number> {
  const path = controlPath(settings);
  try {
    return await ask(path, { verb: 'act', action, selector });
  } catch (error) {
    // To try mail now needs a server that sends it; and every replica that runs acts on the queue of all.
    if (!(error instanceof NoServer) || action === 'retry' || settings.sharesQueue) throw error;
    const count = await actWithoutServer(settings, path, action, selector, standardError);
    if (count === undefined) throw error;
    console.error('slimsmtp: no server runs: this was done in its files');
    return count;
  }
}

async function list(isDetailed: boolean, selector: Selector, flags: Flags, path: string): Promise<number> {
  let count = 0;
  for await (const message of askAll(path, { verb: 'list', selector })) {
    if (count === 0 && !flags.json) console.log('ID                  AGE      SIZE  SENDER, RECIPIENTS');
    count += 1;
    print(flags, message, each => describe(each, isDetailed ? showRecipient : listRecipient));
  }
  if (count > 0) return 0;
  // Of one that has left the queue nothing is kept there: what became of it stands in the log.
  if (isDetailed)
    throw new Error(`no message ${selector.id} waits: it was delivered, or given up, or removed; the log says which`);
  if (!flags.json) console.log('nothing waits');
  return 0;
}

function describe(message: QueuedMessage, toText: (recipient: QueuedRecipient) => string): string {
  const age = `${message.ageSeconds}s`.padStart(6);
  const size = String(message.sizeBytes).padStart(9);
  const first = `${message.id.padEnd(18)} ${age} ${size}  <${message.from}>${message.isHeld ? ' held' : ''}`;
  return [first, ...message.recipients.map(toText)].join('\n');
}

const listRecipient = ({ address, reason = '' }: QueuedRecipient): string => `    ${address}: ${reason}`;

const showRecipient = (recipient: QueuedRecipient): string => {
  const { address, state, attempts, nextAttemptAt, reason, status, text, remote } = recipient;
  const next = nextAttemptAt === undefined ? '' : `, next ${nextAttemptAt}`;
  const lines = [`    ${address}: ${state}, ${attempts} attempts${next}`];
  if (reason !== undefined) lines.push(`      ${reason}`);
  const last = status === undefined ? undefined : `${status} ${text}`;
  if (last !== undefined && last !== reason) lines.push(`      last: ${last}`);
  if (remote !== undefined) lines.push(`      said by ${remote}`);
  return lines.join('\n');
};
