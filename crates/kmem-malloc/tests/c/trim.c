/* malloc_trim returns free memory to the system and says whether it did. */
#include "check.h"

int main(void)
{
    enum { BLOCKS = 8192, SIZE = 8000 };
    static void *held[BLOCKS];
    free(malloc(1));
    malloc_trim(0);
    size_t start = resident();
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((held[i] = malloc(SIZE)) != NULL);
        memset(held[i], 1, SIZE);
    }
    CHECK(resident() > start + ((size_t)50 << 20));
    /* Holes between live blocks are worth returning too. */
    for (int i = 0; i < BLOCKS; i++) {
        if (i / 64 % 2 == 0) {
            free(held[i]);
            held[i] = NULL;
        }
    }
    CHECK(malloc_trim(0) == 1);
    CHECK(resident() < start + ((size_t)40 << 20));
    for (int i = 0; i < BLOCKS; i++) {
        if (held[i] != NULL) CHECK(((char *)held[i])[SIZE - 1] == 1);
        free(held[i]);
    }
    malloc_trim(0);
    CHECK(resident() < start + ((size_t)4 << 20));
    /* Nothing happened since. */
    CHECK(malloc_trim(0) == 0);
    void *block = malloc(SIZE);
    CHECK(block != NULL);
    memset(block, 1, SIZE);
    free(block);
    return ok();
}
