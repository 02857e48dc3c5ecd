/* free leaves errno alone, whatever has to happen to give the memory back. */
#include "check.h"

int main(void)
{
    static const size_t sizes[] = {0, 1, 100, 5000, 40000, 500000, 3 << 20, 5 << 20, 64 << 20, 600u << 20};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT(sizes); i++) {
            void *block = malloc(sizes[i]);
            CHECK(block != NULL);
            errno = 4711;
            free(block);
            CHECK(errno == 4711);
            block = memalign(1 << 17, sizes[i]);
            CHECK(block != NULL);
            errno = 4711;
            free(block);
            CHECK(errno == 4711);
        }
        void *many[2000];
        for (size_t i = 0; i < COUNT(many); i++) CHECK((many[i] = malloc(20000)) != NULL);
        errno = 4711;
        for (size_t i = 0; i < COUNT(many); i++) free(many[i]);
        CHECK(errno == 4711);
    }
    errno = 4711;
    free(NULL);
    CHECK(errno == 4711);
    return ok();
}
