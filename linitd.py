#!/usr/bin/env python3
"""linitd: the init of Panux. It runs shell init scripts in parallel, in the order they ask for.

    linitd.py                                   # as PID 1, or started by initd/init
    linitd.py --initd D --rcd R --socket S --log L      # as anybody, beside any other init
    linitd.py --check                           # whether this Python can run it at all

It reads /etc/init.d/NAME (the services) and /etc/rc.d (what `boot` starts), listens at
/run/linit.sock (docs/protocol.md), has a folder of FIFOs for the scripts beside that, and keeps
what services print in /var/log/linit/NAME. It runs linit-start, a shell script; linit-log, which
writes those logs; and, when there is nothing to do, becomes linit-idle, which becomes linitd again.
They are looked for beside this file, in initd/ there, and in /sbin.

The invariant: one loop, which waits in epoll alone. Whatever a client, a service or a disk does is
one line on the console; nothing that they do makes it wait, grow without bound, or end. All that it
knows is plain data (numbers, text, sets of names), so that the next linitd can go on with it.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: an os.py lying beside it would be run as ours.
    del sys.path[0]

# The C modules below `signal` and `socket`: those two load enum and selectors, some 6 ms, where an
# empty Python starts in 7.
import _signal
import _socket
import marshal
import os
import resource
import select
import stat
import time

VERSION = "0.2"
PROGRAM = os.path.abspath(sys.argv[0])

LINE_LIMIT = 256 << 10              # bytes of a request
READ_SIZE = 64 << 10                # bytes that are read from anybody at a time
READS_AT_THE_END = 16               # of what a process that ended has left in a pipe
USER_CLIENTS = 64                   # connections of one user
ALL_CLIENTS = 256                   # connections of all users but root and the owner
OWNER_CLIENTS = 1024                # connections of root and the owner
OTHERS_SHARE = 0.005                # seconds of a turn for others than root and the owner
EVENTS_LIMIT = 256 << 10            # bytes of events that a client hasn't read; then it is dropped
ACCEPT_PAUSE = 1.0                  # seconds without accepting after descriptors ran out
DESCRIPTORS = 65536                 # that root takes for itself: three for each service that starts
RESERVE = 8                         # scripts leave one in so many descriptors to clients
EMFILE = 24                         # no descriptors are left (errno(3))
BATCH = 32                          # scripts that one shell runs
LOG_PIECE = 1024                    # bytes of a log that linit-log takes at a time
LOG_LIMIT = 256 << 10               # bytes that wait for linit-log; then what is said is lost
LOG_PAUSE = 1.0                     # seconds after which linit-log is started again
TAIL_LIMIT = 2048                   # bytes of a log's end that are kept in memory
HEAD_SIZE = 104                     # bytes of what begins a message to linit-log, in linit-idle
OUTPUT_SIZE = 16 + HEAD_SIZE + TAIL_LIMIT       # bytes of what it keeps for each output
TAIL_LINES = 8                      # of which status shows so many lines
SAID_LIMIT = 1000                   # characters of a message on the console
REASON_LIMIT = 500                  # characters of a reason
NAME_LIMIT = 100                    # characters of a service's name
FILE_POLL = 0.05                    # seconds between two looks at a file that means readiness
GROUP_POLL = 0.05                   # seconds between two looks at what a main process has left
SHORT_RUN = 1.0                     # seconds after which an end may be one in the background
LONG_RUN = 10.0                     # seconds that a daemon must run for its backoff to begin anew
LONGEST_PAUSE = 60.0                # seconds between two starts of a daemon
KILL_GRACE = 5.0                    # seconds that a killed process may take to end
KILL_PASSES = 20                    # looks for processes that were forked while others were killed
SHUTDOWN_LIMIT = 60.0               # seconds after which a shutdown waits for no service any more
LAST_GRACE = 2.0                    # seconds between TERM and KILL for what is left at the end
STUCK = 5.0                         # seconds of a boot without progress; then the console says why
NAP = 1.0                           # seconds with nothing to do; then it sleeps
CHECK_AGAIN = 10.0                  # seconds between two trials of a linitd that doesn't run
CHECK_LIMIT = 10.0                  # seconds that such a trial may take

OWN_LOG = "linitd"                  # the log of linitd's own messages, and so no service's name
# Scripts that may lie beside linit-start, where the folder of init scripts has none of that name.
OUR_SCRIPTS = ("boot", "pre", "linit-supd")
# What services have of the environment in which `linitd --user` was started, beside the PATH.
USER_VARIABLES = ("HOME", "LANG", "LOGNAME", "SHELL", "USER", "XDG_RUNTIME_DIR")
ALONE = (b"\nrun()", b"exec ", b"trap ", b"$$")   # what has a script run by a shell of its own
HOST_SCRIPTS = ("hostname", "loopback", "network", "firewall", "mount", "sysctl")
GROUPS = "/sys/fs/cgroup/linit"     # a cgroup (v2) for each service
SOCKET = "/run/linit.sock"
GOOD_START = "/var/lib/linit/good"  # which Python and linitd were the last that ran: for initd/init
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+:@-")

# What signals ask of PID 1, as busybox's and most others' poweroff, halt and reboot send them;
# INT is Ctrl-Alt-Del.
PID_1_SIGNALS = {_signal.SIGUSR2: "poweroff", _signal.SIGUSR1: "halt", _signal.SIGTERM: "reboot",
                 _signal.SIGINT: "reboot"}
USER_SIGNALS = {_signal.SIGTERM: "exit", _signal.SIGINT: "exit", _signal.SIGHUP: "exit"}
# What a service starts with at its default, whatever linitd or who started it has done to them.
DEFAULT_SIGNALS = _signal.valid_signals()

# A service's states. What other programs see of WAITING, between two starts of a daemon that
# ended, is `starting`; of HELD, to be stopped when what depends on it has stopped, `stopping`.
STOPPED = "stopped"
STARTING = "starting"
RUNNING = "running"
WAITING = "waiting"
HELD = "held"
STOPPING = "stopping"
FAILED = "failed"
ACTIVE = (STARTING, RUNNING, WAITING)
DOWN = (STOPPED, FAILED)


class Fail(Exception):
    """A request that can't be met: one line that says what; CODE is LSB's."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


# ---- text ----------------------------------------------------------------------------------------

def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the console."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_name(text: str) -> bool:
    """Whether TEXT may name a service: a file's name, neither hidden nor an option, nor what lpkg
    put beside a script that was changed here, nor linitd's own log."""
    return (0 < len(text) <= NAME_LIMIT and NAME_CHARS.issuperset(text) and text[0] not in ".-@"
            and not text.endswith(".lpkg-new") and text != OWN_LOG)


def check_name(text: str) -> None:
    if not is_name(text):
        raise Fail(f"{text[:NAME_LIMIT]}: not a service name", 2)


def exit_text(status: "int | None") -> str:
    """What a wait status says: `ended with status 1`, `was killed by signal 9`."""
    if status is None:
        return "was killed"
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def last_lines(tail: bytes, count: int) -> list:
    """The last COUNT lines of TAIL that aren't blank, as text that is safe to show."""
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return [printable(line) for line in lines[-count:]]


# ---- what a script says of itself ----------------------------------------------------------------

def parse_seconds(text: str) -> float:
    """A time in seconds, at most a day."""
    value = float(text)
    if not 0 <= value <= 86400:
        raise ValueError(text)
    return value


def parse_signal(text: str) -> int:
    """The number of a signal, given as TERM, SIGTERM or 15."""
    if text.isdecimal() and 0 < int(text) < _signal.NSIG:
        return int(text)
    name = text if text.startswith("SIG") else "SIG" + text
    number = getattr(_signal, name, None)
    if not isinstance(number, int) or name.startswith("SIG_"):
        raise ValueError(text)
    return number


def signal_option(word: str) -> int:
    """The number of the signal that WORD gives as -TERM or -15; 0 where it is something else."""
    try:
        return parse_signal(word[1:]) if word.startswith("-") else 0
    except ValueError:
        return 0


def parse_ready(text: str) -> str:
    """How a daemon says that it is ready."""
    if text not in ("exec", "fd") and not text.startswith("file:/"):
        raise ValueError(text)
    return text


def one_of(*words: str) -> tuple:
    """How one of WORDS is read, and what it must be."""
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text
    return parse, f"{', '.join(words[:-1])} or {words[-1]}"


# Setting: its default, how it is read, what it must be. A script that has a `start`, no `stop` and
# the default timeout says nothing.
SETTINGS = {
    "type": ("start", *one_of("start", "run")),
    "stop": ("no", *one_of("yes", "no")),
    "restart": ("yes", *one_of("yes", "always", "on-failure", "never")),
    "backoff": (0.5, parse_seconds, "seconds"),
    "ready": ("exec", parse_ready, "exec, fd or file:/PATH"),
    "stop_signal": (_signal.SIGTERM, parse_signal, "a signal's name"),
    "timeout": (60.0, parse_seconds, "seconds"),     # 0: it may take as long as it likes
    "log_times": ("no", *one_of("yes", "no")),
}
DEFAULTS = {key: default for key, (default, _, _) in SETTINGS.items()}


def parse_settings(words: list) -> dict:
    """The settings that KEY=VALUE words give, the rest at their defaults; Fail for a wrong one."""
    settings = dict(DEFAULTS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in SETTINGS:
            raise Fail(f"{word}: no such setting")
        _, parse, wanted = SETTINGS[key]
        try:
            settings[key] = parse(value)
        except ValueError:
            raise Fail(f"{word}: it must be {wanted}") from None
    return settings


# ---- what is remembered --------------------------------------------------------------------------

def plain(thing: object) -> dict:
    """The fields of a Service or Peer, which are plain data."""
    return {key: getattr(thing, key) for key in thing.__slots__}


def fill(thing: object, fields: dict) -> object:
    """THING with the FIELDS that a linitd of maybe another version had saved."""
    for key in thing.__slots__:
        if key in fields:
            setattr(thing, key, fields[key])
    return thing


class Service:
    """A service that somebody has asked for."""
    __slots__ = (
        "name", "state", "since",   # since: when the state began, in monotonic seconds
        "settings", "failure",      # failure: why it is failed, or is about to be
        "again",                    # whether it is to be started once it has stopped
        "keeps_trying",             # whether that is to be tried again and again when it fails
        "pid", "batch",             # its shell or daemon; who forks that, until pid is known
        "alone",                    # its shell is run for it alone, and leads a session
        "group",                    # that shell's process group and session; None: nothing is left
        "told", "guests",           # when it was told to end (0: not yet); which sessions were, too
        "calls",                    # function of its script: the shell that runs that
        "problems",                 # such a function: why it failed when it was called last, or ""
        "ask", "log", "tail",       # its requests' descriptor; its output's; the end of that
        "has_printed",              # whether it has printed anything since it was started
        "needs", "binds", "wants", "afters",    # names: what it asked for in `depends`
        "dependents",               # names: who needs it
        "befores",                  # names: what comes after it where both are started
        "waiting", "waiters",       # names that its shell waits for; who waits for it: descriptors
        "launched", "met", "became_ready", "ended",     # in monotonic seconds; 0: not yet
        "pause", "restarts", "ready_stamp",     # ready_stamp: the file's, before it was started
        "signal",                   # what to stop it with this time, in place of its stop_signal
        "kills",                    # KILLs sent while stopping
    )

    def __init__(self, name: str, since: float = 0.0):
        self.name = name
        self.state = STOPPED
        self.since = since
        self.became_ready = 0.0
        self.ask = self.log = None
        self.calls, self.problems = {}, {}
        self.keeps_trying = self.alone = False
        self.tail = b""
        self.dependents, self.befores, self.waiters = set(), set(), set()
        self.pause, self.restarts = 0.0, 0
        self.ready_stamp = ()
        self.begin_life(0.0)

    def begin_life(self, now: float) -> None:
        """Forget its last life: it is started NOW."""
        self.launched, self.met, self.ended = now, 0.0, 0.0
        self.settings, self.failure = DEFAULTS, ""
        self.pid = self.batch = self.group = None
        self.again = self.has_printed = False
        self.told, self.guests, self.kills, self.signal = 0.0, set(), 0, 0
        self.needs, self.binds, self.wants, self.afters = set(), set(), set(), set()
        self.waiting = set()

    @property
    def is_daemon(self) -> bool:
        return self.settings["type"] == "run"

    def came_up(self) -> bool:
        """Whether it has run since it was started last."""
        return self.became_ready > self.launched

    def is_up(self) -> bool:
        """Whether its start has come to an end, good or bad."""
        return self.state == RUNNING or self.state in DOWN and not self.again

    def is_down(self) -> bool:
        """Whether its stop has come to an end."""
        return self.state in DOWN

    def is_decided(self) -> bool:
        """Whether it runs or has failed: what `wait` waits for."""
        return self.is_up() and self.state != STOPPED

    def cannot_start(self) -> bool:
        """Whether its last start has failed, or is given up."""
        return self.state in (FAILED, HELD, STOPPING) and bool(self.failure) and not self.came_up()

    def last_words(self) -> list:
        """The last line that it has printed since it was started, which mostly says why."""
        return last_lines(self.tail, 1) if self.has_printed else []

    def log_kind(self) -> str:
        """How linit-log writes what it prints."""
        return "+" if self.settings["log_times"] == "yes" else " "

    def shown_state(self) -> str:
        return {WAITING: STARTING, HELD: STOPPING}.get(self.state, self.state)

    def shown_pid(self) -> str:
        runs = self.is_daemon and self.state == RUNNING
        is_there = runs or self.state in (STARTING, HELD, STOPPING)
        return str(self.pid) if self.pid and is_there else "-"


def problem_of_start(service: Service) -> str:
    return "" if service.state == RUNNING else service.failure or "it was stopped"


def problem_of_stop(service: Service) -> str:
    return service.failure if service.state == FAILED else ""


# What a peer may wait for: whether a service has come there, and what then is the matter, if so.
GOALS = {
    "up": (Service.is_up, problem_of_start),
    "down": (Service.is_down, problem_of_stop),
    "running": (Service.is_decided, problem_of_start),
    # Whatever becomes of it; its daemon may end again and again before it is ready.
    "settled": (lambda each: each.is_up() or each.state == WAITING and not each.came_up(),
                lambda service: ""),
}
# Functions of a script that clients may have called, and what its log says then.
CALLS = {"reload": "was reloaded", "enable": "was enabled", "disable": "was disabled"}
GOALS.update({
    function: (lambda service, function=function: function not in service.calls,
               lambda service, function=function: service.problems[function])
    for function in CALLS
})


class Peer:
    """A connection of a client, or the FIFO of a script (then service has its name)."""
    __slots__ = (
        "fd", "uid", "service",
        "writes_to",                # where answers go
        "input", "output",
        "goal", "left",             # what it waits for, and of which services still
        "problems",                 # of those for which it has waited last
        "remarks",                  # what it is told although all is well
        "at_end",                   # it sends no more
        "gone",                     # it takes no more
        "mask",                     # what epoll looks for
    )

    def __init__(self, fd: int, uid: int, service: str = ""):
        self.fd = fd
        self.uid = uid
        self.service = service
        self.writes_to = None if service else fd
        self.input = self.output = b""
        self.goal, self.left = "", set()
        self.problems, self.remarks = [], []
        self.at_end = self.gone = False
        self.mask = select.EPOLLIN


# ---- files ---------------------------------------------------------------------------------------

def open_console() -> int:
    """The descriptor that messages go to. The console of PID 1 must never make it wait."""
    if os.getpid() != 1:
        return 2
    try:
        return os.open("/dev/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return 2


def check_script(path: str) -> None:
    """Fail unless PATH is a file that nobody but root and this user can have written, nor can put
    another in its place."""
    paths = (path, os.path.realpath(path)) if os.path.islink(path) else (path,)
    folders = map(os.path.dirname, paths)
    try:
        status = os.stat(path)
        folders = {folder: os.stat(folder) for folder in folders}
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}", 5) from None
    if not stat.S_ISREG(status.st_mode):
        raise Fail(f"{path}: not a file")
    if not status.st_mode & 0o111:
        raise Fail(f"{path}: not executable: chmod +x {path}")
    check_owner(path, status)
    for folder, status in folders.items():
        if not status.st_mode & stat.S_ISVTX:
            check_owner(folder, status)


def check_owner(path: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Fail(f"{path}: not run, since it belongs to user {status.st_uid}; chown it")
    forbidden = 0o022 if os.getpid() == 1 else 0o002
    if status.st_mode & forbidden:
        raise Fail(f"{path}: not run, since others can write it; chmod go-w")


def befores_in(script: bytes) -> set:
    """The names behind `before` in a SCRIPT, which must be known before it runs."""
    names = set()
    if b"before " in script:
        for line in script.decode(errors="replace").splitlines():
            for command in line.partition("#")[0].replace("{", ";").replace("}", ";").split(";"):
                verb, *words = command.split() or [""]
                names.update(filter(is_name, words) if verb == "before" else ())
    return names


def remove_file(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def make_fifo(path: str) -> None:
    """A FIFO that nobody holds."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        os.unlink(path)
        os.mkfifo(path, 0o600)


def make_private_folder(path: str) -> None:
    """A folder of this user's; Fail where somebody else's, or no folder, is in its place."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise Fail(f"{path}: it belongs to another user; remove it")
        os.chmod(path, 0o700)
    except OSError as error:
        raise Fail(f"{path}: can't make a directory there: {error.strerror}") from None


def list_folder(path: str) -> list:
    """The names in a folder; none where it can't be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def read_file(path: str) -> bytes:
    """What is in a small file; nothing where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, READ_SIZE)
    except OSError:
        return b""
    finally:
        os.close(fd)


def is_ready(fd: int, event: int = select.POLLIN, seconds: float = 0) -> bool:
    """Whether something, or the end, can be read from FD, or EVENT is true of it, in SECONDS."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(1000 * seconds))


def kernel_values(key: str) -> list:
    """What KEY=VALUE words of the kernel's command line say, for PID 1."""
    words = read_file("/proc/cmdline").decode(errors="replace").split() if os.getpid() == 1 else []
    return [word[len(key) + 1:] for word in words if word.startswith(key + "=")]


def find_program(name: str) -> str:
    """The path of a program of linitd's own; empty when it is nowhere."""
    here = os.path.dirname(PROGRAM)
    paths = (f"{here}/{name}", f"{here}/initd/{name}", f"/sbin/{name}")
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def find_linit_start() -> str:
    """The path of linit-start; Fail when it is nowhere."""
    path = find_program("linit-start")
    if not path:
        here = os.path.dirname(PROGRAM)
        raise Fail(f"linit-start is at none of {here}, {here}/initd, /sbin; copy it beside linitd")
    return path


# ---- processes -----------------------------------------------------------------------------------

def spawn(words: list, environment: dict, actions: "list | tuple" = ()) -> int:
    """Run a program in a session of its own, with no signal blocked or ignored; its pid."""
    return os.posix_spawn(words[0], words, environment, file_actions=actions, setsid=True,
                          setsigmask=(), setsigdef=DEFAULT_SIGNALS)


def peer_user(fd: int) -> int:
    """The user at the other end of a unix socket, as the kernel knows it: struct ucred has pid,
    uid and gid, 32 bits each (unix(7))."""
    connection = _socket.socket(fileno=fd)
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    connection.detach()
    return int.from_bytes(credentials[4:8], sys.byteorder)


def send_signal(pid: int, number: int) -> bool:
    """Send it to a process, or to a process group as -GROUP; whether that exists. 0 only asks."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def process_table() -> dict:
    """PID: its parent, process group, session and terminal (0: none), of all processes that have
    not ended: the second to fifth field behind the name in a process's stat (proc(5))."""
    table = {}
    for name in list_folder("/proc"):
        if name.isdecimal():
            fields = read_file(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 4 and fields[0] not in b"ZX":
                table[int(name)] = tuple(map(int, fields[1:5]))
    return table


def family(table: dict, leaders: set, sessions: set) -> set:
    """Of the processes in TABLE those that descend from LEADERS, themselves included, and those of
    SESSIONS, whose parents may have ended."""
    members = leaders | {pid for pid, (_, _, session, _) in table.items() if session in sessions}
    found = 0
    while found < len(members):
        found = len(members)
        members |= {pid for pid, (parent, *_) in table.items() if parent in members}
    return members & {*leaders, *table}


def kill_families(leaders: set, sessions: set) -> None:
    """End LEADERS, SESSIONS and all that they have started. They are suspended first: what is
    forked meanwhile is found by the next look."""
    stopped = set()
    for _ in range(KILL_PASSES if leaders else 0):
        found = family(process_table(), leaders, sessions) - stopped - {1, os.getpid()}
        if not found:
            break
        for pid in found:
            send_signal(pid, _signal.SIGSTOP)
        stopped |= found
    for pid in stopped:
        send_signal(pid, _signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether the child PID is a zombie, or gone. A process closes its files before that, and only
    then do its children become init's."""
    try:
        return bool(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except ChildProcessError:
        return True


def was_executed(pid: int) -> bool:
    """Whether the process PID, which has lost its descriptors, runs: a dying one has no program."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        pass                        # it is another user's, but it is there
    return True


def make_groups() -> str:
    """The folder for services' cgroups, for PID 1 where the kernel has them; else nothing."""
    if os.getpid() != 1 or not os.path.exists(os.path.dirname(GROUPS) + "/cgroup.procs"):
        return ""
    try:
        os.makedirs(GROUPS, exist_ok=True)
        return GROUPS
    except OSError:
        return ""


def loaded_files() -> dict:
    """What this process was loaded from, the folders of it, and linit-idle, with file_numbers: when
    one has changed, it isn't certain that another such process would run."""
    paths = {sys.executable, PROGRAM, find_program("linit-idle") or PROGRAM}
    for module in list(sys.modules.values()):
        for attribute in ("__file__", "__cached__"):
            paths.add(getattr(module, attribute, None) or sys.executable)
    paths.update(mapped_files())
    paths |= {os.path.dirname(path) for path in paths}
    found = {}
    while paths:                        # what is in an archive has that one's numbers
        found.update((path, file_numbers(path)) for path in paths)
        paths = {os.path.dirname(path) for path in paths if not found[path]} - found.keys()
    return {path: numbers for path, numbers in sorted(found.items()) if numbers}


def mapped_files() -> list:
    """The program and its shared libraries; none where there is no /proc."""
    try:
        with open("/proc/self/maps") as maps:
            return [line[line.index("/"):-1] for line in maps if "/" in line]
    except OSError:
        return []


def file_numbers(path: str) -> tuple:
    """By which a file is known to be the same: its inode, seconds and nanoseconds of its change;
    nothing where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, *divmod(status.st_mtime_ns, 10 ** 9)


def remember_good_start(loaded: dict) -> None:
    """Let the next initd/init know that linitd ran, LOADED from what; else it tries first. A child
    does it, for the disk may hang; one that can't be written costs a trial."""
    lines = [" ".join(map(str, (*numbers[:2], path))) for path, numbers in loaded.items()]
    script = 'mkdir -p "${1%/*}" && printf "%s\\n" "$2" >"$1.new" && mv "$1.new" "$1"'
    try:
        spawn(["/bin/sh", "-c", script, "sh", GOOD_START, "\n".join(lines)], os.environ)
    except OSError:
        pass


def idle_table(heads: dict, logger: "int | None", deadline: int, loaded: dict,
               *commands: list) -> tuple:
    """What linit-idle reads (docs/protocol.md): descriptors, each with the head of the messages
    that what comes there becomes for the LOGGER, or none: then it wakes; a DEADLINE in monotonic
    nanoseconds or -1; LOADED, the files that must be the same; the COMMANDS to wake, to check and
    to rescue. And at what offset it keeps what came at which descriptor."""
    words = b"".join(os.fsencode(word) + b"\0" for each in (loaded, *commands) for word in each)
    size = 8 * (9 + 3 * len(heads) + 3 * len(loaded)) + len(words)
    padding = bytes(-size % 8)
    first = size + len(padding)
    offsets = {fd: first + number * OUTPUT_SIZE
               for number, fd in enumerate(fd for fd, head in heads.items() if head)}
    rows = [(fd, offsets.get(fd, -1), logger or 0) for fd in heads]
    signals = sum(1 << number - 1 for number in wanted_signals())
    header = (2, len(rows), deadline, signals, len(loaded), *map(len, commands),
              int(1000 * CHECK_AGAIN))
    outputs = [number_bytes(0, len(heads[fd])) + heads[fd].ljust(HEAD_SIZE + TAIL_LIMIT, b"\0")
               for fd in offsets]
    numbers = number_bytes(*(number for row in (header, *rows, *loaded.values())
                             for number in row))
    return numbers + words + padding + b"".join(outputs), offsets


def number_bytes(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, sys.byteorder, signed=True) for number in numbers)


def copied_output(table: int, offset: int) -> bytes:
    """The end of what linit-idle has sent to the logger, which it keeps in a ring."""
    output = os.pread(table, OUTPUT_SIZE, offset)
    count, ring = int.from_bytes(output[:8], sys.byteorder), output[-TAIL_LIMIT:]
    at = count % TAIL_LIMIT
    return ring[:count] if count <= TAIL_LIMIT else ring[at:] + ring[:at]


def wanted_signals() -> list:
    """The signals that linitd does something about. Any has it look for its socket."""
    if os.getpid() == 1:
        return [_signal.SIGCHLD, _signal.SIGHUP, *PID_1_SIGNALS]
    under_nohup = _signal.getsignal(_signal.SIGHUP) == _signal.SIG_IGN
    return [_signal.SIGCHLD, *(number for number in USER_SIGNALS
                               if number != _signal.SIGHUP or not under_nohup)]


def block_signals(how: int) -> None:
    _signal.pthread_sigmask(how, wanted_signals())


def raise_limit_of_descriptors() -> int:
    """As many as there may be; services keep the limit that was, which is given back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(DESCRIPTORS, hard) if os.geteuid() == 0 else hard
    for limit in (wanted, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            break
        except (OSError, ValueError):
            pass
    return soft


# ---- the loop ------------------------------------------------------------------------------------

class Loop:
    """Waits in epoll alone, and calls the one handler that a descriptor or a timer has. Each takes
    what is there and returns; none waits."""

    def __init__(self, init: "Init"):
        self.init = init
        self.epoll = select.epoll()
        self.handlers = {}          # descriptor: function of an event mask
        self.outputs = set()        # the descriptors of services' logs among them
        self.paused = set()         # those of these that wait for linit-log
        # When something else than output came last, or later, where it is to stay awake.
        self.worked_at = time.monotonic()
        self.timers = {}            # (kind, name): when
        self.soonest = None         # no timer is due before

    def attempt(self, act, *arguments) -> object:
        """Call ACT. PID 1 lives, whatever its author has forgotten; a slow loop tells of it."""
        try:
            return act(*arguments)
        except Exception as error:
            try:
                self.init.say(f"this should not happen: {error!r}")
            except MemoryError:
                pass
            time.sleep(0.1)
        return True

    def watch(self, fd: int, mask: int, handler) -> None:
        os.set_blocking(fd, False)
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def forget(self, fd: int) -> None:
        if fd not in self.paused:
            self.epoll.unregister(fd)
        self.paused.discard(fd)
        self.outputs.discard(fd)
        del self.handlers[fd]
        os.close(fd)

    def pause(self, fd: int) -> None:
        """Look at FD no more until all that are paused go on."""
        self.epoll.unregister(fd)
        self.paused.add(fd)

    def resume_paused(self) -> None:
        for fd in self.paused:
            self.epoll.register(fd, select.EPOLLIN)
        self.paused = set()

    def set_timer(self, kind: str, name: str, seconds: float) -> None:
        """Do what TIMERS has for KIND, for the service NAME if it is of one, in so many SECONDS;
        each has one timer, the last that was set."""
        when = time.monotonic() + seconds
        self.timers[kind, name] = when
        if self.soonest is None or when < self.soonest:
            self.soonest = when

    def drop_timer(self, kind: str, name: str) -> None:
        self.timers.pop((kind, name), None)

    def run_timers(self) -> bool:
        """Whether one was due."""
        now = time.monotonic()
        if self.soonest is None or now < self.soonest:
            return False
        due = [key for key, when in self.timers.items() if when <= now]
        for key in due:
            if self.timers.get(key, now + 1) <= now:
                del self.timers[key]
                kind, name = key
                TIMERS[kind](self.init, name)
        self.soonest = min(self.timers.values(), default=None)
        return bool(due)


# ---- logs ----------------------------------------------------------------------------------------

class Logs:
    """The way to linit-log, which writes what services print to a folder: a disk that hangs holds
    up that process alone. What a turn has to write goes there at its end, or when a service is to
    be read. What linit-log hasn't taken waits here, and meanwhile no service is read."""

    def __init__(self, init: "Init"):
        self.init = init
        self.folder = init.options.log
        self.logger = None          # its socket, whose messages docs/protocol.md has
        self.is_there = True        # a program, or one that will be started again
        self.waiting = []           # messages that it hasn't taken yet
        self.size = 0               # their bytes
        self.is_full = False        # whether linit-log takes no more now
        self.is_losing = False      # whether there was no room for the last

    def start(self) -> None:
        """Run linit-log."""
        names = ("linit-log", "linit-log.py")
        program = next(filter(None, map(find_program, names)), names[0])
        words = [sys.executable, "-I", "-S", program] if program.endswith(".py") else [program]
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                   (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        try:
            spawn([*words, self.folder], {}, actions)
        except OSError as error:
            self.is_there = False
            self.init.say(f"linit-log: {error.strerror}; what services say is lost")
        else:
            self.logger = ours.detach()
            self.watch()
        theirs.close()

    def watch(self) -> None:
        self.init.loop.watch(self.logger, select.EPOLLIN, self.on_event)
        self.init.loop.outputs.add(self.logger)
        self.is_full = False

    def write(self, kind: str, name: str, data: bytes) -> None:
        """Append DATA to a log, as it is (KIND " "), or its lines with the time ("+"), or as one of
        linitd's own ("-"). It is lost where too much waits already."""
        was_losing, self.is_losing = self.is_losing, self.size >= LOG_LIMIT
        if self.is_losing and not was_losing:
            self.init.say(f"{self.folder}: the disk is too slow; what services say is lost")
        if self.is_losing or not self.is_there:
            return
        head = log_head(kind, name)
        last = self.waiting[-1] if self.waiting else b""
        if last.startswith(head) and len(last) + len(data) <= len(head) + LOG_PIECE:
            self.waiting[-1] += data
            self.size += len(data)
            return
        pieces = [data[at:at + LOG_PIECE] for at in range(0, len(data), LOG_PIECE)]
        self.waiting += [head + piece for piece in pieces]
        self.size += len(data) + len(head) * len(pieces)

    def flush(self) -> None:
        """Send what it takes; the rest when it takes more."""
        count = 0
        try:
            while self.logger is not None and count < len(self.waiting):
                self.size -= os.write(self.logger, self.waiting[count])
                count += 1
        except OSError:
            pass                    # it takes no more now, or has ended, which on_event sees
        del self.waiting[:count]
        if not self.waiting:
            self.init.loop.resume_paused()
        if self.logger is not None and self.is_full != bool(self.waiting):
            self.is_full = not self.is_full
            more = select.EPOLLOUT if self.is_full else 0
            self.init.loop.epoll.modify(self.logger, select.EPOLLIN | more)

    def on_event(self, mask: int) -> None:
        """linit-log takes more, or has lost something, or has ended."""
        if mask & ~select.EPOLLOUT and not self.receive():
            self.init.loop.forget(self.logger)
            self.logger = None
            self.init.loop.set_timer("logger", "", LOG_PAUSE)
        else:
            self.flush()

    def receive(self) -> bool:
        """Tell what it has lost; whether it is still there."""
        try:
            data = os.read(self.logger, READ_SIZE)
        except OSError:
            return False
        if data:
            path = f"{self.folder}/{data[1:].decode(errors='replace')}"
            self.init.say(f"{path}: {os.strerror(data[0])}; what services say is lost")
        return bool(data)

    def end(self) -> None:
        """Let it write what it has, as long as that doesn't take too long."""
        limit = time.monotonic() + LAST_GRACE
        while self.waiting and self.logger is not None and time.monotonic() < limit:
            is_ready(self.logger, select.POLLOUT, limit - time.monotonic())
            self.flush()
        if self.logger is not None:
            socket = _socket.socket(fileno=self.logger)
            socket.shutdown(_socket.SHUT_WR)
            is_ready(socket.fileno(), select.POLLIN, max(0.0, limit - time.monotonic()))


def log_head(kind: str, name: str) -> bytes:
    """What begins a message to linit-log."""
    return f"{kind}{name}\n".encode()


# ---- services ------------------------------------------------------------------------------------

class Services(dict):
    """The services that somebody has asked for, by name, and what happens to them. That goes
    through `post`, so that one change is finished before the next begins, however long a chain they
    make; TRANSITIONS says what it is."""

    def __init__(self, init: "Init"):
        super().__init__()
        self.init = init
        self.queue = []             # (Service, event, reason): what happens next
        self.is_working = False     # through the queue
        self.firsts = set()         # names of services that said `before`
        self.skipped = set(kernel_values("linit.skip"))

    def service(self, name: str) -> Service:
        """The service NAME; Fail where there is no such script."""
        return self.setdefault(name, self.look_up(name))

    def look_up(self, name: str) -> Service:
        """The same, for who only looks: a service that nobody has asked for is not kept."""
        if name in self:
            return self[name]
        check_name(name)
        if not os.path.exists(self.init.scripts.path(name)):
            raise Fail(f"{name}: there is no such service", 5)
        return Service(name, self.init.began)

    def post(self, service: Service, event: str, reason: str = "") -> None:
        """EVENT happens to SERVICE, for a REASON if it is a bad one, at once or after what is being
        done; then all that comes of it, before what else was posted."""
        self.queue.append((service, event, reason))
        if self.is_working:
            return
        self.is_working = True
        try:
            while self.queue:
                happened = self.queue.pop(0)
                later, self.queue = self.queue, []
                self.init.loop.attempt(self.change, *happened)
                self.queue += later
        finally:
            self.queue = []
            self.is_working = False

    def change(self, service: Service, event: str, reason: str) -> None:
        state, action = TRANSITIONS.get((service.state, event), (None, None))
        if state is None:
            return
        service.failure = service.failure or reason[:REASON_LIMIT]     # the first one counts
        if state != service.state:
            service.state = state
            service.since = time.monotonic()
            for kind in ("late", "again", "file"):      # those are of the state that is over
                self.init.loop.drop_timer(kind, service.name)
            self.init.watch_progress()
        action(self, service)
        if self.init.door.followers:
            self.init.door.tell_followers(service)

    def start_again(self, name: str) -> None:
        """The pause before its next start is over: it begins when its last life has ended."""
        if self.init.processes.is_left(self[name]):
            self.init.loop.set_timer("again", name, GROUP_POLL)
        else:
            self.post(self[name], "again")

    def launch(self, service: Service) -> None:
        """Start it for the first time, or after it was down."""
        service.restarts = 0
        service.pause = 0.0
        service.keeps_trying = False
        self.run_script(service)

    def run_script(self, service: Service) -> None:
        """Run linit-start for it. What its script had left of itself when it failed ends."""
        self.init.processes.kill([service])
        service.calls.pop("stop", None)
        for name in service.needs:
            self[name].dependents.discard(service.name)
        service.begin_life(time.monotonic())
        self.init.scripts.hang_up(service)      # what its last life asks is no matter any more
        service.waiting = {each.name for each in map(self.get, self.firsts)
                           if service.name in each.befores and each.state == STARTING
                           and not self.cycle(service, each)}
        if not service.waiting:
            self.begin(service)

    def begin(self, service: Service) -> None:
        service.met = time.monotonic()          # it hasn't asked for anything yet
        try:
            check_script(self.init.scripts.path(service.name))
            self.init.scripts.prepare(service)
        except Fail as error:                   # code 5: its script is gone
            is_tried_again = service.restarts and error.code != 5
            self.post(service, "die" if is_tried_again else "fail", str(error))
        except OSError as error:
            self.fail_to_run(service, error)
        else:
            self.set_deadline(service)

    def begin_afters(self, service: Service) -> None:
        """Begin what has waited for SERVICE, which said `before`, to begin."""
        for each in map(self.get, sorted(service.befores)):
            is_held = each and each.state == STARTING and each.ask is None
            if is_held and service.name in each.waiting and service.is_up():
                each.waiting.discard(service.name)
                if not each.waiting:
                    self.begin(each)

    def fail_to_run(self, service: Service, error: OSError) -> None:
        """A daemon that ran before is tried again."""
        self.init.scripts.close_fifos(service)
        reason = f"it could not be run: {error.strerror}"
        self.post(service, "die" if service.restarts else "fail", reason)

    def settle(self, service: Service) -> None:
        """It runs, is stopped, or has failed: tell those who wait."""
        self.tell_of(service)
        if service.state == RUNNING:
            service.became_ready = time.monotonic()
        else:
            service.ended = time.monotonic()
            self.stop_binders(service)
        if service.ask is None:
            service.waiting = set()             # for what it comes after
        service.again = service.again and not self.init.ending
        if service.state == FAILED and service.again:
            self.init.door.remark(service, f"{service.failure}; starting it anyway")
        self.init.door.tell_waiters(service)
        self.begin_afters(service)
        if service.is_down():
            self.release_needs(service)
        if service.is_down() and service.again:
            self.post(service, "start")
        elif service.state == FAILED and service.keeps_trying and not self.init.ending:
            self.pause_start(service, "")
        if service.name == self.init.boot and self.init.is_first:
            self.on_boot_settled(service)

    def on_boot_settled(self, boot: Service) -> None:
        if self.init.options.socket == SOCKET:       # no trial in a container, but the system's own
            remember_good_start(self.init.sleep.loaded)
        self.init.has_booted = boot.state == RUNNING
        if boot.state == FAILED:
            self.init.offer_rescue()

    def clear_failure(self, service: Service) -> None:
        """It had failed. What a script says of its end need not be true."""
        self.init.processes.kill([service])
        self.settle(service)

    def tell_of(self, service: Service) -> None:
        after = time.monotonic() - service.launched
        text = {RUNNING: f"is running after {after:.2f} s", STOPPED: "is stopped"}
        text = text.get(service.state) or f"failed: {service.failure}"
        self.init.say(f"{service.name} {text}", is_routine=service.state != FAILED)
        if service.is_daemon or service.failure or service.tail:    # no log of silent one-shots
            self.init.note(service, text)

    def pause(self, service: Service) -> None:
        """A daemon ended: start it again."""
        self.pause_start(service, f"{service.failure}; ")
        service.restarts += 1
        self.init.door.tell_waiters(service)
        for each in self.stop_binders(service):
            self.post(each, "start")

    def pause_start(self, service: Service, why: str) -> None:
        """Start it later, and later each time unless it ran for long."""
        ran = time.monotonic() - service.became_ready if service.came_up() else 0
        if ran >= LONG_RUN or not service.pause:
            service.pause = service.settings["backoff"]
        text = f"{why}restarting in {service.pause:g} s"
        self.init.say(f"{service.name}: {text}", is_routine=True)
        self.init.note(service, text)
        self.init.loop.set_timer("again", service.name, service.pause)
        service.pause = min(max(2 * service.pause, 0.1), LONGEST_PAUSE)

    def stop_binders(self, service: Service) -> list:
        """Stop what runs and said `binds` to it; SERVICE ran, and went down by itself. All that ran
        with them."""
        if not service.came_up():
            return []               # who asked for it is told so, and fails
        dependents = [self[name] for name in sorted(service.dependents)]
        binders = [each for each in dependents if each.state in (STARTING, RUNNING)
                   and service.name in each.binds - each.waiting]
        affected = [each for binder in binders for each in self.active_dependents(binder)]
        for each in binders:
            self.post(each, "stop")
        return affected

    def hold(self, service: Service) -> None:
        """Stop it, once what depends on it has stopped. It stays down, whatever its stop does."""
        service.keeps_trying, service.failure = False, ""
        for name in sorted(service.dependents):
            self.post(self[name], "stop")
        self.release(service)

    def release(self, service: Service) -> None:
        """Go on with the stop of what is held, unless a dependent is still there. One that has
        stopped, is started again and waits for this one holds it up no more."""
        if service.state == HELD and all(each.is_down() or service.name in each.waiting
                                         for each in map(self.get, service.dependents)):
            self.post(service, "free")

    def release_needs(self, service: Service) -> None:
        """SERVICE has stopped: go on with what it needed, or came after."""
        for name in service.needs | service.wants | service.afters:
            if name in self:
                self.release(self[name])

    def stop_all(self) -> None:
        """Stop everything: what wanted another, or came after it, depends on that one now."""
        for service in self.values():
            for name in service.befores & self.keys():
                self[name].afters.add(service.name)
        for service in self.values():
            for name in (service.wants | service.afters) & self.keys():
                self[name].dependents.add(service.name)
        for service in self.values():
            service.again = False
            self.init.loop.drop_timer("again", service.name)
            if not service.is_down():
                self.post(service, "stop")

    def look_for_circles(self) -> None:
        """At the end nothing stops any more: `want` and `after` may go round in circles."""
        states = [service.state for service in self.values()]
        if HELD in states and STOPPING not in states:
            for service in self.values():
                service.dependents = {each.name for each in self.values()
                                      if service.name in each.needs}
            for service in self.values():
                self.release(service)

    def begin_stop(self, service: Service) -> None:
        """Run its own `stop`, unless the daemon is gone, or else end its processes."""
        self.set_deadline(service)
        has_run = service.came_up() and (service.pid or not service.is_daemon)
        if service.settings["stop"] == "yes" and has_run:
            try:
                self.call(service, "stop")
            except Fail as error:
                self.post(service, "bad", str(error))
        else:
            self.end_processes(service)

    def call(self, service: Service, function: str) -> None:
        """Run a FUNCTION of its script; Fail where that can't be. `disable` needs no script."""
        path = self.init.scripts.path(service.name)
        if os.path.exists(path) or function != "disable":
            check_script(path)
        try:
            service.calls[function] = self.init.scripts.run_function(service, function)
        except OSError as error:
            raise Fail(f"{function} could not be run: {error.strerror}") from None

    def end_processes(self, service: Service) -> None:
        """Ask what runs to end; it has stopped when nothing does."""
        if self.init.scripts.to_launch.pop(service.name, None):
            self.init.scripts.close_fifos(service)      # nobody will open them
        if service.batch:
            return                  # its shell is being forked: end_batch comes here again
        if not service.told:
            self.init.processes.tell_to_end(service)
        if service.pid is None and not self.init.processes.is_left(service):
            self.post(service, "fail" if service.failure else "gone")

    def on_late(self, name: str) -> None:
        """The time of its start, or of its stop, is over."""
        after = f"after {self[name].settings['timeout']:g} s"
        reason = f"it was not ready {after}"
        if not self[name].is_daemon:
            reason += ": start has not ended; a daemon belongs in `run`"
        elif self.is_without_program(self[name]):
            reason = f"run has executed no program {after}; write `exec PROGRAM` there, " \
                     "or for a loop `exec sh -c '...'`"
        self.post(self[name], "late", reason if self[name].state == STARTING else "")

    def is_without_program(self, service: Service) -> bool:
        """Whether its `run` was called, and is still the shell's."""
        return service.is_daemon and service.settings["ready"] == "exec"

    def kill(self, service: Service) -> None:
        """Its time to stop is over."""
        service.kills += 1
        if service.kills == 1 and not service.failure:
            text = f"has not stopped after {service.settings['timeout']:g} s; killing it"
            self.init.say(f"{service.name} {text}", is_routine=True)
            self.init.note(service, text)
        if service.kills > 2:
            service.again = False
            self.post(service, "fail", "its processes could not be killed")
            return
        self.init.processes.to_kill.add(service.name)
        self.init.loop.set_timer("late", service.name, KILL_GRACE)

    def turn_back(self, service: Service) -> None:
        """It is needed while it stops."""
        service.again = True

    def stay_down(self, service: Service) -> None:
        """Asked to stop while it stops, maybe by another signal."""
        service.again = service.keeps_trying = False
        if service.state == STOPPING and service.signal == _signal.SIGKILL:
            self.init.processes.to_kill.add(service.name)
        elif service.state == STOPPING and service.signal and service.told:
            self.init.processes.tell_to_end(service)

    def set_deadline(self, service: Service, kind: str = "late") -> None:
        """None where its timeout is 0."""
        self.init.loop.drop_timer(kind, service.name)
        if service.settings["timeout"]:
            self.init.loop.set_timer(kind, service.name, service.settings["timeout"])

    def on_exit(self, service: Service, pid: int, status: "int | None") -> None:
        """A shell or a daemon of SERVICE ended with a wait STATUS; None where it wasn't seen."""
        function = next((each for each in service.calls if service.calls[each] == pid), "")
        if function:
            self.on_call_exit(service, function, status)
        elif pid == service.pid:
            service.pid = None
            self.init.scripts.close_fifos(service)       # it may never have opened them
            if service.state in (HELD, STOPPING):
                if service.state == STOPPING and "stop" not in service.calls:
                    self.end_processes(service)
                return
            self.init.processes.end_rest(service)
            if service.state == STARTING:
                self.on_early_exit(service, status)
            elif service.state == RUNNING and service.is_daemon:
                self.on_daemon_exit(service, status)

    def on_call_exit(self, service: Service, function: str, status: int) -> None:
        del service.calls[function]
        problem = self.blame(service, f"{function} {exit_text(status)}") if status else ""
        if function == "stop" and problem:
            self.post(service, "bad", problem)
        elif function == "stop":
            self.end_processes(service)
        else:
            service.problems[function] = problem
            if service.is_daemon or service.tail:
                self.init.note(service, problem or CALLS[function])
            self.init.door.tell_waiters(service)
            self.forget_gone(service)

    def forget_gone(self, service: Service) -> None:
        """Know no more of what is down and has no script any more."""
        is_asked_for = service.waiters or service.dependents or service.calls
        is_gone = not os.path.exists(self.init.scripts.path(service.name))
        if is_gone and service.is_down() and not is_asked_for:
            del self[service.name]

    def on_early_exit(self, service: Service, status: "int | None") -> None:
        """It ended before it was ready."""
        code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        if code == 0 and not service.is_daemon:     # start has executed its last program
            self.post(service, "ready")
            return
        executes = service.is_daemon and service.settings["ready"] == "exec"
        if executes and code not in (126, 127):
            # It was executed, and ended before anybody had looked.
            self.post(service, "ready")
            self.on_daemon_exit(service, status)
            return
        what = "" if not service.is_daemon else "it " if executes else "before it was ready it "
        text = (what or "start ") + exit_text(status)
        self.post(service, "die" if service.restarts else "fail", self.blame(service, text))

    def on_daemon_exit(self, service: Service, status: int) -> None:
        """A daemon ended: `restart` says what now."""
        text = exit_text(status).removeprefix("was ")
        if status == 0 and time.monotonic() < service.became_ready + SHORT_RUN:
            text += " at once; a daemon must stay in the foreground"
        restart = service.settings["restart"]
        event = "die"
        if self.init.ending or restart == "never" or restart == "on-failure" and status == 0:
            event = "fail" if status else "end"
        self.post(service, event, self.blame(service, text))

    def blame(self, service: Service, text: str) -> str:
        """TEXT with the last words of the service."""
        return ": ".join([text, *service.last_words()])

    def cycle(self, service: Service, other: Service) -> list:
        """The names on the way from OTHER to SERVICE, if OTHER waits for it; else none."""
        came_from = {other.name: None}
        left = [other.name]
        while left:
            name = left.pop()
            if name == service.name:
                way = [service.name]
                while came_from[way[0]] is not None:
                    way.insert(0, came_from[way[0]])
                return way
            each = self[name]
            if each.state in ACTIVE:
                for following in each.needs | each.waiting:
                    if following not in came_from:
                        came_from[following] = name
                        left.append(following)
        return []

    def active_dependents(self, service: Service) -> list:
        """All that runs because SERVICE does, itself included."""
        found = {service.name: service}
        for each in (left := [service]):        # it grows meanwhile
            for name in each.dependents - found.keys():
                if self[name].state in ACTIVE:
                    found[name] = self[name]
                    left.append(self[name])
        return left


# The life of a service: all of it. What is not here does nothing. The events:
#   start   somebody needs it               stop    somebody wants it stopped
#   ready   it runs                         fail    it ended, and not well
#   die     a daemon ended, to come back    end     a daemon ended, as it may
#   again   the pause after that is over    wrong   its script says what can't be
#   free    what depends on it is down      gone    what was to be stopped has ended
#   late    its time to start, or to stop, is over
#   bad     its own `stop` failed
# What is bad has a reason, which becomes the service's `failure`.
TRANSITIONS = {
    (STOPPED, "start"): (STARTING, Services.launch),
    (FAILED, "start"): (STARTING, Services.launch),
    (FAILED, "stop"): (STOPPED, Services.clear_failure),
    (FAILED, "again"): (STARTING, Services.run_script),
    (STARTING, "ready"): (RUNNING, Services.settle),
    (STARTING, "fail"): (FAILED, Services.settle),
    (STARTING, "die"): (WAITING, Services.pause),
    (STARTING, "stop"): (HELD, Services.hold),
    (STARTING, "late"): (STOPPING, Services.kill),
    (STARTING, "wrong"): (STOPPING, Services.kill),
    (RUNNING, "die"): (WAITING, Services.pause),
    (RUNNING, "end"): (STOPPED, Services.settle),
    (RUNNING, "fail"): (FAILED, Services.settle),
    (RUNNING, "stop"): (HELD, Services.hold),
    (WAITING, "again"): (STARTING, Services.run_script),
    (WAITING, "stop"): (HELD, Services.hold),
    (HELD, "start"): (HELD, Services.turn_back),
    (HELD, "stop"): (HELD, Services.stay_down),
    (HELD, "free"): (STOPPING, Services.begin_stop),
    (STOPPING, "start"): (STOPPING, Services.turn_back),
    (STOPPING, "stop"): (STOPPING, Services.stay_down),
    (STOPPING, "bad"): (STOPPING, Services.end_processes),
    (STOPPING, "late"): (STOPPING, Services.kill),
    (STOPPING, "gone"): (STOPPED, Services.settle),
    (STOPPING, "fail"): (FAILED, Services.settle),
}


# ---- processes -----------------------------------------------------------------------------------

class Processes:
    """Whose each child is, and how what a service has started ends."""

    def __init__(self, init: "Init"):
        self.init = init
        self.groups = make_groups()
        self.names = {}             # pid: name
        self.table = None           # all processes, as this turn has seen them
        self.to_kill = set()        # names of services that are killed at the turn's end

    def reap(self) -> None:
        """Take leave of every child that ended, orphans that came to PID 1 among them."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            is_known = ended.si_pid in self.names
            if is_known or not self.init.scripts.end_batches():     # whose children may be ours now
                self.reap_one(ended.si_pid)

    def reap_one(self, pid: int) -> None:
        """A process has ended. Its number stays taken until waitpid: until then its group can't be
        another's."""
        service = self.init.services.get(self.names.pop(pid, None))
        if service:
            self.init.scripts.read_rest(service)     # its settings may be among that
        try:
            status = os.waitpid(pid, 0)[1]
        except ChildProcessError:
            status = None               # the shell that has forked it knew, and has ended
        if service:
            self.init.services.on_exit(service, pid, status)
        elif pid == self.init.sleep.trial:
            self.init.sleep.on_trial_end(status)

    def tell_to_end(self, service: Service) -> None:
        """Send a daemon's process group its signal, or TERM to all that its start has begun; then
        CONT, without which what is suspended hears nothing. At the end of the system sessions that
        have left it hear of that as well, as long as what it needs is there."""
        service.told = time.monotonic()
        is_daemon = service.is_daemon and service.came_up()
        number = service.signal or (service.settings["stop_signal"] if is_daemon
                                    else _signal.SIGTERM)
        others = self.family_of(service) if self.init.ending or not is_daemon else set()
        if service.group:
            send_signal(-service.group, number)
            send_signal(-service.group, _signal.SIGCONT)
        for pid in others:
            send_signal(pid, _signal.SIGTERM if is_daemon else number)
            send_signal(pid, _signal.SIGCONT)
            if self.table.get(pid, (0, 0, 0, 0))[3]:
                send_signal(pid, _signal.SIGHUP)    # an interactive shell ignores TERM
        service.guests = others if is_daemon else set()

    def family_of(self, service: Service) -> set:
        """What it has started and isn't in its group, as far as that can be found: at the end of
        the system also what has left its session, but not its cgroup."""
        if self.table is None:              # many services stop in one turn
            self.table = process_table()
        leaders = {service.pid or service.group} - {None}
        if self.groups and self.init.ending:
            pids = read_file(f"{self.groups}/{service.name}/cgroup.procs").split()
            leaders.update(filter(None, map(int, pids)))    # 0 is of another namespace
        return {pid for pid in family(self.table, leaders, {service.group})
                if not service.group or self.table.get(pid, (0, 0))[1] != service.group}

    def is_left(self, service: Service) -> bool:
        """Whether, its main process having ended, others of its group or its sessions are there;
        look_for_groups tells when not any more."""
        if service.group and not send_signal(-service.group, 0):
            service.group = None
        if service.group or service.guests:
            self.init.loop.set_timer("groups", "", GROUP_POLL)
        return bool(service.group or service.guests)

    def look_for_groups(self) -> None:
        """Go on with services whose last process has ended; what takes too long is killed."""
        table, now = process_table(), time.monotonic()
        groups = {group for _, group, *_ in table.values()}
        for service in list(self.init.services.values()):
            if service.pid is None and (service.group or service.guests):
                service.group = service.group if service.group in groups else None
                service.guests &= table.keys() if now < service.told + LAST_GRACE else set()
                if service.state == STOPPING and "stop" not in service.calls:
                    self.init.services.end_processes(service)
                elif self.is_left(service) and now > service.told + (
                        service.settings["timeout"] or DEFAULTS["timeout"]):
                    self.kill([service])

    def end_rest(self, service: Service) -> None:
        """Its main process has ended by itself: what else is in its group has as long for that as
        it would have to stop. A one-shot may have left something there that is to stay."""
        if not service.is_daemon:
            service.group = None
        elif service.group:
            service.told = time.monotonic()
            send_signal(-service.group, _signal.SIGTERM)
            send_signal(-service.group, _signal.SIGCONT)
            self.is_left(service)

    def kill_late(self) -> None:
        """End what had its time, for all such services by one look at the processes."""
        services = [self.init.services[name] for name in self.to_kill]
        self.to_kill = set()
        services = [each for each in services if each.state == STOPPING]
        if services:
            self.kill(services, {each.calls.get("stop") for each in services} - {None})

    def kill(self, services: list, shells: "set | frozenset" = frozenset()) -> None:
        """End SHELLS and what these have started, and all that SERVICES have: the cgroup of each,
        where there are any, which a shell that has just begun isn't in yet; or, where its main
        process has ended, what is left."""
        leaders, sessions = set(shells), set(shells)
        for service in services:
            if service.pid is None:
                if service.group:
                    send_signal(-service.group, _signal.SIGKILL)
            elif not (self.groups and self.kill_group(service) and service.came_up()):
                leaders.add(service.pid)
                sessions.add(service.group)
        kill_families(leaders, sessions)

    def make_group(self, service: Service) -> None:
        """A cgroup for its shell to go to. Without one its family is all that is found of it."""
        try:
            os.makedirs(f"{self.groups}/{service.name}", exist_ok=True)
        except OSError as error:
            self.init.say(f"{self.groups}/{service.name}: {error.strerror}")

    def kill_group(self, service: Service) -> bool:
        """End all that is in its cgroup; whether that could be done."""
        try:
            with open(f"{self.groups}/{service.name}/cgroup.kill", "wb", 0) as file:
                file.write(b"1")
        except OSError:
            return False
        return True

    def end_calls(self, name: str) -> None:
        """The time of what clients have called is over."""
        calls = self.init.services[name].calls
        self.kill([], {calls[function] for function in calls if function in CALLS})


# ---- scripts -------------------------------------------------------------------------------------

class Scripts:
    """Runs init scripts, hears what they ask and report, and reads what they print.

    A shell that runs one script is a process of its own session, and linitd's child. One that runs
    many forks a subshell for each, says their numbers and ends: then they are children of PID 1,
    and so only linitd as PID 1 starts them so. Daemons are always started alone."""

    def __init__(self, init: "Init"):
        self.init = init
        self.linit_start = find_linit_start()
        self.fifos = init.options.socket + ".d"
        self.descriptors = raise_limit_of_descriptors()
        self.shells = {}            # pid of one that forks many: its output, their names
        self.to_launch = {}         # services whose shells are started at the turn's end, by name

    def path(self, name: str) -> str:
        """The path of the init script of NAME; of getty@tty1 it is that of getty. A folder that has
        no `boot` of its own uses the one beside linit-start."""
        file = name.partition("@")[0]
        path = f"{self.init.options.initd}/{file}"
        if file in OUR_SCRIPTS and not os.path.exists(path):
            return f"{os.path.dirname(self.linit_start)}/{file}"
        return path

    def prepare(self, service: Service) -> None:
        """Let its script be run, alone or with others that are started in this turn: not where its
        last life has the log still, which may end it before the new one has opened it."""
        self.init.door.keep_socket()
        is_for_batch = self.init.is_first and not service.alone and service.log is None
        self.open_fifos(service)
        if self.init.processes.groups:
            self.init.processes.make_group(service)
        if is_for_batch:
            self.to_launch[service.name] = service
        else:
            self.start_shell(service)

    def make_folder(self) -> None:
        """The folder of FIFOs beside the socket. PID 1 can't end where a foreign one is there."""
        try:
            make_private_folder(self.fifos)
        except Fail as error:
            if not self.init.is_first:
                raise
            self.init.say(str(error))
            self.fifos += "." + os.urandom(6).hex()
            make_private_folder(self.fifos)

    def open_fifos(self, service: Service) -> None:
        """Make the FIFOs of its script, whose ends here are open before the shell's: what its last
        life has left still has the old ones."""
        path = f"{self.fifos}/{service.name}"
        self.hang_up(service)
        if not os.path.isdir(self.fifos):       # removed
            self.make_folder()
        make_fifo(path + ".ask")
        make_fifo(path + ".answer")
        service.ask = os.open(path + ".ask", os.O_RDONLY | os.O_NONBLOCK)
        peer = Peer(service.ask, self.init.owner, service.name)
        self.init.door.watch_peer(peer)
        # For reading as well: an answer stays there until the shell has opened it.
        peer.writes_to = os.open(path + ".answer", os.O_RDWR | os.O_NONBLOCK)
        # The kernel gives the lowest number that is free.
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= limit - limit // RESERVE <= service.ask:
            raise OSError(EMFILE, os.strerror(EMFILE))
        self.open_log(service)

    def hang_up(self, service: Service) -> None:
        """Hear no more of its script."""
        if service.ask is not None:
            self.init.door.drop(self.init.door.peers[service.ask])

    def close_fifos(self, service: Service) -> None:
        """There is no shell that opens them. The log ends here where its last life is over."""
        self.hang_up(service)
        if service.log is not None:
            try:
                os.close(os.open(f"{self.fifos}/{service.name}.log", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                pass

    def open_log(self, service: Service) -> None:
        """Read what it prints. Processes of its last life may go on printing."""
        if service.log is None:
            path = f"{self.fifos}/{service.name}.log"
            make_fifo(path)
            service.log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            self.watch_log(service)

    def watch_log(self, service: Service) -> None:
        fd = service.log
        self.init.loop.outputs.add(fd)
        self.init.loop.watch(fd, select.EPOLLIN, lambda mask: self.on_output(service))

    def start_shell(self, service: Service) -> None:
        service.alone = True
        service.pid = self.start_process([service.name], f"{self.fifos}/{service.name}.log")
        service.group = service.pid
        self.init.processes.names[service.pid] = service.name

    def run_function(self, service: Service, function: str) -> int:
        """Run the `stop` or `reload` of its script; the shell's pid."""
        self.open_log(service)
        # Where the FIFO was removed, a daemon and this still have it.
        pid = self.start_process([f"--{function}", service.name], f"/proc/self/fd/{service.log}")
        self.init.processes.names[pid] = service.name
        return pid

    def start_process(self, words: list, output: "str | int") -> int:
        """Run linit-start, printing to a path or a descriptor."""
        if isinstance(output, int):
            stdout = (os.POSIX_SPAWN_DUP2, output, 1)
        else:
            stdout = (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY, 0)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), stdout,
                   (os.POSIX_SPAWN_DUP2, 1, 2)]
        return spawn([self.linit_start, *words], self.environment(), actions)

    def environment(self) -> dict:
        """What a service starts with: of linitd's own environment the PATH alone and, with --user,
        HOME and the like."""
        options = self.init.options
        kept = USER_VARIABLES if options.user else ()
        path = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
        limit = self.descriptors
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PATH": path, "LINITSOCK": options.socket, "LINIT_INITD": options.initd,
            "LINIT_RCD": options.rcd,
            # For linit-start alone:
            "LINIT_FIFOS": self.fifos, "LINIT_GROUPS": self.init.processes.groups,
            "LINIT_FILES": "unlimited" if limit == resource.RLIM_INFINITY else str(limit),
        }

    def start_batches(self) -> None:
        """Start the shells of all that this turn launches."""
        while self.to_launch:
            services = [self.to_launch.pop(name) for name in list(self.to_launch)[:BATCH]]
            try:
                self.start_batch(services)
            except OSError as error:
                for each in services:
                    self.init.services.fail_to_run(each, error)

    def start_batch(self, services: list) -> None:
        if len(services) == 1:
            self.start_shell(services[0])
        else:
            names = [each.name for each in services]
            output = os.memfd_create("pids")
            try:
                pid = self.start_process(names, output)
            except OSError:
                os.close(output)
                raise
            self.shells[pid] = (output, names)
            for each in services:
                each.batch = pid

    def end_batches(self) -> bool:
        """Take what those shells have said that fork others, and have ended; whether any has."""
        ended = [pid for pid in self.shells if has_ended(pid)]
        for pid in ended:
            self.end_batch(pid, *self.shells.pop(pid))
        return bool(ended)

    def end_batch(self, pid: int, output: int, names: list) -> None:
        """It has said the numbers of those that it has forked, or what was the matter. They are
        children of this process now, but those that had ended before it."""
        text = os.pread(output, READ_SIZE, 0)
        os.close(output)
        forked = {}
        for line in text.decode(errors="replace").splitlines():
            word, *numbers = line.split() or [""]
            if word == "pids":
                forked = dict(zip(names, map(int, numbers)))
            else:
                self.init.say(f"linit-start: {line}")
        for service in [self.init.services[name] for name in names]:
            if service.batch != pid:
                continue                # it has been started again
            service.batch, service.pid = None, forked.get(service.name)
            if service.pid is None:
                self.init.services.post(service, "fail",
                                        "it could not be run: no process could be made")
                continue
            self.init.processes.names[service.pid] = service.name
            if has_ended(service.pid):
                self.init.processes.reap_one(service.pid)
            elif service.state == STOPPING:
                self.init.services.end_processes(service)

    def on_output(self, service: Service) -> None:
        """A service printed something: it is read if linit-log takes it, and after its settings,
        which may have come at the same time."""
        if service.ask is not None and is_ready(service.ask):
            self.init.door.on_peer(self.init.door.peers[service.ask], select.EPOLLIN)
        self.init.logs.flush()
        if service.log is not None and self.init.logs.waiting:
            self.init.loop.pause(service.log)
        elif service.log is not None:
            self.read_output(service)

    def read_output(self, service: Service) -> None:
        """What a service printed goes to its log."""
        try:
            data = os.read(service.log, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self.init.loop.forget(service.log)
            service.log = None
            return
        service.tail = (service.tail + data)[-TAIL_LIMIT:]
        service.has_printed = True
        self.init.logs.write(service.log_kind(), service.name, data)

    def read_rest(self, service: Service) -> None:
        """Read what a process that ended has left in its FIFOs."""
        for _ in range(READS_AT_THE_END):
            if service.ask is None or not is_ready(service.ask):
                break
            self.init.door.on_peer(self.init.door.peers[service.ask], select.EPOLLIN)
        self.read_log(service)

    def read_log(self, service: Service) -> None:
        for _ in range(READS_AT_THE_END):
            if service.log is None or not is_ready(service.log):
                break
            self.read_output(service)

    def script_dep(self, peer: Peer, service: Service, names: list) -> None:
        self.depend(peer, service, names, service.needs)

    def script_binds(self, peer: Peer, service: Service, names: list) -> None:
        service.binds.update(filter(is_name, names))
        self.depend(peer, service, names, service.needs)

    def script_want(self, peer: Peer, service: Service, names: list) -> None:
        self.depend(peer, service, names, service.wants, "settled")

    def depend(self, peer: Peer, service: Service, names: list, noted: set,
               goal: str = "up") -> None:
        """Start what SERVICE needs, all at once, and wait for it; its names are NOTED."""
        services, problems = [], []
        for name in names:
            try:
                self.init.refuse_at_the_end()
                if name not in self.init.services.skipped:
                    services.append(self.needed(service, self.init.services.service(name)))
            except Fail as error:
                problems.append(f"it needs {error}")
        for each in self.init.door.in_order(services):
            noted.add(each.name)
            # It isn't undone and done again when one of all that it starts is.
            if goal == "up" and service.name != self.init.boot:
                each.dependents.add(service.name)
            # What has failed since this one was started would only fail again.
            if not each.cannot_start() or each.since < service.launched:
                self.init.services.post(each, "start")
        self.init.door.begin_wait(peer, goal, services, problems if goal == "up" else ())

    def needed(self, service: Service, other: Service) -> Service:
        """OTHER, which SERVICE needs; Fail for a cycle."""
        is_needed = service.dependents or service.waiters
        cycle = self.init.services.cycle(service, other) if is_needed or service is other else []
        if cycle:
            raise Fail(f"{other.name}: a cycle: {', '.join([service.name, *cycle])}")
        return other

    def script_after(self, peer: Peer, service: Service, names: list) -> None:
        services = [self.init.services[name] for name in names if name in self.init.services]
        services = [each for each in services if not self.init.services.cycle(service, each)]
        service.afters |= {each.name for each in services}
        self.init.door.begin_wait(peer, "settled", services)

    def script_settings(self, peer: Peer, service: Service, words: list) -> None:
        try:
            service.settings = parse_settings(words)
        except Fail as error:
            self.init.services.post(service, "wrong", str(error))
            return
        self.init.services.set_deadline(service)
        service.keeps_trying = service.is_daemon and service.settings["restart"] == "always"
        ready = service.settings["ready"]
        if service.is_daemon and ready.startswith("file:"):
            # Its shell waits until linitd has looked at what is there now.
            service.ready_stamp = file_numbers(ready[len("file:"):])
            self.init.loop.set_timer("file", service.name, FILE_POLL)
            self.init.door.answer(peer, "ok")

    def look_for_file(self, name: str) -> None:
        """It is ready when its file is made, or written anew."""
        service = self.init.services[name]
        path = service.settings["ready"][len("file:"):]
        if file_numbers(path) in (service.ready_stamp, ()):
            self.init.loop.set_timer("file", name, FILE_POLL)
        else:
            self.init.services.post(service, "ready")

    def script_end(self, peer: Peer, service: Service, words: list) -> None:
        """The shell reports how far it came, with which status, and its `restart` if it has a
        `run`: `end start 0`, `end depends 1 always`."""
        phase, status, restart = (*words, "", "")[:3]
        service.keeps_trying = service.keeps_trying or restart == "always"
        if phase == "alone":
            self.start_by_itself(service)
        elif phase == "start" and status == "0":
            self.init.services.post(service, "ready")
        else:
            self.read_log(service)
            if b"\r\n" in read_file(self.path(service.name)):
                phase = "its lines end with CR LF, not LF: script"
            what = "it could not become its user: that" if phase == "user" else phase
            if phase == "script" and status == "0":
                what = "an exit outside of its functions: script"
            if phase == "run":          # a shell's exec of what isn't there ends with 126 or 127
                is_missing = status in ("126", "127")
                what = "it" if is_missing else "run came back, it must exec its program; it"
            reason = self.init.services.blame(service, f"{what} ended with status {status}")
            if phase == "depends" and peer.problems:
                reason = "; ".join(peer.problems)
            is_tried_again = service.restarts and phase in ("run", "user")
            self.init.services.post(service, "die" if is_tried_again else "fail", reason)

    def start_by_itself(self, service: Service) -> None:
        """It is a daemon, and was run together with others: now it has a shell of its own."""
        if not service.alone:
            service.alone = True
            service.batch = service.pid = None
            self.init.services.begin(service)

    def on_script_end(self, service: Service) -> None:
        """The last descriptor of its FIFO was closed: by executing a daemon, or by ending; or by
        a daemon that should have written there."""
        if not service.is_daemon or not service.pid or not was_executed(service.pid):
            return
        if service.settings["ready"] == "exec":
            self.init.services.post(service, "ready")
        elif service.settings["ready"] == "fd":
            self.init.services.post(service, "wrong",
                                    "it closed descriptor 3 and wrote no newline to it")


# ---- the door ------------------------------------------------------------------------------------

class Door:
    """Connections: who asks, in which order they are served, what they wait for."""

    def __init__(self, init: "Init"):
        self.init = init
        self.listener = None        # its descriptor
        self.peers = {}             # descriptor: Peer
        self.followers = set()      # descriptors of those who want all events
        self.to_serve = {}          # descriptors of peers whose next request may be there, in order
        self.denied = set()         # users that were told no

    def listen(self) -> None:
        """Make the socket; Fail when another linitd has it, or the folder can't take it."""
        path = self.init.options.socket
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            listener.connect(path)
            raise Fail(f"{path}: another linitd listens there; give this one another --socket")
        except OSError:
            pass
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
            listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen(512)
        except OSError as error:
            raise Fail(f"{path}: can't make a socket there: {error.strerror or error}") from None
        self.add_listener(listener.detach())

    def keep_socket(self) -> None:
        """Make the socket again where it was removed; why that can't be is said once."""
        was_there = self.listener is not None
        if was_there and os.path.lexists(self.init.options.socket):
            return
        if was_there:
            self.init.loop.forget(self.listener)
            self.listener = None
        try:
            self.listen()
        except Fail as error:
            if was_there:
                self.init.say(str(error))

    def add_listener(self, fd: int) -> None:
        self.listener = fd
        self.init.loop.watch(fd, select.EPOLLIN, self.on_connect)

    def on_connect(self, mask: int) -> None:
        """Take what connections there are; root's may be behind those of others. Where descriptors
        have run out, none is taken for a while."""
        listener = _socket.socket(fileno=self.listener)
        try:
            for _ in range(USER_CLIENTS):
                fd, _ = listener._accept()
                uid = peer_user(fd)
                if self.is_crowded(uid):
                    os.close(fd)
                else:
                    self.watch_peer(Peer(fd, uid))
        except BlockingIOError:
            pass
        except OSError as error:
            self.init.say(f"can't accept a connection: {error.strerror}")
            self.init.loop.epoll.modify(self.listener, 0)
            self.init.loop.set_timer("accept", "", ACCEPT_PAUSE)
        finally:
            listener.detach()

    def is_crowded(self, uid: int) -> bool:
        """Whether UID has all the connections that it may have."""
        users = [peer.uid for peer in self.peers.values() if not peer.service]
        if self.is_owner(uid):
            return users.count(uid) >= OWNER_CLIENTS
        others = sum(not self.is_owner(user) for user in users)
        return users.count(uid) >= USER_CLIENTS or others >= ALL_CLIENTS

    def is_owner(self, uid: int) -> bool:
        return uid in (0, self.init.owner)

    def watch_peer(self, peer: Peer) -> None:
        self.peers[peer.fd] = peer
        self.init.loop.watch(peer.fd, peer.mask, lambda mask: self.on_peer(peer, mask))

    def drop(self, peer: Peer) -> None:
        """Close a connection; nobody waits on it any more."""
        del self.peers[peer.fd]
        self.init.loop.forget(peer.fd)
        self.forget_wait(peer)
        self.followers.discard(peer.fd)
        peer.gone = True
        if peer.service and peer.writes_to is not None:
            os.close(peer.writes_to)
        service = self.init.services.get(peer.service)
        if service and service.ask == peer.fd:
            service.ask = None
            service.waiting = set()
            self.init.scripts.on_script_end(service)

    def on_peer(self, peer: Peer, mask: int) -> None:
        """Something came from a peer, or it takes more, or it has closed."""
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            peer.gone = True
            peer.output = b""
            self.forget_wait(peer)
        if mask & select.EPOLLOUT:
            self.flush(peer)
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self.receive(peer)
        if peer.service:
            self.serve(peer)
        elif peer.gone and not self.is_owner(peer.uid):
            self.drop(peer)             # it could only look, and doesn't any more
        else:
            self.to_serve[peer.fd] = None

    def serve_peers(self) -> None:
        """Give each its turn: first root and the owner, then others as long as they take little
        time; the rest of them come first in the next turn."""
        waiting, self.to_serve = self.to_serve, {}
        peers = [self.peers[fd] for fd in waiting if fd in self.peers]
        for peer in [each for each in peers if self.is_owner(each.uid)]:
            if peer.fd in self.peers:       # the one before may have closed it
                self.init.loop.attempt(self.serve, peer)
        others = [each for each in peers if not self.is_owner(each.uid)]
        end = time.monotonic() + OTHERS_SHARE
        while others and time.monotonic() < end:
            self.init.loop.attempt(self.serve, others.pop(0))
        self.to_serve = {**{each.fd: None for each in others}, **self.to_serve}

    def receive(self, peer: Peer) -> None:
        try:
            data = os.read(peer.fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.at_end = not data
        peer.input += data

    def serve(self, peer: Peer) -> None:
        """Carry out the requests that came, up to one that waits or an answer that isn't taken;
        of a client one, the next when all others had their turn."""
        while not peer.goal and not peer.output and self.peers.get(peer.fd) is peer:
            line, newline, rest = peer.input.partition(b"\n")
            if not newline:
                break
            peer.input = rest
            self.carry_out(peer, line)
            if not peer.service:
                break
        if self.peers.get(peer.fd) is not peer:
            return
        if len(peer.input) > LINE_LIMIT and b"\n" not in peer.input:
            peer.input = b""
            peer.at_end = True
            error = Fail(f"a request of more than {LINE_LIMIT} bytes", 2)
            self.refuse(peer, error)
            if peer.service:
                self.init.services.post(self.init.services[peer.service], "wrong", str(error))
        is_idle = not peer.goal and not peer.output and b"\n" not in peer.input
        if peer.at_end and (is_idle or peer.fd in self.followers):
            self.drop(peer)
            return
        mask = select.EPOLLIN if is_idle and not peer.at_end else 0
        mask |= select.EPOLLOUT if peer.output and not peer.service else 0
        if mask != peer.mask:
            peer.mask = mask
            self.init.loop.epoll.modify(peer.fd, mask)

    def answer(self, peer: Peer, *lines: str) -> None:
        """Send LINES; what isn't taken now is sent later, and until then no request is read."""
        peer.output += "".join(f"{line}\n" for line in lines).encode(errors="replace")
        self.flush(peer)
        self.to_serve[peer.fd] = None

    def refuse(self, peer: Peer, error: Fail) -> None:
        self.answer(peer, f"error {error.code} {printable(str(error))}")

    def flush(self, peer: Peer) -> None:
        try:
            sent = os.write(peer.writes_to, peer.output) if peer.output and not peer.gone else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            peer.gone = True
        peer.output = b"" if peer.gone else peer.output[sent:]
        if peer.output and peer.service:
            self.init.loop.set_timer("answer", "", ACCEPT_PAUSE)

    def answer_again(self) -> None:
        """Go on with scripts that had asked much before they read an answer."""
        for peer in list(self.peers.values()):
            if peer.service and peer.output:
                self.flush(peer)
                self.to_serve[peer.fd] = None

    def carry_out(self, peer: Peer, line: bytes) -> None:
        """Do what a request says."""
        table, context = CLIENT_REQUESTS, (self, peer)
        service = self.init.services.get(peer.service)
        if service:
            table, context = SCRIPT_REQUESTS, (self.init.scripts, peer, service)
            if service.is_daemon and service.settings["ready"] == "fd":
                peer.input = b""
                peer.goal = "silence"   # it has no more to say, and isn't read until it ends
                self.init.services.post(service, "ready")
                return
        try:
            verb, *words = self.words(line)
            if verb not in table:
                raise Fail(f"{verb[:NAME_LIMIT]}: no such request", 2)
            request, needs_owner, least = table[verb]
            if peer.gone and not service and not needs_owner:
                self.to_serve[peer.fd] = None       # nobody looks at what it would show
                return
            if needs_owner and not self.is_owner(peer.uid):
                self.deny(peer.uid, verb)
            if len(words) < least:
                raise Fail(f"{verb}: it needs the name of a service", 2)
            if service and service.state != STARTING:
                raise Fail(f"{verb}: it isn't starting")
            request(*context, words)
        except Fail as error:
            self.refuse(peer, error)

    def words(self, line: bytes) -> list:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Fail("a request that isn't UTF-8", 2) from None
        if "\0" in text or not text.split():
            raise Fail("a request without a word, or with a NUL", 2)
        return text.split()

    def deny(self, uid: int, verb: str) -> None:
        if uid not in self.denied:
            self.denied.add(uid)
            self.init.say(f"user {uid} may not {verb}, nor change any state; said once")
        raise Fail(f"{verb}: only root and the owner of this linitd may", 4)

    def begin_wait(self, peer: Peer, goal: str, services: list,
                   problems: "list | tuple" = ()) -> None:
        """Let PEER wait until SERVICES have come to GOAL; there are PROBLEMS already."""
        peer.goal, peer.problems, peer.remarks = goal, list(problems), []
        peer.left = {service.name for service in services}
        asker = self.init.services.get(peer.service)
        if asker:
            asker.waiting, asker.met = set(peer.left), 0.0
            if asker.state == STARTING:
                self.init.loop.drop_timer("late", asker.name)       # others' time is not its own
        for service in services:
            service.waiters.add(peer.fd)
        for service in services:
            self.tell(peer, service)
        if not services:
            self.end_wait(peer)

    def tell_waiters(self, service: Service) -> None:
        for fd in service.waiters & self.peers.keys():
            self.tell(self.peers[fd], service)

    def tell(self, peer: Peer, service: Service) -> None:
        """SERVICE may have come where PEER wants it; if that was the last, PEER is answered."""
        if service.name not in peer.left or not GOALS[peer.goal][0](service):
            return
        peer.left.discard(service.name)
        service.waiters.discard(peer.fd)
        problem = GOALS[peer.goal][1](service)
        asker = self.init.services.get(peer.service)
        if asker:
            asker.waiting.discard(service.name)
        if problem:
            how = "it needs " if asker else ""
            peer.problems.append(f"{how}{service.name}: {problem}")
        if not peer.left:
            self.end_wait(peer)

    def forget_wait(self, peer: Peer) -> None:
        for name in peer.left:
            self.init.services[name].waiters.discard(peer.fd)
        peer.goal, peer.left = "", set()

    def remark(self, service: Service, text: str) -> None:
        """Let those who wait for SERVICE be told TEXT with their answer."""
        for fd in service.waiters & self.peers.keys():
            self.peers[fd].remarks.append(f" {service.name}: {printable(text)}")

    def end_wait(self, peer: Peer) -> None:
        peer.goal = ""
        peer.problems.sort()
        problem, remarks = "; ".join(peer.problems), peer.remarks
        if peer.service:
            problem, remarks = problem[:REASON_LIMIT], []
            service = self.init.services[peer.service]
            service.met = time.monotonic()
            if service.state == STARTING:
                self.init.services.set_deadline(service)
        if problem:
            self.refuse(peer, Fail(problem))
        else:
            self.answer(peer, *remarks, "ok")

    def request_start(self, peer: Peer, names: list) -> None:
        self.init.refuse_at_the_end()
        services = self.in_order([self.init.services.service(name) for name in names])
        for service in services:
            if service.state == WAITING:        # nobody who asks for it waits for the pause
                service.restarts = 0            # and if it fails now they are told
                self.init.services.start_again(service.name)
            self.init.services.post(service, "start")
        self.begin_wait(peer, "up", services)

    def in_order(self, services: list) -> list:
        """SERVICES, those first whose scripts say `before`, which is read here: when their shells
        could say it, others would have begun. A script with a `run` is best started alone at once;
        where that can't be seen here, linit-start says so. So is one that may end without a report,
        by an `exec` or a trap: a shell of many could take its status; and `$$` is that shell's."""
        for service in services:
            if service.is_down():
                script = read_file(self.init.scripts.path(service.name))
                service.alone = service.alone or any(word in script for word in ALONE)
                service.befores = befores_in(script)
                self.init.services.firsts |= {service.name} if service.befores else set()
        return sorted(services, key=lambda each: not each.befores)

    def request_stop(self, peer: Peer, words: list) -> None:
        """`stop NAME...` or `stop -SIGNAL NAME...`."""
        number = signal_option(words[0])
        names = words[1:] if number else words
        if not names:
            raise Fail("stop: it needs the name of a service", 2)
        services = [self.init.services.service(name) for name in names]
        for service in services:
            service.signal = number
            self.init.services.post(service, "stop")
        self.begin_wait(peer, "down", services)

    def request_restart(self, peer: Peer, names: list) -> None:
        self.init.refuse_at_the_end()
        services = [self.init.services.service(name) for name in names]
        for service in services:                # what couldn't start again isn't stopped
            check_script(self.init.scripts.path(service.name))
        affected = {each.name: each for service in services
                    for each in self.init.services.active_dependents(service)}
        for service in services:
            self.init.services.post(service, "stop")
        for each in affected.values():
            self.init.services.post(each, "start")
        self.begin_wait(peer, "up", list(affected.values()))

    def request_signal(self, peer: Peer, words: list) -> None:
        """`signal NAME SIGNAL`: to the main process of what runs."""
        service = self.init.services.look_up(words[0])
        number = signal_option("-" + "".join(words[1:2]))
        if not number:
            raise Fail("signal: write signal NAME SIGNAL, as HUP or 1", 2)
        if service.shown_pid() == "-":
            raise Fail(f"{service.name}: it has no process", 7)
        send_signal(service.pid, number)
        self.answer(peer, "ok")

    def request_reload(self, peer: Peer, names: list) -> None:
        services = [self.init.services.service(name) for name in names]
        for service in services:
            if service.state != RUNNING:
                raise Fail(f"{service.name}: it isn't running", 7)
        self.call(peer, "reload", services)

    def request_enable(self, peer: Peer, names: list) -> None:
        self.call(peer, "enable", [self.init.services.service(name) for name in names])

    def request_disable(self, peer: Peer, names: list) -> None:
        """Also of a service whose script is gone."""
        for name in names:
            check_name(name)
        services = self.init.services
        self.call(peer, "disable", [services.setdefault(name, Service(name)) for name in names])

    def call(self, peer: Peer, function: str, services: list) -> None:
        """Call a FUNCTION of the scripts of SERVICES, and answer PEER when all have ended."""
        problems = []
        for service in services:
            try:
                if function not in service.calls:
                    self.init.services.call(service, function)
                    self.init.services.set_deadline(service, "call")
            except Fail as error:
                problems.append(f"{service.name}: {error}")
        services = [service for service in services if function in service.calls]
        self.begin_wait(peer, function, services, problems)

    def request_wait(self, peer: Peer, names: list) -> None:
        """Others than the owner wait for what is known alone: else they could fill the memory."""
        services = [self.init.services.look_up(name) for name in names]
        for service in services:
            if service.name not in self.init.services and not self.is_owner(peer.uid):
                raise Fail(f"{service.name}: nobody has asked for it yet", 7)
        self.begin_wait(peer, "running", [self.init.services.service(name) for name in names])

    def request_list(self, peer: Peer, words: list) -> None:
        """Not what is stopped and has no script any more."""
        names = {name for name in list_folder(self.init.options.initd)
                 if is_name(name) and os.path.isfile(self.init.scripts.path(name))}
        names |= {each.name for each in self.init.services.values()
                  if each.state != STOPPED or os.path.exists(self.init.scripts.path(each.name))}
        lines = []
        for name in sorted(names):
            service = self.init.services.get(name) or Service(name, self.init.began)
            lines.append(f" {name} {service.shown_state()} {service.shown_pid()} "
                         f"{time.monotonic() - service.since:.1f}")
        self.answer(peer, *lines, "ok")

    def request_status(self, peer: Peer, names: list) -> None:
        service = self.init.services.look_up(names[0])
        values = {
            "name": service.name, "state": service.shown_state(), "pid": service.shown_pid(),
            "seconds": f"{time.monotonic() - service.since:.1f}",
            "needs": " ".join(sorted(service.needs)), "restarts": service.restarts,
        }
        lines = [f" {key} {value}".rstrip() for key, value in values.items()]
        if self.is_owner(peer.uid):     # a reason, too, has a line of the log in it
            if service.failure and service.state in (FAILED, WAITING):
                lines.append(f" reason {printable(service.failure)}")
            lines += [f" tail {line}" for line in last_lines(service.tail, TAIL_LINES)]
        self.answer(peer, *lines, "ok")

    def request_graph(self, peer: Peer, words: list) -> None:
        """What `why`, `graph`, `plot` and `blame` are made of."""
        lines = []
        for service in sorted(self.init.services.values(), key=lambda each: each.name):
            times = {"launched": service.launched, "met": service.met,
                     "ready": service.became_ready if service.came_up() else 0,
                     "ended": service.ended}
            shown = {key: f"{when - self.init.began:.3f}" if when else "-"
                     for key, when in times.items()}
            names = {"needs": service.needs, "binds": service.binds, "wants": service.wants,
                     "afters": service.afters, "waits": service.waiting}
            values = {"state": service.shown_state(), "pid": service.shown_pid(), **shown,
                      **{key: ",".join(sorted(each)) for key, each in names.items()}}
            lines.append(f" {service.name} " + " ".join(f"{k}={v}" for k, v in values.items()))
        self.answer(peer, *lines, "ok")

    def request_events(self, peer: Peer, words: list) -> None:
        """A stream without end: each change of a state."""
        peer.goal = "events"
        self.followers.add(peer.fd)
        self.answer(peer, f" {time.monotonic() - self.init.began:.3f}")

    def tell_followers(self, service: Service) -> None:
        text = f" {service.since - self.init.began:.3f} {service.name} {service.shown_state()} " \
               f"{service.shown_pid()}"
        reason = f" {printable(service.failure)}" if service.failure else ""
        for fd in list(self.followers):
            peer = self.peers[fd]
            self.answer(peer, text + (reason if self.is_owner(peer.uid) else ""))
            if len(peer.output) > EVENTS_LIMIT:
                self.drop(peer)

    def request_log(self, peer: Peer, names: list) -> None:
        """Where the log of a service is, or linitd's own; whether there is one, others may see."""
        name = self.init.services.look_up(names[0]).name if names else OWN_LOG
        path = f"{self.init.logs.folder}/{name}"
        self.answer(peer, f" {path}~", f" {path}", "ok")

    def request_end(self, peer: Peer, kind: str) -> None:
        self.answer(peer, "ok")
        self.init.shut_down(kind if self.init.is_first else "exit")

    def request_paths(self, peer: Peer, words: list) -> None:
        options = self.init.options
        self.answer(peer, f" initd {options.initd}", f" rcd {options.rcd}", f" log {options.log}",
                    "ok")

    def request_reexec(self, peer: Peer, words: list) -> None:
        """It is answered by the next linitd."""
        self.init.refuse_at_the_end()
        peer.goal = "reexec"
        self.init.sleep.try_new()


# ---- sleep ---------------------------------------------------------------------------------------

class Sleep:
    """Sleeping, and becoming another linitd.

    All that is known goes into a memfd, as marshal writes plain data, and linit-idle is executed
    (docs/protocol.md has its table). It keeps all descriptors and children, and executes linitd
    when there is something to do. Signals are blocked from before until after: one that came
    meanwhile is still there. `reexec` executes linitd itself, in the same way."""

    def __init__(self, init: "Init"):
        self.init = init
        # Who wakes finds what it takes over in /proc.
        self.program = find_program("linit-idle") if os.path.exists("/proc/self/fd") else ""
        self.loaded = loaded_files()    # as they are now: an upgrade may come before it sleeps
        self.idle_epoll = None
        self.table = None           # the descriptor of linit-idle's table, and where it has kept
        self.copied = {}            # what came meanwhile: output's descriptor: offset
        self.trial = None           # the pid of a linitd that only says whether it would run
        self.is_to_reexec = False   # at the turn's end, for that one would run

    def bedtime(self) -> "float | None":
        """When it sleeps, unless something happens before; None where it doesn't, since a timer is
        near, or there is something to do. What services print, linit-idle copies as well."""
        when = max(time.monotonic(), self.init.loop.worked_at + NAP)
        soonest = self.init.loop.soonest
        is_near = soonest is not None and soonest < when + NAP
        is_busy = self.init.ending or self.init.logs.waiting or self.trial
        return None if not self.program or is_near or is_busy else when

    def fall_asleep(self) -> None:
        """Become linit-idle, if it is time for that."""
        when = self.bedtime()
        if when is None or when > time.monotonic():
            return
        if all(each.state != STARTING for each in self.init.services.values()):
            self.init.loop.drop_timer("stuck", "")      # it would wake for nothing
            self.init.loop.soonest = min(self.init.loop.timers.values(), default=None)
        if all(file_numbers(path) == numbers for path, numbers in self.loaded.items()):
            self.become(lambda state: self.idle_command(state, self.init.loop.soonest))
        else:                           # an upgrade; a new linit-idle may have another table
            self.try_new()

    def try_new(self) -> None:
        """Find out whether the linitd that is there now would run; if so, reexec."""
        if self.trial is None and not self.is_to_reexec:
            try:
                self.trial = spawn(self.check_command(), os.environ)
                self.init.processes.names[self.trial] = ""      # it ends with this linitd
                self.init.loop.set_timer("trial", "", CHECK_LIMIT)
            except OSError:
                self.go_on("linitd --check can't be run")

    def on_trial_end(self, status: "int | None") -> None:
        """It has a wait STATUS; None where its time is over."""
        if status is None:
            send_signal(self.trial, _signal.SIGKILL)
        self.trial = None
        self.init.loop.drop_timer("trial", "")
        self.is_to_reexec = status == 0
        if not self.is_to_reexec:
            self.go_on("linitd --check fails")

    def reexec(self) -> None:
        """Become the linitd that is there now."""
        self.is_to_reexec = False
        self.become(lambda state: self.own_command("--resume", str(state)))
        self.go_on("linitd can't be executed")

    def go_on(self, problem: str) -> None:
        """Stay this linitd because of a PROBLEM."""
        problem += "; this one goes on"
        self.init.say(problem, is_routine=True)
        self.init.loop.worked_at = time.monotonic() + CHECK_AGAIN
        for peer in self.init.door.peers.values():
            if peer.goal == "reexec":
                peer.goal = ""
                self.init.door.refuse(peer, Fail(problem))

    def become(self, command) -> None:
        """Execute the COMMAND that goes on with this state; where it can't be, go on here."""
        block_signals(_signal.SIG_BLOCK)
        if is_ready(self.init.signals):         # those that came just before come again
            for number in set(os.read(self.init.signals, READ_SIZE)):
                os.kill(os.getpid(), number)
        memfd, kept = os.memfd_create("linitd"), set()
        try:
            words = command(memfd)
            state = self.state()
            os.write(memfd, marshal.dumps(state, 4))
            kept = descriptors_of(state) - {None} | {memfd}
            for fd in kept:
                os.set_inheritable(fd, True)
            os.execv(words[0], words)
        except OSError as error:
            self.program = ""
            self.init.say(f"{error.filename or 'linit-idle'}: {error.strerror}; linitd stays awake")
        except MemoryError:                 # later it may be there
            self.init.loop.worked_at = time.monotonic()
        for fd in kept:                     # services get none of them
            os.set_inheritable(fd, False)
        os.close(memfd)
        self.drop_table()
        block_signals(_signal.SIG_UNBLOCK)

    def state(self) -> dict:
        """All that the next linitd has to know."""
        return {
            **{key: getattr(room, key) for room, key in self.kept()},
            "services": [plain(each) for each in self.init.services.values()],
            "peers": [plain(each) for each in self.init.door.peers.values()],
        }

    def kept(self) -> list:
        """Who owns what goes from one linitd to the next, and its name."""
        rooms = {**vars(self.init), "init": self.init}
        return [(rooms[room], key) for room, keys in STATE.items() for key in keys]

    def resume(self, state: dict) -> None:
        """Go on where another linitd was."""
        for room, key in self.kept():
            setattr(room, key, state.get(key, getattr(room, key)))
        if self.init.logs.logger is None:
            self.init.logs.start()
        else:
            self.init.logs.watch()
        self.init.loop.soonest = min(self.init.loop.timers.values(), default=None)
        for fields in state["services"]:
            service = self.init.services[fields["name"]] = fill(Service(fields["name"]), fields)
            self.take_up(service)
        for fields in state["peers"]:
            peer = fill(Peer(0, 0), fields)
            self.init.door.watch_peer(peer)
            self.init.door.to_serve[peer.fd] = None
            if peer.goal == "reexec":
                peer.goal = ""
                self.init.door.answer(peer, "ok")
        if self.init.door.listener is not None:
            self.init.door.add_listener(self.init.door.listener)
        self.drop_table()

    def drop_table(self) -> None:
        if self.table is not None:
            os.close(self.table)
        self.idle_epoll, self.table, self.copied = None, None, {}

    def take_up(self, service: Service) -> None:
        service.settings = {**DEFAULTS, **service.settings}     # an earlier version knew less
        for pid in {service.pid, *service.calls.values()} - {None}:
            self.init.processes.names[pid] = service.name
        if service.log is not None:
            self.init.scripts.watch_log(service)
        if service.log in self.copied:
            copied = copied_output(self.table, self.copied[service.log])
            service.tail = (service.tail + copied)[-TAIL_LIMIT:]
            service.has_printed = service.has_printed or bool(copied)

    def own_command(self, *words: str) -> list:
        """The command line of this linitd, with WORDS."""
        return [sys.executable, "-I", "-S", PROGRAM, *self.init.options.words(), *words]

    def check_command(self) -> list:
        """What ends with status 0 where this linitd could be executed, and says nothing."""
        return ["/bin/sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *self.own_command("--check")]

    def idle_command(self, state: int, deadline: "float | None") -> list:
        """linit-idle, with its table and what it waits in."""
        self.idle_epoll = select.epoll()        # which would be closed with its object
        logger = self.init.logs.logger
        services = self.init.services.values() if logger is not None else ()
        heads = {each.log: log_head(each.log_kind(), each.name) for each in services}
        descriptors = self.init.loop.handlers.keys() - {self.init.signals}
        rows = {fd: heads.get(fd, b"") for fd in descriptors}
        for fd in rows:
            peer = self.init.door.peers.get(fd)
            self.idle_epoll.register(fd, peer.mask if peer else select.EPOLLIN)
        rescue = find_program("linit-rescue") if self.init.is_first else ""
        table, self.copied = idle_table(
            rows, logger, -1 if deadline is None else int(1e9 * deadline), self.loaded,
            self.own_command("--resume", str(state)), self.check_command(),
            [rescue] if rescue else [])
        self.table = os.memfd_create("linit-idle")
        os.write(self.table, table)
        os.set_inheritable(self.idle_epoll.fileno(), True)
        return [self.program, str(self.table), str(self.idle_epoll.fileno())]


# ---- linitd itself -------------------------------------------------------------------------------

class Init:
    """The daemon: rooms, each of which owns what it knows, and a turn that goes through them."""

    def __init__(self, options: "Options"):
        self.options = options
        self.console = open_console()
        self.owner = os.geteuid()
        self.is_first = os.getpid() == 1
        self.began = time.monotonic()
        self.boot = [*kernel_values("linit.boot"), "boot"][0]
        self.has_booted = False     # whether this is PID 1, and all of its boot runs
        self.stuck_for = STUCK      # seconds without progress, before the console tells of it again
        self.ending = ""            # what comes after the end: exit, poweroff, halt or reboot
        self.has_ended = False
        self.signals = None         # the descriptor of a pipe whose bytes are their numbers
        self.loop = Loop(self)
        self.logs = Logs(self)
        self.services = Services(self)
        self.processes = Processes(self)
        self.scripts = Scripts(self)
        self.door = Door(self)
        self.sleep = Sleep(self)

    def say(self, text: str, is_routine: bool = False) -> None:
        """One line in linitd's own log, and on the console: lost there where that takes none. A
        pipe or a terminal that says POLLOUT takes this much at once. What is routine stays off the
        console of a system that has booted, since somebody may work there."""
        line = f"{printable(text)[:SAID_LIMIT]}\n".encode(errors="replace")
        try:
            if not (is_routine and self.has_booted) and is_ready(self.console, select.POLLOUT):
                os.write(self.console, b"linitd: " + line)
        except OSError:
            pass
        self.logs.write("+", OWN_LOG, line)

    def note(self, service: Service, text: str) -> None:
        """One line in the log of SERVICE, behind what it has said itself."""
        self.scripts.read_log(service)
        self.logs.write("-", service.name, f"{printable(text)}\n".encode())

    def turn(self) -> None:
        """Wait for what comes next, and do it."""
        self.processes.table = None
        events = self.loop.epoll.poll(self.time_left())
        for fd, handler, mask in [(fd, self.loop.handlers.get(fd), mask) for fd, mask in events]:
            # One before may have closed it, and what was opened then has its number.
            if self.loop.handlers.get(fd) is handler:
                self.loop.attempt(handler, mask)
        is_due = self.loop.attempt(self.loop.run_timers)
        if is_due or self.door.to_serve or any(fd not in self.loop.outputs for fd, _ in events):
            self.loop.worked_at = max(self.loop.worked_at, time.monotonic())
        for act in (self.door.serve_peers, self.processes.kill_late, self.scripts.start_batches,
                    self.logs.flush):
            self.loop.attempt(act)
        if self.ending and all(service.is_down() for service in self.services.values()):
            self.has_ended = True
        elif self.ending:
            self.loop.attempt(self.services.look_for_circles)
        elif self.sleep.is_to_reexec:
            self.loop.attempt(self.sleep.reexec)
        else:
            self.loop.attempt(self.sleep.fall_asleep)

    def time_left(self) -> "float | None":
        if self.door.to_serve or self.scripts.to_launch:
            return 0
        when = self.sleep.bedtime() or self.loop.soonest
        return None if when is None else max(0.0, when - time.monotonic())

    def on_signal(self, fd: int) -> None:
        """The numbers of the signals that came are the bytes of a pipe."""
        numbers = set(os.read(fd, READ_SIZE))
        self.door.keep_socket()
        if _signal.SIGCHLD in numbers:
            self.processes.reap()
        wanted = PID_1_SIGNALS if self.is_first else USER_SIGNALS
        for number in numbers & set(wanted):
            self.shut_down(wanted[number])

    def watch_progress(self) -> None:
        self.stuck_for = STUCK
        self.loop.set_timer("stuck", "", STUCK)

    def on_stuck(self) -> None:
        """Nothing has happened for a while: tell what holds up everything, unless that is idle."""
        starting = [each for each in self.services.values() if each.state == STARTING]
        if not starting:
            return
        for each in starting:
            if not each.waiting:
                seconds = time.monotonic() - each.launched
                pid = f", pid {each.pid}" if each.pid else ""
                if self.services.is_without_program(each):
                    pid += ", run has executed no program yet"
                text = f"{each.name} has been starting for {seconds:.0f} s{pid}"
                self.say(": ".join([text, *each.last_words()]), is_routine=True)
        blocked = sum(bool(each.waiting) for each in starting)
        if blocked:
            self.say(f"{blocked} more waiting; see `linitctl why`", is_routine=True)
        self.stuck_for = min(2 * self.stuck_for, LONGEST_PAUSE)
        self.loop.set_timer("stuck", "", self.stuck_for)

    def offer_rescue(self) -> None:
        """PID 1 whose boot failed: a shell on the console, unless somebody can log in there."""
        program = find_program("linit-rescue")
        if not self.is_first or self.ending or not program:
            return
        try:
            spawn([program, "shell"], self.scripts.environment())
        except OSError as error:
            self.say(f"{program}: {error.strerror}")

    def refuse_at_the_end(self) -> None:
        if self.ending:
            raise Fail("shutting down; nothing is started any more")

    def shut_down(self, kind: str) -> None:
        """Stop everything; asked a second time, wait for nothing."""
        if self.ending:
            self.has_ended = True
            return
        self.ending = kind
        self.has_booted = False
        self.say(f"{kind}: stopping all services")
        self.loop.set_timer("end", "", SHUTDOWN_LIMIT)
        self.services.stop_all()

    def end_now(self) -> None:
        late = [service.name for service in self.services.values() if not service.is_down()]
        self.say(f"not waiting any longer for {', '.join(late)}")
        self.has_ended = True


# What goes from one linitd to the next, besides services and connections.
STATE = {
    "init": ("began", "boot", "has_booted", "stuck_for", "ending"),
    "loop": ("timers",),
    "logs": ("logger", "is_there", "waiting", "size"),
    "services": ("firsts",),
    "scripts": ("fifos", "descriptors", "shells"),
    "door": ("followers", "denied", "listener"),
    "sleep": ("table", "copied"),
}

# A timer's kind: what it does.
TIMERS = {
    "late": lambda init, name: init.services.on_late(name),
    "again": lambda init, name: init.services.start_again(name),
    "file": lambda init, name: init.scripts.look_for_file(name),
    "accept": lambda init, _: init.loop.epoll.modify(init.door.listener, select.EPOLLIN),
    "answer": lambda init, _: init.door.answer_again(),
    "stuck": lambda init, _: init.on_stuck(),
    "call": lambda init, name: init.processes.end_calls(name),
    "end": lambda init, _: init.end_now(),
    "groups": lambda init, _: init.processes.look_for_groups(),
    "logger": lambda init, _: init.logs.start(),
    "trial": lambda init, _: init.sleep.on_trial_end(None),
}

# Request: what carries it out, whether only the owner may, and how many words it needs at least.
CLIENT_REQUESTS = {
    "start": (Door.request_start, True, 1),
    "stop": (Door.request_stop, True, 1),
    "restart": (Door.request_restart, True, 1),
    "reload": (Door.request_reload, True, 1),
    "signal": (Door.request_signal, True, 1),
    "enable": (Door.request_enable, True, 1),
    "disable": (Door.request_disable, True, 1),
    "log": (Door.request_log, True, 0),
    "status": (Door.request_status, False, 1),
    "wait": (Door.request_wait, False, 1),
    "list": (Door.request_list, False, 0),
    "graph": (Door.request_graph, False, 0),
    "paths": (Door.request_paths, False, 0),
    "events": (Door.request_events, False, 0),
    "poweroff": (lambda door, peer, _: door.request_end(peer, "poweroff"), True, 0),
    "reboot": (lambda door, peer, _: door.request_end(peer, "reboot"), True, 0),
    "halt": (lambda door, peer, _: door.request_end(peer, "halt"), True, 0),
    "reexec": (Door.request_reexec, True, 0),
}
SCRIPT_REQUESTS = {
    "dep": (Scripts.script_dep, False, 1),
    "binds": (Scripts.script_binds, False, 1),
    "want": (Scripts.script_want, False, 1),
    "after": (Scripts.script_after, False, 1),
    "settings": (Scripts.script_settings, False, 1),
    "end": (Scripts.script_end, False, 1),
}


# ---- the command line ----------------------------------------------------------------------------

HELP = """linitd, the init of Panux

  --initd DIR      the init scripts (/etc/init.d)
  --rcd DIR        the names that `boot` starts (/etc/rc.d)
  --socket PATH    where clients find it (/run/linit.sock); beside it is a folder PATH.d
  --log DIR        what services print (/var/log/linit)
  --user           what isn't said above is a user's own: DIRs in ~/.config/linit,
                   the socket in $XDG_RUNTIME_DIR, logs in ~/.local/state/linit
  --no-boot        don't start `boot`
  --check          only say whether it could run
  --version        print the version
  --help           print this"""


class Options:
    """The command line, parsed. `resume` is the descriptor of the state of a linitd before."""
    __slots__ = ("initd", "rcd", "socket", "log", "resume", "user", "no_boot", "check", "help",
                 "version")

    def __init__(self, words: list):
        self.initd, self.rcd = "/etc/init.d", "/etc/rc.d"
        self.socket, self.log, self.resume = SOCKET, "/var/log/linit", ""
        self.user = self.no_boot = self.check = self.help = self.version = False
        words = list(words)
        if "--user" in words:
            self.be_a_user_s()
        while words:
            flag, equals, value = words.pop(0).partition("=")
            attribute = flag[2:].replace("-", "_")
            if not flag.startswith("--") or attribute not in self.__slots__:
                raise Fail(f"{flag}: no such option; see linitd --help", 2)
            takes_value = isinstance(getattr(self, attribute), str)
            if takes_value and not equals and not words or equals and not takes_value:
                raise Fail(f"{flag} {'needs a' if takes_value else 'takes no'} value", 2)
            if attribute == "resume":
                self.resume = value if equals else words.pop(0)
            elif takes_value:
                setattr(self, attribute, os.path.abspath(value if equals else words.pop(0)))
            else:
                setattr(self, attribute, True)

    def be_a_user_s(self) -> None:
        """The places of the XDG base directories."""
        home = os.path.expanduser("~")
        config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        state = os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        self.initd, self.rcd = f"{config}/linit/init.d", f"{config}/linit/rc.d"
        self.socket, self.log = f"{runtime}/linit.sock", f"{state}/linit"

    def words(self) -> list:
        """The command line that says where things are."""
        return [*["--user"] * self.user, "--initd", self.initd, "--rcd", self.rcd,
                "--socket", self.socket, "--log", self.log]


def read_state(resume: str) -> dict:
    """What the linitd before has left in a memfd."""
    try:
        fd = int(resume)
        if not os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:linitd "):
            raise ValueError("it is no memfd of a linitd")
        state = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
        descriptors_of(state)           # it has what is needed
        os.close(fd)
        return state
    except (OSError, ValueError, EOFError, TypeError, LookupError, MemoryError) as error:
        text = f"{resume[:NAME_LIMIT]}: {error or type(error).__name__}"
        raise Fail(f"--resume {text}; only linitd itself uses it", 2) from None


def descriptors_of(state: dict) -> set:
    """Those that the next linitd takes over."""
    services, peers = state["services"], state["peers"]
    found = {each["log"] for each in services}
    found |= {each[key] for each in peers for key in ("fd", "writes_to")}
    found |= {output for output, _ in dict(state.get("shells", ())).values()}
    return found | {state["listener"], state.get("logger"), state.get("table")}


def close_descriptors(kept: set) -> None:
    """Services are given none that this process was started with; 0, 1 and 2 are always there."""
    for name in list_folder("/proc/self/fd"):
        if int(name) in kept:
            os.set_inheritable(int(name), False)
        elif int(name) > 2:
            os.closerange(int(name), int(name) + 1)
    fd = 0
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def catch_signals(init: Init) -> None:
    """Signals become bytes in a pipe, so that epoll is all that is waited for."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in wanted_signals():
        _signal.signal(number, lambda number, frame: None)
    init.signals = reader
    init.loop.watch(reader, select.EPOLLIN, lambda mask: init.on_signal(reader))


def begin(init: Init) -> None:
    """Make what the daemon needs outside, and start `boot`."""
    init.logs.start()
    for make in (init.door.listen, init.scripts.make_folder):
        try:
            make()
        except Fail as error:
            if not init.is_first:
                if init.door.listener is not None:
                    remove_file(init.options.socket)
                raise
            init.say(str(error))
    if not init.options.no_boot:
        warn_of_host(init)
        start_boot(init)


def warn_of_host(init: Init) -> None:
    """Scripts for a system of their own, started beside another init, set up the host's."""
    names = [name for name in HOST_SCRIPTS if os.path.exists(f"{init.options.rcd}/{name}")]
    if names and not init.is_first and os.geteuid() == 0:
        init.say(f"running as root beside another init: {', '.join(names)} will reconfigure this "
                 "machine")


def start_boot(init: Init) -> None:
    """Start what the kernel's command line says, or `boot`."""
    try:
        if init.boot != "boot" and not (is_name(init.boot)
                                        and os.path.exists(init.scripts.path(init.boot))):
            init.say(f"linit.boot={init.boot}: there is no such service")
            init.boot = "boot"
        init.services.post(init.services.service(init.boot), "start")
    except Fail:
        init.say(f"{init.options.initd}/boot: no such script; nothing is started")
        init.offer_rescue()


def end_system(init: Init) -> None:
    """What PID 1 does last, by the script that does it where no linitd runs: end all processes,
    unmount, and call the kernel."""
    number = next(number for number, kind in PID_1_SIGNALS.items() if kind == init.ending)
    program = find_program("linit-rescue")
    for service in init.services.values():
        if service.log is not None:     # who prints while it ends isn't killed by a broken pipe
            os.set_inheritable(service.log, True)
    try:
        os.execve(program, [program, str(int(number))], init.scripts.environment())
    except OSError as error:
        init.say(f"linit-rescue: {error.strerror}; copy it beside linitd")


def main(argv: "list | None" = None) -> int:
    """Run linitd until it is told to end; 0, or 1 or 2 and one line when it can't even begin."""
    os.umask(0o022)
    try:
        options = Options(sys.argv[1:] if argv is None else argv)
        if options.help or options.version:
            print(HELP if options.help else f"linitd {VERSION}")
            return 0
        if options.check:
            find_linit_start()
            return 0
        init = started(options)
    except Fail as error:
        print(f"linitd: {printable(str(error))}", file=sys.stderr)
        return error.code
    while not init.has_ended:
        init.loop.attempt(init.turn)
    init.processes.kill(list(init.services.values()), init.processes.names.keys())
    init.logs.end()
    if init.door.listener is not None:
        init.loop.attempt(remove_file, options.socket)
    if init.is_first:
        end_system(init)
    return 0


def started(options: Options) -> Init:
    """A daemon that has begun, or goes on where another was."""
    state = read_state(options.resume) if options.resume else None
    close_descriptors(descriptors_of(state) if state else set())
    init = Init(options)
    os.chdir("/")
    catch_signals(init)
    if state:
        init.sleep.resume(state)
        block_signals(_signal.SIG_UNBLOCK)
    else:
        begin(init)
    init.loop.attempt(init.processes.reap)
    return init


if __name__ == "__main__":
    sys.exit(main())
