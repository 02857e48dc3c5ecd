/* A library that calls malloc in a frame of FRAME bytes: two of these come to the same addresses, one after the other. */
#include <stdlib.h>
#include <string.h>

void *ask(int size) {
    volatile char frame[FRAME];
    memset((char *)frame, size, sizeof frame);
    void *block = malloc(size + frame[0] - frame[sizeof frame - 1]);
    frame[1] = block != NULL;
    return block;
}
