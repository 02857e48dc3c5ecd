/* A library with thread-local data is opened and closed 200 times, and used in threads meanwhile. argv[1] is its path. */
#include "check.h"
#include <dlfcn.h>

static void *library;

static void *use(void *arg)
{
    (void)arg;
    void *(*block_of)(size_t) = (void *(*)(size_t))dlsym(library, "library_block");
    void (*leave)(void) = (void (*)(void))dlsym(library, "library_leave");
    CHECK(block_of != NULL && leave != NULL);
    for (size_t size = 1; size < 5000; size = size * 3 + 1) {
        void *block = block_of(size);
        CHECK(block != NULL && malloc_usable_size(block) >= size);
        free(block);
    }
    leave();
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    size_t start = 0;
    for (int round = 0; round < 200; round++) {
        if (round == 40) start = resident();
        library = dlopen(argv[1], RTLD_NOW | (round % 2 ? RTLD_LOCAL : RTLD_GLOBAL));
        CHECK(library != NULL);
        pthread_t threads[3];
        for (int t = 0; t < 3; t++) CHECK(pthread_create(&threads[t], NULL, use, NULL) == 0);
        use(NULL);
        for (int t = 0; t < 3; t++) CHECK(pthread_join(threads[t], NULL) == 0);
        CHECK(dlclose(library) == 0);
    }
    CHECK(resident() < start + (2 << 20));
    return ok();
}
