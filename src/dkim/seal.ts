// The ARC set of a message that we forward: what we have found out about its author (ARC-Authentication-Results), a
// signature of the message as it leaves (ARC-Message-Signature), and a seal on all sets (ARC-Seal). So the next server
// can believe us that the author's SPF and signature were right when the message came here.
// What was found out is read off our own Authentication-Results fields, which stand in the message. Nobody else's can
// carry our name there: such claims are made harmless when a message comes (src/inbound/claims.ts).
// Promises: pure but for the signing itself; linear time, whatever stands in the header. No set is added to a chain
// that has failed before, or that nobody has verified.
// RFC 8617 §4.1 and §5.1.
import { type Field, bodyOf } from '../mail/header.ts';
import { relaxedField } from './canonical.ts';
import { type Signed, type SigningKey, base64Lines, fieldsToSign, folded, signOctets } from './signature.ts';

/** Instances of a chain (§4.2.1). */
const maxInstances = 50;
const parts = ['arc-authentication-results', 'arc-message-signature', 'arc-seal'] as const;

/**
 * `authservId`: our name in Authentication-Results. `names`: the fields to sign, instead of those that DKIM would sign.
 */
type ToSeal = Signed & Readonly<{ authservId: string; names?: readonly string[] }>;

/**
 * The three ARC fields that seal a message (RFC 8617 §4.1), each ending in LF; '' where there is no judgement of ours
 * to seal, or where the chain must not be continued.
 */
export async function arcSet(message: ToSeal, by: SigningKey): Promise<string> {
  const { fields, authservId, bodyDigest, now } = message;
  const results = resultsOf(fields, authservId);
  const chain = chainOf(fields);
  if (results === undefined || chain === undefined || chain.length >= maxInstances) return '';
  const cv = verdictOf(results, chain);
  if (cv === undefined) return '';
  const instance = chain.length + 1;
  const common = `a=rsa-sha256; d=${by.domain}; s=${by.selector}; t=${Math.floor(now / 1000)};`;
  const found = `ARC-Authentication-Results: i=${instance}; ${authservId};${results}`;

  const covered = coveredBy(message);
  const start = [
    `ARC-Message-Signature: i=${instance}; c=relaxed/relaxed;`,
    ` ${common}`,
    ...folded(covered.map(({ name }) => name)),
    ` bh=${bodyDigest};`,
    ' b=',
  ].join('\n');
  const signature = start + (await signed([...covered.flatMap(({ field }) => (field ? field.text : [])), start], by));

  const seal = [`ARC-Seal: i=${instance}; cv=${cv};`, ` ${common}`, ' b='].join('\n');
  // §5.1.2: a seal on a chain that has failed covers nothing of it.
  const before = cv === 'fail' ? [] : chain.flat().map(({ text }) => text);
  return `${seal}${await signed([...before, found, signature, seal], by)}\n${signature}\n${found}\n`;
}

/** The signature of these fields, of which the last is the one that it will stand in. */
async function signed(texts: readonly string[], by: SigningKey): Promise<string> {
  return base64Lines(await signOctets(Buffer.from(texts.map(relaxedField).join('\r\n'), 'latin1'), by));
}

/** What our fields say, as it stands behind our name; undefined: we have found out nothing. */
function resultsOf(fields: readonly Field[], authservId: string): string | undefined {
  const ours = fields.flatMap(field => {
    if (field.name !== 'authentication-results') return [];
    const [name = '', ...results] = bodyOf(field).split(';');
    const [id = ''] = name.trim().split(/\s/, 1); // a version may follow
    // Without blanks at the ends of its lines (src/inbound/spool.ts).
    return id.toLowerCase() === authservId.toLowerCase() ? results.join(';').replaceAll(/[ \t]+(?=\n|$)/g, '') : [];
  });
  return ours.length > 0 ? ours.join(';') : undefined;
}

/** The sets that are there, the first one first; undefined: they do not make a chain. */
function chainOf(fields: readonly Field[]): readonly (readonly Field[])[] | undefined {
  const ofChain = fields.filter(({ name }) => parts.some(part => part === name));
  const byInstance = Map.groupBy(ofChain, field => Number(tagOf(field, 'i') ?? 0));
  const chain: (readonly Field[])[] = [];
  for (let instance = 1; instance <= byInstance.size; instance += 1) {
    const found = byInstance.get(instance) ?? [];
    const set = parts.flatMap(part => found.filter(({ name }) => name === part));
    if (set.length !== parts.length || new Set(set.map(({ name }) => name)).size !== parts.length) return undefined;
    chain.push(set);
  }
  return chain;
}

/** The value of a tag (RFC 6376 §3.2). */
function tagOf(field: Field, name: string): string | undefined {
  for (const tag of bodyOf(field).split(';')) {
    const [found = '', ...value] = tag.split('=');
    if (found.trim() === name) return value.join('=').trim();
  }
  return undefined;
}

/** What the seal says of the chain so far (§5.1.2); undefined: it cannot be said, or was said before. */
function verdictOf(results: string, chain: readonly (readonly Field[])[]): 'none' | 'pass' | 'fail' | undefined {
  const last = chain.at(-1)?.find(({ name }) => name === 'arc-seal');
  if (last === undefined) return 'none';
  if (tagOf(last, 'cv')?.toLowerCase() === 'fail') return undefined;
  const [, verdict] = /(?:^|;)\s*arc\s*=\s*(pass|fail)\b/i.exec(results) ?? [];
  return verdict?.toLowerCase() as 'pass' | 'fail' | undefined;
}

/** The fields that the message's signature covers; of several with one name the last comes first (RFC 6376 §5.4.2). */
function coveredBy({ fields, names }: ToSeal): ReturnType<typeof fieldsToSign> {
  const asOften = (name: string) => fields.flatMap(field => (field.name === name ? { name, field } : [])).toReversed();
  return names?.flatMap(asOften) ?? [...fieldsToSign(fields), ...asOften('dkim-signature')];
}
