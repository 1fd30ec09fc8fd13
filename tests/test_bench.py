"""The benchmarks run, and print a row for each thing that they measure. No time is asserted."""
import re
import subprocess
import sys

import pytest
from conftest import ROOT

NUMBERS = r"( +\d+\.\d){4}( +\d+\.\d\d +[+-]\d+\.\d)?"
ANY_NUMBERS = r"( +(\d+(\.\d+)?|nan)){5,9}"       # nan: of a machine that gives no cgroup


def run_quick(name, *arguments):
    """What the benchmark prints with --quick."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench" / name), "--quick", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def missing_rows(text, operations, numbers=NUMBERS):
    """The (operation, peer) that have no row of NUMBERS, unless the peer is named as absent."""
    absent = re.findall(r"^absent: (\S+) \(.+\)$", text, re.MULTILINE)
    wanted = [(name, peer) for name, peers in operations.items() for peer in peers.split()]
    return [
        (name, peer) for name, peer in wanted
        if peer not in absent and not re.search(f"^{name} +{peer}{numbers}$", text, re.MULTILINE)
    ]


def test_bench_pkggen_prints_its_rows():
    operations = {
        "script of one recipe": "python pkggen pkggen.py",
        "world-mk, 40 recipes": "pkggen.py",
        "world-mk, up to date, 40 recipes": "pkggen.py",
        "make, up to date, 40 recipes": "make",
        "index, all new, 40 packages": "lpkg.py",
        "index, with a page, 40 packages": "lpkg.py",
        "upgrade plan, 40 packages": "lpkg.py",
    }
    assert not missing_rows(run_quick("bench_pkggen.py"), operations)


def test_bench_lpkg_prints_its_rows():
    everyone, repositories = "lpkg apk xbps pacman dpkg", "lpkg apk xbps pacman"
    operations = {"version": f"{everyone} lpkg.py", "install S": f"{everyone} lpkg.py"}
    for name in ("S", "M", "BIG"):
        operations.update(dict.fromkeys((f"owner {name}", f"verify {name}", f"remove {name}"),
                                        everyone))
        operations[f"noop {name}"] = repositories
    operations.update(dict.fromkeys(("install M", "install BIG"), everyone))
    operations.update(dict.fromkeys(("out M", "in M"), everyone))
    operations.update(dict.fromkeys(("dry", "search"), repositories))
    operations["update"] = "lpkg apk pacman"
    assert not missing_rows(run_quick("bench_lpkg.py"), operations)


def test_no_killed_install_of_lpkg_leaves_it_broken():
    text = run_quick("crash_lpkg.py", "--managers", "lpkg", "--trials", "5")
    columns = re.search("^ +seconds +(.+)$", text, re.MULTILINE)[1].replace("by hand", "hand")
    counts = re.search("^lpkg +[0-9.]+ +(.+)$", text, re.MULTILINE)[1].split()
    found = dict(zip(columns.split(), map(int, counts)))
    assert found["mended"] == 5
    assert found["unreadable"] == found["lies"] == found["broken"] == found["lock"] == 0


def can_make_namespaces():
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    try:
        done = subprocess.run(unshare, stderr=subprocess.DEVNULL, timeout=20, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_make_namespaces(), reason="no PID and mount namespaces can be made")
def test_bench_linit_prints_its_rows():
    text = run_quick("bench_linit.py")
    inits = "linit linit-ash dinit s6-rc runit openrc systemd"
    boots = ("boot 5 noop", "boot 5 sleep")
    assert not missing_rows(text, dict.fromkeys(boots, f"floor8 floordag {inits}"), ANY_NUMBERS)
    assert not missing_rows(text, {"rest with 2": inits}, ANY_NUMBERS)
    assert not missing_rows(text, {"status": "python linitctl linitctl.py dinitctl"})
    for figure in ("request on an open connection", "awake, resident", "asleep to answered"):
        assert re.search(rf"^{figure} +linit +(\d+\.\d+|n/a) +(us|MiB|ms)$", text, re.MULTILINE)
