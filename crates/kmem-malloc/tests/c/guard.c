/* One fault on a guarded block, which argv[1] names. The program prints the block, and "on" at the end, when the fault did not end it. */
#include "check.h"

static char *volatile block;
static volatile char sink;

/* A block that ends (right) or begins (left) at the edge of its page. */
static void get(size_t size, int right)
{
    for (int i = 0; i < 200; i++) {
        block = malloc(size);
        CHECK(block != NULL);
        if (right ? ((uintptr_t)block + size) % 4096 == 0 : (uintptr_t)block % 4096 == 0) {
            char text[64];
            int n = snprintf(text, sizeof text, "%p\n", block);
            CHECK(write(1, text, (size_t)n) == n);
            return;
        }
    }
    CHECK(!"a block at that edge");
}

__attribute__((noinline)) static void drop(char *which)
{
    free(which);
}

static void *other_thread(void *argument)
{
    sink = block[3];
    return argument;
}

/* What is the heap's is not shown to the program. */
static void own_handler(int signal)
{
    _exit(signal);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    const char *name = argv[1];
#define CASE(text) else if (strcmp(name, text) == 0)
    if (strcmp(name, "read-right") == 0) {
        get(48, 1);
        sink = block[48];
    }
    CASE("write-right") {
        get(48, 1);
        block[48] = 1;
    }
    CASE("read-left") {
        get(48, 0);
        sink = block[-1];
    }
    CASE("write-left") {
        get(48, 0);
        block[-1] = 1;
    }
    CASE("read-freed") {
        get(48, 0);
        drop(block);
        sink = block[3];
    }
    CASE("write-freed") {
        get(48, 1);
        drop(block);
        block[47] = 1;
    }
    CASE("thread-freed") {
        get(48, 0);
        drop(block);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, other_thread, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CASE("after-realloc") {
        get(48, 0);
        char *old = block;
        CHECK(realloc(old, 4000) != old);
        sink = block[0];
    }
    CASE("own-handler") {
        CHECK(signal(SIGSEGV, own_handler) == SIG_DFL);
        get(48, 0);
        drop(block);
        sink = block[3];
    }
    CASE("in-child") {
        get(48, 0);
        drop(block);
        pid_t child = fork();
        if (child == 0) {
            sink = block[3];
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFSIGNALED(status)) {
            abort();
        }
    }
    CASE("twice") {
        get(48, 0);
        drop(block);
        drop(block);
    }
    CASE("interior") {
        get(48, 0);
        drop(block + 1);
    }
    CASE("pattern-right") {
        get(48, 0);
        block[48] = 1;
        drop(block);
    }
    CASE("pattern-left") {
        get(48, 1);
        block[-1] = 1;
        drop(block);
    }
    CASE("sound") {
        for (size_t size = 0; size < 6000; size += 7) {
            char *one = malloc(size);
            CHECK(one != NULL && malloc_usable_size(one) >= size);
            memset(one, 1, malloc_usable_size(one));
            char *zeroed = calloc(1, size);
            CHECK(zeroed != NULL);
            for (size_t i = 0; i < size; i++) {
                CHECK(zeroed[i] == 0);
            }
            void *aligned = NULL;
            CHECK(posix_memalign(&aligned, 256, size) == 0 && (uintptr_t)aligned % 256 == 0);
            CHECK((uintptr_t)one % 16 == 0 && (uintptr_t)zeroed % 16 == 0);
            one = realloc(one, size + 100);
            CHECK(one != NULL && (size == 0 || one[size - 1] == 1));
            one = realloc(one, size / 2 + 1);
            CHECK(one != NULL && (size == 0 || one[size / 2 - (size > 1 ? 1 : 0)] == 1));
            free(one);
            free(aligned);
            if (size % 3 != 0) {
                free(zeroed);
            }
        }
    }
    else {
        return 1;
    }
    CHECK(write(1, "on\n", 3) == 3);
    return 0;
}
