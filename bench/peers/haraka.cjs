// A plugin that makes Haraka do our work: mail for bench.test into Maildirs, all other mail to the sink. MAIL, SINK,
// MAILDIR from the environment.
'use strict';
const { store } = require(process.env.MAILDIR);

exports.register = function () {
  this.register_hook('rcpt', 'accept');
  this.register_hook('queue', 'keep');
  this.register_hook('get_mx', 'sink');
};
exports.accept = (next, connection, [{ host }]) => {
  connection.relaying = host !== 'bench.test';
  next(OK);
};
exports.sink = next => next(OK, { priority: 0, exchange: '127.0.0.1', port: Number(process.env.SINK) });
exports.keep = async (next, { transaction }) => {
  const users = transaction.rcpt_to.map(({ user }) => user);
  const failure = await store(transaction.message_stream, users).catch(String);
  next(failure ? DENYSOFT : OK, failure);
};
