#!/bin/sh
# what: perl and python3 inside valgrind (no tool), whose machine offers no restartable sequences
# needs: valgrind perl python3
# rss: no (valgrind's own memory)
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) ;;
run)
    PERL_HASH_SEED=0 PERL_PERTURB_KEYS=0 valgrind -q --tool=none perl "$PROGRAMS/lib/words.pl" 4000
    PYTHONMALLOC=malloc valgrind -q --tool=none python3 -S -c \
        'import json; d = {str(i): [i, str(i) * 3] for i in range(3000)}; print(len(json.dumps(d)), json.loads(json.dumps(d)) == d)'
    ;;
esac
