/* Blocks that are lost, and blocks that are not: by globals, stacks, registers, thread-local data, other blocks, mappings. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct node {
    struct node *next;
    long pad[5];
};

static struct node *kept;
__thread void *volatile local;
static void **mapped;
static volatile int ready;

__attribute__((noinline)) void lose(int n)
{
    while (n--) {
        struct node *volatile one = malloc(sizeof(struct node));
        one->next = malloc(100);
        memset(one->next, 0, 100);
        one = NULL;
    }
}

__attribute__((noinline)) void lose_ring(void)
{
    struct node *volatile one = malloc(200);
    one->next = malloc(200);
    one->next->next = one;
    one = NULL;
}

__attribute__((noinline)) void lose_large(void)
{
    *(char *volatile)malloc(300000) = 1;
    *(char *volatile)malloc(9 << 20) = 1;
}

__attribute__((noinline)) void keep(int n)
{
    while (n--) {
        struct node *one = malloc(sizeof *one);
        one->next = kept;
        kept = one;
    }
}

/* What a call left behind on the stack. */
__attribute__((noinline)) void clear(void)
{
    volatile char room[16384];
    memset((char *)room, 0, sizeof room);
}

static void *thread(void *blocked)
{
    if (blocked) {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, NULL);
    }
    void *volatile mine = malloc(333);
    local = malloc(444);
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
    return mine;
}

static void hold_threads(int n, void *blocked)
{
    for (int i = 0; i < n; i++) {
        pthread_t other;
        if (pthread_create(&other, NULL, thread, blocked))
            abort();
    }
    while (ready < n)
        usleep(1000);
}

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "";
    puts("begin");
    keep(20);
    if (!strcmp(what, "lost")) {
        lose(10);
        lose_large();
    } else if (!strcmp(what, "ring")) {
        lose_ring();
    } else if (!strcmp(what, "kept")) {
        local = malloc(555);
        mapped = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mapped[77777] = malloc(666);
        mapped[3] = malloc(5 << 20);
        ((void **)mapped[3])[1000] = malloc(777);
        /* Only inside is pointed to. */
        mapped[4] = (char *)malloc(70000) + 12345;
    } else if (!strcmp(what, "threads")) {
        hold_threads(3, NULL);
        lose(1);
    } else if (!strcmp(what, "blocked")) {
        hold_threads(1, "blocked");
        lose(1);
    } else if (!strcmp(what, "closed")) {
        lose(1);
        /* Pages of a kept block that nobody may read. */
        mapped = aligned_alloc(4096, 64 << 10);
        mapped[0] = malloc(888);
        mprotect((char *)mapped + 4096, 4096, PROT_NONE);
    } else if (!strcmp(what, "exit")) {
        /* The stack of main lives on. */
        void *volatile mine = malloc(999);
        memset(mine, 0, 999);
        clear();
        exit(0);
    }
    clear();
    puts("end");
    return 0;
}
