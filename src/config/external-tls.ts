// TLS to other servers (SLIM_EXTERNAL_TLS): the policy, then domains that have another one.
import { type Parser, listOf, oneOf, parser } from './parser.ts';
import { domain } from './values.ts';

const policy = oneOf('required', 'opportunistic');
type Policy = ReturnType<typeof policy>;
type ExternalTls = { readonly policy: Policy; readonly exceptions: Readonly<Record<string, Policy>> };

const exceptions = listOf(
  parser(
    'required or opportunistic first, then exceptions, such as example.net=opportunistic',
    /^([^=]+)=([^=]+)$/,
    (name, text) => ({ domain: domain(name), policy: policy(text) }),
  ),
  each => each.domain,
);

export const externalTls: Parser<ExternalTls> = text => {
  const [first = '', ...rest] = text.split('\n');
  const usual = policy(first);
  const listed = rest.length > 0 ? exceptions(rest.join('\n')) : [];
  return { policy: usual, exceptions: Object.fromEntries(listed.map(each => [each.domain, each.policy])) };
};
