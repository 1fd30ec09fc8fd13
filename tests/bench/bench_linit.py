#!/usr/bin/env python3
"""Benchmark of linitd beside other inits: a boot of many services, rest, and how it answers.

    python3 tests/bench/bench_linit.py              # all; some minutes, most of them for 1,000
    python3 tests/bench/bench_linit.py --parts boot --sizes 50 --inits floor8,linit,dinit
    LINIT_HOME=FOLDER python3 tests/bench/bench_linit.py    # the linitd of another tree
    python3 tests/bench/bench_linit.py --quick      # one round, few services

boot: a graph from a seed, in which each one-shot needs up to three earlier ones and runs a line of
shell; of `mixed` three in ten are daemons, which count as running once they are executed. One more
needs them all and writes to a FIFO: that is the time shown. `init MiB` is the most
that the init itself was resident, `anonymous` the most memory that is in no file which all of the
run had at one time, `prepare` what writing the configuration took (and compiling it, for s6-rc).
rest: 20 daemons, once all is quiet; what isn't a daemon is the init's own. linit may fall asleep.
ask: what a client takes, a request on an open connection, and one that wakes linitd.

A run has PID and mount namespaces of its own, so that it ends whole, and a cgroup, which counts all
of its processes; where none can be made, what it would have counted is `nan`. Ratios are to floor8
in the same rounds; floor8 and floordag are no inits, but the least that starting so much can take.

Needs root, unshare and setpriv. Peers are on PATH or in the folder that INIT_DINIT, INIT_S6,
INIT_RUNIT or INIT_OPENRC names (OpenRC's: what its Debian packages unpack to); systemd takes part
where SYSTEMD_BENCH is set. linit-ash is linit with the shell of BUSYBOX, or of the world's busybox
package where that is built. BENCH_PYTHON runs linitd and the floors (/usr/bin/python3).
"""
import argparse
import contextlib
import functools
import inspect
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

from measure import (
    TREE, Fail, Peer, Samples, Step, main, measure, middle, path, prepare, print_absent,
    print_table, say_where, scratch, show,
)

PYTHON = os.environ.get("BENCH_PYTHON", "/usr/bin/python3")
LINIT_HOME = pathlib.Path(os.environ.get("LINIT_HOME", TREE)).resolve()
BUILD = pathlib.Path(os.environ.get("O") or TREE / "build").resolve()
REPOSITORY = BUILD / "repo" / os.uname().machine
# If the benchmark is killed, all ends with it. No init writes to this machine's console.
NAMESPACES = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
              "--kill-child", "--mount-proc", "--", "sh", "-c",
              'mount --bind /dev/null /dev/console && exec "$@"', "sh")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
SLEEPER = "linit-idle"      # what linitd executes to fall asleep

SIZES, QUICK_SIZES = "20,50,200,1000", "5"
BODIES = {"noop": ":", "sleep": "sleep 0.05", "mixed": ":"}
MOST_NEEDS = 3
LAST = "zz-all"             # the service that needs all the others
FIRST = "s0000"
DAEMON = "sleep 9999"
DAEMONS, QUICK_DAEMONS = 20, 2
DAEMONS_OF_TEN = (2, 5, 8)  # which services of a mixed boot are
FOREVER = "exec sleep 9999"

BOOT_LIMIT = 120.0         # seconds
LOOK = 0.02                 # seconds between two looks at what a run uses
CALM = 1.5                  # seconds after a start in which all gets quiet, or linitd falls asleep
WATCHED = 2.0               # seconds in which wake-ups are counted
CLIENT_ROUNDS, REQUESTS, WAKES = 30, 1000, 10
REST_ROUNDS = 3             # at most: memory hardly differs
MEBI = 1 << 20


# ---- the work ------------------------------------------------------------------------------------


Graph = Dict[str, List[str]]        # a service -> what it needs, in an order to start them in


def make_graph(size: int, seed: int) -> Graph:
    chance = random.Random(seed)
    graph: Graph = {}
    for number in range(size):
        count = min(chance.randint(0, MOST_NEEDS), number)
        graph[f"s{number:04}"] = sorted(chance.sample(list(graph), count))
    return graph


def depth(graph: Graph) -> int:
    """How many services the longest chain has."""
    depths: Dict[str, int] = {}
    for name, needs in graph.items():
        depths[name] = 1 + max((depths[need] for need in needs), default=0)
    return max(depths.values())


def describe(graph: Graph, body: str) -> str:
    edges = sum(map(len, graph.values()))
    return f"{len(graph)} services ({body}), {edges} edges, {depth(graph)} in the longest chain"


# ---- the inits -----------------------------------------------------------------------------------


class Init:
    """An init that is configured in FOLDER, for one run."""

    name = ""
    programs: Tuple[str, ...] = ()
    debian = ""                 # packages that bring the programs, or
    setting = ""                # the variable that names their folder
    has_daemons = True
    has_mixed = True            # its daemons and one-shots can need each other, in this file

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.fifo = folder / "fifo"
        self.socket = folder / "socket"

    @classmethod
    def places(cls) -> str:
        """Where its programs are looked for."""
        folder = os.environ.get(cls.setting) if cls.setting else None
        return f"{folder}:{path()}" if folder else path()

    @classmethod
    def find(cls, program: str) -> str:
        return shutil.which(program, path=cls.places()) or program

    @classmethod
    def peer(cls, name: str = "", steps: Sequence[object] = ()) -> Peer:
        """The peer NAME (the init's own), whose rounds are STEPS."""
        needs = ("setpriv", "unshare", *map(cls.find, cls.programs))
        return Peer(name or cls.name, lambda: iter(steps), needs, cls.debian, cls.setting, True)

    def environment(self) -> Dict[str, str]:
        return {**os.environ, "PATH": self.places(), "LC_ALL": "C.UTF-8"}

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    # -- what each init says in its own way

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        """Configure a service that runs LINE by a shell when NEEDS have ended well."""
        raise NotImplementedError

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        """Configure a service that supervises DAEMON when NEEDS are there."""
        raise NotImplementedError

    def command(self, goals: Sequence[str]) -> List[object]:
        """What PID 1 executes to start GOALS; the rest of the configuration is written."""
        raise NotImplementedError

    def add_graph(self, graph: Graph, body: str) -> int:
        """Configure the services; how many lines the FIFO gets when all have run."""
        for number, (name, needs) in enumerate(graph.items()):
            if body == "mixed" and number % 10 in DAEMONS_OF_TEN:
                self.add_daemon(name, needs)
            else:
                self.add_one_shot(name, needs, BODIES[body])
        self.add_one_shot(LAST, list(graph), f"echo done >{self.fifo}")
        return 1


class Floor8(Init):
    """No init: a shell for each service, eight at a time, whatever it needs."""

    name = "floor8"
    has_daemons = has_mixed = False
    most, heeds_needs = 8, False

    def add_graph(self, graph: Graph, body: str) -> int:
        lines = [" ".join([name, *needs * self.heeds_needs]) for name, needs in graph.items()]
        self.write("graph", "\n".join(lines) + "\n")
        # In a file of its own it starts with an empty Python.
        source = inspect.getsource(run_floor)
        self.write("floor.py", f"import os, sys, time\n{source}\nrun_floor(*sys.argv[1:])\n")
        self.body = BODIES[body]
        return 1

    def command(self, goals: Sequence[str]) -> List[object]:
        program = [PYTHON, "-I", "-S", self.folder / "floor.py"]
        return [*program, self.folder / "graph", self.fifo, self.body, self.most]


class FloorDag(Floor8):
    """The same, but a service waits for what it needs, and 64 run at a time."""

    name = "floordag"
    most, heeds_needs = 64, True


def run_floor(graph: str, fifo: str, body: str, most: str) -> None:
    """The floors' PID 1: run BODY for each line NAME NEED... of the file GRAPH, MOST at a time."""
    with open(graph) as lines:
        needs = {words[0]: words[1:] for words in map(str.split, lines)}
    missing = {name: len(names) for name, names in needs.items()}
    users = {name: [] for name in needs}
    for name, names in needs.items():
        for need in names:
            users[need].append(name)
    ready = [name for name, count in missing.items() if not count]
    running = {}
    while ready or running:
        while ready and len(running) < int(most):
            pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", body], os.environ)
            running[pid] = ready.pop(0)
        for user in users[running.pop(os.waitpid(-1, 0)[0])]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    with open(fifo, "w") as file:
        file.write("done\n")
    time.sleep(9999)


class Linit(Init):
    """Our own, installed as `make install` does it; its shell is /bin/sh."""

    name = "linit"
    home = LINIT_HOME       # until make_homes has made it
    setting = "LINIT_HOME"
    programs = (str(LINIT_HOME / "linitd.py"), PYTHON)

    def add_script(self, name: str, text: str) -> None:
        self.write(f"init.d/{name}", f"#!/etc/rc.common\n{text}", 0o755)

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        self.add_script(name, f"{self.depends(needs)}start() {{\n\t{line}\n}}\n")

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        self.add_script(name, f"{self.depends(needs)}run() {{\n\texec {DAEMON}\n}}\n")

    def depends(self, needs: Sequence[str]) -> str:
        return f"depends() {{\n\tdep {' '.join(needs)}\n}}\n\n" if needs else ""

    def command(self, goals: Sequence[str]) -> List[object]:
        for name in goals:
            self.write(f"rc.d/{name}", "")
        return [self.home / "linitd", "--initd", self.folder / "init.d",
                "--rcd", self.folder / "rc.d", "--socket", self.socket,
                "--log", self.folder / "log"]


class LinitAsh(Linit):
    """The same, with busybox's shell, as on a device."""

    name = "linit-ash"
    setting = "BUSYBOX"
    programs = ("BUSYBOX",)


def make_homes(folder: pathlib.Path) -> None:
    """Install linit for both shells, if it is there and there is a busybox."""
    if (LINIT_HOME / "linitd.py").exists():
        Linit.home = install(folder / "linit", "/bin/sh")
        busybox = os.environ.get("BUSYBOX") or unpack_busybox(folder / "busybox")
        if busybox:
            (folder / "sh").symlink_to(os.path.abspath(busybox))
            LinitAsh.home = install(folder / "linit-ash", f"{folder}/sh")
            LinitAsh.programs = (busybox, PYTHON)


def install(home: pathlib.Path, shell: str) -> pathlib.Path:
    """Install what linitd needs in HOME, its scripts run by SHELL."""
    for tool in ("linitd", "linitctl"):
        prepare(TREE / "world/install", LINIT_HOME / f"{tool}.py", "/", PYTHON,
                f"BINDIR={home}", f"LIBDIR={home}/lib", f"INTERPRETER={PYTHON} -IS")
    for script in ("linit-start", "rc.common", "boot"):
        text = (LINIT_HOME / "initd" / script).read_text()
        (home / script).write_text(text.replace("#!/bin/sh", f"#!{shell}", 1))
        (home / script).chmod(0o755)
    for source in sorted(LINIT_HOME.glob("initd/*.c")) if shutil.which("cc") else []:
        prepare("cc", *compiler_flags(source), "-o", home / source.stem, source)
    return home


def compiler_flags(source: pathlib.Path) -> List[str]:
    """As the comment at the top of SOURCE has them, from `cc` to `-o`."""
    words = [word for word in source.read_text().split() if word not in ("*", "\\")]
    start = words.index("cc") + 1
    return words[start:words.index("-o", start)]


def unpack_busybox(target: pathlib.Path) -> Optional[str]:
    """The program of the world's busybox package, if that is built, as the file TARGET."""
    packages = sorted(REPOSITORY.glob("busybox-*.lpkg"), key=os.path.getmtime)
    if not packages:
        return None
    with tarfile.open(packages[-1]) as package, open(target, "wb") as file:
        shutil.copyfileobj(package.extractfile("bin/busybox"), file)
    target.chmod(0o755)
    return str(target)


class Dinit(Init):
    """dinit, built from its source; `dinitctl` is its client."""

    name = "dinit"
    programs = ("dinit", "dinitctl")
    setting = "INIT_DINIT"

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        self.add_service(name, needs, f'type = scripted\ncommand = /bin/sh -c "{line}"\n')

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        self.add_service(name, needs, f"type = process\ncommand = {DAEMON}\n")

    def add_service(self, name: str, needs: Sequence[str], text: str) -> None:
        depends = "".join(f"depends-on: {need}\n" for need in needs)
        self.write(f"services/{name}", text + depends)

    def command(self, goals: Sequence[str]) -> List[object]:
        return ["dinit", "--container", "--quiet", "-d", self.folder / "services",
                "-p", self.socket, *goals]


class S6rc(Init):
    """s6-svscan as PID 1, which s6-rc works through; daemons are s6-svscan's alone."""

    name = "s6-rc"
    programs = ("s6-svscan", "s6-supervise", "s6-rc", "s6-rc-init", "s6-rc-compile", "execlineb")
    debian = "s6 s6-rc execline"
    has_mixed = False
    setting = "INIT_S6"

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        self.write(f"source/{name}/type", "oneshot\n")
        self.write(f"source/{name}/up", f'/bin/sh -c "{line}"\n')
        for need in needs:
            self.write(f"source/{name}/dependencies.d/{need}", "")

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        self.write(f"scan/{name}/run", f"#!/bin/sh\nexec {DAEMON}\n", 0o755)

    def command(self, goals: Sequence[str]) -> List[object]:
        if not (self.folder / "source").exists():
            return ["s6-svscan", "--", self.folder / "scan"]
        (self.folder / "scan").mkdir()
        prepare(self.find("s6-rc-compile"), self.folder / "database", self.folder / "source")
        lines = ("mkfifo up", "(read ready <up; s6-rc-init -c {0}/database -l {0}/live {0}/scan &&"
                 " s6-rc -l {0}/live -u change {1}) &", "exec s6-svscan -d 3 -- {0}/scan 3>up")
        return ["/bin/sh", "-c", "\n".join(lines).format(self.folder, " ".join(goals))]


class Runit(Init):
    """It has no one-shots and no order: each service runs the line, says so, and stays."""

    name = "runit"
    programs = ("runsvdir", "runsv")
    debian = "runit"
    has_mixed = False
    setting = "INIT_RUNIT"

    def add_graph(self, graph: Graph, body: str) -> int:
        for name in graph:
            self.add_run(name, f"{BODIES[body]}\necho >{self.fifo}\n")
        return len(graph)

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        self.add_run(name, "")

    def add_run(self, name: str, first: str) -> None:
        self.write(f"services/{name}/run", f"#!/bin/sh\n{first}exec {DAEMON}\n", 0o755)

    def command(self, goals: Sequence[str]) -> List[object]:
        # It would wait until the second is over in which its folder was changed.
        os.utime(self.folder / "services", (1, 1))
        return ["runsvdir", "-P", self.folder / "services"]


class OpenRC(Init):
    """`openrc default`, in parallel, as on a first boot: it reads all scripts for what they need.

    Its paths are fixed, so they are laid over this machine's in the run's own mount namespace.
    """

    name = "openrc"
    programs = ("openrc", "openrc-run", "supervise-daemon")
    debian = "openrc"
    setting = "INIT_OPENRC"
    levels = ("sysinit", "boot", "shutdown", "nonetwork", "default")

    @classmethod
    def places(cls) -> str:
        folder = os.environ.get(cls.setting)
        return f"{folder}/sbin:{path()}" if folder else path()

    def add_script(self, name: str, text: str) -> None:
        self.write(f"init.d/{name}", f"#!/sbin/openrc-run\n{text}", 0o755)

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        self.add_script(name, f"{self.depend(needs)}start() {{\n\t{line}\n}}\n")

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        program, _, argument = DAEMON.partition(" ")
        self.add_script(name, f"supervisor=supervise-daemon\npidfile=/run/{name}.pid\n"
                        f"command=/bin/{program}\ncommand_args={argument}\n{self.depend(needs)}")

    def depend(self, needs: Sequence[str]) -> str:
        return f"depend() {{\n\tneed {' '.join(needs)}\n}}\n" if needs else ""

    def command(self, goals: Sequence[str]) -> List[object]:
        settings = 'rc_parallel="YES"\nrc_logger="NO"\nrc_depend_strict="NO"\n'
        self.write("etc/rc.conf", settings)
        for level in self.levels:
            (self.folder / "etc/runlevels" / level).mkdir(parents=True)
        for script in (self.folder / "init.d").iterdir():
            target = self.folder / "etc/runlevels/default" / script.name
            target.symlink_to(f"/etc/init.d/{script.name}")
        return ["/bin/sh", "-c", "\n".join(self.script())]

    def script(self) -> Iterator[str]:
        """The lines of shell that make its paths and start it."""
        installed = os.environ.get(self.setting)
        layers = [f"{self.folder}/etc"] + [f"{installed}/etc"] * bool(installed)
        yield "set -e"
        yield f"mount -t overlay -o lowerdir={':'.join(layers)}:/etc overlay /etc"
        yield f"mount --bind {self.folder}/init.d /etc/init.d"
        for place in ("lib", "sbin") if installed else ():
            yield f"mount -t overlay -o lowerdir={installed}/{place}:/{place} overlay /{place}"
        yield "mount -t tmpfs tmpfs /run"
        yield "mkdir -p /run/openrc /run/lock"
        yield "echo sysinit >/run/openrc/softlevel"
        yield "openrc default >&2"
        yield FOREVER


class Systemd(Init):
    """A user's instance, with a shell as PID 1.

    It puts its services into memory cgroups of its own, so that `anonymous` says little here. Under
    version 1 of the cgroups empty groups of it stay behind.
    """

    name = "systemd"
    # The second is never found; it is what absence names.
    programs = ("/lib/systemd/systemd",) + ("SYSTEMD_BENCH",) * ("SYSTEMD_BENCH" not in os.environ)
    setting = "SYSTEMD_BENCH"

    def environment(self) -> Dict[str, str]:
        return {**super().environment(), "HOME": str(self.folder), "PATH": path(),
                "XDG_RUNTIME_DIR": f"{self.folder}/run", "XDG_CONFIG_HOME": f"{self.folder}/config",
                "SYSTEMD_UNIT_PATH": f"{self.folder}/units",
                "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"}

    def add_unit(self, name: str, text: str, needs: Sequence[str] = ()) -> None:
        units = " ".join(f"{need}.service" for need in needs)
        needed = f"Requires={units}\nAfter={units}\n" if needs else ""
        self.write(f"units/{name}", f"[Unit]\nDefaultDependencies=no\n{needed}{text}")

    def add_one_shot(self, name: str, needs: Sequence[str], line: str) -> None:
        text = ("[Service]\nType=oneshot\nRemainAfterExit=yes\nStandardOutput=null\n"
                f'StandardError=null\nExecStart=/bin/sh -c "{line}"\n')
        self.add_unit(f"{name}.service", text, needs)

    def add_daemon(self, name: str, needs: Sequence[str] = ()) -> None:
        self.add_unit(f"{name}.service", f"[Service]\nExecStart=/bin/{DAEMON}\n", needs)

    def command(self, goals: Sequence[str]) -> List[object]:
        (self.folder / "run").mkdir(mode=0o700)
        (self.folder / "config").mkdir()
        for name in ("basic", "exit", "shutdown"):
            self.add_unit(f"{name}.target", "")
        self.add_unit("all.target", "", goals)
        # Without the folder it says that the system was not booted with systemd.
        lines = ("mount -t tmpfs tmpfs /run", "mkdir -p /run/systemd/system",
                 "/lib/systemd/systemd --user --unit=all.target &", FOREVER)
        return ["/bin/sh", "-c", "\n".join(lines)]


ALL: Tuple[Type[Init], ...] = (
    Floor8, FloorDag, Linit, LinitAsh, Dinit, S6rc, Runit, OpenRC, Systemd)


# ---- one run -------------------------------------------------------------------------------------


class Group:
    """A cgroup for one run, of version 1 or 2: CPU time, tasks and anonymous memory of it all."""

    def __init__(self, name: str) -> None:
        self.is_second = (CGROUPS / "cgroup.controllers").exists()
        self.folders: Dict[str, pathlib.Path] = {}
        for kind in ("cpuacct", "memory", "pids"):
            parent = CGROUPS if self.is_second else CGROUPS / kind
            folder = parent / f"panux-bench-{os.getpid()}-{name}"
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
                self.folders[kind] = folder

    def enter(self) -> None:
        """Put the calling process in, and so what it starts."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def read(self, kind: str, name: str, field: str = "") -> float:
        """The number in the file NAME, or beside FIELD there; nan where there is none."""
        with contextlib.suppress(OSError, KeyError):
            for line in (self.folders[kind] / name).read_text().splitlines():
                words = line.split()
                if field in ("", words[0]):
                    return float(words[-1])
        return float("nan")

    def cpu(self) -> float:
        """Milliseconds."""
        if self.is_second:
            return self.read("cpuacct", "cpu.stat", "usage_usec") / 1e3
        return self.read("cpuacct", "cpuacct.usage") / 1e6

    def tasks(self) -> float:
        return self.read("pids", "pids.current")

    def anonymous(self) -> float:
        """MiB."""
        return self.read("memory", "memory.stat", "anon" if self.is_second else "total_rss") / MEBI

    def remove(self) -> None:
        """Remove it; what was killed in it may need a moment to be gone."""
        for folder in set(self.folders.values()):
            wait_until(functools.partial(is_removed, folder), 2)


def is_removed(folder: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether CONDITION() became true within SECONDS."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK)
    return True


class Run(NamedTuple):
    """A step of a round: one run of an init."""

    operation: str
    kind: Type[Init]
    graph: Graph = {}
    body: str = ""


class Machine:
    """A running init, in its namespaces and its cgroup; `first` is its PID 1, as we see it."""

    def __init__(self, init: Init, command: Sequence[object], group: Group) -> None:
        self.init, self.group = init, group
        with open(init.folder / "said", "wb") as said:
            self.process = subprocess.Popen(
                [*NAMESPACES, *map(str, command)], cwd=init.folder, env=init.environment(),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=group.enter)

    @property
    def first(self) -> int:
        return (children(self.process.pid) or [0])[0]

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def problem(self, text: str) -> Fail:
        said = (self.init.folder / "said").read_text(errors="replace")
        return Fail(f"{self.init.name}: {text}; it said\n{said[-2000:]}")

    def end(self) -> None:
        """Kill its PID 1, with which the kernel ends all the others, and wait for that."""
        for pid in children(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def starting(init: Init, command: Sequence[object]) -> Iterator[Machine]:
    """The init that COMMAND starts; it is ended at the end."""
    group = Group(init.name)
    try:
        machine = Machine(init, command, group)
        try:
            yield machine
        finally:
            machine.end()
    finally:
        group.remove()


def children(pid: int) -> List[int]:
    with contextlib.suppress(OSError):
        return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def descendants(pid: int) -> List[int]:
    found = children(pid)
    return found + [other for child in found for other in descendants(child)]


def field(pid: int, name: str, file: str = "status") -> str:
    """What /proc/PID/FILE has beside NAME; 0 where the process is gone."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.split()[1]
    return "0"


def count_of(pid: int, name: str, file: str = "status") -> int:
    return int(field(pid, name, file))


# ---- a boot --------------------------------------------------------------------------------------


class Boot(NamedTuple):
    """What a boot took: milliseconds, milliseconds, MiB, count, MiB, milliseconds."""

    wall: float
    cpu: float
    init: float
    tasks: float
    anonymous: float
    preparation: float


BOOT_HEAD = ("operation", "peer", "wall ms", "least ms", "ratio", "cpu ms", "ratio", "init MiB",
             "tasks", "anonymous MiB", "prepare ms")


def boot(run: Run) -> Boot:
    """Boot once, and end."""
    with booted(run) as (_, taken):
        return taken


@contextlib.contextmanager
def booted(run: Run) -> Iterator[Tuple[Machine, Boot]]:
    """The init of RUN when all its services have run, and what that took."""
    with scratch(in_memory=True) as folder:     # as /run is on every system
        init = run.kind(folder)
        begun = time.perf_counter()
        wanted = init.add_graph(run.graph, run.body)
        command = init.command([LAST])
        preparation = (time.perf_counter() - begun) * 1e3
        with open_fifo(init.fifo) as reader:
            started = time.perf_counter()
            with starting(init, command) as machine:
                ended, tasks, anonymous = watch(machine, reader, wanted)
                largest = count_of(machine.first, "VmHWM") / 1024
                cpu = machine.group.cpu()
                wall = (ended - started) * 1e3
                yield machine, Boot(wall, cpu, largest, tasks, anonymous, preparation)


@contextlib.contextmanager
def open_fifo(fifo: pathlib.Path) -> Iterator[int]:
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield reader
    finally:
        os.close(reader)


def watch(machine: Machine, reader: int, wanted: int) -> Tuple[float, float, float]:
    """Wait for WANTED lines: when the last came, the most tasks and anonymous memory until then."""
    tasks, anonymous, lines = [], [], 0
    limit = time.perf_counter() + BOOT_LIMIT
    while lines < wanted:
        if machine.is_over() or time.perf_counter() > limit:
            raise machine.problem(f"{lines} of {wanted} said that they ran")
        if select.select([reader], [], [], LOOK)[0]:
            lines += os.read(reader, 65536).count(b"\n")
        now = time.perf_counter()
        tasks.append(machine.group.tasks())
        anonymous.append(machine.group.anonymous())
    return now, max(tasks), max(anonymous)


def show_boots(samples: Samples, kinds: Sequence[Type[Init]]) -> None:
    rows = []
    for operation, runs in samples.items():
        base = middle(runs.get(Floor8.name, next(iter(runs.values()))))
        names = [kind.name for kind in kinds if kind.name in runs]
        rows += [boot_row(operation, name, runs[name], base) for name in names]
    print_table(BOOT_HEAD, rows)


def boot_row(operation: str, name: str, runs: List[Boot], base: Boot) -> Tuple[str, ...]:
    taken = middle(runs)
    wall = (f"{taken.wall:.1f}", f"{min(run.wall for run in runs):.1f}")
    ratios = (f"{taken.wall / base.wall:.2f}", f"{taken.cpu:.1f}", f"{taken.cpu / base.cpu:.2f}")
    memory = (f"{taken.init:.1f}", f"{taken.tasks:.0f}", f"{taken.anonymous:.1f}")
    return (operation, name, *wall, *ratios, *memory, f"{taken.preparation:.1f}")


def run_boots(options: argparse.Namespace, kinds: Sequence[Type[Init]]) -> None:
    for size in options.sizes.split(","):
        graph = make_graph(int(size), int(options.seed))
        for body in options.bodies.split(","):
            operation = f"boot {size} {body}"
            peers = [kind.peer(steps=[Run(operation, kind, graph, body)]) for kind in kinds
                     if body != "mixed" or kind.has_mixed]
            say_where(describe(graph, body), options.rounds)
            show_boots(measure(peers, options.rounds, boot), kinds)


# ---- rest ----------------------------------------------------------------------------------------


class Rest(NamedTuple):
    """What the init's own processes are: count, KiB, KiB, KiB, wake-ups a second of them all."""

    processes: float
    resident: float
    shared: float
    private: float
    wakes: float


REST_HEAD = ("operation", "peer", "processes", "RSS KiB", "PSS KiB", "dirty KiB", "wakes/s")


def rest(run: Run) -> Rest:
    """Start daemons and see what the init uses when nothing happens."""
    with scratch(in_memory=True) as folder:     # as /run is on every system
        init = run.kind(folder)
        for name in run.graph:
            init.add_daemon(name)
        with starting(init, init.command(list(run.graph))) as machine:
            if not wait_until(lambda: is_up(machine, len(run.graph)), BOOT_LIMIT):
                raise machine.problem("its daemons don't run")
            time.sleep(CALM)
            return look(own(machine))


def is_up(machine: Machine, daemons: int) -> bool:
    """Whether DAEMONS of them run; Fail when the init has ended."""
    if machine.is_over():
        raise machine.problem("it ended")
    found = [field(pid, "Name") for pid in descendants(machine.process.pid)]
    return found.count(DAEMON.split()[0]) >= daemons


def own(machine: Machine) -> List[int]:
    """Its processes but daemons, shells and what nobody has waited for."""
    return [
        pid for pid in descendants(machine.process.pid)
        if field(pid, "Name") not in (DAEMON.split()[0], "sh") and field(pid, "State") in "SDR"
    ]


def look(pids: List[int]) -> Rest:
    before = switches(pids)
    time.sleep(WATCHED)
    wakes = (switches(pids) - before) / WATCHED
    sizes = [sum(count_of(pid, name, "smaps_rollup") for pid in pids)
             for name in ("Rss", "Pss", "Private_Dirty")]
    return Rest(len(pids), *sizes, wakes)


def switches(pids: List[int]) -> int:
    return sum(count_of(pid, "voluntary_ctxt_switches") for pid in pids)


def run_rest(options: argparse.Namespace, kinds: Sequence[Type[Init]]) -> None:
    count = QUICK_DAEMONS if options.quick else DAEMONS
    graph: Graph = {f"d{number:02}": [] for number in range(count)}
    rounds = min(options.rounds, REST_ROUNDS)
    operation = f"rest with {count}"
    kinds = [kind for kind in kinds if kind.has_daemons]
    peers = [kind.peer(steps=[Run(operation, kind, graph)]) for kind in kinds]
    say_where(f"at rest, with {count} daemons", rounds)
    runs = measure(peers, rounds, rest).get(operation, {})
    names = [kind.name for kind in kinds if kind.name in runs]
    print_table(REST_HEAD, [rest_row(operation, name, middle(runs[name])) for name in names])


def rest_row(operation: str, name: str, taken: Rest) -> Tuple[str, ...]:
    return (operation, name, *(f"{value:.0f}" for value in taken[:-1]), f"{taken.wakes:.1f}")


# ---- asking --------------------------------------------------------------------------------------


class Connection:
    """A connection to linitd, as docs/protocol.md has it."""

    def __init__(self, place: pathlib.Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(place))

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *problem: object) -> None:
        self.socket.close()

    def ask(self, request: str) -> None:
        """Send REQUEST and take the answer; Fail unless it is `ok`."""
        self.socket.sendall(f"{request}\n".encode())
        answer = b""
        while not is_whole(answer):
            data = self.socket.recv(65536)
            answer += data
            if not data:
                raise Fail(f"{request}: linitd closed the connection after {answer!r}")
        if not answer.endswith(b"ok\n"):
            raise Fail(f"{request}: {answer.decode(errors='replace')}")


def is_whole(answer: bytes) -> bool:
    """Whether the last line is there, which begins with no blank."""
    last = answer[:-1].rpartition(b"\n")[2]
    return answer.endswith(b"\n") and not last.startswith(b" ")


EMPTY_PYTHON = Step("status", [PYTHON, "-I", "-S", "-E", "-c", "pass"], None)


def client_peers(kinds: Sequence[Type[Init]], machines: Dict[str, Machine]) -> Iterator[Peer]:
    """The clients of KINDS, of which MACHINES run, and the Python that ours is started by."""
    yield Peer("python", lambda: iter([EMPTY_PYTHON]), (PYTHON,), "python3")
    places = {name: machine.init.socket for name, machine in machines.items()}
    if Linit in kinds:
        words = ["--socket", places.get(Linit.name, ""), "status", FIRST]
        script = [PYTHON, "-I", "-S", LINIT_HOME / "linitctl.py", *words]
        installed = [Linit.home / "linitctl", *words]
        yield Linit.peer("linitctl", [Step("status", installed, "running")])
        yield Linit.peer("linitctl.py", [Step("status", script, "running")])
    if Dinit in kinds:
        command = [Dinit.find("dinitctl"), "-p", places.get(Dinit.name, ""), "status", FIRST]
        yield Dinit.peer("dinitctl", [Step("status", command, "STARTED")])


def run_asking(options: argparse.Namespace, kinds: Sequence[Type[Init]]) -> None:
    kinds = [kind for kind in kinds if kind in (Linit, Dinit)]
    here = [kind for kind in kinds if not kind.peer().absence()]
    graph = make_graph(DAEMONS, int(options.seed))
    rounds = 1 if options.quick else CLIENT_ROUNDS
    with contextlib.ExitStack() as stack:
        machines = {
            kind.name: stack.enter_context(booted(Run("ask", kind, graph, "noop")))[0]
            for kind in here
        }
        peers = list(client_peers(kinds, machines))
        say_where("a client, from its start to its end", rounds)
        show(measure(peers, rounds), peers, "python")
        if Linit in here:
            show_requests(machines[Linit.name], options.quick)


def show_requests(machine: Machine, is_quick: bool) -> None:
    """What linitd itself takes to answer `status`, and what it is then."""
    try:
        request, awake = time_requests(machine, 10 if is_quick else REQUESTS)
        waking = time_waking(machine, 1 if is_quick else WAKES)
    except OSError as problem:
        raise machine.problem(str(problem)) from problem
    rows = [
        ("request on an open connection", Linit.name, f"{request * 1e6:.1f}", "us"),
        ("awake, resident", Linit.name, f"{awake / 1024:.1f}", "MiB"),
        ("asleep to answered", Linit.name, f"{waking * 1e3:.2f}" if waking else "n/a", "ms"),
    ]
    print_table(("figure", "peer", "value", "unit"), rows)


def time_requests(machine: Machine, count: int) -> Tuple[float, int]:
    """The median of what COUNT requests took, in seconds, and what linitd has resident, in KiB."""
    with Connection(machine.init.socket) as connection:
        connection.ask(f"status {FIRST}")           # wakes it
        times = []
        for _ in range(count):
            started = time.perf_counter()
            connection.ask(f"status {FIRST}")
            times.append(time.perf_counter() - started)
        return statistics.median(times), count_of(machine.first, "VmRSS")


def time_waking(machine: Machine, count: int) -> Optional[float]:
    """The median, in seconds, from connecting to a linitd that sleeps until its answer; None where
    it doesn't fall asleep."""
    times = []
    for _ in range(count):
        if not wait_until(lambda: is_asleep(machine), 2 * CALM):
            return None
        started = time.perf_counter()
        with Connection(machine.init.socket) as connection:
            connection.ask(f"status {FIRST}")
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def is_asleep(machine: Machine) -> bool:
    return os.path.basename(os.readlink(f"/proc/{machine.first}/exe")) == SLEEPER


# ---- the command line ----------------------------------------------------------------------------


PARTS = {"boot": run_boots, "rest": run_rest, "ask": run_asking}


def benchmark(options: argparse.Namespace) -> None:
    if options.quick:
        options.sizes = QUICK_SIZES
    kinds = [kind for kind in ALL if kind.name in options.inits.split(",")]
    with scratch(in_memory=True) as folder:     # as /run is on every system
        make_homes(folder)
        for part in options.parts.split(","):
            PARTS[part](options, kinds)
        print_absent([kind.peer() for kind in kinds])


if __name__ == "__main__":
    sys.exit(main(
        benchmark, __doc__, parts=("what is measured", ",".join(PARTS)),
        sizes=("how many services", SIZES), bodies=("what they do", ",".join(BODIES)),
        inits=("which", ",".join(kind.name for kind in ALL)),
        seed=("of all that is left to chance", "1"),
    ))
