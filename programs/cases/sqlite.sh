#!/bin/sh
# what: sqlite3: 400,000 rows inserted, indexed, updated, joined and sorted, on disk and in memory
# needs: sqlite3
# variants: system kmem
# runs: 1
set -eu
case $1 in
prepare) ;;
run) rm -f "$WORK/rows.db"; exec sqlite3 -batch "$WORK/rows.db" <"$PROGRAMS/lib/sqlite-load.sql" ;;
esac
