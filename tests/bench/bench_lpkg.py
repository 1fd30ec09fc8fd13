#!/usr/bin/env python3
"""Benchmark of lpkg beside other package managers, with the same packages in the format of each.

    python3 tests/bench/bench_lpkg.py               # 100 packages of 20 files, an index of 10,000
    python3 tests/bench/bench_lpkg.py --rounds 9
    python3 tests/bench/bench_lpkg.py --quick       # one round with 8 packages, an index of 300

The corpus is made from a seed. `lpkg.py pack` and `index` make lpkg's packages, `dpkg-deb` and
`bsdtar` those of the peers, each compressed as its own tools do. A root lies on a tmpfs where there
is one, and is new in each round. Each runs with its default options, and dpkg syncs as by default
even where the machine's dpkg.cfg forbids it. lpkg syncs too, but all file systems of the machine at
once, so it waits for what others write; pacman never syncs. lpkg alone installs from a signed
repository: the others are given the files, and check no signature.

`lpkg` is the installed form (compiled), `lpkg.py` the script as it is copied. Of the peers dpkg is
in any Debian; pacman is in the Debian package pacman-package-manager, bsdtar in libarchive-tools,
minisign in minisign. dpkg and pacman want to be root. Needs PyNaCl, for lpkg's signing.
"""
import argparse
import hashlib
import json
import os
import pathlib
import py_compile
import random
import shutil
import sys
import tarfile
import time
from typing import Dict, Iterator, List, NamedTuple, Union

from measure import (
    TREE, Fail, Peer, Step, is_tmpfs, main, measure, prepare, say_where, scratch, show,
    SHARED_MEMORY,
)

LPKG = TREE / "lpkg.py"
SEED = 100
PACKAGES, QUICK_PACKAGES, FILES = 100, 8, 20
OFFERS, QUICK_OFFERS = 10_000, 300
LARGEST = 96 << 10          # bytes of a file; the mean comes to some 8 KiB
ARCH = "x86_64"
TIME = 946684800            # mtime of every file, 2000-01-01
WORDS = (
    "the of a to in is package file system option value returns error when path name set user "
    "default string list command print number library function server"
).split()
# What lpkg does with an index before it parses it, and no verb does alone.
CHECK = """
import sys
folder, file, key = sys.argv[1:]
sys.path.insert(0, folder)
import lpkg
trusted = [lpkg.parse_public_key(lpkg.read_file(key), key)]
data = lpkg.read_file(file, lpkg.INDEX_LIMIT)
print(lpkg.check_signature(data, lpkg.read_file(file + ".minisig"), trusted, file)[1])
"""
PACMAN_CONF = """\
[options]
RootDir = {root}
DBPath = {root}/var/lib/pacman/
CacheDir = {root}/var/cache/pacman/
LogFile = {root}/var/log/pacman.log
HookDir = {root}/etc/pacman.d/hooks/
GPGDir = {root}/etc/pacman.d/gnupg/
Architecture = auto
SigLevel = Never
"""


# ---- the corpus ----------------------------------------------------------------------------------


class Package(NamedTuple):
    """A package of the corpus; `tree` is path -> content, or the target of a symlink."""

    name: str
    depends: List[str]
    tree: Dict[str, Union[bytes, str]]

    @property
    def conffile(self) -> str:
        return f"etc/{self.name}.conf"

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.tree.values())


def make_content(chance: random.Random, size: int) -> bytes:
    """SIZE bytes: of ten files five are text, four like machine code, one compressed already."""
    kind = chance.randrange(10)
    if kind < 5:
        return make_text(chance, size)
    return make_code(chance, size) if kind < 9 else chance.randbytes(size)


def make_text(chance: random.Random, size: int) -> bytes:
    words = []
    left = size
    while left > 0:
        is_word = chance.random() < 0.8
        words.append(chance.choice(WORDS) if is_word else f"{chance.getrandbits(32):x}")
        left -= len(words[-1]) + 1
    return " ".join(words).encode()[:size].ljust(size)


def make_code(chance: random.Random, size: int) -> bytes:
    """Half of it comes again and again. It has no ELF header, since it would not be a true one."""
    patterns = [chance.randbytes(16) + bytes(4) for _ in range(24)]
    parts = []
    for _ in range(size // 20 + 1):
        parts.append(chance.randbytes(24) if chance.random() < 0.45 else chance.choice(patterns))
    return b"".join(parts)[:size]


def make_size(chance: random.Random) -> int:
    """Sizes as a distribution's files have them: most are small, few are large."""
    return min(LARGEST, int(chance.lognormvariate(8.35, 1.15)))


def make_tree(chance: random.Random, name: str) -> Dict[str, Union[bytes, str]]:
    paths = [f"usr/bin/{name}"] + [f"usr/lib/{name}/lib{i}.so.1" for i in range(5)]
    paths += [f"usr/share/man/man1/{name}-{i}.1" for i in range(3)]
    paths += [f"usr/share/{name}/{i}.dat" for i in range(FILES - len(paths) - 2)]
    tree: Dict[str, Union[bytes, str]] = {
        path: make_content(chance, make_size(chance)) for path in paths
    }
    tree[f"usr/lib/{name}/lib0.so"] = "lib0.so.1"
    tree[f"etc/{name}.conf"] = make_text(chance, 300)
    return tree


def make_corpus(count: int) -> List[Package]:
    """COUNT packages; the same for the same COUNT on any machine."""
    chance = random.Random(SEED)
    names = [f"sample{number:03}" for number in range(count)]
    corpus = []
    for number, name in enumerate(names):
        needs = chance.sample(range(number), min(number, chance.choice((0, 1, 1, 2, 2, 3, 4))))
        depends = [names[need] for need in sorted(needs)]
        corpus.append(Package(name, depends, make_tree(chance, name)))
    return corpus


def write_tree(folder: pathlib.Path, package: Package) -> None:
    for path, content in package.tree.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.symlink_to(content)
            continue
        place.write_bytes(content)
        place.chmod(0o755 if path.startswith(("usr/bin/", "usr/lib/")) else 0o644)
        os.utime(place, (TIME, TIME))


# ---- packages in each format ---------------------------------------------------------------------


def pack_lpkg(folder: pathlib.Path, corpus: List[Package]) -> None:
    """FOLDER/repo, a signed repository, and bench.key, bench.pub."""
    packages = {
        package.name: {
            "summary": "a sample", "depends": package.depends, "conffiles": [package.conffile],
        }
        for package in corpus
    }
    meta = {"recipe": "bench", "version": "1.0-0", "arch": ARCH, "packages": packages}
    (folder / "meta.json").write_text(json.dumps(meta))
    write_build(folder / "out.tar", folder / "tree")
    repository = folder / "repo" / ARCH
    repository.mkdir(parents=True)
    with open(folder / "out.tar", "rb") as tar:
        lpkg("pack", "--meta", folder / "meta.json", "-o", repository, stdin=tar)
    lpkg("keygen", folder / "bench")
    lpkg("index", repository, "--secret", folder / "bench.key")


def lpkg(*arguments: object, **options: object) -> None:
    prepare(sys.executable, LPKG, *arguments, **options)


def write_build(path: pathlib.Path, tree: pathlib.Path) -> None:
    """The tar that a build of TREE/NAME/... would have put out."""
    with tarfile.open(path, "w") as tar:
        tar.add(tree, "out", filter=owned_by_root)
        status = tree.parent / ".status"
        status.write_text("0\n")
        tar.add(status, ".status")


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


def pack_deb(folder: pathlib.Path, corpus: List[Package]) -> None:
    """FOLDER/deb, with md5sums as debhelper writes them."""
    (folder / "deb").mkdir()
    for package in corpus:
        tree = folder / "tree" / package.name
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(deb_control(package))
        (control / "conffiles").write_text(f"/{package.conffile}\n")
        (control / "md5sums").write_text(md5sums(package))
        target = folder / "deb" / f"{package.name}.deb"
        prepare("dpkg-deb", "--build", "--root-owner-group", tree, target)
        shutil.rmtree(control)


def deb_control(package: Package) -> str:
    depends = f"Depends: {', '.join(package.depends)}\n" if package.depends else ""
    return (
        f"Package: {package.name}\nVersion: 1.0\nArchitecture: all\n"
        f"Maintainer: nobody <nobody@example.org>\nInstalled-Size: {package.size >> 10}\n{depends}"
        "Description: a sample\n"
    )


def md5sums(package: Package) -> str:
    sums = [
        f"{hashlib.md5(data).hexdigest()}  {path}\n"
        for path, data in sorted(package.tree.items())
        if isinstance(data, bytes) and path != package.conffile
    ]
    return "".join(sums)


MTREE = "--options=!all,use-set,type,uid,gid,mode,time,size,md5,sha256,link"


def pack_pacman(folder: pathlib.Path, corpus: List[Package]) -> None:
    """FOLDER/pacman; the tars are made as makepkg makes them."""
    (folder / "pacman").mkdir()
    for package in corpus:
        tree = folder / "tree" / package.name
        (tree / ".PKGINFO").write_text(package_info(package))
        owners = ("--uid=0", "--gid=0")
        content = (".PKGINFO", "etc", "usr")
        mtree = ("-czf", ".MTREE", "--format=mtree", MTREE, *owners, *content)
        prepare("bsdtar", *mtree, cwd=tree)
        target = folder / "pacman" / f"{package.name}.pkg.tar.zst"
        prepare("bsdtar", "--zstd", "-cf", target, *owners, ".MTREE", *content, cwd=tree)
        (tree / ".PKGINFO").unlink()
        (tree / ".MTREE").unlink()


def package_info(package: Package) -> str:
    lines = [
        f"pkgname = {package.name}", f"pkgbase = {package.name}", "pkgver = 1.0-1",
        "pkgdesc = a sample", f"builddate = {TIME}", "packager = nobody", f"size = {package.size}",
        "arch = any", f"backup = {package.conffile}",
    ]
    return "\n".join(lines + [f"depend = {name}" for name in package.depends]) + "\n"


def write_large_index(folder: pathlib.Path, count: int) -> None:
    """FOLDER/large, a signed index that offers COUNT packages, of which there are no files.

    Its key is its own: lpkg remembers the serials that it has seen of a key.
    """
    chance = random.Random(SEED)
    now = int(time.time())
    index = {"serial": now, "created": now, "expires": None, "arch": ARCH}
    index["packages"] = [make_offer(chance, number) for number in range(count)]
    path = folder / "large" / ARCH / "index.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(index))
    lpkg("keygen", folder / "large")
    comment = f"index {ARCH} serial {now}"
    lpkg("sign", path, "--secret", folder / "large.key", "--comment", comment)


def make_offer(chance: random.Random, number: int) -> Dict[str, object]:
    name = f"offer{number:05}"
    needs = chance.sample(range(number), min(number, chance.choice((0, 1, 2, 2, 3, 4, 6))))
    lists: Dict[str, object] = {key: [] for key in ("provides", "conflicts", "services", "setuid")}
    return {
        "name": name, "version": "1.0-0", "file": f"{name}-1.0-0.{ARCH}.lpkg", "size": 60_000,
        "sha256": f"{chance.getrandbits(256):064x}", "installed_size": 160_000,
        "summary": " ".join(chance.choices(WORDS, k=8)), "license": "MIT", "recipe": name,
        "url": f"https://example.org/{name}/",
        "depends": [f"offer{need:05}" for need in sorted(needs)], **lists,
    }


# ---- the peers -----------------------------------------------------------------------------------


class Benchmark:
    """The peers' rounds: packages lie in FOLDER, roots are made in ROOTS."""

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path, corpus: List[Package]) -> None:
        self.folder = folder
        self.roots = roots
        self.corpus = corpus
        self.names = [package.name for package in corpus]
        self.installed = folder / "lpkg"
        self.installed.mkdir()
        py_compile.compile(str(LPKG), str(self.installed / "lpkg.pyc"), doraise=True)

    def peers(self) -> List[Peer]:
        pacman = ("pacman", "bsdtar")
        brought = "pacman-package-manager libarchive-tools"
        return [
            Peer("lpkg", lambda: self.lpkg(self.installed / "lpkg.pyc")),
            Peer("lpkg.py", lambda: self.lpkg(LPKG)),
            Peer("dpkg", self.dpkg, ("dpkg", "dpkg-deb"), "dpkg", as_root=True),
            Peer("pacman", self.pacman, pacman, brought, as_root=True),
            Peer("minisign", self.minisign, ("minisign",), "minisign"),
        ]

    def pack(self, offers: int) -> None:
        """Make the packages of every peer that is here."""
        for package in self.corpus:
            write_tree(self.folder / "tree" / package.name, package)
        pack_lpkg(self.folder, self.corpus)
        write_large_index(self.folder, offers)
        here = [peer.name for peer in self.peers() if not peer.absence()]
        if "dpkg" in here:
            pack_deb(self.folder, self.corpus)
        if "pacman" in here:
            pack_pacman(self.folder, self.corpus)
        shutil.rmtree(self.folder / "tree")

    def fresh_root(self) -> pathlib.Path:
        root = self.roots / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        return root

    def expect(self, root: pathlib.Path, there: bool) -> None:
        """Fail unless all packages are, or none is, in ROOT."""
        for package in self.corpus:
            if any(os.path.lexists(root / path) != there for path in package.tree):
                raise Fail(f"{root}: {package.name} should {'' if there else 'not '}be in it")

    def lpkg(self, script: pathlib.Path) -> Iterator[Step]:
        root = self.fresh_root()
        command = [sys.executable, "-I", "-S", script]
        here = ["--root", root, "--yes"]
        small = self.repository("repo", "bench.pub")
        yield Step("install", [*command, *here, *small, "install", *self.names])
        self.expect(root, True)
        yield Step("verify", [*command, "--root", root, "verify"], None)
        yield Step("remove", [*command, *here, "remove", *self.names])
        self.expect(root, False)
        large = ["--root", root, *self.repository("large", "large.pub")]
        yield Step("search", [*command, *large, "search", "offer00123"], "offer00123")
        if script != LPKG:
            yield self.check()
        yield Step("version", [*command, "--version"], "lpkg")

    def repository(self, name: str, key: str) -> List[object]:
        return ["--repo", self.folder / name, "--key", self.folder / key, "--arch", ARCH]

    def check(self) -> Step:
        files = [self.folder / "large" / ARCH / "index.json", self.folder / "large.pub"]
        argv = [sys.executable, "-I", "-S", "-c", CHECK, self.installed, *files]
        return Step("check signature", argv, f"index {ARCH} serial")

    def dpkg(self) -> Iterator[Step]:
        root = self.fresh_root()
        state = root / "var/lib/dpkg"
        for name in ("info", "updates", "triggers"):
            (state / name).mkdir(parents=True)
        (state / "status").touch()
        command = ["dpkg", f"--root={root}", "--log=/dev/null", "--refuse-unsafe-io"]
        files = [self.folder / "deb" / f"{name}.deb" for name in self.names]
        yield Step("install", [*command, "--install", *files])
        self.expect(root, True)
        yield Step("verify", [*command, "--verify"], None)
        yield Step("remove", [*command, "--purge", *self.names])
        self.expect(root, False)
        yield Step("version", ["dpkg", "--version"])

    def pacman(self) -> Iterator[Step]:
        root = self.fresh_root()
        for name in ("lib/pacman", "cache/pacman", "log"):
            (root / "var" / name).mkdir(parents=True)
        configuration = root / "pacman.conf"
        configuration.write_text(PACMAN_CONF.format(root=root))
        command = ["pacman", "--config", configuration, "--noconfirm"]
        files = [self.folder / "pacman" / f"{name}.pkg.tar.zst" for name in self.names]
        yield Step("install", [*command, "-U", *files])
        self.expect(root, True)
        yield Step("verify", [*command, "-Qkk"], "0 altered files")
        yield Step("remove", [*command, "-Rn", *self.names])
        self.expect(root, False)
        yield Step("version", ["pacman", "--version"], "Pacman")

    def minisign(self) -> Iterator[Step]:
        index = self.folder / "large" / ARCH / "index.json"
        argv = ["minisign", "-V", "-m", index, "-p", self.folder / "large.pub"]
        yield Step("check signature", argv, "verified")


def benchmark(options: argparse.Namespace) -> None:
    count, offers = (QUICK_PACKAGES, QUICK_OFFERS) if options.quick else (PACKAGES, OFFERS)
    corpus = make_corpus(count)
    size = sum(package.size for package in corpus) / 1e6
    with scratch() as folder, scratch(in_memory=True) as roots:
        bench = Benchmark(folder, roots, corpus)
        bench.pack(offers)
        where = "a tmpfs" if is_tmpfs(SHARED_MEMORY) else "no tmpfs"
        files = sum(len(package.tree) for package in corpus)
        say_where(f"lpkg: {count} packages, {files} files, {size:.1f} MB; an index of {offers}; "
                  f"roots on {where}", options.rounds)
        show(measure(bench.peers(), options.rounds), bench.peers(), "dpkg")


if __name__ == "__main__":
    sys.exit(main(benchmark, __doc__))
