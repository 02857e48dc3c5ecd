/* Linked with -lkmem_malloc instead of preloaded: the calls bind to it all the same. */
#include "check.h"
#include <dlfcn.h>

int main(void)
{
    static void *const entries[] = {(void *)malloc,   (void *)free,         (void *)calloc,  (void *)realloc,
                                    (void *)memalign, (void *)malloc_usable_size, (void *)mallopt, (void *)_exit};
    for (size_t i = 0; i < COUNT(entries); i++) {
        Dl_info info;
        CHECK(dladdr(entries[i], &info) != 0);
        CHECK(strstr(info.dli_fname, "libkmem_malloc.so") != NULL);
    }
    /* The C library's own allocations come from the same heap. */
    char *text = strdup("some text");
    CHECK(text != NULL && malloc_usable_size(text) >= 10);
    CHECK((text = realloc(text, 100000)) != NULL && strcmp(text, "some text") == 0);
    free(text);
    return ok();
}
