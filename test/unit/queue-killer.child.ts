// The process of queue-suspects.test.ts that dies: a queue on the files of a folder, whose transport kills the process,
// without any warning, while it reads one of the messages. It prints what is held when nothing else waits.
import { appendFileSync, existsSync, mkdirSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import type { Transport } from '../../src/mail/ports.ts';
import { FileStore } from '../../src/queue/files.ts';
import { MailQueue } from '../../src/queue/queue.ts';
import { Suspects } from '../../src/queue/suspects.ts';
import { systemClock as clock, systemRandom as random } from '../../src/system/world.ts';
import { queueEntry } from '../contract/queue.ts';
import { memory } from '../contract/storage.ts';

const folder = process.argv[2] ?? '';
const log = { debug() {}, info() {}, warn() {}, error() {} };
const transport: Transport = {
  async deliver(_hop, { id }, _message, recipients) {
    await wait(5);
    if (id === 'killer') process.kill(process.pid, 'SIGKILL');
    appendFileSync(`${folder}/delivered`, `${id}\n`);
    return recipients.map(() => ({ kind: 'delivered', status: '2.0.0', text: 'ok' }));
  },
};
const killers: string[] = [];
const isFirst = !existsSync(`${folder}/queue`);
mkdirSync(`${folder}/queue`, { recursive: true });
const queue = new MailQueue({
  store: new FileStore(`${folder}/queue`, log),
  suspects: new Suspects(`${folder}/in-flight`, log),
  onKiller: async ({ id }) => void killers.push(id),
  transports: { here: transport, lmtp: transport, relay: transport, domain: transport },
  report: async () => {},
  isRelayed: false,
  maxSessions: 20,
  lifetimeMs: 3_600_000,
  retryMs: [60_000],
  delayNoticeMs: 3_600_000,
  clock,
  random,
  log,
});
for (const id of isFirst ? [...Array.from({ length: 20 }, (_, at) => `good${at}`), 'killer'] : []) {
  const recipients = [{ address: `x@${id}.example`, domain: `${id}.example` }];
  await (await queue.prepare(queueEntry(id, { recipients }), memory('Subject: x\n\nx\n'))).commit();
}
await queue.start();
while (queue.size > 1) await wait(5);
const held: string[] = [];
for await (const { id, isHeld } of queue.list({})) if (isHeld) held.push(id);
if (held.length === 0) await wait(10_000); // the killer is about to do its work
// What has been delivered is being removed: it ends with its turn.
await queue.stop(10_000);
console.log(JSON.stringify({ held, killers }));
process.exit();
