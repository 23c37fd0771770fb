# Entry of the guest program: from the 32-bit protected mode of the PVH boot ABI to 64-bit ring 3, where a program runs
# at full speed on any KVM. As little as possible is done in ring 0, and by plain instructions only: a software KVM
# interprets it, and knows few.

        .equ    PHYS32_ENTRY, 18        # note type of the 32-bit entry point (Xen, elfnote.h)
        .equ    CODE32, 0x08
        .equ    DATA, 0x10
        .equ    CODE64, 0x18
        .equ    USER_DATA, 0x20 + 3
        .equ    USER_CODE, 0x28 + 3
        .equ    TASK, 0x30
        .equ    VECTORS, 32
        .equ    TASK_SIZE, 104 + 8192 + 1
        .equ    USER_FLAGS, 0x3002      # IOPL 3: ports are open to ring 3

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, PHYS32_ENTRY
        .asciz  "Xen"
        .long   _start

        # first in the image, where the firmware for machines that load no kernel jumps to
        .section .text.entry, "ax"
        .code32
        .globl  _start
_start: cli
        cld
        lgdt    gdt_pointer
        ljmp    $CODE32, $1f
1:      mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $ring0_stack_top, %esp
        mov     %ebx, start_info

        # 4 GiB in pages of 2 MiB, each address to itself, open to ring 3
        movl    $pdpt + 7, pml4
        mov     $directories + 7, %eax
        mov     $pdpt, %edi
        mov     $4, %ecx
1:      mov     %eax, (%edi)
        add     $0x1000, %eax
        add     $8, %edi
        dec     %ecx
        jnz     1b
        mov     $0x87, %eax             # present, writable, user, large
        mov     $directories, %edi
        mov     $2048, %ecx
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        dec     %ecx
        jnz     1b

        mov     %cr4, %eax
        or      $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       # EFER: LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax       # PG
        mov     %eax, %cr0
        ljmp    $CODE64, $long_mode

        .text
        .code64
long_mode:
        mov     $ring0_stack_top, %rsp
        # gates for the exceptions, to be told of them: each vector has an entry of 16 bytes
        mov     $exceptions, %eax
        mov     $idt, %edi
        mov     $VECTORS, %ecx
1:      mov     %ax, (%rdi)
        movw    $CODE64, 2(%rdi)
        movw    $0x8e00, 4(%rdi)        # present, interrupt gate
        mov     %eax, %edx
        shr     $16, %edx
        mov     %dx, 6(%rdi)
        add     $16, %eax
        add     $16, %edi
        dec     %ecx
        jnz     1b
        lidt    idt_pointer

        mov     $task_state, %eax
        movq    $ring0_stack_top, 4(%rax)       # RSP0
        mov     %ax, gdt + TASK + 2
        shr     $16, %eax
        mov     %al, gdt + TASK + 4
        mov     %ah, gdt + TASK + 7
        mov     $TASK, %eax
        ltr     %ax

        mov     $USER_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        push    $USER_DATA
        mov     $stack_top, %eax
        push    %rax
        push    $USER_FLAGS
        push    $USER_CODE
        mov     $user, %eax
        push    %rax
        iretq

user:   xor     %ebp, %ebp
        mov     start_info, %edi
        call    guest_main
1:      pause
        jmp     1b

        # Entries without an error code get a zero in its place.
        .balign 16
exceptions:
        .set    vector, 0
        .rept   VECTORS
        .balign 16
        .if     (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17)
        push    $0
        .endif
        push    $vector
        jmp     on_exception
        .set    vector, vector + 1
        .endr

on_exception:
        pop     %rdi                    # vector
        pop     %rsi                    # error code
        pop     %rdx                    # address of the instruction
        mov     %cr2, %rcx
        and     $-16, %rsp
        call    guest_exception
1:      hlt
        jmp     1b

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 32-bit code
        .quad   0x00cf93000000ffff      # data
        .quad   0x00af9b000000ffff      # 64-bit code
        .quad   0x00cff3000000ffff      # ring 3: data
        .quad   0x00affb000000ffff      # ring 3: 64-bit code
        .quad   0x0000890000000000 + TASK_SIZE - 1      # TSS, its base filled in
        .quad   0
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt
idt_pointer:
        .word   16 * VECTORS - 1
        .quad   idt

        # The I/O permission bitmap says the same as IOPL 3, which a software KVM loses on its way to ring 3.
        .balign 8
task_state:
        .fill   102, 1, 0
        .word   104
        .fill   8192, 1, 0
        .byte   0xff

        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
directories:
        .skip   4 * 4096
idt:    .skip   16 * VECTORS
        .skip   8192
ring0_stack_top:
        .skip   65536
stack_top:
start_info:
        .skip   8

        .section .note.GNU-stack, "", @progbits
