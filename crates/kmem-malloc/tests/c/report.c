/* Ends in the way argv[1] names, for the runner to look at the reports that are left. Prints its pid, and a forked
 * child prints its own. */
#include "check.h"
#include <sys/auxv.h>

extern char **environ;

static void tell(void)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    CHECK(write(1, text, (size_t)n) == n);
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    void *block = malloc(100);
    CHECK(block != NULL);
    tell();
    if (strcmp(argv[1], "return") == 0) return 0;
    if (strcmp(argv[1], "exit") == 0) exit(0);
    if (strcmp(argv[1], "_exit") == 0) _exit(0);
    if (strcmp(argv[1], "_Exit") == 0) _Exit(0);
    if (strcmp(argv[1], "fork") == 0) {
        pid_t child = fork();
        if (child == 0) {
            tell();
            _exit(0);
        }
        wait_for(child);
        return 0;
    }
    if (strcmp(argv[1], "vfork") == 0) {
        pid_t child = vfork();
        if (child == 0) _exit(0);
        wait_for(child);
        return 0;
    }
    if (strcmp(argv[1], "exec") == 0) {
        execl("/proc/self/exe", argv[0], "return", (char *)NULL);
        CHECK(!"exec failed");
    }
    if (strcmp(argv[1], "closed") == 0) {
        /* Daemons close every descriptor and change directory; errno and the file table are as they left them. */
        for (int fd = 0; fd < 64; fd++) close(fd);
        CHECK(chdir("/") == 0);
        return 0;
    }
    if (strcmp(argv[1], "environment") == 0) {
        /* Programs overwrite the memory of their environment to show a title. */
        for (char **entry = environ; *entry != NULL; entry++) memset(*entry, 'x', strlen(*entry));
        return 0;
    }
    if (strcmp(argv[1], "secure") == 0) {
        CHECK(write(1, getauxval(AT_SECURE) ? "1\n" : "0\n", 2) == 2);
        return 0;
    }
    if (strcmp(argv[1], "kill") == 0) {
        raise(SIGKILL);
    }
    CHECK(!"unknown way");
    return 1;
}
