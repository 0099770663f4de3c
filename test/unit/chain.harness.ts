// A root, an authority below it, and a certificate of a host, for tests of verification; and the PEM of the host's key.
import { KeyObject, X509Certificate, webcrypto } from 'node:crypto';
import { createCertificate } from '../../src/tls/certificates.ts';
import { systemClock, systemRandom } from '../../src/system/world.ts';

const dayMs = 86_400_000;

export async function makeChain(hostname: string, now: number) {
  // It also makes @peculiar/x509 loadable.
  await createCertificate({ hostname, clock: systemClock, random: systemRandom });
  const x509 = await import('@peculiar/x509');
  const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const newKeys = () => webcrypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
  const keys = { root: await newKeys(), middle: await newKeys(), leaf: await newKeys() };
  const make = async (subject: keyof typeof keys, issuer: keyof typeof keys): Promise<X509Certificate> => {
    const made = await x509.X509CertificateGenerator.create({
      serialNumber: systemRandom.hex(8),
      subject: `CN=${subject}`,
      issuer: `CN=${issuer}`,
      notBefore: new Date(now - dayMs),
      notAfter: new Date(now + 365 * dayMs),
      signingAlgorithm,
      publicKey: keys[subject].publicKey,
      signingKey: keys[issuer].privateKey,
      extensions: [
        new x509.BasicConstraintsExtension(subject !== 'leaf', undefined, true),
        ...(subject === 'leaf' ? [new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: hostname }])] : []),
      ],
    });
    return new X509Certificate(made.toString('pem'));
  };
  const key = KeyObject.from(keys.leaf.privateKey).export({ type: 'pkcs8', format: 'pem' }).toString();
  return {
    root: await make('root', 'root'),
    middle: await make('middle', 'root'),
    leaf: await make('leaf', 'middle'),
    key,
  };
}
