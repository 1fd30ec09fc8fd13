#!/usr/bin/env python3
"""Boot the image in a folder in QEMU until its console shows a text, then end it.

    python3 boot_once.py FOLDER TEXT
"""
import os
import pathlib
import signal
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 60                  # seconds, on a slow machine


def main() -> int:
    folder, text = sys.argv[1:]
    environment = {**os.environ, "IMAGE_FOLDER": folder, "PORT": "0"}
    signal.alarm(LIMIT)
    with subprocess.Popen(
        [TREE / "world/qemu"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as machine:
        seen = b""
        while text.encode() not in seen:
            data = os.read(machine.stdout.fileno(), 65536)
            if not data:
                break
            seen += data
        machine.kill()
    print(seen.decode(errors="replace"))
    return 0 if text.encode() in seen else 1


if __name__ == "__main__":
    sys.exit(main())
