// Metrics in Prometheus' text format, version 0.0.4.
import type { Metric } from '../mail/figures.ts';

export const toText = (metrics: readonly Metric[]): string => metrics.map(describe).join('');

function describe({ name, help, type, samples }: Metric): string {
  const lines = samples.map(({ labels, value, part }) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escape(text)}"`);
    return `${name}${part ? `_${part}` : ''}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('')}`;
}

const escape = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
