/* What the programs of misuse share.
 *
 * A program has many cases; argv[1] names one. Each commits one sin, or, with "legal" as argv[2], does the nearest thing
 * that is allowed. Standard output tells how far it came, a line each:
 *
 *   0x...     the address that is about to be misused
 *   after     the sin is done, nobody stopped it
 *   whole     and the heap is as good as before: it hands nothing out twice, and gives back what was put in
 *
 * Exit status 0: whole. 3: the heap hands out memory that is in use. 1: the case itself failed or is unknown.
 */
#ifndef SIN_H
#define SIN_H

#include "../check.h"

/* The nearest legal program is to be run. */
static int legal;

struct sin {
    const char *name;
    void (*commit)(void);
};

static inline void line(const char *text)
{
    CHECK(write(1, text, strlen(text)) == (ssize_t)strlen(text));
}

/* Says which address is about to be misused. */
static inline void *announce(const void *address)
{
    char text[64];
    snprintf(text, sizeof text, "%p\n", address);
    line(text);
    return (void *)(uintptr_t)address;
}

static inline void *block_of(size_t size)
{
    void *block = malloc(size);
    CHECK(block != NULL);
    return block;
}

/* A thread that runs `work` on `block`, on another CPU than the first if there is one. */
static inline void elsewhere(void *(*work)(void *), void *block)
{
    pthread_attr_t attributes;
    pthread_t thread;
    cpu_set_t mine, other;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(sched_getaffinity(0, sizeof mine, &mine) == 0);
    int here = sched_getcpu();
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (cpu != here && CPU_ISSET(cpu, &mine)) {
            CPU_ZERO(&other);
            CPU_SET(cpu, &other);
            CHECK(pthread_attr_setaffinity_np(&attributes, sizeof other, &other) == 0);
            break;
        }
    }
    CHECK(pthread_create(&thread, &attributes, work, block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
}

/* Stays on one CPU, so that what is freed is what is found. */
static inline void stay(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

/* Two live blocks of a size, the second as close behind the first as there are any. */
static inline void neighbours(size_t size, char **first, char **second)
{
    enum { TRIED = 512 };
    static char *held[TRIED];
    size_t least = SIZE_MAX;
    *first = *second = NULL;
    for (int i = 0; i < TRIED; i++) held[i] = (char *)memset(block_of(size), 0, size);
    for (int i = 0; i < TRIED; i++) {
        for (int j = 0; j < TRIED; j++) {
            size_t apart = (uintptr_t)held[j] - (uintptr_t)held[i];
            if (i != j && apart < least) {
                least = apart;
                *first = held[i];
                *second = held[j];
            }
        }
    }
    CHECK(*first != NULL && least < 8 * size);
}

/* Allocates at many sizes; what is handed out twice, or lies over something else, loses its pattern. */
static inline int heap_is_whole(void)
{
    static const size_t sizes[] = {16, 24, 64, 72, 100, 300, 400, 2000, 2048, 20000, 200000};
    static char *held[COUNT(sizes)][140];
    for (size_t s = 0; s < COUNT(sizes); s++) {
        size_t many = ((size_t)400 << 10) / sizes[s];
        if (many > COUNT(held[s])) many = COUNT(held[s]);
        for (size_t i = 0; i < many; i++) {
            held[s][i] = (char *)block_of(sizes[s]);
            fill(held[s][i], sizes[s], s * 1000 + i);
        }
    }
    int whole = 1;
    for (size_t s = 0; s < COUNT(sizes); s++) {
        for (size_t i = 0; i < COUNT(held[s]) && held[s][i] != NULL; i++) {
            whole &= intact(held[s][i], sizes[s], sizes[s], s * 1000 + i);
        }
    }
    for (size_t s = 0; s < COUNT(sizes) && whole; s++) {
        for (size_t i = 0; i < COUNT(held[s]) && held[s][i] != NULL; i++) free(held[s][i]);
    }
    return whole;
}

static inline int run(const struct sin *sins, size_t count, int argc, char **argv)
{
    CHECK(argc == 2 || (argc == 3 && strcmp(argv[2], "legal") == 0));
    legal = argc == 3;
    stay();
    for (size_t i = 0; i < count; i++) {
        if (strcmp(sins[i].name, argv[1]) == 0) {
            sins[i].commit();
            line("after\n");
            if (!heap_is_whole()) return 3;
            line("whole\n");
            return 0;
        }
    }
    CHECK(!"unknown case");
    return 1;
}

#define MAIN(sins)                                                                                        \
    int main(int argc, char **argv)                                                                       \
    {                                                                                                     \
        return run(sins, COUNT(sins), argc, argv);                                                        \
    }

#endif
