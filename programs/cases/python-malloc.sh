#!/bin/sh
# what: python3: the standard test suite's built-in types and libraries, every object in malloc
# needs: python3
# probe: python3 -c "import test.test_dict"
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) ;;
run) PYTHONMALLOC=malloc exec python3 "$PROGRAMS/lib/unittests.py" \
    test_json test_dict test_list test_bytes test_deque test_array \
    test_struct test_heapq test_re test_memoryview test_functools \
    test_collections test_string test_sort ;;
esac
