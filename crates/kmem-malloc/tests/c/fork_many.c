/* 600 forks, one below the other in pairs; the children use and free what they inherit. Resident size stays. */
#include "check.h"

int main(void)
{
    enum { LIVE = 500 };
    static void *held[LIVE];
    size_t start = 0;
    for (int i = 0; i < LIVE; i++) {
        CHECK((held[i] = malloc(1 + (size_t)i * 7)) != NULL);
        fill(held[i], 1 + (size_t)i * 7, (uint64_t)i);
    }
    for (int round = 0; round < 300; round++) {
        if (round == 50) start = resident();
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (int i = 0; i < LIVE; i++) {
                CHECK(intact(held[i], 1 + (size_t)i * 7, 1 + (size_t)i * 7, (uint64_t)i));
                if (i % 2) {
                    free(held[i]);
                } else {
                    CHECK((held[i] = realloc(held[i], 5000)) != NULL);
                }
            }
            pid_t grandchild = fork();
            CHECK(grandchild >= 0);
            if (grandchild == 0) {
                for (int i = 0; i < LIVE; i += 2) free(held[i]);
                void *block = calloc(1, 300000);
                CHECK(block != NULL);
                free(block);
                _exit(18);
            }
            int status;
            CHECK(waitpid(grandchild, &status, 0) == grandchild && WIFEXITED(status) && WEXITSTATUS(status) == 18);
            /* Half of the children end by exit, with destructors. */
            if (round % 2) _exit(17);
            exit(17);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
        void *block = malloc(100);
        CHECK(block != NULL);
        free(block);
    }
    CHECK(resident() < start + (2 << 20));
    for (int i = 0; i < LIVE; i++) {
        CHECK(intact(held[i], 1 + (size_t)i * 7, 1 + (size_t)i * 7, (uint64_t)i));
        free(held[i]);
    }
    return ok();
}
