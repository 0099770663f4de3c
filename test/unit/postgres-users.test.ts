// The table `users`: it is made where it is missing and may be made; every other error stays 'cannot tell'.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CannotTell } from '../../src/mail/ports.ts';
import type { Query } from '../../src/postgres/pool.ts';
import { openTablePasswords } from '../../src/postgres/users.ts';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const failing = (code: string) => new CannotTell('no', { cause: Object.assign(new Error('no'), { code }) });

test('a table that is missing is made, and asked again', async () => {
  let exists = false;
  const query: Query = async ({ text, expected }) => {
    if (text.startsWith('CREATE')) exists = true;
    else if (!exists) {
      assert.ok(expected?.includes('42P01'), 'a missing table counts as a fault of the database');
      throw failing('42P01');
    }
    return [];
  };
  assert.equal(await openTablePasswords(query, log)(['anton']), undefined);
  assert.equal(exists, true);
});

test('where the table may not be made, and in an outage, it cannot be told', async () => {
  const forbidden: Query = async ({ text }) => {
    throw failing(text.startsWith('CREATE') ? '42501' : '42P01');
  };
  await assert.rejects(openTablePasswords(forbidden, log)(['anton']), CannotTell);
  const asked: string[] = [];
  const away: Query = async ({ text }) => {
    asked.push(text);
    throw failing('57P01');
  };
  await assert.rejects(openTablePasswords(away, log)(['anton']), CannotTell);
  assert.equal(asked.length, 1);
});

test('a row without a password is a password that nobody has', async () => {
  const query: Query = async () => [{ password: null }];
  assert.equal(await openTablePasswords(query, log)(['anton']), '');
});
