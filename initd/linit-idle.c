/* linit-idle: what linitd, the first process, becomes while it has nothing to do.
 *     cc -Os -s -static -nostdlib -ffreestanding -fno-pie -fno-asynchronous-unwind-tables \
 *     -fno-stack-protector -Wl,--no-relax,-z,noseparate-code -o linit-idle linit-idle.c
 * `linit-idle TABLE EPOLL` gets a memfd (docs/protocol.md) and an epoll instance with the table's
 * descriptors. When there is something to do it executes the first command, linitd. What services
 * print goes to linit-log, and its end is kept. If a file of linitd's has changed, a child tries a
 * second command first. Where that fails it stays: the third gives a shell, or ends the system.
 * The invariant: it never exits, and waits for epoll and, ten seconds at most, that child alone.
 * Asleep it takes a page of code and three of stack: no libc, no data, and the table unmapped. */
#include <asm/unistd.h>
#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/signal.h>
#include <linux/signalfd.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <linux/uio.h>
#include <linux/wait.h>
/* ---- the same in linit-idle.c and linit-log.c: sys(number, at most five arguments) ---- */
#ifndef __NR_clock_gettime64    /* only where a long has 32 bits are these two others */
#define __NR_clock_gettime64 __NR_clock_gettime
#define __NR_mmap2 __NR_mmap
#endif
#define sys(...) pad(__VA_ARGS__, 0, 0, 0, 0, 0)
#define pad(n, a, b, c, d, e, ...) call((long)(a), (long)(b), (long)(c), (long)(d), (long)(e), n)
long call(long a, long b, long c, long d, long e, long number);
__asm__(".text\n.globl _start, call\n"
#if defined __x86_64__
"_start: mov %rsp,%rdi; call begin\ncall: mov %rcx,%r10; mov %r9,%rax; xor %r9,%r9; syscall; ret\n"
#elif defined __i386__
"_start: push %esp; call begin\ncall: pusha; mov 36(%esp), %ebx; mov 40(%esp), %ecx\n"
"mov 44(%esp), %edx; mov 48(%esp), %esi; mov 52(%esp), %edi; xor %ebp, %ebp; mov 56(%esp), %eax\n"
"int $0x80; mov %eax, 28(%esp); popa; ret\n"
#elif defined __aarch64__
"_start: mov x0, sp; bl begin\ncall: mov x8, x5; mov x5, #0; svc #0; ret\n"
#elif defined __arm__
".arm\n.type _start, %function\n.type call, %function\n_start: mov r0, sp; bl begin\n"
"call: push {r4,r5,r7,lr}; ldr r4,[sp,#16]; ldr r7,[sp,#20]; mov r5,#0; svc 0; pop {r4,r5,r7,pc}\n"
#elif defined __riscv           /* with --no-relax, since gp isn't set */
"_start: mv a0, sp; call begin\ncall: mv a7, a5; li a5, 0; ecall; ret\n"
#endif
);
/* ---- end of what is the same ---- */

#define say(line) sys(__NR_write, 2, line, sizeof line - 1)
enum { WAKE, CHECK, RESCUE, TAIL = 2048, CHUNK = 1024 };    /* the commands; bytes */
struct entry { __s64 fd, output, logger; };     /* output -1: any event wakes; else where it is */
struct output { __s64 count, length; char head[104], tail[TAIL]; };
struct stamp { __s64 inode, seconds, nanoseconds; };
struct table {
    __s64 version, descriptors, deadline;       /* deadline: monotonic nanoseconds, -1 for none */
    __s64 signals, stamps, words[3], retry;     /* retry: milliseconds between two tries to wake */
    struct entry entries[];
};
struct sleeper {
    struct table *table;
    char *paths, **environment;
    int epoll, signals, shell;                  /* shell: its pid; 0 until waking has failed */
};

static char *skip(char *text, __s64 count) {
    while (count > 0)
        count -= !*text++;
    return text;
}

static __s64 time_until(__s64 moment) {
    struct __kernel_timespec now;
    sys(__NR_clock_gettime64, CLOCK_MONOTONIC, &now);
    return moment - now.tv_sec * 1000000000LL - now.tv_nsec;
}

/* Execute a command, LAST (or 0) behind its words; return where that can't be. What isn't linitd
 * finds no signal blocked or ignored, and nothing open above 2. */
static void execute(struct sleeper *it, int which, char *last) {
    static const long none[5];                  /* an empty set; SIG_DFL for the kernel */
    char *argv[it->table->words[0] + it->table->words[1] + it->table->words[2] + 2], **end = argv;
    char *text = skip(it->paths, it->table->stamps);
    for (int each = WAKE; each <= which; each++)
        for (end = argv; end < argv + it->table->words[each]; text = skip(text, 1))
            *end++ = text;
    *end++ = last;
    *end = 0;
    if (which != WAKE) {
        for (int signal = 1; signal <= 64; signal++)
            sys(__NR_rt_sigaction, signal, none, 0, 8);
        sys(__NR_rt_sigprocmask, SIG_SETMASK, none, 0, 8);
        sys(__NR_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
    }
    sys(__NR_execve, argv[0], argv, it->environment);
}

/* Run a command in a child with a session of its own, and give its pid. The check is killed after
 * ten seconds. The first shell, not PID 1, says why it is there: a console may block. */
static int run(struct sleeper *it, int which, char *last) {
    int child = (int)sys(__NR_clone, SIGCHLD);
    if (child != 0)
        return child;
    sys(__NR_setsid, 0);
    if (which == CHECK)
        sys(__NR_setitimer, ITIMER_REAL, ((long[]){0, 0, 10, 0}));
    else if (it->shell <= 0)
        say("linit-idle: linitd or its Python has changed and doesn't run; the services go on\n");
    execute(it, which, last);
    return (int)sys(__NR_exit_group, 127);
}

/* Become linitd; where it doesn't run, stay, offer a shell, and try again later. */
static void wake(struct sleeper *it) {
    struct stamp *stamp = (void *)(it->table->entries + it->table->descriptors);
    struct statx file;
    int child = 0, status;
    for (char *path = it->paths; (char *)stamp < it->paths; path = skip(path, 1), stamp++)
        if (child == 0 && (sys(__NR_statx, AT_FDCWD, path, 0, STATX_INO | STATX_MTIME, &file) != 0
                || (__s64)file.stx_ino != stamp->inode || file.stx_mtime.tv_sec != stamp->seconds
                || file.stx_mtime.tv_nsec != stamp->nanoseconds))
            child = run(it, CHECK, 0);
    if (child == 0 || (child > 0 && sys(__NR_wait4, child, &status) == child && status == 0))
        execute(it, WAKE, 0);
    if (it->shell <= 0 || sys(__NR_wait4, it->shell, 0, WNOHANG) != 0)
        it->shell = run(it, RESCUE, "shell");
    it->table->deadline = it->table->retry * 1000000 - time_until(0);
    it->table->signals &= (1 << SIGTERM | 1 << SIGINT | 1 << SIGUSR1 | 1 << SIGUSR2) >> 1;
    sys(__NR_signalfd4, it->signals, &it->table->signals, 8);
}

/* Do by the third command what a signal asks of PID 1. */
static void end_system(struct sleeper *it) {
    struct signalfd_siginfo signal;
    sys(__NR_read, it->signals, &signal, sizeof signal);
    char number[] = {'0' + signal.ssi_signo / 10, '0' + signal.ssi_signo % 10, 0};
    execute(it, RESCUE, number + (number[0] == '0'));
    sys(__NR_rt_sigprocmask, SIG_BLOCK, &it->table->signals, 0, 8);
}

/* Whether an event of FD is linitd's affair: not what a service prints, if linit-log takes it. */
static int is_for_linitd(struct sleeper *it, int fd) {
    struct entry *entry = it->table->entries, *end = entry + it->table->descriptors;
    while (entry < end && entry->fd != fd)
        entry++;
    if (entry == end || entry->output < 0)
        return 1;
    struct output *output = (void *)((char *)it->table + entry->output);
    struct pollfd logger = {entry->logger, POLLOUT, 0};
    char chunk[CHUNK];
    long is_full = sys(__NR_ppoll, &logger, 1, ((long[]){0, 0})) != 1 || logger.revents != POLLOUT;
    long count = is_full ? 0 : sys(__NR_read, fd, chunk, CHUNK);
    for (long i = 0; i < count; i++)
        output->tail[output->count++ & (TAIL - 1)] = chunk[i];
    struct iovec parts[] = {{output->head, output->length}, {chunk, count}};
    return count <= 0 ? count != -EAGAIN : sys(__NR_writev, entry->logger, parts, 2) < 0;
}

/* Wait for what is linitd's affair, or its deadline. It returns where nothing can be waited for. */
static void sleep(struct sleeper *it, long size) {
    struct epoll_event event = {EPOLLIN, 0};
    it->signals = event.data = sys(__NR_signalfd4, -1, &it->table->signals, 8, SFD_CLOEXEC);
    if (sys(__NR_epoll_ctl, it->epoll, EPOLL_CTL_ADD, it->signals, &event) != 0)
        return execute(it, WAKE, 0);
    for (;;) {
        /* Milliseconds; 274878 / 2^38 is a millionth: a division would be libgcc's on 32 bits. */
        __s64 deadline = it->table->deadline, left = time_until(deadline);
        int pause = deadline < 0 ? -1 : left <= 0 ? 0 : left >> 50 ? 1 << 30
            : (int)((left >> 14) * 274878 >> 24) + 1;
        sys(__NR_madvise, it->table, size, MADV_DONTNEED);
        int is_woken = pause != 0 && sys(__NR_epoll_pwait, it->epoll, &event, 1, pause) > 0
            && is_for_linitd(it, (int)event.data);
        if (pause == 0 || (is_woken && it->shell == 0))
            wake(it);
        else if (is_woken && (int)event.data == it->signals)
            end_system(it);
        else if (is_woken)
            sys(__NR_epoll_ctl, it->epoll, EPOLL_CTL_DEL, event.data, &event);
    }
}

__attribute__((noreturn)) void begin(long *stack) {
    int fd[2] = {0, 0};
    for (int i = 0; *stack == 3 && i < 2; i++)
        for (char *digit = ((char **)stack)[i + 2]; *digit; digit++)
            fd[i] = 10 * fd[i] + *digit - '0';
    long size = sys(__NR_lseek, fd[0], 0, 2 /* SEEK_END */);
    struct table *table = (void *)sys(__NR_mmap2, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd);
    if ((unsigned long)table < -4096UL && table->version == 2
            && (table->descriptors | table->stamps) >> 16 == 0) {
        struct sleeper it = {table, (char *)(table->entries + table->descriptors + table->stamps),
                             (char **)stack + *stack + 2, fd[1], 0, 0};
        __s64 missing = table->stamps + table->words[0] + table->words[1] + table->words[2];
        for (char *text = it.paths; text < (char *)table + size; text++)
            missing -= !*text;
        if (missing <= 0 && it.paths < (char *)table + size)
            sleep(&it, size);
    }
    say("linit-idle: its table or epoll is broken; nothing looks after the services any more\n");
    for (;;)
        sys(__NR_ppoll, 0);
}
