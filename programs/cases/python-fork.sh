#!/bin/sh
# what: python3: the standard test suite's multiprocessing on fork: pools, queues, shared memory, locks
# needs: python3
# probe: python3 -c "import test.test_dict"
# runs: 1
set -eu
case $1 in
prepare) ;;
run) exec python3 "$PROGRAMS/lib/unittests.py" \
    test_multiprocessing_fork.WithProcessesTestQueue \
    test_multiprocessing_fork.WithProcessesTestLock \
    test_multiprocessing_fork.WithProcessesTestSharedMemory \
    test_multiprocessing_fork.WithProcessesTestValue \
    test_multiprocessing_fork.WithProcessesTestArray \
    test_multiprocessing_fork.WithProcessesTestBarrier \
    test_multiprocessing_fork.WithThreadsTestPool \
    test_multiprocessing_fork.WithManagerTestQueue ;;
esac
