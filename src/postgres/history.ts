// The history of replicas that share a queue: the table slimsmtp_event, which schema.ts makes. Each replica adds what
// happens there, so that one command tells the whole life of a message, wherever it has been.
// Promises: no text reaches SQL but as a parameter; a look-up uses an index, and gives 10,000 events at most.
import type { Query, Statement } from './pool.ts';

/** An event in the table. `names` are all by which it can be found; `line` is the event in JSON, with its time. */
type KeptEvent = Readonly<{ at: number; message: string; names: readonly string[]; line: string }>;

const maxRows = 500_000; // about 256 MB
const statement = (name: string, text: string): Statement => ({ name: `slimsmtp_history_${name}`, text });

const insert = statement(
  'insert',
  `INSERT INTO slimsmtp_event (at, message, names, event)
    SELECT to_timestamp(at / 1000), message, string_to_array(names, E'\\n'), event::json
      FROM unnest($1::float8[], $2::text[], $3::text[], $4::text[]) AS e(at, message, names, event)`,
);
const remove = statement(
  'remove',
  `DELETE FROM slimsmtp_event WHERE at < greatest(to_timestamp($1::float8 / 1000),
    (SELECT at FROM slimsmtp_event ORDER BY at DESC OFFSET ${maxRows} LIMIT 1))`,
);
const named = statement(
  'named',
  'SELECT event::text AS line FROM slimsmtp_event WHERE names @> ARRAY[$1] ORDER BY at DESC LIMIT 10000',
);
const lives = statement(
  'lives',
  'SELECT event::text AS line FROM slimsmtp_event WHERE message = ANY($1) ORDER BY at LIMIT 10000',
);

export const historyTable = (query: Query) => ({
  /** Rejects with CannotTell. */
  async append(events: readonly KeptEvent[]): Promise<void> {
    const texts = events.map(({ names }) => names.join('\n').replaceAll('\0', ''));
    const columns = [events.map(({ at }) => at), events.map(({ message }) => message), texts];
    await query(insert, [...columns, events.map(({ line }) => line)]);
  },
  /** Removes the events from before that time (in ms since 1970), and the oldest beyond `maxRows`. */
  async prune(before: number): Promise<void> {
    await query(remove, [before]);
  },
  /** The lines of events that have this name, the oldest first. */
  async named(name: string): Promise<readonly string[]> {
    return (await query(named, [name])).map(({ line }) => line ?? '').toReversed();
  },
  /** The lines of these messages, the oldest first. */
  async lives(messages: readonly string[]): Promise<readonly string[]> {
    return (await query(lives, [messages])).map(({ line }) => line ?? '');
  },
});
