"""Our own Python and lpkg, as packages, in a root of their own. `make test` builds them first."""
import contextlib
import http.server
import json
import os
import pathlib
import shutil
import tarfile
import threading
import zipfile

import pytest
from conftest import ROOT, environment, run_tool
from test_install import is_unchecked, run

ARCH = os.environ.get("ARCH") or os.uname().machine
BUILD = pathlib.Path(os.environ.get("O") or "build")
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD
REPOSITORY = BUILD / "repo" / ARCH


def package(name):
    """The file of a package of the repository."""
    entries = json.loads((REPOSITORY / "index.json").read_text())["packages"]
    return next(REPOSITORY / entry["file"] for entry in entries if entry["name"] == name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A root that holds the package python and nothing else: it is static and needs nothing."""
    folder = tmp_path_factory.mktemp("alone")
    with tarfile.open(package("python")) as tar:
        tar.extractall(folder)
    return folder


def enter(root, *command, **options):
    """Run COMMAND in ROOT, as on a device: none of this machine's environment goes with it."""
    options = {"env": {"PATH": "/usr/bin:/bin"}, **options}
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    return run(*as_root, "/usr/sbin/chroot", root, *command, **options)


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
    status, out, err = enter(root, "lpkg", "--repo", url.replace("http:", "https:"), "--key",
                             "/etc/lpkg/keys/panux.pub", "--yes", "install", "zlib")
    assert status != 0 and out == ""
    assert err.startswith("lpkg: https://") and "ssl" in err and err.count("\n") == 1


def test_lpkg_is_tied_to_the_series_of_its_python(device):
    meta = run_tool("pkggen", "meta", ROOT / "recipes/core/lpkg", env=environment(ARCH=ARCH))
    assert json.loads(meta.stdout)["packages"]["lpkg"]["depends"] == ["python~3.11"]
