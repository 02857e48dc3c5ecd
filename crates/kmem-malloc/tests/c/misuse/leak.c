/* Blocks are lost: nothing points to them any more, and nobody freed them. The nearest legal program frees them. */
#include "sin.h"

/* Out of the way of whoever looks for pointers on the stack afterwards. */
__attribute__((noinline)) static void lose(size_t size)
{
    static char *held[20];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = block_of(size);
    announce(held[0]);
    for (size_t i = 0; i < COUNT(held); i++) {
        if (legal) free(held[i]);
        held[i] = NULL;
    }
}

static void lost(void)
{
    lose(48);
}

static const struct sin sins[] = {
    {"lost", lost},
};

MAIN(sins)
