"""What the tests share: where the tree is, how a tool is loaded as a module or run as a program."""
import contextlib
import functools
import http.server
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def load_tool(name):
    """The script NAME.py of this tree as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def run_tool(name, *arguments, check=True, **options):
    """Run NAME.py with this Python and give what it wrote; with `check` a failure is the test's."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def pythons():
    """Every CPython from 3.9 to 3.13 that is found here: on the PATH, or as pyenv keeps them."""
    found = {}
    for minor in range(9, 14):
        kept = pathlib.Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")
        for path in [shutil.which(f"python3.{minor}", path="/usr/local/bin:/usr/bin"), *kept]:
            if path:
                found.setdefault(f"3.{minor}", str(path))
    return found


def compile_line(name):
    """The words of the command at the top of initd/NAME.c."""
    text = (ROOT / f"initd/{name}.c").read_text()
    found = re.search(rf"^ \* +(cc (.*\\\n)*.*{name}\.c)$", text, re.MULTILINE)
    return re.sub(r"\\\n \*", " ", found[1]).split()


def compile_program(name, folder, compiler="cc"):
    """initd/NAME.c as a program in FOLDER."""
    shutil.copy(ROOT / f"initd/{name}.c", folder)
    command = [compiler, "-Wall", "-Wextra", "-Werror", *compile_line(name)[1:]]
    subprocess.run(command, cwd=folder, check=True)
    return pathlib.Path(folder, name)


@functools.lru_cache(maxsize=None)
def compiled(name):
    """The program of initd/NAME.c, compiled once."""
    compiled.folder = getattr(compiled, "folder", None) or tempfile.TemporaryDirectory()
    return compile_program(name, compiled.folder.name)


def environment(**changes):
    """This process's environment with CHANGES."""
    return {**os.environ, **{key: str(value) for key, value in changes.items()}}


def wait_until(condition, seconds=30, what="it"):
    """Go on when CONDITION() holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no sign of {what} within {seconds} s"
        time.sleep(0.01)


def free_port(count=1):
    """The first of COUNT ports of loopback, one after the other, at which nobody listens."""
    while True:
        with contextlib.ExitStack() as servers:
            port = 0
            try:
                for _ in range(count):
                    server = servers.enter_context(socket.create_server(("127.0.0.1", port)))
                    port = server.getsockname()[1] + 1
                return port - count
            except (OSError, OverflowError):        # the next one is taken, or there is none
                assert port, "no port of loopback is free"


@contextlib.contextmanager
def serving(server):
    """A running SERVER, or one of the handler that it is, on loopback: its URL."""
    if not isinstance(server, http.server.HTTPServer):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only `make test-long` runs it")
    config.addinivalue_line("markers", "bios: its disk boots by BIOS, as a PC's alone does")
    # world/engine passes an interrupt on as TERM; pytest must then end as on Ctrl-C, fixtures and
    # all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # `make test` starts a part in the background, where the shell has interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The makes that tests run are no part of the make that runs the tests.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE"):
        os.environ.pop(name, None)
