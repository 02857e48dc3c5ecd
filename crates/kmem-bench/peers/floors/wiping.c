/*
 * A floor of the hardened heaps: a malloc whose free clears the block, and that does nothing else for anybody's safety. So no allocator that
 * has cleared a block when its free returns takes less, unless the system does it.
 *
 * A word in front of each block says how long it may be: the next of four lengths for each doubling. Each thread has a chain of free blocks
 * for each length. Nothing goes back to the system, or from one length to another; a block stays with whoever frees it, who must have
 * asked for one before, and a thread that ends loses what it has.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK ((size_t)1 << 20)
#define LENGTHS 256

/* In front of each block, which is aligned to 16 bytes. */
struct head {
    union {
        /* While it is free. */
        struct head *next;
        /* While it is in use: where the piece begins that it was cut from. */
        struct head *first;
    };
    size_t length;
};

/* A library that a test loads later has few bytes for each thread, so the chains are elsewhere. All are empty until then. */
static struct head *none[LENGTHS];
static __thread struct head **chains = none;
static __thread char *at, *end;

/* The number of the least length that is enough. */
static inline size_t number(size_t size)
{
    if (size <= 64)
        return (size + 15) / 16;
    size_t last = size - 1, log = 63 - (size_t)__builtin_clzl(last);
    return (log - 6) * 4 + (last >> (log - 2) & 3) + 5;
}

static inline size_t bytes(size_t number)
{
    if (number <= 4)
        return number * 16;
    size_t log = (number - 5) / 4 + 6, quarter = (number - 5) % 4 + 5;
    return quarter << (log - 2);
}

__attribute__((noinline, cold)) static struct head *cut(size_t number)
{
    if (chains == none) {
        void *page = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
            return NULL;
        chains = page;
    }
    size_t size = bytes(number) + sizeof(struct head);
    if (size > (size_t)(end - at)) {
        size_t length = size > CHUNK ? (size + 4095) & ~(size_t)4095 : CHUNK;
        char *chunk = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED)
            return NULL;
        at = chunk;
        end = chunk + length;
    }
    struct head *head = (struct head *)at;
    at += size;
    head->length = number;
    return head;
}

static inline void *take(size_t size)
{
    if (size > PTRDIFF_MAX)
        return NULL;
    size_t length = number(size);
    struct head *head = chains[length];
    if (__builtin_expect(head != NULL, 1))
        chains[length] = head->next;
    else if (!(head = cut(length)))
        return NULL;
    head->first = head;
    return head + 1;
}

static inline void give(void *block)
{
    if (!block)
        return;
    struct head *head = ((struct head *)block - 1)->first;
    char *start = (char *)(head + 1);
    memset(start, 0, bytes(head->length));
    head->next = chains[head->length];
    chains[head->length] = head;
}

void *malloc(size_t size)
{
    return take(size);
}

void free(void *block)
{
    give(block);
}

/* All free blocks are zero. */
void *calloc(size_t count, size_t size)
{
    size_t whole;
    return __builtin_mul_overflow(count, size, &whole) ? NULL : take(whole);
}

void *realloc(void *block, size_t size)
{
    if (!block)
        return take(size);
    struct head *head = ((struct head *)block - 1)->first;
    size_t room = (size_t)((char *)(head + 1) + bytes(head->length) - (char *)block);
    if (size <= room)
        return block;
    void *other = take(size);
    if (other) {
        memcpy(other, block, room);
        give(block);
    }
    return other;
}

/* A second head, right in front of the block, leads to the first. */
void *aligned_alloc(size_t align, size_t size)
{
    if (align <= 16)
        return take(size);
    char *whole = take(size + align);
    if (!whole)
        return NULL;
    char *block = (char *)(((uintptr_t)whole + align) & -align);
    ((struct head *)block - 1)->first = (struct head *)whole - 1;
    return block;
}

int posix_memalign(void **block, size_t align, size_t size)
{
    *block = aligned_alloc(align, size);
    return *block ? 0 : 12;
}
