/* Whatever a process can have that a migration must bring along, judged from inside.
 *
 *   belongings [NAME...]
 *
 * It takes hold of each thing named, of all in the table at the end but the last four if none
 * is, writes /ready, and waits until the
 * file /check is there (or writes into /failed what it cannot get). Then it looks at each again and writes /verdict: a line a thing,
 * `NAME ok` or `NAME what is wrong`. It goes on for ever.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char wrong[200];

/* Note what is wrong, once a thing. */
static void fail(const char *format, ...)
{
    va_list arguments;
    if (wrong[0])
        return;
    va_start(arguments, format);
    vsnprintf(wrong, sizeof wrong, format, arguments);
    va_end(arguments);
}

static void must(int holds, const char *what)
{
    if (!holds) {
        int fd = open("/failed", O_WRONLY | O_CREAT, 0644);
        dprintf(fd, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

#define EXPECT(claim) do { if (!(claim)) fail("%s (%s)", #claim, strerror(errno)); } while (0)

static void pause_ms(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

static int holds(int fd, const char *wanted)
{
    char text[64] = "";
    ssize_t got = read(fd, text, sizeof text - 1);
    return got == (ssize_t)strlen(wanted) && !memcmp(text, wanted, got);
}

/* --- clocks and timers --- */

static struct timespec before[3];
static const clockid_t clocks[3] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
static int interval_timer, long_timer, absolute_timer;
static volatile int alarms, expirations, expiration_value;
static timer_t posix_timer, long_posix_timer;

static void count_alarm(int number)
{
    (void)number;
    alarms++;
}

static void count_expiration(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    expirations++;
    expiration_value = info->si_value.sival_int;
}

static void have_clocks(void)
{
    for (int i = 0; i < 3; i++)
        must(!clock_gettime(clocks[i], &before[i]), "clock_gettime");
}

/* All three have gone on by the same, and none by more than a minute. */
static void check_clocks(void)
{
    double passed[3];
    for (int i = 0; i < 3; i++) {
        struct timespec now;
        clock_gettime(clocks[i], &now);
        passed[i] = now.tv_sec - before[i].tv_sec + (now.tv_nsec - before[i].tv_nsec) / 1e9;
        if (passed[i] < 0 || passed[i] > 60)
            fail("clock %d went on by %.3f s", clocks[i], passed[i]);
    }
    for (int i = 0; i < 2; i++)
        if (passed[i] - passed[2] > 1 || passed[2] - passed[i] > 1)
            fail("clock %d went on by %.3f s, the time of day by %.3f", clocks[i], passed[i], passed[2]);
}

static void have_timerfd(void)
{
    struct itimerspec often = {{0, 5000000}, {0, 5000000}}, late = {{0, 0}, {3600, 0}}, at;
    interval_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    long_timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK);
    absolute_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    at = late;
    clock_gettime(CLOCK_MONOTONIC, &at.it_value);
    at.it_value.tv_sec += 3600;
    must(!timerfd_settime(interval_timer, 0, &often, NULL), "timerfd_settime");
    must(!timerfd_settime(long_timer, 0, &late, NULL), "timerfd_settime");
    must(!timerfd_settime(absolute_timer, TFD_TIMER_ABSTIME, &at, NULL), "timerfd_settime");
}

static void check_timerfd(void)
{
    unsigned long count = 0;
    struct itimerspec left;
    while (read(interval_timer, &count, 8) == 8)
        ;
    pause_ms(50);
    EXPECT(read(interval_timer, &count, 8) == 8 && count > 1 && count < 1000);
    EXPECT(!timerfd_gettime(long_timer, &left));
    if (left.it_value.tv_sec < 3500 || left.it_value.tv_sec > 3600)
        fail("%ld s are left of an hour", left.it_value.tv_sec);
    EXPECT(!timerfd_gettime(absolute_timer, &left));
    if (left.it_value.tv_sec < 3500 || left.it_value.tv_sec > 3600)
        fail("%ld s are left of an hour (absolute)", left.it_value.tv_sec);
}

static void have_itimer(void)
{
    struct itimerval often = {{0, 5000}, {0, 5000}}, late = {{7, 0}, {3600, 0}};
    struct sigaction action = {.sa_handler = count_alarm, .sa_flags = SA_RESTART};
    must(!sigaction(SIGALRM, &action, NULL), "sigaction");
    must(!setitimer(ITIMER_REAL, &often, NULL), "setitimer");
    must(!setitimer(ITIMER_VIRTUAL, &late, NULL), "setitimer");
    must(!setitimer(ITIMER_PROF, &late, NULL), "setitimer");
}

static void check_itimer(void)
{
    struct itimerval left;
    int seen = alarms;
    pause_ms(50);
    EXPECT(alarms > seen);
    EXPECT(!getitimer(ITIMER_VIRTUAL, &left) && left.it_value.tv_sec > 3500 && left.it_interval.tv_sec == 7);
    EXPECT(!getitimer(ITIMER_PROF, &left) && left.it_value.tv_sec > 3500 && left.it_interval.tv_sec == 7);
}

static void have_posix_timer(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
    struct itimerspec often = {{0, 5000000}, {0, 5000000}}, late = {{0, 0}, {3600, 0}};
    struct sigaction action = {.sa_sigaction = count_expiration, .sa_flags = SA_SIGINFO | SA_RESTART};
    event.sigev_value.sival_int = 77;
    must(!sigaction(SIGRTMIN + 1, &action, NULL), "sigaction");
    must(!timer_create(CLOCK_MONOTONIC, &event, &posix_timer), "timer_create");
    must(!timer_create(CLOCK_REALTIME, &event, &long_posix_timer), "timer_create");
    must(!timer_settime(posix_timer, 0, &often, NULL), "timer_settime");
    must(!timer_settime(long_posix_timer, 0, &late, NULL), "timer_settime");
}

static void check_posix_timer(void)
{
    struct itimerspec left;
    int seen = expirations;
    expiration_value = 0;
    pause_ms(50);
    EXPECT(expirations > seen);
    EXPECT(expiration_value == 77);
    EXPECT(!timer_gettime(long_posix_timer, &left) && left.it_value.tv_sec > 3500 && left.it_value.tv_sec <= 3600);
}

/* --- locks --- */

static int flocked, recorded, described, leased;

static int opened(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    must(fd >= 0, path);
    return fd;
}

static void have_flock(void)
{
    flocked = opened("/flocked");
    must(!flock(flocked, LOCK_EX), "flock");
}

static void check_flock(void)
{
    int again = open("/flocked", O_RDWR);
    EXPECT(flock(again, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK);
    EXPECT(!flock(flocked, LOCK_UN) && !flock(again, LOCK_EX | LOCK_NB));
    close(again);
}

static void have_fcntl_lock(void)
{
    struct flock part = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    recorded = opened("/recorded");
    must(!fcntl(recorded, F_SETLK, &part), "F_SETLK");
}

static void check_fcntl_lock(void)
{
    int status = -1;
    pid_t child = fork();
    if (!child) {
        struct flock all = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        int bad = fcntl(recorded, F_GETLK, &all) || all.l_type != F_WRLCK || all.l_start != 10 ||
                  all.l_len != 5 || all.l_pid != getppid();
        _exit(bad);
    }
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
}

static void have_ofd_lock(void)
{
    struct flock part = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 4};
    described = opened("/described");
    must(!fcntl(described, F_OFD_SETLK, &part), "F_OFD_SETLK");
}

static void check_ofd_lock(void)
{
    struct flock all = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int again = open("/described", O_RDWR);
    EXPECT(!fcntl(again, F_OFD_GETLK, &all) && all.l_type == F_WRLCK && all.l_start == 3 && all.l_len == 4);
    close(again);
}

static void have_lease(void)
{
    leased = opened("/leased");
    must(!fcntl(leased, F_SETLEASE, F_WRLCK), "F_SETLEASE");
}

static void check_lease(void)
{
    EXPECT(fcntl(leased, F_GETLEASE) == F_WRLCK);
}

/* --- signals --- */

static void *wait_for_ever(void *unused)
{
    (void)unused;
    for (;;)
        pause_ms(1000);
    return NULL;
}

static pthread_t pending_thread;
static volatile int thread_got = -1;

static void *pend(void *unused)
{
    sigset_t set;
    siginfo_t info;
    (void)unused;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 4);
    while (access("/check", F_OK))
        pause_ms(5);
    thread_got = sigtimedwait(&set, &info, &(struct timespec){0, 0}) == SIGRTMIN + 4 ? info.si_value.sival_int : 0;
    return wait_for_ever(NULL);
}

/* One plain, three with values in their order, one for a single thread. */
static void have_pending_signals(void)
{
    must(!kill(getpid(), SIGUSR2), "kill");
    for (int i = 1; i <= 3; i++)
        must(!sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = i * 11}), "sigqueue");
    must(!pthread_create(&pending_thread, NULL, pend, NULL), "pthread_create");
    must(!pthread_sigqueue(pending_thread, SIGRTMIN + 4, (union sigval){.sival_int = 55}), "pthread_sigqueue");
}

static void check_pending_signals(void)
{
    struct timespec now = {0, 0};
    siginfo_t info;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    EXPECT(sigtimedwait(&set, &info, &now) == SIGUSR2 && info.si_pid == getpid());
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    for (int i = 1; i <= 3; i++)
        EXPECT(sigtimedwait(&set, &info, &now) == SIGRTMIN + 3 && info.si_value.sival_int == i * 11);
    EXPECT(sigtimedwait(&set, &info, &now) == -1);
    for (int i = 0; i < 400 && thread_got < 0; i++)
        pause_ms(5);
    EXPECT(thread_got == 55);
}

static int signal_fd;

static void have_signalfd(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    signal_fd = signalfd(-1, &set, SFD_NONBLOCK);
    must(signal_fd >= 0 && !kill(getpid(), SIGURG), "signalfd");
}

static void check_signalfd(void)
{
    struct signalfd_siginfo info;
    EXPECT(read(signal_fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGURG);
}

/* --- sockets --- */

static int stream[2], datagram[2], packets[2], listening, waiting, carrying[2];

static struct sockaddr_un named(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return address;
}

/* A listener with a connection that is not accepted yet. */
static void have_unix_sockets(void)
{
    struct sockaddr_un address = named("/listening");
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, stream), "socketpair");
    must(!socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram), "socketpair");
    must(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets), "socketpair");
    must(write(stream[0], "one way", 7) == 7 && write(stream[1], "other way", 9) == 9, "stream");
    must(write(datagram[0], "first", 5) == 5 && write(datagram[0], "second", 6) == 6, "datagram");
    must(write(packets[0], "packet", 6) == 6, "packets");
    listening = socket(AF_UNIX, SOCK_STREAM, 0);
    must(!bind(listening, (void *)&address, sizeof address) && !listen(listening, 4), "listen");
    waiting = socket(AF_UNIX, SOCK_STREAM, 0);
    must(!connect(waiting, (void *)&address, sizeof address), "connect");
    }

static void check_unix_sockets(void)
{
    EXPECT(holds(stream[1], "one way") && holds(stream[0], "other way"));
    EXPECT(holds(datagram[1], "first") && holds(datagram[1], "second"));
    EXPECT(holds(packets[1], "packet"));
    EXPECT(write(packets[1], "back", 4) == 4 && holds(packets[0], "back"));
    int taken = accept(listening, NULL, NULL);
    EXPECT(taken >= 0);
    EXPECT(write(taken, "hello", 5) == 5 && holds(waiting, "hello"));
}

static void have_early_words(void)
{
    have_unix_sockets();
    must(write(waiting, "before you took me", 18) == 18, "write");
}

static void have_passed_descriptors(void)
{
    char space[CMSG_SPACE(sizeof(int))], byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd = opened("/passed");
    must(write(fd, "passed", 6) == 6, "write");
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, carrying), "socketpair");
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    must(sendmsg(carrying[0], &message, 0) == 1, "sendmsg");
    close(fd);
}

static void check_passed_descriptors(void)
{
    char space[CMSG_SPACE(sizeof(int))], byte, text[8] = "";
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd = -1;
    EXPECT(recvmsg(carrying[1], &message, 0) == 1 && message.msg_controllen >= CMSG_LEN(sizeof fd));
    if (!wrong[0])
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    EXPECT(pread(fd, text, 6, 0) == 6 && !strcmp(text, "passed"));
}

static int udp[2], tcp_listening, tcp[2], closing[2];

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static void have_udp(void)
{
    struct sockaddr_in here = loopback(5001), there = loopback(5002);
    int on = 1;
    udp[0] = socket(AF_INET, SOCK_DGRAM, 0), udp[1] = socket(AF_INET, SOCK_DGRAM, 0);
    must(!bind(udp[0], (void *)&here, sizeof here) && !bind(udp[1], (void *)&there, sizeof there), "bind");
    must(!connect(udp[0], (void *)&there, sizeof there), "connect");
    must(!setsockopt(udp[1], SOL_SOCKET, SO_BROADCAST, &on, sizeof on), "SO_BROADCAST");
}

static void have_message_queue(void)
{
    must(mq_open("/queue", O_RDWR | O_CREAT, 0600, NULL) >= 0, "mq_open");
}

static void check_udp(void)
{
    struct sockaddr_in from = {0};
    socklen_t size = sizeof from;
    int on = 0;
    char text[16];
    EXPECT(send(udp[0], "hello", 5, 0) == 5);
    EXPECT(recvfrom(udp[1], text, 16, 0, (void *)&from, &size) == 5 && ntohs(from.sin_port) == 5001);
    size = sizeof on;
    EXPECT(!getsockopt(udp[1], SOL_SOCKET, SO_BROADCAST, &on, &size) && on);
}

static void connected(int port, int *ends)
{
    struct sockaddr_in address = loopback(port);
    int on = 1, door = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    must(!bind(door, (void *)&address, sizeof address) && !listen(door, 4), "listen");
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    must(!connect(ends[0], (void *)&address, sizeof address), "connect");
    ends[1] = accept(door, NULL, NULL);
    must(ends[1] >= 0, "accept");
    tcp_listening = door;
}

/* One with data on its way in both directions, one that is half closed. */
static void have_tcp(void)
{
    int on = 1;
    connected(5003, tcp);
    must(write(tcp[0], "from the client", 15) == 15 && write(tcp[1], "from the server", 15) == 15, "tcp");
    must(!setsockopt(tcp[0], IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on), "TCP_NODELAY");
    connected(5004, closing);
    must(write(closing[0], "last words", 10) == 10 && !shutdown(closing[0], SHUT_WR), "shutdown");
}

static void check_tcp(void)
{
    char byte;
    int on = 0;
    socklen_t size = sizeof on;
    EXPECT(holds(tcp[1], "from the client") && holds(tcp[0], "from the server"));
    EXPECT(write(tcp[0], "again", 5) == 5 && holds(tcp[1], "again"));
    EXPECT(!getsockopt(tcp[0], IPPROTO_TCP, 1, &on, &size) && on);
    EXPECT(holds(closing[1], "last words") && read(closing[1], &byte, 1) == 0);
    EXPECT(write(closing[1], "heard", 5) == 5 && holds(closing[0], "heard"));
    struct sockaddr_in address = loopback(5004);
    int late = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(!connect(late, (void *)&address, sizeof address) && accept(tcp_listening, NULL, NULL) >= 0);
}

/* --- descriptors --- */

static int pipe_ends[2], fifo, event_fd, epoll, notifying, deleted, directory;

static void have_pipes(void)
{
    char block[5000];
    memset(block, 'p', sizeof block);
    must(!pipe2(pipe_ends, O_NONBLOCK) && fcntl(pipe_ends[0], F_SETPIPE_SZ, 1 << 18) > 0, "pipe");
    must(write(pipe_ends[1], block, sizeof block) == sizeof block, "pipe");
    must(!mkfifo("/fifo", 0600), "mkfifo");
    fifo = open("/fifo", O_RDWR | O_NONBLOCK);
    must(fifo >= 0 && write(fifo, "in the fifo", 11) == 11, "fifo");
}

static void check_pipes(void)
{
    char block[6000];
    ssize_t got = read(pipe_ends[0], block, sizeof block);
    EXPECT(got == 5000 && block[0] == 'p' && block[4999] == 'p');
    EXPECT(read(pipe_ends[0], block, 1) == -1 && errno == EAGAIN);
    EXPECT(fcntl(pipe_ends[0], F_GETPIPE_SZ) == 1 << 18);
    EXPECT(holds(fifo, "in the fifo"));
}

static void have_event_descriptors(void)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 0x1234567890};
    event_fd = eventfd(42, EFD_NONBLOCK), epoll = epoll_create1(0);
    must(event_fd >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, event_fd, &event), "epoll");
}

static void check_event_descriptors(void)
{
    struct epoll_event event;
    unsigned long value = 0, one = 1;
    EXPECT(read(event_fd, &value, 8) == 8 && value == 42);
    EXPECT(write(event_fd, &one, 8) == 8 && epoll_wait(epoll, &event, 1, 1000) == 1);
    EXPECT(event.data.u64 == 0x1234567890);
}

static void have_semaphore(void)
{
    must(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK) >= 0, "eventfd");
}

static void check_nothing(void)
{
}

static void have_inotify(void)
{
    must(!mkdir("/watched", 0755), "mkdir");
    notifying = inotify_init1(IN_NONBLOCK);
    must(notifying >= 0 && inotify_add_watch(notifying, "/watched", IN_CREATE) > 0, "inotify");
}

static void check_inotify(void)
{
    char text[300];
    EXPECT(read(notifying, text, sizeof text) == -1 && errno == EAGAIN);
    close(open("/watched/new", O_CREAT | O_WRONLY, 0644));
    ssize_t got = read(notifying, text, sizeof text);
    EXPECT(got > 0 && !strcmp(((struct inotify_event *)text)->name, "new"));
}

static void have_deleted_files(void)
{
    deleted = opened("/deleted");
    must(write(deleted, "nobody finds me", 15) == 15 && !unlink("/deleted"), "deleted");
    must(lseek(deleted, 7, SEEK_SET) == 7, "lseek");
    must(!mkdir("/gone", 0755), "mkdir");
    directory = open("/gone", O_RDONLY | O_DIRECTORY);
    must(directory >= 0 && !rmdir("/gone"), "rmdir");
}

static void check_deleted_files(void)
{
    struct stat status;
    EXPECT(holds(deleted, "finds me"));
    EXPECT(!fstat(deleted, &status) && status.st_nlink == 0 && status.st_size == 15);
    EXPECT(!fstat(directory, &status) && S_ISDIR(status.st_mode));
}

/* --- memory and IPC --- */

static volatile int *anonymous, *mapped_file, *segment, *in_shm, *in_memfd;
static int segment_id, semaphore_id, queue_id, memfd;

static void have_shared_memory(void)
{
    int fd = open("/dev/shm/shared", O_RDWR | O_CREAT, 0600), file = opened("/mapped");
    memfd = memfd_create("belonging", MFD_ALLOW_SEALING);
    must(fd >= 0 && !ftruncate(fd, 8192) && !ftruncate(file, 8192) && !ftruncate(memfd, 8192), "ftruncate");
    anonymous = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    in_shm = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mapped_file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    in_memfd = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    must(!fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), "F_ADD_SEALS");
    anonymous[1025] = 1, in_shm[1025] = 2, mapped_file[1025] = 3, in_memfd[1025] = 4;
    close(fd);
    if (!fork())
        for (;;) {
            ++anonymous[0], ++in_shm[0], ++mapped_file[0], ++in_memfd[0];
            pause_ms(1);
        }
}

static void check_shared_memory(void)
{
    int seen[4] = {anonymous[0], in_shm[0], mapped_file[0], in_memfd[0]};
    pause_ms(200);
    EXPECT(anonymous[1025] == 1 && in_shm[1025] == 2 && mapped_file[1025] == 3 && in_memfd[1025] == 4);
    EXPECT(anonymous[0] > seen[0] && in_shm[0] > seen[1]);
    EXPECT(mapped_file[0] > seen[2] && in_memfd[0] > seen[3]);
    EXPECT(fcntl(memfd, F_GET_SEALS) == F_SEAL_SHRINK);
}

static void have_system_v(void)
{
    struct { long kind; char text[8]; } message = {5, "queued"};
    segment_id = shmget(0x51, 4096, IPC_CREAT | 0600);
    semaphore_id = semget(0x52, 2, IPC_CREAT | 0600);
    queue_id = msgget(0x53, IPC_CREAT | 0600);
    segment = shmat(segment_id, NULL, 0);
    must(segment != (void *)-1 && semaphore_id >= 0 && queue_id >= 0, "System V");
    segment[3] = 33;
    must(!semctl(semaphore_id, 1, SETVAL, 9) && !msgsnd(queue_id, &message, 8, 0), "System V");
}

static void check_system_v(void)
{
    struct { long kind; char text[8]; } message = {0, ""};
    EXPECT(segment[3] == 33 && shmget(0x51, 4096, 0) == segment_id);
    EXPECT(semget(0x52, 2, 0) == semaphore_id && semctl(semaphore_id, 1, GETVAL) == 9);
    EXPECT(msgrcv(queue_id, &message, 8, 0, IPC_NOWAIT) == 8 && message.kind == 5 && !strcmp(message.text, "queued"));
}

/* --- processes --- */

static pid_t zombie, stopped, leader, follower;
static volatile pid_t *numbers;

static void have_processes(void)
{
    int status;
    numbers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!(zombie = fork()))
        _exit(7);
    if (!(stopped = fork()))
        wait_for_ever(NULL);
    if (!(leader = fork())) {
        setsid();
        pid_t child = fork();
        if (!child) {
            setpgid(0, 0);
            wait_for_ever(NULL);
        }
        numbers[0] = child;
        wait_for_ever(NULL);
    }
    while (!numbers[0] || getpgid(numbers[0]) != numbers[0])
        pause_ms(1);
    follower = numbers[0];
    kill(stopped, SIGSTOP);
    must(waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status), "waitpid");
    siginfo_t info;
    must(!waitid(P_PID, zombie, &info, WEXITED | WNOWAIT), "waitid");
}

static char state_of(pid_t pid)
{
    char path[40], text[300] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 0)
        return '?';
    close(fd);
    char *end = strrchr(text, ')');
    return end ? end[2] : '?';
}

static void check_processes(void)
{
    int status = 0;
    if (state_of(stopped) != 'T')
        fail("the stopped process is in state %c", state_of(stopped));
    EXPECT(getsid(leader) == leader && getsid(follower) == leader && getpgid(follower) == follower);
    EXPECT(waitpid(zombie, &status, WNOHANG) == zombie && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    EXPECT(!kill(stopped, SIGCONT));
    for (int i = 0; i < 200 && state_of(stopped) == 'T'; i++)
        pause_ms(5);
    EXPECT(state_of(stopped) != 'T');
}

static pthread_t threads[3];
static volatile unsigned long turns[3];

static void *turn(void *which)
{
    long number = (long)which;
    char name[16];
    snprintf(name, sizeof name, "turner-%ld", number);
    prctl(PR_SET_NAME, name);
    setpriority(PRIO_PROCESS, 0, 3 + number);
    for (;;) {
        turns[number]++;
        pause_ms(1);
    }
    return NULL;
}

static void have_threads(void)
{
    for (long i = 0; i < 3; i++)
        must(!pthread_create(&threads[i], NULL, turn, (void *)i), "pthread_create");
    while (!turns[0] || !turns[1] || !turns[2])
        pause_ms(1);
}

static void check_threads(void)
{
    char name[16];
    for (int i = 0; i < 3; i++) {
        unsigned long seen = turns[i];
        for (int n = 0; n < 400 && turns[i] == seen; n++)
            pause_ms(5);
        EXPECT(turns[i] > seen);
        EXPECT(!pthread_getname_np(threads[i], name, sizeof name) && !strncmp(name, "turner-", 7) && name[7] == '0' + i);
    }
}

static void have_attributes(void)
{
    struct rlimit files = {300, 400};
    must(!setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
    must(!prctl(PR_SET_CHILD_SUBREAPER, 1) && !prctl(PR_SET_NAME, "renamed"), "prctl");
    must(!setpriority(PRIO_PROCESS, 0, 2), "setpriority");
    must(!chdir("/tmp"), "chdir");
    umask(027);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    must(write(fd, "345", 3) == 3, "oom_score_adj");
    close(fd);
}

static void check_attributes(void)
{
    struct rlimit files;
    char text[16] = "", place[32] = "";
    int on = 0;
    EXPECT(!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur == 300 && files.rlim_max == 400);
    EXPECT(!prctl(PR_GET_CHILD_SUBREAPER, &on) && on == 1);
    EXPECT(!prctl(PR_GET_NAME, text) && !strcmp(text, "renamed"));
    EXPECT(getpriority(PRIO_PROCESS, 0) == 2);
    EXPECT(getcwd(place, sizeof place) && !strcmp(place, "/tmp"));
    EXPECT(umask(0) == 027);
    int fd = open("/proc/self/oom_score_adj", O_RDONLY);
    EXPECT(holds(fd, "345\n"));
    close(fd);
}

static void have_affinity(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(1, &set);
    must(!sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

static void check_affinity(void)
{
    cpu_set_t set;
    EXPECT(!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) == 1 && CPU_ISSET(1, &set));
}

static void have_io_priority(void)
{
    must(!syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6), "ioprio_set");
}

static void check_io_priority(void)
{
    EXPECT(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6));
}

static void have_timer_slack(void)
{
    must(!prctl(PR_SET_TIMERSLACK, 70000), "prctl");
}

static void check_timer_slack(void)
{
    EXPECT(prctl(PR_GET_TIMERSLACK) == 70000);
}

static const struct {
    const char *name;
    void (*have)(void);
    void (*check)(void);
} belongings[] = {
    {"threads", have_threads, check_threads},
    {"processes", have_processes, check_processes},
    {"attributes", have_attributes, check_attributes},
    {"affinity", have_affinity, check_affinity},
    {"io-priority", have_io_priority, check_io_priority},
    {"timer-slack", have_timer_slack, check_timer_slack},
    {"timerfd", have_timerfd, check_timerfd},
    {"itimer", have_itimer, check_itimer},
    {"posix-timer", have_posix_timer, check_posix_timer},
    {"flock", have_flock, check_flock},
    {"fcntl-lock", have_fcntl_lock, check_fcntl_lock},
    {"ofd-lock", have_ofd_lock, check_ofd_lock},
    {"pending-signals", have_pending_signals, check_pending_signals},
    {"signalfd", have_signalfd, check_signalfd},
    {"unix-sockets", have_unix_sockets, check_unix_sockets},
    {"passed-descriptors", have_passed_descriptors, check_passed_descriptors},
    {"udp", have_udp, check_udp},
    {"tcp", have_tcp, check_tcp},
    {"pipes", have_pipes, check_pipes},
    {"event-descriptors", have_event_descriptors, check_event_descriptors},
    {"inotify", have_inotify, check_inotify},
    {"deleted-files", have_deleted_files, check_deleted_files},
    {"shared-memory", have_shared_memory, check_shared_memory},
    {"system-v", have_system_v, check_system_v},
    {"clocks", have_clocks, check_clocks},
    {"lease", have_lease, check_lease},
    {"message-queue", have_message_queue, check_nothing},
    {"semaphore", have_semaphore, check_nothing},
    {"early-words", have_early_words, check_nothing},
};

enum { COUNT = sizeof belongings / sizeof *belongings };

static int is_wanted(const char *name, int argc, char **argv)
{
    static const char *const others[] = {"lease", "semaphore", "early-words", "message-queue"};
    int found = argc < 2;
    for (int i = 0; i < 4; i++)
        found &= !!strcmp(name, others[i]);
    for (int i = 1; i < argc; i++)
        found |= !strcmp(name, argv[i]);
    return found;
}

/* Before there is a second thread: one that does not block them would take them. */
static void block_signals(void)
{
    int blocked[] = {SIGUSR2, SIGURG, SIGRTMIN + 3, SIGRTMIN + 4};
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < 4; i++)
        sigaddset(&set, blocked[i]);
    must(!sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
}

int main(int argc, char **argv)
{
    block_signals();
    for (int i = 0; i < COUNT; i++)
        if (is_wanted(belongings[i].name, argc, argv))
            belongings[i].have();
    close(open("/ready", O_CREAT | O_WRONLY, 0644));
    while (access("/check", F_OK))
        pause_ms(5);
    FILE *verdict = fopen("/verdict~", "w");
    for (int i = 0; i < COUNT; i++)
        if (is_wanted(belongings[i].name, argc, argv)) {
            wrong[0] = 0;
            belongings[i].check();
            fprintf(verdict, "%s %s\n", belongings[i].name, wrong[0] ? wrong : "ok");
        }
    fclose(verdict);
    rename("/verdict~", "/verdict");
    wait_for_ever(NULL);
}
