/* The program's own handlers of faults: what they are given, how they are entered, what they replace. True on any heap. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static siginfo_t seen;
static sigset_t blocked;
static volatile int calls;
static char *volatile stack_at;
static char *volatile page;

static void note(int signal, siginfo_t *info, void *context)
{
    char here;
    stack_at = &here;
    CHECK(context != NULL && signal == info->si_signo);
    seen = *info;
    calls++;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
}

static void jump(int signal, siginfo_t *info, void *context)
{
    note(signal, info, context);
    siglongjmp(back, 1);
}

static void open_page(int signal, siginfo_t *info, void *context)
{
    note(signal, info, context);
    CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
}

static void short_one(int signal)
{
    calls += signal;
    siglongjmp(back, 1);
}

static void touch(uintptr_t address)
{
    *(volatile char *)address = 1;
}

static void set(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO };
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static struct sigaction asked(int signal)
{
    struct sigaction action;
    CHECK(sigaction(signal, NULL, &action) == 0);
    return action;
}

/* How a child ends that does this. */
static int ending(void (*work)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        _exit(99);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void fault(void) { touch(8); }
static void sent(void) { raise(SIGSEGV); }
static void killed(void) { kill(getpid(), SIGBUS); }
static void ignored_fault(void) { signal(SIGSEGV, SIG_IGN); touch(8); }
static void once(void) { set(SIGSEGV, note, (int)SA_RESETHAND); touch(8); }
static void again(void) { set(SIGSEGV, jump, 0); if (!sigsetjmp(back, 1)) touch(8); signal(SIGSEGV, SIG_DFL); touch(8); }

static void *in_thread(void *argument)
{
    CHECK(pthread_kill(pthread_self(), SIGSEGV) == 0);
    return argument;
}

int main(void)
{
    /* On a guarded heap: something to guard, so that there is a handler beneath. */
    for (int i = 0; i < 100; i++) {
        free(malloc(40));
    }

    /* At first there is none. */
    CHECK(asked(SIGSEGV).sa_handler == SIG_DFL && asked(SIGBUS).sa_handler == SIG_DFL);

    /* The default: the same signal, however it comes. */
    CHECK(WTERMSIG(ending(fault)) == SIGSEGV && WTERMSIG(ending(sent)) == SIGSEGV);
    CHECK(WTERMSIG(ending(killed)) == SIGBUS && WTERMSIG(ending(ignored_fault)) == SIGSEGV);
    CHECK(WTERMSIG(ending(once)) == SIGSEGV && WTERMSIG(ending(again)) == SIGSEGV);

    /* A fault, with its information. */
    set(SIGSEGV, jump, 0);
    CHECK(asked(SIGSEGV).sa_sigaction == jump && (asked(SIGSEGV).sa_flags & SA_SIGINFO));
    for (volatile int i = 1; i <= 3; i++) {
        if (!sigsetjmp(back, 1)) {
            touch(0x123);
            CHECK(!"reached");
        }
        CHECK(calls == i && seen.si_signo == SIGSEGV && seen.si_code == SEGV_MAPERR);
        CHECK(seen.si_addr == (void *)0x123 && sigismember(&blocked, SIGSEGV) == 1);
    }
    CHECK(sigismember(&blocked, SIGUSR1) == 0);

    /* A page of the program's own, opened by its handler: the instruction goes on. */
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    set(SIGSEGV, open_page, 0);
    errno = 77;
    page[5] = 42;
    CHECK(page[5] == 42 && seen.si_code == SEGV_ACCERR && seen.si_addr == page + 5 && errno == 77);

    /* Mask and SA_NODEFER. */
    struct sigaction action = { .sa_sigaction = jump, .sa_flags = SA_SIGINFO | SA_NODEFER };
    sigaddset(&action.sa_mask, SIGUSR1);
    struct sigaction before;
    CHECK(sigaction(SIGSEGV, &action, &before) == 0 && before.sa_sigaction == open_page);
    before = asked(SIGSEGV);
    CHECK(sigismember(&before.sa_mask, SIGUSR1) == 1 && (before.sa_flags & SA_NODEFER));
    if (!sigsetjmp(back, 1)) {
        touch(16);
    }
    CHECK(sigismember(&blocked, SIGUSR1) == 1 && sigismember(&blocked, SIGSEGV) == 0);

    /* The alternate stack, if asked for. */
    static char alternate[64 << 10];
    stack_t alternative = { .ss_sp = alternate, .ss_size = sizeof alternate };
    CHECK(sigaltstack(&alternative, NULL) == 0);
    for (volatile int on = 0; on < 2; on++) {
        set(SIGSEGV, jump, on ? SA_ONSTACK : 0);
        if (!sigsetjmp(back, 1)) {
            touch(16);
        }
        CHECK((stack_at >= alternate && stack_at < alternate + sizeof alternate) == on);
    }

    /* One time only. */
    set(SIGSEGV, jump, (int)SA_RESETHAND);
    if (!sigsetjmp(back, 1)) {
        touch(16);
    }
    CHECK(asked(SIGSEGV).sa_handler == SIG_DFL);

    /* The short way, which stays; and its older kin, which does not. */
    CHECK(signal(SIGSEGV, short_one) == SIG_DFL && signal(SIGSEGV, short_one) == short_one);
    for (volatile int i = 1; i <= 2; i++) {
        calls = 0;
        if (!sigsetjmp(back, 1)) {
            touch(16);
        }
        CHECK(calls == SIGSEGV && asked(SIGSEGV).sa_handler == short_one);
    }
    CHECK(sysv_signal(SIGSEGV, short_one) == short_one);
    if (!sigsetjmp(back, 1)) {
        touch(16);
    }
    CHECK(asked(SIGSEGV).sa_handler == SIG_DFL);
    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_DFL && signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    errno = 0;
    CHECK(signal(1000, short_one) == SIG_ERR && errno == EINVAL);
    CHECK(sigaction(SIGKILL, &action, NULL) == -1 && errno == EINVAL);

    /* Sent, with what comes along; ignored; to one thread. */
    set(SIGSEGV, note, 0);
    calls = 0;
    CHECK(sigqueue(getpid(), SIGSEGV, (union sigval){ .sival_int = 4711 }) == 0);
    CHECK(calls == 1 && seen.si_code == SI_QUEUE && seen.si_value.sival_int == 4711 && seen.si_pid == getpid());
    CHECK(raise(SIGSEGV) == 0 && calls == 2 && seen.si_code <= 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(calls == 3);
    CHECK(signal(SIGSEGV, SIG_IGN) != SIG_ERR && raise(SIGSEGV) == 0 && calls == 3);

    /* The old calls that block. */
    CHECK(sigset(SIGSEGV, SIG_HOLD) == SIG_IGN && sigset(SIGSEGV, SIG_DFL) == SIG_HOLD);
    CHECK(sigignore(SIGSEGV) == 0 && asked(SIGSEGV).sa_handler == SIG_IGN);

    /* The other signal. */
    set(SIGBUS, jump, 0);
    char name[] = "/tmp/handlers.XXXXXX";
    int file = mkstemp(name);
    CHECK(file >= 0 && unlink(name) == 0);
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(page != MAP_FAILED);
    calls = 0;
    if (!sigsetjmp(back, 1)) {
        page[7] = 1;
    }
    CHECK(calls == 1 && seen.si_signo == SIGBUS && seen.si_code == BUS_ADRERR && seen.si_addr == page + 7);

    /* A child that shares this memory for a while changes its own handlers. */
    set(SIGSEGV, note, 0);
    pid_t child = vfork();
    if (child == 0) {
        struct sigaction none = { .sa_handler = SIG_DFL };
        _exit(sigaction(SIGSEGV, &none, NULL));
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(asked(SIGSEGV).sa_sigaction == note);

    puts("ok");
    return 0;
}
