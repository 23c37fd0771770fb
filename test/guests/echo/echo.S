# The smallest guest that one can talk to: says that it is there on COM1, echoes what is typed, powers itself off at the
# power button, and sleeps meanwhile, so that a hundred of them take no processor. It stays in the 32-bit protected mode
# of the PVH boot ABI, with both 8259As and plain instructions only, so any KVM runs it.

        .equ    PHYS32_ENTRY, 18        # note type of the 32-bit entry point (Xen, elfnote.h)
        .equ    COM1, 0x3f8
        .equ    INTERRUPT_ENABLE, COM1 + 1
        .equ    RECEIVED, 1
        .equ    MODEM_CONTROL, COM1 + 4
        .equ    DTR_RTS_OUT2, 0xb       # we take input; OUT2 lets interrupts through
        .equ    LINE_STATUS, COM1 + 5
        .equ    DATA_READY, 1
        .equ    PM1_STATUS, 0x600       # src/boot/layout.ts
        .equ    PM1_ENABLE, 0x602
        .equ    PM1_CONTROL, 0x604
        .equ    POWER_BUTTON, 0x100     # ACPI 6.4, table 4.11
        .equ    SLEEP_S5, 0x2000 + (5 << 10)    # SLP_EN and SLP_TYP, table 4.13
        .equ    PIC1, 0x20
        .equ    PIC2, 0xa0
        .equ    VECTORS, 0x20           # of the first 8259A; the second's follow
        .equ    CODE, 8
        .equ    DATA, 16

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, PHYS32_ENTRY
        .asciz  "Xen"
        .long   _start

        .macro  outb value, port
        mov     $\value, %al
        mov     $\port, %edx
        out     %al, %dx
        .endm

        .section .text.entry, "ax"
        .code32
        .globl  _start
_start: cli
        mov     $stack, %esp
        lgdt    gdt_place
        ljmp    $CODE, $1f
1:      mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss

        # An interrupt wakes, and does no more. 16 gates (Intel SDM volume 3, figure 6-2), all the same.
        mov     $idt + 8 * VECTORS, %edi
        mov     $16, %ecx
1:      mov     $woken, %eax
        mov     %ax, (%edi)
        movw    $CODE, 2(%edi)
        movw    $0x8e00, 4(%edi)
        shr     $16, %eax
        mov     %ax, 6(%edi)
        add     $8, %edi
        dec     %ecx
        jnz     1b
        lidt    idt_place

        # ICW1 to ICW4 of both 8259As; then COM1's line 4, the second one's 2 and ACPI's 9 alone.
        outb    0x11, PIC1
        outb    VECTORS, PIC1 + 1
        outb    4, PIC1 + 1
        outb    1, PIC1 + 1
        outb    0x11, PIC2
        outb    VECTORS + 8, PIC2 + 1
        outb    2, PIC2 + 1
        outb    1, PIC2 + 1
        outb    0xeb, PIC1 + 1
        outb    0xfd, PIC2 + 1

        outb    DTR_RTS_OUT2, MODEM_CONTROL
        outb    RECEIVED, INTERRUPT_ENABLE
        mov     $PM1_ENABLE, %edx
        mov     $POWER_BUTTON, %eax
        out     %ax, %dx

        mov     $hello, %esi
        mov     $COM1, %edx
1:      mov     (%esi), %al
        test    %al, %al
        jz      look
        out     %al, %dx
        inc     %esi
        jmp     1b

        # What comes between a look and HLT is taken after it: STI holds interrupts back for one instruction.
look:   cli
        mov     $LINE_STATUS, %edx
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
        sti
        hlt
        jmp     look

off:    mov     $PM1_CONTROL, %edx
        mov     $SLEEP_S5, %eax
        out     %ax, %dx
1:      jmp     1b

        # Nothing but HLT is interrupted: what it would return to is dropped (not all KVMs have the 32-bit IRET).
woken:  mov     $stack, %esp
        mov     $0x20, %al              # end of interrupt, to both
        out     %al, $PIC2
        out     %al, $PIC1
        jmp     look

hello:  .asciz  "echo: ready\r\n"

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # code and data, all 4 GiB
        .quad   0x00cf93000000ffff
gdt_place:
        .word   gdt_place - gdt - 1
        .long   gdt
idt_place:
        .word   8 * (VECTORS + 16) - 1
        .long   idt

        .bss
        .balign 16
idt:    .skip   8 * (VECTORS + 16)
        .skip   1024
stack:
