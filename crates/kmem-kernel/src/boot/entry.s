# From the loader's 32-bit entry to the first Rust function, in long mode.
#
# The loader (PVH) enters `pvh_entry` in flat 32-bit protected mode, paging off, with the address of its start information in
# ebx. Other processors come in through `ap_trampoline`, in real mode. Both meet in `enter_long`.

# The ELF note by which a loader finds the entry: name, type 18 (physical 32-bit entry).
.section .note.Xen, "a", @note
.balign 4
.long 4, 4, 18
.asciz "Xen"
.long pvh_entry

.section .boot.text, "ax"
.code32
.globl pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %edi                 # the start information, kept for kernel_main

    # The first 4 GiB at their own addresses, in pages of 2 MiB. The last GiB holds devices: not cached.
    movl $boot_pd, %ebx
    movl $0x83, %eax                # present, writable, large
    xorl %ecx, %ecx
1:  cmpl $1536, %ecx
    jne 2f
    orl $0x18, %eax                 # not cached from 3 GiB on
2:  movl %eax, (%ebx,%ecx,8)
    movl $0, 4(%ebx,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 1b
    movl $boot_pd + 0x003, boot_pdpt
    movl $boot_pd + 0x1003, boot_pdpt + 8
    movl $boot_pd + 0x2003, boot_pdpt + 16
    movl $boot_pd + 0x3003, boot_pdpt + 24
    movl $boot_pdpt + 3, boot_pml4

    movl $boot_entry64, %esi
    # falls through

# To long mode: the 64-bit address to go to in esi; edi is kept.
enter_long:
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0x6a0, %eax               # PAE, PGE, and SSE with its exceptions
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER: long mode, no-execute pages
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010033, %eax          # paging, write protection, native errors, MP; no emulation
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $1f
.code64
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    xorl %ebp, %ebp
    movl %esi, %esi
    jmp *%rsi

boot_entry64:
    movl $boot_stack_top, %esp
    movl %edi, %edi
    call kernel_main
    ud2

ap_entry64:
    movq ap_stack(%rip), %rsp
    movq ap_block(%rip), %rdi
    call ap_main
    ud2

# Another processor's first instructions, copied to AP_PAGE: real mode, cs = AP_PAGE >> 4.
.code16
.globl ap_trampoline
ap_trampoline:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (ap_gdt_pointer - ap_trampoline + 0x8000)
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $0x18, $ap_entry32
.balign 4
ap_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
.globl ap_trampoline_end
ap_trampoline_end:

.code32
ap_entry32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $ap_entry64, %esi
    jmp enter_long
.code64

.section .data.boot, "aw"
.balign 16
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 code, 64 bits
    .quad 0x00cf93000000ffff        # 0x10 data
    .quad 0x00cf9b000000ffff        # 0x18 code, 32 bits
boot_gdt_end:
.balign 8
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
.balign 8
# What the processor that starts now shall use; written by the one that starts it.
.globl ap_stack
ap_stack: .quad 0
.globl ap_block
ap_block: .quad 0

.section .bss.boot, "aw", @nobits
.balign 4096
.globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
.globl boot_stack
boot_stack: .skip 65536
boot_stack_top:
