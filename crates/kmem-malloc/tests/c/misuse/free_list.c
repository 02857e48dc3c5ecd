/* The first word of free blocks, where an allocator may keep its list, is changed; then everything is allocated again. The
 * nearest legal program changes the word before the free. */
#include "sin.h"

enum { BLOCKS = 600 };
static char *held[BLOCKS];
static _Alignas(64) uintptr_t elsewhere_too[64];

/* Changes the first word of every freed block by `change`. */
static void smash(uintptr_t (*change)(uintptr_t word, char *block))
{
    for (int i = 0; i < BLOCKS; i++) held[i] = block_of(64);
    announce(held[0]);
    for (int turn = 0; turn < 2; turn++) {
        if (turn == 1) {
            for (int i = 0; i < BLOCKS; i++) free(held[i]);
        }
        for (int i = 0; i < BLOCKS && turn == !legal; i++) {
            uintptr_t word;
            memcpy(&word, held[i], sizeof word);
            word = change(word, held[i]);
            memcpy(held[i], &word, sizeof word);
        }
    }
    for (int i = 0; i < BLOCKS; i++) held[i] = memset(block_of(64), 1, 64);
    for (int i = 0; i < BLOCKS; i++) {
        if (held[i] >= (char *)elsewhere_too && held[i] < (char *)(elsewhere_too + COUNT(elsewhere_too))) {
            line("after\n");
            _exit(3);
        }
    }
    for (int i = 0; i < BLOCKS; i++) free(held[i]);
}

static uintptr_t bit_of(uintptr_t word, char *block)
{
    (void)block;
    return word ^ 0x20;
}

static uintptr_t zero_of(uintptr_t word, char *block)
{
    (void)word;
    (void)block;
    return 0;
}

static uintptr_t itself(uintptr_t word, char *block)
{
    (void)word;
    return (uintptr_t)block;
}

static uintptr_t foreign(uintptr_t word, char *block)
{
    (void)word;
    (void)block;
    return (uintptr_t)elsewhere_too;
}

static uintptr_t another(uintptr_t word, char *block)
{
    (void)word;
    return (uintptr_t)(block == held[0] ? held[1] : held[0]);
}

static uintptr_t random_word(uintptr_t word, char *block)
{
    (void)block;
    return word * 0x9e3779b97f4a7c15u + 0x1234567;
}

static void one_bit(void)
{
    smash(bit_of);
}

static void zero(void)
{
    smash(zero_of);
}

static void self(void)
{
    smash(itself);
}

static void static_address(void)
{
    smash(foreign);
}

static void another_block(void)
{
    smash(another);
}

static void garbage(void)
{
    smash(random_word);
}

static const struct sin sins[] = {
    {"one-bit", one_bit},
    {"zero", zero},
    {"self", self},
    {"static-address", static_address},
    {"another-block", another_block},
    {"garbage", garbage},
};

MAIN(sins)
