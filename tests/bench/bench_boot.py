#!/usr/bin/env python3
"""Benchmark of a boot in QEMU, up to the moment when all services run: the same kernel, the same
services, three inits.

    make image && make image SYSTEM=base
    python3 tests/bench/bench_boot.py
    BUSYBOX=/path/of/a/static/busybox python3 tests/bench/bench_boot.py

`linitd` is the full image, `shell` the image without Python, and `busybox` that image with
busybox's own init, whose inittab starts what our scripts start, one after another. Ours has no
init among its applets, so BUSYBOX names one that has; it should be one of about the same size,
since the kernel unpacks it as well. Time begins with QEMU, so the kernel's own is in all three.
"""
import argparse
import os
import pathlib
import shutil
import sys
from typing import Iterator

from measure import TREE, Peer, Step, main, measure, prepare, say_where, scratch, show

ARCH = os.environ.get("ARCH") or os.uname().machine
BUILD = pathlib.Path(os.environ.get("O") or TREE / "build").resolve() / ARCH
BOOT_ONCE = pathlib.Path(__file__).resolve().with_name("boot_once.py")
SERVICES_RUN = "boot is running"
QEMU = ("qemu-system-x86_64",)

INITTAB = """\
::sysinit:/etc/rc.boot
::respawn:/sbin/syslogd -n -s 200 -b 1
::respawn:/usr/sbin/httpd -f -p 80 -h /srv/www
ttyS0::respawn:/sbin/getty 115200 ttyS0 linux
::once:/bin/echo boot is running
"""
RC_BOOT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
hostname -F /etc/hostname
ip link set lo up
ip link set eth0 up
udhcpc -b -t 3 -T 3 -S -p /run/udhcpc.eth0.pid -i eth0 -x "hostname:$(hostname)"
"""


def make_busybox_image(folder: pathlib.Path, busybox: str) -> None:
    """The image without Python, with busybox's init and what it reads on top."""
    tree = folder / "tree"
    for path, text, mode in (("etc/inittab", INITTAB, 0o644), ("etc/rc.boot", RC_BOOT, 0o755)):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(mode)
    shutil.copy(busybox, tree / "init")
    base = BUILD / "image-base"
    shutil.copy(base / "vmlinuz", folder)
    # The kernel unpacks one archive after another.
    prepare("sh", "-c", 'bsdtar -cf - --format=newc -C "$1" . | xz --check=crc32 --x86 '
            '--lzma2=preset=9e,dict=8MiB | cat "$2" - >"$3"', "sh", tree, base / "initramfs",
            folder / "initramfs")


def boot(folder: pathlib.Path) -> Iterator[Step]:
    yield Step("boot to all services", [sys.executable, BOOT_ONCE, folder, SERVICES_RUN],
               SERVICES_RUN, env={"ARCH": ARCH})


def benchmark(options: argparse.Namespace) -> None:
    busybox = os.environ.get("BUSYBOX", "")
    with scratch() as folder:
        peers = [
            Peer("linitd", lambda: boot(BUILD / "image"), QEMU, "qemu-system-x86"),
            Peer("shell", lambda: boot(BUILD / "image-base"), QEMU, "qemu-system-x86"),
            Peer("busybox", lambda: boot(folder), (*QEMU, busybox or "BUSYBOX"), "busybox-static"),
        ]
        if busybox:
            make_busybox_image(folder, busybox)
        say_where("boots in QEMU", options.rounds)
        show(measure(peers, options.rounds), peers, "busybox")


if __name__ == "__main__":
    sys.exit(main(benchmark, __doc__))
