"""The template engine of pkggen.py, against what Go's text/template gives.

The cases are text files: data/templates/README says how they look.
"""

import json
import pathlib
import re
import subprocess
import sys
import time
import types

import pytest

from conftest import ROOT, load_tool

pkggen = load_tool("pkggen")
CASES = pathlib.Path(__file__).parent / "data" / "templates"
RECIPE = types.SimpleNamespace(fields={"version": "1"}, arch="x86_64", hostarch="x86_64")
PKMV = {"pkmv": pkggen.shortcuts(RECIPE)["pkmv"]}


def read_cases():
    """(file and name, template, data, output or None, Go's and our message) of every case."""
    for path in sorted(CASES.glob("*.txt")):
        text = path.read_bytes().decode()
        for part in ("\n" + text).split("\n=== ")[1:]:
            name, _, body = part[:-1].partition("\n")
            yield pytest.param(*split_case(body), id=f"{path.stem}: {name}")


def split_case(body):
    """The template, data, output or None, and Go's message and ours, of a case's BODY."""
    body, _, output = body.partition("\n--- output\n")
    failing = "\n--- error" in body
    body, _, message = body.partition("\n--- error")
    message = message.partition("\n")[::2]
    template, _, text = body.partition("\n--- data\n")
    data = json.loads(text, object_hook=convert) if text else None
    return template, data, None if failing else output, message


def convert(value):
    """An object of a case's data: {"#struct": {...}}, {"#map": [[key, value], ...]}, or itself."""
    if "#struct" in value:
        return pkggen.Struct(value["#struct"])
    return dict(value["#map"]) if "#map" in value else value


ALL = list(read_cases())


def fail(template, data=None, funcs=None, name="template"):
    """What render says of a TEMPLATE that must fail."""
    with pytest.raises(pkggen.Fail) as caught:
        pkggen.render(template, data, funcs, name)
    message, shown, caret = str(caught.value).split("\n")
    place = re.match(r"(\d+):(\d+): ", message[len(name) + 1:])
    line = template.split("\n")[int(place[1]) - 1]
    assert_caret_is_at(shown, caret, line, int(place[2]) - 1)
    return message


def assert_caret_is_at(shown, caret, line, column):
    """CARET points, in what is SHOWN of LINE, at the character of COLUMN, or behind the end."""
    assert caret.strip(" ") == "^" and len(caret) <= 100 and shown[:4] == "    "
    line = "".join(c if c.isprintable() else " " for c in line)
    before = len(caret) - len("    ^")
    assert line[column - before:].startswith(shown[4:])
    assert shown[len(caret) - 1:len(caret)].strip() == line[column:column + 1].strip()


def test_there_are_cases():
    assert len(ALL) > 1000


@pytest.mark.parametrize("template, data, output, message", ALL)
def test_case(template, data, output, message):
    if output is not None:
        assert pkggen.render(template, data, PKMV) == output
        return
    theirs, ours = message
    said = fail(template, data, PKMV)
    assert ours in said
    line = re.match(r": template: template:(\d+):\d+: executing ", theirs)
    assert not line or said.startswith(f"template:{line[1]}:")


@pytest.mark.parametrize("template, place", [
    ("{{nosuch}}", "1:3"),
    ("a\nbc {{ .x.y 1 }}", None),
    ("a\nbc {{ printf 1 }}", "2:14"),
    ("{{print 1\n  2 nosuch}}", "2:5"),
    ("a\n{{if 1}}", "2:3"),
    ("é{{$x}}", "1:4"),
    ("{{1 | 2}}", "1:7"),
    ("\n\n{{/* a", "3:1"),
    ("x {{1", "1:3"),
    ('{{"a}}', "1:3"),
    ("{{if 1}}{{else}}{{else}}{{end}}", "1:19"),
    ("{{.m.k.z}}", "1:7"),
    ("{{define \"x\"}}\n{{index 1 2}}{{end}}{{template \"x\"}}", "2:3"),
    ("{{range 3}}{{end}}", "1:9"),
    ("{{print (index .m 1)}}", "1:10"),
])
def test_errors_say_where(template, place):
    data = {"m": {"k": "v"}, "x": None}
    if place is None:
        assert fail(template, data, name="zlib/script").startswith("zlib/script:2:9: ")
    else:
        assert fail(template, data).startswith(f"template:{place}: ")


def test_an_error_shows_as_much_of_a_long_line_as_fits():
    assert fail("é" * 5000 + "{{$x}}" + "z" * 5000) == "template:1:5003: undefined variable $x"
    assert fail("\ta\x1b[2J\u202e{{$x}}\n") == "template:1:10: undefined variable $x"


def test_the_command_line_shows_the_caret(tmp_path):
    (tmp_path / "r").mkdir()
    text = "packages: {p: }\nversion: 1\nscript:\n  - make\n  - cc {{.Verson}}\n"
    (tmp_path / "r/pkgen.yaml").write_text(text)
    command = [sys.executable, ROOT / "pkggen.py", "script", "r"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "pkggen: r/pkgen.yaml:5:10: can't evaluate field Verson in type Recipe; "
        "did you mean Version?",
        "    cc {{.Verson}}",
        "         ^",
    ]


def test_functions_are_added():
    funcs = {"join": lambda mark, *words: mark.join(words), "len": lambda text: "mine"}
    assert pkggen.render('{{join "-" "a" "b"}} {{"c" | join "+" "d"}} {{len 1}}', None, funcs) \
        == "a-b d+c mine"


def test_functions_get_what_they_take():
    def extract(name: str, count: int = 1, *more: str) -> str:
        return f"{name}{count}{''.join(more)}"

    funcs = {"extract": extract}
    assert pkggen.render('{{extract "a"}} {{extract "a" 2 "b"}}', None, funcs) == "a1 a2b"
    assert fail("{{extract 1}}", None, funcs) == \
        "template:1:11: extract takes string here, and this is int"
    assert fail('{{extract "a" true}}', None, funcs).startswith("template:1:15: ")
    assert fail('{{extract "a" 1 "b" 2}}', None, funcs).startswith("template:1:21: ")
    assert fail("{{1 | extract}}", None, funcs).startswith("template:1:7: ")
    assert fail("{{extract .x}}", {}, funcs).startswith("template:1:11: ")
    assert fail("{{extract}}", None, funcs).startswith("template:1:3: extract does not take 0")


@pytest.mark.parametrize("error", [pkggen.Fail("no such file"), TypeError("odd"), KeyError("k"),
                                   RuntimeError("x"), UnicodeError("u")])
def test_what_a_function_raises_is_an_error_at_its_call(error):
    def broken():
        raise error

    assert fail("a {{broken}}", None, {"broken": broken}).startswith("template:1:5: broken: ")


def test_functions_of_every_kind_complain_about_arguments():
    class Tools:
        def method(self, word: str) -> str:
            return word

    funcs = {"method": Tools().method, "upper": str.upper, "cut": "a-b".split}
    assert pkggen.render('{{method "a"}} {{upper "b"}} {{cut "-"}}', None, funcs) == "a B [a b]"
    for template in ("{{method}}", "{{method 1}}", "{{upper}}", "{{upper 1}}", "{{cut 1}}"):
        assert fail(template, None, funcs).startswith("template:1:")


def test_structs():
    recipe = pkggen.Struct(Version="1.2", Data={"a": 1})
    text = pkggen.render("{{.Version}} {{.Data.b}} {{.}}", recipe)
    assert text == "1.2 <no value> {1.2 map[a:1]}"
    assert fail("{{.Verson}}", recipe) == \
        "template:1:3: can't evaluate field Verson in type Recipe; did you mean Version?"


def test_structs_in_maps_are_named_by_their_class():
    class Package(pkggen.Struct):
        pass

    data = {"zlib": Package(Dependencies=["musl"])}
    assert pkggen.render("{{.zlib.Dependencies}}{{range .}}{{.}}{{end}}", data) == "[musl]{[musl]}"
    assert fail("{{.zlib.Depndencies}}", data) == \
        "template:1:8: can't evaluate field Depndencies in type Package; did you mean Dependencies?"
    assert "evaluate field X in type Package" in fail("{{range .}}{{.X}}{{end}}", data)


def test_annotations_of_functions_may_be_strings():
    def double(number: "int", *more: "str") -> "int":
        return 2 * number

    assert pkggen.render("{{double 2}}", None, {"double": double}) == "4"
    assert "1:10: double takes int here" in fail('{{double "a"}}', None, {"double": double})
    assert "1:12: double takes string here" in fail("{{double 1 2}}", None, {"double": double})


def test_strings_that_are_no_utf8_keep_their_bytes():
    text = pkggen.render(r'{{"\xff"}}{{slice "é" 0 1}}{{slice "é" 1}}', None)
    assert text.encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


def test_data_of_yaml():
    assert pkggen.render("{{.}} {{range .}}{{.}}{{end}}", {"k": (1, 2)}) == "map[k:[1 2]] [1 2]"
    assert pkggen.render("{{.}}", {1: 0, float("nan"): 0, -0.5: 0, "x": 0}) == \
        "map[NaN:0 -0.5:0 1:0 x:0]"
    assert pkggen.render("{{.}} {{printf \"%6.1f\" .}}", float("inf")) == "+Inf   +Inf"
    assert pkggen.render("{{.}}", float("-inf")) == "-Inf"
    assert pkggen.render("{{.}}", float("nan")) == "NaN"
    form = '{{printf "%+v % v %6v|%-6v|%06v" . . . . .}}'
    assert pkggen.render(form, float("inf")) == "+Inf  Inf   +Inf|+Inf  |  +Inf"
    assert pkggen.render(form, float("nan")) == "NaN  NaN    NaN|NaN   |   NaN"


ENDLESS = {
    "parentheses": "{{" + "(" * 50_000 + "1" + ")" * 50_000 + "}}",
    "open parentheses": "{{" + "(" * 50_000,
    "calls in calls": "{{print " + "(print " * 5_000 + "1" + ")" * 5_000 + "}}",
    "blocks": "{{if 1}}" * 50_000 + "{{end}}" * 50_000,
    "open blocks": "{{range .}}" * 50_000,
    "recursion": '{{define "r"}}{{template "r"}}{{end}}{{template "r"}}',
    "recursion in blocks": '{{define "r"}}{{with 1}}{{if 1}}{{template "r" $}}{{end}}{{end}}{{end}}'
                           '{{template "r" .}}',
    "recursion in many blocks": '{{define "r"}}' + "{{if 1}}" * 60 + '{{template "r"}}'
                                + "{{end}}" * 61 + '{{template "r"}}',
    "recursion twice": '{{define "r"}}{{template "r"}}{{template "r"}}{{end}}{{template "r"}}',
    "two to the sixtieth": "".join(
        f'{{{{define "{i}"}}}}{{{{template "{i + 1}"}}}}{{{{template "{i + 1}"}}}}{{{{end}}}}'
        for i in range(60)) + '{{define "60"}}{{end}}{{template "0"}}',
    "doubling": '{{$x := "0123456789"}}' + "{{$x = print $x $x}}" * 60,
    "doubling and escaping": '{{$x := "<"}}' + "{{$x = html $x $x}}" * 60,
    "wide": '{{printf "' + "%9999999[1]d" * 1000 + '" 1}}',
    "wide and often": "{{range .}}{{range $}}{{range $}}" '{{printf "%999999d" 1}}' + "{{end}}" * 3,
    "ranges": "{{range .}}" + "{{range $}}" * 5 + "{{$x := 1}}" + "{{end}}" * 6,
    "many ranges": "{{range .}}" + "{{range $}}" * 60 + "x" + "{{end}}" * 61,
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=list(ENDLESS))
def test_s23_what_does_not_end_fails_in_time(template):
    start = time.monotonic()
    assert fail(template, [0] * 100)
    assert time.monotonic() - start < 30


def called_deep(frames, template, data=None):
    """The text of TEMPLATE when Python's stack already holds FRAMES."""
    if frames:
        return called_deep(frames - 1, template, data)
    return pkggen.render(template, data)


DEEP = pkggen.MAX_DEPTH
CALLS = '{{define "r"}}{{with .}}{{template "r" (slice . 1)}}{{end}}{{end}}{{template "r" .}}1'
PARENTHESES = "{{" + "(print " * (DEEP - 1) + "1" + ")" * (DEEP - 1) + "}}"
DEEPEST = "{{define `r`}}" + PARENTHESES + "{{end}}" \
    + "{{if 1}}" * (DEEP - 2) + "{{template `r`}}" + "{{end}}" * (DEEP - 2)


@pytest.mark.parametrize("template, data", [
    (PARENTHESES, None),
    ("{{range $}}" * (DEEP - 1) + "1" + "{{end}}" * (DEEP - 1), [1]),
    (DEEPEST, None),
    (CALLS, "x" * (DEEP // 2 - 2)),
], ids=["parentheses", "ranges", "parentheses in a template in ifs", "calls"])
def test_nesting_that_is_allowed_leaves_room_for_the_caller(template, data):
    limit = sys.getrecursionlimit()
    assert called_deep(300, template, data) == "1"
    assert sys.getrecursionlimit() == limit


def test_what_is_nested_too_deep_says_where():
    what = f"blocks, parentheses or templates are nested over {DEEP} deep"
    assert fail(CALLS, "x" * (DEEP // 2 - 1)) == f"template:1:17: {what}"
    assert fail("{{" + "(" * (DEEP + 1)) == f"template:1:{3 + DEEP}: {what}"
    assert fail("{{if 1}}" * (DEEP + 1)) == f"template:1:{3 + 8 * DEEP}: {what}"


def test_a_long_chain_of_else_is_not_nested():
    chain = "{{if 0}}" + "{{else if 0}}" * 5_000 + "{{else}}ok{{end}}"
    assert pkggen.render(chain, None) == "ok"


def test_s23_deep_data_is_an_error():
    data = []
    for _ in range(100_000):
        data = [data]
    assert "deep" in fail("{{.}}", data)
    assert "deep" in fail("{{print .}}", data)


def test_s23_what_is_deep_leaves_the_interpreter_alive():
    """What nests and recurses as deep as it may fits into half of the usual stack of 8 MB."""
    program = f"""import sys; sys.path[:0] = [{str(ROOT)!r}]; import pkggen
data = []
for _ in range(100_000):
    data = [data]
for template in {[DEEPEST, ENDLESS["recursion"], ENDLESS["open parentheses"], "{{.}}"]!r}:
    try:
        print(pkggen.render(template, data))
    except pkggen.Fail:
        print("fail")
"""
    command = ["sh", "-c", 'ulimit -s 4096; exec "$@"', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\nfail\nfail\nfail\n", "")
