#include "virtio.h"

#include "machine.h"

static uint8_t rings[QUEUES][3][16 * QUEUE_LIMIT + 4096] __attribute__((aligned(4096)));

enum { NO_NOTIFY = 1, NO_INTERRUPT = 1 };

void virtio_reset(device *d) {
  d->via->set_status(d, 0);
  while (d->via->status(d)) pause();
}

static void queue_setup(device *d, queue *q, uint16_t index, uint16_t size, bool event_idx) {
  uint16_t limit = d->via->queue_limit(d, index);
  if (limit == 0) machine_fail("the device lacks a queue");
  if (size > limit) size = limit;
  uint8_t(*areas)[sizeof rings[0][0]] = rings[index];
  *q = (queue){
      .device = d,
      .index = index,
      .size = size,
      .event_idx = event_idx,
      .descriptors = (descriptor *)areas[0],
      .available = (volatile available_ring *)areas[1],
      .used = (volatile used_ring *)areas[2],
  };
  q->available->flags = NO_INTERRUPT;
  // used_event: an index that is never reached, see queue_take
  q->available->ring[size] = 0x8000;
  q->notify = d->via->queue_enable(d, size, areas[0], areas[1], areas[2]);
}

// VIRTIO 1.2, 3.1.1 "Driver Requirements: Device Initialization"
uint64_t virtio_start(device *d, queue *q, uint16_t count, uint64_t wanted, uint16_t size) {
  virtio_reset(d);
  d->via->set_status(d, STATUS_ACKNOWLEDGE);
  d->via->set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
  uint64_t features = d->via->features(d) & (wanted | F_VERSION_1);
  if (!(features & F_VERSION_1)) machine_fail("the device is a legacy one");
  d->via->accept(d, features);
  d->via->set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
  if (!(d->via->status(d) & STATUS_FEATURES_OK)) machine_fail("the device refuses the features it offers");

  memset(rings, 0, sizeof rings);
  for (uint16_t i = 0; i < count; i++) queue_setup(d, &q[i], i, size, features & F_EVENT_IDX);
  d->via->set_status(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
  return features;
}

void queue_add(queue *q, uint16_t head) { q->available->ring[q->next++ % q->size] = head; }

void queue_publish(queue *q) {
  uint16_t old = q->notified;
  uint16_t now = q->next;
  if (now == old) return;
  ordered();
  q->available->index = now;
  fence();
  bool wanted;
  if (q->event_idx) {
    // avail_event is behind the used ring (2.7.10).
    uint16_t event = *(volatile uint16_t *)&q->used->ring[q->size];
    wanted = (uint16_t)(now - event - 1) < (uint16_t)(now - old);
  } else {
    wanted = !(q->used->flags & NO_NOTIFY);
  }
  q->notified = now;
  if (!wanted) return;
  q->notifications++;
  if (q->device->notify_wide)
    mmio_write32(q->notify, q->index);
  else
    mmio_write16(q->notify, q->index);
}

bool queue_take(queue *q, uint16_t *head, uint32_t *length) {
  if (q->used->index == q->seen) return false;
  ordered();
  uint16_t at = q->seen % q->size;
  uint32_t id = q->used->ring[at].id;
  if (id >= q->size) machine_fail("the device used a chain that does not exist");
  *head = (uint16_t)id;
  *length = q->used->ring[at].length;
  q->seen++;
  // Half the index space away, so no interrupt is asked for.
  if ((q->seen & 0xfff) == 0) q->available->ring[q->size] = (uint16_t)(q->seen + 0x8000);
  return true;
}
