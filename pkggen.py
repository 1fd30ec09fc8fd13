#!/usr/bin/env python3
"""pkggen: turn YAML recipes into makefiles, and run them.

    pkggen.py script recipes/core/zlib          the shell script that a recipe comes to
    pkggen.py build recipes/core/zlib           build its packages in a container
    pkggen.py world-mk recipes -o world.mk      a makefile that builds every recipe of a tree

A recipe is a folder with a pkgen.yaml; its script is a Go text/template. From a recipe come two
makefiles: fetch.mk gets and verifies the sources on this machine, build.mk builds them anywhere. A
build is a filter: one tar goes in (build.mk, sources, sysroot), one tar comes out (out/PACKAGE/...,
.status), the log is stderr.

Files, below $O (build): sources/ is the cache of sources by hash (or $SOURCES); ARCH/mk/NAME.built
says what went into the last good build of a recipe and what came out; ARCH/log/NAME.log is its log;
repo/ARCH/ holds the packages.

Invariant: nothing whose hash is not the recipe's own word reaches a build, and a recipe counts as
built only when all that went in is, by its hash, what went into the last good build.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    del sys.path[0]  # this script's own folder: a json.py that lies beside it must have no effect

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

try:
    import yaml
except ImportError:
    sys.exit(
        "pkggen: PyYAML is missing; `apt-get install python3-yaml`, or `pip install PyYAML`"
    )

VERSION = "0.1"
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("O") or "build"
SOURCES = os.environ.get("SOURCES") or os.path.join(OUT, "sources")
# The builder and what runs a build in it. $BUILD names the build, $IMAGE the image that
# world/builder made.
RUN = os.environ.get("RUN") or "docker run --rm -i --network none --name $BUILD $IMAGE"
RUN_STOP = os.environ.get("RUN_STOP") or "docker rm -f $BUILD"

RECIPE_FILE = "pkgen.yaml"
RECIPE_LIMIT = 1 << 20  # bytes of a pkgen.yaml
NESTING_LIMIT = 50  # lists and maps in one another in a pkgen.yaml; PyYAML recurses, on C's stack
NUMBER_LIMIT = 40  # characters of a number there; 1:1:1:... (base 60) takes quadratic time
CHUNK = 1 << 18  # bytes read at a time
TIMEOUT = 30  # seconds that a server may stay silent
LOG_LINES = 30  # lines of a failed build's log that are shown
EPOCH = 946684800  # SOURCE_DATE_EPOCH of every build, 2000-01-01: no build sees the time as data

# The GNU names of the architectures: of Debian's compilers, which the builder image holds.
GNU_TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
    "x86": "i686-linux-gnu",
}

# What uname calls some of them.
MACHINES = {"armv7l": "armv7", "i386": "x86", "i586": "x86", "i686": "x86"}

# Build dependencies that are the builder's own programs and no packages of ours.
BUILDER_TOOLS = frozenset(
    "bc binutils bison bzip2 cpio file flex gawk gcc gzip m4 make patch perl pkgconf rsync sed tar "
    "xz".split()
)
# ---- shared block: the same bytes in pkggen.py and lpkg.py; tests/test_house.py compares them ----


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


# ==== The schema of a recipe ======================================================================


class Field(NamedTuple):
    """A key of a recipe: its kind is one of the readers in `READERS`."""

    key: str
    kind: str
    what: str


# In the order in which a recipe is written.
RECIPE_FIELDS = (
    Field("packages", "packages", "the packages that come out, each with its dependencies"),
    Field("version", "text", "upstream's version"),
    Field(
        "build", "integer", "counts the builds of one version; the full version is VERSION-BUILD"
    ),
    Field("summary", "text", "one line that says what it is"),
    Field("license", "text", "SPDX licence expression"),
    Field("url", "text", "upstream's home page"),
    Field("arch", "texts", "architectures it builds for; all when absent"),
    Field("sources", "sources", "URLs, or lists of alternatives"),
    Field("mirrors", "texts", "URL prefixes that have the sources too"),
    Field("sha256", "text map", "source file name to its hash"),
    Field("builddependencies", "texts", "packages in the sysroot of the build"),
    Field("builder", "text", "default, docker or bootstrap"),
    Field("nobootstrap", "boolean map", "dependencies that nothing may stand in for"),
    Field("cross", "boolean", "whether it can be built for another architecture"),
    Field("data", "any map", ".Data of the templates"),
    Field("script", "texts", "shell commands, a template"),
    Field("check", "texts", "shell commands that test the result, a template"),
    Field("oneshell", "any", "accepted and ignored"),
    Field("tools", "any", "accepted and ignored"),
)

PACKAGE_FIELDS = (
    Field("dependencies", "texts", "packages it needs to run"),
    Field("summary", "text", "one line; the recipe's when absent"),
    Field("provides", "texts", "other names it answers to"),
    Field("conflicts", "texts", "packages it can't be installed beside"),
    Field("conffiles", "texts", "files that their owner may change"),
    Field("services", "texts", "init scripts it brings"),
    Field("owners", "text map", "path to UID:GID:MODE"),
)

BUILDERS = {
    "": "docker",
    "default": "docker",
    "alpine": "docker",
    "panux": "docker",
    "docker": "docker",
    "bootstrap": "bootstrap",
}

NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9+._-]*")
PACKAGE_VERSION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9+._~-]*")
RELATION = re.compile(
    r"!?[A-Za-z0-9][A-Za-z0-9+._:-]*((>=|<=|=|>|<|~)[A-Za-z0-9][A-Za-z0-9+._~-]*)?"
)
SHA256 = re.compile(r"[0-9a-f]{64}")


class Alternative(NamedTuple):
    """One place to get a source from; `sha256` is None for file: and self:, which lie here."""

    url: str
    sha256: Optional[str]


class Source(NamedTuple):
    """A file of the build's src/: `place` is where the recipe names it (file:line:column)."""

    name: str
    alternatives: Tuple[Alternative, ...]
    place: str

    @property
    def is_local(self) -> bool:
        return self.alternatives[0].url.startswith(LOCAL)


@dataclasses.dataclass
class Recipe:
    """A loaded recipe: templates rendered, every field of its final type."""

    name: str
    folder: str
    path: str
    arch: str
    hostarch: str
    fields: Dict[str, Any]
    sources: List[Source] = dataclasses.field(default_factory=list)
    script: str = ""
    check: str = ""

    @property
    def packages(self) -> Dict[str, Dict[str, Any]]:
        return self.fields["packages"]

    @property
    def version(self) -> str:
        return f"{self.fields['version']}-{self.fields['build']}"


# ==== Templates ===================================================================================
#
# Go's text/template, version 1.19, in three steps: a scanner cuts the text into tokens, a parser
# makes a tree of them, a machine walks the tree. Four ideas carry the rest.
#
# 1. Templates may call one another 100,000 deep, and Python's stack ends at 1,000. So the machine's
#    walk over a list of nodes is a generator that yields the walk to be done next, and a loop keeps
#    those that wait in a list. Only blocks and parentheses in the text recurse, and are counted.
# 2. Go knows two kinds of nothing. A nil in the data is None; what was looked up and not found is
#    ABSENT. A field of ABSENT is ABSENT again, and prints as <no value>; a field of None is an
#    error. A pipeline's result is never None, and a function's argument never ABSENT: either
#    becomes the other.
# 3. Variables are a stack. Leaving a block cuts it back to the mark set on entering.
# 4. Time and memory are one account: so many nodes walked, so many characters written or handed to
#    functions and back.
#
# A place is an offset into the text; TemplateText.error makes name:line:column of it. Bytes that
# are no UTF-8 (from "\xff", or a slice through a character) are lone surrogates in strings, as
# Python's error handler "surrogateescape" has it.

MAX_CALLS = 100_000         # templates in templates: Go's own limit
MAX_STEPS = 1_000_000       # nodes; a recipe walks some hundreds
MAX_TEXT = 1 << 25          # characters
MAX_NESTING = 80            # blocks or parentheses in one another: Python's stack bears it
MAX_INT = (1 << 63) - 1     # of Go's int


class Struct(dict):
    """A map that is a Go struct to templates: its fields are fixed, another name is an error."""


class Byte(int):
    """A byte of a string, as `index "abc" 1` gives it: Go's uint8."""


class Nothing:
    """The type of ABSENT and MISSING, which stand for no value of the data."""


ABSENT = Nothing()          # looked up and not found
MISSING = Nothing()         # there is no stage before in the pipeline


class TemplateText:
    """A template's text under the name that its errors bear."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, at: int, what: str) -> Fail:
        """The Fail `name:line:column: WHAT` for the offset AT; both counts start at 1."""
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        return Fail(f"{self.name}:{line}:{column}: {what}")


class Node(NamedTuple):
    """A token, or a node of the tree that the parser makes; what VALUE is depends on KIND.

    tokens     text, open, close, end of text, a keyword, or a group of TOKEN: their text
    text       the text
    action     a pipeline, whose value is printed unless a variable takes it
    if with range   (arms, otherwise); an arm is (pipeline, nodes), and only an if has several
    template   (name, pipeline or None)
    pipeline   (names of variables, whether they exist, commands); a command is a list of operands,
               and operands are pipelines and these:
    constant   a string, number or bool
    dot nil variable word   the token itself
    chain      (operand, names of fields)
    """

    kind: str
    at: int
    value: Any


# ---- scanner: text -> tokens ----

KEYWORDS = frozenset("block break continue define else end if nil range template with".split())
OPEN = re.compile(r"\{\{(?P<trim>-[ \t\r\n])?")
CLOSE = re.compile(r"\}\}|[ \t\r\n]-\}\}[ \t\r\n]*")
TOKEN = re.compile(r"""
    (?P<close>\}\}|[ \t\r\n]-\}\}[ \t\r\n]*)
  | (?P<space>[ \t\r\n]+(?!-\}\}))      # leaves the blank that belongs to a trimming close
  | (?P<number>[+-]?\.?[0-9](?:[eEpP][+-]|[\w.])*)
  | (?P<word>\w+) | (?P<field>\.\w+) | (?P<dot>\.) | (?P<variable>\$\w*)
  | (?P<string>"(?:\\[^\n]|[^"\\\n])*") | (?P<raw>`[^`]*`) | (?P<char>'(?:\\[^\n]|[^'\\\n])*')
  | (?P<declare>:=) | (?P<assign>=) | (?P<pipe>\|) | (?P<left>\() | (?P<right>\))
  | (?P<other>[!#%&*+,/;<>?@\[\\\]^{}~-])
""", re.VERBOSE)
WORD_ENDS = re.compile(r"[ \t\r\n.,|:)(}]|\Z")
BROKEN = {'"': "this string has no closing quote on its line",
          "`": "this raw string has no closing backquote",
          "'": "this character has no closing quote on its line",
          ":": "expected := here"}


def scan(source: TemplateText) -> Iterator[Node]:
    """The tokens of SOURCE, comments gone and blanks trimmed; raises Fail where there is none."""
    position = 0
    while True:
        opening = OPEN.search(source.text, position)
        end = opening.start() if opening else len(source.text)
        text = source.text[position:end]
        if opening and opening["trim"]:
            text = text.rstrip(" \t\r\n")
        if text:
            yield Node("text", position, text)
        if not opening:
            break
        step = scan_comment if source.text.startswith("/*", opening.end()) else scan_action
        position = yield from step(source, opening)
    yield Node("end of text", end, "")


def scan_comment(source: TemplateText, opening: Any) -> Iterator[Node]:
    """No tokens; like scan_action it returns the offset where text goes on."""
    end = source.text.find("*/", opening.end() + 2)
    if end < 0:
        raise source.error(opening.start(), "this comment is never closed")
    close = CLOSE.match(source.text, end + 2)
    if not close:
        raise source.error(end, "a comment must close with */}} or */ -}}")
    yield from ()
    return close.end()


def scan_action(source: TemplateText, opening: Any) -> Iterator[Node]:
    """The tokens of one action, {{ and }} among them; returns the offset where text goes on."""
    yield Node("open", opening.start(), "{{")
    position, kind = opening.end(), "open"
    while kind != "close":
        match = TOKEN.match(source.text, position)
        if position == len(source.text):
            raise source.error(opening.start(), "this {{ is never closed")
        if not match:
            raise bad_character(source, position)
        kind, start, position = match.lastgroup, position, match.end()
        if kind in ("word", "field", "dot", "variable"):
            if not WORD_ENDS.match(source.text, position):
                raise bad_character(source, position)
        if kind != "space":
            yield Node(match.group() if match.group() in KEYWORDS else kind, start, match.group())
    return position


def bad_character(source: TemplateText, at: int) -> Fail:
    """Why no token can begin, or none end, at AT."""
    character = source.text[at]
    return source.error(at, BROKEN.get(character) or f"bad character {quote(character)} here")


# ---- literals ----

OCTAL = re.compile(r"^([+-]?)0(?=_?[0-7_]+$)")
UNIT = re.compile(r"""
    \\(?P<octal>[0-3][0-7]{2}) | \\x(?P<byte>[0-9a-fA-F]{2})
  | \\u(?P<short>[0-9a-fA-F]{4}) | \\U(?P<long>[0-9a-fA-F]{8})
  | \\(?P<escape>[abfnrtv\\'"]) | (?P<plain>[^\\])
""", re.VERBOSE | re.DOTALL)
ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}


def parse_literal(token: Node) -> object:
    """The value of a number, string, raw string or character; ValueError when it is malformed."""
    if token.kind == "number":
        return parse_number(token.value)
    if token.kind == "raw":
        return token.value[1:-1].replace("\r", "")
    units = list(decode_units(token.value))
    if token.kind == "char":
        (number, _), = units
        return number
    octets = b"".join(bytes([number]) if bare else to_bytes(chr(number)) for number, bare in units)
    return to_text(octets)


def parse_number(text: str) -> object:
    """The int or float that TEXT is in Go; ValueError when it is none, or is out of 64 bits."""
    low = text.lower()
    if not text.isascii() or len(text) > 1000:          # int() takes its time with more digits
        raise ValueError
    if "." not in low and "p" not in low and ("e" not in low or "x" in low):
        value = int(OCTAL.sub(r"\g<1>0o", text), 0)
        if not -MAX_INT - 1 <= value <= (MAX_INT if text[0] in "+-" else 2 * MAX_INT + 1):
            raise ValueError
        return value
    if "x" in low and "p" not in low:
        raise ValueError
    value = float.fromhex(text) if "x" in low else float(text)
    if value - value != 0:                              # infinite: out of range
        raise ValueError
    return value


def decode_units(text: str) -> Iterator[Tuple[int, bool]]:
    """The characters of a quoted TEXT as (number, is a bare byte); ValueError for a bad escape."""
    position, closing = 1, len(text) - 1
    while position < closing:
        match = UNIT.match(text, position, closing)
        if not match or match["escape"] in ("'", '"') and match["escape"] != text[0]:
            raise ValueError
        position, kind, unit = match.end(), match.lastgroup, match[match.lastgroup]
        if kind == "plain":
            yield ord(unit), False
        elif kind == "escape":
            yield ESCAPES[unit], False
        elif kind in ("octal", "byte"):
            yield int(unit, 8 if kind == "octal" else 16), True
        else:
            yield ord(chr(int(unit, 16)).encode().decode()), False      # refuses surrogates


def to_bytes(text: str) -> bytes:
    """TEXT as Go holds it."""
    return text.encode("utf-8", "surrogateescape")


def to_text(octets: bytes) -> str:
    """The inverse of to_bytes."""
    return octets.decode("utf-8", "surrogateescape")


# ---- parser: tokens -> tree ----

LITERALS = ("string", "raw", "char", "number")
OPERANDS = LITERALS + ("word", "field", "dot", "variable", "nil", "left")


class Parser:
    """Makes the trees of a template and of those it defines: `parse` gives them by name."""

    def __init__(self, source: TemplateText, functions: Dict[str, Any]) -> None:
        self.source = source
        self.functions = functions
        self.scanner = scan(source)
        self.tokens: List[Node] = []            # those that were looked at
        self.position = 0                       # of the next token in it
        self.variables = ["$"]                  # in scope
        self.nesting = 0                        # of blocks and parentheses
        self.ranges = 0                         # whose body this is in, in this template
        self.templates: Dict[str, list] = {}

    def parse(self) -> Dict[str, list]:
        """Template name -> nodes; raises Fail for what Go does not parse."""
        nodes, stop = self.nodes(top=True)
        if stop.kind != "end of text":
            raise self.error(stop, f"unexpected {{{{{stop.kind}}}}}: no block is open here")
        self.add(self.source.name, stop, nodes)
        return self.templates

    # Tokens.

    def peek(self) -> Node:
        if self.position == len(self.tokens):
            self.tokens.append(next(self.scanner))
        return self.tokens[self.position]

    def next(self) -> Node:
        token = self.peek()
        self.position += 1
        return token

    def glued(self) -> bool:
        """Whether the next token follows the last one without a blank."""
        last = self.tokens[self.position - 1]
        return last.at + len(last.value) == self.peek().at

    def expect(self, where: str, *kinds: str) -> Node:
        """The next token, which must be of one of KINDS."""
        if self.peek().kind not in kinds:
            raise self.unexpected(where)
        return self.next()

    def error(self, where: Node, what: str) -> Fail:
        return self.source.error(where.at, what)

    def unexpected(self, where: str) -> Fail:
        """A Fail for the next token."""
        token = self.peek()
        return self.error(token, f"unexpected {quote(token.value)} in {where}")

    def deeper(self, token: Node) -> None:
        """Count a block or parenthesis that begins at TOKEN."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.error(token, f"blocks or parentheses are nested over {MAX_NESTING} deep")

    # Blocks.

    def nodes(self, top: bool = False) -> Tuple[list, Node]:
        """The nodes up to an {{end}}, an {{else}} or the end of the text, and which it was."""
        nodes: list = []
        while True:
            token = self.next()
            if token.kind == "end of text":
                return nodes, token
            if token.kind == "text":
                nodes.append(token)
                continue
            if self.peek().kind in ("else", "end"):
                return nodes, self.next()
            if self.peek().kind == "define" and not top:
                raise self.error(self.peek(), "define must stand outside of every block")
            nodes += self.action(self.peek())

    def action(self, token: Node) -> list:
        """The nodes of an action: one, or none of a define."""
        handler = {"if": self.branch, "with": self.branch, "range": self.branch,
                   "define": self.define, "block": self.define, "template": self.invoke,
                   "break": self.jump, "continue": self.jump}.get(token.kind)
        if handler:
            return handler(self.next())
        return [Node("action", token.at, self.pipeline("an action"))]

    def branch(self, token: Node) -> list:
        """if, with, range: variables that its pipeline declares end with the block."""
        self.deeper(token)
        scope = len(self.variables)
        pipeline = self.pipeline(token.kind)
        self.ranges += token.kind == "range"
        nodes, stop = self.nodes()
        self.ranges -= token.kind == "range"
        arms, otherwise = [(pipeline, nodes)], []
        while stop.kind == "else" and token.kind == "if" and self.peek().kind == "if":
            pipeline = self.pipeline(self.next().kind)
            nodes, stop = self.nodes()
            arms.append((pipeline, nodes))
        if stop.kind == "else":
            self.expect("else", "close")
            otherwise, stop = self.nodes()
        self.end(token, stop)
        del self.variables[scope:]
        return [Node(token.kind, token.at, (arms, otherwise))]

    def end(self, opening: Node, stop: Node) -> None:
        """The {{end}} of a block, which STOP must be."""
        if stop.kind == "end of text":
            raise self.error(opening, f"this {opening.kind} has no {{{{end}}}}")
        if stop.kind == "else":
            raise self.error(stop, f"unexpected {{{{else}}}} in the {opening.kind}")
        self.expect("end", "close")
        self.nesting -= 1

    def define(self, token: Node) -> list:
        """{{define "name"}}, and {{block "name" P}}: a define and a template node in its place."""
        self.deeper(token)
        name = self.name(token)
        here = []
        if token.kind == "block":
            here = [Node("template", token.at, (name, self.pipeline("block")))]
        else:
            self.expect("define", "close")
        outer = self.variables, self.ranges
        self.variables, self.ranges = ["$"], 0
        nodes, stop = self.nodes()
        self.variables, self.ranges = outer
        self.end(token, stop)
        self.add(name, token, nodes)
        return here

    def add(self, name: str, token: Node, nodes: list) -> None:
        """Record a template; an empty one gives way to another of its name, as Go has it."""
        known = self.templates.get(name)
        if not known or is_empty(known):
            self.templates[name] = nodes
        elif not is_empty(nodes):
            raise self.error(token, f"template {quote(name)} is defined twice")

    def invoke(self, token: Node) -> list:
        """{{template "name"}} or {{template "name" P}}."""
        name = self.name(token)
        if self.peek().kind == "close":
            self.next()
            return [Node("template", token.at, (name, None))]
        return [Node("template", token.at, (name, self.pipeline("template")))]

    def name(self, token: Node) -> str:
        """The quoted name after define, block or template."""
        return self.literal(self.expect(token.kind, "string", "raw")).value

    def jump(self, token: Node) -> list:
        """{{break}} or {{continue}}, in a range of the same template and not in its else part."""
        self.expect(token.kind, "close")
        if not self.ranges:
            raise self.error(token, f"{token.kind} must stand in a range")
        return [token]

    # Pipelines.

    def pipeline(self, where: str, closing: str = "close") -> Node:
        """A pipeline with the token that closes it."""
        at = self.peek().at
        names, exist = self.declarations(where)
        commands = []
        while self.peek().kind != closing:
            if self.peek().kind not in OPERANDS:
                raise self.unexpected(where)
            commands.append(self.command())
        if not commands:
            raise self.error(self.peek(), f"{where} has no value")
        self.next()
        for command in commands[1:]:
            if command[0].kind in ("constant", "dot", "nil"):
                raise self.error(command[0], "only a function can follow a |")
        return Node("pipeline", at, (names, exist, commands))

    def declarations(self, where: str) -> Tuple[List[str], bool]:
        """`$x :=`, `$x =` or, in a range, `$i, $v :=`: the names, and whether they exist."""
        names: List[str] = []
        while self.peek().kind == "variable":
            variable, mark = self.next(), self.peek()
            if mark.kind not in ("declare", "assign") and mark.value != ",":
                self.position -= 1
                break
            self.next()
            names.append(variable.value)
            self.variables.append(variable.value)       # = too: Go finds out when it runs
            if mark.value != ",":
                return names, mark.kind == "assign"
            if where != "range" or len(names) > 1:
                raise self.error(variable, f"too many variables in {where}")
            if self.peek().kind not in ("variable", "close"):
                raise self.unexpected("a range's variables")
        return names, False

    def command(self) -> list:
        """Operands up to a | or to what closes the pipeline; only the | is taken."""
        operands: list = []
        while self.peek().kind in OPERANDS and not (operands and self.glued()):
            operands.append(self.operand())
        if self.peek().kind == "pipe":
            self.next()
        elif self.peek().kind not in ("close", "right"):
            raise self.unexpected("a command")
        return operands

    def operand(self) -> Node:
        """A term with the fields that follow it."""
        first = self.peek()
        term = Node("dot", first.at, ".") if first.kind == "field" else self.term(self.next())
        names: List[str] = []
        while self.peek().kind == "field" and (self.glued() or self.peek() is first):
            names.append(self.next().value[1:])
        if names and first.kind != "field" and term.kind in ("constant", "dot", "nil"):
            raise self.error(first, f"{quote(first.value)} has no fields")
        return Node("chain", term.at, (term, names)) if names else term

    def term(self, token: Node) -> Node:
        """The node that TOKEN is, or that a left parenthesis opens."""
        if token.kind in LITERALS:
            return self.literal(token)
        if token.kind == "left":
            self.deeper(token)
            pipeline = self.pipeline("parentheses", "right")
            self.nesting -= 1
            return pipeline
        if token.value in ("true", "false"):
            return Node("constant", token.at, token.value == "true")
        if token.kind == "variable" and token.value not in self.variables:
            raise self.error(token, f"undefined variable {token.value}")
        if token.kind == "word" and token.value not in self.functions:
            raise self.error(token, f"there is no function {quote(token.value)}")
        return token

    def literal(self, token: Node) -> Node:
        try:
            return Node("constant", token.at, parse_literal(token))
        except (ValueError, OverflowError):
            raise self.error(token, f"{token.value} is no valid {token.kind}") from None


def is_empty(nodes: list) -> bool:
    """Whether a template is nothing but blanks."""
    return all(node.kind == "text" and not node.value.strip() for node in nodes)


# ---- machine: tree -> text ----

class Scope(NamedTuple):
    """What nodes can see; the stack of variables is shared by all blocks of one template."""

    dot: Any
    variables: List[Tuple[str, Any]]
    depth: int                              # templates that are open


class Machine:
    """Walks the trees of a template and gathers the text in `pieces`."""

    def __init__(self, source: TemplateText, templates: Dict[str, list], functions: dict) -> None:
        self.source = source
        self.templates = templates
        self.functions = functions
        self.pieces: List[str] = []
        self.walks: list = []               # those that wait for the last one
        self.steps = MAX_STEPS
        self.characters = MAX_TEXT

    def run(self, data: Any) -> str:
        """The text of the template of the source's name, for DATA."""
        self.walks = [self.template(self.source.name, ABSENT if data is None else data, 0)]
        jump = None                         # what the walk that ended says: break, continue or None
        while self.walks:
            try:
                inner = self.walks[-1].send(jump)
                jump = None
                if inner:
                    self.walks.append(inner)
            except StopIteration as stop:
                self.walks.pop()
                jump = stop.value
        return to_text(to_bytes("".join(self.pieces)))      # joins the bytes of sliced characters

    def error(self, node: Node, what: str) -> Fail:
        return self.source.error(node.at, what)

    def spend(self, node: Node, characters: int) -> None:
        """Pay for a step and for text."""
        self.steps -= 1
        self.characters -= characters
        if self.steps < 0 or self.characters < 0:
            raise self.error(node, f"no end after {MAX_STEPS} steps or {MAX_TEXT} characters")

    def write(self, node: Node, text: str) -> None:
        self.spend(node, len(text))
        self.pieces.append(text)

    # Nodes. A walk is a generator: it yields another walk, or None, and gets back how that ended.
    # It keeps no reference to what it yields: a chain of 100,000 would be freed by recursion, in C.

    def walk(self, nodes: list, scope: Scope, mark: int) -> Iterator[Any]:
        """Do NODES; keep MARK variables at the end."""
        for node in nodes:
            self.spend(node, 0)
            if node.kind in ("break", "continue"):
                return node.kind
            jump = yield getattr(self, "do_" + node.kind)(node, scope)
            if jump:
                return jump
        del scope.variables[mark:]

    def do_text(self, node: Node, scope: Scope) -> None:
        self.write(node, node.value)

    def do_action(self, node: Node, scope: Scope) -> None:
        value = self.pipeline(node.value, scope)
        if not node.value.value[0]:                         # no variable takes it
            self.write(node, "<no value>" if value is ABSENT else show(value))

    def do_if(self, node: Node, scope: Scope) -> Any:
        arms, otherwise = node.value
        mark = len(scope.variables)
        for pipeline, nodes in arms:
            value = self.pipeline(pipeline, scope)
            if is_true(value):
                inner = scope._replace(dot=value) if node.kind == "with" else scope
                return self.walk(nodes, inner, mark)
        return self.walk(otherwise, scope, mark)

    do_with = do_if

    def do_range(self, node: Node, scope: Scope) -> Iterator[Any]:
        """The body for each item, or the else part."""
        ((pipeline, nodes),), otherwise = node.value
        outer = len(scope.variables)
        items = self.items(pipeline, self.pipeline(pipeline, scope))
        mark = len(scope.variables)
        jump = None
        for item in items:
            self.spend(node, 0)
            for place in range(len(pipeline.value[0])):     # so has Go 1.19 `range $x = …`
                top = mark - 1 - place
                scope.variables[top] = scope.variables[top][0], item[1 - place]
            if (yield self.walk(nodes, scope._replace(dot=item[1]), mark)) == "break":
                break
            del scope.variables[mark:]
        if not items:
            jump = yield self.walk(otherwise, scope, mark)      # a break there ends this range
        del scope.variables[outer:]
        return "continue" if jump == "continue" else None

    def items(self, node: Node, value: Any) -> List[Tuple[Any, Any]]:
        """The (key, element) pairs that a range goes through."""
        if isinstance(value, (list, tuple)):
            return list(enumerate(value))
        if is_map(value):
            return [(key, value[key]) for key in sorted_keys(value)]
        if value is not ABSENT:
            raise self.error(node, f"can't range over a value of type {go_type(value)}")
        return []

    def do_template(self, node: Node, scope: Scope) -> Iterator[Any]:
        name, pipeline = node.value
        if name not in self.templates:
            raise self.error(node, f"there is no template {quote(name)}")
        if scope.depth == MAX_CALLS or len(self.walks) > 3 * MAX_CALLS:     # some 300 MB
            raise self.error(node, f"over {MAX_CALLS} templates call one another")
        dot = self.pipeline(pipeline, scope) if pipeline else ABSENT
        return self.template(name, dot, scope.depth + 1)

    def template(self, name: str, dot: Any, depth: int) -> Iterator[Any]:
        """The walk over a template; its argument is . and $, and it sees no other variable."""
        return self.walk(self.templates[name], Scope(dot, [("$", dot)], depth), 0)

    # Pipelines and operands.

    def pipeline(self, node: Node, scope: Scope) -> Any:
        """The last command's value, which the variables take; never None."""
        names, exist, commands = node.value
        value: Any = MISSING
        for command in commands:
            value = self.command(command, scope, value)
            value = ABSENT if value is None else value
        for name in names:
            if exist:
                scope.variables[self.find(node, name, scope)] = name, value
            else:
                scope.variables.append((name, value))
        return value

    def find(self, node: Node, name: str, scope: Scope) -> int:
        """The place of the innermost variable NAME."""
        for place in range(len(scope.variables) - 1, -1, -1):
            if scope.variables[place][0] == name:
                return place
        raise self.error(node, f"undefined variable {name}")

    def command(self, operands: list, scope: Scope, last: Any) -> Any:
        """The value of a command; LAST, from the stage before, is its last argument."""
        first = operands[0]
        if first.kind == "word":
            return self.call(first, operands[1:], scope, last)
        given = len(operands) > 1 or last is not MISSING
        if first.kind == "chain":
            return self.chain(first, scope, given)
        if given:
            raise self.error(first, "this is no function and takes no arguments")
        if first.kind == "nil":
            raise self.error(first, "nil is no command")
        return self.operand(first, scope)

    def operand(self, node: Node, scope: Scope) -> Any:
        """The value of what is an argument or stands alone."""
        if node.kind == "constant":
            if type(node.value) is int and node.value > MAX_INT:
                raise self.error(node, f"{node.value} is too large for an int")
            return node.value
        if node.kind == "dot":
            return scope.dot
        if node.kind == "variable":
            return scope.variables[self.find(node, node.value, scope)][1]
        if node.kind == "chain":
            return self.chain(node, scope, False)
        if node.kind == "word":
            return self.call(node, [], scope, MISSING)
        return self.pipeline(node, scope) if node.kind == "pipeline" else None

    def chain(self, node: Node, scope: Scope, given: bool) -> Any:
        """Fields in fields; GIVEN arguments are an error at the last."""
        base, names = node.value
        value = self.operand(base, scope)
        for number, name in enumerate(names, 1):
            if value is ABSENT:
                break
            if value is None:
                raise self.error(node, f"nil has no field {name}")
            if not isinstance(value, dict) or isinstance(value, Struct) and name not in value:
                raise self.error(node, f"can't evaluate field {name} in type {go_type(value)}")
            if given and number == len(names):
                raise self.error(node, f"{name} is no function and takes no arguments")
            value = value.get(name, ABSENT)
        return value

    def call(self, node: Node, operands: list, scope: Scope, last: Any) -> Any:
        """A function's value. Whatever Python raises there is an error at the function's name."""
        function = self.functions[node.value]
        kinds, least, rest = signature(function)
        count = len(operands) + (last is not MISSING)
        if count < least or count > len(kinds) and rest is None:
            raise self.error(node, f"{node.value} does not take {count} arguments")
        if function in (BUILTINS["and"], BUILTINS["or"]):
            return self.short_circuit(operands, scope, last, function is BUILTINS["or"])
        values = [self.operand(operand, scope) for operand in operands]
        values += [] if last is MISSING else [last]
        values = [None if value is ABSENT else value for value in values]
        for value, kind, where in zip(values, kinds + [rest] * count, operands + [node]):
            if not is_kind(value, kind):
                raise self.error(where, f"{node.value} takes {GO_NAMES[kind]} here, "
                                 f"and this is {go_type(value)}")
        return self.protected(node, function, values)

    def protected(self, node: Node, function: Callable[..., Any], values: list) -> Any:
        """Call Python, and pay for the text that goes in and comes out."""
        self.spend(node, text_size(values))
        try:
            result = function(*values)
        except RecursionError:
            raise
        except Exception as error:
            raise self.error(node, f"{node.value}: {error}") from None
        self.spend(node, text_size([result]))
        return result

    def short_circuit(self, operands: list, scope: Scope, last: Any, stop: bool) -> Any:
        """`and`, `or`: the first operand whose truth is STOP, else the last; no more are run."""
        value = ABSENT
        for operand in operands:
            value = self.operand(operand, scope)
            if is_true(value) == stop:
                return value
        return value if last is MISSING else last


def text_size(values: list) -> int:
    """The characters of the strings among VALUES."""
    return sum(len(value) for value in values if isinstance(value, str))


def is_true(value: Any) -> bool:
    """Go's truth: nothing, false, 0 and what is empty are not; a struct always is."""
    return isinstance(value, Struct) or value is not ABSENT and bool(value)


def is_map(value: Any) -> bool:
    """Whether VALUE is a map, which a struct is not."""
    return isinstance(value, dict) and not isinstance(value, Struct)


def sorted_keys(value: dict) -> list:
    """A map's keys as Go sorts them; where YAML has keys of several types, by type first."""
    return sorted(value, key=lambda key: (go_type(key), key))


# ---- functions ----

GO_NAMES = {bool: "bool", Byte: "uint8", int: "int", float: "float64", str: "string",
            list: "[]interface {}", tuple: "[]interface {}", dict: "map[string]interface {}",
            Struct: "Recipe", type(None): "<nil>"}


def go_type(value: Any) -> str:
    """What Go calls the type of VALUE."""
    return GO_NAMES.get(type(value)) or type(value).__name__


def is_kind(value: Any, want: Any) -> bool:
    """Whether an argument fits its parameter's annotation; other annotations take anything."""
    if want not in GO_NAMES or want is float and type(value) is int:
        return True
    return isinstance(value, want) and (want is bool or not isinstance(value, bool))


def signature(function: Any) -> Tuple[list, int, Any]:
    """The annotations of a function's parameters, how many it must get, and that of *rest or None.

    Read from its code object, since `inspect` costs more than a rendering. What has none is written
    in C, and complains for itself.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return [], 0, object
    hints, count = function.__annotations__, code.co_argcount
    names = code.co_varnames[1 if hasattr(function, "__self__") else 0:count]
    kinds = [hints.get(name, object) for name in names]
    rest = None
    if code.co_flags & 0x04:                    # it has *rest
        rest = hints.get(code.co_varnames[count + code.co_kwonlyargcount], object)
    return kinds, len(kinds) - len(function.__defaults__ or ()), rest


def basic_kind(value: Any) -> str:
    """bool, int, float64 or string, or "" for what is none of them."""
    kind = "int" if type(value) is Byte else go_type(value)
    return kind if kind in ("bool", "int", "float64", "string") else ""


def is_same(one: Any, two: Any) -> bool:
    """Whether two values are equal; Fail when Go can't compare such two."""
    if one is None or two is None:
        return one is two
    if basic_kind(one) != basic_kind(two) or not basic_kind(one):
        raise Fail(f"can't compare {go_type(one)} with {go_type(two)}")
    return one == two


def is_less(one: Any, two: Any) -> bool:
    """Whether ONE < TWO: numbers of one type and strings have an order, nothing else has."""
    if basic_kind(one) != basic_kind(two) or basic_kind(one) in ("", "bool"):
        raise Fail(f"{go_type(one)} and {go_type(two)} have no order")
    return one < two


def go_eq(first: object, *others: object) -> bool:
    """Template function `eq`: whether FIRST equals one of the others."""
    if not others:
        raise Fail("there is nothing to compare with")
    return any(is_same(first, other) for other in others)


def go_len(value: Any) -> int:
    """Template function `len`; a string's is in bytes."""
    if not isinstance(value, (str, list, tuple)) and not is_map(value):
        raise Fail(f"{go_type(value)} has no length")
    return len(to_bytes(value) if isinstance(value, str) else value)


def go_index(item: Any, *indexes: Any) -> object:
    """Template function `index`: an element, a map's value (nil without one), a string's byte."""
    if item is None:
        raise Fail("nil has no elements")
    for index in indexes:
        if is_map(item):
            item = map_value(item, index)
        elif isinstance(item, str):
            octets = to_bytes(item)
            item = Byte(octets[check_index(index, len(octets) - 1)])
        elif isinstance(item, (list, tuple)):
            item = item[check_index(index, len(item) - 1)]
        else:
            raise Fail(f"{go_type(item)} has no elements")
    return item


def map_value(item: dict, key: Any) -> object:
    """The value of KEY; keys of a map from YAML may also be numbers."""
    if isinstance(key, str) or basic_kind(key) and key in item:
        return item.get(key)
    raise Fail(f"the map's keys are strings, not {go_type(key)}")


def check_index(index: Any, most: int) -> int:
    """INDEX, when it is an int from 0 to MOST."""
    if basic_kind(index) != "int" or not 0 <= index <= most:
        raise Fail(f"index out of range: {show(index)}")
    return index


def go_slice(item: Any, *indexes: Any) -> object:
    """Template function `slice`: item[i:j], a string's in bytes; a list may have a third index."""
    content = to_bytes(item) if isinstance(item, str) else item
    if not isinstance(content, (bytes, list, tuple)):
        raise Fail(f"can't slice {go_type(item)}")
    if len(indexes) > (2 if isinstance(item, str) else 3):
        raise Fail("too many indexes")
    bounds = [check_index(index, len(content)) for index in indexes]
    bounds += (0, len(content))[len(bounds):]
    if bounds != sorted(bounds):
        raise Fail("the indexes fall")
    part = content[bounds[0]:bounds[1]]
    return to_text(part) if isinstance(part, bytes) else part


def go_call(function: object, *_: object) -> None:
    """Template function `call`: data holds no functions, so there is nothing that it could call."""
    raise Fail(f"can't call {go_type(function)}")


HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;",
                      "\0": "\ufffd"})
JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', **{c: f"\\u{ord(c):04X}" for c in "<>&="}}


def flat(values: tuple) -> str:
    """The arguments of html, js and urlquery as one string."""
    return go_print(*("<no value>" if value is None else value for value in values))


def go_js(*values: object) -> str:
    """Template function `js`."""
    return "".join(JS.get(c) or (c if c.isprintable() or c == "\x7f" else f"\\u{ord(c):04X}")
                   for c in flat(values))


def go_print(*values: object) -> str:
    """Template function `print`: a blank between two operands neither of which is a string."""
    pieces = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            pieces.append(" ")
        pieces.append(show(value))
    return "".join(pieces)


# ---- printing: Go's fmt ----
#
# A value is shown by a verb under flags; lists and maps hand both down to their elements. A verb
# that does not fit gives a remark in the text, %!d(string=x), and no error.

class Style(NamedTuple):
    """A verb with its flags, width and precision; %#v and %+v are flags of their own."""

    verb: str = "v"
    minus: bool = False
    plus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int = 0
    precision: Optional[int] = None
    syntax: bool = False            # %#v: as Go source
    names: bool = False             # %+v: with the names of a struct's fields

    def pad(self, text: str) -> str:
        """TEXT at the width."""
        fill = "0" if self.zero and not self.minus else " "
        return text.ljust(self.width) if self.minus else text.rjust(self.width, fill)

    def number(self, negative: bool, digits: str) -> str:
        """DIGITS with a sign, at the width; zeros go between the two."""
        sign = "-" if negative else "+" if self.plus else " " if self.space else ""
        if self.zero and not self.minus:
            digits = digits.zfill(self.width - len(sign))
        return self._replace(zero=False).pad(sign + digits)


def show(value: Any, style: Style = Style()) -> str:
    """VALUE in STYLE."""
    if style.verb == "T":
        return style.pad(go_type(value)[:style.precision])
    if value is None:
        return style.pad("<nil>") if style.verb == "v" else f"%!{style.verb}(<nil>)"
    for kind, verbs, shower in SHOWERS:
        if isinstance(value, kind) and (not verbs or style.verb in verbs):
            return shower(value, style)
        if isinstance(value, kind):
            shown = shower(value, style._replace(verb="v"))
            return f"%!{style.verb}({go_type(value)}={shown})"
    return style.pad(str(value))


def show_bool(value: bool, style: Style) -> str:
    return style.pad("true" if value else "false")


def show_int(value: int, style: Style) -> str:
    if style.verb in "cqU":
        return show_character(value, style)
    if style.precision == 0 and value == 0:
        return " " * style.width
    digits = format(abs(value), {"v": "d", "O": "o"}.get(style.verb, style.verb))
    if style.precision is not None:
        digits = digits.zfill(style.precision)
        style = style._replace(zero=False)
    if style.zero and not style.minus:                  # before the prefix: %#06x is 8 wide
        digits = digits.zfill(style.width - (value < 0 or style.plus or style.space))
    if style.sharp and style.verb in "oO" and digits[0] != "0":
        digits = "0" + digits
    prefix = "0o" if style.verb == "O" else ""
    if style.sharp:
        prefix += {"b": "0b", "x": "0x", "X": "0X"}.get(style.verb, "")
    return style.number(value < 0, prefix + digits)


def show_character(value: int, style: Style) -> str:
    """The character that an int numbers: %c %q %U."""
    valid = 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000
    character = chr(value) if valid else "\ufffd"
    if style.verb == "c":
        return style.pad(character)
    if style.verb == "q":
        return style.pad(quote(character, "'", style.plus))
    number = format(value & (1 << 64) - 1, f"0{max(style.precision or 0, 4)}X")
    name = f" '{character}'" if style.sharp and valid and character.isprintable() else ""
    return style._replace(zero=False).pad(f"U+{number}{name}")


def show_float(value: float, style: Style) -> str:
    if value - value != 0:                              # infinite, or no number
        style = style._replace(zero=False, plus=value == value or style.plus)
        return style.number(value < 0, "NaN" if value != value else "Inf")
    form = "g" if style.verb == "v" else style.verb
    if style.precision is None and form in "gG":
        digits = shortest(abs(value))
        digits = digits.upper() if form == "G" else digits
    else:
        digits = format(abs(value), f".{6 if style.precision is None else style.precision}{form}")
    return style.number(str(value)[0] == "-", digits)


def shortest(value: float) -> str:
    """As few digits as tell VALUE apart; from a million on as 1e+06."""
    count = len(repr(value).partition("e")[0].replace(".", "").strip("0")) or 1
    scientific = format(value, f".{count - 1}e")
    exponent = int(scientific.partition("e")[2])
    if -4 <= exponent < 6:
        return format(value, f".{max(count - 1 - exponent, 0)}f")
    return scientific


def show_string(value: str, style: Style) -> str:
    text = value[:style.precision]
    if style.verb in "xX":
        octets = [f"%02{style.verb}" % octet for octet in to_bytes(value)[:style.precision]]
        prefix = f"0{style.verb}" if style.sharp and octets else ""
        text = prefix + (f" {prefix}" if style.space else "").join(octets)
    elif style.verb == "q" or style.syntax:
        raw = style.sharp and "`" not in text and text.replace("\t", "").isprintable()
        text = f"`{text}`" if raw else quote(text, '"', style.plus)
    return style.pad(text)


def show_composite(value: Any, style: Style) -> str:
    """[a b], map[a:1 b:2] or {1 x}, or the like as Go source."""
    if isinstance(value, Struct):
        head, ends, names = "", "{}", [f"{name}:" for name in value]
        names = names if style.syntax or style.names else [""] * len(names)
        elements = list(value.values())
    elif isinstance(value, dict):
        head, ends, keys = "map", "[]", sorted_keys(value)
        names, elements = [f"{show(key, style)}:" for key in keys], [value[key] for key in keys]
    else:
        head, ends, names, elements = "", "[]", [""] * len(value), value
    nil = "interface {}(nil)" if style.syntax else "<nil>"     # under any verb
    shown = [name + (nil if element is None else show(element, style))
             for name, element in zip(names, elements)]
    if style.syntax:
        return f"{go_type(value)}{{{', '.join(shown)}}}"
    return head + ends[0] + " ".join(shown) + ends[1]


SHOWERS: Tuple[Tuple[Any, str, Callable[..., str]], ...] = (
    (bool, "tv", show_bool), (int, "vdbcoOqxXU", show_int), (float, "vgGeEfF", show_float),
    (str, "vsqxX", show_string), ((dict, list, tuple), "", show_composite),
)
QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
          "\v": "\\v", "\\": "\\\\"}


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """TEXT as a Go literal between two MARKs."""
    return mark + "".join(quote_one(c, mark, ascii_only) for c in text) + mark


def quote_one(character: str, mark: str, ascii_only: bool) -> str:
    number = ord(character)
    if character in QUOTED or character == mark:
        return QUOTED.get(character, "\\" + character)
    if character.isprintable() and (number < 128 or not ascii_only):
        return character
    if number < 128 or 0xDC80 <= number < 0xDD00:       # a control character, or a bare byte
        return f"\\x{number & 255:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


MAX_WIDTH = 1_000_000       # that a * may take: fmt's limit
DIRECTIVE = re.compile(r"""
    %(?P<flags>[#0+\x20-]*) (?P<before>\[[^\]]*\])? (?P<width>\*|[0-9]+)?
    (?P<point>\.(?P<between>\[[^\]]*\])? (?P<precision>\*|[0-9]+)?)?
    (?P<after>\[[^\]]*\])? (?P<verb>[^\[]?)
""", re.VERBOSE | re.DOTALL)


class Printf:
    """One call of `printf`: which argument comes next is its state."""

    def __init__(self, values: tuple) -> None:
        self.values = values
        self.place = 0
        self.reordered = False          # by some [n]: then arguments left over are no remark
        self.good = True                # the directive's [n] are numbers of arguments

    def run(self, form: str) -> str:
        """The text for FORM."""
        pieces, position, size = [], 0, 0
        for match in DIRECTIVE.finditer(form):
            pieces += form[position:match.start()], self.directive(match)
            position = match.end()
            size += len(pieces[-1])
            if size > MAX_TEXT:
                raise Fail(f"the text grows over {MAX_TEXT} characters")
        return "".join(pieces) + form[position:] + self.extra()

    def directive(self, match: Any) -> str:
        """The text of one directive, after the remarks on its width and precision."""
        self.good = not (match["before"] and (match["width"] or "*") != "*")
        self.choose(match["before"])
        width, remarks = self.size(match["width"], "%!(BADWIDTH)")
        precision = None
        if match["point"]:
            self.good = self.good and not (match["before"] and not match["width"])
            self.choose(match["between"])
            precision, remark = self.size(match["precision"] or "0", "%!(BADPREC)")
            remarks += remark
        self.choose(match["after"])
        flags, verb = match["flags"], match["verb"]
        plus, sharp, special = "+" in flags, "#" in flags, verb == "v"
        style = Style(verb, "-" in flags or (width or 0) < 0, plus and not special,
                      sharp and not special, " " in flags, "0" in flags, abs(width or 0),
                      precision, sharp and special, plus and special)
        return remarks + self.shown(style)

    def choose(self, index: Optional[str]) -> None:
        """Go on with the argument that `[n]` names."""
        if index:
            self.reordered = True
            number = int(index[1:-1]) if re.fullmatch(r"\[[0-9]{1,9}\]", index) else 0
            self.good = self.good and 0 < number <= len(self.values)
            self.place = number - 1 if 0 < number <= len(self.values) else self.place

    def size(self, text: Optional[str], remark: str) -> Tuple[Optional[int], str]:
        """A width or precision, from the next argument for a *; REMARK when that is no good."""
        if text != "*":
            return (int(text[:8]) if text else None), ""
        value = self.values[self.place] if self.place < len(self.values) else None
        self.place = min(self.place + 1, len(self.values))
        least = 0 if "PREC" in remark else -MAX_WIDTH
        if basic_kind(value) == "int" and least <= value <= MAX_WIDTH:
            return value, ""
        return None, remark

    def shown(self, style: Style) -> str:
        """The next argument in STYLE."""
        if style.verb in ("", "%"):
            return style.verb or "%!(NOVERB)"
        if not self.good:
            return f"%!{style.verb}(BADINDEX)"
        if self.place >= len(self.values):
            return f"%!{style.verb}(MISSING)"
        self.place += 1
        return show(self.values[self.place - 1], style)

    def extra(self) -> str:
        """The remark on arguments that no directive took."""
        if self.reordered or self.place >= len(self.values):
            return ""
        shown = ["<nil>" if value is None else f"{go_type(value)}={show(value)}"
                 for value in self.values[self.place:]]
        return f"%!(EXTRA {', '.join(shown)})"


def go_printf(form: str, *values: object) -> str:
    """Template function `printf`, with Go's remarks for what does not fit."""
    return Printf(values).run(form)


BUILTINS: Dict[str, Callable[..., Any]] = {
    "and": lambda first, *others: first,        # for the signature: Machine.short_circuit runs them
    "or": lambda first, *others: first,
    "not": lambda value: not is_true(value),
    "eq": go_eq,
    "ne": lambda one, two: not is_same(one, two),
    "lt": is_less,
    "le": lambda one, two: is_less(one, two) or is_same(one, two),
    "gt": lambda one, two: not (is_less(one, two) or is_same(one, two)),
    "ge": lambda one, two: not is_less(one, two),
    "len": go_len, "index": go_index, "slice": go_slice, "call": go_call, "js": go_js,
    "html": lambda *values: flat(values).translate(HTML),
    "urlquery": lambda *values: urllib.parse.quote_plus(to_bytes(flat(values))),
    "print": go_print, "printf": go_printf,
    "println": lambda *values: " ".join(map(show, values)) + "\n",
}


def render(text: str, data: Any, funcs: Optional[Dict[str, Callable[..., Any]]] = None,
           name: str = "template") -> str:
    """The template TEXT, of Go's text/template, filled in from DATA.

    DATA is made of dict, list, str, int, float, bool, None and Struct. FUNCS are added to Go's own
    functions: annotations (str, int, float, bool, list, dict) say what they take, and what one
    raises is an error at its call. Raises Fail `NAME:line:column: what` for whatever Go rejects,
    and for a template that does not end or does not stop growing.
    """
    source = TemplateText(name, text)
    functions = {**BUILTINS, **(funcs or {})}
    try:
        return Machine(source, Parser(source, functions).parse(), functions).run(data)
    except RecursionError:
        raise source.error(0, "the template or its data is nested too deep") from None


# ==== Recipes: from YAML to values ================================================================
#
# PyYAML composes the file into nodes, which know their line and column; the readers below turn
# nodes into values by the schema's kinds. A text keeps its source's spelling: `version: 1.10` is
# "1.10", no float.


class Reader:
    """Reads the nodes of one recipe file; errors name file:line:column."""

    def __init__(self, path: str, lenient: bool = False) -> None:
        self.path = path
        self.lenient = lenient
        self.seen: set = set()

    def place(self, node: Any) -> str:
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def fail(self, node: Any, what: str) -> Fail:
        return Fail(f"{self.place(node)}: {what}")

    def items(self, node: Any, what: str) -> List[Any]:
        """The nodes of a list; null is the empty list."""
        if is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(
                node, f"{what} is no list; write each of its items on a line after `- `"
            )
        return [self.once(item) for item in node.value]

    def pairs(self, node: Any, what: str) -> List[Tuple[str, Any, Any]]:
        """(key, key's node, value's node) of a map; null is the empty map."""
        if is_null(node):
            return []
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} is no map; write its keys as `key: value` lines")
        pairs: Dict[str, Tuple[str, Any, Any]] = {}
        for key_node, value_node in node.value:
            key = self.text(self.once(key_node), f"a key of {what}")
            if key in pairs:
                raise self.fail(key_node, f"{what} has {key} twice; keep one")
            pairs[key] = (key, key_node, self.once(value_node))
        return list(pairs.values())

    def once(self, node: Any) -> Any:
        """NODE, unless it came before: an alias (`*name`) makes one node appear in two places."""
        if id(node) in self.seen:
            raise self.fail(node, "a YAML alias; write the value out where it is used")
        self.seen.add(id(node))
        known = SCALAR_TAGS if isinstance(node, yaml.ScalarNode) else COLLECTION_TAGS
        if node.tag not in known:
            raise self.fail(node, f"the YAML tag {node.tag}; recipes have plain values only")
        return node

    def text(self, node: Any, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail(node, f"{what} is no text")
        return "" if is_null(node) else node.value

    def integer(self, node: Any, what: str) -> int:
        text = self.text(node, what)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise self.fail(node, f"{what} is {text!r}, and no number from 0 up")
        return int(text)

    def boolean(self, node: Any, what: str) -> bool:
        value = self.any(node, what)
        if not isinstance(value, bool):
            raise self.fail(node, f"{what} is neither true nor false")
        return value

    def any(self, node: Any, what: str) -> Any:
        """A value of YAML's own type, for .Data."""
        if isinstance(node, yaml.SequenceNode):
            return [self.any(item, what) for item in self.items(node, what)]
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.any(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)
            }
        if SCALAR_TAGS[node.tag] is construct and len(node.value) > NUMBER_LIMIT:
            raise self.fail(node, f"{what} is a number of {len(node.value)} characters; quote it")
        try:
            return SCALAR_TAGS[node.tag](node)
        except ValueError as error:
            raise self.fail(node, f"{what}: {error}") from None

    def texts(self, node: Any, what: str) -> List[str]:
        return [self.text(item, f"an item of {what}") for item in self.items(node, what)]

    def text_map(self, node: Any, what: str) -> Dict[str, str]:
        return {key: self.text(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)}

    def boolean_map(self, node: Any, what: str) -> Dict[str, bool]:
        return {
            key: self.boolean(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)
        }

    def any_map(self, node: Any, what: str) -> Dict[str, Any]:
        return {key: self.any(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)}

    def sources(self, node: Any, what: str) -> List[Tuple[List[str], str]]:
        """([alternative, ...], place) of each source."""
        sources = []
        for item in self.items(node, what):
            is_list = isinstance(item, yaml.SequenceNode)
            texts = self.texts(item, "a source") if is_list else [self.text(item, "a source")]
            if not texts or not all(texts):
                raise self.fail(item, "an empty source; give a URL, or leave the line out")
            sources.append((texts, self.place(item)))
        return sources

    def packages(self, node: Any, what: str) -> Dict[str, Dict[str, Any]]:
        packages = {}
        for name, key_node, value in self.pairs(node, what):
            if not NAME.fullmatch(name):
                raise self.fail(
                    key_node, f"{name!r} is no package name; use letters, digits and + . _ -"
                )
            packages[name] = self.struct(value, PACKAGE_FIELDS, f"package {name}")
            self.check_package(packages[name], value)
        if not packages:
            raise self.fail(node, "no packages; name at least one, as in `packages: {zlib: }`")
        return packages

    def check_package(self, fields: Dict[str, Any], node: Any) -> None:
        for key in ("dependencies", "provides", "conflicts"):
            for text in fields[key]:
                if not RELATION.fullmatch(text):
                    raise self.fail(
                        node, f"{text!r} in {key} is no NAME, NAME>=VERSION or the like"
                    )
        for path, text in fields["owners"].items():
            if not re.fullmatch(r"[0-9]+:[0-9]+:[0-7]{3,4}", text):
                raise self.fail(node, f"{text!r} of {path} is no UID:GID:MODE, as in 0:0:4755")

    def struct(self, node: Any, table: Tuple[Field, ...], what: str) -> Dict[str, Any]:
        """A map whose keys are TABLE's; a key that is absent has its kind's empty value."""
        known = {field.key: field for field in table}
        values = {field.key: EMPTY[field.kind]() for field in table}
        for key, key_node, value in self.pairs(node, what):
            if key in known:
                values[key] = READERS[known[key].kind](self, value, key)
                continue
            problem = self.fail(key_node, f"unknown key {key} in {what}{did_you_mean(key, known)}")
            if not self.lenient:
                raise problem
            say(f"pkggen: warning: {problem}")
        return values


def is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def construct(node: Any) -> Any:
    return yaml.constructor.SafeConstructor().construct_object(node)


COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
SCALAR_TAGS: Dict[str, Callable[[Any], Any]] = {
    "tag:yaml.org,2002:str": lambda node: node.value,
    "tag:yaml.org,2002:timestamp": lambda node: node.value,
    "tag:yaml.org,2002:value": lambda node: node.value,
    "tag:yaml.org,2002:null": construct,
    "tag:yaml.org,2002:bool": construct,
    "tag:yaml.org,2002:int": construct,
    "tag:yaml.org,2002:float": construct,
}
READERS: Dict[str, Callable[[Reader, Any, str], Any]] = {
    "text": Reader.text,
    "integer": Reader.integer,
    "boolean": Reader.boolean,
    "any": Reader.any,
    "texts": Reader.texts,
    "text map": Reader.text_map,
    "boolean map": Reader.boolean_map,
    "any map": Reader.any_map,
    "sources": Reader.sources,
    "packages": Reader.packages,
}
EMPTY: Dict[str, Callable[[], Any]] = {
    "text": str,
    "integer": int,
    "boolean": bool,
    "any": str,
    "texts": list,
    "text map": dict,
    "boolean map": dict,
    "any map": dict,
    "sources": list,
    "packages": dict,
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error about WORD: the nearest KNOWN word, or all of them when they are few."""
    import difflib

    words = list(known)
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(words)}" if len(words) <= 30 else ""


def compose(path: str) -> Any:
    """The root node of the YAML file PATH."""
    try:
        with open(path, "rb") as file:
            text = file.read(RECIPE_LIMIT + 1)
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}; a recipe is a folder with a {RECIPE_FILE}") from None
    if len(text) > RECIPE_LIMIT:
        raise Fail(f"{path}: larger than {human_size(RECIPE_LIMIT)}; that is no recipe")
    return compose_text(path, text)


def compose_text(path: str, text: bytes) -> Any:
    """The root node of the YAML TEXT, which stands in PATH."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_nesting(path, yaml.parse(text.decode(), loader))
        return yaml.compose(text.decode(), loader)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise Fail(f"{path}:{line}: a byte that is no UTF-8; save the recipe as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Fail(f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise Fail(f"{path}: {' '.join(str(error).split())}") from None


def check_nesting(path: str, events: Iterable[Any]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > NESTING_LIMIT:
            mark = event.start_mark
            raise Fail(
                f"{path}:{mark.line + 1}:{mark.column + 1}: more than {NESTING_LIMIT} lists and "
                "maps in one another; that is no recipe"
            )


def recipe_path(argument: str) -> str:
    """ARGUMENT is a recipe's folder or its pkgen.yaml."""
    path = argument if argument.endswith(".yaml") else os.path.join(argument, RECIPE_FILE)
    if not os.path.isfile(path):
        raise Fail(f"{argument}: no recipe there; a recipe is a folder with a {RECIPE_FILE}")
    return os.path.normpath(path)


def load_recipe(argument: str, options: argparse.Namespace) -> Recipe:
    """Load the recipe in ARGUMENT. Raises Fail with file:line:column for what is wrong with it."""
    path = recipe_path(argument)
    root = compose(path)
    reader = Reader(path, options.lenient)
    if root is None or is_null(root):
        raise Fail(f"{path}: empty; a recipe has at least packages and version")
    fields = reader.struct(reader.once(root), RECIPE_FIELDS, "the recipe")
    folder = os.path.dirname(path) or "."
    name = os.path.basename(os.path.abspath(folder))
    recipe = Recipe(name, folder, path, options.arch, options.hostarch or options.arch, fields)
    nodes = {key.value: value for key, value in root.value}
    check_fields(recipe, {key: reader.place(value) for key, value in nodes.items()})
    fields["data"].update(options.data)
    evaluate(recipe, nodes)
    return recipe


def check_fields(recipe: Recipe, places: Dict[str, str]) -> None:
    """PLACES: where the value of each key of the recipe stands."""
    fields = recipe.fields
    if not NAME.fullmatch(recipe.name):
        raise Fail(
            f"{recipe.folder}: {recipe.name!r} is no recipe name; use letters, digits and + . _ -"
        )
    if not fields["packages"]:
        raise Fail(f"{recipe.path}: no packages; name at least one")
    if not PACKAGE_VERSION.fullmatch(fields["version"]):
        raise Fail(
            f"{places.get('version', recipe.path)}: version {fields['version']!r}; "
            "use letters, digits and + . _ ~ -"
        )
    if fields["builder"] not in BUILDERS:
        hint = did_you_mean(fields["builder"], filter(None, BUILDERS))
        raise Fail(f"{places['builder']}: unknown builder {fields['builder']!r}{hint}")
    for name, digest in fields["sha256"].items():
        if digest and not SHA256.fullmatch(digest):
            raise Fail(
                f"{places['sha256']}: the sha256 of {name} is not 64 digits 0-9a-f; "
                f"`pkggen.py hash {recipe.folder}` writes it"
            )


# ---- templates in recipes ------------------------------------------------------------------------


def evaluate(recipe: Recipe, nodes: Dict[str, Any]) -> None:
    """Render what is a template: sources, script and check. NODES: the recipe's values by key."""
    dot = recipe_dot(recipe)
    funcs = shortcuts(recipe)
    for key in ("script", "check"):
        text = "\n".join(recipe.fields[key])
        setattr(recipe, key, render_field(recipe, text, dot, funcs, nodes.get(key)))
    for texts, place in recipe.fields["sources"]:
        rendered = [render(text, dot, funcs, f"{place}: source") for text in texts]
        recipe.sources.append(make_source(recipe, rendered, place))
    check_distinct_names(recipe)


def recipe_dot(recipe: Recipe) -> "Struct":
    """What templates see as `.`: a struct, so that a misspelt field is an error."""
    fields = recipe.fields
    return Struct(
        {
            "Version": fields["version"],
            "Build": fields["build"],
            "Arch": fields["arch"],
            "Sources": [texts[0] for texts, _ in fields["sources"]],
            "Packages": {
                name: {"Dependencies": package["dependencies"]}
                for name, package in fields["packages"].items()
            },
            "Script": fields["script"],
            "BuildDependencies": fields["builddependencies"],
            "Builder": BUILDERS[fields["builder"]],
            "Cross": fields["cross"],
            "Data": fields["data"],
            "NoBootstrap": fields["nobootstrap"],
        }
    )


def source_lines(node: Any, file_lines: List[str]) -> List[Tuple[int, int]]:
    """(line, column) in the file, both from 0, of each line of a list of texts once joined."""
    lines: List[Tuple[int, int]] = []
    for item in node.value:
        mark = item.start_mark
        texts = item.value.split("\n")
        for index, text in enumerate(texts):
            if item.style in ("|", ">"):
                line = mark.line + 1 + index
                in_file = file_lines[line] if line < len(file_lines) else ""
                lines.append((line, len(in_file) - len(text) if in_file.endswith(text) else 0))
            else:
                lines.append((mark.line, mark.column + (item.style is not None)))
    return lines


def render_field(recipe: Recipe, text: str, dot: Any, funcs: Dict, node: Any) -> str:
    """Render TEXT, which NODE holds; an error in it names the recipe file's line and column."""
    try:
        return render(text, dot, funcs, recipe.path)
    except Fail as error:
        match = re.fullmatch(r"(\d+):(\d+): (.*)", str(error)[len(recipe.path) + 1 :], re.DOTALL)
        if not match:
            raise
        with open(recipe.path, encoding="utf-8") as file:
            lines = source_lines(node, file.read().split("\n"))
        line, column = lines[int(match[1]) - 1]
        raise Fail(f"{recipe.path}:{line + 1}:{column + int(match[2])}: {match[3]}") from None


# ---- the shortcuts -------------------------------------------------------------------------------


def shortcuts(recipe: Recipe) -> Dict[str, Callable[..., str]]:
    """The functions that recipes' templates have beside Go's own; each gives lines of shell."""
    version = recipe.fields["version"]
    arch, hostarch = recipe.arch, recipe.hostarch

    def extract(name: str, extension: str) -> str:
        return f"tar -xf src/{name}-{version}.tar.{extension}\nmv {name}-{version} {name}"

    def unpack(name: str, file: str) -> str:
        return f"mkdir {name}\ntar -xf src/{file} --strip-components=1 -C {name}"

    def pkmv(path: str, source: str, target: str) -> str:
        path = clean_path(path)
        folder = os.path.dirname(path)
        lines = [f"mkdir -p out/{target}/{folder}"] if folder else []
        lines.append(f"mv out/{source}/{path} out/{target}" + (f"/{folder}" if folder else ""))
        return "\n".join(lines)

    def mvman(package: str) -> str:
        return (
            f"mkdir -p out/{package}-man/usr/share\n"
            f"mv out/{package}/usr/share/man out/{package}-man/usr/share/man"
        )

    def confflags() -> str:
        build, host = (arch, hostarch) if arch == hostarch else (hostarch, arch)
        return f"--build {gnu_arch(build)}-pc-linux-musl --host {gnu_arch(host)}-pc-linux-musl"

    def configure(folder: str, *arguments: str) -> str:
        return (
            f"(cd {folder} && ./configure {confflags()} --prefix=/usr --sysconfdir=/etc "
            f"--mandir=/usr/share/man --localstatedir=/var {' '.join(arguments)})"
        )

    def make(folder: str, *arguments: str) -> str:
        return "\n".join(
            f"$(MAKE) -C {folder} {argument}" for argument in arguments or ("",)
        ).rstrip()

    return {
        "extract": extract,
        "unpack": unpack,
        "pkmv": pkmv,
        "mvman": mvman,
        "confflags": confflags,
        "configure": configure,
        "make": make,
        "confarch": lambda: gnu_arch(arch),
        "buildarch": lambda: arch,
        "hostarch": lambda: hostarch,
    }


def gnu_arch(arch: str) -> str:
    """What GNU's configure calls ARCH."""
    return "i386" if arch == "x86" else arch


def clean_path(path: str) -> str:
    """PATH without doubled slashes, dots and its leading slash: a place below out/PACKAGE."""
    return os.path.normpath("/" + path).lstrip("/")


# ---- sources -------------------------------------------------------------------------------------


def make_source(recipe: Recipe, urls: List[str], place: str) -> Source:
    """The source with the alternatives URLS, each with the hash that its bytes must have."""
    name = source_name(urls[0], place)
    if len(urls) > 1 and any(url.startswith(LOCAL) for url in urls):
        raise Fail(f"{place}: file: and self: lie here; give them alone, without alternatives")
    first = hash_of(recipe, urls[0], name)
    alternatives = []
    for url in urls:
        own = hash_of(recipe, url, source_name(url, place))
        alternatives.append(Alternative(without_hash(url), own or first))
    for prefix in recipe.fields["mirrors"]:
        url = prefix.rstrip("/") + "/" + urllib.parse.quote(name)
        source_name(url, f"{recipe.path}: mirrors")
        alternatives.append(Alternative(url, first))
    source = Source(name, tuple(alternatives), place)
    if source.is_local:
        local_path(recipe, source)
    return source


def source_name(url: str, place: str) -> str:
    """The file name that URL has in src/: the base name of its path."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Fail(f"{place}: {url!r} begins with none of {', '.join(s + ':' for s in SCHEMES)}")
    path = url.partition(":")[2]
    if scheme not in ("file", "self"):
        path = path.partition("?")[0]
    name = urllib.parse.unquote(os.path.basename(path)) if scheme in WEB else os.path.basename(path)
    if not name or name in (".", "..") or name[0] == "-" or "/" in name or not name.isprintable():
        raise Fail(f"{place}: {url!r} ends in no usable file name")
    if any(not character.isprintable() or character == " " for character in url) and scheme in WEB:
        raise Fail(f"{place}: {url!r} has blanks or control characters; write them as %20")
    if scheme in WEB and not url_host(url):
        raise Fail(f"{place}: {url!r} names no host")
    if scheme == "deb-src" and not DEB_SRC.fullmatch(url.partition("?")[0]):
        raise Fail(f"{place}: {url!r} is not deb-src:PACKAGE/FILE or deb-src:PACKAGE=VERSION/FILE")
    return name


def url_host(url: str) -> str:
    """The host and port in URL, empty when there is none."""
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # a bracket of an IPv6 address that is not closed
        return ""


WEB = ("https", "http", "ftp")
LOCAL = ("file:", "self:")
SCHEMES = (*WEB, "file", "self", "deb-src")
DEB_SRC = re.compile(r"deb-src:([a-z0-9][a-z0-9+.-]*(?:=[0-9A-Za-z][0-9A-Za-z.+:~-]*)?)/([^/]+)")
HASH_QUERY = re.compile(r"[?&](?:sha256sum|hash)=([^&]*)")


def without_hash(url: str) -> str:
    if url.startswith(LOCAL):
        return url
    path, _, query = url.partition("?")
    kept = [part for part in query.split("&") if not HASH_QUERY.match("?" + part)]
    return path + ("?" + "&".join(kept) if any(kept) else "")


def hash_of(recipe: Recipe, url: str, name: str) -> Optional[str]:
    """The sha256 that the recipe gives for URL: in the URL itself, or in its map."""
    if url.startswith(LOCAL):
        return None
    match = HASH_QUERY.search(url)
    digest = match[1] if match else recipe.fields["sha256"].get(name)
    if digest and not SHA256.fullmatch(digest):
        raise Fail(f"{recipe.path}: {url}: its hash is not 64 digits 0-9a-f")
    return digest or None


def local_path(recipe: Recipe, source: Source) -> str:
    """Where the file: or self: source lies: in its folder, and by no link outside it."""
    scheme, _, path = source.alternatives[0].url.partition(":")
    base = recipe.folder if scheme == "file" else HERE
    path = path[2:] if path.startswith("//") else path
    full = os.path.realpath(os.path.join(base, path))
    if not full.startswith(os.path.realpath(base) + os.sep):
        raise Fail(f"{source.place}: {path!r} is outside {base}; copy the file into it")
    if not os.path.isfile(full):
        raise Fail(f"{source.place}: there is no file {path!r} in {base}")
    return full


def check_distinct_names(recipe: Recipe) -> None:
    places: Dict[str, str] = {}
    for source in recipe.sources:
        if source.name in places:
            raise Fail(f"{source.place}: a second source named {source.name}; src/ can hold one")
        places[source.name] = source.place


def check_hashes(recipe: Recipe) -> None:
    """Raise Fail unless every source that is fetched has a sha256."""
    for source in recipe.sources:
        if not source.is_local and source.alternatives[0].sha256 is None:
            raise Fail(
                f"{source.place}: {source.name} has no sha256; "
                f"`pkggen.py hash {recipe.folder}` fetches it and writes one"
            )


# ==== Makefiles ===================================================================================
#
# A script passes through make once, so that $(MAKE), $(shell ...) and $$x mean there what they mean
# in any makefile. It stands in a `define`, which keeps blanks, tabs, # and leading @ - + as they
# are; the rule has make write the expanded text to a file, which one shell runs. Two things would
# not survive a define, a backslash at a line's end and a line that looks like endef or define: both
# are written as expansions.

BUILD_MK = """\
# {name} {version} for {arch}: written by pkggen.py from {recipe}
#   make -f build.mk SRCTAR=src.tar gentars    by hand: src.tar holds src/, TAROUT gets the tars
SRCTAR ?=
TAROUT ?= .
HOSTARCH := {hostarch}
BUILDARCH := {arch}
ARCH := {arch}
CROSS_COMPILE := {gnu}-
CC := {arch}-linux-musl-gcc
HOSTCC := gcc
AR := $(CROSS_COMPILE)ar
NM := $(CROSS_COMPILE)nm
OBJCOPY := $(CROSS_COMPILE)objcopy
RANLIB := $(CROSS_COMPILE)ranlib
STRIP := $(CROSS_COMPILE)strip
SYSROOT := /sysroot
export CC AR NM OBJCOPY RANLIB STRIP
export PKG_CONFIG_SYSROOT_DIR := $(SYSROOT)
export PKG_CONFIG_LIBDIR := $(SYSROOT)/usr/lib/pkgconfig:$(SYSROOT)/usr/share/pkgconfig
export SOURCE_DATE_EPOCH := {epoch}
export LC_ALL := C
export TZ := UTC
unexport SRCTAR TAROUT
PACKAGES := {packages}
BACKSLASH := $(subst ,,\\)

define SCRIPT
{script}
endef

define CHECK
{check}
endef

.PHONY: all untarsource script check gentars
all: check
untarsource:
	mkdir -p $(PACKAGES:%=out/%)
	$(if $(SRCTAR),tar -xf $(SRCTAR))
script: untarsource
	$(file >script.sh,$(SCRIPT))
	+umask 022 && sh -ex script.sh
check: script
	$(file >check.sh,$(CHECK))
	+umask 022 && sh -ex check.sh
gentars: all
	for package in $(PACKAGES); do tar -C out/$$package -cf $(TAROUT)/$$package.tar .; done
"""

FETCH_MK = """\
# The sources of {names}: written by pkggen.py
SOURCES ?= build/sources
PKGGEN ?= {pkggen}
.PHONY: fetch
fetch:{targets}
{rules}"""

WORLD_MK = """\
# Builds every recipe of {folder} for {arch}: written by pkggen.py
#   make -k -j2 -f world.mk package/zlib    one package, with what it needs
# A recipe without commands is up to date: what went into it is what went into its last good build.
SOURCES ?= build/sources
PKGGEN ?= {pkggen}
.PHONY: all{phony}
all:{all}
{rules}"""


def quote_script(script: str) -> str:
    """SCRIPT as it can stand in a define."""
    lines = []
    for line in script.split("\n"):
        if re.match(r"\s*(endef|define)\b", line):
            line = "$()" + line
        lines.append(line[:-1] + "$(BACKSLASH)" if line.endswith("\\") else line)
    return "\n".join(lines)


def quote_command(words: Iterable[str]) -> str:
    """WORDS as one line of a makefile's recipe."""
    return " ".join(shlex.quote(word) for word in words).replace("$", "$$")


def build_mk(recipe: Recipe) -> str:
    return BUILD_MK.format(
        name=recipe.name,
        version=recipe.version,
        recipe=recipe.name + "/" + RECIPE_FILE,
        epoch=EPOCH,
        arch=recipe.arch,
        hostarch=recipe.hostarch,
        gnu=GNU_TRIPLETS[recipe.arch],
        packages=" ".join(recipe.packages),
        script=quote_script(recipe.script),
        check=quote_script(recipe.check),
    )


def plain_name(text: str) -> str:
    """TEXT as a word of a makefile that means itself."""
    return re.sub("[^A-Za-z0-9+._-]", "_", text)


def source_target(source: Source) -> str:
    """The file in the cache that the source is, as a makefile names it.

    Alternatives may have other bytes and then another name there: the one that is there counts.
    """
    hashes = list(dict.fromkeys(alternative.sha256 for alternative in source.alternatives))
    if None in hashes:
        return f"$(SOURCES)/{plain_name(source.name)}-has-no-sha256"
    files = [f"$(SOURCES)/{digest}" for digest in hashes]
    if len(files) == 1:
        return files[0]
    return f"$(firstword $(wildcard {' '.join(files)}) {files[0]})"


def source_rule(recipe: Recipe, source: Source) -> str:
    if any(alternative.sha256 is None for alternative in source.alternatives):
        hint = f"pkggen.py hash {recipe.folder} writes one"
        problem = f"{source.place}: {source.name} has no sha256; {hint}"
        return failing_rule(source_target(source), problem)
    urls = [with_hash(alternative) for alternative in source.alternatives]
    command = quote_command(["fetch", "--name", source.name, *urls])
    return f"{source_target(source)}:\n\t@$(PKGGEN) {command} --sources $(SOURCES)\n"


def failing_rule(target: str, problem: str) -> str:
    """A rule that says what is wrong, for a target that can't be made."""
    command = quote_command(["echo", "pkggen: " + printable(problem)])
    return f"{target}:\n\t@{command} >&2; exit 1\n"


def with_hash(alternative: Alternative) -> str:
    mark = "&" if "?" in alternative.url else "?"
    return f"{alternative.url}{mark}sha256sum={alternative.sha256}"


def fetch_rules(recipes: Iterable[Recipe]) -> Dict[str, str]:
    """Target to rule, once for sources that several recipes share."""
    rules: Dict[str, str] = {}
    for recipe in recipes:
        for source in recipe.sources:
            if not source.is_local:
                rules.setdefault(source_target(source), source_rule(recipe, source))
    return rules


def pkggen_command() -> str:
    return quote_command([sys.executable, os.path.join(HERE, "pkggen.py")])


def fetch_mk(recipes: List[Recipe]) -> str:
    rules = fetch_rules(recipes)
    return FETCH_MK.format(
        names=", ".join(recipe.name for recipe in recipes),
        pkggen=pkggen_command(),
        targets="".join(f" \\\n\t{target}" for target in rules),
        rules="".join("\n" + rule for rule in rules.values()),
    )


def metadata(recipe: Recipe) -> Dict[str, Any]:
    """What lpkg pack needs to know of the recipe (docs/lpkg.md: META)."""
    fields = recipe.fields
    packages = {}
    for name, package in recipe.packages.items():
        packages[name] = {
            "summary": package["summary"] or fields["summary"],
            "depends": [text for text in package["dependencies"] if text],
            **{
                key: package[key]
                for key in ("provides", "conflicts", "conffiles", "services", "owners")
            },
        }
    return {
        "recipe": recipe.name,
        "version": recipe.version,
        "arch": recipe.arch,
        "license": fields["license"],
        "url": fields["url"],
        "packages": packages,
    }


# ==== What went into a build ======================================================================
#
# NAME.built records the hash of everything that went into the last good build of a recipe, and the
# packages that came out. A recipe is fresh while its inputs have those very hashes. The packages of
# its build dependencies are inputs by their own hash: rebuilt to the same bytes, they change
# nothing (early cutoff).


class Built(NamedTuple):
    """The record of a good build; `packages`: name to {file, size, sha256, depends, provides}."""

    inputs: Dict[str, str]
    packages: Dict[str, Dict[str, Any]]
    seconds: float


class Work:
    """The folders of one architecture below $O, and the records of what is built there."""

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.records = os.path.join(OUT, arch, "mk")
        self.logs = os.path.join(OUT, arch, "log")
        self.repository = os.path.join(OUT, "repo", arch)
        self.built: Dict[str, Built] = {}
        self.makers: Dict[str, str] = {}
        for name in sorted(os.listdir(self.records)) if os.path.isdir(self.records) else ():
            if name.endswith(".built"):
                self.add(name[: -len(".built")], self.read(name))

    def read(self, name: str) -> Built:
        path = os.path.join(self.records, name)
        try:
            with open(path, encoding="utf-8") as file:
                return Built(**json.load(file))
        except (ValueError, TypeError, OSError) as error:
            raise Fail(
                f"{path}: unreadable ({error}); remove it, and the recipe is built again"
            ) from None

    def add(self, recipe: str, built: Built) -> None:
        self.built[recipe] = built
        for package, facts in built.packages.items():
            self.makers[package] = recipe
            for provided in facts["provides"]:
                self.makers.setdefault(relation_name(provided), recipe)

    def record(self, recipe: str, built: Built) -> None:
        path = os.path.join(self.records, recipe + ".built")
        write_atomic(path, (json.dumps(built._asdict(), indent=1, sort_keys=True) + "\n").encode())
        self.add(recipe, built)

    def facts(self, package: str) -> Optional[Dict[str, Any]]:
        """The record of the package named, or of one that provides it; None when there is none."""
        packages = self.built[self.makers[package]].packages if package in self.makers else {}
        provided = [
            facts
            for facts in packages.values()
            if package in [relation_name(text) for text in facts["provides"]]
        ]
        return packages.get(package) or (provided[0] if provided else None)

    def is_here(self, built: Built) -> bool:
        paths = [os.path.join(self.repository, facts["file"]) for facts in built.packages.values()]
        sizes = [facts["size"] for facts in built.packages.values()]
        return all(
            os.path.isfile(path) and os.path.getsize(path) == size
            for path, size in zip(paths, sizes)
        )

    def builder(self) -> Tuple[str, str]:
        """(image, hash of its definition and its package list), as world/builder wrote them."""
        path = os.path.join(self.records, "builder")
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            return "", ""
        return text.partition("\n")[0], hash_text(text)


def to_bytes(text: str) -> bytes:
    """TEXT as it is written: a template's "\\xff" is that byte."""
    return text.encode(errors="surrogateescape")


def hash_text(text: str) -> str:
    return hashlib.sha256(to_bytes(text)).hexdigest()


def hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def local_mode(path: str) -> int:
    """The mode in the build of a file of the recipe's: only whether it is a program counts."""
    return 0o755 if os.stat(path).st_mode & 0o100 else 0o644


def hash_local(path: str) -> str:
    return hash_file(path) + (" program" if local_mode(path) == 0o755 else "")


def relation_name(relation: str) -> str:
    """The name in `name`, `name>=1.2` and the like; empty for `!name`, which is no need."""
    return "" if relation.startswith("!") else re.split(r"[<>=~]", relation)[0]


def sysroot_packages(recipe: Recipe, work: Work) -> Dict[str, Optional[Dict[str, Any]]]:
    """The packages in the recipe's sysroot: its build dependencies with all that they depend on.

    The value is the package's record, None where it isn't built.
    """
    wanted = [
        name
        for name in map(relation_name, recipe.fields["builddependencies"])
        if name and name not in BUILDER_TOOLS
    ]
    found: Dict[str, Optional[Dict[str, Any]]] = {}
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found[name] = work.facts(name)
        wanted += [dep for dep in map(relation_name, (found[name] or {}).get("depends", [])) if dep]
    return dict(sorted(found.items()))


def build_inputs(recipe: Recipe, work: Work) -> Dict[str, str]:
    """What goes into the recipe's build: a name for each input, and its hash."""
    inputs = {
        "build.mk": hash_text(build_mk(recipe)),
        "metadata": hash_text(json.dumps(metadata(recipe), sort_keys=True)),
        "builder": work.builder()[1],
    }
    for source in recipe.sources:
        hashes = [alternative.sha256 or "" for alternative in source.alternatives]
        inputs[f"source {source.name}"] = (
            hash_local(local_path(recipe, source)) if source.is_local else " ".join(hashes)
        )
    for name, facts in sysroot_packages(recipe, work).items():
        inputs[f"package {name}"] = facts["sha256"] if facts else ""
    return inputs


def is_fresh(recipe: Recipe, work: Work) -> bool:
    built = work.built.get(recipe.name)
    return built is not None and built.inputs == build_inputs(recipe, work) and work.is_here(built)


# ==== A tree of recipes ===========================================================================


class Tree:
    """Every recipe below a folder; `problems` has a line of text for each that can't be built."""

    def __init__(self, folder: str, options: argparse.Namespace) -> None:
        self.recipes: Dict[str, Recipe] = {}
        self.problems: Dict[str, str] = {}
        self.makers: Dict[str, str] = {}
        for path in find_recipes(folder):
            self.load(path, options)
        self.unread = sorted(self.problems)
        self.find_makers()
        for name in list(self.recipes):
            self.check_needs(name)
        # The recipes that must be built before each.
        self.before = {
            name: self.installed_with(self.needs(recipe)) for name, recipe in self.recipes.items()
        }
        self.order = self.sort()

    def load(self, path: str, options: argparse.Namespace) -> None:
        # A folder whose name is none of a recipe's is a problem too, and needs a target for it.
        name = plain_name(os.path.basename(os.path.dirname(os.path.abspath(path))))
        try:
            recipe = load_recipe(path, options)
        except Fail as problem:
            self.problems[name] = str(problem)
            return
        if name in self.recipes:
            self.problems[name] = (
                f"{path}: a second recipe named {name}, beside {self.recipes[name].path}"
            )
        elif not recipe.fields["arch"] or recipe.arch in recipe.fields["arch"]:
            self.recipes[name] = recipe

    def find_makers(self) -> None:
        for name, recipe in self.recipes.items():
            for package in recipe.packages:
                other = self.makers.setdefault(package, name)
                if other != name:
                    self.problems[name] = (
                        f"{recipe.path}: {self.recipes[other].path} makes {package} too"
                    )
        for name, recipe in self.recipes.items():
            for package in recipe.packages.values():
                for provided in package["provides"]:
                    self.makers.setdefault(relation_name(provided), name)

    def needs(self, recipe: Recipe, package: Optional[str] = None) -> List[str]:
        """The names that PACKAGE, or else the recipe's build, depends on."""
        fields = recipe.packages[package] if package else None
        relations = fields["dependencies"] if fields else recipe.fields["builddependencies"]
        names = [relation_name(text) for text in relations]
        return [name for name in names if name and (package or name not in BUILDER_TOOLS)]

    def check_needs(self, name: str) -> None:
        recipe = self.recipes[name]
        needs = {text: "the build dependency" for text in self.needs(recipe)}
        for package in recipe.packages:
            needs.update({text: f"{package}'s dependency" for text in self.needs(recipe, package)})
        for dependency, what in needs.items():
            if dependency not in self.makers:
                hint = did_you_mean(dependency, self.makers)
                if self.unread and "did you mean" not in hint:
                    hint = f"; {', '.join(self.unread)} could not be read"
                self.problems.setdefault(
                    name, f"{recipe.path}: no recipe makes {what} {dependency}{hint}"
                )

    def installed_with(self, names: Iterable[str]) -> List[str]:
        """The recipes that make the packages NAMES and all that these depend on."""
        seen: Dict[str, None] = {}
        wanted = list(names)
        while wanted:
            name = wanted.pop()
            if name in seen or name not in self.makers:
                continue
            seen[name] = None
            maker = self.recipes[self.makers[name]]
            wanted += self.needs(maker, name) if name in maker.packages else list(maker.packages)
        return sorted({self.makers[name] for name in seen})

    def sort(self) -> List[str]:
        """The recipes, each after those it needs; one in a cycle, or behind one, is a problem."""
        order: List[str] = []
        waiting = dict(self.before)
        while waiting:
            ready = [
                name
                for name, needs in waiting.items()
                if not any(need in waiting for need in needs)
            ]
            if not ready:
                self.report_cycle(waiting)
                break
            order += ready
            waiting = {name: needs for name, needs in waiting.items() if name not in ready}
        return order

    def report_cycle(self, waiting: Dict[str, List[str]]) -> None:
        """Each waiting recipe waits for another, so a walk from any comes back to one it passed."""
        for name in waiting:
            path = [name]
            while path[-1] not in path[:-1]:
                path.append(next(need for need in waiting[path[-1]] if need in waiting))
            cycle = " -> ".join(path[path.index(path[-1]) :])
            self.problems.setdefault(
                name,
                f"{self.recipes[name].path}: build dependencies in a cycle: "
                f"{cycle}; one of them has to go",
            )


def find_recipes(folder: str) -> List[str]:
    if not os.path.isdir(folder):
        raise Fail(f"{folder}: no folder; name the one that holds the recipes")
    paths = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        if RECIPE_FILE in files:
            paths.append(os.path.join(parent, RECIPE_FILE))
    return paths


def stale_recipes(tree: Tree, work: Work) -> List[str]:
    """The recipes that have to be built, and those after them, which may have to be."""
    stale: Dict[str, None] = {}
    for name in tree.order:
        recipe = tree.recipes[name]
        if name in tree.problems:
            continue
        if any(need in stale for need in tree.before[name]) or not is_fresh(recipe, work):
            stale[name] = None
    return list(stale)


def world_mk(folder: str, tree: Tree, work: Work, stale: List[str]) -> str:
    """The makefile that builds every recipe of TREE; those of STALE have something to do."""
    names = sorted({*tree.recipes, *tree.problems})
    packages = sorted(tree.makers)
    rules = [recipe_rule(tree, name, name in stale) for name in names]
    rules += [
        f"package/{name}: {' '.join('recipe/' + maker for maker in tree.installed_with([name]))}\n"
        for name in packages
    ]
    rules += fetch_rules(tree.recipes[name] for name in stale).values()
    phony = [f"recipe/{name}" for name in names] + [f"package/{name}" for name in packages]
    return WORLD_MK.format(
        folder=printable(folder),
        arch=work.arch,
        pkggen=pkggen_command(),
        phony="".join(f" \\\n\t{target}" for target in phony),
        all="".join(f" recipe/{name}" for name in names),
        rules="".join("\n" + rule for rule in rules),
    )


def recipe_rule(tree: Tree, name: str, stale: bool) -> str:
    if name in tree.problems:
        return failing_rule(f"recipe/{name}", tree.problems[name])
    recipe = tree.recipes[name]
    needs = [f"recipe/{other}" for other in tree.before[name]]
    if not stale:
        return f"recipe/{name}: {' '.join(needs)}".rstrip() + "\n"
    needs += [source_target(source) for source in recipe.sources if not source.is_local]
    command = quote_command([recipe.folder, "--arch", recipe.arch, "--hostarch", recipe.hostarch])
    return f"recipe/{name}: {' '.join(needs)}".rstrip() + f"\n\t@$(PKGGEN) build {command}\n"


# ==== Fetching ====================================================================================
#
# A source is fetched into the cache under its hash: first HASH.part, which a later run goes on
# with, then, once its bytes have that hash, HASH. The lock is on the .part file, so two makes never
# write into one.


class Unreachable(Exception):
    """Why one place did not give a source; the next one is tried."""


DEAD_SECONDS = 60  # for so long a host that gave no answer is not asked again


def fetch_source(name: str, alternatives: Iterable[Alternative], folder: str) -> str:
    """The path of the source in the cache FOLDER, fetched from the first alternative that has it.

    Raises Fail when none has, with what each of them said.
    """
    alternatives = list(alternatives)
    path = cached_path(alternatives, folder)
    if path:
        return path
    os.makedirs(folder, exist_ok=True)
    reasons = []
    for alternative in alternatives:
        try:
            return fetch_alternative(
                name, alternative, os.path.join(folder, alternative.sha256), folder
            )
        except Unreachable as reason:
            reasons.append(f"{alternative.url}: {reason}")
    raise Fail(
        f"{name}: no source has it: {'; '.join(reasons)}; "
        f"bring the file by hand as {os.path.join(folder, alternatives[0].sha256)}"
    )


def cached_path(alternatives: Iterable[Alternative], folder: str) -> Optional[str]:
    """Where the first of the ALTERNATIVES that is in the cache FOLDER lies there."""
    paths = [os.path.join(folder, alternative.sha256 or "") for alternative in alternatives]
    return next(filter(os.path.isfile, paths), None)


def fetch_alternative(name: str, alternative: Alternative, path: str, folder: str) -> str:
    with lock_part(path + ".part") as part:
        if os.path.isfile(path):  # another fetch brought it while this one waited
            os.unlink(part.name)
            return path
        started = time.monotonic()
        resumed = os.path.getsize(part.name)
        digest = download_and_hash(alternative.url, part, name, folder)
        if resumed and digest != alternative.sha256:  # of another file, or spoilt: from the start
            part.truncate(0)
            digest = download_and_hash(alternative.url, part, name, folder)
        if alternative.sha256 not in (None, digest):
            os.unlink(part.name)
            raise Unreachable(
                f"has other bytes: sha256 {digest}, and the recipe wants {alternative.sha256}"
            )
        size = os.path.getsize(part.name)
        os.replace(part.name, path)
    seconds = time.monotonic() - started
    say(
        f"fetch   {name}: {human_size(size)} from {source_host(alternative.url)} in {seconds:.0f} s"
    )
    return path


def download_and_hash(url: str, part: Any, name: str, folder: str) -> str:
    try:
        download(url, part, name, folder)
    finally:
        if not os.path.getsize(part.name):
            os.unlink(part.name)
    return hash_file(part.name)


def source_host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or url.partition(":")[0]


def lock_part(path: str) -> Any:
    """Open PATH for reading and writing, locked; it stays when it is closed."""
    while True:
        file = open(path, "r+b", buffering=0, opener=open_or_create)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        # Whoever held the lock may have renamed or removed the file meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def open_or_create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def download(url: str, part: Any, name: str, folder: str) -> None:
    """Bring what URL names into the open file PART."""
    if url.startswith("deb-src:"):
        part.truncate(0)
        download_by_apt(url, part, name, folder)
        return
    host = url_host(url)
    if is_dead(folder, host):
        raise Unreachable(f"{host} gave no answer within the last {DEAD_SECONDS} s")
    for attempt in range(3):
        have = part.seek(0, os.SEEK_END)
        try:
            return download_rest(url, part, have, name)
        except Cut as reason:
            # A cut connection goes on where it was cut, as long as each attempt brings something.
            if attempt == 2 or part.seek(0, os.SEEK_END) == have:
                raise Unreachable(str(reason)) from None
        except NoAnswer as reason:
            mark_dead(folder, host)
            raise Unreachable(str(reason)) from None


class Cut(Exception):
    """The connection ended before the file did."""


class NoAnswer(Exception):
    """The host can't be reached at all."""


def download_rest(url: str, part: Any, have: int, name: str) -> None:
    """Append to PART, which has HAVE bytes already, the rest of what URL names."""
    import http.client
    import urllib.error
    import urllib.request
    from ssl import SSLCertVerificationError

    headers = {"User-Agent": f"pkggen/{VERSION}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        ) as reply:
            if getattr(reply, "status", None) != 206:
                have = 0
                part.truncate(0)
            part.seek(have)
            receive(reply, part, have, name)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after HAVE: what is there is of another file, or whole
            part.truncate(0)
            raise Cut("what was there did not fit") from None
        raise Unreachable(f"{error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        # Who shows a wrong certificate answers: with another SSL_CERT_FILE it may serve at once.
        kind = Unreachable if isinstance(error.reason, SSLCertVerificationError) else NoAnswer
        raise kind(str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise Cut(str(error) or type(error).__name__) from None


def receive(reply: Any, part: Any, have: int, name: str) -> None:
    length = reply.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else None
    meter = Meter(name, have, total)
    for chunk in iter(lambda: reply.read(CHUNK), b""):
        part.write(chunk)
        meter.add(len(chunk))
    if total is not None and meter.done < total:
        raise Cut(f"the connection ended after {meter.done} of {total} bytes")


class Meter:
    """Progress of a download: bytes, rate, time left."""

    def __init__(self, name: str, done: int, total: Optional[int]) -> None:
        self.name, self.done, self.total = name, done, total
        self.first = done
        self.started = self.shown = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown < 0.1:
            return
        self.shown = now
        rate = (self.done - self.first) / (now - self.started)
        text = f"fetch   {self.name}: {human_size(self.done)}"
        if self.total:
            left = (self.total - self.done) / rate if rate else 0
            text += f" of {human_size(self.total)}, {human_size(rate)}/s, {left:.0f} s left"
        progress(text)


def dead_mark(folder: str, host: str) -> str:
    return os.path.join(folder, ".dead", urllib.parse.quote(host, safe=""))


def is_dead(folder: str, host: str) -> bool:
    try:
        return time.time() - os.stat(dead_mark(folder, host)).st_mtime < DEAD_SECONDS
    except OSError:
        return False


def mark_dead(folder: str, host: str) -> None:
    os.makedirs(os.path.join(folder, ".dead"), exist_ok=True)
    with open(dead_mark(folder, host), "w"):
        pass
    os.utime(dead_mark(folder, host))


# ---- deb-src: the original tarball, by the host's own apt with a configuration of our own --------


def download_by_apt(url: str, part: Any, name: str, folder: str) -> None:
    """Bring the source package's file.

    The release's own archive is asked alone first: it no longer changes. With the archive of
    updates beside it apt would take the same version from there, where old files go away.
    """
    match = DEB_SRC.fullmatch(url)
    if not match:
        raise Unreachable("not deb-src:PACKAGE/FILE or deb-src:PACKAGE=VERSION/FILE")
    lines = apt_source_lines()
    release = [line for line in lines if "-" not in line.split()[-2]]
    try:
        apt_source(match[1], match[2], os.path.join(folder, ".apt", "release"), release, part, name)
    except Unreachable:
        apt_source(match[1], match[2], os.path.join(folder, ".apt", "all"), lines, part, name)


def apt_source(
    package: str, wanted: str, state: str, lines: List[str], part: Any, name: str
) -> None:
    options = apt_options(os.path.abspath(state), lines)
    with tempfile.TemporaryDirectory(prefix="panux-apt-") as place:
        run_apt([*options, "source", "--tar-only", "--download-only", package], place, name)
        path = os.path.join(place, wanted)
        if not os.path.isfile(path):
            raise Unreachable(
                f"apt brought {', '.join(sorted(os.listdir(place))) or 'nothing'} instead"
            )
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(CHUNK), b""):
                part.write(chunk)


def apt_options(state: str, lines: List[str]) -> List[str]:
    """Options that give apt the source LINES and its own state in STATE, renewed once a day."""
    os.makedirs(os.path.join(state, "lists", "partial"), exist_ok=True)
    sources = os.path.join(state, "sources.list")
    options = [
        "-q",
        "-o",
        f"Dir::Etc::SourceList={sources}",
        "-o",
        "Dir::Etc::SourceParts=/dev/null",
        "-o",
        f"Dir::State::Lists={state}/lists",
        "-o",
        f"Dir::Cache={state}",
        "-o",
        "APT::Sandbox::User=root",
    ]
    with open(os.path.join(state, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(sources) or time.time() - os.stat(sources).st_mtime > 86400:
            write_atomic(sources, "".join(lines).encode())
            try:
                run_apt([*options, "update"], state, "the list of source packages")
            except BaseException:
                os.unlink(sources)
                raise
    return options


def apt_source_lines() -> List[str]:
    """deb-src lines for the archives that this machine's apt uses, signed by Debian's keyring."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
        "Created-By: Packages",
    ]
    try:
        text = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        raise Unreachable("this machine has no apt; deb-src: needs Debian's") from None
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={keyring}] " if os.path.exists(keyring) else ""
    rows = [line.split() for line in text.decode().splitlines()]
    lines = {
        f"deb-src {signed}{row[0]} {row[1]} {row[2]}\n"
        for row in rows
        if len(row) == 4 and row[3] == "Debian"
    }
    if not lines:
        raise Unreachable(
            "this machine's apt uses no archive of Debian's; `apt-get update` may be due"
        )
    return sorted(lines)


def run_apt(arguments: List[str], folder: str, name: str) -> None:
    process = subprocess.Popen(
        ["apt-get", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        while process.poll() is None:
            progress(f"fetch   {name}: by apt, {human_size(folder_size(folder))}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        errors = process.stderr.read().decode(errors="replace").splitlines()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        reasons = (
            [line[3:] for line in errors if line.startswith("E: ")] or errors or ["no reason given"]
        )
        raise Unreachable(f"apt: {reasons[0]}")


def folder_size(folder: str) -> int:
    size = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            size += entry.stat(follow_symlinks=False).st_size
    return size


# ==== Building ====================================================================================


class Interrupted(BaseException):
    """A signal asked this process to end; raised where it is, so that what it began is undone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


# What is run in the container, its stdin the input tar: all of it goes on in one place, /build, as
# root.
IN_CONTAINER = """\
mkdir -p /build /sysroot && cd /build && tar -xf - || exit 100
[ ! -f sysroot.tar ] || { tar -xf sysroot.tar -C /sysroot && rm sysroot.tar; } || exit 100
make -j"$(nproc)" -f build.mk all </dev/null >&2
status=$?
echo $status >.status
[ $status != 0 ] || tar -cf - out .status || exit 100
exit $status
"""


def build_recipe(recipe: Recipe, work: Work) -> None:
    """Build the recipe's packages, unless all that goes in went into the last good build too."""
    check_hashes(recipe)
    for folder in (work.records, work.logs, work.repository):
        os.makedirs(folder, exist_ok=True)
    with open(os.path.join(work.records, recipe.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = Work(work.arch)
        if is_fresh(recipe, work):
            say(f"fresh   {recipe.name} {recipe.version}")
        else:
            build_now(recipe, work)


def build_now(recipe: Recipe, work: Work) -> None:
    inputs = build_inputs(recipe, work)
    before = work.built.get(recipe.name)
    started = time.monotonic()
    say(f"build   {recipe.name} {recipe.version}")
    with tempfile.TemporaryFile(dir=work.logs) as tar_in, tempfile.TemporaryFile(
        dir=work.logs
    ) as tar_out:
        write_input(recipe, work, tar_in)
        run_build(recipe, work, tar_in, tar_out, before.seconds if before else 0)
        packages = pack(recipe, work, tar_out)
    built = Built(inputs, packages, round(time.monotonic() - started, 1))
    work.record(recipe.name, built)
    remove_former(work, before, built)
    size = sum(facts["size"] for facts in packages.values())
    same = ", the same bytes as before" if before and before.packages == packages else ""
    say(
        f"built   {recipe.name} {recipe.version}: {' '.join(packages)}, {human_size(size)}, "
        f"{built.seconds:.0f} s{same}"
    )


def write_input(recipe: Recipe, work: Work, file: Any) -> None:
    """Write the tar that goes in: build.mk, src/ and, as a tar in the tar, the sysroot."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add_bytes(tar, "build.mk", to_bytes(build_mk(recipe)))
        for source in recipe.sources:
            add_source(tar, recipe, source)
        sysroot = sysroot_packages(recipe, work)
        if sysroot:
            with tempfile.TemporaryFile(dir=work.logs) as sysroot_tar:
                write_sysroot(recipe, work, sysroot, sysroot_tar)
                sysroot_tar.seek(0)
                add_file(tar, "sysroot.tar", sysroot_tar)
    file.seek(0)


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    add_file(tar, name, io.BytesIO(data))


def add_file(tar: tarfile.TarFile, name: str, file: Any, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, os.SEEK_END)
    member.mode = mode
    member.mtime = EPOCH
    file.seek(0)
    tar.addfile(member, file)


def add_source(tar: tarfile.TarFile, recipe: Recipe, source: Source) -> None:
    """Add the source under src/: of what is cached a copy, hashed while it is made."""
    if source.is_local:
        path = local_path(recipe, source)
        with open(path, "rb") as file:
            add_file(tar, "src/" + source.name, file, local_mode(path))
        return
    path = fetch_source(source.name, source.alternatives, SOURCES)
    with open(path, "rb") as cached, tempfile.TemporaryFile(dir=SOURCES) as copy:
        digest = hashlib.sha256()
        for chunk in iter(lambda: cached.read(CHUNK), b""):
            digest.update(chunk)
            copy.write(chunk)
        if digest.hexdigest() != os.path.basename(path):
            raise Fail(
                f"{path}: no longer the bytes of {source.name}; remove it, and it is fetched again"
            )
        add_file(tar, "src/" + source.name, copy)


def write_sysroot(
    recipe: Recipe, work: Work, packages: Dict[str, Optional[Dict]], file: Any
) -> None:
    """Have lpkg write the tar of a root with PACKAGES, each checked against its record."""
    paths = []
    for name, facts in packages.items():
        if facts is None:
            raise Fail(
                f"{recipe.path}: it needs {name}, which is not built; "
                f"`make world PKG={next(iter(recipe.packages))}` builds that first"
            )
        path = os.path.join(work.repository, facts["file"])
        if not os.path.isfile(path) or hash_file(path) != facts["sha256"]:
            raise Fail(f"{path}: not the file that was built; remove it, and {name} is built again")
        paths.append(os.path.abspath(path))
    run_lpkg(["bootstrap", "--tar", "-", "--allow-unsigned", "--no-database", *paths], None, file)


def run_lpkg(arguments: List[str], stdin: Any, stdout: Any) -> None:
    command = [sys.executable, os.path.join(HERE, "lpkg.py"), *arguments]
    with tempfile.TemporaryFile() as errors:
        status = subprocess.run(
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=errors
        )
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
    if status.returncode:
        raise Fail(
            text.splitlines()[-1] if text else f"lpkg {arguments[0]} ended with {status.returncode}"
        )


def run_build(recipe: Recipe, work: Work, tar_in: Any, tar_out: Any, usual: float) -> None:
    """Run the build: TAR_IN to its stdin, its stdout to TAR_OUT, its stderr to the log.

    USUAL is what the last build took, in seconds (0: not known). Raises Fail when the build fails.
    """
    image = work.builder()[0]
    if not image and "$IMAGE" in RUN:
        raise Fail(
            "there is no builder image; `make world` makes it, "
            "`world/engine world/builder` makes it alone"
        )
    name = f"panux-{re.sub('[^A-Za-z0-9_.-]', '-', recipe.name)}-{os.getpid()}"
    log = os.path.join(work.logs, recipe.name + ".log")
    environment = {**os.environ, "BUILD": name, "IMAGE": image}
    command = f"exec {RUN} sh -c {shlex.quote(IN_CONTAINER)}"
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=tar_in,
        stdout=tar_out,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        with open(log, "wb", buffering=0) as file:
            copy_log(process.stderr, file, recipe.name, usual)
        status = process.wait()
    finally:
        stop_build(process, environment)
    if status:
        raise Fail(failure(recipe, log, status))
    tar_out.seek(0)


def copy_log(pipe: Any, file: Any, name: str, usual: float) -> None:
    started = shown = time.monotonic()
    for line in pipe:
        file.write(line)
        now = time.monotonic()
        if now - shown > 0.1:
            shown = now
            left = max(0, usual - (now - started))
            expected = f", about {left:.0f} s left" if usual else ""
            text = line.decode(errors="replace").strip()
            progress(f"build   {name}: {now - started:.0f} s{expected}  {text}")


def stop_build(process: subprocess.Popen, environment: Dict[str, str]) -> None:
    """End a build that is still running; RUN's own end does not end what it began elsewhere.

    RUN_STOP finds nothing while the container is still being made, so it is asked until RUN ends.
    """
    deadline = time.monotonic() + 20
    while process.poll() is None:
        subprocess.run(
            ["sh", "-c", RUN_STOP],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)


def failure(recipe: Recipe, log: str, status: int) -> str:
    """What to say of a build that ended with STATUS, after the last lines of its log are shown."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    if status in (125, 126, 127):  # what docker says when it ran nothing
        said = [line for line in lines if line.startswith("docker: ")] or lines
        reason = said[0] if said else f"status {status}"
        return f"{recipe.name}: the build could not be started: {reason}; `docker info` tells more"
    for line in lines[-LOG_LINES:]:
        say(f"  {line}")
    what = "input or output was cut" if status == 100 else f"status {status}"
    return f"{recipe.name} {recipe.version}: the build failed ({what}); the whole log is {log}"


def pack(recipe: Recipe, work: Work, tar_out: Any) -> Dict[str, Dict[str, Any]]:
    """Have lpkg make the packages of what came out, and give their records."""
    meta = metadata(recipe)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, tempfile.TemporaryFile(
        "w+"
    ) as listing:
        json.dump(meta, file)
        file.flush()
        run_lpkg(["pack", "--meta", file.name, "-o", work.repository], tar_out, listing)
        listing.seek(0)
        rows = [line.split() for line in listing]
    return {
        name: {
            "file": path,
            "size": int(size),
            "sha256": digest,
            "depends": meta["packages"][name]["depends"],
            "provides": meta["packages"][name]["provides"],
        }
        for name, path, size, digest in rows
    }


def remove_former(work: Work, before: Optional[Built], built: Built) -> None:
    """Remove the package files of the build before that this one did not make again."""
    files = {facts["file"] for facts in built.packages.values()}
    for facts in before.packages.values() if before else ():
        if facts["file"] not in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(work.repository, facts["file"]))


# ==== Commands ====================================================================================


def load_all(options: argparse.Namespace) -> List[Recipe]:
    return [load_recipe(path, options) for path in options.recipe]


def cmd_script(options: argparse.Namespace) -> None:
    output(options, load_recipe(options.recipe, options).script + "\n")


def cmd_build_mk(options: argparse.Namespace) -> None:
    output(options, build_mk(load_recipe(options.recipe, options)))


def cmd_fetch_mk(options: argparse.Namespace) -> None:
    output(options, fetch_mk(load_all(options)))


def cmd_world_mk(options: argparse.Namespace) -> None:
    tree = Tree(options.folder, options)
    work = Work(options.arch)
    stale = stale_recipes(tree, work)
    output(options, world_mk(options.folder, tree, work, stale))
    if not stale and not tree.problems:
        packages = sum(len(tree.recipes[name].packages) for name in tree.recipes)
        count = f"{len(tree.recipes)} recipes, {packages} packages"
        say(f"world   nothing to be done: {count} are up to date")
        return
    missing = {
        source_target(source)
        for name in stale
        for source in tree.recipes[name].sources
        if not source.is_local and not cached_path(source.alternatives, SOURCES)
    }
    known = [work.built[name].seconds for name in stale if name in work.built]
    seconds = f", about {sum(known):.0f} s when all change" if len(known) == len(stale) else ""
    say(
        f"world   {len(stale)} of {len(tree.recipes)} recipes to build or to look at, "
        f"at most {len(missing)} sources to fetch{seconds}"
    )


def cmd_meta(options: argparse.Namespace) -> None:
    output(options, json.dumps(metadata(load_recipe(options.recipe, options)), indent=1) + "\n")


def cmd_build(options: argparse.Namespace) -> None:
    for recipe in load_all(options):
        build_recipe(recipe, Work(options.arch))


def cmd_fetch(options: argparse.Namespace) -> None:
    """Fetch one file; a URL may bear its own hash as ?sha256sum=, else --sha256 is its hash."""
    alternatives = []
    for url in options.url:
        match = HASH_QUERY.search(url)
        source_name(without_hash(url), "fetch")
        digest = match[1] if match else options.sha256
        if digest is None or not SHA256.fullmatch(digest):
            raise Fail(f"{without_hash(url)}: no sha256 of 64 digits 0-9a-f; give it with --sha256")
        alternatives.append(Alternative(without_hash(url), digest))
    name = options.name or source_name(alternatives[0].url, "fetch")
    if options.output is None:
        fetch_source(name, alternatives, options.sources)
        return
    folder = os.path.dirname(os.path.abspath(options.output))
    path = fetch_source(name, alternatives, folder)
    if hash_file(path) != os.path.basename(path):
        raise Fail(f"{path}: its bytes are not what its name says; remove it")
    os.replace(path, options.output)


def cmd_hash(options: argparse.Namespace) -> None:
    """Fetch every source and write its hash into the recipe's sha256 map, all else as it was."""
    for recipe in load_all(options):
        hashes = {}
        for source in recipe.sources:
            for alternative in () if source.is_local else source.alternatives:
                name = source_name(alternative.url, source.place)
                hashes[name] = hashes.get(name) or fetched_hash(name, alternative.url)
        found = {name: digest for name, digest in hashes.items() if digest}
        missing = [
            source.name
            for source in recipe.sources
            if not source.is_local
            and not any(
                source_name(alternative.url, source.place) in found
                for alternative in source.alternatives
            )
        ]
        if missing:
            raise Fail(
                f"{recipe.path}: none of the places of {missing[0]} answers; nothing is written"
            )
        with open(recipe.path, encoding="utf-8", newline="") as file:
            text = with_hashes(file.read(), found).encode()
        if not found.items() <= hash_map(recipe.path, text).items():
            raise Fail(
                f"{recipe.path}: no place for the hashes; write an empty line `sha256:` where they "
                "belong, at the left margin; nothing is written"
            )
        write_atomic(recipe.path, text, os.stat(recipe.path).st_mode & 0o777)
        say(f"hash    {recipe.path}: {len(found)} written")


def fetched_hash(name: str, url: str) -> Optional[str]:
    """The sha256 of what URL names now, kept in the cache; None when it can't be had."""
    os.makedirs(SOURCES, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=SOURCES) as folder:
            path = fetch_alternative(
                name, Alternative(url, None), os.path.join(folder, "file"), SOURCES
            )
            digest = hash_file(path)
            os.replace(path, os.path.join(SOURCES, digest))
            return digest
    except Unreachable as reason:
        say(f"hash    {url}: {reason}")
        return None


def hash_map(path: str, text: bytes) -> Dict[str, str]:
    """The sha256 map of a recipe's TEXT as a loader will read it; empty where it can't be read."""
    reader = Reader(path)
    try:
        pairs = reader.pairs(compose_text(path, text), "the recipe")
        return reader.text_map({key: value for key, _, value in pairs}["sha256"], "sha256")
    except (Fail, KeyError):
        return {}


HASH_LINE = re.compile(
    r"""(?P<key>\s+(?P<name>"[^"]*"|'[^']*'|[^\s:#"']+):)"""
    r"""(?P<blank>[ \t]*)["']?\w*["']?(?P<after>.*)""",
    re.DOTALL,
)


def with_hashes(text: str, hashes: Dict[str, str]) -> str:
    """A recipe's TEXT with HASHES in its sha256 map; comments and all other lines stay."""
    lines = text.split("\n")
    last = len(lines) if lines[-1] else len(lines) - 1
    heads = [index for index, line in enumerate(lines) if re.match(r"sha256:\s*(#.*)?$", line)]
    start = heads[0] if heads else hash_place(lines, last)
    if not heads:
        lines.insert(start, "sha256:")
        last += 1
    left = dict(hashes)
    end = start + 1
    while end < last and re.match(r"\s|#|$", lines[end]):
        lines[end] = with_hash_in_line(lines[end], left)
        end += 1
    while end > start + 1 and not re.match(r"\s+[^\s#]", lines[end - 1]):
        end -= 1
    lines[end:end] = [f"  {quote_key(name)}: {digest}" for name, digest in left.items()]
    return "\n".join(lines)


def with_hash_in_line(line: str, left: Dict[str, str]) -> str:
    """LINE of a sha256 map with the hash of its name, which is taken out of LEFT."""
    match = HASH_LINE.fullmatch(line)
    digest = left.pop(match["name"].strip("\"'"), None) if match else None
    if digest is None:
        return line
    gap = " " if match["after"].startswith("#") else ""
    return match["key"] + (match["blank"] or " ") + digest + gap + match["after"]


def hash_place(lines: List[str], last: int) -> int:
    """Where the map belongs: before the first key that comes after it, and that key's comment."""
    keys = [field.key for field in RECIPE_FIELDS]
    after = keys[keys.index("sha256") + 1 :]
    places = (index for index, line in enumerate(lines) if line.partition(":")[0] in after)
    place = next(places, last)
    while place and lines[place - 1].startswith("#"):
        place -= 1
    return place


def quote_key(name: str) -> str:
    """NAME as a key of a YAML map."""
    is_plain = re.fullmatch("[A-Za-z][A-Za-z0-9+._-]*", name)
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def output(options: argparse.Namespace, text: str) -> None:
    if options.output:
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        write_atomic(options.output, to_bytes(text))
    else:
        sys.stdout.buffer.write(to_bytes(text))


# verb: (what it does, arguments, what runs it)
COMMANDS: Dict[str, Tuple[str, Tuple[str, ...], Callable[[argparse.Namespace], None]]] = {
    "script": ("print the shell script that a recipe comes to", ("recipe",), cmd_script),
    "build": ("build recipes whose inputs changed, in a container", ("recipe...",), cmd_build),
    "hash": ("fetch the sources and write their sha256 into the recipe", ("recipe...",), cmd_hash),
    "fetch": ("fetch one file from the first URL that has it", ("url...",), cmd_fetch),
    "build-mk": ("print the makefile that builds a recipe", ("recipe",), cmd_build_mk),
    "fetch-mk": ("print the makefile that fetches the sources", ("recipe...",), cmd_fetch_mk),
    "world-mk": ("print the makefile that builds a tree of recipes", ("folder",), cmd_world_mk),
    "meta": ("print what lpkg pack needs to know, as JSON", ("recipe",), cmd_meta),
}


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"pkggen: {printable(message)}; `{self.prog} --help` lists what there is\n")


def parse_arguments(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="pkggen.py", description="Turn YAML recipes into makefiles, and run them."
    )
    parser.add_argument("--version", action="version", version=f"pkggen {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, (what, arguments, _) in COMMANDS.items():
        command = verbs.add_parser(verb, help=what, description=what)
        for name in arguments:
            command.add_argument(name.rstrip("."), nargs="+" if name.endswith("...") else None)
        add_options(command, verb)
    return parser.parse_args(argv)


def add_options(command: argparse.ArgumentParser, verb: str) -> None:
    command.add_argument(
        "-o", dest="output", metavar="FILE", help="write to FILE instead of stdout"
    )
    if verb == "fetch":
        command.add_argument("--sha256", help="the hash that the file must have")
        command.add_argument("--name", help="what to call it in messages")
        command.add_argument(
            "--sources", default=SOURCES, help="cache of files by hash (%(default)s)"
        )
        return
    here = os.environ.get("ARCH") or MACHINES.get(os.uname().machine, os.uname().machine)
    command.add_argument("--arch", default=here, type=arch, help="compile for (%(default)s)")
    command.add_argument("--hostarch", type=arch, help="compile on (the same)")
    command.add_argument(
        "-D",
        dest="define",
        action="append",
        default=[],
        type=definition,
        metavar="KEY=VALUE",
        help="a value for .Data of the templates",
    )
    command.add_argument("--lenient", action="store_true", help="unknown keys are warnings")


def arch(text: str) -> str:
    """An architecture on the command line, or in $ARCH."""
    if text not in GNU_TRIPLETS:
        raise argparse.ArgumentTypeError(f"unknown {text}{did_you_mean(text, GNU_TRIPLETS)}")
    return text


def definition(text: str) -> Tuple[str, str]:
    """The argument of -D."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: no `=`; write -D KEY=VALUE")
    return key, value


def interrupt(number: int, frame: Any) -> None:
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, signal.SIG_IGN)  # once: what was begun is being undone
    raise Interrupted(number)


def main(argv: Optional[List[str]] = None) -> int:
    options = parse_arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        options.data = dict(getattr(options, "define", []))
        COMMANDS[options.verb][2](options)
    except Fail as problem:
        say(f"pkggen: {problem}")
        return 1
    except OSError as error:
        say(f"pkggen: {error.filename or options.verb}: {error.strerror}")
        return 1
    except Interrupted as signal_received:
        say(f"pkggen: stopped by {signal_received}; the next run goes on from what is finished")
        return 128 + signal_received.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
