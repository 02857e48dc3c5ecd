/* The fields of mallinfo2 and mallinfo move with use. */
#include "check.h"
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

int main(void)
{
    enum { BLOCKS = 20000, SIZE = 1000 };
    static void *held[BLOCKS];
    free(malloc(1));
    struct mallinfo2 start = mallinfo2();
    for (int i = 0; i < BLOCKS; i++) CHECK((held[i] = malloc(SIZE)) != NULL);
    struct mallinfo2 full = mallinfo2();
    size_t bytes = (size_t)BLOCKS * SIZE;
    CHECK(full.uordblks >= start.uordblks + bytes);
    CHECK(full.uordblks < start.uordblks + bytes + bytes / 4);
    CHECK(full.arena >= full.uordblks);
    CHECK(full.arena == full.uordblks + full.fordblks);
    struct mallinfo small = mallinfo();
    CHECK((unsigned)small.uordblks == (unsigned)full.uordblks);
    CHECK((unsigned)small.arena == (unsigned)full.arena);
    for (int i = 0; i < BLOCKS; i++) free(held[i]);
    struct mallinfo2 end = mallinfo2();
    CHECK(end.uordblks < start.uordblks + bytes / 10);
    CHECK(end.arena == end.uordblks + end.fordblks);

    /* A mapping of its own is counted apart. */
    size_t huge = (size_t)64 << 20;
    void *block = malloc(huge);
    CHECK(block != NULL);
    struct mallinfo2 mapped = mallinfo2();
    CHECK(mapped.hblks == end.hblks + 1);
    CHECK(mapped.hblkhd >= end.hblkhd + huge);
    CHECK(mapped.uordblks < end.uordblks + huge / 2);
    free(block);
    struct mallinfo2 gone = mallinfo2();
    CHECK(gone.hblks == end.hblks && gone.hblkhd == end.hblkhd);
    return ok();
}
