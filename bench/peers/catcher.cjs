// Mail catchers as people build them out of npm packages, with a list of the mail over HTTP: `smtp-server` with
// `mailparser`, and `smtp-tester`.
'use strict';
const { createServer } = require('node:http');

const mails = [];
const keep = ({ subject = '', from, to, text, html }) => mails.push({ subject, from, to, text, html });
if (process.argv[2] === 'smtp-tester') {
  const server = require('smtp-tester').init(Number(process.env.SMTP));
  server.bind((_address, _id, { headers, body, html, sender, receivers }) =>
    keep({ subject: headers.subject, from: sender, to: Object.keys(receivers), text: body, html }),
  );
} else {
  const { SMTPServer } = require('smtp-server');
  const { simpleParser } = require('mailparser');
  new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    disableReverseLookup: true,
    onData(stream, _session, done) {
      simpleParser(stream, {}, (error, mail) => {
        if (mail)
          keep({ subject: mail.subject, from: mail.from?.text, to: mail.to?.text, text: mail.text, html: mail.html });
        done(error);
      });
    },
  }).listen(Number(process.env.SMTP), '127.0.0.1');
}
createServer((request, response) => {
  const { searchParams } = new URL(request.url, 'http://x');
  const subject = searchParams.get('subject');
  const found = subject === null ? mails : mails.filter(mail => mail.subject.includes(subject));
  const shown = found
    .slice(-Number(searchParams.get('limit')))
    .map(mail => ({ subject: mail.subject, from: mail.from, to: mail.to }));
  response.end(JSON.stringify({ total: mails.length, shown: shown.toReversed() }));
}).listen(Number(process.env.HTTP), '127.0.0.1');
