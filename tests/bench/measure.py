"""Time whole commands side by side, and print what they took as a table.

A peer's round is a generator of Steps, each a command to time; what it does between two of them is
not timed. Rounds of the peers take turns in one run, so that what else the machine does hits all
alike. A step that does not do its work ends the benchmark; how long it took never does.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

TREE = pathlib.Path(__file__).resolve().parents[2]
RUN_ONE = pathlib.Path(__file__).resolve().with_name("run_one.py")
SHARED_MEMORY = "/dev/shm"
LIMIT = 300                 # seconds that a command may take
# What a shell of the person's may have set and the tools would heed.
SETTINGS = ("ARCH", "O", "SOURCES", "RUN", "RUN_STOP", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")


class Fail(Exception):
    """A step did not do its work."""


class Step(NamedTuple):
    """A command to time; `says` is what its output must hold, None that there must be none."""

    operation: str
    argv: Sequence[str]
    says: Optional[str] = ""
    cwd: Optional[str] = None
    env: Dict[str, str] = {}


class Peer(NamedTuple):
    """One of the things compared; it is absent where a program that it `needs` is."""

    name: str
    round: Callable[[], Iterator[Step]]
    needs: Tuple[str, ...] = ()
    packages: str = ""          # of Debian, which bring what it needs, or
    setting: str = ""           # the variable that says where it is
    as_root: bool = False

    def absence(self) -> str:
        """Why the peer can't take part; empty when it can."""
        missing = [program for program in self.needs if not shutil.which(program, path=path())]
        if missing:
            hint = f"set {self.setting}" if self.setting else f"apt-get install {self.packages}"
            return f"no {' '.join(missing)}; {hint}"
        return "it wants to be root" if self.as_root and os.geteuid() else ""


class Sample(NamedTuple):
    """What one run took: milliseconds, milliseconds, MiB."""

    wall: float
    cpu: float
    peak: float


Samples = Dict[str, Dict[str, List[Sample]]]        # operation -> peer -> its runs


def path() -> str:
    """PATH with the folders that dpkg looks for its programs in."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


# ---- running -------------------------------------------------------------------------------------


def measure(peers: Sequence[Peer], rounds: int,
            take: Optional[Callable[[Any], Tuple]] = None) -> Samples:
    """Run ROUNDS rounds of each peer that is here, and one before them to warm up if there are more
    than one. TAKE runs a step of theirs and gives its sample; without it they are commands."""
    take = take or run
    here = [peer for peer in peers if not peer.absence()]
    samples: Samples = {}
    if not here:
        return samples
    os.sync()               # no step shall pay for what the preparation wrote
    for number in range(0 if rounds > 1 else 1, rounds + 1):
        turn = number % len(here)
        for peer in here[turn:] + here[:turn]:
            for step in peer.round():
                sample = take(step)
                runs = samples.setdefault(step.operation, {}).setdefault(peer.name, [])
                if number:
                    runs.append(sample)
    return samples


def run(step: Step) -> Sample:
    """Run one step, see that it did its work, and give what it took."""
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment.update(step.env, PATH=path(), LC_ALL="C.UTF-8")
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-I", "-S", str(RUN_ONE), log.name, *map(str, step.argv)]
        wall, cpu, peak, status = spawn(command, step.cwd, environment).split()
        output = log.read().decode(errors="replace")
    if status != "0" or not does_say(output, step.says):
        said = f"ended with {status} and said\n{output[-2000:]}"
        raise Fail(f"{step.operation}: {step.argv[0]} {said}")
    return Sample(float(wall) * 1e3, float(cpu) * 1e3, int(peak) / 1024)


def does_say(output: str, wanted: Optional[str]) -> bool:
    return not output if wanted is None else wanted in output


def spawn(command: Sequence[str], cwd: Optional[str], environment: Dict[str, str]) -> str:
    """The stdout of COMMAND, which is killed with all that it started when it takes too long."""
    with subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise Fail(f"could not be started: {' '.join(command)}")
    return output


def prepare(*argv: object, **options: object) -> None:
    """Run a command that is not timed; Fail with what it said."""
    done = subprocess.run(
        [str(word) for word in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **{"stdin": subprocess.DEVNULL, **options},
    )
    if done.returncode:
        raise Fail(f"{argv[0]} ended with {done.returncode} and said\n{done.stdout[-2000:]}")


@contextlib.contextmanager
def scratch(in_memory: bool = False) -> Iterator[pathlib.Path]:
    """A temporary folder; IN_MEMORY: on a tmpfs, where there is one."""
    where = SHARED_MEMORY if in_memory and is_tmpfs(SHARED_MEMORY) else None
    with tempfile.TemporaryDirectory(prefix="panux-bench-", dir=where) as folder:
        yield pathlib.Path(folder)


def is_tmpfs(folder: str) -> bool:
    with open("/proc/mounts") as mounts:
        return any(line.split()[1:3] == [folder, "tmpfs"] for line in mounts)


# ---- printing ------------------------------------------------------------------------------------

HEAD = ("operation", "peer", "wall ms", "least ms", "cpu ms", "peak MiB", "ratio", "more ms")


def show(samples: Samples, peers: Sequence[Peer], base: str) -> None:
    """Print the medians, each beside that of the peer BASE, or of the first where it is absent."""
    rows = []
    for operation, runs in samples.items():
        here = {peer.name: runs[peer.name] for peer in peers if peer.name in runs}
        other = here.get(base, next(iter(here.values()))) if len(here) > 1 else None
        rows += [row(operation, name, taken, other) for name, taken in here.items()]
    print_table(HEAD, rows)
    print_absent(peers)
    print(f"Medians; ratio and more ms: to {base}, else to the first of the operation. "
          f"No peak shows below {floor():.0f} MiB.")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ROWS under HEAD: two columns of text, the others of numbers."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    for cells in table:
        text = [cell.ljust(width) for cell, width in zip(cells[:2], widths)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:])]
        print("  ".join(text + numbers).rstrip(), flush=True)


def print_absent(peers: Sequence[Peer]) -> None:
    for peer in peers:
        if peer.absence():
            print(f"absent: {peer.name} ({peer.absence()})")


def middle(runs: List[Sample]) -> Sample:
    """The medians of RUNS, which are all of one kind of sample."""
    return type(runs[0])(*map(statistics.median, zip(*runs)))


def row(operation: str, name: str, runs: List[Sample],
        other: Optional[List[Sample]]) -> Tuple[str, ...]:
    """The cells of what RUNS took, beside OTHER runs."""
    wall, cpu, peak = middle(runs)
    least = min(run.wall for run in runs)
    figures = (f"{wall:.1f}", f"{least:.1f}", f"{cpu:.1f}", f"{peak:.1f}")
    if other is None:
        return (operation, name, *figures, "", "")
    base = middle(other).wall
    return (operation, name, *figures, f"{wall / base:.2f}", f"{wall - base:+.1f}")


def floor() -> float:
    """The peak, in MiB, of a command that needs less than run_one.py does."""
    return run(Step("floor", ["sh", "-c", ":"])).peak


# ---- the command line ----------------------------------------------------------------------------


def main(benchmark: Callable[[argparse.Namespace], None], about: str,
         **more: Union[str, Tuple[str, str]]) -> int:
    """Run BENCHMARK with its options; MORE names further ones: a flag's help, or the help and the
    default of one that takes a value."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=5, help="rounds of each peer (5)")
    parser.add_argument("--quick", action="store_true", help="one round, small sets")
    for name, said in more.items():
        if isinstance(said, str):
            parser.add_argument(f"--{name}", action="store_true", help=said)
        else:
            parser.add_argument(f"--{name}", help=f"{said[0]} ({said[1]})", default=said[1])
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    try:
        benchmark(options)
    except (Fail, subprocess.TimeoutExpired) as problem:
        print(f"{os.path.basename(sys.argv[0])}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def say_where(what: str, rounds: int) -> None:
    """The line above a table: what is measured, and how busy the machine is besides."""
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{what}; rounds: {rounds}; {load}", flush=True)
