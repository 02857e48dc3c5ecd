#!/bin/sh
# what: sort --parallel=4 of 400,000 lines in a locale, then unique counts
# needs: sort perl
# runs: 3
set -eu
export LC_ALL=C.UTF-8
case $1 in
prepare)
    perl -e 'my $s = 9; for (1 .. 400000) { $s = ($s * 1103515245 + 12345) & 0x7fffffff;
        printf "%s %d %s\n", substr("abcdefghijklmnopqrstuvwxyz", $s % 20, 3), $s >> 7, "x" x ($s % 37); }' >"$DATA/lines"
    ;;
run)
    sort --parallel=4 -S 64M "$DATA/lines" | sha256sum
    sort --parallel=4 -S 16M -T "$WORK" -k3,3 -k2,2n "$DATA/lines" | sha256sum
    sort --parallel=2 -u -k1,1 "$DATA/lines" | sha256sum
    ;;
esac
