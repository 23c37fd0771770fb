#include "vm.h"

#include <cerrno>
#include <cstring>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

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

}  // namespace tsvm
