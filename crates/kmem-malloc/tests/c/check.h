/* What every conformance program shares.
 *
 * A program checks one subject. A failing check prints the place, the expression and errno on standard error and ends
 * the program with status 1; success prints "ok" and ends with 0. With KMEM_TEST_PLAIN in the environment the
 * program runs on the C library's own allocator, which proves the expectation itself; `plain` then skips what only
 * newer C libraries have.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) check_failed(__FILE__, __LINE__, #condition);                                   \
    } while (0)

/* Formats into its own stack and writes with one call: works in any state of the heap. */
static inline void check_failed(const char *file, int line, const char *what)
{
    char text[512];
    int code = errno;
    int n = snprintf(text, sizeof text, "%s:%d: failed: %s (errno %d)\n", file, line, what, code);
    ssize_t written = write(2, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    (void)written;
    _exit(1);
}

static inline int ok(void)
{
    CHECK(write(1, "ok\n", 3) == 3);
    return 0;
}

/* True on the C library's own allocator. */
static inline int plain(void)
{
    return getenv("KMEM_TEST_PLAIN") != NULL;
}

/* So much memory in small blocks: an eighth where a request may look at every page there is (KMEM_TEST_SMALL), as the
 * time then grows with the square of the pages. */
static inline size_t in_small_blocks(size_t bytes)
{
    return getenv("KMEM_TEST_SMALL") != NULL ? bytes / 8 : bytes;
}

/* A value the compiler cannot see through. */
static inline size_t opaque(size_t value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

/* One field of /proc/self/statm in bytes: 0 address space, 1 resident. Allocates nothing. */
static inline size_t statm(int field)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = 0;
    close(fd);
    char *at = text;
    size_t value = strtoul(at, &at, 10);
    for (int i = 0; i < field; i++) value = strtoul(at, &at, 10);
    return value * (size_t)sysconf(_SC_PAGESIZE);
}

static inline size_t resident(void)
{
    return statm(1);
}

/* A small generator; each thread keeps its own state, never 0. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* The programs are compiled so that each call they write is made. A word that is filled or looked at is to be one instruction. */
static inline void put_word(unsigned char *at, uint64_t word)
{
    __builtin_memcpy(at, &word, 8);
}

static inline uint64_t word_at(const unsigned char *at)
{
    uint64_t word;
    __builtin_memcpy(&word, at, 8);
    return word;
}

/* Fills `size` bytes so that every 8-byte word tells seed and place. */
static inline void fill(void *block, size_t size, uint64_t seed)
{
    unsigned char *bytes = (unsigned char *)block;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        put_word(bytes + i, (seed + i) * 0x9e3779b97f4a7c15u);
    }
    for (; i < size; i++) bytes[i] = (unsigned char)(seed + i);
}

/* True when the first `size` bytes are as `fill` left them. `filled` is the size given to `fill`. */
static inline int intact(const void *block, size_t size, size_t filled, uint64_t seed)
{
    const unsigned char *bytes = (const unsigned char *)block;
    size_t words = filled & ~(size_t)7;
    size_t i = 0;
    for (; i + 8 <= size && i < words; i += 8) {
        if (word_at(bytes + i) != (seed + i) * 0x9e3779b97f4a7c15u) return 0;
    }
    for (; i < size; i++) {
        if (i < words) {
            unsigned char expected[8];
            put_word(expected, (seed + (i & ~(size_t)7)) * 0x9e3779b97f4a7c15u);
            if (bytes[i] != expected[i & 7]) return 0;
        } else if (bytes[i] != (unsigned char)(seed + i)) {
            return 0;
        }
    }
    return 1;
}

static inline int aligned_to(const void *block, size_t align)
{
    return ((uintptr_t)block & (align - 1)) == 0;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

#endif
