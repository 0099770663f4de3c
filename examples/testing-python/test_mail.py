"""Tests of a program that sends mail, with nothing but Python's standard library.

The mail server runs beside the tests, as a service container or by hand:

    docker run --rm -p 127.0.0.1:1025:1025 -p 127.0.0.1:8025:8025 -e SLIM_CAPTURE=on slimsmtp
    python3 -m unittest discover -s examples/testing-python
"""

import json
import os
import smtplib
import unittest
from email.message import EmailMessage
from urllib.parse import urlencode
from urllib.request import Request, urlopen

SMTP = (os.environ.get("SMTP_HOST", "127.0.0.1"), int(os.environ.get("SMTP_PORT", "1025")))
API = os.environ.get("MAIL_API", "http://127.0.0.1:8025")


def call(path, method="GET"):
    """What the REST API answers; None where it has nothing to say."""
    with urlopen(Request(API + path, method=method), timeout=30) as answer:
        said = answer.read()
        return json.loads(said) if answer.headers.get_content_type() == "application/json" and said else None


def wait_for_message(**wanted):
    """The newest message to an address, with a subject: as soon as it is there, and for ten seconds at most."""
    found = call("/api/v1/messages?" + urlencode({**wanted, "wait": "10s"}))
    if found is None:
        raise AssertionError(f"no message came: {wanted}")
    return call("/api/v1/message/" + found["messages"][0]["ID"])


def sign_up(address):
    """Stands for the program."""
    message = EmailMessage()
    message["From"] = "Shop <shop@example.com>"
    message["To"] = address
    message["Subject"] = "Welcome to the shop"
    message.set_content("Please confirm: https://shop.example.com/confirm/7f3a")
    with smtplib.SMTP(*SMTP, timeout=10) as server:
        server.send_message(message)


class SignUp(unittest.TestCase):
    def setUp(self):
        call("/api/v1/messages", "DELETE")

    def test_a_link_to_confirm_comes(self):
        sign_up("anton@example.net")
        message = wait_for_message(to="anton@example.net", subject="Welcome")
        self.assertEqual(message["From"]["Address"], "shop@example.com")
        self.assertRegex(message["Text"], r"https://shop\.example\.com/confirm/\w+")

    def test_a_full_mailbox_is_noticed(self):
        # The address itself asks for that reply.
        with self.assertRaises(smtplib.SMTPRecipientsRefused) as refused:
            sign_up("reply-452@any.test")
        self.assertEqual(refused.exception.recipients["reply-452@any.test"][0], 452)


if __name__ == "__main__":
    unittest.main()
