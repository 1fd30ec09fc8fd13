"""The package managers that lpkg is compared with, told apart by how they pack and what they say.

apk is apk-tools 3, named by PM_APK or on PATH; xbps is on PATH or in the folder PM_XBPS_BIN;
pacman is in the Debian package pacman-package-manager, dpkg in any Debian. All four want to be
root. lpkg and apk verify a signed index and what it says of each package; xbps checks the SHA-256
that an index without a signature says, pacman and dpkg nothing.

lpkg, apk and dpkg sync before they call a package installed: lpkg and apk all file systems at once
(apk does so by itself in /, and is told to in another root), dpkg each file. xbps and pacman don't.
"""
import base64
import hashlib
import os
import pathlib
import shutil
import tarfile
from typing import Iterator, List, Sequence, Tuple

from corpus import OFFER_INSTALLED, OFFER_SIZE, TIME, Package
from managers import URL, Lpkg, LpkgScript, Manager, add_member
from measure import prepare


# ---- apk-tools 3 ---------------------------------------------------------------------------------


APK_HERE = (
    "{apk} --root {root} --keys-dir {folder}/keys --repositories-file {root}/repositories "
    "--no-cache --no-interactive "
)


class Apk(Manager):
    """apk, from a signed repository; it verifies the index, and each package by the index."""

    name = "apk"
    programs = (os.environ.get("PM_APK", "apk"), "openssl")
    setting = "PM_APK"
    verbs = {
        "version": "{apk} --version",
        "install": APK_HERE + "--sync=yes add",
        "noop": APK_HERE + "--sync=yes upgrade",
        "owner": APK_HERE + "info --who-owns",
        "verify": APK_HERE + "audit --system --check-permissions",
        "remove": APK_HERE + "--sync=yes del",
        "dry": APK_HERE + "--simulate add",
        "update": APK_HERE + "update",
        "search": APK_HERE + "search --exact",
        "list": APK_HERE + "info --quiet",
        "make root": APK_HERE + "--initdb add",
    }
    whole = None

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path) -> None:
        super().__init__(folder, roots)
        self.fields["apk"] = self.programs[0]
        self.key = self.folder / "keys/bench.rsa"

    def make(self, name: str, packages: List[Package], trees: pathlib.Path) -> None:
        if not self.key.exists():
            self.key.parent.mkdir(parents=True)
            prepare("openssl", "genrsa", "-out", self.key, "2048")
            public = self.key.with_suffix(".rsa.pub")
            prepare("openssl", "rsa", "-in", self.key, "-pubout", "-out", public)
        super().make(name, packages, trees)

    def pack(self, package: Package, tree: pathlib.Path, target: pathlib.Path) -> None:
        said = {"name": package.name, "version": "1.0-r0", "arch": "noarch", "license": "MIT",
                "description": package.summary, "depends": " ".join(package.depends)}
        described: List[str] = []
        for key, value in said.items():
            described += ["--info", f"{key}:{value}"] if value else []
        prepare(self.programs[0], "mkpkg", "--files", tree, "--output",
                target / f"{package.name}-1.0-r0.apk", *self.signed(), *described)

    def signed(self) -> List[object]:
        return ["--compression", "deflate:6", "--sign-key", self.key]

    def index(self, packages: List[Package], target: pathlib.Path) -> None:
        files = sorted(path.name for path in target.glob("*.apk"))
        prepare(self.programs[0], "--allow-untrusted", "mkndx", "--output", "APKINDEX.adb",
                *self.signed(), *files, cwd=target)

    def offer(self, packages: List[Package], target: pathlib.Path) -> None:
        """Through an index of apk 2, which is text."""
        text = "".join(map(apk_offer, packages))
        old, new = target / "APKINDEX.tar.gz", target / "APKINDEX.adb"
        with tarfile.open(old, "w:gz") as tar:
            add_member(tar, "DESCRIPTION", b"bench")
            add_member(tar, "APKINDEX", text.encode())
        prepare("sh", "-c", '"$1" --allow-untrusted convndx "$2" >"$3"', "sh", self.programs[0],
                old, new)
        prepare(self.programs[0], "--allow-untrusted", "adbsign", *self.signed(), new)

    def prepare(self) -> None:
        self.write("repositories", f"{self.repository}/APKINDEX.adb\n")
        prepare(*self.command("make root"))


def apk_offer(package: Package) -> str:
    checksum = base64.b64encode(hashlib.sha1(package.name.encode()).digest()).decode()
    depends = f"D:{' '.join(package.depends)}\n" if package.depends else ""
    return (
        f"C:Q1{checksum}\nP:{package.name}\nV:1.0-r0\nA:noarch\nS:{OFFER_SIZE}\n"
        f"I:{OFFER_INSTALLED}\nT:{package.summary}\nU:{URL}\nL:MIT\no:{package.name}\nt:{TIME}\n"
        f"{depends}\n"
    )


# ---- xbps ----------------------------------------------------------------------------------------


XBPS_HERE = "-r {root} -C {root}/no-configuration "
XBPS_FROM = XBPS_HERE + "-i -R {repository} "


def xbps_tool(name: str) -> str:
    return os.path.join(os.environ.get("PM_XBPS_BIN", ""), f"xbps-{name}")


class Xbps(Manager):
    """xbps, from a local repository, whose signature it never asks for."""

    name = "xbps"
    programs = tuple(map(xbps_tool, ("create", "install", "pkgdb", "query", "remove", "rindex")))
    setting = "PM_XBPS_BIN"
    environment = {"XBPS_ARCH": "noarch"}
    verbs = {
        "version": "{xbps}install -V",
        "install": "{xbps}install " + XBPS_FROM + "-y",
        "noop": "{xbps}install " + XBPS_FROM + "-yu",
        "owner": "{xbps}query " + XBPS_HERE + "-o",
        "verify": "{xbps}pkgdb " + XBPS_HERE + "-a",
        "remove": "{xbps}remove " + XBPS_HERE + "-y",
        "dry": "{xbps}install " + XBPS_FROM + "-n",
        "search": "{xbps}query " + XBPS_HERE + "-i --repository={repository} -R",
        "list": "{xbps}query " + XBPS_HERE + "-l",
    }
    whole = None

    def __init__(self, folder: pathlib.Path, roots: pathlib.Path) -> None:
        super().__init__(folder, roots)
        self.fields["xbps"] = xbps_tool("")

    def pack(self, package: Package, tree: pathlib.Path, target: pathlib.Path) -> None:
        depends = " ".join(f"{name}>=0" for name in package.depends)
        conffiles = " ".join(f"/{path}" for path in package.conffiles)
        options = ["--dependencies", depends] if depends else []
        options += ["--config-files", conffiles] if conffiles else []
        prepare(xbps_tool("create"), "-q", "-A", "noarch", "-n", f"{package.name}-1.0_1", "-s",
                package.summary, "--compression", "gzip", *options, tree, cwd=target)

    def index(self, packages: List[Package], target: pathlib.Path) -> None:
        files = sorted(path.name for path in target.glob("*.xbps"))
        prepare(xbps_tool("rindex"), "-a", *files, cwd=target,
                env={**os.environ, **self.environment})

    def offer(self, packages: List[Package], target: pathlib.Path) -> None:
        index = PLIST.format("".join(map(xbps_offer, packages)))
        with tarfile.open(target / "noarch-repodata", "w:gz") as tar:
            add_member(tar, "index.plist", index.encode())
            add_member(tar, "index-meta.plist", PLIST.format("").encode())
            add_member(tar, "stage.plist", PLIST.format("").encode())

    def parse_list(self, text: str) -> Tuple[List[str], List[str]]:
        return parse_states((line.split()[1].rpartition("-")[0], line[:2])
                            for line in text.splitlines())


PLIST = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0">\n<dict>{}</dict>\n</plist>\n'


def xbps_offer(package: Package) -> str:
    depends = "".join(f"<string>{name}&gt;=0</string>" for name in package.depends)
    said = {
        "architecture": "<string>noarch</string>",
        "filename-sha256": f"<string>{hashlib.sha256(package.name.encode()).hexdigest()}</string>",
        "filename-size": f"<integer>{OFFER_SIZE}</integer>",
        "installed_size": f"<integer>{OFFER_INSTALLED}</integer>",
        "pkgver": f"<string>{package.name}-1.0_1</string>",
        "run_depends": f"<array>{depends}</array>" if depends else "",
        "short_desc": f"<string>{package.summary}</string>",
    }
    pairs = "".join(f"<key>{key}</key>{value}" for key, value in said.items() if value)
    return f"<key>{package.name}</key><dict>{pairs}</dict>\n"


def parse_states(pairs: Iterator[Tuple[str, str]]) -> Tuple[List[str], List[str]]:
    """The names whose state is `ii`, and the others."""
    found = list(pairs)
    return ([name for name, state in found if state == "ii"],
            [name for name, state in found if state != "ii"])


# ---- pacman --------------------------------------------------------------------------------------

PACMAN_HERE = "pacman --config {root}/pacman.conf --noconfirm "
PACMAN_CONF = """\
[options]
RootDir = {root}
DBPath = {root}/var/lib/pacman/
CacheDir = {repository}
LogFile = {root}/var/log/pacman.log
HookDir = {root}/etc/pacman.d/hooks/
GPGDir = {root}/etc/pacman.d/gnupg/
Architecture = auto
SigLevel = Never
[bench]
Server = file://{repository}
"""
MTREE = "--options=!all,use-set,type,uid,gid,mode,time,size,md5,sha256,link"


class Pacman(Manager):
    """pacman, from a local repository without signatures; its packages are also its cache."""

    name = "pacman"
    programs = ("pacman", "bsdtar")
    debian = "pacman-package-manager libarchive-tools"
    verbs = {
        "version": "pacman --version",
        "install": PACMAN_HERE + "-S",
        "noop": PACMAN_HERE + "-Su",
        "owner": PACMAN_HERE + "-Qo",
        "verify": PACMAN_HERE + "-Qkk",
        "remove": PACMAN_HERE + "-Rn",
        "dry": PACMAN_HERE + "-S --print",
        "update": PACMAN_HERE + "-Syy",
        "search": PACMAN_HERE + "-Ss",
        "list": PACMAN_HERE + "-Qq",
    }
    whole = "0 altered files"
    says_none_by_status = True

    def words(self, operation: str, words: Sequence[str]) -> List[str]:
        return [f"{self.root}/{word}" for word in words] if operation == "owner" else list(words)

    def pack(self, package: Package, tree: pathlib.Path, target: pathlib.Path) -> None:
        """The tars are made as makepkg makes them."""
        (tree / ".PKGINFO").write_text(package_info(package))
        owners = ("--uid=0", "--gid=0")
        content = (".PKGINFO", *sorted(path.name for path in tree.iterdir() if path.is_dir()))
        mtree = ("-czf", ".MTREE", "--format=mtree", MTREE, *owners, *content)
        prepare("bsdtar", *mtree, cwd=tree)
        file = target / pacman_file(package)
        prepare("bsdtar", "-czf", file, *owners, ".MTREE", *content, cwd=tree)
        (tree / ".PKGINFO").unlink()
        (tree / ".MTREE").unlink()

    def index(self, packages: List[Package], target: pathlib.Path) -> None:
        with tarfile.open(target / "bench.db", "w:gz") as tar:
            for package in packages:
                data = (target / pacman_file(package)).read_bytes()
                text = pacman_offer(package, len(data), hashlib.sha256(data).hexdigest())
                add_member(tar, f"{package.name}-1.0-1/desc", text.encode())

    def offer(self, packages: List[Package], target: pathlib.Path) -> None:
        with tarfile.open(target / "bench.db", "w:gz") as tar:
            for package in packages:
                sha256 = hashlib.sha256(package.name.encode()).hexdigest()
                text = pacman_offer(package, OFFER_SIZE, sha256)
                add_member(tar, f"{package.name}-1.0-1/desc", text.encode())

    def prepare(self) -> None:
        for name in ("lib/pacman", "log"):
            (self.root / "var" / name).mkdir(parents=True)
        fields = {"root": self.root, "repository": self.repository}
        self.write("pacman.conf", PACMAN_CONF.format(**fields))
        prepare(*self.command("update"))

    def repair(self, command: List[str]) -> List[str]:
        """Remove the lock and the entries without a description, and overwrite all files."""
        database = self.root / "var/lib/pacman"
        (database / "db.lck").unlink(missing_ok=True)
        for entry in (database / "local").iterdir():
            if entry.is_dir() and not (entry / "desc").exists():
                shutil.rmtree(entry)
        return [*command, "--overwrite", "*"]


def pacman_file(package: Package) -> str:
    return f"{package.name}-1.0-1-any.pkg.tar.gz"


def package_info(package: Package) -> str:
    lines = [
        f"pkgname = {package.name}", f"pkgbase = {package.name}", "pkgver = 1.0-1",
        f"pkgdesc = {package.summary}", f"builddate = {TIME}", "packager = nobody",
        f"size = {package.size}", "arch = any",
        *(f"backup = {path}" for path in package.conffiles),
        *(f"depend = {name}" for name in package.depends),
    ]
    return "\n".join(lines) + "\n"


def pacman_offer(package: Package, size: int, sha256: str) -> str:
    said = {
        "FILENAME": pacman_file(package), "NAME": package.name, "BASE": package.name,
        "VERSION": "1.0-1", "DESC": package.summary, "CSIZE": size, "ISIZE": package.size,
        "SHA256SUM": sha256, "URL": URL, "LICENSE": "MIT", "ARCH": "any", "BUILDDATE": TIME,
        "PACKAGER": "nobody", "DEPENDS": "\n".join(package.depends),
    }
    return "".join(f"%{key}%\n{value}\n\n" for key, value in said.items() if value)


# ---- dpkg ----------------------------------------------------------------------------------------


class Dpkg(Manager):
    """dpkg, given files. It syncs even where the machine's dpkg.cfg forbids it."""

    name = "dpkg"
    programs = ("dpkg", "dpkg-deb", "dpkg-query")
    debian = "dpkg"
    verbs = {
        "version": "dpkg --version",
        "install": "dpkg --root={root} --log=/dev/null --refuse-unsafe-io --install",
        "owner": "dpkg-query --admindir={root}/var/lib/dpkg --search",
        "verify": "dpkg --root={root} --verify",
        "remove": "dpkg --root={root} --log=/dev/null --refuse-unsafe-io --purge",
        "list": "dpkg-query --admindir={root}/var/lib/dpkg --show "
                "--showformat=${{db:Status-Abbrev}}${{Package}}\\n",
    }
    whole = None

    def words(self, operation: str, words: Sequence[str]) -> List[str]:
        if operation == "install":
            return [f"{self.repository}/{word}.deb" for word in words]
        return super().words(operation, words)

    def pack(self, package: Package, tree: pathlib.Path, target: pathlib.Path) -> None:
        """With md5sums, as debhelper writes them."""
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(deb_control(package))
        (control / "conffiles").write_text("".join(f"/{path}\n" for path in package.conffiles))
        (control / "md5sums").write_text(md5sums(package, tree))
        prepare("dpkg-deb", "-Zgzip", "-z6", "--root-owner-group", "--build", tree,
                target / f"{package.name}.deb")
        shutil.rmtree(control)

    def prepare(self) -> None:
        for name in ("info", "updates", "triggers"):
            (self.root / "var/lib/dpkg" / name).mkdir(parents=True)
        self.write("var/lib/dpkg/status", "")

    def parse_list(self, text: str) -> Tuple[List[str], List[str]]:
        return parse_states((line[3:], line[:2]) for line in text.splitlines())


def deb_control(package: Package) -> str:
    depends = f"Depends: {', '.join(package.depends)}\n" if package.depends else ""
    return (
        f"Package: {package.name}\nVersion: 1.0\nArchitecture: all\n"
        f"Maintainer: nobody <nobody@example.org>\nInstalled-Size: {package.size >> 10}\n{depends}"
        f"Description: {package.summary}\n"
    )


def md5sums(package: Package, tree: pathlib.Path) -> str:
    files = [path for path, content in sorted(package.files.items())
             if not content.startswith("->") and path not in package.conffiles]
    return "".join(f"{hashlib.md5((tree / path).read_bytes()).hexdigest()}  {path}\n"
                   for path in files)


ALL = (Lpkg, LpkgScript, Apk, Xbps, Pacman, Dpkg)
