/* mlockall does not pull the allocator's reserved space into memory, and later growth works. */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    free(malloc(1));
    size_t start = resident();
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        /* No permission: the limit for locked memory is what there is to test, and it is not ours. */
        CHECK(errno == EPERM || errno == ENOMEM);
        return ok();
    }
    CHECK(resident() < start + (48 << 20));
    void *held[64];
    for (size_t i = 0; i < COUNT(held); i++) {
        CHECK((held[i] = malloc(200000)) != NULL);
        memset(held[i], 1, 200000);
    }
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    void *block = malloc((size_t)20 << 20);
    CHECK(block != NULL);
    free(block);
    CHECK(resident() < start + (96 << 20));
    return ok();
}
