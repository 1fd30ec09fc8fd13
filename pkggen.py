#!/usr/bin/env python3
"""pkggen: turn YAML recipes into makefiles, and run them.

    pkggen.py new less deb-src:less             write a recipe for a source
    pkggen.py build recipes/core/less           build its packages in a container
    pkggen.py world-mk recipes -o world.mk      a makefile that builds every recipe of a tree

A recipe is a directory with a pkgen.yaml; its script is a Go text/template. From a recipe come two
makefiles: fetch.mk gets and verifies the sources on this machine, build.mk builds them anywhere. A
build is a filter: one tar goes in (build.mk, setup.sh, sources, sysroot), one tar comes out
(out/PACKAGE/..., .status), the log is stderr.

The idea is in five functions: load_recipe (YAML to values and a script), build_mk (the script as a
makefile), build_inputs (what a build depends on), build_now (a build, and a look at what comes
out), world_mk (which builds come before which).

Files, below $O (build): sources/ is the cache of sources by hash (or $SOURCES); ARCH/mk/NAME.built
says what went into the last good build of a recipe and what came out; ARCH/log/NAME.log is its log;
repo/ARCH/ holds the packages; fetch/ has apt's lists and which hosts are dead.

Invariant: nothing whose hash is not the recipe's own word reaches a build, and a recipe counts as
built only when all that went in is, by its hash, what went into the last good build.
"""

from __future__ import annotations  # they need the lazy modules below

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    del sys.path[0]  # this script's own folder: a json.py that lies beside it must have no effect

import argparse
import collections
import contextlib
import copy
import fcntl
import functools
import importlib
import io
import itertools
import math
import os
import re
import signal
import stat
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

try:
    import yaml
except ImportError:
    sys.exit("pkggen: PyYAML is missing; `apt-get install python3-yaml`, or `pip install PyYAML`")


class Lazy:
    """A module that is loaded at its first use: `script` needs none of these, and must be quick.

    For the same reason a pattern that loading a recipe doesn't need is text until it is used.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.name), attribute)


hashlib, json, shlex = Lazy("hashlib"), Lazy("json"), Lazy("shlex")
subprocess, tarfile, tempfile = Lazy("subprocess"), Lazy("tarfile"), Lazy("tempfile")
textwrap = Lazy("textwrap")

VERSION = "0.1"
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.environ.get("O") or "build"
SOURCES = os.environ.get("SOURCES") or os.path.join(OUT, "sources")
# The builder and what runs a build in it. $BUILD names the build, $IMAGE the image that
# world/builder made.
RUN = os.environ.get("RUN") or (
    "docker run --rm -i --network none --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE "
    "--cap-add FOWNER --security-opt no-new-privileges --pids-limit 4096 --memory 16g "
    "--ulimit fsize=17179869184 --name $BUILD $IMAGE")
RUN_STOP = os.environ.get("RUN_STOP") or "docker rm -f $BUILD"

RECIPE_FILE = "pkgen.yaml"
RECIPE_LIMIT = 1 << 20  # bytes of a pkgen.yaml
NESTING_LIMIT = 50  # lists and maps in one another in a pkgen.yaml; PyYAML recurses, on C's stack
NUMBER_LIMIT = 40  # characters of a number there; 1:1:1:... (base 60) takes quadratic time
CHUNK = 1 << 18  # bytes read at a time
TIMEOUT = 30  # seconds that a server may stay silent
PAGE_LIMIT = 1 << 22  # bytes of a listing that `outdated` reads
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
    "autoconf automake autopoint bash bc binutils bison bzip2 cmake coreutils cpio diffutils ed "
    "file findutils flex gawk gcc gettext gperf grep gzip libtool lzip m4 make meson ninja patch "
    "perl pkg-config pkgconf pkgconfig python3 rsync sed sh tar texinfo unzip xz zstd".split()
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


# ==== The schema of a recipe ======================================================================
#
# A shape is a kind of value. The tables of fields below say which keys a recipe may have, in the
# order in which they are written, and the shapes of their values.

QUOTE = "quote it, or write a `- |` block"


class Shape(NamedTuple):
    """What makes a value of a node of YAML, its JSON Schema, and the value of an absent key."""

    read: Callable[[Reader, Any, str], Any]
    schema: Dict[str, Any]
    empty: Callable[[], Any] = str


class Field(NamedTuple):
    """A key of a recipe, the shape of its value, and what it is for."""

    key: str
    shape: Shape
    what: str


def read_text(reader: Reader, node: Any, what: str) -> str:
    """Text as the file spells it: `version: 1.10` is "1.10" and never a float."""
    if not isinstance(node, yaml.ScalarNode):
        kind = "map" if isinstance(node, yaml.MappingNode) else "list"
        raise reader.fail(node, f"YAML makes a {kind} of {what}, which is text; {QUOTE}")
    return "" if is_null(node) else node.value


def read_integer(reader: Reader, node: Any, what: str) -> int:
    text = read_text(reader, node, what)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise reader.fail(node, f"{what} is {text!r}, not a whole number from 0 up")
    return int(text)


def read_boolean(reader: Reader, node: Any, what: str) -> bool:
    value = read_any(reader, node, what)
    if not isinstance(value, bool):
        raise reader.fail(node, f"{what} is neither true nor false")
    return value


def read_any(reader: Reader, node: Any, what: str) -> Any:
    """A value of YAML's own type, for .Data: what yaml.v2 makes of it, maps' keys included."""
    if isinstance(node, yaml.SequenceNode):
        return [read_any(reader, item, what) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return scalar(reader, node, what)
    pairs = reader.pairs(node, what, read_data_key)
    return {key: read_any(reader, value, f"{what}.{key}") for key, _, value in pairs}


def read_data_key(reader: Reader, node: Any, what: str) -> Any:
    """A key of a map in .Data: a number or a truth stays one, anything else is text."""
    text = read_text(reader, node, what)
    value = scalar(reader, node, what)
    return value if isinstance(value, (int, float)) else text


def read_source(reader: Reader, node: Any, what: str) -> Tuple[List[str], str]:
    """([alternative, ...], place)"""
    is_list = isinstance(node, yaml.SequenceNode)
    urls = TEXTS.read(reader, node, what) if is_list else [read_text(reader, node, what)]
    if not urls or not all(urls):
        raise reader.fail(node, "an empty source; give a URL, or leave the line out")
    return urls, mark_place(reader.path, node)


def list_of(item: Shape) -> Shape:
    def read(reader: Reader, node: Any, what: str) -> List[Any]:
        if is_null(node):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise reader.fail(
                node, f"{what} is not a list; write each of its items on a line after `- `")
        return [item.read(reader, x, f"an item of {what}") for x in node.value]

    return Shape(read, {"type": ["array", "null"], "items": item.schema}, list)


def map_of(value: Shape, read_key: Callable = read_text, **schema: Any) -> Shape:
    """A map whose keys are the recipe's own."""
    def read(reader: Reader, node: Any, what: str) -> Dict[str, Any]:
        pairs = reader.pairs(node, what, read_key)
        return {key: value.read(reader, x, f"{what}.{key}") for key, _, x in pairs}

    schema = {"type": ["object", "null"], "additionalProperties": value.schema, **schema}
    return Shape(read, schema, dict)


def fields_of(table: Tuple[Field, ...], *required: str) -> Shape:
    """A map whose keys are those of TABLE; those that are REQUIRED have a value."""
    def read(reader: Reader, node: Any, what: str) -> Dict[str, Any]:
        values = reader.struct(node, table, what)
        for key in required:
            if not values[key]:
                must = f"it must have {' and '.join(required)}"
                raise reader.fail(node, f"{what} has no {key}; {must}")
        return values

    properties = {field.key: {**field.shape.schema, "description": field.what} for field in table}
    schema = {"type": "object" if required else ["object", "null"], "properties": properties,
              "additionalProperties": False, "required": list(required)}
    return Shape(read, schema, dict)


def matching(pattern: re.Pattern, problem: str) -> Shape:
    """Text that matches PATTERN as a whole; the PROBLEM of another has a {!r} for it."""
    def read(reader: Reader, node: Any, what: str) -> str:
        text = read_text(reader, node, what)
        if not pattern.fullmatch(text):
            raise reader.fail(node, problem.format(text))
        return text

    return Shape(read, {**TEXT.schema, "pattern": f"^({pattern.pattern})$"})


def one_of(what: str, words: Callable[[], Iterable[str]]) -> Shape:
    """Text that is one of WORDS, each a WHAT."""
    def read(reader: Reader, node: Any, place: str) -> str:
        text = read_text(reader, node, place)
        if text not in words():
            hint = did_you_mean(text, filter(None, words()))
            raise reader.fail(node, f"unknown {what} {text!r}{hint}")
        return text

    return Shape(read, TEXT.schema)


NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9+._-]*")
PACKAGE_VERSION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9+._~-]*")
RELATION = re.compile(
    r"!?[A-Za-z0-9][A-Za-z0-9+._:-]*((>=|<=|=|>|<|~)[A-Za-z0-9][A-Za-z0-9+._~-]*)?")
SHA256 = re.compile(r"[0-9a-f]{64}")
PACKAGE_SCRIPTS = tuple(
    f"{when}-{what}" for what in ("install", "upgrade", "remove") for when in ("pre", "post"))
BUILDERS = {
    **dict.fromkeys(("", "default", "alpine", "panux", "docker"), "docker"),
    "bootstrap": "bootstrap"}

# YAML gives an unquoted 1.10 or `yes` to an editor as a number or a truth; it is text all the same.
TEXT = Shape(read_text, {"type": ["string", "number", "boolean", "null"]})
TEXTS, TEXT_MAP = list_of(TEXT), map_of(TEXT)
INTEGER = Shape(
    read_integer, {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]{1,9}$"}, int)
FALSE, TRUE = (  # when absent
    Shape(read_boolean, {"type": "boolean"}, empty) for empty in (bool, lambda: True))
ANY = Shape(read_any, {})
SOURCE = Shape(
    read_source, {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1})

VERSION_TEXT = matching(PACKAGE_VERSION, "version {!r}; use letters, digits and + . _ ~ -")
PACKAGE_NAME = matching(NAME, "{!r} is not a package name; use letters, digits and + . _ -")
RELATIONS = list_of(matching(RELATION, "{!r} is not NAME, NAME>=VERSION or the like"))
OWNER = matching(re.compile("[0-9]+:[0-9]+:[0-7]{3,4}"),
                 "{!r} is not UID:GID:MODE, as in 0:0:4755")
HASH = matching(re.compile(f"({SHA256.pattern})?"),
                "{!r} is not 64 digits 0-9a-f; empty it, and `pkggen.py hash` writes it")
SCRIPTS = map_of(TEXT, one_of("package script", lambda: PACKAGE_SCRIPTS).read)
ALLOW = map_of(TEXT, one_of("check", lambda: CHECKS).read)
PATH = Shape(lambda *arguments: read_text(*arguments).strip("/"), TEXT.schema)

ALTERNATIVE_FIELDS = (
    Field("path", PATH, "where the symlink is"),
    Field("target", TEXT, "where it points"),
    Field("priority", INTEGER, "the highest wins"),
)
ALTERNATIVES = list_of(fields_of(ALTERNATIVE_FIELDS, "path", "target"))

PACKAGE_FIELDS = (
    Field("dependencies", RELATIONS, "packages it needs to run"),
    Field("summary", TEXT, "one line; the recipe's when absent"),
    Field("provides", RELATIONS, "other names it answers to"),
    Field("conflicts", RELATIONS, "packages it can't be installed beside"),
    Field("replaces", RELATIONS, "packages whose place it takes"),
    Field("conffiles", TEXTS, "files that their owner may change"),
    Field("services", TEXTS, "init scripts it brings"),
    Field("owners", map_of(OWNER), "path to UID:GID:MODE"),
    Field("scripts", SCRIPTS, "shell to run when: " + ", ".join(PACKAGE_SCRIPTS)),
    Field("alternatives", ALTERNATIVES, "symlinks that other packages may offer as well"),
)
PACKAGES = map_of(
    fields_of(PACKAGE_FIELDS), PACKAGE_NAME.read, type="object", minProperties=1,
    propertyNames={"pattern": f"^{NAME.pattern}$"})

RECIPE_FIELDS = (
    Field("packages", PACKAGES, "the packages that come out, each with its dependencies"),
    Field("version", VERSION_TEXT, "upstream's version"),
    Field("build", INTEGER, "counts builds of one version; the full version is VERSION-BUILD"),
    Field("summary", TEXT, "one line that says what it is"),
    Field("license", TEXT, "SPDX licence expression"),
    Field("url", TEXT, "upstream's home page"),
    Field("arch", TEXTS, "architectures it builds for; all when absent"),
    Field("sources", list_of(SOURCE), "URLs, or lists of alternatives"),
    Field("mirrors", TEXTS, "URL prefixes that have the sources too"),
    Field("sha256", map_of(HASH), "source file name to its hash"),
    Field("builddependencies", TEXTS, "packages in the sysroot of the build"),
    Field("builder", one_of("builder", lambda: BUILDERS), "default, docker or bootstrap"),
    Field("nobootstrap", map_of(FALSE), "dependencies that its stage is not built without"),
    Field("cross", FALSE, "whether it can be built for another architecture"),
    Field("data", map_of(ANY), ".Data of the templates"),
    Field("script", TEXTS, "shell commands, a template"),
    Field("check", TEXTS, "shell commands that test the result, a template"),
    Field("strip", TRUE, "whether symbols are taken off ELF files (true)"),
    Field("allow", ALLOW, "check of what comes out that is switched off, to the reason"),
    Field("oneshell", ANY, "accepted and ignored"),
    Field("tools", ANY, "accepted and ignored"),
)
RECIPE = fields_of(RECIPE_FIELDS, "packages", "version")


def json_schema() -> Dict[str, Any]:
    """The JSON Schema (draft 7) of a pkgen.yaml."""
    return {"$schema": "http://json-schema.org/draft-07/schema#",
            "title": f"a recipe of Panux, {RECIPE_FILE}", **RECIPE.schema}


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


class Recipe:
    """A loaded recipe: templates rendered, every field of its final type."""

    # "A tree of recipes": whether libc needs it; the recipes whose stages are in its sysroot;
    # whether it is built as its own stage, and what that is built without.
    before_libc = False
    stages: Tuple[str, ...] = ()
    is_stage = False
    without: Tuple[str, ...] = ()

    def __init__(self, path: str, options: argparse.Namespace, fields: Dict[str, Any]) -> None:
        self.path, self.fields = path, fields
        self.name, self.folder = recipe_name(path), os.path.dirname(path) or "."
        self.arch, self.hostarch = options.arch, options.hostarch or options.arch
        self.script = self.check = ""
        self.sources: List[Source] = []
        self.nodes: Dict[str, Any] = {}
        self.places: Dict[str, List[Place]] = {}    # "script" and "check", once they are asked for

    @property
    def packages(self) -> Dict[str, Dict[str, Any]]:
        return self.fields["packages"]

    @property
    def record_name(self) -> str:
        """What its record and its log are called."""
        return f"stage/{self.name}" if self.is_stage else self.name

    @property
    def full_name(self) -> str:
        return f"{self.name} {self.version}" + (" (stage)" if self.is_stage else "")

    @property
    def version(self) -> str:
        return f"{self.fields['version']}-{self.fields['build']}"


# ==== Recipes: from YAML to values ================================================================
#
# PyYAML composes the file into nodes, which know their line and column; the shapes above turn nodes
# into values, with what a Reader gives them.


class Reader:
    """What shapes read the nodes of one recipe file with; errors name file:line:column."""

    def __init__(self, path: str, lenient: bool = False) -> None:
        self.path = path
        self.lenient = lenient

    def fail(self, node: Any, what: str) -> Fail:
        return Fail(f"{mark_place(self.path, node)}: {what}")

    def pairs(self, node: Any, what: str, read_key: Any = read_text) -> List[Tuple[Any, Any, Any]]:
        """(key, key's node, value's node) of a map, null is the empty map."""
        if is_null(node):
            return []
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} is not a map; write its keys as `key: value` lines")
        pairs: Dict[Any, Tuple[Any, Any, Any]] = {}  # 1, 1.0 and true are one key
        for key_node, value_node in node.value:
            key = read_key(self, key_node, f"a key of {what}")
            if key in pairs:
                self.forgive(self.fail(key_node, f"{what} has {key_node.value} twice; keep one"))
            pairs[key] = (key, key_node, value_node)
        return list(pairs.values())

    def struct(self, node: Any, table: Tuple[Field, ...], what: str) -> Dict[str, Any]:
        """The values of a map whose keys are TABLE's, those of absent keys too."""
        known = {field.key: field for field in table}
        values = {field.key: field.shape.empty() for field in table}
        for key, key_node, value in self.pairs(node, what):
            if key in known:
                values[key] = self.read(known[key], value)
            else:
                hint = did_you_mean(key, known)
                self.forgive(self.fail(key_node, f"unknown key {key} in {what}{hint}"))
        return values

    def read(self, field: Field, node: Any) -> Any:
        return field.shape.read(self, node, field.key)

    def forgive(self, problem: Fail) -> None:
        """What --lenient makes a warning."""
        if self.lenient:
            say(f"pkggen: warning: {problem}")
        else:
            self.problem(problem)

    def problem(self, problem: Fail) -> None:
        """What is wrong, but leaves the rest readable: lint goes on from here."""
        raise problem


def is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def scalar(reader: Reader, node: Any, what: str) -> Any:
    """The value of a scalar node: yaml.v2's, which must be of the tag's type if there is a tag."""
    kind, text = SCALAR_TAGS[node.tag], node.value
    if kind is not str and len(text) > NUMBER_LIMIT:
        raise reader.fail(node, f"{what} is a number of {len(text)} characters; quote it")
    has_tag = node.style or node.tag != PLAIN.resolve(yaml.ScalarNode, text, (True, False))
    if has_tag and kind is str:
        return text
    value = plain_scalar(text)
    if has_tag and kind is float and type(value) is int:
        return float(value)
    if has_tag and type(value) is not kind:
        raise reader.fail(node, f"{what}: {text!r} is not of {node.tag}")
    return value


# What yaml.v2 makes of text that is neither quoted nor tagged, which is not all that PyYAML does:
# that has no y and no 1e3, but numbers to base 60.
YAML_WORDS: Dict[str, Any] = {
    **dict.fromkeys("y Y yes Yes YES true True TRUE on On ON".split(), True),
    **dict.fromkeys("n N no No NO false False FALSE off Off OFF".split(), False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **{sign + name: float(sign + "inf") for sign in ("", "+", "-")
       for name in (".inf", ".Inf", ".INF")},
    **dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan")),
}
YAML_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9][0-9]*)")
YAML_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
PLAIN = yaml.resolver.Resolver()


def plain_scalar(text: str) -> Any:
    """The value that yaml.v2 gives to the plain scalar TEXT."""
    if text in YAML_WORDS:
        return YAML_WORDS[text]
    number = text if text[0] in "._" else text.replace("_", "")
    for pattern, parse in ((YAML_INTEGER, parse_number), (YAML_FLOAT, parse_float)):
        if pattern.fullmatch(number):
            try:
                return parse(number.lower())
            except ValueError:      # out of range: an integer may be a float yet
                pass
    return text


COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
SCALAR_TAGS = {f"tag:yaml.org,2002:{tag}": kind for tag, kind in {
    "str": str, "timestamp": str, "value": str, "null": type(None), "bool": bool, "int": int,
    "float": float}.items()}


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about WORD: what of KNOWN is near it, if anything is."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The same for a WORD out of few: all that is KNOWN where none is near."""
    words = list(known)
    hint = nearest(word, words)
    return hint or (f"; known are {', '.join(words)}" if len(words) <= 30 else "")


def compose(path: str) -> Any:
    """The root node of the YAML file PATH."""
    try:
        with open(path, "rb") as file:
            text = file.read(RECIPE_LIMIT + 1)
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}; it can't be read") from None
    if len(text) > RECIPE_LIMIT:
        raise Fail(f"{path}: larger than {human_size(RECIPE_LIMIT)}; that is not a recipe")
    return compose_text(path, text)


def compose_text(path: str, text: bytes) -> Any:
    """The root node of the YAML TEXT, which stands in PATH."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_events(path, yaml.parse(text.decode(), loader))
        return yaml.compose(text.decode(), loader)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise Fail(f"{path}:{line}: a byte that is not UTF-8; save the recipe as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise yaml_problem(path, text.decode(), error) from None
    except yaml.YAMLError as error:
        raise Fail(f"{path}: {' '.join(str(error).split())}") from None


# Where YAML takes the first sign of a value for its own though text was meant, as shell or a
# template begins.
UNQUOTED = r"(?:\s*[A-Za-z0-9_-]+:\s+|\s*(?:- +)+)(\{\{|(?<=- )[\[{&*!%@`])"


def own_meaning(place: str, sign: str) -> Fail:
    meaning = f"YAML has a meaning of its own for {sign} at the start of a value"
    return Fail(f"{place}: {meaning}; if it is text, {QUOTE}")


def yaml_problem(path: str, text: str, error: Any) -> Fail:
    """What is wrong with the YAML TEXT, at the value that wants quotes if there is one."""
    mark = error.problem_mark or error.context_mark
    begun, lines = error.context_mark or mark, [*text.splitlines(), "", ""]
    for line in (begun.line, mark.line):
        match = re.match(UNQUOTED, lines[line])
        if match:
            return own_meaning(f"{path}:{line + 1}:{match.start(1) + 1}", match[1])
    problem = ", ".join(filter(None, (error.context, error.problem)))
    if "mapping values are not allowed" in problem:
        problem = f"YAML makes a map of what has `: ` in it; if this is text, {QUOTE}"
    elif lines[mark.line].startswith("{{", mark.column):
        problem = f"YAML has a meaning of its own for {{{{ in a list in brackets; {QUOTE}"
    elif lines[mark.line].startswith("\t", mark.column):
        problem = "a tab, which YAML doesn't take here; indent with blanks"
    elif problem.startswith("while"):
        problem += f" (begun at {begun.line + 1}:{begun.column + 1})"
    return Fail(f"{path}:{mark.line + 1}:{mark.column + 1}: {problem}")


def check_events(path: str, events: Iterable[Any]) -> None:
    """Refuse what composing would not bear, or would not show: a `!` before a text, aliases."""
    depth = 0
    for event in events:
        is_scalar = isinstance(event, yaml.ScalarEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if is_scalar and event.value == "<<" and event.implicit[0]:
            tag = "tag:yaml.org,2002:merge"
        if depth > NESTING_LIMIT:
            problem = (f"more than {NESTING_LIMIT} lists and maps in one another; that is not a "
                       "recipe")
        elif isinstance(event, yaml.AliasEvent):
            problem = "a YAML alias; write the value out where it is used"
        elif tag == "!":
            raise own_meaning(mark_place(path, event), "!")
        elif tag and tag not in (SCALAR_TAGS if is_scalar else COLLECTION_TAGS):
            problem = f"the YAML tag {tag}; recipes have plain values only"
        else:
            continue
        raise Fail(f"{mark_place(path, event)}: {problem}")


def mark_place(path: str, thing: Any) -> str:
    """path:line:column where a node or an event starts."""
    return f"{path}:{thing.start_mark.line + 1}:{thing.start_mark.column + 1}"


def recipe_path(argument: str) -> str:
    """The file of the recipe that ARGUMENT names: its directory, its pkgen.yaml, or a package.

    What is not a path is looked for below recipes/. A path reaches makefiles, so it is printable.
    """
    path = argument if argument.endswith(".yaml") else os.path.join(argument, RECIPE_FILE)
    if not os.path.isfile(path):
        if path == argument or os.sep in argument or not os.path.isdir("recipes"):
            raise Fail(f"{argument}: no recipe there; a recipe is a directory with a {RECIPE_FILE}")
        path = find_recipe("recipes", argument)
    if not path.isprintable():
        raise Fail(f"{printable(path)}: a control character in its path; rename the directory")
    return os.path.normpath(path)


def recipe_name(path: str) -> str:
    """The name of the recipe in the file PATH: its directory's."""
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def find_recipes(directory: str) -> List[str]:
    if not os.path.isdir(directory):
        raise Fail(f"{directory}: not a directory; name the one that holds the recipes")
    paths = []
    for parent, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if name[0] != ".")
        if RECIPE_FILE in files:
            paths.append(os.path.join(parent, RECIPE_FILE))
    return paths


def find_recipe(directory: str, name: str) -> str:
    """The file of the recipe below DIRECTORY that makes NAME, is called NAME or provides it.

    It may be broken: loading it says how.
    """
    found: Dict[str, Tuple[int, str]] = {}
    for path in find_recipes(directory):
        made, provided = package_names(path)
        for rank, names in enumerate((made, [recipe_name(path)], provided)):
            for word in names:
                found[word] = min(found.get(word, (rank, path)), (rank, path))
    if name not in found:
        raise Fail(f"{directory}: no recipe makes the package {name}{nearest(name, found)}")
    return found[name][1]


def package_names(path: str) -> Tuple[List[str], List[str]]:
    """The packages that the recipe in PATH makes, and what they provide; a guess if it's broken."""
    try:
        node = keys_of(compose(path)).get("packages")
        packages = PACKAGES.read(Reader(path), node, "packages") if node else {}
    except Fail:
        with open(path, encoding="utf-8", errors="replace") as file:
            block = re.search(r"^packages:.*?(?=^[^\s#]|\Z)", file.read(), re.M | re.S)
        return re.findall(r"([\w+.-]+)[\"']?\s*:", block[0])[1:] if block else [], []
    provides = (relation for fields in packages.values() for relation in fields["provides"])
    return list(packages), [relation_name(relation) for relation in provides]


def keys_of(node: Any) -> Dict[str, Any]:
    """The values of a node that is a map, as nodes; a node of another kind has none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def load_recipe(
    argument: str, options: argparse.Namespace, reader: Optional[Reader] = None,
    text: Optional[str] = None) -> Recipe:
    """Load the recipe in ARGUMENT, or TEXT as if it stood there. Raises Fail with file:line:column
    for what is wrong with it."""
    path = recipe_path(argument)
    root = compose(path) if text is None else compose_text(path, to_bytes(text))
    reader = reader or Reader(path, options.lenient)
    if root is None or is_null(root):
        raise Fail(f"{path}: empty; a recipe has at least packages and version")
    fields = RECIPE.read(reader, root, "the recipe")
    fields["data"].update(options.data)
    recipe = Recipe(path, options, fields)
    if not NAME.fullmatch(recipe.name):
        raise Fail(f"{recipe.folder}: {recipe.name!r} can't be a recipe's name; "
                   "use letters, digits and + . _ -")
    evaluate(recipe, keys_of(root), reader)
    return recipe


# ---- templates in recipes ------------------------------------------------------------------------


def evaluate(recipe: Recipe, nodes: Dict[str, Any], reader: Reader) -> None:
    """Render what is a template: sources, script and check. NODES: the recipe's values by key."""
    recipe.nodes = nodes
    dot = recipe_dot(recipe)
    funcs = shortcuts(recipe)
    for texts, place in recipe.fields["sources"]:
        rendered = [render(text, dot, funcs, f"{place}: source") for text in texts]
        recipe.sources.append(make_source(recipe, rendered, place))
    for key in filter(recipe.fields.get, ("script", "check")):
        setattr(recipe, key, render_field(recipe, key, dot, funcs))
        for at, what in unknown_references(getattr(recipe, key)):
            place = script_place(recipe, key, at)
            problem = Fail(f"{recipe.path}:{place.line}:{place.column}: {what}")
            reader.forgive(problem)


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
                name: Struct({"Dependencies": package["dependencies"]})
                for name, package in fields["packages"].items()},
            "Script": fields["script"],
            "BuildDependencies": fields["builddependencies"],
            "Builder": BUILDERS[fields["builder"]],
            "Cross": fields["cross"],
            "Data": fields["data"],
            "NoBootstrap": fields["nobootstrap"]})


class Place(NamedTuple):
    """Where a line of a script stands in the recipe, and its text if it stands there as it is."""

    line: int
    column: int
    text: str


def template_places(recipe: Recipe, key: str) -> List[Place]:
    """The place of each line of the template that the recipe's KEY, script or check, is."""
    with open(recipe.path, encoding="utf-8") as file:
        file_lines = file.read().split("\n")
    places: List[Place] = []
    for item in recipe.nodes[key].value if recipe.fields[key] else ():
        mark = item.start_mark
        for index, text in enumerate(item.value.split("\n")):
            line = mark.line + (1 + index if item.style in ("|", ">") else 0)
            in_file = "".join(file_lines[line:line + 1])    # YAML has more ends of lines than \n
            column = mark.column + bool(item.style)         # plain text has no quote
            if item.style in ("|", ">"):
                column = len(in_file) - len(text) if in_file.endswith(text) else 0
            if not in_file.startswith(text, column):        # folded, or with escapes
                column, text = len(in_file) - len(in_file.lstrip()), ""
            places.append(Place(line + 1, column + 1, text))
    return places or [Place(1, 1, "")]


def script_places(recipe: Recipe, key: str) -> List[Place]:
    """The place of each line of the rendered script; all its first where they can't be told.

    The template is rendered once more with a mark before each of its lines.
    """
    if key in recipe.places:
        return recipe.places[key]
    places, script = template_places(recipe, key), getattr(recipe, key)
    marked, inside = "", 0
    for number, line in enumerate("\n".join(recipe.fields[key]).split("\n")):
        # YAML has no NUL. A line that begins within an action gets no mark.
        marked += ("" if inside else f"\0{number}\0") + line + "\n"
        inside += line.count("{{") - line.count("}}")
    try:
        rendered = render(marked[:-1], recipe_dot(recipe), shortcuts(recipe), recipe.path)
    except Fail:
        rendered = ""
    found, current = [], 0
    for line in rendered.split("\n"):
        marks = [int(mark) for mark in re.findall("\0([0-9]+)\0", line)]
        found.append(places[marks[0] if marks else current])
        current = marks[-1] if marks else current
    if re.sub("\0[0-9]+\0", "", rendered) != script:
        found = [places[0]._replace(text="")] * (script.count("\n") + 1)
    recipe.places[key] = found
    return found


def script_place(recipe: Recipe, key: str, at: int) -> Place:
    """The place of the offset AT of the rendered script; where the line isn't the recipe's own,
    the line's beginning."""
    script = getattr(recipe, key)
    number, start = script.count("\n", 0, at), script.rfind("\n", 0, at) + 1
    place = script_places(recipe, key)[number]
    is_own = place.text == script.split("\n")[number]
    return place._replace(column=place.column + (at - start if is_own else 0))


def render_field(recipe: Recipe, key: str, dot: Any, funcs: Dict[str, Any]) -> str:
    """The recipe's script or check; an error in it names the recipe file's line and column."""
    try:
        return render("\n".join(recipe.fields[key]), dot, funcs, recipe.path)
    except Fail as error:
        match = re.fullmatch(r"(\d+):(\d+): (.*)", str(error)[len(recipe.path) + 1:], re.DOTALL)
        if not match:
            raise
        place = template_places(recipe, key)[int(match[1]) - 1]
        column = place.column + int(match[2]) - 1
        raise Fail(f"{recipe.path}:{place.line}:{column}: {match[3]}") from None


# ---- what make takes of a script -----------------------------------------------------------------

MAKE_FUNCTIONS = frozenset(
    "abspath addprefix addsuffix and basename call dir error eval file filter filter-out "
    "findstring firstword flavor foreach if info intcmp join lastword let notdir or origin "
    "patsubst realpath shell sort strip subst suffix value warning wildcard word wordlist "
    "words".split())
MAKE_VARIABLES = frozenset("MAKE MAKEFLAGS MAKELEVEL CURDIR SHELL PATH HOME".split())


class Reference(NamedTuple):
    """What make takes of a text; a call's name is the function's. It is empty for `$$`, and where
    it is computed."""

    start: int
    end: int
    name: str
    is_call: bool


MAKE_TOKEN = re.compile(r"\$(?:[({](?P<name>[^\s:(){}$]*)|(?P<other>.?))|[(){}]", re.DOTALL)


def make_references(text: str) -> List[Reference]:
    """Make's references in TEXT, each followed by those within it; in one pass, however deep.

    A reference ends at its bracket's counterpart; brackets of that kind are counted, as in make.
    """
    found: List[Reference] = []
    opened: List[List[int]] = []    # references not closed yet: (index in `found`, brackets in it)
    for token in MAKE_TOKEN.finditer(text):
        start, end = token.span()
        closing = {"(": ")", "{": "}"}.get(text[found[opened[-1][0]].start + 1]) if opened else ""
        if token["name"] is not None:
            after = text[end:end + 1]
            name = "" if after == "$" else token["name"]
            opened.append([len(found), 0])
            found.append(Reference(start, len(text), name, after in (" ", "\t")))
        elif token["other"] is not None:
            name = "" if token["other"] == "$" else token["other"] or "\n"
            found.append(Reference(start, end, name, False))
        elif token[0] == closing and not opened[-1][1]:
            index = opened.pop()[0]
            found[index] = found[index]._replace(end=end)
        elif opened and token[0] in (closing, "({"[closing == "}"]):
            opened[-1][1] += -1 if token[0] == closing else 1
    return found


def unknown_references(script: str) -> Iterator[Tuple[int, str]]:
    """(offset, what) of a `$` that was meant for the shell, and that make takes."""
    known = MAKE_VARIABLES | BUILD_VARIABLES
    known |= set(re.findall(r"\$[({](?:foreach|let|eval) +([\w.-]+)", script))
    known |= set("0123456789" if "$(call" in script else "")
    for start, end, name, is_call in make_references(script):
        if name and name not in (MAKE_FUNCTIONS if is_call else known):
            taken = script[start:min(end, start + SHOWN)].partition("\n")[0]
            word = re.compile(r"\w*").match(script, start + 1)[0]
            remedy = f"$${word}" if word else f"${taken}"       # $HOME is $H and OME for make
            if not is_call and taken[1:2] in "({" and (taken[1] == "{" or name.isupper()):
                remedy = f"$${{{name}}}"                        # $$(CFLAGS) would be a command
            yield start, (f"make takes {taken} and has no such variable; "
                          f"for the shell write {remedy}")


# ---- the shortcuts -------------------------------------------------------------------------------


def shortcuts(recipe: Recipe) -> Dict[str, Callable[..., str]]:
    """The functions that recipes' templates have beside Go's own; each gives lines of shell."""
    version = recipe.fields["version"]
    arch, hostarch = recipe.arch, recipe.hostarch

    def extract(name: str, extension: str) -> str:
        return f"tar -xf src/{name}-{version}.tar.{extension}\nmv {name}-{version} {name}"

    def unpack(name: str, *file: str) -> str:
        if len(file) > 1 or not file and not recipe.sources:
            raise Fail("unpack takes a directory's name and a source; without one, the first")
        source = f"src/{file[0] if file else quote_word(recipe.sources[0].name)}"
        command = f"tar -xf {source} -C {name}.new"
        if source.endswith(".zip"):
            command = f"unzip -q {source} -d {name}.new"
        # An archive's one top directory gives way to NAME; of any other nothing is lost.
        return (f"mkdir {name}.new && {command}\n"
                f"(top=$$(ls -A {name}.new); if [ -d \"{name}.new/$$top\" ]; "
                f"then mv \"{name}.new/$$top\" {name}; else mv {name}.new {name}; fi)")

    def patch(folder: str) -> str:
        names = [source.name for source in recipe.sources
                 if source.name.endswith((".patch", ".diff"))]
        if not names:
            raise Fail("none of the sources is a .patch or .diff")
        return "\n".join(f"patch -d {folder} -p1 <src/{quote_word(name)}" for name in names)

    def pkmv(path: str, source: str, target: str) -> str:
        path = clean_path(path)
        folder = os.path.dirname(path)
        lines = [f"mkdir -p out/{target}/{folder}"] if folder else []
        lines.append(f"mv out/{source}/{path} out/{target}" + (f"/{folder}" if folder else ""))
        return "\n".join(lines)

    def mvman(package: str) -> str:
        return (f"mkdir -p out/{package}-man/usr/share\n"
                f"mv out/{package}/usr/share/man out/{package}-man/usr/share/man")

    def split(package: str, suffix: str, paths: str) -> str:
        other = f"{package}-{suffix}"
        if not {package, other} <= set(recipe.packages):
            raise Fail(f"packages has no {package} or no {other}; it needs both")
        return (f"(cd out/{package} && for path in {paths}; do\n"
                f"[ ! -e $$path ] && [ ! -L $$path ] || {{ mkdir -p ../{other}/$${{path%/*}}\n"
                f"mv $$path ../{other}/$${{path%/*}}\n"
                "rmdir -p --ignore-fail-on-non-empty $${path%/*}; }; done)")

    def dev(package: str) -> str:
        # A link lib*.so is the linker's; a file of that name is a library for dlopen.
        links = "$$(find . -maxdepth 3 -type l -path './usr/lib/lib*.so')"
        return (f"find out/{package} -path '*/usr/lib/*.la' ! -type d -exec rm {{}} +\n" +
                split(package, "dev", f"{links} usr/include usr/lib/*.a usr/lib/pkgconfig "
                      "usr/share/pkgconfig usr/lib/cmake usr/share/aclocal usr/bin/*-config"))

    def doc(package: str) -> str:
        return split(package, "doc", "usr/share/man usr/share/doc usr/share/info usr/share/gtk-doc")

    def confflags() -> str:
        build, host = (arch, hostarch) if arch == hostarch else (hostarch, arch)
        return f"--build {gnu_arch(build)}-pc-linux-musl --host {gnu_arch(host)}-pc-linux-musl"

    def configure(folder: str, *arguments: str) -> str:
        return (f"(cd {folder} && ./configure {confflags()} --prefix=/usr --sysconfdir=/etc "
                f"--mandir=/usr/share/man --localstatedir=/var {' '.join(arguments)})")

    def meson(folder: str, *arguments: str) -> str:
        words = ["$(MESON_MACHINE) --prefix=/usr --libdir=lib --sysconfdir=/etc "
                 "--localstatedir=/var --buildtype=plain --wrap-mode=nodownload", *arguments]
        return f"meson setup {' '.join(words)} {folder}-build {folder}"

    def cmake(folder: str, *arguments: str) -> str:
        words = ["-DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/.tools/toolchain.cmake "
                 "-DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_BUILD_TYPE=None "
                 "-DCMAKE_SKIP_INSTALL_RPATH=ON", *arguments]
        return f"cmake -S {folder} -B {folder}-build {' '.join(words)}"

    def make(folder: str, *arguments: str) -> str:
        return "\n".join(
            f"$(MAKE) -C {folder} {argument}" for argument in arguments or ("",)).rstrip()

    return {
        "extract": extract, "unpack": unpack, "patch": patch, "pkmv": pkmv, "mvman": mvman,
        "dev": dev, "doc": doc, "confflags": confflags, "configure": configure, "meson": meson,
        "cmake": cmake, "make": make, "confarch": lambda: gnu_arch(arch),
        "buildarch": lambda: arch, "hostarch": lambda: hostarch}


def quote_word(text: str) -> str:
    """TEXT as a word of a script, which make reads before the shell."""
    return shlex.quote(text).replace("$", "$$")


def gnu_arch(arch: str) -> str:
    """What GNU's configure calls ARCH."""
    return "i386" if arch == "x86" else arch


def clean_path(path: str) -> str:
    """PATH without doubled slashes, dots and its leading slash: a place below out/PACKAGE."""
    return os.path.normpath("/" + path).lstrip("/")


# ---- sources -------------------------------------------------------------------------------------


def make_source(recipe: Recipe, texts: List[str], place: str) -> Source:
    """The source with the alternatives TEXTS, each with the hash that its bytes must have."""
    pairs = [split_name(text, place) for text in texts]
    given, urls = pairs[0][0], [url for _, url in pairs]
    if len(urls) > 1 and any(url.startswith(LOCAL) for url in urls):
        raise Fail(f"{place}: file: and self: lie here; give them alone, without alternatives")
    if any(name for name, _ in pairs[1:]):
        raise Fail(f"{place}: alternatives have one name in src/; give it to the first of them")
    own, *_ = [source_name(url, place) for url in urls]
    taken = {source.name for source in recipe.sources}
    if given in taken:
        raise Fail(f"{place}: a second source named {given}; give it another name")
    others = (f"{number}-{own}" for number in itertools.count(2))
    name = given or next(name for name in itertools.chain([own], others) if name not in taken)
    for prefix in recipe.fields["mirrors"]:
        in_mirrors = f"{recipe.path}: mirrors"
        whole = prefix.rstrip("/") + "/" + urllib.parse.quote(name)
        urls.append(split_name(whole, in_mirrors)[1])
        source_name(urls[-1], in_mirrors)
        if not urls[-1].startswith(WEB):  # file:///etc would bring this machine's own files
            raise Fail(f"{in_mirrors}: {prefix!r} is not an https:, http: or ftp: prefix")
    hashes = [hash_of(recipe, url, hash_key(url, name, own), place) for url in urls]
    first = next(filter(None, hashes), None)
    alternatives = (Alternative(without_hash(url), digest or first)
                    for url, digest in zip(urls, hashes))
    source = Source(name, tuple(alternatives), place)
    if source.is_local:
        local_path(recipe, source)
    return source


WEB = ("https:", "http:", "ftp:")
LOCAL = ("file:", "self:")
SCHEMES = (*WEB, *LOCAL, "git+https:", "deb-src:")
FILE_NAME = re.compile(r"(?!\.\.?$)[^-/][^/]*")
GIVEN_NAME = re.compile(rf"(?:([^/]+)::(?=(?:{'|'.join(map(re.escape, SCHEMES))})))?(.*)", re.I)
GIT = re.compile(  # a host or user that begins with - would be an option somewhere
    r"git\+(?P<url>https://[A-Za-z0-9\[][!$->@-~]*?/(?P<name>[A-Za-z0-9][A-Za-z0-9+._-]*?)"
    r"(?:\.git)?/?)#(?P<commit>[0-9a-f]{40})"
)
DEB_SRC = re.compile(
    r"deb-src:(?:(?P<suite>[a-z][a-z0-9.-]*)/)?"
    r"(?P<package>[a-z0-9][a-z0-9+.-]*(?:=[0-9A-Za-z][0-9A-Za-z.+:~-]*)?)/(?P<file>[^/]+)"
)
HASH_QUERY = re.compile(r"[?&](?:sha256sum|hash)=([^&]*)")


def split_name(text: str, place: str) -> Tuple[str, str]:
    """The name that a source is given (NAME::URL), empty for none, and its URL."""
    if not text.isprintable():
        raise Fail(f"{place}: {text!r} has control characters; take them out")
    name, url = GIVEN_NAME.fullmatch(text).groups("")
    url = re.sub("^[^:/]*:", lambda scheme: scheme[0].lower(), url)
    if re.match("[^:/]*://[^/?#]*@", url) and not url.startswith(LOCAL):
        raise Fail(f"{place}: a user or password in a URL is shown to others; write them into "
                   "~/.netrc, as in `machine HOST login NAME password WORD`")
    if name and not FILE_NAME.fullmatch(name):
        raise Fail(f"{place}: {name!r} can't be a file's name")
    return name, url


def source_name(url: str, place: str) -> str:
    """The base name of URL's path, which is the file's name unless it is given one."""
    scheme, colon, rest = url.partition(":")
    scheme += colon
    if scheme not in SCHEMES:
        raise Fail(f"{place}: {url!r} begins with none of {', '.join(SCHEMES)}")
    ends = "[?#]" if scheme in WEB else "[?]"   # PyPI's links have a fragment
    path = rest.rstrip("/") if scheme in LOCAL else re.split(ends, rest)[0]
    if scheme == "git+https:":
        match = GIT.fullmatch(scheme + path)
        if not match:
            raise Fail(f"{place}: {url!r} is not git+https://HOST/PATH#COMMIT, "
                       "with all 40 digits 0-9a-f of the commit")
        return f"{match['name']}-{match['commit']}.tar"
    name = os.path.basename(path)
    if scheme in WEB:
        name = urllib.parse.unquote(name)
        if " " in url:
            raise Fail(f"{place}: {url!r} has blanks; write them as %20")
        if not url_host(url):
            raise Fail(f"{place}: {url!r} names no host")
    if scheme == "deb-src:" and not DEB_SRC.fullmatch(scheme + path):
        raise Fail(f"{place}: {url!r} is not deb-src:[SUITE/]PACKAGE[=VERSION]/FILE")
    if not name.isprintable() or not FILE_NAME.fullmatch(name):
        raise Fail(f"{place}: {url!r} ends in no usable file name")
    return name


def url_host(url: str) -> str:
    """The host and port in URL, empty when there is none."""
    try:
        return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # a bracket of an IPv6 address that is not closed
        return ""


def without_hash(url: str) -> str:
    if url.startswith(LOCAL):
        return url
    path, _, query = url.partition("?")
    kept = [part for part in query.split("&") if not HASH_QUERY.match("?" + part)]
    return path + ("?" + "&".join(kept) if any(kept) else "")


def hash_key(url: str, name: str, own: str) -> str:
    """The key of URL's hash in the sha256 map, for an alternative of the source NAME.

    OWN is the first alternative's file name. Another file name is a key of its own.
    """
    other = source_name(url, name)
    return name if other == own else other


def hash_of(recipe: Recipe, url: str, key: str, place: str) -> Optional[str]:
    """The sha256 that the recipe gives for URL: in the URL itself, or in its map."""
    if url.startswith(LOCAL):
        return None
    match = HASH_QUERY.search(url)
    digest = match[1] if match and match[1] else recipe.fields["sha256"].get(key)
    if digest and not SHA256.fullmatch(digest):
        raise Fail(f"{place}: {without_hash(url)}: its hash is not 64 digits 0-9a-f")
    return digest or None


# What `self:` may give a build, beside the scripts at the top: no key, nothing that was built.
OWN_DIRECTORIES = ("docs", "initd", "world")


def local_path(recipe: Recipe, source: Source) -> str:
    """Where the file: or self: source lies: in its directory, and by no link outside it."""
    scheme, _, path = source.alternatives[0].url.partition(":")
    base = os.path.realpath(recipe.folder if scheme == "file" else HERE)
    path = path[2:] if path.startswith("//") else path
    full = os.path.realpath(os.path.join(base, path))
    if not full.startswith(base + os.sep):
        raise Fail(f"{source.place}: {path!r} is outside {base}; copy the file into it")
    inside = full[len(base) + 1:]
    if scheme == "self" and (
            inside.partition("/")[0] not in OWN_DIRECTORIES and not re.fullmatch(r"\w+\.py", inside)
            or "/." in inside or full.startswith(os.path.realpath(OUT) + os.sep)):
        own = ", ".join(OWN_DIRECTORIES)
        raise Fail(f"{source.place}: self: gives the scripts and what is in {own}; not {path!r}")
    if not os.path.isfile(full) and not os.path.isdir(full):
        raise Fail(f"{source.place}: there is no file {path!r} in {base}")
    return full


def local_files(recipe: Recipe, source: Source) -> List[Tuple[str, str]]:
    """(name in src/, path) of what a file: or self: source gives: a file, or all in a directory but
    what is hidden."""
    base = local_path(recipe, source)
    if os.path.isfile(base):
        return [(source.name, base)]
    found = []
    for parent, directories, files in os.walk(base):
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        directories[:] = sorted(name for name in directories if name[0] != ".")
        for name in sorted([*files, *links]):
            path = os.path.join(parent, name)
            if name[0] != ".":
                if os.path.islink(path) or not os.path.isfile(path) or not name.isprintable():
                    raise Fail(f"{source.place}: {printable(path)} is not a plain file; "
                               "take it out of the directory")
                found.append((source.name + path[len(base):], path))
    return found


def check_hashes(recipe: Recipe) -> None:
    """Raise Fail unless every source that is fetched has a sha256."""
    for source in recipe.sources:
        if not source.is_local and source.alternatives[0].sha256 is None:
            raise Fail(no_hash(recipe, source))


def no_hash(recipe: Recipe, source: Source) -> str:
    """What is said of a source without a sha256."""
    return (f"{source.place}: {source.name} has no sha256; "
            f"`pkggen.py hash {recipe.folder}` fetches it and writes one")


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
SYSROOT := /sysroot
HOSTCC := gcc
# What runs a program of the target's: nothing where the builder can do so itself.
EMULATOR := {emulator}
MESON_MACHINE := --{machine}-file=$(CURDIR)/.tools/machine.ini
export PATH := $(CURDIR)/.tools:$(PATH)
export CC := {arch}-linux-musl-gcc
# libstdc++-dev brings g++ its specs. `no` is a configure's word for no C++: libtool's stops at a
# compiler that doesn't work.
export CXX := $(if $(wildcard $(SYSROOT)/usr/lib/musl-g++.specs),{arch}-linux-musl-g++,no)
export AR := $(CROSS_COMPILE)ar
export NM := $(CROSS_COMPILE)nm
export OBJCOPY := $(CROSS_COMPILE)objcopy
export RANLIB := $(CROSS_COMPILE)ranlib
export STRIP := $(CROSS_COMPILE)strip
export CFLAGS := -Os
export CXXFLAGS := -Os
export LDFLAGS := -Wl,--as-needed
# What is built once needs no notes on what depends on what; automake's take long to begin.
export enable_dependency_tracking := no
export PKG_CONFIG := pkg-config
export PKG_CONFIG_SYSROOT_DIR := $(SYSROOT)
export PKG_CONFIG_LIBDIR := $(SYSROOT)/usr/lib/pkgconfig:$(SYSROOT)/usr/share/pkgconfig
export SOURCE_DATE_EPOCH := {epoch}
export LC_ALL := C
export TZ := UTC
# Who packed a source is nobody here; where the engine maps users there may be no such number.
export TAR_OPTIONS := --no-same-owner
unexport SRCTAR TAROUT
PACKAGES := {packages}
BACKSLASH := $(subst ,,\\)
# Before each command of a script its line stands in the log, where bash is there to count lines.
RUN_SHELL := $(if $(shell command -v bash),bash --posix,sh)
RUN_SCRIPT = @+umask 022 && $(RUN_SHELL) -ec 'PS4="+ $(1):\\$$LINENO: "; set -x; . ./$(1)'

define SCRIPT
{script}
endef

define CHECK
{check}
endef

.PHONY: all untarsource script strip check shell gentars
all: check
	@for package in $(PACKAGES); do [ -n "$$(find out/$$package ! -type d | head -n 1)" ] || \\
		find /etc /opt /srv /usr /var -xdev -type f -cnewer script.sh; \\
	done | sort -u | head -n 20 | sed "s/^/outside of out: /" >&2
untarsource:
	@mkdir -p $(PACKAGES:%=out/%)
	@$(if $(SRCTAR),tar -xf $(SRCTAR))
script: untarsource
	$(file >script.sh,$(SCRIPT))
	$(call RUN_SCRIPT,script.sh)
strip: script
{strip}
check: strip
	$(file >check.sh,$(CHECK))
	$(call RUN_SCRIPT,check.sh)
shell:
	@+bash --norc --noprofile || :
gentars: all
	for package in $(PACKAGES); do tar -C out/$$package -cf $(TAROUT)/$$package.tar .; done
"""
BUILD_VARIABLES = frozenset(re.findall(r"^(?:export )?(\w+) [:?]?=", BUILD_MK, re.MULTILINE))

# What isn't an ELF file stays as it is, and what can't be stripped is found in what comes out.
STRIP_FILES = """\
	@find out -type f \\( -perm -100 -o -name '*.so*' -o -name '*.ko' \\) ! -name '*.[ao]' \\
		-exec $(STRIP) --strip-unneeded -R .comment {} + 2>/dev/null || :
	@find out -type f -name '*.[ao]' -exec $(STRIP) --strip-debug {} + 2>/dev/null || :"""

# Run once, in the directory where the input tar was unpacked: `pkggen.py build`, `make shell` and
# `make menuconfig` all do. What is compiled finds musl's loader at its path, and so runs.
SETUP_SH = """\
#!/bin/sh
# setup.sh [SYSROOT]: set up the build of what was unpacked here, as root of a container.
set -e
sysroot=${{1:-/sysroot}}
mkdir -p "$sysroot" .tools
[ ! -f sysroot.tar ] || {{ tar -xf sysroot.tar -C "$sysroot" && rm sysroot.tar; }}
for language in gcc g++; do
	cat >.tools/{arch}-linux-musl-$language <<-END
		#!/bin/sh
		case " \\$* " in *" --print-multiarch "*) echo {arch}-linux-musl; exit ;; esac
		exec {gnu}-$language "\\$@" -ffile-prefix-map=$PWD=. -specs $sysroot/usr/lib/musl-$language.specs
	END
	chmod 755 .tools/{arch}-linux-musl-$language
done
# gzip would keep the time of what it packs.
cat >.tools/gzip <<END
#!/bin/sh
exec $(command -v gzip) -n "\\$@"
END
chmod 755 .tools/gzip
for loader in "$sysroot"/lib/ld-musl-*.so.1; do
	[ -L "$loader" ] || continue
	name=$(basename "$loader" .so.1)
	ln -sf "$sysroot$(readlink "$loader")" "/lib/$name.so.1"
	printf '%s\\n' "$sysroot/lib" "$sysroot/usr/lib" >"/etc/$name.path"
done
cat >.tools/machine.ini <<END
[binaries]
c = '{arch}-linux-musl-gcc'
cpp = '{arch}-linux-musl-g++'
ar = '{gnu}-ar'
strip = '{gnu}-strip'
pkg-config = 'pkg-config'
{wrapper}
[properties]
sys_root = '$sysroot'
pkg_config_libdir = '$sysroot/usr/lib/pkgconfig:$sysroot/usr/share/pkgconfig'
[host_machine]
system = 'linux'
cpu_family = '{family}'
cpu = '{family}'
endian = 'little'
END
cat >.tools/toolchain.cmake <<END
{system}set(CMAKE_C_COMPILER $PWD/.tools/{arch}-linux-musl-gcc)
set(CMAKE_AR /usr/bin/{gnu}-ar CACHE FILEPATH "")
set(CMAKE_RANLIB /usr/bin/{gnu}-ranlib CACHE FILEPATH "")
set(CMAKE_FIND_ROOT_PATH $sysroot)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# The path of the build would leave a gap of its length in what is installed.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
END
"""
CPU_FAMILIES = {"armv7": "arm"}     # as meson calls them, and qemu; the others have our names
EMULATORS = {"armv7": "arm", "x86": "i386"}

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
.PHONY: all buildable{phony}
all:{wanted}
{failing}buildable:{buildable}
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
    return one_line(" ".join(shlex.quote(word) for word in words).replace("$", "$$"))


def one_line(text: str) -> str:
    """TEXT, which stands in a makefile: after a line's end it would go on as rules of its own."""
    if not text.isprintable():
        raise Fail(f"{printable(text)}: a control character can't stand in a makefile; rename it")
    return text


def emulator(recipe: Recipe) -> str:
    """What runs a program for the recipe's architecture on the builder; empty where it can."""
    return "" if recipe.arch == recipe.hostarch else (
        f"qemu-{EMULATORS.get(recipe.arch, recipe.arch)}-static")


def build_mk(recipe: Recipe) -> str:
    return BUILD_MK.format(
        name=recipe.name, version=recipe.version, recipe=recipe.name + "/" + RECIPE_FILE,
        epoch=EPOCH, arch=recipe.arch, hostarch=recipe.hostarch, gnu=GNU_TRIPLETS[recipe.arch],
        emulator=emulator(recipe), machine="cross" if emulator(recipe) else "native",
        packages=" ".join(recipe.packages), script=quote_script(recipe.script),
        strip=STRIP_FILES if recipe.fields["strip"] else "\t@:", check=quote_script(recipe.check))


def setup_sh(recipe: Recipe) -> str:
    """The script that sets up the recipe's build, from what its input tar holds."""
    runs, system = emulator(recipe), ""
    if runs:
        system = (f"set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR {recipe.arch})\n"
                  f"set(CMAKE_CROSSCOMPILING_EMULATOR {runs})\n")
    return SETUP_SH.format(
        arch=recipe.arch, gnu=GNU_TRIPLETS[recipe.arch], system=system,
        family=CPU_FAMILIES.get(recipe.arch, recipe.arch),
        wrapper=f"exe_wrapper = '{runs}'" if runs else "")


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
    if source.alternatives[0].sha256 is None:
        return failing_rule(source_target(source), no_hash(recipe, source))
    urls = [f"{url}{'&' if '?' in url else '?'}sha256sum={digest}"
            for url, digest in source.alternatives]
    urls[0] = f"{source.name}::{urls[0]}"
    command = quote_command(["fetch", "--of", recipe.folder, *urls])
    return f"{source_target(source)}:\n\t@$(PKGGEN) {command} --sources $(SOURCES)\n"


def failing_rule(target: str, problem: str) -> str:
    """A rule that says what is wrong, for a target that can't be made."""
    return f"{one_line(target)}:\n{failing_command(problem)}"


def failing_command(problem: str) -> str:
    command = quote_command(["echo", "pkggen: " + printable(problem)])
    return f"\t@{command} >&2; exit 1\n"


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
        names=", ".join(recipe.name for recipe in recipes), pkggen=pkggen_command(),
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
            **{
                key: package[key]
                for key in ("provides", "conflicts", "replaces", "conffiles", "services", "owners",
                            "scripts", "alternatives")}}
    return {
        "recipe": recipe.name, "version": recipe.version, "arch": recipe.arch,
        "license": fields["license"], "url": fields["url"], "packages": packages}


# ==== What went into a build ======================================================================
#
# A build record, NAME.built, has the hash of everything that went into the last good build of a
# recipe, and the packages that came out. A recipe is up to date while its inputs have those very
# hashes. The packages of its build dependencies are inputs by their own hash: rebuilt to the same
# bytes, they change nothing (early cutoff).


class BuildRecord(NamedTuple):
    """What went into a good build, and what came out.

    `packages`: name to {file (from the repository's directory), size, sha256, depends, provides};
    `texts`: those of the inputs that are texts, so that `why` can show the lines that changed.
    """

    inputs: Dict[str, str]
    packages: Dict[str, Dict[str, Any]]
    seconds: float
    texts: Dict[str, str] = {}


class Work:
    """The directories of one architecture below $O, and the records of what is built there.

    Stages have records, logs and packages in directories of their own; they are never in the
    repository.
    """

    def __init__(self, arch: str) -> None:
        self.arch = arch
        self.records = os.path.join(OUT, arch, "mk")
        self.logs = os.path.join(OUT, arch, "log")
        self.repository = os.path.join(OUT, "repo", arch)
        self.built: Dict[str, BuildRecord] = {}  # by Recipe.record_name
        # Of each stage, and of all else (""): a name, to the package that has or provides it.
        self.offers: Dict[str, Dict[str, Tuple[str, Dict[str, Any]]]] = {}
        for parent, _, files in os.walk(self.records):
            for file in sorted(file for file in files if file.endswith(".built")):
                self.read(os.path.join(parent, file))

    def read(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                record = BuildRecord(**json.load(file))
        except (ValueError, TypeError, OSError) as error:
            raise Fail(
                f"{path}: unreadable ({error}); remove it, and the recipe is built again") from None
        self.add(os.path.relpath(path, self.records)[: -len(".built")], record)

    def add(self, name: str, record: BuildRecord) -> None:
        self.built[name] = record
        offers = self.offers.setdefault(name if name.startswith("stage/") else "", {})
        for package, values in record.packages.items():
            offers[package] = package, values
            for provided in values["provides"]:
                offers.setdefault(relation_name(provided), (package, values))

    def record(self, name: str, record: BuildRecord) -> None:
        text = json.dumps(record._asdict(), indent=1, sort_keys=True) + "\n"
        replace_file(os.path.join(self.records, name + ".built"), text.encode())
        self.add(name, record)

    def find(self, name: str, stages: Iterable[str] = ()) -> Optional[Tuple[str, Dict[str, Any]]]:
        """The built package called NAME, or one that provides it, with its part of the record.

        Where one of the recipes STAGES makes it, the stage's. None when there is none.
        """
        places = (*(f"stage/{stage}" for stage in stages), "")
        found = (self.offers[place].get(name) for place in places if place in self.offers)
        return next(filter(None, found), None)

    def packages_folder(self, recipe: Recipe) -> str:
        """Where the packages of the recipe go."""
        return os.path.join(OUT, self.arch, "stage") if recipe.is_stage else self.repository

    def package_path(self, values: Dict[str, Any]) -> str:
        return os.path.normpath(os.path.join(self.repository, values["file"]))

    def is_here(self, record: BuildRecord) -> bool:
        """Whether the packages are where the build put them."""
        sizes = {self.package_path(values): values["size"] for values in record.packages.values()}
        return all(os.path.isfile(path) and os.path.getsize(path) == size
                   for path, size in sizes.items())

    def builder(self) -> Tuple[str, str]:
        """(image, hash of its definition and its package list), as world/builder wrote them."""
        try:
            with open(os.path.join(self.records, "builder"), encoding="utf-8") as file:
                text = file.read()
        except OSError:
            return "", ""
        return text.partition("\n")[0], text_digest(text)


def replace_file(path: str, data: bytes) -> None:
    """Write PATH anew; a file that is there keeps its mode, whatever the umask, and its owner."""
    state = os.stat(path) if os.path.isfile(path) else None
    write_atomic(path, data, 0o600 if state else 0o644)
    if state:
        with contextlib.suppress(PermissionError):
            os.chown(path, state.st_uid, state.st_gid)
        os.chmod(path, stat.S_IMODE(state.st_mode))


def text_digest(text: str) -> str:
    return hashlib.sha256(to_bytes(text)).hexdigest()


def file_digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def local_mode(path: str) -> int:
    """The mode in the build of a file of the recipe's: only whether it is a program counts."""
    return 0o755 if os.stat(path).st_mode & 0o100 else 0o644


def local_digest(path: str) -> str:
    return file_digest(path) + (" program" if local_mode(path) == 0o755 else "")


@functools.lru_cache(maxsize=None)
def relation_name(relation: str) -> str:
    """The name in `name`, `name>=1.2` and the like; empty for `!name`, which is not a need."""
    return "" if relation.startswith("!") else re.split(r"[<>=~]", relation)[0]


def provider(packages: Dict[str, Dict[str, Any]], name: str) -> Optional[str]:
    """Which of PACKAGES is called NAME, or else provides it."""
    providers = (package for package, values in packages.items()
                 if name in map(relation_name, values["provides"]))
    return name if name in packages else next(providers, None)


# libc: the name that it provides, and what trees call it that provide none.
LIBC = ("libc-dev", "musl-dev")


def build_needs(recipe: Recipe, is_made: Callable[[str], Any]) -> List[str]:
    """The names of packages that the recipe's build has in its sysroot.

    A recipe with a script has libc without naming it, where some recipe makes that (IS_MADE of a
    name); not so the recipe that makes it, and those that it needs.
    """
    names = [relation_name(text) for text in recipe.fields["builddependencies"]]
    libc = next(filter(is_made, LIBC), None)
    if libc and recipe.script and not (recipe.before_libc or provider(recipe.packages, libc)):
        names.append(libc)
    return [name for name in dict.fromkeys(names) if name and name not in BUILDER_TOOLS]


def sysroot_packages(recipe: Recipe, work: Work) -> Dict[str, Optional[Dict[str, Any]]]:
    """The packages in the recipe's sysroot: its build dependencies with all that they depend on.

    Each is there once, by its own name, whatever it was asked for as; the value is its part of the
    record, None where it isn't built.
    """
    find = functools.partial(work.find, stages=recipe.stages)
    wanted = build_needs(recipe, find)
    seen: set = set()
    found: Dict[str, Optional[Dict[str, Any]]] = {}
    while wanted:
        name = wanted.pop()
        if name and name not in seen:
            seen.add(name)
            package, values = find(name) or (name, None)
            if values is None and name.startswith("so:"):
                continue        # a library of the builder's, which advice has named
            found[package] = values
            wanted += map(relation_name, values["depends"] if values else ())
    return dict(sorted(found.items()))


def build_texts(recipe: Recipe) -> Dict[str, str]:
    """The inputs of the recipe's build that are texts."""
    return {"build.mk": build_mk(recipe), "setup.sh": setup_sh(recipe) + IN_CONTAINER,
            "metadata": json.dumps(metadata(recipe), sort_keys=True)}


def build_inputs(recipe: Recipe, work: Work) -> Dict[str, str]:
    """What goes into the recipe's build: a name for each input, and its hash."""
    inputs = {name: text_digest(text) for name, text in build_texts(recipe).items()}
    inputs["builder"] = work.builder()[1]
    for source in recipe.sources:
        if source.is_local:
            for name, path in local_files(recipe, source):
                inputs[f"file {name}"] = local_digest(path)
        else:
            hashes = [alternative.sha256 or "" for alternative in source.alternatives]
            inputs[f"source {source.name}"] = " ".join(hashes)
    for name, values in sysroot_packages(recipe, work).items():
        inputs[f"package {name}"] = values["sha256"] if values else ""
    return inputs


def is_up_to_date(recipe: Recipe, work: Work) -> bool:
    built = work.built.get(recipe.record_name)
    return built is not None and built.inputs == build_inputs(recipe, work) and work.is_here(built)


# ==== Building ====================================================================================


class Interrupted(BaseException):
    """A signal asked this process to end; raised where it is, so that what it began is undone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


# What is run in the container, its stdin the input tar: all of it goes on in one place, /build, as
# root. tar is to show attributes that a package can't hold, so that lpkg can refuse them.
IN_CONTAINER = """\
mkdir -p /build /sysroot && cd /build && tar -xf - && sh setup.sh /sysroot >&2 || exit 100
unset MAKEFLAGS MFLAGS MAKELEVEL
make -j"$(nproc)" -f build.mk all </dev/null >&2
status=$?
echo $status >.status
[ $status != 0 ] || tar --xattrs --xattrs-include='*' --acls -cf - out .status || exit 100
exit $status
"""
STOP_SECONDS = 10           # that a build has to end in once it is told to
LOG_LIMIT = 1 << 26         # bytes of a build's log; what writes more has no end
MAKE_FAILED = 2             # make's status where a command failed
TAR_END = 10240 + 1536      # bytes of a tar's last record, and of .status before it
OUTPUT_LIMIT = 1 << 34      # bytes of the tar that comes out, and of any file in a container


def build_recipe(recipe: Recipe, work: Work) -> None:
    """Build the recipe's packages, unless all that goes in went into the last good build too."""
    check_hashes(recipe)
    record, log = (os.path.join(folder, recipe.record_name) for folder in (work.records, work.logs))
    for folder in (os.path.dirname(record), os.path.dirname(log), work.packages_folder(recipe)):
        os.makedirs(folder, exist_ok=True)
    with lock_file(record + ".lock", f"build   {recipe.full_name}"):
        work = Work(work.arch)
        if is_up_to_date(recipe, work):
            say(f"build   {recipe.full_name}: up to date")
        else:
            build_now(recipe, work)


def build_now(recipe: Recipe, work: Work) -> None:
    inputs = build_inputs(recipe, work)
    before = work.built.get(recipe.record_name)
    started = time.monotonic()
    say(f"build   {recipe.full_name}")
    with tempfile.TemporaryFile(dir=work.logs) as tar_in, \
            tempfile.TemporaryFile(dir=work.logs) as tar_out:
        write_input(recipe, work, tar_in)
        run_build(recipe, work, tar_in, tar_out, before.seconds if before else 0)
        log = os.path.join(work.logs, recipe.record_name + ".log")
        advice = look_at_output(recipe, tar_out, log)
        packages = pack(recipe, work, tar_out, work.packages_folder(recipe))
    seconds = round(time.monotonic() - started, 1)
    built = BuildRecord(inputs, packages, seconds, build_texts(recipe))
    work.record(recipe.record_name, built)
    remove_former(recipe, work, before, built)
    say(f"built   {recipe.full_name}: {sizes(built, before)}, {built.seconds:.0f} s")
    if before is None and not recipe.is_stage:
        for line in (*advice, *unprovided_libraries(recipe, work, built)):
            say(f"advice  {recipe.name}: {line}")


def sizes(built: BuildRecord, before: Optional[BuildRecord]) -> str:
    """The packages that a build came to, with their size, and what that was before."""
    def total(one: BuildRecord) -> int:
        return sum(package["size"] for package in one.packages.values())

    text = f"{' '.join(built.packages)}, {human_size(total(built))}"
    if before and before.packages == built.packages:
        return f"{text}, the same bytes as before"
    is_other = before and human_size(total(before)) != human_size(total(built))
    return text + (f" (was {human_size(total(before))})" if is_other else "")


def write_input(recipe: Recipe, work: Work, file: Any) -> None:
    """Write the tar that goes in: build.mk, setup.sh, src/ and, as a tar in it, the sysroot."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add_bytes(tar, "build.mk", to_bytes(build_mk(recipe)))
        add_bytes(tar, "setup.sh", to_bytes(setup_sh(recipe)))
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
        for name, path in local_files(recipe, source):
            with open(path, "rb") as file:
                add_file(tar, "src/" + name, file, local_mode(path))
        return
    path = fetch_source(source.name, source.alternatives, SOURCES)
    with open(path, "rb") as cached, tempfile.TemporaryFile(dir=SOURCES) as copy:
        digest = hashlib.sha256()
        for chunk in iter(lambda: cached.read(CHUNK), b""):
            digest.update(chunk)
            copy.write(chunk)
        if digest.hexdigest() != os.path.basename(path):
            raise Fail(
                f"{path}: no longer the bytes of {source.name}; remove it, and it is fetched again")
        add_file(tar, "src/" + source.name, copy)


def write_sysroot(
    recipe: Recipe, work: Work, packages: Dict[str, Optional[Dict]], file: Any) -> None:
    """Have lpkg write the tar of a root with PACKAGES, each checked against its record."""
    paths = []
    for name, facts in packages.items():
        if facts is None:
            raise Fail(
                f"{recipe.path}: it needs {name}, which is not built; "
                f"`make world PKG={next(iter(recipe.packages))}` builds that first")
        path = work.package_path(facts)
        if not os.path.isfile(path) or file_digest(path) != facts["sha256"]:
            raise Fail(f"{path}: not the file that was built; remove it, and {name} is built again")
        paths.append(os.path.abspath(path))
    run_lpkg(["bootstrap", "--tar", "-", "--allow-unsigned", "--no-database", *paths], None, file)


def run_lpkg(arguments: List[str], stdin: Any, stdout: Any, what: str = "") -> None:
    """Run lpkg; Fail with what it says, where that is of its stdin after WHAT stdin is."""
    command = [sys.executable, os.path.join(HERE, "lpkg.py"), *arguments]
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, stdout=stdout,
                              stderr=errors)
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if done.returncode:
        reason = lines[-1] if lines else f"{arguments[0]} ended with {done.returncode}"
        said = re.fullmatch("lpkg: (stdin: )?(.*)", reason)
        raise Fail(f"{what if said[1] else ''}{said[2]}" if said else f"lpkg: {reason}")


def run_build(recipe: Recipe, work: Work, tar_in: Any, tar_out: Any, usual: float) -> None:
    """Run the build: TAR_IN to its stdin, its stdout to TAR_OUT, its stderr to the log.

    USUAL is what the last build took, in seconds (0: not known). A RUN of the user's own may be a
    cluster: where it was that which failed, and not the build, it is tried once more. Raises Fail
    when the build fails.
    """
    log = os.path.join(work.logs, recipe.record_name + ".log")
    image = work.builder()[0]
    if not image and "$IMAGE" in RUN:
        raise Fail(
            "there is no builder image; `make world` makes it, "
            "`world/engine world/builder` makes it alone")
    name = f"panux-{re.sub('[^A-Za-z0-9_.-]', '-', recipe.record_name)}-{os.getpid()}"
    environment = {**os.environ, "BUILD": name, "IMAGE": image}
    run = functools.partial(run_once, recipe.name, tar_in, tar_out, log, usual, environment)
    status = run()
    if os.environ.get("RUN") and (
            status != MAKE_FAILED if status else not is_whole(tar_out)):
        say(f"build   {recipe.full_name}: RUN failed (status {status}), not the build; once more")
        run_stop(environment)
        tar_in.seek(0)
        tar_out.seek(0)
        tar_out.truncate()
        status = run()
    if status:
        raise Fail(failure(recipe, log, status))
    tar_out.seek(0)


def is_whole(tar_out: Any) -> bool:
    """Whether the tar of a build has its last member, .status; srun ends with 0 without it, where
    its node has died."""
    tar_out.seek(-min(tar_out.seek(0, os.SEEK_END), TAR_END), os.SEEK_END)
    blocks = iter(lambda: tar_out.read(tarfile.BLOCKSIZE), b"")
    return any(block.startswith(b".status\0") for block in blocks)


def run_once(name: str, tar_in: Any, tar_out: Any, log: str, usual: float,
             environment: Dict[str, str]) -> int:
    """Run RUN for the recipe NAME, and give its status."""
    command = f"ulimit -f {OUTPUT_LIMIT // 512}; exec {RUN} sh -c {shlex.quote(IN_CONTAINER)}"
    process = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                ["sh", "-c", command], stdin=tar_in, stdout=tar_out, stderr=subprocess.PIPE,
                env=environment, start_new_session=True)
        with open(log, "wb", buffering=0) as file:
            copy_log(process.stderr, file, name, usual)
        return process.wait()
    finally:
        if process:
            stop_build(process, environment)


def copy_log(pipe: Any, file: Any, name: str, usual: float) -> None:
    """Copy a build's PIPE to the log FILE, and show its last line; Fail when it has no end."""
    started = shown = time.monotonic()
    last = b""
    for chunk in iter(lambda: pipe.read1(CHUNK), b""):
        file.write(chunk)
        if file.tell() > LOG_LIMIT:
            raise Fail(f"{name}: the build was stopped, for its log is over "
                       f"{human_size(LOG_LIMIT)}: {file.name}")
        last = (last + chunk)[-1000:]
        now = time.monotonic()
        if now - shown > 0.1:
            shown = now
            left = max(0, usual - (now - started))
            expected = f", about {left:.0f} s left" if usual else ""
            text = last.strip().rpartition(b"\n")[2].decode(errors="replace")
            progress(f"build   {name}: {now - started:.0f} s{expected}  {text}")


def stop_build(process: subprocess.Popen, environment: Dict[str, str]) -> None:
    """End a build that is still running; RUN's own end does not end what it began elsewhere.

    RUN_STOP finds nothing while the container is still being made, so it is asked until RUN ends.
    """
    import shutil
    import threading

    deadline = time.monotonic() + STOP_SECONDS
    if process.poll() is None:      # it ends only when what it still says is read
        drain = (process.stderr, open(os.devnull, "wb"))
        threading.Thread(target=shutil.copyfileobj, args=drain, daemon=True).start()
    while process.poll() is None:
        run_stop(environment)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        if process.poll() is None and time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)


def run_stop(environment: Dict[str, str]) -> None:
    subprocess.run(
        ["sh", "-c", RUN_STOP], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def failure(recipe: Recipe, log: str, status: int) -> str:
    """What to say of a build that ended with STATUS, after what its log has of the error."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    if status in (125, 126, 127):  # what docker says when it ran nothing
        said = [line for line in lines if line.startswith("docker: ")] or lines
        reason = said[0] if said else f"status {status}"
        return f"{recipe.name}: the build could not be started: {reason}; `docker info` tells more"
    what = "input or output was cut" if status == 100 else f"status {status}"
    at, place, command = failed_command(recipe, lines)
    for line in error_lines(lines, at):
        say(f"  {line}")
    where = place or recipe.full_name
    return f"{where}: {command or 'the build'} failed ({what}); the log is {log}"


TRACE = r"\++ (script|check)\.sh:([0-9]+): (?!\. \./)(.*)"
# What compilers, linkers, configure and make say of an error. make's words on a target that failed
# follow those of what it ran.
ERROR = (r"(?i)\b(fatal|error|undefined reference|cannot|can't|no such file|not found|"
         r"no rule to make|permission denied|out of memory)\b")
# What the make that runs build.mk says of itself.
MAKE_NOISE = r"make: (\*\*\* (\[build\.mk:|Waiting )|(Entering|Leaving) directory )"


def failed_command(recipe: Recipe, lines: List[str]) -> Tuple[int, str, str]:
    """(line of the log where the last command of the script began, its place, the command)."""
    for at in range(len(lines) - 1, -1, -1):
        match = re.match(TRACE, lines[at])
        if match and not match[0].startswith("+++"):    # what a command's redirection ran
            key, number, command = match[1], int(match[2]), match[3]
            places = script_places(recipe, key)
            place = places[min(number, len(places)) - 1]
            return at, f"{recipe.path}:{place.line}:{place.column}", command
    return 0, "", ""


def error_lines(lines: List[str], at: int) -> List[str]:
    """What to show of a log's LINES: the end, and the first error of the command that begins AT.

    make -j goes on with what it has begun, so the error may stand far above the end.
    """
    count = sum(re.match(MAKE_NOISE, line) is None for line in lines[:at])
    lines = [line for line in lines if not re.match(MAKE_NOISE, line)]
    first = next((number for number, line in enumerate(lines[count:], count)
                  if re.search(ERROR, line) and not re.match(TRACE, line)), len(lines))
    start, end = max(first - 3, 0), len(lines) - LOG_LINES // 2
    if start >= len(lines) - LOG_LINES:
        return lines[-LOG_LINES:]
    shown = lines[start:min(start + LOG_LINES // 2, end)]
    left_out = end - start - len(shown)
    return [*shown, *([f"... {left_out} more lines ..."] if left_out else []), *lines[end:]]


def pack(recipe: Recipe, work: Work, tar_out: Any, folder: str) -> Dict[str, Dict[str, Any]]:
    """Have lpkg make the packages of what came out, in FOLDER, and give their records."""
    tar_out.seek(0)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, \
            tempfile.TemporaryFile("w+") as listing:
        json.dump(metadata(recipe), file)
        file.flush()
        run_lpkg(["pack", "--meta", file.name, "-o", folder], tar_out, listing,
                 f"{recipe.path}: ")
        listing.seek(0)
        rows = [line.split() for line in listing]
    return {name: package_record(work, os.path.join(folder, path), size, digest)
            for name, path, size, digest in rows}


def package_record(work: Work, path: str, size: str, digest: str) -> Dict[str, Any]:
    """What a build record says of the package at PATH; what it needs and provides is its own word,
    since lpkg finds libraries and commands in the files."""
    info = package_info(path)
    return {"file": os.path.relpath(path, work.repository), "size": int(size), "sha256": digest,
            "depends": info.get("depends", []), "provides": info.get("provides", [])}


def package_info(path: str) -> Dict[str, Any]:
    """What the package at PATH says of itself, in the first line of its record (docs/lpkg.md)."""
    with tarfile.open(path) as tar:
        name, version, _, more = tar.extractfile(tar.next()).readline().decode().split("\t", 3)
    return {**json.loads(more), "name": name, "version": version}


# ---- a package is built again --------------------------------------------------------------------


def rebuild(recipe: Recipe, paths: List[str], work: Work) -> bool:
    """Build the recipe aside, and say of its packages at PATHS whether they have the same bytes."""
    check_hashes(recipe)
    os.makedirs(work.logs, exist_ok=True)
    with tempfile.TemporaryFile(dir=work.logs) as tar_in, \
            tempfile.TemporaryFile(dir=work.logs) as tar_out, \
            tempfile.TemporaryDirectory(dir=work.logs) as folder:
        write_input(recipe, work, tar_in)
        run_build(recipe, work, tar_in, tar_out, 0)
        packages = pack(recipe, work, tar_out, folder)
        made = {name: work.package_path(facts) for name, facts in packages.items()}
        return all([is_the_same(path, made.get(package_info(path)["name"])) for path in paths])


def is_the_same(path: str, other: Optional[str]) -> bool:
    """Say whether the package at PATH has the bytes of OTHER, or which members differ."""
    is_same, verdict = False, "the recipe does not make it"
    if other and file_digest(path) == file_digest(other):
        is_same, verdict = True, "equal"
    elif other:
        one, two = members(path), members(other)
        differ = sorted(member for member in {*one, *two} if one.get(member) != two.get(member))
        verdict = f"these differ: {', '.join(differ) or 'how it is packed'}"
    print(f"{os.path.basename(path)}: {verdict}", flush=True)   # the next one may take an hour
    return is_same


def members(path: str) -> Dict[str, Tuple]:
    """What makes up each member of the package at PATH, by its name."""
    with tarfile.open(path) as tar:
        return {member.name: (member.type, member.mode, member.uid, member.gid, member.mtime,
                              member.linkname, tar.extractfile(member).read() if member.isreg()
                              else b"") for member in tar}


# ---- what comes out is looked at -----------------------------------------------------------------
#
# Before anything is packed, the tar that a build gave is read through. An error ends the build;
# advice is said after a recipe's first build, and by `make check-recipe`. A recipe switches a check
# off by its name, with a reason: `allow: {soname: a plugin for itself}`. What rights a file may
# give is lpkg's to judge, when it packs.

# name: whether it is an error, and what to do
CHECKS: Dict[str, Tuple[bool, str]] = {
    "empty": (True, "install into out/{package}"),
    "soname": (True, "link it with -Wl,-soname, or move a plugin into a directory of its own"),
    "symbols": (False, "not stripped, though `strip` is not false"),
    "build-path": (False, "has a path of the build in it"),
    "dev": (False, "headers and static libraries belong into NAME-dev: {{dev \"NAME\"}}"),
    "doc": (False, "man pages and documents belong into NAME-doc: {{doc \"NAME\"}}"),
    "dangling": (False, "a link to what none of the recipe's packages has"),
    "conffiles": (False, "files below etc/ that conffiles doesn't name"),
    "copies": (False, "the same bytes under several names: make links of them"),
    "library": (False, "no package provides the library that it needs; libc.so.6 is the "
                       "builder's, so compile with $(CC)"),
}
DEV_PATHS = r"usr/include/.|usr/lib/[^/]*\.a$|usr/(lib|share)/pkgconfig/."
LINKER_LINK = r"usr/lib/lib[^/]*\.so$"
DOC_PATHS = r"usr/share/(man|doc|info|gtk-doc)/."
LIBRARY_PATHS = r"(usr/)?lib/lib[^/]*\.so(\.|$)"
BUILD_PATHS = re.compile(rb"(?<![\w./])/(?:build|sysroot)/")
COPIES_SIZE = 10_000        # bytes that copies may cost unsaid
MEMBERS_LIMIT = 300_000   # files in a build's tar


class OutFile(NamedTuple):
    """A file that a build gave: `kind` is one of tarfile's types, `elf` None for what isn't ELF."""

    package: str
    path: str
    kind: bytes
    size: int
    target: str
    digest: str
    elf: Optional["Elf"]
    has_build_path: bool


class Elf(NamedTuple):
    """What of an ELF file counts here."""

    is_shared: bool         # has a dynamic section, and no interpreter: a library
    soname: bool
    has_symbols: bool


def look_at_output(recipe: Recipe, tar_out: Any, log: str) -> List[str]:
    """The advice on what the build gave, a line a check; raises Fail for an error in it."""
    if not recipe.script:
        return []
    files = list(output_files(recipe, tar_out))
    found: Dict[str, List[str]] = {}
    for check, what in (*missing_files(recipe, files, log), *findings(recipe, files)):
        if check not in recipe.fields["allow"]:
            found.setdefault(check, []).append(what)
    advice = []
    for check, whats in found.items():
        is_error, hint = CHECKS[check]
        more = f" and {len(whats) - 3} more" if len(whats) > 3 else ""
        text = f"{', '.join(whats[:3])}{more}: {hint.replace('{package}', whats[0].split()[0])}"
        if is_error:
            raise Fail(f"{recipe.path}: {text}; `allow: {{{check}: REASON}}` switches this off")
        advice.append(f"{text} ({check})")
    return advice


def output_files(recipe: Recipe, tar_out: Any) -> Iterator[OutFile]:
    """What is in a build's tar; of a broken one, lpkg will say so."""
    with contextlib.suppress(tarfile.TarError, EOFError, ValueError):
        tar = tarfile.open(fileobj=tar_out, mode="r:", errors="surrogateescape")
        for count, member in enumerate(tar):
            if count > MEMBERS_LIMIT:
                raise Fail(f"{recipe.full_name}: the build gave over {MEMBERS_LIMIT} files; "
                           "no package has so many")
            top, _, rest = member.name.partition("/")
            package, _, path = rest.partition("/")
            if top == "out" and path:
                yield look_at_file(tar, member, package, path)


def look_at_file(tar: tarfile.TarFile, member: tarfile.TarInfo, package: str,
                 path: str) -> OutFile:
    digest, tail, has_path, elf = hashlib.sha256(), b"", False, None
    if member.isreg():
        file = tar.extractfile(member)
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
            has_path = has_path or bool(BUILD_PATHS.search(tail + chunk))
            tail = chunk[-20:]
        elf = read_elf(file, member.size)
    return OutFile(package, path, member.type, member.size, member.linkname, digest.hexdigest(),
                   elf, has_path)


def read_elf(file: Any, size: int) -> Optional[Elf]:
    """What the ELF FILE is, by its headers (System V ABI, chapters 4 and 5); None for another."""
    def read(offset: int, count: int) -> bytes:
        file.seek(min(offset, size))
        return file.read(min(count, 1 << 16))

    head = read(0, 64)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2):
        return None
    order = "little" if head[5] == 1 else "big"

    def number(data: bytes, at: int, width: int) -> int:
        return int.from_bytes(data[at:at + width], order)

    word = 4 * head[4]
    programs, sections = (number(head, 24 + word * place, word) for place in (1, 2))
    counts = 24 + 3 * word + 6                  # where the sizes and numbers of headers begin
    each, count, section_each, section_count = (
        number(head, counts + 2 * place, 2) for place in range(4))
    types = {}
    table = read(programs, each * count)
    for at in range(0, len(table) - each + 1, each or 1):
        types[number(table, at, 4)] = (number(table, at + word, word),
                                       number(table, at + word * 4, word))
    table = read(sections, section_each * section_count)
    kinds = {number(table, at + 4, 4) for at in range(0, len(table), section_each or 1)}
    dynamic = read(*types[2]) if 2 in types else b""
    tags = [number(dynamic, at, word) for at in range(0, len(dynamic), 2 * word)]
    return Elf(2 in types and 3 not in types, 14 in tags[:[*tags, 0].index(0)], 2 in kinds)


def missing_files(recipe: Recipe, files: List[OutFile], log: str) -> Iterator[Tuple[str, str]]:
    """(check, what) of each package that has no file, with where files went instead."""
    full = {file.package for file in files if file.kind != tarfile.DIRTYPE}
    for package in recipe.packages:
        if package not in full:
            with open(log, encoding="utf-8", errors="replace") as lines:
                strayed = [line.partition(": ")[2].strip() for line in lines
                           if line.startswith("outside of out: ")]
            where = f" ({', '.join(strayed[:3])} went elsewhere)" if strayed else ""
            yield "empty", f"{package} has no files{where}"


def findings(recipe: Recipe, files: List[OutFile]) -> Iterator[Tuple[str, str]]:
    """(check, what) of what is wrong or odd in FILES."""
    conffiles = {(name, clean_path(path)) for name, package in recipe.packages.items()
                 for path in package["conffiles"]}
    paths = {part for file in files for part in (file.path, *parents(file.path))}
    files = [file for file in files if file.kind != tarfile.DIRTYPE]
    names = {f"out/{file.package}/{file.path}": file for file in files}
    copies: Dict[str, List[OutFile]] = {}
    for file in files:
        if file.path.startswith("etc/lpkg.d/alt.d/"):
            continue
        if file.elf and file.elf.is_shared and not file.elf.soname and re.match(
                LIBRARY_PATHS, file.path):
            yield "soname", f"{file.path} is a shared library without a SONAME"
        if file.elf and file.elf.has_symbols and recipe.fields["strip"] and not (
                file.path.endswith((".o", ".ko"))):
            yield "symbols", file.path
        if file.has_build_path:
            yield "build-path", file.path
        if re.match(DEV_PATHS, file.path) and not file.package.endswith(("-dev", "-headers")):
            yield "dev", file.path
        if file.kind == tarfile.SYMTYPE and re.match(LINKER_LINK, file.path) and not (
                file.package.endswith("-dev")):
            yield "dev", f"{file.path} -> {file.target}"
        if re.match(DOC_PATHS, file.path) and not file.package.endswith(("-doc", "-man")):
            yield "doc", file.path
        if file.path.startswith("etc/") and file.kind == tarfile.REGTYPE and (
                file.package, file.path) not in conffiles:
            yield "conffiles", file.path
        target = os.path.join("/", os.path.dirname(file.path), file.target)
        if file.kind == tarfile.SYMTYPE and clean_path(target) not in paths:
            yield "dangling", f"{file.path} -> {file.target}"
        if file.kind in (tarfile.REGTYPE, tarfile.LNKTYPE):     # a package has no hard links
            content = names.get(file.target, file)
            copies.setdefault(content.digest, []).append(content)
    for same in copies.values():
        cost = sum(file.size for file in same[1:])
        if cost >= COPIES_SIZE:
            yield "copies", f"{same[0].path} under {len(same)} names, {human_size(cost)}"


def parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def unprovided_libraries(recipe: Recipe, work: Work, built: BuildRecord) -> Iterator[str]:
    """Advice on the shared libraries that the packages need and that no package built here has."""
    if "library" not in recipe.fields["allow"]:
        provided = {relation_name(text) for record in work.built.values()
                    for package in record.packages.values() for text in package["provides"]}
        for name, package in built.packages.items():
            for need in package["depends"]:
                if need.startswith("so:") and relation_name(need) not in provided:
                    yield f"{name} needs {need[3:]}: {CHECKS['library'][1]} (library)"


def remove_former(
    recipe: Recipe, work: Work, before: Optional[BuildRecord], built: BuildRecord) -> None:
    """Remove the package files of the build before that this one did not make again.

    Another recipe's record of one of the packages goes too: the package was that one's before it
    was renamed, or gave it away.
    """
    # Other builds may have ended since WORK was read.
    others = {} if recipe.is_stage else Work(work.arch).built
    former = {name: record for name, record in others.items() if name != recipe.name
              and not name.startswith("stage/") and {*record.packages} & {*built.packages}}
    paths = [os.path.join(work.records, name + ".built") for name in former]
    files = {facts["file"] for facts in built.packages.values()}
    paths += [work.package_path(facts) for record in (before, *former.values()) if record
              for facts in record.packages.values() if facts["file"] not in files]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


# ==== A tree of recipes ===========================================================================
#
# make closes dependencies by itself, so a target of world.mk names only what it needs directly, and
# the file grows as the tree does:
#
#   recipe/R   builds R; needs package/B for each build dependency B
#   package/P  P can be installed; needs the recipe that makes P, and package/D for each D that P
#              depends on
#   stage/R    builds the stage of R, which has `builder: bootstrap` and is in a cycle: without the
#              dependencies that are in the cycle too, the builder's tools in their place
#   staged/P   package/P as the recipes of the cycle have it: the stage's where R makes P
#
# A cycle of packages alone is not a problem, they are installed together: one of them has the needs
# of all, and the others need that one. In a cycle with recipes, every recipe, R itself too, is
# built with staged/ in place of package/. So the stage counts there even when R is built, and what
# goes into a build is the same in every run. A cycle that is left then is a problem of one of its
# recipes.
#
# libc needs nothing that needs libc unnamed: what package/libc-dev leads to is built without it.

Graph = Dict[str, List[str]]
NAMES_SHOWN, PROBLEMS_SHOWN = 12, 8  # of what keeps recipes from being built


class Tree:
    """Every recipe below a directory, and what has to be built before what.

    `makers`: the recipe behind each name that a package has or provides; `builds`: what the targets
    recipe/R and stage/R build; `problems`: a line for each recipe that can't be built; `lacks`: the
    names that it needs and no recipe makes, and the number of its sources without a hash, where
    that is the problem.
    """

    def __init__(self, directory: str, options: argparse.Namespace) -> None:
        self.directory, self.options = directory, options
        self.recipes: Dict[str, Recipe] = {}
        self.problems: Dict[str, str] = {}
        self.lacks: Dict[str, Tuple[List[str], int]] = {}
        self.cycles: List[set] = []  # of names of recipes
        unread: Dict[str, str] = {}  # who needs a recipe that can't be read hears about it
        for path in find_recipes(directory):
            self.load(path, unread)
        self.makers = self.find_makers(unread)
        for name in sorted(set(self.recipes).difference(self.problems)):
            self.check(self.recipes[name])
        self.builds = {f"recipe/{name}": recipe for name, recipe in self.recipes.items()
                       if name not in self.problems}
        self.graph = self.make_graph()
        self.order = self.sort()
        self.blocked = {f"recipe/{name}" for name in self.problems}  # targets that can't be built
        for target in self.order:
            if not self.blocked.isdisjoint(self.graph[target]):
                self.blocked.add(target)

    def load(self, path: str, unread: Dict[str, str]) -> None:
        # A directory whose name can't be a recipe's is a problem too, and needs a target for it.
        name = plain_name(recipe_name(path))
        try:
            recipe = load_recipe(path, self.options)
        except Fail as problem:
            self.problems[name] = str(problem).partition("\n")[0]
            unread.update(dict.fromkeys(package_names(path)[0], name))
            return
        if name in self.recipes:
            other = self.recipes[name].path
            self.problems[name] = f"{path}: a second recipe named {name}, beside {other}"
        elif not recipe.fields["arch"] or recipe.arch in recipe.fields["arch"]:
            self.recipes[name] = recipe

    def find_makers(self, unread: Dict[str, str]) -> Dict[str, str]:
        made: Dict[str, str] = {}
        provided: Dict[str, str] = {}
        for name, recipe in self.recipes.items():
            for package, fields in recipe.packages.items():
                other = made.setdefault(package, name)
                for one, two in ((name, other), (other, name)) if other != name else ():
                    paths = self.recipes[one].path, self.recipes[two].path
                    self.problems.setdefault(one, "{}: {} makes {} too".format(*paths, package))
                for relation in fields["provides"]:
                    provided.setdefault(relation_name(relation), name)
        return {**provided, **unread, **made}

    def find(self, name: str) -> str:
        """The recipe that makes the package NAME, or that is called so."""
        maker = self.makers.get(name) or recipe_name(find_recipe(self.directory, name))
        if f"recipe/{maker}" not in self.graph:
            raise Fail(f"{name}: its recipe is not for {self.options.arch}; see its `arch`")
        return maker

    def targets_of(self, names: List[str]) -> List[str]:
        """The targets that bring the packages, or build the recipes, NAMES."""
        known = {*self.makers, *map(self.maker, self.builds)}
        missing = dict.fromkeys(name for name in names if name not in known)
        if len(missing) > 1:
            words = ", ".join(name + nearest(name, known) for name in missing)
            raise Fail(f"{self.directory}: no recipe for {self.options.arch} makes {words}")
        return [f"package/{name}" if name in self.makers else f"recipe/{self.find(name)}"
                for name in names]

    def needs(self, recipe: Recipe, package: Optional[str] = None) -> List[str]:
        """The names that PACKAGE, or else the recipe's build, depends on."""
        if package is None:
            return build_needs(recipe, self.makers.__contains__)
        names = map(relation_name, recipe.packages[package]["dependencies"])
        return list(dict.fromkeys(filter(None, names)))

    def check(self, recipe: Recipe) -> None:
        """Note what the recipe needs that is not there: packages, and hashes of sources."""
        needs = {name: f"{package}'s dependency {name}"
                 for package in recipe.packages for name in self.needs(recipe, package)}
        needs.update({name: f"the build dependency {name}" for name in self.needs(recipe)})
        missing = [name for name in needs if name not in self.makers]
        try:
            if missing:
                what = ", ".join(needs[name] + nearest(name, self.makers) for name in missing)
                raise Fail(f"{recipe.path}: no recipe makes {what}")
            check_hashes(recipe)
        except Fail as problem:
            self.problems[recipe.name] = str(problem)
            self.lacks[recipe.name] = missing, sum(
                not source.is_local and source.alternatives[0].sha256 is None
                for source in recipe.sources)

    def make_graph(self) -> Graph:
        """The targets of world.mk, each with those it needs itself; cycles are there yet."""
        broken: Graph = {f"recipe/{name}": [] for name in self.problems}
        graph = {**broken, **{f"package/{name}": self.to_install(name) for name in self.makers}}
        for name, recipe in self.recipes.items():
            recipe.before_libc = True
            graph[f"recipe/{name}"] = self.targets(self.needs(recipe))
        libc = [f"package/{name}" for name in LIBC if name in self.makers]
        for target in set(self.builds).difference(reached_from(graph, libc)):
            self.builds[target].before_libc = False
            graph[target] = self.targets(self.needs(self.builds[target]))
        return {**graph, **broken}

    def targets(self, names: List[str]) -> List[str]:
        return [f"package/{name}" for name in names if name in self.makers]

    def to_install(self, name: str) -> List[str]:
        """The targets that the package NAME needs."""
        maker = self.makers[name]
        recipe = self.recipes.get(maker)
        package = provider(recipe.packages, name) if recipe else None
        if package and package != name:
            return [f"package/{package}"]
        return [f"recipe/{maker}", *self.targets(self.needs(recipe, name) if package else [])]

    def maker(self, target: str) -> str:
        """The recipe behind the target."""
        kind, _, name = target.partition("/")
        return name if kind in ("recipe", "stage") else self.makers[name]

    # ---- cycles ----

    def sort(self) -> List[str]:
        """The targets, each after those it needs, once every cycle is dealt with."""
        while True:
            groups = components(self.graph)
            cycles = [group for group in groups
                      if len(group) > 1 or group[0] in self.graph[group[0]]]
            if not cycles:
                return [target for group in groups for target in group]
            for group in cycles:
                self.break_cycle(group)

    def break_cycle(self, group: List[str]) -> None:
        builds = [target for target in group if target.startswith(("recipe/", "stage/"))]
        names = set(map(self.maker, builds))
        bootstraps = {name for name in names if f"stage/{name}" not in self.builds
                      and BUILDERS[self.recipes[name].fields["builder"]] == "bootstrap"}
        self.cycles += [names] if builds else []
        if not builds:
            first, *others = sorted(group)
            needs = dict.fromkeys(need for target in group for need in self.graph[target])
            self.graph[first] = [need for need in needs if need not in group]
            self.graph.update({other: [first] for other in others})
        elif bootstraps:
            self.add_stages(group, bootstraps)
        else:
            broken = self.report_cycles(builds)
            self.graph.update({target: broken for target in builds})
            self.graph.update({target: [] for target in broken})

    def add_stages(self, group: List[str], bootstraps: set) -> None:
        """Have the recipes of the GROUP, a cycle, built with the stages of the BOOTSTRAPS.

        A stage is built without its recipe's dependencies that are in the cycle. Its packages need
        none of these to run either, unless that is a stage's too.
        """
        # What the cycle's recipes need in the place of the group's targets.
        instead = {target: target.replace("package/", "staged/") for target in group}
        instead.update({f"recipe/{name}": f"stage/{name}" for name in bootstraps})
        without: Dict[str, List[str]] = {name: [] for name in bootstraps}
        for target in group:
            kind, _, name = target.partition("/")
            maker, needs = self.maker(target), self.graph[target]
            allowed = self.recipes[maker].fields["nobootstrap"]
            closing = [
                need for need in needs
                if maker in bootstraps and need in instead
                and (kind == "recipe" or self.maker(need) not in bootstraps)
                and not allowed.get(need.partition("/")[2])]
            prefix = "" if kind == "recipe" else f"{name}/"
            for need in closing:
                without[maker].append(prefix + need.partition("/")[2])
            kept = (need for need in needs if need not in closing)
            self.graph[instead[target]] = [instead.get(need, need) for need in kept]
            if kind == "recipe":
                self.graph[target] = [instead.get(need, need) for need in needs]
                self.recipes[name].stages = tuple(sorted(bootstraps))
        for name in bootstraps:
            self.builds[f"stage/{name}"] = as_stage(self.recipes[name], without[name])

    def report_cycles(self, builds: List[str]) -> List[str]:
        """Make each cycle among the targets BUILDS a problem of one recipe; give these recipes'."""
        told: set = set()
        broken = []
        for start in sorted(builds, key=lambda target: (target.startswith("recipe/"), target)):
            name = self.maker(start)
            if name not in told:
                came_from = reached_from(self.graph, [start])
                path = [start, came_from[start]]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                told.update(map(self.maker, path))
                broken.append(f"recipe/{name}")
                self.builds = {target: recipe for target, recipe in self.builds.items()
                               if recipe.name != name}
                self.problems[name] = f"{self.recipes[name].path}: {cycle_text(path[::-1])}"
        return broken


def cycle_text(path: List[str]) -> str:
    """A cycle of targets: its recipes, and packages that are in it by what they need to run."""
    words = []
    for target, after in zip(path, path[1:]):
        kind, _, name = target.partition("/")
        if kind == "stage":
            words.append(f"{name}'s stage")
        elif kind == "recipe" or after.startswith(("package/", "staged/")):
            words.append(name)
    if len(words) > NAMES_SHOWN:
        words[6:-5] = [f"({len(words) - 11} more)"]
    way_out = "one of them has to go, or one of the recipes needs `builder: bootstrap`"
    if any(target.startswith("stage/") for target in path):
        way_out = "`nobootstrap` forbids the way out"
    return f"build dependencies in a cycle: {' -> '.join([*words, words[0]])}; {way_out}"


def as_stage(recipe: Recipe, without: Iterable[str]) -> Recipe:
    """The RECIPE as its stage is built: WITHOUT the dependencies DEP, and PACKAGE/DEP."""
    left_out = tuple(sorted(without))

    def kept(relations: List[str], prefix: str = "") -> List[str]:
        return [text for text in relations if prefix + relation_name(text) not in left_out]

    packages = {
        name: {**package, "dependencies": kept(package["dependencies"], f"{name}/")}
        for name, package in recipe.packages.items()}
    needs = kept(recipe.fields["builddependencies"])
    fields = {**recipe.fields, "builddependencies": needs, "packages": packages}
    stage = copy.copy(recipe)
    stage.fields, stage.is_stage, stage.without = fields, True, left_out
    return stage


def components(graph: Graph) -> List[List[str]]:
    """The strong components of GRAPH, each after those it leads to, as Kosaraju finds them."""
    seen: set = set()
    order = [node for start in graph for node in visit(graph, start, seen)]
    back, seen = reverse(graph), set()
    groups = [visit(back, start, seen) for start in reversed(order)]
    return [group for group in reversed(groups) if group]


def visit(graph: Graph, start: str, seen: set) -> List[str]:
    """What GRAPH leads to from START and is not SEEN, in the order in which a search leaves it."""
    left: List[str] = []
    path = [(start, iter(graph[start]))] if start not in seen else []
    seen.add(start)
    while path:
        node = next((node for node in path[-1][1] if node not in seen), None)
        if node is None:
            left.append(path.pop()[0])
        else:
            seen.add(node)
            path.append((node, iter(graph[node])))
    return left


def reverse(graph: Graph) -> Graph:
    back: Graph = {node: [] for node in graph}
    for node, others in graph.items():
        for other in others:
            back[other].append(node)
    return back


def reached_from(graph: Graph, starts: Iterable[str]) -> Dict[str, str]:
    """The nodes that GRAPH leads to from STARTS, nearest first, each with the one before it."""
    came_from: Dict[str, str] = {}
    queue = list(starts)
    for node in queue:
        for other in graph[node]:
            if other not in came_from:
                came_from[other] = node
                queue.append(other)
    return came_from


def stale_builds(tree: Tree, work: Work) -> Dict[str, Recipe]:
    """The targets that have to be built, and those after them, which may have to be."""
    stale: Dict[str, Optional[Recipe]] = {}
    for target in tree.order:
        recipe = tree.builds.get(target)
        is_behind = any(need in stale for need in tree.graph[target])
        if target not in tree.blocked and (
                is_behind or (recipe and not is_up_to_date(recipe, work))):
            stale[target] = recipe
    return {target: recipe for target, recipe in stale.items() if recipe}


def check_services(tree: Tree, services: List[str], scope: set) -> None:
    """Raise Fail unless packages among the targets SCOPE bring the init scripts of SERVICES."""
    brought: Dict[str, List[str]] = {}
    for recipe in tree.recipes.values():
        for package, fields in recipe.packages.items():
            for service in fields["services"]:
                brought.setdefault(service, []).append(package)
    for name in services:
        packages = brought.get(name.partition("@")[0])
        if not packages:
            raise Fail(f"no package has the service {name}{nearest(name, brought)}")
        if not any(f"package/{package}" in scope for package in packages):
            raise Fail(f"the service {name} is in the package {' or '.join(packages)}, "
                       "which is not among those asked for; add it")


def world_mk(directory: str, tree: Tree, work: Work, stale: Dict[str, Recipe],
             wanted: List[str]) -> str:
    """The makefile whose `all` brings the targets WANTED, or else builds every recipe of TREE.

    What is in STALE has something to do.
    """
    targets = sorted(tree.graph)
    buildable = [target for target in targets
                 if target.startswith("recipe/") and target not in tree.blocked]
    rules = [target_rule(tree, target, stale.get(target)) for target in targets]
    rules += fetch_rules(stale.values()).values()
    why = f"`pkggen.py world-mk {directory}` says why"
    blocked = f"{count(len(tree.problems), 'recipe')} can't be built; {why}"
    return WORLD_MK.format(
        folder=printable(directory), arch=work.arch, pkggen=pkggen_command(),
        phony="".join(f" \\\n\t{target_name(target)}" for target in targets),
        buildable="".join(f" {target}" for target in buildable),
        wanted="".join(f" {target_name(target)}" for target in wanted) or " buildable",
        failing=failing_command(blocked) if tree.problems and not wanted else "",
        rules="".join("\n" + rule for rule in rules))


def target_name(target: str) -> str:
    """The target as a makefile names it; a package may provide `so:NAME`."""
    return one_line(target).replace(":", "\\:")


def target_rule(tree: Tree, target: str, stale: Optional[Recipe]) -> str:
    """The rule for the target, with a command when the recipe that it builds is STALE."""
    kind, _, name = target.partition("/")
    if kind == "recipe" and name in tree.problems:
        return f"{target}:\n{failing_command(tree.problems[name])}"
    needs = [target_name(need) for need in tree.graph[target]]
    command = ""
    if stale:
        needs += [source_target(source) for source in stale.sources if not source.is_local]
        command = f"\t@$(PKGGEN) build {quote_command(build_arguments(stale, tree.options))}\n"
    return f"{target_name(target)}: {' '.join(needs)}".rstrip() + "\n" + command


def build_arguments(recipe: Recipe, options: argparse.Namespace) -> List[str]:
    """What `pkggen.py build` is to be given to build the recipe as OPTIONS had it loaded."""
    words = [recipe.folder, "--arch", recipe.arch, "--hostarch", recipe.hostarch]
    given = (("--lenient", options.lenient), ("--before-libc", recipe.before_libc),
             ("--stage", recipe.is_stage))
    words += [option for option, is_given in given if is_given]
    many = (("-D", map("=".join, options.data.items())), ("--without", recipe.without),
            ("--use-stage", recipe.stages))
    return words + [word for option, values in many for value in values for word in (option, value)]


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def problem_lines(tree: Tree, names: List[str]) -> List[str]:
    """A few lines that say why the recipes NAMES can't be built: what many share in one."""
    lacks = [tree.lacks[name] for name in names if name in tree.lacks]
    missing = collections.Counter(name for names, _ in lacks for name in names).most_common()
    hashless = [number for _, number in lacks if number]
    others = sorted(name for name in names if name not in tree.lacks)
    lines = []
    if missing:
        words = [f"{name} ({count(number, 'recipe')})" for name, number in missing[:NAMES_SHOWN]]
        words += [f"{len(missing) - NAMES_SHOWN} more"] if missing[NAMES_SHOWN:] else []
        lines.append(f"{count(len(missing), 'name')} no recipe makes: {', '.join(words)}")
    if hashless:
        lines.append(
            f"{count(sum(hashless), 'source')} in {count(len(hashless), 'recipe')} without sha256; "
            "`pkggen.py hash RECIPE...` fetches them and writes it")
    lines += [tree.problems[name] for name in others[:PROBLEMS_SHOWN]]
    if others[PROBLEMS_SHOWN:]:
        rest = " ".join(others[PROBLEMS_SHOWN:])
        lines.append(f"and what `pkggen.py why {tree.directory} NAME` says of: {rest}")
    behind = sum(target.startswith("recipe/") for target in tree.blocked) - len(tree.problems)
    also = f", nor what needs them ({count(behind, 'recipe')})" if behind else ""
    head = f"{count(len(names), 'recipe')} can't be built{also}:"
    return [head, *(f"  {line}" for line in lines)] if lines else []


# ==== Why a recipe is built, and a picture of the tree ============================================


def why(tree: Tree, work: Work, name: str) -> List[str]:
    """Lines that say what of the recipe NAME changed since its last good build, and what follows.

    A recipe with a stage is built twice, and has something to say of each.
    """
    if name in tree.problems:
        return [f"{name}: it can't be built: {tree.problems[name]}"]
    targets = [target for target in (f"stage/{name}", f"recipe/{name}") if target in tree.builds]
    stale = stale_builds(tree, work)
    lines = []
    for target in targets:
        lines += what_changed(tree.builds[target], work)
        needed = reached_from(tree.graph, [target])
        first = [recipe.full_name for need, recipe in stale.items()
                 if need in needed and not is_up_to_date(recipe, work)]
        lines += [f"  before it is built: {', '.join(first)}"] if first else []
        never = sorted(other for other in tree.problems if f"recipe/{other}" in needed)
        lines += [f"  it needs what can't be built: {', '.join(never)}"] if never else []
    behind = reached_from(reverse(tree.graph), [target for target in targets if target in stale])
    names = sorted({tree.builds[need].name for need in behind if need in tree.builds} - {name})
    return lines + ([f"behind it, to be looked at then: {' '.join(names)}"] if names else [])


def what_changed(recipe: Recipe, work: Work) -> List[str]:
    built = work.built.get(recipe.record_name)
    if built is None:
        return [f"{recipe.full_name}: never built"]
    now, lines = build_inputs(recipe, work), []
    for name in {**now, **built.inputs}:
        before, after = built.inputs.get(name), now.get(name)
        if before is None or after is None:
            lines.append(f"  {name} is {'new' if before is None else 'gone'}")
        elif before != after:
            is_mode = name.startswith("file ") and before.split()[0] == after.split()[0]
            lines.append(f"  {name} {'has another mode' if is_mode else 'changed'}")
            if name in built.texts:
                lines += changed_lines(built.texts[name], build_texts(recipe)[name])
    if not work.is_here(built):
        lines.append(f"  a package is not in {work.packages_folder(recipe)} as it was built")
    state = "what changed since it was built" if lines else "up to date"
    return [f"{recipe.full_name}: {state}", *lines]


def changed_lines(before: str, now: str) -> List[str]:
    """What differs between two texts of a build's inputs, JSON or a makefile."""
    import difflib

    texts = (json.dumps(json.loads(text), indent=1) if text.startswith("{") else text
             for text in (before, now))
    difference = difflib.unified_diff(*(text.split("\n") for text in texts), n=0, lineterm="")
    shown = [f"    {line[0]} {line[1:]}" for line in list(difference)[2:] if line[:2] != "@@"]
    more = [f"    and {len(shown) - LOG_LINES} lines more"] if len(shown) > LOG_LINES else []
    return shown[:LOG_LINES] + more


# ---- the picture ---------------------------------------------------------------------------------

GRAPH = """\
digraph recipes {{
  graph [rankdir=LR, fontname="sans-serif", fontsize=10, label={title}]
  node [shape=box, style=rounded, fontname="sans-serif", fontsize=11]
  edge [arrowsize=0.6]
{body}}}
"""


def graph_dot(directory: str, tree: Tree, work: Work) -> str:
    """The recipes of TREE as a graph in Graphviz's language; cycles are thick."""
    arrows: Dict[Tuple[str, str], Dict[str, str]] = {}
    for name, recipe in tree.recipes.items():
        to_run = [need for package in recipe.packages for need in tree.needs(recipe, package)
                  if tree.makers.get(need) != name]
        for needs, style in ((to_run, {"style": "dashed"}), (tree.needs(recipe), {})):
            arrows.update({(name, tree.makers.get(need, need)): style for need in needs})
    for name, other in arrows:
        if any(name in cycle and other in cycle for cycle in tree.cycles):
            arrows[name, other] = {**arrows[name, other], "color": "red", "penwidth": "2"}
    packages = sum(len(recipe.packages) for recipe in tree.recipes.values())
    title = (
        f"{directory}: {len(tree.recipes)} recipes, {packages} packages. An arrow leads to what is "
        "needed to build; a dashed one, to run. Red: a cycle; framed twice: has a stage.")
    names = {*tree.recipes, *tree.problems, *(other for _, other in arrows)}
    body = [dot_line(dot_text(name), node_attributes(tree, work, name)) for name in sorted(names)]
    body += [dot_line(f"{dot_text(name)} -> {dot_text(other)}", attributes)
             for (name, other), attributes in sorted(arrows.items())]
    return GRAPH.format(title=dot_text(title), body="".join(body))


def node_attributes(tree: Tree, work: Work, name: str) -> Dict[str, str]:
    recipe, built = tree.recipes.get(name), work.built.get(name)
    if not recipe:
        tooltip = tree.problems.get(name, "no recipe makes it")
        return {"style": "dashed", "color": "red", "tooltip": tooltip}
    size = sum(values["size"] for values in built.packages.values()) if built else 0
    built_as = f"\n{built.seconds:.0f} s, {human_size(size)}" if built else ""
    return {
        "label": f"{name} {recipe.version}{built_as}",
        "tooltip": tree.problems.get(name) or recipe.fields["summary"] or name,
        **({"color": "red"} if name in tree.problems else {}),
        **({"peripheries": "2"} if f"stage/{name}" in tree.builds else {})}


def dot_line(what: str, attributes: Dict[str, str]) -> str:
    texts = [f"{key}={dot_text(value)}" for key, value in attributes.items()]
    return f"  {what} [{', '.join(texts)}]\n" if texts else f"  {what}\n"


def dot_text(text: str) -> str:
    """TEXT as a string of Graphviz's language, which has its newlines as \\n."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def run_dot(text: str) -> bytes:
    """The SVG that Graphviz draws of TEXT."""
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=to_bytes(text), capture_output=True)
    except FileNotFoundError:
        raise Fail("Graphviz's dot is missing; `apt-get install graphviz`, or -o FILE.dot without "
                   "it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        raise Fail(f"dot: {said.splitlines()[-1]}; -o FILE.dot keeps what it was given")
    return done.stdout


# ==== Fetching ====================================================================================
#
# A source is fetched into the cache under its hash: first HASH.part, which a later run goes on
# with, then, once its bytes have that hash, HASH. The lock is on the .part file, so two makes never
# write into one. Others may share and write the cache, so nothing in it is believed but bytes of
# the right hash; what must be believed (apt's lists, git's repository) is below OUT, in a directory
# of our own.


class Unreachable(Fail):
    """Why one place did not give a source; the next one is tried."""


DEAD_SECONDS = 60  # for so long a host that gave no answer is not asked again
LOCK_SECONDS = 2  # after so long a process that waits says for which
OTHER_BYTES = "has other bytes: sha256 {}, and the recipe wants {}"


def fetch_source(name: str, alternatives: Iterable[Alternative], folder: str,
                 recipe: str = "RECIPE") -> str:
    """The path of the source in the cache FOLDER, fetched from the first alternative that has it.

    Raises Fail when none has, with what each of them said.
    """
    alternatives = list(alternatives)
    if any(alternative.sha256 is None for alternative in alternatives):
        raise Fail(f"{name}: no sha256; `pkggen.py hash {recipe}` fetches it and writes one")
    path = cached_path(alternatives, folder)
    if path:
        return path
    reasons = []
    for alternative in alternatives:
        try:
            return fetch_alternative(name, alternative, folder)
        except Unreachable as reason:
            reasons.append(f"{alternative.url}: {reason}")
    if any(OTHER_BYTES[:15] in reason for reason in reasons):
        remedy = f"if upstream changed the file, `pkggen.py hash {recipe}` writes its new hash"
    else:
        remedy = f"bring the file by hand as {os.path.join(folder, alternatives[0].sha256)}"
    raise Fail(f"{name}: no source has it: {'; '.join(reasons)}; {remedy}")


def cached_path(alternatives: Iterable[Alternative], folder: str) -> Optional[str]:
    """Where the first of the ALTERNATIVES that is in the cache FOLDER lies there."""
    paths = [os.path.join(folder, alternative.sha256 or "") for alternative in alternatives]
    return next(filter(os.path.isfile, paths), None)


def fetch_alternative(name: str, alternative: Alternative, folder: str) -> str:
    """Fetch what ALTERNATIVE names into the cache FOLDER; its path, whose last part is its hash.

    Without a hash any bytes are taken.
    """
    if alternative.url.startswith("deb-src:"):
        return fetch_deb_src(name, alternative, folder)
    url, wanted = alternative
    os.makedirs(folder, exist_ok=True)
    part_name = f"{wanted or 'new-' + os.urandom(6).hex()}.part"
    started = time.monotonic()
    with lock_file(os.path.join(folder, part_name), f"fetch   {name}") as part:
        try:
            path = os.path.join(folder, wanted or "")
            if os.path.isfile(path):  # another fetch brought it while this one waited
                os.unlink(part.name)
                return path
            digest = download_and_hash(url, part, name, wanted)
            path = os.path.join(folder, digest)
            os.fchmod(part.fileno(), 0o644)  # others may read it now
            os.replace(part.name, path)
        except BaseException:
            if not wanted or not part.seek(0, os.SEEK_END):
                os.unlink(part.name)
            raise
    size, seconds = os.path.getsize(path), time.monotonic() - started
    host = urllib.parse.urlsplit(url).hostname or url.partition(":")[0]
    say(f"fetch   {name}: {human_size(size)} from {host} in {seconds:.0f} s")
    return path


def download_and_hash(url: str, part: Any, name: str, wanted: Optional[str]) -> str:
    """Bring what URL names into PART; its hash, which is the WANTED one."""
    while True:
        resumed = part.seek(0, os.SEEK_END)
        download(url, part, name)
        part.seek(0)
        is_page = re.match(rb"\s*<(!doctype )?html", part.read(99), re.I) and "htm" not in name
        part.seek(0)
        digest = file_digest(os.dup(part.fileno()))  # not by its path: others may write the folder
        if not part.tell():
            raise Unreachable("the answer is empty")
        if digest == wanted or not (wanted or is_page):
            return digest
        part.truncate(0)
        if not resumed:  # else what it went on with may have been another file's, or spoilt
            raise Unreachable("the answer is a web page, not the file" if is_page
                              else OTHER_BYTES.format(digest, wanted))


def lock_file(path: str, what: str) -> Any:
    """Open PATH for reading and writing, for this user alone, once no other process holds it.

    It stays when it is closed. After LOCK_SECONDS it is said, after WHAT, who holds it.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        file = open(path, "r+b", buffering=0, opener=lambda path, flags: os.open(
            path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held the lock may have renamed or removed the file meanwhile.
            state = os.fstat(file.fileno())
            if os.path.samestat(state, os.lstat(path)):
                if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
                    raise Fail(f"{path}: not a file that pkggen made; remove it")
                os.fchmod(file.fileno(), 0o600)
                return file
        if time.monotonic() > deadline:
            say(f"{what}: waiting for {lock_holder(file)}, which has {path}")
            deadline = math.inf
        file.close()
        time.sleep(0.05)


def lock_holder(file: Any) -> str:
    """The process that holds the lock on FILE, as the kernel tells (proc(5), /proc/locks)."""
    inode = f":{os.fstat(file.fileno()).st_ino}"
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for _, kind, _, _, process, place, *_ in map(str.split, locks):
            if kind == "FLOCK" and place.endswith(inode):
                return f"process {process}"
    return "another process"


def private_folder(*names: str) -> str:
    """The directory OUT/fetch/NAMES, made when needed: what is in it is this user's own."""
    folder = os.path.join(OUT, "fetch")
    os.makedirs(OUT, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    state = os.lstat(folder)  # a link has mode 0777
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise Fail(f"{folder}: not a directory that is this user's alone; remove it")
    path = os.path.join(folder, *names)
    os.makedirs(path, exist_ok=True)
    return path


def download(url: str, part: Any, name: str) -> None:
    """Bring what URL names into the open file PART, going on with what PART has."""
    import http.client

    if url.startswith("git+"):
        return download_by_git(url, part, name)
    for attempt in range(3):
        have = part.seek(0, os.SEEK_END)
        try:
            with open_url(url, have) as reply:
                if getattr(reply, "status", None) != 206:
                    have = 0
                    part.truncate(0)
                part.seek(have)
                return receive(reply, part, have, name)
        except (http.client.HTTPException, OSError, ValueError) as error:
            # A cut connection goes on where it was cut, as long as each attempt brings something.
            if attempt == 2 or part.seek(0, os.SEEK_END) <= have:
                raise Unreachable(str(error) or type(error).__name__) from None


def open_url(url: str, have: int = 0) -> Any:
    """The server's answer to a request for URL from byte HAVE on, or for all where none is left."""
    import urllib.error
    import urllib.request

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, old: Any, file: Any, code: int, *rest: Any) -> Any:
            if old.type == "https" and not rest[-1].lower().startswith("https:"):
                problem = f"it redirects from https to {shown_url(rest[-1])}"
                raise urllib.error.HTTPError(old.full_url, code, problem, rest[1], file)
            hosts.append(url_host(rest[-1]))
            return super().redirect_request(old, file, code, *rest)

    url, login = ascii_url(url)
    hosts = [url_host(url)]
    request = urllib.request.Request(url, headers={"User-Agent": f"pkggen/{VERSION}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    if login:
        request.add_unredirected_header("Authorization", login)
    try:
        with asking(hosts):
            return urllib.request.build_opener(Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # what is there is of another file, or whole
            return open_url(url)
        raise Unreachable(" ".join(f"{error.code} {error.reason}".split())) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        over = f"it redirects to {hosts[-1]}: " if len(hosts) > 1 else ""
        raise Unreachable(f"{over}{getattr(reason, 'strerror', None) or reason}") from None


def ascii_url(url: str) -> Tuple[str, str]:
    """URL as HTTP has it, and the Authorization header for its host: URL's own, or ~/.netrc's."""
    import base64
    import netrc

    parts = urllib.parse.urlsplit(url)
    login = (parts.username, "", parts.password) if parts.username else None
    if parts.scheme == "https" and not login:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            login = netrc.netrc().hosts.get(parts.hostname)
    pair = urllib.parse.unquote(f"{login[0]}:{login[2] or ''}") if login else ""
    header = "Basic " + base64.b64encode(pair.encode()).decode() if login else ""
    plain = parts._replace(netloc=url_host(url).encode("idna").decode()).geturl()
    return urllib.parse.quote(plain, safe="!#$%&'()*+,/:;=?@[]~"), header


def shown_url(url: str) -> str:
    """URL without the user and password that it may have."""
    return re.sub("//[^/?#]*@", "//", url)


def receive(reply: Any, part: Any, have: int, name: str) -> None:
    """Append what REPLY brings to PART, which has HAVE bytes; show bytes, rate and time left."""
    length = reply.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else 0
    done, started = have, time.monotonic()
    shown = started
    for chunk in iter(lambda: reply.read(CHUNK), b""):
        part.write(chunk)
        done += len(chunk)
        now = time.monotonic()
        if now - shown >= 0.1:
            shown, rate = now, (done - have) / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            size = human_size(done) + (f" of {human_size(total)}" if total else "")
            progress(f"fetch   {name}: {size}, {human_size(rate)}/s{left}")
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


@contextlib.contextmanager
def asking(hosts: List[str]) -> Iterator[None]:
    """Around a first word to HOSTS[0], which adds those that it leads to: when it gives no answer
    it is dead for DEAD_SECONDS.

    Fetches that run at once take turns, so that a dead host is asked by one of them. The mark is
    OUT/fetch/dead/HOST: not empty, and as old as the last try.
    """
    import ssl

    host = hosts[0]
    mark = os.path.join(private_folder("dead"), urllib.parse.quote(host, safe="") or "-")
    with lock_file(mark, f"fetch   {host}") as file:
        state = os.fstat(file.fileno())
        if state.st_size and 0 <= time.time() - state.st_mtime < DEAD_SECONDS:
            raise Unreachable(f"{host} gave no answer within the last {DEAD_SECONDS} s")
        file.truncate(0)
        try:
            yield
        except OSError as error:
            reason = getattr(error, "reason", error)  # of a 404 a text
            # A server with a wrong certificate answers: with another SSL_CERT_FILE it may serve.
            answers = not isinstance(reason, OSError) or isinstance(reason, ssl.CertificateError)
            if host and len(hosts) == 1 and not answers:
                file.write(b"dead\n")
            raise
        finally:
            if not os.fstat(file.fileno()).st_size:
                os.unlink(mark)


# ---- git+https: a commit as a tar, by git without the user's own configuration -------------------


def download_by_git(url: str, part: Any, name: str) -> None:
    """Bring the tar of the commit that URL names, its files below NAME-COMMIT/.

    They are as git keeps them: the commit's own .gitattributes change nothing. git itself checks
    that they are what the commit's hash says.
    """
    match = GIT.fullmatch(url.partition("?")[0])
    url, commit = match["url"], match["commit"]
    open_url(url.rstrip("/") + "/info/refs?service=git-upload-pack").close()
    part.truncate(0)
    part.seek(0)
    with tempfile.TemporaryDirectory(prefix="git-", dir=private_folder()) as place:
        def git(*arguments: str, stdout: Any = None) -> str:
            return run_git(arguments, place, name, stdout)

        git("init", "-q", "--bare", "--template=")
        os.mkdir(os.path.join(place, "info"))
        with open(os.path.join(place, "info", "attributes"), "w") as file:
            file.write("* -export-subst -export-ignore -text -ident -filter\n")
        fetch = ("fetch", "-q", "--no-tags", "--no-recurse-submodules")
        try:
            git(*fetch, "--depth=1", "--", url, commit)
        except Unreachable:  # the server gives no commit by its hash, so all that it has
            git(*fetch, "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        prefix = f"--prefix={match['name']}-{commit}/"
        git("archive", "--format=tar", prefix, f"{commit}^{{commit}}", stdout=part)
        modules = re.findall("160000 commit [^\t]*\t([^\0]*)", git("ls-tree", "-r", "-z", commit))
    if modules:
        say(f"fetch   {name}: has submodules: {' '.join(modules)}; they are not fetched: "
            "give each as a source of its own")


def run_git(arguments: Iterable[str], place: str, name: str, stdout: Any) -> str:
    """Run git: it asks for no password, and knows no configuration, no program of the user's, and
    no way but https."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("GIT_", "SSH_ASKPASS"))}
    authority = os.environ.get("GIT_SSL_CAINFO") or os.environ.get("SSL_CERT_FILE")
    environment.update({"GIT_SSL_CAINFO": authority} if authority else {}, LC_ALL="C")
    environment.update(
        GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull,
        GIT_ATTR_NOSYSTEM="1", GIT_ALLOW_PROTOCOL="https")
    settings = [f"http.lowSpeedTime={TIMEOUT}", "http.lowSpeedLimit=1", "tar.umask=0022"]
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", "--git-dir=.", *options, *arguments]
    return run_fetcher(command, place, name, environment, stdout)


def run_fetcher(command: List[str], folder: str, name: str, environment: Dict[str, str],
                stdout: Any = None) -> str:
    """Run COMMAND in FOLDER; what it wrote, unless that goes to STDOUT."""
    progress(f"fetch   {name}: by {command[0]}")
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment)
    except FileNotFoundError:
        raise Unreachable(f"there is no {command[0]} on this machine; install it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        reasons = re.findall("(?m)^(?:fatal: |error: |E: )(.*)", said) or said.splitlines()
        raise Unreachable(f"{command[0]}: {(reasons or ['no reason given'])[0].rstrip('.')}")
    return (done.stdout or b"").decode(errors="replace")


# ---- deb-src: where the host's own apt, with a configuration of our own, says that a file is -----


Archives = Tuple[str, List[Tuple[str, ...]]]  # a name, and (URI, suite, component) of each


def fetch_deb_src(name: str, alternative: Alternative, folder: str) -> str:
    """Fetch the source package's file, with the hash that apt's signed lists have for it.

    The release's own archive is asked alone first: it no longer changes. With the archive of
    updates beside it apt would take the same version from there, where old files go away.
    """
    match = DEB_SRC.fullmatch(alternative.url.partition("?")[0])
    for archives in archive_sets(match["suite"]):
        try:
            files = apt_files(archives, match["package"])
            if match["file"] not in files:
                raise Unreachable(f"apt has {', '.join(files) or 'no tar archive'} instead")
            url, digest = files[match["file"]]
            if alternative.sha256 not in (None, digest):
                raise Unreachable(OTHER_BYTES.format(digest, alternative.sha256))
            try:
                return fetch_alternative(name, Alternative(url, digest), folder)
            except Unreachable as reason:
                raise Unreachable(f"{shown_url(url)}: {reason}") from None
        except Unreachable as reason:
            problem = reason
    raise problem


def deb_src_files(package: str) -> List[Tuple[str, str]]:
    """(file, URL) of each tar archive of apt's source package [SUITE/]PACKAGE[=VERSION], upstream's
    first; the release's own, where it has that version."""
    suite, _, name = package.rpartition("/")
    for archives in archive_sets(suite):
        try:
            files = [(file, url) for file, (url, _) in apt_files(archives, name).items()]
            return sorted(files, key=lambda one: ".orig.tar." not in one[0])
        except Unreachable as reason:
            problem = reason
    raise problem


def apt_files(archives: Archives, package: str) -> Dict[str, Alternative]:
    """The tar archives of a source package: file to where apt's mirror has it, and its hash."""
    options = apt_options(archives)
    text = run_apt("apt-get", *options, "source", "--print-uris", "--tar-only", package)
    found = re.findall(r"(?m)^'(.*)' (\S+) \d+ SHA256:([0-9a-f]{64})$", text)
    return {file: Alternative(url, digest) for url, file, digest in found}


def archive_sets(suite: Optional[str]) -> List[Archives]:
    """The archives to ask, one set after the other, each on the mirror of this machine's apt.

    They are SUITE's, or the release's own and then all that this machine uses.
    """
    rows = apt_archives()
    release = [row for row in rows if "-" not in row[1]]
    if not suite:
        return [("release", release), ("all", rows)]
    updates = [row for row in rows if row[1].endswith("-security")]
    bases = updates if suite.endswith("-security") else release
    if not bases:
        raise Unreachable(f"this machine's apt has no mirror with {suite}")
    return [(suite, sorted({(uri, suite, component) for uri, _, component in bases}))]


@functools.lru_cache(maxsize=None)
def apt_archives() -> List[Tuple[str, ...]]:
    """(URI, suite, component) of each archive of Debian's that this machine's apt uses."""
    form = "$(ORIGIN) $(REPO_URI) $(CODENAME) $(COMPONENT)"
    text = run_apt("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    rows = {tuple(line.split()[1:]) for line in text.splitlines() if line.startswith("Debian ")}
    if not rows:
        raise Unreachable("this machine's apt has no archive of Debian's; `apt-get update` first")
    return sorted(rows)


def apt_options(archives: Archives) -> List[str]:
    """Options that give apt the source lines of ARCHIVES and its own lists, renewed once a day."""
    name, rows = archives
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={keyring}] " if os.path.exists(keyring) else ""
    lines = "".join(f"deb-src {signed}{' '.join(row)}\n" for row in rows).encode()
    state = os.path.abspath(private_folder("apt", name))
    sources = os.path.join(state, "sources.list")
    options = [
        "-qq", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null",
        "-o", f"Dir::State::Lists={state}/lists", "-o", "Dir::State::Status=/dev/null",
        "-o", f"Dir::Cache={state}", "-o", "APT::Sandbox::User=root"]
    # What the lists were last renewed for, and when, is what is in the lock and its age.
    with lock_file(os.path.join(state, "lock"), "fetch   apt's lists") as lock:
        age = time.time() - os.fstat(lock.fileno()).st_mtime
        if lock.read() != lines or not 0 <= age < 86400:
            os.makedirs(os.path.join(state, "lists", "partial"), exist_ok=True)
            write_atomic(sources, lines, 0o600)
            run_apt("apt-get", *options, "update")
            lock.truncate(0)
            lock.seek(0)
            lock.write(lines)
    return options


def run_apt(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return run_fetcher(list(command), private_folder("apt"), "apt's lists", environment)


# ==== Lint ========================================================================================
#
# Lint loads a recipe as a build does, but goes on after what it finds. A script it looks at as the
# shell will get it: rendered, and with what is make's replaced by a word. Each line is traced back
# to the recipe: the template is rendered once more with a mark before each of its lines.


class Finding(NamedTuple):
    """What is wrong at a place of a recipe; line and column count from 1."""

    path: str
    line: int
    column: int
    what: str


class Linter(Reader):
    """A reader that gathers what is wrong in `found` and goes on with what it can read."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.found: List[Finding] = []
        self.is_broken = False

    def add(self, node: Any, what: str) -> None:
        self.problem(self.fail(node, what))

    def problem(self, problem: Fail) -> None:
        text = str(problem)
        match = re.match(r":(\d+)(?::(\d+))?: ", text[len(self.path) :])
        if text.startswith(self.path) and match:
            place, text = (int(match[1]), int(match[2] or 1)), text[len(self.path) + match.end() :]
        else:
            place, text = (1, 1), text.replace(f"{self.path}: ", "", 1)
        self.found.append(Finding(self.path, *place, text.partition("\n")[0]))

    def read(self, field: Field, node: Any) -> Any:
        try:
            return super().read(field, node)
        except Fail as problem:
            self.problem(problem)
            self.is_broken = True
            return field.shape.empty()

    def struct(self, node: Any, table: Tuple[Field, ...], what: str) -> Dict[str, Any]:
        values = super().struct(node, table, what)
        order = [field.key for field in table]
        last = 0
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            index = order.index(key.value) if key.value in order else last
            if index < last:
                self.add(key, f"{key.value} belongs before {order[last]}")
            last = max(last, index)
        return values


def lint_recipe(argument: str, options: argparse.Namespace) -> List[Finding]:
    reader = Linter(recipe_path(argument))
    try:
        recipe = load_recipe(argument, options, reader)
    except Fail as problem:
        if not reader.is_broken:  # else it may well follow from what is known
            reader.problem(problem)
        return reader.found
    nodes = {key.value: value for key, value in compose(recipe.path).value}
    lint_sources(recipe, reader, nodes)
    for key in ("script", "check"):
        for at, what in lint_script(getattr(recipe, key)):
            place = script_place(recipe, key, at)
            reader.problem(Fail(f"{recipe.path}:{place.line}:{place.column}: {what}"))
    return reader.found


def lint_sources(recipe: Recipe, reader: Linter, nodes: Dict[str, Any]) -> None:
    for (texts, place), source in zip(recipe.fields["sources"], recipe.sources):
        if not source.is_local and source.alternatives[0].sha256 is None:
            reader.problem(Fail(no_hash(recipe, source)))
        own = source_name(source.alternatives[0].url, place)
        if source.name != own and not split_name(texts[0], place)[0]:
            reader.problem(Fail(f"{place}: another source has this file name, so it is "
                                f"src/{source.name}; give it a name, as in NAME::URL"))
        for url, _ in source.alternatives[: len(texts)]:
            if url.startswith("http:"):
                reader.problem(Fail(f"{place}: {url} is plain http; use https"))
    if any(url.startswith("http:") for url in recipe.fields["mirrors"]):
        reader.add(nodes["mirrors"], "a mirror with plain http; use https")


# ---- what is wrong in a rendered script, at an offset --------------------------------------------

SHELL_TOKEN = r"""(?xs)
        (?P<newline>\n) | \\. | '[^']*' | "(?:[^"\\]|\\.)*" | (?<![^\s;&|(])\#[^\n]*
      | \(\([^\n]*?\)\) | <<<
      | <<(?P<tabs>-?)[ \t]*(?P<word>'[^'\n]*' | "[^"\n]*" | \\?[\w.-]+) | ."""


def lint_script(script: str) -> Iterator[Tuple[int, str]]:
    """(offset, what) of what the shell, or who reads the script, would trip over."""
    if not script:
        return
    shell, marks = seen_by_shell(script)
    found = [*lint_shell(shell), *lint_cd(shell)]
    if not any("heredoc" in what for _, what in found):  # else shellcheck trips over the same
        found += shellcheck(shell)
    for at, what in found:
        in_shell, in_script = [mark for mark in marks if mark[0] <= at][-1]
        yield min(in_script + at - in_shell, len(script) - 1), what


def seen_by_shell(script: str) -> Tuple[str, List[Tuple[int, int]]]:
    """SCRIPT with a word for each of make's references, and the marks (offset in that, in SCRIPT)
    from which on both go in step."""
    shell, marks, done = "", [(0, 0)], 0
    for start, end, name, _ in make_references(script):
        if start >= done:       # else it is part of the one before
            shell += script[done:start]
            word = "$" if script[start:end] == "$$" else {"CURDIR": "/build"}.get(name, name or "x")
            marks.append((len(shell), start))
            shell += word + "\n" * script.count("\n", start, end)
            marks.append((len(shell), end))
            done = end
    return shell + script[done:], marks


def lint_cd(text: str) -> Iterator[Tuple[int, str]]:
    for match in re.finditer(r"^[ \t]*cd [^\n;|&()]+&&(?![^\n]*\|\|)", text, re.MULTILINE):
        yield match.start(), ("when this cd fails, the script goes on where it is, and set -e "
                              "doesn't see it; write (cd DIR && COMMAND)")


def lint_shell(text: str) -> Iterator[Tuple[int, str]]:
    """(offset, what) of heredocs that never end, and of make's prefixes before commands."""
    text = "\n" + text
    tokens = re.compile(SHELL_TOKEN)
    position, waiting = 0, []
    while position < len(text) or waiting:
        token = tokens.match(text, position)
        position = token.end() if token else position
        if token and token["word"]:
            waiting.append((token.start() - 1, token["tabs"], token["word"].strip("\\'\"")))
        if token and not token["newline"]:
            continue
        for at, tabs, word in waiting:
            blanks = "\t*" if tabs else ""
            end = re.compile(f"^{blanks}{re.escape(word)}$", re.M).search(text, position)
            if not end:
                yield at, f"this heredoc never ends; close it by a line that is {word} alone"
                return
            position = end.end() + 1
        waiting = []
        prefix = re.compile(r"[ \t]*([@+-])").match(text, position)
        if prefix:
            hint = "; `|| :` after a command lets it fail" if prefix[1] == "-" else ""
            yield prefix.end() - 2, f"{prefix[1]} before a command is make's, not the shell's{hint}"


def shellcheck(script: str) -> Iterator[Tuple[int, str]]:
    """What shellcheck warns of; nothing where there is none."""
    # SC2155: `export X="$(command)"`, which is usual, and where set -e overlooks a failure.
    command = "shellcheck --norc --shell=sh --severity=warning --exclude=SC2155 --format=json -"
    text = to_bytes("#!/bin/sh -e\n" + script + "\n")
    starts = [0, *(match.end() for match in re.finditer("\n", script))]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(command.split(), input=text, stdout=subprocess.PIPE)
        for comment in json.loads(done.stdout or b"[]"):
            line = min(max(comment["line"] - 2, 0), len(starts) - 1)    # what never closes: the end
            what = f"{comment['message']} (SC{comment['code']})"
            yield starts[line] + comment["column"] - 1, what


# ==== A recipe to start from ======================================================================
#
# `new` reads the archive once, and runs nothing of it. It tells what builds the source, what it is
# and what it needs from the names and the texts in there, by patterns that know what most upstreams
# write: a start for a person to read. An archive's author is anybody, so the time and the memory
# that reading it takes are limited.

LOOK_SECONDS = 60
LOOK_MEMORY = 1 << 29       # bytes of address space
INFLATED_LIMIT = 1 << 31    # bytes of an archive without its compression
TEXT_LIMIT = 1 << 22        # bytes that are read of a file that is built by
SOURCE_LIMIT = 1 << 15      # of a source, where its licence is; and of how many of those
SOURCES_LIMIT = 2000
ARCHIVE = r"(?:\.orig)?(?:\.tar(?:\.\w+)?|\.tgz|\.tbz2?|\.txz)$"
# What is read of an archive: as deep as three directories, but nothing of tests.
BUILD_FILE = (
    r"(?:[^/]+/){0,2}(configure(\.ac|\.in)?|(GNUm|m|M)akefile(\.am|\.in|\.inc)?|Make\.\w+|"
    r"[\w-]+\.mk|meson\.build|CMakeLists\.txt|[^/]+\.pc(\.in)?)")
LICENSE_FILE = r"(?i)(?:[^/]+/)?(COPYING|LICEN[CS]E|UNLICENSE|COPYRIGHT)(?!.*DOC)[^/]*"
README = r"README[^/]*"
# Other programs' sources, with licences of their own.
BUNDLED = r"(lib[a-z]+|third[_-]?party|vendor|external|deps|pkgs|compat|win\w*)/"
MANUAL = r"(?:[^/]+/){0,2}[^/]+\.([1-8](\.in|\.prebuilt)?|nro|texi|texinfo)"
SOURCE_FILE = r"(?:[^/]+/){0,3}[^/]+\.(c|h|cc|cpp|cxx)"
TEST_FILE = r"(.*/)?(tests?([-_]\w+)?|testsuite|t|contrib|examples?|po|gnulib-tests)/"

# What it is built by, in the order in which it is looked for: (a file, in words, script). PLACE is
# where the file is.
CONFIGURED = """\
$(MAKE) -C PLACE
$(MAKE) -C PLACE DESTDIR=$(CURDIR)/out/NAME install"""
BUILD_KINDS: Dict[str, Tuple[str, str, str]] = {
    "configure": ("configure", "autoconf's configure",
                  '{{configure "PLACE"OPTIONS}}\n' + CONFIGURED),
    "own": ("configure", "a configure of its own",
            "(cd PLACE && ./configure --prefix=/usrOPTIONS)\n" + CONFIGURED),
    "meson": (r"meson\.build", "meson", """\
{{meson "PLACE"}}
ninja -C PLACE-build
DESTDIR=$(CURDIR)/out/NAME ninja -C PLACE-build install"""),
    "autoreconf": (r"configure\.(ac|in)", "autoconf, and it has no configure yet",
                   '(cd PLACE && autoreconf -fi)\n{{configure "PLACE"OPTIONS}}\n' + CONFIGURED),
    "cmake": (r"CMakeLists\.txt", "CMake", """\
{{cmake "PLACE"}}
$(MAKE) -C PLACE-build
$(MAKE) -C PLACE-build DESTDIR=$(CURDIR)/out/NAME install"""),
    "make": (r"(GNUm|m|M)akefile", "a Makefile", ""),
}
# Options of configure that are given where it has them: shared libraries, UTF-8, .pc files, no
# translations, and nothing in C++ or for another ABI, which the builder can't compile for musl.
OPTIONS = ("--with-shared", "--without-debug", "--without-cxx", "--without-cxx-binding",
           "--disable-nls", "--enable-widec", "--enable-pc-files",
           "--with-pkg-config-libdir=/usr/lib/pkgconfig", "--enable-mpers=no")

# Words that only one licence has, blanks as one, to its SPDX name; GNU's lack -only or -or-later.
GNU = ("GENERAL PUBLIC LICENSE(?: as published by the Free Software Foundation[;,](?: either)?)?,? "
       "version ")
LICENSES = (
    (rf"GNU AFFERO {GNU}3", "AGPL-3.0"),
    (rf"GNU LESSER {GNU}3", "LGPL-3.0"),
    (rf"GNU LESSER {GNU}2\.1", "LGPL-2.1"),
    (rf"GNU LIBRARY {GNU}2", "LGPL-2.0"),
    (rf"GNU {GNU}3", "GPL-3.0"),
    (rf"GNU {GNU}2", "GPL-2.0"),
    (r"Apache License,? Version 2\.0", "Apache-2.0"),
    (r"Mozilla Public License,? Version 2\.0", "MPL-2.0"),
    (r"The Artistic License 2\.0", "Artistic-2.0"),
    (r"Boost Software License - Version 1\.0", "BSL-1.0"),
    (r"CC0 1\.0 Universal", "CC0-1.0"),
    (r"Permission is hereby granted, free of charge, to any person.*Except as contained in this "
     r"notice, the name", "X11"),
    (r"Permission is hereby granted, free of charge, to any person", "MIT"),
    (r"Permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with "
     r"or without fee is hereby granted, provided", "ISC"),
    (r"Permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with "
     r"or without fee is hereby granted\.", "0BSD"),
    (r"Redistribution and use in source and binary forms.*advertising materials", "BSD-4-Clause"),
    (r"Redistribution and use in source and binary forms.*(?:endorse or promote|Neither the name)",
     "BSD-3-Clause"),
    (r"Redistribution and use in source and binary forms", "BSD-2-Clause"),
    (r"must not be misrepresented.*must be plainly marked", "Zlib"),
    (r"free and unencumbered software released into the public domain", "Unlicense"),
    (r"(?:is|placed|released) (?:hereby )?(?:in|into|to) the public domain",
     "LicenseRef-public-domain"),
)
CHOICE = r"(?i)either (?:of )?the |dual[- ]licen[sc]ed|at your option, one of"
GNU_VERSION = r"(?i)General Public License.{,120}\bversion \d|GPL[ -]?v?[23]"
GNU_LATER = r"(?i)any later version|or[ -]later|GPL ?v?[\d.]+\+"

# How build files name the libraries that they ask for, and what else they may be linked with.
NAMED_LIBRARY = (
    r"PKG_(?:CHECK_MODULES(?:_STATIC)?|CHECK_EXISTS)\(\s*(?:\[?\w+\]?\s*,\s*)?\[?([^\]),]+)",
    r"\bdependency\(\s*'([^']+)'", r"pkg_(?:check|search)_modules?\(\s*\w+\s+([^)]+)\)",
    r"pkg-config\s+(?:--(?:cflags|libs|exists)\s+)+([a-z][\w.+-]*)",
    r"CHECK_LIB\(\s*\[?([\w.+-]+)", r"find_package\(\s*(\w+)")
LINKED_LIBRARY = (
    r"SEARCH_LIBS\(\s*\[?\w+\]?\s*,\s*\[?([\w.+ -]+)", r"checking for \w+ in -l([\w.+-]+)",
    r"find_library\(\s*'([^']+)'", r"(?<![\w-])-l([a-z][\w+-]*)")
NO_LIBRARY = frozenset("required quiet imported_target optional threads python python3 c m dl rt "
                       "pthread util crypt resolv socket nsl intl iconv".split())

NEW_RECIPE = """\
packages:
  {name}:{packages}
version: {version}
summary: {summary}
license: {license}
url: {url}
sources:
  - {source}
sha256:
  {file}: {digest}
{needs}script:
  - |
{script}"""


class Archive(NamedTuple):
    """What `new` knows of a source: the paths in it below its one top directory, the texts of
    some; and of apt's index the fields of the source package, and the source packages of the
    libraries that Debian builds it with."""

    files: List[str]
    texts: Dict[str, str]
    debian: Dict[str, str]
    libraries: List[str]

    def find(self, form: str) -> Dict[str, str]:
        """The texts of the files whose path has the FORM, those least deep first."""
        found = filter(re.compile(form).fullmatch, self.texts)
        paths = sorted(found, key=lambda path: (path.count("/"), path))
        return {path: self.texts[path] for path in paths}


@contextlib.contextmanager
def bounded(name: str) -> Iterator[None]:
    """What is done in here with the source NAME ends in LOOK_SECONDS and LOOK_MEMORY, or Fails."""
    import resource

    def stop(*_: Any) -> None:
        raise Fail(f"{name}: not looked through in {LOOK_SECONDS} s; write the recipe by hand")

    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    former = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (LOOK_MEMORY, hard))
    signal.alarm(LOOK_SECONDS)
    try:
        yield
    except MemoryError:
        raise Fail(f"{name}: it takes over {human_size(LOOK_MEMORY)} of memory to look into; "
                   "write the recipe by hand") from None
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        signal.signal(signal.SIGALRM, former)


def look_into(path: str, name: str) -> Archive:
    """The archive at PATH, the source NAME."""
    import lzma
    import zlib

    try:
        with tarfile.open(path) as tar:
            texts = dict(read_members(tar, name))
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError,
            RecursionError):
        raise Fail(f"{name}: not a whole tar (gz, bz2, xz); write the recipe by hand") from None
    tops = {path.partition("/")[0] for path in texts}
    prefix = min(tops) + "/" if len(tops) == 1 and tops.isdisjoint(texts) else ""
    texts = {path[len(prefix):]: text for path, text in texts.items()}
    known = {path: text for path, text in texts.items() if text is not None}
    return Archive(list(texts), known, {}, [])


def read_members(tar: Any, name: str) -> Iterator[Tuple[str, Optional[str]]]:
    """(path, text) of each file; no text where it doesn't count here.

    The last byte of a text, its newline, is left out, so that nothing is ever inflated twice.
    """
    sources = 0
    forms = (BUILD_FILE, LICENSE_FILE, README, MANUAL)
    for member in tar:
        if tar.offset > INFLATED_LIMIT:
            raise Fail(f"{name}: over {human_size(INFLATED_LIMIT)} when it is unpacked; "
                       "write the recipe by hand")
        path = os.path.normpath(member.name)
        below = path.partition("/")[2]
        ways = {path, below} if "/" in path else {path}
        is_source = sources < SOURCES_LIMIT and bool(re.fullmatch(SOURCE_FILE, path))
        text = None
        if member.isfile() and not re.match(TEST_FILE, below) and (is_source or any(
                re.fullmatch(form, way) for form in forms for way in ways)):
            sources += is_source
            tar.fileobj.seek(member.offset_data)
            limit = SOURCE_LIMIT if is_source else TEXT_LIMIT
            text = tar.fileobj.read(max(min(member.size - 1, limit), 0)).decode(errors="replace")
        if not member.isdir():
            yield path, text


def version_of(file: str, name: str) -> str:
    """The version in the name of a source FILE of NAME, as in NAME-1.2.tar.gz or v1.2.tar.gz."""
    stem = re.sub(ARCHIVE, "", file)
    if ".orig." in file:
        return upstream_version(stem.rpartition("_")[2] + "-1")
    stem = re.sub(rf"^{re.escape(name)}(?=[-_.])", "", stem, flags=re.IGNORECASE)
    match = re.search(r"(?<![A-Za-z0-9])v?([0-9][\w.+-]*)$", stem)
    if not match or not NAME.fullmatch(file):
        raise Fail(f"{file}: not a name like {name}-1.2.tar.gz; write the recipe by hand")
    return match[1]


def versioned_url(url: str, version: str) -> str:
    """URL as a template, in YAML: a plain 2 may be of other things than the version."""
    folder, slash, file = url.rpartition("/")
    if "." in version and not url.startswith("deb-src:"):
        folder = re.sub(rf"(?<![0-9.]){re.escape(version)}(?![0-9])", "{{.Version}}", folder)
    file, mark, query = file.partition("?")
    text = folder + slash + "{{.Version}}".join(file.rsplit(version, 1)) + mark + query
    return text if re.fullmatch(r"[\w:/.~+?=&%@{}-]+", text) else json.dumps(text)


# ---- what builds it ------------------------------------------------------------------------------


def build_kind(archive: Archive) -> Tuple[str, str]:
    """(key of BUILD_KINDS, directory of the file that tells) for the archive; empty for none."""
    for place in ("", "(unix|src|source)/", r"(?!win|mac|dos|vms)[\w.+-]+/"):
        for kind, (file, _, _) in BUILD_KINDS.items():
            for path, text in archive.find(place + file).items():
                if kind != "configure" or "--localstatedir=DIR" in text:
                    return kind, os.path.dirname(path)
    return "", ""


def build_script(name: str, archive: Archive, kind: str, folder: str) -> str:
    place = f"{name}/{folder}".rstrip("/")
    script = BUILD_KINDS[kind][2]
    if kind == "make":
        script = make_script(name, archive, folder)
    elif kind == "own":     # it may know no compiler but its own
        compilers = "CC=$(CC)" + " CXX=$(CXX)" * asks_for_cxx(archive)
        script = script.replace("-C PLACE", f"-C PLACE {compilers}")
    text = archive.texts.get(os.path.join(folder, "configure"), "")
    options = [option for option in OPTIONS if re.search(
        f"  {option.partition('=')[0].replace('without', 'with(out)?')}[ =]", text)]
    for word, value in (("PLACE", place), ("NAME", name)):
        script = re.sub(rf"\b{word}\b", lambda match: value, script)
    lines = textwrap.wrap(" ".join(options), 72, break_on_hyphens=False)
    quoted = [f'"{line}"' for line in lines]
    given = "\n  ".join(quoted) if kind == "configure" else " ".join(options)
    return script.replace("OPTIONS", " " * bool(given) + given)


def make_script(name: str, archive: Archive, folder: str) -> str:
    """How the Makefiles at and below FOLDER build and install, by the variables that they have."""
    text = "\n".join(text for path, text in archive.find(BUILD_FILE).items()
                     if path.startswith(folder) and re.search(r"akefile|Make\.|\.mk$", path))
    command = "$(MAKE) -C PLACE" + " CC=$(CC)" * bool(re.search(r"\bCC\s*:*[=,]", text))
    if not re.search(r"(?m)^[\w ./-]*\binstall\b[\w ./-]*::?(?!=)", text):
        return command + "\n" + install_by_hand(name, archive, text)
    # Where its first definition says otherwise, DESTDIR is not what others mean by it.
    values = dict(re.findall(r"(?m)^\s*(?:export\s+)?(\w+)\s*[:?]*=[ \t]*(.*?)[ \t]*$", text)[::-1])
    if "DESTDIR" in text and not values.get("DESTDIR"):
        build = command + make_settings(values, "/usr")
        install = f"{build} DESTDIR=$(CURDIR)/out/NAME install"
    else:
        build = command
        install = f"{command}{make_settings(values, '$(CURDIR)/out/NAME/usr')} install"
    if re.search(r"(?m)^\t.*\$[({](PREFIX|prefix)[)}]/man\b", text):
        install += "\nmkdir -p out/NAME/usr/share && mv out/NAME/usr/man out/NAME/usr/share/man"
    return f"{build}\n{install}"


def make_settings(values: Dict[str, str], prefix: str) -> str:
    """The arguments for make that have a Makefile with the variables VALUES install into PREFIX."""
    names = [name for name in ("PREFIX", "prefix", "INSTALL_TOP") if name in values]
    settings = [f"{name}={prefix}" for name in names or ("PREFIX", "prefix")]
    for name, value in sorted(values.items()):
        match = re.fullmatch(r"\$[({]\w+[)}]/man(/man1)?", value)
        settings += [f"{name}={prefix}/share/man{match[1] or ''}"] if match else []
    return "".join(f" {setting}" for setting in settings)


def install_by_hand(name: str, archive: Archive, makefile: str) -> str:
    """The lines that install what a MAKEFILE without a target `install` builds."""
    lines = ["# The Makefile has no target `install`: install what it makes below out/NAME."]
    if re.search(rf"(?m)^(?:all\s*:.*\b)?{re.escape(name)}\b.*:?", makefile):
        lines = ["install -D PLACE/NAME out/NAME/usr/bin/NAME"]
    if f"{name}.1" in archive.files:
        lines.append("install -D -m 644 PLACE/NAME.1 out/NAME/usr/share/man/man1/NAME.1")
    return "\n".join(lines)


def is_library(archive: Archive) -> bool:
    """Whether the source installs headers, as its build files tell."""
    asks = (r"(?m)\b((pkg)?include_HEADERS|lib_LTLIBRARIES) *\+?=|install_headers\(|PUBLIC_HEADER|"
            r"DESTDIR.*(includedir|INCLUDE_?DIR|INSTALL_INC)\b|CMAKE_INSTALL_INC|"
            r"\$[({](INSTALL_INC|(PREFIX|prefix)[)}]/include)")
    texts = archive.find(BUILD_FILE).items()
    return any(path.endswith((".pc", ".pc.in")) or re.search(asks, text)
               for path, text in texts if not re.match(r"(.*/)?(configure|Make\.|.*\.mk$)", path))


# ---- what it is ----------------------------------------------------------------------------------


def summary_of(name: str, archive: Archive) -> str:
    """One line that says what it is; empty where nothing does."""
    if archive.debian.get("Description"):
        return archive.debian["Description"]
    page = r'\.SH "?NAME"?\n[^\n]*?\\?-\\?-? +(\S.*)|^\.Nd (\S.*)|^Description: *(.*)'
    for form in (rf"(?:.*/)?{re.escape(name)}\.\S+", r".*\.pc(\.in)?"):
        for text in archive.find(form).values():
            match = re.search(page, text, re.MULTILINE)
            if match:
                return next(filter(None, match.groups())).replace("\\", "").rstrip(".")
    form = rf"(?im)^\W*{re.escape(name)}\b[\s\d.]*(?:--?|:|is an?|is the) +(\w.{{9,90}}?)(?:\.|$)"
    for text in archive.find(README).values():
        match = re.search(form, re.sub(r"(?<!\n)\n(?=\w)", " ", text))
        if match:
            return match[1]
    return ""


def url_of(name: str, archive: Archive) -> str:
    """The home page; empty where nothing tells."""
    if archive.debian.get("Homepage"):
        return archive.debian["Homepage"]
    known = r"""(?m)^(?:PACKAGE_URL=|URL: *|.*HOMEPAGE_URL )["']?(https?://[^\s"']+)"""
    any_url = rf"""(?i)(https?://[^\s"'<>()]*{re.escape(name)}[^\s"'<>(),]*)"""
    for form, files in ((known, BUILD_FILE), (any_url, README)):
        for text in archive.find(files).values():
            for url in re.findall(form, text):
                if not re.search(r"issues|bugs|download|travis|/blob/|\.(git|svg|png|tar)", url):
                    return url.rstrip(".")
    return ""


def license_of(archive: Archive) -> str:
    """The SPDX expression; empty where nothing tells."""
    files, sources = [
        {path: text for path, text in archive.find(form).items() if not re.match(BUNDLED, path)}
        for form in (LICENSE_FILE, SOURCE_FILE)]
    heads = [text[:4000] for text in sources.values()]
    readmes = archive.find(README).values()
    tops = [text for path, text in files.items() if "/" not in path]
    tags = re.findall(r"SPDX-License-Identifier:\s*([^*\n]*\w)", "\n".join(heads))
    names: List[str] = []
    for texts in (tops, files.values(), readmes, sources.values()):
        names = names or list(dict.fromkeys(filter(None, map(license_name, texts))))
    if len(names) > 1 and not any(map(license_name, [*files.values(), *readmes])):
        return ""       # of one source or another
    if len(tags) > len(heads) / 2 and len(names) < 2:
        return max(sorted(set(tags)), key=tags.count)
    prose = [*readmes, *heads]
    if len(names) > 1 and not any(re.search("(?i)(Lesser|Library) General|LGPL", text)
                                  for text in prose):
        names = [name for name in names if not name.startswith("LGPL")]    # gnulib's, most likely
    is_choice = any(re.search(CHOICE, text) for text in prose)
    return (" OR " if is_choice else " AND ").join(
        name + gnu_suffix(prose) if "GPL" in name else name for name in names)


def license_name(text: str) -> str:
    """The licence that TEXT has first, of those that begin there the one with the most words."""
    plain = " ".join(re.sub(r"(?m)^[ \t]*(?:[*#;/]|--|\.\\\")+|[ \t]*(?:\*|--)[ \t]*$", "",
                            text[:50000]).split())
    found = [(match.start(), name) for form, name in LICENSES
             for match in [re.search(form, plain, re.I)] if match]
    return min(found, key=lambda one: one[0])[1] if found else ""


def gnu_suffix(texts: List[str]) -> str:
    """-or-later where most of what names a version of GNU's licence allows for later ones."""
    plain = [" ".join(re.sub(r"(?m)^[ \t]*[*#;]+", "", text).split()) for text in texts]
    heads = [text for text in plain if re.search(GNU_VERSION, text)]
    later = sum(bool(re.search(GNU_LATER, text)) for text in heads)
    return "-or-later" if later * 2 > len(heads) else "-only"


def ask_debian(url: str, archive: Archive) -> Archive:
    """The archive with what apt's index says of the source package that URL names."""
    match = DEB_SRC.fullmatch(url)
    package = match["package"].partition("=")[0]
    try:
        options = apt_options(archive_sets(match["suite"])[0])
        facts = index_entries(run_apt("apt-cache", *options, "showsrc", package))[0]
        libraries = debian_libraries(options, facts.get("Build-Depends", ""))
    except (Unreachable, IndexError):
        return archive
    no_program = re.compile("lib[0-9nx]+[0-9]|-common|udeb| (libdevel|debug|doc|oldlibs) |^$")
    lines = facts.get("Package-List", "").split("\n")
    binaries = [line.split()[0] for line in lines if not no_program.search(line)]
    binary = package if package in binaries else next(iter(binaries), package)
    with contextlib.suppress(Unreachable, IndexError):  # where this machine's apt knows it
        shown = index_entries(run_apt("apt-cache", "show", "--no-all-versions", binary))[0]
        text = shown.get("Description") or shown.get("Description-en", "")
        # After a dash Debian says which of the source's packages it is.
        facts["Description"] = re.sub(r" --? .*| \(.*\)$", "", text)
    return archive._replace(debian=facts, libraries=libraries)


def debian_libraries(options: List[str], depends: str) -> List[str]:
    """The source packages of the libraries in DEPENDS, but for libc's and those of tests."""
    needs = re.findall(r"([a-z0-9][a-z0-9+.-]*-dev)\b(?! *(?:\([^)]*\))? *<)", depends)
    needs = [need for need in needs if not re.match("lib(c6|gcc|stdc)|linux-|dpkg|autotools", need)]
    text = run_apt("apt-cache", *options, "showsrc", *needs) if needs else ""
    return list(dict.fromkeys(entry["Package"] for entry in index_entries(text)))


def index_entries(text: str) -> List[Dict[str, str]]:
    """The entries of apt's index, each its fields; of a description the first line."""
    return [
        {key: value.partition("\n")[0] if key.startswith("Description") else value
         for key, value in re.findall(r"(?m)^([A-Z][\w-]*): ?(.*(?:\n .*)*)", entry)}
        for entry in text.strip().split("\n\n") if entry.strip()]


# ---- what it needs -------------------------------------------------------------------------------


def tree_libraries(options: argparse.Namespace) -> Dict[str, str]:
    """Name of a library, as pkg-config and the linker have it, to the package of the tree: by the
    files of built packages, else by the package's own name."""
    found: Dict[str, str] = {}
    for path in find_recipes("recipes") if os.path.isdir("recipes") else ():
        with contextlib.suppress(Fail):
            recipe = load_recipe(path, options)
            names = recipe.packages
            found.update((name[: -len("-dev")], name) for name in names if name.endswith("-dev"))
            main = os.path.basename(os.path.dirname(path))
            main = f"{main}-dev" if f"{main}-dev" in names else main
            if main in names:
                for name in (main, *deb_src_names(recipe)):
                    found.setdefault(name, main)
    work = Work(options.arch)
    for built in work.built.values():
        for name, package in built.packages.items():
            if name.endswith("-dev") and os.path.isfile(work.package_path(package)):
                with tarfile.open(work.package_path(package)) as tar:
                    files = "\n".join(tar.getnames())
                for one in re.findall(r"(?m)^usr/(?:lib|share)/(?:pkgconfig/(.*)\.pc|"
                                      r"lib(.*?)\.(?:so|a))$", files):
                    found[one[0] or one[1]] = name
    return found


def deb_src_names(recipe: Recipe) -> Iterator[str]:
    """The names of Debian's source packages that are among the recipe's sources."""
    for source in recipe.sources:
        for alternative in source.alternatives:
            match = DEB_SRC.match(alternative.url)
            if match:
                yield match["package"].partition("=")[0]


def asked_libraries(archive: Archive, forms: Tuple[str, ...]) -> List[str]:
    """The libraries that the archive's build files ask for in one of the FORMS."""
    text = "\n".join(archive.find(BUILD_FILE).values())
    words = [word for form in forms for match in re.findall(form, text) for word in match.split()]
    names = [word for word in map(str.lower, words) if re.fullmatch(r"[a-z][\w.+-]*", word)]
    return [name for name in dict.fromkeys(names) if name not in NO_LIBRARY]


def wanted_packages(archive: Archive, known: Dict[str, str]) -> List[str]:
    """The packages of the tree that it is built with."""
    asked = [*asked_libraries(archive, NAMED_LIBRARY + LINKED_LIBRARY), *archive.libraries,
             *(re.sub("^lib", "", name) for name in archive.libraries)]
    needs = {known[name] for name in asked if name in known}
    kernel = r"(?m)^\s*#\s*include\s*<(?:(?:linux|asm|mtd|scsi)/|sys/(?:kd|vt|soundcard)\.h)"
    if "linux-headers" in known and any(
            re.search(kernel, text) for text in archive.find(SOURCE_FILE).values()):
        needs.add("linux-headers")
    if CXX_LIBRARY in known and asks_for_cxx(archive):
        needs.add(CXX_LIBRARY)
    return sorted(needs - {"musl-dev"})


CXX_LIBRARY = "libstdc++-dev"


def asks_for_cxx(archive: Archive) -> bool:
    """Whether the source is mostly C++, or what builds it looks for a compiler of that."""
    sources = archive.find(SOURCE_FILE)
    asks = r"(?m)^\s*AC_PROG_CXX|(?i:project)\s*\([^)]*\bCXX\b|^project\([^)]*'cpp'"
    return sum(not path.endswith((".c", ".h")) for path in sources) > len(sources) / 2 or any(
        re.search(asks, text) for text in archive.find(BUILD_FILE).values())


def what_is_missing(name: str, archive: Archive, known: Dict[str, str]) -> Iterator[str]:
    """What `new` could not do, or the tree lacks, a line each."""
    asked = asked_libraries(archive, NAMED_LIBRARY)
    unknown = [one for one in asked if one not in known]
    if unknown and not archive.debian:
        yield f"it asks for {', '.join(unknown)}, which no recipe of the tree makes"
    for one in archive.libraries:
        if one != name and known.keys().isdisjoint({one, re.sub("^lib", "", one)}):
            yield (f"Debian builds it with {one}, of which there is no recipe; "
                   f"`pkggen.py new {one} deb-src:{one}` writes one")
    if CXX_LIBRARY not in known and asks_for_cxx(archive):
        yield f"it asks for C++, and no recipe of the tree makes {CXX_LIBRARY}"
    for path, text in archive.find(r"(.*/)?Makefile\.in").items():
        for manual in re.findall(r"(?m)^info_TEXINFOS *= *([\w./-]+)", text):
            if os.path.join(os.path.dirname(path), manual) not in archive.files:
                yield (f"the archive has no {manual}, as Debian leaves some manuals out; if the "
                       "build stops at that, take upstream's own archive")


# ---- the recipe ----------------------------------------------------------------------------------


def new_recipe(name: str, url: str, digest: str, archive: Archive, needs: List[str]) -> str:
    """The text of a recipe that builds the source at URL."""
    file = source_name(url, "new")
    version = version_of(file, name)
    kind, folder = build_kind(archive)
    lines = [f'{{{{unpack "{name}"}}}}', *build_script(name, archive, kind, folder).split("\n")]
    packages = ""
    if is_library(archive):
        packages += (f"\n  {name}-dev:\n    dependencies: [{name}]\n"
                     f"    summary: headers and static libraries of {name}")
        lines.append(f'{{{{dev "{name}"}}}}')
    if any(re.fullmatch(MANUAL, path) and not re.match(TEST_FILE, path) for path in archive.files):
        packages += f"\n  {name}-doc:\n    summary: manual of {name}"
        lines.append(f'{{{{doc "{name}"}}}}')
    return NEW_RECIPE.format(
        name=name, packages=packages, version=version,
        summary=plain_text(summary_of(name, archive)) or "# one line that says what it is",
        license=plain_text(license_of(archive)) or "# as SPDX writes it",
        url=plain_text(url_of(name, archive)) or "# upstream's home page",
        source=versioned_url(url, version), file=quote_key(file), digest=digest,
        needs=f"builddependencies: [{', '.join(needs)}]\n" if needs else "",
        script="".join(f"    {line}\n" for line in lines))


def plain_text(text: str) -> str:
    """TEXT, which an archive's author wrote, as a value in YAML; at most one line of it."""
    text = " ".join(text.split())[:200]
    is_plain = re.fullmatch(r"[A-Za-z](?:[\w ,./()'+*&;~=?%@-]|:(?=\S))*", text)
    return text if is_plain or not text else json.dumps(text, ensure_ascii=True)


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
    """Write the makefile, and say what there is to do: for everything, or for each --package."""
    tree, work = Tree(options.folder, options), Work(options.arch)
    stale, wanted = stale_builds(tree, work), tree.targets_of(options.package)
    scope = {*wanted, *reached_from(tree.graph, wanted)} if wanted else set(tree.graph)
    check_services(tree, options.service, scope)
    output(options, world_mk(options.folder, tree, work, stale, wanted))
    names = [name for name in tree.problems if f"recipe/{name}" in scope]
    if wanted and len(names) == 1:
        raise Fail(tree.problems[names[0]])
    for line in problem_lines(tree, names):
        say(f"world   {line}")
    if wanted and names:
        raise Fail(f"{' '.join(options.package)} can't be built; see above")
    buildable = scope.difference(tree.blocked)
    recipes = [recipe for name, recipe in tree.recipes.items() if f"recipe/{name}" in buildable]
    say("world   " + what_to_do(recipes, [stale[t] for t in stale if t in scope]))


def what_to_do(recipes: List[Recipe], stale: List[Recipe]) -> str:
    """What there is to build, the STALE of RECIPES and stages, and to fetch for that."""
    if not stale:
        packages = sum(len(recipe.packages) for recipe in recipes)
        made = f"{count(len(recipes), 'recipe')}, {count(packages, 'package')}"
        return f"nothing to be done: {made} are up to date"
    missing = {
        source_target(source) for recipe in stale for source in recipe.sources
        if not source.is_local and not cached_path(source.alternatives, SOURCES)}
    stages = sum(recipe.is_stage for recipe in stale)
    first = f"{count(stages, 'stage')} and " if stages else ""
    return (
        f"{first}{len(stale) - stages} of {len(recipes)} recipes to build or to look at, "
        f"at most {count(len(missing), 'source')} to fetch")


def cmd_why(options: argparse.Namespace) -> None:
    tree = Tree(options.folder, options)
    lines = why(tree, Work(options.arch), tree.find(options.package))
    output(options, "".join(printable(line) + "\n" for line in lines))


def cmd_find(options: argparse.Namespace) -> None:
    """Print the directory of a recipe that can be read."""
    output(options, load_recipe(options.recipe, options).folder + "\n")


def cmd_graph(options: argparse.Namespace) -> None:
    tree = Tree(options.folder, options)
    for problem in tree.problems.values():
        say(f"pkggen: {problem}")
    text = graph_dot(options.folder, tree, Work(options.arch))
    is_svg = (options.output or "").endswith(".svg")
    output(options, run_dot(text).decode() if is_svg else text)


def cmd_meta(options: argparse.Namespace) -> None:
    output(options, json.dumps(metadata(load_recipe(options.recipe, options)), indent=1) + "\n")


def cmd_schema(options: argparse.Namespace) -> None:
    output(options, json.dumps(json_schema(), indent=1) + "\n")


def cmd_lint(options: argparse.Namespace) -> None:
    import shutil

    paths = recipe_paths(options.recipe or ["recipes"])
    found = sorted({finding for path in paths for finding in lint_recipe(path, options)})
    output(options, "".join(printable("%s:%d:%d: %s" % finding) + "\n" for finding in found))
    if not shutil.which("shellcheck"):
        say("lint    there is no shellcheck, so the scripts were looked at only in part")
    if found:
        odd = len({finding.path for finding in found})
        raise Fail(f"lint found something in {odd} of {count(len(paths), 'recipe')}")


def cmd_new(options: argparse.Namespace) -> None:
    """Write a recipe for the source at a URL into a new directory."""
    name, url = options.name, without_hash(options.url)
    folder = options.output or os.path.join("recipes", "core", name)
    path = os.path.join(folder, RECIPE_FILE)
    if not NAME.fullmatch(name) or not NAME.fullmatch(os.path.basename(os.path.abspath(folder))):
        raise Fail(f"{folder}: not a name for a recipe; use letters, digits and + . _ -")
    if os.path.lexists(path):
        raise Fail(f"{path}: there is one already; remove it, or give another directory with -o")
    url = with_deb_src_file(url)
    file = source_name(url, "new")
    version = version_of(file, name)
    digest = None if url.startswith(LOCAL) else fetched_hash(file, url)
    if digest is None:
        raise Fail(f"{url}: there is nothing to be had; give a URL that can be fetched")
    with bounded(file):
        archive = look_into(os.path.join(SOURCES, digest), file)
        kind, _ = build_kind(archive)
    if not kind:
        raise Fail(f"{file}: it has no configure, meson.build, configure.ac, CMakeLists.txt or "
                   "Makefile; write the recipe by hand")
    known = tree_libraries(options)
    if url.startswith("deb-src:"):
        archive = ask_debian(url, archive)
        at, version_there = DEB_SRC.fullmatch(url).end("package"), archive.debian.get("Version")
        if version_there and "=" not in url[:at]:   # so that it stays what it is now
            url = f"{url[:at]}={version_there}{url[at:]}"
    own = (name, f"{name}-dev")
    with bounded(file):
        needs = [need for need in wanted_packages(archive, known) if need not in own]
        text = new_recipe(name, url, digest, archive, needs)
        missing = list(what_is_missing(name, archive, known))
    os.makedirs(folder, exist_ok=True)
    with open(path, "x", encoding="utf-8") as recipe:
        recipe.write(text)
    fields = load_recipe(folder, options).fields
    say(f"new     {path}: {name} {version}, with {BUILD_KINDS[kind][1]}")
    for key in ("summary", "license", "url"):
        if not fields[key]:
            missing.append(f"nothing tells its {key}; fill that in")
    for line in missing:
        say(f"new     {printable(line)}")


def with_deb_src_file(url: str) -> str:
    """deb-src:[SUITE/]PACKAGE[=VERSION] with the file that apt names, any other URL as it is."""
    scheme, _, package = url.partition(":")
    match = DEB_SRC.fullmatch(url)
    if scheme != "deb-src" or match and re.search(ARCHIVE, match["file"]):
        return url
    return f"{url}/{deb_src_files(package)[0][0]}"


def cmd_build(options: argparse.Namespace) -> None:
    for recipe in load_all(options):
        recipe.before_libc, recipe.stages = options.before_libc, tuple(options.use_stage)
        if options.stage:
            recipe = as_stage(recipe, options.without)
        build_recipe(recipe, Work(options.arch))


def cmd_rebuild(options: argparse.Namespace) -> None:
    """Build packages again from the recipes, and compare: what somebody else built, or oneself."""
    paths: Dict[str, List[str]] = {}
    infos = {path: read_package(path) for path in options.package}
    options.arch = next(iter(infos.values()))["arch"]
    tree, work = Tree(options.recipes, options), Work(options.arch)
    for path, info in infos.items():
        recipe = tree.recipes[tree.find(info["name"])]
        if (info["arch"], info["version"]) != (recipe.arch, recipe.version):
            raise Fail(f"{path}: {info['version']} for {info['arch']}, and {recipe.path} "
                       f"makes {recipe.version} for {recipe.arch}")
        paths.setdefault(recipe.name, []).append(path)
    if not all([rebuild(tree.recipes[name], paths[name], work) for name in paths]):
        raise Fail("not every package has the bytes that its recipe gives here")


def read_package(path: str) -> Dict[str, Any]:
    try:
        return package_info(path)
    except (tarfile.TarError, AttributeError, ValueError, EOFError):
        raise Fail(f"{path}: not a package; name files that end in .lpkg") from None


def cmd_input(options: argparse.Namespace) -> None:
    """Write the tar that goes into the recipe's build, for who runs it elsewhere or by hand."""
    recipe, work = load_recipe(options.recipe, options), Work(options.arch)
    if not options.output:
        raise Fail("input: a tar is not for a terminal; name its file, as in -o in.tar")
    check_hashes(recipe)
    os.makedirs(work.logs, exist_ok=True)
    with open(options.output, "w+b") as file:
        write_input(recipe, work, file)


def cmd_fetch(options: argparse.Namespace) -> None:
    """Fetch the sources of recipes, or one file from the first of several URLs that has it."""
    pairs = [split_name(word, "fetch") for word in options.what]
    if not any(url.startswith(SCHEMES) for _, url in pairs):
        return for_each(recipe_paths(options.what), lambda path: fetch_recipe(path, options))
    own = [source_name(url, "fetch") for _, url in pairs]
    alternatives = []
    for _, url in pairs:
        match = HASH_QUERY.search(url)
        digest = match[1] if match else options.sha256 or ""
        if not SHA256.fullmatch(digest):
            raise Fail(f"{without_hash(url)}: no sha256 of 64 digits 0-9a-f; "
                       "give it with --sha256")
        alternatives.append(Alternative(without_hash(url), digest))
    folder = os.path.dirname(os.path.abspath(options.output)) if options.output else options.sources
    path = fetch_source(pairs[0][0] or own[0], alternatives, folder, options.of)
    if options.output:
        if file_digest(path) != os.path.basename(path):
            raise Fail(f"{path}: its bytes are not what its name says; remove it")
        os.replace(path, options.output)
        with contextlib.suppress(OSError):  # not when a dead host is noted there
            os.removedirs(private_folder("dead"))


def fetch_recipe(path: str, options: argparse.Namespace) -> None:
    recipe = load_recipe(path, options)
    sources = [source for source in recipe.sources if not source.is_local]
    for_each(sources, lambda source: fetch_source(
        source.name, source.alternatives, options.sources, recipe.folder))
    say(f"fetch   {recipe.name}: {count(len(sources), 'source')} in {options.sources}")


def for_each(items: Iterable[Any], function: Callable[[Any], Any]) -> None:
    """Call FUNCTION for all ITEMS; what fails doesn't keep the rest from being done."""
    problems = []
    for item in items:
        try:
            function(item)
        except Fail as problem:
            problems.append(str(problem))
    if problems:
        raise Fail("\npkggen: ".join(problems))


def recipe_paths(words: List[str]) -> List[str]:
    """The recipes that WORDS name: recipes, directories of them, or names of some in recipes/."""
    paths = []
    for word in words:
        is_tree = os.path.isdir(word) and not os.path.isfile(os.path.join(word, RECIPE_FILE))
        paths += find_recipes(word) if is_tree else [recipe_path(word)]
    if not paths:
        raise Fail(f"{' '.join(words)}: no recipe there; one is a directory with a {RECIPE_FILE}")
    return paths


# ---- hash and add-patch: edits of a recipe, all else in it as it was -----------------------------

# An edit is (start, end, what is there then). Places in the text are PyYAML's marks of its nodes.
Edit = Tuple[int, int, str]


def editable_text(path: str) -> str:
    """The text of the recipe PATH, which is not a link."""
    if os.path.islink(path):
        raise Fail(f"{path}: a link, and what it leads to is not changed; name the file itself")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return file.read()


def edited(text: str, edits: Iterable[Edit]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def value_edit(node: Any, new: str) -> Edit:
    """NEW in the place of a value that may be empty, right behind its key's colon."""
    start, end = node.start_mark.index, node.end_mark.index
    return start, end, new if end > start else f" {new}"


def end_of_line(text: str, node: Any) -> int:
    """Where the line ends that NODE ends in; to YAML a block ends where the next thing begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return re.compile(r"\r?\n|\Z").search(text, node.end_mark.index).start()


def newline_of(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def quote_key(name: str) -> str:
    """NAME as a key of a YAML map."""
    is_plain = re.fullmatch("[A-Za-z][A-Za-z0-9+._-]*", name)
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def cmd_hash(options: argparse.Namespace) -> None:
    """Fetch every source and write its hash into the recipe's sha256 map, all else as it was."""
    paths = recipe_paths(options.recipe)
    if options.bump and len(paths) > 1:
        raise Fail("hash: --version is one recipe's; name that alone")
    # Each URL is asked once, whatever recipes name it.
    ask = functools.lru_cache(None)(lambda url: fetched_hash(source_name(url, "hash"), url))
    for_each(paths, lambda path: hash_recipe(recipe_path(path), options, ask))


def hash_recipe(path: str, options: argparse.Namespace, ask: Callable) -> None:
    """Write the hashes of the recipe's sources, as ASK(URL) has them, and first the new version."""
    text = editable_text(path)
    if options.bump:
        nodes, values = keys_of(compose_text(path, to_bytes(text))), (options.bump, "0")
        text = edited(text, [value_edit(nodes[key], new)
                             for key, new in zip(("version", "build"), values) if key in nodes])
    recipe = load_recipe(path, options, text=text)
    hashes, missing = source_hashes(recipe, ask)
    if missing and options.bump:
        raise Fail(f"{path}: no answer for {', '.join(missing)}; the version stays")
    text = with_hashes(path, text, hashes)
    try:
        fields = load_recipe(path, options, text=text).fields
    except Fail:
        fields = {}
    if {**fields, "sources": ()} != {**recipe.fields, "sha256": hashes, "sources": ()}:
        raise Fail(f"{path}: no place for the hashes; write an empty line `sha256:` where they "
                   "belong, at the left margin; nothing is written")
    replace_file(path, text.encode())
    say(f"hash    {path}: {len(hashes)} written")
    if missing:
        raise Fail(f"{path}: no answer for {', '.join(missing)}; the other hashes are written")


def source_hashes(recipe: Recipe, ask: Callable) -> Tuple[Dict[str, str], List[str]]:
    """The sha256 map that the recipe should have, and the sources that nobody has.

    What can't be asked keeps the hash that it has; a hash in a URL stays there.
    """
    found: Dict[str, Optional[str]] = {}
    missing = []
    for (texts, _), source in zip(recipe.fields["sources"], recipe.sources):
        own = source_name(source.alternatives[0].url, source.place)
        answers = source.is_local
        for index, (url, _) in enumerate(() if source.is_local else source.alternatives):
            if HASH_QUERY.search("".join(texts[index:index + 1])):
                say(f"hash    {url}: its hash is in its URL; change it there")
                answers = True
                continue
            key = hash_key(url, source.name, own)
            found[key] = found.get(key) or ask(url)
            answers = answers or found[key]
        missing += [] if answers else [source.name]
    hashes = {key: digest or recipe.fields["sha256"].get(key) for key, digest in found.items()}
    return {key: digest for key, digest in hashes.items() if digest}, missing


def fetched_hash(name: str, url: str) -> Optional[str]:
    """The sha256 of what URL names now, kept in the cache; None when it can't be had."""
    try:
        return os.path.basename(fetch_alternative(name, Alternative(url, None), SOURCES))
    except Unreachable as reason:
        say(f"hash    {url}: {reason}")
        return None


def with_hashes(path: str, text: str, hashes: Dict[str, str]) -> str:
    """TEXT of the recipe PATH with HASHES as its sha256 map; lines of other names go."""
    nodes, newline = keys_of(compose_text(path, text.encode())), newline_of(text)
    value, left, edits, indent, head = nodes.get("sha256"), dict(hashes), [], 2, ""
    if value is None and not hashes:
        return text
    if value is None:
        at = end_of_line(text, nodes.get("mirrors", nodes["sources"]))
        head = newline + "sha256:"
    elif isinstance(value, yaml.MappingNode) and not value.flow_style:
        indent = value.start_mark.column
        at = value.start_mark.index - indent - len(newline)
        for name, old in value.value:
            if name.value in left:
                edits.append(value_edit(old, left.pop(name.value)))
                at = end_of_line(text, old)
            else:
                start = name.start_mark.index - name.start_mark.column
                edits.append((start, end_of_line(text, old) + len(newline), ""))
    else:
        start, end = text.rindex(":", 0, value.start_mark.index), value.end_mark.index
        at = end_of_line(text, value)
        if not re.search(r"\s#.*\n", text[start:end]):  # else a comment would be lost
            edits.append((start, end, ":"))
    margin = newline + " " * indent
    lines = [f"{margin}{quote_key(name)}: {digest}" for name, digest in left.items()]
    return edited(text, [*edits, (at, at, head + "".join(lines))])


SCRIPT_LINE = r"(?P<margin>[ \t]*(?:- +)?)(?P<shell>[^\r\n]+)"
# What a line of a script unpacks or changes sources with: a patch made after it comes after it.
UNPACKS = (
    r"\{\{-?\s*(unpack|extract|patch)\b|\btar\s(.*\s)?(-\w*x|x\w*f|--extract)|\bpatch\s+-"
    r"|^(?!.*\bout/).*\b(sed|mv)\s")


def cmd_add_patch(options: argparse.Namespace) -> None:
    """Write into the recipe that its sources have FILE, which lies beside it, and apply it."""
    recipe, name = load_recipe(options.recipe, options), options.file
    if not NAME.fullmatch(name):
        raise Fail(f"{name!r}: not a name for a patch; use letters, digits and + . _ -")
    text = with_patch(recipe.path, editable_text(recipe.path), name)
    try:
        patched = load_recipe(recipe.path, options, text=text)
    except Fail:
        patched = recipe
    lines = [line for line in patched.script.split("\n") if f"src/{name}" in line]
    is_applied = len(lines) == 1 and re.fullmatch(f"patch .*<src/{re.escape(name)}", lines[0])
    if not is_applied or name not in (source.name for source in patched.sources):
        raise Fail(
            f"{recipe.path}: no certain place for {name}; add `file:{name}` to sources and, after "
            f"what unpacks, `patch -p1 <src/{name}` to script")
    replace_file(recipe.path, text.encode())
    say(f"patch   {recipe.path}: {name} is in its sources and applied in its script")


def with_patch(path: str, text: str, name: str) -> str:
    """TEXT of the recipe PATH with the patch NAME in its sources and, unless {{patch "DIR"}} is
    there, after the last line of its script that unpacks or changes sources."""
    nodes = keys_of(compose_text(path, text.encode()))
    edits, newline = [], newline_of(text)
    sources, script = nodes.get("sources"), nodes.get("script")
    if isinstance(sources, yaml.SequenceNode) and sources.value:
        at, new = sources.value[-1].end_mark.index, f", file:{name}"
        if not sources.flow_style:
            margin = newline + " " * sources.start_mark.column
            at, new = end_of_line(text, sources), f"{margin}- file:{name}"
        edits.append((at, at, new))
    if script and not re.search(r"\{\{-?\s*patch\b", text):
        start, end = script.start_mark.index - script.start_mark.column, script.end_mark.index
        lines = [line for line in re.compile(SCRIPT_LINE).finditer(text, start, end)
                 if re.search(UNPACKS, line["shell"])]
        if lines and not lines[-1]["shell"].endswith("\\"):
            at, margin = lines[-1].end(), newline + lines[-1]["margin"]
            edits.append((at, at, f"{margin}patch -p1 <src/{name}"))
    return edited(text, edits)


# ---- outdated --------------------------------------------------------------------------------


def cmd_outdated(options: argparse.Namespace) -> None:
    """Print the version of each recipe beside the newest that apt and upstream have."""
    recipes = [load_recipe(path, options) for path in recipe_paths(options.recipe or ["recipes"])]
    in_apt = newest_in_apt(recipes)
    rows = [("NAME", "VERSION", "APT", "UPSTREAM")]
    for recipe in recipes:
        mine = recipe.fields["version"]
        rows.append((recipe.name, mine, in_apt.get(recipe.name, "-"), newest_upstream(recipe)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    output(options, "".join(f"{printable(line)}\n" for line in lines))


def newest_in_apt(recipes: List[Recipe]) -> Dict[str, str]:
    """Recipe to the newest version of its source package, which has its name unless it says so."""
    packages: Dict[Optional[str], Dict[str, str]] = {}  # by suite, recipe to source package
    for recipe in recipes:
        urls = remote_urls(recipe)
        match = next(filter(None, map(DEB_SRC.match, urls)), None)
        if urls:
            suite = match["suite"] if match else None
            package = match["package"].partition("=")[0] if match else recipe.name.lower()
            packages.setdefault(suite, {})[recipe.name] = package
    newest = {}
    for suite, named in packages.items():
        try:
            options = apt_options(archive_sets(suite)[-1])
            text = run_apt("apt-cache", *options, "showsrc", "--only-source", *named.values())
        except Unreachable as reason:
            say(f"outdated: {suite or 'apt'}: {reason}")
            continue
        found = re.findall(r"(?m)^Package: (.*)\n(?:.+\n)*?Version: (.*)", text)
        for name, package in named.items():
            versions = [upstream_version(version) for other, version in found if other == package]
            newest[name] = max(versions, key=version_key, default="-")
    return newest


def remote_urls(recipe: Recipe) -> List[str]:
    return [alternative.url for source in recipe.sources for alternative in source.alternatives
            if not source.is_local]


def newest_upstream(recipe: Recipe) -> str:
    """The newest version in the listing where the first https source of the recipe is, or -.

    That is the listing of the first directory on the way to it whose names have the version.
    """
    url = next((url for url in remote_urls(recipe) if url.startswith("https:")), "")
    url = url.partition("?")[0]
    version = rf"(?<![0-9.]){re.escape(recipe.fields['version'])}(?![0-9])"
    match = re.match(rf"(https://[^/]+/(?:.*?/)??)([^/]*?){version}([^/]*)", url)
    if not match:
        return "-"
    end = r"\.tar\.\w+" if match[3].startswith(".tar.") else re.escape(match[3])
    form = re.compile(re.escape(match[2]) + r"([0-9][\w.+~-]*?)" + end)
    try:
        with open_url(match[1]) as reply:
            page = reply.read(PAGE_LIMIT).decode(errors="replace")
    except (Unreachable, OSError, ValueError) as reason:
        say(f"outdated: {recipe.name}: {match[1]}: {reason}")
        return "-"
    links = re.findall(r"""(?i)href\s*=\s*["']?([^"'\s>?#]+)""", page)
    names = (link.rstrip("/").rpartition("/")[2] for link in links)
    found = [name[1] for name in map(form.fullmatch, names) if name]
    stable = [text for text in found if not re.search("(?i)alpha|beta|rc|pre|dev", text)]
    return max(stable or found or ["-"], key=version_key)


def upstream_version(version: str) -> str:
    """Upstream's part of the Debian version: 1:1.2.13.dfsg-1 is 1.2.13."""
    version = re.sub(r"^[0-9]+:|-[^-]*$", "", version)
    return re.sub(r"^.*\+really|[.+~]?(dfsg|ds|repack).*$", "", version)


def version_key(version: str) -> List[Tuple[List[int], int]]:
    """Debian's order of versions as a key: ~ comes before the end, letters before all else."""
    weights = {"~": -1}
    return [
        ([weights.get(c, ord(c) + 256 * (not c.isalpha())) for c in word] + [0], int(number or 0))
        for word, number in re.findall("([^0-9]*)([0-9]*)", version)]


def output(options: argparse.Namespace, text: str) -> None:
    if options.output:
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        replace_file(options.output, to_bytes(text))
    else:
        sys.stdout.buffer.write(to_bytes(text))


# verb: (what it does, arguments, what runs it)
COMMANDS: Dict[str, Tuple[str, Tuple[str, ...], Callable[[argparse.Namespace], None]]] = {
    "script": ("print the shell script that a recipe comes to", ("recipe",), cmd_script),
    "build": ("build recipes whose inputs changed, in a container", ("recipe...",), cmd_build),
    "hash": ("fetch the sources and write their sha256 into recipes", ("recipe...",), cmd_hash),
    "fetch": ("fetch the sources of recipes, or what is at a URL", ("what...",), cmd_fetch),
    "outdated": ("list versions beside apt's and upstream's newest", ("recipe*",), cmd_outdated),
    "build-mk": ("print the makefile that builds a recipe", ("recipe",), cmd_build_mk),
    "fetch-mk": ("print the makefile that fetches the sources", ("recipe...",), cmd_fetch_mk),
    "world-mk": ("print the makefile that builds a tree of recipes", ("folder",), cmd_world_mk),
    "why": ("say what a package's recipe is built for, if it is", ("folder", "package"), cmd_why),
    "find": ("print the directory of the recipe that makes a package", ("recipe",), cmd_find),
    "graph": ("draw what needs what, as DOT, or as SVG with -o FILE.svg", ("folder",), cmd_graph),
    "meta": ("print what lpkg pack needs to know, as JSON", ("recipe",), cmd_meta),
    "input": ("write the tar that goes into a recipe's build", ("recipe",), cmd_input),
    "rebuild": ("build packages again, and say what differs", ("package...",), cmd_rebuild),
    "add-patch": ("name a patch in a recipe, and apply it", ("recipe", "file"), cmd_add_patch),
    "new": ("write a recipe to start from, for the source at a URL", ("name", "url"), cmd_new),
    "lint": ("say what is wrong or odd in recipes; all below recipes/", ("recipe*",), cmd_lint),
    "schema": ("print the JSON Schema of a pkgen.yaml, for editors", (), cmd_schema),
}


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"pkggen: {printable(message)}; `{self.prog} --help` lists what there is\n")


def parse_arguments(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="pkggen.py", description="Turn YAML recipes into makefiles, and run them.")
    parser.add_argument("--version", action="version", version=f"pkggen {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    argv = sys.argv[1:] if argv is None else argv
    wanted = argv[:1] if argv and argv[0] in COMMANDS else COMMANDS  # all take 10 ms
    for verb in wanted:
        what, arguments, _ = COMMANDS[verb]
        command = verbs.add_parser(verb, help=what, description=what)
        for name in arguments:
            many = "+" if name.endswith("...") else "*" if name.endswith("*") else None
            command.add_argument(name.rstrip(".*"), nargs=many)
        add_options(command, verb)
    return parser.parse_args(argv)


def add_options(command: argparse.ArgumentParser, verb: str) -> None:
    what, default = ("DIR", "recipes/core/NAME") if verb == "new" else ("FILE", "stdout")
    command.add_argument(
        "-o", dest="output", metavar=what, help=f"write to {what} instead of {default}")
    if verb == "fetch":
        command.add_argument("--sha256", help="the hash that a URL's file must have")
        command.add_argument(
            "--of", default="RECIPE", metavar="RECIPE", help="whose source it is, for messages")
        command.add_argument(
            "--sources", default=SOURCES, help="cache of files by hash (%(default)s)")
    if verb == "hash":
        command.add_argument(
            "--version", dest="bump", help="first write this version into the recipe")
    here = os.environ.get("ARCH") or MACHINES.get(os.uname().machine, os.uname().machine)
    command.add_argument("--arch", default=here, type=arch, help="compile for (%(default)s)")
    command.add_argument("--hostarch", type=arch, default=os.environ.get("HOSTARCH"),
                         help="compile on ($HOSTARCH, or the same)")
    command.add_argument(
        "-D", dest="define", action="append", default=[], type=definition, metavar="KEY=VALUE",
        help="a value for .Data of the templates")
    command.add_argument("--lenient", action="store_true", help="unknown keys are warnings")
    if verb == "world-mk":
        command.add_argument(
            "--package", action="append", default=[], metavar="NAME",
            help="have `all` bring this package, and build no other recipe (again for more)")
        command.add_argument(
            "--service", action="append", default=[], metavar="NAME",
            help="stop unless these packages bring this init script (again for more)")
    if verb == "rebuild":
        command.add_argument("--recipes", default="recipes", metavar="DIR",
                             help="the tree of their recipes (%(default)s)")
    if verb == "build":
        add_stage_options(command)


def add_stage_options(command: argparse.ArgumentParser) -> None:
    """What world.mk knows of a recipe ("A tree of recipes")."""
    command.add_argument("--before-libc", action="store_true", help="libc needs it: build without")
    command.add_argument("--stage", action="store_true", help="build the recipe's stage")
    command.add_argument(
        "--without", action="append", default=[], metavar="DEP",
        help="what the stage is built without, or PACKAGE/DEP: what a package of it lacks")
    command.add_argument(
        "--use-stage", action="append", default=[], metavar="RECIPE",
        help="a recipe whose stage is in the sysroot in its place")


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


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt waits until what is done here is done: a process that runs must be known."""
    waiting: List[int] = []
    former = {caught: signal.signal(caught, lambda number, frame: waiting.append(number))
              for caught in INTERRUPTS}
    try:
        yield
    finally:
        for caught, handler in former.items():
            signal.signal(caught, handler)
    if waiting:
        interrupt(waiting[0], None)


def interrupt(number: int, frame: Any) -> None:
    for caught in INTERRUPTS:
        signal.signal(caught, signal.SIG_IGN)  # once: what was begun is being undone
    raise Interrupted(number)


def main(argv: Optional[List[str]] = None) -> int:
    options = parse_arguments(argv)
    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    try:
        options.data = dict(getattr(options, "define", []))
        COMMANDS[options.verb][2](options)
    except Fail as problem:
        for line in f"pkggen: {problem}".split("\n"):     # a template's has a line with a caret
            say(line)
        return 1
    except OSError as error:
        say(f"pkggen: {error.filename or options.verb}: {error.strerror}")
        return 1
    except Interrupted as signal_received:
        say(f"pkggen: stopped by {signal_received}; the next run goes on from what is finished")
        return 128 + signal_received.number
    return 0


# ==== Templates ===================================================================================
#
# Go's text/template, version 1.19, in three steps: a scanner cuts the text into tokens, a parser
# makes a tree of them, a machine walks the tree. Three ideas carry the rest.
#
# 1. Go knows two kinds of nothing. A nil in the data is None; what was looked up and not found is
#    ABSENT. A field of ABSENT is ABSENT again, and prints as <no value>; a field of None is an
#    error. A pipeline's result is never None, and a function's argument never ABSENT: either
#    becomes the other.
# 2. Variables are a stack. Leaving a block cuts it back to its height on entering.
# 3. A template that never ends meets a limit: of nodes walked, of characters written or passed to
#    functions and back, of depth. Parser and machine recurse, so they count how deep they are.
#
# A place is an offset into the text; TemplateText.error makes name:line:column of it. Bytes that
# are not UTF-8 (from "\xff", or a slice through a character) are lone surrogates in strings, as
# Python's error handler "surrogateescape" has it.

MAX_STEPS = 1_000_000  # nodes; a recipe walks some hundreds
MAX_TEXT = 1 << 24  # characters
MAX_DEPTH = 250  # blocks, parentheses and templates in one another; Go's is 100,000 templates
FRAMES = 8  # of Python's stack that each of these may take; parentheses and a block take 7
MAX_INT = (1 << 63) - 1  # of Go's int
SHOWN, SHOWN_BEFORE = 90, 60  # characters of a line that an error shows, and before its caret


class Struct(dict):
    """A map that is a Go struct to templates: its fields are fixed, another name is an error."""


class Byte(int):
    """A byte of a string, as `index "abc" 1` gives it: Go's uint8."""


class Part(list):
    """What `slice` makes of a list; as in Go it may be cut again, up to the elements BEYOND it."""

    beyond: list = []


ABSENT = object()  # looked up and not found


class TemplateText:
    """A template's text under the name that its errors bear."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, at: int, what: str) -> Fail:
        """The Fail `name:line:column: WHAT` for the offset AT; both counts start at 1.

        Two lines more show the text there with a caret below, as much of it as a terminal holds.
        """
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        left = max(start, at - SHOWN_BEFORE)
        shown = self.text[left:left + SHOWN].partition("\n")[0].rstrip()
        shown = "".join(c if c.isprintable() else " " for c in shown)  # one column each
        caret = " " * (at - left) + "^"
        return Fail(f"{self.name}:{line}:{at - start + 1}: {what}\n    {shown}\n    {caret}")


class Node(NamedTuple):
    """A token, or a node of the tree that the parser makes; what VALUE is depends on KIND.

    tokens: text, close, end of text, a keyword, or a group of TOKEN; the value is their text
    text: the text
    action: a pipeline, whose value is printed unless a variable takes it
    if, with, range: (arms, otherwise); an arm is (pipeline, nodes), and only an if has several
    template: (name, pipeline or None)
    break, continue: the token itself
    pipeline: (names of variables, whether they exist, commands); a command is a list of operands,
        and operands are pipelines and these:
    constant: a string, number or bool
    dot, nil, variable, word: the token itself
    chain: (operand, the tokens of its fields)
    """

    kind: str
    at: int
    value: Any


# ---- scanner: text -> tokens ---------------------------------------------------------------------

KEYWORDS = frozenset("block break continue define else end if nil range template with".split())
OPEN = re.compile(r"\{\{(?P<trim>-[ \t\r\n])?")
CLOSE = r"\}\}|[ \t\r\n]-\}\}[ \t\r\n]*"
COMMENT = re.compile(rf"/\*(?:(?!\*/).)*\*/(?:{CLOSE})", re.DOTALL)
TOKEN = re.compile(rf"""
    (?P<close>{CLOSE})
  | (?P<space>[ \t\r\n]+(?!-\}}\}}))  # leaves the blank that belongs to a trimming close
  | (?P<number>(?:[+-]?\.?[0-9](?:[eEpP][+-]|[\w.])*)(?:[+-](?:[eEpP][+-]|[\w.])*)?)
  | (?P<word>\w+) | (?P<field>\.\w+) | (?P<dot>\.) | (?P<variable>\$\w*)
  | (?P<string>"(?:\\[^\n]|[^"\\\n])*") | (?P<raw>`[^`]*`) | (?P<char>'(?:\\[^\n]|[^'\\\n])*')
  | (?P<pipe>\|) | (?P<left>\() | (?P<right>\)) | (?P<other>:=|[!#%&*+,/;<=>?@\[\\\]^{{}}~-])
  | (?P<bad>)
""", re.VERBOSE)
WORDS = ("word", "field", "dot", "variable")
WORD_ENDS = re.compile(r"[ \t\r\n.,|:)(}]|\Z")
UNENDED = {
    '"': "this string has no closing quote on its line",
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
            yield Node("end of text", end, "")
            return
        comment = COMMENT.match(source.text, opening.end())
        position = comment.end() if comment else (yield from scan_action(source, opening))


def scan_action(source: TemplateText, opening: re.Match) -> Iterator[Node]:
    """The tokens of one action with its }}; returns the offset where text goes on."""
    text, position, kind = source.text, opening.end(), ""
    if text.startswith("/*", position):
        raise source.error(opening.start(), "this comment never closes with */}} or */ -}}")
    while kind != "close":
        if position == len(text):
            raise source.error(opening.start(), "this {{ is never closed")
        match = TOKEN.match(text, position)
        kind, token, end = match.lastgroup, match.group(), match.end()
        if kind == "bad" or kind in WORDS and not WORD_ENDS.match(text, end):
            what = UNENDED.get(text[end]) or f"bad character {quote(text[end])} here"
            raise source.error(end, what)
        if kind != "space":
            yield Node(token if token in KEYWORDS else kind, position, token)
        position = end
    return position


# ---- literals ------------------------------------------------------------------------------------

OCTAL = re.compile(r"^([+-]?)0(?=_?[0-7_]+$)")
STRAY_UNDERSCORE = re.compile("(?<![0-9a-fx])_|_(?![0-9a-f])")
COMPLEX = re.compile(r"(?:(?P<real>.*[^ep+-])(?=[+-]))?(?P<imaginary>.+)i")
UNIT = re.compile(r"""
    \\(?P<octal>[0-3][0-7]{2}) | \\x(?P<byte>[0-9a-fA-F]{2})
  | \\u(?P<short>[0-9a-fA-F]{4}) | \\U(?P<long>[0-9a-fA-F]{8})
  | \\(?P<escape>[abfnrtv\\'"]) | (?P<plain>[^\\])
""", re.VERBOSE | re.DOTALL)
ESCAPES = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\""))


def parse_literal(token: Node) -> object:
    """The value of a number, string, raw string or character; ValueError when it is malformed."""
    mark, content = token.value[0], token.value[1:-1]
    if token.kind == "number":
        return parse_number(token.value)
    if token.kind == "raw":
        return content.replace("\r", "")
    if token.kind == "string" and "\\" not in content:
        return content
    units = list(UNIT.finditer(content))
    if sum(len(unit.group()) for unit in units) != len(content):
        raise ValueError
    characters = [unescape(unit, mark) for unit in units]
    if token.kind == "string":
        return to_text(to_bytes("".join(characters)))  # joins bytes to characters
    (character,) = characters
    return ord(character) - 0xDC00 if is_byte(character) else ord(character)


def unescape(unit: re.Match, mark: str) -> str:
    """The character that a UNIT between two MARKs stands for; ValueError for a bad escape."""
    kind, text = unit.lastgroup, unit[unit.lastgroup]
    if kind == "plain":
        return text
    if kind == "escape":
        if text in "'\"" and text != mark:
            raise ValueError
        return ESCAPES[text]
    if kind in ("octal", "byte"):
        return to_text(bytes([int(text, 8 if kind == "octal" else 16)]))
    return chr(int(text, 16)).encode().decode()  # refuses surrogates


def is_byte(character: str) -> bool:
    """Whether CHARACTER stands for a byte that is not part of any UTF-8."""
    return "\udc80" <= character <= "\udcff"


def parse_number(text: str) -> object:
    """The number that TEXT is in Go; ValueError when it isn't one, or doesn't fit into 64 bits."""
    if not text.isascii() or len(text) > 1000:  # int() takes its time with more digits
        raise ValueError
    low = text.lower()
    parts = COMPLEX.fullmatch(low)
    if parts:
        return complex(parse_float(parts["real"] or "0"), parse_float(parts["imaginary"]))
    if "." in low or "p" in low or "e" in low and "x" not in low:
        return parse_float(low)
    value = int(OCTAL.sub(r"\g<1>0o", low), 0)
    if not -MAX_INT - 1 <= value <= (MAX_INT if text[0] in "+-" else 2 * MAX_INT + 1):
        raise ValueError
    return value


def parse_float(low: str) -> float:
    """The float64 that LOW is, in small letters; ValueError when it isn't one or is too large."""
    if "x" in low and ("p" not in low or STRAY_UNDERSCORE.search(low)):
        raise ValueError
    value = float.fromhex(low.replace("_", "")) if "x" in low else float(low)
    if not math.isfinite(value):
        raise ValueError
    return value


def to_bytes(text: str) -> bytes:
    """TEXT as Go holds it and as it is written: "\\xff" is that byte."""
    return text.encode("utf-8", "surrogateescape")


def to_text(octets: bytes) -> str:
    """The inverse of to_bytes."""
    return octets.decode("utf-8", "surrogateescape")


# ---- parser: tokens -> tree ----------------------------------------------------------------------

LITERALS = ("string", "raw", "char", "number")
OPERANDS = LITERALS + ("word", "field", "dot", "variable", "nil", "left")
TOO_DEEP = f"blocks, parentheses or templates are nested over {MAX_DEPTH} deep"


class Parser:
    """Makes the trees of a template and of those it defines: `parse` gives them by name."""

    def __init__(self, source: TemplateText, functions: Dict[str, Any]) -> None:
        self.source = source
        self.functions = functions
        self.tokens: List[Node] = []
        self.problem: Optional[Fail] = None  # why there are no more
        self.position = 0  # of the next token in it
        self.variables = ["$"]  # in scope
        self.depth = 0  # of blocks and parentheses
        self.ranges = 0  # whose body this is in, in this template
        self.templates: Dict[str, List[Node]] = {}

    def parse(self) -> Dict[str, List[Node]]:
        """Template name -> nodes; raises Fail for what Go does not parse."""
        try:
            for token in scan(self.source):
                self.tokens.append(token)
        except Fail as problem:     # an error that the parser meets before it counts first
            self.problem = problem
        nodes, stop = self.nodes(top=True)
        if stop.kind != "end of text":
            raise self.error(stop, f"unexpected {{{{{stop.kind}}}}}: no block is open here")
        self.add(self.source.name, stop, nodes)
        return self.templates

    # Tokens.

    def peek(self, ahead: int = 0) -> Node:
        try:
            return self.tokens[self.position + ahead]
        except IndexError:
            raise self.problem from None

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

    def error(self, node: Node, what: str) -> Fail:
        return self.source.error(node.at, what)

    def unexpected(self, where: str) -> Fail:
        """A Fail for the next token."""
        return self.error(self.peek(), f"unexpected {quote(self.peek().value)} in {where}")

    def deeper(self, token: Node) -> None:
        """Count a block or parenthesis that begins at TOKEN."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(token, TOO_DEEP)

    # Blocks.

    def nodes(self, top: bool = False) -> Tuple[List[Node], Node]:
        """The nodes up to an {{end}}, an {{else}} or the end of the text, and which it was."""
        nodes: List[Node] = []
        while True:
            token = self.peek()
            if token.kind in ("else", "end", "end of text"):
                return nodes, self.next()
            if token.kind == "define" and not top:
                raise self.error(token, "define must stand outside of every block")
            nodes += [self.next()] if token.kind == "text" else self.action(token)

    def action(self, token: Node) -> List[Node]:
        """The nodes of an action: one, or none of a define."""
        handlers = {
            "if": self.branch, "with": self.branch, "range": self.branch,
            "define": self.define, "block": self.define, "template": self.invoke,
            "break": self.jump, "continue": self.jump}
        if token.kind in handlers:
            return handlers[token.kind](self.next())
        return [Node("action", token.at, self.pipeline("an action"))]

    def branch(self, token: Node) -> List[Node]:
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
        self.depth -= 1

    def define(self, token: Node) -> List[Node]:
        """{{define "name"}}, and {{block "name" P}}: a define and a template node in its place."""
        self.deeper(token)
        name, here = self.name(token), []
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

    def add(self, name: str, token: Node, nodes: List[Node]) -> None:
        """Record a template; an empty one gives way to another of its name, as Go has it."""
        known = self.templates.get(name)
        if not known or is_empty(known):
            self.templates[name] = nodes
        elif not is_empty(nodes):
            raise self.error(token, f"template {quote(name)} is defined twice")

    def invoke(self, token: Node) -> List[Node]:
        """{{template "name"}} or {{template "name" P}}."""
        name = self.name(token)
        if self.peek().kind == "close":
            self.next()
            return [Node("template", token.at, (name, None))]
        return [Node("template", token.at, (name, self.pipeline("template")))]

    def name(self, token: Node) -> str:
        """The quoted name after define, block or template."""
        return self.literal(self.expect(token.kind, "string", "raw")).value

    def jump(self, token: Node) -> List[Node]:
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
        while self.peek().kind == "variable" and self.peek(1).value in (":=", "=", ","):
            variable, mark = self.next(), self.next().value
            names.append(variable.value)
            self.variables.append(variable.value)  # = too: Go finds out when it runs
            if mark != ",":
                return names, mark == "="
            if where != "range" or len(names) > 1:
                raise self.error(variable, f"too many variables in {where}")
            if self.peek().kind != "variable":
                raise self.unexpected("a range's variables")
        return names, False

    def command(self) -> List[Node]:
        """Operands up to a | or to what closes the pipeline; only the | is taken."""
        operands: List[Node] = []
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
        fields: List[Node] = []
        while self.peek().kind == "field" and (self.glued() or self.peek() is first):
            fields.append(self.next())
        if fields and first.kind != "field" and term.kind in ("constant", "dot", "nil"):
            raise self.error(first, f"{quote(first.value)} has no fields")
        return Node("chain", term.at, (term, fields)) if fields else term

    def term(self, token: Node) -> Node:
        """The node that TOKEN is, or that a left parenthesis opens."""
        if token.kind in LITERALS:
            return self.literal(token)
        if token.kind == "left":
            self.deeper(token)
            pipeline = self.pipeline("parentheses", "right")
            self.depth -= 1
            return pipeline
        if token.value in ("true", "false"):
            return Node("constant", token.at, token.value == "true")
        if token.kind == "variable" and token.value not in self.variables:
            raise self.error(token, f"undefined variable {token.value}")
        if token.kind == "word" and token.value not in self.functions:
            hint = did_you_mean(token.value, self.functions)
            raise self.error(token, f"there is no function {quote(token.value)}{hint}")
        return token

    def literal(self, token: Node) -> Node:
        try:
            return Node("constant", token.at, parse_literal(token))
        except (ValueError, OverflowError):
            raise self.error(token, f"{token.value} is not a valid {token.kind}") from None


def is_empty(nodes: List[Node]) -> bool:
    """Whether a template is nothing but blanks."""
    return all(node.kind == "text" and not node.value.strip() for node in nodes)


# ---- machine: tree -> text -----------------------------------------------------------------------

class Machine:
    """Walks the trees of a template and gathers the text in `pieces`.

    A do_KIND does a node with the dot it sees; it returns "break" or "continue" when one is to be
    done by a range around it.
    """

    def __init__(self, source: TemplateText, templates: Dict[str, list], functions: dict) -> None:
        self.source = source
        self.templates = templates
        self.functions = functions
        self.pieces: List[str] = []
        self.variables: List[list] = []  # [name, value], of the template that runs
        self.depth = 0  # of blocks and templates
        self.steps = MAX_STEPS
        self.characters = MAX_TEXT

    def run(self, data: Any) -> str:
        """The text of the template of the source's name, for DATA."""
        self.invoke(Node("template", 0, ""), self.source.name, ABSENT if data is None else data)
        return to_text(to_bytes("".join(self.pieces)))  # joins the bytes of sliced characters

    def error(self, node: Node, what: str) -> Fail:
        return self.source.error(node.at, what)

    def spend(self, node: Node, *values: Any) -> None:
        """Pay for a step, and for the strings among VALUES."""
        self.steps -= 1
        for value in values:
            if isinstance(value, str):
                self.characters -= len(value)
        if self.steps < 0 or self.characters < 0:
            raise self.error(node, f"no end after {MAX_STEPS} steps or {MAX_TEXT} characters")

    def write(self, node: Node, text: str) -> None:
        self.spend(node, text)
        self.pieces.append(text)

    # Nodes.

    def walk(self, block: Node, nodes: List[Node], dot: Any) -> Optional[str]:
        """Do the NODES of BLOCK."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(block, TOO_DEEP)
        jump = None
        for node in nodes:
            self.spend(node)
            jump = getattr(self, "do_" + node.kind)(node, dot)
            if jump:
                break
        self.depth -= 1
        return jump

    def do_text(self, node: Node, dot: Any) -> None:
        self.write(node, node.value)

    def do_action(self, node: Node, dot: Any) -> None:
        value = self.pipeline(node.value, dot)
        if not node.value.value[0]:  # no variable takes it
            self.write(node, "<no value>" if value is ABSENT else show(value))

    def do_break(self, node: Node, dot: Any) -> str:
        return node.kind

    do_continue = do_break

    def do_if(self, node: Node, dot: Any) -> Optional[str]:
        arms, chosen = node.value
        height = len(self.variables)
        for pipeline, nodes in arms:
            value = self.pipeline(pipeline, dot)
            if is_true(value):
                dot, chosen = value if node.kind == "with" else dot, nodes
                break
        jump = self.walk(node, chosen, dot)
        del self.variables[height:]
        return jump

    do_with = do_if

    def do_range(self, node: Node, dot: Any) -> Optional[str]:
        """The body for each item, or the else part; a break in that ends this range too."""
        ((pipeline, nodes),), otherwise = node.value
        outer = len(self.variables)
        items = self.items(pipeline, self.pipeline(pipeline, dot))
        height = len(self.variables)
        jump = None if items else self.walk(node, otherwise, dot)
        for item in items:
            self.spend(node)
            for place in range(len(pipeline.value[0])):  # so has Go 1.19 `range $x = …`
                self.variables[height - 1 - place][1] = item[1 - place]
            if self.walk(node, nodes, item[1]) == "break":
                break
            del self.variables[height:]
        del self.variables[outer:]
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

    def do_template(self, node: Node, dot: Any) -> None:
        name, pipeline = node.value
        if name not in self.templates:
            raise self.error(node, f"there is no template {quote(name)}")
        self.invoke(node, name, self.pipeline(pipeline, dot) if pipeline else ABSENT)

    def invoke(self, node: Node, name: str, dot: Any) -> None:
        """Do a template; its argument is . and $, and it sees no other variable."""
        outer, self.variables = self.variables, [["$", dot]]
        self.walk(node, self.templates[name], dot)
        self.variables = outer

    # Pipelines and operands.

    def pipeline(self, node: Node, dot: Any) -> Any:
        """The last command's value, which the variables take; never None."""
        names, exist, commands = node.value
        last: List[Any] = []
        for command in commands:
            value = self.command(command, dot, last)
            value = ABSENT if value is None else value
            last = [value]
        for name in names:
            if exist:
                self.find(node, name)[1] = value
            else:
                self.variables.append([name, value])
        return value

    def find(self, node: Node, name: str) -> list:
        """The innermost variable NAME."""
        for variable in reversed(self.variables):
            if variable[0] == name:
                return variable
        raise self.error(node, f"undefined variable {name}")

    def command(self, operands: List[Node], dot: Any, last: List[Any]) -> Any:
        """The value of a command. LAST holds the value of the stage before, its last argument."""
        first = operands[0]
        if first.kind == "word":
            return self.call(first, operands[1:], dot, last)
        given = len(operands) > 1 or bool(last)
        if first.kind == "chain":
            return self.chain(first, dot, given)
        if given:
            raise self.error(first, "this is not a function and takes no arguments")
        if first.kind == "nil":
            raise self.error(first, "nil is not a command")
        return self.operand(first, dot)

    def operand(self, node: Node, dot: Any) -> Any:
        """The value of what is an argument or stands alone."""
        if node.kind == "constant":
            if type(node.value) is int and node.value > MAX_INT:
                raise self.error(node, f"{node.value} is too large for an int")
            return node.value
        if node.kind == "dot":
            return dot
        if node.kind == "variable":
            return self.find(node, node.value)[1]
        if node.kind == "chain":
            return self.chain(node, dot, False)
        if node.kind == "word":
            return self.call(node, [], dot, [])
        return self.pipeline(node, dot) if node.kind == "pipeline" else None

    def chain(self, node: Node, dot: Any, given: bool) -> Any:
        """Fields in fields; GIVEN arguments are an error at the last."""
        base, fields = node.value
        value = self.operand(base, dot)
        for field in fields:
            if value is ABSENT:
                break
            name = field.value[1:]
            if value is None:
                raise self.error(field, f"nil has no field {name}")
            if not isinstance(value, dict) or isinstance(value, Struct) and name not in value:
                hint = did_you_mean(name, value) if isinstance(value, Struct) else ""
                what = f"can't evaluate field {name} in type {go_type(value)}{hint}"
                raise self.error(field, what)
            if given and field is fields[-1]:
                raise self.error(field, f"{name} is not a function and takes no arguments")
            value = value.get(name, ABSENT)
        return value

    def call(self, node: Node, operands: List[Node], dot: Any, last: List[Any]) -> Any:
        """A function's value. Whatever Python raises there is an error at the function's name."""
        function = self.functions[node.value]
        kinds, least, rest = signature(function)
        count = len(operands) + len(last)
        if count < least or count > len(kinds) and rest is None:
            raise self.error(node, f"{node.value} does not take {count} arguments")
        if function in (BUILTINS["and"], BUILTINS["or"]):
            return self.short_circuit(operands, dot, last, function is BUILTINS["or"])
        values = [self.operand(operand, dot) for operand in operands] + last
        values = [None if value is ABSENT else value for value in values]
        for value, kind, where in zip(values, kinds + [rest] * count, operands + [node]):
            if not is_kind(value, kind):
                what = f"{node.value} takes {GO_NAMES[kind]} here, and this is {go_type(value)}"
                raise self.error(where, what)
        return self.protected(node, function, values)

    def protected(self, node: Node, function: Callable[..., Any], values: List[Any]) -> Any:
        """Call Python, and pay for the text that goes in and comes out."""
        self.spend(node, *values)
        try:
            result = function(*values)
        except RecursionError:
            raise
        except Exception as error:
            raise self.error(node, f"{node.value}: {error}") from None
        self.spend(node, result)
        return result

    def short_circuit(self, operands: List[Node], dot: Any, last: List[Any], stop: bool) -> Any:
        """`and`, `or`: the first operand whose truth is STOP, else the last; no more are run."""
        value = ABSENT
        for operand in operands:
            value = self.operand(operand, dot)
            if is_true(value) == stop:
                return value
        return last[0] if last else value


def is_true(value: Any) -> bool:
    """Go's truth: nothing, false, 0 and what is empty are not; a struct always is."""
    return isinstance(value, Struct) or value is not ABSENT and bool(value)


def is_map(value: Any) -> bool:
    """Whether VALUE is a map, which a struct is not."""
    return isinstance(value, dict) and not isinstance(value, Struct)


def sorted_keys(value: dict) -> list:
    """A map's keys as Go sorts them: keys of several types, which YAML may have, by type first."""
    return sorted(value, key=lambda key: (go_type(key), key == key, key))  # NaN before numbers


# ---- functions -----------------------------------------------------------------------------------

GO_NAMES = {
    bool: "bool", Byte: "uint8", int: "int", float: "float64", complex: "complex128",
    str: "string", list: "[]interface {}", Part: "[]interface {}", tuple: "[]interface {}",
    dict: "map[string]interface {}", Struct: "Recipe", type(None): "<nil>"}
HINTS = {kind.__name__: kind for kind in GO_NAMES}  # annotations may be strings
BASIC_KINDS = ("bool", "int", "float64", "complex128", "string")


def go_type(value: Any) -> str:
    """What Go calls the type of VALUE; of a map from yaml.v2, when a key isn't a string."""
    if is_map(value) and not all(isinstance(key, str) for key in value):
        return "map[interface {}]interface {}"
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
    hints = {name: HINTS.get(hint, hint) for name, hint in function.__annotations__.items()}
    count = code.co_argcount
    names = code.co_varnames[1 if hasattr(function, "__self__") else 0:count]
    kinds = [hints.get(name, object) for name in names]
    rest = None
    if code.co_flags & 0x04:  # it has *rest
        rest = hints.get(code.co_varnames[count + code.co_kwonlyargcount], object)
    return kinds, len(kinds) - len(function.__defaults__ or ()), rest


def basic_kind(value: Any) -> str:
    """One of BASIC_KINDS, which `eq` compares, or "" when VALUE has none of them."""
    kind = "int" if type(value) is Byte else go_type(value)
    return kind if kind in BASIC_KINDS else ""


def is_same(one: Any, two: Any) -> bool:
    """Whether two values are equal; Fail when Go can't compare such two."""
    if one is None or two is None:
        return one is two
    if basic_kind(one) != basic_kind(two) or not basic_kind(one):
        raise Fail(f"can't compare {go_type(one)} with {go_type(two)}")
    return one == two


def is_less(one: Any, two: Any) -> bool:
    """Whether ONE < TWO: numbers of one type and strings have an order, nothing else has."""
    if basic_kind(one) != basic_kind(two) or basic_kind(one) in ("", "bool", "complex128"):
        raise Fail(f"{go_type(one)} and {go_type(two)} have no order")
    return to_bytes(one) < to_bytes(two) if isinstance(one, str) else one < two


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
    """The value of KEY; to Go, unlike to Python, 1, 1.0 and true are three keys."""
    if isinstance(key, str):
        return item.get(key)
    if go_type(item) == GO_NAMES[dict] or not basic_kind(key) and key is not None:
        raise Fail(f"keys of a {go_type(item)} are not of type {go_type(key)}")
    return next((item[k] for k in item if k == key and type(k) is type(key)), None)


def check_index(index: Any, most: int) -> int:
    """INDEX, when it is an int from 0 to MOST."""
    if basic_kind(index) != "int" or not 0 <= index <= most:
        raise Fail(f"index out of range: {show(index)}")
    return index


def go_slice(item: Any, *indexes: Any) -> object:
    """Template function `slice`: item[i:j], a string's in bytes; a list may have a third index."""
    content = to_bytes(item) if isinstance(item, str) else item
    if isinstance(item, (list, tuple)):
        content = [*item, *getattr(item, "beyond", ())]
    if not isinstance(content, (bytes, list)):
        raise Fail(f"can't slice {go_type(item)}")
    if len(indexes) > (2 if isinstance(item, str) else 3):
        raise Fail("too many indexes")
    bounds = [check_index(index, len(content)) for index in indexes]
    bounds += (0, len(item if isinstance(content, list) else content), len(content))[len(bounds):]
    if bounds != sorted(bounds):
        raise Fail("the indexes fall")
    first, end, most = bounds
    if isinstance(content, bytes):
        return to_text(content[first:end])
    part = Part(content[first:end])
    part.beyond = content[end:most]
    return part


def go_call(function: object, *_: object) -> None:
    """Template function `call`: data holds no functions, so there is nothing that it could call."""
    raise Fail(f"can't call {go_type(function)}")


HTML = str.maketrans({
    "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"})
JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', **{c: f"\\u{ord(c):04X}" for c in "<>&="}}
JS.update((c, c) for c in ("\x7f", *map(chr, range(0xDC80, 0xDD00))))  # the last are bare bytes


def flat(values: tuple) -> str:
    """The arguments of html, js and urlquery as one string."""
    return go_print(*("<no value>" if value is None else value for value in values))


def go_js(*values: object) -> str:
    """Template function `js`."""
    return "".join(
        JS.get(c) or (c if c.isprintable() else f"\\u{ord(c):04X}") for c in flat(values))


def go_print(*values: object) -> str:
    """Template function `print`: a blank between two operands neither of which is a string."""
    pieces = []
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            pieces.append(" ")
        pieces.append(show(value))
    return "".join(pieces)


# ---- printing: Go's fmt --------------------------------------------------------------------------
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
    zero: bool = False  # never with minus
    width: int = 0
    precision: Optional[int] = None
    syntax: bool = False  # %#v: as Go source
    names: bool = False  # %+v: with the names of a struct's fields

    def pad(self, text: str) -> str:
        """TEXT at the width."""
        fill = "0" if self.zero else " "
        return text.ljust(self.width) if self.minus else text.rjust(self.width, fill)

    def number(self, negative: bool, digits: str) -> str:
        """DIGITS with a sign, at the width; zeros go between the two."""
        sign = "-" if negative else "+" if self.plus else " " if self.space else ""
        if self.zero:
            digits = digits.zfill(self.width - len(sign))
        return self._replace(zero=False).pad(sign + digits)


def show(value: Any, style: Style = Style()) -> str:
    """VALUE in STYLE."""
    if value is None:
        return style.pad("<nil>") if style.verb in "vT" else f"%!{style.verb}(<nil>)"
    if style.verb == "T":
        return style.pad(go_type(value)[:style.precision])
    for kind, verbs, shower in SHOWERS:
        if not isinstance(value, kind):
            continue
        # %p would show an address, another in each run.
        if style.verb in verbs or not verbs and style.verb not in "wp":
            return shower(value, style)
        return f"%!{style.verb}({go_type(value)}={shower(value, style._replace(verb='v'))})"
    return style.pad(str(value))


def show_int(value: int, style: Style) -> str:
    if style.verb in "cqU":
        return show_character(value, style)
    if style.precision == 0 and value == 0:
        return " " * style.width
    if style.syntax and type(value) is Byte:
        style = style._replace(verb="x", sharp=True)
    digits = format(abs(value), {"v": "d", "O": "o"}.get(style.verb, style.verb))
    if style.precision is not None:
        digits = digits.zfill(style.precision)
        style = style._replace(zero=False)
    if style.zero:  # before the prefix: %#06x is 8 wide
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
    if not math.isfinite(value):
        style = style._replace(zero=False, plus=style.plus or value == value and not style.space)
        return style.number(value < 0, "NaN" if value != value else "Inf")
    form = {"v": "g", "F": "f"}.get(style.verb, style.verb)
    digits = float_digits(abs(value), form, style.precision)
    if style.sharp and form != "b":
        digits = keep_point(digits, form, style.precision)
    return style.number(str(value)[0] == "-", digits)


def show_complex(value: complex, style: Style) -> str:
    """(1+2i); each part takes the flags and the width, and the second always has a sign."""
    return f"({show_float(value.real, style)}{show_float(value.imag, style._replace(plus=True))}i)"


def float_digits(value: float, form: str, precision: Optional[int]) -> str:
    """VALUE, which is not negative, by the verb FORM."""
    if form == "b":  # a whole number times a power of two
        exponent = max(math.frexp(value)[1] - 53, -1074) if value else -1074
        return f"{int(math.ldexp(value, -exponent))}p{exponent:+}"
    if form in "xX":
        digits = hex_digits(value, precision)
    elif precision is None and form in "gG":
        digits = shortest(value)
    else:
        digits = format(value, f".{6 if precision is None else precision}{form}")
    return digits.upper() if form in "XG" else digits


def hex_digits(value: float, precision: Optional[int]) -> str:
    """0x1.8p+01: a power of two times what has 1 before the point; as few digits as are needed."""
    places = 13 if precision is None else precision
    kept = min(places, 13)
    fraction, exponent = math.frexp(value)
    number = round(math.ldexp(fraction, 1 + 4 * kept))
    if number == 2 << 4 * kept:  # rounded up
        number, exponent = number // 2, exponent + 1
    digits = f"{number:0{kept + 1}x}"
    tail = digits[1:].ljust(places, "0")
    tail = tail.rstrip("0") if precision is None else tail
    return f"0x{digits[0]}{'.' if tail else ''}{tail}p{exponent - 1 if value else 0:+03}"


EXPONENT = re.compile(r"([^pP]*?)((?:[pP]|[eE](?=[+-])).*)?")


def keep_point(digits: str, form: str, precision: Optional[int]) -> str:
    """The flag #: DIGITS with a decimal point, and %g with the zeros that it drops.

    Go's count of %x takes the x for a digit.
    """
    head, tail = EXPONENT.fullmatch(digits).groups()
    count = len(head.replace(".", "").lstrip("0")) + (head == "0")
    wanted = (6 if precision is None else precision) if form in "gGx" else 0
    return head + "." * ("." not in head) + "0" * (wanted - count) + (tail or "")


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
        raw = style.sharp and not re.search("[\0-\x08\n-\x1f`\x7f\ufeff\udc80-\udcff]", text)
        text = f"`{text}`" if raw else quote(text, '"', style.plus)
    return style.pad(text)


def show_composite(value: Any, style: Style) -> str:
    """[a b], map[a:1 b:2] or {1 x}, or the like as Go source."""
    def element(item: Any) -> str:
        nil = "interface {}(nil)" if style.syntax else "<nil>"  # under any verb
        return nil if item is None else show(item, style)

    if isinstance(value, Struct):
        names = style.syntax or style.names
        ends = "{}"
        shown = [f"{name}:" * names + element(item) for name, item in value.items()]
    elif isinstance(value, dict):
        ends = "map[", "]"
        shown = [f"{element(key)}:{element(value[key])}" for key in sorted_keys(value)]
    else:
        ends = "[]"
        shown = [element(item) for item in value]
    if style.syntax:
        return f"{go_type(value)}{{{', '.join(shown)}}}"
    return ends[0] + " ".join(shown) + ends[1]


FLOAT_VERBS = "vgGeEfFbxX"
SHOWERS: Tuple[Tuple[Any, str, Callable[..., str]], ...] = (
    (bool, "tv", lambda value, style: style.pad("true" if value else "false")),
    (int, "vdbcoOqxXU", show_int),
    (float, FLOAT_VERBS, show_float),
    (complex, FLOAT_VERBS, show_complex),
    (str, "vsqxX", show_string),
    ((dict, list, tuple), "", show_composite))
QUOTED = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\"}


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """TEXT as a Go literal between two MARKs."""
    return mark + "".join(quote_one(c, mark, ascii_only) for c in text) + mark


def quote_one(character: str, mark: str, ascii_only: bool) -> str:
    number = ord(character)
    if character in QUOTED or character == mark:
        return QUOTED.get(character, "\\" + character)
    if character.isprintable() and (number < 128 or not ascii_only):
        return character
    if number < 128 or is_byte(character):  # a control character, or a bare byte
        return f"\\x{number & 255:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


# ---- printf --------------------------------------------------------------------------------------

MAX_WIDTH = 1_000_000  # fmt's limit


class Printf:
    """One call of `printf`: the place in its format, and which argument comes next."""

    def __init__(self, form: str, values: tuple) -> None:
        self.form = form
        self.position = 0
        self.values = values
        self.place = 0
        self.reordered = False  # by some [n]: then arguments left over get no remark
        self.indexed = False  # an [n] was the last thing in this directive
        self.good = True  # the directive's [n] are numbers of arguments
        self.pieces: List[str] = []
        self.room = MAX_TEXT

    def run(self) -> str:
        """The text, with Go's remarks for what does not fit."""
        self.write(self.take("[^%]*"))
        while self.take("%"):
            self.directive()
            self.write(self.take("[^%]*"))
        self.write(self.extra())
        return "".join(self.pieces)

    def write(self, text: str) -> None:
        self.pieces.append(text)
        self.room -= len(text)
        if self.room < 0:
            raise Fail(f"the text grows over {MAX_TEXT} characters")

    def take(self, pattern: str) -> str:
        """What matches PATTERN at the position, which moves behind it; "" when nothing does."""
        match = re.compile(pattern, re.DOTALL).match(self.form, self.position)
        self.position = match.end() if match else self.position
        return match.group() if match else ""

    def directive(self) -> None:
        """Write what follows a %: remarks on its width and precision, and then the argument."""
        self.good = True
        flags = self.take("[#0+ -]*")
        self.index()
        width = self.size(-MAX_WIDTH, None, "%!(BADWIDTH)")
        self.good = self.good and not (self.indexed and width is not None)
        precision = None
        if self.take(r"\.(?!\Z)"):
            self.good = self.good and not self.indexed
            self.index()
            precision = self.size(0, 0, "%!(BADPREC)")
        if not self.indexed:
            self.index()
        self.write(self.shown(self.take(".?"), flags, width or 0, precision))

    def index(self) -> None:
        """Go on with the argument that an [n] names, where one stands."""
        mark = self.take(r"\[((?!\]\Z)[^]]*\])?")  # the bracket alone when it is never closed
        number = small_number(mark[1:-1])
        self.indexed = number is not None
        self.reordered = self.reordered or bool(mark)
        if number in range(1, len(self.values) + 1):
            self.place = number - 1
        elif mark:
            self.good = False

    def size(self, least: int, default: Optional[int], remark: str) -> Optional[int]:
        """A width or precision; for a * the next argument, or None and the REMARK when it's bad."""
        if not self.take(r"\*"):
            digits = self.take("[0-9]*")
            size = small_number(digits)
            if digits and size is None:
                self.position = len(self.form)  # so does Go
            return default if size is None else size
        self.indexed = False
        value = self.values[self.place] if self.place < len(self.values) else None
        self.place = min(self.place + 1, len(self.values))
        if basic_kind(value) == "int" and least <= value <= MAX_WIDTH:
            return value
        self.write(remark)
        return None

    def shown(self, verb: str, flags: str, width: int, precision: Optional[int]) -> str:
        """The next argument by VERB."""
        if verb in ("", "%"):
            return verb or "%!(NOVERB)"
        if not self.good:
            return f"%!{verb}(BADINDEX)"
        if self.place >= len(self.values):
            return f"%!{verb}(MISSING)"
        self.place += 1
        plus, sharp, minus = "+" in flags, "#" in flags, "-" in flags or width < 0
        form = {"syntax": sharp, "names": plus} if verb == "v" else {"sharp": sharp, "plus": plus}
        style = Style(
            verb, minus, space=" " in flags, zero="0" in flags and not minus, width=abs(width),
            precision=precision, **form)
        return show(self.values[self.place - 1], style)

    def extra(self) -> str:
        """The remark on arguments that no directive took."""
        if self.reordered or self.place >= len(self.values):
            return ""
        left = [
            "<nil>" if value is None else f"{go_type(value)}={show(value)}"
            for value in self.values[self.place:]]
        return f"%!(EXTRA {', '.join(left)})"


def small_number(text: str) -> Optional[int]:
    """The number that TEXT is; None when it isn't one, or is larger than fmt reads."""
    if not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return int(text) if len(text) < 9 and int(text) // 10 <= MAX_WIDTH else None


def go_printf(form: str, *values: object) -> str:
    """Template function `printf`."""
    return Printf(form, values).run()


BUILTINS: Dict[str, Callable[..., Any]] = {
    "and": lambda first, *others: first,  # for the signature: Machine.short_circuit runs them
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
    "print": go_print,
    "printf": go_printf,
    "println": lambda *values: " ".join(map(show, values)) + "\n"}


def render(
    text: str, data: Any, funcs: Optional[Dict[str, Callable[..., Any]]] = None,
    name: str = "template") -> str:
    """The template TEXT, of Go's text/template, filled in from DATA.

    DATA is made of dict, list, str, int, float, bool, None and Struct. FUNCS are added to Go's own
    functions: annotations (str, int, float, bool, list, dict) say what they take, and what one
    raises is an error at its call. Raises Fail `NAME:line:column: what` for whatever Go rejects,
    and for a template that does not end or does not stop growing.
    """
    source = TemplateText(name, text)
    functions = {**BUILTINS, **(funcs or {})}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + FRAMES * MAX_DEPTH)
    try:
        return Machine(source, Parser(source, functions).parse(), functions).run(data)
    except RecursionError:
        raise source.error(0, "the template or its data is nested too deep") from None
    finally:
        sys.setrecursionlimit(limit)


if __name__ == "__main__":
    sys.exit(main())
