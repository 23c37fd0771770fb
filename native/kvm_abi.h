// Kernel structures that end in an array of entries. In C++ the kernel's own declaration of such an array
// (__DECLARE_FLEX_ARRAY) starts with an empty struct that takes room it has not in C: neither sizeof nor the array
// member can be used, and the request numbers, which hold the size, come out wrong. What is right is part of the ABI
// and stands here.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tsvm {

// struct kvm_msrs, kvm_cpuid2, kvm_irq_routing: the count and one more 32-bit word
constexpr size_t kCountedHeader = 8;
// struct kvm_msr_list: the count alone
constexpr size_t kMsrListHeader = 4;

constexpr size_t kXsaveSize = 4096;

constexpr unsigned long Request(unsigned long direction, unsigned number, size_t size) {
  return _IOC(direction, KVMIO, number, size);
}

constexpr unsigned long kGetMsrIndexList = Request(_IOC_READ | _IOC_WRITE, 0x02, kMsrListHeader);
constexpr unsigned long kGetSupportedCpuid = Request(_IOC_READ | _IOC_WRITE, 0x05, kCountedHeader);
constexpr unsigned long kSetGsiRouting = Request(_IOC_WRITE, 0x6a, kCountedHeader);
constexpr unsigned long kGetMsrs = Request(_IOC_READ | _IOC_WRITE, 0x88, kCountedHeader);
constexpr unsigned long kSetMsrs = Request(_IOC_WRITE, 0x89, kCountedHeader);
constexpr unsigned long kSetCpuid2 = Request(_IOC_WRITE, 0x90, kCountedHeader);
constexpr unsigned long kGetCpuid2 = Request(_IOC_READ | _IOC_WRITE, 0x91, kCountedHeader);
constexpr unsigned long kGetXsave = Request(_IOC_READ, 0xa4, kXsaveSize);
constexpr unsigned long kSetXsave = Request(_IOC_WRITE, 0xa5, kXsaveSize);
constexpr unsigned long kGetXsave2 = Request(_IOC_READ, 0xcf, kXsaveSize);

static_assert(sizeof(kvm_msr_entry) == 16 && sizeof(kvm_cpuid_entry2) == 40 && sizeof(kvm_irq_routing_entry) == 48,
              "the entries' sizes are part of KVM's ABI");

// A zeroed header with room for entries behind it, aligned for the kernel.
template <typename Entry, size_t kHeader = kCountedHeader>
class Counted {
 public:
  explicit Counted(size_t entries) : words_((SizeFor(entries) + 7) / 8) { set_count(static_cast<uint32_t>(entries)); }

  static constexpr size_t SizeFor(size_t entries) { return kHeader + entries * sizeof(Entry); }
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words_.data()); }
  uint32_t count() { return *reinterpret_cast<uint32_t*>(data()); }
  void set_count(uint32_t count) { *reinterpret_cast<uint32_t*>(data()) = count; }
  Entry* entries() { return reinterpret_cast<Entry*>(data() + kHeader); }

 private:
  std::vector<uint64_t> words_;
};

using MsrList = Counted<kvm_msr_entry>;
using CpuidList = Counted<kvm_cpuid_entry2>;
using RoutingTable = Counted<kvm_irq_routing_entry>;
using MsrIndexList = Counted<uint32_t, kMsrListHeader>;

}  // namespace tsvm
