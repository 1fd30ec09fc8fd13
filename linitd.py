#!/usr/bin/env python3
"""linitd: the init of Panux. It runs shell init scripts in parallel, in the order they ask for.

    linitd.py                                   # as PID 1, or started by initd/init
    linitd.py --initd D --rcd R --socket S --log L      # as anybody, beside any other init
    linitd.py --check                           # whether this Python can run it at all

It reads /etc/init.d/NAME (the services) and /etc/rc.d (what `boot` starts), listens at
/run/linit.sock (docs/protocol.md) and keeps what services print in /var/log/linit/NAME. It runs
linit-start, a shell script, which is looked for beside this file, in initd/ there, and in /sbin.

The invariant: one loop, which waits in epoll alone. Whatever a client, a service or a disk does is
one line on the console; nothing that they do makes it wait, grow without bound, or end.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:
    # The script's own folder comes first here: an os.py lying beside it would be run as ours.
    del sys.path[0]

# The C modules below `signal` and `socket`: those two load enum and selectors, some 6 ms, where an
# empty Python starts in 7.
import _signal
import _socket
import os
import select
import stat
import time

VERSION = "0.1"

SCRIPT_FD = 9                       # where linit-start finds its connection; rc.common knows it too
LINE_LIMIT = 256 << 10              # bytes of a request
READ_SIZE = 64 << 10                # bytes that are read from anybody at a time
READS_AT_THE_END = 16               # of what a process that ended has left in a pipe
USER_CLIENTS = 64                   # connections of one user
ALL_CLIENTS = 256                   # connections of all users but root and the owner
OWNER_CLIENTS = 1024                # connections of root and the owner
ACCEPT_PAUSE = 1.0                  # seconds without accepting after descriptors ran out
LOG_LIMIT = 256 << 10               # bytes of a log; then it becomes NAME~ and a new one begins
TAIL_LIMIT = 2048                   # bytes of a log's end that are kept in memory
TAIL_LINES = 8                      # of which status shows so many lines
SAID_LIMIT = 1000                   # characters of a message on the console
REASON_LIMIT = 500                  # characters of a reason
NAME_LIMIT = 100                    # characters of a service's name
FILE_POLL = 0.05                    # seconds between two looks at a file that means readiness
CLOCK_TICK = 0.01                   # seconds that a file's time may be behind the clock
LONG_RUN = 10.0                     # seconds that a daemon must run for its backoff to begin anew
LONGEST_PAUSE = 60.0                # seconds between two starts of a daemon
KILL_GRACE = 5.0                    # seconds that a killed process may take to end
SHUTDOWN_LIMIT = 60.0               # seconds after which a shutdown waits for no service any more
LAST_GRACE = 2.0                    # seconds between TERM and KILL for what is left at the end

NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+:@-")

# What signals ask of PID 1, as busybox's and most others' poweroff, halt and reboot send them;
# INT is Ctrl-Alt-Del.
PID_1_SIGNALS = {_signal.SIGUSR2: "poweroff", _signal.SIGUSR1: "halt", _signal.SIGTERM: "reboot",
                 _signal.SIGINT: "reboot"}
USER_SIGNALS = {_signal.SIGTERM: "exit", _signal.SIGINT: "exit", _signal.SIGHUP: "exit"}
# What a service starts with at its default, whatever linitd or who started it has done to them.
DEFAULT_SIGNALS = (
    _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGPIPE, _signal.SIGTERM,
    _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGCHLD, _signal.SIGTSTP, _signal.SIGTTIN,
    _signal.SIGTTOU, _signal.SIGXFSZ,
)

# A service's states. What other programs see of WAITING, between two starts of a daemon that
# ended, is `starting`.
STOPPED = "stopped"
STARTING = "starting"
RUNNING = "running"
WAITING = "waiting"
STOPPING = "stopping"
FAILED = "failed"
ACTIVE = (STARTING, RUNNING, WAITING)
DOWN = (STOPPED, FAILED)

# The life of a service: all of it. What is not here does nothing. The events:
#   start   somebody needs it               stop    somebody wants it stopped
#   ready   it runs                         fail    it ended, and not well (service.failure)
#   die     a daemon ended, to come back    end     a daemon ended, as it may
#   late    its deadline passed             gone    what was to be stopped has ended
TRANSITIONS = {
    (STOPPED, "start"): (STARTING, "launch"),
    (FAILED, "start"): (STARTING, "launch"),
    (FAILED, "stop"): (STOPPED, "settle"),
    (STARTING, "ready"): (RUNNING, "settle"),
    (STARTING, "fail"): (FAILED, "settle"),
    (STARTING, "die"): (WAITING, "pause"),
    (STARTING, "stop"): (STOPPING, "halt"),
    (STARTING, "late"): (STOPPING, "give_up"),
    (RUNNING, "die"): (WAITING, "pause"),
    (RUNNING, "end"): (STOPPED, "settle"),
    (RUNNING, "fail"): (FAILED, "settle"),
    (RUNNING, "stop"): (STOPPING, "halt"),
    (WAITING, "late"): (STARTING, "relaunch"),
    (WAITING, "stop"): (STOPPED, "settle"),
    (STOPPING, "start"): (STOPPING, "turn_back"),
    (STOPPING, "stop"): (STOPPING, "stay_down"),
    (STOPPING, "late"): (STOPPING, "kill"),
    (STOPPING, "gone"): (STOPPED, "settle"),
    (STOPPING, "fail"): (FAILED, "settle"),
}


class Fail(Exception):
    """A request that can't be met: one line that says what; CODE is LSB's."""

    def __init__(self, text: str, code: int = 1):
        super().__init__(text)
        self.code = code


# ---- text ----------------------------------------------------------------------------------------

def printable(text: str) -> str:
    """TEXT with control characters shown escaped, so that no input can drive the console."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_name(text: str) -> bool:
    """Whether TEXT may name a service: a file's name, neither hidden nor an option."""
    return 0 < len(text) <= NAME_LIMIT and NAME_CHARS.issuperset(text) and text[0] not in ".-@"


def exit_text(status: int) -> str:
    """What a wait status says: `ended with status 1`, `was killed by signal 9`."""
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
    """The number of a signal, given as TERM or SIGTERM."""
    name = text if text.startswith("SIG") else "SIG" + text
    number = getattr(_signal, name, None)
    if not isinstance(number, int) or name.startswith("SIG_"):
        raise ValueError(text)
    return number


def parse_ready(text: str) -> str:
    """How a daemon says that it is ready."""
    if text not in ("exec", "fd") and not text.startswith("file:/"):
        raise ValueError(text)
    return text


def one_of(*words: str):
    """A parser that takes WORDS and nothing else."""
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text
    return parse


# Setting: its default, how it is read, what it must be.
SETTINGS = {
    "type": ("start", one_of("start", "run"), "start or run"),
    "stop": ("no", one_of("yes", "no"), "yes or no"),
    "restart": ("always", one_of("always", "on-failure", "never"), "always, on-failure or never"),
    "backoff": (0.5, parse_seconds, "seconds"),
    "ready": ("exec", parse_ready, "exec, fd or file:/PATH"),
    "stop_signal": (_signal.SIGTERM, parse_signal, "a signal's name"),
    "timeout": (60.0, parse_seconds, "seconds"),
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

class Service:
    """A service that somebody has asked for."""
    __slots__ = (
        "name", "state", "since",   # since: when the state began, in monotonic seconds
        "settings", "failure",      # failure: why it is failed, or is about to be
        "again",                    # whether it is to be started once it has stopped
        "pid", "stopper",           # the shell or daemon; the shell that runs its `stop`
        "peer", "log", "tail",      # the shell's connection; its output; the end of that
        "needs", "dependents",      # names: what it depended on, and who depends on it
        "waiting", "waits",         # names that its shell waits for; who waits for it
        "launched", "became_ready", "pause", "restarts",
        "held", "kills",            # while stopping: until dependents have stopped; KILLs sent
    )

    def __init__(self, name: str):
        self.name = name
        self.state = STOPPED
        self.since = self.launched = self.became_ready = time.monotonic()
        self.settings = DEFAULTS
        self.failure = self.pid = self.stopper = self.peer = self.log = None
        self.again = self.held = False
        self.tail = b""
        self.needs, self.dependents, self.waiting, self.waits = set(), set(), set(), []
        self.pause, self.restarts, self.kills = 0.0, 0, 0

    @property
    def is_daemon(self) -> bool:
        return self.settings["type"] == "run"

    def came_up(self) -> bool:
        """Whether it has run since it was started last."""
        return self.became_ready > self.launched

    def is_up(self) -> bool:
        """Whether its start has come to an end, good or bad."""
        return self.state in (RUNNING, FAILED) or self.state == STOPPED and not self.again

    def is_down(self) -> bool:
        """Whether its stop has come to an end."""
        return self.state in DOWN

    def shown_state(self) -> str:
        return STARTING if self.state == WAITING else self.state

    def shown_pid(self) -> str:
        is_there = self.state in (STARTING, STOPPING) or self.is_daemon and self.state == RUNNING
        return str(self.pid) if self.pid and is_there else "-"


class Wait:
    """A request that is answered once services have settled: is_settled, one of Service's methods,
    says of each whether it has. Where it is soft, no failure counts."""
    __slots__ = ("peer", "left", "is_settled", "wants_running", "soft", "problems")

    def __init__(self, peer: "Peer", is_settled, wants_running: bool, soft: bool = False):
        self.peer = peer
        self.left = set()
        self.is_settled = is_settled
        self.wants_running = wants_running
        self.soft = soft
        self.problems = []


class Peer:
    """A connection: of a client (service is None), or of the shell that starts a service."""
    __slots__ = ("fd", "uid", "service", "input", "output", "wait", "at_end", "gone", "notifies",
                 "mask")

    def __init__(self, fd: int, uid: int, service: "Service | None" = None):
        self.fd = fd
        self.uid = uid
        self.service = service
        self.input = self.output = b""
        self.wait = None
        self.at_end = False         # it sends no more
        self.gone = False           # it takes no more
        self.notifies = False       # a newline says that the daemon is ready
        self.mask = 0               # what epoll looks for


# ---- files ---------------------------------------------------------------------------------------

class Logs:
    """A folder with a bounded log for each service: NAME, and NAME~, the one before."""

    def __init__(self, folder: str, say):
        self.folder = folder
        self.say = say
        self.lost = {}              # name: why what it said last is lost

    def make_folder(self) -> None:
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
        except OSError as error:
            self.lose("", error)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Append DATA. It is lost where the disk can't take it."""
        try:
            self.append(self.path(name), data)
            self.lost.pop(name, None)
        except OSError as error:
            self.lose(name, error)

    def lose(self, name: str, error: OSError) -> None:
        """One line on the console, for each reason as long as it lasts."""
        if error.strerror not in self.lost.values():
            self.say(f"{self.path(name)}: {error.strerror}; what services say is lost")
        self.lost[name] = error.strerror

    def append(self, path: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, 0o600)
        try:
            if os.fstat(fd).st_size + len(data) > LOG_LIMIT:
                os.rename(path, path + "~")
                os.close(fd)
                fd = os.open(path, flags | os.O_EXCL, 0o600)
            os.write(fd, data)
        finally:
            os.close(fd)


def open_console() -> int:
    """The descriptor that messages go to. The console of PID 1 must never make it wait."""
    if os.getpid() != 1:
        return 2
    try:
        return os.open("/dev/console", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return 2


def check_script(path: str) -> None:
    """Fail unless PATH is a file that nobody but root and this user can have written."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Fail(f"{path}: {error.strerror}", 5) from None
    if not stat.S_ISREG(status.st_mode):
        raise Fail(f"{path}: it is no file")
    if status.st_uid not in (0, os.geteuid()):
        raise Fail(f"{path}: not run, since it belongs to user {status.st_uid}; chown it")
    forbidden = 0o022 if os.getpid() == 1 else 0o002
    if status.st_mode & forbidden:
        raise Fail(f"{path}: not run, since others can write it; chmod go-w")


def make_entry(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))


def remove_entry(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def list_folder(path: str) -> list:
    """The names in a folder; none where it can't be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def is_ready(fd: int, event: int = select.POLLIN) -> bool:
    """Whether something, or the end, can be read from FD now; or EVENT is true of it."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


def peer_user(fd: int) -> int:
    """The user at the other end of a unix socket, as the kernel knows it: struct ucred has pid,
    uid and gid, 32 bits each (unix(7))."""
    connection = _socket.socket(fileno=fd)
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    connection.detach()
    return int.from_bytes(credentials[4:8], sys.byteorder)


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def send_signal_to_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def file_stamp(path: str) -> tuple:
    """What changes when PATH is made or written anew."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def was_executed(pid: int) -> bool:
    """Whether the process PID, which has lost its descriptors, runs: a dying one has no program."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        pass                        # it is another user's, but it is there
    return True


def find_linit_start() -> str:
    """The path of linit-start; Fail when it is nowhere."""
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    places = [f"{here}/linit-start", f"{here}/initd/linit-start", "/sbin/linit-start"]
    for path in places:
        if os.access(path, os.X_OK):
            return path
    raise Fail(f"linit-start is at none of {', '.join(places)}; copy it beside linitd")


# ---- the daemon ----------------------------------------------------------------------------------

class Init:
    """The daemon: services, connections, timers, and the one loop that serves them.

    Each handler takes what is there and returns; none waits. What happens to services goes through
    `post`, so that one change is finished before the next begins, however long a chain they make.
    """

    def __init__(self, options: "Options"):
        self.options = options
        self.linit_start = find_linit_start()
        self.console = open_console()
        self.logs = Logs(options.log, self.say)
        self.owner = os.geteuid()
        self.began = time.monotonic()
        self.epoll = select.epoll()
        self.handlers = {}          # descriptor: function of an event mask
        self.timers = {}            # key: (when, function)
        self.soonest = None         # no timer is due before
        self.services = {}          # name: Service
        self.processes = {}         # pid: Service
        self.peers = {}             # descriptor: Peer
        self.answered = set()       # peers whose next request may be there already
        self.queue = []             # (Service, event): what happens next
        self.is_working = False     # through the queue
        self.denied = set()         # users that were told no
        self.ending = None          # what comes after the end: exit, poweroff, halt or reboot
        self.has_ended = False
        self.listener = None

    # -- talk

    def say(self, text: str) -> None:
        """One line on the console; lost where that takes none. A pipe or a terminal that says
        POLLOUT takes this much at once."""
        line = f"linitd: {printable(text)[:SAID_LIMIT]}\n".encode(errors="replace")
        try:
            if is_ready(self.console, select.POLLOUT):
                os.write(self.console, line)
        except OSError:
            pass

    def note(self, service: Service, text: str) -> None:
        """One line in the log of SERVICE, between what it says itself."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.logs.write(service.name, f"-- {now} {text}\n".encode())

    # -- the loop

    def run(self) -> None:
        """Serve until the end."""
        while not self.has_ended:
            self.attempt(self.turn)

    def turn(self) -> None:
        """Wait for what comes next, and do it."""
        events = self.epoll.poll(self.time_left())
        for fd, handler, mask in [(fd, self.handlers.get(fd), mask) for fd, mask in events]:
            # One before may have closed it, and what was opened then has its number.
            if self.handlers.get(fd) is handler:
                self.attempt(handler, mask)
        self.attempt(self.run_timers)
        answered, self.answered = self.answered, set()
        for peer in answered:
            self.attempt(self.serve, peer)
        if self.ending and all(service.is_down() for service in self.services.values()):
            self.has_ended = True

    def attempt(self, act, *arguments) -> None:
        """Call ACT. PID 1 lives, whatever its author has forgotten; a slow loop tells of it."""
        try:
            if act:
                act(*arguments)
        except Exception as error:
            try:
                self.say(f"this should not happen: {error!r}")
            except MemoryError:
                pass
            time.sleep(0.1)

    def watch(self, fd: int, mask: int, handler) -> None:
        os.set_blocking(fd, False)
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def forget(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self.handlers[fd]
        os.close(fd)

    def set_timer(self, key: object, seconds: float, act) -> None:
        """Call ACT in so many SECONDS; KEY has one timer, the last that was set."""
        when = time.monotonic() + seconds
        self.timers[key] = when, act
        if self.soonest is None or when < self.soonest:
            self.soonest = when

    def time_left(self) -> "float | None":
        if self.answered or self.has_ended:
            return 0
        return None if self.soonest is None else max(0.0, self.soonest - time.monotonic())

    def run_timers(self) -> None:
        now = time.monotonic()
        if self.soonest is None or now < self.soonest:
            return
        due = [(key, act) for key, (when, act) in self.timers.items() if when <= now]
        for key, act in due:
            if key in self.timers and self.timers[key][1] is act:
                del self.timers[key]
                act()
        self.soonest = min((when for when, _ in self.timers.values()), default=None)

    # -- what happens to a service

    def post(self, service: Service, event: str) -> None:
        """EVENT happens to SERVICE, at once or after what is being done."""
        self.queue.append((service, event))
        if self.is_working:
            return
        self.is_working = True
        try:
            for each, what in self.queue:       # it grows meanwhile
                self.change(each, what)
        finally:
            self.queue.clear()
            self.is_working = False

    def change(self, service: Service, event: str) -> None:
        state, action = TRANSITIONS.get((service.state, event), (None, None))
        if state is None:
            return
        if state != service.state:
            service.state = state
            service.since = time.monotonic()
        getattr(self, action)(service)

    def launch(self, service: Service) -> None:
        """Start it for the first time, or after it was down."""
        service.restarts = 0
        service.pause = 0.0
        self.relaunch(service)

    def relaunch(self, service: Service) -> None:
        """Run linit-start for it."""
        self.forget_needs(service)
        service.again = False
        service.failure = None
        service.kills = 0
        service.settings = DEFAULTS
        service.launched = time.monotonic()
        if service.peer:                # what its last life has left may still hold the other end
            self.drop(service.peer)
        try:
            check_script(self.script(service.name))
            self.start_shell(service)
        except Fail as error:
            service.failure = str(error)
            self.post(service, "fail")
        except OSError as error:
            service.failure = f"it could not be run: {error.strerror}"
            self.post(service, "die" if service.restarts else "fail")
        else:
            self.set_deadline(service)

    def settle(self, service: Service) -> None:
        """It runs, is stopped, or has failed: tell those who wait."""
        self.timers.pop(service, None)
        self.tell_of(service)
        if service.state == RUNNING:
            service.became_ready = time.monotonic()
        elif service.state == FAILED:
            service.again = False
        waits, service.waits = service.waits, []
        service.waits += [wait for wait in waits if not self.is_answered(wait, service)]
        if service.is_down():
            for name in service.needs:
                self.stop_if_free(self.services[name])
        if service.state == STOPPED and service.again and not self.ending:
            self.post(service, "start")

    def tell_of(self, service: Service) -> None:
        after = time.monotonic() - service.launched
        text = {RUNNING: f"is running after {after:.2f} s", STOPPED: "is stopped"}
        text = text.get(service.state) or f"failed: {service.failure}"
        self.say(f"{service.name} {text}")
        self.note(service, text)

    def pause(self, service: Service) -> None:
        """A daemon ended: start it again, later each time unless it ran for long."""
        ran = time.monotonic() - service.became_ready if service.came_up() else 0
        if ran >= LONG_RUN or not service.pause:
            service.pause = service.settings["backoff"]
        text = f"{service.failure}; it is started again in {service.pause:g} s"
        self.say(f"{service.name}: {text}")
        self.note(service, text)
        self.set_timer(service, service.pause, lambda: self.post(service, "late"))
        service.pause = min(max(2 * service.pause, 0.1), LONGEST_PAUSE)
        service.restarts += 1

    # -- stopping: first what depends on it, then itself

    def halt(self, service: Service) -> None:
        """Stop it, once what depends on it has stopped."""
        self.timers.pop(service, None)
        service.held = True
        for name in sorted(service.dependents):
            self.post(self.services[name], "stop")
        self.stop_if_free(service)

    def stop_if_free(self, service: Service) -> None:
        if service.state != STOPPING or not service.held:
            return
        # One that has stopped, is started again and waits for this one holds it up no more.
        if all(each.is_down() or service.name in each.waiting
               for each in map(self.services.get, service.dependents)):
            service.held = False
            self.begin_stop(service)

    def begin_stop(self, service: Service) -> None:
        """Run its own `stop`, or else end its processes."""
        self.set_deadline(service)
        if service.settings["stop"] == "yes" and service.came_up():
            try:
                service.stopper = self.spawn(service, ["--stop", service.name])
                self.processes[service.stopper] = service
                return
            except OSError as error:
                service.failure = str(error)
        self.end_processes(service)

    def end_processes(self, service: Service) -> None:
        """Ask what runs to end; it has stopped when nothing does."""
        if service.pid is None:
            self.post(service, "fail" if service.failure else "gone")
        elif service.is_daemon and service.came_up():
            send_signal(service.pid, service.settings["stop_signal"])
        else:
            send_signal_to_group(service.pid, _signal.SIGTERM)

    def give_up(self, service: Service) -> None:
        """It did not start in time, or said something that can't be."""
        seconds = service.settings["timeout"]
        service.failure = service.failure or f"it was not ready after {seconds:g} s"
        self.kill(service)

    def kill(self, service: Service) -> None:
        """Its time to stop is over."""
        service.held = False
        service.kills += 1
        if service.kills > 2 or not (service.pid or service.stopper):
            service.failure = service.failure or "its processes could not be killed"
            self.post(service, "fail")
            return
        for pid in (service.pid, service.stopper):
            if pid is not None:
                send_signal_to_group(pid, _signal.SIGKILL)
        self.set_timer(service, KILL_GRACE, lambda: self.post(service, "late"))

    def turn_back(self, service: Service) -> None:
        """Somebody needs it while it stops."""
        service.again = True

    def stay_down(self, service: Service) -> None:
        service.again = False

    def set_deadline(self, service: Service) -> None:
        seconds = service.settings["timeout"]
        self.set_timer(service, seconds, lambda: self.post(service, "late"))

    # -- processes

    def script(self, name: str) -> str:
        """The path of the init script of NAME; of getty@tty1 it is that of getty. A folder that has
        no `boot` of its own uses the one beside linit-start."""
        path = f"{self.options.initd}/{name.partition('@')[0]}"
        if name == "boot" and not os.path.exists(path):
            return f"{os.path.dirname(self.linit_start)}/boot"
        return path

    def start_shell(self, service: Service) -> None:
        """Run linit-start with a connection of its own."""
        ours, theirs = _socket.socketpair()
        try:
            service.pid = self.spawn(service, [service.name], theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.processes[service.pid] = service
        service.peer = self.add_peer(ours.detach(), self.owner, service)

    def spawn(self, service: Service, arguments: list, connection: "int | None" = None) -> int:
        """Run linit-start in a session of its own, what it prints going to the log; its pid."""
        reader, writer = os.pipe()
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                   (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
        if connection is not None:
            actions.append((os.POSIX_SPAWN_DUP2, connection, SCRIPT_FD))
        try:
            pid = os.posix_spawn(
                self.linit_start, [self.linit_start, *arguments], self.environment(),
                file_actions=actions, setsid=True, setsigmask=(), setsigdef=DEFAULT_SIGNALS,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        service.log = reader
        self.watch(reader, select.EPOLLIN, lambda mask: self.on_output(service, reader))
        return pid

    def environment(self) -> dict:
        """What a service starts with: nothing of whoever started linitd but the PATH."""
        path = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "LINITSOCK": self.options.socket, "LINIT_INITD": self.options.initd,
                "LINIT_RCD": self.options.rcd}

    def on_output(self, service: Service, fd: int) -> None:
        """What a service printed goes to its log."""
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self.forget(fd)
            if service.log == fd:
                service.log = None
            return
        service.tail = (service.tail + data)[-TAIL_LIMIT:]
        self.logs.write(service.name, data)

    def on_signal(self, fd: int) -> None:
        """The numbers of the signals that came are the bytes of a pipe."""
        numbers = set(os.read(fd, READ_SIZE))
        if _signal.SIGCHLD in numbers:
            self.reap()
        wanted = PID_1_SIGNALS if os.getpid() == 1 else USER_SIGNALS
        for number in numbers & set(wanted):
            self.shut_down(wanted[number])

    def reap(self) -> None:
        """Take leave of every child that ended, orphans that came to PID 1 among them."""
        while True:
            try:
                # Its number stays taken until waitpid: until then its group can't be another's.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            service = self.processes.pop(ended.si_pid, None)
            if service and ended.si_pid == service.pid and service.is_daemon:
                send_signal_to_group(ended.si_pid, _signal.SIGKILL)
            status = os.waitpid(ended.si_pid, 0)[1]
            if service:
                self.on_exit(service, ended.si_pid, status)

    def on_exit(self, service: Service, pid: int, status: int) -> None:
        """A shell or a daemon of SERVICE ended with a wait STATUS."""
        self.take_rest(service)
        if pid == service.stopper:
            service.stopper = None
            if status and not service.failure:
                service.failure = self.blame(service, f"stop {exit_text(status)}")
            self.end_processes(service)
            return
        if pid != service.pid:
            return                  # a shell that had reported, and was slow to end
        service.pid = None
        if service.state == STOPPING:
            if service.stopper is None and not service.held:
                self.end_processes(service)
        elif service.state == STARTING:
            self.on_early_exit(service, status)
        elif service.state == RUNNING and service.is_daemon:
            self.on_daemon_exit(service, status)

    def on_early_exit(self, service: Service, status: int) -> None:
        """It ended before it was ready."""
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        executes = service.is_daemon and service.settings["ready"] == "exec"
        if executes and code not in (126, 127) and not service.failure:
            # It was executed, and ended before anybody had looked.
            self.post(service, "ready")
            self.on_daemon_exit(service, status)
            return
        what = "" if not service.is_daemon else "it " if executes else "before it was ready it "
        text = (what or "start ") + exit_text(status)
        service.failure = service.failure or self.blame(service, text)
        self.post(service, "die" if service.restarts else "fail")

    def on_daemon_exit(self, service: Service, status: int) -> None:
        """A daemon ended: `restart` says what now."""
        service.failure = self.blame(service, "it " + exit_text(status))
        restart = service.settings["restart"]
        if self.ending or restart == "never" or restart == "on-failure" and status == 0:
            self.post(service, "fail" if status else "end")
        else:
            self.post(service, "die")

    def blame(self, service: Service, text: str) -> str:
        """TEXT with the last line that the service printed, which mostly says why."""
        lines = last_lines(service.tail, 1)
        return ": ".join([text, *lines])[:REASON_LIMIT]

    def take_rest(self, service: Service) -> None:
        """Read what a process that ended has left in its connection and in its log's pipe."""
        for _ in range(READS_AT_THE_END):
            if service.peer and is_ready(service.peer.fd):
                self.on_peer(service.peer, select.EPOLLIN)
        self.read_log(service)

    def read_log(self, service: Service) -> None:
        for _ in range(READS_AT_THE_END):
            if service.log is not None and is_ready(service.log):
                self.on_output(service, service.log)

    # -- dependences

    def service(self, name: str) -> Service:
        """The service NAME; Fail where there is no such script."""
        return self.services.setdefault(name, self.look_up(name))

    def look_up(self, name: str) -> Service:
        """The same, for who only looks: a service that nobody has asked for is not kept."""
        if not is_name(name):
            raise Fail(f"{name[:NAME_LIMIT]}: no name of a service", 2)
        if name in self.services:
            return self.services[name]
        if not os.path.exists(self.script(name)):
            raise Fail(f"{name}: there is no such service", 5)
        service = Service(name)
        service.since = self.began
        return service

    def need(self, service: Service, other: Service) -> None:
        service.needs.add(other.name)
        other.dependents.add(service.name)

    def forget_needs(self, service: Service) -> None:
        for name in service.needs:
            self.services[name].dependents.discard(service.name)
        service.needs = set()

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
            each = self.services[name]
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
                if self.services[name].state in ACTIVE:
                    found[name] = self.services[name]
                    left.append(self.services[name])
        return left

    # -- waiting

    def begin_wait(self, wait: Wait, services: list) -> None:
        """Let the peer of WAIT wait until SERVICES have settled, or answer it at once."""
        peer = wait.peer
        peer.wait = wait if not peer.gone else None
        for service in services:
            if wait.is_settled(service):
                self.note_outcome(wait, service)
            elif service.name not in wait.left:
                wait.left.add(service.name)
                service.waits.append(wait)
        if not wait.left:
            self.end_wait(wait)
        elif peer.service:
            peer.service.waiting |= wait.left
            self.timers.pop(peer.service, None)     # others' time is not its own

    def is_answered(self, wait: Wait, service: Service) -> bool:
        """Whether WAIT has no more to do with SERVICE, which has changed."""
        if wait.peer.wait is not wait:
            return True
        if not wait.is_settled(service):
            return False
        wait.left.discard(service.name)
        self.note_outcome(wait, service)
        if not wait.left:
            self.end_wait(wait)
        return True

    def note_outcome(self, wait: Wait, service: Service) -> None:
        if wait.wants_running and service.state != RUNNING:
            wait.problems.append(f"{service.name}: {service.failure or 'it was stopped'}")
        elif not wait.wants_running and service.state == FAILED:
            wait.problems.append(f"{service.name}: {service.failure}")

    def end_wait(self, wait: Wait) -> None:
        wait.peer.wait = None
        service = wait.peer.service
        if service:
            service.waiting = set()
        if service and service.state == STARTING:
            self.set_deadline(service)
        problems = [] if wait.soft else wait.problems
        if problems and service:
            self.refuse(wait.peer, Fail(self.missing(service, problems)))
        elif problems:
            self.refuse(wait.peer, Fail("; ".join(problems)))
        else:
            self.answer(wait.peer, "ok")

    def missing(self, service: Service, problems: list) -> str:
        """Why SERVICE can't start, since what it needs has PROBLEMS."""
        service.failure = "; ".join(f"it needs {each}" for each in problems)[:REASON_LIMIT]
        return service.failure

    # -- connections

    def listen(self, path: str) -> None:
        """Make the socket; Fail when another linitd has it, or the folder can't take it."""
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            listener.connect(path)
            raise Fail(f"{path}: another linitd listens there; give this one another --socket")
        except OSError:
            pass
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            if is_socket(path):
                os.unlink(path)
            listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen(512)
        except OSError as error:
            raise Fail(f"{path}: no socket can be made there: {error.strerror or error}") from None
        self.listener = listener
        self.watch(listener.fileno(), select.EPOLLIN, self.on_connect)

    def on_connect(self, mask: int) -> None:
        """Take one connection; where descriptors have run out, none for a while."""
        try:
            fd, _ = self.listener._accept()
        except BlockingIOError:
            return
        except OSError as error:
            self.say(f"a connection could not be taken: {error.strerror}")
            listener = self.listener.fileno()
            self.epoll.modify(listener, 0)
            self.set_timer("accept", ACCEPT_PAUSE,
                           lambda: self.epoll.modify(listener, select.EPOLLIN))
            return
        uid = peer_user(fd)
        if self.is_crowded(uid):
            os.close(fd)
        else:
            self.add_peer(fd, uid)

    def is_crowded(self, uid: int) -> bool:
        """Whether UID has all the connections that it may have."""
        users = [peer.uid for peer in self.peers.values() if not peer.service]
        if self.is_owner(uid):
            return users.count(uid) >= OWNER_CLIENTS
        others = sum(not self.is_owner(user) for user in users)
        return users.count(uid) >= USER_CLIENTS or others >= ALL_CLIENTS

    def is_owner(self, uid: int) -> bool:
        return uid in (0, self.owner)

    def add_peer(self, fd: int, uid: int, service: "Service | None" = None) -> Peer:
        peer = self.peers[fd] = Peer(fd, uid, service)
        peer.mask = select.EPOLLIN
        self.watch(fd, peer.mask, lambda mask: self.on_peer(peer, mask))
        return peer

    def drop(self, peer: Peer) -> None:
        """Close a connection; nobody waits on it any more."""
        del self.peers[peer.fd]
        self.forget(peer.fd)
        peer.wait, peer.gone, peer.input, peer.output = None, True, b"", b""
        service = peer.service
        if service and service.peer is peer:
            service.peer = None
            service.waiting = set()
            self.on_script_end(service)

    def on_peer(self, peer: Peer, mask: int) -> None:
        """Something came from a peer, or it takes more, or it has closed."""
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            peer.gone = True
            peer.wait, peer.output = None, b""
        if mask & select.EPOLLOUT:
            self.flush(peer)
        if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self.receive(peer)
        self.serve(peer)

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
        while peer.wait is None and not peer.output:
            line, newline, rest = peer.input.partition(b"\n")
            if not newline:
                break
            peer.input = rest
            self.carry_out(peer, line)
            if peer.service is None:
                break
        if self.peers.get(peer.fd) is not peer:
            return
        if len(peer.input) > LINE_LIMIT and b"\n" not in peer.input:
            peer.input = b""
            peer.at_end = True
            self.refuse(peer, Fail(f"a request of more than {LINE_LIMIT} bytes", 2))
        is_idle = peer.wait is None and not peer.output and b"\n" not in peer.input
        if peer.at_end and is_idle:
            self.drop(peer)
            return
        mask = select.EPOLLIN if is_idle and not peer.at_end else 0
        mask |= select.EPOLLOUT if peer.output else 0
        if mask != peer.mask:
            peer.mask = mask
            self.epoll.modify(peer.fd, mask)

    def answer(self, peer: Peer, *lines: str) -> None:
        """Send LINES; what isn't taken now is sent later, and until then no request is read."""
        peer.output += "".join(f"{line}\n" for line in lines).encode(errors="replace")
        self.flush(peer)
        self.answered.add(peer)

    def refuse(self, peer: Peer, error: Fail) -> None:
        self.answer(peer, f"error {error.code} {printable(str(error))}")

    def flush(self, peer: Peer) -> None:
        try:
            sent = os.write(peer.fd, peer.output) if peer.output and not peer.gone else 0
        except BlockingIOError:
            return
        except OSError:
            peer.gone = True
            sent = 0
        peer.output = b"" if peer.gone else peer.output[sent:]

    def carry_out(self, peer: Peer, line: bytes) -> None:
        """Do what a request says."""
        if peer.notifies:
            self.post(peer.service, "ready")
            return
        table = SCRIPT_REQUESTS if peer.service else CLIENT_REQUESTS
        try:
            verb, *words = self.words(line)
            if verb not in table:
                raise Fail(f"{verb[:NAME_LIMIT]}: no such request", 2)
            request, needs_owner, least = table[verb]
            if needs_owner and not self.is_owner(peer.uid):
                self.deny(peer.uid, verb)
            if len(words) < least:
                raise Fail(f"{verb}: it needs the name of a service", 2)
            request(self, peer, words)
        except Fail as error:
            self.refuse(peer, error)

    def words(self, line: bytes) -> list:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Fail("a request that is no UTF-8", 2) from None
        if "\0" in text or not text.split():
            raise Fail("a request without a word, or with a NUL", 2)
        return text.split()

    def deny(self, uid: int, verb: str) -> None:
        if uid not in self.denied:
            self.denied.add(uid)
            self.say(f"user {uid} was denied {verb}, and whatever else it asks that changes states")
        raise Fail(f"{verb}: only root and the owner of this linitd may", 4)

    # -- what clients ask

    def request_start(self, peer: Peer, names: list) -> None:
        self.refuse_at_the_end()
        services = [self.service(name) for name in names]
        for service in services:
            self.post(service, "start")
        self.begin_wait(Wait(peer, Service.is_up, True), services)

    def request_stop(self, peer: Peer, names: list) -> None:
        services = [self.service(name) for name in names]
        for service in services:
            self.post(service, "stop")
        self.begin_wait(Wait(peer, Service.is_down, False), services)

    def request_restart(self, peer: Peer, names: list) -> None:
        self.refuse_at_the_end()
        services = [self.service(name) for name in names]
        affected = {each.name: each for service in services
                    for each in self.active_dependents(service)}
        for service in services:
            self.post(service, "stop")
        for each in affected.values():
            self.post(each, "start")
        self.begin_wait(Wait(peer, Service.is_up, True), list(affected.values()))

    def request_list(self, peer: Peer, words: list) -> None:
        names = {name for name in list_folder(self.options.initd) if is_name(name)}
        lines = []
        for name in sorted(names | self.services.keys()):
            service = self.services.get(name)
            since = service.since if service else self.began
            state = f"{service.shown_state()} {service.shown_pid()}" if service else "stopped -"
            lines.append(f" {name} {state} {time.monotonic() - since:.1f}")
        self.answer(peer, *lines, "ok")

    def request_status(self, peer: Peer, names: list) -> None:
        service = self.look_up(names[0])
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

    def request_log(self, peer: Peer, names: list) -> None:
        path = self.logs.path(self.service(names[0]).name)
        paths = [each for each in (path + "~", path) if os.path.exists(each)]
        self.answer(peer, *(f" {each}" for each in paths), "ok")

    def request_enable(self, peer: Peer, names: list) -> None:
        self.change_entries(peer, names, make_entry)

    def request_disable(self, peer: Peer, names: list) -> None:
        self.change_entries(peer, names, remove_entry)

    def change_entries(self, peer: Peer, names: list, change) -> None:
        for service in [self.service(name) for name in names]:
            path = f"{self.options.rcd}/{service.name}"
            try:
                change(path)
            except OSError as error:
                raise Fail(f"{path}: {error.strerror}") from None
        self.answer(peer, "ok")

    def request_end(self, peer: Peer, kind: str) -> None:
        self.answer(peer, "ok")
        self.shut_down(kind if os.getpid() == 1 else "exit")

    # -- what scripts ask

    def script_dep(self, peer: Peer, names: list) -> None:
        self.depend(peer, names, Wait(peer, Service.is_up, True))

    def script_want(self, peer: Peer, names: list) -> None:
        self.depend(peer, names, Wait(peer, Service.is_up, True, soft=True))

    def depend(self, peer: Peer, names: list, wait: Wait) -> None:
        """Start what is needed, all at once, and wait for it."""
        service = peer.service
        services = []
        for name in names:
            try:
                self.refuse_at_the_end()
                services.append(self.needed(service, self.service(name), wait.soft))
            except Fail as error:
                wait.problems.append(str(error))
        for each in services:
            # What has failed since this one was started would only fail again.
            if each.state != FAILED or each.since < service.launched:
                self.post(each, "start")
        self.begin_wait(wait, services)

    def needed(self, service: Service, other: Service, soft: bool) -> Service:
        """OTHER, noted as what SERVICE needs; Fail for a cycle."""
        cycle = self.cycle(service, other)
        if cycle:
            raise Fail(f"{other.name}: a cycle: {', '.join([service.name, *cycle])}")
        if not soft:
            self.need(service, other)
        return other

    def script_after(self, peer: Peer, names: list) -> None:
        services = [self.services[name] for name in names if name in self.services]
        services = [each for each in services if not self.cycle(peer.service, each)]
        self.begin_wait(Wait(peer, Service.is_up, True, soft=True), services)

    def script_settings(self, peer: Peer, words: list) -> None:
        service = peer.service
        try:
            service.settings = parse_settings(words)
        except Fail as error:
            service.failure = str(error)
            self.post(service, "late")
            return
        self.set_deadline(service)
        ready = service.settings["ready"]
        peer.notifies = service.is_daemon and ready == "fd"
        if service.is_daemon and ready.startswith("file:"):
            self.await_file(service, ready[len("file:"):])

    def await_file(self, service: Service, path: str) -> None:
        """It is ready when PATH is made, or written anew."""
        before, launched = file_stamp(path), service.launched
        began = time.time() - (time.monotonic() - launched)
        if before and before[1] > 1e9 * (began - CLOCK_TICK):
            before = ()                 # made while the shell's line was on its way here

        def look() -> None:
            if service.state != STARTING or service.launched != launched:
                return
            if file_stamp(path) not in (before, ()):
                self.post(service, "ready")
            else:
                self.set_timer((service, "file"), FILE_POLL, look)

        look()

    def script_end(self, peer: Peer, words: list) -> None:
        """The shell reports how `start` ended; a `run` that came back has not been executed."""
        service = peer.service
        if words == ["0"] and not service.is_daemon:
            self.post(service, "ready")
            return
        self.read_log(service)
        what = "run came back, it must exec its program; it" if service.is_daemon else "start"
        service.failure = service.failure or self.blame(
            service, f"{what} ended with status {words[0]}")
        self.post(service, "fail")

    def on_script_end(self, service: Service) -> None:
        """The connection of its shell was closed: by executing a daemon, or by ending."""
        executes = service.is_daemon and service.settings["ready"] == "exec"
        if executes and not service.failure and was_executed(service.pid):
            self.post(service, "ready")

    # -- the end

    def refuse_at_the_end(self) -> None:
        if self.ending:
            raise Fail("nothing is started any more: everything is being stopped")

    def shut_down(self, kind: str) -> None:
        """Stop everything; asked a second time, wait for nothing."""
        if self.ending:
            self.has_ended = True
            return
        self.ending = kind
        self.say(f"{kind}: stopping all services")
        self.set_timer("end", SHUTDOWN_LIMIT, self.end_now)
        for service in self.services.values():
            service.again = False
            if not service.is_down():
                self.post(service, "stop")

    def kill_rest(self) -> None:
        """End what has not been waited for."""
        for pid in self.processes:
            send_signal_to_group(pid, _signal.SIGKILL)

    def end_now(self) -> None:
        late = [service.name for service in self.services.values() if not service.is_down()]
        self.say(f"not waiting any longer for {', '.join(late)}")
        self.has_ended = True


# Request: what carries it out, whether only the owner may, and how many words it needs at least.
CLIENT_REQUESTS = {
    "start": (Init.request_start, True, 1),
    "stop": (Init.request_stop, True, 1),
    "restart": (Init.request_restart, True, 1),
    "enable": (Init.request_enable, True, 1),
    "disable": (Init.request_disable, True, 1),
    "log": (Init.request_log, True, 1),
    "status": (Init.request_status, False, 1),
    "list": (Init.request_list, False, 0),
    "poweroff": (lambda init, peer, _: init.request_end(peer, "poweroff"), True, 0),
    "reboot": (lambda init, peer, _: init.request_end(peer, "reboot"), True, 0),
    "halt": (lambda init, peer, _: init.request_end(peer, "halt"), True, 0),
}
SCRIPT_REQUESTS = {
    "dep": (Init.script_dep, False, 1),
    "want": (Init.script_want, False, 1),
    "after": (Init.script_after, False, 1),
    "settings": (Init.script_settings, False, 1),
    "end": (Init.script_end, False, 1),
}


# ---- the command line ----------------------------------------------------------------------------

HELP = """linitd, the init of Panux

  --initd DIR      the init scripts (/etc/init.d)
  --rcd DIR        the names that `boot` starts (/etc/rc.d)
  --socket PATH    where clients find it (/run/linit.sock)
  --log DIR        what services print (/var/log/linit)
  --no-boot        don't start `boot`
  --check          only say whether it could run
  --version        print the version
  --help           print this"""


class Options:
    """The command line, parsed."""
    __slots__ = ("initd", "rcd", "socket", "log", "no_boot", "check", "help", "version")

    def __init__(self, words: list):
        self.initd, self.rcd = "/etc/init.d", "/etc/rc.d"
        self.socket, self.log = "/run/linit.sock", "/var/log/linit"
        self.no_boot = self.check = self.help = self.version = False
        words = list(words)
        while words:
            flag, equals, value = words.pop(0).partition("=")
            attribute = flag[2:].replace("-", "_")
            if not flag.startswith("--") or attribute not in self.__slots__:
                raise Fail(f"{flag}: no such option; see linitd --help", 2)
            takes_value = isinstance(getattr(self, attribute), str)
            if takes_value and not equals and not words or equals and not takes_value:
                raise Fail(f"{flag} {'needs a' if takes_value else 'takes no'} value", 2)
            if takes_value:
                setattr(self, attribute, os.path.abspath(value if equals else words.pop(0)))
            else:
                setattr(self, attribute, True)


def occupy_low_descriptors() -> None:
    """What is opened from now on is above those that a service's shell is given, and it is given
    none that this process was started with."""
    for name in list_folder("/proc/self/fd"):
        if int(name) > 2:
            os.closerange(int(name), int(name) + 1)
    while os.open(os.devnull, os.O_RDONLY) < SCRIPT_FD:
        pass


def catch_signals(init: Init) -> None:
    """Signals become bytes in a pipe, so that epoll is all that is waited for."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    wanted = PID_1_SIGNALS if os.getpid() == 1 else USER_SIGNALS
    for number in (_signal.SIGCHLD, *wanted):
        _signal.signal(number, lambda number, frame: None)
    init.watch(reader, select.EPOLLIN, lambda mask: init.on_signal(reader))


def begin(init: Init) -> None:
    """Make what the daemon needs outside, and start `boot`."""
    options = init.options
    catch_signals(init)
    init.logs.make_folder()
    try:
        init.listen(options.socket)
    except Fail as error:
        if os.getpid() != 1:
            raise
        init.say(str(error))
    init.reap()
    if not options.no_boot:
        try:
            init.post(init.service("boot"), "start")
        except Fail:
            init.say(f"{options.initd}/boot: it isn't there; nothing is started")


def end_everything(init: Init) -> None:
    """What PID 1 does last: end all processes, unmount, and call the kernel by a program."""
    for number in (_signal.SIGTERM, _signal.SIGKILL):
        send_signal(-1, number)
        limit = time.monotonic() + LAST_GRACE
        while has_children() and time.monotonic() < limit:
            time.sleep(0.02)
    os.sync()
    # umount always complains of what can't go: the root in memory, /dev with the console.
    quiet = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    for command, actions in ((["umount", "-a", "-r"], quiet), ([init.ending, "-f"], [])):
        try:
            pid = os.posix_spawnp(command[0], command, init.environment(), file_actions=actions)
            os.waitpid(pid, 0)
        except OSError as error:
            init.say(f"{command[0]}: {error.strerror}")


def has_children() -> bool:
    """Whether a child is left that has not ended; those that have are taken leave of."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


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
        occupy_low_descriptors()
        init = Init(options)
        os.chdir("/")
        begin(init)
    except Fail as error:
        print(f"linitd: {printable(str(error))}", file=sys.stderr)
        return error.code
    init.run()
    init.kill_rest()
    if init.listener:
        init.attempt(remove_entry, options.socket)
    if os.getpid() == 1:
        end_everything(init)
    return 0


if __name__ == "__main__":
    sys.exit(main())
