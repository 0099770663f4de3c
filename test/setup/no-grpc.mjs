// dockerode, inside testcontainers, loads gRPC for sessions with BuildKit, which no test has; loading it generates code
// from strings, and tests run under the image's flags, which forbid that. So it gets an empty module instead. Given to
// node by --import.
import { registerHooks } from 'node:module';

registerHooks({
  load: (url, context, next) =>
    url.includes('/node_modules/@grpc/')
      ? { format: 'commonjs', source: 'module.exports = {}', shortCircuit: true }
      : next(url, context),
});
