/* Threads that wait in every way, and compute, and see whether somebody was there.
 *
 *   waiter KIND       waits so, ROUNDS times, in its only thread
 *   waiter crowd      a thread for each kind, threads that come and go, signals by the
 *                     thousand, until it is told a byte
 *   waiter section    computes in a critical section of rseq(2), until it is aborted 200
 *                     times: by nobody, it never ends
 *   waiter sandbox    is killed for userfaultfd(2) and close(2) by a filter of its own
 *   waiter half       of two threads only the second has that filter
 *   waiter orphan     its first thread ends, the other goes on
 *
 * Each prints `ready`, and at its end `whole`, or what was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 150, TOO_LONG_MS = 1500, ROUNDS = 10, SENT = 3000 };

static volatile int over;
static char fault[200];
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;

static void blame(const char *who, const char *what, long number)
{
    pthread_mutex_lock(&fault_lock);
    if (!*fault)
        snprintf(fault, sizeof fault, "%s: %s %ld", who, what, number);
    pthread_mutex_unlock(&fault_lock);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* --- ways to wait; each returns what its call did --- */

static const struct timespec wait_time = {.tv_nsec = WAIT_MS * 1000000L};

static int wait_nanosleep(void)
{
    return nanosleep(&wait_time, NULL);
}

static int wait_poll(void)
{
    return poll(NULL, 0, WAIT_MS);
}

static int wait_select(void)
{
    struct timeval time = {.tv_usec = WAIT_MS * 1000};
    return select(0, NULL, NULL, NULL, &time);
}

static int wait_futex(void)
{
    uint32_t word = 0;
    int done = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &wait_time, NULL, 0);
    return done < 0 && errno == ETIMEDOUT ? 0 : done;
}

static int opened_timer(void)
{
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec when = {.it_value = wait_time};
    timerfd_settime(timer, 0, &when, NULL);
    return timer;
}

static int wait_read(void)
{
    uint64_t expired;
    int timer = opened_timer();
    ssize_t done = read(timer, &expired, sizeof expired);
    int number = errno;
    close(timer);
    errno = number;
    return done == sizeof expired ? 0 : -1;
}

static int wait_epoll(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int timer = opened_timer(), epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    int done = epoll_wait(epoll, &event, 1, -1), number = errno;
    close(timer);
    close(epoll);
    errno = number;
    return done == 1 ? 0 : -1;
}

static int wait_sigwait(void)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    struct itimerspec when = {.it_value = wait_time};
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &when, NULL);
    int done = sigwaitinfo(&set, &info), number = errno;
    timer_delete(timer);
    errno = number;
    return done == SIGUSR2 ? 0 : -1;
}

static int wait_compute(void)
{
    static double first;
    double value = 1;
    uint64_t bits = 1;
    for (int64_t end = now_us() + WAIT_MS * 1000; now_us() < end;) {
        value = 1;
        for (int i = 1; i < 20000; i++) {
            value = value * 1.0000003 + 1.0 / i;
            bits = bits * 6364136223846793005ULL + (uint64_t)value;
        }
        if (first && value != first)
            return -1;
        first = value;
    }
    return bits ? 0 : 1;
}

static const struct kind {
    const char *name;
    int (*wait)(void);
} kinds[] = {
    {"nanosleep", wait_nanosleep}, {"poll", wait_poll},       {"select", wait_select},
    {"futex", wait_futex},         {"read", wait_read},       {"epoll", wait_epoll},
    {"sigwait", wait_sigwait},     {"compute", wait_compute}, {NULL, NULL},
};

static void wait_once(const struct kind *kind)
{
    int64_t began = now_us();
    errno = 0;
    int done = kind->wait();
    int64_t took = now_us() - began;
    if (done)
        blame(kind->name, strerror(errno), done);
    else if (took < WAIT_MS * 1000)
        blame(kind->name, "too short, us", took);
    else if (took > TOO_LONG_MS * 1000)
        blame(kind->name, "too long, us", took);
}

/* --- the crowd --- */

static void *keep_waiting(void *kind)
{
    while (!over)
        wait_once(kind);
    return NULL;
}

static void *do_nothing(void *count)
{
    __atomic_add_fetch((long *)count, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *come_and_go(void *unused)
{
    (void)unused;
    long begun = 0, ended = 0;
    while (!over) {
        pthread_t threads[4];
        int made = 0;
        for (; made < 4; made++) {
            int error = pthread_create(&threads[made], NULL, do_nothing, &ended);
            if (error) {
                blame("create", strerror(error), error);
                break;
            }
        }
        begun += made;
        while (made)
            pthread_join(threads[--made], NULL);
        if (begun != ended)
            blame("threads lost", "", begun - ended);
    }
    return NULL;
}

static volatile long ticks, received;
static timer_t ticking;

static void on_tick(int number)
{
    (void)number;
    ticks += 1 + timer_getoverrun(ticking);
}

static void on_queued(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_value.sival_int != received)
        blame("queued signal", "out of turn", received);
    received++;
}

static void *take_signals(void *unused)
{
    (void)unused;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    double value = 0;
    for (long i = 1; !over || received < SENT; i++) {
        value += 1.0 / i;
        if (i % 100000 == 0)
            usleep(2000);
    }
    return value > 0 ? NULL : (void *)&received;
}

static void send_signals(pid_t to)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < SENT; i++) {
        union sigval value = {.sival_int = i};
        while (sigqueue(to, SIGRTMIN, value))
            usleep(100);
        usleep(300);
    }
    _exit(0);
}

static void crowd(void)
{
    struct sigaction tick = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct sigaction queued = {.sa_sigaction = on_queued, .sa_flags = SA_RESTART | SA_SIGINFO};
    sigaction(SIGALRM, &tick, NULL);
    sigaction(SIGRTMIN, &queued, NULL);
    pid_t self = getpid(), sender = fork();
    if (!sender)
        send_signals(self);
    pthread_t threads[32];
    int made = 0;
    for (const struct kind *kind = kinds; kind->name; kind++)
        pthread_create(&threads[made++], NULL, keep_waiting, (void *)kind);
    pthread_create(&threads[made++], NULL, come_and_go, NULL);
    pthread_create(&threads[made++], NULL, take_signals, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec each = {.it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 1000000};
    timer_create(CLOCK_MONOTONIC, &event, &ticking);
    int64_t began = now_us();
    timer_settime(ticking, 0, &each, NULL);
    puts("ready");
    char byte;
    ssize_t done = read(0, &byte, 1);
    if (done != 1)
        blame("main", strerror(errno), done);
    if (waitpid(sender, NULL, 0) != sender)
        blame("wait", strerror(errno), errno);
    /* Some may be on their way yet; but what was lost is never caught up with. */
    long behind;
    int64_t patience = now_us() + 3000000;
    while ((behind = (now_us() - began) / 1000 - ticks) > 2 && now_us() < patience)
        usleep(100);
    if (labs(behind) > 2)
        blame("ticks lost", "", behind);
    over = 1;
    while (made)
        pthread_join(threads[--made], NULL);
    if (received != SENT)
        blame("queued signals lost", "", SENT - received);
}

/* --- special ones --- */

static int aborted(struct rseq *rseq)
{
    int was_aborted;
    __asm__ volatile(
        ".pushsection .data.rel.ro, \"aw\"\n"
        ".balign 32\n"
        "7: .long 0, 0\n"
        "   .quad 1f, 2f - 1f, 4f\n"
        ".popsection\n"
        "   leaq 7b(%%rip), %%rax\n"
        "   movq %%rax, %c[cs](%[rseq])\n"
        "1: movl %[over], %%eax\n"
        "   testl %%eax, %%eax\n"
        "   jz 1b\n"
        "2: xorl %[result], %[result]\n"
        "   jmp 5f\n"
        "   .byte 0x0f, 0xb9, 0x3d\n"
        "   .long %c[signature]\n"
        "4: movl $1, %[result]\n"
        "5:\n"
        : [result] "=&r"(was_aborted)
        : [rseq] "r"(rseq), [over] "m"(over), [cs] "i"(offsetof(struct rseq, rseq_cs)),
          [signature] "i"(RSEQ_SIG)
        : "rax", "memory", "cc");
    return was_aborted;
}

static volatile long aborts;

static void section(void)
{
    struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    puts("ready");
    for (; aborts < 200 && aborted(rseq); aborts++)
        ;
    if (aborts < 200)
        blame("section", "aborted only so often", aborts);
}

static void sandbox(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 5, .filter = filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        blame("sandbox", strerror(errno), errno);
}

static void *wait_in_a_sandbox(void *unused)
{
    (void)unused;
    sandbox();
    puts("ready");
    for (int i = 0; i < ROUNDS; i++)
        wait_once(&kinds[0]);
    return NULL;
}

static void *outlive(void *unused)
{
    (void)unused;
    usleep(50000);
    puts("ready");
    for (int i = 0; i < ROUNDS; i++)
        wait_once(&kinds[0]);
    puts(*fault ? fault : "whole");
    exit(0);
}

int main(int count, char **arguments)
{
    const char *wanted = count > 1 ? arguments[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_t other;
    if (!strcmp(wanted, "crowd"))
        crowd();
    else if (!strcmp(wanted, "section"))
        section();
    else if (!strcmp(wanted, "sandbox"))
        wait_in_a_sandbox(NULL);
    else if (!strcmp(wanted, "half")) {
        pthread_create(&other, NULL, wait_in_a_sandbox, NULL);
        pthread_join(other, NULL);
    } else if (!strcmp(wanted, "orphan")) {
        pthread_create(&other, NULL, outlive, NULL);
        pthread_exit(NULL);
    } else
        for (const struct kind *kind = kinds; kind->name; kind++)
            if (!strcmp(kind->name, wanted)) {
                puts("ready");
                for (int i = 0; i < ROUNDS; i++)
                    wait_once(kind);
            }
    puts(*fault ? fault : "whole");
    return *fault != 0;
}
