/* One sin each, for the hardened heap, by the name in argv[1]; "on" when it was not stopped. */
#include "check.h"
#include <limits.h>
#include <setjmp.h>
#include <sys/mman.h>

/* The preloaded library's. */
__attribute__((weak)) void free_sized(void *block, size_t size);
__attribute__((weak)) void free_aligned_sized(void *block, size_t align, size_t size);
__attribute__((weak)) void _ZdlPvm(void *block, size_t size);

#define CASE(name) else if (strcmp(argv[1], name) == 0)

/* What is written is never what stands there: fillers are odd. The compiler must not know what these bytes are. */
static volatile char *some(size_t size)
{
    volatile char *block = malloc(size);
    CHECK(block != NULL);
    return block;
}

static void drop(volatile char *block)
{
    free((void *)block);
}

/* Takes and frees blocks of one size until each that was free has come by, whatever quarantine it waits in. */
static void take_many(size_t size)
{
    static volatile char *held[3000];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT(held); i++) held[i] = some(size);
        for (size_t i = 0; i < COUNT(held); i++) drop(held[i]);
    }
}

static long faults(void)
{
    struct rusage used;
    CHECK(getrusage(RUSAGE_SELF, &used) == 0);
    return used.ru_minflt;
}

/* Says where it is about to touch. */
static volatile char *at(volatile char *address)
{
    printf("%p\n", (void *)address);
    fflush(stdout);
    return address;
}

static void *toucher(void *address)
{
    *at(address) = 1;
    return NULL;
}

static sigjmp_buf back;
static siginfo_t seen;
static char *volatile stack_at, *volatile closed;

static void jump(int signal, siginfo_t *info, void *context)
{
    char here;
    stack_at = &here;
    CHECK(signal == SIGSEGV && context != NULL);
    seen = *info;
    siglongjmp(back, 1);
}

static void open_page(int signal, siginfo_t *info, void *context)
{
    CHECK(signal == SIGSEGV && context != NULL && (char *)info->si_addr == closed + 5);
    CHECK(mprotect(closed, 4096, PROT_READ | PROT_WRITE) == 0);
}

static void handle(void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO };
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
}

/* Faults of its own; no handler is needed to survive them. */
static void probe(volatile char *address, int code)
{
    if (sigsetjmp(back, 1) == 0) {
        *address = 1;
        CHECK(!"a fault");
    }
    CHECK(seen.si_addr == address && seen.si_code == code);
}

static int deep(int level)
{
    volatile char room[4096];
    room[0] = (char)level;
    return level < INT_MAX ? deep(level + 1) + room[0] : 0;
}

/* Pages of a block that are in memory. */
static size_t there(volatile char *block, size_t size)
{
    static unsigned char seen[1024];
    size_t pages = size / 4096, count = 0;
    CHECK(pages <= sizeof seen && mincore((void *)block, size, seen) == 0);
    for (size_t i = 0; i < pages; i++) count += seen[i] & 1;
    return count;
}

/* Takes and frees blocks, and touches all of each or nothing. How many pages of the last 100 were there at once. */
static size_t come_and_go(size_t size, int touched)
{
    size_t count = 0;
    for (int round = 0; round < 500; round++) {
        volatile char *block = some(size);
        if (round >= 400) count += there(block, size);
        for (size_t i = 0; touched && i < size; i += 4096) {
            CHECK(block[i] == 0);
            block[i] = 1;
        }
        drop(block);
    }
    return count;
}

/* Two blocks of 40 bytes, one right behind the other, both in use; the one behind does not begin a page. */
static void pair(volatile char **before, volatile char **behind)
{
    static volatile char *held[3000];
    for (size_t i = 0; i < COUNT(held); i++) held[i] = some(40);
    for (size_t i = 0; i < COUNT(held); i++) {
        for (size_t j = 0; j < COUNT(held); j++) {
            if (held[j] - held[i] == 48 && (uintptr_t)held[j] % 4096 != 0) {
                *before = held[i];
                *behind = held[j];
                printf("%p\n", (void *)*behind);
                fflush(stdout);
                return;
            }
        }
    }
    CHECK(!"blocks side by side");
}

static volatile int gate;
static void *racer(void *block)
{
    __atomic_add_fetch(&gate, 1, __ATOMIC_SEQ_CST);
    while (gate < 2) { }
    free(block);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    if (argc == 0) return 1;
    CASE("sound")
    {
        for (size_t size = 0; size <= 65536; size += size < 3000 ? 7 : 1999) {
            volatile char *block = some(size);
            for (size_t i = 0; i < size; i++) {
                CHECK(block[i] == 0);
                block[i] = 0x55;
            }
            CHECK(malloc_usable_size((void *)block) == size);
            if (size % 3 == 0) free_sized((void *)block, size);
            else if (size % 3 == 1) _ZdlPvm((void *)block, size);
            else drop(block);
            char *aligned = memalign(64, size);
            CHECK(aligned != NULL && (uintptr_t)aligned % 64 == 0);
            memset(aligned, 1, size);
            free_aligned_sized(aligned, 64, size);
        }
    }
    CASE("over-1") { volatile char *p = some(40); p[40] = 2; drop(p); }
    CASE("over-nul") { volatile char *p = some(40); p[40] = 0; drop(p); }
    CASE("over-8") { volatile char *p = some(40); for (int i = 0; i < 8; i++) p[40 + i] = 2; drop(p); }
    CASE("over-whole-class") { volatile char *p = some(56); p[56] = 2; drop(p); }
    CASE("over-slack") { volatile char *p = some(1025); p[1025] = 2; drop(p); }
    CASE("over-1000") { volatile char *p = some(1000); p[1000] = 2; drop(p); }
    CASE("over-30000") { volatile char *p = some(30000); p[30000] = 2; drop(p); }
    CASE("over-65536") { volatile char *p = some(65536); p[65536] = 2; drop(p); }
    /* Over the seal, into what the class has beyond it. */
    CASE("over-jump") { volatile char *p = some(1100); p[1200] = 2; drop(p); take_many(1100); }
    CASE("over-none") { volatile char *p = some(0); p[0] = 2; drop(p); }
    CASE("over-realloc") { volatile char *p = some(40); p[40] = 2; CHECK(realloc((void *)p, 400) != NULL); }
    CASE("over-usable") { volatile char *p = some(40); p[40] = 2; malloc_usable_size((void *)p); }
    CASE("over-resized") { volatile char *p = realloc((void *)some(40), 39); p[39] = 2; drop(p); }
    CASE("under-1")
    {
        static volatile char *held[1000];
        for (int i = 0; i < 1000; i++) held[i] = some(40);
        /* Nothing lies before a block at the start of a page, or a wall: then the write would be a fault. */
        for (int i = 400; i < 600; i++) if ((uintptr_t)held[i] % 4096 != 0) held[i][-1] = 1;
        for (int i = 0; i < 1000; i++) drop(held[i]);
    }
    /* The block before stays in use, so that only the one behind can tell. */
    CASE("left-1") { volatile char *p, *q; pair(&p, &q); q[-1] ^= 0x55; drop(q); }
    CASE("left-nul") { volatile char *p, *q; pair(&p, &q); if (q[-1] == 0) q[-1] = 1; else q[-1] = 0; drop(q); }
    CASE("left-8") { volatile char *p, *q; pair(&p, &q); for (int i = -8; i < 0; i++) q[i] ^= 0x55; drop(q); }
    /* An odd one may be what a seal begins with: one in 128. */
    CASE("left-small") { volatile char *p, *q; pair(&p, &q); *(volatile uint64_t *)(q - 8) = 2; drop(q); }
    CASE("left-sized") { volatile char *p, *q; pair(&p, &q); q[-1] ^= 0x55; _ZdlPvm((void *)q, 40); }
    CASE("left-realloc") { volatile char *p, *q; pair(&p, &q); q[-1] ^= 0x55; CHECK(realloc((void *)q, 39) != NULL); }
    CASE("left-usable") { volatile char *p, *q; pair(&p, &q); q[-1] ^= 0x55; malloc_usable_size((void *)q); }
    CASE("left-free") { volatile char *p, *q; pair(&p, &q); drop(p); q[-1] = 1; drop(q); }
    /* All that is theirs, by all calls; what is left is as it was. */
    CASE("left-none")
    {
        volatile char *p, *q;
        pair(&p, &q);
        for (int i = 0; i < 40; i++) p[i] = q[i] = 0x55;
        CHECK(malloc_usable_size((void *)q) == 40);
        CHECK(realloc((void *)p, 37) == p && realloc((void *)q, 39) == q && realloc((void *)p, 40) == p);
        drop(q);
        for (int i = 0; i < 37; i++) CHECK(p[i] == 0x55);
        for (int i = 37; i < 40; i++) CHECK(p[i] == 0);
        drop(p);
        take_many(40);
    }
    CASE("after-first") { volatile char *p = some(200); drop(p); p[0] = 1; take_many(200); }
    CASE("after-middle") { volatile char *p = some(200); drop(p); p[100] = 1; take_many(200); }
    CASE("after-last") { volatile char *p = some(200); drop(p); p[199] = 1; take_many(200); }
    CASE("after-2000") { volatile char *p = some(2000); drop(p); p[1777] = 1; take_many(2000); }
    CASE("after-20000") { volatile char *p = some(20000); drop(p); p[17777] = 1; take_many(20000); }
    /* Not 3000 of them: memory is not endless everywhere. */
    CASE("after-65536") { volatile char *p = some(65536); drop(p); p[50000] = 1; for (int i = 0; i < 100; i++) some(65536); }
    CASE("twice-65536") { volatile char *p = some(65536); drop(p); drop(p); }
    CASE("twice-at-once")
    {
        pthread_t thread;
        void *block = malloc(64);
        CHECK(block != NULL && pthread_create(&thread, NULL, racer, block) == 0);
        racer(block);
        pthread_join(thread, NULL);
    }
    CASE("usable-freed") { volatile char *p = some(64); drop(p); malloc_usable_size((void *)p); }
    CASE("realloc-freed") { volatile char *p = some(64); drop(p); CHECK(realloc((void *)p, 60) != NULL); }
    CASE("sized-more") { free_sized((void *)some(40), 41); }
    CASE("sized-less") { free_sized((void *)some(40), 39); }
    CASE("sized-delete") { _ZdlPvm((void *)some(100), 104); }
    CASE("sized-large") { free_sized((void *)some(100000), 200000); }
    CASE("aligned-wrong")
    {
        volatile char *p;
        do p = some(40); while ((uintptr_t)p % 4096 == 0);
        free_aligned_sized((void *)p, 4096, 40);
    }
    CASE("large-over") { volatile char *p = some(100000); *at(p + 102400) = 1; }
    CASE("large-over-1") { volatile char *p = some(102400); *at(p + 102400) = 1; }
    CASE("large-over-zero") { volatile char *p = calloc(25, 4096); *at(p + 102401) = 1; }
    CASE("large-over-aligned") { volatile char *p = aligned_alloc(1 << 16, 81920); *at(p + 81920 + 4096) = 1; }
    CASE("large-over-resized") { volatile char *p = realloc((void *)some(100000), 101000); *at(p + 102400) = 1; }
    CASE("large-over-grown") { volatile char *p = realloc((void *)some(100), 204800); *at(p + 204800) = 1; }
    CASE("large-under") { volatile char *p = some(100000); *at(p - 1) = 1; }
    CASE("large-read-under") { volatile char *p = some(100000); CHECK(*at(p - 4096) == 0); }
    CASE("large-after") { volatile char *p = some(100000); drop(p); *at(p + 50000) = 1; }
    CASE("large-after-start") { volatile char *p = some(100000); drop(p); *at(p) = 1; }
    CASE("large-after-many")
    {
        volatile char *p = some(100000);
        drop(p);
        for (int i = 0; i < 50; i++) drop(some(300000));
        *at(p + 50000) = 1;
    }
    CASE("large-read-after") { volatile char *p = some(100000); drop(p); CHECK(*at(p + 50000) == 0); }
    CASE("large-over-after") { volatile char *p = some(100000); drop(p); *at(p + 102400) = 1; }
    CASE("huge-after") { volatile char *p = some(8 << 20); drop(p); *at(p + (5 << 20)) = 1; }
    CASE("vast-after") { volatile char *p = some(64 << 20); drop(p); CHECK(*at(p + (5 << 20)) == 0); }
    CASE("moved") { volatile char *p = some(100000); CHECK(realloc((void *)p, 300000) != p); *at(p + 5) = 1; }
    CASE("in-a-thread")
    {
        pthread_t thread;
        volatile char *p = some(100000);
        CHECK(pthread_create(&thread, NULL, toucher, (void *)(p - 1)) == 0);
        pthread_join(thread, NULL);
    }
    CASE("in-a-child")
    {
        volatile char *p = some(100000);
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) p[-1] = 1;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        printf("%d %d\n", (int)child, WTERMSIG(status));
    }
    CASE("own-handler")
    {
        /* It has a handler, on a small stack of its own, and goes on. */
        static char stack[8192];
        stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
        CHECK(sigaltstack(&alternate, NULL) == 0);
        handle(jump, SA_ONSTACK);
        volatile char *p = some(100000);
        probe(at(p - 1), SEGV_ACCERR);
        CHECK(stack_at >= stack && stack_at < stack + sizeof stack);
        drop(p);
        probe(at(p), SEGV_ACCERR);
    }
    CASE("own-faults")
    {
        /* What faults, and is not the heap's affair: pages that the program closed, null, what it unmapped, its stack's end. */
        volatile char *large = memalign(4096, 100000), *aligned = memalign(4096, 8192);
        char *mapped = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(large != NULL && aligned != NULL && mapped != MAP_FAILED);
        volatile char *places[] = { large + 8192, aligned, mapped };
        for (size_t i = 0; i < COUNT(places); i++) {
            closed = (char *)places[i];
            CHECK(mprotect(closed, 4096, PROT_NONE) == 0);
            handle(jump, 0);
            probe(closed + 5, SEGV_ACCERR);
            handle(open_page, 0);
            closed[5] = 1;
        }
        handle(jump, 0);
        probe((char *)opaque(8), SEGV_MAPERR);
        CHECK(munmap(mapped, 3 * 4096) == 0);
        probe(mapped, SEGV_MAPERR);
        drop(aligned);
        drop(large);
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            _exit(deep(0));
        }
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    CASE("null") { *(volatile char *)opaque(8) = 1; }
    CASE("wall") { volatile char *p = some(64); for (size_t i = 0; i < 4 << 20; i++) (void)p[i]; }
    CASE("pinned")
    {
        /* Pages that held blocks of one size never hold others, also when there is nothing left in them. */
        enum { COUNT_64 = 20000, PAGE = 4096 };
        static uintptr_t pages[COUNT_64];
        for (int i = 0; i < COUNT_64; i++) pages[i] = (uintptr_t)some(64);
        for (int i = 0; i < COUNT_64; i++) free((void *)pages[i]);
        uintptr_t low = UINTPTR_MAX, high = 0;
        for (int i = 0; i < COUNT_64; i++) {
            pages[i] /= PAGE;
            if (pages[i] < low) low = pages[i];
            if (pages[i] > high) high = pages[i];
        }
        malloc_trim(0);
        char *was = calloc(high - low + 1, 1);
        CHECK(was != NULL);
        for (int i = 0; i < COUNT_64; i++) was[pages[i] - low] = 1;
        for (int i = 0; i < 4000; i++) {
            size_t size = 100 + (size_t)i * 7 % 30000;
            uintptr_t first = (uintptr_t)some(size) / PAGE, last = (first * PAGE + size) / PAGE;
            for (uintptr_t page = first; page <= last; page++) {
                CHECK(page < low || page > high || !was[page - low]);
            }
        }
    }
    CASE("rounds")
    {
        /* What comes and goes as a whole, again and again, has its pages made a few times only; and does not keep them for ever. */
        static volatile char *held[200];
        for (int round = 0; round < 60; round++) {
            if (round == 40) printf("%ld ", faults());
            for (size_t i = 0; i < COUNT(held); i++) held[i] = some(30000);
            for (size_t i = 0; i < COUNT(held); i++) drop(held[i]);
        }
        printf("%ld %zu ", faults(), resident() >> 10);
        for (int turn = 0; turn < 3; turn++) {
            usleep(550 * 1000);
            for (size_t i = 0; i < COUNT(held); i++) held[i] = some(100);
            for (size_t i = 0; i < COUNT(held); i++) drop(held[i]);
        }
        printf("%zu ", resident() >> 10);
    }
    CASE("touched")
    {
        /* Pages that blocks of a length have in memory before anybody touches them: as the blocks before were touched. */
        printf("%zu ", come_and_go(256 << 10, 0));
        printf("%zu ", come_and_go(256 << 10, 1));
        printf("%zu ", come_and_go(256 << 10, 0));
        printf("%zu ", come_and_go(4 << 20, 1));
    }
    CASE("order")
    {
        /* Where blocks lie, seen from the first one. */
        char *first = malloc(64);
        for (int i = 0; i < 20; i++) printf("%td ", (char *)malloc(64) - first);
    }
    else return 1;
    puts("on");
    return 0;
}
