#!/usr/bin/env python3
"""lpkg: the package manager of Panux, one file that needs nothing but Python's standard library.

    lpkg.py install busybox                     # from the signed repositories of /etc/lpkg/repos
    lpkg.py --root R --repo http://host/repo --key panux.pub --yes install busybox
    lpkg.py pack --meta zlib.json -o build/repo/x86_64 < out.tar

In the root it reads etc/lpkg/repos and etc/lpkg/keys/*.pub and keeps, under var/lib/lpkg,
installed/NAME (a package and its files), world (what was asked for), held, serials (what was seen
of each index), lock and, while something is being changed, staged and journal. On the repository's
side it writes *.lpkg, index.json, index.json.gz and index.json.minisig.

The invariant: whenever a run was cut, the root is the old system or the new one, and its database
agrees with its files. Nothing that no trusted key has signed is parsed, inflated or left on the
disk, unless it is a local file and --allow-unsigned was said.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: a json.py lying beside it would be run as ours.
    del sys.path[0]

import binascii
import errno
import fcntl
import hashlib
import os
import stat
import time
import zlib

VERSION = "0.1"

STATE = "var/lib/lpkg"
INSTALLED = STATE + "/installed"
WORLD = STATE + "/world"
HELD = STATE + "/held"
SERIALS = STATE + "/serials"
LOCK = STATE + "/lock"
SPOOL = STATE + "/spool"            # has this name for an instant only, then none
STAGED = STATE + "/staged"          # how to undo what is staged; counts until the journal is there
JOURNAL = STATE + "/journal"        # how to finish what is committed
KEYS = "etc/lpkg/keys"
REPOS = "etc/lpkg/repos"
INFO_PATH = ".lpkg/info.json"

PIECE = 1 << 18                     # bytes that are read, inflated or hashed at a time
INDEX_LIMIT = 64 << 20              # bytes of an index.json
SMALL_LIMIT = 64 << 10              # bytes of a key, a signature, a list of repositories
INFO_LIMIT = 32 << 20               # bytes of an info.json: some 100,000 files
NETWORK_TIMEOUT = 30                # seconds without a byte
PATH_LIMIT = 3000                   # bytes of a path; the kernel's own limit is 4096, with the root
NAME_LIMIT = 255                    # bytes of one component, the kernel's limit
ID_LIMIT = 0o7777777                # the largest uid or gid, and
SIZE_LIMIT = 0o77777777777          # the largest file, that a plain tar header holds
COUNT_LIMIT = 1 << 53               # below it, integers of JSON are exact in every language
SOLVER_STEPS = 200_000              # choices that the resolver tries before it gives up
DAY = 86400                         # seconds
CLOCK_IS_SET = 1577836800           # 2020-01-01: a clock before it was never set

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
SETUID = stat.S_ISUID | stat.S_ISGID

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
HEX = DIGITS + "abcdef"
NAME_CHARS = frozenset(LETTERS + DIGITS + "+-._")
VERSION_CHARS = frozenset(LETTERS + DIGITS + "+-._~:")
NO_DIGITS = LETTERS + "+-._~:"

# ---- shared block: the same bytes in pkggen.py and lpkg.py; tests/test_house.py compares them ----


class Fail(Exception):
    """What a user, a network or a disk can cause: one line that says what, where and what to do."""


def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """One line of talk on stderr; over a progress line it starts afresh."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    # The newline too: print writes it by itself, and a parallel build's line may come in between.
    print(clear + printable(text) + "\n", end="", file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Redraw the terminal's last line with TEXT; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        print("\r\033[K" + printable(text)[: width - 1], end="", file=sys.stderr, flush=True)


def human_size(count: float) -> str:
    """COUNT bytes for a person: 999 B, 1.2 kB, 34.0 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def write_atomic(path: str, data: bytes, mode: int = 0o644) -> None:
    """Replace PATH by DATA: a reader, or a power cut, finds the old file or the new one whole."""
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


# ---- end of the shared block ---------------------------------------------------------------------


class Later(Fail):
    """The network or a lock is in the way: the same command may work in a while."""
    status = 3


class Usage(Fail):
    """The command line itself is wrong."""
    status = 2


class Record:
    """A class with named values and nothing else: its __slots__, given in that order."""
    __slots__ = ()

    def __init__(self, *values: object):
        for name, value in zip(self.__slots__, values):
            setattr(self, name, value)


# ---- versions and relations --------------------------------------------------------------------
#
# A version is [EPOCH:]UPSTREAM[-BUILD] and compares as Debian's policy says (5.6.12): runs of other
# characters and runs of digits take turns; digits compare as numbers, the rest with `~` before the
# end, the end before letters, letters before anything else. version_key turns that into a tuple
# that Python compares in the same way.

def char_order(char: str) -> int:
    """The rank of a character that is no digit; the end of a run is 0."""
    if char == "~":
        return -1
    return ord(char) if char in LETTERS else ord(char) + 256


def run_key(text: str) -> tuple:
    """The key of one part of a version: (run, number, run, number, …, end)."""
    key = []
    while text or not key:
        rest = text.lstrip(NO_DIGITS)
        key.append((*map(char_order, text[:len(text) - len(rest)]), 0))
        text = rest.lstrip(DIGITS)
        key.append(int(rest[:len(rest) - len(text)] or 0))
    return (*key, (0,))


def version_key(version: str) -> tuple:
    """A key by which versions sort as dpkg sorts them; equal keys are equal versions."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, build = rest.rpartition("-")
    if not dash:
        upstream, build = rest, ""
    return (int(epoch), run_key(upstream), run_key(build))


def is_name(text: object) -> bool:
    """Whether TEXT may name a package: it is a file name and never an option or a hidden file."""
    return (isinstance(text, str) and 0 < len(text) <= 100 and NAME_CHARS.issuperset(text)
            and text[0] not in "-._+")


def is_version(text: object) -> bool:
    """Whether TEXT is a version, its epoch, if any, a small number."""
    if not isinstance(text, str) or len(text) > 100 or not VERSION_CHARS.issuperset(text):
        return False
    epoch, colon, rest = text.partition(":")
    if colon and (not epoch or epoch.strip(DIGITS) or len(epoch) > 9):
        return False
    return (rest if colon else epoch)[:1] in {*LETTERS, *DIGITS}


class Relation(Record):
    """What a package wants or, NEGATIVE, won't have: a name, and a version that is compared."""
    __slots__ = ("text", "name", "operator", "version", "negative")


def parse_relation(text: object) -> Relation:
    """`name`, `name>=1.2`, `name~1.2` or one of these after `!`; Fail for anything else."""
    body = str(text)[1:] if str(text).startswith("!") else str(text)
    end = 0
    while end < len(body) and body[end] not in "<>=~":
        end += 1
    operator = body[end:end + 2] if body[end:end + 2] in ("<=", ">=") else body[end:end + 1]
    name = body[:end]
    version = body[end + len(operator):]
    if (not isinstance(text, str) or not is_name(name.replace(":", ""))
            or bool(operator) != is_version(version)):
        raise Fail(f"relation {text!r} is not understood; write name, name>=1.2 or !name")
    return Relation(text, name, operator, version, body != text)


def version_fits(version: str, operator: str, wanted: str) -> bool:
    """Whether VERSION OPERATOR WANTED holds; where WANTED names no build, builds don't count.

    `~` means the series: 1.2, 1.2-3 and 1.2.7 are `~1.2`, 1.20 is not; no operator means any."""
    if not operator:
        return True
    if operator == "~":
        following = version[len(wanted):len(wanted) + 1]
        return version.startswith(wanted) and not following.isalnum()
    if "-" not in wanted:
        version = version.rpartition("-")[0] or version
    ours = version_key(version)
    theirs = version_key(wanted)
    return {"=": ours == theirs, "<": ours < theirs, ">": ours > theirs,
            "<=": ours <= theirs, ">=": ours >= theirs}[operator]


# ---- what may stand in a package, an index, a META file ----------------------------------------
#
# Every value that comes from outside passes one of these tables before it is used. Keys that they
# do not name are ignored, so that a later lpkg can add some.

def parse_json(data: bytes, what: str) -> dict:
    """The JSON object in DATA; Fail for anything else, however deep, long or strange."""
    import json

    def integer(digits: str) -> int:
        if len(digits) > 20:            # int() of a million digits takes minutes
            raise ValueError("a number is too long")
        return int(digits)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        value = json.loads(data.decode(), parse_int=integer, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Fail(f"{what}: no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise Fail(f"{what}: not a JSON object")
    return value


def has_control(text: str) -> bool:
    """Whether TEXT holds a control character (C0 or DEL), which no path of ours does."""
    # Nearly all texts are printable, and isprintable() is fast.
    return not text.isprintable() and any(char < " " or char == "\x7f" for char in text)


def is_text(value: object) -> bool:
    """Whether VALUE is text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def is_list(test: object) -> object:
    """A test for a list of what passes TEST."""
    return lambda value: isinstance(value, list) and all(map(test, value))


def is_int(limit: int) -> object:
    """A test for an integer from 0 to LIMIT."""
    return lambda value: type(value) is int and 0 <= value <= limit


def is_digits(digits: str, length: int) -> object:
    """A test for text of LENGTH of these DIGITS: a checksum has one spelling."""
    return lambda value: isinstance(value, str) and len(value) == length and not value.strip(digits)


def is_target(value: object) -> bool:
    """Whether VALUE can be what a symlink points at."""
    return is_text(value) and 0 < len(value.encode()) <= PATH_LIMIT and not has_control(value)


def is_path(path: object, limit: int = PATH_LIMIT) -> bool:
    """Whether PATH is relative, stays where it is put, and leaves lpkg's own files alone."""
    if not is_text(path) or has_control(path) or len(path.encode()) > limit:
        return False
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > NAME_LIMIT for part in parts):
        return False
    return parts[0] != ".lpkg" and not path.startswith(STATE + "/")


is_count = is_int(COUNT_LIMIT - 1)
is_names = is_list(is_name)
is_paths = is_list(is_path)
is_relations = is_list(parse_relation)      # which is more than true or false: it fails in words
is_sha256 = is_digits(HEX, 64)

INFO_FIELDS = {
    "name": is_name, "version": is_version, "arch": is_name, "summary": is_text,
    "license": is_text, "url": is_text, "recipe": is_text, "depends": is_relations,
    "provides": is_relations, "conflicts": is_relations, "conffiles": is_paths,
    "services": is_names, "size": is_count,
}
OFFER_FIELDS = {                    # of a package in an index
    "name": is_name, "version": is_version, "file": is_text, "size": is_count, "sha256": is_sha256,
    "installed_size": is_count, "summary": is_text, "depends": is_relations,
    "provides": is_relations, "conflicts": is_relations, "license": is_text, "url": is_text,
    "recipe": is_text, "services": is_names, "setuid": is_paths,
}
INDEX_FIELDS = {
    "serial": is_count, "created": is_count, "arch": is_name,
    "expires": lambda value: value is None or is_count(value),
    "packages": is_list(lambda value: isinstance(value, dict)),
}
ENTRY_FIELDS = {
    "path": is_path, "mode": is_digits("01234567", 4),
    "uid": is_int(ID_LIMIT), "gid": is_int(ID_LIMIT),
    "type": lambda value: isinstance(value, str) and value in TYPE_FIELDS,
}
TYPE_FIELDS = {
    "dir": {},
    "file": {"size": is_int(SIZE_LIMIT), "sha256": is_sha256},
    "link": {"target": is_target},
}


def check_fields(record: object, fields: dict, what: str) -> None:
    """Fail unless RECORD has each of FIELDS, with a value that the field's test accepts."""
    if not isinstance(record, dict):
        raise Fail(f"{what}: not a JSON object")
    for key, test in fields.items():
        if key not in record:
            raise Fail(f"{what}: {key} is missing")
        try:
            valid = test(record[key])
        except Fail as error:
            raise Fail(f"{what}: {key}: {error}") from None
        if not valid:
            raise Fail(f"{what}: {key} is not valid: {str(record[key])[:60]!r}")


def check_info(info: dict, what: str) -> None:
    """Fail unless INFO is a package's info.json that can be taken at its word: each path is there
    once, in order, after the folder that it lies in; conffiles are files of the package."""
    check_fields(info, {**INFO_FIELDS, "files": is_list(lambda value: True)}, what)
    kinds = {"": "dir"}
    last = ""
    for entry in info["files"]:
        check_fields(entry, ENTRY_FIELDS, what)
        path = entry["path"]
        check_fields(entry, TYPE_FIELDS[entry["type"]], f"{what}: {path}")
        if path <= last:
            raise Fail(f"{what}: {path} is there twice, or out of order")
        if kinds.get(path.rpartition("/")[0]) != "dir" or path == STATE and entry["type"] != "dir":
            raise Fail(f"{what}: {path} is in no folder of the package")
        kinds[path] = entry["type"]
        last = path
    for path in info["conffiles"]:
        if kinds.get(path) != "file":
            raise Fail(f"{what}: conffile {path} is no file of the package")


def check_index(index: dict, arch: str, what: str) -> None:
    """Fail unless INDEX is one of ARCH, all its packages well described."""
    check_fields(index, INDEX_FIELDS, what)
    if index["arch"] != arch:
        raise Fail(f"{what}: made for {index['arch']}, and {arch} is wanted")
    for offer in index["packages"]:
        check_fields(offer, OFFER_FIELDS, f"{what}: package {str(offer.get('name'))[:60]!r}")


def setuid_paths(files: list) -> list:
    """The paths among FILES that run with their owner's or their group's rights."""
    return [entry["path"] for entry in files
            if entry["type"] == "file" and int(entry["mode"], 8) & SETUID]


class Package:
    """A package: installed, offered by a repository, or in a local file."""
    __slots__ = ("name", "version", "info", "origin", "size", "sha256", "start", "parsed")

    def __init__(self, info: dict, origin: object, size: int = 0, sha256: str = ""):
        self.name = info["name"]
        self.version = info["version"]
        self.info = info                # of an index at first, its own info.json once fetched
        self.origin = origin            # a Repository, the path of a local file, None: installed
        self.size = size                # bytes of the .lpkg
        self.sha256 = sha256
        self.start = 0                  # where its bytes begin in the spool
        self.parsed = {}

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def relations(self, key: str) -> list:
        """The relations under KEY (depends, conflicts); `!x` among depends is a conflict."""
        if not self.parsed:
            depends = [parse_relation(text) for text in self.info["depends"]]
            conflicts = [parse_relation(text) for text in self.info["conflicts"]]
            self.parsed["depends"] = [one for one in depends if not one.negative]
            self.parsed["conflicts"] = conflicts + [one for one in depends if one.negative]
        return self.parsed[key]

    def installed_size(self) -> int:
        """Bytes of its files."""
        return self.info.get("installed_size", self.info["size"])

    def setuid(self) -> list:
        """Its setuid and setgid files, from the index or from the manifest."""
        return self.info["setuid"] if "setuid" in self.info else setuid_paths(self.info["files"])

    def names(self) -> list:
        """(name, version) of all it can be asked for by: its own, and what it provides."""
        provided = [text.partition("=")[::2] for text in self.info["provides"]]
        return [(self.name, self.version), *provided]

    def satisfies(self, relation: Relation) -> bool:
        """Whether this package, by its name or by what it provides, is what RELATION speaks of."""
        operator, wanted = relation.operator, relation.version
        return any(name == relation.name and (not operator or version
                                              and version_fits(version, operator, wanted))
                   for name, version in self.names())


# ---- the archive -------------------------------------------------------------------------------
#
# A package is a gzip'd tar whose every byte follows from its manifest: info.json comes first, and
# each header after it is what tar_header makes of the manifest's next entry. Who reads a package
# makes the header that has to come and compares; there is nothing to interpret. A device, a second
# member of one name, a mode that the manifest doesn't know, an extension of GNU's or PAX's: all are
# simply other bytes than the ones expected.

BLOCK = 512                         # a tar's unit
TAR_TYPES = {"file": b"0", "dir": b"5", "link": b"2"}
TAR_END = bytes(2 * BLOCK)


def padding(size: int) -> bytes:
    """What follows SIZE bytes of a tar up to its next block."""
    return bytes(-size % BLOCK)


def ustar_block(name: bytes, kind: bytes, mode: int, owner: tuple, size: int,
                target: bytes = b"") -> bytes:
    """One header block of POSIX.1-1988's ustar format, without times and names of users."""
    before = (name[:100].ljust(100, b"\0") + b"%07o\0%07o\0%07o\0" % (mode, *owner)
              + b"%011o\0%011o\0" % (size, 0))
    after = (kind + target[:100].ljust(100, b"\0") + b"ustar\x0000" + bytes(64)
             + b"0000000\x000000000\0" + bytes(167))
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def pax_record(key: str, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE`, the length counting itself (POSIX.1-2001, pax)."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def tar_header(entry: dict) -> bytes:
    """The header of a manifest's ENTRY; before it a pax header for what a plain one can't hold."""
    name = entry["path"].encode() + (b"/" if entry["type"] == "dir" else b"")
    target = entry.get("target", "").encode()
    extended = pax_record("path", name) if len(name) > 100 else b""
    if len(target) > 100:
        extended += pax_record("linkpath", target)
    if extended:
        first = ustar_block(b".lpkg/pax", b"x", 0o644, (0, 0), len(extended))
        extended = first + extended + padding(len(extended))
    return extended + ustar_block(name, TAR_TYPES[entry["type"]], int(entry["mode"], 8),
                                  (entry["uid"], entry["gid"]), entry.get("size", 0), target)


def info_header(size: int) -> bytes:
    """The header of an info.json of SIZE bytes."""
    return ustar_block(INFO_PATH.encode(), b"0", 0o644, (0, 0), size)


def file_entry(path: str, data: bytes) -> dict:
    """The manifest's entry of a file that lpkg itself writes."""
    return {"path": path, "type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest()}


def folder_entry(path: str) -> dict:
    """The manifest's entry of a directory that nobody described."""
    return {"path": path, "type": "dir", "mode": "0755", "uid": 0, "gid": 0}


def info_text(info: dict) -> bytes:
    """INFO as JSON that a person can read: a key a line, a file a line."""
    import json
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
             for key, value in info.items() if key != "files"]
    files = ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in info["files"])
    lines.append('  "files": [' + (f"\n{files}\n  ]" if files else "]"))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


# ---- Ed25519, verification only (RFC 8032) -----------------------------------------------------
#
# Points of -x² + y² = 1 + d x² y² over the integers modulo P, in extended coordinates (X, Y, Z, T)
# with x = X/Z, y = Y/Z, x y = T/Z. A signature R, S of a message by key A is good when R is
# [S]B - [k]A, with k the hash of R, A and the message. What the RFC leaves open is closed as
# libsodium does: S below the order L, no point in other than its one encoding, none of small order.
# Nothing here is secret, so nothing needs to take constant time.

P = 2 ** 255 - 19
L = 2 ** 252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def point_add(one: tuple, two: tuple) -> tuple:
    """The sum of two points (RFC 8032, 5.1.4)."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = two
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = 2 * t1 * t2 * D % P
    d = 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_double(point: tuple) -> tuple:
    """Twice a point (RFC 8032, 5.1.4)."""
    x, y, z, _ = point
    a = x * x % P
    b = y * y % P
    h = a + b
    e = h - (x + y) * (x + y) % P
    g = a - b
    f = 2 * z * z % P + g
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_decode(raw: bytes) -> "tuple | None":
    """The point that 32 bytes encode, None when there is none or this isn't its encoding."""
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & (2 ** 255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_1 % P
    if x * x % P != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def point_encode(point: tuple) -> bytes:
    """The 32 bytes of a point."""
    x, y, z, _ = point
    inverse = pow(z, -1, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def point_is_small(point: tuple) -> bool:
    """Whether eight times the point is the neutral one: such a key signs anything."""
    x, y, z, _ = point_double(point_double(point_double(point)))
    return x == 0 and y == z


def point_multiples(point: tuple) -> list:
    """0, 1, … 15 times a point."""
    multiples = [(0, 1, 1, 0)]
    for _ in range(15):
        multiples.append(point_add(multiples[-1], point))
    return multiples


def point_sum(first: int, one: tuple, second: int, two: tuple) -> tuple:
    """FIRST times ONE plus SECOND times TWO, four bits of both at a time (Straus)."""
    ones = point_multiples(one)
    twos = point_multiples(two)
    result = ones[0]
    for shift in range(252, -1, -4):
        for _ in range(4):
            result = point_double(result)
        result = point_add(result, ones[first >> shift & 15])
        result = point_add(result, twos[second >> shift & 15])
    return result


BASE = point_decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether SIGNATURE (64 bytes) is that of MESSAGE by the key PUBLIC (32 bytes)."""
    key = point_decode(public)
    s = int.from_bytes(signature[32:], "little")
    if key is None or s >= L or point_is_small(key):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    x, y, z, t = key
    result = point_sum(s, BASE, k, (P - x, y, z, P - t))
    return point_encode(result) == signature[:32] and not point_is_small(result)


# ---- minisign's formats ------------------------------------------------------------------------
#
# A key's id is 8 bytes by which a signature names its key. A signature file is four lines: an
# untrusted comment; base64 of `Ed` (the message is signed) or `ED` (its BLAKE2b-512 is), the id
# and the signature; a trusted comment; base64 of the global signature, which signs the signature
# and the trusted comment.

class PublicKey(Record):
    """A key that is trusted: its id, its 32 bytes."""
    __slots__ = ("id", "raw")


def key_name(key_id: bytes) -> str:
    """A key's id as minisign writes it."""
    return key_id[::-1].hex().upper()


def encode_base64(data: bytes) -> str:
    """DATA in base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def decode_base64(text: str, length: int) -> bytes:
    """The LENGTH bytes that TEXT spells in base64; ValueError for any other text."""
    data = binascii.a2b_base64(text.encode("ascii"))
    if len(data) != length or encode_base64(data) != text:
        raise ValueError("not base64 of the right length")
    return data


def split_lines(data: bytes, prefixes: list) -> list:
    """What follows the PREFIXES of the lines of DATA, one for each; ValueError for other lines."""
    lines = data.decode().split("\n")
    if len(lines) != len(prefixes) + 1 or lines[-1]:
        raise ValueError(f"it should have {len(prefixes)} lines")
    for line, prefix in zip(lines, prefixes):
        if not line.startswith(prefix):
            raise ValueError(f"a line should begin with {prefix!r}")
    return [line[len(prefix):] for line, prefix in zip(lines, prefixes)]


def parse_public_key(data: bytes, what: str) -> PublicKey:
    """A minisign public key file; Fail when it is none."""
    try:
        raw = decode_base64(split_lines(data, ["untrusted comment: ", ""])[1], 42)
        if raw[:2] != b"Ed":
            raise ValueError("a key of another kind")
    except ValueError as error:
        raise Fail(f"{what}: no minisign public key: {error}; `lpkg keygen` makes one") from None
    return PublicKey(raw[2:10], raw[10:])


def public_key_text(key_id: bytes, raw: bytes) -> str:
    """The public key file of a key."""
    return (f"untrusted comment: minisign public key {key_name(key_id)}\n"
            f"{encode_base64(b'Ed' + key_id + raw)}\n")


def check_signature(data: bytes, signature: bytes, trusted: list, what: str) -> tuple:
    """(key, trusted comment) of a minisign SIGNATURE of DATA by one of the TRUSTED, or Fail."""
    try:
        lines = split_lines(signature, ["untrusted comment: ", "", "trusted comment: ", ""])
        raw = decode_base64(lines[1], 74)
        total = decode_base64(lines[3], 64)
    except ValueError as error:
        raise Fail(f"{what}: no minisign signature: {error}") from None
    algorithm, key_id, comment = raw[:2], raw[2:10], lines[2]
    if algorithm not in (b"Ed", b"ED"):
        raise Fail(f"{what}: signature of an unknown kind")
    keys = [key for key in trusted if key.id == key_id]
    if not keys:
        raise Fail(f"{what}: signed by key {key_name(key_id)}, which is not trusted here")
    message = hashlib.blake2b(data).digest() if algorithm == b"ED" else data
    for key in keys:
        if (ed25519_verify(key.raw, message, raw[10:])
                and ed25519_verify(key.raw, raw[10:] + comment.encode(), total)):
            return key, comment
    raise Fail(f"{what}: wrong signature; this is not what was signed")


def scrypt_cost(operations: int, memory: int) -> tuple:
    """scrypt's (N, r, p) for libsodium's two limits, as its documentation derives them."""
    operations = max(operations, 32768)
    few = operations < memory // 32
    largest = operations // 32 if few else memory // 1024
    bits = 1
    while bits < 62 and 1 << bits <= largest // 2:
        bits += 1
    return 1 << bits, 8, 1 if few else min((operations // 4) >> bits, 0x3fffffff) // 8


# ---- the resolver ------------------------------------------------------------------------------
#
# An agenda of wants is worked off from the left: what was asked for, then that each installed
# package stays in some version; what a chosen package depends on is appended as it is chosen. A
# want that something chosen satisfies already costs nothing. For any other its candidates are
# tried, best first; one is possible when no package of its name is chosen and none that it
# quarrels with. When there is none, the latest choice was wrong: it is taken back with all that
# it appended, and its next candidate is tried. Packages are only ever added, and quarrels are
# looked for both ways at each addition, so a choice makes no earlier answer untrue, and the end
# of the agenda is a solution; and as every candidate gets its turn, one is found if there is any
# (or the steps run out, which is said). The first dead end, where everything was still the
# newest, is the one that the user is told.

class Want(Record):
    """A relation that WHO wants satisfied, by FIXED alone unless that is None; ASKED for by the
    user, who means the newest, where others are content with what is there."""
    __slots__ = ("relation", "who", "fixed", "asked")

    def met_by(self, package: Package) -> bool:
        """Whether PACKAGE, once chosen, is what is wanted."""
        return package is self.fixed if self.fixed else package.satisfies(self.relation)


class Universe:
    """Every package that may be chosen: what is installed, what the repositories offer, local
    files.

    The first repository that has a name, or provides it, answers for it: another one can't replace
    a package by offering a higher version. An installed package stays with its repository."""

    def __init__(self, installed: dict, repositories: list, local: list):
        self.installed = installed
        self.named = {}                 # name -> packages that have or provide it, newest first
        self.foes = {}                  # name -> packages that conflict with some version of it
        known = {repository.name for repository in repositories}
        self.home = {name: package.info["repository"] for name, package in installed.items()
                     if package.info.get("repository") in known}
        for package in [*local, *installed.values()]:
            self.add(package, None)
        for repository in repositories:
            for package in repository.packages:
                self.add(package, repository.name)
        for packages in self.named.values():
            packages.sort(key=lambda package: version_key(package.version), reverse=True)

    def add(self, package: Package, home: "str | None") -> None:
        """Let PACKAGE answer to its name and to each name that it provides."""
        for name in {name for name, _ in package.names()}:
            if home is None or self.home.setdefault(name, home) == home:
                self.named.setdefault(name, []).append(package)
        for relation in package.relations("conflicts"):
            self.foes.setdefault(relation.name, []).append(package)

    def candidates(self, want: Want) -> list:
        """The packages that satisfy WANT, best first: real names before provided ones, then, unless
        the user asks, what is installed; then the newest."""
        if want.fixed:
            return [want.fixed]
        name = want.relation.name
        found = [package for package in self.named.get(name, ())
                 if package.satisfies(want.relation)]
        return sorted(found, key=lambda package: (
            package.name != name, want.asked or self.installed.get(package.name) is not package))


def quarrel(package: Package, universe: Universe, chosen: dict) -> str:
    """Why PACKAGE can't be beside the CHOSEN ones, in words; empty when it can."""
    if package.name in chosen:
        return f"{chosen[package.name]} is needed as well"
    pairs = [(package, other) for relation in package.relations("conflicts")
             for other in universe.named.get(relation.name, ())]
    pairs += [(foe, package) for name, _ in package.names() for foe in universe.foes.get(name, ())]
    for one, two in pairs:
        other = two if one is package else one
        if chosen.get(other.name) is other and any(map(two.satisfies, one.relations("conflicts"))):
            return f"{one} conflicts with {two}"
    return ""


def dead_end(want: Want, universe: Universe, chosen: dict) -> str:
    """In words, why WANT can't be satisfied."""
    name = want.relation.name
    reasons = [f"{package} won't do: {quarrel(package, universe, chosen)}"
               for package in universe.candidates(want)[:3]]
    if not reasons and name in universe.named:
        reasons = ["there is only " + ", ".join(map(str, universe.named[name][:3]))]
    if not reasons:
        reasons = ["no repository has it" + nearest(name, universe.named)]
    return f"{want.who} {want.relation.text}, but {'; '.join(reasons)}"


def nearest(word: str, words: object) -> str:
    """`; did you mean X?` for the nearest of WORDS, or nothing."""
    import difflib
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


class Choice(Record):
    """A decision: the POSITION of its want, the agenda's LENGTH before it, the NAME of what is
    chosen now, and the OTHERS that are left to try, the best last."""
    __slots__ = ("position", "length", "name", "others")


def solve(universe: Universe, wants: list) -> dict:
    """NAME -> Package of a system that satisfies WANTS and keeps what is installed, or Fail."""
    agenda = [*wants, *(Want(parse_relation(name), "what is installed needs", None, False)
                        for name in universe.installed)]
    chosen = {}
    choices = []
    position = 0
    complaint = ""
    for _ in range(SOLVER_STEPS):
        if position == len(agenda):
            return chosen
        want = agenda[position]
        if any(chosen.get(package.name) is package and want.met_by(package)
               for package in universe.named.get(want.relation.name, ())):
            position += 1
            continue
        possible = [one for one in universe.candidates(want) if not quarrel(one, universe, chosen)]
        if not possible and not complaint:
            complaint = dead_end(want, universe, chosen)
        choices.append(Choice(position, len(agenda), "", possible[::-1]))
        position = advance(choices, agenda, chosen)
        if position < 0:
            raise Fail(complaint)
    raise Fail("too tangled: no answer within the steps that the resolver takes; ask for less")


def advance(choices: list, agenda: list, chosen: dict) -> int:
    """Try the next candidate of the latest choice that has one left: the agenda's position after
    it, or -1 when no choice has any."""
    while choices:
        choice = choices[-1]
        chosen.pop(choice.name, None)
        del agenda[choice.length:]
        if choice.others:
            package = choice.others.pop()
            choice.name = package.name
            chosen[package.name] = package
            agenda.extend(Want(relation, f"{package} needs", None, False)
                          for relation in package.relations("depends"))
            return choice.position + 1
        choices.pop()
    return -1


# ---- what a change means, path by path ---------------------------------------------------------

def merge_manifests(packages: list) -> dict:
    """PATH -> (package's name, entry) of PACKAGES together; Fail when two claim one file.

    Directories are shared. A directory of mode 0755 and root's is one nobody thought about: any
    other opinion of it wins, and two other opinions that differ are refused."""
    claims = {}
    for package in packages:
        for entry in package.info["files"]:
            path = entry["path"]
            rival, other = claims.setdefault(path, (package.name, entry))
            if other is entry:
                continue
            plain = folder_entry(path)
            if entry["type"] != "dir" or other["type"] != "dir":
                raise Fail(f"{rival} and {package.name} both bring {path}; install only one")
            if plain not in (entry, other) and entry != other:
                raise Fail(f"{rival} and {package.name} give {path} different modes or owners")
            if other == plain:
                claims[path] = (package.name, entry)
    return claims


def conffile_choice(current: "str | None", old: "str | None", new: str) -> str:
    """`replace`, `keep` or `beside` (as .lpkg-new), for a conffile's contents; None: not there."""
    if current in (old, new):
        return "replace"
    return "keep" if old == new else "beside"


def parse_journal(data: bytes, what: str) -> list:
    """The lines of a journal as lists [verb, path] or [`mv`, path, path]; Fail for any other line.
    A rename stays in its folder."""
    lines = []
    for line in data.decode(errors="replace").split("\n")[:-1]:
        words = line.split("\t")
        folders = {path.rpartition("/")[0] for path in words[1:]}
        if (len(words) != {"mv": 3, "rm": 2, "rmdir": 2}.get(words[0]) or len(folders) != 1
                or not all(map(is_journal_path, words[1:]))):
            raise Fail(f"{what}: line {line!r} is not understood; the journal was damaged")
        lines.append(words)
    return lines


def is_journal_path(path: str) -> bool:
    """Whether PATH may stand in a journal: it stays in the root, lpkg's own files included."""
    prefix = STATE + "/"
    return is_path(path[len(prefix):] if path.startswith(prefix) else path, PATH_LIMIT + 100)


def journal_text(lines: list) -> bytes:
    """A journal of LINES."""
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def parse_repositories(text: str) -> list:
    """The (name, url) pairs of a file of `NAME URL` lines, where # begins a comment line."""
    pairs = [line.split() for line in text.split("\n") if line.strip() and line.strip()[0] != "#"]
    for pair in pairs:
        if len(pair) != 2 or not is_name(pair[0]):
            raise Fail(f"{REPOS}: {' '.join(pair)}: write NAME URL")
    return pairs


# ---- the terminal ------------------------------------------------------------------------------

class Meter:
    """Bytes done of a known total: a line that is redrawn on a terminal, one line elsewhere."""

    def __init__(self, what: str, total: int):
        self.what = what
        self.total = total
        self.done = 0
        self.began = self.drawn = time.monotonic()
        if total and not sys.stderr.isatty():
            say(f"{what}, {human_size(total)}")

    def add(self, count: int) -> None:
        """COUNT more bytes are done."""
        self.done += count
        now = time.monotonic()
        if now - self.drawn < 0.1:
            return
        self.drawn = now
        rate = self.done / (now - self.began)
        progress(f"{self.what}: {human_size(self.done)} of {human_size(self.total)}, "
                 f"{human_size(rate)}/s, {max(self.total - self.done, 0) / rate:.0f} s left")

    def count(self, content: object) -> object:
        """CONTENT's pieces, counted."""
        for piece in content:
            self.add(len(piece))
            yield piece


def show(text: str) -> None:
    """One line of data on stdout, control characters escaped."""
    print(printable(text))


def show_json(objects: list) -> None:
    """OBJECTS on stdout as a JSON array, an object a line."""
    import json
    print("[" + ",\n ".join(json.dumps(one) for one in objects) + "]")


def confirm(yes: bool) -> None:
    """Ask whether to go on; Fail when the answer isn't yes or there is nobody to ask."""
    if yes:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise Fail("nothing was changed: stdin is no terminal to ask at; say --yes")
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Fail("nothing was changed")


# ---- files anywhere ----------------------------------------------------------------------------

def open_file(path: str, folder: "int | None" = None, shown: str = "") -> object:
    """The regular file PATH, open to be read: relative to FOLDER, where no symlink is followed, or
    anywhere. Never waits for a fifo."""
    flags = READ_FLAGS if folder is not None else READ_FLAGS & ~os.O_NOFOLLOW
    file = open(os.open(path, flags, dir_fd=folder), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise Fail(f"{shown or path}: not a regular file")


def read_all(file: object, limit: int, what: str) -> bytes:
    """The bytes of FILE, which is closed; Fail for more than LIMIT."""
    with file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Fail(f"{what}: larger than {human_size(limit)}, which is the most that is read")
    return data


def read_file(path: str, limit: int = SMALL_LIMIT) -> bytes:
    """The bytes of the regular file PATH, at most LIMIT."""
    return read_all(open_file(path), limit, path)


def pieces(file: object) -> object:
    """FILE's bytes, a piece at a time."""
    return iter(lambda: file.read(PIECE), b"")


def sha256_of(content: object) -> str:
    """The SHA-256 of CONTENT, given in pieces."""
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()


class NewFiles:
    """Files that are written under temporary names and then appear, in the order of their making,
    right after each other; or, after an error, not at all."""

    def __init__(self):
        self.files = []

    def create(self, path: str) -> object:
        """A new file, open for writing, that will be PATH."""
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        file = open(os.open(temporary, NEW_FLAGS, 0o644), "wb")
        self.files.append((temporary, path, file))
        return file

    def __enter__(self) -> "NewFiles":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            for _, _, file in self.files:
                with file:
                    file.flush()
                    os.fsync(file.fileno())
            for temporary, path, _ in self.files if kind is None else ():
                os.rename(temporary, path)
        finally:
            for temporary, _, _ in self.files:
                if os.path.lexists(temporary):
                    os.unlink(temporary)


# ---- reading a package -------------------------------------------------------------------------

class Archive:
    """A .lpkg's inflated bytes, in order; each read is compared with what has to come."""

    def __init__(self, descriptor: int, start: int, size: int, what: str):
        self.descriptor = descriptor
        self.position = start
        self.end = start + size
        self.inflater = zlib.decompressobj(31)
        self.ready = b""                # inflated bytes, of which
        self.offset = 0                 # so many were read
        self.what = what

    def inflate(self, count: int) -> bool:
        """Inflate at most COUNT bytes more, so that no bomb fills the memory; False at the end."""
        compressed = self.inflater.unconsumed_tail
        if not compressed:
            length = min(PIECE, self.end - self.position)
            compressed = os.pread(self.descriptor, length, self.position)
            self.position += len(compressed)
        if self.inflater.eof or not compressed:
            return False
        try:
            more = self.inflater.decompress(compressed, count)
        except zlib.error as error:
            raise Fail(f"{self.what}: damaged archive: {error}") from None
        self.ready = self.ready[self.offset:] + more
        self.offset = 0
        return True

    def read(self, count: int) -> bytes:
        """Exactly COUNT bytes; Fail where the archive ends before."""
        while len(self.ready) - self.offset < count:
            if not self.inflate(max(count, PIECE)):
                raise Fail(f"{self.what}: the archive ends too early")
        self.offset += count
        return self.ready[self.offset - count:self.offset]

    def expect(self, data: bytes, path: str) -> None:
        """Fail unless DATA comes next."""
        if self.read(len(data)) != data:
            raise Fail(f"{self.what}: the archive is not what its info.json says at {path}")

    def begin(self) -> bytes:
        """The bytes of info.json; what comes next is the first entry's header."""
        header = self.read(BLOCK)
        size = header[124:135]
        if not size.isdigit() or header != info_header(int(size, 8)) or int(size, 8) > INFO_LIMIT:
            raise Fail(f"{self.what}: no package: it doesn't begin with a {INFO_PATH} of ours")
        data = self.read(int(size, 8))
        self.expect(padding(len(data)), INFO_PATH)
        return data

    def info(self) -> dict:
        """The info.json, checked."""
        info = parse_json(self.begin(), f"{self.what}: {INFO_PATH}")
        check_info(info, self.what)
        return info

    def content(self, entry: dict) -> object:
        """The bytes of the file ENTRY in pieces; Fail after the last if they were wrong."""
        digest = hashlib.sha256()
        left = entry["size"]
        while left:
            piece = self.read(min(left, PIECE))
            left -= len(piece)
            digest.update(piece)
            yield piece
        self.expect(padding(entry["size"]), entry["path"])
        if digest.hexdigest() != entry["sha256"]:
            raise Fail(f"{self.what}: {entry['path']} has another content than info.json says")

    def finish(self) -> None:
        """Fail unless this is the end: of the tar, of the gzip member and of the file."""
        self.expect(TAR_END, "its end")
        while self.offset == len(self.ready) and self.inflate(1):
            pass
        if self.offset < len(self.ready) or self.inflater.unused_data or self.position != self.end:
            raise Fail(f"{self.what}: something follows the archive's end")
        if not self.inflater.eof:
            raise Fail(f"{self.what}: the archive ends too early")


def unpack(package: Package, spool: object) -> object:
    """(entry, content in pieces) of each entry of PACKAGE; the content must be read to its end."""
    archive = Archive(spool.fileno(), package.start, package.size, str(package))
    archive.begin()
    for entry in package.info["files"]:
        archive.expect(tar_header(entry), entry["path"])
        yield entry, archive.content(entry) if entry["type"] == "file" else ()
    archive.finish()


def read_local(path: str) -> Package:
    """The package in the file PATH, whose archive isn't looked at beyond info.json."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        info = Archive(file.fileno(), 0, size, path).info()
        return Package(info, path, size, sha256_of(pieces(file)))


# ---- making packages ---------------------------------------------------------------------------
#
# A build's output is a tar that somebody else wrote, so here, and only here, tarfile reads: it
# knows every dialect. What it says is squeezed into a manifest, where only files, directories and
# symlinks exist; each name of a hard link becomes a file of its own.

class Member(Record):
    """What becomes of a member of the build's tar: a manifest's ENTRY, and its SOURCE there."""
    __slots__ = ("entry", "source")


def spool_stdin(folder: str) -> object:
    """All of stdin, in a file of FOLDER that has no name, so that a killed run leaves nothing."""
    if sys.stdin.isatty():
        raise Fail("stdin is a terminal; give it the tar of a build's output")
    path = os.path.join(folder, f".lpkg.{os.urandom(8).hex()}")
    file = open(os.open(path, NEW_FLAGS, 0o600), "w+b")
    os.unlink(path)
    for piece in pieces(sys.stdin.buffer):
        file.write(piece)
        progress(f"reading the build's output: {human_size(file.tell())}")
    progress("")
    file.seek(0)
    return file


def read_build(file: object, names: list) -> tuple:
    """(tarfile, package's name -> path -> Member) of a build's output; Fail if it is not whole."""
    import tarfile
    trees = {name: {} for name in names}
    status = None
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="surrogateescape")
        for member in tar:
            status = None
            if member.isreg() and member.name in (".status", "./.status"):
                status = tar.extractfile(member).read(20).decode(errors="replace").strip()
            else:
                add_member(tar, member, trees)
    except (tarfile.TarError, ValueError, EOFError, KeyError) as error:
        raise Fail(f"stdin: no tar of a build's output: {error}") from None
    if not status:
        raise Fail("stdin: the build's output ends without .status: it was cut; build again")
    if status != "0":
        raise Fail(f"stdin: the build failed: its .status is {status}")
    return tar, trees


def add_member(tar: object, member: object, trees: dict) -> None:
    """Put MEMBER into the tree of its package."""
    name = member.name.rstrip("/")      # Python 3.9 leaves it on GNU tar's long names
    name = name[2:] if name.startswith("./") else name
    top, _, rest = name.partition("/")
    package, _, path = rest.partition("/")
    if name in (".", ""):
        return
    if top != "out" or package not in trees and package:
        raise Fail(f"stdin: {name} is of no package; there are {', '.join(sorted(trees))}")
    if not path:
        if not member.isdir():
            raise Fail(f"stdin: {name} is no directory")
        return
    if not is_path(path):
        raise Fail(f"stdin: {name}: a package can't hold that path")
    if path in trees[package]:
        raise Fail(f"stdin: {name} is there twice")
    trees[package][path] = make_member(tar, member, f"out/{package}/", path)


def make_member(tar: object, member: object, prefix: str, path: str) -> Member:
    """The Member for what will be PATH; its sha256 is still missing."""
    entry = {"path": path, "type": "file", "mode": f"{member.mode & 0o7777:04o}",
             "uid": member.uid, "gid": member.gid}
    if member.isdir():
        entry["type"] = "dir"
    elif member.issym():
        entry.update(type="link", mode="0777", target=member.linkname)
    else:
        member = linked(tar, member, prefix)
        if not member.isreg() or member.issparse():
            raise Fail(f"stdin: {prefix}{path} is a device, a fifo or sparse; leave it out")
        entry["size"] = member.size
    return Member(entry, member)


def linked(tar: object, member: object, prefix: str) -> object:
    """MEMBER, or the member of the same package that it is a hard link to."""
    if not member.islnk():
        return member
    name = member.linkname[2:] if member.linkname.startswith("./") else member.linkname
    if not name.startswith(prefix) or ".." in name.split("/"):
        raise Fail(f"stdin: {member.name} is a hard link to {name}, outside its package")
    return tar.getmember(member.linkname)


def add_parents(tree: dict) -> None:
    """Give each path of TREE the folders it lies in."""
    for path in list(tree):
        parent = path.rpartition("/")[0]
        while parent and parent not in tree:
            tree[parent] = Member(folder_entry(parent), None)
            parent = parent.rpartition("/")[0]


def apply_owners(tree: dict, owners: dict, name: str) -> None:
    """Give paths of TREE the owner and mode that META says."""
    for path, text in owners.items():
        words = str(text).split(":")
        member = tree.get(path.strip("/"))
        if member is None:
            raise Fail(f"{name}: owners: {path} is not in the package")
        if len(words) != 3 or not all(word.isdecimal() and len(word) < 10 for word in words):
            raise Fail(f"{name}: owners: {path}: {text!r} is not UID:GID:MODE")
        member.entry.update(uid=int(words[0]), gid=int(words[1]), mode=words[2].zfill(4))


def hash_files(tar: object, tree: dict) -> None:
    """Fill in the sha256 of each file of TREE."""
    for member in tree.values():
        if member.entry["type"] == "file":
            member.entry["sha256"] = sha256_of(pieces(tar.extractfile(member.source)))


def make_info(meta: dict, name: str, tree: dict) -> dict:
    """The info.json of package NAME, checked as the one who installs it will."""
    part = meta["packages"][name]
    info = {key: "" if test is is_text else [] for key, test in INFO_FIELDS.items()}
    info.update(name=name, version=meta.get("version"), arch=meta.get("arch"))
    info.update({key: meta[key] for key in ("license", "url", "recipe") if key in meta})
    info.update({key: part[key] for key in part if key in INFO_FIELDS})
    if isinstance(info["conffiles"], list):
        info["conffiles"] = sorted(str(path).strip("/") for path in info["conffiles"])
    files = [tree[path].entry for path in sorted(tree)]
    info.update(size=sum(entry.get("size", 0) for entry in files), files=files)
    check_info(info, name)
    return info


def package_pieces(tar: object, tree: dict, info: dict) -> object:
    """The tar of a package, in pieces."""
    text = info_text(info)
    yield info_header(len(text)) + text + padding(len(text))
    for entry in info["files"]:
        yield tar_header(entry)
        if entry["type"] == "file":
            yield from pieces(tar.extractfile(tree[entry["path"]].source))
            yield padding(entry["size"])
    yield TAR_END


def gzip_pieces(content: object) -> object:
    """CONTENT, gzip'd: zlib's own header has no time and no name, so it is always the same."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    for piece in content:
        yield compressor.compress(piece)
    yield compressor.flush()


def read_meta(path: str) -> dict:
    """The META file of `pack`."""
    meta = parse_json(read_file(path, INFO_LIMIT), path)
    packages = meta.get("packages")
    if not isinstance(packages, dict) or not packages or not all(map(is_name, packages)):
        raise Fail(f"{path}: packages is no object of names")
    for name, part in packages.items():
        if not isinstance(part, dict) or not isinstance(part.get("owners", {}), dict):
            raise Fail(f"{path}: packages: {name}, or its owners, is no object")
    return meta


def cmd_pack(options: "Options") -> int:
    """Turn a build's output on stdin into packages."""
    meta = read_meta(options.need("meta"))
    folder = options.need("output")
    lines = []
    with spool_stdin(folder) as spool, NewFiles() as new:
        tar, trees = read_build(spool, list(meta["packages"]))
        for name, tree in sorted(trees.items()):
            add_parents(tree)
            apply_owners(tree, meta["packages"][name].get("owners", {}), name)
            hash_files(tar, tree)
            info = make_info(meta, name, tree)
            file_name = f"{name}-{info['version']}.{info['arch']}.lpkg"
            file = new.create(os.path.join(folder, file_name))
            meter = Meter(f"packing {name}", info["size"])
            content = gzip_pieces(meter.count(package_pieces(tar, tree, info)))
            sha256 = sha256_of(tee(content, file))
            lines.append(f"{name} {file_name} {file.tell()} {sha256}")
        progress("")
    for line in lines:
        show(line)
    return 0


def tee(content: object, file: object) -> object:
    """CONTENT's pieces, each written to FILE on its way."""
    for piece in content:
        file.write(piece)
        yield piece


# ---- making keys, signatures, indexes ----------------------------------------------------------
#
# Signing is the one thing that a device never does, and the one that wants a library: PyNaCl.

SECRET_COMMENT = "untrusted comment: minisign encrypted secret key\n"      # so too when it isn't
SCRYPT_LIMITS = (33554432, 1 << 30)     # libsodium's SENSITIVE, as minisign's: 1 GiB of memory


def import_signing() -> object:
    """PyNaCl's signing module."""
    try:
        import nacl.signing
        return nacl.signing
    except ImportError:
        hint = "`pip install pynacl` or `apt install python3-nacl`"
        raise Fail(f"signing needs PyNaCl: {hint}") from None


def ask_password(what: str) -> bytes:
    """The password of a secret key, from LPKG_PASSWORD or the terminal."""
    if "LPKG_PASSWORD" in os.environ:
        return os.environ["LPKG_PASSWORD"].encode()
    if not sys.stdin.isatty():
        raise Fail(f"{what}: no terminal to ask for its password at; put it into LPKG_PASSWORD")
    import getpass
    return getpass.getpass(f"Password of {what}: ").encode()


def scrypt_mask(data: bytes, password: bytes, salt: bytes, limits: tuple) -> bytes:
    """DATA under, or out of, the stream that scrypt makes of PASSWORD."""
    n, r, p = scrypt_cost(*limits)
    try:
        stream = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=(1 << 31) - 1,
                                dklen=len(data))
    except (ValueError, MemoryError) as error:
        raise Fail(f"scrypt: {error}; it wants {human_size(128 * n * r)} of memory") from None
    return bytes(one ^ two for one, two in zip(data, stream))


def secret_key_text(secret: bytes, password: "bytes | None") -> bytes:
    """The secret key file of SECRET (id, seed, public key), encrypted if there is a PASSWORD."""
    raw = b"Ed\0\0B2" + bytes(48) + secret + bytes(32)
    if password is not None:
        salt = os.urandom(32)
        checksum = hashlib.blake2b(b"Ed" + secret, digest_size=32).digest()
        raw = (b"EdScB2" + salt + b"".join(limit.to_bytes(8, "little") for limit in SCRYPT_LIMITS)
               + scrypt_mask(secret + checksum, password, salt, SCRYPT_LIMITS))
    return f"{SECRET_COMMENT}{encode_base64(raw)}\n".encode()


def read_secret_key(path: str) -> tuple:
    """(key id, seed) of a minisign secret key file, whose password is asked for if it has one."""
    try:
        raw = decode_base64(split_lines(read_file(path), ["untrusted comment: ", ""])[1], 158)
    except ValueError as error:
        raise Fail(f"{path}: no minisign secret key: {error}; `lpkg keygen` makes one") from None
    kind, hidden = raw[:6], raw[54:]
    if kind == b"EdScB2":
        limits = (int.from_bytes(raw[38:46], "little"), int.from_bytes(raw[46:54], "little"))
        hidden = scrypt_mask(hidden, ask_password(path), raw[6:38], limits)
        if hashlib.blake2b(b"Ed" + hidden[:72], digest_size=32).digest() != hidden[72:]:
            raise Fail(f"{path}: wrong password")
    elif kind != b"Ed\0\0B2":
        raise Fail(f"{path}: a secret key of an unknown kind")
    return hidden[:8], hidden[8:40]


def sign_hash(blake2b: bytes, comment: str, secret: str) -> bytes:
    """The signature file of what has this BLAKE2b-512, by the secret key file SECRET."""
    signing = import_signing()
    key_id, seed = read_secret_key(secret)
    key = signing.SigningKey(seed)
    signature = key.sign(blake2b).signature
    total = key.sign(signature + comment.encode()).signature
    return (f"untrusted comment: signature by lpkg with key {key_name(key_id)}\n"
            f"{encode_base64(b'ED' + key_id + signature)}\n"
            f"trusted comment: {comment}\n{encode_base64(total)}\n").encode()


def cmd_keygen(options: "Options") -> int:
    """Make a key pair."""
    signing = import_signing()
    secret_path, public_path = options.words[0] + ".key", options.words[0] + ".pub"
    for path in (secret_path, public_path):
        if os.path.lexists(path):
            raise Fail(f"{path}: is there already, and is not overwritten")
    password = ask_password(secret_path) if options.encrypt else None
    key = signing.SigningKey.generate()
    key_id, public = os.urandom(8), bytes(key.verify_key)
    write_atomic(secret_path, secret_key_text(key_id + bytes(key) + public, password), 0o600)
    write_atomic(public_path, public_key_text(key_id, public).encode())
    if password is None:
        say(f"{secret_path} is NOT encrypted: whoever can read it can sign (see --encrypt)")
    show(secret_path)
    show(public_path)
    return 0


def cmd_sign(options: "Options") -> int:
    """Sign a file: FILE.minisig."""
    path = options.words[0]
    comment = options.comment
    if comment is None:
        comment = f"timestamp:{int(time.time())}\tfile:{os.path.basename(path)}\thashed"
    if not is_text(comment) or "\n" in comment or "\r" in comment:
        raise Fail("--comment: it must be one line of UTF-8")
    digest = hashlib.blake2b()
    with open_file(path) as file:
        for piece in pieces(file):
            digest.update(piece)
    write_atomic(path + ".minisig", sign_hash(digest.digest(), comment, options.need("secret")))
    show(path + ".minisig")
    return 0


def make_offer(package: Package, file_name: str) -> dict:
    """The entry of PACKAGE in an index."""
    import urllib.parse
    info = package.info
    offer = {"name": info["name"], "version": info["version"],
             "file": urllib.parse.quote(file_name), "size": package.size,
             "sha256": package.sha256, "installed_size": info["size"]}
    offer.update({key: info[key] for key in OFFER_FIELDS if key in info and key not in offer})
    offer["setuid"] = package.setuid()
    return offer


def scan_packages(folder: str, arch: str) -> list:
    """The offers of the packages in FOLDER: by name, then by version, the newest first."""
    offers = {}
    for file_name in sorted(os.listdir(folder)):
        if not file_name.endswith(".lpkg"):
            continue
        progress(f"reading {file_name}")
        package = read_local(os.path.join(folder, file_name))
        if package.info["arch"] != arch:
            raise Fail(f"{folder}/{file_name}: made for {package.info['arch']}, not for {arch}")
        key = (package.name, package.version)
        if key in offers:
            raise Fail(f"{folder}: {file_name} and {offers[key]['file']} are both {package}; "
                       "remove one")
        offers[key] = make_offer(package, file_name)
    progress("")
    newest = sorted(offers.values(), key=lambda offer: version_key(offer["version"]), reverse=True)
    return sorted(newest, key=lambda offer: offer["name"])


def next_serial(folder: str, serial_file: str, now: int) -> int:
    """A serial above all that are known to be used: in SERIAL_FILE, in FOLDER's present index."""
    used = [now - 1]
    if os.path.exists(serial_file):
        text = read_file(serial_file).decode(errors="replace").strip()
        if not text.isdecimal() or not is_count(int(text[:20])):
            raise Fail(f"{serial_file}: no serial in it; write the last one used, or remove it")
        used.append(int(text))
    index_file = os.path.join(folder, "index.json")
    if os.path.exists(index_file):
        serial = parse_json(read_file(index_file, INDEX_LIMIT), index_file).get("serial")
        used.append(serial if is_count(serial) else 0)
    return max(used) + 1


def index_expiry(text: str, created: int) -> "int | None":
    """When an index expires that is made with --expires TEXT; None: never."""
    if text == "never":
        return None
    if not text.isdecimal() or not 0 < int(text[:9]) < 100_000:
        raise Usage(f"--expires {text}: write a number of days, or never")
    return created + int(text) * DAY


def cmd_index(options: "Options") -> int:
    """Write and sign the index of a folder of packages.

    The serial is used up first, so that no crash makes two indexes of one serial. The three files
    are written and synced under temporary names, then renamed: .gz, .minisig, .json. Only between
    the last two does the signature not fit; a run that is cut just there is put right by the next
    one, and until then clients refuse the index and keep what they have."""
    import json
    folder = os.path.realpath(options.words[0])
    secret = options.need("secret")
    arch = options.arch or os.path.basename(folder)
    serial_file = options.serial_file or os.path.join(os.path.dirname(secret), f"serial-{arch}")
    created = int(time.time())
    expires = index_expiry(options.expires or "365", created)
    serial = next_serial(folder, serial_file, created)
    index = {"serial": serial, "created": created, "expires": expires, "arch": arch,
             "packages": scan_packages(folder, arch)}
    data = json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"
    signature = sign_hash(hashlib.blake2b(data).digest(), f"index {arch} serial {serial}", secret)
    write_atomic(serial_file, b"%d\n" % serial)
    base = os.path.join(folder, "index.json")
    with NewFiles() as new:
        new.create(base + ".gz").write(b"".join(gzip_pieces([data])))
        new.create(base + ".minisig").write(signature)
        new.create(base).write(data)
    say(f"{options.words[0]}: {how_many(index['packages'])}, serial {serial}")
    return 0


# ---- the root ----------------------------------------------------------------------------------
#
# Nothing below names a file in the root by a whole path: the kernel would follow whatever
# symlinks lie on it. A path is walked from the root's descriptor, one component at a time, never
# through a symlink, and its last component is used relative to the descriptor of its folder.

class Root:
    """The folder that is, or becomes, a system."""

    def __init__(self, path: str):
        self.path = path
        self.parts = []                 # the folder that was walked to last
        self.descriptors = [os.open(path, FOLDER_FLAGS & ~os.O_NOFOLLOW)]       # on the way to it
        self.lock = None

    def folder(self, path: str) -> int:
        """The descriptor of the folder PATH, "" for the root itself, good until the next call.

        FileNotFoundError when it isn't there, Fail when something else is in its place."""
        parts = path.split("/") if path else []
        same = 0
        while same < min(len(parts), len(self.parts)) and parts[same] == self.parts[same]:
            same += 1
        self.leave(same)
        for part in parts[same:]:
            way = self.name("/".join([*self.parts, part]))
            try:
                self.descriptors.append(os.open(part, FOLDER_FLAGS, dir_fd=self.descriptors[-1]))
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise OSError(error.errno, error.strerror, way) from None
                raise Fail(f"{way}: no directory, and a symlink in the root is never followed; "
                           "put a directory there, or move it away") from None
            self.parts.append(part)
        return self.descriptors[-1]

    def leave(self, depth: int = 0) -> None:
        """Close the folders deeper than DEPTH: what is walked to after this is looked at again."""
        while len(self.parts) > depth:
            os.close(self.descriptors.pop())
            self.parts.pop()

    def name(self, path: str) -> str:
        """PATH as the user would name it."""
        return os.path.join(self.path, path)

    def place(self, path: str) -> tuple:
        """(descriptor of PATH's folder, last component)."""
        parent, _, name = path.rpartition("/")
        return self.folder(parent), name

    def lstat(self, path: str) -> "os.stat_result | None":
        """What PATH is; None when it isn't there."""
        try:
            folder, name = self.place(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, path: str) -> object:
        """The regular file PATH, open to be read."""
        folder, name = self.place(path)
        return open_file(name, folder, self.name(path))

    def read(self, path: str, limit: int = SMALL_LIMIT) -> bytes:
        """The bytes of PATH, at most LIMIT; nothing when it isn't there."""
        try:
            return read_all(self.open(path), limit, self.name(path))
        except FileNotFoundError:
            return b""

    def names(self, path: str) -> list:
        """The names in the folder PATH, sorted; none when it isn't there."""
        try:
            return sorted(os.listdir(self.folder(path)))
        except FileNotFoundError:
            return []

    def create(self, path: str, mode: int = 0o600) -> object:
        """The new file PATH, open for writing; nothing may be there."""
        folder, name = self.place(path)
        return open(os.open(name, NEW_FLAGS, mode, dir_fd=folder), "w+b", buffering=0)

    def remove(self, path: str) -> None:
        """Unlink PATH if it is there."""
        try:
            folder, name = self.place(path)
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass

    def publish(self, path: str) -> None:
        """Rename PATH.new to PATH, durably."""
        folder, name = self.place(path)
        with open_file(name + ".new", folder) as file:
            os.fsync(file.fileno())
        os.rename(name + ".new", name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)

    def content(self, path: str) -> "str | None":
        """What is at PATH, to be compared: a file's SHA-256, where a symlink points, None for
        nothing, "" for a directory, a device or the like."""
        there = self.lstat(path)
        if there is None:
            return None
        if stat.S_ISREG(there.st_mode):
            with self.open(path) as file:
                return sha256_of(pieces(file))
        folder, name = self.place(path)
        return "-> " + os.readlink(name, dir_fd=folder) if stat.S_ISLNK(there.st_mode) else ""


def entry_content(entry: "dict | None") -> "str | None":
    """What Root.content says of a path that is as its manifest's ENTRY; None for no entry."""
    if entry is None:
        return None
    return entry["sha256"] if entry["type"] == "file" else "-> " + entry["target"]


def has_database(path: str) -> bool:
    """Whether the folder PATH is a root of lpkg's."""
    return os.path.isdir(os.path.join(path, INSTALLED))


def is_vacant(path: str) -> bool:
    """Whether the folder PATH is absent, or holds at most the beginning of a database."""
    allowed = [{part} for part in STATE.split("/")] + [{"lock", "installed"}]
    for names in allowed:
        found = set(os.listdir(path)) if os.path.lexists(path) else set()
        if found - names:
            return False
        path = os.path.join(path, min(names))
    return True


def check_root(path: str, create: bool) -> bool:
    """Whether PATH has a database; Fail unless it has, or may get one and CREATE says so."""
    if has_database(path):
        return True
    if os.path.realpath(path) == "/":
        raise Fail(f"/ is no Panux: it has no {INSTALLED}; name another root with --root DIR")
    if not create:
        raise Fail(f"{path}: no lpkg database there; `lpkg --root {path} install NAME` makes one")
    if not is_vacant(path):
        raise Fail(f"{path}: neither a root of lpkg's nor an empty folder; nothing was changed")
    return False


def create_root(path: str) -> list:
    """Make the folders of a database in PATH: the paths that were made, in that order."""
    made = []
    parts = INSTALLED.split("/")
    for depth in range(len(parts) + 1):
        folder = os.path.join(path, *parts[:depth])
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o755)
            made.append(folder)
    return made


def discard_root(made: list) -> None:
    """Remove the folders that create_root made: a refused install leaves nothing."""
    try:
        for folder in reversed(made):
            if folder.endswith(STATE):
                os.unlink(os.path.join(folder, "lock"))
            os.rmdir(folder)
    except OSError as error:
        say(f"{explain(error)} (while removing the new root again)")


def take_lock(root: Root) -> None:
    """Be the only lpkg that changes ROOT; Later, naming the other one, when there is one."""
    folder, name = root.place(LOCK)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    root.lock = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        fcntl.flock(root.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(root.lock, 20).decode(errors="replace").strip()
        raise Later(f"{root.path}: lpkg with pid {pid} is changing it; wait for it") from None
    os.truncate(root.lock, 0)
    os.write(root.lock, b"%d\n" % os.getpid())


def load_installed(root: "Root | None") -> dict:
    """NAME -> Package of what is installed."""
    installed = {}
    for name in filter(is_name, root.names(INSTALLED) if root else []):
        path = f"{INSTALLED}/{name}"
        info = parse_json(root.read(path, INFO_LIMIT), root.name(path))
        check_info(info, root.name(path))
        installed[name] = Package(info, None)
    return installed


def load_world(root: "Root | None") -> set:
    """The names that the user asked for."""
    return set(root.read(WORLD, INFO_LIMIT).decode(errors="replace").split()) if root else set()


def load_held(root: "Root | None") -> set:
    """The names that no upgrade touches."""
    return set(root.read(HELD, INFO_LIMIT).decode(errors="replace").split()) if root else set()


def world_text(world: set) -> bytes:
    """The file of a set of names."""
    return "".join(f"{name}\n" for name in sorted(world)).encode()


# ---- the network -------------------------------------------------------------------------------

class Repository(Record):
    """A folder of packages for several architectures, somewhere; what its index for ARCH offers."""
    __slots__ = ("name", "url", "arch", "packages")

    def is_remote(self) -> bool:
        """Whether a network is in between."""
        return self.url.startswith(("http://", "https://"))


def download(url: str) -> object:
    """The bytes of URL (http, https, file: or a path), in pieces."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("http", "https"):
        return download_http(url)
    if colon and scheme == "file":
        import urllib.parse
        url = urllib.parse.unquote("/" + rest[2:].partition("/")[2] if rest[:2] == "//" else rest)
    elif colon and scheme.isalnum():
        raise Fail(f"{url}: {scheme}: is not known; repositories are http, https, file: or a path")
    return pieces(open_file(url))


def download_http(url: str) -> object:
    """The body of URL, in pieces; Later when the network or the server is at fault."""
    import http.client
    import urllib.request
    if url.startswith("https:") and not hasattr(http.client, "HTTPSConnection"):
        raise Fail(f"{url}: this Python has no ssl; say http: instead, which the signatures make "
                   "as good, if the server has it")
    received = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"lpkg/{VERSION}"})
        opener = urllib.request.build_opener(careful_redirects())
        with opener.open(request, timeout=NETWORK_TIMEOUT) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            for piece in pieces(answer):
                received += len(piece)
                yield piece
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error if hasattr(error, "code") else getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise Later(f"{url}: {reason}; check the address and the network, or try later") from None
    if received < length:
        raise Later(f"{url}: the connection ended after {received} of {length} bytes; try again")


def careful_redirects() -> type:
    """A handler for urllib (which loads late): a redirect never leads from https to less."""
    import urllib.request

    class CarefulRedirects(urllib.request.HTTPRedirectHandler):
        """Follows what stays as safe as it was."""

        def redirect_request(self, request: object, answer: object, code: int, message: str,
                             headers: object, url: str) -> object:
            """The request for URL, or ValueError."""
            secure = request.full_url.startswith("https://")
            if not url.startswith("https://" if secure else ("http://", "https://")):
                raise ValueError(f"redirect to {url} is refused")
            return super().redirect_request(request, answer, code, message, headers, url)

    return CarefulRedirects


def fetch_bytes(url: str, limit: int) -> bytes:
    """The bytes of URL; Fail as soon as there are more than LIMIT."""
    data = bytearray()
    for piece in download(url):
        data += piece
        progress(f"{url}: {human_size(len(data))}")
        if len(data) > limit:
            raise Fail(f"{url}: longer than {human_size(limit)}, which is the most that is taken")
    progress("")
    return bytes(data)


# ---- indexes -----------------------------------------------------------------------------------
#
# The rules of trust, in their order. 1. The signature is that of a trusted key; until then the
# index is only bytes. 2. The trusted comment says `index ARCH serial N`: another signed file of
# the same key is no index. 3. The index is well formed, and for this ARCH and that serial. 4. It
# has not expired, where the time is what the clock says, but never before the newest `created`
# that was seen: a device without a clock works, and who holds its clock back gains nothing. 5.
# Its serial is not below the highest one seen of that key, and an equal one has the same bytes.

class Serials:
    """What was seen of each key's indexes: (key, arch) -> (serial, created, sha256)."""

    def __init__(self, data: bytes):
        self.seen = {}
        for line in data.decode(errors="replace").splitlines():
            words = line.split()
            if len(words) != 5 or not words[2].isdecimal() or not words[3].isdecimal():
                raise Fail(f"{SERIALS}: line {line!r} is not understood; restore or remove it")
            self.seen[words[0], words[1]] = (int(words[2]), int(words[3]), words[4])

    def text(self) -> bytes:
        """The file of it."""
        return "".join(f"{key} {arch} {serial} {created} {sha256}\n" for (key, arch),
                       (serial, created, sha256) in sorted(self.seen.items())).encode()

    def now(self) -> float:
        """The time, never before what was seen."""
        return max([time.time(), *(created for _, created, _ in self.seen.values())])

    def accept(self, key: PublicKey, index: dict, data: bytes, what: str) -> None:
        """Rule 5; remembers the index."""
        name = (key_name(key.id), index["arch"])
        sha256 = hashlib.sha256(data).hexdigest()
        serial, _, known = self.seen.get(name, (-1, 0, ""))
        if index["serial"] < serial:
            raise Fail(f"{what}: serial {index['serial']} is older than {serial}, which was seen "
                       "before; an old index is being served")
        if index["serial"] == serial and sha256 != known:
            raise Fail(f"{what}: serial {serial} was seen with another content; make a new index")
        self.seen[name] = (index["serial"], index["created"], sha256)


def check_comment(comment: str, index: dict, what: str) -> None:
    """Rules 2 and 3, where the two meet."""
    if comment != f"index {index['arch']} serial {index['serial']}":
        raise Fail(f"{what}: signed as {comment[:80]!r}, and it is the index of {index['arch']} "
                   f"with serial {index['serial']}; sign it anew with lpkg index")


def day_text(when: float) -> str:
    """The day of a time in unix seconds, as 2026-11-24."""
    return time.strftime("%Y-%m-%d", time.gmtime(min(when, 1 << 37)))


def check_expiry(index: dict, repository: Repository, now: float, what: str) -> None:
    """Rule 4."""
    expires = index["expires"]
    if expires is None and repository.is_remote():
        raise Fail(f"{what}: never expires, as only a folder's may; make it with --expires DAYS")
    if expires is not None and expires < now:
        raise Fail(f"{what}: expired on {day_text(expires)}, and the clock says {day_text(now)}; "
                   "if the clock is right, the repository needs a new index")


def load_index(repository: Repository, trusted: list, serials: Serials) -> None:
    """Fetch the index of REPOSITORY and, once the rules hold, let it offer its packages."""
    what = f"{repository.url}/{repository.arch}/index.json"
    signature = fetch_bytes(what + ".minisig", SMALL_LIMIT)
    data = fetch_bytes(what, INDEX_LIMIT)
    key, comment = check_signature(data, signature, trusted, what)
    if not comment.startswith("index "):
        raise Fail(f"{what}: signed as {comment[:80]!r}, not as an index")
    index = parse_json(data, what)
    check_index(index, repository.arch, what)
    check_comment(comment, index, what)
    check_expiry(index, repository, max(serials.now(), index["created"]), what)
    serials.accept(key, index, data, what)
    repository.packages = [Package(offer, repository, offer["size"], offer["sha256"])
                           for offer in index["packages"]]


def load_repositories(options: "Options", root: "Root | None", arch: str, serials: Serials) -> list:
    """The repositories of --repo, else the root's, loaded; trusted are --key, else its keys."""
    pairs = [(url, url) for url in options.repo]
    if not pairs and root:
        pairs = parse_repositories(root.read(REPOS).decode(errors="replace"))
    keys = [parse_public_key(read_file(path), path) for path in options.key]
    if not keys and root:
        names = [f"{KEYS}/{name}" for name in root.names(KEYS) if name.endswith(".pub")]
        keys = [parse_public_key(root.read(name), root.name(name)) for name in names]
    if pairs and not keys:
        raise Fail(f"no key is trusted; say --key FILE, or put the .pub file into {KEYS}")
    if pairs and time.time() < CLOCK_IS_SET:
        say(f"the clock says {day_text(time.time())}, so it isn't set; an index counts as expired "
            "only by the newest date that was seen; set it with date")
    found = [Repository(name, url.rstrip("/"), arch, []) for name, url in pairs]
    for repository in found:
        load_index(repository, keys, serials)
    return found


def machine() -> str:
    """This machine's architecture, as Panux calls it."""
    name = os.uname().machine
    return {"i586": "x86", "i686": "x86", "armv7l": "armv7"}.get(name, name)


# ---- the plan ----------------------------------------------------------------------------------

class Plan(Record):
    """What a transaction will do, settled and shown before anything is fetched: NEW packages, by
    name; OLD, name -> package that goes; STAY, those that are untouched; WORLD, what is asked for
    then."""
    __slots__ = ("new", "old", "stay", "world")

    def is_empty(self) -> bool:
        """Whether no package comes or goes."""
        return not self.new and not self.old


def plan_install(installed: dict, world: set, offers: list, words: list, local: list,
                 held: set = frozenset()) -> Plan:
    """The plan that brings WORDS (relations) and LOCAL (packages) to what is INSTALLED; of that,
    the names HELD stay as they are."""
    holds = [Want(parse_relation(name), "you hold", installed[name], False)
             for name in sorted(held & installed.keys())]
    wants = [Want(parse_relation(package.name), "you want", package, True) for package in local]
    for word in words:
        relation = parse_relation(word)
        if relation.negative:
            raise Usage(f"{word}: to be rid of a package, say `lpkg remove {relation.name}`")
        wants.append(Want(relation, "you want", None, True))
    chosen = solve(Universe(installed, offers, local), holds + wants)
    new = [package for name, package in sorted(chosen.items())
           if package is not installed.get(name)]
    old = {package.name: installed[package.name] for package in new if package.name in installed}
    stay = [package for name, package in installed.items() if chosen.get(name) is package]
    asked = {package.name for want in wants for package in chosen.values() if want.met_by(package)}
    return Plan(new, old, stay, world | asked)


def reasons(installed: dict, world: set) -> dict:
    """NAME -> the name of an installed package that needs it, or None where the user asked for it;
    what is not in it nobody needs."""
    named = {}
    for package in installed.values():
        for name, _ in package.names():
            named.setdefault(name, []).append(package)
    found = {name: None for name in sorted(world) if name in installed}
    for name in (left := list(found)):          # it grows meanwhile
        for relation in installed[name].relations("depends"):
            for package in named.get(relation.name, ()):
                if package.satisfies(relation) and package.name not in found:
                    found[package.name] = name
                    left.append(package.name)
    return found


def plan_autoremove(installed: dict, world: set) -> Plan:
    """The plan that removes what nobody needs."""
    needed = reasons(installed, world)
    old = {name: package for name, package in installed.items() if name not in needed}
    return Plan([], old, [installed[name] for name in needed], world)


def plan_remove(installed: dict, world: set, names: list) -> Plan:
    """The plan that removes NAMES; Fail, naming them, when others need one."""
    for name in names:
        if name not in installed:
            raise Fail(f"{name} is not installed{nearest(name, installed)}")
    stay = [package for name, package in installed.items() if name not in names]
    for package in stay:
        for relation in package.relations("depends"):
            if not any(other.satisfies(relation) for other in stay):
                raise Fail(f"{package.name} needs {relation.text}; remove {package.name} as well")
    return Plan([], {name: installed[name] for name in names}, stay, world - set(names))


def plan_lines(plan: Plan) -> list:
    """The plan, as a person reads it: packages, cost, what grows in risk, what is left to do."""
    lines = [package_line(package, plan.old.get(package.name)) for package in plan.new]
    coming = {package.name for package in plan.new}
    lines += [f"remove   {package}" for name, package in sorted(plan.old.items())
              if name not in coming]
    fetched = sum(package.size for package in plan.new)
    grows = (sum(package.installed_size() for package in plan.new)
             - sum(package.installed_size() for package in plan.old.values()))
    lines.append((f"download {human_size(fetched)}, " if fetched else "")
                 + f"disk {'-' if grows < 0 else '+'}{human_size(abs(grows))}")
    for package in plan.new:
        old = plan.old.get(package.name)
        for path in package.setuid():
            if not old or path not in old.setuid():
                lines.append(f"setuid   /{path} of {package.name}")
        for service in package.info["services"]:
            if not old or service not in old.info["services"]:
                lines.append(f"service  linitctl enable {service}  starts it at boot")
    return lines


def package_line(package: Package, old: "Package | None") -> str:
    """The line of a package that comes, perhaps in the place of an OLD one."""
    if old is None:
        return f"install  {package}  {human_size(package.size)}"
    ours, theirs = version_key(package.version), version_key(old.version)
    word = "replace" if ours == theirs else "upgrade" if ours > theirs else "downgrade"
    return f"{word}  {old} -> {package.version}  {human_size(package.size)}"


# ---- the transaction ---------------------------------------------------------------------------
#
# plan      which packages come and go (above)
# fetch     their bytes, into a spool file of the root that has no name; size and SHA-256 must be
#           those of the signed index. What is read later is the spool, never the source again.
# verify    each info.json against the index; then, path by path, what is in the root against what
#           the packages bring: conflicts, strays, clashes of type, symlinks on the way,
#           conffiles, space. Nothing has been changed so far.
# stage     `staged` is written: the list of all temporaries and new directories, as a journal
#           that undoes them. Then they are made: each new file beside its place under an
#           unpredictable name, with its owner and mode; the new database entries likewise; last
#           the journal, as journal.new.
# commit    sync, then one rename: journal.new -> journal. A run that dies before it is undone by
#           the next one, a run that dies after it is finished.
# apply     the journal's lines on files: renames, removals. Each is safe to do twice.
# register  its lines on the database, in the same way.
# forget    sync; `staged` goes, then `journal`; in this order, for a lone `staged` means undo.

class Transaction:
    """One change of a root, from its plan to its end."""

    def __init__(self, root: Root, plan: Plan, texts: dict):
        self.root = root
        self.plan = plan
        self.texts = texts              # final path -> bytes of what lpkg itself writes
        self.spool = None
        self.token = os.urandom(8).hex()
        self.temporaries = {}           # final path -> temporary path
        self.folders = {}               # directories to make (the keys), parents first
        self.removals = []              # journal lines
        self.claims = {}                # path -> (package, entry) of the system as it will be
        self.gone = {}                  # path -> (package, entry) of what goes, or is replaced

    def add_folder(self, path: str) -> None:
        """Have the directory PATH made, and those it lies in, unless they are there."""
        if path in self.folders or not path:
            return
        there = self.root.lstat(path)
        if there is None:
            self.add_folder(path.rpartition("/")[0])
            self.folders[path] = True
        elif not stat.S_ISDIR(there.st_mode):
            raise Fail(f"{self.root.name(path)}: in the way of a directory; move it away")

    def add_file(self, final: str) -> None:
        """Give what will be FINAL an unpredictable name beside its place."""
        parent, slash, _ = final.rpartition("/")
        self.temporaries[final] = f"{parent}{slash}.lpkg.{self.token}.{len(self.temporaries)}"


def run_transaction(tx: Transaction) -> None:
    """Carry out TX's plan: all of it or, when something is in the way, nothing."""
    try:
        fetch(tx)
        verify(tx)
        stage(tx)
        commit(tx)
    except BaseException:
        recover(tx.root, "undoing what was staged")
        raise
    try:
        finish(tx.root)
    except KeyboardInterrupt:           # an impatient Ctrl-C is obeyed as soon as that is done
        finish(tx.root)
        raise


def recover(root: Root, undoing: str = "undoing what an earlier lpkg had not finished") -> None:
    """Finish or undo what an earlier run, or this one, left behind."""
    root.leave()
    names = root.names(STATE)
    if "journal" in names:
        say(f"{root.path}: finishing what an earlier lpkg had begun")
        finish(root)
    elif "staged" in names:
        say(f"{root.path}: {undoing}")
        for line in parse_journal(root.read(STAGED, INFO_LIMIT), root.name(STAGED)):
            carry_out(root, line)
        forget(root)
    for path in (STAGED + ".new", JOURNAL + ".new", SPOOL):
        root.remove(path)


def finish(root: Root) -> None:
    """Carry out the journal of ROOT: apply, register, forget."""
    lines = parse_journal(root.read(JOURNAL, INFO_LIMIT), root.name(JOURNAL))
    try:
        apply(root, [line for line in lines if not line[-1].startswith(STATE + "/")])
        register(root, [line for line in lines if line[-1].startswith(STATE + "/")])
        forget(root)
    except (Fail, OSError) as error:
        reason = explain(error) if isinstance(error, OSError) else error
        raise Fail(f"{reason}; mend that, and the next lpkg finishes what was begun") from None


# -- fetch

def fetch(tx: Transaction) -> None:
    """Copy the packages' bytes into the spool: a file without a name, which nobody can change."""
    total = sum(package.size for package in tx.plan.new)
    check_space(os.fstatvfs(tx.root.folder(STATE)), total, tx.root.name(STATE))
    tx.root.remove(SPOOL)
    tx.spool = tx.root.create(SPOOL)
    tx.root.remove(SPOOL)
    fetch_packages(tx.plan.new, tx.spool)


def fetch_packages(packages: list, spool: object) -> None:
    """Append the bytes of PACKAGES to the SPOOL and read what each says of itself."""
    meter = Meter(f"fetching {how_many(packages)}", sum(package.size for package in packages))
    for package in packages:
        fetch_package(package, spool, meter)
        read_manifest(package, spool)
    progress("")


def how_many(packages: list) -> str:
    return "1 package" if len(packages) == 1 else f"{len(packages)} packages"


def package_url(package: Package) -> str:
    """Where the bytes of PACKAGE are; Fail when that is not in its repository's folder."""
    import urllib.parse
    if isinstance(package.origin, str):
        return os.path.abspath(package.origin)
    quoted = package.info["file"]
    plain = urllib.parse.unquote(quoted)
    if "/" in plain or not is_path(plain) or urllib.parse.quote(plain) != quoted:
        raise Fail(f"{package}: the index calls its file {quoted!r}, which is none of its folder")
    url = package.origin.url
    is_url = url.startswith(("http:", "https:", "file:"))
    return f"{url}/{package.origin.arch}/{quoted if is_url else plain}"


def fetch_package(package: Package, spool: object, meter: Meter) -> None:
    """Append the bytes of PACKAGE to the SPOOL; size and SHA-256 must be the promised ones."""
    url = package_url(package)
    digest = hashlib.sha256()
    package.start = spool.seek(0, os.SEEK_END)
    left = package.size
    for piece in meter.count(download(url)):
        left -= len(piece)
        if left < 0:
            break
        digest.update(piece)
        write_all(spool, piece)
    if left or digest.hexdigest() != package.sha256:
        raise Fail(f"{url}: not the {package.size} bytes that the signed index promises; refused")


def write_all(file: object, data: bytes) -> None:
    """Write DATA to an unbuffered FILE."""
    view = memoryview(data)
    while view:
        view = view[file.write(view):]


def read_manifest(package: Package, spool: object) -> None:
    """Let the info.json of a fetched PACKAGE replace the index's entry, if the two agree."""
    info = Archive(spool.fileno(), package.start, package.size, str(package)).info()
    said = dict(info, setuid=setuid_paths(info["files"]))
    if isinstance(package.origin, Repository):
        package.info["arch"] = package.origin.arch
    for key in ("name", "version", "arch", "depends", "provides", "conflicts", "services",
                "setuid"):
        if said[key] != package.info.get(key, said[key]):
            raise Fail(f"{package}: {key} is {said[key]!r} in the package, {package.info[key]!r} "
                       "in the index; refused")
    package.info = info


# -- verify

def verify(tx: Transaction) -> None:
    """Look at everything that could be in the way; Fail before anything is changed."""
    tx.claims = merge_manifests([*tx.plan.stay, *tx.plan.new])
    for package in tx.plan.old.values():
        for entry in package.info["files"]:
            tx.gone[entry["path"]] = (package, entry)
    for package in tx.plan.new:
        for entry in package.info["files"]:
            if entry["type"] == "dir":
                tx.add_folder(entry["path"])
            else:
                verify_file(tx, package, entry)
    plan_texts(tx)
    plan_removals(tx)
    check_room(tx)


def verify_file(tx: Transaction, package: Package, entry: dict) -> None:
    """Decide where the file or symlink ENTRY of PACKAGE goes, given what is in its place."""
    path = entry["path"]
    current = tx.root.content(path)
    if current == "":
        raise Fail(f"{tx.root.name(path)}: in the way of a {entry['type']} of {package.name}; "
                   "move it away")
    owner, old = tx.gone.get(path, (None, None))
    choice = "replace"
    if path in package.info["conffiles"] or owner and path in owner.info["conffiles"]:
        choice = conffile_choice(current, entry_content(old), entry_content(entry))
    elif old is None and current not in (None, entry_content(entry)):
        raise Fail(f"{tx.root.name(path)}: belongs to no package, and {package.name}'s differs; "
                   "move it away")
    if choice == "beside":
        say(f"{tx.root.name(path)}: was changed here and stays; the new one is {path}.lpkg-new")
    if choice != "keep":
        tx.add_file(path + ".lpkg-new" if choice == "beside" else path)


def plan_texts(tx: Transaction) -> None:
    """The database as it will be."""
    for package in tx.plan.new:
        tx.texts[f"{INSTALLED}/{package.name}"] = registration(package)
    tx.texts[WORLD] = world_text(tx.plan.world)
    for path in tx.texts:
        if path in tx.claims:
            raise Fail(f"{path}: brought by {tx.claims[path][0]} and to be written; leave one out")
        tx.add_folder(path.rpartition("/")[0])
        tx.add_file(path)


def registration(package: Package) -> bytes:
    """The database's entry of PACKAGE: its info.json, and where it came from."""
    info = dict(package.info, package_sha256=package.sha256)
    if isinstance(package.origin, Repository):
        info["repository"] = package.origin.name
    return info_text(info)


def plan_removals(tx: Transaction) -> None:
    """The journal's lines for what no package has any more: files, folders from below, entries."""
    folders = []
    for path, (package, entry) in sorted(tx.gone.items()):
        if path not in tx.claims and entry["type"] == "dir":
            folders.append(["rmdir", path])
        elif path not in tx.claims and is_removable(tx.root, package, entry):
            tx.removals.append(["rm", path])
    coming = {package.name for package in tx.plan.new}
    tx.removals += folders[::-1]
    tx.removals += [["rm", f"{INSTALLED}/{name}"] for name in tx.plan.old if name not in coming]


def is_removable(root: Root, package: Package, entry: dict) -> bool:
    """Whether the file ENTRY of PACKAGE, which goes, is to be deleted; says why when it isn't."""
    path = entry["path"]
    try:
        there = root.lstat(path)
    except Fail as error:
        say(f"{path}: left alone: {error}")
        return False
    if there is not None and stat.S_ISDIR(there.st_mode):
        say(f"{root.name(path)}: left alone: it is a directory now")
        return False
    if path in package.info["conffiles"] and root.content(path) not in (None, entry_content(entry)):
        say(f"{root.name(path)}: was changed here and stays")
        return False
    return there is not None


def check_room(tx: Transaction) -> None:
    """Fail unless each file system has the room for what is staged on it."""
    needed = {}                         # device -> (bytes, a folder on it)
    places = {}
    for package in tx.plan.new:
        for entry in package.info["files"]:
            parent = entry["path"].rpartition("/")[0]
            if parent not in places:
                places[parent] = nearest_folder(tx.root, parent)
            device, folder = places[parent]
            blocks = -(-entry.get("size", 1) // 4096) * 4096
            needed[device] = (needed.get(device, (0, ""))[0] + blocks, folder)
    for size, folder in needed.values():
        check_space(os.fstatvfs(tx.root.folder(folder)), size, tx.root.name(folder))


def nearest_folder(root: Root, path: str) -> tuple:
    """(device, folder) of PATH or, where it is still to be made, of the nearest folder above it."""
    there = root.lstat(path) if path else os.fstat(root.folder(""))
    return (there.st_dev, path) if there else nearest_folder(root, path.rpartition("/")[0])


def check_space(file_system: object, size: int, what: str) -> None:
    """Fail unless SIZE bytes fit on FILE_SYSTEM (one without blocks has no limit)."""
    free = file_system.f_bavail * file_system.f_frsize
    if file_system.f_blocks and free < size:
        raise Fail(f"{what}: {human_size(size)} needed, {human_size(free)} free; make room first")


# -- stage

def stage(tx: Transaction) -> None:
    """Write all that is new under its temporary name, and the two journals."""
    undo = [["rm", path] for path in tx.temporaries.values()]
    undo += [["rmdir", path] for path in reversed(list(tx.folders))]
    moves = [["mv", path, final] for final, path in tx.temporaries.items()]
    journal = journal_text(moves + tx.removals)
    parse_journal(journal, "the transaction")       # refuses what a later run could not read
    write_text(tx.root, STAGED + ".new", journal_text(undo))
    tx.root.publish(STAGED)
    for path in tx.folders:
        stage_folder(tx, path)
    meter = Meter(f"writing {how_many(tx.plan.new)}", sum(p.info["size"] for p in tx.plan.new))
    for package in tx.plan.new:
        for entry, content in unpack(package, tx.spool):
            stage_entry(tx, entry, meter.count(content))
    progress("")
    for final, data in tx.texts.items():
        write_text(tx.root, tx.temporaries[final], data)
    write_text(tx.root, JOURNAL + ".new", journal)


def write_text(root: Root, path: str, data: bytes) -> None:
    """Make the file PATH of lpkg's own; it is synced with all others, or when it is published."""
    with root.create(path) as file:
        write_all(file, data)
        own(file.fileno(), file_entry(path, data))


def mode_here(entry: dict) -> int:
    """The mode that ENTRY gets from this user. One who isn't root can't give files away, so setuid
    would run them as the wrong user; and must be able to fill and to empty each directory."""
    mode = int(entry["mode"], 8)
    if os.geteuid() == 0:
        return mode
    return mode | 0o700 if entry["type"] == "dir" else mode & ~SETUID


def own(descriptor: int, entry: dict) -> None:
    """Give an open file the owner and the mode of ENTRY, in this order: chown clears setuid."""
    if os.geteuid() == 0:
        os.fchown(descriptor, entry["uid"], entry["gid"])
    os.fchmod(descriptor, mode_here(entry))


def stage_folder(tx: Transaction, path: str) -> None:
    """Make the directory PATH. It gets its final name at once: an empty one does no harm."""
    folder, name = tx.root.place(path)
    os.mkdir(name, 0o700, dir_fd=folder)
    own(tx.root.folder(path), tx.claims[path][1] if path in tx.claims else folder_entry(path))


def stage_entry(tx: Transaction, entry: dict, content: object) -> None:
    """Make the temporary of ENTRY; the CONTENT of a conffile that isn't wanted is checked too."""
    beside = tx.temporaries.get(entry["path"] + ".lpkg-new")
    temporary = tx.temporaries.get(entry["path"], beside)
    if temporary is None:
        for _ in content:
            pass
    elif entry["type"] == "link":
        stage_link(tx.root, temporary, entry)
    else:
        with tx.root.create(temporary) as file:
            for piece in content:
                write_all(file, piece)
            own(file.fileno(), entry)


def stage_link(root: Root, temporary: str, entry: dict) -> None:
    """Make the symlink of ENTRY."""
    folder, name = root.place(temporary)
    os.symlink(entry["target"], name, dir_fd=folder)
    if os.geteuid() == 0:
        os.chown(name, entry["uid"], entry["gid"], dir_fd=folder, follow_symlinks=False)


# -- commit, apply, register, forget

def commit(tx: Transaction) -> None:
    """Make what is staged durable, then the journal: from here on the change will happen."""
    os.sync()
    tx.root.publish(JOURNAL)


def apply(root: Root, lines: list) -> None:
    """Carry out the journal's LINES on the system's files."""
    for line in lines:
        carry_out(root, line)


def register(root: Root, lines: list) -> None:
    """Carry out the journal's LINES on the database."""
    for line in lines:
        carry_out(root, line)


def forget(root: Root) -> None:
    """Remove the traces of a transaction that is finished, or undone."""
    os.sync()
    root.remove(STAGED)
    os.fsync(root.folder(STATE))
    root.remove(JOURNAL)


def carry_out(root: Root, line: list) -> None:
    """One line of a journal. Twice is as good as once: what was done already is passed over."""
    verb, path = line[:2]
    try:
        folder, name = root.place(path)
        if verb == "rmdir":
            remove_folder(folder, name)
            return
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        target = line[-1].rpartition("/")[2]
        disarm(folder, target)
        if verb == "mv":
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except Fail as error:
        if verb == "mv":
            raise
        say(f"{path}: left alone: {error}")


def remove_folder(folder: int, name: str) -> None:
    """Remove the directory NAME if it is empty, and one."""
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        passed_over = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY, errno.ENOENT)
        if error.errno not in passed_over:
            raise


def disarm(folder: int, name: str) -> None:
    """Clear setuid and setgid of the file NAME before the name goes: a hard link that somebody
    made to it elsewhere would keep an old hole open for ever."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) and mode & SETUID:
        with open_file(name, folder) as file:
            os.fchmod(file.fileno(), mode & 0o1777)


# ---- commands on a root ------------------------------------------------------------------------

def open_root(options: "Options", change: bool = False) -> "Root | None":
    """The root of --root. To CHANGE it: locked, recovered; None when it is still to be made."""
    if not check_root(options.root, change):
        return None
    root = Root(options.root)
    if change and not options.dry_run:
        take_lock(root)
        recover(root)
    return root


def is_file_word(word: str) -> bool:
    """Whether WORD means a .lpkg file, not a package's name."""
    return "/" in word or word.endswith(".lpkg")


def read_locals(options: "Options", words: list) -> list:
    """The packages among WORDS that are files; Fail without --allow-unsigned."""
    paths = [word for word in words if is_file_word(word)]
    if paths and not options.allow_unsigned:
        raise Fail(f"{paths[0]}: a file is not signed; if you trust it, say --allow-unsigned")
    if paths and options.tar is not None and len(paths) == len(words):
        say(f"{len(paths)} local packages, unsigned")
    elif paths:
        say(f"WARNING: NOT SIGNED: {', '.join(paths)}: whoever made it decides what runs here")
    return [read_local(path) for path in paths]


def choose_arch(options: "Options", installed: dict, local: list) -> str:
    """The architecture: of --arch, of what is installed, of the local files, of this machine."""
    known = [package.info["arch"] for package in [*installed.values(), *local]]
    arch = options.arch or (known[0] if known else machine())
    if not is_name(arch):
        raise Usage(f"--arch {arch}: no name of an architecture")
    for package in local:
        if package.info["arch"] != arch:
            raise Fail(f"{package}: made for {package.info['arch']}, and the root is {arch}")
    return arch


def cmd_install(options: "Options") -> int:
    """Install packages with what they need, or upgrade them."""
    root = open_root(options, change=True)
    installed, world = load_installed(root), load_world(root)
    serials = Serials(root.read(SERIALS) if root else b"")
    local = read_locals(options, options.words)
    names = [word for word in options.words if not is_file_word(word)]
    offers = load_repositories(options, root, choose_arch(options, installed, local), serials)
    plan = plan_install(installed, world, offers, names, local, load_held(root))
    if plan.is_empty() and plan.world == world:
        say("nothing to do: it is installed already")
        return 0
    return change_root(options, root, plan, {SERIALS: serials.text()})


def cmd_upgrade(options: "Options") -> int:
    """Upgrade installed packages, all of them when none is named, with what they need then."""
    root = open_root(options, change=True)
    installed, world = load_installed(root), load_world(root)
    names = [package.name for package in find_installed(root, options.words)]
    serials = Serials(root.read(SERIALS) if root else b"")
    offers = load_repositories(options, root, choose_arch(options, installed, []), serials)
    plan = plan_install(installed, world, offers, names, [], load_held(root))
    plan.world = world                  # who upgrades a package need not have asked for it
    if plan.is_empty():
        say("nothing to do: what is installed is the newest")
        return 0
    return change_root(options, root, plan, {SERIALS: serials.text()})


def cmd_remove(options: "Options") -> int:
    """Remove packages."""
    root = open_root(options, change=True)
    installed, world = load_installed(root), load_world(root)
    plan = plan_remove(installed, world, options.words)
    status = change_root(options, root, plan, {})
    before = set(installed) - set(reasons(installed, world))
    rest = {package.name: package for package in plan.stay}
    unneeded = sorted(set(rest) - set(reasons(rest, plan.world)) - before)
    if unneeded:
        say(f"nobody needs {', '.join(unneeded)} any more; `lpkg autoremove` removes that")
    return status


def cmd_autoremove(options: "Options") -> int:
    """Remove what came along with others and is needed by none any more."""
    root = open_root(options, change=True)
    plan = plan_autoremove(load_installed(root), load_world(root))
    if plan.is_empty():
        say("nothing to do: all that is installed is needed")
        return 0
    return change_root(options, root, plan, {})


def cmd_hold(options: "Options") -> int:
    """Keep packages as they are, whatever is upgraded."""
    return change_held(options, lambda held, names: held | names)


def cmd_unhold(options: "Options") -> int:
    """Let packages be upgraded again."""
    return change_held(options, lambda held, names: held - names)


def change_held(options: "Options", change: object) -> int:
    """Write the names HELD anew: what CHANGE makes of them and the names that are given."""
    root = open_root(options, change=True)
    names = {package.name for package in find_installed(root, options.words)}
    root.remove(HELD + ".new")
    with root.create(HELD + ".new", 0o644) as file:
        file.write(world_text(change(load_held(root), names)))
    root.publish(HELD)
    return 0


def change_root(options: "Options", root: "Root | None", plan: Plan, texts: dict) -> int:
    """Show PLAN, ask, and carry it out: in a new root when there is no ROOT yet, which vanishes
    again if that fails."""
    for line in plan_lines(plan):
        print(printable(line), file=sys.stdout if options.dry_run else sys.stderr)
    if options.dry_run:
        return 0
    confirm(options.yes)
    made = []
    if root is None:
        made = create_root(options.root)
        root = Root(options.root)
        take_lock(root)
    try:
        run_transaction(Transaction(root, plan, texts))
    except BaseException:
        if root.lstat(JOURNAL) is None:
            discard_root(made)
        raise
    return 0


# -- bootstrap

def cmd_bootstrap(options: "Options") -> int:
    """Make a new root, as a folder or as a tar."""
    words = list(options.words)
    if options.tar is None:
        options.root = words.pop(0)
        if options.no_database:
            raise Usage("bootstrap: --no-database goes with --tar")
        if has_database(options.root) or not is_vacant(options.root):
            raise Fail(f"{options.root}: not empty; bootstrap wants an absent or empty folder")
    if not words:
        raise Usage("bootstrap: name the packages that it shall hold")
    serials = Serials(b"")
    plan = plan_bootstrap(options, words, serials)
    texts = bootstrap_texts(options, serials)
    if options.tar is None or options.dry_run:
        options.yes = True              # there is nothing yet that could be harmed
        return change_root(options, None, plan, texts)
    bootstrap_tar(options, plan, texts)
    return 0


def plan_bootstrap(options: "Options", words: list, serials: Serials) -> Plan:
    """The plan of a new root. Where all are local files and no repository is named, they are taken
    as they are, and nothing that they need is looked for."""
    local = read_locals(options, words)
    names = [word for word in words if not is_file_word(word)]
    arch = choose_arch(options, {}, local)
    if names or options.repo:
        offers = load_repositories(options, None, arch, serials)
        for repository in offers:
            repository.name = repository_name(options)
        return plan_install({}, set(), offers, names, local)
    by_name = {package.name: package for package in local}
    if len(by_name) != len(local):
        raise Fail("bootstrap: two of the files are the same package")
    return Plan([package for _, package in sorted(by_name.items())], {}, [], set(by_name))


def repository_name(options: "Options") -> str:
    """What a new root calls its repository: what its key is called."""
    name = os.path.basename(options.key[0]).removesuffix(".pub") if options.key else "panux"
    return name if is_name(name) else "panux"


def bootstrap_texts(options: "Options", serials: Serials) -> dict:
    """PATH -> bytes of the configuration and the state that a new root begins with."""
    texts = {}
    for path in options.key:
        data = read_file(path)
        parse_public_key(data, path)
        texts[f"{KEYS}/{os.path.basename(path).removesuffix('.pub')}.pub"] = data
    if options.repo_url:
        texts[REPOS] = f"{repository_name(options)} {options.repo_url}\n".encode()
    if serials.seen:
        texts[SERIALS] = serials.text()
    return texts


def bootstrap_tar(options: "Options", plan: Plan, texts: dict) -> None:
    """Write the tar of a new root to --tar FILE, or to stdout for `-`."""
    import tempfile
    if options.tar == "-" and sys.stdout.isatty():
        raise Fail("stdout is a terminal; send the tar into a file or a pipe")
    with tempfile.TemporaryFile(buffering=0) as spool, NewFiles() as new:
        fetch_packages(plan.new, spool)
        file = sys.stdout.buffer if options.tar == "-" else new.create(options.tar)
        for piece in root_pieces(plan, texts, spool, options.no_database):
            file.write(piece)
        file.flush()


def root_pieces(plan: Plan, texts: dict, spool: object, no_database: bool) -> object:
    """The root of PLAN as a tar, in pieces: all directories, each package's files, lpkg's own."""
    claims = merge_manifests(plan.new)
    texts.update({f"{INSTALLED}/{package.name}": registration(package) for package in plan.new})
    texts[WORLD] = world_text(plan.world)
    kept = sorted((path, data) for path, data in texts.items()
                  if not (no_database and path.startswith(STATE + "/")))
    for _, entry in sorted(tar_folders(claims, dict(kept)).items()):
        yield tar_header(entry)
    meter = Meter(f"writing {how_many(plan.new)}", sum(p.info["size"] for p in plan.new))
    for package in plan.new:
        for entry, content in unpack(package, spool):
            if entry["type"] != "dir":
                yield tar_header(entry)
                yield from meter.count(content)
                yield padding(entry.get("size", 0))
    progress("")
    for path, data in kept:
        yield tar_header(file_entry(path, data)) + data + padding(len(data))
    yield TAR_END


def tar_folders(claims: dict, texts: dict) -> dict:
    """PATH -> entry of a new root's directories; Fail where a package brings one of the TEXTS."""
    folders = {path: entry for path, (_, entry) in claims.items() if entry["type"] == "dir"}
    for path in texts:
        if path in claims:
            raise Fail(f"{path}: brought by {claims[path][0]} and to be written; leave one out")
        while "/" in path:
            path = path.rpartition("/")[0]
            folders.setdefault(path, folder_entry(path))
    return folders


# -- queries

def find_installed(root: Root, names: list) -> list:
    """The installed packages called NAMES, all of them for none; Fail for one that isn't there."""
    installed = load_installed(root)
    for name in names:
        if name not in installed:
            raise Fail(f"{name} is not installed{nearest(name, installed)}")
    return [installed[name] for name in names] or list(installed.values())


def print_all(options: "Options", objects: list, line: object) -> None:
    """OBJECTS as JSON with --json, else each as LINE(object) says."""
    if options.json:
        show_json(objects)
        return
    for one in objects:
        show(line(one))


def summary(package: Package) -> dict:
    """What is known of PACKAGE, without its files."""
    return {key: value for key, value in package.info.items() if key != "files"}


def cmd_list(options: "Options") -> int:
    """List what is installed."""
    packages = find_installed(open_root(options), [])
    print_all(options, list(map(summary, packages)),
              lambda info: f"{info['name']} {info['version']}")
    return 0


def load_offers(options: "Options", root: Root, installed: dict) -> list:
    """The packages that the repositories offer, by name, the newest first."""
    serials = Serials(root.read(SERIALS))
    found = load_repositories(options, root, choose_arch(options, installed, []), serials)
    return [package for repository in found for package in repository.packages]


def cmd_info(options: "Options") -> int:
    """Describe packages: .lpkg files, installed ones, else what the repositories offer."""
    infos = [summary(describe(options, word)) for word in options.words]
    if options.json:
        show_json(infos)
        return 0
    for info in infos:
        for key, value in info.items():
            show(f"{key}: {' '.join(value) if isinstance(value, list) else value}")
    return 0


def describe(options: "Options", word: str) -> Package:
    """The package that WORD names."""
    if is_file_word(word):
        return read_local(word)
    root = open_root(options)
    known = load_installed(root)
    if word not in known and (options.repo or root.read(REPOS)):
        for package in load_offers(options, root, known):
            known.setdefault(package.name, package)
    if word not in known:
        raise Fail(f"{word} is neither installed nor in a repository{nearest(word, known)}")
    return known[word]


def cmd_files(options: "Options") -> int:
    """List the files of packages."""
    entries = []
    for word in options.words:
        is_file = is_file_word(word)
        package = read_local(word) if is_file else find_installed(open_root(options), [word])[0]
        entries += package.info["files"]
    print_all(options, entries, lambda entry: entry["path"])
    return 0


def cmd_owner(options: "Options") -> int:
    """Which package brought a path."""
    found = []
    installed = find_installed(open_root(options), [])
    for word in options.words:
        path = os.path.normpath("/" + word.lstrip("/"))[1:]
        owners = [package.name for package in installed
                  if any(entry["path"] == path for entry in package.info["files"])]
        if not owners:
            raise Fail(f"/{path}: no package has brought it")
        found += [{"path": path, "package": name} for name in owners]
    print_all(options, found, lambda one: f"{one['path']}: {one['package']}")
    return 0


def cmd_why(options: "Options") -> int:
    """Why a package is there: who needs it, up to what the user asked for."""
    root = open_root(options)
    installed = load_installed(root)
    name = find_installed(root, options.words)[0].name
    needed = reasons(installed, load_world(root))
    if name not in needed:
        raise Fail(f"{name}: nobody needs it; `lpkg autoremove` removes it")
    steps = []
    while name is not None:
        steps.append({"package": name, "needed_by": needed[name]})
        name = needed[name]
    print_all(options, steps, lambda step: f"{step['package']}: "
              + (f"{step['needed_by']} needs it" if step["needed_by"] else "you asked for it"))
    return 0


def cmd_verify(options: "Options") -> int:
    """Compare what is in the root with what was installed, conffiles aside."""
    root = open_root(options)
    expected = merge_manifests(find_installed(root, []))
    faults = []
    for package in find_installed(root, options.words):
        progress(f"verifying {package}")
        for entry in package.info["files"]:
            if entry["path"] not in package.info["conffiles"]:
                faults += [{"path": entry["path"], "what": what, "package": package.name}
                           for what in differences(root, expected[entry["path"]][1])]
    progress("")
    print_all(options, faults, lambda fault: f"{fault['path']}: {fault['what']}")
    return 1 if faults else 0


def differences(root: Root, entry: dict) -> list:
    """In a word each, how what is in ROOT differs from ENTRY."""
    path = entry["path"]
    try:
        there = root.lstat(path)
    except Fail:                        # a folder on the way is a symlink, which has its own line
        there = None
    if there is None:
        return ["missing"]
    kinds = {"dir": stat.S_ISDIR, "file": stat.S_ISREG, "link": stat.S_ISLNK}
    if not kinds[entry["type"]](there.st_mode):
        return ["type"]
    found = []
    if entry["type"] != "link" and stat.S_IMODE(there.st_mode) != mode_here(entry):
        found.append("mode")
    if os.geteuid() == 0 and (there.st_uid, there.st_gid) != (entry["uid"], entry["gid"]):
        found.append("owner")
    if entry["type"] != "dir" and root.content(path) != entry_content(entry):
        found.append("target" if entry["type"] == "link" else "content")
    return found


def cmd_search(options: "Options") -> int:
    """Search the repositories for a word in names and summaries."""
    root = open_root(options)
    word = options.words[0].lower()
    found = {}
    for package in load_offers(options, root, load_installed(root)):
        if word in package.name.lower() or word in package.info["summary"].lower():
            found.setdefault(package.name, summary(package))
    print_all(options, list(found.values()),
              lambda info: f"{info['name']} {info['version']}  {info['summary']}")
    return 0


# ---- the command line --------------------------------------------------------------------------

class Option(Record):
    """An option: its FLAG, the attribute of Options that it sets, what the help calls its VALUE
    ("" for none), its HELP, and whether it may be given several times."""
    __slots__ = ("flag", "attribute", "value", "help", "many")


class Verb(Record):
    """A verb: what carries it out, how many words it wants and their help, its OPTIONS."""
    __slots__ = ("run", "least", "most", "words", "options", "help")


ANY = 1 << 30
FROM = "--root --repo --key --arch "

OPTIONS = [
    Option("--root", "root", "DIR", "the root to work on (default /)", False),
    Option("--repo", "repo", "URL", "a repository, the folder above ARCH/", True),
    Option("--key", "key", "FILE", "a public key to trust, instead of the root's", True),
    Option("--arch", "arch", "ARCH", "the architecture (the root's, this machine's)", False),
    Option("--yes", "yes", "", "don't ask", False),
    Option("--dry-run", "dry_run", "", "show the plan on stdout and stop", False),
    Option("--json", "json", "", "print an array of objects", False),
    Option("--allow-unsigned", "allow_unsigned", "", "take unsigned .lpkg files", False),
    Option("--meta", "meta", "FILE", "what the packages are (pkggen.py meta)", False),
    Option("-o", "output", "DIR", "where the packages go", False),
    Option("--secret", "secret", "KEY", "the secret key to sign with", False),
    Option("--comment", "comment", "TEXT", "the trusted comment", False),
    Option("--encrypt", "encrypt", "", "ask for a password (or take LPKG_PASSWORD)", False),
    Option("--expires", "expires", "DAYS", "until it expires, or never (default 365)", False),
    Option("--serial-file", "serial_file", "FILE", "default: serial-ARCH beside KEY", False),
    Option("--tar", "tar", "FILE", "write a tar, - for stdout, with all owners and modes", False),
    Option("--no-database", "no_database", "", "leave lpkg's database out of the tar", False),
    Option("--repo-url", "repo_url", "URL", "what the new root has in etc/lpkg/repos", False),
    Option("--version", "version", "", "print the version", False),
    Option("--help", "help", "", "print this", False),
]

VERBS = {
    "install": Verb(cmd_install, 1, ANY, "NAME[=VERSION]|FILE...",
                    FROM + "--yes --dry-run --allow-unsigned", "install or upgrade packages"),
    "upgrade": Verb(cmd_upgrade, 0, ANY, "[NAME...]", FROM + "--yes --dry-run",
                    "upgrade packages, all of them when none is named"),
    "remove": Verb(cmd_remove, 1, ANY, "NAME...", "--root --yes --dry-run", "remove packages"),
    "autoremove": Verb(cmd_autoremove, 0, 0, "", "--root --yes --dry-run",
                       "remove what nobody needs any more"),
    "hold": Verb(cmd_hold, 1, ANY, "NAME...", "--root", "keep packages as they are"),
    "unhold": Verb(cmd_unhold, 1, ANY, "NAME...", "--root", "let packages be upgraded again"),
    "search": Verb(cmd_search, 1, 1, "WORD", FROM + "--json", "search names and summaries"),
    "list": Verb(cmd_list, 0, 0, "", "--root --json", "list what is installed"),
    "info": Verb(cmd_info, 1, ANY, "NAME|FILE...", FROM + "--json", "describe packages"),
    "files": Verb(cmd_files, 1, ANY, "NAME|FILE...", "--root --json", "list the files of packages"),
    "owner": Verb(cmd_owner, 1, ANY, "PATH...", "--root --json", "say who brought a path"),
    "why": Verb(cmd_why, 1, 1, "NAME", "--root --json", "say who needs a package"),
    "verify": Verb(cmd_verify, 0, ANY, "[NAME...]", "--root --json", "compare files and database"),
    "bootstrap": Verb(cmd_bootstrap, 1, ANY, "ROOT|--tar FILE NAME...",
                      "--repo --key --arch --tar --no-database --repo-url "
                      "--allow-unsigned --dry-run", "make a new root"),
    "pack": Verb(cmd_pack, 0, 0, "--meta FILE -o DIR < TAR", "--meta -o",
                 "make packages of a build's output"),
    "index": Verb(cmd_index, 1, 1, "DIR --secret KEY", "--secret --arch --expires --serial-file",
                  "write and sign the index of a folder of packages"),
    "sign": Verb(cmd_sign, 1, 1, "FILE --secret KEY", "--secret --comment", "sign a file"),
    "keygen": Verb(cmd_keygen, 1, 1, "BASENAME", "--encrypt", "make a key pair"),
}
BEGINNER = ("install", "remove", "upgrade", "search", "list")


class Options:
    """The command line, parsed: one attribute an option, and the words that are none."""

    def __init__(self):
        self.words = []
        for option in OPTIONS:
            value = [] if option.many else None if option.value else False
            setattr(self, option.attribute, value)

    def need(self, attribute: str) -> str:
        """The value of an option; Usage when it was not given."""
        value = getattr(self, attribute)
        if value is None:
            flag = next(option.flag for option in OPTIONS if option.attribute == attribute)
            raise Usage(f"{flag} is needed")
        return value


def parse_arguments(arguments: list) -> tuple:
    """(verb or None, Options); options may stand before and after the verb, `--` ends them."""
    options = Options()
    flags = {option.flag: option for option in OPTIONS}
    given = []
    rest = list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            options.words.append(word)
            continue
        if flag not in flags:
            raise Usage(f"{flag}: no such option{nearest(flag, flags)}")
        set_option(options, flags[flag], [value] if equals else rest, bool(equals))
        given.append(flag)
    options.words += rest[1:]
    verb = options.words.pop(0) if options.words else None
    if not options.help and not options.version and (verb or given):
        check_arguments(verb, options, given)
    options.root = options.root or "/"
    return verb, options


def set_option(options: Options, option: Option, values: list, attached: bool) -> None:
    """Note OPTION, whose value, if it takes one, is the first of VALUES, which is taken away."""
    if not option.value and attached:
        raise Usage(f"{option.flag} takes no value")
    if option.value and not values:
        raise Usage(f"{option.flag} needs a value: {option.flag} {option.value}")
    if option.many:
        getattr(options, option.attribute).append(values.pop(0))
    else:
        setattr(options, option.attribute, values.pop(0) if option.value else True)


def check_arguments(verb: "str | None", options: Options, given: list) -> None:
    """Usage unless VERB exists, and takes the options that were GIVEN and so many words."""
    if verb not in VERBS:
        known = nearest(verb, VERBS) if verb else ""
        raise Usage(f"{verb}: no such verb{known}" if verb else "no verb; see lpkg --help")
    known = VERBS[verb]
    for flag in given:
        if flag not in known.options.split():
            raise Usage(f"{flag} doesn't go with {verb}; see lpkg {verb} --help")
    if not known.least <= len(options.words) <= known.most:
        raise Usage(f"write lpkg {verb} {known.words}")


def help_text(names: object, flags: object) -> str:
    """The help: a line for each of the verbs NAMES, and for each of the options FLAGS."""
    lines = ["lpkg, the package manager of Panux", ""]
    lines += [f"  lpkg {name + ' ' + VERBS[name].words:34} {VERBS[name].help}" for name in names]
    lines += ["", "Options, before or after the verb:"] if flags else ["", "More: lpkg --help"]
    lines += [f"  {option.flag + ' ' + option.value:22} {option.help}" for option in OPTIONS
              if option.flag in flags]
    return "\n".join(lines)


def run(arguments: list) -> int:
    """Carry out the command line."""
    verb, options = parse_arguments(arguments)
    if options.version:
        print(f"lpkg {VERSION}")
    elif options.help and verb in VERBS:
        print(help_text([verb], VERBS[verb].options.split()))
    elif options.help:
        print(help_text(VERBS, [option.flag for option in OPTIONS]))
    elif verb is None:
        print(help_text(BEGINNER, []))
    else:
        return VERBS[verb].run(options)
    return 0


def explain(error: OSError) -> str:
    """An OSError as one line: where, what, and what to do."""
    hints = {errno.ENOENT: "check the path", errno.ENOSPC: "make room and run it again",
             errno.EACCES: "run it as root, or on a --root of your own",
             errno.EPERM: "run it as root, or on a --root of your own",
             errno.EROFS: "mount it writable", errno.EIO: "the disk may be failing"}
    where = f"{error.filename}: " if error.filename is not None else ""
    hint = f"; {hints[error.errno]}" if error.errno in hints else ""
    return f"{where}{error.strerror or error}{hint}"


def forget_stdout() -> None:
    """Drop what stdout holds, else Python's exit tries it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: "list | None" = None) -> int:
    """Run lpkg; what a user, a network or a disk causes is one line on stderr and a status."""
    os.umask(0o022)
    sys.stdout = sys.stdout or open(os.devnull, "w")        # it was closed
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except Fail as error:
        say(f"lpkg: {error}")
        return getattr(error, "status", 1)
    except KeyboardInterrupt:
        say("lpkg: interrupted; nothing is half done")
        return 130
    except BrokenPipeError:
        forget_stdout()                 # the reader has seen enough
    except OSError as error:
        say(f"lpkg: {explain(error)}")
        forget_stdout()                 # perhaps it was stdout that failed
    except MemoryError:
        say("lpkg: not enough memory; nothing is half done")
    return 1


if __name__ == "__main__":
    sys.exit(main())
