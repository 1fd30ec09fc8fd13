#!/usr/bin/env python3
"""Benchmark of pkggen: one recipe's script, and the makefile of a whole tree of recipes.

    python3 tests/bench/bench_pkggen.py             # a tree of 327 recipes
    python3 tests/bench/bench_pkggen.py --large     # and one of 3,000
    python3 tests/bench/bench_pkggen.py --quick     # one round with 40 recipes

The tree is made from a seed, in the size and shape of a real one. Nothing is built: that all is up
to date is said by records that pkggen's own functions write, of packages that are a few bytes each.

The peer `python` is an empty start of this Python that imports yaml; `pkggen` is the installed form
(compiled), `pkggen.py` the script as it is copied and as `make world` runs it; `lpkg.py` indexes as
many small packages as there are recipes, and plans the upgrade of all of them. Needs PyYAML,
PyNaCl; make, from the Debian package of that name, for a row.
"""
import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import py_compile
import random
import sys
import tarfile
import tempfile
from types import ModuleType
from typing import Iterator, List

from managers import add_member, lpkg
from measure import (
    TREE, Peer, Samples, Step, main, measure, middle, prepare, say_where, scratch, show,
)

PKGGEN = TREE / "pkggen.py"
PAGE = TREE / "world/page.html"
SEED = 327
RECIPES, LARGE, QUICK = 327, 3000, 40
GROUPS = ("core", "devel", "libs", "network", "text", "x11")
PLUGINS = "alsa cairo curl dbus drm egl gbm gles jpeg lua ogg pango png pulse sdl vulkan".split()
MOVED = ("usr/include", "usr/lib/*.a", "usr/lib/pkgconfig", "usr/lib/cmake/")
ARCH = "x86_64"


# ---- a tree of recipes ---------------------------------------------------------------------------


class Shape:
    """What one generated recipe is like; recipe 0 is the C library, which all others need."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"lib{number:04}" if number else "musl"
        self.group = GROUPS[number % len(GROUPS)]
        self.version = f"{chance.randrange(9)}.{chance.randrange(40)}.{chance.randrange(10)}"
        self.hash = f"{chance.getrandbits(256):064x}"
        self.is_patched = chance.random() < 0.2
        # Few recipes come to many packages, as Mesa's does.
        count = 16 if chance.random() < 0.02 else chance.choice((0, 0, 0, 1, 2, 4))
        self.plugins = sorted(chance.sample(PLUGINS, count))
        self.programs = [f"{self.name}-{i}" for i in range(chance.randrange(5))]
        self.moved = MOVED[:chance.randrange(2, len(MOVED) + 1)]
        self.has_manual = chance.random() < 0.6
        self.flags = chance.sample(("nls", "static", "docs", "rpath", "debug"), chance.randrange(4))
        self.needs = needs_of(number, chance)

    @property
    def folder(self) -> str:
        return f"{self.group}/{self.name}"


def needs_of(number: int, chance: random.Random) -> List[str]:
    """What recipe NUMBER is built with: earlier recipes, so that there is no cycle.

    Some are of the first ones, which much is built on, and some of the last, so that chains get as
    long as a desktop's. A tree of more than RECIPES is several such families on one foundation.
    """
    count = chance.choice((0, 1, 1, 2, 2, 3, 4, 7))
    place = number % RECIPES
    wanted = count // 2 if place else 0
    near = [number - 1 - chance.randrange(place // 8 + 1) for _ in range(wanted)]
    far = [int(min(number, RECIPES) * chance.random() ** 2) for _ in range(count - count // 2)]
    return [f"lib{other:04}" for other in sorted({*near, *far}) if other]


def recipe_text(shape: Shape) -> str:
    name = shape.name
    lines = ["packages:", *package_lines(shape)]
    lines += [f"version: {shape.version}", f"summary: what {name} is for, in one line"]
    lines += ["license: MIT", f"url: https://example.org/{name}/", "sources:"]
    lines += [f"  - - https://example.org/{name}/{name}-{{{{.Version}}}}.tar.xz"]
    lines += [f"    - https://example.com/mirror/{name}-{{{{.Version}}}}.tar.xz"]
    lines += [f"  - file:{name}.patch"] * shape.is_patched
    lines += ["sha256:", f"  {name}-{shape.version}.tar.xz: {shape.hash}"]
    libraries = [need + "-dev" for need in shape.needs]
    lines += [f"builddependencies: [{', '.join(c_library(name) + ['make', 'gcc'] + libraries)}]"]
    if shape.programs or shape.plugins:
        lines += ["data:", f"  plugins: [{', '.join(shape.plugins)}]"]
        lines += [f"  programs: [{', '.join(shape.programs)}]"]
    return "\n".join(lines + ["script:", *script_lines(shape)]) + "\n"


def c_library(name: str) -> List[str]:
    return [] if name == "musl" else ["musl-dev"]


def package_lines(shape: Shape) -> Iterator[str]:
    name = shape.name
    runtime = shape.needs + [package.replace("-dev", "") for package in c_library(name)]
    development = [name] + [need + "-dev" for need in shape.needs[::2]]
    yield f"  {name}:"
    yield f"    dependencies: [{', '.join(runtime)}]"
    yield f"  {name}-dev:"
    yield f"    summary: headers and static library of {name}"
    yield f"    dependencies: [{', '.join(development)}]"
    if shape.has_manual:
        yield f"  {name}-man:"
    for plugin in shape.plugins:
        yield f"  {name}-{plugin}:"
        yield f"    dependencies: [{name}]"


def script_lines(shape: Shape) -> Iterator[str]:
    """The lines of the script: 7 to 15, most of them templates."""
    name = shape.name
    flags = "".join(f' "--disable-{flag}"' for flag in shape.flags)
    yield f"""  - '{{{{extract "{name}" "xz"}}}}'"""
    if shape.is_patched:
        yield f"  - patch -d {name} -p1 <src/{name}.patch"
    yield f"""  - '{{{{configure "{name}"{flags}}}}}'"""
    yield f"""  - '{{{{make "{name}"}}}}'"""
    yield f"  - $(MAKE) -C {name} DESTDIR=$(CURDIR)/out/{name} install"
    for place in shape.moved:
        yield f"""  - '{{{{pkmv "{place}" "{name}" "{name}-dev"}}}}'"""
    if shape.has_manual:
        yield f"""  - '{{{{mvman "{name}"}}}}'"""
    if shape.programs:
        yield f"  - '{{{{range .Data.programs}}}}$(STRIP) out/{name}/usr/bin/{{{{.}}}}'"
        yield "  - '{{end}}'"
    if shape.plugins:
        library, package = f"usr/lib/{name}/%s.so", f"{name}-%s"
        moved = f'(printf "{library}" .) "{name}" (printf "{package}" .)'
        yield f"  - '{{{{range .Data.plugins}}}}{{{{pkmv {moved}}}}}'"
        yield "  - '{{end}}'"
    yield f"  - rm -rf out/{name}/usr/share/doc"


def make_shapes(count: int) -> List[Shape]:
    """COUNT recipes; the same for the same COUNT on any machine."""
    chance = random.Random(SEED)
    return [Shape(number, chance) for number in range(count)]


def write_tree(folder: pathlib.Path, shapes: List[Shape]) -> None:
    for shape in shapes:
        place = folder / shape.folder
        place.mkdir(parents=True)
        (place / "pkgen.yaml").write_text(recipe_text(shape))
        if shape.is_patched:
            (place / f"{shape.name}.patch").write_text(f"--- a/{shape.name}.c\n" * 40)


# ---- what a world that is up to date has ---------------------------------------------------------


def load_pkggen() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pkggen", PKGGEN)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pkggen"] = module          # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def record_builds(folder: pathlib.Path) -> None:
    """Record each recipe below FOLDER/recipes as built from what it is now."""
    pkggen = load_pkggen()
    pkggen.OUT = str(folder / "build")
    options = pkggen.parse_arguments(["world-mk", str(folder / "recipes"), "--arch", ARCH])
    options.data = {}
    tree = pkggen.Tree(options.folder, options)
    assert not tree.problems, tree.problems
    work = pkggen.Work(ARCH)
    for place in (work.records, work.repository):
        pathlib.Path(place).mkdir(parents=True)
    for recipe in filter(None, map(tree.builds.get, tree.order)):
        packages = {package: fake_package(recipe, package, work) for package in recipe.packages}
        inputs, texts = pkggen.build_inputs(recipe, work), pkggen.build_texts(recipe)
        work.record(recipe.record_name, pkggen.BuildRecord(inputs, packages, 1.0, texts))


def fake_package(recipe: object, package: str, work: object) -> dict:
    """Write a file in the place of PACKAGE, and give its record."""
    file = f"{package}-{recipe.version}.{ARCH}.lpkg"
    data = f"{package} {recipe.version}\n".encode()
    pathlib.Path(work.repository, file).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    depends = recipe.packages[package]["dependencies"]
    return {"file": file, "size": len(data), "sha256": digest, "depends": depends, "provides": []}


# ---- what a repository and a device of that size have --------------------------------------------


def make_repository(folder: pathlib.Path, shapes: List[Shape], version: str) -> None:
    """Make FOLDER/VERSION: of each of SHAPES a package of one file, which needs what it needs."""
    packages = {shape.name: {"summary": f"what {shape.name} is for", "depends": shape.needs}
                for shape in shapes}
    meta = folder / f"{version}.json"
    meta.write_text(json.dumps(
        {"recipe": "bench", "version": f"{version}-0", "arch": ARCH, "packages": packages}))
    target = folder / version / ARCH
    target.mkdir(parents=True)
    with tempfile.TemporaryFile() as build:
        with tarfile.open(fileobj=build, mode="w") as tar:
            for name in packages:
                add_member(tar, f"out/{name}/usr/share/{name}", version.encode())
            add_member(tar, ".status", b"0\n")
        build.seek(0)
        lpkg("pack", "--meta", meta, "-o", target, stdin=build)


class Repository:
    """Two versions of COUNT packages, and a root in which all of the first are installed."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        self.folder = folder
        self.count = count
        folder.mkdir()
        shapes = make_shapes(count)
        lpkg("keygen", folder / "bench")
        for version in ("1.0", "2.0"):
            make_repository(folder, shapes, version)
            lpkg(*self.index(version))
        names = [shape.name for shape in shapes]
        lpkg("--root", folder / "root", *self.source("1.0"), "--yes", "install", *names)

    def source(self, version: str) -> List[object]:
        return ["--repo", self.folder / version, "--key", self.folder / "bench.pub"]

    def index(self, version: str) -> List[object]:
        return ["index", self.folder / version / ARCH, "--secret", self.folder / "bench.key"]

    def steps(self) -> Iterator[Step]:
        said = f"{self.count} packages"
        for path in (self.folder / "1.0" / ARCH).glob("index.*"):
            path.unlink()
        yield self.step("index, all new", said, *self.index("1.0"))
        yield self.step("index, with a page", said, *self.index("1.0"), "--page", PAGE)
        yield self.step("upgrade plan", "download", "--root", self.folder / "root",
                        *self.source("2.0"), "--dry-run", "upgrade")

    def step(self, what: str, says: str, *arguments: object) -> Step:
        argv = [sys.executable, TREE / "lpkg.py", *arguments]
        return Step(f"{what}, {self.count} packages", argv, says)


# ---- what is measured ----------------------------------------------------------------------------


class World:
    """A tree of COUNT recipes, and all that its build would have left."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self.shapes = make_shapes(count)
        write_tree(folder / "recipes", self.shapes)
        record_builds(folder)
        self.command = [sys.executable, PKGGEN, "world-mk", "recipes", "--arch", ARCH]
        prepare(*self.command, "-o", "world.mk", cwd=folder, env={**os.environ, "O": "build"})

    def step(self, what: str, out: str, says: str, *argv: object) -> Step:
        operation = f"{what}, {self.count} recipes"
        return Step(operation, argv, says, cwd=str(self.folder), env={"O": out})

    def steps(self) -> Iterator[Step]:
        all_stale = f"{self.count} of {self.count} recipes to build"
        yield self.step("world-mk", "none", all_stale, *self.command, "-o", "stale.mk")
        fresh = f"nothing to be done: {self.count} recipes"
        yield self.step("world-mk, up to date", "build", fresh, *self.command, "-o", "fresh.mk")


class Benchmark:
    """The peers' rounds over the worlds below FOLDER."""

    def __init__(self, folder: pathlib.Path, counts: List[int]) -> None:
        self.compiled = str(folder / "pkggen.pyc")
        py_compile.compile(str(PKGGEN), self.compiled, doraise=True)
        self.worlds = [World(folder / str(count), count) for count in counts]
        self.repositories = [Repository(folder / f"repo{count}", count) for count in counts]
        shape = self.worlds[0].shapes[-1]
        self.recipe = self.worlds[0].folder / "recipes" / shape.folder
        self.script_says = f"out/{shape.name}/usr/share/doc"

    def script(self, *command: str) -> Step:
        argv = [sys.executable, *command, "script", self.recipe]
        return Step("script of one recipe", argv, self.script_says)

    def python(self) -> Iterator[Step]:
        yield Step("script of one recipe", [sys.executable, "-c", "import yaml"], None)

    def installed(self) -> Iterator[Step]:
        yield self.script(self.compiled)

    def copied(self) -> Iterator[Step]:
        yield self.script(str(PKGGEN))
        for world in self.worlds:
            yield from world.steps()

    def make(self) -> Iterator[Step]:
        for world in self.worlds:
            yield world.step("make, up to date", "build", "", "make", "-f", "world.mk")

    def lpkg(self) -> Iterator[Step]:
        for repository in self.repositories:
            yield from repository.steps()

    def peers(self) -> List[Peer]:
        return [
            Peer("python", self.python),
            Peer("pkggen", self.installed),
            Peer("pkggen.py", self.copied),
            Peer("make", self.make, ("make",), "make"),
            Peer("lpkg.py", self.lpkg),
        ]


def show_growth(samples: Samples, counts: List[int]) -> None:
    """How much longer what is larger takes."""
    small, large = (f", {count} " for count in counts)
    for operation, runs in samples.items():
        for name, taken in runs.items() if large in operation else ():
            before = middle(samples[operation.replace(large, small)][name]).wall
            print(f"{operation}, {name}: {counts[1] / counts[0]:.1f} times as many take "
                  f"{middle(taken).wall / before:.1f} times as long")


def benchmark(options: argparse.Namespace) -> None:
    counts = [QUICK] if options.quick else [RECIPES]
    counts += [LARGE] if options.large else []
    with scratch() as folder:
        bench = Benchmark(folder, counts)
        say_where("pkggen", options.rounds)
        samples = measure(bench.peers(), options.rounds)
        show(samples, bench.peers(), "python")
        if options.large:
            show_growth(samples, counts)


if __name__ == "__main__":
    sys.exit(main(benchmark, __doc__, large=f"a tree of {LARGE} recipes as well"))
