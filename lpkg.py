#!/usr/bin/env python3
"""lpkg: the package manager of Panux, one file that needs nothing but Python's standard library.

    lpkg.py install busybox                     # from the signed repositories of /etc/lpkg/repos
    lpkg.py --root R --repo http://host/repo --key panux.pub --yes install busybox
    lpkg.py pack --meta zlib.json -o build/repo/x86_64 < out.tar

In the root it reads etc/lpkg/repos and etc/lpkg/keys/*.pub and keeps, under var/lib/lpkg,
installed/NAME (the record of a package and its files), origins, scripts, world (what was asked
for), alternatives, history, index (what the repositories offer), serials (what was seen of each
index), lock and, while something is being changed, staged, journal and queue; in var/cache/lpkg
packages. On the repository's side it writes *.lpkg, index.json, index.json.minisig and, of a
template, index.html.

What to read first: solve, which chooses packages; load_index, the rules of trust; Root.folder, the
walk that follows no symlink; run_transaction, the steps of a change, and carry_out, a line of its
journal. A device's story comes first; who makes packages and indexes, last.

The invariant: whenever a run was cut, the root is the old system or the new one, and its database
agrees with its files. Nothing that no trusted key has signed is parsed, inflated or left on the
disk, unless it is a local file and --allow-unsigned was said.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: a json.py lying beside it would be run as ours.
    del sys.path[0]

import _json
import binascii
import errno
import fcntl
import gc
import os
import stat
import time
import zlib

if __name__ == "__main__" and sys.getfilesystemencoding() != "utf-8" and sys.executable:
    # Paths are bytes of UTF-8, whatever the caller's locale is: so this is begun again.
    FLAGS = ["-I"] * sys.flags.isolated + ["-S"] * sys.flags.no_site
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *FLAGS, *sys.argv])

VERSION = "0.1"

STATE = "var/lib/lpkg"
INSTALLED = STATE + "/installed"
WORLD = STATE + "/world"
ORIGINS = STATE + "/origins"        # which repository each package came from, and its SHA-256
PREFERENCES = STATE + "/alternatives"   # which package the user wants to have a path, of several
SCRIPTS = STATE + "/scripts"        # PACKAGE.SCRIPT
QUEUE = STATE + "/queue"            # scripts that are still to be run
HISTORY = STATE + "/history"
HOOK = STATE + "/hooks/lpkg-alt"
HOOK_TEXT = b"#!/bin/sh\n# lpkg keeps alternatives itself: there is nothing to update.\n"
SCRIPT_ENVIRONMENT = (("PATH", f"/usr/sbin:/usr/bin:/sbin:/bin:/{STATE}/hooks"), ("HOME", "/"))

INDEXES = STATE + "/index"          # what each repository of REPOS offers, as update has seen it
SERIALS = STATE + "/serials"
LOCK = STATE + "/lock"
FETCHED = STATE + "/.lpkg.fetched"  # packages, while they are installed, where there is no cache
STAGED = STATE + "/staged"          # how to undo what is staged; counts until the journal is there
JOURNAL = STATE + "/journal"        # how to finish what is committed
REMOVING = STATE + "/removing"      # the record of a package, in place of a journal (remove_bare)
CACHE = "var/cache/lpkg"            # packages that were fetched, where this folder is
KEYS = "etc/lpkg/keys"
REPOS = "etc/lpkg/repos"
RECORD = ".lpkg/record"             # in an archive: what is installed/NAME in a root

PIECE = 1 << 18                     # bytes that are read, inflated or hashed at a time
WORTH_A_THREAD = 1 << 20            # bytes of packages from which a second thread is of use
OPEN_FOLDERS = 400                  # that many are kept open while a root is worked on
INDEX_LIMIT = 64 << 20              # bytes of an index.json, and of any file that is read whole
OFFER_LIMIT = 256 << 10             # bytes of a package in it
LINES_LIMIT = 500_000               # names that an index has or provides, each with its package
SIGNATURE_LIMIT = 64 << 10          # bytes of a signature
INFO_LIMIT = 32 << 20               # bytes of a record: some 200,000 files
NETWORK_TIMEOUT = 30                # seconds without a byte
REQUEST_SECONDS = 120               # that a whole request may take, and, of its body,
SLOWEST = 1000                      # a second more for so many bytes
PATH_LIMIT = 3000                   # bytes of a path; the kernel's own limit is 4096, with the root
NAME_LIMIT = 255                    # bytes of one component, the kernel's limit
ID_LIMIT = 0o7777777                # the largest uid or gid, and
SIZE_LIMIT = 0o77777777777          # the largest file, that a plain tar header holds
COUNT_LIMIT = 1 << 53               # below it, integers of JSON are exact in every language
SOLVER_SECONDS = 20                 # that the resolver tries before it gives up
LESSON_LENGTH = 4                   # packages of which it remembers that they can't be together
REMEDIES = 20                       # wants that are left out, one by one, to see what is in the way
HISTORY_LENGTH = 100                # transactions that are remembered
SCRIPT_LIMIT = 1 << 20              # bytes of a package's script
SCRIPT_SECONDS = 600                # that a script may take
SCRIPT_LIMITS = (*((name, -1, -1) for name in ("AS", "CPU", "DATA", "FSIZE", "NPROC", "RSS")),
                 ("CORE", 0, -1), ("NOFILE", 1024, 4096), ("STACK", 8 << 20, -1))   # -1: none
DAY = 86400                         # seconds
CLOCK_IS_SET = 1577836800           # 2020-01-01: a clock before it was never set

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
SETUID = stat.S_ISUID | stat.S_ISGID
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)      # a disk is full, or what this user may have of it

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
    """Redraw the terminal's last line with TEXT; nothing where stderr is not one."""
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


# ---- end of the shared block ---------------------------------------------------------------------


class Later(Fail):
    """The network or a lock is in the way: the same command may work in a while."""
    status = 3


class Mismatch(Fail):
    """Two things that were made together differ: of a mirror, one may be newer than the other."""


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


PARSED = {}                         # text -> Relation: most are the same few, thousands of times


def parse_relation(text: object) -> Relation:
    """`name`, `name>=1.2`, `name~1.2` or one of these after `!`; Fail for anything else."""
    if not isinstance(text, str) or text not in PARSED:
        PARSED[text] = read_relation(text)
    return PARSED[text]


def read_relation(text: object) -> Relation:
    """What parse_relation remembers."""
    if is_name(text):                   # as most are
        return Relation(text, text, "", "", False)
    body = str(text).removeprefix("!")
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

class JsonReader:
    """What reads JSON as json.JSONDecoder does, but refuses what no index or manifest of ours has.

    It is the scanner of `json` without the rest of it: all that asks reads JSON, and `import json`
    takes 6 ms where a start takes 8. Where a text is no JSON, that is loaded for its error."""
    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float

    def __init__(self):
        self.scan = _json.make_scanner(self)

    @staticmethod
    def parse_int(digits: str) -> int:
        """The integer that is spelled so."""
        if len(digits) > 20:            # int() of a million digits takes minutes
            raise ValueError("a number is too long")
        return int(digits)

    @staticmethod
    def parse_constant(name: str) -> None:
        """None of NaN and the infinities."""
        raise ValueError(f"{name} is no number")

    def read(self, text: str) -> object:
        """The value that TEXT is; ValueError where it is none, or more than that."""
        try:
            value, end = self.scan(text, 0)
        except StopIteration as error:
            raise ValueError(f"a value should stand at character {error.value}") from None
        except SystemError:             # the scanner looks for its error in json.decoder
            import json
            value, end = json.JSONDecoder().raw_decode(text)
        if end != len(text):
            raise ValueError("something follows the value")
        return value


JSON = JsonReader()


def json_text(value: object) -> str:
    """VALUE as JSON on one line."""
    import json
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_json(data: bytes, what: str) -> dict:
    """The JSON object in DATA; Fail for anything else, however deep, long or strange."""
    try:
        value = JSON.read(data.decode().strip(" \t\n\r"))
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
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:          # half of a surrogate pair
        return False
    return True


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
    if not is_text(path) or has_control(path):
        return False
    size = len(path.encode())
    parts = path.split("/")
    if size > limit or not NO_NAMES.isdisjoint(parts):
        return False
    if size > NAME_LIMIT and any(len(part.encode()) > NAME_LIMIT for part in parts):
        return False
    return parts[0] != ".lpkg" and not path.startswith(STATE + "/")


NO_NAMES = frozenset(("", ".", ".."))


def is_record(fields: dict) -> object:
    """A test for an object that has FIELDS; like that for relations, it fails in words."""
    return lambda value: check_fields(value, fields, "one of them") is None


def is_owner(value: object) -> bool:
    """Whether VALUE is UID:GID."""
    return isinstance(value, str) and list(map(str.isdecimal, value.split(":"))) == [True, True]


is_count = is_int(COUNT_LIMIT - 1)
is_names = is_list(is_name)
is_paths = is_list(is_path)
is_relations = is_list(parse_relation)      # which is more than true or false: it fails in words
is_sha256 = is_digits(HEX, 64)


def is_provided(text: object) -> bool:
    """Whether TEXT is what a package may provide: NAME or NAME=VERSION; else Fail, in words."""
    relation = parse_relation(text)
    if relation.negative or relation.operator not in ("", "="):
        raise Fail(f"{text}: write NAME or NAME=VERSION")
    return True


SCRIPT_NAMES = ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-remove",
                "post-remove", "oninstall")
SCRIPT_FIELDS = {
    "name": lambda value: isinstance(value, str) and value in SCRIPT_NAMES,
    "size": is_int(SCRIPT_LIMIT), "sha256": is_sha256,
}
ALTERNATIVE_FIELDS = {"path": is_path, "target": is_target, "priority": is_count}
SAID_FIELDS = {                     # of a package in its record, and in an index
    "summary": is_text, "license": is_text, "url": is_text, "recipe": is_text,
    "depends": is_relations, "provides": is_list(is_provided), "conflicts": is_relations,
    "replaces": is_relations, "services": is_names,
    "alternatives": is_list(is_record(ALTERNATIVE_FIELDS)),
}
INFO_FIELDS = {
    "name": is_name, "version": is_version, "arch": is_name, **SAID_FIELDS, "conffiles": is_paths,
    "size": is_count, "scripts": is_list(is_record(SCRIPT_FIELDS)),
}
OFFER_FIELDS = {
    "name": is_name, "version": is_version, "file": is_text, "size": is_count, "sha256": is_sha256,
    "installed_size": is_count, **SAID_FIELDS, "setuid": is_paths, "owners": is_list(is_owner),
    "scripts": is_list(lambda value: value in SCRIPT_NAMES),
}
INDEX_FIELDS = {
    "serial": is_count, "created": is_count, "arch": is_name,
    "expires": lambda value: value is None or is_count(value),
    "packages": lambda value: value == [],      # which are read one by one
}
EVERY_ENTRY = (("path", is_path), ("mode", is_digits("01234567", 4)),
               ("uid", is_int(ID_LIMIT)), ("gid", is_int(ID_LIMIT)))
ENTRY_TESTS = {                     # by its type
    "dir": EVERY_ENTRY,
    "file": (*EVERY_ENTRY, ("size", is_int(SIZE_LIMIT)), ("sha256", is_sha256)),
    "link": (*EVERY_ENTRY, ("target", is_target)),
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


def check_info(info: dict, files: list, what: str) -> None:
    """Fail unless INFO and FILES are a package's that can be taken at their word: each path is
    there once, in order, after the folder that it lies in; conffiles are files of the package."""
    check_fields(info, INFO_FIELDS, what)
    kinds = {"": "dir"}
    last = ""
    for entry in files:
        path, kind = entry["path"], entry["type"]
        for key, test in ENTRY_TESTS[kind]:
            if not test(entry[key]):
                raise Fail(f"{what}: {path[:60]}: {key} is not valid: {str(entry[key])[:60]!r}")
        if path != KEYS:
            check_is_free(path, what)
        if path <= last:
            raise Fail(f"{what}: {path} is there twice, or out of order")
        if kinds.get(path.rpartition("/")[0]) != "dir" or path == STATE and kind != "dir":
            raise Fail(f"{what}: {path} is in no folder of the package")
        kinds[path] = kind
        last = path
    for path in info["conffiles"]:
        if kinds.get(path) != "file":
            raise Fail(f"{what}: conffile {path} is no file of the package")
    for one in info["alternatives"]:
        path = one["path"]
        check_is_free(path, what)
        if path in kinds or kinds.get(path.rpartition("/")[0]) != "dir":
            raise Fail(f"{what}: alternative {path} is a file of the package, or in none of its "
                       "folders")


def check_is_free(path: str, what: str) -> None:
    """Fail for the PATH of a file that only lpkg, or its user, makes: what is trusted, and from
    where, is no package's business."""
    if path.startswith("etc/lpkg/") or path.endswith(".lpkg-new"):
        raise Fail(f"{what}: {path} is lpkg's own; a package can't bring it")


def setuid_paths(files: list) -> list:
    """The paths among FILES that run with their owner's or their group's rights."""
    return [entry["path"] for entry in files
            if entry["type"] == "file" and int(entry["mode"], 8) & SETUID]


class Package:
    """A package: installed, offered by a repository, or in a local file. What is said of it, and
    its files, are read when they are asked for."""
    __slots__ = ("name", "version", "told", "listing", "origin", "size", "sha256", "repository",
                 "open", "parsed", "key")

    def __init__(self, info: dict, origin: object, size: int = 0, sha256: str = "",
                 told: "tuple | None" = None, listing: bytes = b""):
        self.name = info["name"]
        self.version = info["version"]
        self.told = told or info        # its info or, yet to be read, the line of that and whose
        self.listing = listing          # its files' lines or, once they are read, entries
        self.origin = origin            # a Repository, the path of a local file, None: installed
        self.size = size                # bytes of the .lpkg
        self.sha256 = sha256            # of the .lpkg; "" where that isn't known
        self.repository = None          # the name of the one that it was installed from
        self.open = None                # opens the file of its bytes, once it is fetched
        self.parsed = {}
        self.key = None

    @property
    def info(self) -> dict:
        """What is said of it: in an index (OFFER_FIELDS) or, once that is read, its record
        (INFO_FIELDS)."""
        if isinstance(self.told, tuple):
            self.told = read_package_line(*self.told)
        return self.told

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def offer(self) -> dict:
        """What an index says of it, and perhaps more: of a record, its files are summed up."""
        if "setuid" in self.info:
            return self.info
        files = self.files()
        owners = {(entry["uid"], entry["gid"]) for entry in files} - {(0, 0)}
        return dict(self.info, setuid=setuid_paths(files),
                    owners=[f"{uid}:{gid}" for uid, gid in sorted(owners)],
                    scripts=[script["name"] for script in self.info["scripts"]],
                    installed_size=self.info["size"])

    def version_key(self) -> tuple:
        """The key of its version, which is made once."""
        self.key = self.key or version_key(self.version)
        return self.key

    def relations(self, key: str) -> list:
        """The relations under KEY: depends, replaces, or conflicts, among which are `!x` of depends
        and what is replaced, for the two are never there together."""
        if not self.parsed:
            wants = [parse_relation(text) for text in self.info["depends"]]
            foes = [parse_relation(text) for text in self.info["conflicts"]]
            replaces = [parse_relation(text) for text in self.info["replaces"]]
            self.parsed["depends"] = [one for one in wants if not one.negative]
            self.parsed["replaces"] = replaces
            self.parsed["conflicts"] = foes + replaces + [one for one in wants if one.negative]
        return self.parsed[key]

    def files(self) -> list:
        """The manifest's entries: of an installed package they are read when they are asked for."""
        if isinstance(self.listing, bytes):
            self.listing = read_entries(self.listing, self.place())
        return self.listing

    def entries(self, paths: set) -> list:
        """The manifest's entries of PATHS, in bytes, or more: of an installed package no others are
        read, for there may be thousands."""
        if isinstance(self.listing, bytes):
            lines = [line for line in self.listing.split(b"\n")
                     if line.partition(b"\t")[0] in paths]
            return read_entries(b"".join(line + b"\n" for line in lines), self.place())
        return self.listing

    def place(self) -> str:
        """What has its list of files: a package, or the record of an installed one."""
        return str(self) if self.origin else f"{INSTALLED}/{self.name}"

    def installed_size(self) -> int:
        """Bytes of its files."""
        return self.info.get("installed_size", self.info.get("size", 0))

    def names(self) -> list:
        """(name, version) of all it can be asked for by: its own, and what it provides."""
        provided = [text.partition("=")[::2] for text in self.info["provides"]]
        return [(self.name, self.version), *provided]

    def source(self) -> "str | None":
        """The name of the repository that offers it, or that it was installed from."""
        return self.origin.name if isinstance(self.origin, Repository) else self.repository

    def replaces(self, other: "Package") -> bool:
        """Whether this package takes the place of OTHER, whose own name it must say."""
        return self.name != other.name and any(
            relation.name == other.name and other.satisfies(relation)
            for relation in self.relations("replaces"))

    def satisfies(self, relation: Relation) -> bool:
        """Whether this package, by its name or by what it provides, is what RELATION speaks of."""
        if self.name == relation.name and not relation.operator:
            return True
        operator, wanted = relation.operator, relation.version
        return any(name == relation.name and (not operator or version
                                              and version_fits(version, operator, wanted))
                   for name, version in self.names())


# ---- records as text ---------------------------------------------------------------------------
#
# What lpkg keeps for itself is lines whose columns tabs separate: a person can read them, `cut` and
# `grep` take them apart. A package is a line: NAME, VERSION, SUMMARY and, in JSON, all else that is
# said of it, but for empty texts and lists. The cached index of a repository is such lines, sorted;
# the record of a package is one, and then a line for each file: PATH, type, mode, uid, gid and, of
# a file, size and SHA-256 or, of a symlink, its target. No path has a tab or a newline. `pack`
# writes it, as the first member of the archive; a root has it as it is, in installed/NAME.

def package_line(info: dict) -> bytes:
    """The line of a package of which INFO is said."""
    name, version, summary = info["name"], info["version"], printable(info["summary"])
    shown = {"name": name, "version": version, "summary": summary}
    said = {key: value for key, value in sorted(info.items())
            if value not in ("", []) and (key not in shown or value != shown[key])}
    return f"{name}\t{version}\t{summary}\t{json_text(said)}\n".encode()


def read_package_line(line: bytes, fields: dict, what: str) -> dict:
    """What package_line made LINE of, if it has FIELDS; Fail, naming WHAT, for other lines."""
    try:
        name, version, summary, text = line.split(b"\t", 3)
        shown = {"name": name.decode(), "version": version.decode(), "summary": summary.decode()}
        empty = EMPTY_INFO if fields is INFO_FIELDS else EMPTY_OFFER
        info = {**empty, **shown, **parse_json(text, what)}
        for key, value in empty.items():    # it was looked at before: this is against damage
            if type(info[key]) is not type(value):
                raise ValueError(f"{key} is not valid")
        tables = {key: fields[key] for key in ("alternatives", "scripts") if info[key]}
        check_fields(info, tables, what)
    except (ValueError, Fail) as error:
        raise Fail(f"{what}: damaged: {error}; restore it or remove it") from None
    return info


def entry_line(entry: dict) -> str:
    """A file of a package as a line."""
    path, kind = entry["path"], entry["type"]
    line = f"{path}\t{kind}\t{entry['mode']}\t{entry['uid']}\t{entry['gid']}"
    if kind == "file":
        return f"{line}\t{entry['size']}\t{entry['sha256']}"
    return line if kind == "dir" else f"{line}\t{entry['target']}"


FOLDERS = {}                        # line -> entry: many packages have the same few directories


def read_entry(line: str) -> dict:
    """The file that a line of the database describes."""
    if line in FOLDERS:
        return FOLDERS[line]
    path, kind, mode, uid, gid, *rest = line.split("\t")
    kind, mode = sys.intern(kind), sys.intern(mode)     # each is kept once
    number = JsonReader.parse_int
    entry = {"path": path, "type": kind, "mode": mode, "uid": number(uid), "gid": number(gid)}
    if kind == "file":
        entry["size"] = number(rest[0])
        entry["sha256"] = rest[1]
    elif kind == "link":
        entry["target"] = rest[0]
    elif kind == "dir":
        FOLDERS[line] = entry
    else:
        raise ValueError(f"{kind} is not a type of file")
    return entry


def read_entries(data: bytes, what: str) -> list:
    """The files that the lines DATA describe; Fail, naming WHAT they are of, for other lines."""
    try:
        return [read_entry(line) for line in data.decode().split("\n")[:-1]]
    except (ValueError, IndexError):
        raise Fail(f"{what}: its list of files is damaged; restore it or remove it") from None


def empty_values(fields: dict) -> dict:
    """The text, list or number of each of FIELDS, empty."""
    return {key: [] if test([]) else 0 if test(0) else "" for key, test in fields.items()}


EMPTY_INFO, EMPTY_OFFER = empty_values(INFO_FIELDS), empty_values(OFFER_FIELDS)


def record_text(info: dict, files: list) -> bytes:
    """The record of a package with this INFO and these FILES."""
    return package_line(info) + "".join(f"{entry_line(entry)}\n" for entry in files).encode()


def read_record(data: bytes, what: str) -> Package:
    """The package that has the record DATA, whose whole is read when it is asked for."""
    line, newline, listing = data.partition(b"\n")
    words = line.decode(errors="replace").split("\t", 3)
    if not newline or len(words) != 4 or not is_name(words[0]) or not is_version(words[1]):
        raise Fail(f"{what}: damaged; restore it or remove it")
    head = {"name": words[0], "version": words[1]}
    return Package(head, None, told=(line, INFO_FIELDS, what), listing=listing)


def check_record(package: Package, data: bytes, what: str) -> None:
    """Fail unless PACKAGE can be taken at its word, and DATA is how its record is spelled."""
    check_info(package.info, package.files(), what)
    try:
        is_spelled_so = record_text(package.info, package.files()) == data
    except (ValueError, RecursionError):
        is_spelled_so = False
    if not is_spelled_so:
        raise Fail(f"{what}: {RECORD} is not as lpkg writes it; pack it anew")


# ---- the index, as lines -----------------------------------------------------------------------
#
# What a repository offers: packages, sorted by name and, of one name, the newest first; and lines
# of NAME, `<` and the names of those that provide NAME, or of NAME, `^` and those that replace it.
# A name is found by bisection in the bytes: of ten thousand lines some fourteen are looked at. The
# first line says where the index came from.

PROVIDED, REPLACED = "<", "^"


class Index:
    """What a repository offers, as lines; a package is made of its line when it is asked for, and
    is the same one each time."""

    def __init__(self, data: bytes, repository: "Repository"):
        self.data = data
        self.repository = repository
        self.found = {}                 # name -> (packages, those that provide it, that replace it)

    def find(self, name: str) -> tuple:
        """(packages called NAME, names of those that provide it, names of those that replace it)"""
        if name not in self.found:
            packages, others = [], {PROVIDED: [], REPLACED: []}
            for line in self.lines(name):
                _, second, third, *rest = line.split(b"\t", 3)
                if rest:
                    packages.append(self.package(line))
                else:
                    others[second.decode()] = third.decode().split(" ")
            self.found[name] = (packages, others[PROVIDED], others[REPLACED])
        return self.found[name]

    def lines(self, name: str) -> object:
        """The lines that begin with NAME."""
        wanted = name.encode() + b"\t"
        low, high = 0, len(self.data)
        while low < high:
            start = self.data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            if self.data[start:start + len(wanted)] < wanted:
                low = self.data.index(b"\n", start) + 1
            else:
                high = start
        while self.data.startswith(wanted, low):
            end = self.data.index(b"\n", low)
            yield self.data[low:end]
            low = end + 1

    def package(self, line: bytes) -> Package:
        """The package of a LINE."""
        info = read_package_line(line, OFFER_FIELDS, "the index that update fetched")
        return Package(info, self.repository, info["size"], info["sha256"])

    def search(self, word: str) -> object:
        """The line of the newest package of each name that has WORD in its name or summary, in
        small letters or large ones, or that provides it."""
        wanted = word.lower()
        seen = set()
        for line in self.data.split(b"\n")[:-1]:
            head, is_package, _ = line.partition(b"\t{")
            text = head.decode()
            if wanted not in text.lower():
                continue
            name, second, third = text.split("\t")
            if not is_package:
                if second == PROVIDED and name.lower() == wanted:
                    yield from (next(self.lines(other)) for other in third.split(" "))
            elif name not in seen:
                seen.add(name)
                if wanted in name.lower() or wanted in third.lower():
                    yield line

    def answering(self, name: str) -> list:
        """The packages that NAME asks for: those called so, then those that provide it."""
        packages, providers, _ = self.find(name)
        return packages + [package for provider in providers for package in self.find(provider)[0]
                           if any(name == one for one, _ in package.names()[1:])]

    def names(self) -> set:
        """All names that can be asked for."""
        heads = (line.split(b"\t", 2) for line in self.data.split(b"\n")[:-1])
        return {name.decode() for name, second, _ in heads if second != REPLACED.encode()}


def index_lines(offers: object) -> bytes:
    """The lines of an Index of OFFERS (dicts with OFFER_FIELDS). Of ten thousand there is no more
    in memory than the lines, twice: a device has little."""
    lines = []
    for offer in offers:
        name = offer["name"]
        lines.append(package_line({key: offer[key] for key in OFFER_FIELDS}))
        for kind, key in ((PROVIDED, "provides"), (REPLACED, "replaces")):
            lines += [f"{parse_relation(text).name}\t{kind}\t{name}\n".encode()
                      for text in offer[key]]
        if len(lines) > LINES_LIMIT:
            raise Fail(f"more than {LINES_LIMIT} names are offered; the repository is too large")
    lines.sort(key=line_name)
    first = 0
    for number in range(1, len(lines) + 1):
        if number == len(lines) or line_name(lines[number]) != line_name(lines[first]):
            if number - first > 1:
                merged = merge_lines(lines[first:number])
                lines[first:number] = merged + [b""] * (number - first - len(merged))
            first = number
    return b"".join(lines)


def line_name(line: bytes) -> bytes:
    """The name that a line of an Index begins with."""
    return line[:line.index(b"\t")]


def merge_lines(lines: list) -> list:
    """The LINES of one name: its packages, the newest first, then who provides it, who replaces
    it, each in one line."""
    packages = []
    others = {PROVIDED: set(), REPLACED: set()}
    for line in lines:
        name, second, third, *rest = line.decode().split("\t", 3)
        if rest:
            packages.append((version_key(second), line))
        else:
            others[second].add(third[:-1])
    packages.sort(key=lambda pair: pair[0], reverse=True)
    return [line for _, line in packages] + [
        f"{name}\t{kind}\t{' '.join(sorted(names))}\n".encode()
        for kind, names in others.items() if names]


# ---- the resolver ------------------------------------------------------------------------------
#
# An agenda of wants is worked off from the left: what was asked for, then that each installed
# package stays in some version, or what replaces it; what a chosen package depends on is appended
# as it is chosen. A want that something chosen satisfies already costs nothing. For any other its
# candidates are tried, best first; one is possible when no package of its name is chosen and none
# that it quarrels with. When there is none, an earlier decision was wrong: the one that brought the
# want, or one of those that the candidates quarrel with. The latest of these is taken back with all
# that came after it, and its next candidate is tried; when it has none left, what is to blame for
# that is also what was to blame for its candidates (conflict-directed backjumping, Prosser 1993).
# Packages are only ever added, and quarrels are looked for both ways at each addition, so a
# decision makes no earlier answer untrue, and the end of the agenda is a solution; and as every
# candidate that could help gets its turn, one is found if there is any (or the time runs out, which
# is said). The few packages to blame for a dead end can't be together anywhere, and aren't tried
# again; among them is the one that needs what nothing satisfies, beside none. What came along with
# others, and isn't needed by what is chosen, stays if it can: of its want, the last candidate is
# none. The first dead end, where everything was still the newest, is the one that the user is told.


class Want(Record):
    """A relation that WHO wants satisfied: by FIXED alone, or by a package of the repository
    SOURCE, unless these are None; ASKED for by the user, who means the newest, where others are
    content with what is there; STAYING, what is installed and stays, in some version or, if it is
    held, in one that the relation names, unless a package of its HOMES replaces it or, where it is
    SOFT, something is in its way; PARENT, the want that brought the NEEDER, a chosen package."""
    __slots__ = ("relation", "who", "fixed", "source", "asked", "staying", "homes", "soft",
                 "parent", "needer")

    def __init__(self, relation: str, who: str, fixed: "Package | None" = None,
                 source: "str | None" = None, asked: bool = False,
                 staying: "Package | None" = None, homes: list = (), soft: bool = False,
                 parent: "Want | None" = None, needer: "Package | None" = None):
        super().__init__(parse_relation(relation), who, fixed, source, asked, staying, homes, soft,
                         parent, needer)

    def is_held(self) -> bool:
        """Whether it is that a package stays, in some versions only."""
        return bool(self.staying and self.relation.operator)

    def is_frozen(self) -> bool:
        """Whether it is that a package stays in the very version that it has: a rebuild of that is
        not wanted either."""
        kept = self.staying
        return self.is_held() and self.relation.text == f"{kept.name}={kept.version}"

    def met_by(self, package: Package) -> bool:
        """Whether PACKAGE, once chosen, is what is wanted."""
        if self.fixed:
            return package is self.fixed
        if self.source and package.source() != self.source:
            return False
        if self.staying is None or self.staying.name == package.name:
            return package.satisfies(self.relation)
        return not self.is_held() and package.replaces(self.staying) and (
            not isinstance(package.origin, Repository) or package.origin in self.homes)


class Universe:
    """Every package that may be chosen: what is installed, what the repositories offer, local
    files.

    The first repository that has a name, or provides it, answers for it: another one can't replace
    a package by offering a higher version. An installed package stays with its repository."""

    def __init__(self, installed: dict, repositories: list, local: list):
        self.installed = installed
        self.repositories = repositories
        self.near = by_answer([*local, *installed.values()])
        self.found = {}                 # name -> packages that answer to it
        self.owners = {}                # name -> the repository that answers for it

    def home(self, name: str) -> list:
        """The repositories that may answer for NAME, the first first."""
        package = self.installed.get(name)
        wanted = package.repository if package else None
        return ([one for one in self.repositories if wanted in (one.name, one.url)]
                or self.repositories)

    def owns(self, package: Package) -> bool:
        """Whether PACKAGE is of the repository that answers for its name: what another one has
        under that name can't come as a provider or an heir either."""
        name = package.name
        if name not in self.owners:
            self.owners[name] = next(
                (one for one in self.home(name) if one.index.answering(name)), None)
        return package.origin is self.owners[name]

    def named(self, name: str) -> list:
        """The packages that have the NAME or provide it, the newest first."""
        if name not in self.found:
            offers = ([package for package in one.index.answering(name)
                       if package.name == name or self.owns(package)] for one in self.home(name))
            packages = [package for package in next(filter(None, offers), [])
                        if not self.is_installed(package)]
            packages = packages + self.near.get(name, [])
            self.found[name] = sorted(packages, key=Package.version_key, reverse=True)
        return self.found[name]

    def is_installed(self, package: Package) -> bool:
        """Whether what is installed is this PACKAGE, to the byte: not only the same version,
        rebuilt."""
        there = self.installed.get(package.name)
        return (there is not None and there.version == package.version
                and there.sha256 in ("", package.sha256))

    def at_hand(self, package: Package) -> Package:
        """What is installed, if it is this PACKAGE and came from its repository; else PACKAGE."""
        there = self.installed.get(package.name)
        same = self.is_installed(package) and there.source() == package.source()
        return there if same else package

    def replacing(self, package: Package) -> list:
        """The packages that replace the installed PACKAGE, which its own repository offers, but
        for what it replaces itself, else the two would take turns."""
        for repository in self.home(package.name):
            _, _, names = repository.index.find(package.name)
            found = [other for name in names for other in repository.index.find(name)[0]
                     if other.replaces(package) and not package.replaces(other)
                     and self.owns(other)]
            if found:
                return found
        return []

    def candidates(self, want: Want) -> list:
        """The packages that satisfy WANT, best first: real names before provided ones, those of
        what is installed before others, then, unless the user asks, what is installed, then the
        newest; before all, where the user asks for what is installed, what replaces it."""
        if want.fixed:
            return [want.fixed]
        name = want.relation.name
        if want.source:
            found = [self.at_hand(package) for one in self.repositories if one.name == want.source
                     for package in one.index.answering(name)]
        else:
            found = self.named(name)
        found = sorted((package for package in found if want.met_by(package)), key=lambda package: (
            package.name != name, package.name not in self.installed,
            want.asked and not want.is_frozen() or self.installed.get(package.name) is not package))
        heirs = self.replacing(want.staying) if want.staying and not want.is_held() else []
        return heirs + found if want.asked else found + heirs

    def names(self) -> set:
        """Every name that can be asked for."""
        return set(self.near).union(*(one.index.names() for one in self.repositories))


class System:
    """The packages that are chosen, NAME -> Package, and what each of them answers to and won't
    have beside it."""

    def __init__(self):
        self.chosen = {}
        self.numbers = {}               # name -> number of the decision that brought the package
        self.answers = {}               # name -> chosen packages that have or provide it
        self.foes = {}                  # name -> chosen packages that conflict with some of it
        self.lessons = {}               # package -> lists of packages beside which it can't be

    def add(self, package: Package, number: int) -> None:
        """Choose PACKAGE, by the decision NUMBER."""
        self.chosen[package.name] = package
        self.numbers[package.name] = number
        for name in {name for name, _ in package.names()}:
            self.answers.setdefault(name, []).append(package)
        for relation in package.relations("conflicts"):
            self.foes.setdefault(relation.name, []).append(package)

    def drop(self, name: str) -> None:
        """Take the latest decision, called NAME, back."""
        package = self.chosen.pop(name)
        for name in {name for name, _ in package.names()}:
            self.answers[name].pop()
        for relation in package.relations("conflicts"):
            self.foes[relation.name].pop()

    def meets(self, want: Want) -> bool:
        """Whether what is chosen satisfies WANT."""
        return any(map(want.met_by, self.answers.get(want.relation.name, ()))) or (
            want.staying is not None
            and any(map(want.met_by, self.foes.get(want.staying.name, ()))))

    def quarrel(self, package: Package) -> tuple:
        """Why PACKAGE can't be beside what is chosen, in words, and the numbers of the decisions
        that are to blame; nothing when it can."""
        if package.name in self.chosen:
            other = self.chosen[package.name]
            return (f"{other} is wanted, and there can be only one {other.name}",
                    {self.numbers[other.name]})
        for relation in package.relations("conflicts"):
            for other in self.answers.get(relation.name, ()):
                if other.satisfies(relation):
                    return f"{package} conflicts with {other}", {self.numbers[other.name]}
        for name, _ in package.names():
            for foe in self.foes.get(name, ()):
                if any(map(package.satisfies, foe.relations("conflicts"))):
                    return f"{foe} conflicts with {package}", {self.numbers[foe.name]}
        for others in self.lessons.get(package, ()):
            if all(self.chosen.get(other.name) is other for other in others):
                beside = f" beside {' and '.join(map(str, others))}" if others else ""
                return (f"what it needs can't be had{beside}",
                        {self.numbers[other.name] for other in others})
        return ()

    def learn(self, packages: list) -> None:
        """Remember that PACKAGES, which are chosen, the latest last, can't all be."""
        if 0 < len(packages) <= LESSON_LENGTH:
            self.lessons.setdefault(packages[-1], []).append(packages[:-1])


def dead_end(want: Want, universe: Universe, system: System) -> str:
    """In words, why WANT can't be satisfied: who wants it, up to the user, and what is in the
    way."""
    name = want.relation.name
    reasons = [f"{package} won't do" + "".join(f": {why}" for why in system.quarrel(package)[:1])
               for package in universe.candidates(want)[:3]]
    if not reasons and universe.named(name):
        reasons = ["there is only " + ", ".join(map(str, universe.named(name)[:3]))]
        reasons += [f"{one.name} has {package}, which `lpkg install {name}@{one.name}` allows"
                    for one in universe.repositories for package in one.index.find(name)[0]
                    if want.met_by(package) and not universe.owns(package)][:1]
    if not reasons:
        reasons = ["no repository has it" + hint(name, universe) if universe.repositories
                   else NO_REPOSITORY]
    chain = [f"{want.who} {want.relation.text}"]
    while want.parent and len(chain) < 6:
        want = want.parent
        chain.insert(0, f"{want.who} {want.relation.text}")
    return f"{', '.join(chain)}, but {'; '.join(reasons)}"


def hint(name: str, universe: Universe) -> str:
    """What a NAME that is nowhere may have meant: a command that packages bring, what has taken its
    place, or one alike."""
    bring = universe.named(f"cmd:{name}")
    if bring:
        return f"; the command {name} is in {', '.join(package.name for package in bring[:3])}"
    heirs = [heir for one in universe.repositories for heir in one.index.find(name)[2]]
    if heirs:
        return f"; {heirs[0]} replaces it"
    return nearest(name, (one for one in universe.names() if ":" not in one))


def nearest(word: str, words: object) -> str:
    """`; did you mean X?` for the nearest of WORDS, or nothing."""
    import difflib
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


class Decision(Record):
    """The POSITION of the want that it is about, the agenda's LENGTH before it, the NAME of what is
    chosen now ("" for none), the OTHERS that are left to try, the best last, the numbers of the
    earlier decisions that are to BLAME for there not being more, and FIRST, what is installed,
    where nothing else was looked for yet."""
    __slots__ = ("position", "length", "name", "others", "blame", "first")

    def look_around(self, want: Want, universe: Universe, system: System) -> None:
        """Find all candidates for WANT, but FIRST."""
        quarrels = [(one, system.quarrel(one)) for one in universe.candidates(want)
                    if one is not self.first]
        possible = [one for one, quarrel in quarrels if not quarrel]
        self.others = [None] * want.soft + possible[::-1]
        self.blame = self.blame.union(*(quarrel[1] for _, quarrel in quarrels if quarrel))
        self.first = None


def solve(universe: Universe, wants: list, seconds: float = SOLVER_SECONDS) -> dict:
    """NAME -> Package of a system that satisfies WANTS, each in its turn by its best candidate with
    which the rest can be had; Fail, in words, when there is none."""
    agenda = list(wants)
    system = System()
    decisions = []
    position = 0
    complaint = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if position == len(agenda):
            return system.chosen
        want = agenda[position]
        if system.meets(want):
            position += 1
            continue
        blame = {system.numbers[want.needer.name]} if want.needer else set()
        first = want.staying            # which nearly always stays: the index isn't read for it
        if first and (want.asked or not want.met_by(first) or system.quarrel(first)):
            first = None
        decision = Decision(position, len(agenda), "", [first], blame, first)
        decisions.append(decision)
        if not first:
            decision.look_around(want, universe, system)
        if not decision.others and not complaint:
            complaint = dead_end(want, universe, system)
        position = advance(decisions, agenda, universe, system)
        if position < 0:
            raise Fail(complaint)
    raise Fail(f"too tangled: no answer within {seconds:.0f} s; ask for less, or mend this: "
               f"{complaint}")


def advance(decisions: list, agenda: list, universe: Universe, system: System) -> int:
    """Try the next candidate of the latest decision that has one left and is to blame for what came
    after it: the agenda's position after it, or -1 when no decision has any."""
    while decisions:
        decision = decisions[-1]
        take_back(decision, system)
        del agenda[decision.length:]
        if decision.first and not decision.others:
            decision.look_around(agenda[decision.position], universe, system)
        if decision.others:
            package = decision.others.pop()
            if package is not None:
                decision.name = package.name
                system.add(package, len(decisions) - 1)
                parent = agenda[decision.position]
                agenda.extend(Want(relation.text, f"{package} needs", parent=parent, needer=package)
                              for relation in package.relations("depends"))
            return decision.position + 1
        decisions.pop()
        system.learn([system.chosen[decisions[number].name] for number in sorted(decision.blame)])
        back = max(decision.blame, default=-1)
        while len(decisions) > back + 1:
            take_back(decisions.pop(), system)
        if decisions:
            decisions[-1].blame |= decision.blame - {back}
    return -1


def take_back(decision: Decision, system: System) -> None:
    """Take what DECISION has chosen back."""
    if decision.name:
        system.drop(decision.name)
    decision.name = ""


def stays(universe: Universe, package: Package, world: dict, asked: bool = False) -> Want:
    """The want that an installed PACKAGE stays, as the WORLD has it; see Want. What came along with
    others may go if nothing needs it and something is in its way."""
    relation = world.get(package.name, package.name)
    who = ("you hold" if relation != package.name else "you want" if asked
           else "you have asked for" if package.name in world else "what is installed needs")
    return Want(relation, who, asked=asked, staying=package, homes=universe.home(package.name),
                soft=package.name not in world)


def remedy(universe: Universe, wants: list) -> str:
    """What would make a set of WANTS that can't be had possible: one of them to be given up, with
    what needs that."""
    asked = [one for one in wants if not one.staying]
    hard = [one for one in wants if not one.soft]
    for one in hard[-1:-REMEDIES - 1:-1] + hard[:REMEDIES]:
        if asked == [one]:
            continue                    # to give that up is no advice
        held, staying = one.is_held(), one.staying
        going = (dependents(universe.installed, [staying.name]) if staying and not held
                 else set())
        if any(other.relation.name in going for other in asked):
            continue                    # as little
        left = [other for other in wants if other is not one
                and not (other.staying and other.staying.name in going)]
        if held:
            left.append(stays(universe, staying, {staying.name: staying.name}))
        try:
            solve(universe, left, SOLVER_SECONDS / 2 / REMEDIES)
        except Fail:
            continue
        if held:
            return f"; it would work after `lpkg unhold {staying.name}`"
        if staying:
            names = " ".join(sorted(going))
            return f"; it would work after `lpkg remove {names}`"
        return f"; it would work without {one.relation.text}"
    return ""


def dependents(installed: dict, names: list) -> set:
    """NAMES and the names of what, of the INSTALLED, could not stay without these."""
    going = set(names)
    while True:
        stay = [other for name, other in installed.items() if name not in going]
        more = {other.name for other, _ in unmet(stay)}
        if not more:
            return going
        going |= more


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
    import hashlib
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

    def text(self) -> str:
        """All of it, as its file has it."""
        return encode_base64(b"Ed" + self.id + self.raw)

    def file(self) -> bytes:
        """Its file."""
        comment = f"untrusted comment: minisign public key {key_name(self.id)}"
        return lines_text([comment, self.text()])


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
    """What follows the PREFIXES of the lines of DATA, one for each; ValueError for other lines. As
    with minisign, they may end as on Windows, and blank ones don't count."""
    lines = [line for line in data.decode().replace("\r\n", "\n").split("\n") if line.strip()]
    if len(lines) != len(prefixes):
        raise ValueError(f"it should have {counted(len(prefixes), 'line')}")
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
        raise Fail(f"{what}: not a minisign public key: {error}; get NAME.pub from who signs the "
                   "repository") from None
    return PublicKey(raw[2:10], raw[10:])


def check_signature(data: bytes, signature: bytes, trusted: list, what: str,
                    way: str = "--key FILE") -> tuple:
    """(key, trusted comment) of a minisign SIGNATURE of DATA by one of the TRUSTED, or Fail, which
    says the WAY to trust another key."""
    import hashlib
    try:
        lines = split_lines(signature, ["untrusted comment: ", "", "trusted comment: ", ""])
        raw = decode_base64(lines[1], 74)
        total = decode_base64(lines[3], 64)
    except ValueError as error:
        raise Mismatch(f"{what}: no minisign signature ({error}); perhaps a page to log in came in "
                       "its place") from None
    algorithm, key_id, comment = raw[:2], raw[2:10], lines[2]
    if algorithm not in (b"Ed", b"ED"):
        raise Fail(f"{what}: signature of an unknown kind")
    keys = [key for key in trusted if key.id == key_id]
    if not keys:
        raise Fail(f"{what}: signed by key {key_name(key_id)} (if that was announced as the new "
                   f"one: {way}), which is not trusted here")
    message = hashlib.blake2b(data).digest() if algorithm == b"ED" else data
    for key in keys:
        if (ed25519_verify(key.raw, message, raw[10:])
                and ed25519_verify(key.raw, raw[10:] + comment.encode(), total)):
            return key, comment
    raise Mismatch(f"{what}: wrong signature; this is not what was signed")


# ---- the terminal ------------------------------------------------------------------------------

class Meter:
    """Bytes done of a known total: a line that is redrawn on a terminal, one line elsewhere."""

    def __init__(self, what: str, total: int, announce: bool = True):
        self.what = what
        self.item = ""                  # what of it is being done
        self.total = total
        self.done = 0
        self.began = self.drawn = time.monotonic()
        if total and announce and not sys.stderr.isatty():
            say(f"{what}, {human_size(total)}")

    def add(self, count: int) -> None:
        """COUNT more bytes are done."""
        self.done += count
        now = time.monotonic()
        if now - self.drawn < 0.1:
            return
        self.drawn = now
        rate = self.done / (now - self.began) or 1
        progress(f"{self.what}: {human_size(self.done)} of {human_size(self.total)}, "
                 f"{human_size(rate)}/s, {max(self.total - self.done, 0) / rate:.0f} s left"
                 + (f": {self.item}" if self.item else ""))

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
    nobody = "nothing was changed: stdin is not a terminal to ask at; say --yes"
    if not yes and ask("Go on? [y/N] ", nobody) not in ("y", "yes"):
        raise Fail("nothing was changed")


def ask(question: str, nobody: str) -> str:
    """The user's answer, in small letters; Fail, which says NOBODY, where there is none to ask."""
    if not sys.stdin or not sys.stdin.isatty():
        raise Fail(nobody)
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower()


# ---- files anywhere ----------------------------------------------------------------------------

def open_file(path: str, folder: "int | None" = None) -> object:
    """The regular file PATH, open to be read: relative to FOLDER, where no symlink is followed, or
    anywhere. Never waits for a fifo."""
    flags = READ_FLAGS if folder is not None else READ_FLAGS & ~os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=folder)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise Fail(f"{path}: not a regular file")


def read_all(descriptor: int, what: str) -> bytes:
    """The bytes of the regular file that is open as DESCRIPTOR, which is closed; Fail for more than
    INDEX_LIMIT. Not by a file object: a root has hundreds of records."""
    try:
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            raise Fail(f"{what}: not a regular file")
        if there.st_size > INDEX_LIMIT:
            raise Fail(f"{what}: larger than {human_size(INDEX_LIMIT)}, which is the most that is "
                       "read")
        data = os.read(descriptor, there.st_size)
        while len(data) < there.st_size and (more := os.read(descriptor, PIECE)):
            data += more
        return data
    finally:
        os.close(descriptor)


def read_file(path: str) -> bytes:
    """The bytes of the regular file PATH."""
    return read_all(os.open(path, READ_FLAGS & ~os.O_NOFOLLOW), path)


def pieces(file: object) -> object:
    """FILE's bytes, a piece at a time."""
    return iter(lambda: file.read(PIECE), b"")


def write_all(descriptor: int, content: object) -> None:
    """Write CONTENT, in pieces, all of it."""
    for piece in content:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view):]


def sha256_of(content: object) -> str:
    """The SHA-256 of CONTENT, given in pieces."""
    import hashlib
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()


class NewFiles:
    """Files that are written under temporary names and then appear, in the order of their making,
    right after each other; or, after an error, not at all."""

    def __init__(self):
        self.files = []

    def create(self, path: str, mode: int = 0o644) -> object:
        """A new file, open for writing, that will be PATH; of what may be there, only a regular
        file is replaced."""
        if os.path.exists(path) and not os.path.isfile(path):
            raise Fail(f"{path}: is there, and not a regular file; name another")
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        try:
            file = open(os.open(temporary, NEW_FLAGS, mode), "wb")
        except OSError as error:
            error.filename = path
            raise
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


# ---- the archive -------------------------------------------------------------------------------
#
# A package is a gzip'd tar whose every byte follows from its record, which comes first: each header
# after it is what tar_header makes of the manifest's next entry. Who reads a package
# makes the header that has to come and compares; there is nothing to interpret. A device, a second
# member of one name, a mode that the manifest doesn't know, an extension of GNU's or PAX's: all are
# simply other bytes than the ones expected.

BLOCK = 512                         # a tar's unit
TAR_TYPES = {"file": b"0", "dir": b"5", "link": b"2"}
TAR_END = bytes(2 * BLOCK)


def padding(size: int) -> bytes:
    """What follows SIZE bytes of a tar up to its next block."""
    return bytes(-size % BLOCK)


USTAR_END = b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(167)
USTAR_SUM = sum(USTAR_END) + 8 * ord(" ")       # a checksum counts itself as blanks


def ustar_block(name: bytes, kind: bytes, mode: int, owner: tuple, size: int,
                target: bytes = b"") -> bytes:
    """One header block of POSIX.1-1988's ustar format, without times and names of users."""
    name, target = name[:100], target[:100]
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, *owner, size, 0)
    checksum = sum(name + numbers + kind + target) + USTAR_SUM
    return b"%b%b%06o\0 %b%b%b" % (name.ljust(100, b"\0"), numbers, checksum, kind,
                                   target.ljust(100, b"\0"), USTAR_END)


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


def header_size(entry: dict) -> int:
    """The length of the header of a manifest's ENTRY."""
    path, target = entry["path"], entry.get("target", "")
    is_plain = len(path) < 100 and len(target) < 100 and (path + target).isascii()
    return BLOCK if is_plain else len(tar_header(entry))


def roots_entry(path: str, kind: str, mode: str, **more: object) -> dict:
    """A manifest's entry of what is root's."""
    return {"path": path, "type": kind, "mode": mode, "uid": 0, "gid": 0, **more}


def folder_entry(path: str) -> dict:
    """The manifest's entry of a directory that nobody described."""
    return roots_entry(path, "dir", "0755")


def record_entry(size: int) -> dict:
    """The entry of a record of SIZE bytes in its archive."""
    return roots_entry(RECORD, "file", "0644", size=size)


def script_entry(script: dict) -> dict:
    """The entry of a package's SCRIPT in its archive."""
    return roots_entry(f".lpkg/scripts/{script['name']}", "file", "0755", size=script["size"],
                       sha256=script["sha256"])


def text_entry(path: str, data: bytes) -> dict:
    """The entry of a file of lpkg's own, which is run if it is a script."""
    return roots_entry(path, "file", "0755" if data.startswith(b"#!") else "0644", size=len(data))


# ---- reading a package -------------------------------------------------------------------------
#
# Whoever signs an index has read each package through, and so does who takes one that nobody has
# signed: each header must be the one that follows from the manifest, each file have its SHA-256.
# A package whose own SHA-256 is an index's needs none of that. Its manifest says where every byte
# goes, and nothing else in it is looked at.

def inflated(file: object, what: str) -> object:
    """The bytes that are gzip'd in FILE, in pieces, so that no bomb fills the memory. The first are
    small: often only the manifest is wanted."""
    inflater = zlib.decompressobj(31)
    compressed = b""
    most = 1 << 14
    while not inflater.eof:
        compressed = compressed or file.read(PIECE)
        if not compressed:
            raise Fail(f"{what}: the archive ends too early")
        try:
            piece = inflater.decompress(compressed, most)
        except zlib.error as error:
            raise Fail(f"{what}: damaged archive: {error}") from None
        compressed = inflater.unconsumed_tail
        most = min(2 * most, PIECE)
        if piece:
            yield piece
    if inflater.unused_data or file.read(1):
        raise Fail(f"{what}: something follows the archive's end")


def made_ahead(items: object) -> object:
    """ITEMS, each made by a second thread while the one before is in use."""
    import _thread
    is_made, is_wanted = _thread.allocate_lock(), _thread.allocate_lock()
    is_made.acquire()
    made, errors, closed = [], [], []   # of items there is at most one

    def work() -> None:
        try:
            for item in items:
                is_wanted.acquire()
                if closed:
                    return
                made.append(item)
                is_made.release()
        except BaseException as error:
            errors.append(error)
        is_wanted.acquire()
        if not closed:
            is_made.release()

    _thread.start_new_thread(work, ())
    try:
        while True:
            is_made.acquire()
            if not made:
                break
            item = made.pop()
            is_wanted.release()
            yield item
        if errors:
            raise errors[0]
    finally:
        closed.append(True)
        if is_wanted.locked():
            is_wanted.release()


class Archive:
    """The bytes of a .lpkg's tar, which come inflated in PIECES, one after the other."""

    def __init__(self, pieces: object, what: str):
        self.pieces = iter(pieces)
        self.ready = b""                # bytes of which
        self.offset = 0                 # so many were read
        self.what = what

    def read(self, count: int) -> bytes:
        """Exactly COUNT bytes; Fail where the archive ends before."""
        while len(self.ready) - self.offset < count:
            piece = next(self.pieces, b"")
            if not piece:
                raise Fail(f"{self.what}: the archive ends too early")
            self.ready = self.ready[self.offset:] + piece
            self.offset = 0
        self.offset += count
        return self.ready[self.offset - count:self.offset]

    def expect(self, data: bytes, path: str) -> None:
        """Fail unless DATA comes next."""
        if self.read(len(data)) != data:
            raise Fail(f"{self.what}: the archive is not what its record says at {path}")

    def begin(self) -> bytes:
        """The bytes of the record; what comes next is the first entry's header."""
        header = self.read(BLOCK)
        digits = header[124:135]
        size = 0 if digits.strip(b"01234567") else int(digits, 8)
        if header != tar_header(record_entry(size)) or size > INFO_LIMIT:
            raise Fail(f"{self.what}: no package, or of an older lpkg: it doesn't begin with "
                       f"a {RECORD}; pack it anew (`make clean`, where a world made it)")
        data = self.read(size)
        self.expect(padding(size), RECORD)
        return data

    def package(self) -> Package:
        """The package that the record describes, which can be taken at its word. How that is
        spelled was looked at by who signed it, or by read_local."""
        package = read_record(self.begin(), self.what)
        check_info(package.info, package.files(), self.what)
        return package

    def content(self, size: int) -> object:
        """The SIZE bytes of a file, in pieces."""
        if size <= PIECE:
            return (self.read(size + -size % BLOCK)[:size],) if size else ()
        return self.long_content(size)

    def long_content(self, size: int) -> object:
        """What content gives of a large file."""
        for left in range(size, 0, -PIECE):
            yield self.read(min(left, PIECE))
        self.read(-size % BLOCK)

    def checked_content(self, entry: dict) -> object:
        """The bytes of the file ENTRY in pieces; Fail after the last if they were wrong."""
        import hashlib
        digest = hashlib.sha256()
        for left in range(entry["size"], 0, -PIECE):
            piece = self.read(min(left, PIECE))
            digest.update(piece)
            yield piece
        self.expect(padding(entry["size"]), entry["path"])
        if digest.hexdigest() != entry["sha256"]:
            raise Fail(f"{self.what}: {entry['path']} has another content than its record says")

    def finish(self) -> None:
        """Fail unless this is the end of the tar, and of the archive."""
        self.expect(TAR_END, "its end")
        if self.offset < len(self.ready) or next(self.pieces, b""):
            raise Fail(f"{self.what}: something follows the archive's end")


def unpack(package: Package, content: object) -> object:
    """(entry, content in pieces) of the record of the fetched PACKAGE, of each script, then of each
    file; the content must be read to its end. CONTENT is its bytes, inflated, in pieces."""
    archive = Archive(content, str(package))
    record = archive.begin()
    yield record_entry(len(record)), (record,)
    is_vouched = isinstance(package.origin, Repository)
    for entry in [*map(script_entry, package.info["scripts"]), *package.files()]:
        is_file = entry["type"] == "file"
        if is_vouched:
            archive.read(header_size(entry))
            yield entry, archive.content(entry["size"]) if is_file else ()
        else:
            archive.expect(tar_header(entry), entry["path"])
            yield entry, archive.checked_content(entry) if is_file else ()
    if not is_vouched:
        archive.finish()


def unpack_all(packages: list) -> object:
    """(package, what unpack gives of it) of the fetched PACKAGES; another thread inflates what
    comes next."""
    def inflate_all() -> object:
        for package in packages:
            with package.open() as file:
                yield from inflated(file, str(package))
            yield b""                   # the end of one

    pieces = inflate_all()
    if (sum(package.size for package in packages) >= WORTH_A_THREAD
            and len(os.sched_getaffinity(0)) > 1):
        pieces = made_ahead(pieces)
    for package in packages:
        content = iter(lambda: next(pieces, b""), b"")
        yield package, unpack(package, content)
        for _ in content:
            pass


def read_through(package: Package) -> None:
    """Read the fetched PACKAGE to its last byte; Fail when anything in it is wrong."""
    for _, members in unpack_all([package]):
        for _, content in members:
            for _ in content:
                pass


def read_local(path: str, known: "set | None" = None) -> Package:
    """The package in the file PATH. Its archive is read beyond the record only where there are
    KNOWN SHA-256s, and its own isn't among them."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = Archive(inflated(file, path), path).begin()
        package = read_record(data, path)
        check_record(package, data, path)
        file.seek(0)
        package.origin, package.size, package.sha256 = path, size, sha256_of(pieces(file))
        if known is not None and package.sha256 not in known:
            package.open = lambda: open_file(path)
            read_through(package)
        return package


# ---- the root ----------------------------------------------------------------------------------
#
# Nothing below names a file in the root by a whole path: the kernel would follow whatever
# symlinks lie on it. A path is walked from the root's descriptor, one component at a time, never
# through a symlink, and its last component is used relative to the descriptor of its folder.

class Root:
    """The directory that is, or becomes, a system; nothing is in one that isn't there yet."""

    def __init__(self, path: str):
        self.path = path
        self.folders = {}               # path -> descriptor of directories that were walked to
        self.lock = None
        self.made = []                  # directories that were made to be it, in that order

    def folder(self, path: str) -> int:
        """The descriptor of the folder PATH, "" for the root itself, good until the next call.

        FileNotFoundError when it isn't there, Fail when something else is in its place."""
        if path not in self.folders:
            if len(self.folders) > OPEN_FOLDERS:
                self.leave(len(self.folders) // 2)
            parent, _, name = path.rpartition("/")
            try:
                if path:
                    descriptor = os.open(name, FOLDER_FLAGS, dir_fd=self.folder(parent))
                else:
                    descriptor = os.open(self.path, FOLDER_FLAGS & ~os.O_NOFOLLOW)
            except OSError as error:
                way = self.name(path) if error.filename == name else error.filename
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise OSError(error.errno, error.strerror, way) from None
                raise Fail(f"{way}: no directory, and a symlink in the root is never followed; "
                           "put a directory there, or move it away") from None
            self.folders[path] = descriptor
        return self.folders[path]

    def leave(self, count: "int | None" = None) -> None:
        """Close the folders, or COUNT of them: what is walked to after this is looked at again."""
        for path in list(filter(None, self.folders))[:count]:
            os.close(self.folders.pop(path))

    def name(self, path: str) -> str:
        """PATH as the user would name it."""
        return os.path.join(self.path, path) if path else self.path

    def place(self, path: str) -> tuple:
        """(descriptor of PATH's folder, last component)."""
        parent, _, name = path.rpartition("/")
        return self.folder(parent), name

    def device(self, path: str) -> int:
        """The file system that the directory PATH is on."""
        return os.fstat(self.folder(path)).st_dev

    def lstat(self, path: str) -> "os.stat_result | None":
        """What PATH is; None when it isn't there."""
        try:
            folder, name = self.place(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            return None

    def open(self, path: str) -> object:
        """The regular file PATH, open to be read."""
        folder, name = self.place(path)
        return open_file(name, folder)

    def read(self, path: str) -> bytes:
        """The bytes of PATH; nothing when it isn't there."""
        try:
            folder, name = self.place(path)
            descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return b""
        except OSError as error:
            error.filename = self.name(path)
            if error.errno != errno.ELOOP:
                raise
            raise Fail(f"{error.filename}: a symlink, and in the root none is followed; put the "
                       "file itself there") from None
        return read_all(descriptor, self.name(path))

    def lines(self, path: str) -> list:
        """The lines of the text PATH; none when it isn't there."""
        lines = self.read(path).decode(errors="replace").split("\n")
        return lines if lines[-1] else lines[:-1]

    def names(self, path: str) -> list:
        """The names in the folder PATH, sorted; none when it isn't there."""
        try:
            return sorted(os.listdir(self.folder(path)))
        except FileNotFoundError:
            return []

    def create(self, path: str) -> object:
        """The new file PATH, open for writing; nothing may be there."""
        folder, name = self.place(path)
        try:
            return open(os.open(name, NEW_FLAGS, 0o644, dir_fd=folder), "w+b", buffering=0)
        except OSError as error:
            error.filename = self.name(path)
            raise

    def remove(self, path: str) -> None:
        """Unlink PATH if it is there."""
        try:
            folder, name = self.place(path)
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass

    def make_folder(self, path: str) -> None:
        """Make the directory PATH, and those that it lies in, where they aren't there."""
        if path and self.lstat(path) is None:
            self.make_folder(path.rpartition("/")[0])
            folder, name = self.place(path)
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
            except OSError as error:
                error.filename = self.name(path)
                raise

    def publish(self, path: str, durable: bool = True) -> None:
        """Rename PATH.new to PATH; DURABLE: once it is on the disk, where the name is then, too."""
        folder, name = self.place(path)
        if durable:
            with open_file(name + ".new", folder) as file:
                os.fsync(file.fileno())
        os.rename(name + ".new", name, src_dir_fd=folder, dst_dir_fd=folder)
        if durable:
            os.fsync(folder)

    def draft(self, path: str, content: object) -> None:
        """Write CONTENT, in pieces, to PATH.new, in a directory that is made if need be."""
        self.make_folder(path.rpartition("/")[0])
        self.remove(path + ".new")
        with self.create(path + ".new") as file:
            write_all(file.fileno(), content)

    def replace(self, path: str, content: object, durable: bool = True) -> None:
        """Replace PATH, a file that only lpkg writes, by CONTENT, in pieces: a reader or, if it is
        to be DURABLE, a power cut finds the old file or the new one whole."""
        try:
            self.draft(path, content)
            self.publish(path, durable)
        except BaseException:
            self.remove(path + ".new")
            raise

    def content(self, path: str, there: "os.stat_result | None" = None) -> "str | None":
        """What is at PATH (THERE, if that is known), to be compared: a file's SHA-256, where a
        symlink points, None for nothing, "" for a directory, a device or the like."""
        there = there or self.lstat(path)
        if there is None:
            return None
        folder, name = self.place(path)
        if stat.S_ISREG(there.st_mode):
            return self.file_sha256(folder, name)
        return "-> " + os.readlink(name, dir_fd=folder) if stat.S_ISLNK(there.st_mode) else ""

    def file_sha256(self, folder: int, name: str) -> str:
        """The SHA-256 of a regular file; "" where it is one no longer."""
        import hashlib
        digest = hashlib.sha256()
        descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        try:
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode):
                return ""
            left = there.st_size
            while left > 0 and (data := os.read(descriptor, min(left, PIECE))):
                digest.update(data)
                left -= len(data)
        finally:
            os.close(descriptor)
        return digest.hexdigest()


def is_fat(descriptor: int) -> bool:
    """Whether an open file or directory is on FAT, as /boot may be, which has no owners, modes or
    symlinks. It is known by the length of its names: 255 or 12 characters, at most 6 bytes each."""
    return os.fstatvfs(descriptor).f_namemax in (255 * 6, 12 * 6)


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
        if names == {"var"}:            # a new ext4 file system is empty, too
            found.discard("lost+found")
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
    if not is_vacant(path):
        raise Fail(f"{path}: neither a root of lpkg's nor an empty folder; nothing was changed")
    if not create:
        raise Fail(f"{path}: no lpkg database there; `lpkg --root {path} install NAME` makes one")
    return False


def create_root(root: Root) -> None:
    """Make the directories of a database in ROOT, and lock it."""
    parts = INSTALLED.split("/")
    try:
        for depth in range(len(parts) + 1):
            folder = os.path.join(root.path, *parts[:depth])
            if not os.path.isdir(folder):
                os.mkdir(folder, 0o755)
                root.made.append(folder)
        take_lock(root)
    except OSError:
        discard_root(root)
        raise


def discard_root(root: Root) -> None:
    """Remove what create_root made: a refused install leaves nothing."""
    try:
        for folder in reversed(root.made):
            lock = os.path.join(folder, "lock")
            if folder.endswith(STATE) and os.path.lexists(lock):
                os.unlink(lock)
            os.rmdir(folder)
    except OSError as error:
        say(f"{explain(error)} (while removing the new root again)")


def take_lock(root: Root) -> None:
    """Be the only lpkg that changes ROOT; Later, naming the other one, when there is one."""
    folder, name = root.place(LOCK)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        root.lock = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        error.filename = root.name(LOCK)
        raise
    if stat.S_IMODE(os.fstat(root.lock).st_mode) != 0o600:
        os.fchmod(root.lock, 0o600)     # else any user could hold it
    try:
        fcntl.flock(root.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(root.lock, 20, 0).decode(errors="replace").strip()
        raise Later(f"{root.path}: lpkg with pid {pid} is changing it; wait for it") from None
    try:
        os.truncate(root.lock, 0)
        os.write(root.lock, b"%d\n" % os.getpid())
    except OSError as error:            # a full disk needn't keep one from removing something
        if error.errno not in NO_ROOM:
            raise


def load_installed(root: Root) -> dict:
    """NAME -> Package of what is installed; the lists of their files are read when they are asked
    for."""
    installed = {}
    for name in filter(is_name, root.names(INSTALLED)):
        path = f"{INSTALLED}/{name}"
        data = root.read(path)
        if data or root.lstat(path):    # else another lpkg has just removed it
            installed[name] = read_record(data, root.name(path))
    for line in root.lines(ORIGINS):
        name, sha256, repository, *_ = (line + "\t\t").split("\t")
        if name in installed:
            installed[name].sha256 = sha256
            installed[name].repository = repository or None
    return installed


def load_world(root: Root) -> dict:
    """NAME -> relation (text) of what was asked for: `zlib`, or `zlib=1.2.12`, which holds it."""
    words = root.read(WORLD).decode(errors="replace").split()
    try:
        return {parse_relation(word).name: word for word in words}
    except Fail as error:
        raise Fail(f"{root.name(WORLD)}: {error}") from None


def lines_text(lines: object) -> bytes:
    """The file of LINES."""
    return "".join(f"{line}\n" for line in lines).encode()


def load_preferences(root: Root) -> dict:
    """PATH -> name of the package that the user chose among its alternatives."""
    return dict(line.split("\t", 1) for line in root.lines(PREFERENCES) if "\t" in line)


# ---- the network -------------------------------------------------------------------------------

class Repository:
    """A folder of packages for several architectures, somewhere; the KEYS that are trusted for it;
    the INDEX of what it offers for ARCH. OFFLINE: it isn't asked for packages; LATE: it couldn't be
    reached, or what it offers was refused: the exit status that this has."""
    __slots__ = ("name", "url", "arch", "keys", "index", "offline", "late")

    def __init__(self, name: str, url: str, arch: str):
        self.name = name
        self.url = url
        self.arch = arch
        self.keys = []
        self.index = None
        self.offline = False
        self.late = 0

    def is_remote(self) -> bool:
        """Whether a network is in between."""
        return self.url.startswith(("http://", "https://"))


def download(url: str, size: int) -> object:
    """The bytes of URL (http, https, file: or a path), some SIZE at most, in pieces."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("http", "https"):
        _, at, host = rest.strip("/").partition("/")[0].rpartition("@")
        if at:
            raise Fail(f"{host}: a login in an address is not taken; only signatures are trusted")
        return in_time(REQUEST_SECONDS + size // SLOWEST, download_http(url), url)
    if colon and scheme == "file":
        import urllib.parse
        url = urllib.parse.unquote("/" + rest[2:].partition("/")[2] if rest[:2] == "//" else rest)
    elif colon and scheme.isalnum():
        raise Fail(f"{url}: {scheme}: is not known; repositories are http, https, file: or a path")
    return pieces(open_file(url))


def in_time(seconds: int, content: object, what: str) -> object:
    """CONTENT, in pieces; Later where all of it isn't there within SECONDS, whatever a server sends
    meanwhile."""
    import _signal

    def end(*_: object) -> None:
        raise Later(f"{what}: not all of it came within {seconds} s; try later")

    before = _signal.signal(_signal.SIGALRM, end)
    _signal.alarm(seconds)
    try:
        yield from content
    finally:
        _signal.alarm(0)
        _signal.signal(_signal.SIGALRM, before)


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
        kind = Mismatch if received else Later
        raise kind(f"{url}: {reason}; check the address and the network, or try later") from None
    if received < length:
        raise Mismatch(f"{url}: the connection ended after {received} of {length} bytes")


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


def consistent(fetch: object, is_remote: bool) -> object:
    """What FETCH() gives. Where two things don't fit, a mirror may be in the middle of its
    synchronisation, or a connection was cut, so what IS_REMOTE is fetched once more."""
    try:
        return fetch()
    except Mismatch:
        if not is_remote:
            raise
    try:
        return fetch()
    except Mismatch as error:
        raise Later(f"{error}; perhaps a mirror is being updated: try later") from None


def fetch_bytes(url: str, limit: int) -> bytes:
    """The bytes of URL; Fail as soon as there are more than LIMIT."""
    data = bytearray()
    for piece in download(url, limit // 16):    # which is what nearly all are below
        data += piece
        progress(f"{url}: {human_size(len(data))}")
        if len(data) > limit:
            raise Fail(f"{url}: longer than {human_size(limit)}, which is the most that is taken")
    progress("")
    return bytes(data)


# ---- indexes -----------------------------------------------------------------------------------
#
# The rules of trust, in their order. 1. The signature is that of a key that is trusted for this
# repository; until then the index is only bytes. 2. The trusted comment says `index ARCH serial N`:
# another signed file of the same key is no index. 3. The index is well formed, and for this ARCH
# and that serial. 4. It has not expired, where the time is what the clock says, but never before
# the newest `created` that was seen of that key: a device without a clock works, and who holds its
# clock back gains nothing. 5. Its serial is not below the highest one seen of that key, and an
# equal one has the same bytes.
#
# What was seen is kept by the whole key, not by its id, which anybody can give to a key of his own;
# so the keys of one repository say nothing about another.

class Serials:
    """What was seen of each key's indexes: (key, arch) -> (serial, created, sha256)."""

    def __init__(self, lines: list):
        self.seen = {}
        for line in lines:
            words = line.split()
            if len(words) != 5 or not all(one.isdecimal() and len(one) < 20
                                          for one in words[2:4]):
                raise Fail(f"{SERIALS}: line {line!r} is not understood; restore or remove it")
            self.seen[words[0], words[1]] = (int(words[2]), int(words[3]), words[4])

    def text(self) -> bytes:
        """The file of it."""
        return lines_text(f"{key} {arch} {serial} {created} {sha256}" for (key, arch),
                          (serial, created, sha256) in sorted(self.seen.items()))

    def now(self, key: str) -> float:
        """The time, never before what was seen of KEY."""
        return max([time.time(), *(created for (one, _), (_, created, _) in self.seen.items()
                                   if one == key)])

    def accept(self, key: str, index: dict, sha256: str, what: str) -> None:
        """Rule 5; remembers the index, whose bytes have this SHA256."""
        name = (key, index["arch"])
        serial, _, known = self.seen.get(name, (-1, 0, ""))
        if index["serial"] < serial:
            raise Fail(f"{what}: serial {index['serial']} is older than {serial}, which was seen "
                       "before; an old index is being served")
        if index["serial"] == serial and sha256 != known:
            raise Fail(f"{what}: serial {serial} was seen with another content; make a new index")
        self.seen[name] = (index["serial"], index["created"], sha256)

    def drop(self, key: str) -> None:
        """Forget what was seen of KEY."""
        self.seen = {name: seen for name, seen in self.seen.items() if name[0] != key}


def check_comment(comment: str, index: dict, what: str) -> None:
    """Rules 2 and 3, where the two meet."""
    if comment != f"index {index['arch']} serial {index['serial']}":
        raise Fail(f"{what}: signed as {comment[:80]!r}, and it is the index of {index['arch']} "
                   f"with serial {index['serial']}; sign it anew with lpkg index")


def day_text(when: float) -> str:
    """The day of a time in unix seconds, as 2026-11-24."""
    return time.strftime("%Y-%m-%d", time.gmtime(min(when, 1 << 37)))


def check_expiry(expires: "int | None", repository: Repository, now: float, what: str) -> None:
    """Rule 4."""
    if expires is None and repository.is_remote():
        raise Fail(f"{what}: never expires, as only a folder's may; make it with --expires DAYS")
    if expires is not None and expires < now:
        raise Fail(f"{what}: expired on {day_text(expires)}, and the clock says {day_text(now)}; "
                   "if the clock is right, the repository needs a new index")


def load_index(repository: Repository, serials: Serials, known: bytes) -> bytes:
    """Fetch the index of REPOSITORY and, once the rules hold, let it offer its packages. The first
    line of a cached index: KNOWN is the one there is, which stays good while the signature that is
    offered is the same."""
    import hashlib
    import io
    what = f"{repository.url}/{repository.arch}/index.json"
    if not repository.keys:
        raise Fail(f"{repository.name}: no key is trusted for it; say --key FILE, or put its "
                   f".pub file into {KEYS} as {repository.name}.pub (`lpkg key add`)")

    def fetch_both() -> "tuple | None":
        signature = fetch_bytes(what + ".minisig", SIGNATURE_LIMIT)
        seal = hashlib.sha256(signature).hexdigest()
        if known and seal == known.split(b"\t")[-1].decode():
            return None
        data = fetch_bytes(what, INDEX_LIMIT)
        name = repository.name
        way = f"`lpkg key add {name}.2.pub`" if is_name(name) else "--key FILE"
        return (data, seal, *check_signature(data, signature, repository.keys, what, way))

    fetched = consistent(fetch_both, repository.is_remote())
    if fetched is None:
        return known
    data, seal, key, comment = fetched
    if not comment.startswith("index "):
        raise Fail(f"{what}: signed as {comment[:80]!r}, not as an index")
    sha256 = hashlib.sha256(data).hexdigest()
    source = io.BytesIO(data)
    del data, fetched                   # megabytes, on a device that has 32
    index, lines = read_index(source, repository.arch, what)
    check_comment(comment, index, what)
    now = max(serials.now(key.text()), index["created"])
    check_expiry(index["expires"], repository, now, what)
    serials.accept(key.text(), index, sha256, what)
    repository.index = Index(lines, repository)
    expires = "never" if index["expires"] is None else index["expires"]
    check = zlib.crc32(lines)
    head = ("#lpkg", repository.url, repository.arch, key.text(), expires, check, seal)
    return "\t".join(map(str, head)).encode()


def index_json(index: dict) -> bytes:
    """The bytes of an index.json: its first line begins the list of packages, each of them is a
    line, and the last one ends it; so nobody needs more than one of ten thousand in memory."""
    head = {key: value for key, value in index.items() if key != "packages"}
    first = json_text(head).removesuffix("}") + ',"packages":['
    lines = ",\n".join(map(json_text, index["packages"]))
    return "\n".join(filter(None, (first, lines, "]}\n"))).encode()


def read_index(source: object, arch: str, what: str) -> tuple:
    """(the index.json in the file SOURCE without its packages, the lines of those); Fail unless it
    is one of ARCH, all its packages well described. SOURCE is closed as soon as it was read."""
    def parse_line(end: bytes = b"") -> dict:
        line = source.readline(OFFER_LIMIT)
        if not line.endswith(b"\n"):
            raise Fail(f"{what}: a line is too long, or it was cut; make it with lpkg index")
        return None if line == b"]}\n" else parse_json(line.rstrip(b",\n") + end, what)

    def offers() -> object:
        while (offer := parse_line()) is not None:
            shown = str(offer.get("name"))[:60]
            check_fields(offer, OFFER_FIELDS, f"{what}: package {shown!r}")
            yield offer
        if source.read(1):
            raise Fail(f"{what}: something follows its end")
        source.close()

    index = parse_line(b"]}") or {}
    check_fields(index, INDEX_FIELDS, what)
    lines = index_lines(offers())
    if index["arch"] != arch:
        raise Fail(f"{what}: made for {index['arch']}, and {arch} is wanted")
    return index, lines


def load_repositories(options: "Options", root: Root, arch: str, serials: Serials,
                      fresh: bool) -> list:
    """The repositories of --repo, which are asked each time; else those of the root: as update saw
    them last or, where it never did or FRESH is wanted, asked now."""
    pairs = known = parse_repositories(root.lines(REPOS))
    if options.repo:
        names = {full_url(url): name for name, url in known}
        pairs = [(names.get(full_url(url), url), url) for url in options.repo]
    found = [Repository(name, url.rstrip("/"), arch) for name, url in pairs]
    for number, repository in enumerate(found):
        repository.offline = options.offline and repository.is_remote()
        given = given_keys(options, number) if options.repo else []
        names = [name for name, url in known if full_url(url) == full_url(repository.url)]
        names.append(repository.name)
        repository.keys = given or [key for name, key in all_keys(root).items()
                                    if name.partition(".")[0] in names]
    if options.repo or fresh or not all(is_cached(root, one, serials) for one in found):
        ask_repositories(root, found, serials, listed=not options.repo)
    return found


def full_url(url: str) -> str:
    """URL, or the absolute path that it is, without a slash at its end."""
    return (url if ":" in url.partition("/")[0] else os.path.abspath(url)).rstrip("/")


def is_cached(root: Root, repository: Repository, serials: Serials) -> bool:
    """Whether the cached index of REPOSITORY will do: one that has expired won't, if another can be
    had."""
    try:
        return load_cached(root, repository, serials)
    except Fail:
        if repository.offline:
            raise
        return False


def ask_repositories(root: Root, found: list, serials: Serials, listed: bool) -> None:
    """Fetch the indexes of the repositories FOUND. Of those that are LISTED in the root they are
    kept, if it is locked, with what was seen of their keys."""
    if any(one.offline for one in found):
        raise Later("--offline: no index of it is here; `lpkg update` fetches one, with a network")
    if found and time.time() < CLOCK_IS_SET:
        say(f"the clock says {day_text(time.time())}, so it isn't set; an index counts as expired "
            "only by the newest date that was seen; set it with date")
    failures = []
    for repository in found:
        known = read_cached(root, repository)[0] if listed else b""
        try:
            head = load_index(repository, serials, known)
            if head == known:
                load_cached(root, repository, serials)
        except Fail as error:
            repository.late = getattr(error, "status", 1)
            if not (listed or repository.late == Later.status):
                raise
            failures.append(error)
            if not (listed and is_cached(root, repository, serials)):
                repository.index = Index(b"", repository)
        else:
            if listed and head != known and root.lock is not None:
                root.replace(SERIALS, [serials.text()])
                root.replace(f"{INDEXES}/{repository.name}",
                             [head, b"\n", repository.index.data])
    if failures and len(failures) == len(found):
        raise failures[0]
    for failure in failures:
        say(f"{failure}; the other repositories are used meanwhile")


def given_keys(options: "Options", number: int) -> list:
    """The keys for the repository with that NUMBER among those of --repo: one for each, in their
    order, if there are as many of --key; else all of these."""
    paths = options.key
    if len(options.repo) == len(paths):
        paths = paths[number:number + 1]
    return [parse_public_key(read_file(path), path) for path in paths]


def read_cached(root: Root, repository: Repository) -> tuple:
    """(first line, other lines) of the cached index of REPOSITORY; nothing where there is none of
    its URL and of a key that is trusted for it, or a damaged one."""
    line, _, lines = root.read(f"{INDEXES}/{repository.name}").partition(b"\n")
    places = [f"#lpkg\t{repository.url}\t{repository.arch}\t{key.text()}\t".encode()
              for key in repository.keys]
    sound = (line.startswith(tuple(places))
             and line.split(b"\t")[5:-1] == [b"%d" % zlib.crc32(lines)])
    return (line, lines) if sound else (b"", b"")


def load_cached(root: Root, repository: Repository, serials: Serials) -> bool:
    """Let the cached index of REPOSITORY offer its packages, if there is one of its URL."""
    line, lines = read_cached(root, repository)
    _, _, _, key, expires, *_ = line.decode().split("\t") if line else 5 * [""]
    if expires != "never" and not expires.isdecimal():
        return False
    check_expiry(None if expires == "never" else int(expires[:18]), repository, serials.now(key),
                 f"{repository.name}: the index that update fetched")
    repository.index = Index(lines, repository)
    return True


def machine() -> str:
    """This machine's architecture, as Panux calls it."""
    name = os.uname().machine
    return {"i586": "x86", "i686": "x86", "armv7l": "armv7"}.get(name, name)


# ---- what a change means, path by path ---------------------------------------------------------

def merge_manifests(packages: list, paths: "set | None" = None) -> dict:
    """PATH -> (package, entry) of PACKAGES together, for each of PATHS, in bytes, or all;
    Fail when two claim one file.

    Directories are shared. A directory of mode 0755 and root's is one nobody thought about: any
    other opinion of it wins, and two other opinions that differ are refused."""
    claims = {}
    for package in packages:
        for entry in package.files() if paths is None else package.entries(paths):
            path = entry["path"]
            rival, other = claims.setdefault(path, (package, entry))
            if other is entry:
                continue
            if entry["type"] != "dir" or other["type"] != "dir":
                both = f"{rival.name} {package.name}"
                raise Fail(f"{rival.name} and {package.name} both bring {path}; upgrade both "
                           f"(`lpkg install {both}`), or install only one")
            if entry == other:
                continue
            plain = folder_entry(path)
            if plain not in (entry, other):
                raise Fail(f"{rival.name} and {package.name} give {path} different modes or "
                           "owners")
            if other == plain:
                claims[path] = (package, entry)
    return claims


def winners(packages: list, preferences: dict) -> dict:
    """PATH -> (package, entry of its symlink) of each path for which PACKAGES are alternatives:
    the one of PREFERENCES (path -> package's name), else the highest priority, else the first by
    name. A path that one of PACKAGES brings as a file has no alternatives."""
    best = {}
    for package in sorted(packages, key=lambda package: package.name):
        for one in package.info["alternatives"]:
            path = one["path"]
            rank = (preferences.get(path) == package.name, one["priority"])
            if path not in best or rank > best[path][0]:
                entry = roots_entry(path, "link", "0777", target=one["target"])
                best[path] = (rank, package, entry)
    paths = {path.encode() for path in best}
    for package in packages if best else ():
        for entry in package.entries(paths):
            best.pop(entry["path"], None)
    return {path: (package, entry) for path, (_, package, entry) in best.items()}


def is_conffile(package: Package, path: str) -> bool:
    """Whether the file PATH of PACKAGE is the user's to change: all below etc/, and what is
    declared."""
    return path.startswith("etc/") or path in package.info["conffiles"]


def conffile_action(current: "str | None", old: "str | None", new: str) -> str:
    """`replace`, `leave` or `beside` (as .lpkg-new), for a conffile's contents; None: not there."""
    if current in (old, new):
        return "replace"
    return "leave" if old == new else "beside"


def journal_lines(data: bytes) -> object:
    """The lines of a journal as lists [verb, path...]."""
    return (line.split("\t") for line in data.decode(errors="replace").split("\n")[:-1])


def check_journal(data: bytes, what: str) -> None:
    """Fail for a journal with any other line. A rename stays in its directory; what is undone is
    called as nothing else is."""
    for words in journal_lines(data):
        paths = words[1:2] if words[0] == "dir" else words[1:]
        folders = {path.rpartition("/")[0] for path in paths[words[0] == "copy":]}
        strange = (words[0] == "rmtree" and not words[-1].rpartition("/")[2].startswith(".lpkg.")
                   or words[0] == "dir" and read_ownership(words[-1]) is None)
        if (len(words) != JOURNAL_VERBS.get(words[0]) or strange
                or len(folders) != 1 or not all(map(is_journal_path, paths))):
            line = "\t".join(words)
            raise Fail(f"{what}: line {line!r} is not understood; the journal was damaged")


JOURNAL_VERBS = {"mv": 3, "aside": 4, "copy": 4, "dir": 3, "rm": 2, "rmdir": 2, "rmtree": 2,
                 "mount": 2}


def ownership(entry: dict) -> str:
    """UID:GID:MODE of ENTRY."""
    return f"{entry['uid']}:{entry['gid']}:{entry['mode']}"


def read_ownership(text: str) -> "dict | None":
    """The uid, gid and mode in TEXT, UID:GID:MODE with the mode in octal; None for other text."""
    words = text.split(":")
    if (len(words) != 3 or not all(word.isdecimal() and len(word) < 10 for word in words)
            or words[2].strip("01234567")):
        return None
    return {"uid": int(words[0]), "gid": int(words[1]), "mode": words[2].zfill(4)}


def is_journal_path(path: str) -> bool:
    """Whether PATH may stand in a journal: it stays in the root, lpkg's own files included."""
    return is_path(path.removeprefix(STATE + "/"), PATH_LIMIT + 100)


def journal_text(lines: object) -> bytes:
    """A journal of LINES; Fail for one that is too long to be read again."""
    text = bytearray()                  # of tens of thousands, which aren't in memory otherwise
    for line in lines:
        text += "\t".join(line).encode() + b"\n"
    if len(text) > INFO_LIMIT:
        raise Fail(f"a journal of {human_size(len(text))} is too long; change fewer packages at "
                   "once")
    return text


def parse_repositories(lines: list) -> list:
    """The (name, url) pairs of `NAME URL` LINES, where # begins a comment line."""
    pairs = [line.split() for line in lines if line.strip() and line.strip()[0] != "#"]
    for pair in pairs:
        if len(pair) != 2 or not is_name(pair[0]) or "." in pair[0]:
            raise Fail(f"{REPOS}: {' '.join(pair)}: write NAME URL, the NAME without dots")
    return pairs


# ---- the plan ----------------------------------------------------------------------------------

NO_REPOSITORY = "no repository is known; say --repo URL, or `lpkg repo add NAME URL`"


class Plan(Record):
    """What a transaction will do, settled and shown before anything is fetched: NEW packages, by
    name; OLD, name -> package that goes; STAY, those that are untouched; WORLD, what is asked for
    then; whether it is a REPAIR, in which NEW puts OLD back as it was packed."""
    __slots__ = ("new", "old", "stay", "world", "repair")

    def is_empty(self) -> bool:
        """Whether no package comes or goes."""
        return not self.new and not self.old

    def removed(self) -> list:
        """The packages that go and are not upgraded."""
        coming = {package.name for package in self.new}
        return [package for name, package in sorted(self.old.items()) if name not in coming]


def settle(installed: dict, chosen: dict, world: dict, repair: bool = False) -> Plan:
    """The plan that makes the packages CHOSEN of those that are INSTALLED: what each command comes
    to. What replaces a package is asked for in its place."""
    new = [package for name, package in sorted(chosen.items())
           if package is not installed.get(name)]
    old = {name: package for name, package in installed.items() if chosen.get(name) is not package}
    stay = [package for name, package in installed.items() if chosen.get(name) is package]
    left = {name: relation for name, relation in world.items() if name in chosen}
    for package in old.values():
        if package.name in world and package.name not in chosen:
            heirs = [other.name for other in new if other.replaces(package)]
            left = {**dict(zip(heirs, heirs)), **left}
    return Plan(new, old, stay, left, repair)


def plan_change(universe: Universe, world: dict, wants: list, gone: set = frozenset()) -> Plan:
    """The plan of a system in which the WANTS are met and what is installed, but what is GONE,
    stays as the WORLD has it; Fail, with what would make it work, when there is none. What is held
    is chosen first, what may go last."""
    wanted = {one.staying.name for one in wants if one.staying}
    agenda = wants + [stays(universe, package, world)
                      for name, package in universe.installed.items()
                      if name not in gone and name not in wanted]
    agenda.sort(key=lambda want: (want.soft, not want.is_held()))
    try:
        chosen = solve(universe, agenda)
    except Fail as error:
        raise Fail(f"{error}{remedy(universe, agenda)}") from None
    return settle(universe.installed, chosen, world)


def parse_words(words: list, repositories: list) -> list:
    """The wants of the WORDS of a command line: relations, each perhaps with @REPOSITORY."""
    wants = []
    for word in words:
        text, at, source = word.partition("@")
        relation = parse_relation(text)
        if relation.negative:
            raise Usage(f"{word}: to be rid of a package, say `lpkg remove {relation.name}`")
        if at and source not in [one.name for one in repositories]:
            raise Fail(f"{word}: no repository is called {source}; `lpkg repo list` shows them")
        wants.append(Want(text, "you want", source=source or None, asked=True))
    return wants


def plan_install(universe: Universe, world: dict, words: list, local: list = ()) -> Plan:
    """The plan that brings WORDS (relations) and LOCAL (packages): whoever names a package that is
    held says anew which versions of it the WORLD shall have."""
    wants = [Want(package.name, "you want", package, asked=True) for package in local]
    wants += parse_words(words, universe.repositories)
    said = {one.relation.name: one.relation.text for one in wants}
    freed = {name: name for name in said if name in world}
    plan = plan_change(universe, {**world, **freed}, wants)
    answers = by_answer(plan.new + plan.stay)
    asked = {package.name for one in wants for package in answers.get(one.relation.name, ())
             if one.met_by(package)}
    plan.world = {**dict(zip(asked, asked)), **plan.world,
                  **{name: said[name] for name in asked & said.keys()}}
    return plan


def by_answer(packages: list) -> dict:
    """NAME -> those of PACKAGES that have it or provide it."""
    answers = {}
    for package in packages:
        for name in {name for name, _ in package.names()}:
            answers.setdefault(name, []).append(package)
    return answers


def plan_upgrade(universe: Universe, world: dict, names: list) -> Plan:
    """The plan that upgrades NAMES of what is installed."""
    return plan_change(universe, world, [stays(universe, universe.installed[name], world, True)
                                         for name in names])


def reasons(installed: dict, world: dict) -> dict:
    """NAME -> the name of an installed package that needs it, or None where the user asked for it;
    what is not in it nobody needs."""
    named = by_answer(list(installed.values()))
    found = {name: None for name in sorted(world) if name in installed}
    for name in (left := list(found)):          # it grows meanwhile
        for relation in installed[name].relations("depends"):
            for package in named.get(relation.name, ()):
                if package.satisfies(relation) and package.name not in found:
                    found[package.name] = name
                    left.append(package.name)
    return found


def plan_remove(installed: dict, world: dict, names: list) -> Plan:
    """The plan that removes NAMES; Fail, naming them, when others need one."""
    for name in [name for name in names if name not in installed]:
        if words := meant(name, installed):
            raise Fail(f"{name} is not installed{words}")
        say(f"{name} is not installed")
    chosen = {name: package for name, package in installed.items() if name not in names}
    for package, relation in unmet(list(chosen.values())):
        going = sorted(dependents(installed, names) - set(names) - {package.name})
        raise Fail(f"{package.name} needs {relation.text}; remove "
                   f"{' '.join([package.name, *going])} as well")
    return settle(installed, chosen, world)


def meant(name: str, installed: dict) -> str:
    """What a NAME that is not INSTALLED may have meant: what provides it, or one alike."""
    providers = by_answer(list(installed.values())).get(name)
    return f"; {providers[0].name} provides it" if providers else nearest(name, installed)


def unmet(packages: list) -> object:
    """(package, relation) of what PACKAGES need and none of them is."""
    answers = by_answer(packages)
    for package in packages:
        for relation in package.relations("depends"):
            if not any(other.satisfies(relation) for other in answers.get(relation.name, ())):
                yield package, relation


def plan_lines(plan: Plan, free: "int | None", preferences: dict) -> list:
    """The plan, as a person reads it: packages, cost, what grows in risk, what is left to do; FREE
    is what the root's file system has left, in bytes, PREFERENCES the user's among alternatives."""
    rows = [package_row(package, plan.old.get(package.name)) for package in plan.new]
    rows += [("remove", package.name, package.version, "", disk_text(-package.installed_size()))
             for package in plan.removed()]
    fetched = sum(package.size for package in plan.new)
    grows = (sum(package.installed_size() for package in plan.new)
             - sum(package.installed_size() for package in plan.old.values()))
    total = (f"download {human_size(fetched)}, " if fetched else "") + f"disk {disk_text(grows)}"
    total += f", {human_size(free)} free" if free is not None else ""
    lines = table(rows) + [total] * (not plan.is_empty())
    for package in plan.new:
        lines += risk_lines(package, plan.old.get(package.name))
    lines += [f"service  {service} is stopped, and not started at boot any more"
              for service in lost_services(plan)]
    return lines + [f"path     /{path} is {after}'s then, and was {before}'s"
                    for path, before, after in changed_hands(plan, preferences)]


def changed_hands(plan: Plan, preferences: dict) -> list:
    """(path, package's name, package's name) of each alternative that another package has after
    PLAN than before."""
    before = winners([*plan.stay, *plan.old.values()], preferences)
    after = winners([*plan.stay, *plan.new], preferences)
    return [(path, before[path][0].name, after[path][0].name) for path in sorted(before)
            if path in after and before[path][0].name != after[path][0].name]


def lost_services(plan: Plan) -> list:
    """The services of packages that go which no package brings then."""
    left = {one for package in [*plan.new, *plan.stay] for one in package.info["services"]}
    return sorted({one for package in plan.old.values() for one in package.info["services"]} - left)


def counted(number: int, noun: str) -> str:
    """`1 package`, `2 packages`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def table(rows: list) -> list:
    """ROWS of texts as lines whose columns stand below each other."""
    widths = [max(map(len, texts)) for texts in zip(*rows)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip()
            for row in rows]


def disk_text(count: int) -> str:
    """COUNT bytes more, or fewer, of a disk."""
    return f"{'-' if count < 0 else '+'}{human_size(abs(count))}"


def package_row(package: Package, old: "Package | None") -> tuple:
    """The row of a package that comes, perhaps in the place of an OLD one."""
    grows = package.installed_size() - (old.installed_size() if old else 0)
    rest = (human_size(package.size), disk_text(grows))
    if old is None:
        return ("install", package.name, package.version, *rest)
    ours, theirs = package.version_key(), old.version_key()
    word = "rebuilt" if ours == theirs else "upgrade" if ours > theirs else "downgrade"
    return (word, package.name, f"{old.version} -> {package.version}", *rest)


def risk_lines(package: Package, old: "Package | None") -> list:
    """What grows in risk with PACKAGE, compared with the OLD one, and what it leaves to do."""
    ours, theirs = package.offer(), old.offer() if old else EMPTY_OFFER

    def grown(key: str) -> list:
        return [one for one in ours[key] if one not in theirs[key]]

    lines = [f"setuid   /{path} of {package.name}" for path in grown("setuid")]
    lines += [f"owner    {package.name} has files of {owner}" for owner in grown("owners")]
    lines += [f"script   {package.name} runs its {script}" for script in grown("scripts")]
    lines += [f"service  linitctl enable {service}  starts it at boot"
              for service in grown("services")]
    newer = [service for service in ours["services"] if service in theirs["services"]]
    return lines + [f"service  linitctl restart NAME, or a reboot, runs the new {', '.join(newer)}"
                    ] * bool(newer)


# ---- the transaction ---------------------------------------------------------------------------
#
# plan      which packages come and go (above)
# fetch     their bytes, into the cache or, where there is none, to FETCHED for now; size and
#           SHA-256 must be those of the signed index. The source is not read again.
# verify    each record against the index; then, path by path, what is in the root against what
#           the packages bring: conflicts, strays, clashes of type, symlinks on the way,
#           conffiles, space. Nothing has been changed so far.
# stage     `staged` is written: the list of all temporaries and new directories, as a journal
#           that undoes them. Then they are made: each new file beside its place under an
#           unpredictable name, with its owner and mode; the new database entries likewise; last
#           the journal, as journal.new. The packages' scripts for before the change are run.
# commit    sync, then one rename: journal.new -> journal. A run that dies before it is undone by
#           the next one, a run that dies after it is finished.
# apply     the journal's lines, in their order: renames and removals, each safe to do twice.
# register  the last of them are on the database; `queue`, the scripts for after the change, is a
#           part of that.
# forget    sync; `staged` goes, then `journal`; in this order, for a lone `staged` means undo.
#
# Then the queue is run. A run that dies there leaves what is left of it to the next one.

class Transaction:
    """One change of a root, from its plan to its end."""

    def __init__(self, root: Root, plan: Plan, texts: dict, preferences: dict):
        self.root = root
        self.plan = plan
        self.texts = texts              # final path -> bytes of what lpkg itself writes
        self.preferences = preferences  # among alternatives, as they will be
        self.token = os.urandom(8).hex()
        self.temporaries = {}           # final path -> number of its temporary
        self.folders = {}               # directory to make -> where it is staged; parents first
        self.left = set()               # conffiles that stay as they are, and
        self.beside = set()             # those that get the new version beside them
        self.owners = {}                # conffile -> its mode and owner, where they were changed
        self.swaps = set()              # paths where a directory becomes a file or a symlink, or
                                        # the reverse
        self.previous = {}              # files on FAT that stay as NAME.old -> what makes room
        self.links = {}                 # path -> (package, entry) of an alternative that changes
        self.strays = []                # in words, the files of no package in the way
        self.removals = []              # journal lines
        self.mounts = []                # other file systems that the journal needs
        self.claims = {}                # path -> (package, entry) of the system as it will be
        self.gone = {}                  # path -> (package, entry) of what goes, or is replaced

    def add_folder(self, path: str) -> None:
        """Have the directory PATH made, and those it lies in, unless they are there."""
        if path in self.folders or not path:
            return
        parent = path.rpartition("/")[0]
        there = None if parent in self.folders else self.root.lstat(path)
        if there is not None and stat.S_ISDIR(there.st_mode):
            return
        if there is not None:
            self.give_way(path, "a directory")
        self.add_folder(parent)
        self.add_file(path)
        self.folders[path] = self.staged(path)

    def give_way(self, path: str, what: str) -> None:
        """Have what is at PATH replaced by WHAT, which is of another kind; Fail unless all of it
        goes with the packages that it is of."""
        stranger = foreign(self, path)
        if stranger:
            reason = f": {stranger} is yours" if stranger != path else ""
            if stat.S_ISLNK(self.root.lstat(stranger).st_mode):
                reason += ", for no symlink is followed (what is mounted there is)"
            raise Fail(f"{self.root.name(path)}: in the way of {what}{reason}; move it away")
        self.swaps.add(path)

    def add_file(self, final: str) -> None:
        """Give what will be FINAL an unpredictable name beside its place; in a directory that is
        new itself it has its own."""
        if final.rpartition("/")[0] not in self.folders:
            self.temporaries[final] = len(self.temporaries)

    def staged(self, final: str) -> "str | None":
        """Where what will be FINAL is staged; None where nothing comes there."""
        parent, slash, name = final.rpartition("/")
        if parent in self.folders:
            return f"{self.folders[parent]}/{name}"
        number = self.temporaries.get(final)
        return None if number is None else f"{parent}{slash}.lpkg.{self.token}.{number}"

    def written(self, final: str) -> str:
        """Where what will be FINAL is written before the commit: for what would not fit there yet,
        that is among lpkg's own files."""
        staged = self.staged(final)
        return f"{STATE}/{os.path.basename(staged)}" if final in self.previous else staged


def run_transaction(tx: Transaction) -> None:
    """Carry out TX's plan: all of it or, when something is in the way, nothing."""
    try:
        prepare_change(tx)
    except OSError as error:
        if error.errno not in NO_ROOM or tx.plan.new or not tx.plan.old:
            raise
        remove_bare(tx)
        return
    try:
        tx.root.leave()                 # what is walked to now is looked at again
        finish(tx.root)
    except KeyboardInterrupt:           # an impatient Ctrl-C is obeyed as soon as that is done
        finish(tx.root)
        raise
    if any(runs_by(tx.root, path) or runs_by(tx.root, path + ".old") for path in tx.previous):
        say("reboot to run the new kernel; the one that runs now is the boot menu's `old`")


def prepare_change(tx: Transaction) -> None:
    """The steps of TX up to its commit; what fails is undone."""
    try:
        fetch(tx)
        verify(tx)
        stage(tx)
        prepare(tx)
        stop_services(tx)
        for path in tx.swaps:           # a script, or a user, may have put something there
            tx.give_way(path, "something else")
        commit(tx)
    except BaseException:
        recover(tx.root, "undoing what was staged")
        raise


def recover(root: Root, undoing: str = "undoing what an earlier lpkg had not finished") -> None:
    """Finish or undo what an earlier run, or this one, left behind."""
    root.leave()
    names = root.names(STATE)
    if "journal" in names:
        say(f"{root.path}: finishing what an earlier lpkg had begun")
        load_modules()
        check_journal(root.read(JOURNAL), root.name(JOURNAL))
        finish(root)
    elif "staged" in names:
        say(f"{root.path}: {undoing}")
        data = root.read(STAGED)
        check_journal(data, root.name(STAGED))
        apply(root, data)
        forget(root)
    if "removing" in names:
        say(f"{root.path}: finishing what an earlier lpkg had begun")
        finish_removal(root)
    left = [f"{folder}/{name}" for folder in (STATE, INDEXES, CACHE)
            for name in root.names(folder) if name.endswith(".new")]
    for path in left:
        root.remove(path)
    if root.lstat(FETCHED) is not None:
        remove_tree(*root.place(FETCHED))
    root.leave()                        # some of the folders are gone


def remove_bare(tx: Transaction) -> None:
    """Remove TX's packages on a disk that is too full for a journal: of each, the record serves as
    one, under another name, until its files are gone. What needs room is written after that."""
    prepare(tx)
    stop_services(tx)
    for package in needed_first(tx.plan.removed())[::-1]:
        tx.root.leave()
        folder, name = tx.root.place(REMOVING)
        os.rename(f"installed/{package.name}", name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        finish_removal(tx.root)
    if HISTORY in tx.texts:
        write_if_room(tx.root, HISTORY, tx.texts[HISTORY])


def finish_removal(root: Root) -> None:
    """Remove the package whose record is at REMOVING. May be done twice."""
    package = read_record(root.read(REMOVING), root.name(REMOVING))
    left = load_installed(root)
    plan = settle({**left, package.name: package}, left, load_world(root))
    tx = Transaction(root, plan, {}, load_preferences(root))
    verify(tx)
    for line in tx.removals:
        carry_out(root, line)
    for path, (_, entry) in tx.links.items():
        root.remove(path)
        stage_link(root, path, entry)
    for path, data in tx.texts.items():
        write_if_room(root, path, data)
    os.sync()
    root.remove(REMOVING)


def write_if_room(root: Root, path: str, data: bytes) -> None:
    """Replace a file of the database that isn't needed: a world may name what is gone."""
    try:
        root.replace(path, [data])
    except OSError as error:
        say(f"{root.name(path)}: stays as it was: {error.strerror}")


def load_modules() -> None:
    """Load what is loaded late otherwise: once a journal is carried out, Python itself may be
    another one, or not whole. What can't be loaded doesn't keep the journal from that."""
    try:
        printable("\n")                 # loads a codec
        import difflib
        import encodings.idna
        import http.client
        import json
        import resource
        import urllib.parse
        import urllib.request
    except Exception:
        pass


def finish(root: Root) -> None:
    """Carry out the journal of ROOT, and forget it."""
    try:
        apply(root, root.read(JOURNAL))
        forget(root)
    except (Fail, OSError) as error:
        reason = explain(error) if isinstance(error, OSError) else error
        raise Fail(f"{reason}; mend that, and the next lpkg finishes what was begun") from None


# -- fetch

def fetch(tx: Transaction) -> None:
    """Copy the packages' bytes into the root: to the cache, or to where they are for now."""
    if not tx.plan.new:
        return
    download = sum(package.size for package in tx.plan.new)
    check_space(tx.root, STATE, download)
    folder = CACHE
    if tx.root.lstat(CACHE) is None:
        tx.root.make_folder(folder := FETCHED)
    fetch_packages(tx.plan.new, tx.root, folder)


def fetch_packages(packages: list, root: Root, folder: str) -> None:
    """Have the bytes of PACKAGES in FOLDER of ROOT, and read what each says of itself. What is
    there already is used, if it is unaltered."""
    meter = Meter(f"fetching {counted(len(packages), 'package')}",
                  sum(package.size for package in packages))
    for package in packages:
        meter.item = str(package)
        name = fetched_name(package.name, package.version, package.sha256)
        path = f"{folder}/{name}".lstrip("/")
        package.open = lambda path=path: root.open(path)
        if not is_fetched(root, path, package):
            fetch_package(package, root, path, meter)
        read_manifest(package)
    progress("")


def fetched_name(name: str, version: str, sha256: str) -> str:
    """What the file of a package is called here: by its bytes, so that a rebuilt one is another."""
    return f"{name}-{version}.{sha256[:16]}.lpkg"


def is_fetched(root: Root, path: str, package: Package) -> bool:
    """Whether PATH has the bytes of PACKAGE."""
    there = root.lstat(path)
    return bool(there and there.st_size == package.size
                and root.content(path, there) == package.sha256)


def fetch_package(package: Package, root: Root, path: str, meter: Meter) -> None:
    """Copy the bytes of PACKAGE to PATH, from where it comes from."""
    if isinstance(package.origin, Repository) and package.origin.offline:
        raise Later(f"{package}: --offline, and it is not in the cache; `lpkg fetch "
                    f"{package.name}` puts it there, with a network")
    url = package_url(package)

    def fetch_it() -> None:
        content = meter.count(download(url, package.size))
        root.replace(path, promised(package, content, url), durable=False)

    try:
        consistent(fetch_it, isinstance(package.origin, Repository) and package.origin.is_remote())
    except (Later, Mismatch, FileNotFoundError) as error:
        kind = Mismatch if isinstance(error, Mismatch) else Later
        reason = explain(error) if isinstance(error, OSError) else error
        raise kind(f"{reason}; if the repository has changed, `lpkg update` and try again"
                   ) from None


def promised(package: Package, content: object, what: str) -> object:
    """The CONTENT of PACKAGE, in pieces; Mismatch where its size or SHA-256 is another than was
    promised."""
    import hashlib
    digest = hashlib.sha256()
    left = package.size
    for piece in content:
        left -= len(piece)
        if left < 0:
            break
        digest.update(piece)
        yield piece
    if left or digest.hexdigest() != package.sha256:
        raise Mismatch(f"{what}: not the {package.size} bytes that the signed index promises; "
                       "refused")


def package_url(package: Package) -> str:
    """Where the bytes of PACKAGE are; Fail when that is not in its repository's folder."""
    if isinstance(package.origin, str):
        return os.path.abspath(package.origin)
    quoted = plain = package.info["file"]
    if not is_name(quoted):             # which no library needs to look at
        import urllib.parse
        plain = urllib.parse.unquote(quoted)
        if "/" in plain or not is_path(plain) or urllib.parse.quote(plain) != quoted:
            raise Fail(f"{package}: the index calls its file {quoted!r}, which is none of its "
                       "folder")
    url = package.origin.url
    is_url = url.startswith(("http:", "https:", "file:"))
    return f"{url}/{package.origin.arch}/{quoted if is_url else plain}"


def read_manifest(package: Package) -> None:
    """Let the record of a fetched PACKAGE replace the index's entry, if the two agree."""
    with package.open() as file:
        record = Archive(inflated(file, str(package)), str(package)).package()
    if isinstance(package.origin, Repository):
        said = record.offer()
        offer = dict(package.info, arch=package.origin.arch)
        for key in ("name", "version", "arch", "depends", "provides", "conflicts", "replaces",
                    "services", "setuid", "scripts", "owners", "alternatives"):
            if said[key] != offer[key]:
                raise Fail(f"{package}: {key} is {repr(said[key])[:60]} in the package, "
                           f"{repr(offer[key])[:60]} in the index; refused")
    package.told, package.listing = record.told, record.listing


# -- verify

def verify(tx: Transaction) -> None:
    """Look at everything that could be in the way; Fail before anything is changed."""
    for package in tx.plan.old.values():
        for entry in package.files():
            tx.gone[entry["path"]] = (package, entry)
    changing = tx.plan.new + list(tx.plan.old.values()) if tx.plan.stay else []
    paths = {entry["path"].encode() for package in changing for entry in package.files()}
    tx.claims = merge_manifests([*tx.plan.stay, *tx.plan.new], paths)
    before = folder_opinions([*tx.plan.stay, *tx.plan.old.values()])
    plan_alternatives(tx)
    for package in tx.plan.new:
        for entry in package.files():
            if entry["type"] == "dir":
                tx.add_folder(entry["path"])
            else:
                verify_file(tx, package, entry)
    for package, entry in tx.links.values():
        verify_file(tx, package, entry)
    for stray in tx.strays[:-1]:
        say(stray)
    if tx.strays:
        raise Fail(tx.strays[-1])
    plan_texts(tx)
    plan_folders(tx, before)
    plan_removals(tx)
    tx.mounts = mount_points(tx)
    check_fat(tx)
    check_files(tx)
    check_room(tx)


def plan_alternatives(tx: Transaction) -> None:
    """Decide which symlinks of alternatives come, change or go; among those to be made are those of
    new packages that are not as they were."""
    before = winners([*tx.plan.stay, *tx.plan.old.values()], load_preferences(tx.root))
    after = winners([*tx.plan.stay, *tx.plan.new], tx.preferences)
    tx.claims.update(after)
    new = set(tx.plan.new)
    for path in sorted(before.keys() & tx.claims.keys() - after.keys()):
        heir, loser = tx.claims[path][0].name, before[path][0].name
        say(f"/{path} is a file of {heir} then, and was {loser}'s")
    tx.gone.update(before)
    for path, (package, entry) in after.items():
        if (before.get(path, (None, None))[1] != entry
                or package in new and tx.root.content(path) != entry_content(entry)):
            tx.links[path] = (package, entry)


def verify_file(tx: Transaction, package: Package, entry: dict) -> None:
    """Decide where the file or symlink ENTRY of PACKAGE goes, given what is in its place."""
    path = entry["path"]
    is_new_there = path.rpartition("/")[0] in tx.folders
    current = None if is_new_there else tx.root.content(path)
    if current == "":                   # a directory, for one
        tx.give_way(path, f"a {entry['type']} of {package.name}")
        tx.add_file(path)
        return
    owner, old = tx.gone.get(path, (None, None))
    choice = "replace"
    comes_back = tx.plan.repair and current is None     # though the user has deleted it
    if path not in tx.links and not comes_back and (
            is_conffile(package, path) or owner and is_conffile(owner, path)):
        choice = conffile_action(current, entry_content(old), entry_content(entry))
        remember_owner(tx, old, path)
    if choice == "leave":
        tx.left.add(path)
    elif choice == "replace":
        if old is None and current not in (None, entry_content(entry)):
            tx.strays.append(f"{tx.root.name(path)}: belongs to no package, and {package.name}'s "
                             "differs; move it away")
        tx.add_file(path)
    else:
        if not is_path(path + ".lpkg-new"):
            raise Fail(f"{tx.root.name(path)}: was changed here, and the name of a new one beside "
                       "it is too long; move it away")
        done = "removed here and stays away" if current is None else "changed here and stays"
        say(f"{tx.root.name(path)}: was {done}; the new one is {path}.lpkg-new; "
            "`lpkg fix` shows how they differ")
        tx.beside.add(path)
        tx.add_file(path + ".lpkg-new")


def remember_owner(tx: Transaction, old: "dict | None", path: str) -> None:
    """Have the conffile PATH keep its mode and owner, where they aren't those of the OLD one."""
    there = tx.root.lstat(path) if old else None
    if (there and old["type"] == "file" and stat.S_ISREG(there.st_mode)
            and {"mode", "owner"}.intersection(differences(tx.root, old))):
        tx.owners[path] = {"uid": there.st_uid, "gid": there.st_gid, "type": "file",
                           "mode": f"{stat.S_IMODE(there.st_mode):04o}"}


def plan_texts(tx: Transaction) -> None:
    """The database as it will be."""
    tx.texts.update(database_texts(tx.plan, load_queue(tx.root), can_run(tx)))
    if tx.preferences != load_preferences(tx.root):
        tx.texts[PREFERENCES] = lines_text(map("\t".join, sorted(tx.preferences.items())))
    for path in [*tx.texts, *archived_texts(tx.plan.new)]:
        tx.add_folder(path.rpartition("/")[0])
        tx.add_file(path)


def database_texts(plan: Plan, queue: list, ready: bool) -> dict:
    """PATH -> bytes of what the database has after PLAN, but for what the packages bring of it,
    where this QUEUE was before; READY: scripts can run before the change."""
    origins = sorted((package.name, package.sha256, package.source() or "")
                     for package in plan.stay + plan.new)
    texts = {WORLD: lines_text(sorted(plan.world.values())),
             ORIGINS: lines_text(map("\t".join, origins))}
    later = queue_after(plan, queue, ready)
    if later != queue:
        texts[QUEUE] = queue_text(later)
    if any(line[2] == "oninstall" for line in later):
        texts[HOOK] = HOOK_TEXT
    return texts


def foreign(tx: Transaction, path: str) -> str:
    """The first path of what is at PATH, or below it, that is not as a package that goes has it, or
    stays; "" where all goes."""
    there = tx.root.lstat(path)
    package, entry = tx.gone.get(path, (None, None))
    if there is None:
        return ""
    if entry is None or not KINDS[entry["type"]](there.st_mode):
        return path
    if entry["type"] != "dir":
        changed = is_conffile(package, path) and tx.root.content(path) != entry_content(entry)
        return path if changed else ""
    return next(filter(None, (foreign(tx, f"{path}/{name}") for name in tx.root.names(path))), "")


def plan_folders(tx: Transaction, before: dict) -> None:
    """The journal's lines for directories whose owner or mode changes: the packages agreed on what
    BEFORE has, and say something else now. One that the user has changed stays, and is named."""
    folders = {entry["path"] for package in [*tx.plan.new, *tx.plan.old.values()]
               for entry in package.files() if entry["type"] == "dir"}
    for path in sorted(folders & tx.claims.keys() - tx.folders.keys()):
        package, entry = tx.claims[path]
        was = before.get(path, folder_entry(path))
        wrong = differences(tx.root, entry) if entry["type"] == "dir" else []
        if not {"mode", "owner"}.intersection(wrong) or was == entry and not tx.plan.repair:
            continue
        if tx.plan.repair or not differences(tx.root, was):
            tx.removals.append(["dir", path, ownership(entry)])
        else:
            say(f"{tx.root.name(path)}: its owner or mode was changed here and stays; "
                f"`lpkg fix {package.name}` makes it {ownership(entry)}")


def plan_removals(tx: Transaction) -> None:
    """The journal's lines for what no package has any more: files, directories from below,
    entries."""
    folders = []
    swapped = tuple(f"{path}/" for path in tx.swaps)
    for path in sorted(tx.gone):
        package, entry = tx.gone[path]
        if path.startswith(swapped):
            continue                    # it goes with the directory that it is in
        if path not in tx.claims and entry["type"] == "dir":
            folders.append(["rmdir", path])
        elif path not in tx.claims and is_removable(tx.root, package, entry):
            tx.removals.append(["rm", path])
        if entry["type"] != "dir" and is_conffile(package, path) and is_stale(tx, path):
            tx.removals.append(["rm", path + ".lpkg-new"])
    lost = lost_services(tx.plan)
    tx.removals += [["rm", f"etc/rc.d/{name}"] for name in tx.root.names("etc/rc.d")
                    if name.partition("@")[0] in lost and f"etc/rc.d/{name}" not in tx.gone]
    tx.removals += folders[::-1]
    tx.removals += [["rm", f"{INSTALLED}/{package.name}"] for package in tx.plan.removed()]
    tx.removals += [["rm", path] for path in sorted(stale_scripts(tx.plan) - tx.temporaries.keys())]
    tx.removals += [["rmtree", f"{tx.staged(path)}.old"] for path in sorted(tx.swaps)]
    if tx.root.lstat(FETCHED) is not None:
        tx.removals.append(["rmtree", FETCHED])


def stale_scripts(plan: Plan) -> set:
    """The paths of the scripts of what goes, but those that are to be run after it is gone."""
    going = {package.name for package in plan.removed()}
    return {script_path(package.name, script["name"]) for package in plan.old.values()
            for script in package.info["scripts"]
            if not (package.name in going and script["name"] == "post-remove")}


def is_stale(tx: Transaction, path: str) -> bool:
    """Whether beside the conffile PATH lies a version that will not be the installed one."""
    beside = path + ".lpkg-new"
    there = None if path in tx.beside else content_there(tx.root, beside)
    return bool(there) and not (path in tx.left
                                and there == entry_content(tx.claims[path][1]))


def content_there(root: Root, path: str) -> "str | None":
    """What Root.content says of PATH; None, too, where a symlink, or no directory, is on the
    way."""
    try:
        return root.content(path)
    except Fail:
        return None


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
    if is_conffile(package, path) and root.content(path) not in (None, entry_content(entry)):
        say(f"{root.name(path)}: was changed here and stays")
        return False
    return there is not None


def mount_points(tx: Transaction) -> list:
    """The other file systems on which TX changes something: who finishes its journal needs them
    mounted, for in an empty /boot all looks done."""
    found = set()
    paths = [*tx.temporaries, *(line[1] for line in tx.removals)]
    for path in sorted({path.rpartition("/")[0] for path in paths}):
        while path in tx.folders or path and tx.root.lstat(path) is None:
            path = path.rpartition("/")[0]
        while path and tx.root.device(path) != tx.root.device(""):
            parent = path.rpartition("/")[0]
            if tx.root.device(parent) != tx.root.device(path):
                found.add(path)
            path = parent
    return sorted(found)


def check_fat(tx: Transaction) -> None:
    """Fail for what FAT can't hold: symlinks, and two names that differ in small and capital
    letters only. A removal under another spelling would remove what has just come."""
    tops = tuple(f"{top}/" for top in tx.mounts if is_fat(tx.root.folder(top)))
    names = {}
    packages = [*tx.plan.stay, *tx.plan.new] if tops else []
    for path, (package, entry) in merge_manifests(packages).items():
        if path.startswith(tops):
            if entry["type"] == "link":
                raise Fail(f"{tx.root.name(path)}: {package.name} brings a symlink, which a FAT "
                           "file system can't hold; leave the package out, or mount another one "
                           "there")
            other = names.setdefault(path.lower(), path)
            if other != path:
                raise Fail(f"{tx.root.name(path)}: {package.name} brings it, and on a FAT file "
                           f"system it is the same as {other}; leave the package out")
    tx.removals = [line for line in tx.removals
                   if line[0] != "rm" or line[1].lower() not in names]
    tx.removals = [["rm", path + ".old"] for verb, path, *_ in tx.removals
                   if verb == "rm" and path.startswith(tops)] + tx.removals
    tx.previous = {path: dropped(tx.root, path) for path in tx.temporaries
                   if path.startswith(tops) and is_upgraded(tx, path)}


def dropped(root: Root, path: str) -> str:
    """What makes room for the PATH that comes: what the upgrade before this one left of it, as
    /boot has room for two kernels; or, where that is the one that runs, PATH, which didn't boot."""
    older = path + ".old"
    return path if runs_by(root, older) and root.lstat(older) else older


def is_upgraded(tx: Transaction, path: str) -> bool:
    """Whether a package's file PATH, which is there, becomes another one."""
    _, old = tx.gone.get(path, (None, None))
    _, new = tx.claims.get(path, (None, None))
    return (None not in (old, new, tx.root.lstat(path))
            and entry_content(old) != entry_content(new))


def check_files(tx: Transaction) -> None:
    """Fail for a file that can be neither replaced nor removed, for it is immutable, on a read-only
    file system, or something is mounted on it: after the commit it would be too late to say so."""
    mounted = mounted_places(tx.root)
    paths = [*tx.temporaries, *(line[1] for line in tx.removals if line[0] == "rm")]
    for path in mounted.intersection(paths):
        raise Fail(f"{tx.root.name(path)}: something is mounted on it; unmount that first")
    for path in paths:
        if path in tx.swaps:
            continue
        try:
            is_known = path in tx.claims or path in tx.gone     # and was looked at before
            there = None if is_known else tx.root.lstat(path)
            if there and stat.S_ISDIR(there.st_mode):
                raise Fail(f"{tx.root.name(path)}: a directory in the way of a file; move it away")
            folder, name = tx.root.place(path)
            os.rmdir(name, dir_fd=folder)       # is never done to a file, but allowed or not
        except (NotADirectoryError, FileNotFoundError):
            pass
        except OSError as error:
            error.filename = tx.root.name(path)
            raise


def mounted_places(root: Root) -> set:
    """The paths in ROOT on which something is mounted, where /proc says so."""
    try:
        with open_file("/proc/self/mountinfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()
    top = os.path.join(os.path.realpath(root.path), "")
    places = (line.split(b" ")[4].replace(b"\\040", b" ").decode(errors="replace")
              for line in lines)
    return {place[len(top):] for place in places if place.startswith(top)}


def check_room(tx: Transaction) -> None:
    """Fail unless each file system has the room for what is staged on it."""
    sizes = {}                          # folder -> bytes, and files, of what comes into it

    def count(path: str, size: int, files: int) -> None:
        parent = path.rpartition("/")[0]
        before = sizes.get(parent, (0, 0))
        sizes[parent] = (before[0] + size, before[1] + files)

    for path, drop in tx.previous.items():
        there = tx.root.lstat(drop)
        count(path, -there.st_size if there else 0, 0)
        count(tx.written(path), tx.claims[path][1]["size"], 1)
    for package in tx.plan.new:
        for entry in package.files():
            count(entry["path"], -(entry.get("size", 1) // -4096 * 4096),
                  entry["type"] != "dir" or entry["path"] in tx.folders)
    needed = {}                         # device -> (bytes, files, a folder on it)
    for folder, more in sizes.items():
        while folder in tx.folders:
            folder = folder.rpartition("/")[0]
        size, files, _ = needed.get(device := tx.root.device(folder), (0, 0, ""))
        needed[device] = (size + more[0], files + more[1], folder)
    for size, files, folder in needed.values():
        check_space(tx.root, folder, size, files)


def check_space(root: Root, folder: str, size: int, files: int = 0) -> None:
    """Fail unless SIZE bytes in so many new FILES fit on FOLDER's file system (without blocks, or
    inodes, it has no limit)."""
    file_system, what = os.fstatvfs(root.folder(folder)), root.name(folder)
    free = file_system.f_bavail * file_system.f_frsize
    if file_system.f_blocks and free < size:
        raise Fail(f"{what}: {human_size(size)} needed, {human_size(free)} free; make room first")
    if file_system.f_files and file_system.f_favail < files:
        raise Fail(f"{what}: {counted(files, 'inode')} needed, {file_system.f_favail} free; make "
                   "room first: remove files, however small")


# -- stage

def stage(tx: Transaction) -> None:
    """Write all that is new under its temporary name, and the two journals."""
    tx.root.replace(STAGED, [journal_text(undoing_lines(tx))])
    for path, staged in tx.folders.items():
        stage_folder(tx, path, staged)
    for path, entry, content in final_members(tx.plan.new):
        stage_entry(tx, path, entry, content)
    for path, (_, entry) in tx.links.items():
        stage_link(tx.root, tx.staged(path), entry)
    for final, data in tx.texts.items():
        stage_entry(tx, final, text_entry(final, data), (data,))
    tx.root.draft(JOURNAL, [journal_text(finishing_lines(tx))])


def undoing_lines(tx: Transaction) -> object:
    """The lines of the journal that undoes what is staged."""
    yield from (["mount", path] for path in tx.mounts)
    for final in tx.temporaries:
        yield ["rmtree" if final in tx.folders else "rm", tx.written(final)]


def finishing_lines(tx: Transaction) -> object:
    """The lines of the journal that finishes what is committed, the database last."""
    yield from (["mount", path] for path in tx.mounts)
    for path, drop in sorted(tx.previous.items()):
        yield ["copy", tx.written(path), tx.staged(path), drop]
    for is_database in (False, True):
        yield from (line for line in change_lines(tx)
                    if line[-1].startswith(STATE + "/") == is_database)


def change_lines(tx: Transaction) -> object:
    """The lines of the journal for all that comes and goes."""
    asides = {final: tx.staged(final) + ".old" for final in sorted(tx.swaps)}
    asides.update((final, final + ".old") for final in sorted(tx.previous))
    for final in tx.temporaries:
        if final not in asides:
            yield ["mv", tx.staged(final), final]
    for final, aside in asides.items():     # last: /bin becomes a symlink once all is in /usr/bin
        yield ["aside", tx.staged(final), final, aside]
        yield ["mv", tx.staged(final), final]
    yield from tx.removals


def runs_by(root: Root, path: str) -> bool:
    """Whether the kernel that runs is PATH, as the boot loader told it."""
    try:
        with root.open("proc/cmdline") as file:
            return f"BOOT_IMAGE=/{os.path.basename(path)}".encode() in file.read().split()
    except FileNotFoundError:
        return False


def final_members(packages: list) -> object:
    """(path, entry, content in pieces) of all that the PACKAGES bring to a root; the content must
    be read to its end."""
    meter = Meter(f"writing {counted(len(packages), 'package')}",
                  sum(package.info["size"] for package in packages))
    for package, members in unpack_all(packages):
        for entry, content in members:
            meter.item = final_path(package, entry)
            yield meter.item, entry, meter.count(content)
    progress("")


def final_path(package: Package, entry: dict) -> str:
    """Where an entry of PACKAGE's archive goes."""
    path = entry["path"]
    if path == RECORD:
        return f"{INSTALLED}/{package.name}"
    if path.startswith(".lpkg/"):
        return script_path(package.name, path.rpartition("/")[2])
    return path


def mode_here(entry: dict) -> int:
    """The mode that ENTRY gets from this user. One who isn't root can't give files away, so setuid
    would run them as the wrong user; and must be able to fill and to empty each directory."""
    mode = int(entry["mode"], 8)
    if os.geteuid() == 0:
        return mode
    return mode | 0o700 if entry["type"] == "dir" else mode & ~SETUID


def own(descriptor: int, entry: dict) -> None:
    """Give an open file the owner and the mode of ENTRY, in this order: chown clears setuid."""
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, entry["uid"], entry["gid"])
        os.fchmod(descriptor, mode_here(entry))
    except PermissionError:
        if not is_fat(descriptor):
            raise


def stage_folder(tx: Transaction, path: str, staged: str) -> None:
    """Make the directory that will be PATH."""
    folder, name = tx.root.place(staged)
    os.mkdir(name, 0o700, dir_fd=folder)
    own(tx.root.folder(staged), tx.claims[path][1] if path in tx.claims else folder_entry(path))


def stage_entry(tx: Transaction, path: str, entry: dict, content: object) -> None:
    """Make the temporary of ENTRY, which will be PATH; the CONTENT of a conffile that isn't wanted
    is checked too."""
    temporary = tx.written(path + ".lpkg-new" if path in tx.beside else path)
    try:
        if entry["type"] == "dir" or path in tx.left:
            for _ in content:
                pass
        elif entry["type"] == "link":
            stage_link(tx.root, temporary, entry)
        else:
            folder, name = tx.root.place(temporary)
            descriptor = os.open(name, NEW_FLAGS, 0o600, dir_fd=folder)
            try:
                write_all(descriptor, content)
                own(descriptor, tx.owners.get(path, entry))
            finally:
                os.close(descriptor)
    except OSError as error:
        error.filename = tx.root.name(path)     # not that of the temporary
        raise


def stage_link(root: Root, temporary: str, entry: dict) -> None:
    """Make the symlink of ENTRY."""
    folder, name = root.place(temporary)
    os.symlink(entry["target"], name, dir_fd=folder)
    if os.geteuid() == 0:
        os.chown(name, entry["uid"], entry["gid"], dir_fd=folder, follow_symlinks=False)


# -- the scripts of packages

def script_path(name: str, script: str) -> str:
    """Where the SCRIPT of the package NAME is."""
    return f"{SCRIPTS}/{name}.{script}"


def archived_texts(packages: list) -> list:
    """The paths of what the archives of PACKAGES bring of the database: records and scripts."""
    return [final_path(package, entry) for package in packages for entry in
            [record_entry(0), *map(script_entry, package.info["scripts"])]]


def scripts_before(plan: Plan) -> list:
    """(package, script, arguments) of what is to be run before the commit of PLAN."""
    calls = []
    for package in plan.new:
        old = plan.old.get(package.name)
        if old:
            calls.append((package, "pre-upgrade", [package.version, old.version]))
        else:
            calls.append((package, "pre-install", [package.version]))
    for package in plan.removed():
        calls.append((package, "pre-remove", [package.version]))
        calls.append((package, "oninstall", ["remove", "/"]))
    return [call for call in calls if has_script(*call[:2])]


def has_script(package: Package, name: str) -> bool:
    """Whether PACKAGE has a script called NAME."""
    return any(script["name"] == name for script in package.info["scripts"])


def can_run(tx: Transaction) -> bool:
    """Whether scripts can run in the root as it is: it has a shell, of this architecture."""
    return not scripts_before(tx.plan) or run_script(tx.root, "bin/sh", ["-c", ":"]) == 0


def prepare(tx: Transaction) -> None:
    """Run the scripts for before the change; Fail, and so undo all, when one fails. Where there is
    no shell yet, pre-install is in the queue."""
    ready = can_run(tx)
    for package, script, arguments in scripts_before(tx.plan):
        path = script_path(package.name, script)
        status = run_script(tx.root, tx.staged(path) or path, arguments) if ready else None
        if status:
            way_out = f"; to do without it, remove {tx.root.name(path)}" * (not tx.staged(path))
            raise Fail(f"{package}: its script {script} ended with status {status}; nothing was "
                       f"changed{way_out}")
        if status is None and (ready or script != "pre-install"):
            say(f"{package}: its script {script} can't run here and is passed over")


def stop_services(tx: Transaction) -> None:
    """Stop what runs of the services that go: where an init runs in this root, as in none that is
    only looked at from outside."""
    if tx.root.lstat("run/linit.sock") or tx.root.lstat("run/linit"):
        for service in lost_services(tx.plan):
            if run_script(tx.root, f"etc/init.d/{service}", ["stop"]):
                say(f"{service} could not be stopped")


def queue_after(plan: Plan, queue: list, ready: bool) -> list:
    """The QUEUE as it is after PLAN: lines [state, package, script, arguments…], what a package
    needs before it; READY: scripts can run before the change."""
    touched = {package.name for package in plan.new} | set(plan.old)
    lines = [line for line in queue if line[1] not in touched]
    unfinished = {line[1] for line in queue if line[2] in ("pre-install", "post-install")
                  or line[2:4] == ["oninstall", "install"]}
    for package in needed_first(plan.new):  # an upgrade of what never ran its scripts installs it
        old = plan.old.get(package.name) if package.name not in unfinished else None
        versions = [package.version] + ([old.version] if old else [])
        calls = [] if old or ready else [("pre-install", versions)]
        calls += [("post-upgrade" if old else "post-install", versions),
                  ("oninstall", ["update" if old else "install", "/"])]
        lines += [["waits", package.name, script, *arguments] for script, arguments in calls
                  if has_script(package, script)]
    lines += [["waits", package.name, "post-remove", package.version]
              for package in plan.removed() if has_script(package, "post-remove")]
    return lines


def needed_first(packages: list) -> list:
    """PACKAGES, each after those that it depends on, as far as that goes in circles."""
    answers = by_answer(packages)
    placed = {}
    seen = set()
    left = packages[::-1]
    while left:
        package = left[-1]
        needs = [other for relation in package.relations("depends")
                 for other in answers.get(relation.name, ()) if other.name not in seen]
        if package.name not in seen and needs:
            left += needs
        else:
            placed.setdefault(package.name, left.pop())
        seen.add(package.name)
    return list(placed.values())


def load_queue(root: Root) -> list:
    """The scripts that are still to be run, as queue_after has them."""
    queue = [line.split("\t") for line in root.lines(QUEUE)]
    for line in queue:
        if len(line) < 3 or not is_name(line[1]) or line[2] not in SCRIPT_NAMES:
            raise Fail(f"{root.name(QUEUE)}: line {line!r} is not understood; remove it")
    return queue


def queue_text(queue: list) -> bytes:
    """The file of a QUEUE."""
    return lines_text(map("\t".join, queue))


def run_queue(root: Root, again: bool = False) -> int:
    """Run the scripts that wait, and AGAIN those that failed: the number of those that failed."""
    queue = load_queue(root)
    left = []
    failed = 0
    for number, line in enumerate(queue):
        state, name, script, *arguments = line
        status = None
        path = script_path(name, script)
        if root.lstat(path) is None:        # it was the last of a package that is gone, and it ran
            status = 0
        elif again or state == "waits":
            if sys.stderr.isatty():
                say(f"{name}: {script}")    # a line of its own: what the script prints comes below
            status = run_script(root, path, arguments)
        if status == 0 and root.lstat(f"{INSTALLED}/{name}") is None:
            root.remove(path)
        if status:
            way_out = ("" if root.lstat(f"{INSTALLED}/{name}") else
                       f"; to do without it, remove {root.name(path)}")
            say(f"{name}: its script {script} ended with status {status}; mend what it says, and "
                f"`lpkg fix` runs it again{way_out}")
            line[0] = "failed"
            failed += 1
        if status != 0:
            left.append(line)
        if status is not None:
            root.replace(QUEUE, [queue_text(left + queue[number + 1:])])
    if not left:
        root.remove(QUEUE)
    waiting = [line for line in left if line[0] == "waits"]
    if waiting:
        names = ", ".join(sorted({line[1] for line in waiting}))
        say(f"{names}: {counted(len(waiting), 'script')} can't run here (no shell yet, another "
            "architecture, not root, or another user's root), but will when the root boots")
    return failed


def run_script(root: Root, path: str, arguments: list) -> "int | None":
    """Run the file PATH inside ROOT, its output on stderr: its exit status, that of a SIGKILL when
    it took too long; None when it can't be run there."""
    if not is_own(root, path):
        return None
    import _signal                      # built in: Python's own files may be others by now
    folder = root.folder("")
    sys.stderr.flush()
    reader, writer = os.pipe()          # closed by the exec; a byte in it says that it failed
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()                 # no terminal either, where it would wait for an answer
            os.fchdir(folder)
            start_afresh(writer)
            os.chroot(".")
            execute("/" + path, arguments)
        except BaseException:
            os.write(writer, b"!")
        finally:
            os._exit(127)
    os.close(writer)
    try:
        failed = os.read(reader, 1)
        status = wait_for_script(pid)
    except KeyboardInterrupt:
        os.killpg(pid, _signal.SIGINT)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reader)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    return None if failed else status


def execute(path: str, arguments: list) -> None:
    """Become the script PATH; where nothing can be executed from its file system (noexec, as /var
    may be), its interpreter."""
    words = [path, *arguments]
    environment = dict(SCRIPT_ENVIRONMENT)
    try:
        os.execve(path, words, environment)
    except PermissionError:
        first = os.read(os.open(path, READ_FLAGS), 256).partition(b"\n")[0]
        if not first.startswith(b"#!"):
            raise
        interpreter = first[2:].strip().split(None, 1)
        os.execve(interpreter[0], [*interpreter, *words], environment)
    except OSError as error:
        if not os.path.exists(path):
            raise
        is_missing = error.errno == errno.ENOENT    # its interpreter: the shell says so, and ends
        way = ["-c", 'exec "$0" "$@"'] if is_missing else []
        os.execve("/bin/sh", ["/bin/sh", *way, *words], environment)


def is_own(root: Root, path: str) -> bool:
    """Whether the file PATH in ROOT, and all directories that it is in, are this user's: root runs
    nothing that another user can have put there."""
    parts = path.split("/")
    places = [root.lstat("/".join(parts[:count])) for count in range(1, len(parts) + 1)]
    return all(place is None or place.st_uid == os.geteuid()
               for place in [os.fstat(root.folder("")), *places])


def start_afresh(spared: int) -> None:
    """Have this process inherit nothing of lpkg's caller but where stderr goes: no descriptors, but
    the one that is SPARED until it executes a program, no limits or ignored signals."""
    import _signal
    import resource
    descriptors = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else range(1024)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    for descriptor in {*map(int, descriptors), nothing} - {0, 1, 2, spared}:
        attempt(os.close, descriptor)
    for number in range(1, 65):
        attempt(_signal.signal, number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for name, *limits in SCRIPT_LIMITS:
        number = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(number)    # which not everybody may raise
        attempt(resource.setrlimit, number, (most, most))
        attempt(resource.setrlimit, number, tuple(limits))


def attempt(action: object, *arguments: object) -> None:
    """ACTION(ARGUMENTS), where the system allows it."""
    try:
        action(*arguments)
    except (OSError, ValueError):
        pass


def wait_for_script(pid: int) -> int:
    """The exit status of the process PID, which is killed with its group when it takes too long;
    SIGCHLD is blocked."""
    import _signal
    end = time.monotonic() + SCRIPT_SECONDS
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        left = end - time.monotonic()
        if left <= 0:
            say(f"a script takes longer than {SCRIPT_SECONDS} s and is killed")
            os.killpg(pid, _signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        _signal.sigtimedwait({_signal.SIGCHLD}, left)
    return os.waitstatus_to_exitcode(ended[1])


# -- commit, apply, forget

def commit(tx: Transaction) -> None:
    """Make what is staged durable, then the journal: from here on the change will happen."""
    printable("\n")                     # loads its codec now: Python may be another one in a moment
    if os.geteuid() == 0:
        import resource                 # for scripts
    os.sync()
    tx.root.publish(JOURNAL)


def apply(root: Root, journal: bytes) -> None:
    """Carry out the lines of JOURNAL, as they stand."""
    for line in journal_lines(journal):
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
        target = line[-1].rpartition("/")[2]
        if verb == "mount":
            if root.device(path) == root.device(""):
                raise Fail(f"{root.name(path)}: mount what belongs there")
        elif verb == "copy":
            copy_file(root, *line[1:])
        elif verb == "dir":
            set_folder(folder, name, line[2])
        elif verb == "rmdir":
            remove_folder(folder, name)
        elif verb == "rmtree":
            remove_tree(folder, name)
        elif verb == "aside":           # while what replaces it is there
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            put_aside(folder, line[2].rpartition("/")[2], target)
        elif verb == "mv":
            try:
                disarm(folder, name, target)
            except FileNotFoundError:   # the target; if it is the source, that is found next
                pass
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            disarm(folder, name, name)
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        error.filename = root.name(line[2] if verb in ("mv", "aside") else path)
        raise
    except Fail as error:
        if verb in ("mv", "aside", "copy", "mount"):
            raise
        say(f"{path}: left alone: {error}")


def put_aside(folder: int, name: str, target: str) -> None:
    """Rename NAME to TARGET, which goes later. An overlay, as containers have, renames no directory
    of its lower layer: that goes now."""
    try:
        os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        remove_tree(folder, name)


def copy_file(root: Root, path: str, target: str, dropped: str) -> None:
    """Move the file PATH to TARGET, on another file system, where DROPPED makes room for it."""
    with root.open(path) as file:
        root.remove(dropped)
        root.remove(target)
        with root.create(target) as copy:
            write_all(copy.fileno(), pieces(file))
            os.fsync(copy.fileno())
    os.fsync(root.place(target)[0])
    root.remove(path)


def set_folder(folder: int, name: str, said: str) -> None:
    """Give the directory NAME the owner and mode that are SAID, if it is one."""
    try:
        descriptor = os.open(name, FOLDER_FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        return
    try:
        own(descriptor, dict(read_ownership(said), type="dir"))
    finally:
        os.close(descriptor)


def remove_folder(folder: int, name: str) -> None:
    """Remove the directory NAME if it is empty, and one."""
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY,
                               errno.EROFS, errno.EPERM):
            raise


def remove_tree(folder: int, name: str) -> None:
    """Remove NAME and, if it is a directory, what is in it, never through a symlink."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    inner = os.open(name, FOLDER_FLAGS, dir_fd=folder)
    try:
        for entry in os.scandir(inner):
            disarm(inner, entry.name, entry.name)
            remove_tree(inner, entry.name)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def disarm(folder: int, source: str, name: str) -> None:
    """Clear setuid and setgid of the file NAME before SOURCE takes its place, or it goes: a hard
    link to it elsewhere, which any user may have made, would keep its rights. FileNotFoundError
    where there is no NAME, or no SOURCE, which has taken that place already."""
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISREG(mode) and mode & SETUID:
        os.stat(source, dir_fd=folder, follow_symlinks=False)
        with open_file(name, folder) as file:
            os.fchmod(file.fileno(), mode & 0o1777)


# ---- commands on a root ------------------------------------------------------------------------

class State:
    """What a command knows of the ROOT that it works on: the packages INSTALLED, the WORLD (name ->
    relation), the SERIALS that were seen."""

    def __init__(self, options: "Options", root: Root):
        self.options = options
        self.root = root
        self.installed = load_installed(self.root)
        self.world = {name: relation for name, relation in load_world(self.root).items()
                      if name in self.installed}
        self.serials = Serials(self.root.lines(SERIALS))
        self.is_new = not (self.installed or self.root.names(KEYS) or self.root.read(REPOS))

    def repositories(self, local: list = (), fresh: bool = False) -> list:
        """The repositories; LOCAL packages may say for which architecture."""
        arch = choose_arch(self.options, self.installed, local)
        found = load_repositories(self.options, self.root, arch, self.serials, fresh)
        if self.is_new:
            name_repositories(self.options, found)
        return found

    def universe(self, local: list = (), fresh: bool = False) -> Universe:
        """All that may be chosen, with LOCAL packages; FRESH: the repositories are asked anew."""
        return Universe(self.installed, self.repositories(local, fresh), local)

    def newest(self) -> Universe:
        """All that may be chosen; the repositories are asked anew, unless --offline; Fail where
        there is none."""
        universe = self.universe(fresh=not self.options.offline)
        if not universe.repositories:
            raise Fail(NO_REPOSITORY)
        return universe

    def winners(self) -> dict:
        """PATH -> (package, entry) of the alternatives of what is installed."""
        return winners(list(self.installed.values()), load_preferences(self.root))

    def packages(self, names: list) -> list:
        """The installed packages called NAMES, all of them for none; Fail for one that isn't
        there."""
        for name in names:
            if name not in self.installed:
                raise Fail(f"{name} is not installed{meant(name, self.installed)}")
        return [self.installed[name] for name in names] or list(self.installed.values())


READ, CHANGE, MAKE = "read", "change", "make"       # what a verb does with the root


def open_root(options: "Options", purpose: str) -> State:
    """The State of the root of --root. To be changed, or made if need be, it is locked, and what an
    earlier lpkg left is finished or undone, unless it is only to be said what would be done."""
    has_root = check_root(options.root, purpose == MAKE)
    root = Root(options.root)
    if has_root and purpose != READ and not options.dry_run:
        take_lock(root)
        recover(root)
        run_queue(root)
    return State(options, root)


def is_file_word(word: str) -> bool:
    """Whether WORD means a .lpkg file, not a package's name."""
    return "/" in word or word.endswith(".lpkg")


def read_locals(options: "Options", words: list) -> list:
    """The packages among WORDS that are files; Fail without --allow-unsigned."""
    paths = [word for word in words if is_file_word(word)]
    if paths and not options.allow_unsigned:
        raise Fail(f"{paths[0]}: a file is not signed; if you trust it, say --allow-unsigned")
    if paths and options.tar is not None and len(paths) == len(words):
        say(f"{counted(len(paths), 'local package')}, unsigned")
    elif paths:
        say(f"WARNING: NOT SIGNED: {', '.join(paths)}: whoever made it decides what runs here")
    return [read_local(path) for path in paths]


def choose_arch(options: "Options", installed: dict, local: list) -> str:
    """The architecture: of --arch, of what is installed, of the local files, of this machine."""
    known = next(iter([*installed.values(), *local]), None)
    arch = options.arch or (known.info["arch"] if known else machine())
    if not is_name(arch):
        raise Usage(f"--arch {arch}: no name of an architecture")
    for package in local:
        if package.info["arch"] != arch:
            raise Fail(f"{package}: made for {package.info['arch']}, and the root is {arch}")
    return arch


def cmd_install(options: "Options", state: State) -> int:
    """Install packages with what they need, or upgrade them."""
    local = read_locals(options, options.words)
    names = [word for word in options.words if not is_file_word(word)]
    try:
        universe = state.universe(local)
    except Later as error:
        then = {**state.installed, **{package.name: package for package in local}}
        if names or any(unmet(list(then.values()))):
            raise
        say(f"{error}; the files are taken without it")     # as from a stick, where no network is
        universe = Universe(state.installed, [], local)
    if not (options.repo or options.offline) and is_news(universe, names):
        universe = state.universe(local, fresh=True)
    plan = plan_install(universe, state.world, names, local)
    if plan.is_empty() and plan.world == state.world:
        return nothing_to_do(options, "it is installed already")
    if plan.is_empty():
        asked = [relation for word, relation in world_changes(plan, state.world) if word == "asked"]
        say(f"it is installed already; from now on you ask for {', '.join(asked)}")
    return change_root(state, plan)


def is_news(universe: Universe, words: list) -> bool:
    """Whether one of WORDS is nothing that is installed or was offered when update looked."""
    relations = [parse_relation(word.partition("@")[0]) for word in words]
    return not all(any(package.satisfies(one) for package in universe.named(one.name))
                   for one in relations)


def cmd_downgrade(options: "Options", state: State) -> int:
    """Install an older version of packages, and hold them there: the one that is named, else the
    next older one."""
    packages = state.packages([word.partition("=")[0] for word in options.words])
    universe = state.universe()
    options.words = [word if "=" in word else older(universe, package)
                     for word, package in zip(options.words, packages)]
    return cmd_install(options, state)


def older(universe: Universe, package: Package) -> str:
    """`NAME=VERSION` of the newest version below that of PACKAGE."""
    for other in universe.named(package.name):
        if other.name == package.name and other.version_key() < package.version_key():
            return f"{other.name}={other.version}"
    raise Fail(f"{package}: no repository has an older version of it")


def cmd_hold(options: "Options", state: State) -> int:
    """Keep packages in the version that they have, whatever is upgraded."""
    return change_world(state, {package.name: f"{package.name}={package.version}"
                                for package in state.packages(options.words)})


def cmd_unhold(options: "Options", state: State) -> int:
    """Let packages be upgraded again."""
    return change_world(state, {package.name: package.name
                                for package in state.packages(options.words)
                                if package.name in state.world})


def change_world(state: State, relations: dict) -> int:
    """Have the world ask for RELATIONS (name -> relation)."""
    plan = settle(state.installed, state.installed, {**state.world, **relations})
    if plan.world == state.world:
        return nothing_to_do(state.options, "it is so already")
    return change_root(state, plan)


def cmd_upgrade(options: "Options", state: State) -> int:
    """Upgrade installed packages, all of them when none is named, with what they need then."""
    names = [package.name for package in state.packages(options.words)]
    universe = state.newest()
    plan = plan_upgrade(universe, state.world, names)
    behind = left_behind(universe, plan, names)
    reasons = [f"{name} {package.version} stays, though "
               f"{newer if newer.version != package.version else 'another build'} is available: "
               f"{why_behind(universe, state.world, plan, package, newer)}"
               for name, (package, newer) in behind.items()]
    late = max(one.late for one in universe.repositories)
    if plan.is_empty():
        reason = "nothing newer can be had now" if behind or late else NEWEST
        status = nothing_to_do(options, reason)
    else:
        status = change_root(state, plan)
    for reason in reasons:
        say(reason)
    for name, (package, newer) in behind.items():
        if name in options.words or not is_held_back(universe, state.world, package, newer):
            status = 1
    return status or late


NEWEST = "what is installed is the newest"


def left_behind(universe: Universe, plan: Plan, names: list) -> dict:
    """NAME -> (package, the newer one that is there) of those of NAMES that PLAN doesn't bring to
    the newest version."""
    there = {package.name: package for package in plan.new + plan.stay}
    behind = {}
    for name in sorted(there.keys() & set(names)):
        package, old = there[name], universe.installed[name]
        newer = universe.replacing(old) + [
            other for other in universe.named(name) if other.name == name
            and other not in (package, old) and other.version_key() >= package.version_key()]
        if newer:
            behind[name] = (package, newer[0])
    return behind


def is_held_back(universe: Universe, world: dict, package: Package, newer: Package) -> bool:
    """Whether it is the WORLD's relation for PACKAGE that NEWER doesn't fit."""
    it = stays(universe, package, world)
    return it.is_frozen() or it.is_held() and not it.met_by(newer)


def why_behind(universe: Universe, world: dict, plan: Plan, package: Package,
               newer: Package) -> str:
    """Why PLAN has PACKAGE and not the NEWER one, and what would help."""
    if is_held_back(universe, world, package, newer):
        return f"you hold it; `lpkg unhold {package.name}` ends that"
    it = [Want(newer.name, "you want", newer, asked=True)]
    rest = [Want(other.name, "the upgrade brings", other) for other in plan.new
            if other.name != newer.name]
    try:
        plan_change(universe, world, it)
        plan_change(universe, world, rest + it, universe.installed.keys())
    except Fail as error:
        return str(error)
    return "with it, others could not be upgraded"


def cmd_update(options: "Options", state: State) -> int:
    """Fetch the indexes of the repositories anew."""
    found = state.newest().repositories
    for repository in found:
        if not repository.late:
            say(f"{repository.name}: {repository.url}")
    return max(one.late for one in found)


def cmd_fetch(options: "Options", state: State) -> int:
    """Fetch what an install of packages, or an upgrade of all, would fetch, into the cache; what is
    named and installed too, for a fix, or an undo."""
    if options.words:
        universe = state.universe()
        plan = plan_install(universe, state.world, options.words)
        names = {want.relation.name for want in parse_words(options.words, universe.repositories)}
        again = [find_old(state, universe, package.name, package.version, package.sha256)
                 for package in plan.stay if package.name in names]
    else:
        plan, again = plan_upgrade(state.newest(), state.world, list(state.installed)), []
    state.root.make_folder(CACHE)
    fetch_packages(plan.new + again, state.root, CACHE)
    say(f"{counted(len(plan.new + again), 'package')} in {state.root.name(CACHE)}")
    return 0


def cmd_clean(options: "Options", state: State) -> int:
    """Remove the packages that were fetched, and the indexes of repositories that are gone."""
    known = dict(parse_repositories(state.root.lines(REPOS)))
    paths = [f"{CACHE}/{name}" for name in state.root.names(CACHE)]
    paths += [f"{INDEXES}/{name}" for name in state.root.names(INDEXES) if name not in known]
    sizes = {path: there.st_size for path in paths if not stat.S_ISDIR(
        (there := state.root.lstat(path)).st_mode)}     # as lost+found is
    for path in sizes:
        state.root.remove(path)
    say(f"{counted(len(sizes), 'file')}, {human_size(sum(sizes.values()))} freed")
    return 0


def cmd_remove(options: "Options", state: State) -> int:
    """Remove packages."""
    plan = plan_remove(state.installed, state.world, options.words)
    if plan.is_empty():
        return nothing_to_do(options, "nothing of that is installed")
    status = change_root(state, plan)
    rest = {package.name: package for package in plan.stay}
    unneeded = set(rest) - set(reasons(rest, plan.world))
    if unneeded:
        unneeded &= set(reasons(state.installed, state.world))
    if unneeded:
        names = ", ".join(sorted(unneeded))
        say(f"nobody needs {names} any more; `lpkg autoremove` removes that")
    return status


def cmd_autoremove(options: "Options", state: State) -> int:
    """Remove what came along with others and is needed by none any more."""
    needed = reasons(state.installed, state.world)
    plan = settle(state.installed, {name: state.installed[name] for name in needed}, state.world)
    if plan.is_empty():
        return nothing_to_do(options, "all that is installed is needed")
    return change_root(state, plan)


def change_root(state: State, plan: Plan, preferences: "dict | None" = None) -> int:
    """Show PLAN, ask, and carry it out, with PREFERENCES among alternatives that are other ones
    than now: in a new root when there is none yet, which vanishes again if that fails."""
    options, root = state.options, state.root
    preferences = load_preferences(root) if preferences is None else preferences
    show_plan(options, plan, free_space(options.root), preferences)
    if options.dry_run:
        return 0
    if not plan.is_empty():             # else all that changes was named
        confirm(options.yes)
    if root.lock is None:
        create_root(root)
    texts = root_texts(options) if state.is_new else {}
    if state.serials.text() != root.read(SERIALS):
        texts[SERIALS] = state.serials.text()
    is_preference = plan.is_empty() and plan.world == state.world
    if not (is_preference or plan.repair):      # which would be what undo undoes
        texts[HISTORY] = history_text(root.read(HISTORY), plan, state.world,
                                      " ".join([options.verb, *options.words]))
    tx = Transaction(root, plan, texts, preferences)
    try:
        run_transaction(tx)
    except BaseException:
        if root.lstat(JOURNAL) is None and not root.names(INSTALLED):
            discard_root(root)
        raise
    return 1 if run_queue(root) else 0


def show_plan(options: "Options", plan: Plan, free: "int | None", preferences: dict) -> None:
    """PLAN, on stdout for --dry-run, else on stderr."""
    if options.dry_run and options.json:
        show_json([plan_object(package, plan) for package in [*plan.new, *plan.removed()]])
        return
    for line in plan_lines(plan, free, preferences):
        (show if options.dry_run else say)(line)


def nothing_to_do(options: "Options", reason: str) -> int:
    """Say so; an empty plan is an array, too."""
    say(f"nothing to do: {reason}")
    if options.dry_run and options.json:
        show_json([])
    return 0


def plan_object(package: Package, plan: Plan) -> dict:
    """What PLAN does with PACKAGE, for --json."""
    old = plan.old.get(package.name)
    row = package_row(package, old)[0] if package is not old else "remove"
    return {"action": row, "name": package.name, "version": package.version,
            "old_version": old.version if old else None, "download": package.size,
            "installed_size": package.installed_size()}


def free_space(path: str) -> "int | None":
    """Bytes that are free where PATH is, or will be; None on a file system without a limit."""
    while not os.path.isdir(path):
        path = os.path.dirname(os.path.abspath(path))
    there = os.statvfs(path)
    return there.f_bavail * there.f_frsize if there.f_blocks else None


# -- history and undo
#
# A transaction in the history is a line of NUMBER, TIME, COMMAND and, each a column of words, its
# changes: `+ NAME VERSION SHA256` came, `-` went, `= NAME VERSION SHA256 VERSION SHA256` was
# replaced, `asked RELATION` and `unasked RELATION` changed the world. Undoing one is a transaction,
# too.

CHANGES = {"+": 4, "-": 4, "=": 6, "asked": 2, "unasked": 2}


def history_text(before: bytes, plan: Plan, world: dict, title: str) -> bytes:
    """The history BEFORE, with the transaction of PLAN, called TITLE, in a system of this WORLD."""
    lines = before.split(b"\n")[:-1]
    last = lines[-1].partition(b"\t")[0][:18] if lines else b""
    number = int(last) + 1 if last.isdigit() else 1
    changes = []
    for package in plan.new:
        old = plan.old.get(package.name)
        word = "=" if old else "+"
        changes.append((word, package.name, *(stamp(old) if old else ()), *stamp(package)))
    changes += [("-", package.name, *stamp(package)) for package in plan.removed()]
    changes += world_changes(plan, world)
    command = title.encode("unicode_escape").decode()   # a file's name may hold anything
    columns = (str(number), str(int(time.time())), command, *map(" ".join, changes))
    lines = [*lines[1 - HISTORY_LENGTH:], "\t".join(columns).encode()]
    return b"".join(line + b"\n" for line in lines)


def world_changes(plan: Plan, world: dict) -> list:
    """(`asked` or `unasked`, relation) of what PLAN changes in this WORLD."""
    asked, before = set(plan.world.values()), set(world.values())
    return [*(("asked", relation) for relation in sorted(asked - before)),
            *(("unasked", relation) for relation in sorted(before - asked))]


def stamp(package: Package) -> tuple:
    """(version, SHA-256) of PACKAGE."""
    return package.version, package.sha256 or "-"


def load_history(root: Root) -> list:
    """The transactions of ROOT: dicts of number, time, command and changes."""
    found = []
    for line in root.lines(HISTORY):
        try:
            number, when, command, *changes = line.split("\t")
            found.append({"number": int(number[:18]), "time": int(when[:18]),
                          "command": command.encode().decode("unicode_escape"),
                          "changes": list(map(read_change, changes))})
        except (ValueError, Fail) as error:
            raise Fail(f"{root.name(HISTORY)}: line {line[:60]!r} is not understood: {error}; "
                       "remove the file") from None
    return found


def read_change(text: str) -> list:
    """The words of a change in the history."""
    words = text.split(" ")
    if (len(words) != CHANGES.get(words[0]) or not all(map(is_version, words[2::2]))
            or not (is_name(words[1]) or len(words) == 2 and parse_relation(words[1]))):
        raise ValueError(f"{text[:60]!r} is not a change")
    return words


def history_line(one: dict) -> str:
    """A transaction as a person reads it."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(one["time"], 1 << 37)))
    changes = []
    for word, name, *rest in one["changes"]:
        if word in "+-":
            changes.append(f"{word}{name} {rest[0]}")
        elif word == "=":
            changes.append(f"{name} {rest[0]} -> {rest[2]}")
    return f"{one['number']:4}  {when}  {one['command']}: {', '.join(changes) or 'no package'}"


def cmd_history(options: "Options", state: State) -> int:
    """List what was changed, the latest last."""
    print_all(options, load_history(state.root), history_line)
    return 0


def cmd_undo(options: "Options", state: State) -> int:
    """Undo a transaction: the one with that number in the history, else the latest."""
    history = load_history(state.root)
    wanted = options.words[0] if options.words else str(history[-1]["number"] if history else 0)
    one = next((one for one in history if str(one["number"]) == wanted), None)
    if one is None:
        raise Fail(f"no transaction {wanted} is in the history; `lpkg history` shows them")
    plan = plan_undo(state, one["changes"])
    if plan.is_empty() and plan.world == state.world:
        return nothing_to_do(options, "that is as it was before")
    for word, relation in world_changes(plan, state.world) if plan.is_empty() else ():
        say(f"{relation} is {'then' if word == 'asked' else 'no longer'} asked for")
    return change_root(state, plan)


def plan_undo(state: State, changes: list) -> Plan:
    """The plan that takes CHANGES back."""
    universe = state.universe()
    back = [find_old(state, universe, name, *rest[:2], exact=True)
            for word, name, *rest in changes if word in "-="]
    came = {words[1] for words in changes if words[0] == "+"}
    relations = {words[1] for words in changes if words[0] == "unasked"}.union(
        set(state.world.values()) - {words[1] for words in changes if words[0] == "asked"})
    world = {parse_relation(relation).name: relation for relation in relations}
    for package in back:                # to name a transaction is to name what it changed
        if package.name in world and not package.satisfies(parse_relation(world[package.name])):
            world[package.name] = package.name
    return plan_change(Universe(state.installed, universe.repositories, back), world,
                       [Want(package.name, "you undo to", package, asked=True) for package in back],
                       came)


def find_old(state: State, universe: Universe, name: str, version: str, sha256: str,
             exact: bool = False) -> Package:
    """The package that was there once, a repository's or the cache's, of EXACTly those bytes or, if
    none has them, of that version."""
    found = [package for one in universe.repositories for package in one.index.find(name)[0]
             if package.sha256 == sha256 or package.version == version and universe.owns(package)]
    found.sort(key=lambda package: package.sha256 != sha256)
    cached = f"{CACHE}/{fetched_name(name, version, sha256)}"
    known = is_sha256(sha256)
    if found and not (exact and known and found[0].sha256 != sha256):
        return found[0]
    if not known or state.root.lstat(cached) is None:
        raise Fail(f"{name} {version}, as it was, is in no repository any more, and not in the "
                   f"cache ({CACHE}, which `lpkg fetch` makes); if you have its .lpkg file: `lpkg "
                   "install FILE --allow-unsigned`")
    package = read_local(state.root.name(cached))
    if package.sha256 != sha256:
        raise Fail(f"{state.root.name(cached)}: not what was installed once; remove it")
    return package


# -- conffiles and repairs

def conffile_states(root: Root, packages: list) -> list:
    """Of the conffiles of PACKAGES, those that were changed or have a new version beside them: it
    counts while it is that of the package that is installed."""
    found = []
    for package in packages:
        for entry in package.files():
            path = entry["path"]
            if entry["type"] == "dir" or not is_conffile(package, path):
                continue
            wanted, there = entry_content(entry), content_there(root, path)
            if there != wanted:
                what = "missing" if there is None else "changed"
                if content_there(root, path + ".lpkg-new") == wanted:
                    what = "new version"
                found.append({"path": path, "what": what, "package": package.name})
    return found


def cmd_audit(options: "Options", state: State) -> int:
    """List the conffiles that were changed here, and those with a new version beside them."""
    print_all(options, conffile_states(state.root, state.packages(options.words)),
              lambda one: f"{one['path']}: {one['what']}")
    return 0


def cmd_fix(options: "Options", state: State) -> int:
    """Finish what is left to do: scripts that wait or failed, conffiles with a new version beside
    them; and put the packages that are named back as they were packed."""
    if options.dry_run and not options.words:
        return show_fixes(options, state)
    failed = 0 if options.dry_run else run_queue(state.root, again=True)
    if options.words:
        return change_root(state, plan_repair(state, options.words)) or bool(failed)
    for one in conffile_states(state.root, list(state.installed.values())):
        if one["what"] == "new version":
            fix_conffile(options, state.root, one["path"])
        elif one["what"] == "missing":
            say(f"{one['path']}: was deleted; {fix_command([one])} brings it back")
    faults = find_faults(state, state.packages([]))
    if faults:
        say(f"{faults[0]['path']}: {faults[0]['what']}; {fix_command(faults)} puts back what "
            "`lpkg verify` lists")
    return 1 if failed else 0


def show_fixes(options: "Options", state: State) -> int:
    """What fix would do, where no package is named."""
    todo = [{"name": line[1], "what": f"run {line[2]}"} for line in load_queue(state.root)]
    todo += [{"name": one["path"], "what": "merge"}
             for one in conffile_states(state.root, list(state.installed.values()))
             if one["what"] == "new version"]
    print_all(options, todo, lambda one: f"{one['name']}: {one['what']}")
    return 0


def plan_repair(state: State, names: list) -> Plan:
    """The plan that replaces the packages NAMES by themselves."""
    universe = state.universe()
    again = {package.name: find_old(state, universe, package.name, package.version,
                                    package.sha256)
             for package in state.packages(names)}
    return settle(state.installed, {**state.installed, **again}, state.world, repair=True)


def fix_conffile(options: "Options", root: Root, path: str) -> None:
    """Show how the new version of the conffile PATH differs, and take it, or keep what is there."""
    import difflib
    texts = [conffile_lines(root, name) for name in (path, path + ".lpkg-new")]
    for line in difflib.unified_diff(*texts, path, path + ".lpkg-new", lineterm=""):
        say(line)
    answer = "t" if options.take else "k" if options.keep else ask(
        "[t]ake the new one, [k]eep this one, anything else: later? ",
        f"{root.name(path)}: a new version lies beside it; say --take or --keep")[:1]
    if answer == "t":
        folder, name = root.place(path)
        os.rename(name + ".lpkg-new", name, src_dir_fd=folder, dst_dir_fd=folder)
    elif answer == "k":
        root.remove(path + ".lpkg-new")
    words = {"t": "the new one is taken", "k": "stays as it is"}
    say(f"{root.name(path)}: {words.get(answer, 'left for later')}")


def conffile_lines(root: Root, path: str) -> list:
    """The lines of the conffile PATH; of a symlink, where it points."""
    there = root.lstat(path)
    if there is not None and stat.S_ISLNK(there.st_mode):
        return [root.content(path, there)]
    return root.lines(path)


# -- alternatives, repositories, keys

def cmd_alternatives_list(options: "Options", state: State) -> int:
    """List the paths that several packages offer."""
    print_all(options, alternative_objects(state), lambda one: "{path} -> {target}  {package} "
              "{priority}{mark}".format(mark=" *" if one["current"] else "", **one))
    return 0


def cmd_alternatives_set(options: "Options", state: State) -> int:
    """Choose the package that has a path, or let the priorities choose when none is named."""
    word, *chosen = options.words
    path = path_in_root(word)
    rivals = [one for one in alternative_objects(state) if one["path"] == path]
    if not rivals:
        raise Fail(f"/{path}: no alternatives are installed for it; `lpkg alternatives` lists all")
    if not any(one["current"] for one in rivals):
        raise Fail(f"/{path}: a package has it as a file; `lpkg owner /{path}` says which")
    preferences = load_preferences(state.root)
    preferences.pop(path, None)
    for name in chosen:
        names = [one["package"] for one in rivals]
        if name not in names:
            raise Fail(f"/{path}: {name} offers none; there are {', '.join(names)}")
        preferences[path] = name
    if options.dry_run:
        package, entry = winners(list(state.installed.values()), preferences)[path]
        show(f"{path} -> {entry['target']}  {package.name}")
        return 0
    plan = settle(state.installed, state.installed, state.world)
    return change_root(state, plan, preferences)


def alternative_objects(state: State) -> list:
    """The alternatives of what is installed, by path, the current one of each marked."""
    won = state.winners()
    found = [dict(one, package=package.name,
                  current=won.get(one["path"], (None,))[0] is package)
             for package in state.installed.values() for one in package.info["alternatives"]]
    return sorted(found, key=lambda one: (one["path"], -one["priority"], one["package"]))


def cmd_repo_list(options: "Options", state: State) -> int:
    """List the repositories."""
    pairs = parse_repositories(state.root.lines(REPOS))
    print_all(options, [{"name": name, "url": url} for name, url in pairs],
              lambda one: f"{one['name']} {one['url']}")
    return 0


def cmd_repo_add(options: "Options", state: State) -> int:
    """Add a repository."""
    lines = state.root.lines(REPOS)
    name = options.words[0]
    if name in dict(parse_repositories(lines)):
        raise Fail(f"{name}: is there already; `lpkg repo list` shows them")
    url = options.words[1]
    words = [name, url and full_url(url)]   # a path is good from every folder
    line = " ".join(words)
    if parse_repositories([line]) != [words]:
        raise Fail(f"{line}: write NAME URL")
    state.root.replace(REPOS, [lines_text([*lines, line])])
    return 0


def cmd_repo_remove(options: "Options", state: State) -> int:
    """Remove a repository."""
    lines = state.root.lines(REPOS)
    left = [line for line in lines if line.split()[:1] != options.words]
    if left == lines:
        raise Fail(f"{options.words[0]}: is no repository of it; `lpkg repo list` shows them")
    state.root.remove(f"{INDEXES}/{options.words[0]}")
    state.root.replace(REPOS, [lines_text(left)])
    return 0


def all_keys(root: Root) -> dict:
    """NAME -> key of the files NAME.pub of ROOT, for the repository NAME; and of NAME.MORE.pub,
    while keys change."""
    return {name[:-4]: parse_public_key(root.read(f"{KEYS}/{name}"), root.name(f"{KEYS}/{name}"))
            for name in root.names(KEYS) if name.endswith(".pub")}


def cmd_key_list(options: "Options", state: State) -> int:
    """List the keys that are trusted."""
    keys = all_keys(state.root)
    print_all(options, [{"name": name, "id": key_name(key.id)} for name, key in keys.items()],
              lambda one: f"{one['name']} {one['id']}")
    return 0


def cmd_key_remove(options: "Options", state: State) -> int:
    """Trust a key no longer, and forget what was seen of it."""
    keys = all_keys(state.root)
    key = keys.pop(options.words[0], None)
    if key is None:
        raise Fail(f"{options.words[0]}: no such key; `lpkg key list` shows them")
    state.root.remove(f"{KEYS}/{options.words[0]}.pub")
    if key.text() not in [other.text() for other in keys.values()]:
        state.serials.drop(key.text())
        state.root.replace(SERIALS, [state.serials.text()])
    return 0


def cmd_key_add(options: "Options", state: State) -> int:
    """Trust the key in a file, after asking."""
    path = options.words[0]
    key = parse_public_key(read_file(path), path)
    name = os.path.basename(path).removesuffix(".pub")
    if not is_name(name):
        raise Fail(f"{path}: call it NAME.pub, with letters and digits")
    there = all_keys(state.root).get(name)
    if there and there.text() == key.text():
        say(f"{name}: is trusted already")
        return 0
    if there:
        raise Fail(f"{path}: a key of that name is there; `lpkg key remove {name}` first")
    say(f"whoever has the secret half of {key_name(key.id)} will decide what is installed here "
        f"from the repository {name.partition('.')[0]}")
    confirm(options.yes)
    state.root.replace(f"{KEYS}/{name}.pub", [key.file()])
    return 0


# -- bootstrap

def cmd_bootstrap(options: "Options") -> int:
    """Make a new root, as a folder or as a tar."""
    words = list(options.words)
    if options.tar is None:
        options.root = words.pop(0)
        if options.no_database:
            raise Usage("bootstrap: --no-database goes with --tar")
    if not words:
        raise Usage("bootstrap: name the packages that it shall hold")
    options.yes = True                  # there is nothing yet that could be harmed
    if options.tar is None:
        is_usable = has_database(options.root) or is_vacant(options.root)
        state = open_root(options, MAKE) if is_usable else None     # which ends what was cut
        if state is None or not is_vacant(options.root):
            raise Fail(f"{options.root}: not empty; bootstrap wants an absent or empty folder")
        return change_root(state, plan_bootstrap(state, words))
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        state = State(options, Root(folder))
        plan = plan_bootstrap(state, words)
        if options.dry_run:
            show_plan(options, plan, None, {})
        else:
            bootstrap_tar(state, plan)
    return 0


def plan_bootstrap(state: State, words: list) -> Plan:
    """The plan of a new root. Where all are local files and no repository is named, they are taken
    as they are, and nothing that they need is looked for."""
    local = read_locals(state.options, words)
    names = [word for word in words if not is_file_word(word)]
    if names or state.options.repo:
        return plan_install(state.universe(local), {}, names, local)
    choose_arch(state.options, {}, local)
    by_name = {package.name: package for package in local}
    if len(by_name) != len(local):
        raise Fail("bootstrap: two of the files are the same package")
    return settle({}, by_name, dict(zip(by_name, by_name)))


def name_repositories(options: "Options", found: list) -> None:
    """Call the repositories FOUND, of --repo, what a new root calls them."""
    names = [name for name, _ in new_repositories(options)]
    for number, repository in enumerate(found):
        repository.name = names[min(number, len(names) - 1)]


def new_repositories(options: "Options") -> list:
    """(name, URL) of the repositories of a new root: that of --repo-url, else those of --repo."""
    name = first_name(options)
    urls = [options.repo_url] if options.repo_url else options.repo
    return [(name if number == 1 else f"{name}-{number}", full_url(url))
            for number, url in enumerate(urls, 1)]


def first_name(options: "Options") -> str:
    """What a new root calls its first repository: as the key of that is called."""
    name = os.path.basename(options.key[0]).partition(".")[0] if options.key else ""
    return name if is_name(name) else "panux"


def root_texts(options: "Options") -> dict:
    """PATH -> bytes of the configuration of a new root: the keys and the repositories that it was
    made from. A bootstrapped one may be for another machine, which has no folders of this one."""
    texts = {}
    repositories = new_repositories(options)
    for number, (name, _) in enumerate(repositories or [(first_name(options), "")]):
        for more, key in enumerate(given_keys(options, number)):
            place = f"{name}.{more + 1}" if more else name
            texts[f"{KEYS}/{place}.pub"] = key.file()
    lines = [f"{name} {url}" for name, url in repositories
             if len(url.split()) == 1 and not (options.verb == "bootstrap" and url.startswith("/"))]
    if lines:
        texts[REPOS] = lines_text(lines)
    return texts


def bootstrap_tar(state: State, plan: Plan) -> None:
    """Write the tar of a new root to --tar FILE, or to stdout for `-`."""
    options = state.options
    if options.tar == "-" and sys.stdout.isatty():
        raise Fail("stdout is a terminal; send the tar into a file or a pipe")
    texts = root_texts(options)
    if state.serials.seen:
        texts[SERIALS] = state.serials.text()
    with NewFiles() as new:
        fetch_packages(plan.new, state.root, "")
        file = sys.stdout.buffer if options.tar == "-" else new.create(options.tar)
        content = root_pieces(plan, texts, options.no_database)
        is_gzip = options.tar.endswith((".gz", ".tgz"))
        for piece in gzip_pieces(content) if is_gzip else content:
            file.write(piece)
        file.flush()


def root_pieces(plan: Plan, texts: dict, no_database: bool) -> object:
    """The root of PLAN as a tar, in pieces: all directories, each package's files, the symlinks of
    alternatives, lpkg's own."""
    claims = merge_manifests(plan.new)
    won = winners(plan.new, {})
    texts.update(database_texts(plan, [], False))      # all scripts wait for its first boot
    texts = {path: data for path, data in sorted(texts.items())
             if not (no_database and path.startswith(STATE + "/"))}
    archived = [] if no_database else archived_texts(plan.new)
    for _, entry in sorted(tar_folders(claims, [*texts, *archived]).items()):
        yield tar_header(entry)
    for path, entry, content in final_members(plan.new):
        if entry["type"] == "dir" or no_database and path.startswith(STATE + "/"):
            for _ in content:
                pass
            continue
        yield tar_header(dict(entry, path=path))
        yield from content
        yield padding(entry.get("size", 0))
    for _, (_, entry) in sorted(won.items()):
        yield tar_header(entry)
    for path, data in texts.items():
        yield tar_header(text_entry(path, data)) + data + padding(len(data))
    yield TAR_END


def tar_folders(claims: dict, paths: list) -> dict:
    """PATH -> entry of a new root's directories, those of lpkg's own PATHS among them."""
    folders = {path: entry for path, (_, entry) in claims.items() if entry["type"] == "dir"}
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            folders.setdefault(path, folder_entry(path))
    return folders


# -- queries

def print_all(options: "Options", objects: list, line: object) -> None:
    """OBJECTS as JSON with --json, else each as LINE(object) says."""
    if options.json:
        show_json(objects)
        return
    for one in objects:
        show(line(one))


def summary(package: Package) -> dict:
    """What is known of PACKAGE: of an installed one, also where it came from."""
    origin = {"repository": package.repository, "package_sha256": package.sha256}
    return dict(package.info, **origin) if package.repository else package.info


def cmd_list(options: "Options", state: State) -> int:
    """List what is installed."""
    packages = state.packages([])
    if options.json:
        show_json(list(map(summary, packages)))
        return 0
    for package in packages:
        show(str(package))
    return 0


def cmd_info(options: "Options") -> int:
    """Describe packages: .lpkg files, installed ones, else what the repositories offer."""
    infos = [summary(describe(options, word)) for word in options.words]
    if options.json:
        show_json(infos)
        return 0
    for info in infos:
        for key, value in info.items():
            show(f"{key}: {' '.join(map(word_of, value)) if isinstance(value, list) else value}")
    return 0


def word_of(one: object) -> str:
    """A member of a list of a package's, for a person: a relation, a script, an alternative."""
    if isinstance(one, str):
        return one
    return one.get("name") or f"{one['path']}={one['target']}"


def describe(options: "Options", word: str) -> Package:
    """The package that WORD names."""
    if is_file_word(word):
        return read_local(word)
    state = open_root(options, READ)
    if word in state.installed:
        return state.installed[word]
    universe = state.universe()
    found = [package for package in universe.named(word) if package.name == word]
    if not found:
        raise Fail(f"{word} is neither installed nor in a repository{hint(word, universe)}")
    return found[0]


def cmd_files(options: "Options") -> int:
    """List the files of packages, and the alternatives that point at them."""
    entries = []
    for word in options.words:
        if is_file_word(word):
            entries += read_local(word).files()
            continue
        state = open_root(options, READ)
        package = state.packages([word])[0]
        won = state.winners()
        entries += package.files() + [entry for winner, entry in won.values() if winner is package]
    print_all(options, entries, lambda entry: entry["path"])
    return 0


def path_in_root(word: str) -> str:
    """The path that the user calls WORD, relative to the root."""
    return os.path.normpath("/" + word.lstrip("/"))[1:]


def cmd_owner(options: "Options", state: State) -> int:
    """Which package brought a path."""
    found, strays = [], []
    for path in map(path_in_root, options.words):
        owners = path_owners(state, path) or path_owners(state, real_path(state.root, path))
        found += owners
        if not owners:
            strays.append(f"/{path}: no package has brought it")
    print_all(options, found, lambda one: f"{one['path']}: {one['package']}")
    sys.stdout.flush()
    for stray in strays[:-1]:
        say(stray)
    if strays:
        raise Fail(strays[-1])
    return 0


def path_owners(state: State, path: str) -> list:
    """Dicts of PATH and each package that has brought it."""
    line = b"\n" + os.fsencode(path) + b"\t"
    owners = [name for name, package in state.installed.items()
              if line in b"\n" + package.listing]
    owners = owners or [package.name for one, (package, _) in state.winners().items()
                        if one == path]
    return [{"path": path, "package": name} for name in owners]


def real_path(root: Root, path: str) -> str:
    """PATH without symlinks among its directories, as /bin may be one to /usr/bin."""
    top = os.path.realpath(root.path)
    folder, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(os.path.join(top, folder)), name), top)


def cmd_why(options: "Options", state: State) -> int:
    """Why a package is there: who needs it, up to what the user asked for."""
    name = state.packages(options.words)[0].name
    needed = reasons(state.installed, state.world)
    if name not in needed:
        raise Fail(f"{name}: nobody needs it; `lpkg autoremove` removes it")
    steps = []
    while name is not None:
        steps.append({"package": name, "needed_by": needed[name]})
        name = needed[name]
    print_all(options, steps, lambda step: f"{step['package']}: "
              + (f"{step['needed_by']} needs it" if step["needed_by"] else "you asked for it"))
    return 0


def cmd_verify(options: "Options", state: State) -> int:
    """Compare what is in the root with what was installed, conffiles aside."""
    faults = find_faults(state, state.packages(options.words))
    print_all(options, faults, lambda fault: f"{fault['path']}: {fault['what']}")
    sys.stdout.flush()
    if faults:
        say(f"{fix_command(faults)} puts that back as it was packed")
    return 1 if faults else 0


def fix_command(faults: list) -> str:
    """The command that mends FAULTS."""
    return f"`lpkg fix {' '.join(sorted({fault['package'] for fault in faults}))}`"


def find_faults(state: State, packages: list) -> list:
    """Where the root differs from what PACKAGES have brought, conffiles aside: dicts of path, what
    and package."""
    root = state.root
    folders = folder_opinions(list(state.installed.values()))
    won = state.winners()
    meter = Meter(f"verifying {counted(len(packages), 'package')}",
                  sum(map(Package.installed_size, packages)), announce=False)

    def verify_package(package: Package) -> list:
        entries = package.files() + [entry for winner, entry in won.values() if winner is package]
        faults = []
        for entry in entries:
            path = entry["path"]
            meter.add(entry.get("size", 0))
            if entry["type"] == "dir" or not is_conffile(package, path):
                faults += [{"path": path, "what": what, "package": package.name}
                           for what in differences(root, folders.get(path, entry))]
        return faults

    faults = sum(map(verify_package, packages), [])
    progress("")
    return list({(one["path"], one["what"]): one for one in faults[::-1]}.values())[::-1]


def folder_opinions(packages: list) -> dict:
    """PATH -> entry of the directories about which one of PACKAGES has an opinion, which the others
    then share (see merge_manifests)."""
    opinions = {}
    for package in packages:
        files = package.listing
        if isinstance(files, bytes):    # most have none, and needn't be read for that
            if files.count(b"\tdir\t") == files.count(b"\tdir\t0755\t0\t0\n"):
                continue
            files = package.files()
        opinions.update((entry["path"], entry) for entry in files if entry["type"] == "dir"
                        and entry != folder_entry(entry["path"]))
    return opinions


KINDS = {"dir": stat.S_ISDIR, "file": stat.S_ISREG, "link": stat.S_ISLNK}


def differences(root: Root, entry: dict) -> list:
    """In a word each, how what is in ROOT differs from ENTRY."""
    path = entry["path"]
    try:
        there = root.lstat(path)
    except Fail:                        # a folder on the way is a symlink, which has its own line
        there = None
    if there is None:
        return ["missing"]
    if not KINDS[entry["type"]](there.st_mode):
        return ["type"]
    found = []
    if entry["type"] != "link" and stat.S_IMODE(there.st_mode) != mode_here(entry):
        found.append("mode")
    if os.geteuid() == 0 and (there.st_uid, there.st_gid) != (entry["uid"], entry["gid"]):
        found.append("owner")
    folder = path.rpartition("/")[0]
    if found and entry["type"] == "dir" and there.st_dev != root.device(folder):
        folder = path                   # something is mounted there
    if found and is_fat(root.folder(folder)):
        found = []
    if entry["type"] != "dir" and root.content(path, there) != entry_content(entry):
        found.append("target" if entry["type"] == "link" else "content")
    return found


def cmd_search(options: "Options", state: State) -> int:
    """Search the repositories for a word in names and summaries, the best matches first."""
    word = options.words[0]
    found = {}
    repositories = state.repositories()
    if not repositories:
        raise Fail(NO_REPOSITORY)
    for repository in repositories:
        for line in repository.index.search(word):
            found.setdefault(line.partition(b"\t")[0], (repository, line))

    def rank(pair: tuple) -> tuple:
        name, wanted = pair[1].partition(b"\t")[0].decode().lower(), word.lower()
        return (name != wanted, not name.startswith(wanted), wanted not in name, pair[1])

    found = sorted(found.values(), key=rank)
    if options.json:
        show_json([summary(repository.index.package(line)) for repository, line in found])
        return 0
    for _, line in found:
        name, version, said, _ = line.decode().split("\t", 3)
        show(f"{name} {version}  {said}")
    return 0


# ---- making packages ---------------------------------------------------------------------------
#
# A build's output is a tar that somebody else wrote, so here, and only here, tarfile reads: it
# knows every dialect. What it says is squeezed into a manifest, where only files, directories and
# symlinks exist; each name of a hard link, also one in another package, becomes a file of its own.
# What a manifest can't hold, or what gives rights that nobody declared, is refused.

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
    name = member.name.rstrip("/").removeprefix("./")   # Python 3.9 leaves a slash on long names
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
    for key in member.pax_headers:
        if key.startswith(LOST_ATTRIBUTES):
            attribute = key.partition("xattr.")[2] or "an ACL"
            raise Fail(f"stdin: {prefix}{path} has {attribute}, which a package can't hold; "
                       "leave it out, or set it in a post-install script")
    entry = {"path": path, "type": "file", "mode": f"{member.mode & 0o7777:04o}",
             "uid": member.uid, "gid": member.gid}
    if member.isdir():
        entry["type"] = "dir"
    elif member.issym():
        entry.update(type="link", mode="0777", target=member.linkname)
    else:
        member = linked(tar, member)
        if not member.isreg() or member.issparse():
            raise Fail(f"stdin: {prefix}{path} is a device, a fifo or sparse; leave it out")
        entry["size"] = member.size
    return Member(entry, member)


# Of tar's extended attributes, those that mean something (SELinux labels every file of a host).
LOST_ATTRIBUTES = ("SCHILY.xattr.security.capability", "SCHILY.xattr.user.", "SCHILY.acl.")


def linked(tar: object, member: object) -> object:
    """MEMBER, or the member of the build's output that it is a hard link to."""
    if not member.islnk():
        return member
    name = member.linkname.removeprefix("./")
    if not name.startswith("out/") or ".." in name.split("/"):
        raise Fail(f"stdin: {member.name} is a hard link to {name}, outside of out/")
    return tar.getmember(member.linkname)


def add_parents(tree: dict, more: list) -> None:
    """Give each path of TREE, and each of MORE, the folders it lies in."""
    for path in [*tree, *filter(is_path, more)]:
        parent = path.rpartition("/")[0]
        while parent and parent not in tree:
            tree[parent] = Member(folder_entry(parent), None)
            parent = parent.rpartition("/")[0]


def apply_owners(tree: dict, owners: dict, name: str) -> None:
    """Give paths of TREE the owner and mode that META says."""
    for path, text in owners.items():
        member = tree.get(path.strip("/"))
        if member is None:
            raise Fail(f"{name}: owners: {path} is not in the package")
        said = read_ownership(str(text))
        if said is None:
            raise Fail(f"{name}: owners: {path}: {text!r} is not UID:GID:MODE, the mode in octal")
        member.entry.update(said)
    declared = {path.strip("/") for path in owners}
    for path in setuid_paths([member.entry for member in tree.values()]):
        if path not in declared:
            line = f"/{path}: {ownership(tree[path].entry)}"
            raise Fail(f"{name}: {path} is setuid or setgid and nobody said so; "
                       f"add `{line}` to owners, or take the bit away")


def hash_files(tar: object, tree: dict) -> None:
    """Fill in the sha256 of each file of TREE."""
    for member in tree.values():
        if member.entry["type"] == "file":
            member.entry["sha256"] = sha256_of(pieces(tar.extractfile(member.source)))


def take_scripts(tar: object, tree: dict, texts: dict) -> dict:
    """NAME -> bytes of a package's scripts: the TEXTS that META has, and Panux's .oninstall, which
    leaves the TREE."""
    scripts = {}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise Fail(f"scripts: {name} is no text")
        scripts[name] = (text if text.startswith("#!") else "#!/bin/sh\n" + text).encode()
    if ".oninstall" in tree:
        member = tree.pop(".oninstall")
        if member.entry["type"] != "file":
            raise Fail("stdin: .oninstall is no file")
        scripts["oninstall"] = tar.extractfile(member.source).read(SCRIPT_LIMIT + 1)
    for name, data in scripts.items():
        if b"\r\n" in data:
            raise Fail(f"scripts: lines of {name} end as on Windows, which no shell runs")
    return scripts


ALTERNATIVES = "etc/lpkg.d/alt.d/"


def take_alternatives(tar: object, tree: dict) -> list:
    """Panux's alternatives, which leave the TREE: alt.d/NAME/NN_WHO.provider is a symlink to what
    has the priority NN, and alt.d/NAME/.target is a file with the path for it."""
    found = []
    for path in [path for path in tree if path.startswith(ALTERNATIVES)]:
        folder, _, name = path.rpartition("/")
        entry = tree[path].entry
        if entry["type"] != "link" or not name.endswith(".provider"):
            continue
        place = tree.get(folder + "/.target")
        digits = name[:len(name) - len(name.lstrip(DIGITS))]
        if not digits or place is None or place.entry["type"] != "file":
            raise Fail(f"stdin: {path}: it begins with no priority, or has no .target beside it")
        text = tar.extractfile(place.source).read(PATH_LIMIT).decode(errors="replace")
        found.append({"path": text.strip().strip("/"), "target": entry["target"],
                      "priority": int(digits)})
    if found:
        for path in [path for path in tree if (path + "/").startswith(ALTERNATIVES)]:
            del tree[path]
    return found


def make_info(meta: dict, name: str, files: list, scripts: dict, found: dict) -> dict:
    """What is said of package NAME, checked with its FILES as the one who installs it will; SCRIPTS
    are its scripts' bytes, and FOUND the alternatives and relations that its files show."""
    import hashlib
    part = meta["packages"][name]
    info = dict(EMPTY_INFO)
    info.update(name=name, version=meta.get("version"), arch=meta.get("arch"))
    info.update({key: meta[key] for key in ("license", "url", "recipe") if key in meta})
    info.update({key: part[key] for key in part if key in INFO_FIELDS and key != "scripts"})
    if isinstance(info["conffiles"], list):
        info["conffiles"] = sorted(str(path).strip("/") for path in info["conffiles"])
    for key, values in found.items():
        if isinstance(info[key], list):
            info[key] = info[key] + [value for value in values if value not in info[key]]
    info["size"] = sum(entry.get("size", 0) for entry in files)
    info["scripts"] = [
        {"name": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for key, data in scripts.items()]
    check_info(info, files, name)
    return info


# -- what a package's files need and provide

LIBRARIES = ("lib", "usr/lib")
PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin")


def find_relations(tar: object, tree: dict, alternatives: list) -> dict:
    """What the files of TREE provide, and depend on: `so:` and the names of shared libraries, by
    their ELF headers, and `cmd:` and the names of commands."""
    provides, needs = set(), set()
    for path, member in tree.items():
        folder, _, name = path.rpartition("/")
        entry = member.entry
        if folder in PROGRAMS and (entry["type"] == "link" or entry["type"] == "file"
                                   and int(entry["mode"], 8) & 0o111):
            provides.add(f"cmd:{name}")
        if entry["type"] == "file" and entry["size"] >= 64:
            soname, needed = elf_links(tar.extractfile(member.source))
            needs.update(f"so:{library}" for library in needed)
            if folder in LIBRARIES and soname is not None and ".so" in name:
                provides.add(f"so:{soname or name}")
    provides.update("cmd:" + one["path"].rpartition("/")[2] for one in alternatives
                    if str(one.get("path")).rpartition("/")[0] in PROGRAMS)
    own = {"so:" + path.rpartition("/")[2] for path in tree}    # it finds those by their paths
    sound = [text for text in sorted(provides) if is_name(text.replace(":", ""))]
    return {"provides": sound, "alternatives": alternatives,
            "depends": sorted(text for text in needs - provides - own
                              if is_name(text.replace(":", "")))}


def elf_links(file: object) -> tuple:
    """(name of the shared library that the ELF FILE is, "" for none, names of those that it needs)
    by its dynamic section (System V ABI, chapter 5); (None, []) where it has none. Of tables that
    are longer than any compiler makes them, the beginning is read."""
    def read(offset: int, count: int, most: int) -> bytes:
        file.seek(min(offset, SIZE_LIMIT))
        return file.read(min(count, most))

    def number(data: bytes, offset: int, size: int) -> int:
        return int.from_bytes(data[offset:offset + size], order)

    head = read(0, 64, 64)
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in (1, 2):
        return None, []
    order = "big" if head[5] == 2 else "little"
    word, places = (8, (32, 54, 8, 16, 32)) if head[4] == 2 else (4, (28, 42, 4, 8, 16))
    table, sizes, offset_at, address_at, size_at = places
    each, count = number(head, sizes, 2), number(head, sizes + 2, 2)
    if each < size_at + word:
        return None, []
    headers = read(number(head, table, word), each * count, 1 << 15)
    segments = [(number(headers, at, 4), number(headers, at + offset_at, word),
                 number(headers, at + address_at, word), number(headers, at + size_at, word))
                for at in range(0, len(headers), each)]
    dynamic = next((read(offset, size, 1 << 14) for kind, offset, _, size in segments
                    if kind == 2), b"")
    if not dynamic:
        return None, []
    tags = [(number(dynamic, at, word), number(dynamic, at + word, word))
            for at in range(0, len(dynamic), 2 * word)]
    tags = tags[:[*(tag for tag, _ in tags), 0].index(0)]
    texts = dict(tags).get(5, -1)
    strings = next((offset + texts - address for kind, offset, address, size in segments
                    if kind == 1 and address <= texts < address + size), SIZE_LIMIT)
    named = [(tag, read(strings + value, 256, 256).partition(b"\0")[0].decode(errors="replace"))
             for tag, value in tags if tag in (1, 14)]
    return (next((name for tag, name in named if tag == 14), ""),
            [name for tag, name in named if tag == 1 and name])


def package_pieces(tar: object, tree: dict, info: dict, files: list, scripts: dict) -> object:
    """The tar of a package, in pieces."""
    text = record_text(info, files)
    yield tar_header(record_entry(len(text))) + text + padding(len(text))
    for script in info["scripts"]:
        data = scripts[script["name"]]
        yield tar_header(script_entry(script)) + data + padding(len(data))
    for entry in files:
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
    meta = parse_json(read_file(path), path)
    packages = meta.get("packages")
    if not isinstance(packages, dict) or not packages or not all(map(is_name, packages)):
        raise Fail(f"{path}: packages is no object of names")
    for name, part in packages.items():
        if not isinstance(part, dict) or not all(
                isinstance(part.get(key, {}), dict) for key in ("owners", "scripts")):
            raise Fail(f"{path}: packages: {name}, its owners or its scripts are no object")
        if not is_list(lambda one: isinstance(one, dict))(part.get("alternatives", [])):
            raise Fail(f"{path}: packages: {name}: alternatives is no list of objects")
    return meta


def cmd_pack(options: "Options") -> int:
    """Turn a build's output on stdin into packages."""
    meta = read_meta(options.need("--meta"))
    folder = options.need("-o")
    lines = []
    with spool_stdin(folder) as spool, NewFiles() as new:
        tar, trees = read_build(spool, list(meta["packages"]))
        for name, tree in sorted(trees.items()):
            part = meta["packages"][name]
            scripts = take_scripts(tar, tree, part.get("scripts", {}))
            alternatives = sorted(part.get("alternatives", []) + take_alternatives(tar, tree),
                                  key=lambda one: str(one.get("path")))
            add_parents(tree, [str(one.get("path")) for one in alternatives])
            apply_owners(tree, part.get("owners", {}), name)
            hash_files(tar, tree)
            found = find_relations(tar, tree, alternatives)
            files = [tree[path].entry for path in sorted(tree)]
            info = make_info(meta, name, files, scripts, found)
            file_name = f"{name}-{info['version']}.{info['arch']}.lpkg"
            file = new.create(os.path.join(folder, file_name))
            meter = Meter(f"packing {name}", info["size"])
            content = gzip_pieces(meter.count(package_pieces(tar, tree, info, files, scripts)))
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


def scrypt_cost(operations: int, memory: int) -> tuple:
    """scrypt's (N, r, p) for libsodium's two limits, as its documentation derives them."""
    operations = max(operations, 32768)
    few = operations < memory // 32
    largest = operations // 32 if few else memory // 1024
    bits = 1
    while bits < 62 and 1 << bits <= largest // 2:
        bits += 1
    return 1 << bits, 8, 1 if few else min((operations // 4) >> bits, 0x3fffffff) // 8


def scrypt_mask(data: bytes, password: bytes, salt: bytes, limits: tuple) -> bytes:
    """DATA under, or out of, the stream that scrypt makes of PASSWORD."""
    import hashlib
    n, r, p = scrypt_cost(*limits)
    try:
        stream = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=(1 << 31) - 1,
                                dklen=len(data))
    except (ValueError, OverflowError, MemoryError) as error:
        raise Fail(f"scrypt: {error}; it wants {human_size(128 * n * r)} of memory") from None
    return bytes(one ^ two for one, two in zip(data, stream))


def secret_key_text(secret: bytes, password: "bytes | None") -> bytes:
    """The secret key file of SECRET (id, seed, public key), encrypted if there is a PASSWORD."""
    import hashlib
    raw = b"Ed\0\0B2" + bytes(48) + secret + bytes(32)
    if password is not None:
        salt = os.urandom(32)
        checksum = hashlib.blake2b(b"Ed" + secret, digest_size=32).digest()
        raw = (b"EdScB2" + salt + b"".join(limit.to_bytes(8, "little") for limit in SCRYPT_LIMITS)
               + scrypt_mask(secret + checksum, password, salt, SCRYPT_LIMITS))
    return f"{SECRET_COMMENT}{encode_base64(raw)}\n".encode()


def read_secret_key(path: str) -> tuple:
    """(key id, seed) of a minisign secret key file, whose password is asked for if it has one."""
    import hashlib
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


def sign_hash(blake2b: bytes, comment: str, secret: tuple) -> bytes:
    """The signature file of what has this BLAKE2b-512, by the key SECRET, (id, seed)."""
    key_id, seed = secret
    key = import_signing().SigningKey(seed)
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
    with NewFiles() as new:
        secret = secret_key_text(key_id + bytes(key) + public, password)
        new.create(secret_path, 0o600).write(secret)
        new.create(public_path).write(PublicKey(key_id, public).file())
    if password is None:
        say(f"{secret_path} is NOT encrypted: whoever can read it can sign (see --encrypt)")
    show(secret_path)
    show(public_path)
    return 0


def cmd_sign(options: "Options") -> int:
    """Sign a file: FILE.minisig."""
    import hashlib
    if options.renew:
        return renew_index(options)
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
    secret = read_secret_key(options.need("--secret"))
    with NewFiles() as new:
        new.create(path + ".minisig").write(sign_hash(digest.digest(), comment, secret))
    show(path + ".minisig")
    return 0


def make_offer(package: Package, file_name: str) -> dict:
    """The entry of PACKAGE in an index."""
    import urllib.parse
    said = dict(package.offer(), file=urllib.parse.quote(file_name), size=package.size,
                sha256=package.sha256)
    return {key: said[key] for key in OFFER_FIELDS}


def scan_packages(folder: str, arch: str, known: set) -> tuple:
    """The offers of the packages in FOLDER, by name, then by version, the newest first; and of
    each (name, version) the paths of its files. Each is read to its last byte, but for those whose
    SHA-256 is KNOWN."""
    offers = {}
    files = {}
    for file_name in sorted(os.listdir(folder)):
        if not file_name.endswith(".lpkg"):
            continue
        progress(f"reading {file_name}")
        package = read_local(os.path.join(folder, file_name), known)
        if package.info["arch"] != arch:
            raise Fail(f"{folder}/{file_name}: made for {package.info['arch']}, not for {arch}")
        key = (package.name, package.version)
        if key in offers:
            raise Fail(f"{folder}: {file_name} and {offers[key]['file']} are both {package}; "
                       "remove one")
        offers[key] = make_offer(package, file_name)
        files[key] = file_paths(package.files())    # the rest of the manifest may go
    progress("")
    newest = sorted(offers.values(), key=lambda offer: version_key(offer["version"]), reverse=True)
    return sorted(newest, key=lambda offer: offer["name"]), files


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
        serial = parse_json(read_file(index_file), index_file).get("serial")
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
    """Write and sign the index of a folder of packages."""
    folder = os.path.realpath(options.words[0])
    arch = options.arch or os.path.basename(folder)
    template = read_file(options.page).decode() if options.page else None
    secret = read_secret_key(options.need("--secret"))
    known = known_packages(os.path.join(folder, "index.json"), public_half(secret))
    packages, files = scan_packages(folder, arch, known)
    for package, relation in unmet([Package(offer, None) for offer in packages]):
        say(f"{package} needs {relation.text}, which is not here")
    return write_index(options, folder, arch, packages, secret,
                       template and (lambda index: page_text(template, index, files)))


def public_half(secret: tuple) -> PublicKey:
    """The public key of the key SECRET, (id, seed)."""
    return PublicKey(secret[0], bytes(import_signing().SigningKey(secret[1]).verify_key))


def known_packages(path: str, key: PublicKey) -> set:
    """The SHA-256 of what the index PATH names, if KEY has signed it: all that was read through."""
    try:
        index = read_signed(path, [key])
    except (Fail, FileNotFoundError):
        return set()
    return {offer["sha256"] for offer in index["packages"]}


def read_signed(path: str, keys: list) -> dict:
    """The index.json PATH, signed by one of KEYS."""
    import io
    data = read_file(path)
    _, comment = check_signature(data, read_file(path + ".minisig"), keys, path)
    index = parse_json(data, path)
    read_index(io.BytesIO(data), str(index.get("arch")), path)
    check_comment(comment, index, path)
    return index


def write_index(options: "Options", folder: str, arch: str, packages: list, secret: tuple,
                page: object = None) -> int:
    """Write and sign an index of PACKAGES in FOLDER, and its PAGE(index) if there is to be one.

    The serial is used up first, so that no crash makes two indexes of one serial. The files are
    written and synced under temporary names, then renamed: index.html, .minisig, .json. Only
    between the last two does the signature not fit; a run that is cut just there is put right by
    the next one, and until then clients refuse the index and keep what they have."""
    import hashlib
    keys = os.path.dirname(options.need("--secret"))
    serial_file = options.serial_file or os.path.join(keys, f"serial-{arch}")
    created = int(time.time())
    expires = index_expiry(options.expires or "365", created)
    serial = next_serial(folder, serial_file, created)
    index = {"serial": serial, "created": created, "expires": expires, "arch": arch,
             "packages": packages}
    data = index_json(index)
    signature = sign_hash(hashlib.blake2b(data).digest(), f"index {arch} serial {serial}", secret)
    with NewFiles() as new:
        new.create(serial_file).write(b"%d\n" % serial)
    base = os.path.join(folder, "index.json")
    with NewFiles() as new:
        if page:
            new.create(os.path.join(folder, "index.html")).write(page(index))
        new.create(base + ".minisig").write(signature)
        new.create(base).write(data)
    say(f"{os.path.relpath(folder)}: {counted(len(packages), 'package')}, serial {serial}")
    return 0


def renew_index(options: "Options") -> int:
    """Sign an index.json anew, as it stands, with a new serial and a new time to expire: its
    present signature must be good, by this key or by one of --key."""
    path = os.path.realpath(options.words[0])
    secret = read_secret_key(options.need("--secret"))
    others = [parse_public_key(read_file(name), name) for name in options.key]
    index = read_signed(path, [public_half(secret), *others])
    return write_index(options, os.path.dirname(path), index["arch"], index["packages"], secret)


# ---- the page, for people who look at a repository with a browser ------------------------------
#
# index.html is a template, world/page.html, with all that it shows: the index and the paths of the
# packages' files, as gzip'd JSON in base64, which the browser inflates and keeps; nothing is
# fetched. The policy lets the browser run the template's one script and load nothing else.

def file_paths(files: list) -> list:
    """The paths of FILES, a manifest's; of its folders only those, with a slash after them, in
    which nothing of the package lies."""
    parents = {entry["path"].rpartition("/")[0] for entry in files}
    return [entry["path"] + ("/" if entry["type"] == "dir" else "")
            for entry in files if entry["path"] not in parents]


def page_data(index: dict, files: dict) -> object:
    """What the page knows, as JSON, a package at a time; see page_text."""
    import json
    head = {key: index[key] for key in ("arch", "serial", "created")}
    yield json.dumps(head)[:-1].encode() + b', "packages": ['
    comma = b""
    for offer in index["packages"]:
        paths = files[offer["name"], offer["version"]]
        yield comma + json.dumps({**offer, "files": paths}, ensure_ascii=False).encode()
        comma = b",\n"
    yield b"]}"


def policy_hash(template: str, tag: str) -> str:
    """How a content security policy names the text between <TAG> and </TAG> of TEMPLATE."""
    import hashlib
    text = template.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{encode_base64(hashlib.sha256(text.encode()).digest())}'"


def page_text(template: str, index: dict, files: dict) -> bytes:
    """TEMPLATE, filled with INDEX, whose packages, named by (name, version), hold FILES[package],
    paths; the same for the same."""
    styles, script = policy_hash(template, "style"), policy_hash(template, "script")
    policy = (f"default-src 'none'; img-src data:; style-src {styles}; script-src {script}; "
              "base-uri 'none'; form-action 'none'")
    data = b"".join(gzip_pieces(page_data(index, files)))
    return template.replace("@POLICY@", policy).replace("@DATA@", encode_base64(data)).encode()


# ---- does it work? -----------------------------------------------------------------------------
#
# A script that was copied alone onto a device proves itself there, on that Python: it takes a
# signature of RFC 8032's, one of minisign's, and a package; and refuses six lies about them.

VECTOR = (                          # RFC 8032, 7.1, the second: public key, message, signature
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f1"
    "1d8c387b2eaeb4302aeeb00d291612bb0c00")
MINISIGN_KEY = b"""untrusted comment: minisign public key F3349FE5382EE56F
RWRv5S445Z8088hqJp0/fpTcMQzwXGwXRzO3R/8UMmtqdUZNsewHtrpm
"""
MINISIGN_OF_INDEX = b"""untrusted comment: signature from minisign secret key
RURv5S445Z808/Q5cagXMgR/HPhn8nQU20kk6O/cR0KjISXD3VMVh7zZwubOhABW7dI8vtwttSIVHI57TeUAxiI/HN28aG2acQs=
trusted comment: index any serial 1
oxws1ikXfUIKLsZ04zsSJgSVLtir9OK2pBy7/hpfsvbVtJHhi0a2PqdhcL0fDUpKTEYj59jEam6oecG58Vq8Dw==
"""


def cmd_selftest(options: "Options") -> int:
    """Show that this lpkg takes what is good and refuses what isn't."""
    failed = 0
    for what, word, run in self_checks():
        said = ""
        try:
            run()
        except Fail as error:
            said = str(error)
        good = word in said and bool(said) == bool(word)
        show(f"{'ok' if good else 'FAILED'}  {what}{': refused' * bool(word)}")
        failed += not good
    if failed:
        raise Fail(f"{failed} checks failed; don't use this copy of lpkg, nor this Python")
    return 0


def self_checks() -> object:
    """(what, a word of the refusal or "", what is to be run) of each check."""
    public, message, signature = map(bytes.fromhex, VECTOR)
    raised = signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")
    for what, data, signed, word in (("RFC 8032's signature", message, signature, ""),
                                     ("of another message", b"x", signature, "no signature"),
                                     ("with S + L", message, raised, "no signature")):
        yield what, word, lambda: ed25519_verify(public, data, signed) or fail("no signature")
    key = parse_public_key(MINISIGN_KEY, "the key")
    for what, data, word in (("minisign's signature", b"index", ""),
                             ("of another file", b"indeX", "wrong signature")):
        yield what, word, lambda: check_signature(data, MINISIGN_OF_INDEX, [key], "it")
    digest = sha256_of([b"data"])
    for what, path, mode, data, word in (
            ("a package", "f", "0644", b"data", ""),
            ("a file ../f", "../f", "0644", b"data", "path is not valid"),
            ("a setuid bit that isn't declared", "f", "4755", b"data", "says at f"),
            ("another content", "f", "0644", b"DATA", "another content")):
        entry = roots_entry(path, "file", "0644", size=4, sha256=digest)
        body = tar_header(dict(entry, mode=mode)) + data + padding(len(data))
        yield what, word, lambda: read_sample(entry, body)


def fail(text: str) -> None:
    """Raise Fail."""
    raise Fail(text)


def read_sample(entry: dict, body: bytes) -> None:
    """Read a package whose manifest has ENTRY, and whose archive has BODY, as `index` does."""
    import io
    info = dict(EMPTY_INFO)
    info.update(name="sample", version="1-0", arch="any", size=0)
    text = record_text(info, [entry])
    head = tar_header(record_entry(len(text)))
    data = b"".join(gzip_pieces([head, text, padding(len(text)), body, TAR_END]))
    package = Archive(inflated(io.BytesIO(data), "it"), "it").package()
    package.open = lambda: io.BytesIO(data)
    read_through(package)


# ---- the command line --------------------------------------------------------------------------

class Option(Record):
    """An option: its FLAG, what the help calls its VALUE ("" for none), its HELP, and whether it
    may be given several times."""
    __slots__ = ("flag", "value", "help", "many")

    def attribute(self) -> str:
        """The attribute of Options that it sets."""
        return self.flag.strip("-").replace("-", "_")


class Verb(Record):
    """A verb: what carries it out, for what PURPOSE it wants the root open (None: it does without,
    or opens it itself), how many words it wants and their help, its OPTIONS."""
    __slots__ = ("run", "purpose", "least", "most", "words", "options", "help")


ANY = 1 << 30
FROM = "--root --repo --key --arch --offline "
PLANS = "--yes --dry-run --json "

OPTIONS = [
    Option("--root", "DIR", "the root to work on (default /)", False),
    Option("--repo", "URL", "a repository, the folder above ARCH/", True),
    Option("--key", "FILE", "a public key to trust, for --repo", True),
    Option("--arch", "ARCH", "the architecture (the root's, this machine's)", False),
    Option("--yes", "", "don't ask", False),
    Option("--dry-run", "", "show the plan on stdout and stop", False),
    Option("--json", "", "print an array of objects", False),
    Option("--offline", "", "ask no network: only what was fetched before", False),
    Option("--allow-unsigned", "", "take unsigned .lpkg files", False),
    Option("--take", "", "take the new version of conffiles", False),
    Option("--keep", "", "keep conffiles as they are", False),
    Option("--meta", "FILE", "what the packages are (pkggen.py meta)", False),
    Option("-o", "DIR", "where the packages go", False),
    Option("--secret", "KEY", "the secret key to sign with", False),
    Option("--comment", "TEXT", "the trusted comment", False),
    Option("--renew", "", "sign an index.json with a new serial and expiry", False),
    Option("--encrypt", "", "ask for a password (or take LPKG_PASSWORD)", False),
    Option("--expires", "DAYS", "until it expires, or never (default 365)", False),
    Option("--serial-file", "FILE", "default: serial-ARCH beside KEY", False),
    Option("--page", "FILE", "a template to fill as index.html (world/page.html)", False),
    Option("--tar", "FILE", "write a tar, - for stdout, with all owners and modes", False),
    Option("--no-database", "", "leave lpkg's database out of the tar", False),
    Option("--repo-url", "URL", "what the new root has in etc/lpkg/repos", False),
    Option("--version", "", "print the version", False),
    Option("--help", "", "print this", False),
]

VERBS = {
    "install": Verb(cmd_install, MAKE, 1, ANY, "NAME[=VERSION][@REPO]|FILE...",
                    FROM + PLANS + "--allow-unsigned", "install or upgrade packages"),
    "upgrade": Verb(cmd_upgrade, CHANGE, 0, ANY, "[NAME...]", FROM + PLANS,
                    "upgrade packages, all of them when none is named"),
    "downgrade": Verb(cmd_downgrade, CHANGE, 1, ANY, "NAME[=VERSION]...", FROM + PLANS,
                      "go back to an older version"),
    "remove": Verb(cmd_remove, CHANGE, 1, ANY, "NAME...", "--root " + PLANS, "remove packages"),
    "autoremove": Verb(cmd_autoremove, CHANGE, 0, 0, "", "--root " + PLANS,
                       "remove what nobody needs any more"),
    "undo": Verb(cmd_undo, CHANGE, 0, 1, "[NUMBER]", FROM + PLANS, "take a transaction back"),
    "history": Verb(cmd_history, READ, 0, 0, "", "--root --json", "list what was changed"),
    "update": Verb(cmd_update, CHANGE, 0, 0, "", "--root --key --arch", "fetch the indexes anew"),
    "fetch": Verb(cmd_fetch, CHANGE, 0, ANY, "[NAME...]", FROM, "fetch packages into the cache"),
    "clean": Verb(cmd_clean, CHANGE, 0, 0, "", "--root", "empty the cache"),
    "hold": Verb(cmd_hold, CHANGE, 1, ANY, "NAME...", "--root", "keep packages as they are"),
    "unhold": Verb(cmd_unhold, CHANGE, 1, ANY, "NAME...", "--root",
                   "let packages be upgraded again"),
    "search": Verb(cmd_search, READ, 1, 1, "WORD", FROM + "--json", "search names and summaries"),
    "list": Verb(cmd_list, READ, 0, 0, "", "--root --json", "list what is installed"),
    "info": Verb(cmd_info, None, 1, ANY, "NAME|FILE...", FROM + "--json", "describe packages"),
    "files": Verb(cmd_files, None, 1, ANY, "NAME|FILE...", "--root --json",
                  "list the files of packages"),
    "owner": Verb(cmd_owner, READ, 1, ANY, "PATH...", "--root --json", "say who brought a path"),
    "why": Verb(cmd_why, READ, 1, 1, "NAME", "--root --json", "say who needs a package"),
    "verify": Verb(cmd_verify, READ, 0, ANY, "[NAME...]", "--root --json",
                   "compare files and database"),
    "audit": Verb(cmd_audit, READ, 0, ANY, "[NAME...]", "--root --json", "list changed conffiles"),
    "fix": Verb(cmd_fix, CHANGE, 0, ANY, "[NAME...]", FROM + PLANS + "--take --keep",
                "finish what waits, merge conffiles; repair packages"),
    "alternatives list": Verb(cmd_alternatives_list, READ, 0, 0, "", "--root --json",
                              "the paths that several packages offer"),
    "alternatives set": Verb(cmd_alternatives_set, CHANGE, 2, 2, "PATH PACKAGE", "--root --dry-run",
                             "choose the package that has one"),
    "alternatives auto": Verb(cmd_alternatives_set, CHANGE, 1, 1, "PATH", "--root --dry-run",
                              "let the priorities choose"),
    "repo list": Verb(cmd_repo_list, READ, 0, 0, "", "--root --json", "the repositories"),
    "repo add": Verb(cmd_repo_add, CHANGE, 2, 2, "NAME URL", "--root", "know a repository"),
    "repo remove": Verb(cmd_repo_remove, CHANGE, 1, 1, "NAME", "--root", "forget a repository"),
    "key list": Verb(cmd_key_list, READ, 0, 0, "", "--root --json", "the keys that are trusted"),
    "key add": Verb(cmd_key_add, CHANGE, 1, 1, "FILE", "--root --yes", "trust NAME.pub for NAME"),
    "key remove": Verb(cmd_key_remove, CHANGE, 1, 1, "NAME", "--root", "trust a key no longer"),
    "bootstrap": Verb(cmd_bootstrap, None, 1, ANY, "ROOT|--tar FILE NAME...",
                      "--repo --key --arch --tar --no-database --repo-url "
                      "--allow-unsigned --dry-run", "make a new root"),
    "pack": Verb(cmd_pack, None, 0, 0, "--meta FILE -o DIR < TAR", "--meta -o",
                 "make packages of a build's output"),
    "index": Verb(cmd_index, None, 1, 1, "DIR --secret KEY",
                  "--secret --arch --expires --serial-file --page",
                  "read packages through, write and sign their index"),
    "sign": Verb(cmd_sign, None, 1, 1, "FILE --secret KEY",
                 "--secret --comment --renew --expires --serial-file --key",
                 "sign a file, or an index.json anew"),
    "keygen": Verb(cmd_keygen, None, 1, 1, "BASENAME", "--encrypt", "make a key pair"),
    "selftest": Verb(cmd_selftest, None, 0, 0, "", "",
                     "show that this lpkg refuses what it should"),
}
BEGINNER = ("install", "remove", "upgrade", "search", "list")


class Options:
    """The command line, parsed: one attribute an option, and the words that are none."""

    def __init__(self):
        self.verb = None
        self.words = []
        for option in OPTIONS:
            value = [] if option.many else None if option.value else False
            setattr(self, option.attribute(), value)

    def need(self, flag: str) -> str:
        """The value of the option FLAG; Usage when it was not given."""
        value = getattr(self, flag.strip("-"))
        if value is None:
            raise Usage(f"{flag} is needed")
        return value


def parse_arguments(arguments: list) -> Options:
    """The command line; options may stand before and after the verb, `--` ends them."""
    options = Options()
    flags = {option.flag: option for option in OPTIONS}
    given = []
    rest = list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        word = {"-h": "--help", "-y": "--yes"}.get(word, word)
        word = "--help" if word == "help" and not options.words else word
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
    if f"{verb} list" in VERBS:
        second = options.words.pop(0) if options.words else "list"
        if f"{verb} {second}" not in VERBS:
            known = [usage(one) for one in VERBS if one.partition(" ")[0] == verb]
            raise Usage(f"write {', '.join(known)}")
        verb = f"{verb} {second}"
    options.verb = verb
    if not options.help and not options.version and (verb or given):
        check_arguments(options, given)
    if options.root == "":
        raise Usage("--root: an empty name is not a directory; the root is /")
    options.root = options.root or "/"
    return options


def set_option(options: Options, option: Option, values: list, attached: bool) -> None:
    """Note OPTION, whose value, if it takes one, is the first of VALUES, which is taken away."""
    if not option.value and attached:
        raise Usage(f"{option.flag} takes no value")
    if option.value and not values:
        raise Usage(f"{option.flag} needs a value: {option.flag} {option.value}")
    if option.many:
        getattr(options, option.attribute()).append(values.pop(0))
    else:
        setattr(options, option.attribute(), values.pop(0) if option.value else True)


def check_arguments(options: Options, given: list) -> None:
    """Usage unless the verb exists, and takes the options that were GIVEN and so many words."""
    verb = options.verb
    if verb not in VERBS:
        known = nearest(verb, VERBS) if verb else ""
        raise Usage(f"{verb}: no such verb{known}" if verb else "no verb; see lpkg --help")
    known = VERBS[verb]
    allowed = known.options.split()
    if "--root" in allowed:             # what an alias, or a habit, may add to any of them
        allowed += ["--yes", "--key"]
    for flag in given:
        if flag not in allowed:
            raise Usage(f"{flag} doesn't go with {verb}; see lpkg {verb} --help")
    if not known.least <= len(options.words) <= known.most:
        raise Usage(f"write {usage(verb)}")


def usage(verb: str) -> str:
    """How VERB is written."""
    return f"lpkg {verb} {VERBS[verb].words}".rstrip()


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
    options = parse_arguments(arguments)
    verb = options.verb
    if options.version:
        print(f"lpkg {VERSION}")
    elif options.help and verb in VERBS:
        print(help_text([verb], VERBS[verb].options.split()))
    elif options.help:
        print(help_text(VERBS, [option.flag for option in OPTIONS]))
    elif verb is None:
        print(help_text(BEGINNER, []))
    else:
        known = VERBS[verb]
        opened = [open_root(options, known.purpose)] if known.purpose else []
        return known.run(options, *opened)
    return 0


def explain(error: OSError) -> str:
    """An OSError as one line: where, what, and what to do."""
    forbidden = ("run it as root, or on a --root of your own" if os.geteuid() else
                 "it is immutable (see lsattr), or its file system has no owners")
    room = "make room and run it again"
    hints = {errno.ENOENT: "check the path", errno.ENOSPC: room, errno.EDQUOT: room,
             errno.EACCES: forbidden, errno.EPERM: forbidden,
             errno.EROFS: "mount it writable", errno.EIO: "the disk may be failing"}
    if error.errno == errno.ENOSPC and not inodes_left(error.filename):
        return f"{error.filename}: no inode is left; make room: remove files, however small"
    where = f"{error.filename}: " if error.filename is not None else ""
    hint = f"; {hints[error.errno]}" if error.errno in hints else ""
    return f"{where}{error.strerror or error}{hint}"


def inodes_left(path: object) -> bool:
    """Whether files can be made where PATH is, or that isn't known."""
    try:
        there = os.statvfs(os.path.dirname(path))
    except (OSError, TypeError):
        return True
    return there.f_favail > 0 or not there.f_files


def discard_stdout() -> None:
    """Drop what stdout holds, else Python's exit tries it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: "list | None" = None) -> int:
    """Run lpkg; what a user, a network or a disk causes is one line on stderr and a status."""
    gc.disable()                        # it would look for cycles among what lives to the end
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
        discard_stdout()                 # the reader has seen enough
    except OSError as error:
        say(f"lpkg: {explain(error)}")
        discard_stdout()                 # perhaps it was stdout that failed
    except MemoryError:
        say("lpkg: not enough memory; nothing is half done")
    return 1


if __name__ == "__main__":
    sys.exit(main())
