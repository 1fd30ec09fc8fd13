"""lpkg-get, the package manager without Python: with busybox's tools and the real minisign, in
roots that lpkg has made and takes over again, from repositories over HTTP. `test_sNN_` is the
attack of that number in docs/SECURITY.md."""
import fcntl
import json
import os
import random
import shutil
import subprocess
import time

import pytest
from conftest import ROOT, serving
from test_lpkg import (World, folder_handler, info_of, keys, lpkg,     # keys is a fixture
                       offer_of, random_version, raw_package, regular, run, snapshot)

assert keys
BASE = {"base": {"etc/motd": b"hello\n", "bin/true": (b"#!", 0o755)}}


@pytest.fixture(scope="session")
def tools(tmp_path_factory):
    """A folder with nothing but busybox's tools, minisign, lpkg-get and lpkg-finish."""
    folder = tmp_path_factory.mktemp("tools")
    busybox = shutil.which("busybox")
    subprocess.run([busybox, "--install", "-s", folder], check=True)
    for name in ("minisign", "flock", "mountpoint"):    # Debian's busybox lacks these two
        if not (folder / name).exists():
            (folder / name).symlink_to(shutil.which(name))
    for name in ("lpkg-get", "lpkg-get.awk", "lpkg-finish"):
        add_script(folder, name, (ROOT / "initd" / name).read_text())
    (folder / "sync").unlink()
    add_script(folder, "sync", "#!/bin/sh\n")      # no power is cut here
    return folder


def add_script(folder, name, text):
    """A program NAME in FOLDER, to be run by its busybox."""
    (folder / name).write_text(text.replace("#!/bin/sh", f"#!{folder}/sh", 1))
    (folder / name).chmod(0o755)


class Site(World):
    """A repository that is served, and a root with `base` of it."""

    def __init__(self, folder, keys, tools, url):
        super().__init__(folder, keys)
        self.tools = tools
        self.url = url
        self.path = str(tools)

    def start(self):
        """Make the root, which has `base`."""
        self.pack(BASE)
        self.index()
        run("--root", self.root, "--repo", self.url, "--key", self.key, "--yes", "--arch", "x86_64",
            "install", "base").ok()

    def get(self, *words, **variables):
        """(status, output) of lpkg-get."""
        done = subprocess.run(
            [self.tools / "lpkg-get", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=60, check=False, text=True,
            env={"PATH": self.path, "HOME": "/", "LPKG_ROOT": str(self.root), **variables})
        return done.returncode, done.stdout

    def ok(self, *words):
        """The output of lpkg-get, which does it."""
        status, output = self.get(*words)
        assert status == 0, output
        return output

    def refused(self, *words, says, status=1):
        """lpkg-get refuses in one line that SAYS, and nothing changes."""
        before = snapshot(self.root)
        done, output = self.get(*words)
        last = output.rstrip("\n").rpartition("\n")[2]
        assert done == status and last.startswith("lpkg-get: ") and says in last, (done, output)
        assert self.changed(before) == []

    def changed(self, before):
        """What is another than in the snapshot BEFORE, but for the indexes."""
        now = snapshot(self.root)
        return sorted(path for path in {*before, *now} if before.get(path) != now.get(path)
                      and not path.startswith("var/lib/lpkg/index"))

    def text(self, path):
        return (self.root / path).read_text()

    def lpkg(self, *words):
        """What lpkg says in the root."""
        return run("--root", self.root, *words).ok().out

    def clean(self):
        """Nothing is left of a transaction, and lpkg finds nothing wrong."""
        assert self.lpkg("verify") == ""
        assert not [path for path in self.root.rglob("*") if ".lpkg." in path.name]
        left = {path.name for path in (self.root / "var/lib/lpkg").iterdir()}
        assert not left & {"staged", "journal", "staged.new", "journal.new"}


@pytest.fixture
def site(tmp_path, keys, tools):
    (tmp_path / "repo").mkdir()
    with serving(folder_handler(tmp_path / "repo")) as url:
        shutil.rmtree(tmp_path / "repo")
        site = Site(tmp_path, keys, tools, url)
        site.start()
        yield site


def test_a_package_comes_changes_and_goes_and_lpkg_takes_over(site):
    site.pack({"tool": {"usr/bin/tool": (b"one", 0o755), "usr/bin/t": "-> tool"},
               "lib": {"usr/lib/deep/er/x": b"x"}},
              tool={"depends": ["lib>=1"], "summary": "it's \"a\" tool"})
    site.index()
    site.ok("update")
    site.ok("install", "tool")
    assert site.text("usr/bin/t") == "one" and os.access(site.root / "usr/bin/tool", os.X_OK)
    assert site.ok("list").split("\n") == ["base 1-0", "lib 1-0", "tool 1-0", ""]
    site.clean()
    site.pack({"tool": {"usr/bin/tool": (b"two", 0o755)}}, version="2-0",
              tool={"depends": ["lib"]})
    site.index()
    assert "tool 2-0" in site.ok("upgrade")
    assert site.text("usr/bin/tool") == "two" and not (site.root / "usr/bin/t").is_symlink()
    site.clean()
    assert "nothing to do" in site.ok("upgrade")
    site.refused("remove", "lib", says="tool needs lib")
    site.ok("remove", "tool")
    assert not (site.root / "usr/bin").exists()
    site.clean()
    assert site.lpkg("list") == "base 1-0\nlib 1-0\n"
    history = site.lpkg("history")
    assert "lpkg-get install tool: " in history and "tool 1-0 -> 2-0" in history
    run("--root", site.root, "--yes", "undo").ok()
    assert site.text("usr/bin/tool") == "two"
    site.clean()
    assert site.lpkg("why", "lib")


def test_the_last_line_of_repos_may_end_without_a_newline(site):
    repos = site.root / "etc/lpkg/repos"
    repos.write_text(repos.read_text().rstrip("\n"))
    site.pack({"tool": {"usr/bin/tool": b"one"}})
    site.index()
    site.ok("update")
    site.ok("install", "tool")


# ---- what is refused ---------------------------------------------------------------------------

def offer(site, name="tool", version="1-0", **parts):
    """Have the repository offer NAME, and ask it."""
    site.pack({name: {f"usr/bin/{name}": (version.encode(), 0o755)}}, version=version, **parts)
    site.index()
    site.ok("update")


def test_a_package_that_the_repository_has_no_longer(site):
    offer(site)
    (site.packages / "tool-1-0.x86_64.lpkg").unlink()
    site.pack({"tool": {"bin/tool": b"2"}}, "2-0")
    site.index()
    site.refused("install", "tool", says="lpkg-get update, or try again later", status=3)
    site.ok("update")
    assert site.ok("install", "tool").startswith("install tool 2-0")


def flip(path, place):
    """Change a bit in the middle, or at the PLACE, of the file PATH."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_s08_a_package_with_a_flipped_bit(site):
    offer(site)
    path = site.packages / "tool-1-0.x86_64.lpkg"
    whole = path.read_bytes()
    flip(path, len(whole) // 2)
    site.refused("install", "tool", says="not what the signed index promises")
    path.write_bytes(whole[:-1])
    site.refused("install", "tool", says="not what the signed index promises")
    path.write_bytes(whole + bytes(2000))
    site.refused("install", "tool", says="more than", status=3)
    path.write_bytes(whole)
    site.ok("install", "tool")


def test_s13_an_index_that_is_not_as_it_was_signed(site, tmp_path):
    index, signature = site.packages / "index.json", site.packages / "index.json.minisig"
    kept = index.read_bytes(), signature.read_bytes()
    flip(index, 200)
    site.refused("update", says="signed by none of the keys")
    index.write_bytes(kept[0])
    signature.write_bytes(kept[1].replace(b"index x86_64", b"index x86_46"))
    site.refused("update", says="signed by none of the keys")
    signature.write_bytes(kept[1])
    run("keygen", tmp_path / "other").ok()
    run("sign", index, "--secret", tmp_path / "other.key", "--comment",
        kept[1].split(b"comment: ")[2].split(b"\n")[0].decode()).ok()
    site.refused("update", says="signed by none of the keys")
    write(site, comment="file x86_64 serial")
    site.refused("update", says='signed as "file x86_64 serial')


def test_s10_an_index_that_is_old_or_expired_or_not_of_its_serial(site):
    site.ok("update")
    now = int(time.time())
    write(site, serial=now + 100)
    site.ok("update")
    write(site, serial=now + 100, created=now - 1)
    site.refused("update", says="had another content before")
    write(site, serial=now + 99)
    site.refused("update", says="an old index")
    write(site, serial=now + 101, expires=now - 1)
    site.refused("update", says="expired")
    write(site, serial=now + 102, expires=None)
    site.refused("update", says="expired")
    for comment in ("index aarch64 serial", "index x86_64 serial"):
        write(site, serial=now + 103, arch="aarch64", comment=comment)
        site.refused("update", says="is for aarch64")
    write(site, serial=now + 104, created=now + 5000, expires=now + 9000)
    site.ok("update")
    write(site, serial=now + 105, expires=now + 4000)
    site.refused("update", says="expired")      # the time is never before what was seen
    assert site.lpkg("list") == "base 1-0\n"


def write(site, comment="index x86_64 serial", **changes):
    """Sign an empty index of CHANGES, in the form that `lpkg index` gives it."""
    now = int(time.time())
    index = {"serial": now, "created": now, "expires": now + 1000, "arch": "x86_64",
             "packages": [], **changes}
    site.write_index(lpkg.index_json(index),
                     f"{comment} {index['serial']}")


def test_s09_a_server_that_sends_too_much(site):
    (site.packages / "index.json.minisig").write_bytes(b"x" * 100000)
    site.refused("update", says="more than 65536 bytes", status=3)


def test_s54_a_package_that_brings_what_is_trusted(site):
    now = int(time.time())
    paths = ("etc/lpkg/repos", "var/lib/lpkg/world", "../x", "/x", "a//b", "etc/x.lpkg-new")
    for number, path in enumerate(paths):
        info = info_of("evil", [regular(path)])
        data = raw_package(info, [])
        (site.packages / "evil.lpkg").write_bytes(data)
        write(site, packages=[offer_of(info, "evil.lpkg", data)], serial=now + 9 + number)
        site.ok("update")
        site.refused("install", "evil", says="evil: no package may have")


def test_s11_a_package_that_is_another_than_the_index_says(site):
    offer(site)
    site.ok("install", "tool")
    path = site.packages / "tool-1-0.x86_64.lpkg"
    data = path.read_bytes()
    write(site, packages=[offer_of(info_of("tool", [], version="2-0"), path.name, data)],
          serial=int(time.time()) + 9)
    site.ok("update")
    site.refused("upgrade", says="is another package than the index says")


def test_nothing_is_there_or_somebody_else_is(site):
    shutil.move(site.packages, site.repo / "gone")
    site.refused("update", says="can't be fetched", status=3)
    with open(site.root / "var/lib/lpkg/lock", "r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        site.refused("update", says="is changing", status=3)
    assert site.get("instal", "x")[0] == 2 and site.get("install")[0] == 2
    assert site.get("list", LPKG_ROOT="/var/empty/no")[0] != 0


# ---- dependencies ------------------------------------------------------------------------------

def test_what_a_package_needs_comes_with_it_or_it_does_not_come(site):
    site.pack({name: {f"usr/share/{name}": name.encode()} for name in
               ("app", "one", "two", "old", "foe", "shy", "many", "hook", "lost", "third")},
              app={"depends": ["so:libz.so", "old<2", "old>=1", "old~1", "!foe"]},
              one={"provides": ["so:libz.so", "editor"]}, two={"provides": ["editor"]},
              foe={"conflicts": ["base"]}, shy={"depends": ["!base"]},
              many={"depends": ["editor"]}, hook={"scripts": {"post-install": "#!/bin/sh"}},
              lost={"depends": ["old>3"]}, third={"replaces": ["base"]})
    site.pack({"old": {"usr/share/old": b"2"}}, version="2-0")
    site.index()
    site.ok("update")
    site.refused("install", "many", says="editor: provided by one and two; name one of them")
    site.refused("install", "foe", says="can't be there together")
    site.refused("install", "shy", says="can't be there together")
    site.refused("install", "third", says="can't be there together")
    site.refused("install", "hook", says="hook has scripts, which only lpkg runs")
    site.refused("install", "lost", says="lost needs old>3, which no repository offers")
    site.refused("install", "nix", says="no repository offers nix")
    site.refused("install", "old=3", says="no repository offers old=3")
    site.refused("install", "old=1", "old=2", says="two versions of it")
    site.refused("install", "a;b", says="not the names of packages")
    site.ok("install", "app")
    assert site.ok("list") == "app 1-0\nbase 1-0\nold 1-0\none 1-0\n"
    site.ok("install", "many")
    site.refused("upgrade", says="app needs old")
    site.refused("install", "old=2", says="app needs old")
    site.refused("remove", "one", says="needs")
    site.ok("remove", "app", "many", "one")
    site.ok("upgrade")
    assert "old 2-0" in site.ok("list")
    site.clean()


def test_a_version_that_was_asked_for_stays(site):
    """The world's relations are lpkg's: what one holds, the other leaves."""
    for version in ("1-0", "2-0", "3-0"):
        site.pack({"a": {"usr/a": version.encode()}}, version)
    site.pack({"b": {}}, b={"depends": ["a>=3"]})
    site.index()
    site.ok("update")
    world = site.root / lpkg.WORLD
    for words, relation, version in (
            (["install", "a=1"], "a=1", "1-0"), (["upgrade"], "a=1", "1-0"),
            (["install", "a<3"], "a<3", "2-0"), (["upgrade"], "a<3", "2-0"),
            (["install", "a"], "a", "3-0"), (["install", "a=2-0"], "a=2-0", "2-0")):
        site.ok(*words)
        assert world.read_text() == f"{relation}\nbase\n", words
        assert f"a {version}\n" in site.ok("list"), words
    site.refused("install", "b", says="a is held: a=2-0")
    site.lpkg("undo", "--yes")
    assert world.read_text() == "a\nbase\n" and site.lpkg("list") == "a 3-0\nbase 1-0\n"
    site.lpkg("hold", "a")
    site.pack({"a": {"usr/a": b"4"}}, "4-0")
    site.index()
    assert "nothing to do" in site.ok("upgrade")
    site.ok("remove", "a")
    assert world.read_text() == "base\n"
    site.clean()


def test_versions_compare_as_lpkg_and_so_dpkg_compares_them(tools):
    rng = random.Random(1)
    cases = []
    for _ in range(1500):
        version, wanted = random_version(rng), random_version(rng)
        if rng.random() < 0.5:
            wanted = version[:rng.randrange(1, len(version) + 1)] + rng.choice(["", "0", "~", "a"])
        if lpkg.is_version(version) and lpkg.is_version(wanted):
            operator = rng.choice(["<", "<=", "=", ">=", ">", "~"])
            cases.append((version, operator, wanted))
    given = "".join("\t".join(case) + "\n" for case in cases)
    rule = 'task == "test" { print fits($1, $2, $3) ? 1 : 0 }'
    done = subprocess.run(
        [tools / "awk", "-F", "\t", "-v", "task=test", "-f", tools / "lpkg-get.awk", "-e", rule],
        input=given, capture_output=True, text=True, check=True, timeout=60,
        env={"LC_ALL": "C"})
    wrong = [case for case, said in zip(cases, done.stdout.split())
             if lpkg.version_fits(*case) != (said == "1")]
    assert len(cases) > 1000 and len(done.stdout.split()) == len(cases) and wrong == []


def test_s14_a_second_repository_offers_more(site, tmp_path):
    (tmp_path / "more/x86_64").mkdir(parents=True)
    site.pack({"base": {"etc/motd": b"evil\n"}}, version="9-0", into=tmp_path / "more/x86_64")
    site.pack({"lure": {"x": b"x"}}, into=tmp_path / "more/x86_64", lure={"provides": ["so:x=9"]})
    site.pack({"need": {"n": b"x"}, "want": {"w": b"x"}, "has": {"h": b"x"}},
              need={"depends": ["base>5"]}, want={"depends": ["so:x>5"]},
              has={"provides": ["so:x=1"]})
    site.index()
    run("keygen", tmp_path / "more").ok()
    run("index", tmp_path / "more/x86_64", "--secret", tmp_path / "more.key").ok()
    shutil.move(tmp_path / "more", site.repo / "more")
    with open(site.root / "etc/lpkg/repos", "a", encoding="utf-8") as file:
        file.write(f"more {site.url}/more\n")
    shutil.copy(tmp_path / "more.pub", site.root / "etc/lpkg/keys/more.pub")
    assert "nothing to do" in site.ok("upgrade")
    site.refused("install", "need", says="need needs base>5, which no repository offers")
    site.refused("install", "want", says="want needs so:x>5, which no repository offers")


# ---- files -------------------------------------------------------------------------------------

def test_a_file_below_etc_that_was_changed_stays(site):
    site.pack({"conf": {"etc/a": b"1", "etc/b": b"1", "etc/c": b"1", "etc/d": b"1"}})
    site.index()
    site.ok("update")
    (site.root / "etc/c").write_text("mine")
    site.ok("install", "conf")
    assert site.text("etc/c") == "mine" and site.text("etc/c.lpkg-new") == "1"
    (site.root / "etc/a").write_text("mine")
    (site.root / "etc/b").chmod(0o600)
    (site.root / "etc/d").unlink()
    site.pack({"conf": {"etc/a": b"2", "etc/b": b"2", "etc/c": b"1", "etc/d": b"1"}},
              version="2-0")
    site.index()
    site.ok("upgrade")
    assert site.text("etc/a") == "mine" and site.text("etc/a.lpkg-new") == "2"
    assert site.text("etc/b") == "2" and (site.root / "etc/b").stat().st_mode & 0o777 == 0o600
    assert not (site.root / "etc/d").exists() and site.text("etc/c") == "mine"
    site.clean()
    site.ok("remove", "conf")
    assert sorted(path.name for path in (site.root / "etc").iterdir()) == ["a", "c", "lpkg", "motd"]
    site.clean()


def test_s02_what_is_in_the_way_is_refused(site):
    site.pack({"tool": {"usr/bin/tool": (b"new", 0o755)}, "thief": {"bin/true": b"x"},
               "deep": {"opt/x/y": b"y"}})
    site.index()
    site.ok("update")
    site.refused("install", "thief", says="both bring bin/true")
    (site.root / "usr/bin").mkdir(parents=True)
    (site.root / "usr/bin/tool").write_text("mine")
    site.refused("install", "tool", says="belongs to no package")
    (site.root / "usr/bin/tool").unlink()
    (site.root / "usr/bin/tool").mkdir()
    site.refused("install", "tool", says="usr/bin/tool: a directory")
    (site.folder / "elsewhere").mkdir()
    (site.root / "opt").symlink_to(site.folder / "elsewhere")
    site.refused("install", "deep", says="opt: no directory")
    assert os.listdir(site.folder / "elsewhere") == []


def test_s05_remove_never_deletes_through_a_symlink(site):
    """Neither below a directory that goes nor below one that others keep."""
    site.pack({"tool": {"opt/tool/f": b"f", "usr/share/g": b"g"}, "doc": {"usr/share/h": b"h"}})
    site.index()
    site.ok("update")
    site.ok("install", "tool", "doc")
    for path in ("opt/tool", "usr/share"):
        shutil.move(site.root / path, site.root / path.replace("/", "-"))
        (site.root / path).symlink_to("../" + path.replace("/", "-"))
    output = site.ok("remove", "tool")
    assert "opt/tool/f: left alone" in output and "usr/share/g: left alone" in output
    assert site.text("opt-tool/f") == "f" and site.text("usr-share/g") == "g"
    assert site.ok("list") == "base 1-0\ndoc 1-0\n"


def test_an_alternative_gives_way_and_comes_back(site):
    box = {"box": {"usr/bin/box": (b"box", 0o755)}}
    links = [{"path": f"usr/bin/{name}", "target": "/usr/bin/box", "priority": 10}
             for name in ("less", "vi", "[")]
    site.pack(box, box={"alternatives": links})
    site.pack({"less": {"usr/bin/less": (b"less", 0o755)}})
    site.pack({"vim": {"usr/bin/vim": (b"vim", 0o755)}},
              vim={"alternatives": [{"path": "usr/bin/vi", "target": "vim", "priority": 20}]})
    site.index()
    site.ok("update")
    site.ok("install", "box")
    assert os.readlink(site.root / "usr/bin/[") == "/usr/bin/box"
    site.clean()
    site.ok("install", "less", "vim")
    assert site.text("usr/bin/less") == "less" and os.readlink(site.root / "usr/bin/vi") == "vim"
    site.clean()
    site.ok("remove", "less", "vim")
    assert {os.readlink(site.root / "usr/bin" / name) for name in ("less", "vi")} == {
        "/usr/bin/box"}
    site.clean()


def test_a_service_that_goes_is_stopped_and_disabled(site):
    site.pack({"daemon": {"etc/init.d/daemon": (b"#!/bin/sh\n", 0o755)}},
              daemon={"services": ["daemon"]})
    site.index()
    site.ok("update")
    site.ok("install", "daemon")
    (site.root / "etc/rc.d").mkdir()
    for name in ("daemon", "daemon@tty1", "daemons"):
        (site.root / "etc/rc.d" / name).symlink_to("../init.d/daemon")
    (site.root / "run/linit").mkdir(parents=True)
    assert "daemon could not be stopped" in site.ok("remove", "daemon")     # no shell is there
    assert os.listdir(site.root / "etc/rc.d") == ["daemons"]


def test_directories_have_the_owners_and_modes_that_packages_say(site):
    site.pack({"mail": {"var/mail": (None, 0o1777), "var/mail/x": b"x"},
               "plain": {"srv/d/x": b"x"}}, mail={"owners": {"/var/mail": "7:8:1777"}})
    site.pack({"owner": {"srv/d": (None, 0o750)}}, owner={"owners": {"/srv/d": "5:6:0750"}})
    site.index()
    site.ok("update")
    site.ok("install", "mail", "plain")
    there = (site.root / "var/mail").stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o7777) == (7, 8, 0o1777)
    site.ok("install", "owner")
    there = (site.root / "srv/d").stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o7777) == (5, 6, 0o750)
    site.clean()
    site.ok("remove", "owner")
    site.clean()


# ---- kills -------------------------------------------------------------------------------------

COUNTED = ("mv", "ln", "mkdir", "rm", "rmdir", "tar", "sync", "chown", "chmod", "touch", "wget")


@pytest.fixture(scope="session")
def deadly(tools, tmp_path_factory):
    """A folder of programs that count their calls, and kill their group after the one of $KILL."""
    folder = tmp_path_factory.mktemp("deadly")
    for name in COUNTED:
        add_script(folder, name, f"""#!/bin/sh
{tools}/{name} "$@"
status=$?
echo {name} >>"$CALLS"
[ "$({tools}/wc -l <"$CALLS")" != "$KILL" ] || kill -KILL 0
exit $status
""".replace("#!/bin/sh", f"#!{tools}/sh"))
    return folder


def cut(site, deadly, number, *words):
    """The calls of lpkg-get, which dies after the one with that NUMBER."""
    calls = site.folder / "calls"
    calls.write_text("")
    subprocess.run(
        [site.tools / "lpkg-get", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, timeout=60, check=False, start_new_session=True,
        env={"PATH": f"{deadly}:{site.path}", "HOME": "/", "LPKG_ROOT": str(site.root),
             "CALLS": str(calls), "KILL": str(number)})
    return calls.read_text().split()


def essence(site):
    """What is in the root, but for what lpkg-get and lpkg keep for themselves."""
    return {path: there for path, there in snapshot(site.root).items()
            if not path.startswith("var/lib/lpkg/") or path.startswith("var/lib/lpkg/installed/")
            or path in ("var/lib/lpkg/world", "var/lib/lpkg/origins")}


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)])
def test_s16_killed_after_each_step_it_is_old_or_new(site, deadly, tmp_path, stride):
    site.pack({"tool": {"usr/bin/tool": (b"1", 0o755), "etc/tool": b"1", "usr/l": "-> bin",
                        "opt/gone/x": b"x"}})
    site.index()
    site.ok("update")
    site.ok("install", "tool")
    site.pack({"tool": {"usr/bin/tool": (b"2", 0o755), "etc/tool": b"2", "usr/l": "-> lib",
                        "srv/new/x": b"x"}}, version="2-0", tool={"depends": ["lib"]})
    site.pack({"lib": {"usr/lib/lib": b"lib"}})
    site.index()
    site.ok("update")
    shutil.copytree(site.root, tmp_path / "kept", symlinks=True)
    old = essence(site)
    calls = cut(site, deadly, 0, "install", "tool")
    new = essence(site)
    site.clean()
    assert len(calls) > 40 and {"mv", "mkdir", "rm", "tar", "sync"} <= {*calls}
    seen = []
    for number in range(1, len(calls) + 1, stride):
        shutil.rmtree(site.root)
        shutil.copytree(tmp_path / "kept", site.root, symlinks=True)
        cut(site, deadly, number, "install", "tool")
        if number % 2:
            site.get("remove", "nothing")           # is refused, when all is well again
        else:
            run("--root", site.root, "--yes", "autoremove").ok()
        site.clean()
        assert essence(site) in (old, new), (number, calls[number - 1])
        seen.append(essence(site) == new)
    assert seen == sorted(seen) and {*seen} == {False, True}
