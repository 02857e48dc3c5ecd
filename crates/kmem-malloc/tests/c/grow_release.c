/* 4 GiB grown and released three times: resident size and address space return to where they began.
 * argv[1] is the block size. Blocks are touched sparsely, so that a small machine can do it. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    size_t size = strtoul(argv[1], NULL, 10);
    size_t total = size < 4096 ? in_small_blocks((size_t)128 << 20) : (size_t)4 << 30;
    size_t step = size < 4096 ? size : (size_t)64 << 10;
    free(malloc(1));
    void **warm = malloc(size);
    CHECK(warm != NULL);
    free(warm);
    malloc_trim(0);
    size_t start = resident(), space = 0;
    for (int round = 0; round < 3; round++) {
        void **list = NULL;
        size_t expected = 0;
        for (size_t have = 0; have < total; have += size) {
            void **block = malloc(size);
            CHECK(block != NULL);
            for (size_t at = 0; at < size; at += step) ((volatile char *)block)[at] = 1;
            expected += size < 4096 ? size : (size + step - 1) / step * 4096;
            block[0] = list;
            list = block;
        }
        CHECK(resident() >= start + expected / 10 * 9);
        while (list != NULL) {
            void **next = list[0];
            free(list);
            list = next;
        }
        /* Blocks of pages go back by themselves; small ones may be kept in reserve until asked for. */
        if (size < 4096) malloc_trim(0);
        CHECK(resident() < start + (8 << 20));
        /* Address space does not creep: a later round needs no more than the first. */
        if (round == 0) space = statm(0);
        CHECK(statm(0) <= space + (64 << 20));
    }
    return ok();
}
