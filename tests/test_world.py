"""The whole: real builds in real containers, the signed repository, the image in QEMU.

`make test` runs this after `make world`, under world/engine, so that a Docker engine answers.
"""
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, environment, pythons, run_tool

ARCH = os.environ.get("ARCH") or os.uname().machine
BUILD = pathlib.Path(os.environ.get("O") or "build")
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD
REPOSITORY = BUILD / "repo" / ARCH
IMAGE = BUILD / ARCH / "image"
BOOT_LIMIT = 120        # seconds in which a slow machine's QEMU must have booted
BASE = ("basefs", "busybox", "initd")


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
    """The info.json of a package of the repository."""
    entry = next(entry for entry in index["packages"] if entry["name"] == name)
    with tarfile.open(REPOSITORY / entry["file"]) as tar:
        return json.load(tar.extractfile(".lpkg/info.json"))


def test_second_world_has_nothing_to_do(index):
    status, text = output_of("make", "world", cwd=ROOT)
    assert status == 0, text
    assert "nothing to be done" in text
    assert "build " not in text and "engine" not in text and "image " not in text


def test_every_recipe_is_a_package_of_the_index(index):
    expected = set()
    for path in ROOT.glob("recipes/*/*/pkgen.yaml"):
        expected |= set(json.loads(run_tool("pkggen", "meta", path).stdout)["packages"])
    assert {entry["name"] for entry in index["packages"]} == expected
    for entry in index["packages"]:
        assert entry["summary"], f"{entry['name']} has no summary"
        data = (REPOSITORY / entry["file"]).read_bytes()
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
    assert sum(file["type"] == "link" for file in info["files"]) > 200
    assert sum(info_of(index, name)["size"] for name in BASE) < 1_100_000


# ---- lpkg.py copied alone, over http -------------------------------------------------------------

class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """A function that serves a folder over HTTP on loopback and gives its URL."""
    servers = []

    def start(folder):
        def handler(*arguments):
            return QuietHandler(*arguments, directory=str(folder))

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


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
    for file in info_of(index, "busybox")["files"]:
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
    assert status == 1 and "refused" in text and "Traceback" not in text
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
    ])
    status, text = tree.world()
    assert status == 0, text
    info = json.load(tree.open("owned").extractfile(".lpkg/info.json"))
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
    tree.recipe("behind", ["true"], builddependencies=["bad"])
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
        tree.recipe(name, ["sleep 3", f"echo {name} >out/{name}/file"])
    status, text = tree.world("-j2")
    assert status == 0, text
    order = re.findall(r"^(build|built) ", text, re.MULTILINE)
    assert order == ["build", "build", "built", "built"]


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


# ---- the private engine --------------------------------------------------------------------------

def wait_until(condition, limit):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(0.1)


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


def test_engine_that_does_not_answer_is_one_line(tmp_path):
    variables = environment(O=tmp_path, DOCKER_HOST="unix:///nonexistent/docker.sock")
    status, text = output_of(ROOT / "world/engine", "true", env=variables)
    assert status == 1 and text.count("\n") == 1
    assert "DOCKER_HOST=unix:///nonexistent/docker.sock does not answer" in text


# ---- the image in QEMU ---------------------------------------------------------------------------

class Console:
    """A machine in QEMU, spoken to over its serial console."""

    def __init__(self, port):
        self.text = ""
        self.seen = 0
        self.process = subprocess.Popen(
            [ROOT / "world/qemu"], env=environment(O=BUILD, ARCH=ARCH, PORT=port), cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

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
        return int(match[2]), match[1]

    def check(self, command):
        status, text = self.run(command)
        assert status == 0, f"{command}: {status}\n{text}"
        return text


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def machine(port, index):
    console = Console(port)
    try:
        console.expect("init: boot is running", BOOT_LIMIT)
        console.send("")
        console.expect("login: ")
        console.send("root")
        console.expect("# ")
        console.send("stty -echo; dmesg -n 1; PS1=")
        console.check("true")
        yield console
    finally:
        console.process.kill()
        console.process.wait()


def fetch_page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
        return reply.read().decode()


def test_boot_runs_every_service(machine):
    names = machine.check("ls --color=never /etc/rc.d").split()
    assert sorted(names) == ["getty", "hostname", "httpd", "network", "syslogd"]
    for name in [*names, "loopback", "boot"]:
        assert machine.check(f"/etc/init.d/{name} status").strip() == f"{name} is running"


def test_boot_answers_http_from_outside(machine, port):
    assert "This is a Panux device" in fetch_page(port)


def test_boot_pids_are_what_proc_says(machine):
    assert machine.check("cat /proc/1/cmdline | tr '\\0' ' '").strip() == "/bin/sh /init"
    assert machine.check("readlink /proc/1/exe").strip() == "/bin/busybox"
    for name in ("httpd", "syslogd"):
        command = f"cat /proc/$(cat /run/linit/{name}.pid)/cmdline | tr '\\0' ' '"
        assert machine.check(command).startswith(name)
    assert machine.check("cat /proc/sys/kernel/hostname").strip() == "panux"


def test_boot_has_an_address_and_a_name_server(machine):
    assert "inet 10.0.2.15/24" in machine.check("ip addr show eth0")
    assert "inet 127.0.0.1/8" in machine.check("ip addr show lo")
    assert "default via 10.0.2.2" in machine.check("ip route")
    assert "nameserver 10.0.2.3" in machine.check("cat /etc/resolv.conf")


def test_boot_logs_to_syslog(machine):
    machine.check("logger hello from the test")
    assert "hello from the test" in machine.check("sleep 1; cat /var/log/messages")


def test_boot_restarts_a_daemon_that_dies(machine):
    before = machine.check("cat /run/linit/syslogd.pid").strip()
    machine.check(f"kill -9 {before}")
    after = machine.check("sleep 2; cat /run/linit/syslogd.pid").strip()
    assert after != before
    assert machine.check(f"cat /proc/{after}/comm").strip() == "syslogd"


def test_boot_stops_and_starts_a_service(machine, port):
    machine.check("/etc/init.d/httpd stop")
    with pytest.raises((OSError, urllib.error.URLError)):
        fetch_page(port)
    machine.check("/etc/init.d/httpd start; sleep 1")
    assert "This is a Panux device" in fetch_page(port)


def test_boot_files_are_those_of_the_packages(machine, index):
    """Type, mode, owner, size, content and target of every file, read on the machine itself."""
    files = {file["path"]: file for name in BASE for file in info_of(index, name)["files"]}
    listing = machine.check("cd / && find . -xdev -exec stat -c '%F|%a|%u|%g|%s|%n|%N' {} +")
    seen = {}
    for line in listing.splitlines():
        kind, mode, uid, gid, size, path, shown = line.split("|")
        seen[path[2:]] = (kind, int(mode, 8), int(uid), int(gid), int(size), shown)
    sums = machine.check("cd / && find . -xdev -type f -exec sha256sum {} +")
    digests = {line[66:][2:]: line[:64] for line in sums.splitlines() if len(line) > 66}
    settings = {"etc/hostname"}                     # world/image writes it
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
    assert not wrong
    assert len(files) > 250


def test_boot_hang_ends_with_the_console_text(machine):
    with pytest.raises(pytest.fail.Exception, match="(?s)never showed.*init: boot is running"):
        machine.expect("this is never printed", 1)


def test_boot_poweroff_ends_qemu_by_itself(machine):
    machine.send("poweroff")
    stopped = machine.expect("init: poweroff.*?Power down", 60)[0]
    assert machine.process.wait(30) == 0
    order = re.findall(r"init: (\w+) is stopped", stopped)
    assert order.index("httpd") < order.index("network") < order.index("loopback")
