"""A stand-in for unicodedata, a megabyte of tables: what urllib.parse asks of it for a host name.

Text in ASCII is its own normal form; other text is refused.
"""


def normalize(form: str, text: str) -> str:
    """TEXT in ASCII; ValueError for other text, and urllib takes that for a bad URL."""
    if not text.isascii():
        raise ValueError(f"{text!r} is not ASCII, and this Python has no unicodedata")
    return text
