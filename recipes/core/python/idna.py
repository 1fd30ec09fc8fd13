"""The codec `idna` for names in ASCII: the one that getaddrinfo passes every name through.

CPython's own wants unicodedata, which is a megabyte. Other names are refused with a UnicodeError;
write them as xn--...
"""
import codecs


def encode(text: str, errors: str = "strict") -> tuple:
    """(bytes, length) of a host name; each label has 1 to 63 characters, a last dot may follow."""
    data = text.encode("ascii")
    labels = data.removesuffix(b".").split(b".")
    if data and not all(0 < len(label) < 64 for label in labels):
        raise UnicodeError("label empty or too long")
    return data, len(text)


def decode(data: bytes, errors: str = "strict") -> tuple:
    """(text, length) of a host name; xn--... stays as it is."""
    return bytes(data).decode("ascii"), len(data)


def getregentry() -> codecs.CodecInfo:
    """What `encodings` looks for."""
    return codecs.CodecInfo(encode, decode, name="idna")
