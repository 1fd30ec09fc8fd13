"""Make the standard library of the device: stdlib.py LIST SOURCE ZIP, LIST and a folder's .py files
to a zip of .pyc files.

    python -OO -X no_debug_ranges stdlib.py stdlib.txt Lib usr/lib/python311.zip

It is run by the Python that the library is for. The zip is stored, since a deflated one does not
pack again in an image; the .pyc files are never compared with a source; the same input gives the
same bytes.
"""
import importlib.util
import marshal
import os
import re
import sys
import zipfile

UNCHECKED = (1).to_bytes(4, "little")   # PEP 552: has a hash, and it is not looked at
DATE = (1980, 1, 1, 0, 0, 0)            # the first one that a zip can hold


def check_magic(folder: str) -> None:
    """Exit unless this Python writes the bytecode of the library in FOLDER: a cross build has only
    the builder's Python."""
    with open(os.path.join(folder, "importlib/_bootstrap_external.py"), encoding="utf-8") as file:
        number = re.search(r"^MAGIC_NUMBER = \((\d+)\)", file.read(), re.MULTILINE)[1]
    if importlib.util.MAGIC_NUMBER[:2] != int(number).to_bytes(2, "little"):
        sys.exit(f"stdlib.py: {sys.executable} is {sys.version.split()[0]}, whose bytecode is not "
                 f"number {number}; the builder must bring the same python3.N")


def compile_file(folder: str, path: str) -> bytes:
    """The .pyc of a source, with no path but its own in it; level 2 leaves out docstrings."""
    with open(os.path.join(folder, path), "rb") as file:
        source = file.read()
    code = compile(source, path, "exec", dont_inherit=True, optimize=2)
    magic = importlib.util.MAGIC_NUMBER
    return magic + UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code)


def main(listing: str, folder: str, target: str) -> None:
    """Write the zip TARGET of what LISTING names in FOLDER."""
    check_magic(folder)
    with open(listing, encoding="utf-8") as file:
        paths = sorted(line.strip() for line in file if not line.startswith("#"))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            info = zipfile.ZipInfo(path + "c", DATE)
            info.external_attr = 0o100644 << 16
            archive.writestr(info, compile_file(folder, path))


main(*sys.argv[1:])
