// virtio-mmio, version 2 (VIRTIO 1.2, 4.2).
#include "cmdline.h"
#include "machine.h"
#include "virtio.h"

enum {
  MAGIC = 0x000,
  VERSION = 0x004,
  DEVICE_ID = 0x008,
  DEVICE_FEATURES = 0x010,
  DEVICE_FEATURES_SELECT = 0x014,
  DRIVER_FEATURES = 0x020,
  DRIVER_FEATURES_SELECT = 0x024,
  QUEUE_SELECT = 0x030,
  QUEUE_LIMIT_REGISTER = 0x034,
  QUEUE_SIZE = 0x038,
  QUEUE_READY = 0x044,
  QUEUE_NOTIFY = 0x050,
  STATUS = 0x070,
  QUEUE_DESCRIPTORS = 0x080,
  QUEUE_DRIVER = 0x090,
  QUEUE_DEVICE = 0x0a0,
  CONFIG = 0x100,
};

static uint8_t status(device *d) { return (uint8_t)mmio_read32(d->registers + STATUS); }

static void set_status(device *d, uint8_t value) { mmio_write32(d->registers + STATUS, value); }

static uint64_t features(device *d) {
  uint64_t value = 0;
  for (uint32_t word = 0; word < 2; word++) {
    mmio_write32(d->registers + DEVICE_FEATURES_SELECT, word);
    value |= (uint64_t)mmio_read32(d->registers + DEVICE_FEATURES) << 32 * word;
  }
  return value;
}

static void accept(device *d, uint64_t value) {
  for (uint32_t word = 0; word < 2; word++) {
    mmio_write32(d->registers + DRIVER_FEATURES_SELECT, word);
    mmio_write32(d->registers + DRIVER_FEATURES, (uint32_t)(value >> 32 * word));
  }
}

static uint16_t queue_limit(device *d, uint16_t index) {
  mmio_write32(d->registers + QUEUE_SELECT, index);
  return (uint16_t)mmio_read32(d->registers + QUEUE_LIMIT_REGISTER);
}

static void write_address(device *d, uintptr_t at, const void *address) {
  mmio_write32(d->registers + at, (uint32_t)(uintptr_t)address);
  mmio_write32(d->registers + at + 4, (uint32_t)((uintptr_t)address >> 32));
}

static uintptr_t queue_enable(device *d, uint16_t size, const void *descriptors, const void *driver,
                              const void *used) {
  mmio_write32(d->registers + QUEUE_SIZE, size);
  write_address(d, QUEUE_DESCRIPTORS, descriptors);
  write_address(d, QUEUE_DRIVER, driver);
  write_address(d, QUEUE_DEVICE, used);
  mmio_write32(d->registers + QUEUE_READY, 1);
  return d->notify;
}

static const transport mmio = {"mmio", status, set_status, features, accept, queue_limit, queue_enable};

// `virtio_mmio.device=SIZE@ADDRESS[:IRQ]`, as Linux has it
bool mmio_find(device *d, const char *cmdline, unsigned kind, unsigned index) {
  const char *value;
  while ((value = next_value(&cmdline, "virtio_mmio.device"))) {
    parse_number(&value);
    if (!skip(&value, "@")) machine_fail("virtio_mmio.device= has no address");
    uintptr_t base = parse_number(&value);
    if (mmio_read32(base + MAGIC) != 0x74726976 || mmio_read32(base + VERSION) != 2) continue;
    if (mmio_read32(base + DEVICE_ID) != kind || index-- > 0) continue;
    *d = (device){
        .via = &mmio,
        .registers = base,
        .config = base + CONFIG,
        .notify = base + QUEUE_NOTIFY,
        .notify_wide = true,
    };
    return true;
  }
  return false;
}
