/* Every failing call returns null (or the code) with ENOMEM, and leaves an old block whole. */
#include "check.h"

#define FAILS(call)                                                                                       \
    do {                                                                                                  \
        errno = 0;                                                                                        \
        void *result = (call);                                                                            \
        CHECK(result == NULL);                                                                            \
        CHECK(errno == ENOMEM);                                                                           \
    } while (0)

int main(void)
{
    static const size_t too_large[] = {
        (size_t)PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, SIZE_MAX / 2 + 4096, SIZE_MAX - 4096, SIZE_MAX - 16, SIZE_MAX,
    };
    for (size_t i = 0; i < COUNT(too_large); i++) {
        size_t size = opaque(too_large[i]);
        FAILS(malloc(size));
        FAILS(calloc(1, size));
        FAILS(calloc(size, 1));
        FAILS(calloc(size, 2));
        FAILS(realloc(NULL, size));
        FAILS(reallocarray(NULL, size, 1));
        FAILS(reallocarray(NULL, size, 3));
        FAILS(memalign(64, size));
        FAILS(memalign(1 << 20, size));
        FAILS(aligned_alloc(64, size));
        FAILS(valloc(size));
        FAILS(pvalloc(size));

        void *untouched = &untouched;
        CHECK(posix_memalign(&untouched, 64, size) == ENOMEM);
        CHECK(untouched == &untouched);

        static const size_t olds[] = {1, 100, 5000, 100000, 6 << 20};
        for (size_t k = 0; k < COUNT(olds); k++) {
            unsigned char *old = malloc(olds[k]);
            CHECK(old != NULL);
            fill(old, olds[k], k);
            FAILS(realloc(old, size));
            FAILS(reallocarray(old, size, 1));
            FAILS(reallocarray(old, size, 7));
            CHECK(intact(old, olds[k], olds[k], k));
            free(old);
        }
    }
    /* Products that wrap round to something small. */
    size_t half = opaque((size_t)1 << 32);
    FAILS(calloc(half, half));
    FAILS(calloc(half + 1, half));
    FAILS(reallocarray(NULL, half, half));
    FAILS(calloc(SIZE_MAX / 3, 5));
    FAILS(calloc(SIZE_MAX, SIZE_MAX));
    FAILS(reallocarray(NULL, SIZE_MAX, SIZE_MAX));
    /* Too much for any machine, but below PTRDIFF_MAX. */
    FAILS(malloc(opaque((size_t)1 << 60)));
    FAILS(calloc(opaque((size_t)1 << 30), (size_t)1 << 30));
    FAILS(memalign(opaque((size_t)1 << 62), 1));
    FAILS(memalign(opaque((size_t)1 << 63), 1));
    FAILS(aligned_alloc(opaque((size_t)1 << 62), 1));
    return ok();
}
