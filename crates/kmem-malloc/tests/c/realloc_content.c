/* realloc keeps the content up to the smaller size, through small, large and huge, and from aligned blocks. */
#include "check.h"

static void *resize(void *block, size_t old, size_t new, uint64_t seed)
{
    block = realloc(block, new);
    CHECK(block != NULL);
    CHECK(aligned_to(block, 16));
    CHECK(malloc_usable_size(block) >= new);
    CHECK(intact(block, old < new ? old : new, old, seed));
    fill(block, new, seed);
    return block;
}

int main(void)
{
    static const size_t stops[] = {1, 40, 1000, 5000, 40000, 70000, 1 << 20, 3 << 20, (4 << 20) + 1, 9 << 20, 20 << 20};
    /* Every stop to every other, with neighbours of the old and the new size around. */
    for (size_t from = 0; from < COUNT(stops); from++) {
        for (size_t to = 0; to < COUNT(stops); to++) {
            void *block = malloc(stops[from]);
            CHECK(block != NULL);
            void *near_old = malloc(stops[from]);
            fill(block, stops[from], from);
            fill(near_old, stops[from] < 4096 ? stops[from] : 4096, 99);
            block = resize(block, stops[from], stops[to], from);
            CHECK(intact(near_old, stops[from] < 4096 ? stops[from] : 4096, stops[from] < 4096 ? stops[from] : 4096, 99));
            free(near_old);
            block = resize(block, stops[to], stops[from], from);
            free(block);
        }
    }
    /* Creeping growth, as a text buffer grows, and back. */
    size_t size = 1;
    void *block = malloc(size);
    fill(block, size, 5);
    while (size < ((size_t)8 << 20)) {
        size_t more = size + size / 8 + 13;
        block = resize(block, size, more, 5);
        size = more;
    }
    while (size > 20) {
        size_t less = size - size / 7 - 1;
        block = resize(block, size, less, 5);
        size = less;
    }
    free(block);
    /* A random walk of several blocks that get in each other's way. */
    uint64_t random = 88172645463325252u;
    void *walk[32] = {0};
    size_t have[32] = {0};
    for (int step = 0; step < 6000; step++) {
        size_t i = next_random(&random) % 32;
        size_t want = 1 + next_random(&random) % ((size_t)1 << (4 + next_random(&random) % 15));
        if (walk[i] == NULL) {
            walk[i] = malloc(want);
            CHECK(walk[i] != NULL);
            fill(walk[i], want, i);
        } else {
            walk[i] = resize(walk[i], have[i], want, i);
        }
        have[i] = want;
    }
    for (int i = 0; i < 32; i++) {
        CHECK(intact(walk[i], have[i], have[i], (uint64_t)i));
        free(walk[i]);
    }
    /* An aligned block may be resized like any other; its alignment need not stay. */
    for (size_t align = 32; align <= ((size_t)8 << 20); align *= 8) {
        block = memalign(align, 3000);
        CHECK(block != NULL);
        fill(block, 3000, align);
        block = resize(block, 3000, 30000, align);
        block = resize(block, 30000, 10, align);
        free(block);
    }
    return ok();
}
