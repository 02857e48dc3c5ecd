/* What the library tells a program in C, and what it lets it decide: include/kmem_malloc.h. argv[1] names the case, argv[2] the fault that it
 * does. Callbacks write to standard output by system calls alone. */
#define KMEM_OPTIONAL
#include "kmem_malloc.h"

#include "check.h"
#include <stdatomic.h>
#include <sys/syscall.h>

/* A check within a callback: nothing of the heap may be used on the way out. */
#define CHECK_HERE(condition)                                            \
    do {                                                                 \
        if (!(condition)) {                                              \
            static const char text[] = "in a callback: " #condition "\n"; \
            syscall(SYS_write, 2, text, sizeof text - 1);                \
            syscall(SYS_exit_group, 9);                                  \
        }                                                                \
    } while (0)

static const char *fault;
static char *volatile block;

/* One error, of 50 bytes in a block of their own. */
__attribute__((noinline)) static void do_fault(void)
{
    block = malloc(50);
    CHECK(block != NULL);
    if (strcmp(fault, "far") == 0) {
        size_t bytes = malloc_usable_size(block);
        memset(block, 0x11, bytes);
        /* The first byte that no request can have. */
        block[strtoul(getenv("KMEM_TEST_CLASS"), NULL, 10)] = 1;
    } else if (strcmp(fault, "twice") == 0) {
        free(block);
    } else {
        CHECK(!"unknown fault");
    }
    errno = 77;
    free(block);
    CHECK(errno == 77);
}

static int lines, calls;

static void put(const char *text)
{
    CHECK_HERE(write(1, text, strlen(text)) == (ssize_t)strlen(text));
}

static void receive(const char *line, size_t length, void *context)
{
    CHECK_HERE(context == &lines && length > 0 && memchr(line, '\n', length) == line + length - 1);
    CHECK_HERE(write(1, line, length) == (ssize_t)length);
    lines++;
    errno = 5;
}

static void show(const char *who, const struct kmem_error *error)
{
    CHECK_HERE(error->size == sizeof *error);
    const char *parts[] = {who, " ", error->kind, " [", error->cache, "] [", error->text, "]\n"};
    for (size_t i = 0; i < COUNT(parts); i++) put(parts[i]);
    calls++;
    errno = 5;
}

static void hook(const struct kmem_error *error, void *context)
{
    CHECK_HERE(context == &calls);
    show("hook", error);
}

static int go_on(const struct kmem_error *error, void *context)
{
    CHECK_HERE(context == &calls);
    show("judge", error);
    return 1;
}

static int stop(const struct kmem_error *error, void *context)
{
    CHECK_HERE(context == &calls);
    show("judge", error);
    return 0;
}

static int go_on_silently(const struct kmem_error *error, void *context)
{
    CHECK_HERE(error->size == sizeof *error && context == NULL);
    return 1;
}

/* A judge whose context is a number, and whose errors must be its thread's own. */
static __thread char expected[32];
static atomic_int judged[3], known;

static int judge_with(int which, const struct kmem_error *error, void *context)
{
    CHECK_HERE(context == &judged[which]);
    if (error->text[0] != 0) {
        CHECK_HERE(strstr(error->text, expected) != NULL);
        known++;
    }
    judged[which]++;
    return 1;
}

static int judge_0(const struct kmem_error *error, void *context)
{
    return judge_with(0, error, context);
}

static int judge_1(const struct kmem_error *error, void *context)
{
    return judge_with(1, error, context);
}

static int judge_2(const struct kmem_error *error, void *context)
{
    return judge_with(2, error, context);
}

/* Three, so that each comes to each of the places that the library may keep two of in turn. */
static kmem_judge_fn *const judges[] = {judge_0, judge_1, judge_2};

#define TWICE 2000
static atomic_int working;

static void *free_twice(void *none)
{
    for (int i = 0; i < TWICE; i++) {
        char *volatile own = malloc(50);
        CHECK(own != NULL);
        snprintf(expected, sizeof expected, "%p", (void *)own);
        free(own);
        free(own);
    }
    working--;
    return none;
}

/* Threads misuse their memory while the judge changes from moment to moment. */
static void threads(void)
{
    pthread_t thread[4];
    CHECK(kmem_set_judge(judge_0, &judged[0]) == 0);
    for (size_t i = 0; i < COUNT(thread); i++) {
        working++;
        CHECK(pthread_create(&thread[i], NULL, free_twice, NULL) == 0);
    }
    for (int i = 1; working > 0; i = (i + 1) % 3) CHECK(kmem_set_judge(judges[i], &judged[i]) == 0);
    for (size_t i = 0; i < COUNT(thread); i++) CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(judged[0] + judged[1] + judged[2] == TWICE * (int)COUNT(thread));
    CHECK(known > 0);
}

static void letters(int expect_none)
{
    static char many[20000];
    errno = 77;
    CHECK(kmem_set_letters(NULL) == -EINVAL);
    CHECK(kmem_set_letters("FXP") == -EINVAL);
    CHECK(kmem_set_letters("F,kmalloc-64;Q") == -EINVAL);
    CHECK(kmem_set_letters("F,\xff") == -EINVAL);
    CHECK(errno == 77);
    if (expect_none) {
        CHECK(kmem_set_letters("FZPU") == -EOPNOTSUPP);
        return;
    }
    for (int i = 0; i < 900; i++) sprintf(many + strlen(many), "F,name-%d;", i);
    CHECK(kmem_set_letters(many) == -E2BIG);
    /* Nothing of all this changed anything. */
    CHECK(kmem_validate() == 0);
    char *volatile other = malloc(50);
    CHECK(other != NULL);
    CHECK(kmem_set_letters("FP") > 0);
    CHECK(kmem_set_letters("-") > 0);
    CHECK(kmem_set_letters("FP") > 0);
    CHECK(errno == 77);
    CHECK(kmem_set_judge(go_on, &calls) == 0);
    block = malloc(50);
    CHECK(block != NULL);
    free(block);
    free(block);
    CHECK(calls == 1);
    free(other);
    CHECK(calls == 1);
}

static void *volatile lost;

__attribute__((noinline)) static void lose(void)
{
    for (int i = 0; i < 20; i++) {
        lost = malloc(333);
        CHECK(lost != NULL);
        memset(lost, 0, 333);
    }
    lost = NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *what = argv[1];
    fault = argv[2];
    CHECK(kmem_set_receiver && kmem_set_hook && kmem_set_judge);
    CHECK(kmem_set_letters && kmem_validate && kmem_report_leaks);
    if (strcmp(what, "stderr") == 0) {
        CHECK(kmem_set_judge(go_on_silently, NULL) == 0);
        do_fault();
    } else if (strcmp(what, "lines") == 0) {
        kmem_set_receiver(receive, &lines);
        CHECK(kmem_set_judge(go_on_silently, NULL) == 0);
        do_fault();
        CHECK(lines > 0);
    } else if (strcmp(what, "given back") == 0) {
        kmem_set_receiver(receive, &lines);
        kmem_set_receiver(NULL, NULL);
        CHECK(kmem_set_hook(hook, &calls) == 0 && kmem_set_hook(NULL, NULL) == 0);
        CHECK(kmem_set_judge(go_on, &calls) == 0 && kmem_set_judge(NULL, NULL) == 0);
        do_fault();
    } else if (strcmp(what, "go on") == 0 || strcmp(what, "stop") == 0) {
        kmem_set_receiver(receive, &lines);
        CHECK(kmem_set_hook(hook, &calls) == 0);
        CHECK(kmem_set_judge(what[0] == 'g' ? go_on : stop, &calls) == 0);
        do_fault();
    } else if (strcmp(what, "fork") == 0) {
        CHECK(kmem_set_judge(go_on, &calls) == 0);
        pid_t child = fork();
        if (child == 0) {
            do_fault();
            CHECK(calls == 1);
            CHECK(kmem_set_judge(stop, &calls) == 0);
            do_fault();
            CHECK(!"the judge stops the child");
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        CHECK(calls == 0);
    } else if (strcmp(what, "threads") == 0) {
        threads();
    } else if (strcmp(what, "letters") == 0) {
        letters(strcmp(fault, "none") == 0);
    } else if (strcmp(what, "validate") == 0) {
        CHECK(kmem_set_judge(go_on, &calls) == 0);
        CHECK(kmem_validate() == 0);
        block = malloc(50);
        char *volatile other = malloc(50);
        CHECK(block != NULL && other != NULL);
        free(block);
        block[20] = 1;
        CHECK(kmem_validate() > 0 && calls > 0);
        free(other);
        /* It was repaired, or put aside. */
        CHECK(kmem_validate() == 0);
    } else if (strcmp(what, "leaks") == 0) {
        kmem_set_receiver(receive, &lines);
        CHECK(kmem_report_leaks(0) == -EINVAL && kmem_report_leaks(4) == -EINVAL);
        CHECK(lines == 0);
        lose();
        CHECK(kmem_report_leaks(KMEM_LEAKS_LOST) == 1);
    } else {
        CHECK(!"unknown case");
    }
    return ok();
}
