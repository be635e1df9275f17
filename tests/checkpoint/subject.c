/* Everything a checkpoint must carry, in one small process tree.
 *
 *   subject [SOCKET]
 *
 * The first process has two further threads and two children. Each 5 ms it rewrites
 * /status, one line of NAME=VALUE words:
 *
 *   turns      how often it was written
 *   threads    the smaller of the two threads' counters
 *   shared     counter in anonymous shared memory, advanced by the first child
 *   sysv       counter in a System V segment, advanced by the first child
 *   flock      held or lost, tried with a second open file description
 *   posix      held or lost, as the first child sees it
 *   deleted    the content of a file that is open and has no name any more
 *   renamed    content of a file whose name was removed while another one stays
 *   echo       the last number that came back over a socket pair
 *   epoll      how often a timer descriptor in an epoll instance fired
 *
 * Where SOCKET is given, each turn's number goes to that UNIX datagram socket, too.
 *
 * The first child writes numbers into a pipe; the second one reads them and appends them
 * to /piped, a line each: none may be missing or come twice.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct shared {
    volatile unsigned long counter;
    volatile int posix_is_held;
};

static volatile unsigned long thread_counters[2];

static void pause_ms(int milliseconds)
{
    struct timespec t = {0, milliseconds * 1000000L};
    nanosleep(&t, NULL);
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int opened(const char *path, const char *content)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, content, strlen(content)) != (ssize_t)strlen(content))
        die(path);
    return fd;
}

static void *count(void *counter)
{
    for (;;) {
        ++*(volatile unsigned long *)counter;
        pause_ms(1);
    }
    return NULL;
}

static void first_child(struct shared *shared, volatile unsigned long *sysv, int pipe_end, int echo)
{
    int record = open("/record", O_RDWR);
    char text[32];
    for (unsigned long number = 1;; number++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        if (fcntl(record, F_GETLK, &lock))
            die("F_GETLK");
        shared->posix_is_held = lock.l_type != F_UNLCK;
        shared->counter++;
        ++*sysv;
        int length = snprintf(text, sizeof text, "%lu\n", number);
        if (write(pipe_end, text, length) != length)
            die("pipe");
        ssize_t got = recv(echo, text, sizeof text, MSG_DONTWAIT);
        if (got > 0 && send(echo, text, got, 0) != got)
            die("echo");
        pause_ms(1);
    }
}

static void second_child(int pipe_end)
{
    int out = open("/piped", O_WRONLY | O_CREAT | O_APPEND, 0644);
    char text[4096];
    ssize_t got;
    while ((got = read(pipe_end, text, sizeof text)) > 0)
        if (write(out, text, got) != got)
            die("/piped");
    exit(0);
}

static const char *content(int fd, char *text, size_t size)
{
    ssize_t got = pread(fd, text, size - 1, 0);
    text[got < 0 ? 0 : got] = 0;
    return text;
}

static int connected(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (connect(fd, (void *)&address, sizeof address))
        die(path);
    return fd;
}

int main(int argc, char **argv)
{
    int outside = argc > 1 ? connected(argv[1]) : -1;
    int lock = opened("/lock", ""), record = opened("/record", "");
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (flock(lock, LOCK_EX) || fcntl(record, F_SETLK, &whole))
        die("lock");

    int deleted = opened("/gone", "deleted"), renamed = opened("/old", "renamed");
    if (unlink("/gone") || link("/old", "/new") || unlink("/old"))
        die("unlink");

    struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    volatile unsigned long *sysv = shmat(segment, NULL, 0);
    int pipe_ends[2], pair[2];
    if (shared == MAP_FAILED || sysv == (void *)-1 || pipe(pipe_ends) ||
        socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
        die("shared");
    if (!fork())
        first_child(shared, sysv, pipe_ends[1], pair[1]);
    if (!fork())
        second_child(pipe_ends[0]);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    close(pair[1]);

    pthread_t thread;
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread, NULL, count, (void *)&thread_counters[i]))
            die("thread");
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), epoll = epoll_create1(0);
    struct itimerspec each = {{0, 3000000}, {0, 3000000}};
    struct epoll_event event = {.events = EPOLLIN};
    if (timerfd_settime(timer, 0, &each, NULL) || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event))
        die("timer");

    int status = opened("/status", "");
    unsigned long echoed = 0, fired = 0, expired;
    for (unsigned long turns = 1;; turns++) {
        char line[400], first[32], second[32];
        int again = open("/lock", O_RDWR);
        int held = flock(again, LOCK_EX | LOCK_NB) != 0;
        close(again);
        if (turns == 1 || recv(pair[0], &echoed, sizeof echoed, MSG_DONTWAIT) == sizeof echoed)
            if (send(pair[0], &turns, sizeof turns, 0) != sizeof turns)
                die("echo");
        if (epoll_wait(epoll, &event, 1, 0) == 1 && read(timer, &expired, 8) == 8)
            fired++;
        unsigned long threads = thread_counters[0] < thread_counters[1] ? thread_counters[0] : thread_counters[1];
        int length = snprintf(line, sizeof line,
            "turns=%lu threads=%lu shared=%lu sysv=%lu flock=%s posix=%s deleted=%s renamed=%s echo=%lu epoll=%lu\n",
            turns, threads, shared->counter, *sysv, held ? "held" : "lost",
            shared->posix_is_held ? "held" : "lost", content(deleted, first, sizeof first),
            content(renamed, second, sizeof second), echoed, fired);
        if (pwrite(status, line, length, 0) != length)
            return 1;
        if (outside >= 0)
            send(outside, &turns, sizeof turns, MSG_DONTWAIT);
        pause_ms(5);
    }
}
