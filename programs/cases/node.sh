#!/bin/sh
# what: node: JSON, buffers, maps, compression and worker threads
# needs: node
# optional: yes
# runs: 1
set -eu
case $1 in
prepare) ;;
run) exec node "$PROGRAMS/lib/work.js" ;;
esac
