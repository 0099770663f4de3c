// SPF, DKIM, ARC and DMARC of one message, by the parts of mailauth, in the judging child.
// mailauth is asked strictly throughout: without that it takes signatures that RFC 6376 forbids. What it gets wrong is
// mended here, each with its reason beside it. Its results are of strangers' making, so they become plain ASCII before
// they go anywhere.
// RFC 7208 (SPF), RFC 6376, 8301 and 8463 (DKIM), RFC 8617 (ARC), RFC 9989 (DMARC), RFC 8601 (the words for results).
import { Readable } from 'node:stream';
import type { AuthResult, Judgement, MailFacts } from '../mail/judgement.ts';
import { maxFromOctets, maxHeaderLines, maxSignatures } from './limits.ts';
import type { Ask, Questions } from './questions.ts';

/** `header`: whole, LF line ends, without the empty line. `isCut`: only what the author's domain needs. */
type Mail = Readonly<{ facts: MailFacts; hostname: string; header: string; isCut: boolean }>;

type Status = {
  readonly result: AuthResult;
  readonly comment?: string;
  readonly testing?: boolean;
  underSized?: number;
};
type Signature = {
  readonly id?: string;
  readonly signingDomain?: string;
  readonly info: string;
  readonly status: Status;
};
type Verified = Readonly<{ headerFrom: string[]; fromFields: number; results: Signature[]; arc: { chain: unknown } }>;
type Spf = Readonly<{ domain: string; status: Status; info: string; explanation?: string }>;
type Arc = Readonly<{ status: Status; info?: string; signature?: { signingDomain?: string }; i?: number }>;
type Dmarc = Readonly<{ status: Status; policy?: string; domain?: string; error?: string; info: string }>;
type Evaluated = Readonly<{ response: Dmarc | false; reason?: string; authorDomains?: string[] }>;

/** The parts, loaded with the first message; never the root of the package, which has an HTTP client. */
async function load() {
  const [spf, dkim, arc, dmarc] = await Promise.all([
    import('mailauth/lib/spf/index.js'),
    import('mailauth/lib/dkim/verify.js'),
    import('mailauth/lib/arc/index.js'),
    import('mailauth/lib/dmarc/index.js'),
  ]);
  // The package's own types are looser than what it gives.
  const as = <T>(module: object): T => (module as { default: T }).default;
  return {
    spf: as<{ spf: (options: object) => Promise<Spf> }>(spf).spf,
    verify: as<{ dkimVerify: (input: Readable, options: object) => Promise<Verified> }>(dkim).dkimVerify,
    arc: as<{ arc: (data: unknown, options: object) => Promise<Arc> }>(arc).arc,
    dmarc: as<{ evaluateDmarc: (options: object) => Promise<Evaluated> }>(dmarc).evaluateDmarc,
  };
}
let loaded: ReturnType<typeof load> | undefined;

/** `body`: what follows the header, from its empty line on, LF line ends; asked for where there is a signature. */
export async function evaluate(mail: Mail, body: AsyncIterable<Buffer>, questions: Questions): Promise<Judgement> {
  const parts = await (loaded ??= load());
  const ask = questions.forMessage();
  const isCut = mail.isCut || mail.header.split('\n', maxHeaderLines + 1).length > maxHeaderLines;
  // A header that nobody has signed need not be parsed, but for its author.
  const header = isCut || !isSigned(mail.header) ? fromFields(mail.header) : withFewSignatures(mail.header);
  const strict = { strict: true, curTime: new Date(mail.facts.receivedAt) };
  const keys = { ...strict, resolver: ask('keys') };
  // All keys are asked for at once: mailauth asks for one after the other, and a forger's slow ones would leave no time
  // for the author's.
  for (const name of keyNames(header)) keys.resolver(name, 'TXT').catch(() => {});
  const input = Readable.from(octets(header, isSigned(header) ? body : nothing()), { objectMode: false });
  const [spf, verified] = await Promise.all([
    mail.facts.client === undefined ? undefined : judgeSpf(parts.spf, mail, ask('spf')),
    parts.verify(input, keys),
  ]);
  const hasChain = /^arc-/im.test(header);
  const arc = hasChain ? await parts.arc(verified.arc, { ...keys, ip: mail.facts.client }) : undefined;
  const signatures = verified.results.filter(({ status }) => status.result !== 'none');
  const dmarc = await judgeDmarc(parts.dmarc, { spf, signatures, verified, arc, resolver: ask('dmarc') }, mail);
  const sealer = /\bd=([\w.-]+)/.exec(lastSeal(header))?.[1];
  const cut: Signature['info'] = 'dkim=permerror (the header is too long for signatures to be verified)';
  const unsigned = isCut ? cut : 'dkim=none (message not signed)';
  return {
    ...(spf && { spf: named(spf.status, spf.domain, spf.explanation) }),
    dkim: signatures.map(({ status, signingDomain = '' }) => ({
      result: status.result,
      domain: plain(signingDomain),
      ...(status.comment && { reason: plain(status.comment) }),
    })),
    arc: {
      result: arc?.status.result ?? 'none',
      ...(sealer && { domain: sealer }),
      ...(arc?.status.comment && { reason: plain(arc.status.comment) }),
    },
    dmarc,
    results: [
      ...(spf ? [spf.info] : []),
      ...(signatures.length > 0 ? signatures.map(({ info }) => info) : [unsigned]),
      ...(arc?.info && arc.status.result !== 'none' ? [arc.info] : []),
      dmarcResult(dmarc),
    ].map(plain),
  };
}

const named = ({ result }: Status, domain: string, explanation?: string) => ({
  result,
  domain: plain(domain),
  ...(explanation !== undefined && { explanation: plain(explanation) }),
});

/** A word that no domain has, in place of `_`. */
const underscore = 'qzu0q';
/**
 * mailauth takes no MAIL FROM domain with an underscore, which RFC 7208 §4.3 does not forbid. So it is given another
 * name, and asks the DNS for the right one.
 */
async function judgeSpf(spf: (options: object) => Promise<Spf>, mail: Mail, ask: Ask): Promise<Spf> {
  const { facts, hostname } = mail;
  const [local = '', domain = ''] = facts.from.split(/@(?=[^@]*$)/);
  const options = { strict: true, ip: facts.client, helo: facts.helo, mta: hostname, maxElapsedTime: 12_000 };
  const base = { ...options, sender: facts.from, resolver: ask };
  const identity = facts.from === '' ? facts.helo : domain;
  if (!identity.includes('_')) return spf(base);
  const hide = (text: string): string => text.replaceAll('_', underscore);
  const show = (text: string): string => text.replaceAll(underscore, '_');
  const resolver: Ask = (name, type) => ask(show(name), type);
  const sender = facts.from === '' ? '' : `${local}@${hide(domain)}`;
  const helo = facts.from === '' ? hide(facts.helo) : facts.helo;
  const { explanation, ...found } = await spf({ ...base, sender, helo, resolver });
  return {
    ...found,
    domain: show(found.domain),
    info: show(found.info),
    ...(explanation !== undefined && { explanation: show(explanation) }),
  };
}

type Identities = Readonly<{
  spf: Spf | undefined;
  signatures: readonly Signature[];
  verified: Verified;
  arc: Arc | undefined;
  resolver: Ask;
}>;

async function judgeDmarc(
  dmarc: (options: object) => Promise<Evaluated>,
  { spf, signatures, verified, arc, resolver }: Identities,
  { facts }: Mail,
): Promise<Judgement['dmarc']> {
  const { headerFrom, fromFields } = verified;
  const options = { strict: true, resolver, arcResult: arc };
  const dkimDomains = signatures
    .filter(({ status }) => status.result === 'pass')
    .map(({ id, signingDomain: domain, status }) => ({ id, domain, underSized: status.underSized }));
  const spfDomains = spf?.status.result === 'pass' ? [spf.domain] : [];
  const { response, authorDomains = [] } = await dmarc({ ...options, headerFrom, fromFields, spfDomains, dkimDomains });
  if (response === false) {
    if (authorDomains.length === 0) return { result: 'permerror', policy: 'none', reason: 'there is no author' };
    return severalAuthors(authorDomains, domain => dmarc({ ...options, headerFrom: [`a@${domain}`], fromFields: 1 }));
  }
  const found = response.status as Status & { header?: { from?: string } };
  const author = plain(found.header?.from ?? '');
  const common = { domain: author, policy: policyOf(response) };
  const of = (result: AuthResult, reason?: string) => ({ ...common, result, ...(reason && { reason: plain(reason) }) });
  if (facts.client === undefined && found.result === 'fail')
    return of('none', 'the address of the client says nothing, and no signature is of that domain');
  // mailauth does not ask whether an identity that would do could not be verified now.
  const organization = (response.domain ?? author).toLowerCase();
  const unknown = [
    ...(spf?.status.result === 'temperror' ? [spf.domain] : []),
    ...signatures.filter(({ status }) => status.result === 'temperror').map(({ signingDomain = '' }) => signingDomain),
  ].map(name => name.toLowerCase().replace(/\.$/, ''));
  const isOpen = unknown.some(name => name === organization || name.endsWith(`.${organization}`));
  if (found.result === 'fail' && isOpen) return of('temperror', 'SPF or a signature cannot be verified now');
  return of(found.result, response.error);
}

const maxAuthors = 6;
const strictness = ['none', 'quarantine', 'reject'] as const;
type Policy = (typeof strictness)[number];
const policyOf = ({ policy }: Dmarc): Policy => strictness.find(each => each === policy) ?? 'none';

/** RFC 9989 §11.5: such a message has no author that DMARC could check, which is a way around it. */
async function severalAuthors(
  domains: readonly string[],
  look: (domain: string) => Promise<Evaluated>,
): Promise<Judgement['dmarc']> {
  const reason = 'several From fields, or authors of several domains';
  const common = { reason, domain: plain(domains[0] ?? ''), hasSeveralAuthors: true } as const;
  // Nobody writes mail with so many, and their policies are not worth that many questions.
  if (domains.length > maxAuthors) return { ...common, result: 'permerror', policy: 'reject' };
  let strictest: Policy = 'none';
  let result: AuthResult = 'permerror';
  for (const domain of domains) {
    const { response } = await look(domain);
    if (response === false) continue;
    if (response.status.result === 'temperror') result = 'temperror';
    const policy = policyOf(response);
    if (strictness.indexOf(policy) > strictness.indexOf(strictest)) strictest = policy;
  }
  return { ...common, result, policy: strictest };
}

function dmarcResult({ result, policy, domain, reason }: Judgement['dmarc']): string {
  const comment = reason === undefined ? '' : ` (${reason.replace(/[()\\]/g, '')})`;
  const applied = result === 'fail' ? ` policy.dmarc=${policy}` : '';
  const from = domain !== undefined && /^[\w.-]+$/.test(domain) ? ` header.from=${domain}` : '';
  return `dmarc=${result}${comment}${applied}${from}`;
}

const isSigned = (header: string): boolean => /^(?:dkim-signature|arc-[a-z-]+)[ \t]*:/im.test(header);
const lastSeal = (header: string): string => {
  const seals = header.match(/^arc-seal[ \t]*:.*(?:\n[ \t].*)*/gim) ?? [];
  const instance = (seal: string): number => Number(/\bi[ \t]*=[ \t]*(\d+)/.exec(seal)?.[1] ?? 0);
  return seals.toSorted((one, other) => instance(other) - instance(one))[0]?.replace(/\s+/g, '') ?? '';
};

/** The names at which the keys of its signatures are. */
function keyNames(header: string): readonly string[] {
  return fieldsOf(header).flatMap(field => {
    if (!/^dkim-signature[ \t]*:/i.test(field)) return [];
    const tags = field.slice(field.indexOf(':') + 1).replace(/\s+/g, '');
    const tag = (name: string): string | undefined => new RegExp(`(?:^|;)${name}=([^;]+)`).exec(tags)?.[1];
    const domain = tag('d');
    const selector = tag('s');
    return domain === undefined || selector === undefined ? [] : [`${selector}._domainkey.${domain}`];
  });
}

const fieldsOf = (header: string): string[] => header.split(/(?<=\n)(?![ \t])/);

/** The From fields alone, unfolded. */
const fromFields = (header: string): string =>
  fieldsOf(header)
    .filter(field => /^from[ \t]*:/i.test(field))
    .map(field => field.replace(/\n[ \t]+/g, ' ').trimEnd())
    .join('\n')
    .slice(0, maxFromOctets);

/** The header without what is behind its first signatures: the verifier would ask for the key of each. */
function withFewSignatures(header: string): string {
  let signatures = 0;
  return fieldsOf(header)
    .filter(field => !/^dkim-signature[ \t]*:/i.test(field) || (signatures += 1) <= maxSignatures)
    .join('');
}

/** The whole message with CRLF, as it was signed. */
async function* octets(header: string, body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield toCrlf(Buffer.from(header, 'latin1'));
  for await (const piece of body) yield toCrlf(piece);
}

async function* nothing(): AsyncGenerator<Buffer> {
  yield Buffer.from('\n\n');
}

const toCrlf = (piece: Buffer): Buffer => Buffer.from(piece.toString('latin1').replaceAll('\n', '\r\n'), 'latin1');

/** One line of printable ASCII. */
const plain = (text: string): string =>
  text
    .replace(/[^!-~]+/g, ' ')
    .trim()
    .slice(0, 900);
