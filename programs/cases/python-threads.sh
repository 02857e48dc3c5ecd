#!/bin/sh
# what: python3: the standard test suite's files on threads (fork among them), every object in malloc
# needs: python3
# probe: python3 -c "import test.test_dict"
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) ;;
run) PYTHONMALLOC=malloc exec python3 "$PROGRAMS/lib/unittests.py" \
    test_threading test_thread test_threading_local ;;
esac
