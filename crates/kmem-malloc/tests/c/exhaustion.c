/* Under a limit of address space: blocks of one size until there are no more, then everything freed; small
 * requests succeed again and as much memory as before can be had again. argv[1] is the block size. */
#include "check.h"

static size_t take_all(size_t size, void ***list)
{
    size_t count = 0;
    void **head = NULL;
    for (;;) {
        errno = 0;
        void **block = malloc(size);
        if (block == NULL) break;
        block[0] = head;
        block[size / 8 - 1] = size > 8 ? block : head;
        head = block;
        count++;
    }
    CHECK(errno == ENOMEM);
    *list = head;
    return count;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    size_t size = strtoul(argv[1], NULL, 10), room = (size_t)192 << 20;
    if (size < 4096) room = in_small_blocks((size_t)72 << 20);
    free(malloc(1));
    struct rlimit limit = {statm(0) + room, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    size_t first = 0;
    for (int round = 0; round < 3; round++) {
        void **list;
        size_t count = take_all(size, &list);
        if (round == 0) first = count;
        /* Most of the room can be used, and none of it is lost from round to round. */
        CHECK(count * size > room / 3);
        CHECK(count >= first - first / 16);
        /* Exhausted: every kind of request fails properly and old blocks stay. */
        errno = 0;
        CHECK(calloc(room, 1) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(list, room) == NULL && errno == ENOMEM);
        void *untouched = &untouched;
        CHECK(posix_memalign(&untouched, 4096, room) == ENOMEM && untouched == &untouched);
        while (list != NULL) {
            void **next = list[0];
            if (size > 16) CHECK(list[size / 8 - 1] == list);
            free(list);
            list = next;
        }
        /* A hardened heap never gives one size the addresses of another: these are gone. */
        if (getenv("KMEM_TEST_PINNED") != NULL && getenv("KMEM_TEST_PLAIN") == NULL && size <= 70000) continue;
        static void *small[2000];
        for (size_t i = 0; i < COUNT(small); i++) {
            CHECK((small[i] = malloc(1 + i % 1000)) != NULL);
            memset(small[i], 3, 1 + i % 1000);
        }
        for (size_t i = 0; i < COUNT(small); i++) free(small[i]);
        /* Other sizes are not locked out by the size that filled memory before. */
        static const size_t others[] = {200, 5000, 100000, 1 << 20};
        for (size_t i = 0; i < COUNT(others); i++) {
            void *block = malloc(others[i]);
            CHECK(block != NULL);
            memset(block, 4, others[i]);
            free(block);
        }
    }
    return ok();
}
