#!/bin/sh
# what: 2 to 64 threads that allocate, hand blocks to each other, check every byte and free
# needs: gcc
# runs: 1
set -eu
case $1 in
prepare) gcc -O2 -pthread -Wall -Werror "$PROGRAMS/c/exchange.c" -o "$DATA/exchange" ;;
run) for threads in 2 4 8 16 32 64; do "$DATA/exchange" $threads 1000000; done ;;
esac
