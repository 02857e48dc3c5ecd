/* How long a freed block stays away: prints after how many further frees of its size it is handed out again. Then many blocks of
 * many sizes come and go, and keep what is written to them. */
#include "check.h"

int main(void)
{
    void *gone = malloc(64);
    CHECK(gone != NULL);
    free(gone);
    int turns = 0;
    for (; turns < 100000; turns++) {
        void *block = malloc(64);
        CHECK(block != NULL);
        int back = block == gone;
        free(block);
        if (back) break;
    }
    static char *held[512];
    for (size_t turn = 0; turn < 20000; turn++) {
        size_t at = turn * 2654435761u % COUNT(held), size = 16 + turn * 40503u % 3000;
        if (held[at] != NULL) {
            CHECK(held[at][0] == (char)at && held[at][15] == (char)at);
            free(held[at]);
        }
        held[at] = malloc(size);
        CHECK(held[at] != NULL);
        memset(held[at], (char)at, size);
    }
    printf("%d\n", turns);
    return 0;
}
