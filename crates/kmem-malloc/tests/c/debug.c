/* Faults in blocks of malloc, for a heap with debug options; "sound" has none. The second argument tells how many bytes their class
 * has. Prints "on" when it comes to its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *volatile block;
static char *volatile other;

__attribute__((noinline)) static void *ask(size_t size)
{
	char *got = malloc(size);
	memset(got, 0x11, size);
	return got;
}

static void sound(void)
{
	static char *blocks[400];
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 400; i++)
			blocks[i] = ask(1 + (size_t)i * i % 9000);
		for (int i = 0; i < 400; i += 3)
			blocks[i] = realloc(blocks[i], 50 + i);
		for (int i = 0; i < 400; i++)
			free(blocks[i]);
	}
	char *volatile zero = calloc(1000, 9);
	for (int i = 0; i < 9000; i++)
		if (zero[i])
			exit(1);
	free(zero);
	char *volatile aligned = aligned_alloc(256, 1000);
	memset(aligned, 1, 1000);
	free(aligned);
	/* What runs before the C library is initialised must not disturb it. */
	if (!getenv("KMEM_DEBUG"))
		exit(1);
}

int main(int argc, char **argv)
{
	const char *fault = argc > 1 ? argv[1] : "";
	block = ask(50);
	other = ask(50);
	if (!strcmp(fault, "sound")) {
		sound();
	} else if (!strcmp(fault, "over")) {
		block[50] = 1;
	} else if (!strcmp(fault, "far")) {
		block[atol(argv[2])] = 1;
	} else if (!strcmp(fault, "under")) {
		block[-1] = 1;
	} else if (!strcmp(fault, "after")) {
		char *gone = block;
		block = NULL;
		free(gone);
		gone[20] = 1;
		for (int i = 0; i < 300; i++)
			ask(50);
	} else if (!strcmp(fault, "twice")) {
		free(block);
	} else if (!strcmp(fault, "interior")) {
		free(block + 16);
	} else {
		return 2;
	}
	free(block);
	free(other);
	puts("on");
	return 0;
}
