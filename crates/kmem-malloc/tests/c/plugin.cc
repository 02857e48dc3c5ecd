// A plug-in that brings the C++ runtime into a C program privately, and needs its exceptions from operator new.
#include "check.h"
#include <new>

static int calls;
static void *volatile sink; // keeps the compiler from dropping an allocation nobody uses

extern "C" int plugin_catches()
{
    int caught = 0;
    try {
        sink = operator new((size_t)1 << 60);
    } catch (std::bad_alloc &) {
        caught++;
    }
    std::set_new_handler([] {
        calls++;
        throw std::bad_alloc();
    });
    try {
        sink = operator new((size_t)1 << 60, std::align_val_t(256));
    } catch (std::bad_alloc &) {
        caught++;
    }
    if (operator new((size_t)1 << 60, std::nothrow) == nullptr) caught++;
    std::set_new_handler(nullptr);
    int *numbers = new int[1000]();
    for (int i = 0; i < 1000; i++) caught += numbers[i];
    delete[] numbers;
    return caught + calls;
}
