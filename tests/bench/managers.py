"""What a package manager is to the benchmarks: how it packs the corpus, how it is told what to do.

A manager has a folder for each set of the corpus with the packages in its own format, and one root.
All payloads are gzip's, level 6 (lpkg's own: 9), so that all inflate the same. lpkg is here, and is
the one of this tree or the lpkg.py that PM_LPKG names; the others are in peers.py.
"""
import concurrent.futures
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile
import time
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from corpus import OFFER_INSTALLED, OFFER_SIZE, Package
from measure import TREE, Peer, Step, prepare

LPKG = pathlib.Path(os.environ.get("PM_LPKG", TREE / "lpkg.py"))
ARCH = os.uname().machine
URL = "https://example.org/"


class Manager:
    """A package manager, the packages that were made for it in FOLDER/SET, and its root."""

    name = ""
    programs: Tuple[str, ...] = ()
    debian = ""                 # packages that bring the programs, or
    setting = ""                # a variable that names them
    as_root = True
    environment: Dict[str, str] = {}
    # Operation -> command line, to which the words of the operation are appended.
    verbs: Dict[str, str] = {}
    whole: Optional[str] = ""   # what `verify` says when nothing is wrong; None: nothing at all

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path) -> None:
        self.folder = folder / self.name
        self.root = roots / self.name
        self.repository = self.folder
        self.fields = {"root": self.root, "folder": self.folder}

    def peer(self, rounds: Callable[[], Iterator[Step]]) -> Peer:
        return Peer(self.name, rounds, self.programs, self.debian, self.setting, self.as_root)

    def absence(self) -> str:
        """Why it can't take part; empty when it can."""
        return self.peer(lambda: iter(())).absence()

    def command(self, operation: str, *words: str) -> List[str]:
        """The command line of OPERATION on WORDS."""
        fields = {**self.fields, "repository": self.repository}
        start = [part.format(**fields) for part in self.verbs[operation].split()]
        return start + self.words(operation, words)

    def words(self, operation: str, words: Sequence[str]) -> List[str]:
        """How this manager wants WORDS, which are names of packages or a path."""
        return [f"/{word}" for word in words] if operation == "owner" else list(words)

    # -- making packages

    def make(self, name: str, packages: List[Package], trees: pathlib.Path) -> None:
        """Pack PACKAGES, whose files are in TREES/PACKAGE, as the repository NAME."""
        target = self.folder / f"{name}.part"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if any(package.files for package in packages):
            self.pack_all(packages, trees, target)
            self.index(packages, target)
        else:
            self.offer(packages, target)
        target.rename(self.folder / name)

    def pack_all(self, packages: List[Package], trees: pathlib.Path, target: pathlib.Path) -> None:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda package: self.pack(package, trees / package.name, target),
                          packages))

    def pack(self, package: Package, tree: pathlib.Path, target: pathlib.Path) -> None:
        """Make one package of TREE."""
        raise NotImplementedError

    def index(self, packages: List[Package], target: pathlib.Path) -> None:
        """Make the index of the packages in TARGET."""

    def offer(self, packages: List[Package], target: pathlib.Path) -> None:
        """Make an index in TARGET of packages that aren't there."""

    # -- using them

    def start(self, name: str) -> None:
        """An empty root, which knows the repository NAME."""
        self.repository = self.folder / name
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        self.prepare()

    def prepare(self) -> None:
        """Make what the manager wants to find in a root."""

    def write(self, path: str, text: str) -> None:
        """The file PATH of the root."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def can(self, operation: str) -> bool:
        return operation in self.verbs

    # -- after a crash

    says_none_by_status = False         # `list` fails where nothing is installed

    def parse_list(self, text: str) -> Tuple[List[str], List[str]]:
        """The names of what is installed and of what is half installed, in what `list` says."""
        return [line.split()[0] for line in text.splitlines()], []

    def repair(self, command: List[str]) -> List[str]:
        """Do what the manual says where COMMAND does not work: what to run then."""
        return command


# ---- lpkg ----------------------------------------------------------------------------------------


class Lpkg(Manager):
    """lpkg in its installed form, from a signed repository, as a root's etc/lpkg names it."""

    name = "lpkg"
    as_root = False
    verbs = {
        "version": "{lpkg} --version",
        "install": "{lpkg} --root {root} --yes install",
        "noop": "{lpkg} --root {root} --yes upgrade",
        "owner": "{lpkg} --root {root} owner",
        "verify": "{lpkg} --root {root} verify",
        "remove": "{lpkg} --root {root} --yes remove",
        "dry": "{lpkg} --root {root} --dry-run install",
        "update": "{lpkg} --root {root} update",
        "search": "{lpkg} --root {root} search",
        "list": "{lpkg} --root {root} list",
    }
    whole = None

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path) -> None:
        super().__init__(folder, roots)
        self.fields["lpkg"] = self.install_form(folder / "installed")

    def install_form(self, folder: pathlib.Path) -> pathlib.Path:
        """What `make install` makes in FOLDER: the program's path."""
        python = os.path.realpath(sys.executable)
        prepare(TREE / "world/install", LPKG, "/", python, f"BINDIR={folder}/bin",
                f"LIBDIR={folder}/lib", f"INTERPRETER={python} -IS")
        return folder / "bin/lpkg"

    def pack_all(self, packages: List[Package], trees: pathlib.Path, target: pathlib.Path) -> None:
        """Pack as many at a time as there are processors, each its share of PACKAGES."""
        (target / ARCH).mkdir()
        count = os.cpu_count() or 1
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            shares = [(packages[number::count], number) for number in range(count)]
            list(pool.map(lambda share: self.pack_share(*share, trees, target), shares))

    def pack_share(self, packages: List[Package], number: int, trees: pathlib.Path,
                   target: pathlib.Path) -> None:
        """Make PACKAGES as the world's builds do: from one tar of what a build put out."""
        if not packages:
            return
        described = {
            package.name: {"summary": package.summary, "depends": package.depends,
                           "conffiles": package.conffiles} for package in packages
        }
        meta = {"recipe": "bench", "version": "1.0-0", "arch": ARCH, "packages": described}
        meta_file, tar_file = (target / f"{number}.{kind}" for kind in ("json", "tar"))
        meta_file.write_text(json.dumps(meta))
        write_build(tar_file, trees, packages)
        with open(tar_file, "rb") as tar:
            lpkg("pack", "--meta", meta_file, "-o", target / ARCH, stdin=tar)
        meta_file.unlink()
        tar_file.unlink()

    def index(self, packages: List[Package], target: pathlib.Path) -> None:
        lpkg("keygen", target / "bench")
        lpkg("index", target / ARCH, "--secret", target / "bench.key")

    def offer(self, packages: List[Package], target: pathlib.Path) -> None:
        now = int(time.time())
        index = {"serial": now, "created": now, "expires": None, "arch": ARCH}
        offers = ",\n".join(json.dumps(lpkg_offer(package)) for package in packages)
        path = target / ARCH / "index.json"
        path.parent.mkdir()
        path.write_text(f'{json.dumps(index)[:-1]}, "packages": [\n{offers}\n]}}\n')
        lpkg("keygen", target / "bench")
        comment = f"index {ARCH} serial {now}"
        lpkg("sign", path, "--secret", target / "bench.key", "--comment", comment)

    def prepare(self) -> None:
        (self.root / "var/lib/lpkg/installed").mkdir(parents=True)
        self.write("etc/lpkg/repos", f"bench {self.repository}\n")
        key = (self.repository / "bench.pub").read_text()
        self.write("etc/lpkg/keys/bench.pub", key)
        prepare(*self.command("update"))


def lpkg(*arguments: object, **options: object) -> None:
    prepare(sys.executable, LPKG, *arguments, **options)


def write_build(path: pathlib.Path, trees: pathlib.Path, packages: List[Package]) -> None:
    """The tar that a build of PACKAGES would have put out."""
    with tarfile.open(path, "w") as tar:
        for package in packages:
            tar.add(trees / package.name, f"out/{package.name}", filter=owned_by_root)
        add_member(tar, ".status", b"0\n")


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def lpkg_offer(package: Package) -> Dict[str, object]:
    lists: Dict[str, object] = {key: [] for key in (
        "provides", "conflicts", "replaces", "services", "scripts", "setuid", "owners",
        "alternatives")}
    return {
        "name": package.name, "version": "1.0-0", "file": f"{package.name}-1.0-0.{ARCH}.lpkg",
        "size": OFFER_SIZE, "sha256": hashlib.sha256(package.name.encode()).hexdigest(),
        "installed_size": OFFER_INSTALLED, "summary": package.summary, "license": "MIT",
        "recipe": package.name, "url": URL, "depends": package.depends, **lists,
    }


class LpkgScript(Lpkg):
    """lpkg.py as it is copied, with lpkg's packages."""

    name = "lpkg.py"
    verbs = {name: Lpkg.verbs[name] for name in ("version", "install", "update")}

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path) -> None:
        super().__init__(folder, roots)
        self.folder = folder / Lpkg.name

    def install_form(self, folder: pathlib.Path) -> pathlib.Path:
        return LPKG

    def command(self, operation: str, *words: str) -> List[str]:
        python = os.path.realpath(sys.executable)
        return [python, "-I", "-S", *super().command(operation, *words)]

    def make(self, name: str, packages: List[Package], trees: pathlib.Path) -> None:
        """They are made already."""
