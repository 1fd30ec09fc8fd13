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
from xml.etree import ElementTree

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


def typed(request):
    """The words of linitctl that send REQUEST."""
    verb, *words = request.split()
    signals = [f"--signal={word[1:]}" for word in words if word.startswith("-")]
    return verb, signals + [word for word in words if not word.startswith("-")]


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
    steps = [step for step in steps if step[0].split()[0] not in ("graph", "events")]
    sent = [step for step in steps if is_sent(step[0])]
    linitd = play(*[(request, lines(answer)) for request, answer in sent])
    for request, answer in steps:
        verb, words = typed(request)
        status, stdout, stderr = run(linitd, verb, *words)
        if (request, answer) in sent:
            assert (status, stdout.split(), stderr) == meaning(verb, answer)
        else:
            assert (status, stdout) == (2, "") and stderr.startswith("linitctl: ")
            assert answer[-1].startswith("error 2 ")


def test_the_graphs_and_events_of_the_page_are_understood():
    for request, answer in (step for steps in transcripts() for step in steps):
        if request == "graph":
            nodes = [linitctl.parse_node(line[1:]) for line in answer[:-1]]
            assert nodes and answer[-1] == "ok"
        elif request == "events":
            events = [linitctl.parse_event(line[1:]) for line in answer if line[0] == " "]
            assert "name" not in events[0] and all("name" in event for event in events[1:])


def test_the_protocol_page_has_transcripts():
    requests = [request for steps in transcripts() for request, _ in steps]
    assert {"start httpd", "list", "status httpd", "start nothing", "frobnicate"} <= set(requests)


# ---- requests and exit statuses ----------------------------------------------------------------

@pytest.mark.parametrize("request_line", [
    "start httpd", "start a b getty@tty1 é", "stop a b", "restart a", "enable a b", "disable a",
    "reload a b", "wait a b", "poweroff", "reboot", "halt", "reexec"])
def test_a_request_is_sent_as_given_and_done_in_silence(play, request_line):
    linitd = play((request_line, b"ok\n"))
    assert run(linitd, *request_line.split()) == (0, "", "")


@pytest.mark.parametrize("arguments, request_line", [
    (["stop", "--signal", "TERM", "a", "b"], "stop -TERM a b"),
    (["stop", "a", "--signal=sighup"], "stop -HUP a"),
    (["--signal", "9", "stop", "a"], "stop -9 a")])
def test_a_signal_goes_before_the_names(play, arguments, request_line):
    assert run(play((request_line, b"ok\n")), *arguments) == (0, "", "")


@pytest.mark.parametrize("code", [1, 2, 4, 5, 7])
def test_the_exit_status_is_what_the_answer_says(play, code):
    linitd = play(("stop httpd", f"error {code} httpd: because\n".encode()))
    assert run(linitd, "stop", "httpd") == (code, "", "linitctl: httpd: because\n")


@pytest.mark.parametrize("arguments", [
    [], ["frobnicate"], ["start"], ["status", ""], ["log", "a", "b"], ["list", "a"],
    ["poweroff", "now"], ["list", "--bogus"], ["list", "--json=1"], ["log", "a", "--json"],
    ["start", "a", "--signal", "TERM"], ["stop", "a", "--signal", ""], ["wait"], ["reload"],
    ["stop", "a", "--signal", "T\nb"], ["stop", "--signal=-9", "a"], ["stop", "--", "-9", "a"],
    ["graph", "--", "-a"], ["why", ""], ["plot", "a"], ["plot", "-o"], ["blame", "a"],
    ["signal", "a"], ["signal", "a", "HUP", "b"], ["signal", "a", ""], ["signal", "a", "NOPE"],
    ["stop", "--signal", "NOPE", "a"], ["stop", "--signal", "99", "a"], ["signal", "a", "0"],
    ["events", "a"], ["check", "a", "b"], ["reexec", "a"],
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
    linitd = play(("list", b"ok\n"), ("list", b"ok\n"), ("list", b"ok\n"), ("start a", b"ok\n"))
    for arguments in (["--json", "list", "--socket", linitd.path],
                      ["--socket", linitd.path, "list", "--json"],
                      [f"--socket={linitd.path}", "list", "--json"]):
        assert run(tmp_path / "none", *arguments) == (0, "[]\n", "")
    assert run(linitd, "start", "--", "a") == (0, "", "")
    # What begins with '-' would be a signal to linitd, and never is a name.
    assert run(linitd, "start", "--", "-f") == (
        2, "", "linitctl: -f: a service's name doesn't begin with '-'\n")


@pytest.mark.parametrize("word, near", [
    ("strat", "start"), ("stauts", "status"), ("poweof", "poweroff"), ("frobnicate", None)])
def test_a_verb_that_is_none_names_the_nearest(tmp_path, word, near):
    status, stdout, stderr = run(tmp_path / "none", word, "a")
    hint = f"; did you mean {near}?" if near else ""
    assert (status, stdout) == (2, "")
    assert stderr == f"linitctl: {word}: no such verb{hint}; see linitctl --help\n"


def test_the_socket_without_an_option(monkeypatch):
    assert linitctl.Command([], {}).socket == "/run/linit.sock"
    monkeypatch.setenv("LINITSOCK", "")
    assert linitctl.Command([], {}).socket == "/run/linit.sock"
    monkeypatch.setenv("LINITSOCK", "/some/where")
    assert linitctl.Command([], {}).socket == "/some/where"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/mine")
    assert linitctl.Command([], {"--user": ""}).socket == "/run/mine/linit.sock"


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
    linitd = play(*[("list", lines(LIST))] * 2)
    for changes in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert show(linitd, "list", **changes) == (0, plain)


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


@pytest.mark.parametrize("answer, told, status, shown", [
    (LIST, ["broken", "cron", "getty@tty1"], 3, """\
5 services: 1 stopped, 1 starting, 1 running, 1 stopping, 1 failed
broken is failed, for 1.0s
reason: it was killed
cron is starting, for 1.0s
getty@tty1 is stopping, for 1.0s
"""),
    ([LIST[3], LIST[3], LIST[4], "ok"], [], 0, "3 services: 1 stopped, 2 running\n"),
    (["ok"], [], 0, "0 services: none\n")])
def test_status_without_a_name_counts_and_shows_what_is_not_as_it_should_be(
        play, answer, told, status, shown):
    states = dict(line.split()[:2] for line in answer[:-1])
    steps = [("list", lines(answer))]
    for name in told:
        reason = [" reason it was killed"] if states[name] == "failed" else []
        steps.append((f"status {name}", lines([
            f" name {name}", f" state {states[name]}", " pid -", " seconds 1", *reason, "ok"])))
    linitd = play(*steps, *steps)
    assert run(linitd, "status") == (status, shown, "")
    code, stdout, _ = run(linitd, "status", "--json")
    assert (code, [each["name"] for each in json.loads(stdout)]) == (status, told)


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


@pytest.mark.parametrize("verb", [
    "start", "stop", "restart", "reload", "wait", "enable", "disable"])
def test_what_changes_something_as_json(play, verb):
    asked = [("status httpd", lines(RUNNING)), ("status nothing", UNKNOWN)]
    linitd = play((f"{verb} httpd nothing", b"ok\n"), *asked,
                  (f"{verb} httpd nothing", b"error 7 httpd: it isn't running\n"), *asked)
    expected = [{"name": "httpd", "state": "running"}, {"name": "nothing", "state": None}]
    status, stdout, stderr = run(linitd, verb, "httpd", "nothing", "--json")
    assert (status, json.loads(stdout), stderr) == (0, expected, "")
    status, stdout, stderr = run(linitd, verb, "httpd", "nothing", "--json")
    assert (status, json.loads(stdout)) == (7, expected)
    assert stderr == "linitctl: httpd: it isn't running\n"


@pytest.mark.parametrize("verb", ["poweroff", "reboot", "halt", "reexec"])
def test_what_has_no_services_as_json(play, verb):
    assert run(play((verb, b"ok\n")), verb, "--json") == (0, "[]\n", "")


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


def test_the_waiting_line_names_no_signal(ends):
    ours, _ = ends
    ours.send("stop", "-9", "a", "b")
    assert ours.subject == "a b"


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
    (["list"], "interrupted"), (["status", "a"], "interrupted"), (["wait", "a"], "interrupted"),
    (["start", "a", "--json"], "interrupted; linitd goes on with start a")])
def test_ctrl_c(play, interruptible, arguments, text):
    linitd = play()
    request = " ".join(word for word in arguments if word != "--json")
    linitd.steps.append((request, linitd.hold(b"ok\n")))
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
    linitd = play(("log a", refused), ("log a", b" /nowhere/a~\n /nowhere/a\nok\n"))
    assert run(linitd, "log", "a") == (4, "", "linitctl: log: only for root\n")
    assert run(linitd, "log", "a") == (0, "", "")


def test_log_without_a_name_is_linitd_s_own(play, tmp_path):
    (tmp_path / "linitd").write_text("2026-11-29T03:30:00Z httpd is running\n")
    linitd = play(("log", f" {tmp_path}/linitd~\n {tmp_path}/linitd\nok\n".encode()))
    assert run(linitd, "log") == (0, "2026-11-29T03:30:00Z httpd is running\n", "")


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


# ---- graph -------------------------------------------------------------------------------------

def node(name, state="running", **fields):
    """A line of `graph`."""
    fields = {"state": state, "pid": "-", "launched": 0.1, "met": 0.2, "ready": 0.3, "ended": "-",
              **dict.fromkeys(("needs", "binds", "wants", "afters", "waits"), ""), **fields}
    if state == "starting":
        fields["ready"] = "-"
    if state == "failed":
        fields.update(ready="-", ended=fields["ended"] if fields["ended"] != "-" else 0.5)
    return f" {name} " + " ".join(f"{key}={value}" for key, value in fields.items())


STUCK = [
    node("boot", "starting", pid=40, met="-", needs="getty,hostname,httpd,network", wants="broken",
         waits="getty,httpd"),
    node("broken", "failed"),
    node("getty", "starting", pid=45, met="-", needs="hostname,network", waits="network"),
    node("hostname"),
    node("httpd", "starting", pid=46, met="-", needs="network", binds="network", waits="network"),
    node("mailer", "failed", met="-", needs="broken"),
    node("network", "starting", pid=44, needs="hostname"),
    "ok",
]


def nodes_of(graph):
    return {line.split()[0]: linitctl.parse_node(line[1:]) for line in graph if line != "ok"}


def test_graph_is_a_tree_of_what_needs_what(play):
    assert run(play(("graph", lines(STUCK))), "graph") == (0, """\
boot: starting, pid 40
  broken: failed, boot wants it
  getty: starting, pid 45
    hostname: running
    network: starting, pid 44
      hostname (above)
  hostname (above)
  httpd: starting, pid 46
    network (above), httpd is bound to it
  network (above)
mailer: failed
  broken (above)
""", "")


def test_graph_from_a_service_downwards(play):
    unasked = [" name new", " state stopped", " pid -", " seconds 1", " needs", " restarts 0", "ok"]
    linitd = play(("graph", lines(STUCK)), ("status new", lines(unasked)),
                  ("graph", lines(STUCK)), ("graph", lines(STUCK)), ("status nothing", UNKNOWN))
    assert run(linitd, "graph", "network", "new")[1] == (
        "network: starting, pid 44\n  hostname: running\nnew: stopped\n")
    status, stdout, _ = run(linitd, "graph", "--json", "network")
    hostname, network = sorted(json.loads(stdout), key=lambda each: each["name"])
    assert status == 0 and hostname["name"] == "hostname" and network == {
        "name": "network", "state": "starting", "pid": 44, "launched": 0.1, "met": 0.2,
        "ready": None, "ended": None, "needs": ["hostname"], "binds": [], "wants": [],
        "afters": [], "waits": []}
    assert run(linitd, "graph", "nothing") == (
        5, "", "linitctl: nothing: there is no such service\n")


def test_graph_with_a_cycle_and_with_what_nobody_has_asked_for(play):
    graph = [node("a", needs="b"), node("b", needs="a", afters="x"), "ok"]
    assert run(play(("graph", lines(graph))), "graph")[1] == """\
a: running
  b: running
    a (above)
    x: stopped, b comes after it
"""


@pytest.mark.parametrize("old, new", [
    (" a ", "  "), ("state=running", "state=odd"), (" state=running", ""), (" waits=", ""),
    ("pid=-", "pid=x"), (" pid=-", ""), ("met=0.2", "met=nan"), ("met=0.2", "met="),
    ("ready=0.3", "ready=1e999")])
@pytest.mark.parametrize("verb", ["graph", "why", "blame", "plot"])
def test_a_graph_that_is_none(play, verb, old, new):
    line = node("a")
    assert old in line
    status, stdout, stderr = run(play(("graph", lines([line.replace(old, new, 1), "ok"]))), verb)
    assert (status, stdout) == (1, "")
    assert re.fullmatch("linitctl: the answer isn't linitd's: .*\n", stderr)


def test_what_a_later_linitd_adds_is_passed_over():
    assert linitctl.parse_node(node("a")[1:] + " later=1") == linitctl.parse_node(node("a")[1:])


CHAIN = [node(f"s{number}", "starting", met="-", needs=f"s{number + 1}", waits=f"s{number + 1}")
         for number in range(2000)] + [node("s2000", "starting", pid=7)]


def test_a_chain_longer_than_python_s_stack():
    nodes = nodes_of(CHAIN)
    below = {name: each["needs"] for name, each in nodes.items()}
    found = list(linitctl.walk(["s0"], below.__getitem__, set()))
    assert len(found) == 2001 and found[-1][1] == "s2000"
    assert len(linitctl.critical_path(linitctl.measure(nodes, 9.0))) == 2001


# ---- why ---------------------------------------------------------------------------------------

class Answering(Linitd):
    """A linitd that knows a graph, and more of some services: (reason, lines of the log)."""

    def __init__(self, path, graph, about=()):
        self.graph = graph
        self.about = dict(about)
        super().__init__(path)

    def converse(self, connection):
        with connection.makefile("r") as requests:
            for request in requests:
                connection.sendall(lines(self.answer(request)))

    def answer(self, request):
        if request == "graph\n":
            return self.graph
        name = request.split()[1]
        if name not in nodes_of(self.graph):
            return ["error 5 nothing: there is no such service"]
        one = nodes_of(self.graph)[name]
        reason, tail = self.about.get(name, ("", []))
        return [f" name {name}", f" state {one['state']}", f" pid {one['pid'] or '-'}",
                " seconds 12", " needs", " restarts 0", *([f" reason {reason}"] if reason else []),
                *(f" tail {line}" for line in tail), "ok"]


@pytest.fixture
def answering(tmp_path):
    started = []

    def start(*arguments):
        started.append(Answering(tmp_path / "sock", *arguments))
        return started[0]

    yield start
    for linitd in started:
        linitd.close()


NO_CARRIER = "start ended with status 1: no carrier"
ABOUT = {"broken": (NO_CARRIER, ["trying", "no carrier"]),
         "mailer": (f"it needs broken: {NO_CARRIER}", []),
         "network": ("", ["lo is up", "  udhcpc: sending discover"])}
HOLDS = "network, pid 44, holds up 3: boot, getty, httpd\n"
FAILED = f"""\
mailer is failed, for 12s: it needs broken: {NO_CARRIER}
  broken is failed, for 12s: {NO_CARRIER}
"""


def test_why_shows_the_chain_and_what_holds_it_up(answering):
    assert run(answering(STUCK, ABOUT), "why") == (0, """\
boot waits for 2 of 5, for 12s
  getty waits for network, for 12s
    network is starting, pid 44, for 12s: udhcpc: sending discover
  httpd waits for network, for 12s
""" + FAILED + HOLDS, "")


def test_why_of_one(answering):
    linitd = answering(STUCK, ABOUT)
    assert run(linitd, "why", "httpd")[1] == """\
httpd waits for network, for 12s
  network is starting, pid 44, for 12s: udhcpc: sending discover
""" + HOLDS
    assert run(linitd, "why", "mailer")[1] == FAILED
    assert run(linitd, "why", "getty", "boot")[1] == """\
getty waits for network, for 12s
  network is starting, pid 44, for 12s: udhcpc: sending discover
boot waits for 2 of 5, for 12s
  getty (above)
  httpd waits for network, for 12s
""" + HOLDS
    assert run(linitd, "why", "hostname")[1] == """\
hostname is running, for 12s
  boot needs hostname
  getty needs hostname
  network needs hostname
    httpd is bound to network
"""
    for words in ["nothing"], ["network", "nothing"]:
        assert run(linitd, "why", *words) == (
            5, "", "linitctl: nothing: there is no such service\n")


@pytest.mark.parametrize("graph, text", [
    ([node("a"), node("b", "stopped")],
     "1 service running; nothing is starting or stopping, nothing has failed"),
    ([node("a", "starting", pid=5, met="-")], "a is starting, pid 5, for 12s"),
    ([node("a", "starting", met="-", needs="b,c", waits="b,c"), node("b"), node("c", "starting")],
     "a waits for c, for 12s\n  c is starting, for 12s\nc holds up 1: a"),
    ([node("again", "starting")], "again is starting, for 12s: it was killed: the end"),
    ([node("a", "starting", met="-", needs="a", waits="a")],
     "a waits for a, for 12s\n  a cycle: a, a"),
    ([node("a", "starting", met="-", needs="b", waits="b"),
      node("b", "starting", met="-", needs="a", waits="a")],
     "a waits for b, for 12s\n  b waits for a, for 12s\n    a cycle: a, b, a"),
    ([node("a", "starting", met="-", needs="b,c", waits="b,c"), node("c", "starting", pid=8),
      node("b", "starting", met="-", wants="a,c", waits="a,c")],
     "a waits for 2 of 2, for 12s\n  b waits for 2 of 2, for 12s\n    a cycle: a, b, a\n"
     "    c is starting, pid 8, for 12s\n  c (above)\nc, pid 8, holds up 2: a, b"),
    ([node("a", "stopping", pid=3), node("b", "stopping", pid=4, needs="a"),
      node("c", "stopped", needs="a"), node("d", afters="a")],
     "a is stopping, pid 3, for 12s\n  b is stopping, pid 4, for 12s\nb, pid 4, holds up 1: a"),
    ([node("a", "failed", needs="b"), node("b")], "a is failed, for 12s")])
def test_why(answering, graph, text):
    about = {"again": ("it was killed", ["the end"])}
    assert run(answering([*graph, "ok"], about), "why") == (0, text + "\n", "")


def test_why_of_what_runs_for_nobody_and_of_what_is_stopped(answering):
    linitd = answering([node("a", pid=9), node("b", "stopped"), node("c", afters="a"), "ok"],
                       {"a": ("", ["not the matter"])})
    assert run(linitd, "why", "a", "b")[1] == (
        "a is running, pid 9, for 12s\n  nothing that runs or starts needs it\n"
        "b is stopped, for 12s\n")


def test_why_as_json(answering):
    status, stdout, _ = run(answering(STUCK, ABOUT), "why", "--json")
    found = json.loads(stdout)
    assert status == 0
    assert [(each["name"], each["because"]) for each in found] == [
        ("boot", ["getty", "httpd"]), ("getty", ["network"]), ("network", []),
        ("httpd", ["network"]), ("mailer", ["broken"]), ("broken", [])]
    assert found[2]["pid"] == 44 and found[2]["tail"][-1] == "  udhcpc: sending discover"
    assert found[5]["reason"] == NO_CARRIER and isinstance(found[5]["since"], int)


def test_many_culprits_and_many_held_up():
    assert linitctl.named(list("abc"), 3) == "a, b, c"
    assert linitctl.named(list("abcde"), 3) == "a, b, c and 2 more"


# ---- blame and the critical path ---------------------------------------------------------------

BOOT = [
    node("boot", launched=0.03, met=1.61, ready=1.611, needs="b,d,e", wants="x"),
    node("a", launched=0.1, met=0.11, ready=0.5),
    node("b", launched=0.1, met=0.5, ready=1.6, needs="a,d"),
    node("d", launched=0.05, met=0.06, ready=0.08, ended=9.5),
    node("e", launched=0.1, met=0.5, ready=0.6, afters="a"),
    node("x", "failed", launched=0.1, met=0.11, ended=0.4),
    node("later", launched=70, met=70.1, ready=75),
    node("unasked", "stopped", launched="-", met="-", ready="-"),
    "ok",
]


def path_of(graph, now=0.0):
    nodes = {name: each for name, each in nodes_of(graph).items() if each["launched"] is not None}
    boot = linitctl.of_boot(linitctl.measure(nodes, now))
    return [each["name"] for each in linitctl.critical_path(boot)]


def test_blame(play):
    assert run(play(("graph", lines(BOOT))), "blame") == (0, """\
    4.900 s later
    1.100 s b
    0.390 s a
    0.290 s x, failed
    0.100 s e
    0.020 s d
    0.001 s boot

the critical path, 1.611 s; each waited for the next:
    1.611 s boot (its own 0.001 s)
    1.600 s b (its own 1.100 s)
    0.500 s a (its own 0.390 s)
""", "")


def test_blame_as_json(play):
    status, stdout, _ = run(play(("graph", lines(BOOT))), "blame", "--json")
    found = json.loads(stdout)
    assert status == 0 and [each["name"] for each in found] == [
        "later", "b", "a", "x", "e", "d", "boot"]
    assert found[1] == {"name": "b", "state": "running", "seconds": 1.1, "launched": 0.1,
                        "met": 0.5, "ready": 1.6, "ended": None, "critical": True}
    assert found[4]["critical"] is False


def test_blame_while_something_starts_asks_for_the_time(play):
    def say_time(connection):
        connection.sendall(b" 14.2\n")
    linitd = play(("graph", lines(STUCK)), ("events", say_time))
    stdout = run(linitd, "blame")[1]
    assert stdout.startswith("   14.000 s network, still starting\n")
    assert stdout.endswith("""
the critical path, 14.200 s; each waited for the next:
   14.200 s boot (its own 0.000 s)
   14.200 s getty (its own 0.000 s)
   14.200 s network (its own 14.000 s)
""")


def test_blame_of_nothing(play):
    assert run(play(("graph", b"ok\n")), "blame") == (0, "", "")


@pytest.mark.parametrize("graph, path", [
    # What was ready before it was launched decided nothing; nor what was started again since.
    ([node("a", launched=1, met=1.1, ready=2, needs="b"), node("b", ready=0.9)], ["a"]),
    ([node("a", met=1.1, ready=2, needs="b,c"), node("b", ready=1.8), node("c", ready=0.9)],
     ["a", "c"]),
    # Rounded to thousandths, what decided may seem to be later than what it decided.
    ([node("a", met=1.1, ready=2, needs="b"), node("b", ready=1.101)], ["a", "b"]),
    ([node("a", met=1.1, ready=2, wants="b", afters="c"), node("b", "failed", ended=1.1),
      node("c", ready=0.8)], ["a", "b"]),
    ([node("a", "failed", met="-", needs="b", ended=1.1), node("b", "failed", ended=1.1)],
     ["a", "b"]),
    ([node("a", met=0.3, needs="b"), node("b", met=0.3, needs="a")], ["a", "b"]),
    # Of two that were ready at the same moment it ends with the one that was launched first.
    ([node("b", ready=2), node("a", launched=0.05, met=2, ready=2, needs="b")], ["a", "b"]),
    # What had nothing to wait for began when it was launched.
    ([node("a", met="-", ready=2, needs="b"), node("b", ready=0.9)], ["a"]),
    ([node("a", needs="nothing")], ["a"]), ([], [])])
def test_critical_path(graph, path):
    assert path_of(graph) == path


@pytest.mark.parametrize("line, seconds", [
    (node("a", launched=0.1, met=0.2, ready=0.5), 0.3), (node("a", met="-", ready=0.5), 0.4),
    (node("a", "starting", met="-"), 0.9), (node("a", "starting", met="-", waits="b"), 0.0),
    (node("a", "failed", met="-", ended=0.4), 0.3),
    (node("a", "failed", met="-", ended=0.4, needs="b"), 0.0)])
def test_how_long_its_own_start_took(line, seconds):
    nodes = linitctl.measure({"a": linitctl.parse_node(line[1:])}, 1.0)
    assert nodes["a"]["own"] == pytest.approx(seconds)


# ---- plot --------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def plotted(play, graph, *steps):
    status, stdout, stderr = run(play(("graph", lines(graph)), *steps), "plot")
    assert (status, stderr) == (0, "")
    return stdout, ElementTree.fromstring(stdout)


def texts(svg, kind):
    return [each.text for each in svg.iter(f"{SVG}text") if each.get("class") == kind]


def bars(svg, kind):
    return [each for each in svg.iter(f"{SVG}rect") if each.get("class") == kind
            and each.get("height") != "12"]         # which the legend's have


def test_plot(play):
    text, svg = plotted(play, BOOT)
    assert texts(svg, "title") == ["Boot: 1.611 s, 6 services"]
    assert texts(svg, "critical") == ["a", "b", "boot"] and texts(svg, "failed") == ["x"]
    assert texts(svg, "starts") == ["d", "e"]
    assert {"0.290 s, failed", "0.020 s", "0.100 s", "1.100 s"} < set(texts(svg, ""))
    assert texts(svg, "tick")[::2] == [f"{tick / 5:.1f} s" for tick in range(9)]
    assert [len(bars(svg, kind)) for kind in ("waits", "starts", "critical", "failed")] \
        == [6, 2, 3, 1]
    assert len([each for each in svg.iter(f"{SVG}path") if each.get("class") == "path"]) == 2
    assert "color-scheme: light dark" in text and "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "later" not in text and "unasked" not in text
    for kind in ("waits", "starts", "critical", "failed"):
        for each in bars(svg, kind):
            end = float(each.get("x")) + float(each.get("width"))
            assert end < float(svg.get("width")) - linitctl.RIGHT + 2


def test_the_bars_of_a_plot_are_where_their_times_are(play):
    _, svg = plotted(play, [node("a", launched=0, met=1, ready=3, ended=3.5),
                            node("b", launched=0, met=3, ready=4), "ok"])
    waits, starts = (bars(svg, kind)[0] for kind in ("waits", "starts"))
    zero, scale = float(waits.get("x")), linitctl.CHART / 4
    for bar, begin, length in (waits, 0, 1), (starts, 1, 2):
        assert abs(float(bar.get("x")) - zero - begin * scale) < 0.2
        assert abs(float(bar.get("width")) - length * scale) < 0.2


def test_plot_of_a_boot_that_goes_on(play):
    def say_time(connection):
        connection.sendall(b" 14.2\n")
    _, svg = plotted(play, STUCK, ("events", say_time))
    assert texts(svg, "title") == ["Boot: 14.200 s, 7 services"]
    assert texts(svg, "critical") == ["network", "boot", "getty"]
    assert {"14.000 s, still starting", "0.000 s, still starting", "0.000 s, failed"} < set(
        texts(svg, ""))


def test_what_stands_in_a_plot_is_escaped(play):
    name = "<script>&\"'\033]x"
    text, svg = plotted(play, [node(name), "ok"])
    assert name.replace("\033", "\\x1b") in {each.text for each in svg.iter(f"{SVG}text")}
    assert "<script" not in text and "\033" not in text


def test_a_plot_of_what_began_late_begins_late(play):
    _, svg = plotted(play, [node("a", launched=3600, met=3601, ready=3602), "ok"])
    assert texts(svg, "tick")[0] == "3600.0 s"
    assert texts(svg, "title") == ["Boot: 2.000 s, 1 service"]


@pytest.mark.parametrize("moment", [0, 1, "9" * 20])
def test_a_plot_of_a_single_moment(play, moment):
    _, svg = plotted(play, [node("a", launched=moment, met=moment, ready=moment), "ok"])
    assert [each.get("width") for each in bars(svg, "critical")] == ["1.5"]
    assert len(texts(svg, "tick")) < 30


@pytest.mark.parametrize("span, step", [
    (0.001, 0.0001), (0.5, 0.05), (1.5, 0.2), (12, 1), (12.1, 2), (60, 5), (1e5, 10000),
    (9e19, 1e19)])
def test_ticks(span, step):
    assert linitctl.tick_step(span) == pytest.approx(step)


@pytest.mark.parametrize("count", [1, 5, 200])
def test_a_plot_has_a_row_for_each_service_and_nothing_outside(play, count):
    graph = [node(f"service{each}", met=each / 100 + 0.2, ready=each / 100 + 0.3)
             for each in range(count)]
    _, svg = plotted(play, [*graph, "ok"])
    width, height = float(svg.get("width")), float(svg.get("height"))
    assert height == linitctl.TOP + linitctl.ROW * count + 40
    for each in svg.iter(f"{SVG}text"):
        assert 0 < float(each.get("y")) < height
        assert float(each.get("x")) + linitctl.LETTER * len(each.text) < width + 40


def test_plot_to_a_file(play, tmp_path):
    step = ("graph", lines(BOOT))
    linitd = play(step, step, step, ("graph", b"ok\n"))
    path = tmp_path / "boot.svg"
    assert run(linitd, "plot", "-o", path) == (0, "", "")
    assert path.read_text() == run(linitd, "plot")[1]
    status, _, stderr = run(linitd, "plot", "-o", tmp_path / "none/boot.svg")
    assert status == 1 and re.fullmatch("linitctl: .*No such file or directory\n", stderr)
    path.write_text("old")
    assert run(linitd, "plot", "-o", path) == (
        1, "", "linitctl: no service has been started yet; there is nothing to draw\n")
    assert path.read_text() == "old"


# ---- events ------------------------------------------------------------------------------------

EVENTS = [" 3.001", " 3.502 httpd starting 412", " 3.777 httpd failed - it was killed: \033[2J",
          " 3.999 b stopped -  "]


def stream(*texts, then=b""):
    def send(connection):
        for text in texts:
            connection.sendall(f"{text}\n".encode())
        connection.sendall(then)
        connection.shutdown(socket.SHUT_RDWR)
    return send


def test_events(play):
    linitd = play(("events", stream(*EVENTS)), ("events", stream(*EVENTS)))
    status, stdout, stderr = run(linitd, "events")
    assert (status, stderr) == (1, "linitctl: linitd closed the connection\n")
    assert stdout == ("3.502 httpd starting\n3.777 httpd failed it was killed: \\x1b[2J\n"
                      "3.999 b stopped  \n")
    found = [json.loads(line) for line in run(linitd, "events", "--json")[1].splitlines()]
    assert found[0] == {"time": 3.001}
    assert found[1] == {"time": 3.502, "name": "httpd", "state": "starting", "pid": 412,
                        "reason": None}
    assert found[2]["reason"] == "it was killed: \033[2J" and found[2]["pid"] is None


@pytest.mark.parametrize("last, status, said", [
    (b"error 1 you were too slow\n", 1, "you were too slow"),
    (b"error 4 no\n", 4, "no"), (b"ok\n", 1, "the answer isn't linitd's: 'ok'; .*"),
    (b" x a running -\n", 1, "the answer isn't linitd's: 'x'; .*"),
    (b" 1 a odd -\n", 1, "the answer isn't linitd's: '1 a odd -'; .*"),
    (b" 1 a\n", 1, "the answer isn't linitd's: '1 a'; .*")])
def test_how_events_end(play, last, status, said):
    linitd = play(("events", stream(*EVENTS[:2], then=last)))
    got = run(linitd, "events")
    assert got[:2] == (status, "3.502 httpd starting\n")
    assert re.fullmatch(f"linitctl: {said}\n", got[2])


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_events_come_at_once_through_a_pipe(play, option):
    linitd = play()

    def begin(connection):
        connection.sendall(lines(EVENTS[:2]))
        linitd.go_on.wait(2 * PATIENCE)
    linitd.steps.append(("events", begin))
    with running(linitd, "events", *option, stdout=subprocess.PIPE) as process:
        assert "httpd" in read_until(process.stdout.fileno(), "starting")


def test_events_come_at_once_and_end_by_ctrl_c(play, interruptible):
    linitd = play()

    def begin(connection):
        connection.sendall(lines(EVENTS[:2]))
        linitd.go_on.wait(PATIENCE)
    linitd.steps.append(("events", begin))
    with terminal() as (master, slave), running(
            linitd, "events", stdout=slave, stderr=slave) as process:
        os.close(slave)
        assert read_until(master, "\n") == "3.502 httpd \033[33mstarting\033[0m\n"
        time.sleep(1.3)                 # no line says that it waits
        process.send_signal(signal.SIGINT)
        assert read_until(master, None) in ("\r\033[Klinitctl: interrupted\n",
                                            "^C\r\033[Klinitctl: interrupted\n")
        assert process.wait(PATIENCE) == 130


# ---- check -------------------------------------------------------------------------------------

HEAD = "#!/etc/rc.common\n"
GOOD = HEAD + "start() { :; }\n"


@pytest.fixture
def scripts(tmp_path):
    """A function that writes scripts, NAME=text, and gives their folder."""
    folder = tmp_path / "scripts"
    folder.mkdir()

    def write(**texts):
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return folder

    return write


def checked(folder, *options):
    """(status, lines without the folder, what was said at last) of `check`."""
    status, stdout, stderr = run(folder / "none", "check", folder, *options)
    return status, stdout.replace(f"{folder}/", "").splitlines(), stderr


def problems(write, text, **others):
    """What `check` finds in a script `a` with TEXT, beside `b` and `getty`."""
    folder = write(**{"a": text, "b": GOOD, "getty": GOOD, **others})
    return [line.partition(":")[2] for line in checked(folder)[1] if line.startswith("a:")]


@pytest.mark.parametrize("text", [
    GOOD, HEAD + "run() { exec httpd; }", HEAD + "run() { . /lib/run; }\n",
    HEAD + "depends() { dep b getty@tty1 boot pre linit-supd@x; }\n",
    # as the original Panux has them
    HEAD + "dependencies() {\n\tdep linit-supd b\n}\n"
    "start() {\n\tlinit-sup --name a -- httpd -f\n}\nstop() {\n\tlinit-sup-stop a\n}\n",
    HEAD + "restart=on-failure\nbackoff=0.5\nready=file:/run/a\nstop_signal=HUP\ntimeout=\"90\"\n"
    "user='root'\nrun() {\n\texec a\n}\n",
    HEAD + "run() {\n\tif x; then\n\t\tA=1 exec a >/dev/null 2>&1 &\n\tfi\n}\n",
    HEAD + "start() {\n\ttimeout=soon\n\tcase $x in\n\trestart) echo dep nothing ;;\n\tesac\n}\n",
    HEAD + "start() {\n\tcat <<-END >x\n\t\tdep nothing\n\tEND\n\techo \"\ndep nothing\"\n}\n",
    HEAD + "start() {\n\tcat <<'A' <<B\nit's\nA\ndep nothing\nB\n}\n",
    HEAD + "start() { echo \"${x:-it's}\" \"$(echo \"a b\" ')')\" `x y`; } # dep nothing\n",
    HEAD + "depends() { dep b >x 2>&1; dep \\\n b; after nothing; }\n",
    GOOD + "stop_signal=15\n", HEAD + "start() {\n\tcat <<A\nexit 0\nA\n\texit 0\n}\n",
    HEAD + "users=x\nuser=\nstart() { echo $users; }\n",
    HEAD + "start() {\n\t{ :; }\n\tcase x in\n\tx) y ;;\n\tesac\n\ttimeout=soon\n}\n",
    HEAD + "start() { { timeout=soon; } }\n", GOOD + "user=0\n",
    HEAD + "start() { x=$( (a); dep nothing ) y=`a; dep nothing` z=${x:-a; dep nothing}; }\n"])
def test_check_of_what_is_right(scripts, text):
    assert problems(scripts, text) == []


@pytest.mark.parametrize("text, found", [
    ("#!/bin/sh\nstart() { :; }\n", ["1: its first line must be #!/etc/rc.common"]),
    ("#!/etc/rc.common\r\nstart() { :; }\r\n", [
        "1: its lines end with CR LF: sed -i 's/\\r//' a",
        '3: Syntax error: end of file unexpected (expecting "}")']),
    ("", ["1: its first line must be #!/etc/rc.common"]),
    (HEAD + "stop() { :; }\n", ["1: neither start nor run nor depends"]),
    (HEAD + "start() { :; }\nrun() { exec a; }\n", ["3: start and run; a service has one of them"]),
    (HEAD + "\nrun() {\n\thttpd -f\n}\n",
     ["3: run without exec: linitd would watch the shell, not the daemon"]),
    (GOOD + "restart=no\n", ["3: restart=no: it must be yes, always, on-failure or never"]),
    (GOOD + "user=nonesuch\n", ["3: warning: user=nonesuch: there is no such user"]),
    (GOOD + "run() {\n", ["4: Syntax error: end of file unexpected (expecting \"}\")"]),
    (GOOD + "backoff=-1\n", ["3: backoff=-1: it must be seconds, at most 86400"]),
    (GOOD + "timeout=1m\n", ["3: timeout=1m: it must be seconds, at most 86400"]),
    (GOOD + "timeout=86401\n", ["3: timeout=86401: it must be seconds, at most 86400"]),
    (GOOD + "timeout=\n", ["3: timeout=: it must be seconds, at most 86400"]),
    (GOOD + "ready=file:run\n", ["3: ready=file:run: it must be exec, fd or file:/PATH"]),
    (GOOD + "stop_signal=BLOCK\n", ["3: stop_signal=BLOCK: it must be a signal's name, as TERM"]),
    (GOOD + "stop_signal=0\n", ["3: stop_signal=0: it must be a signal's name, as TERM"]),
    (GOOD + "ready='file:/a b'\n", ["3: ready='file:/a b': it must be exec, fd or file:/PATH"]),
    (GOOD + "exit 0\n", ["3: an exit outside of its functions: none of them is called"]),
    (GOOD + "log_times=on\n", ["3: log_times=on: it must be yes or no"]),
    (GOOD + "cgroup='memory.max=64M pids.max=9'\n", []),
    (GOOD + "cgroup=memory\n", ["3: cgroup=memory: it must be words like memory.max=64M"]),
    (GOOD + "cgroup=../x.y=1\n", ["3: cgroup=../x.y=1: it must be words like memory.max=64M"]),
    (GOOD + "export user='a b'\n", ["3: user='a b': it must be a user's name"]),
    (GOOD + "timeout=$x ready=`x`\n",
     ["3: dynamic: ready=`x` is computed", "3: dynamic: timeout=$x is computed"]),
    (GOOD + "restrat=never\n", ["3: warning: restrat: no such setting; did you mean restart?"]),
    (GOOD + "depends() { dep c; }\n", ["3: dep c: there is no such script"]),
    (GOOD + "depends() {\n\tdep b \\\n\t\tc@1\n}\n", ["4: dep c@1: there is no such script"]),
    (GOOD + "depends() { want c; binds d; }\n",
     ["3: binds d: there is no such script", "3: warning: want c: there is no such script"]),
    (GOOD + "depends() { ! dep b || dep .c; }\n", ["3: dep .c: not a service name"]),
    (GOOD + "depends() {\n\tdep $(cat x y) \"$y\"\n\tafter b*\n}\n",
     ["4: dynamic: dep \"$y\" is computed, and not followed",
      "4: dynamic: dep $(cat x y) is computed, and not followed",
      "5: dynamic: after b* is computed, and not followed"]),
    (GOOD + "depends() ( dep c )\nx() { (cd /; dep d); }\n",
     ["3: dep c: there is no such script", "4: dep d: there is no such script"]),
    (GOOD + "depends() { dep a; }\n", ["3: a cycle: a, a"]),
    (GOOD + "depends() { dep '\033[2J'; }\n", ["3: dep '\\x1b[2J': not a service name"]),
    (GOOD + "depends() { if dep c; then :; fi; }\n", ["3: dep c: there is no such script"]),
    (GOOD + "depends() { x='\n' dep c; }\n", ["3: dep c: there is no such script"]),
    (GOOD + "x='\ndep c\n", ["5: Syntax error: Unterminated quoted string"])])
def test_check_of_what_is_wrong(scripts, text, found):
    assert problems(scripts, text) == found


@pytest.mark.parametrize("text", [
    'echo "${x:-it\'s}"', "echo 'a\"b'", 'echo "a\'b"', "echo \\\" \\'", "echo \"\\\"\"",
    "echo $(x $((1 + (2))) ')')", "echo \"$(x \"a 'b'\" ')')\"", "echo `x 'y z'` ${x#'}'}",
    "cat <<-END >x\n\tit's\n\tEND", "cat <<'A B' <<\\C\nit's\nA B\n\"\nC", "# it's\n:",
    "case $x in\na | \"b\") x ;;\nesac", "x=$(cat <y) z='\n'"])
def test_the_reader_of_shell_finds_its_way_out_of(scripts, text):
    script = f"{HEAD}start() {{\n{text}\n}}\ntimeout=soon\n"
    line = script.count("\n")
    assert problems(scripts, script) == [f"{line}: timeout=soon: it must be seconds, at most 86400"]


def test_check_finds_cycles_once_with_their_path(scripts):
    folder = scripts(a=GOOD + "depends() { dep b; }\n", b=GOOD + "depends() { dep x; want c; }\n",
                     c=GOOD + "depends() {\n\tafter b\n\tdep a\n}\n", x=GOOD,
                     g=GOOD + "depends() { dep h@1; }\n", h=GOOD + "depends() { dep g; }\n",
                     y=GOOD + "depends() { after z; }\n", z=GOOD + "depends() { dep y; }\n")
    assert checked(folder) == (1, ["c:5: a cycle: a, b, c, a", "h:3: a cycle: g, h@1, g"],
                               "8 services, 2 errors, 0 warnings, 0 dynamic\n")


def test_check_of_files(scripts):
    folder = scripts(**{"a": GOOD, "b": GOOD, "c": GOOD, ".d": GOOD, "e~": GOOD, "f" * 101: GOOD,
                        "c.lpkg-new": "what lpkg puts beside c, where that was changed here"})
    (folder / "a").chmod(0o644)
    (folder / "b").chmod(0o775)
    (folder / "big").write_text(GOOD + "#" * (1 << 20) + "\ndep nothing\n")
    (folder / "big").chmod(0o755)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "gone").symlink_to("nowhere")
    (folder / "link").symlink_to("c")
    (folder / "secret").write_text(GOOD + "user=nobody\n")
    (folder / "secret").chmod(0o700)
    status, found, said = checked(folder)
    assert (status, said) == (1, "12 services, 10 errors, 0 warnings, 0 dynamic\n")
    no_name = ":1: not a service name: letters, digits and _.+:@- only, not . - or @ first, at " \
        "most 100"
    assert found == [
        f".d{no_name}", f"a:1: not executable: chmod +x {folder}/a".replace(f"{folder}/", ""),
        "b:1: others than its owner may write it: chmod go-w b",
        "big:1: more than 1 MiB; the rest is not read", f"e~{no_name}", f"{'f' * 101}{no_name}",
        "fifo:1: it is not a file", "folder:1: it is not a file",
        "gone:1: No such file or directory", "secret:3: nobody can't read this script: "
        f"chmod a+r {folder}/secret".replace(f"{folder}/", "")]


def test_check_runs_nothing_and_warnings_are_no_errors(scripts, tmp_path):
    trap = f"touch {tmp_path}/trap\n"
    folder = scripts(a=HEAD + trap + "depends() { want c; dep $(touch x); }\n" + trap)
    assert checked(folder) == (0, [
        "a:3: dynamic: dep $(touch x) is computed, and not followed",
        "a:3: warning: want c: there is no such script"],
        "1 service, 0 errors, 1 warning, 1 dynamic\n")
    assert not (tmp_path / "trap").exists()


def test_check_as_json(scripts):
    folder = scripts(a=GOOD + "depends() { dep c; }\n")
    status, stdout, stderr = run(folder / "none", "check", folder, "--json")
    assert (status, stderr) == (1, "")
    assert json.loads(stdout) == [{"file": f"{folder}/a", "line": 3, "level": "error",
                                   "text": "dep c: there is no such script"}]


def test_check_knows_the_users_of_the_system_whose_scripts_it_reads(tmp_path):
    folder = tmp_path / "etc/init.d"
    folder.mkdir(parents=True)
    (folder / "a").write_text(HEAD + "user=ann\nrun() { exec a; }\n")
    (folder / "a").chmod(0o755)
    assert checked(folder)[:2] == (0, [])
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    assert checked(folder)[:2] == (1, ["a:2: user=ann: there is no such user"])
    (tmp_path / "etc/passwd").write_text("ann:x:9:9::/:/bin/sh\n")
    assert checked(folder)[:2] == (0, [])


def test_check_of_no_folder(tmp_path):
    status, stdout, stderr = run(tmp_path / "none", "check", tmp_path / "nothing")
    assert (status, stdout) == (1, "")
    assert stderr == f"linitctl: {tmp_path}/nothing: No such file or directory\n"


def test_check_of_the_services_here(tmp_path):
    for path in (ROOT / "initd").iterdir():
        if path.read_text().startswith(HEAD):
            shutil.copy(path, tmp_path)
    status, found, _ = checked(tmp_path)
    assert status == 0, found


@pytest.mark.parametrize("text", [
    "'", '"', "`", "$(", "${", "\\", "<<", "<<x", "((((", "))))", "}}}}", "a()", "()", "=", "x=",
    "dep", "\0\xff", "dep " + "$(" * 3000, "{ " * 3000, "'\n" * 3001])
def test_check_of_what_is_no_shell(scripts, text):
    for whole in text, GOOD + text, GOOD + text + "\nstart() { :; }\n":
        status, _, stderr = checked(scripts(a=whole))
        assert status in (0, 1) and stderr.startswith("1 service, ")


@pytest.mark.parametrize("word, text", [
    ("a", "a"), ("'a b'", "a b"), ('"a"b\\c', "abc"), ('"it\'s"', "it's"), ("", ""), ("''", ""),
    ("$a", None), ('"$a"', None), ("'$a'", "$a"), ("\\$a", "$a"), ("`a`", None), ("a*", None),
    ("'a", None), ("~", None), ('"a\\b"', None)])
def test_literal(word, text):
    assert linitctl.literal(word) == text


# ---- completion --------------------------------------------------------------------------------

COMPLETIONS = ROOT / "world/completions"
# Each gives a line for each completion of the words before the last, and that.
COMPLETE = {
    "bash": 'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE="{line}"; '
            'COMP_POINT=${{#COMP_LINE}}; _linitctl; printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": 'words=({words}); CURRENT=$#words; PREFIX=$words[-1]\n'
           'compadd() {{ shift; print -l -- ${{(M)@:#$PREFIX*}}; }}; _linitctl',
    "fish": 'complete -C "{line}" | string replace -r "\\t.*" ""; true',
}
FLAGS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.fixture
def completes(tmp_path):
    """What gives the completions of words in a shell, with linitctl on its PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "linitctl").write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -S {SCRIPT} --socket {tmp_path}/sock "$@"\n')
    (programs / "linitctl").chmod(0o755)

    def complete(shell, *words, initd="/etc/init.d"):
        text = (COMPLETIONS / f"linitctl.{shell}").read_text().replace("/etc/init.d", str(initd))
        line = COMPLETE[shell].format(words=" ".join(word or "''" for word in words),
                                      line=" ".join(words))
        begin = "compdef() { :; }\n_files() { :; }\n" * (shell == "zsh")
        done = subprocess.run(
            [shutil.which(shell), *FLAGS[shell], "-c", f"{begin}{text}\n{line}"],
            env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}, cwd=programs,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            timeout=PATIENCE, check=True)
        return set(done.stdout.decode().split())

    return complete


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_in_a_real_shell(play, completes, scripts, shell):
    named = sum("NAME" in words for _, words, _, _ in linitctl.VERBS.values())
    play(*[("list", lines(LIST))] * (4 + named))
    assert completes(shell, "linitctl", "sta") == {"start", "status"}
    assert completes(shell, "linitctl", "") == set(linitctl.VERBS)
    assert completes(shell, "linitctl", "start", "m") == {"mailer"}
    assert completes(shell, "linitctl", "why", "") == {
        "broken", "cron", "getty@tty1", "httpd", "mailer"}
    assert completes(shell, "linitctl", "log", "getty") == {"getty@tty1"}
    assert completes(shell, "linitctl", "start", "httpd", "cr") == {"cron"}
    assert completes(shell, "linitctl", "list", "--js") == {"--json"}
    flags = {"-f", *(flag for flag in linitctl.OPTIONS if flag[1] == "-")}
    assert flags <= completes(shell, "linitctl", "list", "-")
    for verb, (_, words, _, _) in linitctl.VERBS.items():
        assert ("mailer" in completes(shell, "linitctl", verb, "mai")) == ("NAME" in words), verb


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_without_a_linitd_has_the_scripts(completes, scripts, shell):
    folder = scripts(httpd=GOOD, network=GOOD)
    assert completes(shell, "linitctl", "start", "", initd=folder) == {"httpd", "network"}
    assert completes(shell, "linitctl", "start", "n", initd=folder) == {"network"}


def test_bash_breaks_words_at_an_at_sign(play, tmp_path, completes):
    play(("list", lines(LIST)))
    text = (COMPLETIONS / "linitctl.bash").read_text()
    program = f"""{text}
        COMP_WORDS=(linitctl start getty @ t) COMP_CWORD=4 COMP_LINE='linitctl start getty@t'
        COMP_POINT=${{#COMP_LINE}}; _linitctl; echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "--norc", "-c", program], stdout=subprocess.PIPE, check=True,
                          env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, timeout=PATIENCE)
    assert done.stdout == b"tty1\n"


@pytest.mark.parametrize("checker", [["bash", "-n"], ["zsh", "-n"], ["fish", "--no-execute"]])
def test_completions_are_well_formed(checker):
    done = subprocess.run([*checker, COMPLETIONS / f"linitctl.{checker[0]}"], timeout=PATIENCE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


# ---- Pythons, imports, the house ---------------------------------------------------------------

@pytest.mark.parametrize("version", pythons())
def test_every_python(play, tmp_path, version):
    (tmp_path / "log").write_text("a line\n")
    log = lines([f" {tmp_path}/log", "ok"])

    def late(connection):
        time.sleep(1.2)
        connection.sendall(b"ok\n")
    linitd = play(*[("graph", lines(BOOT))] * 3,
                  ("list", lines(LIST)), ("status httpd", lines(RUNNING)), ("log a", log),
                  ("start a", UNKNOWN), ("stop a", late))
    python = pythons()[version]
    (tmp_path / "initd").mkdir()
    (tmp_path / "initd/a").write_text(HEAD + "depends() { dep $(x) b; }\n")
    assert run(linitd, "check", tmp_path / "initd", python=python)[1].count("\n") == 3
    assert run(linitd, "plot", python=python)[1].startswith("<svg")
    assert run(linitd, "blame", python=python)[1].startswith("    4.900 s later\n")
    assert run(linitd, "graph", python=python)[1].startswith("boot: running\n")
    assert run(linitd, "strat", python=python)[0] == 2
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
    requests = [("list", lines(LIST)), ("status httpd", lines(RUNNING)), ("start httpd", b"ok\n"),
                ("graph", b"ok\n"), ("wait httpd", b"ok\n"), ("stop -9 httpd", b"ok\n")]
    linitd = play(*requests)
    for request, _ in requests:
        words = [request.split()[0], *typed(request)[1]]
        code = ("import sys; before = set(sys.modules); code = dict(__name__='linitctl'); "
                f"exec(open({SCRIPT!r}).read(), code); code['main']({words!r}); "
                "print(*set(sys.modules) - before, file=sys.stderr)")
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True,
                              env=environment(LINITSOCK=linitd.path))
        assert set(done.stderr.decode().splitlines()[-1].split()) <= {
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


@pytest.mark.parametrize("name", ["printable", "say", "progress", "nearest"])
def test_what_lpkg_has_too_is_the_same(name):
    lpkg = load_tool("lpkg")
    assert inspect.getsource(getattr(linitctl, name)) == inspect.getsource(getattr(lpkg, name))
