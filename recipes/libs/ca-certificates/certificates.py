#!/usr/bin/env python3
"""certificates.py CERTDATA: print the certificates that Mozilla trusts for web sites, as PEM.

CERTDATA is the text from which NSS makes its list: a certificate is one object, and whether it is
trusted another, which names the first by its SHA-1.
"""

import base64
import hashlib
import re
import sys
from typing import Dict, Iterator

ATTRIBUTE = re.compile(r"^(CKA_\w+) (\w+)(?: (.*)|\n((?:\\\d+|\n)*)END)$", re.MULTILINE)


def objects(text: str) -> Iterator[Dict[str, object]]:
    """The objects of a certdata.txt: attribute to its text, or to its bytes if it is octal."""
    for part in text.split("\nCKA_CLASS ")[1:]:
        yield {name: bytes(int(digits, 8) for digits in re.findall(r"\\(\d+)", octal))
               if kind == "MULTILINE_OCTAL" else value.strip('"')
               for name, kind, value, octal in ATTRIBUTE.findall("CKA_CLASS " + part)}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        every = list(objects(file.read()))
    trusted = {thing["CKA_CERT_SHA1_HASH"] for thing in every
               if thing.get("CKA_TRUST_SERVER_AUTH") == "CKT_NSS_TRUSTED_DELEGATOR"}
    for thing in every:
        if hashlib.sha1(thing.get("CKA_VALUE", b"")).digest() in trusted:
            text = base64.encodebytes(thing["CKA_VALUE"]).decode()
            print(f"# {thing['CKA_LABEL']}\n-----BEGIN CERTIFICATE-----\n{text}"
                  "-----END CERTIFICATE-----")


if __name__ == "__main__":
    main()
