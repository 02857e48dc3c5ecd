/*
 * Stands in for libkmem_malloc.so: leaves the files that the library leaves at a process's end, with fixed
 * numbers, and allocates nothing. FAKE_REPORT picks a defect: "none" leaves nothing, "cut" leaves a report
 * without its end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char slabinfo[] =
	"slabinfo - version: 2.1\n"
	"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> "
	"<batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
	"kmalloc-1k            16     16   1024   16    4 : tunables    0    0    0 : slabdata      1      1      0\n"
	"kmalloc-64           130    192     64   64    1 : tunables    0    0    0 : slabdata      3      3      0\n";

static void put(const char *dir, const char *kind, const char *text, size_t length)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s.%d", dir, kind, (int)getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (write(fd, text, length) != (ssize_t)length)
		_exit(99);
	close(fd);
}

/* Some programs, shells among them, end without running destructors: the library is there, too. */
static void leave(void);

void _exit(int status)
{
	leave();
	syscall(SYS_exit_group, status);
	__builtin_unreachable();
}

__attribute__((destructor)) static void leave(void)
{
	const char *dir = getenv("KMEM_REPORT_DIR");
	const char *defect = getenv("FAKE_REPORT");
	const char *rseq = getenv("KMEM_RSEQ");
	char text[2048];
	int length;

	if (!dir || (defect && !strcmp(defect, "none")))
		return;
	length = snprintf(text, sizeof text,
		"kmem-report 1\n"
		"process %d fake prog\n"
		"engine slub cpus 2 nodes 1 ownership %s\n"
		"cache kmalloc-64 64 64 64 64 1 130 192 3 1 30 100000 250 12 5 1000\n"
		"cache kmalloc-1k 1024 1024 1024 16 4 16 16 1 0 0 16 16 0 1 1000\n"
		"large 2 81920 409600 7\n"
		"huge 0 0 8388608 1\n"
		"pages 2048 1900 300 700\n"
		"%s",
		(int)getpid(), rseq && !strcmp(rseq, "0") ? "portable" : "rseq",
		defect && !strcmp(defect, "cut") ? "" : "end\n");
	put(dir, "report", text, (size_t)length);
	put(dir, "slabinfo", slabinfo, sizeof slabinfo - 1);
}
