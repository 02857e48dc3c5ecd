"""Print a large C program: record types, functions with loops, switches and calls, and a main that runs them."""

import random

FUNCTIONS = 200
rng = random.Random(7)
print("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>")
for r in range(40):
    fields = " ".join(f"unsigned f{f};" for f in range(rng.randrange(3, 9)))
    print(f"struct record{r} {{ {fields} struct record{r} *next; char name[{rng.randrange(8, 64)}]; }};")
for n in range(FUNCTIONS):
    r = rng.randrange(40)
    cases = "\n".join(
        f"    case {c}: x = x * {rng.randrange(3, 99)}u + (y >> {rng.randrange(1, 9)}) ^ {rng.randrange(10**6)}u; break;"
        for c in range(rng.randrange(6, 22)))
    call = f"x += function{rng.randrange(n)}(y, depth - 1);" if n else ""
    print(f"""
static unsigned function{n}(unsigned x, int depth)
{{
    struct record{r} list[8];
    unsigned y = x ^ {rng.randrange(10**6)}u;
    if (depth <= 0) return x;
    memset(list, 0, sizeof list);
    for (int i = 0; i < 8; i++) {{
        list[i].f0 = x * (i + {rng.randrange(1, 50)});
        list[i].f1 = y ^ i;
        list[i].next = &list[(i + 1) & 7];
        list[i].name[i % sizeof list[i].name] = (char)x;
    }}
    switch (x % 24) {{
{cases}
    default: x ^= y;
    }}
    for (struct record{r} *p = list; p->f1 % 13; p = p->next) {{
        x += p->f0 + (unsigned char)p->name[0];
        y = y * 31 + x;
        if (p->next == list) break;
    }}
    {call}
    return x ^ y;
}}""")
print("int main(void)\n{\n    unsigned sum = 1;")
for n in range(FUNCTIONS):
    print(f"    sum = sum * 33 + function{n}(sum, 6);")
print('    printf("%u\\n", sum);\n    return 0;\n}')
