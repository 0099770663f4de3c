// The judging child, a program of its own (main.ts). Whatever strangers have written into a header is parsed here, by a
// library, in a process that has no settings, no secrets in its environment, may read no file but its own code, may
// write none, and is killed when it takes too long.
// It works on many messages at once, since most of the time is waiting for the DNS. It ends when the network process
// does.
import { setImmediate as turn } from 'node:timers/promises';
import type { Judgement } from '../mail/judgement.ts';
import { openDns } from '../dns/stub.ts';
import type { Records } from '../system/dns.ts';
import { systemClock } from '../system/world.ts';
import { evaluate } from './evaluate.ts';
import { questionMs } from './limits.ts';
import { temperror } from './unknown.ts';
import { Questions } from './questions.ts';
import type { FromChild, Piece, Start, ToChild } from './protocol.ts';

/** `open`: the DNS, which tests replace. `keptMs`: how long its answers are kept. */
export function runJudge(open: (start: Start) => Records = openRecords, keptMs?: number): Promise<never> {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => {});
  process.on('disconnect', () => process.exit(0));
  /** The messages whose next piece has been asked for. */
  const waiting = new Map<number, (piece: Piece) => void>();
  let hostname = '';
  let questions: Questions;
  const say = (message: FromChild): void => void process.send?.(message, () => {});

  async function* rest(first: Piece, from: number): AsyncGenerator<Buffer> {
    yield Buffer.from(first.octets.subarray(from));
    for (let piece = first; !piece.isLast;) {
      const { promise, resolve } = Promise.withResolvers<Piece>();
      waiting.set(first.id, resolve);
      say({ kind: 'more', id: first.id });
      piece = await promise;
      yield Buffer.from(piece.octets);
      await turn(); // other messages go on while a large one is hashed
    }
  }

  async function judge(first: Piece): Promise<Judgement> {
    const { facts, octets, isCut = false } = first;
    if (facts === undefined) throw new Error('a message begins without facts');
    const end = octets[0] === 10 ? 0 : Buffer.from(octets).indexOf('\n\n'); // an empty line first: no header
    const length = end < 0 ? octets.length : end;
    const header = Buffer.from(octets.subarray(0, length)).toString('latin1');
    return evaluate({ facts, hostname, header, isCut }, rest(first, length), questions);
  }

  process.on('message', (message: ToChild) => {
    if (message.kind === 'start') {
      hostname = message.hostname;
      questions = new Questions(open(message), systemClock, keptMs);
    } else if (waiting.has(message.id)) {
      const resolve = waiting.get(message.id);
      waiting.delete(message.id);
      resolve?.(message);
    } else
      judge(message).then(
        judgement => say({ kind: 'judged', id: message.id, judgement }),
        // A surprise in the library: nothing is known of this message.
        (error: unknown) => say({ kind: 'judged', id: message.id, judgement: temperror(String(error)) }),
      );
  });
  return new Promise(() => {});
}

/** A question that nobody waits for any more is not asked again: a forger's silent domains cost that much less. */
const openRecords = ({ servers }: Start): Records => openDns({ servers, deadlineMs: questionMs });
