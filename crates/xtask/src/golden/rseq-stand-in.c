/*
 * Preloaded where instructions are counted: a virtual CPU offers no restartable sequences, so this gives the
 * thread that starts the program an area that says "CPU 0", under the names the C library uses. Nothing would
 * restart a piece: good for one thread only.
 */
#include <stddef.h>

static struct area {
    unsigned cpu_id_start, cpu_id;
    unsigned long long rseq_cs;
    unsigned flags, node_id, mm_cid, unused;
} area __attribute__((aligned(32)));

ptrdiff_t __rseq_offset;
unsigned __rseq_size, __rseq_flags;

/* The last library preloaded is the first to be initialised: before any that asks. */
__attribute__((constructor)) static void offer(void)
{
    char *thread;
    __asm__("mov %%fs:0, %0" : "=r"(thread));
    __rseq_offset = (char *)&area - thread;
    __rseq_size = sizeof area;
}
