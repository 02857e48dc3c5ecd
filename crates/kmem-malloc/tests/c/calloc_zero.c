/* calloc returns zeroes, also in memory that was used before. */
#include "check.h"

static int all_zero(const unsigned char *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

int main(void)
{
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size <= ((size_t)10 << 20); size += size < 600 ? 1 : size / 3) {
            int count = size < 10000 ? 50 : size < 1000000 ? 8 : 2;
            void *held[50];
            for (int i = 0; i < count; i++) {
                held[i] = malloc(size);
                CHECK(held[i] != NULL);
                memset(held[i], 0xa5, malloc_usable_size(held[i]));
            }
            for (int i = 0; i < count; i++) free(held[i]);
            for (int i = 0; i < count; i++) {
                held[i] = i % 2 ? calloc(size, 1) : calloc(1, size);
                CHECK(held[i] != NULL);
                CHECK(all_zero(held[i], size));
                memset(held[i], 0x5a, size);
            }
            for (int i = 0; i < count; i++) free(held[i]);
        }
    }
    void *block = calloc(1000, 1000);
    CHECK(block != NULL && malloc_usable_size(block) >= 1000000 && all_zero(block, 1000000));
    free(block);
    return ok();
}
