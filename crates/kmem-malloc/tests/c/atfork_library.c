/* A library that registers fork handlers in its constructor, before the constructors of its user. */
#include "check.h"

int library_handled;

static void churn(void)
{
    /* Enough to go through every floor of an allocator: slabs, pages, mappings of their own. */
    void *held[600];
    for (size_t i = 0; i < COUNT(held); i++) {
        size_t size = i < 500 ? 16 + i * 9 : i < 595 ? 5000 + i * 100 : (size_t)3 << 20;
        CHECK((held[i] = malloc(size)) != NULL);
        memset(held[i], 1, 16);
    }
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    void *huge = malloc((size_t)20 << 20);
    CHECK(huge != NULL);
    free(huge);
    library_handled++;
}

__attribute__((constructor)) static void begin(void)
{
    CHECK(pthread_atfork(churn, churn, churn) == 0);
}
