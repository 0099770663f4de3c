// The history: what is kept, within which bounds, and how the lives of messages are found again.
import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { clientKey } from '../../src/inbound/peer.ts';
import { History } from '../../src/history/history.ts';
import { Search } from '../../src/history/search.ts';
import type { Event } from '../../src/mail/event.ts';

const base = mkdtempSync(join(tmpdir(), 'history-'));
after(() => rmSync(base, { recursive: true, force: true }));
const day = 86_400_000;

function open(more: { folder?: string; maxBytes?: number } = {}) {
  const folder = more.folder ?? mkdtempSync(join(base, 'h-'));
  // Files are as old as the system says.
  const state = { now: Date.now() };
  const lines: string[] = [];
  const line = (_: unknown, sentence: string): unknown => lines.push(sentence);
  const history = new History({
    folder,
    lifetimeMs: 7 * day,
    maxBytes: more.maxBytes ?? 256 * 1024 * 1024,
    clientKey,
    clock: { now: () => state.now },
    log: { debug: line, info: line, warn: line, error: line },
  });
  const text = (): string =>
    readdirSync(folder)
      .toSorted()
      .map(name => readFileSync(join(folder, name), 'utf8'))
      .join('');
  return { folder, state, history, lines, text, count: () => text().split('\n').length - 1 };
}

const message = (id: string, more: Partial<Event & { kind: 'message' }> = {}): Event => ({
  kind: 'message',
  message: id,
  session: `s-${id}`,
  client: '192.0.2.1',
  helo: 'client.example.net',
  protocol: 'ESMTP',
  from: 'me@example.net',
  to: ['Anton@example.com'],
  recipients: 1,
  routes: [],
  result: 'queued',
  reply: '250 2.0.0',
  sizeBytes: 100,
  ms: 5,
  messageId: `<Mail-${id}@example.net>`,
  verdicts: [],
  ...more,
});
const attempt = (id: string, to: string): Event => ({
  kind: 'attempt',
  message: id,
  hop: 'domain',
  destination: 'example.org',
  from: 'me@example.net',
  to: [to],
  recipients: 1,
  result: 'delivered',
  status: '2.0.0',
  text: '250 ok',
  attempts: 1,
  ms: 3,
  ageMs: 4,
});
const refused = (client: string, to = 'nobody@example.com'): Event => ({
  kind: 'refused',
  session: 'r',
  client,
  helo: 'x',
  from: 'a@example.net',
  to,
  reply: '550 5.1.1 No',
});

describe('the history', () => {
  it('keeps events with their time, in files that only its owner can read, and gives up nothing at its end', async () => {
    const { history, folder, text, state } = open();
    history.hear(message('a'));
    history.hear({ kind: 'session', listener: 'smtp', isProbe: false, ms: 1 });
    assert.deepEqual(readdirSync(folder), []);
    await history.write();
    history.hear(attempt('a', 'x@example.org'));
    await history.close();
    const kept = text()
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Event & { at: number });
    assert.deepEqual(
      kept,
      [message('a'), attempt('a', 'x@example.org')].map(event => ({ at: state.now, ...event })),
    );
    const [name = ''] = readdirSync(folder);
    assert.equal(statSync(join(folder, name)).mode & 0o777, 0o600);
  });

  it('has no more than its bound, and nothing that is older than its lifetime', async () => {
    const { history, folder, text, state } = open({ maxBytes: 160_000 });
    for (let n = 0; n < 1000; n += 1) {
      state.now += 1000;
      history.hear(message(`m${n}`));
      await history.write();
    }
    const sizes = readdirSync(folder).map(name => statSync(join(folder, name)).size);
    assert.ok(sizes.length >= 15 && sizes.every(size => size <= 10_000), sizes.join(' '));
    assert.ok(sizes.reduce((sum, size) => sum + size) <= 160_000);
    assert.ok(text().includes('"m999"') && !text().includes('"m10"'));
    // A file is closed with a seventh of the lifetime, however small it is.
    state.now += 2 * day;
    history.hear(message('late'));
    await history.write();
    const newest = readdirSync(folder).toSorted().at(-1) ?? '';
    assert.equal(readFileSync(join(folder, newest), 'utf8').split('\n').length, 2);
    state.now = Date.now() + 8 * day;
    history.hear(message('last'));
    await history.write();
    assert.equal(readdirSync(folder).length, 1);
    await history.close();
  });

  it('is not filled by what strangers cause for nothing: a minute has 60 lines of a client, and says how many more', async () => {
    const { history, count, text } = open();
    for (let n = 0; n < 500; n += 1) history.hear(refused('192.0.2.1', `n${n}@example.com`));
    for (let n = 0; n < 500; n += 1) history.hear(message(`r${n}`, { result: 'abandoned' }));
    history.hear(refused('192.0.2.2'));
    for (let n = 0; n < 100; n += 1) history.hear(message(`k${n}`));
    await history.write();
    assert.equal(count(), 60 + 60 + 1 + 100);
    assert.doesNotMatch(text(), /n60@/);
    await history.close();
  });

  it('holds up nobody where it cannot be written: it says so once a minute, and counts what is lost', async () => {
    const folder = join(base, 'missing');
    const { history, lines, state, count } = open({ folder });
    for (let n = 0; n < 3; n += 1) {
      history.hear(message('a'));
      await history.write();
    }
    assert.deepEqual([lines, history.lost], [['the history cannot be written now'], 3]);
    mkdirSync(folder);
    history.hear(message('b'));
    await history.write();
    assert.equal(count(), 1);
    rmSync(folder, { recursive: true });
    state.now += 2 * day;
    history.hear(message('c'));
    await history.write();
    assert.equal(lines.length, 2);
    await history.close();
  });

  it('keeps no more than its bound in memory while the disk hangs', () => {
    const { history } = open();
    const long = message('a', { helo: 'x'.repeat(1000) });
    for (let n = 0; n < 10_000; n += 1) history.hear(long);
    assert.ok(history.lost > 5000 && history.lost < 8000, String(history.lost));
    return history.close();
  });
});

describe('a search', () => {
  async function filled() {
    const opened = open();
    const { history, state } = opened;
    const say = async (...events: Event[]): Promise<void> => {
      for (const event of events) {
        state.now += 1000;
        history.hear(event);
      }
      await history.write();
    };
    await say(attempt('a', 'x@example.org'), message('a', { ms: 5000 }), message('b', { to: ['b@example.com'] }));
    return { ...opened, say };
  }
  const kinds = (events: readonly Event[] | undefined): string[] => (events ?? []).map(({ kind }) => kind);

  it('finds a life by id, address or Message-ID, in any case, with or without brackets; its beginning comes first', async () => {
    const { folder, history } = await filled();
    for (const wanted of [
      'a',
      'x@EXAMPLE.org',
      '<anton@example.com>',
      'mail-a@example.net',
      '<Mail-a@example.net>',
      's-a',
    ]) {
      const { messages, refusals, more } = new Search(folder, wanted).find(20);
      assert.deepEqual([[...messages.keys()], refusals, more], [['a'], [], 0], wanted);
      assert.deepEqual(kinds(messages.get('a')), ['message', 'attempt'], wanted);
    }
    assert.equal(new Search(folder, 'me@example.net').find(20).messages.size, 2);
    for (const wanted of ['nton@example.com', 'A"', '192.0.2.1', 'queued', ''])
      assert.equal(new Search(folder, wanted).find(20).messages.size, 0, wanted);
    await history.close();
  });

  it('goes on with what follows: forwards, notices, and what became of them', async () => {
    const { folder, history, say } = await filled();
    await say(
      { kind: 'forward', message: 'b', as: 'b1', from: 'srs@example.com', to: ['far@example.org'] },
      attempt('b1', 'far@example.org'),
      {
        kind: 'notice',
        message: 'b1',
        as: 'n',
        to: 'srs@example.com',
        outcomes: [{ action: 'failed', to: 'far@example.org' }],
      },
      attempt('n', 'srs@example.com'),
    );
    const { messages } = new Search(folder, 'Mail-b@example.net').find(20);
    assert.deepEqual([...messages.keys()].toSorted(), ['b', 'b1', 'n']);
    assert.deepEqual(kinds(messages.get('n')), ['attempt']);
    await history.close();
  });

  it('finds what was refused before it had an id, and the newest messages within a limit', async () => {
    const { folder, history, say } = await filled();
    await say(refused('192.0.2.1', 'Nobody@example.com'), message('c'), message('d'));
    const { refusals, messages } = new Search(folder, 'nobody@example.com').find(20);
    assert.deepEqual([kinds(refusals), messages.size], [['refused'], 0]);
    const limited = new Search(folder, 'me@example.net').find(2);
    assert.deepEqual([[...limited.messages.keys()], limited.more], [['c', 'd'], 2]);
    await history.close();
  });

  it('is not misled by torn lines, foreign files, or names that look like fields', async () => {
    const { folder, history, say } = await filled();
    const [name = ''] = readdirSync(folder);
    appendFileSync(
      join(folder, name),
      '{"at":1,"kind":"message","message":"torn","to":["anton@exa\n{"at":2,"who":"anton@example.com","more":7}\n',
    );
    appendFileSync(join(folder, 'README'), 'anton@example.com');
    await say(message('e', { helo: '","message":"a","x":"' }));
    const { messages } = new Search(folder, 'anton@example.com').find(20);
    assert.deepEqual([...messages.keys()], ['a', 'e']);
    assert.deepEqual(kinds(messages.get('a')), ['message', 'attempt']);
    await history.close();
  });

  it('follows what comes, over the end of a file', async () => {
    const { folder, history, say, state } = await filled();
    const search = new Search(folder, 'a');
    search.find(20);
    const coming = search.follow();
    const next = async (): Promise<string> => {
      const { value } = await coming.next();
      return value.kind === 'attempt' ? value.to[0] : value.kind;
    };
    await say(attempt('b', 'other@example.org'), attempt('a', 'y@example.org'));
    assert.equal(await next(), 'y@example.org');
    state.now += 2 * day;
    await say(
      { kind: 'notice', message: 'a', as: 'n', to: 'me@example.net', outcomes: [] },
      attempt('n', 'z@example.org'),
    );
    assert.deepEqual([await next(), await next()], ['notice', 'z@example.org']);
    await coming.return(undefined);
    await history.close();
  });
});
