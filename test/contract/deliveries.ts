// What an attempt may bring, for the tests of the queues.
import type { Delivery } from '../../src/mail/message.ts';

export const delivered: Delivery = { kind: 'delivered', status: '2.0.0', text: 'ok', remote: 'mx.example' };
export const failed: Delivery = { kind: 'failed', status: '5.1.1', text: 'unknown', remote: 'mx.example' };
export const greylisted: Delivery = { kind: 'deferred', status: '4.7.1', text: 'come back', remote: 'mx.example' };
export const unreachable: Delivery = { kind: 'deferred', status: '4.4.1', text: 'refused', isUnreachable: true };
