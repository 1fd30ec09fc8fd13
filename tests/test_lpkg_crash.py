"""lpkg, cut after every call that changes something: killed, told that the disk is full or broken,
on a disk that is full or read-only, while a script runs, and while it upgrades itself.

The calls are counted in lpkg's own process, a fork of this one in which the functions of `os` that
change something, and the raw files that lpkg writes, are replaced. (What a kill leaves right before
a call is what it leaves right after the one before it, so that only the latter is tried.) Power
cuts, in which what was written may be lost, are test_world.py's. `test_sNN_` is the attack of that
number in docs/SECURITY.md.
"""

import builtins
import collections
import contextlib
import errno
import fcntl
import io
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from conftest import wait_until
from test_lpkg import (SCRIPT, SHELL_FINISH, World, keys, lpkg,     # keys is a fixture
                       run, snapshot)

assert keys
SAMPLE = 29                         # `make test` tries every 29th call, `make test-long` all


# ---- the calls that change something -----------------------------------------------------------

CHANGING = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "symlink", "link", "mknod",
            "mkfifo", "chmod", "lchmod", "fchmod", "chown", "lchown", "fchown", "truncate",
            "ftruncate", "write", "writev", "pwrite", "sendfile", "copy_file_range", "utime",
            "setxattr", "removexattr", "posix_fallocate", "fdatasync", "fork")
WIDTH = 16


class Shim:
    """Notes the changing calls of one lpkg. At the call NUMBER it kills lpkg and
    what it has started, or raises an OSError of that ERROR, from then on if it is to last FOR_EVER;
    each write writes HALF if that is said."""

    def __init__(self, number=0, error=0, for_ever=False, half=False):
        self.number = number
        self.error = error
        self.for_ever = for_ever
        self.half = half
        self.threads = False
        self.log = os.memfd_create("calls")     # a line of WIDTH for each

    def calls(self):
        """The names of the calls that were made."""
        size = os.fstat(self.log).st_size
        return os.pread(self.log, size, 0).decode().split()

    def close(self):
        os.close(self.log)

    def install(self):
        """Run by lpkg's process before lpkg begins."""
        os.setpgid(0, 0)
        self.real_write = os.write
        for name in CHANGING:
            if hasattr(os, name):
                setattr(os, name, self.wrap(name, getattr(os, name)))
        self.real_open = os.open
        os.open = self.open
        lpkg.open = self.open_file
        if self.threads:                # that are used from a size on, else
            lpkg.WORTH_A_THREAD = 0
        never_sync()
        os.sync = self.wrap("sync", os.sync)
        os.fsync = self.wrap("fsync", os.fsync)
        if self.half:
            os.write = lambda fd, data, real=os.write: real(fd, data[:len(data) // 2 or 1])

    def wrap(self, name, real):
        return lambda *arguments, **more: self.call(name, real, *arguments, **more)

    def call(self, name, real, *arguments, **more):
        if name == "write" and isinstance(arguments[0], int) and is_pipe(arguments[0]):
            return real(*arguments, **more)
        count = self.note(name)
        is_now = count == self.number
        if self.error and (is_now or self.for_ever and 0 < self.number < count):
            if not (self.error == errno.ENOSPC and self.for_ever and name in FREEING):
                raise OSError(self.error, os.strerror(self.error))
        try:
            return real(*arguments, **more)
        finally:
            if is_now and not self.error:
                os.killpg(0, signal.SIGKILL)

    def note(self, name):
        """Add NAME to the calls of all processes: how many there are now."""
        fcntl.lockf(self.log, fcntl.LOCK_EX)
        os.lseek(self.log, 0, os.SEEK_END)
        self.real_write(self.log, f"{name:{WIDTH - 1}}\n".encode())
        count = os.fstat(self.log).st_size // WIDTH
        fcntl.lockf(self.log, fcntl.LOCK_UN)
        return count

    def open(self, path, flags, *arguments, **more):
        if flags & (os.O_CREAT | os.O_TRUNC):
            return self.call("open", self.real_open, path, flags, *arguments, **more)
        return self.real_open(path, flags, *arguments, **more)

    def open_file(self, file, mode="r", buffering=-1, **more):
        """The builtin, whose files write through this shim."""
        if "b" not in mode or mode == "rb":
            return builtins.open(file, mode, buffering, **more)
        raw = CountedFile(file, mode.replace("b", ""))
        raw.shim = self
        return raw if buffering == 0 else io.BufferedWriter(raw)


def is_pipe(descriptor):
    """Whether what is written there is talk between processes."""
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


FREEING = ("unlink", "remove", "rmdir", "fsync", "fdatasync", "sync", "chmod", "fchmod", "fork")


class CountedFile(io.FileIO):
    """A raw file whose writes a shim sees."""

    def write(self, data):
        if self.shim.half:
            data = memoryview(data)[:len(data) // 2 or 1]
        return self.shim.call("write", super().write, data)


def wait_for_lock(root):
    """Until a script's process, which was killed right after its fork, is gone too."""
    if (root / lpkg.LOCK).exists():
        with open(root / lpkg.LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def never_sync():
    """Run by an lpkg that need not wait for a disk: what a kill leaves is not lost."""
    os.sync = lambda: None
    os.fsync = lambda descriptor: None


# ---- a system, and what is done to it ----------------------------------------------------------

LOG = "var/log/ran"                 # what scripts have run


def add_shell(root):
    """Give ROOT a shell that runs there: this machine's, with its libraries."""
    listed = subprocess.run(["ldd", "/bin/dash"], stdout=subprocess.PIPE, text=True, check=True)
    for path in re.findall(r"(/\S+) \(", listed.stdout):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path[1:])
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy("/bin/dash", root / "bin/sh")
    (root / LOG).parent.mkdir(parents=True)


def scripts(*names):
    """Scripts that note that they ran."""
    return {name: f'#!/bin/sh\necho "${{0##*/}} $*" >>/{LOG}\n' for name in names}


ALL_SCRIPTS = ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-remove",
               "post-remove", "oninstall")


def alternative(target, priority):
    return [{"path": "bin/vi", "target": target, "priority": priority}]


def copy_file(source, target):
    """Copy a file with its owner and mode; link what lpkg never changes, where that can be done."""
    there = os.stat(source)
    if "/lib" in source or source.endswith("/bin/sh"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    os.chown(target, there.st_uid, there.st_gid)
    os.chmod(target, there.st_mode)


class Kinds:
    """Roots, and the transactions that are tried on them: KIND -> (root as it was, arguments)."""

    def __init__(self, folder, keys):
        self.world = World(folder, keys)
        self.folder = folder
        self.source = ["--repo", self.world.repo, "--key", self.world.key, "--arch", "x86_64"]
        self.systems = {}               # KIND -> (old, new, calls)
        self.scripts = {}               # KIND -> what scripts run after its commit
        self.pack_first()
        self.make_roots()
        self.pack_second()
        self.copy("full", folder / "upgraded")
        self.do("upgrade", ["upgrade", "--yes", *self.source], folder / "upgraded").ok()
        self.kinds = {
            "install": ("bare", ["install", "--yes", *self.source, "a"]),
            "upgrade": ("configured", ["upgrade", "--yes"]),
            "replace": ("full", ["install", "--yes", "--allow-unsigned",
                                 folder / "c-2-0.x86_64.lpkg"]),
            "remove": ("full", ["remove", "--yes", "a"]),
            "undo": ("upgraded", ["undo", "--yes", *self.source, "2"]),
            "repair": ("damaged", ["fix", "--yes", *self.source, "a"]),
            "choose": ("full", ["alternatives", "set", "bin/vi", "b"]),
            "first": ("", ["install", "--yes", *self.source, "a", "b"]),
            "thread": ("", ["install", "--yes", *self.source, "a", "b"]),
            "bootstrap": ("", ["bootstrap", *self.source, "--repo-url", "http://h/r", "a", "b"]),
        }

    def pack_first(self):
        self.world.pack(
            {"a": {"bin/a": (b"1", 0o4755), "bin/l": "-> a", "etc/c": b"1", "etc/d": b"1",
                   "old/deep/f": b"1", "dirlink": "-> bin", "empty": None, "turns": b"file",
                   "turned": "-> etc", "share/moves": b"1", "strict": (None, 0o755),
               "joins/in/f": (b"1", 0o4755), "joins/l": "-> in", "parts": "-> old"},
             "b": {"bin/b": b"1"}},
            a={"conffiles": ["etc/c", "etc/d"], "alternatives": alternative("a", 10),
               "scripts": scripts(*ALL_SCRIPTS), "owners": {"etc/d": "5:6:640"}},
            b={"alternatives": alternative("b", 5), "scripts": scripts("post-upgrade")})
        self.world.index()

    def pack_second(self):
        self.world.pack(
            {"a": {"bin/a": b"2", "bin/l": "-> b", "etc/c": b"2", "etc/d": b"2",
                   "new/deep/f": b"2", "dirlink": "-> etc", "new/empty": None, "turns": "-> etc",
                   "turned": b"file", "strict": (None, 0o1777), "joins": "-> new", "parts/f": b"2"},
             "b": {"bin/b": (b"2", 0o4755), "share/moves": b"2"}}, "2-0",
            a={"conffiles": ["etc/c", "etc/d"], "alternatives": alternative("a", 3),
               "scripts": scripts(*ALL_SCRIPTS)},
            b={"alternatives": alternative("b", 5), "scripts": scripts("post-upgrade")})
        self.world.index()
        # Not in the repository: `upgrade` would take it.
        self.world.pack(
            {"c": {"bin/a": b"c", "bin/c": b"c", "etc/c": b"c", "share/moves": b"c"}}, "2-0",
            self.folder, c={"replaces": ["a"], "conffiles": ["etc/c"],
                            "scripts": scripts("post-install")})

    def make_roots(self):
        bare = self.folder / "bare"
        bare.mkdir()
        self.do("install", ["install", "--yes", *self.source, "b"], bare).ok()
        add_shell(bare)
        full = self.copy("bare", self.folder / "full")
        self.do("install", ["install", "--yes", *self.source, "a"], full).ok()
        (full / "etc/c").write_bytes(b"mine")
        (full / "old/mine").write_bytes(b"so this folder stays")
        os.link(full / "bin/a", full / "held")              # which must lose its setuid
        os.link(full / "joins/in/f", full / "held-too")
        configured = self.copy("full", self.folder / "configured")
        (configured / "etc/lpkg/keys").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.world.key, configured / "etc/lpkg/keys")
        (configured / "etc/lpkg/repos").write_text(f"panux {self.world.repo}\n")
        (configured / "var/cache/lpkg").mkdir(parents=True)
        damaged = self.copy("full", self.folder / "damaged")
        (damaged / "bin/l").unlink()
        (damaged / "share/moves").write_bytes(b"damage")

    def copy(self, name, root):
        """A copy of the root NAME, hard links kept; none for ""."""
        copies = {}                     # inode -> its first copy

        def copy_once(source, target):
            first = copies.setdefault(os.stat(source).st_ino, target)
            if first == target:
                copy_file(source, target)
            else:
                os.link(first, target)

        if name:
            shutil.copytree(self.folder / name, root, symlinks=True, copy_function=copy_once,
                            dirs_exist_ok=True)
        return root

    def do(self, kind, arguments, root, shim=None):
        """lpkg on ROOT, with a SHIM."""
        rest = [root, *arguments[1:]] if kind == "bootstrap" else ["--root", root, *arguments[1:]]
        return run(arguments[0], *rest, before=shim.install if shim else never_sync)

    def try_kind(self, kind, root, **more):
        """A copy of KIND's origin, changed by lpkg with a shim: (result, calls)."""
        origin, arguments = self.kinds[kind]
        self.copy(origin, root)
        (root / LOG).unlink(missing_ok=True)
        return self.again(kind, root, **more)

    def again(self, kind, root, **more):
        shim = Shim(**more)
        shim.threads = kind == "thread"
        done = self.do(kind, self.kinds[kind][1], root, shim)
        calls = shim.calls()
        shim.close()
        return done, calls

    def system(self, kind):
        """(old, new, calls): the trees before and after KIND, and what changing calls it makes."""
        if kind not in self.systems:
            root = self.folder / f"new-{kind}"
            self.copy(self.kinds[kind][0], root)
            (root / LOG).unlink(missing_ok=True)
            old = look(root)
            done, calls = self.again(kind, root)
            done.ok()
            self.systems[kind] = (old, look(root), calls)
            self.scripts[kind] = scripts_after(root)
            assert old != self.systems[kind][1]
            verify(root)
        return self.systems[kind]


def look(root):
    """What matters in ROOT. Its database is a part of that: a tree that is the same file by file
    has a database that agrees with it."""
    found = {path: what for path, what in snapshot(root).items()
             if not path.startswith((LOG, lpkg.INDEXES, lpkg.CACHE + "/"))}
    if (root / lpkg.HISTORY).exists():
        text = (root / lpkg.HISTORY).read_text()
        found[lpkg.HISTORY] = re.sub(r"(?m)^(\d+\t)\d+|/[^\s\"]+", r"\1", text)
    # A first install, or a bootstrap, that was undone leaves an empty database.
    if not (root / lpkg.INSTALLED).exists() or not os.listdir(root / lpkg.INSTALLED):
        found = {path: what for path, what in found.items()
                 if not f"{lpkg.INSTALLED}/".startswith(path + "/")}
    return found


def scripts_after(root):
    """What scripts ran after the commit, with their arguments. (Before it they are temporaries.)"""
    text = (root / LOG).read_text() if (root / LOG).exists() else ""
    return {line for line in text.splitlines() if ".post-" in line}


def verify(root):
    """`verify` has nothing to say, but of what the root's owner has damaged: conffiles aside."""
    done = run("--root", root, "verify")
    assert (done.status, done.out) == (0, "")


def litter(root):
    """What no finished lpkg leaves."""
    names = [os.path.join(folder, name) for folder, folders, files in os.walk(root)
             for name in folders + files]
    return [name for name in names if re.search(
        r"/\.lpkg\.|\.new$|/lpkg/(staged|journal|removing)$", name)]


def differences(left, *systems):
    """Which paths of LEFT are of none of SYSTEMS, for who reads a failure."""
    return [sorted(path for path in {*left, *one} if left.get(path) != one.get(path))
            for one in systems]


def next_run(root):
    """The next lpkg, which finds nothing to do but to recover."""
    if (root / lpkg.INSTALLED).is_dir():
        done = run("--root", root, "--yes", "remove", "no-such-package", before=never_sync).ok()
        assert "no-such-package is not installed" in done.err
    return None


def check_recovered(kinds, kind, root, where):
    """ROOT is the old system or the new one, whole; the same command then makes it the new one.
    Whether it was the new one."""
    old, new, _ = kinds.system(kind)
    left = look(root)
    assert left in (old, new), (where, differences(left, old, new))
    assert not litter(root), (where, litter(root))
    assert scripts_after(root) == (kinds.scripts[kind] if left == new else set()), where
    if left == old:
        kinds.again(kind, root)[0].ok()
        assert look(root) == new, (where, differences(look(root), new))
    return left == new


def chosen(request, count):
    """The numbers of the calls that are tried: all in a long test, else every SAMPLEth, counted
    from a first one that differs from kind to kind."""
    if "long" in request.node.keywords:
        return range(1, count + 1)
    first = 1 + sum(map(ord, request.node.name)) % SAMPLE
    return range(first, count + 1, SAMPLE)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, keys):
    return Kinds(tmp_path_factory.mktemp("crash"), keys)


KINDS = ("install", "upgrade", "replace", "remove", "undo", "repair", "choose", "first", "thread",
         "bootstrap")


def sampled(function):
    """FUNCTION(request, kinds, kind) as two tests of each kind: a sample, and a long one."""
    long = [pytest.param(kind, marks=pytest.mark.long, id=f"{kind}-all") for kind in KINDS]
    return pytest.mark.parametrize("kind", [*KINDS, *long])(function)


# ---- killed (16) -------------------------------------------------------------------------------

@sampled
def test_s16_killed_after_every_call(request, kinds, kind, tmp_path):
    _, _, calls = kinds.system(kind)
    outcomes = collections.Counter()
    for number in chosen(request, len(calls)):
        cut = tmp_path / "cut"
        done, made = kinds.try_kind(kind, cut, number=number)
        assert done.status == -signal.SIGKILL, number
        assert kind == "thread" or made == calls[:number], (number, made[-1])
        wait_for_lock(cut)
        by_shell = kinds.copy(cut, tmp_path / "by_shell")
        next_run(cut)
        outcomes["lpkg", check_recovered(kinds, kind, cut, number)] += 1
        outcomes["sh", finish_by_shell(kinds, kind, by_shell, number)] += 1
        shutil.rmtree(cut)
        shutil.rmtree(by_shell)
    print(f"{kind}: {sum(outcomes.values()) // 2} of {len(calls)} calls cut:", dict(outcomes))


def test_s16_what_is_durable_before_what(kinds):
    """The order of the calls at each step; test_world.py cuts the power instead."""
    _, _, calls = kinds.system("choose")
    staging = "((symlink|open|write|fchown|fchmod|chown) )+"
    journal = "unlink open write "      # an old journal.new goes first, if there is one
    assert re.search(f"fsync rename fsync {staging}{journal}sync fsync rename fsync (rename )+"
                     "sync unlink fsync unlink", " ".join(calls)), calls


@pytest.mark.parametrize("when", ["before", "after"])
def test_s16_the_shell_is_cut_too(kinds, tmp_path, when):
    """Right BEFORE and right AFTER each mv, and then runs again."""
    committed = tmp_path / "committed"
    kinds.try_kind("upgrade", committed, number=commit_of(kinds, "upgrade"))
    moves = (committed / lpkg.JOURNAL).read_text().count("mv\t")
    run_shell_part(kinds.copy(committed, tmp_path / "first"))       # makes `applets`
    killer = tmp_path / "killer"
    killer.mkdir()
    kill = 'echo >>"$0.log"; [ $(wc -l <"$0.log") != "$COUNT" ] || { kill -KILL $PPID; exit; }'
    mv = 'busybox mv "$@"'
    (killer / "mv").write_text("#!/bin/sh\n" + "\n".join(
        [kill, mv] if when == "before" else [mv, kill]) + "\n")
    (killer / "mv").chmod(0o755)
    for count in range(1, moves + 1, 4):
        root = kinds.copy(committed, tmp_path / "root")
        path = f"{killer}:{tmp_path / 'applets'}:/usr/bin:/bin"
        (killer / "mv.log").write_text("")
        done = subprocess.run(["dash", "-c", SHELL_FINISH, "sh", root], check=False,
                              env={"PATH": path, "COUNT": str(count)}, stdout=subprocess.DEVNULL)
        assert done.returncode == -signal.SIGKILL
        assert finish_by_shell(kinds, "upgrade", root, count)
        shutil.rmtree(root)


def finish_by_shell(kinds, kind, root, where):
    """What initd/init does with what a cut left, and lpkg after it."""
    _, new, _ = kinds.system(kind)
    committed = (root / lpkg.JOURNAL).exists()
    run_shell_part(root)
    if committed:
        assert not {"staged", "journal"} & set(os.listdir(root / lpkg.STATE))
        left = {path: what for path, what in look(root).items() if is_settled(path)}
        assert left == {path: what for path, what in new.items() if is_settled(path)}, where
    next_run(root)
    return check_recovered(kinds, kind, root, where) or committed


def is_settled(path):
    """Whether PATH is no part of the scripts that wait; those run later."""
    return not path.startswith((lpkg.QUEUE, lpkg.SCRIPTS, lpkg.HOOK.rpartition("/")[0]))


def run_shell_part(root):
    """initd/lpkg-finish in ROOT, with busybox and nothing else."""
    applets = root.parent / "applets"
    if not applets.exists():
        applets.mkdir()
        for name in ("mv", "rm", "rmdir", "sync", "printf", "chown", "chmod", "find", "mountpoint"):
            (applets / name).symlink_to(shutil.which("busybox"))
    subprocess.run([shutil.which("busybox"), "sh", "-c", SHELL_FINISH, "sh", root], check=True,
                   env={"PATH": str(applets)}, stdout=subprocess.DEVNULL)


# ---- errors of the disk (16) -------------------------------------------------------------------

@sampled
def test_s16_errors_at_every_call(request, kinds, kind, tmp_path):
    _, _, calls = kinds.system(kind)
    outcomes = collections.Counter()
    for number in chosen(request, len(calls)):
        for error, for_ever in itertools.product((errno.ENOSPC, errno.EIO), (False, True)):
            root = tmp_path / "root"
            where = (number, calls[number - 1], errno.errorcode[error], for_ever)
            done, _ = kinds.try_kind(kind, root, number=number, error=error, for_ever=for_ever)
            is_new = check_error(kinds, kind, root, done, where)
            outcomes["new" if is_new else "old"] += 1
            shutil.rmtree(root)
    print(f"{kind}: {sum(outcomes.values())} errors at {len(calls)} calls:", dict(outcomes))


def check_error(kinds, kind, root, done, where):
    """DONE said in one line what was wrong and, where it had committed, that the next lpkg finishes
    it, which it then does; else nothing is left. Whether it has become the new system."""
    for_ever = where[-1]
    if for_ever and done.status == 0:
        return True                     # nothing came after it that could fail
    old, new, calls = kinds.system(kind)
    lock_is_taken = calls.index("write") + 1        # its pid, which may be left out
    needs_no_room = kind in ("remove", "undo") or where[0] <= lock_is_taken
    if done.status == 0 and needs_no_room and where[2] == "ENOSPC":
        assert look(root) == new and not litter(root), where
        return True
    assert done.status == 1, (where, done.err)
    assert sum(line.startswith("lpkg: ") for line in done.err.split("\n")) == 1, (where, done.err)
    done.refused()
    if os.path.lexists(root / lpkg.JOURNAL):
        done.refused("the next lpkg finishes what was begun")
    elif not for_ever and not is_done(root, kinds, kind):
        assert (look(root) if root.exists() else {}) == old and not litter(root), where
        assert old or not root.exists()
    next_run(root)
    root.mkdir(exist_ok=True)
    return check_recovered(kinds, kind, root, where)


def is_done(root, kinds, kind):
    """Whether ROOT is the new system, but perhaps for scripts that wait."""
    _, new, _ = kinds.system(kind)
    return root.exists() and {path: what for path, what in look(root).items()
                              if is_settled(path)} == {
                                  path: what for path, what in new.items() if is_settled(path)}


@pytest.mark.parametrize("kind", KINDS)
def test_s16_short_writes(kinds, kind, tmp_path):
    done, calls = kinds.try_kind(kind, tmp_path / "root", half=True)
    done.ok()
    assert calls.count("write") > 2 * kinds.system(kind)[2].count("write")
    assert look(tmp_path / "root") == kinds.system(kind)[1]


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a file system of its own: (folder, how it is mounted with other options)."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder],
                       check=True)

    mount("size=64m")
    yield folder, lambda options: mount("remount", options)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["install", "upgrade", "remove", "first"])
@pytest.mark.parametrize("what", ["nr_inodes", "size"])
def test_s16_a_disk_that_is_really_full(kinds, small_disk, kind, what):
    """One more inode, or page, is free each time until there is enough of them."""
    folder, remount = small_disk
    old, new, _ = kinds.system(kind)
    root = folder / "root"
    root.mkdir()
    kinds.copy(kinds.kinds[kind][0], root)
    said = collections.Counter()
    for more in range(1, 200):
        there = os.statvfs(folder)
        used = (there.f_files - there.f_ffree if what == "nr_inodes"
                else (there.f_blocks - there.f_bfree) * 4096)
        remount(f"{what}={used + more * (1 if what == 'nr_inodes' else 4096)}")
        done = kinds.again(kind, root)[0]
        remount("size=64m,nr_inodes=9999")
        said[done.status, "needed" in done.err] += 1
        if done.status == 0 or look(root) != old:
            break
        assert "its script pre-" in done.err or done.refused("make room")
        assert not litter(root)
    next_run(root)
    assert look(root) == new and not litter(root) and (said[1, False] or kind == "remove")
    print(f"{kind}: {what}:", dict(said))


def test_s16_a_disk_that_is_read_only(kinds, small_disk):
    folder, remount = small_disk
    kinds.copy("full", folder / "root")
    old = look(folder / "root")
    remount("ro")
    for kind in ("replace", "remove", "choose"):
        kinds.again(kind, folder / "root")[0].refused("Read-only", "mount it writable")
    kinds.do("bootstrap", kinds.kinds["bootstrap"][1], folder / "new").refused("mount it writable")
    assert look(folder / "root") == old
    run("--root", folder / "root", "list").ok()


def test_s16_killed_while_it_removes_on_a_full_disk(request, kinds, tmp_path):
    """Where there is no room for a journal, a record takes its place."""
    old, new, _ = kinds.system("remove")
    history = {lpkg.HISTORY, lpkg.WORLD}        # written last, and not needed

    def settled(system):
        return {path: what for path, what in system.items() if path not in history}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def cut(root, number):
        shim = Shim(number=number)
        kinds.copy("full", root)
        (root / LOG).unlink(missing_ok=True)

        def install():
            shim.install()
            lpkg.stage = full

        arguments = kinds.kinds["remove"][1]
        done = run(arguments[0], "--root", root, *arguments[1:], before=install)
        calls = shim.calls()
        shim.close()
        return done, calls

    done, calls = cut(tmp_path / "whole", 0)
    done.ok()
    assert look(tmp_path / "whole") == new
    outcomes = collections.Counter()
    for number in range(1, len(calls) + 1):
        root = tmp_path / "root"
        assert cut(root, number)[0].status == -signal.SIGKILL
        wait_for_lock(root)
        next_run(root)
        left = look(root)
        outcomes["new" if settled(left) == settled(new) else "old"] += 1
        assert left == old or settled(left) == settled(new), (number, differences(left, old, new))
        assert not litter(root)
        verify(root)
        shutil.rmtree(root)
    print(f"{len(calls)} calls cut:", dict(outcomes))
    assert min(outcomes["old"], outcomes["new"]) > 5


# ---- what is loaded when (17) ------------------------------------------------------------------

# An lpkg of its own process, which may load nothing once FUNCTION is called, and whose NUMBERth
# call that changes something after that fails.
BLOCKED = r"""
import os, sys
script, function, number, *sys.argv = sys.argv[1:]
names = {"__name__": "lpkg"}
exec(compile(open(script).read(), script, "exec"), names)

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name not in sys.builtin_module_names:
            os.write(2, f"LOADED {name}\n".encode())
            raise ImportError(f"{name} is too late")

def failing(real):
    def call(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            raise OSError(5, "Input/output error", "zero\u200bwidth")     # shown escaped
        return real(*arguments, **more)
    return call

def block(*arguments):
    if sys.meta_path[0].__class__ is not Blocker:
        sys.meta_path.insert(0, Blocker())
        for name in ("rename", "unlink", "rmdir", "fsync", "fork"):
            setattr(os, name, failing(getattr(os, name)))
    return real(*arguments)

real = names[function]
names[function] = block
left = int(number)
os.sync = os.fsync = lambda *_: None
sys.exit(names["main"](sys.argv))
"""


def blocked(kinds, kind, root, function, number=0):
    """KIND by an lpkg that may load nothing after FUNCTION is called: (status, what it says)."""
    arguments = kinds.kinds[kind][1]
    rest = [root, *arguments[1:]] if kind == "bootstrap" else ["--root", root, *arguments[1:]]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BLOCKED, SCRIPT, function, str(number), arguments[0],
         *map(str, rest)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    assert "LOADED" not in done.stdout and "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


@sampled
def test_s17_nothing_is_loaded_after_the_commit(request, kinds, kind, tmp_path):
    """Neither when all goes well nor when something fails."""
    _, new, calls = kinds.system(kind)
    left = calls.count("rename") + calls.count("unlink")        # at most
    for number in [0, *chosen(request, left)]:
        root = tmp_path / "root"
        kinds.copy(kinds.kinds[kind][0], root)
        status, text = blocked(kinds, kind, root, "finish", number)
        assert status == (1 if "Input/output" in text else 0), text
        next_run(root)
        assert look(root) == new
        shutil.rmtree(root)


@pytest.mark.parametrize("kind", ["install", "upgrade", "undo"])
def test_s17_nor_after_an_earlier_journal_is_finished(kinds, kind, tmp_path):
    """Which may have replaced Python, and the command still goes on."""
    root = tmp_path / "root"
    number = commit_of(kinds, kind)
    assert kinds.try_kind(kind, root, number=number)[0].status == -signal.SIGKILL
    status, text = blocked(kinds, kind, root, "finish")
    assert status == 0 and "finishing what an earlier lpkg" in text
    assert look(root) == kinds.system(kind)[1]


def commit_of(kinds, kind):
    """The number of the call that commits: the last fsync before the journal is carried out."""
    calls = kinds.system(kind)[2]
    return calls.index("rename", calls.index("sync")) + 1


# ---- lpkg, python and musl, upgraded by themselves (17) -----------------------------------------

# What an lpkg that upgrades packages from a folder may load.
LOADED = ("difflib encodings.idna encodings.unicode_escape http.client json resource urllib.parse "
          "urllib.request _md5 _sha1 _sha2 _sha256 _sha512 _sha3 _blake2")


def python_files():
    """(interpreter, its libraries, its standard library): those files of Debian's Python, which is
    a small one, or else of this, that an lpkg needs."""
    start = shutil.which("python3", path="/usr/bin") or sys.executable
    code = f"""
import runpy, sys
runpy.run_path({SCRIPT!r}, run_name="lpkg")
for name in {LOADED!r}.split():
    try: __import__(name)
    except ImportError: pass
print(*{{module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}},
      sep="\\n")
"""
    done = subprocess.run([start, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True,
                          check=True)
    # OpenSSL is large, and lpkg does without it.
    modules = {os.path.realpath(path) for path in done.stdout.split()
               if path != SCRIPT and not re.search(r"/_?ssl\.|/_hashlib\.", path)}
    python = os.path.realpath(start)
    listed = subprocess.run(["ldd", python, *(path for path in modules if path.endswith(".so"))],
                            stdout=subprocess.PIPE, text=True, check=True)
    return python, set(re.findall(r"(/\S+) \(", listed.stdout)), modules


class SelfUpgrade:
    """A root in which lpkg runs by a Python that this lpkg has installed, with a C library and
    lpkg; and the next version of all three. In the next one `encodings`, which comes first, needs
    a module that comes last: in between, Python can't start."""

    def __init__(self, folder, keys):
        self.world = World(folder, keys)
        self.python, libraries, modules = python_files()
        self.encodings = next(path for path in modules if path.endswith("/encodings/__init__.py"))
        self.trees = {"musl": self.tree(libraries), "python": self.tree({self.python, *modules}),
                      "lpkg": {"usr/bin/lpkg": (self.read(SCRIPT), 0o755)}}
        self.pack("1-0", self.trees)
        self.first = folder / "first"
        self.world.do("install", "musl", "python", "lpkg", root=self.first).ok()
        self.pack("2-0", self.second_trees())
        for path, source in (("repo", self.world.repo), ("dev", None)):
            (self.first / path).mkdir()
            if source:
                shutil.copytree(source, self.first / path, dirs_exist_ok=True)
        (self.first / "dev/null").touch()
        shutil.copy(self.world.key, self.first / "panux.pub")

    def pack(self, version, trees):
        # Not all of these are where pack looks for libraries.
        provides = [f"so:{os.path.basename(path)}" for path in trees["musl"]]
        self.world.pack(trees, version, musl={"provides": provides})
        self.world.index()

    def tree(self, paths):
        return {path[1:]: (self.read(path), 0o755) for path in sorted(paths)}

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    def second_trees(self):
        """What an ELF file has after its end does no harm."""
        trees = {name: {path: (data + (b"\n" if path.endswith(".py") else b"2"), mode)
                        for path, (data, mode) in tree.items()}
                 for name, tree in self.trees.items()}
        trees["lpkg"]["usr/bin/lpkg"] = (self.trees["lpkg"]["usr/bin/lpkg"][0] + b"\n# 2\n", 0o755)
        encodings = self.encodings[1:]
        first, docstring, rest = self.trees["python"][encodings][0].partition(b"\nimport codecs")
        trees["python"][encodings] = (first + b"\nimport zz_two" + docstring + rest, 0o755)
        last = encodings.replace("encodings/__init__.py", "zz_two.py")
        trees["python"][last] = (b"", 0o644)
        return trees

    def run(self, root, code, *arguments):
        """Python in ROOT."""
        return subprocess.run(
            ["chroot", root, self.python, "-I", "-S", "-B", "-c", code, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=60)

    def upgrade(self, root, renames=0):
        """lpkg in ROOT upgrades everything, and is killed after so many RENAMES of its journal."""
        return self.run(root, KILLED, str(renames), "--repo", "/repo", "--key", "/panux.pub",
                        "--arch", "x86_64", "--yes", "upgrade")


KILLED = r"""
import os, sys
count = int(sys.argv[1])
def rename(*arguments, **more):
    global count
    real(*arguments, **more)
    if arguments[1] == "journal" or committed:
        committed.append(1)
        if len(committed) == count:
            os.kill(os.getpid(), 9)
committed = []
real = os.rename
os.rename = rename
os.sync = os.fsync = lambda *_: None
sys.argv = ["lpkg", *sys.argv[2:]]
exec(compile(open("/usr/bin/lpkg").read(), "/usr/bin/lpkg", "exec"))
"""


@pytest.fixture(scope="module")
def self_upgrade(tmp_path_factory, keys):
    return SelfUpgrade(tmp_path_factory.mktemp("self"), keys)


def link_root(source, root):
    """A copy of a root. lpkg never writes to a file that is there: all but its state are links."""
    def link(one, target):
        (shutil.copy2 if lpkg.STATE in one else os.link)(one, target)
    shutil.copytree(source, root, symlinks=True, copy_function=link)
    return root


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.long)])
def test_s17_lpkg_python_and_musl_upgraded_by_themselves(self_upgrade, tmp_path, step):
    whole = link_root(self_upgrade.first, tmp_path / "whole")
    done = self_upgrade.upgrade(whole)
    assert done.returncode == 0, done.stdout
    new = look(whole)
    count = sum(map(len, self_upgrade.second_trees().values()))
    outcomes = collections.Counter()
    for renames in range(1, count + 5, step):
        root = link_root(self_upgrade.first, tmp_path / "root")
        done = self_upgrade.upgrade(root, renames)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stdout
        outcomes[self_upgrade.run(root, "").returncode == 0] += 1
        run_shell_part(root)
        done = self_upgrade.upgrade(root)
        assert done.returncode == 0 and "nothing to do" in done.stdout, (renames, done.stdout)
        assert look(root) == new, (renames, differences(look(root), new))
        shutil.rmtree(root)
    print(f"{sum(outcomes.values())} of {count + 4} renames cut; Python started, or not:",
          dict(outcomes))
    assert outcomes[False]


# ---- while a script runs (16) ------------------------------------------------------------------

def scripted(kinds, root, **bodies):
    """A root with a shell, and a package `s` whose scripts have BODIES (post_install=…)."""
    kinds.copy("bare", root)
    made = {name.replace("_", "-"): f"#!/bin/sh\n{body}\n" for name, body in bodies.items()}
    kinds.world.pack({"s": {"usr/s": b"s"}}, "1-0", root.parent, s={"scripts": made})
    return ["install", "--root", root, "--yes", "--allow-unsigned",
            root.parent / "s-1-0.x86_64.lpkg"]


@contextlib.contextmanager
def started(root, arguments):
    """lpkg in a session of its own, once a script of it has made the file `started`."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", SCRIPT, *map(str, arguments)], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: (root / "started").exists())
        yield process
    finally:
        (root / "go").touch()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# A script that goes on when the file `go` is there, or after many looks: there is no `sleep`.
WAIT = (f"echo \"${{0##*/}}\" >>/{LOG}; : >/started; n=0\n"
        "while [ ! -e /go ] && [ $n != 2000000 ]; do n=$((n + 1)); done")


def ran(root):
    """The scripts that ran, in this order."""
    return [line.partition(".")[2] for line in (root / LOG).read_text().splitlines()]


@pytest.mark.parametrize("script", ["pre_install", "post_install"])
def test_s16_two_at_once_while_a_script_runs(kinds, tmp_path, script):
    root = tmp_path / "root"
    arguments = scripted(kinds, root, **{script: WAIT})
    with started(root, arguments) as process:
        run(*arguments).refused(f"lpkg with pid {process.pid}", "wait for it", status=3)
        run("--root", root, "list").ok()
        (root / "go").touch()
        assert process.wait(30) == 0
    run(*arguments).ok()
    assert len(ran(root)) == 1
    verify(root)


def test_s16_killed_while_a_script_runs_before_the_commit(kinds, tmp_path):
    root = tmp_path / "root"
    arguments = scripted(kinds, root, pre_install=WAIT)
    old = look(root)
    with started(root, arguments) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    (root / "started").unlink()
    (root / "go").unlink()
    next_run(root)
    assert look(root) == old and not litter(root)


@pytest.mark.parametrize("who", ["lpkg", "all"])
def test_s16_killed_while_a_script_runs_after_the_commit(kinds, tmp_path, who):
    """The next run runs it again, and what came after it."""
    root = tmp_path / "root"
    arguments = scripted(kinds, root, post_install=WAIT, oninstall=f"echo o.last >>/{LOG}")
    with started(root, arguments) as process:
        (os.killpg if who == "all" else os.kill)(process.pid, signal.SIGKILL)
        process.wait(30)
        assert lpkg.load_queue(lpkg.Root(str(root)))[0][2] == "post-install"
        if who == "lpkg":
            (root / "go").touch()
    next_run(root)
    assert ran(root) == ["post-install", "post-install", "last"]
    assert not (root / lpkg.QUEUE).exists()
    verify(root)


@pytest.mark.parametrize("script", ["pre_install", "post_install"])
@pytest.mark.parametrize("who", ["lpkg", "all"])
def test_s16_ctrl_c_while_a_script_runs(kinds, tmp_path, script, who):
    """A terminal sends it to the script, too; `kill -INT` doesn't."""
    root = tmp_path / "root"
    arguments = scripted(kinds, root, **{script: WAIT})
    old = look(root)
    with started(root, arguments) as process:
        (os.killpg if who == "all" else os.kill)(process.pid, signal.SIGINT)
        if who == "lpkg":
            time.sleep(0.3)
            (root / "go").touch()
        assert process.wait(30) == 130
        said = process.stderr.read()
        assert said.endswith("lpkg: interrupted; nothing is half done\n"), said
    for name in ("go", "started"):
        (root / name).unlink(missing_ok=True)
    if script == "pre_install":
        assert look(root) == old and not litter(root)
    else:
        assert lpkg.load_queue(lpkg.Root(str(root)))
        (root / "go").touch()
        next_run(root)
        assert ran(root) == ["post-install"] * 2 and not (root / lpkg.QUEUE).exists()
