# The smallest guest that one can talk to: says that it is there on COM1, echoes what is typed, and powers itself off
# at the power button. It stays in the 32-bit protected mode of the PVH boot ABI, polls, and uses plain instructions
# only, so any KVM runs it.

        .equ    PHYS32_ENTRY, 18        # note type of the 32-bit entry point (Xen, elfnote.h)
        .equ    COM1, 0x3f8
        .equ    MODEM_CONTROL, COM1 + 4
        .equ    DTR_AND_RTS, 3          # we take input
        .equ    LINE_STATUS, COM1 + 5
        .equ    DATA_READY, 1
        .equ    PM1_STATUS, 0x600       # src/boot/layout.ts
        .equ    PM1_CONTROL, 0x604
        .equ    POWER_BUTTON, 0x100     # ACPI 6.4, table 4.11
        .equ    SLEEP_S5, 0x2000 + (5 << 10)    # SLP_EN and SLP_TYP, table 4.13
        .equ    PAUSE, 3000             # instructions between two looks

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, PHYS32_ENTRY
        .asciz  "Xen"
        .long   _start

        .section .text.entry, "ax"
        .code32
        .globl  _start
_start: cli
        mov     $MODEM_CONTROL, %edx
        mov     $DTR_AND_RTS, %al
        out     %al, %dx
        mov     $hello, %esi
        mov     $COM1, %edx
1:      mov     (%esi), %al
        test    %al, %al
        jz      look
        out     %al, %dx
        inc     %esi
        jmp     1b

look:   mov     $LINE_STATUS, %edx
        in      %dx, %al
        test    $DATA_READY, %al
        jz      1f
        mov     $COM1, %edx
        in      %dx, %al
        out     %al, %dx
        jmp     look
1:      mov     $PM1_STATUS, %edx
        in      %dx, %ax
        test    $POWER_BUTTON, %ax
        jnz     off
        mov     $PAUSE, %ecx
1:      dec     %ecx
        jnz     1b
        jmp     look

off:    mov     $PM1_CONTROL, %edx
        mov     $SLEEP_S5, %eax
        out     %ax, %dx
1:      jmp     1b

hello:  .asciz  "echo: ready\r\n"
