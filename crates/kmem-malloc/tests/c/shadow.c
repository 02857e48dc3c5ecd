/* Four threads allocate, resize and free at random; a pattern in every block finds overlap, loss and bad content.
 * A quarter of all frees happens on another thread. Sizes to 4 MiB, alignment to 64 KiB. argv[1]: operations. */
#include "check.h"

enum { THREADS = 4, SLOTS = 400, EXCHANGE = 64 };

struct item {
    void *block;
    size_t size, align;
    uint64_t seed;
};
static struct {
    pthread_mutex_t lock;
    struct item items[EXCHANGE];
} exchange[THREADS];
static size_t operations;

static size_t random_size(uint64_t *random)
{
    uint64_t kind = next_random(random) % 1000;
    if (kind < 700) return next_random(random) % 257;
    if (kind < 930) return next_random(random) % 4097;
    if (kind < 990) return next_random(random) % 65537;
    if (kind < 998) return next_random(random) % ((1 << 20) + 1);
    return next_random(random) % ((4 << 20) + 1);
}

/* Large blocks are only marked at their ends and on each page: the pattern is to find overlap, not to fill memory. */
static void mark(struct item *item)
{
    /* The marks never overlap: a page's mark ends 8 bytes before the block's end, where the last one stands. */
    if (item->size <= 8192) {
        fill(item->block, item->size, item->seed);
        return;
    }
    for (size_t at = 0; at + 16 <= item->size; at += 4096) memcpy((char *)item->block + at, &item->seed, 8);
    memcpy((char *)item->block + item->size - 8, &item->seed, 8);
}

static void verify(const struct item *item, size_t size)
{
    if (item->size <= 8192) {
        CHECK(intact(item->block, size, item->size, item->seed));
        return;
    }
    for (size_t at = 0; at + 16 <= size; at += 4096) CHECK(memcmp((char *)item->block + at, &item->seed, 8) == 0);
    if (size == item->size) CHECK(memcmp((char *)item->block + size - 8, &item->seed, 8) == 0);
}

static void drop(struct item *item)
{
    if (item->block == NULL) return;
    verify(item, item->size);
    CHECK(malloc_usable_size(item->block) >= item->size);
    free(item->block);
    item->block = NULL;
}

static void create(struct item *item, uint64_t *random)
{
    item->size = random_size(random);
    item->seed = next_random(random);
    item->align = 16;
    switch (next_random(random) % 8) {
    case 0:
        item->block = calloc(1, item->size);
        CHECK(item->block != NULL);
        for (size_t i = 0; i < item->size; i += i < 4096 ? 1 : 512) CHECK(((char *)item->block)[i] == 0);
        break;
    case 1:
        item->align = (size_t)1 << (3 + next_random(random) % 14);
        CHECK(posix_memalign(&item->block, item->align, item->size) == 0);
        break;
    case 2:
        item->align = (size_t)1 << (next_random(random) % 9);
        item->block = aligned_alloc(item->align, item->size);
        break;
    default: item->block = malloc(item->size);
    }
    CHECK(item->block != NULL);
    CHECK(aligned_to(item->block, item->align) && aligned_to(item->block, 16));
    mark(item);
}

static void *work(void *arg)
{
    size_t self = (size_t)(uintptr_t)arg;
    uint64_t random = 0x9e3779b97f4a7c15u * (self + 1);
    struct item *items = calloc(SLOTS, sizeof *items);
    CHECK(items != NULL);
    for (size_t turn = 0; turn < operations / THREADS; turn++) {
        struct item *item = &items[next_random(&random) % SLOTS];
        if (item->block == NULL) {
            create(item, &random);
            continue;
        }
        uint64_t what = next_random(&random) % 8;
        if (what == 0) {
            struct item old = *item;
            size_t size = random_size(&random) + 1;
            verify(item, item->size);
            item->block = realloc(old.block, size);
            CHECK(item->block != NULL && aligned_to(item->block, 16));
            verify(&(struct item){item->block, old.size, 16, old.seed}, size < old.size ? size : old.size);
            item->size = size;
            item->align = 16;
            mark(item);
        } else if (what < 3) {
            /* Handed to another thread, in exchange for something of its. */
            size_t other = next_random(&random) % THREADS;
            pthread_mutex_lock(&exchange[other].lock);
            struct item *place = &exchange[other].items[next_random(&random) % EXCHANGE];
            struct item taken = *place;
            *place = *item;
            pthread_mutex_unlock(&exchange[other].lock);
            *item = taken;
            drop(item);
        } else {
            drop(item);
        }
    }
    for (int i = 0; i < SLOTS; i++) drop(&items[i]);
    free(items);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    operations = strtoul(argv[1], NULL, 10);
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) CHECK(pthread_mutex_init(&exchange[t].lock, NULL) == 0);
    for (uintptr_t t = 0; t < THREADS; t++) CHECK(pthread_create(&threads[t], NULL, work, (void *)t) == 0);
    for (int t = 0; t < THREADS; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < EXCHANGE; i++) drop(&exchange[t].items[i]);
    }
    return ok();
}
