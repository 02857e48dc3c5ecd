/* Bad frees. argv[1] names the case. The program prints the address it is about to misuse; it must be ended by SIGABRT
 * with a message naming that address. Reaching the end is the failure, told by "survived". */
#include "check.h"
#include <sys/mman.h>

static char static_object[256] __attribute__((aligned(64)));

static void announce(void *block)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%p\n", block);
    CHECK(write(1, text, (size_t)n) == n);
}

static void bad_free(void *block)
{
    announce(block);
    free(block);
}

static void *free_in_thread(void *block)
{
    free(block);
    return NULL;
}

static void in_thread(void *block)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_in_thread, block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void twice(size_t size)
{
    void *block = malloc(size);
    CHECK(block != NULL);
    free(block);
    bad_free(block);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    const char *name = argv[1];
#define CASE(text) else if (strcmp(name, text) == 0)
    if (strcmp(name, "twice-64") == 0) {
        twice(64);
    }
    CASE("twice-2048") twice(2048);
    CASE("twice-20000") twice(20000);
    CASE("twice-200000") twice(200000);
    CASE("twice-huge") twice((size_t)8 << 20);
    CASE("behind-the-last")
    {
        /* Fourteen objects of 2304 bytes fit in a slab of 32 KiB; half a kilobyte is left, where no object starts. In
         * SLAB's of 16 KiB seven fit, and of four slabs one begins with its first object. */
        const char *engine = getenv("KMEM_TEST_ENGINE");
        int slab = engine != NULL && strcmp(engine, "slab") == 0;
        uintptr_t mask = slab ? 16383 : 32767, at = slab ? 6 * 2304 : 13 * 2304;
        char *last = NULL;
        for (int i = 0; i < 2000 && last == NULL; i++) {
            char *block = malloc(2304);
            CHECK(block != NULL);
            if (((uintptr_t)block & mask) == at) last = block;
        }
        CHECK(last != NULL);
        bad_free(last + 2304);
    }
    CASE("twice-after-others")
    {
        void *held[600];
        for (size_t i = 0; i < COUNT(held); i++) CHECK((held[i] = malloc(64)) != NULL);
        for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
        bad_free(held[300]);
    }
    CASE("twice-after-one")
    {
        void *first = malloc(64), *second = malloc(64);
        CHECK(first != NULL && second != NULL);
        free(first);
        free(second);
        bad_free(first);
    }
    CASE("twice-other-thread")
    {
        void *block = malloc(64);
        CHECK(block != NULL);
        in_thread(block);
        announce(block);
        free(block);
    }
    CASE("twice-in-thread")
    {
        void *block = malloc(64);
        CHECK(block != NULL);
        free(block);
        announce(block);
        in_thread(block);
    }
    CASE("twice-slab-gone")
    {
        static void *held[20000];
        for (size_t i = 0; i < COUNT(held); i++) CHECK((held[i] = malloc(64)) != NULL);
        for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
        malloc_trim(0);
        bad_free(held[10000]);
    }
    CASE("twice-after-realloc")
    {
        void *block = malloc(64), *guard = malloc(64);
        CHECK(block != NULL && guard != NULL);
        void *moved = realloc(block, 100000);
        CHECK(moved != NULL && moved != block);
        bad_free(block);
    }
    CASE("realloc-freed")
    {
        void *block = malloc(64);
        free(block);
        announce(block);
        CHECK(realloc(block, 1000) != NULL);
    }
    CASE("interior-16") bad_free((char *)malloc(64) + 16);
    CASE("interior-1") bad_free((char *)malloc(64) + 1);
    CASE("interior-8") bad_free((char *)malloc(2048) + 8);
    CASE("interior-large") bad_free((char *)malloc(200000) + 4096);
    CASE("interior-large-16") bad_free((char *)malloc(200000) + 16);
    CASE("interior-huge") bad_free((char *)malloc((size_t)8 << 20) + 4096);
    CASE("interior-huge-16") bad_free((char *)malloc((size_t)8 << 20) + 16);
    CASE("stack")
    {
        char local[256];
        bad_free((void *)(((uintptr_t)local + 63) & ~(uintptr_t)63));
    }
    CASE("static") bad_free(static_object);
    CASE("mapping")
    {
        void *mapping = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(mapping != MAP_FAILED);
        bad_free(mapping);
    }
    CASE("unmapped-low") bad_free((void *)0x1000);
    CASE("unmapped-high") bad_free((void *)0x7ffffffff000);
    CASE("not-canonical") bad_free((void *)((uintptr_t)malloc(64) | (uintptr_t)1 << 63));
    CASE("one") bad_free((void *)1);
    CASE("realloc-stack")
    {
        char local[256];
        void *address = (void *)(((uintptr_t)local + 63) & ~(uintptr_t)63);
        announce(address);
        CHECK(realloc(address, 1000) != NULL);
    }
    CASE("usable-static")
    {
        announce(static_object);
        CHECK(malloc_usable_size(static_object) > 0);
    }
    else
    {
        CHECK(!"unknown case");
    }
    puts("survived");
    return 0;
}
