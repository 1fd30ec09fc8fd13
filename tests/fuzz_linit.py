#!/usr/bin/env python3
"""Fuzzers of linitd and linitctl, with real sockets, FIFOs, shells and processes.

    fuzz_linit.py --seconds 600             # each kind in turn, for so long in all
    fuzz_linit.py --seed 7 --kind scripts   # the same again: what failed says its seed
    fuzz_linit.py --times 20                # so many rounds, however long they take

Whatever comes, linitd lives, answers `list` in time, keeps nothing open, and says nowhere that
something should not happen; linitctl ends with a status that is documented, and no traceback."""
import argparse
import contextlib
import os
import pathlib
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import wait_until       # noqa: E402
from test_linitd import Client, Linitd, read        # noqa: E402

STATES = {"stopped", "starting", "running", "stopping", "failed"}
STATUSES = {0, 1, 2, 3, 4, 5, 7, 130}   # of linitctl, as docs/linit.md has them
QUICK = 5.0                             # seconds in which `list` must be answered
GROWTH = 8 << 10                        # KiB by which linitd may have grown in the end

NAMES = ["it", "top", "daemon", "slow", "bad", "it@1", "absent", "../x", "-x", "", "x" * 101, "\0"]
VERBS = ["start", "stop", "restart", "reload", "status", "list", "wait", "events", "graph", "log",
         "enable", "disable", "reexec", "frobnicate", "dep", "end", "settings", "stop -HUP"]
SAID = ["dep it", "dep bad", "dep it daemon", "want bad absent", "after it slow", "binds daemon",
        "binds \x1b[31m,x", "settings type=run", "settings type=start stop=yes timeout=0.2",
        "settings ready=fd type=run", "settings ready=file:/dev/null type=run", "settings x=y",
        "settings timeout=1e400 backoff=nan stop_signal=_BLOCK", "end start 0", "end start 1",
        "end run 127", "end alone 0", "end", "dep", "poweroff", "ready", "", "pids 1 2 3"]
SCRIPT = """depends() {
	dep it
	want slow
	after daemon
}

start() {
	echo started
	sleep 0.05 &
}

stop() {
	echo stopped
}
"""
DAEMON = """ready=fd
restart=on-failure
backoff=0.1
timeout=1
run() {
	exec sh -c 'echo >&3; exec sleep 1000'
}
"""
ANSWER = b""" it running 412 0.1\n top stopped - 12.0\nok\n"""
STATUS = b""" name it\n state running\n pid 412\n seconds 0.1\n needs top x\n restarts 2\n reason no
 tail said\nok\n"""
GRAPH = b""" it state=running pid=4 launched=0.1 met=0.2 ready=0.3 ended=- needs=top binds= wants= \
afters= waits=\n top state=starting pid=- launched=0.1 met=- ready=- ended=- needs= binds= wants= \
afters= waits=it\nok\n"""
EVENTS = b""" 1.000\n 1.200 it starting 7\n 1.300 it failed - because\n"""
ERRORS = b"error 1 it: failed\nerror 9 x\nerror\nok ok\n"


# ---- mutation ------------------------------------------------------------------------------------

def mutated(rng, data):
    """DATA with a few bytes changed, cut, doubled or moved."""
    data = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 1, 2, 5, 20]))
        part = bytes(data[start:end])
        data[start:end] = rng.choice([
            b"", part * rng.choice([2, 3, 50]), rng.randbytes(len(part)), part[::-1],
            rng.choice([b"\n", b"\0", b"\xff", b" ", b"'", b'"', b"$", b"}", b"\x1b[2J", b"-"]),
            data[:rng.randrange(40)]])
    return bytes(data)


def pieces(rng, data):
    """DATA in pieces of any size."""
    while data:
        size = rng.choice([1, 2, 7, 100, 5000])
        yield data[:size]
        data = data[size:]


def request(rng):
    words = [rng.choice(VERBS), *rng.choices(NAMES, k=rng.randrange(4))]
    line = " ".join(words).encode() + b"\n"
    return rng.choice([line, line, mutated(rng, line), rng.randbytes(rng.randrange(40)) + b"\n",
                       b"x" * rng.choice([10, 300 << 10])])


# ---- linitd --------------------------------------------------------------------------------------

class Victim:
    """A linitd with some services, and what it was like before."""

    def __init__(self, folder):
        self.init = Linitd(folder)
        self.init.add("boot", "depends() { :; }")
        self.init.add("it", "start() { :; }")
        self.init.add("top", "depends() { dep it; }", "reload() { :; }", "stop() { :; }")
        self.init.add("daemon", "backoff=0.1", "run() { exec sleep 1000; }")
        self.init.add("slow", "timeout=1", "start() { sleep 0.3; }")
        self.init.add("bad", "start() { echo a reason; false; }")
        self.init.start("--no-boot")
        self.descriptors, self.size = 0, 0
        self.settle()
        self.descriptors, self.size = len(self.init.descriptors()), self.memory()

    def memory(self):
        return int(re.search(rb"VmRSS:\s+(\d+)", read(f"/proc/{self.init.process.pid}/status"))[1])

    def list(self):
        began = time.monotonic()
        lines = self.init.ok("list")
        assert time.monotonic() - began < QUICK, "list was not answered in time"
        return {line.split()[0]: line.split()[1] for line in lines}

    def settle(self):
        """Everything can be stopped, and then nothing is left."""
        assert self.init.process.poll() is None, self.init.console()[-2000:]
        assert set(self.list().values()) <= STATES
        wait_until(self.stops, 30)
        self.init.ask("start top daemon")
        wait_until(self.stops, 30)
        assert "should not happen" not in self.init.console(), self.init.console()[-2000:]

    def stops(self):
        """Whether all is down. Requests of who has closed long ago may start something again."""
        answer = self.init.ask("stop " + " ".join(self.list()))
        is_down = set(self.list().values()) == {"stopped"}
        return answer == ["ok"] and is_down and not self.init.left_behind()

    def check(self):
        self.settle()
        wait_until(lambda: len(self.init.descriptors()) <= max(self.descriptors, 9))
        assert self.memory() < self.size + GROWTH, f"{self.memory()} KiB, {self.size} before"

    def end(self):
        self.init.end()


def fuzz_clients(rng, victim):
    """Some connections at once, each with lines in pieces, closed at any moment."""
    sockets = []
    for _ in range(rng.randrange(1, 12)):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(victim.init.socket))
        client.setblocking(False)
        data = b"".join(request(rng) for _ in range(rng.randrange(6)))
        sockets.append((client, list(pieces(rng, data))[:2000]))
    while sockets:
        client, left = rng.choice(sockets)
        with contextlib.suppress(OSError):
            if left:
                client.send(left.pop(0))
            if rng.random() < 0.1:
                client.recv(rng.choice([1, 100, 1 << 16]))
            if rng.random() < 0.01:
                client.shutdown(rng.choice([socket.SHUT_RD, socket.SHUT_WR]))
        if not left or rng.random() < 0.005:
            client.close()
            sockets.remove((client, left))
    assert set(victim.list().values()) <= STATES


def fuzz_scripts(rng, victim):
    """A script that writes anything to descriptor 9, now and from the background."""
    folder = victim.init.folder
    lines = b"".join(rng.choice([
        (rng.choice(SAID) + "\n").encode(), mutated(rng, rng.choice(SAID).encode() + b"\n"),
        rng.randbytes(20)]) for _ in range(rng.randrange(1, 8)))
    (folder / "said").write_bytes(rng.choice([lines, lines, lines * rng.choice([1, 200])]))
    say = f"timeout 1 cat {folder}/said >&9"
    body = rng.choice(["start() { :; }", "run() { exec sleep 1000; }", DAEMON,
                       f"ready=fd\nrun() {{ exec sh -c 'cat {folder}/said >&3; sleep 0.1'; }}"])
    victim.init.add("fuzzed", "timeout=1", f"depends() {{ {say} {rng.choice(['', '&'])}", "}", body)
    client = victim.init.connect()
    client.send("start fuzzed")
    time.sleep(rng.choice([0, 0.01, 0.1]))
    victim.list()
    victim.init.ask(rng.choice(["stop fuzzed", "restart it", "list"]))
    client.close()


def fuzz_texts(rng, victim):
    """Init scripts that are almost right. They can do anything, so no changed word may name a path
    or a process; a bounded time ends them."""
    text = rng.choice([SCRIPT, DAEMON, SCRIPT + DAEMON]).encode()
    text = mutated(rng, text).replace(b"\0", b"")
    path = victim.init.initd / "fuzzed"
    path.write_bytes(f"#!{victim.init.folder}/rc.common\ntimeout=1\n".encode() + text)
    client = victim.init.connect()
    client.send("start fuzzed")
    time.sleep(rng.choice([0.01, 0.1]))
    victim.list()
    victim.init.ask("stop fuzzed")
    client.close()


def fuzz_commands(rng, victim):
    """Command lines of both; none of them starts a linitd that stays."""
    words = ["--initd", "--rcd=x", "--socket", "--log", "--check", "--version", "--help",
             "--resume", "--no-boot", "--json", "-f", "-o", "list", "status", "log", "graph", "why",
             "blame", "wait", "check",
             "--", "-", "=", "--=", "--resume=99", "it", "bad", "",
             "\udcff", "\x1b", "9" * 40, "--signal", "--socket=/dev/null", "plot"]
    chosen = rng.choices(words, k=rng.randrange(6))
    if rng.random() < 0.5:
        command = victim.init.command(*chosen, rng.choice(["--check", "--help", "--frobnicate"]))
    else:
        command = [sys.executable, "-I", "-S", ROOT / "linitctl.py", *chosen]
    run_command(command, victim.init)


def run_command(command, init, seconds=1.5, answer=b""):
    """It ends with a status that is documented, or waits, as it may; it never has a traceback, and
    says no more than 20 lines beside those of linitd's ANSWER."""
    process = subprocess.Popen(command, cwd=init.folder, env=init.environment(),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=seconds)
        assert process.returncode in STATUSES, (process.returncode, command)
    except subprocess.TimeoutExpired:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert b"Traceback" not in errors and b"should not" not in errors, (command, errors.decode())
    assert errors.count(b"\n") <= 20 + answer.count(b"\n"), errors.decode(errors="replace")


class FakeLinitd:
    """What answers linitctl with the same bytes, in pieces, and may close at once."""

    def __init__(self, path, rng, data):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(4)
        self.listener.settimeout(5)
        self.rng, self.data = rng, data
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.settimeout(1)
                client.recv(1 << 16)
                for piece in pieces(self.rng, self.data):
                    client.sendall(piece)
                client.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


def fuzz_answers(rng, victim):
    """linitctl, and a linitd that answers rubbish."""
    path = victim.init.folder / "fake"
    answers = [ANSWER, STATUS, GRAPH, EVENTS, ERRORS]
    data = rng.choice([mutated(rng, rng.choice(answers)) for _ in range(2)]
                      + [rng.randbytes(50), rng.choice(answers)])
    verb = rng.choice([["list"], ["status", "it"], ["graph"], ["blame"], ["why"], ["why", "it"],
                       ["events"], ["log", "it"], ["start", "it"], ["wait", "it"], ["reexec"],
                       ["plot", "-o", "plot.svg"], ["list", "--json"], ["status", "--json", "it"]])
    fake = FakeLinitd(path, random.Random(rng.random()), data)
    try:
        run_command([sys.executable, "-I", "-S", ROOT / "linitctl.py", "--socket", path, *verb],
                    victim.init, answer=data)
    finally:
        fake.close()
        path.unlink()


KINDS = {"clients": fuzz_clients, "scripts": fuzz_scripts, "texts": fuzz_texts,
         "commands": fuzz_commands, "answers": fuzz_answers}
CHECK_EACH = 10                         # rounds


# ---- the command line ----------------------------------------------------------------------------

def fuzz(kind, seed, seconds, times=None):
    """Rounds of KIND; how many. The first failure says with which seed it comes again."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-linit-"))
    victim = Victim(folder)
    rounds = 0
    end = time.monotonic() + seconds
    try:
        while rounds < times if times else time.monotonic() < end:
            KINDS[kind](random.Random(f"{seed} {kind} {rounds}"), victim)
            rounds += 1
            if rounds % CHECK_EACH == 0:
                victim.check()
        victim.check()
    except BaseException:
        print(f"fuzz_linit.py --kind {kind} --seed {seed} --times {rounds + 1}", file=sys.stderr)
        raise
    finally:
        victim.end()
        shutil.rmtree(folder, ignore_errors=True)
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of all kinds together (60)")
    parser.add_argument("--times", type=int, help="rounds of each kind, instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append")
    given = parser.parse_args()
    kinds = given.kind or list(KINDS)
    for kind in kinds:
        rounds = fuzz(kind, given.seed, given.seconds / len(kinds), given.times)
        print(f"{kind}: {rounds} rounds, seed {given.seed}")


if __name__ == "__main__":
    main()
