// What the server does in every run of the crash points: it receives (one recipient, several, more than fits in memory,
// a session that breaks off), queues while the next hop is down, delivers when it is up, bounces, sends on what comes
// then, and stops. The same each time, in one session and then in six.
import { setTimeout } from 'node:timers/promises';
import { dial } from '../integration/client.ts';
import { type Letter, type Ledger, mailSettings, send, sendAlone, waiting } from './account.ts';
import type { Sink } from './crash-sink.ts';
import type { Place, Server } from './server.ts';

/** What a server does in each run of the crash points, always the same. */
export type Play = {
  settings(place: Place, sink: Sink): Record<string, string>;
  /** At its end the server has ended. Whether all was in its place, and nothing queued, before SIGTERM. */
  run(ledger: Ledger, place: Place, sink: Sink, server: Server): Promise<boolean>;
  /** What else must be true of all that the next hop has taken. */
  check?(place: Place, sink: Sink): Promise<void>;
};

/** Mail that is neither judged nor signed. */
export const mail: Play = {
  settings: (place, sink) => ({ ...mailSettings(place), ...sink.settings }),
  run: scenario,
};

const anton = 'anton@example.com';
const large = { octets: 400_000 };

/**
 * At its end the server has ended, by SIGTERM or before. Whether all was in its place, and nothing queued, before
 * SIGTERM.
 */
export async function scenario(ledger: Ledger, place: Place, sink: Sink, server: Server): Promise<boolean> {
  await receive(ledger, server);
  if (!server.hasEnded()) await sink.up();
  let isSettled = await settled(ledger, place, server);
  // What leaves at once is in the journal alone.
  const direct = [['v@peer.example'], ['w@peer.example', 'berta@example.com'], ['refused3@peer.example']] as const;
  if (isSettled) {
    await Promise.all(direct.map(to => sendAlone(server.port, ledger.write(anton, to))));
    isSettled = await settled(ledger, place, server);
  }
  await server.stop();
  return isSettled;
}

/** Whether all is in its place and nothing waits, after a minute at most. */
export async function settled(ledger: Ledger, place: Place, server: Server): Promise<boolean> {
  const end = Date.now() + 60_000;
  let isSettled = false;
  while (!isSettled && !server.hasEnded() && Date.now() < end) {
    await setTimeout(50);
    isSettled = ledger.missing().length === 0 && (await waiting(place).catch(() => [''])).length === 0;
  }
  return isSettled;
}

/** The first half: what is for the next hop is in the queue. */
export async function receive(ledger: Ledger, server: Server): Promise<void> {
  const letters = [
    ledger.write(anton, [anton], { isNotified: true }),
    ledger.write('x@example.net', [anton, 'berta@example.com', 'carla@example.com']),
    ledger.write('x@example.net', [anton, 'berta@example.com'], large),
    ledger.write(anton, ['x@peer.example']),
    ledger.write(anton, ['berta@example.com', 'y@peer.example'], large),
    ledger.write('x@example.net', ['far@example.com']),
    ledger.write('x@example.net', ['both@example.com', anton], large),
    ledger.write(anton, ['refused@peer.example']),
    ledger.write(anton, ['z@peer.example', 'refused2@peer.example']),
  ];
  const session = await dial(server.port);
  for (const letter of letters) if (!(await send(session, letter))) break;
  // Half of a message, of which a part is in a file by now.
  await session.say('MAIL FROM:<x@example.net>');
  await session.say('RCPT TO:<berta@example.com>');
  await session.say('DATA');
  session.send('half a line\r\n'.repeat(60_000));
  await setTimeout(20);
  session.socket.destroy();
  const burst = Array.from({ length: 6 }, (_, index): Letter =>
    ledger.write(anton, index % 2 === 0 ? ['berta@example.com'] : [`u${index}@peer.example`]),
  );
  await Promise.all(burst.map(letter => sendAlone(server.port, letter)));
}
