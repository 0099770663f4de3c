// Runners for what is judged of mail from outside: SPF, DKIM, ARC validation, DMARC. Each case is a message that goes
// to a real judging child, whose DNS is the case's alone. Parts of DMARC that no message can ask for go to the library
// as we call it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Judges, type JudgesOptions } from '../../src/judge/judges.ts';
import type { Judgement, MailFacts } from '../../src/mail/judgement.ts';
import { inMemory } from '../../src/mail/message.ts';
import { systemClock } from '../../src/system/world.ts';
import type { Case, Runner } from './run.ts';
import { type Zone, recordsOf } from './zone.ts';

const child = join(import.meta.dirname, 'child.ts');
const nobody: MailFacts = { client: '192.0.2.1', helo: 'client.example', from: '', receivedAt: systemClock.now() };

/** A child whose DNS is set for each question. */
export function openJudge(more: Partial<JudgesOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'judge-'));
  const zoneFile = join(folder, 'zone.json');
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const argv = [child, zoneFile] as const;
  const mayRead = [`${folder}/`, join(import.meta.dirname, '../../')];
  const judges = new Judges({ argv, hostname: 'receiver.example', clock: systemClock, log, mayRead, ...more });
  return {
    async judge(facts: Partial<MailFacts>, content: Buffer, zone: Zone): Promise<Judgement> {
      writeFileSync(zoneFile, JSON.stringify(zone));
      const judgement = await judges.judge({ ...nobody, ...facts }, { message: inMemory(content), start: 0 });
      if (judgement === undefined) throw new Error('too much waits');
      return judgement;
    },
    close(): void {
      judges.close();
      rmSync(folder, { recursive: true });
    },
  };
}

/** A runner that has a judge, and tells of each case what came out and whether that is right. */
const withJudge = (
  look: (
    each: never,
    judge: ReturnType<typeof openJudge>['judge'],
    folder: string,
  ) => Promise<readonly [boolean, string]>,
): Runner =>
  async function* (folder, cases) {
    const judge = openJudge();
    try {
      for (const each of cases) {
        const [isRight, found] = await look(each as never, judge.judge, folder);
        yield { id: each.id, isRight, found };
      }
    } finally {
      judge.close();
    }
  };

type SpfCase = { helo: string; mailfrom: string; ip: string; results: string[]; explanation?: string } & {
  zonedata: Record<string, (string | Record<string, unknown>)[]>;
};

function spfZone(data: SpfCase['zonedata']): Zone {
  const zone: Record<string, Record<string, unknown[]> | 'TIMEOUT' | 'SERVFAIL'> = {};
  for (const [name, entries] of Object.entries(data)) {
    const records: Record<string, unknown[]> = {};
    const hasTxt = entries.some(entry => typeof entry === 'object' && 'TXT' in entry);
    let other: 'TIMEOUT' | 'SERVFAIL' | undefined;
    for (const entry of entries) {
      if (typeof entry === 'string') {
        other = entry as 'TIMEOUT' | 'SERVFAIL';
        continue;
      }
      for (const [type, value] of Object.entries(entry)) {
        if ((type === 'SPF' && hasTxt) || value === 'NONE') continue;
        const list = (records[type === 'SPF' ? 'TXT' : type] ??= []);
        if (type === 'MX') list.push({ priority: (value as unknown[])[0], exchange: (value as unknown[])[1] });
        else if (type === 'SPF' || type === 'TXT') list.push(([] as unknown[]).concat(value));
        else list.push(value);
      }
    }
    if (other !== undefined && Object.keys(records).length === 0) zone[name.toLowerCase()] = other;
    else {
      for (const type of ['A', 'AAAA', 'MX', 'PTR', 'TXT']) if (other) records[type] ??= [other];
      zone[name.toLowerCase()] = records;
    }
  }
  return zone;
}

const spf = withJudge(async ({ helo, mailfrom, ip, results, explanation, zonedata }: SpfCase, judge) => {
  const judgement = await judge(
    { client: ip, helo, from: mailfrom },
    Buffer.from('Subject: x\n\nx\n'),
    spfZone(zonedata),
  );
  const { result = 'none', explanation: said = 'DEFAULT' } = judgement.spf ?? {};
  const isExplained =
    // Hexadecimal digits have no case.
    explanation === undefined || result !== 'fail' || said.toLowerCase() === explanation.toLowerCase();
  return [results.includes(result) && isExplained, `${result}${isExplained ? '' : `, ${said}`}`];
});

type DkimCase = { message: string; dns: Record<string, string[] | string>; expect: string; time?: number } & {
  minimumKeyBits?: number;
};
const dkim = withJudge(async ({ message, dns, expect, time, minimumKeyBits = 1024 }: DkimCase, judge, folder) => {
  const content = readFileSync(join(folder, message)).toString('latin1').replaceAll('\r\n', '\n');
  const zone = Object.entries(dns).flatMap(([name, said]): [string, Zone[string]][] => {
    if (Array.isArray(said)) return [[name.toLowerCase(), { TXT: said.map(text => [text]) }]];
    return said === 'NXDOMAIN' ? [] : [[name.toLowerCase(), said as 'TIMEOUT' | 'SERVFAIL']];
  });
  const facts = time === undefined ? {} : { receivedAt: time * 1000 };
  const judgement = await judge(facts, Buffer.from(content, 'latin1'), Object.fromEntries(zone));
  const isPass = judgement.dkim.some(({ result }) => result === 'pass');
  const isWanted = expect === 'pass' && minimumKeyBits >= 1024; // RFC 8301 §3.2
  return [isPass === isWanted, judgement.dkim.map(({ result, reason }) => `${result} ${reason ?? ''}`).join(', ')];
});

type ArcCase = { message: string; cv: string; txt: Record<string, string> };
const arc = withJudge(async ({ message, cv, txt }: ArcCase, judge) => {
  const zone = Object.entries(txt).map(([name, text]) => [name.toLowerCase(), { TXT: [[text]] }]);
  const judgement = await judge({}, Buffer.from(message.replaceAll('\r\n', '\n')), Object.fromEntries(zone) as Zone);
  const { result, reason = '' } = judgement.arc;
  return [result === (cv.toLowerCase() || 'fail'), `${result} ${reason}`];
});

type Call = {
  headerFrom: string;
  dkimDomains: unknown[];
  spfDomains: { domain: string }[];
  zone: Zone & { error?: unknown };
};
type Expected = { call: number; path: string; equal?: unknown; contain?: string; property?: string; not?: true };
type DmarcCase = Case &
  (
    | { kind: 'record'; record: string; isValid: boolean }
    | { kind: 'alignment'; domains: [string, string]; mode: string; isAligned: boolean }
    | { kind: 'evaluate'; calls: Call[]; expected: Expected[] }
  );

const { evaluateDmarc } = createRequire(import.meta.url)('mailauth/lib/dmarc') as {
  evaluateDmarc: (options: object) => Promise<{ response: Record<string, unknown> | false }>;
};

async function callDmarc(call: Omit<Call, 'zone'>, zone: Zone, asked: string[]) {
  const dns = recordsOf(() => zone);
  const resolver = async (name: string, type: string) => {
    asked.push(name);
    return dns.records(name, type as 'TXT');
  };
  const spfDomains = call.spfDomains.map(each => (typeof each === 'string' ? each : each.domain));
  const options = { headerFrom: [call.headerFrom], fromFields: 1, dkimDomains: call.dkimDomains, spfDomains };
  return (await evaluateDmarc({ ...options, strict: true, resolver })).response;
}

const lowered = (zone: Zone): Zone =>
  Object.fromEntries(
    Object.entries(zone).map(([name, records]) => {
      const failing = typeof records === 'object' && 'error' in records;
      return [name.toLowerCase(), failing ? 'SERVFAIL' : records];
    }),
  );

const dmarc = withJudge(async (each: DmarcCase, judge): Promise<readonly [boolean, string]> => {
  if (each.kind === 'record') {
    const zone = { '_dmarc.example.com': { TXT: [[each.record]] }, 'example.com': { A: ['192.0.2.1'] } };
    const { result } = (await judge({}, Buffer.from('From: a@example.com\n\nx\n'), zone)).dmarc;
    return [(result !== 'none') === each.isValid, result];
  }
  if (each.kind === 'alignment') {
    const [domain, author] = each.domains;
    const mode = each.mode === 'strict' ? 's' : 'r';
    const record = { TXT: [[`v=DMARC1; p=reject; adkim=${mode}`]] };
    const zone = { [`_dmarc.${author}`]: record, [`_dmarc.${author.split('.').slice(-2).join('.')}`]: record };
    const call = { headerFrom: `a@${author}`, dkimDomains: [{ domain }], spfDomains: [] };
    const response = await callDmarc(call, zone, []);
    const result = response === false ? 'none' : (response['status'] as { result: string }).result;
    return [(result === 'pass') === each.isAligned, result];
  }
  const asked: string[] = [];
  const responses: Awaited<ReturnType<typeof callDmarc>>[] = [];
  for (const call of each.calls) responses.push(await callDmarc(call, lowered(call.zone), asked));
  const wrong = each.expected.filter(({ call, path, equal, contain, property, not, ...rest }) => {
    const names = path === 'queries' ? asked : undefined;
    const value =
      names ??
      path
        .split('.')
        .filter(Boolean)
        .reduce<unknown>((at, name) => at && (at as Record<string, unknown>)[name], responses.at(call));
    let isSo = true;
    if (equal !== undefined) isSo = isDeepStrictEqual(value, equal);
    else if (contain !== undefined) isSo = String(value).includes(contain);
    else if (property !== undefined) isSo = typeof value === 'object' && value !== null && property in value;
    else isSo = 'is' in rest ? Boolean(value) : true;
    return isSo === (not === true);
  });
  return [wrong.length === 0, wrong.map(({ path }) => path).join(', ')];
});

type SuffixCase = Case & { domain: string; organizational: string | null };
const publicSuffix: Runner = async function* (_folder, cases) {
  const require = createRequire(import.meta.url);
  const tldts = require('tldts') as { getDomain(name: string, options: object): string | null };
  const { TLDTS_OPTS, toALabel } = require('mailauth/lib/tools.js') as {
    TLDTS_OPTS: object;
    toALabel(name: string): string;
  };
  for (const { id, domain, organizational } of cases as readonly SuffixCase[]) {
    // DKIM and DMARC refuse such a name before anybody asks for its organization.
    const isName = !domain.split('.').includes('');
    const found = isName ? tldts.getDomain(domain, TLDTS_OPTS) : null;
    const wanted = organizational === null ? null : toALabel(organizational);
    yield { id, isRight: (found === null ? null : toALabel(found)) === wanted, found: String(found) };
  }
};

export const judging: Readonly<Record<string, Runner>> = {
  spf,
  dkim,
  'arc-validate': arc,
  dmarc,
  'public-suffix': publicSuffix,
};
