"""Tests of lpkg.py: pure logic directly, the rest in real roots, against the real minisign and
dpkg and real HTTP servers on loopback. `test_sNN_` is the attack of that number in
docs/SECURITY.md."""

import base64
import contextlib
import errno
import fcntl
import gzip
import hashlib
import http.server
import io
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib

import pytest
from conftest import ROOT, free_port, load_tool, pythons, serving

lpkg = load_tool("lpkg")
SCRIPT = os.path.abspath(lpkg.__file__)
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
NOBODY = 65534


# ---- helpers -----------------------------------------------------------------------------------

class Result:
    """What a run of lpkg said."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out.decode(errors="replace")
        self.raw = out
        self.err = err.decode(errors="replace")
        assert "Traceback" not in self.err, self.err

    def ok(self):
        assert self.status == 0, self.err
        return self

    def refused(self, *words, status=1):
        assert self.status == status, (self.status, self.out, self.err)
        last = self.err.strip().split("\n")[-1]
        assert last.startswith("lpkg: "), self.err
        for word in words:
            assert word in last, last
        return self


def run(*arguments, stdin=b"", uid=0, before=None):
    """lpkg in a child that is forked, not started, to save time; BEFORE() runs there first."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            child(arguments, (given, out, err), uid, before)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return Result(os.waitstatus_to_exitcode(status), out.read(), err.read())


def child(arguments, files, uid, before):
    """The forked half of run()."""
    status = 99
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, "r", closefd=False)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False)
        os.sync = lambda: None          # no power is cut here, and other tests write a lot
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        if before:
            before()
        status = lpkg.main([str(one) for one in arguments])
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)            # else this copy of pytest would go on with the other tests


def script(*arguments, stdin=b"", python=sys.executable, **more):
    """lpkg as a program of its own."""
    done = subprocess.run([python, "-I", "-S", SCRIPT, *map(str, arguments)], input=stdin,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    return Result(done.returncode, done.stdout, done.stderr)


def build_tar(packages, status=b"0\n", extra=()):
    """A build's output. PACKAGES: name -> path -> bytes | "-> target" | None (a directory), or a
    pair of one of these and a mode; EXTRA: more TarInfos."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_dir(tar, "out")
        for name, tree in packages.items():
            add_dir(tar, f"out/{name}")
            for path, what in tree.items():
                add(tar, f"out/{name}/{path}", what)
        for member in extra:
            tar.addfile(member)
        if status is not None:
            add(tar, ".status", status)
    return buffer.getvalue()


def add_dir(tar, path, mode=0o755):
    member = tarfile.TarInfo(path)
    member.type = tarfile.DIRTYPE
    member.mode = mode
    tar.addfile(member)


def add(tar, path, what):
    """Add a member as build_tar describes it."""
    data, mode = what if isinstance(what, tuple) else (what, 0o644)
    member = tarfile.TarInfo(path)
    member.mode = mode
    if data is None:
        add_dir(tar, path, 0o755 if mode == 0o644 else mode)
    elif isinstance(data, str):
        member.type = tarfile.SYMTYPE
        member.linkname = data[3:]
        tar.addfile(member)
    else:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def meta_of(names, version="1-0", arch="x86_64", **parts):
    """A META file of packages NAMES (a dict gives their trees, whose setuid files are declared);
    PARTS: name -> its part."""
    packages = {name: dict(parts.get(name, {})) for name in names}
    for name, tree in names.items() if isinstance(names, dict) else ():
        owners = {f"/{path}": f"0:0:{value[1]:o}" for path, value in tree.items()
                  if isinstance(value, tuple) and value[1] & 0o6000}
        if owners and isinstance(packages[name].get("owners", {}), dict):
            packages[name]["owners"] = {**owners, **packages[name].get("owners", {})}
    return {"recipe": "r", "version": version, "arch": arch, "license": "MIT", "url": "http://u",
            "packages": packages}


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """(secret, public) key files."""
    base = tmp_path_factory.mktemp("keys") / "panux"
    run("keygen", base).ok()
    return f"{base}.key", f"{base}.pub"


class World:
    """A repository, and roots that install from it."""

    def __init__(self, folder, keys):
        self.folder = folder
        self.secret, self.key = keys
        self.repo = folder / "repo"
        self.packages = self.repo / "x86_64"
        self.packages.mkdir(parents=True)
        self.root = folder / "root"

    def pack(self, packages, version="1-0", into=None, **parts):
        """Pack PACKAGES (see build_tar), whose META parts are PARTS."""
        meta = self.folder / "meta.json"
        meta.write_text(json.dumps(meta_of(packages, version, **parts)))
        return run("pack", "--meta", meta, "-o", into or self.packages,
                   stdin=build_tar(packages)).ok()

    def index(self, *more):
        """Make the index."""
        return run("index", self.packages, "--secret", self.secret, "--serial-file",
                   self.folder / "serial", *more).ok()

    def arguments(self, verb, *words, root=None, repo=None):
        """The arguments of VERB on the root."""
        source = (
            ["--repo", repo or self.repo, "--key", self.key]
            if verb in ("install", "upgrade", "search")
            else []
        )
        yes = ["--yes"] if verb in ("install", "upgrade", "remove") else []
        arch = ["--arch", "x86_64"] if source else []
        return ["--root", root or self.root, *source, *yes, *arch, verb, *words]

    def do(self, verb, *words, root=None, repo=None, **more):
        """VERB on the root."""
        return run(*self.arguments(verb, *words, root=root, repo=repo), **more)

    def hostile(self, info, members, tail=b"", **changes):
        """Put a package into the repository whose archive holds just these bytes, with an index
        that describes it truly, as far as CHANGES don't say otherwise."""
        data = raw_package(info, members) + tail
        path = self.packages / f"{info['name']}-{info['version']}.x86_64.lpkg"
        path.write_bytes(data)
        offer = dict(offer_of(info, path.name, data), **changes)
        self.sign_index([offer])
        return path

    def sign_index(self, offers, arch="x86_64", comment=None, **changes):
        """Write an index of OFFERS, whatever they say, and sign it."""
        now = int(time.time())
        index = {"serial": now, "created": now, "expires": now + 1000, "arch": arch,
                 "packages": offers, **changes}
        self.write_index(
            lpkg.index_json(index), comment or f"index {arch} serial {index['serial']}"
        )

    def write_index(self, data, comment):
        """Write and sign DATA as the index."""
        path = self.packages / "index.json"
        path.write_bytes(data)
        run("sign", path, "--secret", self.secret, "--comment", comment).ok()


def info_of(name, files, version="1-0", **more):
    """What the record of a package with FILES says."""
    info = {"name": name, "version": version, "arch": "x86_64", "summary": "", "license": "",
            "url": "", "recipe": "", "depends": [], "provides": [], "conflicts": [],
            "replaces": [], "conffiles": [], "services": [], "size": 0, "alternatives": [],
            "scripts": [], "files": files}
    return dict(info, **more)


def offer_of(info, file_name, data):
    """The index's entry of a package with these bytes."""
    offer = {"file": file_name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(),
             "installed_size": 0, "setuid": [], "owners": [],
             "scripts": [one["name"] for one in info["scripts"]]}
    return dict(
        {key: value for key, value in info.items() if key not in ("files", "conffiles")}, **offer
    )


def record_member(info):
    """The record of a package with INFO in its archive, also one that lpkg would not write."""
    said = {key: value for key, value in info.items() if key != "files"}
    lines = []
    for entry in info["files"]:
        kind = {"file": "size sha256", "link": "target"}.get(entry.get("type"), "")
        keys = f"path type mode uid gid {kind}".split()
        lines.append("\t".join(str(entry[key]) for key in keys if key in entry) + "\n")
    text = lpkg.package_line(said) + "".join(lines).encode()
    return member(lpkg.record_entry(len(text)), text)


def raw_package(info, members):
    """The bytes of a package whose archive is a record and then MEMBERS, bytes as they are."""
    return gzip.compress(record_member(info) + b"".join(members) + lpkg.TAR_END)


def directory(path, mode="0755"):
    return dict(lpkg.folder_entry(path), mode=mode)


def regular(path, data=b"x", mode="0644"):
    return lpkg.roots_entry(path, "file", mode, size=len(data),
                            sha256=hashlib.sha256(data).hexdigest())


def symlink(path, target):
    return {"path": path, "type": "link", "mode": "0777", "uid": 0, "gid": 0, "target": target}


def member(entry, data=b""):
    """The bytes of ENTRY in a tar."""
    return lpkg.tar_header(entry) + data + lpkg.padding(len(data))


@pytest.fixture
def world(tmp_path, keys):
    return World(tmp_path, keys)


def snapshot(root):
    """PATH -> what is there, of all that matters in a root."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            there = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(there.st_mode) else ""
            if stat.S_ISREG(there.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            relative = os.path.relpath(path, root)
            if relative not in (lpkg.LOCK, lpkg.SERIALS, lpkg.HISTORY):
                found[relative] = (there.st_mode, there.st_uid, there.st_gid, content)
    return found


def record(root, name):
    """What the database of ROOT has of an installed package."""
    package = lpkg.load_installed(lpkg.Root(str(root)))[name]
    return dict(package.info, files=package.files(), repository=package.repository)


def folder_handler(folder, change=None):
    """A handler that serves FOLDER; CHANGE(handler) may answer in its place."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            if not (change and change(self)):
                super().do_GET()

        def log_message(self, *_):
            pass

    return Handler


# ---- versions and relations --------------------------------------------------------------------

def random_version(rng):
    """A version that dpkg takes, near others of its kind."""
    text = rng.choice("0123456789") + "".join(
        rng.choice("0019aAz.+~-") for _ in range(rng.randrange(7))
    )
    if rng.random() < 0.15:
        text = f"{rng.randrange(3)}:{text}"
    return text.rstrip("-") + rng.choice(["", "-0", "-1", "-10", "-1~a"])


def test_versions_compare_as_dpkg_says():
    rng = random.Random(3)
    for _ in range(400):
        one, two = random_version(rng), random_version(rng)
        if rng.random() < 0.4:
            two = one + rng.choice(["0", "~", "a", ".", ".0", "+"])
        assert lpkg.is_version(one) and lpkg.is_version(two)
        ours = (lpkg.version_key(one) > lpkg.version_key(two)) - (
            lpkg.version_key(one) < lpkg.version_key(two))
        word = {-1: "lt", 0: "eq", 1: "gt"}[ours]
        done = subprocess.run(
            ["dpkg", "--compare-versions", one, word, two], stderr=subprocess.PIPE
        )
        assert done.returncode == 0, (one, word, two, done.stderr)


@pytest.mark.parametrize("version, relation, fits", [
    ("1.2-3", "a=1.2", True), ("1.2-3", "a=1.2-3", True), ("1.2-3", "a=1.2-2", False),
    ("1.2-3", "a>1.2", False), ("1.3-0", "a>1.2", True), ("1.2-3", "a>=1.2", True),
    ("1.2-3", "a<=1.2", True), ("1.2-3", "a<1.2", False), ("1.2~rc1-0", "a<1.2", True),
    ("1.2-3", "a~1.2", True), ("1.2.3-1", "a~1.2", True), ("1.20-1", "a~1.2", False),
    ("1.2a-1", "a~1.2", False), ("1:0.1-0", "a>9", True), ("5-0", "a", True)])
def test_relations(version, relation, fits):
    parsed = lpkg.parse_relation(relation)
    assert lpkg.version_fits(version, parsed.operator, parsed.version) == fits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "a>",
        ">1",
        "a>>1",
        "a==1",
        "a = 1",
        "-a",
        "a\n",
        "a>=1;x",
        5,
        None,
        "a/b",
        "a>=" + "1" * 101,
    ],
)
def test_bad_relations(text):
    with pytest.raises(lpkg.Fail):
        lpkg.parse_relation(text)


def solver_cases():
    """The blocks of lpkg-solver.txt."""
    with open(os.path.join(DATA, "lpkg-solver.txt")) as file:
        blocks = file.read().split("\n\n")
    for block in blocks:
        lines = [line.split() for line in block.split("\n") if line and not line.startswith("#")]
        if lines:
            yield pytest.param(lines[1:], id=" ".join(lines[0][1:]))


def solver_info(words):
    """The info of the package of a line of a case."""
    more = dict(word.split("=", 1) for word in words[2:])
    info = info_of(words[0], [], words[1])
    info.update({key: more[key] if key == "repository" else more[key].split(",") for key in more})
    return info


def installed_package(info):
    """An installed package with this INFO, and of its `repository`, if that says one."""
    package = lpkg.Package(info, None)
    package.repository = info.pop("repository", None)
    return package


def offered_by(repository):
    """All packages that REPOSITORY offers."""
    index = repository.index
    return [package for name in sorted(index.names()) for package in index.find(name)[0]]


def offering(name, infos):
    """A repository that offers packages with these INFOS."""
    repository = lpkg.Repository(name, "", "")
    offers = [offer_of(info, "", b"") for info in infos]
    repository.index = lpkg.Index(lpkg.index_lines(offers), repository)
    return repository


def install_plan(installed, repositories, words, held=()):
    """The plan of an install of WORDS, where all that is INSTALLED was asked for."""
    return lpkg.plan_install(lpkg.Universe(installed, repositories, []),
                             world_of(installed, held=held), words)


def world_of(installed, names=None, held=()):
    """The world that asks for NAMES, or for all, as they are if they are HELD."""
    world = {name: name for name in (installed if names is None else names)}
    return {**world, **{name: f"{name}={installed[name].version}" for name in held}}


@pytest.mark.parametrize("lines", list(solver_cases()))
def test_solver(lines):
    infos = [solver_info(words) for kind, *words in lines if kind == "installed"]
    installed = {info["name"]: installed_package(info) for info in infos}
    repositories = [
        offering(name, [solver_info(words) for kind, *words in lines if kind == name])
        for name in ("repo", "repo2")
    ]
    words = {kind: words for kind, *words in lines}
    kind, *expected = lines[-1]
    world = world_of(installed, words.get("world"), words.get("held", ()))
    universe = lpkg.Universe(installed, repositories, [])
    try:
        if "upgrade" in words:
            plan = lpkg.plan_upgrade(universe, world, words["upgrade"] or list(installed))
        else:
            plan = lpkg.plan_install(universe, world, words["ask"])
    except lpkg.Fail as error:
        assert kind == "refuses" and " ".join(expected) in str(error), str(error)
        return
    system = {f"{package.name}={package.version}" for package in plan.new + plan.stay}
    assert kind == "gives" and system == set(expected)


def test_solver_deep_and_wide():
    infos = [info_of(f"p{number}", [], depends=[f"p{number + 1}"] if number < 2999 else [])
             for number in range(3000)]
    plan = install_plan({}, [offering("r", infos)], ["p0"])
    assert len(plan.new) == 3000


UNIVERSES = 2000


def random_universe(rng):
    """(offered, installed, asked) of at most five names in three versions, with relations of all
    kinds; what is installed is a system in itself."""
    names = "abcde"[:rng.randint(2, 5)]

    def relation(others):
        version = rng.choice(["", "", ">=2-0", "<3-0", "=1-0"])
        return rng.choice(others) + version

    def package(name, number):
        others = [other for other in names if other != name] + ["v"]
        info = info_of(name, [], f"{number}-0")
        info["depends"] = [relation(others) for _ in range(rng.choice([0, 0, 1, 2]))]
        info["conflicts"] = [relation(others) for _ in range(rng.choice([0, 0, 0, 1]))]
        info["provides"] = [rng.choice(["v", "v=2-0"])] if rng.random() < 0.2 else []
        return info

    offered = [package(name, number) for name in names for number in range(1, 4)
               if rng.random() < 0.7]
    installed = [dict(info) for info in offered if rng.random() < 0.2]
    installed = list({info["name"]: info for info in installed}.values())
    asked = [relation([*names, "v"]) for _ in range(rng.randint(1, 2))]
    return offered, installed, asked


def is_system(packages, wants):
    """Whether PACKAGES, at most one of a name, have all that WANTS and they themselves ask for, and
    nothing that one of them won't have."""
    if any(not any(other.satisfies(want) for other in packages) for want in wants):
        return False
    return all(
        all(any(other.satisfies(need) for other in packages) for need in one.relations("depends"))
        and not any(other.satisfies(foe) for other in packages if other is not one
                    for foe in one.relations("conflicts"))
        for one in packages
    )


def systems(choices):
    """Every choice of at most one package of each name."""
    by_name = {}
    for package in choices:
        by_name.setdefault(package.name, [None]).append(package)
    for picked in itertools.product(*by_name.values()):
        yield [package for package in picked if package]


def test_solver_finds_an_answer_exactly_when_there_is_one():
    """Against brute force, on small random universes."""
    rng = random.Random(2026)
    outcomes = {True: 0, False: 0}
    while sum(outcomes.values()) < UNIVERSES:
        offered, installed, asked = random_universe(rng)
        repository = offering("repo", offered)
        there = {info["name"]: lpkg.Package(info, None) for info in installed}
        if not is_system(list(there.values()), []):
            continue
        wants = [lpkg.parse_relation(word) for word in [*asked, *there]]
        choices = offered_by(repository) + list(there.values())
        exists = any(is_system(packages, wants) for packages in systems(choices))
        try:
            plan = install_plan(there, [repository], asked)
        except lpkg.Fail as error:
            assert not exists and str(error), (offered, installed, asked)
            outcomes[False] += 1
            continue
        assert exists and is_system(plan.new + plan.stay, wants), (offered, installed, asked)
        outcomes[True] += 1
    assert min(outcomes.values()) > UNIVERSES / 10


# ---- signatures --------------------------------------------------------------------------------

RFC_8032 = [
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
     "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
]


@pytest.mark.parametrize("public, message, signature", RFC_8032)
def test_ed25519_vectors(public, message, signature):
    public, message, signature = map(bytes.fromhex, (public, message, signature))
    assert lpkg.ed25519_verify(public, message, signature)
    assert not lpkg.ed25519_verify(public, message + b"x", signature)


def test_ed25519_agrees_with_pynacl():
    import nacl.exceptions
    import nacl.signing
    rng = random.Random(8032)
    for number in range(150):
        key = nacl.signing.SigningKey(bytes(rng.randrange(256) for _ in range(32)))
        message = bytes(rng.randrange(256) for _ in range(rng.randrange(80)))
        public, signature = bytearray(bytes(key.verify_key)), bytearray(key.sign(message).signature)
        if number % 3:
            target = signature if number % 3 == 1 else public
            target[rng.randrange(len(target))] ^= 1 << rng.randrange(8)
        try:
            nacl.signing.VerifyKey(bytes(public)).verify(message, bytes(signature))
            expected = True
        except (nacl.exceptions.BadSignatureError, ValueError):
            expected = False
        assert lpkg.ed25519_verify(bytes(public), message, bytes(signature)) == expected
        assert expected == (number % 3 == 0)


def minisign(*arguments, password=None):
    """The real minisign."""
    done = subprocess.run(["minisign", *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, input=password)
    return done.returncode, done.stdout.decode()


def test_minisign_verifies_ours(world, keys):
    path = world.folder / "f"
    path.write_bytes(b"some text\n" * 1000)
    run("sign", path, "--secret", keys[0], "--comment", "a comment of ours").ok()
    status, text = minisign("-Vm", path, "-p", keys[1])
    assert status == 0 and "a comment of ours" in text
    path.write_bytes(b"other text")
    assert minisign("-Vm", path, "-p", keys[1])[0] != 0


@pytest.mark.parametrize("legacy", [False, True])
def test_ours_verifies_minisign(tmp_path, legacy):
    path = tmp_path / "f"
    path.write_bytes(b"text")
    assert minisign("-G", "-W", "-p", tmp_path / "m.pub", "-s", tmp_path / "m.key")[0] == 0
    arguments = ["-l"] if legacy else []
    assert (
        minisign("-S", *arguments, "-m", path, "-s", tmp_path / "m.key", "-t", "trusted words")[0]
        == 0
    )
    signature = (tmp_path / "f.minisig").read_bytes()
    assert base64.b64decode(signature.split(b"\n")[1])[:2] == (b"Ed" if legacy else b"ED")
    key = lpkg.parse_public_key((tmp_path / "m.pub").read_bytes(), "m.pub")
    assert lpkg.check_signature(b"text", signature, [key], "f") == (key, "trusted words")
    with pytest.raises(lpkg.Fail):
        lpkg.check_signature(b"texT", signature, [key], "f")


def test_their_plain_key_signs_with_ours(tmp_path):
    minisign("-G", "-W", "-p", tmp_path / "m.pub", "-s", tmp_path / "m.key")
    (tmp_path / "f").write_bytes(b"text")
    run("sign", tmp_path / "f", "--secret", tmp_path / "m.key").ok()
    assert minisign("-Vm", tmp_path / "f", "-p", tmp_path / "m.pub")[0] == 0


def test_encrypted_keys_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("LPKG_PASSWORD", "geheim")
    (tmp_path / "f").write_bytes(b"text")
    run("keygen", tmp_path / "ours", "--encrypt").ok()
    assert stat.S_IMODE(os.stat(tmp_path / "ours.key").st_mode) == 0o600
    status, text = minisign(
        "-Sm", tmp_path / "f", "-s", tmp_path / "ours.key", password=b"geheim\n"
    )
    assert status == 0, text
    assert minisign("-Vm", tmp_path / "f", "-p", tmp_path / "ours.pub")[0] == 0
    status, text = minisign("-G", "-p", tmp_path / "m.pub", "-s", tmp_path / "m.key",
                            password=b"geheim\ngeheim\n")
    assert status == 0, text
    run("sign", tmp_path / "f", "--secret", tmp_path / "m.key").ok()
    assert minisign("-Vm", tmp_path / "f", "-p", tmp_path / "m.pub")[0] == 0
    monkeypatch.setenv("LPKG_PASSWORD", "falsch")
    run("sign", tmp_path / "f", "--secret", tmp_path / "m.key").refused("wrong password")


def test_scrypt_costs_are_libsodiums():
    assert lpkg.scrypt_cost(33554432, 1 << 30) == (1 << 20, 8, 1)
    assert lpkg.scrypt_cost(524288, 16777216) == (1 << 14, 8, 1)


def test_keygen_is_plain_about_it_and_never_overwrites(tmp_path):
    done = run("keygen", tmp_path / "k").ok()
    assert "NOT encrypted" in done.err
    before = (tmp_path / "k.key").read_bytes()
    run("keygen", tmp_path / "k").refused("k.key", "not overwritten")
    assert (tmp_path / "k.key").read_bytes() == before


def test_signing_without_pynacl_names_what_to_install(tmp_path):
    script("keygen", tmp_path / "k").refused("pip install pynacl")


def signed(keys, data=b"data", comment="index x86_64 serial 1"):
    """(signature file's lines, public key) of DATA."""
    public = lpkg.parse_public_key(open(keys[1], "rb").read(), keys[1])
    text = lpkg.sign_hash(hashlib.blake2b(data).digest(), comment,
                          lpkg.read_secret_key(keys[0]))
    return text.decode().split("\n"), public


def edit_base64(line, edit):
    """A base64 LINE with its bytes changed by EDIT(bytearray)."""
    raw = bytearray(base64.b64decode(line))
    edit(raw)
    return base64.b64encode(bytes(raw)).decode()


def add_l(raw):
    """S + L in the place of S: the same equation, another signature."""
    s = int.from_bytes(raw[42:74], "little") + lpkg.L
    raw[42:74] = s.to_bytes(32, "little")


SIGNATURE_EDITS = {
    "trusted comment": lambda lines: lines[:2]
    + ["trusted comment: index x86_64 serial 2"]
    + lines[3:],
    "no global signature": lambda lines: lines[:3] + [""],
    "empty global signature": lambda lines: lines[:3] + ["", ""],
    "no trusted comment": lambda lines: lines[:2] + ["comment: x"] + lines[3:],
    "key id": lambda lines: [
        lines[0],
        edit_base64(lines[1], lambda raw: raw.__setitem__(2, raw[2] ^ 1)),
        *lines[2:],
    ],
    "ED as Ed": lambda lines: [
        lines[0],
        edit_base64(lines[1], lambda raw: raw.__setitem__(1, 100)),
        *lines[2:],
    ],
    "other kind": lambda lines: [
        lines[0],
        edit_base64(lines[1], lambda raw: raw.__setitem__(1, 65)),
        *lines[2:],
    ],
    "S >= L": lambda lines: [lines[0], edit_base64(lines[1], add_l), *lines[2:]],
    "extra line": lambda lines: lines[:4] + ["x", ""],
    "half a line more": lambda lines: lines[:4] + ["x"],
    "untrusted comment of another kind": lambda lines: ["comment: x"] + lines[1:],
    "base64 with rubbish": lambda lines: [lines[0], lines[1][:8] + "!" + lines[1][8:], *lines[2:]],
    "base64 with spare bits": lambda lines: [
        lines[0],
        lines[1],
        lines[2],
        lines[3][:-3] + chr(ord(lines[3][-3]) + 1) + "==",
    ],
    "short": lambda lines: [lines[0], lines[1][:-4], *lines[2:]],
    "empty": lambda lines: [""],
}


@pytest.mark.parametrize("edit", SIGNATURE_EDITS)
def test_s13_edited_signatures(keys, edit):
    lines, public = signed(keys)
    assert lpkg.check_signature(b"data", "\n".join(lines).encode(), [public], "f")[0] is public
    with pytest.raises(lpkg.Fail):
        lpkg.check_signature(
            b"data", "\n".join(SIGNATURE_EDITS[edit](lines)).encode(), [public], "f"
        )


@pytest.mark.parametrize("public, message, signature", RFC_8032)
def test_s13_s_above_the_order(public, message, signature):
    raw = bytearray(10) + bytes.fromhex(signature)
    add_l(raw)
    assert not lpkg.ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), bytes(raw[10:]))


def test_s13_small_order_keys():
    small = ["0100000000000000000000000000000000000000000000000000000000000000",
             "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
             "0000000000000000000000000000000000000000000000000000000000000000",
             "0000000000000000000000000000000000000000000000000000000000000080",
             "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
             "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"]
    for text in small:
        key = bytes.fromhex(text)
        # with A of order 1 (or 8, for one message in 8) any R = [S]B would do
        for s in range(8):
            point = lpkg.point_sum(s, lpkg.BASE, 0, lpkg.BASE)
            signature = lpkg.point_encode(point) + s.to_bytes(32, "little")
            assert not lpkg.ed25519_verify(key, b"m", signature)


def test_s13_a_small_order_r():
    """The owner of a key can make a signature whose R is neutral; libsodium refuses it too."""
    import nacl.exceptions
    import nacl.signing
    seed = bytes(range(32))
    a = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254
    public = bytes(nacl.signing.SigningKey(seed).verify_key)
    assert lpkg.point_encode(lpkg.point_sum(a % lpkg.L, lpkg.BASE, 0, lpkg.BASE)) == public
    r = bytes([1]) + bytes(31)
    k = int.from_bytes(hashlib.sha512(r + public + b"m").digest(), "little")
    signature = r + (k * a % lpkg.L).to_bytes(32, "little")
    with pytest.raises(nacl.exceptions.BadSignatureError):
        nacl.signing.VerifyKey(public).verify(b"m", signature)
    assert not lpkg.ed25519_verify(public, b"m", signature)


def test_s13_points_that_are_encoded_twice():
    for y in range(lpkg.P, 2 ** 255):
        assert lpkg.point_decode(y.to_bytes(32, "little")) is None
    assert lpkg.point_decode((1 | 1 << 255).to_bytes(32, "little")) is None     # x = 0 with a sign


# ---- pack --------------------------------------------------------------------------------------

TREE = {"bin/app": (b"#!/bin/sh\n", 0o755), "bin/su": (b"su", 0o4755), "bin/link": "-> app",
        "etc/app.conf": b"a=1\n", "tmp": (None, 0o1777), "usr/share/" + "x" * 120: b"long"}


def read_package(path):
    """(what the record says, TarInfos by name) of a package, by Python's own tarfile."""
    with tarfile.open(path, "r:gz") as tar:
        members = tar.getmembers()
        package = lpkg.read_record(tar.extractfile(members[0]).read(), str(path))
        return (
            dict(package.info, files=package.files()),
            {one.name: one for one in members[1:]},
            members,
        )


def test_pack_makes_what_design_says(world):
    out = world.pack({"app": TREE, "empty": {}}, app={
        "summary": "an app", "depends": ["musl>=1.2"], "conffiles": ["/etc/app.conf"],
        "services": ["app"], "owners": {"/etc/app.conf": "5:6:640"}}).out
    path = world.packages / "app-1-0.x86_64.lpkg"
    data = path.read_bytes()
    name, file_name, size, sha256 = out.split("\n")[0].split()
    assert (name, file_name) == ("app", path.name)
    assert (int(size), sha256) == (len(data), hashlib.sha256(data).hexdigest())
    info, members, order = read_package(path)
    assert order[0].name == ".lpkg/record"
    assert [one.name for one in order[1:]] == [entry["path"] for entry in info["files"]]
    assert info["depends"] == ["musl>=1.2"] and info["conffiles"] == ["etc/app.conf"]
    assert info["size"] == sum(entry.get("size", 0) for entry in info["files"])
    entries = {entry["path"]: entry for entry in info["files"]}
    assert entries["etc/app.conf"] == {
        "path": "etc/app.conf",
        "type": "file",
        "mode": "0640",
        "uid": 5,
        "gid": 6,
        "size": 4,
        "sha256": hashlib.sha256(b"a=1\n").hexdigest(),
    }
    assert entries["bin/su"]["mode"] == "4755" and members["bin/su"].mode == 0o4755
    assert entries["bin/link"]["target"] == "app" and members["bin/link"].linkname == "app"
    assert entries["tmp"]["mode"] == "1777" and entries["bin"]["type"] == "dir"
    assert all(one.mtime == 0 and not one.uname and not one.gname for one in order)
    empty, members, _ = read_package(world.packages / "empty-1-0.x86_64.lpkg")
    assert empty["files"] == [] and members == {}
    assert list(world.packages.iterdir()).__len__() == 2


def test_pack_is_deterministic(world):
    backwards = dict(reversed(list(TREE.items())))
    world.pack({"app": TREE})
    first = (world.packages / "app-1-0.x86_64.lpkg").read_bytes()
    world.pack({"app": backwards})
    assert (world.packages / "app-1-0.x86_64.lpkg").read_bytes() == first
    assert first[:10] == bytes([31, 139, 8, 0, 0, 0, 0, 0, 2, 3])      # no time, no name


def test_pack_reads_other_tars(world, tmp_path):
    """GNU tar's long names and `./`, and names that lead to hard links."""
    tree = tmp_path / "b" / "out" / "app"
    tree.mkdir(parents=True)
    (tree / ("d" * 200)).mkdir()
    (tree / ("d" * 200) / ("f" * 200)).write_bytes(b"deep")
    (tree / "one").write_bytes(b"linked")
    os.link(tree / "one", tree / "two")
    (tmp_path / "b" / ".status").write_text("0\n")
    data = subprocess.run(["tar", "-C", tmp_path / "b", "-cf", "-", "./out", "./.status"],
                          stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "m.json").write_text(json.dumps(meta_of(["app"])))
    run("pack", "--meta", tmp_path / "m.json", "-o", world.packages, stdin=data).ok()
    info, members, _ = read_package(world.packages / "app-1-0.x86_64.lpkg")
    assert f"{'d' * 200}/{'f' * 200}" in members
    assert members["one"].size == members["two"].size == 6 and members["two"].isreg()
    world.index()
    world.do("install", "app").ok()
    assert (world.root / "two").read_bytes() == b"linked"
    assert (world.root / ("d" * 200) / ("f" * 200)).read_bytes() == b"deep"


def odd_member(name, kind, **more):
    """A TarInfo of an odd KIND."""
    one = tarfile.TarInfo(name)
    one.type = kind
    for key, value in more.items():
        setattr(one, key, value)
    return one


REFUSED_BUILDS = {
    "cut": (build_tar({"app": TREE}, status=None), "without .status"),
    "cut in the middle": (build_tar({"app": {"a": b"x" * 100000}})[:50000], "out"),
    "nothing": (b"", "tar"),
    "no tar": (b"x" * 5000, "tar"),
    "failed": (build_tar({"app": TREE}, status=b"2\n"), "its .status is 2"),
    "something after .status": (
        build_tar(
            {"app": TREE},
            status=None,
            extra=[
                odd_member(".status", tarfile.REGTYPE),
                odd_member("out/app/zz", tarfile.DIRTYPE),
            ],
        ),
        ".status",
    ),
    "of no package": (build_tar({"app": {}, "other": {"a": b"x"}}), "out/other"),
    "outside out": (build_tar({"app": {}}, extra=[odd_member("etc", tarfile.DIRTYPE)]), "etc"),
    "dots": (build_tar({"app": {"../x": b"x"}}), "../x"),
    "dots in the middle": (build_tar({"app": {"a/../../x": b"x"}}), "a/../../x"),
    "package dots": (
        build_tar({"app": {}}, extra=[odd_member("out/..", tarfile.DIRTYPE)]),
        "out/..",
    ),
    "tab": (build_tar({"app": {"a\tb": b"x"}}), "a\\tb"),
    "newline": (build_tar({"app": {"a\nb": b"x"}}), "a\\nb"),
    "not utf-8": (build_tar({"app": {"a\udcff": b"x"}}), "app"),
    "lpkg's own": (build_tar({"app": {"var/lib/lpkg/journal": b"x"}}), "var/lib/lpkg"),
    "too long": (build_tar({"app": {"x" * 256: b"x"}}), "xxx"),
    "device": (
        build_tar({"app": {}}, extra=[odd_member("out/app/d", tarfile.CHRTYPE)]),
        "out/app/d",
    ),
    "fifo": (
        build_tar({"app": {}}, extra=[odd_member("out/app/f", tarfile.FIFOTYPE)]),
        "out/app/f",
    ),
    "hard link outside": (
        build_tar(
            {"app": {}}, extra=[odd_member("out/app/h", tarfile.LNKTYPE, linkname="etc/shadow")]
        ),
        "etc/shadow",
    ),
    "hard link to nothing": (
        build_tar(
            {"app": {}}, extra=[odd_member("out/app/h", tarfile.LNKTYPE, linkname="out/app/none")]
        ),
        "none",
    ),
    "twice": (
        build_tar({"app": {"a": b"1"}}, extra=[odd_member("out/app/a", tarfile.REGTYPE)]),
        "twice",
    ),
    "below a symlink": (build_tar({"app": {"a": "-> /etc", "a/b": b"x"}}), "a/b"),
    "below a file": (build_tar({"app": {"a": b"", "a/b": b"x"}}), "a/b"),
    "undeclared setuid": (build_tar({"app": {"su": (b"", 0o4755)}}), "owners"),
    "undeclared setgid": (build_tar({"app": {"su": (b"", 0o2755)}}), "/su: 0:0:2755"),
    "a file capability": (
        build_tar({"app": {}}, extra=[odd_member(
            "out/app/ping", tarfile.REGTYPE,
            pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2"})]),
        "security.capability",
    ),
    "an access list": (
        build_tar({"app": {}}, extra=[odd_member(
            "out/app/d", tarfile.DIRTYPE, pax_headers={"SCHILY.acl.access": "user::rwx"})]),
        "an ACL",
    ),
    "huge uid": (
        build_tar({"app": {}}, extra=[odd_member("out/app/u", tarfile.DIRTYPE, uid=1 << 30)]),
        "uid",
    ),
}


@pytest.mark.parametrize("case", REFUSED_BUILDS)
def test_pack_refuses(world, case):
    data, word = REFUSED_BUILDS[case]
    (world.folder / "m.json").write_text(json.dumps(meta_of(["app"])))
    run("pack", "--meta", world.folder / "m.json", "-o", world.packages, stdin=data).refused(word)
    assert os.listdir(world.packages) == []


def test_pack_takes_a_hard_link_into_another_package_for_a_file(world):
    data = build_tar({"a": {"f": (b"1234", 0o755)}, "b": {}}, extra=[
        odd_member("out/b/g", tarfile.LNKTYPE, linkname="out/a/f", mode=0o755)])
    (world.folder / "m.json").write_text(json.dumps(meta_of(["a", "b"])))
    run("pack", "--meta", world.folder / "m.json", "-o", world.packages, stdin=data).ok()
    info, members, _ = read_package(world.packages / "b-1-0.x86_64.lpkg")
    assert members["g"].isreg() and members["g"].size == 4 and members["g"].mode == 0o755


@pytest.mark.parametrize("top", ["out", "out/app"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.REGTYPE])
def test_s24_out_is_no_directory(world, top, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(odd_member(top, kind, linkname="/etc"))
        add(tar, ".status", b"0")
    (world.folder / "m.json").write_text(json.dumps(meta_of(["app"])))
    run("pack", "--meta", world.folder / "m.json", "-o", world.packages,
        stdin=buffer.getvalue()).refused("no directory")


@pytest.mark.parametrize(
    "part, word",
    [
        ({"conffiles": ["etc/none"]}, "etc/none"),
        ({"owners": {"none": "0:0:644"}}, "none"),
        ({"owners": {"bin/app": "root:0:644"}}, "UID:GID:MODE"),
        ({"depends": ["a b"]}, "a b"),
        ({"depends": "a"}, "depends"),
        ({"services": ["../x"]}, "services"),
        ({"conffiles": 5}, "conffiles"),
        ({"owners": []}, "owners"),
        ({"summary": 5}, "summary"),
        ({"owners": {"bin/app": "0:0:99"}}, "mode"),
    ],
)
def test_pack_refuses_meta(world, part, word):
    (world.folder / "m.json").write_text(json.dumps(meta_of({"app": TREE}, app=part)))
    run("pack", "--meta", world.folder / "m.json", "-o", world.packages,
        stdin=build_tar({"app": TREE})).refused(word)
    assert os.listdir(world.packages) == []


# ---- index -------------------------------------------------------------------------------------

def test_index_is_signed_and_ordered(world, keys):
    world.pack({"b": {}, "a": {"f": (b"1234", 0o4755)}}, "1.9-0", a={"summary": "an a"})
    world.pack({"a": {}}, "1.10-0")
    world.index()
    index = json.loads((world.packages / "index.json").read_bytes())
    assert [(one["name"], one["version"]) for one in index["packages"]] == [
        ("a", "1.10-0"), ("a", "1.9-0"), ("b", "1.9-0")]
    assert index["packages"][1]["setuid"] == ["f"] and index["packages"][1]["installed_size"] == 4
    assert index["expires"] == index["created"] + 365 * 86400
    status, text = minisign("-Vm", world.packages / "index.json", "-p", keys[1])
    assert status == 0 and f"index x86_64 serial {index['serial']}" in text
    first = index["serial"]
    world.index()
    assert json.loads((world.packages / "index.json").read_bytes())["serial"] > first
    assert not [name for name in os.listdir(world.packages) if name.endswith(".tmp")]


def test_index_serial_file_and_never(world):
    (world.folder / "serial").write_text("9000000000\n")
    world.index("--expires", "never")
    index = json.loads((world.packages / "index.json").read_bytes())
    assert index["serial"] == 9000000001 and index["expires"] is None
    assert (world.folder / "serial").read_text() == "9000000001\n"


def test_index_refuses(world):
    world.pack({"a": {}})
    shutil.copy(world.packages / "a-1-0.x86_64.lpkg", world.packages / "copy.lpkg")
    arguments = (
        "index",
        world.packages,
        "--secret",
        world.secret,
        "--serial-file",
        world.folder / "s",
    )
    run(*arguments).refused("a-1-0.x86_64.lpkg", "copy.lpkg", "a 1-0")
    (world.packages / "copy.lpkg").write_bytes(b"x")
    run(*arguments).refused("copy.lpkg")
    os.unlink(world.packages / "copy.lpkg")
    run(*arguments, "--arch", "riscv64").refused("riscv64")
    run(*arguments, "--expires", "soon").refused("--expires", status=2)
    assert not (world.packages / "index.json").exists()


def damaged_package(info, data=b"x", tail=b""):
    """A package whose manifest INFO is well told, and whose files hold DATA whatever it says."""
    return raw_package(info, [member(entry, data) for entry in info["files"]]) + tail


def test_index_reads_each_new_package_to_its_last_byte(world):
    arguments = ("index", world.packages, "--secret", world.secret,
                 "--serial-file", world.folder / "serial")
    path = world.packages / "b-1-0.x86_64.lpkg"
    info = info_of("b", [regular("f")])
    path.write_bytes(damaged_package(info, b"y"))
    run(*arguments).refused("f has another content than its record says")
    path.write_bytes(damaged_package(info, tail=b"x"))
    run(*arguments).refused("something follows the archive's end")
    path.write_bytes(damaged_package(dict(info, name="c")))
    run(*arguments).ok()
    index = json.loads((world.packages / "index.json").read_bytes())
    assert index["packages"][0]["name"] == "c"


def test_index_knows_what_it_has_read_through(world, tmp_path):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"2"}})
    world.index()

    def count():
        real = lpkg.read_through
        lpkg.read_through = lambda package: (print(package), real(package))

    def read(*more):
        return run("index", world.packages, "--secret", world.secret, "--serial-file",
                   world.folder / "serial", *more, before=count).ok().out.splitlines()

    assert read() == []
    world.pack({"b": {"g": b"3"}})
    assert read() == ["b 1-0"]
    run("keygen", tmp_path / "other").ok()
    run("index", world.packages, "--secret", tmp_path / "other.key").ok()
    assert read() == ["a 1-0", "b 1-0"]         # who signs trusts nobody else's reading


def test_index_names_what_is_needed_and_not_here(world):
    world.pack({"a": {}, "b": {}}, b={"depends": ["a>=1", "absent>2"]})
    assert "b 1-0 needs absent>2, which is not here\n" in world.index().err


# ---- the page ----------------------------------------------------------------------------------

def page_parts(page):
    """An index.html without its data, and the data."""
    head, mark, rest = page.partition(b'<script type="application/octet-stream">')
    data, end, tail = rest.partition(b"</script>")
    return head + mark + end + tail, json.loads(gzip.decompress(base64.b64decode(data)))


PAGE = ROOT / "world/page.html"


def page_text(index, files):
    return lpkg.page_text(PAGE.read_text(), index, files)


def many_packages(count):
    """(index, files) of COUNT packages: each ninth needs zlib, all need musl by its so: name, and
    vim and busybox provide cmd:vi."""
    rng = random.Random(7)
    words = "audio crypt data disk fast font game graph image mail net shell text tool web".split()
    names = ["busybox", "musl", "vim", "zlib"]
    names += [f"{rng.choice(words)}-{rng.choice(words)}{number}" for number in range(4, count)]
    provides = {"busybox": ["cmd:vi"], "musl": ["so:libc.so"], "vim": ["cmd:vi"],
                "zlib": ["so:libz.so.1=1.3"]}
    offers, files = [], {}
    for number, name in enumerate(names):
        more = ["zlib>=1.2"] if number > 3 and number % 9 == 0 else []
        info = info_of(
            name, [], summary=f"a {rng.choice(words)} {rng.choice(words)} thing", license="MIT",
            url=f"https://example.org/{name}", depends=["so:libc.so"] * (name != "musl") + more,
            provides=provides.get(name, [f"cmd:{name}"]), replaces=["vi"] if name == "vim" else [],
            conflicts=["busybox"] if name == "vim" else [])
        offers.append(offer_of(info, f"{name}-1-0.x86_64.lpkg", name.encode()))
        files[name, "1-0"] = [f"usr/bin/{name}"] + sorted(
            f"usr/share/{name}/{rng.choice(words)}{rng.randrange(1000)}.png" for _ in range(30))
    files["vim", "1-0"].append("usr/bin/vi")
    index = {"serial": 5, "created": 1700000000, "expires": None, "arch": "x86_64",
             "packages": sorted(offers, key=lambda offer: offer["name"])}
    return index, files


class Browser:
    """A Chromium without a window, driven through DevTools: JSON and a zero over two pipes."""

    def __init__(self, folder):
        commands, self.output = os.pipe()
        self.input, answers = os.pipe()
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (commands, answers)]
        self.pid = os.posix_spawnp(
            "chromium",
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update",
             f"--user-data-dir={folder}/profile", "--remote-debugging-pipe", "about:blank"],
            {**os.environ, "HOME": str(folder)},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs[0], 3), (os.POSIX_SPAWN_DUP2, theirs[1], 4),
                          (os.POSIX_SPAWN_OPEN, 1, f"{folder}/chromium.log", os.O_WRONLY
                           | os.O_CREAT, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)])
        for one in (commands, answers, *theirs):
            os.close(one)
        self.buffer, self.count, self.session, self.events = b"", 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """What METHOD gives; what happens meanwhile is kept in `events`."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                assert select.select([self.input], [], [], 60)[0], "Chromium is silent"
                piece = os.read(self.input, 1 << 16)
                assert piece, "Chromium is gone"
                self.buffer += piece
            text, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self.count:
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        """The value of a JavaScript EXPRESSION in the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, expression):
        """The value of EXPRESSION, once it is true of something."""
        for _ in range(600):
            value = self.value(expression)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError((expression, self.value("document.body.innerText")[:500]))

    def open(self, url):
        """Open the page at URL and wait until it is ready."""
        self.call("Page.navigate", url=str(url))
        self.wait("document.readyState === 'complete' && !!document.querySelector('h1, .count')")

    def press(self, *keys):
        """Press KEYS, one after the other, as a person does."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def hits(self):
        """The names of the packages that the list shows."""
        return self.value("[...document.querySelectorAll('.hit b')].map(one => one.textContent)")

    def section(self, title):
        """The lines of a package's section."""
        return self.value(
            f"[...document.querySelectorAll('h2')].filter(one => one.textContent.startsWith("
            f"{json.dumps(title + ' ')})).flatMap(one => [...one.nextSibling.children]"
            ".map(line => line.textContent))")

    def seen(self, *methods):
        """The parameters of the events of these METHODS."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self):
        """End it; what complained meanwhile."""
        self.session = {}
        self.call("Browser.close")
        os.waitpid(self.pid, 0)
        os.close(self.input)
        os.close(self.output)


@pytest.fixture
def browser(tmp_path):
    """A Browser, whose pages must neither complain nor ask for anything but themselves."""
    assert shutil.which("chromium"), "there is no chromium; world/setup test installs it"
    browser = Browser(tmp_path)
    yield browser
    complaints = browser.seen(
        "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    requests = browser.seen("Network.requestWillBeSent")
    browser.close()
    assert not complaints
    assert not [one for one in requests if one["request"]["url"] != one["documentURL"]]


def test_page_has_the_index_and_the_paths(world):
    world.pack({"b": {"etc/empty": None, "bin/b": b"1"}, "a": {}}, b={"summary": "a “b”"})
    world.index("--page", PAGE)
    index = json.loads((world.packages / "index.json").read_bytes())
    text, data = page_parts((world.packages / "index.html").read_bytes())
    assert {key: data[key] for key in ("arch", "serial", "created")} == {
        key: index[key] for key in ("arch", "serial", "created")}
    assert data["packages"] == [
        dict(offer, files=files)
        for offer, files in zip(index["packages"], ([], ["bin/b", "etc/empty/"]))]
    script = text.split(b"<script>")[1].split(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest())
    assert b"script-src 'sha256-" + digest + b"'" in text
    assert b"lpkg search WORD" in text.split(b"<noscript>")[1].split(b"</noscript>")[0]
    files = {("a", "1-0"): [], ("b", "1-0"): ["bin/b", "etc/empty/"]}
    assert page_text(index, files) == (world.packages / "index.html").read_bytes()


def test_page_appears_before_the_index(world):
    world.pack({"a": {}})

    def watch():
        rename = os.rename
        os.rename = lambda old, new: (print(os.path.basename(new)), rename(old, new))

    arguments = ("--secret", world.secret, "--serial-file", world.folder / "serial")
    done = run("index", world.packages, "--page", PAGE, *arguments, before=watch).ok()
    assert done.out.split()[-3:] == ["index.html", "index.json.minisig", "index.json"]


HOSTILE = "</script><script>pwned=1</script><img src=http://127.0.0.1:9/ onerror=pwned=1>"


def hostile_packages():
    """(index, files) of packages whose every text attacks the page."""
    info = info_of("evil", [], summary=HOSTILE, license=HOSTILE, recipe=HOSTILE,
                   url="javascript:pwned=1", depends=["constructor", "__proto__"])
    offers = [offer_of(info, HOSTILE, b""),
              offer_of(info_of("constructor", [], url=" https://x"), "javascript:pwned=1", b"")]
    index, _ = many_packages(1)
    return dict(index, packages=offers), {
        ("evil", "1-0"): [HOSTILE, "bin/evil"], ("constructor", "1-0"): []}


def test_page_has_nothing_of_a_package_outside_its_data():
    text, data = page_parts(page_text(*hostile_packages()))
    assert text == page_parts(page_text(*many_packages(1)))[0]
    assert data["packages"][0]["summary"] == HOSTILE


def test_page_keeps_hostile_texts_inert(tmp_path, browser):
    (tmp_path / "index.html").write_bytes(page_text(*hostile_packages()))
    for name in ("", "evil", "constructor", "__proto__", HOSTILE, "%E0%A4%A"):
        browser.open(f"file://{tmp_path}/index.html#{name}")
        browser.call("Page.reload")
        browser.wait("document.readyState === 'complete' && !!document.querySelector('h1, .count')")
        assert browser.value("typeof pwned") == "undefined"
        links = browser.value(
            "[...document.querySelectorAll('main a')].map(one => one.getAttribute('href'))")
        assert all(link.startswith(("#", "./")) for link in links), links
        assert browser.value("document.querySelectorAll('img, main script').length") == 0
    browser.open(f"file://{tmp_path}/index.html#evil")
    text = browser.wait("location.hash === '#evil' && document.querySelector('main').innerText")
    assert text.count(HOSTILE) == 4 and "javascript:pwned=1" in text
    # Were one to get in after all: the policy lets it neither run nor load.
    browser.value("main.insertAdjacentHTML('beforeend', '<img src=x onerror=pwned=1>')")
    assert browser.value("typeof pwned") == "undefined"
    assert browser.wait("document.querySelector('img').complete")
    refused = browser.seen("Log.entryAdded")
    assert refused and all("Content Security Policy" in one["entry"]["text"] for one in refused)
    browser.events.clear()


def test_page_searches_10000_packages(tmp_path, browser, capsys):
    page = page_text(*many_packages(10000))
    (tmp_path / "index.html").write_bytes(page)
    browser.open(f"file://{tmp_path}/index.html")
    ready = browser.value("performance.now()")
    assert browser.value("document.querySelector('.count').textContent") == "10,000 packages"
    assert len(browser.hits()) == 200
    browser.press(*"zlib")
    assert browser.hits()[0] == "zlib"
    browser.press("Escape", *"cmd:vi")
    assert browser.hits()[:2] == ["busybox", "vim"]
    browser.press("Escape", *"/usr/bin/vi")
    assert browser.hits()[:1] == ["vim"]
    assert browser.value("document.querySelector('.hit code').textContent") == "/usr/bin/vi"
    browser.press("Escape", *"nonesuch")
    assert "No package fits “nonesuch”" in browser.value("document.body.innerText")
    browser.press("Escape")
    assert browser.value("search.value") == "" and len(browser.hits()) == 200
    browser.press(*"game")
    found = browser.value("hits.length")
    assert browser.value("document.querySelector('.count').textContent") == (
        f"{found:,} of 10,000 packages")
    ranks = [0 if name.startswith("game") else 1 for name in browser.hits()]
    assert found > 1000 and len(ranks) == 200 and ranks == sorted(ranks)
    browser.value("document.querySelector('main button').click()")
    assert len(browser.hits()) == 1000
    browser.value("scrollTo(0, 900)")
    browser.value("document.querySelectorAll('.hit')[40].click()")
    browser.wait("!!document.querySelector('h1') && scrollY === 0")
    browser.value("history.back()")
    browser.wait("document.title === 'Packages'")
    assert browser.value("scrollY") == 900 and len(browser.hits()) == 1000
    slowest = {}
    for query in ("a", "zl", "fast thing", "/usr/share/web", "zzz"):
        slowest[query] = browser.value(
            f"(began => {{ search.value = {json.dumps(query)}; seek(); document.body.offsetHeight; "
            "return performance.now() - began; })(performance.now())")
    with capsys.disabled():
        took = ", ".join(f"{query!r} {time:.0f} ms" for query, time in slowest.items())
        print(f"\npage of 10,000 packages: {len(page) / 1e6:.1f} MB, ready in {ready:.0f} ms; "
              f"from a key to its answer: {took}", end=" ")


def test_page_shows_packages_and_goes_back(tmp_path, browser):
    (tmp_path / "index.html").write_bytes(page_text(*many_packages(10000)))
    asked = []
    handler = folder_handler(tmp_path, lambda request: asked.append(request.path))
    with serving(handler) as url:
        browser.open(f"{url}/index.html#zlib")
        assert browser.section("Needs") == ["so:libc.so – musl"]
        needed = browser.section("Needed by")
        assert len(needed) == 30 and all(line.endswith(" zlib>=1.2") for line in needed)
        assert browser.section("Provides") == ["so:libz.so.1=1.3"]
        assert "/usr/bin/zlib" in browser.section("Files")
        assert browser.value("document.title") == "zlib"
        assert browser.value("document.querySelector('dl').innerText").split("\n")[:4] == [
            "Licence", "MIT", "Source", "https://example.org/zlib"]
        browser.value("document.querySelector('main button:not([hidden])').click()")
        assert len(browser.section("Needed by")) == 150
        browser.press("/", *"vim", "Enter")
        browser.wait("document.title === 'vim'")
        assert browser.section("Conflicts with") == ["busybox"]
        assert browser.section("Replaces") == ["vi – not in this repository"]
        browser.value("[...document.querySelectorAll('main a')].find("
                      "one => one.textContent === 'busybox').click()")
        browser.wait("document.title === 'busybox'")
        assert browser.section("Refused by") == ["vim busybox"]
        browser.value("history.back()")
        browser.wait("document.title === 'vim'")
        browser.value("history.back()")
        browser.wait("document.title === 'Packages'")
        assert browser.hits()[0] == "vim"
        browser.value("history.back()")
        browser.wait("document.title === 'zlib'")
        browser.value("location.hash = 'nosuch'")
        browser.wait("document.querySelector('h1').textContent === 'nosuch'")
        assert "no such package" in browser.value("document.body.innerText")
        browser.value("location.hash = 'cmd:vi'")
        browser.wait("document.querySelector('h1').textContent === 'cmd:vi'")
        assert "Provided by busybox, vim." in browser.value("document.body.innerText")
    assert asked == ["/index.html"]


def test_page_in_a_browser_that_is_too_old_or_with_damage(tmp_path, browser):
    page = page_text(*many_packages(9))
    start = page.index(b"octet-stream") + 40
    (tmp_path / "index.html").write_bytes(page[:start] + page[start + 400:])
    browser.call("Page.navigate", url=f"file://{tmp_path}/index.html")
    browser.wait("document.body && document.body.innerText.includes('The page is damaged')")
    browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete self.DecompressionStream")
    browser.call("Page.reload")
    browser.wait("document.body && document.body.innerText.includes('This browser is too old')")


# ---- install, upgrade, remove, queries ---------------------------------------------------------

def test_install_list_files_info_verify_remove(world):
    world.pack(
        {"app": TREE, "lib": {"lib/lib.so": b"so"}},
        app={
            "summary": "an app",
            "depends": ["lib"],
            "conffiles": ["etc/app.conf"],
            "services": ["app"],
        },
    )
    world.index()
    done = world.do("install", "app").ok()
    assert "install  lib  1-0" in done.err and "setuid   /bin/su" in done.err
    assert "linitctl enable app" in done.err
    assert world.do("list").ok().out == "app 1-0\nlib 1-0\n"
    assert "bin/app\n" in world.do("files", "app").ok().out
    assert "summary: an app\n" in world.do("info", "app").ok().out
    assert (world.root / lpkg.WORLD).read_text() == "app\n"
    assert stat.S_IMODE(os.stat(world.root / "bin/su").st_mode) == 0o4755
    assert stat.S_IMODE(os.stat(world.root / "tmp").st_mode) == 0o1777
    assert world.do("verify").ok().out == ""
    for verb in ("list", "verify"):
        assert isinstance(json.loads(world.do(verb, "--json").ok().out), list)
    assert json.loads(world.do("files", "lib", "--json").ok().out)[1]["sha256"]
    assert json.loads(world.do("info", "lib", "--json").ok().out)[0]["name"] == "lib"
    world.do("remove", "lib").refused("app needs lib")
    world.do("remove", "app", "lib").ok()
    left = sorted(name for name in os.listdir(world.root) if name != "var")
    assert left == ["etc"] and os.listdir(world.root / "etc") == ["lpkg"]
    assert world.do("list").out == ""
    assert (world.root / lpkg.WORLD).read_text() == ""


def test_verify_names_each_difference(world):
    world.pack({"app": {"a": b"1", "b": b"2", "c": "-> a", "d/e": b"3", "f": b"4", "g": b"5",
                        "h": b"6"}}, app={"conffiles": ["h"]})
    world.index()
    world.do("install", "app").ok()
    root = world.root
    (root / "a").write_bytes(b"x")
    os.unlink(root / "b")
    os.unlink(root / "c")
    os.symlink("b", root / "c")
    shutil.rmtree(root / "d")
    os.chmod(root / "f", 0o600)
    os.chown(root / "g", 5, 5)
    (root / "h").write_bytes(b"mine")
    done = world.do("verify")
    assert done.status == 1
    assert done.out.split("\n")[:-1] == ["a: content", "b: missing", "c: target", "d: missing",
                                         "d/e: missing", "f: mode", "g: owner"]
    os.mkdir(root / "b")
    assert "b: type\n" in world.do("verify", "app").out


def test_upgrade_changes_files_and_keeps_conffiles(world):
    conffiles = {"conffiles": ["etc/same", "etc/mine", "etc/old", "etc/gone", "etc/dropped"]}
    world.pack({"app": {"bin/app": b"1", "bin/vanishes": b"1", "old/dir/f": b"1", "etc/same": b"1",
                        "etc/mine": b"1", "etc/old": b"1", "etc/gone": b"1", "etc/dropped": b"1"}},
               app=conffiles)
    world.index()
    world.do("install", "app").ok()
    for name in ("mine", "old", "dropped"):
        (world.root / "etc" / name).write_bytes(b"mine")
    os.unlink(world.root / "etc/gone")
    conffiles = {"conffiles": ["etc/same", "etc/mine", "etc/old", "etc/gone"]}
    world.pack({"app": {"bin/app": b"2", "new/f": b"2", "etc/same": b"2", "etc/mine": b"2",
                        "etc/old": b"1", "etc/gone": b"2"}}, "2-0", app=conffiles)
    world.index()
    done = world.do("install", "app").ok()
    assert "upgrade  app  1-0 -> 2-0" in done.err
    for name, what in (("mine", "changed here and stays"), ("gone", "removed here and stays away")):
        assert f"etc/{name}: was {what}; the new one is etc/{name}.lpkg-new" in done.err
    root = world.root
    assert (root / "bin/app").read_bytes() == b"2" and (root / "new/f").read_bytes() == b"2"
    assert not (root / "bin/vanishes").exists() and not (root / "old").exists()
    assert (root / "etc/same").read_bytes() == b"2" and not (root / "etc/same.lpkg-new").exists()
    assert (root / "etc/mine").read_bytes() == b"mine"
    assert (root / "etc/mine.lpkg-new").read_bytes() == b"2"
    assert (root / "etc/old").read_bytes() == b"mine" and not (root / "etc/old.lpkg-new").exists()
    assert not (root / "etc/gone").exists() and (root / "etc/gone.lpkg-new").read_bytes() == b"2"
    assert (root / "etc/dropped").read_bytes() == b"mine"
    assert world.do("verify").ok()
    world.do("remove", "app").ok()
    assert (root / "etc/mine").read_bytes() == b"mine" and not (root / "etc/same").exists()


def test_upgrade_of_one_of_all_and_of_nothing(world):
    world.pack({"app": {"bin/app": b"1"}, "lib": {"lib/lib": b"1"}}, app={"depends": ["lib"]})
    world.index()
    world.do("install", "app").ok()
    assert "nothing to do" in world.do("upgrade").ok().err
    world.pack({"app": {"bin/app": b"2"}, "lib": {"lib/lib": b"2"}}, "2-0",
               app={"depends": ["lib"]})
    world.index()
    world.do("upgrade", "lib").ok()
    assert run("--root", world.root, "list").out == "app 1-0\nlib 2-0\n"
    assert (world.root / "var/lib/lpkg/world").read_text() == "app\n"
    assert "upgrade  app  1-0 -> 2-0" in world.do("upgrade").ok().err
    assert (world.root / "bin/app").read_bytes() == b"2"
    assert world.do("verify").ok()
    world.do("upgrade", "busybox").refused("busybox is not installed")


def chain_world(world):
    """app needs lib needs base; other needs base."""
    world.pack({"app": {"bin/app": b"1"}, "lib": {"lib/lib": b"1"}, "base": {"lib/base": b"1"},
                "other": {"bin/other": b"1"}},
               app={"depends": ["lib"]}, lib={"depends": ["base"]}, other={"depends": ["base"]})
    world.index()
    world.do("install", "app", "other").ok()


def test_what_provides_a_name_that_is_not_installed_is_named(world):
    world.pack({"postfix": {}}, postfix={"provides": ["mta"]})
    world.index()
    world.do("install", "mta").ok()
    for verb in ("remove", "why", "hold", "upgrade"):
        world.do(verb, "mta").refused("mta is not installed; postfix provides it")
    assert "nothing of that is installed" in world.do("remove", "other").ok().err


def test_what_is_to_be_removed_as_well_is_named_at_once(world):
    chain_world(world)
    world.do("remove", "base").refused("remove lib app other as well")
    world.do("remove", "base", "lib").refused("app needs lib; remove app other as well")
    world.do("remove", "base", "lib", "app", "other").ok()


def test_owner_and_why(world):
    chain_world(world)
    done = world.do("owner", "/bin/../lib/base", "bin/app").ok()
    assert done.out == "lib/base: base\nbin/app: app\n"
    world.do("owner", "/bin/none").refused("/bin/none: no package")
    done = world.do("owner", "/x", "/bin/app", "/y").refused("/y: no package")
    assert done.out == "bin/app: app\n" and "/x: no package has brought it\n" in done.err
    os.symlink("bin", world.root / "sbin")
    os.symlink("..", world.root / "bin/up")
    done = world.do("owner", "/sbin/app", "/bin/up/lib/base").ok()
    assert done.out == "bin/app: app\nlib/base: base\n"
    assert world.do("why", "base").ok().out in (
        "base: other needs it\nother: you asked for it\n",
        "base: lib needs it\nlib: app needs it\napp: you asked for it\n")
    assert json.loads(world.do("why", "app", "--json").out) == [
        {"package": "app", "needed_by": None}]
    world.do("why", "none").refused("none is not installed")


def test_autoremove_takes_what_nobody_needs(world):
    chain_world(world)
    assert "nothing to do" in run("--root", world.root, "autoremove").ok().err
    done = world.do("remove", "app").ok()
    assert "nobody needs lib any more" in done.err
    world.do("why", "lib").refused("nobody needs it")
    assert "remove  lib  1-0" in run("--root", world.root, "autoremove", "--dry-run").ok().out
    run("--root", world.root, "--yes", "autoremove").ok()
    assert run("--root", world.root, "list").out == "base 1-0\nother 1-0\n"
    assert not (world.root / "lib/lib").exists() and world.do("verify").ok()
    world.do("remove", "other").ok()
    run("--root", world.root, "--yes", "autoremove").ok()
    assert run("--root", world.root, "list").out == ""


def test_what_is_held_stays(world):
    chain_world(world)
    run("--root", world.root, "hold", "lib").ok()
    run("--root", world.root, "hold", "none").refused("none is not installed")
    world.pack({"app": {"bin/app": b"2"}, "lib": {"lib/lib": b"2"}}, "2-0",
               app={"depends": ["lib>=2"]})
    world.pack({"base": {"lib/base": b"2"}}, "2-0")
    world.index()
    world.do("install", "app=2-0").refused("app 2-0 needs lib>=2",
                                           "lib 1-0 is wanted, and there can be only one lib")
    done = world.do("upgrade")
    assert done.status == 1
    assert "lib 1-0 stays, though lib 2-0 is available: you hold it" in done.err
    assert ("app 1-0 stays, though app 2-0 is available: you want app, app 2-0 needs lib>=2, but "
            "lib 2-0 won't do: lib 1-0 is wanted, and there can be only one lib; it would work "
            "after `lpkg unhold lib`") in done.err
    assert run("--root", world.root, "list").out == "app 1-0\nbase 2-0\nlib 1-0\nother 1-0\n"
    run("--root", world.root, "unhold", "lib").ok()
    world.do("upgrade").ok()
    assert "app 2-0\n" in run("--root", world.root, "list").out
    assert (world.root / lpkg.WORLD).read_text() == "app\nlib\nother\n"


def test_a_version_that_was_asked_for_stays(world):
    """The world is relations: `install NAME=VERSION`, hold and downgrade write the same one."""
    for version in ("1-0", "2-0", "2.1-0", "3-0"):
        world.pack({"a": {"f": version.encode()}}, version)
    world.pack({"b": {"g": b""}}, b={"depends": ["a>=3"]})
    device(world)
    dev(world, "remove", "base").ok()
    for words, relation, version in (
            (["install", "a=1"], "a=1", "1-0"), (["upgrade"], "a=1", "1-0"),
            (["install", "a~2"], "a~2", "2.1-0"), (["upgrade"], "a~2", "2.1-0"),
            (["downgrade", "a"], "a=2-0", "2-0"), (["upgrade", "a"], "a=2-0", "2-0"),
            (["unhold", "a"], "a", "2-0"), (["undo"], "a=2-0", "2-0"),
            (["install", "a<3"], "a<3", "2.1-0"), (["hold", "a"], "a=2.1-0", "2.1-0"),
            (["install", "b"], "a=2.1-0", "2.1-0"), (["install", "a"], "a", "3-0")):
        done = dev(world, *words)
        assert (world.root / lpkg.WORLD).read_text() == relation + "\n", words
        assert dev(world, "list").out == f"a {version}\n", words
        refused = words in (["upgrade", "a"], ["install", "b"])
        assert done.status == int(refused) and ("`lpkg unhold a`" in done.err) >= refused, words
    dev(world, "hold", "a").ok()
    assert "nothing to do" in dev(world, "hold", "a").ok().err
    dev(world, "install", "b").ok()
    dev(world, "remove", "b", "a").ok()
    assert (world.root / lpkg.WORLD).read_text() == ""


def test_https_without_ssl_says_what_to_do(world):
    installed_world(world)

    def no_ssl():
        import http.client
        del http.client.HTTPSConnection

    world.do("install", "c", repo="https://127.0.0.1:1/", before=no_ssl).refused("no ssl", "http:")


def test_a_file_moves_from_one_package_to_another(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}})
    world.index()
    world.do("install", "a", "b").ok()
    world.pack({"a": {}, "b": {"f": b"2", "g": b"2"}}, "2-0")
    world.index()
    world.do("install", "b").refused("both bring f; upgrade both (`lpkg install a b`)")
    world.do("install", "a", "b").ok()
    assert (world.root / "f").read_bytes() == b"2" and world.do("verify").ok()


def test_a_conffile_becomes_a_directory_of_some_and_the_reverse(world):
    world.pack({"a": {"etc/c": b"1"}})
    device(world)
    dev(world, "install", "a").ok()
    world.pack({"a": {"etc/c/d/e": b"2"}}, "2-0")
    world.index()
    dev(world, "upgrade").ok()
    assert (world.root / "etc/c/d/e").read_bytes() == b"2" and world.do("verify").ok()
    dev(world, "undo").ok()
    assert (world.root / "etc/c").read_bytes() == b"1" and world.do("verify").ok()
    (world.root / "etc/c").write_bytes(b"mine")
    dev(world, "upgrade").refused("/etc/c: in the way of a directory; move it away")


def test_a_conffile_whose_name_has_no_room_for_another_beside_it(world):
    path = "etc/" + 255 * "n"
    for version in "12":
        world.pack({"a": {path: version.encode()}}, f"{version}-0")
    world.index()
    world.do("install", "a=1-0").ok()
    run("--root", world.root, "audit").ok()
    world.do("install", "a").ok()
    assert (world.root / path).read_bytes() == b"2"
    world.do("remove", "a").ok()
    assert not (world.root / path).exists()


def test_conflicts_and_strays_are_refused_before_anything_changes(world):
    world.pack({"a": {"f": b"1", "d/x": b"1"}, "b": {"f": b"2"}, "c": {"s": b"3"}, "e": {"d": b"4"},
                "g": {"f/h": b"5"}, "i": {"l": "-> x"}})
    world.index()
    world.do("install", "a").ok()
    (world.root / "s").write_bytes(b"stray")
    os.symlink("y", world.root / "l")
    before = snapshot(world.root)
    world.do("install", "b").refused("a and b both bring f")
    world.do("install", "c").refused("/s", "belongs to no package")
    world.do("install", "e").refused("both bring d")
    world.do("install", "g").refused("both bring f")
    world.do("install", "i").refused("belongs to no package")
    done = world.do("install", "c", "i").refused("/l: belongs to no package")
    assert "/s: belongs to no package" in done.err          # all of them are named
    assert snapshot(world.root) == before
    (world.root / "s").write_bytes(b"3")
    world.do("install", "c").ok()


def test_shared_directories_take_the_opinion_of_who_has_one(world):
    world.pack({"a": {"tmp/f": b"1"}, "b": {"tmp": (None, 0o1777)}, "c": {"tmp": (None, 0o700)}})
    world.index()
    world.do("install", "a", "b").ok()
    assert stat.S_IMODE(os.stat(world.root / "tmp").st_mode) == 0o1777
    world.do("verify").ok()
    world.do("install", "c").refused("tmp", "different modes")


def test_remove_keeps_what_others_have(world):
    world.pack({"a": {"d/a": b"1"}, "b": {"d/b": b"1"}})
    world.index()
    world.do("install", "a", "b").ok()
    (world.root / "d/mine").write_bytes(b"")
    world.do("remove", "a").ok()
    assert (world.root / "d/b").exists()
    world.do("remove", "b").ok()
    assert os.listdir(world.root / "d") == ["mine"]


def test_dry_run_changes_nothing_and_prints_the_plan(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    done = world.do("install", "a", "--dry-run").ok()
    assert done.out.startswith("install  a  1-0") and not world.root.exists()


def test_questions_need_a_terminal(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    run(
        "--root",
        world.root,
        "--repo",
        world.repo,
        "--key",
        world.key,
        "--arch",
        "x86_64",
        "install",
        "a",
    ).refused("--yes")
    assert not world.root.exists()


def test_install_of_what_came_along_says_what_it_changes(world):
    chain_world(world)
    done = run(*[word for word in world.arguments("install", "lib") if word != "--yes"]).ok()
    assert done.err == "it is installed already; from now on you ask for lib\n"
    assert (world.root / lpkg.WORLD).read_text() == "app\nlib\nother\n"


def test_a_query_while_a_package_goes(world):
    chain_world(world)

    def before():
        names = lpkg.Root.names
        lpkg.Root.names = lambda root, path: names(root, path) + ["gone"] * (
            path == lpkg.INSTALLED)

    assert world.do("list", before=before).ok().out == "app 1-0\nbase 1-0\nlib 1-0\nother 1-0\n"
    (world.root / lpkg.INSTALLED / "gone").write_bytes(b"")
    world.do("list").refused("installed/gone: damaged")


def test_nothing_to_do(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    before = snapshot(world.root)
    assert "nothing to do" in world.do("install", "a").ok().err
    assert snapshot(world.root) == before


def test_search(world):
    world.pack({"zlib": {}, "musl": {}}, zlib={"summary": "compression for all"})
    world.index()
    world.do("install", "musl").ok()
    assert world.do("search", "COMPress").ok().out == "zlib 1-0  compression for all\n"
    assert json.loads(world.do("search", "zli", "--json").ok().out)[0]["file"]
    assert world.do("search", "nothing").ok().out == ""
    world.pack({"lib": {}, "a-lib": {}, "libz": {}, "b": {}}, b={"summary": "needs no Lib"})
    world.index()
    assert world.do("search", "LIB").ok().out.split("\n")[:-1] == [
        "lib 1-0  ", "libz 1-0  ", "a-lib 1-0  ", "zlib 1-0  compression for all",
        "b 1-0  needs no Lib"]


def test_configured_repositories_and_keys(world):
    world.pack({"a": {}, "b": {}})
    world.index()
    world.do("install", "a").ok()
    assert (world.root / "etc/lpkg/keys/panux.pub").read_text() == open(world.key).read()
    assert (world.root / "etc/lpkg/repos").read_text() == f"panux {world.repo}\n"
    (world.root / "etc/lpkg/repos").write_text(f"# ours\n\npanux file://{world.repo}\n")
    run("--root", world.root, "--yes", "install", "b").ok()
    assert record(world.root, "b")["repository"] == "panux"
    (world.root / "etc/lpkg/repos").write_text("nonsense\n")
    run("--root", world.root, "--yes", "install", "b").refused("NAME URL")


def test_local_files(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}}, a={"depends": ["b"]})
    files = [world.packages / f"{name}-1-0.x86_64.lpkg" for name in "ab"]
    run("--root", world.root, "--yes", "install", files[0]).refused(
        "not signed", "--allow-unsigned"
    )
    run("--root", world.root, "--yes", "install", files[0], "--allow-unsigned").refused("needs b")
    done = run("--root", world.root, "--yes", "install", *files, "--allow-unsigned").ok()
    assert "NOT SIGNED" in done.err
    assert world.do("verify").ok()
    assert run("files", files[0]).ok().out == "f\n" and "name: a" in run("info", files[0]).ok().out


def test_local_files_need_no_network(world):
    device(world, f"http://127.0.0.1:{free_port()}")
    world.pack({"a": {"f": b"1"}, "b": {}}, b={"depends": ["none"]})
    files = [world.packages / f"{name}-1-0.x86_64.lpkg" for name in "ab"]
    for more in ([], ["--offline"]):
        done = dev(world, "install", files[0], "--allow-unsigned", *more).ok()
        assert "the files are taken without it" in done.err and "a 1-0" in listed(world)
        dev(world, "remove", "a").ok()
    dev(world, "install", files[1], "--allow-unsigned").refused("Connection", status=3)
    dev(world, "install", files[0], "c", "--allow-unsigned").refused("Connection", status=3)


# ---- records as text, the cached index, damage -------------------------------------------------

ODD_CHARS = "ab \\\t\n\r\x0b\x1b\x85\u2028snt=#é\u0130~"


def odd_text(rng, most=12):
    """A text that is hard to keep in a column."""
    return "".join(rng.choice(ODD_CHARS) for _ in range(rng.randrange(most)))


def odd_path(rng):
    """A path that is hard to keep in a list."""
    text = odd_text(rng).replace("\u2028", "").replace("\x85", "")
    return "d/f" + "".join(char for char in text if char >= " ") + str(rng.randrange(1000))


def odd_info(rng, name="a"):
    """An info with odd texts in all that may hold them, and keys that no lpkg knows."""
    paths = sorted({odd_path(rng) for _ in range(3)})
    files = [directory("d"), *(regular(path) for path in paths)]
    info = info_of(name, files, summary=odd_text(rng), license=odd_text(rng), url=odd_text(rng),
                   recipe=odd_text(rng), conffiles=paths[:2], replaces=["x<1"], services=["s"],
                   depends=["b>=1", "so:c", "!d"])
    info["alternatives"] = [{"path": f"d/{number}", "target": odd_path(rng), "priority": number}
                            for number in range(2)]
    info["scripts"] = [{"name": "oninstall", "size": 1, "sha256": "0" * 64}]
    return dict(info, **{"later\n\nd/f": [1, {}], "later": None})


def test_the_database_keeps_every_text():
    rng = random.Random(12)
    for _ in range(300):
        info = odd_info(rng)
        files = info.pop("files")
        lpkg.check_info(info, files, "a")
        data = lpkg.record_text(info, files)
        assert data.count(b"\n") == 1 + len(files)
        package = lpkg.read_record(data, "a")
        paths = {entry["path"] for entry in files[::2]}
        assert package.entries({path.encode() for path in paths}) == files[::2]
        assert (package.info, package.files()) == (info, files)
        lpkg.check_record(lpkg.read_record(data, "a"), data, "a")


def test_the_cached_index_keeps_every_text():
    rng = random.Random(13)
    for _ in range(300):
        info = odd_info(rng)
        package = lpkg.Package(info, None, listing=info["files"])
        offer = dict(package.offer(), file="f", size=1, sha256="0" * 64)
        offer["setuid"] = [odd_path(rng) for _ in range(2)]
        offer["owners"] = ["1:2", "3:4"]
        data = lpkg.index_lines([offer])
        assert data.count(b"\n") == 1 + len(offer["provides"] + offer["replaces"])
        package, = lpkg.Index(data, None).find("a")[0]
        assert package.info == {key: offer[key] for key in lpkg.OFFER_FIELDS}


def test_index_lines_are_found_as_a_dict_finds_them():
    rng = random.Random(14)
    assert lpkg.Index(b"", None).find("a") == ([], [], []) and not lpkg.Index(b"", None).names()
    for count in [1, 2, 3, *(rng.randrange(1, 60) for _ in range(60))]:
        infos = []
        for _ in range(count):
            name = "".join(rng.choice("ab+.-_0") for _ in range(rng.randint(1, 3))).lstrip("+.-_")
            infos.append(info_of(name or "z", [], f"{rng.randrange(9)}-0",
                                 provides=rng.sample(["v", "v=2", "cmd:a"], 1),
                                 replaces=rng.sample(["a", "b<1"], rng.randrange(2))))
        infos = list({(info["name"], info["version"]): info for info in infos}.values())
        index = offering("r", infos).index
        names = {info["name"] for info in infos}
        for name in {*names, "v", "cmd:a", "a", "b", "", "zz", "!", *"abz0", "a+", "aa."}:
            packages, providers, heirs = index.find(name)
            versions = sorted((info["version"] for info in infos if info["name"] == name),
                              key=lpkg.version_key, reverse=True)
            assert [package.version for package in packages] == versions, name
            assert providers == sorted({info["name"] for info in infos if name in [
                text.split("=")[0] for text in info["provides"]]}), name
            assert heirs == sorted({info["name"] for info in infos if name in [
                text.split("<")[0] for text in info["replaces"]]}), name
        provided = {text.split("=")[0] for info in infos for text in info["provides"]}
        assert index.names() == names | provided            # what is only replaced can't be had


def test_search_finds_what_is_there_and_ends():
    infos = [info_of("zlib", [], summary="Compression \u0130n C\tand\nmore"),
             info_of("Vim", [], provides=["cmd:vi"]), info_of("zlib", [], "0-1")]
    index = offering("r", infos).index

    def found(word):
        return [str(index.package(line)) for line in index.search(word)]

    assert found("COMPRESS") == found("compress") == found("ZL") == ["zlib 1-0"]
    assert found("vim") == found("CMD:vi") == ["Vim 1-0"] and found("license") == []
    assert found("") == ["Vim 1-0", "zlib 1-0"]
    for word in ("\t", "\n", "and\nmore"):
        assert found(word) in ([], ["zlib 1-0"])            # it ends


def damaged(rng, data):
    """DATA with some damage: cut, bytes changed, lines lost, twice or in disorder."""
    data = bytearray(data)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(data[:rng.randrange(len(data))])
    if kind == 1:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice(b"\0\t\n !9:<^a\xff")
        return bytes(data)
    lines = bytes(data).split(b"\n")
    at = rng.randrange(len(lines))
    if kind == 2:
        del lines[at]
    elif kind == 3:
        lines.insert(at, rng.choice([*lines, b"", b"junk", b"a\tb\tc\td", b"9" * 5000]))
    else:
        rng.shuffle(lines)
    return b"\n".join(lines)


def device(world, url=None, name="panux", key=None):
    """Let the root have the repository and its key in its configuration; it has `base`."""
    if not (world.packages / "base-1-0.x86_64.lpkg").exists():
        world.pack({"base": {"etc/base": b"1"}})
    world.index()
    world.do("install", "base").ok()
    (world.root / "etc/lpkg/keys").mkdir(parents=True, exist_ok=True)
    shutil.copy(key or world.key, world.root / f"etc/lpkg/keys/{name}.pub")
    (world.root / "etc/lpkg/repos").write_text(f"{name} {url or world.repo}\n")


def dev(world, verb, *words, **more):
    """VERB on the root as it is configured."""
    known = [about for name, about in lpkg.VERBS.items() if name.split()[0] == verb]
    yes = ["--yes"] if any("--yes" in about.options for about in known) else []
    return run("--root", world.root, *yes, verb, *words, **more)


def listed(world):
    return dev(world, "list").ok().out.split("\n")[:-1]


@pytest.mark.parametrize("path", ["installed/base", "index/panux", "queue", "history", "world",
                                  "alternatives", "serials"])
def test_a_damaged_state_is_one_line(world, path):
    """Whatever is in lpkg's own files: it works, or is refused in a line; Result looks for
    tracebacks."""
    device(world)
    world.pack({"app": {"bin/app": b"1"}}, app={
        "provides": ["cmd:x=1"], "replaces": ["y"], "alternatives": [
            {"path": "bin/vi", "target": "app", "priority": 5}]})
    world.pack({"base": {"etc/base": b"2"}}, "2-0")
    world.index()
    dev(world, "update").ok()
    dev(world, "install", "app=1-0").ok()
    state = world.root / lpkg.STATE
    (state / "queue").write_text("failed\tapp\tpost-install\t1-0\n"
                                 "waits\tapp\toninstall\tinstall\t/\n")
    (state / "alternatives").write_text("bin/vi\tapp\n")
    before = world.folder / "before"
    shutil.copytree(world.root, before, symlinks=True)
    data = (state / path).read_bytes()
    rng = random.Random(path)
    refusals = 0
    for _ in range(25):
        (state / path).write_bytes(damaged(rng, data))
        verb, *words = rng.choice([["install", "base"], ["upgrade"], ["list"], ["search", "a"],
                                   ["undo"], ["history"], ["alternatives"], ["owner", "/bin/vi"],
                                   ["info", "x"], ["fix"], ["remove", "app"], ["why", "base"]])
        done = dev(world, verb, *words)
        assert done.status in (0, 1, 3), (verb, done.err)
        refusals += done.status != 0
        if verb not in ("list", "search", "history", "owner", "info", "why"):
            shutil.rmtree(world.root)
            shutil.copytree(before, world.root, symlinks=True)
    assert refusals < 25


def test_a_damaged_list_of_files_is_named_and_can_be_made_anew(world):
    device(world)
    path = world.root / lpkg.INSTALLED / "base"
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    for words in (["verify"], ["remove", "base"]):
        dev(world, *words).refused("var/lib/lpkg/installed/base: its list of files is damaged; "
                                   "restore it or remove it")
    path.unlink()                       # as it said
    dev(world, "install", "base").ok()
    dev(world, "verify").ok()


def test_a_damaged_cached_index_is_fetched_anew(world):
    device(world)
    dev(world, "update").ok()
    path = world.root / lpkg.INDEXES / "panux"
    data = path.read_bytes()
    for bad in (data[:-1], data.replace(b"base", b"bass"), data.replace(b"\t1-0\t", b"\tx:1\t"),
                b"", b"#lpkg\t\n", re.sub(rb"\t\d+\t(?=[0-9a-f]{64}\n)", b"\tnever\t", data)):
        path.write_bytes(bad)
        dev(world, "search", "base").ok()
        assert listed(world) == ["base 1-0"]
        dev(world, "install", "base").ok()
        assert path.read_bytes() == data


# ---- the cached index, update, repositories and keys -------------------------------------------

@contextlib.contextmanager
def counting(world, count, change=None):
    """The repository's server, which appends each path that is asked for to the list COUNT."""
    def note(handler):
        count.append(handler.path.rpartition("/")[2])
        return bool(change and change(handler))

    with serving(folder_handler(world.repo, note)) as url:
        yield url


def test_an_index_is_asked_for_by_update_and_when_there_is_none(world):
    count = []
    with counting(world, count) as url:
        device(world, url)
        world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}})
        world.index()
        dev(world, "search", "a").ok()
        assert count == ["index.json.minisig", "index.json"]
        assert not (world.root / lpkg.INDEXES).exists()     # a query changes nothing
        dev(world, "install", "a").ok()
        assert count[2:] == ["index.json.minisig", "index.json", "a-1-0.x86_64.lpkg"]
        del count[:]
        dev(world, "install", "b").ok()
        dev(world, "search", "a").ok()
        assert count == ["b-1-0.x86_64.lpkg"]               # the cached one does
        dev(world, "update").ok()
        assert count[1:] == ["index.json.minisig"]          # the same signature: the same index
        dev(world, "upgrade").ok()
        assert count[2:] == ["index.json.minisig"]
        world.index()
        del count[:]
        dev(world, "upgrade").ok()                          # upgrade looks first
        assert count == ["index.json.minisig", "index.json"]
        world.pack({"a": {"f": b"2"}}, "2-0")
        world.index()
        dev(world, "install", "a").ok()
        assert "a 1-0" in listed(world)                     # install doesn't, where there is one
        dev(world, "update").ok()
        dev(world, "install", "a").ok()
        assert "a 2-0" in listed(world)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_package_that_the_repository_has_no_longer(world, scheme):
    with serving(folder_handler(world.repo)) as url:
        world.pack({"a": {"f": b"1"}})
        device(world, url if scheme == "http" else None)
        dev(world, "update").ok()
        (world.packages / "a-1-0.x86_64.lpkg").unlink()
        world.pack({"a": {"f": b"2"}}, "2-0")
        world.index()
        dev(world, "install", "a").refused("a-1-0", "`lpkg update` and try again", status=3)
        dev(world, "update").ok()
        dev(world, "install", "a").ok()
        assert "a 2-0" in listed(world)


def test_repo_is_asked_each_time_and_never_cached(world):
    count = []
    with counting(world, count) as url:
        device(world)
        for _ in range(2):
            world.do("install", "base", repo=url).ok()
        assert count == ["index.json.minisig", "index.json"] * 2
    assert not (world.root / lpkg.INDEXES).exists()


def test_a_cached_index_is_of_its_url_architecture_and_time(world):
    device(world)
    dev(world, "update").ok()
    other = World(world.folder / "other", (world.secret, world.key))
    other.pack({"base": {"etc/base": b"2"}}, "2-0")
    time.sleep(1.1)                     # a serial above that of the first
    other.index()
    (world.root / "etc/lpkg/repos").write_text(f"panux {other.repo}\n")
    assert "base 2-0" in dev(world, "search", "base").ok().out
    run("--root", world.root, "search", "base", "--arch", "armv7").refused("armv7/index.json")
    (world.root / "etc/lpkg/repos").write_text(f"panux {world.repo}\n")
    assert "base 1-0" in dev(world, "search", "base").ok().out
    other.index("--expires", "5")
    (world.root / "etc/lpkg/repos").write_text(f"panux {other.repo}\n")
    dev(world, "update").ok()
    soon, late = at_time(time.time() + 4 * 86400), at_time(time.time() + 6 * 86400)
    dev(world, "install", "base", before=soon).ok()
    dev(world, "install", "base", before=late).refused("needs a new index")
    dev(world, "update", before=late).refused("expired on")
    other.index("--expires", "50")      # an expired one is no reason not to look for another
    dev(world, "install", "base", before=late).ok()


def test_a_cached_index_that_has_expired_offline(world):
    with counting(world, []) as url:
        device(world, url)
        world.index("--expires", "5")
        dev(world, "update").ok()
        late = at_time(time.time() + 6 * 86400)
        dev(world, "install", "base", "--offline").ok()
        dev(world, "install", "base", "--offline", before=late).refused("expired on")


def test_update_sees_an_old_index_again(world):
    device(world)
    old = {name: (world.packages / name).read_bytes()
           for name in ("index.json", "index.json.minisig")}
    dev(world, "update").ok()
    cached = (world.root / lpkg.INDEXES / "panux").read_bytes()
    world.index()
    dev(world, "update").ok()
    newer = (world.root / lpkg.INDEXES / "panux").read_bytes()
    assert newer != cached
    for name, data in old.items():
        (world.packages / name).write_bytes(data)
    dev(world, "update").refused("is older than")
    dev(world, "upgrade").refused("is older than")
    assert (world.root / lpkg.INDEXES / "panux").read_bytes() == newer


def test_a_removed_key_takes_what_it_signed(world):
    device(world)
    run("keygen", world.folder / "second").ok()
    dev(world, "update").ok()
    assert dev(world, "key").ok().out.startswith("panux ")
    dev(world, "key", "add", world.folder / "second.pub").ok()
    ids = [line.split()[1] for line in dev(world, "key", "list").out.split("\n")[:-1]]
    assert len(set(ids)) == 2
    assert json.loads(dev(world, "key", "list", "--json").out)[1] == {
        "name": "second", "id": ids[1]}
    assert "trusted already" in dev(world, "key", "add", world.folder / "second.pub").ok().err
    (world.folder / "other").mkdir()
    shutil.copy(world.key, world.folder / "other/second.pub")
    dev(world, "key", "add", world.folder / "other/second.pub").refused("key remove second")
    dev(world, "key", "remove", "none").refused("no such key")
    link = world.root / "etc/lpkg/keys/link.pub"
    link.symlink_to(world.key)
    dev(world, "update").refused(f"{link}: a symlink, and in the root none is followed")
    link.unlink()
    dev(world, "key", "remove", "panux").ok()
    dev(world, "install", "base").refused("panux: no key is trusted for it", "panux.pub")
    assert (world.root / lpkg.SERIALS).read_text() == ""
    dev(world, "key", "add", world.packages / "index.json").refused("not a minisign public key")
    run("--root", world.root, "key", "add", world.key).refused("--yes")
    assert dev(world, "key").out.split()[::2] == ["second"]


def test_repositories_are_added_and_removed(world):
    device(world)
    dev(world, "update").ok()
    (world.root / "etc/lpkg/repos").write_text(f"# mine\npanux {world.repo}\n")
    dev(world, "repo", "add", "two", "http://h/r").ok()
    assert (world.root / "etc/lpkg/repos").read_text() == (
        f"# mine\npanux {world.repo}\ntwo http://h/r\n")
    assert dev(world, "repo").ok().out == f"panux {world.repo}\ntwo http://h/r\n"
    assert json.loads(dev(world, "repo", "list", "--json").out)[1] == {
        "name": "two", "url": "http://h/r"}
    for words, said in ((["two", "http://h/x"], "is there already"),
                        (["#x", "http://h"], "NAME URL"), (["x", "a b"], "NAME URL"),
                        (["x", "a\ny b"], "NAME URL"), (["x", ""], "NAME URL"),
                        (["../x", "http://h"], "NAME URL")):
        dev(world, "repo", "add", *words).refused(said)
    dev(world, "repo", "add", "path", "./repo/", before=lambda: os.chdir(world.folder)).ok()
    assert dev(world, "repo").out.endswith(f"\npath {world.folder}/repo\n")   # from everywhere
    dev(world, "repo", "remove", "path").ok()
    dev(world, "repo", "remove", "three").refused("no repository of it")
    dev(world, "repo", "remove", "two").ok()
    dev(world, "repo", "remove", "panux").ok()
    assert (world.root / "etc/lpkg/repos").read_text() == "# mine\n"
    assert os.listdir(world.root / lpkg.INDEXES) == []
    for words in (["add"], ["list", "x"], ["remove"], ["remove", "a", "b"], ["nonsense"]):
        dev(world, "repo", *words).refused("write lpkg repo", status=2)
    for words in (["add"], ["list", "x"], ["remove"], ["nonsense"]):
        dev(world, "key", *words).refused("write lpkg key", status=2)


@pytest.mark.parametrize("words", [["repo"], ["repo", "add", "a", "b"], ["key", "remove", "a"],
                                   ["update"], ["fetch"], ["clean"], ["fix"], ["audit"], ["key"],
                                   ["history"], ["alternatives"]])
def test_verbs_that_want_a_root_make_none(world, words):
    dev(world, *words).refused("no lpkg database there")
    assert not world.root.exists()
    for words in (["undo"], ["downgrade", "a"], ["downgrade", "a=1"], ["hold", "a"],
                  ["alternatives", "auto", "/a"]):
        assert dev(world, *words).status == 1 and not world.root.exists()


# ---- alternatives ------------------------------------------------------------------------------

def offers_of(*offers):
    """The part of META of a package with these (path, target, priority)."""
    return {"alternatives": [dict(zip(("path", "target", "priority"), one)) for one in offers]}


def alternatives_world(world):
    """busybox, vim and nvi offer bin/vi, the last two with one priority."""
    world.pack({"busybox": {"bin/busybox": b"1"}, "vim": {"bin/vim": b"1"},
                "nvi": {"bin/nvi": b"1"}},
               busybox=offers_of(("bin/vi", "busybox", 10), ("bin/ed", "busybox", 10)),
               vim=offers_of(("bin/vi", "vim", 50)), nvi=offers_of(("bin/vi", "nvi", 50)))
    device(world)


def vi(world):
    """Where bin/vi points."""
    path = world.root / "bin/vi"
    return os.readlink(path) if os.path.lexists(path) else None


def test_alternatives_priority_ties_choice_and_fallback(world):
    alternatives_world(world)
    dev(world, "install", "busybox").ok()
    assert vi(world) == "busybox" and os.readlink(world.root / "bin/ed") == "busybox"
    dev(world, "install", "vim").ok()
    assert vi(world) == "vim"
    dev(world, "install", "nvi").ok()
    assert vi(world) == "nvi"                               # as good as vim, and first by name
    dev(world, "alternatives", "set", "/bin/../bin/vi", "busybox").ok()
    assert vi(world) == "busybox"
    assert dev(world, "alternatives").ok().out == (
        "bin/ed -> busybox  busybox 10 *\nbin/vi -> nvi  nvi 50\nbin/vi -> vim  vim 50\n"
        "bin/vi -> busybox  busybox 10 *\n")
    assert json.loads(dev(world, "alternatives", "list", "--json").out)[1] == {
        "path": "bin/vi", "target": "nvi", "priority": 50, "package": "nvi", "current": False}
    dev(world, "install", "base").ok()
    assert vi(world) == "busybox"                           # a choice lasts
    assert dev(world, "owner", "/bin/vi").ok().out == "bin/vi: busybox\n"
    dev(world, "alternatives", "auto", "bin/vi").ok()
    assert vi(world) == "nvi" and dev(world, "owner", "/bin/vi").out == "bin/vi: nvi\n"
    dev(world, "alternatives", "set", "bin/vi", "vim").ok()
    dev(world, "remove", "vim").ok()
    assert vi(world) == "nvi"                               # what was chosen is gone
    dev(world, "remove", "nvi").ok()
    assert vi(world) == "busybox" and dev(world, "verify").ok()
    dev(world, "remove", "busybox").ok()
    assert vi(world) is None and not (world.root / "bin").exists()


def test_alternatives_refuse_what_is_none(world):
    alternatives_world(world)
    dev(world, "install", "busybox", "vim").ok()
    before = snapshot(world.root)
    dev(world, "alternatives", "set", "bin/none", "vim").refused("no alternatives")
    dev(world, "alternatives", "set", "../bin/none", "vim").refused("/bin/none: no alternatives")
    dev(world, "alternatives", "set", "bin/vi", "nvi").refused("there are vim, busybox")
    for words in (["set"], ["set", "bin/vi"], ["auto"], ["list", "x"], ["nonsense"]):
        dev(world, "alternatives", *words).refused("write lpkg alternatives", status=2)
    dev(world, "alternatives", "set", "bin/vi", "busybox", "--dry-run").ok()
    assert snapshot(world.root) == before


def test_alternatives_are_verified_and_mended(world):
    alternatives_world(world)
    dev(world, "install", "busybox", "vim").ok()
    assert "bin/vi\n" in dev(world, "files", "vim").ok().out
    assert "bin/vi\n" not in dev(world, "files", "busybox").ok().out
    os.unlink(world.root / "bin/vi")
    assert dev(world, "verify").out == "bin/vi: missing\n"
    os.symlink("other", world.root / "bin/vi")
    assert dev(world, "verify").out == "bin/vi: target\n"
    assert dev(world, "verify", "busybox").ok().out == ""
    dev(world, "fix", "vim").ok()
    assert vi(world) == "vim" and dev(world, "verify").ok()
    os.unlink(world.root / "bin/vi")
    (world.root / "bin/vi").mkdir()
    dev(world, "remove", "vim").refused("in the way of a link of busybox")


def test_an_alternative_that_changes(world):
    """Its target, its priority, from a file, into a file, and away."""
    alternatives_world(world)
    dev(world, "install", "busybox", "vim").ok()
    steps = [({"bin/vim2": b"1", "bin/keep": b""}, offers_of(("bin/vi", "vim2", 50)), "vim2"),
             ({"bin/vim2": b"1"}, offers_of(("bin/vi", "vim2", 5)), "busybox"),
             ({"bin/vim2": b"1"}, offers_of(("bin/vi", "vim2", 11)), "vim2"),
             ({"bin/vim2": b"1"}, {}, "busybox")]
    for number, (tree, part, target) in enumerate(steps, 2):
        world.pack({"vim": tree}, f"{number}-0", vim=part)
        world.index()
        dev(world, "upgrade", "vim").ok()
        assert vi(world) == target and dev(world, "verify").ok()
    dev(world, "remove", "busybox").ok()
    world.pack({"vim": {"bin/vi": b"real"}}, "7-0")
    world.index()
    dev(world, "upgrade").ok()
    assert (world.root / "bin/vi").read_bytes() == b"real"
    world.pack({"vim": {"bin/vim": b"real"}}, "8-0", vim=offers_of(("bin/vi", "vim", 1)))
    world.index()
    dev(world, "upgrade").ok()
    assert vi(world) == "vim"
    world.pack({"vim": {"bin/vi": b"again"}}, "9-0")
    world.index()
    dev(world, "upgrade").ok()
    assert (world.root / "bin/vi").read_bytes() == b"again" and dev(world, "verify").ok()


def test_alternatives_and_real_files(world):
    """A file has its path before any alternative, whoever comes or goes first."""
    alternatives_world(world)
    world.pack({"ex": {"bin/vi": b"file"}})
    world.index()
    for come in (["busybox"], ["ex"]), (["ex"], ["busybox"]), (["ex", "busybox"],):
        for names in come:
            dev(world, "install", *names).ok()
        assert (world.root / "bin/vi").read_bytes() == b"file" and dev(world, "verify").ok()
        assert dev(world, "owner", "/bin/vi").out == "bin/vi: ex\n"
        assert "bin/vi\n" not in dev(world, "files", "busybox").ok().out
        assert "bin/vi -> busybox  busybox 10\n" in dev(world, "alternatives").ok().out
        dev(world, "alternatives", "set", "bin/vi", "busybox").refused("has it as a file")
        dev(world, "remove", "ex").ok()
        assert vi(world) == "busybox" and dev(world, "verify").ok()
        dev(world, "install", "ex").ok()
        dev(world, "remove", "busybox").ok()
        assert (world.root / "bin/vi").read_bytes() == b"file" and dev(world, "verify").ok()
        dev(world, "remove", "ex").ok()
        assert not (world.root / "bin").exists()
    tar = run("bootstrap", "--repo", world.repo, "--key", world.key, "--arch", "x86_64",
              "--tar", "-", "ex", "busybox").ok().raw
    with tarfile.open(fileobj=io.BytesIO(tar)) as root:
        assert [member.type for member in root if member.name == "bin/vi"] == [tarfile.REGTYPE]
    (world.root / "bin").mkdir()
    (world.root / "bin/vi").write_bytes(b"mine")
    dev(world, "install", "vim").refused("belongs to no package")
    assert (world.root / "bin/vi").read_bytes() == b"mine"


@pytest.mark.parametrize("offer, word", [
    (("../vi", "x", 1), "alternatives is not valid"), (("/bin/vi", "x", 1), "alternatives"),
    (("bin/app", "x", 1), "is a file of the package"), (("bin/app/vi", "x", 1), "none of its"),
    (("bin/vi", "", 1), "not valid"), (("bin/vi", "a\nb", 1), "not valid"),
    (("bin/vi", "x", -1), "not valid"), (("bin/vi", "x", "1"), "not valid"),
    (("bin/vi", "x", True), "not valid"), (("var/lib/lpkg/world", "x", 1), "not valid"),
    ((".lpkg/x", "x", 1), "not valid")])
def test_alternatives_stay_in_the_root(world, offer, word):
    """As pack refuses them, so does who installs, whatever an archive says."""
    info = info_of("evil", [directory("bin"), regular("bin/app")], scripts=[], replaces=[],
                   alternatives=[dict(zip(("path", "target", "priority"), offer))])
    members = [member(directory("bin")), member(regular("bin/app"), b"x")]
    world.hostile(info, members)
    done = world.do("install", "evil")
    assert done.status == 1 and not world.root.exists(), done.err
    (world.folder / "meta.json").write_text(json.dumps(meta_of(["a"], a=offers_of(offer))))
    done = run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
               stdin=build_tar({"a": {"bin/app": b"1"}}))
    assert done.status == 1 and (word in done.err or "alternative" in done.err), done.err


def test_a_symlink_on_the_way_to_an_alternative_is_not_followed(world):
    alternatives_world(world)
    outside = world.folder / "outside"
    outside.mkdir()
    os.symlink(outside, world.root / "bin")
    dev(world, "install", "busybox").refused("in the way of a directory")
    assert os.listdir(outside) == []


def test_pack_reads_alt_d(world):
    tree = {"etc/lpkg.d/alt.d/vi/50_vim.provider": "-> /usr/bin/vim", "usr/bin/vim": b"1",
            "etc/lpkg.d/alt.d/vi/.target": b"/usr/bin/vi\n"}
    world.pack({"vim": tree})
    info, names, _ = read_package(world.packages / "vim-1-0.x86_64.lpkg")
    assert info["alternatives"] == [
        {"path": "usr/bin/vi", "target": "/usr/bin/vim", "priority": 50}]
    assert "cmd:vi" in info["provides"] and not [name for name in names if "alt.d" in name]
    for broken in ({"etc/lpkg.d/alt.d/vi/x.provider": "-> a", "etc/lpkg.d/alt.d/vi/.target": b"a"},
                   {"etc/lpkg.d/alt.d/vi/5.provider": "-> a"}):
        run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
            stdin=build_tar({"vim": broken})).refused("priority")


# ---- history, undo, downgrade, rebuilt ---------------------------------------------------------

def undo_world(world):
    """app 1 needs lib 1; of both there is a second version."""
    for version in ("1-0", "2-0"):
        data = version.encode()
        world.pack({"app": {"bin/app": data, "etc/app": data}, "lib": {"lib/lib": data}}, version,
                   app={"depends": ["lib"], "conffiles": ["etc/app"]})
    world.pack({"extra": {"f": b"1"}})
    device(world)


def install_first(world, *names):
    """Install the first version of NAMES, without holding it."""
    dev(world, "install", *(f"{name}=1-0" for name in names)).ok()
    asked = world.root / lpkg.WORLD
    asked.write_text(asked.read_text().replace("=1-0", ""))


def whole(world):
    """All that an undo must bring back: every file, the world among them."""
    found = snapshot(world.root)
    return {path: what for path, what in found.items() if not path.startswith(lpkg.INDEXES)}


def same_but_records(one, two):
    """Whether two snapshots are one, the database's notes of a repository aside."""
    def plain(found):
        return {path: what for path, what in found.items()
                if not path.startswith(lpkg.INSTALLED + "/")}
    return plain(one) == plain(two) and one.keys() == two.keys()


def test_undo_of_everything_and_undo_of_that(world):
    undo_world(world)
    install_first(world, "app", "lib")
    steps = [["install", "extra"], ["upgrade"], ["downgrade", "app", "lib"], ["remove", "app"],
             ["autoremove"], ["remove", "extra", "lib"]]
    for words in steps:
        before = whole(world)
        done = dev(world, *words).ok()
        after = whole(world)
        if "nothing to do" in done.err:
            assert after == before
            continue
        assert after != before, words
        dev(world, "undo").ok()
        assert same_but_records(whole(world), before), words
        dev(world, "verify").ok()
        dev(world, "undo").ok()                             # an undo is undone, too
        assert same_but_records(whole(world), after), words
        assert "undo" in dev(world, "history").ok().out.split("\n")[-2]


def test_undo_of_autoremove_and_of_the_world(world):
    undo_world(world)
    install_first(world, "app")
    dev(world, "remove", "app").ok()
    before = whole(world)
    dev(world, "autoremove").ok()
    assert not (world.root / "lib/lib").exists()
    dev(world, "undo").ok()
    assert same_but_records(whole(world), before)
    assert (world.root / lpkg.WORLD).read_text() == "base\n"      # lib was not asked for then
    dev(world, "install", "lib").ok()
    assert "lib" in (world.root / lpkg.WORLD).read_text()
    dev(world, "undo").ok()
    assert (world.root / lpkg.WORLD).read_text() == "base\n"


def test_undo_of_a_hold_says_what_it_changes(world):
    device(world)
    dev(world, "hold", "base").ok()
    assert dev(world, "undo").ok().err == (
        "base is then asked for\nbase=1-0 is no longer asked for\n")
    assert (world.root / lpkg.WORLD).read_text() == "base\n"


def test_undo_keeps_what_was_edited(world):
    undo_world(world)
    install_first(world, "app", "lib")
    (world.root / "etc/app").write_bytes(b"mine")
    dev(world, "upgrade").ok()
    assert (world.root / "etc/app.lpkg-new").read_bytes() == b"2-0"
    dev(world, "undo").ok()
    assert (world.root / "etc/app").read_bytes() == b"mine" and "app 1-0" in listed(world)
    dev(world, "remove", "app").ok()
    assert (world.root / "etc/app").read_bytes() == b"mine"
    dev(world, "undo").ok()
    assert (world.root / "etc/app").read_bytes() == b"mine" and "app 1-0" in listed(world)


def test_undo_by_number_held_and_needed(world):
    undo_world(world)
    install_first(world, "app", "lib")
    dev(world, "install", "extra").ok()
    dev(world, "upgrade").ok()
    numbers = [line.split()[0] for line in dev(world, "history").out.split("\n")[:-1]]
    assert numbers == ["1", "2", "3", "4"]
    assert "extra" in json.loads(dev(world, "history", "--json").out)[2]["command"]
    dev(world, "undo", "3").ok()
    assert listed(world) == ["app 2-0", "base 1-0", "lib 2-0"]
    dev(world, "hold", "app").ok()
    dev(world, "undo", "4").ok()                            # it was asked for by its number
    assert listed(world) == ["app 1-0", "base 1-0", "lib 1-0"]
    assert "nothing to do" in dev(world, "undo", "3").ok().err
    dev(world, "undo", "77").refused("no transaction 77", "lpkg history")
    dev(world, "undo", "x").refused("no transaction x")
    before = snapshot(world.root)
    assert "upgrade  lib" in dev(world, "undo", "--dry-run").ok().out
    assert snapshot(world.root) == before


def test_undo_leaves_what_is_held(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}}, "1-0")
    device(world)
    dev(world, "install", "a", "b").ok()
    world.pack({"a": {"f": b"2"}, "b": {"g": b"2"}}, "2-0", a={"depends": ["b>=2"]})
    world.pack({"b": {"g": b"3"}}, "3-0", b={"conflicts": ["a<2"]})
    world.index()
    dev(world, "upgrade").ok()
    dev(world, "hold", "b").ok()
    before = snapshot(world.root)
    (world.root / lpkg.HISTORY).write_text(
        "9\t0\tx\t= a 1-0 - 2-0 -\n")
    dev(world, "undo").refused("b 3-0", "lpkg unhold b")
    assert snapshot(world.root) == before


def test_undo_that_is_impossible_says_why(world):
    undo_world(world)
    dev(world, "undo", "5").refused("no transaction 5")
    install_first(world, "app", "lib")
    dev(world, "upgrade").ok()
    for name in ("app", "lib"):
        os.unlink(world.packages / f"{name}-1-0.x86_64.lpkg")
    world.index()
    dev(world, "update").ok()
    before = snapshot(world.root)
    dev(world, "undo").refused("app 1-0, as it was, is in no repository any more, and not in the "
                               "cache")
    assert snapshot(world.root) == before


def test_undo_from_the_cache(world):
    undo_world(world)
    (world.root / lpkg.CACHE).mkdir(parents=True)
    install_first(world, "app", "lib")
    dev(world, "upgrade").ok()
    for name in ("app", "lib"):
        os.unlink(world.packages / f"{name}-1-0.x86_64.lpkg")
    world.index()
    dev(world, "update").ok()
    dev(world, "undo").ok()
    assert "app 1-0" in listed(world) and dev(world, "verify").ok()
    dev(world, "upgrade").ok()
    for name in os.listdir(world.root / lpkg.CACHE):
        if "1-0" in name:
            path = world.root / lpkg.CACHE / name
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert dev(world, "undo").status == 1
    assert "app 2-0" in listed(world)


def second_world(world):
    """A second repository with a key of its own, in the root's configuration."""
    (world.folder / "two").mkdir(exist_ok=True)
    run("keygen", world.folder / "two/key").ok()
    second = World(world.folder / "two",
                   (world.folder / "two/key.key", world.folder / "two/key.pub"))
    shutil.copy(second.key, world.root / "etc/lpkg/keys/two.pub")
    with open(world.root / "etc/lpkg/repos", "a") as file:
        file.write(f"two {second.repo}\n")
    return second


def test_s14_neither_undo_nor_fix_take_another_repository_s(world):
    undo_world(world)
    second = second_world(world)
    second.pack({"lib": {"lib/lib": b"evil"}}, "1-0")
    second.pack({"lib": {"lib/lib": b"evil"}}, "2-0")
    second.index()
    install_first(world, "lib")
    dev(world, "upgrade").ok()
    os.unlink(world.packages / "lib-1-0.x86_64.lpkg")
    world.index()
    dev(world, "update").ok()
    dev(world, "undo").refused("lib 1-0, as it was, is in no repository any more")
    (world.root / "lib/lib").write_bytes(b"broken")
    dev(world, "fix", "lib").ok()
    assert (world.root / "lib/lib").read_bytes() == b"2-0"
    os.unlink(world.packages / "lib-2-0.x86_64.lpkg")
    world.pack({"lib": {"lib/lib": b"3-0"}}, "3-0")
    world.index()
    dev(world, "update").ok()
    dev(world, "fix", "lib").refused("lib 2-0, as it was, is in no repository any more")


def test_s14_replaces_and_provides_of_another_repository(world):
    world.pack({"busybox": {"bin/sh": b"good"}})
    device(world)
    dev(world, "install", "busybox").ok()
    second = second_world(world)
    second.pack({"evil": {"bin/evil": b"1"}, "busybox": {"bin/sh": b"evil"}, "game": {}}, "9-0",
                evil={"replaces": ["busybox"], "provides": ["busybox"]},
                busybox={"provides": ["gamelib"]}, game={"depends": ["gamelib"]})
    second.pack({"other": {}}, "9-0", other={"depends": ["evil"]})
    second.index()
    dev(world, "upgrade").ok()
    dev(world, "install", "game").refused("game 9-0 needs gamelib")
    dev(world, "install", "other").refused("evil 9-0 conflicts with busybox 1-0")
    dev(world, "install", "evil").refused("evil 9-0 conflicts with busybox 1-0")
    assert listed(world) == ["base 1-0", "busybox 1-0"]
    dev(world, "install", "busybox@two").ok()               # as the user says
    assert "busybox 9-0" in listed(world) and record(world.root, "busybox")["repository"] == "two"
    assert "nothing to do" in dev(world, "install", "busybox@two").ok().err
    dev(world, "upgrade").ok()                              # evil is of its own repository now
    assert listed(world) == ["base 1-0", "evil 9-0"]
    dev(world, "install", "base@nowhere").refused("no repository is called nowhere")


def test_rebuilt(world):
    world.pack({"a": {"f": b"1"}})
    device(world)
    dev(world, "install", "a").ok()
    os.unlink(world.packages / "a-1-0.x86_64.lpkg")
    world.pack({"a": {"f": b"2"}})
    world.index()
    done = dev(world, "upgrade").ok()
    assert "rebuilt  a  1-0 -> 1-0" in done.err and (world.root / "f").read_bytes() == b"2"
    assert "nothing to do" in dev(world, "upgrade").ok().err
    os.unlink(world.packages / "a-1-0.x86_64.lpkg")
    world.pack({"a": {"f": b"3"}})
    world.index()
    dev(world, "update").ok()
    assert json.loads(dev(world, "install", "a", "--dry-run", "--json").ok().out) == [
        {"action": "rebuilt", "name": "a", "version": "1-0", "old_version": "1-0",
         "download": os.path.getsize(world.packages / "a-1-0.x86_64.lpkg"), "installed_size": 1}]
    dev(world, "install", "base").ok()
    assert (world.root / "f").read_bytes() == b"2"          # who asks for another gets another
    dev(world, "install", "a").ok()
    assert (world.root / "f").read_bytes() == b"3"


def test_what_is_held_is_not_rebuilt(world):
    world.pack({"a": {"f": b"1"}})
    device(world)
    dev(world, "install", "a").ok()
    dev(world, "hold", "a").ok()
    os.unlink(world.packages / "a-1-0.x86_64.lpkg")
    world.pack({"a": {"f": b"2"}})
    world.index()
    for words in ((), ("a",)):
        done = dev(world, "upgrade", *words)
        assert done.status == bool(words) and done.err.endswith(
            "a 1-0 stays, though another build is available: "
            "you hold it; `lpkg unhold a` ends that\n")
    assert (world.root / "f").read_bytes() == b"1"
    dev(world, "unhold", "a").ok()
    dev(world, "upgrade").ok()
    assert (world.root / "f").read_bytes() == b"2"


def test_downgrade(world):
    for version in ("1-0", "2-0", "3-0"):
        world.pack({"a": {"f": version.encode()}}, version)
    world.pack({"app": {}}, app={"depends": ["a"]})
    device(world)
    dev(world, "install", "app").ok()
    done = dev(world, "downgrade", "a").ok()
    assert "downgrade  a  3-0 -> 2-0" in done.err
    dev(world, "downgrade", "a=1-0").ok()
    assert "a 1-0" in listed(world)
    dev(world, "downgrade", "a").refused("no repository has an older version")
    dev(world, "downgrade", "none").refused("none is not installed")
    dev(world, "downgrade", "none=1").refused("none is not installed")
    assert "nothing to do" in dev(world, "downgrade", "a=1-0").ok().err
    assert "you hold it; `lpkg unhold a`" in dev(world, "upgrade").ok().err
    assert (world.root / lpkg.WORLD).read_text() == "a=1-0\napp\nbase\n"
    dev(world, "unhold", "a").ok()
    dev(world, "upgrade").ok()
    assert "a 3-0" in listed(world)


def test_history_is_short_and_keeps_odd_commands(world):
    device(world)
    odd = os.fsencode(str(world.folder)) + b"/\xff\n\t\\.lpkg"
    shutil.copy(world.packages / "base-1-0.x86_64.lpkg", odd)
    world.pack({"other": {"f": b"1"}})
    shutil.copy(world.packages / "other-1-0.x86_64.lpkg", odd)
    run("--root", world.root, "--yes", "--allow-unsigned", "install", os.fsdecode(odd)).ok()
    last = json.loads(dev(world, "history", "--json").ok().out)[-1]
    assert last["command"].endswith("\n\t\\.lpkg")
    assert dev(world, "history").out.count("\n") == 2
    plan = lpkg.settle({}, {}, {})
    text = b""
    for number in range(250):
        text = lpkg.history_text(text, plan, {"x": "x"}, f"step transaction\t{number}")
    numbers = [int(line.partition(b"\t")[0]) for line in text.splitlines()]
    assert numbers == list(range(251 - lpkg.HISTORY_LENGTH, 251))


# ---- fetch, the cache, offline, audit, fix, the plan -------------------------------------------

def test_fetch_offline_and_clean(world):
    count = []
    with counting(world, count) as url:
        world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}, "c": {"h": b"1"}}, a={"depends": ["b"]})
        device(world, url)
        dev(world, "install", "--offline", "a").refused("--offline", status=3)
        dev(world, "fetch", "a").ok()
        assert len(os.listdir(world.root / lpkg.CACHE)) == 2 and listed(world) == ["base 1-0"]
        del count[:]
        dev(world, "install", "--offline", "c").refused("not in the cache", "lpkg fetch c",
                                                        status=3)
        dev(world, "install", "--offline", "a").ok()
        assert count == [] and listed(world) == ["a 1-0", "b 1-0", "base 1-0"]
        world.pack({"a": {"f": b"2"}}, "2-0")
        world.index()
        assert "nothing to do" in dev(world, "upgrade", "--offline").ok().err
        dev(world, "fetch").ok()                            # what an upgrade would want
        assert len(os.listdir(world.root / lpkg.CACHE)) == 3
        del count[:]
        dev(world, "upgrade", "--offline").ok()
        assert count == [] and "a 2-0" in listed(world)
    (world.root / lpkg.CACHE / "lost+found").mkdir()        # the cache may be a file system
    assert "3 files" in dev(world, "clean").ok().err
    assert os.listdir(world.root / lpkg.CACHE) == ["lost+found"]
    (world.root / "etc/lpkg/repos").write_text("")
    dev(world, "clean").ok()
    assert os.listdir(world.root / lpkg.INDEXES) == []


def test_fetch_of_what_is_installed_serves_a_fix_and_an_undo(world):
    with serving(folder_handler(world.repo)) as url:
        world.pack({"a": {"f": b"1"}})
        device(world, url)
        dev(world, "install", "a").ok()
        (world.root / "f").write_bytes(b"x")
        dev(world, "fix", "a", "--offline").refused("`lpkg fetch a` puts it there", status=3)
        assert "1 package in" in dev(world, "fetch", "a").ok().err
        dev(world, "fix", "a", "--offline").ok()
        assert (world.root / "f").read_bytes() == b"1"
        (world.packages / "a-1-0.x86_64.lpkg").unlink()
        world.pack({"a": {"f": b"2"}}, "2-0")
        world.index()
        dev(world, "upgrade").ok()
        dev(world, "undo").ok()
        assert (world.root / "f").read_bytes() == b"1"


@pytest.mark.parametrize("change", ["other", "short", "link", "fifo"])
def test_s26_an_altered_cache_is_not_believed(world, change):
    world.pack({"a": {"f": b"1"}})
    device(world)
    dev(world, "fetch", "a").ok()
    name, = os.listdir(world.root / lpkg.CACHE)
    path = world.root / lpkg.CACHE / name
    data = path.read_bytes()
    path.unlink()
    if change == "other":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif change == "short":
        path.write_bytes(data[:-1])
    elif change == "link":
        os.symlink("x" * len(data), path)       # as long as the package
    else:
        os.mkfifo(path)
    dev(world, "install", "a").ok()
    assert (world.root / "f").read_bytes() == b"1" and path.read_bytes() == data
    assert not path.is_symlink()


def test_audit_and_fix(world):
    conffiles = {"conffiles": ["etc/a", "etc/b", "etc/c", "etc/d"]}
    tree = {f"etc/{name}": b"old\n" for name in "abcd"}
    world.pack({"app": {**tree, "bin/app": b"1"}}, app=conffiles)
    device(world)
    dev(world, "install", "app").ok()
    assert dev(world, "audit").ok().out == ""
    for name in "ab":
        (world.root / "etc" / name).write_bytes(b"mine\n")
    os.unlink(world.root / "etc/c")
    os.unlink(world.root / "etc/d")
    os.mkdir(world.root / "etc/d")
    assert dev(world, "audit").out == (
        "etc/a: changed\netc/b: changed\netc/c: missing\netc/d: changed\n")
    assert json.loads(dev(world, "audit", "app", "--json").out)[0] == {
        "path": "etc/a", "what": "changed", "package": "app"}
    assert dev(world, "audit", "base").out == ""
    os.rmdir(world.root / "etc/d")
    (world.root / "etc/d").write_bytes(b"old\n")
    world.pack({"app": {**{path: b"new\n" for path in tree}, "bin/app": b"1"}}, "2-0",
               app=conffiles)
    world.index()
    dev(world, "upgrade").ok()
    assert dev(world, "audit").out == "etc/a: new version\netc/b: new version\netc/c: new version\n"
    assert (world.root / "etc/d").read_bytes() == b"new\n"
    dev(world, "fix").refused("etc/a", "--take or --keep")
    done = dev(world, "fix", "--keep").ok()
    assert "-mine" in done.err and "+new" in done.err and "stays as it is" in done.err
    assert (world.root / "etc/a").read_bytes() == b"mine\n"
    assert dev(world, "audit").out == "etc/a: changed\netc/b: changed\netc/c: missing\n"
    world.pack({"app": {**{path: b"newer\n" for path in tree}, "bin/app": b"1"}}, "3-0",
               app=conffiles)
    world.index()
    dev(world, "upgrade").ok()
    assert "the new one is taken" in dev(world, "fix", "--take").ok().err
    assert [(world.root / "etc" / name).read_bytes() for name in "abcd"] == [b"newer\n"] * 4
    assert dev(world, "audit").out == "" and not [
        name for name in os.listdir(world.root / "etc") if "lpkg-" in name]


def test_fix_puts_a_package_back(world):
    world.pack({"app": {"bin/app": (b"1", 0o755), "bin/l": "-> app", "etc/app": b"1", "d/e": None}},
               app={"conffiles": ["etc/app"]})
    device(world)
    dev(world, "install", "app").ok()
    root = world.root
    (root / "bin/app").write_bytes(b"broken")
    os.unlink(root / "bin/l")
    shutil.rmtree(root / "d")
    (root / "etc/app").write_bytes(b"mine")
    before = record(root, "app")
    assert "rebuilt  app" in dev(world, "fix", "app", "--dry-run").ok().out
    dev(world, "fix", "app").ok()
    assert dev(world, "verify").ok() and (root / "bin/app").read_bytes() == b"1"
    assert (root / "etc/app").read_bytes() == b"mine" and record(root, "app") == before
    dev(world, "fix", "none").refused("none is not installed")
    world.pack({"app": {"bin/app": b"2"}}, "2-0")
    world.index()
    dev(world, "update").ok()
    dev(world, "fix", "app").ok()                           # the version that is there, not a newer
    assert "app 1-0" in listed(world)


def test_the_plan_shows_what_grows_in_risk(world):
    owner = {"owners": {"bin/a": "5:6:755"}, "scripts": {"post-install": "exit 0"}}
    world.pack({"a": {"bin/a": (b"1" * 2000, 0o755), "bin/su": (b"1", 0o4755)}}, "1-0",
               a={"services": ["ad"], **owner})
    device(world)
    done = dev(world, "install", "a", "--dry-run").ok()
    lines = done.out.split("\n")[:-1]
    assert re.fullmatch(r"install  a  1-0  \d+ B  \+2\.0 kB", lines[0])
    assert re.fullmatch(r"download \d+ B, disk \+2\.0 kB(, .* free)?", lines[1])
    assert lines[2:] == ["setuid   /bin/su of a", "owner    a has files of 5:6",
                         "script   a runs its post-install",
                         "service  linitctl enable ad  starts it at boot"]
    run("--root", world.root, "--yes", "install", "a").ok()
    world.pack({"a": {"bin/a": (b"1", 0o755), "bin/su": (b"1", 0o4755), "bin/su2": (b"1", 0o2755)},
                "bb": {}}, "2-0", a={"services": ["ad", "be"], **owner})
    world.index()
    dev(world, "update").ok()
    lines = dev(world, "install", "a", "bb", "--dry-run").out.split("\n")[:-1]
    assert re.fullmatch(r"upgrade  a   1-0 -> 2-0  \d+ B  -2\.0 kB", lines[0]), lines
    assert re.fullmatch(r"install  bb  2-0         \d+ B  \+0 B", lines[1]), lines
    assert lines[3:] == ["setuid   /bin/su2 of a",
                         "service  linitctl enable be  starts it at boot",
                         "service  linitctl restart NAME, or a reboot, runs the new ad"]
    plan = json.loads(dev(world, "upgrade", "--dry-run", "--json").out)
    assert [(one["action"], one["name"], one["old_version"]) for one in plan] == [
        ("upgrade", "a", "1-0")]
    plan = json.loads(dev(world, "remove", "a", "--dry-run", "--json").out)
    assert plan == [{"action": "remove", "name": "a", "version": "1-0", "old_version": "1-0",
                     "download": 0, "installed_size": 2001}]


def test_hints_name_the_package_of_a_command(world):
    world.pack({"vim": {"bin/vi": (b"1", 0o755)}})
    device(world)
    dev(world, "install", "vi").refused("the command vi is in vim")
    dev(world, "info", "vi").refused("the command vi is in vim")
    dev(world, "install", "cmd:vi").ok()
    assert "vim 1-0" in listed(world) and "vim" in (world.root / lpkg.WORLD).read_text()
    assert dev(world, "search", "cmd:vi").out.startswith("vim 1-0")


def test_a_package_that_replaces_its_own_name_is_not_rebuilt_for_ever(world):
    world.pack({"a": {"f": b"1"}}, a={"replaces": ["a", "b"]})
    device(world)
    dev(world, "install", "a").ok()
    assert "nothing to do: what is installed is the newest" in dev(world, "upgrade").ok().err


def test_replaces_in_a_root(world):
    world.pack({"old": {"bin/x": b"1", "etc/x": b"1"}}, old={"conffiles": ["etc/x"]})
    device(world)
    dev(world, "install", "old").ok()
    (world.root / "etc/x").write_bytes(b"mine")
    world.pack({"new": {"bin/x": b"2", "etc/x": b"2"}}, new={"conffiles": ["etc/x"],
                                                             "replaces": ["old"]})
    world.index()
    done = dev(world, "upgrade").ok()
    assert "install  new" in done.err and "remove   old" in done.err
    assert listed(world) == ["base 1-0", "new 1-0"]
    assert (world.root / "bin/x").read_bytes() == b"2"
    assert (world.root / "etc/x").read_bytes() == b"mine"
    assert (world.root / lpkg.WORLD).read_text() == "base\nnew\n"
    dev(world, "undo").ok()
    assert listed(world) == ["base 1-0", "old 1-0"] and dev(world, "verify").ok()
    assert (world.root / lpkg.WORLD).read_text() == "base\nold\n"


# ---- scripts of packages -----------------------------------------------------------------------

@pytest.fixture(scope="session")
def shell():
    """PATH -> bytes of what a root needs to run a script: this machine's busybox, its libraries."""
    busybox = shutil.which("busybox")
    done = subprocess.run(["ldd", busybox], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    paths = re.findall(rb"(/\S+)", done.stdout) if done.returncode == 0 else []
    found = {os.fsdecode(path).lstrip("/"): path for path in paths}
    found["bin/sh"] = busybox
    files = {}
    for path, source in found.items():
        with open(source, "rb") as file:
            files[path] = file.read()
    return files


def add_shell(root, shell):
    """Let scripts run in ROOT."""
    for path, data in shell.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        os.chmod(root / path, 0o755)


SCRIPTS = ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-remove",
           "post-remove", "oninstall")


def noting(*failing, names=SCRIPTS):
    """Scripts that note in /log how they are called, and whether /bin/a is there; those FAILING
    then fail while there is no /mended."""
    return {"scripts": {name: f'[ -e /bin/a ] && there=" +a"\necho "{name} $*$there" >> /log\n' + (
        "[ -e /mended ] || exit 7\n" if name in failing else "") for name in names}}


def script_world(world, shell, part, version="1-0", data=b"1"):
    world.pack({"a": {"bin/a": data}}, version, a=part)
    device(world)
    if shell:
        add_shell(world.root, shell)


def log(world):
    """What the scripts have noted since the last time."""
    path = world.root / "log"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink() if path.exists() else None
    return lines


def waiting(world):
    """The queue, its columns with a blank between them."""
    path = world.root / lpkg.QUEUE
    return path.read_text().replace("\t", " ").split("\n")[:-1] if path.exists() else []


def test_scripts_order_and_arguments(world, shell):
    script_world(world, shell, noting())
    dev(world, "install", "a").ok()
    assert log(world) == ["pre-install 1-0", "post-install 1-0 +a", "oninstall install / +a"]
    world.pack({"a": {"bin/a": b"2"}}, "2-0", a=noting(names=[
        name for name in SCRIPTS if name != "pre-install"]))
    world.index()
    dev(world, "upgrade").ok()
    assert log(world) == ["pre-upgrade 2-0 1-0 +a", "post-upgrade 2-0 1-0 +a",
                          "oninstall update / +a"]
    assert sorted(os.listdir(world.root / lpkg.SCRIPTS)) == sorted(
        f"a.{name}" for name in SCRIPTS if name != "pre-install")
    dev(world, "downgrade", "a").ok()
    assert log(world) == ["pre-upgrade 1-0 2-0 +a", "post-upgrade 1-0 2-0 +a",
                          "oninstall update / +a"]
    dev(world, "remove", "a").ok()
    assert log(world) == ["pre-remove 1-0 +a", "oninstall remove / +a", "post-remove 1-0"]
    assert os.listdir(world.root / lpkg.SCRIPTS) == [] and waiting(world) == []
    dev(world, "install", "base").ok()
    assert log(world) == []


NO_EXEC = """set -e
mkdir "$1/kept"
cp -a "$1/root/var/." "$1/kept"
mount --make-rprivate /
mount -t tmpfs -o noexec tmpfs "$1/root/var"
cp -a "$1/kept/." "$1/root/var"
shift
exec "$@"
"""


def test_scripts_where_var_executes_nothing(world, shell):
    script_world(world, shell, noting())
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", NO_EXEC, "sh", world.folder, sys.executable, "-I", "-S",
         SCRIPT, "--root", world.root, "--yes", "install", "a"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "can't run" not in done.stderr, done.stderr
    assert log(world) == ["pre-install 1-0", "post-install 1-0 +a", "oninstall install / +a"]


def test_a_script_whose_interpreter_is_missing_has_failed(world, shell):
    script_world(world, shell, {"scripts": {"post-install": "#!/bin/none\n"}})
    done = dev(world, "install", "a")
    assert done.status == 1 and "its script post-install ended with status 127" in done.err
    assert waiting(world) == ["failed a post-install 1-0"]


def test_a_script_that_names_no_interpreter_is_the_shells(world, shell):
    world.pack({"a": {".oninstall": b"echo $1 >> /log\n"}})
    device(world)
    add_shell(world.root, shell)
    dev(world, "install", "a").ok()
    assert log(world) == ["install"] and waiting(world) == []


def test_a_script_of_what_is_gone_can_be_done_without(world, shell):
    script_world(world, shell, noting("post-remove"))
    dev(world, "install", "a").ok()
    done = dev(world, "remove", "a")
    path = world.root / lpkg.SCRIPTS / "a.post-remove"
    assert done.status == 1 and f"; to do without it, remove {path}\n" in done.err
    assert waiting(world) == ["failed a post-remove 1-0"]
    path.unlink()
    dev(world, "fix").ok()
    assert waiting(world) == []


@pytest.mark.parametrize("needs, order", [
    ({"a": ["c"], "b": [], "c": ["b"]}, "bca"),
    ({"a": ["b"], "b": ["a"], "c": ["a"]}, "bac"),
    ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, "dcba"),
])
def test_scripts_of_what_is_needed_come_first(needs, order):
    packages = [lpkg.Package(info_of(name, [], depends=depends), None)
                for name, depends in needs.items()]
    assert "".join(package.name for package in lpkg.needed_first(packages)) == order


def test_scripts_of_a_deep_chain():
    infos = [info_of(f"p{n}", [], depends=[f"p{n + 1}"] if n < 2999 else []) for n in range(3000)]
    packages = [lpkg.Package(info, None) for info in infos]
    names = [package.name for package in lpkg.needed_first(packages)]
    assert names == [f"p{n}" for n in range(2999, -1, -1)]


def test_scripts_see_a_clean_environment(world, shell, monkeypatch):
    text = """#!/bin/sh
pwd > /out
umask >> /out
read -r line && echo "stdin: $line" >> /out
export -p | while read -r one; do case $one in
    *SHLVL*|*PWD*|*OLDPWD*) ;; *) echo "$one" >> /out ;; esac; done
echo on stdout
echo on stderr >&2
kill -PIPE $$
echo survived >> /out
"""
    script_world(world, shell, {"scripts": {"post-install": text}})
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LD_PRELOAD", "/nowhere.so")
    done = dev(world, "install", "a", stdin=b"typed\n")
    assert done.status == 1 and "ended with status -13" in done.err     # SIGPIPE isn't ignored
    assert "on stdout" in done.err and "on stderr" in done.err and done.out == ""
    assert (world.root / "out").read_text().split("\n")[:-1] == [
        "/", "0022", "export HOME='/'",
        "export PATH='/usr/sbin:/usr/bin:/sbin:/bin:/var/lib/lpkg/hooks'"]


@pytest.mark.parametrize("verb, script, words", [
    ("install", "pre-install", ["a"]), ("upgrade", "pre-upgrade", []),
    ("remove", "pre-remove", ["a"]), ("remove", "oninstall", ["a"])])
def test_a_script_that_fails_before_the_change_prevents_it(world, shell, verb, script, words):
    part = noting(script) if verb != "remove" else noting(script, names=[script])
    world.pack({"b": {"bin/b": b"1"}})
    script_world(world, shell, part)
    if verb != "install":
        (world.root / "mended").write_text("")
        dev(world, "install", "a", "b").ok()
        (world.root / "mended").unlink()
        world.pack({"a": {"bin/a": b"2"}, "b": {"bin/b": b"2"}}, "2-0", a=part)
        world.index()
    dev(world, "update").ok()
    log(world)
    before = snapshot(world.root)
    history = dev(world, "history").out
    done = dev(world, verb, *words).refused(f"its script {script} ended with status 7",
                                            "nothing was changed")
    assert len(log(world)) == 1 and snapshot(world.root) == before, done.err
    assert dev(world, "history").out == history
    (world.root / "mended").write_text("")
    dev(world, verb, *words).ok()


def test_a_script_that_fails_after_the_change_is_run_again_by_fix(world, shell):
    script_world(world, shell, noting("post-install"))
    world.pack({"b": {"bin/b": b"1"}}, b={"scripts": {"post-install": "echo b >> /log"}})
    world.index()
    dev(world, "update").ok()
    done = dev(world, "install", "a", "b")
    assert done.status == 1 and "post-install ended with status 7" in done.err
    assert "lpkg fix" in done.err and "a 1-0" in listed(world) and dev(world, "verify").ok()
    assert log(world)[1:] == ["post-install 1-0 +a", "oninstall install / +a", "b"]
    assert waiting(world) == ["failed a post-install 1-0"]
    dev(world, "hold", "base").ok()
    dev(world, "unhold", "base").ok()
    assert dev(world, "remove", "b").ok() and log(world) == []          # others go on
    done = dev(world, "fix")
    assert done.status == 1 and log(world) == ["post-install 1-0 +a"]
    (world.root / "mended").write_text("")
    dev(world, "fix").ok()
    assert log(world) == ["post-install 1-0 +a"] and waiting(world) == []
    assert not (world.root / lpkg.QUEUE).exists()
    dev(world, "fix").ok()
    assert log(world) == []


def killed_at_the_queue(calls):
    """Die where the queue would be run for the time number CALLS."""
    left = [calls]
    real = lpkg.run_queue

    def run_queue(*arguments, **more):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    return lambda: setattr(lpkg, "run_queue", run_queue)


def test_killed_between_commit_and_queue(world, shell):
    script_world(world, shell, noting())
    assert dev(world, "install", "a", before=killed_at_the_queue(2)).status == -signal.SIGKILL
    assert log(world) == ["pre-install 1-0"]
    assert waiting(world) == ["waits a post-install 1-0", "waits a oninstall install /"]
    dev(world, "list").ok()
    assert log(world) == []                                 # a query runs nothing
    dev(world, "install", "base").ok()
    assert log(world) == ["post-install 1-0 +a", "oninstall install / +a"] and not waiting(world)
    assert dev(world, "remove", "a", before=killed_at_the_queue(2)).status == -signal.SIGKILL
    assert log(world) == ["pre-remove 1-0 +a", "oninstall remove / +a"]
    dev(world, "install", "base").ok()
    assert log(world) == ["post-remove 1-0"] and os.listdir(world.root / lpkg.SCRIPTS) == []


def test_scripts_wait_where_no_shell_is(world, shell):
    script_world(world, None, noting())
    done = dev(world, "install", "a").ok()
    assert "a: 3 scripts can't run here" in done.err
    lines = ["waits a pre-install 1-0", "waits a post-install 1-0", "waits a oninstall install /"]
    assert waiting(world) == lines
    (world.root / "bin/sh").write_bytes(b"\x7fELF of another architecture")
    os.chmod(world.root / "bin/sh", 0o755)
    dev(world, "fix").ok()
    assert waiting(world) == lines
    os.unlink(world.root / "bin/sh")
    world.pack({"a": {"bin/a": b"2"}}, "2-0", a=noting())
    world.index()
    dev(world, "upgrade").ok()                              # before anything has ever run
    assert waiting(world) == [line.replace("1-0", "2-0") for line in lines]
    add_shell(world.root, shell)
    dev(world, "install", "base").ok()
    assert log(world) == ["pre-install 2-0 +a", "post-install 2-0 +a", "oninstall install / +a"]
    assert waiting(world) == []


def test_scripts_that_wait_go_with_their_package(world, shell):
    script_world(world, None, noting())
    dev(world, "install", "a").ok()
    dev(world, "remove", "a").ok()
    assert waiting(world) == ["waits a post-remove 1-0"]
    assert os.listdir(world.root / lpkg.SCRIPTS) == ["a.post-remove"]
    add_shell(world.root, shell)
    dev(world, "fix").ok()
    assert log(world) == ["post-remove 1-0"] and os.listdir(world.root / lpkg.SCRIPTS) == []


def test_a_user_leaves_the_scripts_to_the_root(world, shell, open_folder):
    world.pack({"a": {"bin/a": b"1"}}, a=noting())
    path = open_folder / "a-1-0.x86_64.lpkg"
    shutil.copy(world.packages / path.name, path)
    world.root = open_folder / "root"
    arguments = ["--root", world.root, "--yes", "--allow-unsigned", "install", path]
    done = run(*arguments, uid=NOBODY).ok()
    assert "scripts can't run here" in done.err and len(waiting(world)) == 3
    add_shell(world.root, shell)
    run("--root", world.root, "--yes", "fix", uid=NOBODY).ok()
    assert len(waiting(world)) == 3 and log(world) == []
    assert "another user's root" in dev(world, "fix").ok().err and log(world) == []
    subprocess.run(["chown", "-R", "0:0", world.root], check=True)
    dev(world, "fix").ok()
    assert log(world) == ["pre-install 1-0 +a", "post-install 1-0 +a", "oninstall install / +a"]


def test_bootstrap_leaves_scripts_to_the_first_boot(world, shell):
    world.pack({"a": {"bin/a": b"1"}}, a={**noting(), **offers_of(("bin/x", "a", 1))})
    world.index()
    done = run("bootstrap", "--repo", world.repo, "--key", world.key, "--arch", "x86_64", "--tar",
               "-", "a").ok()
    world.root.mkdir()
    subprocess.run(["tar", "-C", world.root, "-xpf", "-"], input=done.raw, check=True)
    assert waiting(world) == ["waits a pre-install 1-0", "waits a post-install 1-0",
                              "waits a oninstall install /"]
    assert os.access(world.root / lpkg.SCRIPTS / "a.oninstall", os.X_OK)
    assert os.access(world.root / lpkg.HOOK, os.X_OK) and os.readlink(world.root / "bin/x") == "a"
    assert dev(world, "verify").ok()
    add_shell(world.root, shell)
    dev(world, "fix").ok()
    assert log(world) == ["pre-install 1-0 +a", "post-install 1-0 +a", "oninstall install / +a"]
    dev(world, "remove", "a").ok()
    assert log(world) == ["pre-remove 1-0 +a", "oninstall remove / +a", "post-remove 1-0"]


def test_panux_s_own_oninstall(world, shell):
    tree = {"bin/a": b"1", ".oninstall": (b"#!/bin/sh\nlpkg-alt; echo \"$* $?\" >> /log\n", 0o755)}
    world.pack({"a": tree})
    device(world)
    add_shell(world.root, shell)
    dev(world, "install", "a").ok()
    assert log(world) == ["install / 0"]
    assert dev(world, "files", "a").out == "bin\nbin/a\n"
    (world.folder / "meta.json").write_text(json.dumps(meta_of(["a"])))
    run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
        stdin=build_tar({"a": {".oninstall": "-> x"}})).refused(".oninstall is no file")


@pytest.mark.parametrize("scripts, word", [
    ({"pre-flight": "x"}, "scripts"), ({"post-install": 5}, "no text"), ([], "no object"),
    ({"post-install": "x" * (1 << 20)}, "scripts"), ({"../x": "x"}, "scripts"),
    ({"post-install": "#!/bin/sh\r\ntrue\r\n"}, "end as on Windows")])
def test_pack_refuses_scripts(world, scripts, word):
    (world.folder / "meta.json").write_text(json.dumps(meta_of(["a"], a={"scripts": scripts})))
    run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
        stdin=build_tar({"a": {}})).refused(word)


def script_info(text=b"#!/bin/sh\n", **changes):
    one = dict({"name": "post-install", "size": len(text),
                "sha256": hashlib.sha256(text).hexdigest()}, **changes)
    return info_of("evil", [], scripts=[one], replaces=[], alternatives=[]), [
        member(lpkg.script_entry(one), text)]


def test_s11_scripts_are_those_that_index_and_info_promise(world):
    info, members = script_info()
    world.hostile(info, members, scripts=["post-install"])
    world.do("install", "evil", "--dry-run").ok()
    world.hostile(info, members, scripts=[])
    world.do("install", "evil").refused("scripts is ['post-install'] in the package")
    world.hostile(info, [member(lpkg.script_entry(info["scripts"][0]), b"#!/bin/no\n")],
                  scripts=["post-install"])
    refused_by_index(world, "another content than its record says")
    for changes in ({"name": "../../../x"}, {"name": "a/b"}, {"size": 1 << 21}, {"size": -1},
                    {"sha256": "0"}, {"name": ["x"]}):
        bad = dict(info, scripts=[dict(info["scripts"][0], **changes)])
        world.hostile(bad, members, scripts=["post-install"])
        world.do("install", "evil").refused("scripts")
    assert not world.root.exists()


# ---- what ELF files need and provide -----------------------------------------------------------

def make_elf(bits, order, needed=(), soname=None, strings=b"", **changes):
    """A shared library with nothing but a dynamic section: two segments, tags, strings. STRINGS
    come before the names; after the last tag there is one that doesn't count. CHANGES are of the
    header."""
    word, byte = bits // 8, "little" if order == 1 else "big"

    def number(value, size=None):
        return value.to_bytes(size or word, byte)

    names = strings + b"\0ghost\0"
    tags = []
    for tag, text in [*((1, one) for one in needed), *([(14, soname)] if soname else [])]:
        tags.append((tag, len(names)))
        names += text.encode() + b"\0"
    head, each = (64, 56) if bits == 64 else (52, 32)
    at = head + 2 * each
    tags += [(5, 0x10000 + at + (len(tags) + 4) * 2 * word), (10, len(names)), (0, 0),
             (1, len(strings) + 1)]
    dynamic = b"".join(number(tag) + number(value) for tag, value in tags)
    values = dict({"entry": 0, "table": head, "each": each, "count": 2}, **changes)

    def segment(kind, offset, size):
        address = number(0x10000 + offset)
        if bits == 64:
            return (number(kind, 4) + number(5, 4) + number(offset) + address * 2 + number(size) * 2
                    + number(8))
        return (number(kind, 4) + number(offset) + address * 2 + number(size) * 2 + number(5, 4)
                + number(4))

    ident = b"\x7fELF" + bytes([1 if bits == 32 else 2, order, 1]) + bytes(9)
    header = (ident + number(3, 2) + number(62, 2) + number(1, 4) + number(values["entry"])
              + number(values["table"]) + number(0) + number(0, 4) + number(head, 2)
              + number(values["each"], 2) + number(values["count"], 2) + bytes(6))
    total = at + len(dynamic) + len(names)
    return header + segment(1, 0, total) + segment(2, at, len(dynamic)) + dynamic + names


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", [1, 2])
def test_elf_of_each_kind(bits, order):
    def links(*arguments, **more):
        return lpkg.elf_links(io.BytesIO(make_elf(bits, order, *arguments, **more)))

    assert links(["libc.so", "libz.so.1"], "libx.so.2") == ("libx.so.2", ["libc.so", "libz.so.1"])
    assert links(["libc.so"]) == ("", ["libc.so"]) and links() == ("", [])
    assert links(["libc.so"], "libx.so", strings=b"s" * 400_000) == ("libx.so", ["libc.so"])
    for changes in ({"each": 0}, {"each": 5}, {"count": 0}, {"table": (1 << bits) - 1}):
        assert links(["libc.so"], "libx.so", **changes) == (None, [])
    data = make_elf(bits, order, ["liba.so"])
    for length in (0, 3, 4, 16, 40, 63, len(data) // 2):
        assert lpkg.elf_links(io.BytesIO(data[:length])) == (None, []) or length > 64
    assert lpkg.elf_links(io.BytesIO(b"#!/bin/sh\n" + data)) == (None, [])


def test_real_elf_files(world):
    """This machine's own, which readelf or ldd would name so."""
    with open("/bin/ls", "rb") as file:
        soname, needed = lpkg.elf_links(file)
    assert soname == "" and "libc.so.6" in needed
    path = next(iter(re.findall(r"libc\.so\.6 => (\S+)", subprocess.run(
        ["ldd", "/bin/ls"], stdout=subprocess.PIPE, check=True).stdout.decode())))
    with open(path, "rb") as file:
        assert lpkg.elf_links(file)[0] == "libc.so.6"


class Counted(io.BytesIO):
    """A file that counts how often, and how much of it, is read."""
    reads = amount = 0

    def read(self, count=-1):
        data = super().read(count)
        self.reads += 1
        self.amount += len(data)
        return data


def test_elf_that_is_mutated_costs_little():
    """Never an exception, never more than a small part of a huge file, whatever its tables say."""
    rng = random.Random(20)
    padding = b"\x01" * 300_000
    for number in range(3000):
        data = bytearray(make_elf(rng.choice([32, 64]), rng.choice([1, 2]), ["liba.so", "libb.so"],
                                  "libc.so.1"))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(4, len(data))] = rng.choice([0, 1, 2, 5, 127, 128, 255])
        if number % 3 == 0:
            data = data[:rng.randrange(len(data))]
        file = Counted(bytes(data) + (padding if number % 7 == 0 else b""))
        soname, needed = lpkg.elf_links(file)
        assert soname is None or isinstance(soname, str)
        assert file.reads < 3000 and file.amount < 1 << 20, number
    file = Counted(make_elf(64, 1, ["liba.so"] * 20_000))
    lpkg.elf_links(file)
    assert file.reads < 3000 and file.amount < 1 << 20


def test_pack_finds_libraries_and_commands(world):
    elf = make_elf(64, 1, ["libc.so", "libz.so.1", "libself.so"])
    world.pack({"zlib": {"usr/lib/libz.so.1.2": make_elf(64, 1, ["libc.so"], "libz.so.1"),
                         "usr/lib/libz.so.1": "-> libz.so.1.2", "usr/lib/libz.so": "-> libz.so.1",
                         "lib/libnoname.so": make_elf(32, 2), "usr/lib/plugin/p.so": make_elf(
                             64, 1, [], "p.so"), "usr/lib/data.so": b"no ELF " * 20},
                "app": {"bin/app": (elf, 0o755), "bin/[": (b"", 0o755), "usr/sbin/appd": "-> x",
                        "bin/readme": b"", "share/bin/tool": (b"", 0o755), "bin/dir": None,
                        "lib/libself.so": make_elf(64, 1, [], "libself.so")},
                "musl": {"lib/libc.so": make_elf(64, 1, [], "libc.so")}},
               app={"provides": ["extra"], "depends": ["base"],
                    **offers_of(("usr/bin/vi", "../../bin/app", 1), ("share/x", "y", 1))})
    infos = {name: read_package(world.packages / f"{name}-1-0.x86_64.lpkg")[0]
             for name in ("app", "zlib", "musl")}
    assert infos["zlib"]["provides"] == ["so:libnoname.so", "so:libz.so.1"]
    assert infos["zlib"]["depends"] == ["so:libc.so"]
    assert infos["app"]["depends"] == ["base", "so:libc.so", "so:libz.so.1"]
    assert infos["app"]["provides"] == ["extra", "cmd:app", "cmd:appd", "cmd:vi", "so:libself.so"]
    world.pack({"base": {}})
    world.index()
    world.do("install", "app").ok()
    assert world.do("list").out.split()[::2] == ["app", "base", "musl", "zlib"]
    run("--root", world.root, "--yes", "remove", "zlib").refused("app needs so:libz.so.1")
    assert world.do("search", "cmd:vi").out.startswith("app 1-0")


# ---- the resolver's answer is the best one -----------------------------------------------------
#
# What docs/lpkg.md promises, written as plainly as it can be: every set of packages is looked at.

class Brute:
    """A universe of two repositories, as Universe has it, and all systems of it."""

    def __init__(self, installed, repositories):
        self.installed = installed
        self.repositories = repositories
        self.offers = {one.name: offered_by(one) for one in repositories}
        self.may_come = [*installed.values()]
        for name, offers in self.offers.items():
            self.may_come += [package for package in offers
                              if self.keeper(package.name) == name and not self.is_there(package)]

    def homes(self, name):
        """The repositories that may speak for NAME."""
        if name in self.installed and self.installed[name].repository in self.offers:
            return [self.installed[name].repository]
        return list(self.offers)

    def keeper(self, name):
        """The first repository that has NAME, or provides it."""
        for home in self.homes(name):
            for package in self.offers[home]:
                if name in [one for one, _ in package.names()]:
                    return home
        return None

    def is_there(self, package):
        there = self.installed.get(package.name)
        return there is not None and there.version == package.version

    def replaces(self, package, kept):
        """Whether PACKAGE may come in the place of KEPT."""
        said = any(one.name == kept.name and kept.satisfies(one)
                   for one in map(lpkg.parse_relation, package.info["replaces"]))
        return said and (package.origin is None or package.origin.name in self.homes(kept.name))

    def same(self, system):
        """The packages of SYSTEM as this has them, which made its own of the index's lines."""
        def key(one):
            return (one.origin and one.origin.name, one.name, one.version)

        keys = {key(one) for one in system}
        return sorted((one for one in self.may_come if key(one) in keys), key=lambda one: one.name)

    def stays(self, kept, system):
        return any(one.name == kept.name or self.replaces(one, kept) for one in system)

    def systems(self, words, held):
        """All that satisfy WORDS and hold HELD."""
        wants = [lpkg.parse_relation(word) for word in words]
        found = []
        for system in systems(self.may_come):
            if (is_system(system, wants)
                    and all(self.installed[name] in system for name in held)
                    and all(self.stays(one, system) for one in self.installed.values())):
                found.append(sorted(system, key=lambda one: one.name))
        return found

    def ranks(self, word):
        """The candidates of WORD, best first; in one group those between which nothing is said."""
        wanted = lpkg.parse_relation(word)
        fit = [one for one in self.may_come if one.satisfies(wanted)]
        key = {one: (one.name != wanted.name, sum(is_newer(other, one) for other in fit))
               for one in fit}
        return [group for rank in sorted(set(key.values()))
                for group in [[one for one in fit if key[one] == rank]]]

    def upgrades(self, name):
        """The candidates of an installed NAME that is to be upgraded."""
        kept = self.installed[name]
        heirs = [one for one in self.may_come
                 if self.replaces(one, kept) and not kept.replaces(one)]
        own = [one for one in self.may_come if one.name == name]
        own.sort(key=lambda one: lpkg.version_key(one.version), reverse=True)
        return [heirs, *([one] for one in own)]


def is_newer(one, other):
    """Whether ONE is newer than OTHER."""
    return lpkg.version_key(one.version) > lpkg.version_key(other.version)


def check_best(found, choices, met, system):
    """SYSTEM is the best of those FOUND: of each choice in turn (groups of candidates, best first)
    it has one of the first group with which any system exists. MET(number, picks): whether the
    choice is made already."""
    picks = []
    for number, groups in enumerate(choices):
        if met(number, picks):
            continue
        group = next(group for group in groups if any(one in system for system in found
                                                      for one in group))
        there = [one for one in group if one in system]
        assert there, (group, system)
        picks.append(there[0])
        found = [one for one in found if there[0] in one]
    return picks


def two_repositories(rng):
    """(offers of the first, of the second, installed) with relations of all kinds; `v` is provided
    in the first alone and `w` in the second."""
    names = "abcd"[:rng.randint(2, 4)]

    def package(name, number, virtual):
        others = [*(other for other in names if other != name), "v", "w"]

        def relation():
            return rng.choice(others) + rng.choice(["", "", ">=2-0", "<3-0", "=1-0"])

        return info_of(
            name, [], f"{number}-0",
            depends=[relation() for _ in range(rng.choice([0, 0, 1, 2]))],
            conflicts=[relation() for _ in range(rng.choice([0, 0, 0, 1]))],
            provides=[rng.choice([virtual, virtual + "=2-0"])] if rng.random() < 0.25 else [],
            replaces=[rng.choice(names.replace(name, "")) + rng.choice(["", "<3-0"])]
            if rng.random() < 0.2 else [])

    first = [package(name, number, "v") for name in names for number in range(1, 4)
             if rng.random() < 0.5]
    second = [package(name, number, "w") for name in names for number in range(1, 4)
              if rng.random() < 0.35]
    installed = [dict(info, repository=source, alternatives=[], scripts=[])
                 for source, infos in (("repo", first), ("repo2", second)) for info in infos
                 if rng.random() < 0.25]
    return first, second, {info["name"]: info for info in installed}


def random_case(rng):
    """(Brute, installed, repositories, held) of a system that is one."""
    while True:
        first, second, infos = two_repositories(rng)
        installed = {name: installed_package(dict(info)) for name, info in infos.items()}
        if is_system(list(installed.values()), []):
            repositories = [offering("repo", first), offering("repo2", second)]
            held = {name for name in installed if rng.random() < 0.15}
            return Brute(installed, repositories), installed, repositories, held


def test_install_gives_the_best_answer():
    rng = random.Random(31)
    outcomes = {True: 0, False: 0}
    for _ in range(1200):
        brute, installed, repositories, held = random_case(rng)
        words = [rng.choice("abcdvw") + rng.choice(["", "", "<3-0", ">=2-0"])
                 for _ in range(rng.randint(1, 3))]
        held -= {word[0] for word in words}     # whoever names it says anew what it may be
        found = brute.systems(words, held)
        try:
            plan = install_plan(installed, repositories, words, held)
        except lpkg.Fail as error:
            assert not found and str(error), words
            outcomes[False] += 1
            continue
        system = plan.new + plan.stay
        chosen = brute.same(system)
        assert chosen in found, words
        outcomes[True] += 1
        holding = [installed[name] for name in held]
        check_best(found, list(map(brute.ranks, words)),
                   lambda number, picks: any(one.satisfies(lpkg.parse_relation(words[number]))
                                             for one in holding + picks),
                   chosen)
    assert min(outcomes.values()) > 150


def test_upgrade_gives_the_best_answer():
    rng = random.Random(32)
    changed = 0
    for _ in range(1500):
        brute, installed, repositories, held = random_case(rng)
        if not installed:
            continue
        names = [name for name in installed if rng.random() < 0.8]
        found = brute.systems([], held)
        plan = lpkg.plan_upgrade(lpkg.Universe(installed, repositories, []),
                                 world_of(installed, held=held), names)
        system = plan.new + plan.stay
        chosen = brute.same(system)
        assert chosen in found, names
        changed += bool(plan.new)
        asked = [name for name in names if name not in held]
        holding = [installed[name] for name in held]
        check_best(found, [brute.upgrades(name) for name in asked],
                   lambda number, picks: brute.stays(installed[asked[number]], holding + picks),
                   chosen)
    assert changed > 150


# ---- the resolver's bounds ---------------------------------------------------------------------

def pigeons(count):
    """COUNT pigeons, each of which needs one of COUNT - 1 holes, which hold one each."""
    infos = []
    for pigeon in range(count):
        infos.append(info_of(f"p{pigeon}", [], depends=[f"hole-of-{pigeon}"]))
        for hole in range(count - 1):
            infos.append(info_of(f"p{pigeon}h{hole}", [], conflicts=[f"h{hole}"],
                                 provides=[f"hole-of-{pigeon}", f"h{hole}"]))
    return infos, [f"p{pigeon}" for pigeon in range(count)]


@contextlib.contextmanager
def alarm(seconds):
    """Fail where it takes longer than SECONDS: a bound on what never ends, not on speed."""
    def ring(*_):
        raise AssertionError("it doesn't end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_pigeons_are_too_tangled(monkeypatch):
    infos, words = pigeons(5)
    with alarm(60), pytest.raises(lpkg.Fail, match="conflicts with"):
        install_plan({}, [offering("r", infos)], words)
    monkeypatch.setattr(lpkg.solve, "__defaults__", (1,))
    infos, words = pigeons(9)
    with alarm(60), pytest.raises(lpkg.Fail, match="too tangled"):
        install_plan({}, [offering("r", infos)], words)


def test_a_clash_at_the_end_of_a_long_chain_is_found_at_once():
    """Each version of each of 12 packages would do, but for what the last one conflicts with."""
    infos = [info_of(f"c{number}", [], f"{version}-0", depends=[f"c{number + 1}"])
             for number in range(12) for version in range(5)]
    infos += [info_of("c12", [], "1-0", conflicts=["foe"]), info_of("foe", [])]
    with alarm(5), pytest.raises(lpkg.Fail, match="c12 1-0 conflicts with foe"):
        install_plan({}, [offering("r", infos)], ["c0", "foe"])


def test_10000_packages_and_a_deep_chain():
    infos = [info_of(f"n{number}", [], f"{version}-0", provides=[f"so:lib{number}"],
                     depends=[f"so:lib{number + 1}"] if number % 200 else [])
             for number in range(5000) for version in (1, 2)]
    repository = offering("r", infos)
    with alarm(120):
        plan = install_plan({}, [repository], ["n1"])
        assert len(plan.new) == 200 and {package.version for package in plan.new} == {"2-0"}
        everything = {info["name"]: installed_package(dict(info, replaces=[], repository="r"))
                      for info in infos if info["version"] == "1-0"}
        everything["n5000"] = installed_package(info_of("n5000", [], replaces=[], repository="r",
                                                        provides=["so:lib5000"]))
        plan = lpkg.plan_upgrade(lpkg.Universe(everything, [repository], []), {}, list(everything))
        assert len(plan.new) == 5000 and len(plan.stay) == 1
    with pytest.raises(lpkg.Fail) as failure:
        broken = [info for info in infos if info["name"] != "n150"]
        install_plan({}, [offering("r", broken)], ["n1"])
    text = str(failure.value)
    assert "so:lib150" in text and len(text) < 400 and "too tangled" not in text


# ---- bootstrap ---------------------------------------------------------------------------------

def bootstrap_world(world):
    world.pack({"base": {"tmp": (None, 0o1777), "root": (None, 0o700), "etc/passwd": b"root\n"},
                "app": TREE}, app={"depends": ["base"], "owners": {"bin/app": "12:34:755"}})
    world.index()
    return ["bootstrap", "--repo", world.repo, "--key", world.key, "--arch", "x86_64",
            "--repo-url", "http://device/repo", "app"]


def test_bootstrap_folder(world):
    arguments = bootstrap_world(world)
    run(*arguments[:1], world.root, *arguments[1:]).ok()
    assert world.do("verify").ok() and world.do("list").out == "app 1-0\nbase 1-0\n"
    assert (world.root / "etc/lpkg/repos").read_text() == "panux http://device/repo\n"
    assert (world.root / "etc/lpkg/keys/panux.pub").read_bytes() == open(world.key, "rb").read()
    run(*arguments[:1], world.root, *arguments[1:]).refused("not empty")


def test_what_is_written_takes_no_devices_place(world):
    arguments = bootstrap_world(world)
    place = world.folder / "null"
    os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    run(*arguments, "--tar", place).refused(f"{place}: is there, and not a regular file")
    assert stat.S_ISCHR(os.stat(place).st_mode)
    run(*arguments, "--tar", world.folder).refused(f"{world.folder}: is there")
    none = world.folder / "none/x.tar"
    run(*arguments, "--tar", none).refused(f"lpkg: {none}: No such file")
    run("info", f"{world.folder}/").refused(f"{world.folder}/: not a regular file")


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_bootstrap_tar_keeps_owners_without_root(world, uid, open_folder):
    arguments = bootstrap_world(world)
    for path in (world.repo, world.key):
        (shutil.copytree if os.path.isdir(path) else shutil.copy)(
            path, open_folder / os.path.basename(path)
        )
    arguments = [str(one).replace(str(world.repo), str(open_folder / "repo")).replace(
        str(world.key), str(open_folder / "panux.pub")) for one in arguments]
    done = run(*arguments, "--tar", "-", uid=uid).ok()
    assert done.raw == run(*arguments, "--tar", "-").ok().raw
    with tarfile.open(fileobj=io.BytesIO(done.raw), mode="r:") as tar:
        members = {one.name: one for one in tar.getmembers()}
        assert list(members).index("bin") < list(members).index("bin/su")
        assert (members["bin/app"].uid, members["bin/app"].gid) == (12, 34)
        assert members["bin/su"].mode == 0o4755 and members["tmp"].mode == 0o1777
        assert members["root"].mode == 0o700
        assert tar.extractfile("var/lib/lpkg/world").read() == b"app\n"
    folder = world.folder / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-C", folder, "-xpf", "-"], input=done.raw, check=True)
    assert run("--root", folder, "verify").ok().out == ""


def test_bootstrap_tar_of_local_files(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}}, a={"depends": ["missing"]})
    files = [world.packages / f"{name}-1-0.x86_64.lpkg" for name in "ab"]
    arguments = ["bootstrap", "--tar", "-", "--no-database", *files]
    run(*arguments).refused("not signed")
    done = run(*arguments, "--allow-unsigned").ok()
    assert "2 local packages, unsigned" in done.err and "WARNING" not in done.err
    with tarfile.open(fileobj=io.BytesIO(done.raw)) as tar:
        assert tar.getnames() == ["f", "g"]
    run(*arguments, files[0], "--allow-unsigned").refused("same package")
    arguments[2] = world.folder / "root.tar.gz"
    run(*arguments, "--allow-unsigned").ok()
    assert gzip.decompress(arguments[2].read_bytes()) == done.raw


def test_bootstrap_refuses_a_folder_in_use(world):
    arguments = bootstrap_world(world)
    world.root.mkdir()
    (world.root / "etc").mkdir()
    run(*arguments[:1], world.root, *arguments[1:]).refused("not empty")
    assert os.listdir(world.root) == ["etc"]


# ---- over HTTP ---------------------------------------------------------------------------------

def simple_world(world):
    world.pack({"busybox": {"bin/busybox": (os.urandom(200_000), 0o755)}})
    world.index()


def test_http_and_copied_alone(world):
    """As a person does it: the script alone in a folder, by a bare Python, over http."""
    simple_world(world)
    alone = world.folder / "alone"
    alone.mkdir()
    shutil.copy(SCRIPT, alone)
    shutil.copy(world.key, alone)
    with serving(folder_handler(world.repo)) as url:
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                "lpkg.py",
                "--root",
                "R",
                "--repo",
                url + "/",
                "--key",
                "panux.pub",
                "--arch",
                "x86_64",
                "--yes",
                "install",
                "busybox",
            ],
            cwd=alone,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 0, done.stderr
    assert run("--root", alone / "R", "list").out == "busybox 1-0\n"


def test_s08_a_flipped_bit_over_http(world):
    simple_world(world)
    path = world.packages / "busybox-1-0.x86_64.lpkg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with serving(folder_handler(world.repo)) as url:
        world.do("install", "busybox", repo=url).refused("signed index promises", status=3)
    assert not world.root.exists()


def test_no_network_is_exit_3(world):
    simple_world(world)
    with serving(folder_handler(world.repo)) as url:
        pass
    world.do("install", "busybox", repo=url).refused("network", status=3)
    with serving(folder_handler(world.folder)) as url:
        world.do("install", "busybox", repo=url + "/nowhere").refused("HTTP Error 404", status=3)


def test_truncated_and_stalled_answers(world):
    simple_world(world)

    def truncate(handler):
        if not handler.path.endswith(".lpkg"):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "200500")
        handler.end_headers()
        handler.wfile.write(b"x" * 100)
        return True

    with serving(folder_handler(world.repo, truncate)) as url:
        world.do("install", "busybox", repo=url).refused("ended after 100", status=3)
    cut = []

    def truncate_once(handler):
        return not cut and truncate(handler) and (cut.append(1) or True)

    with serving(folder_handler(world.repo, truncate_once)) as url:
        world.do("install", "busybox", repo=url, root=world.folder / "other").ok()

    def stall(handler):
        if handler.path.endswith(".lpkg"):
            time.sleep(3)
        return False

    with serving(folder_handler(world.repo, stall)) as url:
        world.do(
            "install", "busybox", repo=url, before=lambda: setattr(lpkg, "NETWORK_TIMEOUT", 0.3)
        ).refused("timed out", status=3)
    assert not world.root.exists()


def test_s09_endless_bodies_are_cut(world):
    simple_world(world)

    def endless(name):
        def answer(handler):
            if not handler.path.endswith(name):
                return False
            handler.send_response(200)
            handler.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    handler.wfile.write(b"x" * 65536)
            return True
        return answer

    for name, word, status in (
        (".minisig", "longer than", 1),
        ("index.json", "longer than", 1),
        (".lpkg", "promises", 3),
    ):
        with serving(folder_handler(world.repo, endless(name))) as url:
            world.do("install", "busybox", repo=url,
                     before=lambda: setattr(lpkg, "INDEX_LIMIT", 1 << 20)).refused(
                         word, status=status)
    assert not world.root.exists()


def test_a_login_in_an_address_is_refused_and_not_shown(world):
    done = world.do("install", "a", repo="http://me:secret@127.0.0.1:1/repo")
    done.refused("127.0.0.1:1: a login in an address is not taken")
    assert "secret" not in done.err


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_s12_redirects_that_leave_http(world, target):
    simple_world(world)

    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()
        return True

    with serving(folder_handler(world.repo, redirect)) as url:
        world.do("install", "busybox", repo=url).refused("edirect", status=3)


def test_s12_redirects_within_http_are_followed_and_https_never_left(world):
    simple_world(world)
    with serving(folder_handler(world.repo)) as url:
        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", url + handler.path)
            handler.end_headers()
            return True
        with serving(folder_handler(world.repo, redirect)) as first:
            world.do("install", "busybox", repo=first).ok()
    handler = lpkg.careful_redirects()()
    import urllib.request
    with pytest.raises(ValueError):
        handler.redirect_request(
            urllib.request.Request("https://a/"), None, 302, "", {}, "http://a/"
        )


# ---- attacks on archives (SECURITY.md 1 to 8) --------------------------------------------------

BAD_PATHS = [
    "../x",
    "/x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a/",
    "",
    ".",
    "..",
    "a\0b",
    "a\nb",
    "a\tb",
    "x" * 256,
    "/".join(["x" * 200] * 20),
    ".lpkg/x",
    "var/lib/lpkg/journal",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_s01_names(world, path):
    world.hostile(info_of("evil", [regular(path)]), [])
    world.do("install", "evil").refused("damaged" if {*path} & {*"\t\n"} else "path is not valid")
    assert not world.root.exists() and not (world.folder / "x").exists()


def refused_by_index(world, *words, **more):
    """Nobody who makes an index with lpkg signs what lies in the repository."""
    index = world.packages / "index.json"
    index.rename(world.folder / "signed")       # what it names would count as read
    run("index", world.packages, "--secret", world.secret, "--serial-file",
        world.folder / "serial", **more).refused(*words)
    (world.folder / "signed").rename(index)


def is_harmless(world, entry):
    """A device to which it is offered all the same, by an index that its key has signed, takes of
    it what the manifest says, or nothing."""
    done = world.do("install", "evil")
    found = {path: there for path, there in snapshot(world.root).items()
             if path[:3] not in ("etc", "var")}
    if done.status:
        assert found == {} and not world.root.exists()
    else:
        mode = stat.S_IFREG | int(entry["mode"], 8)
        assert set(found) == {"f"} and found["f"][:3] == (mode, 0, 0)
        assert len(found["f"][3]) == entry["size"]
        world.do("remove", "evil").ok()
        shutil.rmtree(world.root)
    assert not (world.folder / "x").exists()


def test_s01_a_member_that_the_manifest_does_not_know(world):
    for name in (b"../../x", b"/x", b"f"):
        extra = lpkg.ustar_block(name, b"0", 0o644, (0, 0), 1) + b"x" + bytes(511)
        entry = regular("f")
        world.hostile(info_of("evil", [entry]), [member(entry, b"x"), extra])
        refused_by_index(world, "not what its record says")
        is_harmless(world, entry)


def test_s02_a_symlink_and_then_a_file_below_it_in_one_package(world):
    link, entry = symlink("a", "/tmp"), regular("a/f")
    world.hostile(info_of("evil", [link, entry]), [member(link), member(entry, b"x")])
    world.do("install", "evil").refused("a/f is in no folder")


@pytest.mark.parametrize("second", [{"d/f": b"x"}, {"d": None}, {"d/e/f": b"x"}])
def test_s02_a_symlink_and_then_a_file_below_it_in_a_later_package(world, second):
    outside = world.folder / "outside"
    outside.mkdir()
    os.chmod(outside, 0o750)
    world.pack({"first": {"d": f"-> {outside}"}, "second": second})
    world.index()
    world.do("install", "first").ok()
    before = snapshot(world.root)
    world.do("install", "second").refused("d")
    assert snapshot(world.root) == before and os.listdir(outside) == []
    assert stat.S_IMODE(os.stat(outside).st_mode) == 0o750


def test_s02_a_symlink_in_the_root_is_never_followed(world):
    outside = world.folder / "outside"
    outside.mkdir()
    world.pack({"a": {"d/f": b"x"}, "b": {"g": b""}})
    world.index()
    world.do("install", "b").ok()
    os.symlink(outside, world.root / "d")
    world.do("install", "a").refused("in the way")
    assert os.listdir(outside) == []


ODD_MEMBERS = {
    "hard link to outside": lpkg.ustar_block(b"f", b"1", 0o644, (0, 0), 0, b"../../etc/shadow"),
    "hard link to a setuid file": lpkg.ustar_block(b"f", b"1", 0o644, (0, 0), 0, b"bin/su"),
    "device": lpkg.ustar_block(b"f", b"3", 0o644, (0, 0), 0),
    "fifo": lpkg.ustar_block(b"f", b"6", 0o644, (0, 0), 0),
    "sparse": lpkg.ustar_block(b"f", b"S", 0o644, (0, 0), 1),
    "contiguous": lpkg.ustar_block(b"f", b"7", 0o644, (0, 0), 1),
    "GNU long name": lpkg.ustar_block(b"././@LongLink", b"L", 0o644, (0, 0), 2)
    + b"g\0"
    + bytes(510),
    "PAX path": lpkg.ustar_block(b"x", b"x", 0o644, (0, 0), 10) + b"10 path=g\n" + bytes(502),
    "PAX global": lpkg.ustar_block(b"x", b"g", 0o644, (0, 0), 10) + b"10 path=g\n" + bytes(502),
    "symlink": lpkg.ustar_block(b"f", b"2", 0o777, (0, 0), 0, b"/etc/passwd"),
    "other owner": lpkg.ustar_block(b"f", b"0", 0o644, (5, 0), 1),
    "other size": lpkg.ustar_block(b"f", b"0", 0o644, (0, 0), 5),
    "wrong checksum": lpkg.tar_header(regular("f"))[:148]
    + b"0000000\0"
    + lpkg.tar_header(regular("f"))[156:],
}


@pytest.mark.parametrize("case", ODD_MEMBERS)
def test_s03_odd_members(world, case):
    entry = regular("f")
    world.hostile(
        info_of("evil", [entry]), [ODD_MEMBERS[case], lpkg.tar_header(entry), b"x", bytes(511)]
    )
    refused_by_index(world, "not what its record says at f")
    is_harmless(world, entry)


def test_s03_duplicates_and_disorder(world):
    for files in ([regular("f"), regular("f")], [regular("g"), regular("f")]):
        world.hostile(info_of("evil", files), [member(one, b"x") for one in files])
        world.do("install", "evil").refused("twice, or out of order")


def test_s03_types_that_are_not_known(world):
    for kind in ("hardlink", "char", "", "f"):
        world.hostile(info_of("evil", [dict(regular("f"), type=kind)]), [])
        world.do("install", "evil").refused("its list of files is damaged")


def test_s04_a_planted_temporary_is_not_used(world):
    """O_EXCL: even a guessed name is not written through."""
    world.pack({"a": {"f": b"new"}, "b": {"g": b""}})
    world.index()
    world.do("install", "b").ok()
    target = world.folder / "target"
    target.write_bytes(b"old")

    def plant():
        lpkg.os.urandom = lambda count: bytes(count)
        for number in range(9):
            os.symlink(target, world.root / f".lpkg.{'00' * 8}.{number}")

    world.do("install", "a", before=plant).refused("File exists")
    assert target.read_bytes() == b"old" and not (world.root / "f").exists()


def test_s04_a_directory_that_becomes_a_symlink_between_stage_and_apply(world):
    outside = world.folder / "outside"
    outside.mkdir()
    world.pack({"a": {"d/f": b"new"}, "b": {"d/g": b""}})
    world.index()
    world.do("install", "b").ok()

    def swap():
        def commit(tx, real=lpkg.commit):
            os.rename(world.root / "d", world.root / "e")
            os.symlink(outside, world.root / "d")
            real(tx)
        lpkg.commit = commit

    world.do("install", "a", before=swap).refused("symlink", "the next lpkg finishes")
    assert os.listdir(outside) == []
    os.unlink(world.root / "d")
    os.rename(world.root / "e", world.root / "d")
    assert "finishing" in world.do("install", "a").ok().err
    world.do("verify").ok()


def test_s05_remove_never_deletes_through_a_symlink(world):
    outside = world.folder / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"precious")
    world.pack({"a": {"d/f": b"1", "l": b"2"}})
    world.index()
    world.do("install", "a").ok()
    shutil.rmtree(world.root / "d")
    os.symlink(outside, world.root / "d")
    os.unlink(world.root / "l")
    os.symlink(outside / "f", world.root / "l")
    done = world.do("remove", "a").ok()
    assert "left alone" in done.err
    assert (outside / "f").read_bytes() == b"precious" and not os.path.lexists(world.root / "l")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o666])
def test_s06_modes_that_are_not_declared(world, mode):
    header = lpkg.ustar_block(b"f", b"0", mode, (0, 0), 1)
    world.hostile(info_of("evil", [regular("f")]), [header, b"x", bytes(511)])
    refused_by_index(world, "not what its record says at f")
    is_harmless(world, regular("f"))


def test_s06_setuid_that_the_index_does_not_name(world):
    entry = regular("f", mode="4755")
    world.hostile(info_of("evil", [entry]), [member(entry, b"x")])
    world.do("install", "evil").refused("setuid")
    world.hostile(info_of("evil", [entry]), [member(entry, b"x")], setuid=["f"])
    assert "setuid   /f" in world.do("install", "evil").ok().err


def test_s06_an_upgrade_disarms_the_old_inode(world):
    world.pack({"a": {"bin/su": (b"1", 0o4755), "bin/gone": (b"1", 0o4755)}})
    world.index()
    world.do("install", "a").ok()
    os.link(world.root / "bin/su", world.root / "kept")
    os.link(world.root / "bin/gone", world.root / "kept2")
    world.pack({"a": {"bin/su": (b"2", 0o4755)}}, "2-0")
    world.index()
    world.do("install", "a").ok()
    assert stat.S_IMODE(os.stat(world.root / "kept").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(world.root / "kept2").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(world.root / "bin/su").st_mode) == 0o4755


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: " " + text,
        lambda text: text + " ",
        lambda text: text.upper(),
        lambda text: text[:-1],
        lambda text: "",
        lambda text: None,
        lambda text: 0,
        lambda text: text[:-1] + "g",
        lambda text: [text],
    ],
)
def test_s07_checksums_have_one_spelling(world, edit):
    entry = regular("f")
    info = info_of("evil", [entry])
    path = world.hostile(info, [member(entry, b"x")])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    world.hostile(info, [member(entry, b"x")], sha256=edit(sha256))
    world.do("install", "evil").refused("sha256 is not valid")
    bad = info_of("evil", [dict(entry, sha256=edit(entry["sha256"]))])
    world.hostile(bad, [member(entry, b"x")])
    world.do("install", "evil").refused("sha256 is not valid")


def test_s07_an_absent_checksum(world):
    offer = offer_of(info_of("evil", []), "evil.lpkg", b"")
    del offer["sha256"]
    world.sign_index([offer])
    world.do("install", "evil").refused("sha256 is missing")


def test_s08_padded_truncated_and_followed(world):
    entry = regular("f")
    info = info_of("evil", [entry])
    good = raw_package(info, [member(entry, b"x")])
    path = world.packages / "evil.lpkg"
    for data in (good + b"\0", good[:-1], good[:-1] + b"\1", b""):
        world.sign_index([offer_of(info, path.name, good)])
        path.write_bytes(data)
        world.do("install", "evil").refused("signed index promises")
    world.sign_index([offer_of(info, path.name, good)])
    path.write_bytes(good + bytes(len(good)))       # the padding begins with a piece of its own
    world.do("install", "evil", before=lambda: setattr(lpkg, "PIECE", len(good))).refused(
        "promises"
    )
    os.unlink(path)
    for tail in (b"\0", b"junk", gzip.compress(b"more")):
        world.hostile(info, [member(entry, b"x")], tail=tail)
        refused_by_index(world, "follows the archive's end")
        world.do("install", "evil").refused("follows the archive's end")
    path = world.packages / "evil-1-0.x86_64.lpkg"
    for extra in (bytes(512), b"x" * 512):
        data = gzip.compress(record_member(info) + member(entry, b"x") + lpkg.TAR_END + extra)
        path.write_bytes(data)
        world.sign_index([offer_of(info, path.name, data)])
        refused_by_index(world, "follows the archive's end")
        is_harmless(world, entry)
    for cut in (1, 8, 9, 20):
        data = good[:-cut]
        path.write_bytes(data)
        world.sign_index([offer_of(info, path.name, data)])
        refused_by_index(world, "ends too early")
        world.do("install", "evil").refused("ends too early")
    damaged = good[:-8] + b"\0\0\0\0" + good[-4:]
    path.write_bytes(damaged)
    world.sign_index([offer_of(info, path.name, damaged)])
    refused_by_index(world, "damaged archive")
    world.do("install", "evil").refused("damaged archive")
    assert not world.root.exists()


def test_s08_a_file_with_another_content_than_its_manifest(world):
    entry = regular("f", b"x")
    path = world.hostile(info_of("evil", [entry]), [lpkg.tar_header(entry), b"y", bytes(511)])
    refused_by_index(world, "f has another content")
    world.do("install", path, "--allow-unsigned").refused("f has another content")
    is_harmless(world, entry)


def test_s08_a_file_that_changes_after_it_was_verified(world):
    world.pack({"a": {"f": b"good"}})
    world.index()

    def swap():
        def verify(tx, real=lpkg.verify):
            for name in os.listdir(world.packages):
                (world.packages / name).write_bytes(b"changed")
            real(tx)
        lpkg.verify = verify

    world.do("install", "a", before=swap).ok()
    assert (world.root / "f").read_bytes() == b"good"


@pytest.mark.parametrize("size", [b"00000001799", b"\xb2" * 11, b" " * 11, b"-0000000001"])
def test_s03_a_record_whose_size_is_no_octal_number(tmp_path, size):
    head = lpkg.tar_header(lpkg.record_entry(1000))
    (tmp_path / "a.lpkg").write_bytes(gzip.compress(head[:124] + size + head[135:] + bytes(4096)))
    run("info", tmp_path / "a.lpkg").refused("no package, or of an older lpkg")


def limit_memory():
    """Let this process have no more than 600 MB of addresses."""
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))


def test_s09_bombs(world):
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = lpkg.tar_header(lpkg.record_entry(1000))
    data = (
        bomb.compress(head)
        + b"".join(bomb.compress(bytes(1 << 20)) for _ in range(900))
        + bomb.flush()
    )
    path = world.packages / "evil.lpkg"
    info = info_of("evil", [])
    path.write_bytes(data)
    world.sign_index([offer_of(info, path.name, data)])
    world.do("install", "evil", before=limit_memory).refused("damaged")
    head = lpkg.tar_header(lpkg.record_entry(1 << 30))
    data = gzip.compress(head + bytes(100))
    path.write_bytes(data)
    world.sign_index([offer_of(info, path.name, data)])
    world.do("install", "evil").refused("no package")
    entry = regular("f")
    world.hostile(info_of("evil", [entry]), [member(entry, b"x"), bytes(300 << 20)])
    refused_by_index(world, "follows the archive's end", before=limit_memory)
    world.do("install", "evil", before=limit_memory).ok()


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1000000,
        b'{"a":' * 1000000,
        b"{",
        b"[]",
        b"\xff",
        b'{"serial": ' + b"9" * 1000000 + b"}",
        b'{"serial": NaN}',
        b'{"serial": 1e999}',
        b'{"serial": true}',
        b"null",
        b'{"a": "\\ud800"}',
    ],
)
def test_s09_json_levels(world, text):
    for end in (b"", b"\n", b"\n]}\n"):
        world.write_index(text + end, "index x86_64 serial 1")
        world.do("install", "x").refused("index.json")


def test_s09_nothing_is_parsed_before_the_signature_holds(world):
    simple_world(world)
    path = world.packages / "index.json"
    path.write_bytes(path.read_bytes() + b" ")

    def forbid():
        def parse(*_):
            os._exit(77)
        lpkg.parse_json = lpkg.read_index = lpkg.JsonReader.read = parse

    world.do("install", "busybox", before=forbid).refused("wrong signature")


# ---- attacks on indexes (10, 11, 14) -----------------------------------------------------------

def installed_world(world):
    """A root that has seen an index."""
    world.pack({"a": {"f": b"1"}, "b": {}, "c": {}})
    world.index()
    world.do("install", "a").ok()
    return json.loads((world.packages / "index.json").read_bytes())


def test_s10_old_serials_and_same_serials(world):
    index = installed_world(world)
    offers = index["packages"]
    world.sign_index(offers, serial=index["serial"] - 1)
    world.do("install", "b").refused("older than")
    world.sign_index(offers, serial=index["serial"])
    world.do("install", "b").refused("another content")
    world.sign_index(offers, serial=index["serial"] + 1)
    world.do("install", "b").ok()


@pytest.mark.parametrize("serial", [1 << 63, -1, 1 << 53, 1.5, "1", None, True])
def test_s10_odd_serials(world, serial):
    world.sign_index([], serial=serial)
    world.do("install", "b").refused("index.json")


def test_s10_expired(world):
    now = int(time.time())
    world.sign_index([], expires=now - 10)
    world.do("install", "b").refused("expired", "clock")
    world.sign_index([], expires=1 << 52, created=1 << 52)
    world.do("install", "b").refused("no repository has it")


def at_time(when):
    """A function that sets the clock of this process."""
    return lambda: setattr(lpkg.time, "time", lambda: when)


def test_s10_clocks(world):
    installed_world(world)
    done = world.do("install", "b", before=at_time(0)).ok()
    assert "the clock says 1970-01-01, so it isn't set" in done.err
    world.do("install", "c", before=at_time(4070908800)).refused("expired", "the clock says 2099")
    now = int(time.time())
    world.sign_index([], serial=now + 9, created=now - 200, expires=now - 100)
    world.do("install", "c", before=at_time(0)).refused("expired")


def test_s10_another_architecture_or_purpose(world):
    world.sign_index([], arch="riscv64")
    world.do("install", "b").refused("riscv64")
    world.sign_index([], comment="index x86_64 serial 5")
    world.do("install", "b").refused("signed as")
    world.sign_index([], comment="timestamp:5 file:index.json")
    world.do("install", "b").refused("not as an index")
    world.sign_index([], comment="index riscv64 serial 5")
    world.do("install", "b").refused("signed as")


def test_s10_never_is_for_folders(world):
    world.pack({"a": {}})
    world.index("--expires", "never")
    with serving(folder_handler(world.repo)) as url:
        world.do("install", "a", repo=url).refused("never expires")
    world.do("install", "a").ok()


def test_s10_unsigned_wrongly_signed_or_no_key(world, tmp_path):
    simple_world(world)
    run("keygen", tmp_path / "other").ok()
    run(
        "--root",
        world.root,
        "--repo",
        world.repo,
        "--key",
        tmp_path / "other.pub",
        "--yes",
        "--arch",
        "x86_64",
        "install",
        "busybox",
    ).refused("not trusted")
    run("--root", world.root, "--repo", world.repo, "--yes", "install", "busybox").refused("no key")
    os.unlink(world.packages / "index.json.minisig")
    world.do("install", "busybox").refused("index.json.minisig")
    assert not world.root.exists()


@pytest.mark.parametrize("field, value", [
    ("name", "other"), ("version", "2-0"), ("depends", ["x"]), ("provides", ["musl"]),
    ("conflicts", ["x"]), ("services", ["s"])])
def test_s11_the_package_is_not_the_index_s(world, field, value):
    info = info_of("evil", [])
    data = raw_package(info, [])
    (world.packages / "evil.lpkg").write_bytes(data)
    base = dict(offer_of(info, "evil.lpkg", data), **{field: value})
    needed = offer_of(info_of("x", []), "x.lpkg", b"")
    world.sign_index([base, needed] if field == "depends" else [base])
    (world.packages / "x.lpkg").write_bytes(b"")
    world.do("install", base["name"]).refused(f"{field} is")


def test_s11_another_architecture(world):
    info = dict(info_of("evil", []), arch="riscv64")
    data = raw_package(info, [])
    (world.packages / "evil.lpkg").write_bytes(data)
    world.sign_index([offer_of(info, "evil.lpkg", data)])
    world.do("install", "evil").refused("arch is 'riscv64'")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.lpkg",
        "..%2fevil.lpkg",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "..",
        "",
        "a%00",
        "evil%2elpkg",
        "a?b",
        "a#b",
    ],
)
def test_s11_files_outside_the_folder(world, name):
    world.sign_index([dict(offer_of(info_of("evil", []), "x", b""), file=name)])
    world.do("install", "evil").refused("none of its folder")


def test_s14_another_repository_is_not_asked(world):
    """Neither a higher version nor `provides` of a second repository replaces the first one's."""
    world.pack(
        {"busybox": {"f": b"good"}, "musl": {}, "app": {}}, app={"depends": ["musl", "busybox"]}
    )
    world.index()
    (world.folder / "two").mkdir()
    run("keygen", world.folder / "other").ok()      # serials are per key
    second = World(world.folder / "two", (world.folder / "other.key", world.folder / "other.pub"))
    second.pack({"busybox": {"f": b"evil"}, "evil": {}}, "9-0", evil={"provides": ["musl"]})
    second.index()
    arguments = world.arguments("install", "app")
    run(*arguments, "--repo", second.repo, "--key", second.key).ok()
    assert world.do("list").out == "app 1-0\nbusybox 1-0\nmusl 1-0\n"


def test_s15_escape_codes_are_shown_escaped(world):
    world.pack({"a": {}}, a={"summary": "red \x1b[31m\x07 \u202e text\nnext"})
    world.index()
    world.do("install", "a").ok()
    for done in (world.do("search", "a"), world.do("info", "a"), world.do("info", "a", "--json")):
        assert "\x1b" not in done.out and "\x07" not in done.out and "\u202e" not in done.out
        assert "[31m" in done.ok().out
    world.do("install", "\x1b[31m").refused("\\x1b[31m")
    run("info", "\x1b]0;x\x07/y").refused("\\x1b]0;x\\x07")


# ---- interrupted, twice, at once, full (16, 18); more of it is in test_lpkg_crash.py -------------

def transactions(world):
    """Two versions of a system; NAME -> (root as it was, arguments, must anything be there)."""
    world.pack({"a": {"bin/a": (b"1", 0o4755), "bin/l": "-> a", "etc/c": b"1", "old/f": b"1",
                      "dirlink": "-> bin", "empty": None},
                "b": {"bin/b": b"1"}}, a={"conffiles": ["etc/c"]})
    world.index()
    world.do("install", "b", root=world.folder / "empty").ok()
    world.do("install", "a", "b", root=world.folder / "full").ok()
    (world.folder / "full/etc/c").write_bytes(b"mine")
    world.pack({"a": {"bin/a": b"2", "bin/l": "-> b", "etc/c": b"2", "new/deep/f": b"2",
                      "dirlink": "-> etc", "new/empty": None}}, "2-0",
               a={"conffiles": ["etc/c"]})
    world.index()
    return {"install": ("empty", ("install", "a")), "upgrade": ("full", ("install", "a")),
            "remove": ("full", ("remove", "a", "b"))}


# What /sbin/init does with a journal, for `sh -c`; its argument is the root's directory.
SHELL_FINISH = (ROOT / "initd/lpkg-finish").read_text()


# ---- the result depends on what is installed, not on how it came about -------------------------

def mode_of(path):
    """(mode, uid, gid) of PATH."""
    there = os.lstat(path)
    return stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid


def repair(world, *names, **more):
    """`lpkg fix NAMES` from the repository."""
    return world.do("fix", "--repo", world.repo, "--key", world.key, "--yes", *names, **more)


def test_directories_are_what_the_packages_say_in_any_order(world):
    world.pack({"base": {"var/mail/f": b"1", "plain/f": b"1"}, "mail": {"var/mail": None}},
               mail={"owners": {"var/mail": "0:8:2775"}})
    world.index()
    world.do("install", "base", "mail", root=world.folder / "both").ok()
    world.do("install", "base").ok()
    assert mode_of(world.root / "var/mail") == (0o755, 0, 0)
    world.do("install", "mail").ok()
    assert mode_of(world.root / "var/mail") == (0o2775, 0, 8)
    assert mode_of(world.folder / "both/var/mail") == (0o2775, 0, 8)
    world.do("remove", "mail").ok()
    assert mode_of(world.root / "var/mail") == (0o755, 0, 0)
    world.do("verify").ok()


def test_directories_follow_an_upgrade_but_not_over_the_users_own(world):
    for version, owner in (("1-0", "0:0:777"), ("2-0", "0:8:1770")):
        world.pack({"base": {"a/f": b"1", "mine/f": b"1", "v": version.encode()}}, version,
                   base={"owners": {"a": owner, "mine": owner}})
        world.index()
        if version == "1-0":
            world.do("install", "base").ok()
            os.chmod(world.root / "mine", 0o750)
            os.mkdir(world.root / "own", 0o700)
    done = world.do("upgrade").ok()
    assert mode_of(world.root / "a") == (0o1770, 0, 8)
    assert mode_of(world.root / "mine") == (0o750, 0, 0)
    assert f"{world.root}/mine: its owner or mode was changed here and stays" in done.err
    assert "`lpkg fix base` makes it 0:8:1770" in done.err and "/a: " not in done.err
    assert "`lpkg fix base`" in world.do("verify").err
    repair(world, "base").ok()
    assert mode_of(world.root / "mine") == (0o1770, 0, 8)
    world.do("verify").ok()
    world.pack({"base": {"a/f": b"1", "own/f": b"1", "v": b"3"}}, "3-0")
    world.index()
    assert "was changed here" not in world.do("upgrade").ok().err       # nobody said anything of it
    assert mode_of(world.root / "own") == (0o700, 0, 0)
    assert mode_of(world.root / "a") == (0o755, 0, 0)


def test_what_is_below_etc_is_the_users_and_so_is_its_mode(world):
    for version in ("1-0", "2-0"):
        data = version.encode()
        world.pack({"a": {"etc/mine": data, "etc/same": data, "etc/link": f"-> {version}",
                          "etc/shut": data, "etc/unchanged": b"0", "usr/x": data}}, version)
        world.index()
        if version == "1-0":
            world.do("install", "a").ok()
            (world.root / "etc/mine").write_bytes(b"mine")
            (world.root / "etc/unchanged").write_bytes(b"mine")
            os.unlink(world.root / "etc/link")
            os.symlink("mine", world.root / "etc/link")
            os.chmod(world.root / "etc/shut", 0o600)
            os.chown(world.root / "etc/shut", 5, 6)
            world.do("verify").ok()
            assert "etc/link: changed" in world.do("audit").out
    world.do("upgrade").ok()
    etc = world.root / "etc"
    assert sorted(os.listdir(etc)) == ["link", "link.lpkg-new", "lpkg", "mine", "mine.lpkg-new",
                                       "same", "shut", "unchanged"]
    assert os.readlink(etc / "link") == "mine" and os.readlink(etc / "link.lpkg-new") == "2-0"
    assert [(etc / name).read_bytes() for name in ("mine", "mine.lpkg-new", "same", "shut")] == [
        b"mine", b"2-0", b"2-0", b"2-0"]
    assert mode_of(etc / "shut") == (0o600, 5, 6) and mode_of(etc / "same") == (0o644, 0, 0)
    assert world.do("audit").out.splitlines() == [
        "etc/link: new version", "etc/mine: new version", "etc/unchanged: changed"]
    dev(world, "fix", "--take").ok()
    assert os.readlink(etc / "link") == "2-0" and (etc / "mine").read_bytes() == b"2-0"
    (etc / "mine").write_bytes(b"mine")
    world.do("remove", "a").ok()
    assert sorted(os.listdir(etc)) == ["lpkg", "mine", "unchanged"]


def test_a_new_version_beside_a_conffile_counts_while_it_is_the_installed_one(world):
    def upgrade(version, data):
        world.pack({"a": {"etc/c": data, "usr/x": version.encode()}}, version)
        world.index()
        world.do("install", "a").ok()

    upgrade("1-0", b"1")
    config, beside = world.root / "etc/c", world.root / "etc/c.lpkg-new"
    config.write_bytes(b"mine")
    upgrade("2-0", b"2")
    upgrade("3-0", b"2")
    assert beside.read_bytes() == b"2"          # still what the installed version has
    beside.write_bytes(b"edited")
    assert world.do("audit").out == "etc/c: changed\n"
    upgrade("4-0", b"2")
    assert not beside.exists()
    upgrade("5-0", b"5")
    assert beside.read_bytes() == b"5"
    world.do("remove", "a").ok()
    assert sorted(os.listdir(world.root / "etc")) == ["c", "lpkg"]


def test_a_directory_where_a_new_version_would_lie_is_the_user_s(world):
    world.pack({"a": {"etc/c": b"1"}})
    world.index()
    world.do("install", "a").ok()
    (world.root / "etc/c").write_bytes(b"mine")
    (world.root / "etc/c.lpkg-new").mkdir()
    world.pack({"a": {"etc/c": b"2"}}, "2-0")
    world.index()
    before = snapshot(world.root)
    world.do("upgrade").refused("etc/c.lpkg-new: a directory in the way of a file; move it away")
    assert snapshot(world.root) == before
    (world.root / "etc/c.lpkg-new").rmdir()
    world.do("upgrade").ok()


def test_fix_brings_a_deleted_conffile_back_and_leaves_a_symlink(world):
    world.pack({"a": {"etc/c": b"1", "etc/d": b"1", "usr/x": b"1"}})
    world.index()
    world.do("install", "a").ok()
    os.unlink(world.root / "etc/c")
    os.rename(world.root / "etc/d", world.root / "d")
    os.symlink("../d", world.root / "etc/d")
    os.unlink(world.root / "usr/x")
    done = dev(world, "fix").ok()
    assert "etc/c: was deleted; `lpkg fix a` brings it back" in done.err
    assert "usr/x: missing; `lpkg fix a` puts back" in done.err
    repair(world, "a").ok()
    assert (world.root / "etc/c").read_bytes() == b"1" and (world.root / "usr/x").exists()
    assert os.readlink(world.root / "etc/d") == "../d"
    assert dev(world, "fix").ok().err == ""


def merging(world):
    """A system before and after /bin and /lib become symlinks, and a file a directory."""
    world.pack({"base": {"bin/sh": b"1", "lib/deep/l": b"1", "egg": b"1", "usr/bin/u": b"1",
                         "lib/m": b"1"},
                "more": {"bin/more": (b"1", 0o4755), "lib/deep/o": "-> l"}})
    world.index()
    world.do("install", "base", "more").ok()
    world.pack({"base": {"bin": "-> usr/bin", "lib": "-> usr/lib", "egg/info": b"2",
                         "usr/bin/sh": b"2", "usr/lib/deep/l": b"2"},
                "more": {"usr/bin/more": (b"2", 0o4755), "usr/lib/deep/o": "-> l"}}, "2-0")
    world.index()


def test_a_usr_merge_is_an_upgrade_and_its_undo_too(world):
    merging(world)
    before = snapshot(world.root)
    os.link(world.root / "bin/more", world.folder / "held")
    world.do("upgrade").ok()
    world.do("verify").ok()
    assert os.readlink(world.root / "bin") == "usr/bin"
    assert sorted(os.listdir(world.root / "bin")) == ["more", "sh"]
    assert (world.root / "egg/info").read_bytes() == b"2"
    assert mode_of(world.folder / "held")[0] == 0o755           # its hard link is harmless
    world.do("undo", "--repo", world.repo, "--key", world.key, "--yes").ok()
    assert snapshot(world.root) == before


def test_a_directory_with_a_users_file_gives_no_way(world):
    merging(world)
    (world.root / "lib/deep/mine").write_bytes(b"1")
    before = snapshot(world.root)
    world.do("upgrade").refused("lib: in the way of a link of base: lib/deep/mine is yours")
    assert snapshot(world.root) == before
    (world.root / "egg").rename(world.folder / "egg")
    (world.root / "egg").symlink_to(world.folder)
    world.do("upgrade").refused("egg: in the way of a directory, for no symlink is followed")
    (world.root / "egg").unlink()
    (world.folder / "egg").rename(world.root / "egg")
    os.unlink(world.root / "lib/deep/mine")
    world.do("upgrade").ok()
    world.do("verify").ok()


@contextlib.contextmanager
def mounted(folder, options="size=50%"):
    """FOLDER as a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def bound(path, *options):
    """PATH mounted on itself, as containers have it."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        if options:
            subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), path],
                           check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_an_overlay_renames_no_directory_of_its_lower_layer(world):
    """A container's usr merge."""
    merging(world)
    layers, lower = world.folder / "layers", world.root
    world.root = world.folder / "merged"
    for folder in (layers, world.root):
        folder.mkdir()
    with mounted(layers):
        for name in ("upper", "work"):
            (layers / name).mkdir()
        options = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work,redirect_dir=off"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", world.root], check=True)
        try:
            before = snapshot(world.root)
            world.do("upgrade").ok()
            world.do("verify").ok()
            assert os.readlink(world.root / "bin") == "usr/bin"
            world.do("undo", "--repo", world.repo, "--key", world.key, "--yes").ok()
            assert snapshot(world.root) == before
        finally:
            subprocess.run(["umount", world.root], check=True)


@pytest.mark.parametrize("path, options, says", [
    ("usr/my tool", [], "usr/my tool: something is mounted on it"),
    ("usr", ["ro"], "usr/my tool: Read-only file system; mount it writable"),
    ("opt", ["ro"], "opt/new: Read-only file system; mount it writable")])
def test_what_could_not_be_finished_is_not_begun(world, path, options, says):
    world.pack({"tool": {"usr/my tool": b"1", "etc/t": b"1", "opt": None},
                "other": {"bin/o": b"1"}})
    world.index()
    world.do("install", "tool").ok()
    world.pack({"tool": {"usr/my tool": b"2", "etc/t": b"2", "opt/new": b"2"}}, "2-0")
    world.index()
    before = snapshot(world.root)
    with bound(world.root / path, *options):
        world.do("upgrade").refused(says)
        if path != "opt":
            world.do("remove", "tool").refused(says)
        assert snapshot(world.root) == before
        world.do("install", "other").ok()
    world.do("upgrade").ok()
    world.do("verify").ok()


def test_a_journal_waits_for_the_file_system_that_it_needs(world):
    """An empty /boot, which isn't mounted yet, looks like one where all is done."""
    boot, state = world.root / "boot", world.root / lpkg.STATE
    for version in ("1-0", "2-0"):
        world.pack({"linux": {"boot/vmlinuz": version.encode()}}, version)
    world.index()
    world.do("install", "linux=1-0").ok()
    world.do("unhold", "linux").ok()
    with mounted(boot):
        (boot / "vmlinuz").write_bytes(b"1-0")

        def die():
            lpkg.apply = lambda *_: os._exit(9)

        assert world.do("upgrade", before=die).status == 9
        assert (state / "journal").read_text().startswith("mount\tboot\n")
        staged = {name: (boot / name).read_bytes() for name in os.listdir(boot)}
    world.do("remove", "linux").refused(f"{boot}: mount what belongs there")
    subprocess.run(["sh", "-c", SHELL_FINISH, "sh", world.root], check=True,
                   stderr=subprocess.DEVNULL)
    assert (state / "journal").exists()
    with mounted(boot):
        for name, data in staged.items():
            (boot / name).write_bytes(data)
        subprocess.run(["sh", "-c", SHELL_FINISH, "sh", world.root], check=True)
        assert not (state / "journal").exists() and (boot / "vmlinuz").read_bytes() == b"2-0"
        assert os.listdir(boot) == ["vmlinuz"]


def test_the_database_comes_last_in_a_journal(world):
    """Whoever carries it out as it stands, and is cut, has a database of what is there by then."""
    world.pack({"a": {"f": b"1", "old": b""}}, "1-0")
    world.pack({"a": {"f": b"2", "new/f": b""}}, "2-0")
    world.index()
    world.do("install", "a=1-0").ok()

    def die():
        lpkg.apply = lambda *_: os._exit(9)

    assert world.do("install", "a=2-0", before=die).status == 9
    journal = (world.root / lpkg.JOURNAL).read_text().splitlines()
    is_database = [line.split("\t")[-1].startswith(lpkg.STATE) for line in journal]
    assert is_database == sorted(is_database) and 3 <= sum(is_database) < len(journal) - 2


def fat(top):
    """Makes the file system of TOP one without owners, modes and symlinks, for the lpkg of this
    process: as Linux's vfat, mounted as it is by default."""
    device = os.stat(top).st_dev
    real = {name: getattr(os, name) for name in ("fstatvfs", "fchown", "fchmod", "symlink", "stat")}

    def on_fat(descriptor):
        return os.fstat(descriptor).st_dev == device

    def fstatvfs(descriptor):
        there = real["fstatvfs"](descriptor)
        return os.statvfs_result((*there[:9], 1530)) if on_fat(descriptor) else there

    def fchown(descriptor, uid, gid):
        if on_fat(descriptor) and (uid, gid) != (0, 0):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real["fchown"](descriptor, uid, gid)

    def fchmod(descriptor, mode):
        if on_fat(descriptor) and mode & 0o7000:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if not on_fat(descriptor):      # else it is passed over in silence
            real["fchmod"](descriptor, mode)

    def symlink(target, name, dir_fd):
        if on_fat(dir_fd):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real["symlink"](target, name, dir_fd=dir_fd)

    def seen(name, **more):
        there = real["stat"](name, **more)
        mode = there.st_mode & ~0o7777 | 0o755
        return os.stat_result((mode, *there[1:])) if there.st_dev == device else there

    os.fstatvfs, os.fchown, os.fchmod, os.symlink = fstatvfs, fchown, fchmod, symlink
    os.stat = seen


def test_a_kernel_lives_on_fat(world):
    boot = world.root / "boot"

    def do(verb, *words):
        return world.do(verb, *words, before=lambda: fat(boot))

    world.pack({"empty": {"boot": None}})
    world.index()
    world.do("install", "empty").ok()
    with mounted(boot):
        for version in ("1-0", "2-0"):
            data = version.encode()
            world.pack({"linux": {"boot/vmlinuz": (data, 0o600), "boot/EFI/x": data},
                        "bad": {"boot/l": "-> vmlinuz"}, "twice": {"boot/VMLINUZ": b"3"}}, version,
                       linux={"owners": {"boot/EFI": "0:8:1700", "boot/EFI/x": "5:6:600"}})
            world.index()
            do("install", "linux").ok()
            assert do("verify").ok().err == "" and (boot / "vmlinuz").read_bytes() == data
        do("install", "bad").refused("boot/l: bad brings a symlink", "FAT")
        do("install", "twice").refused("VMLINUZ", "the same as")
        (boot / "vmlinuz").write_bytes(b"damage")
        assert do("verify").out == "boot/vmlinuz: content\n"
        assert "was changed" not in repair(world, "linux", before=lambda: fat(boot)).ok().err
        do("verify").ok()
        do("remove", "linux").ok()
        assert os.listdir(boot) == []


def kernel(version):
    """100 kB that belong to one version."""
    return version.encode() * 50_000


def kernels(boot):
    """The versions in BOOT, by name."""
    return {name: (boot / name).read_bytes()[:1].decode() for name in os.listdir(boot)}


@pytest.fixture
def fat_boot(world):
    """A root whose boot has room for two kernels, of which it has none; versions 1 to 5."""
    boot = world.root / "boot"
    world.pack({"empty": {"boot": None}})
    for version in "12345":
        world.pack({"linux": {"boot/vmlinuz": kernel(version)}}, version)
    world.index()
    world.do("install", "empty").ok()
    with mounted(boot, "size=220k"):
        yield boot


def test_fat_keeps_what_an_upgrade_replaces(world, fat_boot):
    def do(verb, *words):
        return world.do(verb, *words, before=lambda: fat(fat_boot))

    def booted(name):
        (world.root / "proc").mkdir(exist_ok=True)
        (world.root / "proc/cmdline").write_text(f"quiet BOOT_IMAGE=/{name} root=/dev/sda2")

    do("install", "linux=1").ok()
    assert kernels(fat_boot) == {"vmlinuz": "1"}
    do("install", "linux=2").ok()
    assert kernels(fat_boot) == {"vmlinuz": "2", "vmlinuz.old": "1"}
    booted("vmlinuz")
    assert "reboot to run the new kernel" in do("install", "linux=3").ok().err
    assert kernels(fat_boot) == {"vmlinuz": "3", "vmlinuz.old": "2"}
    booted("vmlinuz.old")               # the third one didn't boot
    do("install", "linux=4").ok()
    assert kernels(fat_boot) == {"vmlinuz": "4", "vmlinuz.old": "2"}
    do("verify").ok()
    do("remove", "linux").ok()
    assert kernels(fat_boot) == {}


def test_a_repair_keeps_the_kernel_before(world, fat_boot):
    for version in "12":
        world.do("install", f"linux={version}", before=lambda: fat(fat_boot)).ok()
    (fat_boot / "vmlinuz").write_bytes(b"damage")
    repair(world, "linux", before=lambda: fat(fat_boot)).ok()
    assert kernels(fat_boot) == {"vmlinuz": "2", "vmlinuz.old": "1"}


def test_an_upgrade_of_a_kernel_that_is_undone_leaves_both(world, fat_boot):
    def die_before_the_commit():
        fat(fat_boot)
        lpkg.commit = lambda _: os._exit(9)

    for version in "12":
        world.do("install", f"linux={version}", before=lambda: fat(fat_boot)).ok()
    assert world.do("install", "linux=3", before=die_before_the_commit).status == 9
    world.do("remove", "nothing", before=lambda: fat(fat_boot))
    assert kernels(fat_boot) == {"vmlinuz": "2", "vmlinuz.old": "1"}
    assert not [name for name in os.listdir(world.root / lpkg.STATE) if name.startswith(".lpkg.")]


@pytest.mark.parametrize("finish", ["lpkg", "sh"])
@pytest.mark.parametrize("done", range(5))
def test_a_cut_upgrade_of_a_kernel_ends_with_both(world, fat_boot, done, finish):
    """After DONE lines of its journal on boot, and all lines from the first one on after that."""
    def cut():
        fat(fat_boot)
        carry_out, lines = lpkg.carry_out, []

        def counted(root, line):
            if "boot/" in "".join(line):
                lines.append(line)
                if len(lines) > done:
                    os._exit(9)
            carry_out(root, line)

        lpkg.carry_out = counted
        lpkg.forget = lambda *_: os._exit(9)

    for version in "12":
        world.do("install", f"linux={version}", before=lambda: fat(fat_boot)).ok()
    assert world.do("install", "linux=3", before=cut).status == 9
    there = kernels(fat_boot)
    assert there.get("vmlinuz", there.get("vmlinuz.old")) in ("2", "3"), "one always boots"
    if finish == "sh":
        subprocess.run(["sh", "-c", SHELL_FINISH, "sh", world.root], check=True)
    else:
        world.do("remove", "nothing", before=lambda: fat(fat_boot))
    assert kernels(fat_boot) == {"vmlinuz": "3", "vmlinuz.old": "2"}
    assert world.do("verify", before=lambda: fat(fat_boot)).ok().err == ""


@pytest.mark.parametrize("path", ["etc/lpkg/keys/mine.pub", "etc/lpkg/repos", "etc/c.lpkg-new"])
def test_s54_a_package_brings_nothing_that_lpkg_trusts(world, path):
    for part in ({path: b"1"}, {path: "-> /tmp/x"}):
        (world.folder / "meta.json").write_text(json.dumps(meta_of(["a"])))
        run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
            stdin=build_tar({"a": part})).refused(path, "lpkg's own")
    info = info_of("a", [*[directory(path[:at]) for at, char in enumerate(path) if char == "/"],
                         regular(path)])
    world.hostile(info, [member(one, b"x" * (one["type"] == "file")) for one in info["files"]])
    world.do("install", "a").refused(path, "lpkg's own")
    assert not world.root.exists()
    world.pack({"b": {"etc/lpkg/keys": None}})          # the directory is anybody's


def two_keys(world):
    """A root with the repositories panux and two, each with packages and a key of its own."""
    device(world)
    second = second_world(world)
    second.pack({"theirs": {"f": b"1"}, "base": {"etc/base": b"theirs"}}, "9-0")
    second.index()
    dev(world, "update").ok()
    return second


def serve_at(world, other):
    """Have the index and the packages of OTHER lie at WORLD's URL, as a mirror can."""
    shutil.rmtree(world.packages)
    shutil.copytree(other.packages, world.packages)


def test_s53_a_key_is_trusted_for_its_repository_alone(world):
    """The genuine index of `two` at the URL of `panux`, while the key of `two` is trusted."""
    second = two_keys(world)
    serve_at(world, second)
    done = dev(world, "upgrade")
    assert done.status == 1 and "index.json: signed by key" in done.err
    assert "not trusted here; the other repositories are used meanwhile" in done.err
    assert (world.root / "etc/base").read_bytes() == b"1"
    world.do("install", "theirs", repo=second.repo).refused("not trusted here")
    run("--root", world.root, "--repo", second.repo, "--yes", "install", "theirs").ok()
    run("--root", world.root, "--repo", f"file:{second.repo}", "--yes", "install",
        "theirs").refused("no key is trusted for it; say --key FILE")


def test_s53_one_repository_s_dates_and_serials_say_nothing_of_another(world):
    second = two_keys(world)
    second.sign_index([], serial=lpkg.COUNT_LIMIT - 1, created=1 << 40, expires=1 << 41)
    for _ in range(2):
        dev(world, "update").ok()
        world.index("--expires", "2")
        dev(world, "upgrade").ok()
        dev(world, "key", "remove", "two")
        dev(world, "repo", "remove", "two")
    assert str(1 << 40) not in (world.root / lpkg.SERIALS).read_text()


def test_s53_a_key_that_has_another_one_s_id_is_another_key(world):
    """Serials and dates of a key are kept by all of it: an id is whatever its maker says."""
    second = two_keys(world)
    key_id = lpkg.parse_public_key(open(world.key, "rb").read(), "").id
    _, seed = lpkg.read_secret_key(str(second.secret))
    raw = lpkg.public_half((key_id, seed)).raw
    with open(second.secret, "wb") as file:
        file.write(lpkg.secret_key_text(key_id + seed + raw, None))
    (world.root / "etc/lpkg/keys/two.pub").write_bytes(lpkg.PublicKey(key_id, raw).file())
    second.sign_index([], serial=lpkg.COUNT_LIMIT - 1, created=1 << 40, expires=1 << 41)
    dev(world, "update").ok()
    world.index()
    dev(world, "update").ok()
    dev(world, "upgrade").ok()


def test_s53_keys_change_and_go(world):
    """NAME.MORE.pub is trusted as NAME.pub is; what a key has signed isn't, once it is gone."""
    device(world)
    dev(world, "update").ok()
    run("keygen", world.folder / "panux.2").ok()
    dev(world, "key", "add", world.folder / "panux.2.pub", "--yes").ok()
    world.secret = world.folder / "panux.2.key"
    dev(world, "key", "remove", "panux").ok()
    dev(world, "install", "base", "--offline").refused("not trusted here", "key add panux.2.pub`")
    world.index()
    dev(world, "update").ok()
    dev(world, "install", "base", "--offline").ok()


def test_s55_a_path_that_changes_hands_is_in_the_plan(world):
    """Whoever asks for `evil`, of another repository, sees before he says yes what it takes."""
    world.pack({"base": {"bin/base": b"1"}}, base={"alternatives": [
        {"path": "bin/su", "target": "base", "priority": 10}]})
    device(world)
    run("keygen", world.folder / "evil").ok()
    other = World(world.folder / "other", (world.folder / "evil.key", world.folder / "evil.pub"))
    other.pack({"evil": {"bin/evil": b"2"}, "file": {"bin/su": b"3"}}, evil={"alternatives": [
        {"path": "bin/su", "target": "evil", "priority": 99}]})
    other.index()
    there = ["--root", world.root, "--repo", other.repo, "--key", other.key, "--yes", "install"]
    line = "path     /bin/su is evil's then, and was base's\n"
    assert line in run(*there, "evil", "--dry-run").ok().out
    assert line in run(*there, "evil").ok().err
    assert os.readlink(world.root / "bin/su") == "evil"
    back = "path     /bin/su is base's then, and was evil's\n"
    assert back in dev(world, "remove", "evil", "--yes").ok().err
    said = run(*there, "file").ok().err
    assert "/bin/su is a file of file then, and was base's\n" in said


def test_s56_no_other_user_can_hold_the_lock(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    lock = world.root / lpkg.LOCK
    assert mode_of(lock)[0] == 0o600
    lock.chmod(0o644)
    dev(world, "hold", "a").ok()
    assert mode_of(lock)[0] == 0o600


@pytest.mark.parametrize("place", ["", "var", "var/lib/lpkg/scripts"])
def test_s57_root_runs_nothing_of_a_root_that_is_another_user_s(world, shell, place):
    """Who owns any directory on the way to a script can put his own there."""
    script_world(world, shell, {"scripts": {"post-install": "#!/bin/sh\n: >/ran\n"}})
    device(world)
    (world.root / lpkg.SCRIPTS).mkdir(exist_ok=True)
    (world.root / lpkg.SCRIPTS / "base.post-install").write_text("#!/bin/sh\n: >/planted\n")
    (world.root / lpkg.SCRIPTS / "base.post-install").chmod(0o755)
    (world.root / lpkg.QUEUE).write_text("waits\tbase\tpost-install\t1-0\n")
    os.chown(world.root / place, NOBODY, NOBODY)
    assert "another user's root" in dev(world, "update").ok().err
    assert "another user's root" in dev(world, "install", "a").ok().err
    assert not (world.root / "ran").exists() and not (world.root / "planted").exists()
    os.chown(world.root / place, 0, 0)
    dev(world, "update").ok()
    assert (world.root / "ran").exists() and (world.root / "planted").exists()


def dripping(handler):
    """A server that sends a byte now and then, and never ends."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.1)
    return True


def continuing(handler):
    """A server that says for ever that one should go on."""
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)
    return True


@pytest.mark.parametrize("answer", [dripping, continuing])
@pytest.mark.parametrize("end", ["index.json.minisig", "index.json", ".lpkg"])
def test_s58_a_request_as_a_whole_has_a_deadline(world, answer, end):
    simple_world(world)

    def change(handler):
        return handler.path.endswith(end) and answer(handler)

    def hurry():
        lpkg.REQUEST_SECONDS, lpkg.SLOWEST = 1, 1 << 40

    with serving(folder_handler(world.repo, change)) as url, alarm(20):
        world.do("install", "busybox", repo=url, before=hurry).refused(
            "not all of it came within 1 s", status=3)
    assert not world.root.exists()


def limit_seconds():
    """End this process at 20 s of the processor's time, or at 600 MB."""
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    limit_memory()


def test_what_is_no_json_is_refused_where_json_is_not_loaded():
    """Its scanner knows its error only once json is loaded: here by a value that is cut."""
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("lpkg", {str(ROOT / 'lpkg.py')!r})
        lpkg = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lpkg)
        assert "json" not in sys.modules
        try:
            lpkg.parse_json(b'{{"a": "', "it")
        except lpkg.Fail:
            print("refused")"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert done.stdout == b"refused\n"


def test_s59_18_names_with_two_providers_each(world):
    """A fifth of all pairs of these conflict, so that 2 to the 18th choices are to be seen."""
    rng = random.Random(59)
    names = [f"p{number}{which}" for number in range(18) for which in "ab"]
    infos = [info_of(name, [], provides=[f"v{name[1:-1]}"],
                     conflicts=[other for other in names if other[:-1] != name[:-1]
                                and rng.random() < 0.2]) for name in names]
    world.sign_index([dict(offer_of(info, "x", b""), alternatives=[]) for info in infos])
    done = world.do("install", *(f"v{number}" for number in range(18)), before=limit_seconds)
    assert done.status == 1 and "conflicts with" in done.err, done.err


@pytest.mark.parametrize("begin, again, count, end", [
    (b'"provides": [', b'"n1",', 3_000_000, b'"n2"]'), (b'"summary": "', b"x", 30_000_000, b'"'),
    (b'"later": [', b"0,", 20_000_000, b"0]")])
def test_s59_one_package_that_says_too_much(world, begin, again, count, end):
    offer = json.dumps(offer_of(info_of("a", []), "x", b"")).encode()
    now = int(time.time())
    head = {"serial": now, "created": now, "expires": now + 1000, "arch": "x86_64", "packages": []}
    package = offer[:-1] + b", " + begin + again * count + end + b"}"
    data = json.dumps(head).encode().replace(b"[]", b"[\n" + package + b"\n]") + b"\n"
    world.write_index(data, f"index x86_64 serial {now}")
    del data, package
    world.do("install", "a", before=limit_seconds).refused("too long")


def test_s59_many_packages_that_say_too_much(world):
    offer = offer_of(info_of("a", []), "x", b"")
    world.sign_index([dict(offer, name=f"a{number}", provides=[f"n{one}" for one in range(9000)])
                      for number in range(90)])
    world.do("install", "a", before=limit_seconds).refused("the repository is too large")


def test_s60_scripts_inherit_nothing_of_lpkg_s_caller(world, shell):
    text = """#!/bin/sh
ulimit -S -f >/limits
ulimit -S -n >>/limits
for number in 3 4 5 6 7 8 9; do
    (eval "true <&$number") 2>>/errors && echo $number >>/open
done
(kill -USR1 $(exec sh -c 'echo $PPID'); : >/ignored)
:
"""
    script_world(world, shell, {"scripts": {"post-install": text}})

    def careless():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 4096))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        for number in range(3, 8):
            os.dup2(2, number, inheritable=True)

    dev(world, "install", "a", before=careless).ok()
    assert (world.root / "limits").read_text() == "unlimited\n1024\n"
    assert not (world.root / "open").exists() and not (world.root / "ignored").exists()


@pytest.mark.parametrize("script", ["pre-install", "post-install"])
def test_s60_a_script_that_does_not_end_is_killed_with_what_it_has_started(world, shell, script):
    text = "#!/bin/sh\n(: >/started; while :; do :; done) | read -r line\n"
    script_world(world, shell, {"scripts": {script: text}})
    with alarm(30):
        done = dev(world, "install", "a", before=lambda: setattr(lpkg, "SCRIPT_SECONDS", 1))
        # The kernel ends a killed process in its own time; one that isn't killed loops for ever.
        while any(is_in_root(pid, world.root) for pid in filter(str.isdigit, os.listdir("/proc"))):
            time.sleep(0.01)
    assert done.status == 1 and "takes longer than 1 s and is killed" in done.err, done.err
    assert (world.root / "started").exists()


def is_in_root(pid, root):
    """Whether the process PID has ROOT for its root."""
    try:
        return os.readlink(f"/proc/{pid}/root") == str(root)
    except OSError:
        return False


def test_s61_numbers_that_are_huge_and_clocks_that_are_unset(world):
    long = "1." + "9" * 96
    assert lpkg.is_version(long) and not lpkg.is_version(long + "999")
    with alarm(10):
        for _ in range(10_000):
            assert lpkg.version_key(long) > lpkg.version_key("1." + "9" * 95)
    world.pack({"a": {"f": b"1"}}, "1-0")
    world.pack({"a": {"f": b"2"}}, f"{long}")
    world.index()
    world.do("install", "a", before=at_time(0)).ok()
    assert world.do("list").out == f"a {long}\n"
    for field in ("size", "installed_size"):
        for number in (1 << 53, -1, 10 ** 19, 1.5, True):
            world.sign_index([dict(offer_of(info_of("b", []), "x", b""), **{field: number})])
            world.do("install", "b").refused(f"{field} is not valid")
    for field in ("serial", "created", "expires"):
        world.sign_index([], **{field: 1 << 53})
        world.do("install", "b").refused(f"{field} is not valid")


def test_root_is_not_told_to_become_root(world):
    def forbidden():
        def fchown(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        os.fchown = fchown

    world.pack({"a": {"f": b"1"}})
    world.index()
    done = world.do("install", "a", before=forbidden).refused("Operation not permitted")
    assert "as root" not in done.err and "has no owners" in done.err


def enabled(world, *names):
    """Have these NAMES enabled in the root of WORLD."""
    folder = world.root / "etc/rc.d"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_service_that_goes_is_disabled(world):
    """Its instances, too; not one of another package, or one that has moved to another package."""
    script = b"#!/bin/sh\n"
    world.pack({"app": {"etc/init.d/app": script}, "web": {"etc/init.d/web": script}},
               app={"services": ["app"]}, web={"services": ["web"]})
    world.index()
    world.do("install", "app", "web").ok()
    folder = enabled(world, "app", "app@one", "application", "web")
    done = world.do("remove", "app", "--dry-run").ok()
    assert "service  app is stopped, and not started at boot any more" in done.out
    assert (folder / "app").exists()
    world.do("remove", "app").ok()
    assert sorted(path.name for path in folder.iterdir()) == ["application", "web"]


def test_a_service_that_moves_to_another_package_stays_enabled(world):
    script = {"etc/init.d/app": b"#!/bin/sh\n"}
    world.pack({"app": script}, app={"services": ["app"]})
    world.index()
    world.do("install", "app").ok()
    folder = enabled(world, "app")
    world.pack({"new": script},
               new={"services": ["app"], "replaces": ["app"], "conflicts": ["app"]})
    world.index()
    done = world.do("install", "new").ok()
    assert "any more" not in done.err and (folder / "app").exists()


# ---- what upgrade leaves, and says -------------------------------------------------------------

def test_upgrade_names_all_that_stays_behind(world):
    """Held, blocked by what is missing, and by another one's upgrade."""
    def packs(version, **parts):
        world.pack({name: {name: version.encode()} for name in parts}, version,
                   **{name: {"depends": needs} for name, needs in parts.items()})
        world.index()

    packs("1-0", held=[], blocked=[], free=[], left=[], right=[])
    world.do("install", "held", "blocked", "free", "left", "right").ok()
    world.do("hold", "held").ok()
    packs("2-0", held=[], free=[])
    assert world.do("upgrade").ok().err.endswith(
        "held 1-0 stays, though held 2-0 is available: you hold it; `lpkg unhold held` ends that\n")
    done = world.do("upgrade").ok()
    assert "nothing newer can be had now" in done.err and "is the newest" not in done.err
    assert world.do("upgrade", "held").status == 1
    packs("2-0", blocked=["none>=3"], left=["!right>=2"], right=[])
    done = world.do("upgrade")
    assert done.status == 1 and world.do("list").out == (
        "blocked 1-0\nfree 2-0\nheld 1-0\nleft 2-0\nright 1-0\n")
    assert ("blocked 1-0 stays, though blocked 2-0 is available: you want blocked, blocked 2-0 "
            "needs none>=3, but no repository has it") in done.err
    assert ("right 1-0 stays, though right 2-0 is available: you want right, but right 2-0 won't "
            "do: left 2-0 conflicts with right 2-0") in done.err
    assert world.do("upgrade").status == 1
    world.do("remove", "held").ok()
    assert "held" not in (world.root / lpkg.WORLD).read_text()
    world.do("remove", "held").ok()             # it is as wanted already
    world.do("remove", "fre").refused("did you mean free?")


def test_where_no_repository_is_known_that_is_said(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    (world.root / lpkg.REPOS).unlink()
    for verb, *words in (["upgrade", "--yes"], ["search", "a"], ["install", "b"], ["update"]):
        dev(world, verb, *words).refused("no repository is known", "lpkg repo add NAME URL")


def test_install_looks_anew_for_what_it_does_not_know(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    dev(world, "update").ok()
    world.pack({"new": {"g": b"1"}})
    world.pack({"a": {"f": b"2"}}, "2-0")
    world.index()
    dev(world, "install", "new", "--yes").ok()
    dev(world, "install", "a=2-0", "--yes").ok()
    dev(world, "install", "never", "--yes").refused("no repository has it")


def test_one_repository_that_is_away_does_not_stop_the_others(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    with open(world.root / lpkg.REPOS, "a") as file:
        file.write(f"away http://127.0.0.1:{free_port()}\n")
    shutil.copy(world.key, world.root / lpkg.KEYS / "away.pub")
    for version in ("2-0", "3-0"):
        world.pack({"a": {"f": version.encode()}}, version)
        world.index()
        done = dev(world, "update" if version == "3-0" else "upgrade", "--yes")
        assert done.status == 3 and "the other repositories are used meanwhile" in done.err
        assert dev(world, "list").out == "a 2-0\n"
    assert dev(world, "search", "a").out.startswith("a 3-0")
    dev(world, "install", "a=3-0", "--yes").ok()


def test_a_repository_that_is_refused_does_not_stop_the_others(world):
    """No key is there for it, then its index has expired; what was seen of it before counts on."""
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    other = world.folder / "other/x86_64"
    other.mkdir(parents=True)
    with open(world.root / lpkg.REPOS, "a") as file:
        file.write(f"other {other.parent}\n")
    world.pack({"a": {"f": b"2"}}, "2-0")
    world.index()
    done = dev(world, "upgrade")
    assert done.status == 1 and "other: no key is trusted for it" in done.err
    assert dev(world, "list").out == "a 2-0\n"
    run("keygen", world.folder / "other").ok()
    shutil.copy(world.folder / "other.pub", world.root / lpkg.KEYS)
    world.pack({"o": {"o": b"1"}}, into=other)
    run("index", other, "--secret", world.folder / "other.key", "--expires", "5").ok()
    dev(world, "update").ok()
    done = dev(world, "update", before=at_time(time.time() + 6 * 86400))
    assert done.status == 1 and "other: the index that update fetched: expired on" in done.err
    assert "the other repositories are used meanwhile" in done.err
    signature = other / "index.json.minisig"
    signature.write_bytes(signature.read_bytes().replace(b"serial", b"Serial"))
    done = dev(world, "update")
    assert done.status == 1 and "wrong signature" in done.err
    dev(world, "install", "o").ok()
    (world.packages / "index.json.minisig").write_bytes(signature.read_bytes())
    dev(world, "update").refused("not trusted here")


@pytest.mark.parametrize("change", [
    lambda data: data.replace(b"\n", b"\r\n"), lambda data: data.rstrip(b"\n"),
    lambda data: b"\n" + data + b"\n\n"])
def test_keys_and_signatures_are_taken_as_minisign_takes_them(world, tmp_path, change):
    world.pack({"a": {"f": b"1"}})
    world.index()
    key = tmp_path / "other.pub"
    key.write_bytes(change(open(world.key, "rb").read()))
    signature = world.packages / "index.json.minisig"
    signature.write_bytes(change(signature.read_bytes()))
    run("--root", world.root, "--repo", world.repo, "--key", key, "--arch", "x86_64", "--yes",
        "install", "a").ok()


def test_a_bad_public_key_is_asked_from_who_has_it(tmp_path):
    (tmp_path / "k.pub").write_text("no key\n")
    done = run("--root", tmp_path / "r", "--repo", tmp_path, "--key", tmp_path / "k.pub", "install",
               "a").refused("not a minisign public key", "who signs the repository")
    assert "keygen" not in done.err


def test_remove_makes_room_on_a_full_disk(world, shell):
    """Without a block, then without an inode; with scripts, an alternative, a changed conffile."""
    names = ("one", "two", "three")
    world.pack({name: {f"usr/{name}": os.urandom(9000), f"etc/{name}": b"1"} for name in names},
               one={"scripts": {"pre-remove": ":", "post-remove": ":"},
                    **offers_of(("bin/x", "a", 2))}, two=offers_of(("bin/x", "b", 1)))
    world.index()
    world.root.mkdir()
    with mounted(world.root):
        add_shell(world.root, shell)
        (world.root / lpkg.INSTALLED).mkdir(parents=True)
        world.do("install", *names).ok()
        (world.root / "etc/one").write_bytes(b"mine")
        subprocess.run(["mount", "-o", "remount,size=4m,nr_inodes=1000", world.root], check=True)
        with open(world.root / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        dev(world, "remove", "one", "--yes").ok()
        assert os.readlink(world.root / "bin/x") == "b" and not (world.root / "usr/one").exists()
        assert (world.root / "etc/one").read_bytes() == b"mine"
        os.unlink(world.root / "fill")
        count = 0
        with contextlib.suppress(OSError):
            while True:
                (world.root / f"i{count}").touch()
                count += 1
        dev(world, "install", "--yes", "--repo", world.repo, "--key", world.key, "one").refused(
            "inode")
        dev(world, "remove", "two", "--yes").ok()
        for number in range(count):
            (world.root / f"i{number}").unlink()
        assert dev(world, "list").out == "three 1-0\n" and not (world.root / "bin/x").is_symlink()
        world.do("verify").ok()
        assert (world.root / lpkg.WORLD).read_text() in ("three\n", "three\ntwo\n")
        dev(world, "remove", "three", "--yes").ok()
        assert (world.root / lpkg.WORLD).read_text() == ""


def test_a_removal_without_a_journal_is_finished_by_the_next_run(world):
    world.pack({"a": {"usr/a/f": b"1", "usr/a/g": b"1"}, "b": {"usr/b": b"1"}})
    world.index()
    world.do("install", "a", "b").ok()
    state = world.root / lpkg.STATE
    os.rename(state / "installed/a", state / "removing")
    (world.root / "usr/a/f").unlink()
    assert "finishing what an earlier lpkg" in dev(world, "remove", "none").ok().err
    assert os.listdir(world.root / "usr") == ["b"] and not (state / "removing").exists()
    assert (world.root / lpkg.WORLD).read_text() == "b\n"
    world.do("verify").ok()


# ---- what users meet first ---------------------------------------------------------------------

def test_info_of_what_has_scripts_and_alternatives(world):
    world.pack({"a": {"f": b"1"}},
               a={"scripts": {"pre-remove": "true"}, **offers_of(("x", "f", 7))})
    world.index()
    world.do("install", "a").ok()
    out = world.do("info", "a").ok().out
    assert "scripts: pre-remove\n" in out and "alternatives: x=f\n" in out
    assert "scripts: pre-remove\n" in run("info", world.packages / "a-1-0.x86_64.lpkg").ok().out


def test_a_meter_of_nothing_does_not_divide(monkeypatch):
    meter = lpkg.Meter("verifying", 0)
    monkeypatch.setattr(lpkg.time, "monotonic", lambda: meter.began + 1)
    meter.add(0)


def test_a_package_called_transaction_is_remembered(world):
    for name in ("mytransaction", "b"):
        world.pack({name: {name: b"1"}})
        world.index()
        world.do("install", name).ok()
    lines = world.do("history").ok().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    world.do("undo", "--repo", world.repo, "--key", world.key, "--yes", "1").ok()
    assert world.do("list").out == "b 1-0\n"


def test_undo_of_a_rebuilt_package_wants_its_old_bytes_and_passes_a_repair_over(world):
    source = ["--repo", world.repo, "--key", world.key, "--yes"]
    for data in (b"1", b"2"):
        world.pack({"a": {"f": data}})
        world.index()
        if data == b"1":
            world.do("install", "a").ok()
            kept = (world.packages / "a-1-0.x86_64.lpkg").read_bytes()
    world.do("upgrade").ok()
    repair(world, "a").ok()
    world.do("undo", *source).refused("a 1-0, as it was, is in no repository", "--allow-unsigned")
    assert (world.root / "f").read_bytes() == b"2"
    (world.packages / "a-1-0.x86_64.lpkg").write_bytes(kept)
    world.index()
    world.do("undo", *source).ok()
    assert (world.root / "f").read_bytes() == b"1"


def test_words_that_people_type(world):
    assert run("-h").ok().out == run("--help").ok().out == run("help").ok().out
    assert run("help", "install").ok().out == run("install", "--help").ok().out
    run("--root", "", "list").refused("--root: an empty name", status=2)
    world.pack({"a": {"f": b"1"}})
    world.index()
    (world.root / "lost+found").mkdir(parents=True)
    run("--root", world.root, "--repo", world.repo, "--key", world.key, "--arch", "x86_64", "-y",
        "install", "a").ok()
    (world.folder / "ext4/lost+found").mkdir(parents=True)
    run("bootstrap", world.folder / "ext4", "--repo", world.repo, "--key", world.key, "--arch",
        "x86_64", "a").ok()
    assert (world.folder / "ext4/f").exists() and (world.folder / "ext4/lost+found").is_dir()


@pytest.mark.parametrize("text", ["foo>=1", "!foo", "foo~1"])
def test_pack_refuses_to_provide_what_has_no_one_version(world, text):
    (world.folder / "meta.json").write_text(json.dumps(meta_of(["a"], a={"provides": [text]})))
    run("pack", "--meta", world.folder / "meta.json", "-o", world.packages,
        stdin=build_tar({"a": {"f": b"1"}})).refused("provides", "NAME or NAME=VERSION")


def test_a_choice_of_an_alternative_is_shown_first(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}}, a=offers_of(("x", "f", 7)),
               b=offers_of(("x", "g", 3)))
    world.index()
    world.do("install", "a", "b").ok()
    assert dev(world, "alternatives", "set", "/x", "b", "--dry-run").ok().out == "x -> g  b\n"
    assert os.readlink(world.root / "x") == "f"


def test_a_journal_that_could_not_be_read_again_is_not_written(monkeypatch):
    lines = [["rm", f"usr/{number}"] for number in range(1000)]
    lpkg.check_journal(lpkg.journal_text(lines), "it")
    monkeypatch.setattr(lpkg, "INFO_LIMIT", 1000)
    with pytest.raises(lpkg.Fail, match="too long; change fewer packages"):
        lpkg.journal_text(lines)


def test_a_script_before_removal_that_fails_has_a_way_out_that_works(world, shell):
    world.pack({"a": {"f": b"1"}}, a={"scripts": {"pre-remove": "exit 3"}})
    world.index()
    add_shell(world.root, shell)
    (world.root / lpkg.INSTALLED).mkdir(parents=True)
    world.do("install", "a").ok()
    done = world.do("remove", "a").refused("pre-remove ended with status 3", "to do without it")
    os.unlink(done.err.strip().rpartition("remove ")[2])
    done = world.do("remove", "a").ok()
    assert "its script pre-remove can't run here and is passed over" in done.err


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_scripts_and_services_of_what_is_removed_on_a_full_disk(world, shell, error):
    init = b"#!/bin/sh\necho \"s $1\" >> /log\n"
    world.pack({"a": {"f": b"1"}, "b": {"etc/init.d/s": (init, 0o755)}},
               a={"scripts": {"pre-remove": "[ -e /mended ]"}},
               b={"scripts": {"pre-remove": "echo b >> /log"}, "services": ["s"]})
    world.index()
    add_shell(world.root, shell)
    (world.root / lpkg.INSTALLED).mkdir(parents=True)
    (world.root / "run/linit").mkdir(parents=True)
    world.do("install", "a", "b").ok()

    def full():
        def stage(_):
            raise OSError(error, "No space left on device")
        lpkg.stage = stage

    before = snapshot(world.root)
    done = world.do("remove", "a", "b", before=full)
    done.refused("a 1-0: its script pre-remove ended with status 1; nothing was changed")
    assert log(world) == [] and snapshot(world.root) == before
    (world.root / "mended").write_text("")
    world.do("remove", "a", "b", before=full).ok()
    assert log(world) == ["b", "s stop"] and not os.listdir(world.root / lpkg.INSTALLED)


def test_a_new_root_knows_where_it_came_from(world, tmp_path):
    """Two repositories and two keys of one name."""
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}})
    world.index()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(world.key, other / "panux.pub")
    run("--root", world.root, "--repo", world.repo, "--repo", f"{world.repo}/", "--key", world.key,
        "--key", other / "panux.pub", "--arch", "x86_64", "--yes", "install", "a").ok()
    assert (world.root / lpkg.REPOS).read_text() == f"panux {world.repo}\npanux-2 {world.repo}\n"
    assert sorted(os.listdir(world.root / lpkg.KEYS)) == ["panux-2.pub", "panux.pub"]
    dev(world, "install", "b", "--yes").ok()
    assert record(world.root, "a")["repository"] == record(world.root, "b")["repository"] == "panux"
    run("bootstrap", world.folder / "boot", "--repo", world.repo, "--key", world.key, "--arch",
        "x86_64", "a").ok()
    assert not (world.folder / "boot" / lpkg.REPOS).exists()    # of this machine
    run("bootstrap", world.folder / "two", "--repo", f"file://{world.repo}", "--key", world.key,
        "--arch", "x86_64", "a").ok()
    assert (world.folder / "two" / lpkg.REPOS).read_text() == f"panux file://{world.repo}\n"


@pytest.mark.parametrize("variable", ["LC_ALL=C", "LC_ALL=POSIX", "LC_ALL=de_DE.ISO-8859-15"])
def test_paths_are_utf_8_in_every_locale(world, tmp_path, variable):
    name = "grüße-日本"
    world.pack({"a": {f"usr/{name}": b"1"}})
    world.index()
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": variable.partition("=")[2]}
    if "ISO" in variable:
        subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-15",
                        str(tmp_path / "de_DE.ISO-8859-15")], check=False)
    script(*world.arguments("install", "a"), env=environment).ok()
    assert os.listdir(os.fsencode(world.root / "usr")) == [name.encode()]
    script("--root", world.root, "verify", env=environment).ok()
    done = script("--root", world.root, "files", "a", env=environment).ok()
    assert done.out == f"usr\nusr/{name}\n"


def test_s16_two_at_once(world):
    world.pack({"a": {"f": b"1"}, "b": {"g": b"1"}})
    world.index()
    world.do("install", "a").ok()
    reader, writer = os.pipe()

    def hold():
        lpkg.fetch = lambda tx: (os.write(writer, b"%d" % os.getpid()), time.sleep(30))

    pid = os.fork()
    if pid == 0:
        world.do("install", "b", before=hold)
        os._exit(0)
    other = os.read(reader, 20).decode()
    try:
        world.do("install", "b").refused(f"pid {other}", status=3)
        assert world.do("list").ok().out == "a 1-0\n"
    finally:
        os.kill(int(other), signal.SIGKILL)
        os.waitpid(pid, 0)
    world.do("install", "b").ok()


def test_s16_no_room(world):
    world.pack({"a": {"f": b"1"}})
    world.index()

    def full():
        real = os.fstatvfs
        os.fstatvfs = lambda fd: os.statvfs_result((*real(fd)[:4], 0, *real(fd)[5:]))

    world.do("install", "a", before=full).refused("needed", "make room")
    assert not world.root.exists()


def test_s16_ctrl_c_at_each_stage(world):
    origin, arguments = transactions(world)["upgrade"]
    old = snapshot(world.folder / origin)
    for name in ("fetch", "verify", "stage", "commit", "apply", "forget"):
        root = world.folder / name
        shutil.copytree(world.folder / origin, root, symlinks=True)

        def interrupt():
            real = getattr(lpkg, name)

            def once(*values):
                setattr(lpkg, name, real)
                if name == "stage":
                    real(*values)
                raise KeyboardInterrupt
            setattr(lpkg, name, once)

        done = world.do(*arguments, root=root, before=interrupt)
        assert done.status == 130 and "nothing is half done" in done.err
        assert (snapshot(root) == old) == (name in ("fetch", "verify", "stage", "commit"))
        assert "journal" not in os.listdir(root / lpkg.STATE)
        assert "staged" not in os.listdir(root / lpkg.STATE)


def test_a_damaged_journal_is_not_obeyed(world):
    world.pack({"a": {"f": b"1"}})
    world.index()
    world.do("install", "a").ok()
    for line in ("rm\t../x", "rm\t/x", "mv\tf\td/f", "mv\tf", "exec\tf", "rm f", "rm\tf\tg"):
        (world.root / lpkg.JOURNAL).write_text(line + "\n")
        world.do("install", "a").refused("journal")


def test_s18_no_panux_is_refused(world):
    run("--root", "/", "--yes", "install", "x").refused("/ is no Panux")
    run("--yes", "remove", "x").refused("/ is no Panux")
    run("list").refused("/ is no Panux")
    world.root.mkdir()
    (world.root / "etc").mkdir()
    world.do("install", "x").refused("neither a root of lpkg's nor an empty folder")
    run("--root", world.folder / "none", "list").refused("no lpkg database")
    run("--root", world.root, "list").refused("neither a root")     # and install makes none of it
    assert os.listdir(world.root) == ["etc"]


def test_s18_hostile_surroundings(world):
    simple_world(world)
    alone = world.folder / "alone"
    alone.mkdir()
    shutil.copy(SCRIPT, alone)
    for name in (
        "json",
        "os",
        "stat",
        "urllib",
        "tempfile",
        "binascii",
        "difflib",
        "__future__",
        "typing",
    ):
        (alone / f"{name}.py").write_text("raise SystemExit('planted')\n")
    environment = dict(os.environ, PATH="/nonexistent", TMPDIR="/nonexistent", LC_ALL="C")
    done = subprocess.run(
        [sys.executable, "lpkg.py", *map(str, world.arguments("install", "busybox"))],
        cwd=alone,
        env=environment,
        stderr=subprocess.PIPE,
        umask=0o777,
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(os.stat(world.root / "bin/busybox").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(world.root / lpkg.STATE).st_mode) == 0o755
    assert world.do("verify").ok()


def test_s18_directories_of_mode_000(world, open_folder):
    world.pack({"a": {"d": (None, 0), "d/f": b"1"}, "bad": {"e": (None, 0), "e/f": b"1"}})
    world.index()
    shutil.copytree(world.repo, open_folder / "repo")
    shutil.copy(world.key, open_folder)
    for uid, root in ((0, open_folder / "r"), (NOBODY, open_folder / "u")):
        def fail_late():
            lpkg.commit = lambda tx: (_ for _ in ()).throw(OSError(5, "Input/output error"))
        arguments = [
            "--root",
            root,
            "--repo",
            open_folder / "repo",
            "--key",
            open_folder / "panux.pub",
            "--arch",
            "x86_64",
            "--yes",
            "install",
            "a",
        ]
        run(*arguments, uid=uid, before=fail_late).refused("Input/output error")
        assert not root.exists()
        run(*arguments, uid=uid).ok()
        run("--root", root, "verify", uid=uid).ok()
        run("--root", root, "--yes", "remove", "a", uid=uid).ok()
        assert not (root / "d").exists()


# ---- faults that no test had noticed -------------------------------------------------------------

@pytest.mark.parametrize("python", pythons().values(), ids=list(pythons()))
def test_json_is_read_where_no_json_module_is_loaded_yet(world, python):
    """This process has loaded it; a program of its own has not."""
    provides = [f"n{number}" for number in range(3000)]
    world.pack({"a": {"f": b"1"}}, a={"provides": provides})
    device(world)
    root = ("--root", world.root)
    script(*root, "update", python=python).ok()
    assert script(*root, "install", "--yes", "n2999", python=python).ok().out == ""
    assert script(*root, "list", python=python).ok().out == "a 1-0\nbase 1-0\n"
    for text in ('{"arch": "x', '{"arch": }', "", "{} {}", '{"arch" "x"}', "[1,"):
        (world.root / lpkg.INSTALLED / "base").write_text(f"base\t1-0\t\t{text}\n")
        script(*root, "info", "base", python=python).refused("installed/base: damaged")


@pytest.mark.parametrize("change", [
    lambda data: b"", lambda data: data[:40], lambda data: data[:-9] + b"\n",
    lambda data: data.replace(b"RWQ", b"R\xffQ"), lambda data: data + data, lambda data: b"\xff\n",
    lambda data: data.replace(b"untrusted", b"trusted"), lambda data: data[:60] + b"!" + data[61:]])
def test_a_damaged_secret_key_is_a_line(world, tmp_path, change):
    (tmp_path / "file").write_bytes(b"")
    key = tmp_path / "bad.key"
    key.write_bytes(change(open(world.secret, "rb").read()))
    run("sign", tmp_path / "file", "--secret", key).refused("bad.key: no minisign secret key")


def test_files_are_durable_before_they_appear(world):
    """Each file is synced before the rename that gives it its name."""
    world.pack({"a": {"f": b"1"}})

    def watch():
        fsync, real = os.fsync, {name: getattr(os, name) for name in ("rename", "replace")}
        synced = set()
        os.fsync = lambda number: (synced.add(os.fstat(number).st_ino), fsync(number))

        def note(name, old, new):
            print(os.path.basename(new), os.stat(old).st_ino in synced)
            return real[name](old, new)
        os.rename = lambda old, new: note("rename", old, new)
        os.replace = lambda old, new: note("replace", old, new)

    done = run("index", world.packages, "--page", PAGE, "--secret", world.secret, "--serial-file",
               world.folder / "serial", before=watch).ok()
    assert done.out.splitlines() == ["serial True", "index.html True", "index.json.minisig True",
                                     "index.json True"]
    done = run("sign", world.packages / "index.json", "--secret", world.secret, before=watch).ok()
    assert done.out.startswith("index.json.minisig True\n")


def test_a_tree_is_removed_and_nothing_that_its_symlinks_point_at(tmp_path):
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (outside / "d").mkdir(parents=True)
    (outside / "d/f").write_bytes(b"precious")
    (outside / "su").write_bytes(b"")
    (outside / "su").chmod(0o4755)
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/folder").symlink_to(outside / "d")
    (tree / "inner/file").symlink_to(outside / "su")
    (tree / "self").symlink_to(tree)
    os.link(outside / "su", tree / "hard")
    root = lpkg.Root(str(tmp_path))
    lpkg.remove_tree(*root.place("tree"))
    assert not tree.exists() and (outside / "d/f").read_bytes() == b"precious"
    assert stat.S_IMODE((outside / "su").stat().st_mode) == 0o755      # no old hole stays open
    (tmp_path / "link").symlink_to(outside)
    lpkg.remove_tree(*root.place("link"))
    assert not os.path.lexists(tmp_path / "link") and (outside / "d/f").exists()


def test_anybody_may_ask_what_is_in_root_s_root(world, open_folder):
    world.pack({"a": {"bin/a": b"1", "etc/a": b"1"}, "b": {"f": b"1"}},
               a={"depends": ["b"], "alternatives": [
                   {"path": "bin/vi", "target": "a", "priority": 5}]})
    world.index()
    shutil.copytree(world.repo, open_folder / "repo")
    world.root = open_folder / "root"
    source = ["--repo", open_folder / "repo", "--key", world.key, "--arch", "x86_64"]
    run("--root", world.root, *source, "--yes", "install", "a").ok()
    before = snapshot(world.root)
    dev(world, "update").ok()
    for words in (["list"], ["info", "a"], ["files", "a"], ["owner", "bin/vi"], ["why", "b"],
                  ["verify"], ["audit"], ["history"], ["alternatives"], ["repo"], ["key"],
                  ["search", "a"], ["install", "--dry-run", "a"], ["upgrade", "--dry-run"]):
        done = dev(world, *words, uid=NOBODY).ok()
        assert done.out or words[0] in ("verify", "audit", "install", "upgrade"), words
    for words in (["remove", "a"], ["hold", "a"], ["update"], ["repo", "remove", "panux"]):
        dev(world, *words, uid=NOBODY).refused("run it as root", f"{world.root}/")
    del before["etc/lpkg/repos"]
    assert before.items() <= snapshot(world.root).items()


# ---- as a user ---------------------------------------------------------------------------------

@pytest.fixture
def open_folder():
    """A folder that another user may write to."""
    import pathlib
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lpkg-test-"))
    os.chmod(folder, 0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_user_installs_into_a_root_of_his_own(world, open_folder):
    world.pack({"app": TREE}, app={"owners": {"etc/app.conf": "5:6:640"}})
    world.index()
    shutil.copytree(world.repo, open_folder / "repo")
    shutil.copy(world.key, open_folder)
    root = open_folder / "root"
    run(
        "--root",
        root,
        "--repo",
        open_folder / "repo",
        "--key",
        open_folder / "panux.pub",
        "--arch",
        "x86_64",
        "--yes",
        "install",
        "app",
        uid=NOBODY,
    ).ok()
    there = os.stat(root / "etc/app.conf")
    assert (there.st_uid, stat.S_IMODE(there.st_mode)) == (NOBODY, 0o640)
    assert stat.S_IMODE(os.stat(root / "bin/su").st_mode) == 0o755
    assert run("--root", root, "verify", uid=NOBODY).ok().out == ""
    assert "bin/su: mode" in run("--root", root, "verify").out
    files = record(root, "app")["files"]
    assert [one["uid"] for one in files if one["path"] == "etc/app.conf"] == [5]
    run("--root", root, "--yes", "remove", "app", uid=NOBODY).ok()
    os.chmod(open_folder, 0o755)
    run("--root", open_folder / "new", "--repo", open_folder / "repo", "--key",
        open_folder / "panux.pub", "--arch", "x86_64", "--yes", "install", "app",
        uid=NOBODY).refused("Permission denied", "run it as root")


# ---- the command line --------------------------------------------------------------------------

def test_usage(world):
    run("instal", "x").refused("did you mean install?", status=2)
    run("install").refused("write lpkg install NAME", status=2)
    run("list", "--tar", "x").refused("--tar", status=2)
    run("--rot", "x", "list").refused("did you mean --root?", status=2)
    run("list", "--root").refused("needs a value", status=2)
    run("list", "--json=5").refused("takes no value", status=2)
    run("pack").refused("--meta is needed", status=2)
    run("install", "!x", "--root", world.root).refused("lpkg remove x", status=2)
    assert run("--version").ok().out == f"lpkg {lpkg.VERSION}\n"
    assert "lpkg install NAME" in run().ok().out and "lpkg pack" in run("--help").ok().out
    assert "--encrypt" in run("keygen", "--help").ok().out
    assert all(verb in run("--help").out for verb in lpkg.VERBS)


def test_options_stand_before_and_after(world):
    world.pack({"a": {}})
    world.index()
    world.do("install", "a").ok()
    assert (
        run("list", f"--root={world.root}").ok().out == run("--root", world.root, "list").ok().out
    )


def test_a_closed_pipe_and_a_full_stdout(world):
    world.pack({"a": {str(number): b"" for number in range(5000)}})
    file = world.packages / "a-1-0.x86_64.lpkg"
    done = subprocess.run(f"{sys.executable} -I -S {SCRIPT} files {file} | head -1", shell=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout == b"0\n" and done.stderr == b""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, "files", file], stdout=full,
                              stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"No space" in done.stderr


@pytest.mark.parametrize("redirection, status, said", [
    (">&-", 0, b""), ("2>&-", 0, b"lpkg 0.1\n"), (">/dev/full", 1, b"lpkg: No space left")])
def test_streams_that_are_closed_or_full(redirection, status, said):
    done = subprocess.run(f"{sys.executable} -I -S {SCRIPT} --version {redirection}", shell=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == status
    assert (done.stdout + done.stderr).startswith(said) and done.stderr.count(b"\n") <= 1


@pytest.mark.parametrize("url", ["http://[::1/", "http://ex\u00e4mple.invalid/", "http://h:x/"])
def test_addresses_that_are_none(world, url):
    simple_world(world)
    world.do("install", "busybox", repo=url).refused("check the address", status=3)


def on_a_terminal(arguments):
    """What is shown on a real pseudo terminal, where it also asks."""
    import pty
    arguments = [one for one in map(str, arguments) if one != "--yes"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-I", "-S", SCRIPT, *arguments])
    text = b""
    while b"[y/N]" not in text:
        text += os.read(terminal, 1000)
    os.write(terminal, b"y\n")
    with contextlib.suppress(OSError):
        while True:
            text += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
    return text


def test_progress_is_a_line_on_a_terminal(world):
    simple_world(world)
    text = on_a_terminal(world.arguments("install", "busybox"))
    assert b"install  busybox  1-0" in text and b"\033[K" in text


def test_what_a_script_prints_stands_below_its_name_on_a_terminal(world, shell):
    script_world(world, shell, {"scripts": {"post-install": "echo look here"}})
    text = on_a_terminal(["--root", world.root, "install", "a"])
    assert b"a: post-install\r\nlook here\r\n" in text


def test_a_script_that_asks_the_terminal_gets_no_answer(world, shell):
    script_world(world, shell, {"scripts": {"post-install": "read x </dev/tty || echo none"}})
    (world.root / "dev").mkdir()
    os.mknod(world.root / "dev/tty", 0o666 | stat.S_IFCHR, os.makedev(5, 0))
    text = on_a_terminal(["--root", world.root, "install", "a"])
    assert b"none\r\n" in text


def console_blocks(path):
    """The (command, output) pairs of the blocks of a page that begin with `$ lpkg.py`."""
    with open(path, encoding="utf-8") as file:
        blocks = file.read().split("```")[1::2]
    for block in blocks:
        if block.startswith("\n$ lpkg.py"):
            for part in block.strip().split("\n$ "):
                command, _, output = part.partition("\n")
                yield command.removeprefix("$ "), output


def masked(text):
    """TEXT without what differs from run to run, or from one zlib to another."""
    return re.sub(r"\d+(\.\d+)? [kMG]?B|[0-9a-f]{64}|\d{10}|\.lpkg \d+", "N", text.strip())


def test_the_page_shows_what_lpkg_prints(tmp_path):
    trees = {"hello": {"bin/hello": (b"#!/bin/sh\ncat /usr/share/greeting\n", 0o755),
                       "etc/hello.conf": b"colour=yes\n"},
             "greeting": {"usr/share/greeting": b"Hello, Panux!\n"}}
    (tmp_path / "out.tar").write_bytes(build_tar(trees))
    (tmp_path / "meta.json").write_text(json.dumps(meta_of(
        trees, "1.0-0", hello={"depends": ["greeting>=1.0"], "conffiles": ["etc/hello.conf"]})))
    (tmp_path / "repo/x86_64").mkdir(parents=True)
    (tmp_path / "lpkg.py").write_text(f'#!/bin/sh\nexec {sys.executable} -I {SCRIPT} "$@"\n')
    os.chmod(tmp_path / "lpkg.py", 0o755)
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")
    page = os.path.join(os.path.dirname(SCRIPT), "docs", "lpkg.md")
    pairs = list(console_blocks(page))
    assert len(pairs) > 10
    for command, output in pairs:
        if " install " in command and "--root" in command:
            command += " --arch x86_64"
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert masked(done.stdout) == masked(output), command


def test_only_the_standard_library_and_nothing_dear_at_the_start():
    code = ("import sys; before = set(sys.modules); sys.argv = ['lpkg', '--version']; "
            f"exec(open({SCRIPT!r}).read(), dict(__name__='lpkg')); "
            "print(*sorted(set(sys.modules) - before))")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, check=True
    )
    dear = {"argparse", "json", "re", "urllib", "tarfile", "subprocess", "typing", "dataclasses"}
    assert not dear & set(done.stdout.decode().split())


# ---- the rest of the verbs, and what a device lacks ----------------------------------------------

EACH_PYTHON = pytest.mark.parametrize("python", pythons().values(), ids=list(pythons()))


def two_packages(world, **parts):
    world.pack({"a": {"bin/a": (b"#!/bin/sh\n", 0o755)}, "b": {"f": random_bytes(5000)}}, **parts)
    world.index()


def random_bytes(count):
    """Bytes that gzip can't make shorter, the same each time."""
    return random.Random(count).getrandbits(8 * count).to_bytes(count, "little")


# -- sign --renew

def renew(world, *more, secret=None, **options):
    return run("sign", world.packages / "index.json", "--renew", "--secret",
               secret or world.secret, "--serial-file", world.folder / "serial", *more, **options)


def test_renew_gives_the_same_packages_a_new_date(world):
    two_packages(world)
    index = world.packages / "index.json"
    first = index.read_bytes()
    world.do("install", "a").ok()
    later = int(time.time()) + 5000
    assert renew(world, "--expires", "7", before=at_time(later)).ok().out == ""
    old, new = json.loads(first), json.loads(index.read_bytes())
    assert new["serial"] > old["serial"] and new["created"] == later
    assert new["expires"] == later + 7 * lpkg.DAY and new["packages"] == old["packages"]
    assert minisign("-Vm", index, "-p", world.key)[0] == 0
    world.do("install", "b").ok()
    assert f" {new['serial']} " in (world.root / lpkg.SERIALS).read_text()
    index.write_bytes(first)
    world.do("install", "a").refused("wrong signature")


def test_renew_after_a_change_of_keys(world, tmp_path):
    two_packages(world)
    run("keygen", tmp_path / "new").ok()
    renew(world, secret=tmp_path / "new.key").refused("not trusted")
    renew(world, "--key", world.key, secret=tmp_path / "new.key").ok()
    assert minisign("-Vm", world.packages / "index.json", "-p", tmp_path / "new.pub")[0] == 0
    renew(world, secret=tmp_path / "new.key").ok()


@pytest.mark.parametrize("data, comment, word", [
    (b"[]", "index x86_64 serial 5", "not a JSON object"),
    (b'{"a": 1, "packages": [\n]}\n', "index x86_64 serial 5", "serial is missing"),
    (b'{"serial": 5, "created": 1, "expires": 1, "arch": "x86_64", "packages": []}',
     "index x86_64 serial 5", "make it with lpkg index"),
    (b'{"serial": 5, "created": 1, "expires": 1, "arch": "x86_64", "packages": [\n]}\n',
     "timestamp:5\tfile:index.json", "signed as"),
])
def test_renew_refuses_what_is_no_index(world, data, comment, word):
    world.write_index(data, comment)
    renew(world).refused(word)
    assert (world.packages / "index.json").read_bytes() == data
    os.unlink(world.packages / "index.json.minisig")
    renew(world).refused("index.json.minisig", "check the path")


# -- selftest

@EACH_PYTHON
def test_selftest_passes_everywhere(python):
    before = os.times()
    done = script("selftest", python=python, env={}).ok()
    spent = os.times()
    assert set(line[:4] for line in done.out.splitlines()) == {"ok  "} and done.err == ""
    spent = spent.children_user + spent.children_system - before.children_user \
        - before.children_system
    assert spent < 2


# What is taken away of a guard, and the check that must notice.
GUARDS = [
    (" or s >= L or", " or", "with S + L"),
    ("return point_encode(result) == signature[:32] and", "return", "of another message"),
    ("        if (ed25519_verify(key.raw, message, raw[10:])\n", "        if (True\n",
     "of another file"),
    (" or not NO_NAMES.isdisjoint(parts)", "", "a file ../f"),
    ("if self.read(len(data)) != data:", "if self.read(len(data)) is None:",
     "a setuid bit that isn't declared"),
    ('        if digest.hexdigest() != entry["sha256"]:', "        if False:", "another content"),
]


def test_selftest_notices_each_guard_that_is_gone(tmp_path):
    text = open(SCRIPT, encoding="utf-8").read()
    for guard, rest, what in GUARDS:
        assert text.count(guard) == 1, guard
        (tmp_path / "lpkg.py").write_text(text.replace(guard, rest))
        done = subprocess.run([sys.executable, "-I", "-S", tmp_path / "lpkg.py", "selftest"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
        assert done.returncode == 1, guard
        assert f"FAILED  {what}: refused\n" in done.stdout, (guard, done.stdout)
        assert "checks failed; don't use this copy of lpkg" in done.stderr


# -- completion

@pytest.fixture
def shells(world):
    """What runs a text in a shell: with lpkg on its PATH, that works on a root where `box` is
    installed, and whose repository also has `boxes`, which has cmd:draw."""
    world.pack({"box": {}, "boxes": {"usr/bin/draw": (b"", 0o755)}, "boxer": {}},
               boxes={"summary": "draws  boxes"})
    world.index()
    world.do("install", "box").ok()
    programs = world.folder / "bin"
    programs.mkdir()
    source = f"[ $1 = list ] || set -- --repo {world.repo} --key {world.key} --arch x86_64 \"$@\""
    (programs / "lpkg").write_text(
        f'#!/bin/sh\n{source}\nexec {sys.executable} -I -S {SCRIPT} --root {world.root} "$@"\n')
    (programs / "lpkg").chmod(0o755)

    def start(shell, text, path=f"{programs}:/usr/bin:/bin"):
        flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        completion = ZSH_BEGIN * (shell == "zsh") + (COMPLETIONS / f"lpkg.{shell}").read_text()
        return subprocess.run(
            [shutil.which("timeout"), "10", shutil.which(shell), *flags, "-c",
             f"{completion}\n{text}"],
            env={"PATH": path, "HOME": str(world.folder)}, cwd=programs,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    return start


# Each gives a line for each completion of the words before the last, and that.
COMPLETE = {
    "bash": 'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _lpkg; '
            'printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": 'words=({words}); CURRENT=$#words; PREFIX=$words[-1]\n'
           'compadd() {{ shift; print -l -- ${{(M)@:#$PREFIX*}}; }}; _lpkg',
    "fish": 'complete -C "{line}" | string replace -r "\\t.*" ""; true',
}
ZSH_BEGIN = "compdef() { :; }\n"
COMPLETIONS = ROOT / "world/completions"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_in_a_real_shell(shells, shell):
    def complete(*words):
        quoted = " ".join(word or "''" for word in words)
        text = COMPLETE[shell].format(words=quoted, line=" ".join(words))
        done = shells(shell, text)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    assert complete("lpkg", "rem") == {"remove"}
    assert complete("lpkg", "") == {verb.split()[0] for verb in lpkg.VERBS}
    assert complete("lpkg", "remove", "b") == {"box"}
    assert complete("lpkg", "install", "boxe") == {"boxes", "boxer"}
    assert {"box", "boxes", "boxer"} <= complete("lpkg", "info", "")
    assert complete("lpkg", "install", "--dry") == {"--dry-run"}
    text = (COMPLETIONS / f"lpkg.{shell}").read_text()
    assert all(option.flag.lstrip("-") in text for option in lpkg.OPTIONS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_an_unknown_command_asks_the_repositories(shells, shell, tmp_path):
    def said(command, **more):
        done = shells(shell, command, **more)
        assert done.returncode == 127 and done.stdout == "", done.stderr
        return done.stderr.partition("fish: ")[0]       # which then shows the line once more

    assert said("draw a line") == "draw: not found\n  lpkg install boxes\n"
    assert said("drawn") == "drawn: not found\n"
    # Nor does it ask itself, and itself again, when lpkg or all programs are missing.
    empty = tmp_path / "empty"
    empty.mkdir()
    assert said("draw", path=str(empty)) == "draw: not found\n"
    assert said("lpkg", path=str(empty)) == "lpkg: not found\n"
    (empty / "lpkg").symlink_to(tmp_path / "bin/lpkg")
    assert said("draw", path=str(empty)) == "draw: not found\n  lpkg install boxes\n"


@pytest.mark.parametrize("command", [["bash", "-n"], ["zsh", "-n"], ["fish", "--no-execute"]])
def test_completions_are_well_formed(command):
    done = subprocess.run([*command, COMPLETIONS / f"lpkg.{command[0]}"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=10)
    assert (done.returncode, done.stdout) == (0, b"")


# -- what you read when something is in the way

def in_folder(world, before=lambda: None):
    """What the forked lpkg does first: it goes to where R is, and BEFORE()."""
    return lambda: (os.chdir(world.folder), before())


def killed_in(name):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    return lambda: setattr(lpkg, name, die)


def in_the_way(world):
    """The lines that the page shows, as they come for real: the disk R is a tmpfs of 2 MB."""
    def do(before=lambda: None):
        done = world.do("install", "big", root="R", before=in_folder(world, before))
        return done.err.splitlines(True)

    def fill_first():
        real = lpkg.stage

        def stage(tx):
            free = os.statvfs("R").f_bavail * 4096
            with open("R/mine", "wb") as file:
                file.write(bytes(free - 300_000))
            real(tx)
        lpkg.stage = stage

    with held(world):
        yield do()[-1]
    for name in ("commit", "apply"):
        do(killed_in(name))
        yield do(killed_in("fetch"))[0]
        world.do("remove", "big", root=world.folder / "R")
    (world.folder / "R/mine").write_bytes(bytes(1_500_000))
    yield do()[-1]
    (world.folder / "R/mine").unlink()
    yield do(fill_first)[-1]


@contextlib.contextmanager
def held(world):
    """While an lpkg changes R."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        def hold():
            lpkg.fetch = lambda tx: (os.write(writer, b"%d" % os.getpid()), time.sleep(30))
        world.do("install", "big", root="R", before=in_folder(world, hold))
        os._exit(0)
    other = int(os.read(reader, 20))
    try:
        yield
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_page_shows_what_is_in_the_way(world):
    world.pack({"big": {"usr/share/big": bytes(1_040_000)}})
    world.index()
    disk = world.folder / "R"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        (disk / lpkg.INSTALLED).mkdir(parents=True)
        said = "".join(in_the_way(world))
    finally:
        subprocess.run(["umount", disk], check=True)
    page = (ROOT / "docs/lpkg.md").read_text()
    shown = page.split("### What you read when something is in the way")[1].split("```")[1]

    def mask(text):
        return re.sub(r"pid \d+", "pid N", masked(text))

    assert mask(said) == mask(shown)


# -- on a device

# lpkg in a Python that has the modules ALLOWED alone, and no ssl.
BARE = r"""
import sys
script, allowed = sys.argv[1:3]
del sys.argv[1:3]
allowed = set(allowed.split())

class Refuser:
    def find_spec(self, name, path=None, target=None):
        if name not in allowed:
            raise ImportError(f"{name} is not on the page")

sys.meta_path.insert(0, Refuser())
sys.modules["ssl"] = None
exec(compile(open(script, encoding="utf-8").read(), script, "exec"), {"__name__": "__main__"})
"""
NEEDS = "import sys; sys.modules['ssl'] = None; import {}; print(*sys.modules)"
NOT_ON_A_DEVICE = {"nacl.signing", "getpass", "tarfile", "tempfile"}


def listed_modules():
    """The modules that the page says a device's lpkg imports."""
    page = (ROOT / "docs/lpkg.md").read_text()
    text = page.split("## What it imports\n\n")[1].split("\n\n")[0]
    words = re.findall(r"[\w.]+\w", re.sub(r"\([^)]*\)", "", text))
    return set(words) - {"Always", "When", "needed"} - NOT_ON_A_DEVICE


def bare(python):
    """A function that runs lpkg on PYTHON with nothing but what the page lists."""
    listed = listed_modules()
    assert "json" in listed and "zlib" in listed and len(listed) > 15
    done = subprocess.run([python, "-I", "-S", "-c", NEEDS.format(", ".join(sorted(listed)))],
                          stdout=subprocess.PIPE, check=True, text=True)

    def start(*arguments):
        run_it = subprocess.run(
            [python, "-I", "-S", "-c", BARE, SCRIPT, done.stdout, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        return Result(run_it.returncode, run_it.stdout, run_it.stderr)

    return start


@EACH_PYTHON
def test_a_device_has_what_the_page_lists(world, python):
    two_packages(world, a={"summary": "caf\u00e9"})
    do = bare(python)
    with serving(folder_handler(world.repo)) as url:
        device(world, url)
        root = ("--root", world.root, "--arch", "x86_64")
        do(*root, "update").ok()
        assert do(*root, "search", "A").ok().out.startswith("a 1-0  caf")
        do(*root, "install", "--yes", "a", "b").ok()
        assert do(*root[:2], "verify").ok().out == ""
        world.pack({"a": {"bin/a": b"2"}}, "2-0")
        world.index()
        do(*root, "upgrade", "--yes").ok()
        assert do(*root[:2], "list").ok().out == "a 2-0\nb 1-0\nbase 1-0\n"
        do(*root, "install", "bb").refused("did you mean b?")
        do(*root[:2], "remove", "--yes", "a").ok()
        do("selftest").ok()
        run("--root", world.root, "repo", "add", "safe", url.replace("http:", "https:")).ok()
        shutil.copy(world.key, world.root / lpkg.KEYS / "safe.pub")
        done = do(*root, "update")
        assert done.status == 1 and "this Python has no ssl; say http: instead" in done.err


# lpkg in a process that a small one has started; last on stderr, its largest size in kB.
SMALL = r"""
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


# As a device has it: compiled, in a Python without OpenSSL, which alone takes 5 MB.
COMPILED = r"""
import marshal, sys
sys.modules["ssl"] = sys.modules["_hashlib"] = None
code = marshal.loads(open(sys.argv.pop(1), "rb").read()[16:])
exec(code, {"__name__": "__main__"})
"""
COMPILE = ("import py_compile, sys; "
           "py_compile.compile(sys.argv[1], cfile=sys.argv[2], doraise=True)")


@EACH_PYTHON
def test_10000_packages_in_32_mb(world, python):
    index, _ = many_packages(10_000)
    compiled = world.folder / "lpkg.pyc"
    subprocess.run([python, "-I", "-c", COMPILE, SCRIPT, compiled], check=True)
    sizes = {}
    with serving(folder_handler(world.repo)) as url:
        device(world, url)
        world.sign_index(index["packages"], serial=int(time.time()) + 9)
        for words in (["update"], ["search", "image"], ["install", "--dry-run", "vim", "zlib"]):
            done = subprocess.run(
                [python, "-I", "-S", "-c", SMALL, python, "-I", "-S", "-c", COMPILED, compiled,
                 "--root", world.root, "--arch", "x86_64", *words],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 0, done.stderr
            sizes[words[0]] = int(done.stderr.split()[-1]) / 1024
    print(sizes)
    assert max(sizes.values()) < 32


READ_ONLY = """set -e
mount --make-rprivate /
mount --bind "$1" /mnt
shift
for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o ro tmpfs $folder; done
cd /proc
exec "$@"
"""


def test_a_device_whose_tmp_is_read_only(world):
    two_packages(world)
    device(world, "/mnt/repo")
    shutil.copy(SCRIPT, world.folder)
    lpkg_there = ["/usr/bin/python3", "-I", "-S", "/mnt/lpkg.py", "--root", "/mnt/root"]
    arch = ["--arch", "x86_64"]
    for words in (["update", *arch], ["install", "--yes", *arch, "a"], ["verify"], ["fetch", *arch],
                  ["upgrade", "--yes", *arch], ["remove", "--yes", "a"]):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", world.folder, *lpkg_there, *words],
            env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(["unshare", "-m", "sh", "-c", READ_ONLY, "sh", world.folder,
                           *lpkg_there[:4], "selftest"], env={}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


# -- what the second thread inflates

def threaded():
    """Run by an lpkg that uses a thread for the smallest work."""
    lpkg.WORTH_A_THREAD = 0
    os.sched_getaffinity = lambda pid: {0, 1}


def test_what_is_made_ahead_comes_in_order_with_its_errors_and_can_be_left():
    assert list(lpkg.made_ahead(iter(range(1, 1000)))) == list(range(1, 1000))
    assert list(lpkg.made_ahead(iter(()))) == []

    def failing(end):
        yield from range(3)
        raise end

    for error in (lpkg.Fail("no"), OSError(errno.EIO, "no"), MemoryError()):
        found = []
        with pytest.raises(type(error)):
            found.extend(lpkg.made_ahead(failing(error)))
        made = lpkg.made_ahead(failing(error))
        assert next(made) == 0
        made.close()
    count = []
    for _ in zip(range(2), lpkg.made_ahead(iter(lambda: count.append(1) or len(count), 0))):
        pass
    time.sleep(0.05)
    assert len(count) <= 4              # nobody wants more


def test_one_processor_or_two_give_the_same(world):
    world.pack({name: {f"share/{name}/{number}": random_bytes(900 * 10 ** (number % 4))
                       for number in range(5)} for name in "abcd"})
    world.index()
    roots = []
    for before in (lambda: setattr(os, "sched_getaffinity", lambda pid: {0}), threaded):
        root = world.folder / f"root{len(roots)}"
        world.do("install", *"abcd", root=root, before=before).ok()
        world.do("verify", root=root).ok()
        roots.append(snapshot(root))
    assert roots[0] == roots[1]
    path = world.packages / "c-1-0.x86_64.lpkg"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    offers = []
    for path in sorted(world.packages.glob("*.lpkg")):
        info = lpkg.read_local(str(path)).info
        offers.append(offer_of(info, path.name, path.read_bytes()))
    world.sign_index(offers)
    said = [re.sub(", [0-9.]+ .?B free", "", world.do("install", *"abcd", before=before).err)
            for before in (None, threaded)]     # others take room on that disk, too
    assert said[0] == said[1] and "damaged archive" in said[0] and not world.root.exists()


# -- servers

def test_busybox_httpd_serves_a_repository(world):
    simple_world(world)
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(["busybox", "httpd", "-f", "-p", address, "-h", world.repo])
    try:
        for _ in range(100):
            done = world.do("install", "busybox", repo=f"http://{address}")
            if "refused;" not in done.err:
                break
            time.sleep(0.05)
        done.ok()
        device(world, f"http://{address}")
        dev(world, "update").ok()
        assert dev(world, "search", "busy").ok().out == "busybox 1-0  \n"
        world.do("install", "x", repo=f"http://{address}/none").refused("404", status=3)
    finally:
        server.terminate()
        server.wait(10)


def answering(start, *headers, body=lambda data: data, name=".lpkg"):
    """A change of folder_handler: files whose names end with NAME come with these HEADERS, and
    their bytes as BODY makes them."""
    def change(handler):
        if not handler.path.endswith(name):
            return False
        with open(handler.translate_path(handler.path), "rb") as file:
            data = body(file.read())
        handler.wfile.write("\r\n".join([f"HTTP/1.1 {start}", *headers, "", ""]).encode() + data)
        handler.close_connection = True
        return True
    return change


def chunks(data):
    parts = [data[place:place + 7000] for place in range(0, len(data), 7000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


CHUNKED = "Transfer-Encoding: chunked"
SERVERS = {
    "chunked": (answering("200 OK", CHUNKED, body=chunks), 0, ""),
    "chunked and cut": (answering("200 OK", CHUNKED, body=lambda data: chunks(data)[:90000]), 3,
                        "try later"),
    "chunked by no number": (answering("200 OK", CHUNKED, body=lambda data: b"zz\r\n" + data), 3,
                             "try later"),
    "without a length": (answering("200 OK"), 0, ""),
    "a length that is too small": (answering("200 OK", "Content-Length: 900"), 3, "promises"),
    "a length that is too large": (answering("200 OK", "Content-Length: 99999999"), 3, "ended"),
    "a length that is none": (answering("200 OK", "Content-Length: many"), 3, "try later"),
    "a length below nothing": (answering("200 OK", "Content-Length: -5"), 0, ""),
    "nothing at all": (answering("204 No Content"), 3, "promises"),
    "404": (answering("404 Not Found"), 3, "404"),
    "a page to log in": (answering("200 OK", body=lambda data: b"<html>", name=".minisig"), 3,
                         "perhaps a page to log in"),
    "503": (answering("503 Service Unavailable", "Retry-After: 5", name=".minisig"), 3, "503"),
    "no HTTP": (answering("nonsense"), 3, "try later"),
    "round and round": (answering("302 Found", "Location: busybox-1-0.x86_64.lpkg"), 3, "redirect"),
    "endless headers": (answering("200 OK", *["X-Y: z"] * 200), 3, "try later"),
}


@pytest.mark.parametrize("case", SERVERS)
def test_servers_that_are_odd(world, case):
    simple_world(world)
    change, status, word = SERVERS[case]
    with serving(folder_handler(world.repo, change)) as url:
        done = world.do("install", "busybox", repo=url)
    if status:
        done.refused(word, status=status)
        assert not world.root.exists()
    assert done.status == status, done.err


# -- --json

def json_world(world):
    """A root of which each verb has something to say: VERB -> words."""
    etc = {"conffiles": ["etc/a"], "depends": ["b"],
           "alternatives": [{"path": "bin/vi", "target": "a", "priority": 5}]}
    world.pack({"a": {"bin/a": b"1", "etc/a": b"1"}, "b": {"f": b"1"}, "c": {}, "d": {}},
               a=etc, c={"depends": ["d"]})
    device(world)
    dev(world, "install", "a", "c").ok()
    (world.root / "etc/a").write_bytes(b"mine")
    for version in ("2-0", "3-0"):
        world.pack({"a": {"bin/a": b"2", "etc/a": b"2"}, "b": {"f": b"2"}}, version, a=etc)
        world.index()
        if version == "2-0":
            dev(world, "upgrade").ok()
    dev(world, "remove", "c").ok()
    (world.root / "bin/a").unlink()
    world.pack({"e": {}})
    file = world.packages / "b-1-0.x86_64.lpkg"
    return {
        "install": ["--dry-run", "c"], "upgrade": ["--dry-run"], "downgrade": ["--dry-run", "b"],
        "remove": ["--dry-run", "a"], "autoremove": ["--dry-run"], "undo": ["--dry-run"],
        "history": [], "search": ["a"], "list": [], "info": ["a", "c", file],
        "files": ["a", file], "owner": ["bin/a"], "why": ["b"], "verify": [], "audit": [],
        "fix": ["--dry-run"], "alternatives list": [], "repo list": [], "key list": [],
    }


def json_of(world, verb, words, status=0):
    """The objects that VERB prints."""
    options = ["--root", world.root]
    done = run(*options, "--json", *verb.split(), *words)
    assert done.status == status, (verb, done.err)
    found = json.loads(done.out)
    assert isinstance(found, list) and all(isinstance(one, dict) for one in found), verb
    return found


def test_json_of_every_verb_that_prints(world):
    words = json_world(world)
    assert set(words) == {verb for verb, about in lpkg.VERBS.items() if "--json" in about.options}
    for verb in words:
        assert json_of(world, verb, words[verb], status=verb == "verify"), verb


def test_json_where_there_is_nothing_to_say(world):
    device(world)
    dev(world, "update").ok()
    for verb in ("upgrade", "autoremove", "fix", "install base"):
        verb, *more = verb.split()
        source = ["--offline"] if verb == "upgrade" else []
        assert json_of(world, verb, ["--dry-run", *source, *more]) == [], verb
    (world.root / "etc/lpkg/keys/panux.pub").unlink()
    for verb in ("verify", "audit", "alternatives", "key"):
        assert json_of(world, verb, []) == [], verb
    (world.root / "etc/lpkg/repos").unlink()
    assert json_of(world, "repo", []) == []
    (world.root / lpkg.HISTORY).unlink()
    assert json_of(world, "history", []) == []


def test_fix_dry_run_does_nothing(world, shell):
    script_world(world, shell, noting("post-install"))
    dev(world, "install", "a")
    log(world)
    old = snapshot(world.root)
    assert dev(world, "fix", "--dry-run").ok().out == "a: run post-install\n"
    assert "  a  1-0 -> 1-0  " in dev(world, "fix", "--dry-run", "a").ok().out
    assert snapshot(world.root) == old and log(world) == []
