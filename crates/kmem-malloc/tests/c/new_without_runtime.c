/* operator new without memory in a process that has no C++ runtime: a message and SIGABRT; the forms that
 * return null do so. */
#include "check.h"
#include <dlfcn.h>

int main(void)
{
    void *(*new_block)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    void *(*new_or_null)(size_t, const void *) =
        (void *(*)(size_t, const void *))dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
    void (*delete)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_ZdlPv");
    CHECK(new_block != NULL && new_or_null != NULL && delete != NULL);
    CHECK(new_or_null((size_t)1 << 60, "") == NULL);
    delete (new_block(100));
    delete (NULL);
    ok();
    new_block((size_t)1 << 60);
    puts("survived");
    return 0;
}
