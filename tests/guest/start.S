/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entry of the tiny guest: PVH (32-bit, paging off, EBX = hvm_start_info; Xen docs/misc/pvh.pandoc)
 * for the first CPU, SIPI for the others; both go on in long mode on the same page tables. Whoever
 * loads the ELF file clears .bss, after a reset too.
 */
#define SEL_CODE32 8
#define SEL_DATA 16
#define SEL_CODE64 24
#define CR0_PE 1
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define PTE_TABLE 7       /* present, writable, user */
#define PTE_LARGE 0x87    /* the same, 2 MiB page */
#define AP_TRAMPOLINE 0x8000
#define STACK_BYTES 8192
#define LAPIC_EOI 0xfee000b0

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18        /* name and descriptor sizes, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad _start

    .section .text.start, "ax"
    .code32
    .globl _start
_start:
    cli
    cld
    lgdtl gdt_pointer     /* a reset may have left another one */
    ljmpl $SEL_CODE32, $1f
1:  movw $SEL_DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss

    /* Identity map of the first 4 GiB in 2 MiB pages, all of it open to ring 3. */
    movl $boot_pdpt + PTE_TABLE, boot_pml4
    movl $boot_pd + PTE_TABLE, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    movl $PTE_LARGE, %eax
    movl $boot_pd, %edi
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 3b

    movl $boot_stacks + STACK_BYTES, %esp
    movl %ebx, %esi
    movl $main64, %edi
    jmp enter_long

/* EDI: 64-bit code to go on with. ESI and ESP are kept. */
enter_long:
    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PG | CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE64, $1f
    .code64
1:  movl %esp, %esp
    movl %edi, %edi
    jmp *%rdi

main64:
    movl %esi, %edi
    call guest_main
1:  hlt
    jmp 1b

    .globl ap_trampoline, ap_trampoline_end, ap_stack_top
    .code16
ap_trampoline:            /* copied to AP_TRAMPOLINE; SIPI enters with IP 0 */
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl AP_TRAMPOLINE + (ap_gdt_pointer - ap_trampoline)
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $ap_start32
    .balign 4
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:

    .code32
ap_start32:
    movw $SEL_DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl ap_stack_top, %esp
    movl $ap64, %edi
    jmp enter_long
    .code64
ap64:
    call ap_main
1:  hlt
    jmp 1b

    .globl ring3_call
/*
 * void ring3_call(void (*function)(unsigned), unsigned cpu, void *stack, void *rsp0)
 * Call function(cpu) in ring 3, interrupts off. Ring 3 cannot return: the HLT at ring3_return traps,
 * on the stack that *rsp0 (in the TSS) says, just below the registers saved here.
 */
ring3_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp         /* a multiple of 16: the CPU would round it down */
    movq %rsp, (%rcx)
    subq $8, %rdx
    movq $ring3_return, (%rdx)
    movq %rdi, %rax
    movl %esi, %edi
    pushq $0x2b           /* SS: user data */
    pushq %rdx
    pushq $0x2            /* RFLAGS */
    pushq $0x33           /* CS: user code */
    pushq %rax
    iretq
ring3_return:
    hlt

/* One stub for each of the first 32 vectors, 16 bytes apart. */
    .globl trap_stubs
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if !((0x60227d00 >> vector) & 1)
    pushq $0              /* this vector has no error code */
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr
    .balign 16
trap_common:              /* stack: vector, error code, RIP, CS, RFLAGS, RSP, SS */
    cmpq $ring3_return, 16(%rsp)
    je 2f
    movq %rsp, %rdi       /* the handler ends this CPU: nothing needs to be saved */
    cld
    andq $-16, %rsp
    call trap_handle
1:  hlt
    jmp 1b
2:  addq $7 * 8 + 8, %rsp /* back in ring3_call */
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* The timer's interrupt, in op=tick. */
    .globl tick_entry, tick_count
tick_entry:
    incq tick_count
    pushq %rax
    movl $LAPIC_EOI, %eax
    movl $0, (%rax)
    popq %rax
    iretq

    .section .data
tick_count:
    .quad 0
    .globl gdt, gdt_pointer
    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff  /* 0x08 code, 32 bits */
    .quad 0x00cf93000000ffff  /* 0x10 data */
    .quad 0x00af9b000000ffff  /* 0x18 code, 64 bits */
    .quad 0
    .quad 0x00cff3000000ffff  /* 0x28 data, ring 3 */
    .quad 0x00affb000000ffff  /* 0x30 code, 64 bits, ring 3 */
    .quad 0
    .fill 2 * 16, 8, 0        /* 0x40 TSS of each CPU */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
ap_stack_top:
    .quad 0

    .bss
    .globl boot_pml4, boot_pdpt, boot_pd, boot_stacks
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
boot_stacks:
    .skip 16 * STACK_BYTES
    .section .note.GNU-stack, "", @progbits
