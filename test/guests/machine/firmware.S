# Firmware of 64 KiB for machines that have none which runs everywhere: on a software KVM the usual ones do not. RAM has
# been filled from outside already: the program at 1 MiB and a PVH start info at START_INFO. It enters the program as
# the PVH boot ABI has it: 32-bit protected mode, flat segments, EBX to the start info.

        .equ    BASE, 0xffff0000
        .equ    PROGRAM, 0x100000
        .equ    START_INFO, 0x6000

        .text
        .code16
        .globl  _start
_start: cli
        lgdtl   %cs:(gdt_pointer - _start)
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $0x08, $(BASE + (protected - _start))

        .code32
protected:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $START_INFO, %ebx
        mov     $PROGRAM, %eax
        jmp     *%eax

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
gdt_pointer:
        .word   23
        .long   BASE + (gdt - _start)

        # the reset vector
        .org    0xfff0
        .code16
        jmp     _start
        .org    0x10000
