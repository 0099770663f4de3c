// Disks that are full, broken or read-only, and too few descriptors: what the client hears, and that all is well again
// by itself. Faults are injected by strace into the running server, and made for real: a volume of a few MB, a remount,
// a limit of descriptors. It takes a sample of the points; TORTURE=all takes every one, with every error. Wants strace;
// the real ones want root.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { type Client, dial, eventually } from '../integration/client.ts';
import { Ledger, type Letter, begin, leftovers, mailSettings, send, settle } from './account.ts';
import { type Fault, type Series, failAt, pointsOf, watch } from './crash-points.ts';
import { findSeries, fresh, isAll, judge, nothing, oneThread, recover, scratch } from './crash-run.ts';
import { mail, scenario } from './crash-scenario.ts';
import { Sink } from './crash-sink.ts';
import { openDisk } from './power-disk.ts';
import { freePort } from '../ports.ts';
import { type Place, type Server, openPlace, undoing, user } from './server.ts';

const timeout = 7200_000;
const undo = undoing(after);
/** The errors that a call may end in, and the reply to whoever waits for it. */
const replies = { ENOSPC: '452 4.3.1', EDQUOT: '452 4.3.1', EIO: '451 4.3.0', EROFS: '451 4.3.0', EMFILE: '451 4.3.0' };
type Failure = keyof typeof replies;
const failuresOf = (call: string): Failure[] => {
  if (call === 'openat') return ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'EMFILE'];
  return /write|fsync|copy/.test(call) ? ['ENOSPC', 'EDQUOT', 'EIO'] : ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS'];
};
/** Not write and send: those are for sockets and the log. */
const isOfFiles = ({ call }: Series): boolean => !/^(write|send\w*)$/.test(call);
/**
 * Where one of these fails something else is done: a copy for a link, an fsync for the journal of small messages. The
 * main thread writes into open files only to begin a segment of the journal, and to note which mail is in flight.
 */
const hasAnotherWay = (kind: string, thread: string, call: string): boolean =>
  /^(un)?link$/.test(call) ||
  (thread === 'MainThread' && call === 'pwrite64') ||
  (kind.startsWith('a small one for a Maildir') && thread === 'libuv-worker' && call !== 'fsync');

const anton = 'anton@example.com';
const kinds: Readonly<Record<string, (ledger: Ledger) => Letter>> = {
  'a small one for a Maildir': ledger => ledger.write('x@example.net', [anton]),
  'a large one for a Maildir': ledger => ledger.write('x@example.net', [anton], { octets: 400_000 }),
  'a small one for the queue': ledger => ledger.write(anton, ['x@peer.example']),
  'a large one for the queue': ledger => ledger.write(anton, ['x@peer.example'], { octets: 400_000 }),
};

type World = { place: Place; sink: Sink; ledger: Ledger; server: Server; session: Client };
let place: Place;

before(async () => {
  place = await openPlace(undo, scratch(undo));
  await (await begin(place, {})).stop(); // makes the certificate that the others get
});

/** A server with a session that goes on whatever happens. */
async function open(name: string, folder?: string): Promise<World> {
  const [where, sink] = [fresh(place, name, folder), await Sink.make()];
  await sink.up();
  const server = await begin(where, { ...oneThread, ...mailSettings(where), ...sink.settings });
  return { place: where, sink, ledger: new Ledger(where, sink), server, session: await dial(server.port) };
}

/** All that was acknowledged is there; what was refused is nowhere; nothing lies about; the session lives. */
async function close({ place: where, sink, ledger, server, session }: World): Promise<void> {
  const account = await settle(ledger, where, server);
  judge(account, server.log());
  assert.deepEqual([account.queued, account.twice], [0, []], server.log());
  assert.deepEqual(ledger.refusedYetFound(), []);
  assert.match(await session.say('NOOP'), /^250/);
  session.socket.destroy();
  await server.stop();
  // What could not be removed goes with the next start, and nothing comes of it.
  const settings = { ...mailSettings(where), ...sink.settings };
  const again = await recover(ledger, where, settings, 'after a restart', nothing());
  assert.deepEqual(again.twice, [], 'sent again after a restart');
  sink.down();
}

test(
  'a fault that lasts: 452 or 451; the next message after it is taken, in the same session',
  { timeout },
  async t => {
    const rows: string[] = [];
    /** The reply under the fault; undefined where the call was not made this time. */
    const under = async (world: World, fault: Fault, failure: Failure, write: (ledger: Ledger) => Letter) => {
      const trace = await failAt(world.server, fault, failure);
      const letter = write(world.ledger);
      assert.ok(await send(world.session, letter), world.server.log());
      return /INJECTED/.test(await trace.detach()) ? letter.reply : undefined;
    };
    const world = await open('lasting');
    for (const [kind, write] of Object.entries(kinds)) {
      await send(world.session, write(world.ledger)); // Maildirs are made with the first
      const watched = await watch(world.server);
      await send(world.session, write(world.ledger));
      const series = (await watched.stop()).filter(isOfFiles);
      for (const { thread, call } of series)
        for (const failure of failuresOf(call).filter((_, index) => isAll || index % 3 === rows.length % 3)) {
          const reply = await under(world, { thread, call }, failure, write);
          if (reply === undefined) continue;
          const expected = hasAnotherWay(kind, thread, call) ? '250' : replies[failure];
          assert.ok(reply.startsWith(expected), `${kind}, ${call} in ${thread}: ${failure}: ${reply}, not ${expected}`);
          const again = write(world.ledger);
          await send(world.session, again);
          assert.match(again.reply ?? '', /^250/, `${kind} after ${call}: ${failure}`);
          rows.push(`${call} ${failure} → ${reply.slice(0, 9)} (${kind})`);
        }
    }
    // Neither the journal nor the files can be synced.
    for (const failure of failuresOf('fsync')) {
      const fault = { thread: 'libuv-worker', call: 'fdatasync,fsync' };
      const reply = await under(world, fault, failure, ledger => ledger.write('x@example.net', [anton]));
      assert.ok(reply?.startsWith(replies[failure]), `${failure}: ${reply}`);
      rows.push(`fdatasync and fsync ${failure} → ${reply?.slice(0, 9)} (a small one for a Maildir)`);
    }
    // The file system of the Maildir is another one, or takes no links: a copy is made, and that fails.
    const copying = { call: 'link,copy_file_range,sendfile' };
    const reply = await under(
      world,
      copying,
      'ENOSPC',
      ledger => kinds['a large one for a Maildir']?.(ledger) ?? assert.fail(),
    );
    assert.match(reply ?? '', /^452/);
    await close(world);
    for (const failure of failuresOf('mkdir')) {
      const first = await open(`mkdir-${failure}`);
      const refused = await under(first, { call: 'mkdir' }, failure, ledger => ledger.write('x@example.net', [anton]));
      // Node's recursive mkdir calls all but a full disk ENOENT.
      assert.ok(
        refused?.startsWith(failure === 'ENOSPC' ? '452' : '451'),
        `mkdir ${failure}: ${refused}\n${first.server.log()}`,
      );
      await send(first.session, first.ledger.write('x@example.net', [anton]));
      await close(first);
      rows.push(`mkdir ${failure} → ${refused?.slice(0, 9)}`);
    }
    t.diagnostic(`${rows.length} rows`);
    assert.ok(rows.length > 20);
    if (isAll) for (const row of rows) t.diagnostic(row);
  },
);

test('one call fails: nobody hears 250 of what is not kept, and what is kept arrives', { timeout }, async t => {
  const series = (await findSeries(mail, place)).filter(isOfFiles);
  const points = pointsOf(series, isAll ? Infinity : 5).flatMap((point, index) => {
    const failures = failuresOf(point.call);
    return (isAll ? failures : [failures[index % failures.length] ?? 'EIO']).map(failure => ({ point, failure }));
  });
  const sum = { runs: 0, faults: 0, refused: 0, acknowledged: 0 };
  const next = points.values();
  const work = async (lane: number): Promise<void> => {
    for (const { point, failure } of next) {
      const at = `${failure} at ${point.call} ${point.at} of ${point.thread}`;
      const world = await open(`fault${lane}`);
      world.sink.down();
      const trace = await failAt(world.server, point, failure);
      const isSettled = await scenario(world.ledger, world.place, world.sink, world.server);
      sum.faults += /INJECTED/.test(await trace.detach()) ? 1 : 0;
      assert.ok(isSettled, `${at}: ${String(world.ledger.missing())}\n${world.server.log()}`);
      assert.equal(await world.server.ended, 0, at);
      for (const { reply = 'none', to } of world.ledger.letters) {
        assert.match(reply, /^(250 |45[12] 4\.3\.[01] )/, `${at}: ${String(to)}\n${world.server.log()}`);
        sum[reply.startsWith('250') ? 'acknowledged' : 'refused'] += 1;
      }
      sum.runs += 1;
      // And after a restart nothing is sent again.
      const twice = world.ledger.twice();
      const settings = { ...mailSettings(world.place), ...world.sink.settings };
      const again = await recover(world.ledger, world.place, settings, at, nothing());
      assert.deepEqual(again.twice, twice, `${at}: sent again after a restart`);
      world.sink.down();
    }
  };
  await Promise.all(Array.from({ length: 5 }, (_, lane) => work(lane)));
  t.diagnostic(JSON.stringify(sum));
});

test('an fsync that failed is never made good by another: the message is refused, and gone', { timeout }, async t => {
  const world = await open('fsync');
  for (const write of Object.values(kinds)) await send(world.session, write(world.ledger));
  let failed = 0;
  for (const [kind, write] of Object.entries(kinds))
    for (let at = 1, isHit = true; isHit; at += 1) {
      await settle(world.ledger, world.place, world.server);
      const trace = await failAt(world.server, { thread: 'libuv-worker', call: 'fdatasync,fsync', at }, 'EIO');
      const letter = write(world.ledger);
      await send(world.session, letter);
      // What the queue does after the 250 is no part of the promise.
      isHit = /INJECTED/.test(await trace.detach()) && letter.reply?.startsWith('250') !== true;
      if (isHit) failed += 1;
      if (at === 1) assert.ok(isHit, kind);
      assert.match(letter.reply ?? '', isHit ? /^451 4\.3\.0/ : /^250/, `${kind}: fsync ${at}`);
    }
  t.diagnostic(`${failed} fsyncs failed, each a refusal`);
  assert.ok(failed >= 10);
  await close(world);
});

test(
  'a volume of 4 MB that fills up: 452; room is all it takes; it starts and drains while full',
  { timeout },
  async t => {
    const folder = fs.mkdtempSync(join(tmpdir(), 'slimsmtp-full-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=755', 'tmpfs', folder]);
    undo(async () => {
      execFileSync('umount', ['--lazy', folder]);
      fs.rmdirSync(folder);
    });
    const world = await open('', folder);
    const { ledger, sink } = world;
    sink.down();
    const fill = async (kind: string): Promise<void> => {
      for (;;) {
        const letter = kinds[kind]?.(ledger) ?? assert.fail();
        assert.ok(await send(world.session, letter), world.server.log());
        if (letter.reply?.startsWith('250')) continue;
        return assert.match(letter.reply ?? '', /^452 4\.3\.1/, kind);
      }
    };
    for (let count = 0; count < 3; count += 1)
      await send(world.session, ledger.write('x@example.net', [anton], { octets: 400_000 }));
    const order = ['a large one for the queue', 'a small one for the queue', 'a small one for a Maildir'];
    for (const kind of order) await fill(kind);
    // Someone reads his mail.
    ledger.missing();
    const inbox = join(folder, 'mail', 'anton', 'new');
    const read = fs.readdirSync(inbox).filter(name => fs.statSync(join(inbox, name)).size > 100_000);
    for (const name of read) fs.unlinkSync(join(inbox, name));
    for (const letter of ledger.letters.slice(0, 3)) delete letter.reply; // they are not looked for any more
    const letter = ledger.write('x@example.net', [anton], { octets: 400_000 });
    await send(world.session, letter);
    assert.match(letter.reply ?? '', /^250/);
    for (const kind of order) await fill(kind);
    world.session.socket.destroy();
    await world.server.stop();
    world.server = await begin(world.place, { ...mailSettings(world.place), ...sink.settings });
    world.session = await dial(world.server.port);
    await sink.up();
    const { acknowledged } = await settle(ledger, world.place, world.server);
    t.diagnostic(`${acknowledged} messages, of ${ledger.letters.length}`);
    assert.ok(acknowledged > 10);
    await close(world);
  },
);

test('a file system that turns read-only: 451 and unhealthy; writable again, all goes on', { timeout }, async () => {
  const { folder } = await openDisk(undo, fs.mkdtempSync(join(tmpdir(), 'slimsmtp-ro-')), 32 << 20);
  const world = await open('', folder);
  const { ledger, session, sink } = world;
  sink.down();
  const one = async (kind: string): Promise<string> => {
    const letter = kinds[kind]?.(ledger) ?? assert.fail();
    await send(session, letter);
    return letter.reply ?? '';
  };
  for (const kind of Object.keys(kinds)) assert.match(await one(kind), /^250/, kind);
  // The kernel refuses to remount it while files are open for writing, and the server always has some. So a read-only
  // mount of the same folder comes on top of it: whatever is opened by its path from now on cannot be written.
  execFileSync('mount', ['--bind', folder, folder]);
  execFileSync('mount', ['-o', 'remount,bind,ro', folder]);
  let isOnTop = true;
  const takeAway = (): void => {
    if (isOnTop) execFileSync('umount', ['--lazy', folder]);
    isOnTop = false;
  };
  undo(async () => takeAway());
  assert.throws(() => fs.writeFileSync(join(folder, 'x'), ''), { code: 'EROFS' });
  for (const kind of Object.keys(kinds)) {
    // A segment of the journal that is open already keeps small mail for the queue. Then it is not lost either.
    const isInJournal = kind === 'a small one for the queue';
    assert.match(await one(kind), isInJournal ? /^(250|451 4\.3\.0)/ : /^451 4\.3\.0/, kind);
  }
  await assert.rejects(world.place.slimsmtp('health'), ({ stdout }: { stdout: string }) =>
    stdout.startsWith('unhealthy'),
  );
  // What waited is sent all the same: none twice, though no record of it can be written.
  await sink.up();
  await eventually('the queue is sent', async () => ledger.missing().length === 0, 60_000);
  takeAway();
  for (const kind of Object.keys(kinds)) assert.match(await one(kind), /^250/, kind);
  await world.place.slimsmtp('health');
  await settle(ledger, world.place, world.server);
  // A segment of the journal that could not be removed meanwhile goes at the next start: see close().
  const left = (): string[] => leftovers(world.place).filter(path => !path.includes('/journal/'));
  await eventually(`${String(left())} is gone`, async () => left().length === 0, 15_000);
  await close(world);
});

test('no descriptors left: 451; with some again all goes on', { timeout }, async () => {
  const world = await open('descriptors');
  const { ledger, server, session } = world;
  await send(session, ledger.write('x@example.net', [anton]));
  const pid = `${server.process.pid}`;
  const limit = (descriptors: number): Buffer =>
    execFileSync('prlimit', ['--pid', pid, `--nofile=${descriptors}:`], user);
  limit(3);
  const letter = ledger.write('x@example.net', [anton]);
  await send(session, letter);
  assert.match(letter.reply ?? '', /^451 4\.3\.0/);
  const other = dial(server.port); // not accepted, or closed at once
  await setTimeout(300);
  assert.match(await session.say('NOOP'), /^250/);
  // One is left, or two, or three: enough to take in a client, and not for what that needs.
  for (const left of [1, 2, 3]) {
    const used = new Set(fs.readdirSync(`/proc/${pid}/fd`).map(Number));
    const unused = Array.from({ length: 1000 }, (_, number) => number).filter(number => !used.has(number));
    limit((unused[left - 1] ?? 0) + 1);
    await setTimeout(1100); // what is known of the network is a second old at most
    void dial(server.port).then(({ socket }) => socket.destroy());
    await setTimeout(100);
    assert.match(await session.say('NOOP'), /^250/, server.log());
  }
  limit(1024);
  (await other).socket.destroy();
  await send(session, ledger.write('x@example.net', [anton]));
  await send(await dial(server.port), ledger.write('x@example.net', [anton]));
  assert.deepEqual(
    ledger.letters.map(({ reply = '' }) => reply.slice(0, 3)),
    ['250', '451', '250', '250'],
  );
  await close(world);
});

test('a log that cannot be written: mail is taken all the same', { timeout }, async () => {
  const [where, sink] = [fresh(place, 'log'), await Sink.make()];
  const ledger = new Ledger(where, sink);
  const ports = [await freePort(), await freePort()] as [number, number];
  const prefix = ['sh', '-c', 'exec "$@" >/dev/full', 'sh'];
  const starting = where.start({ ...mailSettings(where), ...sink.settings }, { prefix, ports });
  await eventually(
    'it listens',
    async () => (await dial(ports[0])).say('NOOP').then(reply => reply.startsWith('250')),
    9000,
  );
  const session = await dial(ports[0]);
  for (let count = 0; count < 20; count += 1) await send(session, ledger.write('x@example.net', [anton]));
  session.socket.destroy();
  const server = await starting;
  assert.equal(server.process.exitCode, null, server.log());
  const account = await settle(ledger, where, server);
  judge(account, server.log());
  assert.equal(account.acknowledged, 20);
  const ended = await Promise.race([server.stop().then(() => true), setTimeout(15_000, false, { ref: false })]);
  assert.ok(ended, 'SIGTERM ends it');
});
