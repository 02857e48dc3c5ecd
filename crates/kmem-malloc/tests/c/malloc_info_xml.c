/* malloc_info writes a balanced XML text in the C library's frame; its numbers move; bad options are refused. */
#include "check.h"

/* Walks the tags with a stack: every opened tag is closed in order, and there is one root. */
static void balanced(const char *text)
{
    const char *open[16];
    size_t lengths[16];
    int depth = 0, roots = 0;
    for (const char *at = strchr(text, '<'); at != NULL; at = strchr(at, '<')) {
        const char *end = strchr(at, '>');
        CHECK(end != NULL);
        if (at[1] == '/') {
            CHECK(depth > 0);
            depth--;
            CHECK(strncmp(at + 2, open[depth], lengths[depth]) == 0 && at[2 + lengths[depth]] == '>');
        } else {
            if (depth == 0) roots++;
            if (end[-1] != '/') {
                CHECK(depth < 16);
                open[depth] = at + 1;
                lengths[depth] = strcspn(at + 1, " >");
                depth++;
            }
        }
        at = end;
    }
    CHECK(depth == 0);
    CHECK(roots == 1);
}

/* The number in the last tag that starts with `tag`. */
static size_t number(const char *text, const char *tag)
{
    const char *last = NULL;
    for (const char *at = strstr(text, tag); at != NULL; at = strstr(at + 1, tag)) last = at;
    CHECK(last != NULL);
    const char *size = strstr(last, "size=\"");
    CHECK(size != NULL);
    return strtoul(size + 6, NULL, 10);
}

static char *info(void)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(stream != NULL);
    CHECK(malloc_info(0, stream) == 0);
    CHECK(fclose(stream) == 0);
    CHECK(strncmp(text, "<malloc version=\"1\">\n<heap nr=\"0\">\n", 35) == 0);
    CHECK(length > 12 && strcmp(text + length - 10, "</malloc>\n") == 0);
    balanced(text);
    return text;
}

int main(void)
{
    char *before = info();
    void *huge = malloc((size_t)100 << 20);
    static void *held[5000];
    for (size_t i = 0; i < COUNT(held); i++) CHECK((held[i] = malloc(4000)) != NULL);
    char *after = info();
    CHECK(number(after, "<total type=\"mmap\"") >= number(before, "<total type=\"mmap\"") + ((size_t)100 << 20));
    CHECK(number(after, "<system type=\"current\"") >= number(before, "<system type=\"current\"") + 4000 * COUNT(held) / 2);
    CHECK(number(after, "<system type=\"max\"") >= number(after, "<system type=\"current\""));
    CHECK(strstr(after, "<total type=\"fast\"") != NULL && strstr(after, "<total type=\"rest\"") != NULL);
    for (size_t i = 0; i < COUNT(held); i++) free(held[i]);
    free(huge);
    free(before);
    free(after);
    errno = 7;
    CHECK(malloc_info(1, stdout) == EINVAL);
    CHECK(malloc_info(-1, stdout) == EINVAL);
    CHECK(errno == 7);
    return ok();
}
