// The runner for the vectors of ARC sealing: the set that we add has the tags that are expected (but for b=, which
// depends on their order), and the judging child finds the chain right.
import { createPrivateKey } from 'node:crypto';
import { readOutgoing } from '../../src/dkim/outgoing.ts';
import { arcSet } from '../../src/dkim/seal.ts';
import { fieldsOf } from '../../src/mail/header.ts';
import { inMemory } from '../../src/mail/message.ts';
import { openJudge } from './judging.ts';
import type { Runner } from './run.ts';

type Case = Readonly<{
  id: string;
  message: string;
  t: number;
  fields: string;
  authservId: string;
  domain: string;
  selector: string;
  privateKey: string;
  AAR: string;
  AMS: string;
  AS: string;
  txt: Record<string, string>;
}>;

/** The tags of a field without b=, in their order by name. */
function tags(text: string): string {
  const found = text.replaceAll(/\s+/g, '').split(';').filter(Boolean);
  return found
    .filter(tag => !tag.startsWith('b='))
    .toSorted()
    .join(';');
}
const plain = (text: string): string => text.replaceAll(/\s+/g, ' ').trim();

export const arcSign: Runner = async function* (_folder, cases) {
  const judge = openJudge();
  try {
    for (const each of cases as unknown as readonly Case[]) {
      const { id, message, t, fields: names, authservId, domain, selector, privateKey, txt } = each;
      const content = message.replaceAll('\r\n', '\n');
      const read = readOutgoing({ ...inMemory(Buffer.from(content, 'latin1')), returnPathBytes: 0 });
      if ('reason' in read) throw new Error(read.reason);
      const what = { fields: read.fields, bodyDigest: await read.digest(), now: t * 1000, authservId };
      const key = createPrivateKey(privateKey);
      const set = await arcSet({ ...what, names: names.split(':') }, { domain, selector, algorithm: 'rsa', key });
      const made = new Map(
        fieldsOf(set.replace(/\n$/, '')).map(({ name, text }) => [name, text.replace(/^[^:]*:/, '')]),
      );
      const isSame =
        plain(made.get('arc-authentication-results') ?? '') === plain(each.AAR) &&
        tags(made.get('arc-message-signature') ?? '') === tags(each.AMS) &&
        tags(made.get('arc-seal') ?? '') === tags(each.AS);
      const zone = Object.fromEntries(Object.entries(txt).map(([name, text]) => [name, { TXT: [[text]] }]));
      const isChain = set !== '' && !/cv=fail/.test(set);
      const judgement = isChain ? await judge.judge({}, Buffer.from(set + content, 'latin1'), zone) : undefined;
      const arc = judgement?.arc.result ?? 'pass';
      yield { id, isRight: isSame && arc === 'pass', found: `${arc} ${set.replaceAll('\n', ' ')}` };
    }
  } finally {
    judge.close();
  }
};
