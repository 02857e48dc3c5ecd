/* A program in balance: a request, its free, and the same again, each served by the fast path. argv[1] says what it does wrong, or what must not
 * happen to it; argv[2] is the guard's interval in milliseconds of CPU time. */
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "check.h"

static char *volatile block;
static volatile char sink;
static double interval;
static volatile sig_atomic_t calls;
static volatile int finished;

static double cpu(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

__attribute__((noinline)) static char *get(void)
{
    return malloc(48);
}

__attribute__((noinline)) static void drop(char *which)
{
    free(which);
}

/* So many intervals of this thread's CPU time. */
#define BALANCED(intervals, wrong_before, wrong_after)                                                          \
    do {                                                                                                        \
        double start = cpu(CLOCK_THREAD_CPUTIME_ID);                                                            \
        do {                                                                                                    \
            for (int i = 0; i < 2000; i++) {                                                                    \
                char *volatile mine = block = get();                                                            \
                wrong_before;                                                                                   \
                drop(mine);                                                                                     \
                wrong_after;                                                                                    \
            }                                                                                                   \
        } while (cpu(CLOCK_THREAD_CPUTIME_ID) - start < (intervals) * interval);                                \
    } while (0)

static void balanced(double intervals)
{
    BALANCED(intervals, (void)0, (void)0);
}

static void *other_thread(void *argument)
{
    BALANCED(40, (void)0, sink = mine[3]);
    return argument;
}

static void *sound_thread(void *argument)
{
    balanced(*(double *)argument);
    finished = 1;
    return NULL;
}

static void own_handler(int number)
{
    (void)number;
    calls++;
}

/* Timers of the process; -1 where the system does not tell. Allocates nothing. */
static int timers(void)
{
    static char text[1 << 16];
    int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t used = 0;
    for (ssize_t n; (n = read(fd, text + used, sizeof text - 1 - used)) > 0;) used += (size_t)n;
    close(fd);
    text[used] = 0;
    int count = 0;
    for (char *at = text; (at = strstr(at, "notify: ")) != NULL; at++) count++;
    return count;
}

/* So many timers, where the system tells. */
#define TIMERS(wanted) CHECK(timers() == -1 || timers() == (wanted))

/* Waits in all ways that a signal ends early. How often one did. */
static int waits(int rounds)
{
    int early = 0;
    for (int i = 0; i < rounds; i++) {
        struct timespec time = {0, 2000000};
        early += poll(NULL, 0, 2) != 0;
        early += nanosleep(&time, NULL) != 0;
    }
    return early;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *name = argv[1];
    interval = atof(argv[2]);
    CHECK(interval > 0);
    /* What the guard is not to notice: by now the stacks are full. */
    for (int i = 0; i < 1000; i++) drop(get());
#define CASE(text) else if (strcmp(name, text) == 0)
    if (strcmp(name, "read-freed") == 0) {
        BALANCED(40, (void)0, sink = mine[3]);
    }
    CASE("read-right") {
        BALANCED(80, sink = mine[48], (void)0);
    }
    CASE("thread-freed") {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CASE("in-child") {
        pid_t child = fork();
        if (child == 0) {
            BALANCED(40, (void)0, sink = mine[3]);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFSIGNALED(status)) abort();
    }
    CASE("count") {
        /* Counted by whoever reads the report. */
        balanced(40);
    }
    CASE("own-handler") {
        TIMERS(1);
        struct sigaction action = {.sa_handler = own_handler}, old;
        CHECK(sigaction(SIGURG, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
        balanced(10);
        CHECK(sigaction(SIGURG, &action, &old) == 0 && old.sa_handler == SIG_DFL);
        TIMERS(0);
        balanced(10);
        CHECK(calls == 0);
        CHECK(raise(SIGURG) == 0 && calls == 1);
        CHECK(signal(SIGURG, SIG_DFL) == own_handler);
        balanced(5);
        CHECK(calls == 1);
        TIMERS(0);
    }
    CASE("ignored") {
        TIMERS(1);
        CHECK(signal(SIGURG, SIG_IGN) == SIG_DFL);
        TIMERS(0);
        balanced(5);
        CHECK(signal(SIGURG, SIG_DFL) == SIG_IGN);
    }
    CASE("blocked") {
        /* Who blocks the signal when it begins never finds it pending. */
        double some = 10;
        sigset_t urgent, pending;
        sigemptyset(&urgent);
        sigaddset(&urgent, SIGURG);
        CHECK(pthread_sigmask(SIG_BLOCK, &urgent, NULL) == 0);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, sound_thread, &some) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGURG) == 0);
        TIMERS(1);
    }
    CASE("waiting") {
        /* Another thread works, and is sampled; this one waits, and spends next to nothing. */
        double some = 40;
        int pipes[2];
        char byte;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, sound_thread, &some) == 0);
        int early = 0;
        while (!finished) early += waits(1);
        CHECK(early == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1 && read(pipes[0], &byte, 1) == 1);
    }
    CASE("sleeping") {
        /* Mostly asleep. A signal may come in the moment in which the wait begins; timers that ring while it lasts would end them by the dozen. */
        int early = 0;
        for (int i = 0; i < 150; i++) {
            balanced(1.0 / 4);
            early += waits(2);
        }
        CHECK(early <= 3);
    }
    CASE("churn") {
        /* Threads come and go: their timers do not pile up. */
        double none = 0;
        for (int i = 0; i < 300; i++) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, sound_thread, &none) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
        }
        CHECK(timers() <= 128);
        /* The last ones have theirs. */
        CHECK(timers() == -1 || timers() > 100);
    }
    CASE("vfork") {
        TIMERS(1);
        pid_t child = vfork();
        if (child == 0) {
            signal(SIGURG, SIG_IGN);
            drop(get());
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        TIMERS(1);
        balanced(3);
        child = fork();
        if (child == 0) {
            TIMERS(0);
            drop(get());
            TIMERS(1);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        TIMERS(1);
    }
    CASE("sandbox") {
        TIMERS(1);
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        TIMERS(0);
        struct sigaction old;
        CHECK(syscall(SYS_rt_sigaction, SIGURG, NULL, &old, 8) == 0 && old.sa_handler == SIG_DFL);
        balanced(5);
        TIMERS(0);
    }
    CASE("refused") {
        /* No timer is to be had: one signal may be in flight. */
        struct rlimit limit = {0, 0};
        if (getenv("AGAIN") == NULL) {
            CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0 && setenv("AGAIN", "1", 1) == 0);
            execv("/proc/self/exe", argv);
            CHECK(!"executed");
        }
        TIMERS(0);
        balanced(5);
    }
    else {
        return 1;
    }
    CHECK(write(1, "on\n", 3) == 3);
    return 0;
}
