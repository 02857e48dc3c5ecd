/* malloc and free from frames of many kinds. Arguments: two libraries that are loaded one after the other. */
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static void *volatile kept;

__attribute__((noinline)) static void leaf(int size) {
    kept = malloc(size);
    free(kept);
}

__attribute__((noinline)) static void aligned(int depth) {
    __attribute__((aligned(128))) char wide[256];
    memset(wide, depth, sizeof wide);
    kept = wide;
    leaf(depth + 1);
    if (depth > 0)
        aligned(depth - 1);
    kept = wide;
}

__attribute__((noinline)) static void late(int size) {
    char *room = alloca(size * 16 + 1);
    memset(room, 0, size * 16 + 1);
    kept = room;
    leaf(size + 1);
    if (size > 0)
        late(size - 1);
    kept = room;
}

/* Frames beyond what a kept rule can say. */
__attribute__((noinline)) static void huge(void) {
    char room[600 * 1024];
    memset(room, 1, sizeof room);
    kept = room;
    leaf(40);
    kept = room;
}

static int compare(const void *a, const void *b) {
    leaf(24);
    return *(const int *)a - *(const int *)b;
}

static void handler(int number) {
    aligned(number % 4);
}

static void *thread(void *unused) {
    late(5);
    raise(SIGUSR1);
    return unused;
}

static ucontext_t back, other;

static void coroutine(void) {
    late(3);
    swapcontext(&other, &back);
    aligned(3);
}

int main(int count, char **arguments) {
    leaf(16);
    aligned(10);
    late(10);
    huge();
    int numbers[100];
    for (int i = 0; i < 100; i++)
        numbers[i] = i * 37 % 100;
    qsort(numbers, 100, sizeof *numbers, compare);

    struct sigaction action = { .sa_handler = handler };
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
    sigaltstack(&stack, NULL);
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);

    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, thread, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);

    char *room = malloc(1 << 17);
    getcontext(&other);
    other.uc_stack.ss_sp = room;
    other.uc_stack.ss_size = 1 << 17;
    other.uc_link = &back;
    makecontext(&other, coroutine, 0);
    swapcontext(&back, &other);
    swapcontext(&back, &other);

    for (int turn = 0; turn < 3; turn++)
        for (int i = 1; i < count; i++) {
            void *library = dlopen(arguments[i], RTLD_NOW);
            void *(*ask)(int) = (void *(*)(int))dlsym(library, "ask");
            if (ask == NULL)
                return 1;
            free(ask(32));
            dlclose(library);
        }
    puts("ok");
    return 0;
}
