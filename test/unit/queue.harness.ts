// For the tests of the queue: one on files of its own, with a clock, next hops and a mailbox for notices that the test
// moves.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { QueuedMessage, Selector } from '../../src/mail/admin.ts';
import {
  type Delivery,
  type NextHop,
  type Outcome,
  type QueueEntry,
  type QueueRecipient,
  nextHopKey,
} from '../../src/mail/message.ts';
import type { Place } from '../../src/mail/ports.ts';
import { FileStore } from '../../src/queue/files.ts';
import { FreshStore } from '../../src/queue/fresh.ts';
import { MailQueue, type QueueOptions } from '../../src/queue/queue.ts';
import { Suspects } from '../../src/queue/suspects.ts';
import { delivered } from '../contract/deliveries.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';

export const minute = 60_000;
export const hour = 60 * minute;
export const base = mkdtempSync(join(tmpdir(), 'queue-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));

export const noTls: Delivery = { kind: 'deferred', status: '4.7.4', text: 'no TLS' };

/** A queue with a clock, peers and a mailbox for notices that the test moves. */
export function open(options: Partial<QueueOptions> & { readonly folder?: string; readonly inFlight?: string } = {}) {
  const folder = options.folder ?? mkdtempSync(join(base, 'q-'));
  const state = {
    now: 1_800_000_000_000,
    jitter: 100,
    /** What becomes of a recipient, by its address. */
    answer: (_to: QueueRecipient, _place: Place): Delivery | Promise<Delivery> => delivered,
    report: async (_outcomes: readonly Outcome[]): Promise<void> => {},
  };
  const attempts: { destination: string; to: string[] }[] = [];
  const notices: string[] = [];
  const lines: Record<string, unknown>[] = [];
  const line = (fields: Record<string, unknown>, msg: string): unknown => lines.push({ ...fields, msg });
  const transport = {
    async deliver(
      hop: NextHop,
      _entry: QueueEntry,
      _message: unknown,
      recipients: readonly QueueRecipient[],
      place: Place,
    ) {
      attempts.push({ destination: nextHopKey(hop), to: recipients.map(({ address }) => address) });
      return Promise.all(recipients.map(to => state.answer(to, place)));
    },
  };
  const log = { debug: line, info: line, warn: line, error: line };
  const store = new FreshStore(new FileStore(folder, log), log);
  const killers: string[] = [];
  const queue = new MailQueue({
    store,
    suspects: new Suspects(options.inFlight, log),
    onKiller: async ({ id }) => void killers.push(id),
    maxSessions: 20,
    isRelayed: false,
    transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
    report: async (_entry, _message, outcomes) => {
      await state.report(outcomes);
      notices.push(outcomes.map(o => `${o.action} ${o.recipient.address} ${o.delivery.status}`).join(', '));
    },
    lifetimeMs: 120 * hour,
    retryMs: [minute, 5 * minute, 15 * minute, hour, 3 * hour],
    delayNoticeMs: 4 * hour,
    clock: { now: () => state.now },
    random: { hex: octets => '0'.repeat(octets * 2), below: () => state.jitter },
    log,
    ...options,
  });
  const list = async (selector: Selector = {}): Promise<QueuedMessage[]> => {
    const found: QueuedMessage[] = [];
    for await (const item of queue.list(selector)) found.push(item);
    return found.toSorted((a, b) => a.id.localeCompare(b.id));
  };
  const settled = async (): Promise<void> => {
    for (let quiet = 0; quiet < 4; quiet += 1) {
      await setImmediate();
      const isBusy = (await list()).some(({ recipients }) => recipients.some(({ state: now }) => now === 'sending'));
      if (isBusy) quiet = -1;
    }
  };
  return {
    queue,
    store,
    killers,
    folder,
    state,
    attempts,
    notices,
    lines,
    list,
    settled,
    files: (): string[] => readdirSync(folder).toSorted(),
    /** Adds a message to these addresses; @here.example is ours. */
    add: async (
      id: string,
      to: readonly (string | QueueRecipient)[],
      more: Partial<QueueEntry> = {},
    ): Promise<void> => {
      const recipients = to.map(each => {
        if (typeof each !== 'string') return each;
        const domain = each.split('@')[1] ?? '';
        return { address: each, domain, ...(domain === 'here.example' && { routes: [] }) };
      });
      const entry = queueEntry(id, { receivedAt: state.now, ...more, recipients });
      await (await queue.prepare(entry, memory('Subject: x\n\nx\n'))).commit();
    },
    pass: async (ms: number): Promise<void> => {
      state.now += ms;
      queue.tick();
      await settled();
    },
    /** The attempts since the last call: how many, to whom. */
    tried: (): string[] => attempts.splice(0).map(({ destination, to }) => `${destination}: ${to.join(' ')}`),
  };
}
