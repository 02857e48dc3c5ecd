/* A write outside of a block. The nearest legal program writes the outermost bytes that are the block's. */
#include "sin.h"

/* Something else than is there: what nobody expects may by chance be what is written. */
static char other_than(char there)
{
    return there == 0x41 ? 0x61 : 0x41;
}

/* Writes `count` bytes from `offset` on; the legal program as many bytes of the block. Frees it then. */
static void write_and_free(char *block, ptrdiff_t offset, size_t count, ptrdiff_t allowed)
{
    announce(block);
    volatile char *at = block + (legal ? allowed : offset);
    for (size_t i = 0; i < count; i++) at[i] = other_than(at[i]);
    free(block);
}

/* As many bytes as may be used. */
static ptrdiff_t room(void *block)
{
    return (ptrdiff_t)malloc_usable_size(block);
}

static void right_by_one(size_t size)
{
    char *block = block_of(size);
    write_and_free(block, room(block), 1, room(block) - 1);
}

static void right_1(void)
{
    right_by_one(64);
}

static void right_1_medium(void)
{
    right_by_one(2000);
}

static void right_1_pages(void)
{
    right_by_one(20000);
}

/* The last block before the end of a page, if blocks end near pages' ends at all. */
static void right_1_last(void)
{
    char *block = NULL;
    for (int i = 0; i < 2000; i++) {
        block = block_of(64);
        if (((uintptr_t)block + (uintptr_t)room(block) + 8) % 4096 == 0) break;
    }
    write_and_free(block, room(block), 1, room(block) - 1);
}

static void right_1_page(void)
{
    right_by_one(4096);
}

static void right_1_buffer(void)
{
    right_by_one(65536);
}

/* Pages that nobody touched are handed out as they are. As long as the C library's block has no byte to spare. */
static void right_1_zeroed(void)
{
    char *block = (char *)calloc(1, 65528);
    CHECK(block != NULL);
    write_and_free(block, room(block), 1, room(block) - 1);
}

/* Aligned to more than blocks of its size are anywhere. */
static void right_1_aligned(void)
{
    char *block = (char *)memalign(65536, 1000);
    CHECK(block != NULL);
    write_and_free(block, room(block), 1, room(block) - 1);
}

static void right_1_large(void)
{
    right_by_one(200000);
}

static void right_8(void)
{
    char *block = block_of(64);
    write_and_free(block, room(block), 8, room(block) - 8);
}

/* Between what was asked for and what the size class has. */
static void slack(void)
{
    char *block = block_of(50);
    write_and_free(block, 50, 1, 49);
}

static void slack_large(void)
{
    char *block = block_of(200100);
    write_and_free(block, 200100, 1, 200099);
}

static void slack_huge(void)
{
    ptrdiff_t size = (8 << 20) + 100;
    write_and_free(block_of((size_t)size), size, 1, size - 1);
}

static void zero_bytes(void)
{
    char *block = block_of(0);
    announce(block);
    if (!legal) block[0] = other_than(block[0]);
    free(block);
}

/* A block that begins no page: before one that does may lie nothing that is anybody's. */
static char *within_a_page(void)
{
    char *block;
    do block = block_of(64); while ((uintptr_t)block % 4096 == 0);
    return block;
}

static void left_1(void)
{
    write_and_free(within_a_page(), -1, 1, 0);
}

static void left_8(void)
{
    write_and_free(within_a_page(), -8, 8, 0);
}

static void left_1_large(void)
{
    char *block = block_of(200000);
    write_and_free(block, -1, 1, 0);
}

/* On into the block behind, which is freed then. */
static void into_the_next(void)
{
    char *first, *second;
    neighbours(64, &first, &second);
    announce(first);
    memset(first, 0x41, legal ? 64 : (size_t)(second - first) + 8);
    free(second);
    free(first);
}

/* A whole block further, over what lies between. */
static void far(void)
{
    char *first, *second;
    neighbours(64, &first, &second);
    announce(first);
    memset(first, 0x41, legal ? 64 : (size_t)(second - first) + 64 + 32);
    free(first);
    free(second);
}

/* Into a block behind that is free. */
static void into_a_free_one(void)
{
    char *first, *second;
    neighbours(64, &first, &second);
    free(second);
    announce(first);
    memset(first, 0x41, legal ? 64 : (size_t)(second - first) + 16);
    free(first);
    free(block_of(64));
}

/* One byte behind a block whose next neighbour is free. */
static void beside_a_free_one(void)
{
    char *first, *second;
    neighbours(64, &first, &second);
    free(second);
    announce(first);
    volatile char *at = first + (legal ? 63 : room(first));
    *at = other_than(*at);
    free(block_of(64));
    free(first);
}

static void calloc_product(void)
{
    void *block = calloc(opaque(SIZE_MAX / 2), legal ? 0 : 4);
    announce(block);
    CHECK(legal || (block == NULL && errno == ENOMEM));
    free(block);
}

static void array_product(void)
{
    void *block = reallocarray(NULL, legal ? 4 : opaque(SIZE_MAX / 2), 4);
    announce(block);
    CHECK(legal || (block == NULL && errno == ENOMEM));
    free(block);
}

static const struct sin sins[] = {
    {"right-1", right_1},
    {"right-1-medium", right_1_medium},
    {"right-1-pages", right_1_pages},
    {"right-1-page", right_1_page},
    {"right-1-buffer", right_1_buffer},
    {"right-1-zeroed", right_1_zeroed},
    {"right-1-aligned", right_1_aligned},
    {"right-1-last", right_1_last},
    {"right-1-large", right_1_large},
    {"right-8", right_8},
    {"slack", slack},
    {"slack-large", slack_large},
    {"slack-huge", slack_huge},
    {"zero-bytes", zero_bytes},
    {"left-1", left_1},
    {"left-8", left_8},
    {"left-1-large", left_1_large},
    {"into-the-next", into_the_next},
    {"far", far},
    {"into-a-free-one", into_a_free_one},
    {"beside-a-free-one", beside_a_free_one},
    {"calloc-product", calloc_product},
    {"array-product", array_product},
};

MAIN(sins)
