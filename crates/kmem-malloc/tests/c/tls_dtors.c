/* Destructors of thread data allocate and free while their thread ends. */
#include "check.h"

extern int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *dso);
extern void *__dso_handle;

static pthread_key_t keys[20];
static int rounds, objects;
static _Thread_local char data[3000];

static void key_gone(void *value)
{
    /* A value set again makes another round of destructors, up to four. */
    size_t turn = *(size_t *)value;
    void *block = malloc(turn * 100 + 10);
    CHECK(block != NULL);
    memset(block, 1, turn * 100 + 10);
    free(value);
    free(block);
    __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    if (turn < 3) {
        size_t *next = malloc(sizeof *next + turn * 1000);
        CHECK(next != NULL);
        *next = turn + 1;
        CHECK(pthread_setspecific(keys[0], next) == 0);
    }
}

static void object_gone(void *object)
{
    void *block = calloc(10, 100);
    CHECK(block != NULL);
    free(block);
    free(object);
    data[17] = 1;
    __atomic_add_fetch(&objects, 1, __ATOMIC_RELAXED);
}

static void *work(void *arg)
{
    (void)arg;
    memset(data, 1, sizeof data);
    for (size_t i = 0; i < COUNT(keys); i++) {
        size_t *value = malloc(sizeof *value);
        CHECK(value != NULL);
        *value = i == 0 ? 0 : 9;
        CHECK(pthread_setspecific(keys[i], value) == 0);
    }
    for (int i = 0; i < 5; i++) {
        void *object = malloc(300);
        CHECK(object != NULL);
        CHECK(__cxa_thread_atexit_impl(object_gone, object, &__dso_handle) == 0);
    }
    return NULL;
}

int main(void)
{
    for (size_t i = 0; i < COUNT(keys); i++) CHECK(pthread_key_create(&keys[i], key_gone) == 0);
    size_t start = 0;
    for (int round = 0; round < 500; round++) {
        if (round == 100) start = resident();
        pthread_t threads[4];
        for (int t = 0; t < 4; t++) CHECK(pthread_create(&threads[t], NULL, work, NULL) == 0);
        for (int t = 0; t < 4; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    }
    CHECK(objects == 2000 * 5);
    CHECK(rounds == 2000 * (int)(COUNT(keys) + 3));
    CHECK(resident() < start + (2 << 20));
    return ok();
}
