// A virtio device behind one of the two transports, and its driver's side of a split queue.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
  STATUS_ACKNOWLEDGE = 1,
  STATUS_DRIVER = 2,
  STATUS_DRIVER_OK = 4,
  STATUS_FEATURES_OK = 8,
  STATUS_NEEDS_RESET = 64,
};

#define FEATURE(bit) (1ull << (bit))
#define F_INDIRECT_DESC FEATURE(28)
#define F_EVENT_IDX FEATURE(29)
#define F_VERSION_1 FEATURE(32)

enum { DEVICE_NET = 1, DEVICE_BLOCK = 2, QUEUE_LIMIT = 1024, QUEUES = 2 };

typedef struct {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
} descriptor;

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

typedef struct {
  uint16_t flags;
  uint16_t index;
  uint16_t ring[];
} available_ring;

typedef struct {
  uint16_t flags;
  uint16_t index;
  struct {
    uint32_t id;
    uint32_t length;
  } ring[];
} used_ring;

typedef struct device device;

// VIRTIO 1.2, 4 "Virtio Transport Options"
typedef struct {
  const char *name;
  uint8_t (*status)(device *);
  void (*set_status)(device *, uint8_t);
  uint64_t (*features)(device *);
  void (*accept)(device *, uint64_t features);
  // Selects a queue and returns its largest size.
  uint16_t (*queue_limit)(device *, uint16_t index);
  // The selected queue; returns where it is notified.
  uintptr_t (*queue_enable)(device *, uint16_t size, const void *descriptors, const void *driver,
                            const void *device_area);
} transport;

struct device {
  const transport *via;
  // the registers of virtio-mmio, or the common configuration of virtio-pci
  uintptr_t registers;
  // device configuration space
  uintptr_t config;
  // where queues are notified: all in one place over MMIO by 32 bits, each in its own over PCI by 16 bits
  uintptr_t notify;
  uint32_t notify_multiplier;
  bool notify_wide;
};

// Finds the device of a kind, number `index` (from 0), at the addresses that `virtio_mmio.device=` gives.
bool mmio_find(device *, const char *cmdline, unsigned kind, unsigned index);
// The same on PCI bus 0. BARs that have no address get one.
bool pci_find(device *, unsigned kind, unsigned index);

typedef struct {
  device *device;
  uint16_t index;
  uint16_t size;
  uintptr_t notify;
  bool event_idx;
  descriptor *descriptors;
  volatile available_ring *available;
  volatile used_ring *used;
  // the next available index, and that at the last notification
  uint16_t next;
  uint16_t notified;
  // used entries taken so far
  uint16_t seen;
  uint64_t notifications;
} queue;

// Resets the device, negotiates VERSION_1 and those of `wanted` it offers, sets up its first `count` queues with at most
// `size` descriptors each and without interrupts. Returns the features agreed on.
uint64_t virtio_start(device *, queue *, uint16_t count, uint64_t wanted, uint16_t size);
void virtio_reset(device *);

// Puts a chain in line; queue_publish shows all of them to the device at once and notifies it if it wants that.
void queue_add(queue *, uint16_t head);
void queue_publish(queue *);
// Whether the device has used a chain that was not taken yet; if so, its head.
bool queue_take(queue *, uint16_t *head, uint32_t *length);
