/* A process whose memory changes in any way it is told, by lines of standard input.
 *
 *   map ADDRESS PAGES PROT FLAGS   mmap(2), private and anonymous; at ADDRESS if not 0
 *   unmap ADDRESS PAGES
 *   store ADDRESS PAGES SEED       a word of each page
 *   clear ADDRESS PAGES            zeros, written
 *   look ADDRESS PAGES             reads a word of each
 *   read ADDRESS PAGES             read(2) into it
 *   other ADDRESS PAGES SEED       a child writes it by process_vm_writev(2)
 *   advise ADDRESS PAGES ADVICE    madvise(2)
 *   protect ADDRESS PAGES PROT     mprotect(2)
 *   move ADDRESS PAGES NEW         mremap(2) to another place and size
 *   brk PAGES SEED                 more heap, written
 *   stack PAGES SEED               deeper into the stack, written
 *   fork ADDRESS PAGES SEED        the child writes there, and waits for its end
 *   nest ADDRESS PAGES SEED        so does a child of the child; the child has ended
 *   reap PID                       kill(2) and wait(2)
 *   busy ADDRESS PAGES COUNT       so many threads write there from now on
 *   exec                           execve(2) of itself
 *
 * Each is answered by one line: an address or a pid, or 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static void must(int claim, const char *what)
{
    if (!claim) {
        printf("%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 17;
}

static void store(char *at, size_t pages, uint64_t seed)
{
    for (size_t i = 0; i < pages; i++) {
        uint64_t *words = (uint64_t *)(at + i * PAGE);
        words[next(&seed) % WORDS] = next(&seed) | 1;
    }
}

static void look(char *at, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        (void)*(volatile char *)(at + i * PAGE);
}

static void fill(char *at, size_t size)
{
    int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    must(random >= 0, "open");
    while (size) {
        ssize_t done = read(random, at, size);
        must(done > 0, "read");
        at += done;
        size -= done;
    }
    close(random);
}

static void end(pid_t child)
{
    must(waitpid(child, NULL, 0) == child, "waitpid");
}

static void write_from_another(char *at, size_t pages, uint64_t seed)
{
    pid_t self = getpid(), child = fork();
    must(child >= 0, "fork");
    if (!child) {
        uint64_t word = seed | 1;
        for (size_t i = 0; i < pages; i++) {
            struct iovec ours = {&word, 8}, theirs = {at + i * PAGE + next(&seed) % WORDS * 8, 8};
            word = next(&seed) | 1;
            if (process_vm_writev(self, &ours, 1, &theirs, 1, 0) != 8)
                _exit(1);
        }
        _exit(0);
    }
    int status;
    must(waitpid(child, &status, 0) == child && !status, "another writes");
}

static char *moved(char *at, size_t pages, size_t wanted)
{
    char *place = mmap(NULL, wanted * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
    must(place != MAP_FAILED, "mmap");
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    if (mremap(at, pages * PAGE, wanted * PAGE, flags, place) == place)
        return place;
    /* More than one mapping by now: page by page. */
    for (size_t i = 0; i < pages && i < wanted; i++)
        must(mremap(at + i * PAGE, PAGE, PAGE, flags, place + i * PAGE) != MAP_FAILED, "mremap");
    if (pages > wanted)
        must(!munmap(at + wanted * PAGE, (pages - wanted) * PAGE), "munmap");
    return place;
}

static void __attribute__((noinline)) descend(long depth, uint64_t seed)
{
    volatile uint64_t frame[WORDS];
    frame[next(&seed) % WORDS] = seed;
    if (depth > 1)
        descend(depth - 1, seed);
    seed += frame[0]; /* so that the call is none at the end */
}

static void grow(size_t pages, uint64_t seed)
{
    char *place = sbrk(pages * PAGE);
    must(place != (char *)-1, "sbrk");
    store((char *)(((uintptr_t)place + PAGE - 1) & -PAGE), pages - 1, seed);
}

static pid_t forked(char *at, size_t pages, uint64_t seed, int is_nested)
{
    int pipe_ends[2];
    pid_t waiting = 0;
    must(!pipe(pipe_ends), "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (!child) {
        if (is_nested && fork())
            _exit(0);
        store(at, pages, seed);
        waiting = getpid();
        must(write(pipe_ends[1], &waiting, sizeof waiting) == sizeof waiting, "write");
        close(pipe_ends[0]);
        close(pipe_ends[1]);
        for (;;)
            pause();
    }
    must(read(pipe_ends[0], &waiting, sizeof waiting) == sizeof waiting, "read");
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    if (is_nested)
        end(child);
    return waiting;
}

struct area {
    char *at;
    size_t pages;
    uint64_t seed;
};

static void *scribble(void *given)
{
    struct area area = *(struct area *)given;
    free(given);
    for (;;) {
        uint64_t *words = (uint64_t *)(area.at + next(&area.seed) % area.pages * PAGE);
        switch (next(&area.seed) % 8) {
        case 0: /* of zeros again */
            memset(words, 0, PAGE);
            break;
        case 1:
            madvise(words, PAGE, MADV_DONTNEED);
            break;
        default:
            words[next(&area.seed) % WORDS] = next(&area.seed);
        }
        if (next(&area.seed) % 64 == 0)
            usleep(100);
    }
    return NULL;
}

static void be_busy(char *at, size_t pages, long threads)
{
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        struct area *area = malloc(sizeof *area);
        *area = (struct area){at, pages, i + 1};
        must(!pthread_create(&thread, NULL, scribble, area), "pthread_create");
    }
}

int main(int count, char **arguments)
{
    char line[200], name[20];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1) /* exec */
        puts("0");
    while (fgets(line, sizeof line, stdin)) {
        unsigned long first = 0, a = 0, b = 0, c = 0;
        sscanf(line, "%19s %lu %lu %lu %lu", name, &first, &a, &b, &c);
        char *at = (char *)first;
        long answer = 0;
        if (!strcmp(name, "map")) {
            int flags = MAP_ANONYMOUS | (c & 0x0f ? 0 : MAP_PRIVATE) | (at ? MAP_FIXED : 0) | c;
            char *place = mmap(at, a * PAGE, b, flags, -1, 0);
            must(place != MAP_FAILED, "mmap");
            answer = (long)place;
        } else if (!strcmp(name, "unmap"))
            must(!munmap(at, a * PAGE), "munmap");
        else if (!strcmp(name, "store"))
            store(at, a, b);
        else if (!strcmp(name, "clear"))
            memset(at, 0, a * PAGE);
        else if (!strcmp(name, "look"))
            look(at, a);
        else if (!strcmp(name, "read"))
            fill(at, a * PAGE);
        else if (!strcmp(name, "other"))
            write_from_another(at, a, b);
        else if (!strcmp(name, "advise"))
            must(!madvise(at, a * PAGE, b), "madvise");
        else if (!strcmp(name, "protect"))
            must(!mprotect(at, a * PAGE, b), "mprotect");
        else if (!strcmp(name, "move"))
            answer = (long)moved(at, a, b);
        else if (!strcmp(name, "brk"))
            grow(first, a);
        else if (!strcmp(name, "stack"))
            descend(first, a);
        else if (!strcmp(name, "fork") || !strcmp(name, "nest"))
            answer = forked(at, a, b, *name == 'n');
        else if (!strcmp(name, "reap")) {
            kill(first, SIGKILL);
            end(first);
        } else if (!strcmp(name, "busy"))
            be_busy(at, a, b);
        else if (!strcmp(name, "exec")) {
            execl("/proc/self/exe", *arguments, "again", NULL);
            must(0, "execl");
        } else {
            errno = EINVAL;
            must(0, name);
        }
        printf("%ld\n", answer);
    }
    return 0;
}
