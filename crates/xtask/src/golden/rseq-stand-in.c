/*
 * Preloaded where instructions are counted: a virtual CPU offers no restartable sequences, so this gives each
 * thread an area that says "CPU 0" under the names the C library uses. Nothing would restart a piece: good for one
 * thread only.
 */
struct area {
    unsigned cpu_id_start, cpu_id;
    unsigned long long rseq_cs;
    unsigned flags, node_id, mm_cid, unused;
} __attribute__((aligned(32)));

__thread struct area stand_in_area __attribute__((tls_model("initial-exec"), visibility("hidden"))) = {0};

const unsigned __rseq_size = sizeof(struct area);
const unsigned __rseq_flags = 0;

__asm__(".pushsection .data.rel.ro, \"aw\"\n"
        ".balign 8\n"
        ".globl __rseq_offset\n"
        ".type __rseq_offset, @object\n"
        ".size __rseq_offset, 8\n"
        "__rseq_offset: .quad stand_in_area@tpoff\n"
        ".popsection\n");
