// virtio-pci, modern only (VIRTIO 1.2, 4.1), on bus 0 and by the configuration ports.
#include "machine.h"
#include "virtio.h"

enum {
  CONFIG_ADDRESS = 0xcf8,
  CONFIG_DATA = 0xcfc,
  // offsets in configuration space
  ID = 0x00,
  COMMAND = 0x04,
  HEADER_TYPE = 0x0c,
  BAR0 = 0x10,
  CAPABILITIES = 0x34,
  MEMORY_AND_MASTER = 6,
  VENDOR_VIRTIO = 0x1af4,
  MODERN_DEVICE = 0x1040,
  CAP_VENDOR = 0x09,
};

// kinds of virtio capability
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_DEVICE = 4 };

// common configuration (4.1.4.3)
enum {
  DEVICE_FEATURE_SELECT = 0,
  DEVICE_FEATURE = 4,
  DRIVER_FEATURE_SELECT = 8,
  DRIVER_FEATURE = 12,
  DEVICE_STATUS = 20,
  QUEUE_SELECT = 22,
  QUEUE_SIZE = 24,
  QUEUE_ENABLE = 28,
  QUEUE_NOTIFY_OFF = 30,
  QUEUE_DESCRIPTORS = 32,
  QUEUE_DRIVER = 40,
  QUEUE_DEVICE = 48,
};

// Where BARs without an address go: above all RAM, and below the chipset's own registers.
static uint64_t free_address = 0xc8000000;

static uint32_t config_read(unsigned function, unsigned offset) {
  out32(CONFIG_ADDRESS, 0x80000000u | function << 8 | (offset & 0xfc));
  return in32(CONFIG_DATA);
}

static void config_write(unsigned function, unsigned offset, uint32_t value) {
  out32(CONFIG_ADDRESS, 0x80000000u | function << 8 | (offset & 0xfc));
  out32(CONFIG_DATA, value);
}

static uint8_t config_read8(unsigned function, unsigned offset) {
  return (uint8_t)(config_read(function, offset) >> 8 * (offset & 3));
}

// Address of a memory BAR, assigned where it has none.
static uintptr_t bar_address(unsigned function, unsigned bar) {
  unsigned offset = BAR0 + 4 * bar;
  uint32_t low = config_read(function, offset);
  if (low & 1) machine_fail("a virtio structure is in a port BAR");
  bool wide = (low & 6) == 4;
  uint64_t address = low & ~15u;
  if (wide) address |= (uint64_t)config_read(function, offset + 4) << 32;
  if (address >> 32) machine_fail("a BAR is above 4 GiB");
  if (address) return address;
  config_write(function, offset, 0xffffffff);
  uint64_t size = ~(config_read(function, offset) & ~15u) + 1u;
  address = (free_address + size - 1) & ~(size - 1);
  free_address = address + size;
  config_write(function, offset, (uint32_t)address);
  if (wide) config_write(function, offset + 4, 0);
  return address;
}

static uint8_t status(device *d) { return mmio_read8(d->registers + DEVICE_STATUS); }

static void set_status(device *d, uint8_t value) { mmio_write8(d->registers + DEVICE_STATUS, value); }

static uint64_t features(device *d) {
  uint64_t value = 0;
  for (uint32_t word = 0; word < 2; word++) {
    mmio_write32(d->registers + DEVICE_FEATURE_SELECT, word);
    value |= (uint64_t)mmio_read32(d->registers + DEVICE_FEATURE) << 32 * word;
  }
  return value;
}

static void accept(device *d, uint64_t value) {
  for (uint32_t word = 0; word < 2; word++) {
    mmio_write32(d->registers + DRIVER_FEATURE_SELECT, word);
    mmio_write32(d->registers + DRIVER_FEATURE, (uint32_t)(value >> 32 * word));
  }
}

static uint16_t queue_limit(device *d, uint16_t index) {
  mmio_write16(d->registers + QUEUE_SELECT, index);
  return mmio_read16(d->registers + QUEUE_SIZE);
}

static void write_address(device *d, uintptr_t at, const void *address) {
  mmio_write32(d->registers + at, (uint32_t)(uintptr_t)address);
  mmio_write32(d->registers + at + 4, (uint32_t)((uintptr_t)address >> 32));
}

static uintptr_t queue_enable(device *d, uint16_t size, const void *descriptors, const void *driver,
                              const void *used) {
  mmio_write16(d->registers + QUEUE_SIZE, size);
  write_address(d, QUEUE_DESCRIPTORS, descriptors);
  write_address(d, QUEUE_DRIVER, driver);
  write_address(d, QUEUE_DEVICE, used);
  mmio_write16(d->registers + QUEUE_ENABLE, 1);
  return d->notify + mmio_read16(d->registers + QUEUE_NOTIFY_OFF) * d->notify_multiplier;
}

static const transport pci = {"pci", status, set_status, features, accept, queue_limit, queue_enable};

static device open_function(unsigned function) {
  device d = {.via = &pci};
  unsigned found = 0;
  for (unsigned at = config_read8(function, CAPABILITIES) & 0xfc, n = 0; at && n < 48; n++) {
    unsigned next = config_read8(function, at + 1) & 0xfc;
    if (config_read8(function, at) == CAP_VENDOR) {
      unsigned kind = config_read8(function, at + 3);
      unsigned bar = config_read8(function, at + 4);
      // The first of a kind is the device's favourite (4.1.4.2).
      if ((kind == CAP_COMMON || kind == CAP_NOTIFY || kind == CAP_DEVICE) && !(found & 1u << kind) && bar < 6) {
        found |= 1u << kind;
        uintptr_t where = bar_address(function, bar) + config_read(function, at + 8);
        if (kind == CAP_COMMON) d.registers = where;
        if (kind == CAP_DEVICE) d.config = where;
        if (kind == CAP_NOTIFY) {
          d.notify = where;
          d.notify_multiplier = config_read(function, at + 16);
        }
      }
    }
    at = next;
  }
  if (found != (1u << CAP_COMMON | 1u << CAP_NOTIFY | 1u << CAP_DEVICE))
    machine_fail("a virtio function lacks capabilities");
  config_write(function, COMMAND, (config_read(function, COMMAND) & 0xffff) | MEMORY_AND_MASTER);
  return d;
}

bool pci_find(device *d, unsigned kind, unsigned index) {
  for (unsigned slot = 0; slot < 32; slot++) {
    unsigned functions = 1;
    for (unsigned f = 0; f < functions; f++) {
      unsigned function = slot << 3 | f;
      uint32_t id = config_read(function, ID);
      if (id == 0xffffffff) continue;
      if (f == 0 && config_read(function, HEADER_TYPE) & 0x800000) functions = 8;
      if (id != (VENDOR_VIRTIO | (uint32_t)(MODERN_DEVICE + kind) << 16) || index-- > 0) continue;
      *d = open_function(function);
      return true;
    }
  }
  return false;
}
