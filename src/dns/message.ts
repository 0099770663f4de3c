// One question as DNS writes it, and what an answer to it says: pure, but for `dns-packet`, which is loaded with the
// first question.
// Promise: a message that does not answer this very question (its id, its name, its type) is no answer.
// RFC 1035 §4, RFC 6891 (EDNS0), RFC 6840 §5.7 (AD in a question: we understand it in the answer), RFC 2308 §5 (how
// long a 'no' counts).
import type { Answer as Entry } from 'dns-packet';

export type QuestionType = 'A' | 'AAAA' | 'MX' | 'NS' | 'PTR' | 'TLSA' | 'TXT';
export type Question = { readonly name: string; readonly type: QuestionType };

/** A record, with an alias among the types. `data` is as dns-packet has it for the type. */
type ResourceRecord = { readonly name: string; readonly type: string; readonly data: unknown };
export type Response = {
  /** NOERROR, NXDOMAIN, SERVFAIL, REFUSED … */
  readonly code: string;
  readonly isTruncated: boolean;
  /** The AD bit as it came: nobody has asked yet whether this server may be believed. */
  readonly isAuthentic: boolean;
  /** Names in lower case. */
  readonly records: readonly ResourceRecord[];
  /** How long it may be kept, in seconds; 0 where it does not say so. */
  readonly ttlSeconds: number;
  /** Whether it names the zone that has no such record: then the 'no' is a whole answer. */
  readonly hasAuthority: boolean;
  readonly sizeBytes: number;
};

export type Codec = {
  encode(question: Question, id: number): Buffer;
  /** Undefined: it answers something else. Throws where it cannot be read. */
  decode(octets: Buffer, question: Question, id: number): Response | undefined;
};

/** What fits into a datagram on every path (DNS flag day 2020). */
const udpPayloadSize = 1232;
const maxNameOctets = 253;
const maxLabelOctets = 63;

/** Whether a name can be asked for at all. */
export const isName = (name: string): boolean =>
  name.length <= maxNameOctets &&
  name.split('.').every(label => label.length > 0 && label.length <= maxLabelOctets) &&
  /^[\x21-\x7e]+$/.test(name);

export async function loadCodec(): Promise<Codec> {
  const { default: packet } = await import('dns-packet');
  return {
    encode: (question, id) =>
      packet.encode({
        type: 'query',
        id,
        flags: packet.RECURSION_DESIRED | packet.AUTHENTIC_DATA,
        questions: [question],
        additionals: [
          {
            type: 'OPT',
            name: '.',
            udpPayloadSize,
            extendedRcode: 0,
            ednsVersion: 0,
            flags: 0,
            flag_do: false,
            options: [],
          },
        ],
      }),
    decode(octets, { name, type }, id) {
      if (octets.length < 12 || octets.readUInt16BE(0) !== id) return undefined;
      const message = packet.decode(octets) as ReturnType<typeof packet.decode> & { readonly rcode: string };
      const [asked, ...others] = message.questions ?? [];
      const isOurs = asked?.name.toLowerCase() === name.toLowerCase() && asked.type === type;
      if (message.type !== 'response' || !isOurs || others.length > 0) return undefined;
      const answers = message.answers ?? [];
      const zone = message.authorities?.find(each => each.type === 'SOA');
      return {
        code: message.rcode,
        isTruncated: message.flag_tc,
        isAuthentic: message.flag_ad,
        records: answers.flatMap(each =>
          'data' in each ? { name: each.name.toLowerCase(), type: each.type, data: each.data } : [],
        ),
        ttlSeconds: Math.min(...answers.map(ttl), zone ? Math.min(ttl(zone), zone.data.minimum ?? 0) : Infinity),
        hasAuthority: zone !== undefined,
        sizeBytes: octets.length,
      };
    },
  };
}

const ttl = (entry: Entry): number => ('ttl' in entry ? (entry.ttl ?? 0) : 0);
