#!/bin/sh
# what: redis-server on a unix socket: redis-benchmark, a load with a digest, expiry of half, a saved snapshot
# needs: redis-server redis-benchmark redis-cli
# runs: 1
set -eu
sock=$WORK/redis.sock
cli() { redis-cli -s "$sock" "$@"; }
case $1 in
prepare) ;;
run)
    # Debian's redis-server is linked with jemalloc; the system's allocator has to be put in front of it.
    [ "$KMEM_VARIANT" != system ] || export LD_PRELOAD=libc.so.6
    redis-server --port 0 --unixsocket "$sock" --dir "$WORK" --save '' --appendonly no --daemonize no \
        --enable-debug-command yes --hash-max-listpack-entries 8 --loglevel warning >"$WORK/redis.log" 2>&1 &
    server=$!
    trap 'kill $server 2>/dev/null || true' EXIT
    tries=0
    until cli ping >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { cat "$WORK/redis.log"; exit 1; }
        sleep 0.05
    done
    redis-benchmark -s "$sock" -q --csv -n 60000 -r 20000 -c 20 -d 100 -t set,get,incr,lpush,rpop,sadd,hset,zadd,mset |
        cut -d, -f1
    cli flushall
    cli eval "$(cat "$PROGRAMS/lib/redis-load.lua")" 0
    cli debug digest
    cli bgsave
    until [ "$(cli info persistence | tr -d '\r' | sed -n 's/^rdb_bgsave_in_progress://p')" = 0 ]; do sleep 0.05; done
    cli info persistence | tr -d '\r' | grep rdb_last_bgsave_status
    cli dbsize
    cli shutdown nosave || true
    wait $server
    trap - EXIT
    echo "server ended with $?"
    grep -i -E 'crash|assert|error' "$WORK/redis.log" || true
    ;;
esac
