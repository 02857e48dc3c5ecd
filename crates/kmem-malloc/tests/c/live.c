// A program that others look at, and speak to, while it runs: two threads allocate, resize and free, and look at every byte; the main
// thread does what it reads on its standard input, a word a line, and says so when it is done.
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1500

struct block {
    unsigned char *at;
    size_t size;
    unsigned char fill;
};

static struct block shared[2][SLOTS];
static pthread_mutex_t locks[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static atomic_bool over;

static void fail(const char *what, size_t size) {
    fprintf(stderr, "live.c: %s (%zu bytes)\n", what, size);
    _exit(9);
}

static uint32_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static size_t some_size(uint64_t *state) {
    uint32_t kind = next(state) % 32, size = next(state);
    return kind == 0 ? size % 150000 : kind < 4 ? size % 12000 : kind < 8 ? size % 32 * 16 : size % 600;
}

static void look(const struct block *block) {
    for (size_t i = 0; i < block->size; i += block->size > 256 ? 61 : 1)
        if (block->at[i] != block->fill)
            fail("a block changed", block->size);
}

static void replace(struct block *block, uint64_t *state) {
    size_t size = some_size(state);
    look(block);
    switch (next(state) % 8) {
    case 0:
        free(block->at);
        block->at = calloc(1, size);
        for (size_t i = 0; i < size; i++)
            if (block->at[i] != 0)
                fail("calloc is not zero", size);
        break;
    case 1: {
        size_t kept = block->size < size ? block->size : size;
        unsigned char *moved = realloc(block->at, size + 1);
        for (size_t i = 0; block->at && i < kept; i++)
            if (moved[i] != block->fill)
                fail("realloc lost a byte", size);
        block->at = moved;
        break;
    }
    case 2: {
        size_t align = (size_t)16 << next(state) % 5;
        free(block->at);
        block->at = aligned_alloc(align, size);
        if ((uintptr_t)block->at % align)
            fail("not aligned", size);
        break;
    }
    default:
        free(block->at);
        block->at = malloc(size);
    }
    if (!block->at)
        fail("no memory", size);
    block->size = size;
    block->fill = (unsigned char)next(state);
    memset(block->at, block->fill, size);
}

static void *work(void *seed) {
    uint64_t state = (uintptr_t)seed;
    while (!over) {
        uint32_t turn = next(&state);
        pthread_mutex_lock(&locks[turn % 2]);
        replace(&shared[turn % 2][turn / 2 % SLOTS], &state);
        pthread_mutex_unlock(&locks[turn % 2]);
    }
    return NULL;
}

__attribute__((noinline)) static void hit(void) {
    volatile char *block = malloc(72);
    block[72] = 1;
    free((void *)block);
}

__attribute__((noinline)) static void leak(void) {
    for (int i = 0; i < 20; i++)
        memset(malloc(48), 0, 48);
}

// A child that works for a while, and leaves by `_exit`.
static void fork_one(void) {
    pid_t child = fork();
    if (child == 0) {
        static struct block own[400];
        uint64_t state = 5;
        struct timespec now, end;
        clock_gettime(CLOCK_MONOTONIC, &end);
        do {
            for (int i = 0; i < 200; i++)
                replace(&own[next(&state) % 400], &state);
            clock_gettime(CLOCK_MONOTONIC, &now);
        } while ((now.tv_sec - end.tv_sec) * 1000 + (now.tv_nsec - end.tv_nsec) / 1000000 < 900);
        _exit(0);
    }
    printf("child %d\n", (int)child);
    fflush(stdout);
    int status;
    waitpid(child, &status, 0);
    if (status)
        fail("the child failed", (size_t)status);
}

// From here on this thread is killed, and the process with it, when it opens, renames or removes a file.
static void sandbox(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unlinkat, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        fail("no sandbox", 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter))
        fail("no sandbox for all threads", 0);
}

int main(void) {
    pthread_t threads[2];
    char line[64];
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "hit\n"))
            hit();
        else if (!strcmp(line, "leak\n"))
            leak();
        else if (!strcmp(line, "fork\n"))
            fork_one();
        else if (!strcmp(line, "sandbox\n"))
            sandbox();
        printf("did %s", line);
        fflush(stdout);
    }
    over = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2 * SLOTS; i++) {
        look(&shared[0][i]);
        free(shared[0][i].at);
    }
    return 0;
}
