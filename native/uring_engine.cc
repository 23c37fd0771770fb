// io_uring by its system calls: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>

#include "fd.h"
#include "io_engine.h"

// Newer than the headers that some distributions build with.
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif
#ifndef IORING_SETUP_R_DISABLED
#define IORING_SETUP_R_DISABLED (1U << 6)
#endif
#ifndef IORING_ASYNC_CANCEL_ANY
#define IORING_ASYNC_CANCEL_ALL (1U << 0)
#define IORING_ASYNC_CANCEL_ANY (1U << 2)
#endif

namespace tsvm {

namespace {

// Best first. With COOP_TASKRUN (5.19) completions are finished when this thread enters the kernel anyway, and not by
// an interruption of it; TASKRUN_FLAG has the ring tell that there are some. DEFER_TASKRUN would finish them in a
// batch, but epoll hears nothing of a ring that has deferred ones only.
constexpr unsigned kSetups[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    0,
};
// A single mapping (5.4), no completion is ever lost (5.5), and iovecs are copied before io_uring_enter returns (5.5).
constexpr unsigned kNeeds = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
constexpr uint8_t kOperations[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE,
                                   IORING_OP_ASYNC_CANCEL};

constexpr uint64_t kCancelling = UINT64_MAX;

int Setup(unsigned entries, io_uring_params* params) {
  return static_cast<int>(syscall(SYS_io_uring_setup, entries, params));
}

// IORING_REGISTER_RESTRICTIONS and IORING_REGISTER_ENABLE_RINGS of Linux 5.10, and what the first one takes.
constexpr unsigned kRegisterRestrictions = 11;
constexpr unsigned kEnableRings = 12;
constexpr uint16_t kAllowOperation = 1;
constexpr uint16_t kAllowFlags = 2;

struct Restriction {
  uint16_t kind;
  uint8_t value;
  uint8_t reserved[13];
};

bool HasOperations(int ring) {
  constexpr unsigned kProbed = 64;
  alignas(io_uring_probe) uint8_t bytes[sizeof(io_uring_probe) + kProbed * sizeof(io_uring_probe_op)] = {};
  if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PROBE, bytes, kProbed) < 0) return false;
  const auto* probe = reinterpret_cast<const io_uring_probe*>(bytes);
  const auto* operations = reinterpret_cast<const io_uring_probe_op*>(bytes + sizeof(io_uring_probe));
  for (const uint8_t operation : kOperations) {
    if (operation >= probe->ops_len || (operations[operation].flags & IO_URING_OP_SUPPORTED) == 0) return false;
  }
  return true;
}

struct Ring {
  Fd fd;
  io_uring_params params{};
};

// A ring by the best setup that the kernel knows; errno tells why there is none.
Ring Make(unsigned entries, unsigned more) {
  Ring ring;
  for (const unsigned flags : kSetups) {
    ring.params = {};
    ring.params.flags = flags | more;
    ring.fd = Fd(Setup(entries, &ring.params));
    if (ring.fd || errno != EINVAL) break;
  }
  return ring;
}

bool IsGood(const Ring& ring) { return (ring.params.features & kNeeds) == kNeeds && HasOperations(ring.fd.get()); }

// Whoever has the ring can have it carry out these operations from here on, and nothing else.
bool Restrict(int ring) {
  Restriction restrictions[sizeof kOperations + 1] = {};
  for (size_t i = 0; i < sizeof kOperations; i++) restrictions[i] = {kAllowOperation, kOperations[i], {}};
  restrictions[sizeof kOperations] = {kAllowFlags, IOSQE_ASYNC, {}};
  return syscall(SYS_io_uring_register, ring, kRegisterRestrictions, restrictions, sizeof kOperations + 1) == 0 &&
         syscall(SYS_io_uring_register, ring, kEnableRings, nullptr, 0) == 0;
}

struct Reserved {
  uint32_t entries;
  Ring ring;
};

std::mutex g_reserved_mutex;
std::vector<Reserved> g_reserved;

Ring TakeReserved(uint32_t entries) {
  const std::lock_guard<std::mutex> lock(g_reserved_mutex);
  const auto found = std::find_if(g_reserved.begin(), g_reserved.end(),
                                  [&](const Reserved& reserved) { return reserved.entries == entries; });
  if (found == g_reserved.end()) return {};
  Ring ring = std::move(found->ring);
  g_reserved.erase(found);
  return ring;
}

class RingMapping {
 public:
  RingMapping() = default;
  RingMapping(int ring, size_t size, off_t offset) : size_(size) {
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);
    if (base == MAP_FAILED) return;
    base_ = static_cast<uint8_t*>(base);
    // A child that used it would be a second issuer.
    madvise(base, size, MADV_DONTFORK);
  }
  ~RingMapping() {
    if (base_ != nullptr) munmap(base_, size_);
  }
  RingMapping(const RingMapping&) = delete;
  RingMapping& operator=(const RingMapping&) = delete;

  explicit operator bool() const { return base_ != nullptr; }
  template <typename T>
  T* At(uint32_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  uint8_t* base_ = nullptr;
  size_t size_ = 0;
};

size_t RingSize(const io_uring_params& params) {
  return std::max<size_t>(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                          params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
}

class UringEngine final : public IoEngine {
 public:
  UringEngine(IoTable* requests, Fd ring, const io_uring_params& params);
  ~UringEngine() override { Shutdown(); }

  bool mapped() const { return rings_ && entries_; }
  const char* name() const override { return "io_uring"; }
  int wake_fd() const override { return ring_.get(); }
  void Start(uint32_t slot) override;
  void Flush() override;
  void Reap(std::vector<uint32_t>* over) override;
  void Wait() override;
  void Shutdown() override;

 private:
  int Enter(unsigned submit, unsigned wait, unsigned flags);
  io_uring_sqe* Next();
  void Collect();

  IoTable& requests_;
  Fd ring_;
  RingMapping rings_;
  RingMapping entries_;
  unsigned sq_mask_, cq_mask_;
  uint32_t *sq_tail_, *sq_flags_, *cq_head_, *cq_tail_;
  io_uring_sqe* sqes_;
  io_uring_cqe* cqes_;
  // the kernel sees it from Flush() on
  uint32_t tail_ = 0;
  uint32_t submitted_ = 0;
  // requests that the kernel has; those to be entered are among them
  size_t in_flight_ = 0;
  bool ending_ = false;
  std::vector<uint32_t> over_;
};

UringEngine::UringEngine(IoTable* requests, Fd ring, const io_uring_params& params)
    : requests_(*requests),
      ring_(std::move(ring)),
      rings_(ring_.get(), RingSize(params), IORING_OFF_SQ_RING),
      entries_(ring_.get(), params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES),
      sq_mask_(params.sq_entries - 1),
      cq_mask_(params.cq_entries - 1) {
  if (!mapped()) return;
  sq_tail_ = rings_.At<uint32_t>(params.sq_off.tail);
  sq_flags_ = rings_.At<uint32_t>(params.sq_off.flags);
  cq_head_ = rings_.At<uint32_t>(params.cq_off.head);
  cq_tail_ = rings_.At<uint32_t>(params.cq_off.tail);
  cqes_ = rings_.At<io_uring_cqe>(params.cq_off.cqes);
  sqes_ = entries_.At<io_uring_sqe>(0);
  // Entries are used in their order: the array between ring and entries never changes.
  auto* array = rings_.At<uint32_t>(params.sq_off.array);
  for (uint32_t i = 0; i < params.sq_entries; i++) array[i] = i;
  over_.reserve(requests_.size());
}

int UringEngine::Enter(unsigned submit, unsigned wait, unsigned flags) {
  return static_cast<int>(syscall(SYS_io_uring_enter, ring_.get(), submit, wait, flags, nullptr, 0));
}

// There is room: an entry for each slot, and Flush() leaves none behind.
io_uring_sqe* UringEngine::Next() {
  io_uring_sqe* sqe = &sqes_[tail_++ & sq_mask_];
  std::memset(sqe, 0, sizeof *sqe);
  return sqe;
}

void UringEngine::Start(uint32_t slot) {
  IoRequest& request = requests_[slot];
  io_uring_sqe* sqe = Next();
  sqe->fd = request.fd;
  sqe->user_data = slot;
  sqe->off = request.position();
  switch (request.operation) {
    case IoOperation::kRead:
    case IoOperation::kWrite:
    case IoOperation::kAppend:
      sqe->opcode = request.operation == IoOperation::kRead ? IORING_OP_READV : IORING_OP_WRITEV;
      sqe->addr = reinterpret_cast<uint64_t>(request.next());
      sqe->len = request.next_count();
      if (request.operation == IoOperation::kAppend) sqe->rw_flags = RWF_APPEND;
      if (request.must_wait()) sqe->flags = IOSQE_ASYNC;
      break;
    case IoOperation::kSync:
      sqe->opcode = IORING_OP_FSYNC;
      sqe->fsync_flags = IORING_FSYNC_DATASYNC;
      sqe->off = 0;
      break;
    default:
      sqe->opcode = IORING_OP_FALLOCATE;
      sqe->addr = request.length;
      sqe->len = static_cast<uint32_t>(request.mode());
  }
  in_flight_++;
}

void UringEngine::Flush() {
  int refused = 0;
  while (tail_ != submitted_) {
    __atomic_store_n(sq_tail_, tail_, __ATOMIC_RELEASE);
    const int taken = Enter(tail_ - submitted_, 0, 0);
    if (taken > 0) {
      submitted_ += static_cast<uint32_t>(taken);
      refused = 0;
      continue;
    }
    if (taken < 0 && errno == EINTR) continue;
    // Out of memory, or too much is to be reaped: both may pass.
    Collect();
    if (taken < 0 && (errno == EAGAIN || errno == EBUSY) && refused++ < 100) {
      const timespec moment{0, 100'000};
      nanosleep(&moment, nullptr);
      continue;
    }
    const int error = taken < 0 ? errno : EIO;
    // Taken back: the kernel has not seen these.
    for (uint32_t i = submitted_; i != tail_; i++) {
      const uint64_t slot = sqes_[i & sq_mask_].user_data;
      if (slot == kCancelling) continue;
      requests_[slot].Fail(error);
      over_.push_back(static_cast<uint32_t>(slot));
      in_flight_--;
    }
    tail_ = submitted_;
    __atomic_store_n(sq_tail_, tail_, __ATOMIC_RELEASE);
  }
}

// Takes what the kernel has finished out of its ring, and starts what is not over yet again.
void UringEngine::Collect() {
  uint32_t head = *cq_head_;
  const uint32_t tail = __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE);
  if (head == tail) return;
  for (; head != tail; head++) {
    const io_uring_cqe& cqe = cqes_[head & cq_mask_];
    if (cqe.user_data == kCancelling) continue;
    const auto slot = static_cast<uint32_t>(cqe.user_data);
    IoRequest& request = requests_[slot];
    in_flight_--;
    if (request.Advance(cqe.res)) {
      over_.push_back(slot);
    } else if (ending_) {
      request.Fail(ECANCELED);
      over_.push_back(slot);
    } else {
      Start(slot);
    }
  }
  __atomic_store_n(cq_head_, head, __ATOMIC_RELEASE);
}

void UringEngine::Reap(std::vector<uint32_t>* over) {
  if (__atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) == *cq_head_ &&
      (__atomic_load_n(sq_flags_, __ATOMIC_RELAXED) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
    Enter(0, 0, IORING_ENTER_GETEVENTS);
  }
  // What goes on may complete at once, and be short again. Each round brings a request nearer to its end.
  do {
    Collect();
    Flush();
  } while (__atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) != *cq_head_);
  over->insert(over->end(), over_.begin(), over_.end());
  over_.clear();
}

void UringEngine::Wait() {
  if (!over_.empty()) return;
  // EINTR: the caller looks and comes again.
  Enter(0, 1, IORING_ENTER_GETEVENTS);
}

void UringEngine::Shutdown() {
  if (!mapped()) return;
  Flush();
  ending_ = true;
  if (in_flight_ == 0) return;
  // What has not begun need not begin. Kernels before 5.19 know no way to say that, and finish it.
  io_uring_sqe* sqe = Next();
  sqe->opcode = IORING_OP_ASYNC_CANCEL;
  sqe->fd = -1;
  sqe->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
  sqe->user_data = kCancelling;
  Flush();
  for (Collect(); in_flight_ > 0; Collect()) {
    if (Enter(0, 1, IORING_ENTER_GETEVENTS) < 0 && errno != EINTR) {
      // Whatever that is: memory that the kernel still writes to must not go.
      const timespec moment{0, 1'000'000};
      nanosleep(&moment, nullptr);
    }
  }
}

}  // namespace

std::unique_ptr<IoEngine> CreateUringEngine(IoTable* requests, int* error, const char** request) {
  const auto entries = static_cast<uint32_t>(requests->size());
  Ring ring = TakeReserved(entries);
  if (!ring.fd) {
    ring = Make(entries, 0);
    *request = "io_uring_setup";
    if (!ring.fd) {
      *error = errno;
      return nullptr;
    }
    if (!IsGood(ring)) {
      *error = ENOSYS;
      *request = "io_uring_register";
      return nullptr;
    }
  }
  auto engine = std::make_unique<UringEngine>(requests, std::move(ring.fd), ring.params);
  if (!engine->mapped()) {
    *error = errno;
    *request = "mmap";
    return nullptr;
  }
  return engine;
}

uint32_t ReserveRings(uint32_t count, uint32_t entries) {
  const std::lock_guard<std::mutex> lock(g_reserved_mutex);
  for (uint32_t made = 0; made < count; made++) {
    Ring ring = Make(entries, IORING_SETUP_R_DISABLED);
    if (!ring.fd || !IsGood(ring) || !Restrict(ring.fd.get())) return made;
    g_reserved.push_back({entries, std::move(ring)});
  }
  return count;
}

}  // namespace tsvm
