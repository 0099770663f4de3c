// The settings of ACME: an account's address, and the authority's directory.
import { parser } from './parser.ts';

export const address = parser(
  "an account's mail address is wanted, such as hostmaster@example.com",
  /^(\S+@[^\s@]+)$/,
  String,
);

export const directory = parser(
  'the address of an ACME directory is wanted, such as https://acme.example/directory',
  /^(https:\/\/\S+)$/,
  text => URL.canParse(text) && text,
);
