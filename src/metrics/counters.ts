// What is counted of the life events of messages and sessions. docs/metrics.md explains each name; a test compares.
// Promise: labels are bounded, and hold nothing that comes from the network.
import type { Event } from '../mail/event.ts';
import type { Metric } from '../mail/figures.ts';
import { Counter, Histogram } from './family.ts';

const listener = ['smtp', 'submission', 'submissions'];
const seconds = [0.005, 0.025, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 3600];
const ages = [1, 10, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 172_800, 432_000];
const hop = ['here', 'lmtp', 'relay', 'domain'];
const methods = new Set(['spf', 'dkim', 'arc', 'dmarc']);
const words = new Set(['none', 'pass', 'fail', 'softfail', 'neutral', 'policy', 'temperror', 'permerror']);

export class Counters {
  readonly sessions = new Counter('slimsmtp_sessions_total', 'Sessions that have ended, probes left out.', {
    listener,
  });
  readonly probes = new Counter('slimsmtp_probes_total', 'Connections on which nothing was said but QUIT.', {
    listener,
  });
  readonly turnedAway = new Counter('slimsmtp_turned_away_total', 'Clients that heard 421 at the greeting.', {
    because: ['sessions', 'sessions of a client'],
  });
  readonly logins = new Counter('slimsmtp_logins_total', 'Logins, by their end.', {
    result: ['ok', 'failed', 'later'],
  });
  readonly refused = new Counter('slimsmtp_refused_total', 'MAIL and RCPT that were refused.', {
    command: ['MAIL', 'RCPT'],
    code: ['4xx', '5xx'],
  });
  readonly messages = new Counter('slimsmtp_messages_total', 'Messages from clients, by what became of them.', {
    result: ['delivered', 'queued', 'refused', 'abandoned'],
  });
  readonly bytes = new Counter('slimsmtp_message_bytes_total', 'Octets of the messages that were kept.');
  readonly verdicts = new Counter('slimsmtp_verdicts_total', 'What the checks of whole messages have said.', {
    check: [],
    result: [],
  });
  readonly authentication = new Counter('slimsmtp_authentication_total', 'Results of SPF, DKIM, ARC and DMARC.', {
    method: [...methods],
    result: [...words],
  });
  readonly deliveries = new Counter(
    'slimsmtp_deliveries_total',
    'Recipients of queued mail, by what an attempt brought.',
    {
      hop,
      result: ['delivered', 'deferred', 'failed'],
    },
  );
  readonly notices = new Counter('slimsmtp_notices_total', 'Recipients of whom a notice has told, by what it said.', {
    action: ['failed', 'delayed', 'delivered', 'relayed', 'expanded'],
  });
  readonly forwards = new Counter('slimsmtp_forwards_total', 'Forwards that were put into the queue.');
  readonly childrenStarted = new Counter('slimsmtp_children_started_total', 'Child processes that were started.', {
    child: ['judge', 'http'],
  });
  readonly childrenEnded = new Counter('slimsmtp_children_ended_total', 'Child processes that have ended.', {
    child: ['judge', 'http'],
  });
  readonly sessionSeconds = new Histogram('slimsmtp_session_seconds', 'How long sessions took.', seconds, { listener });
  readonly messageSeconds = new Histogram(
    'slimsmtp_message_seconds',
    'From the start of the content of a message until it was kept.',
    seconds,
  );
  readonly attemptSeconds = new Histogram('slimsmtp_attempt_seconds', 'How long attempts took.', seconds, { hop });
  readonly queueSeconds = new Histogram('slimsmtp_queue_seconds', 'How old queued mail was when it was done.', ages, {
    result: ['delivered', 'failed'],
  });

  hear(event: Event): void {
    switch (event.kind) {
      case 'turned away':
        return this.turnedAway.add([event.because]);
      case 'session':
        if (event.isProbe) return this.probes.add([event.listener]);
        this.sessions.add([event.listener]);
        return this.sessionSeconds.observe(event.ms / 1000, event.listener);
      case 'login':
        return this.logins.add([event.result]);
      case 'refused':
        return this.refused.add([event.to === undefined ? 'MAIL' : 'RCPT', `${event.reply[0]}xx`]);
      case 'message':
        return this.#message(event);
      case 'attempt':
        this.deliveries.add([event.hop, event.result], event.recipients);
        this.attemptSeconds.observe(event.ms / 1000, event.hop);
        if (event.result !== 'deferred') this.queueSeconds.observe(event.ageMs / 1000, event.result);
        return undefined;
      case 'notice':
        for (const { action } of event.outcomes) this.notices.add([action]);
        return undefined;
      case 'forward':
        return this.forwards.add();
      case 'child':
        return (event.state === 'started' ? this.childrenStarted : this.childrenEnded).add([event.name]);
      case 'order':
        return undefined;
      default:
        return event satisfies never;
    }
  }

  #message({ result, sizeBytes, ms, verdicts }: Extract<Event, { kind: 'message' }>): void {
    this.messages.add([result]);
    if (result === 'delivered' || result === 'queued') {
      this.bytes.add([], sizeBytes);
      this.messageSeconds.observe(ms / 1000);
    }
    for (const { check, result: said, results = [] } of verdicts) {
      this.verdicts.add([check, said]);
      for (const each of results) {
        const [, method = '', word = ''] = /^(\w+)=(\w+)/.exec(each) ?? [];
        if (methods.has(method) && words.has(word)) this.authentication.add([method, word]);
      }
    }
  }

  get metrics(): readonly Metric[] {
    return Object.values(this).map(family => (family as Counter | Histogram).metric);
  }
}
