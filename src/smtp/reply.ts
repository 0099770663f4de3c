// Replies: the one table of everything this server can say to a client, and how a reply becomes octets.
// Promise: every line is ASCII, ends in CRLF, has at most 512 octets (RFC 5321 §4.5.3.1.5), and holds nothing that was
// configured or sent, but the host name, the queue id and what a block list says. RFC 5321 §4.2, RFC 2034, 3463, 5248.

export type Reply = {
  readonly code: number;
  readonly status?: string; // enhanced, such as '5.1.1'; none where RFC 2034 §4 forbids it (greeting, EHLO, 3xx)
  readonly text: string; // lines are separated by LF
};
const reply = (code: number, status: string, text: string): Reply => ({ code, status, text });

export const replies = {
  greeting: (hostname: string, note = ''): Reply => ({ code: 220, text: `${hostname} ESMTP SlimSMTP${note}` }),
  hello: (lines: readonly string[]): Reply => ({ code: 250, text: lines.join('\n') }),
  help: reply(214, '2.0.0', 'HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH\nSee RFC 5321'),
  readyForTls: reply(220, '2.0.0', 'Ready to start TLS'),
  bye: reply(221, '2.0.0', 'Bye'),
  loggedIn: reply(235, '2.7.0', 'Authentication succeeded'),
  ok: reply(250, '2.0.0', 'OK'),
  senderOk: reply(250, '2.1.0', 'Sender OK'),
  recipientOk: reply(250, '2.1.5', 'Recipient OK'),
  kept: (how: 'Delivered' | 'Queued', id: string) => reply(250, '2.0.0', `${how} as ${id}`),
  cannotVerify: reply(252, '2.5.0', 'Cannot verify, but send it and it will be tried'),
  challenge: (base64: string): Reply => ({ code: 334, text: base64 }),
  sendMessage: { code: 354, text: 'Send the message; end it with <CRLF>.<CRLF>' } as Reply,
  // Not now: the client tries again.
  tooMany: (what: string) => reply(421, '4.7.0', `Too many ${what}`),
  timeout: reply(421, '4.4.2', 'Timeout, closing'),
  shuttingDown: reply(421, '4.3.2', 'Server is shutting down, try again later'),
  internalError: reply(421, '4.3.0', 'Internal error, try again later'),
  tooMuchMail: reply(450, '4.7.1', 'Too much mail from you for now, try again later'),
  spamLater: reply(451, '4.7.1', 'This message cannot be taken yet, try again later'),
  judgeLater: reply(451, '4.7.0', 'Cannot verify the author of this message now, try again later'),
  cannotTell: (status: string) => reply(451, status, 'Cannot look this address up now, try again later'),
  notStored: (status: string) => reply(status === '4.3.1' ? 452 : 451, status, 'Cannot store it now, try again later'),
  cannotLogin: reply(454, '4.7.0', 'Cannot check this login now, try again later'),
  tooManyLogins: reply(454, '4.7.0', 'Too many failed logins, try again later'),
  envelopesFull: reply(452, '4.3.1', 'No room for more addresses now, try again later'),
  tooManyRecipients: reply(452, '4.5.3', 'Too many recipients, send the message again for the others'),
  // No: the command is wrong, or out of place.
  bareLineFeed: reply(500, '5.5.2', 'A line must end in CRLF, not in a bare LF'),
  lineTooLong: reply(500, '5.5.2', 'Line too long'),
  badCharacter: reply(500, '5.5.2', 'Control characters or invalid UTF-8 in a command'),
  unknownCommand: reply(500, '5.5.1', 'Command not recognized'),
  noParameterHere: reply(501, '5.5.4', 'This command takes no parameter'),
  syntax: (usage: string) => reply(501, '5.5.4', `Syntax: ${usage}`),
  parameterSyntax: reply(501, '5.5.4', 'A parameter is malformed or given twice'),
  badResponse: reply(501, '5.5.2', 'The response is malformed'),
  loginCancelled: reply(501, '5.7.0', 'Authentication cancelled'),
  badSender: reply(501, '5.1.7', 'The sender address is malformed'),
  badRecipient: reply(501, '5.1.3', 'The recipient address is malformed'),
  notImplemented: reply(502, '5.5.1', 'Command not implemented'),
  outOfOrder: (verb: 'EHLO' | 'MAIL') => reply(503, '5.5.1', `Send ${verb} first`),
  activeAlready: (what: 'TLS' | 'Your login') => reply(503, '5.5.1', `${what} is active already`),
  transactionOpen: reply(503, '5.5.1', 'A transaction is open already; send RSET first'),
  unknownMechanism: reply(504, '5.5.4', 'This authentication mechanism is not offered'),
  unknownParameter: reply(555, '5.5.4', 'A parameter is not recognized or not offered'),
  // No: policy, addresses, content.
  needTls: reply(530, '5.7.0', 'Send STARTTLS first'),
  needLogin: reply(530, '5.7.0', 'Authentication required'),
  loginFailed: reply(535, '5.7.8', 'Authentication failed'),
  needTlsForLogin: reply(538, '5.7.11', 'Authentication needs TLS; send STARTTLS first'),
  noSuchMailbox: reply(550, '5.1.1', 'No such mailbox'),
  mailboxRefuses: (status: string) => reply(550, status, 'The mailbox does not take this message'),
  badDomain: reply(550, '5.1.2', 'The domain of this address is not a valid name'),
  notYourFrom: reply(550, '5.7.1', 'From must be one field with addresses that this login may send from'),
  relayDenied: reply(550, '5.7.1', 'This server does not relay to other domains'),
  bareLineEnd: reply(550, '5.6.11', 'The message has a bare CR or LF; lines must end in CRLF'),
  severalAuthors: reply(550, '5.7.1', 'The message has several authors, and a domain of theirs forbids that'),
  notTheAuthors: reply(550, '5.7.26', 'The domain of the author does not vouch for this message'),
  spam: reply(550, '5.7.1', 'This message looks like spam'),
  listed: (text: string) => reply(554, '5.7.1', text || 'Your address is on a block list'),
  messageTooBig: reply(552, '5.3.4', 'The message exceeds the size limit'),
  notYourAddress: reply(553, '5.7.1', 'This login may not send from that address'),
  headerTooLong: reply(552, '5.3.4', 'The header of the message is too long'),
  utf8Needed: reply(553, '5.6.7', 'A non-ASCII address needs the SMTPUTF8 parameter'),
  noValidRecipients: reply(554, '5.5.1', 'No valid recipients'),
  onDemand: (code: number, why: string) => reply(code, `${Math.floor(code / 100)}.0.0`, why), // for tests: src/capture/
  loop: (why: string): Reply => reply(554, '5.4.6', `${why}, the message loops`),
} as const;

/** The octets of a reply, as a string of ASCII; without its enhanced status code where that was not announced. */
export function encodeReply(answer: Reply, withStatus: boolean): string {
  const status = withStatus && answer.status !== undefined ? `${answer.status} ` : '';
  const lines = answer.text.split('\n');
  return lines.map((line, i) => `${answer.code}${i < lines.length - 1 ? '-' : ' '}${status}${line}\r\n`).join('');
}
