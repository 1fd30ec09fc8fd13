"""Init scripts where there is no linitd: linit-alone, under each shell that may run it; and those
of the original Panux, by linitd and without it. `test_sNN_` is the attack of that number in
docs/SECURITY.md."""
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, environment, wait_until

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
        install(["rc.common", "linit-alone", "linit-supervise"], folder, shell)
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
        """The number of a daemon; 0 where there is none."""
        path = self.state / f"{name}.pid"
        return int(path.read_text() or 0) if path.exists() else 0

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
    assert services.run("bad", "status") == (3, "bad is failed\n")
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
    assert "nothing: no such script\n" in text


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
    assert services.run("daemon", "status") == (3, "daemon is stopped\n")


def test_a_daemon_that_was_killed_with_its_supervisor_has_failed(services):
    services.add("it", "run() { exec sleep 1000; }")
    services.run("it", "start")
    wait_until(lambda: is_alive(services.pid("it")))
    supervisor = int((services.state / "it.supervisor").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(supervisor))
    assert services.run("it", "status") == (0, "it is running\n")
    os.kill(services.pid("it"), signal.SIGKILL)
    wait_until(lambda: services.run("it", "status") == (3, "it is failed\n"))
    assert services.run("it", "start")[0] == 0
    wait_until(lambda: is_alive(services.pid("it")))


@pytest.fixture
def parent_of_orphans():
    """This process is that, and so says when an end is noticed: by some machines' PID 1, late."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    assert prctl(set_child_subreaper, 1) == 0
    yield
    assert prctl(set_child_subreaper, 0) == 0


def wait_for_group(group):
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


@pytest.mark.usefixtures("parent_of_orphans")
def test_a_daemon_that_waits_to_be_started_again_is_stopped_at_once(services):
    """It has no process whose end is waited for."""
    sleeps = services.folder / "sleeps"
    services.add("it", f"run() {{ exit 1; }}\n"
                       f"sleep() {{ echo $1 >>{sleeps}; command sleep $1; }}")
    assert services.run("it", "start")[0] == 0
    wait_until(lambda: sleeps.exists() and not services.pid("it"))
    supervisor = int((services.state / "it.supervisor").read_text())
    threading.Thread(target=wait_for_group, args=[supervisor], daemon=True).start()
    assert services.run("it", "stop")[0] == 0
    assert sleeps.read_text().split().count("0.2") < 10


def test_a_daemon_that_says_that_it_is_ready_can_do_so(services):
    services.add("it", f"ready=fd\nrun() {{ exec sh -c 'echo >&3 && {trace(services, 'ready')}; "
                       "exec sleep 1000'; }")
    assert services.run("it", "start")[0] == 0
    wait_until(lambda: services.trace() == ["ready"])


def test_a_daemon_that_is_not_restarted_is_stopped(services):
    services.add("daemon", "restart=never\nrun() { exec true; }")
    assert services.run("daemon", "start")[0] == 0
    wait_until(lambda: services.run("daemon", "status") == (3, "daemon is stopped\n"))


def test_a_script_may_have_a_trap_of_its_own(services):
    services.add("it", "start() { trap 'echo bye' EXIT; exec 3>&1; }")
    services.add("top", "trap 'echo top' EXIT\nset --\nstart() { exec true; }")
    assert services.run("it", "start") == (0, "bye\ninit: it is running\n")
    assert services.run("top", "start") == (0, "init: top is running\ntop\n")
    assert (services.state / "order").read_text() == "it\ntop\n"


def test_a_start_that_was_killed_has_failed(services):
    """As by Ctrl-C."""
    services.add("it", "start() { kill -9 $$; }")
    assert services.run("it", "start")[0] == 137
    assert services.run("it", "status") == (3, "it is failed\n")
    services.add("it", "start() { :; }")
    assert services.run("it", "start") == (0, "init: it is running\n")


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


def test_a_daemon_whose_script_was_broken_or_removed_is_stopped(services):
    for name in ("broken", "removed"):
        services.add(name, "run() { exec sleep 1000; }")
        assert services.run(name, "start")[0] == 0
        wait_until(lambda name=name: is_alive(services.pid(name)))
    pids = [services.pid(name) for name in ("broken", "removed")]
    services.add("broken", "run( { exec sleep 1000; }")
    (services.folder / "removed").unlink()
    for name, verb in (("broken", "restart"), ("removed", "stop")):
        done = subprocess.run(
            [services.folder / "linit-alone", verb, name], timeout=30, check=False,
            env={**services.environment(), "LINIT_INITD": str(services.folder)})
        assert done.returncode == 1
    assert not any(map(is_alive, pids))
    assert services.run("broken", "status")[1] == "broken is failed\n"


def test_a_stop_that_fails_keeps_no_restart(services):
    services.add("it", f"start() {{ {trace(services, '+')}; }}\nstop() {{ false; }}")
    assert services.run("it", "start")[0] == 0
    status, text = services.run("it", "restart")
    assert status == 0 and "its stop ended with status 1" in text
    assert services.trace() == ["+", "+"]


def test_the_job_of_a_loop_ends_with_it(services):
    job = f"trap \"{trace(services, 'saved')}; exit\" TERM; : >{services.folder}/up"
    services.add("loop", "run() { exec sh -c 'sh -c \"$0\"; sleep 60' "
                 f"'{job}; while :; do sleep 0.1; done'; }}")
    assert services.run("loop", "start")[0] == 0
    wait_until((services.folder / "up").exists)
    assert services.run("loop", "stop")[0] == 0
    wait_until(lambda: services.trace() == ["saved"])


def test_what_failed_is_tried_once_in_a_boot(services):
    services.add("base", f"start() {{ {trace(services, 'try')}; false; }}")
    for name in ("a", "b", "c"):
        services.add(name, "depends() { dep base; }")
        (services.rcd / name).touch()
    for tries in (1, 2):
        assert services.run("boot", "start")[0] == 1
        assert services.trace() == ["try"] * tries


def test_before_comes_first(services):
    for name, text in (("a", ""), ("b", "before a"), ("c", "before b; dep a")):
        services.add(name, f"depends() {{ {text or ':'}; }}")
        with open(services.folder / name, "a", encoding="utf-8") as file:
            file.write(f"start() {{ {trace(services, name)}; }}\n")
        (services.rcd / name).touch()
    services.run("boot", "start")
    assert services.trace()[:2] == ["b", "a"] and len(services.trace()) == 3


def test_what_is_started_by_hand_has_nothing_of_its_caller_s(services, monkeypatch):
    monkeypatch.setenv("SECRET", "of mine")
    services.add("it", f"start() {{ env >{services.folder}/env; umask >>{services.folder}/env; }}")
    old = os.umask(0o077)
    try:
        assert services.run("it", "start")[0] == 0
    finally:
        os.umask(old)
    text = (services.folder / "env").read_text()
    assert "SECRET" not in text and "HOME=" not in text and text.endswith("0022\n")


def test_enable_and_disable(services):
    services.add("some", "start() { :; }")
    services.run("some", "enable")
    assert (services.rcd / "some").exists()
    services.run("some", "disable")
    assert not (services.rcd / "some").exists()


@pytest.mark.parametrize("user, status, text", [
    ("root", 1, "it: user=root: only root can run it as another user\n"),
    ("nobody", 0, "it runs\n")])
def test_only_root_runs_a_daemon_as_another_user(services, user, status, text):
    services.folder.chmod(0o755)
    program = f". ./rc.common; linit_name=it user={user}; linit_become echo it runs"
    done = subprocess.run(["./sh", "-c", program], cwd=services.folder, user="nobody", timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, text)


def test_a_script_may_be_named_by_a_relative_path(services):
    folder = services.folder / "elsewhere"
    folder.mkdir()
    services.add("elsewhere/it", f"start() {{ {trace(services, 'it')}; }}")
    for path in ("./it", "../elsewhere/it"):
        subprocess.run([path, "restart"], cwd=folder, env=services.environment(), check=True,
                       timeout=30)
    assert services.trace() == ["it", "it"]


def test_a_reload_by_linitctl_needs_no_linitctl(services):
    """By USR1: where these tests run under nohup, HUP is ignored for good."""
    services.add("it", f"run() {{ exec sh -c 'trap \"{trace(services, 'told')}\" USR1; "
                       f"{trace(services, 'up')}; while :; do sleep 0.1; done'; }}\n"
                       "reload() { linitctl signal it USR1; }\nstop_signal=KILL")
    services.run("it", "start")
    wait_until(lambda: services.trace() == ["up"])
    assert services.run("it", "reload") == (0, "")
    wait_until(lambda: services.trace() == ["up", "told"])
    services.run("it", "stop")
    services.add("stopped", "start() { linitctl signal it USR1; }")
    assert services.run("stopped", "start") == (
        1, "it: it has no process\nstopped: not started: status of start:1\n")


def test_what_is_stopped_is_not_reloaded(services):
    services.add("it", f"start() {{ {trace(services, '+')}; }}")
    assert services.run("it", "reload") == (7, "it: it isn't running\n")
    assert services.trace() == []


def test_a_script_that_exits_outside_of_its_functions_is_told_so(services):
    services.add("it", "start() { :; }\nexit 0")
    assert services.run("it", "start") == (1, "it: not started: status of script:0\n")


def test_the_desktop_waits_for_a_screen_and_needs_no_keyboard(services):
    text = (ROOT / "recipes/desktop/weston/weston.init").read_text()
    services.add("weston", text.replace(". /etc/default/weston", "owner=root terminal=null"))
    programs = services.folder / "bin"
    programs.mkdir()
    for name, command in (("su", "echo starts"), ("chgrp", 'test -e "$3"')):
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    setup = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mount -t tmpfs none /run; " \
            "{ sleep 0.5; mkdir /dev/dri; } & exec linit-supervise weston run"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", setup], stdout=subprocess.PIPE, text=True, timeout=30,
        stderr=subprocess.STDOUT, check=False,
        env={**services.environment(), "LINIT_INITD": str(services.folder),
             "PATH": f"{programs}:{services.folder}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (0, "starts\n")


def test_several_names_are_taken_one_after_another(services):
    for name, start in (("a", ":"), ("b", "false"), ("c", ":")):
        services.add(name, f"start() {{ {start}; }}")
    linit_alone = services.folder / "linit-alone"
    done = subprocess.run([linit_alone, "start", "a", "b", "c"], env=services.environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30, text=True)
    assert done.returncode == 1 and done.stderr == "b: not started: status of start:1\n"
    assert done.stdout == "init: a is running\ninit: c is running\n"
    done = subprocess.run([linit_alone, "status", "a", "b"], env=services.environment(),
                          stdout=subprocess.PIPE, timeout=30, text=True)
    assert (done.returncode, done.stdout) == (3, "a is running\nb is failed\n")


def test_an_unknown_verb_is_a_usage_error(services):
    services.add("some", "start() { :; }")
    status, text = services.run("some", "explode")
    assert status == 2 and text.startswith("usage: ")
    done = subprocess.run([services.folder / "linit-alone", "explode", "some"], check=False,
                          env=services.environment(), stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 2 and done.stderr.startswith(b"usage: ")


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
    assert services.run("scripts", "status") == (3, "scripts is failed\n")


def test_a_script_s_variables_may_have_any_name(services):
    """The state of `scripts`, which has a variable `state`, is beside that of all others."""
    Queue(services)
    services.add("some", "state=/nowhere name=other\nstart() { :; }\nstop() { false; }")
    assert services.run("scripts", "start")[0] == services.run("some", "start")[0] == 0
    assert (services.state / "scripts.state").exists() and (services.state / "some.state").exists()
    assert (services.state / "order").read_text().split() == ["scripts", "some"]
    status, text = services.run("some", "stop")
    assert status == 1 and "some: its stop ended with status 1" in text
    assert services.run("some", "status") == (3, "some is stopped\n")


# ---- scripts of the original Panux, by linitd and without it -----------------------------------

class Device:
    """A name space with /etc, /run and a host's name of its own, where the programs of initd/ and
    the scripts of data/panux-scripts are installed as on a device; MODE is `linitd` or `alone`."""

    def __init__(self, folder, shell, mode):
        self.folder, self.mode = folder, mode
        self.etc, self.run, self.sbin = folder / "etc", folder / "run", folder / "sbin"
        self.initd, self.rcd = self.etc / "init.d", self.etc / "rc.d"
        for path in (self.initd, self.rcd, self.run, self.sbin):
            path.mkdir(parents=True)
        for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
            shutil.copy(f"/etc/{name}", self.etc)
        (self.etc / "hostname").write_text("panux\n")
        (self.etc / "modules").write_text("# needed\nloop\ntun\n")
        install(["linit-start", "linit-alone", "linit-supervise", "linit-sup", "linit-sup-stop"],
                self.sbin, shell)
        install(["rc.common"], self.etc, shell)
        for name in ("linit-alone", "linit-supervise"):
            (self.etc / name).symlink_to(self.sbin / name)
        for path in [ROOT / "initd/boot", ROOT / "initd/pre", ROOT / "initd/linit-supd",
                     *(ROOT / "tests/data/panux-scripts").iterdir()]:
            shutil.copy(path, self.initd)
        shutil.copy(ROOT / "linitd.py", self.sbin)
        self.program("linitctl", f"exec '{sys.executable}' -IS '{ROOT}/linitctl.py' \"$@\"")
        self.program("modprobe", "echo $1 >>/run/modules")
        self.program("fake-sshd", 'printf "<%s>" "$@" "$KEYS" "$(umask)"; echo; exec sleep 1000')
        mounts = f"mount --bind {self.etc} /etc && mount --bind {self.run} /run"
        self.space = subprocess.Popen(
            ["unshare", "--mount", "--uts", "sh", "-c", f"{mounts} && echo && exec sleep 1000"],
            stdout=subprocess.PIPE, env=self.environment())
        assert self.space.stdout.read(1) == b"\n"
        self.linitd = None
        if mode == "linitd":
            self.begin()

    def add(self, name, *lines):
        (self.initd / name).write_text("\n".join(["#!/etc/rc.common", *lines, ""]))
        (self.initd / name).chmod(0o755)

    def program(self, name, *lines):
        (self.sbin / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (self.sbin / name).chmod(0o755)

    def environment(self):
        changed = environment(PATH=f"{self.sbin}:{os.environ['PATH']}")
        return {key: value for key, value in changed.items() if not key.startswith("LINIT")}

    def inside(self, *command):
        return ["nsenter", "--mount", "--uts", "--target", str(self.space.pid), *map(str, command)]

    def begin(self):
        with open(self.folder / "console", "ab") as console:
            command = [sys.executable, "-I", "-S", self.sbin / "linitd.py", "--no-boot",
                       "--log", "/run/log"]
            self.linitd = subprocess.Popen(self.inside(*command), stdin=subprocess.DEVNULL,
                                           stdout=console, stderr=console, env=self.environment())
        wait_until((self.run / "linit.sock").is_socket)

    def end(self):
        """End everything, and give what its services have left behind."""
        if self.linitd:
            self.linitd.terminate()
            assert self.linitd.wait(timeout=30) == 0
        else:
            for name in reversed(self.text("linit/order").split()):
                self.hand(name, "stop")
        left = [pid for pid in self.processes() if pid != self.space.pid]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.space.kill()
        self.space.wait()
        self.space.stdout.close()
        return left

    def processes(self):
        """Those in this name space."""
        space = os.readlink(f"/proc/{self.space.pid}/ns/mnt")
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(path / "ns/mnt") == space and is_alive(int(path.name)):
                    found.append(int(path.name))
            except OSError:
                pass
        return found

    def call(self, *command):
        """(status, output) of a command; a daemon would hold a pipe open."""
        with open(self.folder / "output", "w+", encoding="utf-8") as output:
            done = subprocess.run(self.inside(*command), stdin=subprocess.DEVNULL, stdout=output,
                                  stderr=subprocess.STDOUT, env=self.environment(), timeout=60,
                                  check=False)
            output.seek(0)
            return done.returncode, output.read()

    def hand(self, name, verb):
        """The same of a script's verb; an instance is no script."""
        if "@" in name:
            return self.call("linitctl" if self.mode == "linitd" else "linit-alone", verb, name)
        return self.call(f"/etc/init.d/{name}", verb)

    def ok(self, name, verb):
        status, text = self.hand(name, verb)
        assert status == 0, text + self.console()
        return text

    def text(self, path):
        """What is in a file of /run."""
        path = self.run / path
        return path.read_text() if path.exists() else ""

    def trace(self):
        return self.text("trace").split()

    def console(self):
        return (self.folder / "console").read_text() if self.linitd else ""

    def state(self, name):
        """`running`, `stopped` or `failed`."""
        _, text = self.hand(name, "status")
        return text.split(" is ")[1].replace(",", " ").split()[0]

    def pid(self, name):
        """The number of a daemon; 0 where there is none."""
        if self.mode == "alone":
            return int(self.text(f"linit/{name}.pid") or 0)
        text = self.hand(name, "status")[1].partition("\n")[0]
        return int(text.partition("pid ")[2].partition(",")[0] or 0)

    def daemon(self, name, wanted):
        """The number of a daemon whose command line has WANTED, when it is there."""
        def is_there():
            pid = self.pid(name)
            path = pathlib.Path(f"/proc/{pid}/cmdline")
            return pid and is_alive(pid) and wanted.encode() in path.read_bytes()
        wait_until(is_there)
        return self.pid(name)


@pytest.fixture(params=[(shell, mode) for shell in SHELLS for mode in ("linitd", "alone")],
                ids="-".join)
def device(tmp_path, request):
    device = Device(tmp_path, *request.param)
    yield device
    assert device.end() == []


def test_original_scripts_boot_in_their_order(device):
    for name in ("sshd", "login", "sleeper", "printk", "modules", "clock", "helpers"):
        device.ok(name, "enable")
    assert sorted(path.name for path in device.rcd.iterdir()) == [
        "clock", "helpers", "login", "pre", "sleeper", "sshd"]
    assert sorted(path.name for path in (device.rcd / "pre").iterdir()) == ["modules", "printk"]
    device.ok("boot", "start")
    trace = device.trace()
    assert trace[:2] == ["printk", "modules"]
    assert sorted(trace[2:]) == ["clock", "hostname", "login", "scratch", "welcome"]
    assert trace.index("hostname") < trace.index("scratch") < trace.index("clock")
    assert trace.index("welcome") < trace.index("login")
    assert device.text("hostname") == "panux\n" and device.text("modules") == "loop\ntun\n"
    for name in ("pre", "boot", "linit-supd", "login", "sshd", "sleeper", "linit-supd@login"):
        assert device.state(name) == "running"
    device.daemon("linit-supd@ssh.d", "sleep")
    device.ok("boot", "start")
    assert device.trace() == trace


def test_enable_and_disable_may_be_the_script_s_own(device):
    device.ok("printk", "enable")
    assert os.readlink(device.rcd / "pre/printk") == "/etc/init.d/printk"
    device.ok("printk", "disable")
    assert list((device.rcd / "pre").iterdir()) == []
    device.ok("pre", "disable")
    device.ok("welcome", "enable")
    assert [path.name for path in device.rcd.iterdir()] == ["welcome"]
    device.ok("welcome", "disable")
    assert list(device.rcd.iterdir()) == []
    (device.rcd / "welcome").symlink_to("/etc/init.d/welcome")
    device.ok("welcome", "enable")      # what the link leads to stays whole
    assert "Welcome" in (device.initd / "welcome").read_text()


def test_pre_comes_first_also_for_who_does_not_say_so(device):
    device.ok("pre", "enable")
    device.add("first", "start() { sleep 0.5; echo first >>/run/trace; }")
    device.add("any", "start() { echo any >>/run/trace; }")
    (device.rcd / "pre/first").touch()
    (device.rcd / "any").touch()
    device.ok("boot", "start")
    assert device.trace() == ["first", "any"]


def test_a_failed_pre_fails_those_that_need_it_and_boot(device):
    device.ok("pre", "enable")
    (device.rcd / "pre/quota").symlink_to("/etc/init.d/quota")
    device.add("any", "start() { echo any >>/run/trace; }")
    for name in ("any", "welcome"):
        device.ok(name, "enable")
    status, text = device.hand("boot", "start")
    assert status == 1 and "pre" in text and device.trace() == ["any"]
    assert [device.state(name) for name in ("quota", "pre", "welcome", "any")] == [
        "failed", "failed", "failed", "running"]


def test_supervised_daemons_come_back_after_a_kill(device):
    device.ok("sleeper", "start")
    first = device.daemon("linit-supd@sleeper", "sleep")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: device.pid("linit-supd@sleeper") not in (0, first))
    device.daemon("linit-supd@sleeper", "/bin/sleep\0" "600")
    assert device.state("sleeper") == "running"


@pytest.mark.parametrize("name", ["login", "sleeper", "sshd"])
def test_supervised_daemons_end_with_their_service(device, name):
    device.ok(name, "start")
    supervised = "linit-supd@" + {"sshd": "ssh.d"}.get(name, name)
    pid = device.daemon(supervised, "sleep")
    device.ok(name, "stop")
    assert not is_alive(pid)
    assert device.state(name) == device.state(supervised) == "stopped"
    device.ok(name, "start")
    assert device.daemon(supervised, "sleep") != pid
    again = device.daemon(supervised, "sleep")
    device.ok(name, "restart")
    assert device.daemon(supervised, "sleep") != again and not is_alive(again)


def test_linit_sup_has_log_pid_arguments_and_surroundings(device):
    device.ok("sshd", "start")
    pid = device.daemon("linit-supd@ssh.d", "sleep")
    line = '<-F><-E><-p><22><it\'s a b><"$x" \\n></etc/sshd><0077>\n'
    assert device.text("sshd.log") == line
    assert device.text("sshd.pid") == f"{pid}\n"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: device.text("sshd.log") == 2 * line)
    assert device.daemon("linit-supd@ssh.d", "sleep") != pid
    assert int(device.text("sshd.pid")) == device.pid("linit-supd@ssh.d")
    device.ok("sshd", "stop")
    assert not (device.run / "sshd.pid").exists()


@pytest.mark.parametrize("words", [
    ["", "a  b", "\n", "x\n", "-n", "--", "'", "''\"\\'", "$(touch /run/bad)`touch /run/bad`", "*"],
    ["\\n\\c", "tab\there", "; touch /run/bad", "é\x01\x7f", "~", "a=b", "#", "%s"]])
def test_linit_sup_keeps_every_argument(device, words):
    device.program("show", "printf '<%s>' \"$@\"; exec sleep 1000")
    log = "it's a \"log\" $x"
    status, text = device.call("linit-sup", "--name", "a.B_c+d:e-1", "--log", f"/run/{log}",
                               "--pid", "/run/-p 'x'", "--", "show", *words)
    assert status == 0, text
    pid = device.daemon("linit-supd@a.B_c+d:e-1", "sleep")
    assert device.text(log) == "".join(f"<{word}>" for word in words)
    assert int(device.text("-p 'x'")) == pid and not (device.run / "bad").exists()
    assert device.call("linit-sup-stop", "HUP", "a.B_c+d:e-1")[0] == 0
    assert not is_alive(pid)


@pytest.mark.parametrize("words, text", [
    (["--name", "../x", "--", "sleep", "1"], "a --name of letters"),
    (["--name", "a b", "--", "sleep", "1"], "a --name of letters"),
    (["--name", "a\nb", "--", "sleep", "1"], "a --name of letters"),
    (["--", "sleep", "1"], "a --name of letters"),
    (["--name", "x", "--", "-c", "1"], "'-c': not a program"),
    (["--name", "x", "--", ""], "'': not a program"),
    (["--name", "x", "--"], "usage: "), (["--name", "x"], "usage: "), ([], "usage: "),
    (["--what", "x", "--", "sleep"], "usage: ")])
def test_linit_sup_refuses(device, words, text):
    status, output = device.call("linit-sup", *words)
    assert status and text in output
    assert not list(device.run.glob("linit.sock.d/*.command"))


def test_linit_sup_stop_refuses(device):
    assert device.call("linit-sup-stop")[0] == 2
    assert device.call("linit-sup-stop", "9", "x", "y")[0] == 2
    assert device.call("linit-sup-stop", "x")[0] == 0       # it doesn't run


def test_a_daemon_that_linit_sup_did_not_start_is_none(device):
    assert device.call("/etc/init.d/linit-supd", "start")[0] == 0
    device.add("asks", "depends() { dep linit-supd@nothing; }")
    if device.mode == "linitd":
        status, text = device.hand("asks", "start")
        assert status == 1 and "linit-sup has not started it" in text


@pytest.mark.parametrize("what", ["link", "other's"])
def test_linit_sup_uses_no_folder_that_another_has_made(device, what):
    if device.mode == "linitd":
        device.linitd.terminate()
        device.linitd.wait()
        device.mode, device.linitd = "alone", None
    (device.run / "elsewhere").mkdir()
    folder = device.run / "linit.sock.d"
    if folder.exists():
        shutil.rmtree(folder)
    if what == "link":
        folder.symlink_to("elsewhere")
    else:
        folder.mkdir(mode=0o777)
        os.chown(folder, 65534, 65534)
    status, text = device.call("linit-sup", "--name", "x", "--", "sleep", "1000")
    assert status == 1 and "it belongs to another user" in text
    assert list((device.run / "elsewhere").iterdir()) == [] == list(folder.iterdir())


def test_linit_sup_s_folder_is_its_user_s_alone(device):
    device.ok("sleeper", "start")
    assert (device.run / "linit.sock.d").stat().st_mode & 0o777 == 0o700


def test_restart_and_reload_may_be_the_script_s_own(device):
    device.ok("clock", "start")
    for verb in ("restart", "reload", "boot", "shutdown"):
        device.ok("clock", verb)
    path = device.folder / "clock"
    device.call("cp", "/run/scratch/clock", path)
    assert path.read_text().splitlines() == [
        f"clock {word}" for word in "start stop between start reload boot shutdown".split()]
    assert device.ok("clock", "runlevel") == "5\n" and device.state("clock") == "running"
    device.ok("clock", "stop")
    device.ok("scratch", "stop")
    assert device.call("mountpoint", "-q", "/run/scratch")[0] != 0


def test_reload_is_restart_where_a_script_has_none(device):
    device.ok("sleeper", "start")
    pid = device.daemon("linit-supd@sleeper", "sleep")
    device.ok("sleeper", "reload")
    assert device.daemon("linit-supd@sleeper", "sleep") != pid and not is_alive(pid)
    device.add("daemon", "run() { exec sleep 1000; }")
    device.ok("daemon", "start")
    pid = device.daemon("daemon", "sleep")
    device.ok("daemon", "reload")
    assert device.daemon("daemon", "sleep") != pid and not is_alive(pid)


def test_the_other_verbs_by_hand(device):
    assert device.ok("welcome", "runlevel") == "3\n"
    assert device.ok("welcome", "help").startswith("usage: ")
    assert device.call("/etc/init.d/welcome")[1].startswith("usage: ")
    assert device.ok("welcome", "depscan") == "dep pre\n"
    assert device.ok("scratch", "depscan") == "dep pre\ndep hostname\n"
    device.add("all", "depends() { dep a; want b c; after d; binds e; dep; }")
    assert device.ok("all", "depscan") == "dep a\nwant b\nwant c\nafter d\nbinds e\n"
    assert device.trace() == [] and device.state("pre") == "stopped"
    assert device.hand("welcome", "fail") == (1, "welcome: failed\n")
    status, text = device.hand("welcome", "explode")
    assert status == 2 and text.startswith("usage: ")
    device.ok("welcome", "boot")
    assert device.state("welcome") == "running" and device.trace() == ["welcome"]
    device.ok("welcome", "shutdown")
    assert device.state("welcome") == "stopped"


def test_starts_that_fail(device):
    status, text = device.hand("quota", "start")
    assert status == 1 and "status" in text
    assert device.text("failures") == "quota cannot: there is no quota\n"
    assert device.hand("refuses", "start")[0] == device.hand("needy", "start")[0] == 1
    assert device.text("stumbles") == "before\n"
    assert [device.state(name) for name in ("quota", "refuses", "stumbles", "needy")] == [
        "failed"] * 4
    assert "needy" not in device.trace()
    for name in ("quota", "allowed", "is-not-there"):
        (device.run / name).touch()
    for name in ("quota", "refuses", "needy"):
        device.ok(name, "start")
        assert device.state(name) == "running"
    assert device.hand("quota", "fail")[0] == 9


def test_a_script_s_own_helpers_disturb_nothing(device):
    device.ok("helpers", "start")
    assert device.text("helpers").split() == [
        "ask", "stop", "load", "service", "report", "main", "usage"]
    assert device.state("helpers") == "running" and device.trace() == ["welcome"]
    device.ok("helpers", "restart")
    device.ok("helpers", "stop")
    assert device.text("helpers").split()[-1] == "stop"


@pytest.mark.parametrize("program", ["su", "setpriv"])
def test_a_daemon_of_another_user_is_in_all_its_groups(device, program):
    if program == "su":                 # as busybox has it, whose setpriv can't do that
        device.program("su", 'echo "$7" >>/run/asked', "user=$7 command=$5",
                       '[ "$1 $2 $3 $4 $6" = "-m -s /bin/sh -c --" ] || exit', "shift 7",
                       f'exec {shutil.which("setpriv")} --reuid="$user" --regid=nogroup '
                       '--init-groups sh -c "$command" "$@"')
        device.program("setpriv", "exit 1")
    with open(device.etc / "group", "a", encoding="utf-8") as file:
        file.write("sound:x:61235:nobody\n")
    for path in [device.folder, *device.folder.parents][:3]:
        path.chmod(0o755)
    device.add("daemon", "user=nobody", "run() { exec sleep 1000; }")
    device.ok("daemon", "start")
    pid = device.daemon("daemon", "sleep\x001000")     # not a shell that is to execute it
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534\n" in status
    assert "Gid:\t65534\t65534\t65534\t65534\n" in status
    assert "Groups:\t61235 65534 \n" in status
    assert device.text("asked") == ("nobody\n" if program == "su" else "")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: device.pid("daemon") not in (0, pid))
    device.daemon("daemon", "sleep")
    device.ok("daemon", "stop")


def test_a_user_that_is_not_there_starts_nothing(device):
    device.add("daemon", "user=nonesuch", "run() { echo >/run/ran; exec sleep 1000; }")
    status, _ = device.hand("daemon", "start")
    assert status == (1 if device.mode == "linitd" else 0)
    time.sleep(0.3)
    assert not (device.run / "ran").exists()


@pytest.mark.parametrize("number", ["1", "other", "0", "-1", "nonsense"])
def test_s34_a_pidfile_that_names_another_ends_its_own_daemon_alone(device, number):
    other = subprocess.Popen(["sleep", "1000"])
    try:
        device.ok("sshd", "start")
        pid = device.daemon("linit-supd@ssh.d", "sleep")
        (device.run / "sshd.pid").write_text(str(other.pid) if number == "other" else number)
        device.ok("sshd", "stop")
        assert not is_alive(pid) and other.poll() is None and is_alive(device.space.pid)
        device.ok("sshd", "start")
        pid = device.daemon("linit-supd@ssh.d", "sleep")
        (device.run / "sshd.pid").unlink()
        (device.run / "sshd.pid").symlink_to("victim")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: device.pid("linit-supd@ssh.d") not in (0, pid))
        pid = device.daemon("linit-supd@ssh.d", "sleep")
        assert device.text("sshd.pid") == f"{pid}\n"
        assert not (device.run / "victim").exists() and other.poll() is None
    finally:
        other.kill()
        other.wait()


# ---- the network's scripts, in a network of their own --------------------------------------------

class Network:
    """eth0 and eth1 of a namespace, with an /etc and a /run of its own, and the scripts in it.
    Where the shell is busybox, so are ip and the others."""

    SETUP = """
    mount --bind etc /etc && mount --bind run /run && mount --bind share /usr/share || exit
    ip link set lo up
    for number in 0 1; do
        ip link add eth$number type veth peer name peer$number
        ip link set peer$number up
        ip link set eth$number up
    done
    echo ready && exec sleep 1000"""

    def __init__(self, folder, shell):
        for name in ("etc", "run", "share/udhcpc", "bin"):
            (folder / name).mkdir(parents=True)
        install(["udhcpc.script", "linit-net"], folder, shell)
        (folder / "udhcpc.script").rename(folder / "share/udhcpc/default.script")
        if shell == "ash":
            for name in ("ip", "sed", "cmp", "grep", "readlink", "mv", "rm"):
                (folder / "bin" / name).symlink_to(shutil.which("busybox"))
        (folder / "bin/udhcpc").write_text("#!/bin/sh\necho udhcpc \"$*\"\n")
        (folder / "bin/udhcpc").chmod(0o755)
        self.folder = folder
        self.space = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", self.SETUP], cwd=folder, text=True,
            stdout=subprocess.PIPE)
        assert self.space.stdout.readline() == "ready\n"

    def run(self, *command, **variables):
        """The output of a COMMAND that succeeds in there."""
        enter = ["nsenter", "-t", str(self.space.pid), "--net", "--mount"]
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [*enter, *command], env=environment(PATH=path, **variables), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def lease(self, event, interface, address="", servers="", **variables):
        """What udhcpc says of a lease."""
        ip, _, mask = address.partition("/")
        lease = dict(ip=ip, mask=mask, dns=servers) if address else {}
        self.run("/usr/share/udhcpc/default.script", event,
                 interface=interface, **lease, **variables)

    def addresses(self, interface):
        words = self.run("/sbin/ip", "-4", "-o", "addr", "show", "dev", interface).split()
        return [after for word, after in zip(words, words[1:]) if word == "inet"]

    def routes(self, kind="-4"):
        """DESTINATION GATEWAY INTERFACE of each route that isn't the kernel's own."""
        routes = []
        for line in self.run("/sbin/ip", kind, "route").splitlines():
            words = line.split()
            if "kernel" not in words:
                via = words[words.index("via") + 1] if "via" in words else "-"
                routes.append((words[0], via, words[words.index("dev") + 1]))
        return routes

    def servers(self):
        lines = (self.folder / "etc/resolv.conf").read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]


@pytest.fixture(params=list(SHELLS))
def network(tmp_path, request):
    network = Network(tmp_path, request.param)
    yield network
    network.space.kill()
    network.space.wait()


FIRST = dict(interface="eth0", address="10.0.0.5/24", servers="10.0.0.1 10.0.0.2",
             router="10.0.0.1", domain="home")


def test_each_interface_has_its_own_servers_and_default_route(network):
    network.lease("bound", **FIRST)
    network.lease("bound", "eth1", "192.168.5.9/24", router="192.168.5.1")
    assert network.servers() == ["search home", "nameserver 10.0.0.1", "nameserver 10.0.0.2"]
    assert sorted(network.routes()) == [
        ("default", "10.0.0.1", "eth0"), ("default", "192.168.5.1", "eth1")]
    network.lease("renew", "eth1", "192.168.5.9/24", "192.168.5.1", router="192.168.5.1")
    assert "nameserver 10.0.0.1" in network.servers()
    assert "nameserver 192.168.5.1" in network.servers()
    network.lease("deconfig", "eth0")
    assert network.servers() == ["nameserver 192.168.5.1"]
    assert network.routes() == [("default", "192.168.5.1", "eth1")]
    assert network.addresses("eth0") == [] and network.addresses("eth1") == ["192.168.5.9/24"]


def test_a_renewal_of_the_same_lease_touches_nothing(network):
    network.lease("bound", **FIRST)
    network.run("ip", "addr", "add", "172.20.0.1/24", "dev", "eth0")
    network.run("ip", "route", "add", "10.99.0.0/16", "via", "10.0.0.254", "dev", "eth0")
    resolv = network.folder / "etc/resolv.conf"
    before = resolv.stat()
    seen = network.folder / "seen"
    network.run("sh", "-c", f"/sbin/ip -4 monitor address route >{seen} & sleep 0.3; "
                "/usr/share/udhcpc/default.script renew; sleep 0.3; kill $!",
                interface="eth0", ip="10.0.0.5", mask="24", router="10.0.0.1",
                dns="10.0.0.1 10.0.0.2", domain="home")
    assert seen.read_text() == ""
    assert (resolv.stat().st_ino, resolv.stat().st_mtime_ns) == (
        before.st_ino, before.st_mtime_ns)
    assert sorted(network.addresses("eth0")) == ["10.0.0.5/24", "172.20.0.1/24"]


def test_another_lease_replaces_what_the_last_one_set_and_nothing_else(network):
    resolv = network.folder / "etc/resolv.conf"
    resolv.write_text("options timeout:1\n")
    network.lease("bound", **FIRST)
    network.run("ip", "addr", "add", "172.20.0.1/24", "dev", "eth0")
    network.run("ip", "route", "add", "10.99.0.0/16", "via", "172.20.0.9", "dev", "eth0")
    network.lease("renew", "eth0", "10.0.1.7/24", "10.0.1.1", router="10.0.1.1")
    assert sorted(network.addresses("eth0")) == ["10.0.1.7/24", "172.20.0.1/24"]
    assert sorted(network.routes()) == [
        ("10.99.0.0/16", "172.20.0.9", "eth0"), ("default", "10.0.1.1", "eth0")]
    assert network.servers() == ["options timeout:1", "nameserver 10.0.1.1"]
    network.lease("deconfig", "eth0")
    assert network.addresses("eth0") == ["172.20.0.1/24"]
    assert network.routes() == [("10.99.0.0/16", "172.20.0.9", "eth0")]
    assert network.servers() == ["options timeout:1"]


@pytest.mark.parametrize("address, router", [
    ("10.0.0.5/32", "192.0.2.1"), ("10.0.0.5/24", "192.0.2.1"), ("10.0.0.5", "10.0.0.1")],
    ids=["32 bits", "far gateway", "no mask"])
def test_a_gateway_outside_of_the_lease_s_network(network, address, router):
    for event in ("bound", "renew"):
        network.lease(event, "eth0", address, router=router)
        assert sorted(network.routes()) == [(router, "-", "eth0"), ("default", router, "eth0")]
    network.lease("deconfig", "eth0")
    assert network.routes() == [] == network.addresses("eth0")


def test_classless_routes_count_instead_of_the_router(network):
    network.lease("bound", "eth0", "10.0.0.5/24", router="10.0.0.1",
                  staticroutes="10.1.0.0/16 10.0.0.3 0.0.0.0/0 10.0.0.4 10.2.0.0/16 0.0.0.0")
    assert sorted(network.routes()) == [
        ("10.1.0.0/16", "10.0.0.3", "eth0"), ("10.2.0.0/16", "-", "eth0"),
        ("default", "10.0.0.4", "eth0")]


def test_resolv_conf_may_be_a_symlink(network):
    path = network.folder / "etc/resolv.conf"
    path.symlink_to("/run/resolv.conf")
    network.lease("bound", **FIRST)
    assert os.readlink(path) == "/run/resolv.conf"
    assert "nameserver 10.0.0.2" in (network.folder / "run/resolv.conf").read_text()


@pytest.mark.parametrize("text, does", [
    (None, "udhcpc"), ("eth* dhcp\n", "udhcpc"),
    ("# eth0 off\neth1 off\neth* dhcp # here\n", "udhcpc"),
    ("eth* dhcp\neth0 off\n", ""), ("wlan* dhcp\n", ""), ("eth0\n", ""), ("", ""),
    ("eth0 dhcp", "udhcpc")],
    ids=["no file", "pattern", "comments", "last counts", "another", "no words", "empty",
         "no newline"])
def test_etc_network_says_what_becomes_of_an_interface(network, text, does):
    if text is not None:
        (network.folder / "etc/network").write_text(text)
    output = network.run(network.folder / "linit-net", "eth0")
    assert output.startswith("udhcpc -b ") if does else output == ""
    assert ("-i eth0" in output) == bool(does)


def test_a_start_after_one_that_failed_leaves_one_client_an_interface(network):
    (network.folder / "bin/linit-net").symlink_to(network.folder / "linit-net")
    (network.folder / "bin/udhcpc").write_text(
        "#!/bin/sh\nwhile [ $1 != -p ]; do shift; done\nsetsid sh -c 'echo $$ >$1; "
        "echo $$ >>/run/clients; while :; do sleep 0.1; done' udhcpc $2 >/dev/null 2>&1 &\n"
        "until [ -s $2 ]; do sleep 0.1; done\n")
    network.run("mount", "-t", "sysfs", "none", "/sys")
    for line, status in (("dchp", 1), ("10.0.0.9/24", 0)):
        (network.folder / "etc/network").write_text(f"eth0 dhcp\neth1 {line}\n")
        output = network.run("sh", "-c", '"$@"; echo $?', "sh", network.folder / "sh", "-ec",
                             ". $0 && start", ROOT / "initd/network")
        assert output.endswith(f"{status}\n")
    first, second = map(int, (network.folder / "run/clients").read_text().split())
    wait_until(lambda: not is_alive(first))
    assert is_alive(second) and network.addresses("eth1") == ["10.0.0.9/24"]
    network.run(network.folder / "sh", "-ec", ". $0 && stop", ROOT / "initd/network")
    wait_until(lambda: not is_alive(second))
    assert network.addresses("eth1") == []


def test_a_static_address_of_each_kind(network):
    (network.folder / "etc/network").write_text(
        "eth* dhcp\neth0 10.0.0.9/24 10.0.3.9/24 2001:db8::9/64 via 10.0.0.1 2001:db8::1 "
        "dns 10.0.0.1 2001:db8::1 search home lan\n")
    network.run(network.folder / "linit-net", "eth0")
    assert sorted(network.addresses("eth0")) == ["10.0.0.9/24", "10.0.3.9/24"]
    assert "2001:db8::9/64" in network.run("/sbin/ip", "-6", "addr", "show", "dev", "eth0")
    assert network.routes() == [("default", "10.0.0.1", "eth0")]
    assert ("default", "2001:db8::1", "eth0") in network.routes("-6")
    assert network.servers() == [
        "search home lan", "nameserver 10.0.0.1", "nameserver 2001:db8::1"]
    (network.folder / "etc/network").write_text("eth0 10.0.0.9/24\n")
    network.run(network.folder / "linit-net", "eth0")
    assert network.addresses("eth0") == ["10.0.0.9/24"]
    assert network.routes() == [] == network.servers()


@pytest.mark.parametrize("words", ["10.0.0.9/99", "dchp", "10.0.0.9/24 via 10.0.0.300"])
def test_a_line_that_can_not_be_is_named(network, words):
    (network.folder / "etc/network").write_text(f"eth0 {words}\n")
    output = network.run("sh", "-c", '"$0" eth0 2>&1; echo $?', network.folder / "linit-net")
    assert output.splitlines()[-2:] == [f"/etc/network: eth0 can't be set up with: {words}", "1"]


CLOSED = "{0}: bad\n{0} -P INPUT DROP\n{0} -P FORWARD DROP\n"


@pytest.mark.parametrize("rules, broken, tells", [
    ({}, "", ""),
    ({"firewall": "good", "firewall6": "six"}, "", "iptables: good\nip6tables: six\n"),
    ({"firewall": "bad", "firewall6": "six"}, "",
     CLOSED.format("iptables") + "ip6tables: six\n"
     "/etc/firewall is not in force, and nothing comes in until it is mended\nstatus 1\n"),
    ({"firewall": "bad", "firewall6": "bad"}, "",
     CLOSED.format("iptables") + CLOSED.format("ip6tables") +
     "/etc/firewall is not in force, and nothing comes in until it is mended; "
     "/etc/firewall6 is not in force, and nothing comes in until it is mended\nstatus 1\n"),
    ({"firewall": "good"}, "exit 1",
     "/etc/firewall is not in force, and everything comes in, since iptables can't run\n"
     "status 1\n"),
], ids=["none", "both", "one broken", "both broken", "no iptables"])
def test_a_firewall_that_can_not_be_set_lets_nothing_in(network, rules, broken, tells):
    """Of the family whose rules are broken; the other's are in force."""
    for name, text in rules.items():
        (network.folder / "etc" / name).write_text(text + "\n")
    for name in ("iptables", "ip6tables"):
        for program, body in ((name, f'echo "{name} $*"'), (
                f"{name}-restore", f"read -r rules; echo {name}: $rules; [ $rules != bad ]")):
            (network.folder / "bin" / program).write_text(f"#!/bin/sh\n{broken or body}\n")
            (network.folder / "bin" / program).chmod(0o755)
    output = network.run(network.folder / "sh", "-c", """
        fail() { echo "$*"; exit 1; }
        . "$0"
        (set -e; start) || echo "status $?" """, ROOT / "initd/firewall")
    assert output == tells


# ---- linit-fsck ----------------------------------------------------------------------------------

FSTAB = """\
# device      where  type  options   dump check
LABEL=root    /      ext4  noatime   0 1
LABEL=data    /data  ext4  nofail    0 2
LABEL=absent  /gone  ext4  nofail    0 2
LABEL=data    /later ext4  noauto    0 0
LABEL=data    /proc  ext4  defaults  0 2
LABEL=data    /none  other defaults  0 2
tmpfs         /media tmpfs size=1m   0 0
{device}      /boot  vfat  umask=022 0 2"""      # the last line may end without a newline


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words, status, checked", [
    ((), 0, ["fsck.ext4", "fsck.vfat"]), (("/boot",), 0, ["fsck.vfat"]),
    (("/later",), 0, ["fsck.ext4"]), (("/proc",), 0, []), (("/nowhere",), 0, []),
    ((), 1, ["fsck.ext4", "fsck.vfat"]), ((), 4, ["fsck.ext4", "fsck.vfat"])])
def test_linit_fsck_checks_what_fstab_names(tmp_path, shell, words, status, checked):
    """By its label, too; but not /, nor what is mounted, absent, or has no program for it."""
    install(["linit-fsck"], tmp_path, shell)
    device = tmp_path / "device"
    os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    programs = {"findfs": f"[ $1 = LABEL=data ] && echo {device}",
                **{name: f'echo "${{0##*/}} $*" >>{tmp_path}/ran; cat; exit {status}'
                   for name in ("fsck.ext4", "fsck.vfat")}}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text(FSTAB.format(device=device))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', tmp_path / "etc",
         tmp_path / "linit-fsck", *words], timeout=30, check=False,
        env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert done.returncode == status // 4
    ran = tmp_path / "ran"
    assert (ran.read_text().splitlines() if ran.exists() else []) == [
        f"{name} -p {device}" for name in checked]


# ---- linit-grow ----------------------------------------------------------------------------------

def load_grow():
    loader = importlib.machinery.SourceFileLoader("grow", str(ROOT / "initd/linit-grow"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("grow", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


class Table:
    """A file of 8 MiB with a table of two partitions of 1 MiB, which then grows to 20 MiB."""

    SECTORS = 20 << 11

    def __init__(self, folder, label="gpt"):
        self.path = folder / "disk"
        with open(self.path, "wb") as file:
            file.truncate(8 << 20)
        self.sfdisk(text=f"label: {label}\nstart=2048, size=2048\nstart=4096, size=2048\n")
        os.truncate(self.path, self.SECTORS * 512)
        self.disk = os.open(self.path, os.O_RDWR)

    def sfdisk(self, *options, text=""):
        done = subprocess.run(["sfdisk", "-q", *options, self.path], input=text, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def partitions(self):
        """FIRST, SIZE of each, as sfdisk reads them."""
        lines = self.sfdisk("-l", "-o", "Start,Sectors").splitlines()
        return [tuple(map(int, line.split())) for line in lines if line.split()[:1][0].isdigit()]


def test_grow_takes_what_is_free_behind_the_last_partition(tmp_path):
    grow, table = load_grow(), Table(tmp_path)
    last = table.SECTORS - 34               # behind it: 32 sectors of entries, and a header
    assert grow.widen(table.disk, 2, table.SECTORS) == (4096, last + 1 - 4096)
    assert table.partitions() == [(2048, 2048), (4096, last + 1 - 4096)]
    assert "mismatch" not in table.sfdisk("--verify")
    before = table.path.read_bytes()
    assert grow.widen(table.disk, 2, table.SECTORS) == (4096, last + 1 - 4096)
    assert table.path.read_bytes() == before


@pytest.mark.parametrize("label, index", [("gpt", 1), ("dos", 2)])
def test_grow_leaves_another_partition_or_table_alone(tmp_path, label, index):
    grow, table = load_grow(), Table(tmp_path, label)
    before = table.path.read_bytes()
    assert grow.widen(table.disk, index, table.SECTORS) is None
    assert table.path.read_bytes() == before


@pytest.mark.parametrize("count", range(4))
def test_grow_cut_after_any_write_leaves_a_table_and_can_be_done_again(tmp_path, count):
    grow, table = load_grow(), Table(tmp_path)
    done = []

    class Os:
        """os, whose power goes after COUNT writes."""
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, *arguments):
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(os.pwrite(*arguments))

    grow.os = Os()
    try:
        grow.widen(table.disk, 2, table.SECTORS)
    except KeyboardInterrupt:
        assert len(done) == count
    assert [first for first, _ in table.partitions()] == [2048, 4096]
    assert load_grow().widen(table.disk, 2, table.SECTORS)
    assert "mismatch" not in table.sfdisk("--verify")
    assert table.partitions()[1][0] + table.partitions()[1][1] == table.SECTORS - 33
