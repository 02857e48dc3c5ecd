/* Large blocks of lengths that come back and are written to all over: a hardened heap hands their pages on to the next block. The case is
 * argv[1]. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define CASE(name) else if (strcmp(argv[1], name) == 0)

enum { LONG = 4 << 20, SHORT = 256 << 10 };

static int is_zero(const char *block, size_t size)
{
    return block[0] == 0 && memcmp(block, block + 1, size - 1) == 0;
}

/* Pages of a block that are in memory. */
static size_t there(const char *block, size_t size)
{
    static unsigned char seen[LONG / 4096];
    size_t count = 0;
    CHECK(size <= LONG && mincore((void *)block, size, seen) == 0);
    for (size_t i = 0; i < size / 4096; i++) count += seen[i] & 1;
    return count;
}

/* A zero block, written to all over. */
static char *written(size_t size)
{
    char *block = calloc(1, size);
    CHECK(block != NULL && is_zero(block, size));
    memset(block, 0x5a, size);
    return block;
}

/* Has the heap learn that blocks of this length are written to, and keep pages of as many as it will. */
static void learn(size_t size)
{
    static char *blocks[8];
    for (int round = 0; round < 40; round++) free(written(size));
    for (size_t i = 0; i < COUNT(blocks); i++) blocks[i] = written(size);
    for (size_t i = 0; i < COUNT(blocks); i++) free(blocks[i]);
}

/* A block that has the pages of another. */
static char *handed_on(size_t size)
{
    learn(size);
    char *block = malloc(size);
    CHECK(block != NULL && there(block, size) == size / 4096 && is_zero(block, size));
    memset(block, 0x5a, size);
    return block;
}

static void small_work(void)
{
    static void *list[2000];
    for (int i = 0; i < 2000; i++) list[i] = malloc(200);
    for (int i = 0; i < 2000; i++) free(list[i]);
}

static size_t mappings(void)
{
    char text[4096];
    size_t count = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    for (ssize_t n; (n = read(fd, text, sizeof text)) > 0;) {
        for (ssize_t i = 0; i < n; i++) count += text[i] == '\n';
    }
    close(fd);
    return count;
}

static void churn(uint64_t seed, int rounds)
{
    static const size_t sizes[] = { 96 << 10, 100000, SHORT, SHORT, 320 << 10, 1 << 20, 1 << 20, 3 << 20 };
    struct { char *block; size_t size, filled; uint64_t seed; } held[4] = { 0 };
    for (int round = 0; round < rounds; round++) {
        uint64_t random = next_random(&seed);
        size_t at = random % COUNT(held), size = sizes[random >> 8 & 7];
        if (held[at].block != NULL) {
            CHECK(intact(held[at].block, held[at].filled, held[at].filled, held[at].seed));
            free(held[at].block);
        }
        char *block = calloc(1, size);
        CHECK(block != NULL && is_zero(block, size));
        /* Now and then one is hardly touched, and one grows. */
        size_t filled = (random >> 16 & 7) == 0 ? 4096 : size;
        fill(block, filled, random);
        if ((random >> 20 & 15) == 0) {
            block = realloc(block, size += SHORT);
            CHECK(block != NULL);
        }
        held[at].block = block;
        held[at].size = size;
        held[at].filled = filled;
        held[at].seed = random;
    }
    for (size_t at = 0; at < COUNT(held); at++) free(held[at].block);
}

static volatile int stop;

static void *churner(void *seed)
{
    churn((uintptr_t)seed, 150);
    return NULL;
}

static void *churner_until(void *seed)
{
    for (uintptr_t turn = 1; !stop; turn++) churn((uintptr_t)seed * turn, 10);
    return NULL;
}

/* From now on the system moves no mapping. */
static void refuse_moves(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { COUNT(rules), rules };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHECK(mremap(rules, 4096, 4096, 0) == MAP_FAILED && errno == EPERM);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    if (argc == 0) return 1;
    CASE("threads")
    {
        pthread_t threads[8];
        for (uintptr_t i = 0; i < COUNT(threads); i++) {
            CHECK(pthread_create(&threads[i], NULL, churner, (void *)(i + 1)) == 0);
        }
        for (size_t i = 0; i < COUNT(threads); i++) CHECK(pthread_join(threads[i], NULL) == 0);
        /* What waits is a few hundred blocks, each with two walls. */
        CHECK(mappings() < 1500);
    }
    CASE("fork")
    {
        pthread_t threads[2];
        for (uintptr_t i = 0; i < COUNT(threads); i++) {
            CHECK(pthread_create(&threads[i], NULL, churner_until, (void *)(i + 1)) == 0);
        }
        for (int round = 0; round < 20; round++) {
            learn(SHORT);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                learn(SHORT);
                churn(7, 10);
                _exit(0);
            }
            learn(SHORT);
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
        stop = 1;
        for (size_t i = 0; i < COUNT(threads); i++) CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CASE("refused")
    {
        refuse_moves();
        learn(SHORT);
        churn(11, 100);
        /* Blocks that are full stay so. */
        char *block = written(LONG);
        for (size_t size = LONG; size < 16 * (size_t)LONG; size *= 2) {
            block = realloc(block, 2 * size);
            CHECK(block != NULL && block[0] == 0x5a && block[LONG - 1] == 0x5a);
        }
        free(block);
    }
    CASE("refused-later")
    {
        learn(SHORT);
        refuse_moves();
        learn(SHORT);
        churn(11, 100);
    }
    CASE("after")
    {
        volatile char *block = handed_on(SHORT);
        free((void *)block);
        printf("%p\n", (void *)(block + 5000));
        fflush(stdout);
        block[5000] = 1;
    }
    CASE("after-next")
    {
        /* The next block has the pages and another address. */
        volatile char *block = handed_on(SHORT);
        free((void *)block);
        char *next = malloc(SHORT);
        CHECK(next != NULL && next != block && there(next, SHORT) == SHORT / 4096);
        printf("%p\n", (void *)block);
        fflush(stdout);
        return block[0];
    }
    CASE("over")
    {
        volatile char *block = handed_on(SHORT);
        printf("%p\n", (void *)(block + SHORT));
        fflush(stdout);
        block[SHORT] = 1;
    }
    CASE("idle")
    {
        small_work();
        free(malloc(100000));
        malloc_trim(0);
        size_t start = resident();
        learn(LONG);
        CHECK(resident() > start + (12 << 20));
        /* Two seconds; on a machine that has other things to do, until they were seconds for us as well. */
        for (int tenth = 0; tenth < 20 || (tenth < 60 && resident() >= start + (3 << 20)); tenth++) {
            usleep(100000);
            small_work();
        }
        CHECK(resident() < start + (3 << 20));
    }
    CASE("trim")
    {
        learn(LONG);
        size_t full = resident();
        CHECK(malloc_trim(0) == 1 && resident() + (12 << 20) < full);
    }
    CASE("limit")
    {
        /* What is kept counts for limits, and goes before a request fails. */
        learn(LONG);
        char line[4096];
        int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        ssize_t n = read(fd, line, sizeof line - 1);
        CHECK(n > 0);
        close(fd);
        line[n] = 0;
        char *data = strstr(line, "VmData:");
        CHECK(data != NULL);
        rlim_t now = strtoul(data + strlen("VmData:"), NULL, 10) << 10;
        struct rlimit limit = { now + (4 << 20), now + (4 << 20) };
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        char *block = malloc(12 << 20);
        CHECK(block != NULL);
        memset(block, 1, 12 << 20);
        CHECK(malloc(64 << 20) == NULL && errno == ENOMEM);
    }
    CASE("protected")
    {
        char *block = handed_on(SHORT);
        CHECK(mprotect(block + 4096, 8192, PROT_READ) == 0);
        free(block);
        block = handed_on(SHORT);
        CHECK(mprotect(block, SHORT, PROT_NONE) == 0);
        free(block);
        free(handed_on(SHORT));
    }
    CASE("forked")
    {
        /* What a block's holder wants of forks is his affair. */
        static const int wanted[] = { MADV_DONTFORK, MADV_WIPEONFORK };
        for (size_t i = 0; i < COUNT(wanted); i++) {
            char *block = handed_on(SHORT);
            CHECK(madvise(block, SHORT, wanted[i]) == 0);
            free(block);
            char *next = malloc(SHORT);
            CHECK(next != NULL && there(next, SHORT) == SHORT / 4096);
            memset(next, 7, SHORT);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) _exit(next[0] == 7 && next[SHORT - 1] == 7 ? 0 : 1);
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            free(next);
        }
    }
    else return 1;
    return ok();
}
