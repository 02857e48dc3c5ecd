/* Blocks of few slabs, taken, resized and freed by several threads at once: what lies beside a block is another's, who changes it
 * in the same instant, and no heap may take that for damage. Children of a process that is forked meanwhile free all there is. */
#include "check.h"

enum { THREADS = 4, BLOCKS = 300, TURNS = 40000, FORKS = 30 };

struct block {
    size_t size;
    unsigned char bytes[];
};

static struct block *blocks[BLOCKS];

/* All bytes of it are the holder's. */
static struct block *filled(struct block *block, size_t size)
{
    CHECK(block != NULL);
    block->size = size;
    memset(block->bytes, 0xff, size - sizeof *block);
    return block;
}

static void checked(struct block *block, size_t size)
{
    CHECK(block->size >= size);
    for (size_t i = 0; i < size - sizeof *block; i++) CHECK(block->bytes[i] == 0xff);
}

static struct block *new_block(uint64_t *random)
{
    /* Of three classes, and as long as they may be, or not. */
    static const size_t sizes[] = {24, 33, 40, 56, 50};
    size_t size = sizes[next_random(random) % COUNT(sizes)];
    switch (next_random(random) % 4) {
    case 0: return filled(calloc(1, size), size);
    case 1: return filled(aligned_alloc(16, size), size);
    default: return filled(malloc(size), size);
    }
}

static void drop(struct block *block)
{
    if (block == NULL) return;
    checked(block, block->size);
    free(block);
}

static void *work(void *seed)
{
    uint64_t random = (uintptr_t)seed;
    for (int turn = 0; turn < TURNS; turn++) {
        struct block *mine = new_block(&random);
        if (turn % 3 == 0) {
            /* In place, as a rule. */
            size_t size = mine->size - 1 - next_random(&random) % 7;
            mine = realloc(mine, size);
            CHECK(mine != NULL);
            checked(mine, size);
            mine = filled(mine, size);
        }
        if (turn % 7 == 0) CHECK(malloc_usable_size(mine) >= mine->size);
        drop(__atomic_exchange_n(&blocks[next_random(&random) % BLOCKS], mine, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static void drop_all(void)
{
    for (int i = 0; i < BLOCKS; i++) drop(__atomic_exchange_n(&blocks[i], NULL, __ATOMIC_ACQ_REL));
}

int main(void)
{
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++) CHECK(pthread_create(&threads[t], NULL, work, (void *)(t + 1)) == 0);
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            drop_all();
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    for (int t = 0; t < THREADS; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    drop_all();
    return ok();
}
