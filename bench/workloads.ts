// The work: what is sent, and what is measured. A server runs alone, started afresh for each measurement, and is warmed
// up first.
// Promises: a measurement in which a single message is missing is an error, not a figure; a rate counts messages,
// however many recipients they have.
import { existsSync, readdirSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { dnsAddress, openZone, signedMessages, signer } from './judged.ts';
import { type Load, Sink, openIdle, probe, sendMessages, source, tlsSource } from './load.ts';
import type { Peer, Wish } from './peers.ts';
import { Tree, run } from './processes.ts';
import type { Place } from './setup.ts';

/** By name: perSecond, processorMs, peakBytes, … */
export type Figures = Record<string, number>;
type Workload = { readonly title: string; measure(place: Place, peer: Peer, share: number): Promise<Figures> };

const small = { sessions: 20, sizeBytes: 4096, recipients: 1 };
const reused = { ...small, messages: 3000, reuse: true };

export const workloads: Readonly<Record<string, Workload>> = {
  W1: delivery('4 KiB, a connection for each message', { ...small, messages: 2000 }),
  W2: delivery('4 KiB, connections kept', reused),
  W3: delivery('4 KiB to ten Maildirs', { ...small, messages: 400, recipients: 10 }),
  W4: delivery('1 MiB', { messages: 150, sessions: 10, sizeBytes: 1 << 20, recipients: 1 }),
  W5: delivery('25 MiB', { messages: 8, sessions: 2, sizeBytes: 25 << 20, recipients: 1 }),
  W7: { title: '4 KiB to a relay, until it has the last', measure: relay },
  W8: { title: '4 KiB, connection and STARTTLS for each', measure: starttls },
  W9: { title: 'as W7, signed by DKIM on the way', measure: signedRelay },
  W10: { title: '4 KiB from outside, signed, and judged by SPF, DKIM and DMARC', measure: judged },
  idle: { title: '10,000 idle sessions', measure: idle },
  latency: { title: "time of a message under W2's load", measure: latency },
};

function delivery(title: string, load: Load): Workload {
  const isSmall = load.sizeBytes < 1 << 20;
  const warmUp = { ...load, messages: isSmall ? 100 : load.sessions, sizeBytes: Math.min(load.sizeBytes, 1 << 20) };
  return {
    title,
    measure: (place, peer, share) =>
      withServer(place, peer, {}, async server => {
        await deliver(place, peer, server, warmUp);
        return deliver(place, peer, server, scaled(load, share));
      }),
  };
}

const scaled = (load: Load, share: number): Load => ({
  ...load,
  messages: Math.max(load.sessions, Math.round(load.messages * share)),
});

/** Until all is in the Maildirs. */
export function deliver(place: Place, peer: Peer, server: Tree, load: Load, send = source): Promise<Figures> {
  const before = count(peer);
  const stored = (): number => count(peer) - before;
  return clock(server, load, stored, peer.answersFrom === 'queue', () => send(place, peer.port, load));
}

/** Sends, waits until all has arrived, and reckons. */
async function clock(
  server: Tree,
  { messages, recipients }: Load,
  arrived: () => number,
  isLater: boolean,
  send: () => Promise<void>,
): Promise<Figures> {
  let peakBytes = 0;
  const look = setInterval(() => (peakBytes = Math.max(peakBytes, server.residentBytes())), 200);
  const [from, usedBefore] = [performance.now(), server.processorSeconds()];
  try {
    await send();
    const answered = performance.now();
    const wanted = messages * recipients;
    const isComplete = await waitFor(() => arrived() >= wanted, server);
    const seconds = ((isLater ? performance.now() : answered) - from) / 1000;
    await pause(50);
    if (!isComplete || arrived() !== wanted) throw new Error(`${arrived()} of ${wanted} arrived`);
    const processorMs = ((server.processorSeconds() - usedBefore) * 1000) / messages;
    return { perSecond: messages / seconds, ms: (seconds * 1000) / messages, processorMs, peakBytes };
  } finally {
    clearInterval(look);
  }
}

function relay(place: Place, peer: Peer, share: number): Promise<Figures> {
  return relayed(place, peer, share, 'a@ext.test', {});
}

/** From a sender of ours, handed in where mail programs do it. */
function signedRelay(place: Place, peer: Peer, share: number): Promise<Figures> {
  const settings = { SLIM_LISTEN: `submission://127.0.0.1:${peer.port}`, SLIM_TLS_REQUIRE: 'auth', SLIM_DKIM: 'on' };
  return relayed(place, peer, share, 'a@bench.test', settings);
}

async function relayed(
  place: Place,
  peer: Peer,
  share: number,
  from: string,
  settings: Readonly<Record<string, string>>,
): Promise<Figures> {
  const sink = await Sink.open(place);
  try {
    return await withServer(place, peer, { settings }, async server => {
      const once = (load: Load): Promise<Figures> => {
        const before = sink.messages;
        const send = (): Promise<void> => source(place, peer.port, load);
        return clock(server, load, () => sink.messages - before, true, send);
      };
      const load = { ...small, messages: 1000, from, to: 'x@ext.test' };
      await once({ ...load, messages: 50 });
      return once(scaled(load, share));
    });
  } finally {
    await sink.stop();
  }
}

async function judged(place: Place, peer: Peer, share: number): Promise<Figures> {
  const zone = await openZone();
  const settings = { SLIM_VERIFY: 'on', SLIM_RESOLVER: dnsAddress, SLIM_TRUSTED_NETWORKS: '192.0.2.1/32' };
  try {
    return await withServer(place, peer, { settings }, async server => {
      const once = async (load: Load): Promise<Figures> => {
        const messages = await signedMessages(load.messages, load.sizeBytes);
        const send = (_: Place, port: number): Promise<void> =>
          sendMessages(port, load.sessions, messages, `u@${signer.domain}`);
        return deliver(place, peer, server, load, send);
      };
      const load = { ...small, messages: 1000 };
      await once({ ...load, messages: 50 });
      return once(scaled(load, share));
    });
  } finally {
    zone.close();
  }
}

function starttls(place: Place, peer: Peer, share: number): Promise<Figures> {
  const load = { ...small, messages: 600 };
  const send = (_: Place, port: number, wanted: Load): Promise<void> => tlsSource(port, wanted);
  return withServer(place, peer, {}, async server => {
    await deliver(place, peer, server, { ...load, messages: 40 }, send);
    return deliver(place, peer, server, scaled(load, share), send);
  });
}

function idle(place: Place, peer: Peer, share: number): Promise<Figures> {
  const sessions = Math.round(10_000 * share);
  return withServer(place, peer, { sessions }, async server => {
    // What only the first sessions load and make is no price of a session.
    (await openIdle(peer.port, 20)).close();
    await pause(500);
    const before = server.proportionalBytes();
    const held = await openIdle(peer.port, sessions);
    await pause(1000);
    const sessionBytes = (server.proportionalBytes() - before) / sessions;
    held.close();
    return { sessionBytes, sessions };
  });
}

function latency(place: Place, peer: Peer, share: number): Promise<Figures> {
  const load = scaled({ ...reused, messages: 9000 }, share * (peer.share.W2 ?? 1));
  return withServer(place, peer, {}, async server => {
    await deliver(place, peer, server, { ...load, messages: 100 });
    const took = await probe(peer.port, load.sizeBytes, () => source(place, peer.port, load));
    took.sort((a, b) => a - b);
    const at = (part: number): number => took[Math.ceil(took.length * part) - 1] ?? 0;
    return { p50Ms: at(0.5), p99Ms: at(0.99), samples: took.length };
  });
}

/** Started with empty Maildirs, and ended whatever happens. */
export async function withServer<T>(
  place: Place,
  peer: Peer,
  wish: Wish,
  use: (server: Tree, startMs: number) => Promise<T>,
): Promise<T> {
  await empty(place, peer, wish.keepsQueue);
  const from = performance.now();
  const server = new Tree(peer.command(wish), place.log(peer.name));
  try {
    if (!(await waitFor(() => greets(peer.port), server)))
      throw new Error(`${peer.name} did not start; see ${place.log(peer.name)}`);
    const startMs = performance.now() - from;
    await pause(300);
    return await use(server, startMs);
  } finally {
    await server.stop();
    await empty(place, peer, wish.keepsQueue);
  }
}

function greets(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1').setTimeout(5000, () => socket.destroy());
    socket.on('data', text => {
      resolve(String(text).startsWith('220'));
      socket.end('QUIT\r\n');
    });
    socket.on('error', () => {}).on('close', () => resolve(false));
  });
}

/** False where the server ends before it is true, or two minutes pass. */
export async function waitFor(holds: () => boolean | Promise<boolean>, server: Tree): Promise<boolean> {
  for (const until = performance.now() + 120_000; performance.now() < until && server.isRunning; await pause(20))
    if (await holds()) return true;
  return false;
}

const newFolders = ({ mail }: Peer): string[] =>
  readdirSync(mail)
    .map(user => join(mail, user, 'new'))
    .filter(folder => existsSync(folder));

const count = (peer: Peer): number => newFolders(peer).reduce((total, folder) => total + readdirSync(folder).length, 0);

/** And on the disk: nobody's measurement pays for what another left behind. */
async function empty(place: Place, peer: Peer, keepsQueue: boolean | undefined): Promise<void> {
  const folders = [...newFolders(peer), ...(keepsQueue ? [] : peer.queue)].filter(folder => existsSync(folder));
  if (folders.length > 0) await run(['find', ...folders, '-type', 'f', '-delete']);
  await run(['sync', '--file-system', place.mount]);
}
