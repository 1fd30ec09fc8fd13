"""The installed form of the tools: world/install and `make install`."""
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess

import pytest
from conftest import ROOT, pythons

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
    stub, pyc = install(ROOT / "lpkg.py", tmp_path, next(iter(pythons().values())))
    magic_of_3_6 = (3379).to_bytes(2, "little") + b"\r\n"
    pyc.write_bytes(magic_of_3_6 + pyc.read_bytes()[4:])
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
        with server.accept()[0] as connection:
            connection.recv(1)      # now it waits; an import would lose the signal in a callback
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
    share = prefix / "share"
    assert sorted(str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()) == [
        "bash-completion/completions/linitctl", "bash-completion/completions/lpkg",
        "fish/vendor_completions.d/linitctl.fish", "fish/vendor_completions.d/lpkg.fish",
        "zsh/site-functions/_linitctl", "zsh/site-functions/_lpkg"]


def test_make_install_below_a_destdir(tmp_path):
    status, _, err = run("make", "install", f"DESTDIR={tmp_path}", cwd=ROOT)
    assert (status, err) == (0, "")
    text = (tmp_path / "usr/local/bin/lpkg").read_text()
    assert '"/usr/local/lib/panux/lpkg.pyc"' in text and str(tmp_path) not in text
