/* What each aligned allocation makes of its arguments. */
#include "check.h"

int main(void)
{
    void *mark = &mark, *block;

    /* posix_memalign: bad alignments are returned, not set, and the result is not written. */
    static const size_t bad[] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 24, 48, 100, 4097, SIZE_MAX, SIZE_MAX - 7};
    for (size_t i = 0; i < COUNT(bad); i++) {
        block = mark;
        errno = 7;
        CHECK(posix_memalign(&block, opaque(bad[i]), 100) == EINVAL);
        CHECK(errno == 7);
        CHECK(block == mark);
    }
    CHECK(posix_memalign(&block, sizeof(void *), 100) == 0);
    CHECK(aligned_to(block, 16));
    free(block);
    block = mark;
    CHECK(posix_memalign(&block, opaque((size_t)1 << 62), 1) == ENOMEM);
    CHECK(block == mark);

    /* aligned_alloc: a power of two, nothing else; the size is free. */
    if (!plain()) {
        static const size_t refused[] = {0, 3, 5, 6, 7, 12, 24, 100, 4097, SIZE_MAX, ((size_t)1 << 63) + 1};
        for (size_t i = 0; i < COUNT(refused); i++) {
            errno = 7;
            CHECK(aligned_alloc(opaque(refused[i]), 100) == NULL);
            CHECK(errno == EINVAL);
        }
    }
    for (size_t align = 1; align <= 65536; align *= 2) {
        block = aligned_alloc(align, 33);
        CHECK(block != NULL && aligned_to(block, align) && aligned_to(block, 16));
        CHECK(malloc_usable_size(block) >= 33);
        free(block);
    }

    /* memalign rounds the alignment up to a power of two, as far as there is one. */
    static const struct { size_t asked, given; } rounded[] = {
        {0, 16}, {1, 16}, {3, 16}, {17, 32}, {24, 32}, {33, 64}, {100, 128}, {4097, 8192}, {65537, 131072},
    };
    for (size_t i = 0; i < COUNT(rounded); i++) {
        block = memalign(opaque(rounded[i].asked), 50);
        CHECK(block != NULL && aligned_to(block, rounded[i].given));
        free(block);
    }
    errno = 7;
    CHECK(memalign(opaque(((size_t)1 << 63) + 1), 1) == NULL);
    CHECK(errno == EINVAL);
    errno = 7;
    CHECK(memalign(opaque(SIZE_MAX), SIZE_MAX) == NULL);
    CHECK(errno == EINVAL);

    /* valloc and pvalloc: pages; pvalloc also rounds the size up to whole ones. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t size = 1; size < 5 * page; size += 777) {
        block = valloc(size);
        CHECK(block != NULL && aligned_to(block, page) && malloc_usable_size(block) >= size);
        free(block);
        block = pvalloc(size);
        CHECK(block != NULL && aligned_to(block, page));
        CHECK(malloc_usable_size(block) >= (size + page - 1) / page * page);
        free(block);
    }
    errno = 7;
    CHECK(pvalloc(opaque(SIZE_MAX - page + 2)) == NULL);
    CHECK(errno == ENOMEM);
    return ok();
}
