#!/bin/sh
# what: gcc -O2 -g on a generated C file of 200 functions; the object must be the same byte for byte
# needs: gcc python3
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) python3 "$PROGRAMS/lib/c-source.py" >"$DATA/large.c" ;;
run)
    cd "$DATA"
    gcc -O2 -g -c large.c -o "$WORK/large.o"
    sha256sum <"$WORK/large.o"
    gcc "$WORK/large.o" -o "$WORK/large"
    "$WORK/large"
    ;;
esac
