/* Processes that share memory until one of them writes, and never cease to write.
 *
 *   family MIB
 *
 * The first one fills memory, and forks two that write over parts of it, and one that has
 * a child at any time, which checks all that it inherited, writes, checks again and ends.
 * Beside that each has memory it may only read, memory it may not even read, and a share
 * in what belongs to all. /ready is written once all run; where the file /check is, each
 * looks at every page it has and writes /verdict-NAME: `ok`, or what is wrong.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, STILL_PAGES = 64, MEMBERS = 4 };

static size_t pages;
static uint64_t *memory, *readable, *hidden;
static uint32_t *versions;          /* of each page, kept apart from it */
static volatile uint64_t *counters; /* one a member, in memory of all */
static uint64_t counted;

static uint64_t mixed(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
    return value ^ value >> 31;
}

static void write_page(uint64_t *words, uint64_t page, uint64_t version)
{
    /* Every eighth is zeros in every other of its versions. */
    int is_zero = page % 8 == 0 && version % 2;
    for (uint64_t i = 0; i < WORDS; i++)
        words[i] = is_zero ? 0 : mixed(page << 40 ^ version << 10 ^ i) | 1;
}

static int is_page(const uint64_t *words, uint64_t page, uint64_t version)
{
    uint64_t wanted[WORDS];
    write_page(wanted, page, version);
    return !memcmp(words, wanted, PAGE);
}

static void *mapped(size_t count, int flags)
{
    void *place = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED)
        exit(2);
    return place;
}

static void change(uint64_t *state)
{
    size_t page = mixed((*state)++) % pages;
    write_page(memory + page * WORDS, page, ++versions[page]);
}

static const char *judged(int member)
{
    static char wrong[80];
    for (size_t page = 0; page < pages; page++)
        if (!is_page(memory + page * WORDS, page, versions[page])) {
            snprintf(wrong, sizeof wrong, "page %zu at version %u", page, versions[page]);
            return wrong;
        }
    if (mprotect(hidden, STILL_PAGES * PAGE, PROT_READ))
        return "hidden memory cannot be shown";
    for (size_t page = 0; page < STILL_PAGES; page++) {
        if (!is_page(readable + page * WORDS, page, 77))
            return "memory that is read only";
        if (!is_page(hidden + page * WORDS, page, 99))
            return "hidden memory";
    }
    mprotect(hidden, STILL_PAGES * PAGE, PROT_NONE);
    return member < 0 || counters[member] == counted ? "ok" : "shared memory";
}

static void say(const char *name, const char *text)
{
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, text, strlen(text)) < 0)
        exit(3);
    close(file);
}

static void verdict(int member, const char *text)
{
    char name[20];
    snprintf(name, sizeof name, "/verdict-%d", member);
    say(name, text);
}

static void live(int member)
{
    uint64_t state = member * 1000003ULL;
    int is_judged = 0;
    for (;;) {
        for (int i = 0; i < 4; i++)
            change(&state);
        counters[member] = ++counted;
        usleep(1000);
        if (!is_judged && !access("/check", F_OK)) {
            verdict(member, judged(member));
            is_judged = 1;
        }
    }
}

static void child_of_the_last(uint64_t state)
{
    if (strcmp(judged(-1), "ok"))
        _exit(1);
    for (int i = 0; i < 200; i++) {
        change(&state);
        usleep(100);
    }
    _exit(strcmp(judged(-1), "ok") != 0);
}

static void breed(int member)
{
    int is_judged = 0;
    for (uint64_t born = 1;; born++) {
        int status;
        counters[member] = ++counted;
        pid_t child = fork();
        if (!child)
            child_of_the_last(born * 7919);
        if (child < 0 || waitpid(child, &status, 0) != child || status) {
            verdict(member, "a child found what it should not, or was lost");
            pause();
        }
        if (!is_judged && !access("/check", F_OK)) {
            verdict(member, judged(member));
            is_judged = 1;
        }
    }
}

int main(int count, char **arguments)
{
    pages = (count > 1 ? strtoul(arguments[1], NULL, 10) : 16) << 8;
    memory = mapped(pages, MAP_PRIVATE);
    versions = mapped((pages * sizeof *versions + PAGE - 1) / PAGE, MAP_PRIVATE);
    readable = mapped(STILL_PAGES, MAP_PRIVATE);
    hidden = mapped(STILL_PAGES, MAP_PRIVATE);
    counters = mapped(1, MAP_SHARED);
    for (size_t page = 0; page < pages; page++)
        write_page(memory + page * WORDS, page, 0);
    for (size_t page = 0; page < STILL_PAGES; page++) {
        write_page(readable + page * WORDS, page, 77);
        write_page(hidden + page * WORDS, page, 99);
    }
    mprotect(readable, STILL_PAGES * PAGE, PROT_READ);
    mprotect(hidden, STILL_PAGES * PAGE, PROT_NONE);
    for (int member = 1; member < MEMBERS; member++) {
        pid_t child = fork();
        if (child < 0)
            return 4;
        if (!child && member == MEMBERS - 1)
            breed(member);
        if (!child)
            live(member);
    }
    say("/ready", "yes\n");
    live(0);
}
