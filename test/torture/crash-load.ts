// Sessions that send all kinds of mail, one after the other, as fast as they are answered: what runs when the server is
// ended at random.
// Promises: which letters they send follows from a seed; a session that is cut leaves its letter without a reply.
import { dial } from '../integration/client.ts';
import { type Ledger, type Letter, send } from './account.ts';

export type Load = {
  /** Resolves when every session has ended. */
  stop(): Promise<void>;
};

/** Numbers below 1, always the same of a seed (mulberry32). */
export function chance(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Until it is stopped, or the server is gone. A session that is refused goes on. */
export function load(ledger: Ledger, port: number, random: () => number, sessions: number): Load {
  let isOver = false;
  const one = async (): Promise<void> => {
    const session = await dial(port);
    while (!isOver && (await send(session, any(ledger, random())))) isOver ||= session.socket.destroyed;
    session.socket.destroy();
  };
  const all = Promise.all(Array.from({ length: sessions }, one));
  return {
    async stop() {
      isOver = true;
      await all;
    },
  };
}

function any(ledger: Ledger, draw: number): Letter {
  const [anton, berta, other] = ['anton@example.com', 'berta@example.com', 'carla@example.com'];
  if (draw < 0.4) return ledger.write('x@example.net', [draw < 0.2 ? anton : berta]);
  if (draw < 0.55) return ledger.write('x@example.net', [anton, berta, other]);
  if (draw < 0.6) return ledger.write('x@example.net', [other], { octets: 300_000 });
  if (draw < 0.65) return ledger.write(anton, [anton], { isNotified: true });
  if (draw < 0.9) return ledger.write(anton, ['x@peer.example']);
  if (draw < 0.95) return ledger.write(anton, [berta, 'y@peer.example']);
  return ledger.write(anton, ['refused@peer.example']);
}
