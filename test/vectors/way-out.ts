// Runners for what is decided on the way out: MTA-STS records, policies and host names; TLSA records against chains.
// Of MTA-STS the set is strict about extensions in a policy, which RFC 8461 §3.2 wants passed over: disputed there.
import { X509Certificate } from 'node:crypto';
import { isUsable, verifyChain } from '../../src/outbound/dane.ts';
import { isNamed, parsePolicy, parseRecord } from '../../src/outbound/mta-sts.ts';
import { systemClock } from '../../src/system/world.ts';
import type { Runner } from './run.ts';

type StsCase = { id: string; kind: 'record' | 'policy' | 'match' } & Partial<
  Record<'text' | 'mx' | 'host', string> & Record<'isValid' | 'isMatch', boolean>
>;
type DaneCase = { id: string; isVerified: boolean; matchDepth: number; verifyResult: number; chain: string[] } & {
  tlsa: { usage: number; selector: number; matching: number; data: string }[];
};

const sts: Runner = async function* (_folder, cases) {
  for (const each of cases as readonly unknown[] as readonly StsCase[]) {
    const { id, kind, text = '', mx = '', host = '', isValid, isMatch } = each;
    const parse = kind === 'record' ? parseRecord : parsePolicy;
    const found = kind === 'match' ? isNamed(host, { mx: [mx] }) : parse(text) !== undefined;
    yield { id, isRight: found === (kind === 'match' ? isMatch : isValid), found: String(found) };
  }
};

/**
 * Where all records are of usage 0 or 1, mail has none that it can use (RFC 7672 §3.1.3): that is what must come out
 * then.
 */
const dane: Runner = async function* (_folder, cases) {
  for (const each of cases as readonly unknown[] as readonly DaneCase[]) {
    const { id, tlsa, chain, isVerified, matchDepth } = each;
    const records = tlsa.map(({ data, ...rest }) => ({ ...rest, data: Buffer.from(data, 'hex') }));
    if (records.every(({ usage }) => usage < 2)) {
      yield { id, isRight: !records.some(isUsable), found: 'usable' };
      continue;
    }
    const octets = chain.map(pem => new X509Certificate(pem).raw);
    const verdict = verifyChain(octets, { records, names: ['example.com'] }, systemClock.now());
    const isRight = verdict.isVerified === isVerified && verdict.depth === matchDepth;
    yield { id, isRight, found: `${verdict.depth} ${verdict.reason}` };
  }
};

export const wayOut: Readonly<Record<string, Runner>> = { 'mta-sts': sts, dane };
