/*
 * A floor, not an allocator: what a row costs when malloc and free do as near to nothing as the bench program survives.
 *
 * malloc hands out the slots of a ring one after the other, without looking whether they are in use; free makes the slot that is
 * given back the next one. The bench program says how long its slots are and how many it has at once (`nothing_ring`), then the
 * live ones are always different: it frees all before it begins anew, or one before it takes one. What is asked for before
 * that, or is longer than a slot, comes from the rest of the region, for good. One thread; no other program is safe on it.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define REGION ((size_t)64 << 20)
/* Blocks of at most this many bytes come from slots as long as this as long as there is no ring. */
#define SLOT ((size_t)1024)

static char region[REGION] __attribute__((aligned(4096)));
/* The first half is for slots before there is a ring, the second for the ring, and for all that is longer. */
static char *rest = region + REGION / 2;
static char *at = region;
static char *start = region, *end = region + REGION / 2;
static size_t slot = SLOT;
/* 0 until there is a ring: then nothing is used again. */
static size_t length;

__attribute__((noinline, cold)) static void *far(size_t size, size_t align)
{
    char *block = (char *)(((uintptr_t)rest + align - 1) & -align);
    if (size > (size_t)(region + REGION - block))
        return NULL;
    rest = block + size;
    return block;
}

static inline __attribute__((always_inline)) void *take(size_t size)
{
    if (__builtin_expect(size > slot, 0))
        return far(size, 64);
    char *block = at, *next = block + slot;
    at = next == end ? start : next;
    return block;
}

/* Short ones without another call: slots are multiples of 16 bytes. */
static inline __attribute__((always_inline)) void *zeroed(char *block, size_t size)
{
    typedef long long pair __attribute__((vector_size(16), may_alias));
    if (!block || size > 128)
        return block ? memset(block, 0, size) : NULL;
    for (size_t byte = 0; byte < size; byte += sizeof(pair))
        *(pair *)(block + byte) = (pair){0, 0};
    return block;
}

void *malloc(size_t size)
{
    return take(size);
}

void free(void *block)
{
    if ((size_t)((char *)block - start) < length)
        at = block;
}

void *calloc(size_t count, size_t size)
{
    return zeroed(take(count * size), count * size);
}

/* Copies more than there was, within the region. */
void *realloc(void *block, size_t size)
{
    void *other = take(size);
    return block && other ? memmove(other, block, size) : other;
}

void *aligned_alloc(size_t align, size_t size)
{
    void *block = take(size);
    return (uintptr_t)block & (align - 1) ? far(size, align) : block;
}

int posix_memalign(void **block, size_t align, size_t size)
{
    *block = aligned_alloc(align, size);
    return 0;
}

/* So many slots of so many bytes from now on. What lived before lives on elsewhere. */
void nothing_ring(size_t bytes, size_t slots)
{
    slot = bytes;
    start = at = far(bytes * slots, 4096);
    length = bytes * slots;
    end = start + length;
}
