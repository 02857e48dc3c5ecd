/* The sized frees of C23 end a block's life like free. Older C libraries have none: looked up by name. */
#include "check.h"
#include <dlfcn.h>

int main(void)
{
    void (*free_sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*free_aligned_sized)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    if (plain() && (free_sized == NULL || free_aligned_sized == NULL)) return ok();
    CHECK(free_sized != NULL && free_aligned_sized != NULL);
    size_t before = resident();
    for (int round = 0; round < 200; round++) {
        for (size_t size = 1; size < 300000; size *= 3) {
            void *block = malloc(size);
            CHECK(block != NULL);
            memset(block, 1, size);
            errno = 7;
            free_sized(block, size);
            block = aligned_alloc(256, size);
            CHECK(block != NULL);
            memset(block, 1, size);
            free_aligned_sized(block, 256, size);
            CHECK(errno == 7);
        }
    }
    free_sized(NULL, 0);
    free_sized(NULL, 10);
    free_aligned_sized(NULL, 64, 10);
    /* 80 MB went through. */
    CHECK(resident() < before + (16 << 20));
    return ok();
}
