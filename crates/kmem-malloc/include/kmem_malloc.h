/* What a C or C++ program may ask of libkmem_malloc.so beside malloc: to be told what is wrong with its memory, to decide what happens
 * then, and to have a look at the heap now. docs/diagnostics.md tells what reports, letters and leaks are.
 *
 * A program that is linked with -lkmem_malloc calls these functions as any other. One that may run with the library preloaded, or
 * without it, defines KMEM_OPTIONAL before it includes this file: the functions are weak then, and one that is not there is null:
 *
 *     #define KMEM_OPTIONAL
 *     #include "kmem_malloc.h"
 *     ...
 *     if (kmem_set_letters)
 *         kmem_set_letters("FZPU");
 *
 * (Such a file is compiled with -fPIE or -fPIC, as compilers do by themselves today: in other code the linker decides that a weak function
 * is null, before anybody can preload it.)
 *
 * What holds for all functions
 *  - Any thread may call them at any time, also before main and as the very first call: the heap is made then. Not a handler of a signal, not
 *    a callback, not the child of vfork.
 *  - A child of fork has the callbacks of its parent.
 *  - Failures are negative numbers of errno.h; errno itself stays as it is. -ENOMEM: there is no memory for the heap.
 *
 * What holds for all callbacks
 *  - They run in the thread that found the error, inside of its malloc or free, with locks of the heap held. So they must not allocate or
 *    free, nor call what does (stdio, most of the C++ library), nor wait for a thread that may, nor leave by longjmp or an exception, nor
 *    by exit or _exit; abort is allowed. A report may be made in a handler of a signal: what POSIX allows there (write, atomics) is
 *    allowed here.
 *  - Several threads may be in one at the same time, with different errors.
 *  - errno is put back behind them.
 *  - Texts are the library's, and gone when the callback returns.
 *  - Function and context always belong together. A thread that was about to call the ones before may still do so for a moment after they were
 *    replaced: both stay valid, best for good. Who unloads their code takes them back first.
 *
 * Licence: MIT or Apache-2.0, as you like.
 */
#ifndef KMEM_MALLOC_H
#define KMEM_MALLOC_H

#include <stddef.h>

#ifdef KMEM_OPTIONAL
#define KMEM_FUNCTION __attribute__((weak))
#else
#define KMEM_FUNCTION
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* An error. Later versions of the library may add to its end: `size` says what is there. */
struct kmem_error {
    /* Bytes of this structure. */
    size_t size;
    /* "BUG": a report. "FIX": a repair after one. "WARNING": a call that should not have been made, or harm that is over. */
    const char *kind;
    /* The cache ("kmalloc-56"); empty where none is known. */
    const char *cache;
    /* What is wrong: the title of a report ("Right Redzone overwritten"), or the line that stands for one ("kmem: free(): double free of
     * ..."). Of a long one the beginning. Empty where it is not known: for a judge, when many threads find errors at once. */
    const char *text;
};

/* Takes one line of a message: `length` bytes, of which the last is a newline. No zero follows. */
typedef void kmem_receiver_fn(const char *line, size_t length, void *context);

/* Is shown an error, before its report is written. */
typedef void kmem_hook_fn(const struct kmem_error *error, void *context);

/* Decides after a report: 0 stops the process (SIGABRT), everything else lets it go on, and what can be repaired is. */
typedef int kmem_judge_fn(const struct kmem_error *error, void *context);

/* What kmem_report_leaks shows. */
#define KMEM_LEAKS_LOST 1   /* what no pointer leads to any more */
#define KMEM_LEAKS_ALL 2    /* that, and what can still be reached */
#define KMEM_LEAKS_IN_USE 3 /* all that was not freed; nobody looks for pointers */

/* Sends all lines of messages to `receiver`; null: to where KMEM_LOG says. Called for every line, of reports too, one after
 * the other; lines of two threads may mix. No heap is needed for it, so it cannot fail. */
KMEM_FUNCTION void kmem_set_receiver(kmem_receiver_fn *receiver, void *context);

/* Shows each error to `hook`, those too that are not printed because there were too many; null: to nobody. Returns 0 or -ENOMEM. */
KMEM_FUNCTION int kmem_set_hook(kmem_hook_fn *hook, void *context);

/* Has `judge` decide after each report, in place of KMEM_ON_ERROR; null: that holds again. `kmem ctl PROGRAM on-error` overrides
 * either. Damage that the heap cannot live with stops the process without asking, and what the hardened heap finds without letters stops
 * it whatever the answer is. Returns 0 or -ENOMEM. */
KMEM_FUNCTION int kmem_set_judge(kmem_judge_fn *judge, void *context);

/* Gives caches debug letters from now on, in the grammar of KMEM_DEBUG and on top of what that said ("FZPU", "FZ,kmalloc-56;U,kmalloc-1*",
 * "-" for none): those that there are, and those that are made later, as the caches of malloc's sizes are when they are first used. Returns
 * how many of those that there are have these letters now (0 may be all: caches that cannot have them are not counted, and SLAB gives Z
 * and U to new ones only), or
 *   -EINVAL      null, no UTF-8, or a letter that means nothing
 *   -EOPNOTSUPP  letters that this engine has no checks for
 *   -E2BIG       too many names: letters without names begin anew
 *   -ENOMEM
 * Nothing changed then. What holds for new caches is kept in a page of its own, for good: not for every request. */
KMEM_FUNCTION int kmem_set_letters(const char *text);

/* Looks at every slab of every checked cache now, and reports what is wrong. Returns the errors, each report and each repair counted
 * (unless the first one stopped the process); those that other threads find meanwhile may be among them. 0 where no cache has letters. */
KMEM_FUNCTION long kmem_validate(void);

/* Writes the leak report now, to where messages go; `show` is one of KMEM_LEAKS_*. All threads are stopped for a moment, and not while it
 * is written. Who allocated is told by caches with the letter U. Returns 1 when there are leaks, 0 when there are none (or no memory to look
 * for them), -EINVAL, -ENOMEM. */
KMEM_FUNCTION int kmem_report_leaks(int show);

#ifdef __cplusplus
}
#endif

#undef KMEM_FUNCTION

#endif
