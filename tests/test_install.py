"""The installed form of the tools (world/install), and our own Python, in a root of its own.

What needs packages of build/repo is skipped where they aren't built; `make test` builds them first.
"""
import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import zipfile

import pytest
from conftest import ROOT, environment, pythons, run_tool

ARCH = os.environ.get("ARCH") or os.uname().machine
BUILD = pathlib.Path(os.environ.get("O") or "build")
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD
REPOSITORY = BUILD / "repo" / ARCH
EACH_PYTHON = pytest.mark.parametrize("python", pythons().values(), ids=list(pythons()))
TOOLS = sorted(path.name for path in ROOT.glob("*.py"))


def run(*command, **options):
    """(status, stdout, stderr) of COMMAND."""
    options = {"stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=120, **options,
    )
    return done.returncode, done.stdout, done.stderr


def install(source, folder, python, flags="-IS"):
    """Install SOURCE below FOLDER for PYTHON and give (stub, .pyc)."""
    status, out, err = run(
        ROOT / "world/install", source, "/", python, f"BINDIR={folder}/bin",
        f"LIBDIR={folder}/lib", f"INTERPRETER={python} {flags}",
    )
    assert (status, out, err) == (0, "", "")
    name = pathlib.Path(source).stem
    return folder / "bin" / name, folder / "lib" / f"{name}.pyc"


def is_unchecked(pyc):
    """Whether the bytes of a .pyc say that its hash is never looked at (PEP 552)."""
    return pyc[4:8] == b"\x01\0\0\0"


# ---- world/install -------------------------------------------------------------------------------

@EACH_PYTHON
def test_the_installed_lpkg_says_what_the_script_says(tmp_path, python):
    stub, pyc = install(ROOT / "lpkg.py", tmp_path, python)
    for arguments in (["--version"], ["--help"], ["install", "--help"], [], ["instal"], ["list"]):
        script = run(python, "-IS", ROOT / "lpkg.py", *arguments, cwd=tmp_path)
        assert run(stub, *arguments, cwd=tmp_path) == script
        assert "Traceback" not in script[2]
    assert is_unchecked(pyc.read_bytes())
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "lpkg", "lpkg.pyc"]


@EACH_PYTHON
@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_runs_installed(tmp_path, python, name):
    stub, _ = install(ROOT / name, tmp_path, python, "-I")
    script = run(python, "-I", ROOT / name, "--version")
    assert run(stub, "--version") == script
    if script[0] == 0:                  # pkggen says so where that Python has no PyYAML
        assert script[1].startswith(f"{stub.name} ")


@pytest.mark.parametrize("name", TOOLS)
def test_no_tool_misses_what_is_not_compiled(name):
    """Docstrings and asserts are left out."""
    text = (ROOT / name).read_text()
    assert "__doc__" not in text
    assert not [line for line in text.splitlines() if line.strip().startswith("assert ")]


def test_the_pyc_names_nothing_of_this_machine(tmp_path):
    _, pyc = install(ROOT / "lpkg.py", tmp_path, "/usr/bin/python3")
    data = pyc.read_bytes()
    assert b"lpkg.py" in data
    assert str(ROOT).encode() not in data and str(tmp_path).encode() not in data
    assert install(ROOT / "lpkg.py", tmp_path, "/usr/bin/python3")[1].read_bytes() == data


def test_modes_are_the_same_under_every_umask(tmp_path):
    before = os.umask(0o077)
    try:
        stub, pyc = install(ROOT / "lpkg.py", tmp_path, "/usr/bin/python3")
    finally:
        os.umask(before)
    assert stat.S_IMODE(stub.stat().st_mode) == 0o755
    assert stat.S_IMODE(pyc.stat().st_mode) == 0o644
    assert stat.S_IMODE(pyc.parent.stat().st_mode) == 0o755


def fault(stub, pyc):
    """The reason that STUB gives for not running; it is one line, and the status is 1."""
    status, out, err = run(stub, "--version")
    assert (status, out) == (1, "")
    head, tail = f"lpkg: {pyc}: ", "; install lpkg again\n"
    assert err.startswith(head) and err.endswith(tail) and err.count("\n") == 1
    return err[len(head):-len(tail)]


@EACH_PYTHON
def test_a_pyc_that_is_missing_foreign_or_damaged_is_one_line(tmp_path, python):
    stub, pyc = install(ROOT / "lpkg.py", tmp_path, python)
    data = pyc.read_bytes()
    version = run(python, "-c", "import platform; print(platform.python_version())")[1].strip()
    other = f"made for another Python than {version}, or damaged"
    pyc.write_bytes(b"\x01\x02" + data[2:])
    assert fault(stub, pyc) == other
    for length in (0, 10, 16, len(data) // 2):
        pyc.write_bytes(data[:length])
        assert fault(stub, pyc) == other
    pyc.unlink()
    assert fault(stub, pyc) == "No such file or directory"


def test_the_pyc_of_another_python_is_one_line(tmp_path):
    found = list(pythons().values())
    if len(found) < 2:
        pytest.skip("there is one Python here")
    stub, pyc = install(ROOT / "lpkg.py", tmp_path / "a", found[0])
    shutil.copy(install(ROOT / "lpkg.py", tmp_path / "b", found[-1])[1], pyc)
    assert fault(stub, pyc).startswith("made for another Python")


@EACH_PYTHON
def test_an_interrupt_is_one_line(tmp_path, python):
    stub, _ = install(ROOT / "lpkg.py", tmp_path, python)
    shutil.copy(key_file(tmp_path), tmp_path / "test.pub")
    with socket.create_server(("127.0.0.1", 0)) as server:      # which accepts and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        process = subprocess.Popen(
            [stub, "--root", tmp_path / "R", "--repo", url, "--key", tmp_path / "test.pub",
             "--yes", "install", "busybox"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        with server.accept()[0]:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "lpkg: interrupted; nothing is half done\n"


def key_file(folder):
    """A public key that nothing is signed with."""
    path = folder / "some.pub"
    path.write_text("untrusted comment: minisign public key\n"
                    "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n")
    return path


@EACH_PYTHON
def test_a_closed_pipe_is_silent(tmp_path, python):
    stub, _ = install(ROOT / "lpkg.py", tmp_path, python)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run([stub, "--help"], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_cannot_be_installed_is_one_line(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n")
    nowhere = tmp_path / "R"
    for arguments, reason in (
        ([], "write world/install TOOL.py"),
        (["none.py", nowhere, "/usr/bin/python3"], "none.py: no such file"),
        ([ROOT / "lpkg.py", nowhere, "python3.none"], "python3.none: no such program"),
        ([ROOT / "lpkg.py", nowhere, "/usr/bin/python3", "BIN=x"], "BIN=x: no such setting"),
        ([broken, nowhere, "/usr/bin/python3"], "could not compile it"),
    ):
        status, out, err = run(ROOT / "world/install", *arguments)
        assert (status, out) == (1, "")
        assert err.splitlines()[-1].startswith("world/install: ") and reason in err
    assert not [path for path in nowhere.rglob("*") if path.is_file()]


def test_make_install(tmp_path):
    prefix = tmp_path / "prefix"
    status, _, err = run("make", "install", f"PREFIX={prefix}", "PYTHON=/usr/bin/python3", cwd=ROOT)
    assert (status, err) == (0, "")
    assert run(prefix / "bin/lpkg", "--version")[1].startswith("lpkg ")
    recipe = ROOT / "recipes/core/zlib"
    command = ("/usr/bin/python3", ROOT / "pkggen.py", "script", recipe)
    assert run(prefix / "bin/pkggen", "script", recipe) == run(*command)
    for name in TOOLS:
        assert (prefix / "bin" / name[:-3]).exists()


def test_make_install_below_a_destdir(tmp_path):
    status, _, err = run("make", "install", f"DESTDIR={tmp_path}", cwd=ROOT)
    assert (status, err) == (0, "")
    text = (tmp_path / "usr/local/bin/lpkg").read_text()
    assert '"/usr/local/lib/panux/lpkg.pyc"' in text and str(tmp_path) not in text


# ---- the packages python and lpkg, in a root of their own ----------------------------------------

def package(name):
    """The file of a package of the repository; skips where there is none."""
    index = REPOSITORY / "index.json"
    entries = json.loads(index.read_text())["packages"] if index.exists() else []
    for entry in entries:
        if entry["name"] == name:
            return REPOSITORY / entry["file"]
    pytest.skip(f"{name} is not built")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A root that holds the package python and nothing else: it is static and needs nothing."""
    folder = tmp_path_factory.mktemp("alone")
    with tarfile.open(package("python")) as tar:
        tar.extractall(folder)
    return folder


def enter(root, *command, **options):
    """Run COMMAND in ROOT, as on a device: none of this machine's environment goes with it."""
    if os.geteuid() != 0 or ARCH != os.uname().machine:
        pytest.skip("chroot needs root, and this machine's own architecture")
    options = {"env": {"PATH": "/usr/bin:/bin"}, **options}
    return run("/usr/sbin/chroot", root, *command, **options)


def python_list():
    text = (ROOT / "recipes/core/python/stdlib.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_python_starts_in_silence(alone):
    for flags in (["-I", "-S"], ["-I"], []):
        assert enter(alone, "/usr/bin/python3", *flags, "-c", "pass") == (0, "", "")


def test_python_imports_hashes_and_inflates(alone):
    for name in ("check.py", "stdlib.txt"):
        shutil.copy(ROOT / "recipes/core/python" / name, alone)
    command = ("/usr/bin/python3", "-I", "-S", "/check.py", "/stdlib.txt")
    assert enter(alone, *command) == (0, "", "")


def test_python_imports_what_the_tools_import(alone):
    """Also what they load late; but for what signs, which needs more than Python anyway."""
    for name in ("lpkg.py", "linitd.py", "linitctl.py"):
        if not (ROOT / name).exists():
            continue
        lines = map(str.split, (ROOT / name).read_text().splitlines())
        modules = {words[1] for words in lines if words[:1] == ["import"] and len(words) == 2}
        modules -= {"nacl.signing"}
        assert len(modules) > 3
        text = "".join(f"import {module}\n" for module in sorted(modules))
        assert enter(alone, "/usr/bin/python3", "-IS", "-c", text) == (0, "", "")


def test_python_answers_at_its_prompt(alone):
    status, out, err = enter(alone, "/usr/bin/python3", "-i", stdin=None,
                             input="1+1\nimport ssl\ndef f():\n  return 'é'\n\nf()\nexit(7)\n")
    assert (status, out) == (7, "2\n'é'\n")
    assert err.startswith("Python 3.11.2 (main, Jan  1 2000, 00:00:00)")
    assert "ModuleNotFoundError: No module named '_ssl'" in err or "No module named 'ssl'" in err


def test_python_is_small(alone):
    assert (alone / "usr/bin/python3.11").stat().st_size < 3_600_000
    assert (alone / "usr/lib/python311.zip").stat().st_size < 2_100_000


def test_the_library_is_a_stored_zip_of_unchecked_pycs(alone):
    magics = set()
    with zipfile.ZipFile(alone / "usr/lib/python311.zip") as archive:
        assert archive.namelist() == sorted(path + "c" for path in python_list())
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            data = archive.read(info)
            assert is_unchecked(data), info.filename
            assert b"/build" not in data and str(ROOT).encode() not in data
            magics.add(data[:4])
    with tarfile.open(package("lpkg")) as tar:
        pyc = tar.extractfile("usr/lib/panux/lpkg.pyc").read()
    assert magics == {pyc[:4]} and is_unchecked(pyc)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    """The URL at which FOLDER is served on loopback."""
    def handler(*arguments):
        return QuietHandler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def device(tmp_path):
    """(root, URL): a root with lpkg, which knows the repository that is served at URL."""
    package("lpkg")
    with served(BUILD / "repo") as url:
        run_tool("lpkg", "--repo", BUILD / "repo", "--key", BUILD / "repo/panux.pub", "--arch",
                 ARCH, "bootstrap", tmp_path / "R", "--repo-url", url, "lpkg")
        yield tmp_path / "R", url


def test_lpkg_on_the_device_installs_over_http(device):
    root, _ = device
    assert enter(root, "lpkg", "--version")[1].startswith("lpkg ")
    assert enter(root, "lpkg", "--help")[1].startswith("lpkg, the package manager")
    assert enter(root, "lpkg", "verify") == (0, "", "")
    status, out, err = enter(root, "lpkg", "--yes", "install", "zlib")
    assert (status, out) == (0, ""), err
    names = [line.split()[0] for line in enter(root, "lpkg", "list")[1].splitlines()]
    assert names == ["lpkg", "musl", "python", "zlib"]
    assert enter(root, "lpkg", "search", "zlib")[1].startswith("zlib ")
    assert enter(root, "lpkg", "verify") == (0, "", "")
    assert enter(root, "lpkg", "--yes", "remove", "zlib")[0] == 0
    assert enter(root, "lpkg", "verify") == (0, "", "")


def test_lpkg_on_the_device_works_without_a_clock(device):
    """A board without a clock is in 1970; the root knows when its index was made."""
    code = ("import sys, time\ntime.time = lambda: 0.0\nsys.argv = ['lpkg', '--yes', 'install', "
            "'zlib']\nexec(open('/usr/bin/lpkg').read())")
    status, _, err = enter(device[0], "python3", "-IS", "-c", code)
    assert status == 0, err


def test_lpkg_on_the_device_has_no_https_and_says_so_in_a_line(device):
    root, url = device
    status, out, err = enter(root, "lpkg", "--repo", url.replace("http:", "https:"), "--yes",
                             "install", "zlib")
    assert status != 0 and out == ""
    assert err.startswith("lpkg: https://") and err.count("\n") == 1


def test_lpkg_is_tied_to_the_series_of_its_python(device):
    meta = run_tool("pkggen", "meta", ROOT / "recipes/core/lpkg", env=environment(ARCH=ARCH))
    assert json.loads(meta.stdout)["packages"]["lpkg"]["depends"] == ["python~3.11"]
