// A filter of system calls (seccomp(2)) for a process that runs a VM.
#pragma once

namespace tsvm {

// Holds for all threads and for ever. Returns 0 or an errno value.
int FilterSystemCalls();

}  // namespace tsvm
