// The C++ operators: every form, the new-handler loop, bad_alloc through our frames, and null from the nothrow forms.
#include "check.h"
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

static const size_t none = (size_t)1 << 60;
static int calls, limit;
static void *reserve;
static void *volatile sink; // keeps the compiler from dropping an allocation nobody uses

struct OwnError : std::bad_alloc {
};

static void give_up()
{
    if (++calls == limit) std::set_new_handler(nullptr);
}
static void throw_own()
{
    calls++;
    throw OwnError();
}

template <class Error, class Call> static void throws(Call call)
{
    bool caught = false;
    try {
        call();
    } catch (Error &) {
        caught = true;
    }
    CHECK(caught);
}

// Every form of new with its forms of delete, and the alignment it promises.
static void forms()
{
    for (size_t size = 0; size < 5000; size = size * 2 + 1) {
        void *block = operator new(size), *other = operator new(size);
        CHECK(block != nullptr && other != nullptr && block != other && aligned_to(block, 16));
        memset(block, 1, size);
        operator delete(block);
        operator delete(other, size);
        block = operator new[](size);
        memset(block, 1, size);
        operator delete[](block);
        block = operator new[](size);
        operator delete[](block, size);
        block = operator new(size, std::nothrow);
        CHECK(block != nullptr);
        operator delete(block, std::nothrow);
        block = operator new[](size, std::nothrow);
        CHECK(block != nullptr);
        operator delete[](block, std::nothrow);
        for (size_t align = 8; align <= 65536; align *= 4) {
            std::align_val_t a{align};
            block = operator new(size, a);
            CHECK(block != nullptr && aligned_to(block, align));
            memset(block, 1, size);
            operator delete(block, a);
            block = operator new[](size, a);
            CHECK(block != nullptr && aligned_to(block, align));
            operator delete[](block, size, a);
            block = operator new(size, a, std::nothrow);
            CHECK(block != nullptr && aligned_to(block, align));
            operator delete(block, a, std::nothrow);
            block = operator new[](size, a, std::nothrow);
            CHECK(block != nullptr && aligned_to(block, align));
            operator delete[](block, a, std::nothrow);
            block = operator new(size, a);
            operator delete(block, size, a);
            block = operator new[](size, a);
            operator delete[](block, a);
        }
    }
    operator delete(nullptr);
    operator delete[](nullptr);
}

template <class Call> static void failing(Call call)
{
    std::set_new_handler(nullptr);
    throws<std::bad_alloc>(call);
    // The handler runs until it removes itself.
    calls = 0;
    limit = 3;
    std::set_new_handler(give_up);
    throws<std::bad_alloc>(call);
    CHECK(calls == 3);
    // What a handler throws arrives.
    calls = 0;
    std::set_new_handler(throw_own);
    throws<OwnError>(call);
    CHECK(calls == 1);
    std::set_new_handler(nullptr);
}

template <class Call> static void failing_null(Call call)
{
    std::set_new_handler(nullptr);
    CHECK(call() == nullptr);
    calls = 0;
    limit = 2;
    std::set_new_handler(give_up);
    CHECK(call() == nullptr);
    CHECK(calls == 2);
    calls = 0;
    std::set_new_handler(throw_own);
    CHECK(call() == nullptr);
    CHECK(calls == 1);
    std::set_new_handler(nullptr);
}

int main()
{
    forms();
    std::align_val_t a{64};
    failing([] { sink = operator new(none); });
    failing([] { sink = operator new[](none); });
    failing([=] { sink = operator new(none, a); });
    failing([=] { sink = operator new[](none, a); });
    failing_null([] { return operator new(none, std::nothrow); });
    failing_null([] { return operator new[](none, std::nothrow); });
    failing_null([=] { return operator new(none, a, std::nothrow); });
    failing_null([=] { return operator new[](none, a, std::nothrow); });
    throws<std::bad_alloc>([] { sink = operator new(10, std::align_val_t(24)); });

    // A handler that frees a reserve lets the request succeed.
    struct rlimit limits = {statm(0) + (64 << 20), RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limits) == 0);
    reserve = malloc(40 << 20);
    CHECK(reserve != nullptr);
    std::set_new_handler([] {
        calls++;
        free(reserve);
        reserve = nullptr;
        std::set_new_handler(nullptr);
    });
    calls = 0;
    void *block = operator new((size_t)40 << 20);
    CHECK(block != nullptr && calls == 1 && reserve == nullptr);
    operator delete(block);

    // Ordinary life.
    std::vector<std::string> words;
    for (int i = 0; i < 20000; i++) words.push_back(std::string((size_t)(i % 100), 'x') + std::to_string(i));
    for (int i = 0; i < 20000; i++) CHECK(words[(size_t)i].size() == (size_t)(i % 100) + std::to_string(i).size());
    throws<std::length_error>([&] { words.reserve(words.max_size() + 1); });
    throws<std::bad_alloc>([&] { words.reserve(words.max_size() / 2); });
    words.clear();
    return ok();
}
