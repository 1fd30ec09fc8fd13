"""Attacks on linitd, each against the real script, real shells, FIFOs and processes.

`test_sNN_` is the attack of that number in docs/SECURITY.md; some are in tests/test_linitd.py. The
fuzzers of tests/fuzz_linit.py run here with a fixed seed for some seconds, and longer by
`make fuzz`."""
import contextlib
import marshal
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import fuzz_linit
import pytest
from conftest import ROOT, compile_program, environment, load_tool, wait_until
from test_initd import is_alive
from test_linit_model import Asleep
from test_linitd import (       # some are fixtures
    SLEEP, Client, Linitd, as_user, before, children, cold, first, freezable, init, one,
    print_for_ever, read, run, running, targets, up)

LOOKS = {"paths", "status", "wait", "list", "graph", "events"}   # what anybody may ask
# It forks whenever it can; all but the first live for a moment, so that most have no parent left.
BOMB = """import os, time
first, end = os.getpid(), 0
while os.getpid() == first or time.monotonic() < end:
    try:
        end = end if os.fork() else time.monotonic() + 0.2
    except OSError:
        time.sleep(0.02)
"""
PYTHON = "/usr/bin/python3"     # which any user may execute


def client_of(uid):
    """A connection of the user UID to the linitd of this folder."""
    with as_user(uid):
        return Client("socket")


def processes_of(uid):
    """The processes of a user, but zombies."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"/proc/{name}").st_uid == uid and b") Z " not in read(f"/proc/{name}/stat"):
                found.append(int(name))
    return found


def memory(pid, key="VmRSS"):
    """KiB that a process takes."""
    return int(re.search(rb"%s:\s+(\d+)" % key.encode(), read(f"/proc/{pid}/status"))[1])


# ---- 27: what other users may ask ----------------------------------------------------------------

def test_s27_each_verb_that_changes_something_is_denied(up):
    up.add("it", "start() { :; }")
    client = client_of(1000)
    verbs = load_tool("linitd").CLIENT_REQUESTS.keys() - LOOKS
    assert {"start", "stop", "reload", "log", "reexec", "poweroff"} <= verbs
    for verb in sorted(verbs):
        assert client.ask(f"{verb} it")[0].startswith(f"error 4 {verb}: only root")
    client.close()
    assert up.process.poll() is None and up.states() == {"it": "stopped"}


def test_s27_waiting_makes_no_services(up):
    """Else any user could fill the memory with instances."""
    up.add("getty", SLEEP)
    for number in range(20):
        client = client_of(1000)
        client.send("wait " + " ".join(f"getty@{number}-{each}" for each in range(100)))
        time.sleep(0.02)
        client.close()
    assert up.states() == {"getty": "stopped"}


def test_s27_nobody_else_reads_what_services_say(up):
    """Neither a reason in an event, nor the files, nor what linitd has open and knows."""
    up.add("bad", "start() { echo a secret; return 1; }")
    client = client_of(1000)
    client.send("events")
    heard = [client.lines.readline()]
    up.ask("start bad")
    heard += [client.lines.readline() for _ in range(2)]
    assert heard[2].split()[1:] == ["bad", "failed", "-"] and "secret" not in str(heard)
    up.expect("bad", b"secret")
    with as_user(1000):
        for path in ("log/bad", "socket.d/bad.log", f"/proc/{up.process.pid}/environ"):
            with pytest.raises(PermissionError):
                open(path, "rb")
        for path in ("log", "socket.d", f"/proc/{up.process.pid}/fd"):
            with pytest.raises(PermissionError):
                os.listdir(path)
    client.close()


# ---- 28: descriptors -----------------------------------------------------------------------------

@pytest.mark.parametrize("body", [
    SLEEP, "user=nobody\n" + SLEEP,
    "ready=fd\nrun() { exec sh -c 'echo >&3; exec 3>&-; exec sleep 1000'; }"])
def test_s28_a_daemon_of_pid_1_has_no_descriptor_but_its_log(first, body):
    first.folder.chmod(0o755)
    for path in (first.folder, *first.folder.parents):
        path.chmod(path.stat().st_mode | 0o011)
    first.start("--no-boot")
    first.add("other", SLEEP)
    first.add("daemon", body)
    assert first.ask("start daemon other") == ["ok"]
    for pid in children(first.first):
        assert set(targets(pid, b"sleep\x001000")) == {0, 1, 2}


def test_s28_nothing_is_inherited_after_a_sleeper_that_cannot_be_executed(up):
    """For it all descriptors had been made inheritable."""
    (up.folder / "linit-idle").write_bytes(b"\x7fELF, but not really")
    (up.folder / "linit-idle").chmod(0o755)
    assert up.ask("poweroff") == ["ok"] and up.wait() == 0
    up.add("before", SLEEP)
    up.start("--no-boot")
    clients = [up.connect(), up.connect()]
    assert clients[0].ask("start before") == ["ok"]
    open_before = len(up.descriptors())
    wait_until(lambda: "linitd stays awake" in up.console())
    assert len(up.descriptors()) <= open_before
    up.add("after", SLEEP)
    assert clients[0].ask("start after") == ["ok"]
    assert set(targets(up.pid("after"), b"sleep\x001000")) == {0, 1, 2}


# ---- 29: rubbish from a script -------------------------------------------------------------------

@pytest.mark.parametrize("words, answer", [
    ("printf '\\n'", "error 2 a request without a word, or with a NUL"),
    ("printf 'dep\\0 other\\n'", "error 2 a request without a word, or with a NUL"),
    ("printf 'dep \\377\\n'", "error 2 a request that isn't UTF-8"),
    ("printf 'dep\\n'", "error 2 dep: it needs the name of a service"),
    ("printf 'dep ../x\\n'", "error 1 it needs ../x: not a service name"),
    ("printf 'poweroff\\n'", "error 2 poweroff: no such request"),
    ("printf 'start other\\n'", "error 2 start: no such request")])
def test_s29_rubbish_of_a_script_is_answered(init, words, answer):
    init.add("other", "start() { :; }")
    fifo = f"{init.socket}.d/it.answer"
    init.add("it", f"depends() {{ {words} >&9; read -r line <{fifo}; "
             f'echo "$line" >{init.folder}/heard; }}')
    assert init.ask("start it")[-1] == "ok" or "error 1" in answer
    assert read(init.folder / "heard").decode() == answer + "\n"
    assert init.state("other") == "stopped" and "should not happen" not in init.console()


def test_s29_an_endless_line_of_a_script_ends_it_with_a_reason(up):
    up.add("it", "depends() { yes | tr -d '\\n' >&9; }")
    [answer] = up.ask("start it")
    assert answer == "error 1 it: a request of more than 262144 bytes"
    wait_until(lambda: not up.left_behind())


def test_s29_a_daemon_that_writes_to_its_descriptor_for_ever_costs_nothing(up, before):
    up.add("flood", "ready=fd", "run() { exec sh -c 'echo >&3; exec yes \"\" >&3'; }")
    assert up.ask("start flood") == ["ok"]
    time.sleep(0.3)
    ticks = up.ticks()
    time.sleep(0.5)
    assert up.ticks() - ticks <= 5
    assert up.ask("stop flood") == ["ok"]
    before.states["flood"] = "stopped"
    before.check()


def test_s30_who_reads_no_events_is_dropped(one):
    one.alter("EVENTS_LIMIT = 256 << 10", "EVENTS_LIMIT = 1000")
    one.add("it", "start() { :; }")
    one.start("--no-boot")
    client = one.connect()
    client.send("events")
    poll = select.poll()
    poll.register(client.socket, select.POLLHUP)
    for _ in range(1000):
        if poll.poll(0):
            break
        assert one.ask("restart it") == one.ask("start it") == ["ok"]
    assert poll.poll(0) and one.ask("start it") == ["ok"]


# ---- 30: no descriptors while scripts are started ------------------------------------------------

def limit_descriptors(pid, more):
    """Let linitd have so many MORE than now; all that it had when MORE is none."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    count = len(os.listdir(f"/proc/{pid}/fd"))
    soft = hard if more is None else count + more
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", [2, 3, 4, 5, 6, 20])
def test_s30_scripts_without_descriptors_fail_by_name_and_start_later(up, before, more):
    names = [f"s{number}" for number in range(30)]
    for name in names:
        up.add(name, "start() { echo said; sleep 0.2; }")
    before.states.update(dict.fromkeys(names, "running"))
    client = up.connect()
    time.sleep(0.1)
    limit_descriptors(up.process.pid, more)
    [answer] = client.ask("start " + " ".join(names))
    assert "could not be run: Too many open files" in answer
    wait_until(lambda: len(up.descriptors()) <= len(before.descriptors) + 1)
    limit_descriptors(up.process.pid, None)
    assert client.ask("start " + " ".join(names)) == ["ok"]
    client.close()
    before.check()


@pytest.mark.parametrize("more", [2, 3, 7, 20])
def test_s30_pid_1_without_descriptors(first, more):
    names = [f"s{number}" for number in range(30)]
    for name in names:
        first.add(name, "start() { echo said; sleep 0.2; }")
    first.start("--no-boot")
    client = first.connect()
    assert client.ask("list")[-1] == "ok"
    count = len(os.listdir(f"/proc/{first.first}/fd"))
    limit_descriptors(first.first, more)
    [answer] = client.ask("start " + " ".join(names))
    assert "could not be run: Too many open files" in answer
    wait_until(lambda: len(os.listdir(f"/proc/{first.first}/fd")) <= count)
    limit_descriptors(first.first, None)
    assert client.ask("start " + " ".join(names)) == ["ok"]
    wait_until(lambda: len(os.listdir(f"/proc/{first.first}/fd")) <= count)
    assert "should not happen" not in first.screen()


# ---- 32: scripts that are no files ---------------------------------------------------------------

@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_s32_what_is_no_file_is_not_run(up, make):
    make(up.initd / "it")
    assert up.ask("start it") == [f"error 1 it: {up.initd}/it: not a file"]


@pytest.mark.parametrize("verb", ["stop", "reload", "enable", "disable"])
def test_s32_nor_is_any_function_of_what_others_can_have_written_since(up, verb):
    up.add("it", "start() { :; }", f"{verb}() {{ {up.does(verb)}; }}")
    assert up.ask("start it") == ["ok"]
    (up.initd / "it").chmod(0o757)
    answer, = up.ask(f"{verb} it")
    assert answer.startswith("error 1 it: ") and "others can write it" in answer
    assert up.trace() == []


# ---- 33: who says what, and when -----------------------------------------------------------------

def test_s33_another_user_reaches_no_script_s_fifo(up):
    """Nor where the folder had been opened before, or stands open."""
    up.add("it", "depends() { sleep 1; }")
    client = up.connect()
    client.send("start it")
    wait_until((up.folder / "socket.d/it.ask").exists)
    assert (up.folder / "socket.d").stat().st_mode & 0o777 == 0o700
    (up.folder / "socket.d").chmod(0o755)
    with as_user(1000):
        for name in ("it.ask", "it.answer", "it.log"):
            with pytest.raises(PermissionError):
                os.open(f"socket.d/{name}", os.O_WRONLY | os.O_NONBLOCK)
    assert client.answer() == ["ok"]


# One that keeps the descriptor, and says LINES when it may, whether anybody reads them or not.
LATE = """depends() {
	if ! [ -e {0}/first ]; then
		setsid sh -c "trap '' PIPE
			while ! [ -e {0}/go ]; do sleep 0.05; done
			printf '%b' '{1}' >&9
			touch {0}/said" &
		touch {0}/first
	fi
}"""
LINES = ["end start 0\\n", "end start 1\\n", "end alone 0\\n", "dep other\\n", "want other\\n",
         "settings type=run ready=fd\\n\\n", "settings timeout=0\\n", "frobnicate\\n", "\\0\\n"]


def say_late(init):
    (init.folder / "go").touch()
    wait_until((init.folder / "said").exists)
    time.sleep(0.2)


@pytest.mark.parametrize("lines", LINES)
def test_s33_a_process_of_an_earlier_life_is_not_heard(up, lines):
    up.add("other", "start() { :; }")
    up.add("it", LATE.replace("{0}", str(up.folder)).replace("{1}", lines),
           f"start() {{ [ ! -e {up.folder}/slow ] || sleep 1; }}")
    assert up.ask("start it") == ["ok"]
    wait_until(lambda: not children(up.process.pid))
    assert up.ask("stop it") == ["ok"]
    (up.folder / "slow").touch()
    client = up.connect()
    client.send("start it")
    say_late(up)
    assert up.states() == {"it": "starting", "other": "stopped"}
    assert client.answer() == ["ok"]


@pytest.mark.parametrize("lines", LINES)
def test_s33_what_a_script_leaves_says_nothing_after_its_end(up, lines):
    """What depends started in the background has the script's descriptor."""
    up.add("other", "start() { :; }")
    up.add("it", LATE.replace("{0}", str(up.folder)).replace("{1}", lines))
    assert up.ask("start it") == ["ok"]
    say_late(up)
    assert up.states() == {"it": "running", "other": "stopped"}
    up.ask("stop it")
    assert up.states() == {"it": "stopped", "other": "stopped"}


def test_s33_a_script_that_says_it_ended_and_goes_on_is_ended(up):
    up.add("it", "depends() { echo end start 1 >&9; exec sleep 1000; }")
    for _ in range(2):
        assert up.ask("start it") == ["error 1 it: start ended with status 1"]
    assert up.ask("stop it") == ["ok"]
    wait_until(lambda: not up.left_behind())


def test_s29_a_script_that_asks_much_before_it_listens_is_answered_all(up):
    """More than a FIFO holds."""
    up.add("it", "depends() { yes frobnicate | head -n 3000 >&9 & sleep 0.5",
           f"head -n 3000 <{up.socket}.d/it.answer | wc -l >{up.folder}/heard; }}")
    assert up.ask("start it") == ["ok"]
    assert read(up.folder / "heard").split() == [b"3000"]


def test_s33_a_script_that_is_stopped_asks_for_nothing(up):
    up.add("other", "start() { :; }")
    up.add("it", "depends() { trap 'echo dep other >&9; echo end depends 1 >&9; sleep 0.3; exit 0' "
           "TERM; echo up; while :; do sleep 0.05; done; }")
    client = up.connect()
    client.send("start it")
    wait_until(lambda: up.status("it")["tail"] == ["up"])
    assert up.ask("stop it") == ["ok"]
    assert client.answer() == ["error 1 it: it was stopped"]
    assert up.states() == {"it": "stopped", "other": "stopped"}


def test_s33_ready_after_stop_is_nothing(up):
    up.add("it", "ready=fd", "timeout=2", "run() { exec sh -c '"
           "trap \"echo >&3; sleep 0.3; exit\" TERM; echo up; while :; do sleep 0.05; done'; }")
    client = up.connect()
    client.send("start it")
    wait_until(lambda: up.status("it")["tail"] == ["up"])
    assert up.ask("stop it") == ["ok"]
    assert client.answer() == ["error 1 it: it was stopped"]
    assert "it is running" not in up.console()


ORDERS = {
    "ready before settings": (["end start 0"], "running"),
    "settings twice": (["settings type=start timeout=5", "settings timeout=9"], "running"),
    "an end without a status": (["end start"], "failed"),
    "an end that is none": (["end of the world"], "failed"),
    "alone": (["end alone 0"], "running"),
    "alone, and more": (["end alone 0", "frobnicate", "end start 1"], "failed"),
    "a daemon that ends": (["settings type=run ready=fd restart=never", ""], "stopped"),
    "another's name": (["end start 0 other", "settings type=start other"], "running"),
    "a wrong setting": (["settings " + "x" * 5000], "failed"),
    "a wrong setting, later": (["end start 0", "settings x=y"], "running"),
}


@pytest.mark.parametrize("kind", [Linitd, "First"])
@pytest.mark.parametrize("lines, state", ORDERS.values(), ids=ORDERS)
def test_s33_lines_in_the_wrong_order(tmp_path, kind, lines, state):
    """Only the service that says them is touched."""
    from test_linitd import First
    init = (First if kind == "First" else kind)(tmp_path)
    said = "; ".join(f"echo '{line}' >&9" for line in lines)
    init.add("it", f"depends() {{ {said}; }}")
    init.add("other", "start() { :; }")
    init.add("top", "depends() { dep other it; }")
    try:
        init.start("--no-boot")
        init.ask("start top it other")
        wait_until(lambda: init.states()["it"] == state and init.states()["other"] == "running")
        assert len(init.status("it").get("reason", "")) <= 500
        assert init.ask("stop it other")[0].partition(" ")[0] == "ok"
        assert "should not happen" not in init.console() + str(read(init.folder / "screen"))
    finally:
        assert not init.end()


# ---- the folder of FIFOs -------------------------------------------------------------------------

def foreign_folder(path, folder):
    path.mkdir(mode=0o777)
    os.chown(path, 1000, 1000)


def link_to_a_folder(path, folder):
    foreign_folder(folder / "foreign", folder)
    path.symlink_to(folder / "foreign")


def link_to_ours(path, folder):
    (folder / "foreign").mkdir()
    path.symlink_to(folder / "foreign")


PLANTED = [foreign_folder, link_to_a_folder, link_to_ours, lambda path, folder: path.touch(),
           lambda path, folder: os.mkfifo(path),
           lambda path, folder: path.symlink_to(folder / "nowhere")]


@pytest.mark.parametrize("plant", PLANTED)
def test_s33_a_planted_folder_of_fifos_is_not_used(one, plant):
    path = one.folder / "socket.d"
    plant(path, one.folder)
    found = os.lstat(path)
    status, _, text = run(one, "--no-boot")
    assert status == 1 and re.fullmatch(r"linitd: \S+/socket\.d: .*\n", text)
    assert not one.socket.exists()
    for field in ("st_ino", "st_mode", "st_uid", "st_size", "st_mtime_ns"):
        assert getattr(os.lstat(path), field) == getattr(found, field)
    assert not (one.folder / "nowhere").exists()


def test_s33_a_folder_that_is_planted_later_stops_scripts_alone(one):
    """The socket stays, so that one can ask why."""
    one.add("it", "start() { :; }")
    one.start("--no-boot")
    path = one.folder / "socket.d"
    path.rmdir()
    path.touch()
    [answer] = one.ask("start it")
    assert answer.startswith(f"error 1 it: {path}: ") and one.socket.exists()
    path.unlink()
    assert one.ask("start it") == ["ok"]


@pytest.mark.parametrize("plant", PLANTED)
def test_s33_pid_1_takes_another_folder_in_its_place(first, plant):
    """It can't end, and must not use that one."""
    path = first.folder / "socket.d"
    plant(path, first.folder)
    found = os.lstat(path)
    first.add("it", "start() { :; }")
    first.start("--no-boot")
    assert first.ask("start it") == ["ok"]
    assert (found.st_ino, found.st_mode) == (os.lstat(path).st_ino, os.lstat(path).st_mode)
    assert not (first.folder / "foreign").exists() or not os.listdir(first.folder / "foreign")
    assert not path.is_dir() or not os.listdir(path)
    assert len(re.findall(r"socket\.d: ", first.screen())) == 1


@pytest.mark.parametrize("suffix", ["ask", "answer", "log"])
@pytest.mark.parametrize("kind", ["symlink", "file", "folder", "fifo"])
def test_s33_planted_fifos_are_replaced(up, suffix, kind):
    victim = up.folder / "victim"
    victim.write_text("mine")
    path = up.folder / f"socket.d/it.{suffix}"
    wait_until(path.parent.is_dir)
    {"symlink": lambda: path.symlink_to(victim), "file": lambda: path.write_text("end start 0\n"),
     "folder": path.mkdir, "fifo": lambda: os.mkfifo(path)}[kind]()
    up.add("it", "start() { echo said; return 3; }")
    [answer] = up.ask("start it")
    named = "it could not be run: Is a directory" if kind == "folder" else "start ended with"
    assert answer.startswith(f"error 1 it: {named}") and victim.read_text() == "mine"
    if kind == "folder":
        path.rmdir()
        assert "status 3: said" in up.ask("start it")[0]
    wait_until(lambda: len(up.descriptors()) <= 8)


@pytest.mark.parametrize("options, text", [
    ("nr_inodes={used}", "No space left on device"), ("ro", "Read-only file system")])
def test_s38_no_room_for_fifos_is_a_named_error(one, options, text):
    folder = one.folder / "run"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        one.socket = folder / "socket"
        one.start("--no-boot")
        one.add("it", "start() { :; }")
        one.add("ours", SLEEP)
        assert one.ask("start ours") == ["ok"]
        used = os.statvfs(folder).f_files - os.statvfs(folder).f_ffree
        subprocess.run(["mount", "-o", f"remount,{options.format(used=used)}", folder], check=True)
        for _ in range(3):
            assert one.ask("start it") == [f"error 1 it: it could not be run: {text}"]
        assert one.state("ours") == "running"
        subprocess.run(["mount", "-o", "remount,rw,nr_inodes=1000", folder], check=True)
        assert one.ask("start it") == ["ok"]
    finally:
        one.end()
        subprocess.run(["umount", folder], check=True)


# ---- 35: the state that another linitd goes on with ----------------------------------------------

FORGED = ["ending\\nexit\\n", "\\033]0;x\\007{\\0}", "s\\365ending", "[services]\\nname: root",
          "\\r\\n ok\\r\\n"]


def everything(init, names):
    """What linitd says of its services, but how long."""
    shown = [[line for line in init.ok(f"status {name}") if not line.startswith(" seconds")]
             for name in names]
    return shown, init.ok("graph"), sorted(init.states().items())


@pytest.mark.parametrize("text", FORGED)
def test_s35_what_services_say_forges_no_state(up, text):
    up.add("talks", f"start() {{ printf '{text}'; }}")
    up.add("fails", f"start() {{ printf '{text}'; false; }}")
    up.add("daemon", "ready=fd", f"run() {{ exec sh -c 'printf \"{text}\"; echo >&3; "
           "exec sleep 1000'; }")
    up.add("top@x", "start() { :; }")
    up.add("top", "depends() { dep daemon; want fails; }")
    names = ["talks", "fails", "daemon", "top@x"]
    up.ask("start talks fails daemon top@x")
    wait_until(lambda: len(up.status("talks")["tail"]) > 0)
    said = everything(up, names)
    for _ in range(2):
        assert up.ask("reexec") == ["ok"]
        assert everything(up, names) == said
    assert up.ask("start top@x\nending=exit")[0] == "ok" and up.process.poll() is None
    assert up.ask("stop daemon") == ["ok"]


def test_s35_the_state_is_nobody_elses(up):
    up.add("daemon", SLEEP)
    assert up.ask("start daemon") == ["ok"]
    before = up.descriptors()
    client = up.connect()
    assert client.ask("reexec") == ["ok"] and client.ask("start daemon") == ["ok"]
    client.close()
    up.add("after", SLEEP)
    assert up.ask("start after") == ["ok"]
    for name in ("daemon", "after"):
        found = targets(up.pid(name), b"sleep\x001000")
        assert set(found) == {0, 1, 2} and "memfd" not in str(found)
    wait_until(lambda: len(up.descriptors()) <= len(before) + 1)        # its clients have gone
    paths = [os.readlink(f"/proc/{up.process.pid}/fd/{fd}") for fd in up.descriptors()]
    assert "memfd" not in str(paths)
    with as_user(1000), pytest.raises(PermissionError):
        os.listdir(f"/proc/{up.process.pid}/fd")


def marshalled(thing):
    return marshal.dumps(thing, 4)


STATES = {
    "rubbish": b"rubbish", "nothing": b"", "a number": marshalled(5), "no keys": marshalled({}),
    "wrong kinds": marshalled({"services": 1, "peers": {}, "batches": "x", "listener": []}),
    "no services": marshalled({"services": [5], "peers": [], "batches": [], "listener": None}),
    "cut": marshalled({"services": []})[:-3], "a deep list": b"[\x01\0\0\0" * 100000,
    "a huge count": b"[\xff\xff\xff\x7f", "code": marshalled(compile("1", "", "eval")),
}


@pytest.mark.parametrize("kind", ["memfd", "file"])
@pytest.mark.parametrize("data", STATES.values(), ids=STATES)
def test_s35_a_state_that_is_none_is_one_line(one, kind, data):
    fd = os.memfd_create("linitd") if kind == "memfd" else os.open(
        one.folder / "state", os.O_RDWR | os.O_CREAT)
    os.write(fd, data)
    refuses(one, str(fd), pass_fds=[fd])
    os.close(fd)


def test_s35_a_state_that_somebody_has_written_to_a_file_is_refused(one):
    path = one.folder / "state"
    path.write_bytes(marshalled({"services": [], "peers": [], "batches": [], "listener": None}))
    with open(path, "rb") as file:
        refuses(one, str(file.fileno()), pass_fds=[file.fileno()])


@pytest.mark.parametrize("word", ["x", "-1", "1e3", "500", "9" * 30, "9" * 5000, "\u0663"])
def test_s35_a_descriptor_that_is_none_is_one_line(one, word):
    refuses(one, word)


@pytest.mark.parametrize("path, flags", [("/dev/zero", os.O_RDONLY), ("/", os.O_RDONLY),
                                         ("/dev/null", os.O_WRONLY), ("/proc/self/mem", os.O_RDWR)])
def test_s35_a_foreign_descriptor_is_one_line(one, path, flags):
    fd = os.open(path, flags)
    refuses(one, str(fd), pass_fds=[fd])
    os.close(fd)


def refuses(init, word, **options):
    done = subprocess.run(init.command("--resume", word), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=20, check=False, **options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("linitd: --resume ") and not init.socket.exists()


# ---- 36: what is to be executed is broken --------------------------------------------------------

def test_s36_a_python_that_is_gone_at_reexec(one):
    """It says so, and goes on."""
    python = one.folder / "python"
    python.symlink_to(sys.executable)
    one.start("--no-boot", python=str(python))
    python.unlink()
    one.add("daemon", SLEEP)
    client = one.connect()
    for _ in range(2):
        assert client.ask("reexec") == ["error 1 linitd --check fails; this one goes on"]
    assert client.ask("start daemon") == ["ok"]
    assert "should not happen" not in one.console()


def test_s36_a_python_that_hangs_at_reexec_holds_nobody_up(one):
    """As on a disk that does: it is waited for as everything is, for a while."""
    python = one.folder / "python"
    python.symlink_to(sys.executable)
    one.alter("CHECK_LIMIT = 10.0 ", "CHECK_LIMIT = 2.0 ")
    one.start("--no-boot", python=str(python))
    one.add("daemon", SLEEP)
    python.unlink()
    python.write_text(f"#!/bin/sh\necho $$ >{one.folder}/pid\nexec sleep 1000\n")
    python.chmod(0o755)
    client, other = one.connect(), one.connect()
    client.send("reexec")
    wait_until(lambda: read(one.folder / "pid").endswith(b"\n"))
    pid = int(read(one.folder / "pid"))
    assert other.ask("start daemon") == ["ok"] and is_alive(pid)
    assert client.answer() == ["error 1 linitd --check fails; this one goes on"]
    wait_until(lambda: not is_alive(pid))
    assert other.ask("stop daemon") == ["ok"] and "should not happen" not in one.console()


def test_s36_a_sleeper_that_cannot_be_executed_at_reexec(one):
    (one.folder / "linit-idle").write_bytes(b"\x7fELF, but not really")
    (one.folder / "linit-idle").chmod(0o755)
    one.start("--no-boot")
    assert one.ask("reexec") == ["ok"]
    wait_until(lambda: "linitd stays awake" in one.console())
    assert one.ask("reexec") == ["ok"]


def is_asleep(pid):
    return os.readlink(f"/proc/{pid}/exe").endswith("/linit-idle")


def test_s36_what_changed_while_it_was_awake_is_tried(one):
    """A broken upgrade is neither executed nor slept on; a good one is, by itself."""
    compile_program("linit-idle", one.folder)
    one.alter("CHECK_AGAIN = 10.0 ", "CHECK_AGAIN = 0.1 ")
    one.start("--no-boot")
    one.add("daemon", SLEEP)
    good = one.program.read_text()
    one.ok("start daemon")
    one.program.write_text("raise SystemExit('a broken upgrade')\n")
    wait_until(lambda: "linitd --check fails; this one goes on" in one.console())
    assert not is_asleep(one.process.pid) and "a broken upgrade" not in one.console()
    assert " state running" in one.ok("status daemon")
    one.program.write_text(good.replace('VERSION = "', 'VERSION = "of another '))
    wait_until(lambda: is_asleep(one.process.pid))
    assert " state running" in one.ok("status daemon")


def test_s36_a_new_sleeper_is_left_to_the_linitd_that_came_with_it(one):
    """Its table may be another one: one that it doesn't understand, it would sleep on for ever."""
    compile_program("linit-idle", one.folder)
    one.start("--no-boot")
    one.ok("list")
    sleeper, seen = one.folder / "linit-idle", one.folder / "seen"
    one.program.write_text(one.program.read_text().replace("header = (2, ", "header = (3, "))
    (one.folder / "new").write_text(
        f"#!/bin/sh\nhead -c 1 /proc/self/fd/$1 >>{seen}\nexec sleep 1000\n")
    (one.folder / "new").chmod(0o755)
    (one.folder / "new").rename(sleeper)
    wait_until(lambda: read(seen))
    assert read(seen) == b"\3"
    one.process.kill()


# ---- 37: processes that won't end ----------------------------------------------------------------

USERS = iter(range(70000, 80000))


@pytest.fixture
def bomb(tmp_path):
    """A fork bomb of at most 60 processes at a time, of a user of its own."""
    uid = next(USERS)
    (tmp_path / "bomb.py").write_text(BOMB)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o011)
    yield uid, f"setpriv --reuid {uid} --clear-groups prlimit --nproc=60 " \
               f"{PYTHON} -I -S {tmp_path}/bomb.py"
    for pid in processes_of(uid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_s37_a_fork_bomb_in_start_is_killed_at_its_timeout(up, bomb):
    uid, words = bomb
    up.add("bomb", "timeout=1", f"start() {{ {words}; }}")
    client = up.connect()
    client.send("start bomb")
    wait_until(lambda: len(processes_of(uid)) > 30)
    up.ok("list")
    assert client.answer()[0].startswith("error 1 bomb: it was not ready after 1 s")
    wait_until(lambda: not processes_of(uid))


def test_s37_a_fork_bomb_as_a_daemon_ends_when_it_is_stopped(up, bomb):
    uid, words = bomb
    up.add("bomb", f"run() {{ exec {words}; }}")
    assert up.ask("start bomb") == ["ok"]
    wait_until(lambda: len(processes_of(uid)) > 30)
    assert up.ask("stop bomb") == ["ok"]
    wait_until(lambda: not processes_of(uid))


def test_s37_a_fork_bomb_of_pid_1_among_others(first, bomb):
    """Scripts of one shell share a session; without cgroups (test_world.py has one) what has lost
    its parent there lives until the end."""
    uid, words = bomb
    first.add("bomb", "timeout=1", f"start() {{ {words}; }}")
    for name in ("a", "b"):
        first.add(name, f"start() {{ sleep 1000 & echo $! >{first.folder}/{name}.pid; }}")
    first.start("--no-boot")
    client = first.connect()
    client.send("start a bomb b")
    assert client.answer()[0].startswith("error 1 bomb: it was not ready after 1 s")
    assert "sleep 1000" in first.left_behind().values()     # the others' are left alone
    assert first.ask("poweroff") == ["ok"]
    first.wait()
    assert not processes_of(uid)


def test_s37_the_end_comes_with_a_bomb_and_a_hanging_umount(first, bomb):
    uid, words = bomb
    first.add_program("umount", f"echo umount >>{first.folder}/calls", "exec sleep 1000")
    first.add("bomb", f"run() {{ trap '' TERM; exec {words}; }}", "stop() { sleep 1000; }",
              "timeout=1")
    first.be_a_machine_s()
    first.alter_rescue("at_most 30 sh", "at_most 5 sh")
    first.start("--no-boot")
    assert first.ask("start bomb") == ["ok"]
    wait_until(lambda: len(processes_of(uid)) > 30)
    assert first.ask("poweroff") == ["ok"]
    assert first.process.wait(timeout=40) == 0
    assert first.calls() == ["umount", "poweroff -f -n"] and not processes_of(uid)


def test_s37_a_flood_of_orphans_is_reaped(first):
    first.add("flood", "start() { i=0; while [ $i -lt 3000 ]; do (: & : &); i=$((i + 1)); done; }")
    first.start("--no-boot")
    client = first.connect()
    client.send("start flood")
    slowest = 0.0
    while first.state("flood") == "starting":
        began = time.monotonic()
        first.ok("list")
        slowest = max(slowest, time.monotonic() - began)
    assert client.answer() == ["ok"] and slowest < 2
    wait_until(lambda: not first.zombies())


def test_s37_a_process_that_cannot_be_killed_is_given_up(one, monkeypatch):
    """linitd isn't root here, and the daemon is."""
    monkeypatch.chdir(one.folder)
    one.alter("KILL_GRACE = 5.0", "KILL_GRACE = 0.3")
    shutil.copy(shutil.which("setpriv"), one.bin / "become")
    os.chown(one.folder, 1000, 1000)
    for path in (one.folder, *one.folder.parents):
        path.chmod(path.stat().st_mode | 0o011)
    (one.bin / "become").chmod(0o4755)
    one.add("unkillable", "timeout=0.3", f"run() {{ exec {one.bin}/become --reuid 0 sleep 1000; }}")
    for path in (one.initd, one.rcd, one.initd / "unkillable"):
        os.chown(path, 1000, 1000)
    one.start("--no-boot", python=PYTHON, user=1000, group=1000, extra_groups=[])
    assert one.ask("start unkillable") == ["ok"]
    pid = one.pid("unkillable")
    wait_until(lambda: read(f"/proc/{pid}/cmdline").startswith(b"sleep"))
    assert one.ask("stop unkillable") == [
        "error 1 unkillable: its processes could not be killed"]
    assert one.state("unkillable") == "failed"
    assert one.ask("poweroff") == ["ok"] and one.wait() == 0
    os.kill(pid, signal.SIGKILL)


# ---- 38: a disk that hangs -----------------------------------------------------------------------

@pytest.mark.parametrize("sleeps", [False, True], ids=["awake", "asleep"])
def test_s38_a_disk_that_hangs_holds_up_no_pid_1(first, sleeps):
    asleep = Asleep(first) if sleeps else None
    first.alter_rescue("at_most 30 sync", "at_most 5 sync")
    with freezable(first.logs) as freeze:
        print_for_ever(first)
        first.start("--no-boot")
        assert first.ask("start printer") == ["ok"]
        first.expect("printer", b"said")
        if sleeps:
            asleep.wait(request="list")
        freeze()
        time.sleep(1)
        assert first.ask("start flood") == ["ok"]
        for _ in range(5):
            first.ok("list")
            assert first.ask("restart printer") == ["ok"]
        os.kill(first.first, signal.SIGTERM)
        wait_until(lambda: first.calls() == ["reboot -f -n"])
    first.wait()


# ---- 39: chains and circles ----------------------------------------------------------------------

class Chain:
    """So many services, each of which depends on the one before."""

    def __init__(self, init, count):
        self.init, self.count = init, count
        for number in range(count):
            needs = f"depends() {{ dep c{number - 1}; }}" if number else ""
            init.add(f"c{number}", needs, "start() { :; }")
        self.slowest = 0.0

    def start(self, pid, seconds):
        """Start the last of them, and ask meanwhile; the answer, seconds, KiB."""
        client = self.init.connect()
        client.socket.settimeout(seconds)
        began = time.monotonic()
        client.send(f"start c{self.count - 1}")
        client.socket.setblocking(False)
        while True:
            asked = time.monotonic()
            self.init.ok("status c0")
            self.slowest = max(self.slowest, time.monotonic() - asked)
            assert asked < began + seconds
            with contextlib.suppress(BlockingIOError):
                answer = client.socket.recv(1 << 20).decode()
                return answer, time.monotonic() - began, memory(pid, "VmHWM")
            time.sleep(0.2)


def start_chain(init, count, seconds, pid):
    """It runs, or as many wait as there may be descriptors: two for each."""
    chain = Chain(init, count)
    init.start("--no-boot")
    answer, took, size = chain.start(pid(), seconds)
    print(f"\nchain of {count}: {answer[:200]!r}, {took:.1f} s, {size >> 10} MiB, "
          f"slowest answer {chain.slowest:.2f} s")
    said = init.console() + read(init.folder / "screen").decode()
    is_named = answer.startswith("error 1 ") and "could not be run: Too many open files" in said
    assert (answer == "ok\n" or is_named and count > 1000) and chain.slowest < 5
    assert "should not happen" not in said


def test_s39_a_chain_of_1000(one):
    start_chain(one, 1000, 60, lambda: one.process.pid)
    assert one.ask("stop c0") == ["ok"] and set(one.states().values()) == {"stopped"}


def test_s39_a_chain_of_1000_as_pid_1(first):
    start_chain(first, 1000, 60, lambda: first.first)
    assert first.ask("stop c0") == ["ok"] and set(first.states().values()) == {"stopped"}


@pytest.mark.long
def test_s39_a_chain_of_10000(one):
    start_chain(one, 10000, 500, lambda: one.process.pid)
    assert one.ask("poweroff") == ["ok"] and one.process.wait(timeout=60) == 0


@pytest.mark.long
def test_s39_a_chain_of_10000_as_pid_1(first):
    start_chain(first, 10000, 500, lambda: first.first)
    assert first.ask("poweroff") == ["ok"] and first.process.wait(timeout=60) == 0


def test_s39_a_chain_that_is_too_long_for_the_descriptors_is_a_named_error(one):
    chain = Chain(one, 300)
    one.start("--no-boot")
    resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (200, 200))
    answer, _, _ = chain.start(one.process.pid, 60)
    assert re.match(r"error 1 c299: it needs c298: .*it needs c\d+", answer)
    assert "Too many open files" in one.console()
    wait_until(lambda: len(one.descriptors()) < 20)
    assert one.ask("start c40") == ["ok"]


CIRCLES = {
    "of itself": {"a": "start() { dep a; }"},
    "of itself, by hand": {"a": "start() { linitctl start a; }"},
    "of two": {"a": "start() { dep b; }", "b": "depends() { dep a; }"},
    "of two, wanted": {"a": "start() { want b; }", "b": "start() { want a; }"},
    "through after": {"a": "start() { dep b; }", "b": "depends() { after a; }"},
}


@pytest.mark.parametrize("scripts", CIRCLES.values(), ids=CIRCLES)
def test_s39_a_circle_at_run_time_ends_with_a_named_error(up, scripts):
    for name, text in scripts.items():
        up.add(name, "timeout=1", text)
    client = up.connect()
    answer = client.ask("start a")
    assert answer[0] == "ok" or "it was not ready after 1 s" in answer[0]
    up.ask("stop " + " ".join(scripts))
    wait_until(lambda: set(up.states().values()) <= {"stopped", "failed"})


def test_s39_a_circle_that_an_edited_script_closes(up):
    """Of services that run already."""
    up.add("a", "depends() { dep b; }", SLEEP)
    up.add("b", SLEEP)
    assert up.ask("start a") == ["ok"]
    up.add("b", "depends() { dep a; }", SLEEP)
    os.kill(up.pid("b"), signal.SIGKILL)
    wait_until(lambda: "a cycle" in up.console())
    assert up.ask("stop b a")[-1] == "ok" and set(up.states().values()) == {"stopped"}


# ---- rubbish of all kinds ------------------------------------------------------------------------

@pytest.mark.parametrize("kind", fuzz_linit.KINDS)
def test_s29_fuzzed(kind):
    assert fuzz_linit.fuzz(kind, seed=29, seconds=3) > 2
