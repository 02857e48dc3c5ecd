/* Faults and leaks, for what is told of them: stacks with names, leaks at the end, limits, validation while running. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct node {
	struct node *next;
	char room[40];
};

static struct node *volatile kept;
static volatile sig_atomic_t children;

static void count(int sig)
{
	(void)sig;
	children++;
}

static void fail(const char *what)
{
	fprintf(stderr, "failed: %s\n", what);
	_exit(9);
}

__attribute__((noinline)) void leak_nodes(int n)
{
	while (n--) {
		struct node *fresh = malloc(sizeof *fresh);
		fresh->next = kept;
		kept = fresh;
	}
}

__attribute__((noinline)) char *leak_text(void)
{
	return strdup("twelve bytes");
}

static void *volatile last;

__attribute__((noinline)) void leak_mapping(void)
{
	last = malloc(10 << 20);
	last = realloc(last, 20 << 20);
}

/* Each call from the same place. */
__attribute__((noinline)) void leak_pages(void)
{
	last = malloc(100 << 10);
}

/* One byte too many, noticed at the free. */
__attribute__((noinline)) void overflow(void)
{
	char *volatile block = malloc(50);
	block[50] = 1;
	free(block);
}

/* After a report: no child to wait for, no signal of one, only our own descriptors. */
static void undisturbed(void)
{
	errno = 0;
	if (waitpid(-1, NULL, __WALL) != -1 || errno != ECHILD)
		fail("a child is there");
	if (children)
		fail("a child's signal");
	int low = open("/dev/null", O_RDONLY);
	if (low != 3)
		fail("a low descriptor is taken");
	close(low);
}

/* Descriptors that are not ours are closed, and their numbers become a file. */
static void reuse_descriptors(const char *path)
{
	int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	for (int fd = file + 1; fd < 1024; fd++)
		close(fd);
	for (int fd = file + 1; fd < 1024; fd++)
		if (dup2(file, fd) != fd)
			fail("dup2");
	overflow();
	struct stat stat;
	if (fstat(file, &stat) || stat.st_size)
		fail("somebody wrote to our file");
	for (int fd = file; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			fail("somebody closed our file");
}

static void churn(double seconds)
{
	struct timespec begin, now;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		for (int i = 0; i < 100; i++)
			free(malloc(300));
		usleep(10000);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) * 1e-9 < seconds);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	signal(SIGCHLD, count);
	/* The stream's buffer is the C library's, and stays. */
	puts("begin");
	if (!strcmp(what, "leak")) {
		leak_nodes(20);
		leak_text();
	} else if (!strcmp(what, "clean")) {
		leak_nodes(20);
		while (kept) {
			struct node *next = kept->next;
			free(kept);
			kept = next;
		}
	} else if (!strcmp(what, "quick")) {
		leak_nodes(3);
		fflush(stdout);
		_exit(5);
	} else if (!strcmp(what, "fork")) {
		leak_nodes(3);
		fflush(stdout);
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		pid_t second = fork();
		if (second == 0) {
			leak_text();
			exit(0);
		}
		if (waitpid(child, NULL, 0) != child || waitpid(second, NULL, 0) != second)
			fail("waitpid");
	} else if (!strcmp(what, "large")) {
		leak_mapping();
		for (int i = 0; i < 2; i++)
			leak_pages();
		free(malloc(7 << 20));
		free(malloc(200000));
	} else if (!strcmp(what, "helper")) {
		overflow();
		undisturbed();
		overflow();
		undisturbed();
	} else if (!strcmp(what, "closed")) {
		overflow();
		reuse_descriptors(argv[2]);
	} else if (!strcmp(what, "forked")) {
		overflow();
		pid_t child = fork();
		if (child == 0) {
			overflow();
			undisturbed();
			_exit(0);
		}
		int status;
		if (waitpid(child, &status, 0) != child || status)
			fail("the child");
		overflow();
	} else if (!strcmp(what, "storm")) {
		for (int i = 0; i < 40; i++)
			overflow();
	} else if (!strcmp(what, "strays")) {
		char local[64];
		for (int i = 0; i < 40; i++)
			free(local + 16);
	} else if (!strcmp(what, "idle")) {
		char *volatile block = malloc(50);
		block[50] = 1;
		churn(1.6);
		puts("late");
	} else if (!strcmp(what, "asked")) {
		char *volatile block = malloc(50);
		leak_nodes(20);
		block[50] = 1;
		raise(SIGUSR1);
		free(malloc(300));
		fflush(stdout);
		kill(getpid(), SIGKILL);
	} else {
		return 2;
	}
	puts("on");
	return 0;
}
