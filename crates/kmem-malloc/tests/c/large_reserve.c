/* Large blocks that were freed are kept for those who want the same again, and not longer: with some small work going on,
 * the resident size is near the live data two seconds after the load. Zeroed blocks are zero whatever lay there before. */
#include "check.h"

enum { BLOCKS = 64 };

static unsigned long long seed = 17;

static size_t below(size_t limit)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (size_t)(seed >> 33) % limit;
}

/* Kept out of line, so that no compiler takes the pair away. */
static void *volatile sink;

static void small_work(void)
{
    static void *list[2000];
    for (int i = 0; i < 2000; i++) list[i] = malloc(200);
    for (int i = 0; i < 2000; i++) free(list[i]);
}

int main(void)
{
    static char *blocks[BLOCKS];
    small_work();
    sink = malloc(100000);
    free(sink);
    malloc_trim(0);
    size_t start = resident();
    for (int turn = 0; turn < 4000; turn++) {
        char **slot = &blocks[below(BLOCKS)];
        size_t size = ((size_t)16 << 10) + below((size_t)4 << 20);
        free(*slot);
        if (turn % 3 == 0) {
            *slot = calloc(1, size);
            CHECK(*slot != NULL);
            for (int look = 0; look < 64; look++) CHECK((*slot)[below(size)] == 0);
        } else {
            *slot = malloc(size);
            CHECK(*slot != NULL);
        }
        CHECK(malloc_usable_size(*slot) >= size);
        (*slot)[0] = 1;
        (*slot)[size / 2] = 1;
        (*slot)[size - 1] = 1;
        if (turn % 50 == 0) memset(*slot, 0x5a, size);
    }
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    /* Two seconds; on a machine that has other things to do, until they were seconds for us as well. */
    for (int tenth = 0; tenth < 20 || (tenth < 60 && resident() >= start + (3 << 20)); tenth++) {
        usleep(100000);
        small_work();
    }
    CHECK(resident() < start + (3 << 20));
    return ok();
}
