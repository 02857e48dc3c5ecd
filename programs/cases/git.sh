#!/bin/sh
# what: git: clone of a repository with thousands of objects, gc, log, blame, fsck
# needs: git python3
# runs: 1
set -eu
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME="$WORK" GIT_PAGER=cat
case $1 in
prepare)
    git init -q --bare "$DATA/origin.git"
    python3 "$PROGRAMS/lib/git-history.py" | git --git-dir="$DATA/origin.git" fast-import --quiet
    git --git-dir="$DATA/origin.git" symbolic-ref HEAD refs/heads/main
    ;;
run)
    rm -rf "$WORK/clone"
    git clone -q --no-local "$DATA/origin.git" "$WORK/clone"
    cd "$WORK/clone"
    git rev-parse HEAD
    git status --short
    git log --stat --format='%H %an %s' | sha256sum
    git log -p -n 300 | sha256sum
    git blame -s src/file_7.c | sha256sum
    git gc -q --aggressive --prune=now
    git fsck --full --strict
    git rev-list --objects --all | sort | sha256sum
    git repack -q -a -d -f --threads=2 --depth=20
    git grep -c value HEAD | sort | sha256sum
    git count-objects -v | grep -E '^(count|in-pack|garbage)'
    git archive --format=tar HEAD | sha256sum
    ;;
esac
