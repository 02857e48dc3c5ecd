/* mallopt takes every parameter of the C library and refuses what it refuses. */
#include "check.h"

int main(void)
{
    static const int names[] = {M_MXFAST, M_NLBLKS, M_GRAIN, M_KEEP, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD,
                                M_MMAP_MAX, M_CHECK_ACTION, M_ARENA_TEST, M_ARENA_MAX};
    for (size_t i = 0; i < COUNT(names); i++) CHECK(mallopt(names[i], 64) == 1);
    CHECK(mallopt(M_PERTURB, 0) == 1);
    CHECK(mallopt(M_MXFAST, 0) == 1);
    CHECK(mallopt(M_MXFAST, 160) == 1);
    CHECK(mallopt(M_MXFAST, 161) == 0);
    CHECK(mallopt(M_MXFAST, -1) == 0);
    CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
    CHECK(mallopt(M_TRIM_THRESHOLD, -1) == 1);
    /* A name nobody knows is not an error in the C library either. */
    CHECK(mallopt(12345, 1) == 1);
    void *block = malloc(100);
    CHECK(block != NULL);
    free(block);
    return ok();
}
