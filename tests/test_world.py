"""The whole: real builds in real containers, the signed repository, the image in QEMU.

`make test` runs this after `make world`, under world/engine, so that a Docker engine answers.
"""
import collections
import contextlib
import fcntl
import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import pathlib
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import termios
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from xml.etree import ElementTree

import pytest
import yaml
from conftest import (
    ROOT, environment, free_port, load_tool, pythons, run_tool, serving, wait_until)
from test_lpkg import SHELL_FINISH, World, keys, snapshot       # keys is a fixture
from test_lpkg import run as run_lpkg

ARCH = os.environ.get("ARCH") or os.uname().machine
BUILD = pathlib.Path(os.environ.get("O") or "build")
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD
REPOSITORY = BUILD / "repo" / ARCH
SERIAL = subprocess.run(["sh", "-c", ". world/machine; echo $console"], cwd=ROOT, check=True,
                        stdout=subprocess.PIPE, text=True).stdout.strip()      # its first port
BOOT_LIMIT = 120        # seconds in which a slow machine's QEMU must have booted
# What an image holds, and its folder.
BASE = ("basefs", "busybox", "initd")
FULL = (*BASE, "linit", "lpkg", "python")
IMAGES = {BASE: "image-base", FULL: "image"}


def output_of(*command, **options):
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **options
    )
    return done.returncode, done.stdout


# ---- the core world, as `make world` left it -----------------------------------------------------

@pytest.fixture(scope="module")
def index():
    assert (REPOSITORY / "index.json").exists(), "there is no world; run `make test`"
    return json.loads((REPOSITORY / "index.json").read_text())


def info_of(index, name):
    """What the record of a package of the repository says, with its `files`."""
    entry = next(entry for entry in index["packages"] if entry["name"] == name)
    return read_info(REPOSITORY / urllib.parse.unquote(entry["file"]))


def read_info(path):
    """What the record of the package at PATH says, with its `files`."""
    with tarfile.open(path) as tar:
        return record_in(tar)


def record_in(tar):
    """What the record in TAR, a package, says, with its `files`."""
    package = load_tool("lpkg").read_record(tar.extractfile(".lpkg/record").read(), str(tar.name))
    return dict(package.info, files=package.files())


def test_second_world_has_nothing_to_do(index):
    status, text = output_of("make", "world", "CONF=/dev/null", cwd=ROOT)
    assert status == 0, text
    assert "nothing to be done" in text and text.endswith("next    make run\n")
    assert "build " not in text and "engine" not in text and "image " not in text


def packages_of(path):
    """The names of the packages of the recipe at PATH."""
    return set(json.loads(run_tool("pkggen", "meta", path).stdout)["packages"])


def test_every_recipe_is_a_package_of_the_index(index):
    """Those of the core are; what else was built comes from a recipe, too."""
    expected = set().union(*map(packages_of, ROOT.glob("recipes/*/*/pkgen.yaml")))
    found = {entry["name"] for entry in index["packages"]}
    assert {*FULL, "musl", "zlib", "linux-headers"} <= found <= expected
    for entry in index["packages"]:
        assert entry["summary"], f"{entry['name']} has no summary"
        data = (REPOSITORY / urllib.parse.unquote(entry["file"])).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_minisign_verifies_the_index(index):
    status, text = output_of(
        "minisign", "-Vm", REPOSITORY / "index.json", "-p", BUILD / "repo/panux.pub"
    )
    assert status == 0, text
    assert f"index {ARCH} serial {index['serial']}" in text


def test_base_is_static_and_small(index):
    info = info_of(index, "busybox")
    busybox = next(file for file in info["files"] if file["path"] == "bin/busybox")
    assert busybox["size"] < 1_000_000
    assert len(info["alternatives"]) > 200
    assert sum(info_of(index, name)["size"] for name in BASE) < 1_100_000


def test_the_kernels_and_their_headers_are_of_one_source():
    """One version, one hash."""
    recipes = [yaml.safe_load((ROOT / f"recipes/{name}/pkgen.yaml").read_text())
               for name in ("core/linux-headers", "kernel/linux-tiny", "kernel/linux")]
    assert all(recipe[key] == recipes[0][key] for recipe in recipes
               for key in ("version", "sha256"))
    assert all(recipe["sources"][0] == recipes[0]["sources"][0] for recipe in recipes)
    tiny, common, x86 = (
        (ROOT / f"recipes/kernel/{name}.config").read_text()
        for name in ("linux-tiny/linux-tiny", "linux/linux", "linux/linux.x86_64"))
    tiny, rest = tiny.split("# Of other architectures than x86.\n")
    assert set(tiny.splitlines()) < set((common + x86).splitlines())
    assert "CONFIG_ARCH_VIRT=y" in rest


# ---- every recipe of the tree --------------------------------------------------------------------

PROGRAMS = [line.split(" :: ")
            for line in (ROOT / "tests/data/programs.txt").read_text().split("\n")
            if line and line[0] != "#"]
# In a root of its own, with /proc and this machine's /dev.
IN_ROOT = """mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"
exec chroot "$0" sh -c "$1" """


@pytest.fixture(scope="module")
def everything():
    """All recipes, built."""
    done = subprocess.run(["make", "all"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-10000:]


@pytest.mark.long
def test_every_recipe_has_a_program_that_is_run():
    run = {name for names, *_ in PROGRAMS for name in names.split()}
    recipes = [path for path in ROOT.glob("recipes/*/*/pkgen.yaml")
               if path.parent.parent.name not in ("core", "kernel")]
    assert recipes and [path for path in recipes if not packages_of(path) & run] == []


@pytest.mark.long
@pytest.mark.parametrize("names, command, text, typed", [
    (names, command, text, typed) for names, command, text, *typed in PROGRAMS],
    ids=[f"{names.split()[0]}-{number}" for number, (names, *_) in enumerate(PROGRAMS)])
def test_a_program_runs(everything, tmp_path, names, command, text, typed):
    root = tmp_path / "root"
    run_tool("lpkg", "--root", root, "--repo", BUILD / "repo", "--key", BUILD / "repo/panux.pub",
             "--yes", "install", "basefs", "busybox", *names.split())
    command = ["unshare", "-m", "sh", "-ec", IN_ROOT, str(root), "cd /root; " + control(command)]
    if typed:
        run_on_terminal(command, text, *typed)
    else:
        status, said = output_of(*command, stdin=subprocess.DEVNULL)
        assert status == 0 and text in said, said


def control(text):
    """TEXT with ^X made control and X."""
    return re.sub(r"\^([@-_])", lambda match: chr(ord(match[1]) - 64), text)


def run_on_terminal(command, text, *typed):
    """Run COMMAND on a terminal: when TEXT has come the first of TYPED is typed, and so on."""
    keyboard, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))

    def take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal,
                          start_new_session=True, preexec_fn=take_terminal) as process:
        os.close(terminal)
        for wanted, keys in itertools.zip_longest((text, *typed[1::2]), typed[::2], fillvalue=""):
            read_until(keyboard, wanted.strip().encode())
            os.write(keyboard, control(keys).encode())
        assert process.wait(60) == 0
    os.close(keyboard)


def test_the_readme_has_the_sizes_of_what_was_built(index):
    """Of the images, as `make help` has them, and of the packages in its example."""
    readme = (ROOT / "README.md").read_text()
    status, text = output_of("make", "help", cwd=ROOT)
    made = dict(re.findall(r"^  (\w+) +([0-9.]+ MB) ", text, re.MULTILINE))
    shown = dict(re.findall(r"^\| `(\w+)` \| ([0-9.]+ MB) \|", readme, re.MULTILINE))
    assert status == 0 and {"base", "full"} <= made.keys()
    assert {name: shown[name] for name in made} == made
    lpkg = load_tool("lpkg")
    example = re.findall(r"^install +(\S+) +(\S+) +([0-9.]+ .B) +\+", readme, re.MULTILINE)
    assert example
    entries = {entry["name"]: entry for entry in index["packages"]}
    for name, version, size in example:
        entry = entries[name]
        assert (entry["version"], lpkg.human_size(entry["size"])) == (version, size)


# ---- what lpkg says of every package -------------------------------------------------------------

@pytest.fixture(scope="module")
def inhabited(index, tmp_path_factory):
    """A root for each package by its name, with as many of the others as can be beside it."""
    conflicts = {entry["name"]: set(entry["conflicts"]) for entry in index["packages"]}
    files = {name: {file["path"] for file in info_of(index, name)["files"] if file["type"] != "dir"}
             for name in conflicts}

    def can_be(name, other):
        return not (name in conflicts[other] or other in conflicts[name]
                    or files[name] & files[other])

    parts = []
    for name in sorted(conflicts):
        part = next((part for part in parts if all(can_be(name, other) for other in part)), None)
        if part is None:
            parts.append(part := set())
        part.add(name)
    roots = {}
    for part in parts:
        root = tmp_path_factory.mktemp("inhabited") / "root"
        run_lpkg("--repo", BUILD / "repo", "--key", BUILD / "repo/panux.pub", "--arch", ARCH,
                 "bootstrap", root, *sorted(part)).ok()
        roots.update(dict.fromkeys(part, root))
    return roots


def test_lpkg_knows_every_package_of_the_world(index, inhabited):
    """By its name, when it is installed, as by its file."""
    assert len(inhabited) == len(index["packages"]) > len(FULL)
    for entry in index["packages"]:
        name, file = entry["name"], REPOSITORY / urllib.parse.unquote(entry["file"])

        def ask(verb, *words, root=inhabited[name]):
            return run_lpkg("--root", root, verb, *words).ok().out

        said = ask("info", name).splitlines()
        assert f"name: {name}" in said and f"package_sha256: {entry['sha256']}" in said
        assert set(ask("info", file).splitlines()) < set(said)
        paths = ask("files", file).splitlines()
        assert set(paths) <= set(ask("files", name).splitlines()), name
        owners = ask("owner", *paths).splitlines() if paths else []
        assert owners and {line.partition(": ")[0] for line in owners} == set(paths), name
        assert {f"{path}: {name}" for path in paths} <= set(owners), name
        assert ask("why", name) == f"{name}: you asked for it\n"
        assert ask("verify", name) == "", name


# ---- lpkg.py copied alone, over http -------------------------------------------------------------

class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """A function that serves a directory over HTTP on loopback and gives its URL."""
    with contextlib.ExitStack() as servers:
        def start(directory):
            handler = functools.partial(QuietHandler, directory=str(directory))
            return servers.enter_context(serving(handler)) + "/"

        yield start


@pytest.fixture
def public_tmp(tmp_path_factory):
    """A temporary folder that an unprivileged user can enter and write."""
    folder = tmp_path_factory.mktemp("public")
    for parent in (folder, *folder.parents):
        if parent.owner() == folder.owner() and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    folder.chmod(0o777)
    return folder


AS_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.parametrize("prefix", [(), AS_USER], ids=["root", "user"])
def test_lpkg_copied_alone_installs_busybox_over_http(index, serve, public_tmp, prefix):
    shutil.copy(ROOT / "lpkg.py", public_tmp)
    shutil.copy(BUILD / "repo/panux.pub", public_tmp)
    (public_tmp / "json.py").write_text("raise SystemExit('what lies beside it was imported')\n")
    command = [*prefix, "/usr/bin/python3", "-I", "lpkg.py", "--root", "R", "--repo",
               serve(BUILD / "repo"), "--key", "panux.pub", "--yes", "install", "busybox"]
    status, text = output_of(*command, cwd=public_tmp)
    assert status == 0, text
    info = info_of(index, "busybox")
    for file in info["files"] + info["alternatives"]:
        assert os.path.lexists(public_tmp / "R" / file["path"])
    assert output_of(public_tmp / "R/bin/busybox", "true")[0] == 0


@pytest.mark.parametrize("python", pythons().values(), ids=list(pythons()))
def test_lpkg_runs_on_every_python_here(index, tmp_path, python):
    command = [python, "-I", "-S", ROOT / "lpkg.py", "--root", tmp_path / "R", "--repo",
               BUILD / "repo", "--key", BUILD / "repo/panux.pub"]
    status, text = output_of(*command, "--yes", "install", "basefs", "busybox")
    assert status == 0, text
    assert output_of(*command[:6], "verify") == (0, "")
    assert output_of(*command[:6], "list")[1].splitlines()[0].startswith("basefs ")


def test_lpkg_refuses_a_flipped_bit(index, serve, tmp_path):
    shutil.copytree(BUILD / "repo", tmp_path / "repo")
    entry = next(entry for entry in index["packages"] if entry["name"] == "busybox")
    path = tmp_path / "repo" / ARCH / entry["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shutil.copy(ROOT / "lpkg.py", tmp_path)
    status, text = output_of(
        "/usr/bin/python3", "-I", "lpkg.py", "--root", "R", "--repo", serve(tmp_path / "repo"),
        "--key", tmp_path / "repo/panux.pub", "--yes", "install", "busybox", cwd=tmp_path,
    )
    # 3: over the network it may be a mirror in the middle of a change.
    assert status == 3 and "refused" in text and "Traceback" not in text
    assert not (tmp_path / "R/bin").exists()
    assert not list((tmp_path / "R").rglob("*.lpkg"))


# ---- builds in containers, of recipes made up here -----------------------------------------------

class Tree:
    """A folder of recipes with a build folder of its own; the builder image is the world's."""

    def __init__(self, folder):
        self.folder = folder
        self.recipes = folder / "recipes"
        self.out = folder / "build"
        records = self.out / ARCH / "mk"
        records.mkdir(parents=True)
        shutil.copy(BUILD / ARCH / "mk/builder", records)

    def recipe(self, name, script, **fields):
        folder = self.recipes / name
        folder.mkdir(parents=True, exist_ok=True)
        fields = {"packages": {name: {}}, "version": "1", "script": script, **fields}
        (folder / "pkgen.yaml").write_text(json.dumps(fields))      # JSON is YAML, too
        return folder

    def environment(self):
        return environment(O=self.out, SOURCES=self.folder / "sources")

    def world(self, *arguments):
        run_tool("pkggen", "world-mk", self.recipes, "-o", self.folder / "world.mk",
                 env=self.environment())
        command = ["make", "-k", "-f", self.folder / "world.mk", "all", *arguments]
        return output_of(*command, env=self.environment(), cwd=self.folder)

    def file(self, package, path):
        """The content of a file of a built package."""
        return self.open(package).extractfile(path).read().decode()

    def open(self, package):
        (file,) = (self.out / "repo" / ARCH).glob(f"{package}-1-0.{ARCH}.lpkg")
        return tarfile.open(file)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def built(text):
    return set(re.findall(r"^built   (\S+)", text, re.MULTILINE))


def containers():
    return output_of("docker", "ps", "-a", "--format", "{{.Names}}")[1].split()


def test_a_cycle_that_a_stand_in_breaks(tree):
    """cc and libc need each other; the stand-in is in cc's sysroot, the final libc in user's."""
    how = "if [ -e /sysroot/cc ]; then echo final; else echo stand-in; fi >out/libc/how"
    tree.recipe("libc", [how], builder="bootstrap", builddependencies=["cc"])
    tree.recipe("cc", ["cp /sysroot/how out/cc/cc"], builddependencies=["libc"])
    tree.recipe("user", ["cp /sysroot/how out/user/had"], builddependencies=["libc"])
    status, text = tree.world()
    assert status == 0, text
    assert tree.file("cc", "cc") == "stand-in\n"
    assert tree.file("libc", "how") == tree.file("user", "had") == "final\n"
    assert len(re.findall("^built ", text, re.MULTILINE)) == 4
    status, text = tree.world()
    assert status == 0 and not built(text), text


def test_s25_a_build_sees_nothing_of_the_host(tree):
    """Its own processes, host name and network; no route out; nothing of the host is mounted."""
    tree.recipe("look", [
        "mkdir -p out/look/seen",
        "ls -d /proc/[0-9]* | wc -l >out/look/seen/processes",
        "hostname >out/look/seen/hostname",
        "cat /proc/self/mountinfo >out/look/seen/mounts",
        "ls /sys/class/net >out/look/seen/interfaces",
        "wc -l </proc/net/route >out/look/seen/routes",
        "readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/uts >out/look/seen/namespaces",
        "env >out/look/seen/environment",
    ])
    status, text = tree.world()
    assert status == 0, text
    seen = {name: tree.file("look", f"seen/{name}") for name in (
        "processes", "hostname", "mounts", "interfaces", "routes", "namespaces", "environment")}
    assert int(seen["processes"]) < 10
    assert seen["hostname"].strip() != socket.gethostname()
    assert seen["interfaces"].split() == ["lo"]
    assert int(seen["routes"]) <= 1
    usual = r"/|/(proc|dev|sys)(/.*)?|/etc/(resolv.conf|hosts|hostname)"
    for line in seen["mounts"].splitlines():
        assert re.fullmatch(usual, line.split()[4])
    for kind in ("net", "pid", "uts"):
        assert os.readlink(f"/proc/self/ns/{kind}") not in seen["namespaces"]
    assert "DOCKER_HOST" not in seen["environment"] and str(ROOT) not in seen["environment"]


def test_owners_and_modes_come_through_the_stream(tree):
    tree.recipe("owned", [
        "mkdir -p out/owned/bin",
        "echo x >out/owned/bin/tool",
        "chown 12:34 out/owned/bin/tool",
        "chmod 4711 out/owned/bin/tool",
        "ln -s tool out/owned/bin/link",
    ], packages={"owned": {"owners": {"/bin/tool": "12:34:4711"}}})
    status, text = tree.world()
    assert status == 0, text
    info = record_in(tree.open("owned"))
    tool = next(file for file in info["files"] if file["path"] == "bin/tool")
    assert (tool["uid"], tool["gid"], int(str(tool["mode"]), 8)) == (12, 34, 0o4711)


def test_early_cutoff_after_a_change_of_a_patch(tree):
    """What a changed patch makes different is rebuilt, what it leaves the same is not."""
    lib = tree.recipe(
        "lib", ["cp src/lib.txt .", "patch -p0 <src/fix.patch", "cp lib.txt out/lib/"],
        sources=["file:lib.txt", "file:fix.patch"],
    )
    tree.recipe("app", ["cat /sysroot/lib.txt >out/app/app.txt"], builddependencies=["lib"])
    tree.recipe("other", ["echo other >out/other/other.txt"])
    patch = "--- lib.txt\n+++ lib.txt\n@@ -1 +1 @@\n-old\n+new\n"
    (lib / "lib.txt").write_text("old\n")
    (lib / "fix.patch").write_text(patch)
    status, text = tree.world()
    assert status == 0 and built(text) == {"lib", "app", "other"}, text
    assert tree.file("app", "app.txt") == "new\n"
    assert built(tree.world()[1]) == set()

    (lib / "fix.patch").write_text("A remark, which changes nothing.\n" + patch)
    status, text = tree.world()
    assert status == 0 and built(text) == {"lib"}, text
    assert "the same bytes as before" in text

    (lib / "fix.patch").write_text(patch.replace("+new", "+newer"))
    status, text = tree.world()
    assert status == 0 and built(text) == {"lib", "app"}, text
    assert tree.file("app", "app.txt") == "newer\n"


def test_a_failed_build_shows_its_end_and_others_go_on(tree):
    tree.recipe("bad", ["for i in $$(seq 100); do echo line $$i; done", "false"])
    tree.recipe("behind", [": >out/behind/file"], builddependencies=["bad"])
    tree.recipe("good", ["echo fine >out/good/file"])
    status, text = tree.world()
    log = tree.out / ARCH / "log/bad.log"
    assert status != 0 and built(text) == {"good"}
    assert str(log) in text and "line 100" in text and "line 60\n" not in text
    assert "line 1\n" in log.read_text()
    assert not list((tree.out / "repo" / ARCH).glob("bad*"))
    tree.recipe("bad", ["echo mended >out/bad/file"])
    status, text = tree.world()
    assert status == 0 and built(text) == {"bad", "behind"}, text


def test_two_builds_run_at_once(tree):
    for name in ("one", "two"):
        # Long enough for a busy machine to begin the second before the first has ended.
        tree.recipe(name, ["sleep 8", f"echo {name} >out/{name}/file"])
    status, text = tree.world("-j2")
    assert status == 0, text
    order = re.findall(r"^(build|built) ", text, re.MULTILINE)
    assert order == ["build", "build", "built", "built"], text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_an_interrupt_leaves_no_container_and_nothing_half_made(tree, number):
    tree.recipe("quick", ["echo quick >out/quick/file"])
    tree.recipe("slow", ["echo begun", "sleep 300"], builddependencies=["quick"])
    run_tool("pkggen", "world-mk", tree.recipes, "-o", tree.folder / "world.mk",
             env=tree.environment())
    make = subprocess.Popen(
        ["make", "-f", tree.folder / "world.mk", "all"], env=tree.environment(), cwd=tree.folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    try:
        log = tree.out / ARCH / "log/slow.log"
        wait_until(lambda: log.exists() and "begun" in log.read_text(), 60)
        os.killpg(make.pid, number)
        text = make.communicate(timeout=60)[0]
    finally:
        make.kill()
    assert make.returncode != 0 and "Traceback" not in text
    assert not [name for name in containers() if name.startswith("panux-slow")]
    assert not [path for path in tree.out.rglob("*") if "tmp" in path.name]
    assert [path.name for path in (tree.out / ARCH / "mk").glob("*.built")] == ["quick.built"]
    tree.recipe("slow", ["echo done >out/slow/file"], builddependencies=["quick"])
    status, text = tree.world()
    assert status == 0 and built(text) == {"slow"}, text


def test_docker_that_refuses_is_one_line(tree):
    (tree.out / ARCH / "mk/builder").write_text("panux-no-such-image:0\n")
    tree.recipe("any", ["true"])
    status, text = tree.world()
    lines = [line for line in text.splitlines() if line.startswith("pkggen:")]
    assert status != 0 and len(lines) == 1
    assert "any: the build could not be started: docker: Error response" in lines[0]


def test_a_build_cut_short_is_not_taken_for_a_good_one(tree):
    """A stream that ends before .status, although what ran it says that all is well."""
    tree.recipe("cut", ["echo x >out/cut/file"])
    variables = {**tree.environment(), "RUN": "head -c 3000 | true; exit 0; true"}
    run_tool("pkggen", "world-mk", tree.recipes, "-o", tree.folder / "world.mk", env=variables)
    status, text = output_of("make", "-f", tree.folder / "world.mk", "all", env=variables)
    assert status != 0 and "Traceback" not in text
    assert not list((tree.out / ARCH / "mk").glob("*.built"))


def new_and_build(tree, *names):
    """Have `new` write a recipe of each of Debian's sources NAMES, and build it as it is.

    musl and linux-headers are the world's.
    """
    records, repository = tree.out / ARCH / "mk", tree.out / "repo" / ARCH
    repository.mkdir(parents=True, exist_ok=True)
    for name in ("musl", "linux-headers"):
        shutil.copytree(ROOT / "recipes/core" / name, tree.recipes / name)
        shutil.copy(BUILD / ARCH / f"mk/{name}.built", records)
        for path in REPOSITORY.glob(f"{name}*.lpkg"):
            shutil.copy(path, repository)
    for name in names:
        for command in (["new", name, f"deb-src:{name}", "-o", f"recipes/{name}"],
                        ["build", f"recipes/{name}"]):
            status, text = output_of(sys.executable, ROOT / "pkggen.py", *command,
                                     cwd=tree.folder, env=tree.environment())
            assert status == 0, text


def run_installed(tree, packages, *commands):
    """What each of COMMANDS prints in a root into which lpkg installed PACKAGES."""
    repository, key = tree.out / "repo" / ARCH, tree.folder / "key"
    run_tool("lpkg", "keygen", key)
    run_tool("lpkg", "index", repository, "--secret", f"{key}.key")
    root = tree.folder / "R"
    run_tool("lpkg", "--root", root, "--repo", tree.out / "repo", "--key", f"{key}.pub", "--yes",
             "install", *packages)
    return [output_of("chroot", root, *command.split(), stdin=subprocess.DEVNULL)
            for command in commands]


def test_a_recipe_that_new_wrote_builds(tree):
    """tree's Makefile has no DESTDIR, but a variable of that name."""
    new_and_build(tree, "tree")
    (status, text), = run_installed(tree, ["tree"], "tree --version")
    assert status == 0 and text.startswith("tree v"), text
    files = {path.name.partition("-2")[0]: tarfile.open(path).getnames()
             for path in (tree.out / "repo" / ARCH).glob("tree*.lpkg")}
    assert "usr/bin/tree" in files["tree"]
    assert "usr/share/man/man1/tree.1" in files["tree-doc"]


@pytest.mark.long
def test_recipes_that_new_wrote_build_with_no_edit(tree):
    """Twelve programs, after the libraries that they need; some of them run where lpkg put them."""
    new_and_build(tree, "ncurses", "libonig", "hello", "less", "nano", "tree", "dash", "lua5.4",
                  "lz4", "zstd", "pv", "strace", "jq", "htop")
    said = run_installed(tree, ["less", "nano", "lua5.4", "jq", "htop"], "less --version",
                         "nano --version", "lua -e print(6*7)", "jq -n 6*7", "htop --version")
    assert [status for status, _ in said] == [0, 0, 0, 0, 0], said
    starts = ("less ", " GNU nano", "42\n", "42\n", "htop ")
    assert all(text.startswith(start) for (_, text), start in zip(said, starts)), said


# ---- the build environment ----------------------------------------------------------------------

HELLO_C = """#include <stdio.h>
int number(void);
int main(void) { printf("%d\\n", number()); return 0; }
"""
# A program and a shared library of its own, by each of the ways that programs are built; each tries
# while it is configured whether what is compiled runs.
WAYS = {
    "autoconf": ({
        "configure.ac": """AC_INIT([hello], [1])
AM_INIT_AUTOMAKE([foreign])
LT_INIT([disable-static])
AC_PROG_CC
AC_RUN_IFELSE([AC_LANG_PROGRAM([], [return 0;])], [],
  [AC_MSG_ERROR([what is compiled does not run])], [AC_MSG_ERROR([a cross build])])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
""",
        "Makefile.am": """lib_LTLIBRARIES = libnumber.la
libnumber_la_SOURCES = number.c
bin_PROGRAMS = hello
hello_SOURCES = hello.c
hello_LDADD = libnumber.la
check-local: hello
\ttest "$$(./hello)" = 42
"""}, """
        (cd hello && autoreconf -fi)
        {{configure "hello"}}
        $(MAKE) -C hello check
        $(MAKE) -C hello DESTDIR=$(CURDIR)/out/hello install"""),
    "meson": ({
        "meson.build": """project('hello', 'c')
cc = meson.get_compiler('c')
if cc.run('int main(void) { return 0; }').returncode() != 0
  error('what is compiled does not run')
endif
number = shared_library('number', 'number.c', soversion: 1, install: true)
hello = executable('hello', 'hello.c', link_with: number, install: true)
test('hello', hello)
"""}, """
        {{meson "hello"}}
        ninja -C hello-build test
        DESTDIR=$(CURDIR)/out/hello ninja -C hello-build install"""),
    "cmake": ({
        "CMakeLists.txt": """cmake_minimum_required(VERSION 3.10)
project(hello C)
include(CheckCSourceRuns)
check_c_source_runs("int main(void) { return 0; }" RUNS)
if(NOT RUNS)
  message(FATAL_ERROR "what is compiled does not run")
endif()
add_library(number SHARED number.c)
set_target_properties(number PROPERTIES VERSION 1.2 SOVERSION 1)
add_executable(hello hello.c)
target_link_libraries(hello number)
install(TARGETS hello number)
enable_testing()
add_test(hello hello)
"""}, """
        {{cmake "hello"}}
        $(MAKE) -C hello-build all test
        $(MAKE) -C hello-build DESTDIR=$(CURDIR)/out/hello install"""),
    "Makefile": ({
        "Makefile": """CC = cc
CFLAGS = -O2
all: hello
libnumber.so.1: number.c
\t$(CC) $(CFLAGS) $(LDFLAGS) -shared -fPIC -Wl,-soname,$@ -o $@ number.c
hello: hello.c libnumber.so.1
\t$(CC) $(CFLAGS) $(LDFLAGS) -o $@ hello.c libnumber.so.1
install: all
\tinstall -D -t $(DESTDIR)$(PREFIX)/bin hello
\tinstall -D -t $(DESTDIR)$(PREFIX)/lib libnumber.so.1
"""}, """
        $(MAKE) -C hello CC=$(CC) CFLAGS="$(CFLAGS)"
        $(MAKE) -C hello CC=$(CC) PREFIX=/usr DESTDIR=$(CURDIR)/out/hello install"""),
}


def borrow(tree, recipe):
    """Have the core world's packages of a RECIPE in the tree, as if they were built there."""
    record = BUILD / ARCH / "mk" / f"{recipe}.built"
    shutil.copy(record, tree.out / ARCH / "mk")
    (tree.out / "repo" / ARCH).mkdir(parents=True, exist_ok=True)
    for package in json.loads(record.read_text())["packages"].values():
        shutil.copy(BUILD / "repo" / ARCH / package["file"], tree.out / "repo" / ARCH)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_build_compiles_runs_there(tree, way):
    """Also in a root of its own: a program and its library, dynamic and stripped."""
    borrow(tree, "musl")
    files, script = WAYS[way]
    folder = tree.folder / "recipes/hello"
    sources = {**files, "hello.c": HELLO_C, "number.c": "int number(void) { return 42; }"}
    for name, text in sources.items():
        (folder / "src").mkdir(parents=True, exist_ok=True)
        (folder / "src" / name).write_text(text)
    (folder / "pkgen.yaml").write_text(f"""\
packages:
  hello:
  hello-dev:
version: 1
sources: ["file:src/"]
script:
  - |
        cp -r src/src hello{script}
        {{{{dev "hello"}}}}
        mkdir -p out/hello-dev/usr/share/none; : >out/hello-dev/usr/share/none/file
check:
  - test "$$(LD_LIBRARY_PATH=out/hello/usr/lib out/hello/usr/bin/hello)" = 42
""")
    status, text = output_of(
        sys.executable, ROOT / "pkggen.py", "build", folder, env=tree.environment())
    assert status == 0, text
    assert not re.findall(r"^advice .*", text, re.MULTILINE)
    root = tree.folder / "root"
    packages = sorted((tree.out / "repo" / ARCH).glob("*.lpkg"))
    wanted = [str(path) for path in packages if re.match(r"(hello|musl)-\d", path.name)]
    run_tool("lpkg", "--root", root, "--yes", "--allow-unsigned", "install", *wanted)
    assert output_of("chroot", root, "/usr/bin/hello") == (0, "42\n")
    shown = output_of("readelf", "-ldSW", root / "usr/bin/hello")[1]
    assert f"interpreter: /lib/ld-musl-{ARCH}.so.1" in shown and ".symtab" not in shown
    assert "libnumber.so" in shown and "[libc.so]" in shown


@pytest.mark.long
def test_cxx_runs_in_a_root_of_musl_alone(everything, tree):
    """Exceptions, threads, thread_local, iostreams, filesystem, regex: dynamic and static."""
    for recipe in ("musl", "libstdc++"):
        borrow(tree, recipe)
    compile_it = "$(CXX) -std=c++17 $(CXXFLAGS) src/check.cc -o"
    folder = tree.recipe("cxx", [
        "mkdir -p out/cxx/bin out/cxx/tmp out/static/bin", f"{compile_it} out/cxx/bin/dynamic",
        f"{compile_it} out/static/bin/static -static"],
        packages={"cxx": {}, "static": {}}, sources=["file:check.cc"],
        builddependencies=["libstdc++-dev"])
    shutil.copy(ROOT / "recipes/lang/libstdc++/check.cc", folder)
    status, text = output_of(
        sys.executable, ROOT / "pkggen.py", "build", folder, env=tree.environment())
    assert status == 0, text
    said = "\n".join([
        "exceptions thrown 10", "threads 28", "thread_local 8", "async there",
        "iostreams 3.25 text", "filesystem a/ b/ file", "regex 12-2", "regex_error\n"])
    assert run_installed(tree, ["cxx", "static"], "dynamic", "static") == [(0, said)] * 2
    needs = output_of("readelf", "-d", tree.folder / "R/bin/dynamic")[1]
    assert {"[libstdc++.so.6]", "[libgcc_s.so.1]", "[libc.so]"} <= set(needs.split())
    assert "NEEDED" not in output_of("readelf", "-d", tree.folder / "R/bin/static")[1]


def test_s50_a_build_has_no_rights_and_no_resources_that_it_does_not_need(tree):
    """CHOWN, DAC_OVERRIDE and FOWNER are bits 0, 1 and 3."""
    tree.recipe("a", [
        "cp /proc/self/status out/a/status",
        "(ulimit -f; ulimit -Hf) >out/a/file-size",
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max >out/a/pids 2>/dev/null || :",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max "
        ">out/a/memory 2>/dev/null || :",
        "! mknod out/a/null c 1 3; ! mount -t tmpfs none /mnt; ! chroot / true",
        "truncate -s 17G big 2>&1 && exit 1; rm -f big"])
    status, text = tree.world()
    assert status == 0, text
    said = dict(re.findall(r"^(\w+):\s+(\S+)", tree.file("a", "status"), re.MULTILINE))
    assert [int(said[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [0b1011] * 3
    assert said["NoNewPrivs"] == "1"
    assert len(set(tree.file("a", "file-size").split())) == 1
    assert tree.file("a", "pids").split() == ["4096"]
    assert tree.file("a", "memory").split() == [str(16 << 30)]


# ---- the recipe author's loop --------------------------------------------------------------------

@pytest.fixture
def author(tree):
    """A tree with the house's Makefile and scripts: a function that runs a target in it."""
    for name in ("Makefile", "pkggen.py", "lpkg.py", "world"):
        (tree.folder / name).symlink_to(ROOT / name)

    def run(*arguments, typed="", **changes):
        variables = {**tree.environment(), "PYTHON": sys.executable, **changes}
        return output_of("make", "-s", *arguments, input=typed, env=variables, cwd=tree.folder)

    yield run
    assert not [name for name in containers() if re.match("panux-(shell|menuconfig)-", name)]
    assert sorted(path.name for path in (tree.out / ARCH).iterdir()) in (["log", "mk"], ["mk"])


HELLO = {
    "hello.c": "int main(void)\n{\n\tretrun 0;\n}\n",
    "README": "hello\n",
    "sub dir/data": "one\ntwo\n",
}


def recipe_of_hello(tree, *more_lines, **fields):
    """A recipe of a program that does not compile, from a tarball beside it."""
    script = ["tar -xf src/hello-1.tar.gz", "mv hello-1 hello", *more_lines,
              "$(HOSTCC) -o hello/hello hello/hello.c", "cp -r hello out/hello/"]
    given = {"sources": ["file:hello-1.tar.gz", *fields.pop("patches", [])], **fields}
    folder = tree.recipe("hello", script, **given)
    fields = json.loads((folder / "pkgen.yaml").read_text())
    lists = {key: "".join(f"\n  - {json.dumps(item)}" for item in fields.pop(key))
             for key in ("sources", "script")}
    fields = {**{key: f" {json.dumps(value)}" for key, value in fields.items()}, **lists}
    (folder / "pkgen.yaml").write_text("".join(f"{k}:{text}\n" for k, text in fields.items()))
    with tarfile.open(folder / "hello-1.tar.gz", "w:gz") as tar:
        for name, text in HELLO.items():
            member = tarfile.TarInfo("hello-1/" + name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return folder


def test_a_patch_from_the_shell_of_a_failed_build(tree, author):
    """What was changed, added and removed by hand is in it, and nothing that was built."""
    folder = recipe_of_hello(tree)
    status, text = author("shell", "PKG=hello", typed="""
        echo "in $PWD: CC=$CC AR=$AR $SOURCE_DATE_EPOCH"; ls -d /sysroot
        sed -i s/retrun/return/ hello/hello.c
        sed -i s/two/three/ 'hello/sub dir/data'
        gcc -c -o hello/hello.o hello/hello.c
        touch hello/README hello/junk.c
        rm hello/README
        cd hello && echo new >new.c && new new.c
        false
    """)
    assert status == 0, text
    assert "the build of hello failed (status 2)" in text
    assert f"in /build: CC={ARCH}-linux-musl-gcc AR=x86_64-linux-gnu-ar 946684800" in text
    assert "\n/sysroot\n" in text and "files that differ: 4; make patch PKG=hello NAME=fix" in text

    status, text = author("patch", "PKG=hello", "NAME=fix")
    assert status == 0, text
    assert "fix.patch is in its sources and applied in its script" in text
    patch = (folder / "fix.patch").read_text()
    assert re.findall(r"^[+-]{3} (.*?)\t?$", patch, re.MULTILINE) == [
        "a/hello/README", "/dev/null", "a/hello/hello.c", "b/hello/hello.c",
        "/dev/null", "b/hello/new.c", "a/hello/sub dir/data", "b/hello/sub dir/data"]
    assert "fix.patch exists" in author("patch", "PKG=hello", "NAME=fix")[1]
    status, text = tree.world()
    assert status == 0, text
    names = set(tree.open("hello").getnames())
    assert {"hello/hello", "hello/new.c"} <= names and "hello/README" not in names
    assert tree.file("hello", "hello/sub dir/data") == "one\nthree\n"


def test_a_second_patch_is_on_top_of_the_first(tree, author):
    folder = recipe_of_hello(tree, "sed -i s/retrun/return/ hello/hello.c")
    status, text = author("shell", "PKG=hello", typed="sed -i s/0/1/ hello/hello.c\n")
    assert status == 0 and "the build of hello is done" in text, text
    assert author("patch", "PKG=hello", "NAME=one")[0] == 0
    patch = (folder / "one.patch").read_text()
    assert "-\treturn 0;\n+\treturn 1;\n" in patch and "retrun" not in patch


def test_a_changed_source_of_the_recipe_s_own_is_written_back(tree, author):
    """Its mode stays. What isn't the recipe's is named, and never written there."""
    folder = recipe_of_hello(tree, "sed -i s/retrun/return/ hello/hello.c",
                             patches=["file:run.sh", "file:more/same", "file:empty",
                                      "self:docs/note"])
    (tree.folder / "docs").mkdir()
    (tree.folder / "docs/note").write_text("note\n")
    (folder / "more").mkdir()
    for name in ("run.sh", "more/same", "empty"):
        (folder / name).write_text("echo old\n")
    (folder / "run.sh").chmod(0o755)
    status, text = author("shell", "PKG=hello", typed="""
        sed -i s/old/new/ src/run.sh
        touch src/same; : >src/empty; echo >>src/note; echo >src/pkgen.yaml
    """)
    assert status == 0, text
    assert (folder / "run.sh").read_text() == "echo new\n"
    assert (folder / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (folder / "empty").read_text() == (folder / "more/same").read_text() == "echo old\n"
    assert "run.sh now has the changes made to src/run.sh" in text
    assert "no source was changed" not in text
    for name in ("note", "pkgen.yaml"):
        assert f"the change of src/{name} is lost" in text
    assert 'version: "1"\n' in (folder / "pkgen.yaml").read_text()
    names = {"empty", "hello-1.tar.gz", "more", "pkgen.yaml", "run.sh"}
    assert {path.name for path in folder.iterdir()} == names


def test_s45_nothing_is_written_through_a_link(tree, author):
    """A recipe from elsewhere has links where menuconfig and patch would write."""
    victim = tree.folder / "mine"
    victim.write_text("mine\n")
    folder = tree.recipe("linked", ["true"])
    (folder / "x.config").symlink_to(victim)
    (folder / "fix.patch").symlink_to(tree.folder / "not-there")
    (folder / "fix2.patch").symlink_to(victim)
    diff = tree.out / ARCH / "log/linked.diff"
    diff.parent.mkdir()
    diff.write_text("--- a/x\n+++ b/x\n")
    assert "x.config is a link; nothing is written" in author("menuconfig", "PKG=linked")[1]
    for name in ("fix", "fix2"):
        status, text = author("patch", "PKG=linked", f"NAME={name}")
        assert status != 0 and f"{name}.patch exists" in text, text
    assert victim.read_text() == "mine\n" and not (tree.folder / "not-there").exists()


def test_a_patch_is_for_the_directory_in_which_the_recipe_applies_it(tree, author):
    folder = tree.recipe("hello", ["true"])
    (folder / "pkgen.yaml").write_text("packages: {hello: }\nversion: 1\nscript:\n"
                                       "  - true   # {{patch \"hello\"}}\n")
    diff = tree.out / ARCH / "log/hello.diff"
    diff.parent.mkdir()
    diff.write_text("--- a/hello/x.c\n+++ b/hello/x.c\n")
    author("patch", "PKG=hello", "NAME=fix")
    assert (folder / "fix.patch").read_text() == "--- a/x.c\n+++ b/x.c\n"


def test_s50_the_shell_has_the_limits_of_a_build(tree, author):
    """The words are those of RUN, and the kernel knows them."""
    limits = re.search('^limits="(.*?)"', (ROOT / "world/container").read_text(), re.M | re.S)[1]
    words = limits.replace("\\\n", "").split()
    usual = load_tool("pkggen").RUN.split()
    assert usual == ["docker", "run", "--rm", "-i", *words, "--name", "$BUILD", "$IMAGE"]
    recipe_of_hello(tree)
    status, text = author("shell", "PKG=hello", typed="""
        grep -E 'CapBnd|NoNewPrivs' /proc/self/status
        ulimit -f; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null
    """)
    assert status == 0, text
    assert re.search(r"CapBnd:\s0{15}b\nNoNewPrivs:\s1\n", text), text
    assert "\n16777216\n" in text and "\n4096\n" in text


def test_a_shell_at_a_terminal(tree, author):
    """It has a prompt, and nothing that was changed makes no patch."""
    recipe_of_hello(tree, "sed -i s/retrun/return/ hello/hello.c")
    keyboard, terminal = os.openpty()
    variables = {**tree.environment(), "PYTHON": sys.executable, "TERM": "vt100"}
    with subprocess.Popen(["make", "-s", "shell", "PKG=hello"], env=variables, cwd=tree.folder,
                          stdin=terminal, stdout=terminal, stderr=terminal) as make:
        os.close(terminal)
        said = read_until(keyboard, b"hello /build # ")
        os.write(keyboard, b"tty && exit\r")
        said += read_until(keyboard, b"no source was changed")
        make.wait(60)
    os.close(keyboard)
    assert b"/dev/pts/" in said and make.returncode == 0
    assert "nothing was changed yet" in author("patch", "PKG=hello", "NAME=x")[1]


def read_until(reader, wanted):
    said, deadline = b"", time.monotonic() + 120
    while wanted not in said:
        assert select.select([reader], [], [], max(0, deadline - time.monotonic()))[0], said
        said += os.read(reader, 4096)
    return said


def test_an_interrupt_ends_the_shell_and_its_container(tree, author):
    recipe_of_hello(tree)
    with subprocess.Popen(["make", "-s", "shell", "PKG=hello"], cwd=tree.folder, text=True,
                          env={**tree.environment(), "PYTHON": sys.executable},
                          stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as make:
        for line in make.stderr:
            if "make a patch" in line:
                break
        assert [name for name in containers() if name.startswith("panux-shell-hello")]
        os.killpg(make.pid, signal.SIGINT)
        make.communicate(timeout=60)
    assert make.returncode != 0


@pytest.mark.parametrize("own", ["busybox.config", f"busybox.{ARCH}.config"])
def test_menuconfig_by_text_writes_the_recipe_s_configuration(tree, author, own):
    """busybox's own oldconfig asks for the one symbol that is not there; the answer is kept, in the
    file of the architecture if there is one."""
    folder = tree.recipes / "busybox"
    shutil.copytree(ROOT / "recipes/core/busybox", folder)
    text = (folder / "pkgen.yaml").read_text()
    (folder / "pkgen.yaml").write_text(text.replace("[linux-headers]", "[]"))
    config = folder / "busybox.config"
    before = config.read_text()
    assert "CONFIG_CKSUM=y\n" in before
    config.write_text(before.replace("CONFIG_CKSUM=y\n", ""))
    (folder / own).touch()
    text_of_own = (folder / own).read_text()
    variables = {"SOURCES": str(BUILD / "sources"), "CONFIG": "oldconfig"}
    status, text = author("menuconfig", "PKG=busybox", typed="n\n", **variables)
    assert status == 0 and f"{own}: 1 lines differ" in text, text
    assert (folder / own).read_text() == text_of_own + "# CONFIG_CKSUM is not set\n"
    assert config.read_text().count("CKSUM") == (own == config.name)


def test_the_author_s_targets_say_what_they_lack(tree, author):
    tree.recipe("plain", ["true"], packages={"plain-dev": {}})
    for arguments, message in (
        (["shell"], "name a package, as in: make shell PKG=zlib"),
        (["shell", "PKG=no"], "no recipe makes the package no"),
        (["patch", "PKG=no", "NAME=x"], "no recipe makes the package no"),
        (["hash"], "name a package, as in: make hash PKG=zlib"),
        (["why"], "name a package, as in: make why PKG=zlib"),
        (["new", "NAME=x"], "name the source, as in: make new NAME=less URL=https://..."),
        (["patch", "PKG=plain", "NAME=../x"], "name the patch by letters"),
        (["menuconfig", "PKG=plain"], "recipes/plain has no *.config, or several"),
        (["shell", "PKG=plain", "RUN=true"], "it needs Docker, not a RUN of your own"),
    ):
        status, text = author(*arguments, DOCKER_HOST="unix:///nonexistent")
        assert status != 0 and message in text, text
        assert len([line for line in text.splitlines() if "***" not in line]) == 1, text


def tidy_recipe(tree, name, script, **more):
    """A recipe in which lint finds nothing."""
    facts = {"summary": "x", "license": "MIT", "url": "https://example.org/"}
    fields = {"packages": {name: None}, "version": "1", **facts, "script": script, **more}
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
    (tree.recipes / name).mkdir(parents=True, exist_ok=True)
    (tree.recipes / name / "pkgen.yaml").write_text(text)


def test_check_recipe(tree, author):
    """The same bytes twice, or the files that are not; what comes out; its check: is run."""
    tidy_recipe(tree, "good", ["echo x >out/good/file"], check=["test -s out/good/file"])
    status, text = author("check-recipe", "PKG=good")
    assert status == 0, text
    assert f"good-1-0.{ARCH}.lpkg\n  file\n" in text
    assert f"good-1-0.{ARCH}.lpkg: equal\n" in text
    assert "good: both builds have the same bytes" in text
    assert not list((tree.out / "repo").rglob("good*")), "it is built aside"
    seen = {"host": "uname -n", "jobs": "echo $(MAKEFLAGS)", "mode": "umask 027; echo",
            "month": "date +%Y-%m", "place": "pwd", "same": "echo x"}
    tidy_recipe(tree, "bad", [f"{command} >out/bad/{name}" for name, command in seen.items()])
    status, text = author("check-recipe", "PKG=bad")
    assert status != 0, text
    assert f"bad-1-0.{ARCH}.lpkg: these differ: .lpkg/record, host, jobs, month, place\n" in text
    assert "the recipe has no check:" in text
    tidy_recipe(tree, "bad", ["true"], check=["echo tested", "false"])
    status, text = author("check-recipe", "PKG=bad")
    assert status != 0 and "bad does not build; its log is kept" in text
    assert "tested" in (tree.out / ARCH / "log/bad.log").read_text()
    image = (tree.out / ARCH / "mk/builder").read_text().splitlines()[0]
    own = f"docker run --rm -i --network none --name $BUILD {image}"
    status, text = author("check-recipe", "PKG=good", RUN=own)
    assert status == 0 and "good: both builds have the same bytes" in text, text


# ---- the Makefile --------------------------------------------------------------------------------

def targets():
    text = (ROOT / "Makefile").read_text()
    return re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)


def test_help_has_80_columns_and_what_there_is():
    status, text = output_of("make", "help", cwd=ROOT)
    assert status == 0 and max(map(len, text.splitlines())) <= 80
    assert [*re.findall(r"^  ([a-z-]+) +- [a-z]", text, re.MULTILINE)] == targets()
    listed = set(re.findall(r"^  ([A-Z_]+) +[^- ]", text, re.MULTILINE))
    assert {"PKG", "NAME", "URL", "CONFIG", "SECONDS", "SEED"} <= listed
    makefile = (ROOT / "Makefile").read_text()
    assert {*re.findall(r"^([A-Z_]+) \?=", makefile, re.M)} - {"PYTHON", "DESTDIR"} <= listed
    scripts = "".join(path.read_text() for path in ROOT.glob("world/*") if path.is_file())
    for name in listed:
        assert len(re.findall(rf"\b{name}\b", makefile)) >= 2 or f"${{{name}:-" in scripts
    assert re.findall(r"^  (\w+) +(?:[0-9.]+ MB|not made)  \w", text, re.M) == [
        "base", "full", "pc", "desktop", "router"]


@pytest.mark.parametrize("arguments, verb", [
    (["new", "NAME=less", "URL=deb-src:less"], "new less deb-src:less"),
    (["hash", "PKG=zlib"], "hash zlib"),
    (["lint"], "lint"), (["lint", "PKG=zlib"], "lint zlib"),
    (["fetch"], "fetch recipes"), (["fetch", "PKG=zlib"], "fetch zlib"),
    (["outdated"], "outdated recipes"), (["outdated", "PKG=zlib"], "outdated zlib"),
    (["graph", "O=out"], "graph recipes -o out/graph.svg\ngraph   out/graph.svg"),
    (["why", "PKG=zlib"], "why recipes zlib"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_author_s_targets_are_pkggen_s_verbs(arguments, verb):
    assert output_of("make", "-s", *arguments, "PKGGEN=echo", cwd=ROOT) == (0, verb + "\n")


def test_a_package_is_a_target(tree, author):
    """Of the recipe's name, of a package's; else what is near is said in one line."""
    variables = {"DOCKER_HOST": "unix:///nonexistent"}
    (tree.recipes / "group").mkdir(parents=True)
    tree.recipe("group/hash", ["true"])
    tree.recipe("group/hello", ["true"], packages={"hello": {}, "hello-dev": {}})
    for name in ("hello", "hello-dev"):
        status, text = author(name, **variables)
        assert status != 0 and "world/engine: DOCKER_HOST" in text, text
    for name, near in (("wrold", "world"), ("helo", "hello"), ("hlep", "help")):
        status, text = author(name, **variables)
        lines = [line for line in text.splitlines() if "***" not in line]
        assert status != 0 and len(lines) == 1 and f"did you mean {near}?" in lines[0], text
    assert "name a package" in author("hash", **variables)[1]


@pytest.mark.parametrize("setting", ["O=a b", "SOURCES=/a b", "O=b "])
def test_a_blank_is_refused_by_every_target(setting):
    for target in [*targets(), "zlib", "nothing"]:
        status, text = output_of("make", target, setting, cwd=ROOT)
        assert status == 2 and text.count("\n") == 1 and "a blank is in O=" in text


def test_the_next_command_has_what_was_typed():
    typed = ["ARCH=aarch64", "SYSTEM=pc", "BOARD=rpi"]
    text = output_of("make", "-n", "world", "CONF=/dev/null", *typed, cwd=ROOT)[1]
    assert f'echo "next    make run {" ".join(typed)}"\n' in text


@pytest.mark.parametrize("flag", ["-n", "-q", "-t"])
def test_make_n_runs_nothing(tree, flag):
    """The shell that make is given records all that it has to run."""
    for path in ROOT.iterdir():
        if path.name not in ("build", ".git"):
            (tree.folder / path.name).symlink_to(path)
    shell, record = tree.folder / "shell", tree.folder / "record"
    shell.write_text(f'#!/bin/sh\necho "$*" >>{record}\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    before = {path for path in tree.folder.rglob("*")}
    for target in [*targets(), "zlib", *["zlib-dev"] * (flag != "-t")]:     # it would touch that
        variables = {**tree.environment(), "O": "out", "ARCH": ARCH}
        status, text = output_of("make", flag, target, f"SHELL={shell}", "PKG=", "NAME=x",
                                 env=variables, cwd=tree.folder)
        assert flag != "-n" or status == 0, text
    assert {path for path in tree.folder.rglob("*")} - before <= {record, tree.folder / "out"}
    for line in record.read_text().splitlines():
        assert re.match("-c (: |make |uname -m |.*sys.executable)", line), line


def test_world_builds_what_its_image_needs(tree, author):
    """world.conf names it, the command line overrides that, and PACKAGES adds to a system."""
    for name in ("a", "b", "c", "kernel"):
        tree.recipe(name, ["true"], builddependencies=["b"] if name == "a" else [])

    def packages(*arguments):
        status, text = author("-n", "world", "base=a", "full=a b", *arguments)
        assert status == 0, text
        return re.search(r" world/packages (.*)", text)[1].split()

    assert packages() == ["a", "b", "linux-tiny"]
    conf = tree.folder / "world.conf"
    conf.write_text("SYSTEM = base\nPACKAGES = c\nKERNEL = kernel\n")
    assert packages() == ["a", "c", "kernel"]
    assert packages("SYSTEM=full", "PACKAGES=") == ["a", "b", "kernel"]
    assert packages("PACKAGES+=x") == ["a", "x", "kernel"]
    assert packages("CONF=/dev/null") == ["a", "b", "linux-tiny"]
    conf.write_text("SYSTEM = base\nKERNEL = kernel\nSERVICES =\n")
    status, text = author("world", "base=a", DOCKER_HOST="unix:///nonexistent")
    assert status != 0 and "world   3 of 3 recipes to build" in text, text


@pytest.mark.parametrize("arguments, message", [
    (["SYSTEM=bas"], "SYSTEM=bas is none of: base full pc desktop router"),
    (["PACKAGES=helo"], "pkggen: recipes: no recipe makes the package helo; did you mean hello?"),
    (["PACKAGES=nan les"], "no recipe for x86_64 makes nan; did you mean nano?, les"),
    (["SERVICES=htpd"], "pkggen: no package has the service htpd; did you mean httpd?"),
])
def test_a_name_that_does_not_exist_is_one_line_at_once(tree, author, arguments, message):
    tree.recipe("hello", ["true"], packages={"hello": {"services": ["httpd"]}})
    tree.recipe("nano", ["true"])
    given = ["base=hello", "SYSTEM=base", "KERNEL=nano", "SERVICES=httpd", "CONF=/dev/null"]
    status, text = author("world", *given, *arguments, DOCKER_HOST="unix:///nonexistent")
    lines = [line for line in text.splitlines() if not re.match(r"needs   |make: \*\*\*", line)]
    assert status != 0 and len(lines) == 1 and message in lines[0], text


def test_the_first_world_writes_world_conf(tree, author):
    """It changes nothing, names what the Makefile does, and others can't read it."""
    status, text = author("world.conf")
    conf = tree.folder / "world.conf"
    assert status == 0 and "world.conf lists the settings of the image" in text
    assert conf.stat().st_mode & 0o777 == 0o600
    names = re.findall(r"^#([A-Z_]+) =", conf.read_text(), re.M)
    assert names == ["SYSTEM", "PACKAGES", "SERVICES", "HOST", "PASSWORD", "SSH_KEY", "REPO_URL",
                     "KERNEL", "SIZE", "BOARD", "FILES"]
    assert not re.search("^[^#\n]", conf.read_text(), re.M)
    conf.write_text("PACKAGES = kept\n")
    author("world", "PKG=no")
    author("world", "base=", "SYSTEM=base")
    assert conf.read_text() == "PACKAGES = kept\n"


def test_what_changes_an_image_is_said(tmp_path):
    """Once, and a password never; a file of FILES that is another one makes another image."""
    files, kept = tmp_path / "files", tmp_path / "image/settings"
    files.mkdir()
    given = {"KERNEL": "k", "PACKAGES": "a b", "SERVICES": "getty httpd", "HOST": "panux",
             "REPO_URL": "u", "SIZE": "", "PASSWORD": "", "SSH_KEY": "", "FILES": ""}

    def settings(**changes):
        given.update({name: str(value) for name, value in changes.items()})
        status, text = output_of(ROOT / "world/settings", kept, env=environment(**given))
        assert status == 0, text
        return [line.partition("image   ")[2] for line in text.splitlines()]

    assert settings() == []
    stamp = kept.stat().st_mtime_ns
    assert settings() == [] and kept.stat().st_mtime_ns == stamp
    assert settings(HOST="box", SIZE="16M") == [
        "HOST was panux, is box", "SIZE was not set, is 16M"]
    assert settings(HOST="panux", SIZE="") == [
        "HOST was box, is panux", "SIZE was 16M, is not set"]
    assert settings(SERVICES="getty sshd", PACKAGES="a b c") == [
        "PACKAGES +c", "SERVICES +sshd -httpd"]
    assert settings(PASSWORD="geheim", FILES=files) == ["PASSWORD changed", "FILES changed"]
    assert "geheim" not in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    assert settings() == []
    (files / "new").write_text("x")
    assert settings() == ["FILES changed"]
    given["FILES"] = str(files / "new")
    assert output_of(ROOT / "world/settings", kept, env=environment(**given)) == (
        1, f"world/settings: FILES={files}/new is not a directory\n")


def test_run_makes_the_image_anew_for_other_settings_alone(tmp_path):
    """A new package is not a reason: what is on a disk that runs would be lost."""
    (tmp_path / "world").mkdir()
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    (tmp_path / "world/settings").symlink_to(ROOT / "world/settings")
    made = 'mkdir -p "$IMAGE_FOLDER"; cd "$IMAGE_FOLDER"; touch vmlinuz initramfs rootfs.tar.gz'
    for name, script in {"setup": "", "image": f"{made}; echo made", "qemu": "echo booted $HOST",
                         "tree": "", "disk": ""}.items():
        (tmp_path / "world" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "world" / name).chmod(0o755)
        os.utime(tmp_path / "world" / name, (0, 0))

    def make(*arguments):
        status, text = output_of("make", "-s", *arguments, cwd=tmp_path,
                                 env=environment(O="out", ARCH=ARCH))
        return (status, *text.splitlines())

    assert make("run")[1] == "there is no repository yet: make world"
    signature = tmp_path / "out/repo" / ARCH / "index.json.minisig"
    signature.parent.mkdir(parents=True)
    signature.touch()
    assert make("run") == (0, "made", "booted panux")
    os.utime(signature)
    assert make("run") == (0, "booted panux")
    assert make("run", "HOST=box") == (0, "image   HOST was panux, is box", "made", "booted box")
    assert make("run", "HOST=box") == (0, "booted box")
    os.utime(signature)
    assert make("image", "HOST=box") == (0, "made")


def test_serve_says_where_and_keeps_quiet(index, tmp_path):
    port = free_port()
    variables = environment(O=tmp_path, REPO_PORT=port, PYTHON=sys.executable)
    status, text = output_of(ROOT / "world/serve", env=variables)
    assert (status, text) == (1, "world/serve: there is no repository yet: make world\n")
    (tmp_path / "repo").symlink_to(BUILD / "repo")
    server = subprocess.Popen([ROOT / "world/serve"], env=variables, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        said = [server.stdout.readline() for _ in range(3)]
        assert re.search(rf"REPO_URL=http://[\d.]+:{port}$", said[1])
        assert said[2].endswith(f"REPO_URL=http://10.0.2.2:{port}\n")
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/panux.pub", timeout=10) as reply:
            assert reply.read() == (BUILD / "repo/panux.pub").read_bytes()
        log = tmp_path / "serve.log"
        wait_until(lambda: "GET /panux.pub" in log.read_text())
        status, text = output_of(ROOT / "world/serve", env=variables)
        assert status == 1 and text.splitlines()[-1].startswith(f"world/serve: port {port}: ")
        assert "Address already in use" in text
    finally:
        os.killpg(server.pid, signal.SIGINT)
    assert server.communicate(timeout=30)[0] == ""


def test_sizes_are_a_table_and_a_picture(index, tmp_path):
    """Of what lpkg would install; areas in the picture are bytes."""
    (tmp_path / ARCH).mkdir()
    (tmp_path / "repo").symlink_to(BUILD / "repo")
    variables = environment(O=tmp_path, ARCH=ARCH, SYSTEM="base", KERNEL="linux-tiny",
                            PACKAGES="initd")
    status, text = output_of(sys.executable, "-I", "world/sizes", cwd=ROOT, env=variables)
    assert status == 0, text
    names = {"basefs", "busybox", "initd", "linux-tiny"}
    rows = [line.split() for line in text.splitlines() if line.split()[0] in names]
    entries = {entry["name"]: entry for entry in index["packages"] if entry["name"] in names}
    lpkg = load_tool("lpkg")
    assert sorted(entries, key=lambda name: -entries[name]["installed_size"]) == [
        row[0] for row in rows]
    total = lpkg.human_size(sum(entry["installed_size"] for entry in entries.values()))
    assert re.search(rf"^4 packages +{total} ", text, re.M)
    picture = ElementTree.parse(tmp_path / ARCH / "sizes.svg").getroot()
    tiles = [group for group in picture.iter() if group.tag.endswith("}g")]
    areas = {}
    for group in tiles:
        title, box, *_ = group
        areas[title.text.partition(":")[0]] = float(box.get("width")) * float(box.get("height"))
    assert set(areas) == names
    sizes = {name: entry["installed_size"] for name, entry in entries.items()}
    busybox, linux = (areas[name] / sizes[name] for name in ("busybox", "linux-tiny"))
    assert abs(busybox / linux - 1) < 0.1           # there are gaps between the areas


# ---- world/progress ------------------------------------------------------------------------------

# What two builds at once, a download and make say, with the pauses in which lines are drawn.
BUILDING = r"""
import os, sys, time
def say(text): os.write(2, ("\r\033[K" * os.isatty(2) + text + "\n").encode())
def show(text):
    if os.isatty(2): os.write(2, ("\r\033[K" + text).encode()); time.sleep(0.2)
say("fetch   a.tar: 1.0 MB from nowhere in 1 s")
say("build   aa 1-0")
say("build   bb 2-0")
show("build   aa: 7 s, about 3 s left  cc -c one.c")
show("build   bb: 7 s  cc -c two.c " + "x" * 200)
show("fetch   c.tar: 3.0 MB of 9.0 MB, 1.0 MB/s")
say("  two.c:1: error: what?")
say("pkggen: recipes/x/bb/pkgen.yaml:3: make failed (status 2); the log is bb.log")
os.write(2, b"make: *** [world.mk:3: recipe/bb] Error 1\n")
say("built   aa 1-0: aa, 1.0 kB, 9 s")
show("")
os.write(2, b"make: Target 'all' not remade because of errors.\n")
sys.exit(2)
"""


@pytest.fixture
def builds(tmp_path):
    """The command line of world/progress for BUILDING, and its environment."""
    (tmp_path / ARCH / "mk").mkdir(parents=True)
    (tmp_path / ARCH / "mk/aa.built").write_text('{"seconds": 100}')
    (tmp_path / "plan").write_text("".join(f"build x/{name} --arch y\n" for name in
                                           ("aa", "bb", "cc")))
    command = [sys.executable, "-I", ROOT / "world/progress", tmp_path / "plan",
               sys.executable, "-c", BUILDING]
    return command, environment(O=tmp_path, ARCH=ARCH, TERM="xterm")


FAILED = "recipes/x/bb/pkgen.yaml:3: make failed (status 2); the log is bb.log"


def test_progress_is_plain_lines_without_a_terminal(builds):
    """As they come, without make's noise, and failures again at the end."""
    command, variables = builds
    assert output_of(*command, env=variables) == (2, f"""\
world   3 builds, about 3 min when all change
fetch   a.tar: 1.0 MB from nowhere in 1 s
build   aa 1-0
build   bb 2-0
  two.c:1: error: what?
pkggen: {FAILED}
built   aa 1-0: aa, 1.0 kB, 9 s
failed  {FAILED}
""")


def screens(data, width):
    """What a terminal shows after each drawing of DATA, of which world/progress is known."""
    lines = [""]
    for part in re.split("(\r|\n|\033\\[\\d*[A-Za-z])", data):
        if part == "\n":
            lines.append("")
        elif re.fullmatch("\033\\[\\d+F", part):
            del lines[len(lines) - int(part[2:-1]):]
            lines[-1:] = [""]
        elif not re.match("\r|\033", part):
            lines[-1] += part
            assert len(part) < width
        if re.match("world   [0-9] of", lines[-1]):
            yield lines[:]
    yield lines


@pytest.mark.parametrize("no_color", ["", "1"])
def test_progress_on_a_terminal_has_a_line_for_each_build(builds, no_color):
    command, variables = builds
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 90, 0, 0))
    process = subprocess.Popen(command, env={**variables, "NO_COLOR": no_color}, stdout=theirs,
                               stderr=theirs)
    os.close(theirs)
    data = b""
    with contextlib.suppress(OSError):              # the end of a terminal
        while True:
            data += os.read(ours, 65536)
    os.close(ours)
    assert process.wait() == 2
    text = data.decode().replace("\r\n", "\n")
    assert bool(re.search("\033\\[\\d*m", text)) == (not no_color)
    *shown, last = screens(re.sub("\033\\[\\d*m", "", text), 90)
    ends = [[re.sub(r" \d:\d\d ", " 0:00 ", line) for line in screen[2:]] for screen in shown]
    assert ["build   aa               0:00  cc -c one.c",
            "build   bb               0:00  cc -c two.c " + "x" * 46,
            "fetch   c.tar            0:00  3.0 MB of 9.0 MB, 1.0 MB/s",
            "world   0 of 3 done, about 3 min left"] in ends, ends
    assert any(screen[-1:] == ["world   2 of 3 done, about 40 s left"] for screen in ends)
    assert last == [
        "world   3 builds, about 3 min when all change",
        "fetch   a.tar: 1.0 MB from nowhere in 1 s",
        "  two.c:1: error: what?", f"pkggen: {FAILED}", "built   aa 1-0: aa, 1.0 kB, 9 s",
        f"failed  {FAILED}", ""]


def test_make_runs_builds_at_once(tree, author, tmp_path):
    """make's job server reaches the builds."""
    for name in ("one", "two"):
        tree.recipe(name, ["sleep 8", f"echo {name} >out/{name}/file"])
    status, text = author("-j2", "all", KEYS=str(tmp_path / "keys"))
    assert status == 0, text
    assert "world   2 builds, about 80 s when all change" in text
    order = re.findall(r"^(build|built) ", text, re.MULTILINE)
    assert order == ["build", "build", "built", "built"], text


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("recipes/*/*")))
def test_every_recipe_builds_the_same_bytes_twice(name):
    done = subprocess.run(["make", "check-recipe", f"PKG={name}"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=7200)
    assert done.returncode == 0, done.stdout


# How a build goes through Slurm; docs/farm.md.
SRUN = ("srun -Q -n1 -J $BUILD docker run --rm -i --network none --name $BUILD $IMAGE",
        "scancel -Q -n $BUILD; docker rm -f $BUILD")


@pytest.mark.long
@pytest.mark.parametrize("nodes", ["live", "die"])
def test_a_cluster_builds_ten_packages(tree, nodes):
    """Also where a node dies, with what runs on it."""
    for number in range(10):
        tree.recipe(f"p{number}", ["sleep 3", f"gcc --version >out/p{number}/file"])
    run_tool("pkggen", "world-mk", tree.recipes, "-o", tree.folder / "world.mk",
             env=tree.environment())
    kill = ("kill -9 $(cat $CLUSTER/one.pid) $(squeue -h -w one -o 's[l]urmstepd: .%A' | "
            "xargs -n1 -d'\\n' pgrep -f)")
    command = (f"(sleep 8; [ {nodes} = live ] || {kill}) & make -k -j4 -f world.mk all; "
               "status=$?; cp $CLUSTER/slurmctld.log log; exit $status")
    status, text = output_of(
        ROOT / "tests/slurm.sh", "sh", "-c", command, cwd=tree.folder,
        env={**tree.environment(), "RUN": SRUN[0], "RUN_STOP": SRUN[1]})
    assert status == 0, text
    assert built(text) == {f"p{number}" for number in range(10)}
    log = (tree.folder / "log").read_text()
    assert "NodeList=one" in log and "NodeList=two" in log
    assert text.count("once more") == (nodes == "die")
    assert not [name for name in containers() if name.startswith("panux-p")]


# ---- world/packages ------------------------------------------------------------------------------

def test_an_unread_recipe_is_said_and_starts_no_engine(tree, author):
    """Where it is asked for, and where all else is up to date."""
    folder = tree.recipe("less", ["true"])
    (folder / "pkgen.yaml").write_text("packages: {less: }\nversion: 1\nscipt: [make]\n")
    for arguments in (["all"], ["world", "PKG=less"]):
        status, text = author(*arguments, DOCKER_HOST="unix:///nonexistent")
        assert status != 0 and "DOCKER_HOST" not in text
        assert "less/pkgen.yaml:3:1: " in text and "did you mean script?" in text, text
        assert "no recipe makes" not in text
    tree.recipe("more", ["true"])
    status, text = author("all", DOCKER_HOST="unix:///nonexistent")
    assert "DOCKER_HOST=unix:///nonexistent does not answer" in text, text


def test_another_builder_is_seen_before_anything_is_called_up_to_date(tree, author):
    record = tree.out / ARCH / "mk/builder"
    tree.recipe("less", ["true"])
    unreachable = {"DOCKER_HOST": "unix:///nonexistent"}
    author("all", **unreachable)
    assert record.exists()
    author("all", BUILDER_BASE="debian:another", **unreachable)
    assert not record.exists()


def test_s51_only_what_builds_made_is_signed(tree, author, tmp_path):
    """A planted package, and one that was replaced, are named, and nothing is signed."""
    tree.recipe("good", ["echo good >out/good/file"])
    variables = {"KEYS": str(tmp_path / "keys")}
    status, text = author("all", **variables)
    assert status == 0, text
    repository = tree.out / "repo" / ARCH
    signature, package = repository / "index.json.minisig", repository / f"good-1-0.{ARCH}.lpkg"
    good = package.read_bytes()
    for name, data in ((f"evil-1-0.{ARCH}.lpkg", good), (package.name, good + b"x")):
        signature.unlink(missing_ok=True)
        (repository / name).write_bytes(data)
        os.utime(repository / name, (0, 0))
        if name == package.name:                    # pkggen looks at sizes
            (repository / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        status, text = author("all", **variables)
        assert status != 0 and not signature.exists(), text
        line = f"world/packages: no build made {repository / name} as it is; remove it, "
        assert [line + "nothing is signed"] == [
            line for line in text.splitlines() if line.startswith("world/packages")]
        (repository / name).unlink() if name != package.name else package.write_bytes(good)
    assert author("all", **variables)[0] == 0 and signature.exists()


def test_pkggen_is_compiled_once(tmp_path):
    """Below $O alone, and anew when the script is another."""
    for name in ("pkggen.py", "world/pkggen"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    command = [sys.executable, "-I", "world/pkggen", "--version"]
    options = {"env": environment(O="out"), "cwd": tmp_path / "tree"}
    assert output_of(*command, **options) == (0, "pkggen 0.1\n")
    (compiled,) = (tmp_path / "tree").rglob("*.pyc")
    assert compiled.relative_to(tmp_path / "tree").parts[:2] == ("out", "pycache")
    stamp = compiled.stat().st_mtime_ns
    assert output_of(*command, **options)[0] == 0 and compiled.stat().st_mtime_ns == stamp
    script = tmp_path / "tree/pkggen.py"
    script.write_text(script.read_text().replace('VERSION = "0.1"', 'VERSION = "0.1.1"'))
    assert output_of(*command, **options) == (0, "pkggen 0.1.1\n")
    assert output_of(*command[:3], "script", "no", **options)[1].startswith("pkggen: no: ")


# ---- the private engine --------------------------------------------------------------------------

def daemons(folder):
    """The pids of the dockerds that have their data below FOLDER."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"dockerd\0--data-root\0" + bytes(folder) + b"/"):
                found.append(path.parent.name)
    return found


def engine_environment(folder):
    variables = environment(O=folder)
    variables.pop("DOCKER_HOST", None)
    return variables


def test_with_a_run_of_ones_own_no_engine_is_wanted(tmp_path):
    """No docker on the PATH; what runs the builds, and in which image, identifies the builder."""
    for name in "cmp env mkdir mv rm sh uname".split():
        (tmp_path / name).symlink_to(shutil.which(name))
    own = {"RUN": "podman run $IMAGE", "IMAGE": "x"}
    variables = environment(PATH=tmp_path, O=tmp_path, ARCH=ARCH, **own)
    command = [ROOT / "world/engine", ROOT / "world/builder"]
    for _ in range(2):
        assert output_of(*command, env=variables) == (0, "")
        assert (tmp_path / ARCH / "mk/builder").read_text() == "x\nRUN podman run $IMAGE\n"
        assert not list(tmp_path.rglob("*.new"))


def test_a_record_of_another_builder_is_none(tmp_path):
    """So that a change of the builder's definition is seen before anything is called up to date."""
    record = tmp_path / ARCH / "mk/builder"
    record.parent.mkdir(parents=True)
    check = [ROOT / "world/builder", "--check"]
    variables = environment(O=tmp_path, ARCH=ARCH)
    shutil.copy(BUILD / ARCH / "mk/builder", record)
    assert output_of(*check, env=variables) == (0, "") and record.exists()
    variables["BUILDER_BASE"] = "debian:another"
    assert output_of(*check, env=variables) == (0, "") and not record.exists()


def test_private_engine_serves_its_users_and_ends_with_the_last(tmp_path):
    variables = engine_environment(tmp_path)
    first = subprocess.Popen([ROOT / "world/engine", "sleep", "4"], env=variables)
    wait_until(lambda: daemons(tmp_path), 60)
    command = 'docker info >/dev/null; path=${DOCKER_HOST#unix://}; stat -c %a $path ${path%/*}'
    status, text = output_of(ROOT / "world/engine", "sh", "-c", command, env=variables)
    assert status == 0 and text.split() == ["660", "700"], text
    assert len(daemons(tmp_path)) == 1, "the first still uses it"
    assert first.wait(60) == 0
    assert daemons(tmp_path) == []


def test_private_engine_passes_on_stdin_and_terminal(tmp_path):
    """Only so can `make shell` read what is typed."""
    command = [ROOT / "world/engine", "sh", "-c", "cat; test ! -t 0 || tty"]
    variables = engine_environment(tmp_path)
    status, text = output_of(*command, env=variables, input="typed\n")
    assert status == 0 and text.endswith("\ntyped\n"), text
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"typed\n\x04")
    status, text = output_of(*command, env=variables, stdin=terminal)
    assert status == 0 and re.search("\ntyped\n/dev/pts/.*\n$", text), text
    os.close(keyboard)
    os.close(terminal)


def test_private_engine_ends_on_an_interrupt(tmp_path):
    command = [ROOT / "world/engine", "sh", "-c", "echo begun; exec sleep 300"]
    engine = subprocess.Popen(
        command, env=engine_environment(tmp_path), start_new_session=True, stdout=subprocess.PIPE
    )
    while b"begun" not in engine.stdout.readline():
        assert engine.poll() is None
    os.killpg(engine.pid, signal.SIGINT)
    assert engine.wait(60) != 0
    assert daemons(tmp_path) == []


def test_private_engine_ends_when_nobody_reads(tmp_path):
    """As in make world | head; and with its stdout closed."""
    for end in ("| true", ">&-"):
        command = f"{ROOT}/world/engine sh -c 'echo said' {end}"
        text = output_of("sh", "-c", command, env=engine_environment(tmp_path))[1]
        assert not daemons(tmp_path) and "world/engine: " not in text
        assert (tmp_path / "engine/dockerd.log").exists()
        assert not engine_directory(tmp_path).exists()
        shutil.rmtree(tmp_path / "engine")


def engine_directory(out):
    """Where the private engine of $O has its socket."""
    name = hashlib.sha256(bytes(out.resolve() / "engine")).hexdigest()[:16]
    return pathlib.Path("/run") / f"panux-{name}"


@contextlib.contextmanager
def foreign_engine(folder):
    """FOLDER as another user makes it: a socket that answers, a pid file; gives what was asked of
    it, and the process that the pid file names."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
        do_HEAD = do_GET

        def address_string(self):
            return "unix"

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_UNIX

        def server_bind(self):
            self.socket.bind(self.server_address)

    folder.mkdir(exist_ok=True)
    server = Server(str(folder / "docker.sock"), Handler)
    victim = subprocess.Popen(["sleep", "300"])
    (folder / "pid").write_text(f"{victim.pid}\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    try:
        yield asked, victim
    finally:
        server.shutdown()
        server.server_close()
        victim.kill()
        victim.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_s42_an_engine_of_another_user_s_is_not_used(tmp_path):
    """Not where $O remembers its directory in /tmp, nor where ours is to be."""
    out, foreign = tmp_path / "out", pathlib.Path(f"/tmp/panux-{os.getpid()}")
    command = [ROOT / "world/engine", "sh", "-c", "echo $DOCKER_HOST"]
    variables = engine_environment(out)
    (out / "engine").mkdir(parents=True)
    (out / "engine/folder").write_text(f"{foreign}\n")
    with foreign_engine(foreign) as (asked, victim):
        status, text = output_of(*command, env=variables)
        assert status == 0 and f"unix://{engine_directory(out)}/docker.sock" in text, text
        assert not asked and victim.poll() is None and foreign.exists()
    with foreign_engine(engine_directory(out)) as (asked, victim):
        for mode in (0o755, 0o700):
            engine_directory(out).chmod(mode)
            status, text = output_of(*command, env=variables)
            assert status == 1 and text.count("\n") == 1
            assert "is not a directory of root's with mode 0700; remove it" in text
            assert not asked and victim.poll() is None
    with foreign_engine(foreign) as (asked, victim):
        engine_directory(out).symlink_to(foreign)
        assert "is not a directory of root's" in output_of(*command, env=variables)[1]
        engine_directory(out).unlink()
        assert not asked and victim.poll() is None
    assert not daemons(out)


def test_s42_a_pid_file_that_is_stale_kills_nobody(tmp_path):
    """Not while an engine is started, nor when none could be."""
    directory, variables = engine_directory(tmp_path), engine_environment(tmp_path)
    victim = subprocess.Popen(["sleep", "300"])
    try:
        for unwanted in ("", "exec"):           # dockerd needs a directory of this name
            directory.mkdir(mode=0o700)
            (directory / "pid").write_text(f"{victim.pid}\n")
            if unwanted:
                (directory / unwanted).touch()
            status, text = output_of(ROOT / "world/engine", "true", env=variables)
            assert (status == 0) == (not unwanted), text
            assert victim.poll() is None and not directory.exists()
    finally:
        victim.kill()
        victim.wait()


def test_s49_nobody_else_can_hold_the_engine_s_locks(tmp_path):
    """Neither new nor old ones; who waits says for whom."""
    (tmp_path / "engine").mkdir()
    for name in ("lock", "users"):
        (tmp_path / "engine" / name).touch(0o644)
    with open(tmp_path / "engine/lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711: make world\n")
        lock.flush()
        engine = subprocess.Popen([ROOT / "world/engine", "true"], stderr=subprocess.PIPE,
                                  env=engine_environment(tmp_path), text=True)
        assert engine.stderr.readline() == "engine  waiting for process 4711: make world\n"
    engine.communicate(timeout=60)
    assert engine.returncode == 0
    for name in ("lock", "users"):
        assert (tmp_path / "engine" / name).stat().st_mode & 0o777 == 0o600


DOCKER_STUB = r"""#!/bin/sh
echo "$*" >>"$STUB/calls"
case $1 in
pull) [ "$3" = debian:here ] ;;
image) [ "$2" != inspect ] || grep -q "^commit .* $3$" "$STUB/calls" ;;
run) case $* in *dpkg-query*) echo make 4.3 amd64 ;; *) cat >"$STUB/setup" ;; esac ;;
esac
"""


def test_the_builder_from_a_registry(tmp_path):
    """Pulled, set up with the host's network, committed; a second time there is nothing to do."""
    (tmp_path / "docker").write_text(DOCKER_STUB)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "build/engine").mkdir(parents=True)
    variables = environment(PATH=f"{tmp_path}:{os.environ['PATH']}", STUB=tmp_path, ARCH=ARCH,
                            O=tmp_path / "build", BUILDER_BASE="debian:here", APT="no")
    status, text = output_of(ROOT / "world/builder", env=variables)
    assert status == 0 and "builder installing what builds need in debian:here" in text, text
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1] == "pull -q debian:here"
    name = "panux-builder-[0-9]+"
    assert re.match(f"run -i --network host --name {name} debian:here sh -e -s", calls[2])
    image = re.fullmatch(f"commit {name} (panux-builder-{ARCH}:.*)", calls[3])[1]
    setup = (tmp_path / "setup").read_text()
    assert "apt-get install -q -y --no-install-recommends make " in setup and " meson " in setup
    assert f">/usr/bin/{ARCH}-linux-musl-gcc" in setup
    record = tmp_path / "build" / ARCH / "mk/builder"
    assert record.read_text() == f"{image}\nmake 4.3 amd64\n"
    (tmp_path / "calls").write_text(f"commit it {image}\n")
    assert output_of(ROOT / "world/builder", env=variables) == (0, "")
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_setup_names_the_command_for_what_it_may_not_install(tmp_path):
    """On a machine without xz and bsdtar, with apt forbidden."""
    for name in "cat docker dockerd env flock grep id make mkdir setsid sh sort tr".split():
        (tmp_path / name).symlink_to(shutil.which(name))
    (tmp_path / "python3").symlink_to(os.path.realpath(sys.executable))
    variables = environment(PATH=tmp_path, O=tmp_path / "build", APT="no", ARCH=ARCH)
    status, text = output_of(ROOT / "world/setup", "world", env=variables)
    *said, last = text.splitlines()
    assert status == 1 and all(line.startswith("needs   ") for line in said), text
    assert last.startswith("world/setup: this machine lacks programs; as root: apt-get install ")
    for package in ("xz-utils", "libarchive-tools", "debootstrap"):
        assert package in last and package in said[0]


def test_setup_for_run_names_no_sources(tmp_path):
    status, text = output_of(ROOT / "world/setup", "run", env=environment(O=tmp_path, APT="no"))
    assert status == 0 and "sources" not in text and "builder" not in text


def test_setup_names_what_unpacks_the_boot_code_of_another_machine(tmp_path):
    status, text = output_of(ROOT / "world/setup", "world", cwd=ROOT, env=environment(
        O=tmp_path, APT="no", ARCH="aarch64", PACKAGES="linux"))
    assert status == 1 and text.endswith("apt is: world/debian systemd-boot-efi:arm64\n"), text


def test_engine_that_does_not_answer_is_one_line(tmp_path):
    variables = environment(O=tmp_path, DOCKER_HOST="unix:///nonexistent/docker.sock")
    status, text = output_of(ROOT / "world/engine", "true", env=variables)
    assert status == 1 and text.count("\n") == 1
    assert "DOCKER_HOST=unix:///nonexistent/docker.sock does not answer" in text


# ---- the images in QEMU --------------------------------------------------------------------------

class Console:
    """A machine in QEMU, spoken to over its serial console and, for its keyboard, over QMP.

    PACKAGES: those of an image of IMAGES, or the directory of an image. VARIABLES: of world/qemu.
    PREFIX: what QEMU is run by.
    """

    def __init__(self, packages, folder, *options, words="", terminal=False, prefix=(),
                 **variables):
        self.text = ""
        self.seen = 0
        self.port = free_port(2)        # for http and ssh
        self.monitor = folder / "qmp"
        variables = environment(**{
            "ARCH": ARCH, "PORT": self.port, "APPEND": words, **variables,
            "IMAGE_FOLDER": BUILD / ARCH / IMAGES.get(packages, packages)})
        command = [*prefix, str(ROOT / "world/qemu"), "-qmp",
                   f"unix:{self.monitor},server=on,wait=off", *map(str, options)]
        if terminal:
            command = ["script", "-qec", shlex.join(command), "/dev/null"]
        self.process = subprocess.Popen(
            command, env=variables, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def log_in(self):
        """Wait until it has booted, and log in as root."""
        self.expect("boot is running", BOOT_LIMIT)
        return self.log_in_again()

    def log_in_again(self):
        """Log in as root where a login waits, or soon will."""
        self.send("")
        self.expect("login: ")
        self.send("root")
        self.expect("# ")
        self.send("stty -echo; dmesg -n 1; PS1=")
        self.check("true")
        return self

    def press(self, *keys):
        """Press KEYS of its keyboard together."""
        self.tell("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def press_ctrl_alt_delete(self):
        if ARCH.startswith("x86"):
            self.press("ctrl", "alt", "delete")
        else:
            self.send("kill -INT 1")    # what the kernel does then; the machine has no keyboard

    def tell(self, execute, **arguments):
        """Have QEMU do this, as its QMP has it."""
        command = {"execute": execute, "arguments": arguments}
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            with monitor.makefile("rw") as stream:
                for request in ({"execute": "qmp_capabilities"}, command):
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    answer = "event"
                    while '"return"' not in answer:
                        answer = stream.readline()
                        assert answer and '"error"' not in answer, answer

    def stop_watching(self):
        self.process.kill()
        self.process.wait()

    def expect(self, pattern, limit=30):
        """Read until PATTERN comes after what was read before; after LIMIT s fail with the text."""
        end = time.monotonic() + limit
        while True:
            match = re.search(pattern, self.text[self.seen:], re.DOTALL)
            if match:
                self.seen += match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or not self.read(left):
                pytest.fail(f"the console never showed {pattern!r}; it showed:\n{self.text}")

    def read(self, limit):
        """Read once; False at the end of the console."""
        ready = select.select([self.process.stdout], [], [], limit)[0]
        data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
        self.text += data.decode(errors="replace").replace("\r", "")
        return bool(data) or not ready

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, command, limit=30):
        """Run COMMAND in the shell on the console and give (status, output)."""
        self.send(f"printf '<%s>\\n' begin; {command}\nprintf '<%s %s>\\n' end $?")
        match = self.expect(r"<begin>\n(.*?)<end (\d+)>", limit)
        # linitd talks on the same console.
        return int(match[2]), re.sub(r"linit(d|-idle): .*?\n", "", match[1])

    def check(self, command):
        status, text = self.run(command)
        assert status == 0, f"{command}: {status}\n{text}"
        return text


@contextlib.contextmanager
def started(packages, folder, *options, words=""):
    """A machine that begins to boot an image of PACKAGES, with httpd enabled. OPTIONS: QEMU's;
    WORDS: the kernel's."""
    if "-initrd" not in options:
        options = (*with_more(packages, folder, {}), *options)
    console = Console(packages, folder, *options, words=words)
    try:
        yield console
    finally:
        console.stop_watching()


@contextlib.contextmanager
def booted(*arguments, words=""):
    """The same; it has booted, and somebody is logged in as root."""
    with started(*arguments, words=words) as console:
        yield console.log_in()


@pytest.fixture(scope="module")
def base(index, tmp_path_factory):
    with booted(BASE, tmp_path_factory.mktemp("base")) as console:
        yield console


@pytest.fixture(scope="module")
def device(index, tmp_path_factory):
    with booted(FULL, tmp_path_factory.mktemp("device")) as console:
        yield console


def fetch_page(console):
    with urllib.request.urlopen(f"http://127.0.0.1:{console.port}/", timeout=10) as reply:
        return reply.read().decode()


def answers_http(console):
    with contextlib.suppress(OSError):      # an emulated machine takes its time
        return "This is a Panux device" in fetch_page(console)


def changed_files(console, infos, settings=("etc/hostname",)):
    """What is not as the packages of INFOS say: type, mode, owner, size, content or target of a
    file, read on the machine by busybox; but for the content of SETTINGS, of the machine's own."""
    files = {file["path"]: file for info in infos for file in info["files"]}
    for one in (one for info in infos for one in info["alternatives"]):     # each has one provider
        files.setdefault(one["path"], {"type": "link", "mode": "0777", "uid": 0, "gid": 0, **one})
    places = ". ./boot" if "boot" in files else "."             # a file system of its own
    listing = console.check(
        f"cd / && find {places} -xdev -exec stat -c '%F|%a|%u|%g|%s|%n|%N' {{}} +")
    seen = {}
    for line in listing.splitlines():
        kind, mode, uid, gid, size, path, shown = line.split("|")
        seen[path[2:]] = (kind, int(mode, 8), int(uid), int(gid), int(size), shown)
    sums = console.check(f"cd / && find {places} -xdev -type f -exec sha256sum {{}} +")
    digests = {line[66:][2:]: line[:64] for line in sums.splitlines() if len(line) > 66}
    mounted = {"dev", "proc", "sys", "run"}
    wrong = []
    for path, file in files.items():
        if path in mounted:
            continue
        kind, mode, uid, gid, size, shown = seen[path]
        expected = (int(str(file["mode"]), 8), file["uid"], file["gid"])
        if file["type"] == "link":
            if not shown.endswith(f"'{file['target']}'") and file["target"] not in shown:
                wrong.append((path, shown))
        elif (mode, uid, gid) != expected:
            wrong.append((path, (mode, uid, gid), expected))
        elif file["type"] == "file" and path not in settings:
            if (size, digests[path]) != (file["size"], file["sha256"]):
                wrong.append((path, size, digests[path]))
    assert len(files) > 250
    return wrong


def stopped_in_order(console):
    """What was stopped, as the console tells it, up to the end of a machine that ends by itself."""
    text = console.expect("stopping all services|linit-rescue: reboot", 60)[0]
    text += console.expect(".*(Power down|Restarting system)", 90)[0]
    assert console.process.wait(30) == 0
    return re.findall(r"(\S+) is stopped", text)


def test_boot_benchmark_prints_its_rows(index):
    done = subprocess.run([sys.executable, ROOT / "tests/bench/bench_boot.py", "--quick",
                           "--parts", "services"],
                          stdout=subprocess.PIPE, text=True, timeout=300, env=environment(O=BUILD))
    assert done.returncode == 0
    for peer in ("linitd", "shell"):
        assert re.search(rf"^boot to all services +{peer}( +[\d.]+){{3}}", done.stdout, re.M)


# What is started, httpd aside as SERVICES has it.
RC_D = ["clock", "crond", "getty", "hostname", "httpd", "mounts", "network", "ntpd", "root", "seed",
        "sysctl", "syslogd"]


# -- without Python

def test_boot_base_runs_every_service(base):
    assert sorted(base.check("ls --color=never /etc/rc.d").split()) == RC_D
    for name in [*RC_D, "loopback", "boot"]:
        assert base.check(f"/etc/init.d/{name} status").strip() == f"{name} is running"


def test_boot_base_answers_http_from_outside(base):
    assert "This is a Panux device" in fetch_page(base)


def test_boot_base_pids_are_what_proc_says(base):
    assert base.check("cat /proc/1/cmdline | tr '\\0' ' '").strip() == "/bin/sh /init"
    assert base.check("readlink /proc/1/exe").strip() == "/bin/busybox"
    for name in ("crond", "httpd", "syslogd"):
        assert base.check(f"cat /proc/$(cat /run/linit/{name}.pid)/comm").strip() == name
    assert base.check("cat /proc/sys/kernel/hostname").strip() == "panux"


def test_boot_base_has_an_address_and_a_name_server(base):
    assert "inet 10.0.2.15/24" in base.check("ip addr show eth0")
    assert "inet 127.0.0.1/8" in base.check("ip addr show lo")
    assert "default via 10.0.2.2" in base.check("ip route")
    assert "nameserver 10.0.2.3" in base.check("cat /etc/resolv.conf")


def test_boot_base_logs_to_syslog(base):
    base.check("logger hello from the test")
    assert "hello from the test" in base.check("sleep 1; cat /var/log/messages")


def test_boot_base_restarts_a_daemon_that_dies(base):
    before = base.check("cat /run/linit/syslogd.pid").strip()
    base.check(f"kill -9 {before}")
    after = base.check("sleep 2; cat /run/linit/syslogd.pid").strip()
    assert after != before
    assert base.check(f"cat /proc/{after}/comm").strip() == "syslogd"


def test_boot_base_stops_and_starts_a_service(base):
    base.check("/etc/init.d/httpd stop")
    with pytest.raises((OSError, urllib.error.URLError)):
        fetch_page(base)
    base.check("/etc/init.d/httpd start")
    wait_until(lambda: answers_http(base), what="httpd")


def check_modes(console):
    """What any user could change there: nothing but what is sticky."""
    assert console.check("stat -c '%a %u %g' /") == "755 0 0\n"
    console.check("! setuidgid nobody mkdir /boot 2>/dev/null")
    open_to_all = console.check("find / -xdev -type d -perm -2 ! -perm -1000; "
                                "find / -xdev -type f -perm /6022")
    assert open_to_all == ""


def test_s62_no_user_can_change_the_top_of_the_base(base):
    check_modes(base)


def test_boot_base_files_are_those_of_the_packages(base, index):
    assert not changed_files(base, [info_of(index, name) for name in BASE])


def test_boot_hang_ends_with_the_console_text(base):
    with pytest.raises(pytest.fail.Exception, match="(?s)never showed.*init: boot is running"):
        base.expect("this is never printed", 1)


def test_boot_base_ctrl_alt_del_ends_it(base):
    base.press_ctrl_alt_delete()
    order = stopped_in_order(base)
    assert order.index("httpd") < order.index("network") < order.index("loopback")
    assert f"getty@{SERIAL}" in order and "not found" not in base.text


# -- with Python, linitd and lpkg

def states(device):
    """NAME -> (STATE, PID) of the device's services."""
    lines = [line.split() for line in device.check("linitctl list | cat").splitlines()]
    return {name: (state, pid) for name, state, pid, *_ in lines}


def add_service(device, name, body):
    """Write an init script on the device."""
    quoted = f"#!/etc/rc.common\n{body}\n".replace("'", "'\\''")
    device.check(f"printf %s '{quoted}' >/etc/init.d/{name}; chmod 755 /etc/init.d/{name}")


def pid_1(console):
    """The program that PID 1 is."""
    return console.check("readlink /proc/1/exe").strip()


def fall_asleep(console):
    """Wait until PID 1 has nothing to do."""
    console.check("while [ $(readlink /proc/1/exe) != /sbin/linit-idle ]; do sleep 0.5; done")


def test_boot_df_shows_a_root_in_memory(device):
    blocks, used, free = device.check("df / | tail -n 1").split()[1:4]
    assert int(blocks) >= int(used) + int(free) > int(used) > 1000


def test_boot_pid_1_sleeps_in_16_kilobytes_and_wakes_for_work(device):
    device.check("sleep 3")
    assert pid_1(device) == "/sbin/linit-idle"
    assert int(device.check("grep VmRSS /proc/1/status").split()[1]) <= 16
    assert states(device)["boot"][0] == "running"
    assert pid_1(device) == "/usr/bin/python3.11"
    command = device.check("cat /proc/1/cmdline | tr '\\0' ' '")
    assert command.startswith("/usr/bin/python3 -I -S /sbin/linitd ")
    device.check("sleep 3")
    assert pid_1(device) == "/sbin/linit-idle"


def test_boot_runs_every_service(device):
    assert sorted(device.check("ls --color=never /etc/rc.d").split()) == RC_D
    seen = states(device)
    for name in [*RC_D, "loopback", "boot"]:
        assert seen[name][0] == "running"
    for name in (f"getty@{SERIAL}", "crond", "syslogd"):
        assert device.check(f"readlink /proc/{seen[name][1]}/exe").strip() == "/bin/busybox"
    assert device.check(f"cat /proc/{seen['httpd'][1]}/comm").strip() == "httpd"
    assert "This is a Panux device" in fetch_page(device)
    assert "inet 10.0.2.15/24" in device.check("ip addr show eth0")


def test_boot_brings_back_a_daemon_that_is_killed(device):
    for name in ("httpd", "syslogd"):
        before = states(device)[name][1]
        device.check(f"kill -9 {before}; sleep 2")
        state, after = states(device)[name]
        assert state == "running" and after not in ("-", before)
        assert device.check(f"cat /proc/{after}/comm").strip() == name
        assert device.run(f"test -e /proc/{before}")[0] == 1
        assert "killed by signal 9" in device.check(f"linitctl log {name}")


def test_boot_starts_in_parallel(device):
    """Each of two waits until the other has begun."""
    for name, other in (("one", "two"), ("two", "one")):
        add_service(device, name, f"start() {{ : >/run/{name}; "
                                  f"until [ -e /run/{other} ]; do sleep 0.1; done; }}")
    add_service(device, "both", "depends() { dep one two; }")
    device.check("linitctl start both 2>/dev/null")


def test_boot_a_failing_dependency_fails_its_dependents_with_the_reason(device):
    add_service(device, "broken", "start() { echo no carrier; return 1; }")
    add_service(device, "mailer", "depends() { dep broken; }\nrun() { exec sleep 1000; }")
    status, text = device.run("linitctl start mailer")
    reason = "it needs broken: start ended with status 1: no carrier"
    assert status == 1 and f"linitctl: mailer: {reason}" in text
    assert states(device)["mailer"] == ("failed", "-")
    assert f"reason: {reason}" in device.run("linitctl status mailer | cat")[1]


def test_boot_scripts_by_hand_ask_linitd(device):
    device.check("/etc/init.d/httpd stop")
    assert states(device)["httpd"][0] == "stopped"
    with pytest.raises((OSError, urllib.error.URLError)):
        fetch_page(device)
    device.check("/etc/init.d/httpd start")
    assert "This is a Panux device" in fetch_page(device)


def test_boot_files_are_those_of_the_packages(device, index):
    assert not changed_files(device, [info_of(index, name) for name in FULL])


def test_boot_verify_names_the_one_file_that_changed(device):
    assert device.run("lpkg verify 2>/dev/null") == (0, "")
    path = "usr/share/udhcpc/default.script"
    device.check(f"cp -p /{path} /tmp/kept; echo >>/{path}")
    assert device.run("lpkg verify 2>/dev/null") == (1, f"{path}: content\n")
    device.check(f"cp -p /tmp/kept /{path}")
    assert device.run("lpkg verify 2>/dev/null") == (0, "")


@pytest.fixture
def host_repository(device, serve):
    """The world's repository, served at the address that the image has as REPO_URL."""
    assert device.check("cat /etc/lpkg/repos").split() == ["panux", "http://10.0.2.2:8000"]
    url = from_device(serve(BUILD / "repo"))
    device.check(f"cp /etc/lpkg/repos /tmp/repos; echo panux {url} >/etc/lpkg/repos")
    yield url
    device.check("cp /tmp/repos /etc/lpkg/repos")


def from_device(url):
    """URL, of a server on this machine's loopback, as the device reaches it."""
    return url.replace("127.0.0.1", "10.0.2.2").rstrip("/")


def test_boot_lpkg_installs_over_http(device, host_repository):
    assert "ModuleNotFoundError" in device.run("python3 -c 'import ssl' 2>&1")[1]
    device.check("lpkg --yes install zlib 2>/dev/null")
    assert "zlib 1.2.13-0" in device.check("lpkg list").splitlines()
    assert device.run("lpkg verify 2>/dev/null") == (0, "")
    device.check("lpkg --yes remove zlib musl 2>/dev/null")
    assert "zlib" not in device.check("lpkg list")
    assert device.run("ls /usr/lib/libz.so*")[0] != 0


def test_boot_lpkg_without_a_clock(device, host_repository):
    device.check("date >/tmp/date; date -s '1970-01-02 00:00:00'")
    try:
        text = device.check("lpkg --yes install zlib 2>&1 | cat")
        assert "the clock says 1970-01-02, so it isn't set" in text
        assert "zlib 1.2.13-0" in device.check("lpkg list").splitlines()
    finally:
        device.check("hwclock -s || date -s @" + str(int(time.time())))
        device.check("lpkg --yes remove zlib musl 2>/dev/null")


def test_boot_lpkg_refuses_a_flipped_bit(device, serve, tmp_path, index):
    shutil.copytree(BUILD / "repo", tmp_path / "repo")
    entry = next(entry for entry in index["packages"] if entry["name"] == "zlib")
    path = tmp_path / "repo" / ARCH / entry["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    url = from_device(serve(tmp_path / "repo"))
    lpkg = f"lpkg --repo {url} --key /etc/lpkg/keys/panux.pub --yes"
    status, text = device.run(f"{lpkg} install zlib 2>&1 | cat; lpkg list")
    assert "refused" in text or "signed index promises" in text
    assert "\nzlib" not in text.partition("lpkg: ")[2]
    assert device.run("ls /usr/lib/libz.so*")[0] != 0
    assert device.run("lpkg verify 2>/dev/null") == (0, "")


def publish(folder, version, service=None):
    """Make a signed repository of a package `greeting`, with a key of its own, in FOLDER; SERVICE:
    the body of its init script."""
    tree = folder / "out/greeting/etc"
    (tree / "init.d").mkdir(parents=True, exist_ok=True)
    (tree / "greeting").write_text(f"hello {version}\n")
    if service:
        (tree / "init.d/greeting").write_text(SERVICE + service + "\n")
        (tree / "init.d/greeting").chmod(0o755)
    (folder / ".status").write_text("0\n")
    (folder / "meta.json").write_text(json.dumps({
        "recipe": "greeting", "version": version, "arch": ARCH, "license": "MIT", "url": "",
        "packages": {"greeting": {
            "summary": "a greeting",
            "scripts": {name: f'echo "{name} $*" >>/tmp/greeted' for name in
                        ("pre-install", "post-install", "post-upgrade", "post-remove")},
            "alternatives": [{"path": "usr/bin/less", "target": "/bin/cat", "priority": 50}],
            "services": ["greeting"] if service else [],
        }},
    }))
    status, text = output_of("tar", "-cf", "out.tar", "out", ".status", cwd=folder)
    assert status == 0, text
    if not (folder / "test.key").exists():
        run_tool("lpkg", "keygen", folder / "test")
        shutil.copy(folder / "test.pub", folder / "repo/test.pub")
    with open(folder / "out.tar", "rb") as tar:
        run_tool("lpkg", "pack", "--meta", folder / "meta.json", "-o", folder / "repo" / ARCH,
                 stdin=tar)
    run_tool("lpkg", "index", folder / "repo" / ARCH, "--secret", folder / "test.key")


def test_boot_lpkg_upgrades_one_package_of_a_key_that_was_added(device, serve, tmp_path):
    (tmp_path / "repo" / ARCH).mkdir(parents=True)
    publish(tmp_path, "1-0")
    url = from_device(serve(tmp_path / "repo"))
    status, text = device.run(f"lpkg --repo {url} --yes install greeting 2>&1")
    assert status == 1 and "trust" in text
    device.check(f"wget -q -O /etc/lpkg/keys/test.pub {url}/test.pub")
    install = f"lpkg --repo {url} --key /etc/lpkg/keys/test.pub --yes"
    device.check(f"{install} install greeting 2>/dev/null")
    assert device.check("readlink /usr/bin/less") == "/bin/cat\n"
    publish(tmp_path, "2-0")
    assert "upgrade  greeting  1-0 -> 2-0" in device.check(f"{install} upgrade greeting 2>&1")
    assert device.check("cat /etc/greeting") == "hello 2-0\n"
    assert "greeting 2-0" in device.check("lpkg list").splitlines()
    assert device.run("lpkg verify 2>/dev/null") == (0, "")
    device.check("lpkg --yes remove greeting 2>/dev/null")
    assert "busybox" in device.check("readlink /usr/bin/less; rm /etc/lpkg/keys/test.pub")
    assert device.check("cat /tmp/greeted").splitlines() == [
        "pre-install 1-0", "post-install 1-0", "post-upgrade 2-0 1-0", "post-remove 2-0"
    ]


def with_more(packages, folder, files):
    """QEMU's options for the image of PACKAGES, httpd enabled, and these FILES (path -> (text,
    mode)) on top."""
    tree = folder / "more"
    for path, (text, mode) in {"etc/rc.d/httpd": ("", 0o644), **files}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(mode)
    command = ["bsdtar", "-C", tree, "--uid", "0", "--gid", "0", "--format=newc", "-cf", "-", "."]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    image = (BUILD / ARCH / IMAGES[packages] / "initramfs").read_bytes()
    whole = folder / "initramfs"
    whole.write_bytes(image + bytes(-len(image) % 4) + archive)
    return ["-initrd", str(whole)]


@pytest.mark.parametrize("packages", [BASE, FULL], ids=["base", "full"])
def test_boot_finishes_what_lpkg_left(index, tmp_path, packages):
    """A journal that was cut, half of it done, and a script that could not run elsewhere."""
    state = "var/lib/lpkg"
    files = {
        f"{state}/staged": ("rm\tetc/.lpkg.0.0\n", 0o644),
        f"{state}/journal": ("mv\tetc/.lpkg.0.0\tetc/new\nmv\tetc/.lpkg.0.1\tetc/profile\n"
                             "rm\tetc/old\nrmdir\tsrv\n", 0o644),
        "etc/.lpkg.0.0": ("new\n", 0o644),
        "etc/old": ("old\n", 0o644),
        f"{state}/queue": ("waits\tbusybox\tpost-install\t1.0\twith blank\n"
                           "waits\tgone\tpost-remove\t1.0\n", 0o644),
        f"{state}/scripts/busybox.post-install": (
            '#!/bin/sh\nprintf "%s|" "$@" >>/tmp/ran\n', 0o755),
        f"{state}/scripts/gone.post-remove": ("#!/bin/sh\necho gone >>/tmp/ran\n", 0o755),
    }
    with booted(packages, tmp_path, *with_more(packages, tmp_path, files)) as console:
        assert console.check("cat /etc/new") == "new\n"
        assert "lpkg-finish: finishing what an earlier lpkg had begun" in console.text
        assert console.check("cat /tmp/ran") == "1.0|with blank|gone\n"
        left = console.check(f"ls -A /etc/old /etc/.lpkg* /{state} /{state}/scripts 2>&1 | cat")
        words = left.split()
        assert not {"journal", "staged", "queue", "gone.post-remove"} & set(words), left
        assert "busybox.post-install" in words and left.count("No such file") == 2


def test_s62_no_user_can_change_the_top_of_the_tree(device):
    check_modes(device)


def test_boot_ctrl_alt_del_ends_it(index, tmp_path):
    with booted(FULL, tmp_path) as console:
        console.press_ctrl_alt_delete()
        order = stopped_in_order(console)
        assert "httpd" in order and order.index("network") < order.index("loopback")


def test_boot_poweroff_ends_it_with_services_stopped_in_reverse_order(index, tmp_path):
    with booted(FULL, tmp_path) as console:
        console.send("linitctl poweroff")
        order = stopped_in_order(console)
        assert "httpd" in order and order.index("network") < order.index("loopback")


@contextlib.contextmanager
def running(image, folder, *options, **variables):
    """A machine that begins to boot IMAGE as it is, with these VARIABLES for world/qemu."""
    console = Console(image, folder, *options, **variables)
    try:
        yield console
    finally:
        console.stop_watching()


def test_a_reboot_at_a_terminal_reboots(index, tmp_path):
    with running(BASE, tmp_path, terminal=True) as console:
        console.expect("Ctrl-A x ends QEMU")
        console.log_in()
        console.send("reboot")
        console.expect("Restarting system")
        console.expect("boot is running", BOOT_LIMIT)
        console.send("\x01x")
        assert console.process.wait(30) == 0


@pytest.mark.long
def test_base_installs_packages_by_lpkg_get(index, tmp_path, serve):
    """1 MB of files, kernel aside: it boots, installs over http, refuses a flipped bit, and is the
    old or the new system after each of some kills."""
    repository = tmp_path / "repo"
    shutil.copytree(BUILD / "repo", repository)
    port = serve(repository).rpartition(":")[2].strip("/")
    status, text = make_image(tmp_path / "image", (*BASE, "lpkg-get"), SYSTEM="base",
                              REPO_URL=f"http://10.0.2.2:{port}")
    assert status == 0, text
    with tarfile.open(tmp_path / "image/rootfs.tar.gz") as tree:
        size = sum(member.size for member in tree if member.isreg()
                   and not member.name.lstrip("./").startswith("var/lib/lpkg/"))
    assert size <= 1_000_000
    with running(tmp_path / "image", tmp_path) as console:
        console.log_in()
        console.check("lpkg-get update")
        console.check("lpkg-get install less")
        assert console.check("less -V").startswith("less ")
        flip_a_bit(repository / ARCH, "lua")
        status, text = console.run("lpkg-get install lua")
        assert status == 1 and "not what the signed index promises" in text
        flip_a_bit(repository / ARCH, "lua")
        before = console.check("cat /var/lib/lpkg/world; find / -xdev ! -path '/var/l*' | sort")
        seen = set()
        for tenths in range(1, 60, 4):
            console.run("set -m; lpkg-get install lua >/dev/null 2>&1 & set +m; "
                        f"usleep {tenths}00000; kill -9 -$!; wait $!")
            status, text = console.run("lpkg-get remove nothing")
            assert status == 1 and "nothing: not installed" in text
            assert console.run("ls -d /var/lib/lpkg/staged /var/lib/lpkg/journal")[0] != 0
            assert console.check("find / -xdev -name '.lpkg.*'") == ""
            is_new = "lua" in console.check("lpkg-get list")
            assert console.run("lua -v")[0] == (0 if is_new else 127)
            seen.add(is_new)
            if is_new:
                console.check("lpkg-get remove lua")
            assert console.check("cat /var/lib/lpkg/world; find / -xdev ! -path '/var/l*' "
                                 "| sort") == before
        assert seen == {False, True}
        assert console.run("lpkg-get install lpkg >/dev/null", 120) == (0, "")
        assert console.run("lpkg verify 2>/dev/null", 120) == (0, "")
        assert "install lpkg" in console.run("lpkg history", 60)[1]


def flip_a_bit(folder, name):
    """Change one bit of the package NAME in FOLDER, or change it back."""
    path = next(folder.glob(f"{name}-[0-9]*.lpkg"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- the image of a PC: a disk

DISK = (*FULL[:-1], "linux-tiny")        # boots by BIOS from a virtual disk
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP1x me@here"


def make_image(folder, packages, **variables):
    """(status, output) of world/image for PACKAGES; the image is in FOLDER."""
    settings = {"HOST": "box", "SERVICES": "hostname network syslogd getty", "KERNEL": "linux-tiny",
                "REPO_URL": "http://10.0.2.2:8000", "PASSWORD": "", "SSH_KEY": "", "SIZE": "",
                "BOARD": "", "FILES": "", "SYSTEM": "pc", "O": BUILD, **variables}
    return output_of(ROOT / "world/image", cwd=ROOT, env=environment(
        PYTHON=sys.executable, ARCH=ARCH, PACKAGES=" ".join(packages), IMAGE_FOLDER=folder,
        **settings))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory for FILES: a program whose name is awkward, a secret, a replaced file."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "usr/local/bin").mkdir(parents=True)
    (folder / "etc").mkdir(mode=0o700)
    for name, text, mode in (('usr/local/bin/a "b" é', "#!/bin/sh\necho mine\n", 0o775),
                             ("etc/secret", "x\n", 0o600), ("etc/profile", "PS1='# '\n", 0o644)):
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
    return folder


@pytest.fixture(scope="module")
def disk(index, files, tmp_path_factory):
    """The directory of an image with a disk, with all that can be set."""
    folder = tmp_path_factory.mktemp("disk")
    status, text = make_image(folder, DISK, FILES=files, SSH_KEY=KEY, PASSWORD="longer than eight")
    assert status == 0, text
    return folder


def partition_of(folder, number, to):
    """A copy, TO, of a partition of the disk image in FOLDER; its bytes."""
    table = json.loads(output_of("/sbin/sfdisk", "-J", folder / "disk.img")[1])["partitiontable"]
    part = table["partitions"][number - 1]
    with (folder / "disk.img").open("rb") as file:
        file.seek(part["start"] * 512)
        to.write_bytes(file.read(part["size"] * 512))
    return to


def test_the_disk_is_what_the_tree_says(disk, tmp_path):
    assert "No errors detected" in output_of("/sbin/sfdisk", "-V", disk / "disk.img")[1]
    assert (disk / "disk.img").stat().st_size <= 32 << 20
    root = partition_of(disk, 2, tmp_path / "root.img")
    status, text = output_of("/sbin/e2fsck", "-fn", root)
    assert status == 0, text
    out = tmp_path / "out"
    out.mkdir()
    output_of("/sbin/debugfs", "-R", f'rdump / "{out}"', root)
    with tarfile.open(disk / "rootfs.tar.gz") as tar:
        members = {os.path.normpath(one.name): one for one in tar}
        assert len(members) == len(tar.getmembers()), "a path stands twice"
        for path, one in members.items():
            if path.startswith("boot/"):
                assert not (out / path).exists()
                continue
            found = (out / path).lstat()
            if one.issym():
                assert os.readlink(out / path) == one.linkname
            else:
                assert found.st_mode & 0o777 == one.mode & 0o777, path
            if one.mode & 0o7000:       # which debugfs doesn't dump
                shown = output_of("/sbin/debugfs", "-R", f"stat {path}", root)[1]
                assert f"Mode:  {one.mode:05o} " in shown, shown
            assert (found.st_uid, found.st_gid) == (one.uid, one.gid), path
            if one.isreg():
                assert (out / path).read_bytes() == tar.extractfile(one).read(), path
    assert sum(1 for _ in out.rglob("*")) == len(
        [path for path in members if not path.startswith("boot/")]) - 1 + 1     # lost+found


@pytest.mark.bios
def test_the_boot_partition_has_the_kernel_and_a_menu(disk, tmp_path):
    boot = partition_of(disk, 1, tmp_path / "boot.img")
    assert output_of("/sbin/fsck.vfat", "-n", boot)[0] == 0
    assert 'LABEL="PANUX-BOOT"' in output_of("/sbin/blkid", "-p", boot)[1]
    assert output_of("mcopy", "-i", boot, "::vmlinuz", tmp_path / "vmlinuz")[0] == 0
    assert (tmp_path / "vmlinuz").read_bytes() == (disk / "vmlinuz").read_bytes()
    menu = output_of("mtype", "-i", boot, "::syslinux.cfg")[1]
    assert re.findall(r"^(?:LABEL|LINUX) (\S+)$", menu, re.M) == [
        "panux", "/vmlinuz", "old", "/vmlinuz.old"]
    for name in ("panux", "old"):
        entry = output_of("mtype", "-i", boot, f"::loader/entries/{name}.conf")[1]
        assert re.search(r"^options BOOT_IMAGE=\S+ (.*)$", entry, re.M)[1] in menu
    # Room for a new kernel beside the one in use.
    free = int(re.search(r"([\d ]+) bytes free", output_of("mdir", "-i", boot)[1])[1]
               .replace(" ", ""))
    assert free > 1.05 * (disk / "vmlinuz").stat().st_size


def test_what_is_set_is_in_the_image(disk):
    with tarfile.open(disk / "rootfs.tar.gz") as tar:
        def text(path):
            return tar.extractfile(path).read().decode()

        def mode(path):
            return tar.getmember(path).mode

        _, method, salt, _ = text("etc/shadow").split(":")[1].split("$")
        right = output_of("openssl", "passwd", "-6", "-salt", salt, "longer than eight")[1].strip()
        assert method == "6" and text("etc/shadow").startswith(f"root:{right}:")
        assert mode("etc/shadow") == 0o600
        assert text("root/.ssh/authorized_keys") == KEY + "\n"
        assert (mode("root/.ssh"), mode("root/.ssh/authorized_keys")) == (0o700, 0o600)
        assert text("etc/hostname") == "box\n"
        assert [name for name in tar.getnames() if name.startswith("etc/rc.d/")] == [
            f"etc/rc.d/{name}" for name in ("getty", "hostname", "network", "syslogd")]
        # Existing directories keep their mode; nobody's group may write what is copied.
        assert (mode("etc"), mode("etc/secret")) == (0o755, 0o600)
        assert mode('usr/local/bin/a "b" é') == 0o755
        assert text("etc/profile") == "PS1='# '\n"
        fstab = [line.split()[:3] for line in text("etc/fstab").splitlines() if line[0] != "#"]
        assert fstab == [["LABEL=PANUX-ROOT", "/", "ext4"], ["LABEL=PANUX-BOOT", "/boot", "vfat"]]


def test_the_same_inputs_give_the_same_images(disk, files, tmp_path):
    status, text = make_image(tmp_path, DISK, FILES=files, SSH_KEY=KEY,
                              PASSWORD="longer than eight", TZ="Asia/Tokyo")
    assert status == 0, text
    for name in ("disk.img", "vmlinuz", "container.tar", "rootfs.tar.gz"):
        assert output_of("cmp", disk / name, tmp_path / name) == (0, "")


@pytest.mark.parametrize("wrong, said", [
    ({"SERVICES": "getty nothere"}, "SERVICES has nothere, but no package and none of FILES has "
                                    "/etc/init.d/nothere"),
    ({"FILES": "nothere"}, "FILES=nothere is not a directory"),
    ({"FILES": "clash"}, "a directory in FILES or in the packages, not in both: var/run"),
    ({"SSH_KEY": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "SSH_KEY is neither a public key nor"),
    ({"SIZE": "1M"}, "more than SIZE=1M; choose what to leave out: busybox and initd 0.8 MB"),
    ({"BOARD": "nothere"}, "BOARD=nothere is not one of: rpi (with ARCH=aarch64)"),
], ids=["service", "no-files", "files", "key", "size", "board"])
def test_a_wrong_setting_is_one_line(index, tmp_path, wrong, said):
    (tmp_path / "clash/var/run/x").mkdir(parents=True)
    if wrong.get("FILES") == "clash":
        wrong = {"FILES": tmp_path / "clash"}
    status, text = make_image(tmp_path / "image", BASE, **wrong)
    assert status == 1 and said in text.splitlines()[-1], text
    assert not list((tmp_path / "image").glob("*"))


def test_what_does_not_fit_on_a_disk_is_named_by_what_it_costs(index, tmp_path):
    status, text = make_image(tmp_path, DISK, SIZE="16M")
    assert status == 1
    assert re.search(r"SIZE=16M; .* out: linit and lpkg [\d.]+ MB, linux-tiny 2.\d MB", text), text


def test_a_size_makes_the_disk_so_large(index, tmp_path):
    status, text = make_image(tmp_path, DISK, SIZE="48M")
    assert status == 0, text
    assert (tmp_path / "disk.img").stat().st_size == 48 << 20
    root = partition_of(tmp_path, 2, tmp_path / "root.img")
    assert output_of("/sbin/e2fsck", "-fn", root)[0] == 0


def test_the_container_runs(disk):
    try:
        status, text = output_of("docker", "load", "-i", disk / "container.tar")
        assert status == 0 and "panux:pc" in text
        run = ("docker", "run", "--rm", "--network", "none", "panux:pc")
        assert output_of(*run, "sh", "-lc", "lpkg list | wc -l; stat -c %a /")[1] == "7\n755\n"
    finally:
        output_of("docker", "rmi", "panux:pc")


def keeps_what_is_written(folder, image, **variables):
    """Boot the disk by its own menu, twice: what is written is there again."""
    with running(image, folder, **variables) as console:
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()
        console.check("grep -q ' / ext4 rw' /proc/mounts && echo kept >/root/file")
        console.send("poweroff")
        ends_soon(console)
    with running(image, folder, **variables) as console:
        console.expect("login: ", BOOT_LIMIT)
        assert console.log_in_again().check("cat /root/file") == "kept\n"


@pytest.mark.parametrize("arch, said", [
    ("aarch64", "the kernel is none that EFI boots; take the package linux"),
    ("riscv64", "no disk image boots ARCH=riscv64; leave the kernel out of PACKAGES")])
def test_a_disk_that_nothing_boots_is_one_line(tmp_path, arch, said):
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz").write_bytes(bytes(1000))
    assert output_of("tar", "-cf", "tree.tar", "boot", cwd=tmp_path)[0] == 0
    efi = tmp_path / "debian/usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
    efi.parent.mkdir(parents=True)
    efi.touch()
    status, text = output_of(ROOT / "world/disk", tmp_path, cwd=ROOT,
                             env=environment(ARCH=arch, O=tmp_path))
    assert (status, text) == (1, f"world/disk: {said}\n")


@pytest.fixture(scope="module")
def open_disk(index, tmp_path_factory):
    """A disk of DISK without a password."""
    folder = tmp_path_factory.mktemp("disk")
    status, text = make_image(folder, DISK, SERVICES="root hostname getty")
    assert status == 0 and "root logs in on the console without a password" in text, text
    return folder


@pytest.mark.bios
def test_boot_a_disk_keeps_what_is_written(open_disk, tmp_path):
    keeps_what_is_written(tmp_path, open_disk)


@pytest.mark.bios
def test_boot_a_disk_whose_kernel_is_gone_takes_the_old_one(open_disk, tmp_path):
    shutil.copy(open_disk / "disk.img", tmp_path)
    assert output_of("mren", "-i", f"{tmp_path}/disk.img@@1M", "::vmlinuz", "::vmlinuz.old")[0] == 0
    with running(tmp_path, tmp_path) as console:
        console.expect("Loading /vmlinuz failed", BOOT_LIMIT)
        console.expect("login: ", BOOT_LIMIT)
        assert "BOOT_IMAGE=/vmlinuz.old" in console.log_in_again().check("cat /proc/cmdline")


@pytest.mark.bios
def test_boot_a_disk_with_words_for_the_kernel(open_disk, tmp_path):
    with running(open_disk, tmp_path, words=f"console={SERIAL} linit.skip=hostname") as console:
        console.log_in()
        assert f"console={SERIAL} linit.skip=hostname" in console.check("cat /proc/cmdline")
        assert console.check("hostname") == "(none)\n"


@pytest.fixture(scope="module")
def pc():
    """The directory of the image of a pc that has no settings."""
    done = subprocess.run(["make", "world", "SYSTEM=pc", "CONF=/dev/null", f"O={BUILD}"], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-10000:]
    return BUILD / ARCH / "image-pc"


@pytest.mark.long
def test_boot_a_pc_by_efi(pc, tmp_path):
    """Its own menu, twice; then the keyboard and the screen, and what the packages brought."""
    shutil.copy(pc / "disk.img", tmp_path)
    keeps_what_is_written(tmp_path, tmp_path, FIRMWARE="efi")
    with running(tmp_path, tmp_path, FIRMWARE="efi") as console:
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()
        console.check("[ -d /sys/firmware/efi ] && [ -c /dev/fb0 ]")
        wait_until(lambda: "login:" in console.check("cat /dev/vcs1"), what="a login on the screen")
        console.press("y")
        wait_until(lambda: console.check("cat /dev/vcs1").rstrip()[-1] == "y", what="a y")
        assert console.check("uname -m") == f"{ARCH}\n"
        assert console.run("lpkg verify 2>/dev/null", BOOT_LIMIT) == (0, "")
        console.check("python3 -c 'import ssl' && linitctl list | cat")
        console.send("poweroff")
        ends_soon(console)


def make_card(folder, board):
    """The disk image of a pc of aarch64 for BOARD, in FOLDER."""
    done = subprocess.run(["make", "world", "SYSTEM=pc", "CONF=/dev/null", f"O={BUILD}",
                           "ARCH=aarch64", f"BOARD={board}"], cwd=ROOT, stdout=subprocess.PIPE,
                          text=True, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-10000:]
    return pathlib.Path(shutil.copy(BUILD / "aarch64/image-pc/disk.img", folder))


@pytest.mark.long
def test_boot_a_board_with_u_boot(tmp_path):
    """Of QEMU's machine, by U-Boot's EFI."""
    make_card(tmp_path, "")
    status, text = output_of(ROOT / "world/debian", "u-boot-qemu:arm64",
                             env=environment(O=tmp_path))
    assert status == 0, text
    keeps_what_is_written(tmp_path, tmp_path, ARCH="aarch64", BOARD="",
                          FIRMWARE=tmp_path / "debian/usr/lib/u-boot/qemu_arm64/u-boot.bin")


@pytest.mark.long
def test_boot_a_raspberry_pi(tmp_path):
    """As far as QEMU has one: without its firmware, whose files the card has."""
    disk = make_card(tmp_path, "rpi")
    assert "No errors detected" in output_of("/sbin/sfdisk", "-V", disk)[1]
    with disk.open("rb") as file:
        table = file.read(512)[446:]
    fat = json.loads(output_of("/sbin/sfdisk", "-J", disk)[1])["partitiontable"]["partitions"][0]
    assert (table[4], *struct.unpack("<II", table[8:16])) == (0x0C, fat["start"], fat["size"])
    files = set(output_of("mdir", "-b", "-i", f"{disk}@@1M", "::")[1].split())
    assert {f"::/{name}" for name in (
        "bootcode.bin start.elf fixup.dat start4.elf fixup4.dat config.txt cmdline.txt vmlinuz "
        "bcm2837-rpi-3-b.dtb bcm2711-rpi-4-b.dtb").split()} <= files
    keeps_what_is_written(tmp_path, tmp_path, ARCH="aarch64", BOARD="rpi")


@pytest.mark.long
def test_boot_a_pc(everything, serve, tmp_path):
    """By BIOS and then by EFI: by ssh, something is installed and written, and is there again."""
    key = tmp_path / "key"
    assert output_of("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)[0] == 0
    repository = from_device(serve(BUILD / "repo"))
    status, text = output_of("make", "image", "SYSTEM=pc", "CONF=/dev/null", f"SSH_KEY={key}.pub",
                             f"O={BUILD}", f"REPO_URL={repository}", cwd=ROOT)
    assert status == 0, text
    shutil.copy(BUILD / ARCH / "image-pc/disk.img", tmp_path)

    def ssh_answers(console):
        with contextlib.suppress(OSError), \
                socket.create_connection(("127.0.0.1", console.port + 1), timeout=5) as line:
            return line.recv(4) == b"SSH-"

    def by_ssh(console, command):
        wait_until(lambda: ssh_answers(console), BOOT_LIMIT, "ssh")
        return subprocess.run(
            ["ssh", "-i", key, "-p", str(console.port + 1), "-o", "StrictHostKeyChecking=no",
             "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", command],
            timeout=BOOT_LIMIT, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True).stdout

    with running(tmp_path, tmp_path, SERVICES="dropbear") as console:
        by_ssh(console, "lpkg --yes install keymaps tmux && echo kept >/root/file && "
                        "cp /usr/share/keymaps/de.bmap /etc/keymap && linitctl restart keyboard")
        console.press("y")
        wait_until(lambda: by_ssh(console, "cat /dev/vcs1").rstrip()[-1] == "z", what="a German z")
        by_ssh(console, "poweroff")
        ends_soon(console)
    with running(tmp_path, tmp_path, SERVICES="dropbear", FIRMWARE="efi") as console:
        assert by_ssh(console, "cat /root/file; lpkg verify; tmux -V") == "kept\ntmux 3.3a\n"
        assert re.findall(r"[.:](\d+) .*LISTEN", by_ssh(console, "netstat -ltn")) == ["22", "22"]
        by_ssh(console, "[ -d /sys/firmware/efi ] && poweroff")
        ends_soon(console)


# -- a desktop

KEYS = {" ": ["spc"], "'": ["apostrophe"], "\\": ["backslash"], "[": ["bracket_left"],
        "%": ["shift", "5"], "\n": ["ret"], "/": ["slash"], "-": ["minus"]}
BACKGROUND = (0x20, 0x40, 0x60)         # as weston.ini has it
# Where the panel has what it starts.
TERMINAL, EDITOR, BROWSER, FILES = ((x, 16) for x in (22, 52, 84, 116))


class Screen:
    """What a machine's screen shows."""

    def __init__(self, console, path):
        console.tell("screendump", filename=str(path))
        head = re.match(rb"P6\n(\d+) (\d+)\n255\n", path.read_bytes())
        self.width, self.height = map(int, head.groups())
        self.pixels = head.string[head.end():]

    def at(self, x, y):
        place = 3 * (y * self.width + x)
        return tuple(self.pixels[place:place + 3])

    def share(self, is_so):
        """How much of it, from 0 to 1, IS_SO of (red, green, blue) holds for."""
        places = range(0, self.width * self.height, 7)
        return sum(is_so(*self.pixels[3 * place:3 * place + 3]) for place in places) / len(places)


def click(console, screen, x, y):
    """Move there, press and release, each for as long as a person would."""
    place = [{"type": "abs", "data": {"axis": axis, "value": int(part * 0x7fff)}}
             for axis, part in (("x", x / screen.width), ("y", y / screen.height))]
    buttons = [[{"type": "btn", "data": {"down": down, "button": "left"}}]
               for down in (True, False)]
    for events in (place, *buttons):
        console.tell("input-send-event", events=events)
        time.sleep(0.5)


def desktop_shows(console, folder):
    """Whether the screen has the desktop's background where no window opens."""
    screen = Screen(console, folder / "screen.ppm")
    return screen.at(screen.width - 8, screen.height // 2) == BACKGROUND


def type_in(console, text):
    for character in text:
        console.press(*KEYS.get(character, [character]))
        time.sleep(0.1)


def is_black(*color):
    return color == (0, 0, 0)


def is_grey(red, green, blue):
    """As a page is that has no color of its own."""
    return red == green == blue > 0xb0


@pytest.mark.long
@pytest.mark.parametrize("firmware, card, width, height", [
    ("bios", "std", 1280, 800), ("efi", "virtio", 1280, 800), ("bios", "virtio", 1024, 600),
    ("efi", "std", 800, 600)])
def test_boot_a_desktop(everything, tmp_path, firmware, card, width, height):
    """It is what the screen shows. A click on the panel opens a terminal; what is typed is answered
    on the screen, also by a keyboard that is plugged in then. So are a browser and an editor."""
    status, text = output_of(
        "make", "image", "SYSTEM=desktop", "CONF=/dev/null", f"O={BUILD}", cwd=ROOT)
    assert status == 0, text
    shutil.copy(BUILD / ARCH / "image-desktop/disk.img", tmp_path)
    device = {"std": "VGA", "virtio": "virtio-vga"}[card]
    size = [word for axis, pixels in (("x", width), ("y", height))
            for word in ("-global", f"{device}.{axis}res={pixels}")]

    def screen():
        return Screen(console, tmp_path / "screen.ppm")

    def wait_for_screen(is_so, what):
        wait_until(lambda: is_so(screen()), BOOT_LIMIT, what)

    def shows(is_so, share):
        return lambda screen: screen.share(is_so) > share

    def fill(color, is_so):
        """Have the terminal's shell paint two thousand cells; where the machine is slow, a keyboard
        loses keys, and one types again."""
        def is_filled():
            type_in(console, f"\nprintf '\\033[4{color}m%2000s'\n")
            time.sleep(2)
            return shows(is_so, 0.05)(screen())
        wait_until(is_filled, BOOT_LIMIT, f"cells of color {color}")

    def make_as_root(password):
        type_in(console, "\ndoas touch /root/made\n")
        wait_until(lambda: "doas" in console.check("ps -o comm"), what="doas, which asks")
        time.sleep(1)
        type_in(console, password + "\n")
        time.sleep(2)
        return console.run("[ -e /root/made ]")[0] == 0

    def log():
        return console.check("linitctl log weston")

    with running(tmp_path, tmp_path, "-vga", card, *size, SYSTEM="desktop",
                 FIRMWARE=firmware) as console:
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()
        wait_until(lambda: desktop_shows(console, tmp_path), BOOT_LIMIT, "a background")
        panel = screen()
        assert (panel.width, panel.height) == (width, height)
        assert panel.at(width // 2, 8) != BACKGROUND
        assert console.check("ps -o user,comm | grep -c '^user .*weston'").strip() > "1"

        click(console, panel, width // 2, height // 2)
        click(console, panel, *TERMINAL)
        wait_for_screen(shows(is_black, 0.1), "a terminal")
        fill(2, lambda red, green, blue: green > 2 * max(red, blue, 40))
        keyboards = log().count("device is a keyboard")
        console.tell("device_add", driver="usb-kbd", id="plugged")
        wait_until(lambda: log().count("device is a keyboard") > keyboards, what="a keyboard")
        fill(1, lambda red, green, blue: red > 2 * max(green, blue, 40))
        console.tell("device_del", id="plugged")
        wait_until(lambda: "USB Keyboard: device removed" in log(), what="no keyboard")

        console.check("echo user:sesam | chpasswd")
        wait_until(lambda: make_as_root("sesam"), BOOT_LIMIT, "what root made")

        click(console, panel, *BROWSER)
        wait_for_screen(shows(is_grey, 0.8), "a browser")
        click(console, panel, width - 12, 32 + 12)
        wait_for_screen(lambda screen: not shows(is_grey, 0.5)(screen), "no browser")
        click(console, panel, *EDITOR)
        wait_until(lambda: "nano" in console.check("ps -o comm"), what="an editor")

        assert console.check("cat /sys/class/tty/tty0/active") == "tty2\n"
        console.press("ctrl", "alt", "f1")
        wait_until(lambda: console.check("cat /sys/class/tty/tty0/active") == "tty1\n",
                   what="the other console")
        assert "login:" in console.check("cat /dev/vcs1")
        console.press("ctrl", "alt", "f2")
        wait_for_screen(lambda screen: screen.at(width - 8, height - 8) == BACKGROUND,
                        "the desktop again")


@pytest.mark.long
def test_boot_a_desktop_shows_pictures_and_pages(everything, serve, tmp_path):
    """A page of a web server with a picture in it, and files of one's own."""
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "index.html").write_text('<body bgcolor="#ffff00"><img src="green.png">')
    (folder / "green.png").write_bytes(png(400, 300, (0, 200, 0)))
    page = from_device(serve(folder))
    status, text = output_of(
        "make", "image", "SYSTEM=desktop", "CONF=/dev/null", f"O={BUILD}", cwd=ROOT)
    assert status == 0, text
    shutil.copy(BUILD / ARCH / "image-desktop/disk.img", tmp_path)

    def wait_for_green(share, what):
        def is_there():
            screen = Screen(console, tmp_path / "screen.ppm")
            return screen.share(lambda red, green, blue: green > 150 > 2 * max(red, blue)) > share
        wait_until(is_there, BOOT_LIMIT, what)

    with running(tmp_path, tmp_path, SYSTEM="desktop") as console:
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()
        wait_until(lambda: desktop_shows(console, tmp_path), BOOT_LIMIT, "a background")
        console.check("cd /home/user; export XDG_RUNTIME_DIR=/run/user/1000 HOME=/home/user "
                      f"WAYLAND_DISPLAY=wayland-1; wget -q {page}/green.png")
        console.check("su -m -s /bin/sh user -c 'weston-image green.png >/dev/null 2>&1 &'")
        wait_for_green(0.08, "a picture")
        console.check("killall weston-image")
        console.check(f"su -m -s /bin/sh user -c 'links -g {page}/ >/dev/null 2>&1 &'")
        time.sleep(5)
        console.press("ret")            # it greets who sees it for the first time
        wait_for_green(0.08, "a page with a picture")


def png(width, height, color):
    """A picture of one color."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))
    rows = (b"\0" + bytes(color) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


@pytest.mark.long
def test_boot_a_pc_that_becomes_a_desktop(everything, serve, tmp_path):
    """And is none any more, without a reboot."""
    repository = from_device(serve(BUILD / "repo"))
    status, text = output_of("make", "image", "SYSTEM=pc", "CONF=/dev/null", f"O={BUILD}",
                             f"REPO_URL={repository}", cwd=ROOT)
    assert status == 0, text
    shutil.copy(BUILD / ARCH / "image-pc/disk.img", tmp_path)
    with running(tmp_path, tmp_path, SYSTEM="desktop") as console:
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()
        listing = "lpkg list; ls -A /usr/bin /usr/share /usr/lib /etc/init.d /etc/rc.d"
        before = console.check(listing)
        status, text = console.run("lpkg --yes install desktop", BOOT_LIMIT)
        assert status == 0 and "linitctl enable weston" in text, text
        assert not desktop_shows(console, tmp_path)
        console.check("echo root:longer-than-eight | chpasswd")
        console.check("linitctl enable weston && linitctl start weston")
        wait_until(lambda: desktop_shows(console, tmp_path), BOOT_LIMIT, "a desktop")
        # The user who was made has root's password.
        hashes = console.check("sed -n 's/^\\(root\\|user\\):\\([^:]*\\):.*/\\2/p' /etc/shadow")
        assert len(hashes.split()) == 2 and len(set(hashes.split())) == 1 and hashes[0] == "$"
        assert console.run("lpkg --yes undo", BOOT_LIMIT)[0] == 0
        wait_until(lambda: not desktop_shows(console, tmp_path), BOOT_LIMIT, "no desktop")
        left = console.check("linitctl list; ps; ls /etc/rc.d")
        assert "weston" not in left, left
        assert console.check(listing) == before


# -- upgraded in place

MARK = b"\n# another build\n"
# What says the version of its package, and how that stands there.
SAYING = {"bin/busybox": b"BusyBox v%s", "usr/bin/python3.11": b"\0%s\0",
          "usr/lib/libc.so": b"\0%s\0", "usr/lib/panux/linitd.pyc": b"\x03%s",
          "usr/lib/panux/linitctl.pyc": b"\x03%s", "usr/lib/panux/lpkg.pyc": b"\x03%s"}


def rebuilt(path, data, version):
    """DATA, of the file PATH, as a later build may have it: it does the same, and where it says its
    VERSION the last character is another one."""
    said = SAYING.get(path, b"")
    if said:
        old, new = (said % text.encode() for text in (version, version[:-1] + "B"))
        assert old in data, f"{path} doesn't say {version}"
        data = data.replace(old, new)
    is_code = data.startswith((b"\x7fELF", b"#!")) or path == "boot/vmlinuz"
    return data + MARK if is_code or path == "etc/profile" else data


class Upgrades:
    """A repository in FOLDER, with a key of its own: of the PACKAGES that were built and all that
    they need, and then of later builds of them."""

    def __init__(self, folder, packages):
        self.folder = folder
        self.repository = folder / "repo" / ARCH
        self.repository.mkdir(parents=True)
        plan = run_tool("lpkg", "--root", folder / "none", "--repo", BUILD / "repo", "--key",
                        BUILD / "repo/panux.pub", "--dry-run", "--json", "install", *packages)
        names = {one["name"] for one in json.loads(plan.stdout)}
        entries = json.loads((REPOSITORY / "index.json").read_text())["packages"]
        self.files = {entry["name"]: REPOSITORY / urllib.parse.unquote(entry["file"])
                      for entry in entries if entry["name"] in names}
        for path in self.files.values():
            shutil.copy(path, self.repository)
        run_tool("lpkg", "keygen", folder / "panux")
        shutil.copy(folder / "panux.pub", folder / "repo")
        (folder / "debian").symlink_to(BUILD / "debian")        # boot code of other machines
        self.sign()

    def sign(self):
        run_tool("lpkg", "index", self.repository, "--secret", self.folder / "panux.key")

    def offer(self, *names):
        """Offer a later build of the packages NAMES, or of all; their programs are other ones."""
        for name in names or self.files:
            self.files[name] = self.repack(self.files[name])
        self.sign()

    def repack(self, path):
        """Pack what is in the package at PATH again, by the lpkg of a build."""
        with tarfile.open(path) as old, open(self.folder / "out.tar", "w+b") as file:
            info = record_in(old)
            version, _, build = info["version"].rpartition("-")
            out = tarfile.open(fileobj=file, mode="w")
            scripts = {}
            for member in old:
                data = old.extractfile(member).read() if member.isreg() else None
                if member.name.startswith(".lpkg/scripts/"):
                    scripts[member.name.rpartition("/")[2]] = data.decode()
                elif not member.name.startswith(".lpkg"):
                    if member.isreg():
                        data = rebuilt(member.name, data, version)
                        member.size = len(data)
                    member.name = f"out/{info['name']}/{member.name}"
                    out.addfile(member, io.BytesIO(data or b""))
            status = tarfile.TarInfo(".status")
            status.size = 2
            out.addfile(status, io.BytesIO(b"0\n"))
            out.close()
            owners = {one["path"]: f"{one['uid']}:{one['gid']}:{one['mode']}"
                      for one in info["files"] if int(one["mode"], 8) & 0o6000}
            info.update(version=f"{version}-{int(build) + 1}", scripts=scripts, owners=owners)
            (self.folder / "meta").write_text(json.dumps({
                **{key: info[key] for key in ("recipe", "version", "arch", "license", "url")},
                "packages": {info["name"]: info}}))
            file.seek(0)
            run_tool("lpkg", "pack", "--meta", self.folder / "meta", "-o", self.repository,
                     stdin=file)
        return self.repository / f"{info['name']}-{info['version']}.{ARCH}.lpkg"

    def infos(self):
        """What the record of each package says as it is offered now."""
        return [read_info(self.files[name]) for name in sorted(self.files)]

    def hash_of(self, name, path):
        """The SHA-256 of the file PATH of the package NAME as it is offered now."""
        return hash_in([read_info(self.files[name])], path)


def hash_in(infos, path):
    """The SHA-256 of the file PATH of one of the packages of INFOS."""
    return next(file["sha256"] for info in infos for file in info["files"] if file["path"] == path)


def kernels(console):
    """The hashes of the kernel and of the old one."""
    return [line.split()[0] for line in
            console.check("cd /boot && sha256sum vmlinuz vmlinuz.old").splitlines()]


# How the old kernel is chosen: when the menu says what, what is typed.
MENUS = {"bios": ("boot: ", "old\r"), "efi": ("Panux \\(old\\)", "\033[B\r")}


@pytest.mark.parametrize("firmware, kernel", [
    pytest.param("bios", "linux-tiny", marks=pytest.mark.bios, id="by_bios"),
    pytest.param("efi", "linux", marks=pytest.mark.long, id="by_efi")])
def test_boot_an_upgraded_kernel_and_the_old_one(request, serve, tmp_path, firmware, kernel):
    request.getfixturevalue("pc" if kernel == "linux" else "index")
    packages = [kernel if name == "linux-tiny" else name for name in DISK]
    upgrades = Upgrades(tmp_path, packages)
    hashes = [upgrades.hash_of(kernel, "boot/vmlinuz")]
    status, text = make_image(
        tmp_path / "image", packages, O=tmp_path, KERNEL=kernel,
        SIZE="48M" if ARCH == "x86_64" else "64M",      # where the kernel isn't compressed
        SERVICES="root mounts network getty", REPO_URL=from_device(serve(tmp_path / "repo")))
    assert status == 0, text

    def upgrade(console):
        upgrades.offer(kernel)
        hashes.append(upgrades.hash_of(kernel, "boot/vmlinuz"))
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again().check("mountpoint -q /boot")
        status, said = console.run("lpkg --yes upgrade 2>&1", BOOT_LIMIT)
        assert status == 0, said
        assert said.count("reboot to run the new kernel; the one that runs now is ") == 1
        assert console.run("lpkg verify 2>/dev/null") == (0, "")

    with running(tmp_path / "image", tmp_path, FIRMWARE=firmware) as console:
        upgrade(console)
        assert kernels(console) == [hashes[1], hashes[0]]
        console.send("poweroff")
        ends_soon(console)
    with running(tmp_path / "image", tmp_path, FIRMWARE=firmware) as console:
        menu, typed = MENUS[firmware]
        console.expect(menu, BOOT_LIMIT)
        console.send(typed)
        # The second one may have failed: the third one takes its place, and not the first one's.
        upgrade(console)
        console.check("grep BOOT_IMAGE=/vmlinuz.old /proc/cmdline")
        assert kernels(console) == [hashes[2], hashes[0]]


@pytest.mark.bios
@pytest.mark.parametrize("firmware, words, said", [
    ("efi", "", "there is no image in"), ("coreboot", "", "FIRMWARE=coreboot is neither")])
def test_qemu_says_what_it_lacks(open_disk, tmp_path, firmware, words, said):
    folder = tmp_path if firmware == "efi" else open_disk
    status, text = output_of(ROOT / "world/qemu", env=environment(
        IMAGE_FOLDER=folder, FIRMWARE=firmware, APPEND=words))
    assert status == 1 and text.startswith(f"world/qemu: {said}") and text.count("\n") == 1


def flash(image, device, answer):
    done = subprocess.run([ROOT / "world/flash"], input=answer, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=60,
                          env=environment(IMAGE_FOLDER=image, DEV=device))
    return done.returncode, done.stdout


def test_flash_shows_asks_and_writes(open_disk, tmp_path):
    stick = tmp_path / "stick"
    stick.write_bytes(bytes(64 << 20))
    for answer in ("", "y\n", "yes\n"):
        status, text = flash(open_disk, stick, answer)
        assert status == 1 and text.endswith("world/flash: nothing was written\n")
    assert stick.read_bytes() == bytes(64 << 20)
    assert flash(open_disk, stick, "stick\n")[0] == 0
    image = (open_disk / "disk.img").read_bytes()
    assert stick.read_bytes() == image + bytes((64 << 20) - len(image))
    text = flash(open_disk, stick, "no\n")[1]
    assert "67 MB" in text and "EFI System" in text, text


def test_flash_refuses_what_is_small_mounted_or_absent(open_disk, tmp_path):
    stick = tmp_path / "stick"
    stick.write_bytes(bytes(1 << 20))
    assert "has 1048576 bytes, the image" in flash(open_disk, stick, "stick\n")[1]
    assert stick.read_bytes() == bytes(1 << 20)
    assert "there is no disk or file" in flash(open_disk, tmp_path / "none", "none\n")[1]
    assert "name the disk, as in" in flash(open_disk, "", "\n")[1]
    # A disk of this machine; should it not be refused, the answer is still the wrong one.
    disks = output_of("lsblk", "-Jpo", "NAME,TYPE,MOUNTPOINT")[1]
    mounted = next(one["name"] for one in json.loads(disks)["blockdevices"]
                   if one["type"] == "disk" and '"/' in json.dumps(one).replace('"/dev', ""))
    status, text = flash(open_disk, mounted, "no\n")
    assert status == 1 and re.match(rf"world/flash: {mounted} is in use as /", text), text


# -- what PID 1 lives through

LIBRARY = "/usr/lib/python311.zip"
BOTH = pytest.mark.parametrize("packages", [BASE, FULL], ids=["base", "full"])
SERVICE = "#!/etc/rc.common\n"


def with_early(packages, folder, commands, services=None):
    """QEMU's options for an image in which COMMANDS run before init; SERVICES: name -> body."""
    files = {"init": (f"#!/bin/sh\n{commands}\nexec /sbin/init\n", 0o755)}
    for name, body in (services or {}).items():
        files[f"etc/init.d/{name}"] = (SERVICE + body, 0o755)
        files[f"etc/rc.d/{name}"] = ("", 0o644)
    return with_more(packages, folder, files)


def expect_shell(console):
    """A rescue shell, which carries out a command."""
    console.expect("rescue shell", BOOT_LIMIT)
    console.expect("# ")
    console.send("echo answer $((6 * 7)) at $(tty)")
    console.expect("answer 42 at /dev/" + SERIAL + "\n")


def ends_soon(console, limit=60):
    """It ends by itself, without a panic. How often services' names were said to be stopped."""
    console.expect("Power down|Restarting system", limit)
    assert console.process.wait(30) == 0
    assert "panic" not in console.text


@pytest.mark.parametrize("end", ["poweroff", "reboot", "keys"])
def test_s36_python_goes_while_pid_1_sleeps(index, tmp_path, end):
    """PID 1 stays and says so, services run, and nobody's console is taken; when Python is back
    linitd goes on where it was. And the system ends by the shell, without Python."""
    with booted(FULL, tmp_path) as console:
        fall_asleep(console)
        httpd = states(console)["httpd"][1]
        fall_asleep(console)
        console.check(f"mv {LIBRARY} /usr/lib/away; kill -9 $(pidof syslogd)")
        console.expect("linit-idle: .* doesn't run; the services go on\n")
        assert pid_1(console) == "/sbin/linit-idle"
        assert "This is a Panux device" in fetch_page(console)
        if end == "poweroff":
            console.check(f"sleep 3; mv /usr/lib/away {LIBRARY}; sleep 12")
            seen = states(console)
            assert seen["httpd"] == ("running", httpd) and seen["syslogd"][0] == "running"
            assert "restarted: 1 time" in console.check("linitctl status syslogd | cat")
            fall_asleep(console)
            console.check(f"mv {LIBRARY} /usr/lib/away; kill -9 $(pidof syslogd)")
            console.expect("linit-idle: .* doesn't run; the services go on\n")
        assert "rescue shell" not in console.text
        if end == "keys":
            console.press("ctrl", "alt", "delete")
        else:
            console.send(end)
        console.expect("linit-rescue: " + end.replace("keys", "reboot"))
        ends_soon(console)


def test_s36_a_rescue_shell_where_nobody_uses_the_console(index, tmp_path):
    """Python goes, and then the login: the shell comes by itself."""
    with booted(FULL, tmp_path) as console:
        fall_asleep(console)
        console.send(f"mv {LIBRARY} /usr/lib/away; exit")
        expect_shell(console)
        console.send(f"mv /usr/lib/away {LIBRARY}; exit")
        console.expect("login: ")


@pytest.mark.parametrize("damage, said", [
    (f"rm {LIBRARY}", "Fatal Python error: init_fs_encoding"),
    ("echo no code >/usr/lib/panux/linitd.pyc", "linitd.pyc: .*install linitd again"),
    ("rm /usr/lib/panux/linitd.pyc", "linitd.pyc: No such file"),
    ("cd /usr/bin; head -c 3000000 python3.11 >/tmp/half; cat /tmp/half >python3.11", "Bus error"),
    ("echo no program >/usr/bin/python3.11", "Exec format error"),
    ("rm /sbin/linit-start", "linit-start is at none of"),
], ids=["library", "damaged", "missing", "half", "text", "start"])
def test_s36_boot_with_a_python_that_does_not_run(index, tmp_path, damage, said):
    """The same services, by the shell, and the first line on the console says why."""
    options = with_early(FULL, tmp_path, damage)
    with booted(FULL, tmp_path, *options) as console:
        assert re.match(f"init: /sbin/linitd doesn't run: .*{said}", console.text)
        assert pid_1(console) == "/bin/busybox"
        assert "This is a Panux device" in fetch_page(console)
        console.send("poweroff")
        ends_soon(console)
        assert re.findall(r"(\S+) is stopped", console.text)[-1] == "mounts"


KNOWN = ("mkdir -p /var/lib/linit; stat -L -c '%i %Y %n' /usr/bin/python3 /sbin/linitd "
         f"{LIBRARY} /usr/lib/panux/linitd.pyc >/var/lib/linit/good; rm /usr/bin/timeout")


@pytest.mark.parametrize("change, is_known", [
    (":", True), (f"touch {LIBRARY}", False), ("rm -r /var/lib/linit", False),
    (":>/var/lib/linit/good", False), ("cp /sbin/linitd /l; mv /l /sbin/linitd", False),
    ("echo 1 2 /gone >>/var/lib/linit/good", False),
], ids=["same", "touched", "no record", "empty", "copied", "gone"])
def test_s36_linitd_is_tried_unless_it_is_the_last_that_ran(index, tmp_path, change, is_known):
    """`timeout` is what tries it: without that, only who isn't tried runs."""
    options = with_early(FULL, tmp_path, f"{KNOWN}; {change}")
    with booted(FULL, tmp_path, *options) as console:
        assert ("timeout: not found" not in console.text) == is_known
        assert (pid_1(console) != "/bin/busybox") == is_known


BOMB = "exec sh -c 'sleep 5; b() { b | b & b; }; b' 2>/dev/null"
SOME = "echo 300 >/proc/sys/kernel/threads-max"


@BOTH
@pytest.mark.parametrize("limit", [SOME, pytest.param(":", marks=pytest.mark.long)],
                         ids=["300 processes", "all memory"])
def test_s37_a_fork_bomb_does_not_hold_up_the_end(index, tmp_path, packages, limit):
    """A daemon that takes all processes, and all memory, that there are: PID 1 can start no other,
    and has a hundredth of the processor."""
    options = with_early(packages, tmp_path, ":", {"bomb": f"run() {{ {limit}; {BOMB}; }}\n"})
    with booted(packages, tmp_path, *options) as console:
        time.sleep(15)
        console.press("ctrl", "alt", "delete")
        ends_soon(console, 300)


def is_without_zombies(console):
    return not console.run("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null")[1]


def test_s37_a_flood_of_orphans_is_reaped(device):
    add_service(device, "orphans", "start() { i=0; while [ $i -lt 500 ]; do "
                                   "(sleep 0.2 & sleep 0.1 & :) & i=$((i + 1)); done; }")
    device.check("linitctl start orphans 2>/dev/null")
    wait_until(lambda: is_without_zombies(device), 30)
    fall_asleep(device)
    # Asleep, too.
    device.check("for i in $(seq 300); do (setsid sleep 0.2 & :) & done; wait; sleep 2")
    wait_until(lambda: is_without_zombies(device), 30)
    assert states(device)["orphans"][0] == "running"


def seconds_of_stop(device, name):
    text = device.check(f"cat /proc/uptime; linitctl stop {name} >/dev/null 2>&1; cat /proc/uptime")
    before, after = (float(line.split()[0]) for line in text.splitlines())
    return after - before


DEAF = "trap '' TERM; while :; do sleep 1; done"


@pytest.mark.parametrize("script", [
    f'run() {{ exec sh -c "{DEAF}" tenacious; }}',
    f'start() {{ :; }}\nstop() {{ sh -c "{DEAF}" tenacious; }}',
], ids=["deaf", "its own stop"])
def test_s37_a_stop_that_is_ignored_is_killed_at_its_timeout(device, script):
    add_service(device, "stays", "timeout=2\n" + script)
    device.check("linitctl start stays 2>/dev/null; sleep 1")
    assert 1.9 < seconds_of_stop(device, "stays") < 8
    assert states(device)["stays"][0] in ("stopped", "failed")
    assert device.run("pgrep -f '[t]enacious'")[0] == 1


def test_s37_a_daemon_that_is_stopped_hears_that_it_is_to_end(device):
    """After the stop signal it is continued."""
    add_service(device, "stays", 'timeout=20\nrun() { exec sh -c "kill -STOP \\$\\$; sleep 999"; }')
    device.check("linitctl start stays 2>/dev/null; sleep 1")
    assert seconds_of_stop(device, "stays") < 8
    assert states(device)["stays"][0] in ("stopped", "failed")


def test_s37_what_left_its_session_ends_with_its_daemon(device):
    """With a cgroup for each daemon, whatever its processes do to get away."""
    add_service(device, "escapes", "timeout=2\nrun() {\n(setsid sleep 4321 &)\n"
                f'exec sh -c "{DEAF}"\n}}')
    device.check("linitctl start escapes 2>/dev/null; sleep 1")
    pid = device.check("pgrep -f '[s]leep 4321'").strip()
    assert device.check(f"cut -d' ' -f4,6 /proc/{pid}/stat").split() == ["1", pid]
    assert device.check(f"cat /proc/{pid}/cgroup").strip().endswith("/linit/escapes")
    assert 1.9 < seconds_of_stop(device, "escapes") < 8
    assert device.run("pgrep -f '[s]leep 4321'")[0] == 1
    assert device.check("cat /sys/fs/cgroup/linit/escapes/cgroup.procs") == ""


def test_s38_a_disk_that_hangs_holds_up_neither_requests_nor_the_end(index, tmp_path):
    """The file system of /var/log is frozen: who writes there waits for ever."""
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 16 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with booted(FULL, tmp_path, "-drive", f"if=virtio,format=raw,file={disk}") as console:
        console.check("mount -t ext4 /dev/vda /var/log")
        add_service(console, "prints", 'run() { exec sh -c "while echo said; do sleep 1; done"; }')
        add_service(console, "flood", "run() { exec yes; }")
        console.check("linitctl start prints 2>/dev/null; sleep 3; cat /var/log/linit/prints")
        assert pid_1(console) == "/sbin/linit-idle"
        console.check("python3 -c 'import fcntl, os; "
                      "fcntl.ioctl(os.open(\"/var/log\", os.O_RDONLY), 0xC0045877, 0)'")  # FIFREEZE
        for _ in range(3):
            console.check("sleep 2; linitctl restart prints 2>/dev/null; linitctl list")
        console.check("linitctl start flood 2>/dev/null; sleep 2; linitctl status flood")
        console.send("poweroff")
        assert console.process.wait(timeout=200) == 0


@BOTH
def test_s37_asked_twice_it_ends_at_once(index, tmp_path, packages):
    """A service whose stop never ends, and processes that ignore TERM or are stopped."""
    services = {"endless": "timeout=1000\nstart() { :; }\nstop() { sleep 1000; }\n",
                "stopped": "start() { sh -c 'kill -STOP $$' & }\n"}
    options = with_early(packages, tmp_path, ":", services)
    with booted(packages, tmp_path, *options) as console:
        console.check(f"({DEAF}) & sleep 1")
        console.press("ctrl", "alt", "delete")
        console.expect("reboot")
        time.sleep(5)
        assert console.process.poll() is None and "Restarting" not in console.text
        console.press("ctrl", "alt", "delete")
        ends_soon(console, 20)


@pytest.mark.long
@BOTH
def test_s37_a_stop_without_end_ends_after_a_minute(index, tmp_path, packages):
    services = {"endless": "timeout=1000\nstart() { :; }\nstop() { sleep 1000; }\n"}
    options = with_early(packages, tmp_path, ":", services)
    with booted(packages, tmp_path, *options) as console:
        console.send("poweroff")
        ends_soon(console, 90)


@BOTH
def test_s40_no_boot_script(index, tmp_path, packages):
    options = with_early(packages, tmp_path, "rm /etc/init.d/boot /sbin/boot")
    with started(packages, tmp_path, *options) as console:
        expect_shell(console)
        assert re.search("(init: there is no|linitd:) /etc/init.d/boot", console.text)
        console.send("poweroff")
        ends_soon(console)


@BOTH
def test_s40_a_boot_that_fails(index, tmp_path, packages):
    """Where nobody can log in, a shell; what failed and why is above it."""
    services = {"broken": "start() { echo no carrier; return 3; }\n"}
    options = with_early(packages, tmp_path, "rm /etc/rc.d/getty", services)
    with started(packages, tmp_path, *options) as console:
        expect_shell(console)
        assert "no carrier" in console.text and "broken" in console.text
        assert "This is a Panux device" in fetch_page(console), "the rest runs"
        console.send("poweroff")
        ends_soon(console)


def test_s40_a_login_is_not_disturbed_by_a_boot_that_fails(index, tmp_path):
    services = {"broken": "start() { return 3; }\n"}
    with started(FULL, tmp_path, *with_early(FULL, tmp_path, ":", services)) as console:
        console.expect("boot failed: it needs broken", BOOT_LIMIT)
        time.sleep(3)
        console.send("")
        console.expect("login: ")
        assert not console.read(1) or "rescue shell" not in console.text


@BOTH
def test_s40_linit_skip(index, tmp_path, packages):
    """What hangs is left out, and who needs it goes on without."""
    services = {"hangs": "start() { sleep 1000; }\n", "waits": "depends() { dep hangs; }\n"}
    options = with_early(packages, tmp_path, ":", services)
    with booted(packages, tmp_path, *options, words="linit.skip=hangs linit.skip=httpd") as console:
        for name, state in (("waits", "running"), ("hangs", "stopped"), ("httpd", "stopped")):
            assert f"{name} is {state}" in console.run(f"/etc/init.d/{name} status | cat")[1]
        console.send("poweroff")
        ends_soon(console)


@BOTH
def test_s40_linit_single(index, tmp_path, packages):
    """Nothing runs yet; `exit` goes on to the usual boot."""
    with started(packages, tmp_path, words="linit.single") as console:
        expect_shell(console)
        console.send("ps | grep -c '[h]ttpd\\|[l]initd'; hostname; exit")
        console.expect("\n0\n.*none")
        console.log_in()
        assert "This is a Panux device" in fetch_page(console)


def test_s40_poweroff_from_the_single_shell(index, tmp_path):
    with started(FULL, tmp_path, words="linit.single") as console:
        expect_shell(console)
        console.send("poweroff")
        ends_soon(console)


@BOTH
@pytest.mark.parametrize("where", ["single", "failed"])
def test_s40_ctrl_c_in_a_rescue_shell(index, tmp_path, packages, where):
    """It ends a command that hangs, and Ctrl-Z stops one; nothing complains of the terminal."""
    services = {"broken": "start() { return 3; }\n"} if where == "failed" else {}
    early = "rm /etc/rc.d/getty" if where == "failed" else ":"
    options = with_early(packages, tmp_path, early, services)
    words = "linit.single" if where == "single" else ""
    with started(packages, tmp_path, *options, words=words) as console:
        expect_shell(console)
        for key, answer in (("\x03", "130"), ("\x1a", "148")):
            console.send("sleep 1000")
            time.sleep(2)
            console.process.stdin.write(key.encode())
            console.process.stdin.flush()
            console.send("echo it gave $?")
            console.expect(f"it gave {answer}\n")
        assert "job control" not in console.text and "can't access" not in console.text
        if where == "single":
            console.send("kill -9 %1; exit; exit")
            console.log_in()


@pytest.mark.parametrize("damage, said", [
    ("rmdir /run /sys", "mounting tmpfs on /run failed.*init: /run is missing"),
    ("rm /bin/mount", "mount: not found.*init: /run is missing"),
], ids=["no folders", "no mount"])
def test_s40_what_can_not_be_mounted(index, tmp_path, damage, said):
    with started(FULL, tmp_path, *with_early(FULL, tmp_path, damage)) as console:
        console.expect(said, BOOT_LIMIT)
        console.expect("rescue shell.*# ")
        console.send("echo answer $((6 * 7))")
        console.expect("answer 42")
        console.send("poweroff")
        ends_soon(console)


@BOTH
def test_s40_a_root_that_is_read_only(index, tmp_path, packages):
    options = with_early(packages, tmp_path, "mount -o remount,ro none /")
    with booted(packages, tmp_path, *options) as console:
        assert "init: / is read-only: logs are lost\n" in console.text
        assert console.run("touch /tmp/x 2>/dev/null")[0] == 1
        assert "This is a Panux device" in fetch_page(console)
        console.send("poweroff")
        ends_soon(console)


def test_s40_the_kernel_does_not_stay_in_a_panic(index, tmp_path):
    """panic=10 is among its words: a PID 1 that ends restarts the machine."""
    with started(FULL, tmp_path, *with_early(FULL, tmp_path, "exit 1")) as console:
        console.expect("Attempted to kill init", BOOT_LIMIT)
        assert console.process.wait(30) == 0


@BOTH
def test_boot_poweroff_leaves_a_clean_disk(index, tmp_path, packages):
    """Though a process has a file open for writing, and ignores TERM."""
    disk = tmp_path / "disk"
    assert output_of("mke2fs", "-q", "-t", "ext4", disk, "16M")[0] == 0
    drive = ["-drive", f"if=virtio,format=raw,file={disk}"]
    with booted(packages, tmp_path, *drive) as console:
        console.check("mount -t ext4 /dev/vda /mnt && echo kept >/mnt/file")
        console.check("(trap '' TERM; cd /mnt; exec >>file; while sleep 0.1; do echo; done) & :")
        assert "needs_recovery" in output_of("dumpe2fs", "-h", disk)[1]
        console.send("poweroff")
        ends_soon(console)
    assert "needs_recovery" not in output_of("dumpe2fs", "-h", disk)[1]
    status, text = output_of("e2fsck", "-fn", disk)
    assert status == 0, text
    assert output_of("debugfs", "-R", "cat /file", disk)[1].splitlines()[1] == "kept"


# ---- the first evening ---------------------------------------------------------------------------

@BOTH
def test_boot_ends_with_the_prompt(index, tmp_path, packages):
    """No message, of the boot or of a daemon, comes after it."""
    with started(packages, tmp_path) as console:
        console.expect("boot is running.*\n[^\n]*login: ", BOOT_LIMIT)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            console.read(1)
        assert console.text.endswith("panux login: ")


@BOTH
@pytest.mark.parametrize("damage, name", [
    ("rm /etc/hostname", "localhost"), (": >/etc/hostname", "localhost"),
    ("rm /etc/network /etc/hosts /etc/sysctl.conf /etc/ntp.conf /etc/fstab /etc/profile", "panux"),
], ids=["no name", "empty name", "no settings"])
def test_boot_without_a_setting_lacks_that_alone(index, tmp_path, packages, damage, name):
    with booted(packages, tmp_path, *with_early(packages, tmp_path, damage)) as console:
        assert console.check("hostname").strip() == name
        assert "inet 10.0.2.15/24" in console.check("ip addr show eth0")
        assert "nameserver 10.0.2.3" in console.check("cat /etc/resolv.conf")
        assert "This is a Panux device" in fetch_page(console)


def test_boot_a_login_on_each_console(index, tmp_path):
    """Of those that the kernel's words name; the last of them has its messages."""
    with started(FULL, tmp_path, words="console=tty0") as console:
        console.expect("login: ", BOOT_LIMIT)
        console.send("root")
        console.expect("# ")
        console.send("stty -echo; PS1=")
        seen = states(console)
        assert [seen[f"getty@{name}"][0] for name in ("tty1", SERIAL)] == ["running"] * 2
        assert console.check(f"readlink /proc/{seen['getty@tty1'][1]}/fd/0").strip() == "/dev/tty1"


def test_boot_two_interfaces(index, tmp_path):
    """Each with a lease: two default routes, the servers of both."""
    second = ["-netdev", "user,id=two,net=10.0.5.0/24,dns=10.0.5.3",
              "-device", "virtio-net-pci,netdev=two,romfile="]
    with booted(FULL, tmp_path, *second) as console:
        assert "inet 10.0.5.15/24" in console.check("ip addr show eth1")
        assert console.check("ip route").count("default via 10.0.") == 2
        assert console.check("grep -c nameserver /etc/resolv.conf").strip() == "2"
        console.check("linitctl stop network 2>/dev/null")
        assert "inet " not in console.check("ip addr show eth1; ip addr show eth0")
        assert "nameserver" not in console.run("cat /etc/resolv.conf")[1]


def test_boot_tells_a_newcomer_what_to_type(index, tmp_path):
    """Each login on a terminal does, until it is told not to; its commands work."""
    with booted(FULL, tmp_path) as console:
        told = re.search(r"This is Panux\.\n((?:  .*\n)+)", console.text)[1]
        commands = [line[2:25].strip() for line in told.splitlines()]
        assert commands == ["lpkg search WORD", "linitctl list", "poweroff", "passwd"]
        for command in commands[:2]:
            assert console.run(f"{command.split()[0]} --help >/dev/null 2>&1")[0] == 0
        console.check("touch /root/.hushlogin")
        console.send("exit")
        console.expect("login: ")
        console.send("root")
        console.expect("~# ")
        assert console.text.count("This is Panux") == 1


def test_s65_passwords_count_to_their_last_letter(index, tmp_path):
    """SHA-512, where DES knew eight letters; and who has set none is told so."""
    with booted(FULL, tmp_path) as console:
        assert "root has no password: set one" in console.text
        console.check("echo 'root:12345678 and the rest' | chpasswd 2>/dev/null")
        assert console.check("cut -c 1-8 /etc/shadow").startswith("root:$6$")
        console.send("exit")
        for password, answer in (("12345678 and no", "Login incorrect"),
                                 ("12345678 and the rest", "This is Panux")):
            console.expect("login: ")
            console.send("root")
            console.expect("Password: ")
            console.send(password)
            console.expect(answer)
        assert console.text.count("root has no password") == 1


def test_s65_the_kernel_s_protections_are_on(device):
    expected = {
        "fs.protected_symlinks": 1, "fs.protected_hardlinks": 1, "fs.protected_fifos": 2,
        "fs.protected_regular": 2, "kernel.kptr_restrict": 1, "kernel.dmesg_restrict": 1,
        "net.ipv4.conf.all.accept_redirects": 0, "net.ipv4.conf.eth0.accept_redirects": 0,
        "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.all.accept_source_route": 0,
        "net.ipv6.conf.all.accept_redirects": 0, "net.ipv6.conf.eth0.accept_redirects": 0}
    text = device.check(f"sysctl {' '.join(expected)}")
    assert text.splitlines() == [f"{name} = {value}" for name, value in expected.items()]


def as_nobody(console, command):
    return console.run(f"setuidgid nobody sh -c '{command}' 2>&1")


def test_s65_a_link_of_another_user_is_not_followed(device):
    """In a directory that all can write, neither root's `>` through it nor a hard link works."""
    assert as_nobody(device, "ln -s /root/planted /tmp/link")[0] == 0
    assert device.run("echo x >/tmp/link")[0] != 0
    assert device.run("test -e /root/planted")[0] != 0
    assert as_nobody(device, "ln /etc/shadow /tmp/shadow")[0] != 0


@BOTH
def test_s65_logs_are_root_s_alone(index, tmp_path, packages):
    with booted(packages, tmp_path) as console:
        console.check("logger -p auth.info somebody typed a password for a name; sleep 1")
        assert "typed a password" in console.check("cat /var/log/messages")
        status, text = as_nobody(console, "cat /var/log/messages /var/log/linit/*; dmesg")
    assert status != 0 and "typed" not in text
    assert text.count("denied") + text.count("not permitted") >= 2


def test_s65_httpd_is_nobody_in_a_root_of_its_own(device):
    """It serves what is in its folder; a link that leads out of it leads nowhere."""
    pid = states(device)["httpd"][1]
    assert "\t65534\t65534\t65534" in device.check(f"grep '^[UG]id:' /proc/{pid}/status")
    device.check("cd /srv/www && echo inside >here && ln -s here good && "
                 "ln -s /etc/passwd bad && ln -s ../../../../etc dir && ln -s /proc/1 proc")
    url = f"http://127.0.0.1:{device.port}/"
    try:
        with urllib.request.urlopen(url + "good", timeout=10) as reply:
            assert reply.read() == b"inside\n"
        for path in ("bad", "dir/passwd", "../../etc/passwd", "proc/cmdline"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(url + path, timeout=10)
    finally:
        device.check("cd /srv/www && rm here good bad dir proc")


def test_s65_only_what_is_asked_for_listens(index, tmp_path):
    """The image's own services: none has a TCP port, and UDP has DHCP's and the clock's alone."""
    with booted(FULL, tmp_path, *with_early(FULL, tmp_path, "rm /etc/rc.d/httpd")) as console:
        assert states(console)["httpd"][0] == "stopped"
        assert "LISTEN" not in console.check("netstat -ltn")


def test_boot_a_service_that_is_removed_is_stopped_and_disabled(device, serve, tmp_path):
    (tmp_path / "repo" / ARCH).mkdir(parents=True)
    publish(tmp_path, "1.0", service="run() { exec sleep 54321; }")
    url = from_device(serve(tmp_path / "repo"))
    key = (tmp_path / "repo/test.pub").read_text()
    device.check(f"printf '%s' '{key}' >/tmp/test.pub")
    lpkg = f"lpkg --repo {url} --key /tmp/test.pub --yes"
    device.check(f"{lpkg} install greeting 2>/dev/null; linitctl enable greeting 2>/dev/null; "
                 "linitctl start greeting 2>/dev/null; pgrep -f '[s]leep 54321'")
    text = device.check("lpkg --yes remove greeting 2>&1 | cat")
    assert "greeting is stopped, and not started at boot any more" in text
    assert device.run("pgrep -f '[s]leep 54321'")[0] == 1
    assert device.run("ls /etc/rc.d/greeting /etc/init.d/greeting 2>/dev/null") == (1, "")


# -- a root on a disk

DISK_SERVICES = ("clock", "getty", "grow", "hostname", "mdev", "mounts", "network", "root", "seed",
                 "sysctl", "syslogd")
E2FSCK = "#!/bin/sh\necho \"e2fsck $*\" >/dev/console\n"


class Disk:
    """A disk of so many MIB with a GPT, whose second partition has the packages of FULL; what boots
    from it has nothing else. FILES: path -> (text, mode) of more."""

    START = 4096                # the second partition's first sector
    SIZE = 40                   # MiB of it

    def __init__(self, folder, files, mib=64):
        self.folder = folder
        tree = folder / "root"
        tree.mkdir(mode=0o755)
        tar = folder / "root.tar"
        run_tool("lpkg", "--repo", f"file:{BUILD / 'repo'}", "--key", BUILD / "repo/panux.pub",
                 "--arch", ARCH, "bootstrap", "--tar", tar, *FULL)
        assert output_of("tar", "-C", tree, "-xpf", tar)[0] == 0
        services = {f"etc/rc.d/{name}": ("", 0o644) for name in DISK_SERVICES}
        for path, (text, mode) in {**services, **files}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            (tree / path).chmod(mode)
        self.path = folder / "disk"
        with open(self.path, "wb") as file:
            file.truncate(mib << 20)
        table = f"label: gpt\nstart=2048, size=2048\nstart={self.START}, size={self.SIZE << 11}\n"
        done = subprocess.run(["sfdisk", "-q", self.path], input=table, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        status, text = output_of(
            "mke2fs", "-q", "-t", "ext4", "-L", "PANUX-ROOT", "-d", tree, "-E",
            f"offset={self.START * 512}", self.path, f"{self.SIZE}M")
        assert status == 0, text
        subprocess.run(["bsdtar", "--format=newc", "-cf", folder / "empty", "-T", "/dev/null"],
                       check=True)

    def options(self):
        return ["-initrd", str(self.folder / "empty"),
                "-drive", f"if=virtio,format=raw,file={self.path}"]

    def booted(self, *options, words=""):
        return booted(FULL, self.folder, *self.options(), *options, words=f"root=/dev/vda2 {words}")

    def check(self):
        """What fsck finds wrong."""
        copy = self.folder / "partition"
        with open(self.path, "rb") as disk, open(copy, "wb") as file:
            disk.seek(self.START * 512)
            shutil.copyfileobj(disk, file)
        status, text = output_of("e2fsck", "-fn", copy)
        return "" if status == 0 else text


FSTAB = "LABEL=PANUX-ROOT / ext4 defaults,noatime 0 1\n"


def test_boot_a_root_on_a_disk_keeps_what_is_written(index, tmp_path):
    """Checked, mounted as fstab says, and grown to the disk at its first boot; two boots, and a
    file, the seed and the clock of the first are there in the second."""
    fstab = FSTAB + "LABEL=absent /mnt ext4 nofail 0 2\ntmpfs /media tmpfs size=1m 0 0\n"
    disk = Disk(tmp_path, {"etc/fstab": (fstab, 0o644), "sbin/e2fsck": (E2FSCK, 0o755),
                           "media/.keep": ("", 0o644)})
    with disk.booted() as console:
        assert " /media tmpfs " in console.check("cat /proc/mounts")
        assert "e2fsck -p /dev/vda2\n" in console.text and "read-only" not in console.text
        assert " / ext4 rw,noatime" in console.check("grep ' / ' /proc/mounts")
        assert int(console.check("df -m / | tail -n 1").split()[1]) > 52
        assert console.run("ls /etc/rc.d/grow 2>/dev/null")[0] != 0
        console.check("until [ $(stat -c %G /dev/vda) = disk ]; do sleep 0.5; done")
        assert console.check("stat -c %a /dev/vda /dev/null").split() == ["660", "666"]
        console.check("echo mine >/etc/hostname; sha256sum /var/lib/seed >/root/seed")
        console.send("poweroff")
        ends_soon(console)
    assert not disk.check()
    assert "No errors" in output_of("sfdisk", "--verify", disk.path)[1]
    with disk.booted("-rtc", "base=2020-01-01") as console:
        assert int(console.check("date +%Y")) >= 2026, "time never goes back"
        assert console.check("hostname") == "mine\n"
        assert console.run("sha256sum -c /root/seed >/dev/null 2>&1")[0] != 0, "used once"
        assert console.check("stat -c %s%a /var/lib/seed").strip() == "512600"


@pytest.mark.parametrize("fstab, words, mode", [
    (FSTAB.replace("defaults", "ro"), "", "ro"), (FSTAB, "linit.skip=root", "ro"),
    ("", "", "rw"), (FSTAB, "rw", "rw")], ids=["fstab says ro", "skipped", "no fstab", "rw"])
def test_boot_a_root_that_stays_as_it_should(index, tmp_path, fstab, words, mode):
    """`rw`: the kernel has mounted it so, and nothing checks what is written."""
    disk = Disk(tmp_path, {"etc/fstab": (fstab, 0o644), "sbin/e2fsck": (E2FSCK, 0o755)})
    with disk.booted(words=words) as console:
        assert f" / ext4 {mode}," in console.check("grep ' / ' /proc/mounts")
        assert ("init: / is read-only" in console.text) == (mode == "ro")
        assert ("e2fsck -p" in console.text) == (not words)


def test_boot_what_can_not_be_mounted_fails_alone(index, tmp_path):
    files = {"etc/fstab": ("LABEL=absent /mnt ext4 defaults 0 2\ntmpfs /media tmpfs size=1m 0 0\n",
                           0o644), "media/.keep": ("", 0o644)}
    with started(FULL, tmp_path, *with_more(FULL, tmp_path, files)) as console:
        console.expect("boot failed: it needs mounts", BOOT_LIMIT)
        console.expect("login: ")
        console.send("root")
        console.expect("# ")
        console.send("stty -echo; PS1=")
        assert " /media tmpfs " in console.check("cat /proc/mounts")
        assert "This is a Panux device" in fetch_page(console)


def test_boot_a_root_with_errors(index, tmp_path):
    """What only a person can mend gives a shell, and `exit` goes on."""
    script = E2FSCK + "exit 4\n"
    disk = Disk(tmp_path, {"etc/fstab": (FSTAB, 0o644), "sbin/e2fsck": (script, 0o755)})
    with started(FULL, tmp_path, *disk.options(), words="root=/dev/vda2") as console:
        expect_shell(console)
        assert "e2fsck /dev/vda2 needs answers" in console.text
        console.send("mount -o remount,rw /; exit")
        console.log_in()
        assert " / ext4 rw," in console.check("grep ' / ' /proc/mounts")


def test_boot_a_root_that_wants_a_reboot_gets_one(index, tmp_path):
    script = E2FSCK + "exit 3\n"
    disk = Disk(tmp_path, {"etc/fstab": (FSTAB, 0o644), "sbin/e2fsck": (script, 0o755)})
    with started(FULL, tmp_path, *disk.options(), words="root=/dev/vda2") as console:
        console.expect("e2fsck -p /dev/vda2.*Restarting system", BOOT_LIMIT)
        assert console.process.wait(30) == 0


def test_boot_finishes_what_lpkg_left_on_a_disk(index, tmp_path):
    """The kernel has mounted it read-only; it is written before linitd starts."""
    state = "var/lib/lpkg"
    disk = Disk(tmp_path, {
        "etc/fstab": (FSTAB, 0o644), "etc/.lpkg.0.0": ("new\n", 0o644), f"{state}/staged": (
            "rm\tetc/.lpkg.0.0\n", 0o644),
        f"{state}/journal": ("mv\tetc/.lpkg.0.0\tetc/new\n", 0o644)})
    with disk.booted() as console:
        assert "lpkg-finish: finishing what an earlier lpkg had begun" in console.text
        assert console.check("cat /etc/new") == "new\n"
        assert console.run(f"ls /{state}/journal /{state}/staged 2>/dev/null") == (1, "")


def test_what_docs_howto_says_can_be_typed(index, tmp_path):
    """Every block of `sh`, in their order, on one machine with an empty second disk."""
    text = (ROOT / "docs/howto.md").read_text()
    sections = {part.partition("\n")[0]: re.findall("```sh\n(.*?)```", part, re.DOTALL)
                for part in text.split("\n## ")[1:]}
    disk = tmp_path / "empty"
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    answers = {}
    with booted(FULL, tmp_path, "-drive", f"if=virtio,format=raw,file={disk}") as console:
        del sections["A router"]                # it has another image, and is typed there
        for section, (block,) in ((name, blocks) for name, blocks in sections.items() if blocks):
            answers[section] = ""
            for line in block.splitlines():
                status, output = console.run(line, 60)
                assert status == 0, f"{section}: {line}\n{output}"
                answers[section] += output
        console.check("grep -q -x attic /proc/sys/kernel/hostname")
    assert "(wheel)" in answers["A user"]
    assert "inet 192.168.1.10/24" in answers["A static address"]
    assert re.search(" CES?T ", answers["The time zone"])
    assert "/mnt/data" in answers["A second disk"]
    assert "date >>/tmp/dates" in answers["A cron job"]
    assert "It works." in answers["A web page"]


# ---- a router ------------------------------------------------------------------------------------

# Which ports of ADDRESS answer, of those named: TCP ports that take a connection, UDP ports that
# say anything when asked for the address of page.example.
SCAN = """
import select, socket, sys, time
address, *ports = sys.argv[1:]
ports = sorted({port for text in ports for a, b in [(text + "-" + text).split("-")[:2]]
                for port in range(int(a), int(b) + 1)})
question = bytes.fromhex("123401000001000000000000") + b"\\4page\\7example\\0\\0\\1\\0\\1"
family, _, _, _, (host, _, *rest) = socket.getaddrinfo(address, 0, 0, socket.SOCK_DGRAM)[0]
poll, found = select.poll(), []
for first in range(0, len(ports), 400):
    asked = {}
    some = ports[first:first + 400]
    for name, port in [(name, port) for name in ("tcp", "udp") for port in some]:
        one = socket.socket(family, socket.SOCK_STREAM if name == "tcp" else socket.SOCK_DGRAM)
        one.setblocking(False)
        one.connect_ex((host, port, *rest))
        if name == "udp":
            one.send(question)
        poll.register(one, select.POLLOUT if name == "tcp" else select.POLLIN)
        asked[one.fileno()] = name, port, one
    end = time.monotonic() + 4
    while asked and time.monotonic() < end:
        for number, event in poll.poll(500):
            name, port, one = asked.pop(number)
            poll.unregister(number)
            if not event & (select.POLLERR | select.POLLHUP):
                found.append((name, port))
    for number in asked:
        poll.unregister(number)
for name, port in sorted(found):
    print(name, port)
"""
PORTS = "1-1024 1900 3128 5353 5355 8000 8080 8443 9000 10000".split()


class Outside:
    """The network outside of a router, in a namespace: at the tap `modem` its provider, with
    addresses and names; behind that the internet, a page at page.example."""

    SETUP = """
    mount --rbind /dev "$0/root/dev"
    ip link set lo up
    ip addr add 198.51.100.1/32 dev lo
    ip tuntap add modem mode tap
    ip link set modem up
    ip addr add 203.0.113.1/24 dev modem
    ip addr add 2001:db8:f::1/64 dev modem nodad
    cd "$0"
    python3 -m http.server 80 --bind 198.51.100.1 --directory page >pages.log 2>&1 &
    chroot root dnsmasq --conf-file=/dev/null --pid-file= --user=root --no-resolv --no-hosts \\
        --interface=modem --bind-interfaces --enable-ra --local=/example/ \\
        --host-record=page.example,198.51.100.1 \\
        --dhcp-range=203.0.113.100,203.0.113.100 --dhcp-range=2001:db8:f::,ra-only
    echo ready && exec sleep 100000"""

    def __init__(self, folder):
        self.folder = folder
        (folder / "page").mkdir(parents=True)
        (folder / "page/index.html").write_text("the page\n")
        (folder / "page/scan.py").write_text(SCAN)
        run_tool("lpkg", "--root", folder / "root", "--repo", BUILD / "repo", "--key",
                 BUILD / "repo/panux.pub", "--yes", "install", "basefs", "busybox", "dnsmasq")
        self.space = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec",
             self.SETUP, str(folder)], text=True, stdout=subprocess.PIPE)
        assert self.space.stdout.readline() == "ready\n"
        inner = pathlib.Path(f"/proc/{self.space.pid}/task/{self.space.pid}/children").read_text()
        self.enter = ["nsenter", "-t", inner.strip(), "--net"]

    def close(self):
        self.space.kill()
        self.space.wait()

    def check(self, *command):
        status, text = output_of(*self.enter, *command)
        assert status == 0, text
        return text

    def scan(self, address, *ports):
        """What answers at ADDRESS, as in ["tcp 22"]."""
        return self.check("python3", self.folder / "page/scan.py", address, *ports).splitlines()

    def visitors(self):
        """Who fetched the page, in their order."""
        return re.findall(r'^(\S+) - - .*"GET / ', (self.folder / "pages.log").read_text(), re.M)

    @contextlib.contextmanager
    def router(self, image, **more):
        with running(image, self.folder, prefix=self.enter, SYSTEM="router",
                     NETDEV="tap,ifname=modem,script=no,downscript=no", **more) as console:
            console.expect("login: ", BOOT_LIMIT)       # a disk's console shows nothing before it
            yield console.log_in_again()

    @contextlib.contextmanager
    def behind(self, image):
        """A machine at the second port of the router that runs from IMAGE."""
        folder = self.folder / "behind"
        folder.mkdir(exist_ok=True)
        console = Console(
            FULL, folder, *with_more(FULL, folder, {}), prefix=self.enter, SYSTEM="full",
            NETDEV=f"stream,server=off,addr.type=unix,addr.path={image}/inside")
        try:
            yield console.log_in()
        finally:
            console.stop_watching()


def make_router(folder, *settings):
    """Make the image in FOLDER as `make image SYSTEM=router` does."""
    status, text = output_of("make", "image", "SYSTEM=router", f"image={folder}", "CONF=/dev/null",
                             *settings, cwd=ROOT)
    assert status == 0, text
    return folder


Routed = collections.namedtuple("Routed", "outside router inner")


@pytest.fixture(scope="module")
def routed(everything, tmp_path_factory):
    """A router of the image as it is, what is outside, and a machine inside."""
    folder = tmp_path_factory.mktemp("routed")
    image = make_router(folder / "image")
    outside = Outside(folder)
    try:
        with outside.router(image) as router, outside.behind(image) as inner:
            yield Routed(outside, router, inner)
    finally:
        outside.close()


INSIDE = "192.168.77.1"
# The router's addresses outside: of a lease, of its provider's IPv6, and of the cable.
OUTSIDE = ("203.0.113.100", "2001:db8:f:0:5054:ff:fe12:3456", "fe80::5054:ff:fe12:3456%modem")


def address_of(inner):
    return re.search(r"inet (\S+)/", inner.check("ip addr show dev eth0"))[1]


def check_serves(routed, inside=INSIDE, outside=OUTSIDE[0], name="panux"):
    """A machine inside has its address and names of the router, and the page through it."""
    inner, before = routed.inner, len(routed.outside.visitors())
    inner.check("linitctl restart network 2>/dev/null")
    network = inside.rpartition(".")[0] + "."
    assert address_of(inner).startswith(network)
    assert f"default via {inside} dev eth0" in inner.check("ip route")
    assert inner.check("grep -v '#' /etc/resolv.conf") == f"search lan\nnameserver {inside}\n"
    assert f"Address: {inside}\n" in inner.check("nslookup router")
    assert f"Address: {network}" in inner.check(f"nslookup {name}.lan")
    assert inner.check("wget -T 20 -q -O - http://page.example/") == "the page\n"
    assert routed.outside.visitors()[before:] == [outside]


def check_answers(routed, outside=OUTSIDE, ports=(), inside=INSIDE):
    """What answers at the router: PORTS to who is outside; to who is inside, ssh and names."""
    for address in outside:
        expected = [f"tcp {port}" for port in ports if ":" not in address]
        assert routed.outside.scan(address, *PORTS) == expected
    routed.inner.check("[ -e /tmp/scan.py ] || wget -q -P /tmp http://page.example/scan.py")
    status, text = routed.inner.run(f"python3 -IS /tmp/scan.py {inside} {' '.join(PORTS)}", 60)
    assert (status, text.split("\n")) == (0, ["tcp 22", "tcp 53", "udp 53", ""])


@pytest.mark.long
def test_a_router_is_small_and_serves_what_is_inside(routed):
    image = routed.outside.folder / "image"
    assert sum((image / name).stat().st_size for name in ("vmlinuz", "initramfs")) < 16_000_000
    check_serves(routed)


@pytest.mark.long
def test_s65_a_router_does_not_answer_outside(routed):
    """By IPv4 and IPv6; nor does it take who is outside to a machine inside, or listens there."""
    check_answers(routed)
    address = address_of(routed.inner)
    assert address.startswith("192.168.77.")
    routed.outside.check("ip", "route", "replace", "192.168.77.0/24", "via", OUTSIDE[0])
    assert routed.outside.scan(address, "80") == routed.outside.scan(INSIDE, "22", "53") == []
    assert "tcp 80" in routed.inner.check(f"python3 -IS /tmp/scan.py {address} 80")
    listening = routed.router.check("netstat -ltn | grep -v ' 127.0.0.1:\\| ::1:\\|fe80::'")
    assert sorted(re.findall(r" (\S+:\d+) ", listening)) == ["0.0.0.0:22", f"{INSIDE}:53", ":::22"]


@pytest.mark.long
def test_s62_no_user_can_change_the_top_of_a_router(routed):
    check_modes(routed.router)


@pytest.mark.long
def test_a_router_whose_network_restarts(routed):
    """A mistake in the line of the interface outside costs that one, and is named."""
    routed.router.check("linitctl restart network 2>/dev/null")
    check_serves(routed)
    routed.router.check("echo 'eth0 203.0.113.5/99' >>/etc/network")
    status, text = routed.router.run("linitctl restart network 2>&1")
    assert status == 1 and "/etc/network: eth0 can't be set up with: 203.0.113.5/99\n" in text
    check_answers(routed)
    routed.router.check("sed -i '$d' /etc/network; linitctl restart network 2>/dev/null")
    check_serves(routed)


@pytest.mark.long
def test_a_router_whose_firewall_is_broken_lets_nothing_in(routed):
    router = routed.router
    router.check("cp /etc/firewall /tmp; sed -i s/ctstate/ctstat/ /etc/firewall; iptables -F")
    status, text = router.run("linitctl restart firewall 2>&1")
    assert status == 1 and "/etc/firewall is not in force, and nothing comes in" in text
    assert routed.outside.scan(OUTSIDE[0], "22", "53") == []
    assert routed.inner.run(f"python3 -IS /tmp/scan.py {INSIDE} 22 53")[1] == ""
    router.check("cp /tmp/firewall /etc; linitctl restart firewall 2>/dev/null")
    check_serves(routed)


@pytest.mark.long
def test_what_docs_howto_says_of_a_router_can_be_typed(routed):
    section = (ROOT / "docs/howto.md").read_text().partition("\n## A router\n")[2]
    blocks = re.findall("```sh\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    static, other, ssh, machine = blocks

    def enter(block):
        for line in block.splitlines():
            status, text = routed.router.run(f"{line} 2>&1", 60)
            assert status == 0, f"{line}\n{text}"

    enter(static)
    check_serves(routed, outside="203.0.113.5")
    enter(other)
    check_serves(routed, "10.1.2.1", "203.0.113.5")
    check_answers(routed, ["203.0.113.5", *OUTSIDE[1:]], inside="10.1.2.1")
    enter(ssh)
    check_answers(routed, ["203.0.113.5", *OUTSIDE[1:]], [22], "10.1.2.1")
    enter(machine)
    check_serves(routed, "10.1.2.1", "203.0.113.5", "box")
    assert address_of(routed.inner) == "10.1.2.10"
    page = "import urllib.request as r; print(r.urlopen('http://203.0.113.5:8080/').read())"
    assert "This is a Panux device" in routed.outside.check("python3", "-c", page)
    assert routed.outside.scan("203.0.113.5", *PORTS) == ["tcp 22", "tcp 8080"]


@pytest.mark.long
def test_a_router_on_a_disk_keeps_what_was_changed(everything, tmp_path):
    image = make_router(tmp_path / "image", "PACKAGES=linux")
    outside = Outside(tmp_path)
    try:
        with outside.router(image, terminal=True) as router:
            line = "eth0 203.0.113.9/24 via 203.0.113.1 dns 203.0.113.1"
            router.check(f"echo '{line}' >>/etc/network")
            router.send("reboot")
            router.expect("login: ", BOOT_LIMIT)
            router.log_in_again()
            with outside.behind(image) as inner:
                routed = Routed(outside, router, inner)
                check_serves(routed, outside="203.0.113.9")
                check_answers(routed, ["203.0.113.9", *OUTSIDE[1:]])
    finally:
        outside.close()


# -- its settings, without what only `make all` builds

@pytest.mark.parametrize("name, program", [
    ("firewall", "iptables-restore"), ("firewall6", "ip6tables-restore")])
def test_the_router_s_rules_are_right(name, program):
    """As they are, and with each line that can be allowed."""
    rules = (ROOT / "world/router/etc" / name).read_text()
    for text in (rules, re.sub("(?m)^#-A", "-A", rules)):
        done = subprocess.run(["unshare", "--net", f"/usr/sbin/{program}", "--test"], input=text,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert (done.returncode, done.stdout) == (0, "")
    assert "\n#-A" in rules


def test_boot_a_router_s_two_ports(index, files, tmp_path):
    """One by DHCP, one with its address, packets go between; one's own FILES come after."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image/disk.img").write_text("of other PACKAGES\n")
    status, text = make_image(tmp_path / "image", FULL, SYSTEM="router", FILES=files,
                              SERVICES="hostname network sysctl getty")
    assert status == 0, text
    with tarfile.open(tmp_path / "image/rootfs.tar.gz") as tree:
        assert tree.getmember("etc/firewall").mode == tree.getmember("etc/network").mode == 0o644
        assert tree.getmember("etc/sysctl.d").mode == 0o755
        assert tree.extractfile("etc/profile").read() == (files / "etc/profile").read_bytes()
    with running(tmp_path / "image", tmp_path, SYSTEM="router", SERVICES="dropbear") as console:
        console.log_in()
        assert "inet 10.0.2.15/24" in console.check("ip addr show dev eth0")
        assert f"inet {INSIDE}/24" in console.check("ip addr show dev eth1")
        assert console.check("sysctl -n net.ipv4.ip_forward") == "1\n"
    assert "run     ssh" not in console.text, "its ssh answers inside alone"


# ---- power cuts ----------------------------------------------------------------------------------
#
# lpkg works on an ext4 of a machine in QEMU, and QEMU is killed: what the machine had in memory and
# had not written is lost. QEMU also records each write and flush of the disk, so that one run gives
# the disks of further cuts: at any earlier write, with a drive that had some of what it was given
# since the last flush only in its own cache. Each disk is recovered by lpkg and, as a copy, by the
# shell; then it must hold the old system or the new one.

# What mount is told: what a user has, and what forgives least.
MOUNTS = ("defaults", "data=writeback,noauto_da_alloc,commit=1")
# What /proc/sys/vm is told: nothing, to write only what lpkg syncs, to write all very soon.
WRITEBACKS = {"usual": {}, "lazy": {"writeback_centisecs": 0, "background_ratio": 90, "ratio": 95},
              "eager": {"writeback_centisecs": 5, "expire_centisecs": 5}}
# On the machine: our script, which Python keeps compiled only when it imports it.
LPKG = ("python3 -IS -c 'import sys; sys.path.append(\"/tmp\"); import lpkg; "
        "sys.exit(lpkg.main())'")


def tree_of(version, part, files):
    """A package's FILES: some stay, most change, come or go with the VERSION; a symlink turns."""
    text = b"%d\n" % version
    tree = {f"usr/lib/{part}/{number % 16}/{number}": text * (number % 99) * 5
            for number in range(files) if number % 8 != version}
    same = {f"usr/share/{part}/{number}": b"the same\n" * number for number in range(files // 8)}
    return {**tree, **same, f"etc/{part}.conf": text, f"etc/{part}.mine": b"as given\n",
            f"bin/{part}": (text, 0o4755), f"bin/{part}-link": f"-> {part}{version}",
            f"usr/only{version}/{part}/deep/file": b"here\n", f"var/{part}/{version}": None}


class Systems(World):
    """A signed repository, and for each KIND of transaction a disk that holds the repository and a
    root in which it is to happen."""
    KINDS = {"install": ("one", "install two"), "upgrade": ("one two", "upgrade"),
             "remove": ("one two", "remove two")}
    files = 600         # of each of the two packages: enough for kills to hit every step

    def __init__(self, folder, keys):
        super().__init__(folder, keys)
        self.seconds = {}               # KIND -> how long it takes when nothing cuts it
        self.disks, self.systems = {}, {}
        self.offer(1)
        for kind, (names, _) in self.KINDS.items():
            root = folder / kind / "root"
            root.parent.mkdir()
            self.do("install", *names.split(), root=root).ok()
            (root / "etc/one.mine").write_text("changed here\n")
        self.offer(2)
        for kind in self.KINDS:
            self.make_disk(kind)

    def offer(self, version):
        """Have VERSION of both packages in the repository."""
        parts = {part: {"conffiles": [f"etc/{part}.conf", f"etc/{part}.mine"],
                        "owners": {f"usr/share/{part}/7": "12:34:0640"}} for part in ("one", "two")}
        trees = {part: tree_of(version, part, self.files) for part in parts}
        self.pack(trees, f"{version}-0", **parts)
        self.index()

    def make_disk(self, kind):
        """Make the disk of KIND, and know what it holds before and after."""
        folder = self.folder / kind
        for path in (self.repo, self.key):
            output_of("cp", "-a", path, folder)
        self.disks[kind] = self.folder / f"{kind}.disk"
        status, text = output_of("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0",
                                 "-d", folder, self.disks[kind], "64M")
        assert status == 0, text
        old = self.contents(folder / "root")
        self.do(*self.KINDS[kind][1].split(), root=folder / "root").ok()
        self.systems[kind] = {"old": old, "new": self.contents(folder / "root")}
        assert len({str(system) for system in self.systems[kind].values()}) == 2

    def contents(self, root):
        return contents(root)

    def command(self, kind):
        """What is typed on the machine."""
        repository = f"--repo /mnt/repo --key /mnt/{os.path.basename(self.key)} --arch x86_64"
        source = repository if kind != "remove" else ""
        return f"{LPKG} --root /mnt/root {source} --yes {self.KINDS[kind][1]}"


def contents(root):
    """PATH -> all that must be of the old or the new system in ROOT, the indexes seen included; but
    not where the repository was, nor a symlink's mode, from which some kernels take the umask."""
    serials = root / load_tool("lpkg").SERIALS
    found = {**snapshot(root), "serials": serials.read_bytes() if serials.exists() else None}
    for path, what in found.items():
        if path == load_tool("lpkg").ORIGINS:       # NAME, SHA-256, repository
            found[path] = (*what[:3], re.sub(rb"(?m)\t[^\t\n]*$", b"", what[3]))
        elif os.path.islink(root / path):
            found[path] = what[3]
    return found


def differing(one, two):
    """The paths whose contents() are not the same."""
    return sorted(path for path in {*one, *two} if one.get(path) != two.get(path))


@pytest.fixture(scope="module")
def systems(keys, tmp_path_factory):
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("only root can mount the disk that a power cut left")
    return Systems(tmp_path_factory.mktemp("systems"), keys)


class Recorded:
    """What the disk of a machine in QEMU was asked for, and the disks that a cut of the power would
    have left: START is that disk as it was at first."""

    def __init__(self, start, folder):
        self.start, self.folder = start, folder
        self.disk, self.log = folder / "disk", folder / "log"
        self.node = (f"driver=blklogwrites,file.driver=file,file.filename={self.disk},"
                     f"log.driver=file,log.filename={self.log}")
        self.begun = 0                  # requests to the disk before lpkg began
        self.done = None                # and before it said that it was done, if it did
        self.requests = []

    def begin(self):
        """Make the disk that QEMU is to use, as NODE says."""
        output_of("cp", "--sparse=always", self.start, self.disk)
        self.log.touch()

    def moments(self, count, chance):
        """COUNT numbers of requests before which to cut: half of them at the end of a flush."""
        every = range(self.begun, len(self.requests) + 1)
        flushed = [number for number in every if not self.requests[number - 1]]
        count = min(count, len(every))
        some = chance.sample(flushed, min(count // 2, len(flushed)))
        return sorted(some + chance.sample(every, count - len(some)))

    def disk_at(self, moment, chance):
        """The disk of a cut before the request MOMENT: what came before the last flush is on it,
        and of the rest what the drive had written by chance."""
        path = self.folder / f"disk-{moment}"
        output_of("cp", "--sparse=always", self.start, path)
        flushed = max(number for number in range(moment) if not self.requests[number])
        likely = chance.choice((0, 0.5, 1))
        with open(path, "r+b") as disk:
            for number, request in enumerate(self.requests[:moment]):
                if request and (number < flushed or chance.random() < likely):
                    disk.seek(request[0])
                    disk.write(request[1])
        return path


class PowerCut(Recorded):
    """A transaction of KIND, by the lpkg of SCRIPT, on a machine whose power is cut."""

    def __init__(self, systems, kind, folder, mount=MOUNTS[0], writeback="usual",
                 script=ROOT / "lpkg.py"):
        super().__init__(systems.disks[kind], folder)
        self.systems, self.kind = systems, kind
        self.script = pathlib.Path(shutil.copy(script, folder / "script"))
        self.mount, self.writeback = mount, writeback

    def run(self, seconds, linger=0):
        """Kill the machine SECONDS after lpkg began or, if that is sooner, LINGER after its end."""
        self.begin()
        with booted(
                FULL, self.folder, "-blockdev", f"node-name=disk,{self.node}",
                "-drive", f"if=none,id=script,format=raw,readonly=on,file={self.script}",
                "-device", "virtio-blk-pci,drive=disk", "-device", "virtio-blk-pci,drive=script",
        ) as console:
            self.prepare(console)
            self.transact(console, seconds, linger)
        self.requests = read_log(self.log)
        return self

    def prepare(self, console):
        """Mount the disk, and bring the script."""
        for name, value in WRITEBACKS[self.writeback].items():
            console.check(f"echo {value} >/proc/sys/vm/dirty_{name}")
        console.check(f"mount -t ext4 -o {self.mount} /dev/vda /mnt")
        self.bring_script(console)

    def bring_script(self, console):
        """Have lpkg compiled: the time that takes isn't worth a cut."""
        console.check(f"head -c {self.script.stat().st_size} /dev/vdb >/tmp/lpkg.py")
        console.check(f"{LPKG} --version && sync")

    def transact(self, console, seconds, linger):
        """Have lpkg at work for at most SECONDS."""
        self.begun = len(read_log(self.log))
        start = time.monotonic()
        console.send(self.systems.command(self.kind) + "; printf '<%s %s>\\n' ended $?")
        ended = None
        while not ended and time.monotonic() < start + seconds:
            assert console.read(start + seconds - time.monotonic()), console.text
            ended = re.search(r"<ended (\d+)>", console.text)
        if ended:
            assert ended[1] == "0", console.text
            self.done = len(read_log(self.log))
            self.systems.seconds.setdefault(self.kind, time.monotonic() - start)
            time.sleep(linger)

    def outcomes(self, disk):
        """What DISK holds after each recovery, as in 'new, finished', or what is wrong with it."""
        found = set()
        for recover in (by_lpkg, by_shell):
            copy = disk.with_suffix(f".{recover.__name__}")
            output_of("cp", "--sparse=always", disk, copy)
            with mounted(copy, self.folder / "mnt") as folder:
                how = recover(folder / "root")
                found.add(f"{self.system_of(folder / 'root')}, {how}")
                output_of("sync", "-f", folder)
            # A name space that was made meanwhile has it mounted still, and its journal to replay.
            output_of("e2fsck", "-p", "-E", "journal_only", copy)
            status, text = output_of("e2fsck", "-fn", copy)
            assert status == 0, text
            copy.unlink()
        return found

    def system_of(self, root):
        """Which system ROOT holds: 'old' or 'new', or else which paths are of neither."""
        found = self.systems.contents(root)
        for name, system in self.systems.systems[self.kind].items():
            if found == system:
                done = run_lpkg("--root", root, "verify")
                return name if done.status == 0 else f"{name}, but {done.out}{done.err}"
        return "neither: " + "; ".join(
            f"not {name}: {' '.join(differing(found, system)[:9])}"
            for name, system in self.systems.systems[self.kind].items())

    def check(self, count, chance):
        """Recover the disk as it was left and those of COUNT further cuts; give what came out."""
        found = {len(self.requests): self.outcomes(self.disk)}
        for moment in self.moments(count, chance):
            disk = self.disk_at(moment, chance)
            found[moment] = found.get(moment, set()) | self.outcomes(disk)
            disk.unlink()
        return found

    def wrong(self, found):
        """What of FOUND must not be: neither old nor new, or old when lpkg had said it is done."""
        good = re.compile("(old|new), (as it was|undone|finished|finished by sh)")
        return {moment: outcomes for moment, outcomes in found.items() if not all(
            good.fullmatch(one) and (moment < (self.done or moment + 1) or one.startswith("new"))
            for one in outcomes)}


def by_lpkg(root):
    """Have the next lpkg recover ROOT, and give what it did."""
    done = run_lpkg("--root", root, "--yes", "remove", "no-such-package")
    if "no-such-package is not installed" not in done.err:
        return done.err
    return ("finished" if ": finishing what" in done.err else
            "undone" if ": undoing what" in done.err else "as it was")


def by_shell(root):
    """The same where a shell comes first, and is alone when there is something to finish."""
    committed = (root / load_tool("lpkg").JOURNAL).exists()
    status, text = output_of("sh", "-c", SHELL_FINISH, "sh", root)
    return by_lpkg(root) if not committed else "finished by sh" if status == 0 else text


@contextlib.contextmanager
def mounted(disk, folder):
    """The ext4 DISK, mounted at FOLDER: the kernel replays its journal."""
    folder.mkdir(exist_ok=True)
    status, text = output_of("mount", "-t", "ext4", "-o", "loop", disk, folder)
    assert status == 0, text
    try:
        yield folder
    finally:
        assert output_of("umount", folder) == (0, "")


def read_log(path):
    """What a disk was asked for, in order: (offset, bytes) of a write, () of a flush.

    PATH is what QEMU's blklogwrites wrote, in the format of Linux' dm-log-writes: after a sector of
    its own, for each request a sector that begins with where, how many sectors, flags and unused,
    64 bits each, and the data. A kill may leave the last request incomplete."""
    requests = []
    with open(path, "rb") as log:
        log.seek(512)
        while True:
            head = log.read(512)
            where, count, flags, _ = struct.unpack("<4Q", head[:32].ljust(32, b"\0"))
            assert flags in (0, 1), "a request that is neither a write nor a flush"
            data = log.read(count * 512)
            if not count and not flags & 1 or len(data) < count * 512:
                return requests
            requests.append((where * 512, data) if count else ())


def said(what, power_cut, found):
    """A line for who runs the tests with -rP."""
    counts = collections.Counter(one for outcomes in found.values() for one in outcomes)
    done = "done" if power_cut.done else "cut"
    seconds = power_cut.systems.seconds[power_cut.kind]
    print(f"{what}: {power_cut.kind} of {seconds:.1f} s, {power_cut.mount}, {power_cut.writeback}, "
          f"{done}, requests {power_cut.begun} to {len(power_cut.requests)}:",
          ", ".join(f"{count} x {one[:200]}" for one, count in sorted(counts.items())))


def test_s16_a_cut_of_the_power(systems, tmp_path):
    """One upgrade, cut as soon as lpkg says that it is done, and at some moments before."""
    power_cut = PowerCut(systems, "upgrade", tmp_path).run(BOOT_LIMIT)
    found = power_cut.check(5, random.Random(1))
    said("sample", power_cut, found)
    assert power_cut.done and not power_cut.wrong(found)


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_s16_the_power_cut_at_some_moment(systems, tmp_path, number):
    """NUMBER decides what is done, when it is cut and what was written until then."""
    chance = random.Random(number)
    kind = list(systems.KINDS)[number % 3]
    seconds = seconds_of(systems, kind, tmp_path / "whole") * chance.uniform(0.2, 1.2)
    writeback = chance.choice(list(WRITEBACKS))
    power_cut = PowerCut(systems, kind, tmp_path, chance.choice(MOUNTS), writeback)
    power_cut.run(seconds, chance.uniform(0, 3))
    found = power_cut.check(10, chance)
    said(f"{number}", power_cut, found)
    assert not power_cut.wrong(found)


def seconds_of(systems, kind, folder):
    """How long a machine of this speed takes for KIND."""
    if kind not in systems.seconds:
        folder.mkdir()
        PowerCut(systems, kind, folder).run(BOOT_LIMIT)
    return systems.seconds[kind]


@pytest.mark.long
@pytest.mark.parametrize("mount", MOUNTS)
def test_power_cuts_show_a_sync_that_is_missing(systems, tmp_path, mount):
    """The lpkg that commits what may not be on the disk is found out: so these tests can fail."""
    text = (ROOT / "lpkg.py").read_text()
    script = tmp_path / "careless.py"
    script.write_text(text.replace("    os.sync()\n    tx.root.publish(", "    tx.root.publish("))
    assert len(script.read_text()) == len(text) - len("    os.sync()\n")
    power_cut = PowerCut(systems, "upgrade", tmp_path, mount, "lazy", script).run(BOOT_LIMIT)
    found = power_cut.check(12, random.Random(1))
    said("without a sync", power_cut, found)
    assert power_cut.wrong(found)


# -- under lpkg-get

class GetSystems(Systems):
    """An upgrade by lpkg-get, from the repository as the machine reaches it at URL."""
    KINDS = {"upgrade": ("one two", "upgrade")}
    files = 64          # it starts some processes for each

    def __init__(self, folder, keys, url):
        self.url = url
        super().__init__(folder, keys)

    def make_disk(self, kind):
        repositories = self.folder / kind / "root/etc/lpkg/repos"
        repositories.write_text(repositories.read_text().replace(str(self.repo), self.url))
        super().make_disk(kind)

    def contents(self, root):
        """But for what lpkg and lpkg-get have for themselves, and the indexes seen."""
        kept = (load_tool("lpkg").INSTALLED, "var/lib/lpkg/world")
        return {path: what for path, what in contents(root).items() if path.startswith(kept)
                or path != "serials" and "/lpkg/" not in f"/{path}"}

    def command(self, kind):
        return "PATH=/tmp:$PATH LPKG_ROOT=/mnt/root lpkg-get upgrade"


class GetPowerCut(PowerCut):
    """The same by lpkg-get, which is in a tar."""

    def bring_script(self, console):
        console.check("tar -xf /dev/vdb -C /tmp && sync")


def lpkg_get_tar(folder):
    """A tar of lpkg-get with what must be beside it, and minisign."""
    for name in ("lpkg-get", "lpkg-get.awk", "lpkg-finish"):
        shutil.copy(ROOT / "initd" / name, folder)
    package = next(REPOSITORY.glob("minisign-[0-9]*.lpkg"))
    with tarfile.open(package) as packed:
        (folder / "minisign").write_bytes(packed.extractfile("usr/bin/minisign").read())
    (folder / "minisign").chmod(0o755)
    status, text = output_of("tar", "-cf", folder / "get.tar", "-C", folder, "minisign",
                             "lpkg-get", "lpkg-get.awk", "lpkg-finish")
    assert status == 0, text
    return folder / "get.tar"


@pytest.mark.long
def test_s16_a_cut_of_the_power_under_lpkg_get(everything, keys, serve, tmp_path):
    """One upgrade, cut as soon as lpkg-get says that it is done, and at some moments before."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("only root can mount the disk that a power cut left")
    for name in ("tools", "systems", "cut", "systems/repo"):
        (tmp_path / name).mkdir()
    url = from_device(serve(tmp_path / "systems/repo"))
    shutil.rmtree(tmp_path / "systems/repo")
    systems = GetSystems(tmp_path / "systems", keys, url)
    script = lpkg_get_tar(tmp_path / "tools")
    power_cut = GetPowerCut(systems, "upgrade", tmp_path / "cut", MOUNTS[1], "lazy", script)
    power_cut.run(BOOT_LIMIT)
    found = power_cut.check(20, random.Random(1))
    said("lpkg-get", power_cut, found)
    assert power_cut.done and not power_cut.wrong(found)


# -- while a whole system is upgraded in place

IN_PLACE = (*DISK, "musl", "dosfstools")
SERVICES = "clock crond getty grow hostname mounts network ntpd root seed sysctl syslogd"
EDITS = {"etc/profile": "alias mine=ls", "etc/init.d/crond": "# mine", "etc/hostname": "attic"}
SETTINGS = (*EDITS, "etc/fstab")
# How each says its version; a later build says a B for its last character.
VERSIONS = ("linitd --version; linitctl --version; lpkg --version; python3 -V; "
            "busybox 2>&1 | head -n 1; /usr/lib/libc.so 2>&1 | grep Version")


class InPlace(Recorded):
    """A machine whose disk has PACKAGES of a repository at URL, where UPGRADES then offers a later
    build of each. Its user types `lpkg upgrade`, and reboots: system A becomes B."""

    def __init__(self, folder, packages, upgrades, url, **settings):
        super().__init__(folder / "image/disk.img", folder)
        self.infos = {"A": upgrades.infos()}
        status, text = make_image(folder / "image", packages, O=folder, REPO_URL=url, **settings)
        assert status == 0, text
        self.give_room_and_a_console()
        upgrades.offer()
        self.infos["B"] = upgrades.infos()
        self.seen = {}                  # what the machine was when, and what it said

    def give_room_and_a_console(self):
        """Have the disk grow at its first boot, and init talk on the serial console."""
        os.truncate(self.start, 256 << 20)
        menu = self.folder / "menu"
        boot = f"{self.start}@@1M"
        text = output_of("mtype", "-i", boot, "::syslinux.cfg")[1]
        menu.write_text(text.replace(" console=tty0", ""))
        assert output_of("mcopy", "-o", "-i", boot, menu, "::syslinux.cfg")[0] == 0

    def run(self):
        """Upgrade it, and boot again."""
        self.begin()
        with running(self.start.parent, self.folder, "-action", "reboot=reset",
                     DRIVE=self.node) as console:
            self.log_in(console)
            for path, line in EDITS.items():
                console.check(f"echo '{line}' >>/{path}")
            self.look(console, "before")
            console.check("sync")
            self.begun = len(read_log(self.log))
            upgrade, audit, reboot = self.typed()
            console.send(f"{upgrade}; printf '<%s %s>\\n' ended $?")
            console.expect("Go on")
            console.send("y")
            self.seen["status"] = console.expect(r"<ended (\d+)>", BOOT_LIMIT)[1]
            self.done = len(read_log(self.log))
            self.seen["said"] = console.text
            self.seen["audit"] = console.check(audit)
            self.look(console, "after")
            console.send(reboot)
            self.log_in(console)
            self.look(console, "rebooted")
        self.requests = read_log(self.log)
        return self

    def typed(self):
        """What docs/howto.md says is to be typed."""
        text = (ROOT / "docs/howto.md").read_text()
        return re.findall("^# (.*)", text.partition("\n## An upgrade")[2].partition("```\n\n")[0],
                          re.MULTILINE)

    def log_in(self, console):
        console.expect("login: ", BOOT_LIMIT)
        console.log_in_again()

    def look(self, console, when):
        """Note what the machine is."""
        console.check("until linitctl wait boot; do sleep 1; done")
        fall_asleep(console)
        programs = [console.check("sha256sum /proc/1/exe")]
        daemons = {name: pid for name, (_, pid) in states(console).items() if pid != "-"}
        programs.append(console.check("sha256sum /proc/1/exe"))
        self.seen[when] = {
            "daemons": daemons, "pid 1": [text.split()[0] for text in programs],
            "system": self.system_of(console), "versions": console.check(VERSIONS),
            "crond": console.check("linitctl status crond | cat"),
            "booted": console.check("cat /proc/cmdline /proc/version"),
            "kernels": re.findall("[0-9a-f]{64}", console.check("sha256sum /boot/vmlinuz*"))}

    def system_of(self, console):
        """Which system the machine has, A or B; or what is wrong with it."""
        listed = console.check("lpkg list").splitlines()
        for name, infos in self.infos.items():
            if listed == [f"{info['name']} {info['version']}" for info in infos]:
                wrong = self.faults(console, name)
                return f"{name}, but {wrong}" if wrong else name
        return f"neither: {listed}"

    def faults(self, console, name):
        """What is not as system NAME has it; the files that were edited are as they were, and a new
        version lies beside those that have one."""
        wrong = changed_files(console, self.infos[name], SETTINGS)
        wrong += console.run("lpkg verify 2>/dev/null")[1].splitlines()
        wrong += [path for path, line in EDITS.items()
                  if console.check(f"tail -n 1 /{path}") != line + "\n"]
        left = console.run("cd /var/lib/lpkg && ls -d journal staged queue 2>/dev/null; "
                           "find / /boot -xdev -name '.lpkg.*' -o -name '*.lpkg-new'")[1].split()
        beside = ["/etc/init.d/crond.lpkg-new", "/etc/profile.lpkg-new"] if name == "B" else []
        return wrong + sorted({*left} ^ {*beside})

    def after_a_cut(self, moment, chance):
        """(system, by what) after a cut at MOMENT, a boot and the next lpkg; where that is A, and
        it is upgraded again, (system, that)."""
        folder = self.folder / f"cut-{moment}"
        folder.mkdir()
        self.disk_at(moment, chance).rename(folder / "disk.img")
        with running(folder, folder) as console:
            self.log_in(console)
            how = ["init's shell"] * ("lpkg-finish: finishing" in console.text)
            said = console.run("lpkg --yes remove no-such-package 2>&1")[1]
            how += [f"lpkg, {what}" for what in re.findall("(finishing|undoing) what", said)]
            system = self.system_of(console)
            if system == "A":
                console.check("lpkg --yes upgrade 2>&1")
                system += f", upgraded {self.system_of(console)}"
            console.send("poweroff")
            ends_soon(console)
        shutil.rmtree(folder)
        return system, " and ".join(how) or "nothing was to do"


@pytest.fixture(scope="module")
def in_place(index, tmp_path_factory):
    """The small disk; of each package a later build, which does the same."""
    folder = tmp_path_factory.mktemp("in-place")
    with serving(functools.partial(QuietHandler, directory=str(folder / "repo"))) as url:
        upgrades = Upgrades(folder, IN_PLACE)
        yield InPlace(folder, IN_PLACE, upgrades, from_device(url), SERVICES=SERVICES).run()


def check_in_place(machine):
    """The system that was upgraded is B; nothing was restarted, but PID 1 is the new linitd."""
    before, after, rebooted = (machine.seen[when] for when in ("before", "after", "rebooted"))
    said = machine.seen["said"]
    assert machine.seen["status"] == "0", said
    assert [one["system"] for one in (before, after, rebooted)] == ["A", "B", "B"]
    pid_1 = {name: [hash_in(infos, path) for path in ("sbin/linit-idle", "usr/bin/python3.11")]
             for name, infos in machine.infos.items()}
    assert before["pid 1"] == pid_1["A"] != pid_1["B"] == after["pid 1"] == rebooted["pid 1"]
    assert before["daemons"] == after["daemons"]
    assert f"crond is running, pid {after['daemons']['crond']}," in after["crond"]
    for path in ("etc/profile", "etc/init.d/crond"):
        assert f"/{path}: was changed here and stays; the new one is {path}.lpkg-new;" in said
        assert f"{path}: new version\n" in machine.seen["audit"]
    assert said.count("linitctl restart") == 1 and "runs the new clock, crond, " in said
    assert said.count("reboot to run the new kernel") == 1
    (old,), (new, kept) = before["kernels"], after["kernels"]
    assert kept == old != new and rebooted["kernels"] == [new, old]
    assert "BOOT_IMAGE=/vmlinuz " in rebooted["booted"]
    later = re.sub(r"(?m)^(\S+ v?[\d.]+\.)\d+", r"\1B", before["versions"])
    assert after["versions"] == rebooted["versions"] == later != before["versions"]


@pytest.mark.bios
def test_boot_a_system_that_is_upgraded_in_place(in_place):
    check_in_place(in_place)


def check_a_cut(machine, number, count):
    """Cut it at some moment in the part NUMBER of COUNT."""
    chance = random.Random(number)
    every = range(machine.begun, len(machine.requests) + 1)
    moment = chance.choice(every[number * len(every) // count:(number + 1) * len(every) // count])
    system, how = machine.after_a_cut(moment, chance)
    print(f"{number}: cut at request {moment} of {machine.begun} to {machine.done}, and on to "
          f"{len(machine.requests)}: {system}, by {how}")
    assert system == "B" or system == "A, upgraded B" and moment < machine.done


@pytest.mark.parametrize("number", range(3))
def test_s17_a_cut_while_all_is_upgraded_in_place(in_place, number):
    check_a_cut(in_place, number, 3)


# What makes a later build of a recipe: text of a file, and another in its place.
CHANGES = {
    "initd/init": ("\nexport PATH=", "\n# another build\nexport PATH="),
    "initd/crond": ("\nrun() {", "\n# another build\nrun() {"),
    "recipes/core/basefs/etc/profile": ("\numask 022", "\n# another build\numask 022"),
    "linitd.py": ('VERSION = "0.2"', 'VERSION = "0.B"'),
    "linitctl.py": ('VERSION = "0.2"', 'VERSION = "0.B"'),
    "recipes/core/linit/pkgen.yaml": ("version: 0.2", "version: 0.B"),
    "lpkg.py": ('VERSION = "0.1"', 'VERSION = "0.B"'),
    "recipes/core/lpkg/pkgen.yaml": ("version: 0.1", "version: 0.B"),
    "recipes/core/musl/pkgen.yaml": (
        '{{unpack "musl"}}', '{{unpack "musl"}}\n    sed -i s/.$$/B/ musl/VERSION'),
    "recipes/core/busybox/pkgen.yaml": (
        '{{unpack "busybox"}}',
        '{{unpack "busybox"}}\n    sed -i "s/^SUBLEVEL = .*/SUBLEVEL = B/" busybox/Makefile'),
    "recipes/core/python/pkgen.yaml": (
        '{{unpack "python"}}',
        '{{unpack "python"}}\n    sed -i "/PY_VERSION /s/.\\"$$/B\\"/" '
        'python/Include/patchlevel.h'),
    "recipes/libs/openssl/pkgen.yaml": (
        '{{unpack "openssl"}}',
        '{{unpack "openssl"}}\n    sed -i "s/^BUILD_METADATA=/&B/" openssl/VERSION.dat'),
    "recipes/kernel/linux/pkgen.yaml": ("KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_VERSION=2"),
}
# Of the recipes that have no other version, and python-ssl, which has python's.
REVISED = ("core/initd", "core/basefs", "core/musl", "core/busybox", "core/python", "libs/openssl",
           "lang/python-ssl", "kernel/linux")
PC = ("basefs", "busybox", "initd", "libssl", "linit", "linux", "lpkg", "musl", "python-ssl")


class Rebuilds(Upgrades):
    """The same, whose later builds are those of recipes that were changed: of PC alone."""

    def offer(self):
        tree, out = self.folder / "tree", self.folder / "out"
        for name in ("Makefile", "pkggen.py", "lpkg.py", "linitd.py", "linitctl.py"):
            tree.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tree)
        for name in ("initd", "recipes", "world"):
            shutil.copytree(ROOT / name, tree / name)
        shutil.copytree(BUILD / ARCH / "mk", out / ARCH / "mk")
        shutil.copytree(BUILD / "repo", out / "repo")
        if (BUILD / "venv").exists():
            (out / "venv").symlink_to(BUILD / "venv")
        for name, (old, new) in CHANGES.items():
            text = (tree / name).read_text()
            assert text.count(old) == 1, f"{name} has not {old} once"
            (tree / name).write_text(text.replace(old, new))
        for name in REVISED:
            path = tree / "recipes" / name / "pkgen.yaml"
            path.write_text(re.sub("(?m)^(version: .*)$", r"\1\nbuild: 1", path.read_text()))
        done = subprocess.run(
            ["make", "world", "CONF=/dev/null", f"PKG={' '.join(PC)}", f"O={out}",
             f"SOURCES={os.environ.get('SOURCES') or BUILD / 'sources'}", f"KEYS={self.folder}"],
            cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout[-10000:]
        for entry in json.loads((out / "repo" / ARCH / "index.json").read_text())["packages"]:
            path = out / "repo" / ARCH / urllib.parse.unquote(entry["file"])
            if entry["name"] in PC and path.name != self.files[entry["name"]].name:
                self.files[entry["name"]] = path
                shutil.copy(path, self.repository)
        self.sign()


@pytest.fixture(scope="module")
def pc_in_place(everything, tmp_path_factory):
    """The disk of a PC, whose kernel, musl, busybox, Python, OpenSSL, linit, lpkg and initd then
    are built from changed recipes."""
    folder = tmp_path_factory.mktemp("pc-in-place")
    status, text = output_of("make", "-s", "--eval", "show: ; @echo $(pc)@$(pc_services)", "show",
                             cwd=ROOT)
    packages, _, services = text.strip().partition("@")
    assert status == 0 and services, text
    with serving(functools.partial(QuietHandler, directory=str(folder / "repo"))) as url:
        upgrades = Rebuilds(folder, packages.split())
        yield InPlace(folder, packages.split(), upgrades, from_device(url), SERVICES=services,
                      KERNEL="linux").run()


@pytest.mark.long
def test_boot_a_pc_that_is_upgraded_in_place(pc_in_place):
    check_in_place(pc_in_place)
    assert [pc_in_place.seen[when]["booted"].count(" #2 SMP ")
            for when in ("before", "after", "rebooted")] == [0, 0, 1]


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_s17_a_cut_while_a_pc_is_upgraded_in_place(pc_in_place, number):
    check_a_cut(pc_in_place, number, 20)
