// Loads a virtio disk and prints how it did, a line for each workload on COM1. Words of the command line:
//   virtio_mmio.device=SIZE@ADDRESS:IRQ  where to look, as often as wanted; without any the disk is sought on PCI
//   disk=N           the disk to use, in the order found; default 0
//   run=OP:SIZE:DEPTH:MS   a workload, as often as wanted, in order; OP is randread, randwrite, read or write
//   verify=BYTES     before that, writes and reads back so much from the start of the disk
//   span=BYTES       the part of the disk that the workloads use, from its start; default all
//   stamped=1        each block of 4 KiB begins with its number plus 1, which reads check
//   warmup=MS        default 50
//   indirect=0 event_idx=0   do without that feature
//   queue=SIZE       descriptors, a power of two; default 256
//   segment=BYTES    largest data descriptor; default 1M
//   seed=N tsc_khz=N
#include "clock.h"
#include "cmdline.h"
#include "console.h"
#include "machine.h"
#include "start_info.h"
#include "workload.h"

enum { MAX_BUFFER = 1 << 20 };

static void parse_operation(const char **at, workload *load) {
  load->random = skip(at, "rand");
  if (skip(at, "read"))
    load->operation = DISK_READ;
  else if (skip(at, "write"))
    load->operation = DISK_WRITE;
  else
    machine_fail("run= knows randread, randwrite, read and write");
}

static uint64_t parse_field(const char **at) {
  if (!skip(at, ":")) machine_fail("run= is OP:SIZE:DEPTH:MS");
  return parse_number(at);
}

static workload parse_workload(const char *value, const char *line, const disk *d) {
  workload load = {
      .warm_up = number_of(line, "warmup", 50),
      .span = number_of(line, "span", d->capacity),
      .stamped = number_of(line, "stamped", 0),
      .seed = number_of(line, "seed", 1),
  };
  parse_operation(&value, &load);
  load.size = (uint32_t)parse_field(&value);
  load.depth = (uint16_t)parse_field(&value);
  load.duration = parse_field(&value);
  if (load.size == 0 || load.size % BLOCK || load.size > MAX_BUFFER) machine_fail("a request is 4K to 1M");
  if (load.depth == 0 || load.depth > REQUEST_LIMIT) machine_fail("the depth is 1 to 256");
  if (load.span > d->capacity || load.span < load.size) machine_fail("the span is not within the disk");
  return load;
}

static void start(disk *d, const start_info *info, uint16_t count, uint32_t buffer) {
  const char *line = (const char *)info->cmdline;
  disk_options options = {
      .features = (number_of(line, "indirect", 1) ? F_INDIRECT_DESC : 0) |
                  (number_of(line, "event_idx", 1) ? F_EVENT_IDX : 0),
      .queue_size = (uint16_t)number_of(line, "queue", 256),
      .segment = (uint32_t)number_of(line, "segment", MAX_BUFFER),
      .count = count,
      .buffer = buffer,
      .memory = (uintptr_t)image_end,
      .memory_end = start_info_memory_end(info),
  };
  uint16_t size = options.queue_size;
  if (size == 0 || size > QUEUE_LIMIT || size & (size - 1)) machine_fail("queue= is a power of two up to 1024");
  if (options.segment == 0 || options.segment % SECTOR) machine_fail("segment= is whole sectors");
  disk_start(d, &options);
}

_Noreturn void guest_main(const start_info *info);
_Noreturn void guest_main(const start_info *info) {
  static disk d;
  const char *line = start_info_cmdline(info);
  clock_init(number_of(line, "tsc_khz", 0));

  const char *at = line;
  unsigned index = (unsigned)number_of(line, "disk", 0);
  bool found = next_value(&at, "virtio_mmio.device") ? mmio_find(&d.device, line, DEVICE_BLOCK, index)
                                                      : pci_find(&d.device, DEVICE_BLOCK, index);
  if (!found) machine_fail("no virtio disk was found");
  start(&d, info, 1, BLOCK);
  print("disk transport=");
  print(d.device.via->name);
  print_field("capacity", d.capacity);
  print_field("queue", d.queue.size);
  print_field("indirect", d.indirect);
  print_field("event_idx", d.queue.event_idx);
  print_field("tsc_khz", clock_khz());
  print("\n");

  uint64_t verify = number_of(line, "verify", 0);
  if (verify) {
    if (verify < BLOCK || verify > d.capacity) machine_fail("verify= is not within the disk");
    uint16_t depth = d.indirect || d.queue.size >= 96 ? 32 : d.queue.size / 3;
    start(&d, info, depth, BLOCK);
    workload_verify(&d, verify, depth, number_of(line, "seed", 1));
  }
  at = line;
  const char *value;
  while ((value = next_value(&at, "run"))) {
    workload load = parse_workload(value, line, &d);
    start(&d, info, load.depth, load.size);
    workload_run(&d, &load);
  }
  virtio_reset(&d.device);
  print("end\n");
  machine_end(true);
}
