/* Three processes that wait, once each, and write down how that ended:
 *
 *   /nanosleep   nanosleep(2) of three seconds, told to leave the rest where it was asked
 *   /poll        poll(2) of nothing for three seconds
 *   /endless     poll(2) of nothing for ever, ended by SIGUSR1 with EINTR
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void note(const char *path, int status)
{
    char text[64];
    int length = snprintf(text, sizeof text, "ended=%s\n", status ? strerror(errno) : "whole");
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (write(fd, text, length) != length)
        _exit(1);
    _exit(0);
}

static void on_signal(int number)
{
    (void)number;
}

int main(void)
{
    signal(SIGUSR1, on_signal);
    if (!fork()) {
        struct timespec t = {3, 0};
        note("/nanosleep", nanosleep(&t, &t));
    }
    if (!fork())
        note("/poll", poll(NULL, 0, 3000));
    if (!fork())
        note("/endless", poll(NULL, 0, -1));
    for (;;)
        if (wait(NULL) < 0 && errno == ECHILD)
            pause();
}
