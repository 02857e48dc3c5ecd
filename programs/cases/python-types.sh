#!/bin/sh
# what: python3: the standard test suite's files on dict, list, str, json and garbage collection
# needs: python3
# probe: python3 -c "import test.test_dict"
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) ;;
run) exec python3 "$PROGRAMS/lib/unittests.py" \
    test_json test_dict test_list test_unicode test_gc ;;
esac
