// The SASL mechanisms and their messages: a malformed one is a refusal, never a throw, and nobody gets in but by the
// password: held against a calculation of its own. Also verifiers, and the answers of a relay to our own SCRAM.
// An input: an octet that chooses the mechanism, then responses, 0x1e between. RFC 4616, 5802, 7677, 5929.
import assert from 'node:assert/strict';
import { createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import type { Login } from '../../src/mail/ports.ts';
import { type Context, mechanisms, open } from '../../src/sasl/mechanisms.ts';
import { clientFinal, formatVerifier, parseVerifier } from '../../src/sasl/scram.ts';
import { replies } from '../../src/smtp/reply.ts';
import { kept } from './corpus.ts';
import type { Target } from './fuzzer.ts';

const hmac = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
const sha256 = (octets: Buffer): Buffer => createHash('sha256').update(octets).digest();
const [salt, password] = [Buffer.from('salt'), 'secret'];
const salted = pbkdf2Sync(password, salt, 4096, 32, 'sha256');
const clientKey = hmac(salted, 'Client Key');
const verifier = { iterations: 4096, salt, storedKey: sha256(clientKey), serverKey: hmac(salted, 'Server Key') };
const login = { name: 'anton', address: { local: 'anton', domain: 'example.com' } } as unknown as Login;
const binding = Buffer.from('binding');

/** What a client that knows the password sends. */
function proven(header: string, nonce: string, bound = Buffer.alloc(0)): string[] {
  const bare = `n=anton,r=${nonce}`;
  const unproven = `c=${Buffer.concat([Buffer.from(header), bound]).toString('base64')},r=${nonce}server`;
  const message = `${bare},r=${nonce}server,s=${salt.toString('base64')},i=4096,${unproven}`;
  const signature = hmac(verifier.storedKey, message);
  const proof = Buffer.from(clientKey.map((octet, at) => octet ^ (signature[at] ?? 0)));
  return [`${header}${bare}`, `${unproven},p=${proof.toString('base64')}`, ''];
}

const seeds: readonly (readonly string[])[] = [
  ['0', ...proven('p=tls-exporter,,', 'abc', binding)],
  ['1', ...proven('n,,', 'abc')],
  ['1', ...proven('n,a=anton,', 'xyz,m')],
  ['2', '\0anton\0secret'],
  ['2', 'anton\0anton\0wrong'],
  ['3', 'anton', 'secret'],
];

export const auth: Target = {
  name: 'login',
  maxOctets: 300,
  seeds: [
    ...kept('login'),
    ...seeds.map(parts => Buffer.from(parts.join('\x1e'))),
    Buffer.from(formatVerifier(verifier)),
    Buffer.from('1\x1er=nonceX,s=c2FsdA==,i=4096'),
  ],
  words: [
    '\x1e',
    '\0',
    ',',
    '=',
    'n,,',
    'y,,',
    'p=tls-exporter,,',
    'a=',
    'n=',
    'r=',
    'c=biws',
    ',p=',
    's=',
    'i=4096',
    'i=4294967296',
    '=2C',
    '=3D',
    '=00',
    'anton',
    'secret',
    '\xff',
    'm=x',
    '$',
    ':',
  ],
  async run(input, cuts, note) {
    const text = input.toString('latin1');
    const [which, ...responses] = text.split('\x1e').map(part => Buffer.from(part, 'latin1'));
    const mechanism = mechanisms[((which as Buffer | undefined)?.[0] ?? 0) % mechanisms.length] ?? 'PLAIN';
    const asked: string[] = [];
    const context: Context = {
      offersPlus: cuts.below(2) === 0,
      nonce: () => 'server',
      binding: type => (type === 'tls-exporter' ? binding : undefined),
      admitGuess: async () => undefined,
      async identify(name) {
        asked.push(name);
        const isAnton = name === 'anton';
        return {
          login: isAnton ? login : undefined,
          verifier,
          isRight: async given => isAnton && given.equals(Buffer.from(password)),
        };
      },
    };
    const isInitial = cuts.below(2) === 0;
    const dialogue = open(mechanism, isInitial ? responses.shift() : undefined, context);
    let step = await dialogue.next(Buffer.alloc(0));
    for (let times = 0; !step.done && times < 5; times += 1)
      step = await dialogue.next(responses.shift() ?? Buffer.alloc(0));
    assert.ok(step.done, 'no end');
    const isIn = 'name' in step.value;
    assert.ok(isIn || step.value === replies.loginFailed || step.value === replies.badResponse, 'an odd reply');
    if (isIn) assert.ok(isRight(mechanism, text.split('\x1e').slice(1)), 'a stranger is in');
    note(`${mechanism} ${isIn} ${step.value === replies.badResponse} ${asked.length}`);
    const found = parseVerifier(text);
    if (found) assert.deepEqual(parseVerifier(formatVerifier(found)), found);
    note(`verifier ${found !== undefined}`);
    // A relay that asks for much work is not obeyed; that much is not done here either.
    if (!/i=\d{5,}/.test(text) && cuts.below(50) === 0)
      note(`challenge ${(await clientFinal(password, 'n=anton,r=nonce', text.split('\x1e')[1] ?? '')) !== undefined}`);
  },
};

/** By the password, whatever else stands there. */
function isRight(mechanism: string, responses: readonly string[]): boolean {
  if (mechanism === 'PLAIN') return /^(?:anton)?\0anton\0secret$/.test(responses[0] ?? '');
  if (mechanism === 'LOGIN') return responses.join('\x1e').startsWith('anton\x1esecret');
  const [first = '', final = ''] = responses;
  const bare = first.slice(first.indexOf('n=', first.indexOf(',')));
  const [unproven = '', proof = ''] = final.split(/,p=(?=[^,]*$)/);
  const challenge = `r=${/,r=([^,]*)/.exec(bare)?.[1]}server,s=${salt.toString('base64')},i=4096`;
  const signature = hmac(verifier.storedKey, Buffer.from(`${bare},${challenge},${unproven}`, 'latin1').toString());
  const key = Buffer.from(Buffer.from(proof, 'base64').map((octet, at) => octet ^ (signature[at] ?? 0)));
  return sha256(key).equals(verifier.storedKey) && unproven.endsWith('server') === !/,r=[^,]*,/.test(unproven);
}
