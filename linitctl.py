#!/usr/bin/env python3
"""linitctl: starts, stops and shows the services of Panux; the client of linitd.

    linitctl.py start httpd             # and what it needs; ends when it is running, or has failed
    linitctl.py status httpd            # exit status 0 running, 3 not running, 4 unknown
    linitctl.py --socket S list --json

It talks with linitd over the socket that --socket names, else $LINITSOCK, else /run/linit.sock, as
docs/protocol.md says, and for `log` it reads the files that linitd names. It writes no file.

The invariant: linitctl only asks. What linitd has begun goes on whether linitctl waits, is
interrupted or dies; and nothing that a service or linitd says drives the terminal.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: a json.py lying beside it would be run as ours.
    del sys.path[0]

# The module `socket` brings selectors and enum: some 6 ms, where all the rest of a request takes 2.
import _socket
import os
import time

VERSION = "0.1"

SOCKET = "/run/linit.sock"
PIECE = 1 << 16                     # bytes that are read at a time
LINE_LIMIT = 256 << 10              # bytes of a line, the protocol's limit
ANSWER_LIMIT = 16 << 20             # bytes of an answer: some 100,000 services
LINE_COST = 64                      # bytes that a line of an answer costs beside its own
POLL = 0.2                          # seconds between two looks at a log that is followed

STATES = ("stopped", "starting", "running", "stopping", "failed")
COLOURS = {"running": "32", "failed": "31", "starting": "33", "stopping": "33"}
CODES = ("1", "2", "4", "5", "7")   # of `error`: those that LSB has for what init scripts do
UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
USAGE = 2
NOT_RUNNING = 3                     # exit statuses of `status`, by LSB
UNKNOWN = 4
INTERRUPTED = 130


class Fail(Exception):
    """What a user, linitd or a file can cause: one line that says what, where and what to do."""

    def __init__(self, text: str, status: int = 1):
        super().__init__(text)
        self.status = status


class Refused(Fail):
    """linitd's own `error CODE TEXT`."""


def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """One line of talk on stderr; over a progress line it starts afresh."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    # The newline too: print writes it by itself, and a parallel build's line may come in between.
    print(clear + printable(text) + "\n", end="", file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Redraw the terminal's last line with TEXT; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        print("\r\033[K" + printable(text)[: width - 1], end="", file=sys.stderr, flush=True)


# ---- what linitd says --------------------------------------------------------------------------
#
# A service is a dict with the keys of --json, except that it has `seconds`, not `since`.

def strange(line: str) -> Fail:
    """The error for a LINE that linitd would not send."""
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
    """The service of an answer to `status`; lines that a later linitd may add are skipped."""
    fields = {"needs": "", "restarts": "0", **dict(line.partition(" ")[::2] for line in lines)}
    service = parse_service([fields.get(key, "") for key in ("name", "state", "pid", "seconds")])
    service["needs"] = fields["needs"].split()
    service["restarts"] = int(number(fields["restarts"]))
    service["reason"] = fields.get("reason") or None
    service["tail"] = [line[5:] for line in lines if f"{line} ".startswith("tail ")]
    return service


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
    """TEXT in the colour of STATE, where somebody looks who wants colours."""
    if state not in COLOURS or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
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
    """Lines of a log; tabs are common there, and do no harm."""
    text = data.decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() or c in "\n\t" else printable(c) for c in text)
    print(text, end="", flush=True)


def print_status(service: dict) -> None:
    """All that `status` says, for people."""
    state = coloured(service["state"], service["state"])
    pid = f", pid {service['pid']}" if service["pid"] else ""
    print(f"{printable(service['name'])} is {state}{pid}, for {duration(service['seconds'])}")
    if service["needs"]:
        print(printable("needs: " + " ".join(service["needs"])))
    if service["restarts"]:
        print(f"restarted: {service['restarts']} time{'s' if service['restarts'] > 1 else ''}")
    if service["reason"]:
        print(printable("reason: " + service["reason"]))
    for line in service["tail"]:
        print("    " + printable(line.expandtabs()))


def print_json(services: list) -> None:
    """An array, a service a line; `since` is when its state began, in seconds of unix time."""
    import json
    for service in services:
        service["since"] = int(time.time() - service.pop("seconds"))
    print("[" + ",\n ".join(json.dumps(service) for service in services) + "]")


# ---- the connection ----------------------------------------------------------------------------

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
        self.subject = " ".join(words[1:]) or "linitd"
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
        word, code, text = (*line.split(" ", 2), "", "")[:3]
        if word == "error" and code in CODES and text:
            raise Refused(text, int(code))
        if line != "ok":
            raise strange(line)
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
        """What comes next; each second without it redraws the waiting line."""
        self.socket.settimeout(1 if sys.stderr.isatty() else None)
        piece = None
        while piece is None:
            try:
                piece = self.socket.recv(PIECE)
            except _socket.timeout:
                seconds = time.monotonic() - self.asked
                progress(f"waiting for {self.subject}, {seconds:.0f} s")
            except ConnectionError:
                piece = b""
        if not piece:
            raise Fail("linitd closed the connection before it had answered; see its log")
        return piece


# ---- verbs -------------------------------------------------------------------------------------

def cmd_change(command: "Command") -> int:
    """start, stop and the others of which nothing is to be shown."""
    connection = Connection(command.socket)
    try:
        connection.ask(command.verb, *command.words)
    except KeyboardInterrupt:
        what = " ".join([command.verb, *command.words])
        raise Fail(f"interrupted; linitd goes on with {what}", INTERRUPTED) from None
    return 0


def cmd_list(command: "Command") -> int:
    """Show all services."""
    lines = Connection(command.socket).ask("list")
    services = [parse_service(line.split(" ")) for line in lines]
    if command.json:
        print_json(services)
    else:
        print_table(services)
    return 0


def cmd_status(command: "Command") -> int:
    """Show each of the services; the highest of their exit statuses is this one's."""
    shown = []
    status = 0
    try:
        connection = Connection(command.socket)
        for name in command.words:
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
    else:
        for service in shown:
            print_status(service)
    return status


def cmd_log(command: "Command") -> int:
    """Print a service's log as one text: a line may begin in one file and end in the next."""
    paths = Connection(command.socket).ask("log", *command.words)
    if command.follow and not paths:
        raise Fail(f"{command.words[0]}: it has no log yet; try again when it has")
    rest = b""
    for path in paths:
        for piece in read_log(path, command.follow and path == paths[-1]):
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
                    yield from iter(lambda: file.read(PIECE), b"")
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


# ---- the command line --------------------------------------------------------------------------

# An option: the attribute of Command that it sets, what the help calls its value, its help.
OPTIONS = {
    "--socket": ("socket", "PATH", f"linitd's socket ($LINITSOCK, or {SOCKET})"),
    "--json": ("json", "", "print an array of objects (list, status)"),
    "-f": ("follow", "", "go on with what is added, until Ctrl-C (log)"),
    "--version": ("version", "", "print the version"),
    "--help": ("help", "", "print this"),
}

# A verb: what carries it out, its words, its own options, its help.
VERBS = {
    "start": (cmd_change, "NAME...", (), "start services, and what they need before"),
    "stop": (cmd_change, "NAME...", (), "stop services, and what depends on them before"),
    "restart": (cmd_change, "NAME...", (), "stop and start services, and what depends on them"),
    "status": (cmd_status, "NAME...", ("--json",), "show how services are"),
    "list": (cmd_list, "", ("--json",), "list all services"),
    "log": (cmd_log, "NAME", ("-f",), "print the log of a service"),
    "enable": (cmd_change, "NAME...", (), "let services start at boot"),
    "disable": (cmd_change, "NAME...", (), "don't let services start at boot"),
    "poweroff": (cmd_change, "", (), "stop everything and switch off"),
    "reboot": (cmd_change, "", (), "stop everything and boot again"),
    "halt": (cmd_change, "", (), "stop everything and halt"),
}


class Command:
    """The command line, parsed: the verb, if any, the words after it, the options."""
    __slots__ = ("verb", "words", "given", "socket", "json", "follow", "version", "help")

    def __init__(self):
        self.verb = None
        self.words = []
        self.given = []                 # the options' flags
        self.socket = os.environ.get("LINITSOCK") or SOCKET
        self.json = self.follow = self.version = self.help = False


def parse_arguments(arguments: list) -> Command:
    """The Command; options may stand before and after the verb, `--` ends them."""
    command = Command()
    rest = list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if word.startswith("-"):
            set_option(command, word, rest)
        else:
            command.words.append(word)
    command.words += rest[1:]
    command.verb = command.words.pop(0) if command.words else None
    return command


def set_option(command: Command, word: str, rest: list) -> None:
    """Note the option WORD; its value is behind a `=` or the first of REST, which is taken away."""
    flag, equals, value = word.partition("=")
    if flag not in OPTIONS:
        raise Fail(f"{flag}: no such option; see linitctl --help", USAGE)
    attribute, metavar, _ = OPTIONS[flag]
    if equals and not metavar:
        raise Fail(f"{flag} takes no value", USAGE)
    if metavar and not equals and not rest:
        raise Fail(f"{flag} needs a value: {flag} {metavar}", USAGE)
    command.given.append(flag)
    setattr(command, attribute, (value if equals else rest.pop(0)) if metavar else True)


def check_command(command: Command) -> None:
    """Fail unless the verb exists, and takes the options that were given and these words."""
    verb, count = command.verb, len(command.words)
    if verb not in VERBS:
        what = "no verb" if verb is None else f"{verb}: no such verb"
        raise Fail(f"{what}; see linitctl --help", USAGE)
    _, words, flags, _ = VERBS[verb]
    for flag in command.given:
        if flag not in ("--socket", *flags):
            raise Fail(f"{flag} doesn't go with {verb}; see linitctl --help", USAGE)
    if not {"": count == 0, "NAME": count == 1, "NAME...": count >= 1}[words]:
        raise Fail(f"write linitctl {verb} {words}".rstrip(), USAGE)
    for word in command.words:
        is_utf8 = word.encode(errors="ignore").decode() == word
        if word.split() != [word] or not is_utf8:
            raise Fail(f"{word!r}: a name is UTF-8, has no blanks or newlines, and isn't empty",
                       USAGE)


def help_text() -> str:
    """What --help prints."""
    lines = ["linitctl, which asks linitd to start, stop and show services", ""]
    lines += [f"  linitctl {verb + ' ' + words:16} {text}"
              for verb, (_, words, _, text) in VERBS.items()]
    lines += ["", "Options, before or after the verb:"]
    lines += [f"  {flag + ' ' + value:14} {text}" for flag, (_, value, text) in OPTIONS.items()]
    return "\n".join(lines)


def run(arguments: list) -> int:
    """Carry out the command line."""
    command = parse_arguments(arguments)
    if command.version:
        print(f"linitctl {VERSION}")
    elif command.help:
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
