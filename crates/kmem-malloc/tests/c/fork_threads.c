/* Several threads fork while others allocate and read lines; the children allocate too, and start threads. */
#include "check.h"

enum { FORKERS = 4, READERS = 3, FORKS = 60 };
static int stop;

static void churn(uint64_t *random, int turns)
{
    void *held[16] = {0};
    for (int i = 0; i < turns; i++) {
        size_t k = next_random(random) % 16;
        free(held[k]);
        size_t size = 1 + next_random(random) % ((size_t)1 << (3 + next_random(random) % 15));
        CHECK((held[k] = malloc(size)) != NULL);
        memset(held[k], (int)k, size < 200 ? size : 200);
    }
    for (int k = 0; k < 16; k++) free(held[k]);
}

static void *in_child(void *random)
{
    churn(random, 100);
    return NULL;
}

static void *forker(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg * 7919 + 1;
    for (int i = 0; i < FORKS; i++) {
        churn(&random, 50);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            churn(&random, 200);
            if (i % 4 == 0) {
                pthread_t threads[2];
                uint64_t seeds[2] = {random, random + 5};
                for (int t = 0; t < 2; t++) CHECK(pthread_create(&threads[t], NULL, in_child, &seeds[t]) == 0);
                for (int t = 0; t < 2; t++) CHECK(pthread_join(threads[t], NULL) == 0);
            }
            _exit(17);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
    }
    return NULL;
}

static void *reader(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg * 104729 + 3;
    size_t lines = 0;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        FILE *file = fopen("/proc/self/maps", "r");
        CHECK(file != NULL);
        char *line = NULL;
        size_t capacity = 0;
        while (getline(&line, &capacity, file) > 0) lines++;
        free(line);
        fclose(file);
        churn(&random, 50);
    }
    CHECK(lines > 0);
    return NULL;
}

int main(void)
{
    pthread_t forkers[FORKERS], readers[READERS];
    alarm(100);
    for (uintptr_t i = 0; i < READERS; i++) CHECK(pthread_create(&readers[i], NULL, reader, (void *)(i + 1)) == 0);
    for (uintptr_t i = 0; i < FORKERS; i++) CHECK(pthread_create(&forkers[i], NULL, forker, (void *)(i + 1)) == 0);
    for (int i = 0; i < FORKERS; i++) CHECK(pthread_join(forkers[i], NULL) == 0);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < READERS; i++) CHECK(pthread_join(readers[i], NULL) == 0);
    return ok();
}
