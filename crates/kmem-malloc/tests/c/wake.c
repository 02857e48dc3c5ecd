// A program that makes no slow call when it is asked something: it works until it has left a table, says so, and does what its argument says.
// What it notices of the signal that wakes it, it says, too.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *kept[100];

static void say(const char *what) {
    if (write(1, what, strlen(what)) < 0)
        _exit(9);
}

__attribute__((noinline)) static void work(int milliseconds) {
    static void *blocks[3000];
    struct timespec now, start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 3000; i++)
            memset(blocks[i] = malloc(500), 1, 500);
        for (int i = 0; i < 3000; i++)
            free(blocks[i]), blocks[i] = NULL;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
}

__attribute__((noinline)) static void lose(void) {
    for (int i = 0; i < 100; i++)
        memset(kept[i] = malloc(200), 0, 200);
    memset(kept, 0, sizeof kept);
}

static void own(int signal) {
    (void)signal;
    say("mine\n");
}

static void *wait_for_ever(void *nothing) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&lock);
    return nothing;
}

static void *compute(void *nothing) {
    for (volatile uint64_t i = 0;; i++)
        ;
    return nothing;
}

static void block(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

// Blocks whose bytes are looked at, by several threads, while a timer's handler interrupts them, sleeping for a moment in a system call.
static atomic_bool over;

static void interrupt(int signal) {
    struct timespec moment = {0, 200000};
    int before = errno;
    (void)signal;
    nanosleep(&moment, NULL);
    errno = before;
}

static void *storm(void *seed) {
    static _Thread_local struct { unsigned char *at; size_t size; } blocks[500];
    uint64_t state = (uintptr_t)seed;
    while (!over) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t turn = (uint32_t)(state >> 33);
        int i = turn % 500;
        for (size_t at = 0; at < blocks[i].size; at += 61)
            if (blocks[i].at[at] != (unsigned char)i)
                say("a block changed\n"), _exit(9);
        errno = (int)(turn & 63);
        free(blocks[i].at);
        if (errno != (int)(turn & 63))
            say("errno changed\n"), _exit(9);
        blocks[i].size = turn / 500 % 64 ? turn / 500 % 2000 : turn % 90000;
        blocks[i].at = malloc(blocks[i].size + 1);
        memset(blocks[i].at, i, blocks[i].size);
    }
    for (int i = 0; i < 500; i++)
        free(blocks[i].at);
    return NULL;
}

static void weather(void) {
    pthread_t threads[3];
    struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 1700}, {0, 1700}};
    char end;
    for (uintptr_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, storm, (void *)(i + 1));
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    struct pollfd in = {0, POLLIN, 0};
    while (poll(&in, 1, 1) <= 0) {
        pid_t child = fork();
        if (child == 0) {
            work(1);
            _exit(0);
        }
        int status = -1;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        if (status)
            say("the child failed\n"), _exit(9);
    }
    if (read(0, &end, 1) < 0)
        _exit(9);
    over = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    say("over\n");
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    struct sigaction mine = {.sa_handler = own, .sa_flags = SA_RESTART}, old;
    pthread_t thread;
    char end;
    if (!strcmp(how, "early"))
        sigaction(SIGURG, &mine, NULL);
    work(200);
    lose();
    if (!strcmp(how, "late")) {
        sigaction(SIGURG, &mine, &old);
        say(old.sa_handler == SIG_DFL && old.sa_flags == 0 ? "none before\n" : "another before\n");
    }
    if (!strcmp(how, "signal"))
        say(signal(SIGURG, own) == SIG_DFL ? "none before\n" : "another before\n");
    if (!strcmp(how, "back")) {
        sigaction(SIGURG, &mine, &old);
        sigaction(SIGURG, &old, NULL);
    }
    if (!strcmp(how, "others")) {
        // The first thread does not hear the signal, another one answers nothing: it never comes by.
        pthread_create(&thread, NULL, compute, NULL);
        pthread_create(&thread, NULL, wait_for_ever, NULL);
        block();
    }
    if (!strcmp(how, "deaf"))
        block();
    say("ready\n");
    if (!strcmp(how, "spin"))
        for (;;) {
            void *volatile at = malloc(60);
            free(at);
        }
    if (!strcmp(how, "storm")) {
        weather();
        return 0;
    }
    if (!strcmp(how, "read")) {
        // Not tried again: it is not interrupted.
        say(read(0, &end, 1) == 1 ? "read\n" : "interrupted\n");
        return 0;
    }
    if (!strcmp(how, "exec")) {
        execl("/bin/cat", "cat", NULL);
        _exit(9);
    }
    struct pollfd in = {0, POLLIN, 0};
    while (poll(&in, 1, -1) < 0 && errno == EINTR)
        ;
    return 0;
}
