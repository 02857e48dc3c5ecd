/* Allocation before constructors, in constructors, in atexit handlers, in destructors and after them. Linked to
 * hook_library, whose destructor runs last. */
#include "check.h"

void *library_block(size_t size);
void library_leave(void);

static void *early, *from_constructor, *from_main, *from_atexit;

static void before_constructors(void)
{
    early = malloc(77);
    CHECK(early != NULL);
    fill(early, 77, 1);
    void *big = malloc(100000);
    CHECK(big != NULL);
    free(big);
}
__attribute__((section(".preinit_array"), used)) static void (*preinit)(void) = before_constructors;

__attribute__((constructor)) static void construct(void)
{
    CHECK(intact(early, 77, 77, 1));
    from_constructor = malloc(5000);
    CHECK(from_constructor != NULL);
}

static void at_exit(void)
{
    free(from_main);
    from_atexit = malloc(300);
    CHECK(from_atexit != NULL);
    fill(from_atexit, 300, 3);
}

__attribute__((destructor)) static void destruct(void)
{
    CHECK(intact(from_atexit, 300, 300, 3));
    free(from_atexit);
    free(from_constructor);
    CHECK(intact(early, 77, 77, 1));
    free(early);
    void *block = malloc(3 << 20);
    CHECK(block != NULL);
    free(block);
    ok();
}

int main(void)
{
    from_main = malloc(2000);
    CHECK(from_main != NULL);
    CHECK(atexit(at_exit) == 0);
    void *block = library_block(900);
    CHECK(block != NULL);
    free(block);
    library_leave();
    return 0;
}
