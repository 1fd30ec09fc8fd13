#!/usr/bin/env python3
"""lpkg: the package manager of Panux, one file that needs nothing but Python's standard library.

    lpkg.py install busybox                        # from the signed repositories of /etc/lpkg/repos
    lpkg.py --root R --repo http://host/repo --key panux.pub --yes install busybox
    lpkg.py pack --meta zlib.json -o build/repo/x86_64 < out.tar

In the root it reads etc/lpkg/repos and etc/lpkg/keys/*.pub, and keeps under var/lib/lpkg: installed/NAME
(one package with its files), world (what was asked for), serials (what was seen of each index), lock, and
while something is being changed staged and journal. On the repository's side it writes *.lpkg, index.json,
index.json.gz, index.json.minisig.

The invariant: a root is the old system or the new one and its database agrees with its files, whenever
the run was cut; and nothing that no trusted key has signed is parsed, inflated or left on the disk.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: a json.py that lies beside it would be run as ours.
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
SERIALS = STATE + "/serials"
LOCK = STATE + "/lock"
SPOOL = STATE + "/spool"            # has this name for an instant only, then none
STAGED = STATE + "/staged"          # how to undo what is staged; counts until the journal is there
JOURNAL = STATE + "/journal"        # how to finish what is committed
KEYS = "etc/lpkg/keys"
REPOS = "etc/lpkg/repos"

PIECE = 1 << 18                     # bytes that are read, inflated or hashed at a time
INDEX_LIMIT = 64 << 20              # bytes of an index.json
SMALL_LIMIT = 64 << 10              # bytes of a key, a signature, a list of repositories
INFO_LIMIT = 32 << 20               # bytes of a package's info.json: some 100,000 files
NETWORK_TIMEOUT = 30                # seconds without a byte
PATH_LIMIT = 3000                   # bytes of a path; the kernel's own limit is 4096, the root included
NAME_LIMIT = 255                    # bytes of one component, the kernel's limit
ID_LIMIT = 0o7777777                # the largest uid or gid, and
SIZE_LIMIT = 0o77777777777          # the largest file, that a plain tar header holds
COUNT_LIMIT = 1 << 53               # integers of JSON are exact below it in every language
SOLVER_STEPS = 200_000              # choices that the resolver tries before it gives up
DAY = 86400

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = frozenset("0123456789")
NAME_CHARS = LETTERS | DIGITS | frozenset("+-._")
VERSION_CHARS = LETTERS | DIGITS | frozenset("+-._~:")
HEX = frozenset("0123456789abcdef")

# ---- shared block: the same bytes in pkggen.py and lpkg.py; tests/test_house.py compares them --------

class Fail(Exception):
    """What a user, a network or a disk can cause: one line that says what, where and what to do."""


def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """One line of talk on stderr; over a progress line it starts afresh."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(clear + printable(text), file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Redraw the terminal's last line with TEXT; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        print("\r\033[K" + printable(text)[:width - 1], end="", file=sys.stderr, flush=True)


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

# ---- end of the shared block --------------------------------------------------------------------------


class Later(Fail):
    """The network or a lock is in the way: the same command may work in a while (exit 3)."""
    status = 3


class Usage(Fail):
    """The command line itself is wrong (exit 2)."""
    status = 2


# ---- versions and relations -----------------------------------------------------------------------
#
# A version is [EPOCH:]UPSTREAM[-BUILD] and compares as Debian's policy says (chapter 5.6.12): runs of
# other characters and runs of digits take turns; digits compare as numbers, the rest with `~` before the
# end, the end before letters, letters before anything else. version_key turns that into a tuple that
# Python compares in the same way.

def char_order(char: str) -> int:
    """The rank of a character that is no digit; the end of a run is 0."""
    if char == "~":
        return -1
    return ord(char) if char in LETTERS else ord(char) + 256


def run_key(text: str) -> tuple:
    """The key of one part of a version: (run, number, run, number, …, end)."""
    key = []
    position = 0
    while position < len(text) or not key:
        start = position
        while position < len(text) and text[position] not in DIGITS:
            position += 1
        key.append((*map(char_order, text[start:position]), 0))
        start = position
        while position < len(text) and text[position] in DIGITS:
            position += 1
        key.append(int(text[start:position] or 0))
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
    if not isinstance(text, str) or not 0 < len(text) <= 100 or not VERSION_CHARS.issuperset(text):
        return False
    epoch, colon, rest = text.partition(":")
    if colon and not (epoch and DIGITS.issuperset(epoch) and len(epoch) < 10):
        return False
    return bool(rest if colon else epoch) and (rest if colon else epoch)[0] in LETTERS | DIGITS


class Relation:
    """What a package wants or, negative, won't have: a name, and a version that is compared."""
    __slots__ = ("text", "name", "operator", "version", "negative")

    def __init__(self, text: str, name: str, operator: str, version: str, negative: bool):
        self.text = text
        self.name = name
        self.operator = operator
        self.version = version
        self.negative = negative


def parse_relation(text: object) -> Relation:
    """`name`, `name>=1.2`, `name~1.2` or one of these after `!`; Fail for anything else."""
    if not isinstance(text, str):
        raise Fail(f"relation {text!r} is no text")
    body = text[1:] if text.startswith("!") else text
    end = 0
    while end < len(body) and body[end] not in "<>=~":
        end += 1
    operator = body[end:end + 2] if body[end:end + 2] in ("<=", ">=") else body[end:end + 1]
    name = body[:end]
    version = body[end + len(operator):]
    if not is_name(name.replace(":", "")) or bool(operator) != is_version(version):
        raise Fail(f"relation {text!r} is not understood; write name, name>=1.2 or !name")
    return Relation(text, name, operator, version, body != text)


def version_fits(version: str, operator: str, wanted: str) -> bool:
    """Whether VERSION OPERATOR WANTED holds; where WANTED names no build, builds don't count.

    `~` means the series: 1.2, 1.2-3 and 1.2.7 are `~1.2`, 1.20 is not."""
    if operator == "~":
        following = version[len(wanted):len(wanted) + 1]
        return version.startswith(wanted) and not following.isalnum()
    if "-" not in wanted:
        version = version.rpartition("-")[0] or version
    ours = version_key(version)
    theirs = version_key(wanted)
    return {"=": ours == theirs, "<": ours < theirs, ">": ours > theirs,
            "<=": ours <= theirs, ">=": ours >= theirs}[operator]


# ---- what may stand in a package, an index, a META file --------------------------------------------------
#
# Every value that comes from outside passes one of these tables before it is used. Keys that they do not
# name are ignored, so that a later lpkg can add some.

def parse_json(data: bytes, what: str) -> dict:
    """The JSON object in DATA; Fail for anything else, however deep, long or strange."""
    import json

    def integer(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("a number is too long")
        return int(digits)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        value = json.loads(data.decode("utf-8"), parse_int=integer, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Fail(f"{what}: no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise Fail(f"{what}: not a JSON object")
    return value


def is_text(value: object) -> bool:
    """Whether VALUE is text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def is_count(value: object) -> bool:
    """Whether VALUE is an integer that any JSON reader keeps exact."""
    return type(value) is int and 0 <= value < COUNT_LIMIT


def is_names(value: object) -> bool:
    """Whether VALUE is a list of names."""
    return isinstance(value, list) and all(map(is_name, value))


def is_relations(value: object) -> bool:
    """Whether VALUE is a list of relations; Fail names the one that is none."""
    return isinstance(value, list) and all(map(parse_relation, value))


def is_paths(value: object) -> bool:
    """Whether VALUE is a list of paths."""
    return isinstance(value, list) and all(is_path(path) for path in value)


def is_sha256(value: object) -> bool:
    """Whether VALUE is a SHA-256 in the one spelling there is: 64 lower-case digits."""
    return isinstance(value, str) and len(value) == 64 and HEX.issuperset(value)


def is_mode(value: object) -> bool:
    """Whether VALUE is a mode as text, four octal digits such as 4755."""
    return isinstance(value, str) and len(value) == 4 and all("0" <= char <= "7" for char in value)


def is_id(value: object) -> bool:
    """Whether VALUE is a uid or gid that a plain tar header holds."""
    return type(value) is int and 0 <= value <= ID_LIMIT


def is_size(value: object) -> bool:
    """Whether VALUE is a file's size that a plain tar header holds."""
    return type(value) is int and 0 <= value <= SIZE_LIMIT


def is_target(value: object) -> bool:
    """Whether VALUE can be what a symlink points at."""
    return is_text(value) and 0 < len(value.encode()) <= PATH_LIMIT and not has_control(value)


def has_control(text: str) -> bool:
    """Whether TEXT holds a control character (C0 or DEL): no path of ours does."""
    return any(char < " " or char == "\x7f" for char in text)


def is_path(path: object, limit: int = PATH_LIMIT) -> bool:
    """Whether PATH is a relative path that stays where it is put, and leaves lpkg's own files alone."""
    if not is_text(path) or has_control(path) or len(path.encode()) > limit:
        return False
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > NAME_LIMIT for part in parts):
        return False
    return parts[0] != ".lpkg" and not path.startswith(STATE + "/")


INFO_FIELDS = {
    "name": is_name, "version": is_version, "arch": is_name, "summary": is_text, "license": is_text,
    "url": is_text, "recipe": is_text, "depends": is_relations, "provides": is_relations,
    "conflicts": is_relations, "conffiles": is_paths, "services": is_names, "size": is_count,
}
OFFER_FIELDS = {
    "name": is_name, "version": is_version, "file": is_text, "size": is_count, "sha256": is_sha256,
    "installed_size": is_count, "summary": is_text, "depends": is_relations, "provides": is_relations,
    "conflicts": is_relations, "license": is_text, "url": is_text, "recipe": is_text,
    "services": is_names, "setuid": is_paths,
}
INDEX_FIELDS = {"serial": is_count, "created": is_count, "arch": is_name}
ENTRY_FIELDS = {"path": is_path, "mode": is_mode, "uid": is_id, "gid": is_id}
TYPE_FIELDS = {"dir": {}, "file": {"size": is_size, "sha256": is_sha256}, "link": {"target": is_target}}


def check_fields(record: dict, fields: dict, what: str) -> None:
    """Fail unless RECORD has each of FIELDS, with a value that the field's test accepts."""
    for key, test in fields.items():
        if key not in record:
            raise Fail(f"{what}: {key} is missing")
        if not test(record[key]):
            raise Fail(f"{what}: {key} is not valid: {str(record[key])[:60]!r}")


def check_list(record: dict, key: str, what: str) -> list:
    """The list of objects that RECORD has under KEY; Fail when it is something else."""
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Fail(f"{what}: {key} is no list of objects")
    return value


def check_info(info: dict, what: str) -> None:
    """Fail unless INFO is a package's info.json that can be trusted to be taken at its word."""
    check_fields(info, INFO_FIELDS, what)
    folders = {""}
    last = ""
    for entry in check_list(info, "files", what):
        check_entry(entry, what)
        path = entry["path"]
        if path <= last:
            raise Fail(f"{what}: {path} is there twice, or out of order")
        if path.rpartition("/")[0] not in folders:
            raise Fail(f"{what}: {path} is in no folder of the package")
        if entry["type"] == "dir":
            folders.add(path)
        last = path
    check_conffiles(info, what)


def check_entry(entry: dict, what: str) -> None:
    """Fail unless ENTRY describes a file, a directory or a symlink."""
    check_fields(entry, ENTRY_FIELDS, what)
    if entry.get("type") not in TYPE_FIELDS:
        raise Fail(f"{what}: {entry['path']}: type {entry.get('type')!r} is not known")
    check_fields(entry, TYPE_FIELDS[entry["type"]], f"{what}: {entry['path']}")
    if entry["path"] == STATE and entry["type"] != "dir":
        raise Fail(f"{what}: {STATE} is lpkg's own")


def check_conffiles(info: dict, what: str) -> None:
    """Fail unless the conffiles of INFO are files that it brings."""
    files = {entry["path"] for entry in info["files"] if entry["type"] == "file"}
    for path in info["conffiles"]:
        if path not in files:
            raise Fail(f"{what}: conffile {path} is no file of the package")


def check_index(index: dict, arch: str, what: str) -> None:
    """Fail unless INDEX is one of ARCH, all its packages well described."""
    check_fields(index, INDEX_FIELDS, what)
    if "expires" not in index or not (index["expires"] is None or is_count(index["expires"])):
        raise Fail(f"{what}: expires is not valid")
    if index["arch"] != arch:
        raise Fail(f"{what}: made for {index['arch']}, and {arch} is wanted")
    for offer in check_list(index, "packages", what):
        check_fields(offer, OFFER_FIELDS, f"{what}: package {str(offer.get('name'))[:60]!r}")


def setuid_paths(files: list) -> list:
    """The paths among FILES whose mode gives away a user's or a group's rights."""
    return [entry["path"] for entry in files
            if entry["type"] == "file" and int(entry["mode"], 8) & (stat.S_ISUID | stat.S_ISGID)]


class Package:
    """A package: installed, offered by a repository, or in a local file."""
    __slots__ = ("name", "version", "info", "origin", "size", "sha256", "start", "parsed")

    def __init__(self, info: dict, origin: object, size: int = 0, sha256: str = ""):
        self.name = info["name"]
        self.version = info["version"]
        self.info = info                # an index's entry at first, the package's info.json once fetched
        self.origin = origin            # a Repository, the path of a local file, or None: installed
        self.size = size                # bytes of the .lpkg
        self.sha256 = sha256
        self.start = 0                  # where its bytes begin in the spool
        self.parsed = {}

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def relations(self, key: str) -> list:
        """The relations under KEY (depends, conflicts), parsed once; `!x` in depends is a conflict."""
        if not self.parsed:
            depends = [parse_relation(text) for text in self.info["depends"]]
            conflicts = [parse_relation(text) for text in self.info["conflicts"]]
            self.parsed["depends"] = [one for one in depends if not one.negative]
            self.parsed["conflicts"] = conflicts + [one for one in depends if one.negative]
        return self.parsed[key]

    def installed_size(self) -> int:
        """Bytes of its files."""
        return self.info["installed_size" if "installed_size" in self.info else "size"]

    def satisfies(self, relation: Relation) -> bool:
        """Whether this package, by its name or by what it provides, is what RELATION speaks of."""
        operator, wanted = relation.operator, relation.version
        if self.name == relation.name and (not operator or version_fits(self.version, operator, wanted)):
            return True
        for text in self.info["provides"]:
            name, _, version = text.partition("=")
            if name == relation.name and (not operator or version and version_fits(version, operator, wanted)):
                return True
        return False


# ---- the archive ----------------------------------------------------------------------------------
#
# A package is a gzip'd tar whose every byte follows from its manifest: info.json comes first, and each
# header after it is what tar_header makes of the manifest's next entry. Who reads a package therefore
# makes the header that must come and compares; there is nothing to interpret. A device, a second member
# of one name, a mode or a target that the manifest doesn't know, an extension of GNU's or PAX's: all of
# them are simply other bytes than the ones expected.

BLOCK = 512                         # a tar's unit
INFO_PATH = ".lpkg/info.json"
TAR_TYPES = {"file": b"0", "dir": b"5", "link": b"2"}
TAR_END = bytes(2 * BLOCK)


def padding(size: int) -> bytes:
    """What follows SIZE bytes of a tar up to its next block."""
    return bytes(-size % BLOCK)


def ustar_block(name: bytes, kind: bytes, mode: int, owner: tuple, size: int, target: bytes) -> bytes:
    """One header block of POSIX.1-1988's ustar format, without times and names of users."""
    uid, gid = owner
    before = (name[:100].ljust(100, b"\0") + b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
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
    size = entry.get("size", 0)
    extended = b""
    if len(name) > 100:
        extended += pax_record("path", name)
    if len(target) > 100:
        extended += pax_record("linkpath", target)
    if extended:
        first = ustar_block(b".lpkg/pax", b"x", 0o644, (0, 0), len(extended), b"")
        extended = first + extended + padding(len(extended))
    owner = (entry["uid"], entry["gid"])
    return extended + ustar_block(name, TAR_TYPES[entry["type"]], int(entry["mode"], 8), owner, size,
                                  target)


def file_entry(path: str, data: bytes, mode: str = "0644") -> dict:
    """The manifest's entry of a file that lpkg itself writes."""
    return {"path": path, "type": "file", "mode": mode, "uid": 0, "gid": 0, "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest()}


def folder_entry(path: str) -> dict:
    """The manifest's entry of a directory that nobody described."""
    return {"path": path, "type": "dir", "mode": "0755", "uid": 0, "gid": 0}


def info_text(info: dict) -> bytes:
    """INFO as JSON that a person can read: a key a line, a file a line."""
    import json
    lines = []
    for key, value in info.items():
        if key != "files":
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    files = ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in info["files"])
    lines.append('  "files": [' + (f"\n{files}\n  ]" if files else "]"))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


# ---- Ed25519, verification only (RFC 8032) ----------------------------------------------------------
#
# Points of -x² + y² = 1 + d x² y² over the integers modulo P, in extended coordinates (X, Y, Z, T) with
# x = X/Z, y = Y/Z, x y = T/Z. A signature R, S of a message by key A is good when R = [S]B - [k]A with k
# the hash of R, A and the message. What RFC 8032 leaves open is closed as libsodium does: S below the
# order L, no point in other than its one encoding, none of small order. Nothing here is secret, so
# nothing needs to take constant time.

P = 2 ** 255 - 19
L = 2 ** 252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)


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
    multiples = [NEUTRAL]
    for _ in range(15):
        multiples.append(point_add(multiples[-1], point))
    return multiples


def point_sum(first: int, one: tuple, second: int, two: tuple) -> tuple:
    """FIRST times ONE plus SECOND times TWO, four bits of both at a time (Straus)."""
    ones = point_multiples(one)
    twos = point_multiples(two)
    result = NEUTRAL
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


# ---- minisign's formats ----------------------------------------------------------------------------
#
# A key's id is 8 bytes by which a signature names its key. A signature file is four lines: an untrusted
# comment; base64 of `Ed` (the message is signed) or `ED` (its BLAKE2b-512 is), the id and the signature;
# a trusted comment; base64 of the global signature, which signs the signature and the trusted comment.

class PublicKey:
    """A key that is trusted, and where it came from."""
    __slots__ = ("id", "raw", "origin")

    def __init__(self, key_id: bytes, raw: bytes, origin: str):
        self.id = key_id
        self.raw = raw
        self.origin = origin


def decode_base64(text: str, length: int) -> bytes:
    """The LENGTH bytes that TEXT spells in base64; ValueError for any other text."""
    data = binascii.a2b_base64(text.encode("ascii"))
    if len(data) != length or encode_base64(data) != text:
        raise ValueError("not base64 of the right length")
    return data


def encode_base64(data: bytes) -> str:
    """DATA in base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def split_lines(data: bytes, count: int) -> list:
    """The COUNT lines of DATA, each ended by a newline; ValueError if there are more or fewer."""
    lines = data.decode("utf-8").split("\n")
    if len(lines) != count + 1 or lines[-1]:
        raise ValueError(f"not {count} lines")
    return lines[:-1]


def parse_public_key(data: bytes, origin: str) -> PublicKey:
    """A minisign public key file; Fail when it is none."""
    try:
        comment, text = split_lines(data, 2)
        raw = decode_base64(text, 42)
    except ValueError:
        raise Fail(f"{origin}: no minisign public key; `lpkg keygen` makes one") from None
    if raw[:2] != b"Ed" or not comment.startswith("untrusted comment: "):
        raise Fail(f"{origin}: no minisign public key; `lpkg keygen` makes one")
    return PublicKey(raw[2:10], raw[10:], origin)


def public_key_text(key_id: bytes, raw: bytes) -> str:
    """The public key file of a key."""
    return (f"untrusted comment: minisign public key {key_id[::-1].hex().upper()}\n"
            f"{encode_base64(b'Ed' + key_id + raw)}\n")


def parse_signature(data: bytes, what: str) -> tuple:
    """(algorithm, key id, signature, trusted comment, global signature) of a signature file."""
    try:
        untrusted, text, trusted, total = split_lines(data, 4)
        raw = decode_base64(text, 74)
        total_raw = decode_base64(total, 64)
    except ValueError as error:
        raise Fail(f"{what}: no minisign signature: {error}") from None
    if not untrusted.startswith("untrusted comment: ") or not trusted.startswith("trusted comment: "):
        raise Fail(f"{what}: no minisign signature: a comment is missing")
    if raw[:2] not in (b"Ed", b"ED"):
        raise Fail(f"{what}: signature of an unknown kind")
    return raw[:2], raw[2:10], raw[10:], trusted[len("trusted comment: "):], total_raw


def check_signature(data: bytes, signature: bytes, trusted: list, what: str) -> tuple:
    """(key, trusted comment) of a minisign SIGNATURE of DATA by one of the TRUSTED keys, or Fail."""
    algorithm, key_id, raw, comment, total = parse_signature(signature, what)
    keys = [key for key in trusted if key.id == key_id]
    if not keys:
        raise Fail(f"{what}: signed by key {key_id[::-1].hex().upper()}, which is not trusted here")
    message = hashlib.blake2b(data).digest() if algorithm == b"ED" else data
    for key in keys:
        if (ed25519_verify(key.raw, message, raw)
                and ed25519_verify(key.raw, raw + comment.encode(), total)):
            return key, comment
    raise Fail(f"{what}: wrong signature; what was downloaded is not what was signed")


def scrypt_cost(operations: int, memory: int) -> tuple:
    """scrypt's (N, r, p) for libsodium's two limits, as its documentation derives them."""
    operations = max(operations, 32768)
    if operations < memory // 32:
        largest = operations // 32
    else:
        largest = memory // 1024
    bits = 1
    while bits < 62 and 1 << bits <= largest // 2:
        bits += 1
    if operations < memory // 32:
        return 1 << bits, 8, 1
    return 1 << bits, 8, min((operations // 4) >> bits, 0x3fffffff) // 8


# ---- the resolver ----------------------------------------------------------------------------------
#
# An agenda of wants is worked off from the left: what was asked for, then that each installed package
# stays in some version, then what each chosen package depends on, appended as it is chosen. A want that
# something chosen already satisfies costs nothing. For any other, its candidates are tried, best first;
# one is possible when no package of its name is chosen and none that it quarrels with. When there is
# none, the latest choice was wrong: it is taken back with all that it appended, and its next candidate
# tried. A choice never makes an earlier answer untrue, since packages are only added and quarrels are
# looked for both ways at each addition, so what is left at the end of the agenda is a solution; and as
# every candidate is tried, one is found if there is any (or the steps run out, and we say so).
# The first dead end, where everything was still the newest, is the one that is told to the user.

class Want:
    """A relation that somebody wants satisfied; FIXED is the one package allowed, if any."""
    __slots__ = ("relation", "who", "fixed", "asked")

    def __init__(self, relation: Relation, who: str, fixed: "Package | None" = None, asked: bool = False):
        self.relation = relation
        self.who = who
        self.fixed = fixed
        self.asked = asked              # by the user, who means the newest; others keep what is there


class Universe:
    """Every package that may be chosen: what is installed, and what the repositories offer.

    The first repository that has a name, or provides it, answers for it: another one can't replace
    a package by offering a higher version. An installed package stays with its repository."""

    def __init__(self, installed: dict, repositories: list, local: list):
        self.installed = installed
        self.named = {}
        self.home = {}
        for name, package in installed.items():
            self.home[name] = package.info.get("repository")
        known = {repository.name for repository in repositories}
        self.home = {name: home for name, home in self.home.items() if home in known}
        for package in [*local, *installed.values()]:
            self.add(package, None)
        for repository in repositories:
            for package in repository.packages:
                self.add(package, repository.name)
        for packages in self.named.values():
            packages.sort(key=lambda package: version_key(package.version), reverse=True)

    def add(self, package: Package, home: "str | None") -> None:
        """Let PACKAGE answer to its name and to each name that it provides."""
        names = {package.name, *(text.partition("=")[0] for text in package.info["provides"])}
        for name in names:
            if home is None or self.home.setdefault(name, home) == home:
                self.named.setdefault(name, []).append(package)

    def candidates(self, want: Want) -> list:
        """The packages that satisfy WANT, best first: real names before provided ones, then what is
        installed already (unless the user asks for the name), then the newest."""
        if want.fixed:
            return [want.fixed]
        relation = want.relation
        found = [package for package in self.named.get(relation.name, ()) if package.satisfies(relation)]

        def rank(package: Package) -> tuple:
            stays = not want.asked and self.installed.get(package.name) is package
            return (package.name != relation.name, not stays)

        return sorted(found, key=rank)


def quarrel(package: Package, chosen: dict) -> str:
    """Why PACKAGE can't be beside the CHOSEN ones, in words; empty when it can."""
    rival = chosen.get(package.name)
    if rival is not None:
        return f"{rival} is needed as well"
    for other in chosen.values():
        for one, two in ((package, other), (other, package)):
            for relation in one.relations("conflicts"):
                if one is not two and two.satisfies(relation):
                    return f"{one} conflicts with {two}"
    return ""


def dead_end(want: Want, universe: Universe, candidates: list, chosen: dict) -> str:
    """In words, why WANT can't be satisfied."""
    relation = want.relation
    if candidates:
        reasons = [f"{package} won't do: {quarrel(package, chosen)}" for package in candidates[:3]]
        return f"{want.who} {relation.text}, but " + "; ".join(reasons)
    others = universe.named.get(relation.name)
    if others:
        there = ", ".join(str(package) for package in others[:3])
        return f"{want.who} {relation.text}, but there is only {there}"
    return f"{want.who} {relation.text}, but no repository has it{nearest(relation.name, universe.named)}"


def nearest(word: str, words: object) -> str:
    """`; did you mean X?` for the nearest of WORDS, or nothing."""
    import difflib
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


class Choice:
    """A decision of the resolver that can be taken back."""
    __slots__ = ("position", "length", "name", "others")

    def __init__(self, position: int, length: int, others: list):
        self.position = position        # of its want in the agenda
        self.length = length            # of the agenda before it
        self.name = ""                  # of the package that is chosen now
        self.others = others            # candidates left to try, the best last


def solve(universe: Universe, wants: list) -> dict:
    """NAME -> Package of a system that satisfies WANTS and keeps what is installed; Fail in words."""
    agenda = [*wants, *kept(universe)]
    chosen = {}
    choices = []
    position = 0
    complaint = ""
    for _ in range(SOLVER_STEPS):
        if position == len(agenda):
            return chosen
        want = agenda[position]
        if any(answers(package, want) for package in likely(want, universe, chosen)):
            position += 1
            continue
        candidates = universe.candidates(want)
        possible = [package for package in candidates if not quarrel(package, chosen)]
        if not possible:
            complaint = complaint or dead_end(want, universe, candidates, chosen)
        choices.append(Choice(position, len(agenda), possible[::-1]))
        position = advance(choices, agenda, chosen)
        if position < 0:
            raise Fail(complaint)
    raise Fail("too tangled: no answer within the steps that the resolver takes; ask for less at once")


def kept(universe: Universe) -> list:
    """The wants of the packages that are installed: to stay, in whatever version."""
    return [Want(parse_relation(name), "installed:") for name in universe.installed]


def likely(want: Want, universe: Universe, chosen: dict) -> list:
    """The CHOSEN packages that have the name of WANT or provide it."""
    found = [chosen.get(package.name) for package in universe.named.get(want.relation.name, ())]
    return [package for package in found if package is not None]


def answers(package: Package, want: Want) -> bool:
    """Whether PACKAGE, once chosen, satisfies WANT."""
    return package is want.fixed if want.fixed else package.satisfies(want.relation)


def advance(choices: list, agenda: list, chosen: dict) -> int:
    """Try the next candidate of the latest choice that has one left; the agenda's position after it,
    -1 when no choice has any."""
    while choices:
        choice = choices[-1]
        chosen.pop(choice.name, None)
        del agenda[choice.length:]
        if choice.others:
            package = choice.others.pop()
            choice.name = package.name
            chosen[package.name] = package
            agenda.extend(Want(one, f"{package} needs") for one in package.relations("depends"))
            return choice.position + 1
        choices.pop()
    return -1


# ---- what a change means, path by path ---------------------------------------------------------------

def merge_manifests(packages: list) -> dict:
    """PATH -> (package's name, entry) of PACKAGES together; Fail when two claim one file.

    Directories are shared. A directory of mode 0755 and root's is one nobody thought about: any other
    opinion of it wins, and two other opinions that differ are refused."""
    claims = {}
    for package in packages:
        for entry in package.info["files"]:
            path = entry["path"]
            if path not in claims:
                claims[path] = (package.name, entry)
                continue
            rival, other = claims[path]
            if entry["type"] != "dir" or other["type"] != "dir":
                raise Fail(f"{rival} and {package.name} both bring {path}; only one can be installed")
            claims[path] = merge_folders((rival, other), (package.name, entry))
    return claims


def merge_folders(one: tuple, two: tuple) -> tuple:
    """The claim of a directory that two packages bring."""
    plain = folder_entry(one[1]["path"])
    if two[1] in (plain, one[1]):
        return one
    if one[1] == plain:
        return two
    raise Fail(f"{one[0]} and {two[0]} bring {plain['path']} with different modes or owners")


def conffile_choice(current: "str | None", old: "str | None", new: str) -> str:
    """`replace`, `keep` or `beside` (as .lpkg-new), for a conffile's three sha256s; None: not there."""
    if current in (old, new):
        return "replace"
    return "keep" if old == new else "beside"


def parse_journal(text: str, what: str) -> list:
    """The lines of a journal as lists [verb, path] or [verb, path, path]; Fail for any other line."""
    lines = []
    for line in text.split("\n")[:-1]:
        words = line.split("\t")
        folders = {path.rpartition("/")[0] for path in words[1:]}
        if (len(words) != {"mv": 3, "rm": 2, "rmdir": 2}.get(words[0]) or len(folders) != 1
                or not all(map(is_ours, words[1:]))):
            raise Fail(f"{what}: line {line!r} is not understood; the journal was damaged")
        lines.append(words)
    return lines


def is_ours(path: str) -> bool:
    """Whether PATH may stand in a journal: it stays in the root, lpkg's own files included."""
    prefix = STATE + "/"
    return is_path(path[len(prefix):] if path.startswith(prefix) else path, PATH_LIMIT + 100)


def journal_text(lines: list) -> bytes:
    """A journal of LINES."""
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def parse_repositories(text: str, what: str) -> list:
    """The (name, url) pairs of a file of `NAME URL` lines; `#` begins a comment."""
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split() if line.lstrip().startswith("#") else line.split()
        if words and (len(words) != 2 or not is_name(words[0])):
            raise Fail(f"{what}:{number}: write NAME URL")
        if words:
            pairs.append((words[0], words[1]))
    return pairs


# ---- the terminal -----------------------------------------------------------------------------------

class Meter:
    """Bytes done of a known total: a line that is redrawn on a terminal, one plain line elsewhere."""
    __slots__ = ("what", "total", "done", "began", "drawn")

    def __init__(self, what: str, total: int):
        self.what = what
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.drawn = self.began
        if not sys.stderr.isatty():
            say(f"{what}, {human_size(total)}")

    def add(self, count: int) -> None:
        """COUNT more bytes are done."""
        self.done += count
        now = time.monotonic()
        if now - self.drawn >= 0.1:
            self.drawn = now
            progress(self.line(now - self.began))

    def line(self, seconds: float) -> str:
        """The line after SECONDS: what, how much of how much, the rate, the time left."""
        rate = self.done / seconds
        left = max(self.total - self.done, 0) / rate if rate else 0
        return (f"{self.what}: {human_size(self.done)} of {human_size(self.total)}, "
                f"{human_size(rate)}/s, {left:.0f} s left")

    def close(self) -> None:
        """Take the line away."""
        progress("")


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


# ---- files anywhere ---------------------------------------------------------------------------------

def read_file(path: str, limit: int) -> bytes:
    """The bytes of the regular file PATH, at most LIMIT."""
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Fail(f"{path}: larger than {human_size(limit)}, which is the most that is read")
    return data


def open_file(path: str) -> object:
    """The regular file PATH, open to be read; never waits for a fifo."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Fail(f"{path}: not a regular file")
    return file


def pieces(file: object) -> object:
    """FILE's bytes, a piece at a time."""
    while True:
        piece = file.read(PIECE)
        if not piece:
            return
        yield piece


class NewFiles:
    """Files that are written under temporary names and appear together, or not at all."""
    __slots__ = ("renames",)

    def __init__(self):
        self.renames = []

    def create(self, path: str) -> object:
        """A new file, open for writing, that will be PATH."""
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        file = open(os.open(temporary, NEW_FILE_FLAGS, 0o644), "wb")
        self.renames.append((temporary, path, file))
        return file

    def __enter__(self) -> "NewFiles":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Rename them all in the order of their making, or remove them after an error."""
        try:
            for _, _, file in self.renames:
                with file:
                    file.flush()
                    os.fsync(file.fileno())
            if kind is None:
                self.publish()
        finally:
            for temporary, _, _ in self.renames:
                if os.path.lexists(temporary):
                    os.unlink(temporary)

    def publish(self) -> None:
        """The renames, one right after the other."""
        for temporary, path, _ in self.renames:
            os.rename(temporary, path)


# ---- reading a package --------------------------------------------------------------------------------

class Archive:
    """A .lpkg's inflated bytes, in order; each read is compared with what has to come."""
    __slots__ = ("descriptor", "position", "end", "inflater", "ready", "what")

    def __init__(self, descriptor: int, start: int, size: int, what: str):
        self.descriptor = descriptor
        self.position = start
        self.end = start + size
        self.inflater = zlib.decompressobj(31)
        self.ready = b""
        self.what = what

    def read(self, count: int) -> bytes:
        """Exactly COUNT bytes (of the order of a piece); Fail where the archive ends before."""
        while len(self.ready) < count:
            self.inflate(count - len(self.ready))
        data, self.ready = self.ready[:count], self.ready[count:]
        return data

    def inflate(self, count: int) -> None:
        """At least one byte more and not much more than COUNT, so that no bomb fills the memory."""
        compressed = self.inflater.unconsumed_tail
        if not compressed:
            compressed = os.pread(self.descriptor, min(PIECE, self.end - self.position), self.position)
            self.position += len(compressed)
        if self.inflater.eof or not compressed:
            raise Fail(f"{self.what}: the archive ends too early")
        try:
            self.ready += self.inflater.decompress(compressed, max(count, PIECE))
        except zlib.error as error:
            raise Fail(f"{self.what}: damaged archive: {error}") from None

    def info(self) -> dict:
        """The info.json that comes first, checked."""
        info = parse_json(self.begin(), f"{self.what}: {INFO_PATH}")
        check_info(info, self.what)
        return info

    def begin(self) -> bytes:
        """The bytes of info.json; what comes next is the first entry's header."""
        block = self.read(BLOCK)
        size = block[124:135]
        if not size.isdigit() or int(size, 8) > INFO_LIMIT:
            raise Fail(f"{self.what}: no package: it doesn't begin with {INFO_PATH}")
        expected = ustar_block(INFO_PATH.encode(), b"0", 0o644, (0, 0), int(size, 8), b"")
        if block != expected:
            raise Fail(f"{self.what}: no package: it doesn't begin with {INFO_PATH}")
        data = self.read(int(size, 8))
        self.expect(padding(len(data)), INFO_PATH)
        return data

    def expect(self, data: bytes, path: str) -> None:
        """Fail unless DATA comes next."""
        if self.read(len(data)) != data:
            raise Fail(f"{self.what}: the archive is not what its info.json says at {path}")

    def content(self, entry: dict) -> object:
        """The bytes of the file ENTRY, in pieces; Fail after the last one if they weren't the right ones."""
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
        """Fail unless this is the end: of the tar, of the gzip member, and of the file."""
        self.expect(TAR_END, "its end")
        if not self.inflater.eof and not self.ready:
            self.drain()
        if self.ready or self.inflater.unused_data or self.position != self.end:
            raise Fail(f"{self.what}: something follows the archive's end")

    def drain(self) -> None:
        """Read gzip's trailer, after which there is nothing to inflate."""
        while not self.inflater.eof and not self.ready:
            compressed = self.inflater.unconsumed_tail
            if not compressed:
                compressed = os.pread(self.descriptor, min(PIECE, self.end - self.position), self.position)
                self.position += len(compressed)
            if not compressed:
                raise Fail(f"{self.what}: the archive ends too early")
            try:
                self.ready += self.inflater.decompress(compressed, 1)
            except zlib.error as error:
                raise Fail(f"{self.what}: damaged archive: {error}") from None


def read_local(path: str) -> Package:
    """The package in the file PATH, its archive not looked at beyond info.json."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        info = Archive(file.fileno(), 0, size, path).info()
        digest = hashlib.sha256()
        for piece in pieces(file):
            digest.update(piece)
        return Package(info, path, size, digest.hexdigest())


# ---- making packages -----------------------------------------------------------------------------------
#
# A build's output is a tar that somebody else wrote, so here, and only here, tarfile reads: it knows every
# dialect. What it says is then squeezed into a manifest, where only files, directories and symlinks exist.

class Member:
    """A member of the build's tar: its manifest entry and, for a file, where its content is."""
    __slots__ = ("entry", "source")

    def __init__(self, entry: dict, source: object):
        self.entry = entry
        self.source = source


def spool_stdin(folder: str) -> object:
    """All of stdin, in a file of FOLDER that has no name, so that a killed run leaves nothing."""
    path = os.path.join(folder, f".lpkg.{os.urandom(8).hex()}")
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")
    os.unlink(path)
    for piece in pieces(sys.stdin.buffer):
        file.write(piece)
        progress(f"reading the build's output: {human_size(file.tell())}")
    progress("")
    file.flush()
    file.seek(0)
    return file


def read_build(file: object, names: list) -> tuple:
    """(tarfile, package's name -> path -> Member) of a build's output; Fail if it is cut or failed."""
    import tarfile
    trees = {name: {} for name in names}
    last = None
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="surrogateescape")
        for last in tar:
            add_member(tar, last, trees)
        status = tar.extractfile(last).read(20) if last and is_status(last) else None
    except (tarfile.TarError, ValueError, EOFError, KeyError) as error:
        raise Fail(f"stdin: no tar of a build's output: {error}") from None
    if status is None:
        raise Fail("stdin: the build's output ends without .status: it was cut off; build again")
    if status.strip() != b"0":
        raise Fail(f"stdin: the build failed: its .status is {status.decode(errors='replace').strip()}")
    return tar, trees


def is_status(member: object) -> bool:
    """Whether MEMBER is the .status that ends a build's output."""
    return member.isreg() and member.name.rstrip("/") in (".status", "./.status")


def add_member(tar: object, member: object, trees: dict) -> None:
    """Put MEMBER into the tree of its package."""
    name = member.name[2:] if member.name.startswith("./") else member.name
    parts = name.split("/", 2)
    if name in (".", "", ".status"):
        return
    if parts[0] != "out":
        raise Fail(f"stdin: member {name} is not in out/")
    if len(parts) > 1 and parts[1] not in trees:
        raise Fail(f"stdin: {name} is of no package of the recipe; its packages are "
                   + ", ".join(sorted(trees)))
    if len(parts) < 3:
        if not member.isdir():
            raise Fail(f"stdin: {name} is no directory")
        return
    tree = trees[parts[1]]
    if not is_path(parts[2]):
        raise Fail(f"stdin: a package can't hold the path {parts[2]!r}")
    if parts[2] in tree:
        raise Fail(f"stdin: {name} is there twice")
    tree[parts[2]] = Member(member_entry(tar, member, name, parts), member)


def member_entry(tar: object, member: object, name: str, parts: list) -> dict:
    """The manifest entry of MEMBER, its sha256 still missing; a hard link becomes a file of its own."""
    entry = {"path": parts[2], "type": "", "mode": "%04o" % (member.mode & 0o7777),
             "uid": member.uid, "gid": member.gid}
    if member.isdir():
        entry["type"] = "dir"
    elif member.issym():
        entry.update(type="link", mode="0777", target=member.linkname)
    elif member.islnk():
        target = linked_member(tar, member, name, parts[1])
        entry.update(type="file", size=target.size)
    elif member.isreg() and not member.issparse():
        entry.update(type="file", size=member.size)
    else:
        raise Fail(f"stdin: {name} is a device, a fifo or a sparse file; a package can't hold it")
    return entry


def linked_member(tar: object, member: object, name: str, package: str) -> object:
    """The regular file of the same package that the hard link MEMBER is a name of."""
    link = member.linkname[2:] if member.linkname.startswith("./") else member.linkname
    try:
        target = tar.getmember(member.linkname)
    except KeyError:
        target = None
    if target is None or not link.startswith(f"out/{package}/") or not target.isreg():
        raise Fail(f"stdin: {name} is a hard link to {link}, which is no file of the package before it")
    if target.issparse():
        raise Fail(f"stdin: {link} is a sparse file; a package can't hold it")
    return target


def add_parents(tree: dict) -> None:
    """Give each path of TREE the folders it lies in; Fail where one of them is no folder."""
    for path in sorted(tree):
        parent = path.rpartition("/")[0]
        while parent and parent not in tree:
            tree[parent] = Member(folder_entry(parent), None)
            parent = parent.rpartition("/")[0]
        if parent and tree[parent].entry["type"] != "dir":
            raise Fail(f"stdin: {path} lies in {parent}, which is no directory")


def apply_owners(tree: dict, owners: dict, name: str) -> None:
    """Give paths of TREE the owner and mode that META says."""
    for path, text in owners.items():
        member = tree.get(path.strip("/"))
        words = str(text).split(":")
        if member is None:
            raise Fail(f"{name}: owners: {path} is not in the package")
        if len(words) != 3 or not all(word.isdecimal() for word in words):
            raise Fail(f"{name}: owners: {path}: {text!r} is not UID:GID:MODE")
        member.entry.update(uid=int(words[0]), gid=int(words[1]), mode=words[2].zfill(4))


def package_info(meta: dict, name: str, tree: dict) -> dict:
    """The info.json of package NAME, checked as the one who installs it will."""
    part = meta["packages"][name]
    info = {key: "" if test is is_text else [] for key, test in INFO_FIELDS.items()}
    info.update(name=name, version=meta.get("version"), arch=meta.get("arch"))
    info.update({key: meta[key] for key in ("license", "url", "recipe") if key in meta})
    info.update({key: part[key] for key in part if key in INFO_FIELDS})
    if isinstance(info["conffiles"], list):
        info["conffiles"] = sorted(str(path).strip("/") for path in info["conffiles"])
    files = [tree[path].entry for path in sorted(tree)]
    info["size"] = sum(entry.get("size", 0) for entry in files)
    info["files"] = files
    check_info(info, name)
    return info


def hash_members(tar: object, tree: dict) -> None:
    """Fill in the sha256 of each file of TREE."""
    for member in tree.values():
        if member.entry["type"] == "file":
            digest = hashlib.sha256()
            for piece in pieces(tar.extractfile(member.source)):
                digest.update(piece)
            member.entry["sha256"] = digest.hexdigest()


def package_bytes(tar: object, tree: dict, info: dict) -> object:
    """The tar of a package, in pieces."""
    text = info_text(info)
    yield ustar_block(INFO_PATH.encode(), b"0", 0o644, (0, 0), len(text), b"") + text + padding(len(text))
    for entry in info["files"]:
        yield tar_header(entry)
        if entry["type"] == "file":
            yield from pieces(tar.extractfile(tree[entry["path"]].source))
            yield padding(entry["size"])
    yield TAR_END


def write_package(file: object, tar_pieces: object) -> tuple:
    """Write TAR_PIECES gzip'd to FILE: (size, sha256). zlib's own gzip header has no time and no name."""
    digest = hashlib.sha256()
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    size = 0
    for piece in tar_pieces:
        size += write_hashed(file, compressor.compress(piece), digest)
    size += write_hashed(file, compressor.flush(), digest)
    return size, digest.hexdigest()


def write_hashed(file: object, data: bytes, digest: object) -> int:
    """Write DATA to FILE and to DIGEST: its length."""
    file.write(data)
    digest.update(data)
    return len(data)


def read_meta(path: str) -> dict:
    """The META file of `pack`."""
    meta = parse_json(read_file(path, INFO_LIMIT), path)
    packages = meta.get("packages")
    if not isinstance(packages, dict) or not packages or not all(map(is_name, packages)):
        raise Fail(f"{path}: packages is no object of names")
    for name, part in packages.items():
        if not isinstance(part, dict):
            raise Fail(f"{path}: packages: {name} is no object")
        if not isinstance(part.get("owners", {}), dict):
            raise Fail(f"{path}: packages: {name}: owners is no object")
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
            hash_members(tar, tree)
            info = package_info(meta, name, tree)
            progress(f"packing {name}, {human_size(info['size'])}")
            file_name = f"{name}-{info['version']}.{info['arch']}.lpkg"
            file = new.create(os.path.join(folder, file_name))
            size, sha256 = write_package(file, package_bytes(tar, tree, info))
            lines.append(f"{name} {file_name} {size} {sha256}")
        progress("")
    for line in lines:
        show(line)
    return 0


# ---- making keys, signatures, indexes ---------------------------------------------------------------
#
# Signing is the one thing that a device never does, and the one that wants a library: PyNaCl.

SECRET_COMMENT = "untrusted comment: minisign encrypted secret key\n"      # so too when it isn't
SCRYPT_OPERATIONS = 33554432        # libsodium's SENSITIVE limits, which minisign uses: 1 GiB
SCRYPT_MEMORY = 1073741824


def import_nacl() -> object:
    """PyNaCl's signing module."""
    try:
        import nacl.signing
    except ImportError:
        raise Fail("signing needs PyNaCl: `pip install pynacl`, or `apt install python3-nacl`") from None
    return nacl.signing


def ask_password(what: str) -> bytes:
    """The password of a secret key, from LPKG_PASSWORD or the terminal."""
    if "LPKG_PASSWORD" in os.environ:
        return os.environ["LPKG_PASSWORD"].encode()
    if not sys.stdin.isatty():
        raise Fail(f"{what}: it has a password; put it in LPKG_PASSWORD, or run this at a terminal")
    import getpass
    return getpass.getpass(f"Password of {what}: ").encode()


def scrypt_stream(password: bytes, salt: bytes, operations: int, memory: int) -> bytes:
    """The 104 bytes that a secret key file is hidden under."""
    n, r, p = scrypt_cost(operations, memory)
    if 128 * n * r > 1 << 31:
        raise Fail("the secret key asks for more than 2 GiB of memory to be opened")
    try:
        return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=(1 << 31) - 1, dklen=104)
    except (ValueError, MemoryError) as error:
        raise Fail(f"scrypt failed: {error}; it needs {human_size(128 * n * r)} of memory") from None


def xor(one: bytes, two: bytes) -> bytes:
    """ONE and TWO, of the same length, bit by bit."""
    return bytes(a ^ b for a, b in zip(one, two))


def secret_key_text(key_id: bytes, seed: bytes, public: bytes, password: "bytes | None") -> str:
    """A minisign secret key file, encrypted if there is a PASSWORD."""
    secret = key_id + seed + public
    if password is None:
        raw = b"Ed\0\0B2" + bytes(48) + secret + bytes(32)
    else:
        salt = os.urandom(32)
        stream = scrypt_stream(password, salt, SCRYPT_OPERATIONS, SCRYPT_MEMORY)
        checksum = hashlib.blake2b(b"Ed" + secret, digest_size=32).digest()
        limits = SCRYPT_OPERATIONS.to_bytes(8, "little") + SCRYPT_MEMORY.to_bytes(8, "little")
        raw = b"EdScB2" + salt + limits + xor(secret + checksum, stream)
    return f"{SECRET_COMMENT}{encode_base64(raw)}\n"


def read_secret_key(path: str) -> tuple:
    """(key id, seed) of a minisign secret key file, whose password is asked for if it has one."""
    try:
        raw = decode_base64(split_lines(read_file(path, SMALL_LIMIT), 2)[1], 158)
    except ValueError:
        raise Fail(f"{path}: no minisign secret key; `lpkg keygen` makes one") from None
    kind, salt, hidden = raw[:6], raw[6:38], raw[54:]
    if kind == b"EdScB2":
        operations, memory = int.from_bytes(raw[38:46], "little"), int.from_bytes(raw[46:54], "little")
        hidden = xor(hidden, scrypt_stream(ask_password(path), salt, operations, memory))
        if hashlib.blake2b(b"Ed" + hidden[:72], digest_size=32).digest() != hidden[72:]:
            raise Fail(f"{path}: wrong password")
    elif kind != b"Ed\0\0B2":
        raise Fail(f"{path}: a secret key of an unknown kind")
    return hidden[:8], hidden[8:40]


def signature_text(data_hash: bytes, comment: str, key_id: bytes, seed: bytes) -> bytes:
    """A minisign signature file of what has the BLAKE2b-512 DATA_HASH."""
    key = import_nacl().SigningKey(seed)
    signature = key.sign(data_hash).signature
    total = key.sign(signature + comment.encode()).signature
    return (f"untrusted comment: signature from lpkg, key {key_id[::-1].hex().upper()}\n"
            f"{encode_base64(b'ED' + key_id + signature)}\n"
            f"trusted comment: {comment}\n{encode_base64(total)}\n").encode()


def cmd_keygen(options: "Options") -> int:
    """Make a key pair."""
    signing = import_nacl()
    base = options.words[0]
    for path in (base + ".key", base + ".pub"):
        if os.path.lexists(path):
            raise Fail(f"{path}: is there already, and is not overwritten")
    password = ask_password(base + ".key") if options.encrypt else None
    key = signing.SigningKey.generate()
    key_id = os.urandom(8)
    public = bytes(key.verify_key)
    write_atomic(base + ".key", secret_key_text(key_id, bytes(key), public, password).encode(), 0o600)
    write_atomic(base + ".pub", public_key_text(key_id, public).encode())
    if password is None:
        say(f"{base}.key is NOT encrypted: whoever reads it can sign in your name (--encrypt asks for "
            "a password)")
    show(f"{base}.key")
    show(f"{base}.pub")
    return 0


def cmd_sign(options: "Options") -> int:
    """Sign a file: FILE.minisig."""
    path = options.words[0]
    secret = options.need("secret")
    digest = hashlib.blake2b()
    with open_file(path) as file:
        for piece in pieces(file):
            digest.update(piece)
    comment = options.comment
    if comment is None:
        comment = f"timestamp:{int(time.time())}\tfile:{os.path.basename(path)}\thashed"
    if "\n" in comment or "\r" in comment:
        raise Fail("--comment: it must be one line")
    write_atomic(path + ".minisig", signature_text(digest.digest(), comment, *read_secret_key(secret)))
    show(path + ".minisig")
    return 0


def index_offer(package: Package, file_name: str) -> dict:
    """The entry of PACKAGE in an index."""
    import urllib.parse
    info = package.info
    offer = {"name": info["name"], "version": info["version"], "file": urllib.parse.quote(file_name),
             "size": package.size, "sha256": package.sha256, "installed_size": info["size"]}
    offer.update({key: info[key] for key in OFFER_FIELDS if key in info and key not in offer})
    offer["setuid"] = setuid_paths(info["files"])
    return offer


def scan_packages(folder: str, arch: str) -> list:
    """The offers of the packages in FOLDER, by name and then by version, newest first."""
    offers = {}
    for file_name in sorted(os.listdir(folder)):
        if not file_name.endswith(".lpkg"):
            continue
        progress(f"reading {file_name}")
        package = read_local(os.path.join(folder, file_name))
        rival = offers.get((package.name, package.version))
        if package.info["arch"] != arch:
            raise Fail(f"{folder}/{file_name}: made for {package.info['arch']}, not for {arch}")
        if rival:
            raise Fail(f"{folder}: {file_name} and {rival['file']} are both {package}; remove one")
        offers[package.name, package.version] = index_offer(package, file_name)
    progress("")
    newest_first = sorted(offers.values(), key=lambda offer: version_key(offer["version"]), reverse=True)
    return sorted(newest_first, key=lambda offer: offer["name"])


def last_serial(folder: str, serial_file: str) -> int:
    """The highest serial that is known to be used: in SERIAL_FILE or in FOLDER's present index."""
    serials = [0]
    if os.path.exists(serial_file):
        text = read_file(serial_file, SMALL_LIMIT).decode(errors="replace").strip()
        if not text.isdecimal() or not is_count(int(text[:20])):
            raise Fail(f"{serial_file}: no serial in it; write the last one used, or remove it")
        serials.append(int(text))
    index_file = os.path.join(folder, "index.json")
    if os.path.exists(index_file):
        serial = parse_json(read_file(index_file, INDEX_LIMIT), index_file).get("serial")
        serials.append(serial if is_count(serial) else 0)
    return max(serials)


def index_expiry(text: str, created: int) -> "int | None":
    """When an index expires that says --expires TEXT."""
    if text == "never":
        return None
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise Usage(f"--expires {text}: write a number of days, or never")
    return created + int(text) * DAY


def cmd_index(options: "Options") -> int:
    """Write and sign the index of a folder of packages.

    The serial is used up first, so that no crash makes two indexes of one serial. All three files are
    written and synced under temporary names, then renamed: .gz, .minisig, .json. Only between the last
    two does the signature not fit; a run that is cut just there is put right by the next one, and until
    then clients refuse the index and keep what they have."""
    import json
    folder = os.path.realpath(options.words[0])
    secret = options.need("secret")
    arch = options.arch or os.path.basename(folder)
    serial_file = options.serial_file or os.path.join(os.path.dirname(secret), f"serial-{arch}")
    offers = scan_packages(folder, arch)
    created = int(time.time())
    serial = max(last_serial(folder, serial_file) + 1, created)
    index = {"serial": serial, "created": created, "arch": arch,
             "expires": index_expiry(options.expires or "365", created), "packages": offers}
    data = json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"
    key = read_secret_key(secret)
    signature = signature_text(hashlib.blake2b(data).digest(), f"index {arch} serial {serial}", *key)
    write_atomic(serial_file, b"%d\n" % serial)
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    with NewFiles() as new:
        base = os.path.join(folder, "index.json")
        new.create(base + ".gz").write(compressor.compress(data) + compressor.flush())
        new.create(base + ".minisig").write(signature)
        new.create(base).write(data)
    say(f"{base}: {len(offers)} packages, serial {serial}")
    return 0


# ---- the root ------------------------------------------------------------------------------------------
#
# Nothing below names a file in the root by a whole path: the kernel would follow whatever symlinks lie on
# it. A path is walked from the root's descriptor, one component at a time, never through a symlink, and
# the last component is used relative to the descriptor of its folder.

class Root:
    """The folder that is, or becomes, a system."""
    __slots__ = ("path", "parts", "descriptors", "lock")

    def __init__(self, path: str):
        self.path = path
        self.parts = []                 # the folder that was walked to last, and
        self.descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self.lock = None

    def folder(self, path: str) -> int:
        """The descriptor of the folder PATH, "" for the root itself; it stays open until the next call.

        FileNotFoundError when it isn't there, Fail when something else is in its place."""
        parts = path.split("/") if path else []
        same = 0
        while same < min(len(parts), len(self.parts)) and parts[same] == self.parts[same]:
            same += 1
        self.leave(same)
        for part in parts[same:]:
            try:
                descriptor = os.open(part, FOLDER_FLAGS, dir_fd=self.descriptors[-1])
            except OSError as error:
                raise self.blocked(error, part) from None
            self.descriptors.append(descriptor)
            self.parts.append(part)
        return self.descriptors[-1]

    def blocked(self, error: OSError, part: str) -> Exception:
        """The exception for a component PART of a path that can't be entered."""
        path = "/".join([*self.parts, part])
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return Fail(f"{self.name(path)}: no directory (a symlink in the root is never followed); "
                        "put a directory there, or move it away")
        return OSError(error.errno, error.strerror, self.name(path))

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
        """What PATH is, None when it isn't there."""
        try:
            folder, name = self.place(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, path: str) -> object:
        """The regular file PATH, open for reading; FileNotFoundError, or Fail when it is none."""
        folder, name = self.place(path)
        descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Fail(f"{self.name(path)}: not a regular file")
        return open(descriptor, "rb")

    def read(self, path: str, limit: int) -> bytes:
        """The bytes of PATH, at most LIMIT; nothing when it isn't there."""
        try:
            with self.open(path) as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            return b""
        if len(data) > limit:
            raise Fail(f"{self.name(path)}: larger than {human_size(limit)}, the most that is read")
        return data

    def names(self, path: str) -> list:
        """The names in the folder PATH, sorted; none when it isn't there."""
        try:
            return sorted(os.listdir(self.folder(path)))
        except FileNotFoundError:
            return []

    def sha256(self, path: str) -> str:
        """The SHA-256 of the regular file PATH."""
        digest = hashlib.sha256()
        with self.open(path) as file:
            for piece in pieces(file):
                digest.update(piece)
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        """Put DATA into PATH by way of PATH.new, which the next run removes if this one is cut."""
        folder, name = self.place(path)
        remove(folder, name + ".new")
        with open(os.open(name + ".new", NEW_FILE_FLAGS, 0o644, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(name + ".new", name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def remove(folder: int, name: str) -> None:
    """Unlink NAME in FOLDER if it is there."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def has_database(path: str) -> bool:
    """Whether the folder PATH is a root of lpkg's."""
    return os.path.isdir(os.path.join(path, INSTALLED))


def is_vacant(path: str) -> bool:
    """Whether the folder PATH is absent, or holds at most the beginning of a database."""
    if not os.path.lexists(path):
        return True
    for part in (*STATE.split("/"), None):
        names = os.listdir(path)
        if part is None:
            return set(names) <= {"lock", "installed"}
        if set(names) - {part}:
            return False
        if not names:
            return True
        path = os.path.join(path, part)
    return True


def check_root(path: str, create: bool) -> bool:
    """Whether PATH has a database; Fail when it hasn't and can't or, without CREATE, mustn't get one."""
    if has_database(path):
        return True
    real = os.path.realpath(path)
    if real == "/":
        raise Fail("/: this is no Panux: it has no " + STATE + "; name another root with --root DIR")
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
        try:
            os.mkdir(folder, 0o755)
            made.append(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise Fail(f"{path}: the folder it would be in is not there; make it first") from None
    return made


def discard_root(made: list) -> None:
    """Remove the folders that create_root made, after a failure: a refused install leaves nothing."""
    for folder in reversed(made):
        try:
            if folder.endswith(STATE):
                for name in os.listdir(folder):
                    os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
        except OSError:
            return


def take_lock(root: Root) -> None:
    """Be the only lpkg that changes ROOT; Later, naming the other one, when there is one."""
    folder, name = root.place(LOCK)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    root.lock = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        fcntl.flock(root.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(root.lock, 20).decode(errors="replace").strip()
        raise Later(f"{root.path}: lpkg with pid {pid} is changing it; wait until it is done") from None
    os.truncate(root.lock, 0)
    os.write(root.lock, b"%d\n" % os.getpid())


def load_installed(root: Root) -> dict:
    """NAME -> Package of what is installed."""
    installed = {}
    for name in root.names(INSTALLED):
        if is_name(name):
            path = f"{INSTALLED}/{name}"
            info = parse_json(root.read(path, INFO_LIMIT), root.name(path))
            check_info(info, root.name(path))
            installed[name] = Package(info, None)
    return installed


def load_world(root: Root) -> set:
    """The names that the user asked for."""
    return set(root.read(WORLD, INFO_LIMIT).decode(errors="replace").split())


# ---- the network ----------------------------------------------------------------------------------------

class Repository:
    """A folder of packages for several architectures, somewhere, and what its index offers."""
    __slots__ = ("name", "url", "arch", "packages")

    def __init__(self, name: str, url: str):
        self.name = name
        self.url = url.rstrip("/")
        self.arch = ""                  # of the index that was loaded
        self.packages = []

    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return not self.url.startswith(("http://", "https://"))


def download(url: str) -> object:
    """The bytes of URL (http, https, file: or a path), in pieces; Later when the network is at fault."""
    if url.startswith(("http://", "https://")):
        return download_http(url)
    scheme, colon, rest = url.partition(":")
    if colon and scheme.isalnum() and scheme != "file":
        raise Fail(f"{url}: {scheme}: is not known; repositories are http, https, file or a path")
    return read_local_url(url)


def read_local_url(url: str) -> object:
    """The bytes of a file: URL or a path, in pieces."""
    import urllib.parse
    path = url
    if url.startswith("file:"):
        path = url[len("file:"):]
        if path.startswith("//"):
            path = "/" + path[2:].partition("/")[2]
        path = urllib.parse.unquote(path)
    with open_file(path) as file:
        yield from pieces(file)


def download_http(url: str) -> object:
    """The body of URL, in pieces; Later when the network or the server fails."""
    import http.client
    received = 0
    try:
        with open_http(url) as answer:
            length = answer.headers.get("Content-Length")
            for piece in pieces(answer):
                received += len(piece)
                yield piece
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Later(f"{url}: {reason}; is the network up, and the address right?") from None
    if length is not None and length.isdecimal() and received < int(length):
        raise Later(f"{url}: the connection ended after {received} of {length} bytes; try again")


def open_http(url: str) -> object:
    """The server's answer for URL. A redirect may change the host, never https into anything else."""
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        """Follows what stays as safe as it was."""

        def redirect_request(self, request: object, fp: object, code: int, message: str,
                             headers: object, newurl: str) -> object:
            """The request for NEWURL, or ValueError."""
            allowed = ("https://",) if request.full_url.startswith("https://") else ("http://", "https://")
            if not newurl.startswith(allowed):
                raise ValueError(f"redirect to {newurl} is refused")
            return super().redirect_request(request, fp, code, message, headers, newurl)

    request = urllib.request.Request(url, headers={"User-Agent": f"lpkg/{VERSION}"})
    return urllib.request.build_opener(Redirects).open(request, timeout=NETWORK_TIMEOUT)


def fetch_bytes(url: str, limit: int) -> bytes:
    """The bytes of URL; Fail as soon as there are more than LIMIT."""
    data = bytearray()
    for piece in download(url):
        data += piece
        if len(data) > limit:
            raise Fail(f"{url}: longer than {human_size(limit)}, which is the most that is taken")
    return bytes(data)


# ---- indexes --------------------------------------------------------------------------------------------
#
# The rules of trust, in their order. 1. The signature is that of a trusted key; until then the index is
# only bytes. 2. The trusted comment says `index ARCH serial N`: another signed file of the same key is no
# index. 3. The index is well formed, and for this ARCH and that serial. 4. Its serial is not below the
# highest one seen of that key, and an equal one has the same bytes. 5. It has not expired, where the time
# is what the clock says, but never before the newest `created` that was seen: so a device without a clock
# works, and an attacker who holds the clock back gains nothing.

class Serials:
    """What was seen of each key's indexes: (key id, arch) -> (serial, created, sha256)."""
    __slots__ = ("seen",)

    def __init__(self, text: str):
        self.seen = {}
        for line in text.splitlines():
            words = line.split()
            if len(words) != 5 or not (words[2].isdecimal() and words[3].isdecimal()):
                raise Fail(f"{SERIALS}: line {line!r} is not understood; restore it, or remove the line")
            self.seen[words[0], words[1]] = (int(words[2]), int(words[3]), words[4])

    def text(self) -> str:
        """The lines of the file."""
        return "".join(f"{key} {arch} {serial} {created} {sha256}\n"
                       for (key, arch), (serial, created, sha256) in sorted(self.seen.items()))

    def now(self) -> float:
        """The time, never before what was seen."""
        return max([time.time(), *(created for _, created, _ in self.seen.values())])

    def accept(self, key: PublicKey, index: dict, data: bytes, what: str) -> None:
        """Rule 4; remembers the index."""
        name = (key.id[::-1].hex().upper(), index["arch"])
        sha256 = hashlib.sha256(data).hexdigest()
        serial, _, known = self.seen.get(name, (0, 0, ""))
        if index["serial"] < serial:
            raise Fail(f"{what}: serial {index['serial']} is older than {serial}, which was seen before; "
                       "an old index is being served")
        if index["serial"] == serial and sha256 != known:
            raise Fail(f"{what}: serial {serial} was seen with another content; make a new index")
        self.seen[name] = (index["serial"], index["created"], sha256)


def comment_serial(comment: str, arch: str, what: str) -> int:
    """Rule 2: the serial of a trusted comment `index ARCH serial N`."""
    words = comment.split(" ")
    if words[:1] + words[2:3] != ["index", "serial"] or len(words) != 4 or not words[3].isdecimal():
        raise Fail(f"{what}: the signature is not that of an index (trusted comment {comment[:60]!r})")
    if words[1] != arch:
        raise Fail(f"{what}: signed as the index of {words[1]}, and {arch} is wanted")
    return int(words[3][:20])


def check_expiry(index: dict, repository: Repository, now: float, what: str) -> None:
    """Rule 5."""
    expires = index["expires"]
    if expires is None and not repository.is_local():
        raise Fail(f"{what}: it never expires, which is only for folders; make it with --expires DAYS")
    if expires is not None and expires < now:
        day, today = (time.strftime("%Y-%m-%d", time.gmtime(min(when, 1 << 35))) for when in (expires, now))
        raise Fail(f"{what}: expired on {day}, and the clock says {today}; if the clock is right, the "
                   "repository needs a new index")


def load_index(repository: Repository, trusted: list, arch: str, serials: Serials) -> None:
    """Fetch the index of REPOSITORY for ARCH and, once the rules hold, let it offer its packages."""
    what = f"{repository.url}/{arch}/index.json"
    signature = fetch_bytes(what + ".minisig", SMALL_LIMIT)
    data = fetch_bytes(what, INDEX_LIMIT)
    key, comment = check_signature(data, signature, trusted, what)
    serial = comment_serial(comment, arch, what)
    index = parse_json(data, what)
    check_index(index, arch, what)
    if index["serial"] != serial:
        raise Fail(f"{what}: serial {index['serial']} inside, {serial} in its signature")
    check_expiry(index, repository, max(serials.now(), index["created"]), what)
    serials.accept(key, index, data, what)
    repository.arch = arch
    repository.packages = [Package(offer, repository, offer["size"], offer["sha256"])
                           for offer in index["packages"]]


def trusted_keys(options: "Options", root: "Root | None") -> list:
    """The keys of --key, else those of the root."""
    if options.key:
        return [parse_public_key(read_file(path, SMALL_LIMIT), path) for path in options.key]
    names = [name for name in (root.names(KEYS) if root else []) if name.endswith(".pub")]
    return [parse_public_key(root.read(f"{KEYS}/{name}", SMALL_LIMIT), root.name(f"{KEYS}/{name}"))
            for name in names]


def repositories(options: "Options", root: "Root | None") -> list:
    """The repositories of --repo, else those of the root."""
    if options.repo:
        return [Repository(url, url) for url in options.repo]
    text = root.read(REPOS, SMALL_LIMIT).decode(errors="replace") if root else ""
    return [Repository(name, url) for name, url in parse_repositories(text, REPOS)]


def load_repositories(options: "Options", root: "Root | None", arch: str, serials: Serials) -> list:
    """The repositories with their indexes loaded."""
    found = repositories(options, root)
    keys = trusted_keys(options, root) if found else []
    if found and not keys:
        raise Fail(f"no key is trusted: give --key FILE, or put the repository's .pub file into {KEYS}")
    for repository in found:
        load_index(repository, keys, arch, serials)
    return found


def machine() -> str:
    """This machine's architecture, as Panux calls it."""
    name = os.uname().machine
    return {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86", "armv7l": "armv7"}.get(name, name)


# ---- the plan -------------------------------------------------------------------------------------------

class Plan:
    """What a transaction will do, by package: settled and shown before anything is fetched."""
    __slots__ = ("new", "old", "stay", "world")

    def __init__(self, new: list, old: dict, stay: list, world: set):
        self.new = new                  # packages that come, by name
        self.old = old                  # NAME -> package that goes: replaced, or removed
        self.stay = stay                # packages that are untouched
        self.world = world              # what the user asked for, afterwards


def plan_install(installed: dict, world: set, offers: list, words: list, local: list) -> Plan:
    """The plan that brings WORDS (relations) and LOCAL (packages) to what is INSTALLED."""
    wants = [Want(parse_relation(package.name), "you asked for", package, True) for package in local]
    for word in words:
        relation = parse_relation(word)
        if relation.negative:
            raise Usage(f"{word}: to be rid of a package, say `lpkg remove {relation.name}`")
        wants.append(Want(relation, "you asked for", None, True))
    universe = Universe(installed, offers, local)
    chosen = solve(universe, wants)
    asked = {package.name for want in wants for package in chosen.values() if answers(package, want)}
    new = [package for _, package in sorted(chosen.items()) if installed.get(package.name) is not package]
    old = {package.name: installed[package.name] for package in new if package.name in installed}
    stay = [package for name, package in installed.items() if chosen.get(name) is package]
    return Plan(new, old, stay, world | asked)


def plan_remove(installed: dict, world: set, names: list) -> Plan:
    """The plan that removes NAMES; Fail, naming them, when others need one."""
    for name in names:
        if name not in installed:
            raise Fail(f"{name} is not installed{nearest(name, installed)}")
    stay = [package for name, package in installed.items() if name not in names]
    for package in stay:
        for relation in package.relations("depends"):
            if not any(other.satisfies(relation) for other in stay):
                raise Fail(f"{package.name} needs {relation.text}; remove {package.name} as well, or keep it")
    return Plan([], {name: installed[name] for name in names}, stay, world - set(names))


def plan_lines(plan: Plan) -> list:
    """The plan, as a person reads it."""
    lines = []
    for package in plan.new:
        old = plan.old.get(package.name)
        if old is None:
            lines.append(f"install  {package}  {human_size(package.size)}")
        else:
            word = "replace" if version_key(old.version) == version_key(package.version) else "upgrade"
            if version_key(old.version) > version_key(package.version):
                word = "downgrade"
            lines.append(f"{word}  {old} -> {package.version}  {human_size(package.size)}")
    coming = {package.name for package in plan.new}
    lines += [f"remove   {package}" for name, package in sorted(plan.old.items()) if name not in coming]
    return lines + cost_lines(plan) + risk_lines(plan)


def cost_lines(plan: Plan) -> list:
    """What the plan costs."""
    fetched = sum(package.size for package in plan.new)
    grows = (sum(package.installed_size() for package in plan.new)
             - sum(package.installed_size() for package in plan.old.values()))
    sign = "-" if grows < 0 else "+"
    return [f"download {human_size(fetched)}, disk {sign}{human_size(abs(grows))}"]


def risk_lines(plan: Plan) -> list:
    """What grows in risk, and what is left to the user."""
    lines = []
    for package in plan.new:
        old = plan.old.get(package.name)
        known = setuid_paths(old.info["files"]) if old else []
        for path in package_setuid(package):
            if path not in known:
                lines.append(f"setuid   /{path} of {package.name}")
        for service in package.info["services"]:
            if not old or service not in old.info["services"]:
                lines.append(f"service  to start it at boot: linitctl enable {service}")
    return lines


def package_setuid(package: Package) -> list:
    """The setuid and setgid files of PACKAGE, from the index or from its manifest."""
    return package.info["setuid"] if "files" not in package.info else setuid_paths(package.info["files"])


# ---- the transaction ------------------------------------------------------------------------------------
#
# plan      which packages come and go (above)
# fetch     their bytes, into a spool file in the root that has no name; size and SHA-256 are those of the
#           signed index. What is read later is the spool, never the source again.
# verify    each info.json against the index; then, for each path, what is in the root against what the
#           packages bring: conflicts, strays, clashes of type, symlinks on the way, conffiles, space.
#           Nothing has been changed so far.
# stage     `staged` is written: the list of all temporaries and new directories, as a journal that undoes
#           them. Then they are made: each new file beside its place under an unpredictable name, complete
#           with owner and mode; the new database entries as well; last the journal, as journal.new.
# commit    sync, then one rename: journal.new -> journal. Before it, a run that dies is undone by the next
#           one; after it, finished.
# apply     the journal's lines on files: renames, removals. Each is safe to do twice.
# register  its lines on the database, in the same way.
# forget    sync; `staged` goes, then `journal`. In this order: a `staged` without a journal means undo.

class Transaction:
    """One change of a root, from its plan to its end."""
    __slots__ = ("root", "plan", "spool", "meter", "token", "temporaries", "placed", "folders", "texts",
                 "removals", "claims", "old_entries", "journal")

    def __init__(self, root: Root, plan: Plan):
        self.root = root
        self.plan = plan
        self.spool = None
        self.meter = None
        self.token = f".lpkg.{os.urandom(8).hex()}"
        self.temporaries = {}           # final path -> temporary path
        self.placed = {}                # a new package's path -> final path; missing: the user's stays
        self.folders = []               # directories to make, parents first
        self.texts = {}                 # final path -> bytes that lpkg itself writes
        self.removals = []              # journal lines
        self.claims = {}                # PATH -> (package, entry) of the system as it will be
        self.old_entries = {}           # PATH -> (entry, whether it is a conffile) of what goes
        self.journal = []


def run_transaction(tx: Transaction) -> None:
    """Carry out TX's plan: all of it or, when something is in the way, nothing."""
    begun = False
    try:
        fetch(tx)
        verify(tx)
        begun = True
        stage(tx)
        commit(tx)
    except BaseException:
        if begun:
            recover(tx.root)
        raise
    finish_surely(tx.root)


def finish_surely(root: Root) -> None:
    """Apply, register and forget; an impatient Ctrl-C is obeyed when that is done."""
    try:
        finish(root)
    except KeyboardInterrupt:
        finish(root)
        raise


def finish(root: Root) -> None:
    """Carry out the journal of ROOT: apply, register, forget."""
    lines = parse_journal(root.read(JOURNAL, INFO_LIMIT).decode(), root.name(JOURNAL))
    root.leave()
    ours = [line for line in lines if line[-1].startswith(STATE + "/")]
    files = [line for line in lines if not line[-1].startswith(STATE + "/")]
    apply(root, files)
    register(root, ours)
    forget(root)


def recover(root: Root) -> None:
    """Finish or undo what an earlier run left behind, and say so."""
    root.leave()
    names = root.names(STATE)
    if "journal" in names:
        say(f"{root.path}: finishing what an earlier lpkg had begun")
        finish(root)
    elif "staged" in names:
        say(f"{root.path}: undoing what an earlier lpkg had not finished")
        for line in parse_journal(root.read(STAGED, INFO_LIMIT).decode(), root.name(STAGED)):
            carry_out(root, line)
        forget(root)
    for name in ("staged.new", "journal.new", "serials.new", "spool"):
        if name in names:
            remove(root.folder(STATE), name)


# -- fetch

def fetch(tx: Transaction) -> None:
    """Copy the packages' bytes into the spool, each as long as promised and with the right SHA-256."""
    total = sum(package.size for package in tx.plan.new)
    check_space(os.fstatvfs(tx.root.folder(STATE)), total, tx.root.name(STATE))
    tx.spool = create_spool(tx.root)
    tx.meter = Meter(f"fetching {len(tx.plan.new)} packages", total) if tx.plan.new else None
    for package in tx.plan.new:
        fetch_package(package, tx.spool, tx.meter)
    if tx.meter:
        tx.meter.close()


def create_spool(root: Root) -> object:
    """A file in ROOT that has no name: nobody else can change it, and it ends with this process."""
    folder, name = root.place(SPOOL)
    remove(folder, name)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = open(os.open(name, flags, 0o600, dir_fd=folder), "w+b")
    remove(folder, name)
    return file


def package_url(package: Package) -> str:
    """Where the bytes of PACKAGE are; Fail when that is not in its repository's folder."""
    import urllib.parse
    if isinstance(package.origin, str):
        return os.path.abspath(package.origin)
    quoted = package.info["file"]
    plain = urllib.parse.unquote(quoted)
    if "/" in plain or not is_path(plain) or urllib.parse.quote(plain) != quoted:
        raise Fail(f"{package}: the index names its file {quoted!r}, which is no file of its folder")
    url = package.origin.url
    is_url = url.startswith(("http:", "https:", "file:"))
    return f"{url}/{package.origin.arch}/{quoted if is_url else plain}"


def fetch_package(package: Package, spool: object, meter: Meter) -> None:
    """Append the bytes of PACKAGE to the SPOOL, checked."""
    url = package_url(package)
    digest = hashlib.sha256()
    package.start = spool.seek(0, os.SEEK_END)
    left = package.size
    for piece in download(url):
        left -= len(piece)
        if left < 0:
            raise Fail(f"{url}: longer than the {package.size} bytes of the signed index; refused")
        digest.update(piece)
        spool.write(piece)
        meter.add(len(piece))
    spool.flush()
    if left or digest.hexdigest() != package.sha256:
        raise Fail(f"{url}: not what the signed index says (size or SHA-256 differs); refused")


# -- verify

def verify(tx: Transaction) -> None:
    """Look at everything that could be in the way; Fail before anything is changed."""
    for package in tx.plan.new:
        read_manifest(package, tx.spool)
    tx.claims = merge_manifests([*tx.plan.stay, *tx.plan.new])
    for package in tx.plan.old.values():
        conffiles = set(package.info["conffiles"])
        for entry in package.info["files"]:
            tx.old_entries[entry["path"]] = (entry, entry["path"] in conffiles)
    for package in tx.plan.new:
        for entry in package.info["files"]:
            place_entry(tx, package, entry)
    plan_texts(tx)
    plan_removals(tx)
    check_room(tx)


def read_manifest(package: Package, spool: object) -> None:
    """Take the info.json of a fetched PACKAGE in the place of the index's word for it."""
    what = str(package)
    info = Archive(spool.fileno(), package.start, package.size, what).info()
    offer = package.info
    for key in ("name", "version", "depends", "provides", "conflicts", "services"):
        if info[key] != offer[key]:
            raise Fail(f"{what}: its {key} is {info[key]!r} in the package, {offer[key]!r} in the index")
    if "setuid" in offer and sorted(offer["setuid"]) != setuid_paths(info["files"]):
        raise Fail(f"{what}: it has setuid files that the index doesn't name")
    if info["arch"] != (package.origin.arch if isinstance(package.origin, Repository) else info["arch"]):
        raise Fail(f"{what}: made for {info['arch']}")
    package.info = info


def place_entry(tx: Transaction, package: Package, entry: dict) -> None:
    """Decide what becomes of ENTRY of a new PACKAGE, given what is in its place."""
    path = entry["path"]
    there = tx.root.lstat(path)
    if entry["type"] == "dir":
        if there is None:
            add_folder(tx, path)
        elif not stat.S_ISDIR(there.st_mode):
            raise Fail(f"{tx.root.name(path)}: no directory, and {package.name} needs one there")
        return
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise Fail(f"{tx.root.name(path)}: a directory, and {package.name} brings a {entry['type']} there")
    old, was_conffile = tx.old_entries.get(path, (None, False))
    if was_conffile or path in package.info["conffiles"]:
        choice = conffile_choice(content_of(tx.root, path, there), old and content_key(old), content_key(entry))
    else:
        choice = "replace"
        if there is not None and old is None and content_of(tx.root, path, there) != content_key(entry):
            raise Fail(f"{tx.root.name(path)}: belongs to no package, and {package.name} brings another "
                       "one; move it away")
    add_placed(tx, path, choice)


def add_folder(tx: Transaction, path: str) -> None:
    """Make the directory PATH, unless it is to be made already."""
    if path not in tx.temporaries:
        tx.temporaries[path] = ""
        tx.folders.append(path)


def add_placed(tx: Transaction, path: str, choice: str) -> None:
    """Stage the new file of PATH as CHOICE says."""
    if choice == "keep":
        return
    final = path if choice == "replace" else path + ".lpkg-new"
    if choice == "beside":
        say(f"{tx.root.name(path)}: you changed it; it stays, and the package's is beside it as .lpkg-new")
    tx.placed[path] = final
    add_temporary(tx, final)


def add_temporary(tx: Transaction, final: str) -> None:
    """Give what will be FINAL an unpredictable name beside its place."""
    parent, slash, _ = final.rpartition("/")
    tx.temporaries[final] = f"{parent}{slash}{tx.token}.{len(tx.temporaries)}"


def content_key(entry: dict) -> str:
    """What is compared of a file or symlink: its SHA-256, or where it points."""
    return entry["sha256"] if entry["type"] == "file" else "-> " + entry.get("target", "")


def content_of(root: Root, path: str, there: "os.stat_result | None") -> "str | None":
    """The content_key of what is at PATH; None when nothing is, "" for a device or the like."""
    if there is None:
        return None
    if stat.S_ISLNK(there.st_mode):
        folder, name = root.place(path)
        return "-> " + os.readlink(name, dir_fd=folder)
    return root.sha256(path) if stat.S_ISREG(there.st_mode) else ""


def plan_texts(tx: Transaction) -> None:
    """The database as it will be."""
    for package in tx.plan.new:
        tx.texts[f"{INSTALLED}/{package.name}"] = info_text(registered(package))
    tx.texts[WORLD] = "".join(f"{name}\n" for name in sorted(tx.plan.world)).encode()
    for path in tx.texts:
        parent = path.rpartition("/")[0]
        parts = parent.split("/")
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if tx.root.lstat(folder) is None:
                add_folder(tx, folder)
        add_temporary(tx, path)


def registered(package: Package) -> dict:
    """The database's entry of PACKAGE: its info.json, and where it came from."""
    info = {key: value for key, value in package.info.items() if key != "files"}
    if isinstance(package.origin, Repository):
        info["repository"] = package.origin.name
    info["package_sha256"] = package.sha256
    info["files"] = package.info["files"]
    return info


def plan_removals(tx: Transaction) -> None:
    """The journal's lines for what no package has any more."""
    folders = []
    for path, (entry, is_conffile) in sorted(tx.old_entries.items()):
        if path in tx.claims:
            continue
        if entry["type"] == "dir":
            folders.append(["rmdir", path])
        elif removable(tx.root, path, entry, is_conffile):
            tx.removals.append(["rm", path])
    tx.removals += reversed(folders)
    coming = {package.name for package in tx.plan.new}
    tx.removals += [["rm", f"{INSTALLED}/{name}"] for name in tx.plan.old if name not in coming]


def removable(root: Root, path: str, entry: dict, is_conffile: bool) -> bool:
    """Whether the file PATH of a package that goes is to be deleted; says why it isn't."""
    try:
        there = root.lstat(path)
    except Fail as error:
        say(f"{path}: left alone: {error}")
        return False
    if there is None:
        return False
    if stat.S_ISDIR(there.st_mode):
        say(f"{root.name(path)}: left alone: it has become a directory")
        return False
    if is_conffile and content_of(root, path, there) != content_key(entry):
        say(f"{root.name(path)}: you changed it; it stays")
        return False
    return True


def check_room(tx: Transaction) -> None:
    """Fail unless each file system has the room for what is staged on it."""
    needed = {}
    places = {}
    for package in tx.plan.new:
        for entry in package.info["files"]:
            parent = entry["path"].rpartition("/")[0]
            if parent not in places:
                places[parent] = nearest_folder(tx.root, parent)
            device, folder = places[parent]
            size, _ = needed.get(device, (0, ""))
            needed[device] = (size + len(padding(entry.get("size", 1))) + entry.get("size", 1), folder)
    for size, folder in needed.values():
        check_space(os.fstatvfs(tx.root.folder(folder)), size, tx.root.name(folder))


def nearest_folder(root: Root, path: str) -> tuple:
    """(device, a folder on it) where a new folder PATH will be: those of the nearest that is there."""
    there = root.lstat(path) if path else os.fstat(root.folder(""))
    if there is None:
        return nearest_folder(root, path.rpartition("/")[0])
    return (there.st_dev, path)


def check_space(file_system: object, size: int, what: str) -> None:
    """Fail unless SIZE bytes fit on FILE_SYSTEM (one without blocks has no limit)."""
    free = file_system.f_bavail * file_system.f_frsize
    if file_system.f_blocks and free < size:
        raise Fail(f"{what}: {human_size(size)} needed there, {human_size(free)} free; make room first")


# -- stage

def stage(tx: Transaction) -> None:
    """Write everything that is new under its temporary name, and the two journals."""
    undo = [["rm", path] for path in tx.temporaries.values() if path]
    undo += [["rmdir", path] for path in reversed(tx.folders)]
    moves = [["mv", path, final] for final, path in tx.temporaries.items() if path]
    text = journal_text(moves + tx.removals)
    parse_journal(text.decode(), "the transaction")
    tx.root.write(STAGED, journal_text(undo))
    for path in tx.folders:
        stage_folder(tx, path)
    total = sum(package.info["size"] for package in tx.plan.new)
    tx.meter = Meter(f"writing {len(tx.plan.new)} packages", total) if tx.plan.new else None
    for package in tx.plan.new:
        stage_package(tx, package)
    for final, data in tx.texts.items():
        stage_file(tx.root, tx.temporaries[final], file_entry(final, data), [data])
    stage_file(tx.root, JOURNAL + ".new", file_entry(JOURNAL, text), [text])
    if tx.meter:
        tx.meter.close()


def mode_here(entry: dict) -> int:
    """The mode that ENTRY gets from this user.

    One who isn't root can't give files away, so setuid would make them run as the wrong user; and
    must be able to put files into a directory whatever its mode, and to remove it again."""
    mode = int(entry["mode"], 8)
    if os.geteuid() == 0:
        return mode
    return mode | 0o700 if entry["type"] == "dir" else mode & 0o1777


def stage_folder(tx: Transaction, path: str) -> None:
    """Make the directory PATH. It has its final name already: an empty one does no harm."""
    entry = tx.claims[path][1] if path in tx.claims else folder_entry(path)
    folder, name = tx.root.place(path)
    os.mkdir(name, 0o700, dir_fd=folder)
    own(tx.root.folder(path), entry)


def own(descriptor: int, entry: dict) -> None:
    """Give an open file the owner and the mode of ENTRY, in this order: chown clears setuid."""
    if os.geteuid() == 0:
        os.fchown(descriptor, entry["uid"], entry["gid"])
    os.fchmod(descriptor, mode_here(entry))


def stage_package(tx: Transaction, package: Package) -> None:
    """Stage the files and symlinks of PACKAGE."""
    for entry, content in unpack(package, tx.spool):
        final = tx.placed.get(entry["path"])
        if entry["type"] == "link" and final:
            stage_link(tx.root, tx.temporaries[final], entry)
        elif entry["type"] == "file" and final:
            stage_file(tx.root, tx.temporaries[final], entry, metered(content, tx.meter))
        else:
            for _ in content:
                pass


def unpack(package: Package, spool: object) -> object:
    """(entry, content in pieces) for each entry of PACKAGE; the content has to be read to its end."""
    archive = Archive(spool.fileno(), package.start, package.size, str(package))
    archive.begin()
    for entry in package.info["files"]:
        archive.expect(tar_header(entry), entry["path"])
        yield entry, archive.content(entry) if entry["type"] == "file" else ()
    archive.finish()


def metered(content: object, meter: Meter) -> object:
    """CONTENT, counted by METER."""
    for piece in content:
        meter.add(len(piece))
        yield piece


def stage_link(root: Root, path: str, entry: dict) -> None:
    """Make the symlink of ENTRY at PATH."""
    folder, name = root.place(path)
    os.symlink(entry["target"], name, dir_fd=folder)
    if os.geteuid() == 0:
        os.chown(name, entry["uid"], entry["gid"], dir_fd=folder, follow_symlinks=False)


def stage_file(root: Root, path: str, entry: dict, content: object) -> None:
    """Make the file of ENTRY at PATH, complete before it can be seen under its own name."""
    folder, name = root.place(path)
    with open(os.open(name, NEW_FILE_FLAGS, 0o600, dir_fd=folder), "wb", buffering=0) as file:
        for piece in content:
            view = memoryview(piece)
            while view:
                view = view[file.write(view):]
        own(file.fileno(), entry)


# -- commit, apply, register, forget

def commit(tx: Transaction) -> None:
    """Make what is staged durable, then the journal: from here on the change will happen."""
    os.sync()
    tx.root.leave()
    folder, name = tx.root.place(JOURNAL)
    os.rename(name + ".new", name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def apply(root: Root, lines: list) -> None:
    """The journal's LINES on the system's files."""
    for line in lines:
        carry_out(root, line)


def register(root: Root, lines: list) -> None:
    """The journal's LINES on the database."""
    for line in lines:
        carry_out(root, line)


def forget(root: Root) -> None:
    """Remove the traces of a transaction that is finished, or undone."""
    os.sync()
    root.leave()
    folder = root.folder(STATE)
    remove(folder, STAGED.rpartition("/")[2])
    os.fsync(folder)
    remove(folder, JOURNAL.rpartition("/")[2])


def carry_out(root: Root, line: list) -> None:
    """One line of a journal. Twice is as good as once: what was done already is passed over."""
    verb, path = line[:2]
    try:
        folder, name = root.place(path)
        CARRY[verb](folder, name, line[-1].rpartition("/")[2])
    except FileNotFoundError:
        pass
    except Fail as error:
        if verb == "mv":
            raise
        say(f"left alone: {error}")


def carry_mv(folder: int, name: str, target: str) -> None:
    """Rename NAME to TARGET, over what is there."""
    os.stat(name, dir_fd=folder, follow_symlinks=False)
    disarm(folder, target)
    os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)


def carry_rm(folder: int, name: str, _: str) -> None:
    """Unlink NAME, whatever a symlink of that name points at."""
    disarm(folder, name)
    os.unlink(name, dir_fd=folder)


def carry_rmdir(folder: int, name: str, _: str) -> None:
    """Remove the directory NAME if it is empty."""
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY, errno.ENOENT):
            raise


CARRY = {"mv": carry_mv, "rm": carry_rm, "rmdir": carry_rmdir}


def disarm(folder: int, name: str) -> None:
    """Clear setuid and setgid of the file NAME before its name goes: a hard link that somebody made to
    it elsewhere would keep an old hole open for ever."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
            os.fchmod(descriptor, mode & 0o1777)
            os.close(descriptor)
    except FileNotFoundError:
        pass


# ---- commands on a root ---------------------------------------------------------------------------------

def open_root(options: "Options", create: bool = False) -> "Root | None":
    """The root of --root; None when it is still to be made. With a lock unless nothing is changed."""
    if not check_root(options.root, create):
        return None
    root = Root(options.root)
    if create and not options.dry_run:
        take_lock(root)
        recover(root)
    return root


def is_local_file(word: str) -> bool:
    """Whether WORD means a .lpkg file, not a package's name."""
    return "/" in word or word.endswith(".lpkg")


def local_packages(options: "Options", words: list) -> list:
    """The packages among WORDS that are files; Fail without --allow-unsigned."""
    paths = [word for word in words if is_local_file(word)]
    if paths and not options.allow_unsigned:
        raise Fail(f"{paths[0]}: a file is not signed; if you trust where it is from, --allow-unsigned")
    if paths and options.tar is not None and len(paths) == len(words):
        say(f"{len(paths)} local packages, unsigned")
    elif paths:
        say(f"WARNING: {', '.join(paths)}: NOT SIGNED. Whoever made these files decides what runs here.")
    return [read_local(path) for path in paths]


def choose_arch(options: "Options", installed: dict, local: list) -> str:
    """The architecture: of --arch, of what is installed, of the local files, of this machine."""
    known = [package.info["arch"] for package in [*installed.values(), *local]]
    arch = options.arch or (known[0] if known else machine())
    for package in local:
        if package.info["arch"] != arch:
            raise Fail(f"{package}: made for {package.info['arch']}, and the root is {arch}")
    return arch


def cmd_install(options: "Options") -> int:
    """Install packages with what they need, or upgrade them."""
    root = open_root(options, create=True)
    installed = load_installed(root) if root else {}
    world = load_world(root) if root else set()
    serials = Serials(root.read(SERIALS, SMALL_LIMIT).decode() if root else "")
    local = local_packages(options, options.words)
    arch = choose_arch(options, installed, local)
    offers = load_repositories(options, root, arch, serials)
    names = [word for word in options.words if not is_local_file(word)]
    plan = plan_install(installed, world, offers, names, local)
    return change(options, root, plan, {SERIALS: serials.text().encode()}, world)


def cmd_remove(options: "Options") -> int:
    """Remove packages."""
    root = open_root(options, create=True)
    if root is None:
        raise Fail(f"{options.root}: nothing is installed there")
    world = load_world(root)
    plan = plan_remove(load_installed(root), world, options.words)
    return change(options, root, plan, {}, world)


def change(options: "Options", root: "Root | None", plan: Plan, texts: dict, world: set) -> int:
    """Show PLAN, ask, and carry it out."""
    if not plan.new and not plan.old and plan.world == world:
        say("nothing to do")
        return 0
    for line in plan_lines(plan):
        print(printable(line), file=sys.stdout if options.dry_run else sys.stderr)
    if options.dry_run:
        return 0
    if plan.new or plan.old:
        confirm(options.yes)
    change_root(options.root, root, plan, texts)
    return 0


def change_root(path: str, root: "Root | None", plan: Plan, texts: dict) -> None:
    """Carry out PLAN, in a new root when there is no ROOT yet, which vanishes again if that fails."""
    made = [] if root else create_root(path)
    try:
        if root is None:
            root = Root(path)
            take_lock(root)
        tx = Transaction(root, plan)
        tx.texts.update(texts)
        run_transaction(tx)
    except BaseException:
        discard_root(made)
        raise


# -- bootstrap

def cmd_bootstrap(options: "Options") -> int:
    """Make a new root, as a folder or as a tar."""
    words = list(options.words)
    path = words.pop(0) if options.tar is None else ""
    if not words:
        raise Usage("bootstrap: name the packages it shall hold")
    if options.no_database and options.tar is None:
        raise Usage("bootstrap: --no-database goes with --tar")
    if path and (has_database(path) or not is_vacant(path)):
        raise Fail(f"{path}: is there already; bootstrap makes a new root in an absent or empty folder")
    serials = Serials("")
    plan = plan_bootstrap(options, words, serials)
    texts = bootstrap_texts(options, serials)
    for line in plan_lines(plan) if options.dry_run else ():
        show(line)
    if options.dry_run:
        return 0
    if options.tar is None:
        change_root(path, None, plan, texts)
    else:
        bootstrap_tar(options, plan, texts)
    return 0


def plan_bootstrap(options: "Options", words: list, serials: Serials) -> Plan:
    """The plan of a new root. Local files are taken as they are: what they need isn't looked for unless
    there is a repository to find it in."""
    local = local_packages(options, words)
    names = [word for word in words if not is_local_file(word)]
    arch = choose_arch(options, {}, local)
    if not names and not options.repo:
        world = {package.name for package in local}
        if len(world) != len(local):
            raise Fail("bootstrap: two of the files are the same package")
        return Plan(sorted(local, key=lambda package: package.name), {}, [], world)
    offers = load_repositories(options, None, arch, serials)
    return plan_install({}, set(), offers, names, local)


def bootstrap_texts(options: "Options", serials: Serials) -> dict:
    """PATH -> bytes of the configuration and the state that a new root begins with."""
    texts = {}
    name = "panux"
    for path in options.key:
        data = read_file(path, SMALL_LIMIT)
        parse_public_key(data, path)
        name = os.path.basename(path)
        texts[f"{KEYS}/{name if name.endswith('.pub') else name + '.pub'}"] = data
    if options.repo_url:
        texts[REPOS] = f"{name.partition('.')[0]} {options.repo_url}\n".encode()
    if serials.seen:
        texts[SERIALS] = serials.text().encode()
    return texts


def bootstrap_tar(options: "Options", plan: Plan, texts: dict) -> None:
    """Write the tar of a new root to --tar FILE, or stdout for `-`."""
    import tempfile
    if options.tar == "-" and sys.stdout.isatty():
        raise Fail("stdout is a terminal; send the tar into a file or a pipe")
    with tempfile.TemporaryFile() as spool:
        meter = Meter(f"reading {len(plan.new)} packages", sum(package.size for package in plan.new))
        for package in plan.new:
            fetch_package(package, spool, meter)
            read_manifest(package, spool)
        meter.close()
        if options.tar == "-":
            write_root_tar(sys.stdout.buffer, plan, texts, spool, options.no_database)
            sys.stdout.buffer.flush()
        else:
            with NewFiles() as new:
                write_root_tar(new.create(options.tar), plan, texts, spool, options.no_database)


def write_root_tar(file: object, plan: Plan, texts: dict, spool: object, no_database: bool) -> None:
    """The root of PLAN as a tar: all directories, then each package's files, then lpkg's own."""
    claims = merge_manifests(plan.new)
    texts = {path: data for path, data in texts.items() if not path.startswith(STATE + "/")
             or not no_database}
    if not no_database:
        for package in plan.new:
            texts[f"{INSTALLED}/{package.name}"] = info_text(registered(package))
        texts[WORLD] = "".join(f"{name}\n" for name in sorted(plan.world)).encode()
    for _, entry in sorted(tar_folders(claims, texts).items()):
        file.write(tar_header(entry))
    for package in plan.new:
        progress(f"writing {package}")
        for entry, content in unpack(package, spool):
            if entry["type"] != "dir":
                file.write(tar_header(entry))
            for piece in content:
                file.write(piece)
            file.write(padding(entry.get("size", 0)))
    progress("")
    for path, data in sorted(texts.items()):
        file.write(tar_header(file_entry(path, data)) + data + padding(len(data)))
    file.write(TAR_END)


def tar_folders(claims: dict, texts: dict) -> dict:
    """PATH -> entry of the directories of a new root; Fail where a text is in the way."""
    folders = {path: entry for path, (_, entry) in claims.items() if entry["type"] == "dir"}
    for path in texts:
        if path in claims:
            raise Fail(f"{claims[path][0]} brings {path}, which is to be written; leave one of them out")
        parent = path.rpartition("/")[0]
        while parent:
            folders.setdefault(parent, folder_entry(parent))
            parent = parent.rpartition("/")[0]
    return folders


# -- queries

def find_installed(root: Root, names: list) -> list:
    """The installed packages called NAMES, all of them for none; Fail for one that isn't there."""
    installed = load_installed(root)
    for name in names:
        if name not in installed:
            raise Fail(f"{name} is not installed{nearest(name, installed)}")
    return [installed[name] for name in names] or list(installed.values())


def summary(info: dict) -> dict:
    """INFO without its files."""
    return {key: value for key, value in info.items() if key != "files"}


def cmd_list(options: "Options") -> int:
    """List what is installed."""
    packages = find_installed(open_root(options), [])
    if options.json:
        show_json([summary(package.info) for package in packages])
        return 0
    for package in packages:
        show(str(package))
    return 0


def offered(options: "Options", root: Root, installed: dict) -> list:
    """The packages that the repositories offer; newest first, by name."""
    serials = Serials(root.read(SERIALS, SMALL_LIMIT).decode())
    found = load_repositories(options, root, choose_arch(options, installed, []), serials)
    return [package for repository in found for package in repository.packages]


def cmd_info(options: "Options") -> int:
    """Describe packages: installed ones, .lpkg files, else what the repositories offer."""
    infos = []
    for word in options.words:
        infos.append(summary(describe(options, word)))
    if options.json:
        show_json(infos)
        return 0
    for number, info in enumerate(infos):
        if number:
            show("")
        for key, value in info.items():
            show(f"{key}: {' '.join(value) if isinstance(value, list) else value}")
    return 0


def describe(options: "Options", word: str) -> dict:
    """What is known of the package that WORD names."""
    if is_local_file(word):
        return read_local(word).info
    root = open_root(options)
    installed = load_installed(root)
    if word in installed:
        return installed[word].info
    offers = offered(options, root, installed) if options.repo or root.read(REPOS, SMALL_LIMIT) else []
    for package in offers:
        if package.name == word:
            return package.info
    raise Fail(f"{word} is neither installed nor in a repository"
               + nearest(word, {*installed, *(package.name for package in offers)}))


def cmd_files(options: "Options") -> int:
    """List the files of packages."""
    entries = []
    for word in options.words:
        if is_local_file(word):
            entries += read_local(word).info["files"]
        else:
            entries += find_installed(open_root(options), [word])[0].info["files"]
    if options.json:
        show_json(entries)
        return 0
    for entry in entries:
        show(entry["path"])
    return 0


def cmd_verify(options: "Options") -> int:
    """Compare what is in the root with what was installed."""
    root = open_root(options)
    everything = find_installed(root, [])
    folders = merge_manifests(everything)
    faults = []
    for package in find_installed(root, options.words):
        for entry in package.info["files"]:
            if entry["path"] not in package.info["conffiles"]:
                expected = folders[entry["path"]][1]
                faults += [{"package": package.name, "path": entry["path"], "what": what}
                           for what in differences(root, expected)]
    if options.json:
        show_json(faults)
    else:
        for fault in faults:
            show(f"{fault['path']}: {fault['what']}")
    return 1 if faults else 0


def differences(root: Root, entry: dict) -> list:
    """In a word each, how what is in ROOT differs from ENTRY."""
    path = entry["path"]
    try:
        there = root.lstat(path)
    except Fail:
        there = None
    if there is None:
        return ["missing"]
    if stat.S_IFMT(there.st_mode) != {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "link": stat.S_IFLNK}[
            entry["type"]]:
        return ["type"]
    found = []
    if entry["type"] != "link" and stat.S_IMODE(there.st_mode) != mode_here(entry):
        found.append("mode")
    if os.geteuid() == 0 and (there.st_uid, there.st_gid) != (entry["uid"], entry["gid"]):
        found.append("owner")
    if entry["type"] == "link" and content_of(root, path, there) != content_key(entry):
        found.append("target")
    if entry["type"] == "file" and (there.st_size != entry["size"] or root.sha256(path) != entry["sha256"]):
        found.append("content")
    return found


def cmd_search(options: "Options") -> int:
    """Search the repositories for a word in names and summaries."""
    root = open_root(options)
    installed = load_installed(root)
    word = options.words[0].lower()
    found = {}
    for package in offered(options, root, installed):
        if word in package.name.lower() or word in package.info["summary"].lower():
            found.setdefault(package.name, package)
    if options.json:
        show_json([package.info for package in found.values()])
        return 0
    for package in found.values():
        show(f"{package}  {package.info['summary']}")
    return 0


# ---- the command line -----------------------------------------------------------------------------------

class Option:
    """An option: FLAG, the attribute of Options that it sets, what to call its value ("" for none)."""
    __slots__ = ("flag", "name", "value", "many", "help")

    def __init__(self, flag: str, name: str, value: str, text: str, many: bool = False):
        self.flag = flag
        self.name = name
        self.value = value
        self.help = text
        self.many = many


class Verb:
    """A verb: what carries it out, its words (fewest, most, how the help writes them), its options."""
    __slots__ = ("run", "least", "most", "words", "options", "help")

    def __init__(self, run: object, least: int, most: int, words: str, options: str, text: str):
        self.run = run
        self.least = least
        self.most = most
        self.words = words
        self.options = options.split()
        self.help = text


MANY = 1 << 30

OPTIONS = [
    Option("--root", "root", "DIR", "the root to work on (default /)"),
    Option("--repo", "repo", "URL", "a repository, the folder above ARCH/, in place of the configured", True),
    Option("--key", "key", "FILE", "a public key to trust, in place of the root's etc/lpkg/keys", True),
    Option("--arch", "arch", "ARCH", "the architecture (default: the root's, else this machine's)"),
    Option("--yes", "yes", "", "don't ask"),
    Option("--dry-run", "dry_run", "", "show the plan on stdout and stop"),
    Option("--json", "json", "", "print an array of objects"),
    Option("--allow-unsigned", "allow_unsigned", "", "take .lpkg files, which nobody signed"),
    Option("--meta", "meta", "FILE", "what the packages are called and need (pkggen.py meta)"),
    Option("-o", "output", "DIR", "where the packages go"),
    Option("--secret", "secret", "KEY", "the secret key to sign with"),
    Option("--comment", "comment", "TEXT", "the trusted comment"),
    Option("--encrypt", "encrypt", "", "ask for a password (or take LPKG_PASSWORD)"),
    Option("--expires", "expires", "DAYS", "days until the index expires, or never (default 365)"),
    Option("--serial-file", "serial_file", "FILE", "the last serial (default serial-ARCH beside KEY)"),
    Option("--tar", "tar", "FILE", "write a tar, - for stdout, with all owners and modes"),
    Option("--no-database", "no_database", "", "leave lpkg's database out of the tar"),
    Option("--repo-url", "repo_url", "URL", "what the new root shall have in etc/lpkg/repos"),
    Option("--version", "version", "", "print the version"),
    Option("--help", "help", "", "print this"),
]

SOURCE = "--root --repo --key --arch"

VERBS = {
    "install": Verb(cmd_install, 1, MANY, "NAME[=VERSION]|FILE...",
                    SOURCE + " --yes --dry-run --allow-unsigned", "install or upgrade packages"),
    "remove": Verb(cmd_remove, 1, MANY, "NAME...", "--root --yes --dry-run", "remove packages"),
    "search": Verb(cmd_search, 1, 1, "WORD", SOURCE + " --json", "search names and summaries"),
    "list": Verb(cmd_list, 0, 0, "", "--root --json", "list what is installed"),
    "info": Verb(cmd_info, 1, MANY, "NAME|FILE...", SOURCE + " --json", "describe packages"),
    "files": Verb(cmd_files, 1, MANY, "NAME|FILE...", "--root --json", "list the files of packages"),
    "verify": Verb(cmd_verify, 0, MANY, "[NAME...]", "--root --json", "compare the files with the database"),
    "bootstrap": Verb(cmd_bootstrap, 1, MANY, "ROOT|--tar FILE NAME|FILE...",
                      "--repo --key --arch --tar --no-database --repo-url --allow-unsigned --yes --dry-run",
                      "make a new root"),
    "pack": Verb(cmd_pack, 0, 0, "--meta FILE -o DIR < OUT.tar", "--meta -o",
                 "make packages of a build's output"),
    "index": Verb(cmd_index, 1, 1, "DIR --secret KEY", "--secret --arch --expires --serial-file",
                  "write and sign the index of a folder of packages"),
    "sign": Verb(cmd_sign, 1, 1, "FILE --secret KEY", "--secret --comment", "sign a file"),
    "keygen": Verb(cmd_keygen, 1, 1, "BASENAME", "--encrypt", "make a key pair"),
}
BEGINNER = ("install", "remove", "search", "list", "info")


class Options:
    """The command line, parsed: one attribute an option, and the words that are none."""

    def __init__(self):
        self.words = []
        for option in OPTIONS:
            setattr(self, option.name, [] if option.many else None if option.value else False)

    def need(self, name: str) -> str:
        """The value of the option NAME; Usage when it was not given."""
        value = getattr(self, name)
        if value is None:
            flag = next(option.flag for option in OPTIONS if option.name == name)
            raise Usage(f"{flag} is needed")
        return value


def parse_arguments(arguments: list) -> tuple:
    """(verb or None, Options); options may stand before and after the verb, `--` ends them."""
    options = Options()
    flags = {option.flag: option for option in OPTIONS}
    given = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.words += rest
            break
        if not word.startswith("-") or word == "-":
            options.words.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in flags:
            raise Usage(f"{flag}: no such option{nearest(flag, flags)}")
        given.append(flag)
        set_option(options, flags[flag], value if equals else None, rest)
    verb = options.words.pop(0) if options.words else None
    check_arguments(verb, options, given)
    if options.root is None:
        options.root = "/"
    return verb, options


def set_option(options: Options, option: Option, value: "str | None", rest: list) -> None:
    """Note OPTION with the VALUE after its `=`, else with the next of REST."""
    if not option.value:
        if value is not None:
            raise Usage(f"{option.flag} takes no value")
        setattr(options, option.name, True)
        return
    if value is None:
        if not rest:
            raise Usage(f"{option.flag} needs a value: {option.flag} {option.value}")
        value = rest.pop(0)
    if option.many:
        getattr(options, option.name).append(value)
    else:
        setattr(options, option.name, value)


def check_arguments(verb: "str | None", options: Options, given: list) -> None:
    """Usage unless VERB exists and takes the options that were GIVEN and so many words."""
    if options.help or options.version or verb is None and not given:
        return
    if verb not in VERBS:
        raise Usage(f"{verb}: no such verb{nearest(verb, VERBS)}" if verb else "no verb; try lpkg --help")
    known = VERBS[verb]
    for flag in given:
        if flag not in known.options:
            raise Usage(f"{verb}: {flag} doesn't go with it")
    if not known.least <= len(options.words) <= known.most:
        raise Usage(f"write lpkg {verb} {known.words}")


def help_text(verb: "str | None") -> str:
    """What --help prints, of one VERB or of all; without either, what a beginner needs."""
    verbs = [verb] if verb in VERBS else list(VERBS)
    lines = ["lpkg, the package manager of Panux", ""]
    lines += [f"  lpkg {name + ' ' + VERBS[name].words:34} {VERBS[name].help}" for name in verbs]
    wanted = set(VERBS[verb].options) | {"--help"} if verb in VERBS else None
    lines += ["", "Options, before or after the verb:"]
    lines += [f"  {option.flag + ' ' + option.value:24} {option.help}" for option in OPTIONS
              if wanted is None or option.flag in wanted]
    return "\n".join(lines)


def beginner_text() -> str:
    """What `lpkg` alone prints."""
    lines = [f"  lpkg {name + ' ' + VERBS[name].words:30} {VERBS[name].help}" for name in BEGINNER]
    return "\n".join(["lpkg, the package manager of Panux", "", *lines, "", "More: lpkg --help"])


def run(arguments: list) -> int:
    """Carry out the command line."""
    verb, options = parse_arguments(arguments)
    if options.version:
        print(f"lpkg {VERSION}")
        return 0
    if options.help:
        print(help_text(verb))
        return 0
    if verb is None:
        print(beginner_text())
        return 0
    return VERBS[verb].run(options)


def explain(error: OSError) -> str:
    """An OSError as one line: where, what, and what to do."""
    hints = {errno.ENOSPC: "make room and run it again", errno.EROFS: "the file system is read-only",
             errno.EACCES: "run it as root, or on a --root of your own",
             errno.EPERM: "run it as root, or on a --root of your own",
             errno.EIO: "the disk may be failing"}
    where = f"{error.filename}: " if error.filename is not None else ""
    hint = hints.get(error.errno)
    return f"{where}{error.strerror or error}" + (f"; {hint}" if hint else "")


def main(argv: "list | None" = None) -> int:
    """Run lpkg; every error that a user, a network or a disk can cause is one line on stderr."""
    os.umask(0o022)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f"lpkg: {explain(error)}")
    except MemoryError:
        say("lpkg: not enough memory; nothing is half done")
    return 1


if __name__ == "__main__":
    sys.exit(main())
