"""The benchmarks run, and print a row for each thing that they measure. No time is asserted."""
import re
import subprocess
import sys

from conftest import ROOT

NUMBERS = r" +\d+\.\d +\d+\.\d +\d+\.\d( +\d+\.\d\d +[+-]\d+\.\d)?"


def run_quick(name):
    """What the benchmark prints with --quick."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench" / name), "--quick"],
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
    everyone = "lpkg lpkg.py dpkg pacman"
    operations = {
        **dict.fromkeys(("install", "verify", "remove", "version"), everyone),
        "search": "lpkg lpkg.py",
        "check signature": "lpkg minisign",
    }
    assert not missing_rows(run_quick("bench_lpkg.py"), operations)
