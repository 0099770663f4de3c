// What every Queue keeps, whatever is behind it: run it with a store of your own. What a queue holds shows by what it
// hands to a transport, which is asked again by each new instance on the same store.
import assert from 'node:assert/strict';
import { readFile, unlink, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import type { Delivery, Message, QueueEntry } from '../../src/mail/message.ts';
import type { Queue, Transport } from '../../src/mail/ports.ts';
import { FileStore } from '../../src/queue/files.ts';
import { MailQueue, type QueueOptions } from '../../src/queue/queue.ts';
import { Suspects } from '../../src/queue/suspects.ts';
import { memory, octetsOf } from './storage.ts';

type Store = {
  /** A started queue on this store, as an hour after all that was before; all mail goes through the transport. */
  open(
    transport: Transport,
  ): Promise<{ readonly queue: Queue & { readonly size: number | Promise<number> }; close(): Promise<void> }>;
  /** An existing folder for `file` messages. */
  readonly spool: string;
  /**
   * A message that was whole and stable, but not yet committed, may be there after a crash: its sender has heard
   * nothing, and sends it again.
   */
  readonly keepsPrepared?: true;
  /** How much is left of anything, in files or rows. */
  leftovers(): Promise<number>;
  dispose(): Promise<void>;
};

export function queueEntry(id: string, more: Partial<QueueEntry> = {}): QueueEntry {
  const recipients = [{ address: 'b@peer.example', domain: 'peer.example' }];
  const envelope = { from: 'a@example.com', isUtf8: false, is8Bit: false, receivedAt: Date.now(), returnPathBytes: 0 };
  return { id, ...envelope, recipients, ...more };
}

/** A queue on files in that folder, without a journal. */
export function queueInFolder(
  folder: string,
  options: Omit<QueueOptions, 'store' | 'suspects' | 'onKiller' | 'maxSessions'>,
): MailQueue {
  const { log } = options;
  const parts = { store: new FileStore(folder, log), suspects: new Suspects(undefined, log), onKiller: async () => {} };
  return new MailQueue({ ...options, ...parts, maxSessions: 20 });
}

export async function until(what: string, condition: () => boolean | Promise<boolean>, withinMs = 5000): Promise<void> {
  for (const end = performance.now() + withinMs; !(await condition());) {
    if (performance.now() > end) assert.fail(`not in ${withinMs} ms: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

const deferred: Delivery = { kind: 'deferred', status: '4.4.1', text: 'later' };
const delivered: Delivery = { kind: 'delivered', status: '2.0.0', text: 'done' };

/** Takes down what it is given. */
function recorder(delivery: Delivery) {
  const tried: { entry: QueueEntry; content: string }[] = [];
  const transport: Transport = {
    async deliver(_destination, entry, message, recipients) {
      const content = octetsOf(message).toString('latin1');
      assert.equal(message.sizeBytes, content.length);
      tried.push({ entry, content });
      return recipients.map(() => delivery);
    },
  };
  return { tried, transport };
}

export function queueContract(name: string, setUp: () => Promise<Store>): void {
  const holds = (promise: string, run: (store: Store) => Promise<void>): void => {
    test(`${name} ${promise}`, async () => {
      const store = await setUp();
      try {
        await run(store);
      } finally {
        await store.dispose();
      }
    });
  };
  /** What a new instance has. */
  const reopened = async (store: Store): Promise<{ entry: QueueEntry; content: string }[]> => {
    const { tried, transport } = recorder(deferred);
    const { queue, close } = await store.open(transport);
    await until('all are tried', async () => tried.length === (await queue.size));
    await close();
    return tried;
  };

  holds('tries a message only after commit, octet for octet', async store => {
    const { tried, transport } = recorder(deferred);
    const { queue, close } = await store.open(transport);
    const prepared = await queue.prepare(queueEntry('a1'), memory('Subject: 1\n\n', 'gr\xfc\xdfe\0\n.\n'));
    await new Promise(resolve => setTimeout(resolve, 20));
    assert.deepEqual([tried, await queue.size], [[], 0]);
    await prepared.commit();
    assert.equal(await queue.size, 1);
    await until('it is tried', () => tried.length === 1);
    assert.equal(tried[0]?.content, 'Subject: 1\n\ngr\xfc\xdfe\0\n.\n');
    await close();
  });

  holds('keeps the whole envelope over a restart', async store => {
    const { queue, close } = await store.open(recorder(deferred).transport);
    const routes = [{ kind: 'maildir', path: '/mail/x', root: '/mail' }] as const;
    const dsn = { notify: ['SUCCESS', 'DELAY'], originalRecipient: 'rfc822;b+2Bx@peer.example' } as const;
    const entry = queueEntry('b2', {
      from: '',
      isUtf8: true,
      is8Bit: true,
      ret: 'HDRS',
      envelopeId: 'x+2By',
      receivedAt: Date.now() - 17,
      returnPathBytes: 3,
      recipients: [
        { address: 'b@peer.example', domain: 'peer.example', ...dsn },
        { address: 'gr\u00fc\u00dfe@peer.example', domain: 'peer.example' },
      ],
    });
    await (await queue.prepare(entry, memory('x\n'))).commit();
    await (
      await queue.prepare(
        { ...entry, id: 'c3', recipients: [{ ...dsn, address: 'c', domain: 'd', routes }] },
        memory('y\n'),
      )
    ).commit();
    await close();
    const found = (await reopened(store)).toSorted((a, b) => a.entry.id.localeCompare(b.entry.id));
    assert.deepEqual(
      found.map(({ content }) => content),
      ['x\n', 'y\n'],
    );
    for (const [key, value] of Object.entries(entry))
      if (key !== 'recipients') assert.deepEqual(found[0]?.entry[key as keyof QueueEntry], value, key);
    assert.partialDeepStrictEqual(found[0]?.entry.recipients, entry.recipients);
    assert.partialDeepStrictEqual(found[1]?.entry.recipients, [{ address: 'c', routes }]);
  });

  holds('leaves nothing after abort', async store => {
    const { queue, close } = await store.open(recorder(deferred).transport);
    await (await queue.prepare(queueEntry('d4'), memory('x\n'))).abort();
    assert.deepEqual([await store.leftovers(), await queue.size], [0, 0]);
    await close();
  });

  holds('forgets what was prepared when it died before commit, or says that it keeps it', async store => {
    const { queue, close } = await store.open(recorder(deferred).transport);
    await queue.prepare(queueEntry('e5'), memory('x\n'));
    await close();
    assert.equal((await reopened(store)).length, store.keepsPrepared ? 1 : 0);
    if (!store.keepsPrepared) assert.equal(await store.leftovers(), 0);
  });

  holds('leaves nothing when it cannot prepare, and goes on', async store => {
    const { queue, close } = await store.open(recorder(deferred).transport);
    const missing: Message = { kind: 'file', path: `${store.spool}/missing`, sizeBytes: 5 };
    await assert.rejects(queue.prepare(queueEntry('f6'), missing));
    assert.equal(await store.leftovers(), 0);
    await (await queue.prepare(queueEntry('f6'), memory('x\n'))).commit();
    // Nor does it harm what has that id already.
    await assert.rejects(async () => (await queue.prepare(queueEntry('f6'), memory('y\n'))).commit());
    await close();
    assert.deepEqual(
      (await reopened(store)).map(({ content }) => content),
      ['x\n'],
    );
  });

  holds('takes a message from a file, and leaves the file to its owner', async store => {
    const { queue, close } = await store.open(recorder(deferred).transport);
    const text = 'Subject: 2\n\n' + 'x'.repeat(300_000);
    const path = `${store.spool}/1a2b`;
    await writeFile(path, text);
    await (await queue.prepare(queueEntry('g7'), { kind: 'file', path, sizeBytes: text.length })).commit();
    assert.equal(await readFile(path, 'latin1'), text);
    await unlink(path);
    await close();
    assert.deepEqual(
      (await reopened(store)).map(({ content }) => content),
      [text],
    );
  });

  holds('tries each of 200 concurrent messages once, and keeps nothing of what is delivered', async store => {
    const { tried, transport } = recorder(delivered);
    const { queue, close } = await store.open(transport);
    const texts = Array.from({ length: 200 }, (_, index) => `${index}\n`);
    await Promise.all(
      texts.map(async (text, index) => {
        const recipients = [{ address: 'b@x', domain: `d${index % 30}.example` }];
        await (await queue.prepare(queueEntry(`h${index}`, { recipients }), memory(text))).commit();
      }),
    );
    await until('nothing is left', async () => (await queue.size) === 0 && (await store.leftovers()) === 0);
    assert.deepEqual(tried.map(({ content }) => content).toSorted(), texts.toSorted());
    await close();
    assert.deepEqual(await reopened(store), []);
  });
}
