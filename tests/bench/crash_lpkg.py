#!/usr/bin/env python3
"""Kill installs at random moments, and see what is left and whether the same command mends it.

    python3 tests/bench/crash_lpkg.py                           # 20 kills each, of an install of M
    python3 tests/bench/crash_lpkg.py --managers lpkg,apk --trials 100 --seed 7
    python3 tests/bench/crash_lpkg.py --corpus DIR              # with the packages bench_lpkg kept

All that the install started gets SIGKILL, at a moment between 5 and 97 % of the time that it takes
when it is left alone. The table counts trials. After the kill:

    unreadable  the database could not be listed
    half        it calls a package half installed
    lies        it calls a package installed whose files are missing or wrong
    orphans     there are files of packages that it does not list
    litter      there are files in usr or etc that a whole install does not leave

then the same command is run again:

    mended      it ended well, and database and files are right
    lock        it did not, and spoke of a lock
    by hand     database and files are right after what the manual says to do
    broken      they are not, or there is litter still

A SIGKILL is no power cut: what was written is there, synced or not. The managers are those of
bench_lpkg.py. Nothing is timed, and `make bench` does not run this.
"""
import argparse
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Counter, Dict, List, NamedTuple, Set, Tuple

from bench_lpkg import Work, make_work
from managers import Manager
from measure import LIMIT, Fail, path, positive, scratch
from peers import ALL

COLUMNS = ("unreadable", "half", "lies", "orphans", "litter", "mended", "lock", "by hand", "broken")
EARLIEST, LATEST = 0.05, 0.97       # of what the install takes
ATTEMPTS = 20                       # of a trial: a kill that comes too late is no kill


class Findings(NamedTuple):
    """What is in a root: can the database be listed, and which names and paths speak against it."""

    is_readable: bool
    installed: Set[str]
    half: Set[str]
    lies: List[str]
    orphans: List[str]
    litter: Set[str]

    def are_right(self, work: Work) -> bool:
        wrong = self.half or self.lies or self.orphans
        return self.is_readable and self.installed == set(work.names()) and not wrong


class Victim:
    """A manager whose installs of WORK are killed; `paths` are what a whole one leaves."""

    def __init__(self, manager: Manager, work: Work) -> None:
        self.manager = manager
        self.work = work
        self.paths: Set[str] = set()
        self.seconds = min(self.install_whole() for _ in range(3))
        self.paths = list_paths(manager.root)

    def install_whole(self) -> float:
        """Seconds that an install takes."""
        self.manager.start(self.work.name)
        begun = time.monotonic()
        status, output = self.run(self.install())
        seconds = time.monotonic() - begun
        if status or not self.look().are_right(self.work):
            raise Fail(f"{self.manager.name}: no whole install: {output[-2000:]}")
        return seconds

    def install(self) -> List[str]:
        return self.manager.command("install", *self.work.names())

    def environment(self) -> Dict[str, str]:
        return {**os.environ, **self.manager.environment, "PATH": path(), "LC_ALL": "C.UTF-8"}

    def run(self, command: List[str]) -> Tuple[int, str]:
        """Status and output of COMMAND."""
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=LIMIT, env=self.environment(), check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    # -- a trial

    def kill(self, chance: random.Random) -> None:
        """Cut an install in an empty root."""
        for _ in range(ATTEMPTS):
            self.manager.start(self.work.name)
            with subprocess.Popen(
                self.install(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=self.environment(), start_new_session=True,
            ) as process:
                time.sleep(self.seconds * chance.uniform(EARLIEST, LATEST))
                is_running = process.poll() is None
                if is_running:
                    os.killpg(process.pid, signal.SIGKILL)
            if is_running:
                return
        raise Fail(f"{self.manager.name}: {ATTEMPTS} kills came too late; is the machine busy?")

    def look(self) -> Findings:
        """What is in the root now."""
        status, output = self.run(self.manager.command("list"))
        installed, half = map(set, self.manager.parse_list(output) if status == 0 else ([], []))
        installed &= set(self.work.names())         # there may be talk in between
        root, lies, orphans = self.manager.root, [], []
        for package in self.work.packages:
            if package.name in installed:
                lies += [] if package.is_as_made(root) else [package.name]
            elif package.name not in half:
                orphans += [one for one in package.files if os.path.lexists(root / one)]
        is_readable = status == 0 or self.manager.says_none_by_status
        return Findings(is_readable, installed, half, lies, orphans, list_paths(root) - self.paths)

    def trial(self, chance: random.Random) -> Counter[str]:
        """Kill once, look, run again: the columns that this trial counts in."""
        self.kill(chance)
        found = self.look()
        counts = collections.Counter(
            unreadable=int(not found.is_readable), half=int(bool(found.half)),
            lies=int(bool(found.lies)), orphans=int(bool(found.orphans)),
            litter=int(bool(found.litter)),
        )
        counts.update(self.mend())
        return counts

    def mend(self) -> Dict[str, int]:
        """Run the install again, and do what the manual says if that isn't enough."""
        status, output = self.run(self.install())
        found = self.look()
        is_mended = status == 0 and found.are_right(self.work)
        counts = {"mended": int(is_mended), "lock": int(not is_mended and "lock" in output.lower())}
        if not is_mended:
            self.run(self.manager.repair(self.install()))
            found = self.look()
            counts["by hand"] = int(found.are_right(self.work))
        counts["broken"] = int(bool(found.litter) or not found.are_right(self.work))
        return counts


def list_paths(root: pathlib.Path) -> Set[str]:
    """The files in usr and etc of ROOT."""
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for top in ("usr", "etc") for folder, _, names in os.walk(root / top) for name in names
    }


# ---- the command line ----------------------------------------------------------------------------


def show_row(cells: List[str]) -> None:
    print(cells[0].ljust(10) + "".join(cell.rjust(12) for cell in cells[1:]), flush=True)


def try_all(options: argparse.Namespace, folder: pathlib.Path, roots: pathlib.Path) -> None:
    """Print a row of counts for each manager."""
    wanted = options.managers.split(",")
    managers = [kind(folder, roots) for kind in ALL if kind.name in wanted]
    here = [one for one in managers if not one.absence()]
    work = make_work(options.set, folder, here, options)
    print(f"{options.trials} kills of an install of {options.set}, seed {options.seed}")
    show_row(["", "seconds", *COLUMNS])
    for manager in here:
        victim = Victim(manager, work)
        chance = random.Random(f"{options.seed}-{manager.name}")
        counts = sum((victim.trial(chance) for _ in range(options.trials)), collections.Counter())
        show_row([manager.name, f"{victim.seconds:.2f}", *(str(counts[one]) for one in COLUMNS)])
    for manager in managers:
        if manager not in here:
            print(f"absent: {manager.name} ({manager.absence()})")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=positive, default=20, help="kills of each manager (20)")
    parser.add_argument("--set", default="M", help="what is installed (M)")
    parser.add_argument("--seed", default="1", help="of all that is left to chance (1)")
    parser.add_argument("--managers", default="lpkg,apk,xbps,pacman,dpkg", help="which (all)")
    parser.add_argument("--corpus", default="", help="where the packages are kept, or found")
    parser.add_argument("--quick", action="store_true", help="few packages")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    try:
        with scratch() as folder, scratch(in_memory=True) as roots:
            folder = pathlib.Path(options.corpus or folder).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            try_all(options, folder, roots)
    except (Fail, subprocess.TimeoutExpired) as problem:
        print(f"crash_lpkg.py: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
