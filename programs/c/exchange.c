/*
 * Threads that allocate, exchange blocks through shared slots and free what others allocated.
 * Every byte of a block is a function of its first word; whoever frees a block checks all of them.
 * Usage: exchange THREADS OPERATIONS (of all threads together). Prints a sum over all blocks that the
 * pseudo-random sequence alone decides: a lost, doubled or damaged block changes it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4096

struct block {
    uint64_t stamp;
    uint64_t length;
    unsigned char bytes[];
};

static _Atomic(struct block *) slots[SLOTS];
static _Atomic uint64_t freed_sum, freed_blocks;

struct worker {
    pthread_t thread;
    uint64_t seed, operations, allocated_sum;
};

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static size_t size_of(uint64_t r)
{
    if (r % 1000 == 0) return 4096 + r % 200000; /* now and then a large one */
    if (r % 10 == 0) return r / 10 % 4096;
    return r / 10 % 256;
}

static void release(struct block *b)
{
    for (uint64_t i = 0; i < b->length; i++) {
        if (b->bytes[i] != (unsigned char)(b->stamp + b->length)) {
            printf("block %p of %llu bytes is damaged at %llu\n", (void *)b, (unsigned long long)b->length,
                   (unsigned long long)i);
            abort();
        }
    }
    atomic_fetch_add(&freed_sum, b->stamp ^ b->length);
    atomic_fetch_add(&freed_blocks, 1);
    free(b);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (uint64_t n = 0; n < w->operations; n++) {
        uint64_t r = next(&w->seed);
        size_t length = size_of(r);
        struct block *b = r % 16 == 0 ? calloc(1, sizeof *b + length) : malloc(sizeof *b + length);
        if (!b) abort();
        if (r % 16 == 0)
            for (size_t i = 0; i < length; i++)
                if (b->bytes[i]) abort();
        b->stamp = r;
        b->length = length;
        memset(b->bytes, (unsigned char)(r + length), length);
        if (r % 32 == 1 && length > 64) { /* shrink in place or move: what stays must stay */
            size_t half = length / 2;
            b = realloc(b, sizeof *b + half);
            if (!b) abort();
            memset(b->bytes, (unsigned char)(r + half), half);
            b->length = length = half;
        }
        w->allocated_sum += r ^ length;
        struct block *old = atomic_exchange(&slots[next(&w->seed) % SLOTS], b);
        if (old) release(old);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    int threads = atoi(argv[1]);
    uint64_t operations = strtoull(argv[2], NULL, 10), sum = 0;
    struct worker *workers = calloc(threads, sizeof *workers);
    if (!workers) return 2;
    for (int t = 0; t < threads; t++) {
        workers[t].seed = 1000 + t;
        workers[t].operations = operations / threads;
        if (pthread_create(&workers[t].thread, NULL, work, &workers[t])) return 2;
    }
    for (int t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        sum += workers[t].allocated_sum;
    }
    for (int s = 0; s < SLOTS; s++)
        if (slots[s]) release(slots[s]);
    printf("%d threads: %llu blocks, sum %llx\n", threads, (unsigned long long)freed_blocks, (unsigned long long)sum);
    free(workers);
    return freed_sum == sum ? 0 : 1;
}
