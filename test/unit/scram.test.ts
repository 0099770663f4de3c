// The arithmetic of SCRAM against the example of RFC 7677 §3, and verifiers in PostgreSQL's format.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  checkPassword,
  checkProof,
  clientFinal,
  clientFirst,
  formatVerifier,
  makeVerifier,
  parseVerifier,
  serverFinal,
} from '../../src/sasl/scram.ts';
import { systemRandom as random } from '../../src/system/world.ts';

const first = 'n=user,r=rOprNGfwEbeRWgbNEkqO';
const nonce = 'rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0';
const challenge = `r=${nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`;
const proof = 'dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=';
const signature = 'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=';
/** What PostgreSQL keeps for 'pencil' with that salt: StoredKey and ServerKey of the example. */
const kept =
  'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=';

describe('the example of RFC 7677', () => {
  test('as its client', async () => {
    assert.equal(clientFirst('user', 'rOprNGfwEbeRWgbNEkqO'), first);
    assert.deepEqual(await clientFinal('pencil', first, challenge), {
      response: `c=biws,r=${nonce},p=${proof}`,
      expected: signature,
    });
  });

  test('as its server', () => {
    const verifier = parseVerifier(kept);
    assert.ok(verifier);
    const authMessage = `${first},${challenge},c=biws,r=${nonce}`;
    assert.equal(checkProof(verifier, authMessage, Buffer.from(proof, 'base64')), true);
    assert.equal(checkProof(verifier, `${authMessage}x`, Buffer.from(proof, 'base64')), false);
    assert.equal(checkProof(verifier, authMessage, Buffer.from(proof, 'base64').subarray(1)), false);
    assert.equal(serverFinal(verifier, authMessage), signature);
  });

  test('as its password', async () => {
    const verifier = parseVerifier(kept);
    assert.ok(verifier);
    assert.equal(await checkPassword(verifier, 'pencil'), true);
    assert.equal(await checkPassword(verifier, 'pencil2'), false);
  });
});

test('a client gives nothing to a server that answers someone else, malformed, or asks for too little or too much work', async () => {
  const bad = [
    challenge.replace('rOprNGfwEbeRWgbNEkqO', 'sOprNGfwEbeRWgbNEkqO'),
    challenge.replace('%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0', ''),
    challenge.replace('4096', '4095'),
    challenge.replace('4096', '9999999'),
    challenge.replace('4096', '4096x'),
    `m=ext,${challenge}`,
    'e=other-error',
    '',
  ];
  for (const text of bad) assert.equal(await clientFinal('pencil', first, text), undefined, text);
  assert.ok(await clientFinal('pencil', first, `${challenge},x=extension`));
});

test('commas and equals signs in a name are written as they must be', () => {
  assert.equal(clientFirst('a=b,c', 'x'), 'n=a=3Db=2Cc,r=x');
});

test('a verifier that is made is read again, and knows its password alone', async () => {
  const [one, other] = await Promise.all([makeVerifier('sésame', random), makeVerifier('sésame', random)]);
  const text = formatVerifier(one);
  assert.match(text, /^SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$/);
  assert.notEqual(text, formatVerifier(other));
  assert.deepEqual(parseVerifier(text), one);
  assert.equal(await checkPassword(one, 'sésame'), true);
  assert.equal(await checkPassword(one, 'sesame'), false);
});

test('one password typed in two ways is one: NFKC, and every space is a space', async () => {
  const verifier = await makeVerifier('se\u0301same\u1680ﬁ', random);
  assert.equal(await checkPassword(verifier, 'sésame fi'), true);
  assert.equal(await checkPassword(verifier, Buffer.from('sésame\u00a0fi')), true);
});

test('octets that are not UTF-8 are a password as they are', async () => {
  const verifier = await makeVerifier(Buffer.from([0xff, 0x20]), random);
  assert.equal(await checkPassword(verifier, Buffer.from([0xff, 0x20])), true);
  assert.equal(await checkPassword(verifier, Buffer.from([0xfe, 0x20])), false);
});

test('what is no verifier is none', () => {
  const bad = [
    '',
    'secret',
    'md5e8a48653851e28c69d0506508fb27fc5',
    kept.slice(0, -1),
    `${kept} `,
    kept.replace('4096', '0'),
    kept.replace('4096', '5000001'),
    kept.replace('SHA-256', 'SHA-1'),
    kept.replace('WG5d', '_G5d'),
  ];
  for (const text of bad) assert.equal(parseVerifier(text), undefined, text);
});
