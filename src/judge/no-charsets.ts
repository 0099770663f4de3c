// In the bundle in place of two packages that mailauth's header parser brings for old character sets: 0.7 MB. Nothing
// of ours asks for a text in them; addresses and tags are ASCII or UTF-8.

export const decode = (octets: Uint8Array): string => Buffer.from(octets).toString('latin1');
export const convert = decode;
