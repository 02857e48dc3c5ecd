#!/bin/sh
# what: perl: hashes, strings, regular expressions, sorting and closures over hundreds of thousands of scalars
# needs: perl
# runs: 1
set -eu
case $1 in
prepare) ;;
run) PERL_HASH_SEED=0 PERL_PERTURB_KEYS=0 exec perl "$PROGRAMS/lib/words.pl" 200000 ;;
esac
