#define KMEM_OPTIONAL
#include "kmem_malloc.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(const char *line, size_t length, void *log) { write(*(int *)log, line, length); }

/* Memory of images may be wrong; nothing else may. */
static int decide(const struct kmem_error *error, void *context)
{
    (void)context;
    return strcmp(error->cache, "kmalloc-2040") == 0;
}

int main(void)
{
    static int log = 1;
    if (kmem_set_letters) {
        kmem_set_receiver(keep, &log);
        kmem_set_judge(decide, NULL);
        kmem_set_letters("FZPU");
    }
    char *volatile image = malloc(2000);
    image[2000] = 1;
    free(image);
    return 0;
}
