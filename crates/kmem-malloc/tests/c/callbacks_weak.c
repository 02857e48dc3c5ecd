/* A program that may run on the library, or without it. */
#define KMEM_OPTIONAL
#include "kmem_malloc.h"

#include "check.h"

int main(void)
{
    int there = kmem_set_letters != NULL;
    CHECK(there == !plain());
    CHECK(there == (kmem_set_receiver != NULL) && there == (kmem_set_hook != NULL) && there == (kmem_set_judge != NULL));
    CHECK(there == (kmem_validate != NULL) && there == (kmem_report_leaks != NULL));
    if (kmem_validate)
        CHECK(kmem_validate() == 0);
    return ok();
}
