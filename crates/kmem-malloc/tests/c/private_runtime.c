/* A C program opens a C++ plug-in privately; bad_alloc must reach its handlers all the same. argv[1] is its path. */
#include "check.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(plugin != NULL);
    int (*catches)(void) = (int (*)(void))dlsym(plugin, "plugin_catches");
    CHECK(catches != NULL);
    /* Three failures seen by the plug-in, and its handler called for two of them. */
    CHECK(catches() == 5);
    return ok();
}
