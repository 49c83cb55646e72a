/* LD_PRELOAD: every TCP socket uses cubic, what most machines have, whatever this machine's own default is.
 *
 *   gcc -O2 -shared -fPIC cubic.c -o cubic.so
 *
 * A namespace's default may not be set to a congestion control that the kernel restricts; a socket's may, by root.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int socket(int domain, int type, int protocol) {
    static int (*real)(int, int, int);
    if (!real) real = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    int fd = real(domain, type, protocol);
    if (fd >= 0 && (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5)) {
        perror("TCP_CONGESTION cubic");
        abort();
    }
    return fd;
}
