/* A library whose constructor and destructor allocate; linked to exit_hooks and opened by dlopen_tls. It carries
 * thread-local data that needs room of its own in every thread. */
#include "check.h"

static void *kept;
static _Thread_local char big[6000];
static _Thread_local void *mine;

__attribute__((constructor)) static void begin(void)
{
    kept = malloc(1234);
    CHECK(kept != NULL);
    fill(kept, 1234, 42);
    void *block = calloc(3, 1000);
    CHECK(block != NULL);
    free(block);
}

__attribute__((destructor)) static void finish(void)
{
    CHECK(intact(kept, 1234, 1234, 42));
    kept = realloc(kept, 50000);
    CHECK(kept != NULL && intact(kept, 1234, 1234, 42));
    free(kept);
    void *block = memalign(4096, 10000);
    CHECK(block != NULL);
    free(block);
}

/* A block allocated here, to be freed by whoever likes; the thread's data are touched on the way. */
void *library_block(size_t size)
{
    memset(big, (int)size, sizeof big);
    free(mine);
    mine = malloc(64);
    CHECK(mine != NULL);
    return malloc(size + (size_t)(big[5999] & 1));
}

/* Ends the library's life in the calling thread. */
void library_leave(void)
{
    free(mine);
    mine = NULL;
}
