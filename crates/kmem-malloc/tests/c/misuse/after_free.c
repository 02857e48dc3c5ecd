/* A block is used after it was freed. The nearest legal program does the same before the free. */
#include "sin.h"

/* Writes one byte of a block of `size` bytes when it was freed, then allocates it again. */
static void write_at(size_t size, size_t offset)
{
    volatile char *block = memset(block_of(size), 1, size);
    announce((char *)block);
    if (legal) block[offset] = 0x55;
    free((char *)block);
    if (!legal) block[offset] = 0x55;
    free(block_of(size));
}

static void write_first(void)
{
    write_at(64, 0);
}

static void write_middle(void)
{
    write_at(64, 32);
}

static void write_last(void)
{
    write_at(64, 63);
}

/* The byte behind it: a checked heap's red zone. A block follows that stays. Soon the first one is wanted again. */
static void write_behind(void)
{
    char *first, *second;
    neighbours(64, &first, &second);
    volatile char *at = first + malloc_usable_size(first);
    announce(first);
    if (legal) at[-1] ^= 0x55;
    free(first);
    if (!legal) *at ^= 0x55;
    for (int i = 0; i < 100; i++) CHECK(block_of(64) != NULL);
}

static void write_medium(void)
{
    write_at(2000, 1000);
}

static void write_pages(void)
{
    write_at(20000, 10000);
}

static void write_large(void)
{
    write_at(200000, 100000);
}

static void write_huge(void)
{
    write_at((size_t)8 << 20, 4 << 20);
}

/* What is read from a freed block is not what was written: 0x6b is the poison of a checked heap. */
static void read_freed(void)
{
    volatile unsigned char *block = memset(block_of(64), 1, 64);
    announce((unsigned char *)block);
    if (legal) {
        CHECK(block[40] == 1);
        free((unsigned char *)block);
        return;
    }
    free((unsigned char *)block);
    char text[32];
    snprintf(text, sizeof text, "read %#x\n", block[40]);
    line(text);
}

static void read_huge(void)
{
    volatile unsigned char *block = block_of((size_t)8 << 20);
    announce((unsigned char *)block);
    if (legal) (void)block[4 << 20];
    free((unsigned char *)block);
    if (!legal) (void)block[4 << 20];
}

/* Everything that waits to be used again is written over; then it is used again. */
static void write_everything(void)
{
    char *held[600];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(64);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    announce(held[0]);
    if (!legal) {
        for (size_t i = 0; i < COUNT(held); i++) memset(held[i], 0x55, 64);
    }
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(64);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
}

/* A block that grew, and is wanted again by one that grows. */
static void write_grown(void)
{
    char *block = realloc(block_of(1), 5000), *guard = block_of(64);
    CHECK(block != NULL);
    announce(block);
    if (legal) memset(block, 0x55, 5000);
    free(block);
    if (!legal) memset(block, 0x55, 5000);
    free(guard);
    free(realloc(block_of(1), 5000));
}

static void resize(size_t size, size_t to)
{
    void *block = block_of(size);
    free(block);
    if (legal) block = block_of(size);
    CHECK(realloc(announce(block), to) != NULL || !legal);
}

static void realloc_small(void)
{
    resize(64, 1000);
}

static void realloc_in_place(void)
{
    resize(64, 60);
}

static void realloc_large(void)
{
    resize(200000, 300000);
}

static void realloc_huge(void)
{
    resize((size_t)8 << 20, (size_t)9 << 20);
}

static void usable_size(void)
{
    void *block = block_of(64);
    free(block);
    if (legal) block = block_of(64);
    CHECK(malloc_usable_size(announce(block)) < SIZE_MAX);
}

static const struct sin sins[] = {
    {"read", read_freed},
    {"read-huge", read_huge},
    {"write-first", write_first},
    {"write-middle", write_middle},
    {"write-last", write_last},
    {"write-behind", write_behind},
    {"write-medium", write_medium},
    {"write-pages", write_pages},
    {"write-large", write_large},
    {"write-huge", write_huge},
    {"write-everything", write_everything},
    {"write-grown", write_grown},
    {"realloc", realloc_small},
    {"realloc-in-place", realloc_in_place},
    {"realloc-large", realloc_large},
    {"realloc-huge", realloc_huge},
    {"usable-size", usable_size},
};

MAIN(sins)
