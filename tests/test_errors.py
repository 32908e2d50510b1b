"""Messages carry neither credentials nor control characters."""

import pytest

from biggan.errors import InputError, printable_line


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("https://user:pw@host/a: no", "https://***@host/a: no"),
        ("https:/user:pw@host/a", "https:/***@host/a"),  # as pathlib writes it
        ("https://token@host/a", "https://***@host/a"),
        ("s3://user:p/w@host/a", "s3://***@host/a"),
        ("https://host/a?X-Amz-Signature=abc&b=1", "https://host/a?X-Amz-Signature=***&b=1"),
        ("https://host/a?token=abc no", "https://host/a?token=*** no"),
        ("runs/a@good and s3://bucket/run@100", "runs/a@good and s3://bucket/run@100"),
        ("http://127.0.0.1:9: refused", "http://127.0.0.1:9: refused"),
        ("a\x1b[31mred\x07\r\n\x9b", "a\\x1b[31mred\\x07\\r\\n\\x9b"),
        ("\u202egnp.exe \udcff", "\\u202egnp.exe \\udcff"),
        ("chat échelle 猫", "chat échelle 猫"),
    ],
)
def test_messages_are_one_line_without_credentials_and_control_characters(text, printed):
    assert printable_line(text) == printed
    assert str(InputError(text)) == printed
