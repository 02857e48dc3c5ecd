/* vfork, posix_spawn, system and popen around live blocks and running threads. */
#include "check.h"
#include <spawn.h>
extern char **environ;

static int stop;

static void *churn(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) free(malloc(1 + next_random(&random) % 3000));
    return NULL;
}

static void expect(pid_t child, int code)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

int main(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, churn, (void *)77) == 0);
    char *block = malloc(1000);
    fill(block, 1000, 1);
    for (int i = 0; i < 60; i++) {
        pid_t child = vfork();
        if (child == 0) _exit(3);
        CHECK(child > 0);
        expect(child, 3);
        child = vfork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", "exit 4", (char *)NULL);
            _exit(99);
        }
        CHECK(child > 0);
        expect(child, 4);
        char *arguments[] = {"sh", "-c", "exit 5", NULL};
        CHECK(posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ) == 0);
        expect(child, 5);
        free(malloc((size_t)i * 1000));
    }
    CHECK(WEXITSTATUS(system("exit 6")) == 6);
    FILE *output = popen("echo line", "r");
    CHECK(output != NULL);
    char *line = NULL;
    size_t capacity = 0;
    CHECK(getline(&line, &capacity, output) == 5);
    free(line);
    CHECK(pclose(output) == 0);
    CHECK(intact(block, 1000, 1000, 1));
    free(block);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    CHECK(pthread_join(thread, NULL) == 0);
    return ok();
}
