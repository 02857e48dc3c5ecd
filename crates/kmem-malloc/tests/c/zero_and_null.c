/* Zero sizes, null pointers, and the forms of realloc. */
#include "check.h"

int main(void)
{
    /* A zero size is a block of its own. */
    void *zero[64];
    for (size_t i = 0; i < COUNT(zero); i++) {
        switch (i % 6) {
        case 0: zero[i] = malloc(opaque(0)); break;
        case 1: zero[i] = calloc(opaque(0), 8); break;
        case 2: zero[i] = calloc(opaque(8), 0); break;
        case 3: zero[i] = realloc(NULL, opaque(0)); break;
        case 4: zero[i] = reallocarray(NULL, opaque(0), SIZE_MAX); break;
        case 5: zero[i] = calloc(0, opaque(SIZE_MAX)); break;
        }
        CHECK(zero[i] != NULL);
        CHECK(aligned_to(zero[i], 16));
        for (size_t k = 0; k < i; k++) CHECK(zero[k] != zero[i]);
    }
    for (size_t i = 0; i < COUNT(zero); i++) free(zero[i]);

    void *block = memalign(256, opaque(0));
    CHECK(block != NULL && aligned_to(block, 256));
    free(block);
    block = aligned_alloc(64, opaque(0));
    CHECK(block != NULL && aligned_to(block, 64));
    free(block);
    CHECK(posix_memalign(&block, 4096, opaque(0)) == 0);
    CHECK(block != NULL && aligned_to(block, 4096));
    free(block);
    block = valloc(opaque(0));
    CHECK(block != NULL && aligned_to(block, 4096));
    free(block);
    block = pvalloc(opaque(0));
    CHECK(block != NULL && aligned_to(block, 4096));
    free(block);

    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);

    /* realloc(NULL, n) is malloc(n). */
    block = realloc(NULL, 100);
    CHECK(block != NULL && malloc_usable_size(block) >= 100);
    /* realloc(p, 0) frees, returns null and leaves errno alone; so does a zero product. */
    errno = 7;
    CHECK(realloc(block, opaque(0)) == NULL);
    CHECK(errno == 7);
    block = malloc(100000);
    CHECK(realloc(block, opaque(0)) == NULL);
    CHECK(errno == 7);
    block = malloc(100);
    CHECK(reallocarray(block, opaque(0), SIZE_MAX) == NULL);
    CHECK(errno == 7);
    block = malloc(100);
    CHECK(reallocarray(block, SIZE_MAX, opaque(0)) == NULL);
    CHECK(errno == 7);
    return ok();
}
