/* A signal handler that interrupted the allocator in a single-threaded process forks; parent and child live on. */
#include "check.h"
#include <sys/time.h>

enum { FORKS = 1500, LIVE = 1009 };
static volatile sig_atomic_t forks;

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    pid_t child = fork();
    if (child == 0) _exit(17);
    CHECK(child > 0);
    int status;
    pid_t waited;
    while ((waited = waitpid(child, &status, 0)) < 0 && errno == EINTR) {
    }
    CHECK(waited == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
    forks++;
    errno = saved;
}

int main(void)
{
    alarm(100);
    /* A helper process sends the signals, so that they arrive at any instruction. */
    pid_t parent = getpid();
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pid_t sender = fork();
    CHECK(sender >= 0);
    if (sender == 0) {
        struct timespec pause = {0, 50000};
        alarm(100);
        while (kill(parent, SIGUSR1) == 0 && getppid() == parent) nanosleep(&pause, NULL);
        _exit(0);
    }
    static void *held[LIVE];
    static size_t sizes[LIVE];
    uint64_t random = 88172645463325252u;
    while (forks < FORKS) {
        size_t i = next_random(&random) % LIVE;
        CHECK(held[i] == NULL || intact(held[i], sizes[i] < 64 ? sizes[i] : 64, sizes[i], i));
        size_t size = 1 + next_random(&random) % (next_random(&random) % 4 ? 500 : 70000);
        if (next_random(&random) % 3 == 0) {
            held[i] = realloc(held[i], size);
        } else {
            free(held[i]);
            held[i] = malloc(size);
        }
        CHECK(held[i] != NULL);
        fill(held[i], size, i);
        sizes[i] = size;
    }
    CHECK(kill(sender, SIGKILL) == 0);
    signal(SIGUSR1, SIG_IGN);
    while (waitpid(sender, NULL, 0) < 0 && errno == EINTR) {
    }
    for (size_t i = 0; i < LIVE; i++) {
        CHECK(held[i] == NULL || intact(held[i], sizes[i], sizes[i], i));
        free(held[i]);
    }
    return ok();
}
