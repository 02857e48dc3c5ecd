/* Every alignment to 64 KiB with sizes around every boundary; 128 MiB once; 16 for everything else. */
#include "check.h"

static const size_t sizes[] = {0,    1,    8,    15,   16,   17,    24,    31,    32,    33,     48,     63,         64,
                               65,   96,   100,  127,  128,  129,   192,   255,   256,   257,    384,    511,        512,
                               513,  1000, 1023, 1024, 1025, 1536,  2047,  2048,  2049,  3000,   4095,   4096,       4097,
                               6000, 8191, 8192, 8193, 9000, 12288, 16384, 20001, 32768, 32769,  65535,  65536,      65537,
                               99999, 131072, 262145, (1 << 20) + 1, (4 << 20) - 4096, 4 << 20, (4 << 20) + 1};

static void use(void *block, size_t align, size_t size)
{
    CHECK(block != NULL);
    CHECK(aligned_to(block, align));
    CHECK(aligned_to(block, 16));
    CHECK(malloc_usable_size(block) >= size);
    if (size > 0) {
        ((volatile char *)block)[0] = 1;
        ((volatile char *)block)[size - 1] = 1;
    }
}

int main(void)
{
    for (size_t align = 1; align <= 65536; align *= 2) {
        for (size_t i = 0; i < COUNT(sizes); i++) {
            /* Several at once, so that not all can be the first of a page. */
            void *held[9];
            for (int k = 0; k < 9; k += 3) {
                held[k] = memalign(align, sizes[i]);
                use(held[k], align, sizes[i]);
                held[k + 1] = aligned_alloc(align, sizes[i]);
                use(held[k + 1], align, sizes[i]);
                held[k + 2] = NULL;
                CHECK(posix_memalign(&held[k + 2], align < 8 ? 8 : align, sizes[i]) == 0);
                use(held[k + 2], align, sizes[i]);
            }
            for (int k = 0; k < 9; k++) free(held[k]);
        }
    }
    for (size_t align = 131072; align <= (size_t)128 << 20; align *= 2) {
        void *one = memalign(align, 1), *two = memalign(align, 100000);
        use(one, align, 1);
        use(two, align, 100000);
        free(one);
        free(two);
    }
    static void *held[4200];
    for (size_t size = 0; size < COUNT(held); size++) {
        held[size] = size % 2 ? malloc(size) : calloc(size, 1);
        use(held[size], 16, size);
    }
    for (size_t size = 0; size < COUNT(held); size++) {
        held[size] = realloc(held[size], size * 3 + 1);
        use(held[size], 16, size * 3 + 1);
        free(held[size]);
    }
    for (size_t size = 1; size <= (size_t)64 << 20; size += size / 3 + 1) {
        void *block = malloc(size);
        use(block, 16, size);
        free(block);
    }
    return ok();
}
