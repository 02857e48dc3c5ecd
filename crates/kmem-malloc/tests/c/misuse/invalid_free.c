/* An address is freed at which no block starts. The nearest legal program frees the block. */
#include "sin.h"
#include <sys/mman.h>

static char static_object[256] __attribute__((aligned(64)));

/* Frees `block` at an offset. */
static void inside(size_t size, size_t offset)
{
    char *block = block_of(size);
    memset(block, 0, size);
    free(announce(block + (legal ? 0 : offset)));
}

static void interior(void)
{
    inside(64, 16);
}

static void interior_odd(void)
{
    inside(64, 1);
}

static void interior_medium(void)
{
    inside(2048, 8);
}

static void interior_large(void)
{
    inside(200000, 4096);
}

static void interior_large_near(void)
{
    inside(200000, 16);
}

static void interior_huge(void)
{
    inside((size_t)8 << 20, 4096);
}

static void interior_huge_near(void)
{
    inside((size_t)8 << 20, 16);
}

/* The library under test has this engine. */
static int engine_is(const char *name)
{
    const char *engine = getenv("KMEM_TEST_ENGINE");
    return getenv("KMEM_TEST_PLAIN") == NULL && engine != NULL && strcmp(engine, name) == 0;
}

/* Fourteen slots of 2304 bytes fit in a slab of 32 KiB; half a kilobyte is left, where none starts. In slabs of 16 KiB seven fit. A
 * word of a slot may be the heap's. */
static void behind_the_last(void)
{
    int slab = engine_is("slab");
    uintptr_t mask = slab ? 16383 : 32767, at = slab ? 6 * 2304 : 13 * 2304;
    char *last = NULL;
    for (int i = 0; i < 2000 && (last == NULL || ((uintptr_t)last & mask) != at); i++) {
        last = memset(block_of(2296), 0, 2296);
    }
    free(announce(last + (legal ? 0 : 2304)));
}

/* The slot beside a block in its page, which nobody ever had. In SLUB's usual heap slots have room for a word of the heap's, and the
 * last of fifteen is alone in its page. */
static void never_allocated(void)
{
    int slub = engine_is("slub");
    uintptr_t block = (uintptr_t)block_of(2048);
    if (slub && (block & 32767) == 14 * 2064) block = (uintptr_t)block_of(2048);
    uintptr_t beside = block ^ 2048;
    if (slub) beside = (block & 32767) / 2064 % 2 ? block - 2064 : block + 2064;
    free(announce((void *)(legal ? block : beside)));
}

/* A slot between live ones, where an allocator may have a block at hand; with one that leaves none, that behind the last. */
static void never_allocated_near(void)
{
    char *held[40], *slot = NULL;
    size_t apart = SIZE_MAX, count = 0;
    while (count < COUNT(held) && slot == NULL) {
        held[count++] = memset(block_of(300), 0, 300);
        for (size_t i = 0; i + 1 < count; i++) {
            size_t distance = (uintptr_t)held[i] - (uintptr_t)held[count - 1];
            if ((ptrdiff_t)distance < 0) distance = -distance;
            if (distance < apart) apart = distance;
        }
        for (size_t i = 0; i < count && count > 5 && slot == NULL; i++) {
            char *next = held[i] + apart;
            int live = 0, below = 0;
            for (size_t j = 0; j < count; j++) {
                live |= held[j] == next;
                below |= held[j] > next && (size_t)(held[j] - next) < 2048;
            }
            if (!live && below) slot = next;
        }
    }
    free(announce(legal ? held[0] : slot != NULL ? slot : held[count - 1] + apart));
}

static void stack(void)
{
    char local[256];
    char *block = legal ? block_of(64) : (char *)(((uintptr_t)local + 63) & ~(uintptr_t)63);
    free(announce(block));
}

static void static_memory(void)
{
    free(announce(legal ? block_of(64) : static_object));
}

static void text(void)
{
    free(announce(legal ? block_of(64) : (void *)(((uintptr_t)&text + 15) & ~(uintptr_t)15)));
}

static void mapping(void)
{
    void *map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED);
    if (legal) {
        CHECK(munmap(map, 65536) == 0);
    } else {
        free(announce((char *)map + 4096));
    }
}

static void unmapped_low(void)
{
    free(announce(legal ? NULL : (void *)0x1000));
}

static void unmapped_high(void)
{
    free(announce(legal ? NULL : (void *)0x7ffffffff000));
}

static void high_bit(void)
{
    uintptr_t block = (uintptr_t)block_of(64);
    free(announce((void *)(legal ? block : block | (uintptr_t)1 << 63)));
}

static void address_one(void)
{
    free(announce(legal ? NULL : (void *)1));
}

static void realloc_of_the_stack(void)
{
    char local[256];
    char *block = legal ? block_of(64) : (char *)(((uintptr_t)local + 63) & ~(uintptr_t)63);
    CHECK(realloc(announce(block), 1000) != NULL || !legal);
}

static void realloc_inside(void)
{
    char *block = memset(block_of(64), 0, 64);
    CHECK(realloc(announce(block + (legal ? 0 : 16)), 1000) != NULL || !legal);
}

static void usable_size_of_a_static(void)
{
    CHECK(malloc_usable_size(announce(legal ? block_of(64) : static_object)) < SIZE_MAX);
}

static const struct sin sins[] = {
    {"interior", interior},
    {"interior-odd", interior_odd},
    {"interior-medium", interior_medium},
    {"interior-large", interior_large},
    {"interior-large-near", interior_large_near},
    {"interior-huge", interior_huge},
    {"interior-huge-near", interior_huge_near},
    {"behind-the-last", behind_the_last},
    {"never-allocated", never_allocated},
    {"never-allocated-near", never_allocated_near},
    {"stack", stack},
    {"static", static_memory},
    {"text", text},
    {"mapping", mapping},
    {"unmapped-low", unmapped_low},
    {"unmapped-high", unmapped_high},
    {"high-bit", high_bit},
    {"address-one", address_one},
    {"realloc-stack", realloc_of_the_stack},
    {"realloc-inside", realloc_inside},
    {"usable-size-static", usable_size_of_a_static},
};

MAIN(sins)
