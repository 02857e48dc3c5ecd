/* A block may be written to the last byte of its usable size without touching its neighbours. */
#include "check.h"

#define BLOCKS 24

static void table(size_t size, size_t align)
{
    void *held[BLOCKS];
    size_t usable[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        held[i] = align > 16 ? memalign(align, size) : malloc(size);
        CHECK(held[i] != NULL);
        usable[i] = malloc_usable_size(held[i]);
        CHECK(usable[i] >= size);
        fill(held[i], usable[i], (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(malloc_usable_size(held[i]) == usable[i]);
        CHECK(intact(held[i], usable[i], usable[i], (uint64_t)i));
    }
    /* Growing into the usable size keeps the content, wherever the block ends up. */
    for (int i = 0; i < BLOCKS; i += 2) {
        /* A hardened heap has not a byte more than was asked for, and no bytes would free the block. */
        if (usable[i] == 0) continue;
        held[i] = realloc(held[i], usable[i]);
        CHECK(held[i] != NULL && malloc_usable_size(held[i]) >= usable[i]);
        CHECK(intact(held[i], usable[i], usable[i], (uint64_t)i));
    }
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(intact(held[i], usable[i], usable[i], (uint64_t)i));
        free(held[i]);
    }
}

int main(void)
{
    for (size_t size = 0; size <= 1100; size++) table(size, 16);
    for (size_t size = 1100; size < 40000; size += 331) table(size, 16);
    for (size_t size = 40000; size < 1500000; size += size / 4) table(size, 16);
    table((4 << 20) - 1, 16);
    table((4 << 20) + 5000, 16);
    for (size_t align = 32; align <= 65536; align *= 2) {
        for (size_t size = 1; size < 30000; size = size * 5 / 3 + 7) table(size, align);
    }
    return ok();
}
