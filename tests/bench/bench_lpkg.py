#!/usr/bin/env python3
"""Benchmark of lpkg beside other package managers, with the same packages in the format of each.

    python3 tests/bench/bench_lpkg.py               # M in one round, all else in five
    python3 tests/bench/bench_lpkg.py --full        # M in five as well
    python3 tests/bench/bench_lpkg.py --sets S,IDX --managers lpkg,apk
    python3 tests/bench/bench_lpkg.py --corpus DIR  # keep the packages in DIR, or find them there
    python3 tests/bench/bench_lpkg.py --quick       # one round, few packages

corpus.py says what is in the sets, managers.py and peers.py how each manager packs them and what it
is told. PM_LPKG=FILE measures another lpkg.py than this tree's; PM_APK=FILE and PM_XBPS_BIN=FOLDER
are peers that were built by hand. A peer that is absent is left out, and said.

On the sets with files: install (all of it, into an empty root), noop (upgrade, when there is
nothing to do), owner (of a path), verify, out (one package, which no other needs), in (the same one
again), remove (all of it); BIG has no other one. On IDX: update (fetch the index), dry
(say what installing p00000 with its 199 dependencies would do), search (one name).

`lpkg` is the installed form (compiled), `lpkg.py` the script as it is copied. Roots lie on a tmpfs
where there is one, and are new in each round. Needs PyNaCl, for lpkg's signing.
"""
import argparse
import json
import os
import pathlib
import shutil
import sys
from typing import Callable, Iterator, List, NamedTuple

from corpus import Package, make_set, offer_name
from managers import Lpkg, LpkgScript, Manager
from measure import (
    SHARED_MEMORY, Fail, Peer, Samples, Step, is_tmpfs, main, measure, say_where, scratch, show,
)
from peers import ALL

SETS = "S,M,BIG,IDX"
SLOW = "M"                  # the set that runs once unless --full
BASES = ("apk", "xbps", "pacman", "dpkg")       # the first that is here is what ratios are to
CHAIN = 199                 # the last package that installing p00000 brings
SOUGHT = 5000               # the package of IDX that is searched for


class Work(NamedTuple):
    """The packages of a set."""

    name: str
    packages: List[Package]

    def names(self) -> List[str]:
        return [package.name for package in self.packages]

    def middle(self) -> Package:
        return self.packages[len(self.packages) // 2]

    def last(self) -> List[str]:
        """The package that no other needs."""
        return self.names()[-1:]

    def sought(self) -> str:
        return self.packages[min(SOUGHT, len(self.packages) - 1)].name


class Operation(NamedTuple):
    """What is timed: the words of its command, what its output must hold, whether the files of what
    the words name are there then (None: that isn't looked at), the verb if it isn't called so."""

    name: str
    words: Callable[[Work], List[str]]
    says: Callable[[Work], str] = lambda work: ""
    holds: object = None
    verb: str = ""


ON_FILES = (
    Operation("install", Work.names, holds=True),
    Operation("noop", lambda work: []),
    Operation("owner", lambda work: [min(work.middle().files)], lambda work: work.middle().name),
    Operation("verify", lambda work: []),
    Operation("out", Work.last, holds=False, verb="remove"),
    Operation("in", Work.last, holds=True, verb="install"),
    Operation("remove", Work.names, holds=False),
)
ON_INDEX = (
    Operation("update", lambda work: []),
    Operation("dry", lambda work: [offer_name(0)], lambda work: offer_name(CHAIN)),
    Operation("search", lambda work: [work.sought()], Work.sought),
    Operation("version", lambda work: []),
)


# ---- the corpus ----------------------------------------------------------------------------------


def make_work(name: str, folder: pathlib.Path, managers: List[Manager],
              options: argparse.Namespace) -> Work:
    """The set NAME, packed for MANAGERS in FOLDER; what is there already is taken as it is."""
    lacking = [manager for manager in managers if not (manager.folder / name).exists()]
    memory = folder / f"{name}.json"
    if memory.exists() and not lacking:
        return Work(name, [Package(*values) for values in json.loads(memory.read_text())])
    trees = folder / "trees"
    shutil.rmtree(trees, ignore_errors=True)
    packages = make_set(name, options.seed, options.quick, trees)
    for manager in lacking:
        manager.make(name, packages, trees)
    shutil.rmtree(trees, ignore_errors=True)
    memory.write_text(json.dumps(packages))
    return Work(name, packages)


def describe(work: Work) -> str:
    files = sum(len(package.files) for package in work.packages)
    size = sum(package.size for package in work.packages) / 1e6
    count = len(work.packages)
    return f"{work.name}: {count} x {files // count} files, {size:.0f} MB" if files else (
        f"{work.name}: {count} offers")


# ---- rounds --------------------------------------------------------------------------------------


def run_round(manager: Manager, work: Work) -> Iterator[Step]:
    """The steps of MANAGER on WORK, in a new root."""
    on_files = bool(work.packages[0].files)
    manager.start(work.name)
    for operation in ON_FILES if on_files else ON_INDEX:
        if takes_part(manager, operation, work):
            yield step_of(manager, operation, work)
            if operation.holds is not None:
                expect(manager, work, operation)


def takes_part(manager: Manager, operation: Operation, work: Work) -> bool:
    """lpkg.py is shown where its start is most of what it takes, and in the smallest set."""
    is_shown = type(manager) is not LpkgScript or operation.name == "version" or work.name == "S"
    has_one_left = not operation.verb or len(work.packages) > 1
    return is_shown and has_one_left and manager.can(operation.verb or operation.name)


def step_of(manager: Manager, operation: Operation, work: Work) -> Step:
    label = operation.name if operation in ON_INDEX else f"{operation.name} {work.name}"
    says = manager.whole if operation.name == "verify" else operation.says(work)
    argv = manager.command(operation.verb or operation.name, *operation.words(work))
    return Step(label, argv, says, env=manager.environment)


def expect(manager: Manager, work: Work, operation: Operation) -> None:
    """Fail unless the files of what OPERATION is about are in the root, or none is, as it says."""
    names = operation.words(work)
    for package in work.packages:
        if package.name in names and any(
                os.path.lexists(manager.root / path) != operation.holds for path in package.files):
            be = "be" if operation.holds else "not be"
            raise Fail(f"{manager.name}: {package.name} should {be} in {manager.root}")


def peers_of(managers: List[Manager], work: Work) -> List[Peer]:
    return [manager.peer(lambda manager=manager: run_round(manager, work)) for manager in managers]


# ---- the command line ----------------------------------------------------------------------------


def benchmark(options: argparse.Namespace) -> None:
    with scratch() as folder, scratch(in_memory=True) as roots:
        folder = pathlib.Path(options.corpus or folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        managers = [kind(folder, roots) for kind in ALL if kind.name in options.managers.split(",")]
        here = [manager for manager in managers if not manager.absence()]
        samples: Samples = {}
        for name in options.sets.split(","):
            work = make_work(name, folder, here, options)
            rounds = 1 if name == SLOW and not options.full else options.rounds
            where = "on a tmpfs" if is_tmpfs(SHARED_MEMORY) else "on no tmpfs"
            say_where(f"{describe(work)}; roots {where}", rounds)
            samples.update(measure(peers_of(here, work), rounds))
        show(samples, peers_of(managers, work), base_of(here))


def base_of(managers: List[Manager]) -> str:
    """The manager that ratios are to."""
    names = [manager.name for manager in managers]
    return next((name for name in BASES if name in names), Lpkg.name)


if __name__ == "__main__":
    sys.exit(main(
        benchmark, __doc__, full=f"{SLOW} in as many rounds as the others",
        seed=("of all that is left to chance", "1"), sets=("the sets", SETS),
        corpus=("where the packages are kept, or found", ""),
        managers=("which", ",".join(kind.name for kind in ALL)),
    ))
