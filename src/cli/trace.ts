// `slimsmtp trace ID|ADDRESS|MESSAGE-ID`: the life of messages, out of the history in SLIM_DATA. Needs no server.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Settings } from '../config/settings.ts';
import { becomeOwner } from '../control/client.ts';
import { type Past, Search, bare, idsIn } from '../history/search.ts';
import { openHistoryTable } from '../wiring/events.ts';
import { type Flags, print, standardError } from './terminal.ts';

/** Of an address there may be thousands: the newest so many are shown, unless --all is given. */
const usualLimit = 20;
/** So many times we look for what followed from the messages found so far: a forward of a notice of a forward … */
const maxRounds = 10;

export async function trace(wanted: string, flags: Flags, settings: Settings): Promise<number> {
  const folder = join(settings.dataFolder, 'history');
  if (!existsSync(folder)) throw new Error(`there is no history in ${folder}: has a server run there?`);
  becomeOwner(folder);
  const search = new Search(folder, wanted);
  const others = settings.sharesQueue ? await readTable(wanted, settings) : [];
  const { messages, refusals, more } = search.find(flags.all ? Infinity : usualLimit, others);
  if (more > 0 && !flags.json) console.log(`${more} older messages are left out: --all shows them\n`);
  for (const event of refusals) print(flags, event, tell);
  for (const [id, events] of messages) {
    if (!flags.json) console.log(id);
    for (const event of events) print(flags, event, each => tell(each).replaceAll(/^/gm, '  '));
  }
  if (flags.follow)
    for await (const event of search.follow())
      print(flags, event, each => `${'message' in each ? `${each.message}\n` : ''}${tell(each)}`);
  if (messages.size + refusals.length > 0) return 0;
  const why = settings.historyMs === 0 ? 'SLIM_HISTORY is off' : 'older events are removed (SLIM_HISTORY)';
  throw new Error(`nothing is known of ${wanted}; ${why}`);
}

/**
 * What all replicas have kept of it: the events that have this name, then those of their messages, and of what follows.
 */
async function readTable(wanted: string, settings: Settings): Promise<readonly string[]> {
  const table = await openHistoryTable(settings, standardError);
  const lines = new Set(await table?.named(bare(wanted)));
  const seen = new Set<string>();
  for (let round = 0; round < maxRounds; round += 1) {
    const next = [...lines].flatMap(idsIn).filter(id => !seen.has(id));
    if (next.length === 0) break;
    for (const id of next) seen.add(id);
    for (const line of (await table?.lives([...new Set(next)])) ?? []) lines.add(line);
  }
  return [...lines];
}

const time = (at: number): string => new Date(at).toISOString().slice(0, 19).replace('T', ' ');
const path = (address: string): string => `<${address}>`;
const list = (to: readonly string[], all = to.length): string =>
  `${to.map(path).join(' ')}${all > to.length ? ` and ${all - to.length} more` : ''}`;
const lasted = (ms: number): string => (ms < 1000 ? `${ms} ms` : `${Math.round(ms / 1000)} s`);
const over = (tls: string | undefined): string => (tls === undefined ? ', in plain text' : `, ${tls}`);

/** An event for people: its time, what happened, and below that the details. */
function tell(event: Past): string {
  const [first = '', ...details] = describe(event);
  return [`${time(event.at)}  ${first}`, ...details.map(line => `    ${line}`)].join('\n');
}

function describe(event: Past): readonly string[] {
  switch (event.kind) {
    case 'message':
      return describeMessage(event);
    case 'refused': {
      const command = event.to === undefined ? `MAIL FROM:${path(event.from)}` : `RCPT TO:${path(event.to)}`;
      const sender = event.to === undefined ? [] : [`from ${path(event.from)}`];
      return [
        `refused at ${command}: ${event.reply}`,
        ...sender,
        `by ${event.client} (${event.helo ?? ''}), session ${event.session}`,
      ];
    }
    case 'attempt': {
      const { to, recipients, result, attempts, remote, text, status, destination, nextAt, tls, hop, ms } = event;
      const place = hop === 'here' ? 'this server' : (remote ?? destination);
      // Where nobody was reached nothing went over the network.
      const isOpen = tls !== undefined || (result === 'delivered' && hop !== 'here');
      const again = nextAt === undefined ? [] : [`tried again at ${time(nextAt)}`];
      return [
        `${result} ${list(to, recipients)}, attempt ${attempts}`,
        `${place} said: ${text} (${status}; ${lasted(ms)}${isOpen ? over(tls) : ''})`,
        ...again,
      ];
    }
    case 'notice': {
      const told = event.outcomes.map(({ action, to }) => `${action}: ${path(to)}`);
      return event.as === undefined
        ? [`no notice: the sender ${path(event.to)} does not exist here`, ...told]
        : [`notice ${event.as} to ${path(event.to)}`, ...told];
    }
    case 'forward':
      return [`forwarded as ${event.as} to ${list(event.to)}`, `sent as ${path(event.from)}`];
    case 'order':
      return [`${event.action} by ${event.by === 'operator' ? 'an operator' : 'the server, which it has killed'}`];
    case 'turned away':
    case 'session':
    case 'login':
    case 'child':
      return [event.kind];
    default:
      event satisfies never;
      return ['something that this version does not know'];
  }
}

function describeMessage(event: Past & { kind: 'message' }): readonly string[] {
  const { result, reply, from, to, recipients, client, helo, protocol, tls, login, session, routes } = event;
  const said = reply === undefined ? '' : `: ${reply}`;
  const by = login === undefined ? '' : `, login ${login}`;
  const verdicts = event.verdicts.flatMap(({ check, result: verdict, why, results = [] }) => [
    ...results.map(each => `${check}: ${each}`),
    `${check}: ${verdict}${why === undefined ? '' : `, ${why}`}`,
  ]);
  return [
    `${result}${said}`,
    `from ${path(from)} to ${list(to, recipients)}`,
    `by ${client} (${helo}), ${protocol}${over(tls)}${by}, session ${session}`,
    `${event.sizeBytes} octets in ${lasted(event.ms)}${event.messageId === undefined ? '' : `, Message-ID ${event.messageId}`}`,
    ...verdicts,
    ...(result === 'delivered' || result === 'queued' ? routes.map(route => `copy in ${route}`) : []),
  ];
}
