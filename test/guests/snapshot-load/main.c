// A guest whose memory and moments are worth a snapshot. Fills its working set, says `ready`, and does what is typed on
// COM1: `x` has it say x until something else is typed; `t` touches each page of the working set, checks it and says
// `touched`; `w` writes to each and says `written`; `q` ends the machine. Words of the command line:
//   touch=BYTES  of the working set; default 0
#include "cmdline.h"
#include "console.h"
#include "machine.h"
#include "start_info.h"

enum { PAGE = 4096 };

static uint8_t *set;
static uint64_t pages;
// what was written into each page, besides its number
static uint64_t stamp;

static volatile uint64_t *page(uint64_t index) { return (volatile uint64_t *)(set + index * PAGE); }

static void write_pages(void) {
  stamp++;
  for (uint64_t i = 0; i < pages; i++) *page(i) = stamp << 32 | i;
}

static void check_pages(void) {
  for (uint64_t i = 0; i < pages; i++)
    if (*page(i) != (stamp << 32 | i)) machine_fail("a page of the working set is not what it was");
}

_Noreturn void guest_main(const start_info *info);
_Noreturn void guest_main(const start_info *info) {
  const char *line = start_info_cmdline(info);
  set = (uint8_t *)(((uintptr_t)image_end + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
  pages = number_of(line, "touch", 0) / PAGE;
  if ((uintptr_t)set + pages * PAGE > start_info_memory_end(info)) machine_fail("touch= is more than there is");
  console_listen();
  write_pages();
  print("ready\n");
  bool says = false;
  for (;;) {
    int typed = console_typed();
    if (typed >= 0) says = typed == 'x';
    if (says) print("x");
    if (typed == 't') {
      check_pages();
      print("touched\n");
    }
    if (typed == 'w') {
      write_pages();
      print("written\n");
    }
    if (typed == 'q') machine_end(true);
    pause();
  }
}
