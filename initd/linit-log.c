/* linit-log: writes what services print to files, for linitd, which must wait for no disk.
 *
 *     cc -Os -s -static -nostdlib -ffreestanding -fno-pie -fno-asynchronous-unwind-tables \
 *     -fno-stack-protector -Wl,--no-relax,-z,noseparate-code -o linit-log linit-log.c
 *
 * `linit-log FOLDER` reads messages (docs/protocol.md) from a socket, its stdin: a byte, NAME and a
 * newline, then what is appended to FOLDER/NAME. The byte is ' ' for what a service printed, '+' to
 * have the time before each line of it, '-' for a line of linitd's own, behind `-- ` and the time;
 * no line of a service's begins with '-', for it gets a blank in front. A log that is full becomes
 * NAME~ and a new one begins. Of what can't be written, the reason and NAME are sent back, once as
 * long as that lasts. linit-log.py is the same program for where this one isn't compiled.
 *
 * The invariant: each message finds its file by its path: what was moved, removed or mounted over
 * is there again. It ends with linitd. It takes a page of code and three of stack. */
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/time.h>
#include <linux/time_types.h>
#include <linux/uio.h>

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

enum {
    FULL = 256 << 10,                           /* bytes of a log */
    MESSAGE = 1200,                             /* bytes, at most */
    HEAD = 32,                                  /* bytes before a line, at most */
    QUIET = 3600,                               /* seconds without a reason; then it's told again */
    REASONS = 134,                              /* as many as Linux has */
};
struct place { char *path, *slash, *end; };   /* a file; the last `/`; where its name ends */

static unsigned seconds(int clock) {
    struct __kernel_timespec now;
    sys(__NR_clock_gettime64, clock, &now);
    return now.tv_sec;
}

/* How often UNIT is in *LEFT, which keeps the rest: a division would be libgcc's on 32 bits. */
static unsigned take(unsigned *left, unsigned unit) {
    unsigned count = 0;
    for (; *left >= unit; count++)
        *left -= unit;
    return count;
}

static char *put_number(char *to, unsigned value, unsigned unit, char after) {
    for (; unit > 0; unit = unit == 1000 ? 100 : unit == 100 ? 10 : unit == 10)
        *to++ = '0' + take(&value, unit);
    *to++ = after;
    return to;
}

/* The time as 2026-11-29T03:30:00Z and a blank; until the year 2100. */
static char *put_time(char *to) {
    unsigned left = seconds(CLOCK_REALTIME), year = 1970, month = 1, length;
    for (; left >= (length = year & 3 ? 365 * 86400 : 366 * 86400); year++)
        left -= length;
    for (; left >= (length = 86400 * (month == 2 ? 28 + !(year & 3)
            : 30 + ((month + (month >> 3)) & 1))); month++)
        left -= length;
    to = put_number(put_number(to, year, 1000, '-'), month, 10, '-');
    to = put_number(to, take(&left, 86400) + 1, 10, 'T');
    to = put_number(to, take(&left, 3600), 10, ':');
    to = put_number(to, take(&left, 60), 10, ':');
    to = put_number(to, left, 10, 'Z');
    *to++ = ' ';
    return to;
}

static long open_log(struct place *log, int flags) {
    flags |= O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
    long fd = sys(__NR_openat, AT_FDCWD, log->path, flags, 0600);
    if (fd != -ENOENT)
        return fd;
    for (char *slash = log->path + 1; slash <= log->slash; slash++)
        if (*slash == '/') {
            *slash = 0;
            sys(__NR_mkdirat, AT_FDCWD, log->path, slash == log->slash ? 0700 : 0755);
            *slash = '/';
        }
    return sys(__NR_openat, AT_FDCWD, log->path, flags, 0600);
}

static long begin_anew(struct place *log, long fd) {
    char older[log->end - log->path + 2], *to = older;
    for (char *from = log->path; from < log->end; )
        *to++ = *from++;
    *to++ = '~';
    *to = 0;
    sys(__NR_close, fd);
    long result = sys(__NR_renameat2, AT_FDCWD, log->path, AT_FDCWD, older, 0);
    return result < 0 ? result : open_log(log, O_EXCL);
}

/* Append what is between TEXT and END, of a KIND; an error's negative number where it is lost. */
static long append(struct place *log, char kind, char *text, char *end) {
    long fd = open_log(log, 0), size = fd < 0 ? fd : sys(__NR_lseek, fd, 0, 2 /* SEEK_END */);
    char last = '\n', head[HEAD];
    if (size > 0 && sys(__NR_lseek, fd, -1, 2) >= 0)
        sys(__NR_read, fd, &last, 1);
    for (char *start = text; size >= 0 && start < end; start = text) {
        char *to = head;
        if (last != '\n' && kind == '-')
            *to++ = last = '\n';
        if (last == '\n' && kind == '-')
            *to++ = '-', *to++ = '-', *to++ = ' ';
        if (last == '\n' && kind != ' ')
            to = put_time(to);
        else if (last == '\n' && *start == '-')
            *to++ = ' ';
        do
            last = *text++;
        while (text < end && (last != '\n' || (kind == ' ' && *text != '-')));
        struct iovec parts[] = {{head, to - head}, {start, text - start}};
        long length = to - head + (text - start);
        if (size + length > FULL) {
            fd = begin_anew(log, fd);
            size = 0;
        }
        long written = fd < 0 ? fd : sys(__NR_writev, fd, parts, 2);
        size = written < 0 ? written : written < length ? -ENOSPC : size + length;
    }
    if (fd >= 0)
        sys(__NR_close, fd);
    return size;
}

__attribute__((noreturn)) void begin(long *stack) {
    char *folder = ((char **)stack)[2], *end = folder, *text;
    unsigned told[REASONS];                     /* when each was met last */
    for (int reason = 0; reason < REASONS; reason++)
        told[reason] = 0;
    while (*end)
        end++;
    char path[end - folder + MESSAGE + 1], *message = path;
    while (folder < end)
        *message++ = *folder++;
    for (;;) {
        long length = sys(__NR_read, 0, message, MESSAGE);
        if (length <= 0)
            sys(__NR_exit_group, 0);
        for (text = message + 1; text < message + length && *text != '\n'; )
            text++;
        char kind = *message;
        *message = '/';
        *text = 0;
        struct place log = {path, message, text};
        long reason = -append(&log, kind, text + 1, message + length);
        if (reason > 0 && reason < REASONS) {
            unsigned now = seconds(CLOCK_MONOTONIC) + 1, before = told[reason];
            told[reason] = now;
            *message = reason;
            if (before == 0 || now - before >= QUIET)
                sys(__NR_sendto, 0, message, text - message, 0x4040 /* DONTWAIT, NOSIGNAL */);
        }
    }
}
