// The captured mail as this process knows it: an index in memory, filled from what the network process tells, in its
// order.
//
// How it goes: each message that has arrived is read and parsed once, one after the other, and then it is in the index,
// and whoever waits for it hears of it. While one is parsed, the network process knows which, and kills this process
// where that takes too long. Removals and marks take effect at once, also for a message that is still to be parsed.
//
// Promises: memory is bounded by the number of messages that are kept, and by the text of theirs that is searched.
// After `settled()` the index has all that got its 250 before.
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { Captured, Change, Kept } from '../../mail/captured.ts';
import * as limits from '../limits.ts';
import { type Parsed, type Person, parseMail, readable } from './parse.ts';

/** A message in the index. */
export type Item = {
  readonly mail: Captured;
  isRead: boolean;
  tags: readonly string[];
  readonly summary: Summary;
  /** What is searched, in lower case; '' where there was no room for it. */
  searched: string;
};
type Summary = Readonly<
  Pick<Parsed, 'to' | 'cc' | 'bcc' | 'replyTo' | 'subject' | 'messageId'> & {
    from: Person;
    snippet: string;
    attachments: number;
    inline: number;
  }
>;
export type Opened = { readonly octets: Buffer; readonly parsed: Parsed };
/** What listeners hear: messages that are in the index now, and what became of others. */
export type Told = { readonly kind: 'arrived'; readonly item: Item } | Exclude<Change, { kind: 'arrived' }>;

type Options = Readonly<{
  folder: string;
  unreadable: readonly string[];
  /** Tells which message is being parsed; undefined where none is any more. */
  onReading: (id: string | undefined) => void;
}>;

const smallBytes = 256 * 1024;
const smallOnesAtOnce = 16;

export class Mailbox {
  readonly #options: Options;
  readonly #items = new Map<string, Item>();
  /** Messages that are still to be parsed. */
  readonly #coming = new Map<string, { isRead: boolean; tags: readonly string[] }>();
  readonly #listeners = new Set<(told: Told) => void>();
  #read: Promise<void> = Promise.resolve();
  /** The parsing that is under way, and how many wait for it. */
  #parsed: Promise<unknown> = Promise.resolve();
  #parses = 0;
  #smallOnes = 0;
  /** Items that have text which is searched, the oldest first, and how much that is. */
  readonly #searched = new Set<Item>();
  #searchedLength = 0;
  #opened: { readonly id: string; readonly what: Promise<Opened> } | undefined;
  readonly counts = { accepted: 0, acceptedBytes: 0, deleted: 0 };

  constructor(options: Options) {
    this.#options = options;
  }

  /** Resolves when all messages of which it has heard so far are parsed, or after half a minute. */
  async settled(): Promise<void> {
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, limits.maxSettleMs);
    await Promise.race([this.#read, late.promise]);
    clearTimeout(timer);
  }

  /** All messages, the newest first. */
  items(): readonly Item[] {
    return [...this.#items.values()].toReversed();
  }

  /** The message with that id; `latest` is the newest one. */
  find(id: string): Item | undefined {
    return id === 'latest' ? this.items()[0] : this.#items.get(id);
  }

  path({ mail }: Item): string {
    return join(this.#options.folder, 'new', mail.id);
  }

  /** `listener` hears everything from now on, until the function that it gives is called. */
  listen(listener: (told: Told) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Reads and parses a message whole. The last one is kept for a while: a page asks for its parts one by one. */
  open({ mail }: Item): Promise<Opened> {
    const { id } = mail;
    if (this.#opened?.id === id) return this.#opened.what;
    const what = this.#parse(mail);
    const opened = { id, what };
    this.#opened = opened;
    const forget = (): void => void (this.#opened === opened && (this.#opened = undefined));
    what.then(() => setTimeout(forget, limits.openedMs).unref(), forget);
    return what;
  }

  hear(change: Change): void {
    switch (change.kind) {
      case 'arrived':
        this.counts.accepted += 1;
        this.counts.acceptedBytes += change.kept.mail.sizeBytes;
        return this.add(change.kept);
      case 'removed':
        this.counts.deleted += change.ids.length;
        for (const id of change.ids) this.#forget(id);
        return this.#tell(change);
      case 'marked':
        for (const id of change.ids) {
          const { isRead, tags } = change;
          const known = this.#items.get(id) ?? this.#coming.get(id);
          if (known && isRead !== undefined) known.isRead = isRead;
          if (known && tags !== undefined) known.tags = tags;
        }
        return this.#tell(change);
      default:
        return change satisfies never;
    }
  }

  /** Adds a message, which is parsed behind all that were added before. */
  add({ mail, isRead, tags }: Kept): void {
    this.#coming.set(mail.id, { isRead, tags });
    this.#read = this.#read.then(() => this.#index(mail));
  }

  async #index(mail: Captured): Promise<void> {
    if (!this.#coming.has(mail.id)) return; // it has been removed since
    const parsed = await this.#parse(mail).then(
      opened => opened.parsed,
      () => undefined, // its file has gone, or it must not be parsed
    );
    const marks = this.#coming.get(mail.id);
    this.#coming.delete(mail.id);
    if (marks === undefined) return;
    const summary = parsed ? summarize(parsed, mail) : unparsed(mail);
    const searched = parsed ? searchedText(parsed) : '';
    const item: Item = { mail, ...marks, summary, searched };
    this.#items.set(mail.id, item);
    this.#searched.add(item);
    this.#searchedLength += searched.length;
    for (const oldest of this.#searched) {
      if (this.#searchedLength <= limits.maxSearchedLengthInAll) break;
      this.#stopSearching(oldest);
    }
    this.#tell({ kind: 'arrived', item });
  }

  /** One message at a time, so that the network process knows which one it is. */
  #parse(mail: Captured): Promise<Opened> {
    const { onReading } = this.#options;
    this.#parses += 1;
    const opened = this.#parsed.then(async () => {
      const octets = await this.#readFile(mail);
      onReading(mail.id);
      return { octets, parsed: await parseMail(octets) };
    });
    const end = (): void => {
      this.#parses -= 1;
      if (this.#parses === 0) onReading(undefined);
    };
    this.#parsed = opened.then(end, end);
    return opened;
  }

  async #readFile({ id, sizeBytes }: Captured): Promise<Buffer> {
    if (this.#options.unreadable.includes(id)) throw new Error(`${id} cannot be parsed`);
    const path = join(this.#options.folder, 'new', id);
    if (sizeBytes > smallBytes) return readFile(path);
    // Three turns through the thread pool cost more than a small message; but others must have their turn.
    this.#smallOnes += 1;
    if (this.#smallOnes % smallOnesAtOnce === 0) await turn();
    return readFileSync(path);
  }

  #forget(id: string): void {
    const item = this.#items.get(id);
    if (item) this.#stopSearching(item);
    this.#items.delete(id);
    this.#coming.delete(id);
    if (this.#opened?.id === id) this.#opened = undefined;
  }

  #stopSearching(item: Item): void {
    if (this.#searched.delete(item)) this.#searchedLength -= item.searched.length;
    item.searched = '';
  }

  #tell(told: Told): void {
    for (const listener of this.#listeners) listener(told);
  }
}

/** Recipients of the envelope that no field names are those of a Bcc. */
function summarize(parsed: Parsed, { recipients }: Captured): Summary {
  const { to, cc, bcc, replyTo, subject, messageId, parts } = parsed;
  const named = new Set([...to, ...cc, ...bcc].map(({ Address }) => Address.toLowerCase()));
  const unnamed = recipients.filter(each => !named.has(each.toLowerCase()));
  return {
    from: cut(parsed.from)[0] ?? nobody,
    to: cut(to),
    cc: cut(cc),
    bcc: cut([...bcc, ...unnamed.map(Address => ({ Name: '', Address }))]),
    replyTo: cut(replyTo),
    subject: subject.slice(0, limits.maxShownLength),
    messageId: messageId.slice(0, limits.maxShownLength),
    snippet: readable(parsed).slice(0, 5000).replaceAll(/\s+/g, ' ').trim().slice(0, 250),
    attachments: parts.filter(({ isInline }) => !isInline).length,
    inline: parts.filter(({ isInline }) => isInline).length,
  };
}

/** A header may have megabytes; the index must not. */
const cut = (people: readonly Person[]): readonly Person[] =>
  people.slice(0, limits.maxPeople).map(({ Name, Address }) => ({
    Name: Name.slice(0, limits.maxShownLength),
    Address: Address.slice(0, limits.maxShownLength),
  }));

const nobody: Person = { Name: '', Address: '' };

/** What is shown of a message that could not be parsed: its envelope. */
const unparsed = ({ from, recipients }: Captured): Summary => ({
  from: { Name: '', Address: from },
  to: recipients.map(Address => ({ Name: '', Address })),
  cc: [],
  bcc: [],
  replyTo: [],
  subject: '(this message cannot be parsed)',
  messageId: '',
  snippet: '',
  attachments: 0,
  inline: 0,
});

const searchedText = (parsed: Parsed): string =>
  readable(parsed).slice(0, limits.maxSearchedLength).replaceAll(/\s+/g, ' ').toLowerCase();
