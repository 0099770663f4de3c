// What becomes of judged mail, by the mode of SLIM_VERIFY: a table, a line for each case of the contract.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Circumstances, fateOf } from '../../src/inbound/fate.ts';
import type { AuthResult, Judgement } from '../../src/mail/judgement.ts';

type Short = {
  spf?: AuthResult;
  dkim?: AuthResult;
  arc?: AuthResult;
  dmarc?: AuthResult;
  policy?: Judgement['dmarc']['policy'];
  several?: true;
};
const judgement = ({ spf, dkim, arc = 'none', dmarc = 'fail', policy = 'none', several }: Short): Judgement => ({
  ...(spf && { spf: { result: spf, domain: 'example.net' } }),
  dkim: dkim ? [{ result: dkim, domain: 'example.net' }] : [],
  arc: { result: arc },
  dmarc: { result: dmarc, policy, ...(several && { hasSeveralAuthors: several }) },
  results: [],
});

const shown = (short: Short, circumstances: Partial<Circumstances> = {}): string => {
  const usual = { mode: 'on', isNameless: false, hasListId: false } as const;
  const { to } = fateOf(judgement(short), { ...usual, ...circumstances });
  return typeof to === 'string' ? to : `${to.code} ${to.status}`;
};

const reject = { policy: 'reject' } as const;
const quarantine = { policy: 'quarantine' } as const;

describe('the fate of mail from outside', () => {
  for (const [name, short, circumstances, wanted] of [
    ['pass', { dmarc: 'pass', ...reject }, {}, 'mailbox'],
    ['none', { dmarc: 'none' }, {}, 'mailbox'],
    ['SPF alone fails', { spf: 'fail', dmarc: 'none' }, {}, 'mailbox'],
    ['p=none', { spf: 'fail' }, {}, 'mailbox'],
    ['p=quarantine', quarantine, {}, 'junk'],
    ['p=quarantine, strict', quarantine, { mode: 'strict' }, 'junk'],
    ['p=reject, nothing vouches', { spf: 'fail', dkim: 'fail', arc: 'fail', ...reject }, {}, '550 5.7.26'],
    ['p=reject, SPF of another domain', { spf: 'pass', ...reject }, {}, 'junk'],
    ['p=reject, a signature of another domain', { dkim: 'pass', ...reject }, {}, 'junk'],
    ['p=reject, an ARC chain', { arc: 'pass', ...reject }, {}, 'junk'],
    ['p=reject, a mailing list', reject, { hasListId: true }, 'junk'],
    ['p=reject, something cannot be told now', { spf: 'temperror', ...reject }, {}, 'junk'],
    ['p=reject, strict', { spf: 'pass', dkim: 'pass', ...reject }, { mode: 'strict' }, '550 5.7.26'],
    ['temperror', { dmarc: 'temperror', ...reject }, {}, 'mailbox'],
    ['temperror, strict, known to be p=reject', { dmarc: 'temperror', ...reject }, { mode: 'strict' }, '451 4.7.0'],
    ['temperror, strict, not known', { dmarc: 'temperror' }, { mode: 'strict' }, 'mailbox'],
    ['several authors, one p=quarantine', { dmarc: 'permerror', several: true, ...quarantine }, {}, '550 5.7.1'],
    ['several authors, none with a policy', { dmarc: 'permerror', several: true }, {}, 'mailbox'],
    ['tag', { ...reject, several: true }, { mode: 'tag' }, 'mailbox'],
    ['an address that says nothing', reject, { isNameless: true, mode: 'strict' }, 'mailbox'],
  ] as const)
    it(`${name}: ${wanted}`, () => assert.equal(shown(short, circumstances), wanted));
});
