"""What the package managers are given to install: packages of files, the same for the same seed.

    S      100 packages of 20 files
    M      500 packages of 40 files
    BIG    1 package of 5,000 files
    IDX    10,000 packages that only an index knows; p00000 heads a chain of 200

Of a hundred files fifty-five are text, thirty-five like machine code, ten compressed already.
"""
import hashlib
import os
import pathlib
import random
from typing import Dict, List, NamedTuple, Sequence

SIZES = {"S": (100, 20), "M": (500, 40), "BIG": (1, 5000), "IDX": (10_000, 0)}
QUICK_SIZES = {"S": (8, 20), "M": (10, 40), "BIG": (1, 100), "IDX": (300, 0)}
DEPTH = 200                 # packages in the chain of IDX
LARGEST = 96 << 10          # bytes of a file; the mean comes to some 8 KiB
OFFER_SIZE = 60_000         # bytes of a package of IDX, and
OFFER_INSTALLED = 160_000   # of its files
TIME = 946684800            # mtime of every file, 2000-01-01
WORDS = (
    "the of a to in is package file system option value returns error when path name set user "
    "default string list command print number library function server"
).split()


class Package(NamedTuple):
    """A package; `files` is path -> SHA-256, or `-> TARGET` of a symlink."""

    name: str
    depends: List[str]
    summary: str
    size: int = OFFER_INSTALLED
    files: Dict[str, str] = {}

    @property
    def conffiles(self) -> List[str]:
        return [path for path in self.files if path.startswith("etc/")]

    def is_as_made(self, root: pathlib.Path) -> bool:
        """Whether all its files are in ROOT with the content that they should have."""
        return all(content(root / path) == wanted for path, wanted in self.files.items())


def content(path: pathlib.Path) -> str:
    """What Package.files says of a path; empty for nothing."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


# ---- what is in a file ---------------------------------------------------------------------------


class Author:
    """Writes files, and rolls the dice for all that a corpus leaves to chance."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        numbers = [f"{self.chance.getrandbits(32):x}" for _ in range(5000)]
        self.words = numbers + WORDS * (4 * len(numbers) // len(WORDS))

    def size(self) -> int:
        """Sizes as a distribution's files have them: most are small, few are large."""
        return min(LARGEST, int(self.chance.lognormvariate(8.35, 1.15)))

    def data(self, size: int) -> bytes:
        kind = self.chance.randrange(100)
        if kind < 55:
            return self.text(size)
        return self.code(size) if kind < 90 else self.chance.randbytes(size)

    def text(self, size: int) -> bytes:
        """English and numbers."""
        words = self.chance.choices(self.words, k=size // 4 + 1)
        return " ".join(words).encode()[:size].ljust(size)

    def code(self, size: int) -> bytes:
        """Half of it comes again and again. It has no ELF header: it would not be a true one."""
        chance = self.chance
        patterns = [chance.randbytes(16) + bytes(4) for _ in range(24)]
        parts = []
        for _ in range(size // 20 + 1):
            is_new = chance.random() < 0.45
            parts.append(chance.randbytes(24) if is_new else chance.choice(patterns))
        return b"".join(parts)[:size]

    def summary(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=8))

    def needs(self, first: int, end: int, counts: Sequence[int]) -> List[int]:
        """As many of the numbers from FIRST to END as one of COUNTS says, or as there are."""
        numbers = range(first, end)
        return sorted(self.chance.sample(numbers, min(len(numbers), self.chance.choice(counts))))


# ---- sets of packages ----------------------------------------------------------------------------


def make_set(name: str, seed: str, quick: bool, trees: pathlib.Path) -> List[Package]:
    """The packages of the set NAME; their files are written into TREES/PACKAGE."""
    count, files = (QUICK_SIZES if quick else SIZES)[name]
    author = Author(f"{seed}-{name}")
    if name == "IDX":
        return [make_offer(author, number, count) for number in range(count)]
    return [make_package(author, f"{name.lower()}{number:04}", number, files, trees)
            for number in range(count)]


def make_package(author: Author, name: str, number: int, count: int,
                 trees: pathlib.Path) -> Package:
    """A package of COUNT files, which depends on some of those before it in its set."""
    files, size = {}, 0
    prefix = name.rstrip("0123456789")
    for place in range(count):
        path = make_path(name, place)
        files[path] = write_file(author, trees / name / path)
        size += os.lstat(trees / name / path).st_size
    depends = [f"{prefix}{need:04}" for need in author.needs(0, number, (0, 1, 1, 2, 2, 3, 4))]
    return Package(name, depends, author.summary(), size, files)


def make_path(name: str, number: int) -> str:
    """Of ten files one is a program, three are libraries, one is a symlink, one a manual page."""
    kind, group = number % 10, number // 400
    if kind == 0:
        return f"usr/bin/{name}-{number}"
    if kind < 4:
        return f"usr/lib/{name}/d{group}/lib{number}.so.1"
    if kind == 4:
        return f"usr/lib/{name}/d{group}/lib{number - 1}.so"
    if kind == 5 and number < 20:
        return f"etc/{name}/{number}.conf"
    if kind == 6:
        return f"usr/share/man/man1/{name}-{number}.1"
    return f"usr/share/{name}/s{group}/f{number}.dat"


def write_file(author: Author, path: pathlib.Path) -> str:
    """Make the file or symlink PATH: what Package.files says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".so":
        path.symlink_to(f"{path.name}.1")
        return f"-> {path.name}.1"
    data = author.text(300) if path.suffix == ".conf" else author.data(author.size())
    path.write_bytes(data)
    path.chmod(0o755 if path.parent.name == "bin" or ".so" in path.name else 0o644)
    os.utime(path, (TIME, TIME))
    return hashlib.sha256(data).hexdigest()


def make_offer(author: Author, number: int, count: int) -> Package:
    """A package of IDX: one of the chain, or one that depends on any before it that isn't."""
    depth = min(DEPTH, count)
    if number >= depth:
        needs = author.needs(depth, number, (0, 1, 2, 2, 3, 4, 6))
    else:
        needs = list(range(number + 1, min(number + 2, depth)))
        needs += author.needs(number + 2, depth, (0, 0, 1))
    return Package(offer_name(number), [offer_name(need) for need in needs], author.summary())


def offer_name(number: int) -> str:
    return f"p{number:05}"
