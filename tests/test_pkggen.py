"""Tests of pkggen.py but for its template engine: real make, real sh, a real HTTPS server.

The cases of the shortcuts and of recipes that are refused are text files in data/. `test_sNN_` is
the attack of that number in docs/SECURITY.md.
"""

import argparse
import bz2
import concurrent.futures
import contextlib
import fcntl
import hashlib
import http.server
import io
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse

import pytest
from conftest import (
    ROOT, environment, free_port, load_tool, run_tool, serving, wait_until)

pkggen = load_tool("pkggen")
DATA = pathlib.Path(__file__).parent / "data"


# ---- helpers -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """What `make test` exports for its own children has no effect on ours."""
    names = "MAKEFLAGS MFLAGS MAKELEVEL MAKE O SOURCES ARCH HOSTARCH PKG RUN RUN_STOP IMAGE"
    for name in names.split():
        monkeypatch.delenv(name, raising=False)


def cases(file):
    """(name, body) of each case in the text file: a line `=== NAME`, then lines up to the next."""
    text = (DATA / file).read_text(encoding="utf-8")
    for part in ("\n" + text + "\n").split("\n=== ")[1:]:
        name, _, body = part.partition("\n")
        yield name, body.rstrip("\n") + "\n"


def options(**changes):
    """What the command line gives to load_recipe."""
    given = {"arch": "x86_64", "hostarch": None, "lenient": False, "data": {}}
    return argparse.Namespace(**{**given, **changes})


def write_recipe(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "pkgen.yaml").write_bytes(data)
    return folder


def recipe_text(**fields):
    """A pkgen.yaml with FIELDS; JSON is YAML."""
    fields = {"packages": {"p": None}, "version": "1", **fields}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())


def load(folder, text, **changes):
    return pkggen.load_recipe(str(write_recipe(folder, text)), options(**changes))


def refusal(folder, text, **changes):
    """What load says of a recipe that it must refuse."""
    with pytest.raises(pkggen.Fail) as caught:
        load(folder, text, **changes)
    return str(caught.value)


def one_line(done, status=1):
    """The one line on stderr of a run of pkggen that must fail."""
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pkggen: ")
    return lines[0]


def last_line(done):
    """The last line on stderr of a run of pkggen that did something before it failed."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


def refused(*arguments, **settings):
    return one_line(run_tool("pkggen", *arguments, check=False, **settings))


def make(folder, *arguments, env=None):
    """Run GNU make in FOLDER."""
    return subprocess.run(
        ["make", *map(str, arguments)],
        cwd=folder,
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=120,
    )


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# ==== Shortcuts ===================================================================================


PACKAGES = ("zlib", "zlib-dev", "zlib-doc")


def shortcut_cases():
    """(template, arch, hostarch, text) of data/shortcuts.txt."""
    for name, body in cases("shortcuts.txt"):
        template, *parts = ("\n" + body).split("\n--- ")
        texts = dict(part.rstrip("\n").split("\n", 1) for part in parts)
        if "output" in texts:
            common = texts.pop("output")
            texts = {"x86_64": common, "x86": common, **texts}
        for where, text in texts.items():
            arch, _, hostarch = where.partition(" on ")
            case = (template.strip(), arch, hostarch or None, text)
            yield pytest.param(*case, id=f"{name}: {where}")


@pytest.mark.parametrize("template, arch, hostarch, text", list(shortcut_cases()))
def test_shortcut(tmp_path, template, arch, hostarch, text):
    data = {"headers": {"gl-headers": "GL", "egl-headers": "EGL"}}
    names = ("zlib-{{.Version}}.tar.gz", "a.patch", "b.diff")
    recipe = recipe_text(
        version="1.2.10", data=data, script=[template], packages=dict.fromkeys(PACKAGES),
        sources=[f"https://example.org/{name}" for name in names])
    script = load(tmp_path / "r", recipe, arch=arch, hostarch=hostarch).script
    assert script == text + ("\n" if template.endswith("\n{{end}}") else "")


def test_there_are_shortcut_cases():
    named = set(re.findall(r"\{\{(\w+)", (DATA / "shortcuts.txt").read_text()))
    recipe = pkggen.Recipe("r/pkgen.yaml", options(), {"version": "1"})
    assert set(pkggen.shortcuts(recipe)) <= named | {"pkmv"}
    assert len(list(shortcut_cases())) > 30


def archive(path, files, top=""):
    """A tar at PATH of FILES (name to text, or "-> TARGET") below the directory TOP."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(top + name)
            member.uid = member.gid = 197611
            if text.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, text[3:]
            member.size = 0 if member.issym() else len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def run_script(folder, script, **fields):
    """Run a SCRIPT by the real make, in FOLDER; give what it left in out/."""
    fields = {"packages": dict.fromkeys(PACKAGES), "version": "1.2.10", **fields}
    write_build_mk(folder, recipe_text(script=script, **fields))
    done = make(folder, "-f", "build.mk", "script")
    assert done.returncode == 0, done.stderr
    out = folder / "out"
    return sorted(str(path.relative_to(out)) for path in out.rglob("*")
                  if not path.is_dir() or path.is_symlink())


@pytest.mark.parametrize("files, expected", [
    ([], "no"), (["musl-g++.specs"], "x86_64-linux-musl-g++")])
def test_cxx_is_a_compiler_where_the_sysroot_has_its_library(tmp_path, files, expected):
    """`no` is what libtool's configure passes over; at one that doesn't work it stops."""
    write_build_mk(tmp_path, recipe_text(script=[": >out/a/$$CXX"], packages={"a": None}))
    folder = tmp_path / "sysroot/usr/lib"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    done = make(tmp_path, "-f", "build.mk", f"SYSROOT={tmp_path}/sysroot", "script")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "out/a") == [expected]


def test_configure_is_told_that_a_build_is_done_once(tmp_path):
    assert run_script(tmp_path, [": >out/zlib/$$enable_dependency_tracking"]) == ["zlib/no"]


def test_shortcuts_do_what_they_say(tmp_path):
    archive(tmp_path / "src/zlib-1.2.10.tar.gz", {"include/zlib.h": "x"}, "zlib-1.2.10/")
    assert run_script(tmp_path, [
        '{{extract "zlib" "gz"}}', '{{unpack "again" "zlib-1.2.10.tar.gz"}}',
        "mkdir -p out/zlib/usr out/zlib/usr/share/man", "mv zlib/include out/zlib/usr",
        '{{pkmv "/usr/inc*" "zlib" "zlib-dev"}}', '{{mvman "zlib"}}',
    ]) == ["zlib-dev/usr/include/zlib.h"]
    assert (tmp_path / "again/include/zlib.h").read_text() == "x"
    assert (tmp_path / "out/zlib-man/usr/share/man").is_dir()


@pytest.mark.parametrize("top, files", [
    ("x-1/", {"configure": "", "src/main.c": "", ".hidden": ""}),
    ("", {"configure": "", "src/main.c": "", ".hidden": ""}),
    ("./", {"configure": "", "src/main.c": "", ".hidden": ""}),
    ("./x-1/", {"src/a/main.c": "", "src/b": "-> a"}),
    ("", {"main.c": ""}),
    (".x/", {"main.c": ""}),
    ("a dir/", {"main.c": "", "b c": ""}),
])
def test_unpack_loses_nothing(tmp_path, top, files):
    archive(tmp_path / "src/f.tgz", files, top)
    run_script(tmp_path, ['{{unpack "a" "f.tgz"}}'])
    found = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*")
             if path.is_symlink() or not path.is_dir()}
    assert found == set(files)
    assert {path.lstat().st_uid for path in (tmp_path / "a").rglob("*")} == {os.geteuid()}
    assert not (tmp_path / "a.new").exists() or not os.listdir(tmp_path / "a.new")


def test_dev_and_doc_split_a_package(tmp_path):
    inside = {
        "usr/bin/z": "", "usr/bin/z-config": "", "usr/lib/libz.so.1.2": "",
        "usr/lib/libz.so.1": "-> libz.so.1.2", "usr/lib/libz.so": "-> libz.so.1",
        "usr/lib/libz2.so": "-> libz.so", "usr/lib/libz3.so": "-> libz2.so",
        "usr/lib/libplugin.so": "", "usr/lib/libz.a": "", "usr/lib/libz.la": "",
        "usr/lib/libz2.la": "-> libz.la",
        "usr/lib/pkgconfig/z.pc": "", "usr/include/z.h": "", "usr/share/man/man1/z.1": "",
        "usr/share/doc/z/README": "", "usr/share/z/data": ""}
    archive(tmp_path / "src/z.tgz", inside)
    script = ["tar -xf src/z.tgz -C out/zlib", '{{dev "zlib"}}', '{{doc "zlib"}}']
    doc = {"usr/share/man/man1/z.1", "usr/share/doc/z/README"}
    dev = {"usr/bin/z-config", "usr/lib/libz.so", "usr/lib/libz2.so", "usr/lib/libz3.so",
           "usr/lib/libz.a", "usr/lib/pkgconfig/z.pc", "usr/include/z.h"}
    rest = set(inside) - doc - dev - {"usr/lib/libz.la", "usr/lib/libz2.la"}
    assert run_script(tmp_path, script) == sorted(
        [*(f"zlib/{path}" for path in rest), *(f"zlib-dev/{path}" for path in dev),
         *(f"zlib-doc/{path}" for path in doc)])


def test_dev_and_doc_of_a_package_with_none_of_it(tmp_path):
    script = ["mkdir out/zlib/bin", ": >out/zlib/bin/z", '{{dev "zlib"}}', '{{doc "zlib"}}']
    assert run_script(tmp_path, script) == ["zlib/bin/z"]


@pytest.mark.parametrize("template, message", [
    ('{{dev "p"}}', "packages has no p or no p-dev; it needs both"),
    ('{{doc "p"}}', "packages has no p or no p-doc; it needs both"),
    ('{{patch "p"}}', "none of the sources is a .patch or .diff"),
    ('{{unpack "p"}}', "unpack takes a directory's name and a source; without one, the first"),
])
def test_shortcuts_say_what_they_lack(tmp_path, template, message):
    text = recipe_text(packages={"p-doc": None}, script=[template])
    assert message in refusal(tmp_path / "r", text)


def test_patch_applies_all_patches_in_their_order(tmp_path):
    folder = tmp_path / "recipe"
    for name, old, new in (("z first.patch", "a", "b"), ("a's $2.diff", "b", "c")):
        write_recipe(folder, "")
        (folder / name).write_text(f"--- x/f\n+++ y/f\n@@ -1 +1 @@\n-{old}\n+{new}\n")
        (tmp_path / "src").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "src")
    run_script(tmp_path, ["mkdir d", "echo a >d/f", '{{patch "d"}}'],
               sources=["file:z first.patch", "file:a's $2.diff"])
    assert (tmp_path / "d/f").read_text() == "c\n"


# ==== Loading =====================================================================================


REFUSED = [pytest.param(body, id=name) for name, body in cases("bad-recipes.txt")]


@pytest.mark.parametrize("body", REFUSED)
def test_refused(tmp_path, body):
    text, _, message = body.partition("--- error\n")
    said = refusal(tmp_path / "r", text)
    message = message.strip("\n").replace("RECIPE", str(tmp_path / "r"))
    if not message.startswith("..."):
        message = str(tmp_path / "r/pkgen.yaml") + message
    pattern = ".*".join(re.escape(part) for part in message.split("..."))
    assert re.fullmatch(pattern, said, re.DOTALL), said


@pytest.mark.parametrize("version", ["1.10", "1e3", "0x10", "010", "yes", "2024-01-01", "1.2e5"])
def test_version_stays_text(tmp_path, version):
    text = f"packages: {{p: }}\nversion: {version}\nscript: ['{{{{.Version}}}}']\n"
    recipe = load(tmp_path / "r", text)
    assert recipe.script == version
    assert recipe.version == version + "-0"


def test_nulls_are_empty(tmp_path):
    text = (
        "packages:\n  a:\n  b: {dependencies: , summary: ~}\nversion: 1\nsources:\nscript:\n"
        "check: ~\nbuilddependencies:\nsha256:\ndata:\nbuilder:\narch:\n"
    )
    recipe = load(tmp_path / "r", text)
    assert (recipe.script, recipe.check, recipe.sources) == ("", "", [])
    assert recipe.packages["b"]["dependencies"] == []
    assert recipe.fields["builddependencies"] == []


def test_a_metapackage_needs_no_script(tmp_path):
    recipe = load(tmp_path / "r", "packages: {g++: {dependencies: [a, b>=1]}}\nversion: r1\n")
    assert pkggen.metadata(recipe)["packages"]["g++"]["depends"] == ["a", "b>=1"]


def test_lenient(tmp_path):
    folder = write_recipe(tmp_path / "r", recipe_text(scripts=["make"], script=["true"]))
    done = run_tool("pkggen", "script", folder, "--lenient")
    assert done.stdout == "true\n"
    place = f"{folder}/pkgen.yaml:3:1"
    hint = "unknown key scripts in the recipe; did you mean script?"
    assert done.stderr == f"pkggen: warning: {place}: {hint}\n"
    assert refused("script", folder) == f"pkggen: {place}: {hint}"


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", ": empty; a recipe has at least packages and version"),
        (b"packages: {a: }\nversion: \xff1\n", ":2: a byte that is not UTF-8; save the recipe as"),
        ("packages: {a: }\n".encode("utf-16"), ":1: a byte that is not UTF-8; save the recipe as"),
        (b"packages: {a: }\nversion: \x01\n", ": unacceptable character"),
        (b"#" * (pkggen.RECIPE_LIMIT + 1), ": larger than 1.0 MB; that is not a recipe"),
    ],
    ids=["empty", "not UTF-8", "UTF-16", "control", "large"],
)
def test_no_text(tmp_path, text, message):
    folder = write_recipe(tmp_path / "r", text)
    assert refused("script", folder).startswith(f"pkggen: {folder}/pkgen.yaml{message}")


def test_no_recipe(tmp_path):
    (tmp_path / "r").mkdir()
    hint = "no recipe there; a recipe is a directory with a pkgen.yaml"
    assert refused("script", tmp_path / "r") == f"pkggen: {tmp_path}/r: {hint}"
    assert refused("script", tmp_path / "none.yaml") == f"pkggen: {tmp_path}/none.yaml: {hint}"


def find(folder, name, **settings):
    return run_tool("pkggen", "find", name, cwd=folder, **settings).stdout


def test_a_recipe_is_found_by_what_it_makes(tmp_path):
    """A package, then a recipe's name, then what a package provides; every verb takes a name."""
    tree = tmp_path / "recipes/g/deep"
    packages = {"p": {"provides": ["virtual", "q", "lib>=2"]}, "p-dev": None}
    write_recipe(tree / "a", recipe_text(packages=packages, script=["echo a"]))
    write_recipe(tree / "p", recipe_text(packages={"q": None}, script=["echo p"]))
    (tmp_path / "a").mkdir()  # not a recipe, so it doesn't hide one
    found = {"p": "a", "p-dev": "a", "a": "a", "q": "p", "virtual": "a", "lib": "a"}
    for name, recipe in found.items():
        assert find(tmp_path, name) == f"recipes/g/deep/{recipe}\n"
        assert run_tool("pkggen", "script", name, cwd=tmp_path).stdout == f"echo {recipe}\n"
    write_recipe(tmp_path / "q", recipe_text(script=["echo here"]))
    assert run_tool("pkggen", "script", "q", cwd=tmp_path).stdout == "echo here\n"


@pytest.mark.parametrize("name, hint", [
    ("p-devel", "; did you mean p-dev?"), ("zlib", ""), ("pdev", "; did you mean p-dev?")])
def test_a_name_that_no_recipe_makes(tmp_path, name, hint):
    write_recipe(tmp_path / "recipes/p", recipe_text(packages={"p": None, "p-dev": None}))
    for verb in ("find", "script", "build"):
        said = refused(verb, name, cwd=tmp_path)
        assert said == f"pkggen: recipes: no recipe makes the package {name}{hint}"


@pytest.mark.parametrize("text, message", [
    ("packages: {less: , less-doc: }\nversion: 1\nscripts: [x]\n", ":3:1: unknown key scripts in "),
    ("packages:\n  less: {\n  less-doc:\nversion: 1\n", ":4:8: "),
    ("version: 1\npackages: {less: , 'less-doc': [\n", ":3:1: "),
    ("packages:\n  less:\n  less-doc:\nscript:\n  - {{unpack \"x\"}} x\n", ":5:5: YAML has a "),
])
def test_a_recipe_that_cannot_be_read_says_so_whatever_asks(tmp_path, text, message):
    write_recipe(tmp_path / "recipes/x/less", text)
    write_recipe(tmp_path / "recipes/x/more", recipe_text())
    for verb in ("find", "script", "build", "meta", "hash"):
        for name in ("less", "less-doc"):
            said = refused(verb, name, cwd=tmp_path)
            assert said.startswith(f"pkggen: recipes/x/less/pkgen.yaml{message}")


def test_a_folder_whose_name_is_no_recipe_name(tmp_path):
    for name in ("a b", "-rf", "a$x", "a;b"):
        assert f"{name!r} can't be a recipe's name" in refusal(tmp_path / name, recipe_text())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("[" * 400_000 + "]" * 400_000, id="lists"),
        pytest.param("{a: " * 100 + "}" * 100, id="maps"),
        pytest.param("\n" + "".join(" " * n + "a:\n" for n in range(1, 1200)), id="indented"),
        pytest.param("[a, " * 60, id="not closed"),
    ],
)
def test_s23_deep_nesting(tmp_path, value):
    """PyYAML recurses on C's stack: without a limit the process dies of SIGSEGV."""
    text = "packages: {p: }\nversion: 1\ndata:" + (
        value if value[0] == "\n" else f" {{x: {value}}}"
    )
    folder = write_recipe(tmp_path / "r", text)
    started = time.monotonic()
    message = refused("script", folder)
    # PyYAML from 6.0.4 on has a limit of its own, which its look-ahead may meet first.
    assert "more than 50 lists and maps in one another" in message or "nesting depth" in message
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("value", ["1" + ":1" * 400_000, "9" * 900_000, "1" + ":1" * 4000 + ".0"])
def test_s23_long_numbers(tmp_path, value):
    """YAML 1.1 has numbers to base 60, and a long one takes hours."""
    started = time.monotonic()
    said = refusal(tmp_path / "r", f"packages: {{p: }}\nversion: 1\ndata: {{x: {value}}}\n")
    assert said.endswith(f":3:11: data.x is a number of {len(value)} characters; quote it")
    assert time.monotonic() - started < 10


def test_s23_templates_end(tmp_path):
    """Exponential templates stop within bounded time."""
    script = ['{{define "0"}}x{{end}}']
    for number in range(1, 60):
        call = f'{{{{template "{number - 1}"}}}}'
        script.append(f'{{{{define "{number}"}}}}{call}{call}{{{{end}}}}')
    started = time.monotonic()
    refusal(tmp_path / "r", recipe_text(script=[*script, '{{template "59"}}']))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("script, message", [
    ("$(" * 250_000, None), ("${" * 250_000, None), ("$(x" * 200_000, "make takes $(x"),
    ("$(shell " * 90_000 + "$x" + ")" * 90_000, "make takes $x"),
    ("(" * 400_000 + "$x", "make takes $x"), ("x\n" * 300_000 + "$x", "make takes $x"),
])
def test_s23_references_end(tmp_path, script, message):
    """Looking for make's references takes one pass, however many lie in one another."""
    folder = write_recipe(tmp_path / "r", recipe_text(script=[script]))
    started = time.monotonic()
    done = run_tool("pkggen", "script", folder, check=False)
    assert time.monotonic() - started < 30 and "Traceback" not in done.stderr
    assert done.returncode == (message is not None), done.stderr[:200]
    assert (message or "") in done.stderr


@pytest.mark.parametrize("text, names", [
    ("$(CC) $$x $@", ["CC", "", "@"]), ("$(shell a (b) $(c)) $d", ["shell", "c", "d"]),
    ("${a)b} $(c}d)", ["a", "c"]), ("$(x$(y)) ${z:a=b}", ["", "y", "z"]), ("$(a", ["a"]),
    ("$", ["\n"]), ("a) b} $(c)", ["c"]),
])
def test_references_are_those_that_make_takes(text, names):
    assert [one.name for one in pkggen.make_references(text)] == names
    assert all(text[one.start] == "$" and one.end <= len(text)
               for one in pkggen.make_references(text) if text != "$")


def test_s20_a_link_out_of_the_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")
    folder = write_recipe(tmp_path / "r", recipe_text(sources=["file:patch"]))
    (folder / "patch").symlink_to(secret)
    assert f"'patch' is outside {folder}" in refused("fetch-mk", folder)
    (folder / "patch").unlink()
    (folder / "real").write_text("x")
    (folder / "patch").symlink_to("real")
    assert pkggen.load_recipe(str(folder), options()).sources[0].name == "patch"


def test_s20_a_folder_beside_with_a_longer_name(tmp_path):
    (tmp_path / "r-secret").mkdir()
    (tmp_path / "r-secret/f").write_text("key")
    assert "is outside" in refusal(tmp_path / "r", recipe_text(sources=["file:../r-secret/f"]))


def test_s20_the_link_comes_after_loading(tmp_path):
    """What is packed is looked up again, so that a late link has no effect."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "patch").write_text("x")
    recipe = load(folder, recipe_text(sources=["file:patch"]))
    (folder / "patch").unlink()
    (folder / "patch").symlink_to("/etc/hostname")
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        with pytest.raises(pkggen.Fail, match="outside"):
            pkggen.add_source(tar, recipe, recipe.sources[0])


def test_sources(tmp_path):
    folder = tmp_path / "r"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.conf").write_text("x")
    digest = "0" * 64
    sources = [
        "https://example.org/v{{.Version}}/f-{{.Version}}.tar.gz?download=1#x",
        ["https://example.org/g", f"https://example.com/other?a=b&sha256sum={'1' * 64}&c=d"],
        "file:sub/a.conf",
        "self:world/setup",
        f"deb-src:zlib=1:1.2.13.dfsg-1/zlib.tar.bz2?hash={'3' * 64}",
        f"https://example.org/h?sha256sum={'4' * 64}&c=d",
    ]
    text = recipe_text(sources=sources, mirrors=["https://mirror.example/m/"], sha256={"g": digest})
    recipe = load(folder, text)
    names = ["f-1.tar.gz", "g", "a.conf", "setup", "zlib.tar.bz2", "h"]
    assert [source.name for source in recipe.sources] == names
    assert recipe.sources[1].alternatives == (
        pkggen.Alternative("https://example.org/g", digest),
        pkggen.Alternative("https://example.com/other?a=b&c=d", "1" * 64),
        pkggen.Alternative("https://mirror.example/m/g", digest),
    )
    assert [alternatives[0] for _, alternatives, _ in recipe.sources[4:]] == [
        pkggen.Alternative("deb-src:zlib=1:1.2.13.dfsg-1/zlib.tar.bz2", "3" * 64),
        pkggen.Alternative("https://example.org/h?c=d", "4" * 64),
    ]
    assert [source.is_local for source in recipe.sources] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["f", "g"])
def test_alternatives_without_a_hash_of_their_own_have_another_ones(tmp_path, name):
    """Upstream's may be the one that nobody here could hash."""
    sources = [["https://a.example/f", "https://b.example/g"]]
    recipe = load(tmp_path / "r", recipe_text(sources=sources, sha256={name: "2" * 64}))
    assert {alternative.sha256 for alternative in recipe.sources[0].alternatives} == {"2" * 64}


def test_define(tmp_path):
    folder = write_recipe(tmp_path / "r", recipe_text(data={"x": 1, "y": 2}, script=["{{.Data}}"]))
    done = run_tool("pkggen", "script", folder, "-D", "x=a=b c", "-D", "z=")
    assert done.stdout == "map[x:a=b c y:2 z:]\n"


def test_template_data(tmp_path):
    """Every field of the dot, and data of YAML's own types."""
    text = """\
packages: {b: , a: {dependencies: [c]}}
version: 1.10
build: 3
arch: [x86_64]
sources: ["https://example.org/f"]
builddependencies: [make]
builder: panux
nobootstrap: {x: true}
data: {i: 3, f: 1.5, t: yes, n: ~, s: '3', l: [1, two]}
script:
  - '{{.Version}} {{.Build}} {{.Arch}} {{.Sources}} {{.BuildDependencies}} {{.Builder}} {{.Cross}}'
  - '{{.Packages.a.Dependencies}} {{.NoBootstrap.x}} {{len .Packages}} {{len .Script}}'
  - '{{range $k, $v := .Data}}{{$k}}={{printf "%T" $v}} {{end}}'
"""
    assert load(tmp_path / "r", text).script.split("\n") == [
        "1.10 3 [x86_64] [https://example.org/f] [make] docker false",
        "[c] true 2 3",
        "f=float64 i=int l=[]interface {} n=<nil> s=string t=bool ",
    ]


def test_meta(tmp_path):
    text = """\
packages:
  p: {dependencies: [musl>=1.2, "!q"], conffiles: [etc/p], owners: {/bin/p: "0:0:4755"}}
  p-dev: {summary: headers, provides: [p-headers=1], services: [pd], conflicts: [o]}
  q:
    replaces: [old-q<2]
    scripts:
      post-install: |
        ldconfig
        echo done
    alternatives:
      - {path: /usr/bin/vi, target: q, priority: 20}
version: 1.10
build: 2
summary: a p
license: MIT
url: https://example.org/
"""
    folder = write_recipe(tmp_path / "r", text)
    meta = json.loads(run_tool("pkggen", "meta", folder, "--arch", "aarch64").stdout)
    empty = {
        "provides": [], "conflicts": [], "replaces": [], "conffiles": [], "services": [],
        "owners": {}, "scripts": {}, "alternatives": [],
    }
    q = {
        "summary": "a p", "depends": [], "replaces": ["old-q<2"],
        "scripts": {"post-install": "ldconfig\necho done\n"},
        "alternatives": [{"path": "usr/bin/vi", "target": "q", "priority": 20}],
    }
    p = {"summary": "a p", "depends": ["musl>=1.2", "!q"], "conffiles": ["etc/p"]}
    dev = {"summary": "headers", "depends": [], "provides": ["p-headers=1"], "services": ["pd"]}
    assert meta == {
        "recipe": "r",
        "version": "1.10-2",
        "arch": "aarch64",
        "license": "MIT",
        "url": "https://example.org/",
        "packages": {
            "p": {**empty, **p, "owners": {"/bin/p": "0:0:4755"}},
            "p-dev": {**empty, **dev, "conflicts": ["o"]},
            "q": {**empty, **q},
        },
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["lunt"], "argument COMMAND: invalid choice: 'lunt'"),
        (["script"], "the following arguments are required: recipe"),
        (["script", "r", "a\nb"], "unrecognized arguments: a\\nb"),
        (["script", "r", "--lenent"], "unrecognized arguments: --lenent"),
        (["script", "r", "-D", "x"], "argument -D: x: no `=`; write -D KEY=VALUE"),
        (["script", "r", "--arch", "x86-64"], "argument --arch: unknown x86-64; did you mean"),
        (["fetch"], "the following arguments are required: what"),
    ],
)
def test_usage(arguments, message):
    done = run_tool("pkggen", *arguments, check=False)
    assert one_line(done, status=2).startswith(f"pkggen: {message}")
    assert done.stdout == ""


def test_version_and_help():
    assert run_tool("pkggen", "--version").stdout == f"pkggen {pkggen.VERSION}\n"
    text = run_tool("pkggen", "--help").stdout
    assert all(verb in text for verb in pkggen.COMMANDS)


def test_failures_are_one_line(tmp_path):
    folder = write_recipe(tmp_path / "r", recipe_text())
    (tmp_path / "file").write_text("")
    assert "File exists" in refused("script", folder, "-o", tmp_path / "file/x")
    assert "not a directory" in refused("world-mk", tmp_path / "none")
    assert "\\x1b[31m" in refused("script", tmp_path / "\x1b[31m")
    env = environment(O=tmp_path / "o", RUN="")
    done = run_tool("pkggen", "build", folder, "--arch", "x86_64", env=env, check=False)
    assert last_line(done).startswith("pkggen: there is no builder image; ")


def test_a_json_py_beside_the_script_has_no_effect(tmp_path):
    shutil.copy(ROOT / "pkggen.py", tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('pwned')\n")
    command = [sys.executable, tmp_path / "pkggen.py", "--version"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.stdout == f"pkggen {pkggen.VERSION}\n"


# ==== build.mk, through the real make =============================================================

# All that could be lost between YAML, make and sh. `$$` is a `$` of the shell.
SCRIPT = r"""cat >out/p/heredoc <<'END'
	a tab, and	another
    leading blanks, and some at the end   
@at
-minus
+plus
  @indented
# a comment, and a # in a line
"double" 'single' `back` \" \' \` \$$x
a backslash at the end \
two backslashes \\
\
three \\\
é ü 漢字 ✓
endef
define
define X =
  endef # with a comment
	endef
override define Y
endefs definer
ifdef ifeq (a,b) else endif include /etc/passwd -include x
%.o: %.c; | & && || < > ( ) { } [ ] * ? ~ ! = := , ,, :
{{"{{"}} braces }} ${HOME} $$$$ %s \n \t \0

END
cat >out/p/expanded <<END
$$USERS "$$#" $$((2 + 3)) \$$x `echo a\\b` joi\
ned
END
printf '%s|' a\
 b "c \
d" 'e \
f' >out/p/arguments
# a comment that goes on \
x=1
y=2
echo "[$${x-unset}] [$$y] $$(case $$- in *e*) echo e; esac)" >out/p/variables
for word in one "two three"; do
	echo "$$word" # not the end
done >out/p/loop
case $$y in
  2) echo two;;
esac >out/p/case
cd out/p
pwd | sed 's,.*/out,out,' >pwd
"""
SCRIPT = SCRIPT.replace("${HOME}", "$${HOME}")


def files_below(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_build_mk(folder, text):
    """build.mk of a recipe TEXT, in FOLDER; GIVES the recipe."""
    recipe = load(folder / "recipe", text)
    (folder / "build.mk").write_text(pkggen.build_mk(recipe))
    return recipe


def test_a_script_survives_make(tmp_path):
    recipe = write_build_mk(tmp_path, recipe_text(script=[SCRIPT, "true"]))
    env = environment(LC_ALL="C", HOME="/root", USERS="u")
    done = make(tmp_path, "-f", "build.mk", "all", env=env)
    assert done.returncode == 0, done.stderr
    plain = tmp_path / "plain"
    (plain / "out/p").mkdir(parents=True)
    script = recipe.script.replace("$$", "$")
    subprocess.run(["sh", "-exc", script], cwd=plain, env=env, check=True)
    assert files_below(tmp_path / "out") == files_below(plain / "out")
    heredoc = (tmp_path / "out/p/heredoc").read_text()
    assert heredoc.startswith("\ta tab, and\tanother\n    leading blanks")
    assert heredoc.endswith("{{ braces }} ${HOME} $$ %s \\n \\t \\0\n\n")
    assert (tmp_path / "out/p/arguments").read_text() == "a|b|c d|e \\\nf|"


def test_the_script_file_is_the_script(tmp_path):
    """Bytes: what sh is given is what `pkggen.py script` prints, `$$` aside."""
    recipe = write_build_mk(tmp_path, recipe_text(script=[SCRIPT, "true"]))
    assert make(tmp_path, "-f", "build.mk", "script").returncode == 0
    assert (tmp_path / "script.sh").read_text() == recipe.script.replace("$$", "$") + "\n"


def test_a_byte_that_is_no_utf8(tmp_path):
    """A template can make one, and the command line: it stays what it is on each way."""
    script = ['printf {{"\\xfe"}}{{.Data.x}} >out/p/f']
    folder = write_recipe(tmp_path / "r", recipe_text(script=script))
    given = ["r", "-D", b"x=\xff"]
    for verb, output in (("build-mk", "build.mk"), ("script", "script")):
        command = [sys.executable, ROOT / "pkggen.py", verb, *given]
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        subprocess.run([*command, "-o", output], cwd=tmp_path, check=True)
        assert (tmp_path / output).read_bytes() == done.stdout
    assert done.stdout == b"printf \xfe\xff >out/p/f\n"
    assert make(tmp_path, "-f", "build.mk").returncode == 0
    assert files_below(tmp_path / "out") == {"p/f": b"\xfe\xff"}
    recipe = pkggen.load_recipe(str(folder), options(data={"x": ""}))
    assert pkggen.build_inputs(recipe, pkggen.Work("none"))["build.mk"]
    pkggen.write_input(recipe, pkggen.Work("none"), io.BytesIO())


def test_make_means_in_a_script_what_it_means_in_a_makefile(tmp_path):
    variables = "$(CURDIR)|$(BUILDARCH)|$(HOSTARCH)|$(ARCH)|$(CC)|$(AR)|$(PACKAGES)"
    exported = "$$CC $$SOURCE_DATE_EPOCH $$PKG_CONFIG_SYSROOT_DIR $$LC_ALL $$TZ $${SRCTAR-unset}"
    script = [
        "echo '$(shell echo from make)' $$(echo from sh) >out/p/shell",
        f"echo '{variables}' >out/p/variables",
        f'echo "{exported}" >out/p/env',
        "printf 'all:\\n\\techo sub >made\\n' >out/p/Makefile",
        '{{make "out/p"}}',
        "umask >out/p/umask",
    ]
    text = recipe_text(packages={"p": None, "q": None}, script=script)
    write_recipe(tmp_path / "recipe", text)
    arguments = ["recipe", "--arch", "aarch64", "--hostarch", "x86_64", "-o", "build.mk"]
    run_tool("pkggen", "build-mk", *arguments, cwd=tmp_path)
    done = make(tmp_path, "-f", "build.mk", "all", "SYSROOT=/sys root", "-j2")
    assert done.returncode == 0, done.stderr
    read = {name: data.decode() for name, data in files_below(tmp_path / "out").items()}
    assert read["p/shell"] == "from make from sh\n"
    tools = "aarch64-linux-musl-gcc|aarch64-linux-gnu-ar"
    assert read["p/variables"] == f"{tmp_path}|aarch64|x86_64|aarch64|{tools}|p q\n"
    assert read["p/env"] == f"aarch64-linux-musl-gcc {pkggen.EPOCH} /sys root C UTC unset\n"
    assert read["p/made"] == "sub\n"
    assert read["p/umask"] == "0022\n"
    assert (tmp_path / "out/q").is_dir()
    assert "jobserver unavailable" not in done.stderr


def test_a_failing_line_ends_the_build(tmp_path):
    script = ["touch one", "false", "touch two"]
    write_build_mk(tmp_path, recipe_text(script=script, check=["touch three"]))
    done = make(tmp_path, "-f", "build.mk", "all")
    assert done.returncode == 2
    assert "+ script.sh:2: false\n" in done.stderr
    exists = {name: (tmp_path / name).exists() for name in ("one", "two", "three")}
    assert exists == {"one": True, "two": False, "three": False}


def test_a_failing_line_in_the_middle_of_a_block_ends_the_build(tmp_path):
    write_build_mk(tmp_path, recipe_text(script=["-false\n@true\ntouch two\n"]))
    assert make(tmp_path, "-f", "build.mk", "all").returncode == 2
    assert not (tmp_path / "two").exists()


def test_check_runs_after_the_script(tmp_path):
    check = ["test -s f", "echo $${x-2} >>f"]
    write_build_mk(tmp_path, recipe_text(script=["x=1", "echo 1 >f"], check=check))
    assert make(tmp_path, "-f", "build.mk", "script").returncode == 0
    assert (tmp_path / "f").read_text() == "1\n"
    (tmp_path / "f").unlink()
    assert make(tmp_path, "-j4", "-f", "build.mk", "all").returncode == 0
    assert (tmp_path / "f").read_text() == "1\n2\n"
    write_build_mk(tmp_path, recipe_text(check=["false"]))
    assert make(tmp_path, "-f", "build.mk").returncode == 2


def test_untarsource_and_gentars(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a b").write_text("source")
    subprocess.run(["tar", "-cf", "in.tar", "src"], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / "src")
    (tmp_path / "tars").mkdir()
    text = recipe_text(packages={"p": None, "q": None}, script=["cp 'src/a b' out/p/f"])
    write_build_mk(tmp_path, text)
    assert make(tmp_path, "-f", "build.mk", "untarsource", "SRCTAR=in.tar").returncode == 0
    assert (tmp_path / "src/a b").read_text() == "source"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p", "q"]
    done = make(tmp_path, "-f", "build.mk", "gentars", "SRCTAR=in.tar", "TAROUT=tars")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "tars/p.tar") as tar:
        assert tar.extractfile("./f").read() == b"source"
    assert (tmp_path / "tars/q.tar").exists()


def test_an_empty_script(tmp_path):
    write_build_mk(tmp_path, recipe_text())
    assert make(tmp_path, "-f", "build.mk", "all").returncode == 0
    assert (tmp_path / "out/p").is_dir()


# ---- metacharacters ------------------------------------------------------------------------------

NAMES = [
    "a b",
    "$(touch pwned)",
    "$x$$y",
    "a;touch pwned",
    "a#b",
    "'a' \"b\"",
    "`touch pwned`",
    "a&b|c<d>e",
    "*?[a]",
    "back\\slash",
    "a:b%c=d,e",
    "a?b&hash=c",
    "ünïcode~!^{}",
]


@pytest.mark.parametrize("name", NAMES)
def test_s21_a_file_name_is_taken_literally(tmp_path, name):
    """In the tar that goes into the build, and in a file that a real make and sh unpack."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / name).write_text("patch")
    recipe = load(folder, recipe_text(sources=["file:" + name], script=["cp src/* out/p"]))
    assert recipe.sources[0].name == name
    with open(tmp_path / "in.tar", "w+b") as file:
        pkggen.write_input(recipe, pkggen.Work("none"), file)
    with tarfile.open(tmp_path / "in.tar") as tar:
        assert tar.getnames() == ["build.mk", "setup.sh", "src/" + name]
        tar.extractall(tmp_path / "build")
    assert make(tmp_path / "build", "-f", "build.mk").returncode == 0
    assert files_below(tmp_path / "build/out") == {"p/" + name: b"patch"}
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", [name for name in NAMES if "?" not in name])
def test_s21_a_name_in_a_url_is_taken_literally(tmp_path, name):
    """make calls pkggen with the very words; without a hash it names the source as it is."""
    quoted = urllib.parse.quote(name)
    raw = name.replace(" ", "%20").replace("%c", "%25c").replace("#", "%23")
    show = tmp_path / "show"
    code = "import sys, json\njson.dump(sys.argv[1:], open('words', 'w'))\n"
    show.write_text(f"#!{sys.executable}\n{code}")
    show.chmod(0o755)
    for url in (f"https://example.org/{quoted}", f"https://example.org/{raw}"):
        folder = write_recipe(tmp_path / "r", recipe_text(sources=[url], sha256={name: "0" * 64}))
        run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path)
        done = make(tmp_path, "-f", "fetch.mk", f"PKGGEN={show}", "SOURCES=s")
        assert done.returncode == 0, done.stderr
        words = json.loads((tmp_path / "words").read_text())
        fetched = f"{url}?sha256sum={'0' * 64}"
        assert words == ["fetch", "--of", "r", f"{name}::{fetched}", "--sources", "s"]
        write_recipe(folder, recipe_text(sources=[url]))
        run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path)
        done = make(tmp_path, "-f", "fetch.mk")
        assert done.returncode == 2
        said = f"{name} has no sha256; `pkggen.py hash r` fetches it and writes one\n"
        assert said in done.stderr
    assert not list(tmp_path.rglob("pwned"))


# ==== Fetching ====================================================================================


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with a certificate authority of our own, and localhost's key and certificate."""
    folder = tmp_path_factory.mktemp("authority")
    # Python 3.13 wants what RFC 5280 wants: the key's usage, and the issuer's key identifier.
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
    (folder / "names").write_text(names)
    usage = "-addext keyUsage=critical,keyCertSign"
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {key} {usage} -keyout ca.key -out ca.pem -days 2 -subj /CN=Test",
        f"req {key} -keyout key.pem -out csr.pem -subj /CN=localhost",
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names "
        "-out cert.pem",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=folder, check=True, stderr=subprocess.DEVNULL
        )
    return folder


class Upstream(http.server.ThreadingHTTPServer):
    """An HTTPS server whose paths are /HOW/NAME: HOW is one of the handler's methods.

    `asked` has (path, first byte asked for, bytes sent) of each request.
    """

    daemon_threads = True

    def __init__(self, authority, files):
        super().__init__(("127.0.0.1", 0), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
        self.context = context
        self.files = files
        self.asked = []
        self.logins = []
        self.cuts = set()
        self.gate = threading.Event()
        self.base = f"https://localhost:{self.server_port}"

    def finish_request(self, request, address):
        request.settimeout(30)
        with self.context.wrap_socket(request, server_side=True) as secure:
            self.RequestHandlerClass(secure, address, self)

    def handle_error(self, request, address):
        pass  # a client that goes away in the middle is part of the tests

    def sent(self, path):
        return [count for asked, _, count in self.asked if asked == path]


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        how, _, name = self.path[1:].partition("/")
        name = urllib.parse.unquote(name.partition("?")[0])
        self.first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        body = self.server.files.get(name)
        getattr(self, how if body is not None else "missing")(body)

    def give(self, body, first=0, count=None):
        """Send the headers for all of BODY from FIRST on, and then COUNT bytes."""
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.server.logins.append(self.headers.get("Authorization"))
        part = body[first:][:count]
        self.server.asked.append((self.path, self.first, len(part)))
        self.wfile.write(part)

    def good(self, body):
        if self.first >= len(body):
            self.server.asked.append((self.path, self.first, 0))
            self.send_error(416)
        else:
            self.give(body, self.first)

    def cut(self, body):
        """The first answer ends in the middle, the next ones go on from there."""
        first_time = self.path not in self.server.cuts
        self.server.cuts.add(self.path)
        self.give(body, self.first, 400_000 if first_time else None)

    def norange(self, body):
        first_time = self.path not in self.server.cuts
        self.server.cuts.add(self.path)
        self.give(body, 0, 400_000 if first_time else None)

    def short(self, body):
        self.give(body, 0, 1000)

    def moved(self, body):
        self.send_response(302)
        self.send_header("Location", re.sub("^/[a-z]*/", "/good/", self.path))
        self.end_headers()

    def missing(self, body):
        self.server.asked.append((self.path, self.first, 0))
        self.send_error(404)

    def empty(self, body):
        self.give(b"")

    def page(self, body):
        self.give(b"\n<!DOCTYPE HTML><html>Log in first</html>")

    def badlength(self, body):
        self.send_response(200)
        self.send_header("Content-Length", "many")
        self.end_headers()
        self.wfile.write(body)

    def leaves(self, body):
        """To where https ends."""
        self.send_response(302)
        self.send_header("Location", self.server.elsewhere)
        self.end_headers()

    def locked(self, body):
        """For who has the right password alone, then on to a path that must not get it."""
        given = self.headers.get("Authorization")
        self.server.asked.append((self.path, self.first, given))
        self.moved(body) if given == "Basic bWU6c2VjcmV0" else self.send_error(401)

    def slow(self, body):
        """Half of it at once, the rest when the gate opens."""
        half = 500_000 if self.first < 500_000 else 0
        self.give(body, self.first, half)
        self.server.gate.wait(30)
        self.wfile.write(body[self.first + half :])


BODY = random.Random(1).randbytes(1_000_000)
OTHER = random.Random(2).randbytes(300_000)
GOOD = sha256(BODY)


@pytest.fixture
def upstream(authority):
    server = Upstream(authority, {"f": BODY, "g": OTHER, "a b#$c": BODY})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def env(tmp_path, authority):
    """For a child: its output below tmp_path, and the test's authority trusted."""
    return environment(
        O=tmp_path / "o",
        SOURCES=tmp_path / "sources",
        SSL_CERT_FILE=authority / "ca.pem",
        no_proxy="*",
        ARCH="x86_64",
    )


def fetch(env, *urls, digest=GOOD):
    return run_tool("pkggen", "fetch", *urls, "--sha256", digest, env=env, check=False)


def cached(env):
    """The files in the cache: name to content."""
    folder = pathlib.Path(env["SOURCES"])
    paths = folder.iterdir() if folder.exists() else ()
    return {path.name: path.read_bytes() for path in paths}


def test_fetch(env, upstream):
    done = fetch(env, upstream.base + "/good/f")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"fetch   f: 1\.0 MB from localhost in \d+ s\n", done.stderr)
    assert cached(env) == {GOOD: BODY}
    assert fetch(env, upstream.base + "/good/f").stderr == ""
    assert upstream.sent("/good/f") == [len(BODY)]


def test_fetch_to_a_file(tmp_path, env, upstream):
    url = f"{upstream.base}/good/f?sha256sum={GOOD}"
    run_tool("pkggen", "fetch", url, "-o", tmp_path / "file", env=env)
    assert (tmp_path / "file").read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_s26_fetch_to_a_file_beside_an_altered_one(tmp_path, env, upstream):
    (tmp_path / GOOD).write_bytes(b"altered")
    url = f"{upstream.base}/good/f?sha256sum={GOOD}"
    assert "its bytes are not what its name says" in refused(
        "fetch", url, "-o", tmp_path / "file", env=env
    )
    assert not (tmp_path / "file").exists()


def test_fetch_wants_a_hash(env, upstream):
    assert "no sha256" in refused("fetch", upstream.base + "/good/f", env=env)
    assert "no sha256" in one_line(fetch(env, upstream.base + "/good/f", digest="abc"))
    assert upstream.asked == []


def test_wrong_hash(env, upstream):
    said = one_line(fetch(env, upstream.base + "/good/g"))
    assert f"/good/g: has other bytes: sha256 {sha256(OTHER)}, and the recipe wants {GOOD}" in said
    assert "; if upstream changed the file, `pkggen.py hash RECIPE` writes its new hash" in said
    assert "by hand" not in said and cached(env) == {}


def test_wrong_hash_then_the_next_alternative(env, upstream):
    done = fetch(env, upstream.base + "/good/g", upstream.base + "/good/f")
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}


def test_a_file_brought_by_hand(env, upstream):
    os.makedirs(env["SOURCES"])
    (pathlib.Path(env["SOURCES"]) / GOOD).write_bytes(BODY)
    assert fetch(env, upstream.base + "/missing/f").returncode == 0
    assert upstream.asked == []


def test_resume(env, upstream):
    done = fetch(env, upstream.base + "/cut/f")
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}
    assert upstream.asked == [("/cut/f", 0, 400_000), ("/cut/f", 400_000, 600_000)]


def test_resume_from_a_server_that_ignores_range(env, upstream):
    assert fetch(env, upstream.base + "/norange/f").returncode == 0
    assert cached(env) == {GOOD: BODY}
    assert upstream.asked == [("/norange/f", 0, 400_000), ("/norange/f", 400_000, len(BODY))]


@pytest.mark.parametrize(
    "part",
    [b"x" * 1000, BODY, BODY + b"x", b"x" * len(BODY)],
    ids=["other", "whole", "longer", "other of the same length"],
)
def test_resume_on_a_part_that_does_not_fit(env, upstream, part):
    """A part that another program left, or that was whole when the fetch was killed."""
    os.makedirs(env["SOURCES"])
    (pathlib.Path(env["SOURCES"]) / f"{GOOD}.part").write_bytes(part)
    done = fetch(env, upstream.base + "/good/f")
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}


def test_truncated_for_ever(env, upstream):
    said = one_line(fetch(env, upstream.base + "/short/f"))
    assert "the connection ended after 1000 of 1000000 bytes" in said
    assert len(upstream.asked) <= 3
    assert GOOD not in cached(env)
    assert fetch(env, upstream.base + "/good/f").returncode == 0
    assert cached(env) == {GOOD: BODY}


def test_redirect(env, upstream):
    assert fetch(env, upstream.base + "/moved/f").returncode == 0
    assert cached(env) == {GOOD: BODY}


def test_redirect_to_a_host_that_does_not_answer(env, upstream):
    """It is that one which is blamed: the host that led there answers, and is asked again."""
    upstream.elsewhere = f"https://localhost:{free_port()}/f"
    said = one_line(fetch(env, upstream.base + "/leaves/f"))
    host = upstream.elsewhere.split("/")[2]
    assert f"/leaves/f: it redirects to {host}: Connection refused; bring" in said
    done = fetch(env, upstream.base + "/leaves/f", upstream.base + "/good/f")
    assert done.returncode == 0 and cached(env) == {GOOD: BODY}


def test_redirect_in_a_circle(env, upstream):
    upstream.elsewhere = upstream.base + "/leaves/f"
    assert "/leaves/f: 302 " in one_line(fetch(env, upstream.elsewhere))


def test_404_then_the_next_alternative(env, upstream):
    said = one_line(fetch(env, upstream.base + "/good/none"))
    assert f"404 Not Found; bring the file by hand as {env['SOURCES']}/{GOOD}" in said
    urls = [upstream.base + "/good/none", upstream.base + "/good/f"]
    assert fetch(env, *urls).returncode == 0
    assert cached(env) == {GOOD: BODY}


def test_a_name_with_blanks_and_signs(env, upstream):
    done = fetch(env, upstream.base + "/good/a%20b%23%24c?x=1&y=2")
    assert done.returncode == 0, done.stderr
    assert upstream.asked[0][0] == "/good/a%20b%23%24c?x=1&y=2"


@pytest.mark.parametrize("host", ["localhost:CLOSED", "nosuch.invalid"])
def test_no_answer(env, host):
    host = host.replace("CLOSED", str(free_port()))
    said = one_line(fetch(env, f"https://{host}/f"))
    assert re.search("refused|not known|resolution|No address", said), said
    again = one_line(fetch(env, f"https://{host}/g"))
    assert f"{host} gave no answer within the last 60 s" in again
    assert cached(env) == {}


def test_a_dead_host_is_asked_once(tmp_path, env, upstream):
    """Counted at a listener that hangs up; two files, each with an alternative that is well."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, args=(listener, calls), daemon=True).start()
        dead = f"https://localhost:{listener.getsockname()[1]}"
        sources = [[f"{dead}/{name}", f"{upstream.base}/good/{name}"] for name in "fg"]
        hashes = {"f": GOOD, "g": sha256(OTHER)}
        write_recipe(tmp_path / "r", recipe_text(sources=sources, sha256=hashes))
        run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path, env=env)
        done = make(tmp_path, "-f", "fetch.mk", env=env)
        assert done.returncode == 0, done.stderr
        listener.shutdown(socket.SHUT_RDWR)
    assert cached(env) == {GOOD: BODY, sha256(OTHER): OTHER}
    assert len(calls) == 1


def hang_up(listener, calls):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        calls.append(1)
        connection.close()


def test_a_certificate_that_is_not_trusted(env, upstream):
    done = run_tool(
        "pkggen",
        "fetch",
        upstream.base + "/good/f",
        "--sha256",
        GOOD,
        env={**env, "SSL_CERT_FILE": "/dev/null"},
        check=False,
    )
    assert "certificate verify failed" in one_line(done)
    assert upstream.asked == [] and cached(env) == {}
    assert fetch(env, upstream.base + "/good/f").returncode == 0


def test_a_certificate_of_another_host(env, upstream):
    url = f"https://127.0.0.2:{upstream.server_port}/good/f"
    upstream.socket.close()
    upstream.socket = socket.create_server(("127.0.0.2", upstream.server_port))
    assert "certificate verify failed" in one_line(fetch(env, url))


def test_alternatives_with_bytes_of_their_own(tmp_path, env, upstream):
    """Each is cached under its own hash and bears the first one's name in src/."""
    sources = [[f"{upstream.base}/good/none", f"{upstream.base}/good/g?sha256sum={sha256(OTHER)}"]]
    folder = write_recipe(tmp_path / "r", recipe_text(sources=sources, sha256={"none": GOOD}))
    run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path, env=env)
    for _ in range(2):
        done = make(tmp_path, "-f", "fetch.mk", env=env)
        assert done.returncode == 0, done.stderr
        assert cached(env) == {sha256(OTHER): OTHER}
    assert len(upstream.asked) == 2
    assert input_files(folder, env) == {"src/none": OTHER}


def input_files(folder, env):
    """The sources in the tar that goes into the recipe's build, or what was said instead.

    RUN only keeps its input here.
    """
    path = folder / "input.tar"
    path.unlink(missing_ok=True)
    env = {**env, "RUN": f"sh -c 'cat >{path}; exit 1' --", "RUN_STOP": "true"}
    done = run_tool("pkggen", "build", folder, env=env, check=False)
    if not path.exists():
        return last_line(done)
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.startswith("src/")]
        return {name: tar.extractfile(name).read() for name in names}


def test_s26_an_altered_cache_entry(tmp_path, env, upstream):
    text = recipe_text(sources=[upstream.base + "/good/f"], sha256={"f": GOOD})
    folder = write_recipe(tmp_path / "r", text)
    assert input_files(folder, env) == {"src/f": BODY}
    entry = pathlib.Path(env["SOURCES"]) / GOOD
    entry.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    assert f"{entry}: no longer the bytes of f; remove it" in input_files(folder, env)
    entry.unlink()
    assert input_files(folder, env) == {"src/f": BODY}


def test_s26_a_link_in_the_cache_is_not_written_through(tmp_path, env, upstream):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.makedirs(env["SOURCES"])
    os.symlink(victim, f"{env['SOURCES']}/{GOOD}.part")
    one_line(fetch(env, upstream.base + "/good/f"))
    assert victim.read_text() == "precious"


def test_s26_two_fetches_at_once(env, upstream):
    """The second waits for the first one's lock, and then finds the file."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(fetch, env, upstream.base + "/slow/f") for _ in range(3)]
        wait_until(lambda: upstream.asked, what="request")
        time.sleep(1)
        assert len(upstream.asked) == 1
        assert list(cached(env)) == [f"{GOOD}.part"]
        upstream.gate.set()
        done = [run.result() for run in runs]
    assert [run.returncode for run in done] == [0, 0, 0], [run.stderr for run in done]
    assert cached(env) == {GOOD: BODY}
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle(env, upstream, number):
    url = upstream.base + "/slow/f"
    command = [sys.executable, ROOT / "pkggen.py", "fetch", url, "--sha256", GOOD]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        part = pathlib.Path(env["SOURCES"]) / f"{GOOD}.part"
        wait_until(lambda: part.exists() and part.stat().st_size, what="bytes")
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert number == signal.SIGKILL or said.count("\n") == 1 and "stopped by SIGTERM" in said
    have = part.stat().st_size
    upstream.gate.set()
    assert fetch(env, url).returncode == 0
    assert cached(env) == {GOOD: BODY}
    assert upstream.asked[1][1] == have > 0


def test_fetch_mk(tmp_path, env, upstream):
    """Real make fetches each file once for two recipes, and has nothing to do the second time."""
    sources = [upstream.base + "/good/f", upstream.base + "/good/a%20b%23%24c", "file:patch"]
    for name in ("r", "s"):
        hashes = {"f": GOOD, "a b#$c": GOOD, "g": sha256(OTHER)}
        text = recipe_text(sources=[*sources, upstream.base + "/good/g"], sha256=hashes)
        write_recipe(tmp_path / name, text)
        (tmp_path / name / "patch").write_text("x")
    run_tool("pkggen", "fetch-mk", "r", "s", "-o", "fetch.mk", cwd=tmp_path, env=env)
    done = make(tmp_path, "-j4", "-f", "fetch.mk", env=env)
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY, sha256(OTHER): OTHER}
    assert len(upstream.asked) == 2
    done = make(tmp_path, "-f", "fetch.mk", env=env)
    assert done.stdout == "make: Nothing to be done for 'fetch'.\n"


def test_fetch_mk_without_a_hash(tmp_path, env, upstream):
    sources = [upstream.base + "/good/f", upstream.base + "/good/g"]
    text = recipe_text(sources=sources, sha256={"g": sha256(OTHER)})
    folder = write_recipe(tmp_path / "r", text)
    run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path, env=env)
    done = make(tmp_path, "-k", "-f", "fetch.mk", env=env)
    assert done.returncode == 2
    said = "has no sha256; `pkggen.py hash r` fetches it and writes one\n"
    assert "pkggen: r/pkgen.yaml:3:11: f " + said in done.stderr
    assert cached(env) == {sha256(OTHER): OTHER}
    said = refused("build", folder, env=env)
    assert said.endswith(f"f has no sha256; `pkggen.py hash {folder}` fetches it and writes one")
    assert upstream.sent("/good/f") == []


def test_an_answer_without_bytes(env, upstream):
    """As from a mirror that is half made; alone it is said, and the next alternative is asked."""
    said = one_line(fetch(env, upstream.base + "/empty/f"))
    assert "the answer is empty; bring the file by hand" in said
    assert cached(env) == {}
    done = fetch(env, upstream.base + "/empty/f", upstream.base + "/badlength/f")
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}


def test_a_web_page_in_the_place_of_a_source(tmp_path, env, upstream):
    """What a login page of a network says never becomes a recipe's hash."""
    url = upstream.base + "/page/f"
    assert f"{url}: the answer is a web page, not the file; bring" in one_line(fetch(env, url))
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[url]))
    before = (folder / "pkgen.yaml").read_bytes()
    done = run_tool("pkggen", "hash", folder, env=env, check=False)
    assert f"hash    {url}: the answer is a web page, not the file\n" in done.stderr
    assert done.returncode == 1 and (folder / "pkgen.yaml").read_bytes() == before
    assert cached(env) == {}
    upstream.files["f.html"] = BODY
    page = write_recipe(tmp_path / "p", recipe_text(sources=[upstream.base + "/page/f.html"]))
    run_tool("pkggen", "hash", page, env=env)
    assert fetch(env, url, upstream.base + "/good/f").returncode == 0


def test_urls_as_people_write_them(tmp_path, env, upstream):
    """A scheme in capitals; letters that HTTP doesn't have."""
    upstream.files["ünï"] = BODY
    url = f"HTTPS{upstream.base[5:]}/good/ünï?ä=%C3%A4"
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[url], sha256={"ünï": GOOD}))
    assert input_files(folder, env) == {"src/ünï": BODY}
    assert upstream.asked[0][0] == "/good/%C3%BCn%C3%AF?%C3%A4=%C3%A4"
    assert pkggen.ascii_url("https://bücher.example:1/ä%20b?c")[0] == (
        "https://xn--bcher-kva.example:1/%C3%A4%20b?c"
    )
    assert pkggen.ascii_url("file:///a%20b")[0] == "file:///a%20b"
    url = f"{upstream.base}/good/ünï#sha256=x/y"
    folder = write_recipe(tmp_path / "fragment", recipe_text(sources=[url], sha256={"ünï": GOOD}))
    assert input_files(folder, {**env, "SOURCES": tmp_path / "more"}) == {"src/ünï": BODY}


def test_two_sources_of_one_file_name(tmp_path, env, upstream):
    """The later one is 2-NAME, with that name's hash, also of its mirrors; a given name helps."""
    upstream.files["1/f"], upstream.files["2/f"], upstream.files["3/f"] = BODY, OTHER, b"third"
    urls = [f"{upstream.base}/good/{number}/f" for number in (1, 2, 3)]
    sources = [urls[0], [f"{upstream.base}/missing/f", urls[1]], urls[2], "g::" + urls[0]]
    folder = write_recipe(tmp_path / "r", recipe_text(sources=sources))
    run_tool("pkggen", "hash", folder, env=env)
    recipe = load_recipe_of(folder)
    hashes = [GOOD, sha256(OTHER), sha256(b"third"), GOOD]
    assert recipe.fields["sha256"] == dict(zip(["f", "2-f", "3-f", "g"], hashes))
    assert input_files(folder, env) == {
        "src/f": BODY, "src/2-f": OTHER, "src/3-f": b"third", "src/g": BODY
    }
    clashes = [finding.what for finding in pkggen.lint_recipe(str(folder), options())
               if "another source" in finding.what]
    assert len(clashes) == 2 and "so it is src/2-f; give it a name" in clashes[0]


def test_fetch_of_recipes(tmp_path, env, upstream):
    """By folder, by name and all below a folder; what can't be had doesn't keep back the rest."""
    for name, file in (("one", "f"), ("two", "g"), ("dead", "none")):
        sources = [f"{upstream.base}/good/{file}", f"{upstream.base}/good/a%20b%23%24c"]
        hashes = {file: {"f": GOOD}.get(file, sha256(OTHER)), "a b#$c": GOOD}
        text = recipe_text(sources=sources, sha256=hashes)
        write_recipe(tmp_path / "recipes/core" / name, text)
    for word in ("one", "recipes/core/one", "recipes/core/one/pkgen.yaml"):
        done = run_tool("pkggen", "fetch", word, cwd=tmp_path, env=env)
        assert done.stderr.endswith(f"one: 2 sources in {env['SOURCES']}\n")
        assert cached(env) == {GOOD: BODY}
    done = run_tool("pkggen", "fetch", "recipes", cwd=tmp_path, env=env, check=False)
    assert "none: no source has it: " in last_line(done)
    assert cached(env) == {GOOD: BODY, sha256(OTHER): OTHER}
    assert "no recipe makes the package on; did you mean one?" in refused(
        "fetch", "on", cwd=tmp_path, env=env
    )
    text = recipe_text(sources=[upstream.base + "/good/f"])
    write_recipe(tmp_path / "recipes/core/one", text)
    said = refused("fetch", "one", cwd=tmp_path, env=env)
    assert "no sha256; `pkggen.py hash recipes/core/one` fetches it and writes one" in said


def test_a_wrong_hash_names_the_recipe(tmp_path, env, upstream):
    text = recipe_text(sources=[upstream.base + "/good/g"], sha256={"g": GOOD})
    folder = write_recipe(tmp_path / "r", text)
    run_tool("pkggen", "fetch-mk", folder, "-o", "fetch.mk", cwd=tmp_path, env=env)
    said = make(tmp_path, "-f", "fetch.mk", env=env).stderr
    assert f"sha256 {sha256(OTHER)}, and the recipe wants {GOOD}; if upstream" in said
    assert f"`pkggen.py hash {folder}` writes its new hash" in said


def test_deb_src(tmp_path, env):
    """The host's own apt, from a mirror of Debian: as recipes/core/zlib does."""
    digest = "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1"
    good = "deb-src:zlib=1:1.2.13.dfsg-1/zlib_1.2.13.dfsg.orig.tar.bz2"
    done = fetch(env, "deb-src:no-such-package-here/f", good, digest=digest)
    assert done.returncode == 0, done.stderr
    assert [sha256(data) for data in cached(env).values()] == [digest]
    said = one_line(fetch(env, "deb-src:no-such-package-here/f"))
    assert "apt-get: Unable to find a source package for no-such-package-here" in said
    said = one_line(fetch(env, "deb-src:zlib=1:1.2.13.dfsg-1/f"))
    assert "apt has zlib_1.2.13.dfsg.orig.tar.bz2 instead" in said
    said = one_line(fetch(env, good))
    assert f"has other bytes: sha256 {digest}, and the recipe wants {GOOD}; if upstream" in said


def test_deb_src_of_another_suite(tmp_path, env, monkeypatch):
    """`hash` has what apt's signed lists of that suite say; its files are found by `new`."""
    monkeypatch.setattr(pkggen, "OUT", env["O"])
    assert pkggen.deb_src_files("trixie/bash")      # which is here in another version
    (file, _), = pkggen.deb_src_files("trixie/hello")
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[f"deb-src:trixie/hello/{file}"]))
    run_tool("pkggen", "hash", folder, env=env)
    digest = load_recipe_of(folder).sources[0].alternatives[0].sha256
    assert list(cached(env)) == [digest] and list(input_files(folder, env)) == [f"src/{file}"]
    assert (pathlib.Path(env["O"]) / "fetch").stat().st_mode & 0o777 == 0o700
    with pytest.raises(pkggen.Fail, match="nosuch Release' does not have a Release file$"):
        pkggen.deb_src_files("nosuch/hello")


FAKE_APT = r"""#!/bin/sh
case "$*" in
*indextargets*) printf 'Debian http://m.example/%s main\n' 'd s' 's s-security' ;;
*/release/*--print-uris*) echo "'$RELEASE' f 9 SHA256:$DIGEST" ;;
*/all/*--print-uris*) echo "'$ALL' f 9 SHA256:$DIGEST" ;;
*showsrc*) printf 'Package: p\nBinary: p\nVersion: 1:%s.dfsg-1\n\n' 1.9 1.10 ;;
esac
"""


@pytest.fixture
def fake_apt(tmp_path, env):
    """The environment of a machine whose apt says that f is at RELEASE, and then at ALL."""
    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "apt-cache"):
        (tmp_path / "bin" / name).write_text(FAKE_APT)
        (tmp_path / "bin" / name).chmod(0o755)
    return {**env, "PATH": f"{tmp_path}/bin:{env['PATH']}", "DIGEST": GOOD}


def test_deb_src_that_moved(fake_apt, upstream):
    """The release's own archive is asked first, then all; what comes is held to apt's hash too."""
    env = {**fake_apt, "RELEASE": upstream.base + "/missing/f", "ALL": upstream.base + "/cut/f"}
    done = fetch(env, "deb-src:p/f")
    assert done.returncode == 0 and cached(env) == {GOOD: BODY}, done.stderr
    assert [path for path, _, _ in upstream.asked] == ["/missing/f", "/cut/f", "/cut/f"]
    env = {**env, "RELEASE": upstream.base + "/good/g", "ALL": upstream.base + "/missing/g"}
    shutil.rmtree(env["SOURCES"])
    said = one_line(fetch(env, "deb-src:p/f"))
    assert f"deb-src:p/f: {upstream.base}/missing/g: 404 Not Found" in said
    assert cached(env) == {}


# ---- attacks on what is fetched ------------------------------------------------------------------


def test_s41_nothing_with_a_newline_reaches_a_makefile(tmp_path):
    """The quoting functions are the last wall; here a folder above the recipe bears the attack."""
    for text in ("a\nall:\n\ttouch pwned", "a\rb", "a\0b"):
        with pytest.raises(pkggen.Fail, match="can't stand in a makefile"):
            pkggen.quote_command(["fetch", text])
        with pytest.raises(pkggen.Fail, match="can't stand in a makefile"):
            pkggen.failing_rule(text, "x")
        assert pkggen.plain_name(text).isprintable()
    text = recipe_text(sources=["https://example.org/f"], sha256={"f": GOOD})
    write_recipe(tmp_path / "a\nall:\n\ttouch pwned\n\t/r", text)
    folder, = tmp_path.iterdir()
    said = refused("fetch-mk", folder / "r", "-o", "x", cwd=tmp_path)
    assert "a control character in its path" in said
    assert not (tmp_path / "x").exists()


def test_s47_https_never_leads_to_http(tmp_path, env, upstream, proxy):
    """In fetch, hash and new; the other server is never asked."""
    upstream.elsewhere = proxy.base + "/f-1.tar.gz"
    upstream.files["f-1.tar.gz"] = BODY
    url = upstream.base + "/leaves/f-1.tar.gz"
    assert "302 it redirects from https to http://" in one_line(fetch(env, url))
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[url]))
    before = (folder / "pkgen.yaml").read_text()
    done = run_tool("pkggen", "hash", folder, env=env, check=False)
    assert "no answer for f-1.tar.gz" in last_line(done)
    assert "302 it redirects from https to http://" in done.stderr
    assert (folder / "pkgen.yaml").read_text() == before
    done = run_tool("pkggen", "new", "f", url, "-o", tmp_path / "n", env=env, check=False)
    assert last_line(done) and "it redirects from https" in done.stderr
    assert proxy.asked == [] and cached(env) == {} and not (tmp_path / "n").exists()


def test_s48_nothing_planted_in_the_cache_is_believed(tmp_path, fake_apt, upstream):
    """Old places of apt's lists and of marks; a part that is a link or a pipe."""
    env = {**fake_apt, "RELEASE": upstream.base + "/good/f", "ALL": ""}
    sources, victim = pathlib.Path(env["SOURCES"]), tmp_path / "victim"
    (sources / ".apt/release").mkdir(parents=True)
    (sources / ".apt/release/sources.list").write_text("deb-src [trusted=yes] file:/evil ./\n")
    victim.mkdir()
    host = urllib.parse.quote(upstream.base[8:], safe="")
    (victim / host).write_text("dead\n")
    (sources / ".dead").symlink_to(victim)
    assert fetch(env, "deb-src:p/f").returncode == 0
    assert (victim / host).read_text() == "dead\n"
    assert "trusted" not in (pathlib.Path(env["O"]) / "fetch/apt/release/sources.list").read_text()
    (sources / GOOD).unlink()
    os.link(victim / host, sources / f"{GOOD}.part")
    said = one_line(fetch(env, upstream.base + "/good/f"))
    assert said.endswith(f"{GOOD}.part: not a file that pkggen made; remove it")
    assert (victim / host).read_text() == "dead\n"
    (sources / f"{GOOD}.part").unlink()
    os.mkfifo(sources / f"{GOOD}.part")
    assert "not a file that pkggen made" in one_line(fetch(env, upstream.base + "/good/f"))


@pytest.mark.parametrize("attack", ["mode", "owner", "link"])
def test_s48_a_folder_of_others_in_place_of_ours(tmp_path, env, upstream, attack):
    """What is in O/fetch is believed, so it is ours alone."""
    ours = pathlib.Path(env["O"]) / "fetch"
    ours.parent.mkdir()
    if attack == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        ours.symlink_to(tmp_path / "theirs")
    else:
        ours.mkdir()
        ours.chmod(0o777 if attack == "mode" else 0o700)
        if attack == "owner":
            os.chown(ours, 65534, 65534)
    said = one_line(fetch(env, upstream.base + "/good/f"))
    assert f"{ours}: not a directory that is this user's alone; remove it" in said
    assert upstream.asked == []


def test_s49_locks_are_this_user_s_alone(env, upstream):
    """Also where the file is there; what was fetched is for all."""
    part = pathlib.Path(env["SOURCES"]) / f"{GOOD}.part"
    part.parent.mkdir()
    part.write_bytes(BODY[:1000])
    part.chmod(0o644)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        run = pool.submit(fetch, env, upstream.base + "/slow/f")
        wait_until(lambda: upstream.asked, what="request")
        assert part.stat().st_mode & 0o777 == 0o600
        upstream.gate.set()
        assert run.result().returncode == 0
    assert (part.parent / GOOD).stat().st_mode & 0o777 == 0o644


def test_s49_who_waits_says_for_whom(tmp_path, env, upstream):
    part = pathlib.Path(env["SOURCES"]) / f"{GOOD}.part"
    part.parent.mkdir()
    url = upstream.base + "/good/f"
    command = [sys.executable, ROOT / "pkggen.py", "fetch", url, "--sha256", GOOD]
    with open(part, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert select.select([process.stderr], [], [], 20)[0]
        said = process.stderr.readline()
    assert said == f"fetch   f: waiting for process {os.getpid()}, which has {part}\n"
    assert process.wait(30) == 0 and cached(env) == {GOOD: BODY}
    process.stderr.close()


def test_s52_a_password_is_netrc_s_and_shown_to_nobody(tmp_path, fake_apt, upstream):
    """It goes to its own host, not on with a redirect, and not into what is said."""
    (tmp_path / ".netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    env = {**fake_apt, "HOME": str(tmp_path)}
    assert "401 " in one_line(fetch({**env, "HOME": "/nowhere"}, upstream.base + "/locked/f"))
    assert fetch(env, upstream.base + "/locked/f").returncode == 0
    assert upstream.logins == [None]
    shutil.rmtree(env["SOURCES"])
    place = upstream.base.replace("https://", "https://me:secret@")
    env = {**env, "HOME": "/nowhere", "RELEASE": place + "/missing/f", "ALL": place + "/locked/f"}
    assert fetch(env, "deb-src:p/f").returncode == 0
    said = one_line(fetch({**env, "ALL": place + "/missing/f"}, "deb-src:p/f", digest="0" * 64))
    env["DIGEST"] = "0" * 64
    said += one_line(fetch({**env, "ALL": place + "/missing/f"}, "deb-src:p/f", digest="0" * 64))
    assert f"{upstream.base}/missing/f: 404" in said and "secret" not in said
    upstream.elsewhere = "http://me:secret@localhost/"
    shutil.rmtree(env["SOURCES"])
    said = one_line(fetch(env, upstream.base + "/leaves/f"))
    assert "https to http://localhost/" in said and "secret" not in said


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_s52_a_rewritten_file_keeps_its_mode(tmp_path, env, upstream, mode):
    """With hash and with -o, whatever the umask is."""
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[upstream.base + "/good/f"]))
    files = [folder / "pkgen.yaml", tmp_path / "x"]
    files[1].write_text("")
    for path in files:
        path.chmod(mode)
        os.chown(path, 65534, 65534)
    run_tool("pkggen", "hash", folder, env=env)
    run_tool("pkggen", "script", folder, "-o", files[1])
    assert [path.stat().st_mode & 0o7777 for path in files] == [mode, mode]
    assert [path.stat().st_uid for path in files] == [65534, 65534]


# ---- hash ----------------------------------------------------------------------------------------

HASHED = """\
# A recipe with comments   and layout.
packages: {{p: }}   # one
version: "1"

sources:
   - [ "{base}/good/f" , "{base}/good/g" ]
   - {base}/good/a%20b%23%24c
   - file:patch
{map}# The script: \x20
script:
- "true"   # ünïcode
- "true # \u2028  and a line's end of YAML's own"
{end}"""


def hashed(tmp_path, env, base, text, end=""):
    folder = write_recipe(tmp_path / "r", HASHED.format(base=base, map=text, end=end))
    (folder / "patch").write_text("x")
    done = run_tool("pkggen", "hash", folder, env=env)
    assert done.stderr.endswith("pkgen.yaml: 3 written\n"), done.stderr
    return (folder / "pkgen.yaml").read_bytes().decode()


@pytest.mark.parametrize("end", ["", "# no newline", "\n\n"])
def test_hash_makes_the_map(tmp_path, env, upstream, end):
    text = hashed(tmp_path, env, upstream.base, "", end)
    lines = f'sha256:\n  f: {GOOD}\n  g: {sha256(OTHER)}\n  "a b#$c": {GOOD}\n'
    assert text == HASHED.format(base=upstream.base, map=lines, end=end)
    recipe = pkggen.load_recipe(str(tmp_path / "r"), options())
    found = [alternative.sha256 for alternative in recipe.sources[0].alternatives]
    assert found == [GOOD, sha256(OTHER)]
    assert set(cached(env)) == {GOOD, sha256(OTHER)}
    again = run_tool("pkggen", "hash", tmp_path / "r", env=env)
    assert again.returncode == 0
    assert (tmp_path / "r/pkgen.yaml").read_bytes().decode() == text


def test_hash_changes_nothing_else(tmp_path, env, upstream):
    before = """\
sha256:  # of the sources
    # the tarball
    f:   {f}   # fetched by hand
    old: {old}

    'a b#$c': "{c}"
    g:{g}
"""
    given = {"f": "1" * 64, "c": "2" * 64, "old": "3" * 64, "g": "  # to do"}
    text = hashed(tmp_path, env, upstream.base, before.format(**given))
    expected = before.replace('"{c}"', "{c}").replace("    old: {old}\n", "").format(
        f=GOOD, c=GOOD, g=f" {sha256(OTHER)}  # to do"
    )
    assert text == HASHED.format(base=upstream.base, map=expected, end="")


def test_hash_keeps_the_ends_of_lines_and_the_mode(tmp_path, env, upstream):
    text = f"packages: {{p: }}\nversion: 1\nsources: [{upstream.base}/good/f]\nsha256:\n  f:\n"
    text = text.replace("\n", "\r\n")
    folder = write_recipe(tmp_path / "r", text)
    (folder / "pkgen.yaml").chmod(0o640)
    run_tool("pkggen", "hash", folder, env=env)
    assert (folder / "pkgen.yaml").read_bytes().decode() == text.replace("  f:", f"  f: {GOOD}")
    assert (folder / "pkgen.yaml").stat().st_mode & 0o777 == 0o640


def test_hash_at_the_end_of_a_file_without_newline(tmp_path, env, upstream):
    text = f"packages: {{p: }}\nversion: 1\nsources: [{upstream.base}/good/f]"
    folder = write_recipe(tmp_path / "r", text)
    run_tool("pkggen", "hash", folder, env=env)
    assert (folder / "pkgen.yaml").read_text() == f"{text}\nsha256:\n  f: {GOOD}"


@pytest.mark.parametrize(
    "before, after",
    [
        ("sha256: {f: }", "sha256:\n  f: HASH"),
        ("sha256: { g: '' , \n }", "sha256:\n  f: HASH"),
        ("sha256: {}  # x", "sha256:  # x\n  f: HASH"),
        ("sha256: ~  # x\n# y", "sha256:  # x\n  f: HASH\n# y"),
        ("sha256:\n# x\n\n      # y", "sha256:\n  f: HASH\n# x\n\n      # y"),
        ("sha256:\n    # x\n    'f' :   'OLD' # y", "sha256:\n    # x\n    'f' :   HASH # y"),
        ('"sha256":\n    g: ~ # x\n    # y', '"sha256":\n    f: HASH\n    # y'),
        ("sha256:\n   g: OLD\n   f: OLD\n   h: ~", "sha256:\n   f: HASH"),
        ("sha256:\n  # f: 00", "sha256:\n  f: HASH\n  # f: 00"),
        ("data: {ü: \U0001f600}", "sha256:\n  f: HASH\ndata: {ü: \U0001f600}"),
        ("# x\n'script': []", "sha256:\n  f: HASH\n# x\n'script': []"),
        ("summary: |\n  script:\n  x", "sha256:\n  f: HASH\nsummary: |\n  script:\n  x"),
        ("mirrors:\n- BASE/x # x\n# y", "mirrors:\n- BASE/x # x\nsha256:\n  f: HASH\n# y"),
        ("sha256:\n  ? f\n  : ''", "sha256:\n  ? f\n  : HASH"),
        ("sha256:\n  f: !!str ''", "sha256:\n  f: HASH"),
        ("sha256:\n  f:  # x\n    ''", "sha256:\n  f:  # x\n    HASH"),
        ("sha256:\n  'f':\n   ''\n  g:\n   ''", "sha256:\n  'f':\n   HASH"),
        ("...", "sha256:\n  f: HASH\n..."),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_hash_keeps_the_layout(tmp_path, env, upstream, newline, before, after):
    head = f"packages: {{p: }}\nversion: 1\nsources: [{upstream.base}/good/f]\n"
    texts = [(head + text + "\n").replace("OLD", "0" * 64).replace("BASE", upstream.base)
             .replace("\n", newline) for text in (before, after)]
    folder = write_recipe(tmp_path / "r", texts[0])
    pathlib.Path(env["SOURCES"]).mkdir()
    run_tool("pkggen", "hash", folder, env=env)
    assert (folder / "pkgen.yaml").read_bytes().decode() == texts[1].replace("HASH", GOOD)
    assert pkggen.load_recipe(str(folder), options()).sources[0].alternatives[0].sha256 == GOOD


def test_hash_takes_a_byte_order_mark_away(tmp_path, env, upstream):
    text = f"packages: {{p: }}\nversion: 1\nsources: [{upstream.base}/good/f]\nsha256:\n  f: ''\n"
    folder = write_recipe(tmp_path / "r", "\ufeff" + text)
    run_tool("pkggen", "hash", folder, env=env)
    assert (folder / "pkgen.yaml").read_text() == text.replace("''", GOOD)


@pytest.mark.parametrize("form", [
    "HEAD\nsha256: {  # x\n  f: ''}\n",
    '{"packages": {"p": null}, "version": 1, "sources": ["BASE/good/f"]}\n',
])
def test_hash_without_a_place(tmp_path, env, upstream, form):
    text = form.replace("HEAD", "packages: {p: }\nversion: 1\nsources: [BASE/good/f]")
    text = text.replace("BASE", upstream.base)
    folder = write_recipe(tmp_path / "r", text)
    done = run_tool("pkggen", "hash", folder, env=env, check=False)
    assert "no place for the hashes" in last_line(done)
    assert (folder / "pkgen.yaml").read_text() == text


def test_hash_of_what_nobody_has(tmp_path, env, upstream):
    """One place of two is enough; with none nothing is written."""
    sources = [[f"{upstream.base}/missing/f", f"{upstream.base}/good/f"]]
    folder = write_recipe(tmp_path / "r", recipe_text(sources=sources))
    run_tool("pkggen", "hash", folder, env=env)
    assert pkggen.load_recipe(str(folder), options()).sources[0].alternatives[0].sha256 == GOOD
    text = recipe_text(sources=[*sources, f"{upstream.base}/missing/h"])
    write_recipe(folder, text)
    done = run_tool("pkggen", "hash", folder, env=env, check=False)
    assert last_line(done).endswith("no answer for h; the other hashes are written")
    assert (folder / "pkgen.yaml").read_text() == f"{text}sha256:\n  f: {GOOD}\n"
    assert [name for name in cached(env) if name != GOOD] == []


def test_hash_of_all_below_a_folder(tmp_path, env, upstream):
    """Each URL is asked once; a recipe that can't be read or fetched doesn't keep back the rest."""
    for name, file in (("a", "g"), ("b", "none"), ("d", "f")):
        sources = [upstream.base + "/good/f?x", f"{upstream.base}/good/{file}"]
        write_recipe(tmp_path / "recipes" / name, recipe_text(sources=sources))
    write_recipe(tmp_path / "recipes/c", "packages: {c: }\nvresion: 1\n")
    done = run_tool("pkggen", "hash", tmp_path / "recipes", env=env, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert f"hash    {upstream.base}/good/none: 404 Not Found" in said
    assert said[-2].endswith("b/pkgen.yaml: no answer for none; the other hashes are written")
    assert "c/pkgen.yaml:2:1: unknown key vresion" in said[-1]
    assert upstream.sent("/good/f?x") == [len(BODY)] and upstream.sent("/good/g") == [len(OTHER)]
    hashes = {name: load_recipe_of(tmp_path / "recipes" / name).fields["sha256"] for name in "abd"}
    assert hashes == {"a": {"f": GOOD, "g": sha256(OTHER)}, "b": {"f": GOOD},
                      "d": {"f": GOOD, "2-f": GOOD}}


def test_hash_keeps_the_hash_of_what_is_not_there_now(tmp_path, env, upstream):
    """A dead alternative has its old one; the rest is new, and names with the same bytes share."""
    sources = [[upstream.base + "/good/f", upstream.base + "/missing/h",
                upstream.base + "/good/a%20b%23%24c"]]
    given = {"f": "1" * 64, "h": "2" * 64, "gone": "3" * 64}
    folder = write_recipe(tmp_path / "r", recipe_text(sources=sources, sha256=given))
    done = run_tool("pkggen", "hash", folder, env=env)
    assert f"hash    {upstream.base}/missing/h: 404 Not Found" in done.stderr
    hashes = load_recipe_of(folder).fields["sha256"]
    assert hashes == {"f": GOOD, "h": "2" * 64, "a b#$c": GOOD}


def test_hash_of_a_hash_in_the_url(tmp_path, env, upstream):
    """It stays, for there it counts, and that is said."""
    text = recipe_text(sources=[f"{upstream.base}/good/f?sha256sum={'1' * 64}"], sha256={"f": GOOD})
    folder = write_recipe(tmp_path / "r", text)
    said = run_tool("pkggen", "hash", folder, env=env).stderr
    assert f"hash    {upstream.base}/good/f: its hash is in its URL; change it there\n" in said
    recipe = load_recipe_of(folder)
    assert recipe.sources[0].alternatives[0].sha256 == "1" * 64 and recipe.fields["sha256"] == {}
    assert upstream.asked == []


def test_hash_of_another_version(tmp_path, env, upstream):
    upstream.files["f-1.3.tar"] = BODY
    text = ('# x\nversion: "1.2"   # y\npackages: {p: }\nbuild: 7\n'
            f"sources: ['{upstream.base}/good/f-{{{{.Version}}}}.tar']\n"
            "sha256:\n  f-1.2.tar: OLD\n")
    text = text.replace("OLD", "1" * 64)
    folder = write_recipe(tmp_path / "r", text)
    for version, message in (("1.4", "no answer for f-1.4.tar; the version stays"),
                             ("1/2", ":2:10: version '1/2'; use letters")):
        command = ["hash", "--version", version, folder]
        assert message in last_line(run_tool("pkggen", *command, env=env, check=False))
        assert (folder / "pkgen.yaml").read_text() == text
    run_tool("pkggen", "hash", "--version", "1.3", folder, env=env)
    expected = text.replace('"1.2"', "1.3").replace("build: 7", "build: 0")
    assert (folder / "pkgen.yaml").read_text() == expected.replace(
        f"f-1.2.tar: {'1' * 64}", f"f-1.3.tar: {GOOD}"
    )
    assert "name that alone" in refused("hash", "--version", "1", folder, folder, env=env)


def test_s45_hash_writes_through_no_link(tmp_path, env, upstream):
    text = recipe_text(sources=[upstream.base + "/good/f"])
    (tmp_path / "precious.yaml").write_text(text)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/pkgen.yaml").symlink_to(tmp_path / "precious.yaml")
    assert "pkgen.yaml: a link, and what it leads to is not changed" in refused(
        "hash", tmp_path / "r", env=env
    )
    assert (tmp_path / "precious.yaml").read_text() == text
    assert (tmp_path / "r/pkgen.yaml").is_symlink() and upstream.asked == []


# ---- outdated ------------------------------------------------------------------------------------


def test_outdated(tmp_path, fake_apt, upstream):
    """apt's and upstream's newest; what can't be asked is a - and a line of its own."""
    upstream.files[""] = b"""<a href="p-1.9.tar.gz">x</a> <A HREF='/good/p-1.10.tar.xz'>
        <a href=p-1.11rc1.tar.gz> <a href="p-1.10.tar.gz.asc"> <a href="q-3.tar.gz">
        <a href=2.0/>"""
    urls = {"p": "/good/p-1.2.tar.gz", "dirs": "/good/1.2/q.zip", "dead": "/missing/x-1.2.tar.gz"}
    for name, path in urls.items():
        text = recipe_text(version="1.2", sources=[upstream.base + path])
        write_recipe(tmp_path / "recipes" / name, text)
    write_recipe(tmp_path / "recipes/own", recipe_text(sources=["file:x"]))
    (tmp_path / "recipes/own/x").write_text("x")
    done = run_tool("pkggen", "outdated", cwd=tmp_path, env=fake_apt)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["NAME", "VERSION", "APT", "UPSTREAM"], ["dead", "1.2", "-", "-"],
        ["dirs", "1.2", "-", "2.0"], ["own", "1", "-", "-"], ["p", "1.2", "1.10", "1.10"],
    ]
    assert done.stderr == f"outdated: dead: {upstream.base}/missing/: 404 Not Found\n"
    done = run_tool("pkggen", "outdated", tmp_path / "recipes/p", env={**fake_apt, "PATH": "/none"})
    assert done.stdout.splitlines()[1].split() == ["p", "1.2", "-", "1.10"]
    assert done.stderr == "outdated: apt: there is no apt-get on this machine; install it\n"


def test_versions_are_ordered_as_dpkg_orders_them():
    dice = random.Random(3)
    for _ in range(300):
        pair = ["1" + "".join(dice.choices("019.~+-azA", k=dice.randrange(5))) for _ in "ab"]
        command = ["dpkg", "--compare-versions", pair[0], "lt", pair[1]]
        less = subprocess.run(command).returncode == 0
        keys = [pkggen.version_key(version) for version in pair]
        if "-" not in "".join(pair):        # which parts upstream's version from Debian's
            assert (keys[0] < keys[1]) == less, pair


# ==== A world of recipes ==========================================================================

# RUN of these tests: pkggen's own command, in a folder of its own instead of a container (the real
# container is test_world.py's). It notes what was built, and its process group for RUN_STOP.
BUILDER = r"""#!/bin/sh
place=$(mktemp -d "$PLACES/XXXXXX") || exit 125
trap 'rm -rf "$place"' EXIT
trap 'exit 143' TERM
echo "${BUILD%-*}" | sed 's/^panux-//' >>"$PLACES/built"
echo $$ >"$PLACES/$BUILD.pid"
sh -c "$(printf '%s\n' "$3" | sed "s|/build|$place/build|g; s|/sysroot|$place/sysroot|g")"
"""
STOP = 'echo "$BUILD" >>"$PLACES/stopped"; kill -- -"$(cat "$PLACES/$BUILD.pid")"'


class World:
    """A tree of recipes in a temporary folder, and what make says of it."""

    def __init__(self, folder, env):
        self.folder = folder
        self.places = folder / "places"
        self.places.mkdir()
        builder = folder / "builder"
        builder.write_text(BUILDER)
        builder.chmod(0o755)
        self.env = {**env, "RUN": str(builder), "RUN_STOP": STOP, "PLACES": str(self.places)}
        self.out = folder / "o"

    def recipe(self, name, needs=(), script=(), **fields):
        """A recipe with a package of its name, unless FIELDS say others; each holds /PACKAGE."""
        packages = fields.pop("packages", {name: None})
        script = [*script, *(f"echo {one} >out/{one}/{one}" for one in packages)]
        given = {"builddependencies": list(needs), "script": script}
        text = recipe_text(packages=packages, **{**given, **fields})
        return write_recipe(self.folder / "recipes" / name, text)

    def world_mk(self, *arguments):
        arguments = ["recipes", "-o", "world.mk", *arguments]
        done = run_tool("pkggen", "world-mk", *arguments, cwd=self.folder, env=self.env)
        return done.stderr

    def make(self, *arguments, status=0):
        """Write world.mk anew and run it, as `make world` does; give stderr and what was built."""
        self.world_mk()
        (self.places / "built").write_text("")
        done = make(self.folder, "-k", "-f", "world.mk", *arguments, env=self.env)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr, (self.places / "built").read_text().split()

    def packages(self):
        folder = self.out / "repo/x86_64"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def content(self, package, path):
        """The content of a file of a built package."""
        with tarfile.open(self.out / f"repo/x86_64/{package}-1-0.x86_64.lpkg") as tar:
            return tar.extractfile(path).read().decode()

    def temporary_files(self):
        """What lies below $O and in the builder's places that no finished build leaves there."""
        lasting = re.compile(r".*(\.built|\.lock|\.log|\.lpkg)")
        files = [path for path in self.out.rglob("*") if path.is_file()]
        left = [str(path) for path in files if not lasting.fullmatch(path.name)]
        return left + [str(path) for path in self.places.iterdir() if path.is_dir()]


@pytest.fixture
def world(tmp_path, env):
    return World(tmp_path, env)


def test_world_order_and_second_run(world):
    world.recipe("c", ["b", "make", "gcc"], ["test -f /sysroot/b", "test -f /sysroot/a-data"])
    world.recipe("b", ["a"], ["test -f /sysroot/a"], packages={"b": {"dependencies": ["a-data"]}})
    world.recipe("a", packages={"a": None, "a-data": None}, script=["echo >out/a-data/a-data"])
    world.recipe("z", ["c>=1"])
    for path in (world.folder / "recipes").rglob("pkgen.yaml"):
        path.write_text(path.read_text().replace("/sysroot", "../sysroot"))
    said = world.world_mk()
    assert said == "world   4 of 4 recipes to build or to look at, at most 0 sources to fetch\n"
    assert world.make("-j2")[1] == ["a", "b", "c", "z"]
    names = ["a-1-0", "a-data-1-0", "b-1-0", "c-1-0", "z-1-0"]
    assert world.packages() == [f"{name}.x86_64.lpkg" for name in names]
    assert world.temporary_files() == []
    assert world.world_mk() == "world   nothing to be done: 4 recipes, 5 packages are up to date\n"
    assert "\t@" not in (world.folder / "world.mk").read_text()
    assert world.make() == ("", [])
    done = run_tool("pkggen", "build", "recipes/c", cwd=world.folder, env=world.env)
    assert done.stderr == "build   c 1-0: up to date\n"


@pytest.mark.parametrize("size", range(0, 10240, 512))
def test_a_builds_tar_is_whole_wherever_its_last_record_begins(tmp_path, size):
    (tmp_path / "out").write_bytes(b"x" * size)
    (tmp_path / ".status").write_text("0\n")
    for names, whole in ((["out", ".status"], True), (["out"], False)):
        with open(tmp_path / "tar", "w+b") as file:
            subprocess.run(["tar", "-cf", "-", *names], cwd=tmp_path, stdout=file, check=True)
            assert pkggen.is_whole(file) is whole


def test_rebuild(world):
    """Packages of other people's, or one's own, are built again aside and compared, by the same
    cross compiler if it was one."""
    world.env["HOSTARCH"] = "aarch64"
    world.recipe("a", script=["echo {{hostarch}} >out/a/host"],
                 packages={"a": None, "a-data": None})
    world.recipe("b", ["a"], ["pwd >out/b/place"])
    world.make()
    before = {path: path.read_bytes() for path in world.out.rglob("*") if path.suffix != ".log"
              and path.is_file()}

    def rebuild(*names, status=1):
        paths = [f"o/repo/x86_64/{name}-1-0.x86_64.lpkg" for name in names]
        done = run_tool("pkggen", "rebuild", *paths, cwd=world.folder, env=world.env, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout, done.stderr

    assert rebuild("a", "a-data", status=0)[0] == (
        "a-1-0.x86_64.lpkg: equal\na-data-1-0.x86_64.lpkg: equal\n")
    said, problem = rebuild("b", "a")
    assert said == ("b-1-0.x86_64.lpkg: these differ: .lpkg/record, place\n"
                    "a-1-0.x86_64.lpkg: equal\n")
    assert problem.endswith("not every package has the bytes that its recipe gives here\n")
    assert before == {path: path.read_bytes() for path in before}
    world.recipe("a")
    assert rebuild("a-data")[1] == "pkggen: recipes: no recipe makes the package a-data\n"
    world.recipe("a", version="2")
    assert rebuild("a")[1] == (
        "pkggen: o/repo/x86_64/a-1-0.x86_64.lpkg: 1-0 for x86_64, and recipes/a/pkgen.yaml makes "
        "2-0 for x86_64\n")
    (world.out / "repo/x86_64/a-1-0.x86_64.lpkg").write_text("no tar\n")
    assert rebuild("a")[1] == ("pkggen: o/repo/x86_64/a-1-0.x86_64.lpkg: not a package; name files "
                               "that end in .lpkg\n")
    assert world.temporary_files() == []


def test_world_of_one_package(world):
    world.recipe("a", packages={"a": {"dependencies": ["d"]}})
    world.recipe("b", ["a"])
    world.recipe("c")
    world.recipe("d")
    assert sorted(world.make("package/b")[1]) == ["a", "b", "d"]
    assert world.make("package/b")[1] == []
    assert world.packages() == [f"{name}-1-0.x86_64.lpkg" for name in "abd"]


def test_early_cutoff(world):
    """A patch that changes nothing in the package: what needs it is looked at, and not built."""
    folder = world.recipe("a", script=["cat src/patch >/dev/null"], sources=["file:patch"])
    (folder / "patch").write_text("one")
    world.recipe("b", ["a"])
    world.recipe("c", ["b"])
    world.recipe("d")
    assert sorted(world.make()[1]) == ["a", "b", "c", "d"]
    before = {path: path.stat().st_mtime_ns for path in (world.out / "repo").rglob("*.lpkg")}
    (folder / "patch").write_text("two")
    said, built = world.make()
    assert built == ["a"]
    assert "the same bytes as before" in said
    assert re.findall("^build   (.) 1-0: up to date", said, re.MULTILINE) == ["b", "c"]
    assert world.make() == ("", [])
    assert {path: path.stat().st_mtime_ns for path in before if path.name[0] != "a"} == {
        path: when for path, when in before.items() if path.name[0] != "a"
    }


def test_a_changed_patch_rebuilds_what_truly_changes(world):
    """b copies from a, c doesn't copy from b: a and b are built, c is not."""
    folder = world.recipe("a", script=["cp src/patch out/a/f"], sources=["file:patch"])
    (folder / "patch").write_text("one")
    world.recipe("b", ["a"], ["cp ../sysroot/f out/b"])
    world.recipe("c", ["b"], ["touch out/c/f"])
    world.recipe("d", ["c"])
    world.make()
    (folder / "patch").write_text("two")
    assert world.make()[1] == ["a", "b", "c"]
    (folder / "patch").write_text("two")
    assert world.make()[1] == []


def test_modes_of_files_are_the_same_for_every_umask(world):
    folder = world.recipe("a", script=["ls -l src >out/a/modes"], sources=["file:f", "file:g"])
    (folder / "f").write_text("x")
    (folder / "g").write_text("x")
    (folder / "f").chmod(0o600)
    (folder / "g").chmod(0o700)
    world.make()
    (folder / "f").chmod(0o664)
    (folder / "g").chmod(0o775)
    assert world.make()[1] == []
    (folder / "g").chmod(0o644)
    assert world.make()[1] == ["a"]


@pytest.mark.parametrize("change", ["script", "metadata", "builder", "package", "mode"])
def test_what_makes_a_recipe_stale(world, change):
    folder = world.recipe("a", script=["true"], sources=["file:f"])
    (folder / "f").write_text("#!/bin/sh\n")
    world.recipe("b")
    world.make()
    if change == "script":
        world.recipe("a", script=["true", "true"], sources=["file:f"])
    elif change == "metadata":
        world.recipe("a", script=["true"], sources=["file:f"], summary="new")
    elif change == "builder":
        (world.out / "x86_64/mk/builder").write_text("image\nhash\n")
    elif change == "package":
        (world.out / "repo/x86_64/a-1-0.x86_64.lpkg").unlink()
    else:
        (folder / "f").chmod(0o755)
    assert sorted(world.make()[1]) == (["a", "b"] if change == "builder" else ["a"])
    assert world.make()[1] == []


def test_a_new_version_replaces_the_package(world):
    world.recipe("a")
    world.make()
    world.recipe("a", version="2")
    world.make()
    assert world.packages() == ["a-2-0.x86_64.lpkg"]


def test_a_dependency_rebuilt_by_hand_is_checked(world):
    """A package in the repository that is not the one that was built goes into no sysroot."""
    world.recipe("a")
    world.make()
    path = world.out / "repo/x86_64/a-1-0.x86_64.lpkg"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    world.recipe("b", ["a"])
    said, built = world.make(status=2)
    line = f"pkggen: {path}: not the file that was built; remove it, and a is built again\n"
    assert line in said
    assert built == []
    path.unlink()
    assert world.make()[1] == ["a", "b"]


WAY_OUT = "one of them has to go, or one of the recipes needs `builder: bootstrap`"


def told(world, *arguments):
    """What world-mk says: the lines on why something can't be built, and the others."""
    lines = world.world_mk(*arguments).splitlines()
    assert all(line.startswith("world   ") for line in lines), lines
    lines = [line[len("world   "):] for line in lines]
    reasons = [line for line in lines if line[0] == " "]
    return [line[2:] for line in reasons], [line for line in lines if line not in reasons]


def test_problems_of_a_tree(world):
    """Each is told once, by world-mk, and every recipe that has none is built."""
    world.recipe("good")
    world.recipe("after", ["good"])
    world.recipe("x", ["y"])
    world.recipe("y", ["w"])
    world.recipe("w", ["x", "good"])
    world.recipe("behind", ["y"])
    world.recipe("self", ["self"])
    world.recipe("lost", ["afterr", "nowhere"])
    world.recipe("lost2", packages={"lost2": {"dependencies": ["nowhere", "!absent"]}})
    world.recipe("one", packages={"one": None, "both": None})
    world.recipe("two", packages={"two": None, "both": None})
    world.recipe("user", ["both"])
    world.recipe("needs-lost", ["lost"])
    world.recipe("broken", scripts=["x"])
    world.recipe("needs-broken", ["broken"])
    write_recipe(world.folder / "recipes/utf", b"\xff")
    world.recipe("a b;touch pwned:$(touch pwned)", packages={"odd": None})
    world.recipe("other", arch=["riscv64"])
    problems, rest = told(world)
    place = "recipes/"
    cycle = "build dependencies in a cycle: "
    odd = "a b;touch pwned:$(touch pwned)"
    assert problems == [
        "2 names no recipe makes: nowhere (2 recipes), afterr (1 recipe)",
        f"{place}{odd}: {odd!r} can't be a recipe's name; use letters, digits and + . _ -",
        f"{place}broken/pkgen.yaml:5:1: unknown key scripts in the recipe; did you mean script?",
        f"{place}one/pkgen.yaml: recipes/two/pkgen.yaml makes both too",
        f"{place}self/pkgen.yaml: {cycle}self -> self; {WAY_OUT}",
        f"{place}two/pkgen.yaml: recipes/one/pkgen.yaml makes both too",
        f"{place}utf/pkgen.yaml:1: a byte that is not UTF-8; save the recipe as UTF-8",
        f"{place}w/pkgen.yaml: {cycle}w -> x -> y -> w; {WAY_OUT}",
    ]
    assert rest == [
        "9 recipes can't be built, nor what needs them (6 recipes):",
        "2 of 2 recipes to build or to look at, at most 0 sources to fetch",
    ]
    said, built = world.make(status=2)
    assert sorted(built) == ["after", "good"]
    lines = [line for line in said.splitlines() if line.startswith("pkggen: ")]
    why = "`pkggen.py world-mk recipes` says why"
    assert lines == [f"pkggen: 9 recipes can't be built; {why}"]
    # Nothing is left to build, so nothing need be started for it.
    world.world_mk()
    assert make(world.folder, "-q", "-f", "world.mk", "buildable", env=world.env).returncode == 0
    assert make(world.folder, "-q", "-f", "world.mk", env=world.env).returncode == 1
    # A target that is asked for by name says it itself, with every missing name.
    said, built = world.make("package/needs-lost", status=2)
    line = f"pkggen: {place}lost/pkgen.yaml: no recipe makes the build dependency afterr"
    assert f"{line}; did you mean after?, the build dependency nowhere\n" in said and built == []
    said, _ = world.make("package/needs-broken", status=2)
    assert "recipes/broken/pkgen.yaml:5:1: unknown key scripts" in said
    assert not list(world.folder.rglob("pwned"))


def test_problems_are_few_lines(world):
    """Of a tree that is mostly broken; the rest is named, and one verb says why."""
    for number in range(20):
        world.recipe(f"a{number:02}", [f"n{number}", "common"])
        world.recipe(f"b{number:02}", scripts=["x"])
        world.recipe(f"c{number:02}", sources=["https://example.org/1", "https://example.org/2"])
    problems, rest = told(world)
    names = "21 names no recipe makes: common (20 recipes), n0 (1 recipe), n1 "
    assert problems[0].startswith(names)
    assert problems[0].endswith(", 9 more")
    assert problems[1].startswith("40 sources in 20 recipes without sha256; ")
    assert len(problems) == 11 and problems[2].startswith("recipes/b00/pkgen.yaml:5:1: ")
    names = " ".join(f"b{number:02}" for number in range(8, 20))
    assert problems[-1] == f"and what `pkggen.py why recipes NAME` says of: {names}"
    assert rest[0] == "60 recipes can't be built:"
    assert "b19: it can't be built: recipes/b19/pkgen.yaml:5:1: unknown" in why(world, "b19")[0]
    done = make(world.folder, "-k", "-f", "world.mk", env=world.env)
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3, done.stderr


def test_s51_two_recipes_with_one_package_are_both_refused(world):
    world.recipe("a", packages={"a": None, "su": None})
    world.recipe("b", packages={"b": None, "su": None})
    world.recipe("c", ["su"])
    world.recipe("d")
    for target in ("all", "recipe/a", "recipe/b", "package/su", "package/c"):
        assert world.make(target, status=2)[1] == (["d"] if target == "all" else [])
    assert world.packages() == ["d-1-0.x86_64.lpkg"]


UNPRINTABLE = "x\n\ttouch pwned\nall: ;touch pwned\n"


@pytest.mark.parametrize("name", [UNPRINTABLE, "x\r", "x\x85y", "x\x1b[2J", os.fsdecode(b"x\xff")])
def test_s41_an_unprintable_directory_reaches_no_makefile(tmp_path, world, name):
    """A recipe's, a group's, and the tree's own: refused where it is, all else is built."""
    world.recipe("good")
    write_recipe(world.folder / "recipes" / name / "a", recipe_text(script=["true"]))
    write_recipe(world.folder / "recipes" / ("b" + name), recipe_text(script=["true"]))
    problems, _ = told(world)
    hint = ": a control character in its path; rename the directory"
    assert len(problems) == 2 and all(problem.endswith(hint) for problem in problems), problems
    assert world.make(status=2)[1] == ["good"]
    said = refused("script", world.folder / "recipes" / name / "a")
    assert said.endswith(hint)
    (world.folder / "recipes").rename(world.folder / name)
    run_tool("pkggen", "world-mk", name, "-o", "w.mk", cwd=world.folder, env=world.env)
    assert make(world.folder, "-f", "w.mk", env=world.env).returncode == 2
    run_tool("pkggen", "world-mk", ".", "-o", "w.mk", cwd=world.folder, env=world.env)
    assert make(world.folder, "-f", "w.mk", env=world.env).returncode == 2
    assert not list(world.folder.rglob("pwned"))


@pytest.mark.parametrize("word", ["a\nb", "a\x0bb", "a\x7f"])
def test_s41_no_control_character_is_quoted_for_make(word):
    with pytest.raises(pkggen.Fail, match="can't stand in a makefile"):
        pkggen.quote_command(["build", word])


def test_s41_a_newline_in_a_definition(world):
    world.recipe("a")
    definition = "x=\nall: ;touch pwned"
    said = refused("world-mk", "recipes", "-D", definition, cwd=world.folder, env=world.env)
    assert "can't stand in a makefile" in said


def test_s52_what_is_written_anew_keeps_its_mode(world):
    old = os.umask(0o022)
    try:
        world.recipe("a")
        world.make()
        paths = [world.folder / "world.mk", world.out / "x86_64/mk/a.built"]
        for path, mode in zip(paths, (0o600, 0o664)):
            path.chmod(mode)
        world.recipe("a", version="2")
        world.make()
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600, 0o664]


def test_world_mk_of_one_package(world):
    """It counts what that needs, and says of it alone what is wrong."""
    world.recipe("a")
    world.recipe("b", ["a"])
    world.recipe("c", ["lost"])
    world.recipe("d", ["c"])
    said = world.world_mk("--package", "b")
    assert said == "world   2 of 2 recipes to build or to look at, at most 0 sources to fetch\n"
    assert world.make("package/a")[1] == ["a"]
    done = "world   nothing to be done: 1 recipe, 1 package are up to date\n"
    assert world.world_mk("--package", "a") == done
    said = world.world_mk("--package", "b")
    assert said.startswith("world   1 of 2 recipes ")
    broken = "recipes/e/pkgen.yaml:5:1: unknown key scripts in the recipe; did you mean script?"
    refusals = {
        "d": "recipes/c/pkgen.yaml: no recipe makes the build dependency lost",
        "bb": "recipes: no recipe makes the package bb",
        "e": broken,
        "e-dev": broken,
        "f": "f: its recipe is not for x86_64; see its `arch`",
    }
    world.recipe("e", packages={"e": None, "e-dev": None}, scripts=["x"])
    world.recipe("f", arch=["riscv64"])
    for name, message in refusals.items():
        arguments = ["world-mk", "recipes", "-o", "world.mk", "--package", name]
        said = refused(*arguments, cwd=world.folder, env=world.env)
        assert said == f"pkggen: {message}"


def test_world_mk_of_several_packages(world):
    """`all` brings them alone, whatever is wrong elsewhere; names that don't exist are one line."""
    for name, needs in {"a": [], "b": ["a"], "c": [], "d": ["lost"]}.items():
        world.recipe(name, needs)
    said = world.world_mk("--package", "b", "--package", "c")
    assert said == "world   3 of 3 recipes to build or to look at, at most 0 sources to fetch\n"
    done = make(world.folder, "-k", "-f", "world.mk", env=world.env)
    assert done.returncode == 0, done.stderr
    assert (world.places / "built").read_text().split() == ["a", "b", "c"]
    arguments = ["world-mk", "recipes", "--package", "a", "--package", "nano", "--package", "cc",
                 "--package", "nano"]
    assert refused(*arguments, cwd=world.folder, env=world.env) == (
        "pkggen: recipes: no recipe for x86_64 makes nano, cc")


def test_world_mk_knows_the_services_of_packages(world):
    """Nothing is built for an image that is to start what isn't in it."""
    world.recipe("web", packages={"web": {"services": ["httpd", "getty"]}})
    world.recipe("ssh", packages={"ssh": {"services": ["sshd"]}})
    one = ["--package", "web", "--service", "getty@tty1"]
    assert world.world_mk(*one, "--service", "httpd").startswith("world   1 of 1 recipes ")
    for name, message in {
        "htpd": "no package has the service htpd; did you mean httpd?",
        "sshd": "the service sshd is in the package ssh, which is not among those asked for; "
                "add it",
    }.items():
        said = refused("world-mk", "recipes", *one, "--service", name, cwd=world.folder,
                       env=world.env)
        assert said == f"pkggen: {message}"


def test_what_is_hidden_is_no_recipe(world):
    """As a copy that a version control or an editor keeps."""
    world.recipe("a")
    shutil.copytree(world.folder / "recipes/a", world.folder / "recipes/.history/a")
    assert find(world.folder, "a") == "recipes/a\n"
    done = run_tool("pkggen", "world-mk", "recipes", cwd=world.folder, env=world.env)
    assert "world   1 of 1 recipes to build" in done.stderr and "can't" not in done.stderr


def test_two_recipes_of_one_name(world):
    world.recipe("a")
    world.recipe("b")
    shutil.copytree(world.folder / "recipes/a", world.folder / "recipes/more/a")
    line = "recipes/more/a/pkgen.yaml: a second recipe named a, beside recipes/a/pkgen.yaml"
    assert told(world)[0] == [line]
    assert world.make(status=2)[1] == ["b"]


def libc_world(world, **provides):
    """libc needs base, which needs tool; user has a script, meta none."""
    packages = {"musl": None, "musl-dev": {"dependencies": ["musl"], **provides}}
    world.recipe("musl", ["base"], ["touch out/musl-dev/libc.h"], packages=packages)
    world.recipe("base", ["tool"], packages={"base": {"dependencies": ["data"]}})
    for name in ("tool", "data"):
        world.recipe(name, script=["test ! -e ../sysroot/libc.h"])
    world.recipe("user", script=["test -e ../sysroot/libc.h", "test -e ../sysroot/musl"])
    write_recipe(world.folder / "recipes/meta", recipe_text(packages={"meta": None}))


@pytest.mark.parametrize("provides", [{}, {"provides": ["libc-dev", "musl-headers"]}])
def test_libc_need_not_be_named(world, provides):
    """Whatever libc needs itself, to build or to run, is built without it."""
    libc_world(world, **provides)
    assert sorted(world.make("-j2")[1]) == sorted("base data tool musl user meta".split())
    assert world.make() == ("", [])
    rules = (world.folder / "world.mk").read_text()
    libc = "libc-dev" if provides else "musl-dev"
    assert f"\nrecipe/user: package/{libc}\n" in rules and "\nrecipe/meta:\n" in rules
    world.recipe("user", script=["true"])
    done = run_tool("pkggen", "build", "user", cwd=world.folder, env=world.env)
    assert world.make() == ("", []), done.stderr
    world.recipe("musl", ["base"], packages={"musl": None, "musl-dev": None})
    assert world.make()[1] == ["musl", "user"]


def test_without_a_libc_nothing_is_implied(world):
    world.recipe("a")
    assert world.make()[1] == ["a"]
    assert "libc" not in (world.folder / "world.mk").read_text()


def test_one_package_by_two_names_is_in_the_sysroot_once(world):
    packages = {"p": {"provides": ["virtual", "other"]}}
    world.recipe("p", packages=packages)
    world.recipe("user", ["p", "virtual", "other>=1"], ["test -f ../sysroot/p"])
    assert world.make()[1] == ["p", "user"]
    record = json.loads((world.out / "x86_64/mk/user.built").read_text())
    assert [name for name in record["inputs"] if name.startswith("package ")] == ["package p"]
    assert world.make() == ("", [])


def test_a_failed_build(world):
    """Its last lines and its log; what depends on it waits, all else is built."""
    folder = world.recipe("a", script=["seq 1 100", "exit 3"])
    world.recipe("b", ["a"])
    world.recipe("c")
    said, built = world.make(status=2)
    assert sorted(built) == ["a", "c"]
    log = world.out / "x86_64/log/a.log"
    lines = log.read_text().splitlines()
    assert "100" in lines and "1" in lines
    shown = [line[2:] for line in said.splitlines() if line.startswith("  ")]
    assert shown[-1] == "++ script.sh:2: exit 3" and shown[-2] == "100" and len(shown) == 30
    column = (folder / "pkgen.yaml").read_text().splitlines()[-1].index('"exit 3"') + 2
    place = f"recipes/a/pkgen.yaml:4:{column}"
    assert f"pkggen: {place}: exit 3 failed (status 2); the log is {log}\n" in said
    assert world.packages() == ["c-1-0.x86_64.lpkg"]
    assert world.temporary_files() == []
    world.recipe("a")
    assert world.make()[1] == ["a", "b"]


def test_a_failed_build_shows_its_first_error_and_its_line(world):
    """A parallel make goes on: the error is far above the end, and the shell says nothing."""
    (world.folder / "recipes/a").mkdir(parents=True)
    (world.folder / "recipes/a/pkgen.yaml").write_text("""\
packages: {a: }
version: 1
script:
  - |
    # A comment, and a template of two lines.
    {{make "one" "x" "y"}}

    (cd two &&
      sh -c 'seq 1 50; echo "main.c:7:1: error: expected a word"; seq 51 200; exit 2')
check: ["true"]
""")
    world.recipe("b")
    (world.folder / "recipes/b/pkgen.yaml").write_text(
        "packages: {b: }\nversion: 1\nscript:\n  - |\n    mkdir one two\n"
        "    printf 'x y:\\n\\t@:\\n' >one/Makefile\n" +
        (world.folder / "recipes/a/pkgen.yaml").read_text().partition("  - |\n")[2])
    said, _ = world.make("recipe/b", status=2)
    shown = [line[2:] for line in said.splitlines() if line.startswith("  ")]
    assert "main.c:7:1: error: expected a word" in shown and "200" in shown and len(shown) <= 31
    assert "50" in shown and "20" not in shown and "100" not in shown
    assert re.search(r"\.\.\. \d+ more lines \.\.\.", said)
    assert "pkggen: recipes/b/pkgen.yaml:11:5: sh -c" in said
    assert "build.mk:" not in said and said.count("\npkggen: ") == 1


def test_a_failed_build_names_the_command_and_not_what_its_redirection_ran(world):
    world.recipe("a", script=["grep words /dev/null >$$(basename in/file)"])
    assert ": grep words /dev/null failed (status 2)" in world.make(status=2)[0]
    world.recipe("a", script=["name=$$(grep words /dev/null)"])
    assert ": name= failed (status 2)" in world.make(status=2)[0]


def test_a_failed_rebuild_keeps_the_former_package(world):
    world.recipe("a")
    world.make()
    world.recipe("a", script=["false"], version="2")
    world.make(status=2)
    assert world.packages() == ["a-1-0.x86_64.lpkg"]
    world.recipe("a")
    assert world.make()[1] == []


@pytest.mark.parametrize(
    "run, message",
    [
        ("no-such-program-here", "could not be started: .*no-such-program-here.* not found"),
        ("echo refused >&2; exit 125;", "could not be started: refused; `docker info`"),
        ("cat >/dev/null; true", "."),
        ("echo no tar;", "."),
        ("kill -9 $$;", r"a 1-0: the build failed \(status -9\)"),
    ],
)
def test_a_run_that_does_not_work(world, run, message):
    """Also one that says that all is well, and gives no tar that ends with .status."""
    world.recipe("a")
    world.env["RUN"] = run if run == "no-such-program-here" else f"sh -c '{run}' --"
    said, _ = world.make(status=2)
    lines = [line for line in said.splitlines() if line.startswith("pkggen: ")]
    assert len(lines) == 1 and re.search(message, lines[0]), said
    assert world.packages() == []
    assert world.temporary_files() == []


def test_a_run_that_fails_once_costs_one_more(world):
    """As when a node of a cluster dies: srun then ends with 0, and nothing came out. A build that
    fails is not run twice."""
    world.recipe("a")
    world.recipe("b", ["a"], script=["false"])
    world.env["RUN"] = (f"sh -c 'if mkdir {world.folder}/failed; then cat >/dev/null; exit; fi; "
                        f"exec {world.env['RUN']} \"$@\"' --")
    said, built = world.make(status=2)
    assert "build   a 1-0: RUN failed (status 0), not the build; once more\n" in said
    assert built == ["a", "b"] and said.count("once more") == 1


# Python that is pkggen, and gets a signal as soon as a build has been started.
INTERRUPTED = """
import os, signal, subprocess, sys
sys.path.insert(0, {root!r})
import pkggen

class Popen(subprocess.Popen):
    def __init__(self, command, **options):
        super().__init__(command, **options)
        if "exec " in command[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
sys.exit(pkggen.main(["build", "recipes/a"]))
"""


def test_an_interrupt_while_a_build_is_started(world):
    """What was started is known, and stopped."""
    world.recipe("a", script=["sleep 1000"])
    command = [sys.executable, "-c", INTERRUPTED.format(root=str(ROOT))]
    done = subprocess.run(command, cwd=world.folder, env=world.env, stderr=subprocess.PIPE,
                          timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert (world.places / "stopped").read_text().startswith("panux-a-")


def test_a_cut_output_is_no_build(world):
    """The stream ends before .status, though RUN says that all went well."""
    world.recipe("a")
    builder = pathlib.Path(world.env["RUN"])
    builder.write_text(builder.read_text().rstrip() + " | head -c 1024\n")
    said, _ = world.make(status=2)
    assert [line for line in said.splitlines() if line.startswith("pkggen: ")], said
    assert world.packages() == []


def test_a_recipe_that_is_renamed(world):
    """What needs its packages gets those of the new one; a package that is made no more goes."""
    world.recipe("z", packages={"p": None, "p-more": None})
    world.recipe("q", ["p"], ["cat ../sysroot/p >out/q/p"])
    assert world.make()[1] == ["z", "q"]
    shutil.rmtree(world.folder / "recipes/z")
    world.recipe("a", script=["echo more >>out/p/more"], packages={"p": None})
    assert world.make()[1] == ["a", "q"]
    assert world.packages() == ["p-1-0.x86_64.lpkg", "q-1-0.x86_64.lpkg"]
    assert sorted(path.name for path in world.out.rglob("*.built")) == ["a.built", "q.built"]
    assert world.make() == ("", [])


def test_a_record_that_is_spoilt(world):
    world.recipe("a")
    world.make()
    record = world.out / "x86_64/mk/a.built"
    record.write_text("{")
    done = run_tool("pkggen", "world-mk", "recipes", cwd=world.folder, env=world.env, check=False)
    assert f"{record}: unreadable" in one_line(done)
    record.unlink()
    assert world.make()[1] == ["a"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_build(world, number):
    """RUN_STOP ends the build; nothing half-made stays; the next run goes on."""
    flag = world.folder / "started"
    world.recipe("a")
    world.recipe("b", ["a"], [f"[ -e {flag} ] || {{ touch {flag}; sleep 1000; }}"])
    world.world_mk()
    process = start_build(world, "a", "b")
    wait_until(flag.exists, what="build of b")
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number
    name = signal.Signals(number).name
    line = f"pkggen: stopped by {name}; the next run goes on from what is finished"
    assert said.splitlines()[-1] == line
    stopped = set((world.places / "stopped").read_text().split())
    assert stopped == {f"panux-b-{process.pid}"}
    assert not is_running(world.places / f"panux-b-{process.pid}.pid")
    assert world.temporary_files() == []
    assert world.packages() == ["a-1-0.x86_64.lpkg"]
    assert world.make()[1] == ["b"]


def test_a_build_that_can_not_be_stopped_is_killed(world):
    """RUN heeds no TERM, and RUN_STOP does nothing: a container engine that hangs."""
    flag = world.folder / "started"
    world.recipe("a")
    world.env["RUN"] = f"sh -c 'trap : TERM; echo $$ >{flag}; while :; do sleep 1; done' --"
    world.env["RUN_STOP"] = "true"
    process = start_build(world, "a")
    wait_until(lambda: flag.exists() and flag.read_text().strip(), what="build")
    started = time.monotonic()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert pkggen.STOP_SECONDS <= time.monotonic() - started
    assert not is_running(flag)


def start_build(world, *names):
    """pkggen, building recipes in the background."""
    recipes = [f"recipes/{name}" for name in names]
    command = [sys.executable, str(ROOT / "pkggen.py"), "build", *recipes]
    where = {"cwd": world.folder, "env": world.env}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **where)


def is_running(pid_file):
    """Whether a process of the builder's group is left; a dead one may wait for init to see it."""
    group = pid_file.read_text().strip()
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if found == group and state != "Z":
            return True
    return False


def test_ctrl_c_on_make(world):
    """The terminal sends SIGINT to make and to both builds at once."""
    for name in "ab":
        flag = world.folder / f"started-{name}"
        world.recipe(name, script=[f"[ -e {flag} ] || {{ touch {flag}; sleep 1000; }}"])
    world.world_mk()
    process = subprocess.Popen(
        ["make", "-j2", "-f", "world.mk"],
        cwd=world.folder,
        env=world.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(list(world.folder.glob("started-*"))) == 2, what="two builds")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode != 0
    assert said.count("stopped by SIGINT") == 2
    assert world.temporary_files() == []
    assert not any(map(is_running, world.places.glob("*.pid")))
    assert sorted(world.make()[1]) == ["a", "b"]


def test_killed_and_built_again(world):
    """SIGKILL leaves no record, so the next run builds it; its lock is no obstacle."""
    flag = world.folder / "started"
    world.recipe("a", script=[f"[ -e {flag} ] || {{ touch {flag}; sleep 1000; }}"])
    with start_build(world, "a") as process:
        wait_until(flag.exists, what="build")
        process.kill()
    os.killpg(int(next(world.places.glob("*.pid")).read_text()), signal.SIGKILL)
    assert world.packages() == []
    assert world.make()[1] == ["a"]


UP_TO_DATE = "build   a 1-0: up to date"


def test_two_builds_of_one_recipe_at_once(world):
    world.recipe("a", script=["sleep 1"])
    runs = [start_build(world, "a") for _ in range(2)]
    said = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert (world.places / "built").read_text().split() == ["a"]
    assert sorted(text.partition("\n")[0] for text in said) == ["build   a 1-0", UP_TO_DATE]


def test_world_fetches_before_it_builds(world, upstream):
    source = upstream.base + "/good/f"
    world.recipe("a", script=["cp src/f out/a"], sources=[source], sha256={"f": GOOD})
    world.recipe("b", sources=[upstream.base + "/good/g"])
    world.recipe("c", sources=[upstream.base + "/good/f?x"], sha256={"f": sha256(OTHER)})
    hint = "`pkggen.py hash RECIPE...` fetches them and writes it"
    assert told(world)[0] == [f"1 source in 1 recipe without sha256; {hint}"]
    said, built = world.make(status=2)
    assert built == ["a"]
    assert "sha256; " not in said
    said, _ = world.make("recipe/b", status=2)
    assert "g has no sha256; `pkggen.py hash recipes/b` fetches it and writes one" in said
    said, _ = world.make(status=2)
    assert "f: no source has it: " in said and "has other bytes" in said
    assert cached(world.env) == {GOOD: BODY}
    assert world.make(status=2)[1] == []


# ---- directories as sources ----------------------------------------------------------------------


def write_files(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_directory_is_a_source(world):
    """All of it is in src/, what is hidden apart; each file is an input of its own."""
    folder = world.recipe("a", script=["cat src/files/one src/files/sub/two >out/a/both; "
                                       "test -x src/files/sub/two; ls -A src/files >out/a/names"],
                          sources=["file:files/"])
    write_files(folder / "files", one="1", sub__two="2")
    (folder / "files/.hidden").write_text("")
    (folder / "files/sub/two").chmod(0o700)
    world.make()
    assert world.content("a", "both") == "12" and world.content("a", "names") == "one\nsub\n"
    assert world.make()[1] == []
    write_files(folder / "files", sub__two="3", three="")
    assert why(world, "a")[1:] == ["  file files/three is new", "  file files/sub/two changed"]
    world.make()
    assert world.content("a", "both") == "13"


@pytest.mark.parametrize("make_odd", [
    lambda path: path.symlink_to("/etc/shadow"), lambda path: path.symlink_to("/etc"),
    lambda path: os.mkfifo(path)])
def test_s20_a_directory_with_what_is_not_a_file(tmp_path, make_odd):
    folder = write_recipe(tmp_path / "r", recipe_text(sources=["file:d"], script=["true"]))
    (folder / "d").mkdir()
    make_odd(folder / "d/odd")
    said = refused("input", folder, "-o", tmp_path / "in.tar", env=environment(O=tmp_path / "o"))
    assert said.endswith("d/odd is not a plain file; take it out of the directory")


@pytest.mark.parametrize("path", [
    ".git", ".git/config", "recipes", "tests", "build/repo", "build", "Makefile", "initd/../.git",
    "initd/.x", "x/lpkg.py", "", "docs/.", "nothing.key"])
def test_s46_self_gives_nothing_but_what_is_meant(tmp_path, path):
    """Also none of what $O holds, where that is in a directory that is meant."""
    tree = tmp_path / "tree"
    for name in (".git/config", "recipes/r", "tests/t", "build/repo/x", "initd/.x", "x/lpkg.py",
                 "docs/d", "nothing.key", "Makefile"):
        write_files(tree, **{name.replace("/", "__"): ""})
    shutil.copy(ROOT / "pkggen.py", tree)
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[f"self:{path}"]))
    command = [sys.executable, tree / "pkggen.py", "script", folder]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "self: gives the scripts and what is in" in done.stderr or (
        path in ("", "docs/.") and "usable file name" in done.stderr)


def test_s46_self_gives_nothing_that_was_built(tmp_path):
    tree = tmp_path / "tree"
    write_files(tree, docs__out__keys="", docs__page="")
    shutil.copy(ROOT / "pkggen.py", tree)
    for path, status in (("docs/out/keys", 1), ("docs/page", 0)):
        folder = write_recipe(tmp_path / "r", recipe_text(sources=[f"self:{path}"]))
        command = [sys.executable, tree / "pkggen.py", "script", folder]
        env = environment(O=tree / "docs/out")
        assert subprocess.run(command, env=env, stderr=subprocess.PIPE).returncode == status


# ---- what comes out of a build is looked at ------------------------------------------------------


LINK = "echo 'int f(void) { return 1; }' | gcc -shared -fPIC -x c -"


def looked_at(world, *script, status=0, packages=(("a", None),), **fields):
    """What a first build of a recipe with this SCRIPT says: its last error, or its advice."""
    write_recipe(world.folder / "recipes/a", recipe_text(
        packages=dict(packages), script=list(script), **fields))
    said = world.make(status=status)[0].splitlines()
    if status:
        return [line for line in said if line.startswith("pkggen: ")][-1]
    return [line.partition("a: ")[2] for line in said if line.startswith("advice ")]


def test_a_package_without_files_is_an_error_that_says_where_they_went(world):
    stray = pathlib.Path("/usr/local/panux-test-of-strays")
    try:
        said = looked_at(world, f"mkdir -p out/a/usr; echo x >{stray}", status=2)
    finally:
        stray.unlink()
    assert said == (
        f"pkggen: recipes/a/pkgen.yaml: a has no files ({stray} went elsewhere): install into "
        "out/a; `allow: {empty: REASON}` switches this off")
    assert world.packages() == []
    assert looked_at(world, ":", allow={"empty": "it is a name alone"}) == []
    assert world.packages() == ["a-1-0.x86_64.lpkg"]


def test_a_meta_package_has_no_files(world):
    assert looked_at(world) == [] and world.packages() == ["a-1-0.x86_64.lpkg"]


@pytest.mark.parametrize("name, soname, is_error", [
    ("usr/lib/libx.so.1", "", True), ("lib/libx.so", "", True),
    ("usr/lib/libx.so.1", "libx.so.1", False), ("usr/lib/x/libplugin.so", "", False),
    ("usr/lib/plugin.so", "", False)])
def test_a_shared_library_without_soname_is_an_error(world, name, soname, is_error):
    option = f"-Wl,-soname,{soname}" if soname else ""
    script = f"mkdir -p out/a/{os.path.dirname(name)}; {LINK} {option} -o out/a/{name}"
    if is_error:
        said = looked_at(world, script, status=2)
        assert f"{name} is a shared library without a SONAME: link it with -Wl,-soname" in said
        assert world.packages() == []
    said = looked_at(world, script, **({"allow": {"soname": "so it is"}} if is_error else {}))
    assert [line for line in said if "SONAME" in line] == []


def test_files_are_stripped_unless_the_recipe_says_no(world):
    script = ["mkdir -p out/a/usr/lib out/a/usr/bin",
              LINK + " -g -Wl,-soname,libx.so -o out/a/usr/lib/libx.so",
              "echo 'int main(void) { return 0; }' | gcc -g -x c - -o out/a/usr/bin/x",
              "echo 'int y;' | gcc -g -c -x c - -o y.o; ar rc out/a/usr/lib/liby.a y.o",
              "cp out/a/usr/bin/x out/a/usr/bin/y; echo '#!/bin/sh' >out/a/usr/bin/z",
              "chmod 755 out/a/usr/bin/z; chmod 4755 out/a/usr/bin/y"]
    fields = {"packages": {"a": {"owners": {"/usr/bin/y": "0:0:4755"}}}}

    def sections(strip):
        text = recipe_text(**{**fields, "script": script, **strip})
        write_recipe(world.folder / "recipes/a", text)
        assert "(symbols)" not in world.make()[0]
        place = world.folder / "unpacked"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        subprocess.run(["tar", "-xf", world.out / "repo/x86_64/a-1-0.x86_64.lpkg"], cwd=place,
                       check=True)
        assert (place / "usr/bin/z").read_text() == "#!/bin/sh\n"
        assert (place / "usr/bin/y").stat().st_mode & 0o7777 == 0o4755
        names = ["usr/lib/libx.so", "usr/bin/x", "usr/bin/y", "usr/lib/liby.a"]
        return {name: subprocess.run(["readelf", "-SW", name], cwd=place, check=True,
                                     stdout=subprocess.PIPE, text=True).stdout for name in names}

    small, whole = sections({}), sections({"strip": False})
    for name in small:
        assert ".debug_info" in whole[name] and ".debug_info" not in small[name]
        is_linked = not name.endswith(".a")
        assert (".symtab" in small[name]) != is_linked, name


def test_advice(world):
    """One line a check, after a first build only; a check that is switched off says nothing."""
    script = [
        "mkdir -p out/a/usr/bin out/a/usr/lib out/a/usr/include out/a/usr/share/man/man1 out/a/etc",
        "echo /build/x >out/a/usr/bin/path; echo https://a.org/build/ >out/a/usr/bin/none",
        ": >out/a/usr/lib/libx.a; : >out/a/usr/include/x.h; : >out/a/usr/share/man/man1/x.1",
        ": >out/a/usr/lib/liby.so.1; ln -s liby.so.1 out/a/usr/lib/liby.so",
        "ln -s nowhere out/a/usr/bin/dangling; ln -s ../lib/libx.a out/a/usr/bin/good",
        "ln -s /usr/lib out/a/usr/bin/absolute; : >out/a/etc/conf; : >out/a/etc/kept",
        "seq 10000 >out/a/usr/bin/one; cp out/a/usr/bin/one out/a/usr/bin/two",
        "ln out/a/usr/bin/one out/a/usr/bin/three",
        "echo 'int main(void) { return 0; }' | gcc -x c - -o out/a/usr/bin/x"]
    packages = {"a": {"conffiles": ["/etc/kept"]}}
    world.recipe("b")
    said = looked_at(world, *script, packages=packages)
    checks = {re.search(r"\((\S+)\)$", line)[1]: line for line in said}
    assert len(checks) == len(said)
    assert set(checks) == {"build-path", "dev", "doc", "dangling", "conffiles", "copies", "library"}
    assert "usr/bin/path" in checks["build-path"] and "none" not in checks["build-path"]
    assert set(checks["dev"].split(": ")[0].split(", ")) == {
        "usr/lib/libx.a", "usr/include/x.h", "usr/lib/liby.so -> liby.so.1"}
    assert checks["dangling"].startswith("usr/bin/dangling -> nowhere: ")
    assert checks["conffiles"].startswith("etc/conf: ")
    assert "under 3 names, 97.8 kB" in checks["copies"]
    assert "libc.so.6" in checks["library"]
    assert looked_at(world, *script, "# again", packages=packages) == []
    shutil.rmtree(world.out)
    reasons = dict.fromkeys(checks, "for a test")
    assert looked_at(world, *script, packages=packages, allow=reasons) == []


def test_a_library_of_the_builder_s_own_keeps_nothing_from_being_built(world):
    """It is advised against, once; there is no package to put into a sysroot."""
    script = "mkdir -p out/a/usr/bin; echo 'int main(void) { return 0; }' | gcc -x c - -o "
    assert len(looked_at(world, script + "out/a/usr/bin/x")) == 1
    world.recipe("b", ["a"], ["test -x ../sysroot/usr/bin/x"])
    assert world.make()[1] == ["b"]


def test_a_built_line_says_what_the_size_was(world):
    write = "head -c {} /dev/urandom >out/a/f"
    folder = world.recipe("a", script=[write.format(3000)])
    assert re.search(r"built   a 1-0: a, 3\.\d kB, \d s\n", world.make()[0])
    (folder / "pkgen.yaml").write_text(
        (folder / "pkgen.yaml").read_text().replace("3000", "9000"))
    assert re.search(r"built   a 1-0: a, 9\.\d kB \(was 3\.\d kB\), \d s\n", world.make()[0])


def test_what_lpkg_refuses_ends_the_build(world):
    assert looked_at(world, ": >out/a/su; chmod 4755 out/a/su", status=2) == (
        "pkggen: a: su is setuid or setgid and nobody said so; add `/su: 0:0:4755` to owners, or "
        "take the bit away")
    assert looked_at(world, "mkfifo out/a/f; : >out/a/g", status=2) == (
        "pkggen: recipes/a/pkgen.yaml: out/a/f is a device, a fifo or sparse; leave it out")


def test_an_elf_file_that_lies_about_itself_is_looked_at_in_bounded_time(tmp_path):
    """Headers that point beyond the file, or say that they are of no size."""
    rng = random.Random(7)
    subprocess.run(["sh", "-c", f"{LINK} -o {tmp_path}/x.so"], check=True)
    data = (tmp_path / "x.so").read_bytes()
    assert pkggen.read_elf(io.BytesIO(data), len(data)) == pkggen.Elf(True, False, True)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(4, 64)] = rng.choice([0, 1, 255, rng.randrange(256)])
        part = bytes(damaged[:rng.choice([len(data), 52, 64, 100])])
        pkggen.read_elf(io.BytesIO(part), len(data))


@pytest.mark.parametrize("script", ["yes", "tr '\\0' x </dev/zero"], ids=["lines", "one line"])
def test_s43_a_log_without_end(world, script):
    world.recipe("a", script=[f"{script} >&2"])
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    said, _ = world.make(status=2)
    log = world.out / "x86_64/log/a.log"
    assert f"a: the build was stopped, for its log is over 67.1 MB: {log}" in said
    assert log.stat().st_size < 70_000_000
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert most <= max(before, 150_000)
    assert len((world.places / "stopped").read_text().splitlines()) >= 1


def test_s43_a_tar_without_end(world):
    """dd writes one byte beyond the limit of what comes out; as long a tar would be the same."""
    world.recipe("a")
    world.env["RUN"] = ("sh -c 'cat >/dev/null; dd if=/dev/zero of=/dev/fd/1 bs=1 count=1 "
                        "conv=notrunc seek=17179869184' --")
    said, _ = world.make(status=2)
    assert "File too large" in said or "status -25" in said or "153" in said, said
    assert world.packages() == []


def test_s43_a_tar_of_very_many_files(tmp_path):
    recipe = load(tmp_path / "r", recipe_text(script=["true"]))
    block = tarfile.TarInfo("out/p/f").tobuf()
    with (tmp_path / "tar").open("w+b") as file:
        for _ in range(31):
            file.write(block * 10_000)
        file.seek(0)
        with pytest.raises(pkggen.Fail, match="gave over 300000 files"):
            pkggen.look_at_output(recipe, file, str(tmp_path / "log"))


# ---- git sources, proxies ------------------------------------------------------------------------

GIT_AS = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")


def git(folder, *arguments):
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_DATE": "2001-02-03T04:05:06Z",
             "GIT_COMMITTER_DATE": "2001-02-03T04:05:06Z"}
    command = ["git", *GIT_AS, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(**quiet), check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout.decode().strip()


class QuietAnswer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class GitAnswer(QuietAnswer):
    """Real git's server: /smart/ by git http-backend; /dumb/ are the files of the repository."""

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        self.server.asked.append(self.path)
        how, _, rest = self.path[1:].partition("/")
        path, _, query = rest.partition("?")
        if how == "smart":
            self.backend("/" + path, query)
        elif how == "moved":
            self.moved(rest)
        else:
            self.file(how, self.server.root / path)

    def moved(self, path):
        self.send_response(302)
        self.send_header("Location", f"{self.server.elsewhere}/{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def file(self, how, path):
        if how != "dumb" or not path.is_file():
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        self.wfile.write(path.read_bytes())

    def backend(self, path, query):
        """RFC 3875: what git http-backend wants to know, and how its answer begins."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        variables = environment(
            GIT_PROJECT_ROOT=self.server.root, GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path,
            QUERY_STRING=query, REQUEST_METHOD=self.command, REMOTE_USER="",
            CONTENT_TYPE=self.headers.get("Content-Type", ""), CONTENT_LENGTH=len(body),
            HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
            GIT_PROTOCOL=self.headers.get("Git-Protocol", ""), GIT_CONFIG_GLOBAL="/dev/null",
        )
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, check=True,
                              stdout=subprocess.PIPE)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Repository:
    """r.git behind an HTTPS server: `commit` is its main branch's, `old` is the one before."""

    def __init__(self, folder, authority):
        work = folder / "work"
        work.mkdir(parents=True)
        git(work, "init", "-q", "-b", "main")
        self.old = self.add(work, {"file": "old\n"})
        self.commit = self.add(work, {
            "file": "$Format:%H$ and $Id$\n", "tool": "#!/bin/sh\n", "sub/deep": "deep\n",
            ".gitattributes": "* export-subst ident eol=crlf\nsub export-ignore\n",
        })
        self.bare = folder / "root/r.git"
        git(work, "clone", "-q", "--bare", work, self.bare)
        git(self.bare, "update-server-info")
        self.server = Upstream(authority, {})
        self.server.RequestHandlerClass = GitAnswer
        self.server.root = folder / "root"
        self.base = self.server.base

    def add(self, work, files):
        for name, text in files.items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_bytes(text.encode())
            (work / name).chmod(0o755 if name == "tool" else 0o644)
        git(work, "-c", "core.autocrlf=false", "add", "-A")
        git(work, "commit", "-q", "-m", "x")
        return git(work, "rev-parse", "HEAD")

    def url(self, how="smart", commit=None):
        return f"git+{self.base}/{how}/r.git#{commit or self.commit}"


@pytest.fixture(autouse=True)
def no_certificates_for_git(monkeypatch):
    """Git sources then trust whom SSL_CERT_FILE names, as all others do."""
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)


@pytest.fixture
def repository(tmp_path, authority):
    made = Repository(tmp_path / "upstream", authority)
    with serving(made.server):
        yield made


def git_source(tmp_path, env, url):
    """The recipe's folder, and the hash that `pkggen.py hash` writes for URL."""
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[url]))
    run_tool("pkggen", "hash", folder, env=env)
    return folder, load_recipe_of(folder).sources[0].alternatives[0].sha256


def load_recipe_of(folder):
    return pkggen.load_recipe(str(folder), options())


@pytest.mark.parametrize("how", ["smart", "dumb"])
def test_git(tmp_path, env, repository, how):
    """The commit's files as they are; the same bytes from a server that gives only all it has."""
    folder, digest = git_source(tmp_path, env, repository.url(how))
    shutil.rmtree(env["SOURCES"])
    (name, data), = input_files(folder, env).items()
    assert name == f"src/r-{repository.commit}.tar"
    assert digest == sha256(data) and cached(env) == {digest: data}
    top = f"r-{repository.commit}/"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        texts = {name: tar.extractfile(name).read() for name in files}
    assert {name[len(top):]: text for name, text in texts.items()} == {
        "file": b"$Format:%H$ and $Id$\n", "tool": b"#!/bin/sh\n", "sub/deep": b"deep\n",
        ".gitattributes": b"* export-subst ident eol=crlf\nsub export-ignore\n",
    }
    assert files[top + "tool"].mode == 0o755 and files[top + "file"].mode == 0o644
    assert {member.mtime for member in files.values()} == {981173106}


def test_git_gives_the_same_bytes_every_time(tmp_path, env, repository):
    """Alone or with all history; umask, time zone and the user's own configuration are nothing."""
    (tmp_path / "home/.config/git").mkdir(parents=True)
    (tmp_path / "home/.config/git/attributes").write_text("* export-ignore\n")
    settings = f'[tar]\numask = 077\n[url "file://{repository.bare}"]\ninsteadOf = https://\n'
    (tmp_path / "home/.gitconfig").write_text(settings)
    hostile = {**env, "HOME": str(tmp_path / "home"), "TZ": "Asia/Tokyo",
               "GIT_DIR": str(tmp_path / "nowhere"), "GIT_CONFIG_COUNT": "1",
               "GIT_CONFIG_KEY_0": "core.abbrev", "GIT_CONFIG_VALUE_0": "5"}
    hostile.pop("XDG_CONFIG_HOME", None)
    found = set()
    for variables in (env, hostile):
        for how in ("smart", "dumb"):
            found.add(git_source(tmp_path, variables, repository.url(how))[1])
    assert len(found) == 1


def test_git_of_a_commit_that_no_branch_ends_with(env, repository, tmp_path):
    """A server that gives no commit by its hash is asked for all."""
    for value in ("true", "false"):
        git(repository.bare, "config", "uploadpack.allowAnySHA1InWant", value)
        folder, digest = git_source(tmp_path, env, repository.url(commit=repository.old))
        assert sha256(input_files(folder, env)[f"src/r-{repository.old}.tar"]) == digest


def test_git_as_alternative(tmp_path, env, upstream, repository):
    """It bears the first one's name; a mirror may have its tar under its own."""
    digest = git_source(tmp_path, env, repository.url())[1]
    data = cached(env)[digest]
    shutil.rmtree(env["SOURCES"])
    name = f"r-{repository.commit}.tar"
    sources = [[upstream.base + "/missing/r-1.tar", repository.url()]]
    hashes = {"r-1.tar": GOOD, name: digest}
    folder = write_recipe(tmp_path / "r", recipe_text(sources=sources, sha256=hashes))
    assert input_files(folder, env) == {"src/r-1.tar": data}
    shutil.rmtree(env["SOURCES"])
    upstream.files[name] = data
    text = recipe_text(sources=[repository.url("none")], mirrors=[upstream.base + "/good"],
                       sha256={name: digest})
    assert input_files(write_recipe(tmp_path / "r", text), env) == {"src/" + name: data}


def test_git_that_fails_is_one_line(env, repository):
    def said(url):
        line = one_line(fetch(env, url))
        assert cached(env) == {}
        return line

    assert "404 Not Found" in said(repository.url("none"))
    assert "git: not a valid object name" in said(repository.url(commit="0" * 40))
    assert "has other bytes: sha256 " in said(repository.url())
    asked = len(repository.server.asked)
    mark = pathlib.Path(env["O"]) / f"fetch/dead/localhost%3A{repository.server.server_port}"
    mark.write_text("dead\n")
    assert "gave no answer within the last 60 s" in said(repository.url())
    assert len(repository.server.asked) == asked
    mark.unlink()
    port = free_port()
    dead = f"git+https://localhost:{port}/r.git#{repository.commit}"
    assert "Connection refused" in said(dead)
    assert f"localhost:{port} gave no answer within the last 60 s" in said(dead)
    assert "there is no git on this machine" in one_line(
        fetch({**env, "PATH": "/nowhere"}, repository.url())
    )
    nobody = {**env, "SSL_CERT_FILE": "/dev/null"}
    assert "certificate verify failed" in one_line(fetch(nobody, repository.url()))


def test_git_says_that_there_are_submodules(tmp_path, env, repository):
    work = tmp_path / "upstream/work"
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{repository.old},deps/sub")
    git(work, "commit", "-q", "-m", "x")
    git(work, "push", "-q", repository.bare, "main")
    commit = git(work, "rev-parse", "HEAD")
    folder = write_recipe(tmp_path / "r", recipe_text(sources=[repository.url(commit=commit)]))
    said = run_tool("pkggen", "hash", folder, env=env).stderr
    assert (f"r-{commit}.tar: has submodules: deps/sub; they are not fetched: "
            "give each as a source of its own\n") in said


def test_s22_git_follows_to_https_alone_and_asks_nobody(tmp_path, env, repository, proxy):
    """A redirect to http; a server that wants a password, with programs that would give one.

    Each for pkggen's own question before git's, and then for git alone.
    """
    repository.server.elsewhere = proxy.base
    moved = one_line(fetch(env, repository.url("moved")))
    assert "302 it redirects from https to http://" in moved
    repository.server.RequestHandlerClass = for_git(lambda self: GitAnswer.moved(self, "r.git"))
    assert "git: unable to access" in one_line(fetch(env, repository.url()))
    assert proxy.asked == []
    pwned = tmp_path / "pwned"
    (tmp_path / "ask").write_text(f"#!/bin/sh\necho x >>{pwned}\n")
    (tmp_path / "ask").chmod(0o755)
    programs = "GIT_ASKPASS SSH_ASKPASS GIT_PROXY_COMMAND GIT_EXTERNAL_DIFF GIT_SSH".split()
    hostile = {**env, "DISPLAY": ":0", **dict.fromkeys(programs, str(tmp_path / "ask"))}
    repository.server.RequestHandlerClass = for_git(locked)
    assert "terminal prompts disabled" in one_line(fetch(hostile, repository.url()))
    repository.server.RequestHandlerClass = type("Locked", (GitAnswer,), {"do_POST": locked})
    assert "401 " in one_line(fetch(hostile, repository.url()))
    assert not pwned.exists()


def for_git(answer):
    """A handler that gives ANSWER to git, and to pkggen what it asks for."""
    def do_POST(self):
        is_git = self.headers["User-Agent"].startswith("git/")
        return answer(self) if is_git else GitAnswer.do_POST(self)
    return type("ForGit", (GitAnswer,), {"do_POST": do_POST})


def locked(self):
    self.send_response(401)
    self.send_header("WWW-Authenticate", 'Basic realm="r"')
    self.send_header("Content-Length", "0")
    self.end_headers()


def test_s22_git_runs_no_hook_and_no_program_of_the_tree(tmp_path, env, repository):
    """Submodules, filters and hooks of a template folder, each with a command."""
    command = f"touch {tmp_path}/pwned"
    work = tmp_path / "upstream/work"
    hooks = tmp_path / "template/hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\n{command}\n")
        (hooks / name).chmod(0o755)
    module = f'[submodule "m"]\npath = m\nurl = ext::sh -c {command}\n'
    commit = repository.add(work, {".gitmodules": module, ".gitattributes": "* filter=x\n"})
    git(work, "push", "-q", repository.bare, "main")
    hostile = {**env, "GIT_TEMPLATE_DIR": str(tmp_path / "template"), "GIT_CONFIG_COUNT": "1",
               "GIT_CONFIG_KEY_0": "filter.x.smudge", "GIT_CONFIG_VALUE_0": command}
    git_source(tmp_path, hostile, repository.url(commit=commit))
    assert not (tmp_path / "pwned").exists()


# A proxy notes what it was asked for, and passes it on whatever the host's name.


class ProxyAnswer(QuietAnswer):
    def do_CONNECT(self):
        self.server.asked.append(self.path)
        port = int(self.path.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as other:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=copy, args=(other, self.connection), daemon=True)
            back.start()
            copy(self.connection, other)
            back.join()

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)


def copy(source, target):
    with contextlib.suppress(OSError):
        for data in iter(lambda: source.recv(65536), b""):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ProxyAnswer)
    server.asked = []
    server.base = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield server


def test_a_proxy(env, upstream, repository, proxy):
    """http as a whole, https and git through a tunnel; no host but the proxy's is looked up."""
    env = {**env, "http_proxy": proxy.base, "https_proxy": proxy.base, "no_proxy": ""}
    assert fetch(env, "http://nosuch.invalid/f").returncode == 0
    assert cached(env) == {GOOD: BODY}
    shutil.rmtree(env["SOURCES"])
    assert fetch(env, upstream.base + "/good/f").returncode == 0
    assert "has other bytes" in one_line(fetch(env, repository.url(), digest=sha256(OTHER)))
    hosts = {f"localhost:{server.server_port}" for server in (upstream, repository.server)}
    assert set(proxy.asked) == {"http://nosuch.invalid/f", *hosts}


def test_no_proxy(env, upstream, repository, proxy):
    env = {**env, "http_proxy": proxy.base, "https_proxy": proxy.base, "no_proxy": "localhost"}
    assert fetch(env, upstream.base + "/good/f").returncode == 0
    assert "has other bytes" in one_line(fetch(env, repository.url(), digest=sha256(OTHER)))
    assert proxy.asked == []


def test_a_proxy_that_is_dead(env):
    env = {**env, "http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    assert "Connection refused" in one_line(fetch(env, "http://example.invalid/f"))


def test_input(tmp_path, env, repository):
    """What goes into a build, for who runs it by hand, without a container."""
    folder, digest = git_source(tmp_path, env, repository.url())
    name = f"r-{repository.commit}.tar"
    hashes = {name: digest}
    script = ['{{unpack "r" "' + name + '"}}', "cp r/file out/p"]
    text = recipe_text(sources=[repository.url()], sha256=hashes, script=script)
    write_recipe(folder, text)
    (tmp_path / "build").mkdir()
    run_tool("pkggen", "input", folder, "-o", tmp_path / "build/in.tar", env=env)
    subprocess.run(["tar", "-xf", "in.tar"], cwd=tmp_path / "build", check=True)
    assert make(tmp_path / "build", "-f", "build.mk").returncode == 0
    assert files_below(tmp_path / "build/out") == {"p/file": b"$Format:%H$ and $Id$\n"}
    assert "name its file, as in -o in.tar" in refused("input", folder, env=env)


# ---- fetching: mirrors, many at once, what is shown ----------------------------------------------


def test_mirrors(tmp_path, env, upstream):
    """They are asked after the source itself; what they have is held to the same hash."""
    sources = [upstream.base + "/missing/f"]
    mirrors = [upstream.base + "/missing", upstream.base + "/good/"]
    text = recipe_text(sources=sources, mirrors=mirrors, sha256={"f": GOOD})
    write_recipe(tmp_path / "r", text)
    run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path, env=env)
    done = make(tmp_path, "-f", "fetch.mk", env=env)
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}
    asked = [path for path, _, _ in upstream.asked]
    assert asked == ["/missing/f", "/missing/f", "/good/f"]
    shutil.rmtree(env["SOURCES"])
    upstream.files["f"] = OTHER
    assert "/good/f: has other bytes" in input_files(tmp_path / "r", env)
    assert cached(env) == {}


def test_a_dead_host_is_asked_once_by_many_at_once(env):
    """Counted at a listener that hangs up after a while, by three fetches that begin together."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up_late, args=(listener, calls), daemon=True).start()
        dead = f"https://localhost:{listener.getsockname()[1]}"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            runs = [pool.submit(fetch, env, f"{dead}/{name}", digest=digest * 64)
                    for name, digest in ("fa", "gb", "hc")]
        said = [one_line(run.result()) for run in runs]
        listener.shutdown(socket.SHUT_RDWR)
    assert len(calls) == 1
    assert sum("gave no answer within the last 60 s" in line for line in said) == 2


def hang_up_late(listener, calls):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            calls.append(1)
            time.sleep(1)
            connection.close()


@pytest.mark.parametrize("when", [0, 1 << 33], ids=["old", "from the future"])
def test_a_host_that_lives_again(env, upstream, when):
    mark = pathlib.Path(env["O"]) / "fetch/dead" / f"localhost%3A{upstream.server_port}"
    mark.parent.mkdir(parents=True)
    mark.parent.parent.chmod(0o700)
    mark.write_text("dead\n")
    assert "gave no answer" in one_line(fetch(env, upstream.base + "/good/f"))
    os.utime(mark, (when, when))
    assert fetch(env, upstream.base + "/good/f").returncode == 0
    assert not mark.exists()


def test_make_fetches_several_at_once(tmp_path, env, upstream):
    """Both wait at the gate before one of them is done."""
    sources = [upstream.base + "/slow/f", upstream.base + "/slow/h"]
    upstream.files["h"] = BODY[::-1]
    hashes = {"f": GOOD, "h": sha256(BODY[::-1])}
    write_recipe(tmp_path / "r", recipe_text(sources=sources, sha256=hashes))
    run_tool("pkggen", "fetch-mk", "r", "-o", "fetch.mk", cwd=tmp_path, env=env)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        run = pool.submit(make, tmp_path, "-j2", "-f", "fetch.mk", env=env)
        wait_until(lambda: len(upstream.asked) == 2, what="two requests")
        upstream.gate.set()
        assert run.result().returncode == 0, run.result().stderr
    assert cached(env) == {GOOD: BODY, sha256(BODY[::-1]): BODY[::-1]}


def test_two_clones_share_the_sources(tmp_path, env, upstream):
    """Each has its own pkggen.py, recipes and makefile; each file is fetched once, by one."""
    sources = [upstream.base + "/slow/f", upstream.base + "/good/g"]
    text = recipe_text(sources=sources, sha256={"f": GOOD, "g": sha256(OTHER)})
    clones = [tmp_path / "one", tmp_path / "two"]
    for clone in clones:
        write_recipe(clone / "recipes/r", text)
        shutil.copy(ROOT / "pkggen.py", clone)
        command = [sys.executable, "pkggen.py", "fetch-mk", "recipes/r", "-o", "fetch.mk"]
        subprocess.run(command, cwd=clone, env=env, check=True)
        assert str(clone) in (clone / "fetch.mk").read_text()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(make, clone, "-j2", "-f", "fetch.mk", env=env) for clone in clones]
        wait_until(lambda: sha256(OTHER) in cached(env), what="the quick one")
        upstream.gate.set()
        done = [run.result() for run in runs]
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    assert cached(env) == {GOOD: BODY, sha256(OTHER): OTHER}
    assert len(upstream.asked) == 2


def test_fetch_of_a_file_here(tmp_path, env):
    """file: of the command line, by whole path; in a recipe it is within the recipe's folder."""
    (tmp_path / "a b").write_bytes(BODY)
    done = fetch(env, f"file://{tmp_path}/a%20b")
    assert done.returncode == 0, done.stderr
    assert cached(env) == {GOOD: BODY}
    assert "No such file" in one_line(fetch(env, f"file://{tmp_path}/none", digest="0" * 64))


def test_progress_on_a_terminal(env, upstream):
    """Bytes, rate and time left on one line that is drawn anew; at its end a plain line."""
    reader, terminal = os.openpty()
    command = [sys.executable, ROOT / "pkggen.py", "fetch", upstream.base + "/slow/f"]
    with subprocess.Popen([*command, "--sha256", GOOD], env=env, stderr=terminal) as process:
        os.close(terminal)
        wait_until(lambda: upstream.asked, what="request")
        time.sleep(0.3)
        upstream.gate.set()
        said = b""
        with contextlib.suppress(OSError):      # EIO: nobody holds the terminal any more
            while process.poll() is None or select.select([reader], [], [], 0)[0]:
                said += os.read(reader, 4096)
    os.close(reader)
    assert process.returncode == 0
    *drawn, last = said.decode().split("\r\x1b[K")[1:]
    form = r"fetch   f: [\d.]+ [kM]?B of 1\.0 MB, [\d.]+ [kM]?B/s, \d+ s left"
    assert drawn and all(re.fullmatch(form, line) for line in drawn), said
    assert re.fullmatch(r"fetch   f: 1\.0 MB from localhost in \d+ s\r\n", last)


# ---- the tree: linear, bootstrap, why, graph -----------------------------------------------------


def write_chain(folder, count, **fields):
    """Recipes p0, p1, ..., each built with the one before, which it needs to run as well."""
    for number in range(count):
        needs = [f"p{number - 1}"] * (number > 0)
        packages = {f"p{number}": {"dependencies": needs}}
        text = recipe_text(packages=packages, builddependencies=needs, script=["true"], **fields)
        write_recipe(folder / "recipes" / f"p{number}", text)


def test_a_deep_chain_makes_a_makefile_in_its_size(tmp_path):
    """Ten times the recipes, ten times the bytes: each target has its own needs alone."""
    sizes = []
    for count in (40, 400):
        write_chain(tmp_path / str(count), count)
        run_tool("pkggen", "world-mk", "recipes", "-o", "world.mk", cwd=tmp_path / str(count))
        sizes.append((tmp_path / str(count) / "world.mk").stat().st_size)
    assert sizes[1] < 11 * sizes[0]
    done = make(tmp_path / "400", "-n", "-f", "world.mk", "package/p399")
    built = re.findall(r"build recipes/(\w+) ", done.stdout)
    assert built == [f"p{number}" for number in range(400)], done.stderr
    done = make(tmp_path / "400", "-n", "-f", "world.mk", "package/p7")
    assert len(done.stdout.splitlines()) == 8


def test_one_long_cycle_is_one_problem(tmp_path):
    """Though its packages need one another to run as well; and it takes no time that grows."""
    write_chain(tmp_path, 600)
    text = recipe_text(packages={"p0": {"dependencies": ["p599"]}}, builddependencies=["p599"])
    write_recipe(tmp_path / "recipes/p0", text)
    started = time.monotonic()
    done = run_tool("pkggen", "world-mk", "recipes", "-o", "world.mk", cwd=tmp_path)
    assert time.monotonic() - started < 20
    way = "p0 -> p599 -> p598 -> p597 -> p596 -> p595 -> (589 more) -> p5 -> p4 -> p3 -> p2 -> p1"
    assert done.stderr.splitlines()[:2] == [
        "world   1 recipe can't be built, nor what needs them (599 recipes):",
        f"world     recipes/p0/pkgen.yaml: build dependencies in a cycle: {way} -> p0; {WAY_OUT}",
    ]
    assert len(done.stderr.splitlines()) == 3


def reached_from(graph, start):
    found, queue = set(), [start]
    while queue:
        for node in graph[queue.pop()]:
            if node not in found:
                found.add(node)
                queue.append(node)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_cycles_of_a_graph(seed):
    """Beside what a search from every node finds."""
    chance = random.Random(seed)
    names = [str(number) for number in range(chance.randrange(1, 30))]
    graph = {name: chance.choices(names, k=chance.randrange(3)) for name in names}
    reach = {name: reached_from(graph, name) for name in names}
    groups = pkggen.components(graph)
    assert sorted(name for group in groups for name in group) == sorted(names)
    known = set()
    for group in groups:
        known.update(group)
        assert set(graph[group[0]]) <= known and reach[group[0]] <= known
    expected = {frozenset({name, *(n for n in reach[name] if name in reach[n])}) for name in names}
    assert {frozenset(group) for group in groups} == expected and len(groups) == len(expected)


def test_cycles_of_a_deep_graph():
    graph = {str(number): [str(number + 1)] for number in range(20000)}
    open_end, closed = {**graph, "20000": []}, {**graph, "20000": ["0"]}
    assert pkggen.components(open_end) == [[str(number)] for number in range(20000, -1, -1)]
    assert [len(group) for group in pkggen.components(closed)] == [20001]


def test_packages_that_need_each_other_to_run(world):
    """No cycle of builds: whoever needs one waits for both, and for what both need."""
    world.recipe("a", packages={"a": {"dependencies": ["b"]}}, script=["sleep 0.3"])
    world.recipe("b", packages={"b": {"dependencies": ["a", "c"]}})
    world.recipe("c")
    world.recipe("user", ["b"], ["test -f ../sysroot/a", "test -f ../sysroot/c"])
    said, built = world.make("-j4", "package/user")
    assert built[-1] == "user" and sorted(built) == ["a", "b", "c", "user"]
    assert said.count("pkggen") == 0
    assert world.make("-j4") == ("", [])


def test_a_name_that_a_package_provides_is_built_first(world):
    """Its package's own needs, not those of the other packages of that recipe."""
    packages = {"p": {"provides": ["so:p.1", "tool"], "dependencies": ["a"]}, "q": None}
    packages["q"] = {"dependencies": ["far"]}
    world.recipe("p", packages=packages)
    world.recipe("a")
    world.recipe("far")
    world.recipe("user", ["so:p.1"], ["test -f ../sysroot/p", "test ! -e ../sysroot/far"])
    assert sorted(world.make("package/user")[1]) == ["a", "p", "user"]
    assert world.make("package/tool")[1] == []


def test_options_of_world_mk_reach_the_builds(world):
    world.recipe("a", script=['echo "{{.Data.word}}" >out/a/word'], strange="key")
    arguments = ["recipes", "-o", "world.mk", "--lenient", "-D", "word=it's $x"]
    run_tool("pkggen", "world-mk", *arguments, cwd=world.folder, env=world.env)
    done = make(world.folder, "-f", "world.mk", env=world.env)
    assert done.returncode == 0, done.stderr
    assert world.content("a", "word") == "it's \n"


CYCLE = ["if [ -e ../sysroot/cc ]; then how=final; else how=stage; fi"]


def c_world(world, **fields):
    """libc is built with cc, and cc with libc, as in many a tree; each notes which one it had."""
    packages = {"libc": None, "libc-dev": {"dependencies": ["libc"]}}
    script = [*CYCLE, "echo $$how >out/libc/how"]
    needs = ["cc", "base"]
    world.recipe("base")
    world.recipe("libc", needs, script, packages=packages, builder="bootstrap", **fields)
    kept = "cp ../sysroot/how out/{}/had-{}"
    dependencies = {"cc": {"dependencies": ["libc"]}}
    world.recipe("cc", ["libc-dev"], [kept.format("cc", "libc")], packages=dependencies)
    world.recipe("user", ["cc"], [kept.format("user", "libc")])


def test_bootstrap_breaks_a_cycle(world):
    """The stage first, without what closes the cycle; it never is in the repository."""
    c_world(world)
    said = world.world_mk()
    assert said.startswith("world   1 stage and 4 of 4 recipes to build or to look at, ")
    said, built = world.make("-j3")
    assert built == ["base", "stage-libc", "cc", "libc", "user"]
    assert "built   libc 1-0 (stage): libc libc-dev, " in said
    assert world.content("cc", "had-libc") == "stage\n"
    assert world.content("libc", "how") == world.content("user", "had-libc") == "final\n"
    names = ["base", "cc", "libc", "libc-dev", "user"]
    assert world.packages() == [f"{name}-1-0.x86_64.lpkg" for name in names]
    folder = world.out / "x86_64/stage"
    assert sorted(path.name for path in folder.iterdir()) == [
        "libc-1-0.x86_64.lpkg", "libc-dev-1-0.x86_64.lpkg"
    ]
    assert world.make() == ("", [])
    assert world.world_mk().startswith("world   nothing to be done: 4 recipes, 5 packages")


def test_bootstrap_and_early_cutoff(world):
    """The stage has a record of its own: what comes out the same ends there."""
    c_world(world)
    world.make()
    folder = world.recipe("base", summary="other")
    assert world.make()[1] == ["base", "stage-libc", "libc"]
    write_recipe(folder, (folder / "pkgen.yaml").read_text().replace("other", "another"))
    shutil.rmtree(world.out / "x86_64/stage")
    assert world.make()[1] == ["base", "stage-libc", "libc"]
    shutil.rmtree(world.out / "x86_64/stage")
    said, built = world.make()
    assert built == ["stage-libc"]
    assert re.findall("^build   (.+) 1-0: up to date", said, re.MULTILINE) == ["cc", "libc", "user"]
    assert world.make() == ("", [])


def test_bootstrap_of_one_package(world):
    c_world(world)
    assert world.make("package/base")[1] == ["base"]
    assert world.make("package/cc")[1] == ["stage-libc", "cc", "libc"]


def test_a_stage_that_fails(world):
    c_world(world, check=["[ -e ../sysroot/cc ]"])
    said, built = world.make(status=2)
    assert built == ["base", "stage-libc"]
    log = world.out / "x86_64/log/stage/libc.log"
    assert f" failed (status 2); the log is {log}" in said
    assert log.exists() and world.temporary_files() == []


def test_bootstrap_outside_a_cycle_is_built_once(world):
    world.recipe("a", builder="bootstrap")
    world.recipe("b", ["a"])
    assert world.make()[1] == ["a", "b"]


def test_a_recipe_that_needs_itself(world):
    """A compiler in its own language."""
    world.recipe("go", ["go"], [*CYCLE, "echo $$how"], builder="bootstrap")
    assert world.make()[1] == ["stage-go", "go"]
    assert world.make()[1] == []


def test_a_stage_runs_without_what_closes_the_cycle(world):
    """ash needs lib to run, and lib ash to be built; two stages in one cycle."""
    packages = {"ash": {"dependencies": ["lib", "base"]}}
    world.recipe("ash", ["lib"], packages=packages, builder="bootstrap")
    script = ["test -f ../sysroot/ash", "test -f ../sysroot/base", "test ! -e ../sysroot/lib"]
    world.recipe("lib", ["ash", "make2"], script)
    world.recipe("make2", ["ash", "lib"], builder="bootstrap")
    world.recipe("base")
    built = world.make()[1]
    assert built[-2:] in (["ash", "make2"], ["make2", "ash"])
    assert sorted(built[:3]) == ["base", "stage-ash", "stage-make2"] and built[3] == "lib"
    assert world.make()[1] == []


def test_nobootstrap(world):
    """It forbids the stage for one dependency: where that closes the cycle, a problem."""
    c_world(world, nobootstrap={"cc": True})
    place = "recipes/libc/pkgen.yaml: build dependencies in a cycle: "
    line = f"{place}libc's stage -> cc -> libc's stage; `nobootstrap` forbids"
    assert told(world)[0] == [f"{line} the way out"]
    assert world.make(status=2)[1] == ["base"]
    c_world(world, nobootstrap={"cc": False, "base": True})
    assert world.make()[1] == ["stage-libc", "cc", "libc", "user"]


def test_a_cycle_through_what_a_package_needs_to_run(world):
    """Each cycle is one line, even where two meet in one recipe."""
    world.recipe("a", packages={"a": {"dependencies": ["b"]}})
    world.recipe("b", ["a"])
    world.recipe("c", ["d"])
    world.recipe("d", ["c", "e"])
    world.recipe("e", ["d"])
    world.recipe("behind", ["b", "e"])
    world.recipe("free")
    problems, rest = told(world)
    where = "recipes/{0}/pkgen.yaml: build dependencies in a cycle: {1}; " + WAY_OUT
    assert problems == [
        where.format("b", "b -> a -> b"),
        where.format("c", "c -> d -> c"),
        where.format("e", "e -> d -> e"),
    ]
    assert rest == [
        "3 recipes can't be built, nor what needs them (2 recipes):",
        "2 of 2 recipes to build or to look at, at most 0 sources to fetch",
    ]
    assert sorted(world.make(status=2)[1]) == ["a", "free"]


def why(world, package, *arguments):
    given = ["recipes", package, *arguments]
    done = run_tool("pkggen", "why", *given, cwd=world.folder, env=world.env)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_why(world):
    """Each input by its name, the lines of texts; then what is behind it."""
    files = ["file:patch", "file:tool", "file:old"]
    folder = world.recipe("a", ["lib"], ["true"], sources=files)
    for file in files:
        (folder / file[5:]).write_text("one")
    world.recipe("lib")
    world.recipe("b", ["a"])
    world.recipe("c", ["b"])
    assert why(world, "a") == [
        "a 1-0: never built",
        "  before it is built: lib 1-0",
        "behind it, to be looked at then: b c",
    ]
    world.make()
    assert why(world, "a") == ["a 1-0: up to date"]
    assert why(world, "c") == ["c 1-0: up to date"]
    world.recipe("a", ["lib"], ["false\t\x1b"], sources=[*files[:2], "file:new"], summary="it's")
    (folder / "new").write_text("one")
    (folder / "patch").write_text("two")
    (folder / "tool").chmod(0o755)
    (world.out / "x86_64/mk/builder").write_text("image\nhash\n")
    world.recipe("lib", script=["touch out/lib/more"])
    run_tool("pkggen", "build", "recipes/lib", cwd=world.folder, env=world.env)
    lines = why(world, "a")
    assert lines[0] == "a 1-0: what changed since it was built"
    assert lines[-1] == "behind it, to be looked at then: b c"
    assert "    - true" in lines and "    + false\\t\\x1b" in lines
    assert '    +    "summary": "it\'s"' in lines
    assert {line for line in lines[1:-1] if line[2] != " "} == {
        "  build.mk changed", "  metadata changed", "  builder changed", "  file patch changed",
        "  file tool has another mode", "  file new is new", "  file old is gone",
        "  package lib changed",
    }
    assert why(world, "c") == [
        "c 1-0: what changed since it was built",
        "  builder changed",
        "  before it is built: a 1-0, b 1-0",
    ]


def test_why_a_package_is_gone(world):
    world.recipe("a", packages={"a": None, "a-doc": None})
    world.make()
    (world.out / "repo/x86_64/a-doc-1-0.x86_64.lpkg").unlink()
    assert why(world, "a-doc") == [
        "a 1-0: what changed since it was built",
        f"  a package is not in {world.out}/repo/x86_64 as it was built",
    ]


def test_why_of_what_cannot_be_built(world):
    world.recipe("a", ["nothing"])
    world.recipe("b", scripts=["x"])
    problem = "recipes/a/pkgen.yaml: no recipe makes the build dependency nothing"
    assert why(world, "a") == [f"a: it can't be built: {problem}"]
    assert "unknown key scripts" in why(world, "b")[0]
    world.recipe("c", ["a"])
    assert why(world, "c") == ["c 1-0: never built", "  it needs what can't be built: a"]
    world.recipe("zlib")
    done = refused("why", "recipes", "zllib", cwd=world.folder, env=world.env)
    assert done == "pkggen: recipes: no recipe makes the package zllib; did you mean zlib?"


def test_why_of_a_record_without_texts(world):
    """As pkggen 0.1 wrote it."""
    world.recipe("a")
    world.make()
    path = world.out / "x86_64/mk/a.built"
    record = json.loads(path.read_text())
    del record["texts"]
    path.write_text(json.dumps(record))
    assert why(world, "a") == ["a 1-0: up to date"]
    world.recipe("a", script=["true"])
    assert why(world, "a")[1:] == ["  build.mk changed"]


def test_why_of_a_stage(world):
    c_world(world)
    assert why(world, "libc") == [
        "libc 1-0 (stage): never built",
        "  before it is built: base 1-0",
        "libc 1-0: never built",
        "  before it is built: base 1-0, libc 1-0 (stage), cc 1-0",
        "behind it, to be looked at then: cc user",
    ]
    world.make()
    assert why(world, "libc-dev") == ["libc 1-0 (stage): up to date", "libc 1-0: up to date"]
    world.recipe("base", script=["touch out/base/more"])
    arguments = ["recipes/base", "--before-libc"]
    run_tool("pkggen", "build", *arguments, cwd=world.folder, env=world.env)
    changed = ["  package base changed"]
    assert why(world, "libc") == [
        "libc 1-0 (stage): what changed since it was built", *changed,
        "libc 1-0: what changed since it was built", *changed,
        "  before it is built: libc 1-0 (stage)",
        "behind it, to be looked at then: cc user",
    ]


def graph(world, *arguments):
    done = run_tool("pkggen", "graph", "recipes", *arguments, cwd=world.folder, env=world.env)
    return done.stdout, done.stderr


def test_graph(world):
    c_world(world)
    world.recipe("x", ["y"])
    world.recipe("y", ["x"])
    world.recipe("lost", ["nowhere", "make"])
    world.recipe("broken", scripts=["x"])
    text, said = graph(world)
    assert len(said.splitlines()) == 3
    assert "recipes: 7 recipes, 8 packages. " in text
    thick = 'color="red", penwidth="2"'
    assert f'  "cc" -> "libc" [{thick}]\n' in text
    assert '  "libc" -> "base"\n' in text
    assert f'  "x" -> "y" [{thick}]\n' in text
    assert '  "lost" -> "nowhere"\n' in text and '"make"' not in text
    assert re.search(r'"libc" \[label="libc 1-0", .*, peripheries="2"\]\n', text)
    packages = {"z": {"dependencies": ["base"]}}
    world.recipe("z", packages=packages, summary='a "quoted\\" line')
    text = graph(world)[0]
    assert '  "z" -> "base" [style="dashed"]\n' in text
    assert 'tooltip="a \\"quoted\\\\\\" line"' in text


def test_graph_of_what_is_built(world):
    world.recipe("a")
    world.make()
    assert re.search(r'"a" \[label="a 1-0\\n\d+ s, \d+ B", ', graph(world)[0])


def test_graph_as_svg(world, tmp_path):
    c_world(world)
    world.recipe("odd", summary="<&\">\\N")
    assert graph(world, "-o", "g.dot") == graph(world, "-o", "g.svg") == ("", "")
    assert (world.folder / "g.dot").read_text() == graph(world)[0]
    svg = (world.folder / "g.svg").read_text()
    assert svg.count('class="node"') == 5 and "&lt;&amp;&quot;&gt;" in svg
    (tmp_path / "empty").mkdir()
    world.env["PATH"] = str(tmp_path / "empty")
    said = refused("graph", "recipes", "-o", "h.svg", cwd=world.folder, env=world.env)
    assert said == (
        "pkggen: Graphviz's dot is missing; `apt-get install graphviz`, or -o FILE.dot without it"
    )
    assert not (world.folder / "h.svg").exists()


# ---- lint, schema, new ---------------------------------------------------------------------------


LINTED = [pytest.param(body, id=name) for name, body in cases("lint.txt")]


@pytest.mark.parametrize("body", LINTED)
def test_lint(tmp_path, body):
    text, _, expected = body.partition("--- lint\n")
    folder = write_recipe(tmp_path / "r", text)
    found = sorted(set(pkggen.lint_recipe(str(folder), options())))
    said = [f":{line}:{column}: {what}" for _, line, column, what in found]
    assert said == expected.replace("RECIPE", str(folder)).strip("\n").splitlines()


def test_lint_of_several_recipes(tmp_path):
    """All below recipes/ when none is named: sorted, on stdout; the exit status says it too."""
    write_recipe(tmp_path / "recipes/b", recipe_text(scripts=[], script=["-rm out/p/x"]))
    write_recipe(tmp_path / "recipes/a", "packages: [\n")
    write_recipe(tmp_path / "recipes/c", recipe_text(script=["true >out/p/x"]))
    done = run_tool("pkggen", "lint", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [
        "recipes/a/pkgen.yaml:2:1",
        "recipes/b/pkgen.yaml:3:1",
        "recipes/b/pkgen.yaml:4:11",
        "recipes/b/pkgen.yaml:4:11",
    ]
    assert done.stderr == "pkggen: lint found something in 2 of 3 recipes\n"
    done = run_tool("pkggen", "lint", "recipes/c", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def test_lint_without_shellcheck(tmp_path):
    text = recipe_text(script=["-touch out/p/x", "rm $$(ls)"])
    write_recipe(tmp_path / "recipes/r", text)
    env = environment(PATH=tmp_path)
    done = run_tool("pkggen", "lint", cwd=tmp_path, env=env, check=False)
    assert re.fullmatch(r"recipes/r/pkgen.yaml:3:11: - before a command .*\n", done.stdout)
    assert done.stderr.startswith("lint    there is no shellcheck, ")


def test_our_own_recipes_are_lint_clean():
    done = run_tool("pkggen", "lint", cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# Debian's package, which the tests' own Python need not have.
VALIDATE = """
import json, sys
from jsonschema import Draft7Validator
schema, recipes = json.load(sys.stdin)
Draft7Validator.check_schema(schema)
errors = [[error.message for error in Draft7Validator(schema).iter_errors(x)] for x in recipes]
json.dump(errors, sys.stdout)
"""


def validated(texts):
    """What a validator says of the recipes TEXTS, as plain YAML has them; a list for each."""
    schema = json.loads(run_tool("pkggen", "schema").stdout)
    recipes = [pkggen.yaml.safe_load(text) for text in texts]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", VALIDATE], input=json.dumps([schema, recipes], default=str),
        stdout=subprocess.PIPE, text=True, check=True,
    )
    return json.loads(done.stdout)


def test_our_own_recipes_are_valid_by_the_schema():
    paths = sorted(ROOT.glob("recipes/*/*/pkgen.yaml"))
    assert len(paths) >= 10
    for path, errors in zip(paths, validated([path.read_text() for path in paths])):
        assert errors == [], path


def test_what_loads_is_valid_by_the_schema(tmp_path):
    texts = [
        "packages: {g++: , b: {dependencies: , owners: , summary: 1}}\nversion: 1.10\n",
        "packages: {a: }\nversion: yes\nsources:\nscript: ~\ndata:\nbuild: 3\nsha256:\n",
        "packages: {a: }\nversion: 1\nsources: [https://a.b/c, [https://a.b/d, ftp://a.b/d]]\n"
        "data: {x: [1, {y: ~}]}\ncross: no\narch: [x86]\nscript: [true, 1]\ntools: [x]\n"
        "nobootstrap: {x: true}\nbuild: '1'\n",
    ]
    for text in texts:
        load(tmp_path / "r", text)
    assert validated(texts) == [[]] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "scripts: []",
        "packages: {a: {dependancies: []}}",
        "packages: {a: [b]}",
        "packages: {a/b: }",
        "packages:",
        "version: [1]",
        "build: 1.5",
        "build: -1",
        "cross: 1",
        "sources: x",
        "sources: [[]]",
        "sources: [~]",
        "script: make",
        "script: [[x]]",
        "sha256: [x]",
        "data: [x]",
        "nobootstrap: {x: 1}",
    ],
)
def test_what_is_refused_is_not_valid_by_the_schema(tmp_path, text):
    fields = dict(line.split(":", 1) for line in ("packages: {a: }", "version: 1", text))
    text = "".join(f"{key}:{value}\n" for key, value in fields.items())
    refusal(tmp_path / "r", text)
    assert [len(errors) > 0 for errors in validated([text])] == [True]


def tarball(files, top="hello-1.2/"):
    """A .tar.gz of FILES, name to text; scripts can be run."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(top + name)
            info.size, info.mode = len(text), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()


MAKEFILE = """\
PREFIX = /usr/local
install:
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	echo x >$(DESTDIR)$(PREFIX)/bin/hello
"""
CONFIGURE = """\
#!/bin/sh
cat <<END
{help}
END
echo "install: ; mkdir -p \\$(DESTDIR)/usr; echo $* >\\$(DESTDIR)/usr/hello" >Makefile
"""
LIBRARY = """\
install:
	mkdir -p $(DESTDIR)/usr/lib/pkgconfig $(DESTDIR)/usr/include
	cd $(DESTDIR)/usr; touch lib/libhello.so.1 lib/libhello.a lib/pkgconfig/hello.pc \\
		lib/libhello.la include/hello.h
"""
BUILT_BY = {
    "configure": (
        {"configure": CONFIGURE.format(help="  --localstatedir=DIR\n  ${prefix}/include"),
         "CMakeLists.txt": ""},
        "usr/hello",
        "--build x86_64-pc-linux-musl --host x86_64-pc-linux-musl --prefix=/usr --sysconfdir=/etc "
        "--mandir=/usr/share/man --localstatedir=/var\n"),
    "own": ({"configure": CONFIGURE.format(help=""), "Makefile": "no"}, "usr/hello",
            "--prefix=/usr\n"),
    "unix": ({"unix/configure": CONFIGURE.format(help=""), "README": ""}, "usr/hello",
             "--prefix=/usr\n"),
    "make": ({"Makefile": MAKEFILE}, "usr/bin/hello", "x\n"),
    "without DESTDIR": ({"GNUmakefile": MAKEFILE.replace("$(DESTDIR)", "")}, "usr/bin/hello",
                        "x\n"),
    "without install": ({"Makefile": "hello:\n\techo y >hello\n"}, "usr/bin/hello", "y\n"),
}
IN_WORDS = {"configure": "autoconf's configure", "own": "a configure of its own",
            "unix": "a configure of its own"}


def new(world, upstream, data, *arguments, file="hello-1.2.tar.gz"):
    upstream.files[file] = data
    url = f"{upstream.base}/good/{file}"
    command = ["new", "hello", url, *arguments]
    return run_tool("pkggen", *command, cwd=world.folder, env=world.env, check=False)


def new_script(world, upstream, files):
    """The script that `new` writes for an archive of FILES, without its line that unpacks."""
    shutil.rmtree(world.folder / "recipes", ignore_errors=True)
    done = new(world, upstream, tarball(files))
    assert done.returncode == 0, done.stderr
    text = (world.folder / "recipes/core/hello/pkgen.yaml").read_text()
    return text.partition('{{unpack "hello"}}\n')[2].replace("    ", ""), done.stderr


@pytest.mark.parametrize(
    "kind, top",
    [(kind, "hello-1.2/") for kind in BUILT_BY] + [("make", top) for top in ("./hello/", "./", "")])
def test_new_writes_a_recipe_that_builds(world, upstream, kind, top):
    files, path, text = BUILT_BY[kind]
    done = new(world, upstream, tarball(files, top))
    said = f"recipes/core/hello/pkgen.yaml: hello 1.2, with {IN_WORDS.get(kind, 'a Makefile')}\n"
    assert done.returncode == 0 and f"new     {said}" in done.stderr, done.stderr
    world.make("all")
    assert world.packages() == ["hello-1.2-0.x86_64.lpkg"]
    with tarfile.open(world.out / "repo/x86_64/hello-1.2-0.x86_64.lpkg") as tar:
        assert tar.extractfile(path).read().decode() == text
    done = run_tool("pkggen", "lint", "recipes/core/hello", cwd=world.folder, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_new_gives_a_configure_of_its_own_the_compilers_of_the_build(world, upstream):
    """It may look for gcc alone, and what that compiles doesn't run here."""
    files = {"configure": "CC=gcc\n", "main.c": ""}
    assert "$(MAKE) -C hello CC=$(CC)\n" in new_script(world, upstream, files)[0]
    files = {"unix/configure": "CXX=g++\n", "main.cc": ""}
    install = "$(MAKE) -C hello/unix CC=$(CC) CXX=$(CXX) DESTDIR=$(CURDIR)/out/hello install"
    assert install in new_script(world, upstream, files)[0]


@pytest.mark.parametrize("file", ["config.mk", "Make.rules"])
def test_new_looks_into_what_a_makefile_includes(world, upstream, file):
    files = {"Makefile": f"include {file}\ninstall:\n\tcp x $(DESTDIR)$(PREFIX)\n",
             file: "$(call set, CC, cc)\nPREFIX = /usr/local\nx: $(DESTDIR)$(includedir)\n"}
    assert new_script(world, upstream, files)[0].startswith(
        "$(MAKE) -C hello CC=$(CC) PREFIX=/usr\n")


def test_new_writes_a_library_as_two_packages(world, upstream):
    files = {"configure": CONFIGURE.format(help="") + f"cat >Makefile <<'END'\n{LIBRARY}END\n"}
    assert new(world, upstream, tarball({**files, "hello.pc.in": ""})).returncode == 0
    world.make("all")
    contents = []
    for name in ("hello", "hello-dev"):
        with tarfile.open(world.out / f"repo/x86_64/{name}-1.2-0.x86_64.lpkg") as tar:
            contents.append({name for name in tar.getnames() if re.search(r"hello\.", name)})
    assert contents == [
        {"usr/lib/libhello.so.1"},
        {"usr/include/hello.h", "usr/lib/libhello.a", "usr/lib/pkgconfig/hello.pc"}]


MIT = "Permission is hereby granted,\n# free of charge, to any person\nobtaining a copy\n"
WRITTEN = """\
packages:
  hello:
  hello-dev:
    dependencies: [hello]
    summary: headers and static libraries of hello
  hello-doc:
    summary: manual of hello
version: 1.2
summary: "greets: you \\u00e9"
license: MIT
url: https://hello.example/
sources:
  - URL/good/hello-{{.Version}}.tar.gz
sha256:
  hello-1.2.tar.gz: DIGEST
builddependencies: [linux-headers, ncurses, zlib-dev]
script:
  - |
    {{unpack "hello"}}
    {{configure "hello" "--with-shared --disable-nls --enable-pc-files"
      "--with-pkg-config-libdir=/usr/lib/pkgconfig"}}
    $(MAKE) -C hello
    $(MAKE) -C hello DESTDIR=$(CURDIR)/out/hello install
    {{dev "hello"}}
    {{doc "hello"}}
"""


def test_new_fills_in_what_the_source_says(world, upstream):
    for name in ("ncurses", "linux-headers"):
        world.recipe(name)
    world.recipe("z", packages={"z": None, "zlib-dev": None})
    data = tarball({
        "configure": "  --localstatedir=DIR\n  --with-shared  make shared libraries\n  "
                     "--disable-nls \n  --with-pkg-config-libdir=DIR\n  --enable-pc-files \n",
        "configure.ac": "PKG_CHECK_MODULES([Z], [zlib >= 1.2 bar])\nAC_CHECK_LIB(m, sin)\n"
                        "MY_CHECK_LIB([ncurses], [f])\nAC_CHECK_LIB($1, $2)\n",
        "src/Makefile.am": "include_HEADERS = hello.h\n", "tests/a.c": "PKG_CHECK_MODULES(X, no)",
        "src/hello.c": "\t# include <linux/kd.h>\n", "COPYING": MIT,
        "doc/hello.1": ".TH H\n.SH NAME\nhello \\- greets: you \u00e9.\n.SH MORE\n",
        "README": "see https://hello.example/.\nor https://hello.example/hello.git\n"})
    done = new(world, upstream, data)
    expected = WRITTEN.replace("URL", upstream.base).replace("DIGEST", sha256(data))
    assert (world.folder / "recipes/core/hello/pkgen.yaml").read_text() == expected
    assert done.stderr.splitlines()[-1] == (
        "new     it asks for bar, which no recipe of the tree makes")


def test_new_tells_of_a_manual_that_the_archive_lacks(world, upstream):
    """Debian's archives of some GNU programs do, and make stops at it."""
    files = {"configure": "--localstatedir=DIR", "doc/hello.texi": "",
             "doc/Makefile.in": "info_TEXINFOS =  hello.texi more.texi\ninfo_TEXINFOS =\n"}
    assert ".texi" not in new_script(world, upstream, files)[1]
    del files["doc/hello.texi"]
    said = new_script(world, upstream, {**files, "x": ""})[1]
    assert "new     the archive has no hello.texi, as Debian leaves some manuals out; if" in said


def test_new_finds_libraries_in_built_packages(world, upstream):
    """ncursesw is a name that only the files of ncurses-dev have."""
    script = ["cd out/ncurses-dev", "mkdir -p usr/lib/pkgconfig", "echo >usr/lib/libmenuw.a",
              "echo >usr/lib/pkgconfig/ncursesw.pc", "cd ../.."]
    world.recipe("ncurses", packages={"ncurses": None, "ncurses-dev": None}, script=script)
    world.make("all")
    for ask in ("PKG_CHECK_MODULES(NC, ncursesw)", "AC_SEARCH_LIBS([f], [curses menuw])"):
        _, said = new_script(world, upstream, {"configure.ac": ask, "x.c": ""})
        shutil.copytree(world.folder / "recipes/core", world.folder / "kept", dirs_exist_ok=True)
        world.recipe("ncurses", packages={"ncurses": None, "ncurses-dev": None}, script=script)
        text = (world.folder / "kept/hello/pkgen.yaml").read_text()
        assert "builddependencies: [ncurses-dev]\n" in text and "ncursesw" not in said


@pytest.mark.parametrize(
    "makefile, build, install",
    [
        # tree's: DESTDIR is where programs go.
        ("CC=gcc\nPREFIX=/usr/local\nDESTDIR=${PREFIX}/bin\nMANDIR=${PREFIX}/man\ninstall: hello\n",
         " CC=$(CC)", " CC=$(CC) PREFIX=$(CURDIR)/out/hello/usr "
         "MANDIR=$(CURDIR)/out/hello/usr/share/man"),
        # bzip2's
        ("PREFIX=/usr\ninstall:\n\tcp a $(PREFIX)/bin\n\tcp a.1 $(PREFIX)/man/man1\n", "",
         " PREFIX=$(CURDIR)/out/hello/usr"),
        # Lua's
        ("INSTALL_TOP= /usr/local\nINSTALL_MAN= $(INSTALL_TOP)/man/man1\ninstall: dummy\n", "",
         " INSTALL_TOP=$(CURDIR)/out/hello/usr INSTALL_MAN=$(CURDIR)/out/hello/usr/share/man/man1"),
        # lz4's
        ("DESTDIR ?=\nprefix ?= /usr/local\ninstall uninstall:\n\tcp a $(DESTDIR)$(prefix)\n",
         " prefix=/usr", " prefix=/usr DESTDIR=$(CURDIR)/out/hello"),
        ("install: hello\n\tcp hello /usr/bin\n", "",
         " PREFIX=$(CURDIR)/out/hello/usr prefix=$(CURDIR)/out/hello/usr"),
    ])
def test_new_reads_a_makefile_s_variables(world, upstream, makefile, build, install):
    script, _ = new_script(world, upstream, {"Makefile": makefile})
    make_hello = "$(MAKE) -C hello"
    moves = "mkdir -p out/hello/usr/share && mv out/hello/usr/man out/hello/usr/share/man\n"
    assert script == f"{make_hello}{build}\n{make_hello}{install} install\n" + (
        moves if "cp a.1" in makefile else "")


@pytest.mark.parametrize(
    "files, lines, words",
    [
        ({"meson.build": "", "Makefile": "all:"},
         '{{meson "hello"}}\nninja -C hello-build\n'
         "DESTDIR=$(CURDIR)/out/hello ninja -C hello-build install\n", "meson"),
        ({"CMakeLists.txt": "", "x.cpp": ""},
         '{{cmake "hello"}}\n$(MAKE) -C hello-build\n'
         "$(MAKE) -C hello-build DESTDIR=$(CURDIR)/out/hello install\n",
         "it asks for C++, and no recipe of the tree makes libstdc++-dev"),
        ({"CMakeLists.txt": "project(hello\n  LANGUAGES C CXX)", "x.c": ""},
         '{{cmake "hello"}}\n$(MAKE) -C hello-build\n'
         "$(MAKE) -C hello-build DESTDIR=$(CURDIR)/out/hello install\n",
         "it asks for C++, and no recipe of the tree makes libstdc++-dev"),
        ({"configure.ac": "", "src/Makefile": ""},
         '(cd hello && autoreconf -fi)\n{{configure "hello"}}\n$(MAKE) -C hello\n'
         "$(MAKE) -C hello DESTDIR=$(CURDIR)/out/hello install\n",
         "nothing tells its license; fill that in"),
        ({"Makefile": "all:\n\tcc x.c\n"}, "$(MAKE) -C hello\n"
         "# The Makefile has no target `install`: install what it makes below out/NAME.\n",
         "a Makefile"),
    ])
def test_new_by_what_there_is(world, upstream, files, lines, words):
    script, said = new_script(world, upstream, files)
    assert script == lines.replace("NAME", "hello") and words in said


GPL2 = "GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991\n"
LATER = "either version 2 of the License, or (at your\n * option) any later version"
NOTICE = "/* under the GNU General Public License,\n * VERSION */"
BSD = "Redistribution and use in source and binary forms, with or without"


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"COPYING": GPL2, "a.c": NOTICE.replace("VERSION", LATER)}, "GPL-2.0-or-later"),
        ({"COPYING": GPL2, "a.c": NOTICE.replace("VERSION", "version 2")}, "GPL-2.0-only"),
        ({"COPYING": GPL2 + "any later version"}, "GPL-2.0-only"),
        ({"COPYING": GPL2, "README": "Released under the GPLv2+"}, "GPL-2.0-or-later"),
        ({"COPYING": GPL2, "LICENSE": BSD, "README": "under either the GPLv2 or the BSD license"},
         "GPL-2.0-only OR BSD-2-Clause"),
        ({"lib/LICENSE": BSD, "cli/COPYING": GPL2}, "GPL-2.0-only AND BSD-2-Clause"),
        ({"LICENSE": BSD + " ... Neither the name of the author"}, "BSD-3-Clause"),
        ({"LICENSE": BSD, "a.c": GPL2}, "BSD-2-Clause"),
        ({"COPYING": GPL2.replace("GNU", "GNU LESSER").replace("2,", "2.1,"),
          "a.c": "LGPL v2.1 or later"}, "LGPL-2.1-or-later"),
        ({"a.c": "// SPDX-License-Identifier: GPL-2.0-or-later */", "COPYING": GPL2},
         "GPL-2.0-or-later"),
        ({"license.terms": "ask", "libtommath/a.c": "// SPDX-License-Identifier: Unlicense\n",
          "pkgs/LICENSE": BSD}, ""),
        ({"src/lua.h": "int x;\n" + MIT.replace("#", " *")}, "MIT"),
        ({"LICENSE.md": "Apache License\n   Version 2.0, January 2004"}, "Apache-2.0"),
        ({"README": "This is in the public domain."}, "LicenseRef-public-domain"),
        ({"a.c": "int x;"}, ""),
    ])
def test_new_tells_the_license(files, expected):
    assert pkggen.license_of(pkggen.Archive(list(files), files, {}, [])) == expected


SHOWSRC = """\
Package: libhello
Binary: hello, libhello-dev
Version: 1:1.2-1
Build-Depends: debhelper (>= 9), libfoo-dev (>= 1), autotools-dev,
 libtest-dev <!nocheck>, libc6-dev, linux-libc-dev
Homepage: https://hello.example/
Package-List:
 lib32hello deb libs optional arch=any
 hello deb utils optional arch=any

"""
NEW_APT = r"""#!/bin/sh
case "$*" in
*indextargets*) echo "Debian http://m.example/d s main" ;;
*--print-uris*)
    echo "'$UPSTREAM/none' libhello_1.2+ds.orig-www.tar.gz 9 SHA256:$DIGEST"
    echo "'$UPSTREAM/$FILE' $FILE 9 SHA256:$DIGEST" ;;
*showsrc*autotools*) printf 'Package: autotools-dev\n\nPackage: foo\n\n' ;;
*showsrc*libfoo-dev) printf 'Package: foo\nBinary: libfoo-dev\n\n' ;;
*showsrc*) cat "$SHOWSRC" ;;
*show*hello) printf 'Package: hello\nDescription-en: greets you\n with more\n\n' ;;
esac
"""


def test_new_of_deb_src_asks_debian(world, upstream, fake_apt, tmp_path):
    data = tarball({"Makefile": MAKEFILE})
    upstream.files["libhello_1.2+ds.orig.tar.gz"] = data
    for name in ("apt-get", "apt-cache"):
        (tmp_path / "bin" / name).write_text(NEW_APT)
    (tmp_path / "showsrc").write_text(SHOWSRC)
    env = {**world.env, "PATH": fake_apt["PATH"], "DIGEST": sha256(data),
           "SHOWSRC": str(tmp_path / "showsrc"), "UPSTREAM": upstream.base + "/good",
           "FILE": "libhello_1.2+ds.orig.tar.gz"}
    done = run_tool("pkggen", "new", "hello", "deb-src:hello", cwd=world.folder, env=env)
    text = (world.folder / "recipes/core/hello/pkgen.yaml").read_text()
    for line in ("version: 1.2", "summary: greets you", "url: https://hello.example/",
                 "  - deb-src:hello=1:1.2-1/libhello_{{.Version}}+ds.orig.tar.gz"):
        assert line + "\n" in text
    assert [line for line in done.stderr.splitlines() if "Debian" in line] == [
        "new     Debian builds it with foo, of which there is no recipe; "
        "`pkggen.py new foo deb-src:foo` writes one"]
    shutil.rmtree(world.folder / "recipes")
    world.recipe("foo", packages={"foo": None, "foo-dev": None})
    done = run_tool("pkggen", "new", "hello", "deb-src:hello", cwd=world.folder, env=env)
    text = (world.folder / "recipes/core/hello/pkgen.yaml").read_text()
    assert "builddependencies: [foo-dev]\n" in text and "Debian" not in done.stderr
    shutil.rmtree(world.folder / "recipes")         # the library by another name than Debian's
    packages = {"food": None, "food-dev": None}
    world.recipe("food", sources=["deb-src:foo=1-1/foo_1.orig.tar.gz"], packages=packages)
    done = run_tool("pkggen", "new", "hello", "deb-src:s/hello=1:1.2-1", cwd=world.folder, env=env)
    text = (world.folder / "recipes/core/hello/pkgen.yaml").read_text()
    assert "builddependencies: [food-dev]\n" in text and "Debian" not in done.stderr
    assert "  - deb-src:s/hello=1:1.2-1/libhello_{{.Version}}+ds.orig.tar.gz\n" in text


def test_new_never_overwrites(world, upstream):
    (world.folder / "recipes/core/hello").mkdir(parents=True)
    (world.folder / "recipes/core/hello/pkgen.yaml").symlink_to("nothing")
    done = new(world, upstream, tarball({"Makefile": ""}))
    place = "pkggen: recipes/core/hello/pkgen.yaml"
    hint = "there is one already; remove it, or give another directory with -o"
    assert one_line(done) == f"{place}: {hint}"
    assert upstream.asked == [] and not (world.folder / "recipes/core/hello/nothing").exists()


@pytest.mark.parametrize(
    "data, file, message",
    [
        (tarball({"README": ""}), "hello-1.2.tgz", "hello-1.2.tgz: it has no configure, meson"),
        (b"PK\x03\x04", "hello-1.2.zip", "hello-1.2.zip: not a whole tar (gz, bz2, xz); write the"),
        (tarball({"Makefile": "x" * 9000})[:-99], "hello-1.tgz", "a whole tar (gz, bz2, xz);"),
        (b"", "hello.tar.gz", "hello.tar.gz: not a name like hello-1.2.tar.gz; write the"),
        (b"", "hello-1.2'.tar", "hello-1.2'.tar: not a name like hello-1.2.tar.gz; write the rec"),
        (None, "hello-1.tar", "there is nothing to be had; give a URL that can be fetched"),
    ])
def test_new_of_what_it_can_do_nothing_with(world, upstream, data, file, message):
    done = new(world, upstream, data, file=file)
    assert message in last_line(done)
    assert not (world.folder / "recipes").exists()


@pytest.mark.parametrize("name", ["../x", "a b", "-rf", "$x", ""])
def test_s19_new_of_a_name_that_is_none(tmp_path, name):
    said = refused("new", "--", name, "https://localhost/hello-1.2.tar.gz", cwd=tmp_path)
    assert said.endswith("not a name for a recipe; use letters, digits and + . _ -")


ZEROS = 1 << 26     # bytes, which bzip2 makes 46 of


@pytest.mark.parametrize(
    "kind, size, message",
    [(b"0", 8 << 30, "over 2.1 GB when it is unpacked; write the recipe by hand"),
     (b"L", 1 << 30, "it takes over 536.9 MB of memory to look into; write the recipe by hand"),
     (b"x", 1 << 30, "it takes over 536.9 MB of memory to look into; write the recipe by hand")])
def test_s44_new_on_an_archive_that_claims_gigabytes(world, upstream, kind, size, message):
    """A file of 8 GB, and headers of 1 GB, which bzip2 makes a few kilobytes."""
    member = tarfile.TarInfo("hello-1.2/Makefile")
    member.size, member.type = size, kind
    zeros = bz2.compress(bytes(ZEROS))
    data = bz2.compress(member.tobuf(tarfile.GNU_FORMAT)) + zeros * (size // ZEROS)
    assert len(data) < 20_000
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = new(world, upstream, data, file="hello-1.2.tar.bz2")
    assert last_line(done).endswith(f"hello-1.2.tar.bz2: {message}")
    assert time.monotonic() - began < 30
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before + 1, 700_000)
    assert not (world.folder / "recipes").exists()


def test_s44_new_on_an_archive_takes_no_more_than_its_time(monkeypatch):
    monkeypatch.setattr(pkggen, "LOOK_SECONDS", 1)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(pkggen.Fail, match="f: not looked through in 1 s; write the recipe"):
        with pkggen.bounded("f"):
            re.search("(a|aa)*b", "a" * 38)     # ten seconds or more
    assert resource.getrlimit(resource.RLIMIT_AS) == limit and signal.alarm(0) == 0


@pytest.mark.parametrize(
    "text", ["a\nscript: [evil]", "x: y", "{{.Version}}", "# c", "- a", "\x1b[0m", "'", "a #b"])
def test_s44_new_of_texts_that_are_not_values(world, upstream, text):
    """What an archive's author wrote stays one value in the recipe, whatever YAML it would be."""
    page = f".SH NAME\nhello \\- {text}\n"
    assert new(world, upstream, tarball({"Makefile": MAKEFILE, "hello.1": page})).returncode == 0
    recipe = load_recipe_of(world.folder / "recipes/core/hello")
    assert recipe.fields["summary"] == text.partition("\n")[0].strip().replace("\\", "")
    assert "evil" not in recipe.script


@pytest.mark.parametrize("folder", ["$(shell touch evil)", "a\n    x", "{{.Data}}", "a b", "a;b"])
def test_s44_new_of_directories_that_are_shell(world, upstream, folder):
    """Nothing that an archive's author named stands in the script."""
    done = new(world, upstream, tarball({f"{folder}/Makefile": MAKEFILE, "README": ""}))
    assert "hello-1.2.tar.gz: it has no configure, meson.build," in last_line(done)


@pytest.mark.parametrize(
    "file, version",
    [
        ("hello-1.2.tar.gz", "1.2"),
        ("v1.2.3.tar.xz", "1.2.3"),
        ("Hello_1.2.dfsg.orig.tar.bz2", "1.2"),
        ("lua5.4_5.4.4.orig.tar.gz", "5.4.4"),
        ("hello2-1.0-rc1.tgz", "1.0-rc1"),
        ("hello-2024-01-02.tar", "2024-01-02"),
        ("other-lib3-1.2b.tbz2", "1.2b"),
    ])
def test_new_reads_the_version_in_the_file_s_name(file, version):
    assert pkggen.version_of(file, "hello") == version


def test_new_writes_the_version_into_the_url_where_it_is_that():
    url = "http://127.0.0.1:8010/v1.0/x11/hello-1.0.tar.gz?a=1.0"
    expected = "http://127.0.0.1:8010/v{{.Version}}/x11/hello-{{.Version}}.tar.gz?a=1.0"
    assert pkggen.versioned_url(url, "1.0") == expected
    url, version = "deb-src:lua5.4/lua5.4_5.4.orig.tar.gz", "{{.Version}}"
    assert pkggen.versioned_url(url, "5.4") == f"deb-src:lua5.4/lua5.4_{version}.orig.tar.gz"
    assert pkggen.versioned_url("ftp://h1/1/a-1.tar#'", "1") == '"ftp://h1/1/a-{{.Version}}.tar#\'"'


# Twenty of the mistakes in bad-recipes.txt, as the page on pkggen shows them.
PAGE = (ROOT / "docs/pkggen.md").read_text().partition("## Twenty broken recipes\n")[2]
SHOWN = re.findall(r"^(\w+:.*)\n(pkggen: .*\n(?: .*\n)*)", PAGE.partition("\n## ")[0], re.MULTILINE)


def test_twenty_are_shown():
    assert len(SHOWN) == 20


@pytest.mark.parametrize("line, message", SHOWN, ids=[line for line, _ in SHOWN])
def test_what_the_page_shows_is_what_is_printed(tmp_path, line, message):
    lines = {text.partition(":")[0]: text for text in ("packages: {a: }", "version: 1", line)}
    write_recipe(tmp_path / "recipes/a", "\n".join(lines.values()) + "\n")
    done = run_tool("pkggen", "script", "recipes/a", cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (1, message)


# ---- add-patch -----------------------------------------------------------------------------------


def patched_recipe(folder, text):
    """The recipe of TEXT after `add-patch fix.patch`, and what was said."""
    write_recipe(folder, text)
    (folder / "fix.patch").write_text("--- a/x/y\n+++ b/x/y\n")
    done = run_tool("pkggen", "add-patch", folder, "fix.patch", check=False)
    assert done.returncode == 0 or done.stderr.count("\n") == 1
    return (folder / "pkgen.yaml").read_bytes().decode(), done


PATCHED = [
    # sources, script: the line before which each addition is, and what it is
    ("- self:lpkg.py  # why", "- |\n    {{unpack \"x\" \"lpkg.py\"}}\n    make -C x\n",
     "- self:lpkg.py  # why\n  - file:fix.patch",
     "- |\n    {{unpack \"x\" \"lpkg.py\"}}\n    patch -p1 <src/fix.patch\n    make -C x\n"),
    ("- - https://h.test/x.tar\n    - https://i.test/x.tar",
     "- tar -xf src/lpkg.py\n  - mv x-1 x\n  - make\n",
     "- - https://h.test/x.tar\n    - https://i.test/x.tar\n  - file:fix.patch",
     "- tar -xf src/lpkg.py\n  - mv x-1 x\n  - patch -p1 <src/fix.patch\n  - make\n"),
    ("- self:lpkg.py\n\n  # end", "- tar xf src/lpkg.py\n",
     "- self:lpkg.py\n  - file:fix.patch\n\n  # end",
     "- tar xf src/lpkg.py\n  - patch -p1 <src/fix.patch\n"),
    ("[self:lpkg.py]", "- |\n    tar -xf src/lpkg.py\n    patch -p1 <src/lpkg.py",
     "[self:lpkg.py, file:fix.patch]",
     "- |\n    tar -xf src/lpkg.py\n    patch -p1 <src/lpkg.py\n    patch -p1 <src/fix.patch"),
    ("- self:lpkg.py", "- tar -xf src/lpkg.py\n  - make\n  - sed -i s/a/b/ out/p/x.pc\n",
     "- self:lpkg.py\n  - file:fix.patch",
     "- tar -xf src/lpkg.py\n  - patch -p1 <src/fix.patch\n  - make\n"
     "  - sed -i s/a/b/ out/p/x.pc\n"),
]


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("sources, script, new_sources, new_script", PATCHED)
def test_add_patch_changes_nothing_else(
        tmp_path, newline, sources, script, new_sources, new_script):
    form = "# Ours.\npackages: {p: }\nversion: 1 # one\nsources:\n  %s\nscript:\n  %s"
    text, done = patched_recipe(tmp_path / "r", (form % (sources, script)).replace("\n", newline))
    assert done.returncode == 0, done.stderr
    assert text == (form % (new_sources, new_script)).replace("\n", newline)


@pytest.mark.parametrize("script", [
    "- make\n", "- |\n    for x in 1; do\n      tar -xf src/lpkg.py\n    done\n",
    "- |\n    tar -xf \\\n      src/lpkg.py\n", "- >\n    tar -xf src/lpkg.py\n",
    "- '{{range .Packages}}tar -xf src/lpkg.py'\n  - '{{end}}'\n",
    "['tar xf src/lpkg.py', make]\n", "- tar -xf src/lpkg.py\n    x\n",
])
def test_add_patch_leaves_to_a_person_what_is_not_certain(tmp_path, script):
    given = f"packages: {{p: , q: }}\nversion: 1\nsources: [self:lpkg.py]\nscript:\n  {script}"
    text, done = patched_recipe(tmp_path / "r", given)
    assert done.returncode == 1 and text == given
    assert "`file:fix.patch` to sources" in done.stderr
    assert "`patch -p1 <src/fix.patch` to script" in done.stderr


def test_s45_add_patch_writes_through_no_link(tmp_path):
    given = "packages: {p: }\nversion: 1\nsources: [self:lpkg.py]\nscript: [tar -xf x]\n"
    (tmp_path / "mine").write_text(given)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/fix.patch").touch()
    (tmp_path / "r/pkgen.yaml").symlink_to(tmp_path / "mine")
    done = run_tool("pkggen", "add-patch", tmp_path / "r", "fix.patch", check=False)
    assert done.returncode == 1 and "a link, and what it leads to is not changed" in done.stderr
    assert (tmp_path / "mine").read_text() == given and (tmp_path / "r/pkgen.yaml").is_symlink()
    assert run_tool("pkggen", "add-patch", tmp_path, "../x", check=False).returncode == 1


# ---- what DESIGN.md says of recipes --------------------------------------------------------------


SPELLINGS = "1.10 0x10 010 1e3 1_000 yes No on off 2024-01-01 0b1 true 1.0 12e-3".split()


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_text_keeps_its_spelling(tmp_path, text):
    recipe = load(
        tmp_path / "r",
        f"packages: {{{text}: {{dependencies: [{text}], conffiles: [{text}]}}}}\n"
        f"version: {text}\nsummary: {text}\nbuilddependencies: [{text}]\narch: [{text}]\n"
        f"sha256: {{{text}: '{'0' * 64}'}}\nscript: [{text}]\ndata: {{{text}: x}}\n",
    )
    (package,) = recipe.packages.values()
    assert list(recipe.packages) == package["dependencies"] == package["conffiles"] == [text]
    assert recipe.fields["summary"] == recipe.fields["version"] == recipe.script == text
    assert recipe.fields["builddependencies"] == recipe.fields["arch"] == [text]
    assert list(recipe.fields["sha256"]) == list(recipe.fields["data"]) == [text]


def yaml_scalars():
    lines = (ROOT / "tests/data/yaml-v2.txt").read_text().splitlines()
    for line in lines:
        if not line.startswith("#"):
            yield line.split("\t")


@pytest.mark.parametrize("text, kind, value", list(yaml_scalars()))
def test_data_has_the_values_that_yaml_v2_gives(tmp_path, text, kind, value):
    recipe = load(
        tmp_path / "r",
        f"packages: {{p: }}\nversion: 1\ndata:\n  k: {text}\n"
        'script: [\'{{printf "%T %v" .Data.k .Data.k}}\']\n',
    )
    # Go's own integer literals are int or nothing; this engine has no other kind.
    assert recipe.script == f"{kind.replace('uint64', 'int')} {value}"


@pytest.mark.parametrize("builder", ["", "~", "alpine", "panux", "default", "docker"])
def test_builders_are_one_and_docker_is_the_default(tmp_path, builder):
    line = f"builder: {builder}\n" if builder else ""
    text = f"packages: {{p: }}\nversion: 1\n{line}script: ['{{{{.Builder}}}}']\n"
    assert load(tmp_path / "r", text).script == "docker"


def test_only_sources_script_and_check_are_templates(tmp_path):
    word = "{{.Version}}"
    recipe = load(
        tmp_path / "r",
        recipe_text(
            packages={"p": {"summary": word, "conffiles": [word]}}, summary=word, license=word,
            url=word, sources=["https://example.org/" + word], builddependencies=[word],
            data={"x": word}, script=[word, "{{.Data.x}}"], check=[word],
        ),
    )
    assert (recipe.script, recipe.check, recipe.sources[0].name) == (f"1\n{word}", "1", "1")
    fields = recipe.fields
    assert {fields["summary"], fields["license"], fields["url"], fields["data"]["x"]} == {word}
    assert fields["builddependencies"] == recipe.packages["p"]["conffiles"] == [word]
    assert recipe.packages["p"]["summary"] == word


def test_oneshell_and_tools_are_ignored(tmp_path):
    text = recipe_text(script=["x"], oneshell=True, tools={"a": ["b"]})
    plain = load(tmp_path / "r", recipe_text(script=["x"]))
    recipe = load(tmp_path / "r", text)
    assert pkggen.build_mk(recipe) == pkggen.build_mk(plain)
    assert pkggen.metadata(recipe) == pkggen.metadata(plain)


def test_a_name_with_a_plus_is_built(world):
    packages = {"g++": None, "libstdc++-dev": {"dependencies": ["g++"]}}
    script = ["touch out/g++/a out/libstdc++-dev/b"]
    world.recipe("g++", packages=packages, script=script, version="r1+2")
    world.recipe("user", needs=["libstdc++-dev"])
    assert world.make("all")[1] == ["g--", "user"]      # as a container is called
    assert {"g++-r1+2-0.x86_64.lpkg", "libstdc++-dev-r1+2-0.x86_64.lpkg"} < set(world.packages())
    assert world.make("package/g++")[1] == []


@pytest.mark.parametrize(
    "line, message",
    [
        ("data: !!set {x}", "the YAML tag tag:yaml.org,2002:set; recipes have plain values only"),
        ("data: {x: &x [], y: *x}", "a YAML alias; write the value out where it is used"),
        ("build: x", "build is 'x', not a whole number from 0 up"),
        ("sources: [x]", "'x' begins with none of "),
    ],
)
def test_lenient_forgives_no_more_than_keys(tmp_path, capsys, line, message):
    text = f"packages: {{a: {{x: }}}}\nversion: 1\nxx: 1\n{line}\n"
    assert message in refusal(tmp_path / "r", text, lenient=True)
    warnings = capsys.readouterr().err.splitlines()
    assert all("warning" in line and "unknown key x" in line for line in warnings)


def test_of_duplicate_keys_lenient_takes_the_last(tmp_path, capsys):
    """As yaml.v2 does, in each kind of map; where they stand is said."""
    text = (
        "packages: {a: {dependencies: [x]}, a: {dependencies: [y]}}\nversion: 1\nversion: 2\n"
        "data: {m: {k: 1, 2: b, k: 3, 0x2: c}}\nscript: ['{{.Version}} {{.Data.m.k}}']\n"
    )
    recipe = load(tmp_path / "r", text, lenient=True)
    assert recipe.packages["a"]["dependencies"] == ["y"]
    assert (recipe.script, recipe.fields["data"]) == ("2 3", {"m": {"k": 3, 2: "c"}})
    path = f"pkggen: warning: {tmp_path}/r/pkgen.yaml"
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"{path}:1:36: packages has a twice; keep one",
        f"{path}:3:1: the recipe has version twice; keep one",
        f"{path}:4:24: data.m has k twice; keep one",
        f"{path}:4:30: data.m has 0x2 twice; keep one",
    ]


@pytest.mark.parametrize("lenient", [False, True])
def test_keys_of_maps_in_data_keep_their_type(tmp_path, lenient):
    """Those of .Data itself are what a template calls them by, and so text."""
    text = (
        "packages: {a: }\nversion: 1\n"
        "data: {y: [{10: a, 9: b, 1.5: c, no: d, '8': e, ~: f, x y: g}], 3: h}\n"
    )
    data = load(tmp_path / "r", text, lenient=lenient).fields["data"]
    keys = list(data["y"][0])
    assert keys == [10, 9, 1.5, False, "8", "", "x y"] and list(data) == ["y", "3"]
    assert [type(key) for key in keys] == [int, int, float, bool, str, str, str]


def test_strip_and_allow(tmp_path):
    fields = load(tmp_path / "r", recipe_text()).fields
    assert (fields["strip"], fields["allow"]) == (True, {})
    text = recipe_text(strip=False, allow={"soname": "the loader itself"})
    fields = load(tmp_path / "r", text).fields
    assert (fields["strip"], fields["allow"]) == (False, {"soname": "the loader itself"})


def test_lenient_in_a_package(tmp_path, capsys):
    recipe = load(tmp_path / "r", "packages: {a: {x: [y]}}\nversion: 1\n", lenient=True)
    assert list(recipe.packages) == ["a"]
    said = "pkgen.yaml:1:16: unknown key x in packages.a; known are dependencies, "
    assert said in capsys.readouterr().err
