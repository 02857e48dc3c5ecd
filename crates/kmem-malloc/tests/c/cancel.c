/* Threads are cancelled between allocations; their cleanup handlers free what they hold. */
#include "check.h"

static void cleanup(void *held)
{
    void **blocks = held;
    for (int i = 0; i < 8; i++) free(blocks[i]);
    free(blocks);
}

static _Thread_local uint64_t random_state;

static void *work(void *arg)
{
    random_state = (uint64_t)(uintptr_t)arg + 11;
    void **blocks = calloc(8, sizeof *blocks);
    CHECK(blocks != NULL);
    pthread_cleanup_push(cleanup, blocks);
    for (;;) {
        size_t i = next_random(&random_state) % 8;
        free(blocks[i]);
        CHECK((blocks[i] = malloc(1 + next_random(&random_state) % 5000)) != NULL);
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

int main(void)
{
    size_t start = 0;
    for (int round = 0; round < 250; round++) {
        if (round == 50) start = resident();
        pthread_t threads[4];
        for (uintptr_t t = 0; t < 4; t++) CHECK(pthread_create(&threads[t], NULL, work, (void *)(t + 1)) == 0);
        for (int t = 0; t < 4; t++) CHECK(pthread_cancel(threads[t]) == 0);
        for (int t = 0; t < 4; t++) {
            void *result;
            CHECK(pthread_join(threads[t], &result) == 0 && result == PTHREAD_CANCELED);
        }
    }
    CHECK(resident() < start + (2 << 20));
    return ok();
}
