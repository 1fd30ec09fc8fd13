"""linitctl as a process, against a fake linitd with a real socket that plays docs/protocol.md."""
import contextlib
import inspect
import json
import os
import py_compile
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, environment, load_tool, pythons

SCRIPT = str(ROOT / "linitctl.py")
PATIENCE = 60                       # seconds; a bound for what hangs, never a measure
linitctl = load_tool("linitctl")

LIST = [
    " broken failed - 7300",
    " cron starting 399 59.7",
    " getty@tty1 stopping 400 12.2",
    " httpd running 412 192.4",
    " mailer stopped - 0.3",
    "ok",
]
RUNNING = [" name httpd", " state running", " pid 412", " seconds 192.4", " needs network",
           " restarts 2", "ok"]
STOPPED = [" name mailer", " state stopped", " pid -", " seconds 7", " needs", " restarts 0", "ok"]


def lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()


class Linitd:
    """A linitd that expects requests one after the other and gives each its answer: bytes, or what
    a function does with the connection. What went otherwise is in `faults`."""

    def __init__(self, path, *steps):
        self.path = str(path)
        self.steps = list(steps)
        self.faults = []
        self.connections = 0
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.suppress(ConnectionError), connection:
                self.converse(connection)

    def converse(self, connection):
        with connection.makefile("rb") as requests:
            for request in requests:
                expected, answer = self.steps.pop(0) if self.steps else (None, b"error 1 enough\n")
                if request != f"{expected}\n".encode():
                    self.faults.append((request, expected))
                self.asked.set()
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer)

    def hold(self, answer):
        """An answer that is given when the test says go_on."""
        def wait(connection):
            assert self.go_on.wait(PATIENCE)
            connection.sendall(answer)
        return wait

    def close(self):
        self.go_on.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.socket.close()
        assert not self.faults and not self.steps


@pytest.fixture
def play(tmp_path):
    """A function that starts a Linitd with these steps; they must all have been played."""
    started = []

    def start(*steps):
        started.append(Linitd(tmp_path / "sock", *steps))
        return started[0]

    yield start
    for linitd in started:
        linitd.close()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "LINITSOCK", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def interruptible():
    """Children get Ctrl-C, even when these tests run where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(*arguments, python=sys.executable):
    return [python, SCRIPT, *map(os.fspath, arguments)]


def run(linitd, *arguments, python=sys.executable, **changes):
    """(status, stdout, stderr) of linitctl, which finds linitd by LINITSOCK."""
    path = getattr(linitd, "path", linitd)
    done = subprocess.run(
        command(*arguments, python=python), env=environment(LINITSOCK=path, **changes),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        timeout=PATIENCE, check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@contextlib.contextmanager
def running(linitd, *arguments, **options):
    """linitctl as a process that is still at work; killed if the test leaves it so."""
    process = subprocess.Popen(command(*arguments), env=environment(LINITSOCK=linitd.path),
                               stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def read_until(descriptor, text):
    """What can be read until TEXT was, or, with None, until the end."""
    got = b""
    end = time.monotonic() + PATIENCE
    while text is None or text.encode() not in got:
        left = end - time.monotonic()
        assert left > 0 and select.select([descriptor], [], [], left)[0], got
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:                 # a terminal that nobody has open any more
            piece = b""
        if not piece:
            assert text is None, got
            break
        got += piece
    return got.decode().replace("\r\n", "\n")


@contextlib.contextmanager
def terminal():
    """(master, slave) of a terminal."""
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        with contextlib.suppress(OSError):
            os.close(slave)


def show(linitd, *arguments, **changes):
    """(status, text) of linitctl with stdout and stderr on a terminal."""
    with terminal() as (master, slave):
        process = subprocess.Popen(
            command(*arguments), env=environment(LINITSOCK=linitd.path, **changes),
            stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
        os.close(slave)
        text = read_until(master, None)
        return process.wait(PATIENCE), text


# ---- the protocol's page -----------------------------------------------------------------------

def transcripts():
    """A list of (request, lines of the answer) for each transcript of docs/protocol.md."""
    page = (ROOT / "docs/protocol.md").read_text()
    for block in re.findall(r"^```transcript\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        steps = []
        for line in block.splitlines():
            if line.startswith("> "):
                steps.append((line[2:], []))
            else:
                assert line.startswith("< ")
                steps[-1][1].append(line[2:])
        yield steps


def is_sent(request):
    verb, *words = request.split()
    return verb in linitctl.VERBS and bool(words) == bool(linitctl.VERBS[verb][1])


def meaning(verb, answer):
    """(status, words of stdout, stderr) that linitctl must make of an answer."""
    *texts, last = answer
    kind, code, text = (*last.split(" ", 2), "", "")[:3]
    if kind == "error":
        return (4 if verb == "status" else int(code)), [], f"linitctl: {text}\n"
    if verb == "list":
        return 0, [word for line in texts for word in f"{line}s".split()], ""
    if verb == "status":
        return status_meaning([line[1:].partition(" ")[::2] for line in texts])
    return 0, [], ""


def status_meaning(pairs):
    fields = dict(pairs)
    pid = "" if fields["pid"] == "-" else f", pid {fields['pid']}"
    shown = f"{fields['name']} is {fields['state']}{pid}, for {fields['seconds']}s"
    shown += f" needs: {fields['needs']}" if fields["needs"] else ""
    shown += f" reason: {fields['reason']}" if "reason" in fields else ""
    shown += "".join(f" {value}" for key, value in pairs if key == "tail")
    return (0 if fields["state"] == "running" else 3), shown.split(), ""


@pytest.mark.parametrize("steps", list(transcripts()), ids=lambda steps: steps[0][0])
def test_a_transcript_of_the_protocol_page(play, steps):
    sent = [step for step in steps if is_sent(step[0])]
    linitd = play(*[(request, lines(answer)) for request, answer in sent])
    for request, answer in steps:
        verb, *words = request.split()
        status, stdout, stderr = run(linitd, verb, *words)
        if (request, answer) in sent:
            assert (status, stdout.split(), stderr) == meaning(verb, answer)
        else:
            assert (status, stdout) == (2, "") and stderr.startswith("linitctl: ")
            assert answer[-1].startswith("error 2 ")


def test_the_protocol_page_has_transcripts():
    requests = [request for steps in transcripts() for request, _ in steps]
    assert {"start httpd", "list", "status httpd", "start nothing", "frobnicate"} <= set(requests)


# ---- requests and exit statuses ----------------------------------------------------------------

@pytest.mark.parametrize("request_line", [
    "start httpd", "start a b getty@tty1 é", "stop a b", "restart a", "enable a b", "disable a",
    "poweroff", "reboot", "halt"])
def test_a_request_is_sent_as_given_and_done_in_silence(play, request_line):
    linitd = play((request_line, b"ok\n"))
    assert run(linitd, *request_line.split()) == (0, "", "")


@pytest.mark.parametrize("code", [1, 2, 4, 5, 7])
def test_the_exit_status_is_what_the_answer_says(play, code):
    linitd = play(("stop httpd", f"error {code} httpd: because\n".encode()))
    assert run(linitd, "stop", "httpd") == (code, "", "linitctl: httpd: because\n")


@pytest.mark.parametrize("arguments", [
    [], ["frobnicate"], ["start"], ["status"], ["log"], ["log", "a", "b"], ["list", "a"],
    ["poweroff", "now"], ["list", "--bogus"], ["list", "--json=1"], ["start", "a", "--json"],
    ["status", "a", "-f"], ["list", "--socket"], ["start", "--", "-x", ""], ["start", "a b"],
    ["start", "a", "b\nstop c"], ["start", "a\tb"], ["start", ""], ["start", b"\xff"],
    ["start", *["x" * 1000] * 300]], ids=lambda arguments: "-".join(map(repr, arguments))[:30])
def test_usage_errors_ask_nothing(play, arguments):
    linitd = play()
    status, stdout, stderr = run(linitd, *arguments)
    assert (status, stdout) == (2, "") and re.fullmatch(r"linitctl: .+\n", stderr)
    assert linitd.asked.is_set() is False


def test_a_wrong_word_is_named_and_escaped(play):
    assert "'a\\nb'" in run(play(), "start", "a\nb")[2]


def test_options_stand_before_and_after_the_verb_and_dashes_end_them(play, tmp_path):
    linitd = play(("list", b"ok\n"), ("list", b"ok\n"), ("list", b"ok\n"), ("start -f", b"ok\n"))
    for arguments in (["--json", "list", "--socket", linitd.path],
                      ["--socket", linitd.path, "list", "--json"],
                      [f"--socket={linitd.path}", "list", "--json"]):
        assert run(tmp_path / "none", *arguments) == (0, "[]\n", "")
    assert run(linitd, "start", "--", "-f") == (0, "", "")


def test_the_socket_without_an_option(monkeypatch):
    assert linitctl.Command().socket == "/run/linit.sock"
    monkeypatch.setenv("LINITSOCK", "")
    assert linitctl.Command().socket == "/run/linit.sock"
    monkeypatch.setenv("LINITSOCK", "/some/where")
    assert linitctl.Command().socket == "/some/where"


@pytest.mark.parametrize("arguments", [["--help"], ["start", "--help"], ["--help", "frobnicate"]])
def test_help(tmp_path, arguments):
    status, stdout, stderr = run(tmp_path / "none", *arguments)
    assert (status, stderr) == (0, "")
    for word in [*linitctl.VERBS, *linitctl.OPTIONS]:
        assert re.search(rf"(^|\s){word}\s", stdout), word


def test_version(tmp_path):
    assert run(tmp_path / "none", "--version") == (0, f"linitctl {linitctl.VERSION}\n", "")


# ---- list and status ---------------------------------------------------------------------------

@pytest.mark.parametrize("seconds, text", [
    (0, "0.0s"), (0.3, "0.3s"), (9.94, "9.9s"), (9.97, "10s"), (12.4, "12s"), (59.7, "1m00s"),
    (312, "5m12s"), (3599, "59m59s"), (3600, "1h00m"), (11100, "3h05m"), (86400, "1d00h"),
    (187200, "2d04h"), (8640000, "100d00h")])
def test_duration(seconds, text):
    assert linitctl.duration(seconds) == text


def test_list_is_aligned(play):
    assert run(play(("list", lines(LIST))), "list") == (0, """\
broken      failed    -    2h01m
cron        starting  399  1m00s
getty@tty1  stopping  400  12s
httpd       running   412  3m12s
mailer      stopped   -    0.3s
""", "")


COLOURED = """\
NAME        STATE     PID  SINCE
broken      \033[31mfailed  \033[0m  -    2h01m
cron        \033[33mstarting\033[0m  399  1m00s
getty@tty1  \033[33mstopping\033[0m  400  12s
httpd       \033[32mrunning \033[0m  412  3m12s
mailer      stopped   -    0.3s
"""


def test_list_on_a_terminal_has_a_heading_and_colours(play):
    linitd = play(("list", lines(LIST)), ("list", lines(LIST)))
    assert show(linitd, "list") == (0, COLOURED)
    assert show(linitd, "list", NO_COLOR="") == (0, COLOURED)


def test_no_color(play):
    plain = re.sub("\033\\[[0-9]+m", "", COLOURED)
    assert show(play(("list", lines(LIST))), "list", NO_COLOR="1") == (0, plain)


def test_list_of_nothing(play):
    assert run(play(("list", b"ok\n")), "list") == (0, "", "")


def test_list_as_json(play):
    before = int(time.time())
    status, stdout, stderr = run(play(("list", lines(LIST))), "list", "--json")
    services = json.loads(stdout)
    assert (status, stderr, len(services)) == (0, "", 5)
    since = services[3].pop("since")
    assert isinstance(since, int) and before - 193 <= since <= time.time() - 192
    assert services[3] == {"name": "httpd", "state": "running", "pid": 412}
    assert services[4]["pid"] is None


def test_status_for_people(play):
    answer = [*RUNNING[:-1], " reason it was killed", " tail one", " tail  two\tx", " tail", "ok"]
    assert run(play(("status httpd", lines(answer))), "status", "httpd") == (0, """\
httpd is running, pid 412, for 3m12s
needs: network
restarted: 2 times
reason: it was killed
    one
     two    x
    
""", "")


def test_status_says_only_what_there_is(play):
    linitd = play(("status mailer", lines(STOPPED)))
    assert run(linitd, "status", "mailer") == (3, "mailer is stopped, for 7.0s\n", "")


def test_status_has_colour_on_a_terminal(play):
    status, text = show(play(("status httpd", lines(RUNNING))), "status", "httpd")
    assert status == 0 and text.startswith("httpd is \033[32mrunning\033[0m, pid 412, for 3m12s\n")


def test_one_restart(play):
    answer = lines(RUNNING).replace(b"restarts 2", b"restarts 1")
    assert "\nrestarted: 1 time\n" in run(play(("status httpd", answer)), "status", "httpd")[1]


@pytest.mark.parametrize("state, status", [
    ("running", 0), ("stopped", 3), ("starting", 3), ("stopping", 3), ("failed", 3)])
def test_the_exit_status_of_status(play, state, status):
    answer = lines(RUNNING).replace(b"running", state.encode())
    assert run(play(("status httpd", answer)), "status", "httpd")[0] == status


UNKNOWN = b"error 5 nothing: there is no such service\n"


def test_the_highest_status_of_several_counts(play):
    linitd = play(("status httpd", lines(RUNNING)), ("status mailer", lines(STOPPED)),
                  ("status httpd", lines(RUNNING)), ("status nothing", UNKNOWN),
                  ("status mailer", lines(STOPPED)))
    status, stdout, stderr = run(linitd, "status", "httpd", "mailer")
    assert (status, stderr) == (3, "") and len(stdout.splitlines()) == 4
    status, stdout, stderr = run(linitd, "status", "httpd", "nothing", "mailer")
    assert (status, stderr) == (4, "linitctl: nothing: there is no such service\n")
    assert stdout.endswith("\nmailer is stopped, for 7.0s\n")
    assert linitd.connections == 2


def test_status_as_json(play):
    answer = [*RUNNING[:-1], " reason a \033 b", " tail x", " tail y", " later thing", "ok"]
    linitd = play(("status httpd", lines(answer)), ("status nothing", UNKNOWN),
                  ("status mailer", lines(STOPPED)))
    status, stdout, _ = run(linitd, "status", "httpd", "nothing", "mailer", "--json")
    httpd, mailer = json.loads(stdout)
    assert status == 4 and "\033" not in stdout
    assert isinstance(httpd.pop("since"), int) and isinstance(mailer.pop("since"), int)
    assert httpd == {"name": "httpd", "state": "running", "pid": 412, "needs": ["network"],
                     "restarts": 2, "reason": "a \033 b", "tail": ["x", "y"]}
    assert mailer == {"name": "mailer", "state": "stopped", "pid": None, "needs": [],
                      "restarts": 0, "reason": None, "tail": []}


# ---- what no daemon may do to us ---------------------------------------------------------------

ESCAPE = "\033[2J\007\r\u202e\x9b"
ESCAPED = "\\x1b[2J\\x07\\r\\u202e\\x9b"


def test_nothing_that_linitd_says_drives_the_terminal(play):
    answer = [f" name x{ESCAPE}", " state failed", " pid -", " seconds 1", " needs y\033z",
              " restarts 0", f" reason {ESCAPE}", f" tail {ESCAPE}", "ok"]
    linitd = play(("status x", lines(answer)), ("list", lines([f" x{ESCAPE} failed - 1", "ok"])),
                  ("start x", lines([f"error 1 {ESCAPE}"])))
    assert run(linitd, "status", "x")[1] == (
        f"x{ESCAPED} is failed, for 1.0s\nneeds: y\\x1bz\nreason: {ESCAPED}\n    {ESCAPED}\n")
    assert run(linitd, "list")[1] == f"x{ESCAPED}  failed  -  1.0s\n"
    assert run(linitd, "start", "x")[2] == f"linitctl: {ESCAPED}\n"


def test_what_is_not_utf8_is_shown_escaped(play):
    answer = lines(RUNNING).replace(b"ok\n", b" tail caf\xe9\nok\n")
    assert run(play(("status httpd", answer)), "status", "httpd")[1].endswith("\n    caf\\xe9\n")


def test_a_terminal_that_knows_only_ascii(play):
    linitd = play(("list", lines([" café failed - 1", "ok"])))
    status, stdout, stderr = run(linitd, "list", LC_ALL="C", PYTHONCOERCECLOCALE=0, PYTHONUTF8=0)
    assert (status, stdout, stderr) == (0, "caf\\xe9  failed  -  1.0s\n", "")


def no_socket(path):
    return path / "none"


def stale_socket(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path / "stale"))
    return path / "stale"


def plain_file(path):
    (path / "file").touch()
    return path / "file"


def long_path(path):
    return path / ("x" * 120)


@pytest.mark.parametrize("make", [no_socket, stale_socket, plain_file, long_path])
def test_no_linitd(tmp_path, make):
    path = make(tmp_path)
    for arguments, expected in (["list"], 1), (["start", "a"], 1), (["status", "a", "b"], 4):
        status, stdout, stderr = run(path, *arguments)
        assert (status, stdout) == (expected, "")
        assert re.fullmatch(rf"linitctl: no linitd answers at {path} \(.+\); .+\n", stderr)


@pytest.mark.parametrize("beginning", ["", "o", "ok", " httpd running 1 0.", " a running 1 0.1\n"])
@pytest.mark.parametrize("verb, expected", [("start", 1), ("status", 4), ("log", 1)])
def test_closed_in_mid_answer(play, beginning, verb, expected):
    def stop(connection):
        connection.sendall(beginning.encode())
        connection.shutdown(socket.SHUT_RDWR)
    status, stdout, stderr = run(play((f"{verb} a", stop)), verb, "a")
    assert (status, stdout) == (expected, "")
    assert re.fullmatch("linitctl: linitd closed the connection before .+\n", stderr)


@pytest.fixture
def ends(tmp_path):
    """The two ends of a connection: linitctl's, as an object, and linitd's, as a socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        ours = linitctl.Connection(str(tmp_path / "sock"))
        theirs, _ = listener.accept()
        with theirs:
            yield ours, theirs


def test_what_linitd_said_before_it_closed_is_heard(ends):
    ours, theirs = ends
    theirs.sendall(b"error 1 too many ask\n")
    theirs.close()
    with pytest.raises(linitctl.Refused, match="too many ask"):
        ours.ask("list")


def test_closed_before_the_request_was_read(ends):
    ours, theirs = ends
    ours.send("list")
    theirs.close()                      # with something unread: the kernel says so by ECONNRESET
    with pytest.raises(linitctl.Fail, match="linitd closed the connection"):
        ours.answer()


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 400 Bad Request\r\n", b"\n", b"\x00\xff\xfe\n", b"ok then\n", b"okay\n", b"OK\n",
    b"error\n", b"error 1\n", b"error 1 \n", b"error x y\n", b"error 0 y\n", b"error 99 y\n",
    b"error " + b"9" * 5000 + b" y\n", b"errors 1 y\n", b"\tok\n"])
def test_an_answer_that_is_none(play, answer):
    linitd = play(("start a", answer), ("status a", answer))
    for verb, expected in ("start", 1), ("status", 4):
        status, stdout, stderr = run(linitd, verb, "a")
        assert (status, stdout) == (expected, "")
        assert re.fullmatch("linitctl: the answer isn't linitd's: .+\n", stderr)
        assert len(stderr) < 400


@pytest.mark.parametrize("line", [
    " a", " ", " a running -", " a running - 1 2", "  running - 1", " a sleeping - 1",
    " a running x 1", " a running -1 1", " a running  1", " a running - x", " a running - nan",
    " a running - inf", " a running - 1e999", " a running - -1", " a running - 1.2.3",
    " a running - .", " a running - ١", " a running - " + "9" * 5000, " a running ² 1"])
def test_a_list_that_is_none(play, line):
    linitd = play(("list", lines([" good running - 1", line, "ok"])))
    status, stdout, stderr = run(linitd, "list", "--json")
    assert (status, stdout) == (1, "")
    assert re.fullmatch("linitctl: the answer isn't linitd's: .*\n", stderr)


@pytest.mark.parametrize("old, new", [
    (" name httpd\n", ""), (" state running\n", ""), (" pid 412\n", ""), (" seconds 192.4\n", ""),
    (" restarts 2", " restarts many"), (" restarts 2", " restarts")])
def test_a_status_that_is_none(play, old, new):
    answer = lines(RUNNING).decode().replace(old, new).encode()
    status, stdout, stderr = run(play(("status httpd", answer)), "status", "httpd")
    assert (status, stdout) == (4, "")
    assert re.fullmatch("linitctl: the answer isn't linitd's: .*\n", stderr)


def test_a_path_that_is_none(play):
    linitd = play(("log a", b" /tmp/\0x\nok\n"), ("log a", b" /" + b"x" * 5000 + b"\nok\n"))
    for text in "the answer isn't linitd's", "/x+: File name too long":
        status, stdout, stderr = run(linitd, "log", "a")
        assert (status, stdout) == (1, "") and re.match(f"linitctl: {text}", stderr)
        assert stderr.count("\n") == 1


LONG = b" " + b"x" * (200 << 10) + b"\n"


@pytest.mark.parametrize("beginning", [
    b" " + b"x" * (8 << 20), b"\xff" * (8 << 20), LONG * 128, b" \n" * 400000],
    ids=["line", "last line", "long lines", "short lines"])
def test_an_endless_line_or_answer_is_given_up(play, beginning):
    cut = threading.Event()

    def flood(connection):
        try:
            connection.sendall(beginning + b"\nok\n")
        except ConnectionError:
            cut.set()
    status, stdout, stderr = run(play(("start a", flood)), "start", "a")
    assert (status, stdout) == (1, "") and cut.wait(PATIENCE)
    assert re.fullmatch("linitctl: the answer isn't linitd's: .*\n", stderr) and len(stderr) < 400


def test_a_line_may_be_as_long_as_the_protocol_says(play):
    tail = "x" * ((256 << 10) - 10)
    linitd = play(("status httpd", lines([*RUNNING[:-1], f" tail {tail}", "ok"])))
    status, stdout, _ = run(linitd, "status", "httpd")
    assert status == 0 and stdout.endswith(f"\n    {tail}\n")


def test_an_answer_comes_in_whatever_pieces(play):
    def drip(connection):
        for byte in lines(LIST):
            connection.sendall(bytes([byte]))
    assert run(play(("list", drip)), "list")[1].count("\n") == 5


# ---- Ctrl-C, closed streams, the waiting line --------------------------------------------------

@pytest.mark.parametrize("arguments, text", [
    (["start", "a", "b"], "interrupted; linitd goes on with start a b"),
    (["list"], "interrupted"), (["status", "a"], "interrupted")])
def test_ctrl_c(play, interruptible, arguments, text):
    linitd = play()
    linitd.steps.append((" ".join(arguments), linitd.hold(b"ok\n")))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(linitd, *arguments, **pipes) as process:
        assert linitd.asked.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert (process.returncode, stdout) == (130, b"")
        assert stderr.decode() == f"linitctl: {text}\n"


MANY = lines([f" service{number} running {number} 1" for number in range(9000)] + ["ok"])


@pytest.mark.parametrize("answer", [MANY, lines(LIST)], ids=["at once", "at the end"])
def test_a_reader_that_went_away_is_no_traceback(play, answer):
    reader, writer = os.pipe()
    os.close(reader)
    linitd = play(("list", answer))
    with running(linitd, "list", stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.communicate(timeout=PATIENCE)[1] == b""
        assert process.returncode == 1


def test_head(play):
    done = subprocess.run(
        f"'{sys.executable}' '{SCRIPT}' list | head -n 1", shell=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment(LINITSOCK=play(("list", MANY)).path),
        timeout=PATIENCE, check=False)
    assert done.stdout.split() == [b"service0", b"running", b"-", b"1.0s"] and not done.stderr


def test_nobody_who_reads_stderr_changes_the_status(play):
    reader, writer = os.pipe()
    os.close(reader)
    linitd = play(("start nothing", UNKNOWN))
    with running(linitd, "start", "nothing", stderr=writer) as process:
        os.close(writer)
        assert process.wait(PATIENCE) == 5


def test_a_full_disk(play):
    with open("/dev/full", "wb") as full:
        linitd = play(("list", lines(LIST)))
        with running(linitd, "list", stdout=full, stderr=subprocess.PIPE) as process:
            stderr = process.communicate(timeout=PATIENCE)[1]
            assert (process.returncode, stderr) == (1, b"linitctl: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(play, closed):
    linitd = play(("list", lines(LIST)), ("start nothing", UNKNOWN))
    for words, expected in ("list", 0), ("start nothing", 5):
        done = subprocess.run(
            f"'{sys.executable}' '{SCRIPT}' {words} {closed}", shell=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment(LINITSOCK=linitd.path), timeout=PATIENCE,
            check=False)
        assert done.returncode == expected
        assert b"Traceback" not in done.stderr and b"linitctl" not in done.stdout


@pytest.mark.parametrize("verb, answer, status, said", [
    ("start", b"ok\n", 0, ""), ("restart", b"ok\n", 0, ""),
    ("stop", b"error 1 a: no\n", 1, "\r\033[Klinitctl: a: no\n")])
def test_the_waiting_line(play, verb, answer, status, said):
    linitd = play()
    linitd.steps.append((f"{verb} a b", linitd.hold(answer)))
    with terminal() as (master, slave), running(linitd, verb, "a", "b", stderr=slave) as process:
        os.close(slave)
        text = read_until(master, "waiting for a b, 2 s")
        linitd.go_on.set()
        text += read_until(master, None)
        assert process.wait(PATIENCE) == status
        drawn = re.fullmatch(r"((?:\r\033\[Kwaiting for a b, \d s)+)\r\033\[K(.*)", text, re.DOTALL)
        assert drawn and drawn[1].startswith("\r\033[Kwaiting for a b, 1 s") and drawn[2] == said


def test_a_quick_answer_draws_nothing_on_a_terminal(play):
    assert show(play(("start a", b"ok\n")), "start", "a") == (0, "")


def test_no_waiting_line_where_stderr_is_no_terminal(play):
    def dawdle(connection):
        time.sleep(1.5)
        connection.sendall(b"ok\n")
    linitd = play(("start a", dawdle))
    with terminal() as (master, slave):
        with running(linitd, "start", "a", stdout=slave, stderr=subprocess.PIPE) as process:
            os.close(slave)
            assert process.communicate(timeout=PATIENCE)[1] == b"" and process.returncode == 0
            assert read_until(master, None) == ""


# ---- logs --------------------------------------------------------------------------------------

@pytest.fixture
def log(play, tmp_path):
    """(linitd, its two files of the log of httpd, the older one first)."""
    files = [tmp_path / "httpd.1", tmp_path / "httpd"]
    return play(("log httpd", lines([*(f" {path}" for path in files), "ok"]))), *files


def test_log_prints_the_older_file_first(log):
    linitd, older, newer = log
    older.write_bytes(b"one\ntwo, which g")
    newer.write_bytes(b"oes on\nthree\nno end")
    assert run(linitd, "log", "httpd") == (0, "one\ntwo, which goes on\nthree\nno end", "")


def test_log_does_not_mind_a_file_that_was_rotated_away(log):
    linitd, _, newer = log
    newer.write_bytes(b"three\n")
    assert run(linitd, "log", "httpd") == (0, "three\n", "")


def test_log_is_shown_escaped(log):
    linitd, older, newer = log
    older.write_text(f"a\tb{ESCAPE}é\n")
    newer.write_bytes(b"caf\xe9\n")
    assert run(linitd, "log", "httpd") == (0, f"a\tb{ESCAPED}é\ncaf\\xe9\n", "")


def test_log_of_large_files(log):
    linitd, older, newer = log
    older.write_text("".join(f"é line {number}\n" for number in range(20000)))
    newer.write_text("é" * 200000)
    assert run(linitd, "log", "httpd")[1] == older.read_text() + newer.read_text()


def test_log_that_is_no_file(log):
    linitd, older, _ = log
    older.mkdir()
    status, stdout, stderr = run(linitd, "log", "httpd")
    assert (status, stdout) == (1, "") and re.fullmatch("linitctl: .*[Ii]s a directory\n", stderr)


def test_log_refused_and_empty(play):
    refused = b"error 4 log: only for root\n"
    linitd = play(("log a", refused), ("log a", b"ok\n"), ("log a", b"ok\n"))
    assert run(linitd, "log", "a") == (4, "", "linitctl: log: only for root\n")
    assert run(linitd, "log", "a") == (0, "", "")
    status, _, stderr = run(linitd, "log", "a", "-f")
    assert status == 1 and stderr.startswith("linitctl: a: it has no log yet")


def append(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def test_log_follows_what_is_added_rotated_and_emptied(log, interruptible):
    linitd, older, newer = log
    older.write_text("one\n")
    newer.write_text("two\n")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(linitd, "log", "-f", "httpd", **pipes) as process:
        out = process.stdout.fileno()
        assert read_until(out, "two\n") == "one\ntwo\n"
        append(newer, "three\nfo")
        assert read_until(out, "three\n") == "three\n"
        append(newer, "ur\nlast of the old\n")
        newer.rename(older)
        newer.write_text("first of the new\n")
        assert read_until(out, "new\n") == "four\nlast of the old\nfirst of the new\n"
        append(newer, "last of the new\n")
        newer.rename(older)
        assert read_until(out, "last of the new\n") == "last of the new\n"
        newer.write_text("longer than the old\n" * 9 + "first of the newest\n")
        assert read_until(out, "newest\n").count("\n") == 10
        newer.write_text("short\n")
        assert read_until(out, "short\n") == "short\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert (process.returncode, stdout, stderr) == (130, b"", b"linitctl: interrupted\n")


def test_what_was_written_just_before_the_rotation_is_read(tmp_path, monkeypatch):
    path = tmp_path / "httpd"
    path.write_text("one\n")
    answers = [True, False]

    def rotate(file, _):
        if answers[0]:
            append(path, "two\n")
            path.rename(tmp_path / "httpd.1")
            path.write_text("three\n")
        return answers.pop(0)
    monkeypatch.setattr(linitctl, "is_replaced", rotate)
    pieces = linitctl.read_log(str(path), True)
    assert [next(pieces), next(pieces)] == [b"one\ntwo\n", b"three\n"]


def test_log_waits_for_a_file_that_is_not_there_yet(log):
    linitd, older, newer = log
    older.write_text("one\n")
    with running(linitd, "log", "-f", "httpd", stdout=subprocess.PIPE) as process:
        assert read_until(process.stdout.fileno(), "one\n") == "one\n"
        newer.write_text("two\n")
        assert read_until(process.stdout.fileno(), "two\n") == "two\n"


# ---- Pythons, imports, the house ---------------------------------------------------------------

@pytest.mark.parametrize("version", pythons())
def test_every_python(play, tmp_path, version):
    (tmp_path / "log").write_text("a line\n")
    log = lines([f" {tmp_path}/log", "ok"])

    def late(connection):
        time.sleep(1.2)
        connection.sendall(b"ok\n")
    linitd = play(("list", lines(LIST)), ("status httpd", lines(RUNNING)), ("log a", log),
                  ("start a", UNKNOWN), ("stop a", late))
    python = pythons()[version]
    assert run(linitd, "list", python=python)[1].count("\n") == 5
    assert json.loads(run(linitd, "status", "httpd", "--json", python=python)[1])[0]["pid"] == 412
    assert run(linitd, "log", "a", python=python) == (0, "a line\n", "")
    assert run(linitd, "start", "a", python=python)[0] == 5
    with terminal() as (master, slave):
        process = subprocess.Popen([python, SCRIPT, "--socket", linitd.path, "stop", "a"],
                                   stdin=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        assert "waiting for a, 1 s" in read_until(master, None)
        assert process.wait(PATIENCE) == 0


def test_nothing_dear_is_imported_on_the_way_to_the_request(play):
    requests = [("list", lines(LIST)), ("status httpd", lines(RUNNING)), ("start httpd", b"ok\n")]
    linitd = play(*requests)
    for request, _ in requests:
        code = ("import sys; before = set(sys.modules); code = dict(__name__='linitctl'); "
                f"exec(open({SCRIPT!r}).read(), code); code['main']({request.split()!r}); "
                "print(*set(sys.modules) - before, file=sys.stderr)")
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True,
                              env=environment(LINITSOCK=linitd.path))
        assert set(done.stderr.decode().split()) <= {
            "_socket", "time", "os", "stat", "_stat", "posixpath", "genericpath", "os.path",
            "_collections_abc"}


def test_modules_beside_the_script_are_not_ours(play, tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    for name in ("json", "_socket", "os", "stat"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a trap')\n")
    linitd = play(("list", b"ok\n"))
    done = subprocess.run([sys.executable, tmp_path / "linitctl.py", "list", "--json"],
                          env=environment(LINITSOCK=linitd.path), stdout=subprocess.PIPE,
                          timeout=PATIENCE, check=True)
    assert done.stdout == b"[]\n"


def test_a_stub_runs_the_compiled_module(play, tmp_path):
    py_compile.compile(SCRIPT, tmp_path / "linitctl.pyc", doraise=True)
    stub = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import linitctl; "
    linitd = play(("start nothing", UNKNOWN))
    done = subprocess.run(
        [sys.executable, "-I", "-c", stub + "sys.exit(linitctl.main())", "start", "nothing"],
        env=environment(LINITSOCK=linitd.path), stderr=subprocess.PIPE, timeout=PATIENCE,
        check=False)
    assert done.returncode == 5
    assert done.stderr == b"linitctl: nothing: there is no such service\n"


@pytest.mark.parametrize("name", ["printable", "say", "progress"])
def test_what_lpkg_has_too_is_the_same(name):
    lpkg = load_tool("lpkg")
    assert inspect.getsource(getattr(linitctl, name)) == inspect.getsource(getattr(lpkg, name))
