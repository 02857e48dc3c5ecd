/* One thread allocates, another frees, a third passes on: memory stays bounded and content whole. */
#include "check.h"

enum { RING = 1024, ITEMS = 600000 };

struct ring {
    _Alignas(64) size_t head;
    _Alignas(64) size_t tail;
    void *slots[RING];
};
static struct ring first, second;

static void put(struct ring *ring, void *item)
{
    size_t head = ring->head;
    while (head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) == RING) sched_yield();
    ring->slots[head % RING] = item;
    __atomic_store_n(&ring->head, head + 1, __ATOMIC_RELEASE);
}

static void *take(struct ring *ring)
{
    size_t tail = ring->tail;
    while (__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) == tail) sched_yield();
    void *item = ring->slots[tail % RING];
    __atomic_store_n(&ring->tail, tail + 1, __ATOMIC_RELEASE);
    return item;
}

static void *middle(void *arg)
{
    for (size_t i = 0; i < ITEMS; i++) {
        size_t *item = take(&first);
        if (i % 8 == 0) {
            size_t size = item[0];
            CHECK((item = realloc(item, size * 2)) != NULL);
            item[0] = size;
        }
        put(&second, item);
    }
    return arg;
}

static void *end(void *arg)
{
    for (size_t i = 0; i < ITEMS; i++) {
        size_t *item = take(&second);
        CHECK(item[1] == i);
        CHECK(malloc_usable_size(item) >= item[0]);
        free(item);
    }
    return arg;
}

int main(void)
{
    pthread_t threads[2];
    CHECK(pthread_create(&threads[0], NULL, middle, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, end, NULL) == 0);
    uint64_t random = 99991;
    size_t warm = 0, most = 0;
    for (size_t i = 0; i < ITEMS; i++) {
        size_t size = 16 + next_random(&random) % 2000;
        size_t *item = malloc(size);
        CHECK(item != NULL);
        item[0] = size;
        item[1] = i;
        put(&first, item);
        if (i == ITEMS / 10) warm = resident();
        if (i > ITEMS / 10 && i % 10000 == 0 && resident() > most) most = resident();
    }
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_join(threads[1], NULL) == 0);
    /* 600 MB passed through; 4 MB are under way at any time. */
    CHECK(most < warm + (24 << 20));
    return ok();
}
