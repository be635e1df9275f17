/* What runs in containers under test: a heartbeat that measures how long it stood still.
 *
 *   payload [--status FILE] [--log FILE] [--memory MIB] [--mix mixed|random]
 *           [--dirty PAGES] [--port PORT]
 *
 * Each millisecond it counts one tick, and notes the largest gap between two ticks by the
 * wall clock: that gap is the downtime as the container itself sees it. Beside that:
 *
 *   --status  a file of one line, rewritten in place every 20 ticks and after each gap
 *   --log     a file that gets one line more every 10 ticks, numbered from 1
 *   --memory  fills so much memory with a pattern that can be computed again
 *   --mix     mixed: of 4 pages one is zeros, two compress about 4:1, one is random;
 *             random: all are random
 *   --dirty   touches so many pages at each tick
 *   --port    a TCP server: every connection gets the number of each tick since it was
 *             accepted, one line a tick, none left out
 *
 * SIGUSR1 forgets the largest gap; SIGUSR2 computes the pattern again and compares.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE_WORDS = 4096 / 8,
    TOUCHED_WORD = 1, /* the one word of a page that --dirty writes, left out of the check */
    LINE_BYTES = 13,  /* twelve digits and a newline */
    CONNECTIONS = 8,
    WARM_UP_TICKS = 50,
};

struct connection {
    int fd;
    uint64_t next; /* the first tick that is not in the buffer yet */
    size_t used;
    char buffer[LINE_BYTES * 4096];
};

static volatile sig_atomic_t forget_gap, verify_memory;
static uint64_t *memory;
static size_t pages;
static int all_random;
static uint64_t ticks, largest_gap_us;
static const char *verdict = "none";
static struct connection connections[CONNECTIONS];

static void on_signal(int number)
{
    if (number == SIGUSR1)
        forget_gap = 1;
    else
        verify_memory = 1;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* The word at `index` of a page whose generator is in `state`. */
static uint64_t pattern_word(size_t page, size_t index, uint64_t *state)
{
    if (all_random || page % 4 == 3)
        return next_random(state);
    if (page % 4 == 0)
        return 0;
    return index % 4 ? 0x2065746172676d69ull + index % 8 : next_random(state);
}

static uint64_t seed(size_t page)
{
    return 88172645463325252ull ^ (page * 0x9e3779b97f4a7c15ull + 1);
}

static void fill_memory(size_t mib)
{
    pages = mib << 8;
    memory = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    madvise(memory, pages << 12, MADV_NOHUGEPAGE); /* so that --dirty dirties one page a touch */
    for (size_t page = 0; page < pages; page++) {
        uint64_t state = seed(page);
        for (size_t i = 0; i < PAGE_WORDS; i++)
            memory[page * PAGE_WORDS + i] = pattern_word(page, i, &state);
    }
}

static const char *check_memory(void)
{
    for (size_t page = 0; page < pages; page++) {
        uint64_t state = seed(page);
        for (size_t i = 0; i < PAGE_WORDS; i++) {
            uint64_t expected = pattern_word(page, i, &state);
            if (memory[page * PAGE_WORDS + i] != expected && i != TOUCHED_WORD)
                return "damaged";
        }
    }
    return "intact";
}

static void write_status(int fd)
{
    char line[128];
    int length = snprintf(line, sizeof line, "ticks=%012llu largest_gap_us=%09llu memory=%-8s\n",
                          (unsigned long long)ticks, (unsigned long long)largest_gap_us, verdict);
    if (fd >= 0 && pwrite(fd, line, length, 0) != length)
        die("status");
}

static void append_log(int fd)
{
    char line[32];
    int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)ticks / 10);
    if (write(fd, line, length) != length)
        die("log");
}

static int listen_on(int port)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, CONNECTIONS))
        die("listen");
    return fd;
}

static void accept_connection(int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0)
        return;
    for (int i = 0; i < CONNECTIONS; i++) {
        if (connections[i].fd >= 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[i].fd = fd;
        connections[i].next = ticks;
        connections[i].used = 0;
        return;
    }
    close(fd);
}

/* Send what there is; what the peer does not take yet waits, no tick is left out. */
static void feed(struct connection *c)
{
    char line[LINE_BYTES + 1];
    while (c->next <= ticks && c->used + LINE_BYTES <= sizeof c->buffer) {
        snprintf(line, sizeof line, "%012llu\n", (unsigned long long)c->next++);
        memcpy(c->buffer + c->used, line, LINE_BYTES);
        c->used += LINE_BYTES;
    }
    ssize_t sent = send(c->fd, c->buffer, c->used, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) {
            close(c->fd);
            c->fd = -1;
        }
        return;
    }
    c->used -= sent;
    memmove(c->buffer, c->buffer + sent, c->used);
}

int main(int argc, char **argv)
{
    const char *status_path = NULL, *log_path = NULL;
    size_t mib = 0;
    int dirty = 0, port = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--status")) status_path = argv[i + 1];
        else if (!strcmp(argv[i], "--log")) log_path = argv[i + 1];
        else if (!strcmp(argv[i], "--memory")) mib = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--mix")) all_random = !strcmp(argv[i + 1], "random");
        else if (!strcmp(argv[i], "--dirty")) dirty = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else return 2;
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    for (int i = 0; i < CONNECTIONS; i++)
        connections[i].fd = -1;
    int listener = port ? listen_on(port) : -1;
    if (mib)
        fill_memory(mib);
    int status = status_path ? open(status_path, O_RDWR | O_CREAT | O_TRUNC, 0644) : -1;
    int log = log_path ? open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if ((status_path && status < 0) || (log_path && log < 0))
        die("open");

    uint64_t state = 42, last = now_us(), measure_from = WARM_UP_TICKS;
    for (;;) {
        struct timespec tick = {0, 1000000};
        nanosleep(&tick, NULL);
        if (forget_gap) { /* before the gap in which the signal came is looked at */
            forget_gap = 0;
            largest_gap_us = 0;
        }
        uint64_t time = now_us(), gap = time - last;
        last = time;
        ticks++;
        int gap_grew = ticks > measure_from && gap > largest_gap_us;
        if (gap_grew)
            largest_gap_us = gap;
        for (int i = 0; i < dirty && pages; i++)
            memory[next_random(&state) % pages * PAGE_WORDS + TOUCHED_WORD] = time;
        if (listener >= 0)
            accept_connection(listener);
        for (int i = 0; i < CONNECTIONS; i++)
            if (connections[i].fd >= 0)
                feed(&connections[i]);
        if (log >= 0 && ticks % 10 == 0)
            append_log(log);
        if (verify_memory) {
            verify_memory = 0;
            verdict = check_memory();
            write_status(status);
            last = now_us(); /* the check is no downtime */
        }
        if (ticks % 20 == 0 || (gap_grew && gap > 5000))
            write_status(status);
    }
}
