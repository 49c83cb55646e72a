/* A wide-area link between two network namespaces, in user space: not every kernel has netem.
 *
 *   gcc -O2 wanem.c -o wanem
 *   ip netns add near; ip netns add far; ip -n near link set lo up; ip -n far link set lo up
 *   ./wanem near 10.9.0.1 far 10.9.0.2 DELAY_MS LOSS_PERCENT RATE_MBIT QUEUE_PACKETS &
 *   ip netns exec far PROGRAM ...   (listens on 10.9.0.2);   ip netns exec near CLIENT ...
 *
 * Delay and loss are per direction (25 ms each way = 50 ms RTT); rate 0 = unlimited; full queue = tail drop.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef struct { long long due; int size; char data[1600]; } Packet;
typedef struct { Packet *ring; long head, tail; long long line_free; } Queue;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_end(const char *netns, const char *ip) {
    char text[256];
    snprintf(text, sizeof text, "/var/run/netns/%s", netns);
    int ns = open(text, O_RDONLY);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) { perror(netns); exit(1); }
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq req = {0};
    req.ifr_flags = IFF_TUN | IFF_NO_PI;
    strcpy(req.ifr_name, "wan0");
    if (fd < 0 || ioctl(fd, TUNSETIFF, &req)) { perror("tun"); exit(1); }
    snprintf(text, sizeof text, "ip addr add %s/24 dev wan0 && ip link set wan0 up mtu 1500 txqueuelen 5000", ip);
    if (system(text)) exit(1);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 9) { fprintf(stderr, "usage: wanem NS IP NS IP DELAY_MS LOSS_PERCENT RATE_MBIT QUEUE_PACKETS\n"); return 2; }
    int fd[2] = {open_end(argv[1], argv[2]), open_end(argv[3], argv[4])};
    double delay = atof(argv[5]) * 1e6, loss = atof(argv[6]) / 100, rate = atof(argv[7]) * 1e6;
    int limit = atoi(argv[8]);
    Queue queue[2] = {{malloc(sizeof(Packet) * limit), 0, 0, 0}, {malloc(sizeof(Packet) * limit), 0, 0, 0}};
    prctl(PR_SET_TIMERSLACK, 1000);
    srand48(42);
    for (;;) {
        long long at = now(), wait = -1;
        for (int i = 0; i < 2; i++) {                       /* deliver what is due to the other end */
            Queue *q = &queue[i];
            while (q->tail > q->head && q->ring[q->head % limit].due <= at) {
                Packet *p = &q->ring[q->head++ % limit];
                if (write(fd[!i], p->data, p->size) < 0) { /* the receiver's queue is full: lost, as on a wire */ }
            }
            if (q->tail > q->head) {
                long long left = q->ring[q->head % limit].due - at;
                if (wait < 0 || left < wait) wait = left;
            }
        }
        struct pollfd ends[2] = {{fd[0], POLLIN, 0}, {fd[1], POLLIN, 0}};
        struct timespec timeout = {wait / 1000000000LL, wait % 1000000000LL};
        ppoll(ends, 2, wait < 0 ? NULL : &timeout, NULL);
        at = now();
        for (int i = 0; i < 2; i++) {
            Queue *q = &queue[i];
            for (int k = 0; ends[i].revents && k < 64; k++) {
                char data[1600];
                int size = read(fd[i], data, sizeof data);
                if (size <= 0) break;
                if (drand48() < loss || q->tail - q->head >= limit) continue;
                Packet *p = &q->ring[q->tail++ % limit];
                memcpy(p->data, data, size);
                p->size = size;
                long long start = at > q->line_free ? at : q->line_free;
                if (rate > 0) start += size * 8 / rate * 1e9;
                q->line_free = start;
                p->due = start + delay;
            }
        }
    }
}
