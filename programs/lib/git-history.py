"""Write a history of 1500 commits over 60 files to standard output, in git fast-import's language."""

import random
import sys

COMMITS, FILES = 1500, 60
rng = random.Random(2026)
out = sys.stdout
files = {n: [f"int value_{n}_{line} = {rng.randrange(10**6)};" for line in range(120)] for n in range(FILES)}

for commit in range(COMMITS):
    changed = set(rng.sample(range(FILES), 3)) if commit else set(files)
    message = f"Change {commit}: " + " ".join(sorted(f"file_{n}.c" for n in changed))[:60]
    out.write(f"commit refs/heads/main\nauthor A U Thor <author@example.com> {1700000000 + commit * 60} +0000\n")
    out.write(f"committer A U Thor <author@example.com> {1700000000 + commit * 60} +0000\ndata {len(message)}\n{message}\n")
    for n in sorted(changed):
        lines = files[n]
        for _ in range(4):
            lines[rng.randrange(len(lines))] = f"int value_{n}_{rng.randrange(10**4)} = {rng.randrange(10**6)};"
        lines.insert(rng.randrange(len(lines)), f"/* {commit} */")
        text = "\n".join(lines) + "\n"
        out.write(f"M 100644 inline src/file_{n}.c\ndata {len(text)}\n{text}\n")
    out.write("\n")
