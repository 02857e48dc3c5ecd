/* What a program sees of injected failures. The first argument says what is done; nothing is asked for beside that.
 *
 * every SIZE    every way to ask for SIZE bytes, which must be refused, while other sizes are served: "ok"
 * draw          200 blocks of 100 bytes: a line with a letter for each, "." for one that was there and "x" for none
 * fork          a block of 100 bytes in the child, then one in the parent, as letters
 * exec PROGRAM  a block of 100 bytes, and then PROGRAM in place of this one, with "draw"
 * thread        a block of 100 bytes in a second thread, then one in the first
 */
#include "check.h"
#include <dlfcn.h>

static char letter(void)
{
    void *block = malloc(100);
    free(block);
    return block != NULL ? '.' : 'x';
}

static void say(const char *text, size_t size)
{
    CHECK(write(1, text, size) == (ssize_t)size);
}

static int refused(void *block)
{
    int code = errno;
    errno = 0;
    return block == NULL && code == ENOMEM;
}

static void every(size_t size)
{
    typedef void *nothrow_new(size_t, const void *);
    /* dlsym may ask for memory: of other sizes. */
    nothrow_new *cxx = (nothrow_new *)dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
    errno = 0;
    CHECK(refused(malloc(size)));
    CHECK(refused(calloc(size / 4, 4)));
    CHECK(refused(calloc(1, size)));
    CHECK(refused(realloc(NULL, size)));
    CHECK(refused(reallocarray(NULL, size / 4, 4)));
    CHECK(refused(aligned_alloc(64, size)));
    CHECK(refused(aligned_alloc(8, size)));
    CHECK(refused(memalign(4096, size)));
    CHECK(refused(valloc(size)));
    void *block = &block;
    CHECK(posix_memalign(&block, 128, size) == ENOMEM && block == (void *)&block);
    if (cxx != NULL) CHECK(cxx(size, "") == NULL);

    /* A block that cannot grow is as it was; to be smaller is no request. */
    for (size_t old = size / 2 + 1; old < size; old += size / 4) {
        char *grown = malloc(old);
        CHECK(grown != NULL);
        fill(grown, old, old);
        if (malloc_usable_size(grown) < size) {
            errno = 0;
            CHECK(refused(realloc(grown, size)));
        }
        CHECK(intact(grown, old, old, old));
        grown = realloc(grown, old / 8 + 1);
        CHECK(grown != NULL && intact(grown, old / 8 + 1, old, old));
        free(grown);
    }
    char *larger = malloc(size + size / 2);
    CHECK(larger != NULL);
    fill(larger, size, 7);
    larger = realloc(larger, size);
    CHECK(larger != NULL && intact(larger, size, size, 7));
    free(larger);
}

static void *in_thread(void *result)
{
    *(char *)result = letter();
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    if (!strcmp(argv[1], "every")) {
        every(strtoul(argv[2], NULL, 10));
        return ok();
    }
    char line[201];
    if (!strcmp(argv[1], "draw")) {
        for (int i = 0; i < 200; i++) line[i] = letter();
        line[200] = '\n';
        say(line, 201);
    } else if (!strcmp(argv[1], "fork")) {
        pid_t child = fork();
        if (child == 0) {
            line[0] = letter();
            say(line, 1);
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, NULL, 0) == child);
        line[0] = letter();
        line[1] = '\n';
        say(line, 2);
    } else if (!strcmp(argv[1], "exec")) {
        line[0] = letter();
        say(line, 1);
        execl(argv[2], argv[2], "draw", (char *)NULL);
        return 1;
    } else if (!strcmp(argv[1], "thread")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, in_thread, line) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        line[1] = letter();
        line[2] = '\n';
        say(line, 3);
    }
    return 0;
}
