"""Init scripts where there is no linitd: linit-alone, under each shell that may run it."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, environment

SHELLS = {"dash": "dash", "ash": "busybox"}


def install(names, folder, shell):
    """Copy the shell programs NAMES of initd/ to FOLDER, to be run by SHELL."""
    interpreter = folder / "sh"
    interpreter.symlink_to(shutil.which(SHELLS[shell]))
    for name in names:
        text = (ROOT / "initd" / name).read_text()
        (folder / name).write_text(text.replace("#!/bin/sh", f"#!{interpreter}", 1))
        (folder / name).chmod(0o755)


class Services:
    """A folder of init scripts with a state of its own, run by the shell under test."""

    def __init__(self, folder, shell):
        self.folder = folder
        self.state = folder / "state"
        self.rcd = folder / "rc.d"
        self.rcd.mkdir()
        install(["rc.common", "linit-alone"], folder, shell)
        self.add("boot", (ROOT / "initd/boot").read_text().partition("\n")[2])

    def add(self, name, body):
        path = self.folder / name
        path.write_text(f"#!{self.folder}/rc.common\n{body}\n")
        path.chmod(0o755)

    def run(self, name, verb):
        """(status, output). The output is a file: a daemon would hold a pipe open."""
        variables = self.environment()
        with open(self.folder / "output", "w+", encoding="utf-8") as output:
            done = subprocess.run(
                [self.folder / name, verb], env=variables, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=30, check=False,
            )
            output.seek(0)
            return done.returncode, output.read()

    def environment(self):
        """No linitd is asked, not even one that this machine may have."""
        nowhere = self.folder / "no.sock"
        return environment(LINIT_STATE=self.state, LINIT_RCD=self.rcd, LINITSOCK=nowhere,
                           LPKG_STATE=self.folder / "lpkg")

    def pid(self, name):
        return int((self.state / f"{name}.pid").read_text())

    def trace(self):
        path = self.folder / "trace"
        return path.read_text().split() if path.exists() else []


@pytest.fixture(params=list(SHELLS))
def services(tmp_path, request):
    services = Services(tmp_path, request.param)
    yield services
    for path in tmp_path.glob("state/*.supervisor"):
        services.run(path.stem, "stop")


def trace(services, word):
    return f"echo {word} >>{services.folder}/trace"


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid):
    path = pathlib.Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def test_dependencies_start_first_and_once(services):
    services.add("a", f"start() {{ {trace(services, 'a')}; }}")
    services.add("b", f"depends() {{ dep a; }}\nstart() {{ {trace(services, 'b')}; }}")
    services.add("c", f"dependencies() {{ dep a b; }}\nstart() {{ {trace(services, 'c')}; }}")
    status, text = services.run("c", "start")
    assert status == 0, text
    assert services.trace() == ["a", "b", "c"]
    assert services.run("c", "start")[0] == 0
    assert services.trace() == ["a", "b", "c"]
    assert (services.state / "order").read_text().split() == ["a", "b", "c"]


def test_boot_starts_what_rcd_names_and_goes_on_after_a_failure(services):
    for name in ("good", "bad", "later"):
        (services.rcd / name).touch()
        services.add(name, f"start() {{ {trace(services, name)}; }}")
    services.add("bad", "start() { return 1; }")
    status, text = services.run("boot", "start")
    assert status == 1 and "boot: not started: it needs bad" in text
    assert services.trace() == ["good", "later"]
    assert services.run("bad", "status") == (1, "bad is failed\n")
    assert services.run("good", "status") == (0, "good is running\n")


def test_a_failed_dependency_fails_its_dependents_with_the_reason(services):
    services.add("base", "start() { false; }")
    services.add("top", f"depends() {{ dep base; }}\nstart() {{ {trace(services, 'top')}; }}")
    status, text = services.run("top", "start")
    assert status == 1 and services.trace() == []
    assert "top: not started: it needs base" in text


def test_a_service_that_does_not_exist_is_named(services):
    services.add("top", "depends() { dep nothing; }")
    status, text = services.run("top", "start")
    assert status == 1 and "it needs nothing" in text


def test_a_cycle_is_an_error_at_once(services):
    services.add("a", "depends() { dep b; }")
    services.add("b", "depends() { dep a; }")
    status, text = services.run("a", "start")
    assert status == 1 and "cycle" in text


def test_a_daemon_is_the_process_that_is_watched(services):
    services.add("daemon", "run() { exec sleep 1000; }")
    assert services.run("daemon", "start")[0] == 0
    wait_until(lambda: (services.state / "daemon.pid").exists())
    pid = services.pid("daemon")
    wait_until(lambda: b"sleep" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
    assert services.run("daemon", "stop")[0] == 0
    assert not is_alive(pid)
    assert services.run("daemon", "status") == (1, "daemon is stopped\n")


def test_a_daemon_that_dies_is_started_again(services):
    services.add("daemon", "run() { exec sleep 1000; }")
    services.run("daemon", "start")
    wait_until(lambda: (services.state / "daemon.pid").exists())
    first = services.pid("daemon")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: services.pid("daemon") != first and is_alive(services.pid("daemon")))


@pytest.mark.parametrize("restart, status, runs", [
    ("never", 1, 1), ("on-failure", 0, 1), ("on-failure", 1, 2), ("always", 0, 2)])
def test_restart_setting(services, restart, status, runs):
    body = f"restart={restart}\nrun() {{ {trace(services, 'run')}; exit {status}; }}"
    services.add("daemon", body)
    services.run("daemon", "start")
    wait_until(lambda: len(services.trace()) >= runs)
    time.sleep(1.3)
    assert (len(services.trace()) > 1) == (runs > 1)


def test_a_daemon_that_ignores_term_is_killed(services):
    services.add("stubborn", "run() { exec sh -c 'trap \"\" TERM; while :; do sleep 1; done'; }")
    services.run("stubborn", "start")
    wait_until(lambda: (services.state / "stubborn.pid").exists())
    time.sleep(0.3)
    pid = services.pid("stubborn")
    assert services.run("stubborn", "stop")[0] == 0
    assert not is_alive(pid)


def test_enable_and_disable(services):
    services.add("some", "start() { :; }")
    services.run("some", "enable")
    assert (services.rcd / "some").exists()
    services.run("some", "disable")
    assert not (services.rcd / "some").exists()


def test_an_unknown_verb_is_a_usage_error(services):
    services.add("some", "start() { :; }")
    status, text = services.run("some", "explode")
    assert status == 2 and text.startswith("usage: ")


# ---- the scripts of packages that wait for a root's first boot ---------------------------------

class Queue:
    """lpkg's queue, and the init script that runs it: scripts that write down how they are run."""

    def __init__(self, services):
        self.services = services
        self.state = services.folder / "lpkg"
        for name in ("scripts", "installed", "hooks"):
            (self.state / name).mkdir(parents=True)
        services.add("scripts", (ROOT / "initd/scripts").read_text().partition("\n")[2])

    def add(self, package, script, *arguments, status=0, is_there=True):
        """Queue a SCRIPT that ends with STATUS, of a PACKAGE that is there, or gone."""
        path = self.state / f"scripts/{package}.{script}"
        path.write_text(f"#!/bin/sh\necho \"{package} {script} $#:$*\" >>{self.services.folder}/ran"
                        f"\ncat\nexit {status}\n")
        path.chmod(0o755)
        if is_there:
            (self.state / f"installed/{package}").touch()
        with open(self.state / "queue", "a", encoding="utf-8") as queue:
            queue.write("\t".join(["waits", package, script, *arguments]) + "\n")

    def run(self):
        return self.services.run("scripts", "start")

    def ran(self):
        """What ran since it was asked last."""
        path = self.services.folder / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def lines(self):
        path = self.state / "queue"
        return path.read_text().splitlines() if path.exists() else None


@pytest.fixture
def queue(services):
    return Queue(services)


def test_queued_scripts_run_in_order_with_their_arguments(queue):
    queue.add("a", "post-install", "1.0-0")
    queue.add("b", "post-upgrade", "2~rc1-0", "1:1.0-0")
    queue.add("a", "oninstall", "install", "/")
    queue.add("c", "post-remove")
    status, text = queue.run()
    assert status == 0, text
    assert queue.ran() == ["a post-install 1:1.0-0", "b post-upgrade 2:2~rc1-0 1:1.0-0",
                           "a oninstall 2:install /", "c post-remove 0:"]
    assert queue.lines() is None and not (queue.state / "queue.new").exists()
    assert len(list((queue.state / "scripts").iterdir())) == 4


def test_a_queued_script_that_fails_stays_and_the_others_run(queue):
    queue.add("a", "post-install", "1.0-0")
    queue.add("bad", "post-upgrade", "2.0-0", "1.0-0", status=3)
    queue.add("gone", "post-remove", "1.0-0", status=1, is_there=False)
    queue.add("z", "post-install", "1.0-0")
    status, text = queue.run()
    assert status == 1 and "a package's script failed" in text and "lpkg fix" in text
    assert [line.split()[0] for line in queue.ran()] == ["a", "bad", "gone", "z"]
    assert queue.lines() == ["failed\tbad\tpost-upgrade\t2.0-0\t1.0-0",
                             "failed\tgone\tpost-remove\t1.0-0"]
    assert (queue.state / "scripts/gone.post-remove").exists()
    queue.run()
    assert queue.ran() == ["bad post-upgrade 2:2.0-0 1.0-0", "gone post-remove 1:1.0-0"]


def test_a_queued_script_of_a_package_that_is_gone_goes_too(queue):
    queue.add("gone", "post-remove", "1.0-0", is_there=False)
    queue.add("here", "post-install", "1.0-0")
    assert queue.run()[0] == 0
    assert [path.name for path in (queue.state / "scripts").iterdir()] == ["here.post-install"]


def test_a_queue_whose_run_was_cut_is_run_again(queue):
    """After a script of a package that is gone was removed, and before the queue was written."""
    queue.add("gone", "post-remove", "1.0-0", is_there=False)
    queue.add("here", "post-install", "1.0-0")
    (queue.state / "scripts/gone.post-remove").unlink()
    (queue.state / "queue.new").write_text("half a li")
    assert queue.run()[0] == 0
    assert queue.ran() == ["here post-install 1:1.0-0"] and queue.lines() is None


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_queue_nothing_is_run(queue, text):
    if text is not None:
        (queue.state / "queue").write_text(text)
    status, text = queue.run()
    assert status == 0 and "queue" not in text
    assert not (queue.state / "queue.new").exists()


def test_queued_scripts_find_the_hooks(queue):
    hook = queue.state / "hooks/lpkg-alt"
    hook.write_text(f"#!/bin/sh\necho hook >>{queue.services.folder}/ran\n")
    hook.chmod(0o755)
    queue.add("a", "oninstall", "install", "/")
    (queue.state / "scripts/a.oninstall").write_text("#!/bin/sh\nlpkg-alt --install x\n")
    assert queue.run()[0] == 0 and queue.ran() == ["hook"]


def test_boot_runs_the_queue_first_and_only_if_there_is_one(queue):
    services = queue.services
    services.add("daemon", f"start() {{ echo daemon >>{services.folder}/ran; }}")
    (services.rcd / "daemon").touch()
    (queue.state / "queue").touch()
    assert services.run("boot", "start")[0] == 0
    assert not (services.state / "scripts").exists() and queue.ran() == ["daemon"]
    services.run("daemon", "stop")
    services.run("boot", "stop")
    queue.add("a", "post-install", "1.0-0", status=1)
    assert services.run("boot", "start")[0] == 0        # a script that fails stops no service
    assert queue.ran() == ["a post-install 1:1.0-0", "daemon"]
    assert services.run("scripts", "status") == (1, "scripts is failed\n")
