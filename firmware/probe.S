# Probe guest: does the KVM of this host run guest kernels? src/vmm/probe.ts loads it at 1 MiB and enters it at the
# first byte in 64-bit mode with the tables below, once for each check, the check's number in ESI. The result goes
# out as 32 bits to port 0xf4: 1 is right, 0x100 + vector an exception that ought not to be, others are explained
# where they are made. A check that cannot report ends by the host's limit or by KVM's own error.

        .equ    RESULT, 0xf4
        .equ    LAPIC, 0xfee00000
        .equ    TIMER_VECTOR, 0x40
        .equ    KERNEL_CS, 0x08
        .equ    USER_BASE, 0x18        # SYSRET: SS is this + 8, CS this + 16 (AMD APM 3, SYSRET)

        .macro  gate vector handler
        lea     \handler(%rip), %rax
        lea     idt + 16 * \vector(%rip), %rdi
        call    set_gate
        .endm

        .text
        .code64
        .globl  _start
_start:
        lea     stack_top(%rip), %rsp
        # A speed test needs no more than a counter that the host reads.
        cmp     $0, %esi
        je      speed
        gate    3, on_breakpoint
        gate    6, on_invalid_opcode
        gate    13, on_protection
        gate    14, on_page_fault
        gate    TIMER_VECTOR, on_timer
        lidt    idt_pointer(%rip)
        cmp     $1, %esi
        je      breakpoint
        cmp     $2, %esi
        je      timer
        jmp     system_call

speed:  xor     %eax, %eax
1:      inc     %rax
        jmp     1b

breakpoint:
        int3
        # the handler set EBX
        cmp     $3, %ebx
        mov     $2, %eax
        jne     report
        mov     $1, %eax
        jmp     report

on_breakpoint:
        mov     $3, %ebx
        iretq

timer:  mov     $LAPIC, %edi
        movl    $0x1ff, 0xf0(%rdi)          # spurious vector, APIC on
        movl    $TIMER_VECTOR, 0x320(%rdi)  # LVT timer: one-shot
        movl    $0xb, 0x3e0(%rdi)           # divide by 1
        movl    $20000, 0x380(%rdi)         # initial count
        sti
1:      hlt
        jmp     1b

on_timer:
        mov     $LAPIC, %edi
        movl    $0, 0xb0(%rdi)              # end of interrupt
        mov     $1, %eax
        jmp     report

system_call:
        mov     $0xc0000080, %ecx           # EFER: SCE
        rdmsr
        or      $1, %eax
        wrmsr
        mov     $0xc0000081, %ecx           # STAR
        xor     %eax, %eax
        mov     $(USER_BASE << 16 | KERNEL_CS), %edx
        wrmsr
        mov     $0xc0000082, %ecx           # LSTAR
        lea     on_system_call(%rip), %rax
        xor     %edx, %edx
        wrmsr
        mov     $0xc0000084, %ecx           # SFMASK
        xor     %eax, %eax
        xor     %edx, %edx
        wrmsr
        lea     user(%rip), %rcx
        mov     $2, %r11d
        xor     %ebx, %ebx
        sysretq

user:   mov     %cs, %eax
        and     $3, %eax
        cmp     $3, %eax
        jne     2f
1:      inc     %ebx                        # the number of the call
        syscall
        jmp     1b
2:      mov     $0x80, %ebx                 # not in ring 3
        syscall

on_system_call:
        mov     %cs, %eax
        cmp     $KERNEL_CS, %eax
        mov     $3, %eax                    # in the kernel's code, but not in its segment
        jne     report
        cmp     $0x80, %ebx
        mov     $4, %eax
        je      report
        cmp     $2, %ebx                    # the second call shows that the first one returned
        mov     $1, %eax
        je      report
        sysretq

on_invalid_opcode:
        mov     $0x106, %eax
        jmp     report
on_protection:
        mov     $0x10d, %eax
        jmp     report
on_page_fault:
        mov     $0x10e, %eax
        jmp     report

report: mov     $RESULT, %edx
        out     %eax, %dx
        cli
1:      hlt
        jmp     1b

# A 64-bit interrupt gate at RDI for the handler at RAX (AMD APM 2, 4.8.4).
set_gate:
        mov     %ax, (%rdi)
        movw    $KERNEL_CS, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        shr     $16, %rax
        mov     %ax, 6(%rdi)
        shr     $16, %rax
        mov     %eax, 8(%rdi)
        movl    $0, 12(%rdi)
        ret

        .balign 16
        .globl  gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff          # 08 kernel code, 64-bit
        .quad   0x00cf93000000ffff          # 10 kernel data
        .quad   0x00cffb000000ffff          # 18 user code, 32-bit: SYSRET's base, never used
        .quad   0x00cff3000000ffff          # 20 user data
        .quad   0x00affb000000ffff          # 28 user code, 64-bit
gdt_end:

idt_pointer:
        .word   idt_end - idt - 1
        .quad   idt
        .balign 16
idt:    .fill   16 * (TIMER_VECTOR + 1)
idt_end:

# Identity map for both rings of the first 2 MiB and, for the kernel, of the local APIC: the host points CR3 here.
        .balign 4096
        .globl  page_tables
page_tables:
        .quad   pdpt + 7
        .fill   511, 8, 0
pdpt:   .quad   pd_low + 7
        .fill   2, 8, 0
        .quad   pd_high + 7
        .fill   508, 8, 0
pd_low: .quad   0x87                        # 2 MiB, user, writable
        .fill   511, 8, 0
pd_high:
        .fill   (LAPIC >> 21) & 511, 8, 0
        .quad   LAPIC + 0x9b                # 2 MiB, uncached, supervisor
        .fill   511 - ((LAPIC >> 21) & 511), 8, 0

        .fill   1024
        .balign 16
stack_top:
# where the host finds the tables: in the last 16 bytes
        .quad   gdt
        .quad   page_tables
