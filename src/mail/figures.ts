// Figures of the server: as Prometheus has them, and what the status page says besides. Plain data, which IPC carries;
// no content of a message, no address, no secret.
export type Sample = Readonly<{
  /** Bounded in number: never a name or an address from the network. */
  labels: Readonly<Record<string, string>>;
  value: number;
  /** Which part of a histogram this is. */
  part?: 'bucket' | 'sum' | 'count';
}>;

/** One metric with all of its samples. Seconds and octets; the name says which. */
export type Metric = Readonly<{
  name: string;
  help: string;
  type: 'counter' | 'gauge' | 'histogram';
  samples: readonly Sample[];
}>;

/**
 * What happened in a minute that began at `at` (ms since 1970): messages taken, recipients and messages refused,
 * recipients of queued mail.
 */
export type Minute = Readonly<{
  at: number;
  taken: number;
  refused: number;
  sent: number;
  deferred: number;
  failed: number;
}>;

export type Figures = Readonly<{
  version: string;
  hostname: string;
  now: number;
  startedAt: number;
  /** The health as `slimsmtp health` says it. */
  health: 'healthy' | 'degraded' | 'unhealthy';
  /** What is wrong, in sentences. */
  troubles: readonly string[];
  /** The last hour, the oldest first; the last one is not over. Empty where nothing is counted. */
  minutes: readonly Minute[];
  metrics: readonly Metric[];
}>;
