"""linitd against a model: thousands of random lives of services, and a thousand sleeps.

The first half loads linitd into this process and gives it a simulated kernel: processes are
generators that speak the scripts' lines over real FIFOs, the clock is turned by hand, and sleeping
is done as linit-idle does it, to a state that the next `Init` resumes. What linitd says once it has
settled is compared with a plain model of what docs/linit.md promises. The second half has real
shells and real processes, as an ordinary process and as PID 1, and sleeps all the time.

A sequence that fails prints its seed and steps: `PYTHONHASHSEED=0 pytest -k sequences` with
`LINIT_SEED=SEED` plays that one alone. LINITD names another linitd.py to try."""
import collections
import contextlib
import dataclasses
import errno
import importlib.util
import marshal
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import sys
import time
import types

import pytest
from conftest import ROOT, compile_program, wait_until
from test_initd import is_alive
from test_linitd import First, Linitd, read

PROGRAM = pathlib.Path(os.environ.get("LINITD", ROOT / "linitd.py"))
SEQUENCES = 3000
STABLE = ("stopped", "running", "failed")
TAKEN = collections.Counter()       # (state, event): how often a sequence took it


class Wrong(AssertionError):
    """linitd does what it must not."""


class Became(BaseException):
    """linitd has executed linit-idle, or itself."""


# ---- the model: what services may be, once all has settled ---------------------------------------

@dataclasses.dataclass
class Spec:
    """An init script: what it asks for, and what it does."""
    name: str
    daemon: bool
    asks: list                      # (dep|binds|want|after, names)
    start: str = "ok"               # or hang, rubbish; fail, killed; of a daemon missing, early
    stop: str = "none"              # or ok, fail, hang: its own
    obeys: bool = True              # it ends on TERM
    ready: str = "exec"             # or fd, file
    restart: str = "yes"
    reload: str = "ok"
    helper: bool = False            # it has started another process
    flaky: int = 0                  # starts that fail after it has died
    befores: tuple = ()             # names that come after it

    def asked(self, *verbs):
        return [name for verb, names in self.asks if verb in verbs for name in names]


class Model:
    """States of services, one request after the other. Whatever takes time in linitd is at once."""

    def __init__(self, specs):
        self.specs = specs
        self.states = dict.fromkeys(specs, "stopped")
        self.needs = {name: [] for name in specs}
        self.binds = {name: [] for name in specs}
        self.given_up = set()       # whose stop has failed in this request

    def start(self, name, way=()):
        """Whether NAME runs; WAY has the names that wait for it."""
        if self.states[name] == "running":
            return True
        self.needs[name], self.binds[name] = [], []
        is_up = self.ask(self.specs[name], (*way, name)) and self.specs[name].start == "ok"
        self.states[name] = "running" if is_up else "failed"
        return is_up

    def ask(self, spec, way):
        for verb, names in spec.asks:
            asked = [name for name in names if name not in way]
            if verb in ("dep", "binds"):
                self.needs[spec.name] += asked
            if verb == "binds":
                self.binds[spec.name] += names
            results = [verb == "after" or self.start(name, way) for name in asked]
            if verb in ("dep", "binds") and not (all(results) and asked == names):
                return False
        return True

    def dependents(self, name):
        return [each for each in self.specs if name in self.needs[each]]

    def active(self, names):
        """NAMES, and what runs because they do."""
        found = list(names)
        for name in found:
            found += [each for each in self.dependents(name)
                      if each not in found and self.states[each] == "running"]
        return found

    def stop(self, name):
        if self.states[name] == "running":
            for each in self.dependents(name):
                self.stop(each)
            is_bad = self.specs[name].stop in ("fail", "hang")
            self.states[name] = "failed" if is_bad else "stopped"
            self.given_up |= {name} if is_bad else set()
        elif self.states[name] == "failed" and name not in self.given_up:
            self.states[name] = "stopped"

    def restart(self, names, affected):
        """Stop NAMES and start what is AFFECTED by that."""
        for name in names:
            self.stop(name)
        for name in affected:
            self.start(name)

    def die(self, name, status):
        """A daemon ended by itself."""
        self.given_up = set()
        restart = self.specs[name].restart
        binders = [each for each in self.specs if name in self.binds[each]
                   and self.states[each] == "running"]
        if restart == "yes" or restart == "on-failure" and status:
            self.states[name] = "stopped"
            self.restart(binders, [*self.active(binders), name])
        else:
            self.states[name] = "failed" if status else "stopped"
            self.restart(binders, [])

    def play(self, verb, names):
        """Do a request; the code of the answer: 0, or an error's; None where there is none yet."""
        self.given_up = set()
        if verb == "start":
            return int(not all([self.start(name) for name in names]))
        if verb == "stop":
            for name in names:
                self.stop(name)
            return int(any(self.states[name] == "failed" for name in names))
        if verb == "restart":
            affected = self.active(names)
            self.restart(names, affected)
            return int(any(self.states[name] != "running" for name in affected))
        if verb == "reload":
            if any(self.states[name] != "running" for name in names):
                return 7
            return int(any(self.specs[name].reload == "fail" for name in names))
        return 0


# ---- a kernel ------------------------------------------------------------------------------------

FOREVER = object()                  # a process that waits for signals alone
WAIT = object()                     # one that looks again when something else has happened


class Process:
    """A simulated process: its program is a generator that yields seconds, WAIT or FOREVER."""

    def __init__(self, pid, parent, session, name, role):
        self.pid, self.parent, self.session = pid, parent, session
        self.name, self.role = name, role       # role: shell, batch, daemon, helper, stop, reload,
                                                # trial
        self.program = None
        self.files = set()
        self.wakes = 0              # when it goes on: a moment, or WAIT or FOREVER
        self.state = "alive"        # dying (its files are closed), zombie, gone
        self.status = 0
        self.is_stopped = False


class Kernel:
    """Processes, signals, a clock and files that are only stamps."""
    PARENT = 1                      # linitd's pid here

    def __init__(self, chance, folder, specs, is_first):
        self.chance, self.folder, self.specs, self.is_first = chance, folder, specs, is_first
        self.now = 1000.0
        self.last_pid = 100
        self.processes = {}         # pid: Process
        self.stamps = {}            # path: stamp
        self.has_child_signal = False
        self.on_kill = lambda process, number: None
        self.flaky = collections.Counter()

    # the clock, in place of `time`

    def monotonic(self):
        self.now += 1e-6
        return self.now

    def time(self):
        return 1e9 + self.monotonic()

    # processes

    def fork(self, parent, session, name, role, program, files=()):
        self.last_pid += 1
        process = Process(self.last_pid, parent, session or self.last_pid, name, role)
        process.files = set(files)
        self.processes[process.pid] = process
        process.program = program(process)
        return process.pid

    def children(self):
        return [each for each in self.processes.values() if each.parent == self.PARENT]

    def runnable(self):
        return [each for each in list(self.processes.values())
                if each.state == "dying" or each.state == "alive" and not each.is_stopped
                and each.wakes is not FOREVER and (each.wakes is WAIT or each.wakes <= self.now)]

    def step(self):
        """Let some processes go on; whether any has got anywhere."""
        ready = self.runnable()
        self.chance.shuffle(ready)
        return any([self.go_on(each) for each in ready if self.chance.random() < 0.7]) or any(
            each.wakes is not WAIT or each.state == "dying" for each in ready)

    def go_on(self, process):
        if process.state == "dying":
            self.bury(process)
        elif process.state == "alive":
            try:
                process.wakes = next(process.program)
                if isinstance(process.wakes, (int, float)):
                    process.wakes += self.now
            except StopIteration as end:
                value = end.value or 0
                self.end(process, -value if value < 0 else value << 8)
        return process.wakes is not WAIT

    def end(self, process, status):
        """As the kernel does it: files are closed first, then its parent hears of it."""
        if process.state == "alive":
            process.state, process.status = "dying", status
            process.program.close()
            for fd in process.files:
                os.close(fd)
            process.files = set()

    def bury(self, process):
        for child in self.processes.values():
            if child.parent == process.pid:
                child.parent = self.PARENT if self.is_first else 0
                self.has_child_signal |= self.is_first and child.state == "zombie"
        process.state = "zombie"
        if process.parent == self.PARENT:
            self.has_child_signal = True
        self.reap_orphans()

    def reap_orphans(self):
        """Whom nobody waits for; and what ended children of the dead have left."""
        for pid, each in list(self.processes.items()):
            if each.state == "zombie" and each.parent == 0:
                del self.processes[pid]

    def wait_for(self, process, options):
        if not options & os.WNOWAIT:
            del self.processes[process.pid]
        return types.SimpleNamespace(si_pid=process.pid, status=process.status)

    def process_table(self):
        return {pid: (each.parent, each.session, each.session, 0)
                for pid, each in self.processes.items() if each.state != "zombie"}

    def due(self):
        """When the next process goes on by itself, if one does."""
        return min((each.wakes for each in self.processes.values() if each.state == "alive"
                    and isinstance(each.wakes, (int, float))), default=None)

    # what linitd calls, in place of `os`

    def __getattr__(self, name):
        return getattr(os, name)

    def getpid(self):
        return self.PARENT if self.is_first else 99

    def set_inheritable(self, fd, inheritable):
        pass

    def execv(self, path, words):
        raise Became

    def readlink(self, path):
        process = self.processes.get(int(path.split("/")[2]))
        if not process or process.state != "alive":
            raise FileNotFoundError(errno.ENOENT, path)
        return "/bin/x"

    def kill(self, pid, number):
        if pid < 0:
            return self.kill_group(-pid, number)
        if pid not in self.processes:
            raise ProcessLookupError
        process = self.processes[pid]
        self.on_kill(process, number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            process.is_stopped = number == signal.SIGSTOP
        elif number == signal.SIGKILL or self.specs[process.name].obeys:
            self.end(process, number)

    def kill_group(self, group, number):
        """A process group is a session here."""
        members = [each for each in self.processes.values() if each.session == group]
        if not members:
            raise ProcessLookupError
        for process in members:
            if number and process.state == "alive":
                self.kill(process.pid, number)

    def waitid(self, kind, pid, options):
        children = self.children()
        if kind == os.P_PID:
            children = [each for each in children if each.pid == pid]
        if not children:
            raise ChildProcessError
        ended = [each for each in children if each.state == "zombie"]
        return self.wait_for(self.chance.choice(ended), options) if ended else None

    def waitpid(self, pid, options):
        if pid not in [each.pid for each in self.children()]:
            raise ChildProcessError
        return pid, self.wait_for(self.processes[pid], options).status

    def posix_spawn(self, path, words, environment, file_actions, **_):
        if "--check" in words:
            return self.fork(self.PARENT, 0, "linitd", "trial", self.trial)
        _, output, *_ = file_actions
        if output[0] == os.POSIX_SPAWN_DUP2:
            fd = os.dup(output[1])
        else:
            fd = self.open_fifo(output[2])
            if fd is None:
                raise Wrong(f"{output[2]}: nobody reads; linitd would wait for that for ever")
        _, first, *more = words
        if first.startswith("--"):
            def program(process):
                return self.function(more[0], first[2:])
            return self.fork(self.PARENT, 0, more[0], first[2:], program, [fd])
        if more:
            return self.fork(self.PARENT, 0, first, "batch",
                             lambda process: self.batch(process, words[1:], fd), [fd])
        return self.fork(self.PARENT, 0, first, "shell",
                         lambda process: self.script(process, self.specs[first], False), [fd])

    def open_fifo(self, path):
        """Its writing end, or None where one would wait for a reader."""
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    def trial(self, process):
        """A linitd that would run, or not, or is never done."""
        yield self.pause()
        if self.chance.random() < 0.1:
            yield FOREVER
        return self.chance.choice([0, 0, 0, 1])

    # what the shells do

    def batch(self, shell, names, output):
        pids = []
        for name in names:
            def program(process, spec=self.specs[name]):
                return self.script(process, spec, True)
            yield 0
            pids.append(self.fork(shell.pid, shell.session, name, "shell", program))
        yield self.pause()
        os.write(output, " ".join(["pids", *map(str, pids)]).encode() + b"\n")
        return 0

    def pause(self):
        return self.chance.choice([0, 0, 0, 0, 0.01, 0.3])

    def script(self, process, spec, is_batch):
        """linit-start NAME."""
        yield 0
        fifos = {}
        for kind in ("ask", "log"):
            path = f"{self.folder}/socket.d/{spec.name}.{kind}"
            while (fd := self.open_fifo(path)) is None:
                yield WAIT
            fifos[kind] = fd
            process.files.add(fd)
            yield 0
        ask = fifos["ask"]
        if spec.daemon and is_batch:
            self.tell(ask, "end alone 0")
            return 0
        for verb, names in spec.asks:
            yield self.pause()
            answer = yield from self.ask(ask, spec.name, f"{verb} {' '.join(names)}")
            if answer != "ok" and verb in ("dep", "binds"):
                self.tell(ask, f"end depends 1 {spec.restart if spec.daemon else 'never'}")
                return 1
        yield self.pause()
        with contextlib.suppress(BlockingIOError):
            os.write(fifos["log"], b"a line\n")
        return (yield from (self.daemon if spec.daemon else self.oneshot)(process, spec, ask))

    def ask(self, fd, name, line):
        """Send a request, and wait for its answer as a shell's `read` does."""
        self.tell(fd, line)
        path = f"{self.folder}/socket.d/{name}.answer"
        answers = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:
                yield WAIT
                with contextlib.suppress(BlockingIOError):
                    if data := os.read(answers, 1000):
                        assert data.endswith(b"\n") and data.count(b"\n") == 1, data
                        return data.decode().split()[0]
        finally:
            os.close(answers)

    def tell(self, fd, line):
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, line.encode() + b"\n")

    def settings(self, spec):
        kind = "rubbish" if spec.start == "rubbish" else "run" if spec.daemon else "start"
        path = f"file:/{spec.name}" if spec.ready == "file" else spec.ready
        return f"settings type={kind} stop={'no' if spec.stop == 'none' else 'yes'} backoff=0.5 " \
               f"timeout=3 restart={spec.restart} ready={path}"

    def oneshot(self, process, spec, ask):
        if spec.stop != "none" or spec.start in ("hang", "rubbish"):
            self.tell(ask, self.settings(spec))
        yield self.pause()
        if spec.start in ("hang", "rubbish"):
            yield FOREVER
        if spec.start == "killed":
            return -signal.SIGKILL
        status = 0 if spec.start == "ok" else self.chance.choice([1, 2, 7])
        self.tell(ask, f"end start {status}")
        yield self.pause()
        return status

    def daemon(self, process, spec, ask):
        if spec.ready == "file":
            yield from self.ask(ask, spec.name, self.settings(spec))
        else:
            self.tell(ask, self.settings(spec))
        yield self.pause()
        is_flaky = self.flaky[spec.name] > 0
        self.flaky[spec.name] -= is_flaky
        if spec.start == "missing":
            if spec.ready != "fd":
                self.tell(ask, "end run 127")
            return 127
        if spec.start in ("hang", "rubbish"):
            yield FOREVER
        process.role = "daemon"
        if spec.helper:
            self.fork(process.pid, process.session, spec.name, "helper", self.helper)
        if spec.ready != "fd":
            process.files.remove(ask)
            os.close(ask)
        yield self.pause()
        if is_flaky or spec.start == "early":
            return 3
        if spec.ready == "file":
            self.stamps[f"/{spec.name}"] = (1, int(1e9 * self.time()), 0)
        elif spec.ready == "fd":
            self.tell(ask, "")
        yield FOREVER

    def helper(self, process):
        yield FOREVER

    def function(self, name, verb):
        how = getattr(self.specs[name], verb, "ok")
        yield self.pause()
        entry = pathlib.Path(self.folder, "rc.d", name)
        if verb == "enable":
            entry.touch()
        elif verb == "disable":
            entry.unlink(missing_ok=True)
        if how == "hang":
            yield FOREVER
        return 1 if how == "fail" else 0


# ---- linitd on that kernel -----------------------------------------------------------------------

class Taken(dict):
    """The table of transitions, which counts what is looked up."""

    def get(self, key, default=None):
        if key in self:
            TAKEN[key] += 1
        return super().get(key, default)


class Epoll:
    """Never waits; knows what the last poll found, and how long linitd would have waited."""

    def __init__(self, epoll):
        self.epoll, self.found, self.timeout = epoll, [], 0

    def poll(self, timeout):
        self.timeout = timeout
        self.found = self.epoll.poll(0)
        return self.found

    def __getattr__(self, name):
        return getattr(self.epoll, name)


def load_linitd():
    """A linitd of its own, whose parts the simulation replaces."""
    spec = importlib.util.spec_from_file_location("linitd_modelled", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    words, sys.argv = sys.argv, [str(ROOT / "linitd.py")]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv = words
    module.TRANSITIONS = Taken(module.TRANSITIONS)
    module.NAP = 0.02
    module.check_script = module.block_signals = lambda *_: None
    module.raise_limit_of_descriptors = lambda: 1024
    module.make_groups = lambda: ""
    module.open_console = lambda: 2
    module.find_program = lambda name: "" if name == "linit-rescue" else f"/fake/{name}"
    module.loaded_files = dict
    return module


class Asker:
    """A client: what it has asked, and what came of it."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.asked = collections.deque()        # (line, function of the lines of the answer)
        self.unsent = self.text = b""
        self.lines = []
        self.events = None          # what the stream of events says last of each service

    def send(self, line, check, part=1.0):
        """Send a request, maybe only a PART of it until `flush`."""
        self.asked.append((line, check))
        data = self.unsent + line.encode() + b"\n"
        cut = int(part * len(data))
        self.socket.send(data[:cut])
        self.unsent = data[cut:]

    def waits(self):
        return any(line.startswith("wait ") for line, _ in self.asked)

    def flush(self):
        if self.unsent:
            self.socket.send(self.unsent)
            self.unsent = b""

    def take(self):
        """Check the answers that came; whether any did."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        if not data:
            raise Wrong(f"closed: {list(self.asked)}")
        *lines, self.text = (self.text + data).decode().split("\n")
        self.text = self.text.encode()
        for line in lines:
            self.take_line(line)
        return True

    def take_line(self, line):
        self.lines.append(line)
        if self.events is not None and line.startswith(" "):
            name, state = [*line.split(), "", ""][1:3]
            self.events[name] = state
        elif not line.startswith(" "):
            if not self.asked:
                raise Wrong(f"an answer to nothing: {line}")
            request, check = self.asked.popleft()
            lines, self.lines = self.lines, []
            check(request, lines)

    def close(self):
        self.socket.close()


class Wait:
    """A request `wait`: the client, which names it waits for still, what is to come and has."""

    def __init__(self, client, left):
        self.client, self.left, self.code, self.answer = client, left, 0, None
        self.is_sure = True

    def take(self, request, lines):
        self.answer = lines[-1].split()[:2]

    def check(self, states, is_calm):
        """Whether it is over. STATES are those after a step; in a storm others were before, and
        what had failed then may be stopped now."""
        decided = {name for name in self.left if states[name] in ("running", "failed")}
        self.left -= decided
        self.code |= any(states[name] == "failed" for name in decided)
        self.is_sure &= is_calm
        expected = None if self.left else ["error", "1"] if self.code else ["ok"]
        is_wrong = is_calm and self.is_sure and self.answer != expected
        if is_wrong or not self.left and not self.answer:
            raise Wrong(f"a wait was answered with {self.answer}, not {expected}")
        return self.answer is not None


class World:
    """linitd, its services, its clients and the kernel, for one sequence."""

    def __init__(self, linitd, folder, specs, seed):
        self.linitd, self.folder, self.specs = linitd, folder, specs
        self.chance = random.Random(seed)
        self.kernel = Kernel(self.chance, folder, specs, self.chance.random() < 0.5)
        linitd.os = linitd.time = self.kernel
        self.kernel.strftime, self.kernel.sleep = lambda _: "now", lambda _: None
        linitd.process_table = self.kernel.process_table
        linitd.file_numbers = lambda path: self.kernel.stamps.get(path, ())
        linitd.idle_table = self.keep_table
        self.kernel.on_kill = self.check_kill
        self.said = []
        self.clients, self.waits, self.sleeping = [], [], None
        self.model = Model(specs)
        self.sleeps = 0
        self.is_calm = True         # no requests at the same time
        # Who finds it, when many start at once, is a matter of chance.
        self.has_cycle = any(other >= name for name in specs for other in specs[name].asked("dep"))
        options = linitd.Options([
            "--initd", f"{folder}/init.d", "--rcd", f"{folder}/rc.d", "--socket",
            f"{folder}/socket", "--log", f"{folder}/log", "--no-boot"])
        self.options = options
        self.init = None
        self.begin()
        linitd.begin(self.init)

    # its life

    def begin(self):
        """A new linitd, as `started` makes one."""
        self.init = self.linitd.Init(self.options)
        self.init.say = lambda text, is_routine=False: self.said.append(text)
        # Its logs are not of this world.
        self.init.logs.start = self.init.logs.watch = lambda: None
        self.init.logs.is_there, self.init.logs.logger = False, -1
        self.init.loop.epoll = Epoll(self.init.loop.epoll)
        reader, self.signals = os.pipe()
        self.init.signals = reader
        self.init.loop.watch(reader, select.EPOLLIN, lambda mask: self.init.on_signal(reader))

    def keep_table(self, heads, logger, deadline, *_):
        self.sleeping = (heads, deadline)
        return b"x", {}

    def turn(self):
        """Let linitd, or linit-idle, do what there is; whether it did anything."""
        if self.sleeping:
            return self.doze()
        if self.kernel.has_child_signal:
            self.kernel.has_child_signal = False
            os.write(self.signals, bytes([signal.SIGCHLD]))
        try:
            self.init.turn()
        except Became:
            self.fall_asleep()
            if not self.sleeping:
                self.wake()             # it has executed linitd itself
            return True
        if any("should not happen" in line for line in self.said):
            raise Wrong(self.said[-1])
        return bool(self.init.loop.epoll.found) or self.init.loop.epoll.timeout == 0

    def fall_asleep(self):
        """What execve does: all is closed but what the next linitd takes up."""
        self.sleeps += 1
        init = self.init
        self.saved = {**marshal.loads(marshal.dumps(init.sleep.state(), 4)), "table": None}
        for path in pathlib.Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(path).startswith(("/memfd:linitd", "/memfd:linit-idle")):
                    os.close(int(path.name))
        self.kernel.has_child_signal |= bool(init.loop.epoll.epoll.poll(0) and self.is_signalled())
        os.close(self.signals)
        os.close(init.signals)
        init.loop.epoll.close()
        self.idle_epoll = init.sleep.idle_epoll if self.sleeping else None

    def is_signalled(self):
        return self.linitd.is_ready(self.init.signals)

    def doze(self):
        """linit-idle: send on what services print, wake for the rest."""
        heads, deadline = self.sleeping
        for fd, _ in self.idle_epoll.poll(0):
            if not heads[fd] or not os.read(fd, 1024):
                return self.wake()
            return True
        if self.kernel.has_child_signal or 0 <= deadline <= int(1e9 * self.kernel.now):
            return self.wake()
        return False

    def wake(self):
        self.sleeping = None
        if self.idle_epoll:
            self.idle_epoll.close()
        self.begin()
        self.init.sleep.resume(self.saved)
        self.init.processes.reap()
        return True

    def awake(self):
        if self.sleeping:
            self.wake()
        return self.init

    # until nothing happens

    def settle(self):
        """Go on until services are stopped, running or failed, and nobody has anything to do."""
        for client in self.clients:
            client.flush()
        for _ in range(20000):
            busy = self.kernel.step()
            busy |= self.turn()
            busy |= any([client.take() for client in self.clients])
            if not busy and self.is_settled():
                return
            if not busy:
                self.advance()
        raise Wrong(f"it never settles: {self.described()}")

    def services(self):
        return self.saved["services"] if self.sleeping else [
            self.linitd.plain(each) for each in self.init.services.values()]

    def is_settled(self):
        if not self.sleeping and self.init.sleep.trial:
            return False
        return not self.kernel.has_child_signal and self.kernel.due() is None and all(
            each["state"] in STABLE and not each["calls"]
            and (each["pid"] or not each["group"]) for each in self.services())

    def advance(self):
        """Turn the clock to what comes next: something of the kernel's, or of linitd's."""
        if self.sleeping:
            deadline = self.sleeping[1]
            mine = deadline / 1e9 + 1e-6 if deadline >= 0 else None
        else:
            timeout = self.init.loop.epoll.timeout
            mine = None if timeout is None else self.kernel.now + timeout + 1e-6
        moments = [when for when in (mine, self.kernel.due()) if when is not None]
        if not moments:
            raise Wrong(f"nothing will ever happen: {self.described()}")
        self.kernel.now = max(self.kernel.now, min(moments))

    def described(self):
        states = {each["name"]: each["state"] for each in self.services()}
        live = [(each.pid, each.name, each.role, each.state, each.wakes)
                for each in self.kernel.processes.values()]
        return f"{states} {live}"

    # what it is asked

    def client(self):
        """One that isn't waiting for what may never come."""
        free = [each for each in self.clients if each.events is None and not each.waits()]
        if not free or len(free) < 4 and self.chance.random() < 0.4:
            free.append(self.new_client())
        return self.chance.choice(free)

    def new_client(self):
        self.clients.append(Asker(f"{self.folder}/socket"))
        return self.clients[-1]

    def ask(self, line, check):
        self.client().send(line, check, self.chance.choice([1.0, 1.0, self.chance.random()]))

    def play(self, step):
        """One step of a sequence, alone, until all has settled."""
        verb, *words = step
        self.kernel.flaky.clear()
        if verb == "storm":
            self.storm(words)
        elif verb in ("start", "stop", "restart", "reload"):
            expected = self.model.play(verb, words)
            self.ask(" ".join(step), expects(expected))
        elif verb == "signal":
            self.model.play("stop", words[1:])
            self.ask(f"stop -{words[0]} {words[1]}", lambda *_: None)
        else:
            getattr(self, f"do_{verb}")(*words)
        self.settle()
        self.is_calm = verb != "storm"
        if not self.is_calm:
            self.adopt()
        self.check()

    def adopt(self):
        """Let the model take over what has become of services."""
        for each in self.services():
            self.model.states[each["name"]] = each["state"]
            self.model.needs[each["name"]] = sorted(each["needs"])
            self.model.binds[each["name"]] = sorted(each["binds"])

    def do_die(self, name, status):
        if self.specs[name].start == "ok" and self.kill_daemon(name, status):
            self.model.die(name, status)

    def kill_daemon(self, name, status):
        """Let a daemon end by itself, or by a signal; whether there was one."""
        states = {each["name"]: each["state"] for each in self.services()}
        found = [each for each in self.kernel.processes.values() if each.name == name
                 and each.role == "daemon" and each.state == "alive"]
        if not found or states[name] != "running":
            return False
        spec = self.specs[name]
        if spec.restart == "yes" or spec.restart == "on-failure" and status:
            self.kernel.flaky[name] = spec.flaky
        self.kernel.end(found[0], status)
        return True

    def do_change(self, name, start):
        self.specs[name].start = start

    def do_recover(self, *names):
        """What can start by now is tried again in a while."""
        self.kernel.now += 100
        self.model.states.update(dict.fromkeys(names, "running"))

    def do_nap(self):
        """Let it sleep, if it will."""
        self.kernel.now += 0.03
        self.turn()

    def do_reexec(self):
        self.ask("reexec", expects(0, 1))

    def do_wait(self, *names):
        """It is answered once each name has run or failed."""
        wait = Wait(self.new_client(), set(names))
        self.waits.append(wait)
        wait.client.send(f"wait {' '.join(names)}", wait.take)

    def do_close(self):
        """Clients close, whatever they wait for."""
        for client in self.clients:
            client.close()
        self.clients, self.waits = [], []

    def do_list(self):
        def check(request, lines):
            said = {line.split()[0]: line.split()[1] for line in lines[:-1]}
            if said != self.model.states:
                raise Wrong(f"list says {said}, not {self.model.states}")
        self.ask("list", check)

    def do_status(self, name):
        def check(request, lines):
            if lines[:2] != [f" name {name}", f" state {self.model.states[name]}"]:
                raise Wrong(f"status says {lines}, not {self.model.states[name]}")
        self.ask(f"status {name}", check)

    def do_graph(self):
        def check(request, lines):
            for line in lines[:-1]:
                name, *words = line.split()
                values = dict(word.split("=", 1) for word in words)
                needs = sorted(filter(None, values["needs"].split(",")))
                if not self.has_cycle and needs != sorted(set(self.model.needs[name])):
                    raise Wrong(f"{name} needs {needs}, not {self.model.needs[name]}")
        self.ask("graph", check)

    def do_events(self):
        client = self.new_client()
        client.events = {}
        client.send("events", None)

    def do_enable(self, name):
        self.ask(f"enable {name}", expects(0))
        self.settle()
        if not os.path.exists(f"{self.folder}/rc.d/{name}"):
            raise Wrong("no entry")

    def do_disable(self, name):
        self.ask(f"disable {name}", expects(0))
        self.settle()
        if os.path.exists(f"{self.folder}/rc.d/{name}"):
            raise Wrong("an entry")

    def do_wrong(self, line, code):
        self.ask(line, expects(code))

    # many things at the same time

    def storm(self, steps):
        """Steps one upon the other."""
        for verb, *words in steps:
            for _ in range(self.chance.choice([0, 0, 1, 3, 10, 40])):
                busy = self.kernel.step()
                if not (self.turn() or busy) and not self.is_settled():
                    self.advance()
            if verb == "die":
                self.kill_daemon(*words) if self.specs[words[0]].start == "ok" else None
            elif verb in ("close", "nap", "wait"):
                getattr(self, f"do_{verb}")(*words)
            elif verb == "signal":
                self.ask(f"stop -{words[0]} {words[1]}", any_code)
            else:
                self.ask(" ".join([verb, *words]), any_code)

    # what must be so

    def check(self):
        self.check_answers()
        self.check_states()
        self.check_processes()

    def check_answers(self):
        self.waits = [each for each in self.waits
                      if not each.check(self.model.states, self.is_calm)]
        for client in self.clients:
            if client.asked and not client.waits() and client.events is None:
                raise Wrong(f"not answered: {list(client.asked)}")

    def check_states(self):
        states = {**dict.fromkeys(self.specs, "stopped"),
                  **{each["name"]: each["state"] for each in self.services()}}
        if states != self.model.states:
            raise Wrong(f"services are {states}, not {self.model.states}")
        for client in self.clients:
            for name, state in (client.events or {}).items():
                if name and state != states[name]:
                    raise Wrong(f"events say that {name} is {state}, not {states[name]}")
        for each in self.services():
            for name in each["binds"]:
                if each["state"] == "running" and states[name] != "running":
                    raise Wrong(f"{each['name']} binds {name}, and runs without it")

    def check_processes(self):
        """Every process is a running daemon, or has been started by one."""
        daemons = {each["pid"] for each in self.services()
                   if each["state"] == "running" and each["settings"]["type"] == "run"}
        for each in self.kernel.processes.values():
            if each.state != "alive" or each.session not in daemons:
                raise Wrong(f"a process is left: {vars(each)}")
        if daemons - self.kernel.processes.keys():
            raise Wrong(f"no daemons: {daemons - self.kernel.processes.keys()}")

    def check_kill(self, process, number):
        """Dependents stop first; who obeys isn't killed."""
        if process.role != "daemon" or process.state != "alive" or self.init.ending:
            return
        service = self.init.services[process.name]
        if number in (signal.SIGSTOP, signal.SIGKILL):
            spec = self.specs[process.name]
            if spec.obeys and spec.stop not in ("hang", "fail") and spec.start == "ok" \
                    and service.signal != signal.SIGKILL:
                raise Wrong(f"{process.name} is killed, and would have obeyed")
        for each in self.init.services.values():
            if each.state == "running" and process.name in each.needs:
                raise Wrong(f"{process.name} is stopped before {each.name}")

    # the end

    def end(self):
        """Stop all, and see that nothing is left of it."""
        for client in self.clients:
            client.close()
        self.clients = []
        for spec in self.specs.values():
            spec.stop = "none" if spec.stop in ("fail", "hang") else spec.stop
        init = self.awake()
        if self.chance.random() < 0.5:
            self.ask(" ".join(["stop", *self.specs]), any_code)
            self.settle()
            self.check_processes()
            self.do_close()
            self.settle()
            init = self.awake()
            if len(init.loop.handlers) != 2 or init.door.peers:
                raise Wrong(f"descriptors are left: {init.loop.handlers}")
        init.shut_down("exit")
        self.turn_until_the_end(init)

    def turn_until_the_end(self, init):
        for _ in range(5000):
            if init.has_ended:
                break
            busy = self.kernel.step()
            if not (self.turn() or busy):
                self.advance()
        init.processes.kill([], init.processes.names.keys())
        while self.kernel.step() or self.kernel.runnable():
            init.processes.reap()
        live = [each for each in self.kernel.processes.values() if each.state == "alive"]
        if not init.has_ended or live:
            raise Wrong(f"left at the end: {self.described()}")

    def close(self):
        """Give back whatever the sequence has open."""
        for client in self.clients:
            client.close()
        for process in self.kernel.processes.values():
            self.kernel.end(process, 0)
        init = self.awake()
        kept = self.linitd.descriptors_of(init.sleep.state()) - {None, init.logs.logger}
        for fd in {*init.loop.handlers, self.signals, *kept}:
            os.close(fd)
        init.loop.epoll.close()


def expects(*codes):
    """A check of an answer: it has one of CODES; 0 is ok."""
    def check(request, lines):
        last = lines[-1].split()
        if (0 if last == ["ok"] else int(last[1])) not in codes:
            raise Wrong(f"{request}: {lines}, not {codes}")
    return check


def any_code(request, lines):
    """Any answer will do."""


# ---- sequences -----------------------------------------------------------------------------------

def random_specs(chance):
    """Up to six services; each depends on some before it, and seldom on one behind it."""
    specs = {}
    names = "abcdef"[:chance.randint(1, 6)]
    for number, name in enumerate(names):
        soft = [each for each in names[:number] if specs[each].stop not in ("fail", "hang")]
        asks = []
        for verb, others in (("dep", names[:number]), ("want", soft), ("after", soft),
                             ("binds", names[:number])):
            chosen = [each for each in others if chance.random() < (0.4 if verb == "dep" else 0.15)]
            if chosen:
                asks.append((verb, chosen))
        chance.shuffle(asks)
        if chance.random() < 0.04:
            asks.append(("dep", [chance.choice(names[number:])]))
        specs[name] = random_spec(chance, name, asks)
        specs[name].befores = [each for each in names[number + 1:] if chance.random() < 0.1]
    if any(other >= name for name in specs for other in specs[name].asked("dep")):
        for spec in specs.values():         # what else waits decides who finds the cycle
            spec.asks = [ask for ask in spec.asks if ask[0] in ("dep", "binds")]
            spec.befores = []
    return specs


def random_spec(chance, name, asks):
    daemon = chance.random() < 0.6
    ready = chance.choice(["exec", "exec", "fd", "file"])
    return Spec(
        name, daemon, asks, ready=ready, start=random_start(chance, daemon, ready),
        stop=chance.choice(["none"] * 6 + ["ok"] * 2 + ["fail", "hang"]),
        obeys=chance.random() < 0.85,
        restart=chance.choice(["yes", "yes", "on-failure", "never"]),
        reload=chance.choice(["ok", "fail"]), helper=daemon and chance.random() < 0.2,
        flaky=chance.choice([0, 0, 1, 2]))


def random_start(chance, daemon, ready):
    bad = ["missing"] + ["early"] * (ready != "exec") if daemon else ["fail", "killed"]
    bad += ["hang", "rubbish"]
    return "ok" if chance.random() < 0.8 else chance.choice(bad)


def random_step(chance, specs, in_storm=False):
    names = list(specs)
    name = chance.choice(names)
    some = chance.sample(names, chance.choice([1, 1, min(2, len(names))]))
    status = chance.choice([0, 3 << 8, signal.SIGKILL])
    steps = [("start", *some)] * 5 + [("stop", *some)] * 3 + [("restart", *some)] * 2 + [
        ("die", name, status)] * 3 + [("signal", "KILL", name), ("reload", *some), ("nap",)]
    if not in_storm:
        storm = [random_step(chance, specs, True) for _ in range(chance.randint(2, 5))]
        steps += [("storm", *storm)] * 4 + [
            ("change", name, random_start(chance, specs[name].daemon,
                                           specs[name].ready)), ("reexec",), ("list",),
            ("status", name), ("graph",), ("events",), ("enable", name), ("disable", name),
            ("close",), ("nap",), ("wait", *some), chance.choice(WRONG)]
    else:
        steps += [("close",), ("reexec",), ("list",), ("status", name), ("wait", *some)]
    return chance.choice(steps)


WRONG = [("wrong", "start nothing", 5), ("wrong", "start a ../b", 2), ("wrong", "frobnicate", 2),
         ("wrong", "start", 2), ("wrong", "stop a nothing", 5), ("wrong", "reload nothing", 5)]


def play(linitd, folder, seed, steps=None, specs=None):
    """Play the sequence SEED, or only those STEPS of it; the World that it was."""
    chance = random.Random(seed)
    specs = specs or random_specs(chance)
    drawn = [random_step(chance, specs) for _ in range(chance.randint(3, 7))]
    for kind in ("init.d", "rc.d"):
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
    for name, spec in specs.items():
        text = f"depends() {{ before {' '.join(spec.befores)}; }}\n"
        (folder / "init.d" / name).write_text(text)
    world = World(linitd, str(folder), specs, seed)
    world.steps, world.played = drawn if steps is None else steps, 0
    try:
        for step in world.steps:
            world.play(step)
            world.played += 1
        world.end()
    except Wrong as error:
        error.world = world
        raise
    finally:
        world.close()
    return world


def fails(linitd, folder, seed, steps):
    try:
        play(linitd, folder, seed, steps)
    except Wrong as error:
        return error
    return None


def shrink(linitd, folder, seed, error):
    """The fewest steps that still fail, and how."""
    steps = error.world.steps[:error.world.played + 1]
    for number in reversed(range(len(steps))):
        fewer = steps[:number] + steps[number + 1:]
        found = fails(linitd, folder, seed, fewer)
        if found:
            steps, error = fewer, found
    return steps, error


def run_sequences(folder, seeds):
    """Play them all; how many steps and sleeps that were."""
    linitd = load_linitd()
    steps = sleeps = 0
    before = len(os.listdir("/proc/self/fd"))
    for seed in seeds:
        try:
            world = play(linitd, folder, seed)
        except Wrong as error:
            short, last = shrink(linitd, folder, seed, error)
            specs = "\n".join(map(str, error.world.specs.values()))
            pytest.fail(f"seed {seed}: {error}\n{specs}\nthese are enough: {short}: {last}\n"
                        + "\n".join(last.world.said[-15:]), pytrace=False)
        steps += len(world.steps)
        sleeps += world.sleeps
        assert len(os.listdir("/proc/self/fd")) == before, seed
    return steps, sleeps


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A folder in memory, where there is one."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    folder = pathlib.Path(place) / f"linit.{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def check_sequences(memory, seeds):
    play_retries(memory)
    began = time.monotonic()
    steps, sleeps = run_sequences(memory, seeds)
    print(f"{len(seeds)} sequences, {steps} steps, {sleeps} sleeps, "
          f"{time.monotonic() - began:.0f} s")
    missing = load_linitd().TRANSITIONS.keys() - TAKEN.keys()
    assert not missing or len(seeds) == 1, f"never taken: {missing}"


def play_retries(memory):
    """restart=always tries until it can start, also what it needs; not after a stop."""
    specs = specs_of(daemon("a", ready="fd", start="early"),
                     daemon("b", ("dep", ["a"]), restart="always", start="early", ready="fd"))
    steps = [("start", "b"), ("change", "a", "ok"), ("change", "b", "ok"),
             ("recover", "a", "b"), ("nap",), ("stop", "b"), ("change", "b", "early"),
             ("start", "b"), ("stop", "b"), ("change", "b", "ok"), ("nap",)]
    play(load_linitd(), memory, 1, steps, specs)


def test_sequences_end_as_the_model_says_and_take_every_transition(memory):
    seed = os.environ.get("LINIT_SEED")
    check_sequences(memory, [int(seed)] if seed else range(SEQUENCES))


@pytest.mark.long
def test_more_sequences(memory):
    check_sequences(memory, range(SEQUENCES, 10 * SEQUENCES))


def test_the_diagram_has_the_words_of_the_table():
    page = (ROOT / "docs/linit.md").read_text()
    diagram = re.search(r"## The life of a service.*?```\n(.*?)```", page, re.DOTALL)[1]
    table = load_linitd().TRANSITIONS
    states = {state for state, _ in table} | {state for state, _ in table.values()}
    # The first two come from where others do, the third changes no state.
    events = {event for _, event in table} - {"end", "gone", "bad"}
    assert states | events | {"backoff"} == set(re.findall(r"[a-z]{2,}", diagram))


# ---- what these sequences have found -------------------------------------------------------------

def specs_of(*specs):
    return {spec.name: spec for spec in specs}


def daemon(name, *asks, **more):
    return Spec(name, True, list(asks), **more)


def oneshot(name, *asks, **more):
    return Spec(name, False, list(asks), **more)


FOUND = {
    "what is stopped before its shell has begun": (
        lambda: specs_of(daemon("a"), daemon("b")),
        [("storm", ("start", "a", "b"), ("stop", "a"), ("start", "a"), ("stop", "b"))]),
    "what depends on binders comes back": (
        lambda: specs_of(daemon("a"), oneshot("b", ("binds", ["a"])), oneshot("c", ("dep", ["b"]))),
        [("start", "c"), ("die", "a", 9), ("status", "c")]),
    "a batch's shell that has closed its pipe and not ended": (
        lambda: specs_of(*(oneshot(name) for name in "abcdef")),
        [("start", *"abcdef"), ("restart", *"abcdef")]),
    "a failed script that is started again while its shell ends": (
        lambda: specs_of(oneshot("a", start="fail"), oneshot("b", start="fail")),
        [("storm", *[("start", "a", "b")] * 5)] * 2),
    "what comes after another while its last life still asks": (
        lambda: specs_of(oneshot("a", start="hang", befores=["c"]),
                         daemon("b", ("dep", ["a"]), befores=["c"]), daemon("c", ("dep", ["b"]))),
        [("storm", ("stop", "b", "c"), ("start", "c"), ("start", "a", "c"), ("stop", "a"))]),
    "a daemon that ends before anybody has read its settings": (
        lambda: specs_of(daemon("a", start="early", ready="fd", helper=True)),
        [("start", "a"), ("storm", ("start", "a"), ("stop", "a"), ("start", "a"))]),
}


@pytest.mark.parametrize("specs, steps", FOUND.values(), ids=FOUND)
def test_found(memory, specs, steps):
    linitd = load_linitd()
    for seed in range(150):
        play(linitd, memory, seed, steps, specs())


@pytest.fixture
def world(memory):
    for kind in ("init.d", "rc.d"):
        (memory / kind).mkdir(exist_ok=True)
    for name in "ab":
        (memory / "init.d" / name).touch()
    specs = specs_of(oneshot("a", start="hang", obeys=False), oneshot("b"))
    world = World(load_linitd(), str(memory), specs, 1)
    yield world
    world.close()


def test_a_binder_that_still_starts_stops_with_the_other(world):
    world.specs["a"] = daemon("a", restart="never")
    world.specs["b"] = daemon("b", ("binds", ["a"]))
    world.kernel.pause = lambda: 0.3
    world.ask("start b", any_code)
    services = world.init.services
    while not world.kill_daemon("a", signal.SIGKILL) or services["b"].waiting:
        if not (world.kernel.step() or world.turn()):
            world.advance()
    world.settle()
    assert {each["name"]: each["state"] for each in world.services()}["b"] != "running"


def test_the_last_request_counts_while_it_stops(world):
    world.specs["b"] = oneshot("b", stop="ok")
    world.kernel.pause = lambda: 0.3
    world.ask("start b", expects(0))
    world.settle()
    for line, code in (("stop b", 0), ("start b", 1), ("stop b", 0)):
        world.new_client().send(line, expects(code))
        for _ in range(6):
            world.turn()
    assert world.init.services["b"].state == "stopping"
    world.settle()
    assert {each["name"]: each["state"] for each in world.services()}["b"] == "stopped"


def test_it_never_polls_without_a_pause(world):
    """Neither with a timer near, nor at the end."""
    init, now = world.init, world.kernel.monotonic
    for seconds, is_ending in ((0.03, False), (0.5, True)):
        init.loop.timers.clear()
        init.loop.soonest = None
        init.loop.worked_at = now() - 1
        init.ending = "exit" if is_ending else ""
        later = seconds if is_ending else init.loop.worked_at + 1.01 - now()
        init.loop.set_timer("stuck", "", later)
        assert init.time_left() > 0.005


def test_what_a_process_has_left_is_read_before_its_end_is_heeded(world):
    """Its settings among that: it was a daemon, and its program ran."""
    world.specs["a"] = daemon("a", start="early")
    world.kernel.pause = lambda: 0
    world.ask("start a", any_code)
    service = world.init.services.service("a")
    service.alone = True
    while service.pid is None:
        world.turn()
    while world.kernel.processes[service.pid].state != "zombie":
        world.kernel.step()
    assert service.state == "starting" and not service.is_daemon
    world.init.processes.reap()
    assert (service.state, service.failure) == ("waiting", "ended with status 3: a line")


def test_a_batch_that_ends_is_no_end_of_the_next_life(world):
    """Its scripts may have been started again by another shell, whose children they still are."""
    init = world.init
    output = os.memfd_create("pids")
    os.write(output, b"pids 75\n")
    service = init.services.service("a")
    service.state = "starting"
    service.pid = world.kernel.fork(77, 0, "a", "helper", world.kernel.helper)
    init.processes.names[service.pid] = "a"
    init.scripts.shells[76] = (output, ["a"])
    assert init.scripts.end_batches()
    assert service.state == "starting" and not init.scripts.shells
    world.kernel.kill(service.pid, signal.SIGKILL)


def test_what_a_batch_leaves_to_read_may_start_a_shell_whose_end_it_is_not(world):
    """The last that its script said: that it wants a shell of its own."""
    init = world.init
    output = os.memfd_create("pids")
    os.write(output, b"pids 75\n")                      # no child any more
    service = init.services.service("a")
    service.state, service.batch = "starting", 76
    own = world.kernel.fork(77, 0, "a", "helper", world.kernel.helper)
    init.scripts.read_rest = lambda each: setattr(each, "pid", own)
    init.scripts.shells[76] = (output, ["a"])
    assert init.scripts.end_batches()
    assert service.state == "starting" and service.pid == own
    service.pid = None
    world.kernel.kill(own, signal.SIGKILL)


def test_a_shell_that_is_in_no_cgroup_yet_is_killed(world):
    group = pathlib.Path(world.folder) / "groups" / "a"
    group.mkdir(parents=True)
    (group / "cgroup.kill").touch()
    world.init.processes.groups = str(group.parent)
    world.linitd.make_groups = lambda: str(group.parent)     # it also sleeps
    world.ask("start a", expects(1))
    world.settle()
    assert not world.kernel.processes and "could not be killed" not in str(world.said)


# ---- real shells and real processes, and an init that sleeps all the time ------------------------

def shell_of(spec, folder):
    """The lines of an init script that does what SPEC says."""
    asks = [*spec.asks, *([("before", spec.befores)] if spec.befores else [])]
    asks = "; ".join(f"{verb} {' '.join(names)}" for verb, names in asks)
    lines = [f"depends() {{ {asks or ':'}; }}", "backoff=0.05", "timeout=0.7",
             f"restart={spec.restart}",
             f"reload() {{ {'false' if spec.reload == 'fail' else ':'}; }}"]
    if spec.ready != "exec":
        lines.append(f"ready={'fd' if spec.ready == 'fd' else f'file:{folder}/ready.{spec.name}'}")
    if spec.start == "rubbish":
        lines.append("timeout=soon")
    if spec.stop != "none":
        how = {"ok": ":", "fail": "return 1", "hang": "sleep 1000"}[spec.stop]
        lines.append(f"stop() {{ {how}; }}")
    return [*lines, daemon_of(spec, folder) if spec.daemon else oneshot_of(spec)]


def oneshot_of(spec):
    trap = "" if spec.obeys else "trap '' TERM; "
    how = {"fail": "return 3", "killed": "exec sh -c 'kill -KILL $$'", "hang": "sleep 1000"}
    return f"start() {{ {trap}{how.get(spec.start, ':')}; }}"


def daemon_of(spec, folder):
    if spec.start == "missing":
        return "run() { exec no-such-program; }"
    ready = {"fd": "echo >&3", "file": f"echo >{folder}/ready.{spec.name}", "exec": ":"}[spec.ready]
    parts = [":" if spec.obeys else 'trap "" TERM', "sleep 1000 &" if spec.helper else ":",
             {"early": "exit 3", "hang": "exec sleep 1000"}.get(spec.start, ready)]
    body = "\n".join([*parts, "exec sleep 1000"])
    if spec.start == "hang" and spec.ready == "exec":
        return "run() { sleep 1000; }"
    return f"run() {{ exec sh -c '{body}'; }}"


class Asleep:
    """What is added to a Linitd or a First, so that it sleeps as soon as it has nothing to do."""

    def __init__(self, init, changes=()):
        self.init, folder = init, init.folder
        (folder / "real").mkdir()
        compile_program("linit-idle", folder / "real")
        wrapper = folder / "linit-idle"
        wrapper.write_text(f"#!/bin/sh\nprintf x >>{folder}/sleeps\n"
                           f"exec {folder}/real/linit-idle \"$@\"\n")
        wrapper.chmod(0o755)
        text = PROGRAM.read_text()
        for old, new in [("NAP = 1.0 ", "NAP = 0.01 "), *changes]:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        init.program.write_text(text)

    def sleeps(self):
        return len(read(self.init.folder / "sleeps"))

    def wait(self, count=1, request=""):
        """Until it has slept so often from now on, which a REQUEST makes it do."""
        goal = self.sleeps() + count
        if request:
            self.init.ok(request)
        wait_until(lambda: self.sleeps() >= goal, 20)

    def kill(self, name):
        """End a daemon, whose pid may be that of a namespace."""
        pid = self.init.status(name)["pid"]
        for each in self.services():
            numbers = re.search(rb"NSpid:(.*)", read(f"/proc/{each}/status"))
            if numbers and numbers[1].split()[-1] == pid.encode():
                os.kill(each, signal.SIGKILL)

    def services(self):
        """What is there of them: pids."""
        return self.init.left_behind().keys() - {getattr(self.init, "first", None)}

    def has_fifos(self):
        pid = getattr(self.init, "first", self.init.process.pid)
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return any("socket.d" in link for link in links)


@pytest.fixture(params=[Linitd, First], ids=["process", "first"])
def sleepy(tmp_path, request):
    init = request.param(tmp_path)
    yield init
    assert not init.end(), "a process was left behind"


def console(init):
    return init.screen() if isinstance(init, First) else init.console()


class Reality:
    """Random services and steps for a real linitd, beside the model."""

    def __init__(self, init, asleep, seed):
        self.init, self.asleep, self.chance = init, asleep, random.Random(seed)
        self.specs = random_specs(self.chance)
        for path in init.initd.iterdir():
            path.unlink()
        for spec in self.specs.values():
            init.add(spec.name, *shell_of(spec, init.folder))
        self.model = Model(self.specs)

    def play(self, step):
        verb, *words = step
        if verb in ("start", "stop", "restart", "reload"):
            code = self.model.play(verb, words)
            answer = self.init.ask(" ".join(step))
            expects(code)(step, answer)
        elif verb == "die" and self.model.states[words[0]] == "running" \
                and self.specs[words[0]].daemon:
            before = self.init.status(words[0])["pid"]
            self.asleep.kill(words[0])
            self.model.die(words[0], signal.SIGKILL)
            wait_until(lambda: self.init.status(words[0])["pid"] != before)
        elif verb == "storm":
            self.storm([each for each in words if each[0] in ("start", "stop", "restart", "list")])
        elif verb == "nap":
            self.asleep.wait(request="list")        # it may be asleep already
        elif verb == "reexec":
            assert self.init.ask("reexec") == ["ok"]
        self.check(verb)

    def storm(self, steps):
        clients = [self.init.connect() for _ in steps]
        for client, step in zip(clients, steps):
            client.send(" ".join(step))
            time.sleep(self.chance.choice([0, 0.01, 0.05]))
        for client in clients:
            assert client.answer()
            client.close()
            self.init.clients.remove(client)

    def check(self, verb):
        if verb == "storm":
            wait_until(lambda: set(self.init.states().values()) <= set(STABLE), 20)
            self.adopt()
        else:
            wait_until(lambda: self.is_as_the_model_says(), 20)

    def is_as_the_model_says(self):
        states = self.init.states()         # those of earlier sequences as well
        return {name: states.get(name) for name in self.specs} == self.model.states

    def adopt(self):
        for line in self.init.ok("graph"):
            name, *words = line.split()
            values = dict(word.split("=", 1) for word in words)
            if name not in self.specs:
                continue
            self.model.states[name] = values["state"]
            self.model.needs[name] = list(filter(None, values["needs"].split(",")))
            self.model.binds[name] = list(filter(None, values["binds"].split(",")))

    def end(self):
        """Stop all, without what would fail to."""
        for _ in range(2):
            self.init.ask(" ".join(["stop", *self.specs]))
        wait_until(lambda: not self.asleep.services(), 10)
        wait_until(lambda: not self.asleep.has_fifos(), 10)


def play_for_real(init, seeds, seconds):
    asleep = Asleep(init)
    init.start("--no-boot")
    end = time.monotonic() + seconds
    count = steps = 0
    for seed in seeds:
        if time.monotonic() > end:
            break
        reality = Reality(init, asleep, seed)
        drawn = [random_step(reality.chance, reality.specs) for _ in range(5)]
        drawn = [step for step in drawn if step[0] != "change"]
        for number, step in enumerate(drawn):
            try:
                reality.play(step)
            except (AssertionError, OSError) as error:
                specs = "\n".join(map(str, reality.specs.values()))
                pytest.fail(f"seed {seed}: {error!r}\n{specs}\n{drawn[:number + 1]}\n"
                            f"{init.states()}, not {reality.model.states}\n{console(init)[-1500:]}",
                            pytrace=False)
        reality.end()
        count, steps = count + 1, steps + len(drawn)
        init.ask("reexec")
    assert "should not happen" not in console(init)
    print(f"{count} sequences, {steps} steps, {asleep.sleeps()} sleeps")
    assert asleep.sleeps() > count


def test_real_sequences(sleepy):
    play_for_real(sleepy, range(30), 25)


@pytest.mark.long
def test_more_real_sequences(sleepy):
    play_for_real(sleepy, range(30, 500), 120)


# ---- a thousand sleeps ---------------------------------------------------------------------------

LINES = 2500                        # of 200 bytes: more than a log takes, less than two
PRINTER = """run() {
exec sh -c 'n=0; while [ $n -lt %d ]; do n=$((n + 1)); printf "%%0190d %%s\\n" $n line
[ $((n %% 25)) != 0 ] || sleep 0.2; done; exec sleep 99999'
}"""


def numbers_in(init, name):
    """The numbers of the lines that a service has printed, from both of its logs."""
    text = read(init.logs / f"{name}~") + read(init.logs / name)
    return [int(line.split()[0]) for line in text.split(b"\n")[:-1] if not line.startswith(b"--")]


def state_size(asleep):
    """Bytes of the state that a sleeping linitd has left; and how much it has open."""
    pid = getattr(asleep.init, "first", asleep.init.process.pid)
    for _ in range(1000):
        with contextlib.suppress(OSError):
            fds = os.listdir(f"/proc/{pid}/fd")
            if os.readlink(f"/proc/{pid}/exe").endswith("real/linit-idle"):
                for fd in fds:
                    if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:linitd"):
                        return os.stat(f"/proc/{pid}/fd/{fd}").st_size, len(fds)
        time.sleep(0.002)
    raise AssertionError("it doesn't sleep")


def add_load(init):
    for name in ("first", "second", "third"):
        init.add(name, PRINTER % LINES)
    trace = init.does("mortal")
    init.add("mortal", "backoff=0.01", f"run() {{ {trace}; exec sleep 0.15; }}")
    init.add("forks", "start() { (setsid sh -c 'sleep 0.05' &); }", "stop() { :; }")
    init.add("oneshot", "depends() { dep base; }", "start() { :; }")
    init.add("base", "run() { exec sleep 99999; }")
    init.add("late", "depends() { dep base; }", "run() { exec sleep 99999; }")


class Sleepwalk:
    """What goes on while linitd sleeps and wakes."""

    def __init__(self, init, asleep):
        self.init, self.asleep = init, asleep
        self.halves = [init.connect() for _ in range(3)]
        self.waiter = init.connect()
        self.rounds = 0

    def round(self):
        """Requests in halves, a wait that spans sleeps, one-shots, orphans."""
        self.rounds += 1
        self.waiter.send("wait late")
        requests = ["list", "status base", "restart oneshot forks"]
        for client, line in zip(self.halves, requests):
            client.socket.sendall(line[:4].encode())
        self.asleep.wait(2)
        for client, line in zip(self.halves, requests):
            client.send(line[4:])
        answers = [client.answer() for client in self.halves]
        assert [lines[-1] for lines in answers] == ["ok"] * 3
        assert " name base" in answers[1] and " state running" in answers[1]
        self.asleep.wait(2)
        assert self.init.ask("start late") == ["ok"]
        assert self.waiter.answer() == ["ok"]
        assert self.init.ask("stop late") == ["ok"]

    def end(self):
        for client in [*self.halves, self.waiter]:
            client.close()


def sleepwalk(init, count):
    asleep = Asleep(init, [("LONG_RUN = 10.0", "LONG_RUN = 0.05")])
    add_load(init)
    init.start("--no-boot")
    names = ["first", "second", "third", "base", "oneshot", "forks"]
    assert init.ask(" ".join(["start", *names, "mortal"])) == ["ok"]
    pids = [init.status(name)["pid"] for name in names]
    walk = Sleepwalk(init, asleep)
    walk.round()
    size, descriptors = state_size(asleep)
    began = time.monotonic()
    while asleep.sleeps() < count:
        walk.round()
    print(f"{asleep.sleeps()} sleeps and {walk.rounds} rounds in {time.monotonic() - began:.0f} s")
    final_size, final_descriptors = state_size(asleep)
    assert final_size <= 1.3 * size + 2000 and final_descriptors <= descriptors + 2
    walk.end()
    assert [init.status(name)["pid"] for name in names[:4]] == pids[:4]
    assert {init.status(name)["restarts"] for name in names} == {"0"}
    check_mortal(init)
    for name in names[:3]:
        wait_until(lambda name=name: numbers_in(init, name)[-1:] == [LINES], 60)
        assert numbers_in(init, name) == list(range(1, LINES + 1))
        assert (init.logs / f"{name}~").exists()
    assert "should not happen" not in console(init)
    if isinstance(init, First):
        wait_until(lambda: not init.zombies())


def check_mortal(init):
    """Each of its ends was noticed."""
    assert init.ask("stop mortal") == ["ok"]
    restarts, runs = int(init.status("mortal")["restarts"]), init.trace().count("mortal")
    assert restarts > 10 and restarts - runs in (-1, 0)     # 0: it was about to be started again


def test_sleeps_lose_nothing(sleepy):
    sleepwalk(sleepy, 150)


@pytest.mark.long
def test_a_thousand_sleeps_lose_nothing(sleepy):
    sleepwalk(sleepy, 1000)
