// Tests of a program that sends mail, with node:test and nodemailer. The mail server is started by the tests and ends
// with them.
//
//   npm install --save-dev ./slimsmtp-0.2.0.tgz testcontainers nodemailer
//   node --test
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { createTransport } from 'nodemailer';
import { SlimSmtpContainer } from 'slimsmtp/testcontainers';

let server;
before(async () => {
  server = await new SlimSmtpContainer(process.env.SLIMSMTP_IMAGE ?? 'slimsmtp').start();
});
after(() => server?.stop());
beforeEach(() => server.clear());

/** Stands for the program: it is given the address of the mail server, and knows nothing of tests. */
async function signUp(address) {
  const mail = createTransport(server.getSmtpUrl());
  await mail.sendMail({
    from: 'Shop <shop@example.com>',
    to: address,
    subject: 'Welcome to the shop',
    text: 'Please confirm: https://shop.example.com/confirm/7f3a',
  });
}

test('whoever signs up gets a link to confirm', async () => {
  await signUp('anton@example.net');
  const message = await server.waitForMessage({ to: 'anton@example.net', subject: 'Welcome', within: '5s' });
  assert.equal(message.From.Address, 'shop@example.com');
  assert.match(message.Text, /https:\/\/shop\.example\.com\/confirm\/\w+/);
});

test('one who signs up gets one message', async () => {
  await signUp('berta@example.net');
  assert.equal((await server.messages()).length, 1);
});

test('the program hears of a mailbox that is full', async () => {
  // The address itself asks for that reply.
  await assert.rejects(signUp('reply-452@any.test'), { responseCode: 452 });
});
