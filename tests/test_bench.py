"""The benchmarks run, and print a row for each thing that they measure. No time is asserted."""
import re
import subprocess
import sys

from conftest import ROOT

NUMBERS = r"( +\d+\.\d){4}( +\d+\.\d\d +[+-]\d+\.\d)?"


def run_quick(name, *arguments):
    """What the benchmark prints with --quick."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench" / name), "--quick", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def missing_rows(text, operations):
    """The (operation, peer) that have no row, unless the peer is named as absent."""
    absent = re.findall(r"^absent: (\S+) \(.+\)$", text, re.MULTILINE)
    wanted = [(name, peer) for name, peers in operations.items() for peer in peers.split()]
    return [
        (name, peer) for name, peer in wanted
        if peer not in absent and not re.search(f"^{name} +{peer}{NUMBERS}$", text, re.MULTILINE)
    ]


def test_bench_pkggen_prints_its_rows():
    operations = {
        "script of one recipe": "python pkggen pkggen.py",
        "world-mk, 40 recipes": "pkggen.py",
        "world-mk, up to date, 40 recipes": "pkggen.py",
        "make, up to date, 40 recipes": "make",
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
