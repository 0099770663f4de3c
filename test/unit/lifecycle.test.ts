// Parts start in their order and stop in reverse; neither a failed start nor a failed stop leaves a part running.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Parts, startAll } from '../../src/system/lifecycle.ts';

function recorded() {
  const events: string[] = [];
  const named = (name: string, how: { fails?: 'start' | 'stop' } = {}): Parts => ({
    [name]: async () => {
      events.push(`start ${name}`);
      if (how.fails === 'start') throw new Error(`${name} cannot start`);
      return async () => {
        events.push(`stop ${name}`);
        if (how.fails === 'stop') throw new Error(`${name} cannot stop`);
      };
    },
  });
  const complain = (name: string, error: unknown) => void events.push(`${name}: ${(error as Error).message}`);
  return { events, named, complain };
}

describe('a list of parts', () => {
  it('starts in order, each with its predecessors running, and stops in reverse', async () => {
    const { events, named, complain } = recorded();
    const stop = await startAll({ ...named('a'), ...named('b'), ...named('c') }, complain);
    await stop();
    assert.deepEqual(events, ['start a', 'start b', 'start c', 'stop c', 'stop b', 'stop a']);
    await stop();
    assert.equal(events.length, 6, 'stopped once');
  });

  it('is stopped as far as it came, when one cannot start', async () => {
    const { events, named, complain } = recorded();
    const failing = startAll({ ...named('a'), ...named('b', { fails: 'start' }), ...named('c') }, complain);
    await assert.rejects(failing, { message: 'b cannot start' });
    assert.deepEqual(events, ['start a', 'start b', 'stop a']);
  });

  it('goes on stopping, when one cannot stop', async () => {
    const { events, named, complain } = recorded();
    await (
      await startAll({ ...named('a'), ...named('b', { fails: 'stop' }) }, complain)
    )();
    assert.deepEqual(events.slice(2), ['stop b', 'b: b cannot stop', 'stop a']);
  });
});
