// The server as a mail catcher (SLIM_CAPTURE): every message for everybody is taken and kept, every login is right,
// failures come on demand, and nothing leaves, because nothing that sends is made: no queue, no transport, no DNS, no
// journal.
import { existsSync, readdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Chaos, parseTriggers } from '../capture/chaos.ts';
import { Keeper } from '../capture/keeper.ts';
import { captureMechanisms, everyLogin } from '../capture/logins.ts';
import { Greylist, onDemand } from '../capture/on-demand.ts';
import { parseSend } from '../capture/send.ts';
import type { Settings } from '../config/settings.ts';
import { catcherPort } from '../config/sockets.ts';
import { type Handlers, openControl } from '../control/server.ts';
import type { Check } from '../inbound/checks.ts';
import type { Service } from '../inbound/connection.ts';
import type { ListenSocket } from '../inbound/listener.ts';
import type { Answers } from '../inbound/policy.ts';
import { emptySpool } from '../inbound/spool.ts';
import { formatMailbox, toMailbox } from '../mail/address.ts';
import type { Captured, Change } from '../mail/captured.ts';
import { inMemory } from '../mail/message.ts';
import { type Authenticator, CannotTell, type Storage } from '../mail/ports.ts';
import { replies } from '../smtp/reply.ts';
import { probe } from '../system/folders.ts';
import type { Parts } from '../system/lifecycle.ts';
import { newId } from '../system/names.ts';
import type { WebProcess } from '../web/process.ts';
import { type Context, system } from './context.ts';
import { createFigures } from './figures.ts';
import { openMailRoots } from './mail-roots.ts';
import { type Capturing, openInbound, openLogins } from './receiving.ts';
import { openRouting } from './routing.ts';
import { openWeb } from './web.ts';

/**
 * The parts of the server in the order in which they start. `controlPath`: its control socket, and the lock on
 * SLIM_DATA.
 */
export async function openCapture(context: Context, isFirstStart: boolean, controlPath: string) {
  const { settings, log } = context;
  const { capture, dataFolder, drainMs } = settings;
  if (capture === undefined) throw new Error('SLIM_CAPTURE is off');
  const { keep, folder } = capture;
  const roots = await openMailRoots(context, isFirstStart);
  const routing = await openRouting(context);
  const chain = capture.users === 'listed' ? await openLogins(context, routing) : undefined;
  const authenticator = chain ?? everyLogin(settings.domains[0] ?? '');
  const chaos = new Chaos(system.random);
  let web: WebProcess | undefined;
  const onChange = (change: Change): void => web?.tell(change);
  const keeper = new Keeper({ folder, keep, onChange, log });
  const none = { prepare: () => Promise.reject(new CannotTell('nothing is sent where mail is captured')) };
  const { listeners, certificates } = await openInbound(
    context,
    {
      ...routing,
      storages: { maildir: none, account: none },
      queue: none,
      report: async () => {},
      authenticator: withChaos(authenticator, chaos),
    },
    capturing({ keeper, chaos, folder, root: settings.mailRoot }),
  );
  const refuse = (): never => {
    throw new Error('SLIM_CAPTURE is on: mail is captured, and there is no queue and nothing that signs');
  };
  const health = () => ({
    listening: listeners.isListening,
    sessions: listeners.sessions,
    database: routing.database(),
    queued: 0,
    writable: probe(join(dataFolder, 'state')) === undefined,
    unwritable: roots.check(),
  });
  const handlers = {
    health,
    figures: createFigures(context, { certificates, health }),
    resolve: ({ address }: { address: string }) => ({
      code: replies.recipientOk.code,
      steps: [`SLIM_CAPTURE: ${address} is kept in ${folder}`],
    }),
    auth: ({ name, password }: { name: string; password: string }) =>
      chain?.check(name, password) ?? { ok: true, source: 'SLIM_CAPTURE=on: every login' },
    dns: refuse,
    dkim: refuse,
    list: refuse,
    act: refuse,
  } satisfies Handlers;
  const parts: Parts = {
    'lock on SLIM_DATA': async () => {
      const server = await openControl(controlPath, handlers);
      return () => server.close();
    },
    'empty spool': () => emptySpool(join(dataFolder, 'spool')),
    'captured mail': () => {
      keeper.open();
      tell(settings, keeper.list().length, log);
    },
    'HTTP process': async () => {
      const captured = { folder, list: () => keeper.list(), answers: answersFor(keeper, chaos) };
      const started = openWeb(context, handlers, captured);
      web = started;
      await started.start();
      return () => started.stop();
    },
    listeners: async () => {
      await listeners.open();
      return () => listeners.drain(drainMs);
    },
  };
  return { parts, listeners };
}

/** Tells the operator, who may have set SLIM_CAPTURE on a real server, what that means. */
function tell({ dataFolder, capture }: Settings, messages: number, log: Context['log']): void {
  const facts = { folder: capture?.folder, messages, keep: capture?.keep };
  const what = 'every message is taken and kept here, nothing is sent, and no 250 survives a power cut';
  log.warn(facts, `SLIM_CAPTURE: ${what}`);
  const queue = join(dataFolder, 'queue');
  const waiting = existsSync(queue) ? readdirSync(queue).filter(name => name.endsWith('.json')).length : 0;
  if (waiting > 0)
    log.warn({ folder: queue, messages: waiting }, 'mail of an earlier server waits in the queue; it is left as it is');
}

type Kept = Readonly<{ keeper: Keeper; chaos: Chaos; folder: string; root: string }>;

/** What is different for a session: who answers, what is checked, and where its messages go. */
function capturing({ keeper, chaos, folder, root }: Kept): Capturing {
  const greylist = new Greylist();
  const route = { kind: 'maildir', path: folder, root } as const;
  return {
    terms: ({ kind, port }: ListenSocket) => ({
      note: ' (captures all mail, sends none)',
      ...(kind === 'smtp' && port === catcherPort && { mayLoginInClear: true, needsTls: false }),
    }),
    service(usual: Service, socket: Socket): Service {
      /** What is kept beside the message that this session is sending: a session sends one at a time. */
      let facts: Omit<Captured, 'sizeBytes'> | undefined;
      const answers: Answers = {
        sender() {
          const code = chaos.strikes('Sender');
          return code === undefined ? replies.senderOk : replies.onDemand(code, 'Chaos sender error');
        },
        async recipient(address, _peer, reversePath) {
          const code = chaos.strikes('Recipient');
          if (code !== undefined) return { reply: replies.onDemand(code, 'Chaos recipient error') };
          const wanted = onDemand(address.local);
          if (wanted?.kind === 'reply') return { reply: replies.onDemand(wanted.code, 'On demand of the address') };
          if (wanted?.kind === 'greylist' && greylist.defers(reversePath, address.text))
            return { reply: replies.onDemand(451, 'Greylisted on demand, try again') };
          if (wanted?.kind === 'drop') socket.destroy();
          if (wanted?.kind === 'slow') await pause(wanted.ms, undefined, { ref: false });
          // Mail is kept also where the domain of its recipient is no valid name.
          const domain = toMailbox(address)?.domain ?? '';
          return { reply: replies.recipientOk, destination: { domain, found: { routes: [route] } } };
        },
      };
      const check: Check = {
        name: 'capture',
        deadlineMs: 1000,
        judge({ id, envelope, peer, receivedAt }) {
          const { reversePath, recipients, helo, wishes } = envelope;
          const wanted = recipients.map(({ address }) => onDemand(address.local)).find(each => each?.kind === 'data');
          if (wanted?.kind === 'data') return replies.onDemand(wanted.code, 'On demand of a recipient');
          const { client, tls, login } = peer;
          facts = {
            id,
            from: reversePath === '' ? '' : reversePath.text,
            recipients: recipients.map(({ address }) => address.text),
            helo,
            client,
            tls,
            login: login?.name,
            loginAddress: login && formatMailbox(login.address),
            isUtf8: wishes.isUtf8,
            receivedAt,
          };
          return undefined;
        },
      };
      const maildir: Storage = {
        async prepare(_copies, message) {
          if (facts === undefined) throw new Error('a message is to be kept that nothing is known of');
          return keeper.prepare(facts, message);
        },
      };
      const accept = { ...usual.accept, checks: [check], storages: { ...usual.accept.storages, maildir } };
      return { ...usual, answers, accept };
    },
  };
}

/** The same logins, but they fail as often as chaos wants it. */
function withChaos(inner: Authenticator, chaos: Chaos): Authenticator {
  return {
    mechanisms: inner.mechanisms.filter(name => captureMechanisms.includes(name)),
    begin(...exchange) {
      const code = chaos.strikes('Authentication');
      if (code === undefined) return inner.begin(...exchange);
      return { login: undefined, step: async () => replies.onDemand(code, 'Chaos authentication error') };
    },
  };
}

/** Answers the questions of the HTTP process, and believes nothing that comes with them. */
function answersFor(keeper: Keeper, chaos: Chaos) {
  return {
    settled: () => undefined,
    remove: (ids: unknown) => keeper.remove(toIds(ids)),
    mark(ids: unknown, { isRead, tags }: { isRead?: unknown; tags?: unknown }) {
      const read = typeof isRead === 'boolean' && { isRead };
      keeper.mark(toIds(ids), { ...read, ...(tags !== undefined && { tags: toTexts(tags) }) });
    },
    chaos(wanted?: unknown) {
      if (wanted !== undefined) chaos.triggers = parseTriggers(wanted);
      return chaos.triggers;
    },
    async keep(given: unknown) {
      const { octets, tags, ...facts } = parseSend(given);
      const receivedAt = system.clock.now();
      const id = newId(receivedAt, system.random);
      const message = inMemory(Buffer.from(`Return-Path: <${facts.from}>\n`), octets);
      const prepared = await keeper.prepare({ ...facts, id, receivedAt }, message, tags);
      await prepared.commit();
      return id;
    },
  };
}

const toTexts = (value: unknown): readonly string[] =>
  Array.isArray(value) ? value.filter(each => typeof each === 'string') : [];
const toIds = (value: unknown): readonly string[] | 'all' => (value === 'all' ? value : toTexts(value));
