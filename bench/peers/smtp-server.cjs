// nodemailer's smtp-server with our Maildir: what one would write to receive mail with it. PORT, MAIL, MODULES,
// CERTIFICATE from the environment.
'use strict';
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { SMTPServer } = require(join(process.env.MODULES, 'smtp-server'));
const { store } = require('./maildir.cjs');

const pem = readFileSync(process.env.CERTIFICATE);
const server = new SMTPServer({
  authOptional: true,
  banner: 'bench',
  cert: pem,
  disabledCommands: ['AUTH'],
  disableReverseLookup: true,
  key: pem,
  logger: false,
  size: 60_000_000,
  socketTimeout: 600_000,
  onData(stream, { envelope }, answer) {
    const users = envelope.rcptTo.map(({ address }) => address.split('@')[0]);
    store(stream, users).then(() => answer(null, 'stored'), answer);
  },
});
server.on('error', error => console.error(error));
server.listen(Number(process.env.PORT), '127.0.0.1');
