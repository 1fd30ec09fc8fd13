"""The house's own rules: what stands twice is the same, shell is clean, files keep their form."""
import argparse
import inspect
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, load_tool, run_tool

OTHER_PYTHON = [ROOT / name for name in (
    "world/pkggen", "world/progress", "world/sizes", "initd/linit-grow",
    "initd/linit-log.py")]
SHELL = sorted(
    path for folder in ("world", "initd") for path in (ROOT / folder).iterdir()
    if path.is_file() and path.suffix not in (".awk", ".c", ".html") and path not in OTHER_PYTHON
)
SERVICES = [*(path for path in SHELL if path.parent.name == "initd"),
             *sorted((ROOT / "recipes").glob("*/*/*.init"))]
PYTHON = sorted([*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py"), *OTHER_PYTHON])
RECIPES = sorted(ROOT.glob("recipes/*/*/pkgen.yaml"))
TEXT = [*SHELL, *PYTHON, *ROOT.glob("initd/*.c"), ROOT / "initd/lpkg-get.awk", ROOT / "Makefile",
        ROOT / "world/page.html"]
# About what one sitting takes (docs/HACKING.md). What is over is said, and does not fail.
ONE_SITTING = {"pkggen.py": 3700, "lpkg.py": 4000, "linitd.py": 1800, "linitctl.py": 1250,
               "initd/linit-idle.c": 200, "initd/linit-log.c": 200}
SERVICE_LINES = 25
RECIPE_LINES = 80
SHELL_LINES = {"init": 100, "rc.common": 110, "linit-start": 135, "linit-alone": 175,
               "linit-supervise": 60, "linit-sup": 80, "linit-rescue": 110, "lpkg-finish": 35,
               "lpkg-get": 130, "udhcpc.script": 110}


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def shared_block(script):
    text = (ROOT / script).read_text()
    return text[text.index("# ---- shared block"):text.index("# ---- end of the shared block")]


def test_the_shared_block_is_the_same_byte_for_byte():
    assert shared_block("pkggen.py") == shared_block("lpkg.py")


def test_what_two_programs_in_c_share_is_the_same_byte_for_byte():
    block = re.compile(r"^/\* ---- the same in .*^/\* ---- end of ", re.MULTILINE | re.DOTALL)
    first, second = [block.search(path.read_text())[0] for path in ROOT.glob("initd/*.c")]
    assert first == second and len(first) > 1000


@pytest.mark.parametrize("path", TEXT, ids=names(TEXT))
def test_no_line_is_over_100_columns(path):
    lines = enumerate(path.read_text().splitlines(), 1)
    assert not [number for number, line in lines if len(line) > 100]


@pytest.mark.parametrize("path", sorted({*SHELL, *SERVICES}), ids=lambda path: path.name)
def test_shell_is_clean(path):
    # A variable that an init script sets is a setting, which rc.common or linit-start reads.
    settings = ["--exclude=SC2034"] if path in SERVICES else []
    done = subprocess.run(
        ["shellcheck", "-x", "--shell=sh", *settings, path], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_init_scripts_are_short_and_say_what_they_are(path):
    lines = path.read_text().splitlines()
    assert re.match(r"# /?\S+( .*)?:", lines[1])
    assert len(lines) <= SHELL_LINES.get(path.name, SERVICE_LINES)


def test_the_services_of_recipes_pass_linitctl_check(tmp_path):
    for path in SERVICES:
        if path.read_text().startswith("#!/etc/rc.common\n"):
            shutil.copy(path, tmp_path / path.name.partition(".init")[0])
    done = subprocess.run(
        [sys.executable, ROOT / "linitctl.py", "check", tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0 and " 0 errors, 0 warnings" in done.stdout, done.stdout


def test_no_daemon_goes_down_with_the_network():
    """One interface of several that can't be set up isn't to cost ssh on another."""
    assert [path for path in SERVICES if re.search(r"\bdep .*\bnetwork\b", path.read_text())] == []


def test_scripts_import_no_other_script():
    pattern = re.compile(r"^\s*(import|from) (pkggen|lpkg|linit\w+)\b", re.MULTILINE)
    for path in ROOT.glob("*.py"):
        assert not pattern.search(path.read_text())


@pytest.mark.parametrize("tool, page", [
    ("lpkg", "lpkg"), ("linitd", "linit"), ("linitctl", "linit")])
def test_the_page_of_a_device_s_tool_lists_what_it_imports(tool, page):
    text = (ROOT / f"{tool}.py").read_text()
    modules = set(re.findall(r"^ *(?:import|from) ([\w.]+)", text, re.MULTILINE))
    words = set(re.findall(r"[\w.]+\w", (ROOT / f"docs/{page}.md").read_text()))
    assert modules and modules <= words


def test_the_rooms_of_linitd_are_those_of_the_page():
    rooms = [name for name, thing in vars(load_tool("linitd")).items() if isinstance(thing, type)
             and list(inspect.signature(thing.__init__).parameters) == ["self", "init"]]
    page = (ROOT / "docs/DESIGN.md").read_text()
    diagram = re.search(r"## The rooms of linitd\n\n```\n(.*?)```", page, re.DOTALL)[1]
    assert len(rooms) == 7 and set(rooms) == set(re.findall(r"\b[A-Z][a-z]+\b", diagram)) - {"FIFO"}


def test_lengths_are_said_of_every_tool(capsys):
    assert {*ONE_SITTING} == {*names(ROOT.glob("*.py")), *names(ROOT.glob("initd/*.c"))}
    with capsys.disabled():
        for name, limit in ONE_SITTING.items():
            count = len((ROOT / name).read_text().splitlines())
            print(f"\n{name}: {count} lines, about {limit} meant", end="")


def test_every_command_of_the_readme_names_a_real_target():
    """`make TARGET` in the README and the docs is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"^ *\$ make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_errors_shown_in_the_docs_are_those_that_are_tested():
    tested = (ROOT / "tests/data/bad-recipes.txt").read_text()
    page = (ROOT / "docs/pkggen.md").read_text()
    shown = re.findall(r"^pkggen: \S+?/pkgen.yaml(:.*)$", page, re.MULTILINE)
    assert len(shown) >= 3
    for message in shown:
        assert f"\n{message}\n" in tested


def test_every_attack_of_the_security_page_is_tested_and_named_there():
    page = (ROOT / "docs/SECURITY.md").read_text()
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    texts = [path.read_text() for path in ROOT.glob("tests/test_*.py")]
    texts.append((ROOT / "tests/data/bad-recipes.txt").read_text())
    tested = {int(number) for text in texts for number in re.findall(r"test_s(\d\d)[_ ]", text)}
    assert listed == tested


def test_recipes_are_free_of_findings():
    assert run_tool("pkggen", "lint", cwd=ROOT).stdout == ""


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_a_recipe_renders_and_says_what_it_is(path):
    """Each source has its hash, and where it is Debian's, that comes last."""
    pkggen = load_tool("pkggen")
    options = argparse.Namespace(arch="x86_64", hostarch=None, lenient=False, data={})
    recipe = pkggen.load_recipe(str(path), options)
    assert "define SCRIPT" in pkggen.build_mk(recipe)
    packages = pkggen.metadata(recipe)["packages"].values()
    assert all(package["summary"] for package in packages) and recipe.fields["license"]
    assert len(path.read_text().splitlines()) <= RECIPE_LINES
    pkggen.check_hashes(recipe)
    for source in recipe.sources:
        first, *others = [alternative.url for alternative in source.alternatives]
        assert source.is_local or recipe.fields["url"]
        assert not others or not first.startswith("deb-src:")


def test_the_recipe_in_the_readme_is_the_real_one():
    assert (ROOT / "recipes/core/zlib/pkgen.yaml").read_text() in (ROOT / "README.md").read_text()
