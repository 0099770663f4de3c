// The seam to the DNS, which tests replace: where mail for a domain goes, and which addresses a host has.
// Promises: however many ask, and however silent the DNS is, descriptors, memory and waits are bounded; a changed /etc/resolv.conf
// counts from the next question on; no answer is kept.
//
// The questions share a Resolver, and so a socket for each name server. It is replaced after a number of questions, because a socket
// keeps its port, and someone who forges answers has to guess that port; the old one closes its sockets with its last answer. A
// question first waits for its turn. Its turn lasts until the answer comes, or for a quarter of a second: a question that takes longer
// most likely concerns a domain whose name servers are silent, and those must not hold up the others. So at most 800 such questions
// begin in a second. Each question ends 30 s after it was asked, whether it is waiting for its turn or for its answer.
import { Resolver, lookup } from 'node:dns/promises';
import { statSync } from 'node:fs';

export type MxRecord = { readonly exchange: string; readonly priority: number };

/** What DNS has said to one question; at least one record. */
export type Answer<T> = {
  readonly records: readonly T[];
  /** The owner of the records, in lower case: the name that was asked for, or the one that its aliases lead to. */
  readonly name: string;
  /** The resolver has verified all of it with DNSSEC, aliases included, and it is one whose word counts (the AD bit, RFC 6840 §5.8). */
  readonly isAuthentic: boolean;
};

/**
 * Names come from mail, but for `systemAddresses`. All reject with Node's error codes: ENOTFOUND (no such name), ENODATA (no such
 * record), ESERVFAIL, ETIMEOUT … The first two are answers; all others mean that DNS cannot tell.
 */
export interface Dns {
  mx(domain: string): Promise<Answer<MxRecord>>;
  /** IPv6 and IPv4 addresses; with a family, those alone. Rejects with 'no' only when each question was answered so. */
  addresses(host: string, family?: 4 | 6): Promise<Answer<string>>;
  /** Each record as one text: its strings are joined. */
  txt(name: string): Promise<Answer<string>>;
  /** The names of an address. */
  ptr(address: string): Promise<Answer<string>>;
  /** The addresses, at least one, of a host that our operator named: as the operating system finds them, also in its hosts file. */
  systemAddresses(host: string): Promise<readonly string[]>;
}

export type RecordType = 'A' | 'AAAA' | 'MX' | 'NS' | 'PTR' | 'TXT';

/** Any records, for what judges mail. */
export interface Records {
  /** As `resolve` of node:dns/promises has them, also its errors: a TXT record is a list of strings, an MX record an `MxRecord`. */
  records(name: string, type: RecordType): Promise<readonly unknown[]>;
}

const maxAliases = 8;
const maxTurns = 200;
const turnMs = 250;
const usualDeadlineMs = 30_000;
/** So often is the socket, and with it the port, another one. */
const questionsOfResolver = 50;
/** It begins with 250 ms where the name server answers quickly, and doubles: the last try of a question comes after about 15 s. */
const usualPatience = { timeout: 2000, tries: 6, maxTimeout: 8000 };

export type DnsOptions = {
  /** The file that names the name servers. */
  readonly configuration?: string;
  /** In place of those of the file, for tests: `address:port`. */
  readonly servers?: readonly string[];
  readonly patience?: typeof usualPatience;
  readonly deadlineMs?: number;
};

export function openDns(options: DnsOptions = {}): Dns & Records {
  const {
    configuration = '/etc/resolv.conf',
    servers,
    patience = usualPatience,
    deadlineMs = usualDeadlineMs,
  } = options;
  const turns = new Turns();
  const lookups = new Map<string, Promise<readonly string[]>>();
  let resolver: Resolver | undefined;
  let questions = 0;
  let version = '';

  function currentResolver(): Resolver {
    const found = statSync(configuration, { throwIfNoEntry: false });
    const newVersion = `${found?.ino} ${found?.mtimeMs} ${found?.size}`;
    if (resolver === undefined || questions >= questionsOfResolver || newVersion !== version) {
      resolver = new Resolver(patience); // it reads the file
      if (servers) resolver.setServers(servers);
      version = newVersion;
      questions = 0;
    }
    questions += 1;
    return resolver;
  }

  const ask = <T>(question: (resolver: Resolver) => Promise<T>): Promise<T> =>
    inTime(deadlineMs, isLate =>
      turns.take(() => (isLate() ? Promise.reject(timedOut()) : question(currentResolver()))),
    );

  async function addresses(host: string, family?: 4 | 6, aliases = 0): Promise<Answer<string>> {
    const errors: unknown[] = [];
    const note = (error: unknown): string[] => {
      errors.push(error);
      return [];
    };
    const answers = [
      family === 4 ? [] : ask(each => each.resolve6(host)).catch(note),
      family === 6 ? [] : ask(each => each.resolve4(host)).catch(note),
    ];
    const records = (await Promise.all(answers)).flat();
    if (records.length > 0) return answer(host, records);
    if (errors.length > 0) throw errors.find(error => !isNo(error)) ?? errors[0];
    // Neither an address nor an error: the host is an alias of a name without addresses, or the aliases go round in a circle.
    const [target] = aliases < maxAliases ? await ask(each => each.resolveCname(host)) : [];
    if (target === undefined) throw failure('ELOOP');
    return addresses(target, family, aliases + 1);
  }

  /** No records and no error: the name is an alias of one that has no such record. */
  function answer<T>(name: string, records: readonly T[]): Answer<T> {
    if (records.length === 0) throw failure('ENODATA');
    return { records, name: name.toLowerCase(), isAuthentic: false };
  }

  return {
    mx: async domain => answer(domain, await ask(each => each.resolveMx(domain))),
    addresses: (host, family) => addresses(host, family),
    txt: async name =>
      answer(
        name,
        (await ask(each => each.resolveTxt(name))).map(strings => strings.join('')),
      ),
    records: (name, type) => ask(each => each.resolve(name, type) as Promise<unknown[]>),
    ptr: async address => answer(address, await ask(each => each.reverse(address))),
    // A thread of the pool waits for the answer, and the same pool writes our files: so one question for a host at a time.
    systemAddresses(host) {
      const found = lookups.get(host);
      if (found) return found;
      const asked = inTime(deadlineMs, async () =>
        (await lookup(host, { all: true })).map(({ address }) => address),
      ).finally(() => lookups.delete(host));
      lookups.set(host, asked);
      return asked;
    },
  };
}

/** Lets a number of tasks run. A task that is still running after `turnMs` goes on, and gives its turn to the next one. */
class Turns {
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  async take<T>(task: () => Promise<T>): Promise<T> {
    if (this.#taken < maxTurns) this.#taken += 1;
    else await new Promise<void>(resolve => this.#waiting.push(resolve));
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      const next = this.#waiting.shift();
      if (next) next();
      else this.#taken -= 1;
    };
    const timer = setTimeout(end, turnMs).unref();
    try {
      return await task();
    } finally {
      clearTimeout(timer);
      end();
    }
  }
}

/** The result of a task, or ETIMEOUT at the deadline; the task can ask whether that has passed. */
async function inTime<T>(deadlineMs: number, task: (isLate: () => boolean) => Promise<T>): Promise<T> {
  let isLate = false;
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    isLate = true;
    deadline.reject(timedOut());
  }, deadlineMs).unref();
  try {
    return await Promise.race([task(() => isLate), deadline.promise]);
  } finally {
    clearTimeout(timer);
  }
}

const failure = (code: string): Error => Object.assign(new Error(code), { code });
const timedOut = (): Error => failure('ETIMEOUT');
const isNo = (error: unknown): boolean =>
  ['ENOTFOUND', 'ENODATA'].includes((error as NodeJS.ErrnoException).code ?? '');
