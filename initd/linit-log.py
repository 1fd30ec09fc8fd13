#!/usr/bin/env python3
"""linit-log.py FOLDER: writes what services print to files, for linitd, which waits for no disk.

linit-log.c is the same in 16 KiB of memory, and says what there is to know. This is for where that
isn't compiled.
"""
import os
import socket
import sys
import time

FULL = 256 << 10                    # bytes of a log
MESSAGE = 1200                      # bytes, at most
QUIET = 3600                        # seconds without a reason; then it's told again
ENOSPC = 28                         # errno(3)


def open_log(path: str, flags: int = 0) -> int:
    flags |= os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def as_written(kind: bytes, data: bytes, is_new_line: bool) -> bytes:
    """DATA as the log has it."""
    if kind == b" ":
        text = data.replace(b"\n-", b"\n -")
        return b" " + text if is_new_line and text.startswith(b"-") else text
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()).encode()
    head = b"-- " + now if kind == b"-" else now
    text = data[:-1].replace(b"\n", b"\n" + head) + data[-1:]
    if is_new_line:
        return head + text
    return b"\n" + head + text if kind == b"-" else text


def append(path: str, kind: bytes, data: bytes) -> None:
    """Append DATA; OSError where it is lost."""
    fd = open_log(path)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        text = as_written(kind, data, not size or os.pread(fd, 1, size - 1) == b"\n")
        if size + len(text) > FULL:
            os.rename(path, path + "~")
            os.close(fd)
            fd = -1
            fd = open_log(path, os.O_EXCL)
        if os.write(fd, text) < len(text):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
    finally:
        if fd >= 0:
            os.close(fd)


def main() -> None:
    """Append what comes, until linitd ends."""
    folder = sys.argv[1]
    linitd = socket.socket(fileno=0)
    told = {}                       # reason: when it was met last
    while message := linitd.recv(MESSAGE):
        name, _, data = message[1:].partition(b"\n")
        try:
            append(f"{folder}/{name.decode()}", message[:1], data)
        except OSError as error:
            now = time.monotonic()
            if now - told.get(error.errno, -QUIET) >= QUIET:
                linitd.send(bytes([error.errno]) + name, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            told[error.errno] = now


if __name__ == "__main__":
    main()
