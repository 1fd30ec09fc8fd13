#!/usr/bin/env python3
"""linitctl: starts, stops and shows the services of Panux; the client of linitd.

    linitctl.py start httpd             # and what it needs; ends when it is running, or has failed
    linitctl.py status httpd            # exit status 0 running, 3 not running, 4 unknown
    linitctl.py why                     # which process holds up everything
    linitctl.py plot -o boot.svg
    linitctl.py check initd             # without linitd, and without running what is there

It talks to linitd over the socket that --socket names, else $LINITSOCK, else /run/linit.sock, as
docs/protocol.md says. For `log` it reads the files that linitd names, for `check` a directory of
init scripts. The file that `plot -o` names is the only one that it writes.

The invariant: linitctl only asks. What linitd has begun goes on whether linitctl waits, is
interrupted or dies; and nothing that a service or linitd says controls the terminal.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own directory comes first: a json.py beside it would be run as ours.
    del sys.path[0]

# The module `socket` imports selectors and enum: some 6 ms, and the rest of a request takes 2.
import _socket
import os
import time

VERSION = "0.2"

SOCKET = "/run/linit.sock"
INITD = "/etc/init.d"
READ_SIZE = 1 << 16                 # bytes that are read at a time
LINE_LIMIT = 256 << 10              # bytes of a line, the protocol's limit
ANSWER_LIMIT = 16 << 20             # bytes of an answer: some 100,000 services
LINE_COST = 64                      # bytes of memory that a line takes beside its own
CULPRITS = 5                        # services that `why` blames at the end
POLL = 0.2                          # seconds between two reads of a log that is followed

STATES = ("stopped", "starting", "running", "stopping", "failed")
COLOURS = {"running": "32", "failed": "31", "starting": "33", "stopping": "33"}
CODES = ("1", "2", "4", "5", "7")   # of `error`: those that LSB has for init scripts
TIMES = ("launched", "met", "ready", "ended")
NAMES = ("needs", "binds", "wants", "afters", "waits")
ROUNDING = 0.0015                   # seconds by which two times of `graph` may be out of order
UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
USAGE = 2
NOT_RUNNING = 3                     # exit statuses of `status`, by LSB
UNKNOWN = 4
INTERRUPTED = 130


class Fail(Exception):
    """An error that a user, linitd or a file can cause: what, where and what to do, in one line."""

    def __init__(self, text: str, status: int = 1):
        super().__init__(text)
        self.status = status


class Refused(Fail):
    """linitd answered `error CODE TEXT`."""


def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """One line of talk on stderr; over a progress line it starts afresh."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    # The newline too: print writes it by itself, and a parallel build's line may come in between.
    print(clear + printable(text) + "\n", end="", file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Redraw the terminal's last line with TEXT; nothing where stderr is not one."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        print("\r\033[K" + printable(text)[: width - 1], end="", file=sys.stderr, flush=True)


# ---- what linitd says --------------------------------------------------------------------------
#
# A service is a dict with the keys of --json, except that it has `seconds`, not `since`.

def strange(line: str) -> Fail:
    """The error for a LINE that linitd wouldn't send."""
    return Fail(f"the answer isn't linitd's: {line[:60]!r}; is the socket another program's?")


def number(text: str) -> float:
    """A number as the protocol has it: digits, perhaps a point; no inf, nan or 1e999."""
    digits = text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20:
        raise strange(text)
    return float(text)


def parse_service(words: list) -> dict:
    """The service of a line of `list`."""
    if len(words) != 4 or not words[0] or words[1] not in STATES:
        raise strange(" ".join(words))
    name, state, pid, seconds = words
    return {"name": name, "state": state, "pid": None if pid == "-" else int(number(pid)),
            "seconds": number(seconds)}


def parse_status(lines: list) -> dict:
    """The service of an answer to `status`. Lines that a later linitd may add are ignored."""
    fields = {"needs": "", "restarts": "0", **dict(line.partition(" ")[::2] for line in lines)}
    service = parse_service([fields.get(key, "") for key in ("name", "state", "pid", "seconds")])
    service["needs"] = fields["needs"].split()
    service["restarts"] = int(number(fields["restarts"]))
    service["reason"] = fields.get("reason") or None
    service["tail"] = [line[5:] for line in lines if f"{line} ".startswith("tail ")]
    return service


def parse_node(line: str) -> dict:
    """The service of a line of `graph`: its times in seconds since linitd began, or None; its
    names as lists."""
    name, *words = line.split(" ")
    fields = dict(word.partition("=")[::2] for word in words)
    state, pid = fields.get("state"), fields.get("pid", "")
    if not name or state not in STATES or not fields.keys() >= {*TIMES, *NAMES}:
        raise strange(line)
    node = {"name": name, "state": state, "pid": None if pid == "-" else int(number(pid))}
    for key in TIMES:
        node[key] = None if fields[key] == "-" else number(fields[key])
    for key in NAMES:
        node[key] = fields[key].split(",") if fields[key] else []
    return node


def parse_event(line: str) -> dict:
    """What a line of `events` tells; the first one has a time alone."""
    moment, *words = line.split(" ", 4)
    if not words:
        return {"time": number(moment)}
    name, state, pid, reason = (*words, "", "", "")[:4]
    if not name or state not in STATES:
        raise strange(line)
    return {"time": number(moment), "name": name, "state": state,
            "pid": None if pid == "-" else int(number(pid)), "reason": reason or None}


# ---- what people and programs see --------------------------------------------------------------

def duration(seconds: float) -> str:
    """SECONDS for a person: 0.3s, 12s, 5m12s, 3h05m, 2d04h."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    count = round(seconds)
    for size, name, part_size, part in UNITS:
        if count >= size:
            return f"{count // size}{name}{count % size // part_size:02}{part}"
    return f"{count}s"


def coloured(state: str, text: str) -> str:
    """TEXT in the colour of STATE, on a terminal that has any and unless NO_COLOR is set."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if state not in COLOURS or is_plain or not sys.stdout.isatty():
        return text
    return f"\033[{COLOURS[state]}m{text}\033[0m"


def print_table(services: list) -> None:
    """A line for each service, in columns; a heading for people only."""
    rows = [["NAME", "STATE", "PID", "SINCE"]] if sys.stdout.isatty() else []
    for service in services:
        rows.append([printable(service["name"]), service["state"], str(service["pid"] or "-"),
                     duration(service["seconds"])])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        name, state, pid = [text.ljust(width) for text, width in zip(row[:3], widths)]
        print(name, coloured(row[1], state), pid, row[3], sep="  ")


def print_log(data: bytes) -> None:
    """Lines of a log; tabs stay, they do no harm."""
    text = data.decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() or c in "\n\t" else printable(c) for c in text)
    print(text, end="", flush=True)


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def sentence(service: dict) -> str:
    """httpd is running, pid 412, for 3m12s."""
    state = coloured(service["state"], service["state"])
    pid = f", pid {service['pid']}" if service["pid"] else ""
    return f"{printable(service['name'])} is {state}{pid}, for {duration(service['seconds'])}"


def print_status(service: dict) -> None:
    """All that `status` says, for people."""
    print(sentence(service))
    if service["needs"]:
        print(printable("needs: " + " ".join(service["needs"])))
    if service["restarts"]:
        print(f"restarted: {counted(service['restarts'], 'time')}")
    if service["reason"]:
        print(printable("reason: " + service["reason"]))
    for line in service["tail"]:
        print("    " + printable(line.expandtabs()))


def print_summary(services: list) -> None:
    """How many services are in which state: 13 services: 12 running, 1 failed."""
    states = [service["state"] for service in services]
    counts = [f"{states.count(state)} {coloured(state, state)}" for state in STATES
              if state in states]
    print(f"{counted(len(states), 'service')}: {', '.join(counts) or 'none'}")


def print_array(objects: list) -> None:
    """A JSON array, an object a line."""
    import json
    print("[" + ",\n ".join(json.dumps(each) for each in objects) + "]")


def print_json(services: list) -> None:
    """The services; `since` is when the state of each began, in seconds of unix time."""
    for service in services:
        service["since"] = int(time.time() - service.pop("seconds"))
    print_array(services)


def nearest(word: str, words: object) -> str:
    """`; did you mean X?` for the nearest of WORDS, or nothing."""
    import difflib
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


# ---- what depends on what ----------------------------------------------------------------------
#
# NODES is NAME -> service of `graph`, which doesn't have those that nobody has asked for. `walk`
# goes through them as a tree, each service once. It doesn't recurse, since a chain of services may
# be longer than Python's stack is deep.

def relations(node: dict) -> dict:
    """NAME -> how NODE depends on it, by the strongest: needs, is bound to, wants, comes after."""
    found = dict.fromkeys(node["needs"], "needs")
    found.update(dict.fromkeys(node["binds"], "is bound to"))
    for key, how in ("wants", "wants"), ("afters", "comes after"):
        for name in node[key]:
            found.setdefault(name, how)
    return dict(sorted(found.items()))


def dependencies(nodes: dict, name: str) -> list:
    """The names that NAME depends on."""
    return list(relations(nodes[name])) if name in nodes else []


def dependents(nodes: dict) -> dict:
    """NAME -> {name of what depends on it: how}; for what nothing depends on there is no entry."""
    found = {}
    for name, node in nodes.items():
        for other, how in relations(node).items():
            found.setdefault(other, {})[name] = how
    return found


def walk(roots: list, below, seen: set) -> object:
    """Yield (path, name, whether it was SEEN before) of what is in the trees that begin with
    ROOTS. PATH has the names from the root to the one above; BELOW gives the names under a NAME.
    What was seen before is not gone into again."""
    path = []
    todo = [(0, root) for root in reversed(roots)]
    while todo:
        depth, name = todo.pop()
        del path[depth:]
        is_again = name in seen
        if depth or not is_again:
            yield path, name, is_again
        if not is_again:
            seen.add(name)
            path.append(name)
            todo += [(depth + 1, each) for each in reversed(below(name))]


def print_tree(roots: list, below, line, seen: set) -> None:
    """Print what `walk` finds, one below the other. LINE gives the text for (path, name, whether
    it was seen before), or nothing for what needs no line."""
    for path, name, is_again in walk(roots, below, seen):
        text = line(path, name, is_again)
        if text:
            print("  " * len(path) + text)


def tops(names: list, below) -> list:
    """NAMES, those first that are below no other of them, and among these `boot`."""
    lower = {each for name in names for each in below(name) if each != name}
    return sorted(names, key=lambda name: (name in lower, name != "boot", name))


def named(names: list, limit: int = 5) -> str:
    """NAMES for a person: some, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def graph_line(nodes: dict, path: list, name: str, is_again: bool) -> str:
    """What `graph` prints of NAME, on which the last of PATH depends."""
    how = relations(nodes[path[-1]])[name] if path else "needs"
    note = "" if how == "needs" else printable(f", {path[-1]} {how} it")
    if is_again:
        return f"{printable(name)} (above){note}"
    node = nodes.get(name, {"state": "stopped", "pid": None})
    pid = f", pid {node['pid']}" if node["pid"] else ""
    return f"{printable(name)}: {coloured(node['state'], node['state'])}{pid}{note}"


# ---- the critical path -------------------------------------------------------------------------
#
# Which services took how long, and which of them decided how long the boot took. A service begins
# its own work when everything it depends on is there. So the dependency that was there last
# decided when, unless it was there before the service was launched. That dependency has one of its
# own, and so on, down to a service that waited for nothing. Making one of these faster makes the
# boot faster; making any other faster doesn't.

def measure(nodes: dict, now: float) -> dict:
    """NODES, each with the moments at which its own work `began` (when what it depends on was
    there, or, where it had nothing to wait for, when it was launched) and was `settled` (when it
    was ready, or had failed; NOW when it is still starting), and the seconds between (`own`)."""
    for node in nodes.values():
        moments = (node["ready"], node["ended"], now)
        node["settled"] = next(moment for moment in moments if moment is not None)
        has_waited = node["waits"] or (node["state"] == "failed" and relations(node))
        node["began"] = node["settled"] if has_waited else node["launched"]
        if node["met"] is not None:
            node["began"] = node["met"]
        node["own"] = max(0.0, node["settled"] - node["began"])
    return nodes


def outcome(node: dict) -> str:
    """What to say of a start that hasn't come to its end, or not to a good one."""
    if node["state"] == "failed" and node["ready"] is None:
        return ", failed"
    return ", still starting" if node["state"] == "starting" else ""


def of_boot(nodes: dict) -> dict:
    """Those of NODES that were launched before `boot` was ready: the rest has been started, or
    started again, since. Without a boot that is ready, all."""
    boot = nodes.get("boot")
    end = boot["ready"] if boot and boot["ready"] is not None else float("inf")
    return {name: node for name, node in nodes.items() if node["launched"] <= end}


def decisive(node: dict, nodes: dict) -> "dict | None":
    """What NODE waited for last, or waits for now, or None where it found all there."""
    others = [nodes[name] for name in relations(node) if name in nodes]
    others = [other for other in others
              if node["launched"] < other["settled"] <= node["began"] + ROUNDING]
    return max(others, key=lambda other: other["settled"], default=None)


def critical_path(nodes: dict) -> list:
    """The chain that decided when the last of NODES was ready, from that one down."""
    path = []
    node = max(nodes.values(), key=lambda node: (node["settled"], -node["launched"]), default=None)
    while node and node not in path:
        path.append(node)
        node = decisive(node, nodes)
    return path


# ---- the plot ----------------------------------------------------------------------------------
#
# An SVG, a row for each service in the order in which they began their own work, so that the bars
# go down like a staircase. Canvas and CanvasText are the browser's: white and black, or dark.

ROW = 20                            # pixels: the height of a row
TOP = 90                            # where the first row begins
CHART = 960                         # the width of all the time
RIGHT = 180                         # the width beside it, for the last bar's text
LETTER = 7.3                        # the width of a letter of a name, at most
TICKS = 12                          # at most

STYLE = """
svg { color-scheme: light dark; background: Canvas; font: 12px monospace; }
text { fill: CanvasText; white-space: pre; }
.title { font: bold 18px sans-serif; }
.tick { text-anchor: middle; }
.grid { stroke: #868e96; stroke-width: 0.5; }
rect.waits { fill: #adb5bd; }
rect.starts { fill: #1c7ed6; }
rect.critical { fill: #e67700; }
rect.failed { fill: #e03131; }
text.critical { font-weight: bold; }
.path { stroke: #e67700; stroke-width: 2; }
"""
LEGEND = (("waits", "waits for others"), ("starts", "starts"), ("critical", "on the critical path"),
          ("failed", "fails"))


def escaped(text: str) -> str:
    """TEXT for XML, control characters shown escaped."""
    text = printable(text).replace("&", "&amp;")
    return text.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def tick_step(span: float) -> float:
    """Seconds between two ticks: 1, 2 or 5 of a power of ten."""
    steps = (digit * 10.0 ** power for power in range(-4, 21) for digit in (1, 2, 5))
    return next(step for step in steps if span / step <= TICKS)


class Plot:
    """The drawing of a boot: its elements, and where a time and a row are."""
    __slots__ = ("elements", "left", "begin", "span", "bottom")

    def __init__(self, nodes: list):
        self.left = 24 + LETTER * max(len(printable(node["name"])) for node in nodes)
        first = min(node["launched"] for node in nodes)
        end = max(node["settled"] for node in nodes)
        # From when linitd began, unless that was long before the first.
        self.begin = first if first > end / 2 else 0.0
        # All at one moment is no division by zero, however late that is.
        self.span = max(end - self.begin, 0.001, end * 1e-6)
        self.bottom = TOP + ROW * len(nodes)
        self.elements = []

    def x(self, seconds: float) -> float:
        return round(self.left + CHART * (seconds - self.begin) / self.span, 1)

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self.elements.append(f'<text x="{x:.1f}" y="{y}" class="{kind}">{escaped(text)}</text>')

    def line(self, x: float, top: int, bottom: int, kind: str) -> None:
        self.elements.append(f'<path d="M{x} {top}V{bottom}" class="{kind}"/>')

    def bar(self, y: int, height: int, begin: float, end: float, kind: str) -> None:
        """A bar between two times, which can be seen however short it is."""
        x = self.x(begin)
        width = max(1.5, self.x(end) - x)
        self.elements.append(
            f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" class="{kind}"/>')

    def axis(self) -> None:
        """A line for each tick, with its time above and below."""
        step = tick_step(self.span)
        first = -int(-self.begin // step)
        for count in range(first, int((self.begin + self.span) / step + 1e-6) + 1):
            x = self.x(count * step)
            self.line(x, TOP - 4, self.bottom + 4, "grid")
            for y in TOP - 10, self.bottom + 18:
                self.text(x, y, f"{round(count * step, 4)} s", "tick")

    def row(self, y: int, node: dict, kind: str) -> None:
        """A service: its name, its waiting, its own work, and how long that took."""
        self.text(12, y + 14, node["name"], kind)
        self.bar(y + 7, 6, node["launched"], node["began"], "waits")
        self.bar(y + 3, 14, node["began"], node["settled"], kind)
        self.text(self.x(node["settled"]) + 6, y + 14, f"{node['own']:.3f} s{outcome(node)}")


def plot_svg(nodes: dict, path: list) -> str:
    """The boot as a drawing."""
    nodes = sorted(nodes.values(), key=lambda node: (node["began"], node["settled"]))
    plot = Plot(nodes)
    plot.text(12, 28, f"Boot: {plot.span:.3f} s, {counted(len(nodes), 'service')}", "title")
    for place, (kind, text) in enumerate(LEGEND):
        plot.elements.append(f'<rect x="{12 + 180 * place}" y="41" width="14" height="12" '
                             f'class="{kind}"/>')
        plot.text(32 + 180 * place, 51, text)
    plot.axis()
    for number, node in enumerate(nodes):
        kind = "critical" if node in path else "starts"
        plot.row(TOP + ROW * number, node, "failed" if outcome(node) == ", failed" else kind)
    middles = {node["name"]: TOP + ROW * number + 10 for number, node in enumerate(nodes)}
    for node, other in zip(path, path[1:]):
        plot.line(plot.x(other["settled"]), middles[other["name"]], middles[node["name"]],
                  "path")
    size = f'width="{plot.left + CHART + RIGHT:.0f}" height="{plot.bottom + 40}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
                      f"<style>{STYLE}</style>", *plot.elements, "</svg>\n"])


# ---- the connection ----------------------------------------------------------------------------

def check_last(line: str) -> None:
    """Refused, or another Fail, unless the last LINE of an answer is `ok`."""
    word, code, text = (*line.split(" ", 2), "", "")[:3]
    if word == "error" and code in CODES and text:
        raise Refused(text, int(code))
    if line != "ok":
        raise strange(line)


class Connection:
    """A connection to linitd: one request after the other, each with its answer."""
    __slots__ = ("socket", "lines", "rest", "subject", "asked")

    def __init__(self, path: str):
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.lines = []                 # complete lines that were not taken yet
        self.rest = b""                 # the beginning of the next one
        try:
            self.socket.connect(path)
        except OSError as error:
            raise Fail(f"no linitd answers at {path} ({error.strerror or error}); start it, or "
                       "name its socket with --socket") from None

    def ask(self, *words: str) -> list:
        """The lines of the answer to a request of these WORDS, without the blank before each;
        Refused when it is an error."""
        self.send(*words)
        try:
            return self.answer()
        finally:
            if time.monotonic() - self.asked >= 1:
                progress("")

    def send(self, *words: str) -> None:
        """Send a request, which may be longer than the socket holds."""
        request = " ".join(words).encode() + b"\n"
        if len(request) > LINE_LIMIT:
            raise Fail("more names than one request takes; split them", USAGE)
        self.subject = " ".join(word for word in words[1:] if word[0] != "-") or "linitd"
        self.asked = time.monotonic()
        try:
            self.socket.sendall(request)
        except ConnectionError:
            pass                        # what linitd said before it closed is still to be read

    def answer(self) -> list:
        lines = []
        size = 0
        line = self.next_line()
        while line.startswith(" ") and size < ANSWER_LIMIT:
            lines.append(line[1:])
            size += len(line) + LINE_COST
            line = self.next_line()
        check_last(line)
        return lines

    def next_line(self) -> str:
        while not self.lines:
            *self.lines, self.rest = (self.rest + self.receive()).split(b"\n")
            longest = max(self.rest, *self.lines, b"", key=len)
            if len(longest) > LINE_LIMIT:
                raise strange(longest[:60].decode(errors="backslashreplace"))
        line = self.lines.pop(0).decode(errors="backslashreplace")
        if "\0" in line:                # which no path may have, either
            raise strange(line)
        return line

    def receive(self) -> bytes:
        """What comes next; each second without it redraws the waiting line, if there is one."""
        self.socket.settimeout(1 if self.subject and sys.stderr.isatty() else None)
        piece = None
        while piece is None:
            try:
                piece = self.socket.recv(READ_SIZE)
            except _socket.timeout:
                seconds = time.monotonic() - self.asked
                progress(f"waiting for {self.subject}, {seconds:.0f} s")
            except ConnectionError:
                piece = b""
        if not piece:
            early = " before it had answered; see its log" if self.subject else ""
            raise Fail(f"linitd closed the connection{early}")
        return piece

    def events(self) -> object:
        """Ask for events, and yield each line without its blank, until the connection is closed."""
        self.send("events")
        self.subject = ""               # waiting is all that there is to do
        line = self.next_line()
        while line.startswith(" "):
            yield line[1:]
            line = self.next_line()
        check_last(line)
        raise strange(line)             # `ok` ends no events


def ask_graph(connection: Connection) -> dict:
    """NAME -> service of `graph`."""
    nodes = [parse_node(line) for line in connection.ask("graph")]
    return {node["name"]: node for node in nodes}


# ---- verbs -------------------------------------------------------------------------------------

def cmd_change(command: "Command") -> int:
    """start, stop and the others of which nothing is to be shown, except as JSON."""
    connection = Connection(command.socket)
    options = ["-" + signal_name(text) for flag, text in command.options.items()
               if flag == "--signal"]
    refusal = None
    try:
        for line in connection.ask(command.verb, *options, *command.words):
            say(f"linitctl: {line}")    # what went wrong, although all is running now
    except KeyboardInterrupt:
        what = " ".join([command.verb, *command.words])
        goes_on = "" if command.verb == "wait" else f"; linitd goes on with {what}"
        raise Fail(f"interrupted{goes_on}", INTERRUPTED) from None
    except Refused as error:
        refusal = error
    if command.json:
        print_array([ask_state(connection, name) for name in command.words])
    if refusal:
        raise refusal
    return 0


def cmd_signal(command: "Command") -> int:
    """Send a signal to the main process of a service."""
    name, signal = command.words
    Connection(command.socket).ask("signal", name, signal_name(signal))
    return 0


def signal_name(text: str) -> str:
    """TEXT as the protocol has it: TERM, also for SIGTERM, or a number."""
    name = text.upper()
    name = name[3:] if name.startswith("SIG") else name
    if not is_signal(name):
        raise Fail(f"{text!r}: write a signal's name, as HUP, or its number", USAGE)
    return name


def ask_state(connection: Connection, name: str) -> dict:
    """The service as those verbs show it; a state of None is that of no service."""
    try:
        state = parse_status(connection.ask("status", name))["state"]
    except Refused:
        state = None
    return {"name": name, "state": state}


def ask_list(connection: Connection) -> list:
    return [parse_service(line.split(" ")) for line in connection.ask("list")]


def cmd_list(command: "Command") -> int:
    """Show all services."""
    services = ask_list(Connection(command.socket))
    if command.json:
        print_json(services)
    else:
        print_table(services)
    return 0


def cmd_status(command: "Command") -> int:
    """Show each of the services; the highest of their exit statuses is this one's. Without names,
    count all of them, and show those that have failed, are starting or are stopping."""
    shown = []
    status = 0
    try:
        connection = Connection(command.socket)
        names = command.words
        if not names:
            services = ask_list(connection)
            names = [service["name"] for service in services
                     if service["state"] not in ("running", "stopped")]
        for name in names:
            try:
                shown.append(parse_status(connection.ask("status", name)))
            except Refused as error:
                say(f"linitctl: {error}")
                status = UNKNOWN
    except Fail as error:
        raise Fail(str(error), UNKNOWN) from None   # by LSB 1 is: dead, and has a pid file
    if any(service["state"] != "running" for service in shown):
        status = max(status, NOT_RUNNING)
    if command.json:
        print_json(shown)
        return status
    if not command.words:
        print_summary(services)
    for service in shown:
        print_status(service)
    return status


def cmd_log(command: "Command") -> int:
    """Print a log as one text: a line may begin in one file and end in the next."""
    paths = Connection(command.socket).ask("log", *command.words)
    rest = b""
    for path in paths:
        for piece in read_log(path, "-f" in command.options and path == paths[-1]):
            lines, newline, rest = (rest + piece).rpartition(b"\n")
            print_log(lines + newline)
    print_log(rest)
    return 0


def read_log(path: str, follow: bool) -> object:
    """Yield what is in the file; with FOLLOW go on, without end, with what is added to it, or to
    the one that is there after it was rotated away."""
    while True:
        try:
            with open(path, "rb", buffering=0) as file:
                is_old = False
                while not is_old:
                    # Asked before: so all that the old file got is read.
                    is_old = not follow or is_replaced(file, path)
                    yield from iter(lambda: file.read(READ_SIZE), b"")
                    time.sleep(0 if is_old else POLL)
        except FileNotFoundError:
            pass                        # rotated just now
        if not follow:
            return
        time.sleep(POLL)


def is_replaced(file: object, path: str) -> bool:
    """Whether another file than FILE is at PATH, or the same one has been emptied."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    is_same = os.path.samestat(there, os.fstat(file.fileno()))
    return not is_same or there.st_size < file.tell()


def cmd_graph(command: "Command") -> int:
    """Show what needs what: of all services that were ever asked for, or of NAMES downwards."""
    connection = Connection(command.socket)
    nodes = ask_graph(connection)

    def below(name: str) -> list:
        return dependencies(nodes, name)

    for name in command.words:
        if name not in nodes:
            connection.ask("status", name)      # Refused where there is no such service
    names = command.words or tops(list(nodes), below)
    nodes = {name: nodes[name] for _, name, is_again in walk(names, below, set())
             if name in nodes and not is_again}
    if command.json:
        print_array(list(nodes.values()))
    else:
        print_tree(names, below, lambda *place: graph_line(nodes, *place), set())
    return 0


def cmd_events(command: "Command") -> int:
    """Print each change of a state until Ctrl-C, or until linitd ends."""
    if command.json:
        import json
    for line in Connection(command.socket).events():
        event = parse_event(line)
        if command.json:
            print(json.dumps(event), flush=True)
        elif "name" in event:
            state = coloured(event["state"], event["state"])
            text = f"{event['time']:.3f} {printable(event['name'])} {state}"
            print(text + printable(f" {event['reason']}" if event["reason"] else ""), flush=True)
    return 0


def cmd_blame(command: "Command") -> int:
    """Show which services took how long to start, and which of them decided when all was there."""
    nodes = ask_launched(command)
    path = critical_path(of_boot(nodes))
    slowest = sorted(nodes.values(), key=lambda node: -node["own"])
    if command.json:
        print_array([{"name": node["name"], "state": node["state"],
                      "seconds": round(node["own"], 3), **{key: node[key] for key in TIMES},
                      "critical": node in path} for node in slowest])
        return 0
    for node in slowest:
        print(f"{node['own']:9.3f} s {printable(node['name'])}{outcome(node)}")
    if path:
        print(f"\nthe critical path, {path[0]['settled']:.3f} s; each waited for the next:")
    for node in path:
        own = f"(its own {node['own']:.3f} s)"
        print(f"{node['settled']:9.3f} s {printable(node['name'])} {own}")
    return 0


def cmd_plot(command: "Command") -> int:
    """Draw the boot, to a file or to stdout."""
    nodes = of_boot(ask_launched(command))
    if not nodes:
        raise Fail("no service has been started yet; there is nothing to draw")
    text = plot_svg(nodes, critical_path(nodes))
    if "-o" not in command.options:
        print(text, end="")
        return 0
    with open(command.options["-o"], "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return 0


def ask_launched(command: "Command") -> dict:
    """NAME -> service of `graph`, measured, of those that were launched. While one of them is
    starting, it is linitd's clock, which stands before events, that says until when."""
    graph = ask_graph(Connection(command.socket))
    nodes = {name: node for name, node in graph.items() if node["launched"] is not None}
    now = 0.0
    if any(node["ready"] is None and node["ended"] is None for node in nodes.values()):
        now = parse_event(next(Connection(command.socket).events()))["time"]
    return measure(nodes, now)


# ---- why ---------------------------------------------------------------------------------------
#
# A tree goes down from what a person asks about to what is to blame: below what is starting, what
# it waits for; below what is stopping, what must stop before it; below what has failed, what of
# its needs has failed. For what is running it goes up, to what it runs for.

class Why:
    """What linitd says of services now: of all, their graph; of those that are shown, more."""
    __slots__ = ("connection", "nodes", "users", "services", "shown")

    def __init__(self, connection: Connection):
        self.connection = connection
        self.nodes = ask_graph(connection)
        self.users = dependents(self.nodes)
        self.services = {}              # NAME -> service of `status`
        self.shown = set()

    def look(self, name: str) -> dict:
        """The service NAME; Refused where there is none."""
        if name not in self.services:
            self.services[name] = parse_status(self.connection.ask("status", name))
        return self.services[name]

    def state(self, name: str) -> str:
        return self.nodes[name]["state"] if name in self.nodes else "stopped"

    def all_in(self, *states: str) -> list:
        return [name for name in self.nodes if self.state(name) in states]

    def users_in(self, name: str, *states: str) -> list:
        """What depends on NAME and is in one of STATES; an `after` is no reason for anything."""
        users = self.users.get(name, {})
        return [each for each in sorted(users)
                if users[each] != "comes after" and self.state(each) in states]

    def causes(self, name: str) -> list:
        """The names to blame for the state of NAME."""
        state = self.state(name)
        if state == "starting":
            # One that runs is among those that it asked for, and has come in the meantime.
            return sorted(each for each in self.nodes[name]["waits"]
                          if self.state(each) != "running")
        if state == "stopping":
            return self.users_in(name, "running", "stopping")
        if state == "failed":
            return [each for each in self.nodes[name]["needs"] if self.state(each) == "failed"]
        return []

    def purposes(self, name: str) -> list:
        """The names of what NAME runs for."""
        return self.users_in(name, "running", "starting")

    def print(self, name: str) -> None:
        """The tree of NAME."""
        if self.state(name) != "running":
            print_tree([name], self.causes, self.cause_line, self.shown)
            return
        print_tree([name], self.purposes, self.purpose_line, set())
        if not self.purposes(name):
            print("  nothing that runs or starts needs it")

    def cause_line(self, path: list, name: str, is_again: bool) -> str:
        if not is_again:
            return self.about(name)
        if name in path:
            return printable(f"a cycle: {', '.join([*path[path.index(name):], name])}")
        # Where all wait for one service, which the line above names, that would be half the lines.
        is_said = self.causes(path[-1]) == [name] and self.state(path[-1]) == "starting"
        return "" if is_said else f"{printable(name)} (above)"

    def purpose_line(self, path: list, name: str, is_again: bool) -> str:
        """Of all that NAME runs for, one reason each."""
        if is_again:
            return ""
        if not path:
            return self.about(name)
        return printable(f"{name} {self.users[path[-1]][name]} {path[-1]}")

    def about(self, name: str) -> str:
        """What there is to say of NAME: state, process, how long, the last words."""
        service = self.look(name)
        causes = self.causes(name) if service["state"] == "starting" else []
        if causes:                      # its shell, which waits, is not to blame
            count = f"{len(causes)} of {len(relations(self.nodes[name]))}"
            what = causes[0] if len(causes) == 1 else count
            return printable(f"{name} waits for {what}, for {duration(service['seconds'])}")
        if service["state"] in ("running", "stopped"):
            return sentence(service)
        return sentence(service) + self.last_words(service)

    def last_words(self, service: dict) -> str:
        """Why it is as it is, as far as linitd and its own log say."""
        texts = [service["reason"]] if service["reason"] else []
        last = service["tail"][-1].strip() if service["tail"] else ""
        if last and last not in (service["reason"] or ""):
            texts.append(last)
        return "".join(f": {printable(text)}" for text in texts)

    def print_culprits(self) -> None:
        """What holds up others, of that which was shown; the one that holds up most at the end."""
        users = {}                      # name -> names of what waits for it
        for name in self.all_in("starting", "stopping"):
            for cause in self.causes(name):
                users.setdefault(cause, []).append(name)
        found = []
        for name in self.shown & users.keys():
            if not self.causes(name):
                above = walk([name], lambda each: users.get(each, []), set())
                held = sorted({each for _, each, _ in above} - {name})
                found.append((len(held), name, held))
        for count, name, held in sorted(found)[-CULPRITS:]:
            pid = f", pid {self.look(name)['pid']}," if self.look(name)["pid"] else ""
            print(printable(f"{name}{pid} holds up {count}: {named(held)}"))


def cmd_why(command: "Command") -> int:
    """Say what services wait for, and why; without names, those that aren't as they should be."""
    why = Why(Connection(command.socket))
    for name in command.words:
        why.look(name)
    names = command.words or [*tops(why.all_in("starting", "stopping"), why.causes),
                              *tops(why.all_in("failed"), why.causes)]
    if command.json:
        print_json(why_objects(why, names))
        return 0
    for name in names:
        why.print(name)
    why.print_culprits()
    if not names:
        print(f"{counted(len(why.all_in('running')), 'service')} running; nothing is starting or "
              "stopping, nothing has failed")
    return 0


def why_objects(why: Why, names: list) -> list:
    """The services of the trees of NAMES, each once; `because` has the names below it."""
    objects = []
    for name in names:
        below = why.purposes if why.state(name) == "running" else why.causes
        objects += [{**why.look(each), "because": below(each)}
                    for _, each, is_again in walk([name], below, why.shown) if not is_again]
    return objects


# ---- check -------------------------------------------------------------------------------------
#
# Init scripts are read, not run: `sh -n` says whether they are shell, and regular expressions find
# their commands. Only what is written out can be checked; what the shell would have to compute
# (`dep "$x"`, timeout=$y) is called dynamic. Conditions don't count: a `dep` in any branch is one.

SCRIPT_LIMIT = 1 << 20              # bytes
FIRST_LINE = "#!/etc/rc.common"
PROVIDED = ("boot", "pre", "linit-supd")    # linitd has these itself
FUNCTIONS = ("start", "run", "depends", "dependencies")
ASKING = ("dep", "want", "after", "before", "binds")
# What may stand before a command.
RESERVED = ("if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "!", "{",
            "}", "export", "readonly")
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+:@-")
NAME_LIMIT = 100
LONGEST = 86400                     # seconds

# A word of shell, quotes and substitutions included; a command; and the text behind `<<`.
WORD = r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\[^\n]|`[^`]*`|\$\((?:[^()]|\([^()]*\))*\)""" \
    r"""|\$\{(?:'[^']*'|[^'}])*\}|[^\s;&|()<>'"`\\])+"""
COMMAND = rf"(?<![^\s;&|()])#[^\n]*|(?P<function>[\w.+-]+)[ \t]*\([ \t]*\)" \
    rf"|(?P<words>{WORD}(?:(?:[ \t\r]|\\\n)+(?!#){WORD})*)"
HEREDOC = r"""<<-?[ \t]*(['"\\]?)([\w ]*\w)\1([^\n]*)(\n(?:.*?\n)?)\t*\2$"""
LITERAL = r"""(?:'[^']*'|"[^"$`\\]*"|\\.|[^'"\\$`*?\[~])*"""
ASSIGNMENT = r"[A-Za-z_][A-Za-z0-9_]*="


def is_name(text: str) -> bool:
    """Whether TEXT may name a service: a file's name, neither hidden nor an option."""
    return 0 < len(text) <= NAME_LIMIT and NAME_CHARS.issuperset(text) and text[0] not in ".-@"


def is_seconds(text: str) -> bool:
    digits = text.replace(".", "", 1)
    return digits.isascii() and digits.isdecimal() and len(text) <= 20 and float(text) <= LONGEST


def is_signal(text: str) -> bool:
    import _signal
    if text.isascii() and text.isdecimal():
        return 0 < int(text[:9]) < _signal.NSIG
    name = text if text.startswith("SIG") else "SIG" + text
    return isinstance(getattr(_signal, name, None), int) and not name.startswith("SIG_")


def is_user(text: str) -> bool:
    return NAME_CHARS.issuperset(text) and len(text) <= 32 and text[:1] not in ("-", "+", ":", "@")


def fits(pattern: str):
    """What says whether a text is as the regular expression PATTERN."""
    def is_fitting(text: str) -> bool:
        import re
        return re.fullmatch(pattern, text, re.ASCII) is not None
    return is_fitting


# A setting: whether a value is possible, and what it must be.
SETTINGS = {
    "restart": (fits("yes|always|on-failure|never"), "yes, always, on-failure or never"),
    "backoff": (is_seconds, f"seconds, at most {LONGEST}"),
    "ready": (fits(r"exec|fd|file:/\S*"), "exec, fd or file:/PATH"),
    "stop_signal": (is_signal, "a signal's name, as TERM"),
    "timeout": (is_seconds, f"seconds, at most {LONGEST}"),
    "log_times": (fits("yes|no"), "yes or no"),
    "user": (is_user, "a user's name"),
    "cgroup": (fits(r"(\s*[^\s=/.][^\s=/]*\.[^\s=/]*=\S+)*\s*"), "words like memory.max=64M"),
}


class Script:
    """What the script at PATH says: the functions that it defines, the settings outside of them,
    what it asks for; and what is wrong with it."""
    __slots__ = ("path", "text", "functions", "settings", "asks", "execs", "problems")

    def __init__(self, path: str):
        self.path = path
        self.text = ""
        self.functions = {}             # name -> line
        self.settings = []              # (line, name, value as written)
        self.asks = []                  # (line, dep or another, word as written)
        self.execs = False              # whether there is an exec, or what may have one, anywhere
        self.problems = []              # (line, level, text)

    def note(self, line: int, level: str, text: str) -> None:
        self.problems.append((line, level, text))


def base(name: str) -> str:
    """The script of the service NAME: getty for getty@tty1."""
    return name.partition("@")[0]


def literal(word: str) -> "str | None":
    """What WORD is without its quotes, or None where the shell must compute it."""
    import re
    if not re.fullmatch(LITERAL, word, re.DOTALL):
        return None
    parts = re.findall(r"""'([^']*)'|"([^"]*)"|\\(.)|([^'"\\]+)""", word, re.DOTALL)
    return "".join("".join(part) for part in parts)


def read_script(path: str) -> Script:
    """The script at PATH, with what is wrong with it alone; only a regular file is opened."""
    script = Script(path)
    if not is_name(os.path.basename(path)):
        script.note(1, "error", "not a service name: letters, digits and _.+:@- only, not . - "
                    f"or @ first, at most {NAME_LIMIT}")
    try:
        about = os.stat(path)
        if not os.path.isfile(path):
            script.note(1, "error", "it is not a file")
            return script
        with open(path, "rb") as file:
            script.text = file.read(SCRIPT_LIMIT).decode(errors="backslashreplace")
    except OSError as error:
        script.note(1, "error", error.strerror or str(error))
        return script
    check_file(script, about)
    if is_shell(script):
        read_commands(script)
        check_functions(script)
        check_settings(script, bool(about.st_mode & 0o004))
    return script


def check_file(script: Script, about: os.stat_result) -> None:
    """Mode, length and first line."""
    if not about.st_mode & 0o100:
        script.note(1, "error", f"not executable: chmod +x {script.path}")
    if about.st_mode & 0o022:
        script.note(1, "error", f"others than its owner may write it: chmod go-w {script.path}")
    if about.st_size > SCRIPT_LIMIT:
        script.note(1, "error", "more than 1 MiB; the rest is not read")
    if "\r" in script.text:
        script.note(1, "error", f"its lines end with CR LF: sed -i 's/\\r//' {script.path}")
    elif script.text.partition("\n")[0].rstrip(" \t") != FIRST_LINE:
        script.note(1, "error", f"its first line must be {FIRST_LINE}")


def is_shell(script: Script) -> bool:
    """Whether `sh -n` can read it; what that says is noted."""
    import re
    reader, writer = os.pipe()
    pid = os.posix_spawnp("sh", ["sh", "-n", script.path], os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, writer, 2)])
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read(READ_SIZE)
    status = os.waitpid(pid, 0)[1]
    if status:
        place = re.match(r".*?:(?: line)? (\d+): ", text)      # FILE: 3: Syntax error: ...
        line, start = (int(place[1]), place.end()) if place else (1, 0)
        script.note(line, "error", text[start:].partition("\n")[0] or "not shell")
    return status == 0


def read_commands(script: Script) -> None:
    """Note what the commands of SCRIPT define, set and ask for."""
    import re
    # The text of `<<` is left out, but for its lines.
    text, count = script.text, 1
    while count:
        text, count = re.subn(HEREDOC, lambda match: match[3] + "\n" * match[4].count("\n"), text,
                              flags=re.MULTILINE | re.DOTALL)
    line, at, depth = 1, 0, 0
    for match in re.finditer(COMMAND, text, re.DOTALL):
        line += text.count("\n", at, match.start())
        at = match.start()
        if match["function"]:
            script.functions.setdefault(match["function"], line)
        words = re.findall(WORD, match["words"] or "", re.DOTALL)
        while words and words[0] in RESERVED:
            depth += {"{": 1, "}": -1}.get(words.pop(0), 0)
        settings = []
        while words and re.match(ASSIGNMENT, words[0]):
            settings.append((line, *words.pop(0).split("=", 1)))
        if not words and depth == 0:
            script.settings += settings
        if words[:1] == ["exit"] and depth == 0 and text[at - 1] == "\n":
            script.note(line, "error", "an exit outside of its functions: none of them is called")
        if words and words[0] in ASKING:
            script.asks += [(line, words[0], word) for word in words[1:]]
        script.execs = script.execs or words[:1] in (["exec"], ["."], ["eval"])


def check_functions(script: Script) -> None:
    functions = script.functions
    if FIRST_LINE in script.text and not any(name in functions for name in FUNCTIONS):
        script.note(1, "error", "neither start nor run nor depends")
    if "start" in functions and "run" in functions:
        script.note(functions["run"], "error", "start and run; a service has one of them")
    if "run" in functions and not script.execs:
        script.note(functions["run"], "error",
                    "run without exec: linitd would watch the shell, not the daemon")


def check_settings(script: Script, is_readable: bool) -> None:
    """Values that can't be, and names that nothing reads and that are nearly those of settings."""
    import difflib
    for line, name, word in script.settings:
        value = literal(word)
        if name not in SETTINGS:
            close = difflib.get_close_matches(name, SETTINGS, 1, 0.75)
            if close and "$" + name not in script.text and "${" + name not in script.text:
                script.note(line, "warning", f"{name}: no such setting; did you mean {close[0]}?")
        elif value is None:
            script.note(line, "dynamic", f"{name}={word} is computed")
        elif not SETTINGS[name][0](value):
            script.note(line, "error", f"{name}={word}: it must be {SETTINGS[name][1]}")
        elif name == "user" and value not in ("", "root") and not is_readable:
            script.note(line, "error", f"{value} can't read this script: chmod a+r {script.path}")


def check_users(scripts: dict, initd: str, is_elsewhere: bool) -> None:
    """Users that the system of the directory INITD doesn't have. Scripts that are being written
    somewhere else may be for another system than this one."""
    path = os.path.realpath(initd)
    is_of_root = path.endswith(INITD)
    passwd = f"{path[:-len(INITD)] if is_of_root else ''}/etc/passwd"
    try:
        with open(passwd, encoding="utf-8", errors="replace") as file:
            users = {word for line in file for word in line.split(":")[:3:2]}
    except OSError:
        return                          # it isn't there yet
    level = "warning" if is_elsewhere and not is_of_root else "error"
    for script in scripts.values():
        for line, name, word in script.settings:
            user = literal(word)
            if name == "user" and user and is_user(user) and user not in users:
                script.note(line, level, f"user={user}: there is no such user")


def check_asks(scripts: dict) -> None:
    """Names that don't exist, and those that the shell computes."""
    for script in scripts.values():
        for line, verb, word in script.asks:
            name = literal(word)
            if name is None:
                script.note(line, "dynamic", f"{verb} {word} is computed, and not followed")
            elif not is_name(name):
                script.note(line, "error", f"{verb} {word}: not a service name")
            elif verb not in ("after", "before") and base(name) not in (*scripts, *PROVIDED):
                level = "warning" if verb == "want" else "error"
                script.note(line, level, f"{verb} {name}: there is no such script")


def check_cycles(scripts: dict) -> None:
    """Each cycle of `dep`, `want` and `binds`, once. linitd ignores an `after` or `before` that
    would close one."""
    edges = {}                          # of services that have been looked at: name -> line

    def below(name: str) -> list:
        if name not in edges:
            asks = scripts[base(name)].asks if base(name) in scripts else []
            names = [(literal(word), line) for line, verb, word in asks
                     if verb not in ("after", "before")]
            edges[name] = {other: line for other, line in reversed(names) if other is not None}
        return sorted(edges[name])

    for path, name, is_again in walk(sorted(scripts), below, set()):
        if is_again and name in path:
            cycle = path[path.index(name):]
            scripts[base(cycle[-1])].note(edges[cycle[-1]][name], "error",
                                          f"a cycle: {', '.join([*cycle, name])}")


def initd_of(path: str) -> str:
    """The init scripts of the linitd at PATH; the system's own needn't be running."""
    if path == SOCKET:
        return INITD
    lines = Connection(path).ask("paths")
    return dict(line.partition(" ")[::2] for line in lines).get("initd") or INITD


def cmd_check(command: "Command") -> int:
    """Say what is wrong with the init scripts of a directory."""
    initd = command.words[0] if command.words else initd_of(command.socket)
    scripts = {name: read_script(os.path.join(initd, name))
               for name in sorted(os.listdir(initd)) if not name.endswith(".lpkg-new")}
    check_users(scripts, initd, is_elsewhere=bool(command.words))
    check_asks(scripts)
    check_cycles(scripts)
    found = [{"file": script.path, "line": line, "level": level, "text": text}
             for script in scripts.values() for line, level, text in sorted(script.problems)]
    errors, warnings, dynamic = [sum(each["level"] == level for each in found)
                                 for level in ("error", "warning", "dynamic")]
    if command.json:
        print_array(found)
    else:
        for each in found:
            level = "" if each["level"] == "error" else f"{each['level']}: "
            print(printable(f"{each['file']}:{each['line']}: {level}{each['text']}"))
        say(f"{counted(len(scripts), 'service')}, {counted(errors, 'error')}, "
            f"{counted(warnings, 'warning')}, {dynamic} dynamic")
    return 1 if errors else 0


# ---- the command line --------------------------------------------------------------------------

# An option: what the help calls its value, its help.
OPTIONS = {
    "--socket": ("PATH", f"linitd's socket ($LINITSOCK, or {SOCKET})"),
    "--user": ("", "the linitd that this user has started with --user"),
    "--json": ("", "print an array of objects; events: an object a line"),
    "--signal": ("SIGNAL", "what ends the daemon: HUP, 9 (stop)"),
    "-f": ("", "follow what is added, until Ctrl-C (log)"),
    "-o": ("FILE", "write to a file (plot)"),
    "--version": ("", "print the version"),
    "--help": ("", "print this"),
}

# A verb: what carries it out, its words, its own options, its help.
SOME = "NAME..."
JSON = ("--json",)
VERBS = {
    "start": (cmd_change, SOME, JSON, "start services, after what they need"),
    "stop": (cmd_change, SOME, ("--signal", "--json"), "stop services, after what needs them"),
    "restart": (cmd_change, SOME, JSON, "stop and start services, and what depends on them"),
    "reload": (cmd_change, SOME, JSON, "have services read their settings again"),
    "signal": (cmd_signal, "NAME SIGNAL", (), "send a signal to a service's main process"),
    "status": (cmd_status, "[NAME...]", JSON, "show services, or what isn't as it should be"),
    "list": (cmd_list, "", JSON, "list all services"),
    "log": (cmd_log, "[NAME]", ("-f",), "print the log of a service, or linitd's own"),
    "enable": (cmd_change, SOME, JSON, "start services at boot"),
    "disable": (cmd_change, SOME, JSON, "don't start services at boot"),
    "wait": (cmd_change, SOME, JSON, "wait until services are running; start nothing"),
    "events": (cmd_events, "", JSON, "print each change of a state, until Ctrl-C"),
    "graph": (cmd_graph, "[NAME...]", JSON, "show what needs what"),
    "plot": (cmd_plot, "", ("-o",), "draw the boot, as an SVG"),
    "blame": (cmd_blame, "", JSON, "show how long each service took to start"),
    "why": (cmd_why, "[NAME...]", JSON, "say what services wait for, or why they failed or run"),
    "check": (cmd_check, "[DIR]", JSON,
              f"check init scripts ({INITD}, or those of --socket's linitd)"),
    "poweroff": (cmd_change, "", JSON, "stop everything and switch off"),
    "reboot": (cmd_change, "", JSON, "stop everything and boot again"),
    "halt": (cmd_change, "", JSON, "stop everything and halt"),
    "reexec": (cmd_change, "", JSON, "have linitd execute its file anew, and lose nothing"),
}


class Command:
    """The command line, parsed: the verb, if any, the words after it, FLAG -> value of options."""
    __slots__ = ("verb", "words", "options")

    def __init__(self, words: list, options: dict):
        self.verb = words[0] if words else None
        self.words = words[1:]
        self.options = options

    @property
    def json(self) -> bool:
        return "--json" in self.options

    @property
    def socket(self) -> str:
        """The path of linitd's socket."""
        if "--user" in self.options:
            folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
            return f"{folder}/linit.sock"
        return self.options.get("--socket", os.environ.get("LINITSOCK") or SOCKET)


def parse_arguments(arguments: list) -> Command:
    """The Command; options may stand before and after the verb, `--` ends them."""
    words, options = [], {}
    rest = list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if word.startswith("-"):
            take_option(word, rest, options)
        else:
            words.append(word)
    return Command(words + rest[1:], options)


def take_option(word: str, rest: list, options: dict) -> None:
    """Note the option WORD in OPTIONS; its value follows a `=`, or is taken from REST."""
    flag, equals, value = word.partition("=")
    if flag not in OPTIONS:
        raise Fail(f"{flag}: no such option; see linitctl --help", USAGE)
    metavar = OPTIONS[flag][0]
    if equals and not metavar:
        raise Fail(f"{flag} takes no value", USAGE)
    if metavar and not equals and not rest:
        raise Fail(f"{flag} needs a value: {flag} {metavar}", USAGE)
    options[flag] = rest.pop(0) if metavar and not equals else value


def check_command(command: Command) -> None:
    """Fail unless the verb exists, and takes the options that were given and these words."""
    verb = command.verb
    if verb not in VERBS:
        what = "no verb" if verb is None else f"{verb}: no such verb{nearest(verb, VERBS)}"
        raise Fail(f"{what}; see linitctl --help", USAGE)
    _, usage, flags, _ = VERBS[verb]
    for flag in command.options:
        if flag not in ("--socket", "--user", *flags):
            raise Fail(f"{flag} doesn't go with {verb}; see linitctl --help", USAGE)
    count = len(command.words)
    least = 0 if usage.startswith("[") else len(usage.split())
    if count < least or ("..." not in usage and count > len(usage.split())):
        raise Fail(f"write linitctl {verb} {usage}".rstrip(), USAGE)
    for word in command.words if "NAME" in usage else ():
        check_name(word)


def check_name(word: str) -> None:
    """Fail unless WORD may be sent as a name; what else a name must be, linitd knows."""
    is_utf8 = word.encode(errors="ignore").decode() == word
    if word.split() != [word] or not is_utf8:
        raise Fail(f"{word!r}: a name is UTF-8, has no blanks or newlines, and isn't empty", USAGE)
    if word.startswith("-"):
        raise Fail(f"{word}: a service's name doesn't begin with '-'", USAGE)


def help_text() -> str:
    """What --help prints."""
    lines = ["linitctl: start, stop and show services, by asking linitd", ""]
    lines += [f"  linitctl {verb + ' ' + usage:16} {text}"
              for verb, (_, usage, _, text) in VERBS.items()]
    lines += ["", "Options, before or after the verb:"]
    lines += [f"  {flag + ' ' + value:18} {text}" for flag, (value, text) in OPTIONS.items()]
    return "\n".join(lines)


def run(arguments: list) -> int:
    """Carry out the command line."""
    command = parse_arguments(arguments)
    if "--version" in command.options:
        print(f"linitctl {VERSION}")
    elif "--help" in command.options:
        print(help_text())
    else:
        check_command(command)
        return VERBS[command.verb][0](command)
    return 0


def open_streams() -> None:
    """Make stdout and stderr take any text, also where they were closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        getattr(sys, name).reconfigure(errors="backslashreplace")


def leave(text: str, status: int) -> int:
    """Say TEXT, if any, and give STATUS, whatever has become of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if text and stream is sys.stderr:
                say(f"linitctl: {text}")
            stream.flush()
        except OSError:
            # What nobody takes must be forgotten, else the exit tries again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def main(argv: "list | None" = None) -> int:
    """Run linitctl; whatever goes wrong is one line on stderr and a status."""
    open_streams()
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except Fail as error:
        return leave(str(error), error.status)
    except KeyboardInterrupt:
        return leave("interrupted", INTERRUPTED)
    except BrokenPipeError:             # the reader has seen enough
        return leave("", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return leave(f"{where}{error.strerror or error}", 1)
    except MemoryError:
        return leave("not enough memory", 1)


if __name__ == "__main__":
    sys.exit(main())
