// The null store: a QueueStore that keeps everything in a map. It shows that the verbs suffice for a queue that keeps
// every promise of its contract but one, that what it holds outlives the process; and it is what to read first when
// writing a store.
import type { Message } from '../../src/mail/message.ts';
import type { Prepared } from '../../src/mail/ports.ts';
import type { QueueStore, StoredEntry } from '../../src/mail/queue-store.ts';
import { memory, octetsOf } from './storage.ts';

type Row = { json: string; readonly content: Message };

export class NullStore implements QueueStore {
  readonly rows: Map<string, Row>;

  constructor(rows: Iterable<readonly [string, Row]> = []) {
    this.rows = new Map([...rows].map(([id, row]) => [id, { ...row }]));
  }

  async prepare(record: StoredEntry, message: Message): Promise<Prepared> {
    if (this.rows.has(record.id)) throw new Error(`the queue has a message ${record.id} already`);
    // A copy: a file belongs to the caller, who removes it.
    const row = { json: JSON.stringify(record), content: memory(octetsOf(message).toString('latin1')) };
    return { commit: async () => void this.rows.set(record.id, row), abort: async () => undefined };
  }

  async *claim(): AsyncGenerator<StoredEntry> {
    for (const id of this.rows.keys()) yield await this.read(id);
  }

  async read(id: string): Promise<StoredEntry> {
    return JSON.parse(this.#row(id).json) as StoredEntry;
  }

  async message({ id }: StoredEntry): Promise<Message> {
    return this.#row(id).content;
  }

  async update(record: StoredEntry): Promise<void> {
    this.#row(record.id).json = JSON.stringify(record);
  }

  async remove(id: string): Promise<void> {
    this.rows.delete(id);
  }

  async settle(): Promise<void> {}

  #row(id: string) {
    const row = this.rows.get(id);
    if (row === undefined) throw new Error(`there is no message ${id}`);
    return row;
  }
}
