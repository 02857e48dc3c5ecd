/* Blocks around the sizes from which on memory is whole pages, by every call that makes one: each is the caller's to its last usable
 * byte, zero where that was asked for, and keeps its content while others come, go and change their sizes. */
#include "check.h"

#define HELD 40
#define STEPS 40000

static struct {
    char *block;
    size_t usable;
    uint64_t seed;
} held[HELD];

static int is_zero(const char *bytes, size_t size)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static size_t some_size(uint64_t *random)
{
    /* One in four right at the end of a page, or a word before or behind it. */
    size_t size = 20000 + next_random(random) % 130000;
    if (next_random(random) % 4 == 0) size = (size & ~(size_t)4095) + next_random(random) % 19 - 9;
    return size;
}

static void keep(size_t i, char *block, size_t size, uint64_t seed)
{
    CHECK(block != NULL && aligned_to(block, 16));
    size_t usable = malloc_usable_size(block);
    CHECK(usable >= size);
    fill(block, usable, seed);
    held[i].block = block;
    held[i].usable = usable;
    held[i].seed = seed;
}

int main(void)
{
    uint64_t random = 88172645463325252u;
    size_t steps = in_small_blocks(STEPS);
    for (size_t step = 0; step < steps; step++) {
        size_t i = next_random(&random) % HELD;
        size_t size = some_size(&random);
        char *block = held[i].block;
        uint64_t what = next_random(&random) % 5;
        if (block == NULL) {
            size_t align = (size_t)16 << next_random(&random) % 14;
            if (what < 2) {
                block = (char *)calloc(1, size);
                CHECK(block != NULL && is_zero(block, size));
            } else if (what == 2) {
                block = (char *)memalign(align, size);
                CHECK(aligned_to(block, align));
            } else if (what == 3) {
                size = (size + 4095) & ~(size_t)4095;
                block = (char *)aligned_alloc(4096, size);
                CHECK(aligned_to(block, 4096));
            } else {
                block = (char *)malloc(size);
            }
            keep(i, block, size, step);
            continue;
        }
        CHECK(malloc_usable_size(block) == held[i].usable);
        CHECK(intact(block, held[i].usable, held[i].usable, held[i].seed));
        if (what < 2) {
            size_t both = size < held[i].usable ? size : held[i].usable;
            block = (char *)realloc(block, size);
            CHECK(block != NULL && intact(block, both, held[i].usable, held[i].seed));
            keep(i, block, size, step);
        } else {
            free(block);
            held[i].block = NULL;
        }
    }
    for (size_t i = 0; i < HELD; i++) {
        if (held[i].block != NULL) CHECK(intact(held[i].block, held[i].usable, held[i].usable, held[i].seed));
        free(held[i].block);
    }
    return ok();
}
