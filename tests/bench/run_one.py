#!/usr/bin/env python3
"""Run one command and print what it took: wall seconds, CPU seconds, peak RSS in KiB, status.

    python3 -I -S run_one.py LOG COMMAND [ARGUMENT...]

The command's stdout and stderr go to LOG. The kernel counts in a child's peak RSS the memory of the
process that it was forked from, so commands are started from this small process and not from the
benchmark itself, which holds a corpus.
"""
import os
import sys
import time


def main() -> int:
    log, command = sys.argv[1], sys.argv[2:]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    cpu = usage.ru_utime + usage.ru_stime
    print(wall, cpu, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
