// The registry of SMTP extensions: all that can be announced, in EHLO's order. To add one: its name here; a parameter of MAIL
// or RCPT in `shapes` and in the wishes (envelope.ts; the queue keeps those by itself); one of EHLO in wiring/receiving.ts; a dialogue.
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
