/* Fork handlers that allocate, registered as early as a program can and as late, while another thread allocates. */
#include "check.h"

extern int library_handled;
static int stop, early_handled, late_handled;
static void *kept;

static void early(void)
{
    for (size_t size = 1; size < 3000000; size = size * 3 + 1) {
        void *block = calloc(1, size);
        CHECK(block != NULL);
        free(block);
    }
    early_handled++;
}

static void late(void)
{
    free(kept);
    CHECK((kept = malloc(5000)) != NULL);
    late_handled++;
}

static void before_constructors(void)
{
    CHECK(pthread_atfork(early, early, early) == 0);
}
__attribute__((section(".preinit_array"), used)) static void (*preinit)(void) = before_constructors;

static void *churn(void *arg)
{
    uint64_t random = 4711;
    void *held[64] = {0};
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        size_t i = next_random(&random) % 64;
        free(held[i]);
        CHECK((held[i] = malloc(1 + next_random(&random) % (i == 0 ? 200000 : 3000))) != NULL);
    }
    for (int i = 0; i < 64; i++) free(held[i]);
    return arg;
}

int main(void)
{
    alarm(100);
    pthread_t thread;
    CHECK(pthread_atfork(late, late, late) == 0);
    CHECK(pthread_create(&thread, NULL, churn, NULL) == 0);
    for (int round = 1; round <= 50; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            CHECK(early_handled == 2 * round && late_handled == 2 * round && library_handled == 2 * round);
            free(malloc(100000));
            _exit(17);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
        CHECK(early_handled == 2 * round && late_handled == 2 * round && library_handled == 2 * round);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(thread, NULL) == 0);
    return ok();
}
