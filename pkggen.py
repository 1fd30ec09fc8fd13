#!/usr/bin/env python3
"""pkggen: turn YAML recipes into makefiles, and run them.

    pkggen.py script recipes/core/zlib          the shell script that a recipe comes to
    pkggen.py build recipes/core/zlib           build its packages in a container
    pkggen.py world-mk recipes -o world.mk      a makefile that builds every recipe of a tree

A recipe is a folder with a pkgen.yaml; its script is a Go text/template. From a recipe come two makefiles:
fetch.mk gets and verifies the sources on this machine, build.mk builds them anywhere. A build is a filter:
one tar goes in (build.mk, sources, sysroot), one tar comes out (out/PACKAGE/..., .status), the log is stderr.

Files, below $O (build): sources/ is the cache of sources by hash (or $SOURCES); ARCH/mk/NAME.built says what
went into the last good build of a recipe and what came out; ARCH/log/NAME.log is its log; repo/ARCH/ holds
the packages.

Invariant: nothing whose hash is not the recipe's own word reaches a build, and a recipe counts as built only
when all that went in is, by its hash, what went into the last good build.
"""
import sys

if __name__ == "__main__" and not sys.flags.isolated:
    del sys.path[0]     # this script's own folder: a json.py that lies beside it must have no effect

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import html
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

try:
    import yaml
except ImportError:
    sys.exit("pkggen: PyYAML is missing; on Debian `apt-get install python3-yaml`, else `pip install PyYAML`")

VERSION = "0.1"
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("O") or "build"
SOURCES = os.environ.get("SOURCES") or os.path.join(OUT, "sources")
# The builder and what runs a build in it. $BUILD names the build, $IMAGE the image that world/builder made.
RUN = os.environ.get("RUN") or "docker run --rm -i --network none --name $BUILD $IMAGE"
RUN_STOP = os.environ.get("RUN_STOP") or "docker rm -f $BUILD"

RECIPE_FILE = "pkgen.yaml"
RECIPE_LIMIT = 1 << 20          # bytes of a pkgen.yaml
CHUNK = 1 << 18                 # bytes read at a time
TIMEOUT = 30                    # seconds that a server may stay silent
LOG_LINES = 30                  # lines of a failed build's log that are shown
EPOCH = 946684800               # SOURCE_DATE_EPOCH of every build, 2000-01-01: no build sees the time as data

# The GNU names of the architectures: of Debian's compilers, which the builder image holds.
GNU_TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
    "x86": "i686-linux-gnu",
}

# Build dependencies that are the builder's own programs and no packages of ours.
BUILDER_TOOLS = frozenset(
    "bc binutils bison bzip2 cpio file flex gawk gcc gzip m4 make patch perl pkgconf rsync sed tar xz".split())

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


# ==== The schema of a recipe ===========================================================================

class Field(NamedTuple):
    """A key of a recipe: its kind is one of the readers in `READERS`."""
    key: str
    kind: str
    what: str


# In the order in which a recipe is written.
RECIPE_FIELDS = (
    Field("packages", "packages", "the packages that come out, each with its dependencies"),
    Field("version", "text", "upstream's version"),
    Field("build", "integer", "counts the builds of one version; the full version is VERSION-BUILD"),
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

BUILDERS = {"": "docker", "default": "docker", "alpine": "docker", "panux": "docker", "docker": "docker",
            "bootstrap": "bootstrap"}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
PACKAGE_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~-]*")
RELATION = re.compile(r"!?[A-Za-z0-9][A-Za-z0-9+._:-]*((>=|<=|=|>|<|~)[A-Za-z0-9][A-Za-z0-9+._~-]*)?")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Alternative(NamedTuple):
    """One place to get a source from. `sha256` is None for file: and self:, which lie in this tree."""
    url: str
    sha256: Optional[str]


class Source(NamedTuple):
    """A file of the build's src/: `place` is where the recipe names it (file:line:column)."""
    name: str
    alternatives: Tuple[Alternative, ...]
    place: str

    @property
    def is_local(self) -> bool:
        return self.alternatives[0].url.startswith(("file:", "self:"))


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


# ==== Templates =======================================================================================
#
# Go's text/template, version 1.19, in three steps: a scanner cuts the text into tokens, a parser makes
# a tree of them, and a machine walks the tree. Three ideas carry the rest.
#
# 1. A template may nest blocks and call templates as deep as it likes, and Python's stack is shallow.
#    So the parser keeps the blocks that are open, and the machine the ones it is in, in lists of their
#    own; only parentheses recurse, and those are counted.
# 2. Go knows two kinds of nothing. A nil that lies in the data has a place and is None here; what was
#    looked up and not found has none and is ABSENT. A field of ABSENT is ABSENT again ("<no value>" in
#    the text), a field of None is an error. A pipeline's result and a function's argument forget the
#    difference, the first to ABSENT, the second to None.
# 3. Variables are a stack. Leaving a block cuts it back to the mark that was set on entering.
#
# A place in the template is an offset into its text, and `TemplateText.error` makes name:line:column of it.
# Strings are Python's; bytes that are no UTF-8 (from "\xff" or a slice through a character) are lone
# surrogates in them, as Python's error handler "surrogateescape" has it.

MAX_CALLS = 100_000         # templates in templates: Go's own limit
MAX_STEPS = 2_000_000       # nodes walked in one rendering; a recipe walks some hundreds
MAX_TEXT = 1 << 26          # characters of the result, and of any string made on the way
MAX_PARENS = 60             # parentheses in parentheses; what Python's stack bears, with room left
INT64 = 1 << 63             # Go's int ends below this
BLANK = " \t\r\n"


class Struct(dict):
    """A map that is a Go struct to templates: its fields are fixed, another name is an error."""

    TYPE = "Recipe"


class Byte(int):
    """A byte of a string, as `index "abc" 1` gives it: Go's uint8."""


class Nothing:
    """The types of ABSENT and MISSING, which stand for no value of the data."""

    __slots__ = ()


ABSENT = Nothing()          # looked up and not found
MISSING = Nothing()         # no value comes from an earlier stage of the pipeline


class TemplateText:
    """A template's text under the name that its errors bear."""

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, at: int, what: str) -> Fail:
        """The Fail `name:line:column: WHAT` for the offset AT; both counts start at 1."""
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        return Fail(f"{self.name}:{line}:{column}: {what}")


# ---- scanner: text -> tokens ----

class Token(NamedTuple):
    """KIND is text, open, close, space, end of text, a keyword, or a group of TOKEN."""

    kind: str
    text: str
    at: int


KEYWORDS = frozenset("block break continue define else end if nil range template with".split())
OPEN = re.compile(r"\{\{(?P<trim>-[ \t\r\n])?")
CLOSE = re.compile(r"\}\}|(?P<trim>[ \t\r\n]-\}\})")
BLANKS = re.compile(r"[ \t\r\n]*")
TOKEN = re.compile(r"""
    (?P<close>\}\}|[ \t\r\n]-\}\})
  | (?P<space>[ \t\r\n]+(?!-\}\}))      # leaves the blank that belongs to a trimming close
  | (?P<number>[+-]?\.?[0-9](?:[eEpP][+-]|[\w.])*)
  | (?P<word>\w+)
  | (?P<field>\.\w+)
  | (?P<dot>\.)
  | (?P<variable>\$\w*)
  | (?P<string>"(?:\\[^\n]|[^"\\\n])*")
  | (?P<raw>`[^`]*`)
  | (?P<char>'(?:\\[^\n]|[^'\\\n])*')
  | (?P<declare>:=)
  | (?P<assign>=)
  | (?P<pipe>\|)
  | (?P<left>\()
  | (?P<right>\))
  | (?P<other>[!#%&*+,/;<>?@\[\\\]^{}~-])
""", re.VERBOSE)
WORD_ENDS = re.compile(r"[ \t\r\n.,|:)(}]|\Z")
BROKEN = {
    '"': "this string has no closing quote on its line",
    "`": "this raw string has no closing backquote",
    "'": "this character constant has no closing quote on its line",
    ":": "expected := here",
}


def scan(source: TemplateText) -> Iterator[Token]:
    """The tokens of SOURCE, comments gone and blanks trimmed; raises Fail where there is none."""
    position = 0
    while True:
        opening = OPEN.search(source.text, position)
        end = opening.start() if opening else len(source.text)
        literal = source.text[position:end]
        if opening and opening["trim"]:
            literal = literal.rstrip(BLANK)
        if literal:
            yield Token("text", literal, position)
        if not opening:
            break
        if source.text.startswith("/*", opening.end()):
            position = skip_comment(source, opening)
        else:
            position = yield from scan_action(source, opening)
    yield Token("end of text", "", len(source.text))


def skip_comment(source: TemplateText, opening: Any) -> int:
    """The offset after the comment that begins at OPENING."""
    end = source.text.find("*/", opening.end() + 2)
    if end < 0:
        raise source.error(opening.start(), "this comment is never closed by */}}")
    close = CLOSE.match(source.text, end + 2)
    if not close:
        raise source.error(end, "a comment must close with */}} or */ -}}")
    return after_close(source, close)


def after_close(source: TemplateText, close: Any) -> int:
    """Where the text goes on after a }}, and after the blanks that a -}} takes with it."""
    if close.group() == "}}":
        return close.end()
    return BLANKS.match(source.text, close.end()).end()


def scan_action(source: TemplateText, opening: Any) -> Iterator[Token]:
    """The tokens of one action, {{ and }} among them; returns the offset after it."""
    yield Token("open", "{{", opening.start())
    position = opening.end()
    while True:
        match = TOKEN.match(source.text, position)
        if not match:
            raise bad_token(source, position, opening.start())
        yield make_token(source, match)
        position = match.end()
        if match.lastgroup == "close":
            return after_close(source, match)


def make_token(source: TemplateText, match: Any) -> Token:
    """The token of a MATCH of TOKEN; names must end where Go has them end."""
    kind, text = match.lastgroup, match.group()
    if kind in ("word", "field", "dot", "variable"):
        if not WORD_ENDS.match(source.text, match.end()):
            raise source.error(match.end(), f"bad character {quote(source.text[match.end()])} here")
    if text in KEYWORDS:
        kind = text
    return Token(kind, text, match.start())


def bad_token(source: TemplateText, at: int, opened: int) -> Fail:
    """Why no token begins at AT, in the action that begins at OPENED."""
    if at == len(source.text):
        return source.error(opened, "this {{ is never closed by }}")
    character = source.text[at]
    return source.error(at, BROKEN.get(character, f"bad character {quote(character)} here"))


# ---- literals ----

INTEGER = re.compile(r"""
    [+-]?(?: 0[xX](?P<hex>(?:_?[0-9a-fA-F])+)
           | 0[bB](?P<binary>(?:_?[01])+)
           | 0[oO]?(?P<octal>(?:_?[0-7])+)
           | (?P<decimal>0|[1-9](?:_?[0-9])*))
""", re.VERBOSE)
BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
DIGITS = r"[0-9](?:_?[0-9])*"
FLOAT = re.compile(rf"[+-]?(?:{DIGITS}\.?(?:{DIGITS})?|\.{DIGITS})(?:[eE][+-]?{DIGITS})?")
HEX_FLOAT = re.compile(rf"[+-]?0[xX](?=[.0-9a-fA-F])[0-9a-fA-F]*\.?[0-9a-fA-F]*[pP][+-]?{DIGITS}")
UNIT = re.compile(r"""
    \\x(?P<x>[0-9a-fA-F]{2}) | \\(?P<octal>[0-7]{3})
  | \\u(?P<u>[0-9a-fA-F]{4}) | \\U(?P<U>[0-9a-fA-F]{8})
  | \\(?P<escape>[abfnrtv\\'"]) | (?P<plain>[^\\])
""", re.VERBOSE | re.DOTALL)
ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}


def parse_number(text: str) -> object:
    """The int or float that TEXT is in Go; ValueError when it is none, or one of over 64 bits."""
    integer = INTEGER.fullmatch(text)
    if integer:
        base = integer.lastgroup
        value = int(integer[base], BASES[base]) * (-1 if text.startswith("-") else 1)
        if not -INT64 <= value < (INT64 if text[0] in "+-" else 2 * INT64):
            raise ValueError
        return value
    if not any(mark in text for mark in ".eEpP"):
        raise ValueError
    if HEX_FLOAT.fullmatch(text):
        return float.fromhex(text)
    value = float(text.replace("_", "")) if FLOAT.fullmatch(text) else float("inf")
    if value in (float("inf"), -float("inf")):
        raise ValueError
    return value


def decode_units(text: str) -> Iterator[Tuple[int, bool]]:
    """The characters of a quoted TEXT as (number, is a bare byte); ValueError for a bad escape."""
    position, closing = 1, len(text) - 1
    while position < closing:
        match = UNIT.match(text, position, closing)
        if not match or match["escape"] and match["escape"] in "'\"" and match["escape"] != text[0]:
            raise ValueError
        position = match.end()
        kind = match.lastgroup
        if kind == "plain":
            number = ord(match[kind])
        elif kind == "escape":
            number = ESCAPES[match[kind]]
        else:
            number = int(match[kind], 8 if kind == "octal" else 16)
        yield check_unit(number, kind), kind in ("x", "octal")


def check_unit(number: int, kind: str) -> int:
    """NUMBER, when an escape of this KIND may stand for it."""
    surrogate = kind in "uU" and 0xD800 <= number < 0xE000
    if number > (255 if kind == "octal" else 0x10FFFF) or surrogate:
        raise ValueError
    return number


def parse_literal(token: Token) -> object:
    """The value of a string, raw string, character or number token; ValueError when malformed."""
    if token.kind == "number":
        return parse_number(token.text)
    if token.kind == "raw":
        return token.text[1:-1].replace("\r", "")
    units = list(decode_units(token.text))
    if token.kind == "char":
        (number, _), = units
        return number
    octets = b"".join(bytes([number]) if bare else to_bytes(chr(number)) for number, bare in units)
    return to_text(octets)


def to_bytes(text: str) -> bytes:
    """TEXT as Go holds it."""
    return text.encode("utf-8", "surrogateescape")


def to_text(octets: bytes) -> str:
    """The inverse of to_bytes."""
    return octets.decode("utf-8", "surrogateescape")


# ---- parser: tokens -> tree ----

class Constant(NamedTuple):
    """A literal string, number or bool."""

    at: int
    value: object


class Dot(NamedTuple):
    """The value that . is."""

    at: int


class Nil(NamedTuple):
    """The word nil."""

    at: int


class Variable(NamedTuple):
    """$NAME, or $ alone; the name keeps its dollar."""

    at: int
    name: str


class Name(NamedTuple):
    """A function's name: a call, of no arguments unless it comes first in a command."""

    at: int
    name: str


class Chain(NamedTuple):
    """Fields one in another: .A.B is a chain on Dot, (pipeline).A on the pipeline."""

    at: int
    base: Any
    names: List[str]


class Pipeline(NamedTuple):
    """Commands, each a list of operands, and the variables that take the last one's value."""

    at: int
    names: List[str]
    assigns: bool
    commands: List[list]


class Text(NamedTuple):
    """Text between actions."""

    text: str


class Action(NamedTuple):
    """A pipeline whose value is printed unless a variable takes it."""

    at: int
    pipeline: Pipeline


class Branch(NamedTuple):
    """An if, with or range (KIND) with its two lists of nodes."""

    at: int
    kind: str
    pipeline: Pipeline
    body: list
    otherwise: list


class Invoke(NamedTuple):
    """{{template NAME PIPELINE}}."""

    at: int
    name: str
    pipeline: Optional[Pipeline]


class Jump(NamedTuple):
    """{{break}} or {{continue}}, as KIND says."""

    at: int
    kind: str


LITERALS = ("string", "raw", "char", "number")
OPERANDS = LITERALS + ("word", "field", "dot", "variable", "nil", "left")


class Opening:
    """A block that waits for its {{end}}; NODES is the list that is being filled."""

    __slots__ = ("kind", "at", "nodes", "branch", "variables", "name", "joined")

    def __init__(self, kind: str, at: int, nodes: list, variables: list) -> None:
        self.kind = kind                # if, with, range, define, block, or "" for the whole text
        self.at = at
        self.nodes = nodes
        self.variables = variables      # the names in scope outside of it
        self.branch: Optional[Branch] = None
        self.name = ""                  # of the template that it defines
        self.joined = False             # an {{else if}}: the {{end}} of the block around it is its own


class Parser:
    """Makes the trees of a template and of those it defines: `parse` gives them by name."""

    def __init__(self, source: TemplateText, functions: Dict[str, "Function"]) -> None:
        self.source = source
        self.functions = functions
        self.scanner = scan(source)
        self.tokens: List[Token] = []           # those that were looked at
        self.position = 0                       # of the next token in it
        self.variables = ["$"]                  # in scope
        self.parens = 0
        self.templates: Dict[str, list] = {}
        self.opened = [Opening("", 0, [], [])]

    def parse(self) -> Dict[str, list]:
        """Template name -> nodes; raises Fail for what Go does not parse."""
        while self.peek().kind != "end of text":
            token = self.next()
            if token.kind == "text":
                self.opened[-1].nodes.append(Text(token.text))
            else:
                self.action()
        if len(self.opened) > 1:
            raise self.error(self.opened[-1], f"this {self.opened[-1].kind} has no {{{{end}}}}")
        self.add(self.source.name, self.opened[0])
        return self.templates

    # Tokens.

    def peek(self) -> Token:
        """The next token, which stays the next one."""
        if self.position == len(self.tokens):
            self.tokens.append(next(self.scanner))
        return self.tokens[self.position]

    def next(self) -> Token:
        """The next token, taken."""
        token = self.peek()
        self.position += 1
        return token

    def skip_space(self) -> Token:
        """Peek past blanks."""
        if self.peek().kind == "space":
            self.position += 1
        return self.peek()

    def expect(self, kinds: Tuple[str, ...], where: str) -> Token:
        """The next token that is no blank, which must be of one of KINDS."""
        token = self.skip_space()
        if token.kind not in kinds:
            raise self.unexpected(token, where)
        return self.next()

    def error(self, where: Any, what: str) -> Fail:
        """A Fail at the place of a token, node or opening."""
        return self.source.error(where.at, what)

    def unexpected(self, token: Token, where: str) -> Fail:
        """A Fail for a token that does not belong WHERE it stands."""
        shown = quote(token.text) if token.text else token.kind
        return self.error(token, f"unexpected {shown} in {where}")

    # Actions.

    def action(self) -> None:
        """One action, from after its {{ to its }}."""
        token = self.skip_space()
        handler = {
            "if": self.branch, "with": self.branch, "range": self.branch, "else": self.otherwise,
            "end": self.end, "define": self.define, "block": self.block, "template": self.invoke,
            "break": self.jump, "continue": self.jump,
        }.get(token.kind)
        if handler:
            self.next()
            handler(token)
        else:
            self.opened[-1].nodes.append(Action(token.at, self.pipeline("an action", "close")))

    def open(self, kind: str, at: int, nodes: list, variables: list) -> Opening:
        """Open a block whose nodes go to NODES and that has VARIABLES in scope."""
        opening = Opening(kind, at, nodes, self.variables)
        self.opened.append(opening)
        self.variables = variables
        return opening

    def branch(self, token: Token) -> None:
        """{{if P}}, {{with P}} or {{range P}}: variables that P declares end with the block."""
        around = self.opened[-1]
        body: list = []
        opening = self.open(token.kind, token.at, body, list(self.variables))
        pipeline = self.pipeline(token.kind, "close")
        opening.branch = Branch(token.at, token.kind, pipeline, body, [])
        around.nodes.append(opening.branch)

    def otherwise(self, token: Token) -> None:
        """{{else}}, or {{else if P}}: an if in the else part that shares its {{end}}."""
        opening = self.opened[-1]
        if not opening.branch or opening.nodes is opening.branch.otherwise:
            raise self.error(token, "unexpected {{else}}: no if, with or range waits for one here")
        opening.nodes = opening.branch.otherwise
        self.variables = self.variables[:self.in_scope(opening)]
        if opening.kind == "if" and self.skip_space().kind == "if":
            self.branch(self.next())
            self.opened[-1].joined = True
        else:
            self.expect(("close",), "else")

    def in_scope(self, opening: Opening) -> int:
        """How many variables the else part sees: the outer ones and those of the block's pipeline."""
        declared = [] if opening.branch.pipeline.assigns else opening.branch.pipeline.names
        return len(opening.variables) + len(declared)

    def end(self, token: Token) -> None:
        """{{end}}."""
        self.expect(("close",), "end")
        if len(self.opened) == 1:
            raise self.error(token, "unexpected {{end}}: no block is open here")
        opening = self.opened.pop()
        while opening.joined:
            opening = self.opened.pop()
        self.variables = opening.variables
        if opening.name:
            self.add(opening.name, opening)

    def define(self, token: Token) -> None:
        """{{define "name"}}, which Go takes at the top level only."""
        if len(self.opened) > 1:
            raise self.error(token, f"define can't stand inside {self.opened[-1].kind}")
        name = self.template_name("define")
        self.expect(("close",), "define")
        self.open("define", token.at, [], ["$"]).name = name

    def block(self, token: Token) -> None:
        """{{block "name" P}}: a define and, in its place, a template of that name."""
        name = self.template_name("block")
        pipeline = self.pipeline("block", "close")
        self.opened[-1].nodes.append(Invoke(token.at, name, pipeline))
        self.open("block", token.at, [], ["$"]).name = name

    def invoke(self, token: Token) -> None:
        """{{template "name"}} or {{template "name" P}}."""
        name = self.template_name("template")
        pipeline = None
        if self.skip_space().kind == "close":
            self.next()
        else:
            pipeline = self.pipeline("template", "close")
        self.opened[-1].nodes.append(Invoke(token.at, name, pipeline))

    def template_name(self, where: str) -> str:
        """The quoted name after define, block or template."""
        return self.literal(self.expect(("string", "raw"), where)).value

    def jump(self, token: Token) -> None:
        """{{break}} or {{continue}}, inside the body of a range of the same template."""
        self.expect(("close",), token.kind)
        if not self.in_range():
            raise self.error(token, f"{token.kind} stands outside of every range")
        self.opened[-1].nodes.append(Jump(token.at, token.kind))

    def in_range(self) -> bool:
        """Whether what comes now belongs to a range's body (its else part does not)."""
        for opening in reversed(self.opened):
            if opening.kind in ("define", "block"):
                return False
            if opening.kind == "range" and opening.nodes is opening.branch.body:
                return True
        return False

    def add(self, name: str, opening: Opening) -> None:
        """Record a template; an empty one gives way to another of its name, as Go has it."""
        known = self.templates.get(name)
        if not known or is_empty(known):
            self.templates[name] = opening.nodes
        elif not is_empty(opening.nodes):
            raise self.error(opening, f"template {quote(name)} is defined twice")

    # Pipelines.

    def pipeline(self, where: str, closing: str) -> Pipeline:
        """A pipeline up to its CLOSING token, which is taken."""
        at = self.skip_space().at
        names, assigns = self.declarations(where)
        pipeline = Pipeline(at, names, assigns, [])
        while self.skip_space().kind != closing:
            if self.peek().kind not in OPERANDS:
                raise self.unexpected(self.peek(), where)
            pipeline.commands.append(self.command())
        if not pipeline.commands:
            raise self.error(self.peek(), f"missing value for {where}")
        self.next()
        for command in pipeline.commands[1:]:
            if isinstance(command[0], (Constant, Dot, Nil)):
                raise self.error(command[0], "this is no function, so it can't follow a |")
        return pipeline

    def declarations(self, where: str) -> Tuple[List[str], bool]:
        """`$x :=`, `$x =` or, in a range, `$i, $v :=`: the names, and whether it assigns."""
        names: List[str] = []
        while self.skip_space().kind == "variable":
            start = self.position
            variable = self.next()
            mark = self.skip_space()
            if mark.kind in ("declare", "assign"):
                self.next()
                self.declare(variable.text, names)
                return names, mark.kind == "assign"
            if mark.text != ",":
                self.position = start
                break
            self.next()
            self.declare(variable.text, names)
            if where != "range" or len(names) > 1:
                raise self.error(variable, f"too many variables in {where}")
        if names and self.peek().kind not in ("variable", "close", "right"):
            raise self.error(self.peek(), "a range can only set variables")
        return names, False

    def declare(self, name: str, names: List[str]) -> None:
        """Bring NAME into scope. That an assigned one exists, Go too finds out later."""
        names.append(name)
        self.variables.append(name)

    def command(self) -> list:
        """Operands up to a | or to what closes the pipeline; only the | is taken."""
        operands = []
        while True:
            self.skip_space()
            operand = self.operand()
            if operand is not None:
                operands.append(operand)
            token = self.peek()
            if token.kind == "space":
                continue
            if token.kind == "pipe":
                self.next()
            elif token.kind not in ("close", "right"):
                raise self.unexpected(token, "an operand")
            return operands

    def operand(self) -> Any:
        """A term with the fields that follow it, or None where no term begins."""
        if self.peek().kind not in OPERANDS:
            return None
        if self.peek().kind == "field":
            term: Any = Dot(self.peek().at)
        else:
            term = self.term(self.next())
            if self.peek().kind != "field":
                return term
            if isinstance(term, (Constant, Dot, Nil)):
                raise self.error(self.peek(), f"this has no field {quote(self.peek().text[1:])}")
        names = []
        while self.peek().kind == "field":
            names.append(self.next().text[1:])
        return Chain(term.at, term, names)

    def term(self, token: Token) -> Any:
        """The node of TOKEN, with all of what a left parenthesis opens."""
        if token.kind in LITERALS:
            return self.literal(token)
        if token.kind == "left":
            return self.parenthesis(token)
        if token.kind == "variable":
            if token.text not in self.variables:
                raise self.error(token, f"undefined variable {token.text}")
            return Variable(token.at, token.text)
        if token.kind == "word":
            return self.word(token)
        return Dot(token.at) if token.kind == "dot" else Nil(token.at)

    def parenthesis(self, token: Token) -> Pipeline:
        """What stands in parentheses."""
        self.parens += 1
        if self.parens > MAX_PARENS:
            raise self.error(token, f"more than {MAX_PARENS} parentheses in one another")
        pipeline = self.pipeline("parentheses", "right")
        self.parens -= 1
        return pipeline

    def word(self, token: Token) -> Any:
        """true, false or a function's name."""
        if token.text in ("true", "false"):
            return Constant(token.at, token.text == "true")
        if token.text not in self.functions:
            raise self.error(token, f"there is no function {quote(token.text)}")
        return Name(token.at, token.text)

    def literal(self, token: Token) -> Constant:
        """The node of a literal."""
        try:
            return Constant(token.at, parse_literal(token))
        except ValueError:
            raise self.error(token, f"{quote(token.text)} is no valid {token.kind}") from None


def is_empty(nodes: list) -> bool:
    """Whether a template is nothing but blanks."""
    return all(isinstance(node, Text) and not node.text.strip() for node in nodes)


# ---- machine: tree -> text ----

class Frame:
    """A list of nodes being walked: a template's, or that of a block in it."""

    __slots__ = ("nodes", "dot", "variables", "mark", "items", "branch", "inner", "depth")

    def __init__(self, nodes: list, dot: Any, variables: list, mark: int, depth: int) -> None:
        self.nodes = iter(nodes)
        self.dot = dot
        self.variables = variables      # (name, value), shared by the blocks of one template
        self.mark = mark                # how many of them to keep when the frame ends
        self.depth = depth              # templates in templates
        self.items: Any = None          # of a range: what is still to come
        self.branch: Any = None         # of a range: its node
        self.inner = 0                  # of a range: how many variables to keep between items


class Machine:
    """Walks the trees of a template and gathers the text in `pieces`."""

    def __init__(self, source: TemplateText, templates: Dict[str, list],
                 functions: Dict[str, "Function"]) -> None:
        self.source = source
        self.templates = templates
        self.functions = functions
        self.pieces: List[str] = []
        self.size = 0
        self.frames: List[Frame] = []
        self.frame: Any = None              # the last of them
        self.steps = {
            Text: lambda node: self.write(0, node.text), Action: self.action, Branch: self.branch,
            Invoke: self.invoke, Jump: self.jump,
        }

    def run(self, data: Any) -> str:
        """The text of the template of the source's name, for DATA."""
        dot = ABSENT if data is None else data
        self.enter(Frame(self.templates[self.source.name], dot, [("$", dot)], 1, 0))
        for _ in range(MAX_STEPS):
            node = next(self.frame.nodes, None)
            if node is not None:
                self.steps[type(node)](node)
            elif not self.leave():
                return "".join(self.pieces)
        raise self.source.error(0, f"the template is not done after {MAX_STEPS} steps")

    def error(self, node: Any, what: str) -> Fail:
        """A Fail at the place of NODE."""
        return self.source.error(node.at, what)

    def enter(self, frame: Frame) -> None:
        """Walk FRAME next."""
        self.frames.append(frame)
        self.frame = frame

    def leave(self) -> bool:
        """The frame's nodes are done: its next item, or the frame around it; False without one."""
        frame = self.frame
        if frame.items is not None and self.next_item(frame):
            return True
        del frame.variables[frame.mark:]
        self.frames.pop()
        self.frame = self.frames[-1] if self.frames else None
        return bool(self.frames)

    def write(self, at: int, text: str) -> None:
        """Add to the result."""
        self.size += len(text)
        if self.size > MAX_TEXT:
            raise self.source.error(at, f"the text grows over {MAX_TEXT} characters")
        self.pieces.append(text)

    # Nodes.

    def action(self, node: Action) -> None:
        """Print a pipeline's value, unless a variable takes it."""
        value = self.pipeline(node.pipeline)
        if node.pipeline.names:
            return
        if callable(value):
            raise self.error(node, "a function can't be printed")
        self.write(node.at, show_plain(value))

    def branch(self, node: Branch) -> None:
        """if, with, range: a new frame for one of the two lists."""
        outer = self.frame
        mark = len(outer.variables)
        value = self.pipeline(node.pipeline)
        frame = Frame(node.otherwise, outer.dot, outer.variables, mark, outer.depth)
        self.enter(frame)
        if node.kind == "range":
            frame.items = self.items(node, value)
            frame.branch = node
            frame.inner = len(frame.variables)
            if self.next_item(frame):
                return
            frame.items = None
        elif is_true(value):
            frame.nodes = iter(node.body)
            frame.dot = value if node.kind == "with" else outer.dot

    def items(self, node: Branch, value: Any) -> Iterator[Tuple[Any, Any]]:
        """The (key, element) pairs that a range goes through."""
        if isinstance(value, (list, tuple)):
            return enumerate(value)
        if is_map(value):
            return iter([(key, value[key]) for key in sorted_keys(value)])
        if value is ABSENT:
            return iter(())
        raise self.error(node.pipeline, f"range can't go through a value of type {go_type(value)}")

    def next_item(self, frame: Frame) -> bool:
        """Begin the range's body for its next item, if there is one.

        As in Go 1.19 the item goes to the top of the variables even in `range $x = …`, where that may
        be another variable than $x.
        """
        item = next(frame.items, None)
        if item is None:
            return False
        del frame.variables[frame.inner:]
        for place, value in zip(range(1, len(frame.branch.pipeline.names) + 1), reversed(item)):
            frame.variables[-place] = (frame.variables[-place][0], value)
        frame.dot = item[1]
        frame.nodes = iter(frame.branch.body)
        return True

    def jump(self, node: Jump) -> None:
        """Leave the blocks inside the nearest range and, for a break, what is left of that too."""
        while self.frame.items is None:
            self.leave()
        self.frame.nodes = iter(())
        if node.kind == "break":
            self.frame.items = None

    def invoke(self, node: Invoke) -> None:
        """A template: it sees its argument as . and $, and no variable of its caller."""
        nodes = self.templates.get(node.name)
        if nodes is None:
            raise self.error(node, f"there is no template {quote(node.name)}")
        depth = self.frame.depth + 1
        if depth > MAX_CALLS:
            raise self.error(node, f"more than {MAX_CALLS} templates call one another")
        dot = self.pipeline(node.pipeline) if node.pipeline else ABSENT
        self.enter(Frame(nodes, dot, [("$", dot)], 1, depth))

    # Pipelines and operands.

    def pipeline(self, pipeline: Pipeline) -> Any:
        """The last command's value, which its variables take; never None."""
        value: Any = MISSING
        for command in pipeline.commands:
            value = self.command(command, value)
            if value is None:
                value = ABSENT
        for name in pipeline.names:
            if pipeline.assigns:
                self.frame.variables[self.find(pipeline, name)] = (name, value)
            else:
                self.frame.variables.append((name, value))
        return value

    def command(self, operands: list, final: Any) -> Any:
        """The value of one command; FINAL, from the stage before, is its last argument."""
        first = operands[0]
        if isinstance(first, Name):
            return self.call(first, operands[1:], final)
        given = len(operands) > 1 or final is not MISSING
        if isinstance(first, Chain):
            return self.chain(first, given)
        if given:
            raise self.error(first, "this is no function and takes no arguments")
        if isinstance(first, Nil):
            raise self.error(first, "nil is no command")
        return self.operand(first)

    def operand(self, node: Any) -> Any:
        """The value of a node that is an argument or stands alone."""
        if isinstance(node, Constant):
            return self.constant(node)
        if isinstance(node, Dot):
            return self.frame.dot
        if isinstance(node, Variable):
            return self.frame.variables[self.find(node, node.name)][1]
        if isinstance(node, Chain):
            return self.chain(node, False)
        if isinstance(node, Name):
            return self.call(node, [], MISSING)
        if isinstance(node, Pipeline):
            return self.pipeline(node)
        return None

    def constant(self, node: Constant) -> Any:
        """A literal; an int over 63 bits is an error only where it is used."""
        if type(node.value) is int and node.value >= INT64:
            raise self.error(node, f"{node.value} is too large for an int")
        return node.value

    def find(self, node: Any, name: str) -> int:
        """The place of the innermost variable NAME."""
        variables = self.frame.variables
        for place in range(len(variables) - 1, -1, -1):
            if variables[place][0] == name:
                return place
        raise self.error(node, f"undefined variable {name}")

    def chain(self, node: Chain, given: bool) -> Any:
        """Fields one after another; the last must not be GIVEN arguments."""
        value = self.operand(node.base)
        for number, name in enumerate(node.names, 1):
            value = self.field(node, value, name, given and number == len(node.names))
        return value

    def field(self, node: Chain, value: Any, name: str, given: bool) -> Any:
        """The field NAME of a struct, or the element NAME of a map."""
        if value is ABSENT:
            return ABSENT
        if value is None:
            raise self.error(node, f"nil has no field {name}")
        if not isinstance(value, dict) or isinstance(value, Struct) and name not in value:
            raise self.error(node, f"can't evaluate field {name} in type {go_type(value)}")
        if given:
            raise self.error(node, f"{name} is a field and takes no arguments")
        return value.get(name, ABSENT)

    def call(self, node: Name, operands: list, final: Any) -> Any:
        """A function's value for OPERANDS and, from the stage before, FINAL."""
        function = self.functions[node.name]
        count = len(operands) + (final is not MISSING)
        if not function.takes(count):
            raise self.error(node, f"wrong number of arguments for {node.name}: "
                             f"want {function.wanted()}, got {count}")
        if function.stops_at is not None:
            return self.short_circuit(operands, final, function.stops_at)
        arguments = [self.argument(operand) for operand in operands]
        if final is not MISSING:
            arguments.append(None if final is ABSENT else final)
        for place, value in enumerate(arguments):
            want = function.kind(place)
            if not is_kind(value, want):
                where = operands[place] if place < len(operands) else node
                raise self.error(where, f"{node.name} wants {GO_NAMES[want]} here, "
                                 f"not {go_type(value)}")
        return self.result(node, function, arguments)

    def argument(self, operand: Any) -> Any:
        """An operand's value, where what is absent is nil."""
        value = self.operand(operand)
        return None if value is ABSENT else value

    def short_circuit(self, operands: list, final: Any, stop: bool) -> Any:
        """`and`, `or`: the first operand whose truth is STOP, else the last; the rest is not run."""
        value: Any = None
        for operand in operands:
            value = self.argument(operand)
            if is_true(value) == stop:
                return value
        return value if final is MISSING else final

    def result(self, node: Name, function: "Function", arguments: list) -> Any:
        """Call Python. Whatever it raises is an error of the template at the function's name."""
        size = sum(len(value) for value in arguments if isinstance(value, str))
        if size > MAX_TEXT:
            raise self.error(node, f"over {MAX_TEXT} characters for {node.name}")
        try:
            return function.call(*arguments)
        except RecursionError:
            raise
        except Exception as error:
            raise self.error(node, f"{node.name}: {error}") from None


def is_true(value: Any) -> bool:
    """Go's truth: nothing, false, 0 and what is empty are not; a struct always is."""
    return isinstance(value, Struct) or value is not ABSENT and bool(value)


def is_map(value: Any) -> bool:
    """Whether VALUE is a map, which a struct is not."""
    return isinstance(value, dict) and not isinstance(value, Struct)


def sorted_keys(value: dict) -> list:
    """A map's keys as Go sorts them; keys of several types (YAML's, not JSON's) go by type first."""
    return sorted(value, key=lambda key: (go_type(key), key))


# ---- functions ----

GO_NAMES = {bool: "bool", Byte: "uint8", int: "int", float: "float64", str: "string",
            list: "[]interface {}", tuple: "[]interface {}", dict: "map[string]interface {}",
            type(None): "<nil>", Struct: Struct.TYPE}


def go_type(value: Any) -> str:
    """What Go calls the type of VALUE."""
    return GO_NAMES.get(type(value)) or ("func" if callable(value) else type(value).__name__)


def is_kind(value: Any, want: Any) -> bool:
    """Whether an argument fits the annotation WANT of its parameter; unknown ones take anything."""
    if want not in GO_NAMES:
        return True
    if want is float and type(value) is int:
        return True
    return isinstance(value, want) and not (isinstance(value, bool) and want is not bool)


class Function:
    """A Python function as templates see it: its signature says how many and what it takes."""

    __slots__ = ("call", "kinds", "least", "rest", "stops_at")

    def __init__(self, call: Callable[..., Any], stops_at: Optional[bool] = None) -> None:
        self.call = call
        self.stops_at = stops_at        # of and, or: the truth at which they stop
        self.kinds: list = []           # the annotations of the parameters
        self.least = 0
        self.rest: Any = object         # the annotation of *ARGS; None without them
        code = getattr(call, "__code__", None)
        if code is not None:            # else it is written in C, and checks for itself
            self.read_signature(code)

    def read_signature(self, code: Any) -> None:
        """Fill in what the function's code object says (inspect would cost more than a rendering)."""
        hints = self.call.__annotations__
        bound = 1 if hasattr(self.call, "__self__") else 0
        count = code.co_argcount
        self.kinds = [hints.get(name, object) for name in code.co_varnames[bound:count]]
        self.least = len(self.kinds) - len(self.call.__defaults__ or ())
        variadic = code.co_flags & 0x04
        rest = code.co_varnames[count + code.co_kwonlyargcount] if variadic else ""
        self.rest = hints.get(rest, object) if variadic else None

    def takes(self, count: int) -> bool:
        """Whether it can be called with COUNT arguments."""
        return self.least <= count and (self.rest is not None or count <= len(self.kinds))

    def wanted(self) -> str:
        """How many arguments it takes, in words."""
        return f"at least {self.least}" if self.rest is not None else str(len(self.kinds))

    def kind(self, place: int) -> Any:
        """The annotation of the parameter at PLACE."""
        return self.kinds[place] if place < len(self.kinds) else self.rest


def first_of(first: object, *_: object) -> object:
    """What `and` and `or` look like to a caller; the machine itself runs them."""
    return first


def go_not(value: object) -> bool:
    """Template function `not`."""
    return not is_true(value)


def basic_kind(value: Any) -> str:
    """bool, int, float or string, or "" for what has no order."""
    kind = go_type(value)
    return {"uint8": "int", "float64": "float"}.get(kind, kind if type(value) in BASIC else "")


BASIC = (bool, int, Byte, float, str)


def is_same(one: Any, two: Any) -> bool:
    """Whether two values are equal; Fail when Go can't compare such two."""
    if one is None or two is None:
        return one is two
    if basic_kind(one) != basic_kind(two):
        raise Fail(f"can't compare {go_type(one)} with {go_type(two)}")
    if not basic_kind(one):
        raise Fail(f"can't compare values of type {go_type(one)}")
    return one == two


def go_eq(first: object, *others: object) -> bool:
    """Template function `eq`: whether FIRST equals one of the others."""
    if not others:
        raise Fail("there is nothing to compare with")
    return any(is_same(first, other) for other in others)


def go_ne(one: object, two: object) -> bool:
    """Template function `ne`."""
    return not is_same(one, two)


def go_lt(one: Any, two: Any) -> bool:
    """Template function `lt`: numbers of one type and strings have an order, nothing else has."""
    for value in (one, two):
        if basic_kind(value) in ("", "bool"):
            raise Fail(f"values of type {go_type(value)} have no order")
    if basic_kind(one) != basic_kind(two):
        raise Fail(f"can't compare {go_type(one)} with {go_type(two)}")
    return one < two


def go_le(one: object, two: object) -> bool:
    """Template function `le`."""
    return go_lt(one, two) or is_same(one, two)


def go_gt(one: object, two: object) -> bool:
    """Template function `gt`."""
    return not go_le(one, two)


def go_ge(one: object, two: object) -> bool:
    """Template function `ge`."""
    return not go_lt(one, two)


def go_len(value: Any) -> int:
    """Template function `len`; a string's is in bytes."""
    if isinstance(value, str):
        return len(to_bytes(value))
    if isinstance(value, (list, tuple)) or is_map(value):
        return len(value)
    raise Fail(f"values of type {go_type(value)} have no length")


def go_index(item: Any, *indexes: Any) -> object:
    """Template function `index`: a list's element, a map's value (nil without it), a string's byte."""
    if item is None:
        raise Fail("nil has no elements")
    for index in indexes:
        if is_map(item):
            item = map_element(item, index)
        elif isinstance(item, (list, tuple)):
            item = item[check_index(index, len(item) - 1)]
        elif isinstance(item, str):
            octets = to_bytes(item)
            item = Byte(octets[check_index(index, len(octets) - 1)])
        else:
            raise Fail(f"values of type {go_type(item)} have no elements")
    return item


def map_element(item: dict, key: Any) -> object:
    """The value of KEY; keys of a map from YAML may also be numbers."""
    if isinstance(key, str) or type(key) in BASIC and key in item:
        return item.get(key)
    raise Fail(f"the map has strings for keys, not {go_type(key)}")


def check_index(index: Any, most: int) -> int:
    """INDEX, when it is an int from 0 to MOST."""
    if basic_kind(index) != "int":
        raise Fail(f"an index is an int, not {go_type(index)}")
    if not 0 <= index <= most:
        raise Fail(f"index out of range: {index}")
    return index


def go_slice(item: Any, *indexes: Any) -> object:
    """Template function `slice`: item[i:j], in bytes for a string; a list's third index is a cap."""
    if not isinstance(item, (str, list, tuple)):
        raise Fail(f"can't slice a value of type {go_type(item)}")
    if len(indexes) > (2 if isinstance(item, str) else 3):
        raise Fail("too many slice indexes")
    content = to_bytes(item) if isinstance(item, str) else item
    bounds = [check_index(index, len(content)) for index in indexes]
    bounds += (0, len(content))[len(bounds):]
    if bounds != sorted(bounds):
        raise Fail("slice indexes must not fall")
    part = content[bounds[0]:bounds[1]]
    return to_text(part) if isinstance(part, bytes) else part


def go_call(function: Any, *arguments: object) -> object:
    """Template function `call`: only what another function returned can be one to call."""
    if not callable(function):
        raise Fail(f"can't call a value of type {go_type(function)}")
    return function(*arguments)


HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;",
                      "\0": "\ufffd"})
JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', **{c: f"\\u{ord(c):04X}" for c in "<>&="}}


def flat(arguments: tuple) -> str:
    """The arguments of html, js and urlquery as one string."""
    return go_print(*("<no value>" if value is None else value for value in arguments))


def go_html(*arguments: object) -> str:
    """Template function `html`."""
    return flat(arguments).translate(HTML)


def go_js(*arguments: object) -> str:
    """Template function `js`."""
    return "".join(JS.get(c) or (c if c.isprintable() else f"\\u{ord(c):04X}")
                   for c in flat(arguments))


def go_urlquery(*arguments: object) -> str:
    """Template function `urlquery`."""
    return urllib.parse.quote_plus(to_bytes(flat(arguments)))


# ---- printing: Go's fmt ----
#
# A value is shown by a verb under flags, and the verb goes down into lists and maps. One that does not
# fit gives a remark in the text, %!d(string=x), and no error.

class Style(NamedTuple):
    """A verb with its flags, width and precision; %#v and %+v have flags of their own."""

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


PLAIN = Style()


def go_print(*arguments: object) -> str:
    """Template function `print`: a blank between two operands neither of which is a string."""
    pieces = []
    for place, value in enumerate(arguments):
        if place and not isinstance(value, str) and not isinstance(arguments[place - 1], str):
            pieces.append(" ")
        pieces.append(show(value, PLAIN))
    return "".join(pieces)


def go_println(*arguments: object) -> str:
    """Template function `println`."""
    return " ".join(show(value, PLAIN) for value in arguments) + "\n"


def show_plain(value: Any) -> str:
    """What {{value}} prints."""
    return "<no value>" if value is ABSENT else show(value, PLAIN)


def show(value: Any, style: Style) -> str:
    """VALUE in STYLE."""
    if style.verb == "T":
        return pad(go_type(value), style)
    if value is None:
        return pad("<nil>", style) if style.verb == "v" else bad_verb(value, style)
    for kind, shower in SHOWERS:
        if isinstance(value, kind):
            return shower(value, style)
    return bad_verb(value, style) if style.verb != "v" else pad(str(value), style)


def pad(text: str, style: Style) -> str:
    """TEXT at the style's width."""
    if style.minus:
        return text.ljust(style.width)
    return text.rjust(style.width, "0" if style.zero else " ")


def bad_verb(value: Any, style: Style) -> str:
    """The remark that the verb does not fit the value."""
    if value is None:
        return f"%!{style.verb}(<nil>)"
    return f"%!{style.verb}({go_type(value)}={show(value, style._replace(verb='v'))})"


def show_bool(value: bool, style: Style) -> str:
    """%t %v."""
    if style.verb not in "tv":
        return bad_verb(value, style)
    return pad("true" if value else "false", style)


def show_int(value: int, style: Style) -> str:
    """%d %v, the bases %b %o %O %x %X, the characters %c %q %U."""
    if style.verb in "cqU":
        return show_rune(value, style)
    form = "x" if style.syntax and isinstance(value, Byte) else style.verb
    if form not in INT_FORMS:
        return bad_verb(value, style)
    if style.precision == 0 and value == 0:
        return " " * style.width
    digits = format(abs(value), INT_FORMS[form])
    sign = sign_of(value < 0, style)
    if style.precision is not None:
        digits = digits.zfill(style.precision)
    elif style.zero:
        digits = digits.zfill(style.width - len(sign))
    sharp = style.sharp or form != style.verb or form == "O"
    prefix = INT_PREFIXES.get(form, "") if sharp else ""
    if prefix == "0" and digits.startswith("0"):
        prefix = ""
    return pad(sign + prefix + digits, style._replace(zero=False))


INT_FORMS = {"v": "d", "d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
INT_PREFIXES = {"b": "0b", "o": "0", "O": "0o", "x": "0x", "X": "0X"}


def sign_of(negative: bool, style: Style) -> str:
    """The sign before a number."""
    if negative:
        return "-"
    return "+" if style.plus else " " if style.space else ""


def show_rune(value: int, style: Style) -> str:
    """An int as the character it numbers."""
    valid = 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000
    character = chr(value) if valid else "\ufffd"
    if style.verb == "c":
        return pad(character, style)
    if style.verb == "q":
        return pad(quote(character, "'", style.plus), style)
    text = f"U+{value:04X}"
    if style.sharp and valid and character.isprintable():
        text += f" '{character}'"
    return pad(text, style._replace(zero=False))


def show_float(value: float, style: Style) -> str:
    """%v %g %G %e %E %f %F."""
    if style.verb not in "vgGeEfF":
        return bad_verb(value, style)
    if value - value != 0:                                # infinite, or no number
        style = style._replace(zero=False, plus=value == value or style.plus)
        text = "NaN" if value != value else "Inf"
    else:
        text = float_digits(abs(value), style)
    sign = sign_of(str(value).startswith("-"), style)
    if style.zero and not style.minus:
        text = text.zfill(style.width - len(sign))
    return pad(sign + text, style._replace(zero=False))


def float_digits(value: float, style: Style) -> str:
    """A finite VALUE without its sign; %v and %g have as few digits as tell it apart."""
    form = style.verb.replace("v", "g")
    if style.precision is not None or form not in "gG":
        return format(value, f".{6 if style.precision is None else style.precision}{form}")
    mantissa, _, exponent = repr(value).partition("e")
    digits = len(mantissa.replace(".", "").strip("0")) or 1
    scientific = format(value, f".{digits - 1}e")
    exponent = int(scientific.partition("e")[2])
    if exponent < -4 or exponent >= 21 or exponent >= max(digits, 6):
        return scientific.upper() if form == "G" else scientific
    return format(value, f".{max(digits - 1 - exponent, 0)}f")


def show_string(value: str, style: Style) -> str:
    """%s %v %q %x %X."""
    verb = "q" if style.verb == "v" and style.syntax else style.verb
    if verb in "xX":
        return show_hex(value, style)
    if verb not in "vsq":
        return bad_verb(value, style)
    text = value[:style.precision]
    if verb == "q" and style.sharp and "`" not in text and text.replace("\t", "").isprintable():
        return pad(f"`{text}`", style)
    return pad(quote(text, '"', style.plus) if verb == "q" else text, style)


def show_hex(value: str, style: Style) -> str:
    """A string's bytes, apart by blanks with the flag for it."""
    octets = to_bytes(value)[:style.precision]
    form = f"%02{style.verb}"
    prefix = f"0{style.verb}" if style.sharp and octets else ""
    if style.space:
        return pad(" ".join(prefix + form % octet for octet in octets), style)
    return pad(prefix + "".join(form % octet for octet in octets), style)


def show_list(value: list, style: Style) -> str:
    """[a b], or its Go source."""
    shown = [show_element(element, style) for element in value]
    if style.syntax:
        return f"{go_type(value)}{{{', '.join(shown)}}}"
    return f"[{' '.join(shown)}]"


def show_map(value: dict, style: Style) -> str:
    """map[a:1 b:2], or its Go source."""
    shown = [f"{show(key, style)}:{show_element(value[key], style)}" for key in sorted_keys(value)]
    if style.syntax:
        return f"{go_type(value)}{{{', '.join(shown)}}}"
    return f"map[{' '.join(shown)}]"


def show_struct(value: Struct, style: Style) -> str:
    """{1 x}, in the order of the fields, with their names when the style asks."""
    named = style.syntax or style.names
    shown = [(f"{name}:" if named else "") + show_element(field, style)
             for name, field in value.items()]
    if style.syntax:
        return f"{go_type(value)}{{{', '.join(shown)}}}"
    return f"{{{' '.join(shown)}}}"


def show_element(value: Any, style: Style) -> str:
    """A value inside another one: nil is nil there under any verb."""
    if value is None:
        return "interface {}(nil)" if style.syntax else "<nil>"
    return show(value, style)


SHOWERS: Tuple[Tuple[Any, Callable[..., str]], ...] = (
    (bool, show_bool), (int, show_int), (float, show_float), (str, show_string),
    (Struct, show_struct), (dict, show_map), ((list, tuple), show_list),
)
QUOTED = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\"}


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """TEXT as a Go literal between two MARKs."""
    return mark + "".join(quote_one(character, mark, ascii_only) for character in text) + mark


def quote_one(character: str, mark: str, ascii_only: bool) -> str:
    """One character of a Go literal."""
    number = ord(character)
    if number in QUOTED or character == mark:
        return QUOTED.get(number, "\\" + character)
    if character.isprintable() and (number < 128 or not ascii_only):
        return character
    if number < 128 or 0xDC80 <= number < 0xDD00:          # control character, or a byte's surrogate
        return f"\\x{number & 255:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


# ---- printf ----

DIRECTIVE = re.compile(r"""
    %(?P<flags>[#0+\x20-]*)
    (?P<before>\[[^\]]*\])? (?P<width>\*|[0-9]+)?
    (?P<point>\.(?P<between>\[[^\]]*\])? (?P<precision>\*|[0-9]+)?)?
    (?P<after>\[[^\]]*\])? (?P<verb>[^\[]?)
""", re.VERBOSE | re.DOTALL)
MAX_WIDTH = 1_000_000       # fmt's own limit


def go_printf(form: str, *arguments: object) -> str:
    """Template function `printf`, with Go's remarks for what does not fit."""
    return Printf(arguments).run(form)


class Printf:
    """One call of printf: which argument comes next is its state."""

    def __init__(self, arguments: tuple) -> None:
        self.arguments = arguments
        self.place = 0
        self.reordered = False          # some [n] was used: arguments left over are no remark
        self.good = True                # the directive's [n] are numbers of arguments

    def run(self, form: str) -> str:
        """The text for FORM."""
        pieces: List[str] = []
        position = size = 0
        for match in DIRECTIVE.finditer(form):
            pieces += form[position:match.start()], self.directive(match)
            position = match.end()
            size += len(pieces[-1])
            if size > MAX_TEXT:
                raise Fail(f"the text grows over {MAX_TEXT} characters")
        return "".join(pieces) + form[position:] + self.extra()

    def directive(self, match: Any) -> str:
        """The text of one directive."""
        self.good = True
        self.choose(match["before"])
        remark, width = "", None
        if match["width"] == "*":
            width = self.star()
            remark = "%!(BADWIDTH)" if width is None else ""
        elif match["width"]:
            width = int(match["width"][:8])
            self.good = self.good and not match["before"]
        precision = self.precision(match)
        if match["precision"] == "*" and precision is None:
            remark += "%!(BADPREC)"
        self.choose(match["after"])
        return remark + self.verb(match, make_style(match, width or 0, precision))

    def precision(self, match: Any) -> Optional[int]:
        """The precision, None where none is given or an argument is no good for it."""
        if not match["point"]:
            return None
        self.good = self.good and not (match["before"] and not match["width"])
        self.choose(match["between"])
        if match["precision"] != "*":
            return int((match["precision"] or "0")[:8])
        value = self.star()
        return value if value is None or value >= 0 else None

    def choose(self, index: Optional[str]) -> None:
        """Go on with the argument that `[n]` names."""
        if not index:
            return
        self.reordered = True
        number = int(index[1:-1]) if re.fullmatch(r"\[[0-9]{1,9}\]", index) else 0
        if 0 < number <= len(self.arguments):
            self.place = number - 1
        else:
            self.good = False

    def star(self) -> Optional[int]:
        """The argument that a * takes."""
        value = self.arguments[self.place] if self.place < len(self.arguments) else None
        self.place = min(self.place + 1, len(self.arguments))
        if basic_kind(value) != "int" or abs(value) > MAX_WIDTH:
            return None
        return value

    def verb(self, match: Any, style: Style) -> str:
        """The text of the argument that is next, in STYLE."""
        verb = match["verb"]
        if not verb:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not self.good:
            return f"%!{verb}(BADINDEX)"
        if self.place >= len(self.arguments):
            return f"%!{verb}(MISSING)"
        self.place += 1
        return show(self.arguments[self.place - 1], style)

    def extra(self) -> str:
        """The remark on arguments that no directive took."""
        if self.reordered or self.place >= len(self.arguments):
            return ""
        shown = ["<nil>" if value is None else f"{go_type(value)}={show(value, PLAIN)}"
                 for value in self.arguments[self.place:]]
        return f"%!(EXTRA {', '.join(shown)})"


def make_style(match: Any, width: int, precision: Optional[int]) -> Style:
    """The style of a directive; a negative width, from a *, means the flag -."""
    flags, verb = match["flags"], match["verb"]
    minus = "-" in flags or width < 0
    plus, sharp = "+" in flags, "#" in flags
    return Style(verb, minus, plus and verb != "v", sharp and verb != "v", " " in flags,
                 "0" in flags and not minus, abs(width), precision,
                 sharp and verb == "v", plus and verb == "v")


BUILTINS = {
    "and": Function(first_of, stops_at=False), "or": Function(first_of, stops_at=True),
    **{name: Function(call) for name, call in (
        ("not", go_not), ("eq", go_eq), ("ne", go_ne), ("lt", go_lt), ("le", go_le),
        ("gt", go_gt), ("ge", go_ge), ("len", go_len), ("index", go_index), ("slice", go_slice),
        ("call", go_call), ("html", go_html), ("js", go_js), ("urlquery", go_urlquery),
        ("print", go_print), ("printf", go_printf), ("println", go_println))},
}


def render(text: str, data: Any, funcs: Optional[Dict[str, Callable[..., Any]]] = None,
           name: str = "template") -> str:
    """The template TEXT, of Go's text/template, filled in from DATA.

    DATA is made of dict, list, str, int, float, bool, None and Struct. FUNCS are added to Go's own
    functions: their annotations (str, int, float, bool, list, dict) say what they take, and a Fail in
    one is an error at its call. Raises Fail `NAME:line:column: what` for whatever Go rejects, and for
    a template that never ends or never stops growing.
    """
    source = TemplateText(name, text)
    functions = {**BUILTINS, **{word: Function(call) for word, call in (funcs or {}).items()}}
    try:
        return Machine(source, Parser(source, functions).parse(), functions).run(data)
    except RecursionError:
        raise source.error(0, "the data is nested too deep to be printed") from None


# ==== Recipes: from YAML to values =====================================================================
#
# PyYAML composes the file into nodes, which know their line and column; the readers below turn nodes into
# values by the schema's kinds. A text keeps its source's spelling: `version: 1.10` is "1.10", no float.

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
            raise self.fail(node, f"{what} is no list; write each of its items on a line after `- `")
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
        if not isinstance(node, yaml.ScalarNode) and node.tag not in COLLECTION_TAGS:
            raise self.fail(node, f"the YAML tag {node.tag}; recipes have plain values only")
        if isinstance(node, yaml.ScalarNode) and node.tag not in SCALAR_TAGS:
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
            return {key: self.any(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)}
        try:
            return SCALAR_TAGS[node.tag](node)
        except ValueError as error:
            raise self.fail(node, f"{what}: {error}") from None

    def texts(self, node: Any, what: str) -> List[str]:
        return [self.text(item, f"an item of {what}") for item in self.items(node, what)]

    def text_map(self, node: Any, what: str) -> Dict[str, str]:
        return {key: self.text(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)}

    def boolean_map(self, node: Any, what: str) -> Dict[str, bool]:
        return {key: self.boolean(value, f"{what}.{key}") for key, _, value in self.pairs(node, what)}

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
                raise self.fail(key_node, f"{name!r} is no package name; use letters, digits and + . _ -")
            packages[name] = self.struct(value, PACKAGE_FIELDS, f"package {name}")
            self.check_package(packages[name], value)
        if not packages:
            raise self.fail(node, "no packages; name at least one, as in `packages: {zlib: }`")
        return packages

    def check_package(self, fields: Dict[str, Any], node: Any) -> None:
        for key in ("dependencies", "provides", "conflicts"):
            for text in fields[key]:
                if not RELATION.fullmatch(text):
                    raise self.fail(node, f"{text!r} in {key} is no NAME, NAME>=VERSION or the like")
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
    "text": Reader.text, "integer": Reader.integer, "boolean": Reader.boolean, "any": Reader.any,
    "texts": Reader.texts, "text map": Reader.text_map, "boolean map": Reader.boolean_map,
    "any map": Reader.any_map, "sources": Reader.sources, "packages": Reader.packages,
}
EMPTY: Dict[str, Callable[[], Any]] = {
    "text": str, "integer": int, "boolean": bool, "any": str, "texts": list, "text map": dict,
    "boolean map": dict, "any map": dict, "sources": list, "packages": dict,
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def compose(path: str) -> Any:
    """The root node of the YAML file PATH."""
    try:
        with open(path, "rb") as file:
            text = file.read(RECIPE_LIMIT + 1)
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}; a recipe is a folder with a {RECIPE_FILE}") from None
    if len(text) > RECIPE_LIMIT:
        raise Fail(f"{path}: larger than {human_size(RECIPE_LIMIT)}; that is no recipe")
    try:
        return yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Fail(f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Fail(f"{path}: {' '.join(str(error).split())}") from None


def recipe_path(argument: str) -> str:
    """ARGUMENT is a recipe's folder or its pkgen.yaml."""
    path = argument if argument.endswith(".yaml") else os.path.join(argument, RECIPE_FILE)
    if not os.path.isfile(path):
        raise Fail(f"{argument}: no recipe there; a recipe is a folder with a {RECIPE_FILE}")
    return os.path.normpath(path)


def load_recipe(argument: str, options: argparse.Namespace) -> Recipe:
    """Load the recipe in ARGUMENT. Raises Fail with file:line:column for whatever is wrong with it."""
    path = recipe_path(argument)
    root = compose(path)
    reader = Reader(path, options.lenient)
    if root is None:
        raise Fail(f"{path}: empty; a recipe has at least packages and version")
    fields = reader.struct(reader.once(root), RECIPE_FIELDS, "the recipe")
    folder = os.path.dirname(path) or "."
    name = os.path.basename(os.path.abspath(folder))
    recipe = Recipe(name, folder, path, options.arch, options.hostarch or options.arch, fields)
    check_fields(recipe)
    fields["data"].update(options.data)
    evaluate(recipe, root)
    return recipe


def check_fields(recipe: Recipe) -> None:
    fields = recipe.fields
    if not NAME.fullmatch(recipe.name):
        raise Fail(f"{recipe.folder}: {recipe.name!r} is no recipe name; use letters, digits and + . _ -")
    if not fields["packages"]:
        raise Fail(f"{recipe.path}: no packages; name at least one")
    if not PACKAGE_VERSION.fullmatch(fields["version"]):
        raise Fail(f"{recipe.path}: version {fields['version']!r}; use letters, digits and + . _ ~ -")
    if fields["builder"] not in BUILDERS:
        raise Fail(f"{recipe.path}: builder {fields['builder']!r}{did_you_mean(fields['builder'], BUILDERS)}")
    for name, digest in fields["sha256"].items():
        if digest and not SHA256.fullmatch(digest):
            raise Fail(f"{recipe.path}: the sha256 of {name} is not 64 digits 0-9a-f; "
                       f"`pkggen.py hash {recipe.folder}` writes it")


# ---- templates in recipes ----

def evaluate(recipe: Recipe, root: Any) -> None:
    """Render what is a template: sources, script and check."""
    nodes = {key.value: value for key, value in root.value}
    dot = recipe_dot(recipe)
    funcs = shortcuts(recipe)
    for key in ("script", "check"):
        lines = source_lines(nodes.get(key))
        text = "\n".join(recipe.fields[key])
        setattr(recipe, key, render_field(recipe, text, dot, funcs, lines))
    for texts, place in recipe.fields["sources"]:
        rendered = [render(text, dot, funcs, f"{place}: source") for text in texts]
        recipe.sources.append(make_source(recipe, rendered, place))
    check_distinct_names(recipe)


def recipe_dot(recipe: Recipe) -> "Struct":
    """What templates see as `.`: a struct, so that a misspelt field is an error."""
    fields = recipe.fields
    return Struct({
        "Version": fields["version"], "Build": fields["build"], "Arch": fields["arch"],
        "Sources": [texts[0] for texts, _ in fields["sources"]],
        "Packages": {name: {"Dependencies": package["dependencies"]}
                     for name, package in fields["packages"].items()},
        "Script": fields["script"], "BuildDependencies": fields["builddependencies"],
        "Builder": BUILDERS[fields["builder"]], "Cross": fields["cross"], "Data": fields["data"],
        "NoBootstrap": fields["nobootstrap"],
    })


def source_lines(node: Any) -> List[Tuple[int, int]]:
    """(line, column) in the file, both from 0, of each line of a list of texts joined by newlines."""
    lines: List[Tuple[int, int]] = []
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        mark = item.start_mark
        count = item.value.count("\n") + 1
        if item.style in ("|", ">"):
            lines += [(mark.line + 1 + index, 0) for index in range(count)]
        else:
            lines += [(mark.line, mark.column + (item.style is not None))] * count
    return lines


def render_field(recipe: Recipe, text: str, dot: Any, funcs: Dict, lines: List[Tuple[int, int]]) -> str:
    """Render TEXT; an error in it names the line and column of the recipe file."""
    try:
        return render(text, dot, funcs, recipe.path)
    except Fail as error:
        match = re.fullmatch(r"(\d+):(\d+): (.*)", str(error)[len(recipe.path) + 1:], re.DOTALL)
        if not match or int(match[1]) > len(lines):
            raise
        line, column = lines[int(match[1]) - 1]
        raise Fail(f"{recipe.path}:{line + 1}:{column + int(match[2])}: {match[3]}") from None


# ---- the shortcuts ----

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
        return (f"mkdir -p out/{package}-man/usr/share\n"
                f"mv out/{package}/usr/share/man out/{package}-man/usr/share/man")

    def confflags() -> str:
        build, host = (arch, hostarch) if arch == hostarch else (hostarch, arch)
        return f"--build {gnu_arch(build)}-pc-linux-musl --host {gnu_arch(host)}-pc-linux-musl"

    def configure(folder: str, *arguments: str) -> str:
        return (f"(cd {folder} && ./configure {confflags()} --prefix=/usr --sysconfdir=/etc "
                f"--mandir=/usr/share/man --localstatedir=/var {' '.join(arguments)})")

    def make(folder: str, *arguments: str) -> str:
        return "\n".join(f"$(MAKE) -C {folder} {argument}" for argument in arguments or ("",)).rstrip()

    return {"extract": extract, "unpack": unpack, "pkmv": pkmv, "mvman": mvman, "confflags": confflags,
            "configure": configure, "make": make, "confarch": lambda: gnu_arch(arch),
            "buildarch": lambda: arch, "hostarch": lambda: hostarch}


def gnu_arch(arch: str) -> str:
    """What GNU's configure calls ARCH."""
    return "i386" if arch == "x86" else arch


def clean_path(path: str) -> str:
    """PATH without doubled slashes, dots and its leading slash: a place below out/PACKAGE."""
    return os.path.normpath("/" + path).lstrip("/")


# ---- sources ----

def make_source(recipe: Recipe, urls: List[str], place: str) -> Source:
    """The source with the alternatives URLS, each with the hash that its bytes must have."""
    name = source_name(urls[0], place)
    first = hash_of(recipe, urls[0], name)
    alternatives = []
    for url in urls:
        own = hash_of(recipe, url, source_name(url, place))
        alternatives.append(Alternative(without_hash(url), own or first))
    mirrored = [Alternative(prefix.rstrip("/") + "/" + name, first) for prefix in recipe.fields["mirrors"]]
    source = Source(name, tuple(alternatives + mirrored), place)
    if source.is_local:
        local_path(recipe, source)
    return source


def source_name(url: str, place: str) -> str:
    """The file name that URL has in src/: the base name of its path."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Fail(f"{place}: {url!r} begins with none of {', '.join(s + ':' for s in SCHEMES)}")
    path = url.partition(":")[2].partition("?")[0]
    name = urllib.parse.unquote(os.path.basename(path)) if scheme in WEB else os.path.basename(path)
    if not name or name in (".", "..") or name[0] == "-" or "/" in name or not name.isprintable():
        raise Fail(f"{place}: {url!r} ends in no usable file name")
    if any(not character.isprintable() or character == " " for character in url) and scheme in WEB:
        raise Fail(f"{place}: {url!r} has blanks or control characters; write them as %20")
    if scheme == "deb-src" and not DEB_SRC.fullmatch(url.partition("?")[0]):
        raise Fail(f"{place}: {url!r} is not deb-src:PACKAGE/FILE or deb-src:PACKAGE=VERSION/FILE")
    return name


WEB = ("https", "http", "ftp")
SCHEMES = (*WEB, "file", "self", "deb-src")
DEB_SRC = re.compile(r"deb-src:([a-z0-9][a-z0-9+.-]*(?:=[0-9A-Za-z][0-9A-Za-z.+:~-]*)?)/([^/]+)")
HASH_QUERY = re.compile(r"[?&](?:sha256sum|hash)=([^&]*)")


def without_hash(url: str) -> str:
    return HASH_QUERY.sub("", url)


def hash_of(recipe: Recipe, url: str, name: str) -> Optional[str]:
    """The sha256 that the recipe gives for URL: in the URL itself, or in its map."""
    if url.startswith(("file:", "self:")):
        return None
    match = HASH_QUERY.search(url)
    digest = match[1] if match else recipe.fields["sha256"].get(name)
    if digest and not SHA256.fullmatch(digest):
        raise Fail(f"{recipe.path}: {url}: its hash is not 64 digits 0-9a-f")
    return digest or None


def local_path(recipe: Recipe, source: Source) -> str:
    """Where the file: or self: source lies. Nothing outside its folder is taken, by no link either."""
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
            raise Fail(f"{source.place}: {source.name} has no sha256; "
                       f"`pkggen.py hash {recipe.folder}` fetches it and writes one")


# ==== Makefiles ========================================================================================
#
# A script passes through make once, so that $(MAKE), $(shell ...) and $$x mean there what they mean in any
# makefile. It stands in a `define`, which keeps blanks, tabs, # and leading @ - + as they are; the rule has
# make write the expanded text to a file, which one shell runs. Two things would not survive a define, a
# backslash at a line's end and a line that looks like endef or define: both are written as expansions.

BUILD_MK = """\
# {name} {version} for {arch}: written by pkggen.py from {recipe}
#   make -f build.mk SRCTAR=src.tar gentars    builds it by hand: src.tar holds src/, TAROUT gets the tars
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
    if recipe.arch not in GNU_TRIPLETS:
        raise Fail(f"--arch {recipe.arch}{did_you_mean(recipe.arch, GNU_TRIPLETS)}")
    return BUILD_MK.format(
        name=recipe.name, version=recipe.version, recipe=recipe.name + "/" + RECIPE_FILE, epoch=EPOCH,
        arch=recipe.arch, hostarch=recipe.hostarch, gnu=GNU_TRIPLETS[recipe.arch],
        packages=" ".join(recipe.packages), script=quote_script(recipe.script),
        check=quote_script(recipe.check))


def source_target(source: Source) -> str:
    """The file in the cache that the source is, as a makefile names it.

    Alternatives may have other bytes and then another name there: the one that is there counts.
    """
    hashes = list(dict.fromkeys(alternative.sha256 for alternative in source.alternatives))
    if None in hashes:
        return f"$(SOURCES)/{source.name}-has-no-sha256".replace(" ", "_").replace("$", "$$")
    files = [f"$(SOURCES)/{digest}" for digest in hashes]
    if len(files) == 1:
        return files[0]
    return f"$(firstword $(wildcard {' '.join(files)}) {files[0]})"


def source_rule(recipe: Recipe, source: Source) -> str:
    if any(alternative.sha256 is None for alternative in source.alternatives):
        problem = f"{source.place}: {source.name} has no sha256; pkggen.py hash {recipe.folder} writes one"
        return f"{source_target(source)}:\n\t@{quote_command(['echo', 'pkggen: ' + problem])} >&2; exit 1\n"
    urls = [with_hash(alternative) for alternative in source.alternatives]
    command = quote_command(["fetch", "--name", source.name, *urls])
    return f"{source_target(source)}:\n\t@$(PKGGEN) {command} --sources $(SOURCES)\n"


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
    return FETCH_MK.format(names=", ".join(recipe.name for recipe in recipes), pkggen=pkggen_command(),
                           targets="".join(f" \\\n\t{target}" for target in rules),
                           rules="".join("\n" + rule for rule in rules.values()))


def metadata(recipe: Recipe) -> Dict[str, Any]:
    """What lpkg pack needs to know of the recipe (docs/lpkg.md: META)."""
    fields = recipe.fields
    packages = {}
    for name, package in recipe.packages.items():
        packages[name] = {
            "summary": package["summary"] or fields["summary"],
            "depends": [text for text in package["dependencies"] if text],
            **{key: package[key] for key in ("provides", "conflicts", "conffiles", "services", "owners")},
        }
    return {"recipe": recipe.name, "version": recipe.version, "arch": recipe.arch,
            "license": fields["license"], "url": fields["url"], "packages": packages}


# ==== What went into a build ===========================================================================
#
# NAME.built records the hash of everything that went into the last good build of a recipe, and the packages
# that came out. A recipe is fresh while its inputs have those very hashes. The packages of its build
# dependencies are inputs by their own hash: rebuilt to the same bytes, they change nothing (early cutoff).

class Built(NamedTuple):
    """The record of a good build; `packages` maps names to {file, size, sha256, depends, provides}."""
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
                self.add(name[:-len(".built")], self.read(name))

    def read(self, name: str) -> Built:
        path = os.path.join(self.records, name)
        try:
            with open(path, encoding="utf-8") as file:
                return Built(**json.load(file))
        except (ValueError, TypeError, OSError) as error:
            raise Fail(f"{path}: unreadable ({error}); remove it, and the recipe is built again") from None

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
        """The record of the package named, or of the one that provides it; None when it isn't built."""
        packages = self.built[self.makers[package]].packages if package in self.makers else {}
        provided = [facts for facts in packages.values()
                    if package in [relation_name(text) for text in facts["provides"]]]
        return packages.get(package) or (provided[0] if provided else None)

    def is_here(self, built: Built) -> bool:
        paths = [os.path.join(self.repository, facts["file"]) for facts in built.packages.values()]
        sizes = [facts["size"] for facts in built.packages.values()]
        return all(os.path.isfile(path) and os.path.getsize(path) == size
                   for path, size in zip(paths, sizes))

    def builder(self) -> Tuple[str, str]:
        """(image, hash of its definition and its package list), as world/builder wrote them."""
        path = os.path.join(self.records, "builder")
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            return "", ""
        return text.partition("\n")[0], hash_text(text)


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def relation_name(relation: str) -> str:
    """The name in `name`, `name>=1.2` and the like; empty for `!name`, which is no need."""
    return "" if relation.startswith("!") else re.split(r"[<>=~]", relation)[0]


def sysroot_packages(recipe: Recipe, work: Work) -> Dict[str, Optional[Dict[str, Any]]]:
    """The packages in the recipe's sysroot: its build dependencies with all that they depend on.

    The value is the package's record, None where it isn't built.
    """
    wanted = [name for name in map(relation_name, recipe.fields["builddependencies"])
              if name and name not in BUILDER_TOOLS]
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
            hash_file(local_path(recipe, source)) if source.is_local else " ".join(hashes))
    for name, facts in sysroot_packages(recipe, work).items():
        inputs[f"package {name}"] = facts["sha256"] if facts else ""
    return inputs


def is_fresh(recipe: Recipe, work: Work) -> bool:
    built = work.built.get(recipe.name)
    return built is not None and built.inputs == build_inputs(recipe, work) and work.is_here(built)


# ==== A tree of recipes ================================================================================

class Tree:
    """Every recipe below a folder; what can't be built is in `problems`, by name, as one line of text."""

    def __init__(self, folder: str, options: argparse.Namespace) -> None:
        self.recipes: Dict[str, Recipe] = {}
        self.problems: Dict[str, str] = {}
        self.makers: Dict[str, str] = {}
        for path in find_recipes(folder):
            self.load(path, options)
        self.find_makers()
        for name in list(self.recipes):
            self.check_needs(name)
        self.order = self.sort()

    def load(self, path: str, options: argparse.Namespace) -> None:
        name = os.path.basename(os.path.dirname(os.path.abspath(path)))
        try:
            recipe = load_recipe(path, options)
        except Fail as problem:
            self.problems[name] = str(problem)
            return
        if name in self.recipes:
            self.problems[name] = f"{path}: a second recipe named {name}, beside {self.recipes[name].path}"
        elif not recipe.fields["arch"] or recipe.arch in recipe.fields["arch"]:
            self.recipes[name] = recipe

    def find_makers(self) -> None:
        for name, recipe in self.recipes.items():
            for package in recipe.packages:
                other = self.makers.setdefault(package, name)
                if other != name:
                    self.problems[name] = f"{recipe.path}: {self.recipes[other].path} makes {package} too"
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
        for dependency in self.needs(recipe):
            if dependency not in self.makers:
                self.problems.setdefault(name, f"{recipe.path}: no recipe makes the build dependency "
                                               f"{dependency}{did_you_mean(dependency, self.makers)}")

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

    def before(self, name: str) -> List[str]:
        """The recipes that must be built before NAME."""
        return [other for other in self.installed_with(self.needs(self.recipes[name]))]

    def sort(self) -> List[str]:
        """The recipes, each after those it needs. A recipe in a cycle, or behind one, is a problem."""
        order: List[str] = []
        before = {name: self.before(name) for name in self.recipes}
        waiting = dict(before)
        while waiting:
            ready = [name for name, needs in waiting.items() if not any(need in waiting for need in needs)]
            if not ready:
                self.report_cycle(before, waiting)
                break
            order += ready
            waiting = {name: needs for name, needs in waiting.items() if name not in ready}
        return order

    def report_cycle(self, before: Dict[str, List[str]], waiting: Dict[str, List[str]]) -> None:
        """Every waiting recipe waits for another: walked from any, the walk comes back to one it passed."""
        path = [next(iter(waiting))]
        while path[-1] not in path[:-1]:
            path.append(next(need for need in before[path[-1]] if need in waiting))
        cycle = " -> ".join(path[path.index(path[-1]):])
        for name in waiting:
            self.problems.setdefault(name, f"{self.recipes[name].path}: build dependencies in a cycle: "
                                           f"{cycle}; one of them has to go")


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
    """The recipes that have to be built, and those that may have to be, since they come after one."""
    stale: Dict[str, None] = {}
    for name in tree.order:
        recipe = tree.recipes[name]
        if name in tree.problems:
            continue
        if any(need in stale for need in tree.before(name)) or not is_fresh(recipe, work):
            stale[name] = None
    return list(stale)


def world_mk(folder: str, tree: Tree, work: Work) -> str:
    stale = stale_recipes(tree, work)
    names = sorted({*tree.recipes, *tree.problems})
    packages = sorted(tree.makers)
    rules = [recipe_rule(tree, name, name in stale) for name in names]
    rules += [f"package/{name}: {' '.join('recipe/' + maker for maker in tree.installed_with([name]))}\n"
              for name in packages]
    rules += fetch_rules(tree.recipes[name] for name in stale).values()
    phony = [f"recipe/{name}" for name in names] + [f"package/{name}" for name in packages]
    return WORLD_MK.format(folder=folder, arch=work.arch, pkggen=pkggen_command(),
                           phony="".join(f" \\\n\t{target}" for target in phony),
                           all="".join(f" recipe/{name}" for name in names),
                           rules="".join("\n" + rule for rule in rules))


def recipe_rule(tree: Tree, name: str, stale: bool) -> str:
    if name in tree.problems:
        problem = quote_command(["echo", "pkggen: " + printable(tree.problems[name])])
        return f"recipe/{name}:\n\t@{problem} >&2; exit 1\n"
    recipe = tree.recipes[name]
    needs = [f"recipe/{other}" for other in tree.before(name)]
    if not stale:
        return f"recipe/{name}: {' '.join(needs)}".rstrip() + "\n"
    needs += [source_target(source) for source in recipe.sources if not source.is_local]
    command = quote_command([recipe.folder, "--arch", recipe.arch, "--hostarch", recipe.hostarch])
    return f"recipe/{name}: {' '.join(needs)}".rstrip() + f"\n\t@$(PKGGEN) build {command}\n"


# ==== Fetching =========================================================================================
#
# A source is fetched into the cache under its hash: first HASH.part, which a later run goes on with, then,
# once its bytes have that hash, HASH. The lock is on the .part file, so two makes never write into one.

class Unreachable(Exception):
    """Why one place did not give a source; the next one is tried."""


DEAD_SECONDS = 60       # for so long a host that gave no answer is not asked again


def fetch_source(name: str, alternatives: Iterable[Alternative], folder: str) -> str:
    """The path of the source in the cache FOLDER, fetched from the first alternative that has it.

    Raises Fail when none has, with what each of them said.
    """
    alternatives = list(alternatives)
    for alternative in alternatives:
        path = os.path.join(folder, alternative.sha256 or "")
        if os.path.isfile(path):
            return path
    os.makedirs(folder, exist_ok=True)
    reasons = []
    for alternative in alternatives:
        try:
            return fetch_alternative(name, alternative, os.path.join(folder, alternative.sha256), folder)
        except Unreachable as reason:
            reasons.append(f"{alternative.url}: {reason}")
    raise Fail(f"{name}: no source has it: {'; '.join(reasons)}; "
               f"bring the file by hand as {os.path.join(folder, alternatives[0].sha256)}")


def fetch_alternative(name: str, alternative: Alternative, path: str, folder: str) -> str:
    with lock_part(path + ".part") as part:
        if os.path.isfile(path):        # another fetch brought it while this one waited
            os.unlink(part.name)
            return path
        started = time.monotonic()
        download(alternative.url, part, name, folder)
        digest = hash_file(part.name)
        if alternative.sha256 not in (None, digest):
            os.unlink(part.name)
            raise Unreachable(f"has other bytes: sha256 {digest}, and the recipe wants {alternative.sha256}")
        size = os.path.getsize(part.name)
        os.replace(part.name, path)
    seconds = time.monotonic() - started
    say(f"fetch   {name}: {human_size(size)} from {source_host(alternative.url)} in {seconds:.0f} s")
    return path


def source_host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or url.partition(":")[0]


def lock_part(path: str) -> Any:
    """Open PATH for reading and writing, locked; it stays when it is closed."""
    while True:
        file = open(path, "r+b", buffering=0, opener=open_or_create)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
        file.close()        # whoever held the lock has renamed the file meanwhile


def open_or_create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def download(url: str, part: Any, name: str, folder: str) -> None:
    """Bring what URL names into the open file PART."""
    if url.startswith("deb-src:"):
        part.truncate(0)
        download_by_apt(url, part, name, folder)
        return
    host = source_host(url)
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
    headers = {"User-Agent": f"pkggen/{VERSION}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as reply:
            if getattr(reply, "status", None) != 206:
                have = 0
                part.truncate(0)
            part.seek(have)
            receive(reply, part, have, name)
    except urllib.error.HTTPError as error:
        if error.code == 416:           # nothing after HAVE: what is there is of another file, or whole
            part.truncate(0)
            raise Cut("what was there did not fit") from None
        raise Unreachable(f"{error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise NoAnswer(str(getattr(error.reason, "strerror", None) or error.reason)) from None
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


# ---- deb-src: the original tarball, by the host's own apt with a configuration of our own ----

def download_by_apt(url: str, part: Any, name: str, folder: str) -> None:
    """Bring the source package's file. The release's own archive is asked first, since it no longer changes.

    With the archive of updates beside it apt would take the same version from there, where old files go.
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


def apt_source(package: str, wanted: str, state: str, lines: List[str], part: Any, name: str) -> None:
    options = apt_options(os.path.abspath(state), lines)
    with tempfile.TemporaryDirectory(prefix="panux-apt-") as place:
        run_apt([*options, "source", "--tar-only", "--download-only", package], place, name)
        path = os.path.join(place, wanted)
        if not os.path.isfile(path):
            raise Unreachable(f"apt brought {', '.join(sorted(os.listdir(place))) or 'nothing'} instead")
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(CHUNK), b""):
                part.write(chunk)


def apt_options(state: str, lines: List[str]) -> List[str]:
    """Options that give apt the source LINES and a state of its own in STATE, renewed once a day."""
    os.makedirs(os.path.join(state, "lists", "partial"), exist_ok=True)
    sources = os.path.join(state, "sources.list")
    options = ["-q", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null",
               "-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}",
               "-o", "APT::Sandbox::User=root"]
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
    """deb-src lines for the archives that this machine's apt already uses, signed by Debian's keyring."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
               "Created-By: Packages"]
    try:
        text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise Unreachable("this machine has no apt; deb-src: needs Debian's") from None
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={keyring}] " if os.path.exists(keyring) else ""
    rows = [line.split() for line in text.decode().splitlines()]
    lines = {f"deb-src {signed}{row[0]} {row[1]} {row[2]}\n" for row in rows
             if len(row) == 4 and row[3] == "Debian"}
    if not lines:
        raise Unreachable("this machine's apt uses no archive of Debian's; `apt-get update` may be due")
    return sorted(lines)


def run_apt(arguments: List[str], folder: str, name: str) -> None:
    process = subprocess.Popen(["apt-get", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env={**os.environ, "LC_ALL": "C"})
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
        reasons = [line[3:] for line in errors if line.startswith("E: ")] or errors or ["no reason given"]
        raise Unreachable(f"apt: {reasons[0]}")


def folder_size(folder: str) -> int:
    size = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            size += entry.stat(follow_symlinks=False).st_size
    return size


# ==== Building =========================================================================================

class Interrupted(BaseException):
    """A signal asked this process to end; raised wherever it is, so that what it began is undone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


# What is run in the container, its stdin the input tar: all of it goes on in one place, /build, as root.
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
    with tempfile.TemporaryFile(dir=work.logs) as tar_in, tempfile.TemporaryFile(dir=work.logs) as tar_out:
        write_input(recipe, work, tar_in)
        run_build(recipe, work, tar_in, tar_out, before.seconds if before else 0)
        packages = pack(recipe, work, tar_out)
    built = Built(inputs, packages, round(time.monotonic() - started, 1))
    work.record(recipe.name, built)
    remove_former(work, before, built)
    size = sum(facts["size"] for facts in packages.values())
    same = ", the same bytes as before" if before and before.packages == packages else ""
    say(f"built   {recipe.name} {recipe.version}: {len(packages)} packages, {human_size(size)}, "
        f"{built.seconds:.0f} s{same}")


def write_input(recipe: Recipe, work: Work, file: Any) -> None:
    """Write the tar that goes in: build.mk, src/ and, as a tar in the tar, the sysroot."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add_bytes(tar, "build.mk", build_mk(recipe).encode())
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
    """Add the source under src/. What comes from the cache is copied and hashed: the copy is what goes in."""
    if source.is_local:
        path = local_path(recipe, source)
        with open(path, "rb") as file:
            add_file(tar, "src/" + source.name, file, os.stat(path).st_mode & 0o755 | 0o644)
        return
    path = fetch_source(source.name, source.alternatives, SOURCES)
    with open(path, "rb") as cached, tempfile.TemporaryFile(dir=SOURCES) as copy:
        digest = hashlib.sha256()
        for chunk in iter(lambda: cached.read(CHUNK), b""):
            digest.update(chunk)
            copy.write(chunk)
        if digest.hexdigest() != os.path.basename(path):
            raise Fail(f"{path}: its bytes are no longer those of {source.name}; remove it, it is fetched again")
        add_file(tar, "src/" + source.name, copy)


def write_sysroot(recipe: Recipe, work: Work, packages: Dict[str, Optional[Dict]], file: Any) -> None:
    """Have lpkg write the tar of the root folder that holds PACKAGES, each checked against its record."""
    paths = []
    for name, facts in packages.items():
        if facts is None:
            raise Fail(f"{recipe.path}: it needs {name}, which is not built; "
                       f"`make world PKG={next(iter(recipe.packages))}` builds that first")
        path = os.path.join(work.repository, facts["file"])
        if not os.path.isfile(path) or hash_file(path) != facts["sha256"]:
            raise Fail(f"{path}: not the file that was built; remove it, and {name} is built again")
        paths.append(os.path.abspath(path))
    run_lpkg(["bootstrap", "--tar", "-", "--allow-unsigned", "--no-database", *paths], None, file)


def run_lpkg(arguments: List[str], stdin: Any, stdout: Any) -> None:
    command = [sys.executable, os.path.join(HERE, "lpkg.py"), *arguments]
    with tempfile.TemporaryFile() as errors:
        status = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=errors)
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()
    if status.returncode:
        raise Fail(text.splitlines()[-1] if text else f"lpkg {arguments[0]} ended with {status.returncode}")


def run_build(recipe: Recipe, work: Work, tar_in: Any, tar_out: Any, usual: float) -> None:
    """Run the build: TAR_IN to its stdin, its stdout to TAR_OUT, its stderr to the log.

    USUAL is what the last build took, in seconds (0: not known). Raises Fail when the build fails.
    """
    image = work.builder()[0]
    if not image and "$IMAGE" in RUN:
        raise Fail(f"there is no builder image; `world/engine world/builder` makes it, `make world` does both")
    name = f"panux-{re.sub('[^A-Za-z0-9_.-]', '-', recipe.name)}-{os.getpid()}"
    log = os.path.join(work.logs, recipe.name + ".log")
    environment = {**os.environ, "BUILD": name, "IMAGE": image}
    command = f"exec {RUN} sh -c {shlex.quote(IN_CONTAINER)}"
    process = subprocess.Popen(["sh", "-c", command], stdin=tar_in, stdout=tar_out, stderr=subprocess.PIPE,
                               env=environment, start_new_session=True)
    try:
        with open(log, "wb") as file:
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
            progress(f"build   {name}: {now - started:.0f} s{expected}  {line.decode(errors='replace').strip()}")


def stop_build(process: subprocess.Popen, environment: Dict[str, str]) -> None:
    """End a build that is still running; RUN's own end does not end what it began elsewhere.

    RUN_STOP finds nothing while the container is still being made, so it is asked until RUN ends.
    """
    deadline = time.monotonic() + 20
    while process.poll() is None:
        subprocess.run(["sh", "-c", RUN_STOP], env=environment, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)


def failure(recipe: Recipe, log: str, status: int) -> str:
    """What to say of a build that ended with STATUS, after the last lines of its log are shown."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    if status in (125, 126, 127):       # what docker says when it ran nothing
        reason = lines[0] if lines else f"status {status}"
        return f"{recipe.name}: the build could not be started: {reason}; `docker info` tells more"
    for line in lines[-LOG_LINES:]:
        say(f"  {line}")
    what = "input or output was cut" if status == 100 else f"status {status}"
    return f"{recipe.name} {recipe.version}: the build failed ({what}); the whole log is {log}"


def pack(recipe: Recipe, work: Work, tar_out: Any) -> Dict[str, Dict[str, Any]]:
    """Have lpkg make the packages of what came out, and give their records."""
    meta = metadata(recipe)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, tempfile.TemporaryFile("w+") as listing:
        json.dump(meta, file)
        file.flush()
        run_lpkg(["pack", "--meta", file.name, "-o", work.repository], tar_out, listing)
        listing.seek(0)
        rows = [line.split() for line in listing]
    return {name: {"file": path, "size": int(size), "sha256": digest,
                   "depends": meta["packages"][name]["depends"], "provides": meta["packages"][name]["provides"]}
            for name, path, size, digest in rows}


def remove_former(work: Work, before: Optional[Built], built: Built) -> None:
    """Remove the package files of the build before that this one did not make again."""
    files = {facts["file"] for facts in built.packages.values()}
    for facts in before.packages.values() if before else ():
        if facts["file"] not in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(work.repository, facts["file"]))


# ==== Commands =========================================================================================

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
    output(options, world_mk(options.folder, tree, work))
    if not stale and not tree.problems:
        packages = sum(len(tree.recipes[name].packages) for name in tree.recipes)
        say(f"world   nothing to build: {len(tree.recipes)} recipes, {packages} packages are up to date")
        return
    missing = [target for target in fetch_rules(tree.recipes[name] for name in stale)
               if not os.path.exists(target.replace("$(SOURCES)", SOURCES))]
    known = [work.built[name].seconds for name in stale if name in work.built]
    seconds = f", about {sum(known):.0f} s when all change" if len(known) == len(stale) else ""
    say(f"world   {len(stale)} of {len(tree.recipes)} recipes to build or to look at, "
        f"at most {len(missing)} sources to fetch{seconds}")


def cmd_meta(options: argparse.Namespace) -> None:
    output(options, json.dumps(metadata(load_recipe(options.recipe, options)), indent=1) + "\n")


def cmd_build(options: argparse.Namespace) -> None:
    for recipe in load_all(options):
        build_recipe(recipe, Work(options.arch))


def cmd_fetch(options: argparse.Namespace) -> None:
    """Fetch one file. Each URL may bear its own hash as ?sha256sum=, for which --sha256 stands in."""
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
        print(fetch_source(name, alternatives, options.sources))
        return
    folder = os.path.dirname(os.path.abspath(options.output))
    os.replace(fetch_source(name, alternatives, folder), options.output)


def cmd_hash(options: argparse.Namespace) -> None:
    """Fetch every source and write what it hashes to into the recipe's sha256 map, all else as it was."""
    for recipe in load_all(options):
        hashes = {}
        for source in recipe.sources:
            for alternative in () if source.is_local else source.alternatives:
                name = source_name(alternative.url, source.place)
                hashes.setdefault(name, fetched_hash(name, alternative.url))
        found = {name: digest for name, digest in hashes.items() if digest}
        missing = [source.name for source in recipe.sources
                   if not source.is_local and not any(
                       source_name(alternative.url, source.place) in found for alternative in source.alternatives)]
        if missing:
            raise Fail(f"{recipe.path}: none of the places of {missing[0]} answers; nothing is written")
        with open(recipe.path, encoding="utf-8") as file:
            text = file.read()
        write_atomic(recipe.path, with_hashes(text, found).encode())
        say(f"hash    {recipe.path}: {len(found)} written")


def fetched_hash(name: str, url: str) -> Optional[str]:
    """The sha256 of what URL names now, kept in the cache; None when it can't be had."""
    os.makedirs(SOURCES, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=SOURCES) as folder:
            path = fetch_alternative(name, Alternative(url, None), os.path.join(folder, "file"), SOURCES)
            digest = hash_file(path)
            os.replace(path, os.path.join(SOURCES, digest))
            return digest
    except Unreachable as reason:
        say(f"hash    {url}: {reason}")
        return None


def with_hashes(text: str, hashes: Dict[str, str]) -> str:
    """A recipe's TEXT with HASHES in its sha256 map; comments and all other lines stay."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if re.match(r"sha256:\s*(#.*)?$", line)), None)
    if start is None:
        after = [field.key for field in RECIPE_FIELDS]
        after = after[after.index("sha256") + 1:]
        start = next((index for index, line in enumerate(lines)
                      if line.partition(":")[0] in after), len(lines))
        lines.insert(start, "sha256:")
    left = dict(hashes)
    end = start + 1
    while end < len(lines) and re.match(r"\s|#|$", lines[end]):
        match = re.match(r"(\s+)([^\s:#]+)(:\s*)(\S*)(.*)$", lines[end])
        if match and match[2] in left:
            lines[end] = match[1] + match[2] + ": " + left.pop(match[2]) + match[5]
        end += 1
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1
    lines[end:end] = [f"  {name}: {digest}" for name, digest in left.items()]
    return "\n".join(lines) + "\n"


def output(options: argparse.Namespace, text: str) -> None:
    if options.output:
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        write_atomic(options.output, text.encode())
    else:
        sys.stdout.write(text)


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
        self.exit(2, f"pkggen: {message}; `{self.prog} --help` lists what there is\n")


def parse_arguments(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = ArgumentParser(prog="pkggen.py", description="Turn YAML recipes into makefiles, and run them.")
    parser.add_argument("--version", action="version", version=f"pkggen {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, (what, arguments, _) in COMMANDS.items():
        command = verbs.add_parser(verb, help=what, description=what)
        for name in arguments:
            command.add_argument(name.rstrip("."), nargs="+" if name.endswith("...") else None)
        add_options(command, verb)
    return parser.parse_args(argv)


def add_options(command: argparse.ArgumentParser, verb: str) -> None:
    command.add_argument("-o", dest="output", metavar="FILE", help="write to FILE instead of stdout")
    if verb == "fetch":
        command.add_argument("--sha256", help="the hash that the file must have")
        command.add_argument("--name", help="what to call it in messages")
        command.add_argument("--sources", default=SOURCES, help="cache of files by hash (%(default)s)")
        return
    machine = os.uname().machine
    command.add_argument("--arch", default=os.environ.get("ARCH") or machine, help="compile for (%(default)s)")
    command.add_argument("--hostarch", default=None, help="compile on (the same)")
    command.add_argument("-D", dest="define", action="append", default=[], metavar="KEY=VALUE",
                         help="a value for .Data of the templates")
    command.add_argument("--lenient", action="store_true", help="unknown keys are warnings")


def parse_definitions(definitions: List[str]) -> Dict[str, str]:
    for text in definitions:
        if "=" not in text:
            raise Fail(f"-D {text}: no `=`; write -D KEY=VALUE")
    return dict(text.split("=", 1) for text in definitions)


def interrupt(number: int, frame: Any) -> None:
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, signal.SIG_IGN)       # once: what was begun is being undone
    raise Interrupted(number)


def main(argv: Optional[List[str]] = None) -> int:
    options = parse_arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        options.data = parse_definitions(getattr(options, "define", []))
        COMMANDS[options.verb][2](options)
    except Fail as problem:
        say(f"pkggen: {problem}")
        return 1
    except OSError as error:
        say(f"pkggen: {error.filename or options.verb}: {error.strerror}")
        return 1
    except Interrupted as signal_received:
        say(f"pkggen: stopped by {signal_received}; what was finished stays, and the next run goes on from it")
        return 128 + signal_received.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
