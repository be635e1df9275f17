/* A library of the image that a process of the host must never load. */
#include <fcntl.h>

__attribute__((constructor)) static void trapped(void)
{
	open("/TRAPPED", O_CREAT | O_WRONLY, 0600);
}
