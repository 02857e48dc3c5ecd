/* malloc_stats prints on standard error: bytes held and bytes in use. */
#include "check.h"

int main(void)
{
    char text[4096];
    void *block = malloc((size_t)50 << 20);
    CHECK(block != NULL);
    int pipe_ends[2], saved = dup(2);
    CHECK(saved >= 0 && pipe(pipe_ends) == 0);
    CHECK(dup2(pipe_ends[1], 2) == 2);
    malloc_stats();
    fflush(stderr);
    CHECK(dup2(saved, 2) == 2);
    close(pipe_ends[1]);
    size_t length = 0;
    ssize_t n;
    while ((n = read(pipe_ends[0], text + length, sizeof text - 1 - length)) > 0) length += (size_t)n;
    text[length] = 0;
    size_t held, used, total_held, total_used, regions, bytes;
    CHECK(sscanf(text,
                 "Arena 0:\nsystem bytes = %zu\nin use bytes = %zu\nTotal (incl. mmap):\nsystem bytes = %zu\n"
                 "in use bytes = %zu\nmax mmap regions = %zu\nmax mmap bytes = %zu\n",
                 &held, &used, &total_held, &total_used, &regions, &bytes) == 6);
    CHECK(used <= held);
    CHECK(total_used <= total_held);
    CHECK(regions >= 1);
    CHECK(bytes >= (size_t)50 << 20);
    CHECK(total_used >= (size_t)50 << 20);
    free(block);
    return ok();
}
