// What every Storage keeps, whatever is behind it: run it with a place of your own. Maildirs are looked at as a mail
// reader does, by listing them, so that nothing of the storage's inside is relied on.
import assert from 'node:assert/strict';
import { chmod, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { type Message, type Route, inMemory, readMessage } from '../../src/mail/message.ts';
import type { Storage } from '../../src/mail/ports.ts';

type Place = {
  readonly storage: Storage;
  /** A route to the Maildir of that name, whose folders are not there yet. */
  route(name: string): Route;
  /** The absolute path of that Maildir; the folder that it is made in exists. */
  maildir(name: string): string;
  /** An existing folder for `file` messages, in which the storage takes them. */
  readonly spool: string;
  dispose(): Promise<void>;
};

export const octetsOf = (message: Message): Buffer => readMessage(message, 0, message.sizeBytes);

/** A message in memory. */
export function memory(...parts: readonly string[]): Message {
  return inMemory(...parts.map(part => Buffer.from(part, 'latin1')));
}

/** The octets of every file in one folder of a Maildir, sorted. */
export async function contents(maildir: string, folder: 'new' | 'tmp' | 'cur'): Promise<string[]> {
  const names = await readdir(`${maildir}/${folder}`).catch(() => []);
  const files = await Promise.all(names.map(name => readFile(`${maildir}/${folder}/${name}`, 'latin1')));
  return files.toSorted();
}

export function storageContract(name: string, setUp: () => Promise<Place>): void {
  const holds = (promise: string, run: (place: Place) => Promise<void>): void => {
    test(`${name} ${promise}`, async () => {
      const place = await setUp();
      try {
        await run(place);
      } finally {
        await place.dispose();
      }
    });
  };

  holds('shows a message only after commit, octet for octet', async ({ storage, route, maildir }) => {
    const prepared = await storage.prepare([route('anton')], memory('Subject: 1\n\n', 'gr\xfc\xdfe\0\n.\n'));
    assert.deepEqual(await contents(maildir('anton'), 'new'), []);
    await prepared.commit();
    assert.deepEqual(await contents(maildir('anton'), 'new'), ['Subject: 1\n\ngr\xfc\xdfe\0\n.\n']);
    assert.deepEqual(await contents(maildir('anton'), 'tmp'), []);
  });

  holds('gives files 0600 and folders 0700, and makes all three folders', async ({ storage, route, maildir }) => {
    await (await storage.prepare([route('anton')], memory('x\n'))).commit();
    for (const folder of ['', '/new', '/cur', '/tmp']) {
      assert.equal((await stat(maildir('anton') + folder)).mode & 0o7777, 0o700, folder);
    }
    const [file] = await readdir(`${maildir('anton')}/new`);
    assert.equal((await stat(`${maildir('anton')}/new/${file}`)).mode & 0o7777, 0o600);
  });

  holds('leaves nothing after abort', async ({ storage, route, maildir }) => {
    const prepared = await storage.prepare([route('anton'), route('berta')], memory('x\n'));
    await prepared.abort();
    for (const mailbox of ['anton', 'berta']) {
      assert.deepEqual(await contents(maildir(mailbox), 'new'), []);
      assert.deepEqual(await contents(maildir(mailbox), 'tmp'), []);
    }
  });

  for (const kind of ['memory', 'file'] as const)
    holds(
      `puts the head of a copy into that copy alone, behind its Return-Path, of a message in ${kind}`,
      async place => {
        const { storage, route, maildir, spool } = place;
        const text = `Return-Path: <>\n\n${'x'.repeat(300_000)}`;
        const path = `${spool}/1a2b`;
        await writeFile(path, text, { mode: 0o600 });
        const message: Message = kind === 'memory' ? memory(text) : { kind: 'file', path, sizeBytes: text.length };
        const head = 'Delivered-To: x@example.com\n';
        const copies = [route('anton'), { ...route('berta'), head }, { ...route('carla'), head }, route('dora')];
        await (await storage.prepare(copies, message)).commit();
        for (const [mailbox, lines] of [
          ['anton', ''],
          ['berta', head],
          ['carla', head],
          ['dora', ''],
        ] as const) {
          const wanted = text.replace('\n', `\n${lines}`);
          assert.deepEqual(await contents(maildir(mailbox), 'new'), [wanted], mailbox);
          assert.deepEqual(await contents(maildir(mailbox), 'tmp'), []);
          const [file] = await readdir(`${maildir(mailbox)}/new`);
          assert.equal((await stat(`${maildir(mailbox)}/new/${file}`)).mode & 0o7777, 0o600);
        }
        assert.equal(await readFile(path, 'latin1'), text);
        const aborted = await storage.prepare([{ ...route('anton'), head }, route('berta')], message);
        await aborted.abort();
        for (const mailbox of ['anton', 'berta']) assert.equal((await contents(maildir(mailbox), 'new')).length, 1);
      },
    );

  holds('delivers a message from a file, and leaves the file as it was', async ({ storage, route, maildir, spool }) => {
    const path = `${spool}/1a2b`;
    const text = 'Subject: 2\n\n' + 'x'.repeat(300_000);
    await writeFile(path, text, { mode: 0o600 });
    await chmod(path, 0o600);
    const message: Message = { kind: 'file', path, sizeBytes: text.length };
    await (await storage.prepare([route('anton'), route('berta')], message)).commit();
    for (const mailbox of ['anton', 'berta']) {
      assert.deepEqual(await contents(maildir(mailbox), 'new'), [text]);
      assert.deepEqual(await contents(maildir(mailbox), 'tmp'), []);
    }
    assert.equal(await readFile(path, 'latin1'), text);
  });

  holds('delivers an empty message and one of 3,000 parts', async ({ storage, route, maildir }) => {
    await (await storage.prepare([route('anton')], memory())).commit();
    const parts = Array.from({ length: 3000 }, (_, index) => `${index}\n`);
    await (await storage.prepare([route('anton')], memory(...parts))).commit();
    assert.deepEqual(await contents(maildir('anton'), 'new'), ['', parts.join('')]);
  });

  holds('leaves no copy anywhere when one cannot be prepared', async ({ storage, route, maildir }) => {
    await writeFile(maildir('blocked'), 'a file where the Maildir should be');
    const attempt = storage.prepare([route('anton'), route('blocked'), route('carla')], memory('x\n'));
    await assert.rejects(attempt, /blocked/);
    for (const mailbox of ['anton', 'carla']) {
      assert.deepEqual(await contents(maildir(mailbox), 'new'), []);
      assert.deepEqual(await contents(maildir(mailbox), 'tmp'), []);
    }
    await (await storage.prepare([route('anton')], memory('y\n'))).commit();
    assert.deepEqual(await contents(maildir('anton'), 'new'), ['y\n']);
  });

  holds('keeps every one of 200 concurrent deliveries, once', async ({ storage, route, maildir }) => {
    const texts = Array.from({ length: 200 }, (_, index) => `${index}\n`);
    const mailboxes = ['anton', 'berta', 'carla', 'dora', 'emil'];
    await Promise.all(
      texts.map(async (text, index) => {
        const routes = [route('shared'), route(mailboxes[index % mailboxes.length] ?? '')];
        await (await storage.prepare(routes, memory(text))).commit();
      }),
    );
    assert.deepEqual(await contents(maildir('shared'), 'new'), texts.toSorted());
    const own = await Promise.all(mailboxes.map(mailbox => contents(maildir(mailbox), 'new')));
    assert.deepEqual(own.flat().toSorted(), texts.toSorted());
  });
}
