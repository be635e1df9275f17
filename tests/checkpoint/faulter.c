/* A process whose memory somebody else fills, as one that CRIU restores.
 *
 *   faulter SOCKET NUMBER PAGES
 *
 * maps so many pages, registers them with a userfaultfd, sends that over the socket by
 * CRIU's protocol under the number, and does what it is told by lines of standard input.
 * Each is answered by one line. Pages are counted from the first; they keep their number
 * wherever they are moved, and what is expected in each is known here:
 * the number plus one in every word, but zeros in each sixteenth.
 *
 *   where                    the address of page 0
 *   check FIRST COUNT        compare
 *   give FIRST COUNT         madvise(MADV_DONTNEED): zeros are expected
 *   move FIRST COUNT         mremap(2) to another place
 *   unmap FIRST COUNT        munmap(2): not expected anywhere any more
 *   protect FIRST COUNT      mprotect(2) to read-only and back, which parts mappings
 *   fork FIRST COUNT         fork(2); both compare
 *   leave FIRST COUNT        fork(2); the child compares when it is asked by
 *   left
 *   churn SEED STEPS         any of these at random, many times, then compare everything
 *   race SEED STEPS          the same, with threads that touch everything meanwhile
 *   alone SEED STEPS         the same without fork(2)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, READERS = 2 };

static size_t pages;
static char **place;     /* where each page is, NULL if it is unmapped */
static uint64_t *wanted; /* what is in each of its words */
static volatile int stop;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int is_right(size_t page)
{
    volatile uint64_t *words = (uint64_t *)place[page];
    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != wanted[page])
            return 0;
    return 1;
}

/* -1, or the first page that is wrong. */
static long check(size_t first, size_t count)
{
    for (size_t page = first; page < first + count; page++)
        if (place[page] && !is_right(page))
            return (long)page;
    return -1;
}

/* How many pages from `first` on follow each other in memory, at most `count`. */
static size_t together(size_t first, size_t count)
{
    size_t n = 0;
    while (n < count && first + n < pages && place[first + n] &&
           place[first + n] == place[first] + n * PAGE)
        n++;
    return n;
}

static void give(size_t first, size_t count)
{
    for (size_t n; count && (n = together(first, count)); first += n, count -= n) {
        for (size_t i = first; i < first + n; i++)
            wanted[i] = 0;
        if (madvise(place[first], n * PAGE, MADV_DONTNEED))
            die("madvise");
    }
}

static void move(size_t first, size_t count)
{
    for (size_t n; count && (n = together(first, count)); first += n, count -= n) {
        char *free = mmap(NULL, n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *to = mremap(place[first], n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, free);
        if (to == MAP_FAILED && n > 1) { /* more than one mapping: page by page */
            n = 1;
            to = mremap(place[first], PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, free);
        }
        if (to == MAP_FAILED)
            die("mremap");
        for (size_t i = 0; i < n; i++)
            place[first + i] = to + i * PAGE;
    }
}

static void unmap(size_t first, size_t count)
{
    for (size_t n; count && (n = together(first, count)); first += n, count -= n) {
        if (munmap(place[first], n * PAGE))
            die("munmap");
        memset(&place[first], 0, n * sizeof *place);
    }
}

static void protect(size_t first, size_t count, int protection)
{
    for (size_t n; count && (n = together(first, count)); first += n, count -= n)
        if (mprotect(place[first], n * PAGE, protection))
            die("mprotect");
}

static long fork_and_check(size_t first, size_t count)
{
    int status;
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (!child)
        _exit(check(first, count) >= 0);
    waitpid(child, &status, 0);
    return status ? (long)first : check(first, count);
}

static pid_t left;
static int left_pipe[2];

static void leave(size_t first, size_t count)
{
    char told;
    if (pipe(left_pipe))
        die("pipe");
    left = fork();
    if (left < 0)
        die("fork");
    if (!left) {
        close(left_pipe[1]);
        if (read(left_pipe[0], &told, 1))
            _exit(1);
        _exit(check(first, count) >= 0);
    }
    close(left_pipe[0]);
}

static long ask_left(void)
{
    int status;
    close(left_pipe[1]);
    waitpid(left, &status, 0);
    return status ? 0 : -1;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Touches pages that stay where they are: the first quarter. */
static void *reader(void *argument)
{
    uint64_t state = (uintptr_t)argument * 2654435761u + 1;
    while (!stop) {
        size_t page = next_random(&state) % (pages / 4);
        if (!is_right(page))
            return (void *)(page + 1);
    }
    return NULL;
}

static long churn(uint64_t seed, long steps, size_t begin, int forks)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
    long wrong = -1;
    while (steps-- && wrong < 0) {
        size_t first = begin + next_random(&state) % (pages - begin);
        size_t count = 1 + next_random(&state) % 200;
        if (count > pages - first)
            count = pages - first;
        switch (next_random(&state) % 16) {
        case 0 ... 2: give(first, count / 8 + 1); break;
        case 3 ... 5: move(first, count); break;
        case 6: unmap(first, count / 16 + 1); break;
        case 7 ... 8: protect(first, count, PROT_READ); break;
        case 9: protect(first, count, PROT_READ | PROT_WRITE); break;
        case 10: wrong = forks ? fork_and_check(first, count) : check(first, count); break;
        default: wrong = check(first, count / 8 + 1);
        }
    }
    return wrong;
}

static long race(uint64_t seed, long steps, int forks)
{
    pthread_t readers[READERS];
    void *found;
    long wrong;
    for (uintptr_t i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, reader, (void *)(seed * READERS + i));
    wrong = churn(seed, steps, pages / 4, forks);
    stop = 1;
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i], &found);
        if (found)
            wrong = (long)found - 1;
    }
    stop = 0;
    return wrong >= 0 ? wrong : check(0, pages);
}

static int open_userfaultfd(void)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                         UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP};
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
        die("userfaultfd");
    return fd;
}

static void send_descriptor(const char *path, int number, int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char control[CMSG_SPACE(sizeof fd)] = {0}, dummy = 0;
    struct iovec vector = {&dummy, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) ||
        send(connection, &number, sizeof number, 0) != sizeof number ||
        sendmsg(connection, &message, 0) != 1)
        die(path);
    close(connection);
    close(fd);
}

static void obey(const char *line)
{
    char word[16];
    unsigned long first = 0, count = 0;
    long wrong = -1;
    sscanf(line, "%15s %lu %lu", word, &first, &count);
    if (!strcmp(word, "where"))
        printf("%lu\n", (unsigned long)place[0]);
    else {
        if (!strcmp(word, "check"))
            wrong = check(first, count);
        else if (!strcmp(word, "give"))
            give(first, count);
        else if (!strcmp(word, "move"))
            move(first, count);
        else if (!strcmp(word, "unmap"))
            unmap(first, count);
        else if (!strcmp(word, "protect")) {
            protect(first, count, PROT_READ);
            protect(first, count / 2, PROT_READ | PROT_WRITE);
        } else if (!strcmp(word, "fork"))
            wrong = fork_and_check(first, count);
        else if (!strcmp(word, "leave"))
            leave(first, count);
        else if (!strcmp(word, "left"))
            wrong = ask_left();
        else if (!strcmp(word, "churn"))
            wrong = churn(first, (long)count, 0, 1);
        else if (!strcmp(word, "race"))
            wrong = race(first, (long)count, 1);
        else if (!strcmp(word, "alone"))
            wrong = race(first, (long)count, 0);
        else
            die(word);
        if (wrong < 0)
            printf("right\n");
        else
            printf("wrong %ld: %lu, not %lu\n", wrong, *(unsigned long *)place[wrong],
                   (unsigned long)wanted[wrong]);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[64];
    if (argc != 4)
        return 2;
    pages = strtoul(argv[3], NULL, 10);
    place = calloc(pages, sizeof *place);
    wanted = calloc(pages, sizeof *wanted);
    char *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!place || !wanted || base == MAP_FAILED)
        die("mmap");
    for (size_t page = 0; page < pages; page++) {
        place[page] = base + page * PAGE;
        wanted[page] = page % 16 == 15 ? 0 : page + 1;
    }
    int fd = open_userfaultfd();
    struct uffdio_register registered = {.range = {(unsigned long)base, pages * PAGE},
                                         .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(fd, UFFDIO_REGISTER, &registered))
        die("register");
    send_descriptor(argv[1], atoi(argv[2]), fd);
    while (fgets(line, sizeof line, stdin))
        obey(line);
    return 0;
}
