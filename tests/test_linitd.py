"""linitd as an ordinary process and as PID 1 of a namespace, its scripts run by each shell.

`test_sNN_` is the attack of that number in docs/SECURITY.md. The transcripts of docs/protocol.md
are played as they stand there."""
import calendar
import collections
import contextlib
import fcntl
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, compiled, environment, load_tool, pythons, run_tool, wait_until
from test_initd import SHELLS, install, is_alive

NOBODY = 65534
SLEEP = "run() { exec sleep 1000; }"


class Client:
    """A connection to linitd."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.settimeout(20)
        self.lines = self.socket.makefile("r", encoding="utf-8")

    def send(self, *lines):
        self.socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def answer(self):
        """The lines of the next answer; none when linitd has closed the connection."""
        lines = [self.lines.readline().rstrip("\n")]
        while lines[-1].startswith(" "):
            lines.append(self.lines.readline().rstrip("\n"))
        return [line for line in lines if line]

    def ask(self, line):
        self.send(line)
        return self.answer()

    def close(self):
        self.lines.close()
        self.socket.close()


class Linitd:
    """A copy of linitd in a folder, with the shell under test, its services and their trace."""
    scripts = ("linit-start", "rc.common")

    def __init__(self, folder, shell="dash"):
        self.folder = folder
        self.initd, self.rcd, self.logs = folder / "init.d", folder / "rc.d", folder / "log"
        self.socket, self.program = folder / "socket", folder / "linitd.py"
        self.bin = folder / "bin"
        for path in (self.initd, self.rcd, self.bin):
            path.mkdir()
        install(self.scripts, folder, shell)
        shutil.copy(compiled("linit-log"), folder)
        shutil.copy(ROOT / "linitd.py", folder)
        self.add_program("linitctl", f"exec '{sys.executable}' -IS '{ROOT}/linitctl.py' \"$@\"")
        self.process = None
        self.clients = []

    # what it is to do

    def add(self, name, *lines):
        path = self.initd / name
        path.write_text("\n".join([f"#!{self.folder}/rc.common", *lines, ""]))
        path.chmod(0o755)

    def add_boot(self, *names):
        self.add("boot", (ROOT / "initd/boot").read_text().partition("\n")[2])
        for name in names:
            (self.rcd / name).touch()

    def add_program(self, name, *lines):
        path = self.bin / name
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)

    def does(self, word):
        """Shell that leaves WORD in the trace."""
        return f"echo {word} >>{self.folder}/trace"

    def alter(self, old, new):
        """Another constant in this copy of linitd."""
        text = self.program.read_text()
        assert text.count(old) == 1, old
        self.program.write_text(text.replace(old, new))

    # its life

    def command(self, *options, python=sys.executable):
        return [python, "-I", "-S", str(self.program), "--initd", str(self.initd), "--rcd",
                str(self.rcd), "--socket", str(self.socket), "--log", str(self.logs),
                *map(str, options)]

    def environment(self):
        return environment(PATH=f"{self.bin}:{os.environ['PATH']}", LINITSOCK=self.socket)

    def start(self, *options, python=sys.executable, before=(), **keywords):
        with open(self.folder / "console", "ab") as console:
            self.process = subprocess.Popen(
                [*before, *self.command(*options, python=python)], stdin=subprocess.DEVNULL,
                stdout=console, stderr=keywords.pop("stderr", console), env=self.environment(),
                **keywords)
        wait_until(lambda: can_connect(self.socket) or self.process.poll() is not None)
        assert self.process.poll() is None, self.console()
        return self

    def wait(self):
        return self.process.wait(timeout=20)

    def end(self):
        """End it, and give the processes that it has left behind."""
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            with contextlib.suppress(OSError, AssertionError):
                self.ask("poweroff")
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left_behind(), 3)
        left = self.left_behind()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def left_behind(self):
        """What its services are, or have left: they have its socket's path in their environment."""
        mark = f"LINITSOCK={self.socket}\0".encode()
        return {pid: command for pid, command in commands().items()
                if mark in read(f"/proc/{pid}/environ") and is_alive(pid)
                and pid not in (os.getpid(), self.process and self.process.pid)}

    # what it says

    def connect(self):
        client = Client(self.socket)
        self.clients.append(client)
        return client

    def ask(self, line):
        client = self.connect()
        answer = client.ask(line)
        client.close()
        return answer

    def ok(self, line):
        answer = self.ask(line)
        assert answer[-1:] == ["ok"], answer
        return answer[:-1]

    def status(self, name):
        """What `status NAME` says; `tail` is a list."""
        words = [line[1:].partition(" ")[::2] for line in self.ok(f"status {name}")]
        return {**dict(words), "tail": [value for key, value in words if key == "tail"]}

    def state(self, name):
        return self.status(name)["state"]

    def pid(self, name):
        return int(self.status(name)["pid"])

    def states(self):
        return {line.split()[0]: line.split()[1] for line in self.ok("list")}

    def console(self):
        return (self.folder / "console").read_text(errors="replace")

    def trace(self):
        return read(self.folder / "trace").decode().split()

    def expect(self, name, text):
        """Wait until the log of NAME has TEXT."""
        wait_until(lambda: text in read(self.logs / name), what=f"{text} in the log of {name}")

    def descriptors(self):
        return sorted(os.listdir(f"/proc/{self.process.pid}/fd"), key=int)

    def ticks(self):
        """Processor time that it has used, in hundredths of a second."""
        fields = read(f"/proc/{self.process.pid}/stat").rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])


def read(path):
    """What is in a file; nothing when there is none."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def children(pid):
    """What a linitd has started for services."""
    found = map(int, read(f"/proc/{pid}/task/{pid}/children").split())
    return [each for each in found if b"linit-log" not in read(f"/proc/{each}/cmdline")]


def can_connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def commands():
    """The command line of each process, words apart by blanks."""
    return {int(path.name): os.fsdecode(read(path / "cmdline").replace(b"\0", b" ")).strip()
            for path in pathlib.Path("/proc").glob("[0-9]*")}


@contextlib.contextmanager
def as_user(uid):
    """The kernel takes the effective user for the one who connects."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def running(folder, shell="dash"):
    init = Linitd(folder, shell)
    yield init
    assert not init.end(), "a process was left behind"


@pytest.fixture(params=list(SHELLS))
def cold(tmp_path, request):
    """A linitd that isn't started yet."""
    yield from running(tmp_path, request.param)


@pytest.fixture
def init(cold):
    """A linitd that has started nothing, under each shell."""
    return cold.start("--no-boot")


@pytest.fixture
def one(tmp_path):
    """One that isn't started, where the shell plays no part."""
    yield from running(tmp_path)


@pytest.fixture
def up(one, monkeypatch):
    """The same, started, where any user can reach its socket."""
    monkeypatch.chdir(one.folder)       # the folders above are root's alone
    one.folder.chmod(0o755)
    return one.start("--no-boot")


# ---- how services start --------------------------------------------------------------------------

def test_the_nine_steps(cold):
    cold.add("base", f"depends() {{ {cold.does('base-depends')}; }}",
             f"start() {{ {cold.does('base-start')}; }}")
    cold.add("top", f"depends() {{ {cold.does('asks')}; dep base; {cold.does('was-told')}; }}",
             f"start() {{ {cold.does('top-start')}; }}")
    cold.add_boot("top")
    cold.start()
    wait_until(lambda: cold.state("boot") == "running")
    assert cold.trace() == ["asks", "base-depends", "base-start", "was-told", "top-start"]
    assert cold.ask("start top") == ["ok"] and len(cold.trace()) == 5


def test_boot_starts_what_rcd_names_and_goes_on_after_a_failure(cold):
    cold.add("good", f"start() {{ {cold.does('good')}; }}")
    cold.add("bad", "start() { return 3; }")
    cold.add_boot("good", "bad", "absent", "strange~name")
    (cold.rcd / "good").write_text("its content doesn't count")
    cold.start()
    wait_until(lambda: cold.state("boot") == "failed")
    assert cold.states()["good"] == "running"
    reason = cold.status("boot")["reason"]
    for text in ("it needs bad: start ended with status 3", "it needs absent: there is no such",
                 "it needs strange~name: not a service name"):
        assert text in reason


def test_boot_may_be_enabled_itself(init):
    init.add("a", "start() { :; }")
    init.add_boot("a", "boot")
    assert init.ask("start boot") == ["ok"]


def test_services_that_do_not_wait_for_each_other_start_at_once(cold):
    for name in ("one", "two", "three"):
        cold.add(name, "start() { sleep 1; }")
    cold.add_boot("one", "two", "three")
    cold.start()
    began = time.monotonic()
    assert cold.ask("start boot") == ["ok"]
    assert time.monotonic() - began < 1.8


def test_a_diamond_starts_once_and_in_order(init):
    for name, needs in (("base", ""), ("left", "base"), ("right", "base"), ("top", "left right")):
        init.add(name, f"depends() {{ dep {needs}; }}", f"start() {{ {init.does(name)}; }}")
    assert init.ask("start top right") == ["ok"]
    trace = init.trace()
    assert trace[0] == "base" and sorted(trace[1:3]) == ["left", "right"] and trace[3:] == ["top"]
    assert init.status("top")["needs"] == "left right"


def test_dep_within_start_finds_linitctl_beside_it(init):
    """linitd.py, linitctl.py and initd/ copied side by side, and nothing installed."""
    (init.bin / "linitctl").unlink()
    shutil.copy(ROOT / "linitctl.py", init.folder)
    init.add("other", "start() { :; }")
    init.add("asker", "start() { dep other; }")
    assert init.ask("start asker") == ["ok"] and init.state("other") == "running"


def test_dep_within_start_asks_by_linitctl(init):
    init.add("other", f"start() {{ {init.does('other')}; }}")
    init.add("asker", f"start() {{ dep other && {init.does('after')}; }}")
    assert init.ask("start asker") == ["ok"]
    assert init.trace() == ["other", "after"]


def test_a_script_by_hand_asks_linitd(init):
    init.add("some", SLEEP)
    results = []
    for verb in ("status", "start", "status", "restart", "stop", "status"):
        done = subprocess.run([init.initd / "some", verb], env=init.environment(), timeout=20,
                              stdout=subprocess.PIPE, check=False)
        results.append((verb, done.returncode, init.state("some")))
    assert results == [("status", 3, "stopped"), ("start", 0, "running"), ("status", 0, "running"),
                       ("restart", 0, "running"), ("stop", 0, "stopped"),
                       ("status", 3, "stopped")]


def test_want_goes_on_without_what_fails(init):
    init.add("good", f"start() {{ {init.does('good')}; }}")
    init.add("bad", "start() { false; }")
    init.add("top", "depends() { want bad absent good top; }", f"start() {{ {init.does('top')}; }}")
    assert init.ask("start top") == ["ok"]
    assert init.trace() == ["good", "top"] and init.state("bad") == "failed"


def test_after_waits_only_for_what_was_asked_for(init):
    init.add("slow", "start() { sleep 0.4; " + init.does("slow") + "; }")
    init.add("never", "start() { :; }")
    init.add("late", "depends() { after slow never absent; }",
             f"start() {{ {init.does('late')}; }}")
    assert init.ask("start late slow") == ["ok"]
    assert init.trace() == ["slow", "late"] and init.state("never") == "stopped"


def test_what_is_stopped_and_has_no_script_is_not_listed(init):
    """As that of a package which was removed; while it still runs, it is."""
    init.add("passing", "run() { exec sleep 1000; }")
    assert init.ask("start passing passing@two") == ["ok"]
    (init.initd / "passing").unlink()
    (init.initd / "folder").mkdir()
    (init.initd / "link").symlink_to("passing")
    assert not {"folder", "link"} & init.states().keys()
    assert init.states()["passing"] == init.states()["passing@two"] == "running"
    assert init.ask("stop passing passing@two") == ["ok"]
    assert not {"passing", "passing@two"} & init.states().keys()


def test_instances_share_a_script(init):
    init.add("getty", f'run() {{ echo "$instance $name" >>{init.folder}/trace; exec sleep 1000; }}')
    assert init.ask("start getty@tty1 getty@tty2") == ["ok"]
    wait_until(lambda: sorted(init.trace()) == ["getty@tty1", "getty@tty2", "tty1", "tty2"])
    assert init.ask("stop getty@tty1") == ["ok"]
    assert (init.state("getty@tty1"), init.state("getty@tty2")) == ("stopped", "running")


@pytest.mark.parametrize("version, python", pythons().items())
def test_each_python_boots(one, version, python):
    one.add("base", "start() { :; }")
    one.add("daemon", "depends() { dep base; }", SLEEP)
    one.add_boot("daemon")
    one.start(python=python)
    assert one.ask("start boot") == ["ok"]
    assert b"sleep" in read(f"/proc/{one.pid('daemon')}/cmdline")
    one.process.send_signal(signal.SIGTERM)
    assert one.wait() == 0


# ---- the transcripts of docs/protocol.md ---------------------------------------------------------

PAGE = (ROOT / "docs/protocol.md").read_text()


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def add_services_of_the_page(init):
    for line in blocks("services")[0].splitlines():
        name, _, text = line.partition(" ")
        init.add(name, text.strip().replace("}; ", "}\n"))


def without_numbers(lines):
    """LINES with each pid and each time as N."""
    lines = [re.sub(r"^( \S+ (?:running|starting|stopping)) \d+", r"\1 N", line) for line in lines]
    lines = [re.sub(r"=\d+\.\d+", "=N", line) for line in lines]
    return [re.sub(r"^( pid | seconds | \S+ \w+ (?:N|-) )[\d.]+$", r"\1N", line) for line in lines]


def exchanges(text):
    """What a block sends, each with what comes back."""
    for part in re.split(r"^> ", text, flags=re.MULTILINE)[1:]:
        request, *lines = part.splitlines()
        yield request, [line[2:] for line in lines]


def test_the_page_has_what_is_played():
    assert len(blocks("services")) == 1 and len(blocks("transcript")) >= 4 and blocks("script")


@pytest.mark.parametrize("text", blocks("transcript"))
def test_transcripts(init, text):
    add_services_of_the_page(init)
    client = init.connect()
    for request, lines in exchanges(text):
        assert without_numbers(client.ask(request)) == without_numbers(lines), request


@pytest.mark.parametrize("text", blocks("script"))
def test_transcripts_of_a_script(init, text):
    add_services_of_the_page(init)
    parts = list(exchanges(text))
    sent = "; ".join(f"play '{request}'" for request, _ in parts)
    init.add("player", f"depends() {{ {sent}; }}",
             "play() { echo \"$1\" >&9; read -r line <\"$fifos/$name.answer\"; "
             f'echo "$line" >>{init.folder}/heard; }}')
    init.ask("start player")
    heard = read(init.folder / "heard").decode().splitlines()
    assert heard == [line for _, lines in parts for line in lines]


BEFORE = {
    "one request": "start late other early",
    "boot": "start boot",
    "what is needed": "start top",
}


@pytest.mark.parametrize("request_line", BEFORE.values(), ids=BEFORE)
def test_before_holds_up_what_is_started_as_well(cold, request_line):
    """Without a word in the script that comes later; `before` starts nothing."""
    cold.add("early", "# before other", "depends() { dep other", "\tbefore late absent; }",
             f"start() {{ sleep 0.4; {cold.does('early')}; }}")
    cold.add("late", f"start() {{ {cold.does('late')}; }}")
    cold.add("other", f"start() {{ {cold.does('other')}; }}")
    cold.add("top", "depends() { dep late early; }", "start() { :; }")
    cold.add_boot("late", "other", "early")
    cold.start("--no-boot")
    assert cold.ask(request_line) == ["ok"]
    assert cold.trace() == ["other", "early", "late"]
    assert cold.ask("stop late early") == cold.ask("start late") == ["ok"]
    assert cold.state("early") == "stopped"


def test_before_is_after_at_the_end(init):
    """Also of what began later; and a `before` of what doesn't run holds up nothing."""
    init.add("network", "start() { :; }", f"stop() {{ sleep 0.4; {init.does('network')}; }}")
    init.add("firewall", "before network absent", "start() { :; }",
             f"stop() {{ {init.does('firewall')}; }}")
    assert init.ask("start network") == init.ask("start firewall") == ["ok"]
    end_by_request(init)
    assert init.wait() == 0 and init.trace() == ["network", "firewall"]


def test_before_what_it_needs_is_a_cycle(init):
    init.add("early", "depends() { before late; dep late; }", "start() { :; }")
    init.add("late", "start() { :; }")
    [answer] = init.ask("start late early")
    assert "early: it needs late: a cycle: early, late, early" in answer
    assert init.states() == {"early": "failed", "late": "running"}


def test_what_waits_for_another_before_can_be_stopped(init):
    init.add("early", "depends() { before late; }", "start() { sleep 0.5; }")
    init.add("late", f"start() {{ {init.does('late')}; }}")
    client = init.connect()
    client.send("start late early")
    wait_until(lambda: init.states() == {"early": "starting", "late": "starting"})
    assert " late " in str(init.ok("graph")) and "waits=early" in str(init.ok("graph"))
    assert init.ask("stop late") == ["ok"]
    assert client.answer() == ["error 1 late: it was stopped"]
    assert init.state("early") == "running" and init.trace() == []


def test_the_time_of_another_before_is_not_its_own(init):
    """What it needs is there when its shell begins."""
    init.add("early", "before late", "start() { sleep 0.5; }")
    init.add("late", "start() { :; }")
    assert init.ask("start late early") == ["ok"]
    late = next(line for line in init.ok("graph") if line.startswith(" late "))
    values = dict(word.split("=") for word in late.split()[1:])
    assert float(values["met"]) - float(values["launched"]) > 0.4


# ---- failures ------------------------------------------------------------------------------------

def test_a_failed_dependency_fails_all_above_it_with_the_reason(init):
    init.add("base", "start() { echo no carrier >&2; return 1; }")
    init.add("middle", "depends() { dep base; }")
    init.add("top", "depends() { dep middle; }", f"start() {{ {init.does('top')}; }}")
    reason = "it needs middle: it needs base: start ended with status 1: no carrier"
    assert init.ask("start top") == [f"error 1 top: {reason}"]
    assert init.status("top")["reason"] == reason and init.trace() == []


FAILURES = {
    "a cycle of itself": ("depends() { dep it; }", "it needs it: a cycle: it, it"),
    "a syntax error": ("start() {", "script ended with status 2: "),
    "a depends that fails": ("depends() { cd /nowhere; dep other; }",
                             "depends ended with status "),
    "set -e": ("start() { false; echo more; }", "start ended with status 1"),
    "an exit": ("start() { echo oh; exit 7; }", "start ended with status 7: oh"),
    "a wrong restart": ("restart=sometimes\n" + SLEEP, "restart=sometimes: it must be yes,"),
    "a wrong signal": ("stop_signal=BOO\n" + SLEEP, "stop_signal=BOO: it must be a signal's name"),
    "a wrong timeout": ("timeout=nan\nstart() { :; }", "timeout=nan: it must be seconds"),
    "a relative file": ("ready=file:x\n" + SLEEP, "ready=file:x: it must be exec, fd or file:"),
    "a run that comes back": ("run() { echo oh; return 4; }", "run came back, it must exec its "
                              "program; it ended with status 4: oh"),
    "the same with ready=fd": ("ready=fd\nrun() { echo oh; return 4; }",
                               "before it was ready it ended with status 4: oh"),
    "no such program": ("run() { exec no-such-program; }", "it ended with status 127: "),
    "no such program, with ready=fd": ("ready=fd\nrun() { exec no-such-program; }",
                                       "before it was ready it ended with status 127: "),
    "an end before ready": ("ready=fd\nrun() { exec sh -c 'exit 5'; }",
                            "before it was ready it ended with status 5"),
    "an empty script": ("", "start ended with status 1: it: its script has neither start nor run "
                        "nor depends"),
    "a script with a stop alone": ("stop() { :; }", "start ended with status 1: it: its script "),
    "an unknown user": ("user=nonesuch\n" + SLEEP, "it could not become its user: that ended with "
                        "status 1: it: user=nonesuch: there is no such user"),
    "an unclosed brace": ("start() { :; }\nrun() {\n", "script ended with status 2: "),
    "a shell that is killed": ("start() { kill -KILL $$; }", "start was killed by signal 9"),
}


@pytest.mark.parametrize("body, text", FAILURES.values(), ids=FAILURES)
def test_failures_are_named_at_once(init, body, text):
    init.add("it", body)
    init.add("top", "depends() { dep it; }")
    [answer] = init.ask("start top")
    assert answer.startswith(f"error 1 top: it needs it: {text}")
    assert init.state("it") == "failed" and init.status("it")["pid"] == "-"


def test_a_script_that_cannot_be_executed_is_not_run(init):
    init.add("it", f"start() {{ {init.does('it')}; }}")
    (init.initd / "it").chmod(0o644)
    path = init.initd / "it"
    assert init.ask("start it") == [f"error 1 it: {path}: not executable: chmod +x {path}"]
    assert init.trace() == []


def test_lines_that_end_with_cr_lf_are_named(init):
    path = init.initd / "it"
    init.add("it", "start() { :; }")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert "error 1 it: its lines end with CR LF, not LF" in init.ask("start it")[0]


@pytest.mark.parametrize("is_first", [False, True])
def test_a_script_may_have_a_trap_of_its_own(tmp_path, is_first):
    """For its exit, at which linit-start reports."""
    init = (First if is_first else Linitd)(tmp_path, "ash")
    init.add("up", "start() { trap 'echo bye' EXIT; }")
    init.add("daemon", "trap 'echo bye' EXIT\nrun() { exec sleep 1000; }")
    init.add("down", "start() { trap 'echo bye' EXIT; false; echo no; }")
    init.start("--no-boot")
    assert init.ask("start up daemon down") == ["error 1 down: start ended with status 1: bye"]
    assert init.states() == {"up": "running", "daemon": "running", "down": "failed"}
    wait_until(lambda: init.status("up")["tail"] == ["bye"])      # it runs before its shell ends
    init.end()


@pytest.mark.parametrize("is_first", [False, True])
def test_a_start_may_exec_its_program(tmp_path, is_first):
    """Instead of linit-start's report there is its status, which no other shell may take."""
    init = (First if is_first else Linitd)(tmp_path, "ash")
    names = [f"{name}{count}" for count in range(9) for name in ("up", "down")]
    for name in names:
        init.add(name, f"start() {{ exec {'true' if 'up' in name else 'false'}; }}")
    init.start("--no-boot")
    [answer] = init.ask(f"start {' '.join(names)}")
    assert answer.count("start ended with status 1") == 9
    assert {name[0]: state for name, state in init.states().items()} == {
        "u": "running", "d": "failed"}
    init.end()


def test_a_script_may_have_an_ifs_and_words_of_its_own(init):
    for name in ("a", "b"):
        init.add(name, "start() { :; }")
    init.add("it", "IFS=,", "set -- x y z", "timeout=9", "depends() { dep a b; }", SLEEP)
    assert init.ask("start it") == ["ok"]
    assert init.status("it")["needs"] == "a b"


def test_a_failure_is_not_explained_by_what_an_earlier_life_said(init):
    init.add("a", f"start() {{ [ ! -e {init.folder}/x ] || exit 3; : >{init.folder}/x; "
             "echo no disk; exit 2; }")
    assert init.ask("start a") == ["error 1 a: start ended with status 2: no disk"]
    assert init.ask("start a") == ["error 1 a: start ended with status 3"]
    assert init.status("a")["tail"] == ["no disk"]


def test_a_script_that_exits_outside_of_its_functions_is_told_so(init):
    init.add("a", "start() { :; }", "exit 0")
    assert init.ask("start a") == [
        "error 1 a: an exit outside of its functions: script ended with status 0"]


def test_a_start_that_takes_too_long_is_killed_with_its_children(init):
    init.add("slow", "timeout=0.3", "start() { trap '' TERM; sleep 99.125 & sleep 99.125; }")
    reason = "it was not ready after 0.3 s: start has not ended; a daemon belongs in `run`"
    assert init.ask("start slow") == [f"error 1 slow: {reason}"]
    wait_until(lambda: "sleep 99.125" not in init.left_behind().values())


def test_others_time_is_not_its_own(one):
    one.alter('"timeout": (60.0,', '"timeout": (0.4,')
    one.add("slow", "timeout=9", "start() { sleep 0.8; }")
    one.add("top", "depends() { dep slow; }")
    one.start("--no-boot")
    assert one.ask("start top") == ["ok"]
    one.add("idle", "depends() { sleep 99.375; }")
    assert one.ask("start idle")[0].startswith("error 1 idle: it was not ready after 0.4 s")


def test_a_start_after_a_failure_works(init):
    init.add("it", f"start() {{ [ -e {init.folder}/repaired ]; }}")
    init.add("top", "depends() { dep it; }")
    assert init.ask("start top")[0].startswith("error 1 top: it needs it")
    (init.folder / "repaired").touch()
    assert init.ask("start top") == ["ok"] and init.state("it") == "running"


def test_what_failed_since_the_asker_was_started_is_not_tried_again(init):
    init.add("it", f"start() {{ {init.does('it')}; false; }}")
    init.add("top", "depends() { dep it; dep it; }")
    init.ask("start top")
    assert init.trace() == ["it"]
    init.ask("start top")
    assert init.trace() == ["it", "it"]


def test_a_longer_cycle_is_named_and_what_is_outside_starts(init):
    for name, needs in (("a", "b"), ("b", "c good"), ("c", "a"), ("good", "")):
        init.add(name, f"depends() {{ dep {needs}; }}")
    [answer] = init.ask("start a")
    assert "a cycle: c, a, b, c" in answer and init.state("good") == "running"


@pytest.mark.parametrize("mode, uid", [(0o757, 0), (0o777, 0), (0o755, NOBODY)])
def test_s32_a_script_that_others_can_write_is_not_run(up, mode, uid):
    up.add("it", f"start() {{ {up.does('it')}; }}")
    (up.initd / "it").chmod(mode)
    os.chown(up.initd / "it", uid, 0)
    [answer] = up.ask("start it")
    assert re.match("error 1 it: .*: not run, since (it belongs to|others can write)", answer)
    assert up.trace() == []
    os.chown(up.initd / "it", 0, 0)
    (up.initd / "it").chmod(0o755)
    assert up.ask("start it") == ["ok"]


def test_s63_a_link_to_a_folder_that_others_can_write_is_not_followed(up):
    (up.folder / "other").mkdir()
    up.add("it", f"start() {{ {up.does('it')}; }}")
    (up.initd / "it").rename(up.folder / "other/it")
    (up.initd / "it").symlink_to(up.folder / "other/it")
    assert up.ask("start it") == ["ok"] == up.ask("stop it")
    (up.folder / "other").chmod(0o777)
    assert "others can write it" in up.ask("start it")[0] and up.trace() == ["it"]


@pytest.mark.parametrize("mode, uid", [(0o757, 0), (0o777, 0), (0o755, NOBODY)])
def test_s63_no_script_of_a_folder_that_others_can_write_is_run(up, mode, uid):
    """They could put another in its place once it was looked at."""
    up.add("it", f"start() {{ {up.does('it')}; }}")
    os.chown(up.initd, uid, 0)
    up.initd.chmod(mode)
    [answer] = up.ask("start it")
    assert re.match(f"error 1 it: {up.initd}: not run, since (it belongs|others can)", answer)
    assert up.trace() == []
    os.chown(up.initd, 0, 0)
    up.initd.chmod(0o1777)              # as /tmp: nobody replaces another's file there
    assert up.ask("start it") == ["ok"]


@pytest.mark.parametrize("name", ["../../tmp/x", "-x", "--stop", ".x", "@x", "x/y", "a" * 101,
                                  "x\x1b[31m", "x;y", "$(x)", "é"])
def test_s31_no_such_names(up, name):
    up.add(".x", "start() { :; }")
    for verb in ("start", "stop", "restart", "status", "log", "enable", "disable"):
        assert re.match("error 2 .*: not a service name", up.ask(f"{verb} {name}")[0])
    assert up.ask("start x\0y") == ["error 2 a request without a word, or with a NUL"]
    assert up.states() == {} and not list(up.rcd.iterdir())


def test_what_lpkg_put_beside_a_changed_script_is_no_service(up):
    up.add("crond", "start() { :; }")
    up.add("crond.lpkg-new", "start() { :; }")
    assert set(up.states()) == {"crond"}
    assert up.ask("start crond.lpkg-new") == ["error 2 crond.lpkg-new: not a service name"]


# ---- daemons -------------------------------------------------------------------------------------

def test_the_process_that_is_watched_is_the_daemon_and_it_comes_back(init):
    init.add("daemon", "backoff=0.1", SLEEP)
    assert init.ask("start daemon") == ["ok"]
    first = init.pid("daemon")
    assert read(f"/proc/{first}/cmdline") == b"sleep\x001000\0"
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: init.status("daemon")["restarts"] == "1")
    wait_until(lambda: init.state("daemon") == "running")
    assert init.pid("daemon") != first
    assert "killed by signal 9; restarting in 0.1 s" in init.console()


@pytest.mark.parametrize("restart, status, state, runs", [
    ("never", 0, "stopped", 1), ("never", 1, "failed", 1), ("on-failure", 0, "stopped", 1),
    ("on-failure", 1, "", 2), ("always", 0, "", 2), ("always", 1, "", 2)])
def test_restart_setting(init, restart, status, state, runs):
    body = f"{init.does('run')}; exec sh -c 'sleep 0.1; exit {status}'"
    init.add("daemon", f"restart={restart}", "backoff=0", f"run() {{ {body}; }}")
    assert init.ask("start daemon") == ["ok"]
    wait_until(lambda: len(init.trace()) >= runs)
    if state:
        wait_until(lambda: init.state("daemon") == state)
        time.sleep(0.3)
        assert len(init.trace()) == 1


def test_the_pause_doubles(init):
    init.add("daemon", "backoff=0.1", "run() { exec sh -c 'exit 1'; }")
    init.ask("start daemon")
    pauses = ["0.1", "0.2", "0.4", "0.8"]
    wait_until(lambda: re.findall(r"restarting in (\S+) s", init.console()) == pauses)
    assert init.ask("stop daemon") == ["ok"]
    assert init.ask("start daemon") == ["ok"]
    wait_until(lambda: re.findall(r"restarting in (\S+) s", init.console())[4:5] == ["0.1"])


def test_a_daemon_whose_program_is_away_for_a_moment_comes_back(init):
    program = init.bin / "program"
    shutil.copy(shutil.which("sleep"), program)     # no script, which a shell opens once more
    init.add("daemon", "backoff=0.1", f"run() {{ exec {program} 1000; }}")
    assert init.ask("start daemon") == ["ok"]
    program.rename(init.bin / "aside")
    os.kill(init.pid("daemon"), signal.SIGKILL)
    wait_until(lambda: "daemon: it ended with status 127" in init.console())
    assert init.state("daemon") == "starting"
    answer = init.ask("start daemon")[0]
    assert answer.startswith("error 1 daemon: it ended with status 127")
    (init.bin / "aside").rename(program)
    assert init.ask("start daemon") == ["ok"]


def test_a_start_during_the_pause_does_not_wait_for_its_end(init):
    init.add("daemon", "backoff=1000", f"run() {{ {init.does('run')}; exec sh -c 'exit 1'; }}")
    init.ask("start daemon")
    wait_until(lambda: "restarting in 1000 s" in init.console())
    assert init.ask("start daemon") == ["ok"] and init.trace() == ["run", "run"]
    wait_until(lambda: "restarting in 60 s" in init.console())      # and the pause isn't forgotten


def test_a_stop_during_the_pause_stops_what_depends_on_it(init):
    """But runs no `stop` of its script's: no daemon is there."""
    init.add("daemon", "backoff=1000", f"stop() {{ {init.does('stop')}; return 1; }}",
             "run() { exec sh -c 'sleep 0.5; exit 1'; }")
    init.add("user", "depends() { dep daemon; }", SLEEP)
    for request in ("stop", "restart"):
        init.ask("start user")
        before = init.pid("user")
        wait_until(lambda: "reason" in init.status("daemon"))
        assert init.ask(f"{request} daemon") == ["ok"] and not is_alive(before)
        state = "stopped" if request == "stop" else "running"
        assert init.state("daemon") == init.state("user") == state
    assert init.trace() == []


def test_the_pause_doubles_also_where_a_daemon_is_never_ready_again(one):
    one.alter("LONG_RUN = 10.0", "LONG_RUN = 0.5")
    one.add("daemon", "ready=fd", "backoff=0.2", f"run() {{ [ ! -e {one.folder}/broken ] || exit 1"
            "; exec sh -c 'echo >&3; exec sleep 1000'; }")
    one.start("--no-boot")
    assert one.ask("start daemon") == ["ok"]
    (one.folder / "broken").touch()
    os.kill(one.pid("daemon"), signal.SIGKILL)
    pauses = ["0.2", "0.4", "0.8", "1.6"]
    wait_until(lambda: re.findall(r"restarting in (\S+) s", one.console()) == pauses)


def test_want_and_after_go_on_where_a_daemon_fails_again_and_again(init):
    """Which `dep` waits for, until it runs."""
    init.add("bus", "ready=fd", "backoff=0.3", f"run() {{ [ ! -e {init.folder}/broken ] || exit 1"
             "; exec sh -c 'echo >&3; exec sleep 1000'; }")
    for verb in ("want", "after", "dep"):
        init.add(verb, f"depends() {{ {verb} bus; }}", SLEEP)
    assert init.ask("start bus") == ["ok"]
    (init.folder / "broken").touch()
    os.kill(init.pid("bus"), signal.SIGKILL)
    wait_until(lambda: init.state("bus") == "starting")
    client = init.connect()
    client.send("start dep")
    assert init.ask("start want after") == ["ok"]
    assert init.state("bus") == init.state("dep") == "starting"
    (init.folder / "broken").unlink()
    assert init.ask("start bus") == ["ok"] == client.answer()


def test_restart_always_ends_with_a_stop_also_where_that_fails(init):
    init.add("it", "restart=always", "backoff=0.1", "run() { exec sleep 1000; }",
             "stop() { false; }")
    assert init.ask("start it") == ["ok"]
    assert init.ask("stop it")[0].startswith("error 1 it: stop ended with status 1")
    time.sleep(0.5)
    assert init.state("it") == "failed"


def test_restart_always_is_a_promise_also_where_the_start_fails(init):
    """Also where what it needs fails; `start` says so at once, and `stop` ends it."""
    init.add("base", f"start() {{ [ -e {init.folder}/repaired ]; }}")
    init.add("daemon", "restart=always", "backoff=0.1", "depends() { dep base; }",
             f"run() {{ {init.does('run')}; [ -e {init.folder}/mended ]; exec sleep 1000; }}")
    init.add("once", f"run() {{ {init.does('once')}; [ -e {init.folder}/never ]; exec sleep 1; }}")
    assert init.ask("start daemon")[0].startswith("error 1 daemon: it needs base: ")
    assert init.ask("start once")[0].startswith("error 1 once: run came back")
    (init.folder / "repaired").touch()
    wait_until(lambda: init.trace().count("run") > 1)
    assert init.state("base") == "running"
    (init.folder / "mended").touch()
    wait_until(lambda: init.state("daemon") == "running")
    (init.folder / "mended").unlink()
    assert init.ask("restart daemon")[0].startswith("error 1 daemon: run came back")
    assert init.ask("stop daemon") == ["ok"]
    runs = init.trace()
    time.sleep(0.5)
    assert init.trace() == runs and runs.count("once") == 1


def test_a_daemon_that_runs_for_long_begins_anew(one):
    one.alter("LONG_RUN = 10.0", "LONG_RUN = 0.5")
    one.add("daemon", "backoff=0.1", "run() { exec sleep 0.7; }")
    one.start("--no-boot")
    one.ask("start daemon")
    wait_until(lambda: re.findall(r"restarting in (\S+) s", one.console()) == ["0.1", "0.1"])


READY = {
    "exec": ("run() { sleep 0.5; DO; exec sleep 1000; }", "exec"),
    "fd": ("run() { exec sh -c 'sleep 0.5; DO; echo >&3; exec sleep 1000'; }", "fd"),
    "file": ("run() { exec sh -c 'sleep 0.5; DO; echo new >FILE; exec sleep 1000'; }", "file:FILE"),
}


@pytest.mark.parametrize("body, ready", READY.values(), ids=READY)
def test_dependents_wait_until_a_daemon_is_ready(init, body, ready):
    file = init.folder / "stale"
    file.write_text("an old one")
    time.sleep(0.05)
    body = body.replace("DO", init.does("daemon")).replace("FILE", str(file))
    init.add("daemon", "ready=" + ready.replace("FILE", str(file)), body)
    init.add("top", "depends() { dep daemon; }", f"start() {{ {init.does('top')}; }}")
    assert init.ask("start top") == ["ok"]
    assert init.trace() == ["daemon", "top"]


def test_a_file_that_is_made_at_once_counts(init):
    """The daemon may be quicker than linitd, which is suspended here while it starts."""
    file = init.folder / "file"
    init.add("daemon", f"ready=file:{file}", "timeout=9", "depends() { kill -STOP $PPID; }",
             f"run() {{ exec sh -c 'echo >{file}; exec sleep 1000'; }}")
    client = init.connect()
    client.send("start daemon")
    wait_until(lambda: b") T " in read(f"/proc/{init.process.pid}/stat"))
    time.sleep(0.3)
    init.process.send_signal(signal.SIGCONT)
    assert client.answer() == ["ok"] and file.exists()


@pytest.mark.parametrize("days", [-2, 0, 2])
def test_a_file_must_change_wherever_the_clock_stands(init, days):
    file = init.folder / "file"
    file.touch()
    os.utime(file, (time.time() + days * 86400,) * 2)
    init.add("daemon", f"ready=file:{file}", "run() { exec sh -c "
             f"'sleep 0.5; {init.does('made')}; : >{file}; exec sleep 1000'; }}")
    assert init.ask("start daemon") == ["ok"] and init.trace() == ["made"]


def test_a_ready_descriptor_that_is_closed_without_a_newline_is_a_failure(init):
    init.add("closes", "ready=fd", "run() { exec sh -c 'exec 3>&-; exec sleep 1000'; }")
    init.add("talks", "ready=fd", "run() { exec sh -c 'printf no >&3; exec 3>&-; sleep 1000'; }")
    error = "it closed descriptor 3 and wrote no newline to it"
    began = time.monotonic()
    assert init.ask("start closes talks") == [f"error 1 closes: {error}; talks: {error}"]
    assert time.monotonic() - began < 20 and not init.left_behind()


def test_no_timeout(one):
    """0: neither a start nor a stop ends because of its time."""
    one.alter('"timeout": (60.0,', '"timeout": (0.2,')
    one.add("slow", "timeout=0", "start() { sleep 0.6; }", "stop() { sleep 0.6; }")
    one.add("daemon", "timeout=0", "run() { exec sh -c 'trap \"sleep 0.6; exit\" TERM; echo up; "
            "while :; do sleep 0.1; done'; }", f"reload() {{ sleep 0.6; {one.does('reloaded')}; }}")
    one.start("--no-boot")
    assert one.ask("start slow daemon") == ["ok"] == one.ask("reload daemon")
    wait_until(lambda: one.status("daemon")["tail"] == ["up"])
    assert one.ask("stop slow daemon") == ["ok"] and one.trace() == ["reloaded"]


def test_a_run_without_a_program_is_said(one):
    """The first service of many: a loop in `run`."""
    one.alter("STUCK = 5.0 ", "STUCK = 0.2 ")
    one.add("loop", "timeout=1", "run() { while :; do sleep 0.1; done; }")
    one.start("--no-boot")
    assert one.ask("start loop") == [
        "error 1 loop: run has executed no program after 1 s; write `exec PROGRAM` there, or for a "
        "loop `exec sh -c '...'`"]
    assert ", run has executed no program yet" in one.console()


def test_a_daemon_that_goes_to_the_background_is_told_so(init):
    init.add("forks", "run() { exec sh -c 'setsid sleep 0.3 & exit 0'; }")
    init.add("fails", "run() { exec sh -c 'exit 3'; }")
    init.ask("start forks fails")
    text = "ended with status 0 at once; a daemon must stay in the foreground"
    wait_until(lambda: f"forks: {text}" in init.console())
    wait_until(lambda: "fails: ended with status 3; " in init.console())


def test_a_stale_file_is_no_readiness(init):
    file = init.folder / "stale"
    file.write_text("an old one")
    time.sleep(0.1)
    init.add("daemon", f"ready=file:{file}", "timeout=0.5", SLEEP)
    assert init.ask("start daemon") == ["error 1 daemon: it was not ready after 0.5 s"]


def test_readiness_is_not_that_of_the_life_before(one):
    """What a daemon has left of itself, in another session, still has the descriptor."""
    one.start("--no-boot")
    one.add("daemon", "ready=fd", "backoff=0.1", "timeout=1.5", "run() {",
             f"[ -e {one.folder}/first ] && exec sleep 1000",
             f"touch {one.folder}/first",
             "exec sh -c 'setsid sh -c \"sleep 1; echo >&3; exec sleep 1000\" &",
             "echo >&3; exec sleep 0.3'", "}")
    one.ask("start daemon")
    wait_until(lambda: one.status("daemon")["restarts"] == "1")
    wait_until(lambda: "is running" in one.console() and "not ready" in one.console())
    assert one.console().count("daemon is running") == 1
    for pid in one.left_behind():
        os.kill(pid, signal.SIGKILL)


def test_the_signal_that_stops(init):
    init.add("daemon", "stop_signal=INT", "run() { exec sh -c "
             f"'trap \"{init.does('int')}; exit\" INT; echo up; while :; do sleep 0.1; done'; }}")
    init.ask("start daemon")
    wait_until(lambda: init.status("daemon")["tail"] == ["up"])
    assert init.ask("stop daemon") == ["ok"]
    assert init.trace() == ["int"]


def test_a_signal_for_once(init):
    init.add("daemon", f"run() {{ exec sh -c 'trap \"{init.does('hup')}; exit\" HUP; "
             "while :; do sleep 0.02; done'; }")
    assert init.ask("start daemon") == ["ok"]
    time.sleep(0.1)
    assert init.ask("stop -HUP daemon") == ["ok"] and init.trace() == ["hup"]
    assert init.ask("stop -HUP") == ["error 2 stop: it needs the name of a service"]


def test_another_signal_while_it_stops(init):
    init.add("daemon", "run() { exec sh -c 'trap \"\" TERM; "
             f"trap \"{init.does('hup')}; exit\" HUP; echo up; while :; do sleep 0.05; done'; }}")
    assert init.ask("start daemon") == ["ok"]
    wait_until(lambda: init.status("daemon")["tail"] == ["up"])
    client = init.connect()
    client.send("stop daemon")
    wait_until(lambda: init.state("daemon") == "stopping")
    assert init.ask("stop -HUP daemon") == ["ok"] == client.answer() and init.trace() == ["hup"]


def test_a_signal_for_what_runs(init):
    init.add("daemon", f"run() {{ exec sh -c 'trap \"{init.does('hup')}\" HUP; echo up; "
             "while :; do sleep 0.02; done'; }")
    init.add("oneshot", "start() { :; }")
    assert init.ask("signal daemon HUP") == ["error 7 daemon: it has no process"]
    assert init.ask("start daemon oneshot") == ["ok"]
    wait_until(lambda: init.status("daemon")["tail"] == ["up"])
    assert init.ask("signal daemon HUP") == ["ok"]
    wait_until(lambda: init.trace() == ["hup"])
    assert init.state("daemon") == "running"
    assert init.ask("signal oneshot 1") == ["error 7 oneshot: it has no process"]
    for line in ("signal daemon", "signal daemon BOO"):
        assert init.ask(line) == ["error 2 signal: write signal NAME SIGNAL, as HUP or 1"]


def test_reload(init):
    init.add("daemon", SLEEP, f"reload() {{ {init.does('reloaded')}; echo said; return $answer; }}",
             "timeout=1; answer=$(cat '" + f"{init.folder}/answer' 2>/dev/null || echo 0)")
    assert init.ask("reload daemon") == ["error 7 daemon: it isn't running"]
    assert init.ask("start daemon") == init.ask("reload daemon") == ["ok"]
    (init.folder / "answer").write_text("3")
    assert init.ask("reload daemon") == [
        "error 1 daemon: reload ended with status 3: said"]
    assert init.trace() == ["reloaded"] * 2 and init.state("daemon") == "running"


def test_a_reload_that_hangs_is_ended(init):
    init.add("daemon", SLEEP, "reload() { sleep 1000; }", "timeout=0.5")
    assert init.ask("start daemon") == ["ok"]
    assert init.ask("reload daemon") == ["error 1 daemon: reload was killed by signal 9"]
    assert init.state("daemon") == "running"


def test_its_own_stop_runs(init):
    init.add("oneshot", "start() { :; }", f"stop() {{ {init.does('undone')}; }}")
    init.add("daemon", SLEEP, f"stop() {{ {init.does('stop')}; }}")
    assert init.ask("start oneshot daemon") == ["ok"]
    pid = init.pid("daemon")
    assert init.ask("stop oneshot daemon") == ["ok"]
    assert sorted(init.trace()) == ["stop", "undone"] and not is_alive(pid)


def test_a_stop_that_fails_or_hangs_is_said(init):
    init.add("fails", "start() { :; }", "stop() { echo no; return 7; }")
    init.add("hangs", "timeout=0.4", SLEEP, "stop() { sleep 99.25; }")
    assert init.ask("start fails hangs") == ["ok"]
    assert init.ask("stop fails") == ["error 1 fails: stop ended with status 7: no"]
    assert init.ask("stop hangs") == ["error 1 hangs: stop was killed by signal 9"]
    wait_until(lambda: "sleep 99.25" not in init.left_behind().values())


def test_a_service_whose_stop_failed_stays_down_when_it_is_stopped_again(init):
    init.add("fails", f"start() {{ {init.does('start')}; }}", "stop() { return 7; }")
    init.ask("start fails")
    assert init.ask("stop fails") == ["error 1 fails: stop ended with status 7"]
    assert init.ask("stop fails") == ["ok"]
    assert init.state("fails") == "stopped" and init.trace() == ["start"]


def test_restart_starts_what_could_not_be_stopped_and_says_so(init):
    init.add("fails", f"start() {{ {init.does('+')}; }}", "stop() { echo no; return 7; }")
    init.add("hangs", "timeout=0.4", SLEEP, "stop() { sleep 99.25; }")
    init.add("top", "depends() { dep fails hangs; }", f"start() {{ {init.does('top')}; }}")
    assert init.ask("start top") == ["ok"]
    assert init.ask("restart fails hangs") == [
        " fails: stop ended with status 7: no; starting it anyway",
        " hangs: stop was killed by signal 9; starting it anyway", "ok"]
    assert set(init.states().values()) == {"running"}
    assert init.trace() == ["+", "top"] * 2


def test_restart_brings_back_what_ran_and_nothing_else(cold):
    """Neither what ended by itself, nor `boot`, which would start everything."""
    cold.add("base", "start() { :; }")
    cold.add("daemon", "depends() { dep base; }", SLEEP)
    cold.add("ended", "restart=never", "run() { exec true; }")
    cold.add("stopped", f"start() {{ {cold.does('stopped')}; }}")
    cold.add_boot("base", "daemon", "ended", "stopped")
    cold.start()
    assert cold.ask("start boot") == ["ok"] == cold.ask("stop stopped")
    wait_until(lambda: cold.state("ended") == "stopped")
    assert cold.ask("restart base") == ["ok"]
    assert cold.states() == {"base": "running", "boot": "running", "daemon": "running",
                             "ended": "stopped", "stopped": "stopped"}
    assert cold.trace() == ["stopped"]


def test_restart_stops_nothing_that_could_not_start_again(init):
    init.add("daemon", SLEEP)
    assert init.ask("start daemon") == ["ok"]
    pid, script = init.pid("daemon"), init.initd / "daemon"
    script.chmod(0o644)
    assert init.ask("restart daemon") == [f"error 1 {script}: not executable: chmod +x {script}"]
    script.unlink()
    assert init.ask("restart daemon") == [f"error 5 {script}: No such file or directory"]
    assert init.pid("daemon") == pid and is_alive(pid)


def saves(init):
    """A program that takes some time to end in order."""
    init.add_program("saver", f'trap "sleep 0.4; {init.does("saved")}; exit" TERM', "echo up",
                     "while :; do sleep 0.05; done")
    return "saver"


def test_stop_reaches_the_whole_process_group(init):
    """The job of a loop, whose shell ends at once."""
    init.add("loop", f"run() {{ exec sh -c 'while :; do {saves(init)}; sleep 60; done'; }}")
    assert init.ask("start loop") == ["ok"]
    wait_until(lambda: init.status("loop")["tail"] == ["up"])
    assert init.ask("stop loop") == ["ok"]
    assert init.trace() == ["saved"]


def test_what_a_daemon_leaves_has_time_to_end_before_the_next_life(init):
    init.add("daemon", "backoff=0", f"run() {{ {init.does('begun')}; exec sh -c '{saves(init)} & "
             "exec sleep 1000'; }")
    assert init.ask("start daemon") == ["ok"]
    wait_until(lambda: init.status("daemon")["tail"] == ["up"])
    os.kill(init.pid("daemon"), signal.SIGKILL)
    wait_until(lambda: init.trace().count("begun") == 2)
    assert init.trace() == ["begun", "saved", "begun"]


def test_what_a_daemon_leaves_and_does_not_end_is_killed(init):
    init.add("stubborn", "timeout=0.5", "run() { exec sh -c "
             "'(trap \"\" TERM; echo up; exec sleep 99.5) & exec sleep 1000'; }")
    init.add("dies", "restart=never", *init.initd.joinpath("stubborn").read_text().split("\n")[1:])
    assert init.ask("start stubborn dies") == ["ok"]
    wait_until(lambda: init.status("stubborn")["tail"] == init.status("dies")["tail"] == ["up"])
    os.kill(init.pid("dies"), signal.SIGKILL)
    assert init.ask("stop stubborn") == ["ok"]
    wait_until(lambda: "sleep 99.5" not in init.left_behind().values())


def test_what_is_deaf_to_its_stop_is_killed_by_few_looks_at_all_processes(one):
    """One for each would leave PID 1 deaf for seconds, where there are many."""
    for number in range(40):
        one.add(f"deaf-{number}", "timeout=1", "run() { exec sh -c 'trap \"\" TERM; echo up; "
                "while :; do sleep 1; done'; }")
    one.alter("def process_table() -> dict:", "def process_table() -> dict:\n"
              f"    open('{one.folder}/looks', 'a').write('x')")
    one.start("--no-boot")
    names = " ".join(f"deaf-{number}" for number in range(40))
    assert one.ask(f"start {names}") == ["ok"]
    for name in names.split():
        wait_until(lambda name=name: one.status(name)["tail"] == ["up"])
    assert one.ask(f"stop {names}") == ["ok"]
    assert len(read(one.folder / "looks")) < 40 and not one.left_behind()


def test_what_is_suspended_hears_of_its_stop(init):
    init.add("daemon", SLEEP)
    assert init.ask("start daemon") == ["ok"]
    os.kill(init.pid("daemon"), signal.SIGSTOP)
    began = time.monotonic()
    assert init.ask("stop daemon") == ["ok"]
    assert time.monotonic() - began < 20


def test_kill_during_a_stop_that_hangs_acts_at_once(init):
    init.add("hangs", SLEEP, "stop() { sleep 99.25; }")
    init.add("deaf", "run() { exec sh -c 'trap \"\" TERM; echo up; while :; do sleep 1; done'; }")
    assert init.ask("start hangs deaf") == ["ok"]
    wait_until(lambda: init.status("deaf")["tail"] == ["up"])
    stopping = init.connect()
    stopping.send("stop hangs deaf")
    wait_until(lambda: list(init.states().values()) == ["stopping"] * 2)
    error = ["error 1 hangs: stop was killed by signal 9"]
    assert init.ask("stop -KILL hangs deaf") == error == stopping.answer()


def test_sessions_of_a_daemon_hear_of_the_end_before_what_it_needs_stops(init):
    init.add("network", "start() { :; }", f"stop() {{ {init.does('network')}; }}")
    init.add("sshd", "depends() { dep network; }",
             f"run() {{ exec sh -c 'setsid {saves(init)} & exec sleep 1000'; }}")
    assert init.ask("start sshd") == ["ok"]
    wait_until(lambda: init.status("sshd")["tail"] == ["up"])
    end_by_request(init)
    assert init.wait() == 0 and init.trace() == ["saved", "network"]


def test_sessions_of_a_daemon_outlive_its_stop(init):
    init.add("sshd", f"run() {{ exec sh -c 'setsid {saves(init)} & exec sleep 1000'; }}")
    assert init.ask("start sshd") == ["ok"]
    wait_until(lambda: init.status("sshd")["tail"] == ["up"])
    assert init.ask("stop sshd") == ["ok"]
    # Its fork has the same command until it executes another.
    session = min(pid for pid, command in init.left_behind().items() if "saver" in command)
    assert init.trace() == []
    os.killpg(session, signal.SIGKILL)


def test_what_a_daemon_leaves_behind_ends_with_it(init):
    init.add("daemon", "restart=never", "run() { exec sh -c 'sleep 99.625 & exec sleep 1000'; }")
    init.ask("start daemon")
    wait_until(lambda: "sleep 99.625" in init.left_behind().values())
    wait_until(lambda: read(f"/proc/{init.pid('daemon')}/cmdline") == b"sleep\x001000\0")
    os.kill(init.pid("daemon"), signal.SIGKILL)
    wait_until(lambda: "sleep 99.625" not in init.left_behind().values())
    assert init.state("daemon") == "failed"


def test_a_daemon_that_ignores_term_is_killed_with_its_group(init):
    init.add("stubborn", "timeout=0.5", "run() { exec sh -c "
             "'trap \"\" TERM; sleep 99.5 & echo up; while :; do sleep 0.1; done'; }")
    init.ask("start stubborn")
    wait_until(lambda: init.status("stubborn")["tail"] == ["up"])
    pid = init.pid("stubborn")
    assert init.ask("stop stubborn") == ["ok"]
    assert not is_alive(pid)
    assert "stubborn has not stopped after 0.5 s; killing it" in init.console()
    wait_until(lambda: "sleep 99.5" not in init.left_behind().values())


def add_chain(init):
    """base, then left and right, then top; each says when it stops, right slowly."""
    for name, needs in (("base", ""), ("left", "base"), ("right", "base"), ("top", "left right")):
        slowly = "sleep 0.4; " if name == "right" else ""
        init.add(name, f"depends() {{ dep {needs}; }}", f"start() {{ {init.does('+' + name)}; }}",
                 f"stop() {{ {slowly}{init.does('-' + name)}; }}")


STARTED = ["+base", "+left", "+right", "+top"]


def test_stop_goes_in_reverse_and_takes_dependents_along(init):
    add_chain(init)
    assert init.ask("start top") == ["ok"]
    assert init.ask("stop base") == ["ok"]
    assert init.trace()[4:] == ["-top", "-left", "-right", "-base"]
    assert set(init.states().values()) == {"stopped"}


def test_restart_brings_dependents_back(init):
    add_chain(init)
    assert init.ask("start top") == ["ok"]
    assert init.ask("restart base") == ["ok"]
    assert set(init.states().values()) == {"running"}
    trace = init.trace()[4:]
    assert trace[:4] == ["-top", "-left", "-right", "-base"]
    assert trace[4] == "+base" and trace[7] == "+top" and len(trace) == 8


def test_restart_of_what_had_failed_leaves_no_trap(init):
    """Its dependents, which still run, stay down when they are stopped later."""
    init.add("base", "restart=never", SLEEP)
    init.add("top", "depends() { dep base; }", SLEEP)
    assert init.ask("start top") == ["ok"]
    os.kill(init.pid("base"), signal.SIGKILL)
    wait_until(lambda: init.state("base") == "failed")
    assert init.ask("restart base") == ["ok"]
    assert init.states() == {"base": "running", "top": "running"}
    assert init.ask("stop top") == ["ok"]
    assert init.states() == {"base": "running", "top": "stopped"}


def test_a_start_while_it_stops_brings_it_back(init):
    init.add("slow", f"start() {{ {init.does('+')}; }}", "stop() { sleep 0.4; }")
    init.ask("start slow")
    stopping, starting = init.connect(), init.connect()
    stopping.send("stop slow")
    wait_until(lambda: init.state("slow") == "stopping")
    assert starting.ask("start slow") == ["ok"]
    assert init.trace() == ["+", "+"] and init.state("slow") == "running"


def end_by_request(init):
    assert init.ask("poweroff") == ["ok"]


def end_by_signal(init):
    init.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [end_by_request, end_by_signal])
def test_the_end_is_in_reverse_and_leaves_nothing(init, end):
    add_chain(init)
    init.add("daemon", SLEEP)
    init.ask("start top daemon")
    end(init)
    assert init.wait() == 0
    assert init.trace()[4:] == ["-top", "-left", "-right", "-base"]
    assert not init.left_behind() and not init.socket.exists()


def test_nothing_is_started_at_the_end(init):
    init.add("slow", "start() { :; }", "stop() { sleep 0.5; }")
    init.add("other", "start() { :; }")
    init.ask("start slow")
    client = init.connect()
    assert init.ask("poweroff") == ["ok"]
    for verb in ("start", "restart"):
        assert client.ask(f"{verb} other")[0].startswith("error 1 shutting down; ")
    assert init.wait() == 0


def test_a_second_signal_forces_the_end_and_leaves_nothing(init):
    init.add("stubborn", "run() { exec sh -c "
             "'trap \"\" TERM; sleep 99.75 & echo up; while :; do sleep 0.1; done'; }")
    init.ask("start stubborn")
    wait_until(lambda: init.status("stubborn")["tail"] == ["up"])
    init.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "exit: stopping all" in init.console())
    init.process.send_signal(signal.SIGTERM)
    assert init.wait() == 0
    wait_until(lambda: not init.left_behind())


# ---- the descriptor ------------------------------------------------------------------------------

def targets(pid, command):
    """What the descriptors of a process lead to, once it is COMMAND and has loaded."""
    wait_until(lambda: command in read(f"/proc/{pid}/cmdline"))
    wait_until(lambda: b") S " in read(f"/proc/{pid}/stat"))
    folder = f"/proc/{pid}/fd"
    return {int(number): os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}


@pytest.mark.parametrize("body, extra", [
    (SLEEP, set()), ("ready=fd\nrun() { exec sh -c 'echo >&3; exec sleep 1000'; }", {3})])
def test_what_run_executes_has_no_other_descriptor(cold, body, extra):
    reader, writer = os.pipe()
    cold.start("--no-boot", pass_fds=[reader, writer])      # nor what linitd was started with
    os.close(reader)
    os.close(writer)
    cold.add("daemon", body)
    cold.ask("start daemon")
    found = targets(cold.pid("daemon"), b"sleep\x001000")
    assert set(found) == {0, 1, 2} | extra
    assert found[0] == "/dev/null" and found[1] == found[2] and found[1].endswith("/daemon.log")


def test_what_start_and_stop_execute_has_no_other_descriptor(init):
    child = f"sleep 1000 & echo $! >{init.folder}/child"
    init.add("oneshot", f"start() {{ {child}; }}", f"stop() {{ {child}; }}")
    for verb in ("start", "stop"):
        assert init.ask(f"{verb} oneshot") == ["ok"]
        child = int(read(init.folder / "child"))
        found = targets(child, b"sleep\x001000")
        os.kill(child, signal.SIGKILL)
        assert set(found) == {0, 1, 2} and found[1].endswith("/oneshot.log")


@pytest.mark.parametrize("line", ["poweroff", "dep other", "end 1", "settings type=start",
                                  "stop other"])
def test_s28_a_daemon_can_say_nothing_but_that_it_is_ready(init, line):
    init.add("other", "start() { :; }")
    init.add("running", SLEEP)
    init.ask("start running")
    init.add("daemon", "ready=fd", "run() { exec setpriv --reuid 65534 --clear-groups sh -c "
             f"'echo {line} >&3; read -r answer <&3; exec sleep 1000'; }}")
    init.add("quick", "run() { exec sh -c 'for fd in 3 4 5 6 7 8 9; do "
             f"eval \"echo {line} >&$fd\"; done; exec sleep 1000'; }}")
    assert init.ask("start daemon quick") == ["ok"]
    time.sleep(0.2)
    assert init.states() == {"other": "stopped", "running": "running", "daemon": "running",
                             "quick": "running"}


def test_the_script_of_the_docs_that_sets_everything(init):
    """As docs/linit.md has it, but with files and users of the test's."""
    page = (ROOT / "docs/linit.md").read_text()
    text = page[page.index("user=app\n"):].partition("\n```")[0]
    (init.folder / "app").write_text("WORD='two words'\n")
    program = "sh -c 'echo $WORD; umask; ulimit -n; nice; exec sleep 1000'"
    for old, new in (("user=app", "user=nobody"), ("/etc/default/app", str(init.folder / "app")),
                     ("/usr/bin/app", program)):
        assert old in text
        text = text.replace(old, new)
    for path in (init.folder, *init.folder.parents):
        path.chmod(path.stat().st_mode | 0o011)
    init.folder.chmod(0o755)
    shutil.chown(init.folder / "app", NOBODY)
    init.add("it", text)
    assert init.ask("start it") == ["ok"]
    wait_until(lambda: len(init.status("it")["tail"]) == 4)
    assert init.status("it")["tail"] == ["two words", "0027", "4096", "10"]


def test_wait_for_a_file_or_an_interface(init):
    path = init.folder / "late"
    init.add("it", f"start() {{ wait_for lo; wait_for {path} 20; }}")
    client = init.connect()
    client.send("start it")
    time.sleep(0.3)
    assert init.state("it") == "starting"
    path.touch()
    assert client.answer() == ["ok"]
    init.add("never", "start() { wait_for never0 0; }")
    assert init.ask("start never") == [
        "error 1 never: start ended with status 1: no never0 after 0 s"]


def test_words_of_cgroup_go_to_the_files_of_its_group(first):
    """A folder stands for the kernel's."""
    groups = first.folder / "groups"
    groups.mkdir()
    (groups / "cgroup.procs").touch()
    first.alter('"/sys/fs/cgroup/linit"', f'"{groups}/linit"')
    first.add("it", 'cgroup="memory.max=64M pids.max=100"', SLEEP)
    first.add("bad", 'cgroup="a/b.max=1"', SLEEP)
    first.start("--no-boot")
    assert first.ask("start it") == ["ok"]
    assert (groups / "linit/it/memory.max").read_text() == "64M\n"
    assert (groups / "linit/it/pids.max").read_text() == "100\n"
    for folder in (groups, groups / "linit"):
        assert (folder / "cgroup.subtree_control").read_text() == "+pids\n"
    assert "bad: cgroup=a/b.max=1: the kernel doesn't take that" in first.ask("start bad")[0]


# ---- logs ----------------------------------------------------------------------------------------

def use_python_logger(init):
    """linit-log.py, as where nothing is compiled."""
    (init.folder / "linit-log").unlink()
    shutil.copy(ROOT / "initd/linit-log.py", init.folder)


@pytest.fixture(params=["compiled", "python"])
def logged(one, request, monkeypatch):
    """A linitd that isn't started yet, with each of the two that write logs."""
    monkeypatch.chdir(one.folder)
    one.folder.chmod(0o755)
    if request.param == "python":
        use_python_logger(one)
    return one


def test_what_a_service_prints_is_in_its_log_and_in_its_status(init):
    init.add("talks", "start() { echo one; echo two >&2; printf 'a\\033[31mb\\377\\n'; }")
    init.ask("start talks")
    assert init.status("talks")["tail"] == ["one", "two", "a\\x1b[31mb\ufffd"]
    assert init.ok("log talks") == [f" {init.logs}/talks~", f" {init.logs}/talks"]
    init.expect("talks", b"one\ntwo\na\x1b[31mb\xff\n")
    assert (init.logs / "talks").stat().st_mode & 0o777 == 0o600
    assert init.logs.stat().st_mode & 0o777 == 0o700


def test_a_log_is_rotated_and_bounded(logged):
    """Also while the daemon that prints it runs on; no line is lost."""
    logged.add("talks", "run() { exec sh -c 'sleep 0.3; seq 200000 269999; exec sleep 1000'; }")
    logged.start("--no-boot")
    logged.ask("start talks")
    logged.expect("talks", b"269999\n")
    older, newer = read(logged.logs / "talks~"), read(logged.logs / "talks")
    assert len(older) <= 256 << 10 and len(newer) <= 256 << 10
    lines = [line for line in (older + newer).splitlines() if not line.startswith(b"-- ")]
    assert [int(line) for line in lines] == list(range(200000, 270000))
    assert older and logged.state("talks") == "running"


def test_a_service_forges_no_line_of_linitd_s(logged):
    """Wherever its output is cut, none of its lines begins as linitd's do."""
    forged = "-- 2026-01-01T00:00:00Z is running"
    logged.add("liar", "log_times=no", "run() { printf 'a\\n-'; sleep 0.2; "
               f"printf -- '- b\\n{forged}\\n--\\n-'; sleep 0.2; printf -- '- {forged}'; "
               "exit 1; }")
    logged.start("--no-boot")
    logged.ask("start liar")
    logged.expect("liar", b"failed: ")
    lines = read(logged.logs / "liar").decode().splitlines()
    assert lines[:5] == ["a", " -- b", f" {forged}", " --", f" -- {forged}"]
    assert len(lines) == 6 and lines[5].startswith("-- 20") and "Z failed: " in lines[5]


def test_lines_can_carry_the_time(logged):
    text = "printf 'one\\ntw'; sleep 0.2; printf 'o\\n-- three\\n'"
    logged.add("once", "log_times=yes", f"start() {{ {text}; }}")
    logged.add("daemon", "log_times=yes", f"run() {{ {text}; exec sleep 1000; }}")
    logged.start("--no-boot")
    assert logged.ask("start once daemon") == ["ok"]
    for name in ("once", "daemon"):
        logged.expect(name, b"three\n")
        lines = read(logged.logs / name).decode().splitlines()
        said = [line for line in lines if not line.startswith("-- ")]
        for line, word in zip(said, ("one", "two", "-- three")):
            then = time.strptime(line[:21], "%Y-%m-%dT%H:%M:%SZ ")
            assert line[21:] == word and abs(calendar.timegm(then) - time.time()) < 60
        assert len(said) == 3


@pytest.mark.parametrize("moment", [
    "1970-01-01 00:00:00", "1999-12-31 23:59:59", "2000-02-29 12:00:00", "2024-12-31 23:59:59",
    "2027-03-01 00:00:00", "2099-08-31 09:08:07"])
def test_the_logger_knows_the_calendar(tmp_path, moment):
    """Its clock is set in a namespace of time, whose offset is of CLOCK_MONOTONIC alone: so its
    arithmetic is compiled with a clock of ours."""
    text = (ROOT / "initd/linit-log.c").read_text()
    begin, end = text.index("/* How often UNIT"), text.index("static long open_log")
    (tmp_path / "time.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#define CLOCK_REALTIME 0\nstatic unsigned now;\n"
        f"static unsigned seconds(int clock) {{ return now + clock; }}\n{text[begin:end]}"
        "int main(int argc, char **argv) { char to[99]; now = strtoul(argv[argc - 1], 0, 10);\n"
        "*put_time(to) = 0; puts(to); }\n")
    subprocess.run(["cc", "-o", tmp_path / "time", tmp_path / "time.c"], check=True)
    number = calendar.timegm(time.strptime(moment, "%Y-%m-%d %H:%M:%S"))
    done = subprocess.run([tmp_path / "time", str(number)], stdout=subprocess.PIPE, text=True,
                          check=True)
    assert done.stdout == moment.replace(" ", "T") + "Z \n"


def test_linitd_s_own_messages_have_a_log(logged):
    logged.add("bad", "start() { echo no carrier; return 1; }")
    logged.start("--no-boot")
    logged.ask("start bad")
    logged.expect("linitd", b"Z bad failed: start ended with status 1: no carrier\n")
    assert logged.ok("log") == [f" {logged.logs}/linitd~", f" {logged.logs}/linitd"]
    assert logged.ask("start linitd") == ["error 2 linitd: not a service name"]


def test_a_daemon_of_a_user_can_open_dev_stderr(logged):
    for path in (logged.folder, *logged.folder.parents):
        path.chmod(path.stat().st_mode | 0o011)
    logged.add("daemon", "user=nobody", "run() { exec sh -c 'echo one >/dev/stderr; "
               "echo two >/proc/self/fd/1; exec sleep 1000'; }")
    logged.start("--no-boot")
    assert logged.ask("start daemon") == ["ok"]
    logged.expect("daemon", b"one\ntwo\n")
    (logged.initd / "daemon").chmod(0o700)      # which it couldn't read
    assert logged.ask("stop daemon") == ["ok"]
    answer = logged.ask("start daemon")[0]
    assert answer.startswith("error 1 daemon: script ended with status ")
    assert answer.lower().endswith("permission denied")


def test_the_folder_of_fifos_is_its_user_s_alone(up):
    """Its FIFOs of logs take from anybody who has one open; without that nobody else gets there,
    though somebody opened the folder to all."""
    folder = pathlib.Path(f"{up.socket}.d")
    assert folder.stat().st_mode & 0o777 == 0o700
    up.ask("poweroff")
    up.wait()
    folder.chmod(0o777)
    up.start("--no-boot")
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["moved", "removed", "mounted over"])
def test_a_folder_of_logs_that_is_gone_is_made_again(logged, how):
    logged.add("daemon", "run() { exec sh -c 'while echo said; do sleep 0.1; done'; }")
    logged.start("--no-boot")
    assert logged.ask("start daemon") == ["ok"]
    logged.expect("daemon", b"said")
    try:
        if how == "moved":
            logged.logs.rename(logged.folder / "away")
        elif how == "removed":
            shutil.rmtree(logged.logs)
        else:
            subprocess.run(["mount", "-t", "tmpfs", "none", logged.logs], check=True)
        logged.expect("daemon", b"said")
        assert "is lost" not in logged.console()
    finally:
        if how == "mounted over":
            logged.end()
            subprocess.run(["umount", logged.logs], check=True)


def loggers(init):
    return {pid for pid, command in commands().items()
            if re.search(rf"/linit-log(\.py)? {init.logs}$", command)}


def ticks(pid):
    """The processor's time that a process has had, in hundredths of a second."""
    return sum(map(int, read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[11:13]))


def test_a_disk_that_hangs_costs_no_processor(one):
    shutil.copy(compiled("linit-idle"), one.folder)
    one.add("daemon", "run() { exec yes; }")
    one.start("--no-boot")
    logger, = loggers(one)
    os.kill(logger, signal.SIGSTOP)
    try:
        assert one.ask("start daemon") == ["ok"]
        time.sleep(2)           # it would sleep by then
        before = ticks(one.process.pid)
        time.sleep(2)
        assert ticks(one.process.pid) - before < 10
        assert one.status("daemon")["state"] == "running"
    finally:
        os.kill(logger, signal.SIGCONT)


def test_a_logger_that_was_killed_comes_back_and_nothing_is_lost(logged):
    logged.add("daemon", "run() { exec sh -c 'seq 1000; sleep 0.3; seq 1001 40000; sleep 1000'; }")
    logged.start("--no-boot")
    pid, = loggers(logged)
    os.kill(pid, signal.SIGKILL)
    assert logged.ask("start daemon") == ["ok"]
    logged.expect("daemon", b"\n40000\n")
    assert set(range(1, 40001)) <= set(map(int, re.findall(
        rb"^\d+$", read(logged.logs / "daemon"), re.MULTILINE)))
    other, = loggers(logged)
    logged.end()
    wait_until(lambda: not is_alive(other))


def test_without_a_logger_it_says_so_and_goes_on(one):
    (one.folder / "linit-log").unlink()
    one.add("talks", "start() { yes | head -c 2M; echo said; }")
    one.start("--no-boot")
    assert one.ask("start talks") == ["ok"] and one.status("talks")["tail"][-1] == "said"
    assert one.console().count("is lost") == 1


def test_s38_a_flood_of_output_holds_up_nobody(up):
    up.add("flood", "run() { yes | head -c 50M; exec sleep 1000; }")
    client = up.connect()
    client.send("start flood")
    wait_until(lambda: (up.logs / "flood~").exists())
    for _ in range(20):
        began = time.monotonic()
        up.ok("list")
        assert time.monotonic() - began < 2
    assert client.answer() == ["ok"]
    assert all(path.stat().st_size <= 256 << 10 for path in up.logs.iterdir())


def test_s38_a_log_that_is_a_symlink_is_not_followed(logged):
    victim = logged.folder / "victim"
    victim.write_text("mine")
    logged.logs.mkdir()
    (logged.logs / "talks").symlink_to(victim)
    logged.add("talks", "start() { echo said; }")
    logged.add("other", "start() { echo said; }")
    logged.start("--no-boot")
    for _ in range(3):
        assert logged.ok("start talks other") == logged.ok("stop talks other") == []
    wait_until(lambda: read(logged.logs / "other").count(b"said\n") == 3)
    assert victim.read_text() == "mine"
    assert logged.console().count("is lost") == 1
    assert logged.status("talks")["name"] == "talks"


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_s38_a_log_that_is_no_file_stops_nothing(logged, kind):
    logged.logs.mkdir()
    os.mkfifo(logged.logs / "talks") if kind == "fifo" else (logged.logs / "talks").mkdir()
    logged.add("talks", "start() { echo said; }")
    logged.start("--no-boot")
    assert logged.ok("start talks") == logged.ok("stop talks") == logged.ok("start talks") == []
    wait_until(lambda: logged.console().count("is lost") == 1)


def test_s38_a_folder_of_logs_that_takes_none_costs_one_line(logged):
    logged.logs = logged.folder / "file/log"
    (logged.folder / "file").touch()
    logged.start("--no-boot")
    for name in ("a", "b"):
        logged.add(name, "start() { echo said; }")
        assert logged.ask(f"start {name}") == ["ok"]
    wait_until(lambda: logged.console().count("is lost") == 1)
    assert logged.status("a")["tail"] == ["said"]


def test_s38_a_full_disk_costs_one_line_and_logs_go_on_when_it_has_room(logged):
    logged.logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", logged.logs], check=True)
    try:
        logged.start("--no-boot")
        logged.add("flood", "start() { yes | head -c 5M; }")
        assert logged.ask("start flood") == ["ok"]
        wait_until(lambda: "No space left" in logged.console())
        time.sleep(1)               # the rest of it is lost
        (logged.logs / "flood").unlink()
        logged.add("talks", "start() { echo said; }")
        assert logged.ask("start talks") == ["ok"]
        logged.expect("talks", b"said")
        assert logged.console().count("is lost") == 1
    finally:
        logged.end()
        subprocess.run(["umount", logged.logs], check=True)


FIFREEZE, FITHAW = 0xC0045877, 0xC0045878       # linux/fs.h


@contextlib.contextmanager
def freezable(folder):
    """A file system of its own in FOLDER, and a function that freezes it: who writes there waits,
    as on a disk that hangs."""
    image = folder.with_name("disk")
    image.touch()
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    fd = os.open(folder, os.O_RDONLY)
    try:
        yield lambda: fcntl.ioctl(fd, FIFREEZE, 0)
    finally:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, FITHAW, 0)
        os.close(fd)
        wait_until(lambda: subprocess.run(["umount", folder], stderr=subprocess.DEVNULL,
                                          check=False).returncode == 0)


def print_for_ever(init):
    init.add("printer", "run() { exec sh -c 'while echo said; do sleep 0.01; done'; }")
    init.add("flood", "run() { exec yes; }")


def test_s38_a_disk_that_hangs_holds_up_no_request_and_no_end(logged):
    with freezable(logged.logs) as freeze:
        print_for_ever(logged)
        logged.start("--no-boot")
        assert logged.ask("start printer") == ["ok"]
        logged.expect("printer", b"said")
        freeze()
        assert logged.ask("start flood") == ["ok"]
        for _ in range(10):
            logged.ok("list")
            assert logged.ask("restart printer") == ["ok"]
        time.sleep(0.5)
        ticks = logged.ticks()
        time.sleep(0.5)
        assert logged.ticks() - ticks < 10      # it doesn't spin
        logged.process.send_signal(signal.SIGTERM)
        assert logged.wait() == 0 and not logged.left_behind()


def test_s38_what_was_said_while_a_disk_hung_is_written_once_it_does_not(logged):
    with freezable(logged.logs) as freeze:
        logged.add("counts", "run() { exec sh -c 'sleep 0.5; seq 100000 130000; sleep 1000'; }")
        logged.start("--no-boot")
        logged.ask("start counts")
        logged.expect("counts", b"is running")
        freeze()
        time.sleep(1.5)
        logged.ok("list")
        fd = os.open(logged.logs, os.O_RDONLY)
        fcntl.ioctl(fd, FITHAW, 0)
        os.close(fd)
        logged.expect("counts", b"130000\n")
        text = read(logged.logs / "counts~") + read(logged.logs / "counts")
        assert set(range(100000, 130001)) <= set(map(int, re.findall(rb"^1\d{5}$", text, re.M)))
        assert "is lost" not in logged.console()


def test_s38_a_blocked_console_holds_up_nobody(one):
    reader, writer = os.pipe()
    one.start("--no-boot", stderr=writer)
    os.close(writer)
    one.add("x" * 100, "start() { :; }")
    for _ in range(5):
        for _ in range(100):                # 130 bytes a line, and a pipe takes 64 KiB
            assert one.ask(f"start {'x' * 100}") == ["ok"]
            assert one.ask(f"stop {'x' * 100}") == ["ok"]
    os.close(reader)


# ---- clients -------------------------------------------------------------------------------------

CHANGES = ["start it", "stop it", "restart it", "enable it", "disable it", "log it", "poweroff",
           "reboot", "halt"]


def test_s27_others_may_look_and_nothing_else(up):
    up.add("it", "start() { echo a secret; }")
    up.add("bad", "start() { echo a secret; return 1; }")
    up.ask("start it bad")
    with as_user(1000):
        client = Client("socket")
    for line in CHANGES * 2:
        verb = line.split()[0]
        assert client.ask(line) == [f"error 4 {verb}: only root and the owner of this linitd may"]
    assert client.ask("list")[-1] == "ok"
    for name in ("it", "bad"):
        lines = client.ask(f"status {name}")
        assert lines[-1] == "ok" and "secret" not in str(lines)
    client.close()
    assert up.console().count("user 1000 may not ") == 1
    assert up.states() == {"it": "running", "bad": "failed"} and not list(up.rcd.iterdir())


def test_s27_credentials_are_the_kernels_not_the_texts(up):
    up.add("it", "start() { :; }")
    with as_user(1000):
        client = Client("socket")
    for line in ("uid=0 start it", "0 start it", "start it uid=0", "sudo start it"):
        assert client.ask(line)[0].startswith("error ")
    assert up.states() == {"it": "stopped"}
    client.close()


def test_asking_makes_no_services(up):
    """Else any user could fill the memory with instances."""
    up.add("getty", SLEEP)
    with as_user(1000):
        client = Client("socket")
    for number in range(50):
        assert client.ask(f"status getty@{number}")[-1] == "ok"
    assert up.states() == {"getty": "stopped"}
    client.close()


def send_rubbish(path, data):
    """Send DATA and close without a look at what comes back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(1)
        with contextlib.suppress(OSError):      # linitd may close, or have us wait, midway
            client.sendall(data)


def random_lines(seed):
    random_bytes = random.Random(seed)
    return b"".join(random_bytes.randbytes(random_bytes.randrange(60)) + b"\n" for _ in range(300))


RUBBISH = {
    "random bytes": b"".join(map(random_lines, range(20))),
    "verbs with random bytes": b"".join(
        verb + b" " + line + b"\n" for verb in (b"start", b"status", b"log", b"list", b"enable")
        for line in random_lines(5).split(b"\n")),
    "NUL": b"list\0\n\0\n" * 100,
    "bad UTF-8": b"start \xff\xfe\n\xc3\x28\n" * 100,
    "empty lines": b"\n" * 50000,
    "blanks": b" \t \n" * 100,
    "1 MB": b"x" * (1 << 20),
    "1 MB, then a newline": b"x" * (1 << 20) + b"\nlist\n",
    "half a line": b"sta",
    "nothing": b"",
    "script's verbs": b"dep it\nwant it\nsettings type=run\nend 1\nend 0\n",
    "many requests, no reader": b"list\n" * 5000,
    "many requests that wait": b"start slow\n" * 300,
}


class Before:
    """A linitd's state, to be compared later: what it has open, and what its services do."""

    def __init__(self, init):
        self.init = init
        self.states = init.states()
        time.sleep(0.3)                 # those who have asked before are gone
        self.descriptors = init.descriptors()

    def is_back(self):
        return self.init.descriptors() == self.descriptors and self.init.states() == self.states

    def check(self):
        """A fresh client is served, nothing has leaked, nothing turns round and round."""
        assert self.init.ask("status it")[-1] == "ok"
        wait_until(self.is_back)
        ticks = self.init.ticks()
        time.sleep(0.3)
        assert self.init.ticks() - ticks <= 3
        assert "should not happen" not in self.init.console()


@pytest.fixture
def before(up):
    up.add("it", "start() { :; }")
    up.add("slow", "start() { sleep 0.3; }", "stop() { :; }")
    up.ask("start slow")
    return Before(up)


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
def test_s29_rubbish_costs_one_error_and_no_more(up, before, data):
    send_rubbish(up.socket, data)
    before.check()


@pytest.mark.parametrize("data, errors", [
    (b"\n", ["error 2 a request without a word, or with a NUL"]),
    (b"\xff\n", ["error 2 a request that isn't UTF-8"]),
    (b"x" * (1 << 20), ["error 2 a request of more than 262144 bytes"])])
def test_s29_rubbish_is_answered(up, before, data, errors):
    client = up.connect()
    with contextlib.suppress(OSError):
        client.socket.sendall(data)
    assert client.answer() == errors
    client.close()
    before.check()


def test_s29_passed_descriptors_are_dropped(up, before):
    client = up.connect()
    with open(os.devnull, "rb") as null:
        for _ in range(20):
            socket.send_fds(client.socket, [b"list\n"], [null.fileno()] * 10)
    for _ in range(20):
        assert client.answer()[-1] == "ok"
    client.close()
    before.check()


def test_s29_out_of_band_data(up, before):
    client = up.connect()
    with contextlib.suppress(OSError):
        client.socket.send(b"x", socket.MSG_OOB)
    time.sleep(0.1)
    ticks = up.ticks()
    time.sleep(0.3)
    assert up.ticks() - ticks <= 3
    client.close()
    before.check()


def test_a_client_that_closes_while_it_waits_is_forgotten(up, before):
    up.ask("stop slow")
    client = up.connect()
    client.send("start slow")
    wait_until(lambda: up.state("slow") == "starting")
    client.close()
    wait_until(lambda: up.state("slow") == "running")
    before.check()


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR])
def test_half_closed_connections(up, before, how):
    client = up.connect()
    client.send("list")
    client.socket.shutdown(how)
    if how == socket.SHUT_WR:
        assert client.answer()[-1] == "ok" and client.answer() == []
    ticks = up.ticks()
    time.sleep(0.3)
    assert up.ticks() - ticks <= 3
    client.close()
    before.check()


def test_who_sends_and_closes_at_once_is_served(up):
    up.add("it", "start() { :; }")
    send_rubbish(up.socket, b"start it\n")
    wait_until(lambda: up.state("it") == "running")


def test_requests_on_one_connection_are_answered_in_order(up, before):
    client = up.connect()
    client.send("stop slow", "start slow", "status slow", "frobnicate", "list")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.answer() == ["ok"] and client.answer() == ["ok"]
    assert client.answer()[1] == " state running"
    assert client.answer() == ["error 2 frobnicate: no such request"]
    assert client.answer()[-1] == "ok"
    client.close()
    before.check()


def test_s30_a_reader_that_never_reads_holds_up_nobody(up, before):
    client = up.connect()
    client.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(100):
            client.socket.sendall(b"list\n" * 1000)
    wait_until(lambda: len(up.descriptors()) == len(before.descriptors) + 1)
    before.descriptors = up.descriptors()
    before.check()
    client.close()


def test_s30_many_requests_of_one_hold_up_no_other(up, before):
    """One who asks and reads as fast as it can gets no more than its turn."""
    for number in range(300):
        up.add(f"service-{number}", "start() { :; }")
    before.states = up.states()
    writer = up.connect()
    read_all = "import os, select\nwhile select.select([0], [], []) and os.read(0, 65536): pass"
    reading = subprocess.Popen([sys.executable, "-c", read_all], stdin=writer.socket)
    try:
        writer.socket.sendall(b"list\n" * 4000)
        for _ in range(5):
            began = time.monotonic()
            up.ok("status it")
            assert time.monotonic() - began < 1
    finally:
        reading.kill()
        reading.wait()
        writer.close()
    before.check()


def work_before_an_answer(init):
    """What linitd works at most, in hundredths of a second, before root has an answer."""
    most = 0
    for _ in range(20):
        began = init.ticks()
        assert init.ask("status it")[-1] == "ok"
        most = max(most, init.ticks() - began)
    return most


def test_s64_requests_of_who_is_gone_cost_nothing(up, before):
    """44,000 times `graph` on 60 connections, which are closed at once."""
    for number in range(100):
        up.add(f"service-{number}", "start() { :; }")
    assert up.ask(" ".join(["start", *(f"service-{number}" for number in range(100))])) == ["ok"]
    before.states = up.states()
    for _ in range(60):
        with as_user(1000):
            client = socket.socket(socket.AF_UNIX)
            client.connect("socket")
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.sendall(b"graph\n" * 734)
        client.close()
    ticks = up.ticks()
    assert work_before_an_answer(up) < 10
    time.sleep(0.5)
    assert up.ticks() - ticks < 30
    before.check()


def test_s64_one_user_s_requests_leave_most_of_each_turn_to_root(up, before):
    """60 connections that ask for all and read all, as fast as they can."""
    for number in range(300):
        up.add(f"service-{number}", "start() { :; }")
    before.states = up.states()
    flood = """import os, selectors, socket, sys
os.setresuid(1000, 1000, 1000)
clients = selectors.DefaultSelector()
for _ in range(60):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(b"list\\n" * 20)
    clients.register(client, selectors.EVENT_READ)
print(flush=True)
while True:
    for key, _ in clients.select():
        lines = key.fileobj.recv(1 << 20).count(b"\\nok")
        key.fileobj.send(b"list\\n" * lines)
"""
    process = subprocess.Popen([sys.executable, "-c", flood, "socket"], stdout=subprocess.PIPE)
    try:
        assert process.stdout.read(1) == b"\n"
        assert work_before_an_answer(up) < 10
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    before.check()


def test_s30_a_cap_for_each_user_and_root_is_served(up, before):
    with as_user(1000):
        crowd = [Client("socket") for _ in range(200)]
    served = 0
    for client in crowd:
        with contextlib.suppress(OSError):
            served += client.ask("list")[-1:] == ["ok"]
    assert served == 64
    with as_user(1001):
        other = Client("socket")
    assert other.ask("list")[-1] == "ok" and up.ask("start it") == ["ok"]
    for client in [*crowd, other]:
        client.close()
    up.ask("stop it")
    before.check()


def test_s30_a_crowd_of_users_leaves_room_for_root(up, before):
    """A user can have thousands of user numbers (subuid(5)), each with its own cap."""
    crowd = collections.deque(maxlen=700)
    for number in range(10000):
        with as_user(2000 + number // 40):
            crowd.append(socket.socket(socket.AF_UNIX))
            crowd[-1].connect("socket")
    assert up.ask("start it") == ["ok"]
    assert len(up.descriptors()) < 400
    for client in crowd:
        client.close()
    up.ask("stop it")
    before.check()


def test_s30_without_memory_it_goes_on(up, before):
    used = int(re.search(rb"VmSize:\s+(\d+)", read(f"/proc/{up.process.pid}/status"))[1]) << 10
    limits = resource.prlimit(up.process.pid, resource.RLIMIT_AS, (used, -1))
    crowd = [up.connect() for _ in range(8)]
    for client in crowd:
        client.socket.settimeout(0.2)
        with contextlib.suppress(OSError):
            client.socket.sendall(b"x" * (250 << 10))
    wait_until(lambda: "MemoryError" in up.console())
    resource.prlimit(up.process.pid, resource.RLIMIT_AS, limits)
    for client in crowd:
        client.close()
    assert up.ask("start it") == ["ok"] == up.ask("stop it")
    wait_until(before.is_back)


def test_s30_without_descriptors_it_goes_on_and_says_so(up, before):
    resource.prlimit(up.process.pid, resource.RLIMIT_NOFILE, (40, 4096))
    crowd = [Client(up.socket) for _ in range(60)]
    wait_until(lambda: "can't accept a connection: Too many open files" in up.console())
    ticks = up.ticks()
    time.sleep(1)
    assert up.ticks() - ticks <= 10 and up.console().count("can't accept") <= 3
    assert crowd[0].ask("start it") == ["error 1 it: it could not be run: Too many open files"]
    assert crowd[0].ask("status it")[-1] == "ok"
    for client in crowd:
        client.close()
    assert up.ask("start it") == ["ok"]
    up.ask("stop it")
    before.check()


def test_s30_a_daemon_comes_back_when_there_are_descriptors_again(up):
    up.add("daemon", "backoff=0.2", SLEEP)
    assert up.ask("start daemon") == ["ok"]
    daemon = up.pid("daemon")
    resource.prlimit(up.process.pid, resource.RLIMIT_NOFILE, (30, 4096))
    crowd = [Client(up.socket) for _ in range(40)]
    # The second time what closed in the meantime is taken, too.
    wait_until(lambda: up.console().count("can't accept a connection: Too many open files") > 1)
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: "daemon: it could not be run: Too many open files" in up.console())
    for client in crowd:
        client.close()
    wait_until(lambda: up.state("daemon") == "running")


def test_linitd_and_rc_common_have_the_same_defaults():
    """A script that changes none may say nothing."""
    linitd = load_tool("linitd")
    text = (ROOT / "initd/rc.common").read_text()
    words = re.findall(r"^([a-z_]+)='?([^\s']+)'?\s+#", text, re.MULTILINE)
    settings = [f"{key}={value}" for key, value in words]
    assert len(settings) == len(linitd.SETTINGS) - 2        # type and stop are functions there
    assert linitd.parse_settings(settings) == linitd.DEFAULTS


def test_a_state_of_an_earlier_version_has_what_is_new(tmp_path, monkeypatch):
    """Services of it know fewer settings, and there are rooms whose things nobody has saved."""
    linitd = load_tool("linitd")
    monkeypatch.setattr(linitd, "PROGRAM", str(ROOT / "linitd.py"))
    init = linitd.Init(linitd.Options(["--log", str(tmp_path)]))
    monkeypatch.setattr(init.logs, "start", lambda: None)
    service = linitd.plain(linitd.Service("it"))
    service["settings"] = {"type": "run", "restart": "never"}
    del service["guests"]
    init.sleep.resume({"services": [service], "peers": [], "batches": [], "listener": None})
    assert init.services["it"].settings == {**linitd.DEFAULTS, "type": "run", "restart": "never"}
    assert init.services["it"].guests == set() and init.services["it"].log_kind() == " "
    init.loop.epoll.close()


def test_lines_of_one_turn_are_one_message_to_linit_log(tmp_path, monkeypatch):
    linitd = load_tool("linitd")
    monkeypatch.setattr(linitd, "PROGRAM", str(ROOT / "linitd.py"))
    init = linitd.Init(linitd.Options(["--log", str(tmp_path)]))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    init.logs.logger = ours.fileno()
    init.logs.watch()
    for kind, name, data in (("+", "it", b"a\n"), ("+", "it", b"b\n"), ("-", "it", b"c\n"),
                             ("-", "other", b"x" * 1000), ("-", "other", b"y" * 30)):
        init.logs.write(kind, name, data)
    init.logs.flush()
    theirs.setblocking(False)
    assert [theirs.recv(2000) for _ in range(4)] == [
        b"+it\na\nb\n", b"-it\nc\n", b"-other\n" + b"x" * 1000, b"-other\n" + b"y" * 30]
    assert init.logs.size == 0 and not init.logs.waiting
    init.loop.epoll.close()
    for end in (ours, theirs):
        end.close()


def test_a_handler_meets_no_event_of_the_descriptor_before(tmp_path, monkeypatch):
    """One handler closes what has an event in the same turn, and opens what gets its number."""
    linitd = load_tool("linitd")
    monkeypatch.setattr(linitd, "PROGRAM", str(ROOT / "linitd.py"))
    init = linitd.Init(linitd.Options(["--log", str(tmp_path)]))
    (first, to_first), (second, to_second) = os.pipe(), os.pipe()
    opened, called = [], []

    def replace_second(mask):
        init.loop.forget(second)
        opened.extend(os.pipe())
        init.loop.watch(opened[0], linitd.select.EPOLLIN, called.append)

    init.loop.watch(first, linitd.select.EPOLLIN, replace_second)
    init.loop.watch(second, linitd.select.EPOLLIN, called.append)
    os.write(to_first, b"x")
    os.write(to_second, b"x")
    init.turn()
    assert opened[0] == second and called == []
    init.loop.epoll.close()
    for fd in (first, to_first, to_second, *opened):
        os.close(fd)


# ---- the command line ----------------------------------------------------------------------------

def run(init, *options):
    done = subprocess.run(init.command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr


def test_help_version_and_check(one):
    status, text, _ = run(one, "--help")
    assert status == 0 and text.startswith("linitd, the init of Panux\n")
    for option in re.findall(r"^  (--\S+)", text, re.MULTILINE):
        assert option in (ROOT / "linitd.py").read_text()
    assert run(one, "--version") == (0, f"linitd {load_tool('linitd').VERSION}\n", "")
    assert run(one, "--check") == (0, "", "") and not one.socket.exists()


@pytest.mark.parametrize("options, text", [
    (["--frobnicate"], "--frobnicate: no such option; see linitd --help"),
    (["word"], "word: no such option; see linitd --help"),
    (["--socket"], "--socket needs a value"),
    (["--check=yes"], "--check takes no value")])
def test_usage(one, options, text):
    assert run(one, *options) == (2, "", f"linitd: {text}\n")


def test_a_user_s_own(one, monkeypatch):
    """Below XDG_RUNTIME_DIR and ~/.config; linitctl --user finds it."""
    for name in ("CONFIG_HOME", "STATE_HOME"):
        monkeypatch.delenv(f"XDG_{name}", raising=False)
    monkeypatch.setenv("HOME", str(one.folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(one.folder))
    one.socket = one.folder / "linit.sock"
    one.initd = one.folder / ".config/linit/init.d"
    one.initd.mkdir(parents=True)
    monkeypatch.setattr(one, "command", lambda *options, python: [
        python, "-I", "-S", str(one.program), "--user", *options])
    shutil.copy(ROOT / "initd/boot", one.folder)
    one.add("it", "start() { echo said; echo ~ >~/home; }")
    one.start()
    wait_until(lambda: one.state("boot") == "running")
    assert one.ask("reexec") == ["ok"]
    run_tool("linitctl", "--user", "start", "it")
    run_tool("linitctl", "enable", "it", "--user")
    assert (one.folder / ".config/linit/rc.d/it").exists()
    assert b"said" in read(one.folder / ".local/state/linit/it")
    assert read(one.folder / "home").decode() == f"{one.folder}\n"


def test_services_have_the_time_zone_of_the_system(init):
    (init.folder / "TZ").write_text("CET-1")        # and no newline
    script = init.folder / "rc.common"
    script.write_text(script.read_text().replace("/etc/TZ", f"{init.folder}/TZ"))
    init.add("it", "start() { echo $TZ; }")
    assert init.ask("start it") == ["ok"]
    assert init.status("it")["tail"] == ["CET-1"]


def test_without_linit_start(one):
    (one.folder / "linit-start").unlink()
    status, _, text = run(one, "--check")
    assert status == 1 and re.fullmatch("linitd: linit-start is at none of .*\n", text)


def test_a_second_one_on_the_same_socket_is_refused(one):
    one.start("--no-boot")
    status, _, text = run(one)
    assert status == 1 and "another linitd listens there" in text and text.count("\n") == 1
    assert one.ask("list") == ["ok"]


def test_a_stale_socket_is_replaced(one):
    one.start("--no-boot")
    one.process.kill()
    one.process.wait()
    one.process = None
    assert one.socket.exists()
    one.start("--no-boot")
    assert one.ask("list") == ["ok"]


def test_nohup_keeps_it_running(one):
    one.start("--no-boot", before=["nohup"])
    one.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert one.ask("list") == ["ok"]


def test_a_file_in_the_place_of_the_socket_stays(one):
    one.socket.write_text("mine")
    status, _, text = run(one, "--no-boot")
    assert status == 1 and "can't make a socket there" in text
    assert one.socket.read_text() == "mine"


@pytest.mark.parametrize("path", ["folder", "x" * 200, "file/socket"])
def test_a_socket_that_cannot_be_made_is_one_line(one, path):
    (one.folder / "folder").mkdir()
    (one.folder / "file").touch()
    one.socket = one.folder / path
    status, _, text = run(one, "--no-boot")
    assert status == 1 and text.startswith(f"linitd: {one.socket}: can't make a socket there: ")
    assert text.count("\n") == 1


def test_a_socket_that_somebody_removed_does_not_matter_at_the_end(one):
    one.start("--no-boot")
    one.socket.unlink()
    one.process.send_signal(signal.SIGTERM)
    assert one.wait() == 0 and "Traceback" not in one.console()


def test_disable_of_a_script_that_is_gone(up):
    (up.rcd / "gone").touch()
    assert up.ask("disable gone") == ["ok"] and not (up.rcd / "gone").exists()
    assert up.ask("enable gone")[0].startswith("error 5 ")


def test_the_entry_pre_is_a_folder(up):
    up.add("pre", (ROOT / "initd/pre").read_text().partition("\n")[2])
    assert up.ask("enable pre") == ["ok"] and (up.rcd / "pre").is_dir()
    (up.rcd / "pre/some").touch()
    assert up.ask("enable pre") == up.ask("disable pre") == ["ok"]
    assert not (up.rcd / "pre").exists()


def test_a_signal_that_comes_just_before_it_executes_another_is_heeded(one):
    """Nobody has read its number from the pipe, which ends then."""
    block = "        block_signals(_signal.SIG_BLOCK)\n"
    one.alter(block, f"        os.kill(os.getpid(), _signal.SIGTERM)\n{block}")
    one.start("--no-boot")
    one.connect().send("reexec")
    assert one.wait() == 0 and "exit: stopping all services" in one.console()


def test_what_was_removed_comes_back(up):
    """The socket by any signal, or by a start; folders by a start."""
    up.add("daemon", "run() { exec sh -c 'echo said; exec sleep 1000'; }",
           f"stop() {{ {up.does('stop')}; echo stopping; }}")
    assert up.ask("start daemon") == ["ok"]
    up.expect("daemon", b"said")
    old = up.connect()
    up.socket.unlink()
    up.process.send_signal(signal.SIGCHLD)
    wait_until(lambda: can_connect(up.socket))
    up.socket.unlink()
    shutil.rmtree(f"{up.socket}.d")
    shutil.rmtree(up.logs)
    assert old.ask("restart daemon") == ["ok"] and up.trace() == ["stop"]
    wait_until(lambda: up.status("daemon")["tail"][-2:] == ["stopping", "said"])
    wait_until(lambda: b"said" in read(up.logs / "daemon"))
    assert "should not happen" not in up.console()


def test_what_cannot_be_made_again_at_once_comes_back_later(one):
    """As a user's $XDG_RUNTIME_DIR, from a logout to the next login."""
    folder = one.folder / "run"
    folder.mkdir()
    one.socket = folder / "socket"
    one.add("daemon", "backoff=0.2", SLEEP)
    one.start("--no-boot")
    assert one.ask("start daemon") == ["ok"]
    pid = one.pid("daemon")
    shutil.rmtree(folder)
    folder.touch()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: one.console().count("can't make a directory there") > 1)
    assert one.console().count("can't make a socket there") == 1
    folder.unlink()
    folder.mkdir()
    wait_until(lambda: can_connect(one.socket))     # by the daemon's next start
    wait_until(lambda: one.state("daemon") == "running")


def test_beside_another_init_scripts_for_a_whole_system_are_warned_of(one):
    one.add_boot("network")
    one.add("network", "start() { :; }")
    one.start()
    text = "running as root beside another init: network will reconfigure this machine"
    assert text in one.console()


def test_paths(up):
    assert up.ok("paths") == [f" initd {up.initd}", f" rcd {up.rcd}", f" log {up.logs}"]


def test_enable_and_disable(up):
    up.add("it", "start() { :; }")
    assert up.ask("enable it") == ["ok"] and (up.rcd / "it").exists()
    assert up.ask("enable it") == ["ok"]
    assert up.ask("disable it") == ["ok"] and not (up.rcd / "it").exists()
    assert up.ask("disable it") == ["ok"]
    (up.rcd / "it").symlink_to(up.folder / "victim")
    assert up.ask("enable it") == ["ok"] and not (up.folder / "victim").exists()


def test_a_failed_dependency_that_a_script_does_without_is_not_its_own_failure(up):
    up.add("bad", "start() { return 3; }")
    up.add("it", "depends() { dep bad || true; }", "start() { :; }",
           f"stop() {{ {up.does('stop')}; }}")
    assert up.ask("start it") == up.ask("restart it") == up.ask("stop it") == ["ok"]
    assert up.status("it")["state"] == "stopped" and up.trace() == ["stop", "stop"]
    up.add("fails", "depends() { dep bad || true; }", "start() { echo of itself; return 4; }")
    assert up.ask("start fails") == ["error 1 fails: start ended with status 4: of itself"]


def test_enable_and_disable_are_functions_of_the_script(up):
    """What linitctl asks for and what a script does by hand are one."""
    up.add("own", f"enable() {{ {up.does('enable')}; }}", f"disable() {{ {up.does('disable')}; }}")
    up.add("broken", "enable() { echo no room >&2; return 3; }")
    assert up.ask("enable own") == up.ask("disable own") == ["ok"]
    assert up.trace() == ["enable", "disable"] and not list(up.rcd.iterdir())
    assert up.ask("enable broken own") == [
        "error 1 broken: enable ended with status 3: no room"]
    assert up.trace()[2:] == ["enable"]
    up.rcd.rmdir()
    assert up.ask("enable getty@tty1")[0].startswith("error 5 ")
    up.add("getty", "run() { exec sleep 1000; }")
    assert up.ask("enable getty@tty1") == ["ok"] and (up.rcd / "getty@tty1").exists()
    (up.initd / "own").chmod(0o777)
    assert "others can write it" in up.ask("enable own")[0]
    assert up.trace()[3:] == []


@pytest.mark.parametrize("is_by_hand", [False, True], ids=["asked", "by hand"])
def test_enable_has_one_result(up, is_by_hand):
    up.add("it", "run() { exec sleep 1000; }")
    up.add("pre", (ROOT / "initd/pre").read_text().partition("\n")[2])
    up.add("own", 'enable() { : >"$rcd/pre/own"; }', 'disable() { rm "$rcd/pre/own"; }')

    def do(verb, name):
        if is_by_hand:
            words = [up.folder / "rc.common", up.initd / name, verb]
            environment = {**os.environ, "LINIT_RCD": str(up.rcd)}
            subprocess.run(words, env=environment, check=True, timeout=20)
        else:
            assert up.ask(f"{verb} {name}") == ["ok"]
        return sorted(str(path.relative_to(up.rcd)) for path in up.rcd.rglob("*"))

    assert do("enable", "it") == do("enable", "it") == ["it"]
    assert do("enable", "pre") == do("enable", "pre") == ["it", "pre"]
    assert do("enable", "own") == ["it", "pre", "pre/own"]
    assert do("disable", "own") == ["it", "pre"]
    (up.initd / "it").unlink()
    assert do("disable", "it") == do("disable", "it") == ["pre"]
    assert do("disable", "pre") == []


def test_what_a_service_starts_with(one):
    """Every service the same, whatever linitd was started with and from."""
    show = f"start() {{ {{ pwd; umask; env | sort; }} >{one.folder}/$name; }}"
    one.add("boot", show)
    one.add("it", show)
    one.start(cwd=one.folder)
    assert one.ask("start boot it") == ["ok"]
    shown = {name: read(one.folder / name).decode() for name in ("boot", "it")}
    assert shown["boot"].replace("this=boot", "this=it") == shown["it"]
    where, mask, *variables = read(one.folder / "it").decode().splitlines()
    assert (where, mask) == ("/", "0022")
    names = {line.partition("=")[0] for line in variables}
    assert names - {"_", "PWD", "OLDPWD", "SHLVL", "this"} == {
        "PATH", "LINITSOCK", "LINIT_INITD", "LINIT_RCD"}


# ---- PID 1 ---------------------------------------------------------------------------------------

class First(Linitd):
    """A linitd that is PID 1 of its own namespaces; what it calls at the end only leaves a word."""
    scripts = (*Linitd.scripts, "linit-rescue")

    def __init__(self, folder, shell="dash"):
        super().__init__(folder, shell)
        for name in ("umount", "poweroff", "reboot", "halt"):
            self.add_program(name, f'echo "{name} $*" >>{folder}/calls')
        self.rescue = folder / "linit-rescue"
        self.alter_rescue("PATH=/usr/sbin:", f"PATH={self.bin}:/usr/sbin:")
        self.alter_rescue('offer_shell "${2:-}" ;;', ";;")      # it would be this machine's
        (folder / "screen").touch()

    def start(self, *options, prepare=":", **keywords):
        mount = f"{prepare} && mount --bind '{self.folder}/screen' /dev/console && exec \"$@\""
        if (self.folder / "cmdline").exists():      # what the kernel was booted with
            mount = f"mount --bind '{self.folder}/cmdline' /proc/cmdline && {mount}"
        before = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child",
                  "sh", "-c", mount, "sh"]
        super().start(*options, before=before, **keywords)
        [child] = read(f"/proc/{self.process.pid}/task/{self.process.pid}/children").split()
        self.first = int(child)
        return self

    def be_a_machine_s(self):
        """Let it take its namespace for that of no container."""
        self.alter_rescue('"pid:[4026531836]"', "pid:*")

    def alter_rescue(self, old, new):
        text = self.rescue.read_text()
        assert text.count(old) == 1, old
        self.rescue.write_text(text.replace(old, new))

    def calls(self):
        return read(self.folder / "calls").decode().splitlines()

    def screen(self):
        return read(self.folder / "screen").decode()

    def zombies(self):
        children = read(f"/proc/{self.first}/task/{self.first}/children").split()
        return [pid for pid in map(int, children) if not is_alive(pid)]


@pytest.fixture
def first(tmp_path):
    first = First(tmp_path)
    yield first
    assert not first.end()


@pytest.mark.parametrize("number, program", [
    (signal.SIGUSR2, "poweroff"), (signal.SIGUSR1, "halt"), (signal.SIGTERM, "reboot"),
    (signal.SIGINT, "reboot")])
def test_pid_1_goes_by_signals(first, number, program):
    first.be_a_machine_s()
    first.add("it", "start() { :; }", f"stop() {{ {first.does('stopped')}; }}")
    first.add_boot("it")
    first.start()
    assert first.ask("start boot") == ["ok"]
    os.kill(first.first, number)
    assert first.wait() == 0
    assert first.trace() == ["stopped"]
    assert first.calls() == ["umount -a -r", f"{program} -f -n"]
    assert f"linitd: {program}: stopping all services\n" in first.screen()


def test_what_starts_together_needs_no_proc(first):
    for name in "abc":
        first.add(name, f"start() {{ {first.does(name)}; }}")
    first.add_boot("a", "b", "c")
    first.start(prepare="mount -t tmpfs none /proc")
    assert first.ask("start boot") == ["ok"]
    assert sorted(first.trace()) == ["a", "b", "c"]


def test_no_two_scripts_that_start_together_have_the_same_number(first):
    for name in "abc":
        first.add(name, "start() { echo $$ >>" f"{first.folder}/trace; }}")
    first.start("--no-boot")
    assert first.ask("start a b c") == ["ok"]
    assert len(set(first.trace())) == 3


def test_the_numbers_of_scripts_are_known_to_the_linitd_that_comes_meanwhile(first):
    """Here the shell that forks them says them after a reexec."""
    path = first.folder / "linit-start"
    text = path.read_text()
    assert text.count('\techo "pids') == 1
    path.write_text(text.replace('\techo "pids', '\tsleep 1; echo "pids'))
    for name in "ab":
        first.add(name, "start() { sleep 1000; }")
    first.start("--no-boot")
    first.connect().send("start a b")
    wait_until(lambda: first.states() == {"a": "starting", "b": "starting"})
    assert first.ask("reexec") == ["ok"] and first.status("a")["pid"] == "-"
    wait_until(lambda: first.status("a")["pid"] != "-" != first.status("b")["pid"])
    assert first.ask("stop a b") == ["ok"]
    children = f"/proc/{first.first}/task/{first.first}/children"
    wait_until(lambda: len(read(children).split()) == 1)        # linit-log


@pytest.mark.parametrize("verb", ["poweroff", "reboot", "halt"])
def test_pid_1_goes_by_requests(first, verb):
    """In a container, whose file systems are another's, it unmounts none."""
    first.start("--no-boot")
    client = first.connect()
    first.socket.unlink()               # an exception would be the kernel's panic
    os.kill(first.first, signal.SIGHUP)
    assert client.ask(verb) == ["ok"]
    assert first.wait() == 0 and first.calls() == [f"{verb} -f -n"]


@pytest.mark.parametrize("word, running", [
    ("linit.boot=rescue", {"boot": "stopped", "it": "stopped", "rescue": "running"}),
    ("linit.boot=absent", {"boot": "running", "it": "running", "rescue": "stopped"}),
    ("linit.boot=", {"boot": "running", "it": "running", "rescue": "stopped"}),
    ("linit.boot=../init.d/rescue", {"boot": "running", "it": "running", "rescue": "stopped"}),
    ("linit.skip=it", {"boot": "running", "it": "stopped", "rescue": "stopped"})])
def test_words_of_the_kernel_s_command_line(first, word, running):
    (first.folder / "cmdline").write_text(f"quiet {word} panic=10\n")
    first.add("it", "start() { :; }")
    first.add("rescue", "start() { :; }")
    first.add_boot("it")
    first.start()
    wait_until(lambda: first.states() == running)
    assert (f"{word}: there is no such service" in first.screen()) == (running["it"] == "running")


@pytest.mark.parametrize("verb", ["want", "after"])
def test_at_the_end_who_came_after_another_stops_before_it(init, verb):
    for name in ("first", "second", "third"):
        init.add(name, {"first": "", "second": f"depends() {{ {verb} first; }}",
                        "third": f"depends() {{ {verb} second; }}"}[name],
                 "start() { :; }", f"stop() {{ sleep 0.2; {init.does(name)}; }}")
    for name in ("first", "second", "third"):
        assert init.ask(f"start {name}") == ["ok"]
    assert init.ask("poweroff") == ["ok"] and init.wait() == 0
    assert init.trace() == ["third", "second", "first"]


def test_a_circle_of_want_and_after_does_not_hold_up_the_end(init):
    init.add("other", "depends() { after it; }", "start() { :; }")
    init.add("it", "depends() { want other; }", "start() { :; }", "stop() { sleep 0.1; }")
    assert init.ask("start it") == ["ok"]
    assert init.ask("restart other") == ["ok"]       # now it comes after what wants it
    began = time.monotonic()
    assert init.ask("poweroff") == ["ok"] and init.wait() == 0
    assert time.monotonic() - began < 10


def test_a_console_with_a_login_hears_of_what_needs_a_person_alone(first):
    """Of the boot and of the end it hears all."""
    first.add_boot("daemon")
    first.add("daemon", "backoff=0.1", SLEEP)
    first.add("broken", "start() { return 3; }")
    first.start()
    wait_until(lambda: "boot is running" in first.screen())
    assert "daemon is running" in first.screen()
    booted = first.screen()
    assert first.ask("signal daemon KILL") == ["ok"]
    wait_until(lambda: first.status("daemon")["restarts"] == "1")
    wait_until(lambda: first.state("daemon") == "running")
    assert first.ask("restart daemon") == ["ok"] and first.screen() == booted
    text = "daemon: killed by signal 9; restarting in 0.1 s"
    wait_until(lambda: text in read(first.logs / "linitd").decode())
    wait_until(lambda: read(first.logs / "linitd").decode().count("daemon is running") == 3)
    first.ask("start broken")
    assert first.screen() == booted + "linitd: broken failed: start ended with status 3\n"
    assert first.ask("poweroff") == ["ok"] and first.wait() == 0
    assert "linitd: daemon is stopped" in first.screen()


def test_a_daemon_s_script_is_read_once_for_a_start(first):
    """Unless its `run` can be seen only by reading it in a shell."""
    first.add("seen", first.does("seen"), SLEEP)
    first.add("hidden", first.does("hidden"), ': && run() { "exec" sleep 1000; }')
    first.add("other", "start() { :; }")
    first.start()
    assert first.ask("start seen hidden other") == ["ok"]
    assert sorted(first.trace()) == ["hidden", "hidden", "seen"]


def test_pid_1_reaps_orphans(first):
    first.add("forks", "start() { for i in 1 2 3; do (setsid sh -c 'sleep 0.2' &); done; }")
    first.start("--no-boot")
    assert first.ask("start forks") == ["ok"]
    time.sleep(0.5)
    wait_until(lambda: not first.zombies())
    assert children(first.first) == []


def test_pid_1_ends_what_is_left(first):
    """TERM first, for who can take leave; KILL for who doesn't."""
    first.add("forks", f"cd {first.folder}", "start() {",
              "setsid sh -c 'trap \"\" TERM; echo >deaf; exec sleep 98' &",
              "setsid sh -c 'trap \"echo left >>trace; exit\" TERM; echo >polite; "
              "while :; do sleep 0.05; done' &",
              "while ! [ -e deaf ] || ! [ -e polite ]; do sleep 0.05; done", "}")
    first.start("--no-boot")
    assert first.ask("start forks") == ["ok"]
    assert first.ask("poweroff") == ["ok"]
    assert first.wait() == 0
    assert first.trace() == ["left"] and first.calls() == ["poweroff -f -n"]
    assert "sleep 98" not in first.left_behind().values()


def test_pid_1_refuses_scripts_that_a_group_can_write(first):
    first.add("it", "start() { :; }")
    (first.initd / "it").chmod(0o775)
    first.start("--no-boot")
    assert "others can write it" in first.ask("start it")[0]


def test_the_libraries_of_its_python_are_among_what_it_was_loaded_from():
    """A Python that isn't static runs by files that no module names."""
    mapped = {line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "/" in line}
    libc, = {path for path in mapped if re.search(r"/libc[.-]", path)}
    linitd = load_tool("linitd")
    loaded = linitd.loaded_files()
    assert loaded[libc] == linitd.file_numbers(libc)
    assert os.path.dirname(libc) in loaded
