// Our own stub resolver: asks recursive DNS servers, and keeps what they say for as long as they allow.
// Promises: however many ask, and however silent the DNS is, descriptors, memory and waits are bounded; a changed
// /etc/resolv.conf counts from the next question on; one question for the same name and type is under way at a time;
// DNSSEC is believed only of servers whose word counts (servers.ts). Each question ends 30 s after it was asked,
// whether it is waiting for its turn or for its answer. Why not Node's resolver: it shows neither the AD bit nor TLSA's
// owner nor a TTL.
//
// A question looks into the cache first. Then it waits for its turn, so that names whose name servers are silent do not
// hold up the others: a turn lasts until the answer comes, or for a quarter of a second, because a question that takes
// longer most likely concerns such a name. So at most 800 of these begin in a second. In its turn it goes to the
// servers one after the other, beginning with the one that answered last. A server that says nothing gives way to the
// next one; when all have been silent, the next round waits longer. What a server says for certain (there is such a
// name, or there is none) ends the question. When every server has failed otherwise (SERVFAIL, REFUSED, garbage), the
// question fails with the last code. Where an answer is an alias whose target it does not tell, the target is asked
// for; eight aliases at most.
import { lookup } from 'node:dns/promises';
import { within } from '../system/deadline.ts';
import type { Answer, Dns, MxRecord, RecordType, Records, TlsaRecord } from '../system/dns.ts';
import { failure, isNo } from '../system/dns.ts';
import { Turns } from '../system/turns.ts';
import { type Clock, type Random, systemClock, systemRandom } from '../system/world.ts';
import { Cache } from './cache.ts';
import { Exchange } from './exchange.ts';
import { type QuestionType, type Response, isName, loadCodec } from './message.ts';
import { type FindServers, type NameServer, type NamedServer, namedServers, systemServers } from './servers.ts';
import { reverseName } from './reverse-name.ts';

const maxAliases = 8;
const maxTurns = 200;
const turnMs = 250;
const usualDeadlineMs = 30_000;
const usualPatience = { timeoutMs: 1000, maxTimeoutMs: 8000, rounds: 6 };

type StubOptions = {
  /** SLIM_RESOLVER; else the servers of the configuration. */
  readonly servers?: readonly NamedServer[] | undefined;
  readonly configuration?: string;
  readonly patience?: typeof usualPatience;
  readonly deadlineMs?: number;
  readonly clock?: Clock;
  readonly random?: Random;
};

/** What is kept: records, or which kind of no. */
type Outcome = Answer<unknown> | 'ENOTFOUND' | 'ENODATA';
type Found = { readonly outcome: Outcome; readonly ttlSeconds: number; readonly sizeBytes: number };

export function openDns(options: StubOptions = {}): Dns & Records {
  const { servers, configuration = '/etc/resolv.conf', deadlineMs = usualDeadlineMs } = options;
  const { clock = systemClock } = options;
  const systemAddresses = once((host: string) =>
    inTime(deadlineMs, async () => (await lookup(host, { all: true })).map(({ address }) => address)),
  );
  const find = servers ? namedServers(servers, systemAddresses, clock) : systemServers(configuration);
  const stub = new Stub(find, options);
  const look = once((key: string) => stub.look(key));
  const ask = async (name: string, type: QuestionType): Promise<Answer<unknown>> => {
    const plain = name.replace(/\.$/, '').toLowerCase();
    if (!isName(plain)) throw failure('EBADNAME');
    const outcome = await look(`${type} ${plain}`);
    if (typeof outcome === 'string') throw failure(outcome);
    return outcome;
  };
  const as = <T>(answer: Answer<unknown>, read: (data: never) => T): Answer<T> => {
    return { ...answer, records: (answer.records as never[]).map(read) };
  };
  const addresses = (host: string, family: 4 | 6) => ask(host, family === 4 ? 'A' : 'AAAA') as Promise<Answer<string>>;
  return {
    mx: async domain => as(await ask(domain, 'MX'), readMx),
    addresses: async (host, family) => (family ? addresses(host, family) : bothFamilies(host, addresses)),
    txt: async name => as(await ask(name, 'TXT'), (strings: readonly Buffer[]) => Buffer.concat(strings).toString()),
    tlsa: async name => as(await ask(name, 'TLSA'), readTlsa),
    ptr: async address => (await ask(reverseName(address), 'PTR')) as Answer<string>,
    records: async (name, type) => as(await ask(name, type), asNodeHasIt(type)).records,
    // A thread of the pool waits for the answer, and the same pool writes our files: so one question for a host at a
    // time.
    systemAddresses,
  };
}

/** The result of a task, or ETIMEOUT at the deadline; the task can ask whether that has passed. */
function inTime<T>(deadlineMs: number, task: (isLate: () => boolean) => Promise<T>): Promise<T> {
  let isLate = false;
  const work = task(() => isLate);
  return within(deadlineMs, work, () => {
    isLate = true;
    return failure('ETIMEOUT');
  });
}

class Stub {
  readonly #find: FindServers;
  readonly #deadlineMs: number;
  readonly #patience: typeof usualPatience;
  readonly #turns = new Turns(maxTurns, turnMs);
  readonly #cache: Cache<Outcome>;
  readonly #exchange: () => Promise<Exchange>;
  /** Those that were asked last: what they have said is forgotten when others take their place. */
  #servers: readonly NameServer[] = [];
  /** Which of them answered last. */
  #first = 0;

  constructor(find: FindServers, options: StubOptions) {
    const { patience = usualPatience, deadlineMs = usualDeadlineMs } = options;
    const { clock = systemClock, random = systemRandom } = options;
    let exchange: Promise<Exchange> | undefined;
    this.#exchange = () => (exchange ??= loadCodec().then(codec => new Exchange(codec, random)));
    this.#find = find;
    this.#patience = patience;
    this.#deadlineMs = deadlineMs;
    this.#cache = new Cache(clock);
  }

  /** What DNS has for a key, which is a type and a name. */
  look(key: string): Promise<Outcome> {
    return inTime(this.#deadlineMs, async isLate => {
      await this.#renewServers();
      const kept = this.#cache.get(key);
      if (kept !== undefined) return kept;
      const [type = '', name = ''] = key.split(' ');
      const { outcome, ttlSeconds, sizeBytes } = await this.#resolve(name, type as QuestionType, isLate);
      this.#cache.put(key, outcome, ttlSeconds, sizeBytes);
      return outcome;
    });
  }

  async #renewServers(): Promise<void> {
    const servers = await this.#find();
    if (servers === this.#servers) return;
    this.#servers = servers;
    this.#first = 0;
    this.#cache.clear();
  }

  async #resolve(asked: string, type: QuestionType, isLate: () => boolean): Promise<Found> {
    let name = asked;
    let isAuthentic = true;
    let ttlSeconds = Infinity;
    let sizeBytes = 0;
    const met = new Set<string>();
    for (;;) {
      const response = await this.#turns.take(() => this.#query(name, type, isLate));
      isAuthentic &&= response.isAuthentic;
      ttlSeconds = Math.min(ttlSeconds, response.ttlSeconds);
      sizeBytes += response.sizeBytes;
      const aliases = new Map(
        response.records.flatMap(each => (each.type === 'CNAME' ? [[each.name, String(each.data).toLowerCase()]] : [])),
      );
      for (let next = aliases.get(name); next !== undefined; next = aliases.get(name)) {
        if (met.has(next) || next === asked || met.size >= maxAliases) throw failure('ELOOP');
        met.add(next);
        name = next;
      }
      const records = response.records.filter(each => each.type === type && each.name === name).map(({ data }) => data);
      const found = (outcome: Outcome): Found => ({ outcome, ttlSeconds, sizeBytes });
      if (records.length > 0) return found({ records, name, isAuthentic });
      // The code is about the last name of the aliases (RFC 6604).
      if (response.code === 'NXDOMAIN')
        return { ...found('ENOTFOUND'), ttlSeconds: response.hasAuthority ? ttlSeconds : 0 };
      if (response.hasAuthority) return found('ENODATA');
      if (aliases.size === 0) return { ...found('ENODATA'), ttlSeconds: 0 };
    }
  }

  /** What the first server says that knows for certain. */
  async #query(name: string, type: QuestionType, isLate: () => boolean): Promise<Response> {
    const exchange = await this.#exchange();
    const { timeoutMs, maxTimeoutMs, rounds } = this.#patience;
    const servers = this.#servers;
    const first = this.#first;
    const failed = new Set<NameServer>();
    let code = 'ETIMEOUT';
    for (let at = 0; at < rounds * servers.length && failed.size < servers.length && !isLate(); at += 1) {
      const index = (first + at) % servers.length;
      const server = servers[index];
      if (server === undefined || failed.has(server)) continue;
      const wait = Math.min(timeoutMs * 2 ** Math.floor(at / servers.length), maxTimeoutMs);
      try {
        const response = await exchange.ask({ name, type }, server, wait);
        if (response.code === 'NOERROR' || response.code === 'NXDOMAIN') {
          if (servers === this.#servers) this.#first = index;
          return { ...response, isAuthentic: response.isAuthentic && server.isTrusted };
        }
        code = `E${response.code}`;
      } catch (error) {
        code = (error as NodeJS.ErrnoException).code ?? String(error);
      }
      if (code !== 'ETIMEOUT') failed.add(server);
    }
    throw failure(code);
  }
}

/** While a task for a key runs, all who want that one share it. */
function once<T>(task: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const running = new Map<string, Promise<T>>();
  return key => {
    const shared = running.get(key);
    if (shared) return shared;
    const started = task(key).finally(() => running.delete(key));
    running.set(key, started);
    return started;
  };
}

/** IPv6 first. Authentic only when all of them are. */
async function bothFamilies(
  host: string,
  addresses: (host: string, family: 4 | 6) => Promise<Answer<string>>,
): Promise<Answer<string>> {
  const [v6, v4] = await Promise.allSettled([addresses(host, 6), addresses(host, 4)]);
  const answers = [v6, v4].flatMap(each => (each.status === 'fulfilled' ? each.value : []));
  const [answer] = answers;
  if (answer === undefined) {
    const errors = [v6, v4].flatMap(each => (each.status === 'rejected' ? each.reason : []));
    throw errors.find(error => !isNo(error)) ?? errors[0];
  }
  const isAuthentic = answers.every(each => each.isAuthentic);
  return { ...answer, records: answers.flatMap(({ records }) => records), isAuthentic };
}

type MxData = { readonly exchange: string; readonly preference?: number };
/** The null MX, a single dot, is '' (RFC 7505), as Node has it. */
const readMx = ({ exchange, preference = 0 }: MxData): MxRecord => {
  return { exchange: exchange === '.' ? '' : exchange.toLowerCase(), priority: preference };
};

type TlsaData = Readonly<Record<'usage' | 'selector' | 'matchingType', number>> & { readonly certificate: Buffer };
const readTlsa = ({ usage, selector, matchingType: matching, certificate: data }: TlsaData): TlsaRecord => {
  return { usage, selector, matching, data };
};

/** Data as `resolve` of node:dns/promises has them. */
const asNodeHasIt = (type: RecordType): ((data: never) => unknown) => {
  if (type === 'MX') return readMx;
  if (type === 'TXT') return (strings: readonly Buffer[]) => strings.map(String);
  return (data: unknown) => data;
};
