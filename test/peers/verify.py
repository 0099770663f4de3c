#!/usr/bin/env python3
# Verifies DKIM signatures by two implementations that are not ours: dkimpy and OpenDKIM.
# Arguments: a text that one message in the Maildir has; then for each key a name and its TXT record. Prints JSON:
# {"dkimpy": ["r1 pass", …], "opendkim": "what it says"}.
import glob, json, re, subprocess, sys, tempfile
import dkim

marker, *rest = sys.argv[1:]
records = dict(zip(rest[::2], rest[1::2]))
found = [data for path in glob.glob('/var/mail/all/new/*') if marker.encode() in (data := open(path, 'rb').read())]
if len(found) != 1:
    sys.exit(f'{len(found)} messages')
# What Postfix has put in front is not ours, and a Maildir has LF where the wire had CRLF.
message = found[0][found[0].index(b'DKIM-Signature:'):].replace(b'\n', b'\r\n')

def lookup(name, timeout=5):
    return records[name.decode().rstrip('.')].encode()

selectors = re.findall(rb'^ s=([^;]+);', message.split(b'\r\n\r\n')[0], re.M)
verdicts = []
for index, selector in enumerate(selectors):
    verifier = dkim.DKIM(message)
    verdicts.append(f"{selector.decode()} {'pass' if verifier.verify(idx=index, dnsfunc=lookup) else 'fail'}")

with tempfile.NamedTemporaryFile('w') as keys, tempfile.NamedTemporaryFile('w') as settings, \
        tempfile.NamedTemporaryFile('wb') as mail:
    keys.writelines(f'{name} {record}\n' for name, record in records.items())
    settings.write(f'Mode v\nTestPublicKeys {keys.name}\nSyslog no\n')
    mail.write(message)
    for file in keys, settings, mail:
        file.flush()
    said = subprocess.run(['opendkim', '-x', settings.name, '-t', mail.name, '-v', '-v'], capture_output=True, text=True)
print(json.dumps({'dkimpy': verdicts, 'opendkim': (said.stdout + said.stderr).replace(mail.name, 'mail')}))
