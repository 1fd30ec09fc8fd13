"""The sleeper, compiled as its own first lines say and executed as an ordinary process.

Its table is made here as linitd makes it; its three commands are a script that records what it
finds: its words, descriptors and signals."""
import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from conftest import (
    ROOT, compile_line, compile_program, compiled, load_tool, wait_until)

SOURCE = ROOT / "initd/linit-idle.c"
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD]
ENDING = SIGNALS[:4]
SENT_AT_A_TIME = 1024
HEAD, TAIL = 104, 2048              # bytes of an output in the table

# RECORD STATUS WORD...: writes a line of JSON to RECORD, and ends with STATUS, or not at all.
RECORDER = """
import json, os, signal, sys, time
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
def numbers(mask):
    return [n for n in range(1, 65) if int(status[mask], 16) >> (n - 1) & 1]
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
try:
    zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
except ChildProcessError:
    zombie = None
record = {
    "words": sys.argv[3:], "pid": os.getpid(), "session": os.getsid(0),
    "open": [fd for fd in range(512) if is_open(fd)], "pending": numbers("ShdPnd"),
    "blocked": numbers("SigBlk"), "ignored": numbers("SigIgn"), "zombie": bool(zombie),
    "alarm": signal.getitimer(signal.ITIMER_REAL)[0], "word": os.environ.get("WORD"),
}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(record) + "\\n")
if sys.argv[2] == "hang":
    time.sleep(1000)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_program("linit-idle", tmp_path_factory.mktemp("linit-idle"))


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def stamp(path):
    found = os.stat(path)
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    return (str(path), found.st_ino, seconds, nanoseconds)


class Sleeper:
    """What linitd leaves behind, and the process that sleeps on it."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, [str(program)]
        self.recorder = folder / "recorder.py"
        self.recorder.write_text(RECORDER)
        self.epoll = select.epoll()
        self.entries, self.stamps, self.closing, self.heads = [], [], [], []
        self.logger, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.writer = subprocess.Popen([compiled("linit-log"), folder / "logs"], stdin=theirs,
                                       env={})    # linitd's way
        theirs.close()
        self.commands = {"wake": self.command("wake", 0), "check": self.command("check", 0),
                         "rescue": self.command("rescue", 0)}
        self.process = None

    # what it is to know

    def command(self, name, status, *words):
        return [sys.executable, "-I", "-S", str(self.recorder), str(self.folder / name),
                str(status), *words]

    def add(self, fd, head=b"", close=True):
        """Let FD wake it, or become messages for the logger that begin with HEAD."""
        os.set_blocking(fd, False)
        self.entries.append(fd)
        self.heads.append(head)
        self.epoll.register(fd, select.EPOLLIN)
        self.closing += [fd] if close else []

    def add_log(self):
        """The write end of a service's pipe, and its log."""
        reader, writer = os.pipe()
        path = self.folder / "logs" / f"log{len(self.entries)}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        self.add(reader, f" {path.name}\n".encode())
        return os.fdopen(writer, "wb", buffering=0), path

    def let_the_logger_hang(self):
        """One that takes little, and whose other end is the test's."""
        self.logger.close()
        self.logger, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.logger.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
        theirs.setblocking(False)
        return theirs

    def add_socket(self):
        ours, theirs = socket.socketpair()
        self.add(theirs.detach())
        return ours

    def add_changed_file(self):
        path = self.folder / "changed"
        path.touch()
        self.stamps.append((str(path), 1, 2, 3))

    def table(self, deadline=-1, signals=SIGNALS, retry=60_000, version=2):
        """A table; `outputs` is where its outputs begin."""
        mask = sum(1 << (number - 1) for number in signals)
        counts = [len(words) for words in self.commands.values()]
        header = struct.pack("=9q", version, len(self.entries), deadline, mask, len(self.stamps),
                             *counts, retry)
        words = [each[0] for each in self.stamps] + sum(self.commands.values(), [])
        strings = b"".join(os.fsencode(each) + b"\0" for each in words)
        strings += bytes(-len(strings) % 8)     # ARM has its numbers at multiples of 8
        self.outputs = 72 + 24 * len(self.entries) + 24 * len(self.stamps) + len(strings)
        numbers = [struct.pack("=3q", fd, self.offset(fd), self.logger.fileno())
                   for fd in self.entries]
        numbers += [struct.pack("=3q", *each[1:]) for each in self.stamps]
        outputs = [struct.pack(f"=2q{HEAD}s{TAIL}x", 0, len(head), head) for head in self.heads]
        return b"".join([header, *numbers, strings, *outputs])

    def offset(self, fd):
        number = self.entries.index(fd)
        return self.outputs + number * (16 + HEAD + TAIL) if self.heads[number] else -1

    # its life

    def start(self, table=None, epoll=None, prepare=lambda: None, **options):
        """Execute it as linitd would: signals blocked, SIGPIPE and SIGXFSZ ignored."""
        memfd = self.memfd = os.memfd_create("table", 0)
        os.write(memfd, self.table(**options) if table is None else table)
        epoll = self.epoll.fileno() if epoll is None else epoll
        passed = {memfd, epoll, self.logger.fileno(), *self.entries}

        def before_exec():
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            prepare()

        with open(self.folder / "console", "ab") as console:
            self.process = subprocess.Popen(
                [*self.program, str(memfd), str(epoll)], pass_fds=passed, stderr=console,
                stdin=subprocess.DEVNULL, preexec_fn=before_exec, restore_signals=False,
                env={"PATH": os.environ["PATH"], "WORD": "passed on"})
        self.closing.append(memfd)
        return self

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for each in self.records("check") + self.records("rescue"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each["pid"], signal.SIGKILL)
        self.epoll.close()
        self.logger.close()
        self.writer.wait(timeout=10)
        for fd in self.closing:
            os.close(fd)

    # what can be seen of it

    def records(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.open()] if path.exists() else []

    def woken(self):
        """What linitd found when it was executed again, by the same process."""
        wait_until(lambda: self.records("wake"))
        assert self.process.wait(timeout=10) == 0
        record, = self.records("wake")
        assert record["pid"] == self.process.pid
        return record

    def stays(self, count=1):
        """Wait until it has found COUNT times that linitd doesn't run."""
        wait_until(lambda: len(self.records("check")) >= count and self.records("rescue"))
        return self

    def console(self):
        return (self.folder / "console").read_text().splitlines()

    def effort(self):
        """How often it has been awake, and for how many ticks of the clock."""
        stat = self.proc("stat").rpartition(")")[2].split()
        switches = re.findall(r"_ctxt_switches:\s+(\d+)", self.proc("status"))
        return sum(map(int, switches)), int(stat[11]) + int(stat[12])

    def proc(self, name):
        with open(f"/proc/{self.process.pid}/{name}", encoding="ascii") as file:
            return file.read()

    def state(self):
        return self.proc("stat").rpartition(")")[2].split()[0]

    def asleep(self, seconds=0.3):
        """See that it sleeps for SECONDS without a moment's work, once what is there is done."""
        end = time.monotonic() + 10
        while True:
            wait_until(lambda: self.state() == "S")
            before = self.effort()
            time.sleep(seconds)
            assert self.process.poll() is None and not self.records("wake")
            if self.effort() == before and self.state() == "S":
                return self
            assert time.monotonic() < end


@pytest.fixture
def sleeper(tmp_path, program):
    sleeper = Sleeper(tmp_path, program)
    yield sleeper
    sleeper.end()


# ---- what it is ---------------------------------------------------------------------------------

def test_it_is_short():
    lines = SOURCE.read_text().splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["linit-idle", "linit-log"])
def test_the_recipe_compiles_it_as_it_says_itself(name):
    recipe = (ROOT / "recipes/core/linit/pkgen.yaml").read_text().replace("\\\n", "").split()
    flags = [word for word in compile_line(name)[1:] if word.startswith("-") and word != "-o"]
    first = recipe.index(flags[0])
    assert recipe[first:first + len(flags)] == flags


def test_asleep_it_takes_four_pages_of_which_three_are_its_own(sleeper):
    writers = [sleeper.add_log()[0] for _ in range(20)]
    sleeper.start()
    for writer in writers:
        writer.write(b"x" * 500)
    sleeper.asleep(1)
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", sleeper.proc("smaps_rollup"), re.MULTILINE))
    # A page of the program counts as dirty as long as its file is not on the disk.
    code = sleeper.proc("smaps").partition("Private_Dirty:")[2].split()[0]
    assert int(sizes["Rss"]) <= 16 and int(sizes["Private_Dirty"]) - int(code) <= 12


def test_it_has_a_page_of_code_and_writes_to_nothing_but_its_stack(sleeper):
    sleeper.start().asleep()
    maps = [line.split() for line in sleeper.proc("maps").splitlines()]
    writable = {words[5] for words in maps if "w" in words[1]}
    assert writable == {"/memfd:table", "[stack]"}
    code, = [words[0] for words in maps if words[-1].endswith("/linit-idle")]
    first, last = (int(each, 16) for each in code.split("-"))
    assert last - first == resource.getpagesize()
    table = sleeper.proc("smaps").partition("memfd:table")[2]
    assert int(re.search(r"Rss: +(\d+)", table)[1]) == 0


# ---- what wakes it ------------------------------------------------------------------------------

def test_a_connection_wakes_it(sleeper, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    sleeper.add(listener.fileno(), close=False)
    sleeper.start().asleep()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
        assert listener.fileno() in sleeper.woken()["open"]
    listener.close()


@pytest.mark.parametrize("what", ["a byte", "an end", "half an end"])
def test_a_client_wakes_it_and_its_byte_is_still_there(sleeper, what):
    client = sleeper.add_socket()
    sleeper.start().asleep()
    if what == "a byte":
        client.send(b"x")
    elif what == "an end":
        client.close()
    else:
        client.shutdown(socket.SHUT_WR)
    sleeper.woken()
    assert os.read(sleeper.entries[0], 10) == (b"x" if what == "a byte" else b"")
    client.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_wakes_it_and_is_pending_still(sleeper, number):
    sleeper.start().asleep()
    sleeper.process.send_signal(number)
    record = sleeper.woken()
    assert record["pending"] == [number]
    assert set(record["blocked"]) >= set(SIGNALS)


def test_a_signal_that_is_not_in_the_mask_does_not(sleeper):
    sleeper.start(signals=[signal.SIGTERM])
    sleeper.process.send_signal(signal.SIGUSR1)
    sleeper.asleep()


def test_what_happened_before_it_slept_wakes_it(sleeper):
    sleeper.start(prepare=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert sleeper.woken()["pending"] == [signal.SIGTERM]


def test_linitd_gets_its_descriptors_its_environment_and_its_words(sleeper):
    client = sleeper.add_socket()
    _, path = sleeper.add_log()
    sleeper.commands["wake"] += ["two words", ""]
    sleeper.start()
    client.send(b"x")
    record = sleeper.woken()
    given = {*sleeper.entries, sleeper.logger.fileno(), sleeper.memfd, sleeper.epoll.fileno()}
    assert set(record["open"]) == {0, 1, 2, *given}
    assert record["word"] == "passed on" and record["words"] == ["two words", ""]
    assert path.stat().st_size == 0 and not record["zombie"] and not sleeper.console()
    client.close()


@pytest.mark.parametrize("milliseconds", [1, 300, 1000])
def test_it_wakes_at_the_deadline(sleeper, milliseconds):
    deadline = now() + milliseconds * 10**6
    sleeper.start(deadline=deadline)
    sleeper.woken()
    assert 0 <= now() - deadline < 2 * 10**9


@pytest.mark.parametrize("deadline", [0, 1, 10**9])
def test_a_deadline_that_has_passed_wakes_it_at_once(sleeper, deadline):
    sleeper.start(deadline=deadline)
    sleeper.woken()


def test_until_the_deadline_it_sleeps_once(sleeper):
    sleeper.start(deadline=now() + 25 * 10**8)
    sleeper.asleep()
    before = sleeper.effort()
    time.sleep(1.5)
    assert sleeper.effort() == before
    sleeper.woken()


# The second would be 0.9 seconds if its milliseconds were cut to 32 bits.
@pytest.mark.parametrize("milliseconds", [86400_000, 2**32 - 555, 10000 * 86400_000])
def test_a_deadline_far_away_is_one_sleep(sleeper, milliseconds):
    sleeper.start(deadline=now() + milliseconds * 10**6)
    sleeper.asleep()
    before = sleeper.effort()
    time.sleep(1.2)
    assert sleeper.effort() == before


# ---- logs ---------------------------------------------------------------------------------------

def noise(length):
    """Bytes in which the logger changes nothing."""
    return os.urandom(length).replace(b"-", b"_")


def test_what_services_print_is_sent_and_wakes_nothing(sleeper):
    logs = [sleeper.add_log() for _ in range(3)]
    sleeper.start()
    said = b""
    for length in (1, SENT_AT_A_TIME, SENT_AT_A_TIME + 1, 5000):
        text = noise(length)
        said += text
        for writer, _ in logs:
            writer.write(text)
        for _, path in logs:
            wait_until(lambda path=path: path.stat().st_size == len(said))
            assert path.read_bytes() == said
    sleeper.asleep()


def test_many_logs_and_clients_are_told_apart(sleeper):
    clients, logs = [], []
    for _ in range(150):
        clients.append(sleeper.add_socket())
        logs.append(sleeper.add_log())
    sleeper.start()
    for number in 0, 77, 149:
        logs[number][0].write(b"%d" % number)
        wait_until(logs[number][1].read_bytes)
    sleeper.asleep()
    clients[77].send(b"x")
    sleeper.woken()
    said = {number: path.read_text() for number, (_, path) in enumerate(logs)}
    assert {key: text for key, text in said.items() if text} == {0: "0", 77: "77", 149: "149"}
    for client in clients:
        client.close()


def test_a_logger_that_takes_no_more_wakes_it_and_nothing_is_lost(sleeper):
    theirs = sleeper.let_the_logger_hang()
    writer, _ = sleeper.add_log()
    text = noise(20_000)
    sleeper.start()
    writer.write(text)
    sleeper.woken()
    sent = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            head, _, data = theirs.recv(2000).partition(b"\n")
            assert head == b" log0"
            sent += data
    assert 0 < len(sent) < len(text)
    assert sent + os.read(sleeper.entries[0], 100_000) == text


def test_a_logger_that_has_ended_wakes_it(sleeper):
    sleeper.add(sleeper.logger.fileno(), close=False)
    writer, _ = sleeper.add_log()
    sleeper.start().asleep()
    sleeper.writer.kill()
    sleeper.woken()
    writer.close()


@pytest.mark.parametrize("length", [1, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL + 7])
def test_the_end_of_what_it_sent_is_kept_for_linitd(sleeper, length):
    texts = [noise(length), noise(10)]
    outputs = [sleeper.add_log() for _ in texts]
    sleeper.start()
    for text, (writer, _) in zip(texts, outputs):
        writer.write(text)
    sleeper.asleep()
    for text, fd in zip(texts, sleeper.entries):
        kept = load_tool("linitd").copied_output(sleeper.memfd, sleeper.offset(fd))
        assert kept == text[-TAIL:]


def test_the_end_of_a_service_wakes_it_after_its_last_words(sleeper):
    writer, path = sleeper.add_log()
    text = noise(5000)
    writer.write(text)
    writer.close()
    sleeper.start().woken()
    wait_until(lambda: path.read_bytes() == text)


# ---- a linitd that has changed ------------------------------------------------------------------

@pytest.fixture
def client(sleeper):
    """What wakes the sleeper as soon as the test has sent a byte."""
    with contextlib.closing(sleeper.add_socket()) as client:
        yield client


def test_what_has_not_changed_is_not_checked(sleeper, client, tmp_path):
    for name in "first", "second":
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("second")
    os.utime(tmp_path / "link", ns=(0, 10**18 + 1), follow_symlinks=False)
    sleeper.stamps = [stamp(tmp_path / "first"), stamp(tmp_path / "link")]
    sleeper.start()
    client.send(b"x")
    sleeper.woken()
    assert not sleeper.records("check")


@pytest.mark.parametrize("change", ["inode", "second", "nanosecond", "missing", "link"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_has_changed_is_checked(sleeper, client, tmp_path, change, which):
    paths = [tmp_path / name for name in ("first", "second", "third")]
    for path in paths:
        path.write_text("")
        os.utime(path, ns=(0, 10**18))
    sleeper.stamps = [stamp(path) for path in paths]
    path = paths[which]
    sleeper.start()
    if change == "inode":
        os.link(path, tmp_path / "kept")
    if change in ("inode", "missing", "link"):
        path.unlink()
    if change == "inode":
        path.write_text("")
        os.utime(path, ns=(0, 10**18))
    elif change == "link":
        path.symlink_to("nowhere")
    elif change != "missing":
        os.utime(path, ns=(0, 10**18 + (1 if change == "nanosecond" else 10**9)))
    client.send(b"x")
    sleeper.woken()
    assert len(sleeper.records("check")) == 1 and not sleeper.records("rescue")
    assert not sleeper.console()


def test_what_is_missing_is_not_taken_for_the_one_before(sleeper, client, tmp_path):
    (tmp_path / "first").touch()
    os.link(tmp_path / "first", tmp_path / "second")
    sleeper.stamps = [stamp(tmp_path / "first"), stamp(tmp_path / "second")]
    (tmp_path / "second").unlink()
    sleeper.start()
    client.send(b"x")
    sleeper.woken()
    assert sleeper.records("check")


def test_the_check_finds_nothing_of_linitd_s(sleeper, client):
    """No descriptor, no blocked or ignored signal, a session of its own, ten seconds of time."""
    sleeper.add_log()
    sleeper.add_changed_file()
    sleeper.add_changed_file()
    sleeper.start(prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    client.send(b"x")
    sleeper.woken()
    check, = sleeper.records("check")
    assert check["open"] == [0, 1, 2] and check["blocked"] == check["pending"] == []
    # What Python itself ignores is no sign of anything.
    assert signal.SIGHUP not in check["ignored"]
    assert check["session"] == check["pid"] != sleeper.process.pid
    assert 0 < check["alarm"] <= 10 and check["word"] == "passed on"
    assert sleeper.records("wake")[0]["alarm"] == 0


def test_a_child_that_ended_is_left_to_linitd(sleeper, client):
    def leave_a_child():
        if os.fork() == 0:
            os._exit(0)
    sleeper.add_changed_file()
    sleeper.start(prepare=leave_a_child)
    client.send(b"x")
    assert sleeper.woken()["zombie"] and len(sleeper.records("check")) == 1


@pytest.fixture
def broken(sleeper, client):
    """A sleeper whose linitd has changed and doesn't run."""
    sleeper.add_changed_file()
    sleeper.commands["check"] = sleeper.command("check", 3)
    sleeper.commands["rescue"] = sleeper.command("rescue", "hang")
    client.send(b"x")
    return sleeper


def test_s36_it_stays_says_so_once_and_offers_one_shell(broken):
    broken.start(retry=50).stays(6)
    rescue, = broken.records("rescue")
    assert rescue["words"] == ["shell"] and rescue["open"] == [0, 1, 2]
    assert rescue["session"] == rescue["pid"] != broken.process.pid
    assert rescue["blocked"] == [] and rescue["alarm"] == 0
    line, = broken.console()
    assert line.startswith("linit-idle: linitd or its Python has changed and doesn't run")
    assert not broken.records("wake")


def test_s36_a_python_that_is_not_there_is_the_same(sleeper, client):
    sleeper.commands["wake"] = ["/nowhere/python3"]
    sleeper.commands["check"] = ["/nowhere/python3", "--check"]
    sleeper.commands["rescue"] = sleeper.command("rescue", "hang")
    sleeper.start(retry=50)
    client.send(b"x")
    wait_until(lambda: sleeper.records("rescue"))
    time.sleep(0.5)
    assert sleeper.process.poll() is None
    assert len(sleeper.records("rescue")) == len(sleeper.console()) == 1


def test_s36_without_a_shell_either_it_stays(broken):
    broken.commands["rescue"] = ["/nowhere/init"]
    broken.start(retry=50)
    wait_until(lambda: len(broken.records("check")) > 2)
    broken.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert broken.process.poll() is None
    blocked = int(re.search(r"SigBlk:\s+(\w+)", broken.proc("status"))[1], 16)
    assert all(blocked >> (number - 1) & 1 for number in ENDING)


def test_it_tries_again_no_sooner_than_it_should(broken):
    broken.start(retry=2000).stays()
    time.sleep(1)
    assert len(broken.records("check")) == 1
    wait_until(lambda: len(broken.records("check")) == 2)


def test_a_linitd_that_was_mended_is_woken(broken):
    broken.start(retry=50).stays(2)
    broken.recorder.write_text(RECORDER.replace('int(sys.argv[2])', "0"))
    broken.woken()
    assert len(broken.console()) == 1


def test_a_shell_that_ended_is_offered_again_without_a_word(broken):
    broken.commands["rescue"] = broken.command("rescue", 0)
    broken.start(retry=50)
    wait_until(lambda: len(broken.records("rescue")) > 2)
    assert {tuple(each["words"]) for each in broken.records("rescue")} == {("shell",)}
    assert len(broken.console()) == 1


def test_logs_go_on_meanwhile_and_nothing_spins(broken):
    """Not the client that woke it, nor an end, nor a child's."""
    (writer, path), (ended, _) = broken.add_log(), broken.add_log()
    broken.start().stays()
    writer.write(b"first")
    ended.close()
    broken.process.send_signal(signal.SIGCHLD)
    wait_until(lambda: path.read_bytes() == b"first")
    broken.asleep()
    writer.write(b"second")
    wait_until(lambda: path.read_bytes() == b"firstsecond")
    broken.process.send_signal(signal.SIGCHLD)
    broken.asleep()


def test_logs_that_never_rest_don_t_put_off_the_retry(broken):
    writer, _ = broken.add_log()
    subprocess.Popen(["sh", "-c", "while echo said; do :; done"], stdout=writer,
                     stderr=subprocess.DEVNULL)
    broken.start(retry=100).stays(3)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_system_by_the_shell(broken, number):
    broken.add_log()
    broken.start().stays().asleep()
    broken.process.send_signal(number)
    wait_until(lambda: len(broken.records("rescue")) == 2)
    record = broken.records("rescue")[-1]
    assert record["words"] == [str(int(number))] and record["pid"] == broken.process.pid
    assert record["open"] == [0, 1, 2] and record["blocked"] == []


def test_a_signal_that_came_before_ends_it_too(broken):
    broken.start(prepare=lambda: os.kill(os.getpid(), signal.SIGUSR2))
    wait_until(lambda: len(broken.records("rescue")) == 2)
    assert sorted(each["words"] for each in broken.records("rescue")) == [["12"], ["shell"]]


@pytest.mark.long
def test_a_check_that_hangs_is_killed(broken):
    broken.commands["check"] = broken.command("check", "hang")
    broken.start()
    began = time.monotonic()
    wait_until(lambda: broken.records("rescue"), 20)
    assert 9 < time.monotonic() - began < 14


# ---- what can't be ------------------------------------------------------------------------------

def bad_tables(sleeper):
    good = sleeper.table()
    words = list(struct.unpack("=9q", good[:72]))

    def with_word(index, value):
        return struct.pack("=9q", *words[:index], value, *words[index + 1:]) + good[72:]

    return [b"", good[:20], good[:72], good.rstrip(b"\0"), with_word(0, 3), with_word(0, 0),
            with_word(1, -1), with_word(1, 1 << 40), with_word(4, -1), with_word(4, 1 << 62),
            with_word(4, 1000), with_word(7, 1000)]


@pytest.mark.parametrize("number", range(12))
def test_a_broken_table_is_said_and_it_stays(sleeper, number):
    table = bad_tables(sleeper)[number]
    sleeper.start(table=table)
    wait_until(sleeper.console)
    sleeper.asleep()
    line, = sleeper.console()
    assert "its table or epoll is broken" in line


def test_without_an_epoll_it_is_linitd_s_again(sleeper):
    with open(os.devnull, "rb") as null:
        sleeper.start(epoll=null.fileno())
        sleeper.woken()


@pytest.mark.parametrize("words", [[], ["3"], ["3", "4", "5"], ["x", "y"], ["99", "98"]])
def test_without_a_table_it_stays(program, words):
    with subprocess.Popen([program, *words], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        assert b"its table or epoll is broken" in process.stderr.readline()
        time.sleep(0.1)
        assert process.poll() is None
        process.kill()


# ---- linit-log ---------------------------------------------------------------------------------

def test_the_logger_takes_four_pages_and_nothing_while_all_is_quiet(sleeper, tmp_path):
    sleeper.start()
    for number in range(3000):
        name = f"it{number % 7}"
        sleeper.logger.send(f"{' +-'[number % 3]}{name}\n{'x' * (number % 999)}\n".encode())
    pid = sleeper.writer.pid
    wait_until(lambda: (tmp_path / "logs/it3").exists())
    time.sleep(0.5)
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        assert int(re.search(r"Rss: +(\d+)", file.read())[1]) <= 16
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        before = re.findall(r".*_ctxt_switches:.*", file.read())
    time.sleep(1)
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        assert before and re.findall(r".*_ctxt_switches:.*", file.read()) == before


@pytest.mark.parametrize("message", [
    b" ", b" name", b" \n", b"\n", b"+\nx", b" it\n", b"-it\n", b"?it\nx", b" " + b"n" * 1199])
def test_the_logger_outlives_what_is_no_message(sleeper, tmp_path, message):
    sleeper.start()
    sleeper.logger.send(message)
    sleeper.logger.send(b" good\nx")
    wait_until(lambda: (tmp_path / "logs/good").exists())


# ---- elsewhere ----------------------------------------------------------------------------------

@pytest.mark.parametrize("compiler, emulator", [
    ("aarch64-linux-gnu-gcc", "qemu-aarch64-static"),
    pytest.param("i686-linux-gnu-gcc", None, marks=pytest.mark.long),
    pytest.param("arm-linux-gnueabihf-gcc", "qemu-arm-static", marks=pytest.mark.long),
    pytest.param("riscv64-linux-gnu-gcc", "qemu-riscv64-static", marks=pytest.mark.long),
])
def test_it_is_the_same_on_other_machines(tmp_path, compiler, emulator):
    sleeper = Sleeper(tmp_path, compile_program("linit-idle", tmp_path, compiler))
    sleeper.program = ([emulator] if emulator else []) + sleeper.program
    sleeper.commands["check"] = sleeper.command("check", 3)
    sleeper.commands["rescue"] = sleeper.command("rescue", 0)
    writer, path = sleeper.add_log()
    sleeper.add_changed_file()
    sleeper.start(deadline=now() + 2 * 10**9)
    try:
        writer.write(b"x" * 3000)
        wait_until(lambda: path.stat().st_size == 3000)
        assert not sleeper.records("check")
        wait_until(lambda: sleeper.records("rescue"))
        sleeper.process.send_signal(signal.SIGINT)
        wait_until(lambda: len(sleeper.records("rescue")) == 2)
        assert [each["words"] for each in sleeper.records("rescue")] == [["shell"], ["2"]]
    finally:
        sleeper.end()
