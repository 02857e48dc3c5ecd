/* A block is given back by another name, size or alignment than it was asked for. The nearest legal program says what is
 * true. */
#include "sin.h"
#include <new>

/* The point of it. */
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

extern "C" {
void free_sized(void *, size_t) __attribute__((weak));
void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));
}

static void give_back_sized(size_t size)
{
    void *block = announce(block_of(64));
    if (free_sized == NULL) {
        free(block);
    } else {
        free_sized(block, legal ? 64 : size);
    }
}

static void free_sized_smaller(void)
{
    give_back_sized(32);
}

static void free_sized_larger(void)
{
    give_back_sized(1000);
}

/* A size of the same class. */
static void free_sized_near(void)
{
    give_back_sized(60);
}

static void free_sized_large(void)
{
    void *block = announce(block_of(200000));
    if (free_sized == NULL) {
        free(block);
    } else {
        free_sized(block, legal ? 200000 : 100000);
    }
}

static void give_back_aligned(size_t align, size_t size)
{
    void *block = announce(aligned_alloc(256, 512));
    if (free_aligned_sized == NULL) {
        free(block);
    } else {
        free_aligned_sized(block, legal ? 256 : align, legal ? 512 : size);
    }
}

static void free_aligned_size(void)
{
    give_back_aligned(256, 64);
}

/* The block has more, but by no promise. */
static void free_aligned_align(void)
{
    give_back_aligned(4096, 512);
}

static void free_aligned_bad_align(void)
{
    give_back_aligned(24, 512);
}

static void delete_smaller(void)
{
    ::operator delete(announce(::operator new(64)), (size_t)(legal ? 64 : 32));
}

static void delete_larger(void)
{
    ::operator delete(announce(::operator new(64)), (size_t)(legal ? 64 : 1000));
}

static void delete_array_smaller(void)
{
    ::operator delete[](announce(::operator new[](640)), (size_t)(legal ? 640 : 64));
}

static void delete_other_align(void)
{
    void *block = ::operator new(64, std::align_val_t(64));
    ::operator delete(announce(block), std::align_val_t(legal ? 64 : 4096));
}

static void malloc_delete(void)
{
    void *block = announce(block_of(64));
    legal ? free(block) : ::operator delete(block);
}

static void malloc_delete_array(void)
{
    void *block = announce(block_of(64));
    legal ? free(block) : ::operator delete[](block);
}

static void new_free(void)
{
    void *block = announce(::operator new(64));
    legal ? ::operator delete(block) : free(block);
}

static void new_array_free(void)
{
    void *block = announce(::operator new[](64));
    legal ? ::operator delete[](block) : free(block);
}

static void new_delete_array(void)
{
    void *block = announce(::operator new(64));
    legal ? ::operator delete(block) : ::operator delete[](block);
}

static void new_array_delete(void)
{
    void *block = announce(::operator new[](64));
    legal ? ::operator delete[](block) : ::operator delete(block);
}

static void aligned_delete(void)
{
    void *block = announce(aligned_alloc(64, 64));
    legal ? free(block) : ::operator delete(block);
}

static void aligned_new_free(void)
{
    void *block = announce(::operator new(64, std::align_val_t(64)));
    legal ? ::operator delete(block, std::align_val_t(64)) : free(block);
}

static void aligned_new_plain_delete(void)
{
    void *block = announce(::operator new(64, std::align_val_t(64)));
    legal ? ::operator delete(block, std::align_val_t(64)) : ::operator delete(block);
}

static void new_aligned_delete(void)
{
    void *block = announce(::operator new(64));
    legal ? ::operator delete(block) : ::operator delete(block, std::align_val_t(64));
}

static void new_realloc(void)
{
    void *block = announce(::operator new(64));
    legal ? ::operator delete(block) : free(realloc(block, 1000));
}

static const struct sin sins[] = {
    {"free-sized-smaller", free_sized_smaller},
    {"free-sized-larger", free_sized_larger},
    {"free-sized-near", free_sized_near},
    {"free-sized-large", free_sized_large},
    {"free-aligned-size", free_aligned_size},
    {"free-aligned-align", free_aligned_align},
    {"free-aligned-bad-align", free_aligned_bad_align},
    {"delete-smaller", delete_smaller},
    {"delete-larger", delete_larger},
    {"delete-array-smaller", delete_array_smaller},
    {"delete-other-align", delete_other_align},
    {"malloc-delete", malloc_delete},
    {"malloc-delete-array", malloc_delete_array},
    {"new-free", new_free},
    {"new-array-free", new_array_free},
    {"new-delete-array", new_delete_array},
    {"new-array-delete", new_array_delete},
    {"aligned-delete", aligned_delete},
    {"aligned-new-free", aligned_new_free},
    {"aligned-new-plain-delete", aligned_new_plain_delete},
    {"new-aligned-delete", new_aligned_delete},
    {"new-realloc", new_realloc},
};

MAIN(sins)
