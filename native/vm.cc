#include "vm.h"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <system_error>

#include "arguments.h"
#include "error.h"
#include "kvm.h"
#include "kvm_abi.h"
#include "vcpu.h"
#include "vcpu_thread.h"

namespace tsvm {

namespace {

// KVM_MAX_IRQ_ROUTES of the kernel
constexpr size_t kMaxRoutes = 4096;
// Shadows are ordinary memory: PCI Express configuration space, the largest there is, takes this much.
constexpr uint64_t kMaxShadow = uint64_t{1} << 28;

struct VmState {
  const char* name;
  unsigned long get;
  const char* get_name;
  unsigned long set;
  const char* set_name;
  size_t size;
  // in struct kvm_irqchip the caller says which chip is meant
  bool chip;
};

constexpr VmState kStates[] = {
    {"clock", KVM_GET_CLOCK, "KVM_GET_CLOCK", KVM_SET_CLOCK, "KVM_SET_CLOCK", sizeof(kvm_clock_data), false},
    {"pit2", KVM_GET_PIT2, "KVM_GET_PIT2", KVM_SET_PIT2, "KVM_SET_PIT2", sizeof(kvm_pit_state2), false},
    {"irqchip", KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", sizeof(kvm_irqchip), true},
};

const VmState& FindState(const Napi::Value& name) {
  const std::string wanted = ToString(name, "state");
  for (const VmState& state : kStates) {
    if (wanted == state.name) return state;
  }
  throw Napi::RangeError::New(name.Env(), "there is no VM state called " + wanted);
}

// Modes come as one byte each, numbered as in bus.h.
template <typename Mode>
std::vector<Mode> ToModes(const Napi::Value& value, const char* name, uint64_t size, Mode highest) {
  const Bytes bytes = ToBytes(value, name);
  if (bytes.size != 1 && bytes.size != size) {
    throw Napi::RangeError::New(value.Env(), std::string(name) + " must have one mode, or one for each byte");
  }
  std::vector<Mode> modes;
  modes.reserve(bytes.size);
  for (size_t i = 0; i < bytes.size; i++) {
    if (bytes.data[i] > static_cast<uint8_t>(highest)) {
      throw Napi::RangeError::New(value.Env(), std::string(name) + " has an unknown mode");
    }
    modes.push_back(static_cast<Mode>(bytes.data[i]));
  }
  return modes;
}

Space ToSpace(const Napi::Value& value) {
  const std::string space = ToString(value, "space");
  if (space == "pio") return Space::kPio;
  if (space == "mmio") return Space::kMmio;
  if (space == "indexed") return Space::kIndexed;
  throw Napi::RangeError::New(value.Env(), "space must be pio, mmio or indexed");
}

// Of the bytes `from` to `from + length` in a region.
uint32_t ToPlace(const Napi::Object& options, const char* name, uint64_t length, const Region& region) {
  const uint32_t from = ToUint32(Property(options, name), name);
  if (length > region.size || from > region.size - length) {
    throw Napi::RangeError::New(options.Env(), std::string(name) + " is outside the region");
  }
  return from;
}

// Ports choose registers in the other spaces alone, so that no choice leads to another one.
std::unique_ptr<IndexWindow> ToWindow(const Napi::Object& options, const Region& region) {
  Napi::Env env = options.Env();
  auto window = std::make_unique<IndexWindow>();
  window->index_size = ToUint32(Property(options, "indexSize"), "indexSize", 4);
  window->data_size = ToUint32(Property(options, "dataSize"), "dataSize");
  window->index_offset = ToPlace(options, "indexOffset", window->index_size, region);
  window->data_offset = ToPlace(options, "dataOffset", window->data_size, region);
  window->space = ToSpace(Property(options, "space"));
  if (region.space != Space::kPio || window->space == Space::kPio) {
    throw Napi::RangeError::New(env, "a window leads from ports to another space");
  }
  window->base = ToUint(Property(options, "base"), "base");
  window->match_mask = ToUint32(Property(options, "matchMask"), "matchMask");
  window->match_value = ToUint32(Property(options, "matchValue"), "matchValue");
  const Bytes fields = ToBytes(Property(options, "fields"), "fields");
  if (fields.size % sizeof(IndexWindow::Field) != 0) throw Napi::RangeError::New(env, "fields must be pairs");
  window->fields.resize(fields.size / sizeof(IndexWindow::Field));
  if (fields.size > 0) std::memcpy(window->fields.data(), fields.data, fields.size);
  for (const auto& field : window->fields) {
    if (field.shift > 31) throw Napi::RangeError::New(env, "a field is moved by at most 31 bits");
  }
  return window;
}

// Memory that vCPU threads and JavaScript share, for as long as either needs it.
template <typename Item>
Napi::ArrayBuffer Share(Napi::Env env, const std::shared_ptr<std::vector<Item>>& items) {
  using Held = std::shared_ptr<std::vector<Item>>;
  return Napi::ArrayBuffer::New(
      env, items->data(), items->size() * sizeof(Item), [](Napi::Env, void*, Held* held) { delete held; },
      new Held(items));
}

bool NeedsShadow(const std::vector<ReadMode>& modes) {
  return std::any_of(modes.begin(), modes.end(), [](ReadMode mode) {
    return mode == ReadMode::kShadow || mode == ReadMode::kOrdered || mode == ReadMode::kConsume ||
           mode == ReadMode::kLeased;
  });
}

std::shared_ptr<VmCore> CreateCore(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int kvm = Kvm::FdOf(info[0]);
  const int run_size = Ioctl(env, kvm, KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE");
  Fd vm(Ioctl(env, kvm, KVM_CREATE_VM, "KVM_CREATE_VM"));
  Fd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) ThrowErrno(env, errno, "eventfd", "VM");
  return std::make_shared<VmCore>(std::move(vm), std::move(wake), static_cast<size_t>(run_size));
}

}  // namespace

void Vm::Define(Napi::Env env, Napi::Object exports) {
  exports.Set("Vm", DefineClass(env, "Vm",
                                {
                                    InstanceMethod("checkExtension", &Vm::CheckExtension),
                                    InstanceMethod("enableCapability", &Vm::EnableCapability),
                                    InstanceMethod("setup", &Vm::Setup),
                                    InstanceMethod("setMemory", &Vm::SetMemory),
                                    InstanceMethod("dirtyLog", &Vm::DirtyLog),
                                    InstanceMethod("irqfd", &Vm::Irqfd),
                                    InstanceMethod("ioeventfd", &Vm::Ioeventfd),
                                    InstanceMethod("irqLine", &Vm::IrqLine),
                                    InstanceMethod("setRouting", &Vm::SetRouting),
                                    InstanceMethod("signalMsi", &Vm::SignalMsi),
                                    InstanceMethod("getState", &Vm::GetState),
                                    InstanceMethod("setState", &Vm::SetState),
                                    InstanceMethod("addRegion", &Vm::AddRegion),
                                    InstanceMethod("removeRegion", &Vm::RemoveRegion),
                                    InstanceMethod("index", &Vm::Index),
                                    InstanceMethod("counter", &Vm::Counter),
                                    InstanceMethod("lease", &Vm::Lease),
                                    InstanceMethod("counters", &Vm::Counters),
                                    InstanceMethod("createVcpu", &Vm::CreateVcpu),
                                    InstanceMethod("postedBuffer", &Vm::PostedBuffer),
                                    InstanceMethod("setActive", &Vm::SetActive),
                                    InstanceMethod("close", &Vm::Close),
                                }));
}

Vm::Vm(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      core_(CreateCore(info)),
      reactor_(AddonData::Of(info.Env()).reactor),
      all_(AddonData::Of(info.Env()).vms),
      posted_(std::make_shared<std::vector<PostedAccess>>(Channel::kCapacity)) {
  reactor_->Add(info.Env(), core_->channel.wake_fd(), this);
  all_->insert(core_.get());
}

Vm::~Vm() { CloseCore(); }

void Vm::Close(const Napi::CallbackInfo&) { CloseCore(); }

void Vm::CloseCore() {
  if (!core_) return;
  all_->erase(core_.get());
  reactor_->Remove(core_->channel.wake_fd(), this);
  core_->Close();
  Activate(false);
}

int Vm::Open(Napi::Env env) const {
  if (core_->closed()) ThrowClosed(env, "VM");
  return core_->fd();
}

void Vm::Activate(bool active) {
  if (active == active_) return;
  active_ = active;
  if (active) {
    Ref();
    reactor_->Ref();
  } else {
    reactor_->Unref();
    Unref();
  }
}

void Vm::SetActive(const Napi::CallbackInfo& info) {
  Open(info.Env());
  Activate(ToBool(info[0], "active"));
}

void Vm::OnReadable(Napi::Env env) {
  // A callback may close the VM: the core has to last until this returns.
  const auto core = core_;
  const Napi::Object self = Value();
  core->channel.Acknowledge();
  if (self.IsEmpty()) return;
  // Answers often bring the vCPU's next access at once; a few rounds save the way through the loop. The limit lets
  // other handles have their turn.
  for (int round = 0; round < 16 && !core->closed(); round++) {
    Napi::HandleScope scope(env);
    Channel::Batch batch = core->channel.Take(posted_->data());
    if (batch.empty()) return;
    if (batch.posted > 0) {
      EmitCallback(env, self, "onPosted", {Napi::Number::New(env, static_cast<double>(batch.posted))});
      core->channel.PostedDone(batch.posted);
    }
    for (TrappedAccess* access : batch.traps) {
      if (core->closed()) return;
      const Napi::Value answer = EmitCallback(
          env, self, access->is_write ? "onTrapWrite" : "onTrapRead",
          {Napi::Number::New(env, access->region), Napi::Number::New(env, access->offset),
           Napi::Number::New(env, access->size), Napi::Number::New(env, access->value)});
      const bool number = !answer.IsEmpty() && answer.IsNumber();
      core->channel.Answer(access, number ? answer.As<Napi::Number>().Uint32Value() : UINT32_MAX);
    }
    for (const VcpuEvent& event : batch.events) {
      if (core->closed()) return;
      EmitCallback(env, self, "onVcpuEvent",
                   {Napi::Number::New(env, event.vcpu),
                    Napi::String::New(env, event.kind == VcpuEvent::kPaused ? "paused" : "exit"),
                    Napi::Number::New(env, event.reason), Napi::Number::New(env, event.error),
                    CopyToJs(env, event.detail.data(), event.detail.size())});
    }
  }
  if (!core->closed()) core->channel.Wake();
}

Napi::Value Vm::CheckExtension(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint32_t extension = ToUint32(info[0], "extension");
  return Napi::Number::New(env, Ioctl(env, Open(env), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", extension));
}

void Vm::EnableCapability(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  kvm_enable_cap cap{};
  cap.cap = ToUint32(info[0], "capability");
  for (size_t i = 1; i < info.Length() && i <= 4; i++) cap.args[i - 1] = ToUint(info[i], "argument");
  Ioctl(env, Open(env), KVM_ENABLE_CAP, "KVM_ENABLE_CAP", &cap);
}

// The fixed parts of a PC, in the order KVM wants them: all before the first vCPU.
void Vm::Setup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Open(env);
  const auto options = ToObject(info[0], "options");
  uint64_t identity = ToUint(Property(options, "identityMapAddress"), "identityMapAddress");
  Ioctl(env, fd, KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &identity);
  Ioctl(env, fd, KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR",
        static_cast<unsigned long>(ToUint(Property(options, "tssAddress"), "tssAddress")));
  if (ToBool(Property(options, "irqchip"), "irqchip")) {
    Ioctl(env, fd, KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP");
  }
  if (ToBool(Property(options, "pit"), "pit")) {
    kvm_pit_config config{};
    // The speaker port (0x61) is the PIT's gate too: KVM answers it, or reads would find an empty bus.
    config.flags = KVM_PIT_SPEAKER_DUMMY;
    Ioctl(env, fd, KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &config);
  }
}

void Vm::SetMemory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Open(env);
  const auto options = ToObject(info[0], "options");
  kvm_userspace_memory_region region{};
  region.slot = ToUint32(Property(options, "slot"), "slot", 0x7fff);
  region.guest_phys_addr = ToUint(Property(options, "address"), "address");
  region.memory_size = ToUint(Property(options, "size"), "size");
  std::shared_ptr<Mapping> mapping;
  if (region.memory_size > 0) {
    mapping = Memory::MappingOf(Property(options, "memory"));
    const uint64_t offset = ToUint(Property(options, "offset"), "offset");
    if (offset > mapping->size() || region.memory_size > mapping->size() - offset) {
      throw Napi::RangeError::New(env, "the slot ends after the memory");
    }
    region.userspace_addr = reinterpret_cast<uint64_t>(mapping->base()) + offset;
    if (ToBool(Property(options, "readOnly"), "readOnly")) region.flags |= KVM_MEM_READONLY;
    if (ToBool(Property(options, "logDirty"), "logDirty")) region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
  }
  Ioctl(env, fd, KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region);
  if (mapping) {
    core_->slots[region.slot] = {std::move(mapping), region.memory_size / 4096};
  } else {
    core_->slots.erase(region.slot);
  }
}

// One bit for each page of the slot that was written since the last call, in whole 64-bit words.
Napi::Value Vm::DirtyLog(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = Open(env);
  kvm_dirty_log log{};
  log.slot = ToUint32(info[0], "slot");
  const auto slot = core_->slots.find(log.slot);
  if (slot == core_->slots.end()) throw Napi::RangeError::New(env, "there is no such memory slot");
  auto bitmap = Napi::Uint8Array::New(env, (slot->second.pages + 63) / 64 * 8);
  log.dirty_bitmap = bitmap.Data();
  Ioctl(env, fd, KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", &log);
  return bitmap;
}

void Vm::Irqfd(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto options = ToObject(info[0], "options");
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(ToFd(Property(options, "fd"), "fd"));
  irqfd.gsi = ToUint32(Property(options, "gsi"), "gsi");
  if (options.Has("resampleFd")) {
    irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(ToFd(options.Get("resampleFd"), "resampleFd"));
  }
  if (options.Has("remove") && ToBool(options.Get("remove"), "remove")) irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  Ioctl(env, Open(env), KVM_IRQFD, "KVM_IRQFD", &irqfd);
}

void Vm::Ioeventfd(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto options = ToObject(info[0], "options");
  kvm_ioeventfd event{};
  event.fd = ToFd(Property(options, "fd"), "fd");
  event.addr = ToUint(Property(options, "address"), "address");
  event.len = ToUint32(Property(options, "size"), "size", 8);
  const Space space = ToSpace(Property(options, "space"));
  if (space == Space::kIndexed) throw Napi::RangeError::New(env, "KVM knows no indexed space");
  if (space == Space::kPio) event.flags |= KVM_IOEVENTFD_FLAG_PIO;
  if (options.Has("datamatch")) {
    event.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    event.datamatch = ToUint(options.Get("datamatch"), "datamatch");
  }
  if (options.Has("remove") && ToBool(options.Get("remove"), "remove")) event.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
  Ioctl(env, Open(env), KVM_IOEVENTFD, "KVM_IOEVENTFD", &event);
}

void Vm::IrqLine(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  kvm_irq_level line{};
  line.irq = ToUint32(info[0], "gsi");
  line.level = ToBool(info[1], "level") ? 1 : 0;
  Ioctl(env, Open(env), KVM_IRQ_LINE, "KVM_IRQ_LINE", &line);
}

// The whole table, as the bytes of struct kvm_irq_routing with its entries.
void Vm::SetRouting(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const Bytes bytes = ToBytes(info[0], "routing");
  const size_t entries = bytes.size < kCountedHeader ? 0 : (bytes.size - kCountedHeader) / sizeof(kvm_irq_routing_entry);
  if (entries == 0 || entries > kMaxRoutes || bytes.size != RoutingTable::SizeFor(entries)) {
    throw Napi::RangeError::New(env, "routing must be a struct kvm_irq_routing of 1 to 4096 entries");
  }
  RoutingTable table(entries);
  std::memcpy(table.data(), bytes.data, bytes.size);
  table.set_count(static_cast<uint32_t>(entries));
  Ioctl(env, Open(env), kSetGsiRouting, "KVM_SET_GSI_ROUTING", table.data());
}

// True where a vCPU took the interrupt, false where it was blocked or the guest named none that is there.
Napi::Value Vm::SignalMsi(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  kvm_msi msi{};
  msi.address_lo = ToUint32(info[0], "address");
  msi.address_hi = ToUint32(info[1], "address");
  msi.data = ToUint32(info[2], "data");
  const int delivered = ioctl(Open(env), KVM_SIGNAL_MSI, &msi);
  // A message to no processor is the guest's mistake; the kernel's answer to it, -1, arrives here as EPERM.
  if (delivered < 0 && errno != EPERM) ThrowErrno(env, errno, "ioctl", "KVM_SIGNAL_MSI");
  return Napi::Boolean::New(env, delivered > 0);
}

Napi::Value Vm::GetState(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const VmState& state = FindState(info[0]);
  auto bytes = Napi::Uint8Array::New(env, state.size);
  std::memset(bytes.Data(), 0, state.size);
  if (state.chip) reinterpret_cast<kvm_irqchip*>(bytes.Data())->chip_id = ToUint32(info[1], "chip", 2);
  Ioctl(env, Open(env), state.get, state.get_name, bytes.Data());
  return bytes;
}

void Vm::SetState(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const VmState& state = FindState(info[0]);
  const Bytes bytes = ToBytes(info[1], "bytes");
  if (bytes.size != state.size) {
    throw Napi::RangeError::New(env, std::string(state.name) + " has " + std::to_string(state.size) + " bytes");
  }
  Ioctl(env, Open(env), state.set, state.set_name, bytes.data);
}

// Returns {id, shadow, takes}: the region's number in callbacks, and what reads are served from where a mode does so.
Napi::Value Vm::AddRegion(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Open(env);
  const auto options = ToObject(info[0], "options");
  auto region = std::make_shared<Region>();
  region->id = next_region_;
  region->space = ToSpace(Property(options, "space"));
  region->base = ToUint(Property(options, "base"), "base");
  region->size = ToUint(Property(options, "size"), "size", uint64_t{1} << 32);
  if (region->size == 0) throw Napi::RangeError::New(env, "size must be above 0");
  if (region->space == Space::kPio && region->base + region->size > 0x10000) {
    throw Napi::RangeError::New(env, "port space ends at 0xffff");
  }
  region->reads = ToModes(Property(options, "reads"), "reads", region->size, ReadMode::kTrap);
  region->writes = ToModes(Property(options, "writes"), "writes", region->size, WriteMode::kTrap);
  region->counter_hz = ToUint(Property(options, "counterHz"), "counterHz", 10'000'000'000);
  region->counter_bits = ToUint32(Property(options, "counterBits"), "counterBits", 32);
  region->own_order = ToBool(Property(options, "ownOrder"), "ownOrder");
  region->clears = ToUint(Property(options, "clears"), "clears", region->size);
  const bool clears = std::count(region->writes.begin(), region->writes.end(), WriteMode::kClear) > 0;
  if (clears && (!NeedsShadow(region->reads) || region->clears % 4 != 0 || region->clears + 4 > region->size)) {
    throw Napi::RangeError::New(env, "what writes clear must be 32 aligned bits of the shadow");
  }
  const Napi::Value window = options.Get("window");
  if (!window.IsUndefined()) region->window = ToWindow(ToObject(window, "window"), *region);
  Napi::Object result = Napi::Object::New(env);
  const bool takes = std::count(region->reads.begin(), region->reads.end(), ReadMode::kTake) > 0;
  if ((takes || NeedsShadow(region->reads)) && region->size > kMaxShadow) {
    throw Napi::RangeError::New(env, "a region with a shadow has at most 256 MiB");
  }
  if (NeedsShadow(region->reads)) {
    region->shadow = std::make_shared<std::vector<uint8_t>>(region->size);
    result.Set("shadow", Share(env, region->shadow));
  }
  if (takes) {
    region->takes = std::make_shared<std::vector<uint16_t>>(region->size);
    result.Set("takes", Share(env, region->takes));
  }
  if (!core_->regions.Add(region)) ThrowErrno(env, EEXIST, "bus", "a region that overlaps another");
  result.Set("id", Napi::Number::New(env, next_region_++));
  return result;
}

void Vm::RemoveRegion(const Napi::CallbackInfo& info) {
  Open(info.Env());
  core_->regions.Remove(ToUint32(info[0], "id"));
}

std::shared_ptr<Region> Vm::RegionOf(const Napi::Value& id) const {
  Open(id.Env());
  auto region = core_->regions.ById(ToUint32(id, "id"));
  if (!region) throw Napi::RangeError::New(id.Env(), "there is no such region");
  return region;
}

// Gives the index register of a region's window, and sets it where there is a second argument.
Napi::Value Vm::Index(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  if (!region->window) throw Napi::RangeError::New(info.Env(), "the region has no window");
  auto& index = region->window->index;
  if (!info[1].IsUndefined()) index.store(ToUint32(info[1], "index"), std::memory_order_release);
  return Napi::Number::New(info.Env(), index.load(std::memory_order_acquire));
}

// Gives what counter reads show now, and lets them go on from the second argument where there is one.
Napi::Value Vm::Counter(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  if (!info[1].IsUndefined()) core_->SetCounter(*region, ToUint32(info[1], "value"));
  return Napi::Number::New(info.Env(), core_->Counter(*region));
}

// Lets leased reads be served from the shadow for so many microseconds from now on; 0 ends that.
void Vm::Lease(const Napi::CallbackInfo& info) {
  const auto region = RegionOf(info[0]);
  const uint32_t microseconds = ToUint32(info[1], "microseconds");
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t from = now.tv_sec * INT64_C(1'000'000'000) + now.tv_nsec;
  region->leased_until.store(microseconds == 0 ? 0 : from + int64_t{microseconds} * 1000, std::memory_order_release);
}

// Four numbers a region: id, reads, writes, and how many of both waited for JavaScript. The last row, with id
// 2^32 - 1, has the accesses that no region claimed.
Napi::Value Vm::Counters(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto regions = core_->regions.All();
  auto counters = Napi::Float64Array::New(env, 4 * (regions.size() + 1));
  size_t at = 0;
  for (const auto& region : regions) {
    counters[at++] = region->id;
    counters[at++] = static_cast<double>(region->read_count.load(std::memory_order_relaxed));
    counters[at++] = static_cast<double>(region->write_count.load(std::memory_order_relaxed));
    counters[at++] = static_cast<double>(region->wait_count.load(std::memory_order_relaxed));
  }
  counters[at++] = UINT32_MAX;
  counters[at++] = static_cast<double>(core_->unclaimed.load(std::memory_order_relaxed));
  counters[at++] = 0;
  counters[at++] = 0;
  return counters;
}

Napi::Value Vm::CreateVcpu(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const uint32_t index = ToUint32(info[0], "index");
  Fd fd(Ioctl(env, Open(env), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", index));
  void* run = mmap(nullptr, core_->run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (run == MAP_FAILED) ThrowErrno(env, errno, "mmap", "vCPU run structure");
  std::shared_ptr<VcpuThread> thread;
  try {
    thread =
        std::make_shared<VcpuThread>(core_.get(), index, std::move(fd), static_cast<kvm_run*>(run), core_->run_size());
  } catch (const std::system_error& error) {
    ThrowErrno(env, error.code().value(), "pthread_create", "vCPU thread");
  }
  core_->vcpus.push_back(thread);
  return Vcpu::Create(env, core_, std::move(thread));
}

// Where onPosted(count) finds its accesses.
Napi::Value Vm::PostedBuffer(const Napi::CallbackInfo& info) {
  return Share(info.Env(), posted_);
}

}  // namespace tsvm
