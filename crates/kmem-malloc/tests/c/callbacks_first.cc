// The header in C++, linked with the library, and called before anything else is: by a constructor ahead of the C++ runtime's.
#include "kmem_malloc.h"
#include "kmem_malloc.h"

#include <unistd.h>

namespace {

struct Seen {
    int judged = 0;
};

Seen seen;

int judge(const kmem_error *error, void *context)
{
    static_cast<Seen *>(context)->judged += error->size >= sizeof(kmem_error);
    return 1;
}

__attribute__((constructor(101))) void first()
{
    kmem_set_receiver([](const char *, size_t, void *) {}, nullptr);
    if (kmem_set_judge(judge, &seen) != 0)
        _exit(1);
}

} // namespace

int main()
{
    char *volatile block = new char[50];
    delete[] block;
    delete[] block;
    if (seen.judged != 1)
        return 1;
    return write(1, "ok\n", 3) == 3 ? 0 : 1;
}
