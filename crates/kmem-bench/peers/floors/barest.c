/*
 * A floor: the barest malloc behind calls that still serves any sequence of them. Each thread has an array of free blocks for
 * each 16 bytes of size, up to 1024; a byte for each 64 KiB of one reserved region says of which size the blocks there are.
 *
 * No check of any kind; nothing goes back to the system, or from one size to another. Longer blocks are pieces of the region that
 * are never used again; it is full after 64 MiB. Threads are not cared for: a block stays with whoever frees it, who must have
 * asked for one before, and a thread that ends loses what it has.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define SHIFT 16
#define PIECE ((size_t)1 << SHIFT)
#define REGION ((size_t)64 << 20)
#define STEP ((size_t)16)
#define MOST ((size_t)1024)
/* Classes 1 to 64, and one whose array is filled only. */
#define LONGER (MOST / STEP + 1)

static char region[REGION] __attribute__((aligned(PIECE)));
static uint8_t class_of[REGION >> SHIFT];
/* The first piece that was never used; threads share it. */
static char *fresh = region;

/* Where each array's last block stands. Before the first is an empty word, which says that there is none. */
static void *none[1];
static __thread void **top[LONGER + 1] = {[0 ... LONGER] = none};

/* Gives this thread arrays as long as they can ever become. Most of that is never touched. */
static int arrays(void)
{
    size_t words = REGION / PIECE + 1;
    for (size_t class = 1; class < LONGER; class++)
        words += REGION / (class * STEP) + 1;
    void **array = mmap(NULL, words * sizeof *array, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (array == MAP_FAILED)
        return 0;
    for (size_t class = 1; class <= LONGER; class++) {
        top[class] = array;
        array += class < LONGER ? REGION / (class * STEP) + 1 : 0;
    }
    return 1;
}

/* New pieces of the region, of blocks of this class. */
static char *pieces(size_t class, size_t size)
{
    size = (size + PIECE - 1) & -PIECE;
    if (top[LONGER] == none && !arrays())
        return NULL;
    char *piece = __atomic_fetch_add(&fresh, size, __ATOMIC_RELAXED); /* nothing but the address is handed over */
    if (piece > region + REGION || size > (size_t)(region + REGION - piece))
        return NULL;
    memset(class_of + ((size_t)(piece - region) >> SHIFT), (int)class, size >> SHIFT);
    return piece;
}

__attribute__((noinline, cold)) static void *far(size_t size)
{
    return pieces(LONGER, size);
}

/* No block of this class is left: cuts a piece, its first block is the result. */
__attribute__((noinline, cold)) static void *more(size_t class)
{
    class += class == 0;
    size_t size = class * STEP;
    char *piece = pieces(class, PIECE);
    if (!piece)
        return NULL;
    /* The lowest last: it is the next to be taken. */
    for (size_t block = PIECE / size - 1; block > 0; block--)
        *++top[class] = piece + block * size;
    return piece;
}

static inline __attribute__((always_inline)) void *take(size_t size)
{
    if (__builtin_expect(size > MOST, 0))
        return far(size);
    size_t class = (size + STEP - 1) / STEP;
    void **last = top[class], *block = *last;
    if (__builtin_expect(!block, 0))
        return more(class);
    top[class] = last - 1;
    return block;
}

/* Short ones without another call: blocks are multiples of 16 bytes. */
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
    if (!block)
        return;
    size_t class = class_of[(size_t)((char *)block - region) >> SHIFT];
    void **last = top[class] + 1;
    *last = block;
    top[class] = last;
}

void *calloc(size_t count, size_t size)
{
    return zeroed(take(count * size), count * size);
}

/* A longer block's end is not known: more than there was is copied, within the region. */
void *realloc(void *block, size_t size)
{
    if (!block)
        return take(size);
    size_t class = class_of[(size_t)((char *)block - region) >> SHIFT];
    size_t room = class == LONGER ? size : class * STEP;
    if (class != LONGER && size <= room)
        return block;
    size_t most = (size_t)(region + REGION - (char *)block), keep = room < size ? room : size;
    void *other = take(size);
    if (other) {
        memmove(other, block, keep < most ? keep : most);
        free(block);
    }
    return other;
}

/* Pieces are aligned to their length, so blocks of a multiple of `align` bytes are aligned so. */
void *aligned_alloc(size_t align, size_t size)
{
    return take((size + align - 1) & -align);
}

int posix_memalign(void **block, size_t align, size_t size)
{
    *block = aligned_alloc(align, size);
    return *block ? 0 : 12;
}
