"""What the new Python must be able to do: check.py LIST, run with -I -S by that Python."""
import hashlib
import importlib
import socket
import sys
import threading
import zlib

BUILT_IN = ("array _bisect _heapq _json _random _struct math binascii zlib fcntl grp pwd select "
            "_posixsubprocess _socket syslog termios resource mmap _signal errno time").split()


def module_of(path: str) -> str:
    """The name of the module in PATH."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def deep(depth: int) -> int:
    """DEPTH, by recursion through C: what a thread's stack must bear."""
    return max([depth], key=lambda _: depth and deep(depth - 1))


with open(sys.argv[1], encoding="utf-8") as file:
    modules = [module_of(line.strip()) for line in file if not line.startswith("#")]
for name in [*modules, *BUILT_IN]:
    importlib.import_module(name)
for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s"):
    hashlib.new(name, b"panux").hexdigest()
assert zlib.decompress(zlib.compress(b"panux" * 99)) == b"panux" * 99
assert socket.getaddrinfo("127.0.0.1", 80)[0][4] == ("127.0.0.1", 80)
assert "example.org".encode("idna") == b"example.org"
seen = []
thread = threading.Thread(target=lambda: seen.append(deep(300)))
thread.start()
thread.join()
assert seen == [300]
try:
    import ssl
except ImportError:
    ssl = None
assert ssl is None, "ssl is there, which this Python was built without"
