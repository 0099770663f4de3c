// The registry of SMTP extensions, in EHLO's order, for SLIM_SUPPORTS. What else a new one needs: CONTRIBUTING.md.
export const extensionNames = [
  'PIPELINING', // RFC 2920
  'SIZE', // RFC 1870
  '8BITMIME', // RFC 6152
  'SMTPUTF8', // RFC 6531
  'CHUNKING', // RFC 3030
  'DSN', // RFC 3461
  'ENHANCEDSTATUSCODES', // RFC 2034
  'STARTTLS', // RFC 3207
  'AUTH', // RFC 4954
  'LIMITS', // RFC 9422
  'HELP', // RFC 5321 §4.1.1.8
] as const;

export type ExtensionName = (typeof extensionNames)[number];
