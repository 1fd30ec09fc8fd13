#!/usr/bin/env python3
"""Benchmark of boots in QEMU: the same kernel, the same services, several inits.

    make image && make image SYSTEM=base && make image SYSTEM=desktop
    python3 tests/bench/bench_boot.py
    BUSYBOX=FILE OPENRC=FOLDER python3 tests/bench/bench_boot.py --parts prompt

`services` goes up to the moment when all services run. `linitd` is the full image, `shell` the
image without Python, and `busybox` that image with busybox's own init, whose inittab starts what
our scripts start, one after another. Time begins with QEMU, so the kernel's own is in all three.

`prompt` goes from the kernel's first line to a terminal's prompt on the desktop's screen: the same
disk for all, with a terminal that Weston starts, after its first boot. Its peers take the steps of
our services from the same scripts: `busybox` in one sequence, the daemons in the background;
`openrc` as services with the same dependencies, in parallel. A boot is a copy's, so none sees what
another one wrote.

Ours has no init among its applets, so BUSYBOX names a static busybox that has; it should be one of
about the same size, since the kernel unpacks it as well. OPENRC names the folder that an OpenRC
for our musl was installed into.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from typing import Dict, Iterator

from measure import TREE, Fail, Peer, Sample, Step, main, measure, prepare, say_where, scratch, show

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
MOUNTS = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
"""
RC_BOOT = MOUNTS + """\
hostname -F /etc/hostname
ip link set lo up
ip link set eth0 up
udhcpc -b -t 3 -T 3 -S -p /run/udhcpc.eth0.pid -i eth0 -x "hostname:$(hostname)"
"""


def write_files(tree: pathlib.Path, files: Dict[str, str]) -> None:
    """Write programs, and what isn't one too, since none minds."""
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(0o755)


# ---- up to all services --------------------------------------------------------------------------


def make_busybox_image(folder: pathlib.Path, busybox: str) -> None:
    """The image without Python, with busybox's init and what it reads on top."""
    tree = folder / "tree"
    write_files(tree, {"etc/inittab": INITTAB, "etc/rc.boot": RC_BOOT})
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


def compare_services(options: argparse.Namespace) -> None:
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


# ---- up to a prompt on the screen ----------------------------------------------------------------

# Services of the desktop that end, and daemons, in an order that is right; what each waits for.
STEPS = {
    "root": "", "modules": "root", "mounts": "modules", "hostname": "root", "sysctl": "modules",
    "loopback": "root", "seed": "mounts", "clock": "mounts", "keyboard": "root",
    "network": "loopback hostname sysctl modules",
}
DAEMONS = {
    "mdev": "modules", "syslogd": "mounts", "crond": "mounts clock", "ntpd": "network clock",
    "dropbear": "network", "getty@tty1": "hostname keyboard", "weston": "root",
}
# What our init scripts do, without linitd.
STEP = """\
#!/bin/sh
linit_dir=/etc
. /etc/rc.common
name=$1 instance=${1#*@}
export this="${1%%@*}"
. "/etc/init.d/$this"
if is_defined run; then run; else start; fi
"""
BUSYBOX_BOOT = f"""{MOUNTS}
for step in {' '.join(STEPS)}; do /bench/step "$step"; done
for daemon in {' '.join(DAEMONS)}; do /bench/step "$daemon" & done
"""
OPENRC_SERVICE = """\
#!/sbin/openrc-run
depend() { need %s; }
start() {
	ebegin "$RC_SVCNAME"
	%s
	eend $?
}
"""
OPENRC_STEP = '/bench/step "${RC_SVCNAME}"'
OPENRC_DAEMON = ('start-stop-daemon --start --background --make-pidfile '
                 '--pidfile "/run/bench.$RC_SVCNAME" --exec /bench/step -- "${RC_SVCNAME}"')
# A prompt is a green bar, which nothing else on the screen is.
TERMINAL = """\
#!/bin/sh
PS1=$(printf '\\033[42m%40s\\033[0m') exec /usr/bin/weston-terminal
"""
GREEN = bytes((0, 168, 0)) * 64
AUTOLAUNCH = "\n[autolaunch]\npath=/bench/terminal\n"
INITS = {"linitd": "/sbin/init", "busybox": "/bench/init", "openrc": "/bench/openrc"}
LOOK = 0.05                 # seconds between two looks at the screen
PROMPT_LIMIT = 240.0        # seconds, on a slow machine
# Notices of the kernel, which have its time, and no more; on a busy machine its check of the timer,
# which waits for ticks that come too late here, would end a boot.
WORDS = "loglevel=6 no_timer_check"


def make_desktop(folder: pathlib.Path, busybox: str, openrc: str) -> None:
    """The desktop's disk, with a terminal that starts with Weston, and all inits; booted once, as
    a disk grows then, and keys are made."""
    files = folder / "files"
    settings = (TREE / "recipes/desktop/desktop/weston.ini").read_text()
    write_files(files, {
        "bench/step": STEP, "bench/terminal": TERMINAL, "bench/boot": BUSYBOX_BOOT,
        "etc/xdg/weston/weston.ini": settings + AUTOLAUNCH,
        "etc/inittab": "::sysinit:/bench/boot\n",
        "etc/rc.conf": 'rc_parallel="YES"\n',
        "bench/openrc": MOUNTS + "exec /sbin/openrc-init\n",
    })
    for names, command in ((STEPS, OPENRC_STEP), (DAEMONS, OPENRC_DAEMON)):
        for name, needed in names.items():
            write_files(files, {f"etc/rc/init.d/{name}": OPENRC_SERVICE % (needed, command)})
            link = files / "etc/runlevels/default" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"/etc/rc/init.d/{name}")
    if busybox:
        shutil.copy(busybox, files / "bench/init")
    for part in ("sbin", "bin", "usr/lib", "usr/libexec") if openrc else ():
        shutil.copytree(pathlib.Path(openrc) / part, files / part, symlinks=True)
    # OpenRC's programs want libcap.
    prepare("make", "image", "SYSTEM=desktop", "CONF=/dev/null", f"FILES={files}",
            f"image={folder}/image", f"PACKAGES={'libcap' if openrc else ''}", cwd=TREE)
    boot_to_prompt(folder, INITS["linitd"], keep=True)


def boot_to_prompt(folder: pathlib.Path, init: str, keep: bool = False) -> Sample:
    """Boot the disk with INIT until the prompt is there; to KEEP what is written, shut down."""
    environment = {**os.environ, "ARCH": ARCH, "SYSTEM": "desktop", "PORT": "0", "SERVICES": "",
                   "IMAGE_FOLDER": str(folder / "image"), "APPEND": f"{WORDS} init={init}"}
    monitor = folder / "monitor"
    command = [str(TREE / "world/qemu"), "-qmp", f"unix:{monitor},server=on,wait=off",
               *([] if keep else ["-snapshot"])]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as machine:
        try:
            console = Console(machine.stdout.fileno())
            seen = wait_for_prompt(console, monitor, folder / "screen.ppm")
            if keep:
                shut_down(console, machine)
        finally:
            machine.kill()
            _, _, usage = os.wait4(machine.pid, 0)
    return Sample((seen - console.kernel_began) * 1e3,
                  (usage.ru_utime + usage.ru_stime) * 1e3, usage.ru_maxrss / 1024)


class Console:
    """What a machine says, and when its kernel began by that: of the lines with the kernel's time,
    the one that came soonest."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.text = ""
        self.kernel_began = float("inf")

    def read(self, limit: float) -> None:
        if not select.select([self.descriptor], [], [], limit)[0]:
            return
        data = os.read(self.descriptor, 65536).decode(errors="replace")
        if not data:
            raise Fail(f"QEMU ended; its console said\n{self.text[-2000:]}")
        self.text += data
        for stamp in re.findall(r"^\[ *(\d+\.\d+)\]", data, re.M):
            self.kernel_began = min(self.kernel_began, time.monotonic() - float(stamp))


def shut_down(console: Console, machine: subprocess.Popen) -> None:
    for text, line in (("login: ", b"root\n"), ("# ", b"poweroff\n")):
        while text not in console.text:
            console.read(PROMPT_LIMIT)
        machine.stdin.write(line)
        machine.stdin.flush()
    with contextlib.suppress(Fail):
        while True:
            console.read(PROMPT_LIMIT)


def wait_for_prompt(console: Console, monitor: pathlib.Path, screen: pathlib.Path) -> float:
    """When the prompt was seen on the screen."""
    end = time.monotonic() + PROMPT_LIMIT
    screen.unlink(missing_ok=True)
    while time.monotonic() < end:
        console.read(LOOK)
        ask(monitor, "screendump", filename=str(screen))
        if screen.exists() and GREEN in screen.read_bytes():
            return time.monotonic()
    raise Fail(f"no prompt was on the screen after {PROMPT_LIMIT:.0f} s; the console said\n"
               f"{console.text[-2000:]}")


def ask(monitor: pathlib.Path, execute: str, **arguments: str) -> None:
    """Have QEMU do this, as its QMP has it."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), \
            socket.socket(socket.AF_UNIX) as line:
        line.connect(str(monitor))
        with line.makefile("rw") as stream:
            for request in ({"execute": "qmp_capabilities"},
                            {"execute": execute, "arguments": arguments}):
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                while '"return"' not in stream.readline():
                    pass


def prompt_round(init: str) -> Iterator[Step]:
    yield Step("kernel to prompt", [init])


def compare_prompts(options: argparse.Namespace) -> None:
    busybox, openrc = os.environ.get("BUSYBOX", ""), os.environ.get("OPENRC", "")
    with scratch() as folder:
        peers = [
            Peer("linitd", lambda: prompt_round(INITS["linitd"]), QEMU, "qemu-system-x86"),
            Peer("busybox", lambda: prompt_round(INITS["busybox"]), (*QEMU, busybox or "BUSYBOX"),
                 "busybox-static"),
            Peer("openrc", lambda: prompt_round(INITS["openrc"]),
                 (*QEMU, f"{openrc or 'OPENRC'}/sbin/openrc-init"), setting="OPENRC"),
        ]
        make_desktop(folder, busybox, openrc)
        say_where("the desktop in QEMU", options.rounds)
        samples = measure(peers, options.rounds, lambda step: boot_to_prompt(folder, *step.argv))
        show(samples, peers, "busybox")


# What compares, and the image of which system it wants.
PARTS = {"services": (compare_services, "base", "initramfs"),
         "prompt": (compare_prompts, "desktop", "disk.img")}


def benchmark(options: argparse.Namespace) -> None:
    for part in options.parts.split(","):
        compare, system, file = PARTS[part]
        if (BUILD / f"image-{system}" / file).exists():
            compare(options)
        else:
            print(f"no {part}: there is no image; make image SYSTEM={system}")


if __name__ == "__main__":
    sys.exit(main(benchmark, __doc__, parts=("of services, prompt", "services,prompt")))
