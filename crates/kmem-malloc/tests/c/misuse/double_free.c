/* A block is freed twice. The nearest legal program frees what it allocated in between. */
#include "sin.h"

static void *free_it(void *block)
{
    free(block);
    return NULL;
}

/* The second free of `block`, or the first of a new block. */
static void again(void *block, size_t size)
{
    free(announce(legal ? block_of(size) : block));
}

static void twice(size_t size)
{
    void *block = block_of(size);
    free(block);
    again(block, size);
}

static void small(void)
{
    twice(64);
}

static void medium(void)
{
    twice(2000);
}

static void pages(void)
{
    twice(20000);
}

static void large(void)
{
    twice(200000);
}

static void huge(void)
{
    twice((size_t)8 << 20);
}

static void after_one(void)
{
    void *first = block_of(64), *second = block_of(64);
    free(first);
    free(second);
    again(first, 64);
}

static void after_many(void)
{
    void *held[600];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(64);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    again(held[300], 64);
}

static void medium_after_many(void)
{
    void *held[60];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(2000);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    again(held[30], 2000);
}

static void first_elsewhere(void)
{
    void *block = block_of(64);
    elsewhere(free_it, block);
    again(block, 64);
}

static void then_elsewhere(void)
{
    void *block = block_of(64);
    free(block);
    if (legal) block = block_of(64);
    announce(block);
    elsewhere(free_it, block);
}

/* The system may have the memory back by now. */
static void slab_gone(void)
{
    static void *held[20000];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(64);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    malloc_trim(0);
    again(held[10000], 64);
}

static void after_realloc(void)
{
    void *block = block_of(64), *guard = block_of(64);
    void *moved = realloc(block, 100000);
    CHECK(moved != NULL && moved != block);
    free(announce(legal ? moved : block));
    free(guard);
}

static void aligned(void)
{
    void *block = aligned_alloc(256, 512);
    CHECK(block != NULL);
    free(block);
    free(announce(legal ? aligned_alloc(256, 512) : block));
}

/* What has grown once has room to go on. */
static void *grown(void)
{
    void *block = realloc(block_of(1), 5000);
    CHECK(block != NULL);
    return block;
}

static void grown_twice(void)
{
    void *block = grown(), *guard = block_of(64);
    free(block);
    free(announce(legal ? grown() : block));
    free(guard);
}

/* What an allocator may have noted in the free block is gone. */
static void small_overwritten(void)
{
    char *block = block_of(64);
    free(block);
    if (!legal) memset(block, 0, 64);
    again(block, 64);
}

static void small_overwritten_after_one(void)
{
    char *block = block_of(64), *other = block_of(64);
    free(block);
    free(other);
    if (!legal) memset(block, 0, 64);
    again(block, 64);
}

static void medium_overwritten_after_one(void)
{
    char *block = block_of(2000), *other = block_of(2000), *guard = block_of(2000);
    free(block);
    free(other);
    if (!legal) memset(block, 0, 2000);
    again(block, 2000);
    free(guard);
}

static void pages_overwritten_after_one(void)
{
    char *block = block_of(20000), *other = block_of(20000), *guard = block_of(20000);
    free(block);
    free(other);
    if (!legal) memset(block, 0, 20000);
    again(block, 20000);
    free(guard);
}

/* The C library has no room for more than seven blocks of a size where it only looks at the block itself. */
static void middling_overwritten_after_many(void)
{
    char *held[16], *guard = block_of(400);
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(400);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    if (!legal) memset(held[12], 0, 400);
    again(held[12], 400);
    free(guard);
}

/* The last byte before the block is zeroed between the frees, as a string that is one too long does. */
static void neighbour_wrote(void)
{
    char *first, *second;
    neighbours(256, &first, &second);
    free(second);
    if (!legal) second[-1] = 0;
    again(second, 256);
}

static const struct sin sins[] = {
    {"small", small},
    {"medium", medium},
    {"pages", pages},
    {"large", large},
    {"huge", huge},
    {"after-one", after_one},
    {"after-many", after_many},
    {"medium-after-many", medium_after_many},
    {"first-elsewhere", first_elsewhere},
    {"then-elsewhere", then_elsewhere},
    {"slab-gone", slab_gone},
    {"after-realloc", after_realloc},
    {"aligned", aligned},
    {"grown", grown_twice},
    {"small-overwritten", small_overwritten},
    {"small-overwritten-after-one", small_overwritten_after_one},
    {"middling-overwritten-after-many", middling_overwritten_after_many},
    {"medium-overwritten-after-one", medium_overwritten_after_one},
    {"pages-overwritten-after-one", pages_overwritten_after_one},
    {"neighbour-wrote", neighbour_wrote},
};

MAIN(sins)
